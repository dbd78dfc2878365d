"""Random clients of four tenants while adapters, names and limits change: whatever comes together, replies are right.

An adapter makes its own letter of everything and the base follows a known chain, so the text of every reply is known. Pages,
host cache and queue are small: adapters and prefixes leave all the time, sequences are preempted, requests refused. Clients
go away, read slowly, or send half a request. In the end nothing runs, no page is held, and the ledger has what the replies'
usage told. LODGE_TEST_SEED repeats a run as far as threads let it."""
import collections
import os
import random
import shutil
import threading
import time
import traceback

import lab
import tenancy
import tiny_adapter
import tiny_model as tiny

SECONDS = 180 if os.environ.get("LODGE_TEST_FULL") else 12
SEED = int(os.environ.get("LODGE_TEST_SEED") or random.randrange(1 << 30))
CLIENTS = 12
RANKS = (1, 2, 4, 8, 16, 32)
SHELF = [f"d{i}" for i in range(8)]
REFUSALS = {(429, "rate_limit_exceeded"), (503, "queue_full"), (503, "timeout"), (503, "adapter_lost"), (503, "overloaded")}


def letter(name):
    return chr(ord("0") + SHELF.index(name))


class World:
    """The server, what its tenants may name, and what was seen."""

    def __init__(self):
        self.stop = threading.Event()
        self.faults, self.told, self.seen = [], {}, collections.Counter()
        self.shelf = os.path.join(lab.FOLDER.name, "soak-shelf")
        for i, name in enumerate(SHELF):
            tiny_adapter.write(os.path.join(self.shelf, name), ord(letter(name)), rank=RANKS[i % len(RANKS)])
        self.flips = {"*": self.adapter("flip-a", "*", 8), "+": self.adapter("flip-b", "+", 2)}
        self.server = tenancy.Server(
            "--adapter-dir", self.shelf, "--lora-modules", "pub=" + self.adapter("pub", "P", 4), "--pool-bytes", "256K",
            "--max-model-len", "1024", "--reserve-tokens", "8", "--host-cache-bytes", "65536", "--max-queue", "40",
            "--max-num-seqs", "16", "--stall-timeout", "2", "--body-timeout", "2", "--speculate")
        self.tenants = [self.server.tenant(f"soak-{i}") for i in range(4)]
        for i, (project, _) in enumerate(self.tenants):
            self.name(project, "own", self.adapter(f"own-{i}", "ABCD"[i], RANKS[i]))
            self.name(project, "flip", self.flips["*"])

    @staticmethod
    def adapter(folder, token, rank):
        return tiny_adapter.write(lab.path_of("soak-" + folder), ord(token), rank=rank)

    def name(self, project, name, path):
        return self.server.did("POST", f"projects/{project}/adapters", {"name": name, "path": path, "load_inplace": True})

    def fault(self, what):
        if len(self.faults) < 20:
            self.faults.append(what)


class Worker(threading.Thread):
    def __init__(self, world, number):
        super().__init__()
        self.world, self.random = world, random.Random(f"{SEED}/{number}")

    def run(self):
        while not self.world.stop.is_set():
            try:
                self.act()
            except Exception:
                self.world.fault(traceback.format_exc())
                self.world.stop.wait(0.1)  # a server that is gone refuses at once


class Client(Worker):
    def act(self):
        r, w = self.random, self.world
        tenant = r.randrange(4)
        model = r.choice([tiny.NAME, "own", "pub", "flip", r.choice(SHELF), r.choice(SHELF)])
        body = {"model": model, "prompt": r.choice(["", "q" * r.randrange(40), "y" * r.randrange(600)]) + r.choice("abcxyz"),
                "max_tokens": r.choice([1, 3, 6, 20, 60, 200]), "n": r.choice([1, 1, 1, 2, 3]), "stream": r.random() < 0.5}
        if r.random() < 0.2:
            body["logprobs"] = 2
        if r.random() < 0.05:
            body["timeout"] = r.choice([0.001, 0.05, 1])
        if model != "pub" and r.random() < 0.1:
            body["adapters"] = [{"name": "pub", "scale": 0}]
        if body["stream"]:
            body["stream_options"] = {"include_usage": True}
        if r.random() < 0.2:
            self.leave(w.tenants[tenant][1], body)
        else:
            self.check(body, w.server.ask(w.tenants[tenant][1], **body), tenant)

    def leave(self, key, body):
        """Sends all or a part, reads a little or nothing, and goes away."""
        raw = lab.raw_post("/v1/completions", {"ignore_eos": True, **body}, f"Authorization: Bearer {key}")
        with self.world.server.connect(receive_bytes=2048, timeout=self.random.choice([0.01, 0.1, 1])) as s:
            s.sendall(raw[:self.random.randrange(len(raw))] if self.random.random() < 0.3 else raw)
            try:
                s.recv(self.random.randrange(1, 4000))
            except OSError:
                pass

    def check(self, body, reply, tenant):
        w = self.world
        if reply.status != 200:
            why = (reply.status, reply.error["code"])
            w.seen[why] += 1
            away = body["model"] in SHELF and why == (404, "model_not_found")  # between two renames
            return None if why in REFUSALS or away else w.fault((body, reply))
        chunks = lab.events(reply.body) if body["stream"] else [reply.json]
        failed = [c["error"]["code"] for c in chunks if "error" in c and c != "[DONE]"]
        w.seen[failed[0] if failed else 200] += 1
        if failed:
            return None if failed[0] in ("timeout", "adapter_lost") else w.fault((body, failed))
        texts, usage = collections.defaultdict(str), None
        for c in chunks:
            for choice in c["choices"] if c != "[DONE]" else ():
                texts[choice["index"]] += choice["text"]
            usage = (c != "[DONE]" and c.get("usage")) or usage
        if sorted(texts) != list(range(body["n"])) or not set(texts.values()) <= self.wanted(body, tenant):
            return w.fault((body, dict(texts)))
        if usage["completion_tokens"] != body["n"] * body["max_tokens"]:
            return w.fault((body, usage))
        w.told[reply.headers["x-request-id"]] = (usage["prompt_tokens"], usage["completion_tokens"],
                                                 usage["prompt_tokens_details"]["cached_tokens"])

    @staticmethod
    def wanted(body, tenant):
        n, model = body["max_tokens"], body["model"]
        if model == tiny.NAME:
            return {tiny.text_of(tiny.follow(ord(body["prompt"][-1]), n))}
        return {c * n for c in {"own": "ABCD"[tenant], "pub": "P", "flip": "*+"}.get(model) or letter(model)}


