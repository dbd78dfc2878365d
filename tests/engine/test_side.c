/* Side work under random schedules: every item runs exactly once before its owner goes on, whether
 * steps run, stop or never were; beside steps only the workers run items; and parts that follow one
 * another are done in one turn. */
#include "engine/side.h"

#include "base/clock.h"
#include "base/workers.h"
#include "tests/engine/test_engine_random.h"

#include <check.h>
#include <stdlib.h>

#define N_OWNERS 3
#define MAX_ITEMS 400u

/* A device whose steps are computed by two workers. */
struct lodge_device {
    struct lodge_workers *workers;
};

static void run_aside(struct lodge_device *d, lodge_worker_fn *fn, void *ctx)
{
    lodge_workers_run(d->workers, fn, ctx);
}

struct owner {
    struct lodge_side *side;
    struct test_random rnd;
    atomic_uint runs[MAX_ITEMS];
    pthread_t self;
    atomic_uint n_own;
    uint32_t n_parts;
    uint64_t n_items;
};

static void item(void *ctx, uint32_t i)
{
    struct owner *o = ctx;
    atomic_fetch_add(&o->runs[i], 1);
    if (pthread_equal(pthread_self(), o->self))
        atomic_fetch_add(&o->n_own, 1);
}

static void *own(void *arg)
{
    struct owner *o = arg;
    struct lodge_side_job job;
    o->self = pthread_self();
    for (uint32_t w = 0; w < o->n_parts; w++) {
        uint32_t n = (uint32_t)(test_next(&o->rnd) % MAX_ITEMS);
        for (uint32_t i = 0; i < MAX_ITEMS; i++)
            atomic_store(&o->runs[i], 0);
        if (w % 3 == 0) {
            if (w)
                lodge_side_end(&job);
            lodge_side_begin(&job, o->side);
        }
        lodge_side_run(&job, item, o, n);
        for (uint32_t i = 0; i < MAX_ITEMS; i++)
            ck_assert_uint_eq(atomic_load(&o->runs[i]), i < n);
        o->n_items += n;
    }
    lodge_side_end(&job);
    return NULL;
}

/* Turns until all owners have ended. */
static void run_owners(bool has_workers, uint64_t (*step_ns)(struct test_random *), uint64_t *n_own,
                       uint64_t *n_items)
{
    struct lodge_device d = {0};
    const struct lodge_backend backend = {.run_aside = has_workers ? run_aside : NULL};
    struct lodge_side side;
    static struct owner owners[N_OWNERS];
    pthread_t threads[N_OWNERS];
    struct test_random rnd = test_seeded("side");
    ck_assert_int_eq(lodge_workers_create(2, &d.workers, NULL), 0);
    lodge_side_init(&side, &backend, &d);
    lodge_side_turn(&side, step_ns(&rnd));
    for (int i = 0; i < N_OWNERS; i++) {
        owners[i] = (struct owner){.side = &side, .rnd = {test_next(&rnd)}, .n_parts = 60};
        ck_assert_int_eq(pthread_create(&threads[i], NULL, own, &owners[i]), 0);
    }
    *n_own = *n_items = 0;
    for (int i = 0; i < N_OWNERS; i++) {
        while (pthread_tryjoin_np(threads[i], NULL))
            lodge_side_turn(&side, step_ns(&rnd));
        *n_own += atomic_load(&owners[i].n_own);
        *n_items += owners[i].n_items;
    }
    ck_assert_uint_eq(atomic_load(&side.n_parts), 0);
    lodge_side_finish(&side);
    lodge_workers_destroy(d.workers);
}

static uint64_t sometimes(struct test_random *r)
{
    return test_next(r) % 8 ? test_next(r) % 3000000 : 0;
}

static uint64_t always(struct test_random *r)
{
    (void)r;
    return 1000000;
}

static uint64_t never(struct test_random *r)
{
    (void)r;
    return 0;
}

START_TEST(once_under_any_schedule)
{
    uint64_t n_own, n_items;
    run_owners(true, sometimes, &n_own, &n_items);
    ck_assert_uint_gt(n_items, 0);
}
END_TEST

START_TEST(beside_steps_only_workers)
{
    uint64_t n_own, n_items;
    run_owners(true, always, &n_own, &n_items);
    ck_assert_uint_eq(n_own, 0);
    ck_assert_uint_gt(n_items, 0);
}
END_TEST

START_TEST(idle_engines_leave_it_to_the_owner)
{
    uint64_t n_own, n_items;
    run_owners(true, never, &n_own, &n_items);
    ck_assert_uint_eq(n_own, n_items);
    run_owners(false, always, &n_own, &n_items);
    ck_assert_uint_eq(n_own, n_items);
}
END_TEST

/* Parts that follow one another, and after them what takes long. */
struct chain {
    struct lodge_side *side;
    struct lodge_side_job job;
    uint32_t n_parts;
    atomic_uint n_items;
    atomic_bool ended, may_go_on;
};

static void count_item(void *ctx, uint32_t i)
{
    struct chain *c = ctx;
    (void)i;
    atomic_fetch_add(&c->n_items, 1);
}

static void *run_chain(void *arg)
{
    struct chain *c = arg;
    lodge_side_begin(&c->job, c->side);
    for (uint32_t p = 0; p < c->n_parts; p++)
        lodge_side_run(&c->job, count_item, c, 5);
    while (!atomic_load(&c->may_go_on))
        ;
    lodge_side_run(&c->job, count_item, c, 5);
    lodge_side_end(&c->job);
    atomic_store(&c->ended, true);
    return NULL;
}

/* A turn of seconds does all parts of a chain that follow one another, and goes on without an
 * owner that stays away; the next turn does not wait for it again. */
START_TEST(a_turn_waits_for_the_next_part)
{
    const uint64_t step_ns = 64000000000;
    struct lodge_device d = {0};
    const struct lodge_backend backend = {.run_aside = run_aside};
    struct lodge_side side;
    struct chain c = {.side = &side, .n_parts = 4};
    pthread_t thread;
    ck_assert_int_eq(lodge_workers_create(2, &d.workers, NULL), 0);
    lodge_side_init(&side, &backend, &d);
    lodge_side_turn(&side, step_ns);
    ck_assert_int_eq(pthread_create(&thread, NULL, run_chain, &c), 0);
    while (!atomic_load(&side.n_parts))
        ;
    lodge_side_turn(&side, step_ns);
    ck_assert_uint_eq(atomic_load(&c.n_items), 20);
    uint64_t begin = lodge_now_ns();
    lodge_side_turn(&side, step_ns);
    ck_assert_uint_lt(lodge_now_ns() - begin, 500000000);
    ck_assert(!atomic_load(&c.ended));
    atomic_store(&c.may_go_on, true);
    while (!atomic_load(&side.n_parts))
        ;
    begin = lodge_now_ns();
    lodge_side_turn(&side, 10 * step_ns);
    ck_assert_uint_eq(atomic_load(&c.n_items), 25);
    ck_assert_uint_lt(lodge_now_ns() - begin, 5000000000); /* the end of the job ended it */
    pthread_join(thread, NULL);
    lodge_side_finish(&side);
    lodge_workers_destroy(d.workers);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("side");
    TCase *t = tcase_create("side");
    tcase_set_timeout(t, 120);
    tcase_add_test(t, once_under_any_schedule);
    tcase_add_test(t, beside_steps_only_workers);
    tcase_add_test(t, a_turn_waits_for_the_next_part);
    tcase_add_test(t, idle_engines_leave_it_to_the_owner);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
