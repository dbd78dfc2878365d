/* What the parts of the tokenizer share. Private to engine/text. */
#ifndef LODGE_ENGINE_TEXT_INTERNAL_H
#define LODGE_ENGINE_TEXT_INTERNAL_H

#define PCRE2_CODE_UNIT_WIDTH 8

#include "base/arena.h"
#include "engine/text/tokenizer.h"

#include <pcre2.h>

#define MAX_STEPS 16u

static const char blank_mark[] = "\xE2\x96\x81"; /* U+2581, sentencepiece's blank */

/* Bytes -> u32, open addressing; keys are borrowed. */
struct span_map {
    struct span_slot {
        struct lodge_span key;
        uint32_t value;
    } * slots;
    size_t mask;
};
/* Pair of ids -> merge. */
struct pair_map {
    struct pair_slot {
        uint64_t key; /* left << 32 | right, plus 1; 0: empty */
        uint32_t rank, id;
    } * slots;
    size_t mask;
};

/* Byte strings -> ids; see trie.c. Node 0 is the root. */
#define TRIE_NONE UINT32_MAX
struct trie {
    struct trie_node {
        uint32_t child; /* the first of n children, sorted by byte */
        uint32_t id;    /* TRIE_NONE: no key ends here */
        uint16_t n;
        uint8_t byte;
    } * nodes;
};
struct trie_key {
    struct lodge_span text;
    uint32_t id;
};

/* A vocabulary whose pieces have scores (log-probabilities) and are chosen by their sum. */
struct unigram {
    struct trie trie;
    double *scores; /* of every token */
    double unknown_score;
    bool single; /* sums are rounded to single precision */
};

struct token {
    struct lodge_span text;  /* spelling */
    struct lodge_span bytes; /* what it stands for */
    float score;
    bool special;
    bool outside; /* an added token that the model's own vocabulary lacks: no merge leads to it */
};

struct added_token {
    struct lodge_span text; /* normalised where `normalized` */
    uint32_t id;
    bool special, single_word, lstrip, rstrip, normalized;
};

enum norm_kind {
    NORM_PREPEND,
    NORM_REPLACE,
    NORM_UNICODE, /* NFC and friends: flags of utf8proc in `arg` */
    NORM_LOWER,
    NORM_STRIP,  /* arg: 1 left, 2 right */
    NORM_REGEX,  /* matches of `regex` become `to` */
    NORM_MAP,    /* arg: 1 longest keys, 0 as the tokenizers library */
    NORM_SPACES, /* sentencepiece's: runs of blanks become one, none at the ends */
};
struct norm_step {
    enum norm_kind kind;
    int arg;
    struct lodge_span from, to;
    pcre2_code *regex;
    const struct charsmap *map;
};

enum split_kind {
    SPLIT_REGEX,
    SPLIT_DIGITS, /* arg: 1 each digit by itself */
    SPLIT_METASPACE,
    SPLIT_WHITESPACE,
    SPLIT_PREFIX_SPACE, /* byte level: a space before a piece that has none */
};
enum split_behavior {
    BEHAVIOR_REMOVED,
    BEHAVIOR_ISOLATED,
    BEHAVIOR_PREVIOUS,
    BEHAVIOR_NEXT,
    BEHAVIOR_CONTIGUOUS,
};
enum prepend_scheme { PREPEND_ALWAYS, PREPEND_FIRST, PREPEND_NEVER };
struct split_step {
    enum split_kind kind;
    enum split_behavior behavior;
    bool invert;
    int arg;
    pcre2_code *regex;
    struct lodge_span replacement; /* metaspace */
    enum prepend_scheme scheme;
    bool split; /* metaspace: cut before each replacement character */
};

struct lodge_tokenizer {
    struct lodge_arena arena;
    struct token *tokens;
    uint32_t n_tokens;
    struct span_map by_text;  /* spelling -> id, all tokens */
    struct span_map by_piece; /* what merging sees: bytes (byte level) or spelling -> id */
    struct pair_map merges;
    struct unigram *unigram; /* or NULL: pieces are merged */
    bool byte_level;         /* symbols are bytes; else characters */
    bool by_score;           /* merge by score of the merged token instead of ranked pairs */
    bool byte_fallback, fuse_unk, ignore_merges;
    int64_t unk, bos, eos;
    json_t *special;           /* texts by name */
    int32_t byte_id[256];      /* <0xHH>, -1 when absent */
    struct added_token *added; /* sorted by text */
    uint32_t n_added;
    struct norm_step norms[MAX_STEPS];
    uint32_t n_norms;
    struct split_step splits[MAX_STEPS];
    uint32_t n_splits;
    uint32_t *prefix, *suffix; /* post-processor */
    uint32_t n_prefix, n_suffix;
    uint32_t ends[64];
    uint32_t n_ends;
    bool strips_space;
    bool blanks, byte_tokens; /* in decoded text U+2581 is a blank, <0xHH> a byte */
};

/* vocab.c */
bool span_map_init(struct span_map *m, struct lodge_arena *a, size_t n);
/* Keeps the first value of a key. */
void span_map_put(struct span_map *m, struct lodge_span key, uint32_t value);
int64_t span_map_get(const struct span_map *m, const char *s, size_t n);
bool pair_map_init(struct pair_map *m, struct lodge_arena *a, size_t n);
void pair_map_put(struct pair_map *m, uint32_t left, uint32_t right, uint32_t rank, uint32_t id);
/* Adds a merge, unless it would make a control token. */
void put_merge(struct lodge_tokenizer *t, uint32_t left, uint32_t right, uint32_t rank,
               uint32_t id);
