/* What both readers of configurations share: defaults, numbers that only some families have,
 * windows, checks. */
#include "engine/files/shape.h"

#include <math.h>
#include <string.h>

#define FIELD(name) offsetof(struct lodge_model_shape, name)

const struct lodge_shape_number lodge_shape_numbers[] = {
    {"attn_logit_softcapping", "attn_logit_softcapping", LODGE_TRAIT_ATTN_SOFTCAP, 0,
     FIELD(attention_softcap)},
    {"final_logit_softcapping", "final_logit_softcapping", LODGE_TRAIT_LOGIT_SOFTCAP, 0,
     FIELD(logit_softcap)},
    {"query_pre_attn_scalar", NULL, LODGE_TRAIT_QUERY_SCALAR, 0, FIELD(query_scalar)},
    {"attention_multiplier", "attention.scale", LODGE_TRAIT_MULTIPLIERS, 0, FIELD(attention_scale)},
    {"embedding_multiplier", "embedding_scale", LODGE_TRAIT_MULTIPLIERS, 1,
     FIELD(embedding_multiplier)},
    {"residual_multiplier", "residual_scale", LODGE_TRAIT_MULTIPLIERS, 1,
     FIELD(residual_multiplier)},
    {"logits_scaling", "logit_scale", LODGE_TRAIT_MULTIPLIERS, 1, FIELD(logit_divisor)},
    /* What no family here does. */
    {"num_local_experts", "expert_count", 0, 0, 0},
    {"num_experts", NULL, 0, 0, 0},
    {"n_routed_experts", NULL, 0, 0, 0},
    {"clip_qkv", "attention.clamp_kqv", 0, 0, 0},
    {"alibi", "attention.max_alibi_bias", 0, 0, 0},
    {"use_qk_norm", NULL, 0, 0, 0},
    {"use_parallel_residual", "use_parallel_residual", 0, 0, 0},
    {"use_bidirectional_attention", NULL, 0, 0, 0},
    {NULL, "attention.causal", 0, 1, 0},
};
const size_t lodge_n_shape_numbers = sizeof lodge_shape_numbers / sizeof *lodge_shape_numbers;

void lodge_shape_init(const struct lodge_family *f, struct lodge_model_shape *out)
{
    *out = (struct lodge_model_shape){
        .family = f,
        .n_heads = f->defaults.n_heads,
        .n_kv_heads = f->defaults.n_kv_heads,
        .head_dim = f->defaults.head_dim,
        .n_vocab = f->defaults.n_vocab,
        .n_context = f->defaults.n_context,
        .norm_eps = (float)(f->defaults.norm_eps > 0 ? f->defaults.norm_eps : 1e-6),
        .tied = f->defaults.tied,
        .act = f->act,
        .query_scalar = f->defaults.query_scalar,
        .attention_softcap = f->defaults.attention_softcap,
        .logit_softcap = f->defaults.logit_softcap,
        .embedding_multiplier = 1,
        .residual_multiplier = 1,
        .logit_divisor = 1,
    };
}

int lodge_shape_set_number(struct lodge_model_shape *s, const struct lodge_shape_number *n,
                           bool gguf, double value, const char *where, struct lodge_error *e)
{
    if (s->family->traits & n->traits) {
        memcpy((char *)s + n->field, &value, sizeof value);
        return 0;
    }
    if (value == n->neutral)
        return 0;
    return lodge_fail(e, LODGE_ERR_UNSUPPORTED,
                      "%s: '%s' is %g, which is not computed for models of kind %s; the answers "
                      "would be wrong without it, use a model that does not need it",
                      where, gguf ? n->gguf : n->hf, value, s->family->gguf);
}

void lodge_shape_set_windows(struct lodge_model_shape *s, uint32_t window, uint32_t pattern,
                             uint32_t first_layer)
{
    for (uint32_t i = 0; i < s->n_layers; i++) {
        bool slides = s->family->windows == LODGE_WINDOW_PATTERN ? pattern && (i + 1) % pattern
                                                                 : i >= first_layer;
        s->slides[i] = slides && s->family->windows != LODGE_WINDOW_NONE;
        s->window[i] = s->slides[i] ? window : 0;
    }
}

