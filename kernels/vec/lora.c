/* Adapters: t = A x over cells of A, acc += B t over blocks of B. Bound: bytes of the cells while
 * an adapter has few rows; at many, one dot instruction (shrink) and two multiply-adds (expand) for
 * 16 columns of a row and rank. */
#include "kernels/vec/vec.h"

/* Bytes that are fetched before they are used. Cells of a row mostly lie one after another; where
 * they do not, what is fetched in vain is a kilobyte or two. */
#define AHEAD 4096

/* Rows of one pass over cells, 2 chains a granule each in registers. */
#if LANES == 16
#define SHRINK_ROWS 6
#define SWITCH_SHRINK SWITCH_ROWS_6
#else
#define SHRINK_ROWS 2
#define SWITCH_SHRINK SWITCH_ROWS_2
#endif

INLINE void shrink_cell(const uint8_t *const cell[2], uint32_t n, const uint16_t *x, size_t ldx,
                        vec acc[][2][2], const unsigned granules, const unsigned m)
{
    const uint8_t *a = cell[0], *b = cell[granules - 1];
    for (uint32_t l = 0; l < n; l += 2, a += 128, b += 128, x += 8) {
#pragma GCC unroll 2
        for (int q = 0; q < 2; q++) {
            fetch(a + q * 64 + AHEAD);
            pairs w0 = load_pairs(a + q * 64, UINT32_MAX), w1 = w0;
            if (granules > 1) {
                fetch(b + q * 64 + AHEAD);
                w1 = load_pairs(b + q * 64, UINT32_MAX);
            }
#pragma GCC unroll 6
            for (unsigned i = 0; i < m; i++) {
                pairs v = load_quad(x + i * ldx + q * 4);
                acc[i][0][q] = dot_pairs(acc[i][0][q], w0, v);
                if (granules > 1)
                    acc[i][1][q] = dot_pairs(acc[i][1][q], w1, v);
            }
        }
    }
}

INLINE void shrink_rows(const uint8_t *const *const cells[2], uint32_t n_lines, const uint16_t *x,
                        size_t ldx, float (*chains)[2][2][16], const bool first,
                        const uint32_t part, const unsigned granules, const unsigned m)
{
    vec acc[SHRINK_ROWS][2][2];
#pragma GCC unroll 6
    for (unsigned i = 0; i < m; i++)
#pragma GCC unroll 2
        for (unsigned g = 0; g < granules; g++)
#pragma GCC unroll 2
            for (int q = 0; q < 2; q++)
                acc[i][g][q] = first ? v_set(0) : v_load(&chains[i][g][q][part * LANES]);
    for (uint32_t at = 0; at < n_lines; at += 64) {
        uint32_t n = n_lines - at < 64 ? n_lines - at : 64;
        const uint8_t *const cell[2] = {cells[0][at / 64] + part * LANES * 4,
                                        cells[granules - 1][at / 64] + part * LANES * 4};
        shrink_cell(cell, n, x + at * 4, ldx, acc, granules, m);
    }
#pragma GCC unroll 6
    for (unsigned i = 0; i < m; i++)
#pragma GCC unroll 2
        for (unsigned g = 0; g < granules; g++)
#pragma GCC unroll 2
            for (int q = 0; q < 2; q++)
                v_store(&chains[i][g][q][part * LANES], acc[i][g][q]);
}

static void lora_shrink(const uint8_t *const *const cells[2], unsigned granules, uint32_t n_lines,
                        const uint16_t *x, size_t ldx, unsigned m, bool first,
                        lodge_lora_chains chains)
{
    for (unsigned i = 0; i < m; i += SHRINK_ROWS)
        for (uint32_t part = 0; part < VECS16; part++) {
            unsigned n = m - i < SHRINK_ROWS ? m - i : SHRINK_ROWS;
#define CALL(rows) shrink_rows(cells, n_lines, x + i * ldx, ldx, chains + i, first, part, 1, rows)
#define CALL2(rows) shrink_rows(cells, n_lines, x + i * ldx, ldx, chains + i, first, part, 2, rows)
            if (granules == 1) {
                SWITCH_SHRINK(n, CALL)
            } else {
                SWITCH_SHRINK(n, CALL2)
            }
#undef CALL
#undef CALL2
        }
}

