#include "engine/files/shape.h"

#include "base/json.h"

#include <stdio.h>
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

/* A key that is there with the value null. */
static bool is_null(const struct in *in, const char *key)
{
    return json_is_null(json_object_get(in->c, key));
}

/* ---- family ---- */

/* Keys that are read, or that change nothing for one who computes the next token. */
static const char *const known_keys[] = {
    "_name_or_path",
    "architectures",
    "attention_bias",
    "attention_dropout",
    "auto_map",
    "bos_token_id",
    "cache_implementation",
    "dtype",
    "embd_pdrop",
    "embedding_dropout",
    "eos_token_id",
    "head_dim",
    "hidden_act",
    "hidden_activation",
    "hidden_size",
    "id2label",
    "initializer_range",
    "intermediate_size",
    "label2id",
    "layer_types",
    "max_position_embeddings",
    "max_window_layers",
    "mlp_bias",
    "model_type",
    "norm_epsilon",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "original_max_position_embeddings",
    "pad_token_id",
    "partial_rotary_factor",
    "pretraining_tp",
    "quantization_config",
    "resid_pdrop",
    "residual_dropout",
    "rms_norm_eps",
    "rope_local_base_freq",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "sliding_window",
    "sliding_window_pattern",
    "tie_word_embeddings",
    "torch_dtype",
    "transformers_version",
    "use_bias",
    "use_cache",
    "use_sliding_window",
    "vocab_size",
};

static bool is_known(const char *key)
{
    for (size_t i = 0; i < sizeof known_keys / sizeof *known_keys; i++)
        if (strcmp(known_keys[i], key) == 0)
            return true;
    for (size_t i = 0; i < lodge_n_shape_numbers; i++)
        if (lodge_shape_numbers[i].hf && lodge_shape_numbers[i].traits &&
            strcmp(lodge_shape_numbers[i].hf, key) == 0)
            return true;
    return false;
}

static int refuse_family(const struct in *in, const struct lodge_tensor_source *src,
                         const char *name)
{
    char known[512], keys[256] = "";
    size_t at = 0, n = 0;
    const char *key;
    json_t *value;
    lodge_family_list(false, known, sizeof known);
    json_object_foreach((json_t *)(uintptr_t)in->c, key, value)
    {
        if (is_known(key) || n++ >= 6 || at >= sizeof keys - 64)
            continue;
        at += (size_t)snprintf(keys + at, sizeof keys - at, "%s%.40s", at ? ", " : "", key);
    }
    lodge_fail(in->e, LODGE_ERR_UNSUPPORTED,
               "%s: architecture '%.60s' is not supported; this build serves %s", in->where, name,
               known);
    if (n)
        lodge_error_append(in->e, "; not understood of the configuration: %s%s", keys,
                           n > 6 ? ", ..." : "");
    lodge_error_add_tensors(src, in->e);
    return LODGE_ERR_UNSUPPORTED;
}

static int set_family(const struct in *in, const json_t *root,
                      const struct lodge_tensor_source *src, struct lodge_model_shape *s)
{
    const char *name =
        json_string_value(json_array_get(lodge_json_member(root, "architectures"), 0));
    const char *type = NULL;
    const struct lodge_family *f = name ? lodge_family_hf(name) : NULL;
    /* The architecture of a model with other parts says little of its text model. */
    if (!f && in->c != root) {
        lodge_json_get_string(in->c, "model_type", &type, NULL);
        f = type ? lodge_family_text(type) : NULL;
    }
    if (!f && !name)
        return lodge_fail(in->e, LODGE_ERR_FORMAT, "%s: no 'architectures' list", in->where);
    if (!f)
        return refuse_family(in, src, name);
    lodge_shape_init(f, s);
    return 0;
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
    double eps = (double)s->norm_eps;
    bool layer_norm = lodge_has(s->family, LODGE_TRAIT_LAYER_NORM);
    if (get_number(in, in->c, layer_norm ? "norm_epsilon" : "rms_norm_eps", &eps))
        return LODGE_ERR_FORMAT;
    s->norm_eps = (float)eps;
    return 0;
}

/* ---- numbers and flags ---- */

