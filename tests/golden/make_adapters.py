"""Tiny adapters for the models of make_models.py, and what PEFT makes of them.

    python tests/golden/make_adapters.py tests/data/models tests/data/adapters

needs peft, torch, transformers, safetensors, gguf and numpy. PEFT itself makes, saves and loads the
directories; GGUF files follow llama.cpp's convert_lora_to_gguf (rows of B of q and k as adjacent pairs,
roles swapped for token_embd), with alpha written so that alpha / rank is PEFT's scale.

golden.json holds

    shapes    dimensions of the bases
    adapters  for each file form what its modules hold: rank, scale, and SHA-256 of A (rank, inputs) and
              B (outputs, rank) as bf16 of the tensors that PEFT loaded (blocks: that gguf decoded), of the
              magnitudes and biases as fp32
    names, matching    names of modules; for settings, which of them PEFT targets, with what r and alpha
    cases     for a base (a directory or a GGUF file of other weights) and an adapter: the log-probability
              of each token given the ones before it, by PEFT in fp32 on the stored weights
                  base   without the adapter
                  fp32   with it
                  bf16   with A and B rounded to bf16, which is how Lodge stores them
                  declared   the same with the roundings that kernels/cpu/kernels.h declares: those of
                             make_models.py, and inputs of A to bf16
              with "int8": true where the base's activations are
              and by bf16 the best next token, its margin, and the three best with their
              log-probabilities, at every position
"""
import hashlib
import json
import math
import os
import shutil
import sys

os.environ["HF_HUB_OFFLINE"] = "1"

