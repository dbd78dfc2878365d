"""lodgectl bench against fake servers whose delays, token counts and faults are known.

Usage: bench.py LODGECTL. Times are only compared with the delays the servers wait for, which are lower
bounds; nothing depends on how fast this machine is. The first failure ends the run with code 1."""
import collections
import json
import os
import pty
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from fake_server import FakeServer  # noqa: E402

LODGECTL = sys.argv[1]
CLEAN = {k: v for k, v in os.environ.items() if k not in ("LODGE_API_KEY", "OPENAI_API_KEY")}


def ok(name, condition, detail=""):
    print(("ok   " if condition else "FAIL ") + name + ("" if condition else f": {detail}"), flush=True)
    if not condition:
        sys.exit(1)


def bench(*args, env=CLEAN):
    return subprocess.run([LODGECTL, "bench", *map(str, args)], capture_output=True, text=True, timeout=120, env=env)


def bench_json(*args, code=0):
    p = bench(*args, "--json")
    ok(f"exit {code}: {' '.join(map(str, args[1:]))[:60]}", p.returncode == code, p.stdout + p.stderr)
    return json.loads(p.stdout)


def same(name, figures, **expected):
    wrong = {k: (figures.get(k), v) for k, v in expected.items() if figures.get(k) != v}
    ok(name, not wrong, wrong)


def check_counts():
    with FakeServer(cached=2) as s:
        j = bench_json(s.url, "--num-prompts", 20, "--concurrency", 5, "--random-input-len", 12,
                       "--random-output-len", 6, "--warmup", 3, "--save-detailed")
        same("counts", j, completed=20, failed=0, total_input_tokens=240, total_output_tokens=120,
             total_cached_tokens=40, model_id="fake-model", max_concurrency=5, prompt_kind="ids")
        ok("never more in flight than asked", 1 <= j["max_concurrent_requests"] <= 5)
        ok("throughput is tokens over duration", abs(j["output_throughput"] * j["duration"] - 120) < 1e-6)
        ok("requests as planned", len(s.measured) == 23 and len(s.requests) == 24, len(s.requests))
        ok("prompts differ", len({json.dumps(r[2]["prompt"]) for r in s.measured}) == 23)
        ok("details", j["output_lens"] == [6] * 20 and all(len(i) == 5 for i in j["itls"]) and j["errors"] == [""] * 20)
        ok("not asked for goodput", j["request_goodput"] is None)


def check_times():
    """60 ms to the first token, then 10 ms each. A client that is late sees a late first chunk and then
    shorter gaps, so only times from the start have lower bounds; the others must fit together."""
    with FakeServer(first_s=0.06, gap_s=0.01) as s:
        j = bench_json(s.url, "--num-prompts", 8, "--concurrency", 4, "--random-output-len", 5, "--goodput",
                       "ttft:59", "tpot:100000")
        ok("TTFT has the delay", j["p50_ttft_ms"] >= 60 and j["mean_ttft_ms"] >= 60)
        ok("the gaps lie within", 0 < 4 * j["mean_itl_ms"] <= j["mean_e2el_ms"] - j["mean_ttft_ms"] + 1e-6)
        ok("E2EL has all delays", j["median_e2el_ms"] >= 100 and j["mean_e2el_ms"] >= 100)
        ok("mean E2EL = TTFT + 4 TPOT", abs(j["mean_ttft_ms"] + 4 * j["mean_tpot_ms"] - j["mean_e2el_ms"]) < 1e-6)
        ok("percentiles ascend", all(j[f"p50_{t}_ms"] == j[f"median_{t}_ms"] and j[f"p50_{t}_ms"] <= j[f"p90_{t}_ms"] <=
                                     j[f"p95_{t}_ms"] <= j[f"p99_{t}_ms"] for t in ("ttft", "tpot", "itl", "e2el")))
        ok("no request met the goodput bound", j["request_goodput"] == 0)
        j = bench_json(s.url, "--num-prompts", 4, "--no-stream", "--random-output-len", 7)
        same("whole replies", j, completed=4, total_output_tokens=28, mean_ttft_ms=None, p99_itl_ms=None)
    with FakeServer(tokens_per_chunk=4, gap_s=0.02) as s:
        j = bench_json(s.url, "--num-prompts", 2, "--random-output-len", 12, "--save-detailed")
        same("tokens are not chunks", j, total_output_tokens=24)
        ok("ITL is between chunks", [len(i) for i in j["itls"]] == [2, 2], j["itls"])
        ok("TPOT is by tokens", abs(j["mean_ttft_ms"] + 11 * j["mean_tpot_ms"] - j["mean_e2el_ms"]) < 1e-6)


