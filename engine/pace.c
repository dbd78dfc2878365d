#include "engine/pace.h"

#include <time.h>

static uint64_t thread_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void lodge_pace_begin(struct lodge_pace *p, const atomic_bool *stepping)
{
    *p = (struct lodge_pace){stepping, thread_ns()};
}

void lodge_pace_rest(void *pace)
{
    struct lodge_pace *p = pace;
    uint64_t worked = thread_ns() - p->slice_begin_ns;
    if (worked < LODGE_PACE_SLICE_NS)
        return;
    if (atomic_load(p->stepping)) {
        uint64_t rest = worked * (LODGE_PACE_SHARE - 1);
        const struct timespec t = {(time_t)(rest / 1000000000u), (long)(rest % 1000000000u)};
        nanosleep(&t, NULL);
    }
    p->slice_begin_ns = thread_ns();
}