import gguf  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from peft import LoraConfig, PeftModel, get_peft_model  # noqa: E402
from peft.tuners.tuners_utils import check_target_module_exists  # noqa: E402
from peft.utils.other import get_pattern_key  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from make_models import VOCAB, arch_of, config_of, gguf_name, heads_of, plus_one  # noqa: E402
from make_types import GGUF as MIXED, SITES  # noqa: E402
from oracles import TYPES, bf16, from_pairs, int8_blocks, load, log_probs, rounding, to_pairs  # noqa: E402

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
# name, shape of the base, stored as, settings of PEFT, GGUF: type of A and B, or None
ADAPTERS = [
    ("plain", "llama2", "F32", {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}, ("F32", "F32")),
    ("all", "llama2", "BF16", {"r": 8, "lora_alpha": 4, "target_modules": "all-linear"}, ("F16", "BF16")),
    ("patterns", "llama3", "F16",
     {"r": 2, "lora_alpha": 3, "target_modules": ALL,
      "rank_pattern": {"layers.1.mlp.up_proj": 5, "q_proj": 13, ".*1.self_attn.(k|v)_proj": 6},
      "alpha_pattern": {"o_proj": 7, "^model.layers.0.mlp.down_proj": 1}}, None),
    ("rslora", "llama2", "F32",
     {"r": 16, "lora_alpha": 8, "use_rslora": True, "target_modules": ["k_proj", "o_proj", "down_proj"]}, ("F32", "F32")),
    ("dora", "llama3", "F32", {"r": 4, "lora_alpha": 8, "use_dora": True, "target_modules": ALL}, None),
    ("layers", "biased", "F32",
     {"r": 3, "lora_alpha": 6, "target_modules": ["q_proj", "up_proj"], "layers_to_transform": [0, 2]}, None),
    ("bias", "biased", "F32", {"r": 4, "lora_alpha": 4, "lora_bias": True, "target_modules": ALL,
                               "exclude_modules": ["0.mlp.up_proj", "k_proj"]}, None),
    ("table", "llama2", "F32",
     {"r": 6, "lora_alpha": 6, "target_modules": ["embed_tokens", "lm_head", "v_proj"]}, ("F32", "F32")),
    ("tied", "smollm2", "F32", {"r": 4, "lora_alpha": 8, "target_modules": ["embed_tokens", "gate_proj"]}, ("F32", "F32")),
    ("regex", "llama3", "F32",
     {"r": 9, "lora_alpha": 9, "target_modules": r"model\.layers\.1\..*(q|k|down)_proj"}, ("F32", "F32")),
    ("one", "llama2", "F32", {"r": 1, "lora_alpha": 2, "target_modules": ["k_proj", "up_proj"]}, ("F32", "F32")),
    ("blocks", "smollm2", "F32", {"r": 32, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]}, ("Q8_0", "Q4_0")),
    # one A for q, k, v and one for gate, up; rows of B are cut
    ("fused", "phi3", "F16", {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}, ("F32", "F32")),
    ("fuseddora", "phi3", "F16", {"r": 3, "lora_alpha": 6, "use_dora": True, "target_modules": ["qkv_proj", "gate_up_proj"]},
     None),
    # before post norms, and on an embedding that is scaled
    ("gemma2", "gemma2", "BF16",
     {"r": 4, "lora_alpha": 8, "target_modules": ["embed_tokens", "k_proj", "o_proj", "up_proj", "down_proj"]}, ("F32", "F32")),
    ("gemma3", "gemma3", "BF16", {"r": 5, "lora_alpha": 5, "use_rslora": True, "target_modules": "all-linear"}, ("F32", "F32")),
    ("qwen3", "qwen3", "F16", {"r": 4, "lora_alpha": 8, "target_modules": ALL}, ("F32", "F32")),
    ("granite", "granite", "F16", {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "k_proj", "down_proj"]}, ("F32", "F32")),
    ("starcoder2", "starcoder2", "F16", {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "c_fc", "c_proj"]}, ("F32", "F32")),
    # above every type of blocks and FP8
    ("k4", "k4", "F32", {"r": 8, "lora_alpha": 8, "target_modules": ALL}, ("F32", "F32")),
    ("k2", "k2", "F32", {"r": 5, "lora_alpha": 8, "target_modules": ["embed_tokens", *ALL]}, None),
    ("k2dora", "k2", "F32", {"r": 4, "lora_alpha": 4, "use_dora": True, "target_modules": ["k_proj", "down_proj"]}, None),
    ("fp8", "fp8-small", "F32", {"r": 4, "lora_alpha": 8, "target_modules": ALL}, None),
]
# Bases that the unit tests of adapters/ build a table of modules for.
PLAIN = ("llama2", "llama3", "biased", "smollm2")
BASES = {"llama2": "llama2-f32", "llama3": "llama3-f16", "biased": "biased-f32", "smollm2": "smollm2-bf16",
         "phi3": "phi3-f16", "gemma2": "gemma2-bf16", "gemma3": "gemma3-bf16", "qwen3": "qwen3-f16",
         "granite": "granite-f16", "starcoder2": "starcoder2-f16",
         "k4": "../types/k4.gguf", "k2": "../types/k2.gguf", "fp8-small": "../types/fp8-tensor"}
# base, adapter (its directory where it has one), lengths of the prompts
CASES = [
    ("llama2-f32", "plain", [40, 20]), ("llama2-f32.gguf", "plain", [40]), ("llama2-f32", "all", [40, 20]),
    ("llama2-f32.gguf", "all", [40]), ("llama3-f16", "patterns", [40]), ("llama3-f16.gguf", "patterns", [20]),
    ("llama2-f32", "rslora", [36]), ("llama3-f16", "dora", [40]), ("llama3-f16.gguf", "dora", [20]),
    ("biased-f32", "layers", [36]), ("biased-f32", "bias", [36]), ("llama2-f32", "table", [36]),
    ("smollm2-bf16", "tied", [36]), ("llama3-f16", "regex", [36]), ("llama3-f16.gguf", "regex", [20]),
    ("smollm2-bf16.gguf", "blocks", [36]), ("phi3-f16", "fused", [40]), ("phi3-f16", "fuseddora", [36]),
    ("gemma2-bf16", "gemma2", [40]), ("gemma3-bf16", "gemma3", [40]), ("qwen3-f16", "qwen3", [36]),
    ("granite-f16", "granite", [36]), ("granite-f16.gguf", "granite", [36]), ("starcoder2-f16", "starcoder2", [36]),
    ("../types/k4.gguf", "k4", [36]), ("../types/k2.gguf", "k2", [36]), ("../types/k2.gguf", "k2dora", [36]),
    ("../types/fp8-tensor", "fp8", [36]),
]
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


