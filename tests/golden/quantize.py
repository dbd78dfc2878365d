"""Round-to-nearest writers of the GGUF block types that the gguf package only reads.

For tests: scales come from the extremes of each group, nothing is searched. Each function takes rows of fp32
(N, K) and gives (N, bytes) as stored; gguf.quants.dequantize is what checks them. Layouts: the ggml quantisation
formats.
"""
import gguf
import numpy as np

IQ4 = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113])


def halves(x):
    return x.astype(np.float16).view(np.uint8).reshape(*x.shape, 2)


def as_f32(x):
    return x.astype(np.float16).astype(np.float32)


def ratio(a, b):
    return np.divide(a, b, out=np.zeros(np.broadcast_shapes(a.shape, b.shape), np.float32), where=b != 0)


def extreme(x):
    """The value of greatest size, with its sign."""
    return np.take_along_axis(x, np.abs(x).argmax(-1, keepdims=True), -1)[..., 0]


def groups_with_min(x, n, levels, steps):
    """Groups of n columns of super-blocks: codes in 0 .. levels, scales and minimums in 0 .. steps, d, dmin."""
    g = x.reshape(-1, 256 // n, n)
    low = np.minimum(g.min(-1), 0)
    span = (np.maximum(g.max(-1), 0) - low) / levels
    d, dmin = as_f32(span.max(-1) / steps), as_f32(-low.min(-1) / steps)
    s = np.rint(ratio(span, d[:, None])).clip(0, steps)
    t = np.rint(ratio(-low, dmin[:, None])).clip(0, steps)
    q = np.rint(ratio(g + (dmin[:, None] * t)[..., None], (d[:, None] * s)[..., None])).clip(0, levels)
    return q.astype(np.uint8).reshape(-1, 256), s.astype(np.uint8), t.astype(np.uint8), d, dmin


def groups_signed(x, n, least, steps):
    """Groups of n columns: codes q - least for q in least .. -least - 1, scales in -steps .. steps, d."""
    g = x.reshape(-1, 256 // n, n)
    span = extreme(g) / least
    d = as_f32(np.abs(span).max(-1) / steps)
    s = np.rint(ratio(span, d[:, None])).clip(-steps, steps)
    q = np.rint(ratio(g, (d[:, None] * s)[..., None])).clip(least, -least - 1) - least
    return q.astype(np.uint8).reshape(-1, 256), s.astype(np.int8), d


def two_bit_planes(q):
    q = q.reshape(-1, 2, 4, 32)
    return (q[:, :, 0] | q[:, :, 1] << 2 | q[:, :, 2] << 4 | q[:, :, 3] << 6).reshape(-1, 64)


def q2_k(x):
    q, s, t, d, dmin = groups_with_min(x, 16, 3, 15)
    return np.concatenate([s | t << 4, two_bit_planes(q), halves(d), halves(dmin)], 1)


def q3_k(x):
    q, s, d = groups_signed(x, 16, -4, 31)
    top = (q >> 2).reshape(-1, 8, 32)
    high = sum(top[:, c] << c for c in range(8)).astype(np.uint8)
    u = (s.astype(np.int16) + 32).astype(np.uint8)
    low = (u[:, :8] & 15) | (u[:, 8:] & 15) << 4
    rest = sum((u[:, 4 * i:4 * i + 4] >> 4) << 2 * i for i in range(4)).astype(np.uint8)
    return np.concatenate([high, two_bit_planes(q & 3), low, rest, halves(d)], 1)


def six_bit_scales(s, t):
    out = np.zeros((len(s), 12), np.uint8)
    out[:, :4] = s[:, :4] | (s[:, 4:] >> 4) << 6
    out[:, 4:8] = t[:, :4] | (t[:, 4:] >> 4) << 6
    out[:, 8:] = (s[:, 4:] & 15) | (t[:, 4:] & 15) << 4
    return out


def q45_k(x, bits):
    q, s, t, d, dmin = groups_with_min(x, 32, 2**bits - 1, 63)
    low = (q & 15).reshape(-1, 4, 2, 32)
    parts = [halves(d), halves(dmin), six_bit_scales(s, t)]
    if bits == 5:
        top = (q >> 4).reshape(-1, 8, 32)
        parts.append(sum(top[:, c] << c for c in range(8)).astype(np.uint8))
    return np.concatenate([*parts, (low[:, :, 0] | low[:, :, 1] << 4).reshape(-1, 128)], 1)


def q6_k(x):
    q, s, d = groups_signed(x, 16, -32, 127)
    q = q.reshape(-1, 2, 4, 32)
    low, high = q & 15, q >> 4
    ql = np.stack([low[:, :, 0] | low[:, :, 2] << 4, low[:, :, 1] | low[:, :, 3] << 4], 2)
    qh = high[:, :, 0] | high[:, :, 1] << 2 | high[:, :, 2] << 4 | high[:, :, 3] << 6
    return np.concatenate([ql.reshape(-1, 128), qh.reshape(-1, 64), s.view(np.uint8), halves(d)], 1)


def nearest(x):
    return np.searchsorted((IQ4[1:] + IQ4[:-1]) / 2, x).astype(np.uint8)


def nibbles(q):
    q = q.reshape(*q.shape[:-1], -1, 2, 16)
    return (q[..., 0, :] | q[..., 1, :] << 4).reshape(*q.shape[:-3], -1)


def iq4_nl(x):
    g = x.reshape(-1, 32)
    d = as_f32(extreme(g) / -127)
    return np.concatenate([halves(d), nibbles(nearest(ratio(g, d[:, None])))], 1)


def iq4_xs(x):
    g = x.reshape(-1, 8, 32)
    span = extreme(g) / -127
    d = as_f32(np.abs(span).max(-1) / 31)
    s = np.rint(ratio(span, d[:, None])).clip(-32, 31)
    q = nearest(ratio(g, (d[:, None] * s)[..., None]))
    u = (s.astype(np.int16) + 32).astype(np.uint16)
    high = sum((u[:, b] >> 4) << 2 * b for b in range(8)).astype("<u2").view(np.uint8).reshape(-1, 2)
    low = ((u[:, 0::2] & 15) | (u[:, 1::2] & 15) << 4).astype(np.uint8)
    return np.concatenate([halves(d), high, low, nibbles(q).reshape(-1, 128)], 1)


OWN = {"Q2_K": q2_k, "Q3_K": q3_k, "Q4_K": lambda x: q45_k(x, 4), "Q5_K": lambda x: q45_k(x, 5), "Q6_K": q6_k,
       "IQ4_NL": iq4_nl, "IQ4_XS": iq4_xs}


def quantize(x, name):
    """Rows (N, K) of fp32 to rows of stored bytes."""
    x = np.ascontiguousarray(x, np.float32)
    if name in OWN:
        return OWN[name](x).astype(np.uint8).reshape(len(x), -1)
    return gguf.quants.quantize(x, gguf.GGMLQuantizationType[name])
