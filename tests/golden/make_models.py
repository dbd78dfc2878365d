"""Tiny seeded models, as Hugging Face directories and GGUF files, and what transformers makes of them.

    python tests/golden/make_models.py tests/data/models [SHAPE...]

makes all models, or those of some shapes; needs torch, transformers, safetensors, gguf and numpy. Every model has fewer than 50,000 weights,
drawn from a fixed seed. golden.json holds, for every prompt, the log-probability of each token given
the ones before it, by two oracles that transformers runs on the stored weights (GGUF blocks decoded
by the gguf package):

    fp32      everything in fp32
    declared  the same with the roundings that kernels/cpu/kernels.h declares for each
              format: inputs of linears to bf16 (BF16 weights) or to int8 blocks of 32
              (Q8_0, Q4_0, Q4_1); queries, keys, values and softmax numerators to bf16

and the greedy continuation of the declared oracle with its margins. Prompts are chosen so that
rounding does not amplify noise of 1e-7. tests/engine/golden_models.c compares.
"""
import json
import math
import os
import shutil
import sys

import gguf
import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from oracles import TYPES, from_pairs, load, log_probs, round_inputs, stable, to_pairs

TORCH = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


# ---- weights -----------------------------------------------------------------------------------


def plus_one(config):
    """Whether norms multiply by w + 1."""
    return config.model_type.startswith("gemma")


def draw(config, seed):
    """Random weights that make attention and logits lively: a test on flat logits tests nothing."""
    g = torch.Generator().manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    state = {}
    for name, p in model.state_dict().items():
        if name.endswith("norm.weight"):
            state[name] = 1 + 0.2 * torch.randn(p.shape, generator=g)
            if name.endswith(("q_norm.weight", "k_norm.weight")):
                state[name] *= 1.5
            if plus_one(config):
                state[name] -= 1
        elif name.endswith(".bias"):
            state[name] = 0.3 * torch.randn(p.shape, generator=g)
        else:
            gain = 1.8 if "q_proj" in name or "qkv_proj" in name or "lm_head" in name else 1.0
            if "embed_tokens" in name:
                gain = 1.8 if config.tie_word_embeddings else math.sqrt(p.shape[1])
            state[name] = torch.randn(p.shape, generator=g) * gain / math.sqrt(p.shape[1])
    if config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    return state


def alphabet():
    keep = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    other = [b for b in range(256) if b not in keep]
    return [chr(b) if b in keep else chr(256 + other.index(b)) for b in range(256)]


SPECIAL = ["<|begin|>", "<|end_of_text|>", "<|pad|>"]
VOCAB = alphabet() + SPECIAL


def write_tokenizer(path):
    added = [{"id": 256 + i, "content": s, "single_word": False, "lstrip": False, "rstrip": False,
              "normalized": False, "special": True} for i, s in enumerate(SPECIAL)]
    doc = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
           "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
           "post_processor": None,
           "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
           "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                     "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                     "vocab": {t: i for i, t in enumerate(VOCAB[:256])}, "merges": []}}
    with open(path, "w") as f:
        json.dump(doc, f, ensure_ascii=False, separators=(",", ":"))


def with_vision(doc, stored):
    """As a model with other parts: the text's configuration and names one level down, and what is not its own."""
    doc = {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "eos_token_id": [257],
           "text_config": {k: v for k, v in doc.items() if k not in ("architectures", "vision")},
           "vision_config": {"hidden_size": 8, "num_hidden_layers": 1}}
    stored = {k.replace("model.", "model.language_model.", 1): v for k, v in stored.items()}
    stored["model.vision_tower.vision_model.embeddings.patch_embedding.weight"] = torch.zeros(4, 3, 2, 2)
    stored["model.multi_modal_projector.mm_input_projection_weight"] = torch.zeros(4, 4)
    return doc, stored


