/* Products with F32, F16 and BF16 weights: output rows in two vectors, up to MAX_ROWS rows of
 * activations in registers. Bound: bytes of the panel at few rows; 2 multiply-add or dot
 * instructions a cycle at many. */
#include "kernels/cpu/panel.h"
#include "kernels/x86/vec.h"

LODGE_PANEL_FORMAT(F32, SIDE, 0)
LODGE_PANEL_FORMAT(F16, SIDE, 0)
LODGE_PANEL_FORMAT(BF16, SIDE, 0)

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

/* Steps of the column loop between two fetches of the next panel. */
#define STRETCH 8u

INLINE void bf16_rows(const uint8_t *panel, uint32_t kp, const pair *t, float *out, size_t ld,
                      struct ahead next, const unsigned m)
{
    for (uint32_t r = 0; r < LODGE_PANEL_ROWS; r += SIDE) {
        vec acc[MAX_ROWS][2];
        clear(acc, m);
        for (uint32_t k = 0; k < kp / 2; k += STRETCH, panel += STRETCH * SIDE * 4) {
            fetch_step(&next);
            dot_block(panel, SIDE * 4, STRETCH, NULL, t + (size_t)k * m, 1, m, acc, m, 2);
        }
        store(acc, m, out + r, ld);
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
        for (uint32_t k = 0; k < kp; k++, panel += step, t += m) {
            const uint8_t *second = panel + step / 2;
            vec w0 = half ? load_half(panel) : v_load((const float *)(const void *)panel);
            vec w1 = half ? load_half(second) : v_load((const float *)(const void *)second);
            if (k % STRETCH == 0)
                fetch_step(&next);
#pragma GCC unroll 12
            for (unsigned i = 0; i < m; i++) {
                vec x = v_set(t[i]);
                acc[i][0] = v_fma(w0, x, acc[i][0]);
                acc[i][1] = v_fma(w1, x, acc[i][1]);
            }
        }
        store(acc, m, out + r, ld);
    }
}

/* Fetches during one tile: a step each STRETCH columns (or pairs) of each sub-panel. */
INLINE uint32_t n_steps(uint32_t n_cols, uint32_t cols)
{
    return padded(n_cols) / (STRETCH * cols) * (LODGE_PANEL_ROWS / SIDE);
}

static void tile_bf16(const void *panel, uint32_t n_cols, const void *tile, unsigned m, float *out,
                      size_t ld, const void *next, size_t next_bytes)
{
    struct ahead a = ahead_of(next, next_bytes, n_steps(n_cols, 2));
#define CALL(n) bf16_rows(panel, padded(n_cols), tile, out, ld, a, n)
    SWITCH_ROWS(m, CALL)
#undef CALL
}

static void tile_f32(const void *panel, uint32_t n_cols, const void *tile, unsigned m, float *out,
                     size_t ld, const void *next, size_t next_bytes)
{
    struct ahead a = ahead_of(next, next_bytes, n_steps(n_cols, 1));
#define CALL(n) float_rows(panel, padded(n_cols), tile, out, ld, a, false, n)
    SWITCH_ROWS(m, CALL)
#undef CALL
}

static void tile_f16(const void *panel, uint32_t n_cols, const void *tile, unsigned m, float *out,
                     size_t ld, const void *next, size_t next_bytes)
{
    struct ahead a = ahead_of(next, next_bytes, n_steps(n_cols, 1));
#define CALL(n) float_rows(panel, padded(n_cols), tile, out, ld, a, true, n)
    SWITCH_ROWS(m, CALL)
#undef CALL
}

void RUNG(float)(struct lodge_cpu_kernels *k)
{
    k->gemm[LODGE_FMT_F32] = (struct lodge_gemm){MAX_ROWS, pack_F32, tile_f32, gather_F32};
    k->gemm[LODGE_FMT_F16] = (struct lodge_gemm){MAX_ROWS, pack_F16, tile_f16, gather_F16};
    k->gemm[LODGE_FMT_BF16] = (struct lodge_gemm){MAX_ROWS, pack_BF16, tile_bf16, gather_BF16};
}
