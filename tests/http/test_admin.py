"""The admin API: its routes, their shapes, their faults, and who may use it."""
import json
import socket
import subprocess
import time
import unittest

import lab
import tenancy
import tiny_adapter

JSON = {"Content-Type": "application/json"}


class Resources(tenancy.Case):
    def bad(self, reply, param, says="", code=None):
        self.refused(reply, 400, param, code, says=says)

    def post(self, path, body):
        return self.server.admin("POST", path, body)

    def test_project(self):
        made = self.server.did("POST", "projects", {"name": "acme", "tier": 2, "weight": 0.5, "metadata": {"crm": "42"}})
        self.assertRegex(made["id"], r"^proj_[0-9A-Za-z]{24}$")
        self.assertAlmostEqual(made["created_at"], time.time(), delta=60)
        self.assertEqual({k: made[k] for k in ("object", "name", "tier", "weight", "metadata", "status", "archived_at")},
                         {"object": "organization.project", "name": "acme", "tier": 2, "weight": 0.5,
                          "metadata": {"crm": "42"}, "status": "active", "archived_at": None})
        path = f"projects/{made['id']}"
        self.assertEqual(self.server.did("GET", path), made)
        changed = self.server.did("POST", path, {"tier": 0, "name": "Acme Ltd ☃"})
        self.assertEqual(changed, {**made, "tier": 0, "name": "Acme Ltd ☃"})
        self.assertEqual(self.server.did("POST", path, {}), changed)
        gone = self.server.did("DELETE", path)
        self.assertEqual(gone, {**changed, "status": "archived", "archived_at": gone["archived_at"]})
        self.assertNotIn(made["id"], self.ids("projects?limit=100"))
        self.assertIn(made["id"], self.ids("projects?limit=100&include_archived=true"))

    def ids(self, path):
        return [p["id"] for p in self.server.did("GET", path)["data"]]

    def test_faults_of_projects(self):
        for body, param in (({}, "name"), ({"name": ""}, "name"), ({"name": "x" * 129}, "name"), ({"name": 5}, "name"),
                            ({"name": "a\nb"}, "name"), ({"name": "a", "tier": 8}, "tier"), ({"name": "a", "tier": -1}, "tier"),
                            ({"name": "a", "tier": "1"}, "tier"), ({"name": "a", "tier": True}, "tier"),
                            ({"name": "a", "weight": 0}, "weight"), ({"name": "a", "weight": 1e9}, "weight"),
                            ({"name": "a", "metadata": []}, "metadata"), ({"name": "a", "metadata": {"a": 1}}, "metadata"),
                            ({"name": "a", "metadata": {str(i): "" for i in range(17)}}, "metadata")):
            with self.subTest(**body):
                self.bad(self.post("projects", body), param)
        self.bad(self.post("projects", {"name": "a", "naem": 1}), "naem", code="unknown_parameter")
        self.bad(self.post("projects", []), None, "JSON object")
        self.bad(self.post("projects", b"{"), None)
        self.bad(self.post("projects", b'{"name":"a","name":"b"}'), None)
        self.bad(self.server.admin("DELETE", "projects/proj_default"), None, "default")
        r = self.server.request("POST", f"{tenancy.ORG}/projects", "{}", {"Content-Type": "text/plain"},
                                port=self.server.admin_port)
        self.assertEqual(r.status, 415)
        r = self.post("projects", json.dumps({"name": "a", "metadata": {"a": "x" * (5 << 20)}}))
        self.assertEqual(r.status, 413)

    def test_names_are_taken_once(self):
        self.server.tenant("taken")
        other, _ = self.server.tenant("free")
        for path, body in (("projects", {"name": "taken"}), (f"projects/{other}", {"name": "taken"})):
            r = self.post(path, body)
            self.refused(r, 409, "name", "name_taken", "conflict_error")
            self.assertEqual(r.headers["x-should-retry"], "false")
        self.server.did("POST", f"projects/{other}", {"name": "free"})

    def test_unknown_things(self):
        project, _ = self.server.tenant("known")
        for path, code in (("projects/proj_x", "project_not_found"), (f"projects/{project}/api_keys/key_x", "key_not_found"),
                           (f"projects/{project}/adapters/x", "adapter_not_found")):
            for method in ("GET", "DELETE"):
                self.refused(self.server.admin(method, path), 404, None, code, "not_found_error")
        for path in ("nothing", f"projects/{project}/nothing", "", "projects//limits"):
            self.refused(self.server.admin("GET", path), 404, None, "not_found", "not_found_error")
        r = self.server.admin("PUT", "projects")
        self.assertEqual((r.status, r.headers["Allow"]), (405, "GET, POST"))

    def test_key_of_another_project(self):
        one, _ = self.server.tenant("owner")
        two, _ = self.server.tenant("thief")
        key = self.server.did("GET", f"projects/{one}/api_keys")["data"][0]["id"]
        self.assertEqual(self.server.admin("DELETE", f"projects/{two}/api_keys/{key}").status, 404)
        self.assertEqual(self.server.admin("POST", f"projects/{two}/api_keys/{key}/rotate", {}).status, 404)
        self.assertEqual(self.server.admin("DELETE", f"projects/{one}/api_keys/{key}").status, 200)

    def test_key_shape(self):
        project, _ = self.server.tenant("shape")
        made = self.server.did("POST", f"projects/{project}/api_keys", {"name": "web", "models": ["a", "b"]})
        value = made.pop("value")
        self.assertEqual(made["redacted_value"], value[:15] + "..." + value[-4:])
        self.assertEqual(made["object"], "organization.project.api_key")
        self.assertEqual(made["project_id"], project)
        self.assertEqual(self.server.did("GET", f"projects/{project}/api_keys/{made['id']}"), made)
        listed = self.server.did("GET", f"projects/{project}/api_keys")["data"]
        self.assertIn(made, listed)
        for body, param in (({"models": []}, "models"), ({"models": "a"}, "models"), ({"models": [1]}, "models"),
                            ({"models": [""]}, "models"), ({"name": 1}, "name"), ({"expires_at": "x"}, "expires_at"),
                            ({"scope": 1}, "scope")):
            r = self.post(f"projects/{project}/api_keys", body)
            self.assertEqual((r.status, r.error["param"]), (400, param))
        r = self.post(f"projects/{project}/api_keys/{made['id']}/rotate", {"overlap_seconds": -1})
        self.bad(r, "overlap_seconds")

    def test_pages(self):
        ids = [self.server.tenant(f"page {i}")[0] for i in range(7)]
        for limit in (1, 2, 3, 7, 100):
            seen, after = [], None
            while True:
                page = self.server.did("GET", f"projects?limit={limit}" + (f"&after={after}" if after else ""))
                self.assertEqual(page["object"], "list")
                self.assertLessEqual(len(page["data"]), limit)
                seen += [p["id"] for p in page["data"]]
                if page["data"]:
                    self.assertEqual((page["first_id"], page["last_id"]), (page["data"][0]["id"], page["data"][-1]["id"]))
                after = page["last_id"]
                if not page["has_more"]:
                    break
                self.assertEqual(len(page["data"]), limit)
            self.assertEqual([i for i in seen if i in ids], ids)
            self.assertEqual(len(seen), len(set(seen)))
        for query, param in (("limit=0", "limit"), ("limit=101", "limit"), ("limit=x", "limit"), ("after=nope", "after")):
            self.bad(self.server.admin("GET", f"projects?{query}"), param)
        self.bad(self.server.admin("GET", "projects?pages=1"), "pages", code="unknown_parameter")

    def test_limits(self):
        project, _ = self.server.tenant("limited")
        path = f"projects/{project}/limits"
        numbers = ("requests_per_minute", "tokens_per_minute", "max_concurrent", "loads_per_minute", "resident_bytes",
                   "host_bytes", "budget_tokens")
        first = self.server.did("GET", path)
        self.assertEqual([first[n] for n in numbers], [None] * 7)
        want = {n: 10 + i for i, n in enumerate(numbers)}
        got = self.server.did("POST", path, {**want, "budget_period": "day"})
        self.assertEqual({n: got[n] for n in want}, want)
        self.assertEqual(got["budget_period"], "day")
        got = self.server.did("POST", path, {"host_bytes": None, "max_concurrent": 1})
        self.assertEqual({n: got[n] for n in want}, {**want, "host_bytes": None, "max_concurrent": 1})
        for n in numbers:
            for value in (0, -1, "1", 1.5, True, 1 << 60):
                self.bad(self.post(path, {n: value}), n)
        self.bad(self.post(path, {"budget_period": "year"}), "budget_period")
        self.bad(self.post(path, {"budget_period": 1}), "budget_period")
        self.assertEqual(self.server.did("GET", path), got)

    def test_adapters(self):
        project, _ = self.server.tenant("owns")
        other, _ = self.server.tenant("borrows")
        path = f"projects/{project}/adapters"
        sql, second = (tiny_adapter.write(lab.path_of(n), t) for n, t in (("sql", 42), ("second", 43)))
        made = self.server.did("POST", path, {"name": "fin/sql.v2", "path": sql})
        digest = made["digest"]
        self.assertEqual(len(digest), 64)
        self.assertEqual({k: made[k] for k in ("object", "id", "name", "path", "digest", "project_id", "shared_with")},
                         {"object": "organization.project.adapter", "id": "fin/sql.v2", "name": "fin/sql.v2",
                          "path": sql, "digest": digest, "project_id": project, "shared_with": []})
        self.refused(self.post(path, {"name": "fin/sql.v2", "path": second}), 409, "name", "name_taken", "conflict_error")
        self.bad(self.post(path, {"name": "other", "path": "/no/such/folder"}), "path")
        shared = self.server.did("POST", f"{path}/fin/sql.v2/share", {"project": other})
        self.assertEqual(shared, {**made, "shared_with": [other]})
        self.assertEqual(self.server.did("POST", f"{path}/fin%2Fsql.v2/share", {"project": other}), shared)
        self.assertEqual(self.server.did("GET", path)["data"], [shared])
        flipped = self.server.did("POST", path, {"name": "fin/sql.v2", "path": second, "load_inplace": True})
        self.assertEqual((flipped["path"], flipped["shared_with"], flipped["digest"] != digest), (second, [other], True))
        for body, param in (({"path": "/x"}, "name"), ({"name": "a"}, "path"), ({"name": "a", "path": sql, "load_inplace": 1}, "load_inplace"), ({"name": "a", "path": "x"}, "path"),
                            ({"name": "a", "path": "/x/../y"}, "path"), ({"name": "a", "path": "/x/.."}, "path"),
                            ({"name": "a", "path": 1}, "path"), ({"name": "../a", "path": "/x"}, "name"),
                            ({"name": "a//b", "path": "/x"}, "name"), ({"name": ".a", "path": "/x"}, "name"),
                            ({"name": "a/", "path": "/x"}, "name"), ({"name": "a/share", "path": "/x"}, "name"),
                            ({"name": "a b", "path": "/x"}, "name"), ({"name": "é", "path": "/x"}, "name"),
                            ({"name": "tiny", "path": "/x"}, "name")):
            with self.subTest(**body):
                self.bad(self.post(path, body), param)
        for body in ({}, {"project": project}, {"project": "proj_x"}, {"project": 1}):
            self.bad(self.post(f"{path}/fin/sql.v2/share", body), "project")
        self.assertEqual(self.post(f"{path}/nope/share", {"project": other}).status, 404)
        self.assertEqual(self.server.did("DELETE", f"{path}/fin/sql.v2")["deleted"], True)
        self.assertEqual(self.server.did("GET", path)["data"], [])
        self.assertEqual(self.server.did("POST", path, {"name": "fin/sql.v2", "path": sql})["shared_with"], [])

    def test_faults_of_usage(self):
        for query, param in (("", "start_time"), ("start_time=x", "start_time"), ("start_time=5&end_time=5", "end_time"),
                             ("start_time=0&bucket_width=1w", "bucket_width"), ("start_time=0&limit=32", "limit"),
                             ("start_time=0&bucket_width=1m&limit=1441", "limit"), ("start_time=0&group_by=user_id", "group_by"),
                             ("start_time=0&page=7", "page"), ("start_time=0&page=x", "page")):
            with self.subTest(query=query):
                self.bad(self.server.admin("GET", f"usage/completions?{query}"), param)
        self.bad(self.server.admin("GET", "usage/completions?start_time=0&models=x"), "models", code="unknown_parameter")

    def test_everything_is_there_after_a_start(self):
        project, key = self.server.tenant("lasting", requests_per_minute=7)
        other, _ = self.server.tenant("friend")
        self.server.did("POST", f"projects/{project}/adapters", {"name": "a", "path": tiny_adapter.write(lab.path_of("a"), 42)})
        self.server.did("POST", f"projects/{project}/adapters/a/share", {"project": other})
        paths = [f"projects/{project}" + p for p in ("", "/limits", "/api_keys", "/adapters")]
        before = [self.server.did("GET", p) for p in paths]
        type(self).server.stop()
        type(self).server = tenancy.Server(store=self.server.store)
        self.assertEqual([self.server.did("GET", p) for p in paths], before)

    def test_log(self):
        project, _ = self.server.tenant("logged")
        e = self.server.logged(lambda e: e.get("target", "").endswith(f"{project}/api_keys"))
        self.assertEqual((e["actor"], e["method"], e["status"]), ("local", "POST", 200))
        self.assertEqual(e["path"], "/v1/organization/projects/{id}/api_keys")