# ---- bases ---------------------------------------------------------------------------------------


def read_gguf(path, config):
    names = {gguf_name(n, arch_of(config)): n for n in load_names(config)}
    state = {}
    for t in gguf.GGUFReader(path).tensors:
        name = names.get(t.name)
        if not name:
            continue
        a = gguf.quants.dequantize(t.data, t.tensor_type).reshape([int(n) for n in reversed(t.shape)]).astype(np.float32)
        heads = heads_of(config, name)
        a -= np.float32(plus_one(config) and name.endswith("norm.weight"))
        state[name] = torch.from_numpy(np.array(from_pairs(a, heads) if heads else a, np.float32))
    return state


def load_names(config):
    from transformers import AutoModelForCausalLM
    return AutoModelForCausalLM.from_config(config).state_dict().keys()


def shape_of(base):
    return next((shape for shape, b in BASES.items() if b == base), base.split("-")[0])


def kinds_of(base):
    """Type of the weights by site."""
    mixed = {f"../types/{name}.gguf": kinds for name, kinds in MIXED}
    if base in mixed:
        return dict(zip(SITES, mixed[base]))
    if "fp8" in base:
        return {site: "F8_E4M3" if site.endswith("_proj") else "BF16" for site in SITES}
    return {}


def kind_of(base, site):
    return kinds_of(base).get(site) or base.split("-")[1].split(".")[0].upper()


def open_base(models, base, attention="eager"):
    _, config = config_of(shape_of(base))
    config.stored_as = kind_of(base, "embed_tokens")
    path = f"{models}/{base}"
    if base.endswith(".gguf"):
        return config, load(config, read_gguf(path, config), attention)
    state = {}
    for file in sorted(os.listdir(path)):
        if file.endswith(".safetensors"):
            stored = {k: v.to(torch.float32) for k, v in load_file(f"{path}/{file}").items()}
            state.update({k: v * stored.get(f"{k}_scale", 1) for k, v in stored.items() if not k.endswith("_scale")})
    return config, load(config, state, attention)


# ---- adapters --------------------------------------------------------------------------------------


def lora_modules(model):
    for name, m in model.base_model.model.named_modules():
        if hasattr(m, "lora_embedding_A"):
            yield name, m


def draw(model, seed):
    """Updates of a good third of the weights: enough to see every mistake, not enough to drown the base."""
    g = torch.Generator().manual_seed(seed)

    def fill(p, std):
        p.data = torch.randn(p.shape, generator=g) * std

    for _, m in lora_modules(model):
        scale, r = m.scaling["default"], m.r["default"]
        if "default" in m.lora_embedding_A:
            fill(m.lora_embedding_A["default"], 0.4)
            fill(m.lora_embedding_B["default"], 1 / (scale * math.sqrt(r)))
            continue
        a, b = m.lora_A["default"], m.lora_B["default"]
        fill(a.weight, 1 / math.sqrt(a.in_features))
        fill(b.weight, 0.4 / (scale * math.sqrt(r)))
        if b.bias is not None:
            fill(b.bias, 0.2 / scale)
        if "default" in m.lora_magnitude_vector:
            w = m.lora_magnitude_vector["default"].weight
            w.data = w.data * (1 + 0.2 * torch.randn(w.shape, generator=g))


def tensors_of(m):
    """A (rank, inputs), B (outputs, rank), magnitude, bias of one module."""
    if "default" in m.lora_embedding_A:
        return m.lora_embedding_A["default"].data, m.lora_embedding_B["default"].data, None, None
    b = m.lora_B["default"]
    magnitude = m.lora_magnitude_vector["default"].weight.data if "default" in m.lora_magnitude_vector else None
    return m.lora_A["default"].weight.data, b.weight.data, magnitude, None if b.bias is None else b.bias.data


