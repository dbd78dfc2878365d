/* Products with Q8_0, Q4_0 and Q4_1 weights by the dot product instruction (SDOT): 8 output rows in
 * two vectors, up to 4 rows of activations in registers. Bound: bytes of the panel at few rows; at
 * many, one instruction for 4 columns of 4 output rows. All sums are exact. */
#include "kernels/cpu/panel.h"
#include "kernels/x86/vec.h"

#define ROWS_INT8 4

LODGE_PANEL_FORMAT(Q8_0, LANES, 0)
LODGE_PANEL_FORMAT(Q4_0, LANES, 0)
LODGE_PANEL_FORMAT(Q4_1, LANES, 0)

INLINE int8x16_t words(uint32_t w)
{
    return vreinterpretq_s8_u32(vdupq_n_u32(w));
}

INLINE void dots_q8(const uint8_t *codes, const uint32_t *t, int32x4_t dot[][2], const unsigned m)
{
    for (unsigned j = 0; j < 8; j++, codes += 32, t += m)
        for (int h = 0; h < 2; h++) {
            int8x16_t w = vreinterpretq_s8_u8(vld1q_u8(codes + 16 * h));
#pragma GCC unroll 4
            for (unsigned i = 0; i < m; i++)
                dot[i][h] = vdotq_s32(dot[i][h], w, words(t[i]));
        }
}

INLINE void dots_q4(const uint8_t *codes, const uint32_t *t, const int32_t *sum, const int zero,
                    int32x4_t dot[][2], const unsigned m)
{
    for (unsigned j = 0; j < 4; j++, codes += 32, t += m)
        for (int h = 0; h < 2; h++) {
            uint8x16_t w = vld1q_u8(codes + 16 * h);
            int8x16_t low = vreinterpretq_s8_u8(vandq_u8(w, vdupq_n_u8(15)));
            int8x16_t high = vreinterpretq_s8_u8(vshrq_n_u8(w, 4));
#pragma GCC unroll 4
            for (unsigned i = 0; i < m; i++) {
                dot[i][h] = vdotq_s32(dot[i][h], low, words(t[i]));
                dot[i][h] = vdotq_s32(dot[i][h], high, words(t[4 * m + i]));
            }
        }
#pragma GCC unroll 4
    for (unsigned i = 0; i < m && zero; i++)
        for (int h = 0; h < 2; h++)
            dot[i][h] = vsubq_s32(dot[i][h], vdupq_n_s32(zero * sum[i]));
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
        vec acc[ROWS_INT8];
#pragma GCC unroll 4
        for (unsigned i = 0; i < m; i++)
            acc[i] = v_set(0);
        for (uint32_t b = 0; b < kp / 32; b++, t += 8 * m, scale += m, sum += m) {
            int32x4_t dot[ROWS_INT8][2] = {0};
            fetch_step(&next);
            if (f == LODGE_FMT_Q8_0)
                dots_q8(panel + head, t, dot, m);
            else
                dots_q4(panel + head, t, sum, f == LODGE_FMT_Q4_0 ? 8 : 0, dot, m);
            vec w = load_half(panel), least = w;
            if (f == LODGE_FMT_Q4_1)
                least = load_half(panel + 2 * LANES);
#pragma GCC unroll 4
            for (unsigned i = 0; i < m; i++) {
                vec whole = {{vcvtq_f32_s32(dot[i][0]), vcvtq_f32_s32(dot[i][1])}};
                acc[i] = v_fma(v_mul(w, v_set(scale[i])), whole, acc[i]);
                if (f == LODGE_FMT_Q4_1)
                    acc[i] = v_fma(least, v_set(scale[i] * (float)sum[i]), acc[i]);
            }
            panel += head + codes;
        }
#pragma GCC unroll 4
        for (unsigned i = 0; i < m; i++)
            v_store(out + i * ld + r, acc[i]);
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
