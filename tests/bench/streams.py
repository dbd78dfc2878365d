"""Streams that run beside other requests, and the gaps between their tokens; for the programs in this folder."""
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


def ask(port, out, name="base", prompt="Hello"):
    """One token; how long it took goes to `out`."""
    c = http.client.HTTPConnection("127.0.0.1", port)
    begin = time.monotonic()
    c.request("POST", "/v1/completions", json.dumps({"model": name, "prompt": prompt, "max_tokens": 1}),
              {"Content-Type": "application/json"})
    r = c.getresponse()
    body = r.read()
    if r.status != 200:
        sys.exit(f"{name}: {r.status} {body[:300]}")
    out.append(time.monotonic() - begin)


def window(port, n_streams, rate, seconds, requests):
    """Gaps of n_streams replies in so many seconds, while `rate` requests a second come: arguments of `ask`. And how
    long those took."""
    streams, threads, took = [Stream(port, i) for i in range(n_streams)], [], []
    for s in streams:
        s.start()
    time.sleep(0.7)
    begin = time.monotonic()
    for i in range(int(rate * seconds)):
        time.sleep(max(0, begin + i / rate - time.monotonic()))
        t = threading.Thread(target=ask, args=(port, took), kwargs=next(requests))
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


def start(lodge, model, *flags):
    """A server whose model is named base, and its port."""
    port = free_port()
    process = subprocess.Popen([lodge, "serve", model, "--port", str(port), "--served-model-name", "base", *flags],
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if line.startswith("ready "):
            break
    time.sleep(6)  # an idle server touches the memory of its pool
    return process, port


def report(label, gaps, took, seconds, against=None):
    p50, p99 = quantile(gaps, 0.5), quantile(gaps, 0.99)
    change = f" (p50 {p50 / quantile(against, 0.5) - 1:+.0%}, p99 {p99 / quantile(against, 0.99) - 1:+.0%})" if against else ""
    print(f"{label:26} p50 {p50:6.2f} p90 {quantile(gaps, 0.9):6.2f} p99 {p99:6.2f} ms{change}  "
          f"{len(gaps) / seconds:5.0f} tokens/s  theirs p50 {quantile(took, 0.5):5.0f} ms", flush=True)
