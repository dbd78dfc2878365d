/* Adapters that are refused: one change to an adapter that is taken, the code, and what the text
 * must name: the file, the tensor or member, what was expected and what was found. */
#include "adapters/adapter.h"
#include "base/buf.h"
#include "base/file.h"
#include "base/utf8.h"
#include "tests/adapters/base_table.h"
#include "tests/adapters/tensor_files.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *data_dir;

static struct base_shape shape = {.d_model = 36,
                                  .d_ff = 72,
                                  .n_layers = 2,
                                  .n_heads = 3,
                                  .n_kv_heads = 3,
                                  .head_dim = 12,
                                  .n_vocab = 50};

#define CONFIG "adapter_config.json"
#define TENSORS "adapter_model.safetensors"
#define P "base_model.model.model.layers."
#define Q0A P "0.self_attn.q_proj.lora_A.weight"
#define Q0B P "0.self_attn.q_proj.lora_B.weight"
#define V1A P "1.self_attn.v_proj.lora_A.weight"
#define V1B P "1.self_attn.v_proj.lora_B.weight"
#define TARGETS "\"target_modules\": [\"q_proj\", \"v_proj\"]"

static const char config[] =
    "{\"peft_type\": \"LORA\", \"r\": 2, \"lora_alpha\": 4, \"bias\": \"none\", " TARGETS
    ", \"base_model_name_or_path\": \"someone/other-base\", \"init_lora_weights\": true}";

static void good_tensors(struct tensors *t)
{
    for (int layer = 0; layer < 2; layer++)
        for (int m = 0; m < 2; m++) {
            char name[160];
            const char *module = m ? "v_proj" : "q_proj";
            snprintf(name, sizeof name, P "%d.self_attn.%s.lora_A.weight", layer, module);
            tensors_add(t, name, 2, 36);
            snprintf(name, sizeof name, P "%d.self_attn.%s.lora_B.weight", layer, module);
            tensors_add(t, name, 36, 2);
        }
}

/* ---- changes ---- */

enum change { NOTHING, DROP, RENAME, DTYPE, RESIZE, VALUE, ADD, CUT };

struct tensor_change {
    enum change kind;
    const char *name;
    const char *to; /* RENAME, DTYPE */
    uint32_t n_rows, n_cols;
    float value;
};

struct config_change {
    const char *from, *to; /* from NULL: the whole text */
};

static void change_tensors(struct tensors *t, const struct tensor_change *c)
{
    struct tensor *one = c->name ? tensors_find(t, c->name) : NULL;
    if (c->kind == ADD)
        tensors_add(t, c->name, c->n_rows, c->n_cols);
    else if (c->kind != NOTHING && c->kind != CUT)
        ck_assert_msg(one != NULL, "no tensor %s", c->name);
    if (c->kind == DROP)
        tensors_drop(t, c->name);
    else if (c->kind == RENAME)
        snprintf(one->name, sizeof one->name, "%s", c->to);
    else if (c->kind == DTYPE)
        snprintf(one->dtype, sizeof one->dtype, "%s", c->to);
    else if (c->kind == RESIZE)
        tensor_resize(one, c->n_rows, c->n_cols);
    else if (c->kind == VALUE)
        one->values[one->n_values - 1] = c->value;
}

static void write_config(const struct folder *f, const struct config_change *c)
{
    if (!c->to) {
        folder_write_text(f, CONFIG, config);
        return;
    }
    if (!c->from) {
        folder_write_text(f, CONFIG, c->to);
        return;
    }
    const char *at = strstr(config, c->from);
    ck_assert_msg(at != NULL, "'%s' is not in the configuration", c->from);
    struct lodge_buf b;
    lodge_buf_init(&b, 1 << 20);
    lodge_buf_append(&b, config, (size_t)(at - config));
    lodge_buf_puts(&b, c->to);
    lodge_buf_puts(&b, at + strlen(c->from));
    folder_write_text(f, CONFIG, lodge_buf_text(&b));
    lodge_buf_finish(&b);
}

