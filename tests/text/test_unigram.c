/* Unigram against an exhaustive search over random vocabularies with many ties, and what must be
 * refused: kinds of tokenizers by their names, broken vocabularies and character maps. */
#include "base/json.h"
#include "engine/text/tokenizer.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t seed = 1, state;

static uint32_t draw(uint32_t below)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % below;
}

#define MOST_PIECES 64
#define LONGEST_TEXT 60

/* The vocabulary under test: pieces after <unk> and the 256 bytes. */
struct pieces {
    char text[MOST_PIECES][16];
    double score[MOST_PIECES];
    size_t n;
    double least;
};

static void draw_word(char *out, uint32_t most)
{
    static const char *const letters[] = {"a", "b", "ab", "c", "\xC3\xA9"};
    *out = 0;
    for (uint32_t i = draw(most) + 1; i > 0; i--)
        strcat(out, letters[draw(4 + (draw(3) == 0))]);
}

static json_t *draw_vocabulary(struct pieces *p)
{
    json_t *vocab = json_array();
    char byte[8];
    p->n = 0;
    p->least = -3;
    json_array_append_new(vocab, json_pack("[s,f]", "<unk>", 0.0));
    for (int i = 0; i < 256; i++) {
        snprintf(byte, sizeof byte, "<0x%02X>", i);
        json_array_append_new(vocab, json_pack("[s,f]", byte, -3.0));
    }
    for (uint32_t i = draw(MOST_PIECES); i > 0; i--) {
        double score = -(double)draw(8) / 2;
        draw_word(p->text[p->n], 4);
        bool known = false;
        for (size_t k = 0; k < p->n; k++)
            known |= strcmp(p->text[k], p->text[p->n]) == 0;
        if (known)
            continue;
        json_array_append_new(vocab, json_pack("[s,f]", p->text[p->n], score));
        p->least = fmin(p->least, score);
        p->score[p->n++] = score;
    }
    return json_pack("{s:{s:s,s:i,s:b,s:o}}", "model", "type", "Unigram", "unk_id", 0,
                     "byte_fallback", 1, "vocab", vocab);
}

static size_t char_bytes(const char *s)
{
    return (uint8_t)*s == 0xC3 ? 2 : 1;
}

/* The highest sum of scores of any cut of the text. */
static double best_sum(const struct pieces *p, const char *text)
{
    double best[LONGEST_TEXT * 2 + 1];
    size_t n = strlen(text);
    best[n] = 0;
    for (size_t at = n; at-- > 0;) {
        size_t one = char_bytes(text + at);
        best[at] = at + one <= n ? best[at + one] + p->least - 10 : -HUGE_VAL;
        for (size_t k = 0; k < p->n; k++) {
            size_t len = strlen(p->text[k]);
            if (strncmp(text + at, p->text[k], len) == 0)
                best[at] = fmax(best[at], best[at + len] + p->score[k]);
        }
    }
    return best[0];
}

/* The sum that the ids stand for; they must spell the text. */
static double sum_of(const struct pieces *p, const char *text, const struct lodge_tokens *ids)
{
    double sum = 0;
    for (size_t i = 0; i < ids->n; i++) {
        uint32_t id = ids->ids[i];
        ck_assert_uint_ge(id, 1);
        if (id > 256) {
            const char *piece = p->text[id - 257];
            ck_assert(strncmp(text, piece, strlen(piece)) == 0);
            text += strlen(piece);
            sum += p->score[id - 257];
            continue;
        }
        ck_assert_uint_eq(id - 1, (uint8_t)*text);
        sum += ((uint8_t)*text & 0xC0) == 0x80 ? 0 : p->least - 10;
        text++;
    }
    ck_assert(*text == 0);
    return sum;
}

