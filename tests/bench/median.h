/* The middle of measured times. */
#ifndef LODGE_TESTS_BENCH_MEDIAN_H
#define LODGE_TESTS_BENCH_MEDIAN_H

#include <stdlib.h>

static inline int bench_by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Sorts v; of an even number the upper of both in the middle. */
static inline double bench_median(double *v, size_t n)
{
    qsort(v, n, sizeof *v, bench_by_value);
    return v[n / 2];
}

#endif
