/* What is sent: request `index` of a tenant in a round, as a JSON body.
 *
 * A request is a function of (seed, round, tenant, index), so that two servers get the same ones, a
 * round never repeats the prompts of another (prefix caches must not help), and nothing is stored.
 * Thread safety: immutable once open.
 */
#ifndef LODGE_CLIENTS_BENCH_WORKLOAD_H
#define LODGE_CLIENTS_BENCH_WORKLOAD_H

#include "clients/bench/random.h"
#include "clients/bench/target.h"

struct bench_workload {
    const struct bench_options *options;
    json_t *file; /* array of the objects of --prompts, NULL without */
    char *extra;  /* members of --extra-body, each with a comma behind; "" without */
    double *zipf; /* cumulated weights by rank; NULL for other spreads */
    bool ids;     /* random prompts are token ids, else words */
};

/* Who a request is for. */
struct bench_pick {
    uint32_t tenant;
    uint32_t model; /* index into the target's */
    const char *api_key;
};

#define BENCH_WARMUP_ROUND 0xFFFFFFu /* rounds are below this */
#define BENCH_MAX_BODY ((size_t)1 << 30)

/* CONFIG with file and line when --prompts or --extra-body are not usable. End it by
 * bench_workload_close in any case. */
int bench_workload_open(const struct bench_options *o, struct bench_workload *w,
                        struct lodge_error *e);
void bench_workload_close(struct bench_workload *w);

/* Model and key of a request: the one place that decides it. Models are drawn apart from prompts
 * and lengths, which stay the same whatever the models are. */
struct bench_pick bench_workload_pick(const struct bench_workload *w, const struct bench_target *t,
                                      uint32_t round, uint32_t tenant, uint64_t index);
/* Replaces the content of `body` by the request and says for whom it is. 0 or NOMEM. */
int bench_workload_body(const struct bench_workload *w, const struct bench_target *t,
                        uint32_t round, uint32_t tenant, uint64_t index, struct lodge_buf *body,
                        struct bench_pick *pick);

#endif
