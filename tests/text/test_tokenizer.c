/* Tokenizers against the tokenizers and sentencepiece libraries: small vocabularies in the shapes
 * of real families, from tokenizer.json and from GGUF (tests/golden/make_tokenizers.py), and the
 * default model's own when LODGE_TEST_MODEL names it. Ids, text, and text as it arrives; broken
 * UTF-8; long hostile runs. */
#include "base/file.h"
#include "base/json.h"
#include "engine/files/gguf_vocab.h"
#include "engine/text/detok.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *data_dir;
static json_t *golden;

static const json_t *vocabulary(size_t i)
{
    return json_array_get(json_object_get(golden, "vocabularies"), i);
}

static size_t n_vocabularies(void)
{
    return json_array_size(json_object_get(golden, "vocabularies"));
}

/* The entry's own member, or that of the entry it shares golden data with. */
static const json_t *member(const json_t *v, const char *key)
{
    const json_t *same = json_object_get(v, "same_as");
    return json_object_get(same ? vocabulary((size_t)json_integer_value(same)) : v, key);
}

static const char *name_of(const json_t *v)
{
    return json_string_value(json_object_get(v, "name"));
}

static struct lodge_tokenizer *open_gguf(const char *path)
{
    struct lodge_gguf g;
    struct lodge_error e = {0};
    struct lodge_tokenizer *t = NULL;
    ck_assert_msg(!lodge_gguf_open(path, &g, &e), "%s", e.text);
    ck_assert_msg(!lodge_gguf_tokenizer(&g, path, &t, &e), "%s", e.text);
    lodge_gguf_close(&g);
    return t;
}

/* NULL for the default model when it is not at hand. */
static struct lodge_tokenizer *open_vocabulary(const json_t *v)
{
    const char *file = json_string_value(json_object_get(v, "file"));
    const char *model = getenv("LODGE_TEST_MODEL");
    if (!file)
        return model && *model ? open_gguf(model) : NULL;
    char *path = lodge_path_join(data_dir, file);
    struct lodge_tokenizer *t = NULL;
    if (strstr(file, ".gguf")) {
        t = open_gguf(path);
    } else {
        json_t *root = NULL;
        struct lodge_error e = {0};
        ck_assert_msg(!lodge_json_load_file(path, &root, &e), "%s", e.text);
        ck_assert_msg(!lodge_tokenizer_from_json(root, NULL, path, NULL, 0, &t, &e), "%s", e.text);
        json_decref(root);
    }
    free(path);
    return t;
}

static void encode(const struct lodge_tokenizer *t, const char *s, size_t n, unsigned flags,
                   struct lodge_tokens *out)
{
    struct lodge_error e = {0};
    out->n = 0;
    ck_assert_msg(!lodge_tokenizer_encode(t, s, n, flags, SIZE_MAX, out, &e), "%s", e.text);
}

static bool same_ids(const struct lodge_tokens *got, const json_t *want)
{
    bool same = got->n == json_array_size(want);
    for (size_t i = 0; i < got->n && same; i++)
        same = got->ids[i] == json_integer_value(json_array_get(want, i));
    return same;
}

/* CRC-32 as zlib has it, of little-endian ids. */
static uint32_t checksum(const struct lodge_tokens *ids)
{
    uint32_t crc = UINT32_MAX;
    for (size_t i = 0; i < ids->n * 4; i++) {
        crc ^= (ids->ids[i / 4] >> (8 * (i % 4))) & 255;
        for (int k = 0; k < 8; k++)
            crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
    }
    return ~crc;
}

static void print_ids(const struct lodge_tokenizer *t, const struct lodge_tokens *ids)
{
    for (size_t i = 0; i < ids->n && i < 60; i++) {
        size_t len;
        const char *text = lodge_tokenizer_text(t, ids->ids[i], &len);
        printf(" %u[%.*s]", ids->ids[i], (int)len, text);
    }
    printf("\n");
}

/* Compares with a checksum; what differs is printed, so that all of a vocabulary is seen before it
 * fails. */
