/* The engine's promises one by one, turn by turn over the fake backend. The random ones are in
 * test_sched.c, those about threads in test_engine_threads.c. */
#include "engine/stream.h"
#include "tests/engine/test_engine_client.h"

#include <check.h>
#include <string.h>

#define PAGE_TOKENS 4u

static const struct fake_config defaults = {.n_pages = 400,
                                            .page_tokens = PAGE_TOKENS,
                                            .n_groups = 1,
                                            .max_model_len = 300,
                                            .max_seqs = 8,
                                            .max_step_tokens = 16,
                                            .reserve_tokens = 32,
                                            .max_queue = 64};

/* ---- allocations are counted by --wrap, see meson.build ---- */

static bool counting;
static uint64_t n_allocations;

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);

void *__wrap_malloc(size_t n)
{
    n_allocations += counting;
    return __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size)
{
    n_allocations += counting;
    return __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t n)
{
    n_allocations += counting;
    return __real_realloc(p, n);
}

/* ---- helpers ---- */

struct bench {
    struct fake fake;
    struct lodge_buf scratch;
    uint32_t max_model_len;
};

static void open_bench(struct bench *b, const struct fake_config *c)
{
    *b = (struct bench){.max_model_len = c->max_model_len};
    lodge_buf_init(&b->scratch, (size_t)1 << 24);
    fake_open(&b->fake, c);
}

static void close_bench(struct bench *b)
{
    lodge_buf_finish(&b->scratch);
    fake_close(&b->fake);
}

/* Letters from `first` on, n of them. */
static void ask(struct client *c, uint32_t first, uint32_t n, uint32_t max_tokens)
{
    memset(c, 0, sizeof *c);
    lodge_request_init(&c->r);
    for (uint32_t i = 0; i < n; i++)
        c->prompt[i] = (uint32_t)(test_mix(first + i) % FAKE_LETTERS);
    c->r.prompt = c->prompt;
    c->r.n_prompt = n;
    c->r.max_tokens = max_tokens;
    c->r.has_seed = true;
    c->r.ignore_eos = true;
}

static void submit(struct bench *b, struct client *c)
{
    ck_assert_int_eq(client_submit(c, b->fake.en), 0);
}

static void hang_up(struct client *c)
{
    lodge_stream_close(c->stream);
    c->stream = NULL;
}

static void turn(struct bench *b, struct client *c, uint32_t n)
{
    lodge_engine_turn(b->fake.en, 0);
    for (uint32_t i = 0; i < n; i++)
        if (c[i].stream)
            client_take(&c[i], &b->scratch);
}

/* Turns until all have ended, then closes their streams. */
static void finish(struct bench *b, struct client *c, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t turns = 0; !c[i].ended; turns++) {
            ck_assert_uint_lt(turns, 10000);
            turn(b, c, n);
        }
    for (uint32_t i = 0; i < n; i++)
        hang_up(&c[i]);
    ck_assert_uint_eq(b->fake.en->pool.n_kv, 0);
    ck_assert_uint_eq(lodge_engine_active(b->fake.en), 0);
}

static void run_one(struct bench *b, struct client *c)
{
    submit(b, c);
    finish(b, c, 1);
}

static void run_whole(struct bench *b, struct client *c)
{
    run_one(b, c);
    client_check(c, b->max_model_len, PAGE_TOKENS);
}

/* ---- the prefix cache ---- */

START_TEST(replies_are_cached_for_the_next_turn)
{
    struct bench b;
    static struct client a, next;
    open_bench(&b, &defaults);
    ask(&a, 0, 10, 21);
    run_whole(&b, &a);
    ask(&next, 0, 10, 5);
    memcpy(next.prompt + 10, a.got[0].tokens, 21 * sizeof *next.prompt);
    next.prompt[31] = 1;
    next.r.n_prompt = 32;
    run_whole(&b, &next);
    /* The last token of a reply is never computed: 30 of the 31 were, in 7 full blocks. */
    ck_assert_uint_eq(next.cached_tokens, 28);
    close_bench(&b);
}
END_TEST

START_TEST(a_hit_leaves_the_last_token)
{
    struct bench b;
    static struct client a;
    open_bench(&b, &defaults);
    for (uint32_t n = 1; n <= 13; n++) {
        ask(&a, 100 * n, n, 8);
        run_whole(&b, &a);
        ck_assert_uint_eq(a.cached_tokens, 0);
        ask(&a, 100 * n, n, 8);
        run_whole(&b, &a);
        ck_assert_uint_eq(a.cached_tokens, (n - 1) / PAGE_TOKENS * PAGE_TOKENS);
    }
    close_bench(&b);
}
END_TEST

