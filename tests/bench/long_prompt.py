"""Time between tokens of running streams while long prompts come.

Usage: long_prompt.py LODGE[,LODGE...] MODEL [--streams 16] [--tokens 4000] [--seconds 12] [--rounds 2]

Each round, for each program, in turn: streams alone; streams beside one new prompt of so many tokens every
`seconds` / 2. Then how long such a prompt takes alone."""
import argparse
import random

from streams import ask, quantile, report, start, window


WORDS = "the cat and dog ran far away from home to see what was new in a town by night".split()


def prompts(n):
    """Distinct, so that nothing of them is cached; a token a word."""
    rng = random.Random(1)
    while True:
        yield {"prompt": " ".join(rng.choice(WORDS) for _ in range(n))}


def main():
    p = argparse.ArgumentParser()
    p.add_argument("lodge", help="one program, or several to compare, separated by commas")
    p.add_argument("model")
    p.add_argument("--streams", type=int, default=16)
    p.add_argument("--tokens", type=int, default=4000)
    p.add_argument("--seconds", type=float, default=12)
    p.add_argument("--rounds", type=int, default=2)
    a = p.parse_args()
    servers = [(one, *start(one, a.model, "--pool-bytes", "2G"), prompts(a.tokens), {}) for one in a.lodge.split(",")]
    try:
        for _ in range(a.rounds):
            for _, _, port, requests, total in servers:
                ask(port, total.setdefault("by itself", ([], []))[1], **next(requests))
                for kind, rate in (("streams alone", 0), ("with long prompts", 2 / a.seconds)):
                    gaps, took = window(port, a.streams, rate, a.seconds, requests)
                    total.setdefault(kind, ([], []))[0].extend(gaps)
                    total[kind][1].extend(took)
        for lodge, _, _, _, total in servers:
            print(lodge)
            print(f"a prompt by itself: {quantile(total.pop('by itself')[1], 0.5):.0f} ms")
            for kind, (gaps, took) in total.items():
                against = total["streams alone"][0] if kind != "streams alone" else None
                report(kind, gaps, took, a.seconds * a.rounds, against)
    finally:
        for _, process, _, _, _ in servers:
            process.terminate()
            process.wait()


main()
