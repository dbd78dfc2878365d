"""lodgectl chat on a pseudo terminal and in pipes, against the fake server.

Usage: chat.py LODGECTL. Waits for what must appear, never for a time. The first failure ends the run."""
import json
import os
import pty
import select
import signal
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from fake_server import FakeServer  # noqa: E402

LODGECTL = sys.argv[1]
CLEAN = {**{k: v for k, v in os.environ.items() if k not in ("LODGE_API_KEY", "OPENAI_API_KEY")}, "TERM": "xterm"}
PATIENCE_S = 60  # only a hung program takes this long


def ok(name, condition, detail=""):
    print(("ok   " if condition else "FAIL ") + name + ("" if condition else f": {detail}"), flush=True)
    if not condition:
        sys.exit(1)


class Terminal:
    """A program on a terminal of its own; `expect` returns what came up to and with the text."""

    def __init__(self, *args):
        self.seen = b""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            try:
                os.execve(LODGECTL, [LODGECTL, "chat", *args], CLEAN)
            finally:
                os._exit(127)

    def read(self):
        if not select.select([self.fd], [], [], PATIENCE_S)[0]:
            ok("the program goes on", False, self.seen)
        try:
            part = os.read(self.fd, 65536)
        except OSError:
            part = b""
        self.seen += part
        return part

    def expect(self, text):
        text = text.encode() if isinstance(text, str) else text
        while text not in self.seen:
            if not self.read():
                ok(f"{text} appears", False, self.seen)
        end = self.seen.index(text) + len(text)
        before, self.seen = self.seen[:end], self.seen[end:]
        return before

    def send(self, text):
        os.write(self.fd, text.encode() if isinstance(text, str) else text)

    def say(self, text):
        """Types a line at the prompt; returns what is printed up to the next prompt."""
        self.send(text + "\n" if isinstance(text, str) else text + b"\n")
        return self.expect("\x1b[?2004h> ")

    def exit_code(self):
        while self.read():
            pass
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.fd)
        return code


def start(s, *args):
    t = Terminal(s.url, *args)
    t.expect("> ")
    return t


def contents(request):
    return [(m["role"], m["content"]) for m in request[2]["messages"]]


def check_conversation():
    with FakeServer(text="Hi \u00e9\U0001f600 ") as s:
        t = start(s, "--system", "be brief", "--temperature", "0.5", "--seed", "0", "--stop", "X", "Y", "--max-tokens", "3")
        out = t.say("h\u00e9llo \u4f60\u597d")
        ok("the reply", ("Hi \u00e9\U0001f600 " * 3).encode() in out, out)
        ok("the figures", b"[3 tokens, " in out and b"tokens/s, first after" in out and b"cut at the length" in out, out)
        t.say("again")
        reply = "Hi \u00e9\U0001f600 " * 3
        ok("the history", contents(s.requests[1]) == [("system", "be brief"), ("user", "h\u00e9llo \u4f60\u597d"),
                                                       ("assistant", reply), ("user", "again")], s.requests[1])
        given = s.requests[0][2]
        ok("the flags", (given["temperature"], given["seed"], given["stop"], given["max_tokens"]) == (0.5, 0, ["X", "Y"], 3) and
           "top_p" not in given, given)
        t.send("\x04")
        ok("Ctrl-D leaves", t.exit_code() == 0)


