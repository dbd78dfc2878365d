/* Adapters: t = A x over cells of A, acc += B t over blocks of B. Bound: bytes of the cells while
 * an adapter has few rows; at many, one dot instruction (shrink) and two multiply-adds (expand) for
 * 16 columns of a row and rank. */
#include "kernels/x86/vec.h"

/* Rows of one pass over a cell, 4 chains each in registers. */
#if LANES == 16
#define SHRINK_ROWS 6
#define SWITCH_SHRINK SWITCH_ROWS_6
#else
#define SHRINK_ROWS 2
#define SWITCH_SHRINK SWITCH_ROWS_2
#endif

INLINE void shrink_rows(const uint8_t *const *cells, uint32_t n_lines, const uint16_t *x,
                        size_t ldx, float (*chains)[4][16], const bool first, const uint32_t part,
                        const unsigned m)
{
    vec acc[SHRINK_ROWS][4];
#pragma GCC unroll 6
    for (unsigned i = 0; i < m; i++)
#pragma GCC unroll 4
        for (int q = 0; q < 4; q++)
            acc[i][q] = first ? v_set(0) : v_load(&chains[i][q][part * LANES]);
    for (; n_lines; cells++) {
        uint32_t n = n_lines < 64 ? n_lines : 64;
        const uint8_t *cell = *cells + part * LANES * 4;
        n_lines -= n;
        for (uint32_t l = 0; l < n; l += 4, cell += 256, x += 16) {
#pragma GCC unroll 4
            for (int q = 0; q < 4; q++) {
                pairs w = load_pairs(cell + q * 64, UINT32_MAX);
#pragma GCC unroll 6
                for (unsigned i = 0; i < m; i++)
                    acc[i][q] = dot_pairs(acc[i][q], w, load_quad(x + i * ldx + q * 4));
            }
        }
    }
#pragma GCC unroll 6
    for (unsigned i = 0; i < m; i++)
#pragma GCC unroll 4
        for (int q = 0; q < 4; q++)
            v_store(&chains[i][q][part * LANES], acc[i][q]);
}

static void lora_shrink(const uint8_t *const *cells, uint32_t n_lines, const uint16_t *x,
                        size_t ldx, unsigned m, bool first, lodge_lora_chains chains)
{
    for (unsigned i = 0; i < m; i += SHRINK_ROWS)
        for (uint32_t part = 0; part < VECS16; part++) {
            unsigned n = m - i < SHRINK_ROWS ? m - i : SHRINK_ROWS;
#define CALL(rows) shrink_rows(cells, n_lines, x + i * ldx, ldx, chains + i, first, part, rows)
            SWITCH_SHRINK(n, CALL)
#undef CALL
        }
}

static void lora_sum(const lodge_lora_chains chains, unsigned m, float *t, size_t ldt)
{
    for (unsigned i = 0; i < m; i++) {
        vec s[VECS16];
        for (uint32_t p = 0; p < VECS16; p++) {
            const float *c = chains[i][0] + p * LANES;
            s[p] = v_add(v_add(v_load(c), v_load(c + 16)), v_add(v_load(c + 32), v_load(c + 48)));
        }
        store_pair_sums(t + i * ldt, s);
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
            _mm_prefetch((const char *)b + LODGE_LORA_BLOCK_BYTES, _MM_HINT_T0);
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
    uint32_t left0 = left_of(e->n_cols, part * LANES),
             left1 = left_of(e->n_cols, 16 + part * LANES);
    float *y = e->y + first * e->ld + part * LANES;
#pragma GCC unroll 12
    for (unsigned i = 0; i < m; i++, y += e->ld) {
        vec s = v_set(e->scale);
        v_store_tail(y, left0, v_fma(s, acc[i][0], v_load_tail(y, left0)));
        v_store_tail(y + 16, left1, v_fma(s, acc[i][1], v_load_tail(y + 16, left1)));
    }
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
