/* Adapters that PEFT made, against what PEFT loaded of them (golden.json of make_adapters.py):
 * which modules, ranks, scales, and every bit of A and B after rounding to bf16, in the plan's
 * order of rows. Both file forms of one adapter give one digest. */
#include "base/file.h"
#include "base/json.h"
#include "tests/adapters/base_table.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *data_dir;
static json_t *golden;

static json_t *find(const json_t *list, const char *key, const char *value)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        json_t *one = json_array_get(list, i);
        if (strcmp(json_string_value(json_object_get(one, key)), value) == 0)
            return one;
    }
    return NULL;
}

static uint32_t number(const json_t *o, const char *key)
{
    return (uint32_t)json_integer_value(json_object_get(o, key));
}

static struct base_shape shape_of(const char *name)
{
    const json_t *s = json_object_get(json_object_get(golden, "shapes"), name);
    ck_assert_ptr_nonnull(s);
    return (struct base_shape){number(s, "d_model"),
                               number(s, "d_ff"),
                               number(s, "n_layers"),
                               number(s, "n_heads"),
                               number(s, "n_kv_heads"),
                               number(s, "head_dim"),
                               number(s, "n_vocab"),
                               json_is_true(json_object_get(s, "tied")),
                               false};
}

static struct lodge_adapter *read_adapter(const char *file, const struct lodge_adapter_base *base)
{
    struct lodge_adapter *a = NULL;
    struct lodge_error e = {0};
    char *path = lodge_path_join(data_dir, file);
    int err = lodge_adapter_read(path, file, base, NULL, &a, &e);
    ck_assert_msg(!err, "%s", e.text);
    free(path);
    return a;
}

static void check_hash(const char *module, const json_t *entry, const char *key, const void *data,
                       size_t n)
{
    const char *expected = json_string_value(json_object_get(entry, key));
    ck_assert_msg(!expected == !data, "%s: %s is %s", module, key, data ? "there" : "missing");
    if (!expected)
        return;
    struct lodge_digest d;
    char hex[65];
    lodge_sha256(data, n, &d);
    lodge_digest_hex(&d, hex);
    ck_assert_msg(strcmp(hex, expected) == 0, "%s: %s differs from PEFT's", module, key);
}

static void check_target(const struct lodge_adapter_module *m, const json_t *expected,
                         const struct lodge_lora_target *t)
{
    bool table = m->site == LODGE_SITE_EMBED;
    size_t n_in = table ? m->n_rows : m->n_cols, n_out = table ? m->n_cols : m->n_rows;
    ck_assert_uint_eq(t->linear, m->parts[0].linear);
    ck_assert_uint_eq(t->rank, number(expected, "rank"));
    float scale = (float)json_number_value(json_object_get(expected, "scale"));
    ck_assert_msg(t->scale == scale, "%s: scale %.9g, expected %.9g", m->hf, t->scale, scale);
    check_hash(m->hf, expected, "a", t->a, 2 * t->rank * n_in);
    check_hash(m->hf, expected, "b", t->b, 2 * t->rank * n_out);
    check_hash(m->hf, expected, "magnitude", t->magnitude, 4 * n_out);
    check_hash(m->hf, expected, "offset", t->offset, 4 * n_out);
}

