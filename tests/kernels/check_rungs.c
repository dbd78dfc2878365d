/* Every rung against the reference, bit for bit, and the reference against fp64: random shapes with
 * odd tails, all row counts, extreme values, guard bytes. The seed is printed on failure;
 * LODGE_TEST_SEED repeats it. */
#include "base/checksum.h"
#include "kernels/block.h"
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/panel.h"
#include "kernels/ref/math.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t state;

static uint32_t rnd(void)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33);
}

static float uniform(void)
{
    return (float)((double)rnd() / 1073741824.0 - 1.0);
}

static void seed(void)
{
    const char *text = getenv("LODGE_TEST_SEED");
    state = text ? strtoull(text, NULL, 10) : 20261124;
}

#define MAX_RUNGS 7

/* Rungs of this machine; the first is the reference. */
static int rungs(struct lodge_cpu_kernels k[MAX_RUNGS])
{
    int n = 0;
    for (unsigned i = 0; lodge_cpu_rung_name(i); i++)
        if (lodge_cpu_kernels_init(&k[n], lodge_cpu_rung_name(i), NULL) == 0)
            n++;
    return n;
}

/* Where the halves of a stored block stand: scales, minimums, or the number itself. */
static unsigned half_places(enum lodge_format f, size_t at[2])
{
    at[0] = f == LODGE_FMT_Q2_K ? 80 : f == LODGE_FMT_Q3_K ? 108 : f == LODGE_FMT_Q6_K ? 208 : 0;
    at[1] = at[0] + 2;
    return f == LODGE_FMT_MXFP4 || f == LODGE_FMT_F8_E4M3 ? 0 : lodge_coding(f).has_min ? 2 : 1;
}

static void random_row(enum lodge_format f, uint8_t *row, uint32_t n_cols)
{
    const struct lodge_format_info *info = lodge_format_info(f);
    size_t bytes = (size_t)n_cols / info->block * info->block_bytes, at[2];
    if (f == LODGE_FMT_F32) {
        for (uint32_t i = 0; i < n_cols; i++) {
            float v = uniform();
            memcpy(row + 4 * i, &v, 4);
        }
        return;
    }
    for (size_t i = 0; i < bytes; i++)
        row[i] = (uint8_t)rnd();
    for (size_t i = 0; i < bytes && f == LODGE_FMT_F8_E4M3; i++)
        row[i] &= (row[i] & 0x7F) == 0x7F ? 0xFE : 0xFF;
    for (size_t b = 0; b < bytes && f == LODGE_FMT_MXFP4; b += 17)
        row[b] = rnd() % 8 ? (uint8_t)(110 + rnd() % 30) : (uint8_t)(rnd() % 2 * (rnd() % 200));
    /* Scales and 16-bit floats: finite, moderate, sometimes negative, zero or denormal. */
    for (size_t b = 0; b < n_cols / info->block; b++)
        for (unsigned k = 0; k < half_places(f, at); k++) {
            uint16_t h =
                rnd() % 16 == 0 ? (uint16_t)(rnd() % 1024) : (uint16_t)(0x2000 + rnd() % 0x1000);
            if (f == LODGE_FMT_BF16)
                h = (uint16_t)(0x3C00 + rnd() % 0x400);
            h |= (uint16_t)(rnd() % 2 << 15);
            memcpy(row + b * info->block_bytes + at[k], &h, 2);
        }
}

struct product {
    uint8_t *rows, *panel, *tile;
    float *x, *out;
    float scales[8]; /* of each row: one for 128 columns, or one for all */
    uint32_t scale_cols, n_cols;
    unsigned m;
};

static void run_gemm(const struct lodge_cpu_kernels *k, enum lodge_format f, struct product *p)
{
    struct lodge_panel_rows rows = {.scale_cols = p->scale_cols};
    size_t row_bytes = 0;
    lodge_format_row_bytes(f, p->n_cols, &row_bytes);
    for (int r = 0; r < 31; r++) {
        rows.data[r] = p->rows + (size_t)r * row_bytes;
        rows.scales[r] = p->scales + r % 3;
    }
    k->gemm[f].pack(&rows, p->n_cols, p->panel);
    k->act_pack[lodge_act_form(f)](p->x, p->n_cols, p->m, 0, p->n_cols, p->n_cols, p->tile);
    for (size_t i = 0; i < p->m * 40 + 16; i++)
        p->out[i] = 7;
    if (!k->gemm[f].widen || rnd() % 2) {
        k->gemm[f].tile(p->panel, p->n_cols, p->tile, p->m, p->out, 40, p->panel, 256);
        return;
    }
    uint8_t *wide = aligned_alloc(64, lodge_wide_bytes(p->n_cols));
    k->gemm[f].widen(p->panel, p->n_cols, wide);
    k->gemm[f].wide_tile(wide, p->n_cols, p->tile, p->m, p->out, 40, p->panel, 256);
    free(wide);
}

/* The activation as the form declares it: bf16, or int8 codes by the scale of their block of 32. */
static double declared(enum lodge_format f, const float *x, uint32_t c, uint32_t n_cols)
{
    double amax = 0;
    if (lodge_act_form(f) == LODGE_ACT_BF16)
        return (double)lodge_bf16_float(lodge_float_bf16(x[c]));
    if (lodge_act_form(f) == LODGE_ACT_F32)
        return (double)x[c];
    for (uint32_t k = c / 32 * 32; k < c / 32 * 32 + 32 && k < n_cols; k++)
        amax = fmax(amax, (double)fabsf(x[k]));
    if (amax == 0)
        return 0;
    /* The code is rounded from an fp32 product, which decides at the half. */
    return (double)rintf(x[c] * (127.0f / (float)amax)) * amax / 127;
}

