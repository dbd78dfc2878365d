"""The ledger: a row is there before a reply ends, says what was used, and survives kill -9."""
import http.client
import json
import os
import random
import signal
import threading
import time
import unittest

import lab
import tenancy
import tiny_model as tiny

KILLS = 200 if os.environ.get("LODGE_TEST_FULL") else 3 if lab.SHORT else 10
SEED = int(os.environ.get("LODGE_TEST_SEED") or random.randrange(1 << 30))


class Rows(tenancy.Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.project, cls.key = cls.server.tenant("acme")

    def row(self, request_id):
        found = self.server.rows("SELECT * FROM ledger WHERE request_id = ?", request_id)
        self.assertEqual(len(found), 1, request_id)
        return found[0]

    def row_soon(self, request_id):
        for _ in range(200 * lab.SLOW):
            if self.server.rows("SELECT 1 FROM ledger WHERE request_id = ?", request_id):
                break
            time.sleep(0.01)
        return self.row(request_id)

    def test_row_is_there_with_the_reply(self):
        """Read at once after the last byte, over and over: no row may come late."""
        for i in range(30):
            stream = bool(i % 2)
            reply = self.server.ask(self.key, "a" * (1 + i), max_tokens=2 + i % 5, stream=stream)
            row = self.row(reply.headers["x-request-id"])
            self.assertEqual((row["prompt_tokens"], row["output_tokens"]), (1 + i, 2 + i % 5))
            self.assertEqual((row["status"], row["finish"], row["model"]), (200, "length", tiny.NAME))

    def test_row_says_what_usage_says(self):
        for fields in ({}, {"n": 3}, {"prompt": ["abc", "defg"], "n": 2}, {"max_tokens": 0, "echo": True},
                       {"best_of": 3, "temperature": 1}, {"prompt": "z" * 200, "max_tokens": 40}):
            with self.subTest(**fields):
                reply = self.server.ask(self.key, **{"prompt": "hello", **fields})
                usage, row = self.ok(reply)["usage"], self.row(reply.headers["x-request-id"])
                self.assertEqual((row["prompt_tokens"], row["output_tokens"], row["cached_tokens"]),
                                 (usage["prompt_tokens"], usage["completion_tokens"],
                                  usage["prompt_tokens_details"]["cached_tokens"]))
                self.assertGreaterEqual(row["page_seconds"], 0)
                self.assertIsNone(row["joules"])

    def test_refused_requests_have_no_row(self):
        before = len(self.server.rows())
        for fields in ({"n": 0}, {"model": "nope"}, {"prompt": ""}, {"prompt": [1] * 70000}):
            self.assertIn(self.server.ask(self.key, **fields).status, (400, 404))
        self.assertEqual(self.server.ask("bad key").status, 401)
        self.assertEqual(len(self.server.rows()), before)

    def test_cancelled_request_pays_for_what_ran(self):
        s = self.server.connect()
        s.sendall(lab.raw_post("/v1/completions", lab.long_job(), f"Authorization: Bearer {self.key}"))
        got = b""
        while got.count(b"data: ") < 50:
            got += s.recv(65536)
        request_id = got.split(b"x-request-id: ")[1].split(b"\r\n")[0].decode()
        s.close()
        row = self.row_soon(request_id)
        self.assertEqual((row["finish"], row["prompt_tokens"]), ("abort", 1))
        self.assertGreaterEqual(row["output_tokens"], got.count(b'"text"'))
        self.assertLess(row["output_tokens"], 60000)

    def test_stalled_reader_pays_for_what_ran(self):
        """All of it was made, little of it was taken, and nothing more will be."""
        n = 3000 if lab.SHORT else 20000  # more than the buffers of both sockets hold
        before = self.server.idle()["vllm:generation_tokens_total"]
        s = self.server.connect(receive_bytes=4096)
        s.sendall(lab.raw_post("/v1/completions", lab.long_job(max_tokens=n), f"Authorization: Bearer {self.key}"))
        got = b""
        while b"x-request-id: " not in got:
            got += s.recv(1024)
        request_id = got.split(b"x-request-id: ")[1].split(b"\r\n")[0].decode()
        m = self.server.until(lambda m: m["vllm:generation_tokens_total"] - before == n)
        self.assertEqual(m["vllm:generation_tokens_total"] - before, n)
        s.close()
        row = self.row_soon(request_id)
        self.assertEqual(row["output_tokens"], n)
        self.assertIn(row["finish"], ("abort", "length") if lab.SHORT else ("abort",))

    def test_queued_and_gone_pays_nothing(self):
        """What never left the queue costs nothing, though it had been admitted."""
        project, key = self.server.tenant("queue")
        server = tenancy.Server("--max-num-seqs", "1")
        try:
            project, key = server.tenant("queue")
            busy = server.connect()
            busy.sendall(lab.raw_post("/v1/completions", lab.long_job(), f"Authorization: Bearer {key}"))
            busy.recv(1000)
            reply = server.ask(key, "waits", timeout=0.3)
            self.assertEqual(reply.status, 503)
            row = tenancy.rows(server.store, "SELECT * FROM ledger WHERE request_id = ?", reply.headers["x-request-id"])[0]
            self.assertEqual((row["prompt_tokens"], row["output_tokens"], row["status"]), (0, 0, 503))
            busy.close()
        finally:
            self.assertEqual(server.stop(), 0)

    def test_usage_buckets_are_the_ledgers_sums(self):
        other, key = self.server.tenant("other one")
        for i in range(7):
            self.server.ask(key if i % 2 else self.key, "a" * i + "b", max_tokens=3 + i)
        for group in ([], ["project_id"], ["project_id", "api_key_id", "model"]):
            want = {}
            for r in self.server.rows("SELECT l.*, p.id AS pid FROM ledger l JOIN projects p ON p.number = l.project"):
                names = {"project_id": r["pid"], "api_key_id": r["key_id"], "model": r["model"]}
                at = tuple(names[g] if g in group else None for g in names)
                sums = want.setdefault(at, [0, 0, 0, 0])
                for k, column in enumerate(("prompt_tokens", "output_tokens", "cached_tokens")):
                    sums[k] += r[column]
                sums[3] += 1
            page = self.server.usage(start_time=int(time.time()) - 86400, group_by=group)
            got = {}
            for bucket in page["data"]:
                self.assertEqual(bucket["start_time"] % 86400, 0)
                for r in bucket["results"]:
                    at = (r["project_id"], r["api_key_id"], r["model"])
                    got[at] = [r["input_tokens"], r["output_tokens"], r["input_cached_tokens"], r["num_model_requests"]]
            self.assertEqual(got, want)

    def test_usage_pages_join(self):
        start = int(time.time()) - 3 * 3600
        whole = self.server.usage(start_time=start, bucket_width="1m", limit=1440)["data"]
        pieces, page = [], {}
        while not pieces or page["has_more"]:
            more = {"page": page["next_page"]} if pieces else {}
            page = self.server.usage(start_time=start, bucket_width="1m", limit=50, **more)
            pieces += page["data"]
        self.assertEqual([b["start_time"] for b in pieces][:len(whole)], [b["start_time"] for b in whole])
        self.assertEqual(sum(r["input_tokens"] for b in pieces for r in b["results"]),
                         sum(r["input_tokens"] for b in whole for r in b["results"]))


class CutShort(unittest.TestCase):
    """Streams that fail end as soon as their row is committed, not at the next sign of life."""

    def stream(self, server, key, **fields):
        s = server.connect(timeout=5 * lab.SLOW)
        s.sendall(lab.raw_post("/v1/completions", lab.long_job(**fields), f"Authorization: Bearer {key}"))
        return s

    def ended_with(self, s, got, code):
        while not got.endswith(b"0\r\n\r\n"):
            more = s.recv(65536)
            self.assertTrue(more, f"cut off: {got[-200:]}")
            got += more
        self.assertIn(f'"code":"{code}"'.encode(), got[-500:])
        s.close()

    def test_it(self):
        server = tenancy.Server("--keepalive", "3600", "--drain-timeout", "0.2")
        self.addCleanup(server.process.kill)
        _, key = server.tenant("acme")
        self.ended_with(self.stream(server, key, timeout=0.3), b"", "timeout")
        s = self.stream(server, key)
        got = s.recv(1000)
        server.signal()
        self.ended_with(s, got, "draining")
        self.assertEqual(server.wait(), 0)
        self.assertEqual([r["finish"] for r in server.rows("SELECT * FROM ledger ORDER BY time_us")], ["abort"] * 2)


class Client(threading.Thread):
    """Streams one reply after the other until the server is gone, and counts what arrives."""

    def __init__(self, port, key, seed, seen):
        super().__init__()
        self.port, self.key, self.random, self.seen = port, key, random.Random(seed), seen

    def one(self):
        stream = self.random.random() < 0.8
        n = self.random.choice((3, 30, 300))
        body = json.dumps({"model": tiny.NAME, "prompt": "a" * self.random.randint(1, 40), "max_tokens": n,
                           "ignore_eos": True, "temperature": 0, "stream": stream,
                           "stream_options": {"include_usage": True} if stream else None})
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        c.request("POST", "/v1/completions", body, {"Content-Type": "application/json", "Authorization": f"Bearer {self.key}"})
        r = c.getresponse()
        mine = {"tokens": 0, "asked": n, "done": False, "stream": stream, "status": r.status}
        self.seen[r.headers["x-request-id"]] = mine
        if not stream:
            mine["tokens"] = json.loads(r.read())["usage"]["completion_tokens"]
            mine["done"] = True
        for line in iter(r.readline, b"") if stream else ():
            mine["tokens"] += line.startswith(b"data: {") and json.loads(line[6:])["choices"] != [] and \
                json.loads(line[6:])["choices"][0]["finish_reason"] is None
            mine["done"] |= line.startswith(b"data: [DONE]")

    def run(self):
        try:
            while True:
                self.one()
        except (OSError, http.client.HTTPException, ValueError):
            pass


class Kills(unittest.TestCase):
    def check(self, store, seen, context):
        charged = {r["request_id"]: r for r in tenancy.rows(store)}
        for request_id, mine in seen.items():
            self.assertIn(request_id, charged, f"{context}: a request that had a reply is not in the ledger: {mine}")
            row = charged[request_id]
            self.assertGreaterEqual(row["output_tokens"], mine["tokens"], f"{context}: {row} {mine}")
            self.assertLessEqual(row["output_tokens"], mine["asked"], f"{context}: {row} {mine}")
            if mine["done"]:
                self.assertEqual((row["output_tokens"], row["finish"]), (mine["asked"], "length"), context)
        return charged

    def test_kill_under_load(self):
        """What clients received is charged, once, and no more than was made; sums agree after every start."""
        store, seen, dice = tenancy.store_path(), {}, random.Random(SEED)
        key = project = None
        for kill in range(KILLS):
            server = tenancy.Server(store=store)
            context = f"seed {SEED}, kill {kill}"
            if not key:
                project, key = server.tenant("acme")
            charged = self.check(store, seen, context)
            spent = sum(r["prompt_tokens"] + r["output_tokens"] for r in charged.values())
            total = sum(r["tokens"] for r in tenancy.rows(store, "SELECT tokens FROM consumption"))
            self.assertEqual(total, spent, context)
            used = server.did("GET", f"projects/{project}/limits")["budget_used_tokens"]
            self.assertEqual(used, spent, context)
            clients = [Client(server.port, key, dice.random(), seen) for _ in range(6)]
            for c in clients:
                c.start()
            time.sleep(dice.uniform(0.05, 0.6) * (3 if lab.SHORT else 1))
            server.signal(signal.SIGKILL)
            server.wait()
            for c in clients:
                c.join()
        server = tenancy.Server(store=store)
        charged = self.check(store, seen, f"seed {SEED}, end")
        crashed = [r for r in charged.values() if r["finish"] == "crash"]
        self.assertTrue(crashed, "no kill met a running request: this test shows nothing")
        self.assertTrue(any(r["output_tokens"] for r in crashed))
        self.assertEqual(server.stop(), 0)
        # A clean stop leaves nothing to settle.
        server = tenancy.Server(store=store)
        self.assertEqual(server.stop(), 0)
        self.assertFalse([e for e in server.log if e["component"] == "ledger"])

    def test_whole_reply_that_was_never_sent_is_free(self):
        store = tenancy.store_path()
        server = tenancy.Server(store=store)
        _, key = server.tenant("acme")
        s = server.connect()
        s.sendall(lab.raw_post("/v1/completions", lab.long_job(stream=False), f"Authorization: Bearer {key}"))
        while not server.metrics()["vllm:generation_tokens_total"]:
            time.sleep(0.01)
        server.signal(signal.SIGKILL)
        server.wait()
        server = tenancy.Server(store=store)
        self.assertEqual(server.stop(), 0)
        row, = tenancy.rows(store)
        self.assertEqual((row["finish"], row["prompt_tokens"], row["output_tokens"]), ("crash", 0, 0))

    def test_settling_twice_charges_once(self):
        """The same journal over and over, as if the process were killed before it emptied it."""
        store = tenancy.store_path()
        server = tenancy.Server(store=store)
        _, key = server.tenant("acme")
        s = server.connect()
        s.sendall(lab.raw_post("/v1/completions", lab.long_job(), f"Authorization: Bearer {key}"))
        got = b""
        while got.count(b"data: ") < 20:
            got += s.recv(65536)
        server.signal(signal.SIGKILL)
        server.wait()
        with open(store + ".journal-live", "rb") as f:
            journal = f.read()
        sums = []
        for _ in range(3):
            with open(store + ".journal-live", "wb") as f:
                f.write(journal)
            server = tenancy.Server(store=store)
            self.assertEqual(server.stop(), 0)
            sums.append((len(tenancy.rows(store)), tenancy.rows(store, "SELECT sum(tokens) AS n FROM consumption")[0]["n"]))
        self.assertEqual(len(set(sums)), 1, sums)
        row, = tenancy.rows(store)
        self.assertGreaterEqual(row["output_tokens"], 20)
        self.assertEqual(row["prompt_tokens"], 1)

    def test_damaged_journal(self):
        store = tenancy.store_path()
        for content, code in ((b"", 0), (b"lodge", 3), (os.urandom(5000), 3)):
            with open(store + ".journal-live", "wb") as f:
                f.write(content)
            server = tenancy.Server(store=store, wait=False)
            self.assertEqual(server.wait_ready(), code == 0, server.told)
            self.assertEqual(server.stop() if code == 0 else server.wait(), code)
            if code:
                self.assertIn("journal", server.told[-1])


if __name__ == "__main__":
    lab.main()
