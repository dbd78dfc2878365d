/* Time of a plan by the length of the queue, when nothing can be admitted: the batch is full, or
 * pages have run out while slots are free (so that the prefix cache is asked), or no adapter is
 * there. 256 sequences run; those that wait belong to 1000 tenants. Usage: bench_sched. */
#include "tests/engine/sim.h"

#include <string.h>

#define N_RUNNING 256u
#define N_TENANTS 1000u
#define N_PLANS 200u

enum what { BATCH_FULL, PAGES_OUT, ADAPTERS_AWAY };

static void fill(struct sim *m, enum what what, uint32_t n_waiting)
{
    for (uint32_t i = 0; i < N_RUNNING; i++)
        sim_submit(m, 0, 33, 1000);
    while (m->sched.running.n < N_RUNNING)
        sim_step(m);
    m->residency.not_ready = what == ADAPTERS_AWAY ? UINT32_MAX : 0;
    for (uint32_t i = 0; i < n_waiting; i++) {
        struct lodge_inflight *r = sim_submit(m, 1, 500, 500);
        /* Counted again as somebody else's: the simulation knows few tenants. */
        lodge_sched_remove(&m->sched, &r->seqs[0]);
        r->r.tenant = i % N_TENANTS;
        r->r.n_adapters = what == ADAPTERS_AWAY;
        lodge_sched_enqueue(&m->sched, &r->seqs[0]);
    }
}

static double plan_us(enum what what, uint32_t n_waiting)
{
    static struct sim m;
    const struct sim_config c = {.limits = {.policy = LODGE_POLICY_FAIR,
                                            .max_seqs = N_RUNNING + (what != BATCH_FULL),
                                            .max_step_tokens = 512,
                                            .reserve_tokens = 1 << 20,
                                            .max_tenants = 2000,
                                            .prefix_cache = true,
                                            .tier_floor = LODGE_SCHED_TIER_FLOOR,
                                            .window = 2048,
                                            .max_age_ns = LODGE_SCHED_MAX_AGE_NS},
                                 .n_pages = N_RUNNING * 33,
                                 .page_tokens = 32,
                                 .n_tenants = 2,
                                 .tenants = {{.weight = 1, .cv = 1}, {.weight = 1, .cv = 1}}};
    sim_open(&m, &c, 1);
    fill(&m, what, n_waiting);
    uint64_t least = UINT64_MAX;
    for (uint32_t i = 0; i < N_PLANS; i++) {
        uint64_t before = lodge_now_ns();
        lodge_sched_plan(&m.sched, 0);
        uint64_t took = lodge_now_ns() - before;
        least = took < least ? took : least;
        lodge_sched_submitted(&m.sched);
    }
    sim_close(&m);
    return (double)least * 1e-3;
}

int main(void)
{
    static const char *names[] = {"batch full", "pages out", "adapters away"};
    static const uint32_t lengths[] = {0, 100, 1000, 10000};
    printf("least time of a plan, us\n%-14s", "waiting");
    for (uint32_t k = 0; k < 4; k++)
        printf("%10u", lengths[k]);
    for (uint32_t what = 0; what < 3; what++) {
        printf("\n%-14s", names[what]);
        for (uint32_t k = 0; k < 4; k++)
            printf("%10.1f", plan_us((enum what)what, lengths[k]));
    }
    printf("\n");
    return 0;
}
