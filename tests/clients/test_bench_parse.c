/* Event streams and chunks, as servers really send them, in any pieces and broken. */
#include "base/utf8.h"
#include "clients/bench/chunk.h"
#include "clients/sse.h"
#include "clients/text.h"
#include "tests/clients/suite.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* ---- event streams ---- */

struct events {
    char text[4096]; /* payloads, each with | behind */
    size_t n;
};

static void on_data(void *cookie, const char *data, size_t n)
{
    struct events *e = cookie;
    ck_assert_uint_lt(e->n + n + 2, sizeof e->text);
    memcpy(e->text + e->n, data, n);
    e->n += n;
    e->text[e->n++] = '|';
    e->text[e->n] = 0;
}

/* Feeds `n` bytes in pieces of `piece`, from memory of exactly that size. */
static struct events feed(const char *bytes, size_t n, size_t piece)
{
    struct events e = {.n = 0};
    struct sse_parser p;
    sse_init(&p, on_data, &e);
    for (size_t at = 0; at < n; at += piece) {
        size_t len = n - at < piece ? n - at : piece;
        char *copy = malloc(len);
        memcpy(copy, bytes + at, len);
        ck_assert_int_eq(sse_feed(&p, copy, len), 0);
        free(copy);
    }
    sse_finish(&p);
    return e;
}

static const struct {
    const char *stream, *events;
} streams[] = {
    {"data: a\n\ndata: b\n\ndata: [DONE]\n\n", "a|b|[DONE]|"},
    {"data: a\r\n\r\ndata: b\r\n\r\n", "a|b|"},
    {": ping\n\ndata: a\n\n:\n\n", "a|"},
    {"event: x\nid: 7\nretry: 5\ndata:a\n\n", "a|"},
    {"data:\n\ndata: \n\ndata:  b\n\n", "||"
                                        " b|"},
    {"data: unfinished", ""},
    {"dat\ndatax: 1\nDATA: 2\n data: 3\n\n\n\n", ""},
    {"data: {\"text\":\"data: x\\n\"}\n\n", "{\"text\":\"data: x\\n\"}|"},
    {"data: h\xc3\xa9\xf0\x9f\x98\x80\n\n", "h\xc3\xa9\xf0\x9f\x98\x80|"},
};

START_TEST(events_in_any_pieces)
{
    for (size_t i = 0; i < COUNT(streams); i++) {
        size_t n = strlen(streams[i].stream);
        for (size_t piece = 1; piece <= n; piece++) {
            struct events e = feed(streams[i].stream, n, piece);
            ck_assert_str_eq(e.text, streams[i].events);
        }
    }
}
END_TEST

START_TEST(events_cut_in_two_everywhere)
{
    static const char stream[] = ": x\r\ndata: one\r\n\r\ndata: two\n\nevent: e\ndata: three\n\n";
    for (size_t cut = 0; cut < sizeof stream; cut++) {
        struct events e = {.n = 0};
        struct sse_parser p;
        sse_init(&p, on_data, &e);
        ck_assert_int_eq(sse_feed(&p, stream, cut), 0);
        ck_assert_int_eq(sse_feed(&p, stream + cut, sizeof stream - 1 - cut), 0);
        ck_assert_str_eq(e.text, "one|two|three|");
        sse_finish(&p);
    }
}
END_TEST

START_TEST(a_reset_forgets_the_unfinished_line)
{
    struct events e = {.n = 0};
    struct sse_parser p;
    sse_init(&p, on_data, &e);
    sse_feed(&p, "data: old", 9);
    sse_reset(&p);
    sse_feed(&p, "data: new\n", 10);
    ck_assert_str_eq(e.text, "new|");
    sse_finish(&p);
}
END_TEST

static void on_size(void *cookie, const char *data, size_t n)
{
    (void)data;
    *(size_t *)cookie = n;
}

START_TEST(giant_lines_have_an_end)
{
    const size_t n = SSE_MAX_LINE + 1;
    char *line = malloc(n + 1);
    size_t seen = 0;
    struct sse_parser p;
    sse_init(&p, on_size, &seen);
    memset(line, 'x', n);
    memcpy(line, "data: ", 6);
    line[1000000] = '\n';
    ck_assert_int_eq(sse_feed(&p, line, 500000), 0);
    ck_assert_int_eq(sse_feed(&p, line + 500000, 500001), 0);
    ck_assert_uint_eq(seen, 1000000 - 6);
    line[1000000] = 'x';
    line[n] = '\n';
    ck_assert_int_ne(sse_feed(&p, line, n + 1), 0);
    sse_reset(&p);
    ck_assert_int_eq(sse_feed(&p, line, n / 2), 0);
    ck_assert_int_ne(sse_feed(&p, line + n / 2, n - n / 2), 0);
    sse_finish(&p);
    free(line);
}
END_TEST