static int differs(const struct lodge_tokenizer *t, const char *name, const char *text, size_t n,
                   unsigned flags, const json_t *want)
{
    struct lodge_tokens got = {0};
    encode(t, text, n, flags, &got);
    bool same = checksum(&got) == json_integer_value(want);
    if (!same) {
        printf("%s: \"%.*s\" became", name, (int)(n > 200 ? 200 : n), text);
        print_ids(t, &got);
    }
    lodge_tokens_finish(&got);
    return !same;
}

static int count_different(const struct lodge_tokenizer *t, const char *name, const json_t *texts,
                           unsigned flags, const json_t *sums, size_t skip)
{
    int wrong = 0;
    for (size_t i = 0; i < json_array_size(texts); i++) {
        const json_t *text = json_array_get(texts, i);
        wrong += differs(t, name, json_string_value(text), json_string_length(text), flags,
                         json_array_get(sums, skip + i));
    }
    return wrong;
}

START_TEST(encodes_like_the_libraries)
{
    const json_t *v = vocabulary((size_t)_i), *texts = json_object_get(golden, "texts");
    struct lodge_tokenizer *t = open_vocabulary(v);
    int wrong = 0;
    if (!t)
        return;
    if (json_is_array(member(v, "special")))
        wrong +=
            count_different(t, name_of(v), texts, LODGE_ENCODE_SPECIAL, member(v, "special"), 0);
    wrong += count_different(t, name_of(v), texts, 0, member(v, "plain"), 0);
    wrong += count_different(t, name_of(v), json_object_get(golden, "random"), 0,
                             member(v, "random"), 0);
    lodge_tokenizer_destroy(t);
    ck_assert_int_eq(wrong, 0);
}
END_TEST

static const json_t *pre_entry(size_t i)
{
    return json_array_get(json_object_get(json_object_get(golden, "pre"), "entries"), i);
}

static size_t n_pre_entries(void)
{
    return json_array_size(json_object_get(json_object_get(golden, "pre"), "entries"));
}

static json_t *load_lines(void)
{
    const char *file = json_string_value(json_object_get(json_object_get(golden, "pre"), "file"));
    char *path = lodge_path_join(data_dir, file);
    struct lodge_error e = {0};
    json_t *root = NULL;
    ck_assert_msg(!lodge_json_load_file(path, &root, &e), "%s", e.text);
    free(path);
    return root;
}

static int count_different_pre(const struct lodge_tokenizer *t, const char *name,
                               const json_t *entry)
{
    const json_t *texts = json_object_get(golden, "texts"), *sums = json_object_get(entry, "ids");
    return count_different(t, name, texts, 0, sums, 0) +
           count_different(t, name, json_object_get(golden, "random"), 0, sums,
                           json_array_size(texts));
}

/* The components as tokenizer.json spells them. */
START_TEST(pre_tokenizers_equal_the_library)
{
    json_t *root = load_lines();
    const json_t *entry = pre_entry((size_t)_i);
    struct lodge_tokenizer *t = NULL;
    struct lodge_error e = {0};
    json_object_set(root, "normalizer", json_object_get(entry, "normalizer"));
    json_object_set(root, "pre_tokenizer", json_object_get(entry, "pre_tokenizer"));
    ck_assert_msg(!lodge_tokenizer_from_json(root, NULL, "lines", NULL, 0, &t, &e), "%s", e.text);
    char *shown = json_dumps(json_object_get(entry, "pre_tokenizer"), 0);
    int wrong = count_different_pre(t, shown, entry);
    free(shown);
    lodge_tokenizer_destroy(t);
    json_decref(root);
    ck_assert_int_eq(wrong, 0);
}
END_TEST

