/* Attention, AVX2: lanes are tokens for Q K^T and dims for P V; a vector of keys or values is
 * loaded once for up to 6 queries. Bound: bytes of the pages at few queries, 2 multiply-adds a
 * cycle at many. */
#include "kernels/x86/avx2.h"

#include <math.h>

#define PAGE 32u

/* Operands of up to 6 queries of a call, pair-major. */
struct queries {
    unsigned first, n;
    pair q[ROWS * LODGE_HEAD_DIM_MAX / 2];
    pair weight[ROWS * PAGE / 2];
    float scores[ROWS][PAGE];
};

static void load_queries(const struct lodge_attn_call *c, struct queries *g)
{
    for (unsigned i = 0; i < g->n; i++) {
        const uint16_t *row = c->q + (size_t)(g->first + i) * c->dim;
        for (uint32_t d = 0; d < c->dim / 2; d++) {
            uint32_t bits;
            memcpy(&bits, row + 2 * d, 4);
            g->q[d * g->n + i] = pair_of(bits);
        }
    }
}

INLINE void scores(const uint8_t *keys, uint32_t n_pairs, struct queries *g, const unsigned m)
{
    for (uint32_t t = 0; t < PAGE; t += 16) {
        __m256 acc[ROWS][2];
#pragma GCC unroll 6
        for (unsigned i = 0; i < m; i++)
            acc[i][0] = acc[i][1] = _mm256_setzero_ps();
        dot_pairs(keys + 4 * t, 4 * PAGE, n_pairs, NULL, g->q, m, acc, m);
#pragma GCC unroll 6
        for (unsigned i = 0; i < m; i++) {
            _mm256_storeu_ps(g->scores[i] + t, acc[i][0]);
            _mm256_storeu_ps(g->scores[i] + t + 8, acc[i][1]);
        }
    }
}

/* Lanes of a query that are visible in the page that begins at `from`. */
INLINE bool visible(const struct lodge_attn_call *c, uint32_t i, uint32_t from, uint32_t *a,
                    uint32_t *b)
{
    *a = c->first[i] > from ? c->first[i] - from : 0;
    *b = c->last[i] < from + PAGE ? c->last[i] : from + PAGE;
    if (*b <= from || *a >= *b - from)
        return false;
    *b -= from;
    return true;
}

