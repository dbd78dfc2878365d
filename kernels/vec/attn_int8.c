/* Attention over keys and values in int8: as in bf16, but both products are integer sums of codes.
 */
#include "kernels/vec/softmax.h"

#define CODE_SIDE (LANES * CODE_VECS)
#define PAGE_SCALES (4 * PAGE) /* bytes of a page's scales, before its keys */

/* Up to CODE_ROWS queries of a call. */
struct code_queries {
    struct group g;
    float scale[CODE_ROWS];   /* of a query's code, times the scale of scores */
    int32_t start[CODE_ROWS]; /* of sums over its codes */
    float step[CODE_ROWS];    /* of a weight's code */
    code4 weights[CODE_ROWS][PAGE / 4];
    const code4 *codes; /* (n, row), dim / 4 of a query */
    size_t row;
};

INLINE void code_scores(struct code_queries *q, const struct page *p, struct ahead *next,
                        const unsigned m)
{
    for (uint32_t t = 0; t < PAGE; t += CODE_SIDE) {
        const uint8_t *keys = p->bytes + PAGE_SCALES + 4 * (size_t)t;
        code_sums acc[CODE_ROWS][CODE_VECS];
#pragma GCC unroll 6
        for (unsigned i = 0; i < m; i++)
            for (unsigned v = 0; v < CODE_VECS; v++)
                acc[i][v] = sums_from(q->start[i]);
        for (uint32_t d = 0; d < q->g.c->dim / 4; d++, keys += 4 * PAGE) {
            fetch_step(next);
            dot_codes(acc, keys, q->codes + d, q->row, true, m, CODE_VECS);
        }
#pragma GCC unroll 6
        for (unsigned i = 0; i < m; i++)
            for (unsigned v = 0; v < CODE_VECS; v++)
                v_store(q->g.scores[i] + t + LANES * v, float_sums(acc[i][v]));
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

/* Weights of m queries from `first` on as codes, step by step, as each is a chain of many; they see
 * lanes [a, b) (`whole`: all of them). */
INLINE void code_weigh(struct code_queries *q, const struct page *p, unsigned first, uint32_t a,
                       uint32_t b, const unsigned m, const bool whole)
{
    uint32_t outgrown = 0;
    vec s[VECS32], rate[VECS32];
#pragma GCC unroll 6
    for (unsigned i = first; i < first + m; i++) {
        for (uint32_t v = 0; v < VECS32; v++) {
            vec key = load_bf16(p->bytes + 2 * LANES * v);
            s[v] = v_mul(v_mul(v_load(q->g.scores[i] + LANES * v), key), v_set(q->scale[i]));
        }
        outgrown |= (uint32_t)keep_scores(&q->g, i, s, a, b, whole) << i;
    }
    if (outgrown)
        raise_maxima(&q->g, outgrown);
    float step = value_rates(p, a, b, rate);
#pragma GCC unroll 6
    for (unsigned i = first; i < first + m; i++) {
        soften(&q->g, i, s);
        for (uint32_t v = 0; v < VECS32; v++)
            store_codes15(q->weights[i] + LANES / 4 * v, v_mul(s[v], rate[v]));
        q->step[i] = step;
    }
}

static void code_weigh_part(struct code_queries *q, const struct page *p)
{
    uint32_t a, b;
    for (unsigned i = 0; i < q->g.n; i++) {
        visible(q->g.c, q->g.first + i, p->from, &a, &b);
        code_weigh(q, p, i, a, b, 1, false);
    }
}

/* acc += P V over dims [d, d + vectors * LANES). */
INLINE void code_weighted(const struct code_queries *q, const struct page *p, uint32_t d,
                          struct ahead *next, const unsigned m, const unsigned vectors)
{
    const size_t dim = q->g.c->dim;
    const size_t row = lodge_kv_value_width(q->g.c->dim, d) * 4;
    const uint8_t *values =
        p->bytes + PAGE_SCALES + dim * PAGE + lodge_kv_value_at(q->g.c->dim, d, 0, 4);
    float *to = q->g.c->out.acc + q->g.first * dim + d;
    code_sums acc[CODE_ROWS][CODE_VECS];
#pragma GCC unroll 6
    for (unsigned i = 0; i < m; i++)
        for (unsigned v = 0; v < vectors; v++)
            acc[i][v] = sums_from(0);
    for (uint32_t t = p->low / 4; t < (p->high + 3) / 4; t++) {
        fetch_step(next);
        dot_codes(acc, values + t * row, q->weights[0] + t, PAGE / 4, false, m, vectors);
    }
#pragma GCC unroll 6
    for (unsigned i = 0; i < m; i++)
        for (unsigned v = 0; v < vectors; v++) {
            float *at = to + i * dim + LANES * v;
            v_store(at, v_fma(float_sums(acc[i][v]), v_set(q->step[i]), v_load(at)));
        }
}

INLINE void code_attend(struct code_queries *q, const struct page *p, const unsigned m)
{
    const uint32_t dim = q->g.c->dim;
    struct ahead next =
        ahead_of(p->next, p->next ? (size_t)dim * 2 * PAGE + PAGE_SCALES : 0,
                 dim / 4 * (PAGE / CODE_SIDE) + (dim + CODE_SIDE - 1) / CODE_SIDE * (PAGE / 4));
    uint32_t d = 0;
    code_scores(q, p, &next, m);
    if (p->whole)
        code_weigh(q, p, 0, 0, PAGE, m, true);
    else
        code_weigh_part(q, p);
    for (; d + CODE_SIDE <= dim; d += CODE_SIDE)
        code_weighted(q, p, d, &next, m, CODE_VECS);
    if (d < dim)
        code_weighted(q, p, d, &next, m, 1);
}

static void set_codes(struct code_queries *q)
{
    const struct lodge_attn_call *c = q->g.c;
    size_t size = lodge_kv_query_bytes(LODGE_KV_INT8, c->dim);
    q->codes = (const code4 *)(const void *)(c->q + q->g.first * size);
    q->row = size / sizeof *q->codes;
    for (unsigned i = 0; i < q->g.n; i++) {
        struct query_tail tail;
        memcpy(&tail, q->codes + i * q->row + c->dim / 4, sizeof tail);
        q->start[i] = tail.start;
        q->scale[i] = tail.step * c->scale;
    }
}

static void attn_int8(struct lodge_attn_call *c)
{
    struct code_queries q;
    struct page p;
    q.g.c = c;
    for (q.g.first = 0; q.g.first < c->n_queries; q.g.first += q.g.n) {
        q.g.n = group_size(&q.g, CODE_ROWS);
        set_codes(&q);
        begin(&q.g);
        for (uint32_t page = c->from_page; page < c->n_pages; page++)
            if (look_at(&q.g, page, &p)) {
#define CALL(n) code_attend(&q, &p, n)
                CODE_SWITCH(q.g.n, CALL)
#undef CALL
            }
        finish(&q.g);
    }
}

void RUNG(attention_int8)(struct lodge_cpu_kernels *k)
{
    k->kv[LODGE_KV_INT8].attn = attn_int8;
}