static int set_numbers(const struct in *in, struct lodge_model_shape *s)
{
    /* What transformers takes when the key is absent. */
    if (lodge_has(s->family, LODGE_TRAIT_MULTIPLIERS))
        s->attention_scale = 1;
    for (size_t i = 0; i < lodge_n_shape_numbers; i++) {
        const struct lodge_shape_number *n = &lodge_shape_numbers[i];
        const json_t *v = n->hf ? json_object_get(in->c, n->hf) : NULL;
        double number = n->neutral;
        if (!v)
            continue;
        if (json_is_boolean(v))
            number = json_is_true(v);
        else if (get_number(in, in->c, n->hf, &number))
            return LODGE_ERR_FORMAT;
        int err = lodge_shape_set_number(s, n, false, number, in->where, in->e);
        if (err)
            return err;
    }
    return 0;
}

static int set_biases(const struct in *in, struct lodge_model_shape *s)
{
    const struct {
        const char *key;
        enum lodge_trait trait;
        bool on;
        bool attention, mlp;
    } keys[] = {{"attention_bias", LODGE_TRAIT_ATTENTION_BIAS, false, true, false},
                {"mlp_bias", LODGE_TRAIT_MLP_BIAS, false, false, true},
                {"use_bias", LODGE_TRAIT_USE_BIAS, true, true, true}};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        bool mine = lodge_has(s->family, keys[i].trait), on = mine && keys[i].on;
        if (get_flag(in, keys[i].key, &on))
            return LODGE_ERR_FORMAT;
        if (on && !mine)
            return lodge_fail(in->e, LODGE_ERR_UNSUPPORTED,
                              "%s: '%s' is true, but models of kind %s have no such biases; the "
                              "configuration is of another model",
                              in->where, keys[i].key, s->family->gguf);
        s->qkv_bias |= on && keys[i].attention;
        s->o_bias |= on && keys[i].attention;
        s->mlp_bias |= on && keys[i].mlp;
    }
    s->qkv_bias |= lodge_has(s->family, LODGE_TRAIT_QKV_BIAS);
    return 0;
}

static int set_activation(const struct in *in, struct lodge_model_shape *s)
{
    const char *act = NULL;
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
    if (!act)
        return 0;
    for (size_t i = 0; i < sizeof acts / sizeof *acts; i++)
        if (strcmp(act, acts[i].name) == 0) {
            s->act = acts[i].act;
            return 0;
        }
    return lodge_fail(in->e, LODGE_ERR_UNSUPPORTED, "%s: activation '%s' is not supported",
                      in->where, act);
}

/* ---- rotation ---- */

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
    if (strcmp(type, "su") == 0 || lodge_json_member(obj, "long_factor"))
        type = "longrope"; /* as old files of Phi-3 call it */
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

/* The dims of a head that rotate. */
static int set_rotated(const struct in *in, const json_t *obj, const struct lodge_model_shape *s,
                       struct lodge_rope_shape *r)
{
    double partial = s->head_dim ? (double)r->n_dims / s->head_dim : 1;
    if (get_number(in, obj, "partial_rotary_factor", &partial))
        return LODGE_ERR_FORMAT;
    if (!(partial > 0 && partial <= 1))
        return lodge_fail(in->e, LODGE_ERR_FORMAT, "%s: partial_rotary_factor %g", in->where,
                          partial);
    r->n_dims = (uint32_t)(s->head_dim * partial);
    return 0;
}

/* One object of rope parameters, over what is known. */
static int set_parameters(const struct in *in, const json_t *obj, const struct lodge_model_shape *s,
                          struct lodge_rope_shape *r)
{
    if (!json_is_object(obj))
        return lodge_fail(in->e, LODGE_ERR_FORMAT, "%s: rope_scaling must be an object", in->where);
    int err = set_rotated(in, obj, s, r);
    if (!err)
        err = set_scaling(in, obj, r);
    lodge_rope_default_factor(r, s->n_context);
    return err;
}

