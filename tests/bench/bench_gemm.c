/* Matrix products of the CPU kernels beside their bounds.
 *
 *   bench_gemm [--isa RUNG] [--threads N] [--shape NxK] [--format NAME] [--rows M]
 *
 * Weights are cycled over 512 MB, so they come from memory as in a step. One line a kernel, shape
 * and row count: time, rate, and the share of the tighter bound: bytes of the weights at the read
 * rate of that moment, or operations at the peak of the instruction; and the rate over that without
 * the prefetch of the next panel. Medians of 7 runs of each, in turn; where there is one tile the
 * time is of the better of both, as in a step, which tries and keeps it. At the head of a format
 * what packing 6 rows of activations of 576 numbers takes on one thread, from the first cache: the
 * least of many runs. */
#include "base/workers.h"
#include "kernels/cpu/kernels.h"
#include "tests/bench/limits.h"
#include "tests/bench/median.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define COLD_BYTES ((size_t)512 << 20)
#define RUNS 7

struct options {
    const char *isa, *format;
    unsigned threads, rows, n, k;
};

struct product {
    const struct lodge_gemm *gemm;
    const uint8_t *weights; /* of this turn */
    size_t panel_bytes, tile_bytes;
    uint32_t n_panels, n_cols, n_rows, n_tiles;
    const uint8_t *tiles;
    bool fetch;    /* the next panel meanwhile */
    uint8_t *wide; /* room of each worker for a panel */
};

/* The loop of kernels/cpu/gemm.c without its epilogue. */
static void multiply(void *ctx, unsigned worker, unsigned n_workers)
{
    const struct product *p = ctx;
    _Alignas(64) float block[LODGE_TILE_ROWS_MAX * LODGE_PANEL_ROWS];
    uint32_t from = p->n_panels * worker / n_workers, to = p->n_panels * (worker + 1) / n_workers;
    size_t slice = (p->panel_bytes / p->n_tiles + 63) / 64 * 64;
    lodge_cpu_flush_denormals();
    for (uint32_t i = from; i < to; i++)
        for (uint32_t t = 0; t < p->n_tiles; t++) {
            const uint8_t *panel = p->weights + i * p->panel_bytes;
            uint32_t m = p->n_rows / p->n_tiles + (t < p->n_rows % p->n_tiles);
            size_t ahead = p->fetch && i + 1 < to ? slice : 0;
            bool is_wide = p->gemm->widen && p->n_tiles >= LODGE_WIDE_TILES;
            uint8_t *wide = p->wide + worker * lodge_wide_bytes(p->n_cols);
            if (is_wide && t == 0)
                p->gemm->widen(panel, p->n_cols, wide);
            (is_wide ? p->gemm->wide_tile : p->gemm->tile)(
                is_wide ? wide : panel, p->n_cols, p->tiles + t * p->tile_bytes, m, block,
                LODGE_PANEL_ROWS, panel + p->panel_bytes + slice * t, ahead);
        }
}

static enum bench_peak peak_kind(enum lodge_format f)
{
    enum lodge_act_form form = lodge_act_form(f);
    return form == LODGE_ACT_Q8     ? BENCH_PEAK_INT8
           : form == LODGE_ACT_BF16 ? BENCH_PEAK_BF16
                                    : BENCH_PEAK_FP32;
}

/* Seconds of one product, over so many with cold weights. */
static double one_run(struct lodge_workers *w, struct product *p, uint8_t *cold, int run)
{
    size_t bytes = p->panel_bytes * p->n_panels;
    uint32_t turns = (uint32_t)(COLD_BYTES / bytes), n = turns < 4 ? turns : turns / 4;
    double from = bench_seconds();
    for (uint32_t i = 0; i < n; i++) {
        p->weights = cold + ((size_t)run * n + i) % turns * bytes;
        lodge_workers_run(w, multiply, p);
    }
    return (bench_seconds() - from) / n;
}

static void one_line(struct lodge_workers *w, const struct lodge_cpu_kernels *k,
                     enum lodge_format f, struct product *p, uint8_t *cold, double peak)
{
    double times[RUNS], without[RUNS], reads[RUNS];
    size_t bytes = p->panel_bytes * p->n_panels;
    for (int run = 0; run < RUNS; run++) {
        reads[run] = bench_read_rate(w, cold, COLD_BYTES / 4);
        p->fetch = true;
        times[run] = one_run(w, p, cold, 2 * run);
        p->fetch = false;
        without[run] = one_run(w, p, cold, 2 * run + 1);
    }
    double with = bench_median(times, RUNS), alone = bench_median(without, RUNS);
    double t = p->n_tiles == 1 && alone < with ? alone : with, read = bench_median(reads, RUNS);
    double ops = 2.0 * p->n_rows * p->n_panels * 32 * p->n_cols;
    double by_bytes = (double)bytes / read, by_ops = peak > 0 ? ops / peak : 0;
    double bound = by_bytes > by_ops ? by_bytes : by_ops;
    printf("%-12s %-5s %6ux%-6u M %3u  %9.1f us  %7.1f GOP/s %6.1f GB/s  bound %9.1f us (%s) "
           "%5.1f%%  prefetch %.2f\n",
           k->name, lodge_format_info(f)->name, p->n_panels * 32, p->n_cols, p->n_rows, t * 1e6,
           ops / t * 1e-9, (double)bytes / t * 1e-9, bound * 1e6,
           by_bytes > by_ops ? "read" : "ops", 100 * bound / t, alone / with);
    fflush(stdout);
}

