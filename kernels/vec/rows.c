/* Row operations: packing of activations, norms, activations, rotation, caches, and passes over
 * logits. Bound: bytes of the rows, which are in cache. */
#include "kernels/vec/vec.h"

static void pack_f32(const float *x, size_t ld, unsigned m, uint32_t k0, uint32_t k1,
                     uint32_t n_cols, void *tile)
{
    float *t = (float *)tile + (size_t)k0 * m;
    uint32_t end = k1 == n_cols ? padded(n_cols) : k1;
    for (uint32_t k = k0; k < end; k += TILE_RUN)
        for (unsigned i = 0; i < m; i++, t += TILE_RUN) {
            const float *row = x + i * ld + (k - k0);
            if (k + TILE_RUN <= k1)
                memcpy(t, row, TILE_RUN * sizeof *t);
            else
                for (uint32_t j = 0; j < TILE_RUN; j++)
                    t[j] = k + j < k1 ? row[j] : 0;
        }
}

static void pack_bf16(const float *x, size_t ld, unsigned m, uint32_t k0, uint32_t k1,
                      uint32_t n_cols, void *tile)
{
    pair *t = (pair *)tile + (size_t)k0 / 2 * m;
    uint32_t end = k1 == n_cols ? padded(n_cols) : k1;
    for (uint32_t k = k0; k < end; k += 16)
        for (unsigned i = 0; i < m; i++, t += TILE_RUN) {
            uint16_t half[16];
            for (uint32_t j = 0; j < 16; j += LANES)
                store_bf16(half + j, v_load_tail(x + i * ld + (k - k0) + j, left_of(k1, k + j)));
            const pair *row = as_pairs(half, 16, t);
            if (row != t)
                memcpy(t, row, TILE_RUN * sizeof *t);
        }
}

/* Blocks of rows on their way into a Q8 tile. */
struct q8_run {
    const float *x; /* of the first block and row */
    size_t ld;
    uint32_t block, n_blocks; /* of the tile */
    unsigned row, n_rows, m;  /* rows of the m of the tile */
    uint32_t *tile;
};

/* Block b of row i, of which `left` columns are there. */
INLINE void load_block(const struct q8_run *r, uint32_t b, unsigned i, const uint32_t left,
                       vec x[VECS32])
{
    for (uint32_t j = 0; j < VECS32; j++)
        x[j] = v_load_tail(r->x + i * r->ld + 32 * b + LANES * j, left_of(left, LANES * j));
}

/* All maxima before all codes: one block after the other would wait for each. */
#define Q8_RUN 32 /* blocks, of all rows of a tile at least one */
INLINE void pack_run(const struct q8_run *r, const uint32_t left)
{
    float most[Q8_RUN] = {0}, inverse[Q8_RUN], *to = most;
    vec x[VECS32];
    for (uint32_t b = 0; b < r->n_blocks; b++)
        for (unsigned i = 0; i < r->n_rows; i++) {
            load_block(r, b, i, left, x);
            vec v = v_abs(x[0]);
            for (uint32_t j = 1; j < VECS32; j++)
                v = v_max(v, v_abs(x[j]));
            *to++ = v_most(v);
        }
    for (uint32_t n = 0; n < r->n_blocks * r->n_rows; n += LANES) {
        vec v = v_load(most + n);
        v_store(inverse + n, v_where_above(v, v_set(0), v_div(v_set(127), v)));
        v_store(most + n, v_div(v, v_set(127)));
    }
    const float *scale = most, *by = inverse;
    for (uint32_t b = 0; b < r->n_blocks; b++)
        for (unsigned i = 0; i < r->n_rows; i++) {
            load_block(r, b, i, left, x);
            codes32 c = codes_from(x, v_set(*by++));
            q8_put(r->tile, r->block + b, r->row + i, r->m, c, *scale++);
        }
}

