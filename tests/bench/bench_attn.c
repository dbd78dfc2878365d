/* Attention of the CPU backend by itself, over keys and values in bf16 and in int8.
 *
 *   bench_attn [--isa RUNG] [--threads N] [--shape HEADSxKVxDIM] [--load SEQSxCONTEXTxNEW]
 *
 * Decode of sequences of one context length, and chunks of 512 tokens of a prompt. Layers are
 * cycled over 256 MB of keys and values or more, so their pages come from memory as in a step; both
 * dtypes take turns, round by round. A line tells the bound (bytes at the read rate of that round,
 * or operations at the peak of the instruction; codes of 15 bits are two of 8), what was reached
 * and its share of the bound; at the end the ratio of the times. Medians of 7 rounds. */
#include "base/pages.h"
#include "tests/bench/attn_lab.h"
#include "tests/bench/limits.h"
#include "tests/bench/median.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COLD_BYTES ((size_t)256 << 20)
#define RUNS 7

/* Seconds of a layer: the mean over as many layers as are cold. */
static double time_layers(struct attn_lab *b)
{
    double from = bench_seconds();
    uint32_t n = b->group.n_layers < 8 ? b->group.n_layers : 8;
    for (uint32_t i = 0; i < n; i++) {
        b->op.group_layer = (b->op.group_layer + 1) % b->group.n_layers;
        attn_lab_run(b);
    }
    return (bench_seconds() - from) / n;
}

/* Multiply-adds of both products, twice. */
static double operations(const struct attn_shape *s, const struct attn_load *l)
{
    double pairs = 0;
    for (unsigned i = 0; i < l->n_tokens; i++)
        pairs += l->context - i;
    return 4 * pairs * l->seqs * s->heads * s->dim;
}

static void one_load(struct lodge_workers *w, const struct lodge_cpu_kernels *k,
                     const struct attn_shape *s, const struct attn_load *l, const double peak[],
                     const uint8_t *cold)
{
    static struct attn_lab b[LODGE_KV_DTYPE_COUNT];
    double times[LODGE_KV_DTYPE_COUNT][RUNS], reads[LODGE_KV_DTYPE_COUNT][RUNS], ratio[RUNS];
    for (int t = 0; t < LODGE_KV_DTYPE_COUNT; t++)
        attn_lab_open(&b[t], k, w, (enum lodge_kv_dtype)t, s, l, COLD_BYTES);
    for (int run = 0; run < RUNS; run++) {
        for (int t = 0; t < LODGE_KV_DTYPE_COUNT; t++) {
            reads[t][run] = bench_read_rate(w, cold, COLD_BYTES / 2);
            times[t][run] = time_layers(&b[t]);
        }
        ratio[run] = times[LODGE_KV_BF16][run] / times[LODGE_KV_INT8][run];
    }
    for (int t = 0; t < LODGE_KV_DTYPE_COUNT; t++) {
        double time = bench_median(times[t], RUNS), read = bench_median(reads[t], RUNS);
        double ops = operations(s, l) * (t == LODGE_KV_INT8 ? 2 : 1);
        double by_bytes = (double)b[t].bytes / read, by_ops = peak[t] > 0 ? ops / peak[t] : 0;
        double bound = by_bytes > by_ops ? by_bytes : by_ops;
        printf("%-7s %2ux%u/%-3u %2u x %4u (%3u new)  %-4s %9.1f us  %6.1f GB/s of %5.1f %7.1f "
               "GOP/s  bound %8.1f us (%s) %5.1f%%",
               k->name, s->heads, s->kv_heads, s->dim, l->seqs, l->context, l->n_tokens,
               lodge_kv_dtype_name((enum lodge_kv_dtype)t), time * 1e6,
               (double)b[t].bytes / time * 1e-9, read * 1e-9, ops / time * 1e-9, bound * 1e6,
               by_bytes > by_ops ? "read" : "ops", 100 * bound / time);
        printf(t == LODGE_KV_INT8 ? "  bf16/int8 %.2f\n" : "\n", bench_median(ratio, RUNS));
        attn_lab_close(&b[t]);
    }
    fflush(stdout);
}

