"""A GGUF model with its matrices in other weight types, to try a type on a real model.

    python tests/golden/requantize.py IN.gguf OUT.gguf TYPE [FALLBACK [EMBEDDING]]

TYPE for every matrix of the layers whose rows are a multiple of its block, FALLBACK (default Q5_0) for the others,
EMBEDDING (default: FALLBACK) for token_embd and output. Rounded to nearest by quantize.py: worse than llama.cpp's
searched scales, and never better than what IN was quantized to.
"""
import sys

import gguf
import numpy as np

from quantize import quantize


def kind_of(tensor, wanted, fallback, embedding):
    if len(tensor.shape) < 2:
        return None
    if not tensor.name.startswith("blk."):
        return embedding
    block = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[wanted]][0]
    return fallback if tensor.shape[0] % block else wanted


def main():
    source, out, wanted, *rest = sys.argv[1:]
    fallback = rest[0] if rest else "Q5_0"
    embedding = rest[1] if len(rest) > 1 else fallback
    reader = gguf.GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    w = gguf.GGUFWriter(out, architecture)
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        sub = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        w.add_key_value(key, field.contents(), field.types[0], sub_type=sub)
    for t in reader.tensors:
        kind = kind_of(t, wanted, fallback, embedding)
        if not kind:
            w.add_tensor(t.name, np.array(t.data), raw_dtype=t.tensor_type)
            continue
        values = gguf.quants.dequantize(t.data, t.tensor_type).reshape(t.shape[1], t.shape[0])
        w.add_tensor(t.name, quantize(values, kind), raw_dtype=gguf.GGMLQuantizationType[kind])
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


main()