static void lora_sum(const lodge_lora_chains chains, unsigned granules, unsigned m, float *t,
                     size_t ldt)
{
    for (unsigned i = 0; i < m * granules; i++) {
        const float *c = chains[i / granules][i % granules][0];
        vec s[VECS16];
        for (uint32_t p = 0; p < VECS16; p++)
            s[p] = v_add(v_load(c + p * LANES), v_load(c + 16 + p * LANES));
        store_pair_sums(t + i / granules * ldt + i % granules * 8, s);
    }
}

/* y = fma(scale, acc, y). Whole blocks without masks: what is stored by a mask cannot be forwarded
 * to the loads that follow. */
INLINE void add_rows(const struct lodge_lora_expand *e, unsigned first, const uint32_t part,
                     vec acc[][2], const unsigned m)
{
    float *y = e->y + first * e->ld + part * LANES;
    vec s = v_set(e->scale);
    if (e->n_cols == 32) {
#pragma GCC unroll 12
        for (unsigned i = 0; i < m; i++, y += e->ld) {
            v_store(y, v_fma(s, acc[i][0], v_load(y)));
            v_store(y + 16, v_fma(s, acc[i][1], v_load(y + 16)));
        }
        return;
    }
    uint32_t left0 = left_of(e->n_cols, part * LANES),
             left1 = left_of(e->n_cols, 16 + part * LANES);
#pragma GCC unroll 12
    for (unsigned i = 0; i < m; i++, y += e->ld) {
        v_store_tail(y, left0, v_fma(s, acc[i][0], v_load_tail(y, left0)));
        v_store_tail(y + 16, left1, v_fma(s, acc[i][1], v_load_tail(y + 16, left1)));
    }
}

INLINE void expand_rows(const struct lodge_lora_expand *e, unsigned first, const uint32_t part,
                        const unsigned m)
{
    const float *t = e->t + first * e->ldt;
    float *out = e->acc ? e->acc + first * 32 + part * LANES : NULL;
    vec acc[MAX_ROWS][2];
#pragma GCC unroll 12
    for (unsigned i = 0; i < m; i++) {
        acc[i][0] = out ? v_load(out + i * 32) : v_set(0);
        acc[i][1] = out ? v_load(out + i * 32 + 16) : v_set(0);
    }
    for (unsigned g = 0; g < e->n; g++, t += 8) {
        const uint8_t *b = e->blocks[g] + part * LANES * 4;
        for (uint32_t j = 0; j < 8; j++, b += 64) {
            pairs w = load_pairs(b, UINT32_MAX);
            vec low = even_of(w), high = odd_of(w);
            fetch(b + LODGE_LORA_BLOCK_BYTES);
#pragma GCC unroll 12
            for (unsigned i = 0; i < m; i++) {
                vec x = v_set(t[i * e->ldt + j]);
                acc[i][0] = v_fma(low, x, acc[i][0]);
                acc[i][1] = v_fma(high, x, acc[i][1]);
            }
        }
    }
    if (out) {
#pragma GCC unroll 12
        for (unsigned i = 0; i < m; i++) {
            v_store(out + i * 32, acc[i][0]);
            v_store(out + i * 32 + 16, acc[i][1]);
        }
        return;
    }
    add_rows(e, first, part, acc, m);
}

static void lora_expand(const struct lodge_lora_expand *e)
{
    for (unsigned i = 0; i < e->m; i += MAX_ROWS)
        for (uint32_t part = 0; part < VECS16; part++) {
            unsigned rows = e->m - i < MAX_ROWS ? e->m - i : MAX_ROWS;
#define CALL(r) expand_rows(e, i, part, r)
            SWITCH_ROWS(rows, CALL)
#undef CALL
        }
}

static void lora_add(float *y, size_t ld, const float *acc, const float *base, const float *gain,
                     float scale, unsigned m, uint32_t n)
{
    vec s = v_set(scale), one = v_set(1);
    for (unsigned i = 0; i < m; i++)
        for (uint32_t j = 0; j < n; j += LANES) {
            uint32_t left = n - j;
            vec out = v_load_tail(y + i * ld + j, left), delta = v_load(acc + i * 32 + j);
            if (gain) {
                vec g = v_load_tail(gain + j, left), w = v_load(base + i * 32 + j);
                out = v_fma(g, v_mul(s, delta), v_fma(v_sub(g, one), w, out));
            } else {
                out = v_fma(s, delta, out);
            }
            v_store_tail(y + i * ld + j, left, out);
        }
}

void RUNG(lora)(struct lodge_cpu_kernels *k)
{
    k->lora_shrink = lora_shrink;
    k->lora_sum = lora_sum;
    k->lora_expand = lora_expand;
    k->lora_add = lora_add;
}
