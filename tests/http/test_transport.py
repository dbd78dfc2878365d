"""Bytes on the wire: slow, broken, huge and odd requests; connections; access."""
import http.client
import json
import re
import socket
import ssl
import subprocess
import time
import unittest

import lab
import tiny_model as tiny

TOKENIZE = {"prompt": "ab"}


class Wire(lab.ServerCase):
    flags = ("--max-body-bytes", "64k")

    def alive(self):
        self.ok(self.server.post("/tokenize", TOKENIZE))

    def exchange(self, data, timeout=10):
        s = self.server.connect(timeout=timeout)
        s.sendall(data)
        reply = lab.read_reply(s)
        s.close()
        return reply

    def test_every_answer_has_an_id(self):
        ids = []
        for method, path, body in (("GET", "/health", None), ("GET", "/nope", None), ("POST", "/tokenize", TOKENIZE),
                                   ("POST", "/tokenize", "{"), ("PUT", "/tokenize", None), ("OPTIONS", "/", None),
                                   ("HEAD", "/v1/models", None), ("GET", "/metrics", None)):
            ids.append(self.server.request(method, path, body).headers["x-request-id"])
        self.assertTrue(all(re.fullmatch(r"req_[0-9a-f]{24}", i) for i in ids), ids)
        self.assertEqual(len(set(ids)), len(ids))
        mine = self.server.get("/health", **{"X-Request-Id": "mine"})
        self.assertNotEqual(mine.headers["x-request-id"], "mine")

    def test_rate_headers(self):
        for r in (self.server.get("/v1/models"), self.server.chat(), self.server.chat(stream=True), self.server.chat(n=0)):
            for what in ("requests", "tokens"):
                limit, left = (int(r.headers[f"x-ratelimit-{k}-{what}"]) for k in ("limit", "remaining"))
                self.assertTrue(0 <= left <= limit)
                self.assertRegex(r.headers[f"x-ratelimit-reset-{what}"], r"^(\d+m)?\d+(\.\d+)?m?s$")
            self.assertGreaterEqual(int(r.headers["openai-processing-ms"]), 0)
        self.assertIsNone(self.server.get("/health").headers["x-ratelimit-limit-requests"])

    def test_methods(self):
        for method, path, allow in (("GET", "/v1/chat/completions", "POST"), ("DELETE", "/v1/models", "GET, HEAD"),
                                    ("PUT", "/tokenize", "POST"), ("POST", "/health", "GET, HEAD"), ("HEAD", "/tokenize", "POST"),
                                    ("BREW", "/version", "GET, HEAD"), ("GE", "/version", "GET, HEAD")):
            r = self.server.request(method, path)
            self.assertEqual((r.status, r.headers["Allow"]), (405, allow))
            if method != "HEAD":
                self.refused(r, 405, code="method_not_allowed")

    def test_content_types(self):
        body = json.dumps(TOKENIZE)
        for kind in ("application/json", "application/json; charset=utf-8", "APPLICATION/JSON;charset=UTF-8", "application/json\t;x"):
            self.ok(self.server.post("/tokenize", body, **{"Content-Type": kind}))
        for kind in ("text/plain", "application/jsonp", "application/x-www-form-urlencoded", "", "json", "multipart/form-data"):
            self.refused(self.server.post("/tokenize", body, **{"Content-Type": kind}), 415, code="unsupported_media_type")
        r = self.exchange(f"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        self.assertEqual(r[0], 415)

    def test_bodies_too_large(self):
        r = self.server.post("/tokenize", "x" * 70000)
        self.refused(r, 413, code="body_too_large", says="65536")
        self.ok(self.server.post("/tokenize", '{"prompt":"' + "x" * 65000 + '"}'))
        s = self.server.connect()
        s.sendall(b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(30):
            s.sendall(b"1000\r\n" + b"x" * 4096 + b"\r\n")
        s.sendall(b"0\r\n\r\n")
        self.assertEqual(lab.read_reply(s)[0], 413)
        s.close()
        # A length beyond reason is refused from the head.
        self.assertEqual(self.exchange(b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                                       b"Content-Length: 99999999999\r\n\r\n")[0], 413)
        self.alive()

    def test_expect_continue(self):
        s = self.server.connect()
        head = "POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nExpect: 100-continue\r\n"
        body = json.dumps(TOKENIZE)
        s.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode())
        first = s.recv(4096)
        self.assertIn(b"100 Continue", first)
        s.sendall(body.encode())
        self.assertEqual(lab.read_reply(s, first.split(b"\r\n\r\n", 1)[1])[0], 200)
        s.close()
        for length, path, status in (("70000", "/tokenize", 413), ("10", "/nothing", 404), ("10", "/health", 405)):
            got = self.exchange((head.replace("/tokenize", path) + f"Content-Length: {length}\r\n\r\n").encode())
            self.assertEqual(got[0], status)

    def test_chunked_bodies(self):
        body = json.dumps(TOKENIZE).encode()
        chunks = b"".join(b"%x;ext=1\r\n%s\r\n" % (1, body[i:i + 1]) for i in range(len(body))) + b"0\r\nTrailer: x\r\n\r\n"
        head = b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        self.assertEqual(self.exchange(head + chunks)[0], 200)
        self.exchange(head + b"zz\r\n")
        self.exchange(head + b"fffffffffffffffffffff\r\nx")
        self.alive()

    def test_pipelined(self):
        s = self.server.connect()
        jobs = [lab.raw_post("/v1/completions", {"model": tiny.NAME, "prompt": c, "max_tokens": 3, "temperature": 0}) for c in "abc"]
        s.sendall(b"".join(jobs) + b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n")
        rest, texts = b"", []
        for _ in jobs:
            status, _, body, rest = lab.read_reply(s, rest)
            texts.append(json.loads(body)["choices"][0]["text"])
        self.assertEqual(texts, ["bcd", "cde", "def"])
        self.assertIn(b"version", lab.read_reply(s, rest)[2])
        s.close()

    def test_reset_in_mid_body(self):
        for data in (lab.raw_post("/v1/completions", {"model": tiny.NAME, "prompt": "x" * 500})[:-100],
                     b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nxx",
                     b"POST /tok", b"", b"\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"GET / HTTP/9.9\r\n\r\n", b"\0" * 100):
            s = self.server.connect()
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            s.sendall(data)
            time.sleep(0.02)
            s.close()
        self.alive()

    def test_huge_heads(self):
        for head in (b"GET /version HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 200000 + b"\r\n\r\n",
                     b"GET /" + b"x" * 200000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
                     b"GET /version HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 30000 + b"\r\n"):
            s = self.server.connect()
            try:
                s.sendall(head)
                status = lab.read_reply(s)[0]
                self.assertIn(status, (0, 400, 413, 414, 431))
            except OSError:
                pass
            s.close()
        self.ok(self.server.get("/version", **{"X-Large": "y" * 20000}))

    def test_300_idle_connections(self):
        idle = []
        for _ in range(300):
            s = self.server.connect()
            s.sendall(b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n")
            idle.append(s)
        self.assertEqual([lab.read_reply(s)[0] for s in idle], [200] * 300)
        self.alive()
        r = self.server.complete("a", stream=True, max_tokens=20)
        self.assertEqual(lab.events(r.body)[-1], "[DONE]")
        for s in idle:
            s.close()

    def test_hosts(self):
        """On loopback a page of another origin must not get in by DNS rebinding."""
        for host in ("localhost", "LOCALHOST:80", "127.0.0.1", "127.8.9.1:5", "[::1]", "[::1]:99"):
            self.ok(self.server.get("/v1/models", Host=host))
        for host in ("evil.example", "127.evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "localhost:80x",
                     "[::1]x", "[::2]", "10.0.0.1", "x" * 3000, "[", "::1", " "):
            with self.subTest(host[:30]):
                r = self.server.get("/health", Host=host)
                self.refused(r, 403, code="host_not_allowed", kind="permission_error")

    def test_no_sharing_between_origins(self):
        r = self.server.get("/v1/models", Origin="https://page.example")
        self.assertIsNone(r.headers["Access-Control-Allow-Origin"])


class Huge(lab.ServerCase):
    def test_a_huge_body_delays_nobody(self):
        """Its tokens take a second or more; others are answered meanwhile."""
        big = self.server.connect()
        big.sendall(lab.raw_post("/tokenize", {"prompt": "word " * 700000}))
        self.server.until(lambda m: m["lodge_http_calls"] >= 2)
        for _ in range(5):
            self.ok(self.server.complete("a"))
        self.assertGreaterEqual(self.server.metrics()["lodge_http_calls"], 2, "the huge one was done first")
        status, _, body, _ = lab.read_reply(big)
        self.assertEqual((status, json.loads(body)["count"]), (200, 3500000))
        big.close()


class Late(lab.ServerCase):
    flags = ("--body-timeout", "1", "--idle-timeout", "3")

    def test_late_body(self):
        s = self.server.connect()
        s.sendall(lab.raw_post("/tokenize", TOKENIZE)[:-3])
        begin = time.time()
        status, head, body, _ = lab.read_reply(s)
        self.assertEqual(status, 408)
        self.assertEqual(json.loads(body)["error"]["type"], "timeout_error")
        self.assertGreater(time.time() - begin, 0.9)
        self.assertEqual(s.recv(10), b"")
        self.server.logged(lambda e: e["status"] == 408)

    def test_dripping_head_and_body(self):
        """The deadline is a total: bytes that arrive do not extend it."""
        for data in (lab.raw_post("/tokenize", {"prompt": "x" * 500}), b"GET /version HTTP/1.1\r\nX: " + b"y" * 900):
            s = self.server.connect()
            begin, gone = time.time(), False
            try:
                for i in range(len(data)):
                    s.sendall(data[i:i + 1])
                    time.sleep(0.02)
            except OSError:
                gone = True
            self.assertTrue(gone)
            self.assertLess(time.time() - begin, 4 * lab.SLOW)
            s.close()
        self.ok(self.server.post("/tokenize", TOKENIZE))

    def test_idle_connections_end(self):
        fresh, used = self.server.connect(), self.server.connect()
        used.sendall(b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.assertEqual(lab.read_reply(used)[0], 200)
        begin = time.time()
        self.assertEqual(fresh.recv(10), b"")
        self.assertLess(time.time() - begin, 2.5 * lab.SLOW)
        self.assertEqual(used.recv(10), b"")
        self.assertGreater(time.time() - begin, 2)

    def test_a_long_job_outlives_the_idle_timeout(self):
        r = self.server.post("/v1/completions", lab.long_job(stream=False, max_tokens=60000, timeout=4))
        self.refused(r, 503, code="timeout", kind="overloaded_error")


class Keys(lab.ServerCase):
    flags = ("--api-key", "first", "--api-key-file", lab.path_of("keys", "second\n\r\nthird\r\n"), "--cors-origins",
             "https://page.example")

    def test_access(self):
        s = self.server
        for path in ("/v1/models", "/v1/models/x", "/v1/nothing", "/nothing", "/v1/chat/completions"):
            r = s.get(path)
            self.refused(r, 401, code="invalid_api_key", kind="authentication_error")
            self.assertEqual(r.headers["WWW-Authenticate"], "Bearer")
        for path in ("/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"):
            self.refused(s.post(path, "{"), 401, code="invalid_api_key", kind="authentication_error")
        for path in ("/health", "/livez", "/readyz", "/version", "/metrics", "/ping"):
            self.assertEqual(s.get(path).status, 200)
        for value in ("Bearer first", "bearer first", "BEARER  second ", "Bearer third"):
            self.ok(s.get("/v1/models", Authorization=value))
        for value in ("Bearer", "Bearer ", "Bearer firs", "Bearer firstx", "first", "Basic first", "Bearer FIRST", "Bearer first second"):
            self.refused(s.get("/v1/models", Authorization=value), 401, code="invalid_api_key", kind="authentication_error")

    def test_a_proxy_with_a_key_may_use_any_host(self):
        self.ok(self.server.get("/v1/models", Host="api.example", Authorization="Bearer first"))
        self.assertEqual(self.server.get("/health", Host="api.example").status, 403)

    def test_cors(self):
        r = self.server.request("OPTIONS", "/v1/chat/completions", headers={
            "Origin": "https://page.example", "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,x-stainless-os"})
        self.assertEqual((r.status, r.headers["Access-Control-Allow-Origin"]), (204, "https://page.example"))
        self.assertIn("x-stainless-os", r.headers["Access-Control-Allow-Headers"])
        self.assertIn("POST", r.headers["Access-Control-Allow-Methods"])
        r = self.server.get("/v1/models", Origin="https://page.example", Authorization="Bearer first")
        for name in ("x-request-id", "retry-after", "x-ratelimit-limit-requests", "x-ratelimit-reset-tokens"):
            self.assertIn(name, r.headers["Access-Control-Expose-Headers"])
        r = self.server.get("/v1/models", Origin="https://other.example", Authorization="Bearer first")
        self.assertIsNone(r.headers["Access-Control-Allow-Origin"])

    def test_no_key_is_ever_shown(self):
        self.server.get("/v1/models", Authorization="Bearer wrong-secret")
        text = "".join(self.server.told) + json.dumps(self.server.log)
        for secret in ("first", "second", "third", "wrong-secret"):
            self.assertNotIn(f'"{secret}"', text)


class Limits(lab.ServerCase):
    flags = ("--max-connections", "8", "--idle-timeout", "5", "--body-timeout", "5")

    def test_the_connection_limit_is_only_a_wait(self):
        held = [self.server.connect() for _ in range(20)]
        for s in held:
            s.sendall(b"GET /version HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        statuses = [lab.read_reply(s)[0] for s in held]
        self.assertEqual(set(statuses) - {200}, set(statuses) & {0}, statuses)
        self.assertGreaterEqual(statuses.count(200), 8)
        for s in held:
            s.close()
        self.ok(self.server.get("/version"))


class PerAddress(lab.ServerCase):
    flags = ("--max-connections-per-ip", "4")

    def test_one_address_cannot_take_all(self):
        held = [self.server.connect() for _ in range(12)]
        open_ones = 0
        for s in held:
            try:
                s.sendall(b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n")
                open_ones += lab.read_reply(s)[0] == 200
            except OSError:
                pass
        self.assertEqual(open_ones, 4)
        for s in held:
            s.close()


class Tls(unittest.TestCase):
    def test_https(self):
        key, cert = lab.path_of("key.pem"), lab.path_of("cert.pem")
        try:
            subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, "-days", "2",
                            "-subj", "/CN=localhost"], check=True, capture_output=True)
        except FileNotFoundError:
            self.skipTest("openssl is not installed")
        s = lab.Server("--tls-cert", cert, "--tls-key", key, "--body-timeout", "1")
        self.assertTrue(s.told[-1].startswith("ready https://127.0.0.1:"))
        context = ssl._create_unverified_context()
        c = http.client.HTTPSConnection("127.0.0.1", s.port, context=context, timeout=20)
        for stream in (False, True):
            c.request("POST", "/v1/completions", json.dumps({"model": tiny.NAME, "prompt": "a", "max_tokens": 3, "temperature": 0,
                                                             "stream": stream}), {"Content-Type": "application/json"})
            r = c.getresponse()
            body = r.read().decode()
            self.assertEqual(r.status, 200)
        self.assertEqual(lab.events(body)[-1], "[DONE]")
        c.close()
        plain = s.connect()  # a handshake that never comes ends, too
        self.assertEqual(plain.recv(10), b"")
        self.assertEqual(s.stop(), 0)
        for flags in (("--tls-cert", cert), ("--tls-cert", key, "--tls-key", cert), ("--tls-cert", "/nonexistent", "--tls-key", key)):
            s = lab.Server(*flags, wait=False)
            self.assertEqual(s.wait(), 2, s.told)


if __name__ == "__main__":
    lab.main()
