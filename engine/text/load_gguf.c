/* A tokenizer from what a GGUF file holds. */
#include "engine/text/internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool swallows_blanks(const struct lodge_vocab_source *src, struct lodge_span text)
{
    static const char *const others[] = {"<unk>", "<s>", "<|endoftext|>"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (text.n == strlen(others[i]) && memcmp(text.data, others[i], text.n) == 0)
            return false;
    return src->swallows_blanks;
}

static int copy_tokens(struct lodge_tokenizer *t, const struct lodge_vocab_source *src,
                       struct lodge_error *e)
{
    t->n_tokens = src->n_tokens;
    t->tokens = lodge_arena_array(&t->arena, src->n_tokens + 1, sizeof *t->tokens);
    t->added = lodge_arena_array(&t->arena, src->n_tokens + 1, sizeof *t->added);
    if (!t->tokens || !t->added)
        return lodge_fail(e, LODGE_ERR_NOMEM, "no memory for %u tokens", src->n_tokens);
    for (uint32_t i = 0; i < src->n_tokens; i++) {
        struct token *tok = &t->tokens[i];
        int type = src->types ? src->types[i] : 1;
        tok->text = keep_span(&t->arena, src->tokens[i].data, src->tokens[i].n);
        if (!tok->text.data)
            return lodge_fail(e, LODGE_ERR_NOMEM, "no memory for the vocabulary");
        tok->score = src->scores ? src->scores[i] : 0;
        tok->special = type == 3 || type == 2;
        if (type >= 2 && type <= 4 && tok->text.n)
            t->added[t->n_added++] =
                (struct added_token){.text = tok->text,
                                     .id = i,
                                     .special = tok->special,
                                     .rstrip = swallows_blanks(src, tok->text)};
    }
    return 0;
}

/* "left right", split at the first space after position 0. */
static int copy_merges(struct lodge_tokenizer *t, const struct lodge_vocab_source *src,
                       struct lodge_error *e)
{
    if (!pair_map_init(&t->merges, &t->arena, src->n_merges))
        return lodge_fail(e, LODGE_ERR_NOMEM, "no memory for %u merges", src->n_merges);
    struct lodge_buf joined;
    lodge_buf_init(&joined, (size_t)1 << 20);
    int err = 0;
    for (uint32_t i = 0; i < src->n_merges && !err; i++) {
        const struct lodge_span *m = &src->merges[i];
        const char *gap = m->n > 1 ? memchr(m->data + 1, ' ', m->n - 1) : NULL;
        size_t left = gap ? (size_t)(gap - m->data) : 0;
        lodge_buf_clear(&joined);
        lodge_buf_append(&joined, m->data, left);
        lodge_buf_append(&joined, m->data + left + 1, gap ? m->n - left - 1 : 0);
        int64_t a = gap ? span_map_get(&t->by_text, m->data, left) : -1;
        int64_t b = gap ? span_map_get(&t->by_text, gap + 1, m->n - left - 1) : -1;
        int64_t ab = joined.n ? span_map_get(&t->by_text, joined.data, joined.n) : -1;
        if (a < 0 || b < 0 || ab < 0)
            err = lodge_fail(e, LODGE_ERR_FORMAT,
                             "tokenizer merge %u ('%.*s') names a token that "
                             "is not in the vocabulary",
                             i, (int)(m->n > 60 ? 60 : m->n), m->data);
        else
            put_merge(t, (uint32_t)a, (uint32_t)b, i, (uint32_t)ab);
    }
    lodge_buf_finish(&joined);
    return err;
}

static void add_norm(struct lodge_tokenizer *t, struct norm_step s)
{
    t->norms[t->n_norms++] = s;
}

/* What sentencepiece does to a text before it is cut. */
static void set_blanks(struct lodge_tokenizer *t, bool prefix)
{
    t->strips_space = prefix;
    if (prefix)
        add_norm(t, (struct norm_step){.kind = NORM_PREPEND, .to = {blank_mark, 3}});
    add_norm(t, (struct norm_step){.kind = NORM_REPLACE, .from = {" ", 1}, .to = {blank_mark, 3}});
}

static int set_unigram_norms(struct lodge_tokenizer *t, const struct lodge_vocab_source *src,
                             struct lodge_error *e)
{
    struct norm_step map = {.kind = NORM_MAP, .arg = 1};
    if (src->charsmap.n) {
        map.map = charsmap_create(&t->arena, src->charsmap.data, src->charsmap.n);
        if (!map.map)
            return lodge_fail(e, LODGE_ERR_FORMAT,
                              "tokenizer.ggml.precompiled_charsmap is broken; convert the model "
                              "again");
        add_norm(t, map);
    }
    if (src->remove_extra_spaces > 0)
        add_norm(t, (struct norm_step){.kind = NORM_SPACES});
    set_blanks(t, src->add_space_prefix != 0);
    return 0;
}

/* Normal pieces are chosen by their scores. */
static int set_scores(struct lodge_tokenizer *t, const struct lodge_vocab_source *src,
                      struct lodge_error *e)
{
    double *scores = calloc(t->n_tokens + 1, sizeof *scores);
    bool *usable = calloc(t->n_tokens + 1, sizeof *usable);
    int err = scores && usable ? 0 : lodge_fail(e, LODGE_ERR_NOMEM, "no memory for the vocabulary");
    for (uint32_t i = 0; i < t->n_tokens && !err; i++) {
        scores[i] = src->scores[i];
        usable[i] = !src->types || src->types[i] == 1;
        if (!isfinite(scores[i]))
            err = lodge_fail(e, LODGE_ERR_FORMAT, "the score of token %u is not a number", i);
    }
    if (!err)
        err = index_unigram(t, scores, usable, true, e);
    free(scores);
    free(usable);
    return err;
}

static int64_t valid_id(const struct lodge_vocab_source *src, int64_t id)
{
    return id >= 0 && id < src->n_tokens ? id : -1;
}

enum vocab_kind { RANKED, SCORED, UNIGRAM };

static int kind_of(const char *model, enum vocab_kind *kind, struct lodge_error *e)
{
    static const char *const names[] = {"gpt2", "llama", "t5"};
    for (int i = 0; i < 3; i++)
        if (strcmp(model, names[i]) == 0) {
            *kind = (enum vocab_kind)i;
            return 0;
        }
    return lodge_fail(e, LODGE_ERR_UNSUPPORTED,
                      "GGUF tokenizer model '%.60s' is not supported (gpt2, llama and t5 are)",
                      model);
}

/* How text is prepared, by the kind of vocabulary. */
static int set_steps(struct lodge_tokenizer *t, const struct lodge_vocab_source *src,
                     enum vocab_kind kind, bool *add_bos, struct lodge_error *e)
{
    t->byte_level = kind == RANKED;
    t->by_score = kind == SCORED;
    t->byte_fallback = kind != RANKED;
    *add_bos = kind == SCORED;
    if (kind == RANKED)
        return set_pre_tokenizer(t, src->pre, add_bos, e);
    if (kind == UNIGRAM)
        return set_unigram_norms(t, src, e);
    set_blanks(t, src->add_space_prefix != 0);
    return 0;
}

static int set_ids(struct lodge_tokenizer *t, const struct lodge_vocab_source *src, bool add_bos,
                   bool add_eos, struct lodge_error *e)
{
    add_bos = src->add_bos >= 0 ? src->add_bos : add_bos;
    add_eos = src->add_eos >= 0 ? src->add_eos : add_eos;
    int64_t pad = valid_id(src, src->pad);
    if (set_affix(t, add_bos, t->bos, &t->prefix, &t->n_prefix) ||
        set_affix(t, add_eos, t->eos, &t->suffix, &t->n_suffix) ||
        name_special_id(t, "bos_token", t->bos) || name_special_id(t, "eos_token", t->eos) ||
        (t->unk >= 0 && name_special_id(t, "unk_token", t->unk)) ||
        (pad >= 0 && name_special_id(t, "pad_token", pad)))
        return lodge_fail(e, LODGE_ERR_NOMEM, "no memory for the tokenizer");
    add_known_ends(t);
    add_end(t, valid_id(src, src->eot));
    add_end(t, valid_id(src, src->eom));
    return 0;
}

static int fill(struct lodge_tokenizer *t, const struct lodge_vocab_source *src,
                struct lodge_error *e)
{
    enum vocab_kind kind = RANKED;
    bool add_bos = false;
    int err = kind_of(src->model, &kind, e);
    if (!err && kind == UNIGRAM && !src->scores)
        err = lodge_fail(e, LODGE_ERR_FORMAT, "the t5 vocabulary has no tokenizer.ggml.scores");
    if (!err)
        err = set_steps(t, src, kind, &add_bos, e);
    if (err)
        return err;
    t->bos = valid_id(src, src->bos);
    t->eos = valid_id(src, src->eos);
    t->unk = valid_id(src, src->unk);
    err = copy_tokens(t, src, e);
    if (!err)
        err = index_added(t, e);
    if (!err)
        err = index_tokens(t, e);
    if (!err)
        err = kind == RANKED ? copy_merges(t, src, e) : kind == UNIGRAM ? set_scores(t, src, e) : 0;
    return err ? err : set_ids(t, src, add_bos, kind == UNIGRAM, e);
}

int lodge_tokenizer_from_vocab(const struct lodge_vocab_source *src, struct lodge_tokenizer **out,
                               struct lodge_error *e)
{
    struct lodge_tokenizer *t = calloc(1, sizeof *t);
    if (!t)
        return lodge_fail(e, LODGE_ERR_NOMEM, "no memory for the tokenizer");
    lodge_arena_init(&t->arena, (size_t)4 << 30);
    t->bos = t->eos = t->unk = -1;
    t->blanks = t->byte_tokens = true;
    int err = fill(t, src, e);
    if (err) {
        lodge_tokenizer_destroy(t);
        return err;
    }
    *out = t;
    return 0;
}
