"""What the tests of tenants share: a server with a store and an admin listener, and its ledger."""
import os
import sqlite3
import tempfile
import urllib.parse

import lab
import tiny_model as tiny

ORG = "/v1/organization"


def store_path(name="lodge.db"):
    return os.path.join(tempfile.mkdtemp(dir=lab.FOLDER.name), name)


class Server(lab.Server):
    def __init__(self, *flags, store=None, **more):
        self.store = store or store_path()
        super().__init__("--store", self.store, "--admin-port", str(lab.free_port()), *flags, **more)

    def admin(self, method, path, body=None, **headers):
        headers = {k.replace("_", "-"): v for k, v in headers.items()}
        return self.request(method, path if path.startswith("/") else f"{ORG}/{path}", body, headers, port=self.admin_port)

    def did(self, method, path, body=None):
        reply = self.admin(method, path, body)
        assert reply.status == 200, reply
        return reply.json

    def tenant(self, name, **limits):
        """A new project with a key; (project id, key)."""
        project = self.did("POST", "projects", {"name": name})["id"]
        if limits:
            self.limit(project, **limits)
        return project, self.did("POST", f"projects/{project}/api_keys", {})["value"]

    def limit(self, project, **limits):
        return self.did("POST", f"projects/{project}/limits", limits)

    def ask(self, key, prompt="a", **fields):
        body = {"model": tiny.NAME, "prompt": prompt, "max_tokens": 6, "temperature": 0, "ignore_eos": True, **fields}
        return self.request("POST", "/v1/completions", body, {"Authorization": f"Bearer {key}"})

    def usage(self, **query):
        query = {"start_time": 0, "bucket_width": "1d", **query}
        return self.did("GET", "usage/completions?" + urllib.parse.urlencode(query, doseq=True))

    def rows(self, sql="SELECT * FROM ledger", *values):
        return rows(self.store, sql, *values)


def rows(path, sql="SELECT * FROM ledger", *values):
    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)
    db.row_factory = sqlite3.Row
    try:
        return [dict(r) for r in db.execute(sql, values)]
    finally:
        db.close()


class Case(lab.ServerCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server(*cls.flags)
