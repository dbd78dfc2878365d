#include "tests/bench/timed.h"

#include "tests/bench/limits.h"

#include <stdatomic.h>

#define MAX_THREADS 256

/* On a line of its own, as its thread alone writes it. */
struct counter {
    _Alignas(64) uint64_t ticks;
    uint64_t calls;
};

static struct lodge_cpu_kernels real;
static struct counter counters[MAX_THREADS];
static atomic_uint n_threads;
static _Thread_local struct counter *mine;
static uint64_t began;
static double began_at;

static inline uint64_t ticks_now(void)
{
#if defined(__aarch64__)
    uint64_t t;
    __asm__ volatile("mrs %0, cntvct_el0" : "=r"(t));
    return t;
#else
    return __builtin_ia32_rdtsc();
#endif
}

static inline void count(uint64_t from)
{
    uint64_t ticks = ticks_now() - from;
    if (!mine)
        mine = &counters[atomic_fetch_add(&n_threads, 1) % MAX_THREADS];
    mine->ticks += ticks;
    mine->calls++;
}

/* A kernel that returns nothing, behind one that counts. */
#define TIMED(name, call, params, ...)                                                             \
    static void name params                                                                        \
    {                                                                                              \
        uint64_t from = ticks_now();                                                               \
        real.call(__VA_ARGS__);                                                                    \
        count(from);                                                                               \
    }

#define TILE_PARAMS                                                                                \
    (const void *w, uint32_t n, const void *x, unsigned m, float *out, size_t ld,                  \
     const void *next, size_t bytes)
#define TIMED_FORMAT(f, ...)                                                                       \
    TIMED(tile_##f, gemm[LODGE_FMT_##f].tile, TILE_PARAMS, w, n, x, m, out, ld, next, bytes)       \
    TIMED(wide_##f, gemm[LODGE_FMT_##f].wide_tile, TILE_PARAMS, w, n, x, m, out, ld, next, bytes)  \
    TIMED(widen_##f, gemm[LODGE_FMT_##f].widen, (const void *w, uint32_t n, void *to), w, n, to)   \
    TIMED(gather_##f, gemm[LODGE_FMT_##f].gather,                                                  \
          (const void *w, uint32_t n, uint32_t r, float *out), w, n, r, out)
LODGE_FORMAT_LIST(TIMED_FORMAT)

#define TIMED_FORM(f)                                                                              \
    TIMED(pack_##f, act_pack[LODGE_ACT_##f],                                                       \
          (const float *x, size_t ld, unsigned m, uint32_t a, uint32_t b, uint32_t n, void *to),   \
          x, ld, m, a, b, n, to)
TIMED_FORM(F32)
TIMED_FORM(BF16)
TIMED_FORM(Q8)

#define TIMED_KV(t)                                                                                \
    TIMED(query_##t, kv[LODGE_KV_##t].query, (const float *q, uint32_t n, uint8_t *out), q, n,     \
          out)                                                                                     \
    TIMED(store_##t, kv[LODGE_KV_##t].store,                                                       \
          (uint8_t * at, uint32_t t, const float *k, const float *v, uint32_t n), at, t, k, v, n)  \
    TIMED(attn_##t, kv[LODGE_KV_##t].attn, (struct lodge_attn_call * c), c)
TIMED_KV(BF16)
TIMED_KV(INT8)

TIMED(rms_norm, rms_norm, (const float *x, const float *w, uint32_t n, float eps, float *out), x, w,
      n, eps, out)
TIMED(layer_norm, layer_norm,
      (const float *x, const float *w, const float *b, uint32_t n, float eps, float *out), x, w, b,
      n, eps, out)
TIMED(glu, glu, (enum lodge_activation act, float *g, const float *u, size_t n), act, g, u, n)
TIMED(add_block, add_block,
      (float *x, size_t ldx, const float *y, size_t ldy, const float *b, float mult, unsigned m,
       uint32_t n),
      x, ldx, y, ldy, b, mult, m, n)
TIMED(cap, cap, (float *x, size_t ld, float mult, float c, unsigned m, uint32_t n), x, ld, mult, c,
      m, n)
TIMED(rope, rope, (float *head, const float *c, const float *s, uint32_t n), head, c, s, n)
TIMED(attn_merge, attn_merge,
      (struct lodge_attn_state * to, const struct lodge_attn_state *other, uint32_t n,
       uint32_t dim),
      to, other, n, dim)
TIMED(block_most, row.block_most,
      (const float *x, size_t ld, unsigned m, uint32_t n, float *most, size_t ld_most), x, ld, m, n,
      most, ld_most)

void bench_time_kernels(struct lodge_cpu_kernels *k)
{
    real = *k;
#define SET_FORMAT(f, ...)                                                                         \
    k->gemm[LODGE_FMT_##f].tile = tile_##f;                                                        \
    k->gemm[LODGE_FMT_##f].wide_tile = wide_##f;                                                   \
    k->gemm[LODGE_FMT_##f].widen = real.gemm[LODGE_FMT_##f].widen ? widen_##f : NULL;              \
    k->gemm[LODGE_FMT_##f].gather = gather_##f;
    LODGE_FORMAT_LIST(SET_FORMAT)
    k->act_pack[LODGE_ACT_F32] = pack_F32;
    k->act_pack[LODGE_ACT_BF16] = pack_BF16;
    k->act_pack[LODGE_ACT_Q8] = pack_Q8;
    k->kv[LODGE_KV_BF16] = (struct lodge_kv_ops){query_BF16, store_BF16, attn_BF16};
    k->kv[LODGE_KV_INT8] = (struct lodge_kv_ops){query_INT8, store_INT8, attn_INT8};
    k->rms_norm = rms_norm;
    k->layer_norm = layer_norm;
    k->glu = glu;
    k->add_block = add_block;
    k->cap = cap;
    k->rope = rope;
    k->attn_merge = attn_merge;
    k->row.block_most = block_most;
}

void bench_timed_reset(void)
{
    for (unsigned i = 0; i < MAX_THREADS; i++)
        counters[i] = (struct counter){0};
    began = ticks_now();
    began_at = bench_seconds();
}

/* Ticks that an empty call is counted with. */
static double empty_ticks(void)
{
    struct counter *keep = mine, room = {0};
    mine = &room;
    for (int i = 0; i < 10000; i++)
        count(ticks_now());
    mine = keep;
    return (double)room.ticks / (double)room.calls;
}

double bench_timed_seconds(void)
{
    double rate = (double)(ticks_now() - began) / (bench_seconds() - began_at), ticks = 0;
    double empty = empty_ticks();
    for (unsigned i = 0; i < MAX_THREADS; i++)
        ticks += (double)counters[i].ticks - (double)counters[i].calls * empty;
    return ticks / rate;
}
