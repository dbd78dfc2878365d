#include "engine/files/shape.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define MOST_KEYS 6u

struct in {
    const struct lodge_gguf *g;
    const struct lodge_tensor_source *src;
    char arch[32];
    struct lodge_error *e;
};

static const char *key_of(const struct in *in, const char *name, char key[96])
{
    snprintf(key, 96, "%s.%s", in->arch, name);
    return key;
}

static int get_u32(const struct in *in, const char *name, uint32_t *out)
{
    char key[96];
    int64_t v = *out;
    int err = lodge_gguf_get_int(in->g, key_of(in, name, key), 0, INT32_MAX, &v, in->e);
    *out = (uint32_t)v;
    return err;
}

static int get_number(const struct in *in, const char *name, double *out)
{
    char key[96];
    return lodge_gguf_get_float(in->g, key_of(in, name, key), out, in->e);
}

/* A count that may be one number, or an array with one per layer (all equal). */
static int get_per_layer(const struct in *in, const char *name, uint32_t *out)
{
    char key[96];
    const struct lodge_gguf_value *v = lodge_gguf_find(in->g, key_of(in, name, key));
    if (!v || v->type != LODGE_GGUF_ARRAY)
        return get_u32(in, name, out);
    double first = 0, d;
    for (uint64_t i = 0; i < v->n; i++) {
        if (!lodge_gguf_number(v, i, &d) || !(d >= 0 && d < 1e9))
            return lodge_fail(in->e, LODGE_ERR_FORMAT, "metadata '%s' must be numbers", key);
        if (i == 0)
            first = d;
        else if (d != first)
            return lodge_fail(in->e, LODGE_ERR_UNSUPPORTED,
                              "metadata '%s' differs between layers, which is not supported", key);
    }
    *out = (uint32_t)first;
    return 0;
}

/* ---- family ---- */

/* Keys after the architecture's name that are read, or that change nothing here. */
static const char *const known_keys[] = {
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_epsilon",
    "attention.layer_norm_rms_epsilon",
    "attention.sliding_window",
    "attention.sliding_window_pattern",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.freq_base_swa",
    "rope.scale_linear",
    "rope.scaling.attn_factor",
    "rope.scaling.factor",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "rope.scaling.type",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
    "vocab_size",
};

static bool same(const char *text, struct lodge_span s)
{
    return text && strlen(text) == s.n && memcmp(text, s.data, s.n) == 0;
}

static bool is_known(struct lodge_span key)
{
    for (size_t i = 0; i < sizeof known_keys / sizeof *known_keys; i++)
        if (same(known_keys[i], key))
            return true;
    for (size_t i = 0; i < lodge_n_shape_numbers; i++)
        if (lodge_shape_numbers[i].traits && same(lodge_shape_numbers[i].gguf, key))
            return true;
    return false;
}

/* Adds the first few keys of an unknown architecture that no family reads to the error's text. */
static void add_keys(const struct in *in, struct lodge_span arch)
{
    uint32_t n = 0;
    for (uint64_t i = 0; i < in->g->n_values && n < MOST_KEYS; i++) {
        struct lodge_span key = in->g->values[i].key;
        if (key.n <= arch.n || memcmp(key.data, arch.data, arch.n) != 0 || key.data[arch.n] != '.')
            continue;
        struct lodge_span rest = {key.data + arch.n + 1, key.n - arch.n - 1};
        if (!is_known(rest))
            lodge_error_append(in->e, "%s%.*s", n++ ? ", " : "; not understood of the metadata: ",
                               (int)(rest.n > 40 ? 40 : rest.n), rest.data);
    }
}

static int set_family(struct in *in, struct lodge_model_shape *s)
{
    struct lodge_span a = {0};
    int err = lodge_gguf_get_string(in->g, "general.architecture", &a, in->e);
    if (err)
        return err;
    if (!a.n)
        return lodge_fail(in->e, LODGE_ERR_FORMAT,
                          "no general.architecture in the metadata; convert the model again");
    const struct lodge_family *f = lodge_family_gguf(a);
    if (f) {
        snprintf(in->arch, sizeof in->arch, "%.*s", (int)a.n, a.data);
        lodge_shape_init(f, s);
        return 0;
    }
    char known[512];
    lodge_family_list(true, known, sizeof known);
    lodge_fail(in->e, LODGE_ERR_UNSUPPORTED,
               "architecture '%.*s' is not supported; this build serves %s",
               (int)(a.n > 60 ? 60 : a.n), a.data, known);
    add_keys(in, a);
    lodge_error_add_tensors(in->src, in->e);
    return LODGE_ERR_UNSUPPORTED;
}

