/* The families Lodge serves: data, and nothing that another family would have to copy. */
#include "engine/files/shape.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const struct lodge_family families[] = {
    {"LlamaForCausalLM", "llama", .uses_window = false, .gguf_pairs = true},
    {"MistralForCausalLM", NULL, .uses_window = true, .gguf_pairs = true},
};

#define N_FAMILIES (sizeof families / sizeof *families)

const struct lodge_family *lodge_family_hf(const char *architecture)
{
    for (size_t i = 0; architecture && i < N_FAMILIES; i++)
        if (strcmp(families[i].hf_architecture, architecture) == 0)
            return &families[i];
    return NULL;
}

const struct lodge_family *lodge_family_gguf(struct lodge_span a)
{
    for (size_t i = 0; i < N_FAMILIES; i++) {
        const char *name = families[i].gguf_architecture;
        if (name && strlen(name) == a.n && memcmp(name, a.data, a.n) == 0)
            return &families[i];
    }
    return NULL;
}

void lodge_family_list(bool gguf, char *out, size_t n)
{
    size_t at = 0;
    out[0] = 0;
    for (size_t i = 0; i < N_FAMILIES && at < n; i++) {
        const char *name = gguf ? families[i].gguf_architecture : families[i].hf_architecture;
        if (name)
            at += (size_t)snprintf(out + at, n - at, "%s%s", at ? ", " : "", name);
    }
}

static int bad_dim(const char *where, const char *what, uint64_t v, struct lodge_error *e)
{
    return lodge_fail(
        e, LODGE_ERR_FORMAT,
        "%s: %s is %llu or not given, which no model can have; the file is damaged or "
        "of another kind of model",
        where, what, (unsigned long long)v);
}

int lodge_shape_check(const struct lodge_model_shape *s, const char *where, struct lodge_error *e)
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
            return bad_dim(where, dims[i].name, dims[i].v, e);
    if (s->n_heads % s->n_kv_heads)
        return lodge_fail(e, LODGE_ERR_FORMAT, "%s: %u heads cannot share %u kv heads evenly",
                          where, s->n_heads, s->n_kv_heads);
    if (s->rope.n_dims == 0 || s->rope.n_dims > s->head_dim || s->rope.n_dims % 2)
        return lodge_fail(e, LODGE_ERR_FORMAT, "%s: cannot rotate %u of %u dims of a head", where,
                          s->rope.n_dims, s->head_dim);
    if (!(s->norm_eps >= 0 && s->norm_eps < 1))
        return lodge_fail(e, LODGE_ERR_FORMAT, "%s: norm epsilon %g", where, (double)s->norm_eps);
    if (!(s->rope.theta > 0 && isfinite(s->rope.theta)))
        return lodge_fail(e, LODGE_ERR_FORMAT, "%s: rope theta %g", where, s->rope.theta);
    if (s->rope.scaling != LODGE_ROPE_NONE && s->rope.scaling != LODGE_ROPE_LONGROPE &&
        !(s->rope.factor >= 1 && isfinite(s->rope.factor)))
        return lodge_fail(e, LODGE_ERR_FORMAT, "%s: rope scaling factor %g (1 or more)", where,
                          s->rope.factor);
    return 0;
}
