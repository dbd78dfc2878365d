/* Tenants in memory: limits let through what they say, keys end when they are told to, also while
 * many threads ask. */
#include "server/tenants.h"

#include "base/clock.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define S ((uint64_t)1000000000)
#define THREADS 4

static char folder[64], path[128];
static struct tenants all;

static void open_store(void)
{
    struct lodge_error e = {0};
    int err = tenants_open(&all, path, 64, NULL, &e);
    if (!err)
        err = ledger_start(&all.ledger, &e);
    ck_assert_msg(!err, "%s", e.text);
}

static void setup(void)
{
    strcpy(folder, "/tmp/lodge-tenants-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/s.db", folder);
    open_store();
}

static void teardown(void)
{
    char command[200];
    tenants_close(&all);
    snprintf(command, sizeof command, "rm -rf %s", folder);
    ck_assert_int_eq(system(command), 0);
}

static struct tenant *create(const char *name)
{
    struct lodge_error e = {0};
    struct tenant *t = NULL;
    const struct tenant_fields f = {.name = name, .tier = 1, .weight = 2};
    ck_assert_msg(!tenants_create(&all, &f, &t, &e), "%s", e.text);
    return t;
}

static struct tenant_key *create_key(struct tenant *t, char value[KEY_LENGTH + 1])
{
    struct lodge_error e = {0};
    struct tenant_key *k = NULL;
    ck_assert_int_eq(tenants_create_key(&all, t, "k", NULL, 0, value, &k, &e), 0);
    return k;
}

START_TEST(keys)
{
    char one[KEY_LENGTH + 1], two[KEY_LENGTH + 1], three[KEY_LENGTH + 1];
    struct principal p;
    struct lodge_error e = {0};
    struct tenant *acme = create("acme"), *zeta = create("zeta");
    struct tenant_key *k = create_key(acme, one), *fresh;
    create_key(zeta, two);
    ck_assert(tenants_authenticate(&all, one, KEY_LENGTH, &p));
    ck_assert(p.tenant == acme && p.key == k && p.tier == 1 && p.weight == 2);
    struct lodge_digest salt = p.salt;
    ck_assert(tenants_authenticate(&all, two, KEY_LENGTH, &p) && p.tenant == zeta);
    ck_assert_mem_ne(&salt, &p.salt, sizeof salt);
    ck_assert(!tenants_authenticate(&all, one, KEY_LENGTH - 1, &p));
    key_make(three);
    ck_assert(!tenants_authenticate(&all, three, KEY_LENGTH, &p));
    ck_assert_int_eq(tenants_rotate_key(&all, k, 3600, three, &fresh, &e), 0);
    ck_assert(tenants_authenticate(&all, one, KEY_LENGTH, &p));
    ck_assert(tenants_authenticate(&all, three, KEY_LENGTH, &p) && p.key == fresh);
    ck_assert_int_eq(tenants_rotate_key(&all, fresh, 0, one, &k, &e), 0);
    ck_assert(!tenants_authenticate(&all, three, KEY_LENGTH, &p));
    tenants_close(&all); /* the same after a start */
    open_store();
    ck_assert(tenants_authenticate(&all, one, KEY_LENGTH, &p));
    ck_assert_mem_eq(&salt, &p.salt, sizeof salt);
    ck_assert(!tenants_authenticate(&all, three, KEY_LENGTH, &p));
    ck_assert_int_eq(tenants_archive(&all, p.tenant, &e), 0);
    ck_assert(!tenants_authenticate(&all, one, KEY_LENGTH, &p));
    ck_assert(tenants_authenticate(&all, two, KEY_LENGTH, &p));
}
END_TEST

static void limit(struct tenant *t, struct tenant_limits l)
{
    struct lodge_error e = {0};
    ck_assert_int_eq(tenants_set_limits(&all, t, &l, &e), 0);
}