/* The same by the names of GGUF. */
static struct lodge_tokenizer *named(const json_t *root, const char *pre, struct lodge_error *e)
{
    const json_t *model = json_object_get(root, "model");
    json_t *vocab = json_object_get(model, "vocab"), *merges = json_object_get(model, "merges"), *v;
    size_t n = json_object_size(vocab), n_merges = json_array_size(merges), i;
    struct lodge_span *tokens = calloc(n, sizeof *tokens), *pairs = calloc(n_merges, sizeof *pairs);
    struct lodge_vocab_source src = {
        .model = "gpt2", .pre = pre, .tokens = tokens, .merges = pairs};
    struct lodge_tokenizer *t = NULL;
    const char *text;
    json_object_foreach(vocab, text, v)
    {
        tokens[json_integer_value(v)] = (struct lodge_span){text, strlen(text)};
    }
    json_array_foreach(merges, i, v)
    {
        char *pair = NULL;
        int len = asprintf(&pair, "%s %s", json_string_value(json_array_get(v, 0)),
                           json_string_value(json_array_get(v, 1)));
        pairs[i] = (struct lodge_span){pair, (size_t)len};
    }
    src.n_tokens = (uint32_t)n;
    src.n_merges = (uint32_t)n_merges;
    src.bos = src.eos = src.unk = src.pad = src.eot = src.eom = -1;
    src.add_bos = src.add_eos = src.add_space_prefix = src.remove_extra_spaces = -1;
    if (lodge_tokenizer_from_vocab(&src, &t, e))
        t = NULL;
    for (i = 0; i < n_merges; i++)
        free((void *)(uintptr_t)pairs[i].data);
    free(tokens);
    free(pairs);
    return t;
}

START_TEST(pre_tokenizers_by_name_equal_the_library)
{
    json_t *root = load_lines(), *name;
    size_t i;
    int wrong = 0;
    json_array_foreach(json_object_get(pre_entry((size_t)_i), "names"), i, name)
    {
        struct lodge_error e = {0};
        struct lodge_tokenizer *t = named(root, json_string_value(name), &e);
        ck_assert_msg(t != NULL, "%s", e.text);
        wrong += count_different_pre(t, json_string_value(name), pre_entry((size_t)_i));
        lodge_tokenizer_destroy(t);
    }
    json_decref(root);
    ck_assert_int_eq(wrong, 0);
}
END_TEST

START_TEST(unknown_names_are_refused)
{
    json_t *root = load_lines();
    struct lodge_error e = {0};
    ck_assert(!named(root, "default", &e));
    ck_assert_msg(strstr(e.text, "'default'") && strstr(e.text, "llama-bpe") &&
                      strstr(e.text, "joyai-llm"),
                  "%s", e.text);
    ck_assert(!named(root, NULL, &e));
    json_decref(root);
}
END_TEST

static size_t unhex(const char *hex, char *out)
{
    size_t n = 0;
    for (unsigned byte; sscanf(hex + 2 * n, "%2x", &byte) == 1; n++)
        out[n] = (char)byte;
    return n;
}

START_TEST(replaces_broken_utf8)
{
    const json_t *v = vocabulary((size_t)_i), *list = json_object_get(golden, "broken");
    struct lodge_tokenizer *t = open_vocabulary(v);
    int wrong = 0;
    if (!t)
        return;
    for (size_t i = 0; i < json_array_size(list); i++) {
        char bytes[64];
        size_t n = unhex(json_string_value(json_array_get(list, i)), bytes);
        wrong += differs(t, name_of(v), bytes, n, 0, json_array_get(member(v, "broken"), i));
    }
    lodge_tokenizer_destroy(t);
    ck_assert_int_eq(wrong, 0);
}
END_TEST

START_TEST(adds_what_the_model_wants)
{
    const json_t *v = vocabulary((size_t)_i);
    struct lodge_tokenizer *t = open_vocabulary(v);
    struct lodge_tokens got = {0};
    if (!t)
        return;
    encode(t, "", 0, LODGE_ENCODE_ADD, &got);
    if (!same_ids(&got, member(v, "affix")))
        print_ids(t, &got);
    ck_assert(same_ids(&got, member(v, "affix")));
    ck_assert_uint_eq(lodge_tokenizer_size(t), (uint64_t)json_integer_value(member(v, "size")));
    lodge_tokens_finish(&got);
    lodge_tokenizer_destroy(t);
}
END_TEST

START_TEST(config_counts_before_the_post_processor)
{
    json_t *list = json_object_get(golden, "configs"), *c;
    size_t i;
    json_array_foreach(list, i, c)
    {
        char *path = lodge_path_join(data_dir, json_string_value(json_object_get(c, "file")));
        struct lodge_tokenizer *t = NULL;
        struct lodge_tokens got = {0};
        struct lodge_error e = {0};
        json_t *root = NULL;
        ck_assert_msg(!lodge_json_load_file(path, &root, &e), "%s", e.text);
        ck_assert_msg(
            !lodge_tokenizer_from_json(root, json_object_get(c, "config"), path, NULL, 0, &t, &e),
            "%s", e.text);
        encode(t, "", 0, LODGE_ENCODE_ADD, &got);
        ck_assert_msg(same_ids(&got, json_object_get(c, "ids")), "configuration %zu", i);
        lodge_tokens_finish(&got);
        lodge_tokenizer_destroy(t);
        json_decref(root);
        free(path);
    }
    ck_assert_uint_gt(i, 10);
}
END_TEST

