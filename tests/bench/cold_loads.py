"""Time between tokens of running streams while other requests come, on adapters in memory or on disk.

Usage: cold_loads.py LODGE[,LODGE...] MODEL ADAPTER_DIR [--rates 1,10] [--streams 8] [--seconds 6] [--rounds 3]

Starts LODGE over MODEL with ADAPTER_DIR (made by make_adapters.py: a0, a1, ...). Each round, for each rate and
program, in turn, beside streams on the base: no other requests; `rate` requests a second of one token on 4
adapters that are resident; the same on adapters that nobody has asked for yet. What cold loads cost others is
the third against the second."""
import argparse
import http.client
import json
import socket
import subprocess
import sys
import threading
import time


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Stream(threading.Thread):
    """Asks for one reply after another and keeps the gaps between its chunks."""

    def __init__(self, port, seed):
        super().__init__(daemon=True)
        self.port, self.seed, self.gaps, self.stop = port, seed, [], False

    def run(self):
        while not self.stop:
            c = http.client.HTTPConnection("127.0.0.1", self.port)
            c.request("POST", "/v1/completions", json.dumps(
                {"model": "base", "prompt": "Once upon a time", "max_tokens": 400, "ignore_eos": True, "stream": True,
                 "seed": self.seed}), {"Content-Type": "application/json"})
            last, r = None, c.getresponse()
            while not self.stop:
                line = r.readline()
                if not line:
                    break
                if line.startswith(b"data: {"):
                    now = time.monotonic()
                    if last:
                        self.gaps.append((now, now - last))
                    last = now
            c.close()


def ask(port, name, out):
    c = http.client.HTTPConnection("127.0.0.1", port)
    begin = time.monotonic()
    c.request("POST", "/v1/completions", json.dumps({"model": name, "prompt": "Hello", "max_tokens": 1}),
              {"Content-Type": "application/json"})
    r = c.getresponse()
    body = r.read()
    if r.status != 200:
        sys.exit(f"{name}: {r.status} {body[:300]}")
    out.append(time.monotonic() - begin)


def window(port, n_streams, rate, seconds, names):
    streams, threads, took = [Stream(port, i) for i in range(n_streams)], [], []
    for s in streams:
        s.start()
    time.sleep(0.7)
    begin = time.monotonic()
    for i in range(int(rate * seconds)):
        time.sleep(max(0, begin + i / rate - time.monotonic()))
        t = threading.Thread(target=ask, args=(port, next(names), took))
        t.start()
        threads.append(t)
    time.sleep(max(0, begin + seconds - time.monotonic()))
    end = time.monotonic()
    for t in threads:
        t.join()
    for s in streams:
        s.stop = True
    for s in streams:
        s.join()
    return [g for s in streams for at, g in s.gaps if begin < at <= end], took


def quantile(x, q):
    x = sorted(x)
    return x[min(len(x) - 1, int(q * len(x)))] * 1e3 if x else 0


def report(label, gaps, took, seconds, against=None):
    p50, p99 = quantile(gaps, 0.5), quantile(gaps, 0.99)
    change = f" (p50 {p50 / quantile(against, 0.5) - 1:+.0%}, p99 {p99 / quantile(against, 0.99) - 1:+.0%})" if against else ""
    print(f"{label:26} p50 {p50:6.2f} p90 {quantile(gaps, 0.9):6.2f} p99 {p99:6.2f} ms{change}  "
          f"{len(gaps) / seconds:5.0f} tokens/s  theirs p50 {quantile(took, 0.5):5.0f} ms", flush=True)


class Server:
    def __init__(self, lodge, model, adapters):
        self.lodge, self.port = lodge, free_port()
        self.process = subprocess.Popen(
            [lodge, "serve", model, "--port", str(self.port), "--adapter-dir", adapters, "--served-model-name", "base",
             "--pool-bytes", "3G", "--host-cache-bytes", "2G"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if line.startswith("ready "):
                break
        time.sleep(6)  # an idle server touches the memory of its pool
        warm = [f"a{i}" for i in range(4)]
        for name in warm:
            ask(self.port, name, [])
        self.cold = (f"a{i}" for i in range(4, 1 << 30))
        self.hot = (warm[i % 4] for i in range(1 << 30))
        self.total = {}

    def measure(self, a, rate):
        for kind, names, n in (("none", None, 0), ("resident", self.hot, rate), ("cold", self.cold, rate)):
            gaps, took = window(self.port, a.streams, n, a.seconds, names)
            all_gaps, all_took = self.total.setdefault((rate, kind), ([], []))
            all_gaps += gaps
            all_took += took

    def print(self, seconds):
        print(self.lodge)
        for (rate, kind), (gaps, took) in self.total.items():
            against = self.total[rate, "resident"][0] if kind == "cold" else None
            report(f"{rate:g} a second, {kind}", gaps, took, seconds, against)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("lodge", help="one program, or several to compare, separated by commas")
    p.add_argument("model")
    p.add_argument("adapters")
    p.add_argument("--rates", default="1,10")
    p.add_argument("--streams", type=int, default=8)
    p.add_argument("--seconds", type=float, default=6)
    p.add_argument("--rounds", type=int, default=3)
    a = p.parse_args()
    servers = [Server(one, a.model, a.adapters) for one in a.lodge.split(",")]
    try:
        for _ in range(a.rounds):
            for rate in a.rates.split(","):
                for s in servers:
                    s.measure(a, float(rate))
        for s in servers:
            s.print(a.seconds * a.rounds)
    finally:
        for s in servers:
            s.process.terminate()
            s.process.wait()


main()
