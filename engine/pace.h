/* Work beside steps: on a CPU it takes cores from the step that everybody waits for, so it runs in
 * slices short against a step, with pauses between, and at full speed only while nothing runs.
 *
 * A pace belongs to one thread and one piece of work.
 */
#ifndef LODGE_ENGINE_PACE_H
#define LODGE_ENGINE_PACE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* While steps run, a paced thread works at most this part of the time. */
#define LODGE_PACE_SHARE 8u
#define LODGE_PACE_SLICE_NS 250000u

struct lodge_pace {
    const atomic_bool *stepping; /* whether steps run now */
    uint64_t slice_begin_ns;     /* CPU time of the thread */
};

void lodge_pace_begin(struct lodge_pace *p, const atomic_bool *stepping);
/* Between two small pieces of the work: sleeps when the slice is used up. `pace` is a struct
 * lodge_pace (a callback's cookie). */
void lodge_pace_rest(void *pace);

#endif
