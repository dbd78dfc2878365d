"""lodgectl against a server: what the admin verbs print is what the API says, and what the bench counts is
what the ledger has."""
import json
import subprocess
import sys
import time

import lab
import tenancy
import tiny_adapter

LODGECTL = sys.argv.pop(2) if len(sys.argv) > 2 else "build-dev/lodgectl"


class Bench(tenancy.Case):
    """lodgectl bench with tenants whose adapters have the same names: its counts are those of the ledger."""

    def bench(self, *args):
        p = subprocess.run([LODGECTL, "bench", f"http://127.0.0.1:{self.server.port}", *map(str, args), "--json", "--prompt-kind",
                            "text", "--warmup", "0"], text=True, capture_output=True, timeout=120, env=lab.clean_env())
        self.assertEqual(p.returncode, 0, p.stdout + p.stderr)
        return json.loads(p.stdout)

    def test_tenants(self):
        projects, lines = {}, []
        for i, token in enumerate((42, 43, 35)):
            name = f"team-{i}"
            projects[name], key = self.server.tenant(name, **({"requests_per_minute": 5} if i == 2 else {}))
            for k in range(3):
                self.server.did("POST", f"projects/{projects[name]}/adapters", {
                    "name": f"lora{k}", "path": tiny_adapter.write(lab.path_of(f"bench-{i}-{k}"), token + k)})
            lines.append(f"{name} {key} rate=20 models=lora{{0..2}} input=3 output={4 + i}\n")
        path = lab.path_of("bench-tenants", "".join(lines))
        j = self.bench("--tenants", path, "--num-prompts", 120)
        self.server.idle()
        for t in j["tenants"]:
            rows = self.server.rows("SELECT ledger.* FROM ledger JOIN projects ON number = project WHERE id = ? "
                                    "AND output_tokens > 1", projects[t["name"]])
            with self.subTest(t["name"]):
                self.assertEqual(t["completed"], len(rows))
                self.assertEqual(t["total_output_tokens"], sum(r["output_tokens"] for r in rows))
        a, b, limited = j["tenants"]
        self.assertEqual([t["requests"] for t in j["tenants"]], [40] * 3)
        self.assertEqual((a["failed"], b["failed"], limited["errors"]), (0, 0, 0))
        self.assertGreaterEqual(limited["rate_limited"], 20)
        self.assertEqual(j["rate_limited"], j["failed"])
        # Replies with adapters are those of an idle server.
        path = lab.path_of("bench-tenants", "".join(lines[:2]).replace("rate=20", "concurrency=4"))
        check = self.bench("--tenants", path, "--num-prompts", 100, "--check")["check"]
        self.assertEqual((check["sampled"], check["same"]), (5, 5), check)


