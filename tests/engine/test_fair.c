/* The queue's policy: the data structure beside a simple model, then the scheduler in small closed
 * forms: who is served in which order, and what is charged. */
#include "tests/engine/sim.h"

#include <check.h>
#include <math.h>
#include <string.h>

static struct test_random rnd;

/* ---- the structure beside a model ---- */

#define MODEL_TENANTS 24u
#define MODEL_SEQS 200u

struct model {
    double counter[MODEL_TENANTS];
    uint32_t n_waiting[MODEL_TENANTS], n_running[MODEL_TENANTS];
    double floor;
    int64_t last_left;
};

static double model_floor(struct model *m)
{
    double least = INFINITY;
    for (uint32_t i = 0; i < MODEL_TENANTS; i++)
        if (m->n_waiting[i])
            least = fmin(least, m->counter[i]);
    if (isinf(least))
        least = m->last_left < 0 ? 0 : m->counter[m->last_left];
    return m->floor = fmax(m->floor, least);
}

static void check_model(const struct lodge_fair *f, const struct model *m)
{
    double least = INFINITY;
    for (uint32_t i = 0; i < MODEL_TENANTS; i++) {
        uint32_t t = lodge_fair_find(f, i, 0);
        if (m->n_waiting[i])
            least = fmin(least, m->counter[i]);
        if (!m->n_waiting[i] && !m->n_running[i] && m->counter[i] <= m->floor)
            continue; /* may be forgotten */
        TEST_CHECK(t != LODGE_NO_TENANT, "tenant %u is forgotten", i);
        TEST_CHECK(fabs(f->tenants[t].counter - m->counter[i]) < 1e-6);
        TEST_CHECK(f->tenants[t].waiting.n == m->n_waiting[i]);
    }
    uint32_t first = lodge_fair_peek(f, 0);
    TEST_CHECK((first == LODGE_NO_TENANT) == isinf(least));
    if (first != LODGE_NO_TENANT)
        TEST_CHECK(fabs(f->tenants[first].counter - least) < 1e-6);
}

START_TEST(structure_follows_the_model)
{
    static struct lodge_seq seqs[MODEL_SEQS];
    static uint32_t owner[MODEL_SEQS];
    struct lodge_fair f;
    struct model m = {.last_left = -1};
    uint64_t n = test_actions(200000);
    memset(seqs, 0, sizeof seqs);
    ck_assert_int_eq(lodge_fair_init(&f, MODEL_TENANTS, 0.1, NULL), 0);
    for (uint64_t k = 0; k < n; k++) {
        struct lodge_seq *q = &seqs[test_below(&rnd, MODEL_SEQS)];
        uint32_t *who = &owner[q - seqs], what = test_below(&rnd, 3);
        if (q->state == LODGE_SEQ_PARKED && what) {
            *who = test_once_in(&rnd, 2) ? test_below(&rnd, 4) : test_below(&rnd, MODEL_TENANTS);
            if (!m.n_waiting[*who])
                m.counter[*who] = fmax(m.counter[*who], model_floor(&m));
            m.n_waiting[*who]++;
            q->tenant = lodge_fair_tenant(&f, *who, 0, 1);
            lodge_fair_add(&f, q->tenant, NULL, q);
            q->state = LODGE_SEQ_WAITING;
        } else if (q->state == LODGE_SEQ_WAITING && !what) {
            bool runs = test_once_in(&rnd, 2);
            m.n_waiting[*who]--;
            if (!m.n_waiting[*who])
                m.last_left = *who;
            m.n_running[*who] += runs;
            if (runs)
                lodge_fair_started(&f, q->tenant);
            lodge_fair_take(&f, q->tenant, q);
            q->state = runs ? LODGE_SEQ_RUNNING : LODGE_SEQ_PARKED;
        } else if (q->state == LODGE_SEQ_RUNNING) {
            double tokens = test_below(&rnd, 100);
            m.counter[*who] += tokens;
            lodge_fair_charge(&f, q->tenant, tokens);
            if (!what) {
                m.n_running[*who]--;
                lodge_fair_stopped(&f, q->tenant);
                q->state = LODGE_SEQ_PARKED;
            }
        }
        check_model(&f, &m);
    }
    lodge_fair_finish(&f);
}
END_TEST

