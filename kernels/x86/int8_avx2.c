/* Products with Q8_0, Q4_0 and Q4_1 weights, AVX2: 8 output rows in a vector, up to 4 rows of
 * activations in registers. Bound: bytes of the panel at few rows; at many, 2 integer instructions
 * a cycle, of which a group of 4 columns takes 2 (4 bits) or 4 (8 bits) a row of activations.
 *
 * vpmaddubsw multiplies unsigned by signed bytes and adds neighbours in 16 bits, saturating. Codes
 * of 4 bits are unsigned and small: 8 x 2 x 15 x 127 = 30480 stays below 2^15, so a whole block
 * adds up in 16 bits. Codes of 8 bits give their sign to the activation: 2 x 128 x 127 = 32512
 * fits, and each product is widened at once. All sums are exact. */
#include "kernels/cpu/panel.h"
#include "kernels/x86/vec.h"

#define ROWS_INT8 4 /* more would not stay in 16 registers */

LODGE_PANEL_FORMAT(Q8_0, LANES, 0)
LODGE_PANEL_FORMAT(Q4_0, LANES, 0)
LODGE_PANEL_FORMAT(Q4_1, LANES, 0)

INLINE __m256i words(uint32_t w)
{
    return _mm256_set1_epi32((int)w);
}

INLINE void dots_q8(const uint8_t *codes, const uint32_t *t, __m256i dot[], const unsigned m)
{
    const __m256i one = _mm256_set1_epi16(1);
#pragma GCC unroll 4
    for (unsigned i = 0; i < m; i++)
        dot[i] = _mm256_setzero_si256();
    for (unsigned j = 0; j < 8; j++, codes += 32, t += m) {
        __m256i w = _mm256_loadu_si256((const void *)codes), size = _mm256_abs_epi8(w);
#pragma GCC unroll 4
        for (unsigned i = 0; i < m; i++) {
            __m256i x = _mm256_sign_epi8(words(t[i]), w);
            dot[i] =
                _mm256_add_epi32(dot[i], _mm256_madd_epi16(_mm256_maddubs_epi16(size, x), one));
        }
    }
}

INLINE void dots_q4(const uint8_t *codes, const uint32_t *t, const int32_t *sum, const int zero,
                    __m256i dot[], const unsigned m)
{
    const __m256i low = _mm256_set1_epi8(15), one = _mm256_set1_epi16(1);
#pragma GCC unroll 4
    for (unsigned i = 0; i < m; i++)
        dot[i] = _mm256_setzero_si256();
    for (unsigned j = 0; j < 4; j++, codes += 32, t += m) {
        __m256i w = _mm256_loadu_si256((const void *)codes);
        __m256i l = _mm256_and_si256(w, low), h = _mm256_and_si256(_mm256_srli_epi16(w, 4), low);
#pragma GCC unroll 4
        for (unsigned i = 0; i < m; i++) {
            dot[i] = _mm256_add_epi16(dot[i], _mm256_maddubs_epi16(l, words(t[i])));
            dot[i] = _mm256_add_epi16(dot[i], _mm256_maddubs_epi16(h, words(t[4 * m + i])));
        }
    }
#pragma GCC unroll 4
    for (unsigned i = 0; i < m; i++) {
        dot[i] = _mm256_madd_epi16(dot[i], one);
        if (zero)
            dot[i] = _mm256_sub_epi32(dot[i], _mm256_set1_epi32(zero * sum[i]));
    }
}

INLINE __m256 halves(const uint8_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const void *)p));
}

INLINE void int8_rows(const uint8_t *panel, uint32_t kp, const uint8_t *tile, float *out, size_t ld,
                      struct ahead next, const enum lodge_format f, const unsigned m)
{
    const uint32_t head = (f == LODGE_FMT_Q4_1 ? 4 : 2) * LANES;
    const uint32_t codes = (f == LODGE_FMT_Q8_0 ? 32 : 16) * LANES;
    for (uint32_t r = 0; r < LODGE_PANEL_ROWS; r += LANES) {
        const uint32_t *t = (const uint32_t *)(const void *)tile;
        const float *scale = (const float *)(const void *)(tile + (size_t)kp * m);
        const int32_t *sum = (const int32_t *)(const void *)(scale + (size_t)kp / 32 * m);
        __m256 acc[ROWS_INT8];
#pragma GCC unroll 4
        for (unsigned i = 0; i < m; i++)
            acc[i] = _mm256_setzero_ps();
        for (uint32_t b = 0; b < kp / 32; b++, t += 8 * m, scale += m, sum += m) {
            __m256i dot[ROWS_INT8];
            fetch_step(&next);
            if (f == LODGE_FMT_Q8_0)
                dots_q8(panel + head, t, dot, m);
            else
                dots_q4(panel + head, t, sum, f == LODGE_FMT_Q4_0 ? 8 : 0, dot, m);
            __m256 w = halves(panel);
#pragma GCC unroll 4
            for (unsigned i = 0; i < m; i++)
                acc[i] = _mm256_fmadd_ps(_mm256_mul_ps(w, _mm256_broadcast_ss(&scale[i])),
                                         _mm256_cvtepi32_ps(dot[i]), acc[i]);
            if (f == LODGE_FMT_Q4_1) {
                __m256 least = halves(panel + 2 * LANES);
#pragma GCC unroll 4
                for (unsigned i = 0; i < m; i++)
                    acc[i] =
                        _mm256_fmadd_ps(least, _mm256_set1_ps(scale[i] * (float)sum[i]), acc[i]);
            }
            panel += head + codes;
        }
#pragma GCC unroll 4
        for (unsigned i = 0; i < m; i++)
            _mm256_storeu_ps(out + i * ld + r, acc[i]);
    }
}

#define INT8_TILE(format)                                                                          \
    static void tile_##format(const void *panel, uint32_t n_cols, const void *tile, unsigned m,    \
                              float *out, size_t ld, const void *next, size_t next_bytes)          \
    {                                                                                              \
        SWITCH_ROWS_4(m, CALL_##format)                                                            \
    }
#define CALL_AS(format, n)                                                                         \
    int8_rows(panel, padded(n_cols), tile, out, ld,                                                \
              ahead_of(next, next_bytes, padded(n_cols) / LANES), format, n)
#define CALL_Q8_0(n) CALL_AS(LODGE_FMT_Q8_0, n)
#define CALL_Q4_0(n) CALL_AS(LODGE_FMT_Q4_0, n)
#define CALL_Q4_1(n) CALL_AS(LODGE_FMT_Q4_1, n)
INT8_TILE(Q8_0)
INT8_TILE(Q4_0)
INT8_TILE(Q4_1)

void RUNG(int8)(struct lodge_cpu_kernels *k)
{
    k->gemm[LODGE_FMT_Q8_0] = (struct lodge_gemm){ROWS_INT8, pack_Q8_0, tile_Q8_0, gather_Q8_0};
    k->gemm[LODGE_FMT_Q4_0] = (struct lodge_gemm){ROWS_INT8, pack_Q4_0, tile_Q4_0, gather_Q4_0};
    k->gemm[LODGE_FMT_Q4_1] = (struct lodge_gemm){ROWS_INT8, pack_Q4_1, tile_Q4_1, gather_Q4_1};
}
