/* Guessing against its definition, and what it costs text that never repeats. */
#include "engine/speculate.h"
#include "engine/step_cost.h"

#include "tests/engine/test_engine_random.h"

#include <check.h>
#include <string.h>

#define MOST_TEXT 200u
#define MIN_MATCH 2u
#define MAX_MATCH 16u

/* Length of the match that ends before `end`, by the plain definition. */
static uint32_t match(const uint32_t *text, uint32_t n, const uint32_t *in, uint32_t end)
{
    uint32_t m = 0;
    while (m < MAX_MATCH && m < n && m < end && text[n - 1 - m] == in[end - 1 - m])
        m++;
    return m;
}

static uint32_t best_match(const uint32_t *text, uint32_t n, const uint32_t *in, uint32_t last,
                           uint32_t *end)
{
    uint32_t best = 0;
    for (uint32_t e = 1; e <= last; e++)
        if (match(text, n, in, e) >= best) {
            best = match(text, n, in, e);
            *end = e;
        }
    return best;
}

static void check_draft(struct test_random *r)
{
    uint32_t text[MOST_TEXT + LODGE_MAX_DRAFT], hint[MOST_TEXT], at_text = 0, at_hint = 0;
    uint32_t letters = test_between(r, 2, 6), n = test_between(r, 1, MOST_TEXT);
    uint32_t n_hint = test_once_in(r, 2) ? 0 : test_between(r, 1, MOST_TEXT);
    uint32_t n_output = test_below(r, n + 1), most = test_between(r, 1, LODGE_MAX_DRAFT);
    for (uint32_t i = 0; i < MOST_TEXT; i++) {
        text[i] = test_below(r, letters);
        hint[i] = test_below(r, letters);
    }
    if (test_once_in(r, 3)) /* a prediction that holds so far */
        memcpy(hint, text + n - n_output, n_output * sizeof *hint);
    enum lodge_match how;
    uint32_t got = lodge_draft(text, n, n_output, hint, n_hint, most, text + n, &how);
    uint32_t in_text = best_match(text, n, text, n - 1, &at_text);
    uint32_t in_hint = best_match(text, n, hint, n_hint, &at_hint);
    if (n_output < n_hint && memcmp(text + n - n_output, hint, n_output * sizeof *hint) == 0) {
        in_hint = MAX_MATCH;
        at_hint = n_output;
    }
    if (in_hint >= MIN_MATCH && in_hint >= in_text) {
        TEST_CHECK(got == (n_hint - at_hint < most ? n_hint - at_hint : most));
        TEST_CHECK(memcmp(text + n, hint + at_hint, got * sizeof *hint) == 0);
    } else if (in_text >= MIN_MATCH) {
        TEST_CHECK(got == most);
        for (uint32_t i = 0; i < got; i++) /* as if the text went on with the draft */
            TEST_CHECK(text[n + i] == text[at_text + i]);
    } else {
        TEST_CHECK(got == 0);
    }
    uint32_t length = in_hint > in_text ? in_hint : in_text;
    TEST_CHECK(!got || how == (length >= 8   ? LODGE_MATCH_LONG
                               : length >= 4 ? LODGE_MATCH_MIDDLE
                                             : LODGE_MATCH_SHORT));
}

START_TEST(drafts_follow_the_longest_match)
{
    struct test_random r = test_seeded("speculate");
    for (int i = 0; i < 20000; i++)
        check_draft(&r);
}
END_TEST

/* Steps' worth of guesses, of 1000 steps in which there was something to guess. */
static double lost(enum lodge_match how, double token, uint32_t n_seqs)
{
    struct lodge_guesses g = {0};
    double sum = 0;
    for (int i = 0; i < 1000; i++) {
        uint32_t n = lodge_guesses_length(&g, how, token, n_seqs, LODGE_MAX_DRAFT);
        if (n)
            lodge_guesses_observe(&g, n, 0);
        sum += n * token;
    }
    return sum;
}

START_TEST(never_right_costs_little)
{
    static const double tokens[] = {0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1};
    for (int how = 0; how < LODGE_MATCH_COUNT; how++)
        for (size_t t = 0; t < sizeof tokens / sizeof *tokens; t++)
            for (uint32_t n_seqs = 1; n_seqs <= 32; n_seqs *= 4)
                ck_assert_msg(lost((enum lodge_match)how, tokens[t], n_seqs) <= 20,
                              "match %d, token %g, %u sequences: %g of 1000 steps", how, tokens[t],
                              n_seqs, lost((enum lodge_match)how, tokens[t], n_seqs));
}
END_TEST

