/* What adapters add to a step of the CPU backend.
 *
 *   bench_lora MODEL [--isa RUNG] [--threads N] [--targets all|qv] [--runs N] [--case TEXT]
 *
 * Each case runs steps with and without adapters in turn and prints the medians. The floor is the
 * base step plus the larger of two times: the distinct adapters' bytes at the read rate of that
 * moment, and their operations at the peak rates of that moment (bf16 dot products for A x, fp32
 * multiply-adds for B t). Cases: decode of one sequence; of 32 sequences on 1, 8 and 32 distinct
 * adapters; mixed ranks; one rank 256 beside 31 of rank 8; a prompt of 512 tokens. Then the time
 * that the items of rank 8 take by themselves, with the one of rank 256 in the batch and without.
 */
#include "base/pages.h"
#include "engine/files/model_file.h"
#include "kernels/backend.h"
#include "kernels/cpu/device.h"
#include "kernels/ref/math.h"
#include "tests/bench/limits.h"
#include "tests/bench/median.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PREFILL 512u
#define MAX_BATCH 32u
#define MAX_CONTEXT 512u
#define MAX_RUNS 101
#define COLD_BYTES ((size_t)128 << 20)

struct adapter {
    struct lodge_lora_layout layout;
    uint32_t slot, rank;
};

struct bench {
    const struct lodge_backend *backend;
    struct lodge_device *device;
    struct lodge_device_info info;
    struct lodge_plan *plan;
    struct lodge_workers *readers;
    uint8_t *cold;
    uint32_t *tokens, *pages;
    uint32_t next_page, n_pages;
    size_t page_bytes;
    bool only_qv;
    const char *only; /* cases whose name holds this; NULL: all */
    int runs;
    struct lodge_row rows[MAX_BATCH];
    struct lodge_row_adapter pairs[MAX_BATCH];
    struct lodge_sampling sampling;
};

static void die(const char *what)
{
    fprintf(stderr, "%s\n", what);
    exit(1);
}

static uint16_t *random_bf16(size_t n, uint32_t *state)
{
    uint16_t *x = malloc(n * sizeof *x);
    for (size_t i = 0; x && i < n; i++) {
        *state = *state * 1664525u + 1013904223u;
        x[i] = lodge_float_bf16((float)(int32_t)*state * 0x1p-31f * 0.01f);
    }
    return x;
}

static bool is_target(const struct bench *b, const struct lodge_linear *l)
{
    if (b->only_qv)
        return l->site == LODGE_SITE_Q || l->site == LODGE_SITE_V;
    return l->site != LODGE_SITE_EMBED && l->site != LODGE_SITE_HEAD;
}

/* An adapter of random numbers, in the pool. */
static struct adapter *make_adapter(struct bench *b, uint32_t rank)
{
    static uint32_t state = 1;
    struct adapter *a = calloc(1, sizeof *a);
    struct lodge_lora_target *t = calloc(b->plan->n_linears, sizeof *t);
    struct lodge_lora lora = {t, 0};
    struct lodge_error e = {0};
    if (!a || !t)
        die("no memory");
    for (uint32_t i = 0; i < b->plan->n_linears; i++) {
        const struct lodge_linear *l = &b->plan->linears[i];
        if (is_target(b, l))
            t[lora.n_targets++] =
                (struct lodge_lora_target){.linear = i,
                                           .rank = rank,
                                           .scale = 1,
                                           .a = random_bf16((size_t)rank * l->n_cols, &state),
                                           .b = random_bf16((size_t)rank * l->n_rows, &state)};
    }
    a->rank = rank;
    if (lodge_lora_layout_init(&a->layout, b->plan, &lora, &e))
        die(e.text);
    uint32_t per_page = (uint32_t)(b->page_bytes / LODGE_CELL_BYTES);
    uint32_t n = (a->layout.n_cells + per_page - 1) / per_page, *pages = malloc(n * sizeof *pages);
    size_t n_bytes = (size_t)a->layout.n_cells * LODGE_CELL_BYTES;
    uint8_t *image = lodge_pages_map(n_bytes);
    if (!pages || !image || b->next_page + n > b->n_pages)
        die("no room for an adapter");
    for (uint32_t i = 0; i < n; i++)
        pages[i] = b->next_page++;
    for (uint32_t i = 0; i < lora.n_targets; i++)
        if (b->backend->adapter_pack(b->device, &lora, &a->layout, i, image, &e))
            die(e.text);
    if (b->backend->adapter_open(b->device, &a->layout, pages, n, &a->slot, &e))
        die(e.text);
    b->backend->adapter_upload(b->device, a->slot, image, 0, a->layout.n_cells);
    for (uint32_t i = 0; i < lora.n_targets; i++) {
        free((void *)(uintptr_t)t[i].a);
        free((void *)(uintptr_t)t[i].b);
    }
    lodge_pages_unmap(image, n_bytes);
    free(pages);
    free(t);
    return a;
}

