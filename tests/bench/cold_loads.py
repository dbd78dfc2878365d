"""Time between tokens of running streams while other requests come, on adapters in memory or on disk.

Usage: cold_loads.py LODGE[,LODGE...] MODEL ADAPTER_DIR [--rates 1,10] [--streams 8] [--seconds 6] [--rounds 3]

Starts LODGE over MODEL with ADAPTER_DIR (made by make_adapters.py: a0, a1, ...). Each round, for each rate and
program, in turn, beside streams on the base: no other requests; `rate` requests a second of one token on 4
adapters that are resident; the same on adapters that nobody has asked for yet. What cold loads cost others is
the third against the second."""
import argparse

from streams import ask, report, start, window


class Server:
    def __init__(self, lodge, model, adapters):
        self.lodge = lodge
        self.process, self.port = start(lodge, model, "--adapter-dir", adapters, "--pool-bytes", "3G",
                                        "--host-cache-bytes", "2G")
        warm = [f"a{i}" for i in range(4)]
        for name in warm:
            ask(self.port, [], name)
        self.cold = ({"name": f"a{i}"} for i in range(4, 1 << 30))
        self.hot = ({"name": warm[i % 4]} for i in range(1 << 30))
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
