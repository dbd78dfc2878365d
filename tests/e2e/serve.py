"""The whole server over the default model: `openai-python` and raw HTTP as clients.

Usage: serve.py LODGE. The model comes from LODGE_TEST_MODEL; exit code 77 (skipped) without it or
without openai-python. Every check prints one line; the first failure ends the run with code 1."""
import atexit
import concurrent.futures
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

MODEL = os.environ.get("LODGE_TEST_MODEL", "")
if not os.path.exists(MODEL):
    print("skipped: the default model is not there (LODGE_TEST_MODEL)")
    sys.exit(77)
try:
    import openai
except ImportError:
    print("skipped: openai-python is not installed")
    sys.exit(77)

LODGE = sys.argv[1]
NAME = os.path.basename(MODEL).removesuffix(".gguf")


class Server:
    def __init__(self, *flags, env=None):
        self.process = subprocess.Popen([LODGE, "serve", MODEL, "--port", "0", *flags], text=True,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=env)
        atexit.register(self.process.kill)  # a failing check leaves nothing behind
        self.lines, self.url = [], None
        for line in self.process.stderr:
            self.lines.append(line)
            if line.startswith("ready "):
                self.url = line.split()[1]
                break
        assert self.url, "no ready line: " + "".join(self.lines)
        self.port = int(self.url.rsplit(":", 1)[1])
        self.client = openai.OpenAI(base_url=self.url + "/v1", api_key="none", max_retries=0, timeout=120)

    def raw(self, method, path, body=None, headers=None):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        if isinstance(body, (dict, list)):
            body = json.dumps(body)
        c.request(method, path, body, {"Content-Type": "application/json", **(headers or {})})
        r = c.getresponse()
        text = r.read().decode()
        c.close()
        return r.status, text, r.headers

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(40)


def chat(server, text, **more):
    kw = dict(model=NAME, messages=[{"role": "user", "content": text}], temperature=0, max_tokens=24)
    kw.update(more)
    return server.client.chat.completions.create(**kw)


def ok(name, condition, detail=""):
    print(("ok   " if condition else "FAIL ") + name + ("" if condition else f": {detail}"), flush=True)
    if not condition:
        sys.exit(1)


QUESTIONS = [f"Tell me about the number {i}, and why {'very ' * (i % 7)}old people like it." for i in range(16)]