/* Row r as the format defines it. */
static void decode_row(enum lodge_format f, const struct product *p, uint32_t r, float *w)
{
    size_t row_bytes = 0;
    lodge_format_row_bytes(f, p->n_cols, &row_bytes);
    lodge_format_decode(f, p->rows + (size_t)r * row_bytes, p->n_cols, w);
    for (uint32_t c = 0; c < p->n_cols && f == LODGE_FMT_F8_E4M3; c++)
        w[c] *= p->scales[r % 3 + c / p->scale_cols];
}

/* What is added up for each number of row r: with a minimum, two parts that may cancel. */
static void row_sizes(enum lodge_format f, const struct product *p, uint32_t r, const float *w,
                      double *size)
{
    const struct lodge_coding c = lodge_coding(f);
    const struct lodge_format_info *info = lodge_format_info(f);
    size_t row_bytes = 0;
    lodge_format_row_bytes(f, p->n_cols, &row_bytes);
    const uint8_t *row = p->rows + (size_t)r * row_bytes;
    struct lodge_block b;
    for (uint32_t k = 0; k < p->n_cols; k++) {
        size[k] = fabs((double)w[k]);
        if (!c.has_min)
            continue;
        uint32_t at = k % info->block;
        if (at == 0)
            lodge_block_split(f, row + (size_t)k / info->block * info->block_bytes, &b);
        double min = (double)lodge_block_min(f, &b, at / c.group);
        size[k] = fabs((double)lodge_block_scale(f, &b, at / c.group) * b.code[at]) + fabs(min);
    }
}

static void check_bound(enum lodge_format f, const struct product *p, const float *out)
{
    float *w = malloc(p->n_cols * sizeof *w);
    double *sizes = malloc(p->n_cols * sizeof *sizes);
    for (unsigned i = 0; i < p->m; i++)
        for (uint32_t r = 0; r < 31; r++) {
            double sum = 0, size = 0;
            decode_row(f, p, r, w);
            row_sizes(f, p, r, w, sizes);
            for (uint32_t c = 0; c < p->n_cols; c++) {
                double x = declared(f, p->x + (size_t)i * p->n_cols, c, p->n_cols);
                sum += (double)w[c] * x;
                size += sizes[c] * fabs(x);
            }
            ck_assert_msg(
                fabs((double)out[i * 40 + r] - sum) <= size * 0x1p-20 * sqrt(p->n_cols) + 1e-30,
                "%s: %g against fp64 %g", lodge_format_info(f)->name, (double)out[i * 40 + r], sum);
        }
    free(w);
    free(sizes);
}

/* Returns the bytes of a row. */
static size_t make_room(enum lodge_format f, struct product *p)
{
    size_t row_bytes = 0;
    lodge_format_row_bytes(f, p->n_cols, &row_bytes);
    p->rows = malloc(32 * row_bytes);
    p->panel = aligned_alloc(64, lodge_panel_bytes(f, p->n_cols));
    p->tile = aligned_alloc(64, lodge_act_tile_bytes(lodge_act_form(f), p->n_cols));
    p->x = malloc((size_t)p->m * p->n_cols * sizeof *p->x);
    p->out = malloc((p->m * 40 + 16) * sizeof *p->out);
    return row_bytes;
}

static void free_room(struct product *p)
{
    free(p->rows);
    free(p->panel);
    free(p->tile);
    free(p->x);
    free(p->out);
}

static void one_gemm(const struct lodge_cpu_kernels *k, int n, enum lodge_format f, uint32_t n_cols,
                     unsigned m)
{
    struct product p = {.n_cols = n_cols, .m = m, .scale_cols = rnd() % 2 ? 128 : UINT32_MAX};
    for (int i = 0; i < 8; i++)
        p.scales[i] = uniform() * 0.01f;
    size_t row_bytes = make_room(f, &p);
    float *first = malloc((m * 40 + 16) * sizeof *first);
    for (int r = 0; r < 32; r++)
        random_row(f, p.rows + (size_t)r * row_bytes, n_cols);
    for (size_t i = 0; i < (size_t)m * n_cols; i++)
        p.x[i] = rnd() % 64 ? uniform() : uniform() * 1000;
    if (rnd() % 4 == 0)
        memset(p.x, 0, n_cols * sizeof *p.x);
    for (int i = 0; i < n; i++) {
        if (m > k[i].gemm[f].mr)
            continue;
        run_gemm(&k[i], f, &p);
        if (i == 0)
            memcpy(first, p.out, (m * 40 + 16) * sizeof *first);
        ck_assert_msg(memcmp(first, p.out, (m * 40 + 16) * sizeof *first) == 0,
                      "%s %s m %u K %u differs from ref", k[i].name, lodge_format_info(f)->name, m,
                      n_cols);
        float *w = malloc(n_cols * 2 * sizeof *w);
        k[i].gemm[f].gather(p.panel, n_cols, 5, w);
        decode_row(f, &p, 5, w + n_cols);
        ck_assert_msg(memcmp(w, w + n_cols, n_cols * sizeof *w) == 0, "%s %s gather", k[i].name,
                      lodge_format_info(f)->name);
        free(w);
    }
    check_bound(f, &p, first);
    free_room(&p);
    free(first);
}

START_TEST(gemm_equal)
{
    struct lodge_cpu_kernels k[MAX_RUNGS];
    int n = rungs(k);
    k[0].gemm[0].mr = LODGE_TILE_ROWS_MAX;
    seed();
    for (int f = 0; f < LODGE_FMT_COUNT; f++) {
        k[0].gemm[f].mr = LODGE_TILE_ROWS_MAX; /* the reference takes any number of rows */
        for (int round = 0; round < 36; round++) {
            uint32_t block = lodge_format_info((enum lodge_format)f)->block;
            uint32_t cols = block == 256  ? 256 + rnd() % 3 * 256
                            : block == 32 ? 32 + rnd() % 10 * 32
                                          : 1 + rnd() % 300;
            one_gemm(k, n, (enum lodge_format)f, cols, 1 + (unsigned)round % LODGE_TILE_ROWS_MAX);
        }
    }
}
END_TEST

