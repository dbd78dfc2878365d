/* Products with Q8_0, Q4_0 and Q4_1 weights, AVX-512: 32 output rows in two vectors, up to 6 rows
 * of activations in registers. Bound: bytes of the panel at few rows; 2 dot instructions a cycle at
 * many. Q8_0 codes are unsigned (code + 128), because the dot instruction takes u8 x s8; the zero
 * point is subtracted by the initial value of the integer accumulator. */
#include "kernels/cpu/panel.h"
#include "kernels/x86/vec.h"

LODGE_PANEL_FORMAT(Q8_0, 32, 0x80)
LODGE_PANEL_FORMAT(Q4_0, 32, 0)
LODGE_PANEL_FORMAT(Q4_1, 32, 0)

/* One block's exact integer sums of all rows, zero point included. */
INLINE void dots_q8(const uint8_t *codes, const uint32_t *t, const int32_t *sum, const unsigned m,
                    __m512i dot[][2])
{
#pragma GCC unroll 6
    for (unsigned i = 0; i < m; i++)
        dot[i][0] = dot[i][1] = _mm512_set1_epi32(-128 * sum[i]);
#pragma GCC unroll 8
    for (unsigned j = 0; j < 8; j++) {
        __m512i w0 = _mm512_loadu_si512(codes + j * 128);
        __m512i w1 = _mm512_loadu_si512(codes + j * 128 + 64);
#pragma GCC unroll 6
        for (unsigned i = 0; i < m; i++) {
            __m512i x = _mm512_set1_epi32((int)t[j * m + i]);
            dot[i][0] = dot_u8s8(dot[i][0], w0, x);
            dot[i][1] = dot_u8s8(dot[i][1], w1, x);
        }
    }
}

INLINE void dots_q4(const uint8_t *codes, const uint32_t *t, const int32_t *sum, int zero,
                    const unsigned m, __m512i dot[][2])
{
    const __m512i low = _mm512_set1_epi8(15);
#pragma GCC unroll 6
    for (unsigned i = 0; i < m; i++)
        dot[i][0] = dot[i][1] = zero ? _mm512_set1_epi32(-zero * sum[i]) : _mm512_setzero_si512();
#pragma GCC unroll 4
    for (unsigned j = 0; j < 4; j++) {
        __m512i b0 = _mm512_loadu_si512(codes + j * 128);
        __m512i b1 = _mm512_loadu_si512(codes + j * 128 + 64);
        __m512i l0 = _mm512_and_si512(b0, low), l1 = _mm512_and_si512(b1, low);
        __m512i h0 = _mm512_and_si512(_mm512_srli_epi16(b0, 4), low);
        __m512i h1 = _mm512_and_si512(_mm512_srli_epi16(b1, 4), low);
#pragma GCC unroll 6
        for (unsigned i = 0; i < m; i++) {
            __m512i x = _mm512_set1_epi32((int)t[j * m + i]);
            __m512i y = _mm512_set1_epi32((int)t[(4 + j) * m + i]);
            dot[i][0] = dot_u8s8(dot[i][0], l0, x);
            dot[i][1] = dot_u8s8(dot[i][1], l1, x);
            dot[i][0] = dot_u8s8(dot[i][0], h0, y);
            dot[i][1] = dot_u8s8(dot[i][1], h1, y);
        }
    }
}

