#include "engine/text/internal.h"

#include "base/utf8.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static size_t slots_for(size_t n)
{
    size_t size = 16;
    while (size < n * 2 + 2)
        size *= 2;
    return size;
}

static uint64_t hash_bytes(const char *s, size_t n)
{
    uint64_t h = 0xcbf29ce484222325u ^ n;
    for (size_t i = 0; i < n; i++)
        h = (h ^ (uint8_t)s[i]) * 0x100000001b3u;
    h ^= h >> 32;
    return h * 0x9E3779B97F4A7C15u;
}

bool span_map_init(struct span_map *m, struct lodge_arena *a, size_t n)
{
    size_t size = slots_for(n);
    m->slots = lodge_arena_array(a, size, sizeof *m->slots);
    m->mask = size - 1;
    return m->slots != NULL;
}

static struct span_slot *span_slot(const struct span_map *m, const char *s, size_t n)
{
    for (size_t i = hash_bytes(s, n) >> 20;; i++) {
        struct span_slot *slot = &m->slots[i & m->mask];
        if (!slot->key.data || (slot->key.n == n && memcmp(slot->key.data, s, n) == 0))
            return slot;
    }
}

void span_map_put(struct span_map *m, struct lodge_span key, uint32_t value)
{
    struct span_slot *slot = span_slot(m, key.data, key.n);
    if (!slot->key.data)
        *slot = (struct span_slot){key, value};
}

int64_t span_map_get(const struct span_map *m, const char *s, size_t n)
{
    const struct span_slot *slot = span_slot(m, s, n);
    return slot->key.data ? (int64_t)slot->value : -1;
}

bool pair_map_init(struct pair_map *m, struct lodge_arena *a, size_t n)
{
    size_t size = slots_for(n);
    m->slots = lodge_arena_array(a, size, sizeof *m->slots);
    m->mask = size - 1;
    return m->slots != NULL;
}

static struct pair_slot *pair_slot(const struct pair_map *m, uint64_t key)
{
    for (size_t i = (key * 0x9E3779B97F4A7C15u) >> 20;; i++) {
        struct pair_slot *slot = &m->slots[i & m->mask];
        if (!slot->key || slot->key == key)
            return slot;
    }
}

void pair_map_put(struct pair_map *m, uint32_t left, uint32_t right, uint32_t rank, uint32_t id)
{
    uint64_t key = ((uint64_t)left << 32 | right) + 1;
    struct pair_slot *slot = pair_slot(m, key);
    if (!slot->key)
        *slot = (struct pair_slot){key, rank, id};
}

const struct pair_slot *pair_map_get(const struct pair_map *m, uint32_t left, uint32_t right)
{
    const struct pair_slot *slot = pair_slot(m, ((uint64_t)left << 32 | right) + 1);
    return slot->key ? slot : NULL;
}

void put_merge(struct lodge_tokenizer *t, uint32_t left, uint32_t right, uint32_t rank, uint32_t id)
{
    if (!t->tokens[id].special)
        pair_map_put(&t->merges, left, right, rank, id);
}

struct lodge_span keep_span(struct lodge_arena *a, const char *s, size_t n)
{
    const char *copy = lodge_arena_strndup(a, s, n);
    return (struct lodge_span){copy, copy ? n : 0};
}

/* Code point of the byte-level alphabet to its byte, -1 outside. Printable bytes stand for
 * themselves; the other 68 follow in order from U+0100. */
static int alphabet_byte(uint32_t cp)
{
    if ((cp >= 0x21 && cp <= 0x7E) || (cp >= 0xA1 && cp <= 0xAC) || (cp >= 0xAE && cp <= 0xFF))
        return (int)cp;
    if (cp < 0x100 || cp > 0x143)
        return -1;
    uint32_t k = cp - 0x100;
    return (int)(k < 0x21 ? k : k < 0x43 ? k - 0x21 + 0x7F : 0xAD);
}