START_TEST(salts_do_not_share)
{
    struct bench b;
    static struct client a;
    open_bench(&b, &defaults);
    for (uint32_t salts = 0; salts < 4; salts++)
        for (uint32_t again = 0; again < 2; again++) {
            ask(&a, 0, 20, 8);
            a.r.tenant_salt.bytes[31] = salts & 1;
            a.r.cache_salt = (struct lodge_bytes){"x", salts >> 1};
            run_whole(&b, &a);
            ck_assert_uint_eq(a.cached_tokens, again ? 16 : 0);
        }
    close_bench(&b);
}
END_TEST

START_TEST(scores_do_not_read_the_cache)
{
    struct bench b;
    static struct client a;
    open_bench(&b, &defaults);
    for (uint32_t i = 0; i < 2; i++) {
        ask(&a, 0, 40, 8);
        a.r.want_prompt_scores = true;
        run_whole(&b, &a);
        ck_assert_uint_eq(a.n_scored, 39);
        ck_assert_uint_eq(a.cached_tokens, 0);
    }
    close_bench(&b);
}
END_TEST

START_TEST(choices_share_their_prompt)
{
    struct bench b;
    static struct client a;
    open_bench(&b, &defaults);
    ask(&a, 0, 38, 30);
    a.r.n_choices = 4;
    a.r.want_prompt_scores = true; /* so that sharing is not the cache's doing */
    submit(&b, &a);
    while (b.fake.en->sched.running.n < 4)
        turn(&b, &a, 1);
    turn(&b, &a, 1);
    /* 9 full blocks of prompt once, and each choice's own tenth, perhaps with one more. */
    ck_assert_uint_le(b.fake.en->pool.n_kv, 9 + 4 * 2);
    finish(&b, &a, 1);
    client_check(&a, b.max_model_len, PAGE_TOKENS);
    close_bench(&b);
}
END_TEST

/* ---- steps ---- */

START_TEST(a_long_prompt_starves_nobody)
{
    struct bench b;
    static struct client c[3];
    open_bench(&b, &defaults);
    ask(&c[0], 0, 5, 200);
    ask(&c[1], 50, 256, 8);
    ask(&c[2], 500, 7, 8);
    submit(&b, &c[0]);
    turn(&b, c, 1);
    submit(&b, &c[1]);
    turn(&b, c, 2);
    submit(&b, &c[2]);
    for (uint32_t i = 0; !c[1].got[0].n; i++) {
        uint32_t before = c[0].got[0].n;
        turn(&b, c, 3);
        ck_assert_uint_eq(c[0].got[0].n, before + 1); /* decodes in every step */
        ck_assert_msg(i < 1 || c[2].got[0].n, "the short prompt waits for the long one");
        ck_assert_uint_lt(i, 2 * 256 / 15 + 2);
    }
    finish(&b, c, 3);
    close_bench(&b);
}
END_TEST

/* A reply that grows out of its reservation costs the youngest its pages, once. */
START_TEST(a_preemption_changes_no_reply)
{
    struct bench b;
    static struct client c[3];
    struct fake_config cfg = defaults;
    cfg.n_pages = 30;
    cfg.max_model_len = 100;
    cfg.reserve_tokens = 4;
    open_bench(&b, &cfg);
    for (uint32_t i = 0; i < 3; i++) {
        ask(&c[i], 100 * i, 20, 70);
        c[i].r.want_prompt_scores = i == 2;
        submit(&b, &c[i]);
    }
    finish(&b, c, 3);
    for (uint32_t i = 0; i < 3; i++)
        client_check(&c[i], cfg.max_model_len, PAGE_TOKENS);
    ck_assert_uint_ge(b.fake.en->sched.preemptions, 1);
    ck_assert_uint_le(b.fake.en->sched.preemptions, 3);
    close_bench(&b);
}
END_TEST

START_TEST(a_better_tier_displaces_a_lower_one)
{
    struct bench b;
    static struct client c[2];
    struct fake_config cfg = defaults;
    cfg.max_seqs = 1;
    cfg.policy = LODGE_POLICY_PRIORITY;
    open_bench(&b, &cfg);
    ask(&c[0], 0, 20, 50);
    c[0].r.priority = 1;
    ask(&c[1], 100, 20, 10);
    submit(&b, &c[0]);
    for (uint32_t i = 0; i < 10; i++)
        turn(&b, c, 1);
    submit(&b, &c[1]);
    while (!c[1].ended)
        turn(&b, c, 2);
    ck_assert(!c[0].ended);
    finish(&b, c, 2);
    for (uint32_t i = 0; i < 2; i++)
        client_check(&c[i], cfg.max_model_len, PAGE_TOKENS);
    /* Nobody displaces an equal. */
    ck_assert_uint_eq(b.fake.en->sched.preemptions, 1);
    close_bench(&b);
}
END_TEST

