/* Flags of the bench, and the requests it makes of them. */
#include "clients/bench/workload.h"
#include "tests/clients/suite.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_ARGS 24

/* ---- flags ---- */

/* Splits at spaces; 0 or the error of bench_options_read. */
static int read_flags(const char *line, struct bench_options *o, struct lodge_error *e)
{
    char *argv[MAX_ARGS], *copy = strdup(line), *rest = copy;
    int argc = 0;
    for (char *word; (word = strsep(&rest, " "));)
        if (*word && argc < MAX_ARGS)
            argv[argc++] = word;
    int err = bench_options_read(argc, argv, o, e);
    free(copy);
    return err;
}

static struct bench_options flags(const char *line)
{
    struct bench_options o;
    struct lodge_error e = {0};
    ck_assert_msg(read_flags(line, &o, &e) == 0, "%s: %s", line, e.text);
    return o;
}

START_TEST(flags_and_their_other_names)
{
    struct bench_options o =
        flags("http://x --max-concurrency 3 --num-warmups=7 --random-range-ratio 0.5 "
              "--random-prefix-len 9 --metric-percentiles 25,99.9 --percentile-metrics ttft,e2el "
              "--models a,b --models c --model-dist zipf:1.5 --goodput ttft:20 e2el:30");
    ck_assert_int_eq(o.concurrency, 3);
    ck_assert_int_eq(o.n_warmup, 7);
    ck_assert_double_eq(o.range_ratio, 0.5);
    ck_assert_int_eq(o.prefix_len, 9);
    ck_assert_uint_eq(o.n_percentiles, 2);
    ck_assert_double_eq(o.percentiles[1], 99.9);
    ck_assert(o.show[BENCH_TTFT] && o.show[BENCH_E2EL] && !o.show[BENCH_ITL]);
    ck_assert_uint_eq(o.models.n, 3);
    ck_assert_str_eq(o.models.v[2], "c");
    ck_assert(o.spread == BENCH_ZIPF && o.spread_parameter == 1.5);
    ck_assert_double_eq(o.goodput_ms[BENCH_E2EL], 30);
    bench_options_finish(&o);
    o = flags("http://x");
    ck_assert(o.concurrency == 8 && !o.rate_text && o.show[BENCH_ITL] && o.n_percentiles == 4);
    bench_options_finish(&o);
    o = flags("http://x --request-rate inf --num-prompts 5");
    ck_assert(o.concurrency == 0 && isinf(o.rate));
    bench_options_finish(&o);
}
END_TEST

START_TEST(wrong_flags_say_which)
{
    static const char *const wrong[][2] = {
        {"", "URL"},
        {"http://x http://y", "URL"},
        {"http://x --request-rate 0", "request-rate"},
        {"http://x --request-rate x", "request-rate"},
        {"http://x --request-rate inf --duration 5", "request-rate"},
        {"http://x --goodput ttft", "goodput"},
        {"http://x --goodput itl:5", "goodput"},
        {"http://x --goodput ttft:-5", "goodput"},
        {"http://x --percentile-metrics foo", "percentile-metrics"},
        {"http://x --metric-percentiles 101", "metric-percentiles"},
        {"http://x --metric-percentiles 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17",
         "metric-percentiles"},
        {"http://x --model-dist zipf", "model-dist"},
        {"http://x --model-dist zipf:0", "model-dist"},
        {"http://x --model-dist uniformly", "model-dist"},
        {"http://x --repeats 3", "repeats"},
        {"http://x --endpoint chat --prompt-kind ids", "prompt-kind"},
        {"http://x --burstiness 0", "burstiness"},
        {"http://x --range-ratio 2", "range-ratio"},
        {"http://x --frob", "frob"},
    };
    for (size_t i = 0; i < COUNT(wrong); i++) {
        struct bench_options o;
        struct lodge_error e = {0};
        int err = read_flags(wrong[i][0], &o, &e);
        ck_assert_msg(err == LODGE_ERR_CONFIG, "%s: %d", wrong[i][0], err);
        ck_assert_msg(strstr(e.text, wrong[i][1]) != NULL, "%s: %s", wrong[i][0], e.text);
        bench_options_finish(&o);
    }
}
END_TEST

