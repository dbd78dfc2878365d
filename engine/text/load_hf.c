/* A tokenizer from Hugging Face's tokenizer.json. Every component is in a table by its type; what
 * is not there is refused by name, since guessing would garble text. */
#include "engine/text/internal.h"

#include "base/file.h"
#include "base/json.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

struct load {
    struct lodge_tokenizer *t;
    const char *where;
    struct lodge_error *e;
};

static int bad(const struct load *l, const char *what)
{
    return lodge_fail(l->e, LODGE_ERR_FORMAT, "%s: %s", l->where, what);
}

static int unsupported(const struct load *l, const char *what, const char *type)
{
    return lodge_fail(l->e, LODGE_ERR_UNSUPPORTED, "%s: %s '%.60s' is not supported", l->where,
                      what, type ? type : "(none)");
}

static const char *type_of(const json_t *o)
{
    return json_string_value(json_object_get(o, "type"));
}

static bool is_type(const json_t *o, const char *type)
{
    const char *own = type_of(o);
    return own && strcmp(own, type) == 0;
}

static struct lodge_span text_of(const struct load *l, const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    return json_is_string(v) ? keep_span(&l->t->arena, json_string_value(v), json_string_length(v))
                             : (struct lodge_span){NULL, 0};
}

/* ---- normalizers ---- */

static int add_norm(const struct load *l, struct norm_step s)
{
    if (l->t->n_norms == MAX_STEPS)
        return bad(l, "too many normalizers");
    l->t->norms[l->t->n_norms++] = s;
    return 0;
}

static int add_replace(const struct load *l, const json_t *n)
{
    const json_t *pattern = json_object_get(n, "pattern");
    struct norm_step s = {.kind = NORM_REPLACE,
                          .from = text_of(l, pattern, "String"),
                          .to = text_of(l, n, "content")};
    if (!s.from.data || !s.to.data)
        return unsupported(l, "normalizer", "Replace with a Regex");
    return add_norm(l, s);
}

static int add_normalizer(const struct load *l, const json_t *n, int depth)
{
    static const struct {
        const char *type;
        int options;
    } forms[] = {
        {"NFC", UTF8PROC_STABLE | UTF8PROC_COMPOSE},
        {"NFD", UTF8PROC_STABLE | UTF8PROC_DECOMPOSE},
        {"NFKC", UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT},
        {"NFKD", UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT},
    };
    if (!n || json_is_null(n))
        return 0;
    if (is_type(n, "Sequence") && depth < 8) {
        int err = 0;
        const json_t *list = json_object_get(n, "normalizers");
        for (size_t i = 0; i < json_array_size(list) && !err; i++)
            err = add_normalizer(l, json_array_get(list, i), depth + 1);
        return err;
    }
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++)
        if (is_type(n, forms[i].type))
            return add_norm(l, (struct norm_step){.kind = NORM_UNICODE, .arg = forms[i].options});
    if (is_type(n, "Prepend"))
        return add_norm(l,
                        (struct norm_step){.kind = NORM_PREPEND, .to = text_of(l, n, "prepend")});
    if (is_type(n, "Replace"))
        return add_replace(l, n);
    if (is_type(n, "Lowercase"))
        return add_norm(l, (struct norm_step){.kind = NORM_LOWER});
    if (is_type(n, "Strip")) {
        int sides = (json_is_true(json_object_get(n, "strip_left")) ? 1 : 0) |
                    (json_is_true(json_object_get(n, "strip_right")) ? 2 : 0);
        return add_norm(l, (struct norm_step){.kind = NORM_STRIP, .arg = sides});
    }
    return unsupported(l, "normalizer", type_of(n));
}

/* ---- pre-tokenizers ---- */

static struct split_step *add_split(const struct load *l, enum split_kind kind)
{
    if (l->t->n_splits == MAX_STEPS)
        return NULL;
    struct split_step *s = &l->t->splits[l->t->n_splits++];
    *s = (struct split_step){.kind = kind, .behavior = BEHAVIOR_ISOLATED};
    return s;
}