def check_routes():
    with FakeServer() as s:
        bench_json(s.url + "/v1/", "--endpoint", "chat", "--num-prompts", 4, "--random-input-len", 9)
        ok("chat route", {r[0] for r in s.requests} == {"/v1/chat/completions"})
        ok("chat prompts", all(len(r[2]["messages"][0]["content"].split()) == 9 for r in s.requests))
    with FakeServer(takes_ids=False) as s:
        j = bench_json(s.url, "--num-prompts", 4, "--random-input-len", 9)
        same("text where ids are refused", j, prompt_kind="text", total_input_tokens=36)
        p = bench(s.url, "--num-prompts", 4, "--prompt-kind", "ids")
        ok("ids or nothing", p.returncode == 2 and "prompt must be a string" in p.stderr, p.stderr)
    with FakeServer(refuses=("ignore_eos",)) as s:
        p = bench(s.url, "--num-prompts", 2)
        ok("a strict server", p.returncode == 2 and "--no-ignore-eos" in p.stderr, p.stderr)
        bench_json(s.url, "--num-prompts", 2, "--no-ignore-eos")
    for kind in ({"crlf": True, "comments": True}, {"tiny_writes": True}, {"text": "h\u00e9\U0001f600\\\"}]"}):
        with FakeServer(**kind) as s:
            same(f"stream with {kind}", bench_json(s.url, "--num-prompts", 4, "--random-output-len", 4), completed=4,
                 total_output_tokens=16)
    with FakeServer(usage=False) as s:
        p = bench(s.url, "--num-prompts", 3, "--random-output-len", 4)
        ok("no usage", p.returncode == 0 and "3 replies had no usage" in p.stdout, p.stdout)


def check_keys():
    with FakeServer(key="sesame") as s:
        ok("no key", (p := bench(s.url, "--num-prompts", 2)).returncode == 2 and "wrong key" in p.stderr, p.stderr)
        for env in ({"LODGE_API_KEY": "sesame", "OPENAI_API_KEY": "x"}, {"OPENAI_API_KEY": "sesame"}):
            ok("key of the environment", bench(s.url, "--num-prompts", 2, env={**CLEAN, **env}).returncode == 0)
        ok("key of the flag", bench(s.url, "--num-prompts", 2, "--api-key", "sesame",
                                    env={**CLEAN, "LODGE_API_KEY": "x"}).returncode == 0)


def check_models():
    with FakeServer(models=("a", "b", "c")) as s:
        p = bench(s.url, "--models", "a,b", "c", "--model-dist", "round-robin", "--num-prompts", 9)
        ok("models in turns", [sum(r[2]["model"] == m for r in s.measured[4:]) for m in "abc"] == [3, 3, 3], p.stderr)
        ok("a line a model", p.stdout.count("\na ") == 1 and p.stdout.count("\nc ") == 1, p.stdout)
        ok("model by name", bench_json(s.url, "--model", "b", "--num-prompts", 2)["model_id"] == "b")
        p = bench(s.url, "--model", "z")
        ok("no such model", p.returncode == 2 and "no such model" in p.stderr, p.stderr)


