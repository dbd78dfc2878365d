"""Start, full queue, drain, abort; settings in their layers; exit codes."""
import json
import os
import signal
import socket
import subprocess
import threading
import time
import unittest

import lab
import tiny_model as tiny


def big_model():
    """Takes long enough to load that one can look: mostly a hole in the file."""
    path = lab.path_of("big.gguf")
    if not os.path.exists(path):
        width, rows = 4096, 16384
        meta = [m.replace(tiny.struct.pack("<I", tiny.WIDTH), tiny.struct.pack("<I", width), 1)
                if b"embedding_length" in m else m for m in tiny.metadata()]
        shapes = {"token_embd": (width, rows), "output_norm": (width,), "blk.0.attn_norm": (width,), "blk.0.ffn_norm": (width,),
                  "blk.0.attn_q": (width, 32), "blk.0.attn_k": (width, 32), "blk.0.attn_v": (width, 32),
                  "blk.0.attn_output": (32, width), "blk.0.ffn_gate": (width, 32), "blk.0.ffn_up": (width, 32),
                  "blk.0.ffn_down": (32, width)}
        table, at = b"", 0
        for name, dims in shapes.items():
            table += tiny.gguf_string(name + ".weight") + tiny.struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, 0, at)
            n = 4
            for d in dims:
                n *= d
            at += (n + 31) // 32 * 32
        head = b"GGUF" + tiny.struct.pack("<IQQ", 3, len(shapes), len(meta)) + b"".join(meta) + table
        with open(path, "wb") as f:
            f.write(head + b"\0" * (-len(head) % 32))
            f.truncate(f.tell() + at)
    return path


class Start(unittest.TestCase):
    def loading(self):
        s = lab.Server(model=big_model(), wait=False)
        end = time.time() + 30
        while not any("weights" in line for line in list(s.told)) and time.time() < end:
            time.sleep(0.001)
        return s

    def test_while_loading(self):
        s = self.loading()
        self.assertEqual(s.get("/livez").status, 200)
        refused = [s.get("/readyz"), s.get("/health"), s.get("/v1/models"), s.chat(), s.post("/tokenize", {"prompt": "x"})]
        metrics = s.get("/metrics")
        self.assertFalse(s.ready.is_set(), "the model loaded too fast for this test")
        for r in refused:
            self.assertEqual((r.status, r.error["code"], r.error["type"]), (503, "model_loading", "overloaded_error"))
            self.assertTrue(1 <= int(r.headers["Retry-After"]) <= 5)
        self.assertEqual(metrics.status, 200)
        self.assertTrue(s.wait_ready())
        self.assertEqual(s.get("/readyz").status, 200)
        self.assertEqual(s.stop(), 0)

    def test_stop_while_loading(self):
        s = self.loading()
        begin = time.time()
        self.assertEqual(s.stop(), 0)
        self.assertLess(time.time() - begin, 5 * lab.SLOW)

    def test_stop_at_any_moment(self):
        """A signal is never lost, however early it comes."""
        for i in range(6 if lab.SHORT else 30):
            s = lab.Server(wait=i % 2 == 0)
            if i % 2:
                while not s.told:
                    time.sleep(0.001)
                time.sleep(i * 0.003)
            self.assertEqual(s.stop(), 0)

    def test_ipv6(self):
        try:
            with socket.socket(socket.AF_INET6) as probe:
                probe.bind(("::1", 0))
        except OSError:
            self.skipTest("no IPv6 here")
        s = lab.Server("--host", "::1")
        self.assertRegex(s.told[-1], r"^ready http://\[::1\]:\d+$")
        self.assertEqual(s.stop(), 0)