INLINE void int8_rows(const uint8_t *panel, uint32_t kp, const uint8_t *tile, float *out, size_t ld,
                      struct ahead next, enum lodge_format f, const unsigned m)
{
    const uint32_t *t = (const uint32_t *)(const void *)tile;
    const float *scale = (const float *)(const void *)(tile + (size_t)kp * m);
    const int32_t *sum = (const int32_t *)(const void *)(scale + (size_t)kp / 32 * m);
    __m512 acc[6][2];
#pragma GCC unroll 6
    for (unsigned i = 0; i < m; i++)
        acc[i][0] = acc[i][1] = _mm512_setzero_ps();
    for (uint32_t b = 0; b < kp / 32; b++, t += 8 * m, scale += m, sum += m) {
        __m512i dot[6][2];
        fetch_step(&next);
        if (f == LODGE_FMT_Q8_0)
            dots_q8(panel + 64, t, sum, m, dot);
        else
            dots_q4(panel + (f == LODGE_FMT_Q4_1 ? 128 : 64), t, sum, f == LODGE_FMT_Q4_1 ? 0 : 8,
                    m, dot);
#pragma GCC unroll 2
        for (unsigned v = 0; v < 2; v++) { /* one vector after the other: dots leave registers */
            __m512 w = _mm512_cvtph_ps(_mm256_loadu_si256((const void *)(panel + 32 * v)));
#pragma GCC unroll 6
            for (unsigned i = 0; i < m; i++)
                acc[i][v] = _mm512_fmadd_ps(_mm512_mul_ps(w, _mm512_set1_ps(scale[i])),
                                            _mm512_cvtepi32_ps(dot[i][v]), acc[i][v]);
        }
        if (f == LODGE_FMT_Q4_1) {
            __m512 m0 = _mm512_cvtph_ps(_mm256_loadu_si256((const void *)(panel + 64)));
            __m512 m1 = _mm512_cvtph_ps(_mm256_loadu_si256((const void *)(panel + 96)));
#pragma GCC unroll 6
            for (unsigned i = 0; i < m; i++) {
                __m512 ds = _mm512_set1_ps(scale[i] * (float)sum[i]);
                acc[i][0] = _mm512_fmadd_ps(m0, ds, acc[i][0]);
                acc[i][1] = _mm512_fmadd_ps(m1, ds, acc[i][1]);
            }
        }
        panel += f == LODGE_FMT_Q8_0 ? 1088 : f == LODGE_FMT_Q4_0 ? 576 : 640;
    }
#pragma GCC unroll 6
    for (unsigned i = 0; i < m; i++) {
        _mm512_storeu_ps(out + i * ld, acc[i][0]);
        _mm512_storeu_ps(out + i * ld + 16, acc[i][1]);
    }
}

#define INT8_TILE(name, format)                                                                    \
    static void name(const void *panel, uint32_t n_cols, const void *tile, unsigned m, float *out, \
                     size_t ld, const void *next, size_t next_bytes)                               \
    {                                                                                              \
        SWITCH_ROWS_6(m, CALL_##format)                                                            \
    }
#define CALL_Q8_0(n)                                                                               \
    int8_rows(panel, padded(n_cols), tile, out, ld,                                                \
              ahead_of(next, next_bytes, padded(n_cols) / 32), LODGE_FMT_Q8_0, n)
#define CALL_Q4_0(n)                                                                               \
    int8_rows(panel, padded(n_cols), tile, out, ld,                                                \
              ahead_of(next, next_bytes, padded(n_cols) / 32), LODGE_FMT_Q4_0, n)
#define CALL_Q4_1(n)                                                                               \
    int8_rows(panel, padded(n_cols), tile, out, ld,                                                \
              ahead_of(next, next_bytes, padded(n_cols) / 32), LODGE_FMT_Q4_1, n)
INT8_TILE(tile_q8_0, Q8_0)
INT8_TILE(tile_q4_0, Q4_0)
INT8_TILE(tile_q4_1, Q4_1)

void RUNG(int8)(struct lodge_cpu_kernels *k)
{
    k->gemm[LODGE_FMT_Q8_0] = (struct lodge_gemm){6, pack_Q8_0, tile_q8_0, gather_Q8_0};
    k->gemm[LODGE_FMT_Q4_0] = (struct lodge_gemm){6, pack_Q4_0, tile_q4_0, gather_Q4_0};
    k->gemm[LODGE_FMT_Q4_1] = (struct lodge_gemm){6, pack_Q4_1, tile_q4_1, gather_Q4_1};
}
