"""Seeds for the fuzz targets: small files of every kind that the parsers know.

    python tests/golden/make_seeds.py tests/data tests/fuzz/corpus

needs gguf, numpy and safetensors; reads what make_models.py, make_tokenizers.py and make_chats.py wrote.
"""
import glob
import json
import os
import sys

import gguf
import numpy as np
from safetensors.numpy import save, save_file

from quantize import OWN, quantize

TYPES = gguf.GGMLQuantizationType


def all_values(path):
    """Every metadata type, every weight type that is computed with, and some that are not."""
    w = gguf.GGUFWriter(path, "llama")
    for bits in (8, 16, 32, 64):
        getattr(w, f"add_uint{bits}")(f"t.u{bits}", 2**bits - 1)
        getattr(w, f"add_int{bits}")(f"t.i{bits}", -(2 ** (bits - 1)))
    w.add_float32("t.f32", 1.5)
    w.add_float64("t.f64", -1e300)
    w.add_bool("t.bool", True)
    w.add_string("t.string", "text")
    w.add_array("t.numbers", [1, 2, 3])
    w.add_array("t.strings", ["a", "", "ccc"])
    w.add_custom_alignment(64)
    for kind in ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"):
        a = np.linspace(-1, 1, 64, dtype=np.float32).reshape(2, 32)
        w.add_tensor("t." + kind, gguf.quants.quantize(a, TYPES[kind]), raw_dtype=TYPES[kind])
    for kind in OWN:
        w.add_tensor("t." + kind, quantize(np.linspace(-1, 1, 256, dtype=np.float32)[None], kind), raw_dtype=TYPES[kind])
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def model_shape(path):
    """Metadata of a whole model with rope factors and per-layer counts, but hardly a tensor."""
    w = gguf.GGUFWriter(path, "llama")
    w.add_context_length(64)
    w.add_embedding_length(32)
    w.add_block_count(2)
    w.add_feed_forward_length([48, 48])
    w.add_head_count([4, 4])
    w.add_head_count_kv(2)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_rope_dimension_count(8)
    w.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    w.add_rope_scaling_factor(4.0)
    w.add_rope_scaling_orig_ctx_len(16)
    w.add_sliding_window(16)
    w.add_tensor("token_embd.weight", np.zeros((5, 32), np.float32))
    w.add_tensor("rope_freqs.weight", np.ones(4, np.float32))
    w.add_tokenizer_model("llama")
    w.add_token_list(["<unk>", "<s>", "</s>", "<0x41>", "▁a"])
    w.add_token_scores([0.0, 0.0, 0.0, 0.0, -1.0])
    w.add_token_types([2, 3, 3, 6, 1])
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def family_shapes(out):
    """Metadata that only some families have."""
    def begin(arch, rotated):
        w = gguf.GGUFWriter(f"{out}/{arch}", arch)
        w.add_context_length(64)
        w.add_embedding_length(32)
        w.add_block_count(2)
        w.add_feed_forward_length(48)
        w.add_head_count(4)
        w.add_layer_norm_rms_eps(1e-5)
        w.add_rope_dimension_count(rotated)
        w.add_tensor("token_embd.weight", np.zeros((5, 32), np.float32))
        return w

    def end(w):
        w.write_header_to_file()
        w.write_kv_data_to_file()
        w.write_tensors_to_file()
        w.close()

    w = begin("gemma2", 8)
    w.add_sliding_window(16)
    w.add_sliding_window_pattern([True, False])
    w.add_attn_logit_softcapping(50.0)
    w.add_final_logit_softcapping(30.0)
    end(w)
    w = begin("gemma3", 8)
    w.add_sliding_window(16)
    w.add_uint32("gemma3.attention.sliding_window_pattern", 2)
    w.add_float32("gemma3.rope.freq_base_swa", 500.0)
    end(w)
    w = begin("phi3", 6)
    w.add_rope_scaling_orig_ctx_len(32)
    w.add_rope_scaling_attn_factors(1.1)
    w.add_tensor("rope_factors_long.weight", np.full(3, 2, np.float32))
    w.add_tensor("rope_factors_short.weight", np.ones(3, np.float32))
    end(w)
    w = begin("granite", 8)
    w.add_attention_scale(0.5)
    w.add_embedding_scale(12.0)
    w.add_residual_scale(0.2)
    w.add_logit_scale(8.0)
    end(w)
    w = begin("starcoder2", 8)
    w.add_layer_norm_eps(1e-5)
    w.add_expert_count(2)
    end(w)


