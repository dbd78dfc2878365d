/* Attention, AVX-512: lanes are tokens for Q K^T and dims for P V; each vector of keys or values is
 * loaded once for all queries of the call. Bound: bytes of the pages at few queries, dot
 * instructions at many. */
#include "kernels/x86/avx512.h"

#include <math.h>

#define PAGE 32u

struct page {
    const uint8_t *keys, *values;
    const char *next;   /* page to prefetch, or NULL */
    uint32_t low, high; /* tokens that some query sees */
};

INLINE void scores(const struct page *p, const pair *q, uint32_t pairs, float s[][PAGE],
                   const unsigned n)
{
    __m512 acc[12][2];
#pragma GCC unroll 12
    for (unsigned i = 0; i < n; i++)
        acc[i][0] = acc[i][1] = _mm512_setzero_ps();
    for (uint32_t d = 0; d < pairs; d++) {
        pairs16 k0 = load_pairs(_mm512_loadu_si512(p->keys + (size_t)d * 128));
        pairs16 k1 = load_pairs(_mm512_loadu_si512(p->keys + (size_t)d * 128 + 64));
        if (p->next) {
            _mm_prefetch(p->next + (size_t)d * 256, _MM_HINT_T0);
            _mm_prefetch(p->next + (size_t)d * 256 + 64, _MM_HINT_T0);
            _mm_prefetch(p->next + (size_t)d * 256 + 128, _MM_HINT_T0);
            _mm_prefetch(p->next + (size_t)d * 256 + 192, _MM_HINT_T0);
        }
#pragma GCC unroll 12
        for (unsigned i = 0; i < n; i++) {
            acc[i][0] = dot_pairs(acc[i][0], k0, q[(size_t)i * pairs + d]);
            acc[i][1] = dot_pairs(acc[i][1], k1, q[(size_t)i * pairs + d]);
        }
    }
#pragma GCC unroll 12
    for (unsigned i = 0; i < n; i++) {
        _mm512_storeu_ps(s[i], acc[i][0]);
        _mm512_storeu_ps(s[i] + 16, acc[i][1]);
    }
}

INLINE __m512 finish_score(const struct lodge_attn_call *c, __m512 s, __mmask16 seen)
{
    s = _mm512_mul_ps(s, _mm512_set1_ps(c->scale));
    if (c->softcap > 0) {
        __m512 cap = _mm512_set1_ps(c->softcap);
        s = _mm512_mul_ps(cap, tanh16(_mm512_div_ps(s, cap)));
    }
    return _mm512_mask_blend_ps(seen, _mm512_set1_ps(-INFINITY), s);
}

/* Softmax state of query i after a page, and its weights as pairs of tokens. */
INLINE void weigh(struct lodge_attn_call *c, uint32_t i, uint32_t from, const float *s,
                  pair *weight)
{
    uint32_t a = c->first[i] > from ? c->first[i] - from : 0;
    uint32_t b = c->last[i] < from + PAGE ? c->last[i] : from + PAGE;
    if (b <= from || a >= b - from) {
        memset(weight, 0, PAGE / 2 * sizeof *weight);
        return;
    }
    b -= from;
    uint32_t seen = (b == 32 ? 0xFFFFFFFFu : (1u << b) - 1) & ~((1u << a) - 1);
    __mmask16 m0 = (__mmask16)seen, m1 = (__mmask16)(seen >> 16);
    __m512 s0 = finish_score(c, _mm512_loadu_ps(s), m0);
    __m512 s1 = finish_score(c, _mm512_loadu_ps(s + 16), m1);
    float most = _mm512_reduce_max_ps(_mm512_max_ps(s0, s1));
    if (most > c->max[i]) {
        __m512 r = exp16(_mm512_set1_ps(c->max[i] - most));
        c->sum[i] *= _mm512_cvtss_f32(r);
        float *acc = c->acc + (size_t)i * c->dim;
        for (uint32_t d = 0; d < c->dim; d += 16)
            _mm512_storeu_ps(acc + d, _mm512_mul_ps(_mm512_loadu_ps(acc + d), r));
        c->max[i] = most;
    }
    __m512 max = _mm512_set1_ps(c->max[i]);
    __m512 p0 = _mm512_maskz_mov_ps(m0, exp16(_mm512_sub_ps(s0, max)));
    __m512 p1 = _mm512_maskz_mov_ps(m1, exp16(_mm512_sub_ps(s1, max)));
    c->sum[i] += tree16(_mm512_add_ps(p0, p1));
    store_pairs(weight, p0);
    store_pairs(weight + PAGE / 4, p1);
}

