#include "engine/files/hf_shape.h"

#include "base/json.h"

#include <stdio.h>
#include <string.h>

int lodge_hf_u32(const struct lodge_hf_in *in, const char *key, uint32_t *out)
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

int lodge_hf_number(const struct lodge_hf_in *in, const json_t *obj, const char *key, double *out)
{
    if (lodge_json_get_double(obj, key, -1e300, 1e300, out, in->e)) {
        lodge_error_prefix(in->e, "%s", in->where);
        return LODGE_ERR_FORMAT;
    }
    return 0;
}

int lodge_hf_flag(const struct lodge_hf_in *in, const char *key, bool *out)
{
    if (lodge_json_get_bool(in->c, key, out, in->e)) {
        lodge_error_prefix(in->e, "%s", in->where);
        return LODGE_ERR_FORMAT;
    }
    return 0;
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

static int refuse_family(const struct lodge_hf_in *in, const struct lodge_tensor_source *src,
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

static int set_family(const struct lodge_hf_in *in, const json_t *root,
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

static int set_dims(const struct lodge_hf_in *in, struct lodge_model_shape *s)
{
    uint32_t *const field[] = {&s->d_model,    &s->d_ff,     &s->n_layers, &s->n_heads,
                               &s->n_kv_heads, &s->head_dim, &s->n_vocab,  &s->n_context};
    static const char *const key[] = {
        "hidden_size",         "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "head_dim",          "vocab_size",        "max_position_embeddings"};
    for (size_t i = 0; i < sizeof key / sizeof *key; i++)
        if (lodge_hf_u32(in, key[i], field[i]))
            return LODGE_ERR_FORMAT;
    if (!s->n_kv_heads)
        s->n_kv_heads = s->n_heads;
    if (!s->head_dim && s->n_heads)
        s->head_dim = s->d_model / s->n_heads;
    if (!s->n_context)
        s->n_context = 2048;
    double eps = (double)s->norm_eps;
    bool layer_norm = lodge_has(s->family, LODGE_TRAIT_LAYER_NORM);
    if (lodge_hf_number(in, in->c, layer_norm ? "norm_epsilon" : "rms_norm_eps", &eps))
        return LODGE_ERR_FORMAT;
    s->norm_eps = (float)eps;
    return 0;
}

/* ---- numbers and flags ---- */

static int set_numbers(const struct lodge_hf_in *in, struct lodge_model_shape *s)
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
        else if (lodge_hf_number(in, in->c, n->hf, &number))
            return LODGE_ERR_FORMAT;
        int err = lodge_shape_set_number(s, n, false, number, in->where, in->e);
        if (err)
            return err;
    }
    return 0;
}

static int set_biases(const struct lodge_hf_in *in, struct lodge_model_shape *s)
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
        if (lodge_hf_flag(in, keys[i].key, &on))
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

static int set_activation(const struct lodge_hf_in *in, struct lodge_model_shape *s)
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

int lodge_shape_from_hf(const json_t *config, const char *where,
                        const struct lodge_tensor_source *src, struct lodge_arena *arena,
                        struct lodge_model_shape *out, struct lodge_error *e)
{
    static int (*const steps[])(const struct lodge_hf_in *, struct lodge_model_shape *) = {
        set_dims, set_numbers, set_biases, set_activation, lodge_hf_set_rope};
    struct lodge_hf_in in = {.c = config, .where = where, .arena = arena, .e = e};
    if (!json_is_object(config))
        return lodge_fail(e, LODGE_ERR_FORMAT, "%s: not a JSON object", where);
    const json_t *text = lodge_json_member(config, "text_config");
    if (json_is_object(text))
        in.c = text;
    int err = set_family(&in, config, src, out);
    const json_t *quantization = lodge_json_member(in.c, "quantization_config");
    if (!quantization)
        quantization = lodge_json_member(config, "quantization_config");
    if (!err)
        err = lodge_hf_check_quantization(quantization, where, e);
    for (size_t i = 0; i < sizeof steps / sizeof *steps && !err; i++)
        err = steps[i](&in, out);
    /* Of a model with other parts the outer value may be the only one. */
    if (!err && (lodge_json_get_bool(config, "tie_word_embeddings", &out->tied, e) ||
                 lodge_hf_flag(&in, "tie_word_embeddings", &out->tied)))
        err = LODGE_ERR_FORMAT;
    if (!err)
        err = lodge_shape_check(out, where, e);
    return err ? err : lodge_hf_set_windows(&in, out);
}
