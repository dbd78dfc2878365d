"""What the HTTP tests share: a server over the tiny model, and clients of the standard library.

Usage of every test: test_x.py LODGE [unittest arguments]."""
import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import tiny_model as tiny

LODGE = sys.argv[1] if len(sys.argv) > 1 else "build-dev/lodge"
FOLDER = tempfile.TemporaryDirectory(prefix="lodge-http-")
MODEL = os.path.join(FOLDER.name, tiny.NAME + ".gguf")
tiny.write(MODEL)
SHORT = bool(os.environ.get("LODGE_TEST_SHORT")) or "san" in os.environ.get("LODGE_TEST_BUILD", "")
SLOW = 20 if SHORT else 4  # how much longer than on a quiet machine things may take


def path_of(name, text=None):
    path = os.path.join(FOLDER.name, name)
    if text is not None:
        with open(path, "w") as f:
            f.write(text)
    return path


def free_port():
    """Below the range from which the kernel gives ports: else a listener or a connection of any process may get this one
    before the server under test has it."""
    while True:
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", random.randrange(10000, 32768)))
                return s.getsockname()[1]
            except OSError:
                pass


def clean_env(**more):
    env = {k: v for k, v in os.environ.items() if not k.startswith("LODGE_OPT_")}
    return {**env, **more}


def no_twins(pairs):
    assert len({k for k, _ in pairs}) == len(pairs), f"a key stands twice: {pairs}"
    return dict(pairs)


def loads(text):
    return json.loads(text, object_pairs_hook=no_twins)


class Reply:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return loads(self.body)

    @property
    def error(self):
        return self.json["error"]

    def __repr__(self):
        return f"{self.status} {self.body[:600]!r}"


class Server:
    """`lodge serve`; its log is read, so that it never waits for us."""

    def __init__(self, *flags, env=None, wait=True, model=None, port=0):
        base = ["--port", str(port), "--threads", "1"]
        if "--pool-bytes" not in flags:
            base += ["--pool-bytes", "64M"]
        self.process = subprocess.Popen([LODGE, "serve", model or MODEL, *base, *flags], text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=clean_env(**(env or {})))
        self.log, self.told, self.port = [], [], port
        self.admin_port = None
        self.listeners = 1 + ("--admin-port" in flags)
        self.ready = threading.Event()
        self.readers = [threading.Thread(target=self.read_log), threading.Thread(target=self.read_told)]
        for t in self.readers:
            t.start()
        if wait and not self.wait_ready():
            raise AssertionError("no ready line: " + "".join(self.told))

    def read_log(self):
        for line in self.process.stdout:
            self.log.append(json.loads(line))

    def read_told(self):
        for line in self.process.stderr:
            self.told.append(line)
            m = re.match(r"listening on port (\d+),|ready https?://\S+:(\d+)$", line)
            if m:
                self.port = int(m.group(1) or m.group(2)) if m.group(1) or self.listeners == 1 else self.port
                if m.group(2):
                    self.listeners -= 1
                    if self.listeners:
                        self.admin_port = int(m.group(2))
                        continue
                    self.ready.set()
        self.ready.set()

    def wait_ready(self):
        self.ready.wait(120)
        return any(line.startswith("ready ") for line in self.told)

    def request(self, method, path, body=None, headers=None, timeout=120, port=None):
        c = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=timeout)
        try:
            if not isinstance(body, (str, bytes, type(None))):
                body = json.dumps(body)
            if isinstance(body, str):
                body = body.encode()
            kind = {"Content-Type": "application/json"} if body is not None else {}
            c.request(method, path, body, {**kind, **(headers or {})})
            r = c.getresponse()
            return Reply(r.status, r.headers, r.read().decode())
        finally:
            c.close()

    def get(self, path, **headers):
        return self.request("GET", path, headers=headers)

    def post(self, path, body, **headers):
        return self.request("POST", path, body, headers)

    def chat(self, **fields):
        body = {"model": tiny.NAME, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 6, "temperature": 0}
        body.update(fields)
        return self.post("/v1/chat/completions", body)

    def complete(self, prompt="a", **fields):
        body = {"model": tiny.NAME, "prompt": prompt, "max_tokens": 6, "temperature": 0}
        body.update(fields)
        return self.post("/v1/completions", body)

    def metrics(self):
        out = {}
        for line in self.get("/metrics").body.splitlines():
            if line and line[0] != "#":
                key, value = line.rsplit(" ", 1)
                out[re.sub(r'model_name="[^"]*",engine="0",?', "", key).replace("{}", "").replace(",}", "}")] = float(value)
        return out

    def logged(self, condition, seconds=10):
        """The first log line that satisfies the condition; lines come a moment after the reply."""
        end = time.time() + seconds * SLOW
        while time.time() < end:
            for e in list(self.log):
                if condition(e):
                    return e
            time.sleep(0.01)
        raise AssertionError(f"no such line in the log: {self.log[-3:]}")

    def idle(self, seconds=10):
        """Waits until nothing runs; returns the metrics then."""
        return self.until(lambda m: m["vllm:num_requests_running"] + m["vllm:num_requests_waiting"] == 0, seconds)

    def until(self, condition, seconds=10):
        end = time.time() + seconds * SLOW
        while True:
            m = self.metrics()
            if condition(m) or time.time() > end:
                return m
            time.sleep(0.01)

    def connect(self, receive_bytes=None, timeout=120):
        s = socket.socket()
        if receive_bytes:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        s.settimeout(timeout)
        s.connect(("127.0.0.1", self.port))
        return s

    def signal(self, number=signal.SIGTERM):
        self.process.send_signal(number)

    def wait(self, seconds=120):
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)
            self.process.wait()
            raise AssertionError("the server hangs: " + "".join(self.told))
        for t in self.readers:
            t.join()
        self.process.stdout.close()
        self.process.stderr.close()
        return code

    def stop(self):
        self.signal()
        code = self.wait()
        if code:
            print("".join(self.told), file=sys.stderr)
        return code