def write_hf(path, doc, state, dtype, shards):
    os.makedirs(path)
    stored = {k: v.to(TORCH[dtype]).contiguous() for k, v in state.items()}
    back = {k: v.to(torch.float32) for k, v in stored.items()}
    if "vision" in doc:
        doc, stored = with_vision(doc, stored)
    with open(f"{path}/config.json", "w") as f:
        json.dump({**doc, "torch_dtype": {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[dtype]}, f, indent=1)
    names = sorted(stored)
    if shards == 1:
        save_file(stored, f"{path}/model.safetensors", metadata={"format": "pt"})
    else:
        weight_map = {}
        for s in range(shards):
            file = f"model-{s + 1:05}-of-{shards:05}.safetensors"
            part = {n: stored[n] for n in names[s::shards]}
            save_file(part, f"{path}/{file}", metadata={"format": "pt"})
            weight_map.update({n: file for n in part})
        with open(f"{path}/model.safetensors.index.json", "w") as f:
            json.dump({"metadata": {"total_size": sum(t.nbytes for t in stored.values())},
                       "weight_map": weight_map}, f)
    write_tokenizer(f"{path}/tokenizer.json")
    for file in os.listdir(path):
        os.chmod(f"{path}/{file}", 0o644)
    return back


# ---- GGUF ----------------------------------------------------------------------------------------

ARCH = {"mistral": "llama", "gemma3_text": "gemma3"}
PAIRED = ("llama", "granite")


def arch_of(config):
    return ARCH.get(config.model_type, config.model_type)


def heads_of(config, name):
    """Heads whose rows of q or k a converter turns into pairs, or None."""
    if arch_of(config) in PAIRED:
        return {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])


def gguf_name(name, arch="llama"):
    """By the tables of the gguf package."""
    number = next(k for k, v in gguf.MODEL_ARCH_NAMES.items() if v == arch)
    return gguf.get_tensor_name_map(number, 100).get_name(name, (".weight", ".bias"))


def gguf_metadata(w, config, extra):
    rope = config.rope_parameters.get("full_attention", config.rope_parameters)
    w.add_context_length(config.max_position_embeddings)
    w.add_embedding_length(config.hidden_size)
    w.add_block_count(config.num_hidden_layers)
    w.add_feed_forward_length(config.intermediate_size)
    w.add_head_count(config.num_attention_heads)
    w.add_head_count_kv(config.num_key_value_heads)
    if hasattr(config, "rms_norm_eps"):
        w.add_layer_norm_rms_eps(config.rms_norm_eps)
    else:
        w.add_layer_norm_eps(config.norm_epsilon)
    w.add_rope_dimension_count(int(config.head_dim * rope.get("partial_rotary_factor", 1)))
    w.add_rope_freq_base(rope["rope_theta"])
    w.add_vocab_size(config.vocab_size)
    if config.head_dim * config.num_attention_heads != config.hidden_size:
        w.add_key_length(config.head_dim)
        w.add_value_length(config.head_dim)
    family_metadata(w, config, rope)
    for add, value in extra:
        getattr(w, add)(value)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("gpt-2")
    w.add_token_list(VOCAB)
    w.add_token_types([1] * 256 + [3] * len(SPECIAL))
    w.add_token_merges(["a b"] if "ab" in VOCAB else [])
    w.add_eos_token_id(257)


def family_metadata(w, config, rope):
    """What llama.cpp's converters write for families that are not Llama's."""
    if plus_one(config):
        w.add_sliding_window(config.sliding_window)
        for add, cap in (("add_attn_logit_softcapping", config.attn_logit_softcapping),
                         ("add_final_logit_softcapping", config.final_logit_softcapping)):
            if cap:
                getattr(w, add)(cap)
        if rope["rope_type"] == "linear":
            w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            w.add_rope_scaling_factor(rope["factor"])
    elif config.model_type == "phi3":
        w.add_sliding_window(config.sliding_window or 0)
        l0 = rope["original_max_position_embeddings"]
        w.add_rope_scaling_orig_ctx_len(l0)
        w.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(config.max_position_embeddings / l0) / math.log(l0)))
        for kind in ("long", "short"):
            w.add_tensor(f"rope_factors_{kind}.weight", np.array(rope[f"{kind}_factor"], np.float32))
    elif config.model_type == "granite":
        w.add_attention_scale(config.attention_multiplier)
        w.add_embedding_scale(config.embedding_multiplier)
        w.add_residual_scale(config.residual_multiplier)
        w.add_logit_scale(config.logits_scaling)