START_TEST(tensors_are_what_peft_loaded)
{
    const json_t *one = json_array_get(json_object_get(golden, "adapters"), (size_t)_i);
    const char *file = json_string_value(json_object_get(one, "file"));
    struct base_shape shape = shape_of(json_string_value(json_object_get(one, "base")));
    const json_t *modules = json_object_get(one, "modules");
    struct base_table base;
    base_table_init(&base, &shape);
    struct lodge_adapter *a = read_adapter(file, &base.base);
    ck_assert_uint_eq(a->lora.n_targets, json_array_size(modules));
    ck_assert_str_eq(a->warning, "");
    uint64_t n_parameters = 0;
    uint32_t at = 0, max_rank = 0;
    for (uint32_t i = 0; i < base.base.n_modules; i++) {
        const struct lodge_adapter_module *m = &base.base.modules[i];
        const json_t *expected = find(modules, "hf", m->hf);
        if (!expected)
            continue;
        const struct lodge_lora_target *t = NULL;
        for (at = 0; at < a->lora.n_targets && !t; at++)
            if (a->lora.targets[at].linear == m->parts[0].linear)
                t = &a->lora.targets[at];
        ck_assert_msg(t != NULL, "%s: no target for %s", file, m->hf);
        check_target(m, expected, t);
        n_parameters += (uint64_t)t->rank * (m->n_rows + m->n_cols) +
                        (t->magnitude ? m->n_rows : 0) + (t->offset ? m->n_rows : 0);
        max_rank = t->rank > max_rank ? t->rank : max_rank;
    }
    ck_assert_uint_eq(a->n_parameters, n_parameters);
    ck_assert_uint_eq(a->max_rank, max_rank);
    for (uint32_t i = 1; i < a->lora.n_targets; i++)
        ck_assert_uint_lt(a->lora.targets[i - 1].linear, a->lora.targets[i].linear);
    lodge_adapter_destroy(a);
    base_table_finish(&base);
}
END_TEST

static struct lodge_digest digest_of(const char *file, const char *shape_name)
{
    struct base_shape shape = shape_of(shape_name);
    struct base_table base;
    base_table_init(&base, &shape);
    struct lodge_adapter *a = read_adapter(file, &base.base);
    struct lodge_digest d = a->digest;
    lodge_adapter_destroy(a);
    base_table_finish(&base);
    return d;
}

static const struct {
    const char *peft, *gguf, *shape;
} twins[] = {{"plain", "plain.gguf", "llama2"}, {"rslora", "rslora.gguf", "llama2"},
             {"table", "table.gguf", "llama2"}, {"tied", "tied.gguf", "smollm2"},
             {"regex", "regex.gguf", "llama3"}, {"one", "one.gguf", "llama2"}};

START_TEST(both_forms_have_one_digest)
{
    struct lodge_digest a = digest_of(twins[_i].peft, twins[_i].shape);
    struct lodge_digest b = digest_of(twins[_i].gguf, twins[_i].shape);
    struct lodge_digest again = digest_of(twins[_i].peft, twins[_i].shape);
    ck_assert_mem_eq(&a, &b, sizeof a);
    ck_assert_mem_eq(&a, &again, sizeof a);
}
END_TEST

START_TEST(other_adapters_have_other_digests)
{
    static const char *const files[] = {"plain", "all", "rslora", "table"};
    struct lodge_digest d[4];
    for (int i = 0; i < 4; i++)
        d[i] = digest_of(files[i], "llama2");
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < i; j++)
            ck_assert_mem_ne(&d[i], &d[j], sizeof d[i]);
}
END_TEST

START_TEST(the_base_is_named)
{
    struct base_shape shape = shape_of("llama2");
    struct base_table base;
    base_table_init(&base, &shape);
    struct lodge_adapter *a = read_adapter("plain", &base.base);
    ck_assert_str_eq(a->base_model, "tests/llama2-f32");
    ck_assert_ptr_null(a->chat_template);
    lodge_adapter_destroy(a);
    base_table_finish(&base);
}
END_TEST

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    data_dir = argc > 1 ? argv[1] : "";
    char *path = lodge_path_join(data_dir, "golden.json");
    struct lodge_error e;
    if (lodge_json_load_file(path, &golden, &e)) {
        fprintf(stderr, "%s\n", e.text);
        return 1;
    }
    free(path);
    Suite *s = suite_create("golden adapters");
    TCase *t = tcase_create("all");
    tcase_add_loop_test(t, tensors_are_what_peft_loaded, 0,
                        (int)json_array_size(json_object_get(golden, "adapters")));
    tcase_add_loop_test(t, both_forms_have_one_digest, 0, sizeof twins / sizeof *twins);
    tcase_add_test(t, other_adapters_have_other_digests);
    tcase_add_test(t, the_base_is_named);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    json_decref(golden);
    return failed ? 1 : 0;
}