struct lodge_span bytes_of_alphabet(struct lodge_arena *a, struct lodge_span text)
{
    char *out = lodge_arena_alloc(a, text.n + 1);
    struct lodge_span none = {NULL, SIZE_MAX};
    size_t n = 0;
    for (size_t i = 0; out && i < text.n;) {
        uint32_t cp;
        int len = lodge_utf8_decode((const uint8_t *)text.data + i, text.n - i, &cp);
        int byte = len > 0 ? alphabet_byte(cp) : -1;
        if (byte < 0)
            return none;
        out[n++] = (char)byte;
        i += (size_t)len;
    }
    return out ? (struct lodge_span){out, n} : none;
}

/* Value of "<0xHH>", -1 for other spellings. */
static int byte_token(struct lodge_span s)
{
    static const char digits[] = "0123456789ABCDEF";
    if (s.n != 6 || memcmp(s.data, "<0x", 3) != 0 || s.data[5] != '>')
        return -1;
    const char *high = memchr(digits, s.data[3], 16), *low = memchr(digits, s.data[4], 16);
    return high && low ? (int)((high - digits) * 16 + (low - digits)) : -1;
}

/* SentencePiece spelling to bytes. */
static struct lodge_span bytes_of_piece(struct lodge_tokenizer *t, struct lodge_span text)
{
    char *out = lodge_arena_alloc(&t->arena, text.n + 1);
    if (!out)
        return (struct lodge_span){NULL, 0};
    int byte = t->byte_tokens ? byte_token(text) : -1;
    if (byte >= 0) {
        out[0] = (char)byte;
        return (struct lodge_span){out, 1};
    }
    size_t n = 0;
    for (size_t i = 0; i < text.n;) {
        if (t->blanks && text.n - i >= 3 && memcmp(text.data + i, blank_mark, 3) == 0) {
            out[n++] = ' ';
            i += 3;
        } else {
            out[n++] = text.data[i++];
        }
    }
    return (struct lodge_span){out, n};
}

static bool is_added(const struct lodge_tokenizer *t, uint32_t id)
{
    for (uint32_t i = 0; i < t->n_added; i++)
        if (t->added[i].id == id)
            return true;
    return false;
}

int index_tokens(struct lodge_tokenizer *t, struct lodge_error *e)
{
    bool ok = span_map_init(&t->by_text, &t->arena, t->n_tokens) &&
              span_map_init(&t->by_piece, &t->arena, t->n_tokens);
    uint8_t *added = calloc(t->n_tokens + 1, 1);
    ok = ok && added;
    for (uint32_t i = 0; ok && i < t->n_added; i++)
        added[t->added[i].id] = 1;
    for (int i = 0; i < 256; i++)
        t->byte_id[i] = -1;
    for (uint32_t i = 0; ok && i < t->n_tokens; i++) {
        struct token *tok = &t->tokens[i];
        if (!tok->text.data)
            tok->text = tok->bytes = (struct lodge_span){"", 0};
        if (!tok->text.n)
            continue;
        span_map_put(&t->by_text, tok->text, i);
        struct lodge_span piece =
            t->byte_level ? bytes_of_alphabet(&t->arena, tok->text) : tok->text;
        if (t->byte_level)
            tok->bytes = added[i] || piece.n == SIZE_MAX ? tok->text : piece;
        else
            tok->bytes = bytes_of_piece(t, tok->text);
        ok = tok->bytes.data != NULL;
        int byte = t->byte_level ? -1 : byte_token(tok->text);
        /* Merging must not make a control token, or a byte token, of text that spells one. */
        if (ok && piece.n != SIZE_MAX && !tok->special && !tok->outside &&
            !(t->by_score && byte >= 0))
            span_map_put(&t->by_piece, piece, i);
        if (byte >= 0)
            t->byte_id[byte] = (int32_t)i;
    }
    free(added);
    return ok ? 0 : lodge_fail(e, LODGE_ERR_NOMEM, "no memory for the vocabulary");
}

void add_end(struct lodge_tokenizer *t, int64_t id)
{
    if (id < 0 || id >= t->n_tokens || t->n_ends == sizeof t->ends / sizeof *t->ends)
        return;
    if (!lodge_tokenizer_ends(t, (uint32_t)id))
        t->ends[t->n_ends++] = (uint32_t)id;
}

void lodge_tokenizer_add_end(struct lodge_tokenizer *t, uint32_t id)
{
    add_end(t, id);
}