static void write_adapter(const struct folder *f, const struct config_change *c,
                          const struct tensor_change *t)
{
    struct tensors all = {.n = 0};
    good_tensors(&all);
    change_tensors(&all, t);
    size_t n;
    char *bytes = tensors_bytes(&all, &n);
    folder_write(f, TENSORS, bytes, t->kind == CUT ? n - 40 : n);
    free(bytes);
    tensors_finish(&all);
    write_config(f, c);
}

static int read_at(const char *path, const struct lodge_adapter_limits *limits,
                   struct lodge_adapter **out, struct lodge_error *e)
{
    struct base_table base;
    base_table_init(&base, &shape);
    *e = (struct lodge_error){0};
    *out = NULL;
    int err = lodge_adapter_read(path, "acme/sql", &base.base, limits, out, e);
    base_table_finish(&base);
    return err;
}

/* ---- the table ---- */

#define PLUS(member)                                                                               \
    {                                                                                              \
        "\"bias\"", member ", \"bias\""                                                            \
    }
#define NO_CONFIG_CHANGE                                                                           \
    {                                                                                              \
        NULL, NULL                                                                                 \
    }
#define NO_CHANGE                                                                                  \
    {                                                                                              \
        NOTHING, NULL, NULL, 0, 0, 0                                                               \
    }