static int set_dims(const struct in *in, struct lodge_model_shape *s)
{
    uint32_t value_length = 0;
    /* Absent keys mean what GGUF says, not what config.json of the family would. */
    s->n_heads = s->n_kv_heads = s->head_dim = s->n_vocab = s->n_context = 0;
    if (get_u32(in, "embedding_length", &s->d_model) ||
        get_per_layer(in, "feed_forward_length", &s->d_ff) ||
        get_u32(in, "block_count", &s->n_layers) ||
        get_per_layer(in, "attention.head_count", &s->n_heads) ||
        get_per_layer(in, "attention.head_count_kv", &s->n_kv_heads) ||
        get_u32(in, "attention.key_length", &s->head_dim) ||
        get_u32(in, "attention.value_length", &value_length) ||
        get_u32(in, "vocab_size", &s->n_vocab) || get_u32(in, "context_length", &s->n_context))
        return LODGE_ERR_FORMAT;
    if (!s->n_kv_heads)
        s->n_kv_heads = s->n_heads;
    if (!s->head_dim && s->n_heads)
        s->head_dim = s->d_model / s->n_heads;
    if (value_length && value_length != s->head_dim)
        return lodge_fail(in->e, LODGE_ERR_UNSUPPORTED, "keys of %u and values of %u dims",
                          s->head_dim, value_length);
    /* The table itself says how large the vocabulary is. */
    const struct lodge_gguf_tensor *embed = lodge_gguf_tensor(in->g, "token_embd.weight");
    if (embed && embed->dims[1] <= UINT32_MAX)
        s->n_vocab = (uint32_t)embed->dims[1];
    double eps = 1e-5;
    bool layer_norm = lodge_has(s->family, LODGE_TRAIT_LAYER_NORM);
    int err = get_number(
        in, layer_norm ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon", &eps);
    s->norm_eps = (float)eps;
    return err;
}

static int set_numbers(const struct in *in, const char *where, struct lodge_model_shape *s)
{
    char key[96];
    /* GGUF stores no query scalar. */
    if (lodge_has(s->family, LODGE_TRAIT_QUERY_SCALAR))
        s->query_scalar = s->n_layers == s->family->wide_layers && s->n_heads
                              ? s->d_model / s->n_heads
                              : s->head_dim;
    for (size_t i = 0; i < lodge_n_shape_numbers; i++) {
        const struct lodge_shape_number *n = &lodge_shape_numbers[i];
        double number = n->neutral;
        if (!n->gguf || !lodge_gguf_find(in->g, key_of(in, n->gguf, key)))
            continue;
        if (get_number(in, n->gguf, &number))
            return LODGE_ERR_FORMAT;
        int err = lodge_shape_set_number(s, n, true, number, where, in->e);
        if (err)
            return err;
    }
    return 0;
}

/* f32 tensor of n elements as divisors of the frequencies; absent leaves *out NULL. */
static int get_factors(const struct in *in, const char *name, uint32_t n, struct lodge_arena *arena,
                       const float **out)
{
    const struct lodge_gguf_tensor *t = lodge_gguf_tensor(in->g, name);
    if (!t)
        return 0;
    if (t->type != 0 || t->dims[0] != n || t->n_bytes != n * sizeof(float))
        return lodge_fail(in->e, LODGE_ERR_FORMAT, "tensor '%s' must be F32 with %u elements", name,
                          n);
    float *f = lodge_arena_array(arena, n + 1, sizeof *f);
    if (!f)
        return lodge_fail(in->e, LODGE_ERR_NOMEM, "no memory");
    memcpy(f, t->data, t->n_bytes);
    for (uint32_t i = 0; i < n; i++)
        if (!(f[i] > 0))
            return lodge_fail(in->e, LODGE_ERR_FORMAT, "tensor '%s' must be positive", name);
    *out = f;
    return 0;
}

static int set_scaling(const struct in *in, struct lodge_rope_shape *r)
{
    char key[96];
    struct lodge_span type = {"none", 4};
    int err = lodge_gguf_get_string(in->g, key_of(in, "rope.scaling.type", key), &type, in->e);
    if (err)
        return err;
    static const struct {
        const char *name;
        enum lodge_rope_scaling scaling;
    } kinds[] = {{"none", LODGE_ROPE_NONE},
                 {"linear", LODGE_ROPE_LINEAR},
                 {"yarn", LODGE_ROPE_YARN},
                 {"longrope", LODGE_ROPE_LONGROPE}};
    for (size_t i = 0; i < 4; i++)
        if (type.n == strlen(kinds[i].name) && memcmp(type.data, kinds[i].name, type.n) == 0) {
            r->scaling = kinds[i].scaling;
            return 0;
        }
    return lodge_fail(in->e, LODGE_ERR_UNSUPPORTED, "rope scaling '%.*s' is not supported",
                      (int)(type.n > 40 ? 40 : type.n), type.data);
}

/* Numbers of the rotation, in GGUF's meaning. */
static int rope_numbers(const struct in *in, struct lodge_rope_shape *r)
{
    const struct {
        const char *key;
        double *out;
    } numbers[] = {
        {"rope.freq_base", &r->theta},
        {"rope.scaling.factor", &r->factor},
        {"rope.scaling.attn_factor", &r->attention_factor},
        {"rope.scaling.yarn_beta_fast", &r->beta_fast},
        {"rope.scaling.yarn_beta_slow", &r->beta_slow},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (get_number(in, numbers[i].key, numbers[i].out))
            return LODGE_ERR_FORMAT;
    return get_u32(in, "rope.scaling.original_context_length", &r->original_context) ||
                   get_u32(in, "rope.dimension_count", &r->n_dims)
               ? LODGE_ERR_FORMAT
               : 0;
}

static int rope_tensors(const struct in *in, struct lodge_arena *arena, struct lodge_rope_shape *r)
{
    uint32_t n = r->n_dims / 2;
    int err = get_factors(in, "rope_freqs.weight", n, arena, &r->divisors);
    if (!err)
        err = get_factors(in, "rope_factors_long.weight", n, arena, &r->long_factor);
    if (!err)
        err = get_factors(in, "rope_factors_short.weight", n, arena, &r->short_factor);
    if (!err && !r->long_factor != !r->short_factor)
        return lodge_fail(
            in->e, LODGE_ERR_FORMAT,
            "of the tensors rope_factors_long.weight and rope_factors_short.weight one "
            "is missing; the model is incomplete, fetch or convert it again");
    /* Files of Phi-3 name no scaling. */
    if (r->long_factor && r->scaling == LODGE_ROPE_NONE)
        r->scaling = LODGE_ROPE_LONGROPE;
    return err;
}

static int set_rope(const struct in *in, struct lodge_arena *arena, struct lodge_model_shape *s)
{
    const struct lodge_family *f = s->family;
    struct lodge_rope_shape *r = &s->rope;
    *r = (struct lodge_rope_shape){.theta = f->defaults.theta > 0 ? f->defaults.theta : 10000,
                                   .beta_fast = 32,
                                   .beta_slow = 1,
                                   .attention_factor = -1,
                                   .n_dims = s->head_dim};
    double old_linear = 0;
    int err = rope_numbers(in, r);
    /* Layers that slide rotate by a base of their own, unscaled. */
    s->local_rope = (struct lodge_rope_shape){
        .theta = f->defaults.local_theta, .n_dims = f->defaults.local_theta > 0 ? r->n_dims : 0};
    if (!err)
        err = get_number(in, "rope.freq_base_swa", &s->local_rope.theta);
    if (!err)
        err = get_number(in, "rope.scale_linear", &old_linear);
    if (!err)
        err = set_scaling(in, r);
    lodge_rope_default_factor(r, s->n_context);
    /* GGUF's factor multiplies the default one; ours replaces it. */
    if (!err && r->scaling == LODGE_ROPE_YARN && r->attention_factor >= 0)
        r->attention_factor *= 0.1 * log(r->factor > 1 ? r->factor : 1) + 1;
    if (!err && old_linear > 1 && r->scaling == LODGE_ROPE_NONE) {
        r->scaling = LODGE_ROPE_LINEAR;
        r->factor = old_linear;
    }
    if (!err)
        err = rope_tensors(in, arena, r);
    return err;
}

/* Pairs are made of whole heads; a part of one would mix what rotates with what does not. */
static int check_pairs(const struct in *in, const struct lodge_model_shape *s)
{
    if (!lodge_has(s->family, LODGE_TRAIT_GGUF_PAIRS) || s->rope.n_dims == s->head_dim)
        return 0;
    return lodge_fail(
        in->e, LODGE_ERR_UNSUPPORTED,
        "rope.dimension_count is %u, but heads of %s have %u dims; rotating a part of "
        "them is not supported for this architecture",
        s->rope.n_dims, in->arch, s->head_dim);
}

/* The pattern as a number, or as one flag a layer. */
static int set_windows(const struct in *in, struct lodge_model_shape *s)
{
    char key[96];
    uint32_t window = s->family->defaults.window, pattern = s->family->pattern;
    bool there = lodge_gguf_find(in->g, key_of(in, "attention.sliding_window", key));
    int err = get_u32(in, "attention.sliding_window", &window);
    if (err)
        return err;
    switch (s->family->windows) {
    case LODGE_WINDOW_NONE:
        if (there && window)
            return lodge_fail(in->e, LODGE_ERR_UNSUPPORTED,
                              "'%s' is %u, but models of kind %s have no windows; the file is of "
                              "another kind of model",
                              key, window, in->arch);
        break;
    case LODGE_WINDOW_SWITCHED:
        /* Converters write the key whatever the switch was. */
        return 0;
    case LODGE_WINDOW_GGUF:
    case LODGE_WINDOW_ALL:
    case LODGE_WINDOW_PATTERN:
        break;
    }
    const struct lodge_gguf_value *v =
        lodge_gguf_find(in->g, key_of(in, "attention.sliding_window_pattern", key));
    if (!v || v->type != LODGE_GGUF_ARRAY) {
        err = get_u32(in, "attention.sliding_window_pattern", &pattern);
        if (!err)
            lodge_shape_set_windows(s, window, pattern, 0);
        return err;
    }
    if (v->n != s->n_layers)
        return lodge_fail(in->e, LODGE_ERR_FORMAT, "metadata '%s' must list %u layers", key,
                          s->n_layers);
    for (uint32_t i = 0; i < s->n_layers; i++) {
        double slides = 0;
        if (!lodge_gguf_number(v, i, &slides))
            return lodge_fail(in->e, LODGE_ERR_FORMAT, "metadata '%s' must be flags", key);
        s->slides[i] = slides != 0;
        s->window[i] = s->slides[i] ? window : 0;
    }
    return 0;
}

static bool has_bias(const struct in *in, const struct lodge_model_shape *s, enum lodge_part part)
{
    char name[96];
    lodge_family_tensor(s->family, part, true, 0, ".bias", name);
    return lodge_gguf_tensor(in->g, name) != NULL;
}

static int read_shape(struct in *in, struct lodge_arena *arena, struct lodge_model_shape *out)
{
    int err = set_family(in, out);
    if (!err)
        err = set_dims(in, out);
    if (!err)
        err = set_numbers(in, in->src->where, out);
    if (!err)
        err = set_rope(in, arena, out);
    if (!err)
        err = lodge_shape_check(out, in->src->where, in->e);
    if (!err)
        err = check_pairs(in, out);
    if (err)
        return err;
    out->tied = !lodge_gguf_tensor(in->g, "output.weight");
    out->qkv_bias = has_bias(in, out, LODGE_PART_Q) || has_bias(in, out, LODGE_PART_QKV) ||
                    lodge_has(out->family, LODGE_TRAIT_QKV_BIAS);
    out->o_bias = has_bias(in, out, LODGE_PART_O);
    out->mlp_bias = has_bias(in, out, LODGE_PART_UP);
    return set_windows(in, out);
}

int lodge_shape_from_gguf(const struct lodge_gguf *g, const struct lodge_tensor_source *src,
                          struct lodge_arena *arena, struct lodge_model_shape *out,
                          struct lodge_error *e)
{
    struct in in = {.g = g, .src = src, .e = e};
    *out = (struct lodge_model_shape){0};
    int err = read_shape(&in, arena, out);
    if (err && e && strncmp(e->text, src->where, strlen(src->where)) != 0)
        lodge_error_prefix(e, "%s", src->where);
    return err;
}
