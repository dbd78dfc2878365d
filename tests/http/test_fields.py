"""Types and ranges of every request field: each refusal names its field."""
import json

import lab
import tiny_model as tiny

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
NUMBERS = {  # field: (least, most) as the API says
    "temperature": (0, 2), "top_p": (0, 1), "min_p": (0, 1), "typical_p": (0, 1), "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2), "repetition_penalty": (0.001, 100), "timeout": (0, 1e6)}
INTEGERS = {"top_k": (-1, 2**31 - 1), "n": (1, 128), "min_tokens": (0, 6), "prompt_logprobs": (0, 20),
            "seed": (-2**63, 2**63 - 1), "stream_interval": (1, 1024), "best_of": (0, 20),
            "truncate_prompt_tokens": (-1, 2**31 - 1)}
BOOLEANS = ["stream", "ignore_eos", "include_stop_str_in_output", "skip_special_tokens",
            "spaces_between_special_tokens", "return_token_ids", "return_tokens_as_token_ids", "store"]
STRINGS = ["user", "session_id", "request_id", "cache_salt", "safety_identifier", "prompt_cache_key", "service_tier"]


class Fields(lab.ServerCase):
    def body(self, path, **fields):
        base = {"model": tiny.NAME, "max_tokens": 6, "temperature": 0}
        base.update({"messages": [{"role": "user", "content": "hi"}]} if path == CHAT else {"prompt": "a"})
        base.update(fields)
        return self.server.post(path, base)

    def bad(self, path, field, value, param=None, code=None):
        with self.subTest(path=path, field=field, value=str(value)[:60]):
            self.refused(self.body(path, **{field: value}), 400, param or field, code)

    def good(self, path, field, value):
        with self.subTest(path=path, field=field, value=str(value)[:60]):
            self.ok(self.body(path, **{field: value}))

    def test_numbers(self):
        for path in (CHAT, TEXT):
            for field, (least, most) in NUMBERS.items():
                for value in ("0.7", True, [], {}, most + 0.001, least - 0.001, 1e300, -1e300):
                    self.bad(path, field, value)
                for value in (None, least, most, int(most)):
                    self.good(path, field, value)

    def test_integers(self):
        for path in (CHAT, TEXT):
            for field, (least, most) in INTEGERS.items():
                for value in ("1", True, [], {}, 1.5, 1e300, *([most + 1, least - 1] if most < 2**40 else [])):
                    self.bad(path, field, value)
                for value in (None, max(least, 1), float(max(least, 1))):
                    self.good(path, field, value)
            for value in (-2**63, 2**63 - 1, 0, 1.0):
                self.good(path, "seed", value)
            self.bad(path, "truncate_prompt_tokens", 0)

    def test_lengths(self):
        for path in (CHAT, TEXT):
            for value in ("1", True, 1.5, -1, [], 1e30):
                self.bad(path, "max_tokens", value)
            for value in (None, 1, 3.0, 1e3, 2**62):
                with self.subTest(value=value):
                    self.ok(self.body(path, max_tokens=value, logit_bias={str(tiny.IM_END): 100}))
        self.bad(CHAT, "max_tokens", 0)
        self.bad(CHAT, "max_completion_tokens", 0)
        self.bad(TEXT, "max_tokens", 0)
        both = self.ok(self.body(CHAT, max_tokens=5, max_completion_tokens=2))
        self.assertEqual(both["usage"]["completion_tokens"], 2)
        self.assertEqual(self.ok(self.body(TEXT, max_tokens=None))["usage"]["completion_tokens"], 16)

    def test_booleans(self):
        for path in (CHAT, TEXT):
            for field in BOOLEANS:
                for value in (0, 1, "true", [], {}):
                    self.bad(path, field, value)
                self.good(path, field, None)
                self.good(path, field, False)
        for field in ("logprobs", "add_generation_prompt", "continue_final_message", "parallel_tool_calls"):
            self.bad(CHAT, field, 1)
        self.bad(TEXT, "echo", 1)
        self.bad(TEXT, "add_special_tokens", 1)

    def test_strings(self):
        for path in (CHAT, TEXT):
            for field in STRINGS:
                for value in (1, True, [], {}):
                    self.bad(path, field, value)
                for value in (None, "x", "\u00e9" * 64):
                    self.good(path, field, value)
            for field, most in (("cache_salt", 1024), ("safety_identifier", 64), ("request_id", 128)):
                self.good(path, field, "\u00e9" * most)
                self.bad(path, field, "x" * (most + 1))
                self.bad(path, field, "")

    def test_model(self):
        for path in (CHAT, TEXT):
            self.bad(path, "model", 1)
            self.bad(path, "model", None)
            for name in ("nope", tiny.NAME.upper(), tiny.NAME + "-latest", "", "x" * 5000, "\u00e9" * 150):
                self.refused(self.body(path, model=name), 404, "model", "model_not_found", "not_found_error")

    def test_messages(self):
        cases = {
            "messages": [None, [], "x", {}, 1],
            "messages[0]": [["x"], [1], [None]],
            "messages[0].role": [[{"role": "boss", "content": "x"}], [{"content": "x"}], [{"role": 1, "content": "x"}]],
            "messages[0].content": [[{"role": "user"}], [{"role": "user", "content": None}],
                                    [{"role": "user", "content": 1}], [{"role": "user", "content": []}],
                                    [{"role": "assistant", "content": None}]],
            "messages[0].content[0].type": [[{"role": "user", "content": [{"text": "x"}]}],
                                            [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}],
                                            [{"role": "user", "content": ["x"]}]],
            "messages[1].content[1].text": [[{"role": "user", "content": "x"}, {"role": "user", "content": [
                {"type": "text", "text": "x"}, {"type": "text", "text": 5}]}]],
        }
        for param, values in cases.items():
            for value in values:
                self.bad(CHAT, "messages", value, param)

    def test_prompt(self):
        for value in (None, "", [], [""], [[]], [[97], []], ["a", ""], ["a", 97], [97, "a"], [[97], "a"], [97, [97]], {}, 1,
                      True, [True], [1.5], [-1], [tiny.N], [10**12], [[tiny.N]], ["a"] * 257, [None]):
            self.bad(TEXT, "prompt", value)
        for value in ("a", ["a"], [97], [[97]], ["a", "b"], [[97], [98, 99]], [tiny.N - 1], ["a"] * 256):
            self.good(TEXT, "prompt", value)

    def test_stop(self):
        for path in (CHAT, TEXT):
            for value in ("", [""], ["a", ""], [1], 5, {}, True, ["x"] * 17, "x" * 5000):
                self.bad(path, "stop", value)
            for value in (None, [], "x", ["x"], [f"s{i}" for i in range(16)], "x" * 4096, "\u00e9"):
                self.good(path, "stop", value)

    def test_token_lists(self):
        for path in (CHAT, TEXT):
            for field in ("stop_token_ids", "allowed_token_ids"):
                for value in ("1", 1, [True], ["1"], [-1], [tiny.N], [1.5], [2**40], {}):
                    self.bad(path, field, value)
                self.good(path, field, [0, 5, 5, tiny.N - 1])
            self.bad(path, "allowed_token_ids", [])
            self.bad(path, "stop_token_ids", [1] * 5000)
            for value in ("x", [1], [""], ["x" * 513], ["x"] * 257, {}):
                self.bad(path, "bad_words", value)
            self.good(path, "bad_words", ["\u00e9", "red", "  "])
            self.good(path, "bad_words", [])

    def test_logit_bias(self):
        for path in (CHAT, TEXT):
            for value in ([], 1, "x", {"x": 1}, {"": 1}, {"-1": 1}, {" 1": 1}, {"+1": 1}, {"01": 1}, {"1.0": 1},
                          {str(tiny.N): 1}, {"9" * 30: 1}, {"5": 101}, {"5": -100.5}, {"5": "1"}, {"5": None}, {"5": True}):
                self.bad(path, "logit_bias", value)
            self.good(path, "logit_bias", {"0": -100, "5": 100, str(tiny.N - 1): 0.5})
            self.good(path, "logit_bias", {})

    def test_stream_options(self):
        for path in (CHAT, TEXT):
            self.refused(self.body(path, stream_options={}), 400, "stream_options")
            self.refused(self.body(path, stream_options={"include_usage": True}), 400, "stream_options")
            self.ok(self.body(path, stream_options=None))
            for value in (1, [], "x", True):
                self.refused(self.body(path, stream=True, stream_options=value), 400, "stream_options")
            for key in ("include_usage", "continuous_usage_stats", "include_obfuscation"):
                self.refused(self.body(path, stream=True, stream_options={key: 1}), 400, "stream_options." + key)

    def test_logprobs(self):
        for value in (21, -1, "5", True, 1.5):
            self.bad(CHAT, "top_logprobs", value)
        self.bad(CHAT, "top_logprobs", 1)
        self.good(CHAT, "top_logprobs", 0)
        for value in (5, "x", [], {}):
            self.bad(CHAT, "logprobs", value)
        for value in (6, -1, True, False, "x", 1.5):
            self.bad(TEXT, "logprobs", value)
        self.good(TEXT, "logprobs", 0)
        for path in (CHAT, TEXT):
            self.refused(self.body(path, prompt_logprobs=1, stream=True), 400, "prompt_logprobs")

    def test_choices(self):
        self.refused(self.body(TEXT, n=3, best_of=2), 400, "best_of")
        self.refused(self.body(TEXT, best_of=2, stream=True), 400, "best_of")
        self.refused(self.body(TEXT, prompt=["a"] * 9, n=128), 400, "n")
        self.refused(self.body(TEXT, min_tokens=7), 400, "min_tokens")
        self.refused(self.body(CHAT, n=128, logprobs=True, top_logprobs=20, max_tokens=60000), 400, "max_tokens", says="MB")
        self.refused(self.body(TEXT, priority=1), 400, "priority")
        self.ok(self.body(TEXT, priority=0))

    def test_metadata(self):
        self.good(CHAT, "metadata", {"a": "x" * 512, "k" * 64: ""})
        for value in ([], 1, "x", {f"k{i}": "v" for i in range(17)}, {"k" * 65: "v"}):
            self.bad(CHAT, "metadata", value)
        for value in (1, None, {}, "x" * 513):
            self.bad(CHAT, "metadata", {"a": value}, "metadata.a")

    def test_accepted_and_ignored(self):
        for field, value in {"service_tier": "whatever", "reasoning_effort": "xhigh", "verbosity": "low", "store": True,
                             "parallel_tool_calls": True,
                             "prompt_cache_options": {}, "response_format": {"type": "text"}, "modalities": ["text"],
                             "tool_choice": "none", "tools": None, "functions": [], "function_call": "none",
                             "length_penalty": 1.0, "echo": False, "add_special_tokens": False, "documents": [],
                             "brand_new": {"x": 1}}.items():
            self.good(CHAT, field, value)
        self.assertEqual(self.ok(self.body(CHAT, service_tier="flex"))["service_tier"], "default")
        self.bad(CHAT, "reasoning_effort", "huge")
        self.bad(CHAT, "verbosity", "mute")
        self.server.logged(lambda e: e.get("ignored_fields") == "brand_new")

    def test_speculation(self):
        for body in (CHAT, TEXT):
            self.good(body, "speculate", True)
            self.bad(body, "speculate", 1)
        for content in ("", "x", [], [{"type": "text", "text": "x"}, {"type": "text", "text": "y"}]):
            self.good(CHAT, "prediction", {"type": "content", "content": content})
        self.bad(CHAT, "prediction", "x")
        self.bad(CHAT, "prediction", {"type": "other", "content": "x"}, "prediction.type")
        for content in (1, None, {"type": "text"}):
            self.bad(CHAT, "prediction", {"type": "content", "content": content}, "prediction.content")
        self.bad(CHAT, "prediction", {"type": "content", "content": [{"type": "text", "text": "x"}, "y"]},
                 "prediction.content[1]")
        self.refused(self.body(CHAT, n=2, prediction={"type": "content", "content": "x"}), 400, "prediction")

    def test_not_built(self):
        function = {"type": "function", "function": {"name": "f"}}
        for field, value in {"tools": [function], "tool_choice": "auto", "functions": [{"name": "f"}],
                             "function_call": "auto", "response_format": {"type": "json_object"},
                             "modalities": ["audio"], "audio": {"voice": "x"}, "web_search_options": {"x": 1},
                             "documents": [{"x": 1}], "echo": True, "add_special_tokens": True}.items():
            self.bad(CHAT, field, value, code="unsupported_parameter")
        self.bad(CHAT, "tool_choice", "required", code="unsupported_parameter")
        self.bad(CHAT, "tool_choice", function, code="unsupported_parameter")
        self.bad(CHAT, "response_format", {"type": "json_schema", "json_schema": {}}, code="unsupported_parameter")
        self.bad(CHAT, "response_format", "text", code="unsupported_parameter")
        self.bad(CHAT, "tools", [])
        for path in (CHAT, TEXT):
            for field in ("guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs", "grammar",
                          "json_schema", "regex", "ebnf", "adapter_id", "lora", "kv_transfer_params",
                          "thinking_token_budget", "logits_processors", "use_beam_search", "merged_adapters"):
                self.bad(path, field, [1], code="unsupported_parameter")
                self.good(path, field, None)
            self.bad(path, "length_penalty", 0.5, code="unsupported_parameter")
            self.bad(path, "use_beam_search", True, code="unsupported_parameter")
            self.good(path, "use_beam_search", False)
        self.bad(TEXT, "suffix", "x", code="unsupported_parameter")
        self.good(TEXT, "suffix", "")
        self.bad(TEXT, "prompt_embeds", "x", code="unsupported_parameter")

    def test_json(self):
        for text in ("", "{", "[]", "1", '"x"', "null", "{}{}", '{"model":"tiny",}', "{'a':1}", '{"a":NaN}', '{"a":Infinity}',
                     '{"a":1e999}', '{"a":123456789012345678901}', '{"a":1,"a":2}', '{"a":"\\ud800"}', '{"a":"\\u0000"}',
                     "[" * 70 + "]" * 70, '{"a":' * 70 + "1" + "}" * 70, "\ufeff{}", '{"a":01}', "[" * 100000,
                     '{"x":[' + "1," * 1100000 + "1]}"):
            for path in (CHAT, TEXT, "/tokenize", "/detokenize"):
                self.refused(self.server.post(path, text), 400)
        self.refused(self.server.post(CHAT, '{"a":"\\u0000"}'), 400, says="\\u0000 in a string, which is not accepted")
        for raw in (b'{"a":"\xff"}', b'{"a":"\xed\xa0\x80"}', b'{"a":"\xc0\xaf"}', b'{"a":"x\x00y"}', b"\x00"):
            self.refused(self.server.post(CHAT, raw), 400)

    def test_context(self):
        long = [97] * (tiny.CONTEXT + 1)
        self.refused(self.body(TEXT, prompt=long), 400, "prompt", "context_length_exceeded")
        self.refused(self.body(TEXT, prompt=long[1:]), 400, "prompt", "context_length_exceeded")
        self.refused(self.body(TEXT, prompt=[[97], long]), 400, "prompt", "context_length_exceeded")
        self.refused(self.body(TEXT, prompt="a" * (tiny.CONTEXT * 4 + 70000)), 400, "prompt", "context_length_exceeded")
        self.refused(self.body(CHAT, messages=[{"role": "user", "content": "a" * 400000}]), 400, "messages",
                     "context_length_exceeded")
        cut = self.ok(self.body(TEXT, prompt=long, truncate_prompt_tokens=5))
        self.assertEqual(cut["usage"]["prompt_tokens"], 5)