static bool equal(const void *a, const void *b, size_t n)
{
    return memcmp(a, b, n) == 0;
}

/* A float whose exponent is about the least, about the greatest, either, or any. */
static float extreme(unsigned kind)
{
    uint32_t low = rnd() % 40, high = 255 - rnd() % 30;
    uint32_t exponent = kind == 0   ? low
                        : kind == 1 ? high
                        : kind == 2 ? rnd() % 2 ? low : high
                                    : rnd() % 256;
    uint32_t bits = (rnd() & 1) << 31 | exponent << 23 | (rnd() & 0x7FFFFF);
    return lodge_bits_float(rnd() % 8 ? bits : bits & 0xFF800000); /* zeros and infinities */
}

/* Sums that are flushed, overflow, or meet infinities: the instructions for pairs of bf16 numbers
 * against multiply-adds. Which NaN comes out is open. */
START_TEST(bf16_extremes)
{
    struct lodge_cpu_kernels k[MAX_RUNGS];
    int n = rungs(k);
    float first[12 * 40 + 16];
    unsigned n_numbers = 0;
    seed();
    for (int round = 0; round < 400; round++) {
        struct product p = {.n_cols = 1 + rnd() % 8, .m = 1 + rnd() % 6, .scale_cols = UINT32_MAX};
        make_room(LODGE_FMT_BF16, &p);
        for (uint32_t i = 0; i < 32 * p.n_cols; i++) {
            uint16_t h = (uint16_t)(lodge_float_bits(extreme((i / p.n_cols) % 4)) >> 16);
            memcpy(p.rows + 2 * i, &h, 2);
        }
        for (uint32_t i = 0; i < p.m * p.n_cols; i++)
            p.x[i] = rnd() % 2 ? extreme((i / p.n_cols + (unsigned)round) % 4) : uniform();
        for (int i = 0; i < n; i++) {
            run_gemm(&k[i], LODGE_FMT_BF16, &p);
            if (i == 0)
                memcpy(first, p.out, p.m * 40 * sizeof *first);
            for (uint32_t j = 0; j < p.m * 40; j++) {
                n_numbers += isfinite(first[j]) && first[j] != 0;
                ck_assert_msg(equal(&first[j], &p.out[j], 4) ||
                                  (isnan(first[j]) && isnan(p.out[j])),
                              "%s: %a, not %a", k[i].name, (double)p.out[j], (double)first[j]);
            }
        }
        free_room(&p);
    }
    ck_assert_uint_ge(n_numbers, 10000);
}
END_TEST

START_TEST(bf16_rounding)
{
    struct lodge_cpu_kernels k[MAX_RUNGS];
    int n = rungs(k);
    seed();
    for (int round = 0; round < 2000; round++) {
        float x[16];
        uint16_t a[16], b[16];
        for (int i = 0; i < 16; i++)
            x[i] = extreme((unsigned)round % 4);
        k[0].to_bf16(x, 16, 16, a);
        for (int i = 1; i < n; i++) {
            k[i].to_bf16(x, 16, 16, b);
            ck_assert_msg(equal(a, b, sizeof a), "%s", k[i].name);
        }
    }
}
END_TEST

/* Against the definition in fp64. */
static void check_layer_norm64(const float *x, const float *w, const float *b, uint32_t n,
                               const float *got)
{
    double mean = 0, square = 0;
    for (uint32_t i = 0; i < n; i++)
        mean += (double)x[i] / n;
    for (uint32_t i = 0; i < n; i++)
        square += ((double)x[i] - mean) * ((double)x[i] - mean) / n;
    for (uint32_t i = 0; i < n; i++) {
        double y = ((double)x[i] - mean) / sqrt(square + 1e-5) * (w ? (double)w[i] : 1);
        ck_assert_double_le(fabs(y + (b ? (double)b[i] : 0) - (double)got[i]), 1e-4);
    }
}

static double capped64(float x, double c)
{
    double s = 0.7 * (double)x;
    return c > 0 ? c * tanh(s / c) : s;
}

