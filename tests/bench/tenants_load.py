"""Tenants against a real server: overload, requests of different sizes, and a flood.

Usage: tenants_load.py LODGE LODGECTL MODEL [--seconds 20] [--slo 1.5] [--rounds 3] [--parts overload,sizes,flood] [--shares 0.1,0.2,0.4]

Capacity is measured first: requests/s of closed loops that keep the batch full.
overload  four equal tenants offer 1.5 times that, first tokens are due in `slo` seconds: the share of requests in time beside
          capacity / offered, and Jain's index of the tenants' service
sizes     two tenants always have something waiting, one asks for 16 tokens, the other for 160: service of one over the other's
flood     a tenant offers a share of the capacity, beside one that fills the machine to 0.95 and beside the same one that offers five
          times what it may have: the first one's time to first token. Rounds in turn, in both of which its requests come at the
          same moments; percentiles are of the requests of all rounds"""
import argparse
import json
import subprocess
import tempfile

from streams import free_port

N_IN, N_OUT, SLOTS = 64, 16, 32


class Lab:
    def __init__(self, a):
        self.a, self.folder = a, tempfile.TemporaryDirectory()
        self.port, self.admin = free_port(), free_port()
        self.process = subprocess.Popen(
            [a.lodge, "serve", a.model, "--port", str(self.port), "--store", f"{self.folder.name}/lodge.db", "--admin-port", str(self.admin),
             "--max-num-seqs", str(SLOTS), "--pool-bytes", "2G", "--slo-ttft", str(a.slo), "--max-queue", "8192", "--max-connections", "8192", "--no-prefix-cache"],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if line.startswith(f"ready http://127.0.0.1:{self.port}"):
                break
        self.keys, self.seed = {}, 0

    def key(self, name):
        if name not in self.keys:
            admin = ["--admin-url", f"http://127.0.0.1:{self.admin}", "--json"]
            subprocess.run([self.a.lodgectl, "tenants", "create", name, *admin], check=True, capture_output=True)
            made = subprocess.run([self.a.lodgectl, "keys", "create", name, *admin], check=True, capture_output=True, text=True)
            self.keys[name] = json.loads(made.stdout)["value"]
        return self.keys[name]

    def run(self, tenants, *flags):
        """tenants: {name: load}. The whole report, and each tenant's by name. self.seed is when requests come."""
        path = f"{self.folder.name}/tenants.txt"
        with open(path, "w") as f:
            for name, load in tenants.items():
                f.write(f"{name} {self.key(name)} {load}\n")
        p = subprocess.run([self.a.lodgectl, "bench", f"http://127.0.0.1:{self.port}", "--tenants", path, "--duration",
                            str(self.a.seconds), "--random-input-len", str(N_IN), "--random-output-len", str(N_OUT), "--cv", "2",
                            "--warmup", "8", "--seed", str(self.seed), "--json", *flags], capture_output=True, text=True)
        if not p.stdout:
            raise SystemExit(p.stderr)
        doc = json.loads(p.stdout)
        return doc, {t["name"]: t for t in doc["tenants"]}

    def end(self):
        self.process.terminate()
        self.process.wait()


def overload(lab, capacity):
    rate = 1.5 * capacity / 4
    doc, _ = lab.run({f"t{i}": f"rate={rate:.2f}" for i in range(4)}, "--goodput", f"ttft:{lab.a.slo * 1000:.0f}")
    offered, share = 1.5 * capacity, doc["goodput_share"]
    print(f"overload: {offered:.1f} requests/s offered, {share:.3f} in time (0.95 x capacity / offered = {0.95 / 1.5:.3f}), "
          f"p99 TTFT {doc['p99_ttft_ms']:.0f} ms of {lab.a.slo * 1000:.0f}, Jain {doc['jain_weighted_service']:.4f}, failed {doc['error_kinds']}")


def sizes(lab, _):
    _, t = lab.run({"short": f"concurrency={2 * SLOTS} output={N_OUT}", "long": f"concurrency={2 * SLOTS} output={10 * N_OUT}"})
    print("sizes: service of the short one over the long one's "
          f"{t['short']['weighted_service'] / t['long']['weighted_service']:.3f}")


def percentile(times, share):
    return sorted(times)[min(len(times) - 1, int(share * len(times)))]


def flood(lab, capacity):
    for share in map(float, lab.a.shares.split(",")):
        times, failed = {"beside": [], "flooded": []}, {"beside": 0, "flooded": 0}
        for _ in range(lab.a.rounds):
            lab.seed += 1
            for name, rate in (("beside", 0.95 - share), ("flooded", 5 * (1 - share))):
                doc, _ = lab.run({"a": f"rate={share * capacity:.2f}", "b": f"rate={rate * capacity:.2f}"}, "--save-detailed")
                of_a = [(t, e) for t, e, who in zip(doc["ttfts"], doc["errors"], doc["request_tenants"]) if who == "a"]
                times[name].append([1000 * t for t, e in of_a if not e])
                failed[name] += sum(1 for _, e in of_a if e)
        if not all(map(all, times.values())):
            raise SystemExit(f"flood: a round served nothing of the first tenant in {lab.a.seconds} s; give it more")
        p99 = {name: [percentile(x, 0.99) for x in rounds] for name, rounds in times.items()}
        every = {name: sum(rounds, []) for name, rounds in times.items()}
        print(f"flood, a uses {share:.0%}: " + "; ".join(
            f"{name} p50 {percentile(x, 0.5):.0f} p99 {percentile(x, 0.99):.0f} ms of {len(x)} ({failed[name]} failed)" for name, x in every.items())
            + f"; p99 of one over the other's {percentile(every['flooded'], 0.99) / percentile(every['beside'], 0.99):.2f}, of rounds "
            + ", ".join(f"{y / x:.2f}" for x, y in zip(p99["beside"], p99["flooded"])), flush=True)


def main():
    p = argparse.ArgumentParser(usage=__doc__.replace("%", "%%"))
    for name in ("lodge", "lodgectl", "model"):
        p.add_argument(name)
    p.add_argument("--seconds", type=float, default=20)
    p.add_argument("--slo", type=float, default=1.5)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--parts", default="overload,sizes,flood")
    p.add_argument("--shares", default="0.1,0.2,0.4")
    a = p.parse_args()
    lab = Lab(a)
    try:
        doc, _ = lab.run({f"t{i}": f"concurrency={SLOTS // 4}" for i in range(4)})
        capacity = doc["request_throughput"]
        print(f"capacity: {capacity:.1f} requests/s of {N_IN} tokens in and {N_OUT} out", flush=True)
        for part in a.parts.split(","):
            {"overload": overload, "sizes": sizes, "flood": flood}[part](lab, capacity)
    finally:
        lab.end()


if __name__ == "__main__":
    main()
