"""Adapters of the tiny model whose effect has a closed form: a rank-1 LoRA of the output matrix.

Every hidden state of the model is a unit vector, so A = (1 .. 1) gives 1, and B adds `bump` to the
logit of `token`, whatever came before."""
import json
import math
import os
import struct

import tiny_model as tiny


def write(path, token, bump=24.0, rank=1, alpha=None, config=None, template=None, a=1.0):
    """A PEFT directory. bump / rank must be exact in bf16."""
    os.makedirs(path, exist_ok=True)
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha or rank, "target_modules": ["lm_head"], "bias": "none",
                "base_model_name_or_path": "tiny", **(config or {})}
    with open(os.path.join(path, "adapter_config.json"), "w") as f:
        json.dump(settings, f)
    if template:
        with open(os.path.join(path, "chat_template.jinja"), "w") as f:
            f.write(template)
    tensors = {"lm_head.lora_A.weight": ((rank, tiny.WIDTH), [a] * (rank * tiny.WIDTH)),
               "lm_head.lora_B.weight": ((tiny.N, rank),
                                         [bump / rank if t == token else 0.0 for t in range(tiny.N) for _ in range(rank)])}
    header, data = {}, b""
    for name, (shape, values) in tensors.items():
        blob = struct.pack(f"<{len(values)}f", *values)
        header["base_model.model." + name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(blob)]}
        data += blob
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(os.path.join(path, "adapter_model.safetensors"), "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + data)
    return path


def logprobs(cur, bumps):
    """Of what follows `cur`, when each token in `bumps` gained so much."""
    row = [x + bumps.get(t, 0.0) for t, x in enumerate(tiny.logits(cur))]
    top = max(row)
    total = top + math.log(sum(math.exp(x - top) for x in row))
    return [x - total for x in row]


def follow(cur, n, bumps):
    """The greedy continuation: n tokens, or up to end of text."""
    out = []
    while len(out) < n:
        row = logprobs(cur, bumps)
        cur = row.index(max(row))
        out.append(cur)
        if cur == tiny.IM_END:
            break
    return out
