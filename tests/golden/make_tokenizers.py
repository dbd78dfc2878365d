"""Small tokenizers in the shapes of real families, and what the tokenizers library (and, for
SentencePiece vocabularies in GGUF, the sentencepiece library) makes of a nasty corpus.

    python tests/golden/make_tokenizers.py tests/data/text [MODEL.gguf]

needs tokenizers, sentencepiece, transformers and gguf. Each vocabulary is trained here on the sentences of corpus.py.
Writes NAME.json (tokenizer.json), NAME.gguf (the same vocabulary as tokenizer.ggml.*, no tensors) and
golden.json: the texts once, then per vocabulary checksums (CRC-32) of the ids of every text
    special  added tokens recognised (library default)
    plain    special ones taken as text (encode_special_tokens)
    random   the same of random texts
    broken   the same of broken UTF-8
the ids that the post-processor adds (affix), and id sequences with the text they decode to; and, per name of tokenizer.ggml.pre, checksums of the ids that one
vocabulary gives behind that pre-tokenizer. With MODEL.gguf (the model of `lodge-up`) its vocabulary is
compared too, under the name "default-model"; the test skips that part without LODGE_TEST_MODEL.
"""
import base64
import io
import json
import os
import random
import shutil
import struct
import sys
import tempfile
import zlib

import gguf
import numpy as np
import sentencepiece
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from corpus import ALPHABET, BROKEN, NASTY, TRAIN
from gguf_vocab import tokenizer_of

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
          r"\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace("{1,3}", "")
TEKKEN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
          r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}|"
          r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
GPT4O = "|".join([p + CONTRACTIONS + "?" for p in TEKKEN.split("|")[:2]] + [
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])
QWEN35 = QWEN2.replace(r"?\p{L}+", r"?[\p{L}\p{M}]+").replace(r"[^\s\p{L}\p{N}]", r"[^\s\p{L}\p{M}\p{N}]")
SEED_CODER = QWEN2.replace(r"\p{N}|", r"\p{N}{1}|").replace(r"[^\s\p{L}\p{N}]+[\r\n]*", r"[^\s\p{L}\p{N}\r\n]+")
BAILING = (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|"
           r"\s+(?!\S)|\s+")
BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"
DEEPSEEK3 = (r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"
             r" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
RANDOM = ["".join(random.Random(i).choices(ALPHABET, k=1 + i % 48)) for i in range(240)]
BEGIN, END = "<|begin|>", "<|end|>"


def special(text, **flags):
    return AddedToken(text, special=True, normalized=False, **flags)


def edited(t, change):
    doc = json.loads(t.to_str())
    change(doc)
    return Tokenizer.from_str(json.dumps(doc))


def byte_level(pre, size=520, normalizer=None, change=None):
    t = Tokenizer(models.BPE())
    if normalizer:
        t.normalizer = normalizer
    t.pre_tokenizer = pre_tokenizers.Sequence(pre)
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(TRAIN * 3, trainers.BpeTrainer(
        vocab_size=size, min_frequency=2, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    if change:
        t = edited(t, change)
    t.add_special_tokens([special(BEGIN), special(END)])
    return t


def ignore_merges(doc):
    """Whole pieces that no merge leads to; only ignore_merges finds them."""
    doc["model"]["ignore_merges"] = True
    n = len(doc["model"]["vocab"])
    doc["model"]["vocab"].update({"unreachable": n, "Ġunreachable": n + 1})


def with_bos(t):
    t.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, t.token_to_id(BEGIN))])])
    return t


def split(pattern):
    return [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]


def llama3():
    return with_bos(byte_level(split(LLAMA3), change=ignore_merges))


def qwen2():
    t = byte_level(split(QWEN2), normalizer=normalizers.NFC())
    t.add_tokens([AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False)])
    return t


def smollm2():
    return byte_level([pre_tokenizers.Digits(individual_digits=True),
                       pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])


def gpt2():
    return byte_level([pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])


def gpt2_prefix():
    return byte_level([pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True)], size=420)


def tekken():
    t = byte_level(split(TEKKEN), change=ignore_merges)
    t.add_special_tokens([special("[INST]"), special("[/INST]")])
    return with_bos(t)


# ---- SentencePiece ---------------------------------------------------------------------------------


