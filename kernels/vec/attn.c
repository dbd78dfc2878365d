/* Attention: lanes are tokens for Q K^T and dims for P V; a vector of keys or values is loaded once
 * for all queries of a group. Bound: bytes of the pages at few queries, 2 multiply-add or dot
 * instructions a cycle at many. */
#include "kernels/vec/vec.h"

/* A page of keys and values, and what some query of a group sees of it. */
struct page {
    const uint8_t *bytes;
    const char *next; /* page to fetch, or NULL */
    uint32_t from;    /* its first token */
    uint32_t low, high;
    bool whole; /* each query sees all of it */
};

/* Lanes of query i that are visible in the page that begins at token `from`. */
INLINE bool visible(const struct lodge_attn_call *c, uint32_t i, uint32_t from, uint32_t *a,
                    uint32_t *b)
{
    *a = left_of(c->first[i], from);
    *b = left_of(c->last[i] < from + PAGE ? c->last[i] : from + PAGE, from);
    return *a < *b;
}

/* False when none of n queries sees anything of the page. */
static bool look_at(const struct lodge_attn_call *c, unsigned first, unsigned n, uint32_t page,
                    struct page *p)
{
    uint32_t a, b;
    *p = (struct page){.bytes = c->pages[page], .from = page * PAGE, .low = PAGE, .whole = true};
    for (unsigned i = 0; i < n; i++) {
        bool seen = visible(c, first + i, p->from, &a, &b);
        p->whole = p->whole && seen && b - a == PAGE;
        p->low = seen && a < p->low ? a : p->low;
        p->high = seen && b > p->high ? b : p->high;
    }
    p->next = (const char *)(page + 1 < c->n_pages ? c->pages[page + 1] : c->next);
    return p->low < p->high;
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

/* Scores of a page, capped, -inf outside lanes [a, b) (`whole`: all of them); the greatest. */
INLINE float cap_scores(const struct lodge_attn_call *c, vec s[VECS32], uint32_t a, uint32_t b,
                        const bool whole)
{
    vec most = v_set(-INFINITY);
    for (uint32_t v = 0; v < VECS32; v++) {
        if (c->softcap > 0) {
            vec cap = v_set(c->softcap);
            s[v] = v_mul(cap, v_tanh(v_div(s[v], cap)));
        }
        if (!whole)
            s[v] = v_between(s[v], LANES * v, a, b, v_set(-INFINITY));
        most = v_max(s[v], most);
    }
    return v_most(most);
}

/* Scores for query i, whose maximum counts them, become weights; 0 outside lanes [a, b). */
INLINE void soften(struct lodge_attn_call *c, uint32_t i, vec s[VECS32], uint32_t a, uint32_t b,
                   const bool whole)
{
    vec lanes[VECS16];
    for (uint32_t v = 0; v < VECS32; v++) {
        s[v] = v_exp(v_sub(s[v], v_set(c->max[i])));
        if (!whole)
            s[v] = v_between(s[v], LANES * v, a, b, v_set(0));
    }
    for (uint32_t v = 0; v < VECS16; v++)
        lanes[v] = v_add(s[v], s[v + VECS16]);
    c->sum[i] += tree16(lanes);
}

static void begin(struct lodge_attn_call *c)
{
    memset(c->acc, 0, (size_t)c->n_queries * c->dim * sizeof *c->acc);
    for (uint32_t i = 0; i < c->n_queries; i++) {
        c->max[i] = -INFINITY;
        c->sum[i] = 0;
    }
}

/* ---- bf16 ---- */

/* Up to MAX_ROWS queries of a call. */
struct queries {
    unsigned first, n;
    const pair *q; /* (n, dim / 2) */
    pair room[MAX_ROWS * LODGE_HEAD_DIM_MAX / 2];
    pair weight_room[MAX_ROWS * PAGE / 2];
    float scores[MAX_ROWS][PAGE];
    _Alignas(64) uint16_t weights[MAX_ROWS][PAGE];
};

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
            dot_block(p->bytes + 4 * (size_t)t + (size_t)d * 4 * PAGE, 4 * PAGE, 2, NULL, g->q + d,
                      n_pairs, 1, acc, m, 2);
        }