def check_ranges():
    """The names of --models, in turns, are what bash makes of them."""
    words = ["m{08..11}", "x{1..3}-{10..9}", "plain"]
    expected = subprocess.run(["bash", "-c", "echo " + " ".join(words)], capture_output=True, text=True,
                              check=True).stdout.split()
    with FakeServer(models=expected) as s:
        j = bench_json(s.url, "--models", *words, "--model-dist", "round-robin", "--num-prompts", len(expected),
                       "--concurrency", 1, "--warmup", 0, "--per-model")
        ok("as bash", [r[2]["model"] for r in s.measured] == expected, s.measured)
        ok("models in the JSON", sorted(m["model_id"] for m in j["models"]) == sorted(expected))
    with FakeServer(models=[f"lora{i}" for i in range(2000)]) as s:
        j = bench_json(s.url, "--models", "lora{0..1999}", "--model-dist", "power:0.3", "--num-prompts", 300,
                       "--random-input-len", 4, "--random-output-len", 2, "--per-model", "--seed", 5)
        counts = collections.Counter(r[2]["model"] for r in s.measured[4:])
        ok("of 2000 the busiest 20", [(m["requests"], counts[m["model_id"]]) for m in j["models"]] ==
           [(n, n) for _, n in counts.most_common(20)], j["models"])
        ok("not asked for models", "models" not in bench_json(s.url, "--models", "lora{0..9}", "--num-prompts", 2))


def tenant_of(request):
    return request[1]["Authorization"].removeprefix("Bearer key-")


def check_tenants():
    text = """# three of them
a key-a concurrency=3 output=4
b key-b concurrency=2 output=6 models=own{0..1} input=9
c key-c concurrency=1 output=4 models=limited
"""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as f, \
            FakeServer(models=("shared", "own0", "own1", "limited"), key=("key-a", "key-b", "key-c"), cached=2, gap_s=0.002,
                       fault=lambda n, b: "429" if b["model"] == "limited" and len(b["prompt"]) % 2 else None) as s:
        f.write(text)
        f.flush()
        args = ["--tenants", f.name, "--models", "shared", "--num-prompts", 60, "--random-input-len", 20,
                "--range-ratio", 0.3, "--warmup", 0, "--goodput", "e2el:100000"]
        j = bench_json(s.url, *args, "--per-model")
        sent = s.measured
        same("tenants: totals", j, failed=60 - j["completed"], rate_limited=j["failed"])
        ok("tenants: by name", [t["name"] for t in j["tenants"]] == ["a", "b", "c"])
        for t, models in zip(j["tenants"], ({"shared"}, {"own0", "own1"}, {"limited"})):
            own = [r for r in sent if tenant_of(r) == t["name"]]
            good = [r for r in own if not (r[2]["model"] == "limited" and len(r[2]["prompt"]) % 2)]
            n_in, n_out = (sum(len(r[2]["prompt"]) for r in good), sum(r[2]["max_tokens"] for r in good))
            same(f"tenant {t['name']}", t, requests=len(own), completed=len(good), rate_limited=len(own) - len(good),
                 errors=0, total_input_tokens=n_in, total_output_tokens=n_out, total_cached_tokens=2 * len(good),
                 weighted_service=n_in - 2 * len(good) + 2 * n_out, goodput_share=len(good) / len(own))
            ok(f"models of {t['name']}", {r[2]["model"] for r in own} <= models and own)
            ok(f"times of {t['name']}", t["mean_e2el_ms"] >= 3 * 2 and t["p99_ttft_ms"] >= t["p50_ttft_ms"] > 0)
            ok(f"tokens/s of {t['name']}", abs(t["output_throughput"] * t["duration"] - n_out) < 1e-6)
        rates = [t["output_throughput"] for t in j["tenants"]]
        ok("Jain's index", abs(j["jain_output_throughput"] - sum(rates) ** 2 / (3 * sum(r * r for r in rates))) < 1e-9)
        ok("max/min", abs(j["max_min_output_throughput"] - max(rates) / min(rates)) < 1e-9)
        service = [t["weighted_service"] for t in j["tenants"]]
        ok("of service", abs(j["jain_weighted_service"] - sum(service) ** 2 / (3 * sum(x * x for x in service))) < 1e-9)
        ok("owners of models", {m["model_id"]: m.get("tenant") for m in j["models"]} ==
           {"shared": None, "own0": "b", "own1": "b", "limited": "c"})
        j = bench_json(s.url, *args, "--save-detailed")
        ok("whose requests", {(t, m) for t, m in zip(j["request_tenants"], j["request_models"])} ==
           {("a", "shared"), ("b", "own0"), ("b", "own1"), ("c", "limited")} and len(j["request_models"]) == 60)
        p = bench(s.url, *args, "--focus", "b")
        ok("a line a tenant", all(f"\n{n} " in p.stdout for n in "abc") and "fairness of" in p.stdout and
           "TTFT of b (ms): p50" in p.stdout and "3 closed loops (clients: 6)" in p.stdout, p.stdout)