def train_sentencepiece(**more):
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TRAIN * 3), model_writer=out, model_type="bpe", vocab_size=620, byte_fallback=True,
        character_coverage=0.985, normalization_rule_name="identity", remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True, split_digits=True, max_sentence_length=10000, minloglevel=2, **more)
    return sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())


def merges_of(sp):
    """All ways to make each piece of two others, best piece first, as converters write them."""
    ids = {sp.id_to_piece(i): i for i in range(sp.get_piece_size())}
    merges = []
    for piece, i in ids.items():
        if sp.is_control(i) or sp.is_byte(i) or sp.is_unknown(i):
            continue
        pairs = [(piece[:k], piece[k:]) for k in range(1, len(piece)) if piece[:k] in ids and piece[k:] in ids]
        merges += [(sp.get_score(i), p) for p in sorted(pairs, key=lambda p: (ids[p[0]], ids[p[1]]))]
    return [p for _, p in sorted(merges, key=lambda m: -m[0])]


def sp_model(sp, **flags):
    vocab = {sp.id_to_piece(i): i for i in range(sp.get_piece_size())}
    t = Tokenizer(models.BPE(vocab=vocab, merges=merges_of(sp), unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.add_special_tokens([special("<unk>"), special("<s>"), special("</s>")])
    t.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return t


def llama2(sp):
    t = sp_model(sp)
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                   decoders.Strip(" ", 1, 0)])
    return t


def mistral(sp):
    """The newer spelling of the same: Metaspace that prepends at the very start only."""
    t = sp_model(sp)
    t.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                   decoders.Strip(" ", 1, 0)])
    return t


def metaspace(sp):
    """Words cut at spaces; unknown characters are <unk>, one by one."""
    t = edited(sp_model(sp), lambda doc: doc["model"].update(byte_fallback=False, fuse_unk=False))
    t.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True)
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return t


TURNS = ["<|user|>", "<|assistant|>", "<|end|>"]


def phi3(sp):
    """As llama2, with turn tokens that swallow the white space behind them."""
    t = llama2(sp)
    t.add_special_tokens([special("</s>", rstrip=True), *(special(s, rstrip=True) for s in TURNS), special("<|endoftext|>")])
    return t


def gemma(sp):
    t = sp_model(sp)
    t.normalizer = normalizers.Replace(" ", "▁")
    t.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    t.add_tokens([AddedToken("\n\n", normalized=False), AddedToken("▁▁▁", normalized=False)])
    return t


# ---- Unigram ---------------------------------------------------------------------------------------

# Rules of our own in the place of NFKC: wide forms, ligatures, marks, blanks; nothing for a soft hyphen.
RULES = {"Ａ": "A", "Ｂ": "B", "Ｃ": "C", "１": "1", "ﬁ": "fi", "ﬂ": "fl", "\u212b": "Å", "Ⅷ": "VIII", "½": "1⁄2", "…": "...",
         "e\u0301": "é", "u\u0308": "ü", "a\u0308": "ä", "\u0301": "´", "\t": " ", "\n": " ", "\r": " ", "\r\n": " ",
         "\u3000": " ", "\u00a0": " ", "\u2003": " ", "\u2028": " ", "\u00ad": "", "\ufeff": "", "\uac01": "가ㄱ", "ẞ": "ß"}


def train_unigram(rules, **more):
    out = io.BytesIO()
    with tempfile.NamedTemporaryFile("w", suffix=".tsv") as f:
        points = lambda s: " ".join(f"{ord(c):X}" for c in s)
        f.writelines(f"{points(a)}\t{points(b)}\n" for a, b in rules.items())
        f.flush()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(TRAIN * 3), model_writer=out, model_type="unigram", vocab_size=640,
            character_coverage=0.985, max_sentence_length=10000, minloglevel=2, hard_vocab_limit=False,
            **({"normalization_rule_tsv": f.name} if rules else {"normalization_rule_name": "identity"}), **more)
    return sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())


