/* Random actions for the property tests of engine/: a generator with a printed seed, and how many
 * actions to try. LODGE_TEST_SEED=n repeats a run; LODGE_TEST_SHORT and LODGE_TEST_FULL change the
 * number of actions. */
#ifndef LODGE_TESTS_ENGINE_RANDOM_H
#define LODGE_TESTS_ENGINE_RANDOM_H

#include "base/clock.h"

#include <check.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* ck_assert writes a mark each time it holds; this one costs nothing until it fails. */
#define TEST_CHECK(condition, ...)                                                                 \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            printf("%s:%d: %s:", __FILE__, __LINE__, #condition);                                  \
            printf(" " __VA_ARGS__);                                                               \
            printf("\n");                                                                          \
            fflush(stdout);                                                                        \
            ck_abort_msg("%s", #condition);                                                        \
        }                                                                                          \
    } while (0)

/* splitmix64: also a good mixer of one word. */
static inline uint64_t test_mix(uint64_t x)
{
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

struct test_random {
    uint64_t state;
};

static inline uint64_t test_next(struct test_random *r)
{
    r->state += 0x9E3779B97F4A7C15u;
    return test_mix(r->state);
}

/* 0 .. n - 1 */
static inline uint32_t test_below(struct test_random *r, uint32_t n)
{
    return (uint32_t)(test_next(r) % n);
}

static inline uint32_t test_between(struct test_random *r, uint32_t least, uint32_t most)
{
    return least + test_below(r, most - least + 1);
}

/* True once in n. */
static inline bool test_once_in(struct test_random *r, uint32_t n)
{
    return test_below(r, n) == 0;
}

static inline bool test_env_is_set(const char *name)
{
    const char *value = getenv(name);
    return value && *value;
}

/* The seed of this run, printed so that a failure can be repeated. */
static inline struct test_random test_seeded(const char *what)
{
    const char *given = getenv("LODGE_TEST_SEED");
    uint64_t seed = given && *given ? strtoull(given, NULL, 0) : lodge_now_ns();
    printf("%s: LODGE_TEST_SEED=%llu\n", what, (unsigned long long)seed);
    fflush(stdout);
    return (struct test_random){seed};
}

static inline uint64_t test_actions(uint64_t plain)
{
    return test_env_is_set("LODGE_TEST_SHORT")  ? plain / 20
           : test_env_is_set("LODGE_TEST_FULL") ? plain * 20
                                                : plain;
}

#endif