/* ---- requests ---- */

struct plan {
    struct bench_options o;
    struct bench_workload w;
    struct bench_target t;
    const char *model;
};

static void open_plan(struct plan *p, const char *line, bool ids)
{
    struct lodge_error e = {0};
    *p = (struct plan){.o = flags(line), .model = "m\"1"};
    ck_assert_msg(bench_workload_open(&p->o, &p->w, &e) == 0, "%s", e.text);
    p->w.ids = ids;
    p->t = (struct bench_target){.options = &p->o,
                                 .models = p->o.models.n ? p->o.models.v : &p->model,
                                 .n_shared = p->o.models.n ? p->o.models.n : 1};
    p->t.n_models = p->t.n_shared;
}

static void close_plan(struct plan *p)
{
    bench_workload_close(&p->w);
    bench_options_finish(&p->o);
}

/* The body as jansson understands it. */
static json_t *body(const struct plan *p, uint32_t round, uint64_t index)
{
    struct lodge_buf b;
    struct bench_pick pick;
    lodge_buf_init(&b, BENCH_MAX_BODY);
    ck_assert_int_eq(bench_workload_body(&p->w, &p->t, round, 0, index, &b, &pick), 0);
    json_t *o = json_loadb(b.data, b.n, JSON_REJECT_DUPLICATES, NULL);
    ck_assert_msg(o != NULL, "%s", b.data);
    ck_assert_str_eq(json_string_value(json_object_get(o, "model")), p->t.models[pick.model]);
    lodge_buf_finish(&b);
    return o;
}

START_TEST(requests_are_as_ordered)
{
    struct plan p;
    open_plan(&p,
              "http://x --random-input-len 40 --random-output-len 10 --vocab-size 1000 "
              "--extra-body {\"top_k\":1,\"x\":{\"y\":[]}}",
              true);
    json_t *o = body(&p, 0, 3);
    const json_t *prompt = json_object_get(o, "prompt");
    ck_assert_uint_eq(json_array_size(prompt), 40);
    for (size_t i = 0; i < 40; i++) {
        json_int_t id = json_integer_value(json_array_get(prompt, i));
        ck_assert(id >= 256 && id < 1000);
    }
    ck_assert_int_eq(json_integer_value(json_object_get(o, "max_tokens")), 10);
    ck_assert_int_eq(json_integer_value(json_object_get(o, "top_k")), 1);
    ck_assert(json_is_true(json_object_get(o, "stream")));
    ck_assert(json_is_true(json_object_get(o, "ignore_eos")));
    ck_assert(json_is_true(json_object_get(json_object_get(o, "stream_options"), "include_usage")));
    json_decref(o);
    close_plan(&p);
}
END_TEST

START_TEST(requests_for_other_routes)
{
    struct plan p;
    open_plan(&p, "http://x --endpoint chat --no-stream --no-ignore-eos --random-input-len 5",
              false);
    json_t *o = body(&p, 0, 0);
    const char *role, *content;
    ck_assert_int_eq(
        json_unpack(o, "{s:[{s:s,s:s!}!]}", "messages", "role", &role, "content", &content), 0);
    ck_assert_str_eq(role, "user");
    int spaces = 0;
    for (; *content; content++)
        spaces += *content == ' ';
    ck_assert_int_eq(spaces, 5);
    ck_assert(!json_object_get(o, "stream") && !json_object_get(o, "ignore_eos"));
    ck_assert(!json_object_get(o, "stream_options") && !json_object_get(o, "prompt"));
    json_decref(o);
    close_plan(&p);
}
END_TEST

