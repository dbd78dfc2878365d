"""Lodge beside other servers on the same files: one table and one picture of many cells.

Usage: peers.py LODGE LODGECTL OUT.json NAME=LLAMA_SERVER... -- [KIND:]MODEL.gguf...   [--rounds 5] [--cells b1,prefill]
KIND small (default) or large chooses how many tokens a cell takes. llama-server is llama.cpp's or ik_llama.cpp's.
Each cell runs `lodgectl bench` against one server after the other, as many rounds as asked, with new requests in each;
servers whose turn it is not are stopped (SIGSTOP), so that none of them spins beside another. A cell's figure is the
median over the rounds of Lodge's rate over the other's of the same round. peers_report.py makes the pages."""
import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

# name: clients, tokens in, tokens out, requests of a round; small and large
CELLS = {
    "b1": {"small": (1, 32, 128, 2), "large": (1, 32, 48, 1)},
    "b8": {"small": (8, 128, 64, 8), "large": (8, 128, 32, 8)},
    "b32": {"small": (32, 128, 48, 32), "large": (32, 128, 24, 32)},
    "b64": {"small": (64, 128, 48, 64), "large": (64, 128, 24, 64)},
    "b32-512": {"small": (32, 512, 48, 32)},
    "prefill": {"small": (1, 512, 1, 6), "large": (1, 512, 1, 2)},
}
CONTEXT = 640


class Server:
    def __init__(self, name, command, port, ready):
        self.name, self.port = name, port
        self.folder = tempfile.TemporaryDirectory()  # some write logs where they are started
        self.process = subprocess.Popen(command, cwd=self.folder.name, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(1200):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}{ready}", timeout=5).read()
                break
            except OSError:
                if self.process.poll() is not None:
                    sys.exit(f"{name} ended with code {self.process.returncode}: {' '.join(command)}")
                time.sleep(0.1)
        self.stop()

    def stop(self):
        self.process.send_signal(signal.SIGSTOP)

    def go(self):
        self.process.send_signal(signal.SIGCONT)

    def end(self):
        self.go()
        self.process.terminate()
        self.process.wait()
        self.folder.cleanup()


def start(lodge, peers, model, threads, slots):
    """With as many places as the cell has clients: some servers pay for empty ones."""
    lodge, model = os.path.abspath(lodge), os.path.abspath(model)
    out = [Server("lodge", [lodge, "serve", model, "--port", "8300", "--pool-bytes", "3G", "--max-model-len", str(CONTEXT),
                            "--max-num-seqs", str(slots), "--no-prefix-cache"], 8300, "/readyz")]
    for i, (name, path) in enumerate(peers):
        unified = [] if name.startswith("ik") else ["--no-kv-unified", "--cache-ram", "0"]
        out.append(Server(name, [os.path.abspath(path), "-m", model, "--port", str(8301 + i), "-t", threads, "-tb", threads, "-fa", "on", "-np", str(slots),
                                 "-c", str(slots * CONTEXT), "-b", "512", "-ub", "512", "-ctk", "f16", "-ctv", "f16", *unified],
                          8301 + i, "/health"))
    return out


def rate(lodgectl, server, shape, seed):
    clients, n_in, n_out, n = shape
    server.go()
    p = subprocess.run([lodgectl, "bench", f"http://127.0.0.1:{server.port}", "--json", "--concurrency", str(clients), "--num-prompts", str(n),
                        "--random-input-len", str(n_in), "--random-output-len", str(n_out), "--seed", str(seed),
                        "--warmup", "1"], capture_output=True, text=True)
    server.stop()
    doc = json.loads(p.stdout)
    if doc["failed"] or doc["completed"] != n:
        sys.exit(f"{server.name}: {doc['failed']} of {n} requests failed: {doc.get('error_kinds')}")
    if n_out == 1:
        return {"rate": n_in / doc["median_ttft_ms"] * 1000, "ttft_ms": doc["median_ttft_ms"]}
    if clients == 1:
        return {"rate": 1000 / doc["median_tpot_ms"], "ttft_ms": doc["median_ttft_ms"]}
    return {"rate": doc["output_throughput"], "ttft_ms": doc["median_ttft_ms"]}


def main():
    p = argparse.ArgumentParser(usage=__doc__)
    for name in ("lodge", "lodgectl", "out"):
        p.add_argument(name)
    p.add_argument("rest", nargs="+")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--cells", default=",".join(CELLS))
    a = p.parse_args()
    peers = [x.split("=", 1) for x in a.rest if "=" in x]
    results = []
    for spec in (x for x in a.rest if "=" not in x):
        kind, path = spec.split(":", 1) if spec.startswith(("small:", "large:")) else ("small", spec)
        for cell in (c for c in a.cells.split(",") if kind in CELLS[c]):
            servers = start(a.lodge, peers, path, str(len(os.sched_getaffinity(0))), CELLS[cell][kind][0])
            try:
                rounds = [{s.name: rate(a.lodgectl, s, CELLS[cell][kind], 100 * k + 7) for s in servers} for k in range(a.rounds)]
                ratios = {n: [r["lodge"]["rate"] / r[n]["rate"] for r in rounds] for n, _ in peers}
                results.append({"model": os.path.basename(path), "kind": kind, "cell": cell, "shape": CELLS[cell][kind], "rounds": rounds})
                print(f"{os.path.basename(path):22} {cell:8}" + "".join(
                    f"  {s.name} {statistics.median(r[s.name]['rate'] for r in rounds):7.1f}" for s in servers) + "".join(
                    f"  /{n} {statistics.median(x):.2f} ({min(x):.2f} .. {max(x):.2f})" for n, x in ratios.items()), flush=True)
                with open(a.out, "w") as f:
                    json.dump({"peers": [n for n, _ in peers], "cells": results}, f, indent=1)
            finally:
                for s in servers:
                    s.end()


main()
