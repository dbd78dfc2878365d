/* Adapters made here, of forms that PEFT's own files do not show: modules that the base has fused,
 * wrapper models, templates, warnings, GGUF without alpha. */
#include "adapters/adapter.h"
#include "base/buf.h"
#include "base/file.h"
#include "tests/adapters/base_table.h"
#include "tests/adapters/tensor_files.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *data_dir;

static const struct base_shape plain_shape = {.d_model = 36,
                                              .d_ff = 72,
                                              .n_layers = 2,
                                              .n_heads = 3,
                                              .n_kv_heads = 3,
                                              .head_dim = 12,
                                              .n_vocab = 259};
static const struct base_shape fused_shape = {.d_model = 24,
                                              .d_ff = 20,
                                              .n_layers = 1,
                                              .n_heads = 4,
                                              .n_kv_heads = 2,
                                              .head_dim = 6,
                                              .n_vocab = 40,
                                              .fused = true};
static const struct base_shape tied_shape = {.d_model = 24,
                                             .d_ff = 20,
                                             .n_layers = 1,
                                             .n_heads = 4,
                                             .n_kv_heads = 2,
                                             .head_dim = 6,
                                             .n_vocab = 40,
                                             .tied = true};

static struct lodge_adapter *read_at(const char *path, const struct base_shape *shape, int expected,
                                     struct lodge_error *e)
{
    struct base_table base;
    struct lodge_adapter *a = NULL;
    base_table_init(&base, shape);
    *e = (struct lodge_error){0};
    int err = lodge_adapter_read(path, "x", &base.base, NULL, &a, e);
    base_table_finish(&base);
    ck_assert_msg(err == expected, "%s", e->text);
    return a;
}

static void write_tensors(const struct folder *f, const struct tensors *t)
{
    size_t n;
    char *bytes = tensors_bytes(t, &n);
    folder_write(f, "adapter_model.safetensors", bytes, n);
    free(bytes);
}

static void write_config(const struct folder *f, const char *members)
{
    struct lodge_buf b;
    lodge_buf_init(&b, 1 << 16);
    lodge_buf_printf(&b, "{\"peft_type\": \"LORA\", %s}", members);
    folder_write_text(f, "adapter_config.json", lodge_buf_text(&b));
    lodge_buf_finish(&b);
}

static void add_pair(struct tensors *t, const char *module, uint32_t n_in, uint32_t n_out,
                     uint32_t rank)
{
    char name[160];
    snprintf(name, sizeof name, "base_model.model.%s.lora_A.weight", module);
    tensors_add(t, name, rank, n_in);
    snprintf(name, sizeof name, "base_model.model.%s.lora_B.weight", module);
    tensors_add(t, name, n_out, rank);
}