static const struct {
    struct config_change config;
    struct tensor_change tensors;
    int code;
    const char *words[4];
} cases[] = {
    /* 2: the configuration */
    {{NULL, "{"}, NO_CHANGE, LODGE_ERR_FORMAT, {CONFIG, "invalid JSON"}},
    {{NULL, "[]"}, NO_CHANGE, LODGE_ERR_FORMAT, {CONFIG, "JSON object"}},
    {{NULL, "{}"}, NO_CHANGE, LODGE_ERR_FORMAT, {CONFIG, "peft_type", "LORA"}},
    {{NULL, "[[[[[[[[[[[[[[[[[[[[[[["}, NO_CHANGE, LODGE_ERR_LIMIT, {CONFIG, "deeper"}},
    {{"\"LORA\"", "\"LOHA\""}, NO_CHANGE, LODGE_ERR_UNSUPPORTED, {CONFIG, "LOHA", "LORA"}},
    {{"\"r\": 2", "\"r\": 0"}, NO_CHANGE, LODGE_ERR_FORMAT, {CONFIG, "'r'", "0"}},
    {{"\"r\": 2", "\"r\": \"2\""}, NO_CHANGE, LODGE_ERR_FORMAT, {CONFIG, "'r'", "integer"}},
    {{"\"r\": 2", "\"r\": 99999999999"}, NO_CHANGE, LODGE_ERR_FORMAT, {CONFIG, "'r'"}},
    {{"\"lora_alpha\": 4", "\"lora_alpha\": \"4\""},
     NO_CHANGE,
     LODGE_ERR_FORMAT,
     {CONFIG, "lora_alpha", "number"}},
    {{"\"lora_alpha\": 4", "\"lora_alpha\": NaN"}, NO_CHANGE, LODGE_ERR_FORMAT, {CONFIG, "JSON"}},
    {{"\"lora_alpha\": 4", "\"lora_alpha\": 1e200"},
     NO_CHANGE,
     LODGE_ERR_FORMAT,
     {TENSORS, "alpha", "finite", "1e+200"}},
    {{"\"none\"", "\"all\""}, NO_CHANGE, LODGE_ERR_UNSUPPORTED, {CONFIG, "bias", "all", "none"}},
    {{"\"none\"", "\"lora_only\""}, NO_CHANGE, LODGE_ERR_UNSUPPORTED, {CONFIG, "lora_only"}},
    {{": true}", ": \"pissa\"}"}, NO_CHANGE, LODGE_ERR_UNSUPPORTED, {CONFIG, "pissa", "convert"}},
    {{": true}", ": \"pissa_niter_16\"}"}, NO_CHANGE, LODGE_ERR_UNSUPPORTED, {"pissa_niter_16"}},
    {{": true}", ": \"olora\"}"}, NO_CHANGE, LODGE_ERR_UNSUPPORTED, {"olora"}},
    {{": true}", ": \"corda\"}"}, NO_CHANGE, LODGE_ERR_UNSUPPORTED, {"corda"}},
    {{": true}", ": \"lora_ga\"}"}, NO_CHANGE, LODGE_ERR_UNSUPPORTED, {"lora_ga"}},
    {{": true}", ": \"loftq\"}"}, NO_CHANGE, LODGE_ERR_UNSUPPORTED, {"loftq"}},
    {PLUS("\"modules_to_save\": [\"lm_head\"]"),
     NO_CHANGE,
     LODGE_ERR_UNSUPPORTED,
     {CONFIG, "modules_to_save"}},
    {PLUS("\"layer_replication\": [[0, 2]]"),
     NO_CHANGE,
     LODGE_ERR_UNSUPPORTED,
     {CONFIG, "layer_replication"}},
    {PLUS("\"use_qalora\": true"), NO_CHANGE, LODGE_ERR_UNSUPPORTED, {"use_qalora"}},
    {PLUS("\"arrow_config\": {\"top_k\": 3}"), NO_CHANGE, LODGE_ERR_UNSUPPORTED, {"arrow_config"}},
    {PLUS("\"kasa_config\": {\"beta\": 1}"), NO_CHANGE, LODGE_ERR_UNSUPPORTED, {"kasa_config"}},
    {PLUS("\"monteclora_config\": {\"a\": 1}"),
     NO_CHANGE,
     LODGE_ERR_UNSUPPORTED,
     {"monteclora_config"}},
    {PLUS("\"use_bdlora\": {\"nblocks\": 2}"), NO_CHANGE, LODGE_ERR_UNSUPPORTED, {"use_bdlora"}},
    {PLUS("\"trainable_token_indices\": [1]"),
     NO_CHANGE,
     LODGE_ERR_UNSUPPORTED,
     {"trainable_token_indices"}},
    {PLUS("\"alora_invocation_tokens\": [1]"),
     NO_CHANGE,
     LODGE_ERR_UNSUPPORTED,
     {"alora_invocation_tokens"}},
    {PLUS("\"target_parameters\": [\"experts\"]"),
     NO_CHANGE,
     LODGE_ERR_UNSUPPORTED,
     {"target_parameters"}},
    {PLUS("\"megatron_config\": {\"a\": 1}"),
     NO_CHANGE,
     LODGE_ERR_UNSUPPORTED,
     {"megatron_config"}},
    {PLUS("\"use_dora\": true, \"lora_bias\": true"),
     NO_CHANGE,
     LODGE_ERR_UNSUPPORTED,
     {"use_dora", "lora_bias"}},
    {{TARGETS, "\"target_modules\": []"}, NO_CHANGE, LODGE_ERR_FORMAT, {"target_modules"}},
    {{TARGETS, "\"target_modules\": [1]"},
     NO_CHANGE,
     LODGE_ERR_FORMAT,
     {"target_modules", "names"}},
    {{TARGETS, "\"target_modules\": \"(q\""}, NO_CHANGE, LODGE_ERR_FORMAT, {"'(q'", "invalid"}},
    {{TARGETS, "\"target_modules\": \"((.*)*)*[!?]\""},
     NO_CHANGE,
     LODGE_ERR_LIMIT,
     {"((.*)*)*", "steps"}},
    {PLUS("\"rank_pattern\": [1]"), NO_CHANGE, LODGE_ERR_FORMAT, {"rank_pattern", "numbers"}},
    {PLUS("\"rank_pattern\": {\"q_proj\": 1.5}"), NO_CHANGE, LODGE_ERR_FORMAT, {"rank_pattern"}},
    {PLUS("\"layers_to_transform\": \"1\""), NO_CHANGE, LODGE_ERR_FORMAT, {"layers_to_transform"}},
    /* 3: the container */
    {NO_CONFIG_CHANGE, {CUT, NULL, NULL, 0, 0, 0}, LODGE_ERR_FORMAT, {TENSORS, "truncated"}},
    /* 4: names and pairs */
    {NO_CONFIG_CHANGE,
     {RENAME, Q0A, P "0.self_attn.q_proj.lora_A.default.weight", 0, 0, 0},
     LODGE_ERR_FORMAT,
     {TENSORS, "lora_A.default.weight", "expected", ".lora_A.weight"}},
    {NO_CONFIG_CHANGE,
     {RENAME, Q0A, "model.layers.0.self_attn.q_proj.lora_A.weight", 0, 0, 0},
     LODGE_ERR_FORMAT,
     {TENSORS, "'model.layers.0.self_attn.q_proj.lora_A.weight'", "base_model.model."}},
    {NO_CONFIG_CHANGE,
     {ADD, P "0.self_attn.q_proj.lora_C.weight", NULL, 2, 2, 0},
     LODGE_ERR_FORMAT,
     {"lora_C", "expected"}},
    {NO_CONFIG_CHANGE,
     {ADD, "base_model.model.lm_head.weight", NULL, 2, 2, 0},
     LODGE_ERR_UNSUPPORTED,
     {"lm_head.weight", "modules_to_save"}},
    {NO_CONFIG_CHANGE,
     {ADD, P "0.self_attn.q_proj.bias", NULL, 2, 0, 0},
     LODGE_ERR_UNSUPPORTED,
     {"q_proj.bias", "biases"}},
    {NO_CONFIG_CHANGE,
     {DROP, V1A, NULL, 0, 0, 0},
     LODGE_ERR_FORMAT,
     {V1B, "no partner", "lora_A.weight"}},
    {NO_CONFIG_CHANGE,
     {DROP, V1B, NULL, 0, 0, 0},
     LODGE_ERR_FORMAT,
     {V1A, "no partner", "lora_B.weight"}},
    {NO_CONFIG_CHANGE,
     {ADD, P "0.self_attn.k_proj.lora_magnitude_vector", NULL, 36, 0, 0},
     LODGE_ERR_FORMAT,
     {"k_proj.lora_magnitude_vector", "partner"}},
    {NO_CONFIG_CHANGE,
     {ADD, P "0.self_attn.q_proj.lora_magnitude_vector", NULL, 36, 0, 0},
     LODGE_ERR_FORMAT,
     {"q_proj", "use_dora", "false", "has a lora_magnitude_vector"}},
    {PLUS("\"use_dora\": true"),
     NO_CHANGE,
     LODGE_ERR_FORMAT,
     {"use_dora", "true", "has no lora_magnitude_vector"}},
    {PLUS("\"lora_bias\": true"), NO_CHANGE, LODGE_ERR_FORMAT, {"lora_bias", "has no lora_B.bias"}},
    {NO_CONFIG_CHANGE,
     {ADD, P "0.self_attn.q_proj.lora_B.bias", NULL, 36, 0, 0},
     LODGE_ERR_FORMAT,
     {"q_proj", "lora_bias", "false"}},
    /* 5: modules */
    {NO_CONFIG_CHANGE,
     {RENAME, Q0A, P "7.self_attn.q_proj.lora_A.weight", 0, 0, 0},
     LODGE_ERR_FORMAT,
     {"no partner"}},
    {{TARGETS, "\"target_modules\": [\"q_proj\", \"v_proj\", \"w1\"]"},
     {ADD, P "0.block.w1.base_layer.weight", NULL, 2, 2, 0},
     LODGE_ERR_FORMAT,
     {"w1.base_layer.weight", "partner"}},
    {{TARGETS, "\"target_modules\": [\"q_proj\"]"},
     NO_CHANGE,
     LODGE_ERR_FORMAT,
     {TENSORS, "v_proj", "target_modules", "found"}},
    {{TARGETS, "\"target_modules\": [\"q_proj\", \"v_proj\", \"o_proj\"]"},
     NO_CHANGE,
     LODGE_ERR_FORMAT,
     {TENSORS, "model.layers.0.self_attn.o_proj", "missing", "found are 4"}},
    {{TARGETS, "\"target_modules\": \"all-linear\""},
     NO_CHANGE,
     LODGE_ERR_FORMAT,
     {"missing", "expected because of target_modules"}},
    {PLUS("\"exclude_modules\": [\"0.self_attn.v_proj\"]"),
     NO_CHANGE,
     LODGE_ERR_FORMAT,
     {"layers.0.self_attn.v_proj", "exclude_modules"}},
    {PLUS("\"layers_to_transform\": [1]"),
     NO_CHANGE,
     LODGE_ERR_FORMAT,
     {"layers.0.self_attn", "layers_to_transform"}},
    /* 6: shapes */
    {NO_CONFIG_CHANGE,
     {RESIZE, Q0A, NULL, 2, 40, 0},
     LODGE_ERR_FORMAT,
     {Q0A, "[2, 40]", "[r, 36]", "someone/other-base"}},
    {NO_CONFIG_CHANGE,
     {RESIZE, Q0B, NULL, 40, 2, 0},
     LODGE_ERR_FORMAT,
     {Q0B, "[40, 2]", "[36, r]"}},
    {NO_CONFIG_CHANGE, {RESIZE, Q0A, NULL, 72, 0, 0}, LODGE_ERR_FORMAT, {Q0A, "[72]", "two dim"}},
    {NO_CONFIG_CHANGE, {RESIZE, Q0A, NULL, 3, 36, 0}, LODGE_ERR_FORMAT, {Q0A, "rank 3", "has 2"}},
    {NO_CONFIG_CHANGE, {RESIZE, Q0A, NULL, 0, 36, 0}, LODGE_ERR_FORMAT, {Q0A, "rank 0"}},
    {{"\"r\": 2", "\"r\": 4"}, NO_CHANGE, LODGE_ERR_FORMAT, {"rank 2", "says 4", "rank_pattern"}},
    {PLUS("\"rank_pattern\": {\"layers.1.self_attn.v_proj\": 6}"),
     NO_CHANGE,
     LODGE_ERR_FORMAT,
     {V1A, "rank 2", "says 6"}},
    {NO_CONFIG_CHANGE, {DTYPE, Q0A, "I32", 0, 0, 0}, LODGE_ERR_UNSUPPORTED, {Q0A, "I32", "BF16"}},
    {NO_CONFIG_CHANGE, {DTYPE, Q0A, "I16", 0, 0, 0}, LODGE_ERR_UNSUPPORTED, {Q0A, "I16"}},
    {NO_CONFIG_CHANGE,
     {ADD, P "0.self_attn.q_proj.base_layer.weight", NULL, 37, 36, 0},
     LODGE_ERR_FORMAT,
     {"base_layer.weight", "[37, 36]", "[36, 36]"}},
    /* 8: values */
    {NO_CONFIG_CHANGE, {VALUE, Q0A, NULL, 0, 0, NAN}, LODGE_ERR_FORMAT, {Q0A, "a NaN", "row 1"}},
    {NO_CONFIG_CHANGE,
     {VALUE, V1B, NULL, 0, 0, -INFINITY},
     LODGE_ERR_FORMAT,
     {V1B, "an infinity", "row 35"}},
    /* finite in fp32, infinite in bf16 */
    {NO_CONFIG_CHANGE, {VALUE, Q0A, NULL, 0, 0, 3.4e38f}, LODGE_ERR_FORMAT, {Q0A, "beyond bf16"}},
    {NO_CONFIG_CHANGE,
     {VALUE, Q0A, NULL, 0, 0, 1e6f},
     LODGE_ERR_FORMAT,
     {Q0A, "65504", "may reach"}},
};

