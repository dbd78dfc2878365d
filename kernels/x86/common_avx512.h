/* Pieces that the AVX-512 kernels share. Included by files of this rung only. */
#ifndef LODGE_KERNELS_X86_COMMON_AVX512_H
#define LODGE_KERNELS_X86_COMMON_AVX512_H

#include "kernels/cpu/kernels.h"
#include "kernels/ref/math.h"

#include <immintrin.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

INLINE uint32_t padded(uint32_t n)
{
    return (n + 31) / 32 * 32;
}

/* First n of 16 lanes. */
INLINE __mmask16 first_lanes(uint32_t n)
{
    return n >= 16 ? (__mmask16)0xFFFF : (__mmask16)((1u << n) - 1);
}

INLINE float tree16(__m512 v)
{
    __m256 a = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}

/* lodge_ref_exp, lane by lane. */
INLINE __m512 exp16(__m512 x)
{
    __mmask16 above = _mm512_cmp_ps_mask(x, _mm512_set1_ps(LODGE_EXP_LOW), _CMP_GT_OQ);
    x = _mm512_min_ps(x, _mm512_set1_ps(LODGE_EXP_HIGH));
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(LODGE_LOG2E)),
                                    _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 r = _mm512_fmadd_ps(n, _mm512_set1_ps(-LODGE_LN2_HIGH), x);
    r = _mm512_fmadd_ps(n, _mm512_set1_ps(-LODGE_LN2_LOW), r);
    __m512 p = _mm512_set1_ps(LODGE_EXP_C7);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(LODGE_EXP_C6));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(LODGE_EXP_C5));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(LODGE_EXP_C4));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(LODGE_EXP_C3));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(LODGE_EXP_C2));
    p = _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), r);
    p = _mm512_add_ps(p, _mm512_set1_ps(1.0f));
    __m512i e =
        _mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23);
    return _mm512_maskz_mul_ps(above, p, _mm512_castsi512_ps(e));
}

INLINE __m512 tanh16(__m512 x)
{
    __m512 one = _mm512_set1_ps(1.0f);
    __m512 e = _mm512_add_ps(exp16(_mm512_add_ps(x, x)), one);
    return _mm512_sub_ps(one, _mm512_div_ps(_mm512_set1_ps(2.0f), e));
}

/* A dot product step kept in place: with the intrinsic gcc 12 copies and spills accumulators. */
INLINE __m512i dot_u8s8(__m512i acc, __m512i u8, __m512i s8)
{
    __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(u8), "v"(s8));
    return acc;
}

/* Next panel, a line per call until it is through. */
struct ahead {
    const char *at, *end;
};

INLINE struct ahead ahead_of(const void *next, size_t n)
{
    return (struct ahead){next, (const char *)next + n};
}

INLINE void fetch_line(struct ahead *a)
{
    if (a->at < a->end) {
        _mm_prefetch(a->at, _MM_HINT_T1);
        a->at += 64;
    }
}

void lodge_avx512_gemm(struct lodge_cpu_kernels *k);
void lodge_avx512_rows(struct lodge_cpu_kernels *k);
void lodge_avx512_attention(struct lodge_cpu_kernels *k);

/* Calls fn with the row count as a constant, so that each count is its own unrolled kernel. */
#define SWITCH_ROWS_6(m, CALL)                                                                     \
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
    case 4:                                                                                        \
        CALL(4);                                                                                   \
        break;                                                                                     \
    case 5:                                                                                        \
        CALL(5);                                                                                   \
        break;                                                                                     \
    default:                                                                                       \
        CALL(6);                                                                                   \
        break;                                                                                     \
    }
#define SWITCH_ROWS_12(m, CALL)                                                                    \
    switch (m) {                                                                                   \
    case 7:                                                                                        \
        CALL(7);                                                                                   \
        break;                                                                                     \
    case 8:                                                                                        \
        CALL(8);                                                                                   \
        break;                                                                                     \
    case 9:                                                                                        \
        CALL(9);                                                                                   \
        break;                                                                                     \
    case 10:                                                                                       \
        CALL(10);                                                                                  \
        break;                                                                                     \
    case 11:                                                                                       \
        CALL(11);                                                                                  \
        break;                                                                                     \
    case 12:                                                                                       \
        CALL(12);                                                                                  \
        break;                                                                                     \
    default:                                                                                       \
        SWITCH_ROWS_6(m, CALL)                                                                     \
    }

#endif