static void drop_adapter(struct bench *b, struct adapter *a)
{
    b->backend->adapter_close(b->device, a->slot);
    lodge_lora_layout_finish(&a->layout);
    free(a);
}

/* n sequences with n_tokens new tokens each; sequence i uses adapters[i % n_adapters]. */
static double run_step(struct bench *b, uint32_t n, uint32_t position, uint32_t n_tokens,
                       struct adapter *const *adapters, uint32_t n_adapters)
{
    uint32_t t = b->info.page_tokens, groups = b->plan->n_groups;
    uint32_t blocks = (position + n_tokens + t - 1) / t, most = MAX_CONTEXT / t;
    struct lodge_step_result res;
    for (uint32_t r = 0; r < n; r++) {
        b->rows[r] = (struct lodge_row){.slot = r,
                                        .position = position,
                                        .n_tokens = n_tokens,
                                        .first_token = r * n_tokens,
                                        .table = r * blocks * groups,
                                        .n_blocks = blocks,
                                        .first_adapter = r,
                                        .n_adapters = n_adapters > 0,
                                        .want = LODGE_WANT_SAMPLE,
                                        .sampling = &b->sampling};
        if (n_adapters) /* rows of one adapter stand side by side, as the engine puts them */
            b->pairs[r] = (struct lodge_row_adapter){adapters[r * n_adapters / n]->slot, 1};
        for (uint32_t i = 0; i < blocks * groups; i++)
            b->pages[r * blocks * groups + i] = r * most * groups + i;
    }
    struct lodge_step s = {.rows = b->rows,
                           .n_rows = n,
                           .tokens = b->tokens,
                           .n_tokens = n * n_tokens,
                           .pages = b->pages,
                           .n_pages = n * blocks * groups,
                           .adapters = b->pairs,
                           .n_adapters = n_adapters ? n : 0};
    uint64_t ticket;
    if (b->backend->step_submit(b->device, &s, &ticket) ||
        b->backend->step_poll(b->device, ticket, &res))
        die("the step failed");
    return (double)(res.end_ns - res.begin_ns) * 1e-9;
}

/* Multiply-adds of one row in A x and in B t. */
static void row_ops(const struct bench *b, const struct adapter *a, double *shrink, double *expand)
{
    *shrink = *expand = 0;
    for (uint32_t i = 0; i < a->layout.n_places; i++) {
        const struct lodge_linear *l = &b->plan->linears[a->layout.places[i].linear];
        *shrink += (double)a->layout.places[i].rank * l->n_cols;
        *expand += (double)a->layout.places[i].rank * l->n_rows;
    }
}

static void one_case(struct bench *b, const char *what, uint32_t n, uint32_t position,
                     uint32_t n_tokens, const uint32_t *ranks, uint32_t n_adapters)
{
    struct adapter *a[MAX_BATCH];
    double with[MAX_RUNS], without[MAX_RUNS], bytes = 0, shrink = 0, expand = 0;
    uint32_t first_page = b->next_page;
    if (b->only && !strstr(what, b->only))
        return;
    for (uint32_t i = 0; i < n_adapters; i++) {
        double s, x;
        a[i] = make_adapter(b, ranks[i]);
        bytes += (double)lodge_lora_bytes(&a[i]->layout, b->plan);
        row_ops(b, a[i], &s, &x);
        shrink += 2 * s * n * n_tokens / n_adapters;
        expand += 2 * x * n * n_tokens / n_adapters;
    }
    double read = bench_read_rate(b->readers, b->cold, COLD_BYTES);
    double bf16 = bench_peak_rate(b->readers, b->info.rung, BENCH_PEAK_BF16);
    double fp32 = bench_peak_rate(b->readers, b->info.rung, BENCH_PEAK_FP32);
    for (int i = -1; i < b->runs; i++) {
        double base = run_step(b, n, position, n_tokens, NULL, 0);
        double lora = run_step(b, n, position, n_tokens, a, n_adapters);
        if (i >= 0) {
            without[i] = base;
            with[i] = lora;
        }
    }
    double t = bench_median(with, (size_t)b->runs), base = bench_median(without, (size_t)b->runs);
    double by_bytes = bytes / read, by_ops = shrink / bf16 + expand / fp32;
    double floor = base + (by_bytes > by_ops ? by_bytes : by_ops);
    printf("%-34s base %8.3f  with %8.3f ms  ratio %5.3f  floor %8.3f (bytes %.2f, ops %.2f) "
           "%5.1f%% of floor  %5.1f MB\n",
           what, base * 1e3, t * 1e3, base / t, floor * 1e3, by_bytes * 1e3, by_ops * 1e3,
           100 * floor / t, bytes * 1e-6);
    fflush(stdout);
    for (uint32_t i = 0; i < n_adapters; i++)
        drop_adapter(b, a[i]);
    b->next_page = first_page;
}