static int set_rope(const struct in *in, struct lodge_model_shape *s)
{
    const struct lodge_family *f = s->family;
    struct lodge_rope_shape *r = &s->rope;
    *r = (struct lodge_rope_shape){.theta = f->defaults.theta > 0 ? f->defaults.theta : 10000,
                                   .low_freq_factor = 1,
                                   .high_freq_factor = 4,
                                   .beta_fast = 32,
                                   .beta_slow = 1,
                                   .attention_factor = -1,
                                   .original_context = f->defaults.original_context,
                                   .n_dims = s->head_dim};
    int err = get_number(in, in->c, "rope_theta", &r->theta);
    if (!err)
        err = get_u32(in, "original_max_position_embeddings", &r->original_context);
    if (!err)
        err = set_rotated(in, in->c, s, r);
    if (err)
        return err;
    s->local_rope = *r;
    s->local_rope.theta = f->defaults.local_theta;
    err = get_number(in, in->c, "rope_local_base_freq", &s->local_rope.theta);
    if (!(s->local_rope.theta > 0))
        s->local_rope.n_dims = 0;
    const json_t *obj = lodge_json_member(in->c, "rope_parameters");
    if (!obj)
        obj = lodge_json_member(in->c, "rope_scaling");
    const json_t *full = lodge_json_member(obj, "full_attention");
    const json_t *local = lodge_json_member(obj, "sliding_attention");
    if (!err && local) {
        s->local_rope.n_dims = r->n_dims;
        err = set_parameters(in, local, s, &s->local_rope);
    }
    if (!err && (full || (obj && !local)))
        err = set_parameters(in, full ? full : obj, s, r);
    return err;
}

/* ---- windows ---- */

static int set_layer_types(const struct in *in, const json_t *types, uint32_t window,
                           struct lodge_model_shape *s)
{
    if (json_array_size(types) != s->n_layers)
        return lodge_fail(in->e, LODGE_ERR_FORMAT, "%s: layer_types must list %u layers", in->where,
                          s->n_layers);
    for (uint32_t i = 0; i < s->n_layers; i++) {
        const char *type = json_string_value(json_array_get(types, i));
        s->slides[i] = type && strcmp(type, "sliding_attention") == 0;
        s->window[i] = s->slides[i] ? window : 0;
        if (!s->slides[i] && (!type || strcmp(type, "full_attention") != 0))
            return lodge_fail(in->e, LODGE_ERR_UNSUPPORTED,
                              "%s: layer_types has '%.40s'; supported are full_attention and "
                              "sliding_attention",
                              in->where, type ? type : "no string");
    }
    return 0;
}

static int set_windows(const struct in *in, struct lodge_model_shape *s)
{
    const struct lodge_family *f = s->family;
    uint32_t window = is_null(in, "sliding_window") ? 0 : f->defaults.window;
    uint32_t pattern = f->pattern, first = 0;
    bool on = false;
    if (get_u32(in, "sliding_window", &window) || get_u32(in, "sliding_window_pattern", &pattern) ||
        get_flag(in, "use_sliding_window", &on))
        return LODGE_ERR_FORMAT;
    if (f->windows == LODGE_WINDOW_SWITCHED) {
        first = 28; /* of transformers */
        window = on ? window : 0;
        if (get_u32(in, "max_window_layers", &first))
            return LODGE_ERR_FORMAT;
    }
    if (f->windows == LODGE_WINDOW_GGUF)
        window = 0;
    const json_t *types = lodge_json_member(in->c, "layer_types");
    if (types)
        return set_layer_types(in, types, window, s);
    lodge_shape_set_windows(s, window, pattern, first);
    return 0;
}

int lodge_shape_from_hf(const json_t *config, const char *where,
                        const struct lodge_tensor_source *src, struct lodge_arena *arena,
                        struct lodge_model_shape *out, struct lodge_error *e)
{
    static int (*const steps[])(const struct in *, struct lodge_model_shape *) = {
        set_dims, set_numbers, set_biases, set_activation, set_rope};
    struct in in = {.c = config, .where = where, .arena = arena, .e = e};
    if (!json_is_object(config))
        return lodge_fail(e, LODGE_ERR_FORMAT, "%s: not a JSON object", where);
    const json_t *text = lodge_json_member(config, "text_config");
    if (json_is_object(text))
        in.c = text;
    int err = set_family(&in, config, src, out);
    if (!err)
        err = lodge_hf_check_quantization(lodge_json_member(in.c, "quantization_config"), where, e);
    for (size_t i = 0; i < sizeof steps / sizeof *steps && !err; i++)
        err = steps[i](&in, out);
    /* Of a model with other parts the outer value may be the only one. */
    if (!err && (lodge_json_get_bool(config, "tie_word_embeddings", &out->tied, e) ||
                 get_flag(&in, "tie_word_embeddings", &out->tied)))
        err = LODGE_ERR_FORMAT;
    if (!err)
        err = lodge_shape_check(out, where, e);
    return err ? err : set_windows(&in, out);
}
