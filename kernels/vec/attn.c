/* Attention: lanes are tokens for Q K^T and dims for P V; a vector of keys or values is loaded once
 * for up to MAX_ROWS queries. Bound: bytes of the pages at few queries, 2 multiply-add or dot
 * instructions a cycle at many. */
#include "kernels/vec/vec.h"

#define PAGE 32u

/* Up to MAX_ROWS queries of a call. */
struct queries {
    unsigned first, n;
    const pair *q; /* (n, dim / 2) */
    pair room[MAX_ROWS * LODGE_HEAD_DIM_MAX / 2];
    pair weight_room[MAX_ROWS * PAGE / 2];
    float scores[MAX_ROWS][PAGE];
    _Alignas(64) uint16_t weights[MAX_ROWS][PAGE];
};

/* A page of keys and values, and what some query sees of it. */
struct page {
    const uint8_t *keys, *values;
    const char *next; /* page to fetch, or NULL */
    uint32_t low, high;
};

/* Lanes of query i that are visible in the page that begins at token `from`. */
INLINE bool visible(const struct lodge_attn_call *c, uint32_t i, uint32_t from, uint32_t *a,
                    uint32_t *b)
{
    *a = left_of(c->first[i], from);
    *b = left_of(c->last[i] < from + PAGE ? c->last[i] : from + PAGE, from);
    return *a < *b;
}

/* The page after is fetched meanwhile, in equal parts. */
INLINE void scores(const struct page *p, uint32_t n_pairs, struct queries *g, const unsigned m)
{
    for (uint32_t t = 0; t < PAGE; t += SIDE) {
        vec acc[MAX_ROWS][2];
#pragma GCC unroll 12
        for (unsigned i = 0; i < m; i++)
            acc[i][0] = acc[i][1] = v_set(0);
        const char *next = p->next + (size_t)t * n_pairs * 8;
        for (uint32_t d = 0; d < n_pairs; d += 2, next += SIDE * 16) {
            for (uint32_t line = 0; p->next && line < SIDE / 4; line++)
                fetch_near(next + line * 64);
            dot_block(p->keys + 4 * (size_t)t + (size_t)d * 4 * PAGE, 4 * PAGE, 2, NULL, g->q + d,
                      n_pairs, 1, acc, m, 2);
        }
#pragma GCC unroll 12
        for (unsigned i = 0; i < m; i++) {
            v_store(g->scores[i] + t, acc[i][0]);
            v_store(g->scores[i] + t + LANES, acc[i][1]);
        }
    }
}

static void grow_max(struct lodge_attn_call *c, uint32_t i, float most)
{
    float r[LANES];
    v_store(r, v_exp(v_set(c->max[i] - most)));
    float *acc = c->acc + (size_t)i * c->dim;
    c->sum[i] *= r[0];
    for (uint32_t d = 0; d < c->dim; d += LANES)
        v_store(acc + d, v_mul(v_load(acc + d), v_set(r[0])));
    c->max[i] = most;
}

/* Softmax state of query i of the group after a page, and its weights. */
static void weigh(struct lodge_attn_call *c, struct queries *g, unsigned i, uint32_t from)
{
    uint32_t query = g->first + i, a, b;
    vec s[VECS32], lanes[VECS16], most = v_set(-INFINITY);
    if (!visible(c, query, from, &a, &b)) {
        memset(g->weights[i], 0, sizeof g->weights[i]);
        return;
    }
    for (uint32_t v = 0; v < VECS32; v++) {
        s[v] = v_mul(v_load(g->scores[i] + LANES * v), v_set(c->scale));
        if (c->softcap > 0) {
            vec cap = v_set(c->softcap);
            s[v] = v_mul(cap, v_tanh(v_div(s[v], cap)));
        }
        s[v] = v_between(s[v], LANES * v, a, b, v_set(-INFINITY));
        most = v_max(s[v], most);
    }
    float top = v_most(most);
    if (top > c->max[query])
        grow_max(c, query, top);
    for (uint32_t v = 0; v < VECS32; v++) {
        vec p = v_exp(v_sub(s[v], v_set(c->max[query])));
        s[v] = v_between(p, LANES * v, a, b, v_set(0));
        store_bf16(g->weights[i] + LANES * v, s[v]);
    }
    for (uint32_t v = 0; v < VECS16; v++)
        lanes[v] = v_add(s[v], s[v + VECS16]);
    c->sum[query] += tree16(lanes);
}

