/* Work beside steps. On a CPU whatever runs beside a step takes a core from it, and every worker
 * waits for the one that lost its core: a millisecond of somebody's thread costs a step a
 * millisecond of all cores. So long work is cut into small items, and while steps run, the workers
 * themselves do the items between two steps, all at once and for a small part of the step's time.
 * While none runs, the thread that brought the work does them.
 *
 * Threads: lodge_side_run from any, side_turn from the engine thread.
 */
#ifndef LODGE_ENGINE_SIDE_H
#define LODGE_ENGINE_SIDE_H

#include "kernels/backend.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* Of a step's time, for each piece of work that waits, up to SIDE_MOST. */
#define LODGE_SIDE_SHARE (1.0 / 16)
#define LODGE_SIDE_MOST (1.0 / 4)

struct lodge_side_work;

struct lodge_side {
    const struct lodge_backend *backend;
    struct lodge_device *device;
    pthread_mutex_t lock;
    pthread_cond_t done;
    struct lodge_side_work *first, *last; /* oldest first */
    atomic_uint n_works;
    atomic_bool stepping;
};

void lodge_side_init(struct lodge_side *s, const struct lodge_backend *backend,
                     struct lodge_device *device);
/* Nothing runs any more. */
void lodge_side_finish(struct lodge_side *s);

/* Calls fn(ctx, i) once for every i < n_items, several at a time from several threads, and returns
 * when all have returned. `side` is a struct lodge_side: for callbacks. */
void lodge_side_run(void *side, void (*fn)(void *ctx, uint32_t item), void *ctx, uint32_t n_items);
/* After a step of step_ns, or 0 when there was nothing to step. */
void lodge_side_turn(struct lodge_side *s, uint64_t step_ns);

#endif
