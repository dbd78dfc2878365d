"""Adapters of tenants: own, shared, published; limits; the load routes; nothing of one is seen by another."""
import json
import os
import shutil
import statistics
import threading
import time

import lab
import tenancy
import tiny_adapter
import tiny_model as tiny

STAR, PLUS, HASH = ord("*"), ord("+"), ord("#")
ADMIN = "of all admins"


def adapter(name, token, **more):
    return tiny_adapter.write(lab.path_of(name), token, **more)


class Case(tenancy.Case):
    @classmethod
    def setUpClass(cls):
        cls.dir = os.path.join(lab.FOLDER.name, "shelf")
        tiny_adapter.write(os.path.join(cls.dir, "common"), HASH)
        cls.flags = ("--adapter-dir", cls.dir)
        super().setUpClass()

    def text(self, key, model, **fields):
        r = self.server.ask(key, model=model, **fields)
        return r.json["choices"][0]["text"] if r.status == 200 else r.status

    def restart(self, meanwhile=lambda: None):
        self.assertEqual(self.server.stop(), 0)
        meanwhile()
        type(self).server = tenancy.Server(*self.flags, store=self.server.store)

    def own(self, project, name, path, **more):
        return self.server.did("POST", f"projects/{project}/adapters", {"name": name, "path": path, **more})


