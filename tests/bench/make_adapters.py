"""Writes PEFT adapters of random numbers for measurements: distinct contents, small effect.

Usage: make_adapters.py OUT N [--ranks 8,16,32,64] [--targets all|qv] [--shape D,KV,FF,LAYERS] [--gguf D_HEAD]
OUT/a0 .. a<N-1>; the ranks go round. The shape is SmolLM2-135M's unless given (Llama-3.2-1B: 2048,512,8192,16).
--gguf also writes OUT/a<i>.gguf with rows of q and k as GGUF files of llama models order them (needs the
Python package gguf). The disk needs 2 bytes a number: 4.9 MB an adapter of rank 8 on all matrices of SmolLM2."""
import argparse
import json
import os
import random
import struct

# The upper byte of a bf16 number: a sign and an exponent that puts it between 2^-9 and 2^-7.
UPPER = bytes((0x3B if i & 1 else 0x3C) | (0x80 if i & 2 else 0) for i in range(256))


def numbers(rng, n):
    data = bytearray(rng.randbytes(2 * n))
    data[1::2] = data[1::2].translate(UPPER)
    return bytes(data)


def shapes(d, kv, ff, targets):
    every = {"self_attn.q_proj": (d, d), "self_attn.k_proj": (kv, d), "self_attn.v_proj": (kv, d), "self_attn.o_proj": (d, d),
             "mlp.gate_proj": (ff, d), "mlp.up_proj": (ff, d), "mlp.down_proj": (d, ff)}
    return every if targets == "all" else {k: every[k] for k in ("self_attn.q_proj", "self_attn.v_proj")}


def write_peft(path, matrices, rank):
    os.makedirs(path, exist_ok=True)
    names = sorted({m.split(".")[-1] for m in matrices})
    with open(os.path.join(path, "adapter_config.json"), "w") as f:
        json.dump({"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": names, "bias": "none",
                   "task_type": "CAUSAL_LM", "base_model_name_or_path": None}, f)
    header, at = {}, 0
    for module, (a, b, n, k) in matrices.items():
        for part, data, shape in (("A", a, [rank, k]), ("B", b, [n, rank])):
            header[f"base_model.model.model.{module}.lora_{part}.weight"] = {
                "dtype": "BF16", "shape": shape, "data_offsets": [at, at + len(data)]}
            at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(os.path.join(path, "adapter_model.safetensors"), "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for a, b, _, _ in matrices.values():
            f.write(a + b)


GGUF_NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
              "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}


def write_gguf(path, matrices, rank, d_head):
    import gguf
    import numpy as np
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(rank))
    for module, (a, b, n, k) in matrices.items():
        _, layer, *rest = module.split(".")
        name = f"blk.{layer}.{GGUF_NAMES['.'.join(rest)]}.weight"
        wide = lambda data: (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)
        b = wide(b).reshape(n, rank)
        if rest[-1] in ("q_proj", "k_proj"):
            b = b.reshape(n // d_head, 2, d_head // 2, rank).swapaxes(1, 2).reshape(n, rank)
        writer.add_tensor(name + ".lora_a", wide(a).reshape(rank, k))
        writer.add_tensor(name + ".lora_b", np.ascontiguousarray(b))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    p = argparse.ArgumentParser(usage=__doc__)
    p.add_argument("out")
    p.add_argument("n", type=int)
    p.add_argument("--ranks", default="8")
    p.add_argument("--targets", choices=["all", "qv"], default="all")
    p.add_argument("--shape", default="576,192,1536,30")
    p.add_argument("--gguf", type=int, default=0)
    args = p.parse_args()
    d, kv, ff, layers = map(int, args.shape.split(","))
    ranks = list(map(int, args.ranks.split(",")))
    for i in range(args.n):
        rng, rank = random.Random(i), ranks[i % len(ranks)]
        matrices = {f"layers.{layer}.{m}": (numbers(rng, rank * k), numbers(rng, n * rank), n, k)
                    for layer in range(layers) for m, (n, k) in shapes(d, kv, ff, args.targets).items()}
        write_peft(os.path.join(args.out, f"a{i}"), matrices, rank)
        if args.gguf:
            write_gguf(os.path.join(args.out, f"a{i}.gguf"), matrices, rank, args.gguf)


if __name__ == "__main__":
    main()