START_TEST(a_lower_tier_gives_way_under_the_fair_policy)
{
    struct bench b;
    static struct client c[2];
    struct fake_config cfg = defaults;
    cfg.max_seqs = 1;
    open_bench(&b, &cfg);
    ask(&c[0], 0, 20, 50);
    c[0].r.tier = 1;
    ask(&c[1], 100, 20, 10);
    c[1].r.priority = 5; /* means nothing here */
    submit(&b, &c[0]);
    for (uint32_t i = 0; i < 10; i++)
        turn(&b, c, 1);
    submit(&b, &c[1]);
    while (!c[1].ended)
        turn(&b, c, 2);
    ck_assert(!c[0].ended);
    finish(&b, c, 2);
    for (uint32_t i = 0; i < 2; i++)
        client_check(&c[i], cfg.max_model_len, PAGE_TOKENS);
    ck_assert_uint_eq(b.fake.en->sched.preemptions, 1);
    ck_assert_uint_eq(b.fake.en->sched.admitted_in_tier[0], 1);
    ck_assert_uint_eq(b.fake.en->sched.admitted_in_tier[1], 2);
    close_bench(&b);
}
END_TEST

/* Those that run are left alone; those that wait end when they must be late, before they are. */
START_TEST(waiting_requests_end_when_they_must_be_late)
{
    struct bench b;
    static struct client c[3];
    struct fake_config cfg = defaults;
    cfg.max_seqs = 1;
    cfg.slo_ttft_s = 20;
    open_bench(&b, &cfg);
    for (uint32_t i = 0; i < 3; i++) {
        ask(&c[i], 100 * i, 20, 50);
        c[i].r.n_choices = 1 + i;
        submit(&b, &c[i]);
    }
    turn(&b, c, 3);
    ck_assert(c[0].started && !c[1].started);
    struct lodge_inflight *q = b.fake.en->requests;
    while (q->id != c[1].id)
        q = q->next;
    q->arrived_ns -= 21000000000u; /* sooner than sleeping */
    turn(&b, c, 3);
    ck_assert(c[1].ended && c[1].finish == LODGE_FINISH_ABORT);
    ck_assert_int_eq(c[1].error, LODGE_ERR_OVERLOADED);
    ck_assert_uint_eq(b.fake.en->sched.aborted_early, 1);
    ck_assert_uint_eq(atomic_load(&b.fake.en->n_waiting), 1);
    ck_assert(!c[0].ended);
    finish(&b, &c[2], 1);
    ck_assert_int_eq(c[2].error, 0);
    turn(&b, c, 1);
    finish(&b, &c[0], 1);
    hang_up(&c[1]);
    ck_assert_int_eq(lodge_error_http(LODGE_ERR_OVERLOADED), 503);
    close_bench(&b);
}
END_TEST

START_TEST(nothing_is_allocated_in_a_step)
{
    struct bench b;
    static struct client c[8];
    struct fake_config cfg = defaults;
    cfg.n_pages = 60;
    cfg.max_model_len = 120;
    cfg.reserve_tokens = 4;
    open_bench(&b, &cfg);
    lodge_buf_extend(&b.scratch, 1 << 16); /* the reader's own */
    for (uint32_t i = 0; i < 8; i++) {
        ask(&c[i], 10 * i, 5 + 3 * i, 60);
        c[i].r.n_choices = 1 + i % 2;
        c[i].r.sampling.presence = 1;
        c[i].r.stops[0] = (struct lodge_bytes){"abcabcabc", 9};
        c[i].r.n_stops = 1;
        submit(&b, &c[i]);
    }
    uint64_t ids[8];
    lodge_engine_turn(b.fake.en, 0); /* requests are built when they arrive */
    n_allocations = 0;
    for (bool busy = true; busy;) {
        counting = true;
        busy = lodge_engine_turn(b.fake.en, 0);
        counting = false;
        lodge_engine_take_ready(b.fake.en, ids, 8); /* each at most once */
        ck_assert_uint_eq(lodge_engine_take_ready(b.fake.en, ids, 8), 0);
        for (uint32_t i = 0; i < 8; i++)
            client_take(&c[i], &b.scratch);
    }
    ck_assert_uint_eq(n_allocations, 0);
    finish(&b, c, 8);
    ck_assert_uint_gt(b.fake.en->sched.preemptions, 0);
    close_bench(&b);
}
END_TEST

