/* Which requests a run sends and when: a lane for each tenant. */
#ifndef LODGE_CLIENTS_BENCH_LOAD_H
#define LODGE_CLIENTS_BENCH_LOAD_H

#include "clients/bench/options.h"
#include "clients/bench/stats.h"

struct bench_check;

/* The requests of one tenant, numbered from `first`. */
struct bench_lane {
    uint32_t tenant;
    uint64_t first;
    uint64_t n_requests;        /* at most; UINT64_MAX: no bound of its own */
    uint64_t concurrency;       /* most of them in flight */
    bool open;                  /* sent at due_s; else when there is room */
    struct bench_samples due_s; /* seconds from the start, ascending */
};

struct bench_load {
    uint32_t round; /* which requests: see workload.h */
    struct bench_lane *lanes;
    uint32_t n_lanes;
    uint64_t n_requests;       /* at most, of all lanes; UINT64_MAX: what the duration allows */
    double duration_s;         /* closed loops send none after this; 0: no end */
    struct bench_check *check; /* collects replies of the run; NULL: none */
};

/* The measured load of a round. End it by bench_load_finish in any case. NOMEM. */
int bench_load_open(const struct bench_options *o, uint32_t round, struct bench_load *out,
                    struct lodge_error *e);
/* n_requests of all tenants in closed loops, which are not measured. NOMEM. */
int bench_load_warm_up(const struct bench_options *o, struct bench_load *out,
                       struct lodge_error *e);
/* One request alone, as the round had it. NOMEM. */
int bench_load_single(uint32_t round, uint32_t tenant, uint64_t index, struct bench_load *out,
                      struct lodge_error *e);
void bench_load_finish(struct bench_load *l);

#endif