START_TEST(rows_equal)
{
    struct lodge_cpu_kernels k[MAX_RUNGS];
    int n = rungs(k);
    seed();
    for (int round = 0; round < 200; round++) {
        uint32_t len = 1 + rnd() % 150;
        float x[160], w[160], u[160], a[160], b[160];
        for (uint32_t i = 0; i < 160; i++) {
            x[i] = uniform() * (rnd() % 8 ? 2 : 60);
            w[i] = uniform();
            u[i] = uniform();
        }
        for (int i = 1; i < n; i++) {
            k[0].rms_norm(x, round % 3 ? w : NULL, len, 1e-5f, a);
            k[i].rms_norm(x, round % 3 ? w : NULL, len, 1e-5f, b);
            ck_assert_msg(equal(a, b, len * 4), "%s rms_norm of %u", k[i].name, len);
            const float *shift = round % 2 ? u : NULL;
            k[0].layer_norm(x, round % 3 ? w : NULL, shift, len, 1e-5f, a);
            k[i].layer_norm(x, round % 3 ? w : NULL, shift, len, 1e-5f, b);
            ck_assert_msg(equal(a, b, len * 4), "%s layer_norm of %u", k[i].name, len);
            check_layer_norm64(x, round % 3 ? w : NULL, shift, len, a);
            memcpy(a, x, sizeof a);
            memcpy(b, x, sizeof b);
            k[0].cap(a, 40, 0.7f, round % 2 ? 3.0f : 0, 3, len % 41);
            k[i].cap(b, 40, 0.7f, round % 2 ? 3.0f : 0, 3, len % 41);
            ck_assert_msg(equal(a, b, sizeof a), "%s cap of %u", k[i].name, len % 41);
            for (uint32_t j = 0; j < len % 41; j++)
                ck_assert_double_le(fabs(capped64(x[j], round % 2 ? 3.0 : 0) - (double)a[j]), 1e-5);
            memcpy(a, x, sizeof a);
            memcpy(b, x, sizeof b);
            const float *other = round % 4 ? u : NULL;
            k[0].glu((enum lodge_activation)(round % 3), a, other, len);
            k[i].glu((enum lodge_activation)(round % 3), b, other, len);
            ck_assert_msg(equal(a, b, len * 4), "%s glu %d of %u", k[i].name, round % 3, len);
            memcpy(a, x, sizeof a);
            memcpy(b, x, sizeof b);
            k[0].rope(a, w, u, len / 2);
            k[i].rope(b, w, u, len / 2);
            ck_assert_msg(equal(a, b, sizeof a), "%s rope of %u", k[i].name, len);
            k[0].add_block(a, 40, w, 30, round % 2 ? u : NULL, 0.3f, 3, len % 31);
            k[i].add_block(b, 40, w, 30, round % 2 ? u : NULL, 0.3f, 3, len % 31);
            ck_assert_msg(equal(a, b, sizeof a), "%s add_block of %u", k[i].name, len % 31);
            uint16_t ha[192] = {0}, hb[192] = {0};
            k[0].to_bf16(x, len, (len + 15) / 16 * 16, ha);
            k[i].to_bf16(x, len, (len + 15) / 16 * 16, hb);
            ck_assert_msg(equal(ha, hb, sizeof ha), "%s to_bf16 of %u", k[i].name, len);
            memset(a, 0, sizeof a);
            memset(b, 0, sizeof b);
            k[0].row.block_most(x, len / 3, 3, len / 3, a, 8);
            k[i].row.block_most(x, len / 3, 3, len / 3, b, 8);
            ck_assert_msg(equal(a, b, 24 * 4), "%s block_most of %u", k[i].name, len / 3);
            double sums[2] = {k[0].row.exp_sum(x, len, 0.7f, x[3]),
                              k[i].row.exp_sum(x, len, 0.7f, x[3])};
            ck_assert_msg(equal(&sums[0], &sums[1], 8), "%s exp_sum of %u", k[i].name, len);
        }
    }
}
END_TEST

START_TEST(random_words)
{
    struct lodge_cpu_kernels k[MAX_RUNGS];
    int n_rungs = rungs(k);
    struct lodge_word got[LODGE_WORD_BLOCKS * LODGE_LOGIT_BLOCK], want[LODGE_WORD_BLOCKS * 32];
    for (uint32_t round = 0; round < 60; round++) {
        struct lodge_sampling s = {.seed = rnd() * 0x9E3779B97F4A7C15u, .choice = rnd() % 3};
        uint32_t need[LODGE_WORD_BLOCKS], block = rnd() % 8192, n = 1 + round % LODGE_WORD_BLOCKS;
        for (uint32_t i = 0; i < n; i++)
            need[i] = i % 3 == 0 ? 0 : i % 3 == 1 ? UINT32_MAX : 0xF0000000u;
        uint32_t position = rnd(), n_want = k[0].row.words(&s, position, block, n, need, want);
        ck_assert_uint_le((n + 2) / 3 * 32, n_want);
        for (int i = 1; i < n_rungs; i++) {
            ck_assert_uint_eq(k[i].row.words(&s, position, block, n, need, got), n_want);
            ck_assert_msg(equal(got, want, n_want * sizeof *got), "%s words", k[i].name);
        }
    }
}
END_TEST

/* H x in blocks, by its definition: element (i, j) of H is -1 to the number of bits that i and j
 * share. Returns the greatest size. */
static double rotate64(const double *x, uint32_t dim, double *out)
{
    uint32_t n = lodge_kv_block(dim);
    double most = 0;
    for (uint32_t i = 0; i < dim; i++) {
        out[i] = 0;
        for (uint32_t j = i / n * n; j < i / n * n + n; j++)
            out[i] += __builtin_popcount(i & j & (n - 1)) % 2 ? -x[j] : x[j];
        most = fmax(most, fabs(out[i]));
    }
    return most;
}

/* The key or value of token t, as the page holds it. */
static void stored(enum lodge_kv_dtype kv, const uint8_t *page, bool value, uint32_t dim,
                   uint32_t t, double *out)
{
    const uint16_t *halves = (const uint16_t *)page + (value ? dim * 32 : 0);
    const int8_t *codes = (const int8_t *)page + 128 + (value ? dim * 32 : 0);
    double scale = (double)lodge_bf16_float(((const uint16_t *)page)[t + (value ? 32 : 0)]);
    double room[512] = {0};
    for (uint32_t d = 0; d < dim; d++) {
        uint32_t n = kv == LODGE_KV_BF16 ? 2 : 4, b = d / 32 * 32, width = dim - b < 32 ? 16 : 32;
        uint32_t at =
            value ? b * 32 + (t / n * width + d - b) * n + t % n : (d / n * 32 + t) * n + d % n;
        out[d] = kv == LODGE_KV_BF16 ? (double)lodge_bf16_float(halves[at]) : scale * codes[at];
    }
    if (kv != LODGE_KV_INT8 || value)
        return;
    memcpy(room, out, dim * sizeof *room); /* H H = n */
    rotate64(room, dim, out);
    for (uint32_t d = 0; d < dim; d++)
        out[d] /= lodge_kv_block(dim);
}

