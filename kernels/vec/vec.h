/* What the SIMD rungs share: their kernels are written once over the vector `vec` of LANES floats,
 * which each rung defines (vec_avx2.h and vec_avx512.h of kernels/x86, kernels/arm/vec_neon.h), and
 * compiled once per rung with its flags. Included by files of the rungs only.
 */
#ifndef LODGE_KERNELS_VEC_VEC_H
#define LODGE_KERNELS_VEC_VEC_H

#include "kernels/cpu/kernels.h"
#include "kernels/ref/math.h"

#include <math.h>
#include <string.h>
#if defined(__aarch64__)
#include <arm_neon.h>
#else
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))

/* Rows of a matrix that stand side by side in a sub-panel: two vectors. */
#define SIDE (2 * LANES)

#if defined(__aarch64__)
#include "kernels/arm/vec_neon.h"
#else
/* What will be read soon: into the second cache. Far fewer lines can be on their way to the first
 * at a time, and one core then gets half of what memory could give it. */
INLINE void fetch(const void *p)
{
    _mm_prefetch((const char *)p, _MM_HINT_T1);
}

#ifdef __AVX512F__
#include "kernels/x86/vec_avx512.h"
#else
#include "kernels/x86/vec_avx2.h"
#endif
#endif

/* The 16 lanes of an ordered sum, and the 32 tokens of a page, in vectors. */
#define VECS16 (16 / LANES)
#define VECS32 (32 / LANES)

#define PAGE LODGE_PAGE_TOKENS

/* The float whose bits are DOT_BIAS, where that is not 0: 1.5 * 2^23. To it integers below 2^22 add
 * up exactly, without a conversion. */
#define DOT_BIAS_FLOAT 12582912.0f

/* An F32 or BF16 tile has for each TILE_RUN columns, or pairs of them, [m][TILE_RUN]. */
#define TILE_RUN 8u

#if ACT_ROWS == 1
/* A Q8 tile has for each 32 columns of each row Q8_WORDS words: 8 of codes; the scale; what a dot
 * product with codes of zero point 128 starts from, DOT_BIAS - 128 s, and the float scale * s, each
 * for the sum s of the block, of its first and of its second half. On x86, which broadcasts words
 * from anywhere, a row's words are a line of the cache; on Arm, whose dot products take one word of
 * four that are loaded together, the same word of all rows stands side by side. */
enum { Q8_SCALE = 8, Q8_START = 9, Q8_SUM = 12, Q8_WORDS = 16 };

/* Index of a word of row i of m in a block. */
INLINE size_t q8_at(const unsigned word, const unsigned i, const unsigned m)
{
#ifdef __x86_64__
    (void)m;
    return Q8_WORDS * i + word;
#else
    return word * m + i;
#endif
}

/* Block b of row i of m into a tile, of which c are the codes. */
#ifdef __x86_64__
#include "kernels/x86/q8_tile.h"
#else
INLINE void q8_put(uint32_t *tile, uint32_t b, unsigned i, unsigned m, codes32 c, float scale)
{
    uint32_t *t = tile + (size_t)b * m * Q8_WORDS, codes[8];
    int32_t sum[3];
    sums_of_codes(c, sum);
    store_codes(codes, c);
    for (unsigned j = 0; j < 8; j++)
        t[q8_at(j, i, m)] = codes[j];
    t[q8_at(Q8_SCALE, i, m)] = lodge_float_bits(scale);
    for (unsigned j = 0; j < 3; j++) {
        t[q8_at(Q8_START + j, i, m)] = (uint32_t)(DOT_BIAS - 128 * sum[j]);
        t[q8_at(Q8_SUM + j, i, m)] = lodge_float_bits(scale * (float)sum[j]);
    }
}
#endif

#else
/* A Q8 tile of pairs of rows, the last with zeros beside it if m is odd: for each 32 columns and
 * each pair vectors of 4 words: 4 of codes [2 rows][8]; the scale [2 rows][2], the same twice;
 * likewise the float scale * s for the sum s of the block, of its first and of its second half. */
enum { Q8_SCALE = 4, Q8_SUM = 5, Q8_WORDS = 32 };

INLINE void q8_put(uint32_t *tile, uint32_t b, unsigned i, unsigned m, codes32 c, float scale)
{
    uint32_t codes[8];
    int32_t sum[3];
    store_codes(codes, c);
    sums_of_codes(c, sum);
    const size_t n_pairs = (m + 1) / 2;
    uint32_t *t = tile + (b * n_pairs + i / 2) * Q8_WORDS + i % 2 * 2;
    for (unsigned u = 0; u < 4; u++)
        memcpy(t + 4 * u, codes + 2 * u, 8);
    for (unsigned j = 0; j < 4; j++) {
        float x = j ? scale * (float)sum[j - 1] : scale;
        t[4 * (Q8_SCALE + j)] = t[4 * (Q8_SCALE + j) + 1] = lodge_float_bits(x);
    }
}
#endif

INLINE uint32_t padded(uint32_t n)
{
    return (n + 31) / 32 * 32;
}

INLINE uint32_t left_of(uint32_t n, uint32_t at)
{
    return n > at ? n - at : 0;
}

