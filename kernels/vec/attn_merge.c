/* States of attention: those of several ranges of tokens joined, and what comes out of one. */
#include "kernels/vec/vec.h"

static void scale_and_add(float *to, vec a, const float *other, vec b, uint32_t n)
{
    for (uint32_t d = 0; d < n; d += LANES)
        v_store(to + d, v_add(v_mul(v_load(to + d), a), v_mul(v_load(other + d), b)));
}

static void attn_merge(struct lodge_attn_state *to, const struct lodge_attn_state *other,
                       uint32_t n, uint32_t dim)
{
    for (uint32_t i = 0; i < n; i += LANES) {
        float scale[2][LANES];
        uint32_t left = n - i < LANES ? n - i : LANES;
        vec mine = v_load_tail(to->max + i, left), its = v_load_tail(other->max + i, left);
        vec max = v_max(its, mine);
        vec a = v_exp(v_sub(mine, max)), b = v_exp(v_sub(its, max));
        vec sum = v_add(v_mul(v_load_tail(to->sum + i, left), a),
                        v_mul(v_load_tail(other->sum + i, left), b));
        v_store_tail(to->sum + i, left, sum);
        v_store_tail(to->max + i, left, max);
        v_store(scale[0], a);
        v_store(scale[1], b);
        for (uint32_t j = 0; j < left; j++)
            scale_and_add(to->acc + (i + j) * dim, v_set(scale[0][j]), other->acc + (i + j) * dim,
                          v_set(scale[1][j]), dim);
    }
}

static void attn_end(const struct lodge_attn_state *s, uint32_t first, uint32_t n, uint32_t dim,
                     uint32_t head_dim, float *out)
{
    const float *acc = s->acc + (size_t)first * dim;
    for (uint32_t i = first; i < first + n; i++, acc += dim, out += head_dim) {
        vec inverse = v_set(s->sum[i] > 0 ? 1.0f / s->sum[i] : 0);
        uint32_t d = 0;
        for (; d + LANES <= head_dim; d += LANES)
            v_store(out + d, v_mul(v_load(acc + d), inverse));
        if (d < head_dim)
            v_store_tail(out + d, head_dim - d, v_mul(v_load(acc + d), inverse));
    }
}

void RUNG(attention_merge)(struct lodge_cpu_kernels *k)
{
    k->attn_merge = attn_merge;
    k->attn_end = attn_end;
}
