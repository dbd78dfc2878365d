/* Products with F32, F16, BF16 and F8_E4M3 weights: output rows in two vectors, up to MAX_ROWS rows
 * of activations in registers. Bound: bytes of the panel at few rows; 2 multiply-add or dot
 * instructions a cycle at many. */
#include "kernels/cpu/panel.h"
#include "kernels/vec/vec.h"

LODGE_PANEL_FORMAT(F32, SIDE, 4, 0)
LODGE_PANEL_FORMAT(F16, SIDE, 4, 0)
LODGE_PANEL_FORMAT(BF16, SIDE, 4, 0)
LODGE_PANEL_FORMAT(F8_E4M3, SIDE, 4, 0)

INLINE void clear(vec acc[][2], const unsigned m)
{
#pragma GCC unroll 12
    for (unsigned i = 0; i < m; i++)
        acc[i][0] = acc[i][1] = v_set(0);
}

INLINE void store(vec acc[][2], const unsigned m, float *out, size_t ld)
{
#pragma GCC unroll 12
    for (unsigned i = 0; i < m; i++) {
        v_store(out + i * ld, acc[i][0]);
        v_store(out + i * ld + LANES, acc[i][1]);
    }
}

INLINE void bf16_rows(const uint8_t *panel, uint32_t kp, const pair *t, float *out, size_t ld,
                      struct ahead next, const unsigned m)
{
    for (uint32_t r = 0; r < LODGE_PANEL_ROWS; r += SIDE) {
        vec acc[MAX_ROWS][2];
        clear(acc, m);
        for (uint32_t k = 0; k < kp / 2; k += TILE_RUN, panel += TILE_RUN * SIDE * 4) {
            fetch_step(&next);
            dot_block(panel, SIDE * 4, TILE_RUN, NULL, t + (size_t)k * m, TILE_RUN, 1, acc, m, 2);
        }
        store(acc, m, out + r, ld);
    }
}

/* Codes become bf16 numbers in registers, or in a wide panel are stored as such; sums of 128
 * columns are scaled. */
INLINE void fp8_rows(const uint8_t *panel, uint32_t kp, const pair *tile, float *out, size_t ld,
                     struct ahead next, const bool wide, const unsigned m)
{
    for (uint32_t r = 0; r < LODGE_PANEL_ROWS; r += SIDE) {
        const pair *t = tile;
        vec total[MAX_ROWS][2];
        clear(total, m);
        for (uint32_t k = 0; k < kp; k += LODGE_SCALE_COLS) {
            const uint32_t n = (kp - k < LODGE_SCALE_COLS ? kp - k : LODGE_SCALE_COLS) / 2;
            const float *scale = (const float *)(const void *)panel;
            vec acc[MAX_ROWS][2];
            clear(acc, m);
            panel += SIDE * sizeof *scale;
            for (uint32_t j = 0; j < n; j += TILE_RUN, t += TILE_RUN * m) {
                fetch_step(&next);
#pragma GCC unroll 1
                for (uint32_t s = 0; s < TILE_RUN; s++, panel += (wide ? 4 : 2) * SIDE) {
                    pairs w0, w1;
                    if (wide) {
                        w0 = load_pairs(panel, UINT32_MAX);
                        w1 = load_pairs(panel + sizeof w0, UINT32_MAX);
                    } else {
                        load_fp8(panel, &w0, &w1);
                    }
                    dot_odd(acc, w0, w1, t + s, TILE_RUN, m, 2);
                    dot_even(acc, w0, w1, t + s, TILE_RUN, m, 2);
                }
            }
            vec s0 = v_mul(v_load(scale), v_set(256)),
                s1 = v_mul(v_load(scale + LANES), v_set(256));
#pragma GCC unroll 12
            for (unsigned i = 0; i < m; i++) {
                total[i][0] = v_fma(s0, acc[i][0], total[i][0]);
                total[i][1] = v_fma(s1, acc[i][1], total[i][1]);
            }
        }
        store(total, m, out + r, ld);
    }
}

