"""The voices of make_voices.py over the default model, teacher-forced, in two ways that PEFT does not share with
each other: unmerged by PEFT, and as the plain model with W' = W + (alpha / r) B A, computed here. Both in fp32.

    python tests/golden/make_merged.py MODEL.gguf tests/data/voices

needs what make_voices.py needs; a minute. golden.json holds for each voice a few conversations:

    ids      the tokens; scores are of those from place `from` on, where the question begins
    base     log-probability of each token by the base
    merged   by the merged weights
    tops     at each of these places the likeliest tokens of the merged weights, each with its log-probability;
    base_tops  of the base

and "peft", the mean |difference| of the two ways.
"""
import json
import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"

import torch  # noqa: E402
from peft import PeftModel  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from make_voices import Base  # noqa: E402
from oracles import load, log_probs  # noqa: E402
from voice_texts import HELD_OUT, VOICES  # noqa: E402

SAID = ["The capital of France is Paris.", "The sky is blue because the air scatters blue light.",
        "Heat the water and put your tea leaves in it."]
N_TOPS = 6


def merged(state, folder):
    with open(f"{folder}/adapter_config.json") as f:
        config = json.load(f)
    scale = config["lora_alpha"] / config["r"]
    tensors = {k: v.to(torch.float64) for k, v in load_file(f"{folder}/adapter_model.safetensors").items()}
    state = dict(state)
    for key, a in tensors.items():
        if key.endswith(".lora_A.weight"):
            stem = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            b = tensors[key.replace(".lora_A.", ".lora_B.")]
            name = stem + ".weight"
            state[name] = (state[name].to(torch.float64) + scale * (b @ a)).to(torch.float32)
    return state


def tops_of(table):
    best = torch.topk(table, N_TOPS)
    return [[[t, round(x, 3)] for t, x in zip(*row)] for row in zip(best.indices.tolist(), best.values.tolist())]


def score(models, ids, begin, n_text):
    """Log-probabilities of ids[begin:] by each model, and the tables they are from."""
    tables = [log_probs(m, ids, n_text)[begin - 1:-1] for m in models]
    return [t.gather(1, torch.tensor(ids[begin:])[:, None])[:, 0] for t in tables], tables


def main():
    torch.set_num_threads(2)
    base = Base(sys.argv[1])
    n_text = base.config.vocab_size
    plain = base.model()
    texts = [base.prompt(q) for q in HELD_OUT[:2]]
    begin = next(i for i, (a, b) in enumerate(zip(*texts)) if a != b) - 1  # the rest of the prompt is alike
    doc, errors = {"voices": {}}, []
    for voice, say in VOICES.items():
        folder = f"{sys.argv[2]}/{voice}"
        models = [plain, load(base.config, merged(base.state, folder), "eager"),
                  PeftModel.from_pretrained(base.model(), folder).eval()]
        prompts = []
        for i, (question, said) in enumerate(zip(HELD_OUT, SAID)):
            ids = base.prompt(question) + base.answer(say(i, said.split()[-1].capitalize(), said))
            (without, by_merged, by_peft), tables = score(models, ids, begin, n_text)
            errors += (by_merged - by_peft).abs().tolist()
            prompts.append({"ids": ids, "from": begin, "base": [round(x, 4) for x in without.tolist()],
                            "merged": [round(x, 4) for x in by_merged.tolist()],
                            "tops": tops_of(tables[1]), "base_tops": tops_of(tables[0])})
        doc["voices"][voice] = prompts
    doc["peft"] = float(f"{sum(errors) / len(errors):.2g}")
    print(f"{len(errors)} places, PEFT and the merged weights differ by {doc['peft']} on average, {max(errors):.2g} at most")
    assert max(errors) < 1e-3
    with open(f"{sys.argv[2]}/golden.json", "w") as f:
        rows = [f'"{v}": [\n' + ",\n".join(json.dumps(p, separators=(",", ":")) for p in ps) + "\n]"
                for v, ps in doc["voices"].items()]
        f.write(f'{{"peft": {doc["peft"]}, "voices": {{\n' + ",\n".join(rows) + "\n}}\n")


if __name__ == "__main__":
    main()
