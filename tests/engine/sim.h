/* A simulated clock around the real scheduler, pool and prefix cache: tenants with gamma arrivals,
 * steps that cost time by the tokens they compute, replies of drawn lengths. Nothing is computed.
 *
 * Service is counted here, from what the plans say, not from the scheduler's counters: prompt
 * tokens that were not in the cache when a request first began, and twice the output tokens.
 */
#ifndef LODGE_TESTS_SIM_H
#define LODGE_TESTS_SIM_H

#include "engine/sched.h"
#include "tests/engine/test_engine_random.h"

#define SIM_MAX_TENANTS 64u

struct sim_tenant_config {
    float weight;
    uint32_t tier;
    double rate, cv;                      /* requests a second; of the gaps: 1 is Poisson */
    double on_s, off_s;                   /* mean length of phases; on_s 0: always on */
    uint32_t min_prompt, max_prompt;      /* tokens */
    uint32_t min_output, max_output;      /* also what a request may have at most */
    uint32_t n_prefixes, n_prefix_tokens; /* prompts begin with one of so many */
    uint32_t most_waiting;                /* further arrivals are dropped; 0: no bound */
};

struct sim_config {
    struct lodge_sched_limits limits;
    uint32_t n_pages, page_tokens;
    double step_s, token_s; /* a step, and each of its tokens */
    uint32_t n_tenants;
    struct sim_tenant_config tenants[SIM_MAX_TENANTS];
};

struct sim_tenant {
    double next_s, phase_ends_s;
    bool on;
    uint64_t n_came, n_dropped, n_aborted, n_done,
        n_in_time;       /* requests; first token in slo_ttft */
    double service;      /* virtual tokens, not over the weight */
    double most_running; /* most virtual tokens that what ran at one time could come to */
    double *ttft_s;      /* of those that got a first token */
    uint64_t n_ttft, room_ttft;
    struct lodge_inflight *requests;
};

/* Stands for the residency (the linker wraps its functions): adapters that are there or not, and
 * take no pages of the pool. */
struct sim_residency {
    struct sim *sim;
    uint32_t not_ready;       /* bit per tenant: their adapters are on their way */
    uint32_t pages_needed;    /* not 0: adapters wait until so many pages are available */
    uint32_t n_adapter_pages; /* of whoever runs with an adapter */
    uint32_t n_wanted;        /* calls */
};

struct sim {
    const struct sim_config *cfg;
    struct test_random rnd;
    struct lodge_layer_group group;
    struct lodge_plan plan;
    struct lodge_pool pool;
    struct lodge_prefix prefix;
    struct lodge_sched sched;
    struct sim_residency residency;
    double now_s;
    uint64_t n_requests, n_steps, n_tokens, n_ids;
    struct sim_tenant tenants[SIM_MAX_TENANTS];
    /* After each plan, before its step is taken for computed. */
    void (*on_plan)(struct sim *m, void *cookie);
    void *cookie;
};

void sim_open(struct sim *m, const struct sim_config *cfg, uint64_t seed);
/* Runs until so many requests have come in all. */
void sim_run(struct sim *m, uint64_t n_requests);
void sim_close(struct sim *m);

/* The p-th part (0..1) of a tenant's times to the first token, seconds. Sorts them. */
double sim_ttft(struct sim *m, uint32_t tenant, double p);
/* Puts a request into the queue now. */
struct lodge_inflight *sim_submit(struct sim *m, uint32_t tenant, uint32_t n_prompt,
                                  uint32_t n_output);
/* One plan and its step; false when nothing was planned. */
bool sim_step(struct sim *m);
/* Requests of a tenant that wait. */
uint32_t sim_waiting(const struct sim *m, uint32_t tenant);
/* Virtual tokens that a tenant could still be charged for what runs, and was. */
double sim_running(const struct sim *m, uint32_t tenant);

#endif
