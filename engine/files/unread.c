/* Tensors that nothing reads: a model that has some is another one than it seems. */
#include "engine/files/shape.h"

#include <string.h>

#define MOST_NAMES 4

static bool begins(struct lodge_span s, const char *with)
{
    size_t n = strlen(with);
    return s.n >= n && memcmp(s.data, with, n) == 0;
}

static bool ends(struct lodge_span s, const char *with)
{
    size_t n = strlen(with);
    return s.n >= n && memcmp(s.data + s.n - n, with, n) == 0;
}

/* Not of a vision part, and not what can be computed from the configuration. */
static bool matters(const struct lodge_tensor_source *src, struct lodge_span name)
{
    if (src->other_parts && !begins(name, "language_model.") &&
        !begins(name, "model.language_model.") && !begins(name, "lm_head."))
        return false;
    /* Scales are read with their matrix; those of activations and caches are not needed. */
    if (!src->gguf && (ends(name, "_scale") || ends(name, "_scale_inv")))
        return false;
    return !ends(name, "rotary_emb.inv_freq") && !(src->gguf && begins(name, "rope_"));
}

struct list {
    const struct lodge_tensor_source *src;
    struct lodge_span names[MOST_NAMES];
    uint64_t n;
};

static void add(struct list *l, uint64_t i)
{
    struct lodge_span name = l->src->name(l->src->container, i);
    if (!matters(l->src, name))
        return;
    if (l->n < MOST_NAMES)
        l->names[l->n] = name;
    l->n++;
}

static void append(const struct list *l, struct lodge_error *e)
{
    for (uint64_t i = 0; i < l->n && i < MOST_NAMES; i++)
        lodge_error_append(e, "%s'%.*s'", i ? ", " : "",
                           (int)(l->names[i].n > 80 ? 80 : l->names[i].n), l->names[i].data);
    if (l->n > MOST_NAMES)
        lodge_error_append(e, " and %llu more", (unsigned long long)(l->n - MOST_NAMES));
}

void lodge_error_add_tensors(const struct lodge_tensor_source *src, struct lodge_error *e)
{
    struct list l = {.src = src};
    for (uint64_t i = 0; i < src->n_tensors; i++)
        if (!lodge_tensor_known(src->name(src->container, i), src->gguf))
            add(&l, i);
    if (l.n)
        lodge_error_append(e, "; tensors that none of these has: ");
    append(&l, e);
}

int lodge_refuse_unused(const struct lodge_model_shape *s, const struct lodge_tensor_source *src,
                        const bool *used, struct lodge_error *e)
{
    struct list l = {.src = src};
    for (uint64_t i = 0; i < src->n_tensors; i++) {
        struct lodge_span name = src->name(src->container, i);
        /* A tied head may be stored all the same. */
        if (!used[i] && !(s->tied && ends(name, "lm_head.weight")))
            add(&l, i);
    }
    if (!l.n)
        return 0;
    lodge_fail(e, LODGE_ERR_UNSUPPORTED,
               "%s: models of kind %s with this configuration have no tensors ", src->where,
               s->family->gguf);
    append(&l, e);
    lodge_error_append(e, "; they would be left out and the answers wrong, so weights and "
                          "configuration must be of one model that is supported");
    return LODGE_ERR_UNSUPPORTED;
}