static float from_bf16(uint16_t h)
{
    uint32_t bits = (uint32_t)h << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

/* Every value to within half a step of bf16 (eight bits of mantissa). */
static void check_values(const char *what, const uint16_t *got, const float *expected, size_t n)
{
    for (size_t i = 0; i < n; i++)
        ck_assert_msg(fabsf(from_bf16(got[i]) - expected[i]) <= fabsf(expected[i]) / 256,
                      "%s: value %zu is %g, expected %g", what, i, from_bf16(got[i]), expected[i]);
}

/* ---- fused modules ---- */

START_TEST(fused_modules_are_cut)
{
    struct folder f;
    struct lodge_error e;
    struct tensors t = {.n = 0};
    folder_make(&f);
    add_pair(&t, "model.layers.0.self_attn.qkv_proj", 24, 48, 3);
    add_pair(&t, "model.layers.0.mlp.gate_up_proj", 24, 40, 3);
    write_tensors(&f, &t);
    write_config(
        &f, "\"r\": 3, \"lora_alpha\": 6, \"target_modules\": [\"qkv_proj\", \"gate_up_proj\"]");
    struct lodge_adapter *a = read_at(f.path, &fused_shape, 0, &e);
    static const struct {
        uint32_t linear, first, n_rows;
        const char *module;
    } parts[] = {{1, 0, 24, "self_attn.qkv_proj"},
                 {2, 24, 12, "self_attn.qkv_proj"},
                 {3, 36, 12, "self_attn.qkv_proj"},
                 {5, 0, 20, "mlp.gate_up_proj"},
                 {6, 20, 20, "mlp.gate_up_proj"}};
    ck_assert_uint_eq(a->lora.n_targets, 5);
    for (int i = 0; i < 5; i++) {
        const struct lodge_lora_target *got = &a->lora.targets[i];
        char name[160];
        ck_assert_uint_eq(got->linear, parts[i].linear);
        ck_assert_uint_eq(got->rank, 3);
        ck_assert(got->scale == 2.0f);
        snprintf(name, sizeof name, "base_model.model.model.layers.0.%s.lora_A.weight",
                 parts[i].module);
        check_values(name, got->a, tensors_find(&t, name)->values, 3 * 24);
        snprintf(name, sizeof name, "base_model.model.model.layers.0.%s.lora_B.weight",
                 parts[i].module);
        check_values(name, got->b, tensors_find(&t, name)->values + 3 * parts[i].first,
                     3 * parts[i].n_rows);
    }
    ck_assert_uint_eq(a->n_parameters, 3 * (24 + 48) + 3 * (24 + 40));
    lodge_adapter_destroy(a);
    tensors_finish(&t);
    folder_remove(&f);
}
END_TEST

/* ---- wrapper models ---- */

static const struct {
    const char *module, *targets;
} wrappers[] = {
    {"model.layers.%d.self_attn.q_proj", "[\"q_proj\"]"},
    {"language_model.model.layers.%d.self_attn.q_proj", "[\"q_proj\"]"},
    {"model.language_model.layers.%d.self_attn.q_proj", "[\"q_proj\"]"},
    {"model.language_model.layers.%d.self_attn.q_proj", "\".*language_model.*q_proj\""},
    {"language_model.model.layers.%d.self_attn.q_proj",
     "\"language_model.model.layers.[0-9]+.self_attn.q_proj\""},
};

/* The same module whatever the wrapper: the tensors' names, and so their values, differ, so only
 * the places are compared. */
START_TEST(wrappers_are_looked_through)
{
    struct folder f;
    struct lodge_error e;
    struct tensors t = {.n = 0};
    char module[96], settings[160], name[160];
    folder_make(&f);
    for (int layer = 0; layer < 2; layer++) {
        snprintf(module, sizeof module, "%.*s%d%s",
                 (int)(strchr(wrappers[_i].module, '%') - wrappers[_i].module), wrappers[_i].module,
                 layer, strchr(wrappers[_i].module, '%') + 2);
        add_pair(&t, module, 36, 36, 2);
    }
    write_tensors(&f, &t);
    snprintf(settings, sizeof settings, "\"r\": 2, \"target_modules\": %s", wrappers[_i].targets);
    write_config(&f, settings);
    struct lodge_adapter *a = read_at(f.path, &plain_shape, 0, &e);
    ck_assert_uint_eq(a->lora.n_targets, 2);
    ck_assert_uint_eq(a->lora.targets[0].linear, 1);
    ck_assert_uint_eq(a->lora.targets[1].linear, 8);
    lodge_adapter_destroy(a);
    /* One layer fewer than the configuration says is missing, under the wrapper's name. */
    snprintf(name, sizeof name, "base_model.model.%s.lora_A.weight", module);
    tensors_drop(&t, name);
    snprintf(name, sizeof name, "base_model.model.%s.lora_B.weight", module);
    tensors_drop(&t, name);
    write_tensors(&f, &t);
    read_at(f.path, &plain_shape, LODGE_ERR_FORMAT, &e);
    ck_assert_msg(strstr(e.text, module) && strstr(e.text, "missing"), "%s", e.text);
    tensors_finish(&t);
    folder_remove(&f);
}
END_TEST

START_TEST(one_module_under_two_names_is_refused)
{
    struct folder f;
    struct lodge_error e;
    struct tensors t = {.n = 0};
    folder_make(&f);
    add_pair(&t, "model.layers.0.self_attn.q_proj", 36, 36, 2);
    add_pair(&t, "language_model.model.layers.0.self_attn.q_proj", 36, 36, 2);
    write_tensors(&f, &t);
    write_config(&f, "\"r\": 2");
    read_at(f.path, &plain_shape, LODGE_ERR_FORMAT, &e);
    ck_assert_msg(strstr(e.text, "second one"), "%s", e.text);
    tensors_finish(&t);
    folder_remove(&f);
}
END_TEST

/* Table and head of a tied base are one tensor, which holds one target. */
START_TEST(both_ends_of_a_tied_base_are_refused)
{
    struct folder f;
    struct lodge_error e;
    struct tensors t = {.n = 0};
    folder_make(&f);
    tensors_add(&t, "base_model.model.model.embed_tokens.lora_embedding_A", 2, 40);
    tensors_add(&t, "base_model.model.model.embed_tokens.lora_embedding_B", 24, 2);
    write_tensors(&f, &t);
    write_config(&f, "\"r\": 2, \"target_modules\": [\"embed_tokens\"]");
    lodge_adapter_destroy(read_at(f.path, &tied_shape, 0, &e));
    add_pair(&t, "lm_head", 24, 40, 2);
    write_tensors(&f, &t);
    write_config(&f, "\"r\": 2, \"target_modules\": [\"embed_tokens\", \"lm_head\"]");
    read_at(f.path, &tied_shape, LODGE_ERR_UNSUPPORTED, &e);
    ck_assert_msg(strstr(e.text, "tied") && strstr(e.text, "lm_head"), "%s", e.text);
    /* The same where the engine lists no head of its own. */
    struct base_table base;
    struct lodge_adapter *a = NULL;
    base_table_init(&base, &tied_shape);
    base.base.n_modules--;
    ck_assert_int_eq(lodge_adapter_read(f.path, "x", &base.base, NULL, &a, &e), LODGE_ERR_FORMAT);
    ck_assert_msg(strstr(e.text, "lm_head") && strstr(e.text, "tied"), "%s", e.text);
    base_table_finish(&base);
    write_config(&f, "\"r\": 2, \"ensure_weight_tying\": true");
    read_at(f.path, &tied_shape, LODGE_ERR_UNSUPPORTED, &e);
    ck_assert_msg(strstr(e.text, "ensure_weight_tying"), "%s", e.text);
    tensors_finish(&t);
    folder_remove(&f);
}
END_TEST

START_TEST(the_table_wants_its_own_tensors)
{
    struct folder f;
    struct lodge_error e;
    struct tensors t = {.n = 0};
    folder_make(&f);
    add_pair(&t, "model.embed_tokens", 24, 40, 2);
    write_tensors(&f, &t);
    write_config(&f, "\"r\": 2");
    read_at(f.path, &tied_shape, LODGE_ERR_FORMAT, &e);
    ck_assert_msg(strstr(e.text, "lora_embedding_A"), "%s", e.text);
    tensors_finish(&t);
    tensors_add(&t, "base_model.model.lm_head.lora_embedding_A", 2, 40);
    tensors_add(&t, "base_model.model.lm_head.lora_embedding_B", 24, 2);
    write_tensors(&f, &t);
    read_at(f.path, &tied_shape, LODGE_ERR_FORMAT, &e);
    ck_assert_msg(strstr(e.text, "lora_A.weight"), "%s", e.text);
    tensors_finish(&t);
    tensors_add(&t, "base_model.model.model.embed_tokens.lora_embedding_A", 2, 40);
    tensors_add(&t, "base_model.model.model.embed_tokens.lora_embedding_B", 24, 2);
    tensors_add(&t, "base_model.model.model.embed_tokens.lora_magnitude_vector", 24, 0);
    write_tensors(&f, &t);
    write_config(&f, "\"r\": 2, \"use_dora\": true");
    read_at(f.path, &tied_shape, LODGE_ERR_UNSUPPORTED, &e);
    ck_assert_msg(strstr(e.text, "DoRA on the embedding"), "%s", e.text);
    tensors_finish(&t);
    folder_remove(&f);
}
END_TEST

/* ---- warnings ---- */

static void write_q(const struct folder *f, float factor)
{
    struct tensors t = {.n = 0};
    add_pair(&t, "model.layers.0.self_attn.q_proj", 36, 36, 2);
    for (size_t i = 0; i < t.all[1].n_values; i++)
        t.all[1].values[i] *= factor;
    write_tensors(f, &t);
    tensors_finish(&t);
}

START_TEST(warnings_say_what_is_odd)
{
    static const char target[] = "\"r\": 2, \"target_modules\": [\"layers.0.self_attn.q_proj\"]";
    static const struct {
        float factor;
        const char *more, *words;
    } odd[] = {
        {1, "", ""},
        {1, ", \"lora_dropout\": 0.1, \"fan_in_fan_out\": true, \"megatron_core\": \"m\"", ""},
        {1, ", \"mystery\": 3", "'mystery' is not known"},
        {1, ", \"mystery\": null", ""},
        {0, "", "no effect"},
        {1, ", \"lora_alpha\": 0", "no effect"},
        {0, ", \"mystery\": 3", "; the adapter has no effect"},
    };
    struct folder f;
    struct lodge_error e;
    char settings[256];
    folder_make(&f);
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        write_q(&f, odd[i].factor);
        snprintf(settings, sizeof settings, "%s%s", target, odd[i].more);
        write_config(&f, settings);
        struct lodge_adapter *a = read_at(f.path, &plain_shape, 0, &e);
        if (*odd[i].words)
            ck_assert_msg(strstr(a->warning, odd[i].words), "%s", a->warning);
        else
            ck_assert_str_eq(a->warning, "");
        lodge_adapter_destroy(a);
    }
    write_config(&f, "\"r\": 2");
    struct lodge_adapter *a = read_at(f.path, &plain_shape, 0, &e);
    ck_assert_msg(strstr(a->warning, "target_modules"), "%s", a->warning);
    lodge_adapter_destroy(a);
    folder_remove(&f);
}
END_TEST