class Owners(Case):
    def test_equal_names(self):
        (a, key_a), (b, key_b), (_, key_c) = (self.server.tenant(n) for n in ("eq-a", "eq-b", "eq-c"))
        self.own(a, "sql", adapter("sql-a", STAR))
        self.own(b, "sql", adapter("sql-b", PLUS))
        self.assertEqual([self.text(k, "sql") for k in (key_a, key_b, key_c)], ["******", "++++++", 404])
        self.assertEqual([self.text(k, "common") for k in (key_a, key_b, key_c)], ["######"] * 3)
        for key, there in ((key_a, True), (key_b, True), (key_c, False)):
            cards = [c["id"] for c in self.server.request("GET", "/v1/models", None, {"Authorization": f"Bearer {key}"}).json["data"]]
            self.assertEqual((cards.count("sql"), cards.count("common")), (int(there), 1))
            one = self.server.request("GET", "/v1/models/sql", None, {"Authorization": f"Bearer {key}"})
            self.assertEqual(one.status, 200 if there else 404)
        # A tenant's own name stands before a published one.
        self.own(a, "common", adapter("mine", PLUS))
        self.assertEqual([self.text(k, "common") for k in (key_a, key_b)], ["++++++", "######"])

    def test_what_is_refused_names_nobody(self):
        (a, _), (_, key) = (self.server.tenant(n) for n in ("secret-owner", "curious"))
        path = adapter("hidden-folder", STAR)
        self.own(a, "hidden", path)
        for r in (self.server.ask(key, model="hidden"), self.server.ask(key, adapters=[{"name": "hidden"}]),
                  self.server.ask(key, model="nope")):
            self.assertEqual(r.status, 404)
            for word in ("secret-owner", a, "hidden-folder", lab.FOLDER.name):
                self.assertNotIn(word, r.body)
        a, b = (self.server.ask(key, model=m).body.replace(m, "X") for m in ("hidden", "absent"))
        self.assertEqual(a, b, "an adapter of somebody else looks like none at all")

    def test_share_and_withdraw(self):
        (a, key_a), (b, key_b) = (self.server.tenant(n) for n in ("lender", "borrower"))
        self.own(a, "lent", adapter("lent", STAR))
        self.assertEqual(self.text(key_b, "lent"), 404)
        self.server.did("POST", f"projects/{a}/adapters/lent/share", {"project": b})
        self.assertEqual([self.text(k, "lent") for k in (key_a, key_b)], ["******"] * 2)
        self.server.did("DELETE", f"projects/{a}/adapters/lent")
        self.assertEqual([self.text(k, "lent") for k in (key_a, key_b)], [404, 404])

    def test_shares_take_nobodys_name(self):
        """An adapter of a tenant's own stands before what is shared with it, whatever came first, and after a start."""
        (a, key_a), (b, key_b), (c, _) = (self.server.tenant(n) for n in ("giver", "taker", "other-giver"))
        share = lambda owner, to: self.server.admin("POST", f"projects/{owner}/adapters/twin/share", {"project": to})
        self.own(a, "twin", adapter("twin-a", STAR))
        self.own(b, "twin", adapter("twin-b", PLUS))
        self.own(c, "twin", adapter("twin-c", HASH))
        r = share(a, b)
        self.assertEqual((r.status, r.error["param"], r.error["code"]), (409, "project", "name_taken"), r)
        self.assertEqual([self.text(k, "twin") for k in (key_a, key_b)], ["******", "++++++"])
        self.server.did("DELETE", f"projects/{b}/adapters/twin")
        self.assertEqual((share(a, b).status, share(a, b).status, share(c, b).status), (200, 200, 409))
        self.assertEqual(self.text(key_b, "twin"), "******")
        self.own(b, "twin", lab.path_of("twin-b"))
        self.assertEqual(self.text(key_b, "twin"), "++++++")
        self.restart()
        self.assertEqual([self.text(k, "twin") for k in (key_a, key_b)], ["******", "++++++"])
        self.server.did("DELETE", f"projects/{b}/adapters/twin")
        self.assertEqual(self.text(key_b, "twin"), "******")
        self.own(b, "twin", lab.path_of("twin-b"))
        self.server.did("DELETE", f"projects/{a}/adapters/twin")
        self.assertEqual([self.text(k, "twin") for k in (key_a, key_b)], [404, "++++++"])

    def test_keys_with_models(self):
        project, _ = self.server.tenant("strict")
        self.own(project, "sql", adapter("strict-sql", STAR))
        self.own(project, "law", adapter("strict-law", PLUS))
        key = self.server.did("POST", f"projects/{project}/api_keys", {"models": ["sql", tiny.NAME]})["value"]
        self.assertEqual(self.text(key, "sql"), "******")
        self.assertEqual(self.text(key, "law"), 403)
        self.assertEqual(self.text(key, "absent"), 404)
        self.assertEqual(self.text(key, tiny.NAME, adapters=[{"name": "law"}]), 403)

    def test_flip_under_load(self):
        """A name changes its version in one step; running requests keep theirs."""
        project, key = self.server.tenant("flips")
        paths = {"*": adapter("flip-a", STAR), "+": adapter("flip-b", PLUS)}
        self.own(project, "now", paths["*"])
        faults, stop = [], threading.Event()

        def client():
            while not stop.is_set():
                text = self.text(key, "now", max_tokens=40)
                if text not in ("*" * 40, "+" * 40):
                    faults.append(text)

        threads = [threading.Thread(target=client) for _ in range(4)]
        for t in threads:
            t.start()
        for i in range(6 if lab.SHORT else 30):
            self.own(project, "now", paths["+*"[i % 2]], load_inplace=True)
            self.assertEqual(self.text(key, "now"), "+*"[i % 2] * 6)
        stop.set()
        for t in threads:
            t.join()
        self.assertEqual(faults, [])

    def test_after_a_start(self):
        """Names of the store are read when they are first used, and must be what was registered."""
        project, key = self.server.tenant("returns")
        kept, changed = adapter("kept", STAR), adapter("changed", STAR)
        self.own(project, "kept", kept)
        self.own(project, "changed", changed)
        broken = adapter("is-broken", STAR)
        self.own(project, "broken", broken)

        def meanwhile():
            adapter("changed", PLUS)
            lab.path_of("is-broken/adapter_config.json", "{")

        self.restart(meanwhile)
        self.assertEqual(self.text(key, "kept"), "******")
        r = self.server.ask(key, model="broken")
        self.assertEqual((r.status, r.error["param"]), (400, "model"), r)
        self.assertIn("broken/adapter_config.json", r.error["message"])
        self.assertNotIn(lab.FOLDER.name, r.body, "an operator's path")
        r = self.server.ask(key, model="changed")
        self.assertEqual((r.status, r.error["code"]), (503, "adapter_lost"))
        self.assertIn("changed", r.error["message"])

    def test_ledger(self):
        project, key = self.server.tenant("pays")
        made = self.own(project, "sql", adapter("paid", STAR))
        self.assertEqual(self.text(key, "sql"), "******")
        row = self.server.rows("SELECT * FROM ledger WHERE model = 'sql'")[-1]
        digest = row["adapter"].hex() if isinstance(row["adapter"], bytes) else row["adapter"]
        self.assertEqual((digest, row["output_tokens"]), (made["digest"], 6))


