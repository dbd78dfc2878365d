/* The reference rung: plain C, one obvious loop an operation. It defines the bits. One file, as it
 * is read beside kernels/cpu/kernels.h, whose table it spells out. */
#include "kernels/block.h"
#include "kernels/cpu/kernels.h"
#include "kernels/ref/math.h"

#include <math.h>
#include <string.h>

static uint32_t padded(uint32_t n)
{
    return (n + 31) / 32 * 32;
}

/* ---- activations: tile of m rows, stride m ---- */

/* F32: [Kp][m] floats. */
static void pack_f32(const float *x, size_t ld, unsigned m, uint32_t k0, uint32_t k1,
                     uint32_t n_cols, void *tile)
{
    float *t = tile;
    uint32_t end = k1 == n_cols ? padded(n_cols) : k1;
    for (uint32_t k = k0; k < end; k++)
        for (unsigned i = 0; i < m; i++)
            t[(size_t)k * m + i] = k < k1 ? x[i * ld + k - k0] : 0;
}

/* BF16: [Kp / 2][m][2]. */
static void pack_bf16(const float *x, size_t ld, unsigned m, uint32_t k0, uint32_t k1,
                      uint32_t n_cols, void *tile)
{
    uint16_t *t = tile;
    uint32_t end = k1 == n_cols ? padded(n_cols) : k1;
    for (uint32_t k = k0; k < end; k++)
        for (unsigned i = 0; i < m; i++)
            t[((size_t)(k / 2) * m + i) * 2 + k % 2] =
                k < k1 ? lodge_float_bf16(x[i * ld + k - k0]) : 0;
}

/* Q8: codes [Kp / 4][m][4], then fp32 scales [Kp / 32][m]. */
static void pack_q8(const float *x, size_t ld, unsigned m, uint32_t k0, uint32_t k1,
                    uint32_t n_cols, void *tile)
{
    uint32_t kp = padded(n_cols), end = k1 == n_cols ? kp : k1;
    int8_t *q = tile;
    float *scale = (float *)((char *)tile + (size_t)kp * m);
    for (uint32_t b = k0 / 32; b < end / 32; b++)
        for (unsigned i = 0; i < m; i++) {
            const float *row = x + i * ld - k0;
            float amax = 0;
            for (uint32_t k = b * 32; k < b * 32 + 32 && k < k1; k++)
                amax = fabsf(row[k]) > amax ? fabsf(row[k]) : amax;
            float inverse = amax > 0 ? 127.0f / amax : 0;
            for (uint32_t k = b * 32; k < b * 32 + 32; k++) {
                int code = k < k1 ? (int)rintf(row[k] * inverse) : 0;
                code = code > 127 ? 127 : code < -127 ? -127 : code;
                q[((size_t)(k / 4) * m + i) * 4 + k % 4] = (int8_t)code;
            }
            scale[(size_t)b * m + i] = amax / 127.0f;
        }
}

/* ---- weights: a panel keeps its 32 rows one after another in the stored form, K padded ---- */

/* F8_E4M3: after the 32 rows, for each row a scale for each 128 columns. */
static size_t scales_of_row(uint32_t n_cols)
{
    return (padded(n_cols) + LODGE_SCALE_COLS - 1) / LODGE_SCALE_COLS;
}

static void pack_rows(enum lodge_format f, const struct lodge_panel_rows *rows, uint32_t n_cols,
                      uint8_t *panel)
{
    const struct lodge_format_info *info = lodge_format_info(f);
    size_t stored = (size_t)n_cols / info->block * info->block_bytes;
    size_t room = (size_t)padded(n_cols) / info->block * info->block_bytes;
    memset(panel, 0, lodge_panel_bytes(f, n_cols));
    for (int r = 0; r < 32; r++) {
        if (!rows->data[r])
            continue;
        memcpy(panel + (size_t)r * room, rows->data[r], stored);
        float *scales = (float *)(void *)(panel + 32 * room) + (size_t)r * scales_of_row(n_cols);
        for (uint32_t k = 0; k < scales_of_row(n_cols) && f == LODGE_FMT_F8_E4M3; k++)
            scales[k] = rows->scales[r][k * LODGE_SCALE_COLS / rows->scale_cols];
    }
}