START_TEST(finds_the_highest_sum)
{
    for (int round = 0; round < 300; round++) {
        struct pieces p;
        struct lodge_tokenizer *t = NULL;
        struct lodge_error e = {0};
        state = seed + (uint64_t)round * 7919;
        json_t *doc = draw_vocabulary(&p);
        ck_assert_msg(!lodge_tokenizer_from_json(doc, NULL, "drawn", NULL, 0, &t, &e), "%s",
                      e.text);
        for (int i = 0; i < 20; i++) {
            char text[LONGEST_TEXT * 2 + 1];
            struct lodge_tokens ids = {0};
            draw_word(text, LONGEST_TEXT / 2);
            ck_assert(!lodge_tokenizer_encode(t, text, strlen(text), 0, SIZE_MAX, &ids, &e));
            ck_assert_msg(fabs(sum_of(&p, text, &ids) - best_sum(&p, text)) < 1e-9,
                          "LODGE_TEST_SEED=%llu, round %d: '%s'", (unsigned long long)seed, round,
                          text);
            lodge_tokens_finish(&ids);
        }
        lodge_tokenizer_destroy(t);
        json_decref(doc);
    }
}
END_TEST

/* A text that cannot be cut in linear time by a walk over all pieces at every position. */
START_TEST(long_pieces_end)
{
    char piece[201] = {0};
    json_t *vocab = json_array();
    json_array_append_new(vocab, json_pack("[s,f]", "<unk>", 0.0));
    for (size_t n = 1; n <= 200; n++) {
        memset(piece, 'a', n);
        json_array_append_new(vocab, json_pack("[s,f]", piece, -1.0 - 1e-3 * (double)n));
    }
    json_t *doc =
        json_pack("{s:{s:s,s:i,s:o}}", "model", "type", "Unigram", "unk_id", 0, "vocab", vocab);
    struct lodge_tokenizer *t = NULL;
    struct lodge_tokens ids = {0};
    struct lodge_error e = {0};
    size_t n = (size_t)200 << 10;
    char *text = malloc(n);
    memset(text, 'a', n);
    ck_assert_msg(!lodge_tokenizer_from_json(doc, NULL, "long", NULL, 0, &t, &e), "%s", e.text);
    ck_assert(!lodge_tokenizer_encode(t, text, n, 0, SIZE_MAX, &ids, &e));
    ck_assert_uint_eq(ids.n, 1024);
    lodge_tokens_finish(&ids);
    lodge_tokenizer_destroy(t);
    json_decref(doc);
    free(text);
}
END_TEST

