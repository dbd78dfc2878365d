/* A tokenizer from what a GGUF file holds. */
#include "engine/text/internal.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
#define LLAMA3                                                                                     \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|"                      \
    " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define QWEN2                                                                                      \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|"                           \
    " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define TEKKEN                                                                                     \
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|"   \
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|"   \
    "\\p{N}|"                                                                                      \
    " ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

static const struct pre {
    const char *names[4];
    const char *pattern;
    bool digits; /* each digit cut out first */
    bool nfc;
    bool ignore_merges;
    bool add_bos;
} pres[] = {
    {{"llama-bpe", "llama3", "llama-v3"}, LLAMA3, .ignore_merges = true, .add_bos = true},
    {{"qwen2", "qwen25", "deepseek-r1-qwen"}, QWEN2, .nfc = true},
    {{"smollm"}, GPT2, .digits = true},
    {{"gpt-2", "gpt2"}, GPT2},
    {{"tekken"}, TEKKEN, .ignore_merges = true, .add_bos = true},
};

static const struct pre *find_pre(const char *name)
{
    for (size_t i = 0; i < sizeof pres / sizeof *pres; i++)
        for (int k = 0; k < 4 && pres[i].names[k]; k++)
            if (strcmp(pres[i].names[k], name) == 0)
                return &pres[i];
    return NULL;
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
        if ((type == 3 || type == 4) && tok->text.n)
            t->added[t->n_added++] =
                (struct added_token){.text = tok->text, .id = i, .special = type == 3};
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

static int set_byte_level(struct lodge_tokenizer *t, const struct lodge_vocab_source *src,
                          bool *add_bos, struct lodge_error *e)
{
    const struct pre *pre = src->pre ? find_pre(src->pre) : NULL;
    if (!pre)
        return lodge_fail(e, LODGE_ERR_UNSUPPORTED,
                          "the GGUF pre-tokenizer '%s' is not known; guessing would garble text. "
                          "Known: llama-bpe, qwen2, smollm, gpt-2, tekken; a Hugging Face "
                          "directory of this model carries the pattern itself",
                          src->pre ? src->pre : "(none)");
    t->byte_level = true;
    t->ignore_merges = pre->ignore_merges;
    *add_bos = pre->add_bos;
    if (pre->nfc)
        t->norms[t->n_norms++] =
            (struct norm_step){.kind = NORM_UNICODE, .arg = UTF8PROC_STABLE | UTF8PROC_COMPOSE};
    if (pre->digits)
        t->splits[t->n_splits++] =
            (struct split_step){.kind = SPLIT_DIGITS, .behavior = BEHAVIOR_ISOLATED, .arg = 1};
    struct split_step *s = &t->splits[t->n_splits++];
    *s = (struct split_step){.kind = SPLIT_REGEX, .behavior = BEHAVIOR_ISOLATED};
    return compile_regex(pre->pattern, strlen(pre->pattern), &s->regex, e);
}

static void set_sentencepiece(struct lodge_tokenizer *t, const struct lodge_vocab_source *src)
{
    static const char mark[] = "\xE2\x96\x81";
    t->by_score = true;
    t->byte_fallback = true;
    bool prefix = src->add_space_prefix != 0;
    t->strips_space = prefix;
    if (prefix)
        t->norms[t->n_norms++] = (struct norm_step){.kind = NORM_PREPEND, .to = {mark, 3}};
    t->norms[t->n_norms++] =
        (struct norm_step){.kind = NORM_REPLACE, .from = {" ", 1}, .to = {mark, 3}};
}

static int set_affix(struct lodge_tokenizer *t, bool add, int64_t id, uint32_t **list, uint32_t *n)
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

static int64_t valid_id(const struct lodge_vocab_source *src, int64_t id)
{
    return id >= 0 && id < src->n_tokens ? id : -1;
}

static int fill(struct lodge_tokenizer *t, const struct lodge_vocab_source *src,
                struct lodge_error *e)
{
    bool spm = strcmp(src->model, "llama") == 0;
    if (!spm && strcmp(src->model, "gpt2") != 0)
        return lodge_fail(e, LODGE_ERR_UNSUPPORTED,
                          "GGUF tokenizer model '%s' is not supported "
                          "(gpt2 and llama are)",
                          src->model);
    bool add_bos = spm;
    if (spm)
        set_sentencepiece(t, src);
    int err = spm ? 0 : set_byte_level(t, src, &add_bos, e);
    if (!err)
        err = copy_tokens(t, src, e);
    if (!err)
        err = index_added(t, e);
    if (!err)
        err = index_tokens(t, e);
    if (!err && !spm)
        err = copy_merges(t, src, e);
    if (err)
        return err;
    t->bos = valid_id(src, src->bos);
    t->eos = valid_id(src, src->eos);
    t->unk = valid_id(src, src->unk);
    if (src->add_bos >= 0)
        add_bos = src->add_bos;
    if (set_affix(t, add_bos, t->bos, &t->prefix, &t->n_prefix) ||
        set_affix(t, src->add_eos > 0, t->eos, &t->suffix, &t->n_suffix))
        return lodge_fail(e, LODGE_ERR_NOMEM, "no memory for the tokenizer");
    add_known_ends(t);
    add_end(t, valid_id(src, src->eot));
    add_end(t, valid_id(src, src->eom));
    return 0;
}

int lodge_tokenizer_from_vocab(const struct lodge_vocab_source *src, struct lodge_tokenizer **out,
                               struct lodge_error *e)
{
    struct lodge_tokenizer *t = calloc(1, sizeof *t);
    if (!t)
        return lodge_fail(e, LODGE_ERR_NOMEM, "no memory for the tokenizer");
    lodge_arena_init(&t->arena, (size_t)4 << 30);
    t->bos = t->eos = t->unk = -1;
    int err = fill(t, src, e);
    if (err) {
        lodge_tokenizer_destroy(t);
        return err;
    }
    *out = t;
    return 0;
}