/* Text of ids, token by token; what each token released must be whole characters. */
static void decode(const struct lodge_tokenizer *t, const json_t *ids, bool keep_special,
                   struct lodge_buf *out)
{
    struct lodge_detok d;
    lodge_detok_init(&d, t, keep_special, true);
    lodge_buf_clear(out);
    for (size_t i = 0; i < json_array_size(ids); i++) {
        size_t before = out->n;
        lodge_detok_push(&d, (uint32_t)json_integer_value(json_array_get(ids, i)), out);
        json_t *whole = json_stringn(lodge_buf_text(out) + before, out->n - before);
        ck_assert_msg(whole != NULL, "a part of a character was released");
        json_decref(whole);
        ck_assert_uint_le(d.n_held, 3);
    }
    lodge_detok_flush(&d, out);
}

START_TEST(decodes_like_the_libraries)
{
    const json_t *v = vocabulary((size_t)_i), *list = member(v, "decode");
    struct lodge_tokenizer *t = open_vocabulary(v);
    struct lodge_buf out;
    int wrong = 0;
    if (!t)
        return;
    lodge_buf_init(&out, 1 << 20);
    for (size_t i = 0; i < json_array_size(list) * 2; i++) {
        const json_t *c = json_array_get(list, i / 2);
        const char *want = json_string_value(json_object_get(c, i % 2 ? "shown" : "text"));
        decode(t, json_object_get(c, "ids"), i % 2 == 0, &out);
        if (strcmp(lodge_buf_text(&out), want) != 0) {
            printf("%s:\n  got:  %s\n  want: %s\n", name_of(v), lodge_buf_text(&out), want);
            wrong++;
        }
    }
    lodge_buf_finish(&out);
    lodge_tokenizer_destroy(t);
    ck_assert_int_eq(wrong, 0);
}
END_TEST

/* What a text decodes to is the text, whatever it holds (SentencePiece adds its space and takes it
 * back). */
START_TEST(round_trips)
{
    const json_t *v = vocabulary((size_t)_i), *texts = json_object_get(golden, "texts");
    const char *name = name_of(v);
    /* These change text by design, or have no bytes to fall back to. */
    static const char *const lossy[] = {
        "qwen2",   "added",         "metaspace",       "qwen2 in GGUF", "mistral",    "gpt2-prefix",
        "unigram", "unigram-words", "unigram in GGUF", "unigram-bytes", "swallowing", "dropping"};
    for (size_t i = 0; i < sizeof lossy / sizeof *lossy; i++)
        if (strcmp(name, lossy[i]) == 0)
            return;
    struct lodge_tokenizer *t = open_vocabulary(v);
    struct lodge_buf out;
    if (!t)
        return;
    lodge_buf_init(&out, 1 << 20);
    for (size_t i = 0; i < json_array_size(texts); i++) {
        const json_t *text = json_array_get(texts, i);
        struct lodge_tokens ids = {0};
        struct lodge_detok d;
        encode(t, json_string_value(text), json_string_length(text), 0, &ids);
        lodge_detok_init(&d, t, true, true);
        lodge_buf_clear(&out);
        for (size_t k = 0; k < ids.n; k++)
            lodge_detok_push(&d, ids.ids[k], &out);
        lodge_detok_flush(&d, &out);
        /* U+2581 is SentencePiece's space. */
        if (!strstr(json_string_value(text), "\xE2\x96\x81"))
            ck_assert_msg(strcmp(lodge_buf_text(&out), json_string_value(text)) == 0,
                          "%s: '%s' became '%s'", name, json_string_value(text),
                          lodge_buf_text(&out));
        lodge_tokens_finish(&ids);
    }
    lodge_buf_finish(&out);
    lodge_tokenizer_destroy(t);
}
END_TEST