static const struct {
    const char *json, *named;
} refused[] = {
    {"{'model':{'type':'WordPiece','vocab':{'a':0}}}", "WordPiece"},
    {"{'model':{'type':'WordLevel','vocab':{'a':0}}}", "WordLevel"},
    {"{'model':{'type':'Unigram','vocab':{'a':0}}}", "no vocabulary"},
    {"{'model':{'type':'Unigram','vocab':[['a',0]]}}", "unk_id"},
    {"{'model':{'type':'Unigram','unk_id':1,'vocab':[['a',0]]}}", "unk_id"},
    {"{'model':{'type':'Unigram','unk_id':0,'vocab':[['a']]}}", "entry 0"},
    {"{'model':{'type':'Unigram','unk_id':0,'vocab':[['a',0],['b','x']]}}", "entry 1"},
    {"{'pre_tokenizer':{'type':'ByteLevel'},'model':{'type':'Unigram','unk_id':0,"
     "'vocab':[['a',0]]}}",
     "ByteLevel"},
    {"{'pre_tokenizer':{'type':'Sequence','pretokenizers':[{'type':'ByteLevel'},"
     "{'type':'Digits'}]},'model':{'type':'BPE','vocab':{'a':0},'merges':[]}}",
     "Digits"},
    {"{'model':{'type':'BPE','vocab':{'a':0},'merges':[],'end_of_word_suffix':'</w>'}}",
     "end_of_word_suffix"},
    {"{'normalizer':{'type':'BertNormalizer'},'model':{'vocab':{'a':0},'merges':[]}}",
     "BertNormalizer"},
    {"{'normalizer':{'type':'Precompiled','precompiled_charsmap':'AAAA'},"
     "'model':{'vocab':{'a':0},'merges':[]}}",
     "character map"},
    {"{'normalizer':{'type':'Precompiled','precompiled_charsmap':'////////'},"
     "'model':{'vocab':{'a':0},'merges':[]}}",
     "character map"},
    {"{'normalizer':{'type':'Precompiled','precompiled_charsmap':'no base64!'},"
     "'model':{'vocab':{'a':0},'merges':[]}}",
     "character map"},
    {"{'pre_tokenizer':{'type':'UnicodeScripts'},'model':{'vocab':{'a':0},'merges':[]}}",
     "UnicodeScripts"},
    {"{'pre_tokenizer':{'type':'Split','behavior':'Isolated','pattern':{'Regex':'[a&&[b]]'}},"
     "'model':{'vocab':{'a':0},'merges':[]}}",
     "intersection"},
    {"{'pre_tokenizer':{'type':'Split','behavior':'Isolated','pattern':{'Regex':'a[b[c]]'}},"
     "'model':{'vocab':{'a':0},'merges':[]}}",
     "class inside a class"},
    {"{'pre_tokenizer':{'type':'Split','behavior':'Isolated','pattern':{'Regex':'a{2}+'}},"
     "'model':{'vocab':{'a':0},'merges':[]}}",
     "counted"},
    {"{'pre_tokenizer':{'type':'Split','behavior':'Isolated','pattern':{'Regex':'(a'}},"
     "'model':{'vocab':{'a':0},'merges':[]}}",
     "compiled"},
    {"{'decoder':{'type':'WordPiece'},'model':{'vocab':{'a':0},'merges':[]}}", "WordPiece"},
    {"{'model':{'vocab':{'a':0},'merges':[]},'decoder':{'type':'Replace','pattern':{'String':'a'},'"
     "content':'b'}}",
     "'Replace'"},
    {"{'model':{'vocab':{'a':0},'merges':[]},'decoder':{'type':'Sequence','decoders':[{'type':'"
     "Strip','content':' ','start':1,'stop':0},{'type':'Fuse'}]}}",
     "'Strip'"},
    {"{'model':{'vocab':{'a':0},'merges':[]},'decoder':{'type':'Sequence','decoders':[{'type':'"
     "Fuse'},{'type':'Metaspace','replacement':'\xE2\x96\x81'}]}}",
     "'Metaspace'"},
    {"{'model':{'vocab':{'a':0},'merges':[]},'decoder':{'type':'ByteLevel'}}", "'ByteLevel'"},
    {"{'model':{'vocab':{'a':0},'merges':[]},'pre_tokenizer':{'type':'ByteLevel'},'decoder':{'type'"
     ":'Metaspace'}}",
     "'Metaspace'"},
    {"{'model':{'vocab':{'a':0},'merges':[]},'pre_tokenizer':{'type':'ByteLevel'},'decoder':{'type'"
     ":'Fuse'}}",
     "'Fuse'"},
    {"{'model':{'vocab':{'a':0},'merges':[]},'post_processor':{'type':'Sequence','processors':[{'"
     "type':'TemplateProcessing','single':[{'SpecialToken':{'id':'a'}},{'Sequence':{'id':'A'}}],'"
     "special_tokens':{'a':{'ids':[0]}}},{'type':'TemplateProcessing','single':[{'SpecialToken':{'"
     "id':'a'}},{'Sequence':{'id':'A'}}],'special_tokens':{'a':{'ids':[0]}}}]}}",
     "behind another"},
    {"{'model':{'vocab':{'a':0},'merges':[]},'pre_tokenizer':{'type':'Split','behavior':'Isolated',"
     "'pattern':{'Regex':'(?s:a)'}}}",
     "an option other"},
    {"{'model':{'vocab':{'a':0},'merges':[]},'pre_tokenizer':{'type':'Split','behavior':'Isolated',"
     "'pattern':{'Regex':'a(?i)b'}}}",
     "in the middle"},
    {"{'model':{'vocab':{'a':0},'merges':[]},'pre_tokenizer':{'type':'Split','behavior':'Isolated',"
     "'pattern':{'Regex':'a{2}?'}}}",
     "'?' behind a counted"},
    {"{'model':{'vocab':{'a':0},'merges':[]},'pre_tokenizer':{'type':'Split','behavior':'Isolated',"
     "'pattern':{'Regex':'(*UCP)a'}}}",
     "a verb"},
    {"{'model':{'vocab':{'a':0},'merges':[]},'pre_tokenizer':{'type':'Split','behavior':'Isolated',"
     "'pattern':{'Regex':'[[:alpha:]]'}}}",
     "POSIX"},
    {"{'post_processor':{'type':'BertProcessing'},'model':{'vocab':{'a':0},'merges':[]}}",
     "BertProcessing"},
};