static void pack_q8(const float *x, size_t ld, unsigned m, uint32_t k0, uint32_t k1,
                    uint32_t n_cols, void *tile)
{
    uint32_t end = k1 == n_cols ? padded(n_cols) : k1;
    struct q8_run r = {.ld = ld, .m = m, .tile = tile};
    for (r.block = k0 / 32; r.block < end / 32; r.block += r.n_blocks) {
        uint32_t left = k1 - r.block * 32, most = Q8_RUN / m;
        r.x = x + (r.block * 32 - k0);
        r.row = 0;
        r.n_rows = m;
        r.n_blocks = left < 32 ? 1 : left / 32 < most ? left / 32 : most;
        if (left < 32)
            pack_run(&r, left);
        else /* no masks */
            pack_run(&r, 32);
        /* Where rows stand in pairs, the last of an odd number has zeros beside it. */
        r.row = m;
        r.n_rows = 1;
        if (m % ACT_ROWS)
            pack_run(&r, 0);
    }
}

static void rms_norm(const float *x, const float *w, uint32_t n, float eps, float *out)
{
    vec lanes[VECS16];
    for (uint32_t j = 0; j < VECS16; j++)
        lanes[j] = v_set(0);
    for (uint32_t i = 0; i < n; i += 16)
        for (uint32_t j = 0; j < VECS16; j++) {
            vec v = v_load_tail(x + i + LANES * j, left_of(n, i + LANES * j));
            lanes[j] = v_fma(v, v, lanes[j]);
        }
    vec factor = v_set(1.0f / sqrtf(tree16(lanes) / (float)n + eps));
    for (uint32_t i = 0; i < n; i += LANES) {
        vec v = v_mul(v_load_tail(x + i, n - i), factor);
        v_store_tail(out + i, n - i, v_mul(v, w ? v_load_tail(w + i, n - i) : v_set(1.0f)));
    }
}

static void layer_norm(const float *x, const float *w, const float *b, uint32_t n, float eps,
                       float *out)
{
    vec sums[VECS16], squares[VECS16];
    for (uint32_t j = 0; j < VECS16; j++)
        sums[j] = squares[j] = v_set(0);
    for (uint32_t i = 0; i < n; i += 16)
        for (uint32_t j = 0; j < VECS16; j++) {
            uint32_t at = i + LANES * j;
            sums[j] = v_add(sums[j], v_load_tail(x + at, left_of(n, at)));
        }
    const vec mean = v_set(tree16(sums) / (float)n);
    for (uint32_t i = 0; i < n; i += 16)
        for (uint32_t j = 0; j < VECS16; j++) {
            uint32_t at = i + LANES * j, left = left_of(n, at);
            vec y = v_first(v_sub(v_load_tail(x + at, left), mean), left, v_set(0));
            squares[j] = v_fma(y, y, squares[j]);
        }
    const vec factor = v_set(1.0f / sqrtf(tree16(squares) / (float)n + eps));
    for (uint32_t i = 0; i < n; i += LANES) {
        vec y = v_mul(v_sub(v_load_tail(x + i, n - i), mean), factor);
        y = v_mul(y, w ? v_load_tail(w + i, n - i) : v_set(1.0f));
        v_store_tail(out + i, n - i, b ? v_add(y, v_load_tail(b + i, n - i)) : y);
    }
}

INLINE vec gelu_tanh(vec x)
{
    vec cube = v_mul(v_mul(x, x), x);
    vec in = v_add(x, v_mul(v_set(0.044715f), cube));
    vec t = v_tanh(v_mul(v_set(0.797884561f), in));
    return v_mul(v_mul(v_set(0.5f), x), v_add(v_set(1.0f), t));
}

INLINE vec silu(vec x)
{
    return v_div(x, v_add(v_set(1.0f), v_exp(v_negate(x))));
}

static void glu(enum lodge_activation act, float *g, const float *u, size_t n)
{
    if (act == LODGE_ACT_GELU) { /* erf has no vector form here */
        for (size_t i = 0; i < n; i++)
            g[i] = 0.5f * g[i] * (1.0f + erff(g[i] * 0.707106781f)) * (u ? u[i] : 1.0f);
        return;
    }
    for (size_t i = 0; i < n; i += LANES) {
        uint32_t left = n - i < LANES ? (uint32_t)(n - i) : LANES;
        vec x = v_load_tail(g + i, left);
        x = act == LODGE_ACT_SILU ? silu(x) : gelu_tanh(x);
        v_store_tail(g + i, left, u ? v_mul(x, v_load_tail(u + i, left)) : x);
    }
}