/* ---- templates and digests ---- */

static struct lodge_digest template_digest(const struct folder *f, const char *expected)
{
    struct lodge_error e;
    struct lodge_adapter *a = read_at(f->path, &plain_shape, 0, &e);
    if (expected)
        ck_assert_str_eq(a->chat_template, expected);
    else
        ck_assert_ptr_null(a->chat_template);
    struct lodge_digest d = a->digest;
    lodge_adapter_destroy(a);
    return d;
}

START_TEST(templates_are_found)
{
    static const char file[] = "tokenizer_config.json";
    struct folder f;
    struct lodge_error e;
    struct lodge_digest d[4];
    folder_make(&f);
    write_q(&f, 1);
    write_config(&f, "\"r\": 2");
    d[0] = template_digest(&f, NULL);
    folder_write_text(&f, file, "{\"chat_template\": \"one\"}");
    d[1] = template_digest(&f, "one");
    folder_write_text(&f, file,
                      "{\"chat_template\": [{\"name\": \"tool_use\", \"template\": \"t\"},"
                      "{\"name\": \"default\", \"template\": \"two\"}]}");
    d[2] = template_digest(&f, "two");
    folder_write_text(&f, "chat_template.jinja", "three\n");
    d[3] = template_digest(&f, "three\n");
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < i; j++)
            ck_assert_mem_ne(&d[i], &d[j], sizeof d[i]);
    folder_write_text(&f, "chat_template.jinja", "\xff");
    read_at(f.path, &plain_shape, LODGE_ERR_FORMAT, &e);
    ck_assert_msg(strstr(e.text, "chat_template.jinja"), "%s", e.text);
    folder_remove(&f);
    folder_make(&f);
    write_q(&f, 1);
    write_config(&f, "\"r\": 2");
    folder_write_text(&f, file, "{");
    read_at(f.path, &plain_shape, LODGE_ERR_FORMAT, &e);
    ck_assert_msg(strstr(e.text, file), "%s", e.text);
    folder_remove(&f);
}
END_TEST

