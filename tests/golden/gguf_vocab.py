"""The tokenizer of a GGUF file, built with the tokenizers library from tokenizer.ggml.*."""
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

PRE = {"smollm": lambda: [pre_tokenizers.Digits(individual_digits=True),
                          pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)],
       "gpt-2": lambda: [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]}


def field(reader, key):
    return reader.fields["tokenizer.ggml." + key].contents()


def tokenizer_of(reader):
    tokens, kinds = field(reader, "tokens"), field(reader, "token_type")
    merges = [tuple(m.split(" ", 1)) for m in field(reader, "merges")]
    t = Tokenizer(models.BPE(vocab={s: i for i, s in enumerate(tokens)}, merges=merges))
    t.pre_tokenizer = pre_tokenizers.Sequence(PRE[field(reader, "pre")]())
    t.decoder = decoders.ByteLevel()
    t.add_special_tokens([AddedToken(s, special=True, normalized=False) for s, k in zip(tokens, kinds) if k == 3])
    return t
