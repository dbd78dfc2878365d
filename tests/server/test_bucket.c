/* Token buckets against their closed form: level(t) = min(capacity, level0 + t * rate) between
 * takes, summed up step by step in integers of a thousandth of a token. */
#include "server/bucket.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>

#define S ((uint64_t)1000000000)

START_TEST(fills_in_a_minute)
{
    struct bucket b = {0};
    bucket_set(&b, 120, 5 * S);
    ck_assert_double_eq_tol(bucket_level(&b, 5 * S), 120, 1e-9);
    bucket_take(&b, 120, 5 * S);
    ck_assert(!bucket_has(&b, 1, 5 * S));
    ck_assert_double_eq_tol(bucket_level(&b, 35 * S), 60, 1e-9);
    ck_assert_double_eq_tol(bucket_level(&b, 65 * S), 120, 1e-9);
    ck_assert_double_eq_tol(bucket_level(&b, 6500 * S), 120, 1e-9);
}
END_TEST

START_TEST(waits_as_long_as_it_says)
{
    struct bucket b = {0};
    bucket_set(&b, 30, 0);
    bucket_take(&b, 28, 0);
    double wait = bucket_wait_s(&b, 10, 0);
    ck_assert_double_eq_tol(wait, 16, 1e-9); /* 8 more at 0.5 a second */
    ck_assert(!bucket_has(&b, 10, (uint64_t)(wait * 0.99 * 1e9)));
    ck_assert(bucket_has(&b, 10, (uint64_t)(wait * 1e9) + 1000));
    ck_assert_double_eq(bucket_wait_s(&b, 31, 0), -1);
    ck_assert_double_eq(bucket_wait_s(&b, 1, 0), 0);
}
END_TEST

START_TEST(debt_is_paid_first)
{
    struct bucket b = {0};
    bucket_set(&b, 60, 0);
    bucket_take(&b, 100, 0);
    ck_assert_double_eq_tol(bucket_level(&b, 0), -40, 1e-9);
    ck_assert(!bucket_has(&b, 1, 40 * S));
    ck_assert(bucket_has(&b, 1, 42 * S));
    bucket_take(&b, -1000, 42 * S); /* given back: never above its capacity */
    ck_assert_double_eq_tol(bucket_level(&b, 42 * S), 60, 1e-9);
}
END_TEST

START_TEST(another_limit_keeps_the_share)
{
    struct bucket b = {0};
    bucket_set(&b, 100, 0);
    bucket_take(&b, 75, 0);
    bucket_set(&b, 1000, 0);
    ck_assert_double_eq_tol(bucket_level(&b, 0), 250, 1e-9);
    bucket_set(&b, 0, 0);
    ck_assert(bucket_has(&b, 1e9, 0));
    bucket_set(&b, 10, 0);
    ck_assert_double_eq_tol(bucket_level(&b, 0), 10, 1e-9);
}
END_TEST

/* Over any time, what was let through is at most what it held and what flowed in. */
START_TEST(random_takes)
{
    const char *given = getenv("LODGE_TEST_SEED");
    unsigned seed = given ? (unsigned)atoi(given) : 7u;
    srand(seed);
    for (int round = 0; round < 200; round++) {
        struct bucket b = {0};
        double limit = 1 + rand() % 1000, taken = 0, model = limit;
        uint64_t now = (uint64_t)rand();
        bucket_set(&b, limit, now);
        uint64_t begin = now;
        for (int i = 0; i < 200; i++) {
            uint64_t pass = (uint64_t)(rand() % 3000) * 1000000;
            double n = rand() % 20;
            now += pass;
            model = fmin(limit, model + (double)pass * 1e-9 * limit / 60);
            ck_assert_double_eq_tol(bucket_level(&b, now), model, 1e-6);
            if (bucket_has(&b, n, now)) {
                bucket_take(&b, n, now);
                taken += n;
                model -= n;
            }
        }
        double most = limit + (double)(now - begin) * 1e-9 * limit / 60;
        ck_assert_msg(taken <= most + 1e-6, "seed %u: %g let through, at most %g", seed, taken,
                      most);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("bucket");
    TCase *c = tcase_create("all");
    tcase_add_test(c, fills_in_a_minute);
    tcase_add_test(c, waits_as_long_as_it_says);
    tcase_add_test(c, debt_is_paid_first);
    tcase_add_test(c, another_limit_keeps_the_share);
    tcase_add_test(c, random_takes);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
