/* Which modules a configuration targets, with what rank and alpha: as PEFT answers for the same
 * configuration and names (golden.json of make_adapters.py). */
#include "adapters/peft.h"
#include "base/file.h"
#include "base/json.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static json_t *golden;

static struct lodge_peft_config load_config(const json_t *doc, struct lodge_adapter *a)
{
    struct lodge_peft_config c;
    struct lodge_error e;
    char *text = json_dumps(doc, 0);
    struct lodge_adapter_file file = {{text, strlen(text)}, "config"};
    int err = lodge_peft_config_load(&file, a, &c, &e);
    ck_assert_msg(!err, "%s", e.text);
    free(text);
    return c;
}

START_TEST(it_is_as_peft_says)
{
    const json_t *one = json_array_get(json_object_get(golden, "matching"), (size_t)_i);
    const json_t *names = json_object_get(golden, "names");
    struct lodge_adapter a = {0};
    struct lodge_error e;
    struct lodge_peft_config c = load_config(json_object_get(one, "config"), &a);
    struct lodge_peft_matcher *m = NULL;
    ck_assert_msg(!lodge_peft_matcher_create(&c, &m, &e), "%s", e.text);
    ck_assert_uint_gt(json_array_size(names), 30);
    for (size_t i = 0; i < json_array_size(names); i++) {
        const char *name = json_string_value(json_array_get(names, i));
        bool hit;
        uint32_t rank;
        double alpha;
        ck_assert_msg(!lodge_peft_matcher_targets(m, name, true, &hit, &e), "%s", e.text);
        ck_assert_msg(!lodge_peft_matcher_rank(m, name, &rank, &alpha, &e), "%s", e.text);
        bool expected = json_is_true(json_array_get(json_object_get(one, "hits"), i));
        ck_assert_msg(hit == expected, "%s: %s", name, hit ? "targeted" : "not targeted");
        ck_assert_msg(rank == json_integer_value(json_array_get(json_object_get(one, "ranks"), i)),
                      "%s: rank %u", name, rank);
        ck_assert_msg(alpha == json_number_value(json_array_get(json_object_get(one, "alphas"), i)),
                      "%s: alpha %g", name, alpha);
    }
    lodge_peft_matcher_destroy(m);
    lodge_peft_config_finish(&c);
    lodge_arena_finish(&a._arena);
}
END_TEST

START_TEST(all_linear_leaves_the_head)
{
    struct lodge_adapter a = {0};
    struct lodge_error e;
    json_t *doc = json_pack("{s:s, s:s, s:s}", "peft_type", "LORA", "target_modules", "All-Linear",
                            "exclude_modules", ".*k_proj");
    struct lodge_peft_config c = load_config(doc, &a);
    struct lodge_peft_matcher *m = NULL;
    bool hit;
    ck_assert(!lodge_peft_matcher_create(&c, &m, &e));
    ck_assert(!lodge_peft_matcher_targets(m, "model.layers.0.mlp.up_proj", true, &hit, &e));
    ck_assert(hit);
    ck_assert(!lodge_peft_matcher_targets(m, "lm_head", false, &hit, &e));
    ck_assert(!hit);
    ck_assert(!lodge_peft_matcher_targets(m, "model.layers.0.self_attn.k_proj", true, &hit, &e));
    ck_assert(!hit);
    lodge_peft_matcher_destroy(m);
    lodge_peft_config_finish(&c);
    lodge_arena_finish(&a._arena);
    json_decref(doc);
}
END_TEST

/* Many patterns just below the limit of one match end at the limit of all. */
START_TEST(patterns_end)
{
    struct lodge_adapter a = {0};
    struct lodge_error e;
    json_t *ranks = json_object();
    for (int i = 0; i < 4000; i++) {
        char key[64];
        snprintf(key, sizeof key, "(?:.*.*.*.*[!?]|x{%d}y)", i);
        json_object_set_new(ranks, key, json_integer(3));
    }
    json_t *doc = json_pack("{s:s, s:o}", "peft_type", "LORA", "rank_pattern", ranks);
    struct lodge_peft_config c = load_config(doc, &a);
    struct lodge_peft_matcher *m = NULL;
    int err = lodge_peft_matcher_create(&c, &m, &e);
    for (int i = 0; i < 1000 && !err; i++) {
        uint32_t rank;
        double alpha;
        char name[32];
        snprintf(name, sizeof name, "model.layers.%d.q_proj", i);
        err = lodge_peft_matcher_rank(m, name, &rank, &alpha, &e);
    }
    ck_assert_int_eq(err, LODGE_ERR_LIMIT);
    printf("%s\n", e.text);
    lodge_peft_matcher_destroy(m);
    lodge_peft_config_finish(&c);
    lodge_arena_finish(&a._arena);
    json_decref(doc);
}
END_TEST

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    char *path = lodge_path_join(argc > 1 ? argv[1] : "", "golden.json");
    struct lodge_error e;
    if (lodge_json_load_file(path, &golden, &e)) {
        fprintf(stderr, "%s\n", e.text);
        return 1;
    }
    free(path);
    Suite *s = suite_create("modules of a configuration");
    TCase *t = tcase_create("all");
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, it_is_as_peft_says, 0,
                        (int)json_array_size(json_object_get(golden, "matching")));
    tcase_add_test(t, all_linear_leaves_the_head);
    tcase_add_test(t, patterns_end);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    json_decref(golden);
    return failed ? 1 : 0;
}