/* A full table forgets who owes least, and shares a place when all are busy. */
START_TEST(table_is_bounded)
{
    static struct lodge_seq seqs[1000];
    struct lodge_fair f;
    memset(seqs, 0, sizeof seqs);
    ck_assert_int_eq(lodge_fair_init(&f, 8, 0.1, NULL), 0);
    for (uint32_t i = 0; i < 1000; i++) { /* all owe something when they leave */
        seqs[i].tenant = lodge_fair_tenant(&f, 1000 + i, i % 2, 1);
        lodge_fair_add(&f, seqs[i].tenant, NULL, &seqs[i]);
        lodge_fair_charge(&f, seqs[i].tenant, 1 + i % 7);
        lodge_fair_take(&f, seqs[i].tenant, &seqs[i]);
        ck_assert_uint_le(f.n_tenants, 8);
    }
    for (uint32_t i = 0; i < 20; i++) {
        seqs[i].tenant = lodge_fair_tenant(&f, i, 0, 1);
        lodge_fair_add(&f, seqs[i].tenant, NULL, &seqs[i]);
    }
    ck_assert_uint_eq(f.n_tenants, 8);
    ck_assert_uint_eq(f.n_waiting, 20);
    ck_assert_uint_eq(f.tenants[seqs[19].tenant].waiting.n, 12);
    for (uint32_t i = 0; i < 20; i++)
        lodge_fair_take(&f, seqs[i].tenant, &seqs[i]);
    ck_assert_uint_eq(f.n_waiting, 0);
    /* Nobody owes more than newcomers would: nobody is remembered. */
    lodge_fair_raise_floor(&f, 0, 1e9);
    lodge_fair_raise_floor(&f, 1, 1e9);
    uint32_t t = lodge_fair_tenant(&f, 5000, 0, 1);
    lodge_fair_add(&f, t, NULL, &seqs[0]);
    t = lodge_fair_tenant(&f, 5001, 1, 1);
    lodge_fair_add(&f, t, NULL, &seqs[1]);
    ck_assert_uint_eq(f.n_tenants, 2);
    lodge_fair_finish(&f);
}
END_TEST

/* ---- the scheduler, one sequence at a time ---- */

static struct sim_config one_at_a_time(uint32_t n_tenants)
{
    struct sim_config c = {.limits = {.policy = LODGE_POLICY_FAIR,
                                      .max_seqs = 1,
                                      .max_step_tokens = 64,
                                      .reserve_tokens = 256,
                                      .max_tenants = 16,
                                      .prefix_cache = true,
                                      .tier_floor = 0.1,
                                      .max_age_ns = 3000000000u},
                           .n_pages = 100,
                           .page_tokens = 16,
                           .step_s = 0.01,
                           .n_tenants = n_tenants};
    for (uint32_t i = 0; i < n_tenants; i++)
        c.tenants[i] = (struct sim_tenant_config){.weight = 1, .cv = 1};
    return c;
}

struct admissions {
    uint64_t ids[256];
    uint32_t n, by_tenant[SIM_MAX_TENANTS];
    uint64_t last;
};

static void note(struct sim *m, void *cookie)
{
    struct admissions *a = cookie;
    for (const struct lodge_seq *q = m->sched.running.first; q; q = q->next)
        if (q->admitted > a->last) {
            a->last = q->admitted;
            a->by_tenant[q->req->r.tenant]++;
            if (a->n < 256)
                a->ids[a->n++] = q->req->id;
        }
}

static void open_noting(struct sim *m, const struct sim_config *c, struct admissions *a)
{
    sim_open(m, c, test_next(&rnd));
    memset(a, 0, sizeof *a);
    m->on_plan = note;
    m->cookie = a;
}

/* Until nothing is left, or so many were admitted. */
static void run(struct sim *m, const struct admissions *a, uint32_t n)
{
    while (a->n < n && sim_step(m))
        ;
}

static double counter_of(const struct sim *m, uint32_t tenant)
{
    uint32_t t = lodge_fair_find(&m->sched.fair, tenant, m->cfg->tenants[tenant].tier);
    ck_assert_uint_ne(t, LODGE_NO_TENANT);
    return m->sched.fair.tenants[t].counter;
}

