"""Tiny seeded models whose matrices have every weight type beyond those of make_models.py, mixed inside a file.

    python tests/golden/make_types.py tests/data/types

needs what make_models.py needs. Blocks come from quantize.py and are read back by the gguf package; FP8 comes from
torch. golden.json is as make_models.py describes it; the declared oracle rounds the inputs of each matrix as its own
type wants them.
"""
import json
import os
import shutil
import sys

import gguf
import numpy as np
import torch
from safetensors.torch import save_file

from make_models import (BASE, SHAPES, config_of, draw, gguf_metadata, gguf_name, score, stable_prompt, tops,
                         write_tokenizer)
from oracles import from_pairs, load, rounding, to_pairs
from quantize import quantize

NARROW = {"hidden_size": 256, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32,
          "intermediate_size": 64, "num_hidden_layers": 1, "tie_word_embeddings": True}
SHAPES.update({"k4": NARROW, "k2": NARROW, "old": {"hidden_size": 64, "intermediate_size": 96},
               # blocks of 128 that are not whole; and a model less wide than one
               "fp8": {"hidden_size": 160, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 36,
                       "intermediate_size": 136, "num_hidden_layers": 1, "tie_word_embeddings": True},
               "fp8-small": {"hidden_size": 60, "num_attention_heads": 3, "num_key_value_heads": 1,
                             "num_hidden_layers": 1, "tie_word_embeddings": True}})
SITES = ["embed_tokens", "lm_head", "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
# types in the order of SITES
GGUF = [("k4", ["Q6_K", "Q6_K", "Q4_K", "Q5_K", "Q6_K", "Q5_0", "Q4_K", "Q5_K", "Q5_1"]),
        ("k2", ["Q4_K", "Q4_K", "Q3_K", "Q2_K", "IQ4_XS", "IQ4_NL", "Q2_K", "Q3_K", "MXFP4"]),
        ("old", ["Q5_1", "Q5_0", "IQ4_NL", "MXFP4", "F16", "Q5_0", "BF16", "Q4_1", "Q5_1"])]
FP8_MAX = 448.0
BLOCK_CONFIG = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}


def compressed(strategy):
    weights = {"num_bits": 8, "type": "float", "strategy": strategy, "symmetric": True, "dynamic": False}
    return {"quant_method": "compressed-tensors", "format": "float-quantized", "ignore": ["lm_head"],
            "config_groups": {"group_0": {"weights": weights, "targets": ["Linear"]}}}


# name, shape, quantization_config, rows and columns of a scale, suffix and type of the scales
FP8 = [("fp8-block", "fp8", BLOCK_CONFIG, (128, 128), "weight_scale_inv", torch.float32),
       ("fp8-channel", "fp8-small", compressed("channel"), (1, 1 << 20), "weight_scale", torch.bfloat16),
       ("fp8-tensor", "fp8-small", compressed("tensor"), (1 << 20, 1 << 20), "weight_scale", torch.float32)]


def site_of(name):
    return name.split(".")[-2]