/* lodge_ref_exp, lane by lane. */
INLINE vec v_exp(vec x)
{
    vec in = x;
    x = v_min(x, v_set(LODGE_EXP_HIGH));
    vec n = v_round(v_mul(x, v_set(LODGE_LOG2E)));
    vec r = v_fma(n, v_set(-LODGE_LN2_HIGH), x);
    r = v_fma(n, v_set(-LODGE_LN2_LOW), r);
    vec p = v_set(LODGE_EXP_C7);
    p = v_fma(p, r, v_set(LODGE_EXP_C6));
    p = v_fma(p, r, v_set(LODGE_EXP_C5));
    p = v_fma(p, r, v_set(LODGE_EXP_C4));
    p = v_fma(p, r, v_set(LODGE_EXP_C3));
    p = v_fma(p, r, v_set(LODGE_EXP_C2));
    p = v_fma(p, v_mul(r, r), r);
    p = v_add(p, v_set(1.0f));
    return v_where_above(in, v_set(LODGE_EXP_LOW), v_mul(p, v_pow2(n)));
}

/* lodge_ref_tanh, lane by lane. */
INLINE vec v_tanh(vec x)
{
    vec e = v_add(v_exp(v_add(x, x)), v_set(1.0f));
    return v_sub(v_set(1.0f), v_div(v_set(2.0f), e));
}

/* What numbers up to amax are multiplied with to be codes of 15 bits. */
INLINE float inverse15(float amax)
{
    return amax >= LODGE_CODE15_LEAST ? LODGE_CODE15_MAX / amax : 0;
}

/* After the codes of a query. */
struct query_tail {
    int32_t start; /* of sums over them */
    float step;    /* what a code is, in a dot product with a rotated key */
};

/* acc += dot of bf16 pairs: n_pairs steps of `vectors` vectors of pairs at w, `stride` bytes apart,
 * ANDed with the mask of their step (NULL: none), against n_pairs steps of m pairs at t, whose rows
 * are `row` and whose steps `step` pairs apart. Odd elements first, as the bf16 dot instruction. */
INLINE void dot_block(const uint8_t *w, size_t stride, uint32_t n_pairs, const uint32_t *masks,
                      const pair *t, size_t row, size_t step, vec acc[][2], const unsigned m,
                      const unsigned vectors)
{
    for (uint32_t k = 0; k < n_pairs; k++, w += stride, t += step) {
        pairs w0 = load_pairs(w, masks ? masks[k] : UINT32_MAX);
        pairs w1 = w0;
        if (vectors > 1)
            w1 = load_pairs(w + sizeof(vec), masks ? masks[k] : UINT32_MAX);
        dot_odd(acc, w0, w1, t, row, m, vectors);
        dot_even(acc, w0, w1, t, row, m, vectors);
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
        fetch(a->at);
}

void RUNG(float)(struct lodge_cpu_kernels *k);
void RUNG(int8)(struct lodge_cpu_kernels *k);
void RUNG(rows)(struct lodge_cpu_kernels *k);
void RUNG(logits)(struct lodge_cpu_kernels *k);
void RUNG(attention_bf16)(struct lodge_cpu_kernels *k);
void RUNG(attention_int8)(struct lodge_cpu_kernels *k);
void RUNG(attention_merge)(struct lodge_cpu_kernels *k);
void RUNG(lora)(struct lodge_cpu_kernels *k);

/* Calls with the row count as a constant, so that each count is its own unrolled kernel. */
#define ROW_CASE(n, CALL)                                                                          \
    case n:                                                                                        \
        CALL(n);                                                                                   \
        break;
#define SWITCH_ROWS_2(m, CALL)                                                                     \
    switch (m) {                                                                                   \
        ROW_CASE(1, CALL)                                                                          \
    default:                                                                                       \
        CALL(2);                                                                                   \
    }
#define SWITCH_ROWS_4(m, CALL)                                                                     \
    switch (m) {                                                                                   \
        ROW_CASE(1, CALL)                                                                          \
        ROW_CASE(2, CALL)                                                                          \
        ROW_CASE(3, CALL)                                                                          \
    default:                                                                                       \
        CALL(4);                                                                                   \
    }
#define SWITCH_ROWS_6(m, CALL)                                                                     \
    switch (m) {                                                                                   \
        ROW_CASE(1, CALL)                                                                          \
        ROW_CASE(2, CALL)                                                                          \
        ROW_CASE(3, CALL)                                                                          \
        ROW_CASE(4, CALL)                                                                          \
        ROW_CASE(5, CALL)                                                                          \
    default:                                                                                       \
        CALL(6);                                                                                   \
    }
#define SWITCH_ROWS_12(m, CALL)                                                                    \
    switch (m) {                                                                                   \
        ROW_CASE(7, CALL)                                                                          \
        ROW_CASE(8, CALL)                                                                          \
        ROW_CASE(9, CALL)                                                                          \
        ROW_CASE(10, CALL)                                                                         \
        ROW_CASE(11, CALL)                                                                         \
        ROW_CASE(12, CALL)                                                                         \
    default:                                                                                       \
        SWITCH_ROWS_6(m, CALL)                                                                     \
    }
/* Up to MAX_ROWS of the rung. */
#if MAX_ROWS == 12
#define SWITCH_ROWS SWITCH_ROWS_12
#else
#define SWITCH_ROWS SWITCH_ROWS_6
#endif

#endif
