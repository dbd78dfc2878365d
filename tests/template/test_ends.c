/* The end of an assistant's turn, found in the templates of chats.json, against a table by hand. */
#include "base/json.h"
#include "engine/template/chat.h"

#include <check.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static json_t *chats;

/* NULL: the template writes none. */
static const struct {
    const char *shape, *end;
} expected[] = {
    {"chatml", "<|im_end|>"},
    {"llama2", "</s>"},
    {"llama3-tools", "<|eot_id|>"},
    {"mistral-tools", "</s>"},
    {"mistral-tekken", "</s>"},
    {"qwen2.5-tools", "<|im_end|>"},
    {"qwen3-thinking", "<|im_end|>"},
    {"gemma", "<end_of_turn>"},
    {"gemma2", "<end_of_turn>"},
    {"gemma3", "<end_of_turn>"},
    {"phi3", "<|end|>"},
    {"phi4", "<|im_end|>"},
    {"phi4-mini", "<|end|>"},
    {"granite", "<|end_of_text|>"},
    {"granite-think", "<|end_of_text|>"},
    {"olmo2", "</s>"},
    {"smollm2", "<|im_end|>"},
    {"smollm3", "<|im_end|>"},
    {"hermes-tools", "<|im_end|>"},
    {"harmony", "<|end|>"},
    {"command-r", "<|END_OF_TURN_TOKEN|>"},
    {"r1", "<\xEF\xBD\x9C"
           "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>"},
    {"qwen3-xml-tools", "<|im_end|>"},
    {"llama3-user-tools", "<|eot_id|>"},
    {"census", NULL},
};

/* A vocabulary of control tokens alone; those of the table, and some that are no ends. */
static struct lodge_tokenizer *control_tokens(void)
{
    json_t *vocab = json_pack("{s:i}", "a", 0), *added = json_array();
    struct lodge_tokenizer *t = NULL;
    struct lodge_error e = {0};
    int next = 1;
    static const char *const others[] = {"<s>", "<|im_start|>", "<|user|>", "<|assistant|>"};
    size_t n = sizeof expected / sizeof *expected, n_others = sizeof others / sizeof *others;
    for (size_t i = 0; i < n + n_others; i++) {
        const char *text = i < n ? expected[i].end : others[i - n];
        if (!text || json_object_get(vocab, text))
            continue;
        json_object_set_new(vocab, text, json_integer(next));
        json_array_append_new(
            added, json_pack("{s:i,s:s,s:b}", "id", next++, "content", text, "special", 1));
    }
    json_t *doc = json_pack("{s:o,s:{s:s,s:o,s:[]}}", "added_tokens", added, "model", "type", "BPE",
                            "vocab", vocab, "merges");
    json_t *config =
        json_pack("{s:s,s:s,s:{s:s,s:b},s:n,s:s}", "bos_token", "<s>", "eos_token", "</s>",
                  "pad_token", "content", "<|pad|>", "lstrip", 0, "unk_token", "other", "x");
    ck_assert_msg(!lodge_tokenizer_from_json(doc, config, "made", NULL, 0, &t, &e), "%s", e.text);
    json_decref(doc);
    json_decref(config);
    return t;
}

static void expect_texts(const struct lodge_tokenizer *t, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    json_t *want = json_vpack_ex(NULL, 0, format, args);
    va_end(args);
    ck_assert(json_equal(want, lodge_tokenizer_special_texts(t)));
    json_decref(want);
}

