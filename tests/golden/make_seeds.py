"""Seeds for the fuzz targets: small files of every kind that the parsers know.

    python tests/golden/make_seeds.py tests/data tests/fuzz/corpus

needs gguf, numpy and safetensors; reads what make_tokenizers.py and make_chats.py wrote.
"""
import json
import os
import sys

import gguf
import numpy as np
from safetensors.numpy import save_file

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


def small_tokenizer(doc):
    """The same components over a vocabulary of a few dozen tokens."""
    model = doc["model"]
    special = {a["content"] for a in doc["added_tokens"]}
    keep = [t for t in model["vocab"] if t in special or len(t) == 1 or t.startswith("<0x4")][:90]
    keep += [t for t in model["vocab"] if t not in keep][:12]
    model["vocab"] = {t: i for i, t in enumerate(keep)}
    model["merges"] = [m for m in model["merges"] if all(t in model["vocab"] for t in (*m, "".join(m)))][:12]
    for a in doc["added_tokens"]:
        a["id"] = model["vocab"].setdefault(a["content"], len(model["vocab"]))
    return doc


def main():
    data, out = sys.argv[1:]
    all_values(f"{out}/gguf/values")
    model_shape(f"{out}/gguf/shape")
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
    for folder, _, files in os.walk(out):
        for name in files:
            os.chmod(f"{folder}/{name}", 0o644)


if __name__ == "__main__":
    main()