START_TEST(it_is_refused)
{
    struct folder f;
    struct lodge_error e;
    struct lodge_adapter *a;
    folder_make(&f);
    write_adapter(&f, &cases[_i].config, &cases[_i].tensors);
    int err = read_at(f.path, NULL, &a, &e);
    folder_remove(&f);
    ck_assert_msg(err == cases[_i].code, "case %d: %s: %s", _i, lodge_error_name(err), e.text);
    ck_assert_ptr_null(a);
    ck_assert_msg(strncmp(e.text, "adapter \"acme/sql\" rejected: ", 29) == 0, "%s", e.text);
    ck_assert_msg(strstr(e.text, f.path) != NULL, "the file is not named: %s", e.text);
    for (int i = 0; i < 4 && cases[_i].words[i]; i++)
        ck_assert_msg(strstr(e.text, cases[_i].words[i]) != NULL, "'%s' is not in: %s",
                      cases[_i].words[i], e.text);
    printf("%s\n", e.text + 29 + strlen(f.path));
}
END_TEST

/* ---- GGUF ---- */

#define S(text) text, sizeof text - 1 /* may hold zero bytes */

static const struct {
    const char *from;
    size_t n_from;
    const char *to; /* as long */
    size_t n_to;
    int code;
    const char *words[3];
} gguf_cases[] = {
    {S("GGUF"), S("GGML"), LODGE_ERR_FORMAT, {"not a GGUF"}},
    {S("adapter"), S("adoptar"), LODGE_ERR_FORMAT, {"general.type", "adoptar", "'adapter'"}},
    {S("general.type"), S("general.tipe"), LODGE_ERR_FORMAT, {"general.type", "nothing"}},
    {S("llama"), S("gemma"), LODGE_ERR_FORMAT, {"general.architecture", "gemma", "'llama'"}},
    {S("\4\0\0\0\0\0\0\0lora"),
     S("\4\0\0\0\0\0\0\0nora"),
     LODGE_ERR_FORMAT,
     {"adapter.type", "nora"}},
    {S("adapter.lora.alpha\6\0\0\0\0\0\0\x41"),
     S("adapter.lora.alpha\6\0\0\0\0\0\xc0\x7f"),
     LODGE_ERR_FORMAT,
     {"alpha", "finite"}},
    {S("blk.0.attn_q.weight.lora_a"),
     S("blk.0.attn_q.weight.lora_c"),
     LODGE_ERR_FORMAT,
     {"lora_c", "expected"}},
    {S("blk.0.attn_q.weight.lora_a"),
     S("blk.0.attn_r.weight.lora_a"),
     LODGE_ERR_FORMAT,
     {"attn_q.weight.lora_b", "no partner", "blk.0.attn_q.weight.lora_a"}},
    {S("blk.0.attn_q.weight.lora_a\2\0\0\0\x24\0\0\0\0\0\0\0\4\0\0\0\0\0\0\0\0"),
     S("blk.0.attn_q.weight.lora_a\2\0\0\0\x24\0\0\0\0\0\0\0\4\0\0\0\0\0\0\0\x1a"),
     LODGE_ERR_UNSUPPORTED,
     {"blk.0.attn_q.weight.lora_a", "I32", "Q8_0"}},
    {S("blk.0.attn_q.weight.lora_a\2\0\0\0\x24"),
     S("blk.0.attn_q.weight.lora_a\2\0\0\0\x25"),
     LODGE_ERR_FORMAT,
     {"blk.0.attn_q", ""}},
};