START_TEST(equals_alternate_and_weights_count)
{
    static struct sim m;
    struct admissions a;
    struct sim_config c = one_at_a_time(3);
    c.tenants[2].weight = 4;
    open_noting(&m, &c, &a);
    for (uint32_t i = 0; i < 30; i++) { /* the first asks before the second does */
        sim_submit(&m, i / 15, 20, 10);
        sim_submit(&m, 2, 20, 10);
        sim_submit(&m, 2, 20, 10);
    }
    run(&m, &a, 36);
    ck_assert_uint_eq(a.by_tenant[0], 6);
    ck_assert_uint_eq(a.by_tenant[1], 6);
    ck_assert_uint_eq(a.by_tenant[2], 24);
    sim_close(&m);
}
END_TEST

START_TEST(size_counts_and_not_number)
{
    static struct sim m;
    struct admissions a;
    struct sim_config c = one_at_a_time(2);
    open_noting(&m, &c, &a);
    for (uint32_t i = 0; i < 100; i++) {
        sim_submit(&m, 0, 20, 10);  /* 20 + 2 x 10 */
        sim_submit(&m, 1, 100, 50); /* five times that */
    }
    run(&m, &a, 60);
    ck_assert_uint_eq(a.by_tenant[0], 50);
    ck_assert_uint_eq(a.by_tenant[1], 10);
    sim_close(&m);
}
END_TEST

START_TEST(idle_time_gives_no_credit)
{
    static struct sim m;
    struct admissions a;
    struct sim_config c = one_at_a_time(3);
    open_noting(&m, &c, &a);
    sim_submit(&m, 1, 20, 10);
    run(&m, &a, 1);
    for (uint32_t i = 0; i < 40; i++)
        sim_submit(&m, 0, 20, 10);
    run(&m, &a, 21);
    ck_assert_uint_eq(a.by_tenant[0], 20);
    for (uint32_t i = 0; i < 40; i++)
        sim_submit(&m, 1, 20, 10);
    ck_assert_double_eq_tol(counter_of(&m, 1), counter_of(&m, 0), 40);
    run(&m, &a, 41);
    ck_assert_uint_eq(a.by_tenant[0], 30);
    ck_assert_uint_eq(a.by_tenant[1], 11);
    run(&m, &a, UINT32_MAX);
    /* Nobody waits: a newcomer begins where the last one left, and still has to pay. */
    double last = counter_of(&m, 1);
    sim_submit(&m, 2, 20, 10);
    ck_assert_double_eq_tol(counter_of(&m, 2), last, 40);
    run(&m, &a, UINT32_MAX);
    sim_close(&m);
}
END_TEST

START_TEST(only_uncached_prompt_tokens_are_charged)
{
    static struct sim m;
    struct admissions a;
    struct sim_config c = one_at_a_time(1);
    c.tenants[0].n_prefix_tokens = 64;
    c.tenants[0].n_prefixes = 1;
    open_noting(&m, &c, &a);
    sim_submit(&m, 0, 70, 9);
    while (sim_step(&m))
        ;
    ck_assert_double_eq(counter_of(&m, 0), 70 + 2 * 9);
    sim_submit(&m, 0, 75, 4); /* 64 of them are there */
    while (sim_step(&m))
        ;
    ck_assert_double_eq(counter_of(&m, 0), 70 + 2 * 9 + (75 - 64) + 2 * 4);
    sim_close(&m);
}
END_TEST

START_TEST(preemption_is_not_charged_twice)
{
    static struct sim m;
    struct admissions a;
    struct sim_config c = one_at_a_time(1);
    c.limits.max_seqs = 8;
    c.limits.reserve_tokens = 1;
    c.n_pages = 24;
    c.tenants[0].max_output = 100;
    open_noting(&m, &c, &a);
    double expected = 0;
    for (uint32_t i = 0; i < 12; i++) {
        sim_submit(&m, 0, 30 + i, 80);
        expected += 30 + i + 2 * 80;
    }
    while (sim_step(&m))
        ;
    ck_assert_uint_gt(m.sched.preemptions, 3);
    ck_assert_double_eq(counter_of(&m, 0), expected);
    sim_close(&m);
}
END_TEST

/* ---- adapters ---- */