/* ---- checks ---- */

static int check_dims(const struct lodge_model_shape *s, const char *where, struct lodge_error *e)
{
    const struct {
        const char *name;
        uint32_t v, max;
    } dims[] = {
        {"hidden size", s->d_model, 1 << 20},
        {"feed-forward size", s->d_ff, 1 << 22},
        {"number of layers", s->n_layers, LODGE_MAX_LAYERS},
        {"number of heads", s->n_heads, 1 << 14},
        {"number of kv heads", s->n_kv_heads, 1 << 14},
        {"head size", s->head_dim, 1 << 12},
        {"vocabulary size", s->n_vocab, 1 << 24},
        {"context length", s->n_context, 1 << 30},
    };
    for (size_t i = 0; i < sizeof dims / sizeof *dims; i++)
        if (dims[i].v == 0 || dims[i].v > dims[i].max)
            return lodge_fail(
                e, LODGE_ERR_FORMAT,
                "%s: %s is %u or not given, which no model can have; the file is damaged or "
                "of another kind of model",
                where, dims[i].name, dims[i].v);
    if (s->n_heads % s->n_kv_heads)
        return lodge_fail(e, LODGE_ERR_FORMAT, "%s: %u heads cannot share %u kv heads evenly",
                          where, s->n_heads, s->n_kv_heads);
    return 0;
}

static int check_rope(const struct lodge_model_shape *s, const struct lodge_rope_shape *r,
                      const char *where, struct lodge_error *e)
{
    if (r->n_dims == 0 || r->n_dims > s->head_dim || r->n_dims % 2)
        return lodge_fail(e, LODGE_ERR_FORMAT, "%s: cannot rotate %u of %u dims of a head", where,
                          r->n_dims, s->head_dim);
    if (!(r->theta > 0 && isfinite(r->theta)))
        return lodge_fail(e, LODGE_ERR_FORMAT, "%s: rope theta %g", where, r->theta);
    if (r->scaling != LODGE_ROPE_NONE && r->scaling != LODGE_ROPE_LONGROPE &&
        !(r->factor >= 1 && isfinite(r->factor)))
        return lodge_fail(e, LODGE_ERR_FORMAT, "%s: rope scaling factor %g (1 or more)", where,
                          r->factor);
    if (r->scaling == LODGE_ROPE_LONGROPE && !(r->short_factor && r->long_factor))
        return lodge_fail(e, LODGE_ERR_FORMAT,
                          "%s: rope scaling longrope without its long and short factors", where);
    return 0;
}

static int check_numbers(const struct lodge_model_shape *s, const char *where,
                         struct lodge_error *e)
{
    const struct {
        const char *name;
        double v;
        bool or_zero;
    } numbers[] = {
        {"norm epsilon", (double)s->norm_eps, true},
        {"query scalar", s->query_scalar, true},
        {"attention scale", s->attention_scale, true},
        {"attention soft cap", s->attention_softcap, true},
        {"logit soft cap", s->logit_softcap, true},
        {"embedding multiplier", s->embedding_multiplier, false},
        {"residual multiplier", s->residual_multiplier, false},
        {"divisor of the logits", s->logit_divisor, false},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        double v = numbers[i].v;
        /* Within what fp32 holds, also its inverse. */
        if (!(v > 1e-30 && v < 1e30) && !(numbers[i].or_zero && v == 0))
            return lodge_fail(e, LODGE_ERR_FORMAT, "%s: %s %g, expected a positive number", where,
                              numbers[i].name, v);
    }
    return s->norm_eps < 1
               ? 0
               : lodge_fail(e, LODGE_ERR_FORMAT, "%s: norm epsilon %g", where, (double)s->norm_eps);
}

int lodge_shape_check(const struct lodge_model_shape *s, const char *where, struct lodge_error *e)
{
    int err = check_dims(s, where, e);
    if (!err)
        err = check_rope(s, &s->rope, where, e);
    if (!err && s->local_rope.n_dims)
        err = check_rope(s, &s->local_rope, where, e);
    return err ? err : check_numbers(s, where, e);
}