def write_gguf(path, model, config, types):
    """types: of A and of B. Puts what a reader decodes back into the model."""
    w = gguf.GGUFWriter(path, arch_of(config))
    w.add_type("adapter")
    w.add_string("adapter.type", "lora")
    modules = dict(lora_modules(model))
    scale, r = {(m.scaling["default"], m.r["default"]) for m in modules.values()}.pop()
    w.add_float32("adapter.lora.alpha", scale * r)
    for name, m in modules.items():
        heads = heads_of(config, name + ".weight")
        for t, suffix, kind in zip(tensors_of(m)[:2], ("lora_a", "lora_b"), types):
            a = t.numpy().astype(np.float32)
            if suffix == "lora_b" and heads:
                a = to_pairs(a, heads)
            turned = name.endswith("embed_tokens") and suffix == "lora_a"
            stored = np.ascontiguousarray(a.T if turned else a)
            if stored.shape[0] == 1:  # as programs over ggml write it
                stored = stored.reshape(-1)
            raw = gguf.quants.quantize(stored, TYPES[kind])
            w.add_tensor(f"{gguf_name(name + '.weight', arch_of(config))}.{suffix}", raw, raw_dtype=TYPES[kind])
            back = gguf.quants.dequantize(raw, TYPES[kind])
            back = back.T if turned else back.reshape(a.shape)
            if suffix == "lora_b" and heads:
                back = from_pairs(back, heads)
            t.copy_(torch.from_numpy(np.array(back, np.float32)))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def write_activated(path):
    """What is refused: weights that count only after certain tokens."""
    w = gguf.GGUFWriter(path, "llama")
    w.add_type("adapter")
    w.add_string("adapter.type", "lora")
    w.add_float32("adapter.lora.alpha", 1)
    w.add_array("adapter.alora.invocation_tokens", [1, 2])
    w.add_tensor("blk.0.attn_q.weight.lora_a", np.ones((1, 36), np.float32))
    w.add_tensor("blk.0.attn_q.weight.lora_b", np.ones((36, 1), np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    os.chmod(path, 0o644)


def sha(t, dtype):
    if t is None:
        return None
    t = t.contiguous()
    raw = t.to(torch.bfloat16).view(torch.int16).numpy() if dtype == "bf16" else t.to(torch.float32).numpy()
    return hashlib.sha256(raw.tobytes()).hexdigest()


def describe(model):
    out = []
    for name, m in lora_modules(model):
        a, b, magnitude, offset = tensors_of(m)
        out.append({"hf": name, "rank": m.r["default"], "scale": float(np.float32(m.scaling["default"])),
                    "a": sha(a, "bf16"), "b": sha(b, "bf16"), "magnitude": sha(magnitude, "f32"),
                    "offset": sha(offset, "f32")})
    return out


def save(model, path, dtype, base):
    model.save_pretrained(path)
    for file in os.listdir(path):
        if file not in ("adapter_config.json", "adapter_model.safetensors"):
            os.remove(f"{path}/{file}")
    file = f"{path}/adapter_model.safetensors"
    save_file({k: v.to(DTYPES[dtype]).contiguous() for k, v in load_file(file).items()}, file, metadata={"format": "pt"})
    with open(f"{path}/adapter_config.json") as f:
        doc = json.load(f)
    doc["base_model_name_or_path"] = f"tests/{base}"
    for key in ("target_modules", "exclude_modules"):
        if isinstance(doc[key], list):
            doc[key].sort()
    with open(f"{path}/adapter_config.json", "w") as f:
        json.dump(doc, f, indent=1)
    for file in os.listdir(path):
        os.chmod(f"{path}/{file}", 0o644)


def make(models, out, i, spec):
    name, shape, dtype, settings, types = spec
    base = BASES[shape]
    config, model = open_base(models, base)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))
    draw(model, 700 + i)
    made = []
    if name != "blocks":
        save(model, f"{out}/{name}", dtype, base)
        loaded = PeftModel.from_pretrained(open_base(models, base)[1], f"{out}/{name}").eval()
        made.append({"file": name, "base": shape, "modules": describe(loaded)})
        model = loaded
    if types:
        write_gguf(f"{out}/{name}.gguf", model, config, types)
        os.chmod(f"{out}/{name}.gguf", 0o644)
        made.append({"file": f"{name}.gguf", "base": shape, "modules": describe(model)})
        if name == "blocks":
            torch.save({n: tensors_of(m)[:2] for n, m in lora_modules(model)}, f"{out}/blocks.pt")
    return made if shape in PLAIN else []


