/* Pieces that the AVX2 kernels share. Included by files of this rung only. */
#ifndef LODGE_KERNELS_X86_AVX2_H
#define LODGE_KERNELS_X86_AVX2_H

#include "kernels/cpu/kernels.h"
#include "kernels/ref/math.h"

#include <immintrin.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define ROWS 6 /* of activations that a kernel keeps in registers */

/* A pair of bf16 numbers of the activations, widened: what a multiply-add broadcasts. */
typedef struct {
    float odd, even;
} pair;

INLINE pair pair_of(uint32_t bits)
{
    pair p = {lodge_bits_float(bits & 0xFFFF0000u), lodge_bits_float(bits << 16)};
    return p;
}

INLINE uint32_t padded(uint32_t n)
{
    return (n + 31) / 32 * 32;
}

INLINE __m256i first_lanes(uint32_t n)
{
    static const int32_t window[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
    return _mm256_loadu_si256((const void *)(window + 8 - (n < 8 ? n : 8)));
}

/* The first `left` of 8 floats, zeros after them. */
INLINE __m256 load_tail(const float *x, uint32_t left)
{
    return left >= 8 ? _mm256_loadu_ps(x) : _mm256_maskload_ps(x, first_lanes(left));
}

INLINE void store_tail(float *x, uint32_t left, __m256 v)
{
    if (left >= 8)
        _mm256_storeu_ps(x, v);
    else
        _mm256_maskstore_ps(x, first_lanes(left), v);
}

/* lodge_ref_tree16 of the 16 lanes low, high. */
INLINE float tree16(__m256 low, __m256 high)
{
    __m256 a = _mm256_add_ps(low, high);
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}

INLINE float max8(__m256 v)
{
    __m128 a = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    a = _mm_max_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_max_ss(a, _mm_movehdup_ps(a)));
}

/* lodge_ref_exp, lane by lane. */
INLINE __m256 exp8(__m256 x)
{
    __m256 above = _mm256_cmp_ps(x, _mm256_set1_ps(LODGE_EXP_LOW), _CMP_GT_OQ);
    x = _mm256_min_ps(x, _mm256_set1_ps(LODGE_EXP_HIGH));
    __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(LODGE_LOG2E)),
                               _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_fmadd_ps(n, _mm256_set1_ps(-LODGE_LN2_HIGH), x);
    r = _mm256_fmadd_ps(n, _mm256_set1_ps(-LODGE_LN2_LOW), r);
    __m256 p = _mm256_set1_ps(LODGE_EXP_C7);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(LODGE_EXP_C6));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(LODGE_EXP_C5));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(LODGE_EXP_C4));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(LODGE_EXP_C3));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(LODGE_EXP_C2));
    p = _mm256_fmadd_ps(p, _mm256_mul_ps(r, r), r);
    p = _mm256_add_ps(p, _mm256_set1_ps(1.0f));
    __m256i e =
        _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_and_ps(above, _mm256_mul_ps(p, _mm256_castsi256_ps(e)));
}

INLINE __m256 tanh8(__m256 x)
{
    __m256 one = _mm256_set1_ps(1.0f);
    __m256 e = _mm256_add_ps(exp8(_mm256_add_ps(x, x)), one);
    return _mm256_sub_ps(one, _mm256_div_ps(_mm256_set1_ps(2.0f), e));
}

/* lodge_float_bf16, lane by lane. */
INLINE __m128i to_bf16x8(__m256 x)
{
    const __m256i exponent = _mm256_set1_epi32(0x7F800000);
    __m256i u = _mm256_castps_si256(x), top = _mm256_srli_epi32(u, 16);
    __m256i odd = _mm256_and_si256(top, _mm256_set1_epi32(1));
    __m256i r = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
    r = _mm256_srli_epi32(r, 16);
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    __m256i tiny = _mm256_cmpeq_epi32(_mm256_and_si256(u, exponent), _mm256_setzero_si256());
    r = _mm256_blendv_epi8(r, _mm256_or_si256(top, _mm256_set1_epi32(0x40)), nan);
    r = _mm256_blendv_epi8(r, _mm256_and_si256(top, _mm256_set1_epi32(0x8000)), tiny);
    return _mm_packus_epi32(_mm256_castsi256_si128(r), _mm256_extracti128_si256(r, 1));
}

