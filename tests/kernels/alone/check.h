/* The few names of libcheck that the kernel checks use, for a build where the library is not at
 * hand (another architecture): tests run one after another in one process, and the first failure
 * ends it. Same names, so that the checks are the same sources. */
#ifndef LODGE_TESTS_ALONE_CHECK_H
#define LODGE_TESTS_ALONE_CHECK_H

#include <stdio.h>
#include <stdlib.h>

typedef void alone_test(void);
typedef struct {
    alone_test *tests[16];
    int n;
} TCase;
typedef TCase Suite;
typedef TCase SRunner;
#define CK_NORMAL 0

#define START_TEST(name) static void name(void)
#define END_TEST

#define ck_assert_msg(condition, ...)                                                              \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            printf("%s:%d: ", __FILE__, __LINE__);                                                 \
            printf(__VA_ARGS__);                                                                   \
            printf("\n");                                                                          \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)
#define ck_assert(condition) ck_assert_msg(condition, "%s", #condition)
#define ck_assert_int_eq(a, b) ck_assert((a) == (b))
#define ck_assert_uint_eq(a, b) ck_assert((a) == (b))
#define ck_assert_uint_le(a, b) ck_assert((a) <= (b))
#define ck_assert_uint_ge(a, b) ck_assert((a) >= (b))
#define ck_assert_float_eq(a, b) ck_assert((a) == (b))
#define ck_assert_double_le(a, b) ck_assert((a) <= (b))
#define ck_assert_ptr_nonnull(p) ck_assert((p) != NULL)

static TCase alone;

#define suite_create(name) (&alone)
#define tcase_create(name) (&alone)
#define tcase_set_timeout(t, seconds) ((void)(t))
#define tcase_add_test(t, name) ((t)->tests[(t)->n++] = (name))
#define suite_add_tcase(s, t) ((void)(s))
#define srunner_create(s) (s)
#define srunner_ntests_failed(r) 0
#define srunner_free(r) ((void)(r))

static inline void srunner_run_all(SRunner *r, int how)
{
    for (int i = 0; i < r->n && how == CK_NORMAL; i++)
        r->tests[i]();
    printf("%d tests passed\n", r->n);
}

#endif