static const uint8_t *panel_row(enum lodge_format f, const void *panel, uint32_t n_cols, uint32_t r)
{
    const struct lodge_format_info *info = lodge_format_info(f);
    return (const uint8_t *)panel + (size_t)r * (padded(n_cols) / info->block) * info->block_bytes;
}

static const float *panel_scales(const void *panel, uint32_t n_cols, uint32_t r)
{
    const uint8_t *after = (const uint8_t *)panel + (size_t)32 * padded(n_cols);
    return (const float *)(const void *)after + (size_t)r * scales_of_row(n_cols);
}

static float half_at(const uint8_t *p)
{
    uint16_t h;
    memcpy(&h, p, 2);
    return lodge_fp16_float(h);
}

static float dot_float(enum lodge_format f, const uint8_t *row, const float *t, unsigned m,
                       unsigned i, uint32_t kp)
{
    float acc = 0;
    for (uint32_t k = 0; k < kp; k++) {
        float w;
        if (f == LODGE_FMT_F32)
            memcpy(&w, row + 4 * (size_t)k, 4);
        else
            w = half_at(row + 2 * (size_t)k);
        acc = fmaf(w, t[(size_t)k * m + i], acc);
    }
    return acc;
}

/* Columns [from, to), pairs in rising order, the odd one first. */
static float dot_bf16(enum lodge_format f, const uint8_t *row, const uint16_t *t, unsigned m,
                      unsigned i, uint32_t from, uint32_t to)
{
    const size_t size = lodge_format_info(f)->block_bytes;
    float acc = 0;
    for (uint32_t k = from; k < to; k += 2)
        for (uint32_t odd = 2; odd-- > 0;) {
            float w;
            lodge_format_decode(f, row + size * (k + odd), 1, &w);
            w *= f == LODGE_FMT_F8_E4M3 ? 1.0f / 256 : 1; /* exact */
            acc = fmaf(w, lodge_bf16_float(t[((size_t)(k / 2) * m + i) * 2 + odd]), acc);
        }
    return acc;
}

static float dot_scaled(const uint8_t *row, const float *scales, const uint16_t *t, unsigned m,
                        unsigned i, uint32_t kp)
{
    float acc = 0;
    for (uint32_t k = 0; k < kp; k += LODGE_SCALE_COLS) {
        uint32_t end = k + LODGE_SCALE_COLS < kp ? k + LODGE_SCALE_COLS : kp;
        acc = fmaf(scales[k / LODGE_SCALE_COLS] * 256,
                   dot_bf16(LODGE_FMT_F8_E4M3, row, t, m, i, k, end), acc);
    }
    return acc;
}

/* Adds group g of a block, whose first column is k0, to the output of row i. */
static float add_group(enum lodge_format f, const struct lodge_block *b, uint32_t g, uint32_t k0,
                       const void *tile, unsigned m, unsigned i, uint32_t kp, float acc)
{
    const int8_t *q = tile, *table = lodge_code_table(f);
    const struct lodge_coding c = lodge_coding(f);
    int32_t dot = 0, sum = 0;
    for (uint32_t j = g * c.group; j < (g + 1) * c.group; j++) {
        uint32_t k = k0 + j;
        const int8_t x = q[((size_t)(k / 4) * m + i) * 4 + k % 4];
        int value = table ? table[b->code[j]] : b->code[j] - (int)c.zero;
        dot += value * x;
        sum += x;
    }
    const float *scale = (const float *)(const void *)(q + (size_t)kp * m);
    float dx = scale[(size_t)((k0 + g * c.group) / 32) * m + i];
    float p = fmaf(lodge_block_scale(f, b, g), (float)dot, 0.0f);
    acc = fmaf(p, dx, acc);
    return c.has_min ? fmaf(-lodge_block_min(f, b, g), dx * (float)sum, acc) : acc;
}

