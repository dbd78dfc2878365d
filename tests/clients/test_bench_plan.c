/* Flags of the bench, and the requests it makes of them. */
#include "clients/bench/load.h"
#include "clients/bench/workload.h"
#include "tests/clients/suite.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_ARGS 24

/* A file with this content; its path is in `path` until the next call. */
static const char *file_of(const char *text)
{
    static char path[64];
    snprintf(path, sizeof path, "/tmp/lodge-bench-%d.jsonl", (int)getpid());
    FILE *f = fopen(path, "w");
    ck_assert(f && fputs(text, f) >= 0 && fclose(f) == 0);
    return path;
}

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
        {"http://x --cv 1 --burstiness 1", "--cv and --burstiness"},
        {"http://x --cv -1", "cv"},
        {"http://x --cv 32", "cv"},
        {"http://x --models m{0..1048576}", "more than 1048576 names"},
        {"http://x --focus a", "no tenant 'a'"},
        {"http://x --check --temperature 0.5", "--temperature"},
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

START_TEST(cv_is_the_same_as_burstiness)
{
    struct bench_options o = flags("http://x --cv 4"), even = flags("http://x --cv 0"),
                         poisson = flags("http://x --cv 1");
    ck_assert_double_eq(o.burstiness, 1.0 / 16);
    ck_assert(isinf(even.burstiness));
    ck_assert_double_eq(poisson.burstiness, 1);
    bench_options_finish(&o);
    bench_options_finish(&even);
    bench_options_finish(&poisson);
}
END_TEST