def charsmap_of(sp):
    """normalizer_spec.precompiled_charsmap: field 2 of field 3 of the model, in protobuf's wire format."""
    def fields(data):
        at = 0
        while at < len(data):
            key, at = varint(data, at)
            if key & 7 == 0:
                value, at = varint(data, at)
            elif key & 7 == 5:
                value, at = data[at:at + 4], at + 4
            else:
                n, at = varint(data, at)
                value, at = data[at:at + n], at + n
            yield key >> 3, value

    def varint(data, at):
        value = shift = 0
        while True:
            value |= (data[at] & 127) << shift
            shift, at = shift + 7, at + 1
            if data[at - 1] < 128:
                return value, at

    spec = next(v for k, v in fields(sp.serialized_model_proto()) if k == 3)
    return next((v for k, v in fields(spec) if k == 2), b"")


def unigram_model(sp, byte_fallback=False):
    return Tokenizer(models.Unigram([(sp.id_to_piece(i), sp.get_score(i)) for i in range(sp.get_piece_size())],
                                    unk_id=sp.unk_id(), byte_fallback=byte_fallback))


def unigram(sp):
    """T5 and its kin: a character map, blanks merged, words cut at blanks."""
    t = unigram_model(sp)
    t.normalizer = normalizers.Sequence([normalizers.Precompiled(charsmap_of(sp)), normalizers.Strip(left=False, right=True),
                                         normalizers.Replace(Regex(" {2,}"), "▁")])
    t.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    t.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    t.add_special_tokens([special("<unk>"), special("<s>"), special("</s>")])
    t.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", sp.eos_id())])
    return t


def unigram_words(sp):
    """The older spelling: white space cut out, then a blank before each word."""
    t = unigram(sp)
    t.normalizer = normalizers.Precompiled(charsmap_of(sp))
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    return t


def unigram_bytes(sp):
    """Whole documents, with bytes for what is unknown."""
    t = unigram_bytes_plain(sp)
    t.add_tokens([AddedToken("<tag>", normalized=False), AddedToken("<one>", single_word=True, normalized=False)])
    return t


def unigram_bytes_plain(sp):
    t = unigram_model(sp, byte_fallback=True)
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    t.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(replacement="▁", prepend_scheme="first")])
    t.add_special_tokens([special("<unk>"), special("<s>"), special("</s>")])
    t.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", sp.bos_id())])
    return t


def without_control_pieces(t):
    """For user text: control tokens are neither matched nor pieces of the lattice."""
    doc = json.loads(t.to_str())
    hidden = {a["content"] for a in doc["added_tokens"] if a["special"]}
    doc["added_tokens"] = [a for a in doc["added_tokens"] if not a["special"]]
    if doc["model"]["type"] == "Unigram":
        doc["model"]["vocab"] = [[chr(0xF0000 + i) if p in hidden else p, s] for i, (p, s) in enumerate(doc["model"]["vocab"])]
        doc["post_processor"] = None
    return Tokenizer.from_str(json.dumps(doc))


def added():
    """Every flag of an added token, with normalizers that change text."""
    t = byte_level([pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)], size=420,
                   normalizer=normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()]))
    t.add_tokens([AddedToken("<tag>", normalized=False), AddedToken("<left>", lstrip=True, normalized=False),
                  AddedToken("<right>", rstrip=True, normalized=False),
                  AddedToken("<both>", lstrip=True, rstrip=True, normalized=False),
                  AddedToken("<one>", single_word=True, normalized=False), AddedToken("<NORM>", normalized=True),
                  AddedToken("CAFÉTOK", normalized=True), AddedToken("tok", single_word=True, normalized=True)])
    return t


def swallowing():
    """Added tokens that swallow the white space that others are made of, single words that hide what is
    in them, and one that only ignore_merges could find, but may not."""
    t = byte_level([pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)], size=420,
                   change=lambda doc: doc["model"].update(ignore_merges=True))
    t.add_tokens([AddedToken("<left>", lstrip=True, normalized=False), AddedToken("<right>", rstrip=True, normalized=False),
                  AddedToken("<both>", lstrip=True, rstrip=True, normalized=False), AddedToken("  ", normalized=False),
                  AddedToken("\n\n", rstrip=True, normalized=False),
                  AddedToken("<one>", normalized=False), AddedToken("<one>x", single_word=True, normalized=False),
                  AddedToken("tok", normalized=False), AddedToken("tok-tok", single_word=True, normalized=False),
                  AddedToken("<|", single_word=True, normalized=False), AddedToken("pair", normalized=False)])
    return t