START_TEST(requests_repeat_and_rounds_do_not)
{
    for (int kind = 0; kind < 2; kind++) {
        struct plan p;
        open_plan(&p, "http://x --random-input-len 12 --range-ratio 0.5", kind == 0);
        json_t *a = body(&p, 2, 9), *same = body(&p, 2, 9), *next = body(&p, 2, 10),
               *round = body(&p, 3, 9);
        ck_assert(json_equal(a, same));
        ck_assert(!json_equal(json_object_get(a, "prompt"), json_object_get(next, "prompt")));
        ck_assert(!json_equal(json_object_get(a, "prompt"), json_object_get(round, "prompt")));
        json_decref(a);
        json_decref(same);
        json_decref(next);
        json_decref(round);
        close_plan(&p);
    }
}
END_TEST

START_TEST(lengths_spread_and_prefixes_are_shared)
{
    struct plan p;
    size_t least = SIZE_MAX, most = 0;
    open_plan(&p, "http://x --random-input-len 10 --range-ratio 0.5 --prefix-len 6", true);
    json_t *first = body(&p, 1, 0), *other_round = body(&p, 2, 0);
    for (uint64_t i = 0; i < 500; i++) {
        json_t *o = body(&p, 1, i);
        const json_t *prompt = json_object_get(o, "prompt");
        size_t n = json_array_size(prompt) - 6;
        least = n < least ? n : least;
        most = n > most ? n : most;
        for (size_t k = 0; k < 6; k++)
            ck_assert(json_equal(json_array_get(prompt, k),
                                 json_array_get(json_object_get(first, "prompt"), k)));
        json_decref(o);
    }
    ck_assert_uint_eq(least, 5);
    ck_assert_uint_eq(most, 15);
    ck_assert(!json_equal(json_array_get(json_object_get(first, "prompt"), 0),
                          json_array_get(json_object_get(other_round, "prompt"), 0)));
    json_decref(first);
    json_decref(other_round);
    close_plan(&p);
}
END_TEST

/* How often each of four models is drawn, against the closed form of each distribution. */
START_TEST(models_are_drawn_as_asked)
{
    static const struct {
        const char *flags;
        double share[4];
    } cases[] = {
        {"uniform", {0.25, 0.25, 0.25, 0.25}},
        {"round-robin", {0.25, 0.25, 0.25, 0.25}},
        /* 1/rank over 25/12 */
        {"zipf:1", {12 / 25.0, 6 / 25.0, 4 / 25.0, 3 / 25.0}},
        /* P(U^(1/2) < (i+1)/4) = ((i+1)/4)^2 */
        {"power:2", {1 / 16.0, 3 / 16.0, 5 / 16.0, 7 / 16.0}},
    };
    const int n = 20000;
    for (size_t c = 0; c < COUNT(cases); c++) {
        char line[100];
        int seen[4] = {0};
        struct plan p;
        snprintf(line, sizeof line, "http://x --models a,b,c,d --model-dist %s", cases[c].flags);
        open_plan(&p, line, true);
        for (int i = 0; i < n; i++)
            seen[bench_workload_pick(&p.w, &p.t, 0, 0, (uint64_t)i).model]++;
        for (int k = 0; k < 4; k++)
            ck_assert_double_eq_tol(seen[k], n * cases[c].share[k],
                                    5 * sqrt(n * cases[c].share[k]));
        close_plan(&p);
    }
}
END_TEST

/* ---- prompts of a file ---- */

/* A file with this content; its path is in `path` until the next call. */
static const char *file_of(const char *text)
{
    static char path[64];
    snprintf(path, sizeof path, "/tmp/lodge-bench-%d.jsonl", (int)getpid());
    FILE *f = fopen(path, "w");
    ck_assert(f && fputs(text, f) >= 0 && fclose(f) == 0);
    return path;
}

