/* Tokenizer: text to token ids and back, for byte-level BPE, SentencePiece-style BPE and Unigram.
 *
 * Encoding runs in the order of Hugging Face's tokenizers library: cut out added tokens, normalise
 * the rest, pre-tokenise, merge each piece, post-process. Merging is a heap over linked symbols,
 * n log n at worst on any text; Unigram is Viterbi over a trie, n times the longest piece. Broken
 * UTF-8 in the input is replaced by U+FFFD first.
 *
 * Immutable after creation: any thread may encode and decode at any time.
 * Source: the tokenizer.json format (Hugging Face tokenizers), GGUF's tokenizer.ggml.* keys.
 */
#ifndef LODGE_ENGINE_TEXT_TOKENIZER_H
#define LODGE_ENGINE_TEXT_TOKENIZER_H

#include "base/buf.h"
#include "base/error.h"
#include "base/span.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct lodge_tokenizer;

/* What a GGUF file says about its vocabulary. Spans stay owned by the file and may go away after
 * creation. */
struct lodge_vocab_source {
    const char *model; /* "gpt2" (byte-level BPE), "llama" (SentencePiece BPE), "t5" (Unigram) */
    const char *pre;   /* name of the pre-tokenizer pattern, gpt2 only; may be NULL */
    uint32_t n_tokens;
    const struct lodge_span *tokens;
    const float *scores;  /* "llama": priority of merging into this token; "t5": log-probability */
    const int32_t *types; /* 1 normal 2 unknown 3 control 4 user-defined 5 unused 6 byte; or NULL */
    uint32_t n_merges;
    const struct lodge_span *merges;           /* "left right" */
    int64_t bos, eos, unk, pad, eot, eom;      /* -1: absent */
    int8_t add_bos, add_eos, add_space_prefix; /* -1: the model's default */
    int8_t remove_extra_spaces;                /* "t5"; -1: no */
    struct lodge_span charsmap;                /* "t5": its character map, or empty */
    bool swallows_blanks; /* control and user-defined tokens swallow the white space behind them,
                             but <unk>, <s> and <|endoftext|> do not: Phi-3 */
};

/* FORMAT or UNSUPPORTED name the component or token that cannot be used. */
int lodge_tokenizer_from_vocab(const struct lodge_vocab_source *src, struct lodge_tokenizer **out,
                               struct lodge_error *e);
/* tokenizer.json (and tokenizer_config.json if there) of a directory. eos: ids that end a text by
 * the model's own files. */
int lodge_tokenizer_from_dir(const char *dir, const uint32_t *eos, uint32_t n_eos,
                             struct lodge_tokenizer **out, struct lodge_error *e);
/* From parsed JSON; config may be NULL. */
int lodge_tokenizer_from_json(const json_t *tokenizer, const json_t *config, const char *where,
                              const uint32_t *eos, uint32_t n_eos, struct lodge_tokenizer **out,
                              struct lodge_error *e);
void lodge_tokenizer_destroy(struct lodge_tokenizer *t);

/* Ids are below this. */
uint32_t lodge_tokenizer_size(const struct lodge_tokenizer *t);

/* Growable list of ids; zero-initialise, end with lodge_tokens_finish. */
struct lodge_tokens {
    uint32_t *ids;
    size_t n;
    size_t _room;
};
void lodge_tokens_finish(struct lodge_tokens *t);
/* false without memory. */
bool lodge_tokens_push(struct lodge_tokens *t, uint32_t id);

enum {
    LODGE_ENCODE_SPECIAL = 1, /* control tokens written in the text are recognised; other added
                                 tokens always are */
    LODGE_ENCODE_ADD = 2,     /* BOS and EOS as the model wants them */
};

/* Appends the ids of a text. LIMIT when there would be more than max_tokens in `out`. */
int lodge_tokenizer_encode(const struct lodge_tokenizer *t, const char *text, size_t n,
                           unsigned flags, size_t max_tokens, struct lodge_tokens *out,
                           struct lodge_error *e);

/* A part of a rendered chat: trusted text may contain control tokens, user text never does. */
struct lodge_text_part {
    size_t begin, end;
    bool user;
};
/* Encodes a text whose parts cover it in order. Where no user part contains the text of a control
 * token the whole text is encoded at once, so that ids equal those of other implementations; else
 * control tokens are matched in trusted parts only. */
int lodge_tokenizer_encode_parts(const struct lodge_tokenizer *t, const char *text,
                                 const struct lodge_text_part *parts, size_t n_parts,
                                 size_t max_tokens, struct lodge_tokens *out,
                                 struct lodge_error *e);

/* Bytes that a token stands for in text; *special: a control token, normally not shown. "" for an
 * id out of range. */
const char *lodge_tokenizer_bytes(const struct lodge_tokenizer *t, uint32_t id, size_t *n,
                                  bool *special);
/* The token as the vocabulary spells it. */
const char *lodge_tokenizer_text(const struct lodge_tokenizer *t, uint32_t id, size_t *n);
/* Id of a token by its spelling, or -1. */
int64_t lodge_tokenizer_find(const struct lodge_tokenizer *t, const char *text, size_t n);

/* Texts of special tokens by the names that chat templates have for them: bos_token, eos_token,
 * unk_token, sep_token, pad_token, cls_token, mask_token, as tokenizer_config.json or the ids of a
 * GGUF file name them. The first two are always there, "" where the model has none. The tokenizer's
 * own; to be read only, by any thread. */
const json_t *lodge_tokenizer_special_texts(const struct lodge_tokenizer *t);
/* Does this id end a text? */
bool lodge_tokenizer_ends(const struct lodge_tokenizer *t, uint32_t id);
/* Makes an id one that ends a text. Only before the tokenizer is shared. */
void lodge_tokenizer_add_end(struct lodge_tokenizer *t, uint32_t id);
/* The added token that a text begins with, behind white space; -1 when there is none. */
int64_t lodge_tokenizer_leading_token(const struct lodge_tokenizer *t, const char *text, size_t n);
/* All ids that end a text. */
const uint32_t *lodge_tokenizer_ends_list(const struct lodge_tokenizer *t, uint32_t *n);
/* The decoder drops one space at the very start of a text (SentencePiece). */
bool lodge_tokenizer_strips_space(const struct lodge_tokenizer *t);

#endif
