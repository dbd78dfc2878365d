"""Event streams: bytes, order, slow readers, disconnects."""
import json
import re
import socket
import threading
import time

import lab
import tiny_model as tiny

A = ord("a")
HEADERS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache", "X-Accel-Buffering": "no",
           "Transfer-Encoding": "chunked"}


class StreamCase(lab.ServerCase):
    def stream(self, reply):
        self.assertEqual(reply.status, 200, reply)
        for name, value in HEADERS.items():
            self.assertEqual(reply.headers[name], value)
        return lab.events(reply.body)


class Silence(StreamCase):
    flags = ("--keepalive", "0.1", "--cpu-isa", "ref")  # slow enough for a silence

    def test_comment_in_a_long_silence(self):
        """A stop string is held back for long: the stream is silent meanwhile."""
        n = 600 if lab.SHORT else 4000
        text = tiny.text_of(tiny.follow(A, n))
        r = self.server.complete("a", stream=True, max_tokens=n + 200, stop=text + "X")
        self.assertIn(": ping\n\n", r.body)
        self.assertEqual("".join(x["choices"][0]["text"] for x in self.stream(r)[:-1]), tiny.text_of(tiny.follow(A, n + 200)))


class Streams(StreamCase):
    def test_chat_to_the_byte(self):
        r = self.server.chat(stream=True, stream_options={"include_usage": True}, max_tokens=2)
        self.stream(r)
        body = re.sub(r'"id":"chatcmpl-[0-9a-f]+","object":"chat.completion.chunk","created":\d+,"model":"tiny",'
                      r'"system_fingerprint":"fp_[0-9a-f]{12}"', "HEAD", r.body)
        body = re.sub(r',"timings":\{[^}]*\}', "", body)
        none = '"logprobs":null,"finish_reason":null}],"usage":null}\n\n'
        self.assertEqual(body, (
            'data: {HEAD,"choices":[{"index":0,"delta":{"role":"assistant","content":""},' + none +
            'data: {HEAD,"choices":[{"index":0,"delta":{"content":" red"},' + none +
            'data: {HEAD,"choices":[{"index":0,"delta":{"content":" green"},' + none +
            'data: {HEAD,"choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"length","stop_reason":null}],"usage":null}\n\n'
            'data: {HEAD,"choices":[],"usage":{"prompt_tokens":21,"completion_tokens":2,"total_tokens":23,'
            '"prompt_tokens_details":{"cached_tokens":0},"completion_tokens_details":{"reasoning_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}}\n\n'
            "data: [DONE]\n\n"))
        self.assertEqual(len(set(re.findall(r'"id":"[^"]*"', r.body))), 1)

    def test_completion_to_the_byte(self):
        r = self.server.complete("a", stream=True, max_tokens=2)
        self.stream(r)
        body = re.sub(r'"id":"cmpl-[0-9a-f]+","object":"text_completion","created":\d+,"model":"tiny",'
                      r'"system_fingerprint":"fp_[0-9a-f]{12}"', "HEAD", r.body)
        self.assertEqual(body, (
            'data: {HEAD,"choices":[{"index":0,"text":"b","logprobs":null,"finish_reason":null}]}\n\n'
            'data: {HEAD,"choices":[{"index":0,"text":"c","logprobs":null,"finish_reason":null}]}\n\n'
            'data: {HEAD,"choices":[{"index":0,"text":"","logprobs":null,"finish_reason":"length","stop_reason":null}]}\n\n'
            "data: [DONE]\n\n"))

    def same_as_whole(self, send, **fields):
        """A stream adds up to the whole reply of the same request."""
        whole = send(**fields).json
        got = {c["index"]: {"text": "", "ids": [], "lp": []} for c in whole["choices"]}
        for e in self.stream(send(stream=True, stream_options={"include_usage": True}, **fields))[:-1]:
            for c in e["choices"]:
                mine = got[c["index"]]
                self.assertNotIn("finish_reason", mine)
                mine["text"] += c["delta"].get("content", "") if "delta" in c else c["text"]
                mine["ids"] += c.get("token_ids", [])
                lp = c["logprobs"]
                if lp:
                    mine["lp"] += lp["content"] if "content" in lp else list(zip(
                        lp["tokens"], lp["token_logprobs"], map(str, lp["top_logprobs"]), lp["text_offset"]))
                if c["finish_reason"]:
                    mine["finish_reason"], mine["stop_reason"] = c["finish_reason"], c["stop_reason"]
            usage = e["usage"]
        usage["prompt_tokens_details"] = whole["usage"]["prompt_tokens_details"] = None
        self.assertEqual(usage, whole["usage"])
        for c in whole["choices"]:
            lp = c["logprobs"]
            want = {"text": c["message"]["content"] if "message" in c else c["text"], "ids": c.get("token_ids", []),
                    "lp": [] if not lp else lp["content"] if "content" in lp else list(zip(
                        lp["tokens"], lp["token_logprobs"], map(str, lp["top_logprobs"]), lp["text_offset"])),
                    "finish_reason": c["finish_reason"], "stop_reason": c["stop_reason"]}
            self.assertEqual(got[c["index"]], want)

    def test_streams_add_up(self):
        s = self.server
        for fields in ({}, {"n": 3, "temperature": 1.5, "seed": 3}, {"stop": "n bl", "max_tokens": 30},
                       {"logprobs": True, "top_logprobs": 2, "n": 2}, {"return_token_ids": True, "max_tokens": 20},
                       {"stream_interval": 4, "max_tokens": 10, "logprobs": True}, {"logit_bias": {str(tiny.IM_END): 100}},
                       {"stop": " red", "include_stop_str_in_output": True}):
            with self.subTest(chat=fields):
                self.same_as_whole(s.chat, **fields)
        for fields in ({}, {"prompt": ["a", "?", "%", "b"], "max_tokens": 7}, {"echo": True}, {"prompt": "!"},
                       {"echo": True, "logprobs": 2, "prompt": ["abx", "q"]}, {"echo": True, "max_tokens": 0, "logprobs": 1},
                       {"logprobs": 3, "n": 2, "seed": 1, "temperature": 1}, {"stop": "f", "max_tokens": 60},
                       {"prompt": "?", "max_tokens": 3}, {"return_token_ids": True, "stream_interval": 3, "max_tokens": 11},
                       {"stop_token_ids": [A + 3]}):
            with self.subTest(completion=fields):
                self.same_as_whole(s.complete, **fields)

    def test_order_of_choices(self):
        for send, fields in ((self.server.chat, {"n": 7}), (self.server.complete, {"prompt": list("abcdefg"), "n": 3})):
            seen = []
            for e in self.stream(send(stream=True, temperature=1, max_tokens=20, **fields))[:-1]:
                i = e["choices"][0]["index"]
                if i not in seen:
                    seen.append(i)
            self.assertEqual(seen, sorted(seen))

    def test_token_ids_of_the_prompt_come_first(self):
        e = self.stream(self.server.chat(stream=True, return_token_ids=True))
        self.assertEqual(e[0]["prompt_token_ids"], tiny.chat_ids(("user", "hi")))
        self.assertTrue(all("prompt_token_ids" not in x for x in e[1:-1]))
        e = self.stream(self.server.complete("ab", stream=True, return_token_ids=True))
        self.assertEqual(e[0]["choices"][0]["prompt_token_ids"], [A, A + 1])

    def test_interval(self):
        e = self.stream(self.server.complete("a", stream=True, max_tokens=21, stream_interval=10))
        self.assertEqual([x["choices"][0]["text"] for x in e[:-1]], ["b", "cdefghijkl", "mnopqrstuv", ""])

    def test_continuous_usage(self):
        e = self.stream(self.server.chat(stream=True, stream_options={"include_usage": True, "continuous_usage_stats": True}))
        counts = [x["usage"]["completion_tokens"] for x in e[:-1]]
        self.assertEqual((counts[0], counts[-1]), (0, 6) if counts[0] == 0 else (1, 6))
        self.assertEqual(counts, sorted(counts))

    def test_http_1_0(self):
        s = self.server.connect()
        body = json.dumps({"model": tiny.NAME, "prompt": "a", "max_tokens": 3, "stream": True, "temperature": 0})
        s.sendall(f"POST /v1/completions HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
                  f"{body}".encode())
        head, text = lab.read_all(s).decode().split("\r\n\r\n", 1)
        self.assertNotIn("chunked", head)
        self.assertEqual(lab.events(text)[-1], "[DONE]")

    # ---- disconnects ----

    def begin(self, body=None, receive_bytes=None):
        s = self.server.connect(receive_bytes)
        s.sendall(lab.raw_post("/v1/completions", body or lab.long_job()))
        self.assertIn(b"200 OK", s.recv(4096))
        return s

    def test_disconnect_frees_pages(self):
        before = self.server.idle()
        for how in ("close", "reset", "half"):
            with self.subTest(how):
                s = self.begin()
                busy = self.server.until(lambda m: m['lodge_pool_pages{state="kv"}'] > 0)
                self.assertGreater(busy['lodge_pool_pages{state="kv"}'], 0)
                if how == "reset":
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                if how == "half":
                    s.shutdown(socket.SHUT_WR)
                else:
                    s.close()
                gone = self.server.until(lambda m: m['lodge_pool_pages{state="kv"}'] == 0, 2)
                self.assertEqual(gone['lodge_pool_pages{state="kv"}'], 0)
                s.close()
        after = self.server.idle()
        aborts = 'vllm:request_success_total{finished_reason="abort"}'
        self.assertEqual(after[aborts] - before[aborts], 3)

    def test_disconnect_of_a_whole_reply(self):
        s = self.server.connect()
        s.sendall(lab.raw_post("/v1/completions", lab.long_job(stream=False)))
        self.server.until(lambda m: m['lodge_pool_pages{state="kv"}'] > 0)
        s.close()
        self.assertEqual(self.server.until(lambda m: m['lodge_pool_pages{state="kv"}'] == 0, 2)['lodge_pool_pages{state="kv"}'], 0)
        self.server.logged(lambda e: e["status"] == 499)

    def test_deadline(self):
        r = self.server.post("/v1/completions", lab.long_job(stream=False, timeout=0.3))
        self.refused(r, 503, code="timeout", kind="overloaded_error")
        self.assertTrue(1 <= int(r.headers["Retry-After"]) <= 5)
        e = self.stream(self.server.post("/v1/completions", lab.long_job(timeout=0.3, n=2)))
        self.assertEqual(e[-1]["error"]["code"], "timeout")
        ends = [c["finish_reason"] for x in e[:-1] for c in x["choices"] if c["finish_reason"]]
        self.assertEqual(ends, ["length", "length"])
        self.assertEqual(self.server.idle()["vllm:num_requests_running"], 0)


