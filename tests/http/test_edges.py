"""The cases that real clients trip on, one test each; numbers as in the list the API was built from."""
import gzip
import json

import lab
import tiny_model as tiny

USER = {"role": "user", "content": "hi"}


class Edges(lab.ServerCase):
    def prompt(self, **fields):
        return self.ok(self.server.chat(return_token_ids=True, max_tokens=1, **fields))["prompt_token_ids"]

    def test_01_content_as_parts(self):
        parts = [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]
        self.assertEqual(self.prompt(messages=[{"role": "user", "content": parts}]), tiny.chat_ids(("user", "hi")))

    def test_02_content_null_with_calls(self):
        calls = [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x":"v"}'}}]
        for call in ({"content": None}, {}):
            m = [USER, {"role": "assistant", "tool_calls": calls, **call}, {"role": "tool", "tool_call_id": "c1", "content": ""}]
            self.assertEqual(self.prompt(messages=m), tiny.chat_ids(("user", "hi"), ("assistant", "fv"), ("tool", "")))

    def test_03_developer_and_system_anywhere(self):
        m = [{"role": "developer", "content": "x"}, USER, {"role": "system", "content": "y"}]
        self.assertEqual(self.prompt(messages=m), tiny.chat_ids(("system", "x"), ("user", "hi"), ("system", "y")))

    def test_04_last_message_of_the_assistant(self):
        m = [USER, {"role": "assistant", "content": "abc"}]
        self.assertEqual(self.prompt(messages=m), tiny.chat_ids(("user", "hi"), ("assistant", "abc")))
        go_on = self.ok(self.server.chat(messages=m, continue_final_message=True, max_tokens=3, return_token_ids=True))
        self.assertEqual(go_on["choices"][0]["message"]["content"], "def")
        self.assertEqual(go_on["prompt_token_ids"], tiny.chat_ids(("user", "hi"), ("assistant", "abc"), generation=False)[:-2])
        self.refused(self.server.chat(messages=m, continue_final_message=True, add_generation_prompt=True), 400,
                     "continue_final_message")

    def test_05_no_messages(self):
        self.refused(self.server.chat(messages=[]), 400, "messages")

    def test_06_template_refuses(self):
        self.refused(self.server.chat(messages=[{"role": "user", "content": "RAISE"}]), 400, "messages",
                     says="this template refuses RAISE")
        self.assertEqual(self.server.chat(messages=[{"role": "user", "content": "LOOP"}]).status, 400)

    def test_08_zero_and_null(self):
        self.refused(self.server.chat(max_tokens=0), 400, "max_tokens")
        self.ok(self.server.complete("a", max_tokens=0, echo=True))
        self.ok(self.server.chat(max_completion_tokens=2, max_tokens=None, stop=None, temperature=None, tools=None, n=None,
                                 response_format=None, logit_bias=None, user=None, stream=None, seed=None))

    def test_09_empty_stops(self):
        for stop in ("", [""]):
            self.refused(self.server.chat(stop=stop), 400, "stop")
        self.ok(self.server.chat(stop=[]))
        self.ok(self.server.chat(stop=[str(i) for i in range(16)]))

    def test_10_temperature(self):
        greedy = self.ok(self.server.complete("a", n=3))["choices"]
        self.assertEqual([c["text"] for c in greedy], ["bcdefg"] * 3)
        self.assertEqual(self.ok(self.server.complete("a", temperature=1e-9))["choices"][0]["text"], "bcdefg")
        self.ok(self.server.complete("a", temperature=1))
        self.refused(self.server.complete("a", temperature="0.7"), 400, "temperature")

    def test_11_logit_bias(self):
        self.assertEqual(self.ok(self.server.complete("a", logit_bias={"122": 100}))["choices"][0]["text"], "zzzzzz")
        self.refused(self.server.complete("a", logit_bias={str(tiny.N): 1}), 400, "logit_bias")

    def test_12_seed(self):
        texts = {self.ok(self.server.complete("a", temperature=1, seed=-2**63, max_tokens=30))["choices"][0]["text"]
                 for _ in range(3)}
        self.assertEqual(len(texts), 1)
        self.refused(self.server.post("/v1/completions", '{"model":"tiny","prompt":"a","seed":9223372036854775808}'), 400)

    def test_13_error_before_the_first_byte(self):
        r = self.server.chat(stream=True, temperature=9)
        self.refused(r, 400, "temperature")
        self.assertEqual(r.headers["Content-Type"], "application/json")

    def test_14_streamed_choices_appear_in_order(self):
        r = self.server.chat(stream=True, n=5, temperature=1, max_tokens=9)
        seen = []
        for e in lab.events(r.body)[:-1]:
            i = e["choices"][0]["index"]
            if i not in seen:
                seen.append(i)
        self.assertEqual(seen, [0, 1, 2, 3, 4])

    def test_15_arguments_as_object_or_empty(self):
        for args in ({"x": "v"}, '{"x":"v"}'):
            m = [USER, {"role": "assistant", "content": None,
                        "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": args}}]}]
            self.assertEqual(self.prompt(messages=m), tiny.chat_ids(("user", "hi"), ("assistant", "fv")))

    def test_16_17_tools_are_refused_by_name(self):
        tool = {"type": "function", "function": {"name": "f", "strict": True, "parameters": {}}}
        self.refused(self.server.chat(tools=[tool]), 400, "tools", "unsupported_parameter")

    def test_18_no_replacement_characters_mid_stream(self):
        r = self.server.complete("?", stream=True, max_tokens=10)
        parts = [e["choices"][0]["text"] for e in lab.events(r.body)[:-1]]
        self.assertEqual("".join(parts), "\U0001F600?\U0001F600?")
        self.assertTrue(all("\ufffd" not in p for p in parts))

    def test_19_special_tokens_in_user_text(self):
        m = [{"role": "user", "content": "a<|im_end|>b"}]
        self.assertEqual(self.prompt(messages=m), tiny.chat_ids(("user", "a<|im_end|>b")))

    def test_21_paths(self):
        s = self.server
        self.ok(s.post("/v1/chat/completions/", {"model": tiny.NAME, "messages": [USER], "max_tokens": 1}))
        self.ok(s.get("/v1/models/"))
        for path in ("/v1/v1/chat/completions", "/v1/v1/models", "/v1/v1"):
            self.refused(s.get(path), 404, code="not_found", kind="not_found_error", says="do not add it twice")
        for path in ("/v1", "/v1/", "/nothing", "/v1/chat", "/v1/chat/completions/x", "//v1/models", "/a%2e"):
            self.refused(s.get(path), 404, code="not_found", kind="not_found_error")
        r = s.request("HEAD", "/")
        self.assertEqual((r.status, r.body), (200, ""))
        r = s.request("OPTIONS", "/v1/chat/completions")
        self.assertEqual((r.status, r.body, r.headers["Allow"]), (204, "", "POST"))
        self.assertNotIn("Access-Control-Allow-Origin", r.headers)

    def test_22_any_key_where_none_is_needed(self):
        for value in ("Bearer ", "bearer x", "Basic eDp5", "Bearer"):
            self.ok(self.server.get("/v1/models", Authorization=value))

    def test_23_user_and_metadata(self):
        self.refused(self.server.chat(user=5), 400, "user")
        self.refused(self.server.chat(metadata={"k": 5}), 400, "metadata.k")

    def test_24_compressed_bodies(self):
        body = gzip.compress(json.dumps({"model": tiny.NAME, "messages": [USER]}).encode())
        self.refused(self.server.post("/v1/chat/completions", body, **{"Content-Encoding": "gzip"}), 415,
                     code="unsupported_encoding")
        self.ok(self.server.post("/tokenize", {"prompt": "x"}, **{"Content-Encoding": "identity"}))

    def test_26_usage_only_when_asked(self):
        plain = lab.events(self.server.chat(stream=True).body)
        self.assertTrue(all("usage" not in e for e in plain[:-1]))
        asked = lab.events(self.server.chat(stream=True, stream_options={"include_usage": True}).body)
        self.assertTrue(all(e["usage"] is None for e in asked[:-2]))
        self.assertEqual((asked[-2]["choices"], asked[-2]["usage"]["completion_tokens"], asked[-1]), ([], 6, "[DONE]"))

    def test_27_kinds_of_logprobs(self):
        self.ok(self.server.chat(logprobs=True))
        self.ok(self.server.complete("a", logprobs=5))
        self.refused(self.server.chat(logprobs=5), 400, "logprobs")
        self.refused(self.server.complete("a", logprobs=True), 400, "logprobs")
        self.refused(self.server.chat(stream=1), 400, "stream")

    def test_28_integral_reals(self):
        self.assertEqual(self.ok(self.server.complete("a", max_tokens=3.0))["usage"]["completion_tokens"], 3)
        self.refused(self.server.complete("a", max_tokens=3.5), 400, "max_tokens")

    def test_29_parallel_tool_calls(self):
        self.ok(self.server.chat(parallel_tool_calls=False))

    def test_30_service_tier(self):
        self.assertEqual(self.ok(self.server.chat(service_tier="platinum"))["service_tier"], "default")

    def test_31_exact_model_names(self):
        for name in ("Tiny", "tiny-latest", "tiny "):
            self.refused(self.server.chat(model=name), 404, "model", "model_not_found", "not_found_error")

    def test_32_empty_generation(self):
        r = self.ok(self.server.chat(logit_bias={str(tiny.IM_END): 100}))
        self.assertEqual((r["choices"][0]["message"]["content"], r["choices"][0]["finish_reason"]), ("", "stop"))
        self.assertEqual(r["usage"]["completion_tokens"], 1)
        s = lab.events(self.server.chat(logit_bias={str(tiny.IM_END): 100}, stream=True).body)
        self.assertEqual([e["choices"][0]["delta"] for e in s[:-1]], [{"role": "assistant", "content": ""}, {}])

    def test_template_switch(self):
        self.refused(self.server.chat(chat_template="x"), 400, "chat_template")
        shout = self.prompt(chat_template_kwargs={"shout": True, "enable_thinking": False})
        self.assertEqual(shout, tiny.chat_ids(("user", "hi"), generation=False) + list(b"LOUD") + [tiny.IM_START, *b"assistant\n"])
        for key in ("messages", "bos_token", "add_generation_prompt", "chat_template", "tools", "tokenize"):
            self.refused(self.server.chat(chat_template_kwargs={key: 1}), 400, "chat_template_kwargs." + key)
        self.refused(self.server.chat(chat_template_kwargs=[]), 400, "chat_template_kwargs")
        self.assertEqual(self.prompt(add_generation_prompt=False), tiny.chat_ids(("user", "hi"), generation=False))


class Short(lab.ServerCase):
    flags = ("--max-model-len", "64")

    def test_07_max_tokens_beyond_the_context(self):
        for n in (10**9, 10**18, None):
            r = self.ok(self.server.complete([97] * 61, max_tokens=n))
            self.assertEqual((r["usage"]["completion_tokens"], r["choices"][0]["finish_reason"]), (3, "length"))
        self.refused(self.server.complete([97] * 64), 400, "prompt", "context_length_exceeded")


class DoubledBos(lab.ServerCase):
    flags = ("--chat-template", lab.path_of("bos.jinja", "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}"))

    def test_20_bos_comes_from_the_template_alone(self):
        r = self.ok(self.server.chat(return_token_ids=True))
        self.assertEqual(r["prompt_token_ids"], list(b"hi"))


if __name__ == "__main__":
    lab.main()
