#include "kernels/adapter.h"

#include <stdlib.h>

#define NONE UINT32_MAX
#define FLOATS_PER_CELL (LODGE_CELL_BYTES / sizeof(float))

static uint64_t vector_cells(uint32_t n)
{
    return (n + FLOATS_PER_CELL - 1) / FLOATS_PER_CELL;
}

/* Places one target at cell `at`; returns the cell after it. */
static uint64_t place(const struct lodge_linear *l, const struct lodge_lora_target *t, uint64_t at,
                      struct lodge_lora_place *out)
{
    uint64_t granules = lodge_lora_padded_rank(t->rank) / LODGE_CELL_RANKS;
    *out = (struct lodge_lora_place){.linear = t->linear,
                                     .rank = lodge_lora_padded_rank(t->rank),
                                     .first_gain = NONE,
                                     .first_offset = NONE,
                                     .scale = t->scale};
    out->first_a = (uint32_t)at;
    at += granules * lodge_lora_row_cells(l->n_cols);
    out->first_b = (uint32_t)at;
    at += granules * lodge_lora_row_cells(l->n_rows);
    if (t->magnitude) {
        out->first_gain = (uint32_t)at;
        at += vector_cells(l->n_rows);
    }
    if (t->offset) {
        out->first_offset = (uint32_t)at;
        at += vector_cells(l->n_rows);
    }
    return at;
}

int lodge_lora_layout_init(struct lodge_lora_layout *l, const struct lodge_plan *p,
                           const struct lodge_lora *lora, struct lodge_error *e)
{
    *l = (struct lodge_lora_layout){.places = calloc(lora->n_targets, sizeof *l->places)};
    if (!l->places)
        return lodge_fail(e, LODGE_ERR_NOMEM, "no memory for an adapter's layout");
    uint64_t at = 0;
    for (uint32_t i = 0; i < lora->n_targets; i++) {
        const struct lodge_lora_target *t = &lora->targets[i];
        if (t->linear >= p->n_linears || (i && t->linear <= lora->targets[i - 1].linear) ||
            !t->rank || t->rank > LODGE_MAX_RANK) {
            lodge_lora_layout_finish(l);
            return lodge_fail(e, LODGE_ERR_INVALID, "target %u of an adapter does not fit the model",
                              i);
        }
        at = place(&p->linears[t->linear], t, at, &l->places[l->n_places++]);
        l->scaled_once |= t->magnitude != NULL;
        if (at > INT32_MAX) {
            lodge_lora_layout_finish(l);
            return lodge_fail(e, LODGE_ERR_LIMIT, "the adapter is too large");
        }
    }
    l->n_cells = (uint32_t)at;
    return 0;
}

void lodge_lora_layout_finish(struct lodge_lora_layout *l)
{
    free(l->places);
    *l = (struct lodge_lora_layout){0};
}

/* Sites that share an input. */
static int group_of(enum lodge_site site)
{
    switch (site) {
    case LODGE_SITE_Q:
    case LODGE_SITE_K:
    case LODGE_SITE_V:
        return LODGE_SITE_Q;
    case LODGE_SITE_GATE:
    case LODGE_SITE_UP:
        return LODGE_SITE_GATE;
    default:
        return (int)site;
    }
}

uint32_t lodge_lora_width(const struct lodge_lora_layout *l, const struct lodge_plan *p)
{
    uint32_t widest = 0;
    for (uint32_t i = 0; i < l->n_places; i++) {
        const struct lodge_linear *a = &p->linears[l->places[i].linear];
        uint32_t sum = 0;
        for (uint32_t j = 0; j < l->n_places; j++) {
            const struct lodge_linear *b = &p->linears[l->places[j].linear];
            if (a->layer == b->layer && group_of(a->site) == group_of(b->site))
                sum += l->places[j].rank;
        }
        widest = sum > widest ? sum : widest;
    }
    return widest;
}

uint64_t lodge_lora_bytes(const struct lodge_lora_layout *l, const struct lodge_plan *p)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < l->n_places; i++) {
        const struct lodge_lora_place *t = &l->places[i];
        const struct lodge_linear *w = &p->linears[t->linear];
        sum += 2ull * t->rank * ((uint64_t)w->n_rows + w->n_cols);
        sum += (t->first_gain != NONE ? 4ull : 0) * w->n_rows;
        sum += (t->first_offset != NONE ? 4ull : 0) * w->n_rows;
    }
    return sum;
}
