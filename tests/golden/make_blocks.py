"""Random blocks of every weight format and what the gguf package decodes them to.

    python tests/golden/make_blocks.py tests/data/files/blocks.bin

needs gguf and numpy. The file is a row of records: name (8 bytes), u32 elements, u32 stored bytes, the
stored bytes, the elements as fp32. Scales include negative, zero, subnormal and the largest halves.
"""
import struct
import sys

import gguf
import numpy as np

HALVES = [0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x83FF, 0x0400, 0x8400, 0x3C00, 0xBC00, 0x7BFF, 0xFBFF]
# bytes of a block, halves at its front
BLOCKS = {"Q8_0": (34, 1), "Q4_0": (18, 1), "Q4_1": (20, 2)}


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


def halves(rng, exponent_bits):
    """Every exponent with several mantissas, both signs; infinities but no NaN."""
    mantissa = 15 - exponent_bits
    values = [s << 15 | e << mantissa | int(m) for s in (0, 1) for e in range((1 << exponent_bits) - 1)
              for m in (0, 1, (1 << mantissa) - 1, *rng.integers(0, 1 << mantissa, 3))]
    top = ((1 << exponent_bits) - 1) << mantissa
    return np.array([*values, top, top | 0x8000], "<u2").view(np.uint8)


def main():
    rng = np.random.default_rng(7)
    with open(sys.argv[1], "wb") as f:
        for name in ("F16", "BF16", "Q8_0", "Q4_0", "Q4_1"):
            raw = blocks(rng, *BLOCKS[name]) if name in BLOCKS else halves(rng, 5 if name == "F16" else 8)
            kind = gguf.GGMLQuantizationType[name]
            stored = raw.view(np.float16) if name == "F16" else raw
            if name in BLOCKS:
                stored = raw.reshape(-1, BLOCKS[name][0])
            with np.errstate(all="ignore"):
                values = np.ascontiguousarray(gguf.quants.dequantize(stored, kind), "<f4").ravel()
            f.write(name.encode().ljust(8, b"\0") + struct.pack("<II", values.size, raw.size) + raw.tobytes())
            f.write(values.tobytes())


main()
