/* What loading an adapter costs a core, from files in the page cache to an image in page layout.
 *
 *   bench_load MODEL ADAPTER... [--runs N]
 *
 * Each run loads every adapter once, as the server does while nothing runs, into buffers that are
 * used again; printed are medians of one load. The floor is a copy of the files' bytes and their
 * SHA-256, which the version is by definition.
 */
#include "adapters/adapter.h"
#include "base/hash.h"
#include "base/spares.h"
#include "engine/adapter_base.h"
#include "engine/files/model_file.h"
#include "engine/image.h"
#include "kernels/backend.h"
#include "tests/bench/limits.h"
#include "tests/bench/median.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define MAX_LOADS 4096

struct bench {
    const struct lodge_backend *backend;
    struct lodge_device *device;
    struct lodge_model_file *model;
    struct lodge_plan *plan;
    struct lodge_adapter_base base;
    struct lodge_arena arena;
    struct lodge_side side;
    struct lodge_spares spares;
    double copy[MAX_LOADS], hash[MAX_LOADS], read[MAX_LOADS], pack[MAX_LOADS], all[MAX_LOADS];
    double bytes;
    int n;
};

static _Noreturn void die(const char *what)
{
    fprintf(stderr, "%s\n", what);
    exit(1);
}

static double median_ms(double *x, int n)
{
    return 1e3 * bench_median(x, (size_t)n);
}

static void measure_floor(struct bench *b, const char *adapter)
{
    char path[1024];
    struct stat st;
    struct lodge_digest d;
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", adapter);
    FILE *f = fopen(stat(path, &st) == 0 ? path : adapter, "rb");
    if (!f || fstat(fileno(f), &st) != 0)
        die("cannot open an adapter");
    double begin = bench_seconds();
    size_t n = (size_t)st.st_size;
    uint8_t *bytes = malloc(n);
    if (!bytes || fread(bytes, 1, n, f) != n)
        die("cannot read an adapter");
    double copied = bench_seconds();
    lodge_sha256(bytes, n, &d);
    b->copy[b->n] = copied - begin;
    b->hash[b->n] = bench_seconds() - copied;
    b->bytes = (double)n;
    free(bytes);
    fclose(f);
}

static void measure_load(struct bench *b, const char *path)
{
    const struct lodge_adapter_limits limits = {.spares = &b->spares};
    struct lodge_error e = {0};
    struct lodge_adapter *a = NULL;
    struct lodge_lora_layout layout;
    struct lodge_side_job job;
    uint8_t *image;
    double begin = bench_seconds();
    if (lodge_adapter_read(path, path, &b->base, &limits, &a, &e))
        die(e.text);
    double read = bench_seconds();
    lodge_side_begin(&job, &b->side);
    if (lodge_lora_layout_init(&layout, b->plan, &a->lora, &e) ||
        lodge_image_make(&job, &b->spares, path, &a->lora, &layout, &image, &e))
        die(e.text);
    lodge_side_end(&job);
    lodge_adapter_destroy(a);
    double end = bench_seconds();
    lodge_spares_give(&b->spares, image, lodge_image_bytes(&layout));
    lodge_lora_layout_finish(&layout);
    b->read[b->n] = read - begin;
    b->pack[b->n] = end - read;
    b->all[b->n++] = end - begin;
}

static int open_all(struct bench *b, const char *path, struct lodge_error *e)
{
    const struct lodge_device_config cfg = {.n_threads = 2,
                                            .max_rows = 32,
                                            .max_slots = 32,
                                            .max_logit_rows = 32,
                                            .max_step_ranks = 32 * 192};
    struct lodge_device_info info;
    b->backend = lodge_backend_cpu();
    int err = lodge_model_open(path, 0, &b->model, e);
    if (!err)
        err = b->backend->open(&cfg, &b->device, e);
    if (err)
        return err;
    b->plan = lodge_model_plan(b->model);
    b->backend->info(b->device, &info);
    err = lodge_plan_group(b->plan, info.kv, info.page_tokens, e);
    if (!err)
        err = b->backend->model_load(b->device, b->plan, NULL, NULL, NULL, e);
    lodge_arena_init(&b->arena, 0);
    lodge_side_init(&b->side, b->backend, b->device);
    lodge_spares_init(&b->spares, (size_t)1 << 30);
    return err ? err
               : lodge_adapter_base_build(b->plan, path, lodge_model_family(b->model), &b->arena,
                                          &b->base, e);
}

int main(int argc, char **argv)
{
    static struct bench b;
    struct lodge_error e = {0};
    int runs = 5;
    if (argc > 4 && strcmp(argv[argc - 2], "--runs") == 0) {
        runs = atoi(argv[argc - 1]);
        argc -= 2;
    }
    if (argc < 3 || open_all(&b, argv[1], &e)) {
        fprintf(stderr, "%s\n",
                argc < 3 ? "usage: bench_load MODEL ADAPTER... [--runs N]" : e.text);
        return 2;
    }
    for (int r = 0; r < runs; r++)
        for (int i = 2; i < argc && b.n < MAX_LOADS; i++) {
            measure_floor(&b, argv[i]);
            measure_load(&b, argv[i]);
        }
    double copy = median_ms(b.copy, b.n), hash = median_ms(b.hash, b.n);
    double read = median_ms(b.read, b.n), pack = median_ms(b.pack, b.n);
    double all = median_ms(b.all, b.n);
    printf("%d loads of %.1f MB: copy %.2f ms + hash %.2f ms = floor %.2f ms; read and check %.2f "
           "ms + pack %.2f ms = %.2f ms, %.2f x the floor\n",
           b.n, b.bytes * 1e-6, copy, hash, copy + hash, read, pack, all, all / (copy + hash));
    lodge_spares_finish(&b.spares);
    lodge_side_finish(&b.side);
    lodge_arena_finish(&b.arena);
    b.backend->close(b.device);
    lodge_model_close(b.model);
    return 0;
}
