/* Peaks are chains of independent instructions, enough of them to hide the latency. */
#include "tests/bench/limits.h"

#include "base/clock.h"

#include <stdatomic.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

double bench_seconds(void)
{
    return (double)lodge_now_ns() * 1e-9;
}

struct reading {
    const uint8_t *data;
    size_t n;
    _Atomic uint64_t sum;
};

static void read_part(void *ctx, unsigned worker, unsigned n_workers)
{
    struct reading *r = ctx;
    size_t words = r->n / 64 / n_workers * 8;
    const uint64_t *p = (const uint64_t *)(const void *)r->data + words * worker;
    uint64_t s[8] = {0};
    for (size_t i = 0; i < words; i += 8)
        for (int j = 0; j < 8; j++)
            s[j] ^= p[i + (size_t)j];
    atomic_fetch_add(&r->sum, s[0] ^ s[1] ^ s[2] ^ s[3] ^ s[4] ^ s[5] ^ s[6] ^ s[7]);
}

double bench_read_rate(struct lodge_workers *w, const uint8_t *data, size_t n)
{
    struct reading r = {.data = data, .n = n};
    double from = bench_seconds();
    lodge_workers_run(w, read_part, &r);
    return (double)n / (bench_seconds() - from);
}

#define ROUNDS 4000000
#define CHAINS 12

struct peak {
    void (*run)(void);
    double ops; /* of one round */
};

static void run_peak(void *ctx, unsigned worker, unsigned n_workers)
{
    (void)worker;
    (void)n_workers;
    ((struct peak *)ctx)->run();
}

#if defined(__x86_64__)
#define STEP(step, i) __asm__ volatile(step : "+v"(a##i) : "v"(x))
#define PEAK(name, isa, type, init, step)                                                          \
    __attribute__((target(isa))) static void name(void)                                            \
    {                                                                                              \
        type x = init, a0 = x, a1 = x, a2 = x, a3 = x, a4 = x, a5 = x;                             \
        type a6 = x, a7 = x, a8 = x, a9 = x, a10 = x, a11 = x;                                     \
        for (int r = 0; r < ROUNDS; r++) {                                                         \
            STEP(step, 0);                                                                         \
            STEP(step, 1);                                                                         \
            STEP(step, 2);                                                                         \
            STEP(step, 3);                                                                         \
            STEP(step, 4);                                                                         \
            STEP(step, 5);                                                                         \
            STEP(step, 6);                                                                         \
            STEP(step, 7);                                                                         \
            STEP(step, 8);                                                                         \
            STEP(step, 9);                                                                         \
            STEP(step, 10);                                                                        \
            STEP(step, 11);                                                                        \
        }                                                                                          \
    }
PEAK(fma_512, "avx512f", __m512, _mm512_setzero_ps(), "vfmadd231ps %1, %1, %0")
PEAK(fma_256, "avx2,fma", __m256, _mm256_setzero_ps(), "vfmadd231ps %1, %1, %0")
PEAK(bf16_512, "avx512f", __m512, _mm512_setzero_ps(), "vdpbf16ps %1, %1, %0")
PEAK(int8_512, "avx512f", __m512i, _mm512_setzero_si512(), "vpdpbusd %1, %1, %0")
PEAK(int8_256, "avx2", __m256i, _mm256_setzero_si256(), "vpmaddubsw %1, %0, %0")
#ifdef LODGE_EVEX
PEAK(vnni_256, "avx2", __m256i, _mm256_setzero_si256(), "%{evex%} vpdpbusd %1, %1, %0")
#else
PEAK(vnni_256, "avx2,avxvnni", __m256i, _mm256_setzero_si256(), "%{vex%} vpdpbusd %1, %1, %0")
#endif

static struct peak peak_of(const char *rung, enum bench_peak kind)
{
    if (strcmp(rung, "avx2") == 0)
        return kind == BENCH_PEAK_INT8 ? (struct peak){int8_256, 64} : (struct peak){fma_256, 16};
    if (strcmp(rung, "avx2-vnni") == 0)
        return kind == BENCH_PEAK_INT8 ? (struct peak){vnni_256, 64} : (struct peak){fma_256, 16};
    if (strncmp(rung, "avx512", 6) != 0)
        return (struct peak){0};
    if (kind == BENCH_PEAK_INT8)
        return (struct peak){int8_512, 128};
    if (kind == BENCH_PEAK_BF16 && strcmp(rung, "avx512") == 0)
        return (struct peak){bf16_512, 64};
    return (struct peak){fma_512, 32};
}
#else
static struct peak peak_of(const char *rung, enum bench_peak kind)
{
    (void)rung;
    (void)kind;
    return (struct peak){0};
}
#endif

double bench_peak_rate(struct lodge_workers *w, const char *rung, enum bench_peak kind)
{
    struct peak p = peak_of(rung, kind);
    if (!p.run)
        return 0;
    double best = 0;
    for (int i = 0; i < 3; i++) {
        double from = bench_seconds();
        lodge_workers_run(w, run_peak, &p);
        double rate = p.ops * CHAINS * ROUNDS * lodge_workers_count(w) / (bench_seconds() - from);
        best = rate > best ? rate : best;
    }
    return best;
}