START_TEST(end_of_turn_is_found)
{
    struct lodge_tokenizer *tokens = control_tokens();
    const json_t *source = json_object_get(json_object_get(chats, "templates"), expected[_i].shape);
    struct lodge_template *t = NULL;
    struct lodge_error e = {0};
    ck_assert_msg(source != NULL, "%s", expected[_i].shape);
    ck_assert(!lodge_template_parse(json_string_value(source), json_string_length(source), &t, &e));
    int64_t end = lodge_chat_end_of_turn(t, tokens);
    size_t n = 0;
    const char *text = end < 0 ? "(none)" : lodge_tokenizer_text(tokens, (uint32_t)end, &n);
    const char *want = expected[_i].end;
    ck_assert_msg(want ? end >= 0 && strcmp(text, want) == 0 : end < 0, "%s: %s",
                  expected[_i].shape, text);
    if (end >= 0) {
        lodge_tokenizer_add_end(tokens, (uint32_t)end);
        ck_assert(lodge_tokenizer_ends(tokens, (uint32_t)end));
    }
    lodge_template_destroy(t);
    lodge_tokenizer_destroy(tokens);
}
END_TEST

/* Ends that the files name: by text, and by the ids of GGUF. */
START_TEST(named_ends_count)
{
    const struct lodge_span tokens[] = {{"a", 1},        {"<|im_end|>", 10}, {"<|x|>", 5},
                                        {"<|y|>", 5},    {"<|z|>", 5},       {"<EOT>", 5},
                                        {"<|plain|>", 9}};
    const int32_t types[] = {1, 3, 3, 3, 3, 4, 3};
    const struct lodge_vocab_source src = {.model = "gpt2",
                                           .pre = "gpt-2",
                                           .n_tokens = 7,
                                           .tokens = tokens,
                                           .types = types,
                                           .bos = -1,
                                           .eos = 2,
                                           .unk = -1,
                                           .pad = 0,
                                           .eot = 3,
                                           .eom = 4,
                                           .add_bos = -1,
                                           .add_eos = -1,
                                           .add_space_prefix = -1};
    struct lodge_tokenizer *t = NULL;
    struct lodge_error e = {0};
    ck_assert_msg(!lodge_tokenizer_from_vocab(&src, &t, &e), "%s", e.text);
    for (uint32_t id = 0; id < 7; id++)
        ck_assert_int_eq(lodge_tokenizer_ends(t, id), id >= 1 && id <= 5);
    expect_texts(t, "{s:s,s:s,s:s}", "bos_token", "", "eos_token", "<|x|>", "pad_token", "a");
    lodge_tokenizer_destroy(t);
}
END_TEST

/* What templates get to see under the names that transformers gives special tokens. */
START_TEST(special_tokens_reach_templates)
{
    static const char source[] = "{{ bos_token ~ pad_token ~ (unk_token is defined) }}";
    struct lodge_tokenizer *tokens = control_tokens();
    struct lodge_template *t = NULL;
    struct lodge_error e = {0};
    struct lodge_rendered out;
    expect_texts(tokens, "{s:s,s:s,s:s}", "bos_token", "<s>", "eos_token", "</s>", "pad_token",
                 "<|pad|>");
    ck_assert(!lodge_template_parse(source, sizeof source - 1, &t, &e));
    json_t *messages = json_pack("[{s:s,s:s}]", "role", "user", "content", "Hello");
    struct lodge_chat_prompt p = {.messages = messages,
                                  .special = lodge_tokenizer_special_texts(tokens)};
    ck_assert_msg(!lodge_chat_render(t, &p, &out, &e), "%s", e.text);
    ck_assert_str_eq(out.text, "<s><|pad|>False");
    ck_assert(out.n_parts == 1 && !out.parts[0].user);
    lodge_rendered_finish(&out);
    json_decref(messages);
    lodge_template_destroy(t);
    lodge_tokenizer_destroy(tokens);
}
END_TEST

int main(int argc, char **argv)
{
    struct lodge_error e = {0};
    if (argc < 2 || lodge_json_load_file(argv[1], &chats, &e)) {
        printf("no golden file: %s\n", e.text);
        return 1;
    }
    Suite *s = suite_create("ends");
    TCase *t = tcase_create("all");
    tcase_add_loop_test(t, end_of_turn_is_found, 0, (int)(sizeof expected / sizeof *expected));
    tcase_add_test(t, named_ends_count);
    tcase_add_test(t, special_tokens_reach_templates);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    json_decref(chats);
    return failed ? 1 : 0;
}
