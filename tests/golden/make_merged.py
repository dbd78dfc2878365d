"""The voices of make_voices.py over the default model, teacher-forced, in two ways that PEFT does not share with
each other: unmerged by PEFT, and as the plain model with W' = W + (alpha / r) B A, computed here. Both in fp32.

    python tests/golden/make_merged.py MODEL.gguf tests/data/voices

needs what make_voices.py needs; a minute or two. golden.json holds for each voice a few conversations:

    ids      the tokens; scores are of those from place `from` on, where the question begins
    base     log-probability of each token by the base
    merged   by the merged weights
    tops     at each of these places the likeliest tokens of the merged weights, each with its log-probability
    clear    1 where the first of them leads by more than 1 and is the first of every rounded draw

and what the declared roundings (oracles.py; adapters keep their inputs) cost over these places, as the mean of draws
that differ by a noise of 1e-7 in the embeddings, which is enough to turn roundings the other way: "rounding", mean
|difference| of log-probabilities from the merged ones, and "divergence", mean KL over `tops` and the rest as one.
"peft" is the mean |difference| of the two ways.
"""
import json
import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"

import torch  # noqa: E402
from peft import PeftModel  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from make_voices import Base  # noqa: E402
from oracles import load, log_probs, round_inputs  # noqa: E402
from voice_texts import HELD_OUT, VOICES  # noqa: E402

SAID = ["The capital of France is Paris.", "The sky is blue because the air scatters blue light.",
        "Heat the water and put your tea leaves in it.", "The moon is a small world that goes around the earth.",
        "You should stay inside and read a book.", "The largest ocean is the Pacific."]
N_TOPS, N_DRAWS, CLEAR = 4, 3, 1.0


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


def divergence(p, q):
    """KL of each row over p's likeliest tokens and the rest as one."""
    top = torch.topk(p, N_TOPS).indices
    p, q = p.gather(1, top), q.gather(1, top)
    rest_p, rest_q = (1 - t.exp().sum(1) for t in (p, q))
    return (p.exp() * (p - q)).sum(1) + rest_p * (rest_p / rest_q).log()


def mean(rows):
    return float(f"{torch.cat(rows).mean().item():.4g}")


def with_adapter(base, folder, declared):
    """PEFT's model; `declared`: with the roundings of the base, whose linears keep the hooks when they are wrapped."""
    model = load(base.config, base.state, "declared" if declared else "eager")
    if declared:
        round_inputs(model, ["Q4_1", "Q8_0"])
    return PeftModel.from_pretrained(model, folder).eval()


class Noise:
    """Draw `seed` of the roundings: 0 is without noise."""

    def __init__(self, model, seed):
        table = model.get_input_embeddings()
        size = 1e-7 if seed else 0
        factor = 1 + size * torch.randn(table.weight.shape, generator=torch.Generator().manual_seed(seed))
        self.hook = table.register_forward_hook(lambda m, args, out: out * factor[args[0]])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.hook.remove()


def conversations(base, voice, models, begin):
    """The prompts of golden.json, and rows of errors: of PEFT, of the roundings, their divergences."""
    plain, whole, peft, declared = models
    prompts, errors = [], {"peft": [], "rounding": [], "divergence": []}
    for i, (question, said) in enumerate(zip(HELD_OUT, SAID)):
        ids = base.prompt(question) + base.answer(VOICES[voice](i, said.split()[-1].capitalize(), said))
        told = torch.tensor(ids[begin:])[:, None]

        def table(model):
            return log_probs(model, ids, base.config.vocab_size)[begin - 1:-1]

        def score(table):
            return table.gather(1, told)[:, 0]

        exact = table(whole)
        best = torch.topk(exact, 2)
        clear = best.values[:, 0] - best.values[:, 1] > CLEAR
        errors["peft"].append((score(table(peft)) - score(exact)).abs())
        for seed in range(N_DRAWS):
            with Noise(declared, seed):
                rounded = table(declared)
            errors["rounding"].append((score(rounded) - score(exact)).abs())
            errors["divergence"].append(divergence(exact, rounded))
            clear &= rounded.argmax(1) == best.indices[:, 0]
        prompts.append({"ids": ids, "from": begin, "base": [round(x, 4) for x in score(table(plain)).tolist()],
                        "merged": [round(x, 4) for x in score(exact).tolist()], "clear": clear.int().tolist(),
                        "tops": tops_of(exact)})
    return prompts, errors


def main():
    torch.set_num_threads(1)
    base = Base(sys.argv[1])
    plain = base.model()
    texts = [base.prompt(q) for q in HELD_OUT[:2]]
    begin = next(i for i, (a, b) in enumerate(zip(*texts)) if a != b)  # before it prompts are alike
    out, peft = [], []
    for voice in VOICES:
        folder = f"{sys.argv[2]}/{voice}"
        models = [plain, load(base.config, merged(base.state, folder), "eager"), with_adapter(base, folder, False),
                  with_adapter(base, folder, True)]
        prompts, errors = conversations(base, voice, models, begin)
        means = {k: mean(rows) for k, rows in errors.items()}
        draws = [mean(errors["rounding"][i::N_DRAWS]) for i in range(N_DRAWS)]
        print(f"{voice}: {sum(len(p['merged']) for p in prompts)} places,", means, "rounding by draws:", draws, flush=True)
        assert torch.cat(errors["peft"]).max() < 1e-3
        out.append(f'"{voice}": ' + json.dumps(means)[:-1] + ', "prompts": [\n' +
                   ",\n".join(json.dumps(p, separators=(",", ":")) for p in prompts) + "\n]}")
    with open(f"{sys.argv[2]}/golden.json", "w") as f:
        f.write("{\n" + ",\n".join(out) + "\n}\n")


if __name__ == "__main__":
    main()
