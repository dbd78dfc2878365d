#include "clients/bench/load.h"

#include "clients/bench/arrivals.h"
#include "clients/bench/workload.h"

#include <math.h>
#include <stdlib.h>

static int make_lanes(struct bench_load *l, uint32_t n, struct lodge_error *e)
{
    l->lanes = calloc(n, sizeof *l->lanes);
    if (!l->lanes)
        return lodge_fail(e, LODGE_ERR_NOMEM, "no memory for the load");
    l->n_lanes = n;
    for (uint32_t i = 0; i < n; i++)
        l->lanes[i] = (struct bench_lane){.tenant = i, .n_requests = UINT64_MAX, .concurrency = 1};
    return 0;
}

/* How many of n requests tenants before i have, when each gets its part of the whole rate: parts
 * are the differences, so that they sum up to n. */
static uint64_t n_before(const struct bench_tenants *t, uint32_t i, uint64_t n)
{
    double before = 0, all = 0;
    for (uint32_t k = 0; k < t->n; k++) {
        double part = isinf(t->v[k].rate) ? 1 : t->v[k].rate;
        before += k < i ? part : 0;
        all += part;
    }
    return i == t->n ? n : (uint64_t)floor((double)n * before / all + 0.5);
}

static bool all_open(const struct bench_tenants *t)
{
    for (uint32_t i = 0; i < t->n; i++)
        if (t->v[i].rate == 0)
            return false;
    return true;
}

/* The send times of one tenant. Where closed loops share the requests with it, only the time ends
 * its arrivals. */
static int draw_arrivals(const struct bench_options *o, uint32_t round, struct bench_lane *lane)
{
    const struct bench_tenants *t = &o->tenants;
    uint64_t n = 0;
    if (o->n_prompts && all_open(t)) {
        n = n_before(t, lane->tenant + 1, (uint64_t)o->n_prompts) -
            n_before(t, lane->tenant, (uint64_t)o->n_prompts);
        if (!n) {
            lane->n_requests = 0;
            return 0;
        }
    }
    int err = bench_arrivals(t->v[lane->tenant].rate, o->burstiness, n, o->duration_s,
                             (uint64_t)o->seed + round, lane->tenant, &lane->due_s);
    lane->n_requests = lane->due_s.n;
    return err;
}

int bench_load_open(const struct bench_options *o, uint32_t round, struct bench_load *out,
                    struct lodge_error *e)
{
    const struct bench_tenants *t = &o->tenants;
    uint64_t n_due = 0;
    *out = (struct bench_load){.round = round,
                               .n_requests = o->n_prompts ? (uint64_t)o->n_prompts : UINT64_MAX,
                               .duration_s = o->duration_s};
    int err = make_lanes(out, t->n, e);
    for (uint32_t i = 0; i < t->n && !err; i++) {
        struct bench_lane *lane = &out->lanes[i];
        lane->concurrency = t->v[i].concurrency ? (uint64_t)t->v[i].concurrency : UINT64_MAX;
        lane->open = t->v[i].rate > 0;
        if (lane->open && draw_arrivals(o, round, lane))
            err = lodge_fail(e, LODGE_ERR_NOMEM, "no memory for the arrivals");
        n_due += lane->due_s.n;
    }
    if (all_open(t))
        out->n_requests = n_due;
    return err;
}

int bench_load_warm_up(const struct bench_options *o, struct bench_load *out, struct lodge_error *e)
{
    const struct bench_tenants *t = &o->tenants;
    *out = (struct bench_load){.round = BENCH_WARMUP_ROUND, .n_requests = (uint64_t)o->n_warmup};
    int err = make_lanes(out, t->n, e);
    for (uint32_t i = 0; i < t->n && !err; i++)
        out->lanes[i].concurrency = t->v[i].concurrency ? (uint64_t)t->v[i].concurrency
                                    : t->n == 1         ? BENCH_CLIENTS
                                                        : 1;
    return err;
}

int bench_load_single(uint32_t round, uint32_t tenant, uint64_t index, struct bench_load *out,
                      struct lodge_error *e)
{
    *out = (struct bench_load){.round = round, .n_requests = 1};
    int err = make_lanes(out, 1, e);
    if (!err) {
        out->lanes[0].tenant = tenant;
        out->lanes[0].first = index;
    }
    return err;
}

void bench_load_finish(struct bench_load *l)
{
    for (uint32_t i = 0; i < l->n_lanes; i++)
        bench_samples_finish(&l->lanes[i].due_s);
    free(l->lanes);
    *l = (struct bench_load){0};
}
