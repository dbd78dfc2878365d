/* A table of kernels that counts the time in each call, to tell how much of a step is none of
 * theirs: barriers, workers that wait for others, the walk over panels, pages and heads. One device
 * at a time. Threads: any may call the kernels; the functions below while none does. */
#ifndef LODGE_TESTS_BENCH_TIMED_H
#define LODGE_TESTS_BENCH_TIMED_H

#include "kernels/cpu/kernels.h"

/* Puts counting calls around the kernels of the table that a step without adapters uses. */
void bench_time_kernels(struct lodge_cpu_kernels *k);
/* Counts from 0 again. */
void bench_timed_reset(void);
/* Seconds in kernels since then, of all threads together, less what counting a call adds. */
double bench_timed_seconds(void);

#endif