/* acc += dot of bf16 pairs: n_pairs vectors of 16 lanes at w, `stride` bytes apart, ANDed with the
 * mask of their pair (NULL: none), against n_pairs rows of m pairs, `t_stride` apart. Odd elements
 * first, as the bf16 dot instruction. */
INLINE void dot_pairs(const uint8_t *w, size_t stride, uint32_t n_pairs, const uint32_t *masks,
                      const pair *t, size_t t_stride, __m256 acc[][2], const unsigned m)
{
    const __m256i high = _mm256_set1_epi32((int)0xFFFF0000u);
    for (uint32_t k = 0; k < n_pairs; k++, w += stride, t += t_stride) {
        __m256i w0 = _mm256_loadu_si256((const void *)w);
        __m256i w1 = _mm256_loadu_si256((const void *)(w + 32));
        if (masks) {
            w0 = _mm256_and_si256(w0, _mm256_set1_epi32((int)masks[k]));
            w1 = _mm256_and_si256(w1, _mm256_set1_epi32((int)masks[k]));
        }
        __m256 odd0 = _mm256_castsi256_ps(_mm256_and_si256(w0, high));
        __m256 odd1 = _mm256_castsi256_ps(_mm256_and_si256(w1, high));
#pragma GCC unroll 6
        for (unsigned i = 0; i < m; i++) {
            __m256 x = _mm256_broadcast_ss(&t[i].odd);
            acc[i][0] = _mm256_fmadd_ps(odd0, x, acc[i][0]);
            acc[i][1] = _mm256_fmadd_ps(odd1, x, acc[i][1]);
        }
        __m256 even0 = _mm256_castsi256_ps(_mm256_slli_epi32(w0, 16));
        __m256 even1 = _mm256_castsi256_ps(_mm256_slli_epi32(w1, 16));
#pragma GCC unroll 6
        for (unsigned i = 0; i < m; i++) {
            __m256 x = _mm256_broadcast_ss(&t[i].even);
            acc[i][0] = _mm256_fmadd_ps(even0, x, acc[i][0]);
            acc[i][1] = _mm256_fmadd_ps(even1, x, acc[i][1]);
        }
    }
}

/* What will be read soon, fetched a few lines a step of a kernel's loop, so that it is through when
 * the loop is. */
struct ahead {
    const char *at, *end;
    size_t step; /* bytes a step */
};

INLINE struct ahead ahead_of(const void *next, size_t n, uint32_t n_steps)
{
    size_t lines = (n + 63) / 64;
    return (struct ahead){next, (const char *)next + n, (lines + n_steps - 1) / n_steps * 64};
}

INLINE void fetch_step(struct ahead *a)
{
    const char *to = a->at + a->step < a->end ? a->at + a->step : a->end;
    for (; a->at < to; a->at += 64)
        _mm_prefetch(a->at, _MM_HINT_T1);
}

void lodge_avx2_float(struct lodge_cpu_kernels *k);
void lodge_avx2_int8(struct lodge_cpu_kernels *k);
void lodge_avx2_rows(struct lodge_cpu_kernels *k);
void lodge_avx2_attention(struct lodge_cpu_kernels *k);

/* Calls with the row count as a constant, so that each count is its own unrolled kernel. */
#define SWITCH_ROWS_4(m, CALL)                                                                     \
    switch (m) {                                                                                   \
    case 1:                                                                                        \
        CALL(1);                                                                                   \
        break;                                                                                     \
    case 2:                                                                                        \
        CALL(2);                                                                                   \
        break;                                                                                     \
    case 3:                                                                                        \
        CALL(3);                                                                                   \
        break;                                                                                     \
    default:                                                                                       \
        CALL(4);                                                                                   \
        break;                                                                                     \
    }
#define SWITCH_ROWS(m, CALL)                                                                       \
    switch (m) {                                                                                   \
    case 5:                                                                                        \
        CALL(5);                                                                                   \
        break;                                                                                     \
    case 6:                                                                                        \
        CALL(6);                                                                                   \
        break;                                                                                     \
    default:                                                                                       \
        SWITCH_ROWS_4(m, CALL)                                                                     \
    }

#endif