def dropping():
    """Characters that are no token and have no <unk> are left out before anything merges; of equal merges
    the last counts; an empty match is replaced."""
    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.Replace(Regex("(?=[A-Z])"), "a")
    t.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    t.train_from_iterator(TRAIN * 3, trainers.BpeTrainer(vocab_size=420, min_frequency=2, show_progress=False, limit_alphabet=60))
    t.decoder = decoders.Fuse()
    t = edited(t, lambda doc: doc["model"].update(merges=doc["model"]["merges"] + doc["model"]["merges"][:40:2]))
    t.add_special_tokens([special(BEGIN), special(END)])
    return t


def cutters():
    """Pre-tokenizers that other families combine: punctuation, digit runs, a plain string, whitespace."""
    return byte_level([pre_tokenizers.Punctuation("contiguous"), pre_tokenizers.Split("ab", "merged_with_next"),
                       pre_tokenizers.Split(Regex(r"\s+"), "merged_with_previous"), pre_tokenizers.Digits(individual_digits=False),
                       pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)], size=420)


# ---- GGUF ----------------------------------------------------------------------------------------------


def write_vocab(path, model, pre, tokens, types, merges=None, scores=None, arch="llama", **extra):
    w = gguf.GGUFWriter(path, arch)
    w.add_tokenizer_model(model)
    if pre:
        w.add_tokenizer_pre(pre)
    w.add_token_list(tokens)
    w.add_token_types(types)
    if merges is not None:
        w.add_token_merges(merges)
    if scores is not None:
        w.add_token_scores(scores)
    for name, value in extra.items():
        getattr(w, "add_" + name)(value)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def gguf_of(path, t, pre, **extra):
    """What a converter writes for a byte-level tokenizer.json."""
    doc = json.loads(t.to_str())
    n = t.get_vocab_size()
    flags = {a["id"]: 3 if a["special"] else 4 for a in doc["added_tokens"]}
    write_vocab(path, "gpt2", pre, [t.id_to_token(i) for i in range(n)], [flags.get(i, 1) for i in range(n)],
                merges=[" ".join(m) for m in doc["model"]["merges"]], **extra)


def gguf_of_sp(path, sp, model="llama", added=(), **extra):
    n = sp.get_piece_size()
    types = [2 if sp.is_unknown(i) else 3 if sp.is_control(i) else 6 if sp.is_byte(i) else 1 for i in range(n)]
    write_vocab(path, model, "default", [*(sp.id_to_piece(i) for i in range(n)), *added], types + [3] * len(added),
                scores=[float(sp.get_score(i)) for i in range(n)] + [-1000.0] * len(added), bos_token_id=1,
                eos_token_id=2, unk_token_id=0, **extra)


# ---- golden ----------------------------------------------------------------------------------------------


def decodings(t, rng, ids_of_texts, bytes_of):
    """Ids of some texts, and random ones, whose bytes need not be UTF-8: broken sequences become U+FFFD."""
    out = [{"ids": ids, "text": t.decode(ids, skip_special_tokens=False),
            "shown": t.decode(ids, skip_special_tokens=True)} for ids in ids_of_texts[15::6] if len(ids) < 200]
    # This library spells normalized added tokens in normal form; Lodge spells them as given.
    quirky = {a["id"] for a in json.loads(t.to_str())["added_tokens"] if a["normalized"]}
    out = [e for e in out if not quirky & set(e["ids"])]
    while len(out) < 30:
        ids = [int(i) for i in rng.integers(0, t.get_vocab_size(), 24)]
        if bytes_of:
            e = {"ids": ids, "text": bytes_of(ids, True), "shown": bytes_of(ids, False)}
        else:
            e = {"ids": ids, "text": t.decode(ids, skip_special_tokens=False),
                 "shown": t.decode(ids, skip_special_tokens=True)}
        if "\0" not in e["text"] and not quirky & set(ids):  # which the test's JSON reader refuses
            out.append(e)
    return out


def sp_bytes(t, strips, with_bytes=True):
    """SentencePiece text as its bytes say: the library replaces every byte of a broken run, Lodge each
    maximal broken part once. Without bytes: a decoder that shows <0x41> as it is spelled."""
    hidden = {a["id"] for a in json.loads(t.to_str())["added_tokens"] if a["special"]}

    def text(ids, with_special):
        raw = b""
        for i in ids:
            s = t.id_to_token(i)
            if i in hidden and not with_special:
                continue
            byte = with_bytes and len(s) == 6 and s.startswith("<0x")
            raw += bytes([int(s[3:5], 16)]) if byte else s.encode() if i in hidden else s.replace("▁", " ").encode()
        return (raw[1:] if strips and raw[:1] == b" " else raw).decode("utf-8", "replace")

    return text


