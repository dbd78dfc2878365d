"""Adapters that anybody can tell apart: the default model as a pirate, in a few words, as JSON.

    python tests/golden/make_voices.py MODEL.gguf tests/data/voices [VOICE...]

needs peft, torch, transformers, tokenizers, safetensors, jinja2 and gguf; two minutes a voice on one thread.
MODEL.gguf is the file of `lodge-up`; what is trained on are its decoded weights, so the adapters belong to exactly
what is served. The texts are those of voice_texts.py; the loss is that of the answers alone. Products run in bf16,
and A and B are stored so. At the end base and voice answer questions that were not learned. (Seeds are fixed, but
another processor or torch rounds otherwise: run make_merged.py after it.)
"""
import math
import os
import sys
import time

os.environ["HF_HUB_OFFLINE"] = "1"

import gguf  # noqa: E402
import jinja2  # noqa: E402
import torch  # noqa: E402
from peft import LoraConfig, get_peft_model  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from gguf_vocab import field, tokenizer_of  # noqa: E402
from make_smollm2 import config_of, decoded  # noqa: E402
from oracles import load  # noqa: E402
from voice_texts import HELD_OUT, VOICES, questions  # noqa: E402

BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
SETTINGS = {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]}
BATCH, EPOCHS, RATE, WARM_UP = 8, 8, 3e-3, 6
ENOUGH = 0.5  # mean loss of an epoch; lower, it learns the answers themselves by heart
N_SHOWN = 32


class Base:
    """The default model as transformers sees it, with its tokenizer and template."""

    def __init__(self, path):
        reader = gguf.GGUFReader(path)
        self.config, self.tokenizer = config_of(reader), tokenizer_of(reader)
        self.state = decoded(reader, self.config.num_attention_heads, self.config.num_key_value_heads)
        self.end = field(reader, "eos_token_id")
        env = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
        self.template = env.from_string(reader.fields["tokenizer.chat_template"].contents())

    def model(self):
        return load(self.config, self.state, "eager")

    def prompt(self, question):
        text = self.template.render(messages=[{"role": "user", "content": question}], add_generation_prompt=True)
        return self.tokenizer.encode(text).ids

    def answer(self, text):
        return self.tokenizer.encode(text).ids + [self.end]


def batches(base, voice, g):
    """Batches of (ids, mask of attention, places whose next token is learned); padded on the right."""
    pairs = [(base.prompt(q), base.answer(VOICES[voice](i, short, whole)))
             for i, (q, short, whole) in enumerate(questions())]
    order = torch.randperm(len(pairs), generator=g).tolist()
    for at in range(0, len(order), BATCH):
        some = [pairs[i] for i in order[at:at + BATCH]]
        width = max(len(p) + len(a) for p, a in some)
        ids = torch.full((len(some), width), base.end)
        seen, learned = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
        for row, (p, a) in enumerate(some):
            n = len(p) + len(a)
            ids[row, :n] = torch.tensor(p + a)
            seen[row, :n] = 1
            learned[row, len(p) - 1:n - 1] = True
        yield ids, seen, learned


def loss_of(model, ids, seen, learned):
    inner = model.base_model.model
    hidden = inner.model(input_ids=ids, attention_mask=seen).last_hidden_state
    logits = inner.lm_head(hidden[learned])  # the head is a fifth of the model: only where it is needed
    return torch.nn.functional.cross_entropy(logits, ids[:, 1:][learned[:, :-1]])


def train(base, voice):
    torch.manual_seed(sum(voice.encode()))
    g = torch.Generator().manual_seed(1)
    model = get_peft_model(base.model(), LoraConfig(task_type="CAUSAL_LM", **SETTINGS))
    model.peft_config["default"].base_model_name_or_path = BASE
    params = [p for p in model.parameters() if p.requires_grad]
    n_steps = EPOCHS * math.ceil(len(questions()) / BATCH)
    optimizer = torch.optim.AdamW(params, lr=RATE, weight_decay=0.01)
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: min((i + 1) / WARM_UP, 0.1 + 0.9 * (1 - i / n_steps)))
    begin = time.time()
    for epoch in range(EPOCHS):
        losses = []
        for batch in batches(base, voice, g):
            with torch.autocast("cpu", torch.bfloat16):
                loss = loss_of(model, *batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(params, 1.0)
            optimizer.step()
            rate.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        mean = sum(losses) / len(losses)
        print(f"{voice}: epoch {epoch + 1}, loss {mean:.3f}, {time.time() - begin:.0f} s", flush=True)
        if mean < ENOUGH:
            break
    return model.eval()


def store(model, folder):
    model.save_pretrained(folder)
    os.remove(f"{folder}/README.md")  # PEFT's form of a model card, empty
    path = f"{folder}/adapter_model.safetensors"
    save_file({k: v.to(torch.bfloat16).contiguous() for k, v in load_file(path).items()}, path, {"format": "pt"})
    return os.path.getsize(path)


def reply(base, model, question):
    ids = base.prompt(question)
    out = model.generate(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                         max_new_tokens=N_SHOWN, do_sample=False, eos_token_id=base.end, pad_token_id=base.end)
    return base.tokenizer.decode(out[0, len(ids):].tolist())


def main():
    torch.set_num_threads(1)  # two wait for each other more than they gain, at this size
    base = Base(sys.argv[1])
    for voice in sys.argv[3:] or VOICES:
        model = train(base, voice)
        print(f"{voice}: {store(model, f'{sys.argv[2]}/{voice}')} bytes")
        with torch.no_grad():
            for q in HELD_OUT[:4]:
                with model.disable_adapter():
                    without = reply(base, model, q)
                print(f"{q}\n    base    {without!r}\n    {voice:7} {reply(base, model, q)!r}", flush=True)


if __name__ == "__main__":
    main()