def write_gguf(path, config, state, types, extra, freqs):
    """types: type of the linears, type of the embedding. Returns what a reader decodes."""
    arch = arch_of(config)
    w = gguf.GGUFWriter(path, arch)
    gguf_metadata(w, config, extra)
    if freqs is not None:
        w.add_tensor("rope_freqs.weight", freqs.astype(np.float32))
    decoded, fused = {}, {}
    for name, t in state.items():
        a = t.numpy().astype(np.float32)
        heads = heads_of(config, name)
        shift = np.float32(plus_one(config) and name.endswith("norm.weight"))
        if heads:
            a = to_pairs(a, heads)
        kind = "F32" if a.ndim == 1 else types[1] if "embed" in name or "lm_head" in name else types[0]
        raw = gguf.quants.quantize(a + shift, TYPES[kind])
        if getattr(config, "fuse_qkv", False) and name.split(".")[-2] in ("q_proj", "k_proj", "v_proj"):
            fused.setdefault(gguf_name(name, arch).replace("attn_" + name.split(".")[-2][0], "attn_qkv"), []).append((raw, kind))
        else:
            w.add_tensor(gguf_name(name, arch), raw, raw_dtype=TYPES[kind])
        back = gguf.quants.dequantize(raw, TYPES[kind]).reshape(a.shape) - shift
        decoded[name] = torch.from_numpy(np.array(from_pairs(back, heads) if heads else back, np.float32))
    for name, parts in fused.items():  # in the order q, k, v
        w.add_tensor(name, np.concatenate([raw for raw, _ in parts]), raw_dtype=TYPES[parts[0][1]])
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return decoded


# ---- scores -----------------------------------------------------------------------------------------


def score(model, ids, n_text):
    lp = log_probs(model, ids, n_text)
    return [lp[i, ids[i + 1]].item() for i in range(len(ids) - 1)]


def greedy(model, ids, n_text, n):
    out, margins, ids = [], [], list(ids)
    for _ in range(n):
        top = torch.topk(log_probs(model, ids, n_text)[-1], 2)
        out.append(top.indices[0].item())
        margins.append(round((top.values[0] - top.values[1]).item(), 3))
        ids.append(out[-1])
    return out, margins


def tops(model, ids, n_text):
    """Best next token and its margin at every position."""
    top = torch.topk(log_probs(model, ids, n_text), 2)
    return ([int(x) for x in top.indices[:, 0]],
            [round(float(x), 3) for x in top.values[:, 0] - top.values[:, 1]])


def stable_prompt(model, length, n_text, n_greedy, seed):
    """A prompt whose scores, and those of its continuation, do not hang on such an edge."""
    for attempt in range(400):
        ids = [int(x) for x in np.random.default_rng([seed, attempt]).integers(0, n_text, length)]
        if stable(model, ids, n_text):
            out, margins = greedy(model, ids, n_text, n_greedy)
            if stable(model, ids + out, n_text):
                return ids, out, margins
    raise SystemExit("no stable prompt found")


def make_case(name, config, state, types, lengths, n_greedy, seed, context):
    n_text = min(config.vocab_size, len(VOCAB))
    exact, rounded = load(config, state, "eager"), load(config, state, "declared")
    round_inputs(rounded, types)
    case = {"model": name, "types": types, "max_model_len": context, "prompts": []}
    far = []
    for k, length in enumerate(lengths):
        ids, out, out_margins = stable_prompt(rounded, length, n_text, n_greedy, 10 * seed + k)
        fp32, declared = score(exact, ids, n_text), score(rounded, ids, n_text)
        best, margins = tops(exact, ids, n_text)
        far += [abs(a - b) for a, b in zip(fp32, declared)]
        case["prompts"].append({"ids": ids, "fp32": [round(x, 5) for x in fp32],
                                "declared": [round(x, 5) for x in declared], "best": best, "margin": margins,
                                "greedy": out, "greedy_margin": out_margins})
    print(f"{name:24} {str(types):18} roundings move log-probabilities by {np.mean(far):.5f} (max {np.max(far):.4f})")
    return case


# ---- the models --------------------------------------------------------------------------------------

BASE = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": 64,
        "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
        "max_position_embeddings": 256, "vocab_size": 259, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "tie_word_embeddings": False, "bos_token_id": 256, "eos_token_id": 257}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 24}


