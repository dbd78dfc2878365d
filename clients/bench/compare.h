/* Two servers in turns: rounds of A and B with the same requests, and what they differ by. */
#ifndef LODGE_CLIENTS_BENCH_COMPARE_H
#define LODGE_CLIENTS_BENCH_COMPARE_H

#include "clients/bench/result.h"
#include "clients/bench/target.h"

#include <stdio.h>

/* The figures of both servers in one round. */
struct bench_round {
    struct bench_metrics side[2];
};

/* A figure over all rounds. Medians, and of the ratio A/B of each round; NAN where a round has
 * none. */
struct bench_compared {
    double a, b, ratio, ratio_min, ratio_max;
};

/* n_rounds >= 1. NOMEM. */
int bench_compare(const struct bench_round *rounds, uint32_t n_rounds, const char *key,
                  struct bench_compared *out);

/* 0 or NOMEM. */
int bench_print_comparison(FILE *out, const struct bench_target t[2],
                           const struct bench_round *rounds, uint32_t n_rounds);
/* Settings and medians of both, ratios by key, and all rounds. NULL without memory. */
json_t *bench_comparison_json(const struct bench_target t[2], const struct bench_round *rounds,
                              uint32_t n_rounds);

#endif
