"""32 clients on 32 distinct adapters: Lodge beside llama-server, the same requests, rounds in turn.

Usage: adapters_against.py LODGE LLAMA_SERVER MODEL.gguf ADAPTERS [CLIENTS] [REQUESTS] [ROUNDS]
ADAPTERS holds a0 .. as PEFT directories and a0.gguf .. (make_adapters.py --gguf). Each client has one adapter and asks for
64 tokens after a prompt of 64, whole replies, end of text ignored; Lodge by `model`, llama-server by `lora`. Prints tokens/s
and the p95 of a reply's time for each round, and the ratios of the medians."""
import http.client
import json
import random
import statistics
import subprocess
import sys
import threading
import time

PORTS = {"lodge": 8181, "llama": 8182}
OUT = 64


def ask(port, path, body):
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    c.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    r = json.loads(c.getresponse().read())
    c.close()
    return r


def lodge(i, ids):
    r = ask(PORTS["lodge"], "/v1/completions",
            {"model": f"a{i}", "prompt": ids, "max_tokens": OUT, "temperature": 0, "ignore_eos": True})
    return r["usage"]["completion_tokens"]


def llama(i, ids):
    r = ask(PORTS["llama"], "/completion", {"prompt": ids, "n_predict": OUT, "temperature": 0, "ignore_eos": True,
                                            "cache_prompt": False, "lora": [{"id": i, "scale": 1.0}]})
    return r["tokens_predicted"]


def one_round(send, clients, requests, seed):
    times, tokens, lock = [], [0], threading.Lock()

    def client(i):
        rng = random.Random(seed * 1000 + i)
        for _ in range(requests):
            ids = [rng.randrange(100, 30000) for _ in range(64)]
            begin = time.perf_counter()
            n = send(i, ids)
            with lock:
                times.append(time.perf_counter() - begin)
                tokens[0] += n

    begin = time.perf_counter()
    threads = [threading.Thread(target=client, args=(i,)) for i in range(clients)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    times.sort()
    return tokens[0] / (time.perf_counter() - begin), times[int(len(times) * 0.95)]


def wait(port, path):
    for _ in range(600):
        try:
            c = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            c.request("GET", path)
            if c.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.2)
    sys.exit(f"port {port} does not answer")


def main(lodge_path, llama_path, model, adapters, clients=32, requests=3, rounds=3):
    clients, requests, rounds = int(clients), int(requests), int(rounds)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    servers = [subprocess.Popen([lodge_path, "serve", model, "--port", str(PORTS["lodge"]), "--adapter-dir", adapters,
                                 "--pool-bytes", "2G", "--max-num-seqs", str(clients), "--no-prefix-cache"], **quiet)]
    loras = ["--lora", ",".join(f"{adapters}/a{i}.gguf" for i in range(clients))]
    servers.append(subprocess.Popen([llama_path, "-m", model, "--port", str(PORTS["llama"]), "-t", "2", "-tb", "2", "-fa", "on", "-np",
                                     str(clients), "-c", str(clients * 256), "-b", "512", "-ub", "512", "--no-kv-unified",
                                     "--cache-ram", "0", "--no-webui", "--no-repack", "--lora-init-without-apply", *loras], **quiet))
    try:
        wait(PORTS["lodge"], "/readyz")
        wait(PORTS["llama"], "/health")
        for i in range(clients):
            lodge(i, [1, 2, 3])
        got = {"lodge": [], "llama": []}
        for k in range(rounds):
            for name, send in (("lodge", lodge), ("llama", llama)):
                got[name].append(one_round(send, clients, requests, k))
                print(f"round {k} {name:6} {got[name][-1][0]:8.1f} tokens/s   p95 {got[name][-1][1]:7.2f} s", flush=True)
        rate, p95 = ({n: statistics.median(x[j] for x in got[n]) for n in got} for j in (0, 1))
        print(f"tokens/s {rate['lodge'] / rate['llama']:.1f}x, p95 {p95['lodge'] / p95['llama']:.3f} of llama-server's")
    finally:
        for s in servers:
            s.terminate()


if __name__ == "__main__":
    if len(sys.argv) < 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