int set_affix(struct lodge_tokenizer *t, bool add, int64_t id, uint32_t **list, uint32_t *n)
{
    if (!add || id < 0)
        return 0;
    *list = lodge_arena_array(&t->arena, 1, sizeof **list);
    if (!*list)
        return LODGE_ERR_NOMEM;
    (*list)[0] = (uint32_t)id;
    *n = 1;
    return 0;
}

int64_t lodge_tokenizer_leading_token(const struct lodge_tokenizer *t, const char *text, size_t n)
{
    size_t at = 0, len;
    while (at < n && space_at(text, n, at, &len))
        at += len;
    for (int normalized = 0; normalized < 2; normalized++) {
        struct added_match m = {.next = at, .end = at};
        if (next_added(t, text, n, normalized, true, &m) && m.text == at)
            return m.token->id;
    }
    return -1;
}

void add_known_ends(struct lodge_tokenizer *t)
{
    static const char *const known[] = {
        "<|eot_id|>",
        "<|im_end|>",
        "<|end|>",
        "<end_of_turn>",
        "<|endoftext|>",
        "<|eom_id|>",
        "<EOT>",
        "_<EOT>",
        "<|end_of_text|>",
        "[EOT]",
        "<|return|>",
        "<end_of_utterance>",
        "<|endofturn|>",
        "<|END_OF_TURN_TOKEN|>",
        "<\uff5cend\u2581of\u2581sentence\uff5c>",
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        int64_t id = span_map_get(&t->by_text, known[i], strlen(known[i]));
        if (id >= 0 && is_added(t, (uint32_t)id))
            add_end(t, id);
    }
    add_end(t, t->eos);
}

uint32_t lodge_tokenizer_size(const struct lodge_tokenizer *t)
{
    return t->n_tokens;
}

const char *lodge_tokenizer_bytes(const struct lodge_tokenizer *t, uint32_t id, size_t *n,
                                  bool *special)
{
    bool known = id < t->n_tokens;
    *n = known ? t->tokens[id].bytes.n : 0;
    *special = known && t->tokens[id].special;
    return known ? t->tokens[id].bytes.data : "";
}

const char *lodge_tokenizer_text(const struct lodge_tokenizer *t, uint32_t id, size_t *n)
{
    bool known = id < t->n_tokens;
    *n = known ? t->tokens[id].text.n : 0;
    return known ? t->tokens[id].text.data : "";
}

int64_t lodge_tokenizer_find(const struct lodge_tokenizer *t, const char *text, size_t n)
{
    return span_map_get(&t->by_text, text, n);
}

int name_special(struct lodge_tokenizer *t, const char *name, const char *text, size_t n)
{
    if (!t->special)
        t->special = json_object();
    return json_object_set_new(t->special, name, json_stringn_nocheck(text, n)) ? LODGE_ERR_NOMEM
                                                                                : 0;
}

int name_special_id(struct lodge_tokenizer *t, const char *name, int64_t id)
{
    size_t n = 0;
    const char *text = id < 0 ? "" : lodge_tokenizer_text(t, (uint32_t)id, &n);
    return name_special(t, name, text, n);
}

const json_t *lodge_tokenizer_special_texts(const struct lodge_tokenizer *t)
{
    return t->special;
}

bool lodge_tokenizer_ends(const struct lodge_tokenizer *t, uint32_t id)
{
    for (uint32_t i = 0; i < t->n_ends; i++)
        if (t->ends[i] == id)
            return true;
    return false;
}

const uint32_t *lodge_tokenizer_ends_list(const struct lodge_tokenizer *t, uint32_t *n)
{
    *n = t->n_ends;
    return t->ends;
}

bool lodge_tokenizer_strips_space(const struct lodge_tokenizer *t)
{
    return t->strips_space;
}

void lodge_tokenizer_destroy(struct lodge_tokenizer *t)
{
    if (!t)
        return;
    for (uint32_t i = 0; i < t->n_splits; i++)
        pcre2_code_free(t->splits[i].regex);
    for (uint32_t i = 0; i < t->n_norms; i++)
        pcre2_code_free(t->norms[i].regex);
    json_decref(t->special);
    lodge_arena_finish(&t->arena);
    free(t);
}
