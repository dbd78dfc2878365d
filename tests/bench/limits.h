/* What the machine can do at most, measured the moment before a kernel is: each figure of a bench
 * is printed beside the limit that bounds it. Threads: the caller's worker pool runs everything. */
#ifndef LODGE_TESTS_BENCH_LIMITS_H
#define LODGE_TESTS_BENCH_LIMITS_H

#include "base/workers.h"

#include <stddef.h>
#include <stdint.h>

/* Bytes a second that all workers together read from `n` bytes at `data` (cold: larger than the
 * caches). */
double bench_read_rate(struct lodge_workers *w, const uint8_t *data, size_t n);

/* Operations a second (a multiply-add is two) of all workers with everything in registers, for the
 * arithmetic of a rung. */
enum bench_peak { BENCH_PEAK_FP32, BENCH_PEAK_BF16, BENCH_PEAK_INT8, BENCH_PEAK_COUNT };
double bench_peak_rate(struct lodge_workers *w, const char *rung, enum bench_peak kind);

/* Seconds, monotonic. */
double bench_seconds(void);

#endif