def ramp(n, a, b):
    return [round(a + (b - a) * i / (n - 1), 3) for i in range(n)]


SHAPES = {
    # heads of 12, rows of 36 and 72: nothing is a multiple of 32
    "llama2": {"hidden_size": 36, "num_attention_heads": 3, "num_key_value_heads": 3, "intermediate_size": 72, "rms_norm_eps": 1e-6},
    # three heads share a key head; heads of 20
    "llama3": {"hidden_size": 60, "num_attention_heads": 3, "num_key_value_heads": 1, "rope_theta": 500000.0,
               "rope_scaling": LLAMA3, "vocab_size": 261},
    "smollm2": {"num_key_value_heads": 1, "tie_word_embeddings": True, "rope_theta": 100000.0},
    # heads wider than hidden / heads, and a window shorter than the prompts
    "mistral": {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "num_attention_heads": 2,
                "num_key_value_heads": 1, "head_dim": 40, "sliding_window": 24, "hidden_size": 36, "intermediate_size": 60},
    # biases everywhere, more rows than the tokenizer has tokens, scaling in the old spelling
    "biased": {"attention_bias": True, "mlp_bias": True, "num_hidden_layers": 3, "hidden_size": 32,
               "intermediate_size": 40, "vocab_size": 300, "rope_scaling": {"type": "linear", "factor": 4.0}},
    "wide": {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 128, "hidden_size": 32,
             "intermediate_size": 64, "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "beta_fast": 16.0,
                                                       "truncate": False, "mscale": 0.7, "mscale_all_dim": 1.0,
                                                       "original_max_position_embeddings": 64}},
    "dynamic": {"hidden_size": 32, "intermediate_size": 64, "num_key_value_heads": 2, "num_attention_heads": 2,
                "max_position_embeddings": 32, "tie_word_embeddings": True,
                "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
    # parameters in the new spelling
    "longrope": {"hidden_size": 40, "intermediate_size": 48, "num_attention_heads": 5, "num_key_value_heads": 5,
                 "head_dim": 8, "tie_word_embeddings": True,
                 "rope_theta": None, "original_max_position_embeddings": 32,
                 "rope_parameters": {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": ramp(4, 1, 1.5),
                                     "long_factor": ramp(4, 1, 8), "original_max_position_embeddings": 32}},
    "pairs": {"num_attention_heads": 4, "num_key_value_heads": 2},
    "tied": {"num_attention_heads": 4, "num_key_value_heads": 1, "tie_word_embeddings": True, "vocab_size": 257,
             "rope_scaling": {"rope_type": "linear", "factor": 2.5}},
    "yarn": {"attention_bias": True, "num_attention_heads": 2, "num_key_value_heads": 1,
             "rope_scaling": {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 32}},
}
SMALL = {"hidden_size": 32, "intermediate_size": 40, "num_attention_heads": 4, "num_key_value_heads": 2}
GEMMA = {**SMALL, "hidden_size": 40, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "hidden_act": None,
         "hidden_activation": "gelu_pytorch_tanh", "rms_norm_eps": 1e-6, "sliding_window": 20,
         "query_pre_attn_scalar": 16, "tie_word_embeddings": None}
GEMMA3 = {**GEMMA, "hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2,
          "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 12,
          "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text"}
PHI3 = {**SMALL, "architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "pad_token_id": 258, "num_attention_heads": 2,
        "num_key_value_heads": 1, "partial_rotary_factor": 0.75, "original_max_position_embeddings": 32,
        "sliding_window": 26, "tie_word_embeddings": True,
        "rope_scaling": {"type": "longrope", "short_factor": ramp(6, 1, 1.5), "long_factor": ramp(6, 1, 8)}}
STARCODER2 = {**SMALL, "architectures": ["Starcoder2ForCausalLM"], "model_type": "starcoder2",
              "hidden_act": "gelu_pytorch_tanh", "rms_norm_eps": None, "norm_epsilon": 1e-5, "use_bias": True,
              "tie_word_embeddings": None}