static void add_block(float *x, size_t ldx, const float *y, size_t ldy, const float *b, float mult,
                      unsigned m, uint32_t n)
{
    const vec factor = v_set(mult);
    for (unsigned i = 0; i < m; i++, x += ldx, y += ldy)
        for (uint32_t j = 0; j < n; j += LANES) {
            vec v = v_load_tail(y + j, n - j);
            if (b)
                v = v_add(v, v_load_tail(b + j, n - j));
            v_store_tail(x + j, n - j, v_add(v_load_tail(x + j, n - j), v_mul(factor, v)));
        }
}

static void cap(float *x, size_t ld, float mult, float c, unsigned m, uint32_t n)
{
    const vec factor = v_set(mult), most = v_set(c);
    for (unsigned i = 0; i < m; i++, x += ld)
        for (uint32_t j = 0; j < n; j += LANES) {
            vec s = v_mul(v_load_tail(x + j, n - j), factor);
            v_store_tail(x + j, n - j, c > 0 ? v_mul(most, v_tanh(v_div(s, most))) : s);
        }
}

static void rope(float *head, const float *cos, const float *sin, uint32_t n)
{
    for (uint32_t i = 0; i < n; i += LANES) {
        uint32_t left = n - i;
        vec a = v_load_tail(head + i, left), b = v_load_tail(head + n + i, left);
        vec c = v_load_tail(cos + i, left), s = v_load_tail(sin + i, left);
        v_store_tail(head + i, left, v_sub(v_mul(a, c), v_mul(b, s)));
        v_store_tail(head + n + i, left, v_add(v_mul(b, c), v_mul(a, s)));
    }
}

static void to_bf16(const float *x, uint32_t dim, uint32_t dim_padded, uint16_t *out)
{
    for (uint32_t i = 0; i < dim_padded; i += LANES)
        store_bf16(out + i, v_load_tail(x + i, left_of(dim, i)));
}

static void kv_store_bf16(uint8_t *kv_head, uint32_t t, const float *k, const float *v,
                          uint32_t dim)
{
    uint32_t dp = lodge_kv_dim(dim);
    uint32_t *keys = (uint32_t *)(void *)kv_head;
    uint16_t *values = (uint16_t *)(void *)kv_head + (size_t)dp * 32;
    for (uint32_t d = 0; d < dp; d += 16) {
        uint16_t half[16];
        to_bf16(k + d, left_of(dim, d), 16, half);
        for (uint32_t j = 0; j < 8; j++)
            memcpy(&keys[(size_t)(d / 2 + j) * 32 + t], &half[2 * j], 4);
        to_bf16(v + d, left_of(dim, d), 16, half);
        uint16_t *to = values + lodge_kv_value_at(dp, d, t, 2);
        for (uint32_t j = 0; j < 16; j++)
            to[2 * j] = half[j];
    }
}

/* A head, padded and rotated as kernels/cpu/kernels.h says. */
static void rotate(const float *from, uint32_t dim, float *x)
{
    uint32_t dp = lodge_kv_dim(dim), block = lodge_kv_block(dp);
    for (uint32_t i = 0; i < dp; i += LANES) {
        vec v = v_load_tail(from + i, left_of(dim, i));
        v = v_butterfly(v_butterfly(v_butterfly(v, 1), 2), 4);
        v_store(x + i, LANES > 8 ? v_butterfly(v, LANES / 2) : v);
    }
    for (uint32_t h = LANES; h < block; h *= 2)
        for (uint32_t i = 0; i < dp; i += i % h + LANES < h ? LANES : LANES + h) {
            vec a = v_load(x + i), b = v_load(x + i + h);
            v_store(x + i, v_add(a, b));
            v_store(x + i + h, v_sub(a, b));
        }
}