/* Scales stay, codes become pairs. */
static void widen_fp8(const void *panel, uint32_t n_cols, void *wide)
{
    const uint8_t *from = panel;
    uint8_t *to = wide;
    const uint32_t kp = padded(n_cols);
    for (uint32_t r = 0; r < LODGE_PANEL_ROWS; r += SIDE)
        for (uint32_t k = 0; k < kp; k += LODGE_SCALE_COLS) {
            uint32_t n = (kp - k < LODGE_SCALE_COLS ? kp - k : LODGE_SCALE_COLS) / 2;
            memcpy(to, from, SIDE * sizeof(float));
            from += SIDE * sizeof(float);
            to += SIDE * sizeof(float);
            for (uint32_t j = 0; j < n; j++, from += 2 * SIDE, to += 4 * SIDE) {
                pairs w0, w1;
                load_fp8(from, &w0, &w1);
                store_pairs(to, w0);
                store_pairs(to + sizeof w0, w1);
            }
        }
}

INLINE void float_rows(const uint8_t *panel, uint32_t kp, const float *tile, float *out, size_t ld,
                       struct ahead next, const bool half, const unsigned m)
{
    const size_t step = half ? SIDE * 2 : SIDE * 4;
    for (uint32_t r = 0; r < LODGE_PANEL_ROWS; r += SIDE) {
        const float *t = tile;
        vec acc[MAX_ROWS][2];
        clear(acc, m);
        for (uint32_t k = 0; k < kp; k += TILE_RUN, t += TILE_RUN * m) {
            fetch_step(&next);
#pragma GCC unroll 1
            for (uint32_t s = 0; s < TILE_RUN; s++, panel += step) {
                const uint8_t *second = panel + step / 2;
                vec w0 = half ? load_half(panel) : v_load((const float *)(const void *)panel);
                vec w1 = half ? load_half(second) : v_load((const float *)(const void *)second);
#pragma GCC unroll 12
                for (unsigned i = 0; i < m; i++) {
                    vec x = v_set(t[i * TILE_RUN + s]);
                    acc[i][0] = v_fma(w0, x, acc[i][0]);
                    acc[i][1] = v_fma(w1, x, acc[i][1]);
                }
            }
        }
        store(acc, m, out + r, ld);
    }
}

/* Fetches during one tile: a step each TILE_RUN columns (or pairs) of each sub-panel. */
INLINE uint32_t n_steps(uint32_t n_cols, uint32_t cols)
{
    return padded(n_cols) / (TILE_RUN * cols) * (LODGE_PANEL_ROWS / SIDE);
}

/* A tile by `rows`, whose columns go in steps of `cols`. */
#define FLOAT_TILE(name, cols, rows)                                                               \
    static void name(const void *panel, uint32_t n_cols, const void *tile, unsigned m, float *out, \
                     size_t ld, const void *next, size_t next_bytes)                               \
    {                                                                                              \
        const struct ahead a = ahead_of(next, next_bytes, n_steps(n_cols, cols));                  \
        SWITCH_ROWS(m, rows)                                                                       \
    }
#define BF16_ROWS(n) bf16_rows(panel, padded(n_cols), tile, out, ld, a, n)
#define FP8_ROWS(n) fp8_rows(panel, padded(n_cols), tile, out, ld, a, false, n)
#define WIDE_FP8_ROWS(n) fp8_rows(panel, padded(n_cols), tile, out, ld, a, true, n)
#define F32_ROWS(n) float_rows(panel, padded(n_cols), tile, out, ld, a, false, n)
#define F16_ROWS(n) float_rows(panel, padded(n_cols), tile, out, ld, a, true, n)
FLOAT_TILE(tile_bf16, 2, BF16_ROWS)
FLOAT_TILE(tile_fp8, 2, FP8_ROWS)
FLOAT_TILE(wide_fp8, 2, WIDE_FP8_ROWS)
FLOAT_TILE(tile_f32, 1, F32_ROWS)
FLOAT_TILE(tile_f16, 1, F16_ROWS)

void RUNG(float)(struct lodge_cpu_kernels *k)
{
    k->gemm[LODGE_FMT_F32] = (struct lodge_gemm){MAX_ROWS, pack_F32, tile_f32, gather_F32};
    k->gemm[LODGE_FMT_F16] = (struct lodge_gemm){MAX_ROWS, pack_F16, tile_f16, gather_F16};
    k->gemm[LODGE_FMT_BF16] = (struct lodge_gemm){MAX_ROWS, pack_BF16, tile_bf16, gather_BF16};
    k->gemm[LODGE_FMT_F8_E4M3] =
        (struct lodge_gemm){MAX_ROWS, pack_F8_E4M3, tile_fp8, gather_F8_E4M3, widen_fp8, wide_fp8};
}
