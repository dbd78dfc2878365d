"""/metrics: exact counts, and the text formats."""
import re

import lab
import tiny_model as tiny

DONE = 'vllm:request_success_total{finished_reason="%s"}'


class Metrics(lab.ServerCase):
    def change(self, work):
        before = self.server.idle()
        work()
        after = self.server.idle()
        return lambda name: after.get(name, 0) - before.get(name, 0)

    def test_tokens_are_counted_exactly(self):
        usages = []

        def work():
            for r in (self.server.complete("abc" * 40), self.server.complete("abc" * 40), self.server.chat(n=3),
                      self.server.complete(["a", "bb"], n=2, best_of=4, max_tokens=3), self.server.complete("!"),
                      self.server.complete("a", echo=True, max_tokens=0, logprobs=1), self.server.complete("a", stop="c")):
                usages.append(self.ok(r)["usage"])
        d = self.change(work)
        total = lambda key: sum(u[key] for u in usages)
        cached = sum(u["prompt_tokens_details"]["cached_tokens"] for u in usages)
        self.assertGreater(cached, 0)
        self.assertEqual(d("vllm:prompt_tokens_total"), total("prompt_tokens"))
        self.assertEqual(d("vllm:generation_tokens_total"), total("completion_tokens"))
        self.assertEqual(d("vllm:prompt_tokens_cached_total"), cached)
        self.assertEqual(d('vllm:prompt_tokens_by_source_total{source="local_cache_hit"}'), cached)
        self.assertEqual(d('vllm:prompt_tokens_by_source_total{source="local_compute"}'), total("prompt_tokens") - cached)
        self.assertEqual([d(DONE % w) for w in ("stop", "length", "abort", "error")], [2, 6, 0, 0])
        for name in ("time_to_first_token_seconds", "e2e_request_latency_seconds", "request_queue_time_seconds",
                     "request_prefill_time_seconds", "request_decode_time_seconds", "request_inference_time_seconds",
                     "request_prompt_tokens", "request_generation_tokens", "request_params_n", "request_params_max_tokens",
                     "request_max_num_generation_tokens"):
            self.assertEqual(d(f"vllm:{name}_count"), 7 if name.startswith("time_to") else 8, name)
        self.assertEqual(d("vllm:request_prompt_tokens_sum"), total("prompt_tokens"))
        self.assertEqual(d("vllm:request_generation_tokens_sum"), total("completion_tokens"))
        self.assertEqual(d("vllm:request_params_n_sum"), 1 + 1 + 3 + 2 + 2 + 1 + 1 + 1)

    def test_refused_requests_count_nothing(self):
        def work():
            self.server.chat(temperature=9)
            self.server.chat(model="no")
            self.server.complete([["x"]])
            self.server.complete([[97], [97] * (tiny.CONTEXT + 1)])
        d = self.change(work)
        for name in ("vllm:prompt_tokens_total", "vllm:generation_tokens_total", DONE % "abort", DONE % "error"):
            self.assertEqual(d(name), 0)
        self.assertEqual((d('lodge_http_responses_total{code="400"}'), d('lodge_http_responses_total{code="404"}')), (3, 1))

    def test_pool(self):
        m = self.server.idle()
        states = [m[f'lodge_pool_pages{{state="{s}"}}'] for s in ("free", "kv", "adapter", "cached")]
        info = next(k for k in m if k.startswith("vllm:cache_config_info"))
        self.assertEqual(sum(states), int(re.search(r'num_gpu_blocks="(\d+)"', info).group(1)))
        self.assertEqual((m["vllm:kv_cache_usage_perc"], m["vllm:num_requests_running"]), (0, 0))
        self.assertEqual(m["lodge_pool_bytes"], 64 << 20)

    def test_text_formats(self):
        plain, opened = self.server.get("/metrics"), self.server.get(
            "/metrics", Accept="application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5")
        self.assertTrue(plain.headers["Content-Type"].startswith("text/plain; version=0.0.4"))
        self.assertTrue(opened.headers["Content-Type"].startswith("application/openmetrics-text"))
        self.assertTrue(opened.body.endswith("# EOF\n"))
        for text, strip in ((plain.body, False), (opened.body, True)):
            kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M))
            self.assertEqual(len(kinds), len(re.findall(r"^# TYPE", text, re.M)))
            self.assertEqual(set(kinds), set(re.findall(r"^# HELP (\S+) \S", text, re.M)))
            for line in text.splitlines():
                if line[0] == "#":
                    continue
                m = re.fullmatch(r'([a-zA-Z_:][\w:]*)(?:\{((?:\w+="(?:[^"\\]|\\.)*",?)*)\})? (\S+)', line)
                self.assertTrue(m, line)
                float(m.group(3))
                name = re.sub(r"_(bucket|sum|count)$", "", m.group(1))
                if strip and name not in kinds:
                    name = name.removesuffix("_total")
                self.assertIn(name, kinds)
        for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"):
            self.assertEqual(len(re.findall(rf"^vllm:{name}\{{", plain.body, re.M)), 1)

    def test_buckets_rise(self):
        self.server.complete()
        series = {}
        for line in self.server.get("/metrics").body.splitlines():
            m = re.match(r'(\S+)_bucket\{.*le="([^"]+)"\} (\d+)', line)
            if m:
                series.setdefault(m.group(1), []).append((float(m.group(2)), int(m.group(3))))
        self.assertGreater(len(series), 10)
        for name, rows in series.items():
            self.assertEqual(rows, sorted(rows), name)
            self.assertEqual([c for _, c in rows], sorted(c for _, c in rows))
            self.assertEqual(rows[-1][0], float("inf"))


if __name__ == "__main__":
    lab.main()
