/* The model of tokenizer.json: vocabulary, added tokens, and merges (BPE) or scores (Unigram). */
#include "engine/text/load_hf.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int set_token(const struct load *l, const char *text, size_t n, const json_t *id)
{
    struct lodge_tokenizer *t = l->t;
    if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= t->n_tokens)
        return load_bad(l, "a token has no valid id");
    struct token *tok = &t->tokens[json_integer_value(id)];
    tok->text = keep_span(&t->arena, text, n);
    return tok->text.data ? 0 : lodge_fail(l->e, LODGE_ERR_NOMEM, "no memory for the vocabulary");
}

/* Room for ids up to `most`, or those of the added tokens if they go further (there may be gaps).
 */
static int make_room(const struct load *l, int64_t most, const json_t *added)
{
    for (size_t i = 0; i < json_array_size(added); i++) {
        int64_t n = json_integer_value(json_object_get(json_array_get(added, i), "id"));
        most = n > most ? n : most;
    }
    if (most < 0 || most >= (1 << 24))
        return load_bad(l, "the vocabulary is empty or has an impossible id");
    l->t->n_tokens = (uint32_t)most + 1;
    l->t->tokens = lodge_arena_array(&l->t->arena, l->t->n_tokens, sizeof *l->t->tokens);
    l->t->added = lodge_arena_array(&l->t->arena, json_array_size(added) + 1, sizeof *l->t->added);
    return l->t->tokens && l->t->added
               ? 0
               : lodge_fail(l->e, LODGE_ERR_NOMEM, "no memory for the vocabulary");
}

/* Does the vocabulary have this text under this id? */
static bool spells(const struct lodge_tokenizer *t, const json_t *id, const json_t *text)
{
    json_int_t n = json_is_integer(id) ? json_integer_value(id) : -1;
    const struct lodge_span *own = n >= 0 && n < t->n_tokens ? &t->tokens[n].text : NULL;
    return own && json_is_string(text) && own->n == json_string_length(text) && own->n &&
           memcmp(own->data, json_string_value(text), own->n) == 0;
}

static int load_added(const struct load *l, const json_t *added)
{
    struct lodge_tokenizer *t = l->t;
    for (size_t i = 0; i < json_array_size(added); i++) {
        const json_t *a = json_array_get(added, i), *text = json_object_get(a, "content");
        const json_t *id = json_object_get(a, "id");
        bool inside = spells(t, id, text);
        if (!json_is_string(text) || !json_string_length(text))
            return load_bad(l, "an added token has no content");
        int err = set_token(l, json_string_value(text), json_string_length(text), id);
        if (err)
            return err;
        uint32_t n = (uint32_t)json_integer_value(id);
        t->tokens[n].special = json_is_true(json_object_get(a, "special"));
        t->tokens[n].outside = !inside;
        t->added[t->n_added++] = (struct added_token){
            .text = t->tokens[n].text,
            .id = n,
            .special = t->tokens[n].special,
            .single_word = json_is_true(json_object_get(a, "single_word")),
            .lstrip = json_is_true(json_object_get(a, "lstrip")),
            .rstrip = json_is_true(json_object_get(a, "rstrip")),
            /* Control tokens are compared as written, so that no normal form of user text is one.
             */
            .normalized = json_is_true(json_object_get(a, "normalized")) && !t->tokens[n].special,
        };
    }
    return 0;
}

/* One merge: "a b", or ["a", "b"]. */
static bool merge_sides(const json_t *m, struct lodge_span *a, struct lodge_span *b)
{
    if (json_is_array(m) && json_array_size(m) == 2 && json_is_string(json_array_get(m, 0)) &&
        json_is_string(json_array_get(m, 1))) {
        *a = (struct lodge_span){json_string_value(json_array_get(m, 0)),
                                 json_string_length(json_array_get(m, 0))};
        *b = (struct lodge_span){json_string_value(json_array_get(m, 1)),
                                 json_string_length(json_array_get(m, 1))};
        return true;
    }
    const char *text = json_string_value(m), *gap = text && *text ? strchr(text + 1, ' ') : NULL;
    if (!gap)
        return false;
    *a = (struct lodge_span){text, (size_t)(gap - text)};
    *b = (struct lodge_span){gap + 1, strlen(gap + 1)};
    return true;
}

static int load_merges(const struct load *l, const json_t *merges)
{
    struct lodge_tokenizer *t = l->t;
    struct lodge_buf joined;
    lodge_buf_init(&joined, (size_t)1 << 20);
    int err = json_is_array(merges) && pair_map_init(&t->merges, &t->arena, json_array_size(merges))
                  ? 0
                  : load_bad(l, "the model has no merges");
    /* from the back: of equal ones the last counts */
    for (size_t i = json_array_size(merges); i-- > 0 && !err;) {
        struct lodge_span a = {0}, b = {0};
        bool ok = merge_sides(json_array_get(merges, i), &a, &b);
        lodge_buf_clear(&joined);
        lodge_buf_append(&joined, a.data, a.n);
        lodge_buf_append(&joined, b.data, b.n);
        int64_t left = ok ? span_map_get(&t->by_text, a.data, a.n) : -1;
        int64_t right = ok ? span_map_get(&t->by_text, b.data, b.n) : -1;
        int64_t both = ok ? span_map_get(&t->by_text, lodge_buf_text(&joined), joined.n) : -1;
        if (left < 0 || right < 0 || both < 0)
            err = lodge_fail(l->e, LODGE_ERR_FORMAT,
                             "%s: merge %zu names a token that is not in the vocabulary", l->where,
                             i);
        else
            put_merge(t, (uint32_t)left, (uint32_t)right, (uint32_t)i, (uint32_t)both);
    }
    lodge_buf_finish(&joined);
    return err;
}