def check_tenants_open():
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as f, FakeServer(first_s=0.02, key=("key-a", "key-b", "key-c")) as s:
        f.write("a key-a rate=100\nb key-b\nc key-c\n")
        f.flush()
        j = bench_json(s.url, "--tenants", f.name, "--request-rate", 100, "--num-prompts", 40, "--warmup", 0,
                       "--random-output-len", 1, "--cv", 2)
        ok("shares of the rate", [(t["requests"], t["request_rate"]) for t in j["tenants"]] ==
           [(20, 100.0), (10, 50.0), (10, 50.0)], j["tenants"])
        ok("cv is a burstiness", j["burstiness"] == 0.25)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as f, FakeServer(first_s=0.05, key=("key-a", "key-b")) as s:
        f.write("a key-a concurrency=1\nb key-b rate=40 concurrency=1\n")
        f.flush()
        j = bench_json(s.url, "--tenants", f.name, "--duration", 0.5, "--warmup", 0, "--random-output-len", 1)
        a, b = j["tenants"]
        ok("a closed and an open loop", 1 <= a["requests"] <= 12 and b["requests"] >= 5, j)
        ok("one tenant's room is its own", b["p99_ttft_ms"] > 100 and j["max_concurrent_requests"] == 2, (a, b))
        ok("what waits for room counts", j["p99_client_lag_ms"] > 50)
        f.seek(0)
        f.write("a key-a concurrency=1\nb key-x rate=40\n")
        f.truncate()
        f.flush()
        p = bench(s.url, "--tenants", f.name, "--duration", 0.5)
        ok("a tenant's wrong key", p.returncode == 2 and "tenant 'b'" in p.stderr and "key-x" not in p.stderr, p.stderr)


def check_tenants_against():
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as f, FakeServer(key=("key-a", "key-b")) as a, \
            FakeServer(key="one", first_s=0.05) as b:
        f.write("a key-a\nb key-b\n")
        f.flush()
        args = [a.url, "--against", b.url, "--api-key2", "one", "--tenants", f.name, "--repeats", 2, "--num-prompts", 12,
                "--warmup", 0, "--request-rate", 100, "--focus", "b", "--random-output-len", 2]
        j = bench_json(*args)
        ok("the focus at both", j["ratio_a_to_b"]["focus_p50_ttft_ms"]["median"] > 0 and j["b"]["focus_p99_ttft_ms"] >= 50)
        ok("the same requests", sorted(json.dumps(r[2]) for r in a.measured) == sorted(json.dumps(r[2]) for r in b.measured))
        ok("tenants keep apart", all(sum("key-" + n in r[1]["Authorization"] for r in a.measured) == 12 for n in "ab"))
        p = bench(*args)
        ok("rows of tenants", "P99 TTFT of b (ms)" in p.stdout and "Jain" in p.stdout, p.stdout + p.stderr)