/* acc += P V over dims [d, d + vectors * LANES); masks hide tokens that nobody sees. */
INLINE void weighted(struct lodge_attn_call *c, const struct queries *g, const pair *weight,
                     const struct page *p, const uint32_t *masks, uint32_t d, const unsigned m,
                     const unsigned vectors)
{
    uint32_t first = p->low / 2, last = (p->high + 1) / 2;
    float *to = c->acc + (size_t)g->first * c->dim + d;
    vec acc[MAX_ROWS][2];
#pragma GCC unroll 12
    for (unsigned i = 0; i < m; i++)
#pragma GCC unroll 2
        for (unsigned v = 0; v < vectors; v++)
            acc[i][v] = v_load(to + (size_t)i * c->dim + LANES * v);
    dot_block(p->values + ((size_t)first * c->dim + d) * 4, (size_t)c->dim * 4, last - first,
              masks + first, weight + first, PAGE / 2, 1, acc, m, vectors);
#pragma GCC unroll 12
    for (unsigned i = 0; i < m; i++)
#pragma GCC unroll 2
        for (unsigned v = 0; v < vectors; v++)
            v_store(to + (size_t)i * c->dim + LANES * v, acc[i][v]);
}

INLINE void attend(struct lodge_attn_call *c, struct queries *g, const struct page *p,
                   uint32_t from, const unsigned m)
{
    scores(p, c->dim / 2, g, m);
    for (unsigned i = 0; i < m; i++)
        weigh(c, g, i, from);
    const pair *weight = as_pairs(g->weights[0], (size_t)m * PAGE, g->weight_room);
    /* What nobody sees may be anything, and 0 x NaN is NaN. */
    uint32_t masks[PAGE / 2], d = 0;
    for (uint32_t t = p->low / 2; t < (p->high + 1) / 2; t++)
        masks[t] = (2 * t >= p->low ? 0xFFFFu : 0) | (2 * t + 1 < p->high ? 0xFFFF0000u : 0);
    for (; d + SIDE <= c->dim; d += SIDE)
        weighted(c, g, weight, p, masks, d, m, 2);
    if (d < c->dim)
        weighted(c, g, weight, p, masks, d, m, 1);
}

/* False when no query of the group sees anything of the page. */
static bool look_at(const struct lodge_attn_call *c, const struct queries *g, uint32_t page,
                    struct page *p)
{
    uint32_t a, b;
    *p = (struct page){.keys = c->pages[page], .low = PAGE};
    for (unsigned i = 0; i < g->n; i++)
        if (visible(c, g->first + i, page * PAGE, &a, &b)) {
            p->low = a < p->low ? a : p->low;
            p->high = b > p->high ? b : p->high;
        }
    p->values = p->keys + (size_t)c->dim * 64;
    p->next = page + 1 < c->n_pages ? (const char *)c->pages[page + 1] : NULL;
    return p->low < p->high;
}

static void attn(struct lodge_attn_call *c)
{
    struct queries g;
    struct page p;
    memset(c->acc, 0, (size_t)c->n_queries * c->dim * sizeof *c->acc);
    for (uint32_t i = 0; i < c->n_queries; i++) {
        c->max[i] = -INFINITY;
        c->sum[i] = 0;
    }
    for (g.first = 0; g.first < c->n_queries; g.first += g.n) {
        g.n = c->n_queries - g.first < MAX_ROWS ? c->n_queries - g.first : MAX_ROWS;
        g.q = as_pairs(c->q + (size_t)g.first * c->dim, (size_t)g.n * c->dim, g.room);
        for (uint32_t page = 0; page < c->n_pages; page++)
            if (look_at(c, &g, page, &p)) {
#define CALL(n) attend(c, &g, &p, page *PAGE, n)
                SWITCH_ROWS(g.n, CALL)
#undef CALL
            }
    }
}

void RUNG(attention)(struct lodge_cpu_kernels *k)
{
    k->attn = attn;
}
