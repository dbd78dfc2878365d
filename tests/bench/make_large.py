"""Writes a model of about 1.07 billion parameters with made weights, in the shape of Llama-3.2-1B, for measurements.

Usage: make_large.py SOURCE.gguf TYPE OUT.gguf      TYPE: Q4_0, Q4_1, Q8_0 or BF16
Tokenizer and template come from SOURCE (any llama GGUF); the head is tied. Needs the Python package gguf."""
import sys

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

from make_model import copy_metadata

D, KV, FF, LAYERS, HEADS, KV_HEADS = 2048, 512, 8192, 16, 32, 8
CHANGED = {"llama.block_count": LAYERS, "llama.embedding_length": D, "llama.feed_forward_length": FF,
           "llama.attention.head_count": HEADS, "llama.attention.head_count_kv": KV_HEADS, "llama.rope.dimension_count": D // HEADS,
           "llama.attention.key_length": D // HEADS, "llama.attention.value_length": D // HEADS}


class Fields:
    """The source's metadata with the other shape."""

    def __init__(self, reader):
        self.fields = {k: v for k, v in reader.fields.items() if k not in CHANGED}


def matrix(rng, kind, n, k):
    if kind == Type.BF16:
        return gguf.quants.quantize(rng.standard_normal((n, k), np.float32) * np.float32(0.02), kind)
    block = {Type.Q8_0: 34, Type.Q4_1: 20, Type.Q4_0: 18}[kind]
    data = rng.integers(0, 256, (n, k // 32, block), np.uint8)
    scale, least = {Type.Q8_0: (0.02 / 64, None), Type.Q4_0: (0.004, None), Type.Q4_1: (0.004, -0.03)}[kind]
    data[:, :, 0:2] = np.frombuffer(np.float16(scale).tobytes(), np.uint8)
    if least:
        data[:, :, 2:4] = np.frombuffer(np.float16(least).tobytes(), np.uint8)
    return data.reshape(n, -1)


def main(source, name, out):
    reader, kind, rng = gguf.GGUFReader(source), Type[name], np.random.default_rng(0)
    writer = gguf.GGUFWriter(out, "llama")
    copy_metadata(Fields(reader), writer)
    for key, value in CHANGED.items():
        writer.add_uint32(key, value)
    n_vocab = len(reader.fields["tokenizer.ggml.tokens"].data)
    put = lambda key, n, k: writer.add_tensor(key, matrix(rng, kind, n, k), raw_dtype=kind)
    put("token_embd.weight", n_vocab, D)
    ones = np.ones(D, np.float32)
    writer.add_tensor("output_norm.weight", ones)
    for i in range(LAYERS):
        writer.add_tensor(f"blk.{i}.attn_norm.weight", ones)
        writer.add_tensor(f"blk.{i}.ffn_norm.weight", ones)
        for key, n, k in (("attn_q", D, D), ("attn_k", KV, D), ("attn_v", KV, D), ("attn_output", D, D), ("ffn_gate", FF, D),
                          ("ffn_up", FF, D), ("ffn_down", D, FF)):
            put(f"blk.{i}.{key}.weight", n, k)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
