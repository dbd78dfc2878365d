"""Limits of tenants: what is let through, what refusals and headers say, and what is paid back."""
import concurrent.futures
import re
import time
import unittest

import lab
import tenancy
import tiny_model as tiny

RATES = [f"x-ratelimit-{what}-{of}" for what in ("limit", "remaining", "reset") for of in ("requests", "tokens")]


def seconds(text):
    """OpenAI's durations."""
    m = re.fullmatch(r"(?:(\d+)m)?(?:([\d.]+)s)?(?:(\d+)ms)?", text)
    assert m and text, text
    return int(m[1] or 0) * 60 + float(m[2] or 0) + int(m[3] or 0) / 1000


class Limits(tenancy.Case):
    n = 0

    def tenant(self, **limits):
        Limits.n += 1
        return self.server.tenant(f"t{Limits.n}", **limits)

    def throttled(self, reply, says, after=True):
        self.refused(reply, 429, None, "rate_limit_exceeded", "rate_limit_error", says)
        self.assertEqual("Retry-After" in reply.headers, after)
        if after:
            self.assertGreaterEqual(int(reply.headers["Retry-After"]), 1)
        else:
            self.assertEqual(reply.headers["x-should-retry"], "false")

    def test_requests_per_minute(self):
        _, key = self.tenant(requests_per_minute=3)
        left = []
        for _ in range(3):
            reply = self.server.ask(key)
            self.ok(reply)
            left.append(int(reply.headers["x-ratelimit-remaining-requests"]))
            self.assertEqual(reply.headers["x-ratelimit-limit-requests"], "3")
        self.assertEqual(left, [2, 1, 0])
        refused = self.server.ask(key)
        self.throttled(refused, "requests per minute: limit 3")
        # A place comes back every 20 s; the bucket is full after 60.
        self.assertLessEqual(int(refused.headers["Retry-After"]), 20)
        self.assertGreater(int(refused.headers["Retry-After"]), 20 - 5 * lab.SLOW)
        self.assertLessEqual(seconds(refused.headers["x-ratelimit-reset-requests"]), 60)
        self.ok(self.server.request("GET", "/v1/models", headers={"Authorization": f"Bearer {key}"}))

    def test_rates_flow_back(self):
        _, key = self.tenant(requests_per_minute=60)
        for _ in range(500):
            reply = self.server.ask(key)
            if reply.status != 200:
                break
        time.sleep(int(reply.headers["Retry-After"]))
        self.ok(self.server.ask(key))

    def test_headers_of_streams_and_the_unlimited(self):
        _, key = self.tenant(tokens_per_minute=10000)
        reply = self.server.ask(key, stream=True)
        self.assertEqual(reply.headers["x-ratelimit-limit-tokens"], "10000")
        for h in RATES:
            self.assertIn(h, reply.headers)
            if "reset" in h:
                seconds(reply.headers[h])
            else:
                int(reply.headers[h])

    def left(self, key):
        reply = self.server.ask(key, "x", max_tokens=1)
        self.ok(reply)
        return int(reply.headers["x-ratelimit-remaining-tokens"])

    def test_tokens_are_settled_exactly(self):
        """Far more is reserved than is used; at the end only what was used is missing."""
        for fields, used in (({"max_tokens": 200, "stop": "f"}, 1 + 5), ({"n": 4, "prompt": "a" * 50}, 50 + 4 * 6),
                             ({"prompt": ["a", "bc"], "n": 2}, 3 + 4 * 6), ({"best_of": 5, "n": 1}, 1 + 5 * 6),
                             ({"stream": True, "max_tokens": 300}, 1 + 300)):
            with self.subTest(**fields):
                # A limit so large that little flows in meanwhile would hide the difference: measure the flow.
                _, key = self.tenant(tokens_per_minute=6000)
                begin = time.time()
                reply = self.server.ask(key, **{"ignore_eos": False, **fields} if "stop" in fields else fields)
                self.assertEqual(reply.status, 200, reply)
                left, passed = self.left(key), time.time() - begin
                # What is left also lacks the asking request itself, as reserved: 1 + 1.
                self.assertGreaterEqual(left, 6000 - used - 2)
                self.assertLessEqual(left, min(6000, 6000 - used - 2 + passed * 100 + 1))

    def test_tokens_are_reserved(self):
        """While a reply runs its reservation is missing: prompt + 256 of its 60000 tokens."""
        _, key = self.tenant(tokens_per_minute=1000)
        s = self.server.connect()
        s.sendall(lab.raw_post("/v1/completions", lab.long_job(), f"Authorization: Bearer {key}"))
        head = s.recv(4096).decode()
        left = int(re.search(r"x-ratelimit-remaining-tokens: (\d+)", head)[1])
        self.assertTrue(1000 - 257 <= left <= 1000 - 257 + 17 * lab.SLOW, left)
        self.throttled(self.server.ask(key, max_tokens=800), "tokens per minute: limit 1000") if left < 257 else None
        s.close()
        self.server.idle()
        # It overran its reservation: the debt keeps others out for more than a minute.
        end = time.time() + 10 * lab.SLOW
        while (reply := self.server.ask(key)).status == 200 and time.time() < end:
            pass
        self.throttled(reply, "tokens per minute")

    def test_larger_than_the_limit(self):
        _, key = self.tenant(tokens_per_minute=100)
        self.throttled(self.server.ask(key, "a" * 90, max_tokens=20), "larger than the project's limit", after=False)
        self.throttled(self.server.ask(key, n=20), "requested 121", after=False)
        self.ok(self.server.ask(key, "a" * 90, max_tokens=10))

    def test_concurrency(self):
        _, key = self.tenant(max_concurrent=2)
        socks = []
        for _ in range(2):
            s = self.server.connect()
            s.sendall(lab.raw_post("/v1/completions", lab.long_job(), f"Authorization: Bearer {key}"))
            self.assertIn(b"200 OK", s.recv(1000))
            socks.append(s)
        self.throttled(self.server.ask(key), "concurrent requests: limit 2")
        _, other = self.tenant()
        self.ok(self.server.ask(other))
        socks.pop().close()
        end = time.time() + 10 * lab.SLOW
        while (reply := self.server.ask(key)).status == 429 and time.time() < end:
            time.sleep(0.05)
        self.ok(reply)
        socks.pop().close()

    def test_budget(self):
        project, key = self.tenant(budget_tokens=100, budget_period="total")
        self.ok(self.server.ask(key, "a" * 10, max_tokens=60))
        limits = self.server.did("GET", f"projects/{project}/limits")
        self.assertEqual(limits["budget_used_tokens"], 70)
        for fields in ({"max_tokens": 60}, {"max_tokens": 1000}):
            reply = self.server.ask(key, **fields)
            self.refused(reply, 429, None, "insufficient_quota", "insufficient_quota", "30 are left")
            self.assertNotIn("Retry-After", reply.headers)
            self.assertEqual(reply.headers["x-should-retry"], "false")
        self.ok(self.server.ask(key, "a", max_tokens=29))
        self.assertEqual(self.server.ask(key, "a", max_tokens=1).status, 429)
        self.server.limit(project, budget_tokens=None)
        self.ok(self.server.ask(key))

    def test_budget_is_never_overdrawn_by_many(self):
        project, key = self.tenant(budget_tokens=500)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            replies = list(pool.map(lambda i: self.server.ask(key, "a" * 5, max_tokens=20), range(60)))
        good = sum(r.status == 200 for r in replies)
        self.assertEqual({r.status for r in replies}, {200, 429})
        self.assertLessEqual(good * 25, 500)
        while self.server.ask(key, "a" * 5, max_tokens=20).status == 200:
            good += 1
        self.assertEqual(good, 20)
        self.assertEqual(self.server.did("GET", f"projects/{project}/limits")["budget_used_tokens"], 500)

    def test_refusals_cost_nothing(self):
        project, key = self.tenant(requests_per_minute=5, budget_tokens=1000)
        for fields in ({"n": 0}, {"model": "nope"}, {"prompt": [1] * 70000}, {"temperature": 9}):
            self.assertIn(self.server.ask(key, **fields).status, (400, 404))
        self.assertEqual(self.server.ask(key).headers["x-ratelimit-remaining-requests"], "4")
        self.assertEqual(self.server.did("GET", f"projects/{project}/limits")["budget_used_tokens"], 7)

    def test_full_queue_gives_back(self):
        server = tenancy.Server("--max-num-seqs", "1", "--max-queue", "1")
        try:
            _, key = server.tenant("q", requests_per_minute=100)
            socks = []
            for state in ("running", "waiting"):
                s = server.connect()
                s.sendall(lab.raw_post("/v1/completions", lab.long_job(), f"Authorization: Bearer {key}"))
                socks.append(s)
                self.assertTrue(server.until(lambda m: m["vllm:num_requests_" + state])["vllm:num_requests_" + state])
            reply = server.ask(key)
            self.assertEqual(reply.status, 503, reply)
            self.assertGreaterEqual(int(reply.headers["x-ratelimit-remaining-requests"]), 98)
            for s in socks:
                s.close()
        finally:
            self.assertEqual(server.stop(), 0)

    def test_metrics(self):
        _, key = self.server.tenant("measured", requests_per_minute=2)
        for _ in range(4):
            self.server.ask(key, "abc", max_tokens=5)
        m = self.server.metrics()
        self.assertEqual(m['lodge_tenant_requests_total{tenant="measured"}'], 2)
        self.assertEqual(m['lodge_tenant_tokens_total{tenant="measured",kind="prompt"}'], 6)
        self.assertEqual(m['lodge_tenant_tokens_total{tenant="measured",kind="output"}'], 10)
        self.assertEqual(m['lodge_tenant_throttled_total{tenant="measured",reason="requests"}'], 2)

    def test_limits_hold_after_a_start(self):
        project, key = self.server.tenant("stays", budget_tokens=50, budget_period="day")
        self.ok(self.server.ask(key, max_tokens=40))
        type(self).server.stop()
        type(self).server = tenancy.Server(store=self.server.store)
        self.refused(self.server.ask(key, max_tokens=40), 429, None, "insufficient_quota", "insufficient_quota")
        self.ok(self.server.ask(key, max_tokens=5))


