/* Products with F32, F16 and BF16 weights, AVX2: 16 output rows in two vectors, up to 6 rows of
 * activations in registers. Bound: bytes of the panel at few rows; 2 multiply-adds a cycle at
 * many. */
#include "kernels/cpu/panel.h"
#include "kernels/x86/avx2.h"

#define LANES 16u

LODGE_PANEL_FORMAT(F32, LANES, 0)
LODGE_PANEL_FORMAT(F16, LANES, 0)
LODGE_PANEL_FORMAT(BF16, LANES, 0)

INLINE void clear(__m256 acc[][2], const unsigned m)
{
#pragma GCC unroll 6
    for (unsigned i = 0; i < m; i++)
        acc[i][0] = acc[i][1] = _mm256_setzero_ps();
}

INLINE void store(__m256 acc[][2], const unsigned m, float *out, size_t ld)
{
#pragma GCC unroll 6
    for (unsigned i = 0; i < m; i++) {
        _mm256_storeu_ps(out + i * ld, acc[i][0]);
        _mm256_storeu_ps(out + i * ld + 8, acc[i][1]);
    }
}

/* A stretch of the columns, with the next panel's lines fetched between stretches. */
#define STRETCH 8u /* pairs: 512 bytes of weights */

INLINE void bf16_rows(const uint8_t *panel, uint32_t kp, const pair *t, float *out, size_t ld,
                      struct ahead next, const unsigned m)
{
    for (uint32_t r = 0; r < LODGE_PANEL_ROWS; r += LANES) {
        __m256 acc[ROWS][2];
        clear(acc, m);
        for (uint32_t k = 0; k < kp / 2; k += STRETCH, panel += STRETCH * LANES * 4) {
            fetch_step(&next);
            dot_pairs(panel, LANES * 4, STRETCH, NULL, t + (size_t)k * m, m, acc, m);
        }
        store(acc, m, out + r, ld);
    }
}

INLINE void float_rows(const uint8_t *panel, uint32_t kp, const float *tile, float *out, size_t ld,
                       struct ahead next, const bool half, const unsigned m)
{
    for (uint32_t r = 0; r < LODGE_PANEL_ROWS; r += LANES) {
        const float *t = tile;
        __m256 acc[ROWS][2];
        clear(acc, m);
        for (uint32_t k = 0; k < kp; k++, panel += half ? 32 : 64, t += m) {
            __m256 w0, w1;
            if (half) {
                w0 = _mm256_cvtph_ps(_mm_loadu_si128((const void *)panel));
                w1 = _mm256_cvtph_ps(_mm_loadu_si128((const void *)(panel + 16)));
            } else {
                w0 = _mm256_loadu_ps((const float *)(const void *)panel);
                w1 = _mm256_loadu_ps((const float *)(const void *)(panel + 32));
            }
            if (k % 8 == 0)
                fetch_step(&next);
#pragma GCC unroll 6
            for (unsigned i = 0; i < m; i++) {
                __m256 x = _mm256_broadcast_ss(&t[i]);
                acc[i][0] = _mm256_fmadd_ps(w0, x, acc[i][0]);
                acc[i][1] = _mm256_fmadd_ps(w1, x, acc[i][1]);
            }
        }
        store(acc, m, out + r, ld);
    }
}

static void tile_bf16(const void *panel, uint32_t n_cols, const void *tile, unsigned m, float *out,
                      size_t ld, const void *next, size_t next_bytes)
{
#define CALL(n)                                                                                    \
    bf16_rows(panel, padded(n_cols), tile, out, ld,                                                \
              ahead_of(next, next_bytes, padded(n_cols) / STRETCH), n)
    SWITCH_ROWS(m, CALL)
#undef CALL
}

static void tile_f32(const void *panel, uint32_t n_cols, const void *tile, unsigned m, float *out,
                     size_t ld, const void *next, size_t next_bytes)
{
#define CALL(n)                                                                                    \
    float_rows(panel, padded(n_cols), tile, out, ld,                                               \
               ahead_of(next, next_bytes, padded(n_cols) / 4), false, n)
    SWITCH_ROWS(m, CALL)
#undef CALL
}

static void tile_f16(const void *panel, uint32_t n_cols, const void *tile, unsigned m, float *out,
                     size_t ld, const void *next, size_t next_bytes)
{
#define CALL(n)                                                                                    \
    float_rows(panel, padded(n_cols), tile, out, ld,                                               \
               ahead_of(next, next_bytes, padded(n_cols) / 4), true, n)
    SWITCH_ROWS(m, CALL)
#undef CALL
}

void lodge_avx2_float(struct lodge_cpu_kernels *k)
{
    k->gemm[LODGE_FMT_F32] = (struct lodge_gemm){ROWS, pack_F32, tile_f32, gather_F32};
    k->gemm[LODGE_FMT_F16] = (struct lodge_gemm){ROWS, pack_F16, tile_f16, gather_F16};
    k->gemm[LODGE_FMT_BF16] = (struct lodge_gemm){ROWS, pack_BF16, tile_bf16, gather_BF16};
}
