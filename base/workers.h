/* Worker pool: fork-join over a fixed set of threads, with a spinning barrier inside a run.
 *
 * The caller is worker 0. One run covers a whole step; its phases are separated by
 * lodge_workers_barrier, which costs tens of nanoseconds because workers spin on a generation
 * counter. A waiter that has spun for about 50 us, in a barrier or between runs, sleeps on a futex:
 * an over-committed machine is slow, not stuck.
 *
 * Threads: create, run and destroy from one thread at a time. `fn` must pass the same barriers
 * in every worker.
 */
#ifndef LODGE_BASE_WORKERS_H
#define LODGE_BASE_WORKERS_H

#include "base/error.h"

#include <stdint.h>

struct lodge_workers;

/* Cores that affinity mask and quota leave to this process, where they differ in speed those that
 * are worth it (base/host.h); at least 1. */
unsigned lodge_cpu_count(void);

/* n_threads >= 1 counts the caller. Workers are pinned one per core when there are as many
 * as cores. RESOURCE when a thread cannot be started. */
int lodge_workers_create(unsigned n_threads, struct lodge_workers **out, struct lodge_error *e);
void lodge_workers_destroy(struct lodge_workers *w);
unsigned lodge_workers_count(const struct lodge_workers *w);

typedef void lodge_worker_fn(void *ctx, unsigned worker, unsigned n_workers);
/* Calls fn(ctx, i, n) once in every worker i and returns when all have returned. What the caller
 * wrote before is visible in fn; what fn wrote is visible after. */
void lodge_workers_run(struct lodge_workers *w, lodge_worker_fn *fn, void *ctx);
/* Inside a run: waits until every worker has come here. */
void lodge_workers_barrier(struct lodge_workers *w);
/* Waits in barriers and joins longer than 1 ms so far (a preempted worker stalls all). */
uint64_t lodge_workers_stalls(const struct lodge_workers *w);

#endif
