/* Pieces that the AVX-512 kernels share. Included by files of these rungs only.
 *
 * The same sources make two rungs: avx512, with the bf16 dot instructions, and avx512-vnni,
 * without. What differs is here: how a pair of bf16 numbers is held and multiplied, and how floats
 * become bf16. Both give the same bits: products of two bf16 numbers are exact in fp32, so the dot
 * instruction equals two fused multiply-adds, odd element first.
 */
#ifndef LODGE_KERNELS_X86_AVX512_H
#define LODGE_KERNELS_X86_AVX512_H

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

/* ---- pairs of bf16 ---- */

#ifdef __AVX512BF16__

#define RUNG(name) lodge_avx512_##name
#define RUNG_NAME "avx512"

/* 16 pairs, one a lane; and one pair that multiplies them all. */
typedef __m512bh pairs16;
typedef uint32_t pair;

INLINE pairs16 load_pairs(__m512i bits)
{
    return (__m512bh)bits;
}

INLINE __m512 dot_pairs(__m512 acc, pairs16 a, pair b)
{
    return _mm512_dpbf16_ps(acc, a, (__m512bh)_mm512_set1_epi32((int)b));
}

INLINE __m256i to_bf16x16(__m512 x)
{
    return (__m256i)_mm512_cvtneps_pbh(x);
}

/* Rounds 16 floats to 8 pairs in their order. */
INLINE void store_pairs(pair *to, __m512 x)
{
    _mm256_storeu_si256((void *)to, to_bf16x16(x));
}

/* n rounded numbers, n a multiple of 16, as pairs: where they stand, or widened in `room`. */
INLINE const pair *as_pairs(const uint16_t *x, size_t n, pair *room)
{
    (void)n;
    (void)room;
    return (const pair *)(const void *)x;
}

#else

#define RUNG(name) lodge_avx512_vnni_##name
#define RUNG_NAME "avx512-vnni"

typedef struct {
    __m512 odd, even;
} pairs16;
typedef struct {
    float even, odd;
} pair;

INLINE pairs16 load_pairs(__m512i bits)
{
    pairs16 p;
    p.odd = _mm512_castsi512_ps(_mm512_and_si512(bits, _mm512_set1_epi32((int)0xFFFF0000u)));
    p.even = _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
    return p;
}

INLINE __m512 dot_pairs(__m512 acc, pairs16 a, pair b)
{
    acc = _mm512_fmadd_ps(a.odd, _mm512_set1_ps(b.odd), acc);
    return _mm512_fmadd_ps(a.even, _mm512_set1_ps(b.even), acc);
}

/* lodge_float_bf16, lane by lane. */
INLINE __m256i to_bf16x16(__m512 x)
{
    __m512i u = _mm512_castps_si512(x), top = _mm512_srli_epi32(u, 16);
    __m512i odd = _mm512_and_si512(top, _mm512_set1_epi32(1));
    __m512i r = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
    r = _mm512_srli_epi32(r, 16);
    __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    __mmask16 tiny = _mm512_testn_epi32_mask(u, _mm512_set1_epi32(0x7F800000));
    r = _mm512_mask_or_epi32(r, nan, top, _mm512_set1_epi32(0x40));
    r = _mm512_mask_and_epi32(r, tiny, top, _mm512_set1_epi32(0x8000));
    return _mm512_cvtepi32_epi16(r);
}

INLINE __m512 widen(__m256i bf16)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bf16), 16));
}

INLINE void store_pairs(pair *to, __m512 x)
{
    _mm512_storeu_ps(to, widen(to_bf16x16(x)));
}

INLINE const pair *as_pairs(const uint16_t *x, size_t n, pair *room)
{
    for (size_t i = 0; i < n; i += 16)
        _mm512_storeu_ps(room + i / 2, widen(_mm256_loadu_si256((const void *)(x + i))));
    return room;
}

#endif

/* A dot product step kept in place: with the intrinsic gcc 12 copies and spills accumulators. */
INLINE __m512i dot_u8s8(__m512i acc, __m512i u8, __m512i s8)
{
    __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(u8), "v"(s8));
    return acc;
}

/* Writes the sums of m rows. */
INLINE void store_tile(__m512 acc[][2], unsigned m, float *out, size_t ld)
{
#pragma GCC unroll 12
    for (unsigned i = 0; i < m; i++) {
        _mm512_storeu_ps(out + i * ld, acc[i][0]);
        _mm512_storeu_ps(out + i * ld + 16, acc[i][1]);
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

void RUNG(float)(struct lodge_cpu_kernels *k);
void RUNG(int8)(struct lodge_cpu_kernels *k);
void RUNG(rows)(struct lodge_cpu_kernels *k);
void RUNG(attention)(struct lodge_cpu_kernels *k);

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