/* What follows once the vocabulary's tokens are known. */
static int index_vocabulary(const struct load *l, const json_t *added)
{
    int err = load_added(l, added);
    if (!err)
        err = index_added(l->t, l->e);
    return err ? err : index_tokens(l->t, l->e);
}

static int load_bpe(const struct load *l, const json_t *model, const json_t *added)
{
    const json_t *vocab = json_object_get(model, "vocab");
    struct lodge_tokenizer *t = l->t;
    const char *prefix = json_string_value(json_object_get(model, "continuing_subword_prefix"));
    const char *suffix = json_string_value(json_object_get(model, "end_of_word_suffix"));
    if (!json_is_object(vocab))
        return load_bad(l, "the tokenizer model has no vocabulary");
    if ((prefix && *prefix) || (suffix && *suffix))
        return load_unsupported(
            l, "BPE with", prefix && *prefix ? "continuing_subword_prefix" : "end_of_word_suffix");
    t->fuse_unk = json_is_true(json_object_get(model, "fuse_unk"));
    t->ignore_merges = json_is_true(json_object_get(model, "ignore_merges"));
    int64_t most = -1;
    const char *text;
    json_t *id;
    json_object_foreach((json_t *)(uintptr_t)vocab, text, id)
    {
        if (json_integer_value(id) > most)
            most = json_integer_value(id);
    }
    int err = make_room(l, most, added);
    json_object_foreach((json_t *)(uintptr_t)vocab, text, id)
    {
        if (!err)
            err = set_token(l, text, strlen(text), id);
    }
    if (!err)
        err = index_vocabulary(l, added);
    if (!err)
        err = load_merges(l, json_object_get(model, "merges"));
    const char *unk = json_string_value(json_object_get(model, "unk_token"));
    if (!err && unk)
        t->unk = span_map_get(&t->by_text, unk, strlen(unk));
    return err;
}

/* One entry of a Unigram vocabulary: [piece, score]. */
static int set_piece(const struct load *l, const json_t *entry, size_t i, double *scores)
{
    const json_t *text = json_array_get(entry, 0), *score = json_array_get(entry, 1);
    if (!json_is_string(text) || !json_is_number(score) || !isfinite(json_number_value(score)))
        return lodge_fail(l->e, LODGE_ERR_FORMAT, "%s: vocabulary entry %zu is no [piece, score]",
                          l->where, i);
    scores[i] = json_number_value(score);
    l->t->tokens[i].text =
        keep_span(&l->t->arena, json_string_value(text), json_string_length(text));
    return l->t->tokens[i].text.data
               ? 0
               : lodge_fail(l->e, LODGE_ERR_NOMEM, "no memory for the vocabulary");
}

static int load_unigram(const struct load *l, const json_t *model, const json_t *added)
{
    const json_t *vocab = json_object_get(model, "vocab"), *unk = json_object_get(model, "unk_id");
    struct lodge_tokenizer *t = l->t;
    if (!json_is_array(vocab))
        return load_bad(l, "the Unigram model has no vocabulary");
    if (!json_is_integer(unk) || json_integer_value(unk) < 0 ||
        json_integer_value(unk) >= (int64_t)json_array_size(vocab))
        return load_unsupported(l, "tokenizer model", "Unigram without a valid unk_id");
    if (t->byte_level)
        return load_unsupported(l, "tokenizer model", "Unigram behind ByteLevel");
    int err = make_room(l, (int64_t)json_array_size(vocab) - 1, added);
    if (err)
        return err;
    double *scores = calloc(t->n_tokens, sizeof *scores);
    bool *usable = calloc(t->n_tokens, sizeof *usable);
    if (!scores || !usable)
        err = lodge_fail(l->e, LODGE_ERR_NOMEM, "no memory for the vocabulary");
    for (size_t i = 0; i < json_array_size(vocab) && !err; i++) {
        err = set_piece(l, json_array_get(vocab, i), i, scores);
        usable[i] = true;
    }
    t->unk = json_integer_value(unk);
    if (!err)
        err = index_vocabulary(l, added);
    if (!err)
        err = index_unigram(t, scores, usable, false, l->e);
    free(scores);
    free(usable);
    return err;
}

int load_model(const struct load *l, const json_t *root)
{
    const json_t *model = json_object_get(root, "model");
    const json_t *added = json_object_get(root, "added_tokens");
    l->t->byte_fallback = json_is_true(json_object_get(model, "byte_fallback"));
    if (is_type(model, "Unigram"))
        return load_unigram(l, model, added);
    /* Old files leave the type out. */
    if (type_of(model) && !is_type(model, "BPE"))
        return load_unsupported(l, "tokenizer model", type_of(model));
    return load_bpe(l, model, added);
}