def check_commands():
    with FakeServer(models=("one", "two")) as s, tempfile.TemporaryDirectory() as d:
        saved, text = os.path.join(d, "talk.json"), os.path.join(d, "letter.txt")
        with open(text, "w", encoding="utf-8") as f:
            f.write("Dear\nall\n")
        t = start(s, "--max-tokens", "2", "--quiet")
        ok("/help", b"/save FILE" in t.say("/help") and not s.requests)
        ok("unknown", b"no command /frob" in t.say("/frob") and b"needs a word" in t.say("/save"))
        out = t.say("first")
        ok("--quiet", b"tokens/s" not in out and b"tok tok" in out, out)
        t.say("/save " + saved)
        with open(saved, encoding="utf-8") as f:
            ok("/save", json.load(f) == {"model": "one", "messages": [{"role": "user", "content": "first"},
                                                                     {"role": "assistant", "content": "tok tok "}]})
        t.say("/clear")
        t.say("second")
        ok("/clear", contents(s.requests[1]) == [("user", "second")])
        t.say("/load " + saved)
        t.say("third")
        ok("/load", [c for _, c in contents(s.requests[2])] == ["first", "tok tok ", "third"])
        ok("/load of nothing", b"/nonexistent" in t.say("/load /nonexistent"))
        ok("/load of something else", b"lodgectl:" in t.say("/load " + text))
        t.say("/system you are a cat")
        t.say("/model two")
        t.say("/read " + text)
        ok("/system, /model, /read", contents(s.requests[3]) == [("system", "you are a cat"), ("user", "Dear\nall\n")] and
           s.requests[3][2]["model"] == "two", s.requests[3])
        t.say(" /help")
        ok("a space sends a slash", contents(s.requests[4])[-1] == ("user", " /help"))
        n = len(s.requests)
        t.say("")
        t.say("   ")
        ok("nothing said, nothing sent", len(s.requests) == n)
        t.send("/exit\n")
        ok("/exit leaves", t.exit_code() == 0)


def check_long_input():
    with FakeServer() as s:
        t = start(s, "--max-tokens", "1")
        t.say("\x1b[200~one\rtwo\r\rthree\x1b[201~ end")
        ok("a paste is one message", contents(s.requests[0])[-1][1] == "one\ntwo\n\nthree end", contents(s.requests[0]))
        t.say("\x1b[200~a\rb\x1b[201~\x1b[200~c\rd\x1b[201~")
        ok("two pastes", contents(s.requests[1])[-1][1] == "a\nbc\nd", contents(s.requests[1]))
        t.say("\x1b[200~/exit\rnow\x1b[201~")
        ok("no command in a paste", contents(s.requests[2])[-1][1] == "/exit\nnow")
        t.send("one \\\n")
        t.expect(". ")
        t.say("two")
        ok("a backslash continues", contents(s.requests[3])[-1][1] == "one \ntwo")
        t.say(b"arrow \x1b[A\x1b[1;5C broken \xff\xc3( end")
        ok("what cannot be sent is not", contents(s.requests[4])[-1][1] == "arrow  broken \ufffd\ufffd( end", contents(s.requests[4]))
        t.send("\x04")
        ok("leaves", t.exit_code() == 0)


def check_interrupts():
    with FakeServer(gap_s=0.02) as s:
        t = start(s, "--max-tokens", "100000")
        t.send("go\n")
        t.expect("tok tok tok ")
        t.send("\x03")
        out = t.expect("\x1b[?2004h> ")
        ok("Ctrl-C stops the reply", b"tokens" in out and b"lodgectl:" not in out, out)
        ok("and the server's work", s.hung_up.wait(PATIENCE_S))
        t.send("half a line\x03")
        t.expect("Ctrl-D or /exit leaves")
        t.expect("> ")
        t.send("more\n")
        t.expect("tok ")
        t.send("\x03")
        t.expect("\x1b[?2004h> ")
        got = contents(s.requests[1])
        ok("a stopped reply stays in the history", got[0] == ("user", "go") and got[1][1].startswith("tok tok tok ") and
           got[2] == ("user", "more"), got)
        os.kill(t.pid, signal.SIGTERM)
        ok("SIGTERM leaves in order", t.exit_code() == 0 and t.seen.count(b"\x1b[?2004l"), t.seen)


def check_terminal_is_safe():
    with FakeServer(text="\x1b[31m\x1b]0;title\x07red\u009b2J") as s:
        t = start(s, "--max-tokens", "1")
        out = t.say("x").split(b"\x1b[2m")[0].replace(b"\x1b[?2004l", b"")
        ok("a reply cannot steer the terminal", b"red2J" in out and b"\x1b" not in out and b"\x07" not in out, out)
        t.send("\x04")
        t.exit_code()


