"""`lodge serve --weights-cache` over the default model: the same replies whatever became of the file.

Usage: weights_cache.py LODGE. The model comes from LODGE_TEST_MODEL; exit code 77 (skipped) without it.
Every check prints one line; the first failure ends the run with code 1."""
import atexit
import glob
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

MODEL = os.environ.get("LODGE_TEST_MODEL", "")
if not os.path.exists(MODEL):
    print("skipped: the default model is not there (LODGE_TEST_MODEL)")
    sys.exit(77)

LODGE = sys.argv[1]
SHORT = bool(os.environ.get("LODGE_TEST_SHORT"))
ROOM = tempfile.mkdtemp(prefix="lodge-cache-")
atexit.register(shutil.rmtree, ROOM, ignore_errors=True)
QUESTIONS = ["Name three colors.", "What is the sun?"]


def ok(name, condition, detail=""):
    print(("ok   " if condition else "FAIL ") + name + ("" if condition else f": {detail}"), flush=True)
    if not condition:
        sys.exit(1)


class Server:
    def __init__(self, *flags, model=MODEL, wait=True):
        self.log = tempfile.mktemp(dir=ROOM)
        self.errors = open(tempfile.mktemp(dir=ROOM), "w+")
        self.process = subprocess.Popen([LODGE, "serve", model, "--port", "0", "--log-file", self.log, *flags],
                                        stdout=subprocess.DEVNULL, stderr=self.errors)
        atexit.register(self.process.kill)
        if wait:
            self.await_ready()

    def said(self):
        with open(self.errors.name) as f:
            return f.read()

    def await_ready(self):
        while not (line := re.search(r"^ready (.*)\n", self.said(), re.M)):
            assert self.process.poll() is None, self.said()
            time.sleep(0.005)
        self.url = line.group(1)

    def replies(self):
        def one(text):
            body = json.dumps({"messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 16,
                               "model": self.model_name()})
            r = urllib.request.Request(self.url + "/v1/chat/completions", body.encode(), {"Content-Type": "application/json"})
            return json.load(urllib.request.urlopen(r, timeout=120))["choices"][0]["message"]["content"]
        return [one(q) for q in QUESTIONS[:1 if SHORT else 2]]

    def model_name(self):
        return json.load(urllib.request.urlopen(self.url + "/v1/models", timeout=60))["data"][0]["id"]

    def await_written(self):
        for _ in range(6000):
            if ": written" in self.said():
                return
            time.sleep(0.01)
        ok("written", False, self.said())

    def warnings(self):
        with open(self.log) as f:
            lines = [json.loads(line) for line in f]
        logged = [x for x in lines if x["component"] == "weights" and x["level"] == "warn"]
        told = [x for x in self.said().splitlines() if x.startswith("warning: weights cache: ")]
        ok("warnings on stderr are in the log", len(logged) == len(told), (logged, told))
        return told

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(120)


def files(folder):
    return sorted(os.listdir(folder))


def packed(folder):
    return glob.glob(folder + "/*.packed")


def damage(path, places):
    with open(path, "r+b") as f:
        for at in places:
            f.seek(at)
            byte = f.read(1)[0]
            f.seek(at)
            f.write(bytes([byte ^ 1 << random.randrange(8)]))


def serve_once(folder, want, name, warnings=0, written=False, model=MODEL):
    """A start over the folder, its replies, what it told; returns what it said."""
    s = Server("--weights-cache", folder, model=model)
    ok(name, s.replies() == want)
    if written:
        s.await_written()
        ok(name + ": after writing", s.replies() == want)
    ok(name + f": {warnings} warnings", len(s.warnings()) == warnings, s.said())
    said = s.said()
    ok(name + ": stops", s.stop() == 0)
    ok(name + ": one file", len(files(folder)) == 1 and len(packed(folder)) == 1, files(folder))
    return said