START_TEST(a_device_may_take_its_time)
{
    struct bench b;
    static struct client a;
    open_bench(&b, &defaults);
    b.fake.polls_until_ready = 3;
    ask(&a, 0, 30, 30);
    run_whole(&b, &a);
    close_bench(&b);
}
END_TEST

/* ---- faults ---- */

static void fail_in_the_middle(bool at_submit)
{
    struct bench b;
    static struct client c[6];
    open_bench(&b, &defaults);
    *(at_submit ? &b.fake.fail_submit_at : &b.fake.fail_poll_at) = 6;
    for (uint32_t i = 0; i < 6; i++) {
        ask(&c[i], 100 * i, 20, 40);
        c[i].r.n_choices = 2;
        submit(&b, &c[i]);
    }
    finish(&b, c, 6);
    uint32_t failed = 0;
    for (uint32_t i = 0; i < 6; i++) {
        failed += c[i].finish == LODGE_FINISH_ERROR && c[i].error == LODGE_ERR_INTERNAL;
        client_check(&c[i], b.max_model_len, PAGE_TOKENS);
    }
    ck_assert_uint_gt(failed, 0);
    ask(&c[0], 0, 20, 40); /* and goes on: with what was right before the fault */
    run_whole(&b, &c[0]);
    close_bench(&b);
}

START_TEST(a_step_that_cannot_start_ends_what_ran)
{
    fail_in_the_middle(true);
}
END_TEST

START_TEST(a_step_that_fails_ends_what_ran)
{
    fail_in_the_middle(false);
}
END_TEST

START_TEST(a_row_without_finite_logits_leaves_nothing_behind)
{
    struct bench b;
    static struct client a;
    open_bench(&b, &defaults);
    b.fake.nan_at = 5;
    ask(&a, 0, 12, 40);
    run_one(&b, &a);
    ck_assert_int_eq(a.finish, LODGE_FINISH_ERROR);
    ck_assert_uint_eq(b.fake.en->pool.n_cached, 0);
    ask(&a, 0, 12, 40);
    run_whole(&b, &a);
    ck_assert_uint_eq(a.cached_tokens, 0);
    close_bench(&b);
}
END_TEST

/* ---- the door ---- */

START_TEST(the_queue_is_bounded)
{
    struct bench b;
    static struct client c[12];
    struct fake_config cfg = defaults;
    cfg.max_queue = 4;
    cfg.max_seqs = 2;
    open_bench(&b, &cfg);
    for (uint32_t i = 0; i < 12; i++)
        ask(&c[i], 100 * i, 10, 10);
    for (uint32_t i = 0; i < 4; i++)
        submit(&b, &c[i]);
    ck_assert_int_eq(client_submit(&c[4], b.fake.en), LODGE_ERR_FULL);
    turn(&b, c, 4); /* two start */
    submit(&b, &c[4]);
    submit(&b, &c[5]);
    ck_assert_int_eq(client_submit(&c[6], b.fake.en), LODGE_ERR_FULL);
    hang_up(&c[5]); /* one leaves the queue */
    turn(&b, c, 5);
    ask(&c[5], 500, 10, 10);
    submit(&b, &c[5]);
    struct lodge_engine_stats st;
    lodge_engine_get_stats(b.fake.en, &st);
    ck_assert_uint_eq(st.n_waiting, 4);
    ck_assert_uint_eq(st.n_running, 2);
    finish(&b, c, 6);
    close_bench(&b);
}
END_TEST

START_TEST(a_draining_engine_finishes_and_takes_no_more)
{
    struct bench b;
    static struct client c[2];
    open_bench(&b, &defaults);
    ask(&c[0], 0, 10, 30);
    ask(&c[1], 0, 10, 30);
    submit(&b, &c[0]);
    lodge_engine_drain(b.fake.en);
    ck_assert_int_eq(client_submit(&c[1], b.fake.en), LODGE_ERR_DRAINING);
    finish(&b, c, 1);
    client_check(&c[0], b.max_model_len, PAGE_TOKENS);
    close_bench(&b);
}
END_TEST

START_TEST(a_deadline_ends_a_request)
{
    struct bench b;
    static struct client a;
    open_bench(&b, &defaults);
    ask(&a, 0, 10, 100);
    a.r.timeout_s = 1e-9;
    run_one(&b, &a);
    ck_assert_int_eq(a.finish, LODGE_FINISH_ABORT);
    ck_assert_int_eq(a.error, LODGE_ERR_TIMEOUT);
    ask(&a, 0, 10, 100);
    a.r.timeout_s = 1e6;
    run_whole(&b, &a);
    close_bench(&b);
}
END_TEST