def model_configs(data, out):
    """The configurations of make_models.py and make_types.py, and one that no family knows."""
    os.makedirs(out, exist_ok=True)
    for path in sorted(glob.glob(f"{data}/models/*/config.json") + glob.glob(f"{data}/types/*/config.json")):
        name = os.path.basename(os.path.dirname(path))
        with open(path) as f, open(f"{out}/{name}", "w") as seed:
            json.dump(json.load(f), seed, separators=(",", ":"))
    with open(f"{out}/unknown", "w") as seed:
        json.dump({"architectures": ["PoemForCausalLM"], "rhyme": [1, 2], "text_config": {"model_type": "verse", "feet": 5}}, seed)


def small_tokenizer(doc):
    """The same components over a vocabulary of a few dozen tokens."""
    model = doc["model"]
    if model["type"] == "Unigram":
        model["vocab"] = model["vocab"][:60]
        doc["added_tokens"] = [a for a in doc["added_tokens"] if a["id"] < 60]
        return doc
    special = {a["content"] for a in doc["added_tokens"]}
    keep = [t for t in model["vocab"] if t in special or len(t) == 1 or t.startswith("<0x4")][:90]
    keep += [t for t in model["vocab"] if t not in keep][:12]
    model["vocab"] = {t: i for i, t in enumerate(keep)}
    model["merges"] = [m for m in model["merges"] if all(t in model["vocab"] for t in (*m, "".join(m)))][:12]
    for a in doc["added_tokens"]:
        a["id"] = model["vocab"].setdefault(a["content"], len(model["vocab"]))
    return doc


def peft_adapter(path, settings, tensors):
    """Length, adapter_config.json, safetensors: what fuzz_adapter_peft takes apart."""
    config = json.dumps({"peft_type": "LORA", **settings}).encode()
    prefix = "base_model.model."
    arrays = {prefix + k: np.linspace(-1, 1, int(np.prod(shape)), dtype=kind).reshape(shape)
              for k, (shape, kind) in tensors.items()}
    with open(path, "wb") as f:
        f.write(len(config).to_bytes(2, "little") + config + save(arrays))