def write_gguf(path, config, state, kinds):
    w = gguf.GGUFWriter(path, "llama")
    gguf_metadata(w, config, [])
    decoded = {}
    for name, t in state.items():
        a = t.numpy().astype(np.float32)
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(site_of(name))
        a = to_pairs(a, heads) if heads else a
        kind = gguf.GGMLQuantizationType["F32" if a.ndim == 1 else kinds[site_of(name)]]
        raw = a if a.ndim == 1 else quantize(a, kind.name)
        w.add_tensor(gguf_name(name), raw, raw_dtype=kind)
        back = gguf.quants.dequantize(raw, kind).reshape(a.shape)
        decoded[name] = torch.from_numpy(np.array(from_pairs(back, heads) if heads else back, np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return decoded


def fp8(t, rows, cols, scale_type):
    """Codes, scales and what both mean."""
    n, k = (-(-t.shape[0] // rows), -(-t.shape[1] // cols))
    scales = torch.empty(n, k)
    wide = torch.empty_like(t)
    for i in range(n):
        for j in range(k):
            part = t[i * rows:(i + 1) * rows, j * cols:(j + 1) * cols]
            scales[i, j] = part.abs().max() / FP8_MAX
    scales = scales.to(scale_type)
    for i in range(n):
        for j in range(k):
            at = slice(i * rows, (i + 1) * rows), slice(j * cols, (j + 1) * cols)
            wide[at] = scales[i, j].float()
    codes = (t / wide).clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn)
    return codes, scales, codes.float() * wide


def write_fp8(path, doc, state, quantization, share, suffix, scale_type):
    os.makedirs(path)
    stored, decoded = {}, {}
    for name, t in state.items():
        if not name.endswith("_proj.weight"):
            stored[name] = t.to(torch.bfloat16).contiguous()
            decoded[name] = stored[name].float()
            continue
        codes, scales, decoded[name] = fp8(t, *share, scale_type)
        stored[name] = codes.contiguous()
        # one scale of a tensor has no shape in some checkpoints
        stored[name.replace("weight", suffix)] = scales.reshape(()) if scales.numel() == 1 else scales.contiguous()
    with open(f"{path}/config.json", "w") as f:
        json.dump({**doc, "torch_dtype": "bfloat16", "quantization_config": quantization}, f, indent=1)
    save_file(stored, f"{path}/model.safetensors", metadata={"format": "pt"})
    write_tokenizer(f"{path}/tokenizer.json")
    for file in os.listdir(path):
        os.chmod(f"{path}/{file}", 0o644)
    return decoded


def make_case(name, config, state, kinds, seed):
    exact, rounded = load(config, state, "eager"), load(config, state, "declared")
    for module, m in rounded.named_modules():
        if isinstance(m, torch.nn.Linear):
            m.register_forward_pre_hook(lambda _, args, r=rounding(kinds[module.split(".")[-1]]): (r(args[0]),))
    case = {"model": name, "types": [kinds["q_proj"], kinds["lm_head"]], "max_model_len": 128, "prompts": []}
    far = []
    for k, length in enumerate((48, 33)):
        ids, out, out_margins = stable_prompt(rounded, length, config.vocab_size, 8, 10 * seed + k)
        fp32, declared = score(exact, ids, config.vocab_size), score(rounded, ids, config.vocab_size)
        best, margins = tops(exact, ids, config.vocab_size)
        far += [abs(a - b) for a, b in zip(fp32, declared)]
        case["prompts"].append({"ids": ids, "fp32": [round(x, 5) for x in fp32],
                                "declared": [round(x, 5) for x in declared], "best": best, "margin": margins,
                                "greedy": out, "greedy_margin": out_margins})
    print(f"{name:16} roundings move log-probabilities by {np.mean(far):.5f} (max {np.max(far):.4f})")
    return case


def main():
    out = sys.argv[1]
    torch.set_num_threads(2)
    shutil.rmtree(out, ignore_errors=True)
    os.makedirs(out)
    cases = []
    for i, (shape, kinds) in enumerate(GGUF):
        _, config = config_of(shape)
        kinds = dict(zip(SITES, kinds))
        state = write_gguf(f"{out}/{shape}.gguf", config, draw(config, 400 + i), kinds)
        cases.append(make_case(f"{shape}.gguf", config, state, kinds, 400 + i))
    for i, (name, shape, quantization, share, suffix, scale_type) in enumerate(FP8):
        doc, config = config_of(shape)
        kinds = {site: "F8_E4M3" if site.endswith("_proj") else "BF16" for site in SITES}
        state = write_fp8(f"{out}/{name}", doc, draw(config, 310 + i), quantization, share, suffix, scale_type)
        cases.append(make_case(name, config, state, kinds, 310 + i))
    with open(f"{out}/golden.json", "w") as f:
        f.write('{"cases": [\n' + ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases) + "\n]}\n")


if __name__ == "__main__":
    assert BASE["vocab_size"] == 259
    main()