/* Tokens of the pair that somebody sees, as a mask over its two halves: what nobody sees may be
 * anything, and 0 x NaN is NaN. */
INLINE uint32_t pair_mask(const struct page *p, uint32_t t)
{
    uint32_t even = 2 * t, odd = even + 1;
    return (even >= p->low && even < p->high ? 0xFFFFu : 0) |
           (odd >= p->low && odd < p->high ? 0xFFFF0000u : 0);
}

/* acc += P V over dims [d, d + 16 * vectors). */
INLINE void weighted(struct lodge_attn_call *c, const struct page *p, const pair *weight,
                     uint32_t d, const unsigned n, const unsigned vectors)
{
    __m512 acc[12][2];
#pragma GCC unroll 12
    for (unsigned i = 0; i < n; i++)
#pragma GCC unroll 2
        for (unsigned v = 0; v < vectors; v++)
            acc[i][v] = _mm512_loadu_ps(c->acc + (size_t)i * c->dim + d + 16 * v);
    for (uint32_t t = p->low / 2; t < (p->high + 1) / 2; t++) {
        __m512i mask = _mm512_set1_epi32((int)pair_mask(p, t));
        const uint8_t *at = p->values + ((size_t)t * c->dim + d) * 4;
        pairs16 v0 = load_pairs(_mm512_and_si512(_mm512_loadu_si512(at), mask));
        pairs16 v1 = v0;
        if (vectors > 1)
            v1 = load_pairs(_mm512_and_si512(_mm512_loadu_si512(at + 64), mask));
#pragma GCC unroll 12
        for (unsigned i = 0; i < n; i++) {
            acc[i][0] = dot_pairs(acc[i][0], v0, weight[i * (PAGE / 2) + t]);
            if (vectors > 1)
                acc[i][1] = dot_pairs(acc[i][1], v1, weight[i * (PAGE / 2) + t]);
        }
    }
#pragma GCC unroll 12
    for (unsigned i = 0; i < n; i++)
#pragma GCC unroll 2
        for (unsigned v = 0; v < vectors; v++)
            _mm512_storeu_ps(c->acc + (size_t)i * c->dim + d + 16 * v, acc[i][v]);
}

INLINE void attend(struct lodge_attn_call *c, const struct page *p, const pair *q, uint32_t from,
                   const unsigned n)
{
    _Alignas(64) float s[12][PAGE];
    _Alignas(64) pair weight[12 * PAGE / 2];
    scores(p, q, c->dim / 2, s, n);
    for (unsigned i = 0; i < n; i++)
        weigh(c, i, from, s[i], weight + i * (PAGE / 2));
    uint32_t d = 0;
    for (; d + 32 <= c->dim; d += 32)
        weighted(c, p, weight, d, n, 2);
    if (d < c->dim)
        weighted(c, p, weight, d, n, 1);
}

/* Union of what the queries see of a page; false when it is empty. */
static bool union_of(const struct lodge_attn_call *c, uint32_t from, struct page *p)
{
    p->low = PAGE;
    p->high = 0;
    for (uint32_t i = 0; i < c->n_queries; i++) {
        uint32_t a = c->first[i] > from ? c->first[i] - from : 0;
        uint32_t b = c->last[i] < from + PAGE ? c->last[i] : from + PAGE;
        if (b <= from || a >= b - from)
            continue;
        p->low = a < p->low ? a : p->low;
        p->high = b - from > p->high ? b - from : p->high;
    }
    return p->low < p->high;
}

static void attn(struct lodge_attn_call *c)
{
    _Alignas(64) pair room[12 * LODGE_HEAD_DIM_MAX / 2];
    const pair *q = as_pairs(c->q, (size_t)c->n_queries * c->dim, room);
    for (uint32_t i = 0; i < c->n_queries; i++) {
        c->max[i] = -INFINITY;
        c->sum[i] = 0;
    }
    memset(c->acc, 0, (size_t)c->n_queries * c->dim * sizeof *c->acc);
    for (uint32_t page = 0; page < c->n_pages; page++) {
        struct page p = {.keys = c->pages[page],
                         .next = page + 1 < c->n_pages ? (const char *)c->pages[page + 1] : NULL};
        if (!union_of(c, page * PAGE, &p))
            continue;
        p.values = p.keys + (size_t)c->dim * 64;
#define CALL(n) attend(c, &p, q, page *PAGE, n)
        SWITCH_ROWS_12(c->n_queries, CALL)
#undef CALL
    }
}

void RUNG(attention)(struct lodge_cpu_kernels *k)
{
    k->attn = attn;
    k->name = RUNG_NAME;
}
