"""The pages of peers.py's results: a Markdown table on stdout, and for each kind of model a picture.

Usage: peers_report.py PICTURES_PREFIX RESULTS.json...       writes PREFIX-small.svg, PREFIX-large.svg
A cell may lack a peer; it is compared with the better of those that it has."""
import json
import re
import statistics
import sys

TITLES = {"b1": "decode, 1 client", "b8": "8 clients, 128 tokens in", "b32": "32 clients, 128 in", "b64": "64 clients, 128 in",
          "b32-512": "32 clients, 512 in", "prefill": "a prompt of 512"}
COLORS = ["#4269d0", "#efb118", "#3ca951", "#ff725c"]
INK, FAINT = "#222", "#ddd"


def figures(cell):
    """Median rates, and median, least and most of the rounds' ratios to the better peer."""
    rates = {n: statistics.median(r[n]["rate"] for r in cell["rounds"]) for n in cell["rounds"][0]}
    best = max((n for n in rates if n != "lodge"), key=lambda n: rates[n])
    ratios = [r["lodge"]["rate"] / r[best]["rate"] for r in cell["rounds"]]
    return rates, statistics.median(ratios), min(ratios), max(ratios)


def table(cells, peers):
    print("| file | load | Lodge | " + " | ".join(peers) + " | Lodge / the better |")
    print("|---|---|---|" + "---|" * len(peers) + "---|")
    for c in cells:
        rates, mid, low, high = figures(c)
        print(f"| {c['model'].removesuffix('.gguf')} | {TITLES[c['cell']]} | {rates['lodge']:.0f} | "
              + " | ".join(f"{rates[n]:.0f}" if n in rates else "" for n in peers) + f" | **{mid:.2f}** ({low:.2f} .. {high:.2f}) |")


def picture(cells, path, title):
    loads = [c for c in TITLES if any(x["cell"] == c for x in cells)]
    models = list(dict.fromkeys(x["model"] for x in cells))
    group, bar, left, top, width = 18 * len(models) + 14, 18, 190, 70, 760
    most = max(figures(c)[3] for c in cells)
    scale = (width - left - 60) / most
    height = top + group * len(loads) + 40
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
           f'font-family="sans-serif" font-size="12" fill="{INK}">', f'<rect width="{width}" height="{height}" fill="white"/>',
           f'<text x="12" y="22" font-size="15">{title}</text>']
    x = 12
    for i, m in enumerate(models):
        label = re.split(r"\.|, ", m.removesuffix(".gguf"))[-1]
        out.append(f'<rect x="{x}" y="34" width="12" height="12" fill="{COLORS[i]}"/><text x="{x + 17}" y="44">{label}</text>')
        x += 40 + 8 * len(label)
    for tick in range(int(most) + 1):
        at = left + tick * scale
        out.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{top - 8}" y2="{height - 30}" stroke="{"#888" if tick == 1 else FAINT}"/>'
                   f'<text x="{at:.1f}" y="{height - 14}" text-anchor="middle">{tick}</text>')
    for g, load in enumerate(loads):
        y = top + g * group
        out.append(f'<text x="{left - 10}" y="{y + bar * len(models) / 2 + 4}" text-anchor="end">{TITLES[load]}</text>')
        for i, m in enumerate(models):
            cell = next((c for c in cells if c["cell"] == load and c["model"] == m), None)
            if not cell:
                continue
            _, mid, low, high = figures(cell)
            at = y + i * bar
            out.append(f'<rect x="{left}" y="{at + 2}" width="{mid * scale:.1f}" height="{bar - 4}" fill="{COLORS[i]}"/>'
                       f'<line x1="{left + low * scale:.1f}" x2="{left + high * scale:.1f}" y1="{at + bar / 2}" y2="{at + bar / 2}" stroke="{INK}"/>'
                       f'<text x="{left + high * scale + 6:.1f}" y="{at + bar / 2 + 4}">{mid:.2f}</text>')
    with open(path, "w") as f:
        f.write("\n".join(out) + "\n</svg>\n")


def main(prefix, *paths):
    cells, peers = [], []
    for path in paths:
        with open(path) as f:
            doc = json.load(f)
        cells += doc["cells"]
        peers += [n for n in doc["peers"] if n not in peers]
    order = list(TITLES)
    models = list(dict.fromkeys(c["model"] for c in cells))
    cells.sort(key=lambda c: (c["kind"] != "small", models.index(c["model"]), order.index(c["cell"])))
    table(cells, peers)
    for kind in ("small", "large"):
        some = [c for c in cells if c["kind"] == kind]
        if some:
            picture(some, f"{prefix}-{kind}.svg", f"Tokens/s, Lodge over the better of {' and '.join(peers)}; line: range of the rounds")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