#pragma GCC unroll 12
        for (unsigned i = 0; i < m; i++) {
            v_store(g->scores[i] + t, acc[i][0]);
            v_store(g->scores[i] + t + LANES, acc[i][1]);
        }
    }
}

/* Weights of query i of the group. */
static void weigh(struct lodge_attn_call *c, struct queries *g, unsigned i, const struct page *p)
{
    uint32_t query = g->first + i, a, b;
    vec s[VECS32];
    if (!visible(c, query, p->from, &a, &b)) {
        memset(g->weights[i], 0, sizeof g->weights[i]);
        return;
    }
    for (uint32_t v = 0; v < VECS32; v++)
        s[v] = v_mul(v_load(g->scores[i] + LANES * v), v_set(c->scale));
    float top = cap_scores(c, s, a, b, false);
    if (top > c->max[query])
        grow_max(c, query, top);
    soften(c, query, s, a, b, false);
    for (uint32_t v = 0; v < VECS32; v++)
        store_bf16(g->weights[i] + LANES * v, s[v]);
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
    const uint8_t *values = p->bytes + (size_t)c->dim * 64;
    dot_block(values + ((size_t)first * c->dim + d) * 4, (size_t)c->dim * 4, last - first,
              masks + first, weight + first, PAGE / 2, 1, acc, m, vectors);
#pragma GCC unroll 12
    for (unsigned i = 0; i < m; i++)
#pragma GCC unroll 2
        for (unsigned v = 0; v < vectors; v++)
            v_store(to + (size_t)i * c->dim + LANES * v, acc[i][v]);
}