/* What changes results changes the digest; what does not, does not. */
START_TEST(digests_cover_settings)
{
    static const struct {
        const char *settings;
        float factor;
        bool same;
    } kinds[] = {
        {"\"r\": 2, \"lora_alpha\": 4, \"lora_dropout\": 0.5", 1, true},
        {"\"r\": 2, \"lora_alpha\": 4, \"alpha_pattern\": {\"q_proj\": 4}", 1, true},
        {"\"r\": 2, \"lora_alpha\": 5", 1, false},
        {"\"r\": 2, \"lora_alpha\": 4, \"use_rslora\": true", 1, false},
        {"\"r\": 2, \"lora_alpha\": 4", 1.01f, false},
    };
    struct folder f;
    struct lodge_digest first, d;
    folder_make(&f);
    write_q(&f, 1);
    write_config(&f, "\"r\": 2, \"lora_alpha\": 4");
    first = template_digest(&f, NULL);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        write_q(&f, kinds[i].factor);
        write_config(&f, kinds[i].settings);
        d = template_digest(&f, NULL);
        ck_assert_msg((memcmp(&first, &d, sizeof d) == 0) == kinds[i].same, "%s",
                      kinds[i].settings);
    }
    folder_remove(&f);
}
END_TEST

/* ---- GGUF ---- */

