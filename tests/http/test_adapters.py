"""Adapters by name: flags, directory, scales, listing, churn; every reply has a closed form."""
import json
import os
import shutil
import threading

import lab
import tiny_adapter
import tiny_model as tiny

STAR, PLUS, HASH, BACK = ord("*"), ord("+"), ord("#"), ord("`")


def folder(name):
    path = lab.path_of(name)
    os.makedirs(path, exist_ok=True)
    return path


def make_dir(name, tokens):
    path = folder(name)
    for key, token in tokens.items():
        tiny_adapter.write(os.path.join(path, key), token)
    return path


class Names(lab.ServerCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = make_dir("shelf", {"star": STAR, "plus": PLUS})
        tiny_adapter.write(lab.path_of("hash"), HASH, rank=3)
        tiny_adapter.write(lab.path_of("talks"), HASH, template="{{ 'Q' + messages[0].content }}")
        os.symlink(lab.path_of("hash"), os.path.join(cls.dir, "out"))
        os.makedirs(os.path.join(cls.dir, "empty"))
        open(os.path.join(cls.dir, "file"), "w").close()
        cls.flags = ("--adapter-dir", cls.dir, "--lora-modules", "acme/hash=" + lab.path_of("hash"),
                     json.dumps({"name": "talks", "path": lab.path_of("talks")}))
        super().setUpClass()

    def reply(self, model, bumps, prompt="a", **fields):
        r = self.ok(self.server.complete(prompt, model=model, logprobs=2, **fields))
        self.assertEqual(r["model"], model)
        c = r["choices"][0]
        want, cur = tiny_adapter.follow(ord(prompt[-1]), 6, bumps), ord(prompt[-1])
        self.assertEqual(c["text"], tiny.text_of(want))
        for token, got in zip(want, c["logprobs"]["token_logprobs"]):
            self.assertAlmostEqual(got, tiny_adapter.logprobs(cur, bumps)[token], delta=2e-4)
            cur = token
        return r

    def test_model_names_an_adapter(self):
        for model, bumps in ((tiny.NAME, {}), ("star", {STAR: 24}), ("plus", {PLUS: 24}), ("acme/hash", {HASH: 24})):
            self.reply(model, bumps)
            self.reply(model, bumps, prompt="!")

    def test_scales_and_sets(self):
        sets = [([("star", 0)], {}), ([("star", 0.5)], {STAR: 12}), ([("star", -1)], {STAR: -24}),
                ([("star", 0.25), ("plus", 0.5)], {STAR: 6, PLUS: 12}),
                ([("star", 0.5), ("acme/hash", 0.5), ("plus", 0.75)], {STAR: 12, HASH: 12, PLUS: 18})]
        for adapters, bumps in sets:
            listed = [{"name": n, "scale": s} for n, s in adapters]
            self.reply(tiny.NAME, bumps, adapters=listed)
        self.reply("plus", {PLUS: 24, STAR: 36}, adapters=[{"name": "star", "scale": 1.5}])
        self.reply("plus", {PLUS: 24, STAR: 24}, adapters=[{"name": "star"}])

    def test_bad_sets(self):
        cases = [("star", "adapters"), ([1], "adapters[0]"), ([{}], "adapters[0].name"), ([{"name": 5}], "adapters[0].name"),
                 ([{"name": "star", "scale": 9}], "adapters[0].scale"), ([{"name": "star", "scale": "1"}], "adapters[0].scale"),
                 ([{"name": "star"}] * 9, "adapters")]
        for value, param in cases:
            with self.subTest(value=value):
                self.refused(self.server.complete(adapters=value), 400, param)
        self.refused(self.server.complete(adapters=[{"name": "star"}, {"name": "star"}]), 400, "adapters", says="twice")
        self.refused(self.server.complete(model="star", adapters=[{"name": "star"}]), 400, "adapters", says="twice")
        self.refused(self.server.complete(adapters=[{"name": "nope"}]), 404, "adapters[0].name", "model_not_found",
                     kind="not_found_error")

    def test_names_stay_in_the_directory(self):
        for name in ("nope", "../hash", "star/", "./star", ".", "..", "/etc", "shelf/star", "out", "x" * 300, ""):
            with self.subTest(name=name):
                r = self.server.complete(model=name)
                self.assertIn(r.status, (400, 404))
                self.assertEqual(r.error["param"], "model")
                self.assertNotIn(lab.FOLDER.name, r.body)

    def test_what_is_no_adapter(self):
        for name in ("empty", "file"):
            r = self.server.complete(model=name)
            self.assertIn(r.status, (400, 404), r)
            self.assertIn("adapter", r.error["message"])
            self.assertNotIn(lab.FOLDER.name, r.body)

    def test_errors_call_files_of_the_directory_by_name(self):
        bad = tiny_adapter.write(os.path.join(self.dir, "bad"), STAR, config={"r": 9})
        r = self.server.complete(model="bad")
        shutil.rmtree(bad)
        self.refused(r, 400, "model", says='adapter "bad" rejected: bad/adapter_model.safetensors: tensor ')

    def test_cards(self):
        cards = {c["id"]: c for c in self.server.get("/v1/models").json["data"]}
        self.assertLessEqual({tiny.NAME, "acme/hash", "talks", "star", "plus"}, set(cards))
        self.assertIsNone(cards[tiny.NAME]["parent"])
        self.assertEqual({cards[n]["parent"] for n in ("acme/hash", "star")}, {tiny.NAME})
        for name in ("star", "acme/hash", tiny.NAME):
            self.assertEqual(self.server.get("/v1/models/" + name).json["id"], name)
        self.assertEqual(self.server.get("/v1/models/nope").status, 404)

    def test_own_template(self):
        ids = self.server.post("/tokenize", {"model": "talks", "messages": [{"role": "user", "content": "hm"}]}).json["tokens"]
        self.assertEqual(ids, list(b"Qhm"))
        ids = self.server.post("/tokenize", {"model": "star", "messages": [{"role": "user", "content": "hm"}]}).json["tokens"]
        self.assertEqual(ids, tiny.chat_ids(("user", "hm")))
        r = self.ok(self.server.chat(model="talks", messages=[{"role": "user", "content": "hm"}]))
        self.assertEqual(r["choices"][0]["message"]["content"], "######")
        self.assertEqual(r["usage"]["prompt_tokens"], 3)

    def test_prefixes_do_not_cross(self):
        """The same prompt under another adapter, or scale, is another prefix."""
        prompt = "z" * 200
        hits = []
        for model, scale in (("star", 1), ("star", 1), ("plus", 1), (tiny.NAME, 1), ("star", 0.5), ("star", 0.5)):
            r = self.ok(self.server.complete(prompt, model=tiny.NAME,
                                             adapters=[] if model == tiny.NAME else [{"name": model, "scale": scale}]))
            hits.append(r["usage"]["prompt_tokens_details"]["cached_tokens"] > 0)
        self.assertEqual(hits, [False, True, False, False, False, True])

    def test_one_batch(self):
        """Many at once, of all names: each gets its own."""
        kinds = [(tiny.NAME, {}), ("star", {STAR: 24}), ("plus", {PLUS: 24}), ("acme/hash", {HASH: 24})]
        faults = []

        def client(i):
            for k in range(5 if lab.SHORT else 20):
                model, bumps = kinds[(i + k) % 4]
                start = "abcdefgh"[i]
                r = self.server.complete(start, model=model, max_tokens=20)
                want = tiny.text_of(tiny_adapter.follow(ord(start), 20, bumps))
                if r.status != 200 or r.json["choices"][0]["text"] != want:
                    faults.append((model, r))

        threads = [threading.Thread(target=client, args=(i,)) for i in range(8)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(faults, [])

    def test_metrics(self):
        self.server.complete(model="star")
        self.server.complete(model="star")
        m = self.server.idle()
        pages = {k: v for k, v in m.items() if k.startswith("lodge_pool_pages")}
        self.assertEqual(pages['lodge_pool_pages{state="adapter"}'], 0)
        self.assertGreaterEqual(pages['lodge_pool_pages{state="cached"}'], 1)
        self.assertGreaterEqual(m['lodge_adapters{state="resident"}'], 1)
        self.assertGreaterEqual(m["lodge_adapter_uploads_total"], 1)
        info = [line for line in self.server.get("/metrics").body.splitlines() if line.startswith("vllm:lora_requests_info{")]
        self.assertEqual(len(info), 1)
        self.assertIn("star", info[0])


class Churn(lab.ServerCase):
    """More adapters than the pool and the host cache hold."""
    n = 24
    tokens = {f"t{i}": 33 + i for i in range(n)}

    @classmethod
    def setUpClass(cls):
        cls.dir = make_dir("many", cls.tokens)
        cls.flags = ("--adapter-dir", cls.dir, "--pool-bytes", "96k", "--max-model-len", "64", "--host-cache-bytes", "64k",
                     "--max-num-seqs", "4")
        super().setUpClass()

    def test_all_are_served(self):
        total = sum(v for k, v in self.server.metrics().items() if k.startswith("lodge_pool_pages"))
        faults = []

        def client(first):
            for k in range(12 if lab.SHORT else 48):
                i = (first * 7 + k * 5) % self.n
                r = self.server.complete("a", model=f"t{i}", max_tokens=4)
                if r.status != 200 or r.json["choices"][0]["text"] != chr(33 + i) * 4:
                    faults.append((i, r))
                m = self.server.metrics()
                pages = sum(v for k, v in m.items() if k.startswith("lodge_pool_pages"))
                if pages != total:
                    faults.append((pages, total))

        threads = [threading.Thread(target=client, args=(i,)) for i in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(faults[:3], [])
        m = self.server.idle()
        self.assertGreater(m["lodge_adapter_evictions_total"], 0)
        self.assertGreater(m["lodge_adapter_loads_total"], self.n, "read again from the disk")
        self.assertEqual(m['lodge_pool_pages{state="adapter"}'] + m['lodge_pool_pages{state="kv"}'], 0)
        self.assertLessEqual(m['lodge_adapter_bytes{state="host"}'], 64 << 10)

    def test_files_that_change(self):
        """What is in memory goes on; what must be read again is refused once, then is what the directory says."""
        tiny_adapter.write(os.path.join(self.dir, "doomed"), STAR)  # the same content as t9, so the same version
        self.ok(self.server.complete(model="doomed"))
        tiny_adapter.write(os.path.join(self.dir, "fresh"), BACK)
        self.ok(self.server.complete(model="fresh"))
        for name in ("doomed", "fresh"):
            tiny_adapter.write(os.path.join(self.dir, name), PLUS)
        for i in range(self.n):  # out of the pool and the host cache
            self.ok(self.server.complete(model=f"t{i}"))
        r = self.server.complete(model="fresh")
        self.assertEqual((r.status, r.error["type"], r.error["code"]), (503, "overloaded_error", "adapter_lost"), r)
        self.assertIn("changed", r.error["message"])
        self.assertEqual(self.ok(self.server.complete(model="fresh"))["choices"][0]["text"], "++++++")
        self.assertEqual(self.ok(self.server.complete(model="t9"))["choices"][0]["text"], "******")
        for name in ("doomed", "fresh"):
            shutil.rmtree(os.path.join(self.dir, name))


class Refused(lab.unittest.TestCase):
    def test_a_bad_adapter_ends_the_start(self):
        cases = [({"config": {"use_qalora": True}}, "qalora"), ({"config": {"r": 2}}, "r"), ({"config": {"peft_type": "IA3"}}, "IA3"),
                 ({"config": {"target_modules": ["q_proj"]}}, "lm_head"), ({"bump": float("nan")}, "finite")]
        for i, (change, says) in enumerate(cases):
            with self.subTest(change=change):
                path = tiny_adapter.write(lab.path_of(f"bad{i}"), STAR, **change)
                s = lab.Server("--lora-modules", "bad=" + path, wait=False)
                self.assertEqual(s.wait(), 3, s.told)
                self.assertIn(says, s.told[-1])
                self.assertTrue(s.told[-1].startswith("lodge: "))


if __name__ == "__main__":
    lab.main()
