"""What guessing wins: requests with "speculate": true and without, in turn, and their replies compared.

Usage: guesses.py LODGE MODEL [--runs 9]"""
import argparse
import http.client
import json
import statistics
import sys

from streams import start

CODE = """import json

class Store:
    def __init__(self, path):
        self.path = path
        self.items = {}

    def load(self):
        with open(self.path) as f:
            self.items = json.load(f)

    def save(self):
        with open(self.path, "w") as f:
            json.dump(self.items, f)

    def get(self, key, default=None):
        return self.items.get(key, default)

    def put(self, key, value):
        self.items[key] = value
        self.save()
"""
EDIT = {"messages": [{"role": "user", "content": "Rename the class Store to Cache and reply only with the code:\n" + CODE}],
        "max_tokens": 250, "temperature": 0}
CASES = {
    "copied file": ("/v1/completions", {"prompt": f"File a.py:\n{CODE}\nFile b.py:\n{CODE}\nFile c.py:\n", "max_tokens": 250,
                                        "temperature": 0}),
    "edit": ("/v1/chat/completions", EDIT),
    "edit, predicted": ("/v1/chat/completions", {**EDIT, "prediction": {
        "type": "content", "content": "```python\n" + CODE.replace("Store", "Cache") + "```"}}),
    "story": ("/v1/completions", {"prompt": "Once upon a time", "max_tokens": 200, "temperature": 1, "seed": 7, "ignore_eos": True}),
    "noise": ("/v1/completions", {"prompt": "x", "max_tokens": 200, "temperature": 2, "seed": 9, "ignore_eos": True}),
}


def ask(port, path, body, guess):
    body = {**body, "model": "base", "speculate": guess}
    if not guess:
        body.pop("prediction", None)
    c = http.client.HTTPConnection("127.0.0.1", port)
    c.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    r = json.loads(c.getresponse().read())
    if "choices" not in r:
        sys.exit(r)
    choice, t = r["choices"][0], r["timings"]
    text = choice["text"] if "text" in choice else choice["message"]["content"]
    return text, t["predicted_n"] / t["predicted_ms"] * 1e3, r["usage"]["completion_tokens_details"]


def main():
    p = argparse.ArgumentParser()
    p.add_argument("lodge")
    p.add_argument("model")
    p.add_argument("--runs", type=int, default=9)
    a = p.parse_args()
    process, port = start(a.lodge, a.model, "--pool-bytes", "1G")
    try:
        for name, (path, body) in CASES.items():
            pairs = [(ask(port, path, body, False), ask(port, path, body, True)) for _ in range(a.runs)]
            if any(x[0] != y[0] for x, y in pairs):
                sys.exit(f"{name}: the replies differ")
            off, on = (statistics.median(pair[i][1] for pair in pairs) for i in (0, 1))
            d = pairs[-1][1][2]
            print(f"{name:16} {off:6.1f} without, {on:6.1f} tokens/s with, ratio {on / off:.2f}; right "
                  f"{d['accepted_prediction_tokens']}, wrong {d['rejected_prediction_tokens']}", flush=True)
    finally:
        process.terminate()
        process.wait()


main()
