"""What the scripts that run transformers share: the roundings that Lodge declares, and row orders.

Roundings: inputs of linears become bf16 (BF16 and FP8 weights) or int8 blocks of 32 (GGUF's blocks);
queries, keys, values and softmax numerators become bf16. Everything else is fp32, as transformers does it.
"""
import copy
import math

import gguf
import torch
from transformers import AttentionInterface, AutoModelForCausalLM

PAGE = 32  # tokens of a page: softmax numerators are rounded against the maximum so far
TYPES = {"F32": gguf.GGMLQuantizationType.F32, "F16": gguf.GGMLQuantizationType.F16,
         "BF16": gguf.GGMLQuantizationType.BF16, "Q8_0": gguf.GGMLQuantizationType.Q8_0,
         "Q4_0": gguf.GGMLQuantizationType.Q4_0, "Q4_1": gguf.GGMLQuantizationType.Q4_1}


def bf16(x):
    return x.to(torch.bfloat16).to(torch.float32)


def int8_blocks(x):
    n = x.shape[-1]
    b = torch.nn.functional.pad(x, (0, -n % 32)).reshape(*x.shape[:-1], -1, 32)
    amax = b.abs().amax(-1, keepdim=True)
    q = torch.where(amax > 0, torch.round(b * (127 / amax)), torch.zeros_like(b))
    return (q * (amax / 127)).reshape(*x.shape[:-1], -1)[..., :n]


def rounding(kind):
    return {"F32": lambda x: x, "F16": lambda x: x, "BF16": bf16, "F8_E4M3": bf16}.get(kind, int8_blocks)


def declared_attention(module, query, key, value, mask, scaling, dropout=0.0, sliding_window=None, softcap=None, **_):
    """Attention page by page with a running maximum; what is stored or multiplied is bf16."""
    rep = query.shape[1] // key.shape[1]
    q = bf16(query)
    k, v = (bf16(t).repeat_interleave(rep, 1) for t in (key, value))
    n_q, n_k = q.shape[2], k.shape[2]
    at = torch.arange(n_k - n_q, n_k)[:, None]
    top = torch.full((*q.shape[:3], 1), -math.inf)
    total = torch.zeros_like(top)
    acc = torch.zeros_like(q)
    for p in range(0, n_k, PAGE):
        j = torch.arange(p, min(p + PAGE, n_k))[None, :]
        seen = (j <= at) & ((j > at - sliding_window) if sliding_window else True)
        s = (q @ k[:, :, p:p + PAGE].transpose(2, 3)) * scaling
        if softcap:
            s = softcap * torch.tanh(s / softcap)
        s = s.masked_fill(~seen, -math.inf)
        new = torch.maximum(top, s.amax(-1, keepdim=True))
        live = new > -math.inf
        r = torch.where(live, torch.exp(top - new), torch.ones_like(top))
        w = torch.where(live & seen, torch.exp(s - new), torch.zeros_like(s))
        total = total * r + w.sum(-1, keepdim=True)
        acc = acc * r + bf16(w) @ v[:, :, p:p + PAGE]
        top = new
    return (acc / total).transpose(1, 2).contiguous(), None


AttentionInterface.register("declared", declared_attention)


def to_pairs(t, heads):
    """What converters do to the rows of q and k: halves of a head become adjacent pairs."""
    return t.reshape(heads, 2, t.shape[0] // heads // 2, *t.shape[1:]).swapaxes(1, 2).reshape(t.shape)


def from_pairs(t, heads):
    return t.reshape(heads, t.shape[0] // heads // 2, 2, *t.shape[1:]).swapaxes(1, 2).reshape(t.shape)


def load(config, state, attention):
    config = copy.deepcopy(config)  # the model keeps it, and with it the kind of attention
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=attention).eval()
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    model.tie_weights()
    table = model.get_input_embeddings()
    if hasattr(table, "embed_scale"):  # in the precision of the stored table, as transformers computes in it
        kind = {"BF16": torch.bfloat16, "F16": torch.float16}.get(getattr(config, "stored_as", None), torch.float32)
        table.embed_scale = torch.tensor(config.hidden_size ** 0.5).to(kind).to(torch.float32)
    return model


def round_inputs(model, types, wanted=lambda name: True):
    for name, m in model.named_modules():
        if isinstance(m, torch.nn.Linear) and wanted(name):
            kind = types[1] if "lm_head" in name else types[0]
            m.register_forward_pre_hook(lambda _, args, r=rounding(kind): (r(args[0]),))


def log_probs(model, ids, n_text):
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, :, :n_text].to(torch.float64)
    return torch.log_softmax(logits, -1)


def moved_by_noise(model, ids, n_text, seed):
    """How log-probabilities move when embeddings change by 1e-7: where a value lies on the edge of two
    int8 or bf16 steps, two exact implementations may fall on different sides."""
    table = model.get_input_embeddings()
    noise = 1 + 1e-7 * torch.randn(table.weight.shape, generator=torch.Generator().manual_seed(seed))
    base = log_probs(model, ids, n_text)
    hook = table.register_forward_hook(lambda m, args, out: out * noise[args[0]])
    moved = (log_probs(model, ids, n_text) - base).abs()
    hook.remove()
    return moved


def stable(model, ids, n_text):
    return all(moved_by_noise(model, ids, n_text, seed).max().item() <= 1e-3 for seed in range(2))
