"""Replies are the same with guessing and without; only the count of right guesses tells."""
import lab
import tiny_model as tiny


class Speculation(lab.ServerCase):
    def guesses(self, reply):
        details = (reply if isinstance(reply, dict) else self.ok(reply))["usage"]["completion_tokens_details"]
        return details["accepted_prediction_tokens"], details["rejected_prediction_tokens"]

    def pair(self, ask, **fields):
        """The choices of one request both ways, and its guesses (right, wrong)."""
        plain = self.ok(ask(**fields, seed=5))
        fast = self.ok(ask(**{"speculate": True, **fields}, seed=5))
        self.assertEqual(plain["choices"], fast["choices"])
        self.assertEqual(plain["usage"]["completion_tokens"], fast["usage"]["completion_tokens"])
        return self.guesses(fast)

    def test_text_that_repeats(self):
        for fields in ({}, {"logprobs": 2}, {"n": 2}):
            self.pair(self.server.complete, max_tokens=120, **fields)  # a..z, again and again

    def test_ends_inside_a_draft(self):
        for fields in ({"stop": "m"}, {"stop": ["xyz", "no"]}, {"stop_token_ids": [ord("q")]}, {"max_tokens": 77},
                       {"max_tokens": 78}, {"max_tokens": 79}):
            self.pair(self.server.complete, **{"prompt": "abcdefghijklmnopqrstuvwxyzab", "max_tokens": 200, **fields})

    def test_random_text(self):
        for temperature in (0.3, 1, 2):
            self.pair(self.server.complete, max_tokens=150, temperature=temperature, n=3)

    def test_prediction(self):
        reply = tiny.text_of(tiny.follow(10, 40))
        self.pair(self.server.chat, max_tokens=40, prediction={"type": "content", "content": reply})
        self.pair(self.server.chat, max_tokens=40, prediction={"type": "content", "content": reply[:9] + "x" + reply[9:]})
        right, wrong = self.pair(self.server.chat, max_tokens=3, prediction={"type": "content", "content": ""})
        self.assertEqual(right, 0)

    def test_left_out(self):
        for fields in ({"repetition_penalty": 1.1}, {"presence_penalty": 0.5}, {"bad_words": ["zzz"]}, {"min_tokens": 100}):
            self.assertEqual(self.pair(self.server.complete, max_tokens=100, **fields), (0, 0), fields)

    def test_first_guesses(self):
        """Later ones depend on what steps cost here; on so small a model they may not pay."""
        reply = tiny.text_of(tiny.follow(10, 40))
        server = lab.Server()
        try:
            right, wrong = self.guesses(server.chat(max_tokens=40, prediction={"type": "content", "content": reply}))
            self.assertGreater(right, 5)
            m = server.metrics()
            self.assertGreater(m["vllm:spec_decode_num_drafts_total"], 0)
            self.assertEqual(m["vllm:spec_decode_num_draft_tokens_total"], right + wrong)
            self.assertEqual(m["vllm:spec_decode_num_accepted_tokens_total"], right)
        finally:
            self.assertEqual(server.stop(), 0)

    def test_flag(self):
        server = lab.Server("--speculate")
        try:
            reply = server.complete(max_tokens=120)
            self.assertGreater(self.guesses(reply)[0], 0)
            self.assertEqual(reply.json["choices"], self.ok(self.server.complete(max_tokens=120))["choices"])
        finally:
            self.assertEqual(server.stop(), 0)


if __name__ == "__main__":
    lab.main()