START_TEST(loads_and_pages_in_use_are_charged)
{
    static struct sim m;
    struct admissions a;
    struct sim_config c = one_at_a_time(1);
    c.tenants[0].weight = 2;
    c.step_s = 0.5;
    open_noting(&m, &c, &a);
    m.residency.n_adapter_pages = 10;
    m.now_s = 1;
    struct lodge_inflight *r = sim_submit(&m, 0, 20, 5);
    r->r.n_adapters = 1;
    m.sched.n_groups = 2; /* a page is half of a block then */
    lodge_sched_charge_load(&m.sched, 0, 64);
    m.sched.n_groups = 1;
    lodge_sched_charge_load(&m.sched, 99, 32); /* nobody */
    ck_assert_double_eq(counter_of(&m, 0), 32 * 16 / 16.0 / 2);
    while (sim_step(&m))
        ;
    /* 4 steps passed while it ran: its last row is gone when the fifth has. */
    double held = 10 * 16 / 16.0 * (4 * 0.5);
    ck_assert_double_eq_tol(counter_of(&m, 0), (32 + 20 + 2 * 5 + held) / 2, 1e-6);
    sim_close(&m);
}
END_TEST

START_TEST(whoever_waits_for_an_adapter_keeps_its_place)
{
    static struct sim m;
    struct admissions a;
    struct sim_config c = one_at_a_time(2);
    open_noting(&m, &c, &a);
    m.residency.not_ready = 1;
    m.residency.pages_needed = 0;
    struct lodge_inflight *first = sim_submit(&m, 0, 20, 10);
    first->r.n_adapters = 1;
    for (uint32_t i = 0; i < 10; i++)
        sim_submit(&m, i % 2, 20, 10);
    run(&m, &a, 4);
    for (uint32_t i = 0; i < 4; i++)
        ck_assert_uint_ne(a.ids[i], first->id);
    ck_assert_uint_eq(m.sched.n_deferred, 1);
    ck_assert_uint_eq(a.by_tenant[0], 2);
    ck_assert_uint_eq(a.by_tenant[1], 2);
    m.residency.not_ready = 0;
    uint64_t id = first->id;
    run(&m, &a, 6);
    ck_assert(a.ids[4] == id || a.ids[5] == id);
    run(&m, &a, UINT32_MAX);
    sim_close(&m);
}
END_TEST

/* An adapter needs pages that a stream of long replies keeps taking. When is it served? Seconds. */
static double wait_for_pages(uint64_t max_age_ns, uint32_t tier, uint64_t *n_beside)
{
    static struct sim m;
    struct admissions a;
    struct sim_config c = one_at_a_time(2);
    c.tenants[0].tier = tier; /* if lower: it waits beside, so it is owed its floor by then */
    c.limits.max_seqs = 8;
    c.limits.max_age_ns = max_age_ns;
    c.limits.prefix_cache = false;
    c.n_pages = 8 * 8;
    open_noting(&m, &c, &a);
    m.residency.not_ready = 0;
    m.residency.n_adapter_pages = 0;
    m.residency.pages_needed = 60;
    struct lodge_inflight *first = NULL;
    double begun = 2;
    while (!first || (first->seqs[0].state == LODGE_SEQ_WAITING && m.now_s < begun + 30)) {
        while (sim_waiting(&m, 1) < 8)
            sim_submit(&m, 1, 17, test_between(&rnd, 10, 100));
        while (sim_waiting(&m, 1) < 12) /* these always end soon */
            sim_submit(&m, 1, 120, 1);
        if (!first && m.now_s >= begun) {
            first = sim_submit(&m, 0, 20, 10);
            first->r.n_adapters = 1;
            begun = m.now_s;
        }
        uint64_t before = m.sched.admissions;
        sim_step(&m);
        *n_beside += m.sched.queue.drain_for ? m.sched.admissions - before : 0;
    }
    double waited = m.now_s - begun;
    sim_close(&m);
    return waited;
}

/* Whoever comes meanwhile does not begin where the one that waits for its adapter stands. */
START_TEST(one_that_cannot_be_served_is_no_measure)
{
    static struct sim m;
    struct admissions a;
    struct sim_config c = one_at_a_time(3);
    open_noting(&m, &c, &a);
    m.residency.not_ready = 1;
    sim_submit(&m, 0, 20, 10)->r.n_adapters = 1;
    for (uint32_t i = 0; i < 20; i++)
        sim_submit(&m, 1, 20, 10);
    run(&m, &a, 10);
    sim_submit(&m, 2, 20, 10);
    ck_assert_double_eq(counter_of(&m, 0), 0);
    ck_assert_double_ge(counter_of(&m, 2), 9 * 40);
    run(&m, &a, UINT32_MAX);
    sim_close(&m);
}
END_TEST