static void dot_blocks(enum lodge_format f, const uint8_t *row, const void *tile, unsigned m,
                       uint32_t kp, float *acc)
{
    const struct lodge_format_info *info = lodge_format_info(f);
    struct lodge_block b;
    for (uint32_t k = 0; k < kp; k += info->block, row += info->block_bytes) {
        lodge_block_split(f, row, &b);
        for (uint32_t g = 0; g < info->block / lodge_coding(f).group; g++)
            for (unsigned i = 0; i < m; i++)
                acc[i] = add_group(f, &b, g, k, tile, m, i, kp, acc[i]);
    }
}

static void tile_product(enum lodge_format f, const void *panel, uint32_t n_cols, const void *tile,
                         unsigned m, float *out, size_t ld)
{
    uint32_t kp = padded(n_cols);
    for (uint32_t r = 0; r < 32; r++) {
        const uint8_t *row = panel_row(f, panel, n_cols, r);
        float acc[LODGE_TILE_ROWS_MAX] = {0};
        if (lodge_coding(f).bits)
            dot_blocks(f, row, tile, m, kp, acc);
        for (unsigned i = 0; i < m; i++) {
            if (f == LODGE_FMT_BF16)
                acc[i] = dot_bf16(f, row, tile, m, i, 0, kp);
            else if (f == LODGE_FMT_F8_E4M3)
                acc[i] = dot_scaled(row, panel_scales(panel, n_cols, r), tile, m, i, kp);
            else if (!lodge_coding(f).bits)
                acc[i] = dot_float(f, row, tile, m, i, kp);
            out[i * ld + r] = acc[i];
        }
    }
}

static void gather_row(enum lodge_format f, const void *panel, uint32_t n_cols, uint32_t r,
                       float *out)
{
    lodge_format_decode(f, panel_row(f, panel, n_cols, r), n_cols, out);
    for (uint32_t k = 0; k < n_cols && f == LODGE_FMT_F8_E4M3; k++)
        out[k] *= panel_scales(panel, n_cols, r)[k / LODGE_SCALE_COLS];
}

/* One instance of pack, tile and gather per format. */
#define REF_FORMAT(name, text, block, bytes, gguf)                                                 \
    static void pack_##name(const struct lodge_panel_rows *rows, uint32_t n_cols, void *panel)     \
    {                                                                                              \
        pack_rows(LODGE_FMT_##name, rows, n_cols, panel);                                          \
    }                                                                                              \
    static void tile_##name(const void *panel, uint32_t n_cols, const void *tile, unsigned m,      \
                            float *out, size_t ld, const void *next, size_t next_bytes)            \
    {                                                                                              \
        (void)next;                                                                                \
        (void)next_bytes;                                                                          \
        tile_product(LODGE_FMT_##name, panel, n_cols, tile, m, out, ld);                           \
    }                                                                                              \
    static void gather_##name(const void *panel, uint32_t n_cols, uint32_t r, float *out)          \
    {                                                                                              \
        gather_row(LODGE_FMT_##name, panel, n_cols, r, out);                                       \
    }
LODGE_FORMAT_LIST(REF_FORMAT)
#undef REF_FORMAT

/* ---- rows ---- */

static void rms_norm(const float *x, const float *w, uint32_t n, float eps, float *out)
{
    float lanes[16] = {0};
    for (uint32_t i = 0; i < n; i++)
        lanes[i % 16] = fmaf(x[i], x[i], lanes[i % 16]);
    float factor = 1.0f / sqrtf(lodge_ref_tree16(lanes) / (float)n + eps);
    for (uint32_t i = 0; i < n; i++)
        out[i] = x[i] * factor * (w ? w[i] : 1.0f);
}

static void layer_norm(const float *x, const float *w, const float *b, uint32_t n, float eps,
                       float *out)
{
    float sums[16] = {0}, squares[16] = {0};
    for (uint32_t i = 0; i < n; i++)
        sums[i % 16] += x[i];
    float mean = lodge_ref_tree16(sums) / (float)n;
    for (uint32_t i = 0; i < n; i++)
        squares[i % 16] = fmaf(x[i] - mean, x[i] - mean, squares[i % 16]);
    float factor = 1.0f / sqrtf(lodge_ref_tree16(squares) / (float)n + eps);
    for (uint32_t i = 0; i < n; i++) {
        float y = (x[i] - mean) * factor * (w ? w[i] : 1.0f);
        out[i] = b ? y + b[i] : y;
    }
}

static float gelu_tanh(float x)
{
    float cube = x * x * x;
    return 0.5f * x * (1.0f + lodge_ref_tanh(0.797884561f * (x + 0.044715f * cube)));
}

static void glu(enum lodge_activation act, float *g, const float *u, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float x = g[i];
        float a = act == LODGE_ACT_SILU        ? x / (1.0f + lodge_ref_exp(-x))
                  : act == LODGE_ACT_GELU_TANH ? gelu_tanh(x)
                                               : 0.5f * x * (1.0f + erff(x * 0.707106781f));
        g[i] = u ? a * u[i] : a;
    }
}

static void add_block(float *x, size_t ldx, const float *y, size_t ldy, const float *b, float mult,
                      unsigned m, uint32_t n)
{
    for (unsigned i = 0; i < m; i++)
        for (uint32_t j = 0; j < n; j++) {
            float v = y[i * ldy + j];
            x[i * ldx + j] += mult * (b ? v + b[j] : v);
        }
}

static void cap(float *x, size_t ld, float mult, float c, unsigned m, uint32_t n)
{
    for (unsigned i = 0; i < m; i++)
        for (uint32_t j = 0; j < n; j++) {
            float s = x[i * ld + j] * mult;
            x[i * ld + j] = c > 0 ? c * lodge_ref_tanh(s / c) : s;
        }
}

static void rope(float *head, const float *cos, const float *sin, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        float a = head[i], b = head[i + n];
        head[i] = a * cos[i] - b * sin[i];
        head[i + n] = b * cos[i] + a * sin[i];
    }
}