def checksum(ids):
    return zlib.crc32(struct.pack(f"<{len(ids)}I", *ids))


def entry(name, file, t, rng, bytes_of=None):
    default = [t.encode(s, add_special_tokens=False).ids for s in NASTY]
    whole = [t.encode(s, add_special_tokens=True).ids for s in NASTY]
    free = without_control_pieces(t) if json.loads(t.to_str())["model"]["type"] == "Unigram" else t
    free.encode_special_tokens = True
    sums = lambda texts: [checksum(free.encode(s, add_special_tokens=False).ids) for s in texts]
    plain, drawn, broken = sums(NASTY), sums(RANDOM), sums(b.decode("utf-8", "replace") for b in BROKEN)
    free.encode_special_tokens = False
    e = {"name": name, "file": file, "size": t.get_vocab_size(), "special": [checksum(d) for d in default],
         "plain": plain, "broken": broken, "random": drawn, "affix": whole[0],
         "decode": decodings(t, rng, default, bytes_of)}
    assert all(w in (whole[0] + d, d + whole[0]) for w, d in zip(whole, default))
    return e


def sp_entry(name, file, sp, t, rng):
    """A GGUF file with scores: sentencepiece itself says how text is cut; control tokens are never recognised."""
    e = entry(name, file, t, rng, sp_bytes(t, True))
    sums = lambda texts: [checksum(sp.encode(s)) for s in texts]
    return {**e, "special": None, "plain": sums(NASTY), "random": sums(RANDOM),
            "broken": sums(b.decode("utf-8", "replace") for b in BROKEN)}


# ---- pre-tokenizers by name ------------------------------------------------------------------------------


BEHAVIORS = ["removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"]


def old_cased():
    """The letters with case that the model's pattern lists, as ranges of code points."""
    ranges = """41-5A 61-7A B5 C0-D6 D8-F6 F8-1BA 1BC-1BF 1C4-293 295-2AF 370-373 376 377 37B-37D 37F 386 388-38A 38C 38E-3A1 3A3-3F5
    3F7-481 48A-52F 531-556 10A0-10C5 13A0-13F5 13F8-13FD 1C90-1CBA 1CBD-1CBF 1D00-1D2B 1D6B-1D77 1D79-1D9A 1E00-1F15 1F18-1F1D 1F20-1F45
    1F48-1F4D 1F50-1F57 1F59 1F5B 1F5D 1F5F-1F7D 1F80-1FB4 1FB6-1FBC 1FBE 1FC2-1FC4 1FC6-1FCC 1FD0-1FD3 1FD6-1FDB 1FE0-1FEC 1FF2-1FF4
    1FF6-1FFC 2102 2107 210A-2113 2115 2119-211D 2124 2126 2128 212A-212D 212F-2134 2139 213C-213F 2145-2149 214E 2183 2184 2C00-2C7B
    2C7E-2CE4 2CEB-2CEE 2CF2 2CF3 A640-A66D A680-A69B A722-A76F A771-A787 A78B-A78E AB70-ABBF FB00-FB06 FB13-FB17 FF21-FF3A FF41-FF5A
    10400-1044F 104B0-104D3 104D8-104FB 10C80-10CB2 10CC0-10CF2 118A0-118DF 1E900-1E943"""
    return "".join("-".join(chr(int(c, 16)) for c in r.split("-")) for r in ranges.split())