/* While the machine is full the next ones' adapters are asked for, once a plan each. */
START_TEST(adapters_are_asked_for_ahead)
{
    static struct sim m;
    struct admissions a;
    struct sim_config c = one_at_a_time(10);
    open_noting(&m, &c, &a);
    m.residency.not_ready = 0x3FE; /* all but the first */
    m.residency.pages_needed = 0;
    sim_submit(&m, 0, 20, 50);
    sim_step(&m);
    for (uint32_t i = 0; i < 10; i++)
        for (uint32_t k = 0; k < 20; k++)
            sim_submit(&m, i, 20, 50)->r.n_adapters = 1;
    for (uint32_t i = 0; i < 3; i++) {
        m.residency.n_wanted = 0;
        sim_step(&m);
        ck_assert_uint_ge(m.residency.n_wanted, 20);
        ck_assert_uint_le(m.residency.n_wanted, 256);
        ck_assert_uint_ge(m.sched.n_deferred, 18);
    }
    sim_close(&m);
}
END_TEST

START_TEST(pages_for_an_adapter_come_when_it_is_old)
{
    /* Replies take up to a second, so draining does, and 1.2 times that at most. */
    uint64_t n_beside = 0;
    for (uint32_t i = 0; i < 10; i++) {
        ck_assert_double_le(wait_for_pages(3000000000u, 0, &n_beside), 3 + 1.3);
        ck_assert_double_le(wait_for_pages(500000000u, i % 2, &n_beside), 0.5 + 1.3);
    }
    ck_assert_uint_gt(n_beside, 20);
    /* Or else this test shows nothing. */
    ck_assert_double_ge(wait_for_pages(UINT64_MAX, 0, &n_beside), 30);
}
END_TEST

/* ---- locality ---- */

/* Tenant 0 has a lower counter by `ahead` tokens; the prompts of tenant 1 are in the cache. Who is
 * served first, after so much time? */
static uint32_t first_served(double window, double ahead, double seconds)
{
    static struct sim m;
    struct admissions a;
    struct sim_config c = one_at_a_time(3);
    c.limits.window = window;
    c.tenants[1].n_prefix_tokens = 320;
    c.tenants[1].n_prefixes = 1;
    open_noting(&m, &c, &a);
    sim_submit(&m, 1, 321, 1); /* fills the cache */
    while (sim_step(&m))
        ;
    sim_submit(&m, 2, 20, 50); /* keeps the machine busy */
    sim_step(&m);
    sim_submit(&m, 0, 330, 5);
    m.now_s += seconds;
    sim_submit(&m, 1, 330, 5);
    double gap = counter_of(&m, 0) + ahead - counter_of(&m, 1);
    lodge_fair_charge(&m.sched.fair, lodge_fair_find(&m.sched.fair, 1, 0), gap);
    a.n = 0;
    run(&m, &a, 1);
    uint32_t first = m.sched.running.first->req->r.tenant == 0 ? 0 : 1;
    while (sim_step(&m))
        ;
    sim_close(&m);
    return first;
}

START_TEST(the_cache_is_worth_what_it_saves)
{
    ck_assert_uint_eq(first_served(0, 10, 0), 0);    /* no locality */
    ck_assert_uint_eq(first_served(1024, 10, 0), 1); /* it saves 256 or more */
    ck_assert_uint_eq(first_served(1024, 250, 0), 1);
    ck_assert_uint_eq(first_served(1024, 330, 0), 0); /* not so much */
    ck_assert_uint_eq(first_served(64, 60, 0), 1);
    ck_assert_uint_eq(first_served(64, 70, 0), 0);   /* more than the window */
    ck_assert_uint_eq(first_served(1024, 10, 3), 0); /* too old for that */
}
END_TEST

/* ---- tiers ---- */

struct shares {
    double at_begin[3], worst[3]; /* least of service less its floor's part of all */
};