/* Against what was to be stored: half a step of the type, whose scale is rounded up to bf16. */
static void check_stored(enum lodge_kv_dtype kv, const uint8_t *page, bool value, uint32_t dim,
                         uint32_t t, const float *x)
{
    double want[512] = {0}, got[512], room[512], amax = 0;
    uint32_t dp = lodge_kv_dim(dim);
    for (uint32_t d = 0; d < dim; d++) {
        want[d] = (double)x[d];
        amax = fmax(amax, fabs(want[d]));
    }
    if (!value)
        amax = rotate64(want, dp, room);
    stored(kv, page, value, dp, t, got);
    for (uint32_t d = 0; d < dp; d++) {
        double step = kv == LODGE_KV_INT8 ? amax / 127 * (1 + 0x1p-7) : fabs(want[d]) * 0x1p-7;
        ck_assert_double_le(fabs(got[d] - want[d]), step * 0.5001 + 127 * 0x1p-126);
    }
}

/* Attention in fp64 over the same stored keys and values. Bounds: in bf16 the rounding of weights;
 * in int8 half a code of them (`values` is the largest value), and what half a code of the query
 * moves the scores by; beside that fp32 and the exponential. */
static void check_attention64(enum lodge_kv_dtype kv, const struct lodge_attn_call *c,
                              const float *queries, uint32_t i, double values)
{
    double s[256], q[512], x[512], room[512], y[512] = {0}, size[512] = {0};
    double most = -INFINITY, sum = 0, moved = 0;
    for (uint32_t d = 0; d < c->dim; d++)
        q[d] = (double)(kv == LODGE_KV_BF16
                            ? lodge_bf16_float(lodge_float_bf16(queries[i * c->dim + d]))
                            : queries[i * c->dim + d]);
    double code = rotate64(q, c->dim, room) / 16383;
    for (uint32_t t = c->first[i]; t < c->last[i]; t++) {
        double rotated = 0;
        s[t] = 0;
        stored(kv, c->pages[t / 32], false, c->dim, t % 32, x);
        for (uint32_t d = 0; d < c->dim; d++)
            s[t] += q[d] * x[d] * (double)c->scale;
        rotate64(x, c->dim, room);
        for (uint32_t d = 0; d < c->dim; d++)
            rotated += fabs(room[d]);
        moved = fmax(moved, rotated * code / 2 * (double)c->scale / lodge_kv_block(c->dim));
        if (c->softcap > 0)
            s[t] = (double)c->softcap * tanh(s[t] / (double)c->softcap);
        most = s[t] > most ? s[t] : most;
    }
    for (uint32_t t = c->first[i]; t < c->last[i]; t++)
        sum += exp(s[t] - most);
    for (uint32_t t = c->first[i]; t < c->last[i]; t++) {
        stored(kv, c->pages[t / 32], true, c->dim, t % 32, x);
        for (uint32_t d = 0; d < c->dim; d++) {
            y[d] += exp(s[t] - most) / sum * x[d];
            size[d] += exp(s[t] - most) / sum * fabs(x[d]);
        }
    }
    double lost = values * ((c->last[i] - c->first[i]) / sum / 16383 / 2 + 1e-6);
    for (uint32_t d = 0; d < c->dim && c->last[i] > c->first[i]; d++) {
        double bound =
            kv == LODGE_KV_BF16 ? size[d] * 0.006 + 1e-6 : size[d] * (2 * moved + 1e-5) + lost;
        ck_assert_double_le(fabs((double)(c->out.acc[i * c->dim + d] / c->out.sum[i]) - y[d]),
                            bound);
    }
}

/* Keys or values of a token; sometimes with one that towers, sometimes nothing or next to it. */
static void random_head(float *x, uint32_t dim, float size)
{
    float all = rnd() % 16 ? size : rnd() % 2 ? 0 : 1e-37f;
    for (uint32_t d = 0; d < dim; d++)
        x[d] = uniform() * all;
    if (rnd() % 8 == 0)
        x[rnd() % dim] *= 20;
}

/* Fills the first tokens of pages full of NaNs, in every rung to the same bytes; the largest value.
 */
static double fill_pages(const struct lodge_cpu_kernels *k, int n, enum lodge_kv_dtype kv,
                         uint8_t *pages, uint32_t n_pages, uint32_t filled, uint32_t dim)
{
    size_t bytes = lodge_kv_head_bytes(kv, dim, LODGE_PAGE_TOKENS);
    uint8_t *again = aligned_alloc(64, n_pages * bytes);
    float(*x)[2][512] = calloc(filled, sizeof *x);
    double most = 0;
    for (uint32_t t = 0; t < filled; t++) {
        random_head(x[t][0], dim, 2);
        random_head(x[t][1], dim, 1);
        for (uint32_t d = 0; d < dim; d++)
            most = fmax(most, (double)fabsf(x[t][1][d]));
    }
    for (int i = 0; i < n; i++) {
        uint8_t *to = i ? again : pages;
        memset(to, 0xFF, n_pages * bytes);
        for (uint32_t t = 0; t < filled; t++)
            k[i].kv[kv].store(to + t / 32 * bytes, t % 32, x[t][0], x[t][1], dim);
        ck_assert_msg(equal(to, pages, n_pages * bytes), "%s stores %s, dim %u", k[i].name,
                      lodge_kv_dtype_name(kv), dim);
    }
    for (uint32_t t = 0; t < filled; t++)
        for (int value = 0; value < 2; value++)
            check_stored(kv, pages + t / 32 * bytes, value, dim, t % 32, x[t][value]);
    free(x);
    free(again);
    return most;
}

/* In calls over a few pages each, which must not matter. */
static void attend_in_parts(const struct lodge_kv_ops *k, struct lodge_attn_call *c, bool cut)
{
    uint32_t n_pages = c->n_pages;
    for (c->from_page = 0; c->from_page < n_pages; c->from_page = c->n_pages) {
        c->n_pages = cut ? c->from_page + 1 + rnd() % (n_pages - c->from_page) : n_pages;
        k->attn(c);
    }
}

