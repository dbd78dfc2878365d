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
#include "kernels/cpu/device.h"
#include "tests/bench/limits.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COLD_BYTES ((size_t)256 << 20)
#define RUNS 7
#define MAX_SEQS 64u

struct shape {
    unsigned heads, kv_heads, dim;
};

struct load {
    unsigned seqs, context, n_tokens; /* new tokens of each sequence, of its context */
};

/* A device that has what attention needs, for one dtype. */
struct bench {
    struct lodge_device d;
    struct lodge_plan plan;
    struct lodge_layer_group group;
    struct lodge_op_attn op;
    struct lodge_step step;
    struct lodge_row rows[MAX_SEQS];
    uint32_t *pages;
    size_t bytes; /* that a layer reads */
    uint32_t layer;
};

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v)
{
    qsort(v, RUNS, sizeof *v, by_value);
    return v[RUNS / 2];
}

static void *room(size_t n)
{
    void *p = aligned_alloc(64, (n + 63) / 64 * 64);
    if (!p)
        abort();
    memset(p, 0, n);
    return p;
}

/* Keys and values of one head, copied to all. */
static void fill_pool(struct bench *b)
{
    size_t head = lodge_kv_head_bytes(b->d.cfg.kv, b->op.head_dim, LODGE_PAGE_TOKENS);
    uint8_t *one = room(head);
    float k[LODGE_HEAD_DIM_MAX], v[LODGE_HEAD_DIM_MAX];
    for (uint32_t t = 0; t < LODGE_PAGE_TOKENS; t++) {
        for (uint32_t i = 0; i < b->op.head_dim; i++) {
            k[i] = (float)(int)((i + 64 * t) * 2654435761u % 2001) * 1e-3f - 1;
            v[i] = k[i] * 0.5f;
        }
        b->d.k.kv[b->d.cfg.kv].store(one, t, k, v, b->op.head_dim);
    }
    for (uint32_t p = 0; p < b->d.n_pages; p++)
        for (uint32_t i = 0; i < b->group.n_layers * b->group.n_kv_heads; i++)
            memcpy(b->d.pool + p * b->d.page_bytes + i * head, one, head);
    free(one);
}

static void set_rows(struct bench *b, const struct load *l)
{
    uint32_t blocks = (l->context + LODGE_PAGE_TOKENS - 1) / LODGE_PAGE_TOKENS;
    b->pages = room(l->seqs * blocks * sizeof *b->pages);
    /* Neighbours in a sequence are apart in memory. */
    for (uint32_t i = 0; i < l->seqs * blocks; i++)
        b->pages[i] = i % blocks * l->seqs + i / blocks;
    for (uint32_t r = 0; r < l->seqs; r++)
        b->rows[r] = (struct lodge_row){.slot = r,
                                        .position = l->context - l->n_tokens,
                                        .n_tokens = l->n_tokens,
                                        .first_token = r * l->n_tokens,
                                        .table = r * blocks,
                                        .n_blocks = blocks};
    b->step = (struct lodge_step){.rows = b->rows,
                                  .n_rows = l->seqs,
                                  .n_tokens = l->seqs * l->n_tokens,
                                  .pages = b->pages,
                                  .n_pages = l->seqs * blocks};
}

static void open_bench(struct bench *b, const struct lodge_cpu_kernels *k, struct lodge_workers *w,
                       enum lodge_kv_dtype kv, const struct shape *s, const struct load *l)
{
    struct lodge_device *d = &b->d;
    memset(b, 0, sizeof *b);
    set_rows(b, l);
    size_t head = lodge_kv_head_bytes(kv, s->dim, LODGE_PAGE_TOKENS);
    b->bytes = (size_t)b->step.n_pages * s->kv_heads * head;
    b->group = (struct lodge_layer_group){.n_layers = (uint32_t)(COLD_BYTES / b->bytes + 1),
                                          .n_kv_heads = s->kv_heads,
                                          .head_dim = s->dim};
    b->plan = (struct lodge_plan){.groups = &b->group, .n_groups = 1};
    b->op = (struct lodge_op_attn){
        .n_heads = s->heads, .n_kv_heads = s->kv_heads, .head_dim = s->dim, .scale = 0.125f};
    size_t queries = (size_t)b->step.n_tokens * s->heads;
    d->cfg.kv = kv;
    d->k = *k;
    d->workers = w;
    d->plan = &b->plan;
    d->step = &b->step;
    d->n_pages = b->step.n_pages;
    d->page_bytes = lodge_plan_page_bytes(&b->plan, kv, LODGE_PAGE_TOKENS);
    d->pool = lodge_pages_map(d->n_pages * d->page_bytes);
    d->q = room(queries * lodge_kv_query_bytes(kv, s->dim));
    d->attn_out = room(queries * s->dim * sizeof *d->attn_out);
    d->scratch_bytes = lodge_cpu_attention_scratch(kv, s->dim);
    d->scratch = room(lodge_workers_count(w) * d->scratch_bytes);
    d->max_items = (uint32_t)queries + LODGE_MAX_PARTIALS;
    d->items = room(d->max_items * sizeof *d->items);
    d->partials = room(LODGE_MAX_PARTIALS * sizeof *d->partials);
    d->partial_acc = room((size_t)LODGE_MAX_PARTIALS * LODGE_ATTN_QUERIES * s->dim * 4);
    if (!d->pool)
        abort();
    float q[LODGE_HEAD_DIM_MAX];
    for (size_t i = 0; i < queries; i++) {
        for (uint32_t j = 0; j < s->dim; j++)
            q[j] = (float)((i + j) * 2654435761u % 2001) * 1e-3f - 1;
        k->kv[kv].query(q, s->dim, d->q + i * lodge_kv_query_bytes(kv, s->dim));
    }
    fill_pool(b);
    lodge_cpu_plan_attention(d, &b->op);
}