static void follow_shares(struct sim *m, void *cookie)
{
    struct shares *s = cookie;
    double sum = m->tenants[0].service + m->tenants[1].service + m->tenants[2].service;
    for (uint32_t i = 1; i < 3; i++)
        s->worst[i] = fmin(s->worst[i], m->tenants[i].service - 0.1 * sum);
}

START_TEST(lower_tiers_get_their_floor)
{
    static struct sim m;
    struct shares s = {0};
    struct sim_config c = one_at_a_time(3);
    c.limits.max_seqs = 8;
    c.n_pages = 800;
    for (uint32_t i = 0; i < 3; i++) {
        c.tenants[i].tier = i;
        c.tenants[i].rate = 200;
        c.tenants[i].min_prompt = 10;
        c.tenants[i].max_prompt = 100;
        c.tenants[i].min_output = 5;
        c.tenants[i].max_output = 50;
        c.tenants[i].most_waiting = 20;
    }
    sim_open(&m, &c, test_next(&rnd));
    m.on_plan = follow_shares;
    m.cookie = &s;
    sim_run(&m, 60000);
    double sum = m.tenants[0].service + m.tenants[1].service + m.tenants[2].service;
    printf("tiers: %.3f %.3f %.3f, floors missed by %.0f and %.0f tokens at most\n",
           m.tenants[0].service / sum, m.tenants[1].service / sum, m.tenants[2].service / sum,
           -s.worst[1], -s.worst[2]);
    for (uint32_t i = 1; i < 3; i++) {
        ck_assert_double_ge(m.tenants[i].service, 0.095 * sum);
        ck_assert_double_le(m.tenants[i].service, 0.11 * sum);
        /* A request, and what all that run are charged until a slot is free. */
        ck_assert_double_ge(s.worst[i], -(100 + 2 * 50) - 0.1 * 8 * (100 + 2 * 50));
    }
    sim_close(&m);
}
END_TEST

START_TEST(only_lower_tiers_are_displaced)
{
    static struct sim m;
    struct admissions a;
    struct sim_config c = one_at_a_time(3);
    c.tenants[1].tier = c.tenants[2].tier = 1;
    open_noting(&m, &c, &a);
    sim_submit(&m, 1, 20, 50);
    sim_step(&m);
    uint64_t second = sim_submit(&m, 2, 20, 50)->id; /* an equal: waits */
    for (uint32_t i = 0; i < 5; i++)
        sim_step(&m);
    ck_assert_uint_eq(m.sched.preemptions, 0);
    uint64_t third = sim_submit(&m, 0, 20, 10)->id; /* a better one does not */
    sim_step(&m);
    ck_assert_uint_eq(m.sched.preemptions, 1);
    ck_assert_uint_eq(m.sched.running.first->req->id, third);
    run(&m, &a, UINT32_MAX);
    ck_assert_uint_eq(m.sched.preemptions, 1);
    ck_assert_uint_eq(a.by_tenant[1], 2);
    ck_assert_uint_eq(a.by_tenant[2], 1);
    ck_assert_uint_ne(second, third);
    sim_close(&m);
}
END_TEST

/* ---- the step ---- */

/* Long prompts of one tenant: few run at a time, and a short one of another goes first. */
START_TEST(long_prompts_do_not_stand_before_short_ones)
{
    static struct sim m;
    struct admissions a;
    struct sim_config c = one_at_a_time(2);
    c.limits.max_seqs = 16;
    c.n_pages = 2000;
    c.tenants[0].weight = 8; /* so it is the first to have its turn */
    open_noting(&m, &c, &a);
    for (uint32_t i = 0; i < 12; i++)
        sim_submit(&m, 0, 2000, 10);
    for (uint32_t i = 0; i < 5; i++)
        sim_step(&m);
    ck_assert_uint_le(m.sched.running.n, 4);
    ck_assert_uint_eq(m.sched.n_step_tokens, 64);
    sim_submit(&m, 1, 20, 10);
    for (uint32_t i = 0; i < 2; i++)
        sim_step(&m);
    ck_assert_uint_eq(m.tenants[1].n_ttft, 1);
    ck_assert_uint_eq(m.tenants[0].n_ttft, 0);
    run(&m, &a, UINT32_MAX);
    sim_close(&m);
}
END_TEST

