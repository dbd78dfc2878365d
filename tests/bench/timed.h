/* What of a step is not in kernels: waiting at barriers, and the walk over panels, pages and heads.
 *
 * Clocks around each kernel do not tell: the second reading goes ahead of loads that the kernel
 * waits for, and a kernel's end runs beside what follows. So barriers are timed, which end all that
 * was before, and the walk is what a step takes whose kernels do nothing. One device at a time.
 * Programs link with --wrap=lodge_workers_barrier. Threads: the functions below while none works.
 */
#ifndef LODGE_TESTS_BENCH_TIMED_H
#define LODGE_TESTS_BENCH_TIMED_H

#include "kernels/cpu/kernels.h"

/* Puts functions that do nothing in the place of the kernels that a step without adapters uses. */
void bench_empty_kernels(struct lodge_cpu_kernels *k);
/* Counts from 0 again. */
void bench_barriers_reset(void);
/* Seconds in barriers since then, of all threads together. */
double bench_barrier_seconds(void);

#endif
