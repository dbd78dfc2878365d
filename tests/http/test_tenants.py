"""Who may ask for what: keys of tenants from their making to their end, and what tenants cannot see of each other."""
import os
import re
import sqlite3
import subprocess
import threading
import time
import unittest

import lab
import tenancy
import tiny_model as tiny


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


class Keys(tenancy.Case):
    flags = ("--api-key", "flag-key", "--served-model-name", tiny.NAME, "second/name")

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.acme, cls.key = cls.server.tenant("acme")

    def models(self, key):
        return self.server.request("GET", "/v1/models", headers=bearer(key))

    def new_key(self, **fields):
        return self.server.did("POST", f"projects/{self.acme}/api_keys", fields)

    def test_form(self):
        self.assertRegex(self.key, r"^lodge_live_[0-9A-Za-z]{46}$")

    def test_needed_everywhere(self):
        for path in ("/v1/models", "/v1/completions", "/tokenize", "/nothing"):
            for headers in ({}, bearer("sk-none"), bearer(self.key[:-1]), bearer(self.key + "x"), {"Authorization": self.key},
                            bearer(self.key[:20] + ("A" if self.key[20] != "A" else "B") + self.key[21:])):
                r = self.server.request("GET", path, headers=headers)
                self.assertEqual(r.status, 401, (path, r))
                self.assertEqual(r.error["code"], "invalid_api_key")
                self.assertEqual(r.headers["WWW-Authenticate"], "Bearer")
        for path in ("/health", "/livez", "/readyz", "/version"):
            self.assertEqual(self.server.get(path).status, 200)

    def test_flag_keys_are_the_default_tenants(self):
        self.ok(self.server.ask("flag-key"))
        row = self.server.rows("SELECT * FROM ledger WHERE key_id = 'key_config'")[0]
        self.assertEqual(row["project"], 1)
        e = self.server.logged(lambda e: e.get("key") == "key_config")
        self.assertEqual(e["tenant"], "proj_default")

    def test_revoked_at_once(self):
        made = self.new_key()
        self.ok(self.server.ask(made["value"]))
        r = self.server.did("DELETE", f"projects/{self.acme}/api_keys/{made['id']}")
        self.assertEqual((r["deleted"], r["id"]), (True, made["id"]))
        self.assertEqual(self.server.ask(made["value"]).status, 401)
        self.assertEqual(self.server.admin("DELETE", f"projects/{self.acme}/api_keys/{made['id']}").status, 404)

    def test_revoked_while_its_reply_runs(self):
        made = self.new_key()
        s = self.server.connect()
        s.sendall(lab.raw_post("/v1/completions", lab.long_job(max_tokens=3000), f"Authorization: Bearer {made['value']}"))
        got = s.recv(1000)
        self.server.did("DELETE", f"projects/{self.acme}/api_keys/{made['id']}")
        while not got.endswith(b"0\r\n\r\n"):
            more = s.recv(65536)
            self.assertTrue(more, "the reply was cut")
            got += more
        self.assertIn(b"data: [DONE]", got)

    def test_expiry(self):
        made = self.new_key(expires_at=int(time.time()) + 2)
        self.ok(self.models(made["value"]))
        time.sleep(2.1)
        self.assertEqual(self.models(made["value"]).status, 401)
        self.refused(self.server.admin("POST", f"projects/{self.acme}/api_keys", {"expires_at": int(time.time()) - 1}),
                     400, "expires_at")

    def test_rotation_overlaps(self):
        old = self.new_key(name="web", models=[tiny.NAME])
        new = self.server.did("POST", f"projects/{self.acme}/api_keys/{old['id']}/rotate", {"overlap_seconds": 2})
        self.assertEqual((new["name"], new["models"]), ("web", [tiny.NAME]))
        self.assertNotEqual(new["id"], old["id"])
        self.ok(self.models(old["value"]))
        self.ok(self.models(new["value"]))
        time.sleep(2.1)
        self.assertEqual(self.models(old["value"]).status, 401)
        self.ok(self.models(new["value"]))
        last = self.server.did("POST", f"projects/{self.acme}/api_keys/{new['id']}/rotate")
        self.assertEqual(self.models(new["value"]).status, 401)
        self.ok(self.models(last["value"]))

    def test_archived_project(self):
        project, key = self.server.tenant("gone")
        self.ok(self.models(key))
        self.assertEqual(self.server.did("DELETE", f"projects/{project}")["status"], "archived")
        self.assertEqual(self.models(key).status, 401)
        for path, body in (("", {"name": "x"}), ("/api_keys", {}), ("/limits", {})):
            self.refused(self.server.admin("POST", f"projects/{project}{path}", body), 400, None, "project_archived")
        self.server.tenant("gone")  # the name is free again

    def test_models_of_a_key(self):
        key = self.new_key(models=["second/name"])["value"]
        self.assertEqual([m["id"] for m in self.ok(self.models(key))["data"]], ["second/name"])
        self.assertEqual(len(self.ok(self.models(self.key))["data"]), 2)
        self.ok(self.server.ask(key, model="second/name"))
        self.refused(self.server.ask(key), 403, "model", "model_not_allowed", "permission_error")
        self.refused(self.server.ask(key, model="nope"), 404, "model", "model_not_found", "not_found_error")
        r = self.server.request("GET", f"/v1/models/{tiny.NAME}", headers=bearer(key))
        self.refused(r, 403, "model", "model_not_allowed", "permission_error")

    def test_secrets_are_nowhere(self):
        self.ok(self.server.ask(self.key))
        listed = self.server.admin("GET", f"projects/{self.acme}/api_keys").body
        for path in (self.server.store, self.server.store + "-wal", self.server.store + ".journal-live"):
            with open(path, "rb") as f:
                content = f.read()
            self.assertNotIn(self.key[11:30].encode(), content)
            self.assertNotIn(self.key.encode(), content)
        self.assertNotIn(self.key, listed + str(self.server.log))

    def test_last_use(self):
        made = self.new_key()
        listed = lambda: [k for k in self.server.did("GET", f"projects/{self.acme}/api_keys?limit=100")["data"]
                          if k["id"] == made["id"]][0]
        self.assertIsNone(listed()["last_used_at"])
        self.ok(self.server.ask(made["value"]))
        self.assertAlmostEqual(listed()["last_used_at"], time.time(), delta=60)

    def test_many_keys_while_asked(self):
        """Keys are made and ended while others ask: nobody is refused who should not be."""
        bad, stop = [], threading.Event()

        def ask():
            while not stop.is_set():
                r = self.server.ask(self.key)
                if r.status != 200:
                    bad.append(r)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for t in threads:
            t.start()
        try:
            for _ in range(40):
                made = self.new_key()
                self.ok(self.models(made["value"]))
                self.server.did("DELETE", f"projects/{self.acme}/api_keys/{made['id']}")
                self.assertEqual(self.models(made["value"]).status, 401)
        finally:
            stop.set()
            for t in threads:
                t.join()
        self.assertFalse(bad)


