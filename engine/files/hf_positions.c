/* What config.json says of positions: rotations, and which layers attend to a window. */
#include "base/json.h"
#include "engine/files/hf_shape.h"

#include <string.h>

/* ---- rotation ---- */

/* A list of n_dims / 2 positive numbers. */
static int factor_list(const struct lodge_hf_in *in, const json_t *obj, const char *key, uint32_t n,
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

static int scaling_kind(const struct lodge_hf_in *in, const json_t *obj,
                        enum lodge_rope_scaling *out)
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

static int set_scaling(const struct lodge_hf_in *in, const json_t *obj, struct lodge_rope_shape *r)
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
        {"mscale", &r->mscale},
        {"mscale_all_dim", &r->mscale_all_dim},
        {"original_max_position_embeddings", &l0},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (lodge_hf_number(in, obj, numbers[i].key, numbers[i].out))
            return LODGE_ERR_FORMAT;
    bool truncate = !r->fractional;
    if (lodge_json_get_bool(obj, "truncate", &truncate, in->e)) {
        lodge_error_prefix(in->e, "%s", in->where);
        return LODGE_ERR_FORMAT;
    }
    r->fractional = !truncate;
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
static int set_rotated(const struct lodge_hf_in *in, const json_t *obj,
                       const struct lodge_model_shape *s, struct lodge_rope_shape *r)
{
    double partial = s->head_dim ? (double)r->n_dims / s->head_dim : 1;
    if (lodge_hf_number(in, obj, "partial_rotary_factor", &partial))
        return LODGE_ERR_FORMAT;
    if (!(partial > 0 && partial <= 1))
        return lodge_fail(in->e, LODGE_ERR_FORMAT, "%s: partial_rotary_factor %g", in->where,
                          partial);
    r->n_dims = (uint32_t)(s->head_dim * partial);
    return 0;
}

/* One object of rope parameters, over what is known. */
static int set_parameters(const struct lodge_hf_in *in, const json_t *obj,
                          const struct lodge_model_shape *s, struct lodge_rope_shape *r)
{
    if (!json_is_object(obj))
        return lodge_fail(in->e, LODGE_ERR_FORMAT, "%s: rope_scaling must be an object", in->where);
    int err = set_rotated(in, obj, s, r);
    if (!err)
        err = set_scaling(in, obj, r);
    lodge_rope_default_factor(r, s->n_context);
    return err;
}

int lodge_hf_set_rope(const struct lodge_hf_in *in, struct lodge_model_shape *s)
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
    int err = lodge_hf_number(in, in->c, "rope_theta", &r->theta);
    if (!err)
        err = lodge_hf_u32(in, "original_max_position_embeddings", &r->original_context);
    if (!err)
        err = set_rotated(in, in->c, s, r);
    if (err)
        return err;
    s->local_rope = *r;
    s->local_rope.theta = f->defaults.local_theta;
    err = lodge_hf_number(in, in->c, "rope_local_base_freq", &s->local_rope.theta);
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

/* A key that is there with the value null. */
static bool is_null(const struct lodge_hf_in *in, const char *key)
{
    return json_is_null(json_object_get(in->c, key));
}

static int set_layer_types(const struct lodge_hf_in *in, const json_t *types, uint32_t window,
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

int lodge_hf_set_windows(const struct lodge_hf_in *in, struct lodge_model_shape *s)
{
    const struct lodge_family *f = s->family;
    uint32_t window = is_null(in, "sliding_window") ? 0 : f->defaults.window;
    uint32_t pattern = f->pattern, first = 0;
    bool on = false;
    if (lodge_hf_u32(in, "sliding_window", &window) ||
        lodge_hf_u32(in, "sliding_window_pattern", &pattern) ||
        lodge_hf_flag(in, "use_sliding_window", &on))
        return LODGE_ERR_FORMAT;
    if (f->windows == LODGE_WINDOW_SWITCHED) {
        first = 28; /* of transformers */
        window = on ? window : 0;
        if (lodge_hf_u32(in, "max_window_layers", &first))
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
