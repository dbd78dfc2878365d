/* What crosses threads in base/: the mailbox and the worker pool. */
#include "base/error.h"
#include "base/mailbox.h"
#include "base/workers.h"

#include <check.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#define SENDERS 4
#define RECORDS 5000

struct message {
    struct lodge_record head;
    uint32_t sender, number;
};

struct sender {
    struct lodge_mailbox *box;
    uint32_t index;
};

static void *send_all(void *arg)
{
    const struct sender *s = arg;
    for (uint32_t i = 0; i < RECORDS; i++) {
        struct message m = {.head = {sizeof m, 1}, .sender = s->index, .number = i};
        while (lodge_mailbox_post(s->box, &m.head) == LODGE_ERR_FULL)
            sched_yield();
    }
    return NULL;
}

START_TEST(mailbox_keeps_order)
{
    struct lodge_mailbox box;
    struct lodge_buf in;
    pthread_t threads[SENDERS];
    struct sender s[SENDERS];
    uint32_t next[SENDERS] = {0}, total = 0;
    ck_assert_int_eq(lodge_mailbox_init(&box, 4096), 0);
    lodge_buf_init(&in, 1 << 20);
    for (uint32_t i = 0; i < SENDERS; i++) {
        s[i] = (struct sender){&box, i};
        pthread_create(&threads[i], NULL, send_all, &s[i]);
    }
    while (total < SENDERS * RECORDS) {
        lodge_mailbox_take(&box, &in, 1000000000u);
        size_t at = 0;
        for (const struct lodge_record *r; (r = lodge_record_next(&in, &at)); total++) {
            const struct message *m = (const struct message *)r;
            ck_assert_uint_eq(m->number, next[m->sender]++);
        }
    }
    for (int i = 0; i < SENDERS; i++)
        pthread_join(threads[i], NULL);
    lodge_buf_finish(&in);
    lodge_mailbox_finish(&box);
}
END_TEST

struct sum {
    struct lodge_workers *w;
    uint64_t part[8], total[8];
};

/* Everybody writes a part, and after the barrier everybody sees all parts. */
static void add_parts(void *ctx, unsigned worker, unsigned n)
{
    struct sum *s = ctx;
    for (int round = 0; round < 100; round++) {
        s->part[worker] = worker + (unsigned)round;
        lodge_workers_barrier(s->w);
        s->total[worker] = 0;
        for (unsigned i = 0; i < n; i++)
            s->total[worker] += s->part[i];
        lodge_workers_barrier(s->w);
    }
}

START_TEST(workers_join)
{
    for (unsigned n = 1; n <= 4; n++) {
        struct sum s = {0};
        struct lodge_error e;
        ck_assert_int_eq(lodge_workers_create(n, &s.w, &e), 0);
        for (int run = 0; run < 20; run++) {
            lodge_workers_run(s.w, add_parts, &s);
            for (unsigned i = 0; i < n; i++)
                ck_assert_uint_eq(s.total[i], n * 99 + n * (n - 1) / 2);
        }
        lodge_workers_destroy(s.w);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("threads");
    TCase *t = tcase_create("all");
    tcase_set_timeout(t, 120);
    tcase_add_test(t, mailbox_keeps_order);
    tcase_add_test(t, workers_join);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_set_fork_status(r, CK_NOFORK);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