class OpenAI(unittest.TestCase):
    def test_a_real_client(self):
        try:
            import openai
        except ImportError:
            self.skipTest("openai-python is not installed")
        server = tenancy.Server()
        try:
            _, key = server.tenant("acme", requests_per_minute=60)
            poor, poor_key = server.tenant("poor", budget_tokens=1)
            client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key=key, max_retries=3)
            # More than the limit: the client waits as it is told, and all get through.
            for _ in range(62):
                self.assertTrue(client.completions.create(model=tiny.NAME, prompt="a", max_tokens=1).choices)
            client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key=poor_key, max_retries=3)
            begin = time.time()
            with self.assertRaises(openai.RateLimitError) as e:
                client.completions.create(model=tiny.NAME, prompt="a", max_tokens=1)
            self.assertEqual(e.exception.code, "insufficient_quota")
            self.assertLess(time.time() - begin, 1 * lab.SLOW)
            server.logged(lambda x: x["msg"] == "request" and x["request_id"] == e.exception.request_id)
            self.assertEqual(len([x for x in server.log if x.get("tenant") == poor]), 1, "it tried again")
            with self.assertRaises(openai.AuthenticationError):
                openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="sk-no").models.list()
        finally:
            self.assertEqual(server.stop(), 0)


if __name__ == "__main__":
    lab.main()
