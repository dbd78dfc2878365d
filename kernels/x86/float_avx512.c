/* Products with F32, F16 and BF16 weights, AVX-512: 32 output rows in two vectors, up to 12 rows of
 * activations in registers. Bound: bytes of the panel at few rows; 2 multiply-add or dot
 * instructions a cycle at many. */
#include "kernels/cpu/panel.h"
#include "kernels/x86/avx512.h"

LODGE_PANEL_FORMAT(F32, 32, 0)
LODGE_PANEL_FORMAT(F16, 32, 0)
LODGE_PANEL_FORMAT(BF16, 32, 0)

INLINE void bf16_rows(const uint8_t *panel, uint32_t kp, const pair *t, float *out, size_t ld,
                      struct ahead next, const unsigned m)
{
    __m512 acc[12][2];
#pragma GCC unroll 12
    for (unsigned i = 0; i < m; i++)
        acc[i][0] = acc[i][1] = _mm512_setzero_ps();
    for (uint32_t k = 0; k < kp / 2; k++, panel += 128, t += m) {
        pairs16 w0 = load_pairs(_mm512_loadu_si512(panel));
        pairs16 w1 = load_pairs(_mm512_loadu_si512(panel + 64));
        if (k % 8 == 0)
            fetch_step(&next);
#pragma GCC unroll 12
        for (unsigned i = 0; i < m; i++) {
            acc[i][0] = dot_pairs(acc[i][0], w0, t[i]);
            acc[i][1] = dot_pairs(acc[i][1], w1, t[i]);
        }
    }
    store_tile(acc, m, out, ld);
}

static void tile_bf16(const void *panel, uint32_t n_cols, const void *tile, unsigned m, float *out,
                      size_t ld, const void *next, size_t next_bytes){
#define CALL(n)                                                                                    \
    bf16_rows(panel, padded(n_cols), tile, out, ld,                                                \
              ahead_of(next, next_bytes, padded(n_cols) / 16), n)
    SWITCH_ROWS_12(m, CALL)
#undef CALL
}

INLINE void float_rows(const uint8_t *panel, uint32_t kp, const float *t, float *out, size_t ld,
                       struct ahead next, bool half, const unsigned m)
{
    __m512 acc[12][2];
#pragma GCC unroll 12
    for (unsigned i = 0; i < m; i++)
        acc[i][0] = acc[i][1] = _mm512_setzero_ps();
    for (uint32_t k = 0; k < kp; k++, panel += half ? 64 : 128, t += m) {
        __m512 w0 = half ? _mm512_cvtph_ps(_mm256_loadu_si256((const void *)panel))
                         : _mm512_loadu_ps(panel);
        __m512 w1 = half ? _mm512_cvtph_ps(_mm256_loadu_si256((const void *)(panel + 32)))
                         : _mm512_loadu_ps(panel + 64);
        if (k % 8 == 0)
            fetch_step(&next);
#pragma GCC unroll 12
        for (unsigned i = 0; i < m; i++) {
            __m512 x = _mm512_set1_ps(t[i]);
            acc[i][0] = _mm512_fmadd_ps(w0, x, acc[i][0]);
            acc[i][1] = _mm512_fmadd_ps(w1, x, acc[i][1]);
        }
    }
    store_tile(acc, m, out, ld);
}

static void tile_f32(const void *panel, uint32_t n_cols, const void *tile, unsigned m, float *out,
                     size_t ld, const void *next, size_t next_bytes)
{
#define CALL(n)                                                                                    \
    float_rows(panel, padded(n_cols), tile, out, ld,                                               \
               ahead_of(next, next_bytes, padded(n_cols) / 8), false, n)
    SWITCH_ROWS_12(m, CALL)
#undef CALL
}

static void tile_f16(const void *panel, uint32_t n_cols, const void *tile, unsigned m, float *out,
                     size_t ld, const void *next, size_t next_bytes)
{
#define CALL(n)                                                                                    \
    float_rows(panel, padded(n_cols), tile, out, ld,                                               \
               ahead_of(next, next_bytes, padded(n_cols) / 8), true, n)
    SWITCH_ROWS_12(m, CALL)
#undef CALL
}

void RUNG(float)(struct lodge_cpu_kernels *k)
{
    k->gemm[LODGE_FMT_F32] = (struct lodge_gemm){12, pack_F32, tile_f32, gather_F32};
    k->gemm[LODGE_FMT_F16] = (struct lodge_gemm){12, pack_F16, tile_f16, gather_F16};
    k->gemm[LODGE_FMT_BF16] = (struct lodge_gemm){12, pack_BF16, tile_bf16, gather_BF16};
}