static void to_bf16(const float *x, uint32_t dim, uint32_t dim_padded, uint16_t *out)
{
    for (uint32_t i = 0; i < dim_padded; i++)
        out[i] = i < dim ? lodge_float_bf16(x[i]) : 0;
}

static void kv_store(uint8_t *kv_head, uint32_t t, const float *k, const float *v, uint32_t dim)
{
    uint32_t dp = lodge_kv_dim(dim);
    uint16_t *keys = (uint16_t *)kv_head, *values = keys + (size_t)dp * 32;
    for (uint32_t d = 0; d < dp; d++) {
        keys[((size_t)(d / 2) * 32 + t) * 2 + d % 2] = d < dim ? lodge_float_bf16(k[d]) : 0;
        values[lodge_kv_value_at(dp, d, t, 2)] = d < dim ? lodge_float_bf16(v[d]) : 0;
    }
}

/* What numbers up to amax are multiplied with to be codes of 15 bits. */
static float inverse15(float amax)
{
    return amax >= LODGE_CODE15_LEAST ? LODGE_CODE15_MAX / amax : 0;
}

/* H x in blocks of dims; dim is padded. */
static void rotate(float *x, uint32_t dim)
{
    for (uint32_t h = 1; h < lodge_kv_block(dim); h *= 2)
        for (uint32_t i = 0; i < dim; i++)
            if (!(i & h)) {
                float a = x[i], b = x[i + h];
                x[i] = a + b;
                x[i + h] = a - b;
            }
}

/* Scale and codes of n numbers. */
static uint16_t quantize(const float *x, uint32_t n, int8_t *codes)
{
    float amax = 0;
    for (uint32_t d = 0; d < n; d++)
        amax = fabsf(x[d]) > amax ? fabsf(x[d]) : amax;
    uint16_t scale = lodge_kv_scale(amax);
    float inverse = scale ? 1.0f / lodge_bf16_float(scale) : 0;
    for (uint32_t d = 0; d < n; d++)
        codes[d] = (int8_t)fmaxf(fminf(rintf(x[d] * inverse), 127), -127);
    return scale;
}

/* A query's codes, then what one is in the rotated query's dot product. */
static void query_int8(const float *q, uint32_t dim, uint8_t *out)
{
    uint32_t dp = lodge_kv_dim(dim);
    float rotated[LODGE_HEAD_DIM_MAX] = {0}, amax = 0;
    int16_t *codes = (int16_t *)out;
    memcpy(rotated, q, dim * sizeof *q);
    rotate(rotated, dp);
    for (uint32_t d = 0; d < dp; d++)
        amax = fmaxf(amax, fabsf(rotated[d]));
    for (uint32_t d = 0; d < dp; d++)
        codes[d] = (int16_t)rintf(rotated[d] * inverse15(amax));
    float step = amax / LODGE_CODE15_MAX / (float)lodge_kv_block(dp);
    memcpy(codes + dp, &step, sizeof step);
}