class Isolation(tenancy.Case):
    def cached(self, key, prompt):
        return self.ok(self.server.ask(key, prompt, max_tokens=1))["usage"]["prompt_tokens_details"]["cached_tokens"]

    def test_prefix_cache(self):
        """What one tenant asked is no hit for another; its own other key does hit."""
        project, one = self.server.tenant("one")
        _, two = self.server.tenant("two")
        second = self.server.did("POST", f"projects/{project}/api_keys", {})["value"]
        prompt = "the secret plan of one " * 20
        self.assertEqual(self.cached(one, prompt), 0)
        self.assertGreater(self.cached(one, prompt), 300)
        self.assertGreater(self.cached(second, prompt), 300)
        self.assertEqual(self.cached(two, prompt), 0)
        self.assertGreater(self.cached(two, prompt), 300)

    def test_salt_of_a_client_does_not_reach_over(self):
        _, one = self.server.tenant("salty")
        _, two = self.server.tenant("salty too")
        prompt = "salted " * 60
        for _ in range(2):
            hit = self.ok(self.server.ask(one, prompt, cache_salt="x"))["usage"]["prompt_tokens_details"]["cached_tokens"]
        self.assertGreater(hit, 0)
        r = self.ok(self.server.ask(two, prompt, cache_salt="x"))
        self.assertEqual(r["usage"]["prompt_tokens_details"]["cached_tokens"], 0)

    def test_metrics_names(self):
        self.server.tenant("visible name")
        _, key = self.server.tenant('quo"te\\d')
        self.ok(self.server.ask(key))
        text = self.server.admin("GET", "/metrics").body
        self.assertIn('lodge_tenant_requests_total{tenant="quo\\"te\\\\d"} 1', text)
        self.assertIn("\n# EOF", self.server.admin("GET", "/metrics", Accept="application/openmetrics-text").body)


class ManyTenants(tenancy.Case):
    def test_metrics_are_capped(self):
        for i in range(110):
            _, key = self.server.tenant(f"many {i}")
            self.ok(self.server.ask(key, max_tokens=1))
        text = self.server.get("/metrics").body
        named = re.findall(r'^lodge_tenant_requests_total\{tenant="(.*)"\} (\d+)', text, re.M)
        self.assertEqual(len(named), 101)
        total = sum(int(n) for _, n in named)
        self.assertEqual(total, self.server.rows("SELECT count(*) AS n FROM ledger")[0]["n"])
        self.assertGreaterEqual(int(dict(named)["other"]), 10)