struct options {
    struct attn_shape shape; /* heads 0: all of `shapes` */
    struct attn_load load;   /* seqs 0: all of `loads` */
    const char *isa;
    unsigned threads;
};

static bool valid(const struct options *o)
{
    const struct attn_shape *s = &o->shape;
    const struct attn_load *l = &o->load;
    return s->dim <= LODGE_HEAD_DIM_MAX && s->dim % LODGE_KV_DIM_STEP == 0 &&
           (s->dim == 0 || (s->kv_heads > 0 && s->heads % s->kv_heads == 0)) &&
           l->seqs <= ATTN_LAB_SEQS && l->n_tokens <= l->context &&
           (l->seqs == 0 || l->n_tokens > 0);
}

static bool parse(int argc, char **argv, struct options *o)
{
    for (int i = 1; i < argc; i += 2) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(argv[i], "--isa") == 0)
            o->isa = value;
        else if (strcmp(argv[i], "--threads") == 0)
            o->threads = (unsigned)atoi(value);
        else if (strcmp(argv[i], "--shape") == 0
                     ? sscanf(value, "%ux%ux%u", &o->shape.heads, &o->shape.kv_heads,
                              &o->shape.dim) != 3
                     : strcmp(argv[i], "--load") != 0 ||
                           sscanf(value, "%ux%ux%u", &o->load.seqs, &o->load.context,
                                  &o->load.n_tokens) != 3)
            return false;
    }
    return valid(o);
}

static void all(struct lodge_workers *w, const struct lodge_cpu_kernels *k, const struct options *o,
                const uint8_t *cold)
{
    static const struct attn_shape shapes[] = {{9, 3, 64}, {32, 8, 64}, {32, 8, 128}};
    static const struct attn_load loads[] = {{64, 512, 1}, {32, 2048, 1}, {8, 8192, 1},
                                             {1, 8192, 1}, {1, 512, 512}, {1, 2048, 512}};
    const double peak[LODGE_KV_DTYPE_COUNT] = {bench_peak_rate(w, k->name, BENCH_PEAK_BF16),
                                               bench_peak_rate(w, k->name, BENCH_PEAK_INT8)};
    printf("%u threads, read %.1f GB/s, peak bf16 %.0f GOP/s, int8 %.0f GOP/s\n",
           lodge_workers_count(w), bench_read_rate(w, cold, COLD_BYTES) * 1e-9,
           peak[LODGE_KV_BF16] * 1e-9, peak[LODGE_KV_INT8] * 1e-9);
    for (size_t s = 0; s < (o->shape.heads ? 1 : sizeof shapes / sizeof *shapes); s++)
        for (size_t l = 0; l < (o->load.seqs ? 1 : sizeof loads / sizeof *loads); l++)
            one_load(w, k, o->shape.heads ? &o->shape : &shapes[s],
                     o->load.seqs ? &o->load : &loads[l], peak, cold);
}

int main(int argc, char **argv)
{
    struct lodge_error e = {0};
    struct lodge_cpu_kernels k;
    struct lodge_workers *w;
    struct options o = {0};
    if (!parse(argc, argv, &o)) {
        fprintf(stderr,
                "usage: bench_attn [--isa RUNG] [--threads N] [--shape HEADSxKVxDIM]\n"
                "                  [--load SEQSxCONTEXTxNEW]\n"
                "KV must divide HEADS, and %u DIM, which is at most %u; SEQS is at most %u\n",
                LODGE_KV_DIM_STEP, LODGE_HEAD_DIM_MAX, ATTN_LAB_SEQS);
        return 2;
    }
    if (lodge_cpu_kernels_init(&k, o.isa, &e) ||
        lodge_workers_create(o.threads ? o.threads : lodge_cpu_count(), &w, &e)) {
        fprintf(stderr, "%s\n", e.text);
        return 4;
    }
    uint8_t *cold = lodge_pages_map(COLD_BYTES);
    if (!cold)
        return 4;
    memset(cold, 0x11, COLD_BYTES);
    all(w, &k, &o, cold);
    lodge_pages_unmap(cold, COLD_BYTES);
    lodge_workers_destroy(w);
    return 0;
}
