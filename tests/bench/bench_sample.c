/* The sampler by itself: microseconds for one row of logits on one core, by vocabulary and by what
 * the request asks for.
 *
 *   bench_sample [--isa RUNG]
 *
 * Rows are as a model gives them: a handful of likely tokens above a bell of unlikely ones. The
 * bound is one pass over the logits where the whole distribution is needed (top_p, log-
 * probabilities), and one over the maxima of blocks of 32 otherwise. Median of 101 rows, warm.
 */
#include "base/clock.h"
#include "kernels/cpu/kernels.h"
#include "tests/bench/median.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RUNS 101

struct kind {
    const char *name;
    struct lodge_sampling s;
    bool logprob;
    uint32_t n_top;
};

static void fill(float *x, uint32_t n, uint32_t seed)
{
    for (uint32_t i = 0; i < n; i += 4) {
        uint32_t counter[4] = {i, seed, 0, 0}, w[4];
        lodge_philox(1, counter, w);
        for (uint32_t k = 0; k < 4 && i + k < n; k++) {
            float u = ((float)(w[k] & 0xFFFF) + 0.5f) / 65536;
            float v = ((float)(w[k] >> 16) + 0.5f) / 65536;
            x[i + k] = 2 * sqrtf(-2 * logf(u)) * cosf(6.2831853f * v);
        }
    }
    for (uint32_t i = 0; i < 20; i++)
        x[(i * 7919u + seed * 31u) % n] = 14 - 0.5f * (float)i;
}

static double one(const struct lodge_cpu_kernels *k, const struct kind *kind, uint32_t n, float *x,
                  void *scratch)
{
    double us[RUNS];
    float *most = x + n;
    const struct lodge_logits l = {x, most, n};
    struct lodge_top tops[20];
    for (uint32_t r = 0; r < RUNS; r++) {
        struct lodge_sampled out;
        fill(x, n, r);
        k->row.block_most(x, n, 1, n, most, 0);
        uint64_t begin = lodge_now_ns();
        lodge_sample(&k->row, &l, &kind->s, r, kind->logprob, scratch, &out);
        if (kind->n_top)
            lodge_top_logprobs(&k->row, &l, kind->n_top, tops);
        us[r] = (double)(lodge_now_ns() - begin) * 1e-3;
    }
    return bench_median(us, RUNS);
}

#define BASE .typical_p = 1, .repetition = 1, .seed = 3

int main(int argc, char **argv)
{
    static const struct lodge_bias bias[] = {{5, 1.0f}};
    const struct kind kinds[] = {
        {.name = "greedy", .s = {BASE, .temperature = 0, .top_p = 1}},
        {.name = "temperature 1", .s = {BASE, .temperature = 1, .top_p = 1}},
        {.name = "temperature 0.7, top_p 0.9", .s = {BASE, .temperature = 0.7f, .top_p = 0.9f}},
        {.name = "top_k 40", .s = {BASE, .temperature = 1, .top_k = 40, .top_p = 1}},
        {.name = "temperature 0.7, top_k 20, top_p 0.8",
         .s = {BASE, .temperature = 0.7f, .top_k = 20, .top_p = 0.8f}},
        {.name = "min_p 0.05", .s = {BASE, .temperature = 1, .min_p = 0.05f, .top_p = 1}},
        {.name = "top_k 40, a bias",
         .s = {BASE, .temperature = 1, .top_k = 40, .top_p = 1, .bias = bias, .n_bias = 1}},
        {.name = "greedy, its log-probability and 5 more",
         .s = {BASE, .temperature = 0, .top_p = 1},
         .logprob = true,
         .n_top = 5},
    };
    static const uint32_t vocabularies[] = {49152, 128256, 262144};
    struct lodge_cpu_kernels k;
    struct lodge_error e = {0};
    if (lodge_cpu_kernels_init(&k, argc == 3 && !strcmp(argv[1], "--isa") ? argv[2] : NULL, &e)) {
        fprintf(stderr, "%s\n", e.text);
        return 4;
    }
    float *x = aligned_alloc(64, (262144 + 8192) * sizeof *x);
    void *scratch = aligned_alloc(64, (lodge_sample_scratch_bytes(262144) + 63) / 64 * 64);
    if (!x || !scratch)
        return 4;
    printf("rung %s, microseconds a row\n%-42s", k.name, "");
    for (int v = 0; v < 3; v++)
        printf("%10u", vocabularies[v]);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        printf("\n%-42s", kinds[i].name);
        for (int v = 0; v < 3; v++)
            printf("%10.1f", one(&k, &kinds[i], vocabularies[v], x, scratch));
    }
    printf("\n");
    free(x);
    free(scratch);
}