const struct pair_slot *pair_map_get(const struct pair_map *m, uint32_t left, uint32_t right);
struct lodge_span keep_span(struct lodge_arena *a, const char *s, size_t n);
/* Spelling of a byte-level token to its bytes; n == SIZE_MAX when it has characters outside the
 * alphabet. */
struct lodge_span bytes_of_alphabet(struct lodge_arena *a, struct lodge_span text);
/* Fills token bytes, the maps and byte ids from tokens[].text. NOMEM. */
int index_tokens(struct lodge_tokenizer *t, struct lodge_error *e);
void add_end(struct lodge_tokenizer *t, int64_t id);
/* Makes an id that is there what the post-processor adds at an end, if it is wanted. NOMEM. */
int set_affix(struct lodge_tokenizer *t, bool add, int64_t id, uint32_t **list, uint32_t *n);
/* Ends the texts that every model family uses as end of turn. */
void add_known_ends(struct lodge_tokenizer *t);
/* Sorts and indexes the added tokens (normalised ones are normalised). */
int index_added(struct lodge_tokenizer *t, struct lodge_error *e);

/* normalize.c: out is cleared and filled. NOMEM or LIMIT. */
int normalize(const struct lodge_tokenizer *t, const char *s, size_t n, struct lodge_buf *out);

/* charsmap.c. Copies a compiled character map; NULL when it is broken, or without memory. */
const struct charsmap *charsmap_create(struct lodge_arena *a, const void *data, size_t n);
/* Appends the mapped text: the longest key at every position, as sentencepiece does. */
void charsmap_longest(const struct charsmap *m, const char *s, size_t n, struct lodge_buf *out);
/* The same as the tokenizers library does: short grapheme clusters whole, else each character;
 * the shortest key counts. */
void charsmap_clusters(const struct charsmap *m, const char *s, size_t n, struct lodge_buf *out);

/* trie.c. Sorts the keys; of equal ones the largest id stays. Depth and time are bounded by the
 * keys' bytes. false without memory. */
bool trie_build(struct trie *t, struct lodge_arena *a, struct trie_key *keys, uint32_t n);
/* The child of a node for a byte, 0 when there is none. */
uint32_t trie_step(const struct trie *t, uint32_t node, uint8_t byte);

/* regex.c */
/* Compiles a pattern as tokenizer files mean it; UNSUPPORTED where that is not certain. */
int compile_regex(const char *pattern, size_t n, pcre2_code **out, struct lodge_error *e);
/* Bound of one match's work over a text of n bytes, so that a pattern cannot backtrack for ever. */
uint32_t match_limit(size_t n);
/* Where the search goes on after an empty match at `at`, of which only one directly behind another
 * match does not count. */
size_t next_char(const char *s, size_t at, size_t n);

/* split.c */
struct piece {
    size_t begin, end;
};
struct pieces {
    struct piece *list;
    size_t n, room;
};
/* Cuts text (which it may rewrite) into pieces. at_start: the text begins the whole input. */
int split(const struct lodge_tokenizer *t, struct lodge_buf *text, bool at_start,
          struct pieces *out);

/* vocab.c. A special token's text by its name in chat templates; NOMEM. An id below 0 is "". */
int name_special(struct lodge_tokenizer *t, const char *name, const char *text, size_t n);
int name_special_id(struct lodge_tokenizer *t, const char *name, int64_t id);

/* pre.c. Normaliser and pre-tokenizer by the name that GGUF files give them. */
int set_pre_tokenizer(struct lodge_tokenizer *t, const char *name, bool *add_bos,
                      struct lodge_error *e);
extern const char gpt2_pattern[];

/* unigram.c */
struct lattice; /* scratch memory of one encoding */
struct lattice *lattice_create(void);
void lattice_destroy(struct lattice *l);
int unigram_piece(const struct lodge_tokenizer *t, struct lattice *l, const char *s, size_t n,
                  struct lodge_tokens *out);
/* Makes the tokenizer choose by score. usable: which tokens text may become. NOMEM. */
int index_unigram(struct lodge_tokenizer *t, const double *scores, const bool *usable, bool single,
                  struct lodge_error *e);

/* merge.c */
struct merger; /* scratch memory of one encoding */
struct merger *merger_create(void);
void merger_destroy(struct merger *m);
/* Appends the ids of one piece. */
int merge_piece(const struct lodge_tokenizer *t, struct merger *m, const char *s, size_t n,
                struct lodge_tokens *out);

/* What is no token: its bytes, or the unknown token, once for a run where it fuses. */
bool emit_unknown(const struct lodge_tokenizer *t, const char *s, uint32_t n, bool *was_unk,
                  struct lodge_tokens *out);

/* added.c: the next added token of a text among those with `normalized` as given, and without the
 * special ones unless `special`; false when there is none. One that may not stand where it is found
 * hides those within it. */
struct added_match {
    const struct added_token *token;
    size_t text, next; /* its own text; the search goes on behind it */
    size_t begin, end; /* with the white space it swallows, in which another may lie */
    size_t blanks;     /* the end of the white space that was swallowed last */
};
/* m: zeros, or the match before. */
bool next_added(const struct lodge_tokenizer *t, const char *s, size_t n, bool normalized,
                bool special, struct added_match *m);
bool is_space(uint32_t cp);
/* Is there white space at s[at]? *len: bytes of the character. */
bool space_at(const char *s, size_t n, size_t at, size_t *len);

#endif