static void close_bench(struct bench *b)
{
    lodge_pages_unmap(b->d.pool, b->d.n_pages * b->d.page_bytes);
    free(b->pages);
    free(b->d.q);
    free(b->d.attn_out);
    free(b->d.scratch);
    free(b->d.items);
    free(b->d.partials);
    free(b->d.partial_acc);
}

/* As run_attn of kernels/cpu/step.c. */
static void attend(void *ctx, unsigned worker, unsigned n_workers)
{
    struct bench *b = ctx;
    unsigned mode = lodge_cpu_flush_denormals();
    lodge_cpu_attention(&b->d, &b->op, worker);
    lodge_workers_barrier(b->d.workers);
    if (b->d.n_items && b->d.items[0].partial >= 0)
        lodge_cpu_merge_partials(&b->d, &b->op, worker, n_workers);
    lodge_cpu_restore_denormals(mode);
}

/* Seconds of a layer: the mean over as many layers as are cold. */
static double time_layers(struct bench *b)
{
    double from = bench_seconds();
    uint32_t n = b->group.n_layers < 8 ? b->group.n_layers : 8;
    for (uint32_t i = 0; i < n; i++) {
        b->op.group_layer = b->layer++ % b->group.n_layers;
        atomic_store(&b->d.next, 0);
        lodge_workers_run(b->d.workers, attend, b);
    }
    return (bench_seconds() - from) / n;
}

/* Multiply-adds of both products, twice. */
static double operations(const struct shape *s, const struct load *l)
{
    double pairs = 0;
    for (unsigned i = 0; i < l->n_tokens; i++)
        pairs += l->context - i;
    return 4 * pairs * l->seqs * s->heads * s->dim;
}

static void one_load(struct lodge_workers *w, const struct lodge_cpu_kernels *k,
                     const struct shape *s, const struct load *l, const double peak[],
                     const uint8_t *cold)
{
    static struct bench b[LODGE_KV_DTYPE_COUNT];
    double times[LODGE_KV_DTYPE_COUNT][RUNS], reads[LODGE_KV_DTYPE_COUNT][RUNS], ratio[RUNS];
    for (int t = 0; t < LODGE_KV_DTYPE_COUNT; t++)
        open_bench(&b[t], k, w, (enum lodge_kv_dtype)t, s, l);
    for (int run = 0; run < RUNS; run++) {
        for (int t = 0; t < LODGE_KV_DTYPE_COUNT; t++) {
            reads[t][run] = bench_read_rate(w, cold, COLD_BYTES / 2);
            times[t][run] = time_layers(&b[t]);
        }
        ratio[run] = times[LODGE_KV_BF16][run] / times[LODGE_KV_INT8][run];
    }
    for (int t = 0; t < LODGE_KV_DTYPE_COUNT; t++) {
        double time = median(times[t]), read = median(reads[t]);
        double ops = operations(s, l) * (t == LODGE_KV_INT8 ? 2 : 1);
        double by_bytes = (double)b[t].bytes / read, by_ops = peak[t] > 0 ? ops / peak[t] : 0;
        double bound = by_bytes > by_ops ? by_bytes : by_ops;
        printf("%-7s %2ux%u/%-3u %2u x %4u (%3u new)  %-4s %9.1f us  %6.1f GB/s of %5.1f %7.1f "
               "GOP/s  bound %8.1f us (%s) %5.1f%%",
               k->name, s->heads, s->kv_heads, s->dim, l->seqs, l->context, l->n_tokens,
               lodge_kv_dtype_name((enum lodge_kv_dtype)t), time * 1e6,
               (double)b[t].bytes / time * 1e-9, read * 1e-9, ops / time * 1e-9, bound * 1e6,
               by_bytes > by_ops ? "read" : "ops", 100 * bound / time);
        printf(t == LODGE_KV_INT8 ? "  bf16/int8 %.2f\n" : "\n", median(ratio));
        close_bench(&b[t]);
    }
    fflush(stdout);
}

struct options {
    struct shape shape; /* heads 0: all of `shapes` */
    struct load load;   /* seqs 0: all of `loads` */
    const char *isa;
    unsigned threads;
};

static bool valid(const struct options *o)
{
    const struct shape *s = &o->shape;
    const struct load *l = &o->load;
    return s->dim <= LODGE_HEAD_DIM_MAX && s->dim % LODGE_KV_DIM_STEP == 0 &&
           (s->dim == 0 || (s->kv_heads > 0 && s->heads % s->kv_heads == 0)) &&
           l->seqs <= MAX_SEQS && l->n_tokens <= l->context && (l->seqs == 0 || l->n_tokens > 0);
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
    static const struct shape shapes[] = {{9, 3, 64}, {32, 8, 64}, {32, 8, 128}};
    static const struct load loads[] = {{64, 512, 1}, {32, 2048, 1}, {8, 8192, 1},
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
                LODGE_KV_DIM_STEP, LODGE_HEAD_DIM_MAX, MAX_SEQS);
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