static char *read_fixture(const char *name, size_t *n)
{
    char *data = NULL;
    struct lodge_error e;
    char *path = lodge_path_join(data_dir, name);
    ck_assert_msg(!lodge_file_read(path, 1 << 20, &data, n, &e), "%s", e.text);
    free(path);
    return data;
}

static int read_gguf_bytes(const char *data, size_t n, struct lodge_adapter **a,
                           struct lodge_error *e)
{
    struct folder f;
    char path[128];
    folder_make(&f);
    folder_write(&f, "a.gguf", data, n);
    snprintf(path, sizeof path, "%s/a.gguf", f.path);
    int err = read_at(path, NULL, a, e);
    folder_remove(&f);
    return err;
}

START_TEST(gguf_is_refused)
{
    size_t n;
    struct lodge_adapter *a;
    struct lodge_error e;
    char *data = read_fixture("plain.gguf", &n);
    ck_assert_msg(!read_gguf_bytes(data, n, &a, &e), "%s", e.text);
    lodge_adapter_destroy(a);
    char *at = memmem(data, n, gguf_cases[_i].from, gguf_cases[_i].n_from);
    ck_assert_msg(at != NULL, "case %d: not in the file", _i);
    ck_assert_uint_eq(gguf_cases[_i].n_from, gguf_cases[_i].n_to);
    memcpy(at, gguf_cases[_i].to, gguf_cases[_i].n_to);
    int err = read_gguf_bytes(data, n, &a, &e);
    free(data);
    ck_assert_msg(err == gguf_cases[_i].code, "case %d: %s: %s", _i, lodge_error_name(err), e.text);
    for (int i = 0; i < 3 && gguf_cases[_i].words[i]; i++)
        ck_assert_msg(strstr(e.text, gguf_cases[_i].words[i]) != NULL, "'%s' is not in: %s",
                      gguf_cases[_i].words[i], e.text);
    printf("%s\n", e.text);
}
END_TEST

