/* The main function of a Check program with one case. */
#ifndef LODGE_TESTS_CLIENTS_SUITE_H
#define LODGE_TESTS_CLIENTS_SUITE_H

#include <check.h>

#define COUNT(array) (sizeof(array) / sizeof *(array))

static inline int run_suite(const char *name, const TTest *const *tests, size_t n)
{
    Suite *s = suite_create(name);
    TCase *t = tcase_create("all");
    tcase_set_timeout(t, 120);
    for (size_t i = 0; i < n; i++)
        tcase_add_test(t, tests[i]);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_set_fork_status(r, CK_NOFORK);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}

#endif
