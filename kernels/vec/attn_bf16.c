/* Attention over keys and values in bf16: lanes are tokens for Q K^T and dims for P V; a vector of
 * keys or values is loaded once for all queries of a group. Bound: bytes of the pages at few
 * queries, 2 multiply-add or dot instructions a cycle at many. */
#include "kernels/vec/softmax.h"

struct queries {
    struct group g;
    const pair *q; /* (n, dim / 2) */
    pair room[MAX_ROWS * LODGE_HEAD_DIM_MAX / 2];
    pair weight_room[MAX_ROWS * PAGE / 2];
    _Alignas(64) uint16_t weights[MAX_ROWS][PAGE];
};

INLINE void scores(struct queries *q, const struct page *p, struct ahead *next, const unsigned m)
{
    const uint32_t n_pairs = q->g.c->dim / 2;
    for (uint32_t t = 0; t < PAGE; t += SIDE) {
        vec acc[MAX_ROWS][2];
#pragma GCC unroll 12
        for (unsigned i = 0; i < m; i++)
            acc[i][0] = acc[i][1] = v_set(0);
        for (uint32_t d = 0; d < n_pairs; d += 2) {
            fetch_step(next);
            dot_block(p->bytes + 4 * (size_t)t + (size_t)d * 4 * PAGE, 4 * PAGE, 2, NULL, q->q + d,
                      n_pairs, 1, acc, m, 2);
        }
#pragma GCC unroll 12
        for (unsigned i = 0; i < m; i++) {
            v_store(q->g.scores[i] + t, acc[i][0]);
            v_store(q->g.scores[i] + t + LANES, acc[i][1]);
        }
    }
}

/* Weights of m queries from `first` on, step by step, as each is a chain of many; they see lanes
 * [a, b) (`whole`: all of them). */
INLINE void weigh(struct queries *q, unsigned first, uint32_t a, uint32_t b, const unsigned m,
                  const bool whole)
{
    const vec scale = v_set(q->g.c->scale);
    uint32_t outgrown = 0;
    vec s[VECS32];
#pragma GCC unroll 12
    for (unsigned i = first; i < first + m; i++) {
        for (uint32_t v = 0; v < VECS32; v++)
            s[v] = v_mul(v_load(q->g.scores[i] + LANES * v), scale);
        outgrown |= (uint32_t)keep_scores(&q->g, i, s, a, b, whole) << i;
    }
    if (outgrown)
        raise_maxima(&q->g, outgrown);
#pragma GCC unroll 12
    for (unsigned i = first; i < first + m; i++) {
        soften(&q->g, i, s);
        for (uint32_t v = 0; v < VECS32; v++)
            store_bf16(q->weights[i] + LANES * v, s[v]);
    }
}

static void weigh_part(struct queries *q, const struct page *p)
{
    uint32_t a, b;
    for (unsigned i = 0; i < q->g.n; i++) {
        visible(q->g.c, q->g.first + i, p->from, &a, &b);
        weigh(q, i, a, b, 1, false);
    }
}

/* acc += P V over dims [d, d + vectors * LANES); masks hide tokens that nobody sees (NULL: there
 * are none). */
INLINE void weighted(const struct queries *q, const pair *weight, const struct page *p,
                     const uint32_t *masks, uint32_t d, struct ahead *next, const unsigned m,
                     const unsigned vectors)
{
    const size_t dim = q->g.c->dim;
    const size_t row = lodge_kv_value_width(q->g.c->dim, d) * 4;
    const uint8_t *values = p->bytes + 2 * (dim * PAGE + lodge_kv_value_at(q->g.c->dim, d, 0, 2));
    float *to = q->g.c->out.acc + q->g.first * dim + d;
    vec acc[MAX_ROWS][2];
#pragma GCC unroll 12
    for (unsigned i = 0; i < m; i++)
#pragma GCC unroll 2
        for (unsigned v = 0; v < vectors; v++)
            acc[i][v] = v_load(to + i * dim + LANES * v);
    for (uint32_t t = 0; t < PAGE / 2 && !masks; t += 2) {
        fetch_step(next);
        dot_block(values + t * row, row, 2, NULL, weight + t, PAGE / 2, 1, acc, m, vectors);
    }
    const uint32_t first = p->low / 2, last = (p->high + 1) / 2;
    if (masks)
        dot_block(values + first * row, row, last - first, masks + first, weight + first, PAGE / 2,
                  1, acc, m, vectors);
#pragma GCC unroll 12
    for (unsigned i = 0; i < m; i++)
#pragma GCC unroll 2
        for (unsigned v = 0; v < vectors; v++)
            v_store(to + i * dim + LANES * v, acc[i][v]);
}

INLINE void attend(struct queries *q, const struct page *p, const unsigned m)
{
    const uint32_t dim = q->g.c->dim;
    struct ahead next = ahead_of(p->next, p->next ? (size_t)dim * 4 * PAGE : 0,
                                 dim / 4 * (PAGE / SIDE) + (dim + SIDE - 1) / SIDE * (PAGE / 4));
    scores(q, p, &next, m);
    if (p->whole)
        weigh(q, 0, 0, PAGE, m, true);
    else
        weigh_part(q, p);
    const pair *weight = as_pairs(q->weights[0], (size_t)m * PAGE, q->weight_room);
    /* What nobody sees may be anything, and 0 x NaN is NaN. */
    uint32_t room[PAGE / 2], *masks = p->low == 0 && p->high == PAGE ? NULL : room, d = 0;
    for (uint32_t t = p->low / 2; t < (p->high + 1) / 2 && masks; t++)
        masks[t] = (2 * t >= p->low ? 0xFFFFu : 0) | (2 * t + 1 < p->high ? 0xFFFF0000u : 0);
    for (; d + SIDE <= dim; d += SIDE)
        weighted(q, weight, p, masks, d, &next, m, 2);
    if (d < dim)
        weighted(q, weight, p, masks, d, &next, m, 1);
}

static void attn_bf16(struct lodge_attn_call *c)
{
    struct queries q;
    struct page p;
    q.g.c = c;
    for (q.g.first = 0; q.g.first < c->n_queries; q.g.first += q.g.n) {
        q.g.n = group_size(&q.g, MAX_ROWS);
        q.q = as_pairs((const uint16_t *)(const void *)c->q + (size_t)q.g.first * c->dim,
                       (size_t)q.g.n * c->dim, q.room);
        begin(&q.g);
        for (uint32_t page = c->from_page; page < c->n_pages; page++)
            if (look_at(&q.g, page, &p)) {
#define CALL(n) attend(&q, &p, n)
                SWITCH_ROWS(q.g.n, CALL)
#undef CALL
            }
        finish(&q.g);
    }
}

void RUNG(attention_bf16)(struct lodge_cpu_kernels *k)
{
    k->kv[LODGE_KV_BF16].attn = attn_bf16;
}
