#include "engine/files/shape.h"

#include "base/json.h"

#include <string.h>

struct in {
    const json_t *c; /* the text part of the configuration */
    const char *where;
    struct lodge_arena *arena;
    struct lodge_error *e;
};

static int get_u32(const struct in *in, const char *key, uint32_t *out)
{
    int64_t v = *out;
    int err = lodge_json_get_int(in->c, key, 0, INT32_MAX, &v, in->e);
    if (err) {
        lodge_error_prefix(in->e, "%s", in->where);
        return LODGE_ERR_FORMAT;
    }
    *out = (uint32_t)v;
    return 0;
}

static int get_number(const struct in *in, const json_t *obj, const char *key, double *out)
{
    if (lodge_json_get_double(obj, key, -1e300, 1e300, out, in->e)) {
        lodge_error_prefix(in->e, "%s", in->where);
        return LODGE_ERR_FORMAT;
    }
    return 0;
}

static int get_flag(const struct in *in, const char *key, bool *out)
{
    if (lodge_json_get_bool(in->c, key, out, in->e)) {
        lodge_error_prefix(in->e, "%s", in->where);
        return LODGE_ERR_FORMAT;
    }
    return 0;
}

static int set_family(const struct in *in, const json_t *root, struct lodge_model_shape *s)
{
    const json_t *list = lodge_json_member(root, "architectures");
    const char *name = json_string_value(json_array_get(list, 0));
    if (!name)
        return lodge_fail(in->e, LODGE_ERR_FORMAT, "%s: no 'architectures' list", in->where);
    s->family = lodge_family_hf(name);
    if (s->family)
        return 0;
    char known[512];
    lodge_family_list(false, known, sizeof known);
    return lodge_fail(in->e, LODGE_ERR_UNSUPPORTED,
                      "%s: architecture '%s' is not supported; this build serves %s", in->where,
                      name, known);
}