INLINE __m256i seen_mask(uint32_t lane, uint32_t a, uint32_t b)
{
    __m256i t =
        _mm256_add_epi32(_mm256_set1_epi32((int)lane), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    return _mm256_and_si256(_mm256_cmpgt_epi32(t, _mm256_set1_epi32((int)a - 1)),
                            _mm256_cmpgt_epi32(_mm256_set1_epi32((int)b), t));
}

static void grow_max(struct lodge_attn_call *c, uint32_t i, float most)
{
    __m256 r = exp8(_mm256_set1_ps(c->max[i] - most));
    float *acc = c->acc + (size_t)i * c->dim;
    c->sum[i] *= _mm256_cvtss_f32(r);
    for (uint32_t d = 0; d < c->dim; d += 8)
        _mm256_storeu_ps(acc + d, _mm256_mul_ps(_mm256_loadu_ps(acc + d), r));
    c->max[i] = most;
}

/* Softmax state of query i of the group after a page; its weights go to g->weight. */
static void weigh(struct lodge_attn_call *c, struct queries *g, unsigned i, uint32_t from)
{
    uint32_t query = g->first + i, a, b, words[16] = {0};
    if (visible(c, query, from, &a, &b)) {
        __m256 s[4], most = _mm256_set1_ps(-INFINITY);
        for (uint32_t v = 0; v < 4; v++) {
            s[v] = _mm256_mul_ps(_mm256_loadu_ps(g->scores[i] + 8 * v), _mm256_set1_ps(c->scale));
            if (c->softcap > 0) {
                __m256 cap = _mm256_set1_ps(c->softcap);
                s[v] = _mm256_mul_ps(cap, tanh8(_mm256_div_ps(s[v], cap)));
            }
            s[v] = _mm256_blendv_ps(_mm256_set1_ps(-INFINITY), s[v],
                                    _mm256_castsi256_ps(seen_mask(8 * v, a, b)));
            most = _mm256_max_ps(s[v], most);
        }
        if (max8(most) > c->max[query])
            grow_max(c, query, max8(most));
        for (uint32_t v = 0; v < 4; v++) {
            __m256 p = exp8(_mm256_sub_ps(s[v], _mm256_set1_ps(c->max[query])));
            s[v] = _mm256_and_ps(p, _mm256_castsi256_ps(seen_mask(8 * v, a, b)));
            _mm_storeu_si128((void *)(words + 4 * v), to_bf16x8(s[v]));
        }
        c->sum[query] += tree16(_mm256_add_ps(s[0], s[2]), _mm256_add_ps(s[1], s[3]));
    }
    for (uint32_t t = 0; t < PAGE / 2; t++)
        g->weight[t * g->n + i] = pair_of(words[t]);
}

/* acc += P V over token pairs [first, last); masks hide tokens that nobody sees. */
INLINE void weighted(struct lodge_attn_call *c, const struct queries *g, const uint8_t *values,
                     uint32_t first, uint32_t last, const uint32_t *masks, const unsigned m)
{
    for (uint32_t d = 0; d < c->dim; d += 16) {
        float *to = c->acc + (size_t)g->first * c->dim + d;
        __m256 acc[ROWS][2];
#pragma GCC unroll 6
        for (unsigned i = 0; i < m; i++) {
            acc[i][0] = _mm256_loadu_ps(to + (size_t)i * c->dim);
            acc[i][1] = _mm256_loadu_ps(to + (size_t)i * c->dim + 8);
        }
        dot_pairs(values + ((size_t)first * c->dim + d) * 4, (size_t)c->dim * 4, last - first,
                  masks + first, g->weight + first * m, m, acc, m);
#pragma GCC unroll 6
        for (unsigned i = 0; i < m; i++) {
            _mm256_storeu_ps(to + (size_t)i * c->dim, acc[i][0]);
            _mm256_storeu_ps(to + (size_t)i * c->dim + 8, acc[i][1]);
        }
    }
}

INLINE void attend(struct lodge_attn_call *c, struct queries *g, uint32_t page, const unsigned m)
{
    const uint8_t *keys = c->pages[page];
    uint32_t low = PAGE, high = 0, from = page * PAGE, a, b;
    for (unsigned i = 0; i < m; i++)
        if (visible(c, g->first + i, from, &a, &b)) {
            low = a < low ? a : low;
            high = b > high ? b : high;
        }
    if (low >= high)
        return;
    scores(keys, c->dim / 2, g, m);
    for (unsigned i = 0; i < m; i++)
        weigh(c, g, i, from);
    /* What nobody sees may be anything, and 0 x NaN is NaN. */
    uint32_t masks[PAGE / 2];
    for (uint32_t t = low / 2; t < (high + 1) / 2; t++)
        masks[t] = (2 * t >= low ? 0xFFFFu : 0) | (2 * t + 1 < high ? 0xFFFF0000u : 0);
    weighted(c, g, keys + (size_t)c->dim * 64, low / 2, (high + 1) / 2, masks, m);
}

static void attn(struct lodge_attn_call *c)
{
    struct queries g;
    memset(c->acc, 0, (size_t)c->n_queries * c->dim * sizeof *c->acc);
    for (uint32_t i = 0; i < c->n_queries; i++) {
        c->max[i] = -INFINITY;
        c->sum[i] = 0;
    }
    for (g.first = 0; g.first < c->n_queries; g.first += g.n) {
        g.n = c->n_queries - g.first < ROWS ? c->n_queries - g.first : ROWS;
        load_queries(c, &g);
        for (uint32_t page = 0; page < c->n_pages; page++) {
#define CALL(n) attend(c, &g, page, n)
            SWITCH_ROWS(g.n, CALL)
#undef CALL
        }
    }
}

void lodge_avx2_attention(struct lodge_cpu_kernels *k)
{
    k->attn = attn;
}