/* A slot is kept for whoever runs little, as long as there was somebody else in the last minute. */
START_TEST(headroom_is_for_those_that_run_little)
{
    static struct sim m;
    struct admissions a;
    struct sim_config c = one_at_a_time(2);
    c.limits.max_seqs = 32;
    c.limits.spare = 1.0 / 32;
    c.n_pages = 2000;
    open_noting(&m, &c, &a);
    m.now_s = 1;
    sim_submit(&m, 1, 20, 1);
    for (uint32_t i = 0; i < 60; i++)
        sim_submit(&m, 0, 2, 200);
    for (uint32_t i = 0; i < 20; i++)
        sim_step(&m);
    ck_assert_uint_eq(m.sched.running.n, 31);
    sim_submit(&m, 1, 2, 200);
    sim_step(&m);
    ck_assert_uint_eq(m.sched.running.n, 32);
    ck_assert_uint_eq(a.by_tenant[1], 2);
    while (m.tenants[1].n_done < 2)
        sim_step(&m);
    for (uint32_t i = 0; i < 10; i++)
        sim_step(&m);
    ck_assert_uint_le(m.sched.running.n, 31);
    m.now_s += 61;
    for (uint32_t i = 0; i < 40; i++)
        sim_submit(&m, 0, 2, 200);
    sim_step(&m);
    ck_assert_uint_eq(m.sched.running.n, 32);
    run(&m, &a, UINT32_MAX);
    sim_close(&m);
}
END_TEST

/* ---- early abort ---- */

START_TEST(overload_serves_the_newest_and_ends_the_late)
{
    static struct sim m;
    struct admissions a;
    struct sim_config c = one_at_a_time(1);
    c.limits.slo_ttft_ns = 1000000000u;
    open_noting(&m, &c, &a);
    sim_submit(&m, 0, 20, 60); /* 0.6 s */
    sim_step(&m);
    uint64_t ids[4];
    for (uint32_t i = 0; i < 4; i++)
        ids[i] = sim_submit(&m, 0, 20, 20)->id; /* 0.2 s each: two can begin in time */
    run(&m, &a, UINT32_MAX);
    ck_assert_uint_eq(m.tenants[0].n_aborted, 2);
    ck_assert_uint_eq(m.sched.aborted_early, 2);
    ck_assert_uint_eq(a.n, 3);
    ck_assert_uint_eq(a.ids[1], ids[3]);
    ck_assert_uint_eq(a.ids[2], ids[2]);
    ck_assert_uint_eq(m.tenants[0].n_in_time, 3);
    /* With time enough the oldest is first. */
    sim_submit(&m, 0, 20, 10);
    sim_step(&m);
    uint64_t older = sim_submit(&m, 0, 20, 5)->id;
    sim_submit(&m, 0, 20, 5);
    run(&m, &a, 5);
    ck_assert_uint_eq(a.ids[4], older);
    run(&m, &a, UINT32_MAX);
    /* And if more is served than comes, in spite of its age. */
    sim_submit(&m, 0, 20, 65);
    sim_step(&m);
    older = sim_submit(&m, 0, 20, 5)->id;
    sim_submit(&m, 0, 20, 5);
    m.sched.fair.tenants[lodge_fair_find(&m.sched.fair, 0, 0)].n_served = 1000;
    run(&m, &a, 8);
    ck_assert_uint_eq(a.ids[7], older);
    run(&m, &a, UINT32_MAX);
    sim_close(&m);
}
END_TEST

/* A tenant that was served steadily: what is left over of a burst keeps its order. */
START_TEST(a_burst_is_no_overload)
{
    for (int overload = 0; overload < 2; overload++) {
        static struct sim m;
        struct admissions a;
        struct sim_config c = one_at_a_time(1);
        c.limits.slo_ttft_ns = 1000000000u;
        open_noting(&m, &c, &a);
        sim_submit(&m, 0, 20, 65); /* 0.65 s */
        sim_step(&m);
        uint64_t older = sim_submit(&m, 0, 20, 5)->id, newer = sim_submit(&m, 0, 20, 5)->id;
        struct lodge_tenant *t = &m.sched.fair.tenants[lodge_fair_find(&m.sched.fair, 0, 0)];
        t->n_served = 100;
        t->n_came = overload ? 150 : 110;
        run(&m, &a, UINT32_MAX);
        ck_assert_uint_eq(m.tenants[0].n_aborted, 0);
        ck_assert_uint_eq(a.ids[1], overload ? newer : older);
        sim_close(&m);
    }
}
END_TEST