/* ---- chunks ---- */

struct sample {
    const char *json;
    struct bench_chunk expected;
};

static const struct sample samples[] = {
    /* chat: role, content, empty content, finish, usage */
    {"{\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":"
     "[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,"
     "\"finish_reason\":null}],\"usage\":null}",
     {.choice = true}},
    {"{\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hi \\\"usage\\\":{\"},"
     "\"finish_reason\":null}],\"usage\":null}",
     {.choice = true, .text = true}},
    {"{\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}",
     {.choice = true, .finish = true}},
    {"{\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":12,\"total_tokens\":21,"
     "\"prompt_tokens_details\":{\"cached_tokens\":8}}}",
     {.usage = true, .n_input = 9, .n_output = 12, .n_cached = 8}},
    /* reasoning, tool calls */
    {"{\"choices\":[{\"delta\":{\"reasoning_content\":\"hm\",\"content\":null}}]}",
     {.choice = true, .text = true}},
    {"{\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"name\":\"f\"}}]}}]}",
     {.choice = true, .text = true}},
    /* completions; llama-server adds timings; spaces as Python writes them */
    {"{\"choices\":[{\"text\":\" a\",\"index\":0,\"logprobs\":null,\"finish_reason\":null}]}",
     {.choice = true, .text = true}},
    {"{\"choices\": [{\"text\": \"\", \"index\": 0, \"finish_reason\": \"length\"}], \"usage\": "
     "{\"completion_tokens\": 64, \"prompt_tokens\": 5}, \"timings\": {\"predicted_ms\": 1.5e3}}",
     {.choice = true, .finish = true, .usage = true, .n_input = 5, .n_output = 64}},
    {"{\"choices\":[{\"text\":\"\",\"finish_reason\":\"length\"}],\"timings\":{\"cache_n\":3,"
     "\"prompt_n\":5,\"prompt_ms\":1.5,\"predicted_n\":7,\"predicted_ms\":2.5}}",
     {.choice = true, .finish = true, .usage = true, .n_input = 8, .n_output = 7, .n_cached = 3}},
    /* whole reply */
    {"{\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"x\"},"
     "\"finish_reason\":\"length\"}],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}",
     {.choice = true, .text = true, .finish = true, .usage = true, .n_input = 1, .n_output = 2}},
    /* errors */
    {"{\"error\":{\"message\":\"boom\",\"type\":\"server_error\"}}", {.error = true}},
    {"{\"error\":\"boom\"}", {.error = true}},
    {"{\"error\":null,\"choices\":null,\"usage\":null}", {.choice = false}},
    /* names only count where they belong */
    {"{\"x\":{\"usage\":{\"prompt_tokens\":9},\"error\":1},\"y\":\"}]\\\\\"}", {.choice = false}},
    {"{}", {.choice = false}},
    {" \t\r\n{ \"a\" : [ 1 , { } , \"]\" ] } \n", {.choice = false}},
    {"{\"usage\":{\"prompt_tokens\":99999999999999999999,\"completion_tokens\":-1}}",
     {.usage = true}},
};

static bool read_copy(const char *bytes, size_t n, struct bench_chunk *c)
{
    char *copy = malloc(n ? n : 1);
    memcpy(copy, bytes, n);
    bool ok = bench_chunk_read(copy, n, c);
    free(copy);
    return ok;
}

START_TEST(chunks_say_what_they_carry)
{
    for (size_t i = 0; i < COUNT(samples); i++) {
        const struct bench_chunk *x = &samples[i].expected;
        struct bench_chunk c;
        ck_assert_msg(read_copy(samples[i].json, strlen(samples[i].json), &c), "%s",
                      samples[i].json);
        ck_assert_msg(c.choice == x->choice && c.text == x->text && c.finish == x->finish &&
                          c.error == x->error && c.usage == x->usage,
                      "%s", samples[i].json);
        ck_assert_int_eq(c.n_input, x->n_input);
        ck_assert_int_eq(c.n_output, x->n_output);
        ck_assert_int_eq(c.n_cached, x->n_cached);
    }
}
END_TEST

