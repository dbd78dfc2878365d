"""Error of two servers over the same file against fp32, teacher-forced: mean |difference of log-probability|.

Usage: compare_error.py LODGE_URL LLAMA_SERVER_URL      both serve SmolLM2-135M-Instruct in one quantised format
The fp32 figures are those of tests/data/smollm2.json (transformers on the dequantised Q4_1 weights), so the
file must be the Q4_1 one. llama-server scores no prompts: each position is asked for by a request of its
own, and positions whose token is not among its 3000 likeliest are left out on both sides."""
import json
import os
import sys
import urllib.request

DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data", "smollm2.json")


def post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=100) as reply:
        return json.load(reply)


def lodge_scores(url, model, ids):
    reply = post(url + "/v1/completions", {"model": model, "prompt": ids, "max_tokens": 0, "echo": True, "logprobs": 0})
    return reply["choices"][0]["logprobs"]["token_logprobs"][1:]


def llama_score(url, ids, token):
    reply = post(url + "/completion", {"prompt": ids, "n_predict": 1, "n_probs": 3000, "temperature": 0,
                                       "cache_prompt": True})
    tops = reply.get("completion_probabilities", [{"top_logprobs": []}])[0]["top_logprobs"]
    return next((t["logprob"] for t in tops if t["id"] == token), None)


def main(lodge, llama):
    with open(DATA, encoding="utf-8") as f:
        prompts = json.load(f)["prompts"]
    with urllib.request.urlopen(lodge + "/v1/models") as reply:
        model = json.load(reply)["data"][0]["id"]
    ours = theirs = n = skipped = 0
    for prompt in prompts:
        ids = prompt["ids"]
        for i, score in enumerate(lodge_scores(lodge, model, ids)):
            other = llama_score(llama, ids[:i + 1], ids[i + 1])
            if other is None:
                skipped += 1
                continue
            ours += abs(score - prompt["fp32"][i])
            theirs += abs(other - prompt["fp32"][i])
            n += 1
    print(f"{n} positions ({skipped} left out): lodge {ours / n:.4f}, llama-server {theirs / n:.4f}, ratio {ours / theirs:.3f}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