static int add_regex(const struct load *l, const char *pattern, size_t n, struct split_step **out)
{
    *out = add_split(l, SPLIT_REGEX);
    if (!*out)
        return bad(l, "too many pre-tokenizers");
    int err = compile_regex(pattern, n, &(*out)->regex, l->e);
    if (err)
        lodge_error_prefix(l->e, "%s", l->where);
    return err;
}

static int set_behavior(const struct load *l, const json_t *p, struct split_step *s)
{
    static const char *const names[] = {"Removed", "Isolated", "MergedWithPrevious",
                                        "MergedWithNext", "Contiguous"};
    const char *own = json_string_value(json_object_get(p, "behavior"));
    for (int i = 0; own && i < 5; i++)
        if (strcmp(own, names[i]) == 0) {
            s->behavior = (enum split_behavior)i;
            return 0;
        }
    return unsupported(l, "split behavior", own);
}

static int add_split_pattern(const struct load *l, const json_t *p)
{
    const json_t *pattern = json_object_get(p, "pattern");
    const json_t *regex = json_object_get(pattern, "Regex"),
                 *plain = json_object_get(pattern, "String");
    struct split_step *s;
    int err;
    if (json_is_string(regex)) {
        err = add_regex(l, json_string_value(regex), json_string_length(regex), &s);
    } else if (json_is_string(plain)) {
        struct lodge_buf quoted;
        lodge_buf_init(&quoted, 65536);
        for (size_t i = 0; i < json_string_length(plain); i++) {
            char c = json_string_value(plain)[i];
            if (c > 0 &&
                !strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 ", c))
                lodge_buf_append(&quoted, "\\", 1);
            lodge_buf_append(&quoted, &c, 1);
        }
        err = add_regex(l, lodge_buf_text(&quoted), quoted.n, &s);
        lodge_buf_finish(&quoted);
    } else {
        return bad(l, "a Split pre-tokenizer has no pattern");
    }
    if (err)
        return err;
    s->invert = json_is_true(json_object_get(p, "invert"));
    return set_behavior(l, p, s);
}

static int add_byte_level(const struct load *l, const json_t *p)
{
    static const char gpt2[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|"
                               "\\s+(?!\\S)|\\s+";
    struct split_step *s;
    l->t->byte_level = true;
    if (json_is_true(json_object_get(p, "add_prefix_space")) && !add_split(l, SPLIT_PREFIX_SPACE))
        return bad(l, "too many pre-tokenizers");
    if (json_is_false(json_object_get(p, "use_regex")))
        return 0;
    return add_regex(l, gpt2, sizeof gpt2 - 1, &s);
}

static int add_metaspace(const struct load *l, const json_t *p)
{
    struct split_step *s = add_split(l, SPLIT_METASPACE);
    const char *scheme = json_string_value(json_object_get(p, "prepend_scheme"));
    if (!s)
        return bad(l, "too many pre-tokenizers");
    s->replacement = text_of(l, p, "replacement");
    if (!s->replacement.n)
        s->replacement = (struct lodge_span){"\xE2\x96\x81", 3};
    bool old_prefix = !json_is_false(json_object_get(p, "add_prefix_space"));
    s->scheme = scheme && strcmp(scheme, "first") == 0   ? PREPEND_FIRST
                : scheme && strcmp(scheme, "never") == 0 ? PREPEND_NEVER
                : scheme || old_prefix                   ? PREPEND_ALWAYS
                                                         : PREPEND_NEVER;
    s->split = !json_is_false(json_object_get(p, "split"));
    return 0;
}

static int add_pre_tokenizer(const struct load *l, const json_t *p, int depth)
{
    struct split_step *s;
    if (!p || json_is_null(p))
        return 0;
    if (is_type(p, "Sequence") && depth < 8) {
        int err = 0;
        const json_t *list = json_object_get(p, "pretokenizers");
        for (size_t i = 0; i < json_array_size(list) && !err; i++)
            err = add_pre_tokenizer(l, json_array_get(list, i), depth + 1);
        return err;
    }
    if (is_type(p, "Split"))
        return add_split_pattern(l, p);
    if (is_type(p, "ByteLevel"))
        return add_byte_level(l, p);
    if (is_type(p, "Metaspace"))
        return add_metaspace(l, p);
    if (is_type(p, "Digits")) {
        s = add_split(l, SPLIT_DIGITS);
        if (s)
            s->arg = json_is_true(json_object_get(p, "individual_digits"));
        return s ? 0 : bad(l, "too many pre-tokenizers");
    }
    if (is_type(p, "WhitespaceSplit")) {
        s = add_split(l, SPLIT_WHITESPACE);
        if (s)
            s->behavior = BEHAVIOR_REMOVED;
        return s ? 0 : bad(l, "too many pre-tokenizers");
    }
    if (is_type(p, "Punctuation")) {
        int err = add_regex(l, "[\\p{P}!-/:-@\\[-`{-~]", 21, &s);
        return err || !json_object_get(p, "behavior") ? err : set_behavior(l, p, s);
    }
    if (is_type(p, "Whitespace")) {
        int err = add_regex(l, "\\w+|[^\\w\\s]+", 13, &s);
        if (!err) { /* keeps the matches */
            s->behavior = BEHAVIOR_REMOVED;
            s->invert = true;
        }
        return err;
    }
    return unsupported(l, "pre-tokenizer", type_of(p));
}

/* ---- the model ---- */

static int set_token(const struct load *l, const char *text, size_t n, const json_t *id)
{
    struct lodge_tokenizer *t = l->t;
    if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= t->n_tokens)
        return bad(l, "a token has no valid id");
    struct token *tok = &t->tokens[json_integer_value(id)];
    tok->text = keep_span(&t->arena, text, n);
    return tok->text.data ? 0 : lodge_fail(l->e, LODGE_ERR_NOMEM, "no memory for the vocabulary");
}

/* Ids may have gaps: the table reaches to the largest. */
static int count_tokens(const struct load *l, const json_t *vocab, const json_t *added)
{
    int64_t most = -1;
    const char *text;
    json_t *id;
    json_object_foreach((json_t *)(uintptr_t)vocab, text, id)
    {
        if (json_integer_value(id) > most)
            most = json_integer_value(id);
    }
    for (size_t i = 0; i < json_array_size(added); i++) {
        int64_t n = json_integer_value(json_object_get(json_array_get(added, i), "id"));
        most = n > most ? n : most;
    }
    if (most < 0 || most >= (1 << 24))
        return bad(l, "the vocabulary is empty or has an impossible id");
    l->t->n_tokens = (uint32_t)most + 1;
    l->t->tokens = lodge_arena_array(&l->t->arena, l->t->n_tokens, sizeof *l->t->tokens);
    l->t->added = lodge_arena_array(&l->t->arena, json_array_size(added) + 1, sizeof *l->t->added);
    return l->t->tokens && l->t->added
               ? 0
               : lodge_fail(l->e, LODGE_ERR_NOMEM, "no memory for the vocabulary");
}

static int load_added(const struct load *l, const json_t *added)
{
    struct lodge_tokenizer *t = l->t;
    for (size_t i = 0; i < json_array_size(added); i++) {
        const json_t *a = json_array_get(added, i), *text = json_object_get(a, "content");
        const json_t *id = json_object_get(a, "id");
        if (!json_is_string(text) || !json_string_length(text))
            return bad(l, "an added token has no content");
        int err = set_token(l, json_string_value(text), json_string_length(text), id);
        if (err)
            return err;
        uint32_t n = (uint32_t)json_integer_value(id);
        t->tokens[n].special = json_is_true(json_object_get(a, "special"));
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
                  : bad(l, "the model has no merges");
    for (size_t i = 0; i < json_array_size(merges) && !err; i++) {
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

static int load_model(const struct load *l, const json_t *root)
{
    const json_t *model = json_object_get(root, "model"), *vocab = json_object_get(model, "vocab");
    const json_t *added = json_object_get(root, "added_tokens");
    struct lodge_tokenizer *t = l->t;
    /* Old files leave the type out. */
    if (type_of(model) && !is_type(model, "BPE"))
        return unsupported(l, "tokenizer model", type_of(model));
    if (!json_is_object(vocab))
        return bad(l, "the tokenizer model has no vocabulary");
    const char *prefix = json_string_value(json_object_get(model, "continuing_subword_prefix"));
    const char *suffix = json_string_value(json_object_get(model, "end_of_word_suffix"));
    if ((prefix && *prefix) || (suffix && *suffix))
        return unsupported(l, "BPE with",
                           prefix && *prefix ? "continuing_subword_prefix" : "end_of_word_suffix");
    t->byte_fallback = json_is_true(json_object_get(model, "byte_fallback"));
    t->fuse_unk = json_is_true(json_object_get(model, "fuse_unk"));
    t->ignore_merges = json_is_true(json_object_get(model, "ignore_merges"));
    int err = count_tokens(l, vocab, added);
    const char *text;
    json_t *id;
    json_object_foreach((json_t *)(uintptr_t)vocab, text, id)
    {
        if (!err)
            err = set_token(l, text, strlen(text), id);
    }
    if (!err)
        err = load_added(l, added);
    if (!err)
        err = index_added(t, l->e);
    if (!err)
        err = index_tokens(t, l->e);
    if (!err)
        err = load_merges(l, json_object_get(model, "merges"));
    const char *unk = json_string_value(json_object_get(model, "unk_token"));
    if (!err && unk)
        t->unk = span_map_get(&t->by_text, unk, strlen(unk));
    return err;
}

/* ---- post-processor, decoder, ends ---- */

static int push_affix(const struct load *l, const json_t *post, const json_t *item, uint32_t **list,
                      uint32_t *n)
{
    const char *name =
        json_string_value(json_object_get(json_object_get(item, "SpecialToken"), "id"));
    const json_t *ids = json_object_get(
        json_object_get(json_object_get(post, "special_tokens"), name ? name : ""), "ids");
    uint32_t *more = lodge_arena_array(&l->t->arena, *n + json_array_size(ids) + 1, sizeof *more);
    if (!more)
        return lodge_fail(l->e, LODGE_ERR_NOMEM, "no memory for the tokenizer");
    if (*n)
        memcpy(more, *list, *n * sizeof *more);
    for (size_t i = 0; i < json_array_size(ids); i++) {
        const json_t *id = json_array_get(ids, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) >= l->t->n_tokens)
            return bad(l, "the post-processor names an impossible token");
        more[(*n)++] = (uint32_t)json_integer_value(id);
    }
    *list = more;
    return 0;
}

static int load_post(const struct load *l, const json_t *post, int depth)
{
    int err = 0;
    if (is_type(post, "Sequence") && depth < 8) {
        const json_t *list = json_object_get(post, "processors");
        for (size_t i = 0; i < json_array_size(list) && !err; i++)
            err = load_post(l, json_array_get(list, i), depth + 1);
        return err;
    }
    if (!is_type(post, "TemplateProcessing"))
        return !post || json_is_null(post) || is_type(post, "ByteLevel")
                   ? 0
                   : unsupported(l, "post-processor", type_of(post));
    const json_t *single = json_object_get(post, "single");
    bool after = false;
    for (size_t i = 0; i < json_array_size(single) && !err; i++) {
        const json_t *item = json_array_get(single, i);
        if (json_object_get(item, "Sequence"))
            after = true;
        else if (after)
            err = push_affix(l, post, item, &l->t->suffix, &l->t->n_suffix);
        else
            err = push_affix(l, post, item, &l->t->prefix, &l->t->n_prefix);
    }
    return err;
}

static void load_decoder(const struct load *l, const json_t *d, int depth)
{
    const json_t *list = json_object_get(d, "decoders");
    for (size_t i = 0; depth < 8 && i < json_array_size(list); i++)
        load_decoder(l, json_array_get(list, i), depth + 1);
    if (is_type(d, "Strip"))
        l->t->strips_space = json_integer_value(json_object_get(d, "start")) > 0;
    if (is_type(d, "Metaspace")) {
        const char *scheme = json_string_value(json_object_get(d, "prepend_scheme"));
        l->t->strips_space = !scheme || strcmp(scheme, "never") != 0;
    }
}

static int64_t special_id(const struct lodge_tokenizer *t, const json_t *config, const char *key)
{
    const json_t *v = lodge_json_member(config, key);
    const char *text = json_string_value(json_is_object(v) ? json_object_get(v, "content") : v);
    return text ? span_map_get(&t->by_text, text, strlen(text)) : -1;
}

static int fill(const struct load *l, const json_t *root, const json_t *config, const uint32_t *eos,
                uint32_t n_eos)
{
    struct lodge_tokenizer *t = l->t;
    int err = add_normalizer(l, json_object_get(root, "normalizer"), 0);
    if (!err)
        err = add_pre_tokenizer(l, json_object_get(root, "pre_tokenizer"), 0);
    if (!err)
        err = load_model(l, root);
    if (!err)
        err = load_post(l, json_object_get(root, "post_processor"), 0);
    if (err)
        return err;
    load_decoder(l, json_object_get(root, "decoder"), 0);
    t->bos = special_id(t, config, "bos_token");
    t->eos = special_id(t, config, "eos_token");
    if (t->bos < 0 && t->n_prefix)
        t->bos = t->prefix[0];
    if (t->eos < 0 && n_eos)
        t->eos = eos[0];
    add_known_ends(t);
    for (uint32_t i = 0; i < n_eos; i++)
        add_end(t, eos[i]);
    return 0;
}

int lodge_tokenizer_from_json(const json_t *tokenizer, const json_t *config, const char *where,
                              const uint32_t *eos, uint32_t n_eos, struct lodge_tokenizer **out,
                              struct lodge_error *e)
{
    struct lodge_tokenizer *t = calloc(1, sizeof *t);
    if (!t)
        return lodge_fail(e, LODGE_ERR_NOMEM, "no memory for the tokenizer");
    lodge_arena_init(&t->arena, (size_t)4 << 30);
    t->bos = t->eos = t->unk = -1;
    const struct load l = {t, where, e};
    int err = json_is_object(tokenizer) ? fill(&l, tokenizer, config, eos, n_eos)
                                        : bad(&l, "must hold a JSON object");
    if (err) {
        lodge_tokenizer_destroy(t);
        return err;
    }
    *out = t;
    return 0;
}

int lodge_tokenizer_from_dir(const char *dir, const uint32_t *eos, uint32_t n_eos,
                             struct lodge_tokenizer **out, struct lodge_error *e)
{
    char *path = lodge_path_join(dir, "tokenizer.json");
    char *config_path = lodge_path_join(dir, "tokenizer_config.json");
    json_t *root = NULL, *config = NULL;
    int err = path && config_path ? 0 : lodge_fail(e, LODGE_ERR_NOMEM, "no memory for a path");
    if (!err && !lodge_file_exists(path))
        err =
            lodge_fail(e, LODGE_ERR_NOT_FOUND,
                       "%s: the model directory has no tokenizer.json; copy it beside the weights "
                       "(a tokenizer.model alone must be converted first)",
                       path);
    if (!err)
        err = lodge_json_load_file(path, &root, e);
    if (!err && lodge_file_exists(config_path))
        err = lodge_json_load_file(config_path, &config, e);
    if (!err)
        err = lodge_tokenizer_from_json(root, config, path, eos, n_eos, out, e);
    json_decref(root);
    json_decref(config);
    free(path);
    free(config_path);
    return err;
}
