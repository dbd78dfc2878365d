"""A model whose replies are known in advance, for tests of the server around it.

The text is a Markov chain: token embeddings are unit vectors, attention and MLP add nothing, and
column `cur` of the output matrix holds the logits of what follows `cur`. So every log-probability
has a closed form (`logprob`), and a greedy reply can be predicted (`follow`).

Run as a program it writes the GGUF file: tiny_model.py OUT."""
import math
import struct
import sys

NAME = "tiny"
WORDS = [" red", " green", " blue", "User", "Text"]
IM_START, IM_END = 256, 257
CONTEXT = 65536
WIDTH = 320  # of the model: at least one dimension a token


def byte_chars():
    """GPT-2's printable stand-ins of the 256 bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table, extra = {}, 0
    for b in range(256):
        if b in plain:
            table[b] = chr(b)
        else:
            table[b] = chr(256 + extra)
            extra += 1
    return table


def vocabulary():
    """Token texts as bytes, their spelling, and the merges."""
    chars = byte_chars()
    data = [bytes([b]) for b in range(256)] + [b"<|im_start|>", b"<|im_end|>"]
    spelled = [chars[b] for b in range(256)] + ["<|im_start|>", "<|im_end|>"]
    merges = []
    for word in WORDS:
        raw = word.encode()
        for end in range(2, len(raw) + 1):
            if raw[:end] not in data:
                data.append(raw[:end])
                spelled.append("".join(chars[b] for b in raw[:end]))
                merges.append("".join(chars[b] for b in raw[:end - 1]) + " " + chars[raw[end - 1]])
    return data, spelled, merges


TOKENS, SPELLED, MERGES = vocabulary()
N = len(TOKENS)
RED, GREEN, BLUE = (TOKENS.index(w) for w in (b" red", b" green", b" blue"))


def chain():
    """The likeliest successor of each token."""
    nxt = {RED: GREEN, GREEN: BLUE, BLUE: RED, ord("\n"): RED, ord("!"): IM_END, IM_END: IM_END}
    for first, last in ("az", "AZ", "09"):
        for b in range(ord(first), ord(last) + 1):
            nxt[b] = b + 1 if b < ord(last) else ord(first)
    for loop in ("?\U0001F600".encode(), "$\u20AC".encode(), b"%\xC3", b"~\x01\"\\", b"^\x00"):
        for i, b in enumerate(loop):
            nxt[b] = loop[(i + 1) % len(loop)]
    return [nxt.get(t, ord("a")) for t in range(N)]


NEXT = chain()


def logit(cur, token):
    noise = (token * 7919 + cur * 104729) % 1000 / 1000
    return noise + (8 if token == NEXT[cur] else 6 if token == IM_END and cur >= 258 else 0)


def logits(cur):
    return [logit(cur, t) for t in range(N)]


def logprobs(cur):
    row = logits(cur)
    top = max(row)
    total = top + math.log(sum(math.exp(x - top) for x in row))
    return [x - total for x in row]


def follow(cur, n):
    """The greedy continuation of a text that ends in token `cur`: n ids, or up to end of text."""
    out = []
    while len(out) < n:
        cur = NEXT[cur]
        out.append(cur)
        if cur == IM_END:
            break
    return out


def text_of(ids):
    return b"".join(TOKENS[i] for i in ids if i not in (IM_START, IM_END)).decode(errors="replace")


TEMPLATE = (
    "{% for m in messages %}"
    "{% if m['content'] == 'RAISE' %}{{ raise_exception('this template refuses RAISE') }}{% endif %}"
    "{% if m['content'] == 'LOOP' %}{% for i in range(99999999) %}{% endfor %}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\\n' + (m['content'] or '') }}"
    "{% for c in m['tool_calls'] or [] %}{{ c['function']['name'] + c['function']['arguments']['x'] }}{% endfor %}"
    "{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if shout %}{{ 'LOUD' }}{% endif %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")


def chat_ids(*messages, generation=True):
    """Token ids of (role, content) pairs under TEMPLATE; contents in ASCII without merges."""
    plain = {w.encode(): TOKENS.index(w.encode()) for w in WORDS}
    out = []
    for role, content in messages:
        out += [IM_START, *role.encode(), 10, *content.encode(), IM_END, 10]
    assert not any(w in c.encode() for w in plain for _, c in messages)
    return out + ([IM_START, *b"assistant\n"] if generation else [])


# ---- the file ------------------------------------------------------------------------------------

U32, I32, F32, STRING, ARRAY = 4, 5, 6, 8, 9


def gguf_string(s):
    raw = s if isinstance(s, bytes) else s.encode()
    return struct.pack("<Q", len(raw)) + raw


def pair(key, kind, value):
    return gguf_string(key) + struct.pack("<I", kind) + value


def strings(items):
    return struct.pack("<IQ", STRING, len(items)) + b"".join(map(gguf_string, items))


def metadata():
    u32 = lambda k, v: pair(k, U32, struct.pack("<I", v))
    types = [3 if i in (IM_START, IM_END) else 1 for i in range(N)]
    return [
        pair("general.architecture", STRING, gguf_string("llama")),
        pair("general.name", STRING, gguf_string("Tiny chain")),
        u32("llama.block_count", 1), u32("llama.context_length", CONTEXT),
        u32("llama.embedding_length", WIDTH), u32("llama.feed_forward_length", 32),
        u32("llama.attention.head_count", 1), u32("llama.attention.head_count_kv", 1),
        u32("llama.attention.key_length", 32), u32("llama.attention.value_length", 32),
        u32("llama.rope.dimension_count", 32),
        pair("llama.attention.layer_norm_rms_epsilon", F32, struct.pack("<f", 1e-12)),
        pair("tokenizer.ggml.model", STRING, gguf_string("gpt2")),
        pair("tokenizer.ggml.pre", STRING, gguf_string("gpt-2")),
        pair("tokenizer.ggml.tokens", ARRAY, strings(SPELLED)),
        pair("tokenizer.ggml.merges", ARRAY, strings(MERGES)),
        pair("tokenizer.ggml.token_type", ARRAY, struct.pack(f"<IQ{N}i", I32, N, *types)),
        u32("tokenizer.ggml.eos_token_id", IM_END),
        pair("tokenizer.chat_template", STRING, gguf_string(TEMPLATE)),
    ]


def tensors():
    zeros = lambda rows, cols: ((cols, rows), [0.0] * (rows * cols))
    ones = lambda n, v=1.0: ((n,), [v] * n)
    embed = [0.0] * (N * WIDTH)
    head = [0.0] * (N * WIDTH)
    for cur in range(N):
        embed[cur * WIDTH + cur] = 1.0
        for token, x in enumerate(logits(cur)):
            head[token * WIDTH + cur] = x
    return {
        "token_embd.weight": ((WIDTH, N), embed), "output.weight": ((WIDTH, N), head),
        "output_norm.weight": ones(WIDTH, WIDTH ** -0.5),
        "blk.0.attn_norm.weight": ones(WIDTH), "blk.0.ffn_norm.weight": ones(WIDTH),
        "blk.0.attn_q.weight": zeros(32, WIDTH), "blk.0.attn_k.weight": zeros(32, WIDTH),
        "blk.0.attn_v.weight": zeros(32, WIDTH), "blk.0.attn_output.weight": zeros(WIDTH, 32),
        "blk.0.ffn_gate.weight": zeros(32, WIDTH), "blk.0.ffn_up.weight": zeros(32, WIDTH),
        "blk.0.ffn_down.weight": zeros(WIDTH, 32),
    }


def write(path):
    meta, blobs, table, at = metadata(), [], b"", 0
    for name, (dims, values) in tensors().items():
        blob = struct.pack(f"<{len(values)}f", *values)
        table += gguf_string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, 0, at)
        blob += b"\0" * (-len(blob) % 32)
        blobs.append(blob)
        at += len(blob)
    tensor_count = len(blobs)
    head = b"GGUF" + struct.pack("<IQQ", 3, tensor_count, len(meta)) + b"".join(meta) + table
    with open(path, "wb") as f:
        f.write(head + b"\0" * (-len(head) % 32) + b"".join(blobs))


if __name__ == "__main__":
    write(sys.argv[1])
