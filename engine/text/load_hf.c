/* A tokenizer from Hugging Face's tokenizer.json. Every component is looked up by its type; what
 * is not known is refused by name, since guessing would garble text. */
#include "engine/text/load_hf.h"

#include "base/file.h"
#include "base/json.h"

#include <stdlib.h>
#include <string.h>

int load_bad(const struct load *l, const char *what)
{
    return lodge_fail(l->e, LODGE_ERR_FORMAT, "%s: %s", l->where, what);
}

int load_unsupported(const struct load *l, const char *what, const char *type)
{
    return lodge_fail(l->e, LODGE_ERR_UNSUPPORTED, "%s: %s '%.60s' is not supported", l->where,
                      what, type ? type : "(none)");
}

const char *type_of(const json_t *o)
{
    return json_string_value(json_object_get(o, "type"));
}

bool is_type(const json_t *o, const char *type)
{
    const char *own = type_of(o);
    return own && strcmp(own, type) == 0;
}

struct lodge_span text_of(const struct load *l, const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    return json_is_string(v) ? keep_span(&l->t->arena, json_string_value(v), json_string_length(v))
                             : (struct lodge_span){NULL, 0};
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
            return load_bad(l, "the post-processor names an impossible token");
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
                   : load_unsupported(l, "post-processor", type_of(post));
    const json_t *single = json_object_get(post, "single");
    bool after = false;
    if (l->t->n_prefix || l->t->n_suffix) /* to the library the second one's texts are a pair */
        return load_unsupported(l, "behind another, the post-processor", type_of(post));
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

/* Text of tokens is what they stand for, one after another; a decoder may say what that is, and
 * that a text loses a blank at its front. Without a decoder the vocabulary's kind says it. */
struct decoder {
    bool byte_level, blanks, bytes, fused;
};

static int text_decoder(const struct load *l, const json_t *d, struct decoder *r)
{
    struct lodge_tokenizer *t = l->t;
    if (is_type(d, "ByteFallback")) {
        r->bytes |= !r->fused;
        return 0;
    }
    if (is_type(d, "Replace")) {
        const char *from =
            json_string_value(json_object_get(json_object_get(d, "pattern"), "String"));
        const char *to = json_string_value(json_object_get(d, "content"));
        r->blanks = from && to && strcmp(from, blank_mark) == 0 && strcmp(to, " ") == 0;
        return r->blanks
                   ? 0
                   : load_unsupported(l, "other than of U+2581 by a blank, the decoder", "Replace");
    }
    if (is_type(d, "Metaspace")) {
        const char *own = json_string_value(json_object_get(d, "replacement"));
        t->strips_space = metaspace_scheme(d) != PREPEND_NEVER;
        r->blanks = !own || strcmp(own, blank_mark) == 0;
        return r->blanks && !(r->fused && t->strips_space)
                   ? 0
                   : load_unsupported(l, "of another character or behind Fuse, the decoder",
                                      "Metaspace");
    }
    if (is_type(d, "Strip")) {
        const char *own = json_string_value(json_object_get(d, "content"));
        t->strips_space = json_integer_value(json_object_get(d, "start")) == 1;
        return own && strcmp(own, " ") == 0 && t->strips_space && r->fused && r->blanks &&
                       json_integer_value(json_object_get(d, "stop")) == 0
                   ? 0
                   : load_unsupported(
                         l, "other than of one blank in front of fused text, the decoder", "Strip");
    }
    return load_unsupported(l, "decoder", type_of(d));
}

static int read_decoder(const struct load *l, const json_t *d, int depth, struct decoder *r)
{
    int err = 0;
    if (is_type(d, "Sequence") && depth < 8) {
        const json_t *list = json_object_get(d, "decoders");
        for (size_t i = 0; i < json_array_size(list) && !err; i++)
            err = read_decoder(l, json_array_get(list, i), depth + 1, r);
        return err;
    }
    if (is_type(d, "Fuse"))
        r->fused = true;
    else if (is_type(d, "ByteLevel") && l->t->byte_level)
        r->byte_level = true;
    else
        err = l->t->byte_level || is_type(d, "ByteLevel")
                  ? load_unsupported(l,
                                     l->t->byte_level ? "with ByteLevel, the decoder"
                                                      : "without ByteLevel before it, the decoder",
                                     type_of(d))
                  : text_decoder(l, d, r);
    return err;
}

static int load_decoder(const struct load *l, const json_t *d)
{
    struct decoder r = {0};
    bool given = d && !json_is_null(d);
    int err = given ? read_decoder(l, d, 0, &r) : 0;
    if (!err && given && l->t->byte_level && !r.byte_level)
        err = load_unsupported(l, "with ByteLevel, the decoder", type_of(d));
    l->t->blanks = !given || r.blanks;
    l->t->byte_tokens = !given || r.bytes;
    return err;
}

static const json_t *special_text(const json_t *config, const char *key)
{
    const json_t *v = lodge_json_member(config, key);
    return json_is_object(v) ? json_object_get(v, "content") : v;
}

static int64_t special_id(const struct lodge_tokenizer *t, const json_t *config, const char *key)
{
    const char *text = json_string_value(special_text(config, key));
    return text ? span_map_get(&t->by_text, text, strlen(text)) : -1;
}

/* As transformers' special_tokens_map. */
static int name_specials(struct lodge_tokenizer *t, const json_t *config)
{
    static const char *const names[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                        "pad_token", "cls_token", "mask_token"};
    int err = name_special_id(t, "bos_token", t->bos) || name_special_id(t, "eos_token", t->eos);
    for (size_t i = 0; i < sizeof names / sizeof *names && !err; i++) {
        const json_t *text = special_text(config, names[i]);
        if (json_is_string(text))
            err = name_special(t, names[i], json_string_value(text), json_string_length(text));
    }
    return err ? LODGE_ERR_NOMEM : 0;
}

/* What tokenizer_config.json says of BOS and EOS counts before the post-processor, as it does in
 * transformers; one that it leaves out is not added then. */
static int override_post(const struct load *l, const json_t *config)
{
    struct lodge_tokenizer *t = l->t;
    const json_t *bos = lodge_json_member(config, "add_bos_token"),
                 *eos = lodge_json_member(config, "add_eos_token");
    if (!json_is_boolean(bos) && !json_is_boolean(eos))
        return 0;
    t->n_prefix = t->n_suffix = 0;
    if (set_affix(t, json_is_true(bos), special_id(t, config, "bos_token"), &t->prefix,
                  &t->n_prefix) ||
        set_affix(t, json_is_true(eos), special_id(t, config, "eos_token"), &t->suffix,
                  &t->n_suffix))
        return lodge_fail(l->e, LODGE_ERR_NOMEM, "no memory for the tokenizer");
    return 0;
}

static int fill(const struct load *l, const json_t *root, const json_t *config, const uint32_t *eos,
                uint32_t n_eos)
{
    struct lodge_tokenizer *t = l->t;
    int err = load_normalizer(l, json_object_get(root, "normalizer"), 0);
    if (!err)
        err = load_pre_tokenizer(l, json_object_get(root, "pre_tokenizer"), 0);
    if (!err)
        err = load_decoder(l, json_object_get(root, "decoder"));
    if (!err)
        err = load_model(l, root);
    if (!err)
        err = load_post(l, json_object_get(root, "post_processor"), 0);
    if (!err)
        err = override_post(l, config);
    if (err)
        return err;
    t->bos = special_id(t, config, "bos_token");
    t->eos = special_id(t, config, "eos_token");
    if (t->bos < 0 && t->n_prefix)
        t->bos = t->prefix[0];
    if (t->eos < 0 && n_eos)
        t->eos = eos[0];
    add_known_ends(t);
    for (uint32_t i = 0; i < n_eos; i++)
        add_end(t, eos[i]);
    return name_specials(t, config)
               ? lodge_fail(l->e, LODGE_ERR_NOMEM, "no memory for the tokenizer")
               : 0;
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
                                        : load_bad(&l, "must hold a JSON object");
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
