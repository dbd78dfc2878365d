/* Seeded random numbers of the load generator: xoshiro256** seeded by splitmix64.
 *
 * (seed, stream) names a sequence; the same pair gives the same numbers on every machine, so that
 * request 17 of round 3 is the same request whoever runs it. Thread safety: one owner a generator.
 */
#ifndef LODGE_CLIENTS_BENCH_RANDOM_H
#define LODGE_CLIENTS_BENCH_RANDOM_H

#include <stdint.h>

struct bench_random {
    uint64_t s[4];
};

void bench_random_init(struct bench_random *r, uint64_t seed, uint64_t stream);
uint64_t bench_random_bits(struct bench_random *r);
/* Uniform in (0, 1). */
double bench_random_unit(struct bench_random *r);
/* Uniform in 0 .. n-1; n >= 1. */
uint64_t bench_random_below(struct bench_random *r, uint64_t n);
/* Gamma distributed with this shape > 0 and scale 1: mean = variance = shape. Shape 1 is the
 * exponential distribution. */
double bench_random_gamma(struct bench_random *r, double shape);

#endif
