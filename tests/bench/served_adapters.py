"""How the number of adapters that clients name changes what a server does.

Usage: served_adapters.py LODGE LODGECTL MODEL ADAPTERS [--numbers 0,1,20,100,0] [--dist power:1] [--rate 0 --cv 4] [--rounds 1]
                          [--skip 0] [--requests 96] [--len 64] [--touch 0] [--serve '--pool-bytes 3G ...']
ADAPTERS holds a0, a1, .. (make_adapters.py). One server; `lodgectl bench` names the first N of them, drawn by --dist: in a closed loop
of 32 clients, or with --rate in an open one whose gaps have the deviation --cv (1: Poisson). Prompts and replies of --len tokens, 0.8 up
and down. 0 adapters: the base alone, also at the end, as machines change by the minute. --touch N: each of the first N is named once
before, so that what the host cache can hold is there. The medians of the rounds, the first --skip of which do not count, and with two
numbers the rounds' ratios."""
import argparse
import concurrent.futures
import json
import statistics
import subprocess
import threading
import urllib.request

from streams import free_port


def bench(a, url, n, seed):
    names = ["--models", "a{0..%d}" % (n - 1), "--model-dist", a.dist] if n > 1 else ["--model", "a0"] if n else []
    load = ["--request-rate", str(a.rate), "--cv", str(a.cv)] if a.rate else ["--concurrency", "32"]
    p = subprocess.run([a.lodgectl, "bench", url, *names, *load, "--warmup", "32", "--num-prompts", str(a.requests), "--random-input-len",
                        str(a.len), "--random-output-len", str(a.len), "--range-ratio", "0.8", "--seed", str(seed), "--json"],
                       capture_output=True, text=True)
    if not p.stdout:
        raise SystemExit(p.stderr)
    return json.loads(p.stdout)


def touch(url, i):
    body = json.dumps({"model": f"a{i}", "prompt": "x", "max_tokens": 1}).encode()
    urllib.request.urlopen(urllib.request.Request(url + "/v1/completions", body, {"Content-Type": "application/json"})).read()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("lodge", "lodgectl", "model", "adapters"):
        p.add_argument(name)
    p.add_argument("--numbers", default="0,1,20,100,400,1000,2000,0")
    p.add_argument("--dist", default="power:1")
    p.add_argument("--rate", type=float, default=0)
    p.add_argument("--cv", type=float, default=4)
    p.add_argument("--rounds", type=int, default=1)
    p.add_argument("--skip", type=int, default=0)
    p.add_argument("--requests", type=int, default=96)
    p.add_argument("--len", type=int, default=64)
    p.add_argument("--touch", type=int, default=0)
    p.add_argument("--serve", default="--pool-bytes 3G --host-cache-bytes 2G")
    a = p.parse_args()
    port = free_port()
    server = subprocess.Popen([a.lodge, "serve", a.model, "--port", str(port), "--adapter-dir", a.adapters, "--max-num-seqs", "32", *a.serve.split()],
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        for line in server.stderr:
            if line.startswith("ready "):
                break
        threading.Thread(target=server.stderr.read, daemon=True).start()
        numbers = [int(n) for n in a.numbers.split(",")]
        got = [[] for _ in numbers]
        url = f"http://127.0.0.1:{port}"
        with concurrent.futures.ThreadPoolExecutor(16) as ex:
            list(ex.map(lambda i: touch(url, i), range(a.touch)))
        for r in range(a.rounds):
            for i, n in list(enumerate(numbers))[::-1 if r % 2 else 1]:
                doc = bench(a, url, n, 1000 * r + i)
                if r >= a.skip:
                    got[i].append(doc)
        print("| adapters | output tokens/s | TTFT p50 ms | TTFT p99 ms | ITL p99 ms | failed |\n|---|---|---|---|---|---|")
        for n, runs in zip(numbers, got):
            m = {k: statistics.median(d[k] for d in runs) for k in ("output_throughput", "median_ttft_ms", "p99_ttft_ms", "p99_itl_ms")}
            print(f"| {n} | {m['output_throughput']:.0f} | {m['median_ttft_ms']:.0f} | {m['p99_ttft_ms']:.0f} | {m['p99_itl_ms']:.0f} | "
                  f"{sum(d['failed'] for d in runs)} |", flush=True)
        if len(numbers) == 2:
            ratios = sorted(y["output_throughput"] / x["output_throughput"] for x, y in zip(*got))
            print(f"tokens/s of the second over the first: median {statistics.median(ratios):.3f}", *(f"{x:.2f}" for x in ratios))
    finally:
        server.terminate()
        server.wait()


main()