static void query_bf16(const float *q, uint32_t dim, uint8_t *out)
{
    to_bf16(q, dim, lodge_kv_dim(dim), (uint16_t *)out);
}

static void kv_store_int8(uint8_t *kv_head, uint32_t t, const float *k, const float *v,
                          uint32_t dim)
{
    uint32_t dp = lodge_kv_dim(dim);
    uint16_t *scales = (uint16_t *)kv_head;
    int8_t *keys = (int8_t *)(scales + 64), *values = keys + (size_t)dp * 32;
    int8_t key[LODGE_HEAD_DIM_MAX], value[LODGE_HEAD_DIM_MAX] = {0};
    float rotated[LODGE_HEAD_DIM_MAX] = {0};
    memcpy(rotated, k, dim * sizeof *k);
    rotate(rotated, dp);
    scales[t] = quantize(rotated, dp, key);
    scales[32 + t] = quantize(v, dim, value);
    for (uint32_t d = 0; d < dp; d++) {
        keys[((size_t)(d / 4) * 32 + t) * 4 + d % 4] = key[d];
        values[lodge_kv_value_at(dp, d, t, 4)] = value[d];
    }
}

/* ---- attention ---- */

static float capped(const struct lodge_attn_call *c, float s)
{
    return c->softcap > 0 ? c->softcap * lodge_ref_tanh(s / c->softcap) : s;
}

static float score(const struct lodge_attn_call *c, uint32_t i, const uint8_t *page, uint32_t t)
{
    const uint16_t *q = (const uint16_t *)c->q + (size_t)i * c->dim, *keys = (const uint16_t *)page;
    float s = 0;
    for (uint32_t d = 0; d < c->dim; d += 2)
        for (int odd = 1; odd >= 0; odd--)
            s = fmaf(lodge_bf16_float(q[d + (uint32_t)odd]),
                     lodge_bf16_float(keys[((size_t)(d / 2) * 32 + t) * 2 + odd]), s);
    return s * c->scale;
}

/* acc += p V, p being 0 outside [a, b). */
static void add_values(const struct lodge_attn_call *c, const float *p, const uint8_t *page,
                       uint32_t a, uint32_t b, float *acc)
{
    const uint16_t *values = (const uint16_t *)page + (size_t)c->dim * 32;
    for (uint32_t d = 0; d < c->dim; d++)
        for (uint32_t t = 0; t < 32; t += 2)
            for (uint32_t odd = 2; odd-- > 0;)
                if (t + odd >= a && t + odd < b)
                    acc[d] = fmaf(
                        lodge_bf16_float(lodge_float_bf16(p[t + odd])),
                        lodge_bf16_float(values[lodge_kv_value_at(c->dim, d, t + odd, 2)]), acc[d]);
}

static float score_int8(const struct lodge_attn_call *c, uint32_t i, const uint8_t *page,
                        uint32_t t)
{
    const uint8_t *q = c->q + i * lodge_kv_query_bytes(LODGE_KV_INT8, c->dim);
    const uint16_t *scales = (const uint16_t *)page;
    const int8_t *keys = (const int8_t *)page + 128;
    const int16_t *codes = (const int16_t *)q;
    float step;
    int32_t sum = 0;
    memcpy(&step, codes + c->dim, sizeof step);
    for (uint32_t d = 0; d < c->dim; d++)
        sum += codes[d] * keys[((size_t)(d / 4) * 32 + t) * 4 + d % 4];
    return (float)sum * lodge_bf16_float(scales[t]) * (step * c->scale);
}