class Queue(lab.ServerCase):
    flags = ("--max-queue", "2", "--max-num-seqs", "1")

    def open_jobs(self, n):
        jobs = []
        for _ in range(n):
            jobs.append(self.server.connect())
            jobs[-1].sendall(lab.raw_post("/v1/completions", lab.long_job()))
        return jobs

    def test_full(self):
        running = self.open_jobs(1)
        self.server.until(lambda m: m["vllm:num_requests_running"] == 1)
        queued = self.open_jobs(2)
        m = self.server.until(lambda m: m["vllm:num_requests_waiting"] == 2)
        self.assertEqual((m["vllm:num_requests_running"], m['vllm:num_requests_waiting_by_reason{reason="capacity"}']), (1, 2))
        before = self.server.metrics()
        for r in (self.server.complete(), self.server.complete(stream=True), self.server.complete(["a", "b"])):
            self.refused(r, 503, code="queue_full", kind="overloaded_error")
            self.assertTrue(1 <= int(r.headers["Retry-After"]) <= 5)
        self.refused(self.server.complete(["a"] * 3), 400, "prompt")
        aborted = 'vllm:request_success_total{finished_reason="abort"}'
        self.assertEqual(self.server.metrics()[aborted], before[aborted])
        # A stream that waits has no head yet, so that its deadline is a status.
        queued.pop().close()
        self.server.until(lambda m: m["vllm:num_requests_waiting"] == 1)
        late = self.server.post("/v1/completions", lab.long_job(timeout=0.2))
        self.refused(late, 503, code="timeout", kind="overloaded_error")
        # /health and the rest do not care.
        self.assertEqual(self.server.get("/health").status, 200)
        for s in running + queued:
            s.close()
        m = self.server.idle()
        self.assertEqual(m["vllm:num_requests_waiting"], 0)
        self.ok(self.server.complete(["a", "b"]))


class Overload(lab.ServerCase):
    flags = ("--max-num-seqs", "1", "--slo-ttft", "0.3")

    def test_late_requests_are_refused_early(self):
        running = self.server.connect()
        running.sendall(lab.raw_post("/v1/completions", lab.long_job()))
        self.server.until(lambda m: m["vllm:num_requests_running"] == 1)
        begin = time.time()
        for fields in ({}, {"stream": True}):
            r = self.server.complete(**fields)
            self.refused(r, 503, code="overloaded", kind="overloaded_error", says="try again later")
            self.assertTrue(1 <= int(r.headers["Retry-After"]) <= 5)
        self.assertLess(time.time() - begin, 5 * lab.SLOW)
        self.assertEqual(self.server.metrics()["vllm:num_requests_running"], 1)
        running.close()
        self.server.idle()
        self.ok(self.server.complete())


