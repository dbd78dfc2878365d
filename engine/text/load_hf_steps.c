/* Normalizers and pre-tokenizers of tokenizer.json to steps. */
#include "engine/text/load_hf.h"

#include <nettle/base64.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* ---- normalizers ---- */

static int add_norm(const struct load *l, struct norm_step s)
{
    if (l->t->n_norms == MAX_STEPS)
        return load_bad(l, "too many normalizers");
    l->t->norms[l->t->n_norms++] = s;
    return 0;
}

static int add_replace(const struct load *l, const json_t *n)
{
    const json_t *pattern = json_object_get(n, "pattern");
    struct norm_step s = {.kind = NORM_REPLACE,
                          .from = text_of(l, pattern, "String"),
                          .to = text_of(l, n, "content")};
    const json_t *regex = json_object_get(pattern, "Regex");
    if (!s.to.data || (!s.from.data && !json_is_string(regex)))
        return load_bad(l, "a Replace normalizer has no pattern or no content");
    if (s.from.data)
        return add_norm(l, s);
    s.kind = NORM_REGEX;
    int err = compile_regex(json_string_value(regex), json_string_length(regex), &s.regex, l->e);
    if (err) {
        lodge_error_prefix(l->e, "%s", l->where);
        return err;
    }
    err = add_norm(l, s);
    if (err)
        pcre2_code_free(s.regex);
    return err;
}

/* A character map of sentencepiece, in base64. */
static int add_charsmap(const struct load *l, const json_t *n)
{
    const json_t *text = json_object_get(n, "precompiled_charsmap");
    size_t length = json_string_length(text), bytes = 0;
    struct base64_decode_ctx ctx;
    uint8_t *data = malloc(BASE64_DECODE_LENGTH(length) + 1);
    base64_decode_init(&ctx);
    struct norm_step s = {.kind = NORM_MAP};
    if (data && json_is_string(text) &&
        base64_decode_update(&ctx, &bytes, data, length, json_string_value(text)) &&
        base64_decode_final(&ctx))
        s.map = charsmap_create(&l->t->arena, data, bytes);
    free(data);
    return s.map ? add_norm(l, s)
                 : load_bad(l, "the Precompiled normalizer holds no valid character map");
}

int load_normalizer(const struct load *l, const json_t *n, int depth)
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
            err = load_normalizer(l, json_array_get(list, i), depth + 1);
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
    if (is_type(n, "Precompiled"))
        return add_charsmap(l, n);
    if (is_type(n, "Lowercase"))
        return add_norm(l, (struct norm_step){.kind = NORM_LOWER});
    if (is_type(n, "Strip")) {
        int sides = (json_is_true(json_object_get(n, "strip_left")) ? 1 : 0) |
                    (json_is_true(json_object_get(n, "strip_right")) ? 2 : 0);
        return add_norm(l, (struct norm_step){.kind = NORM_STRIP, .arg = sides});
    }
    return load_unsupported(l, "normalizer", type_of(n));
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
        return load_bad(l, "too many pre-tokenizers");
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
    return load_unsupported(l, "split behavior", own);
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
        return load_bad(l, "a Split pre-tokenizer has no pattern");
    }
    if (err)
        return err;
    s->invert = json_is_true(json_object_get(p, "invert"));
    return set_behavior(l, p, s);
}

static int add_byte_level(const struct load *l, const json_t *p)
{
    struct split_step *s;
    l->t->byte_level = true;
    if (json_is_true(json_object_get(p, "add_prefix_space")) && !add_split(l, SPLIT_PREFIX_SPACE))
        return load_bad(l, "too many pre-tokenizers");
    if (json_is_false(json_object_get(p, "use_regex")))
        return 0;
    return add_regex(l, gpt2_pattern, strlen(gpt2_pattern), &s);
}

enum prepend_scheme metaspace_scheme(const json_t *p)
{
    const char *scheme = json_string_value(json_object_get(p, "prepend_scheme"));
    bool old_prefix = !json_is_false(json_object_get(p, "add_prefix_space"));
    return scheme && strcmp(scheme, "first") == 0   ? PREPEND_FIRST
           : scheme && strcmp(scheme, "never") == 0 ? PREPEND_NEVER
           : scheme || old_prefix                   ? PREPEND_ALWAYS
                                                    : PREPEND_NEVER;
}

static int add_metaspace(const struct load *l, const json_t *p)
{
    struct split_step *s = add_split(l, SPLIT_METASPACE);
    if (!s)
        return load_bad(l, "too many pre-tokenizers");
    s->replacement = text_of(l, p, "replacement");
    if (!s->replacement.n)
        s->replacement = (struct lodge_span){blank_mark, 3};
    s->scheme = metaspace_scheme(p);
    s->split = !json_is_false(json_object_get(p, "split"));
    return 0;
}

int load_pre_tokenizer(const struct load *l, const json_t *p, int depth)
{
    static const char words[] = "[\\w\\x{200C}\\x{200D}]+|[^\\w\\x{200C}\\x{200D}\\s]+";
    static const char punctuation[] = "[\\p{P}!-/:-@\\[-`{-~]";
    struct split_step *s;
    if (!p || json_is_null(p))
        return 0;
    if (is_type(p, "Sequence") && depth < 8) {
        int err = 0;
        const json_t *list = json_object_get(p, "pretokenizers");
        for (size_t i = 0; i < json_array_size(list) && !err; i++)
            err = load_pre_tokenizer(l, json_array_get(list, i), depth + 1);
        return err;
    }
    if (l->t->byte_level)
        return load_unsupported(l, "behind ByteLevel, the pre-tokenizer", type_of(p));
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
        return s ? 0 : load_bad(l, "too many pre-tokenizers");
    }
    if (is_type(p, "WhitespaceSplit")) {
        s = add_split(l, SPLIT_WHITESPACE);
        if (s)
            s->behavior = BEHAVIOR_REMOVED;
        return s ? 0 : load_bad(l, "too many pre-tokenizers");
    }
    if (is_type(p, "Punctuation")) {
        int err = add_regex(l, punctuation, sizeof punctuation - 1, &s);
        return err || !json_object_get(p, "behavior") ? err : set_behavior(l, p, s);
    }
    if (is_type(p, "Whitespace")) {
        int err = add_regex(l, words, sizeof words - 1, &s);
        if (!err) { /* keeps the matches */
            s->behavior = BEHAVIOR_REMOVED;
            s->invert = true;
        }
        return err;
    }
    return load_unsupported(l, "pre-tokenizer", type_of(p));
}