static void one_attention(const struct lodge_cpu_kernels *k, int n, enum lodge_kv_dtype kv,
                          int round)
{
    uint32_t head = 16 * (1 + rnd() % (round % 10 ? 8 : 32)) - (rnd() % 3 ? 0 : rnd() % 16);
    uint32_t dim = lodge_kv_dim(head), n_pages = 1 + rnd() % 8;
    struct lodge_attn_call c = {.dim = dim,
                                .n_pages = n_pages,
                                .n_queries = 1 + rnd() % 12,
                                .scale = 0.2f,
                                .softcap = round % 5 ? 0 : 3.0f};
    size_t bytes = lodge_kv_head_bytes(kv, head, LODGE_PAGE_TOKENS);
    uint8_t *pages = aligned_alloc(64, n_pages * bytes);
    float *q = malloc(12 * dim * sizeof *q);
    uint8_t *made = aligned_alloc(16, 12 * lodge_kv_query_bytes(kv, dim));
    float *acc[2] = {aligned_alloc(64, 12 * dim * 4), aligned_alloc(64, 12 * dim * 4)};
    uint32_t filled = 1 + rnd() % (n_pages * 32);
    double most = fill_pages(k, n, kv, pages, n_pages, filled, head);
    for (uint32_t i = 0; i < 12 * dim; i++)
        q[i] = i % dim < head ? uniform() : 0;
    if (round % 7 == 0)
        memset(q, 0, dim * sizeof *q);
    for (uint32_t i = 0; i < c.n_queries; i++) {
        c.last[i] = 1 + rnd() % filled;
        c.first[i] = rnd() % 3 ? 0 : rnd() % (c.last[i] + 1);
    }
    for (uint32_t p = 0; p < n_pages; p++)
        c.pages[p] = pages + p * bytes;
    c.q = made;
    for (int i = 0; i < n; i++) {
        for (uint32_t j = 0; j < c.n_queries; j++)
            k[i].kv[kv].query(q + j * dim, head, made + j * lodge_kv_query_bytes(kv, dim));
        struct lodge_attn_call mine = c;
        mine.out.acc = acc[i > 0];
        attend_in_parts(&k[i].kv[kv], &mine, i > 0);
        if (i == 0) {
            memcpy(c.out.max, mine.out.max, sizeof c.out.max);
            memcpy(c.out.sum, mine.out.sum, sizeof c.out.sum);
            c.out.acc = acc[0];
            for (uint32_t j = 0; j < c.n_queries; j++)
                check_attention64(kv, &c, q, j, most);
        }
        ck_assert_msg(equal(acc[0], mine.out.acc, c.n_queries * dim * 4) &&
                          equal(c.out.sum, mine.out.sum, c.n_queries * 4) &&
                          equal(c.out.max, mine.out.max, c.n_queries * 4),
                      "%s attention over %s, dim %u, %u pages", k[i].name, lodge_kv_dtype_name(kv),
                      dim, n_pages);
    }
    free(pages);
    free(q);
    free(made);
    free(acc[0]);
    free(acc[1]);
}

START_TEST(attention_equal)
{
    struct lodge_cpu_kernels k[MAX_RUNGS];
    int n = rungs(k);
    seed();
    for (int round = 0; round < 60; round++)
        for (int kv = 0; kv < LODGE_KV_DTYPE_COUNT; kv++)
            one_attention(k, n, (enum lodge_kv_dtype)kv, round);
}
END_TEST

/* States of n queries; one may have seen nothing, its sums be anything but NaN. */
static struct lodge_attn_state random_state(float *acc, uint32_t n, uint32_t dim)
{
    struct lodge_attn_state s = {.acc = acc};
    for (uint32_t i = 0; i < n; i++) {
        s.max[i] = rnd() % 4 ? uniform() * 30 : -INFINITY;
        s.sum[i] = s.max[i] > -INFINITY ? 1 + uniform() : 0;
        for (uint32_t d = 0; d < dim; d++)
            acc[i * dim + d] = s.max[i] > -INFINITY ? uniform() : 0;
    }
    return s;
}

START_TEST(attention_merges)
{
    struct lodge_cpu_kernels k[MAX_RUNGS];
    int n_rungs = rungs(k);
    float acc[2][12 * 128], want[12 * 128], got[12 * 128];
    seed();
    for (int round = 0; round < 100; round++) {
        uint32_t n = 1 + rnd() % 12, dim = 16 * (1 + rnd() % 8);
        struct lodge_attn_state a = random_state(acc[0], n, dim);
        struct lodge_attn_state b = random_state(acc[1], n, dim), first = a;
        for (int i = 0; i < n_rungs; i++) {
            struct lodge_attn_state s = a;
            s.acc = i ? got : want;
            memcpy(s.acc, a.acc, n * dim * sizeof *s.acc);
            k[i].attn_merge(&s, &b, n, dim);
            for (uint32_t q = 0; q < n && i == 0; q++) {
                double max = fmax((double)a.max[q], (double)b.max[q]);
                double x = a.sum[q] > 0 ? exp((double)a.max[q] - max) : 0;
                double y = b.sum[q] > 0 ? exp((double)b.max[q] - max) : 0;
                for (uint32_t d = q * dim; d < (q + 1) * dim; d++)
                    ck_assert_double_le(
                        fabs((double)s.acc[d] - (double)a.acc[d] * x - (double)b.acc[d] * y), 1e-6);
                ck_assert_double_le(
                    fabs((double)s.sum[q] - (double)a.sum[q] * x - (double)b.sum[q] * y), 1e-6);
            }
            first = i ? first : s;
            ck_assert_msg(equal(s.acc, want, n * dim * 4) && equal(s.max, first.max, n * 4) &&
                              equal(s.sum, first.sum, n * 4),
                          "%s merges %u queries of %u dims", k[i].name, n, dim);
        }
    }
}
END_TEST

