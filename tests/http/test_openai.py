"""The stock client, openai-python. Skipped (77) where it is not installed."""
import asyncio
import sys

import lab
import tiny_model as tiny

try:
    import openai
except ImportError:
    print("skipped: openai-python is not installed")
    sys.exit(77)

USER = [{"role": "user", "content": "hi"}]
WANT = tiny.text_of(tiny.follow(10, 6))


class Client(lab.ServerCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.client = openai.OpenAI(base_url=f"http://127.0.0.1:{cls.server.port}/v1", api_key="none", max_retries=0, timeout=60)

    def chat(self, **more):
        return self.client.chat.completions.create(**{**dict(model=tiny.NAME, messages=USER, temperature=0, max_tokens=6), **more})

    def test_chat(self):
        r = self.chat()
        self.assertEqual((r.choices[0].message.content, r.choices[0].finish_reason, r.usage.completion_tokens), (WANT, "length", 6))
        self.assertTrue(r._request_id.startswith("req_"))
        self.assertEqual(r.usage.prompt_tokens_details.cached_tokens, 0)
        self.assertIsNone(r.choices[0].message.tool_calls)

    def test_stream(self):
        chunks = list(self.chat(stream=True, stream_options={"include_usage": True}))
        self.assertEqual("".join(c.choices[0].delta.content or "" for c in chunks if c.choices), WANT)
        self.assertEqual(chunks[-1].usage.completion_tokens, 6)
        self.assertEqual(chunks[0].choices[0].delta.role, "assistant")

    def test_stream_helper(self):
        """The accumulating helper is strict about the order of chunks."""
        with self.client.chat.completions.stream(model=tiny.NAME, messages=USER, temperature=0, max_tokens=6, n=2, logprobs=True,
                                                 stream_options={"include_usage": True}) as s:
            for _ in s:
                pass
            try:
                final = s.get_final_completion()
            except openai.LengthFinishReasonError as e:
                final = e.completion
        self.assertEqual([c.message.content for c in final.choices], [WANT, WANT])
        self.assertEqual(len(final.choices[0].logprobs.content), 6)

    def test_completion(self):
        r = self.client.completions.create(model=tiny.NAME, prompt=["a", "b"], max_tokens=3, temperature=0, logprobs=2, echo=True)
        self.assertEqual([c.text for c in r.choices], ["abcd", "bcde"])
        self.assertIsNone(r.choices[0].logprobs.token_logprobs[0])
        parts = self.client.completions.create(model=tiny.NAME, prompt="a", max_tokens=3, temperature=0, stream=True)
        self.assertEqual("".join(c.choices[0].text for c in parts), "bcd")

    def test_models(self):
        self.assertEqual([m.id for m in self.client.models.list()], [tiny.NAME])
        self.assertEqual(self.client.models.retrieve(tiny.NAME).id, tiny.NAME)
        with self.assertRaises(openai.NotFoundError):
            self.client.models.retrieve("nope")

    def test_errors(self):
        with self.assertRaises(openai.BadRequestError) as e:
            self.chat(temperature=9)
        self.assertEqual((e.exception.param, e.exception.type, e.exception.code), ("temperature", "invalid_request_error", None))
        with self.assertRaises(openai.NotFoundError) as e:
            self.chat(model="nope")
        self.assertEqual(e.exception.code, "model_not_found")
        with self.assertRaises(openai.APIError) as e:
            list(self.chat(stream=True, max_tokens=60000, extra_body={"ignore_eos": True, "timeout": 0.3}))
        self.assertEqual(e.exception.code, "timeout")
        with self.assertRaises(openai.InternalServerError):
            self.chat(max_tokens=60000, extra_body={"ignore_eos": True, "timeout": 0.3})

    def test_extensions(self):
        r = self.chat(extra_body={"top_k": 1, "min_p": 0.1, "return_token_ids": True, "stop_token_ids": [tiny.BLUE]})
        self.assertEqual((r.choices[0].token_ids, r.choices[0].stop_reason), ([tiny.RED, tiny.GREEN, tiny.BLUE], tiny.BLUE))

    def test_leaving_a_stream(self):
        s = self.chat(stream=True, max_tokens=60000, extra_body={"ignore_eos": True})
        next(iter(s))
        s.close()
        m = self.server.until(lambda m: m['lodge_pool_pages{state="kv"}'] == 0, 3)
        self.assertEqual(m['lodge_pool_pages{state="kv"}'], 0)

    def test_many_at_once(self):
        async def run():
            async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{self.server.port}/v1", api_key="x", max_retries=0) as c:
                async def one(i):
                    s = await c.chat.completions.create(model=tiny.NAME, messages=USER, temperature=0, max_tokens=6, stream=True)
                    return "".join([p.choices[0].delta.content or "" async for p in s])
                return await asyncio.gather(*map(one, range(40)))
        self.assertEqual(asyncio.run(run()), [WANT] * 40)


if __name__ == "__main__":
    lab.main()