class Limits(Case):
    def test_loads(self):
        project, key = self.server.tenant("loads", loads_per_minute=2)
        for i in range(4):
            tiny_adapter.write(os.path.join(self.dir, f"l{i}"), STAR + i)
        got = [self.server.ask(key, model=f"l{i}") for i in range(4)]
        self.assertEqual([r.status for r in got], [200, 200, 429, 429])
        self.assertEqual(got[2].error["code"], "rate_limit_exceeded")
        self.assertIn("Retry-After", got[2].headers)
        self.assertEqual(self.text(key, "l0"), "******", "what is loaded costs nothing")

    def test_host_bytes(self):
        project, key = self.server.tenant("host")
        made = self.own(project, "one", adapter("h1", STAR))
        self.assertEqual(self.text(key, "one"), "******")
        self.server.limit(project, host_bytes=20000)
        r = self.server.admin("POST", f"projects/{project}/adapters", {"name": "two", "path": adapter("h2", PLUS)})
        self.assertEqual((r.status, r.error["param"]), (400, "path"), r)
        self.assertIn("limit 20000", r.error["message"])
        self.server.did("DELETE", f"projects/{project}/adapters/one")
        self.own(project, "two", lab.path_of("h2"))
        self.assertEqual(self.text(key, "two"), "++++++")
        self.assertTrue(made)

    def test_resident_bytes(self):
        project, key = self.server.tenant("resident", resident_bytes=20000)
        self.own(project, "one", adapter("r1", STAR))
        self.own(project, "two", adapter("r2", PLUS))
        self.assertEqual(self.text(key, "one"), "******")
        self.assertEqual(self.text(key, "two"), "++++++")
        self.assertEqual(self.text(key, "one", adapters=[{"name": "two"}]), 429)
        s = self.server.connect()
        s.sendall(lab.raw_post("/v1/completions", lab.long_job(model="one"), f"Authorization: Bearer {key}"))
        self.assertTrue(s.recv(100))
        r = self.server.ask(key, model="two")
        self.assertEqual((r.status, r.error["code"]), (429, "rate_limit_exceeded"))
        self.assertEqual(self.text(key, "one"), "******", "the same adapter counts once")
        s.close()
        end = time.time() + 10 * lab.SLOW
        while self.text(key, "two") == 429 and time.time() < end:
            time.sleep(0.02)
        self.assertEqual(self.text(key, "two"), "++++++")


