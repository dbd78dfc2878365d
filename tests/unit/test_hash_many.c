/* Several messages side by side have the digests that nettle gives each. */
#include "base/hash_many.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_JOBS 9u
#define MAX_BYTES 3000u

static uint64_t state;

static uint32_t rnd(void)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33);
}

/* From memory of just their size, so that a sanitizer sees a byte too many. */
static void check_jobs(const size_t *sizes, uint32_t n, unsigned n_lanes)
{
    struct lodge_hash_job jobs[MAX_JOBS];
    struct lodge_digest got[MAX_JOBS], want;
    uint8_t *data[MAX_JOBS];
    for (uint32_t i = 0; i < n; i++) {
        data[i] = malloc(sizes[i] + 1);
        for (size_t k = 0; k <= sizes[i]; k++)
            data[i][k] = (uint8_t)rnd();
        data[i] = realloc(data[i], sizes[i] ? sizes[i] : 1);
        jobs[i] = (struct lodge_hash_job){data[i], sizes[i], &got[i]};
    }
    lodge_sha256_many(jobs, n, n_lanes);
    for (uint32_t i = 0; i < n; i++) {
        lodge_sha256(data[i], sizes[i], &want);
        ck_assert_msg(memcmp(&got[i], &want, sizeof want) == 0,
                      "message %u of %u, %zu bytes, %u lanes", i, n, sizes[i], n_lanes);
        free(data[i]);
    }
}

START_TEST(any_length)
{
    for (unsigned lanes = 0; lanes <= lodge_hash_lanes(); lanes++)
        for (size_t n = 0; n <= 300; n++) {
            check_jobs(&n, 1, lanes);
            check_jobs((size_t[]){n, 300 - n}, 2, lanes);
        }
}
END_TEST

START_TEST(any_number)
{
    const char *text = getenv("LODGE_TEST_SEED");
    state = text ? strtoull(text, NULL, 10) : (uint64_t)time(NULL);
    printf("LODGE_TEST_SEED=%llu\n", (unsigned long long)state);
    for (int round = 0; round < 3000; round++) {
        size_t sizes[MAX_JOBS];
        uint32_t n = rnd() % (MAX_JOBS + 1);
        for (uint32_t i = 0; i < n; i++)
            sizes[i] = rnd() % 3 ? rnd() % MAX_BYTES : rnd() % 3 * 64;
        check_jobs(sizes, n, lodge_hash_lanes());
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("hash-many");
    TCase *t = tcase_create("all");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, any_length);
    tcase_add_test(t, any_number);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