START_TEST(a_lost_cancel_is_seen_all_the_same)
{
    struct bench b;
    static struct client a;
    open_bench(&b, &defaults);
    ask(&a, 0, 10, 100);
    submit(&b, &a);
    turn(&b, &a, 1);
    atomic_store(&a.stream->closed, true); /* what close does before it posts the message */
    turn(&b, &a, 0);
    ck_assert_uint_eq(lodge_engine_active(b.fake.en), 0);
    ck_assert_uint_eq(b.fake.en->pool.n_kv, 0);
    hang_up(&a);
    close_bench(&b);
}
END_TEST

START_TEST(a_full_stream_still_ends)
{
    struct lodge_stream *s = lodge_stream_create(NULL, 1, 512);
    struct lodge_buf out;
    struct lodge_event token = {.choice = 0};
    uint32_t n_tokens = 0, n_ends = 0;
    lodge_buf_init(&out, 1 << 20);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 100; i++)
            lodge_stream_post(s, LODGE_EVENT_TOKEN, token, NULL, NULL);
        lodge_stream_post(s, LODGE_EVENT_END, token, NULL, NULL);
        lodge_stream_take(s, &out);
        size_t at = 0;
        for (const struct lodge_record *r; (r = lodge_record_next(&out, &at));) {
            const struct lodge_event *ev = (const struct lodge_event *)r;
            n_tokens += r->kind == LODGE_EVENT_TOKEN;
            n_ends += r->kind == LODGE_EVENT_END && ev->finish == LODGE_FINISH_ERROR &&
                      ev->error == LODGE_ERR_NOMEM;
        }
    }
    ck_assert_uint_gt(n_tokens, 0);
    ck_assert_uint_lt(n_tokens, 100);
    ck_assert_uint_eq(n_ends, 1);
    lodge_buf_finish(&out);
    lodge_stream_unref(s);
    lodge_stream_unref(s);
}
END_TEST

START_TEST(states_of_pages_add_up)
{
    struct bench b;
    static struct client c[4];
    open_bench(&b, &defaults);
    for (uint32_t i = 0; i < 4; i++) {
        ask(&c[i], 100 * i, 30, 20);
        submit(&b, &c[i]);
    }
    for (uint32_t i = 0; i < 60; i++) {
        struct lodge_engine_stats st;
        turn(&b, c, 4);
        lodge_engine_get_stats(b.fake.en, &st);
        ck_assert_uint_eq(st.pages_free + st.pages_kv + st.pages_adapter + st.pages_cached,
                          st.pages_total);
        ck_assert_uint_eq(st.pages_total, defaults.n_pages);
    }
    finish(&b, c, 4);
    ck_assert_uint_gt(b.fake.en->pool.n_cached, 0);
    close_bench(&b);
}
END_TEST

static TCase *cases(void)
{
    TCase *c = tcase_create("engine");
    tcase_add_test(c, replies_are_cached_for_the_next_turn);
    tcase_add_test(c, a_hit_leaves_the_last_token);
    tcase_add_test(c, salts_do_not_share);
    tcase_add_test(c, scores_do_not_read_the_cache);
    tcase_add_test(c, choices_share_their_prompt);
    tcase_add_test(c, a_long_prompt_starves_nobody);
    tcase_add_test(c, a_preemption_changes_no_reply);
    tcase_add_test(c, a_better_tier_displaces_a_lower_one);
    tcase_add_test(c, a_lower_tier_gives_way_under_the_fair_policy);
    tcase_add_test(c, waiting_requests_end_when_they_must_be_late);
    tcase_add_test(c, nothing_is_allocated_in_a_step);
    tcase_add_test(c, a_device_may_take_its_time);
    tcase_add_test(c, a_step_that_cannot_start_ends_what_ran);
    tcase_add_test(c, a_step_that_fails_ends_what_ran);
    tcase_add_test(c, a_row_without_finite_logits_leaves_nothing_behind);
    tcase_add_test(c, the_queue_is_bounded);
    tcase_add_test(c, a_draining_engine_finishes_and_takes_no_more);
    tcase_add_test(c, a_deadline_ends_a_request);
    tcase_add_test(c, a_lost_cancel_is_seen_all_the_same);
    tcase_add_test(c, a_full_stream_still_ends);
    tcase_add_test(c, states_of_pages_add_up);
    return c;
}

int main(void)
{
    Suite *s = suite_create("engine");
    suite_add_tcase(s, cases());
    SRunner *r = srunner_create(s);
    srunner_set_fork_status(r, CK_NOFORK);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
