/* Adapter products: every rung against the reference, bit for bit; and the CPU backend's whole path
 * (packing, pages, spans, shrink, expand, gains) against fp64 over the same bf16 numbers: ranks 1
 * to 256 mixed, runs of 1 to 300 rows, rows without adapters between, several adapters a row, any
 * number of threads. Seeds are printed on failure; LODGE_TEST_SEED repeats one. */
#include "kernels/cpu/device.h"
#include "kernels/ref/math.h"

#include <check.h>
#include <math.h>
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
    state = text ? strtoull(text, NULL, 10) : 20261128;
}

#define MAX_RUNGS 7

static void *make(size_t n, size_t size)
{
    void *p = aligned_alloc(64, (n * size + 127) / 64 * 64);
    ck_assert_ptr_nonnull(p);
    memset(p, 0, (n * size + 127) / 64 * 64);
    return p;
}

static uint16_t *random_bf16(size_t n, float amp)
{
    uint16_t *x = make(n, sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = lodge_float_bf16(uniform() * amp);
    return x;
}

/* ---- the three kernels, rung by rung ---- */

static void one_shrink(const struct lodge_cpu_kernels *k, int n, unsigned m)
{
    uint32_t n_lines = (rnd() % 80 + 1) * 2, begun = rnd() % 2, granules = 1 + rnd() % 2;
    size_t ldx = 4 * n_lines + rnd() % 3 * 16, t_bytes = LODGE_LORA_ROWS * 17 * sizeof(float);
    uint16_t *cells[6], *x = random_bf16(m * ldx, 100);
    const uint8_t *at[2][3];
    for (int i = 0; i < 6; i++) {
        cells[i] = random_bf16(2048, 1);
        at[i / 3][i % 3] = (uint8_t *)cells[i];
    }
    const uint8_t *const *const rows[2] = {at[0], at[1]};
    lodge_lora_chains begin, got;
    float t[2][LODGE_LORA_ROWS * 17];
    for (size_t i = 0; i < sizeof begin / sizeof(float); i++)
        ((float *)begin)[i] = uniform();
    for (int i = 0; i < n; i++) {
        memcpy(got, begin, sizeof got);
        memset(t[i > 0], 0, t_bytes);
        k[i].lora_shrink(rows, granules, n_lines, x, ldx, m, !begun, got);
        k[i].lora_sum(got, granules, m, t[i > 0], 17);
        ck_assert_msg(memcmp(t[0], t[i > 0], t_bytes) == 0, "%s: shrink of %u rows, %u lines",
                      k[i].name, m, n_lines);
    }
    for (int i = 0; i < 6; i++)
        free(cells[i]);
    free(x);
}

static void one_expand(const struct lodge_cpu_kernels *k, int n, unsigned m)
{
    unsigned n_blocks = rnd() % LODGE_LORA_BLOCKS + 1;
    size_t ldt = n_blocks * 8 + rnd() % 5, ld = 32 + rnd() % 9, size = m * ld + 8;
    bool direct = rnd() % 2;
    /* The block after the last may be fetched. */
    uint16_t *b = random_bf16((n_blocks + 1) * 256, 1);
    const uint8_t *blocks[LODGE_LORA_BLOCKS];
    float *t = make(m * ldt, 4), *begin = make(size, 4), *first = make(size, 4);
    float *got = make(size, 4);
    for (unsigned i = 0; i < n_blocks; i++)
        blocks[i] = (const uint8_t *)(b + i * 256);
    for (size_t i = 0; i < m * ldt; i++)
        t[i] = uniform() * 10;
    for (size_t i = 0; i < size; i++)
        begin[i] = uniform();
    struct lodge_lora_expand e = {.blocks = blocks,
                                  .n = n_blocks,
                                  .m = m,
                                  .t = t,
                                  .ldt = ldt,
                                  .acc = direct ? NULL : got,
                                  .y = got,
                                  .ld = ld,
                                  .n_cols = rnd() % 32 + 1,
                                  .scale = uniform() * 8};
    for (int i = 0; i < n; i++) {
        memcpy(got, begin, size * 4);
        k[i].lora_expand(&e);
        if (i == 0)
            memcpy(first, got, size * 4);
        ck_assert_msg(memcmp(first, got, size * 4) == 0, "%s: expand of %u rows, %u blocks",
                      k[i].name, m, n_blocks);
    }
    for (unsigned i = 0; i < m && direct; i++)
        for (size_t j = e.n_cols; j < ld; j++)
            ck_assert_msg(first[i * ld + j] == begin[i * ld + j], "wrote beyond its columns");
    free(b);
    free(t);
    free(begin);
    free(first);
    free(got);
}

static void one_add(const struct lodge_cpu_kernels *k, int n, unsigned m)
{
    uint32_t cols = rnd() % 32 + 1;
    float y[12 * 40], begin[12 * 40], first[12 * 40], acc[12 * 32], base[12 * 32], gain[32];
    const float *g = rnd() % 2 ? gain : NULL, scale = uniform() * 8;
    for (int i = 0; i < 12 * 40; i++)
        begin[i] = uniform();
    for (int i = 0; i < 12 * 32; i++) {
        acc[i] = uniform();
        base[i] = uniform();
    }
    for (int i = 0; i < 32; i++)
        gain[i] = uniform() + 1;
    for (int i = 0; i < n; i++) {
        memcpy(y, begin, sizeof y);
        k[i].lora_add(y, 40, acc, base, g, scale, m, cols);
        if (i == 0)
            memcpy(first, y, sizeof y);
        ck_assert_msg(memcmp(first, y, sizeof y) == 0, "%s: add of %u rows, %u columns", k[i].name,
                      m, cols);
    }
    for (unsigned i = 0; i < 12; i++)
        for (unsigned j = i < m ? cols : 0; j < 40; j++)
            ck_assert_msg(first[i * 40 + j] == begin[i * 40 + j], "wrote beyond its columns");
}

START_TEST(rungs_equal)
{
    struct lodge_cpu_kernels k[MAX_RUNGS];
    int n = 0;
    seed();
    for (unsigned i = 0; lodge_cpu_rung_name(i); i++)
        n += lodge_cpu_kernels_init(&k[n], lodge_cpu_rung_name(i), NULL) == 0;
    for (int round = 0; round < 40; round++) {
        for (unsigned m = 1; m <= LODGE_LORA_ROWS; m++)
            one_shrink(k, n, m);
        for (unsigned m = 1; m <= LODGE_TILE_ROWS_MAX; m++) {
            one_expand(k, n, m);
            one_add(k, n, m);
        }
    }
}
END_TEST

/* ---- the backend's path ---- */

#define N_ADAPTERS 8
#define N_LINEARS 3
#define MAX_TOKENS 700

struct lab {
    const struct lodge_backend *backend;
    struct lodge_device *d;
    struct lodge_plan plan;
    struct lodge_linear linears[N_LINEARS];
    struct lodge_tensor tensors[N_LINEARS];
    float *w[N_LINEARS];
    struct lodge_lora_target targets[N_ADAPTERS][N_LINEARS];
    struct lodge_lora lora[N_ADAPTERS];
    struct lodge_lora_layout layouts[N_ADAPTERS];
    uint32_t slots[N_ADAPTERS];
    uint32_t next_page;
    uint16_t *xb;
    size_t ldx;
    struct lodge_row rows[64];
    struct lodge_row_adapter pairs[64 * 8];
    struct lodge_step step;
    float *y[N_LINEARS];
};

/* Linears that share an input, as q, k and v do; K and N with odd tails. */
static void make_plan(struct lab *l)
{
    uint32_t n_cols = 33 + rnd() % 700;
    static const enum lodge_site sites[] = {LODGE_SITE_Q, LODGE_SITE_K, LODGE_SITE_V};
    for (int i = 0; i < N_LINEARS; i++) {
        uint32_t n_rows = 1 + rnd() % 1200;
        l->linears[i] = (struct lodge_linear){.format = LODGE_FMT_F32,
                                              .n_rows = n_rows,
                                              .n_cols = n_cols,
                                              .head_dim = 1,
                                              .site = sites[i],
                                              .layer = 0};
        l->w[i] = make((size_t)n_rows * n_cols, 4);
        for (size_t j = 0; j < (size_t)n_rows * n_cols; j++)
            l->w[i][j] = uniform() * 0.1f;
        l->tensors[i].data = l->w[i];
    }
    l->plan = (struct lodge_plan){.d_model = n_cols,
                                  .n_layers = 1,
                                  .n_vocab = 8,
                                  .n_vocab_text = 8,
                                  .linears = l->linears,
                                  .tensors = l->tensors,
                                  .n_linears = N_LINEARS};
    l->ldx = lodge_cpu_lora_stride(n_cols);
}

static void make_target(struct lab *l, uint32_t linear, uint32_t rank, struct lodge_lora_target *t)
{
    uint32_t n = l->linears[linear].n_rows, k = l->linears[linear].n_cols;
    *t = (struct lodge_lora_target){.linear = linear,
                                    .rank = rank,
                                    .scale = uniform() * 2,
                                    .a = random_bf16((size_t)rank * k, 0.1f),
                                    .b = random_bf16((size_t)n * rank, 0.1f)};
    float *v = make(n, 4);
    for (uint32_t i = 0; i < n; i++)
        v[i] = uniform() + 2;
    if (rnd() % 4 == 0)
        t->magnitude = v;
    else if (rnd() % 3 == 0)
        t->offset = v;
    else
        free(v);
}

/* Pages in random order, so that only the table can find them. */
static void open_adapter(struct lab *l, int a, uint32_t *page_order)
{
    static const uint32_t ranks[] = {1, 4, 8, 13, 16, 64, 96, 256};
    uint32_t n = 0;
    for (uint32_t i = 0; i < N_LINEARS; i++)
        if (rnd() % 4 || (i == N_LINEARS - 1 && !n))
            make_target(l, i, rnd() % 3 ? ranks[a] : ranks[rnd() % 8], &l->targets[a][n++]);
    l->lora[a] = (struct lodge_lora){l->targets[a], n};
    ck_assert_int_eq(lodge_lora_layout_init(&l->layouts[a], &l->plan, &l->lora[a], NULL), 0);
    uint8_t *image = make(l->layouts[a].n_cells, LODGE_CELL_BYTES);
    for (uint32_t i = 0; i < n; i++)
        ck_assert_int_eq(
            l->backend->adapter_pack(l->d, &l->lora[a], &l->layouts[a], i, image, NULL), 0);
    uint32_t per_page = (uint32_t)(l->d->page_bytes / LODGE_CELL_BYTES);
    uint32_t n_pages = (l->layouts[a].n_cells + per_page - 1) / per_page;
    ck_assert_uint_le(l->next_page + n_pages, l->d->n_pages);
    ck_assert_int_eq(l->backend->adapter_open(l->d, &l->layouts[a], page_order + l->next_page,
                                              n_pages, &l->slots[a], NULL),
                     0);
    l->next_page += n_pages;
    /* In slices that end anywhere. */
    for (uint32_t c = 0; c < l->layouts[a].n_cells;) {
        uint32_t some = rnd() % 50 + 1, left = l->layouts[a].n_cells - c;
        some = some < left ? some : left;
        l->backend->adapter_upload(l->d, l->slots[a], image, c, some);
        c += some;
    }
    free(image);
}

static void open_lab(struct lab *l, const char *isa, unsigned n_threads)
{
    const struct lodge_device_config cfg = {.isa = isa,
                                            .n_threads = n_threads,
                                            .max_rows = MAX_TOKENS,
                                            .max_slots = 64,
                                            .max_logit_rows = 8,
                                            .max_step_ranks = MAX_TOKENS * 8 * 768};
    *l = (struct lab){.backend = lodge_backend_cpu()};
    make_plan(l);
    ck_assert_int_eq(l->backend->open(&cfg, &l->d, NULL), 0);
    ck_assert_int_eq(l->backend->model_load(l->d, &l->plan, NULL, NULL, NULL, NULL), 0);
    l->d->page_bytes = (size_t)LODGE_CELL_BYTES * (1 + rnd() % 9);
    ck_assert_int_eq(
        l->backend->pool_create(l->d, (uint32_t)(((size_t)64 << 20) / l->d->page_bytes), NULL), 0);
    uint32_t *order = make(l->d->n_pages, sizeof *order);
    for (uint32_t i = 0; i < l->d->n_pages; i++) {
        uint32_t j = rnd() % (i + 1);
        order[i] = order[j];
        order[j] = i;
    }
    for (int a = 0; a < N_ADAPTERS; a++)
        open_adapter(l, a, order);
    free(order);
}

static void close_lab(struct lab *l)
{
    for (int a = 0; a < N_ADAPTERS; a++) {
        l->backend->adapter_close(l->d, l->slots[a]);
        lodge_lora_layout_finish(&l->layouts[a]);
        for (uint32_t i = 0; i < l->lora[a].n_targets; i++) {
            free((void *)(uintptr_t)l->targets[a][i].a);
            free((void *)(uintptr_t)l->targets[a][i].b);
            free((void *)(uintptr_t)l->targets[a][i].magnitude);
            free((void *)(uintptr_t)l->targets[a][i].offset);
        }
    }
    for (int i = 0; i < N_LINEARS; i++) {
        free(l->w[i]);
        free(l->y[i]);
    }
    free(l->xb);
    l->backend->close(l->d);
}

/* Rows of random length; each has none, one, or several adapters. */
static void make_step(struct lab *l)
{
    uint32_t n = 0, n_pairs = 0, n_rows = 0;
    while (n_rows < 40) {
        uint32_t len = rnd() % 8 ? 1 + rnd() % 6 : 1 + rnd() % 300, kinds = rnd() % 6;
        if (n + len > MAX_TOKENS)
            break;
        struct lodge_row *row = &l->rows[n_rows];
        *row = (struct lodge_row){
            .slot = n_rows, .n_tokens = len, .first_token = n, .first_adapter = n_pairs};
        n_rows++;
        row->n_adapters = kinds == 0 ? 0 : kinds == 5 ? 2 + rnd() % 3 : 1;
        for (uint32_t i = 0; i < row->n_adapters; i++)
            l->pairs[n_pairs++] =
                (struct lodge_row_adapter){l->slots[rnd() % N_ADAPTERS], rnd() % 2 ? 1 : uniform()};
        n += len;
    }
    l->step = (struct lodge_step){.rows = l->rows,
                                  .n_rows = n_rows,
                                  .n_tokens = n,
                                  .adapters = l->pairs,
                                  .n_adapters = n_pairs};
    l->xb = random_bf16(n * l->ldx, 2);
    /* Padding of a row is zero. */
    for (uint32_t i = 0; i < n; i++)
        memset(l->xb + i * l->ldx + l->plan.d_model, 0, (l->ldx - l->plan.d_model) * sizeof *l->xb);
}

static float product(const struct lab *l, int linear, uint32_t token, uint32_t n)
{
    float sum = 0;
    for (uint32_t k = 0; k < l->plan.d_model; k++)
        sum += l->w[linear][(size_t)n * l->plan.d_model + k] *
               lodge_bf16_float(l->xb[token * l->ldx + k]);
    return sum;
}

static void run_products(void *ctx, unsigned worker, unsigned n_workers)
{
    struct lab *l = ctx;
    static const int32_t linears[N_LINEARS] = {0, 1, 2};
    unsigned mode = lodge_cpu_flush_denormals();
    lodge_cpu_lora_shrink(l->d, &l->d->lora, linears, N_LINEARS, l->xb, worker, n_workers);
    for (int i = 0; i < N_LINEARS; i++) {
        uint32_t n = l->linears[i].n_rows, panels = (n + 31) / 32;
        for (uint32_t p = worker; p < panels; p += n_workers)
            for (uint32_t first = 0; first < l->step.n_tokens; first += LODGE_TILE_ROWS_MAX) {
                uint32_t left = l->step.n_tokens - first;
                struct block b = {.linear = (uint32_t)i,
                                  .panel = p,
                                  .first_row = first,
                                  .m = left < LODGE_TILE_ROWS_MAX ? left : LODGE_TILE_ROWS_MAX,
                                  .from = p * 32,
                                  .n_cols = n - p * 32 < 32 ? n - p * 32 : 32,
                                  .ld = n};
                b.y = l->y[i] + (size_t)first * n + b.from;
                for (unsigned r = 0; r < b.m; r++)
                    for (uint32_t c = 0; c < b.n_cols; c++)
                        b.y[r * b.ld + c] = product(l, i, first + r, b.from + c);
                lodge_cpu_lora_expand(l->d, &l->d->lora, &b);
            }
    }
    lodge_cpu_restore_denormals(mode);
}

static void run_step(struct lab *l)
{
    for (int i = 0; i < N_LINEARS; i++) {
        free(l->y[i]);
        l->y[i] = make((size_t)l->step.n_tokens * l->linears[i].n_rows, 4);
    }
    l->d->step = &l->step;
    ck_assert(lodge_cpu_lora_plan(l->d, &l->step));
    lodge_workers_run(l->d->workers, run_products, l);
}

/* g of one output in fp64, from the definition. */
static double gain64(const struct lab *l, const struct lodge_lora_target *t, uint32_t n)
{
    double sum = 0;
    uint32_t k_cols = l->plan.d_model;
    for (uint32_t k = 0; k < k_cols; k++) {
        double v = (double)l->w[t->linear][(size_t)n * k_cols + k];
        for (uint32_t r = 0; r < t->rank; r++)
            v += (double)t->scale * (double)lodge_bf16_float(t->b[(size_t)n * t->rank + r]) *
                 (double)lodge_bf16_float(t->a[(size_t)r * k_cols + k]);
        sum += v * v;
    }
    return (double)t->magnitude[n] / sqrt(sum);
}

/* What one adapter adds to output n of a token, and the size of the numbers on the way. */
static double delta64(const struct lab *l, const struct lodge_lora_target *t, uint32_t token,
                      uint32_t n, double scale, double *size)
{
    double sum = t->offset ? (double)t->offset[n] : 0,
           base = (double)product(l, (int)t->linear, token, n);
    *size = fabs(sum);
    for (uint32_t r = 0; r < t->rank; r++) {
        double x = 0, ax = 0, b = (double)lodge_bf16_float(t->b[(size_t)n * t->rank + r]);
        for (uint32_t k = 0; k < l->plan.d_model; k++) {
            double p = (double)lodge_bf16_float(t->a[(size_t)r * l->plan.d_model + k]) *
                       (double)lodge_bf16_float(l->xb[token * l->ldx + k]);
            x += p;
            ax += fabs(p);
        }
        sum += b * x;
        *size += fabs(b) * ax;
    }
    double s = scale * (double)t->scale, g = t->magnitude ? gain64(l, t, n) : 1;
    *size = *size * fabs(s * g) + (t->magnitude ? fabs(base) * 20 : 0);
    return g * s * sum + (g - 1) * base;
}

/* A sample of outputs of every row. */
static void check_row(const struct lab *l, const struct lodge_row *row)
{
    for (int i = 0; i < N_LINEARS; i++) {
        uint32_t n_rows = l->linears[i].n_rows, n = rnd() % n_rows;
        uint32_t token = row->first_token + rnd() % row->n_tokens;
        double want = (double)product(l, i, token, n), bound = 1e-30;
        for (uint32_t p = 0; p < row->n_adapters; p++) {
            const struct lodge_row_adapter *ra = &l->pairs[row->first_adapter + p];
            int a = 0;
            while (l->slots[a] != ra->adapter)
                a++;
            for (uint32_t t = 0; t < l->lora[a].n_targets; t++) {
                double size;
                if (l->targets[a][t].linear != (uint32_t)i)
                    continue;
                want += delta64(l, &l->targets[a][t], token, n, (double)ra->scale, &size);
                bound += size * 0x1p-19 * sqrt(l->plan.d_model);
            }
        }
        double got = (double)l->y[i][(size_t)token * n_rows + n];
        if (row->n_adapters == 0)
            ck_assert_msg(got == want, "a row without adapters was touched");
        ck_assert_msg(fabs(got - want) <= bound + fabs(want) * 1e-6,
                      "token %u output %u of linear %d: %g against fp64 %g (bound %g)", token, n, i,
                      got, want, bound);
    }
}

START_TEST(path_against_fp64)
{
    seed();
    for (int round = 0; round < 6; round++) {
        struct lab l;
        open_lab(&l, round % 2 ? NULL : "ref", 1 + (unsigned)round % 3);
        make_step(&l);
        run_step(&l);
        for (int k = 0; k < 4; k++)
            for (uint32_t r = 0; r < l.step.n_rows; r++)
                check_row(&l, &l.rows[r]);
        close_lab(&l);
    }
}
END_TEST

/* Each row alone has the bits it has among others; so do chunks of a row. */
START_TEST(neighbours_do_not_matter)
{
    seed();
    struct lab l;
    open_lab(&l, NULL, 2);
    make_step(&l);
    run_step(&l);
    float *all[N_LINEARS];
    const struct lodge_step whole = l.step;
    uint16_t *xb = l.xb;
    for (int i = 0; i < N_LINEARS; i++) {
        all[i] = l.y[i];
        l.y[i] = NULL;
    }
    for (uint32_t r = 0; r < whole.n_rows; r++) {
        struct lodge_row one = whole.rows[r];
        uint32_t skip = rnd() % one.n_tokens, first = one.first_token + skip;
        one.first_token = 0;
        one.n_tokens = 1 + rnd() % (one.n_tokens - skip);
        l.step.rows = &one;
        l.step.n_rows = 1;
        l.step.n_tokens = one.n_tokens;
        l.xb = xb + first * l.ldx;
        run_step(&l);
        for (int i = 0; i < N_LINEARS; i++)
            ck_assert_msg(memcmp(l.y[i], all[i] + (size_t)first * l.linears[i].n_rows,
                                 (size_t)one.n_tokens * l.linears[i].n_rows * 4) == 0,
                          "row %u differs alone", r);
    }
    for (int i = 0; i < N_LINEARS; i++)
        free(all[i]);
    l.xb = xb;
    close_lab(&l);
}
END_TEST

/* Twice the scale is twice the delta, to the rounding of one addition; scale 0 is the base. */
START_TEST(linear_in_the_scale)
{
    seed();
    struct lab l;
    open_lab(&l, NULL, 1);
    make_step(&l);
    static const float scales[] = {0, 1, 2};
    float *y[3][N_LINEARS];
    for (uint32_t r = 0; r < l.step.n_rows; r++)
        l.rows[r].n_adapters = l.rows[r].n_adapters > 0;
    for (int s = 0; s < 3; s++) {
        for (uint32_t p = 0; p < l.step.n_adapters; p++)
            l.pairs[p].scale = scales[s];
        run_step(&l);
        for (int i = 0; i < N_LINEARS; i++) {
            y[s][i] = l.y[i];
            l.y[i] = NULL;
        }
    }
    for (uint32_t r = 0; r < l.step.n_rows; r++) {
        const struct lodge_row *row = &l.rows[r];
        uint32_t a = 0;
        while (row->n_adapters && l.slots[a] != l.pairs[row->first_adapter].adapter)
            a++;
        if (!row->n_adapters || l.layouts[a].scaled_once)
            continue;
        for (int i = 0; i < N_LINEARS; i++)
            for (uint32_t n = 0; n < l.linears[i].n_rows; n++) {
                size_t at = (size_t)row->first_token * l.linears[i].n_rows + n;
                float base = product(&l, i, row->first_token, n);
                double one = (double)y[1][i][at] - (double)base;
                double two = (double)y[2][i][at] - (double)base;
                ck_assert_msg(y[0][i][at] == base, "scale 0 is not the base");
                ck_assert_msg(fabs(two - 2 * one) <=
                                  1e-6 * (fabs((double)base) + fabs(two)) + 1e-30,
                              "scale 2 gives %g, twice scale 1 is %g", two, 2 * one);
            }
    }
    for (int s = 0; s < 3; s++)
        for (int i = 0; i < N_LINEARS; i++)
            free(y[s][i]);
    close_lab(&l);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("lora");
    TCase *t = tcase_create("all");
    tcase_set_timeout(t, 200);
    tcase_add_test(t, rungs_equal);
    tcase_add_test(t, path_against_fp64);
    tcase_add_test(t, neighbours_do_not_matter);
    tcase_add_test(t, linear_in_the_scale);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