class SlowReaders(lab.ServerCase):
    flags = ("--stall-timeout", "1", "--max-num-seqs", "4")

    def test_a_slow_reader_costs_itself_only(self):
        s = self.server.connect(receive_bytes=4096)
        # Wide enough that the sockets' buffers fill.
        s.sendall(lab.raw_post("/v1/chat/completions", {
            "model": tiny.NAME, "messages": [{"role": "user", "content": "x"}], "max_tokens": 2500 if lab.SHORT else 6000, "temperature": 0,
            "ignore_eos": True, "stream": True, "logprobs": True, "top_logprobs": 20}))
        begin = time.time()
        while time.time() < begin + 1.5:
            r = self.server.complete("a", stream=True, max_tokens=50)
            self.assertEqual(lab.events(r.body)[-1], "[DONE]")
        self.server.logged(lambda e: e.get("finish_reason") == "abort" or e.get("output_tokens", 0) > 1000, 30)
        data = lab.read_all(s)
        self.assertFalse(data.endswith(b"0\r\n\r\n"), "a reply that was cut must not look complete")
        self.assertEqual(self.server.idle()['lodge_pool_pages{state="kv"}'], 0)

    def test_many_at_once_with_leavers(self):
        """Half of the clients leave in the middle; the others get every byte."""
        want = tiny.text_of(tiny.follow(A, 200))
        wrong = []

        def stay():
            r = self.server.complete("a", stream=True, max_tokens=200)
            if "".join(e["choices"][0]["text"] for e in lab.events(r.body)[:-1]) != want:
                wrong.append(r.body)

        def leave():
            s = self.server.connect()
            s.sendall(lab.raw_post("/v1/completions", lab.long_job()))
            s.recv(2000)
            s.close()

        threads = [threading.Thread(target=f) for f in [stay, leave] * (4 if lab.SHORT else 16)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertFalse(wrong)
        self.assertEqual(self.server.idle()['lodge_pool_pages{state="kv"}'], 0)


if __name__ == "__main__":
    lab.main()