def raw_post(path, body, *headers):
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json",
             f"Content-Length: {len(text)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + text


def read_reply(s, buffer=b""):
    """One HTTP reply from a socket: (status, head, body, what came after it)."""
    while b"\r\n\r\n" not in buffer:
        more = s.recv(65536)
        if not more:
            return 0, buffer, b"", b""
        buffer += more
    head, buffer = buffer.split(b"\r\n\r\n", 1)
    m = re.search(rb"(?i)content-length: (\d+)", head)
    n = int(m.group(1)) if m else 0
    while len(buffer) < n:
        buffer += s.recv(65536)
    return int(head.split()[1]), head.decode(), buffer[:n], buffer[n:]


def read_all(s):
    out = b""
    while True:
        try:
            more = s.recv(65536)
        except ConnectionResetError:
            return out
        if not more:
            return out
        out += more


def events(text):
    """The payloads of an event stream, whose form is checked to the byte."""
    assert text.endswith("\n\n"), text[-200:]
    out = []
    for block in text[:-2].split("\n\n"):
        if block == ": ping":
            continue
        assert block.startswith("data: ") and "\n" not in block, block
        out.append("[DONE]" if block == "data: [DONE]" else loads(block[6:]))
    return out


def long_job(**fields):
    """A completion that runs for seconds."""
    return {"model": tiny.NAME, "prompt": "a", "max_tokens": 60000, "temperature": 0, "ignore_eos": True, "stream": True,
            **fields}


class ServerCase(unittest.TestCase):
    """Tests that share one server of the class."""
    flags = ()

    @classmethod
    def setUpClass(cls):
        cls.server = Server(*cls.flags)

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop() == 0

    def refused(self, reply, status, param=None, code=None, kind="invalid_request_error", says=""):
        self.assertEqual(reply.status, status, reply)
        e = reply.error
        self.assertEqual(set(e), {"message", "type", "param", "code"})
        self.assertEqual((e["type"], e["param"], e["code"]), (kind, param, code), e)
        self.assertIn(says, e["message"])
        self.assertTrue(e["message"])
        return e

    def ok(self, reply):
        self.assertEqual(reply.status, 200, reply)
        return reply.json


def main():
    unittest.main(argv=[sys.argv[0], *sys.argv[2:]], verbosity=2, warnings="ignore")