def named_pre_tokenizers():
    """What each name of tokenizer.ggml.pre stands for in tokenizer.json: (names, NFC, steps)."""
    regex = lambda *patterns: [pre_tokenizers.Split(Regex(p), "isolated") for p in patterns]
    digits = [pre_tokenizers.Digits(individual_digits=True)]
    gpt2 = [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    return [
        (["llama-bpe", "llama3", "llama-v3", "falcon3", "lfm2", "pixtral", "dbrx", "smaug-bpe", "chatglm-bpe", "glm4"], False, regex(LLAMA3)),
        (["qwen2", "qwen25", "deepseek-r1-qwen", "megrez"], True, regex(QWEN2)), (["grok-2"], False, regex(QWEN2)),
        (["qwen35"], True, regex(QWEN35)), (["smollm", "starcoder", "refact"], False, digits + gpt2),
        (["command-r"], True, digits + gpt2), (["gpt-2", "gpt2", "phi-2", "roberta-bpe"], False, gpt2),
        (["olmo", "mpt"], True, gpt2), (["tekken"], False, regex(TEKKEN)), (["gpt-4o", "llama4"], False, regex(GPT4O)),
        (["seed-coder"], False, regex(SEED_CODER)), (["bailingmoe", "bailingmoe2", "llada-moe"], False, regex(BAILING)),
        (["bloom", "poro-chat", "gpt3-finnish"], False, regex(BLOOM)), (["viking"], False, regex(BLOOM, r"\p{N}")),
        (["minicpm5"], False, regex(r"\p{N}{1,3}", QWEN2.replace(r"\p{N}|", r"\p{N}+|"))),
        (["deepseek-llm"], False, regex(r"[\r\n]", rf"\s?[{old_cased()}]+", r"\s?[!-/:-~！-／：-～‘-‟\u3000-。]+", r"\s+$", "[一-龥ࠀ-一가-퟿]+") + digits),
        (["deepseek-coder"], False, regex(r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+") + digits),
        (["deepseek-v3", "hunyuan-dense", "joyai-llm"], False, regex(r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK3)),
        # Not names of GGUF: what PCRE2 and Oniguruma read differently.
        ([], False, regex(r"\w+|\s$|^\W", r"\p{Han}+|\p{Hiragana}")), ([], False, [pre_tokenizers.Whitespace()]),
        ([], False, regex(r"[^\W\d_]+|[\W_]", r"[^\S\r\n]+|[\S\n]+")), ([], False, regex(r"\b", r"a{,3}b|\v|[\v!]|\u0041")),
        ([], False, regex(r"(?m:a.b|\).)|\B-\B")), ([], False, regex(r"(?<=[a-z])(?=[A-Z])|[0-9]", "x*")),
        ([], False, [pre_tokenizers.Split(Regex("(?=(\\d{3})+(?!\\d))"), "merged_with_next")]),
    ] + [
        ([], False, [pre_tokenizers.Punctuation(b)]) for b in BEHAVIORS
    ] + [
        ([], False, [pre_tokenizers.Split(Regex("a|[.,]| ?[0-9]"), b, invert=invert)]) for b in BEHAVIORS for invert in (False, True)
    ]


def pre_entries(out):
    """One vocabulary, trained on whole lines so that merges cross every border a pre-tokenizer may cut at."""
    t = byte_level([pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)], size=700)
    t.encode_special_tokens = True
    with open(f"{out}/lines.json", "w") as f:
        json.dump(json.loads(t.to_str()), f, ensure_ascii=False, separators=(",", ":"))
    entries = []
    for names, nfc, steps in named_pre_tokenizers():
        if not isinstance(steps[-1], pre_tokenizers.ByteLevel):
            steps = steps + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        t.pre_tokenizer = pre_tokenizers.Sequence(steps)
        t.normalizer = normalizers.NFC() if nfc else normalizers.Sequence([])
        t.encode_special_tokens = True
        doc = json.loads(t.to_str())
        entries.append({"names": names, "normalizer": doc["normalizer"], "pre_tokenizer": doc["pre_tokenizer"],
                        "ids": [checksum(t.encode(s).ids) for s in NASTY + RANDOM]})
    return {"file": "lines.json", "entries": entries}


def config_entries(out):
    """What transformers adds to a text, by what tokenizer_config.json says beside the post-processor."""
    names = {"bos_token": BEGIN, "eos_token": END}
    flags = [{}, {"add_bos_token": False}, {"add_bos_token": True}, {"add_eos_token": True}, {"add_eos_token": False},
             {"add_bos_token": True, "add_eos_token": True}]
    entries = []
    for file in ("llama3.json", "qwen2.json"):  # one has a BOS in its post-processor
        for config in [{**names, **f} for f in flags] + [{"add_bos_token": True}]:
            t = transformers.PreTrainedTokenizerFast(tokenizer_file=f"{out}/{file}", **config)
            entries.append({"file": file, "config": config, "ids": t("")["input_ids"]})
    return entries


def main():
    out = sys.argv[1]
    shutil.rmtree(out, ignore_errors=True)
    os.makedirs(out)
    rng = np.random.default_rng(11)
    entries = []
    makers = {"llama3": (llama3, "llama-bpe"), "qwen2": (qwen2, "qwen2"), "smollm2": (smollm2, "smollm"),
              "gpt2": (gpt2, "gpt-2"), "gpt2-prefix": (gpt2_prefix, None), "tekken": (tekken, "tekken"),
              "added": (added, None), "swallowing": (swallowing, None), "dropping": (dropping, None), "cutters": (cutters, None)}
    for name, (make, pre) in makers.items():
        t = make()
        with open(f"{out}/{name}.json", "w") as f:
            json.dump(json.loads(t.to_str()), f, ensure_ascii=False, separators=(",", ":"))
        entries.append(entry(name, f"{name}.json", t, rng))
        if pre:
            gguf_of(f"{out}/{name}.gguf", t, pre, bos_token_id=t.token_to_id(BEGIN), eos_token_id=t.token_to_id(END))
            entries.append({"name": name + " in GGUF", "file": f"{name}.gguf", "same_as": len(entries) - 1})
    sp = train_sentencepiece()
    for name, make, strips in (("llama2", llama2, True), ("mistral", mistral, True), ("metaspace", metaspace, True),
                               ("phi3", phi3, True), ("gemma", gemma, False)):
        t = make(sp)
        with open(f"{out}/{name}.json", "w") as f:
            json.dump(json.loads(t.to_str()), f, ensure_ascii=False, separators=(",", ":"))
        entries.append(entry(name, f"{name}.json", t, rng, sp_bytes(t, strips, name != "metaspace")))
    gguf_of_sp(f"{out}/llama2.gguf", sp)
    entries.append(sp_entry("llama2 in GGUF", "llama2.gguf", sp, llama2(sp), rng))
    gguf_of_sp(f"{out}/phi3.gguf", sp, added=[*TURNS, "<|endoftext|>"], arch="phi3")
    entries.append(sp_entry("phi3 in GGUF", "phi3.gguf", sp, phi3(sp), rng))
    entries[-1]["special"] = [checksum(phi3(sp).encode(s, add_special_tokens=False).ids) for s in NASTY]
    mapped, bytes_too = train_unigram(RULES), train_unigram({}, byte_fallback=True, remove_extra_whitespaces=False)
    for name, make, sp, bytes_of in (("unigram", unigram, mapped, None), ("unigram-words", unigram_words, mapped, None),
                                     ("unigram-bytes", unigram_bytes, bytes_too, lambda t: sp_bytes(t, True))):
        t = make(sp)
        with open(f"{out}/{name}.json", "w") as f:
            json.dump(json.loads(t.to_str()), f, ensure_ascii=False, separators=(",", ":"))
        entries.append(entry(name, f"{name}.json", t, rng, bytes_of and bytes_of(t)))
    gguf_of_sp(f"{out}/unigram.gguf", mapped, "t5", precompiled_charsmap=charsmap_of(mapped), remove_extra_whitespaces=True)
    entries.append(sp_entry("unigram in GGUF", "unigram.gguf", mapped, unigram(mapped), rng))
    gguf_of_sp(f"{out}/unigram-bytes.gguf", bytes_too, "t5", add_eos_token=False, add_bos_token=True)
    entries.append(sp_entry("unigram-bytes in GGUF", "unigram-bytes.gguf", bytes_too, unigram_bytes_plain(bytes_too), rng))
    if len(sys.argv) > 2:
        entries.append(entry("default-model", None, tokenizer_of(gguf.GGUFReader(sys.argv[2])), rng))
    doc = {"texts": NASTY, "random": RANDOM, "broken": [b.hex() for b in BROKEN], "pre": pre_entries(out),
           "configs": config_entries(out)}
    with open(f"{out}/golden.json", "w") as f:
        f.write(json.dumps(doc, ensure_ascii=True)[:-1] + ', "vocabularies": [\n')
        f.write(",\n".join(json.dumps(e, ensure_ascii=True, separators=(",", ":")) for e in entries) + "\n]}\n")
    print(len(NASTY), "texts,", len(entries), "vocabularies")


if __name__ == "__main__":
    main()