START_TEST(refuses_by_name)
{
    struct lodge_tokenizer *t = NULL;
    struct lodge_error e = {0};
    char *text = strdup(refused[_i].json);
    for (char *c = text; *c; c++)
        *c = *c == '\'' ? '"' : *c;
    json_t *doc = json_loads(text, 0, NULL);
    ck_assert_msg(doc != NULL, "%s", text);
    ck_assert_msg(lodge_tokenizer_from_json(doc, NULL, "made", NULL, 0, &t, &e), "%s", text);
    ck_assert_msg(strstr(e.text, refused[_i].named), "%s: %s", text, e.text);
    json_decref(doc);
    free(text);
}
END_TEST

START_TEST(refuses_gguf_models_by_name)
{
    static const char *const models[] = {"bert", "rwkv", "gemma4", "plamo2", "none", ""};
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        const struct lodge_span token = {"a", 1};
        const struct lodge_vocab_source src = {.model = models[i], .n_tokens = 1, .tokens = &token};
        struct lodge_tokenizer *t = NULL;
        struct lodge_error e = {0};
        char quoted[16];
        snprintf(quoted, sizeof quoted, "'%s'", models[i]);
        ck_assert_int_eq(lodge_tokenizer_from_vocab(&src, &t, &e), LODGE_ERR_UNSUPPORTED);
        ck_assert_msg(strstr(e.text, quoted), "%s", e.text);
    }
}
END_TEST

/* Any bytes are a map or are refused; a map of any bytes reads nothing outside itself. */
START_TEST(hostile_character_maps_end)
{
    static const char text[] = "ab\xC3\xA9 \xE6\x97\xA5\xCC\x81 abc \r\n";
    const struct lodge_span tokens[] = {{"<unk>", 5}, {"a", 1}};
    const float scores[] = {0, -1};
    const int32_t types[] = {2, 1};
    state = seed;
    for (int round = 0; round < 3000; round++) {
        uint8_t map[64];
        uint32_t n = draw(sizeof map), units = draw(16);
        for (uint32_t i = 0; i < n; i++)
            map[i] = draw(2) ? (uint8_t)draw(256) : (uint8_t)text[draw(8)];
        if (n >= 4)
            memcpy(map, (const uint8_t[]){(uint8_t)(units * 4), 0, 0, 0}, 4);
        struct lodge_vocab_source src = {.model = "t5",
                                         .n_tokens = 2,
                                         .tokens = tokens,
                                         .scores = scores,
                                         .types = types,
                                         .unk = 0,
                                         .remove_extra_spaces = 1,
                                         .charsmap = {(const char *)map, n}};
        struct lodge_tokenizer *t = NULL;
        struct lodge_tokens ids = {0};
        struct lodge_error e = {0};
        if (!lodge_tokenizer_from_vocab(&src, &t, &e))
            lodge_tokenizer_encode(t, text, sizeof text - 1, 0, SIZE_MAX, &ids, &e);
        lodge_tokens_finish(&ids);
        lodge_tokenizer_destroy(t);
    }
}
END_TEST

int main(void)
{
    const char *given = getenv("LODGE_TEST_SEED");
    seed = given ? strtoull(given, NULL, 10) : seed;
    printf("LODGE_TEST_SEED=%llu\n", (unsigned long long)seed);
    Suite *s = suite_create("unigram");
    TCase *c = tcase_create("all");
    tcase_set_timeout(c, 100);
    tcase_add_test(c, finds_the_highest_sum);
    tcase_add_test(c, long_pieces_end);
    tcase_add_loop_test(c, refuses_by_name, 0, (int)(sizeof refused / sizeof *refused));
    tcase_add_test(c, refuses_gguf_models_by_name);
    tcase_add_test(c, hostile_character_maps_end);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