# ---- scores -----------------------------------------------------------------------------------------


def score(model, ids, n_text):
    lp = log_probs(model, ids, n_text)
    return [round(lp[i, ids[i + 1]].item(), 5) for i in range(len(ids) - 1)], lp


def round_adapter(model):
    for _, m in lora_modules(model):
        for t in tensors_of(m)[:2]:
            t.copy_(bf16(t))


def round_all(model, base):
    """What Lodge declares: inputs of the base's linears by their type, of A to bf16."""
    for name, m in model.named_modules():
        if isinstance(m, torch.nn.Linear) and ".lora_" not in name:
            site = name.removesuffix(".base_layer").split(".")[-1]
            m.register_forward_pre_hook(lambda _, args, r=rounding(kind_of(base, site)): (r(args[0]),))
        if name.endswith("lora_A.default"):
            m.register_forward_pre_hook(lambda _, args: (bf16(args[0]),))


def with_adapter(models, out, base, name, attention="eager"):
    model = open_base(models, base, attention)[1]
    if name != "blocks":
        return PeftModel.from_pretrained(model, f"{out}/{name}").eval()
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **next(a for a in ADAPTERS if a[0] == name)[3])).eval()
    stored = torch.load(f"{out}/blocks.pt")
    for n, m in lora_modules(model):
        for t, s in zip(tensors_of(m)[:2], stored[n]):
            t.copy_(s)
    return model


def make_case(models, out, i, spec):
    base, name, lengths = spec
    config, plain = open_base(models, base)
    n_text = min(config.vocab_size, len(VOCAB))
    model = with_adapter(models, out, base, name)
    int8 = {"int8": True} if int8_blocks in map(rounding, kinds_of(base).values()) else {}
    case = {"model": base, "adapter": name, **int8, "prompts": []}
    for k, length in enumerate(lengths):
        ids = [int(x) for x in np.random.default_rng([800 + i, k]).integers(0, n_text, length)]
        case["prompts"].append({"ids": ids, "base": score(plain, ids, n_text)[0], "fp32": score(model, ids, n_text)[0]})
    round_adapter(model)
    moved, rounded = [], []
    for p in case["prompts"]:
        p["bf16"], lp = score(model, p["ids"], n_text)
        top = torch.topk(lp, 3)
        p["best"] = [int(x) for x in top.indices[:, 0]]
        p["margin"] = [round(float(x), 3) for x in top.values[:, 0] - top.values[:, 1]]
        p["top"] = [[[int(t), round(float(v), 4)] for t, v in zip(a, b)] for a, b in zip(top.indices, top.values)]
        moved += [abs(a - b) for a, b in zip(p["base"], p["bf16"])]
        rounded += [abs(a - b) for a, b in zip(p["fp32"], p["bf16"])]
    model = with_adapter(models, out, base, name, "declared")
    round_adapter(model)
    round_all(model, base)
    for p in case["prompts"]:
        p["declared"] = score(model, p["ids"], n_text)[0]
    print(f"{base:21} {name:10} moves log-probabilities by {np.mean(moved):.3f}, its rounding by {np.mean(rounded):.5f}")
    assert np.mean(moved) > 0.2, "an adapter that does nothing tests nothing"
    return case


# ---- which modules a configuration means ----------------------------------------------------------