class Start(unittest.TestCase):
    def run_lodge(self, *args):
        p = subprocess.run([lab.LODGE, "serve", lab.MODEL, "--port", "0", "--threads", "1", "--pool-bytes", "64M", *args],
                           text=True, capture_output=True, timeout=120, env=lab.clean_env())
        return p.returncode, p.stderr

    def fails(self, code, says, *args):
        got, err = self.run_lodge(*args)
        self.assertEqual(got, code, err)
        self.assertIn(says, err.splitlines()[-1])

    def test_bad_stores(self):
        path = tenancy.store_path()
        self.fails(3, "cannot be opened", "--store", "/no/such/folder/x.db")
        self.fails(3, "not a database", "--store", lab.path_of("text.db", "this is a text and no database" * 100))
        db = sqlite3.connect(path)
        db.execute("CREATE TABLE theirs(x)")
        db.commit()
        db.close()
        self.fails(3, "another program", "--store", path)
        path = tenancy.store_path()
        self.assertEqual(tenancy.Server(store=path).stop(), 0)
        db = sqlite3.connect(path)
        db.execute("PRAGMA user_version = 99")
        db.commit()
        db.close()
        self.fails(3, "newer Lodge", "--store", path)

    def test_files_are_private(self):
        server = tenancy.Server()
        folder = os.path.dirname(server.store)
        self.assertGreaterEqual(len(os.listdir(folder)), 3)
        for name in os.listdir(folder):
            self.assertEqual(os.stat(os.path.join(folder, name)).st_mode & 0o077, 0, name)
        self.assertEqual(server.stop(), 0)

    def test_one_server_a_store(self):
        server = tenancy.Server()
        try:
            self.fails(4, "another process", "--store", server.store)
        finally:
            self.assertEqual(server.stop(), 0)
        again = tenancy.Server(store=server.store)
        self.assertEqual(again.stop(), 0)

    def test_backup(self):
        """A copy that SQLite makes while the server runs is a store."""
        server = tenancy.Server()
        _, key = server.tenant("acme")
        self.assertEqual(server.ask(key).status, 200)
        copy = tenancy.store_path()
        with sqlite3.connect(server.store) as a, sqlite3.connect(copy) as b:
            a.backup(b)
        b.close()
        a.close()
        self.assertEqual(server.stop(), 0)
        restored = tenancy.Server(store=copy)
        try:
            self.assertEqual(restored.ask(key).status, 200)
            self.assertEqual(len(restored.rows()), 2)
        finally:
            self.assertEqual(restored.stop(), 0)

    def test_open_to_others(self):
        server = tenancy.Server("--host", "0.0.0.0")
        try:
            _, key = server.tenant("acme")
            self.assertEqual(server.get("/v1/models").status, 401)
            self.assertEqual(server.get("/metrics").status, 401)
            self.assertEqual(server.ask(key).status, 200)
            # Names are not for everybody who has a key.
            r = server.request("GET", "/metrics", headers=bearer(key))
            self.assertEqual(r.status, 200)
            self.assertNotIn("lodge_tenant", r.body)
        finally:
            self.assertEqual(server.stop(), 0)

    def test_names_when_asked_for(self):
        server = tenancy.Server("--host", "0.0.0.0", "--metrics-names")
        try:
            _, key = server.tenant("acme")
            server.ask(key)
            self.assertIn('tenant="acme"', server.admin("GET", "/metrics").body)
        finally:
            self.assertEqual(server.stop(), 0)

    def test_without_a_store(self):
        server = lab.Server("--admin-port", str(lab.free_port()))
        try:
            self.assertEqual(server.complete().status, 200)
            r = server.request("GET", "/v1/organization/projects", port=server.admin_port)
            self.assertEqual((r.status, r.error["code"]), (404, "no_store"))
            r = server.request("GET", "/metrics", port=server.admin_port)
            self.assertIn('lodge_tenant_requests_total{tenant="default"} 1', r.body)
            self.assertEqual(server.post("/v1/completions", {"model": tiny.NAME, "prompt": "a"},
                                         Authorization="Bearer whatever").status, 200)
        finally:
            self.assertEqual(server.stop(), 0)

    def test_a_full_disk_holds_replies_back(self):
        """Rows that cannot be committed are tried again; the reply comes when they are."""
        store = tenancy.store_path()
        server = tenancy.Server(store=store)
        _, key = server.tenant("acme")
        blocker = sqlite3.connect(store, timeout=30, isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        got = []
        t = threading.Thread(target=lambda: got.append(server.ask(key)))
        t.start()
        time.sleep(1)
        self.assertFalse(got, "a reply came before its row")
        # Nobody else waits for the store.
        begin = time.time()
        self.assertEqual(server.request("GET", "/v1/models", headers=bearer(key)).status, 200)
        self.assertLess(time.time() - begin, 0.5 * lab.SLOW)
        blocker.execute("COMMIT")
        t.join()
        self.assertEqual(got[0].status, 200)
        self.assertEqual(len(server.rows()), 1)
        blocker.close()
        self.assertEqual(server.stop(), 0)


if __name__ == "__main__":
    lab.main()