def check_broken_servers():
    faults = ["cut", "reset", "event", "silent", "429", "500", "garbage"]
    with FakeServer(fault=lambda n, b: faults[n] if n < len(faults) else None) as s:
        t = start(s, "--max-tokens", "4")
        says = [b"broke off", b"broke off", b"the engine fell over", b"ended the reply early", b"slow down (HTTP 429)",
                b"(HTTP 500)", b"no JSON"]
        for fault, text in zip(faults, says):
            out = t.say("x " + fault)
            ok(f"{fault}: says so and goes on", out.count(b"lodgectl: ") == 1 and text in out, out)
        t.say("last")
        asked = [c for r, c in contents(s.requests[-1]) if r == "user"]
        ok("questions without any reply are forgotten", "x 429" not in asked and "x cut" in asked, asked)
        url = s.url
        s.server.shutdown()
        s.server.server_close()
        out = t.say("anybody?")
        ok("the server is gone", b"is the server running?" in out or b"broke off" in out, out)
        t.send("\x04")
        t.exit_code()
    p = subprocess.run([LODGECTL, "chat", url], input="x\n", capture_output=True, text=True, env=CLEAN)
    ok("nobody there: exit 4", p.returncode == 4 and "is the server running?" in p.stderr, p)


def piped(s, *args, text="", env=CLEAN):
    return subprocess.run([LODGECTL, "chat", s.url, *args], input=text.encode() if isinstance(text, str) else text,
                          capture_output=True, env=env, timeout=PATIENCE_S)


def check_pipes():
    with FakeServer(text="\x1b[1mtok ") as s:
        p = piped(s, "--max-tokens", "2", text="one\n\ntwo \\\n/three")
        ok("lines are messages", p.returncode == 0 and [contents(r)[-1][1] for r in s.requests] == ["one", "two \\", "/three"],
           s.requests)
        ok("a pipe gets the reply as it is", p.stdout.decode() == "\x1b[1mtok \x1b[1mtok \n" * 3, p.stdout)
        ok("and no prompt", b">" not in p.stderr and b"\x1b" not in p.stderr, p.stderr)
        long = "word " * 20000
        piped(s, "--once", "-", "--max-tokens", "1", text=long + "\nend\n")
        ok("--once -", contents(s.requests[3]) == [("user", long + "\nend\n")])
        p = piped(s, "--once", "why?", "--quiet", "--max-tokens", "1")
        ok("--once", p.returncode == 0 and p.stderr == b"" and contents(s.requests[4]) == [("user", "why?")], p)
        ok("--once - of nothing", piped(s, "--once", "-").returncode == 2)
        p = piped(s, "--model", "z", text="x\ny\n")
        ok("an error ends a pipe", p.returncode == 2 and p.stderr.count(b"no such model") == 1 and len(s.requests) == 6, p)
    with FakeServer(key="sesame") as s:
        ok("no key", piped(s, text="x").returncode == 2)
        ok("key", piped(s, text="x", env={**CLEAN, "LODGE_API_KEY": "sesame"}).returncode == 0)
        ok("key", piped(s, "--api-key", "sesame", text="x").returncode == 0)


def check_interrupted_pipe():
    with FakeServer(gap_s=0.02) as s:
        p = subprocess.Popen([LODGECTL, "chat", s.url, "--once", "x", "--max-tokens", "100000"], stdout=subprocess.PIPE, env=CLEAN)
        p.stdout.read(8)
        p.send_signal(signal.SIGINT)
        p.communicate(timeout=PATIENCE_S)
        ok("Ctrl-C with --once: exit 130", p.returncode == 130, p.returncode)


try:
    for end in pty.openpty():
        os.close(end)
except OSError as e:
    print(f"skipped: no terminal to be had here ({e}; is /dev/pts mounted?)")
    sys.exit(77)
for check in (check_conversation, check_commands, check_long_input, check_interrupts, check_terminal_is_safe,
              check_broken_servers, check_pipes, check_interrupted_pipe):
    check()
print("all good")
