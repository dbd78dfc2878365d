/* Whole steps of a model on the CPU backend, without scheduler, text and HTTP.
 *
 *   bench_step MODEL [--isa RUNG] [--threads N] [--kv-cache-dtype bf16|int8] [--case TEXT]
 *
 * Prefill of 512 tokens in one step, and decode of 1, 8, 32 and 64 sequences whose contexts are 128
 * or 512 tokens long, of 32 with 2048, and of 8 with 8192. Beside each: the step's bytes (weights
 * once, keys and values of every sequence) at the read rate of that moment, as a share of the time;
 * and what is not in kernels: barriers, with waiting for others in them, and the walk over panels,
 * pages and heads (a step whose kernels do nothing).
 * Medians of 5 (prefill) or 25. --case: only lines that begin with the text, as "decode 32 x 128".
 */
#include "engine/files/model_file.h"
#include "kernels/backend.h"
#include "kernels/cpu/device.h"
#include "tests/bench/limits.h"
#include "tests/bench/median.h"
#include "tests/bench/timed.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PREFILL 512u
#define MAX_BATCH 64u
#define MAX_CONTEXT 1024u
#define MAX_RUNS 25

struct bench {
    const struct lodge_backend *backend;
    struct lodge_device *device;
    struct lodge_device_info info;
    struct lodge_plan *plan;
    struct lodge_workers *readers;
    uint8_t *cold;
    uint32_t *tokens, *pages;
    struct lodge_row rows[MAX_BATCH];
    struct lodge_sampling sampling;
    const char *only; /* NULL: all lines */
};

/* n sequences, each with n_tokens new tokens after `position` old ones; pages by sequence. */
static double run_step(struct bench *b, uint32_t n, uint32_t position, uint32_t n_tokens,
                       struct lodge_step_result *res)
{
    uint32_t t = b->info.page_tokens, groups = b->plan->n_groups;
    uint32_t blocks = (position + n_tokens + t - 1) / t;
    for (uint32_t r = 0; r < n; r++) {
        b->rows[r] = (struct lodge_row){.slot = r,
                                        .position = position,
                                        .n_tokens = n_tokens,
                                        .first_token = r * n_tokens,
                                        .table = r * blocks * groups,
                                        .n_blocks = blocks,
                                        .want = LODGE_WANT_SAMPLE,
                                        .sampling = &b->sampling};
        for (uint32_t i = 0; i < blocks * groups; i++)
            b->pages[r * blocks * groups + i] = r * blocks * groups + i;
    }
    struct lodge_step s = {.rows = b->rows,
                           .n_rows = n,
                           .tokens = b->tokens,
                           .n_tokens = n * n_tokens,
                           .pages = b->pages,
                           .n_pages = n * blocks * groups};
    uint64_t ticket;
    if (b->backend->step_submit(b->device, &s, &ticket) ||
        b->backend->step_poll(b->device, ticket, res)) {
        fprintf(stderr, "the step failed\n");
        exit(1);
    }
    return (double)(res->end_ns - res->begin_ns) * 1e-9;
}

/* Seconds of steps, sorted, and the median of what a worker spends of one in barriers. */
static double time_steps(struct bench *b, uint32_t n, uint32_t position, uint32_t n_tokens,
                         int runs, double *times, struct lodge_step_result *res)
{
    double waits[MAX_RUNS];
    run_step(b, n, position, n_tokens, res);
    for (int i = 0; i < runs; i++) {
        bench_barriers_reset();
        times[i] = run_step(b, n, position, n_tokens, res);
        waits[i] = bench_barrier_seconds() / lodge_workers_count(b->device->workers);
    }
    bench_median(times, (size_t)runs);
    return bench_median(waits, (size_t)runs);
}

/* Seconds of a step without kernels and without its barriers. */
static double walk_time(struct bench *b, uint32_t n, uint32_t position, uint32_t n_tokens, int runs)
{
    struct lodge_cpu_kernels kernels = b->device->k;
    struct lodge_step_result res;
    double times[MAX_RUNS];
    bench_empty_kernels(&b->device->k);
    double barriers = time_steps(b, n, position, n_tokens, runs, times, &res);
    b->device->k = kernels;
    return times[runs / 2] - barriers;
}

