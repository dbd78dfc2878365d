/* Random words side by side: COUNTERS lanes of 64 bits whose low halves count (the high ones may be
 * anything), as the widening multiplications of every instruction set take and give them. Included
 * by files of the rungs only.
 */
#ifndef LODGE_KERNELS_VEC_COUNTERS_H
#define LODGE_KERNELS_VEC_COUNTERS_H

#include "kernels/vec/vec.h"

#if defined(__aarch64__)
#define COUNTERS 2
typedef uint64x2_t counters;

INLINE counters c_set(uint32_t x)
{
    return vdupq_n_u64(x);
}

/* first, first + 1, .. */
INLINE counters c_rising(uint32_t first)
{
    return vcombine_u64(vcreate_u64(first), vcreate_u64(first + 1));
}

/* The low halves times m, in full. */
INLINE counters c_mul(counters a, uint32_t m)
{
    return vmull_u32(vmovn_u64(a), vdup_n_u32(m));
}

INLINE counters c_high(counters a)
{
    return vshrq_n_u64(a, 32);
}

INLINE counters c_xor(counters a, counters b)
{
    return veorq_u64(a, b);
}

INLINE counters c_most(counters a, counters b)
{
    return vreinterpretq_u64_u32(vmaxq_u32(vreinterpretq_u32_u64(a), vreinterpretq_u32_u64(b)));
}

/* Whether one is at least `least`. */
INLINE bool c_any(counters a, uint32_t least)
{
    return vmaxv_u32(vmovn_u64(a)) >= least;
}

INLINE void c_store(uint64_t *to, counters a)
{
    vst1q_u64(to, a);
}
#elif defined(__AVX512F__)
#define COUNTERS 8
typedef __m512i counters;

INLINE counters c_set(uint32_t x)
{
    return _mm512_set1_epi64(x);
}

INLINE counters c_rising(uint32_t first)
{
    return _mm512_add_epi64(c_set(first), _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7));
}

INLINE counters c_mul(counters a, uint32_t m)
{
    return _mm512_mul_epu32(a, c_set(m));
}

INLINE counters c_high(counters a)
{
    return _mm512_srli_epi64(a, 32);
}

INLINE counters c_xor(counters a, counters b)
{
    return _mm512_xor_si512(a, b);
}

INLINE counters c_most(counters a, counters b)
{
    return _mm512_max_epu32(a, b);
}

INLINE bool c_any(counters a, uint32_t least)
{
    return _mm512_mask_cmpge_epu32_mask(0x5555, a, _mm512_set1_epi32((int)least));
}

INLINE void c_store(uint64_t *to, counters a)
{
    _mm512_storeu_si512(to, a);
}
#else
#define COUNTERS 4
typedef __m256i counters;

INLINE counters c_set(uint32_t x)
{
    return _mm256_set1_epi64x(x);
}

INLINE counters c_rising(uint32_t first)
{
    return _mm256_add_epi64(c_set(first), _mm256_setr_epi64x(0, 1, 2, 3));
}

INLINE counters c_mul(counters a, uint32_t m)
{
    return _mm256_mul_epu32(a, c_set(m));
}

INLINE counters c_high(counters a)
{
    return _mm256_srli_epi64(a, 32);
}

INLINE counters c_xor(counters a, counters b)
{
    return _mm256_xor_si256(a, b);
}

INLINE counters c_most(counters a, counters b)
{
    return _mm256_max_epu32(a, b);
}

INLINE bool c_any(counters a, uint32_t least)
{
    __m256i from = _mm256_cmpeq_epi32(_mm256_max_epu32(a, _mm256_set1_epi32((int)least)), a);
    return _mm256_movemask_ps(_mm256_castsi256_ps(from)) & 0x55;
}

INLINE void c_store(uint64_t *to, counters a)
{
    _mm256_storeu_si256((void *)to, a);
}
#endif

#endif