/* Long prompts of one tenant wait in the batch; that says nothing of another's first tokens. */
START_TEST(how_soon_a_first_token_comes_is_a_tenants_own)
{
    static struct sim m;
    struct admissions a;
    struct sim_config c = one_at_a_time(1);
    c.limits.slo_ttft_ns = 1000000000u;
    open_noting(&m, &c, &a);
    sim_submit(&m, 0, 20, 60); /* 0.6 s */
    sim_step(&m);
    uint64_t quick = sim_submit(&m, 1, 20, 5)->id;
    sim_submit(&m, 0, 20, 5);
    struct lodge_fair *f = &m.sched.fair;
    f->tenants[lodge_fair_find(f, 0, 0)].first_token_ns = (struct lodge_mean){2e9, 0};
    f->tenants[lodge_fair_find(f, 1, 0)].first_token_ns = (struct lodge_mean){1e7, 0};
    for (int i = 0; i < 3; i++)
        sim_step(&m);
    ck_assert_uint_eq(m.tenants[0].n_aborted, 1);
    ck_assert_uint_eq(m.tenants[1].n_aborted, 0);
    run(&m, &a, UINT32_MAX);
    ck_assert_uint_eq(m.tenants[1].n_aborted, 0);
    ck_assert_uint_eq(a.ids[1], quick);
    sim_close(&m);
}
END_TEST

START_TEST(an_estimate_that_is_too_long_is_corrected)
{
    static struct sim m;
    struct admissions a;
    struct sim_config c = one_at_a_time(1);
    c.limits.slo_ttft_ns = 1000000000u;
    open_noting(&m, &c, &a);
    m.sched.first_token_ns = (struct lodge_mean){.mean = 5e9, .spread = 2e9}; /* a stall, say */
    for (uint32_t i = 0; i < 40; i++) {
        sim_submit(&m, 0, 20, 3);
        run(&m, &a, UINT32_MAX);
    }
    ck_assert_uint_eq(m.tenants[0].n_aborted, 0);
    ck_assert_uint_eq(a.n, 40);
    ck_assert_double_le(m.sched.first_token_ns.mean + 2 * m.sched.first_token_ns.spread, 1e9);
    sim_close(&m);
}
END_TEST

int main(void)
{
    rnd = test_seeded("fair");
    Suite *s = suite_create("fair");
    TCase *c = tcase_create("fair");
    tcase_set_timeout(c, 0);
    tcase_add_test(c, structure_follows_the_model);
    tcase_add_test(c, table_is_bounded);
    tcase_add_test(c, equals_alternate_and_weights_count);
    tcase_add_test(c, size_counts_and_not_number);
    tcase_add_test(c, idle_time_gives_no_credit);
    tcase_add_test(c, only_uncached_prompt_tokens_are_charged);
    tcase_add_test(c, preemption_is_not_charged_twice);
    tcase_add_test(c, loads_and_pages_in_use_are_charged);
    tcase_add_test(c, whoever_waits_for_an_adapter_keeps_its_place);
    tcase_add_test(c, one_that_cannot_be_served_is_no_measure);
    tcase_add_test(c, headroom_is_for_those_that_run_little);
    tcase_add_test(c, long_prompts_do_not_stand_before_short_ones);
    tcase_add_test(c, adapters_are_asked_for_ahead);
    tcase_add_test(c, pages_for_an_adapter_come_when_it_is_old);
    tcase_add_test(c, the_cache_is_worth_what_it_saves);
    tcase_add_test(c, lower_tiers_get_their_floor);
    tcase_add_test(c, only_lower_tiers_are_displaced);
    tcase_add_test(c, overload_serves_the_newest_and_ends_the_late);
    tcase_add_test(c, a_burst_is_no_overload);
    tcase_add_test(c, how_soon_a_first_token_comes_is_a_tenants_own);
    tcase_add_test(c, an_estimate_that_is_too_long_is_corrected);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_set_fork_status(r, CK_NOFORK);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