static void add_values_int8(const struct lodge_attn_call *c, const float *p, const uint8_t *page,
                            uint32_t a, uint32_t b, float *acc)
{
    const uint16_t *scales = (const uint16_t *)page + 32;
    const int8_t *values = (const int8_t *)page + 128 + (size_t)c->dim * 32;
    int32_t codes[32];
    float most = 0;
    for (uint32_t t = a; t < b; t++)
        most = fmaxf(most, lodge_bf16_float(scales[t]));
    for (uint32_t t = a; t < b; t++)
        codes[t] = (int32_t)rintf(p[t] * (lodge_bf16_float(scales[t]) * inverse15(most)));
    for (uint32_t d = 0; d < c->dim; d++) {
        int32_t sum = 0;
        for (uint32_t t = a; t < b; t++)
            sum += codes[t] * values[lodge_kv_value_at(c->dim, d, t, 4)];
        acc[d] = fmaf((float)sum, most / LODGE_CODE15_MAX, acc[d]);
    }
}

/* The products of a dtype. */
struct products {
    float (*score)(const struct lodge_attn_call *c, uint32_t i, const uint8_t *page, uint32_t t);
    void (*add_values)(const struct lodge_attn_call *c, const float *p, const uint8_t *page,
                       uint32_t a, uint32_t b, float *acc);
};

/* One page for one query; lanes [a, b) of the page are visible. */
static void attend_page(struct lodge_attn_call *c, const struct products *k, uint32_t i,
                        const uint8_t *page, uint32_t a, uint32_t b, float lanes[16])
{
    float p[32] = {0}, most = -INFINITY;
    for (uint32_t t = a; t < b; t++) {
        p[t] = capped(c, k->score(c, i, page, t));
        most = p[t] > most ? p[t] : most;
    }
    float *acc = c->out.acc + (size_t)i * c->dim;
    if (most > c->out.max[i]) {
        float r = lodge_ref_exp(c->out.max[i] - most);
        for (int j = 0; j < 16; j++)
            lanes[j] *= r;
        for (uint32_t d = 0; d < c->dim; d++)
            acc[d] *= r;
        c->out.max[i] = most;
    }
    for (uint32_t t = a; t < b; t++)
        p[t] = lodge_ref_exp(p[t] - c->out.max[i]);
    for (int j = 0; j < 16; j++)
        lanes[j] += p[j] + p[j + 16];
    k->add_values(c, p, page, a, b, acc);
}

static void attend(struct lodge_attn_call *c, const struct products *k)
{
    for (uint32_t i = 0; i < c->n_queries; i++) {
        float *lanes = c->lanes[i];
        if (c->from_page == 0) {
            memset(lanes, 0, sizeof c->lanes[i]);
            c->out.max[i] = -INFINITY;
            memset(c->out.acc + (size_t)i * c->dim, 0, c->dim * sizeof *c->out.acc);
        }
        for (uint32_t page = c->from_page; page < c->n_pages; page++) {
            uint32_t from = page * 32, to = from + 32;
            uint32_t a = c->first[i] > from ? c->first[i] - from : 0;
            uint32_t b = c->last[i] < to ? c->last[i] : to;
            if (b > from && a < b - from)
                attend_page(c, k, i, c->pages[page], a, b - from, lanes);
        }
        c->out.sum[i] = lodge_ref_tree16(lanes);
    }
}

static void attn(struct lodge_attn_call *c)
{
    attend(c, &(struct products){score, add_values});
}

static void attn_int8(struct lodge_attn_call *c)
{
    attend(c, &(struct products){score_int8, add_values_int8});
}

static void attn_merge(struct lodge_attn_state *to, const struct lodge_attn_state *other,
                       uint32_t n, uint32_t dim)
{
    for (uint32_t i = 0; i < n; i++) {
        float m = other->max[i] > to->max[i] ? other->max[i] : to->max[i];
        float a = lodge_ref_exp(to->max[i] - m), b = lodge_ref_exp(other->max[i] - m);
        to->sum[i] = to->sum[i] * a + other->sum[i] * b;
        for (uint32_t d = i * dim; d < (i + 1) * dim; d++)
            to->acc[d] = to->acc[d] * a + other->acc[d] * b;
        to->max[i] = m;
    }
}