static void one_line(struct bench *b, const char *what, uint32_t n, uint32_t position,
                     uint32_t n_tokens, int runs)
{
    double times[MAX_RUNS];
    struct lodge_step_result res;
    char name[64];
    snprintf(name, sizeof name, "%s %u x %u", what, n, position + n_tokens);
    if (b->only && strncmp(name, b->only, strlen(b->only)) != 0)
        return;
    double read = bench_read_rate(b->readers, b->cold, (size_t)128 << 20);
    double barriers = time_steps(b, n, position, n_tokens, runs, times, &res);
    double t = times[runs / 2], bytes = (double)(res.weight_bytes + res.kv_bytes);
    printf("%-16s  %8.3f ms (least %8.3f)  %8.1f tokens/s  bytes/read rate %5.1f%%  in barriers "
           "%4.1f%%  walk %4.1f%%\n",
           name, t * 1e3, times[0] * 1e3, n * n_tokens / t, 100 * bytes / read / t,
           100 * barriers / t, 100 * walk_time(b, n, position, n_tokens, runs) / t);
    fflush(stdout);
}

static int open_all(struct bench *b, const char *path, const struct lodge_device_config *cfg,
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
    uint32_t n_pages = MAX_BATCH * MAX_CONTEXT / b->info.page_tokens * b->plan->n_groups;
    if (!err)
        err = b->backend->pool_create(b->device, n_pages, e);
    while (!err && b->backend->pool_touch(b->device, (size_t)64 << 20))
        ;
    b->tokens = calloc(PREFILL, sizeof *b->tokens);
    b->pages = calloc(n_pages, sizeof *b->pages);
    b->cold = calloc(1, (size_t)128 << 20);
    if (!b->tokens || !b->pages || !b->cold)
        return lodge_fail(e, LODGE_ERR_NOMEM, "no memory");
    memset(b->cold, 1, (size_t)128 << 20);
    for (uint32_t i = 0; i < PREFILL; i++)
        b->tokens[i] = (i * 7919 + 13) % b->plan->n_vocab_text;
    return err ? err : lodge_workers_create(cfg->n_threads, &b->readers, e);
}

int main(int argc, char **argv)
{
    struct lodge_device_config cfg = {
        .max_rows = PREFILL, .max_slots = MAX_BATCH, .max_logit_rows = MAX_BATCH};
    struct bench b = {0};
    struct lodge_model_file *model = NULL;
    struct lodge_error e = {0};
    for (int i = 2; i + 1 < argc; i += 2)
        if (strcmp(argv[i], "--isa") == 0)
            cfg.isa = argv[i + 1];
        else if (strcmp(argv[i], "--threads") == 0)
            cfg.n_threads = (unsigned)atoi(argv[i + 1]);
        else if (strcmp(argv[i], "--case") == 0)
            b.only = argv[i + 1];
        else if (strcmp(argv[i], "--kv-cache-dtype") == 0 &&
                 lodge_kv_dtype_parse(argv[i + 1], &cfg.kv, &e))
            argc = 1;
    cfg.n_threads = cfg.n_threads ? cfg.n_threads : lodge_cpu_count();
    if (argc < 2 || open_all(&b, argv[1], &cfg, &model, &e)) {
        fprintf(stderr, "%s\n",
                argc < 2 ? "usage: bench_step MODEL [--isa RUNG] [--threads N] "
                           "[--kv-cache-dtype bf16|int8] [--case TEXT]"
                         : e.text);
        return 2;
    }
    printf("%s, keys and values in %s\nread %.1f GB/s\n", b.info.name, lodge_kv_dtype_name(cfg.kv),
           bench_read_rate(b.readers, b.cold, (size_t)128 << 20) * 1e-9);
    one_line(&b, "prefill", 1, 0, PREFILL, 5);
    for (uint32_t context = 128; context <= 512; context *= 4)
        for (uint32_t n = 1; n <= MAX_BATCH; n *= n < 8 ? 8 : n < 32 ? 4 : 2)
            one_line(&b, "decode", n, context - 1, 1, MAX_RUNS);
    one_line(&b, "decode", 32, 2047, 1, MAX_RUNS);
    one_line(&b, "decode", 8, 8191, 1, MAX_RUNS);
    b.backend->close(b.device);
    lodge_model_close(model);
    lodge_workers_destroy(b.readers);
    free(b.tokens);
    free(b.pages);
    free(b.cold);
    return 0;
}