WRAPPED = "model.language_model."
MATCHING = [
    {"target_modules": ["q_proj"]}, {"target_modules": ["proj"]}, {"target_modules": ["self_attn.v_proj", "lm_head"]},
    {"target_modules": ["model.layers.1.mlp.up_proj", "o_proj"]}, {"target_modules": "q_proj"},
    {"target_modules": ".*q_proj"}, {"target_modules": ".*(q|v)_proj$"}, {"target_modules": "model.layers.1.mlp.up_proj"},
    {"target_modules": r"(?:.*?(?:language|text).*?(?:self_attn|mlp).*?(?:k_proj|up_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|mlp)\.(?:(?:q_proj|down_proj)))"},
    {"target_modules": ".*", "exclude_modules": ".*mlp.*"}, {"target_modules": ["q_proj", "up_proj"], "exclude_modules": ["0.mlp.up_proj"]},
    {"target_modules": ["q_proj", "k_proj"], "exclude_modules": ["k_proj"]},
    {"target_modules": ["q_proj"], "layers_to_transform": 1}, {"target_modules": ["q_proj"], "layers_to_transform": [0, 11]},
    {"target_modules": ["q_proj", "lm_head"], "layers_to_transform": [1]},
    {"target_modules": ["model.layers.0.self_attn.q_proj", "v_proj"], "layers_to_transform": [1]},
    {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": "layers"},
    {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": ["h", "lay.rs"]},
    {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": "h"},
    {"target_modules": ".*", "rank_pattern": {"q_proj": 4, "layers.1.self_attn.q_proj": 5, "self_attn.[kv]_proj": 6}},
    {"target_modules": ".*", "rank_pattern": {"layers.1.self_attn.q_proj": 5, "q_proj": 4}, "alpha_pattern": {".*mlp.*": 3, "proj": 9}},
    {"target_modules": ".*", "rank_pattern": {"^model.layers.0.self_attn.q_proj": 4, "^layers.0.self_attn.k_proj": 7}},
    {"target_modules": ".*", "alpha_pattern": {"mlp.up_proj|self_attn.v_proj": 2.5, "up_prox": 4, "model.layers.1.mlp.down.proj": 5}},
    {"target_modules": ".*", "alpha_pattern": {"(?!model).*head": 2, r"model\.layers\.\d{2}\.mlp\.(gate|up)_proj": 3}},
]


def matching():
    names = ["model.embed_tokens", "lm_head", "head", "model.layers.1.experts.0.q_proj", "layers.1.q_proj"]
    for layer in (0, 1, 11):
        for m in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj"):
            names += [f"model.layers.{layer}.{m}", f"{WRAPPED}layers.{layer}.{m}"]
    out = []
    for settings in MATCHING:
        config = LoraConfig(**settings)
        hits, ranks, alphas = [], [], []
        for n in names:
            hit = check_target_module_exists(config, n)
            hits.append(bool(hit) and type(hit).__name__ != "_ExcludedModule")
            ranks.append(config.rank_pattern.get(get_pattern_key(config.rank_pattern.keys(), n), config.r))
            alphas.append(config.alpha_pattern.get(get_pattern_key(config.alpha_pattern.keys(), n), config.lora_alpha))
        out.append({"config": {"peft_type": "LORA", **settings}, "hits": hits, "ranks": ranks, "alphas": alphas})
    return names, out


def shapes():
    out = {}
    for shape in PLAIN:
        _, c = config_of(shape)
        out[shape] = {"d_model": c.hidden_size, "d_ff": c.intermediate_size, "n_layers": c.num_hidden_layers,
                      "n_heads": c.num_attention_heads, "n_kv_heads": c.num_key_value_heads, "head_dim": c.head_dim,
                      "n_vocab": c.vocab_size, "tied": c.tie_word_embeddings}
    return out


def main():
    models, out = sys.argv[1:]
    torch.set_num_threads(2)
    torch.set_grad_enabled(False)
    shutil.rmtree(out, ignore_errors=True)
    os.makedirs(out)
    adapters = [m for i, spec in enumerate(ADAPTERS) for m in make(models, out, i, spec)]
    cases = [make_case(models, out, i, spec) for i, spec in enumerate(CASES)]
    os.remove(f"{out}/blocks.pt")
    write_activated(f"{out}/activated.gguf")

    def lines(items):
        return ",\n".join(json.dumps(x, separators=(",", ":")) for x in items)

    names, matches = matching()
    with open(f"{out}/golden.json", "w") as f:
        f.write(f'{{"shapes": {json.dumps(shapes())},\n"names": {json.dumps(names)},\n"matching": [\n{lines(matches)}\n],\n"adapters": [\n{lines(adapters)}\n],\n"cases": [\n{lines(cases)}\n]}}\n')


if __name__ == "__main__":
    main()