START_TEST(no_alpha_is_scale_one)
{
    static const char key[] = "adapter.lora.alpha\6\0\0\0";
    struct folder f;
    struct lodge_error e;
    char *data = NULL, path[128];
    size_t n;
    char *from = lodge_path_join(data_dir, "plain.gguf");
    ck_assert_msg(!lodge_file_read(from, 1 << 20, &data, &n, &e), "%s", e.text);
    char *at = memmem(data, n, key, sizeof key - 1);
    ck_assert_ptr_nonnull(at);
    float alpha = 0;
    memcpy(at + sizeof key - 1, &alpha, 4);
    folder_make(&f);
    folder_write(&f, "a.gguf", data, n);
    snprintf(path, sizeof path, "%s/a.gguf", f.path);
    struct lodge_adapter *a = read_at(path, &plain_shape, 0, &e);
    for (uint32_t i = 0; i < a->lora.n_targets; i++)
        ck_assert(a->lora.targets[i].scale == 1.0f);
    lodge_adapter_destroy(a);
    folder_remove(&f);
    free(from);
    free(data);
}
END_TEST

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    data_dir = argc > 1 ? argv[1] : "";
    Suite *s = suite_create("forms of adapters");
    TCase *t = tcase_create("all");
    tcase_add_test(t, fused_modules_are_cut);
    tcase_add_loop_test(t, wrappers_are_looked_through, 0, sizeof wrappers / sizeof *wrappers);
    tcase_add_test(t, one_module_under_two_names_is_refused);
    tcase_add_test(t, both_ends_of_a_tied_base_are_refused);
    tcase_add_test(t, the_table_wants_its_own_tensors);
    tcase_add_test(t, warnings_say_what_is_odd);
    tcase_add_test(t, templates_are_found);
    tcase_add_test(t, digests_cover_settings);
    tcase_add_test(t, no_alpha_is_scale_one);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