def peft_adapters(out):
    """For a base of width 8, MLP 12, one layer, heads of 4 (2 and 1), vocabulary 10."""
    def pair(module, n_in, n_out, r, kind=np.float32):
        return {f"{module}.lora_A.weight": ((r, n_in), kind), f"{module}.lora_B.weight": ((n_out, r), kind)}

    q, v = "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj"
    both = {**pair(q, 8, 8, 2), **pair(v, 8, 4, 2, np.float16)}
    peft_adapter(f"{out}/plain", {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"]}, both)
    peft_adapter(f"{out}/patterns", {
        "r": 3, "use_rslora": True, "target_modules": r".*\.self_attn\.(q|v)_proj", "exclude_modules": "lm_head",
        "rank_pattern": {"(q|v)_proj": 2, "x": 9}, "alpha_pattern": {"layers.0.self_attn.q_proj": 1.5}}, both)
    peft_adapter(f"{out}/layers", {"r": 2, "target_modules": ["q_proj"], "layers_to_transform": [0],
                                   "layers_pattern": ["h", "layers"], "exclude_modules": ["k_proj"]}, pair(q, 8, 8, 2))
    peft_adapter(f"{out}/dora", {"r": 1, "use_dora": True, "target_modules": ["q_proj"]},
                 {**pair(q, 8, 8, 1), f"{q}.lora_magnitude_vector": ((8,), np.float32)})
    peft_adapter(f"{out}/bias", {"r": 1, "lora_bias": True, "target_modules": ["v_proj"]},
                 {**pair(v, 8, 4, 1), f"{v}.lora_B.bias": ((4,), np.float32)})
    peft_adapter(f"{out}/table", {"r": 2, "target_modules": ["embed_tokens", "lm_head"]},
                 {"model.embed_tokens.lora_embedding_A": ((2, 10), np.float32),
                  "model.embed_tokens.lora_embedding_B": ((8, 2), np.float32),
                  "model.embed_tokens.base_layer.weight": ((10, 8), np.float16), **pair("lm_head", 8, 10, 2)})
    peft_adapter(f"{out}/wrapped", {"r": 2}, pair("model.language_model.layers.0.mlp.up_proj", 8, 12, 2))


def gguf_adapter(path, tensors, alpha=4.0):
    """For a base of width and MLP 32, one layer, heads of 16 (2 and 1), vocabulary 10."""
    w = gguf.GGUFWriter(path, "llama")
    w.add_type("adapter")
    w.add_string("adapter.type", "lora")
    w.add_float32("adapter.lora.alpha", alpha)
    for name, (shape, kind) in tensors.items():
        a = np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape)
        w.add_tensor(name, gguf.quants.quantize(a, TYPES[kind]), raw_dtype=TYPES[kind])
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def gguf_adapters(out):
    gguf_adapter(f"{out}/plain", {"blk.0.attn_q.weight.lora_a": ((2, 32), "F32"), "blk.0.attn_q.weight.lora_b": ((32, 2), "F16"),
                                  "blk.0.attn_k.weight.lora_a": ((2, 32), "BF16"), "blk.0.attn_k.weight.lora_b": ((16, 2), "F32")})
    gguf_adapter(f"{out}/blocks", {"blk.0.ffn_up.weight.lora_a": ((32, 32), "Q8_0"), "blk.0.ffn_up.weight.lora_b": ((32, 32), "Q4_0"),
                                   "blk.0.ffn_down.weight.lora_a": ((32, 32), "Q4_1"), "blk.0.ffn_down.weight.lora_b": ((32, 32), "Q8_0")}, 0.0)
    gguf_adapter(f"{out}/table", {"token_embd.weight.lora_a": ((10, 3), "F32"), "token_embd.weight.lora_b": ((32, 3), "F32"),
                                  "output.weight.lora_a": ((1, 32), "F32"), "output.weight.lora_b": ((10, 1), "F32"),
                                  "blk.0.attn_norm.weight": ((32,), "F32")})


def main():
    data, out = sys.argv[1:]
    all_values(f"{out}/gguf/values")
    model_shape(f"{out}/gguf/shape")
    family_shapes(f"{out}/gguf")
    model_configs(data, f"{out}/model_config")
    save_file({"f32": np.ones((2, 3), np.float32), "f16": np.zeros((0, 4), np.float16), "i8": np.ones((), np.int8),
               "bool": np.ones(7, bool), "deep": np.zeros((1, 2, 1, 2), np.int64)},
              f"{out}/safetensors/kinds", metadata={"format": "np", "note": "seed"})
    with open(f"{out}/safetensors/empty", "wb") as f:
        f.write(b"\2\0\0\0\0\0\0\0{}")
    with open(f"{data}/template/chats.json") as f:
        for name, source in json.load(f)["templates"].items():
            with open(f"{out}/template/{name}", "w") as seed:
                seed.write(source)
    for name in sorted(os.listdir(f"{data}/text")):
        if name.endswith(".json") and name != "golden.json":
            with open(f"{data}/text/{name}") as f:
                doc = small_tokenizer(json.load(f))
            with open(f"{out}/tokenizer/{name.removesuffix('.json')}", "w") as seed:
                json.dump(doc, seed, ensure_ascii=False, separators=(",", ":"))
    for name, make in (("adapter_peft", peft_adapters), ("adapter_gguf", gguf_adapters)):
        os.makedirs(f"{out}/{name}", exist_ok=True)
        make(f"{out}/{name}")
    for folder, _, files in os.walk(out):
        for name in files:
            os.chmod(f"{folder}/{name}", 0o644)


if __name__ == "__main__":
    main()
