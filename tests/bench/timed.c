#include "tests/bench/timed.h"

#include "base/workers.h"
#include "tests/bench/limits.h"

#include <stdatomic.h>

#define MAX_THREADS 256

/* On a line of its own, as its thread alone writes it. */
struct counter {
    _Alignas(64) uint64_t ticks;
};

static struct counter counters[MAX_THREADS];
static atomic_uint n_threads;
static _Thread_local struct counter *mine;
static uint64_t began;
static double began_at;

/* After all that came before. */
static inline uint64_t ticks_now(void)
{
#if defined(__aarch64__)
    uint64_t t;
    __asm__ volatile("dsb ish\n\tisb\n\tmrs %0, cntvct_el0" : "=r"(t)::"memory");
    return t;
#else
    __builtin_ia32_lfence();
    return __builtin_ia32_rdtsc();
#endif
}

void __real_lodge_workers_barrier(struct lodge_workers *w);
void __wrap_lodge_workers_barrier(struct lodge_workers *w);

void __wrap_lodge_workers_barrier(struct lodge_workers *w)
{
    if (!mine)
        mine = &counters[atomic_fetch_add(&n_threads, 1) % MAX_THREADS];
    uint64_t from = ticks_now();
    __real_lodge_workers_barrier(w);
    mine->ticks += ticks_now() - from;
}

void bench_barriers_reset(void)
{
    for (unsigned i = 0; i < MAX_THREADS; i++)
        counters[i] = (struct counter){0};
    began = ticks_now();
    began_at = bench_seconds();
}

double bench_barrier_seconds(void)
{
    double rate = (double)(ticks_now() - began) / (bench_seconds() - began_at), ticks = 0;
    for (unsigned i = 0; i < MAX_THREADS; i++)
        ticks += (double)counters[i].ticks;
    return ticks / rate;
}

/* Stands for a kernel of any type: what it is given goes away with the call. */
static void nothing(void)
{
}

void bench_empty_kernels(struct lodge_cpu_kernels *k)
{
    void *empty = (void *)nothing;
    for (int f = 0; f < LODGE_FMT_COUNT; f++) {
        struct lodge_gemm *g = &k->gemm[f];
        g->tile = g->wide_tile = empty;
        g->widen = g->widen ? empty : NULL;
        g->gather = empty;
    }
    for (int f = 0; f < LODGE_ACT_FORM_COUNT; f++)
        k->act_pack[f] = empty;
    for (int t = 0; t < LODGE_KV_DTYPE_COUNT; t++)
        k->kv[t] = (struct lodge_kv_ops){empty, empty, empty};
    k->rms_norm = empty;
    k->layer_norm = empty;
    k->glu = empty;
    k->add_block = empty;
    k->cap = empty;
    k->rope = empty;
    k->attn_merge = empty;
    k->attn_end = empty;
    k->row.block_most = empty;
}