/* As `echo` of bash writes them. */
START_TEST(names_are_expanded_as_by_bash)
{
    static const char *const cases[][2] = {
        {"a,b", "a b"},
        {"m{0..3}", "m0 m1 m2 m3"},
        {"m{8..11}x", "m8x m9x m10x m11x"},
        {"m{08..11}", "m08 m09 m10 m11"},
        {"m{8..011}", "m008 m009 m010 m011"},
        {"m{00..2}", "m00 m01 m02"},
        {"m{3..1}", "m3 m2 m1"},
        {"m{10..08}", "m10 m09 m08"},
        {"{1..2}-{1..3}", "1-1 1-2 1-3 2-1 2-2 2-3"},
        {"x{5..5}y,z", "x5y z"},
        /* no ranges: themselves */
        {"m{", "m{"},
        {"m{1..}", "m{1..}"},
        {"m{1.2}", "m{1.2}"},
        {"m{1..2", "m{1..2"},
        {"{{1..2}", "{1 {2"},
        {"m{1..2}}", "m1} m2}"},
        {"m{12345678901234567890..2}", "m{12345678901234567890..2}"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        char line[200], got[300] = "";
        snprintf(line, sizeof line, "http://x --models %s", cases[i][0]);
        struct bench_options o = flags(line);
        for (uint32_t k = 0; k < o.models.n; k++)
            snprintf(got + strlen(got), sizeof got - strlen(got), "%s%s", k ? " " : "",
                     o.models.v[k]);
        ck_assert_str_eq(got, cases[i][1]);
        bench_options_finish(&o);
    }
}
END_TEST

START_TEST(names_of_a_file_are_literal)
{
    char line[200];
    snprintf(line, sizeof line, "http://x --models first,@%s --models l{0..1999}",
             file_of("  one\r\n\n\ttwo words \nm{1..2}\n"));
    struct bench_options o = flags(line);
    ck_assert_uint_eq(o.models.n, 4 + 2000);
    ck_assert_str_eq(o.models.v[0], "first");
    ck_assert_str_eq(o.models.v[1], "one");
    ck_assert_str_eq(o.models.v[2], "two words");
    ck_assert_str_eq(o.models.v[3], "m{1..2}");
    ck_assert_str_eq(o.models.v[2003], "l1999");
    bench_options_finish(&o);
    struct lodge_error e = {0};
    snprintf(line, sizeof line, "http://x --models @%s", file_of("\n \n"));
    ck_assert_int_eq(read_flags(line, &o, &e), LODGE_ERR_CONFIG);
    ck_assert_msg(strstr(e.text, "no names in") != NULL, "%s", e.text);
    bench_options_finish(&o);
    remove(file_of(""));
}
END_TEST

/* ---- tenants ---- */

static struct bench_options tenants(const char *text, const char *more)
{
    char line[300];
    snprintf(line, sizeof line, "http://x --tenants %s %s", file_of(text), more);
    return flags(line);
}

START_TEST(tenants_say_what_they_want)
{
    struct bench_options o = tenants("# all of them\n\n"
                                     "a ka rate=2.5 input=7 output=9 # the first\n"
                                     "\tb kb concurrency=3 models=x,y{0..1}\r\n"
                                     "c kc\n"
                                     "d kd rate=1 concurrency=2 models=z",
                                     "--duration 1 --request-rate 6 --models m --focus b");
    const struct bench_tenant *t = o.tenants.v;
    ck_assert_uint_eq(o.tenants.n, 4);
    ck_assert_str_eq(t[0].name, "a");
    ck_assert_str_eq(t[0].api_key, "ka");
    ck_assert(t[0].rate == 2.5 && t[0].concurrency == 0 && t[0].n_input == 7 && t[0].n_output == 9);
    ck_assert(t[1].rate == 0 && t[1].concurrency == 3 && t[1].first_own == 0 && t[1].n_own == 3);
    ck_assert_str_eq(o.tenants.models.v[2], "y1");
    ck_assert(t[2].rate == 6 && t[2].n_own == 0 && t[2].n_input == 0);
    ck_assert(t[3].rate == 1 && t[3].concurrency == 2 && t[3].first_own == 3 && t[3].n_own == 1);
    ck_assert_int_eq(o.focus, 1);
    bench_options_finish(&o);
}
END_TEST

START_TEST(tenants_share_rate_and_clients)
{
    static const int64_t clients[] = {3, 9, 2, 2};
    struct bench_options o = tenants("a k\nb k rate=9\nc k\nd k\n", "--request-rate 6");
    for (uint32_t i = 0; i < 4; i++)
        ck_assert(o.tenants.v[i].rate == (i == 1 ? 9 : 2) && o.tenants.v[i].concurrency == 0);
    bench_options_finish(&o);
    o = tenants("a k\nb k concurrency=9\nc k\nd k\n", "--concurrency 7");
    for (uint32_t i = 0; i < 4; i++)
        ck_assert(o.tenants.v[i].rate == 0 && o.tenants.v[i].concurrency == clients[i]);
    bench_options_finish(&o);
    o = tenants("a k\nb k\n", "--concurrency 1");
    ck_assert(o.tenants.v[0].concurrency == 1 && o.tenants.v[1].concurrency == 1);
    bench_options_finish(&o);
    o = tenants("a k\nb k\n", "");
    ck_assert(o.tenants.v[0].concurrency == 4 && o.tenants.v[1].concurrency == 4);
    bench_options_finish(&o);
}
END_TEST

START_TEST(bad_tenants_say_where)
{
    static const struct {
        const char *text, *flags, *says;
    } bad[] = {
        {"", "", "no tenants"},
        {"# only this\n", "", "no tenants"},
        {"a\n", "", "line 1: tenant 'a' has no key"},
        {"a # secret\n", "", "line 1: tenant 'a' has no key"},
        {"a secret\na other\n", "", "line 2: tenant 'a' a second time"},
        {"a secret x\n", "", "line 1: behind name and key"},
        {"a secret pace=3\n", "", "line 1: 'pace' is none of rate"},
        {"\n\na secret rate=0\n", "", "line 3: rate=0 is not a number above 0"},
        {"a secret rate=inf\n", "", "rate=inf"},
        {"a secret rate=1x\n", "", "rate=1x"},
        {"a secret concurrency=0\n", "", "concurrency=0 is not a whole number"},
        {"a secret concurrency=1.5\n", "", "concurrency=1.5"},
        {"a secret input=99999999999999999999\n", "", "input="},
        {"a secret output=\n", "", "output="},
        {"a secret models=\n", "", "models= is empty"},
        {"a secret models=@/nonexistent\n", "", "/nonexistent"},
        {"a secret rate=1\nb secret concurrency=1\n", "", "--duration"},
        {"a secret\nb secret rate=1\n", "--request-rate inf", "--request-rate inf"},
        {"a secret\n", "--api-key x", "--api-key"},
        {"a secret\n", "--focus b", "no tenant 'b'"},
    };
    for (size_t i = 0; i < COUNT(bad); i++) {
        char line[300];
        struct bench_options o;
        struct lodge_error e = {0};
        snprintf(line, sizeof line, "http://x %s --tenants %s", bad[i].flags, file_of(bad[i].text));
        ck_assert_msg(read_flags(line, &o, &e) != 0, "%s", bad[i].text);
        ck_assert_msg(strstr(e.text, bad[i].says) != NULL, "%s: %s", bad[i].text, e.text);
        ck_assert_msg(!strstr(e.text, "secret"), "%s", e.text);
        bench_options_finish(&o);
    }
    remove(file_of(""));
}
END_TEST

/* Requests are split as the rates, each process ends when its part is sent, and no two tenants
 * have the same one. */
START_TEST(loads_of_tenants)
{
    static const uint64_t n[] = {10, 21, 11, 41}; /* of 83: to 10.4, 31.1, 41.5 and 83 */
    struct bench_options o =
        tenants("a k rate=1\nb k rate=2\nc k rate=1\nd k rate=4 concurrency=5\n",
                "--num-prompts 83 --cv 2");
    struct lodge_error e;
    struct bench_load l;
    ck_assert_int_eq(bench_load_open(&o, 0, &l, &e), 0);
    ck_assert_uint_eq(l.n_lanes, 4);
    ck_assert_uint_eq(l.n_requests, 83);
    for (uint32_t i = 0; i < 4; i++) {
        const struct bench_lane *lane = &l.lanes[i];
        ck_assert(lane->open && lane->tenant == i && lane->first == 0);
        ck_assert_uint_eq(lane->due_s.n, n[i]);
        ck_assert_double_eq_tol(lane->due_s.v[n[i] - 1], (double)n[i] / o.tenants.v[i].rate, 1e-9);
        ck_assert_uint_eq(lane->concurrency, i == 3 ? 5 : UINT64_MAX);
    }
    bench_load_finish(&l);
    bench_options_finish(&o);
    o = tenants("a k rate=50\nb k concurrency=3\nc k rate=50\n", "--duration 20");
    ck_assert_int_eq(bench_load_open(&o, 0, &l, &e), 0);
    for (uint32_t i = 0; i < 3; i += 2)
        ck_assert_double_eq_tol((double)l.lanes[i].due_s.n, 1000, 5 * sqrt(1000));
    ck_assert_double_ne(l.lanes[0].due_s.v[0], l.lanes[2].due_s.v[0]);
    ck_assert(!l.lanes[1].open && l.lanes[1].concurrency == 3 && l.n_requests == UINT64_MAX);
    bench_load_finish(&l);
    bench_options_finish(&o);
    remove(file_of(""));
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

/* Sum of (seen - expected)^2 / expected over 20 groups of 100 of 2000 models, which is below 43.8
 * with probability 0.999 (19 degrees of freedom), and 0 only for turns. */
START_TEST(thousands_of_models_follow_their_law)
{
    static const struct {
        const char *dist;
        double a; /* > 0: P(id < k) = (k/n)^a; 0: harmonic numbers */
    } cases[] = {{"power:0.1", 0.1}, {"power:0.3", 0.3}, {"power:1", 1},
                 {"uniform", 1},     {"zipf:1", 0},      {"round-robin", 1}};
    enum { n_models = 2000, n_groups = 20, n = 40000 };
    for (size_t c = 0; c < COUNT(cases); c++) {
        char line[100];
        struct plan p;
        double below[n_models + 1] = {0}, chi2 = 0;
        int seen[n_groups] = {0};
        snprintf(line, sizeof line, "http://x --models lora{0..1999} --model-dist %s",
                 cases[c].dist);
        open_plan(&p, line, true);
        ck_assert_uint_eq(p.t.n_models, n_models);
        for (int k = 1; k <= n_models; k++)
            below[k] =
                cases[c].a > 0 ? pow((double)k / n_models, cases[c].a) : below[k - 1] + 1.0 / k;
        for (uint64_t i = 0; i < n; i++)
            seen[bench_workload_pick(&p.w, &p.t, 1, 0, i).model / (n_models / n_groups)]++;
        for (int g = 0; g < n_groups; g++) {
            double share = (below[(g + 1) * 100] - below[g * 100]) / below[n_models];
            chi2 += (seen[g] - n * share) * (seen[g] - n * share) / (n * share);
        }
        ck_assert_msg(chi2 < 43.8, "%s: %g", cases[c].dist, chi2);
        ck_assert_msg((chi2 > 1e-9) == (cases[c].dist[0] != 'r'), "%s: %g", cases[c].dist, chi2);
        close_plan(&p);
    }
}
END_TEST

/* Which models there are and how they are drawn changes no prompt. */
START_TEST(draws_of_models_are_apart)
{
    static const char *const lines[] = {"http://x --models a", "http://x --models a{0..1999}",
                                        "http://x --models a{0..99} --model-dist zipf:1",
                                        "http://x --models a{0..99} --model-dist round-robin"};
    json_t *expected = NULL;
    for (size_t i = 0; i < COUNT(lines); i++) {
        struct plan p;
        open_plan(&p, lines[i], true);
        json_t *o = body(&p, 3, 17);
        if (!expected)
            expected = json_deep_copy(json_object_get(o, "prompt"));
        ck_assert(json_equal(json_object_get(o, "prompt"), expected));
        json_decref(o);
        close_plan(&p);
    }
    json_decref(expected);
}
END_TEST

/* Of two models and lengths above and below the middle all four pairs are equally likely. */
START_TEST(models_say_nothing_of_lengths)
{
    const int n = 4000;
    int agree = 0;
    struct plan p;
    open_plan(&p,
              "http://x --models a,b --random-input-len 1 --random-output-len 1000 "
              "--range-ratio 0.5",
              true);
    for (int i = 0; i < n; i++) {
        json_t *o = body(&p, 0, (uint64_t)i);
        bool second = strcmp(json_string_value(json_object_get(o, "model")), "b") == 0;
        agree += second == (json_integer_value(json_object_get(o, "max_tokens")) > 1000);
        json_decref(o);
    }
    ck_assert_double_eq_tol(agree, n / 2, 5 * sqrt(n / 4.0));
    close_plan(&p);
}
END_TEST

/* One request of a tenant, which sees to its key and lengths; returns its model. */
static uint32_t request_of(const struct plan *p, uint32_t tenant, uint64_t index, size_t n_input,
                           int64_t n_output, json_t **prompt)
{
    static const char *const keys[] = {"ka", "kb"};
    struct lodge_buf b;
    struct bench_pick pick;
    lodge_buf_init(&b, BENCH_MAX_BODY);
    ck_assert_int_eq(bench_workload_body(&p->w, &p->t, 0, tenant, index, &b, &pick), 0);
    json_t *o = json_loadb(b.data, b.n, 0, NULL);
    *prompt = json_incref(json_object_get(o, "prompt"));
    ck_assert_uint_eq(pick.tenant, tenant);
    ck_assert_str_eq(pick.api_key, keys[tenant]);
    ck_assert_uint_eq(json_array_size(*prompt), n_input);
    ck_assert_int_eq(json_integer_value(json_object_get(o, "max_tokens")), n_output);
    ck_assert_str_eq(json_string_value(json_object_get(o, "model")), p->t.models[pick.model]);
    json_decref(o);
    lodge_buf_finish(&b);
    return pick.model;
}

START_TEST(tenants_have_models_lengths_and_keys)
{
    const char *models[] = {"m0", "m1", "m2", "m3", "m4", "x", "y", "z"};
    char line[200];
    struct plan p;
    bool seen[2][COUNT(models)] = {{false}};
    snprintf(line, sizeof line, "http://x --models m{0..4} --tenants %s",
             file_of("a ka output=4\nb kb models=x,y,z input=256 output=5\n"));
    open_plan(&p, line, true);
    p.t.models = models;
    p.t.n_models = COUNT(models);
    for (uint64_t i = 0; i < 100; i++) {
        json_t *a, *b;
        seen[0][request_of(&p, 0, i, 256, 4, &a)] = true;
        seen[1][request_of(&p, 1, i, 256, 5, &b)] = true;
        ck_assert(!json_equal(a, b));
        json_decref(a);
        json_decref(b);
    }
    for (size_t m = 0; m < COUNT(models); m++)
        ck_assert(seen[0][m] == (m < 5) && seen[1][m] == (m >= 5));
    p.t.one_key = true;
    p.t.api_key = "other";
    ck_assert_str_eq(bench_workload_pick(&p.w, &p.t, 0, 1, 0).api_key, "other");
    close_plan(&p);
    remove(file_of(""));
}
END_TEST

/* ---- prompts of a file ---- */

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
                                  cv_is_the_same_as_burstiness,
                                  names_are_expanded_as_by_bash,
                                  names_of_a_file_are_literal,
                                  tenants_say_what_they_want,
                                  tenants_share_rate_and_clients,
                                  bad_tenants_say_where,
                                  loads_of_tenants,
                                  requests_are_as_ordered,
                                  requests_for_other_routes,
                                  requests_repeat_and_rounds_do_not,
                                  lengths_spread_and_prefixes_are_shared,
                                  models_are_drawn_as_asked,
                                  thousands_of_models_follow_their_law,
                                  draws_of_models_are_apart,
                                  models_say_nothing_of_lengths,
                                  tenants_have_models_lengths_and_keys,
                                  prompts_of_a_file,
                                  bad_files_say_where,
                                  base_urls};
    return run_suite("bench plan", tests, COUNT(tests));
}
