/* The engine thread among many: clients submit, read, hang up and close from threads of their own
 * while steps run, and the engine drains or closes in mid-flight. Run under TSan and ASan too. A
 * stream without its last event, or a wake-up that was lost, ends in the watchdog. */
#include "tests/engine/test_engine_client.h"

#include <check.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

#define CLIENTS 6u
#define IDS 4096u
#define WATCHDOG_S 60

struct hall {
    struct fake fake;
    struct fake_config cfg;
    pthread_mutex_t lock;
    pthread_cond_t news_came; /* for the clients */
    pthread_cond_t called;    /* for the porter */
    bool news[IDS];           /* by id: events wait */
    bool ring, over;
    uint32_t n_requests; /* of each client */
    bool hurry;          /* hang up everywhere: the engine is to be closed in mid-flight */
};

struct guest {
    struct hall *hall;
    struct test_random rnd;
    pthread_t thread;
    struct client client;
    uint32_t n_whole;
};

/* The engine thread's call: wakes the porter. */
static void on_ready(void *cookie)
{
    struct hall *h = cookie;
    pthread_mutex_lock(&h->lock);
    h->ring = true;
    pthread_cond_signal(&h->called);
    pthread_mutex_unlock(&h->lock);
}

/* The one caller of take_ready: tells each client of its news. */
static void *porter(void *arg)
{
    struct hall *h = arg;
    uint64_t ids[16];
    pthread_mutex_lock(&h->lock);
    while (!h->over) {
        while (!h->ring && !h->over)
            pthread_cond_wait(&h->called, &h->lock);
        h->ring = false;
        pthread_mutex_unlock(&h->lock);
        for (size_t n = 16; n == 16;) {
            n = lodge_engine_take_ready(h->fake.en, ids, 16);
            pthread_mutex_lock(&h->lock);
            for (size_t i = 0; i < n; i++)
                h->news[ids[i] % IDS] = true;
            pthread_cond_broadcast(&h->news_came);
            pthread_mutex_unlock(&h->lock);
        }
        pthread_mutex_lock(&h->lock);
    }
    pthread_mutex_unlock(&h->lock);
    return NULL;
}

static void wait_for_news(struct hall *h, uint64_t id)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += WATCHDOG_S;
    pthread_mutex_lock(&h->lock);
    while (!h->news[id % IDS]) {
        int err = pthread_cond_timedwait(&h->news_came, &h->lock, &until);
        TEST_CHECK(!err, "no news of request %llu", (unsigned long long)id);
    }
    h->news[id % IDS] = false;
    pthread_mutex_unlock(&h->lock);
}

/* Reads to the end, or hangs up after some events. */
static void follow(struct guest *g, struct lodge_buf *scratch)
{
    struct hall *h = g->hall;
    struct client *c = &g->client;
    uint32_t patience = test_once_in(&g->rnd, h->hurry ? 1 : 3) ? test_below(&g->rnd, 6) : 100000;
    while (!c->ended && patience-- > 0) {
        wait_for_news(h, c->id);
        client_take(c, scratch);
    }
    if (c->ended) {
        client_check(c, h->cfg.max_model_len, h->cfg.page_tokens);
        g->n_whole += c->finish <= LODGE_FINISH_LENGTH;
    }
    lodge_stream_close(c->stream);
}

static void *guest_main(void *arg)
{
    struct guest *g = arg;
    struct hall *h = g->hall;
    struct lodge_buf scratch;
    lodge_buf_init(&scratch, (size_t)1 << 24);
    for (uint32_t i = 0; i < h->n_requests; i++) {
        client_draw(&g->client, &g->rnd, h->cfg.max_model_len, h->cfg.page_tokens);
        if (test_once_in(&g->rnd, 10))
            g->client.r.timeout_s = 1e-4;
        int err = client_submit(&g->client, h->fake.en);
        TEST_CHECK(!err || err == LODGE_ERR_FULL, "error %d", err);
        if (!err)
            follow(g, &scratch);
    }
    lodge_buf_finish(&scratch);
    return NULL;
}