START_TEST(reserve_and_settle)
{
    struct throttled why;
    struct tenant *t = create("acme");
    limit(t, (struct tenant_limits){.tokens_per_minute = 1000});
    uint64_t now = lodge_now_ns();
    ck_assert(tenant_admit(t, 900, now, &why));
    ck_assert(!tenant_admit(t, 200, now, &why));
    ck_assert_int_eq(why.why, THROTTLE_TOKENS);
    ck_assert_double_eq_tol(why.retry_s, 6, 0.1); /* 100 of 1000 a minute are missing */
    tenant_settle(t, 900, 300, false, now);       /* 700 are left */
    ck_assert(tenant_admit(t, 690, now, &why));
    tenant_settle(t, 690, 2000, false, now); /* a debt of 1300 */
    ck_assert(!tenant_admit(t, 1, now + 70 * S, &why));
    ck_assert(tenant_admit(t, 1, now + 85 * S, &why));
    tenant_settle(t, 1, 1, false, now + 85 * S);
    ck_assert(!tenant_admit(t, 1001, now + 500 * S, &why));
    ck_assert_double_lt(why.retry_s, 0); /* larger than the bucket */
}
END_TEST

START_TEST(requests_and_concurrency)
{
    struct throttled why;
    struct tenant *t = create("acme");
    limit(t, (struct tenant_limits){.requests_per_minute = 10, .max_concurrent = 3});
    uint64_t now = lodge_now_ns();
    for (int i = 0; i < 3; i++)
        ck_assert(tenant_admit(t, 5, now, &why));
    ck_assert(!tenant_admit(t, 5, now, &why));
    ck_assert_int_eq(why.why, THROTTLE_CONCURRENT);
    tenant_settle(t, 5, 0, true, now); /* never submitted: counts for nothing */
    for (int i = 0; i < 2; i++)
        tenant_settle(t, 5, 5, false, now);
    int n = 0;
    while (tenant_admit(t, 5, now, &why)) {
        tenant_settle(t, 5, 5, false, now);
        n++;
    }
    ck_assert_int_eq(n, 8);
    ck_assert_int_eq(why.why, THROTTLE_REQUESTS);
    ck_assert_double_eq_tol(why.retry_s, 6, 0.1);
}
END_TEST

START_TEST(budgets)
{
    struct throttled why;
    struct tenant *t = create("acme");
    limit(t, (struct tenant_limits){.budget_tokens = 1000, .budget_period = BUDGET_TOTAL});
    uint64_t now = lodge_now_ns();
    ck_assert(tenant_admit(t, 600, now, &why));
    ck_assert(!tenant_admit(t, 600, now, &why)); /* what runs counts */
    ck_assert_int_eq(why.why, THROTTLE_BUDGET);
    ck_assert_int_eq(why.left, 400);
    tenant_settle(t, 600, 100, false, now);
    ck_assert(tenant_admit(t, 900, now, &why));
    tenant_settle(t, 900, 900, false, now);
    ck_assert(!tenant_admit(t, 1, now, &why));
    limit(t, (struct tenant_limits){.loads_per_minute = 2});
    ck_assert(tenant_take_load(t, now, &why) && tenant_take_load(t, now, &why));
    ck_assert(!tenant_take_load(t, now, &why));
    ck_assert_int_eq(why.why, THROTTLE_LOADS);
}
END_TEST

/* 1970-01-31 is day 30. */
START_TEST(budget_periods)
{
    struct tenant t = {.day = 30, .limits.budget_tokens = 1};
    static const struct {
        int64_t today, day, month, total;
    } want[] = {{30, 5, 15, 22}, {31, 0, 0, 22}, {32, 0, 0, 22}};
    pthread_mutex_init(&t.lock, NULL);
    tenant_add_used(&t, 30, 5, 30);
    tenant_add_used(&t, 3, 10, 30);
    tenant_add_used(&t, -5, 7, 30);
    for (int i = 0; i < 3; i++) {
        tenant_add_used(&t, 0, 0, want[i].today);
        ck_assert_int_eq(t.used_day, want[i].day);
        ck_assert_int_eq(t.used_month, want[i].month);
        ck_assert_int_eq(t.used_total, want[i].total);
    }
}
END_TEST