class Access(unittest.TestCase):
    def start(self, *flags, **more):
        server = tenancy.Server(*flags, **more)
        self.addCleanup(lambda: self.assertEqual(server.stop(), 0))
        return server

    def test_keys(self):
        server = self.start("--admin-key-file", lab.path_of("admin-keys", "first\n\nsecond \n"))
        _, path = None, "projects"
        for headers, status in (({}, 401), ({"Authorization": "Bearer first"}, 200), ({"Authorization": "Bearer second "}, 401),
                                ({"Authorization": "Bearer firs"}, 401)):
            self.assertEqual(server.admin("GET", path, **headers).status, status, headers)
        self.assertEqual(server.admin("GET", "/metrics").status, 401)
        self.assertEqual(server.admin("GET", "/nothing").status, 401)
        # The admin's key is none of a tenant, nor the other way round.
        made = server.request("POST", f"{tenancy.ORG}/projects/proj_default/api_keys", {},
                              {"Authorization": "Bearer first"}, port=server.admin_port).json
        self.assertEqual(server.ask("first").status, 401)
        self.assertEqual(server.ask(made["value"]).status, 200)
        self.assertEqual(server.admin("GET", path, Authorization=f"Bearer {made['value']}").status, 401)
        server.logged(lambda e: e.get("actor") == "admin-key-1")
        server.logged(lambda e: e.get("actor") == "none" and e["status"] == 401)

    def test_not_on_the_main_listener(self):
        server = self.start("--api-key", "k")
        r = server.request("GET", f"{tenancy.ORG}/projects", headers={"Authorization": "Bearer k"})
        self.assertEqual(r.status, 404)
        self.assertEqual(server.admin("GET", "/v1/models").status, 404)

    def test_pages_of_browsers(self):
        """Without a key a web page must not get through: neither by its Origin nor by a name of its own."""
        server = self.start()
        for headers in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}, {"Host": "evil.example:80"}):
            r = server.admin("GET", "projects", **headers)
            self.assertEqual((r.status, r.error["code"]), (403, "host_not_allowed"))
        self.assertEqual(server.admin("GET", "projects", Host="localhost:1").status, 200)

    def test_slow_clients_hold_nobody_up(self):
        server = self.start("--body-timeout", "1")
        socks = []
        for head in (b"", b"GET /nothing HTTP/1.1\r\n", lab.raw_post("/v1/organization/projects", {"name": "x"})[:-3]):
            s = socket.create_connection(("127.0.0.1", server.admin_port), timeout=30 * lab.SLOW)
            s.sendall(head)
            socks.append(s)
        self.assertEqual(server.admin("GET", "projects").status, 200)
        for s in socks:
            lab.read_all(s)  # ends: the server closes them
            s.close()

    def test_stop_with_open_connections(self):
        server = tenancy.Server()
        s = socket.create_connection(("127.0.0.1", server.admin_port))
        s.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.assertEqual(lab.read_reply(s)[0], 200)
        self.assertEqual(server.stop(), 0)
        s.close()

    def refused(self, *flags):
        p = subprocess.run([lab.LODGE, "serve", lab.MODEL, "--port", "0", *flags], text=True, capture_output=True,
                           timeout=60, env=lab.clean_env())
        self.assertEqual(p.returncode, 2, p.stderr)
        return p.stderr

    def test_settings(self):
        self.assertIn("a key is required", self.refused("--admin-port", "1", "--admin-host", "0.0.0.0"))
        self.assertIn("--admin-key-file", self.refused("--admin-port", "1", "--admin-key-file", "/nonexistent"))
        self.assertIn("no key in it", self.refused("--admin-port", "1", "--admin-key-file", lab.path_of("none", "\n\n")))
        self.assertIn("--admin-host", self.refused("--admin-port", "1", "--admin-host", "no such host", "--admin-key-file",
                                                   lab.path_of("one", "k")))
        for store in ("", ":memory:", "postgres://db/lodge"):
            self.assertIn("must be the path of a file", self.refused("--store", store))


if __name__ == "__main__":
    lab.main()