START_TEST(attention_ends)
{
    struct lodge_cpu_kernels k[MAX_RUNGS];
    int n_rungs = rungs(k);
    float acc[12 * 128], out[2][12 * 128 + 1];
    seed();
    for (int round = 0; round < 100; round++) {
        uint32_t head_dim = 1 + rnd() % 128, dim = lodge_kv_dim(head_dim);
        uint32_t first = rnd() % 12, n = 1 + rnd() % (12 - first);
        struct lodge_attn_state s = random_state(acc, 12, dim);
        for (int i = 0; i < n_rungs; i++) {
            float *to = out[i > 0];
            for (uint32_t j = 0; j <= n * head_dim; j++)
                to[j] = 7;
            k[i].attn_end(&s, first, n, dim, head_dim, to);
            for (uint32_t j = 0; j < n * head_dim && i == 0; j++) {
                uint32_t q = first + j / head_dim;
                double sum = (double)s.sum[q];
                double exact = sum > 0 ? (double)acc[q * dim + j % head_dim] / sum : 0;
                ck_assert_double_le(fabs((double)to[j] - exact), 2e-7 * fabs(exact));
            }
            ck_assert_msg(equal(to, out[0], (n * head_dim + 1) * 4),
                          "%s ends %u queries of %u dims", k[i].name, n, head_dim);
        }
    }
}
END_TEST

START_TEST(kv_dtypes)
{
    enum lodge_kv_dtype t;
    for (int i = 0; i < LODGE_KV_DTYPE_COUNT; i++) {
        ck_assert_int_eq(
            lodge_kv_dtype_parse(lodge_kv_dtype_name((enum lodge_kv_dtype)i), &t, NULL), 0);
        ck_assert_int_eq((int)t, i);
    }
    ck_assert(lodge_kv_dtype_parse("bfloat16", &t, NULL) == 0 && t == LODGE_KV_BF16);
    ck_assert(lodge_kv_dtype_parse("auto", &t, NULL) == 0 && t == LODGE_KV_BF16);
    ck_assert(lodge_kv_dtype_parse(NULL, &t, NULL) == 0 && t == LODGE_KV_BF16);
    ck_assert_int_eq(lodge_kv_dtype_parse("fp8", &t, NULL), LODGE_ERR_INVALID);
    ck_assert_uint_eq(lodge_kv_head_bytes(LODGE_KV_BF16, 64, 32), 2 * 32 * 64 * 2);
    ck_assert_uint_eq(lodge_kv_head_bytes(LODGE_KV_INT8, 64, 32), 2 * 32 * (64 + 2));
    ck_assert_uint_eq(lodge_kv_head_bytes(LODGE_KV_INT8, 65, 32), 2 * 32 * (80 + 2));
    /* 3 layers of 2 heads of 16 dims: 12,288 and 6,912 bytes, in whole cells of 4 KiB. */
    struct lodge_layer_group g = {.n_layers = 3, .n_kv_heads = 2, .head_dim = 16};
    const struct lodge_plan p = {.groups = &g, .n_groups = 1};
    ck_assert_uint_eq(lodge_plan_page_bytes(&p, LODGE_KV_BF16, 32), 12288);
    ck_assert_uint_eq(lodge_plan_page_bytes(&p, LODGE_KV_INT8, 32), 8192);
}
END_TEST

START_TEST(exp_is_close)
{
    for (double x = -86.9; x < 87.9; x += 0.0137) {
        double want = exp((double)(float)x), got = (double)lodge_ref_exp((float)x);
        ck_assert_double_le(fabs(got - want), want * 3e-7);
    }
    ck_assert_float_eq(lodge_ref_exp(-INFINITY), 0);
}
END_TEST

START_TEST(formats_decode)
{
    /* Q4_0: d = 2, codes 0..15 twice; Q4_1 adds a minimum; Q8_0 negative scale and -128. */
    uint8_t q4[18] = {0x00, 0x40}, q41[20] = {0x00, 0x40, 0x00, 0x3C}, q8[34] = {0x00, 0xC0};
    float w[32];
    for (int j = 0; j < 16; j++)
        q4[2 + j] = q41[4 + j] = (uint8_t)(j | (15 - j) << 4);
    for (int j = 0; j < 32; j++)
        q8[2 + j] = (uint8_t)(int8_t)(j - 128);
    lodge_format_decode(LODGE_FMT_Q4_0, q4, 32, w);
    ck_assert_float_eq(w[3], -10);
    ck_assert_float_eq(w[19], 8);
    lodge_format_decode(LODGE_FMT_Q4_1, q41, 32, w);
    ck_assert_float_eq(w[3], 7);
    ck_assert_float_eq(w[19], 25);
    lodge_format_decode(LODGE_FMT_Q8_0, q8, 32, w);
    ck_assert_float_eq(w[0], 256);
    ck_assert_float_eq(w[31], 194);
}
END_TEST

/* ---- what lies in files of packed weights ---- */

/* Checksums (XXH64, low half) of packed panels of fixed random rows, by rung. When a layout
 * is changed on purpose: raise LODGE_CPU_PANEL_VERSION, then take over what the failing test
 * prints. */
