/* One line on the terminal that moves while a run goes on. */
#ifndef LODGE_CLIENTS_BENCH_PROGRESS_H
#define LODGE_CLIENTS_BENCH_PROGRESS_H

#include "clients/bench/result.h"

#include <stdbool.h>

struct bench_progress {
    bool on;          /* false: every call does nothing */
    const char *what; /* stands first: "warm-up", "round 2 of 5, A" */
    double duration_s;
};

/* A bench_progress_fn; `cookie` is the bench_progress. */
void bench_progress_show(void *cookie, const struct bench_result *r, uint64_t n_planned,
                         uint32_t n_running, double elapsed_s);
/* Wipes the line. */
void bench_progress_clear(const struct bench_progress *p);

#endif
