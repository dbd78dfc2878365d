/* Buffers that are used again: each has one user at a time, what is given back comes again, and
 * what is kept stays within its bounds. */
#include "base/spares.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

#define MiB ((size_t)1 << 20)
#define USERS 4
#define ROUNDS 4000

START_TEST(what_is_given_comes_again)
{
    struct lodge_spares s;
    lodge_spares_init(&s, 8 * MiB);
    uint8_t *a = lodge_spares_take(&s, 3 * MiB);
    ck_assert_ptr_nonnull(a);
    ck_assert_uint_eq((uintptr_t)a % (2 * MiB), 0);
    memset(a, 7, 3 * MiB);
    lodge_spares_give(&s, a, 3 * MiB);
    uint8_t *b = lodge_spares_take(&s, MiB); /* of another size */
    ck_assert_ptr_ne(b, a);
    uint8_t *c = lodge_spares_take(&s, 3 * MiB - 1000); /* of about the same */
    ck_assert_ptr_eq(c, a);
    ck_assert_uint_eq(c[MiB], 7);
    ck_assert_uint_eq(s.n, 0);
    lodge_spares_give(&s, c, 3 * MiB - 1000);
    lodge_spares_give(&s, b, MiB);
    lodge_spares_give(&s, NULL, MiB);
    ck_assert_uint_eq(s.n, 2);
    lodge_spares_finish(&s);
}
END_TEST

START_TEST(few_are_kept)
{
    struct lodge_spares s;
    uint8_t *at[2 * LODGE_MAX_SPARES];
    lodge_spares_init(&s, 8 * MiB);
    for (uint32_t i = 0; i < 5; i++)
        at[i] = lodge_spares_take(&s, 3 * MiB);
    for (uint32_t i = 0; i < 5; i++) {
        lodge_spares_give(&s, at[i], 3 * MiB);
        ck_assert_uint_le(s.n_bytes, 8 * MiB);
    }
    ck_assert_uint_eq(s.n, 2);
    ck_assert_ptr_eq(lodge_spares_take(&s, 3 * MiB), at[4]);
    ck_assert_ptr_eq(lodge_spares_take(&s, 3 * MiB), at[3]);
    lodge_spares_give(&s, at[3], 3 * MiB);
    lodge_spares_give(&s, at[4], 3 * MiB);
    lodge_spares_give(&s, lodge_spares_take(&s, 9 * MiB), 9 * MiB); /* more than may be kept */
    ck_assert_uint_eq(s.n, 2);
    for (uint32_t i = 0; i < 2 * LODGE_MAX_SPARES; i++)
        at[i] = lodge_spares_take(&s, 1000);
    for (uint32_t i = 0; i < 2 * LODGE_MAX_SPARES; i++)
        lodge_spares_give(&s, at[i], 1000);
    ck_assert_uint_eq(s.n, LODGE_MAX_SPARES); /* the older ones have left */
    lodge_spares_finish(&s);
}
END_TEST

START_TEST(any_size)
{
    struct lodge_spares s;
    lodge_spares_init(&s, 64 * MiB);
    for (size_t n = 1; n < 32 * MiB; n = n * 5 / 4 + 1) {
        uint8_t *at = lodge_spares_take(&s, n);
        ck_assert_ptr_nonnull(at);
        at[0] = at[n - 1] = 1;
        lodge_spares_give(&s, at, n);
    }
    ck_assert_ptr_null(lodge_spares_take(&s, SIZE_MAX));
    ck_assert_ptr_null(lodge_spares_take(&s, SIZE_MAX / 2));
    lodge_spares_finish(&s);
}
END_TEST

struct user {
    struct lodge_spares *spares;
    uint8_t mark;
};

static void *use(void *arg)
{
    struct user *u = arg;
    struct lodge_spares *s = u->spares;
    for (size_t i = 0; i < ROUNDS; i++) {
        size_t n = 10000 + i % 7 * 30000;
        uint8_t *at = lodge_spares_take(s, n);
        memset(at, u->mark, 4096);
        for (size_t k = 0; k < 4096; k++)
            if (at[k] != u->mark)
                return u;
        lodge_spares_give(s, at, n);
    }
    return NULL;
}

START_TEST(one_user_at_a_time)
{
    struct lodge_spares s;
    pthread_t threads[USERS];
    struct user users[USERS];
    void *failed;
    lodge_spares_init(&s, MiB);
    for (int i = 0; i < USERS; i++) {
        users[i] = (struct user){&s, (uint8_t)(i + 1)};
        ck_assert_int_eq(pthread_create(&threads[i], NULL, use, &users[i]), 0);
    }
    for (int i = 0; i < USERS; i++) {
        pthread_join(threads[i], &failed);
        ck_assert_ptr_null(failed);
    }
    lodge_spares_finish(&s);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("spares");
    TCase *t = tcase_create("all");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, what_is_given_comes_again);
    tcase_add_test(t, few_are_kept);
    tcase_add_test(t, any_size);
    tcase_add_test(t, one_user_at_a_time);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