/* Modules, shapes and types that another base has. */
START_TEST(gguf_of_another_base_is_refused)
{
    static const struct {
        const char *file, *words[2];
    } others[] = {{"regex.gguf", {"[9, 60]", "[r, 36]"}},
                  {"blocks.gguf", {"[32, 64]", "[r, 36]"}},
                  {"table.gguf", {"output.weight.lora_b", "[50, r]"}}};
    size_t n;
    struct lodge_adapter *a;
    struct lodge_error e;
    char *data = read_fixture(others[_i].file, &n);
    ck_assert_int_eq(read_gguf_bytes(data, n, &a, &e), LODGE_ERR_FORMAT);
    for (int i = 0; i < 2; i++)
        ck_assert_msg(strstr(e.text, others[_i].words[i]) != NULL, "%s", e.text);
    printf("%s\n", e.text);
    free(data);
}
END_TEST

START_TEST(activated_gguf_is_refused)
{
    struct lodge_adapter *a;
    struct lodge_error e;
    char *path = lodge_path_join(data_dir, "activated.gguf");
    ck_assert_int_eq(read_at(path, NULL, &a, &e), LODGE_ERR_UNSUPPORTED);
    ck_assert_msg(strstr(e.text, "adapter.alora.invocation_tokens"), "%s", e.text);
    free(path);
}
END_TEST

