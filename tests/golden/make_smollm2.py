"""SmolLM2-135M-Instruct (the GGUF file of `lodge-up`) against transformers, teacher-forced.

    python tests/golden/make_smollm2.py MODEL.gguf tests/data/smollm2.json

needs torch, transformers, tokenizers and gguf; takes minutes. Weights are decoded with the gguf package;
prompts are cut by the tokenizers library. For each prompt: ids; log-probability of every token by fp32
("fp32") and with the declared roundings ("declared", see oracles.py); the likeliest token by fp32 and its
margin. At the top level, mean |difference| of the two oracles (what int8 activations cost), and what noise
of 1e-7 does to the declared one (what two exact implementations of it may differ by).
"""
import json
import sys

import gguf
import numpy as np
import torch
from transformers import LlamaConfig

from gguf_vocab import tokenizer_of
from make_models import GGUF_NAMES
from oracles import from_pairs, load, log_probs, moved_by_noise, round_inputs

CHAT = "<|im_start|>system\n{}<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n{}"
PROMPTS = [
    "The lighthouse keeper climbed the stairs every evening to light the lamp. One night the stairs were gone, and "
    "where they had been there was only a spiral of cold air that hummed like a bottle.",
    CHAT.format("You are a careful assistant.", "How do bees find their way home?",
                "Bees use the position of the sun, landmarks they remember, and the smell of the hive."),
    CHAT.format("Answer in one word.", "What is the capital of France?", "Paris<|im_end|>\n"),
    "def fibonacci(n):\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n    return a\n\n\n"
    "print([fibonacci(i) for i in range(10)])\n# [0, 1, 1, 2, 3, 5, 8, 13, 21, 34]\n",
    "#include <stdio.h>\n\nint main(void)\n{\n\tint sum = 0;\n\tfor (int i = 1; i <= 100; i++)\n\t\tsum += i;\n"
    "\tprintf(\"%d\\n\", sum);\n\treturn 0;\n}\n",
    "SELECT name, COUNT(*) AS n\nFROM orders\nWHERE placed_at >= '2024-01-01'\nGROUP BY name\nORDER BY n DESC LIMIT 10;",
    '{"name": "invoice", "lines": [{"sku": "A-17", "amount": 12.50}, {"sku": "B-2", "amount": 3}], "paid": false}',
    "Les élèves étaient déjà partis quand la maîtresse arriva ; il ne restait qu'un cahier ouvert sur la table.",
    "Größe und Gewicht der Äpfel wurden gemessen: die kleinsten wogen 85 g, die größten über 240 g.",
    "今日は天気がいいので、公園を散歩しました。桜の花がとてもきれいでした。",
    "Сегодня в городе было тихо, только снег скрипел под ногами прохожих.",
    "مرحبا بكم في المكتبة. الكتب الجديدة على الرف الأول.",
    "👩‍👩‍👧‍👦 went to the 🏖️ and ate 🍦🍦🍦 — what a day! 😀👍🏽",
    "1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768",
    "In 1969, Apollo 11 landed on the Moon. Neil Armstrong and Buzz Aldrin walked on its surface while Michael Collins "
    "stayed in orbit. They brought back 21.5 kg of lunar material.",
    "Q: If a train travels 60 miles in 1.5 hours, what is its average speed?\nA: The average speed is distance divided "
    "by time: 60 / 1.5 = 40 miles per hour.",
    "a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a",
    "zxqj vvkp 93kd0 !!?? ;;-- ~~ qwpo \\\\ ## @@ zz9 0x7f3e 0b1101 <<>> {{}} [[]] ()() ``",
    "# Recipe: pancakes\n\n- 200 g flour\n- 2 eggs\n- 300 ml milk\n\n1. Whisk everything.\n2. Rest for 30 minutes.\n"
    "3. Fry in butter until golden.\n\n| size | pieces |\n|---|---|\n| small | 12 |\n",
    CHAT.format("You are a pirate.", "Tell me about the sea in two sentences.",
                "Arr, the sea be vast and wild, matey! She gives us fish and gold, and takes back what she pleases."),
]


def decoded(reader, heads, kv_heads):
    """The weights under transformers' names, in its row order."""
    back = {v: k for k, v in GGUF_NAMES.items()}
    state = {}
    for t in reader.tensors:
        a = gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32)
        a = a.reshape([int(d) for d in reversed(t.shape)])
        stem = t.name.removesuffix(".weight")
        layer = None
        if stem.startswith("blk."):
            _, layer, stem = stem.split(".")
        if stem in ("attn_q", "attn_k"):
            a = from_pairs(a, heads if stem == "attn_q" else kv_heads)
        name = back[stem] if layer is None else f"model.layers.{layer}.{back[stem]}"
        state[name + ".weight"] = torch.from_numpy(np.array(a))
    return state


def config_of(reader):
    get = lambda key: reader.fields["llama." + key].contents()  # noqa: E731
    return LlamaConfig(vocab_size=get("vocab_size"), hidden_size=get("embedding_length"),
                       intermediate_size=get("feed_forward_length"), num_hidden_layers=get("block_count"),
                       num_attention_heads=get("attention.head_count"), num_key_value_heads=get("attention.head_count_kv"),
                       max_position_embeddings=get("context_length"), rms_norm_eps=get("attention.layer_norm_rms_epsilon"),
                       rope_parameters={"rope_type": "default", "rope_theta": get("rope.freq_base")},
                       tie_word_embeddings=True)


def main():
    torch.set_num_threads(2)
    reader = gguf.GGUFReader(sys.argv[1])
    config, tokenizer = config_of(reader), tokenizer_of(reader)
    state = decoded(reader, config.num_attention_heads, config.num_key_value_heads)
    exact, rounded = load(config, state, "eager"), load(config, state, "declared")
    round_inputs(rounded, ["Q4_1", "Q8_0"])
    prompts, costs, floors = [], [], []
    for text in PROMPTS:
        ids = tokenizer.encode(text).ids
        n = len(ids) - 1
        pick = torch.arange(n), torch.tensor(ids[1:])
        fp32, declared = log_probs(exact, ids, config.vocab_size), log_probs(rounded, ids, config.vocab_size)
        top = torch.topk(fp32[:n], 2)
        costs += (fp32[pick] - declared[pick]).abs().tolist()
        floors += moved_by_noise(rounded, ids, config.vocab_size, 1)[pick].tolist()
        prompts.append({"ids": ids, "fp32": [round(x, 4) for x in fp32[pick].tolist()],
                        "declared": [round(x, 4) for x in declared[pick].tolist()],
                        "best": top.indices[:, 0].tolist(),
                        "margin": [round(x, 2) for x in (top.values[:, 0] - top.values[:, 1]).tolist()]})
        print(f"{len(ids):4} tokens: rounding moves {np.mean(costs[-n:]):.4f}, noise {np.mean(floors[-n:]):.4f}")
    doc = {"rounding": round(float(np.mean(costs)), 5), "noise": round(float(np.mean(floors)), 5)}
    print(len(costs), "positions", doc)
    with open(sys.argv[2], "w") as f:
        f.write(json.dumps(doc)[:-1] + ', "prompts": [\n' +
                ",\n".join(json.dumps(p, separators=(",", ":")) for p in prompts) + "\n]}\n")


if __name__ == "__main__":
    main()