/* ---- threads ---- */

struct worker {
    char key[KEY_LENGTH + 1];
    uint32_t n_admitted;
    atomic_bool *revoked;
};

/* As a request: key, admission, ledger, settlement; until the key is refused. */
static void *ask(void *arg)
{
    struct worker *w = arg;
    struct principal p;
    struct throttled why;
    for (uint32_t i = 0;; i++) {
        bool must_fail = atomic_load(w->revoked);
        if (!tenants_authenticate(&all, w->key, KEY_LENGTH, &p))
            return NULL;
        if (must_fail)
            return w; /* accepted after its end */
        if (!tenant_admit(p.tenant, 10, lodge_now_ns(), &why))
            continue;
        struct ledger_row r;
        memset(&r, 0, sizeof r);
        snprintf(r.request_id, sizeof r.request_id, "%p-%u", arg, i);
        snprintf(r.key_id, sizeof r.key_id, "%s", principal_key_id(&p));
        r.project = p.tenant->number;
        r.joules = -1;
        struct ledger_entry *e = ledger_begin(&all.ledger, &r);
        ck_assert_ptr_nonnull(e);
        ledger_sent(e, 1, 3);
        e->row.prompt_tokens = 1;
        e->row.output_tokens = 4;
        tenant_settle(p.tenant, 10, 5, false, lodge_now_ns());
        ledger_post(&all.ledger, e);
        while (!atomic_load(&e->committed))
            usleep(200);
        ledger_release(e);
        w->n_admitted++;
    }
}

START_TEST(many_threads)
{
    struct worker w[THREADS];
    pthread_t threads[THREADS];
    atomic_bool revoked = false;
    struct lodge_error e = {0};
    struct tenant *t = tenants_find(&all, "proj_default");
    char value[KEY_LENGTH + 1];
    struct tenant_key *k = create_key(t, value);
    uint32_t sum = 0;
    for (int i = 0; i < THREADS; i++) {
        w[i] = (struct worker){.revoked = &revoked};
        memcpy(w[i].key, value, sizeof value);
        pthread_create(&threads[i], NULL, ask, &w[i]);
    }
    for (int i = 0; i < 20; i++) {
        char name[32], other[KEY_LENGTH + 1];
        snprintf(name, sizeof name, "t%d", i);
        create_key(create(name), other);
        limit(t, (struct tenant_limits){.max_concurrent = 1 + i % 4});
    }
    ck_assert_int_eq(tenants_revoke_key(&all, k, &e), 0);
    atomic_store(&revoked, true);
    for (int i = 0; i < THREADS; i++) {
        void *bad;
        pthread_join(threads[i], &bad);
        ck_assert_ptr_null(bad);
        sum += w[i].n_admitted;
    }
    ck_assert_uint_gt(sum, 0);
    ck_assert_int_eq(t->reserved_tokens, 0);
    ck_assert_uint_eq(t->n_running, 0);
    ck_assert_int_eq(t->used_total, 5 * (int64_t)sum);
    ck_assert_uint_eq(atomic_load(&all.ledger.n_rows), sum);
    tenants_close(&all);
    open_store();
    /* Rows of day 0 count in the total alone. */
    ck_assert_int_eq(tenants_find(&all, "proj_default")->used_total, 5 * (int64_t)sum);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("tenants");
    TCase *c = tcase_create("all");
    tcase_add_checked_fixture(c, setup, teardown);
    tcase_set_timeout(c, 100);
    tcase_add_test(c, keys);
    tcase_add_test(c, reserve_and_settle);
    tcase_add_test(c, requests_and_concurrency);
    tcase_add_test(c, budgets);
    tcase_add_test(c, budget_periods);
    tcase_add_test(c, many_threads);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
