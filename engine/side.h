/* Work beside steps. On a CPU whatever runs beside a step takes a core from it, and every worker
 * waits for the one that lost its core: a millisecond of somebody's thread costs a step a
 * millisecond of all cores. So long work is cut into small items, and while steps run, the workers
 * themselves do the items between two steps, all at once and for a small part of the step's time.
 * While none runs, the thread that brought the work does them.
 *
 * A job is the work of one thread, its owner: parts that follow one another, each of many items.
 * What the owner does between two parts is short, and a turn waits for it, so that a job need not
 * sit through a step for each of its parts.
 *
 * Threads: a job belongs to its owner; side_turn is the engine thread's.
 */
#ifndef LODGE_ENGINE_SIDE_H
#define LODGE_ENGINE_SIDE_H

#include "kernels/backend.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* Of a step's time, for each job that waits, up to SIDE_MOST. */
#define LODGE_SIDE_SHARE (1.0 / 16)
#define LODGE_SIDE_MOST (1.0 / 4)
/* Of that, waiting for an owner at a time: on a machine with other work it may not get a core. */
#define LODGE_SIDE_PATIENCE (1.0 / 64)

struct lodge_side_part;

struct lodge_side {
    const struct lodge_backend *backend;
    struct lodge_device *device;
    pthread_mutex_t lock;
    pthread_cond_t done;                  /* for owners: a part is done */
    pthread_cond_t news;                  /* for the turn: a part has come, or a job has ended */
    struct lodge_side_part *first, *last; /* oldest first */
    atomic_uint n_parts;
    uint32_t n_awaited; /* owners whose part this turn did, and who have not come back */
    uint64_t turn;
    atomic_bool stepping;
};

struct lodge_side_job {
    struct lodge_side *side;
    uint64_t awaited; /* by the turn of this number; the side's lock guards it */
};

void lodge_side_init(struct lodge_side *s, const struct lodge_backend *backend,
                     struct lodge_device *device);
/* Nothing runs any more. */
void lodge_side_finish(struct lodge_side *s);

/* A job without parts so far. */
void lodge_side_begin(struct lodge_side_job *j, struct lodge_side *s);
/* No part follows. Whatever the last part led to has happened: a turn goes on from there. */
void lodge_side_end(struct lodge_side_job *j);
/* The next part: calls fn(ctx, i) once for every i < n_items, several at a time from several
 * threads, and returns when all have returned. Items must not wait for anything. `job` is a struct
 * lodge_side_job: for callbacks. */
void lodge_side_run(void *job, void (*fn)(void *ctx, uint32_t item), void *ctx, uint32_t n_items);
/* After a step of step_ns, or 0 when there was nothing to step. */
void lodge_side_turn(struct lodge_side *s, uint64_t step_ns);

#endif
