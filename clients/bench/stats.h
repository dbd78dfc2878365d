/* Samples and what is said about them. Percentiles interpolate linearly and the deviation is the
 * population's, as numpy's defaults and so vLLM's bench. Thread safety: none, one owner. */
#ifndef LODGE_CLIENTS_BENCH_STATS_H
#define LODGE_CLIENTS_BENCH_STATS_H

#include <stddef.h>

/* A zeroed one is empty. */
struct bench_samples {
    double *v;
    size_t n, _room;
};

/* 0 or NOMEM. */
int bench_samples_add(struct bench_samples *s, double value);
void bench_samples_finish(struct bench_samples *s);
void bench_samples_sort(struct bench_samples *s);

/* Of no samples: NAN, for all three. */
double bench_mean(const struct bench_samples *s);
double bench_deviation(const struct bench_samples *s);
/* Of sorted samples; 0 <= percent <= 100. */
double bench_percentile(const struct bench_samples *sorted, double percent);

/* Jain's index (sum x)^2 / (n sum x^2): 1 when all are equal, 1/n when one has all. NAN when
 * nobody has anything. */
double bench_jain(const struct bench_samples *s);
/* Largest over smallest; INFINITY when only the smallest is 0, NAN when nobody has anything. */
double bench_max_min(const struct bench_samples *s);

#endif