class Lost(lab.unittest.TestCase):
    def attempt(self, server, name, low_key, high_key):
        path = tiny_adapter.write(os.path.join(self.shelf, name), STAR, rank=96)  # 48 of the pool's 64 pages
        self.assertEqual(server.ask(low_key, model=name).status, 200)
        shutil.rmtree(path)
        s = server.connect(timeout=5 * lab.SLOW)
        s.sendall(lab.raw_post("/v1/completions", lab.long_job(model=name, max_tokens=500),
                               f"Authorization: Bearer {low_key}", "Connection: close"))
        self.assertEqual(server.ask(high_key, "y" * 64, max_tokens=900).status, 200)
        got = lab.read_all(s)
        s.close()
        self.assertNotIn(b"internal_error", got)
        return got.startswith(b"HTTP/1.1 200") and b'"code":"adapter_lost"' in got[-500:]

    def test_preempted_and_gone(self):
        """A reply gives way to a higher tier, its adapter leaves for the other's pages, and the files are gone. (Or, on a busy
        machine, it has ended when the other comes: then once more.)"""
        self.shelf = os.path.join(lab.FOLDER.name, "lost-shelf")
        os.makedirs(self.shelf)
        server = tenancy.Server("--pool-bytes", "256K", "--max-model-len", "1024", "--host-cache-bytes", "4096",
                                "--adapter-dir", self.shelf, "--keepalive", "3600")
        self.addCleanup(server.process.kill)
        (low, low_key), (_, high_key) = (server.tenant(n) for n in ("low", "high"))
        server.did("POST", f"projects/{low}", {"tier": 5})
        self.assertTrue(any(self.attempt(server, f"wide{i}", low_key, high_key) for i in range(50)))
        self.assertEqual(server.ask(low_key, model="wide0").status, 404)
        self.assertEqual(server.stop(), 0)


class Isolation(Case):
    def test_prefixes(self):
        """Two tenants, the same adapter name and content, the same prompts: no hit across, one inside."""
        (a, key_a), (b, key_b) = (self.server.tenant(n) for n in ("iso-a", "iso-b"))
        for project in (a, b):
            self.own(project, "sql", adapter("iso-sql", STAR))
        prompt = "y" * 300
        cached = lambda key: self.server.ask(key, prompt, model="sql").json["usage"]["prompt_tokens_details"]["cached_tokens"]
        self.assertEqual([cached(key_a), cached(key_a) > 200, cached(key_b), cached(key_b) > 200], [0, True, 0, True])

    def test_timing(self):
        """Does B see by the time to its first token that A asked the same before? Pairs of fresh prompts, one of which A asked
        a moment ago; the mean difference over its standard error must stay below 4. The power: the same test finds what A
        itself would see (a hit), by more than 4."""
        (_, key_a), (_, key_b) = (self.server.tenant(n) for n in ("clock-a", "clock-b"))

        def took(key, prompt):
            begin = time.perf_counter()
            self.assertEqual(self.server.ask(key, prompt, max_tokens=1).status, 200)
            return time.perf_counter() - begin

        def difference(reader, n):
            out = []
            for i in range(n):
                asked, fresh = (f"{chr(97 + k)}{reader}{i:04d}" + "w" * (1500 if lab.SHORT else 6000) for k in (0, 1))
                took(key_a, asked)
                pair = [(asked, took), (fresh, took)]
                if i % 2:
                    pair.reverse()
                times = {p: f(key_b if reader == "b" else key_a, p) for p, f in pair}
                out.append(times[fresh] - times[asked])
            return statistics.mean(out) / (statistics.stdev(out) / len(out) ** 0.5)

        n = 12 if lab.SHORT else 40
        self.assertGreater(difference("a", n), 4, "the test could not see a hit")
        self.assertLess(abs(difference("b", n)), 4)