class Templates(lab.ServerCase):
    flags = ("--trust-request-chat-template",)

    def test_template_of_the_request(self):
        s = self.server
        self.assertEqual(self.ok(s.chat(chat_template="a"))["choices"][0]["message"]["content"], "bcdefg")
        self.refused(s.chat(chat_template="{% for"), 400, "chat_template")
        self.refused(s.chat(chat_template=5), 400, "chat_template")
        self.refused(s.chat(chat_template="{{ raise_exception('go away') }}"), 400, "messages", says="go away")
        for hostile in ("{% for i in range(999999999) %}{% endfor %}", "{% for i in range(9999) %}{{ 'x' * 99999 }}{% endfor %}",
                        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "{{ ''.__class__.__mro__ }}", "{{ messages.x.y }}",
                        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "{{ 1 // 0 }}", "{% if %}",
                        "{{ 'x' | nofilter }}", ""):
            with self.subTest(hostile[:40]):
                self.assertEqual(s.chat(chat_template=hostile).status, 400)
        self.ok(s.chat())


class Strict(lab.ServerCase):
    flags = ("--strict", "--max-model-len", "64")

    def test_unknown_fields_are_refused(self):
        self.refused(self.server.chat(brand_new=1), 400, "brand_new", "unsupported_parameter")
        self.refused(self.server.chat(prompt="x"), 400, "prompt", "unsupported_parameter")
        self.ok(self.server.chat(user="x"))

    def test_lengths_are_not_clamped(self):
        self.refused(self.server.complete("a", max_tokens=64), 400, "max_tokens", "context_length_exceeded")
        self.ok(self.server.complete("a", max_tokens=63))
        self.assertEqual(self.ok(self.server.chat(max_tokens=None))["choices"][0]["finish_reason"], "length")


if __name__ == "__main__":
    lab.main()