/* ---- the items of some rows by themselves, on this thread ---- */

/* A x and B t of rows [0, n) for all linears, in a batch that holds all adapters of `s`. */
static double time_items(struct bench *b, const struct lodge_step *s, uint32_t n)
{
    struct lodge_device *d = b->device;
    d->step = s;
    if (!lodge_cpu_lora_plan(d, s))
        die("the batch has too many ranks");
    double from = bench_seconds();
    for (uint32_t i = 0; i < b->plan->n_linears; i++) {
        const struct lodge_linear *l = &b->plan->linears[i];
        if (!lodge_cpu_lora_on(d, l->site))
            continue;
        struct lora_rows some = d->lora;
        const int32_t linear = (int32_t)i;
        some.n = n;
        lodge_cpu_lora_shrink(d, &some, &linear, 1, d->xb, 0, 1);
        for (uint32_t c = 0; c < l->n_rows; c += 32)
            for (uint32_t first = 0; first < n; first += LODGE_TILE_ROWS_MAX) {
                uint32_t m = n - first < LODGE_TILE_ROWS_MAX ? n - first : LODGE_TILE_ROWS_MAX;
                const struct block block = {.linear = i,
                                            .first_row = first,
                                            .m = m,
                                            .from = c,
                                            .n_cols = l->n_rows - c < 32 ? l->n_rows - c : 32,
                                            .y = d->fp,
                                            .ld = 32};
                lodge_cpu_lora_expand(d, &some, &block);
            }
    }
    return bench_seconds() - from;
}

static void set_rows(struct bench *b, struct adapter *const *a, uint32_t n, struct lodge_step *s)
{
    for (uint32_t r = 0; r < n; r++) {
        b->rows[r] = (struct lodge_row){
            .slot = r, .n_tokens = 1, .first_token = r, .first_adapter = r, .n_adapters = 1};
        b->pairs[r] = (struct lodge_row_adapter){a[r]->slot, 1};
    }
    *s = (struct lodge_step){
        .rows = b->rows, .n_rows = n, .n_tokens = n, .adapters = b->pairs, .n_adapters = n};
}

static void compare_items(struct bench *b)
{
    struct adapter *a[MAX_BATCH];
    double alone[MAX_RUNS], beside[MAX_RUNS];
    uint32_t first_page = b->next_page, n = MAX_BATCH - 1;
    struct lodge_step s;
    for (uint32_t i = 0; i < MAX_BATCH; i++)
        a[i] = make_adapter(b, i < n ? 8 : 256);
    for (int i = -1; i < b->runs; i++) {
        set_rows(b, a, n, &s);
        double without = time_items(b, &s, n);
        set_rows(b, a, n + 1, &s);
        double with = time_items(b, &s, n);
        if (i >= 0) {
            alone[i] = without;
            beside[i] = with;
        }
    }
    double t = bench_median(alone, (size_t)b->runs), t256 = bench_median(beside, (size_t)b->runs);
    printf("items of 31 rows of rank 8: alone %.3f ms, beside one of rank 256 %.3f ms (%+.1f%%)\n",
           t * 1e3, t256 * 1e3, 100 * (t256 / t - 1));
    for (uint32_t i = 0; i < MAX_BATCH; i++)
        drop_adapter(b, a[i]);
    b->next_page = first_page;
}

static int open_device(struct bench *b, const char *path, const struct lodge_device_config *cfg,
                       struct lodge_model_file **model, struct lodge_error *e)
{
    b->backend = lodge_backend_cpu();
    int err = lodge_model_open(path, 0, model, e);
    if (err)
        return err;
    b->plan = lodge_model_plan(*model);
    err = b->backend->open(cfg, &b->device, e);
    if (err)
        return err;
    b->backend->info(b->device, &b->info);
    err = lodge_plan_group(b->plan, b->info.kv, b->info.page_tokens, e);
    if (!err)
        err = b->backend->model_load(b->device, b->plan, NULL, NULL, NULL, e);
    b->page_bytes = lodge_plan_page_bytes(b->plan, b->info.kv, b->info.page_tokens);
    uint32_t kv = MAX_BATCH * MAX_CONTEXT / b->info.page_tokens * b->plan->n_groups;
    b->n_pages = kv + (uint32_t)(((uint64_t)3 << 30) / b->page_bytes);
    b->next_page = kv;
    return err ? err : b->backend->pool_create(b->device, b->n_pages, e);
}

