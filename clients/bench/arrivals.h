/* When requests of an open loop are sent. */
#ifndef LODGE_CLIENTS_BENCH_ARRIVALS_H
#define LODGE_CLIENTS_BENCH_ARRIVALS_H

#include "clients/bench/stats.h"

#include <stdint.h>

/* Appends send times in seconds from the start, ascending. Gaps are gamma distributed with shape
 * `burstiness` and mean 1/rate: 1 is a Poisson process, below 1 comes in bursts, above 1 is more
 * even, INFINITY is a constant gap. An infinite rate sends all at 0.
 * With duration_s = 0 there are n times, scaled as vLLM does so that the last is n/rate; with a
 * duration the process is left as drawn and ends there (or after n, when n is not 0).
 * Each tenant has a process of its own. 0 or NOMEM. */
int bench_arrivals(double rate, double burstiness, uint64_t n, double duration_s, uint64_t seed,
                   uint32_t tenant, struct bench_samples *out);

#endif
