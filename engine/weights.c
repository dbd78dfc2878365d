/* The matrices of a model in groups that a person can read: same place in every layer, same type,
 * same shape. */
#include "engine/internal.h"

#include <stdio.h>
#include <string.h>

struct group {
    unsigned sites; /* bit per lodge_site */
    enum lodge_format format;
    uint32_t n_rows, n_cols, n_layers;
    uint64_t n_weights, n_bytes;
    struct lodge_weight_use use;
};

#define MAX_GROUPS (LODGE_SITE_COUNT * LODGE_FMT_COUNT)

static void add_linear(const struct lodge_engine *en, uint32_t i, struct group *g, uint32_t *n)
{
    const struct lodge_linear *l = &en->plan->linears[i];
    uint32_t at = 0;
    while (at < *n && !(g[at].sites == 1u << l->site && g[at].format == l->format &&
                        g[at].n_rows == l->n_rows && g[at].n_cols == l->n_cols))
        at++;
    if (at == MAX_GROUPS)
        return;
    if (at == *n)
        g[(*n)++] = (struct group){
            .sites = 1u << l->site, .format = l->format, .n_rows = l->n_rows, .n_cols = l->n_cols};
    en->backend->weight_use(en->device, l, &g[at].use);
    g[at].n_layers += l->layer != LODGE_NONE;
    g[at].n_weights += (uint64_t)l->n_rows * l->n_cols;
    g[at].n_bytes += g[at].use.n_bytes;
}

/* Members of one product, alike: q, k, v or gate, up. */
static bool belongs(const struct group *a, const struct group *b)
{
    const unsigned fused[] = {1u << LODGE_SITE_Q | 1u << LODGE_SITE_K | 1u << LODGE_SITE_V,
                              1u << LODGE_SITE_GATE | 1u << LODGE_SITE_UP};
    for (size_t i = 0; i < 2; i++)
        if ((a->sites & fused[i]) == a->sites && (b->sites & fused[i]) == b->sites)
            return a->format == b->format && a->n_cols == b->n_cols && a->n_layers == b->n_layers;
    return false;
}

static uint32_t merge(struct group *g, uint32_t n)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t to = 0;
        while (to < kept && ((g[to].sites & g[i].sites) || !belongs(&g[to], &g[i])))
            to++;
        if (to == kept) {
            g[kept++] = g[i];
            continue;
        }
        g[to].sites |= g[i].sites;
        g[to].n_rows += g[i].n_rows;
        g[to].n_weights += g[i].n_weights;
        g[to].n_bytes += g[i].n_bytes;
    }
    return kept;
}

static void tell(const struct group *g, lodge_engine_weights_fn *fn, void *cookie)
{
    struct lodge_engine_weights w = {.type = lodge_format_info(g->format)->name,
                                     .n_layers = g->n_layers,
                                     .n_rows = g->n_rows,
                                     .n_cols = g->n_cols,
                                     .n_bytes = g->n_bytes,
                                     .bits_per_weight =
                                         8 * (double)g->n_bytes / (double)g->n_weights};
    memcpy(w.kernel, g->use.kernel, sizeof w.kernel);
    for (int s = 0; s < LODGE_SITE_COUNT; s++) {
        size_t at = strlen(w.sites);
        if (g->sites >> s & 1)
            snprintf(w.sites + at, sizeof w.sites - at, "%s%s", at ? "," : "",
                     lodge_site_name((enum lodge_site)s));
    }
    fn(cookie, &w);
}

void lodge_engine_list_weights(const struct lodge_engine *en, lodge_engine_weights_fn *fn,
                               void *cookie)
{
    struct group groups[MAX_GROUPS];
    unsigned tied = 0;
    uint32_t n = 0;
    for (uint32_t i = 0; i < en->plan->n_linears; i++)
        if (lodge_plan_twin(en->plan, i) == LODGE_NONE)
            add_linear(en, i, groups, &n);
        else
            tied = 1u << en->plan->linears[i].site;
    for (uint32_t i = 0; i < n; i++)
        if (groups[i].sites == 1u << LODGE_SITE_EMBED)
            groups[i].sites |= tied;
    n = merge(groups, n);
    for (uint32_t i = 0; i < n; i++)
        tell(&groups[i], fn, cookie);
}
