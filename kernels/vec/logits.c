/* Passes over logits for the sampler (kernels/sample.h). Bound: one read of the row; the random
 * words have two multiplications a word. */
#include "kernels/vec/counters.h"
#include "kernels/vec/vec.h"

static double exp_sum(const float *x, uint32_t n, float scale, float most)
{
    sum16 sum = {0};
    const vec factor = v_set(scale), base = v_set(most);
    for (uint32_t i = 0; i < n; i += 16) {
        vec e[VECS16];
        for (uint32_t j = 0; j < VECS16; j++) {
            uint32_t left = left_of(n, i + LANES * j);
            e[j] = v_exp(v_sub(v_mul(v_load_tail(x + i + LANES * j, left), factor), base));
            e[j] = v_first(e[j], left, v_set(0));
        }
        sum16_add(&sum, e);
    }
    return sum16_total(&sum);
}

static void block_most(const float *x, size_t ld, unsigned m, uint32_t n, float *most,
                       size_t ld_most)
{
    const uint32_t whole = n / LODGE_LOGIT_BLOCK * LODGE_LOGIT_BLOCK;
    for (unsigned r = 0; r < m; r++, x += ld, most += ld_most) {
        for (uint32_t i = 0; i < whole; i += LODGE_LOGIT_BLOCK) {
            vec v = v_set(-INFINITY);
            for (uint32_t j = 0; j < VECS32; j++)
                v = v_max(v_load(x + i + LANES * j), v);
            most[i / LODGE_LOGIT_BLOCK] = v_most(v);
        }
        vec v = v_set(-INFINITY);
        for (uint32_t i = whole; i < n; i += LANES)
            v = v_max(v_first(v_load_tail(x + i, n - i), n - i, v_set(-INFINITY)), v);
        if (whole < n)
            most[whole / LODGE_LOGIT_BLOCK] = v_most(v);
    }
}

/* The words of 4 * COUNTERS ids: word k of counter j in lane j of w[k]. */
INLINE void philox(uint64_t key, uint32_t first, uint32_t position, uint32_t choice, counters w[4])
{
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    w[0] = c_rising(first);
    w[1] = c_set(position);
    w[2] = c_set(choice);
    w[3] = c_set(0);
    for (int round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
        counters a = c_mul(w[0], 0xD2511F53u), b = c_mul(w[2], 0xCD9E8D57u);
        w[0] = c_xor(c_xor(c_high(b), w[1]), c_set(k0));
        w[2] = c_xor(c_xor(c_high(a), w[3]), c_set(k1));
        w[1] = b;
        w[3] = a;
    }
}

static uint32_t words(const struct lodge_sampling *s, uint32_t position, uint32_t block,
                      uint32_t n_blocks, const uint32_t *need, struct lodge_word *out)
{
    uint32_t n = 0, first = block * LODGE_LOGIT_BLOCK, end = first + n_blocks * LODGE_LOGIT_BLOCK;
    for (uint32_t id = first; id < end; id += 4 * COUNTERS) {
        counters w[4];
        uint32_t least = need[(id - first) / LODGE_LOGIT_BLOCK];
        philox(s->seed, id / 4, position, s->choice, w);
        if (!c_any(c_most(c_most(w[0], w[1]), c_most(w[2], w[3])), least))
            continue;
        uint64_t lanes[4][COUNTERS];
        for (uint32_t k = 0; k < 4; k++)
            c_store(lanes[k], w[k]);
        for (uint32_t i = 0; i < 4 * COUNTERS; i++)
            if ((uint32_t)lanes[i % 4][i / 4] >= least)
                out[n++] = (struct lodge_word){id + i, (uint32_t)lanes[i % 4][i / 4]};
    }
    return n;
}

void RUNG(logits)(struct lodge_cpu_kernels *k)
{
    k->row = (struct lodge_row_ops){exp_sum, block_most, words};
}