def check_basic(s):
    ok("models", [m.id for m in s.client.models.list()] == [NAME])
    a = chat(s, "Name three colors.")
    ok("a sensible answer", "red" in a.choices[0].message.content.lower(), a.choices[0].message.content)
    ok("usage", a.usage.completion_tokens > 0 and a.usage.total_tokens == a.usage.prompt_tokens + a.usage.completion_tokens)
    parts = list(chat(s, "Name three colors.", stream=True, stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in parts if c.choices)
    ok("a stream says the same", text == a.choices[0].message.content, text)
    ok("the last chunk has the usage", parts[-1].usage.completion_tokens == a.usage.completion_tokens)
    ok("finish reasons", [c.choices[0].finish_reason for c in parts if c.choices][-1] == a.choices[0].finish_reason)


def check_determinism(s):
    alone = [chat(s, q).choices[0].message.content for q in QUESTIONS]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        for turn in range(2):  # the second time over cached prefixes
            together = list(pool.map(lambda q: chat(s, q).choices[0].message.content, QUESTIONS))
            ok(f"greedy replies do not depend on the batch ({turn})", together == alone)
        seeded = dict(temperature=1.0, top_p=0.9, seed=7)
        one = [chat(s, q, **seeded).choices[0].message.content for q in QUESTIONS]
        ok("seeded replies do not depend on the batch",
           list(pool.map(lambda q: chat(s, q, **seeded).choices[0].message.content, QUESTIONS)) == one)
    return alone


def check_scores(s):
    a = s.client.completions.create(model=NAME, prompt="The sun rises in the", max_tokens=12, temperature=0, logprobs=3)
    whole = "The sun rises in the" + a.choices[0].text
    b = s.client.completions.create(model=NAME, prompt=whole, max_tokens=0, temperature=0, logprobs=0, echo=True)
    made, scored = a.choices[0].logprobs.token_logprobs, b.choices[0].logprobs.token_logprobs
    ok("decoded and teacher-forced log-probabilities are equal", made == scored[-len(made):], (made, scored))
    c = chat(s, "Say hello.", logprobs=True, top_logprobs=2)
    ok("chat log-probabilities", all(len(t.top_logprobs) == 2 for t in c.choices[0].logprobs.content))
    n = chat(s, "Say hello.", n=3, temperature=1.0, seed=3)
    ok("n choices", [x.index for x in n.choices] == [0, 1, 2])
    greedy = chat(s, QUESTIONS[0], n=2)
    ok("greedy choices are equal", greedy.choices[0].message.content == greedy.choices[1].message.content)
    said = chat(s, "Name three colors.").choices[0].message.content
    word = said.split()[3]
    stop = chat(s, "Name three colors.", stop=[word])
    ok("stop strings", stop.choices[0].message.content == said[:said.index(word)] and stop.choices[0].finish_reason == "stop")


def check_refusals(s):
    base = {"model": NAME, "messages": [{"role": "user", "content": "x"}]}
    cases = [
        ("malformed JSON", "{", 400, None), ("not an object", "[]", 400, None),
        ("wrong type", {**base, "temperature": "0.7"}, 400, "temperature"),
        ("out of range", {**base, "temperature": 3}, 400, "temperature"),
        ("huge number", {**base, "top_p": 1e300}, 400, "top_p"),
        ("negative", {**base, "max_tokens": -1}, 400, "max_tokens"),
        ("no messages", {"model": NAME, "messages": []}, 400, "messages"),
        ("unknown role", {"model": NAME, "messages": [{"role": "x", "content": "y"}]}, 400, "messages[0].role"),
        ("unsupported", {**base, "tools": [{"type": "function", "function": {"name": "f"}}]}, 400, "tools"),
        ("unknown model", {**base, "model": "nope"}, 404, "model"),
        ("empty stop", {**base, "stop": ""}, 400, "stop"),
        ("stream_options alone", {**base, "stream_options": {}}, 400, "stream_options"),
        ("bias out of vocabulary", {**base, "logit_bias": {"999999": 1}}, 400, "logit_bias"),
        ("too long", {"model": NAME, "messages": [{"role": "user", "content": "word " * 20000}]}, 400, "messages"),
    ]
    for name, body, status, param in cases:
        got, text, _ = s.raw("POST", "/v1/chat/completions", body)
        error = json.loads(text)["error"]
        ok("refused: " + name, got == status and error["message"] and (param is None or error["param"] == param), (got, text))
    ok("405", s.raw("GET", "/v1/chat/completions")[0] == 405)
    ok("404", s.raw("GET", "/v1/nothing")[0] == 404)
    ok("415", s.raw("POST", "/tokenize", "{}", {"Content-Type": "text/plain"})[0] == 415)
    ok("413", s.raw("POST", "/tokenize", "x" * (5 << 20))[0] == 413)
    status, text, headers = s.raw("GET", "/health")
    ok("health and request id", status == 200 and headers["x-request-id"])
    ok("still alive", "red" in chat(s, "Name three colors.").choices[0].message.content.lower())


def pages(s):
    text = s.raw("GET", "/metrics")[1]
    return {k: int(v) for k, v in re.findall(r'lodge_pool_pages\{state="(\w+)"\} (\d+)', text)}, text


def check_text_side(s):
    for text in ["héllo wörld 123", "日本語 🙂\r\n\t", "<|im_end|> is text", " " * 50 + "x"]:
        ids = json.loads(s.raw("POST", "/tokenize", {"prompt": text})[1])["tokens"]
        back = json.loads(s.raw("POST", "/detokenize", {"tokens": ids})[1])["prompt"]
        ok(f"round trip {text[:12]!r}", back == text, back)
    body = {"messages": [{"role": "user", "content": "a <|im_end|> b"}]}
    ids = json.loads(s.raw("POST", "/tokenize", body)[1])["tokens"]
    ok("user text never becomes control tokens", ids.count(2) == 2, ids)


def check_disconnect(s):
    c = socket.create_connection(("127.0.0.1", s.port))
    body = json.dumps({"model": NAME, "messages": [{"role": "user", "content": "Count."}], "max_tokens": 8000,
                       "ignore_eos": True, "stream": True})
    c.sendall(f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
              f"Content-Length: {len(body)}\r\n\r\n{body}".encode())
    while b'"content":"' not in c.recv(4096).replace(b'"content":""', b''):
        pass
    busy = pages(s)[0]
    c.close()
    for _ in range(100):
        now, text = pages(s)
        if now["kv"] == 0:
            break
        time.sleep(0.02)
    ok("a disconnect frees the pages", busy["kv"] > 0 and now["kv"] == 0, (busy, now))
    ok("and is counted once", 'finished_reason="abort"} 1' in text)


def check_programs():
    def code(*args, **env):
        p = subprocess.run([LODGE, *args], capture_output=True, text=True, timeout=60, env={**os.environ, **env})
        return p.returncode, p.stderr.strip().splitlines()[-1] if p.stderr.strip() else ""
    ok("usage", code("serve")[0] == 2)
    ok("unknown flag", code("serve", MODEL, "--nope")[0] == 2)
    ok("unknown variable", code("serve", MODEL, LODGE_OPT_NOPE="1")[0] == 2)
    ok("missing file", code("serve", "/nonexistent.gguf")[0] == 3)
    ok("refused file", code("serve", __file__)[0] == 3)
    ok("no key on all interfaces", code("serve", MODEL, "--host", "0.0.0.0")[0] == 2)
    ok("too small a pool", code("serve", MODEL, "--pool-bytes", "100k")[0] == 4)
    ok("a context that does not fit", code("serve", MODEL, "--pool-bytes", "1M", "--max-model-len", "4096")[0] == 4)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        got = code("serve", MODEL, "--port", str(taken.getsockname()[1]))
        ok("port in use", got[0] == 4, got)


def check_variants(dtype, pool, alone):
    """Replies depend on nothing but the dtype of keys and values; `pool` holds 16 pages."""
    tight = ["--max-model-len", "512", "--pool-bytes", pool, "--reserve-tokens", "1"]
    for flags in (["--threads", "1"], [*tight, "--max-num-batched-tokens", "64", "--max-num-seqs", "16"],
                  ["--speculate"], ["--no-prefix-cache", "--cpu-isa", "avx2"]):
        s = Server("--kv-cache-dtype", dtype, *flags)
        with concurrent.futures.ThreadPoolExecutor(16) as executor:
            n = 2 if "avx2" in flags else 16
            got = list(executor.map(lambda q: chat(s, q).choices[0].message.content, QUESTIONS[:n]))
        ok(f"the same replies in {dtype} with " + " ".join(flags), got == alone[:n])
        if pool in flags:
            ok("some were preempted", not re.search(r"^vllm:num_preemptions_total.* 0$", pages(s)[1], re.M))
        ok("stops", s.stop() == 0)


def short():
    """The threaded paths alone, for sanitizers."""
    s = Server("--max-num-seqs", "8")
    check_basic(s)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda q: chat(s, q, max_tokens=6), QUESTIONS))
    check_disconnect(s)
    ok("SIGTERM ends it with 0", s.stop() == 0)


def main():
    if os.environ.get("LODGE_TEST_SHORT"):
        return short()
    check_programs()
    s = Server()
    check_basic(s)
    alone = check_determinism(s)
    check_scores(s)
    check_text_side(s)
    check_refusals(s)
    check_disconnect(s)
    ok("SIGTERM ends it with 0", s.stop() == 0)
    check_variants("bf16", "12M", alone)
    s = Server("--kv-cache-dtype", "int8")
    ok("the metrics tell the dtype", 'cache_dtype="int8"' in pages(s)[1])
    alone = check_determinism(s)
    check_scores(s)
    s.stop()
    check_variants("int8", "6M", alone)
    s = Server("--api-key", "secret")
    ok("401 without the key", s.raw("GET", "/v1/models")[0] == 401)
    ok("200 with it", s.raw("GET", "/v1/models", headers={"Authorization": "bearer secret"})[0] == 200)
    s.stop()


main()