/* What a name holds that is no text does not get into the error. */
START_TEST(texts_are_utf8)
{
    size_t n;
    struct lodge_adapter *a;
    struct lodge_error e;
    char *data = read_fixture("plain.gguf", &n);
    char *at = memmem(data, n, "blk.0.attn_q.weight.lora_a", 26);
    memcpy(at + 20, "\xff\n\x1b[", 4);
    ck_assert_int_eq(read_gguf_bytes(data, n, &a, &e), LODGE_ERR_FORMAT);
    ck_assert_msg(lodge_utf8_valid((const uint8_t *)e.text, strlen(e.text)), "%s", e.text);
    ck_assert(!strpbrk(e.text, "\n\x1b") && strstr(e.text, "???["));
    free(data);
}
END_TEST

START_TEST(a_file_without_tensors_is_refused)
{
    static const struct config_change no_config = NO_CONFIG_CHANGE;
    static const struct tensor_change no_change = NO_CHANGE;
    struct folder f;
    struct lodge_error e;
    struct lodge_adapter *a;
    folder_make(&f);
    write_adapter(&f, &no_config, &no_change);
    folder_write(&f, TENSORS, "\2\0\0\0\0\0\0\0{}", 10);
    ck_assert_int_eq(read_at(f.path, NULL, &a, &e), LODGE_ERR_FORMAT);
    ck_assert_msg(strstr(e.text, TENSORS) && strstr(e.text, "no LoRA tensor"), "%s", e.text);
    folder_remove(&f);
}
END_TEST

/* Both forms made for a base of more layers: the module is named, and what there is. */
START_TEST(unknown_modules_are_refused)
{
    static const struct config_change no_config = NO_CONFIG_CHANGE;
    static const struct tensor_change no_change = NO_CHANGE;
    struct folder f;
    struct lodge_error e;
    struct lodge_adapter *a;
    size_t n;
    shape.n_layers = 1;
    folder_make(&f);
    write_adapter(&f, &no_config, &no_change);
    ck_assert_int_eq(read_at(f.path, NULL, &a, &e), LODGE_ERR_FORMAT);
    folder_remove(&f);
    ck_assert_msg(strstr(e.text, "'model.layers.1.self_attn.q_proj'") &&
                      strstr(e.text, "1 layers") && strstr(e.text, "model.layers.0.mlp.up_proj"),
                  "%s", e.text);
    printf("%s\n", e.text);
    char *data = read_fixture("plain.gguf", &n);
    ck_assert_int_eq(read_gguf_bytes(data, n, &a, &e), LODGE_ERR_FORMAT);
    ck_assert_msg(strstr(e.text, "'blk.1.attn_q'") && strstr(e.text, "blk.0.ffn_up"), "%s", e.text);
    printf("%s\n", e.text);
    free(data);
    shape.n_layers = 2;
}
END_TEST