INLINE void attend(struct lodge_attn_call *c, struct queries *g, const struct page *p,
                   const unsigned m)
{
    scores(p, c->dim / 2, g, m);
    for (unsigned i = 0; i < m; i++)
        weigh(c, g, i, p);
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

static void attn_bf16(struct lodge_attn_call *c)
{
    struct queries g;
    struct page p;
    begin(c);
    for (g.first = 0; g.first < c->n_queries; g.first += g.n) {
        g.n = c->n_queries - g.first < MAX_ROWS ? c->n_queries - g.first : MAX_ROWS;
        g.q = as_pairs((const uint16_t *)(const void *)c->q + (size_t)g.first * c->dim,
                       (size_t)g.n * c->dim, g.room);
        for (uint32_t page = 0; page < c->n_pages; page++)
            if (look_at(c, g.first, g.n, page, &p)) {
#define CALL(n) attend(c, &g, &p, n)
                SWITCH_ROWS(g.n, CALL)
#undef CALL
            }
    }
}

/* ---- int8 ---- */

#define CODE_SIDE (LANES * CODE_VECS)
#define PAGE_SCALES (4 * PAGE) /* bytes of a page's scales, before its keys */

/* Up to CODE_ROWS queries of a call. */
struct code_queries {
    unsigned first, n;
    float scale[CODE_ROWS];   /* of a query's code, times the scale of scores */
    int32_t start[CODE_ROWS]; /* of sums over its codes */
    float step[CODE_ROWS];    /* of a weight's code */
    float scores[CODE_ROWS][PAGE];
    code4 weights[CODE_ROWS][PAGE / 4];
    const code4 *codes; /* (n, row), dim / 4 of a query */
    size_t row;
};

/* The page after is fetched meanwhile, in equal parts. */
INLINE void code_scores(const struct page *p, uint32_t dim, struct code_queries *g,
                        const unsigned m)
{
    const char *next = p->next;
    for (uint32_t line = 0; next && line < PAGE_SCALES; line += 64, next += 64)
        fetch_near(next);
    for (uint32_t t = 0; t < PAGE; t += CODE_SIDE) {
        const uint8_t *keys = p->bytes + PAGE_SCALES + 4 * (size_t)t;
        code_sums acc[CODE_ROWS][CODE_VECS];
#pragma GCC unroll 6
        for (unsigned i = 0; i < m; i++)
            for (unsigned v = 0; v < CODE_VECS; v++)
                acc[i][v] = sums_from(g->start[i]);
        for (uint32_t d = 0; d < dim / 4; d++, keys += 4 * PAGE) {
            for (uint32_t line = 0; p->next && line < CODE_SIDE / 8; line++, next += 64)
                fetch_near(next);
            dot_codes(acc, keys, g->codes + d, g->row, true, m, CODE_VECS);
        }
#pragma GCC unroll 6
        for (unsigned i = 0; i < m; i++)
            for (unsigned v = 0; v < CODE_VECS; v++)
                v_store(g->scores[i] + t + LANES * v, float_sums(acc[i][v]));
    }
}

INLINE void load_scores(const struct code_queries *g, unsigned i, const struct page *p,
                        vec s[VECS32])
{
    for (uint32_t v = 0; v < VECS32; v++) {
        vec key = load_bf16(p->bytes + 2 * LANES * v);
        s[v] = v_mul(v_mul(v_load(g->scores[i] + LANES * v), key), v_set(g->scale[i]));
    }
}

/* Codes of a weight 1 for each value in lanes [a, b), 0 elsewhere; returns their step. */
INLINE float value_rates(const struct page *p, uint32_t a, uint32_t b, vec rate[VECS32])
{
    vec most = v_set(0);
    for (uint32_t v = 0; v < VECS32; v++) {
        rate[v] = load_bf16(p->bytes + 2 * (PAGE + LANES * v));
        if (a > 0 || b < PAGE)
            rate[v] = v_between(rate[v], LANES * v, a, b, v_set(0));
        most = v_max(rate[v], most);
    }
    float top = v_most(most);
    for (uint32_t v = 0; v < VECS32; v++)
        rate[v] = v_mul(rate[v], v_set(inverse15(top)));
    return top / LODGE_CODE15_MAX;
}

/* Weights of query i of the group, for which the page is not whole, as codes. */
static void code_weigh_part(struct lodge_attn_call *c, struct code_queries *g, unsigned i,
                            const struct page *p)
{
    uint32_t query = g->first + i, a, b;
    vec s[VECS32], rate[VECS32];
    if (!visible(c, query, p->from, &a, &b)) {
        memset(g->weights[i], 0, sizeof g->weights[i]);
        g->step[i] = 0;
        return;
    }
    load_scores(g, i, p, s);
    float top = cap_scores(c, s, a, b, false);
    if (top > c->max[query])
        grow_max(c, query, top);
    soften(c, query, s, a, b, false);
    g->step[i] = value_rates(p, a, b, rate);
    for (uint32_t v = 0; v < VECS32; v++)
        store_codes15(g->weights[i] + LANES / 4 * v, v_mul(s[v], rate[v]));
}

/* The same for all queries of a whole page, step by step, as each is a chain of many. */
INLINE void code_weigh(struct lodge_attn_call *c, struct code_queries *g, const struct page *p,
                       const unsigned m)
{
    float top[CODE_ROWS];
    vec s[VECS32], rate[VECS32];
#pragma GCC unroll 6
    for (unsigned i = 0; i < m; i++) {
        load_scores(g, i, p, s);
        top[i] = cap_scores(c, s, 0, PAGE, true);
        for (uint32_t v = 0; v < VECS32; v++)
            v_store(g->scores[i] + LANES * v, s[v]);
    }
    for (unsigned i = 0; i < m; i++)
        if (top[i] > c->max[g->first + i])
            grow_max(c, g->first + i, top[i]);
    float step = value_rates(p, 0, PAGE, rate);
#pragma GCC unroll 6
    for (unsigned i = 0; i < m; i++) {
        for (uint32_t v = 0; v < VECS32; v++)
            s[v] = v_load(g->scores[i] + LANES * v);
        soften(c, g->first + i, s, 0, PAGE, true);
        for (uint32_t v = 0; v < VECS32; v++)
            store_codes15(g->weights[i] + LANES / 4 * v, v_mul(s[v], rate[v]));
        g->step[i] = step;
    }
}

/* acc += P V over dims [d, d + vectors * LANES). */
INLINE void code_weighted(struct lodge_attn_call *c, const struct code_queries *g,
                          const struct page *p, uint32_t d, const unsigned m,
                          const unsigned vectors)
{
    const uint8_t *values = p->bytes + PAGE_SCALES + (size_t)c->dim * PAGE + 4 * (size_t)d;
    float *to = c->acc + (size_t)g->first * c->dim + d;
    code_sums acc[CODE_ROWS][CODE_VECS];
#pragma GCC unroll 6
    for (unsigned i = 0; i < m; i++)
        for (unsigned v = 0; v < vectors; v++)
            acc[i][v] = sums_from(0);
    for (uint32_t t = p->low / 4; t < (p->high + 3) / 4; t++)
        dot_codes(acc, values + (size_t)t * c->dim * 4, g->weights[0] + t, PAGE / 4, false, m,
                  vectors);
#pragma GCC unroll 6
    for (unsigned i = 0; i < m; i++)
        for (unsigned v = 0; v < vectors; v++) {
            float *at = to + (size_t)i * c->dim + LANES * v;
            v_store(at, v_fma(float_sums(acc[i][v]), v_set(g->step[i]), v_load(at)));
        }
}

INLINE void code_attend(struct lodge_attn_call *c, struct code_queries *g, const struct page *p,
                        const unsigned m)
{
    uint32_t d = 0;
    code_scores(p, c->dim, g, m);
    if (p->whole)
        code_weigh(c, g, p, m);
    for (unsigned i = 0; i < m && !p->whole; i++)
        code_weigh_part(c, g, i, p);
    for (; d + CODE_SIDE <= c->dim; d += CODE_SIDE)
        code_weighted(c, g, p, d, m, CODE_VECS);
    if (d < c->dim)
        code_weighted(c, g, p, d, m, 1);
}

static void set_codes(const struct lodge_attn_call *c, struct code_queries *g)
{
    size_t size = lodge_kv_query_bytes(LODGE_KV_INT8, c->dim);
    g->codes = (const code4 *)(const void *)(c->q + g->first * size);
    g->row = size / sizeof *g->codes;
    for (unsigned i = 0; i < g->n; i++) {
        struct query_tail tail;
        memcpy(&tail, g->codes + i * g->row + c->dim / 4, sizeof tail);
        g->start[i] = tail.start;
        g->scale[i] = tail.step * c->scale;
    }
}

static void attn_int8(struct lodge_attn_call *c)
{
    struct code_queries g;
    struct page p;
    begin(c);
    for (g.first = 0; g.first < c->n_queries; g.first += g.n) {
        g.n = c->n_queries - g.first < CODE_ROWS ? c->n_queries - g.first : CODE_ROWS;
        set_codes(c, &g);
        for (uint32_t page = 0; page < c->n_pages; page++)
            if (look_at(c, g.first, g.n, page, &p)) {
#define CALL(n) code_attend(c, &g, &p, n)
                CODE_SWITCH(g.n, CALL)
#undef CALL
            }
    }
}

void RUNG(attention)(struct lodge_cpu_kernels *k)
{
    k->kv[LODGE_KV_BF16].attn = attn_bf16;
    k->kv[LODGE_KV_INT8].attn = attn_int8;
}