static bool is_special(const struct lodge_tokenizer *t, uint32_t id)
{
    size_t n;
    bool special;
    lodge_tokenizer_bytes(t, id, &n, &special);
    return special;
}

static size_t count_special(const struct lodge_tokenizer *t, const struct lodge_tokens *ids)
{
    size_t n = 0;
    for (size_t i = 0; i < ids->n; i++)
        n += is_special(t, ids->ids[i]);
    return n;
}

/* One user text between two control tokens that the template wrote. */
static void check_parts(const struct lodge_tokenizer *t, const char *mark, size_t n_mark,
                        const char *user, size_t n_user)
{
    struct lodge_buf b;
    struct lodge_tokens got = {0}, whole = {0}, alone = {0};
    struct lodge_error e = {0};
    lodge_buf_init(&b, 1 << 20);
    lodge_buf_append(&b, mark, n_mark);
    lodge_buf_append(&b, user, n_user);
    lodge_buf_append(&b, mark, n_mark);
    const struct lodge_text_part parts[] = {
        {0, n_mark, false}, {n_mark, n_mark + n_user, true}, {n_mark + n_user, b.n, false}};
    ck_assert(!lodge_tokenizer_encode_parts(t, b.data, parts, 3, SIZE_MAX, &got, &e));
    encode(t, b.data, b.n, LODGE_ENCODE_SPECIAL, &whole);
    encode(t, user, n_user, LODGE_ENCODE_SPECIAL, &alone);
    ck_assert_msg(count_special(t, &got) == 2, "user text '%s' made a control token", user);
    ck_assert(got.ids[0] == got.ids[got.n - 1] && is_special(t, got.ids[0]));
    /* A harmless text is cut as everywhere else. */
    if (!count_special(t, &alone))
        ck_assert(got.n == whole.n && !memcmp(got.ids, whole.ids, got.n * sizeof *got.ids));
    lodge_tokens_finish(&got);
    lodge_tokens_finish(&whole);
    lodge_tokens_finish(&alone);
    lodge_buf_finish(&b);
}

START_TEST(user_text_makes_no_control_token)
{
    const json_t *v = vocabulary((size_t)_i), *texts = json_object_get(golden, "texts");
    struct lodge_tokenizer *t = open_vocabulary(v);
    /* Where <unk> stands for any character it is no sign of a break-in. */
    if (!t || strcmp(name_of(v), "metaspace") == 0 || strcmp(name_of(v), "unigram") == 0 ||
        strcmp(name_of(v), "unigram-words") == 0 || strcmp(name_of(v), "unigram in GGUF") == 0) {
        lodge_tokenizer_destroy(t);
        return;
    }
    uint32_t id = lodge_tokenizer_size(t);
    while (id-- > 0 && !is_special(t, id))
        ;
    size_t n_mark;
    const char *mark = lodge_tokenizer_text(t, id, &n_mark);
    for (size_t i = 0; i < json_array_size(texts); i++)
        check_parts(t, mark, n_mark, json_string_value(json_array_get(texts, i)),
                    json_string_length(json_array_get(texts, i)));
    /* Half of a control token on either side of the border. */
    check_parts(t, mark, n_mark, mark, n_mark / 2);
    check_parts(t, mark, n_mark, mark + n_mark / 2, n_mark - n_mark / 2);
    lodge_tokenizer_destroy(t);
}
END_TEST

static void run_motif(const struct lodge_tokenizer *t, const char *name, const char *motif,
                      size_t n)
{
    size_t len = strlen(motif), used = n / len * len;
    char *text = calloc(n, 1);
    struct lodge_tokens ids = {0};
    struct lodge_error e = {0};
    for (size_t i = 0; i < used; i++)
        text[i] = motif[i % len];
    int err = lodge_tokenizer_encode(t, text, used, LODGE_ENCODE_SPECIAL, SIZE_MAX, &ids, &e);
    ck_assert_msg(!err, "%s, '%s' x %zu: %s", name, motif, used / len, e.text);
    lodge_tokens_finish(&ids);
    free(text);
}

/* Hostile runs: only an n log n encoder ends within the test's time. Every vocabulary gets every
 * motif at 128 KiB, and each motif goes to one or two at 4 MiB. */
