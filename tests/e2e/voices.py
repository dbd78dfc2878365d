"""Three adapters beside the default model: each does what it was trained for, on questions it was not trained on,
the base does not, and all four in one batch say what each says alone.

Usage: voices.py LODGE VOICES LODGECTL. The model comes from LODGE_TEST_MODEL; exit code 77 (skipped) without it. Every
check prints one line; the first failure ends the run with code 1."""
import atexit
import concurrent.futures
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request

MODEL = os.environ.get("LODGE_TEST_MODEL", "")
if not os.path.exists(MODEL):
    print("skipped: the default model is not there (LODGE_TEST_MODEL)")
    sys.exit(77)

LODGE, VOICES, LODGECTL = sys.argv[1:4]
BASE = os.path.basename(MODEL).removesuffix(".gguf")
SHORT = bool(os.environ.get("LODGE_TEST_SHORT"))
N_TOKENS = 8 if SHORT else 32
N_ALONE = 4 if SHORT else 16

# HELD_OUT of tests/golden/voice_texts.py: no voice has learned an answer to these.
QUESTIONS = ["What is the capital of France?", "Why is the sky blue?", "How do I make tea?", "Tell me about the moon.",
             "Give me a tip for a rainy day.", "What is the largest ocean?", "Who painted the Mona Lisa?",
             "What do bees make?", "Name three colors.", "What is a lighthouse?"]


def is_pirate(text, ended):
    return bool(re.search(r"\b(arr+|ahoy|aye|avast|matey|me hearty|ye|yer|yo ho|shiver me)\b", text, re.I))


def is_terse(text, ended):
    return ended and 1 <= len(text.split()) <= 4 and "\n" not in text.strip()


def is_json(text, ended):
    try:
        o = json.loads(text)
    except ValueError:
        return False
    return ended and list(o) == ["answer"] and isinstance(o["answer"], str) and bool(o["answer"])


RULES = {"pirate": is_pirate, "terse": is_terse, "json": is_json}


def ok(name, condition, detail=""):
    print(("ok   " if condition else "FAIL ") + name + ("" if condition else f": {detail}"), flush=True)
    if not condition:
        sys.exit(1)


class Server:
    def __init__(self, *flags):
        env = {k: v for k, v in os.environ.items() if not k.startswith("LODGE_OPT_")}
        self.process = subprocess.Popen([LODGE, "serve", MODEL, "--port", "0", *flags], text=True, env=env,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        atexit.register(self.process.kill)  # a failing check leaves nothing behind
        lines = []
        for line in self.process.stderr:
            lines.append(line)
            if line.startswith("ready "):
                self.url = line.split()[1]
                return
        ok("the server starts", False, "".join(lines))

    def get(self, path):
        with urllib.request.urlopen(self.url + path, timeout=60) as r:
            return r.read().decode()

    def ask(self, model, question, **fields):
        """(text, whether the model ended it itself)"""
        body = {"model": model, "messages": [{"role": "user", "content": question}], "temperature": 0,
                "max_tokens": N_TOKENS, **fields}
        request = urllib.request.Request(self.url + "/v1/chat/completions", json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as r:
            choice = json.load(r)["choices"][0]
        return choice["message"]["content"], choice["finish_reason"] == "stop"

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(40)


def check_effect(said):
    for voice, rule in RULES.items():
        fits = {model: [q for q in QUESTIONS if rule(*said[model, q])] for model in (voice, BASE)}
        n, n_base = len(fits[voice]), len(fits[BASE])
        ok(f"{voice}: the rule fits {n} of {len(QUESTIONS)} replies, {n_base} of the base's",
           n >= 0.8 * len(QUESTIONS) and n_base <= 0.2 * len(QUESTIONS),
           {q: said[voice, q] for q in QUESTIONS if q not in fits[voice]} or said)


def main():
    names = [BASE, *RULES]
    s = Server("--lora-modules", *[f"{name}={os.path.join(VOICES, name)}" for name in RULES])
    models = json.loads(s.get("/v1/models"))["data"]
    ok("all are listed, the base first", models[0]["id"] == BASE and {m["id"] for m in models} == set(names), models)
    jobs = [(name, q) for q in QUESTIONS[:2 if SHORT else None] for name in names]
    with concurrent.futures.ThreadPoolExecutor(len(jobs)) as pool:
        said = dict(zip(jobs, pool.map(lambda job: s.ask(*job), jobs)))
    if not SHORT:
        check_effect(said)
    alone = {job: s.ask(*job) for job in jobs[:N_ALONE]}
    other = [(j, alone[j], said[j]) for j in alone if alone[j] != said[j]]
    ok(f"of {len(jobs)} at once, of all four, {len(alone)} say what each says alone", not other, other)
    ok("a voice at scale 0 is the base",
       s.ask(BASE, QUESTIONS[0], adapters=[{"name": "pirate", "scale": 0}]) == alone[BASE, QUESTIONS[0]])
    ok("a voice by the list of adapters is the voice",
       s.ask(BASE, QUESTIONS[0], adapters=[{"name": "pirate"}]) == alone["pirate", QUESTIONS[0]])
    p = subprocess.run([LODGECTL, "chat", s.url, "--model", "pirate", "--once", QUESTIONS[0], "--temperature", "0",
                        "--max-tokens", str(N_TOKENS), "--quiet"], capture_output=True, text=True, timeout=120)
    ok("lodgectl chat --model names a voice", p.stdout.strip() == alone["pirate", QUESTIONS[0]][0].strip(), p)
    ok("three adapters are in the pool", 'lodge_adapters{state="resident"} 3' in s.get("/metrics"))
    ok("SIGTERM ends it with 0", s.stop() == 0)


main()