def check_settings():
    def run(*args, **env):
        p = subprocess.run([LODGE, "serve", MODEL, *args], capture_output=True, text=True, timeout=60, env={**os.environ, **env})
        return p.returncode, p.stdout + p.stderr
    nowhere = ROOM + "/nowhere"
    config = ROOM + "/config.json"
    with open(config, "w") as f:
        json.dump({"weights_cache": nowhere}, f)
    for name, got in (("flag", run("--weights-cache", nowhere)), ("variable", run(LODGE_OPT_WEIGHTS_CACHE=nowhere)),
                      ("key", run("--config", config)), ("check", run("--weights-cache", nowhere, "--check-config")),
                      ("a file", run("--weights-cache", config))):
        ok(f"no such directory: {name}", got[0] == 2 and "--weights-cache" in got[1] and "director" in got[1], got)
    code, text = run("--weights-cache", ROOM, "--memory")
    ok("--memory tells the need on disk", code == 0 and "on disk" in text and ROOM in text, text)


def check_damage(folder, want):
    path = packed(folder)[0]
    size = os.path.getsize(path)
    for name, places in (("header", [20]), ("last byte", [size - 1]),
                         ("many", [random.randrange(4096, size) for _ in range(40)])):
        damage(path, places)
        serve_once(folder, want, "damaged: " + name, warnings=1, written=True)
    for n in (0, 5 << 20):
        os.truncate(path, n)
        serve_once(folder, want, f"cut to {n} bytes", warnings=1, written=True)
    said = serve_once(folder, want, "and whole again")
    ok("it is read", ": read in the background" in said, said)


def check_other_model(folder):
    """Another model of the same name and size, with the time of the first: by renaming, and over the file."""
    model = ROOM + "/model.gguf"
    shutil.copy(MODEL, model)
    stat = os.stat(model)
    with open(model, "rb") as f:
        data = bytearray(f.read())
    s = Server("--weights-cache", folder, model=model)
    s.await_written()
    first = s.replies()
    s.stop()
    for how in ("renamed", "overwritten"):
        for at in range(len(data) // 2, len(data) - 100000, 1000):
            data[at] ^= 0x15
        target = model + ".new" if how == "renamed" else model
        with open(target, "r+b" if how == "overwritten" else "wb") as f:
            f.write(data)
        os.utime(target, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        os.rename(target, model)
        s = Server(model=model)
        want = s.replies()
        s.stop()
        ok(f"another model, {how}, says something else", want != first)
        serve_once(folder, want, f"another model, {how}", written=True, model=model)
        first = want


def check_several(folder, want):
    several = [Server("--weights-cache", folder, wait=False) for _ in range(2)]
    for s in several:
        s.await_ready()
        ok("two at once: replies", s.replies() == want)
    while not packed(folder):
        time.sleep(0.01)
    for s in several:
        ok("two at once: no warnings", s.warnings() == [], s.said())
        s.stop()
    said = serve_once(folder, want, "after two at once")
    ok("the file is read", ": read in the background" in said, said)


def check_kill(folder, want):
    n_half = 0
    for delay in (0, 0.01, random.random() * 0.1):
        for name in files(folder):
            os.unlink(folder + "/" + name)
        s = Server("--weights-cache", folder)
        while not files(folder):
            time.sleep(0.001)
        time.sleep(delay)
        s.process.kill()
        s.process.wait()
        n_half += not packed(folder)
        serve_once(folder, want, "after kill -9", written=not packed(folder))
    ok("some were killed while they wrote", n_half > 0)


def main():
    random.seed(int(os.environ.get("LODGE_TEST_SEED", "20261128")))
    folder = ROOM + "/cache"
    os.mkdir(folder)
    s = Server()
    want = s.replies()
    ok("no word of a cache without the flag", "weights cache" not in s.said())
    s.stop()
    said = serve_once(folder, want, "the first start", written=True)
    ok("it packs", "not there yet" in said, said)
    said = serve_once(folder, want, "the second start")
    ok("it reads", ": read in the background" in said and ": written" not in said, said)
    if SHORT:
        damage(packed(folder)[0], [os.path.getsize(packed(folder)[0]) // 2])
        serve_once(folder, want, "damaged", warnings=1, written=True)
        return
    check_settings()
    check_damage(folder, want)
    s = Server("--weights-cache", "/proc")  # where nobody may write
    ok("a directory that cannot be written to", s.replies() == want)
    for _ in range(1000):
        if s.warnings():
            break
        time.sleep(0.01)
    ok("is told", "cannot create" in s.warnings()[0], s.said())
    s.stop()
    other = ROOM + "/other"
    os.mkdir(other)
    check_other_model(other)
    several = ROOM + "/several"
    os.mkdir(several)
    check_several(several, want)
    check_kill(several, want)


main()
