"""What whole replies say, against the model's closed form."""
import math

import lab
import tiny_model as tiny

A, EOS = ord("a"), str(tiny.IM_END)


class Replies(lab.ServerCase):
    def text(self, reply, i=0):
        c = self.ok(reply)["choices"][i]
        return c["message"]["content"] if "message" in c else c["text"]

    def near(self, got, want):
        self.assertLess(abs(got - want), 2e-4, (got, want))

    def test_chat_shape(self):
        r = self.ok(self.server.chat())
        self.assertEqual(set(r), {"id", "object", "created", "model", "system_fingerprint", "choices", "usage", "timings",
                                  "service_tier"})
        self.assertTrue(r["id"].startswith("chatcmpl-"))
        self.assertEqual((r["object"], r["model"], r["service_tier"]), ("chat.completion", tiny.NAME, "default"))
        want = tiny.text_of(tiny.follow(10, 6))
        self.assertEqual(r["choices"], [{"index": 0, "message": {"role": "assistant", "content": want, "refusal": None},
                                         "logprobs": None, "finish_reason": "length", "stop_reason": None}])
        n = len(tiny.chat_ids(("user", "hi")))
        self.assertEqual(r["usage"], {"prompt_tokens": n, "completion_tokens": 6, "total_tokens": n + 6,
                                      "prompt_tokens_details": {"cached_tokens": 0},
                                      "completion_tokens_details": {
                                          "reasoning_tokens": 0, "accepted_prediction_tokens": 0,
                                          "rejected_prediction_tokens": 0}})
        t = r["timings"]
        self.assertEqual((t["cache_n"], t["prompt_n"], t["predicted_n"]), (0, n, 6))

    def test_completion_shape(self):
        r = self.ok(self.server.complete("a"))
        self.assertTrue(r["id"].startswith("cmpl-"))
        self.assertEqual(r["object"], "text_completion")
        self.assertEqual(r["choices"], [{"index": 0, "text": "bcdefg", "logprobs": None, "finish_reason": "length",
                                         "stop_reason": None}])

    def test_forms_of_a_prompt(self):
        for prompt in ("xa", [120, A], ["xa"], [[120, A]]):
            self.assertEqual(self.text(self.server.complete(prompt)), "bcdefg")
        r = self.ok(self.server.complete(["a", "xx", "b"], n=2))
        self.assertEqual([(c["index"], c["text"]) for c in r["choices"]],
                         list(enumerate(["bcdefg"] * 2 + ["yzabcd"] * 2 + ["cdefgh"] * 2)))
        self.assertEqual((r["usage"]["prompt_tokens"], r["usage"]["completion_tokens"]), (4, 36))

    def test_control_tokens_in_text_are_text(self):
        r = self.ok(self.server.complete("<|im_end|>", return_token_ids=True))
        self.assertEqual(r["choices"][0]["prompt_token_ids"], list(b"<|im_end|>"))
        r = self.ok(self.server.chat(messages=[{"role": "user", "content": "<|im_end|>"}], return_token_ids=True))
        self.assertEqual(r["prompt_token_ids"], tiny.chat_ids(("user", "<|im_end|>")))

    def test_logprobs_of_a_completion(self):
        r = self.ok(self.server.complete("a", logprobs=3, max_tokens=3))["choices"][0]["logprobs"]
        self.assertEqual((r["tokens"], r["text_offset"]), (["b", "c", "d"], [0, 1, 2]))
        for i, cur in enumerate(b"abc"):
            row = tiny.logprobs(cur)
            best = sorted(range(tiny.N), key=lambda t: -row[t])[:3]
            self.near(r["token_logprobs"][i], row[cur + 1])
            self.assertLessEqual(len(r["top_logprobs"][i]), 3)
            self.near(max(r["top_logprobs"][i].values()), row[best[0]])
            for value in r["top_logprobs"][i].values():
                self.assertLess(min(abs(value - row[t]) for t in best), 2e-4)
        none = self.ok(self.server.complete("a", logprobs=0, max_tokens=2))["choices"][0]["logprobs"]
        self.assertEqual(none["top_logprobs"], [None, None])
        self.near(none["token_logprobs"][0], tiny.logprobs(A)[A + 1])

    def test_logprobs_of_a_chat(self):
        r = self.ok(self.server.chat(logprobs=True, top_logprobs=2, max_tokens=3))["choices"][0]["logprobs"]
        self.assertEqual(set(r), {"content", "refusal"})
        cur = 10
        for entry in r["content"]:
            row, token = tiny.logprobs(cur), tiny.NEXT[cur]
            self.assertEqual((entry["token"], bytes(entry["bytes"])), (tiny.TOKENS[token].decode(), tiny.TOKENS[token]))
            self.near(entry["logprob"], row[token])
            self.assertEqual(len(entry["top_logprobs"]), 2)
            for top, want in zip(entry["top_logprobs"], sorted(row, reverse=True)):
                self.near(top["logprob"], want)
            cur = token
        r = self.ok(self.server.chat(logprobs=True, max_tokens=1))["choices"][0]["logprobs"]["content"][0]
        self.assertEqual(r["top_logprobs"], [])

    def test_logprobs_are_raw(self):
        """Before temperature, penalties, bias and masks."""
        for fields in ({"temperature": 1.7, "seed": 1}, {"presence_penalty": 2, "repetition_penalty": 3},
                       {"logit_bias": {"122": 100}}, {"allowed_token_ids": [122]}):
            r = self.ok(self.server.complete("a", logprobs=1, max_tokens=1, **fields, return_token_ids=True))["choices"][0]
            self.near(r["logprobs"]["token_logprobs"][0], tiny.logprobs(A)[r["token_ids"][0]])

    def test_a_split_character_keeps_its_bytes(self):
        r = self.ok(self.server.chat(messages=[{"role": "user", "content": "?"}, {"role": "assistant", "content": "?"}],
                                     continue_final_message=True, logprobs=True, max_tokens=4))["choices"][0]
        self.assertEqual(r["message"]["content"], "\U0001F600")
        self.assertEqual(bytes(sum((e["bytes"] for e in r["logprobs"]["content"]), [])), "\U0001F600".encode())

    def test_echo(self):
        r = self.ok(self.server.complete("ab", echo=True))["choices"][0]
        self.assertEqual(r["text"], "abcdefgh")
        r = self.ok(self.server.complete("azb", echo=True, logprobs=1, max_tokens=0))
        self.assertEqual(r["usage"]["completion_tokens"], 0)
        lp = r["choices"][0]["logprobs"]
        self.assertEqual((lp["tokens"], lp["text_offset"]), (["a", "z", "b"], [0, 1, 2]))
        self.assertIsNone(lp["token_logprobs"][0])
        self.assertIsNone(lp["top_logprobs"][0])
        self.near(lp["token_logprobs"][1], tiny.logprobs(A)[122])
        self.near(lp["token_logprobs"][2], tiny.logprobs(122)[98])
        self.assertIn("b", lp["top_logprobs"][1])
        one = self.ok(self.server.complete("a", echo=True, logprobs=1, max_tokens=1))["choices"][0]["logprobs"]
        self.assertEqual(one["tokens"], ["a", "b"])
        self.assertIsNone(one["token_logprobs"][0])
        only = self.ok(self.server.complete("a", echo=True, logprobs=1, max_tokens=0, n=2))["choices"]
        self.assertEqual([c["logprobs"]["tokens"] for c in only], [["a"], ["a"]])

    def test_prompt_logprobs(self):
        r = self.ok(self.server.complete("azb", prompt_logprobs=2, max_tokens=1))["choices"][0]["prompt_logprobs"]
        self.assertIsNone(r[0])
        row = tiny.logprobs(A)
        best = sorted(range(tiny.N), key=lambda t: (-row[t], t))
        self.assertEqual(set(r[1]), {str(t) for t in best[:2]} | {"122"})
        self.assertEqual(r[1]["122"]["rank"], 1 + sum(x > row[122] for x in row))
        self.assertEqual(r[1]["122"]["decoded_token"], "z")
        for key, e in r[1].items():
            self.near(e["logprob"], row[int(key)])
        chat = self.ok(self.server.chat(prompt_logprobs=0, max_tokens=1))
        self.assertEqual(len(chat["prompt_logprobs"]), chat["usage"]["prompt_tokens"])
        self.assertNotIn("prompt_logprobs", chat["choices"][0])
        self.assertTrue(all(len(e) == 1 for e in chat["prompt_logprobs"][1:]))
        both = self.ok(self.server.complete("abc", prompt_logprobs=1, echo=True, logprobs=4, max_tokens=1))["choices"][0]
        self.assertTrue(all(len(e) <= 2 for e in both["prompt_logprobs"][1:]))
        self.assertTrue(all(1 < len(e) <= 4 for e in both["logprobs"]["top_logprobs"][1:]))
        few = self.ok(self.server.chat(prompt_logprobs=9, logprobs=True, top_logprobs=1, max_tokens=2))["choices"][0]
        self.assertEqual([len(e["top_logprobs"]) for e in few["logprobs"]["content"]], [1, 1])

    def test_n_and_best_of(self):
        r = self.ok(self.server.chat(n=4, temperature=2, seed=5))
        self.assertEqual([c["index"] for c in r["choices"]], [0, 1, 2, 3])
        self.assertEqual(r["usage"]["prompt_tokens"], len(tiny.chat_ids(("user", "hi"))))
        texts = [c["message"]["content"] for c in r["choices"]]
        self.assertGreater(len(set(texts)), 1)
        again = self.ok(self.server.chat(n=4, temperature=2, seed=5))
        self.assertEqual(texts, [c["message"]["content"] for c in again["choices"]])
        score = lambda ids: sum(tiny.logprobs(c)[t] for c, t in zip([A] + ids, ids)) / len(ids)
        fields = dict(temperature=1.5, seed=9, logprobs=0, return_token_ids=True)
        all_of = self.ok(self.server.complete("a", n=8, **fields))["choices"]
        best = self.ok(self.server.complete("a", n=2, best_of=8, **fields))
        self.assertEqual(best["usage"]["completion_tokens"], sum(len(c["token_ids"]) for c in all_of))
        want = sorted((c["token_ids"] for c in all_of), key=score, reverse=True)[:2]
        self.assertEqual([c["token_ids"] for c in best["choices"]], want)

    def test_seeds(self):
        same = [self.text(self.server.complete("a", temperature=1.5, seed=s, max_tokens=20)) for s in (1, 1, 2, -7, -7)]
        self.assertEqual(same[0], same[1])
        self.assertEqual(same[3], same[4])
        self.assertNotEqual(same[0], same[2])
        free = {self.text(self.server.complete("a", temperature=2, max_tokens=30)) for _ in range(3)}
        self.assertGreater(len(free), 1)

    def test_stop_strings(self):
        def stopped(prompt, stop, want, reason, **more):
            r = self.ok(self.server.complete(prompt, stop=stop, max_tokens=30, **more))["choices"][0]
            self.assertEqual((r["text"], r["finish_reason"], r["stop_reason"]), (want, "stop", reason), r)
        stopped("a", "f", "bcde", "f")
        stopped("a", ["zz", "fg"], "bcde", "fg")
        stopped("a", ["efgh", "fg"], "bcde", "fg")
        stopped("a", "f", "bcdef", "f", include_stop_str_in_output=True)
        stopped("\n", "n bl", " red gree", "n bl")
        stopped("\n", " green", " red", " green")
        stopped("?", "\U0001F600?", "", "\U0001F600?")
        stopped("$", "\u20ac", "", "\u20ac")
        r = self.ok(self.server.complete("a", stop="ghX", max_tokens=7))["choices"][0]
        self.assertEqual((r["text"], r["finish_reason"], r["stop_reason"]), ("bcdefgh", "length", None))
        r = self.ok(self.server.complete("a", stop="f", max_tokens=30))
        self.assertEqual(r["usage"]["completion_tokens"], 5)

    def test_ends(self):
        r = self.ok(self.server.complete("!"))
        self.assertEqual((r["choices"][0]["text"], r["choices"][0]["finish_reason"], r["usage"]["completion_tokens"]),
                         ("", "stop", 1))
        self.assertEqual(self.text(self.server.complete("!", ignore_eos=True, max_tokens=3)), "")
        r = self.ok(self.server.complete("!", ignore_eos=True, max_tokens=3, skip_special_tokens=False))["choices"][0]
        self.assertEqual((r["text"], r["finish_reason"]), ("<|im_end|>" * 3, "length"))
        r = self.ok(self.server.complete("!", min_tokens=2, max_tokens=5, return_token_ids=True))["choices"][0]
        self.assertNotIn(tiny.IM_END, r["token_ids"][:2])
        r = self.ok(self.server.complete("a", stop_token_ids=[A + 3], max_tokens=9, return_token_ids=True))["choices"][0]
        self.assertEqual((r["text"], r["finish_reason"], r["stop_reason"], r["token_ids"]),
                         ("bc", "stop", A + 3, [A + 1, A + 2, A + 3]))
        r = self.ok(self.server.complete("a", stop_token_ids=[A + 3], include_stop_str_in_output=True, max_tokens=9))
        self.assertEqual(r["choices"][0]["text"], "bcd")
        r = self.ok(self.server.complete("a", stop_token_ids=[A + 1], min_tokens=2, max_tokens=2, return_token_ids=True))
        self.assertNotIn(A + 1, r["choices"][0]["token_ids"])

    def test_what_may_be_said(self):
        self.assertEqual(self.text(self.server.complete("a", allowed_token_ids=[122, 120])),
                         tiny.text_of(self.best(A, 6, allowed={122, 120})))
        self.assertNotIn("c", self.text(self.server.complete("a", logit_bias={str(A + 2): -100}, max_tokens=40)))
        self.assertEqual(self.text(self.server.complete("a", logit_bias={"122": 100})), "zzzzzz")
        self.assertNotIn("cd", self.text(self.server.complete("a", bad_words=["cd"], max_tokens=60)))
        self.assertNotIn(" green", self.text(self.server.complete("\n", bad_words=["green"], max_tokens=30)))

    def best(self, cur, n, allowed):
        out = []
        for _ in range(n):
            row = tiny.logits(cur)
            cur = max(allowed, key=lambda t: (row[t], -t))
            out.append(cur)
        return out

    def test_penalties(self):
        seen, cur, want = {A}, A, []
        for _ in range(30):
            row = [(tiny.logit(cur, t) / 3 if t in seen else tiny.logit(cur, t)) - (2 if t in want else 0) for t in range(tiny.N)]
            cur = max(range(tiny.N), key=lambda t: (row[t], -t))
            want.append(cur)
            seen.add(cur)
        r = self.ok(self.server.complete("a", repetition_penalty=3, presence_penalty=2, max_tokens=30, ignore_eos=True,
                                         return_token_ids=True))
        self.assertEqual(r["choices"][0]["token_ids"], want)

    def test_truncation(self):
        r = self.ok(self.server.complete("xyza", truncate_prompt_tokens=2, return_token_ids=True))
        self.assertEqual(r["choices"][0]["prompt_token_ids"], [122, A])
        r = self.ok(self.server.chat(truncate_prompt_tokens=3, return_token_ids=True))
        self.assertEqual(r["prompt_token_ids"], tiny.chat_ids(("user", "hi"))[-3:])

    def test_token_ids(self):
        r = self.ok(self.server.chat(return_token_ids=True))
        self.assertEqual(r["prompt_token_ids"], tiny.chat_ids(("user", "hi")))
        self.assertEqual(r["choices"][0]["token_ids"], tiny.follow(10, 6))
        r = self.ok(self.server.complete("a", logprobs=1, return_tokens_as_token_ids=True, max_tokens=1))
        self.assertEqual(r["choices"][0]["logprobs"]["tokens"], [f"token_id:{A + 1}"])
        self.assertEqual(list(r["choices"][0]["logprobs"]["top_logprobs"][0]), [f"token_id:{A + 1}"])

    def test_prefix_cache_and_salt(self):
        prompt = list(b"prefix cache " * 20)
        cached = lambda **f: self.ok(self.server.complete(prompt, max_tokens=1, **f))["usage"]["prompt_tokens_details"]["cached_tokens"]
        whole = (len(prompt) - 1) // 32 * 32
        self.assertEqual([cached(), cached(), cached(cache_salt="x"), cached(cache_salt="x"), cached(cache_salt="y")],
                         [0, whole, 0, whole, 0])

    def test_request_id_is_only_logged(self):
        r = self.server.chat(request_id="mine-123")
        self.assertNotIn("mine-123", r.body)
        self.server.post("/tokenize", {"prompt": "x"}, **{"X-Client-Request-Id": "head-456"})
        self.server.post("/tokenize", {"prompt": "x"}, **{"X-Request-Id": "head-789"})
        for name in ("mine-123", "head-456", "head-789"):
            self.server.logged(lambda e: e.get("client_request_id") == name)

    def test_tokenize(self):
        s, post = self.server, lambda **b: self.ok(self.server.post("/tokenize", b))
        self.assertEqual(post(prompt="a red"), {"count": 2, "max_model_len": tiny.CONTEXT, "tokens": [A, tiny.RED],
                                                "token_strs": None})
        self.assertEqual(post(prompt="a red", return_token_strs=True)["token_strs"], ["a", "\u0120red"])
        self.assertEqual(post(messages=[{"role": "user", "content": "hi"}], model=tiny.NAME)["tokens"],
                         tiny.chat_ids(("user", "hi")))
        self.assertEqual(post(messages=[{"role": "user", "content": "hi"}], add_generation_prompt=False)["tokens"],
                         tiny.chat_ids(("user", "hi"), generation=False))
        self.assertEqual(post(prompt="<|im_end|>")["tokens"], list(b"<|im_end|>"))
        self.assertEqual(post(content="<|im_end|>")["tokens"], [tiny.IM_END])
        self.assertEqual(post(content="<|im_end|>", parse_special=False)["tokens"], list(b"<|im_end|>"))
        pieces = post(content="a\u20ac", with_pieces=True)["tokens"]
        self.assertEqual(pieces, [{"id": A, "piece": "a"}] + [{"id": b, "piece": [b]} for b in "\u20ac".encode()])
        self.assertEqual(post(prompt="")["count"], 0)
        for body, param in (({}, "prompt"), ({"prompt": 1}, "prompt"), ({"content": []}, "content"), ({"messages": []}, "messages"),
                            ({"prompt": "x", "add_special_tokens": 1}, "add_special_tokens"),
                            ({"prompt": "x", "return_token_strs": 1}, "return_token_strs"),
                            ({"messages": [{"role": "x"}]}, "messages[0].role"),
                            ({"content": "x", "with_pieces": "y"}, "with_pieces"), ({"prompt": "x", "model": 1}, "model"),
                            ({"messages": [{"role": "user", "content": "x"}], "add_generation_prompt": 1}, "add_generation_prompt")):
            self.refused(s.post("/tokenize", body), 400, param)
        self.refused(s.post("/tokenize", {"model": "no", "prompt": "x"}), 404, "model", "model_not_found", "not_found_error")

    def test_detokenize(self):
        s = self.server
        for text in ("h\u00e9llo w\u00f6rld 123", "\u65e5\u672c\u8a9e \U0001F600\r\n\t", "<|im_end|> is text", " " * 50 + "x", ""):
            ids = self.ok(s.post("/tokenize", {"prompt": text}))["tokens"]
            self.assertEqual(self.ok(s.post("/detokenize", {"tokens": ids})), {"prompt": text, "content": text})
        self.assertEqual(self.ok(s.post("/detokenize", {"tokens": [A, 0xE2, A]}))["prompt"], "a\ufffda")
        for bad in (None, "x", [1.5], [tiny.N], [-1], ["1"], {}, 5):
            self.refused(s.post("/detokenize", {"tokens": bad}), 400, "tokens")

    def test_models(self):
        r = self.ok(self.server.get("/v1/models"))
        self.assertEqual((r["object"], [m["id"] for m in r["data"]]), ("list", [tiny.NAME]))
        card = self.ok(self.server.get("/v1/models/" + tiny.NAME))
        self.assertEqual(card, r["data"][0])
        self.assertEqual((card["object"], card["owned_by"], card["parent"], card["max_model_len"]),
                         ("model", "lodge", None, tiny.CONTEXT))
        self.refused(self.server.get("/v1/models/nope"), 404, "model", "model_not_found", "not_found_error")

    def test_json_escapes(self):
        r = self.ok(self.server.complete("~", max_tokens=8))["choices"][0]["text"]
        self.assertEqual(r, tiny.text_of(tiny.follow(ord("~"), 8)))
        self.assertEqual(self.text(self.server.complete("^", max_tokens=2)), "\x00^")
        self.assertEqual(self.text(self.server.complete("%", max_tokens=4)), "\ufffd%\ufffd%")
        self.assertEqual(self.text(self.server.complete("?", max_tokens=3)), "\ufffd")


class Names(lab.ServerCase):
    flags = ("--served-model-name", "org/base", "alias", "--generation-config", "vllm")

    def test_names(self):
        self.assertEqual([m["id"] for m in self.ok(self.server.get("/v1/models"))["data"]], ["org/base", "alias"])
        for path in ("/v1/models/org/base", "/v1/models/org%2Fbase", "/v1/models/org/base/"):
            self.assertEqual(self.ok(self.server.get(path))["id"], "org/base")
        self.assertEqual(self.ok(self.server.get("/v1/models/alias"))["root"], "org/base")
        self.assertEqual(self.ok(self.server.chat(model="alias"))["model"], "alias")
        self.refused(self.server.chat(), 404, "model", "model_not_found", "not_found_error")


if __name__ == "__main__":
    lab.main()