/* ---- paths and limits ---- */

START_TEST(what_is_no_adapter_is_refused)
{
    struct folder f;
    struct lodge_error e;
    struct lodge_adapter *a;
    char path[128];
    ck_assert_int_eq(read_at("/nonexistent/adapter", NULL, &a, &e), LODGE_ERR_NOT_FOUND);
    ck_assert(strstr(e.text, "/nonexistent/adapter"));
    ck_assert_int_eq(read_at("/dev/null", NULL, &a, &e), LODGE_ERR_FORMAT);
    folder_make(&f);
    ck_assert_int_eq(read_at(f.path, NULL, &a, &e), LODGE_ERR_NOT_FOUND);
    ck_assert_msg(strstr(e.text, CONFIG) != NULL, "%s", e.text);
    folder_write_text(&f, CONFIG, config);
    ck_assert_int_eq(read_at(f.path, NULL, &a, &e), LODGE_ERR_NOT_FOUND);
    ck_assert_msg(strstr(e.text, TENSORS) != NULL, "%s", e.text);
    folder_write_text(&f, "adapter_model.bin", "PK");
    ck_assert_int_eq(read_at(f.path, NULL, &a, &e), LODGE_ERR_UNSUPPORTED);
    ck_assert_msg(strstr(e.text, "pickle") != NULL, "%s", e.text);
    snprintf(path, sizeof path, "%s/adapter_model.bin", f.path);
    ck_assert_int_eq(read_at(path, NULL, &a, &e), LODGE_ERR_FORMAT);
    folder_remove(&f);
}
END_TEST

START_TEST(limits_hold)
{
    static const struct config_change no_config = NO_CONFIG_CHANGE;
    static const struct tensor_change no_change = NO_CHANGE;
    struct folder f;
    struct lodge_error e;
    struct lodge_adapter *a;
    folder_make(&f);
    write_adapter(&f, &no_config, &no_change);
    struct lodge_adapter_limits limits = {.max_rank = 1};
    ck_assert_int_eq(read_at(f.path, &limits, &a, &e), LODGE_ERR_LIMIT);
    ck_assert_msg(strstr(e.text, "rank 2") && strstr(e.text, "the 1 allowed"), "%s", e.text);
    limits = (struct lodge_adapter_limits){.max_file_bytes = 1000};
    ck_assert_int_eq(read_at(f.path, &limits, &a, &e), LODGE_ERR_LIMIT);
    ck_assert_msg(strstr(e.text, TENSORS) && strstr(e.text, "1000"), "%s", e.text);
    limits = (struct lodge_adapter_limits){.max_rank = 2, .max_file_bytes = 1 << 20};
    ck_assert_msg(!read_at(f.path, &limits, &a, &e), "%s", e.text);
    lodge_adapter_destroy(a);
    folder_remove(&f);
}
END_TEST

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    data_dir = argc > 1 ? argv[1] : "";
    Suite *s = suite_create("refused adapters");
    TCase *t = tcase_create("all");
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, it_is_refused, 0, sizeof cases / sizeof *cases);
    tcase_add_loop_test(t, gguf_is_refused, 0, sizeof gguf_cases / sizeof *gguf_cases);
    tcase_add_loop_test(t, gguf_of_another_base_is_refused, 0, 3);
    tcase_add_test(t, activated_gguf_is_refused);
    tcase_add_test(t, texts_are_utf8);
    tcase_add_test(t, a_file_without_tensors_is_refused);
    tcase_add_test(t, unknown_modules_are_refused);
    tcase_add_test(t, what_is_no_adapter_is_refused);
    tcase_add_test(t, limits_hold);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
