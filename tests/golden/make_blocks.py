"""Random blocks of every weight format and what the gguf package decodes them to.

    python tests/golden/make_blocks.py tests/data/files/blocks.bin

needs gguf, numpy and torch (for FP8). The file is a row of records: name (8 bytes), u32 elements, u32 stored bytes, the
stored bytes, the elements as fp32. Scales include negative, zero, subnormal and the largest halves.
"""
import struct
import sys

import gguf
import numpy as np
import torch

HALVES = [0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x83FF, 0x0400, 0x8400, 0x3C00, 0xBC00, 0x7BFF, 0xFBFF]
# bytes of a block, halves at its front
BLOCKS = {"Q8_0": (34, 1), "Q4_0": (18, 1), "Q4_1": (20, 2)}
# where the halves of a block stand
HALF_PLACES = {"Q5_0": [0], "Q5_1": [0, 2], "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2],
               "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0], "MXFP4": []}


def blocks(rng, size, n_halves):
    rows = []
    for d in HALVES:
        for m in HALVES if n_halves == 2 else [0]:
            rows.append(np.array([d, m][:n_halves], "<u2").tobytes() + rng.bytes(size - 2 * n_halves))
    for edge in (0x00, 0xFF, 0x80, 0x7F, 0x0F, 0xF0):
        rows.append(np.array([0x1234, 0x9234][:n_halves], "<u2").tobytes() + bytes([edge]) * (size - 2 * n_halves))
    for _ in range(40):
        halves = rng.integers(0, 0x7C00, n_halves).astype("<u2") | (rng.integers(0, 2, n_halves) << 15).astype("<u2")
        rows.append(halves.astype("<u2").tobytes() + rng.bytes(size - 2 * n_halves))
    return np.frombuffer(b"".join(rows), np.uint8)


def k_blocks(rng, name):
    """Every extreme half in every place, bytes all alike, and random ones."""
    size, places = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]][1], HALF_PLACES[name]
    raw = rng.integers(0, 256, (20, size)).astype(np.uint8)
    for i, edge in enumerate((0x00, 0xFF, 0x80, 0x7F)):
        raw[i] = edge
    for i in range(20):
        for p, place in enumerate(places):
            half = HALVES[(i + 5 * p) % 12] if i < 12 else int(rng.integers(0, 0x7C00)) | int(rng.integers(0, 2)) << 15
            raw[i, place:place + 2] = np.frombuffer(struct.pack("<H", half), np.uint8)
    if name == "MXFP4":
        raw[:12, 0] = [0, 1, 2, 3, 126, 127, 128, 129, 252, 253, 254, 200]
        raw[12:, 0] %= 255
    return raw


def fp8():
    """All codes but the two NaNs."""
    raw = np.array([c for c in range(256) if c & 0x7F != 0x7F], np.uint8)
    return raw, torch.from_numpy(raw).view(torch.float8_e4m3fn).to(torch.float32).numpy()


def halves(rng, exponent_bits):
    """Every exponent with several mantissas, both signs; infinities but no NaN."""
    mantissa = 15 - exponent_bits
    values = [s << 15 | e << mantissa | int(m) for s in (0, 1) for e in range((1 << exponent_bits) - 1)
              for m in (0, 1, (1 << mantissa) - 1, *rng.integers(0, 1 << mantissa, 3))]
    top = ((1 << exponent_bits) - 1) << mantissa
    return np.array([*values, top, top | 0x8000], "<u2").view(np.uint8)


def write(f, name, raw, values):
    f.write(name.encode().ljust(8, b"\0") + struct.pack("<II", values.size, raw.size) + raw.tobytes())
    f.write(values.tobytes())


def main():
    rng = np.random.default_rng(7)
    with open(sys.argv[1], "wb") as f, np.errstate(all="ignore"):
        for name in ("F16", "BF16", *BLOCKS, *HALF_PLACES):
            stored = raw = (blocks(rng, *BLOCKS[name]) if name in BLOCKS else k_blocks(rng, name)
                            if name in HALF_PLACES else halves(rng, 5 if name == "F16" else 8))
            if name == "F16":
                stored = raw.view(np.float16)
            elif name in BLOCKS:
                stored = raw.reshape(-1, BLOCKS[name][0])
            kind = gguf.GGMLQuantizationType[name]
            write(f, name, raw, np.ascontiguousarray(gguf.quants.dequantize(stored, kind), "<f4").ravel())
        write(f, "F8_E4M3", *fp8())


main()
