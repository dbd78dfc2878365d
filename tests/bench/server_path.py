"""What HTTP, JSON, streams and the load client beside them cost: a server against its own engine.

Usage: server_path.py LODGE LODGECTL BENCH_ENGINE MODEL [--clients 32] [--requests 128] [--in 128] [--out 64] [--rounds 5]

Rounds in turn: the engine in one process without HTTP (bench_engine), and `lodge serve` under `lodgectl bench` with the same closed
loop, both on all cores. Then 8 clients with and without 256 idle keep-alive connections; then one client, prompts of 512 tokens:
the time to the first token against the engine's own."""
import argparse
import http.client
import json
import re
import signal
import statistics
import subprocess

from streams import free_port


class Lab:
    def __init__(self, a):
        self.a, self.port = a, free_port()
        self.process = subprocess.Popen([a.lodge, "serve", a.model, "--port", str(self.port), "--pool-bytes", "2G", "--max-model-len", "640",
                                         "--no-prefix-cache"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if line.startswith("ready "):
                break
        self.served(8, 16, 128, 16)  # once, so that the pool's memory is there
        self.process.send_signal(signal.SIGSTOP)

    def engine(self, clients, requests, n_in, n_out):
        p = subprocess.run([self.a.bench_engine, self.a.model, "--clients", str(clients), "--requests", str(requests), "--in", str(n_in),
                            "--out", str(n_out)], capture_output=True, text=True, check=True)
        m = re.match(r"([\d.]+) tokens/s, TTFT p50 ([\d.]+) ms", p.stdout)
        return float(m.group(1)), float(m.group(2))

    def served(self, clients, requests, n_in, n_out):
        self.process.send_signal(signal.SIGCONT)
        p = subprocess.run([self.a.lodgectl, "bench", f"http://127.0.0.1:{self.port}", "--json", "--concurrency", str(clients), "--num-prompts",
                            str(requests), "--random-input-len", str(n_in), "--random-output-len", str(n_out)], capture_output=True, text=True)
        doc = json.loads(p.stdout)
        assert not doc["failed"], doc["error_kinds"]
        self.process.send_signal(signal.SIGSTOP)
        return doc["output_throughput"], doc["median_ttft_ms"]

    def idle(self, n):
        self.process.send_signal(signal.SIGCONT)
        out = []
        for _ in range(n):
            c = http.client.HTTPConnection("127.0.0.1", self.port)
            c.request("GET", "/health")
            c.getresponse().read()
            out.append(c)
        return out


def compare(name, rounds, first, second, which):
    a, b = [], []
    for _ in range(rounds):
        a.append(first()[which])
        b.append(second()[which])
    ratios = [y / x for x, y in zip(a, b)]
    print(f"{name}: {statistics.median(a):.1f} and {statistics.median(b):.1f}, ratio {statistics.median(ratios):.3f} "
          f"({min(ratios):.3f} .. {max(ratios):.3f})", flush=True)


def main():
    p = argparse.ArgumentParser(usage=__doc__)
    for name in ("lodge", "lodgectl", "bench_engine", "model"):
        p.add_argument(name)
    for name, n in (("clients", 32), ("requests", 128), ("in", 128), ("out", 64), ("rounds", 5)):
        p.add_argument("--" + name, type=int, default=n)
    a = p.parse_args()
    lab = Lab(a)
    shape = (a.clients, a.requests, getattr(a, "in"), a.out)
    try:
        compare("tokens/s, the engine and the server", a.rounds, lambda: lab.engine(*shape), lambda: lab.served(*shape), 0)

        def beside_idle():
            held = lab.idle(256)
            try:
                return lab.served(8, a.requests // 4, 128, 64)
            finally:
                for c in held:
                    c.close()
        compare("tokens/s, 8 clients, and beside 256 idle connections", a.rounds, lambda: lab.served(8, a.requests // 4, 128, 64), beside_idle, 0)
        compare("ms to the first token of 512, the engine and the server", a.rounds, lambda: lab.engine(1, 8, 512, 2),
                lambda: lab.served(1, 8, 512, 2), 1)
    finally:
        lab.process.send_signal(signal.SIGCONT)
        lab.process.terminate()
        lab.process.wait()


if __name__ == "__main__":
    main()
