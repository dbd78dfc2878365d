/* What attention over every dtype shares: which tokens queries see, and the running softmax.
 *
 * Whether a page raises a maximum is seen without the greatest of its scores, a chain across lanes,
 * which most pages after the first do not need. */
#ifndef LODGE_KERNELS_VEC_SOFTMAX_H
#define LODGE_KERNELS_VEC_SOFTMAX_H

#include "kernels/vec/vec.h"

/* A page of keys and values, and what some query of a group sees of it. */
struct page {
    const uint8_t *bytes;
    const uint8_t *next; /* page to fetch, or NULL */
    uint32_t from;       /* its first token */
    uint32_t low, high;
    bool whole; /* each query sees all of it */
};

/* Up to MAX_ROWS queries of a call, from `first`. */
struct group {
    struct lodge_attn_call *c;
    unsigned first, n;
    _Alignas(64) float scores[MAX_ROWS][PAGE];
};

/* Lanes [a, b) of the page that begins at token `from` are visible to query i; none: [0, 0). */
INLINE bool visible(const struct lodge_attn_call *c, uint32_t i, uint32_t from, uint32_t *a,
                    uint32_t *b)
{
    *a = left_of(c->first[i], from);
    *b = left_of(c->last[i] < from + PAGE ? c->last[i] : from + PAGE, from);
    if (*a < *b)
        return true;
    *a = *b = 0;
    return false;
}

/* False when no query of the group sees anything of the page. */
static bool look_at(const struct group *g, uint32_t page, struct page *p)
{
    const struct lodge_attn_call *c = g->c;
    uint32_t a, b;
    *p = (struct page){.bytes = c->pages[page], .from = page * PAGE, .low = PAGE, .whole = true};
    for (unsigned i = 0; i < g->n; i++) {
        bool seen = visible(c, g->first + i, p->from, &a, &b);
        p->whole = p->whole && seen && b - a == PAGE;
        p->low = seen && a < p->low ? a : p->low;
        p->high = seen && b > p->high ? b : p->high;
    }
    p->next = page + 1 < c->n_pages ? c->pages[page + 1] : c->next;
    return p->low < p->high;
}

/* How many queries the group from g->first on gets: groups of up to `most`, as even as can be, as a
 * page costs one query almost what it costs a few. */
static unsigned group_size(const struct group *g, unsigned most)
{
    unsigned left = g->c->n_queries - g->first, groups = (left + most - 1) / most;
    return (left + groups - 1) / groups;
}

static void begin(struct group *g)
{
    struct lodge_attn_call *c = g->c;
    if (c->from_page > 0)
        return;
    memset(c->out.acc + (size_t)g->first * c->dim, 0, (size_t)g->n * c->dim * sizeof *c->out.acc);
    memset(c->lanes[g->first], 0, g->n * sizeof *c->lanes);
    for (uint32_t i = 0; i < g->n; i++)
        c->out.max[g->first + i] = -INFINITY;
}

static void finish(struct group *g)
{
    for (uint32_t i = 0; i < g->n; i++) {
        vec lanes[VECS16];
        for (uint32_t v = 0; v < VECS16; v++)
            lanes[v] = v_load(g->c->lanes[g->first + i] + LANES * v);
        g->c->out.sum[g->first + i] = tree16(lanes);
    }
}

/* Keeps scores of query i of the group, capped, -inf outside lanes [a, b) (`whole`: all of them);
 * whether one is above the maximum. */
INLINE bool keep_scores(struct group *g, unsigned i, vec s[VECS32], uint32_t a, uint32_t b,
                        const bool whole)
{
    const struct lodge_attn_call *c = g->c;
    vec most = v_set(-INFINITY);
    for (uint32_t v = 0; v < VECS32; v++) {
        if (c->softcap > 0) {
            vec cap = v_set(c->softcap);
            s[v] = v_mul(cap, v_tanh(v_div(s[v], cap)));
        }
        if (!whole)
            s[v] = v_between(s[v], LANES * v, a, b, v_set(-INFINITY));
        v_store(g->scores[i] + LANES * v, s[v]);
        most = v_max(s[v], most);
    }
    return v_any_above(most, v_set(c->out.max[g->first + i]));
}

/* Makes the greatest of the kept scores of query i its maximum. */
static void raise_max(struct group *g, unsigned i)
{
    struct lodge_attn_call *c = g->c;
    float *acc = c->out.acc + (size_t)(g->first + i) * c->dim, *max = &c->out.max[g->first + i];
    float *lanes = c->lanes[g->first + i];
    vec most = v_set(-INFINITY);
    float r[LANES];
    for (uint32_t v = 0; v < VECS32; v++)
        most = v_max(v_load(g->scores[i] + LANES * v), most);
    float top = v_most(most);
    v_store(r, v_exp(v_set(*max - top)));
    vec scale = v_set(r[0]);
    for (uint32_t v = 0; v < VECS16; v++)
        v_store(lanes + LANES * v, v_mul(v_load(lanes + LANES * v), scale));
    for (uint32_t d = 0; d < c->dim; d += LANES)
        v_store(acc + d, v_mul(v_load(acc + d), scale));
    *max = top;
}

/* Called seldom: out of the way of what callers keep in registers. */
static __attribute__((noinline)) void raise_maxima(struct group *g, uint32_t of)
{
    for (; of; of &= of - 1)
        raise_max(g, (unsigned)__builtin_ctz(of));
}

/* The kept scores of query i become weights s, which its sum counts; 0 where they are -inf. */
INLINE void soften(struct group *g, unsigned i, vec s[VECS32])
{
    vec max = v_set(g->c->out.max[g->first + i]);
    for (uint32_t v = 0; v < VECS32; v++)
        s[v] = v_exp(v_sub(v_load(g->scores[i] + LANES * v), max));
    for (uint32_t v = 0; v < VECS16; v++) {
        float *sum = g->c->lanes[g->first + i] + LANES * v;
        v_store(sum, v_add(v_load(sum), v_add(s[v], s[v + VECS16])));
    }
}

#endif