START_TEST(long_runs_end)
{
    static const char *const motifs[] = {
        "a",         " ", "\n",  "\xCC\x81",     "\xCC\x81\xCC\xA3",
        "ab",        "A", "1",   "\xE6\x97\xA5", "\xF0\x9F\x98\x80",
        " \n",       "<", "<|",  "<tag>",        "\xE2\x96\x81",
        "a\xCC\x81", "'", "\t x"};
    bool quick = getenv("LODGE_TEST_SHORT") != NULL;
    const json_t *v = vocabulary((size_t)_i);
    struct lodge_tokenizer *t = open_vocabulary(v);
    for (size_t m = 0; t && m < sizeof motifs / sizeof *motifs; m++) {
        bool big = !quick && m % n_vocabularies() == (size_t)_i;
        run_motif(t, name_of(v), motifs[m], (size_t)(big ? 4096 : quick ? 32 : 128) << 10);
    }
    lodge_tokenizer_destroy(t);
}
END_TEST

/* Marks out of order: sorting them pairwise would take hours. */
START_TEST(long_mark_runs_end)
{
    size_t n = (size_t)(getenv("LODGE_TEST_SHORT") ? 64 : 1024) << 10;
    char *text = calloc(n, 1);
    for (size_t i = 0; i < n; i += 2)
        memcpy(text + i, i < n / 2 ? "\xCC\x81" : "\xCC\xA3", 2);
    for (size_t i = 0; i < n_vocabularies(); i++) {
        const json_t *v = vocabulary(i);
        if (strcmp(name_of(v), "qwen2") != 0 && strcmp(name_of(v), "added") != 0)
            continue;
        struct lodge_tokenizer *t = open_vocabulary(v);
        struct lodge_tokens ids = {0}, turned = {0};
        encode(t, text, n, 0, &ids);
        /* All the later marks belong before the earlier ones. */
        for (size_t k = 0; k < n; k += 2)
            memcpy(text + k, k < n / 2 ? "\xCC\xA3" : "\xCC\x81", 2);
        encode(t, text, n, 0, &turned);
        ck_assert_uint_eq(ids.n, turned.n);
        ck_assert(memcmp(ids.ids, turned.ids, ids.n * sizeof *ids.ids) == 0);
        lodge_tokens_finish(&ids);
        lodge_tokens_finish(&turned);
        lodge_tokenizer_destroy(t);
    }
    free(text);
}
END_TEST

int main(int argc, char **argv)
{
    struct lodge_error e = {0};
    setvbuf(stdout, NULL, _IOLBF, 0); /* a failing test does not flush */
    data_dir = argc > 1 ? argv[1] : "";
    char *path = lodge_path_join(data_dir, "golden.json");
    if (lodge_json_load_file(path, &golden, &e)) {
        printf("%s\n", e.text);
        return 1;
    }
    free(path);
    const char *model = getenv("LODGE_TEST_MODEL");
    if (!model || !*model)
        printf("LODGE_TEST_MODEL is not set: the default model's vocabulary is skipped\n");
    int n = (int)n_vocabularies();
    Suite *s = suite_create("tokenizer");
    TCase *c = tcase_create("all");
    tcase_set_timeout(c, 200);
    tcase_add_loop_test(c, encodes_like_the_libraries, 0, n);
    tcase_add_loop_test(c, pre_tokenizers_equal_the_library, 0, (int)n_pre_entries());
    tcase_add_loop_test(c, pre_tokenizers_by_name_equal_the_library, 0, (int)n_pre_entries());
    tcase_add_test(c, unknown_names_are_refused);
    tcase_add_loop_test(c, replaces_broken_utf8, 0, n);
    tcase_add_loop_test(c, adds_what_the_model_wants, 0, n);
    tcase_add_test(c, config_counts_before_the_post_processor);
    tcase_add_loop_test(c, decodes_like_the_libraries, 0, n);
    tcase_add_loop_test(c, round_trips, 0, n);
    tcase_add_loop_test(c, user_text_makes_no_control_token, 0, n);
    tcase_add_loop_test(c, long_runs_end, 0, n);
    tcase_add_test(c, long_mark_runs_end);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    json_decref(golden);
    return failed ? 1 : 0;
}