static int open_all(struct bench *b, const char *path, const struct lodge_device_config *cfg,
                    struct lodge_model_file **model, struct lodge_error *e)
{
    int err = open_device(b, path, cfg, model, e);
    uint32_t kv = err ? 0 : MAX_BATCH * MAX_CONTEXT / b->info.page_tokens * b->plan->n_groups;
    b->tokens = calloc(PREFILL, sizeof *b->tokens);
    b->pages = calloc(kv + 64, sizeof *b->pages);
    b->cold = malloc(COLD_BYTES);
    if (!b->tokens || !b->pages || !b->cold)
        return lodge_fail(e, LODGE_ERR_NOMEM, "no memory");
    memset(b->cold, 1, COLD_BYTES);
    for (uint32_t i = 0; i < PREFILL; i++)
        b->tokens[i] = (i * 7919 + 13) % b->plan->n_vocab_text;
    return err ? err : lodge_workers_create(cfg->n_threads, &b->readers, e);
}

static void run_cases(struct bench *b)
{
    uint32_t r[MAX_BATCH], mixed[] = {8, 16, 32, 64};
    for (uint32_t i = 0; i < MAX_BATCH; i++)
        r[i] = 16;
    one_case(b, "decode 1, rank 16", 1, 127, 1, r, 1);
    one_case(b, "decode 32, 1 adapter, rank 16", 32, 127, 1, r, 1);
    one_case(b, "decode 32, 8 adapters, rank 16", 32, 127, 1, r, 8);
    one_case(b, "decode 32, 32 adapters, rank 16", 32, 127, 1, r, 32);
    for (uint32_t i = 0; i < MAX_BATCH; i++)
        r[i] = mixed[i % 4];
    one_case(b, "decode 32, 32 adapters, 8..64", 32, 127, 1, r, 32);
    for (uint32_t i = 0; i < MAX_BATCH; i++)
        r[i] = 8;
    one_case(b, "decode 32, 32 adapters, rank 8", 32, 127, 1, r, 32);
    r[31] = 256;
    one_case(b, "decode 32, 31 of rank 8, one of 256", 32, 127, 1, r, 32);
    r[0] = 16;
    one_case(b, "prompt of 512, rank 16", 1, 0, PREFILL, r, 1);
    r[0] = 64;
    one_case(b, "prompt of 512, rank 64", 1, 0, PREFILL, r, 1);
}

int main(int argc, char **argv)
{
    struct lodge_device_config cfg = {.max_rows = PREFILL,
                                      .max_slots = MAX_BATCH,
                                      .max_logit_rows = MAX_BATCH,
                                      .max_step_ranks = PREFILL * 768};
    struct bench b = {.runs = 25};
    struct lodge_model_file *model = NULL;
    struct lodge_error e = {0};
    for (int i = 2; i + 1 < argc; i += 2)
        if (strcmp(argv[i], "--isa") == 0)
            cfg.isa = argv[i + 1];
        else if (strcmp(argv[i], "--threads") == 0)
            cfg.n_threads = (unsigned)atoi(argv[i + 1]);
        else if (strcmp(argv[i], "--targets") == 0)
            b.only_qv = strcmp(argv[i + 1], "qv") == 0;
        else if (strcmp(argv[i], "--case") == 0)
            b.only = argv[i + 1];
        else if (strcmp(argv[i], "--runs") == 0)
            b.runs = atoi(argv[i + 1]);
    b.runs = b.runs < 1 ? 1 : b.runs > MAX_RUNS ? MAX_RUNS : b.runs;
    cfg.n_threads = cfg.n_threads ? cfg.n_threads : lodge_cpu_count();
    if (argc < 2 || open_all(&b, argv[1], &cfg, &model, &e)) {
        fprintf(stderr, "%s\n",
                argc < 2 ? "usage: bench_lora MODEL [--isa RUNG] [--threads N] [--targets all|qv] "
                           "[--runs N] [--case TEXT]"
                         : e.text);
        return 2;
    }
    printf("%s\nread %.1f GB/s\n", b.info.name,
           bench_read_rate(b.readers, b.cold, COLD_BYTES) * 1e-9);
    run_cases(&b);
    /* The barrier at the end of a phase would wait for the workers: a device of one thread. */
    b.backend->close(b.device);
    lodge_model_close(model);
    cfg.n_threads = 1;
    if (open_device(&b, argv[1], &cfg, &model, &e))
        die(e.text);
    if (!b.only || strstr("items", b.only))
        compare_items(&b);
    b.backend->close(b.device);
    lodge_model_close(model);
    lodge_workers_destroy(b.readers);
    free(b.tokens);
    free(b.pages);
    free(b.cold);
    return 0;
}
