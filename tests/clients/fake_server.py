"""A fake OpenAI server of the standard library, whose replies and faults a test knows beforehand.

    with FakeServer(gap_s=0.001) as server:
        ... server.url, server.requests ...

A reply is `max_tokens` tokens "tok ", `tokens_per_chunk` in each chunk; `text` is another token, or a
function of the body that returns it. `key` is the one key or a collection of them. The attributes may be changed
while it runs. `fault(number, body)` is asked for every generation (counted from 0) and returns None
or one of FAULTS. `requests` holds (path, headers, body, time) of every generation, in order of arrival;
a `log` that is given gets (name, path) as well, so that several servers share an order."""
import http.server
import json
import socket
import struct
import threading
import time

FAULTS = {
    "429": "refuse with 429",
    "500": "refuse with 500 and a body that is no JSON",
    "event": "an error event after two chunks",
    "cut": "the connection ends after two chunks",
    "reset": "the connection is reset after two chunks",
    "silent": "the stream ends properly after two chunks, without a reason",
    "garbage": "a chunk that is no JSON",
    "hang": "nothing comes until the server is closed",
}


class FakeServer:
    def __init__(self, name="fake", first_s=0.0, gap_s=0.0, tokens_per_chunk=1, models=("fake-model",),
                 takes_ids=True, usage=True, crlf=False, comments=False, tiny_writes=False, text="tok ",
                 key=None, cached=0, fault=None, log=None, refuses=()):
        self.name, self.first_s, self.gap_s, self.tokens_per_chunk = name, first_s, gap_s, tokens_per_chunk
        self.models, self.takes_ids, self.usage, self.crlf = models, takes_ids, usage, crlf
        self.comments, self.tiny_writes, self.text, self.key, self.cached = comments, tiny_writes, text, key, cached
        self.fault, self.log, self.refuses = fault, log, refuses
        self.requests, self.lock, self.closing = [], threading.Lock(), threading.Event()
        self.hung_up = threading.Event()  # a client left in the middle of a reply
        handler = type("Handler", (Handler,), {"fake": self})
        self.server = Server(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    @property
    def measured(self):
        """Requests of the load: without the first one, which only tries the server."""
        return [r for r in self.requests if "stream" in r[2]]


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024

    def handle_error(self, request, client_address):
        pass


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True
    fake = None

    def log_message(self, *_):
        pass

    def reply(self, status, body, content_type="application/json"):
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()

    def refuse(self, status, message):
        self.reply(status, {"error": {"message": message, "type": "x", "param": None, "code": None}})

    def allowed(self):
        keys = [self.fake.key] if isinstance(self.fake.key, str) else self.fake.key
        return not keys or self.headers.get("Authorization") in ["Bearer " + key for key in keys]

    def do_GET(self):
        if not self.allowed():
            self.refuse(401, "wrong key")
        elif self.path == "/v1/models":
            self.reply(200, {"object": "list", "data": [{"id": m, "object": "model"} for m in self.fake.models]})
        else:
            self.refuse(404, "no such route")

    def do_POST(self):
        fake = self.fake
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with fake.lock:
            number = len(fake.requests)
            self.token = fake.text(body) if callable(fake.text) else fake.text
            fake.requests.append((self.path, dict(self.headers), body, time.monotonic()))
            if fake.log is not None:
                fake.log.append((fake.name, body))
        fault = fake.fault(number, body) if fake.fault else None
        prompt = body.get("prompt")
        if not self.allowed():
            self.refuse(401, "wrong key")
        elif body.get("model") not in fake.models:
            self.refuse(404, "no such model")
        elif any(field in body for field in fake.refuses):
            self.refuse(400, "unknown field")
        elif isinstance(prompt, list) and not fake.takes_ids:
            self.refuse(400, "prompt must be a string")
        elif fault == "429":
            self.refuse(429, "slow down")
        elif fault == "500":
            self.reply(500, "<html>oh no</html>", "text/html")
        elif fault == "hang":
            fake.closing.wait()
        elif body.get("stream"):
            self.stream(body, fault)
        else:
            self.whole(body)

    def usage(self, body, n):
        prompt = body.get("prompt")
        n_in = len(prompt) if isinstance(prompt, list) else len((prompt or body["messages"][-1]["content"]).split())
        u = {"prompt_tokens": n_in, "completion_tokens": n, "total_tokens": n_in + n}
        if self.fake.cached:
            u["prompt_tokens_details"] = {"cached_tokens": self.fake.cached}
        return u

    def whole(self, body):
        n, text = body["max_tokens"], self.token * body["max_tokens"]
        choice = {"index": 0, "finish_reason": "length", "text": text} if "prompt" in body else {
            "index": 0, "finish_reason": "length", "message": {"role": "assistant", "content": text}}
        self.reply(200, {"id": "x", "choices": [choice], "usage": self.usage(body, n)})

    def write_event(self, payload):
        end = "\r\n" if self.fake.crlf else "\n"
        data = (f": ping{end}{end}" if self.fake.comments else "") + f"data: {payload}{end}{end}"
        data = data.encode()
        step = 1 if self.fake.tiny_writes else len(data)
        for at in range(0, len(data), step):
            part = data[at:at + step]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            self.wfile.flush()

    def chunk(self, chat, text=None, finish=None, role=None):
        choice = {"index": 0, "logprobs": None, "finish_reason": finish}
        if chat:
            choice["delta"] = {**({"role": role} if role else {}), **({"content": text} if text is not None else {})}
        else:
            choice["text"] = text or ""
        self.write_event(json.dumps({"id": "x", "choices": [choice], "usage": None}, ensure_ascii=False))

    def stream(self, body, fault):
        try:
            self.stream_reply(body, fault)
        except (BrokenPipeError, ConnectionResetError):
            self.fake.hung_up.set()
            self.close_connection = True

    def stream_reply(self, body, fault):
        fake, chat = self.fake, "messages" in body
        n = body.get("max_tokens") or 16
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        fake.closing.wait(fake.first_s)
        if chat:
            self.chunk(chat, "", role="assistant")
        for at in range(0, n, fake.tokens_per_chunk):
            if at:
                fake.closing.wait(fake.gap_s)
            if fault and at >= 2 * fake.tokens_per_chunk and self.misbehave(fault):
                return
            self.chunk(chat, self.token * min(fake.tokens_per_chunk, n - at))
        self.chunk(chat, finish="length")
        if fake.usage and body.get("stream_options", {}).get("include_usage"):
            self.write_event(json.dumps({"id": "x", "choices": [], "usage": self.usage(body, n)}))
        self.write_event("[DONE]")
        self.end()

    def end(self):
        self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()

    def misbehave(self, fault):
        """True when the reply is over."""
        if fault == "event":
            self.write_event(json.dumps({"error": {"message": "the engine fell over"}}))
            self.end()
        elif fault == "silent":
            self.end()
        elif fault == "garbage":
            self.write_event("{not json")
            return False
        else:
            if fault == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close() if fault == "reset" else self.connection.shutdown(socket.SHUT_RDWR)
        return True