static int set_dims(const struct in *in, struct lodge_model_shape *s)
{
    uint32_t *const field[] = {&s->d_model,    &s->d_ff,     &s->n_layers, &s->n_heads,
                               &s->n_kv_heads, &s->head_dim, &s->n_vocab,  &s->n_context};
    static const char *const key[] = {
        "hidden_size",         "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "head_dim",          "vocab_size",        "max_position_embeddings"};
    for (size_t i = 0; i < sizeof key / sizeof *key; i++)
        if (get_u32(in, key[i], field[i]))
            return LODGE_ERR_FORMAT;
    if (!s->n_kv_heads)
        s->n_kv_heads = s->n_heads;
    if (!s->head_dim && s->n_heads)
        s->head_dim = s->d_model / s->n_heads;
    if (!s->n_context)
        s->n_context = 2048;
    double eps = 1e-6;
    if (get_number(in, in->c, "rms_norm_eps", &eps))
        return LODGE_ERR_FORMAT;
    s->norm_eps = (float)eps;
    return 0;
}

static int set_flags(const struct in *in, struct lodge_model_shape *s)
{
    if (get_flag(in, "attention_bias", &s->attention_bias) ||
        get_flag(in, "mlp_bias", &s->mlp_bias) || get_flag(in, "tie_word_embeddings", &s->tied))
        return LODGE_ERR_FORMAT;
    const char *act = "silu";
    lodge_json_get_string(in->c, "hidden_act", &act, NULL);
    lodge_json_get_string(in->c, "hidden_activation", &act, NULL);
    static const struct {
        const char *name;
        enum lodge_activation act;
    } acts[] = {{"silu", LODGE_ACT_SILU},
                {"swish", LODGE_ACT_SILU},
                {"gelu", LODGE_ACT_GELU},
                {"gelu_new", LODGE_ACT_GELU_TANH},
                {"gelu_pytorch_tanh", LODGE_ACT_GELU_TANH}};
    for (size_t i = 0; i < sizeof acts / sizeof *acts; i++)
        if (strcmp(act, acts[i].name) == 0) {
            s->act = acts[i].act;
            return 0;
        }
    return lodge_fail(in->e, LODGE_ERR_UNSUPPORTED, "%s: activation '%s' is not supported",
                      in->where, act);
}

/* A list of n_dims / 2 positive numbers. */
static int factor_list(const struct in *in, const json_t *obj, const char *key, uint32_t n,
                       const float **out)
{
    const json_t *list = lodge_json_member(obj, key);
    float *f = json_array_size(list) == n ? lodge_arena_array(in->arena, n + 1, sizeof *f) : NULL;
    for (uint32_t i = 0; f && i < n; i++) {
        f[i] = (float)json_number_value(json_array_get(list, i));
        if (!(f[i] > 0))
            f = NULL;
    }
    if (!f)
        return lodge_fail(in->e, LODGE_ERR_FORMAT,
                          "%s: rope_scaling.%s must be a list of %u positive numbers", in->where,
                          key, n);
    *out = f;
    return 0;
}

static int scaling_kind(const struct in *in, const json_t *obj, enum lodge_rope_scaling *out)
{
    static const char *const names[] = {"default", "linear",  "llama3",
                                        "yarn",    "dynamic", "longrope"};
    const char *type = "default";
    lodge_json_get_string(obj, "type", &type, NULL);
    lodge_json_get_string(obj, "rope_type", &type, NULL);
    if (strcmp(type, "su") == 0)
        type = "longrope";
    for (int i = 0; i < 6; i++)
        if (strcmp(type, names[i]) == 0) {
            *out = (enum lodge_rope_scaling)i;
            return 0;
        }
    return lodge_fail(in->e, LODGE_ERR_UNSUPPORTED, "%s: rope scaling '%s' is not supported",
                      in->where, type);
}

static int set_scaling(const struct in *in, const json_t *obj, struct lodge_rope_shape *r)
{
    double l0 = r->original_context;
    const struct {
        const char *key;
        double *out;
    } numbers[] = {
        {"rope_theta", &r->theta},
        {"factor", &r->factor},
        {"low_freq_factor", &r->low_freq_factor},
        {"high_freq_factor", &r->high_freq_factor},
        {"beta_fast", &r->beta_fast},
        {"beta_slow", &r->beta_slow},
        {"attention_factor", &r->attention_factor},
        {"original_max_position_embeddings", &l0},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (get_number(in, obj, numbers[i].key, numbers[i].out))
            return LODGE_ERR_FORMAT;
    if (!(l0 >= 0 && l0 < 1e9))
        return lodge_fail(in->e, LODGE_ERR_FORMAT,
                          "%s: original_max_position_embeddings is out of range", in->where);
    r->original_context = (uint32_t)l0;
    int err = scaling_kind(in, obj, &r->scaling);
    if (!err && r->scaling == LODGE_ROPE_LLAMA3 &&
        !(r->low_freq_factor > 0 && r->high_freq_factor > r->low_freq_factor))
        err = lodge_fail(in->e, LODGE_ERR_FORMAT,
                         "%s: llama3 rope scaling needs 0 < low_freq_factor < high_freq_factor",
                         in->where);
    if (!err && r->scaling == LODGE_ROPE_LONGROPE) {
        err = factor_list(in, obj, "short_factor", r->n_dims / 2, &r->short_factor);
        if (!err)
            err = factor_list(in, obj, "long_factor", r->n_dims / 2, &r->long_factor);
    }
    return err;
}

static int set_rope(const struct in *in, struct lodge_model_shape *s)
{
    struct lodge_rope_shape *r = &s->rope;
    *r = (struct lodge_rope_shape){.theta = 10000,
                                   .low_freq_factor = 1,
                                   .high_freq_factor = 4,
                                   .beta_fast = 32,
                                   .beta_slow = 1,
                                   .attention_factor = -1,
                                   .n_dims = s->head_dim};
    double partial = 1;
    uint32_t l0 = 0;
    if (get_number(in, in->c, "rope_theta", &r->theta) ||
        get_number(in, in->c, "partial_rotary_factor", &partial) ||
        get_u32(in, "original_max_position_embeddings", &l0))
        return LODGE_ERR_FORMAT;
    r->original_context = l0;
    if (!(partial > 0 && partial <= 1))
        return lodge_fail(in->e, LODGE_ERR_FORMAT, "%s: partial_rotary_factor %g", in->where,
                          partial);
    r->n_dims = (uint32_t)(s->head_dim * partial);
    const json_t *obj = lodge_json_member(in->c, "rope_parameters");
    if (!obj)
        obj = lodge_json_member(in->c, "rope_scaling");
    if (!obj)
        return 0;
    if (!json_is_object(obj))
        return lodge_fail(in->e, LODGE_ERR_FORMAT, "%s: rope_scaling must be an object", in->where);
    int err = set_scaling(in, obj, r);
    lodge_rope_default_factor(r, s->n_context);
    return err;
}

static int set_windows(const struct in *in, struct lodge_model_shape *s)
{
    uint32_t window = 0;
    if (get_u32(in, "sliding_window", &window))
        return LODGE_ERR_FORMAT;
    const json_t *types = lodge_json_member(in->c, "layer_types");
    if (types && json_array_size(types) != s->n_layers)
        return lodge_fail(in->e, LODGE_ERR_FORMAT, "%s: layer_types must list %u layers", in->where,
                          s->n_layers);
    for (uint32_t i = 0; i < s->n_layers; i++) {
        const char *type = json_string_value(json_array_get(types, i));
        bool slides =
            types ? type && strcmp(type, "sliding_attention") == 0 : s->family->uses_window;
        s->window[i] = slides ? window : 0;
    }
    return 0;
}

int lodge_shape_from_hf(const json_t *config, const char *where, struct lodge_arena *arena,
                        struct lodge_model_shape *out, struct lodge_error *e)
{
    *out = (struct lodge_model_shape){0};
    struct in in = {.c = config, .where = where, .arena = arena, .e = e};
    if (!json_is_object(config))
        return lodge_fail(e, LODGE_ERR_FORMAT, "%s: not a JSON object", where);
    const json_t *text = lodge_json_member(config, "text_config");
    if (json_is_object(text))
        in.c = text;
    int err = set_family(&in, config, out);
    if (!err)
        err = lodge_hf_check_quantization(lodge_json_member(in.c, "quantization_config"), where, e);
    if (!err)
        err = set_dims(&in, out);
    if (!err)
        err = set_flags(&in, out);
    if (!err)
        err = set_rope(&in, out);
    if (!err)
        err = lodge_shape_check(out, where, e);
    return err ? err : set_windows(&in, out);
}