/* A query's codes, then what their sums start from and what one of them is. The total of codes is
 * exact in floats too. */
static void query_int8(const float *q, uint32_t dim, uint8_t *out)
{
    uint32_t dp = lodge_kv_dim(dim);
    float x[LODGE_HEAD_DIM_MAX];
    code4 *codes = (code4 *)(void *)out;
    vec most = v_set(0), totals[VECS16];
    rotate(q, dim, x);
    for (uint32_t d = 0; d < dp; d += LANES)
        most = v_max(v_abs(v_load(x + d)), most);
    for (uint32_t j = 0; j < VECS16; j++)
        totals[j] = v_set(0);
    float amax = v_most(most);
    const vec inverse = v_set(inverse15(amax));
    for (uint32_t d = 0; d < dp; d += LANES) {
        vec c = v_mul(v_load(x + d), inverse);
        store_codes15(codes + d / 4, c);
        totals[0] = v_add(totals[0], v_round(c));
    }
    struct query_tail tail = {SUM_START * (int32_t)tree16(totals),
                              amax / LODGE_CODE15_MAX / (float)lodge_kv_block(dp)};
    memcpy(codes + dp / 4, &tail, sizeof tail);
}

static void query_bf16(const float *q, uint32_t dim, uint8_t *out)
{
    to_bf16(q, dim, lodge_kv_dim(dim), (uint16_t *)(void *)out);
}

/* Codes of dim numbers, zeros after them up to a multiple of 32; returns their scale. */
static uint16_t quantize(const float *x, uint32_t dim, uint8_t *codes)
{
    vec most = v_set(0);
    for (uint32_t d = 0; d < dim; d += LANES)
        most = v_max(v_abs(v_load_tail(x + d, dim - d)), most);
    uint16_t scale = lodge_kv_scale(v_most(most));
    const vec inverse = v_set(scale ? 1.0f / lodge_bf16_float(scale) : 0);
    for (uint32_t d = 0; d < dim; d += 32) {
        vec part[VECS32];
        for (uint32_t j = 0; j < VECS32; j++)
            part[j] = v_load_tail(x + d + LANES * j, left_of(dim, d + LANES * j));
        store_codes(codes + d, codes_from(part, inverse));
    }
    return scale;
}

static void kv_store_int8(uint8_t *kv_head, uint32_t t, const float *k, const float *v,
                          uint32_t dim)
{
    uint32_t dp = lodge_kv_dim(dim);
    uint16_t *scales = (uint16_t *)(void *)kv_head;
    uint8_t *keys = kv_head + 4 * PAGE, *values = keys + (size_t)dp * PAGE;
    uint8_t codes[LODGE_HEAD_DIM_MAX];
    float rotated[LODGE_HEAD_DIM_MAX];
    rotate(k, dim, rotated);
    scales[t] = quantize(rotated, dp, codes);
    for (uint32_t d = 0; d < dp; d += 4)
        memcpy(keys + ((size_t)(d / 4) * PAGE + t) * 4, codes + d, 4);
    scales[PAGE + t] = quantize(v, dim, codes);
    for (uint32_t d = 0; d < dp; d++)
        values[lodge_kv_value_at(dp, d, t, 4)] = codes[d];
}

void RUNG(rows)(struct lodge_cpu_kernels *k)
{
    k->act_pack[LODGE_ACT_F32] = pack_f32;
    k->act_pack[LODGE_ACT_BF16] = pack_bf16;
    k->act_pack[LODGE_ACT_Q8] = pack_q8;
    k->rms_norm = rms_norm;
    k->layer_norm = layer_norm;
    k->glu = glu;
    k->add_block = add_block;
    k->cap = cap;
    k->rope = rope;
    k->to_bf16 = to_bf16;
    k->kv[LODGE_KV_BF16].query = query_bf16;
    k->kv[LODGE_KV_INT8].query = query_int8;
    k->kv[LODGE_KV_BF16].store = kv_store_bf16;
    k->kv[LODGE_KV_INT8].store = kv_store_int8;
}
