/* The engine while its weights are read from the cache's file: whatever a client or an operator
 * does then takes effect at once, and replies are those of an engine without a cache. No block
 * of the file is read until the test says so. What never comes ends in the watchdog.
 *
 * Usage: test_cold_weights MODEL DORA_ADAPTER */
#include "engine/internal.h"
#include "tests/engine/score.h"
#include "tests/kernels/slow_file.h"

#include <check.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define N_PROMPT 24u
#define N_GREEDY 8u
#define WATCHDOG_S 60

static const char *model, *dora;
static uint32_t prompt[N_PROMPT];

static void pause_ms(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

/* Waits for what must happen without the weights. */
#define AWAIT(condition)                                                                           \
    do {                                                                                           \
        for (int ms_ = 0; !(condition); ms_++, pause_ms())                                         \
            ck_assert_msg(ms_ < WATCHDOG_S * 1000, "not while the weights come: %s", #condition);  \
    } while (0)

/* ---- engines and requests ---- */

static struct lodge_engine *open_engine(const char *cache)
{
    const struct lodge_engine_config cfg = {.model_path = model,
                                            .n_threads = 2,
                                            .max_model_len = 64,
                                            .max_seqs = 4,
                                            .pool_bytes = 8 << 20,
                                            .weights_cache = cache};
    struct lodge_engine *en = NULL;
    struct lodge_error e = {0};
    ck_assert_msg(!lodge_engine_open(&cfg, &en, &e), "%s", e.text);
    return en;
}

static bool has_packed_file(const char *dir)
{
    DIR *d = opendir(dir);
    bool found = false;
    for (struct dirent *f; (f = readdir(d));) {
        const char *end = strrchr(f->d_name, '.');
        found |= end && strcmp(end, ".packed") == 0;
    }
    closedir(d);
    return found;
}

/* A directory with the file that a first engine wrote. */
static void make_cache(char dir[64])
{
    const char *folder = getenv("TMPDIR");
    snprintf(dir, 64, "%.30s/lodge-cold-XXXXXX", folder ? folder : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    struct lodge_engine *en = open_engine(dir);
    AWAIT(has_packed_file(dir));
    lodge_engine_close(en);
}

static void remove_cache(const char *dir)
{
    DIR *d = opendir(dir);
    for (struct dirent *f; (f = readdir(d));)
        unlinkat(dirfd(d), f->d_name, 0);
    closedir(d);
    ck_assert_int_eq(rmdir(dir), 0);
}

/* An engine whose weights are not there, and will not be. */
static struct lodge_engine *open_cold(const char *dir)
{
    slow_file_hold();
    struct lodge_engine *en = open_engine(dir);
    slow_file_await_reader();
    return en;
}

/* The engine thread has taken all that was sent: from here on it would compute, if it could. */
static bool has_taken_all(struct lodge_engine *en)
{
    pthread_mutex_lock(&en->inbox._lock);
    bool all = !en->inbox._in.n;
    pthread_mutex_unlock(&en->inbox._lock);
    return all;
}

static struct lodge_stream *submit(struct lodge_engine *en, double timeout_s)
{
    struct lodge_request r;
    struct lodge_stream *s = NULL;
    struct lodge_error e = {0};
    uint64_t id;
    lodge_request_init(&r);
    r.prompt = prompt;
    r.n_prompt = N_PROMPT;
    r.max_tokens = N_GREEDY;
    r.timeout_s = timeout_s;
    ck_assert_msg(!lodge_engine_submit(en, &r, &s, &id, &e), "%s", e.text);
    AWAIT(has_taken_all(en));
    return s;
}

/* True at the end of the request. It must not have begun. */
static bool ended(struct lodge_stream *s, struct lodge_buf *events, int32_t *error)
{
    size_t at = 0;
    bool end = false;
    lodge_stream_take(s, events);
    for (const struct lodge_record *r; (r = lodge_record_next(events, &at));) {
        const struct lodge_event *ev = (const struct lodge_event *)r;
        ck_assert_int_ne(ev->head.kind, LODGE_EVENT_STARTED);
        ck_assert_int_ne(ev->head.kind, LODGE_EVENT_TOKEN);
        if ((end = ev->head.kind == LODGE_EVENT_END))
            *error = ev->error;
    }
    return end;
}

static struct scored reply_of(struct lodge_engine *en, struct lodge_adapter_version *v)
{
    const struct lodge_request_adapter with = {v, 1};
    struct lodge_error e = {0};
    struct scored s;
    ck_assert_msg(!score_with(en, &with, v != NULL, prompt, N_PROMPT, N_GREEDY, &s, &e), "%s",
                  e.text);
    ck_assert_uint_eq(s.n_output, N_GREEDY);
    return s;
}

static void check_same(struct scored *got, const struct scored *want)
{
    ck_assert_uint_eq(got->n_scores, want->n_scores);
    ck_assert_mem_eq(got->scores, want->scores, want->n_scores * sizeof *want->scores);
    ck_assert_mem_eq(got->output, want->output, N_GREEDY * sizeof *want->output);
    scored_finish(got);
}

static struct lodge_adapter_version *open_adapter(struct lodge_engine *en)
{
    const struct lodge_digest published = {0};
    struct lodge_adapter_version *v = NULL;
    struct lodge_error e = {0};
    ck_assert_msg(!lodge_engine_adapter_open(en, dora, -1, "dora", &published, &v, &e), "%s",
                  e.text);
    return v;
}

/* ---- the tests ---- */

START_TEST(a_deadline_passes)
{
    char dir[64];
    int32_t error = 0;
    struct lodge_buf events;
    lodge_buf_init(&events, (size_t)1 << 20);
    make_cache(dir);
    struct lodge_engine *en = open_cold(dir);
    struct lodge_stream *s = submit(en, 0.05);
    AWAIT(ended(s, &events, &error));
    ck_assert_int_eq(error, LODGE_ERR_TIMEOUT);
    lodge_stream_close(s);
    lodge_engine_close(en);
    lodge_buf_finish(&events);
    remove_cache(dir);
}
END_TEST

START_TEST(a_client_goes_away)
{
    char dir[64];
    struct lodge_engine_stats st;
    make_cache(dir);
    struct lodge_engine *en = open_cold(dir);
    struct lodge_stream *s[3];
    for (int i = 0; i < 3; i++)
        s[i] = submit(en, 0);
    ck_assert_uint_eq(lodge_engine_active(en), 3);
    lodge_stream_close(s[1]);
    AWAIT(lodge_engine_active(en) == 2);
    lodge_stream_close(s[0]);
    lodge_stream_close(s[2]);
    AWAIT(lodge_engine_active(en) == 0);
    AWAIT((lodge_engine_get_stats(en, &st), st.finished[LODGE_FINISH_ABORT] == 3));
    ck_assert_uint_eq(st.n_steps, 0);
    lodge_engine_close(en);
    remove_cache(dir);
}
END_TEST

static void *close_main(void *en)
{
    lodge_engine_close(en);
    return NULL;
}

/* With a request that waits: it is told, and nothing waits for the file. */
START_TEST(the_server_stops)
{
    char dir[64];
    int32_t error = 0;
    pthread_t thread;
    struct timespec until;
    struct lodge_buf events;
    lodge_buf_init(&events, (size_t)1 << 20);
    make_cache(dir);
    struct lodge_engine *en = open_cold(dir);
    struct lodge_adapter_version *v = open_adapter(en);
    struct lodge_stream *s = submit(en, 0);
    lodge_adapter_version_unref(v);
    pthread_create(&thread, NULL, close_main, en);
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += WATCHDOG_S;
    ck_assert_msg(!pthread_timedjoin_np(thread, NULL, &until), "closing waits for the weights");
    ck_assert(ended(s, &events, &error));
    ck_assert_int_eq(error, LODGE_ERR_CANCELLED);
    lodge_stream_close(s);
    lodge_buf_finish(&events);
    ck_assert_msg(has_packed_file(dir), "a sound file is gone");
    remove_cache(dir);
}
END_TEST

/* ---- and then they come ---- */

struct asker {
    pthread_t thread;
    struct lodge_engine *en;
    struct lodge_adapter_version *v;
    struct scored got;
};

static void *ask_main(void *arg)
{
    struct asker *a = arg;
    a->got = reply_of(a->en, a->v);
    return NULL;
}

/* Requests that were there before the weights, the base's and one with a DoRA adapter, whose gains
 * are made of the weights; and the same requests again. */
START_TEST(replies_are_those_without_a_cache)
{
    char dir[64];
    make_cache(dir);
    struct lodge_engine *plain = open_engine(NULL);
    struct lodge_adapter_version *v = open_adapter(plain);
    struct scored want[2] = {reply_of(plain, NULL), reply_of(plain, v)};
    ck_assert_mem_ne(want[0].scores, want[1].scores, sizeof *want->scores);
    lodge_adapter_version_unref(v);
    lodge_engine_close(plain);

    struct lodge_engine *en = open_cold(dir);
    v = open_adapter(en);
    ck_assert(lodge_adapter_version_info(v)->scaled_once);
    ck_assert_msg(!lodge_adapter_version_place(v).host, "packed without weights");
    struct asker askers[2] = {{.en = en}, {.en = en, .v = v}};
    for (int i = 0; i < 2; i++)
        pthread_create(&askers[i].thread, NULL, ask_main, &askers[i]);
    AWAIT(lodge_engine_active(en) == 2 && has_taken_all(en));
    slow_file_release();
    for (int i = 0; i < 2; i++) {
        pthread_join(askers[i].thread, NULL);
        check_same(&askers[i].got, &want[i]);
        struct scored again = reply_of(en, askers[i].v);
        check_same(&again, &want[i]);
        scored_finish(&want[i]);
    }
    lodge_adapter_version_unref(v);
    lodge_engine_close(en);
    remove_cache(dir);
}
END_TEST

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    model = argv[1];
    dora = argv[2];
    for (uint32_t i = 0; i < N_PROMPT; i++)
        prompt[i] = (i * 37 + 11) % 250;
    Suite *s = suite_create("cold weights");
    TCase *t = tcase_create("all");
    tcase_set_timeout(t, 4 * WATCHDOG_S);
    tcase_add_test(t, a_deadline_passes);
    tcase_add_test(t, a_client_goes_away);
    tcase_add_test(t, the_server_stops);
    tcase_add_test(t, replies_are_those_without_a_cache);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