def check_check():
    """Replies that depend on what else runs are found, and only those."""
    with FakeServer(text="h\u00e9\"\\ ", models=[f"lora{i}" for i in range(50)]) as s:
        j = bench_json(s.url, "--num-prompts", 130, "--concurrency", 10, "--check", "--warmup", 0, "--models", "lora{0..49}",
                       "--random-output-len", 4)
        same("the same alone", j["check"], sampled=7, same=7, different=0, not_repeated=0, example="")
        again, first = [r[2] for r in s.measured[130:]], [r[2] for r in s.measured[:130]]
        ok("sent again as they were", len(again) == 7 and all(r in first for r in again))
        same("second replies count nowhere", j, completed=130, total_output_tokens=520)
        j = bench_json(s.url, "--num-prompts", 1010, "--check", "--random-input-len", 2, "--random-output-len", 1)
        same("fifty at most", j["check"], sampled=50, same=50)
        for kind in ("completions", "chat"):
            ok(f"{kind} alone", bench(s.url, "--check", "--num-prompts", 21, "--endpoint", kind, "--no-stream",
                                      "--models", "lora{0..49}").returncode == 0)
    seen = collections.Counter()

    def text(body):  # every second time a prompt comes, the reply is another one
        key = json.dumps(body["prompt"])
        seen[key] += 1
        return ["busy ", "alone "][(seen[key] - 1) % 2]
    for extra in ([], ["--no-stream"]):
        with FakeServer(text=text) as s:
            args = [s.url, "--num-prompts", 41, "--concurrency", 8, "--check", "--warmup", 0, "--random-output-len", 3,
                    "--seed", len(extra), *extra]
            j = bench_json(*args, code=1)
            same("different alone", j["check"], sampled=3, same=0, different=3, not_repeated=0)
            ok("an example", "'busy" in j["check"]["example"] and "'alone" in j["check"]["example"], j["check"])
    with FakeServer(fault=lambda n, b: "429" if n > 21 else None) as s:
        j = bench_json(s.url, "--num-prompts", 21, "--check", "--warmup", 0, "--concurrency", 1, code=1)
        same("nothing compared is no success", j["check"], sampled=2, same=0, different=0, not_repeated=2)


def check_open_loop():
    with FakeServer() as s:
        j = bench_json(s.url, "--num-prompts", 20, "--request-rate", 200, "--warmup", 0, "--save-detailed")
        same("open loop", j, completed=20, request_rate=200.0, max_concurrency=None)
        ok("none was sent before its time", s.requests[-1][3] - s.requests[1][3] > 0)
        starts = j["start_times"]
        ok("the last one at n/rate", max(starts) >= 20 / 200, max(starts))
        again = bench_json(s.url, "--num-prompts", 20, "--request-rate", 200, "--warmup", 0)
        same("same again", again, completed=20)
        bodies = [json.dumps(r[2]) for r in s.measured]
        ok("same seed, same requests", sorted(bodies[:20]) == sorted(bodies[20:]))
        j = bench_json(s.url, "--num-prompts", 30, "--request-rate", "inf")
        same("all at once", j, completed=30, request_rate="inf")
    with FakeServer(first_s=0.05) as s:
        j = bench_json(s.url, "--num-prompts", 6, "--request-rate", "inf", "--concurrency", 1, "--random-output-len", 1)
        same("never more than the cap", j, completed=6, max_concurrent_requests=1)
        ok("waiting for the cap counts", j["p99_ttft_ms"] >= 6 * 50 * 0.9 and j["p99_client_lag_ms"] >= 5 * 50 * 0.9)
    with FakeServer(gap_s=0.005) as s:
        j = bench_json(s.url, "--duration", 0.3, "--concurrency", 2, "--warmup", 0)
        ok("duration", j["completed"] == len(s.measured) >= 1 and j["duration"] >= 0.05)
        j = bench_json(s.url, "--duration", 0.3, "--request-rate", 50, "--warmup", 0)
        ok("duration of an open loop", j["completed"] >= 1 and j["failed"] == 0)