class Verbs(tenancy.Case):
    flags = ("--admin-key-file", lab.path_of("ctl-key", "the admin\n"))

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.env = {"LODGE_ADMIN_URL": f"http://127.0.0.1:{cls.server.admin_port}", "LODGE_ADMIN_KEY": "the admin"}

    def ctl(self, *args, code=0, **env):
        p = subprocess.run([LODGECTL, *args], text=True, capture_output=True, timeout=60,
                           env=lab.clean_env(**{**self.env, **env}))
        self.assertEqual(p.returncode, code, p.stdout + p.stderr)
        self.assertEqual(bool(p.stderr), bool(code), p.stderr)
        return p.stdout if not code else p.stderr

    def json(self, *args):
        return json.loads(self.ctl(*args, "--json"), object_pairs_hook=lab.no_twins)

    def test_a_tenants_life(self):
        made = self.json("tenants", "create", "acme", "--tier", "1", "--weight", "2", "--metadata", "a=b", "c=d=e")
        self.assertEqual((made["name"], made["tier"], made["weight"], made["metadata"]),
                         ("acme", 1, 2, {"a": "b", "c": "d=e"}))
        self.assertIn(made["id"], self.ctl("tenants", "list"))
        self.assertEqual(self.json("tenants", "show", "acme"), made)
        self.assertEqual(self.json("tenants", "show", made["id"]), made)
        self.assertEqual(self.json("tenants", "update", "acme", "--name", "acme2")["name"], "acme2")
        key = self.json("keys", "create", "acme2", "--name", "web", "--expires", "1h", "--models", "tiny")
        self.assertAlmostEqual(key["expires_at"], time.time() + 3600, delta=60)
        self.assertEqual(self.server.ask(key["value"]).status, 200)
        new = self.json("keys", "rotate", "acme2", key["id"], "--overlap", "0s")
        self.assertEqual(self.server.ask(key["value"]).status, 401)
        self.assertEqual(self.server.ask(new["value"]).status, 200)
        limits = self.json("limits", "set", "acme2", "--requests-per-minute", "10", "--resident-bytes", "2M",
                           "--budget-tokens", "1000", "--budget-period", "total")
        self.assertEqual((limits["requests_per_minute"], limits["resident_bytes"], limits["budget_tokens"],
                          limits["budget_period"]), (10, 2 << 20, 1000, "total"))
        self.assertIsNone(self.json("limits", "set", "acme2", "--requests-per-minute", "none")["requests_per_minute"])
        self.assertEqual(self.json("limits", "show", "acme2")["budget_used_tokens"], 14)
        self.ctl("tenants", "create", "friend")
        self.ctl("adapters", "add", "acme2", "fin/sql", tiny_adapter.write(lab.path_of("sql"), 42))
        shared = self.json("adapters", "share", "acme2", "fin/sql", "friend")
        self.assertEqual(shared["shared_with"], [self.json("tenants", "show", "friend")["id"]])
        self.assertEqual([a["name"] for a in self.json("adapters", "list", "acme2")["data"]], ["fin/sql"])
        flipped = self.json("adapters", "replace", "acme2", "fin/sql", tiny_adapter.write(lab.path_of("sql2"), 43))
        self.assertEqual((flipped["path"], flipped["shared_with"]), (lab.path_of("sql2"), shared["shared_with"]))
        self.assertIn("fin/sql", self.ctl("adapters", "remove", "acme2", "fin/sql"))
        sums = [r for b in self.json("usage", "--group-by", "project_id", "model")["data"] for r in b["results"]]
        self.assertEqual([(r["num_model_requests"], r["input_tokens"], r["output_tokens"], r["model"]) for r in sums
                          if r["project_id"] == made["id"]], [(2, 2, 12, "tiny")])
        table = self.ctl("usage", "--project", "acme2").splitlines()
        self.assertEqual(len(table), 2)
        self.assertEqual(table[1].split()[2:8], [made["id"], "-", "-", "2", "2", "0"])
        self.assertEqual(self.ctl("usage", "--start", "2d", "--end", "1d").count("\n"), 1)
        self.ctl("keys", "revoke", "acme2", new["id"])
        self.assertEqual(self.json("keys", "list", "acme2")["data"], [])
        self.assertEqual(self.json("tenants", "archive", "acme2")["status"], "archived")
        self.assertNotIn("acme2", self.ctl("tenants", "list"))
        self.assertIn("acme2", self.ctl("tenants", "list", "--all"))

    def test_a_name_like_an_id(self):
        made = self.json("tenants", "create", "proj_x")
        self.assertEqual(self.json("tenants", "show", "proj_x"), made)
        self.assertEqual(self.json("tenants", "show", made["id"]), made)
        self.ctl("tenants", "create", "proj_default")
        self.assertEqual(self.json("tenants", "show", "proj_default")["name"], "default", "ids come first")
        self.ctl("tenants", "archive", "proj_x")
        self.assertEqual(self.json("tenants", "show", made["id"])["status"], "archived")

    def test_long_lists_come_whole(self):
        for i in range(105):
            assert self.server.request("POST", f"{tenancy.ORG}/projects", {"name": f"long {i}"},
                                       {"Authorization": "Bearer the admin"}, port=self.server.admin_port).status == 200
        listed = self.json("tenants", "list")
        names = [p["name"] for p in listed["data"]]
        self.assertEqual([n for n in names if n.startswith("long")], [f"long {i}" for i in range(105)])
        self.assertFalse(listed["has_more"])
        self.ctl("tenants", "show", "long 104")

    def test_faults(self):
        self.assertRegex(self.ctl("tenants", "list", LODGE_ADMIN_KEY="wrong", code=2), "admin key.*--admin-key-file FILE")
        for weight in ("nan", "inf", "1x"):
            self.assertIn("no number", self.ctl("tenants", "create", "x", "--weight", weight, code=2))
        for url in ("ftp://127.0.0.1", "", "file:///etc/passwd"):
            self.assertIn("is no URL", self.ctl("tenants", "list", "--admin-url", url, code=2))
        self.ctl("tenants", "list", "--admin-key-file", lab.path_of("ctl-key2", "the admin\r\nmore"), LODGE_ADMIN_KEY="wrong")
        self.assertIn("is the server running", self.ctl("tenants", LODGE_ADMIN_URL="http://127.0.0.1:9", code=4))
        self.assertIn("no tenant", self.ctl("keys", "list", "nobody", code=2))
        self.assertIn("usage: lodgectl keys create TENANT", self.ctl("keys", "create", code=2))
        self.assertIn("unknown verb", self.ctl("keys", "mend", code=2))
        self.assertIn("no duration", self.ctl("keys", "create", "x", "--expires", "soon", code=2))
        self.assertIn("nothing to set", self.ctl("limits", "set", "x", code=2))
        self.assertIn("no number", self.ctl("limits", "set", "x", "--host-bytes", "much", code=2))
        self.assertIn("'tier'", self.ctl("tenants", "create", "y", "--tier", "99", code=2))
        self.assertIn("--admin-key-file", self.ctl("tenants", "--admin-key-file", "/nonexistent", code=2))
        self.assertIn("unknown flag", self.ctl("usage", "--tier", "1", code=2))
        for noun in ("tenants", "keys", "limits", "adapters", "usage"):
            self.assertIn(f"usage: lodgectl {noun} VERB", self.ctl(noun, "--help"))


if __name__ == "__main__":
    lab.main()