class PublicPrefix(tenancy.Case):
    system = "do well, " * 40
    flags = ("--public-prefix", lab.path_of("system.txt", system), "--lora-modules",
             "open=" + adapter("open", STAR))

    def cached(self, key, user, model=tiny.NAME, system=None, **fields):
        body = {"model": model, "max_tokens": 2, "temperature": 0,
                "messages": [{"role": "system", "content": system or self.system}, {"role": "user", "content": user}], **fields}
        r = self.server.request("POST", "/v1/chat/completions", body, {"Authorization": f"Bearer {key}"})
        return self.ok(r)["usage"]["prompt_tokens_details"]["cached_tokens"]

    def test_it_is_shared_and_nothing_else(self):
        (a, key_a), (_, key_b), (_, key_c) = (self.server.tenant(n) for n in ("pub-a", "pub-b", "pub-c"))
        inside = (len(self.system) + 8) // 32 * 32
        user = "u" * 200
        self.assertEqual(self.cached(key_a, user), 0)
        self.assertEqual(self.cached(key_b, user), inside, "the system prompt, and not a token of the user's")
        self.assertGreater(self.cached(key_b, user), inside, "its own prompt it finds whole")
        self.assertEqual(self.cached(key_c, user, cache_salt="mine"), 0)
        self.assertEqual(self.cached(key_c, user, system="x" + self.system), 0)
        # By published adapters as well, each for itself; never by a tenant's own.
        self.assertEqual(self.cached(key_a, user, "open"), 0)
        self.assertEqual(self.cached(key_b, user, "open"), inside)
        self.server.did("POST", f"projects/{a}/adapters", {"name": "own", "path": adapter("own", STAR)})
        self.assertEqual(self.cached(key_a, user, "own"), 0)


class LoadRoutes(lab.unittest.TestCase):
    def test_routes(self):
        s = lab.Server("--admin-key-file", lab.path_of("admin-keys", ADMIN + "\n"))
        head = {"Authorization": "Bearer " + ADMIN}
        load = lambda **body: s.request("POST", "/v1/load_lora_adapter", body, head)
        unload = lambda **body: s.request("POST", "/v1/unload_lora_adapter", body, head)
        star, plus = adapter("route-star", STAR), adapter("route-plus", PLUS)
        ask = lambda: s.complete(model="r")
        self.assertEqual(ask().status, 404)
        r = load(lora_name="r", lora_path=star)
        self.assertEqual((r.status, r.body), (200, "Success: LoRA adapter 'r' added successfully."))
        self.assertEqual(ask().json["choices"][0]["text"], "******")
        for body, status, param in (({"lora_name": "r", "lora_path": plus}, 400, "lora_name"), ({"lora_path": plus}, 400, "lora_name"),
                                    ({"lora_name": "x"}, 400, "lora_path"), ({"lora_name": "x", "lora_path": "/nope"}, 404, "lora_path"),
                                    ({"lora_name": "x", "lora_path": lab.FOLDER.name}, 404, "lora_path"),
                                    ({"lora_name": tiny.NAME, "lora_path": star}, 400, "lora_name"),
                                    ({"lora_name": "a b", "lora_path": star}, 400, "lora_name"),
                                    ({"lora_name": 5, "lora_path": star}, 400, "lora_name")):
            with self.subTest(body=body):
                r = load(**body)
                self.assertEqual((r.status, r.error["param"]), (status, param), r)
        self.assertEqual(load(lora_name="r", lora_path=plus, load_inplace=True).status, 200)
        self.assertEqual(ask().json["choices"][0]["text"], "++++++")
        r = unload(lora_name="r")
        self.assertEqual((r.status, r.body), (200, "Success: LoRA adapter 'r' removed successfully."))
        self.assertEqual((ask().status, unload(lora_name="r").status), (404, 404))
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            self.assertEqual(s.request("POST", "/v1/load_lora_adapter", {"lora_name": "r", "lora_path": star}, headers).status, 401)
        self.assertEqual(s.stop(), 0)

    def test_without_admin_keys(self):
        s = lab.Server("--api-key", "plain")
        for headers in ({}, {"Authorization": "Bearer plain"}):
            r = s.request("POST", "/v1/load_lora_adapter", {"lora_name": "r", "lora_path": "/"}, headers)
            self.assertEqual((r.status, r.error["code"]), (403, "admin_key_not_set"))
        self.assertEqual(s.stop(), 0)


if __name__ == "__main__":
    lab.main()