def check_many_streams():
    with FakeServer(first_s=0.3, gap_s=0.02) as s:
        j = bench_json(s.url, "--num-prompts", 300, "--concurrency", 300, "--random-input-len", 4,
                       "--random-output-len", 4, "--warmup", 0)
        same("300 streams at once", j, completed=300, failed=0, total_output_tokens=1200)
        ok("they overlapped", j["max_concurrent_requests"] == 300, j["max_concurrent_requests"])


def check_faults():
    kinds = ["429", "500", "event", "cut", "reset", "silent", "garbage"]
    with FakeServer(fault=lambda n, b: kinds[(n - 1) // 2] if 1 <= n < 15 else None) as s:
        j = bench_json(s.url, "--num-prompts", 20, "--concurrency", 1, "--warmup", 0, "--random-output-len", 5)
        same("failures do not count", j, completed=6, failed=14, total_output_tokens=30)
        found = {e["kind"]: (e["count"], e["example"]) for e in j["error_kinds"]}
        ok("refusals", found.get("HTTP 429") == (2, "slow down") and found["HTTP 500"] == (2, "<html>oh no</html>"), found)
        ok("error event", found.get("error in the reply") == (2, "the engine fell over"), found)
        ok("end without a reason", found.get("stream ended early", (0,))[0] == 2, found)
        ok("garbage", found.get("reply is no JSON", (0, ""))[0] == 2, found)
        ok("all have a kind", sum(c for c, _ in found.values()) == 14, found)
        p = bench(s.url, "--num-prompts", 4)
        ok("well again", p.returncode == 0 and "failed:" not in p.stdout, p.stdout)
    with FakeServer(fault=lambda n, b: "429" if n else None) as s:
        p = bench(s.url, "--num-prompts", 5)
        ok("all failed: exit 1", p.returncode == 1 and "5 failed: HTTP 429: slow down" in p.stdout, p.stdout)
    with FakeServer(fault=lambda n, b: "hang" if n == 1 else None) as s:
        j = bench_json(s.url, "--num-prompts", 3, "--warmup", 0, "--timeout", 2)
        ok("timeout", j["failed"] >= 1 and all("imeout" in e["kind"] for e in j["error_kinds"]), j["error_kinds"])
    s = FakeServer()
    url = s.url
    with s:
        pass
    p = bench(url, "--num-prompts", 3)
    ok("nobody there", p.returncode == 4 and "is the server running?" in p.stderr, (p.returncode, p.stderr))


def check_dead_server():
    """The server goes away under a closed loop of unlimited length: the run must end by itself."""
    def go_away(n, _):
        if n == 5:
            s.server.socket.close()
        return "reset" if n >= 5 else None
    s = FakeServer(fault=go_away)
    with s:
        p = bench(s.url, "--duration", 100, "--concurrency", 2, "--warmup", 0, "--random-output-len", 3)
    ok("gives up on a dead server", p.returncode == 0 and "Ended early" in p.stdout, p.stdout + p.stderr)


def check_against():
    log = []
    with FakeServer("A", log=log) as a, FakeServer("B", log=log, tokens_per_chunk=2, models=("other",)) as b:
        j = bench_json(a.url, "--against", b.url, "--repeats", 3, "--num-prompts", 4, "--warmup", 1,
                       "--label", "left", "--label2", "right", "--random-output-len", 8)
        runs = [r for r in log if "stream" in r[1]][2:]
        ok("A B A B A B", [n for n, _ in runs] == list("AAAABBBB" * 3), [n for n, _ in runs])
        rounds = [[json.dumps(body["prompt"]) for _, body in runs[i:i + 4]] for i in range(0, 24, 4)]
        ok("both get the same", all(sorted(rounds[i]) == sorted(rounds[i + 1]) for i in (0, 2, 4)))
        ok("rounds do not repeat", len({p for r in rounds for p in r}) == 12)
        ok("labels and models", (j["a"]["label"], j["b"]["label"], j["b"]["model_id"]) == ("left", "right", "other"))
        ok("rounds in the JSON", [r[k]["completed"] for r in j["rounds"] for k in "ab"] == [4] * 6)
        same("ratio of equals", j["ratio_a_to_b"]["total_output_tokens"], median=1.0, min=1.0, max=1.0)
        ratios = sorted(r["a"]["output_throughput"] / r["b"]["output_throughput"] for r in j["rounds"])
        got = j["ratio_a_to_b"]["output_throughput"]
        ok("ratios", [got["min"], got["median"], got["max"]] == ratios, (got, ratios))
    with FakeServer() as a, FakeServer(takes_ids=False, key="k2", fault=lambda n, b: "429" if n == 3 else None) as b:
        p = bench(a.url, "--against", b.url, "--api-key2", "k2", "--repeats", 2, "--num-prompts", 2, "--warmup", 0)
        ok("table", p.returncode == 0 and "Output tokens/s" in p.stdout and "range of A/B" in p.stdout, p.stdout + p.stderr)
        ok("text for both when one takes no ids", all(isinstance(r[2]["prompt"], str) for r in a.measured))
        ok("errors of B", "Of B:\n1 failed: HTTP 429" in p.stdout, p.stdout)


def check_interrupt():
    with FakeServer(fault=lambda n, b: "hang" if n > 5 else None) as s, tempfile.TemporaryDirectory() as d:
        path = os.path.join(d, "out.json")
        p = subprocess.Popen([LODGECTL, "bench", s.url, "--num-prompts", "50", "--concurrency", "3", "--warmup", "0",
                              "--save-result", path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=CLEAN)
        while len(s.requests) < 9:
            time.sleep(0.01)
        p.send_signal(signal.SIGINT)
        out, err = p.communicate(timeout=30)
        ok("Ctrl-C: exit 130", p.returncode == 130, (p.returncode, out, err))
        ok("Ctrl-C: partial table", "Interrupted: 3 requests" in out and "TTFT" in out, out)
        with open(path, encoding="utf-8") as f:
            j = json.load(f)
        same("Ctrl-C: partial JSON", j, completed=5, cancelled=3, interrupted=True, failed=0)


def check_progress():
    """The bar is for terminals only, and is wiped."""
    with FakeServer(gap_s=0.02) as s:
        plain = bench(s.url, "--num-prompts", 10, "--random-output-len", 10)
        ok("no bar in a pipe", "\033" not in plain.stderr + plain.stdout and plain.stderr == "", plain.stderr)
        try:
            leader, follower = pty.openpty()
        except OSError as e:
            print(f"not checked: the bar on a terminal ({e}; is /dev/pts mounted?)")
            return
        p = subprocess.Popen([LODGECTL, "bench", s.url, "--num-prompts", "10", "--random-output-len", "10"],
                             stdout=subprocess.DEVNULL, stderr=follower, env=CLEAN)
        os.close(follower)
        seen = b""
        while True:
            try:
                part = os.read(leader, 4096)
            except OSError:
                break
            if not part:
                break
            seen += part
        p.wait(30)
        os.close(leader)
        ok("a bar on a terminal", b"10/10 done" in seen and seen.endswith(b"\033[K"), seen[-200:])


def check_save_errors():
    with FakeServer() as s:
        p = bench(s.url, "--num-prompts", 2, "--save-result", "/nonexistent/x.json")
        ok("cannot save", p.returncode == 4 and "/nonexistent/x.json" in p.stderr, p.stderr)
    ok("help", "--against" in bench("--help").stdout)
    ok("help fits a terminal", max(map(len, bench("--help").stdout.splitlines())) <= 100)
    ok("unknown flag", bench("http://127.0.0.1:1", "--frob").returncode == 2)


for check in (check_counts, check_times, check_routes, check_keys, check_models, check_ranges, check_tenants,
              check_tenants_open, check_tenants_against, check_check, check_open_loop, check_many_streams,
              check_faults, check_dead_server, check_against, check_interrupt, check_progress, check_save_errors):
    check()
print("all good")