SHAPES |= {
    # biases that no key announces; the last layer has a window
    "qwen2": {**SMALL, "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "num_hidden_layers": 3,
              "use_sliding_window": True, "sliding_window": 20, "max_window_layers": 2},
    # a window that is switched off
    "qwen2off": {**SMALL, "intermediate_size": 64, "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "use_sliding_window": False,
                 "sliding_window": 8, "max_window_layers": 0, "tie_word_embeddings": True, "rope_theta": 1e6},
    "qwen3": {**SMALL, "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "num_attention_heads": 3,
              "num_key_value_heads": 1, "head_dim": 24, "rms_norm_eps": 1e-6, "tie_word_embeddings": True},
    "qwen3wide": {**SMALL, "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "num_attention_heads": 2,
                  "head_dim": 32, "attention_bias": True, "intermediate_size": 32},
    # caps that bite, a query scalar that is not the size of a head
    "gemma2": {**GEMMA, "architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "num_hidden_layers": 3,
               "query_pre_attn_scalar": 10, "attn_logit_softcapping": 1.5, "final_logit_softcapping": 4.0},
    "gemma2gguf": {**GEMMA, "architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "num_hidden_layers": 3,
                   "attn_logit_softcapping": 1.25, "final_logit_softcapping": 3.0},
    # the old spelling: a pattern, and a base beside a scaled one
    "gemma3": {**GEMMA3, "num_hidden_layers": 4, "sliding_window_pattern": 3, "rope_theta": 1e5,
               "rope_local_base_freq": 1000.0, "rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    # the new one, inside a model with other parts; layers in an order of their own
    "gemma3vision": {**GEMMA3, "num_hidden_layers": 3, "rope_theta": None, "vision": True,
                     "layer_types": ["full_attention", "sliding_attention", "full_attention"],
                     "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                                         "sliding_attention": {"rope_type": "default", "rope_theta": 500.0}}},
    # every sixth layer sees everything
    "gemma3gguf": {**GEMMA3, "num_hidden_layers": 7, "rope_theta": 1e6, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
    "phi3": PHI3,
    "phi3gguf": {**PHI3, "intermediate_size": 64, "sliding_window": None, "tie_word_embeddings": False},
    "granite": {**SMALL, "architectures": ["GraniteForCausalLM"], "model_type": "granite", "attention_bias": True,
                "mlp_bias": True, "tie_word_embeddings": True, "embedding_multiplier": 5.0, "attention_multiplier": 0.6,
                "residual_multiplier": 0.7, "logits_scaling": 0.6},
    # as converters may write any family: q, k and v in one tensor, rows of q and k as pairs, biases too
    "fused": {**SMALL, "intermediate_size": 64, "attention_bias": True, "fuse_qkv": True},
    "olmo2": {**SMALL, "architectures": ["Olmo2ForCausalLM"], "model_type": "olmo2", "rope_theta": 500000.0},
    "starcoder2": {**STARCODER2, "sliding_window": 22},
    "starcoder2gguf": STARCODER2,
}
# shape, stored as, shards, prompt lengths, greedy tokens, context
HF = [("llama2", "F32", 1, [70, 33], 12, 160), ("llama3", "F16", 2, [64, 40], 12, 160),
      ("smollm2", "BF16", 1, [96, 41], 12, 160), ("mistral", "BF16", 1, [90, 25], 12, 160),
      ("biased", "F32", 1, [50, 45], 12, 160), ("wide", "F16", 3, [70, 40], 12, 160),
      ("dynamic", "F32", 1, [60, 60], 0, 60), ("longrope", "F32", 1, [60, 40], 12, 0),
      ("longrope", "F32", 1, [30, 20], 0, 32),
      ("qwen2", "BF16", 1, [60, 24], 8, 160), ("qwen2off", "F16", 1, [40], 8, 160), ("qwen3", "F16", 1, [50], 8, 160),
      ("gemma2", "BF16", 1, [60, 30], 8, 160), ("gemma3", "BF16", 1, [60, 30], 8, 160),
      ("gemma3vision", "BF16", 1, [50], 8, 160), ("phi3", "F16", 1, [60, 40], 8, 0), ("phi3", "F16", 1, [31], 0, 32),
      ("granite", "F16", 1, [50], 8, 160), ("olmo2", "BF16", 1, [50], 8, 160), ("starcoder2", "F16", 1, [60], 8, 160)]
# shape, linears, embedding and head, prompt lengths, greedy tokens, metadata beyond the plain
GGUF = [("llama2", "F32", "F32", [64, 35], 12, []), ("llama3", "F16", "F16", [64, 40], 12, []),
        ("smollm2", "BF16", "BF16", [64, 40], 12, []),
        ("mistral", "F16", "F16", [90, 30], 12, [("add_sliding_window", 24)]),
        ("pairs", "Q8_0", "Q8_0", [50, 36], 12, []),
        ("tied", "Q4_0", "Q8_0", [50, 36], 12,
         [("add_rope_scaling_type", gguf.RopeScalingType.LINEAR), ("add_rope_scaling_factor", 2.5)]),
        ("yarn", "Q4_1", "Q4_1", [50, 36], 12,
         [("add_rope_scaling_type", gguf.RopeScalingType.YARN), ("add_rope_scaling_factor", 8.0),
          ("add_rope_scaling_orig_ctx_len", 32)]),
        ("qwen2off", "Q8_0", "Q8_0", [50], 8, []), ("qwen3wide", "Q8_0", "F16", [50], 8, []),
        ("gemma2gguf", "F16", "F16", [60, 30], 8, []), ("gemma3gguf", "Q8_0", "Q8_0", [60, 30], 8, []),
        ("phi3gguf", "Q8_0", "Q8_0", [60], 8, []), ("granite", "F16", "F16", [50], 8, []),
        ("olmo2", "F16", "F16", [50], 8, []), ("starcoder2gguf", "F16", "F16", [50], 8, []),
        ("fused", "Q8_0", "Q8_0", [50], 8, [])]


def config_of(shape):
    doc = {k: v for k, v in {**BASE, **SHAPES[shape]}.items() if v is not None or k == "sliding_window"}
    path = f"/tmp/lodge-golden-{os.getpid()}"
    os.makedirs(path, exist_ok=True)
    with open(f"{path}/config.json", "w") as f:
        json.dump(doc, f)
    config = AutoConfig.from_pretrained(path)
    shutil.rmtree(path)
    if getattr(config, "head_dim", None) is None:
        config.head_dim = config.hidden_size // config.num_attention_heads
    return doc, config


def llama3_divisors(config):
    d, p = config.head_dim, config.rope_parameters
    inv = p["rope_theta"] ** (-np.arange(0, d, 2) / d)
    wave = 2 * math.pi / inv
    l0, low, high = p["original_max_position_embeddings"], p["low_freq_factor"], p["high_freq_factor"]
    s = (l0 / wave - low) / (high - low)
    return np.where(wave < l0 / high, 1.0,
                    np.where(wave > l0 / low, p["factor"], 1 / ((1 - s) / p["factor"] + s)))


def main():
    out, only = sys.argv[1], sys.argv[2:]
    torch.set_num_threads(2)
    shutil.rmtree(out, ignore_errors=True)
    os.makedirs(out)
    cases, written = [], {}
    for i, (shape, dtype, shards, lengths, n_greedy, context) in enumerate(HF):
        if only and shape not in only:
            continue
        doc, config = config_of(shape)
        name = f"{shape}-{dtype.lower()}"
        if name not in written:
            written[name] = write_hf(f"{out}/{name}", doc, draw(config, 100 + i), dtype, shards)
        config.stored_as = dtype
        cases.append(make_case(name, config, written[name], [dtype, dtype], lengths, n_greedy, 900 + i, context))
    for i, (shape, kind, embed, lengths, n_greedy, extra) in enumerate(GGUF):
        if only and shape not in only:
            continue
        _, config = config_of(shape)
        name = f"{shape}-{kind.lower()}.gguf"
        freqs = llama3_divisors(config) if config.rope_parameters.get("rope_type") == "llama3" else None
        config.stored_as = embed
        stored = write_gguf(f"{out}/{name}", config, draw(config, 200 + i), [kind, embed], extra, freqs)
        cases.append(make_case(name, config, stored, [kind, embed], lengths, n_greedy, 950 + i, 160))
    with open(f"{out}/golden.json", "w") as f:
        f.write('{"cases": [\n' + ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases) + "\n]}\n")


if __name__ == "__main__":
    main()