#define DIGESTS_OF_VERSION 1
static const uint32_t panel_digests[LODGE_FMT_COUNT][MAX_RUNGS] = {
    [LODGE_FMT_F32] = {0x33BDEE2C, 0xC6461C20, 0xC6461C20, 0xC8443D36, 0xC8443D36, 0xC6461C20,
                       0xC6461C20},
    [LODGE_FMT_F16] = {0x434C70C0, 0x24F9361D, 0x24F9361D, 0xD4D9BC33, 0xD4D9BC33, 0x24F9361D,
                       0x24F9361D},
    [LODGE_FMT_BF16] = {0xD712F128, 0x87BE9D67, 0x87BE9D67, 0x556FEA26, 0x556FEA26, 0x87BE9D67,
                        0x87BE9D67},
    [LODGE_FMT_F8_E4M3] = {0x35E37E61, 0x4C36EE20, 0x4C36EE20, 0x4ACA2D6E, 0x4ACA2D6E, 0x4C36EE20,
                           0x4C36EE20},
    [LODGE_FMT_Q8_0] = {0xAFD1BB88, 0x07B48C86, 0x36A86CF0, 0x84A82E96, 0x84A82E96, 0x07B48C86,
                        0x2DEDAC11},
    [LODGE_FMT_Q4_0] = {0xE355C599, 0xE882219B, 0xE882219B, 0x2536F509, 0x2536F509, 0x39D9A9DB,
                        0x0E1AED42},
    [LODGE_FMT_Q4_1] = {0x3AE5A72F, 0x66784B90, 0x66784B90, 0x8FA0B30A, 0x8FA0B30A, 0x66784B90,
                        0x6DA3B0FF},
    [LODGE_FMT_Q5_0] = {0x6D310336, 0x513A2535, 0x513A2535, 0x20042350, 0x20042350, 0xBA93193D,
                        0x6F0E4DD0},
    [LODGE_FMT_Q5_1] = {0x3E4B86B3, 0x5BA99F91, 0x5BA99F91, 0xF35D784D, 0xF35D784D, 0x5BA99F91,
                        0x2CFD96FF},
    [LODGE_FMT_Q2_K] = {0x267F7106, 0xDBCB330D, 0xDBCB330D, 0x6A89A81B, 0x6A89A81B, 0xDBCB330D,
                        0xD5F3C311},
    [LODGE_FMT_Q3_K] = {0xBEBE53E0, 0x78D1EAAC, 0x78D1EAAC, 0x192CCC55, 0x192CCC55, 0xE88F896A,
                        0x12923C55},
    [LODGE_FMT_Q4_K] = {0xD58C5599, 0x6554506F, 0x6554506F, 0x92A0E20D, 0x92A0E20D, 0x6554506F,
                        0x7F4FCD26},
    [LODGE_FMT_Q5_K] = {0x14F3D3B5, 0xF0BD238D, 0xF0BD238D, 0x6E65D273, 0x6E65D273, 0xF0BD238D,
                        0x91D65C71},
    [LODGE_FMT_Q6_K] = {0x5386C039, 0x5E3AAC34, 0x5E3AAC34, 0x4154A410, 0x4154A410, 0x5CA3665F,
                        0x5D710BC2},
    [LODGE_FMT_IQ4_NL] = {0xE355C599, 0xE882219B, 0xE882219B, 0x2536F509, 0x2536F509, 0xE882219B,
                          0x4DFCD14A},
    [LODGE_FMT_IQ4_XS] = {0x45127161, 0x3AE5C93B, 0x3AE5C93B, 0xBF46ABCE, 0xBF46ABCE, 0x3AE5C93B,
                          0x7BDCCF7C},
    [LODGE_FMT_MXFP4] = {0x8C99F87E, 0x1D228776, 0x1D228776, 0xD2F8F180, 0xD2F8F180, 0x1D228776,
                         0xA9A24218},
};

static uint32_t panel_digest(const struct lodge_cpu_kernels *k, enum lodge_format f)
{
    const uint32_t n_cols = lodge_format_info(f)->block == 1 ? 301 : 768;
    static const float scales[3] = {0.5f, 2, -3};
    struct lodge_panel_rows rows = {.scale_cols = LODGE_SCALE_COLS};
    size_t row_bytes = 0, n = lodge_panel_bytes(f, n_cols);
    lodge_format_row_bytes(f, n_cols, &row_bytes);
    uint8_t *stored = calloc(31, row_bytes), *panel = calloc(1, n);
    state = 1;
    for (int r = 0; r < 31; r++) { /* the last is padding */
        random_row(f, stored + r * row_bytes, n_cols);
        rows.data[r] = stored + r * row_bytes;
        rows.scales[r] = scales;
    }
    k->gemm[f].pack(&rows, n_cols, panel);
    uint32_t digest = (uint32_t)lodge_xxh64(panel, n, 0);
    free(stored);
    free(panel);
    return digest;
}

START_TEST(layouts_are_known)
{
    int n_other = 0;
    ck_assert_int_eq(LODGE_CPU_PANEL_VERSION, DIGESTS_OF_VERSION);
    for (unsigned i = 0; lodge_cpu_rung_name(i); i++) {
        struct lodge_cpu_kernels k;
        if (lodge_cpu_kernels_init(&k, lodge_cpu_rung_name(i), NULL))
            continue;
        for (int f = 0; f < LODGE_FMT_COUNT; f++) {
            uint32_t got = panel_digest(&k, (enum lodge_format)f);
            if (got == panel_digests[f][i])
                continue;
            fprintf(stderr, "%s, %s: 0x%08X\n", k.name,
                    lodge_format_info((enum lodge_format)f)->name, got);
            n_other++;
        }
    }
    ck_assert_msg(n_other == 0,
                  "layouts have changed: raise LODGE_CPU_PANEL_VERSION (kernels/cpu/panel.h), or "
                  "old files of packed weights are read as what they are not");
}
END_TEST

int main(void)
{
    Suite *s = suite_create("rungs");
    TCase *t = tcase_create("all");
    tcase_set_timeout(t, 120);
    tcase_add_test(t, formats_decode);
    tcase_add_test(t, exp_is_close);
    tcase_add_test(t, gemm_equal);
    tcase_add_test(t, bf16_extremes);
    tcase_add_test(t, bf16_rounding);
    tcase_add_test(t, rows_equal);
    tcase_add_test(t, random_words);
    tcase_add_test(t, attention_equal);
    tcase_add_test(t, attention_merges);
    tcase_add_test(t, attention_ends);
    tcase_add_test(t, layouts_are_known);
    tcase_add_test(t, kv_dtypes);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    lodge_cpu_flush_denormals();
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
