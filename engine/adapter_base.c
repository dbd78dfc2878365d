#include "engine/adapter_base.h"

#include "engine/files/shape.h"

#include <stdio.h>
#include <string.h>

/* The stored matrix that a site is, or is rows of. */
static enum lodge_part part_of(const struct lodge_family *f, enum lodge_site site)
{
    static const enum lodge_part parts[LODGE_SITE_COUNT] = {
        [LODGE_SITE_Q] = LODGE_PART_Q,       [LODGE_SITE_K] = LODGE_PART_K,
        [LODGE_SITE_V] = LODGE_PART_V,       [LODGE_SITE_O] = LODGE_PART_O,
        [LODGE_SITE_GATE] = LODGE_PART_GATE, [LODGE_SITE_UP] = LODGE_PART_UP,
        [LODGE_SITE_DOWN] = LODGE_PART_DOWN, [LODGE_SITE_EMBED] = LODGE_PART_EMBED,
        [LODGE_SITE_HEAD] = LODGE_PART_HEAD,
    };
    if (lodge_has(f, LODGE_TRAIT_FUSED) && site <= LODGE_SITE_V)
        return LODGE_PART_QKV;
    if (lodge_has(f, LODGE_TRAIT_FUSED) && (site == LODGE_SITE_GATE || site == LODGE_SITE_UP))
        return LODGE_PART_GATE_UP;
    return parts[site];
}

static const char *name_of(struct lodge_arena *arena, const struct lodge_family *f,
                           enum lodge_part part, bool gguf, int32_t layer)
{
    char name[96];
    lodge_family_tensor(f, part, gguf, layer == LODGE_NONE ? 0 : (uint32_t)layer, "", name);
    return lodge_arena_strndup(arena, name, strlen(name));
}

static bool begin_module(const struct lodge_family *f, const struct lodge_linear *l,
                         struct lodge_arena *arena, struct lodge_adapter_module *m)
{
    enum lodge_part part = part_of(f, l->site);
    bool rotates = l->site == LODGE_SITE_Q || l->site == LODGE_SITE_K;
    *m = (struct lodge_adapter_module){
        .hf = name_of(arena, f, part, false, l->layer),
        .gguf = name_of(arena, f, part, true, l->layer),
        .site = l->site,
        .layer = l->layer,
        .n_cols = l->n_cols,
        .gguf_pairs = lodge_has(f, LODGE_TRAIT_GGUF_PAIRS) && rotates,
        .head_dim = l->head_dim,
    };
    return m->hf && m->gguf;
}

int lodge_adapter_base_build(const struct lodge_plan *p, const char *model_name,
                             const struct lodge_family *family, struct lodge_arena *arena,
                             struct lodge_adapter_base *out, struct lodge_error *e)
{
    struct lodge_adapter_module *m = lodge_arena_array(arena, p->n_linears, sizeof *m);
    uint32_t n = 0;
    bool ok = m != NULL;
    for (uint32_t i = 0; i < p->n_linears && ok; i++) {
        const struct lodge_linear *l = &p->linears[i];
        /* The linears of a fused module follow each other in the plan, in its order of rows. */
        bool goes_on = n && m[n - 1].layer == l->layer &&
                       part_of(family, m[n - 1].site) == part_of(family, l->site);
        if (!goes_on)
            ok = begin_module(family, l, arena, &m[n++]);
        struct lodge_adapter_module *to = &m[n - 1];
        to->parts[to->n_parts++] =
            (struct lodge_adapter_part){.linear = i, .first_row = to->n_rows, .n_rows = l->n_rows};
        to->n_rows += l->n_rows;
    }
    *out = (struct lodge_adapter_base){.name = model_name,
                                       .gguf_architecture = family->gguf,
                                       .modules = m,
                                       .n_modules = n,
                                       .n_layers = p->n_layers};
    return ok ? 0 : lodge_fail(e, LODGE_ERR_NOMEM, "no memory for the table of modules");
}