/* What was said and thought, as it stands. */
START_TEST(chunks_carry_texts)
{
    static const char *const cases[][3] = {
        {"{\"choices\":[{\"text\":\" a\\n\\\"b\"}]}", " a\\n\\\"b", ""},
        {"{\"choices\":[{\"delta\":{\"content\":\"x\",\"reasoning_content\":\"y\"}}]}", "x", "y"},
        {"{\"choices\":[{\"delta\":{\"reasoning\":\"hm\",\"content\":null}}]}", "", "hm"},
        {"{\"choices\":[{\"message\":{\"content\":\"h\xc3\xa9\"}}]}", "h\xc3\xa9", ""},
        {"{\"choices\":[],\"text\":\"no\",\"content\":\"no\"}", "", ""},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct bench_chunk c;
        ck_assert(bench_chunk_read(cases[i][0], strlen(cases[i][0]), &c));
        ck_assert_uint_eq(c.said.n, strlen(cases[i][1]));
        ck_assert_uint_eq(c.thought.n, strlen(cases[i][2]));
        ck_assert(!c.said.n || memcmp(c.said.data, cases[i][1], c.said.n) == 0);
        ck_assert(!c.thought.n || memcmp(c.thought.data, cases[i][2], c.thought.n) == 0);
    }
}
END_TEST

START_TEST(cut_chunks_are_refused)
{
    for (size_t i = 0; i < COUNT(samples); i++) {
        size_t n = strlen(samples[i].json);
        while (n && samples[i].json[n - 1] != '}')
            n--;
        for (size_t cut = 0; cut < n; cut++) {
            struct bench_chunk c;
            ck_assert_msg(!read_copy(samples[i].json, cut, &c), "%.*s", (int)cut, samples[i].json);
        }
    }
}
END_TEST

START_TEST(garbage_is_refused)
{
    static const char *const bad[] = {"",
                                      "[DONE]",
                                      "[]",
                                      "null",
                                      "\"x\"",
                                      "{",
                                      "{]",
                                      "{1:2}",
                                      "{\"a\"}",
                                      "{\"a\":}",
                                      "{\"a\":1 2}",
                                      "{}x",
                                      "{\"a\":1,,\"b\":2}",
                                      "{\"a\":\"\\",
                                      "<html>"};
    for (size_t i = 0; i < COUNT(bad); i++) {
        struct bench_chunk c;
        ck_assert_msg(!read_copy(bad[i], strlen(bad[i]), &c), "%s", bad[i]);
    }
}
END_TEST

START_TEST(deep_nests_cost_no_stack)
{
    const size_t n = 4000000;
    char *text = malloc(n);
    struct bench_chunk c;
    memset(text, '[', n);
    memcpy(text, "{\"a\":", 5);
    ck_assert(!bench_chunk_read(text, n, &c));
    free(text);
}
END_TEST

/* ---- text of strangers ---- */

START_TEST(texts_are_cleaned)
{
    static const char *const cases[][2] = {
        {"plain\ttext\n", "plain\ttext\n"},
        {"h\xc3\xa9 \xe4\xbd\xa0 \xf0\x9f\x98\x80", "h\xc3\xa9 \xe4\xbd\xa0 \xf0\x9f\x98\x80"},
        {"a\033[31;1mred\033[0m\033[2J\033[200~b", "aredb"},
        {"x\r\a\b\x7f\xc2\x9by", "xy"},
        {"\xff|\xc3(|\xed\xa0\x80|\xe4\xbd", "\xef\xbf\xbd|\xef\xbf\xbd(|\xef\xbf\xbd\xef\xbf\xbd"
                                             "\xef\xbf\xbd|\xef\xbf\xbd"},
        {"end\033", "end"},
        {"end\033[12", "end"},
        {"\033]0;t\a", "0;t"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct lodge_buf b;
        lodge_buf_init(&b, 1000);
        text_clean(cases[i][0], strlen(cases[i][0]), &b);
        ck_assert_str_eq(lodge_buf_text(&b), cases[i][1]);
        lodge_buf_finish(&b);
    }
}
END_TEST

START_TEST(lines_are_cut_between_characters)
{
    static const char text[] = "a\nb \xf0\x9f\x98\x80\xf0\x9f\x98\x80\xff\xff\xff\xff";
    for (size_t room = 8; room < 40; room++) {
        char *out = malloc(room);
        text_clean_line(text, sizeof text - 1, out, room);
        ck_assert_uint_lt(strlen(out), room);
        ck_assert(lodge_utf8_valid((const uint8_t *)out, strlen(out)));
        ck_assert_int_eq(strncmp(out, "a b ", 4), 0);
        free(out);
    }
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {events_in_any_pieces,
                                  events_cut_in_two_everywhere,
                                  a_reset_forgets_the_unfinished_line,
                                  giant_lines_have_an_end,
                                  chunks_say_what_they_carry,
                                  chunks_carry_texts,
                                  cut_chunks_are_refused,
                                  garbage_is_refused,
                                  deep_nests_cost_no_stack,
                                  texts_are_cleaned,
                                  lines_are_cut_between_characters};
    return run_suite("bench parsing", tests, COUNT(tests));
}