START_TEST(right_guesses_grow)
{
    struct lodge_guesses g = {0};
    uint32_t n = 0;
    for (int i = 0; i < 20; i++) {
        n = lodge_guesses_length(&g, LODGE_MATCH_SHORT, 0.05, 1, LODGE_MAX_DRAFT);
        ck_assert_uint_gt(n, 0);
        lodge_guesses_observe(&g, n, n);
    }
    ck_assert_uint_eq(n, LODGE_MAX_DRAFT);
    /* Where a guess costs as much as a step, as in a full batch, none is made. */
    ck_assert_uint_eq(lodge_guesses_length(&g, LODGE_MATCH_SHORT, 1, 1, LODGE_MAX_DRAFT), 0);
    ck_assert_uint_eq(lodge_guesses_length(&g, LODGE_MATCH_SHORT, 0.05, 32, LODGE_MAX_DRAFT), 0);
    ck_assert(!lodge_guesses_may_pay(0.05, 32) && lodge_guesses_may_pay(0.05, 1));
}
END_TEST

static void observe(struct lodge_step_cost *c, uint32_t decodes, uint32_t guesses, uint32_t prompt,
                    double ns)
{
    const struct lodge_step_size s = {decodes, guesses, prompt};
    lodge_step_cost_observe(c, &s, ns);
}

START_TEST(costs_are_learned)
{
    struct lodge_step_cost c = {0};
    ck_assert_uint_eq(lodge_step_cost_prompt_tokens(&c, 1), UINT32_MAX);
    for (int i = 0; i < 100; i++)
        observe(&c, 1, 0, 0, 40e6);
    for (uint32_t i = 0; i < 100; i++)
        observe(&c, 1, i % 8, 0, 40e6 + 10e6 * (i % 8));
    ck_assert_double_eq_tol(lodge_step_cost_guess(&c), 0.25, 0.01);
    for (uint32_t i = 0; i < 40; i++)
        observe(&c, i % 2, 0, 100 + i, 1e6 * (100 + i) + i % 2 * 40e6);
    ck_assert_double_eq_tol(c.prompt_ns, 1e6, 1e4);
    ck_assert_double_eq_tol(lodge_step_cost_guess(&c), 0.25, 0.01);
    /* Twice the step: 40 ms more. */
    ck_assert_uint_ge(lodge_step_cost_prompt_tokens(&c, 1), 39);
    ck_assert_uint_le(lodge_step_cost_prompt_tokens(&c, 1), 41);
    /* More requests that wait get more of it. */
    ck_assert_uint_ge(lodge_step_cost_prompt_tokens(&c, 3), 118);
    ck_assert_uint_le(lodge_step_cost_prompt_tokens(&c, 3), 122);
    ck_assert_uint_eq(lodge_step_cost_prompt_tokens(&c, 1000),
                      lodge_step_cost_prompt_tokens(&c, 7));
    for (int i = 0; i < 200; i++) /* short steps may grow to 50 ms */
        observe(&c, 1, 0, 0, 10e6);
    ck_assert_uint_ge(lodge_step_cost_prompt_tokens(&c, 1), 38);
    ck_assert_uint_le(lodge_step_cost_prompt_tokens(&c, 1), 41);
    for (int i = 0; i < 200; i++)
        observe(&c, 1, 0, 64, 10e6 + 64 * 50e6);
    ck_assert_uint_eq(lodge_step_cost_prompt_tokens(&c, 1), LODGE_STEP_PROMPT_TOKENS);
}
END_TEST

START_TEST(dear_guesses_are_tried_again)
{
    struct lodge_step_cost c = {0};
    for (int i = 0; i < 100; i++) {
        observe(&c, 1, 0, 0, 1e6);
        observe(&c, 1, 8, 0, 100e6);
    }
    ck_assert_double_gt(lodge_step_cost_guess(&c), 5);
    for (int i = 0; i < 10000; i++)
        observe(&c, 1, 0, 0, 1e6);
    ck_assert_double_lt(lodge_step_cost_guess(&c), 0.2);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("speculate");
    TCase *t = tcase_create("speculate");
    tcase_set_timeout(t, 120);
    tcase_add_test(t, drafts_follow_the_longest_match);
    tcase_add_test(t, never_right_costs_little);
    tcase_add_test(t, right_guesses_grow);
    tcase_add_test(t, costs_are_learned);
    tcase_add_test(t, dear_guesses_are_tried_again);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