static void one_shape(struct lodge_workers *w, const struct lodge_cpu_kernels *k,
                      enum lodge_format f, const struct options *o, uint32_t n, uint32_t cols,
                      uint8_t *cold, double peak)
{
    static const unsigned rows[] = {1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 128, 512};
    struct product p = {.gemm = &k->gemm[f], .n_panels = (n + 31) / 32, .n_cols = cols};
    p.panel_bytes = lodge_panel_bytes(f, cols);
    p.tile_bytes = lodge_act_tile_bytes(lodge_act_form(f), cols);
    float *x = malloc((size_t)LODGE_TILE_ROWS_MAX * cols * sizeof *x);
    uint8_t *tiles = aligned_alloc(64, p.tile_bytes * 512);
    p.wide = aligned_alloc(64, lodge_workers_count(w) * lodge_wide_bytes(cols));
    for (size_t i = 0; i < (size_t)LODGE_TILE_ROWS_MAX * cols; i++)
        x[i] = (float)(int)(i * 2654435761u % 2001) * 1e-3f - 1;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        p.n_rows = rows[i];
        if (o->rows && o->rows != rows[i])
            continue;
        p.n_tiles = (p.n_rows + p.gemm->mr - 1) / p.gemm->mr;
        for (uint32_t t = 0; t < p.n_tiles; t++)
            k->act_pack[lodge_act_form(f)](x, cols,
                                           p.n_rows / p.n_tiles + (t < p.n_rows % p.n_tiles), 0,
                                           cols, cols, tiles + t * p.tile_bytes);
        p.tiles = tiles;
        one_line(w, k, f, &p, cold, peak);
    }
    free(x);
    free(tiles);
    free(p.wide);
}

/* Seconds that 32 numbers take. */
static double pack_time(const struct lodge_cpu_kernels *k, enum lodge_act_form form)
{
    enum { ROWS = 6, COLS = 576, TIMES = 20 };
    static float x[ROWS * COLS];
    void *tile = aligned_alloc(64, lodge_act_tile_bytes(form, COLS));
    double least = 1;
    for (uint32_t i = 0; i < ROWS * COLS; i++)
        x[i] = (float)(int)(i * 2654435761u % 2001) * 1e-3f - 1;
    for (int run = 0; run < 300; run++) {
        double from = bench_seconds();
        for (int i = 0; i < TIMES; i++)
            k->act_pack[form](x, COLS, ROWS, 0, COLS, COLS, tile);
        double t = (bench_seconds() - from) / TIMES;
        least = t < least ? t : least;
    }
    free(tile);
    return least / (ROWS * COLS / 32);
}

static bool parse(int argc, char **argv, struct options *o)
{
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *v = argv[i + 1];
        if (strcmp(argv[i], "--isa") == 0)
            o->isa = v;
        else if (strcmp(argv[i], "--format") == 0)
            o->format = v;
        else if (strcmp(argv[i], "--threads") == 0)
            o->threads = (unsigned)atoi(v);
        else if (strcmp(argv[i], "--rows") == 0)
            o->rows = (unsigned)atoi(v);
        else if (strcmp(argv[i], "--shape") == 0 && sscanf(v, "%ux%u", &o->n, &o->k) == 2)
            continue;
        else
            return false;
    }
    return argc % 2 == 1;
}

int main(int argc, char **argv)
{
    /* The projections of SmolLM2-135M, and of a Llama of 1B. */
    static const unsigned shapes[][2] = {
        {960, 576}, {1536, 576}, {576, 1536}, {8192, 2048}, {2048, 8192}};
    struct options o = {0};
    struct lodge_error e = {0};
    struct lodge_cpu_kernels k;
    struct lodge_workers *w;
    if (!parse(argc, argv, &o)) {
        fprintf(stderr, "usage: bench_gemm [--isa RUNG] [--threads N] [--shape NxK] [--format "
                        "NAME] [--rows M]\n");
        return 2;
    }
    if (lodge_cpu_kernels_init(&k, o.isa, &e) ||
        lodge_workers_create(o.threads ? o.threads : lodge_cpu_count(), &w, &e)) {
        fprintf(stderr, "%s\n", e.text);
        return 4;
    }
    uint8_t *cold =
        mmap(NULL, COLD_BYTES + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (cold == MAP_FAILED)
        return 4;
    madvise(cold, COLD_BYTES, MADV_HUGEPAGE);
    memset(cold, 0x11, COLD_BYTES);
    printf("%u threads, read %.1f GB/s\n", lodge_workers_count(w),
           bench_read_rate(w, cold, COLD_BYTES) * 1e-9);
    for (int f = 0; f < LODGE_FMT_COUNT; f++) {
        if (o.format && strcmp(o.format, lodge_format_info((enum lodge_format)f)->name) != 0)
            continue;
        double peak = bench_peak_rate(w, k.name, peak_kind((enum lodge_format)f));
        printf("%s: peak %.0f GOP/s, packing %.1f ns for 32 numbers\n",
               lodge_format_info((enum lodge_format)f)->name, peak * 1e-9,
               pack_time(&k, lodge_act_form((enum lodge_format)f)) * 1e9);
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes && !o.n; s++)
            one_shape(w, &k, (enum lodge_format)f, &o, shapes[s][0], shapes[s][1], cold, peak);
        if (o.n)
            one_shape(w, &k, (enum lodge_format)f, &o, o.n, o.k, cold, peak);
    }
    munmap(cold, COLD_BYTES + 4096);
    lodge_workers_destroy(w);
    return 0;
}