static void attn_end(const struct lodge_attn_state *s, uint32_t first, uint32_t n, uint32_t dim,
                     uint32_t head_dim, float *out)
{
    for (uint32_t i = 0; i < n; i++) {
        const float *acc = s->acc + (size_t)(first + i) * dim;
        float inverse = s->sum[first + i] > 0 ? 1.0f / s->sum[first + i] : 0;
        for (uint32_t j = 0; j < head_dim; j++)
            out[(size_t)i * head_dim + j] = acc[j] * inverse;
    }
}

/* ---- adapters ---- */

static void lora_shrink(const uint8_t *const *const cells[2], unsigned granules, uint32_t n_lines,
                        const uint16_t *x, size_t ldx, unsigned m, bool first,
                        lodge_lora_chains chains)
{
    if (first)
        memset(chains, 0, m * sizeof *chains);
    for (unsigned i = 0; i < m * granules; i++) {
        unsigned row = i / granules, g = i % granules;
        for (uint32_t l = 0; l < n_lines; l++)
            for (uint32_t lane = 0; lane < 16; lane++)
                for (uint32_t odd = 2; odd-- > 0;) {
                    const uint16_t *a = (const uint16_t *)(const void *)cells[g][l / 64];
                    float *c = &chains[row][g][l % 2][lane];
                    float w = lodge_bf16_float(a[(l % 64 * 16 + lane) * 2 + odd]);
                    *c = fmaf(w, lodge_bf16_float(x[row * ldx + 4 * l + 2 * (lane % 2) + odd]), *c);
                }
    }
}

static void lora_sum(const lodge_lora_chains chains, unsigned granules, unsigned m, float *t,
                     size_t ldt)
{
    for (unsigned i = 0; i < m; i++)
        for (uint32_t r = 0; r < granules * 8; r++) {
            const float(*c)[16] = chains[i][r / 8];
            uint32_t lane = r % 8 * 2;
            t[i * ldt + r] = (c[0][lane] + c[1][lane]) + (c[0][lane + 1] + c[1][lane + 1]);
        }
}

static void lora_expand(const struct lodge_lora_expand *e)
{
    for (unsigned i = 0; i < e->m; i++)
        for (uint32_t o = 0; o < 32; o++) {
            float sum = e->acc ? e->acc[i * 32 + o] : 0;
            for (uint32_t r = 0; r < e->n * 8; r++) {
                const uint16_t *b = (const uint16_t *)(const void *)e->blocks[r / 8];
                sum = fmaf(lodge_bf16_float(b[(r % 8 * 16 + o % 16) * 2 + o / 16]),
                           e->t[i * e->ldt + r], sum);
            }
            if (e->acc)
                e->acc[i * 32 + o] = sum;
            else if (o < e->n_cols)
                e->y[i * e->ld + o] = fmaf(e->scale, sum, e->y[i * e->ld + o]);
        }
}

static void lora_add(float *y, size_t ld, const float *acc, const float *base, const float *gain,
                     float scale, unsigned m, uint32_t n)
{
    for (unsigned i = 0; i < m; i++)
        for (uint32_t j = 0; j < n; j++) {
            float *out = &y[i * ld + j], delta = acc[i * 32 + j];
            *out = gain ? fmaf(gain[j], scale * delta, fmaf(gain[j] - 1, base[i * 32 + j], *out))
                        : fmaf(scale, delta, *out);
        }
}

void lodge_kernels_fill_ref(struct lodge_cpu_kernels *k)
{
#define REF_FORMAT(name, text, block, bytes, gguf)                                                 \
    k->gemm[LODGE_FMT_##name] = (struct lodge_gemm){                                               \
        .mr = 4, .pack = pack_##name, .tile = tile_##name, .gather = gather_##name};
    LODGE_FORMAT_LIST(REF_FORMAT)
#undef REF_FORMAT
    k->name = "ref";
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
    k->kv[LODGE_KV_BF16] = (struct lodge_kv_ops){query_bf16, kv_store, attn};
    k->kv[LODGE_KV_INT8] = (struct lodge_kv_ops){query_int8, kv_store_int8, attn_int8};
    k->attn_merge = attn_merge;
    k->attn_end = attn_end;
    k->lora_shrink = lora_shrink;
    k->lora_sum = lora_sum;
    k->lora_expand = lora_expand;
    k->lora_add = lora_add;
    k->row = lodge_row_ops_ref;
}