class Operator(Worker):
    def act(self):
        r, w = self.random, self.world
        project = r.choice(w.tenants)[0]
        what = r.random()
        if what < 0.4:
            w.name(project, "flip", w.flips[r.choice("*+")])
        elif what < 0.7:
            self.replace(r.choice(SHELF))
        else:
            w.server.limit(w.tenants[3][0], tokens_per_minute=r.choice([None, 1000, 100000]), max_concurrent=r.choice([None, 1, 5]),
                           loads_per_minute=r.choice([None, 3, 100]), resident_bytes=r.choice([None, 20000]))
        self.world.stop.wait(r.random() / 20)

    def replace(self, name):
        """Other files of the same effect; for a moment there are none."""
        place = os.path.join(self.world.shelf, name)
        new, old = (lab.path_of(f"soak-{name}-{x}") for x in ("new", "old"))
        tiny_adapter.write(new, ord(letter(name)), rank=self.random.choice(RANKS))
        os.rename(place, old)
        os.rename(new, place)
        shutil.rmtree(old)


class Scraper(Worker):
    def act(self):
        metrics = self.world.server.metrics()
        pages = sum(v for k, v in metrics.items() if k.startswith("lodge_pool_pages"))
        if pages != getattr(self, "pages", pages) or min(metrics.values()) < 0:
            self.world.fault(metrics)
        self.pages = pages
        self.world.stop.wait(0.02)


class Soak(lab.unittest.TestCase):
    def check_end(self, w, n_files):
        metrics = w.server.idle(60)
        self.assertEqual(metrics["vllm:num_requests_running"] + metrics["vllm:num_requests_waiting"], 0)
        for kind in ("kv", "adapter"):
            self.assertEqual(metrics['lodge_pool_pages{state="%s"}' % kind], 0)
        end = time.time() + 10 * lab.SLOW
        while self.files(w) > n_files and time.time() < end:
            time.sleep(0.05)
        self.assertLessEqual(self.files(w), n_files)
        rows = {r["request_id"]: (r["prompt_tokens"], r["output_tokens"], r["cached_tokens"]) for r in w.server.rows()}
        self.assertEqual({k: rows.get(k) for k in w.told}, w.told)
        sums = [{r["project"]: r["n"] for r in w.server.rows(f"SELECT project, sum({what}) AS n FROM {table} GROUP BY project")}
                for what, table in (("prompt_tokens + output_tokens", "ledger"), ("tokens", "consumption"))]
        self.assertEqual(*sums)

    @staticmethod
    def files(w):
        return len(os.listdir(f"/proc/{w.server.process.pid}/fd"))

    def test_random_clients(self):
        w = World()
        n_files = self.files(w) + 8  # more than that is a leak: files of SQLite, of the last connections
        workers = [Client(w, i) for i in range(CLIENTS)] + [Operator(w, "operator"), Scraper(w, "scraper")]
        for t in workers:
            t.start()
        time.sleep(SECONDS)
        w.stop.set()
        for t in workers:
            t.join()
        self.assertIsNone(w.server.process.poll(), f"seed {SEED}: the server died: " + "".join(w.server.told[-20:]))
        self.assertEqual(w.faults, [], f"seed {SEED}")
        self.check_end(w, n_files)
        self.assertEqual(w.server.stop(), 0)
        print(f"seed {SEED}: {dict(w.seen)}")


if __name__ == "__main__":
    lab.main()