static void open_hall(struct hall *h, struct test_random *rnd)
{
    memset(h, 0, sizeof *h);
    pthread_mutex_init(&h->lock, NULL);
    pthread_cond_init(&h->news_came, NULL);
    pthread_cond_init(&h->called, NULL);
    h->cfg = (struct fake_config){.page_tokens = 4,
                                  .n_groups = 2,
                                  .window = {0, 11},
                                  .max_model_len = 60,
                                  .max_seqs = 4,
                                  .max_step_tokens = 20,
                                  .reserve_tokens = 5,
                                  .max_queue = test_once_in(rnd, 2) ? 2 : 64,
                                  .n_pages = 80,
                                  .on_ready = on_ready,
                                  .cookie = h};
    fake_open(&h->fake, &h->cfg);
    h->fake.n_untouched = test_below(rnd, 50);
    h->fake.polls_until_ready = test_below(rnd, 2);
    ck_assert_int_eq(lodge_engine_start(h->fake.en, NULL), 0);
}

static void close_hall(struct hall *h)
{
    lodge_engine_close(h->fake.en);
    fake_finish(&h->fake);
    pthread_mutex_destroy(&h->lock);
    pthread_cond_destroy(&h->news_came);
    pthread_cond_destroy(&h->called);
}

/* All clients at once; returns when each has read or left. Returns replies that were whole. */
static uint32_t run_guests(struct hall *h, struct test_random *rnd, uint32_t n_requests)
{
    static struct guest guests[CLIENTS];
    pthread_t porter_thread;
    uint32_t n_whole = 0;
    h->n_requests = n_requests;
    pthread_create(&porter_thread, NULL, porter, h);
    for (uint32_t i = 0; i < CLIENTS; i++) {
        guests[i] = (struct guest){.hall = h, .rnd = {test_next(rnd)}};
        pthread_create(&guests[i].thread, NULL, guest_main, &guests[i]);
    }
    for (uint32_t i = 0; i < CLIENTS; i++) {
        pthread_join(guests[i].thread, NULL);
        n_whole += guests[i].n_whole;
    }
    pthread_mutex_lock(&h->lock);
    h->over = true;
    pthread_cond_signal(&h->called);
    pthread_mutex_unlock(&h->lock);
    pthread_join(porter_thread, NULL);
    return n_whole;
}

START_TEST(many_clients_get_their_replies)
{
    static struct hall h;
    struct test_random rnd = test_seeded("clients");
    open_hall(&h, &rnd);
    uint32_t n = (uint32_t)test_actions(3000);
    ck_assert_uint_gt(run_guests(&h, &rnd, n), 0);
    lodge_engine_drain(h.fake.en);
    for (uint32_t i = 0; lodge_engine_active(h.fake.en); i++) {
        const struct timespec pause = {.tv_nsec = 1000000};
        ck_assert_uint_lt(i, WATCHDOG_S * 1000);
        nanosleep(&pause, NULL);
    }
    struct lodge_engine_stats st;
    lodge_engine_get_stats(h.fake.en, &st);
    ck_assert_uint_eq(st.n_running + st.n_waiting, 0);
    close_hall(&h);
}
END_TEST

START_TEST(closing_in_mid_flight)
{
    static struct hall h;
    struct test_random rnd = test_seeded("closing");
    for (uint64_t i = test_actions(400); i > 0; i--) {
        open_hall(&h, &rnd);
        h.hurry = true;
        run_guests(&h, &rnd, test_below(&rnd, 4));
        close_hall(&h);
    }
}
END_TEST

/* With nothing to do the thread waits: it uses no processor time worth speaking of. */
START_TEST(an_idle_engine_sleeps)
{
    static struct hall h;
    struct test_random rnd = test_seeded("idle");
    open_hall(&h, &rnd);
    run_guests(&h, &rnd, 5);
    clockid_t clock;
    struct timespec begin, end;
    const struct timespec settle = {.tv_nsec = 100000000}, pause = {.tv_nsec = 400000000};
    ck_assert_int_eq(pthread_getcpuclockid(h.fake.en->thread, &clock), 0);
    nanosleep(&settle, NULL);
    clock_gettime(clock, &begin);
    nanosleep(&pause, NULL);
    clock_gettime(clock, &end);
    double used =
        (double)(end.tv_sec - begin.tv_sec) + 1e-9 * (double)(end.tv_nsec - begin.tv_nsec);
    ck_assert_msg(used < 0.1, "%g s of processor time in 0.4 s", used);
    close_hall(&h);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("engine threads");
    TCase *c = tcase_create("engine threads");
    tcase_set_timeout(c, 0);
    tcase_add_test(c, many_clients_get_their_replies);
    tcase_add_test(c, closing_in_mid_flight);
    tcase_add_test(c, an_idle_engine_sleeps);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_set_fork_status(r, CK_NOFORK);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