class Drain(unittest.TestCase):
    def begin(self, *flags, **fields):
        self.s = lab.Server(*flags)
        self.job = self.s.connect(timeout=60)
        self.job.sendall(lab.raw_post("/v1/completions", lab.long_job(**fields)))
        if fields.get("stream", True):
            self.head = self.job.recv(200)
        else:
            self.s.until(lambda m: m["vllm:num_requests_running"] == 1)
        return self.s

    def rest(self):
        data = getattr(self, "head", b"") + lab.read_all(self.job)
        self.job.close()
        return data.decode()

    def refuses_new_work(self, s):
        end = time.time() + 5
        while s.get("/readyz").status != 503 and time.time() < end:
            time.sleep(0.01)
        for r in (s.chat(), s.complete(), s.post("/tokenize", {"prompt": "x"}), s.get("/readyz"), s.get("/health")):
            self.assertEqual((r.status, r.error["code"]), (503, "draining"))
            self.assertEqual(r.headers["Connection"], "close")
            self.assertTrue(1 <= int(r.headers["Retry-After"]) <= 5)
        self.assertEqual(s.get("/livez").status, 200)

    def test_running_replies_finish(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            s = self.begin("--drain-timeout", "300", max_tokens=300 if lab.SHORT else 3000)
            s.signal(number)
            self.refuses_new_work(s)
            text = self.rest()
            self.assertIn('"finish_reason":"length"', text)
            self.assertIn("data: [DONE]\n\n", text)
            self.assertEqual(s.wait(), 0)

    def test_what_is_left_is_told(self):
        s = self.begin("--drain-timeout", "0.5")
        s.signal()
        self.assertEqual(s.wait(), 0)
        text = self.rest()
        self.assertTrue(text.endswith("\r\n0\r\n\r\n"), text[-200:])
        self.assertIn('"finish_reason":"length"', text)
        self.assertIn('"code":"draining"', text[-400:])
        self.assertNotIn("[DONE]", text)

    def test_a_whole_reply_that_is_left(self):
        s = self.begin("--drain-timeout", "0.3", stream=False)
        s.signal()
        self.assertEqual(s.wait(), 0)
        self.assertIn("503 Service Unavailable", self.rest())

    def test_a_second_signal_aborts(self):
        s = self.begin()
        s.signal()
        self.refuses_new_work(s)
        begin = time.time()
        s.signal()
        self.assertEqual(s.wait(), 1)
        self.assertLess(time.time() - begin, 3 * lab.SLOW)
        self.job.close()

    def test_idle_connections_do_not_hold_it(self):
        s = lab.Server()
        idle = [s.connect() for _ in range(5)]
        for k in idle[2:]:
            k.sendall(b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n")
        idle[1].sendall(b"POST /tokenize HTTP/1.1\r\nHost: loc")
        begin = time.time()
        self.assertEqual(s.stop(), 0)
        self.assertLess(time.time() - begin, 3 * lab.SLOW)
        for k in idle:
            k.close()

    def test_under_fire(self):
        """Stops in the middle of everything, many times: never a hang, a crash, or another code."""
        for _ in range(3 if lab.SHORT else 8):
            s = lab.Server("--drain-timeout", "0.2")
            go = threading.Event()

            def client(kind):
                while not go.is_set():
                    try:
                        if kind == 0:
                            s.complete(stream=True, max_tokens=500)
                        elif kind == 1:
                            s.chat(n=3)
                        elif kind == 2:
                            s.post("/tokenize", {"prompt": "x" * 100000})
                        else:
                            k = s.connect()
                            k.sendall(lab.raw_post("/v1/completions", lab.long_job()))
                            k.recv(100)
                            k.close()
                    except (OSError, lab.http.client.HTTPException, ValueError):
                        pass

            threads = [threading.Thread(target=client, args=(i % 4,)) for i in range(8)]
            for t in threads:
                t.start()
            time.sleep(0.3)
            code = s.stop()
            go.set()
            for t in threads:
                t.join()
            self.assertEqual(code, 0)


class Stability(lab.ServerCase):
    def usage(self):
        pid = self.server.process.pid
        rss = int(next(line.split()[1] for line in open(f"/proc/{pid}/status") if line.startswith("VmRSS")))
        return rss, len(os.listdir(f"/proc/{pid}/fd"))

    def test_memory_and_files_stay(self):
        def mix(n):
            for i in range(n):
                self.server.complete(max_tokens=3, stream=i % 2 == 0, n=2, logprobs=2)
                self.server.chat(max_tokens=2, messages=[{"role": "user", "content": f"x{i % 50}"}])
                self.server.post("/v1/completions", "{")
                k = self.server.connect()
                k.sendall(lab.raw_post("/v1/completions", lab.long_job()))
                k.recv(50)
                k.close()
        mix(20 if lab.SHORT else 100)
        self.server.idle()
        rss, files = self.usage()
        mix(30 if lab.SHORT else 400)
        self.server.idle()
        after, open_files = self.usage()
        self.assertLessEqual(open_files, files + 2)
        if not lab.SHORT:
            self.assertLess(after - rss, 8192, "KiB grown")


class Commands(unittest.TestCase):
    def run_lodge(self, *args, **env):
        p = subprocess.run([lab.LODGE, *args], capture_output=True, text=True, timeout=60, env=lab.clean_env(**env))
        return p.returncode, p.stdout, p.stderr

    def fails(self, code, says, *args, **env):
        with self.subTest(args=args, env=env):
            got, _, err = self.run_lodge(*args, **env)
            self.assertEqual(got, code, err)
            last = err.strip().splitlines()[-1]
            self.assertIn(says, last)
            self.assertTrue(last.startswith("lodge: "), last)
            return err

    def test_usage(self):
        m = lab.MODEL
        self.fails(2, "no MODEL", "serve")
        self.fails(2, "no MODEL", "serve", "--api-key", "x", m)
        self.fails(2, "--nope", "serve", m, "--nope")
        self.fails(2, "-x", "serve", m, "-x")
        self.fails(2, "one MODEL", "serve", m, m)
        self.fails(2, "needs a value", "serve", m, "--port")
        self.fails(2, "port", "serve", m, "--port", "65536")
        self.fails(2, "port", "serve", m, "--port", "-1")
        self.fails(2, "port", "serve", m, "--port", "80x")
        self.fails(2, "port", "serve", m, "--port", "99999999999999999999")
        self.fails(2, "pool-bytes", "serve", m, "--pool-bytes", "5Q")
        self.fails(2, "pool-bytes", "serve", m, "--pool-bytes", "-5")
        self.fails(2, "pool-bytes", "serve", m, "--pool-bytes", "99999999999T")
        self.fails(2, "drain-timeout", "serve", m, "--drain-timeout", "nan")
        self.fails(2, "drain-timeout", "serve", m, "--drain-timeout", "inf")
        self.fails(2, "must be one of", "serve", m, "--log-level", "loud")
        self.fails(2, "true or false", "serve", m, "--strict=maybe")
        self.fails(2, "belong together", "serve", m, "--tls-cert", "x")
        self.fails(2, "a key is required", "serve", m, "--host", "0.0.0.0")
        self.fails(2, "a key is required", "serve", m, "--host", "0.0.0.0", "--check-config")
        self.fails(2, "--host", "serve", m, "--host", "no such host")
        self.fails(2, "--api-key-file", "serve", m, "--api-key-file", "/nonexistent")
        self.fails(2, "--chat-template", "serve", m, "--chat-template", "/nonexistent")
        self.fails(2, "log file", "serve", m, "--log-file", "/nonexistent/x")
        self.fails(2, "NAME=PATH", "serve", m, "--lora-modules", "a", "--port", "0")
        self.fails(2, "LODGE_OPT_NOPE", "serve", m, LODGE_OPT_NOPE="1")
        self.fails(2, "LODGE_OPT_" + "X" * 100, "serve", m, **{"LODGE_OPT_" + "X" * 300: "1"})
        self.fails(2, "environment", "serve", m, LODGE_OPT_PORT="x")
        self.fails(2, "environment", "serve", m, LODGE_OPT_API_KEY='["a"')
        self.fails(2, "unknown verb", "dance")
        self.assertEqual(self.run_lodge()[0], 2)
        for args in (("version",), ("--help",), ("serve", "--help")):
            self.assertEqual(self.run_lodge(*args)[0], 0)

    def test_resources_and_files(self):
        m = lab.MODEL
        self.fails(3, "/nonexistent.gguf", "serve", "/nonexistent.gguf", "--port", "0")
        self.fails(3, "test_lifecycle.py", "serve", __file__, "--port", "0")
        self.fails(3, "template", "serve", m, "--port", "0", "--chat-template", lab.path_of("bad.jinja", "{% for"))
        self.fails(3, "no-such-adapter", "serve", m, "--port", "0", "--lora-modules", "a=/no-such-adapter")
        self.fails(3, "/no-such-folder", "serve", m, "--port", "0", "--adapter-dir", "/no-such-folder")
        self.fails(4, "memory", "serve", m, "--port", "0", "--pool-bytes", "1k")
        self.fails(4, "memory", "serve", m, "--port", "0", "--pool-bytes", "1M", "--max-model-len", "60000")
        self.fails(4, "device", "serve", m, "--port", "0", "--device", "cuda:7")
        for isa in ("neon-dotprod", "neon-i8mm"):
            self.fails(4, isa, "serve", m, "--port", "0", "--cpu-isa", isa)
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            s.listen()
            self.fails(4, "--port", "serve", m, "--port", str(s.getsockname()[1]))

    def config(self, *args, file=None, **env):
        flags = ["--config", lab.path_of("c.json", file if isinstance(file, str) else json.dumps(file))] if file else []
        code, out, err = self.run_lodge("serve", *flags, *args, "--print-config", **env)
        self.assertEqual(code, 0, err)
        return json.loads(out)

    def test_layers(self):
        c = self.config()
        self.assertEqual((c["host"], c["port"], c["max_num_seqs"], c["api_key"]), ("127.0.0.1", 8000, 256, []))
        file = {"port": 1, "max_num_seqs": 2, "host": "file", "reserve_tokens": "32k", "served_model_name": ["f1", "f2"],
                "strict": True, "drain_timeout": 1.5, "max-queue": 9}
        env = {"LODGE_OPT_PORT": "3", "LODGE_OPT_HOST": "env", "LODGE_OPT_SERVED_MODEL_NAME": '["e1","e2"]'}
        c = self.config(file=file)
        self.assertEqual((c["port"], c["host"], c["reserve_tokens"], c["strict"], c["drain_timeout"], c["max_queue"]),
                         (1, "file", 32768, True, 1.5, 9))
        c = self.config(file=file, **env)
        self.assertEqual((c["port"], c["host"], c["max_num_seqs"], c["served_model_name"]), (3, "env", 2, ["e1", "e2"]))
        c = self.config("--port", "4", "--served-model-name", "a", "b", "--no-strict", file=file, **env)
        self.assertEqual((c["port"], c["host"], c["served_model_name"], c["strict"]), (4, "env", ["a", "b"], False))
        c = self.config("--served-model-name=a", "--served-model-name", "b", **env)
        self.assertEqual(c["served_model_name"], ["a", "b"])
        self.assertEqual(self.config("--pool-bytes", "2G")["pool_bytes"], 2 << 30)
        path = lab.path_of("by_env.json", '{"port": 77}')
        self.assertEqual(self.config(LODGE_OPT_CONFIG=path)["port"], 77)

    def test_secrets_are_masked(self):
        code, out, err = self.run_lodge("serve", "--api-key", "hunter2", "--print-config", LODGE_OPT_LOG_LEVEL="debug")
        self.assertEqual((code, json.loads(out)["api_key"]), (0, ["***"]))
        self.assertNotIn("hunter2", out + err)

    def test_bad_files(self):
        for text, says in (("{", "invalid JSON"), ("[]", "JSON object"), ('{"nope":1}', "nope"), ('{"port":"x"}', "port"),
                           ('{"port":[]}', "port"), ('{"port":{}}', "port"), ('{"port":true}', "port"), ('{"port":1,"port":2}', "JSON"),
                           ('{"port":1.5}', "port"), ('{"strict":1}', "strict"), ('{"api_key":[["x"]]}', "api-key"),
                           ('{"pool_bytes":-1}', "pool-bytes"), ('{"drain_timeout":1e999}', "JSON"), ("\xff", "JSON"), ("", "JSON")):
            self.fails(2, says, "serve", lab.MODEL, "--config", lab.path_of("bad.json", text))
        self.fails(2, "/nonexistent.json", "serve", lab.MODEL, "--config", "/nonexistent.json")
        self.assertEqual(self.run_lodge("serve", lab.MODEL, "--check-config")[0], 0)
        for code, flag, value in ((3, "--adapter-dir", "/nonexistent"), (2, "--lora-modules", "sql"),
                                  (3, "--lora-modules", "sql=/nonexistent"), (2, "--public-prefix", "/nonexistent")):
            for check in (["--check-config"], []):
                self.assertNotIn("opening", self.fails(code, flag, "serve", lab.MODEL, flag, value, *check) or "opening")

    def test_memory_plan(self):
        code, out, _ = self.run_lodge("serve", lab.MODEL, "--memory", "--pool-bytes", "8M")
        self.assertEqual(code, 0)
        for word in ("weights", "pool", "total"):
            self.assertIn(word, out)

    def test_log_file_and_a_reader_that_does_not_read(self):
        path = lab.path_of("log.json")
        s = lab.Server("--log-file", path)
        s.get("/version")
        self.assertEqual(s.stop(), 0)
        lines = [json.loads(line) for line in open(path)]
        self.assertTrue(any(e.get("path") == "/version" and e["status"] == 200 for e in lines))
        p = subprocess.Popen([lab.LODGE, "serve", lab.MODEL, "--port", "0", "--threads", "1", "--pool-bytes", "8M"],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=lab.clean_env())
        for line in p.stderr:
            if line.startswith("ready"):
                break
        c = lab.http.client.HTTPConnection("127.0.0.1", int(line.rsplit(":", 1)[1]), timeout=10)
        for _ in range(600):
            c.request("GET", "/version")
            self.assertEqual(c.getresponse().read()[:1], b"{")
        c.close()
        p.terminate()
        out, _ = p.communicate(timeout=30)
        self.assertEqual(p.returncode, 0)
        for line in out.splitlines():
            json.loads(line)

    def test_seed(self):
        texts = []
        for seed in ("0", "0", "1"):
            s = lab.Server("--seed", seed)
            texts.append(s.complete("a", temperature=2, max_tokens=30).json["choices"][0]["text"])
            self.assertEqual(s.stop(), 0)
        self.assertEqual(texts[0], texts[1])
        self.assertNotEqual(texts[0], texts[2])


if __name__ == "__main__":
    lab.main()
