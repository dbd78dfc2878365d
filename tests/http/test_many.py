"""Long contexts, long queues, more prefixes than the pool holds, more replies than it holds: every reply is
still the one of the model's closed form, and the counters add up."""

import lab
import tiny_model as tiny

PAGE = 32  # tokens
QUEUED = 200 if lab.SHORT else 1000


def ask(i, **fields):
    """Request i, and the reply that it must get."""
    first, n = ord("a") + i % 26, fields.pop("n_tokens", 3 + i % 5)
    body = {"model": tiny.NAME, "prompt": [*str(i).encode(), first], "max_tokens": n, "temperature": 0, **fields}
    return body, tiny.text_of(tiny.follow(first, n))


class Many(lab.ServerCase):
    def send_all(self, server, asked, meanwhile=lambda: None):
        """All at once, each on a connection of its own; checks the replies."""
        sockets = []
        for body, _ in asked:
            s = server.connect(timeout=300)
            s.sendall(lab.raw_post("/v1/completions", body))
            sockets.append(s)
        meanwhile()
        for s, (_, want) in zip(sockets, asked):
            status, _, reply, _ = lab.read_reply(s)
            self.assertEqual(status, 200, reply)
            self.assertEqual(lab.loads(reply)["choices"][0]["text"], want)
            s.close()

    def served(self, *flags):
        server = lab.Server(*flags)
        self.addCleanup(lambda: server.process.poll() is None and server.process.kill())
        return server

    def test_a_thousand_in_the_queue(self):
        """Behind four that go on until all the others wait."""
        server = self.served("--max-num-seqs", "4", "--max-queue", "1000", "--max-connections", "1100", "--stall-timeout", "200")
        long = [server.connect() for _ in range(4)]
        for s in long:
            s.sendall(lab.raw_post("/v1/completions", lab.long_job()))
            self.assertTrue(s.recv(1000))

        def end_the_long_ones():
            m = server.until(lambda m: m["vllm:num_requests_waiting"] == QUEUED)
            self.assertEqual((m["vllm:num_requests_waiting"], m["vllm:num_requests_running"]), (QUEUED, 4))
            for s in long:
                s.close()

        self.send_all(server, [ask(i, n_tokens=40) for i in range(QUEUED)], end_the_long_ones)
        m = server.idle()
        self.assertEqual(m['vllm:request_success_total{finished_reason="length"}'], QUEUED)
        self.assertEqual(m["vllm:num_preemptions_total"], 0)
        self.assertEqual(server.stop(), 0)

    def test_a_context_to_its_limit(self):
        n = 4096 if lab.SHORT else 16384
        server = self.served("--max-model-len", str(n), "--pool-bytes", "256M")
        prompt = ([ord("x")] * n)[:n - 40] + [ord("a")]
        for cached in (0, (n - 40) // PAGE * PAGE):
            r = self.ok(server.complete(prompt, max_tokens=1000))
            self.assertEqual(r["choices"][0]["text"], tiny.text_of(tiny.follow(ord("a"), 39)))
            self.assertEqual(r["choices"][0]["finish_reason"], "length")
            self.assertEqual(r["usage"]["total_tokens"], n)
            self.assertEqual(r["usage"]["prompt_tokens_details"]["cached_tokens"], cached)
        e = self.refused(server.complete(prompt + [ord("b")] * 40), 400, "prompt", "context_length_exceeded")
        self.assertIn(str(n), e["message"])
        self.assertEqual(server.stop(), 0)

    def test_more_prefixes_than_the_pool_holds(self):
        blocks, extra = 6, 5
        server = self.served("--pool-bytes", "8M", "--max-model-len", "1024")
        total = sum(server.metrics()[f'lodge_pool_pages{{state="{s}"}}'] for s in ("free", "kv", "cached", "adapter"))
        n = int(total) // blocks + extra
        prompts = [[*b"%6d" % i] * (PAGE * blocks // 6) + [ord("a")] for i in range(n)]

        def round_of(order):
            cached = 0
            for i in order:
                r = self.ok(server.complete(prompts[i], max_tokens=2))
                self.assertEqual(r["choices"][0]["text"], "bc")
                cached += r["usage"]["prompt_tokens_details"]["cached_tokens"]
            return cached, server.idle()
        cached, m = round_of(range(n))
        self.assertEqual(cached, 0)
        self.assertEqual(m["lodge_prefix_evicted_pages_total"], n * blocks - m['lodge_pool_pages{state="cached"}'])
        self.assertGreater(m["lodge_prefix_evicted_pages_total"], (extra - 2) * blocks)
        # The last ones are there; going round in one direction finds what is left of the others.
        hits, m2 = round_of(reversed(range(n - 10, n)))
        self.assertEqual(hits, 10 * blocks * PAGE)
        self.assertEqual(m2["lodge_prefix_evicted_pages_total"], m["lodge_prefix_evicted_pages_total"])
        for _ in range(3):
            again, m3 = round_of(range(n))
            hits += again
        self.assertEqual(m3["vllm:prefix_cache_hits_total"], hits)
        self.assertEqual(m3["vllm:prefix_cache_queries_total"], (4 * n + 10) * len(prompts[0]))
        computed = (4 * n + 10) * blocks - hits // PAGE  # full blocks that came in
        self.assertEqual(m3["lodge_prefix_evicted_pages_total"], computed - m3['lodge_pool_pages{state="cached"}'])
        self.assertEqual(server.stop(), 0)

    def test_no_storm_of_preemptions(self):
        """Replies far longer than what admission reserves, in a pool that holds few of them whole."""
        n = 40 if lab.SHORT else 120
        server = self.served("--pool-bytes", "1M", "--max-model-len", "2048", "--reserve-tokens", "8",
                             "--max-num-seqs", "64", "--max-connections", "300")
        for _ in range(2):
            self.send_all(server, [ask(i, n_tokens=700 + 13 * (i % 40), ignore_eos=True) for i in range(n)])
        m = server.idle()
        self.assertGreater(m["vllm:num_preemptions_total"], 0)
        self.assertLessEqual(m["vllm:num_preemptions_total"], 2 * n)  # once each at most
        self.assertEqual(m['lodge_pool_pages{state="kv"}'], 0)
        self.assertEqual(server.stop(), 0)


lab.main()