START_TEST(prompts_of_a_file)
{
    char line[200];
    struct plan p;
    snprintf(line, sizeof line, "http://x --num-prompts 2 --random-output-len 9 --prompts %s",
             file_of("{\"prompt\":\"one \\u00e9\",\"max_tokens\":3}\n\n{\"prompt\":[5,6]}\r\n"
                     "{\"prompt\":\"three\"}\n"));
    open_plan(&p, line, false);
    json_t *a = body(&p, 0, 0), *b = body(&p, 0, 1), *c = body(&p, 1, 0), *d = body(&p, 1, 1);
    ck_assert_str_eq(json_string_value(json_object_get(a, "prompt")), "one \xc3\xa9");
    ck_assert_int_eq(json_integer_value(json_object_get(a, "max_tokens")), 3);
    ck_assert_uint_eq(json_array_size(json_object_get(b, "prompt")), 2);
    ck_assert_int_eq(json_integer_value(json_object_get(b, "max_tokens")), 9);
    ck_assert_str_eq(json_string_value(json_object_get(c, "prompt")), "three");
    ck_assert(json_equal(json_object_get(d, "prompt"), json_object_get(a, "prompt")));
    json_t *all[] = {a, b, c, d};
    for (int i = 0; i < 4; i++)
        json_decref(all[i]);
    close_plan(&p);
}
END_TEST

START_TEST(bad_files_say_where)
{
    static const struct {
        const char *text, *flags, *says;
    } bad[] = {{"", "", "no prompts"},
               {"{\"prompt\":\"x\"}\n{\"prompt\":\n", "", "line 2"},
               {"[]\n", "", "line 1"},
               {"{\"prompt\":5}\n", "", "line 1"},
               {"{\"messages\":[]}\n", "", "needs a 'prompt'"},
               {"{\"prompt\":[1]}\n", "--endpoint chat", "'messages'"},
               {"{\"prompt\":\"x\",\"max_tokens\":0}\n", "", "max_tokens"}};
    for (size_t i = 0; i < COUNT(bad); i++) {
        char line[200];
        struct bench_workload w;
        struct lodge_error e = {0};
        snprintf(line, sizeof line, "http://x %s --prompts %s", bad[i].flags, file_of(bad[i].text));
        struct bench_options o = flags(line);
        ck_assert_int_ne(bench_workload_open(&o, &w, &e), 0);
        ck_assert_msg(strstr(e.text, bad[i].says) != NULL, "%s", e.text);
        bench_workload_close(&w);
        bench_options_finish(&o);
    }
    remove(file_of(""));
}
END_TEST

START_TEST(base_urls)
{
    static const char *const urls[][2] = {
        {"http://h:1", "http://h:1"},    {"http://h:1/", "http://h:1"},
        {"http://h:1/v1", "http://h:1"}, {"http://h:1/v1/", "http://h:1"},
        {"h:1", "http://h:1"},           {"https://h/api/v1", "https://h/api"}};
    char out[64], small[8];
    struct lodge_error e;
    for (size_t i = 0; i < COUNT(urls); i++) {
        ck_assert_int_eq(http_base_url(urls[i][0], out, sizeof out, &e), 0);
        ck_assert_str_eq(out, urls[i][1]);
    }
    ck_assert_int_eq(http_base_url("", out, sizeof out, &e), LODGE_ERR_CONFIG);
    ck_assert_int_eq(http_base_url("http://long", small, sizeof small, &e), LODGE_ERR_CONFIG);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {flags_and_their_other_names,
                                  wrong_flags_say_which,
                                  requests_are_as_ordered,
                                  requests_for_other_routes,
                                  requests_repeat_and_rounds_do_not,
                                  lengths_spread_and_prefixes_are_shared,
                                  models_are_drawn_as_asked,
                                  prompts_of_a_file,
                                  bad_files_say_where,
                                  base_urls};
    return run_suite("bench plan", tests, COUNT(tests));
}
