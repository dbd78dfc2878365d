/* Statistics, random numbers, arrivals, figures and ratios of the bench, against closed forms. */
#include "clients/bench/arrivals.h"
#include "clients/bench/compare.h"
#include "clients/bench/random.h"
#include "clients/bench/report.h"
#include "tests/clients/suite.h"

#include <math.h>
#include <stdlib.h>

#define N 40000

static struct bench_samples consecutive(int from, int to)
{
    struct bench_samples s = {0};
    for (int i = to; i >= from; i--)
        ck_assert_int_eq(bench_samples_add(&s, i), 0);
    bench_samples_sort(&s);
    return s;
}

START_TEST(statistics_of_consecutive_numbers)
{
    struct bench_samples s = consecutive(0, 100);
    for (double p = 0; p <= 100; p += 0.125)
        ck_assert_double_eq_tol(bench_percentile(&s, p), p, 1e-9);
    ck_assert_double_eq_tol(bench_mean(&s), 50, 1e-12);
    ck_assert_double_eq_tol(bench_deviation(&s), sqrt((101.0 * 101 - 1) / 12), 1e-9);
    bench_samples_finish(&s);
}
END_TEST

START_TEST(statistics_of_few_samples)
{
    struct bench_samples none = {0}, one = consecutive(7, 7), four = consecutive(1, 4);
    ck_assert(isnan(bench_mean(&none)) && isnan(bench_deviation(&none)));
    ck_assert(isnan(bench_percentile(&none, 50)));
    ck_assert_double_eq(bench_percentile(&one, 99), 7);
    ck_assert_double_eq(bench_deviation(&one), 0);
    /* numpy.percentile([1, 2, 3, 4], [50, 90, 99]) */
    ck_assert_double_eq_tol(bench_percentile(&four, 50), 2.5, 1e-12);
    ck_assert_double_eq_tol(bench_percentile(&four, 90), 3.7, 1e-12);
    ck_assert_double_eq_tol(bench_percentile(&four, 99), 3.97, 1e-12);
    bench_samples_finish(&one);
    bench_samples_finish(&four);
}
END_TEST

START_TEST(generator_is_xoshiro256starstar)
{
    /* The published sequence of the state 1, 2, 3, 4. */
    static const uint64_t expected[] = {
        11520, 0, 1509978240, 1215971899390074240u, 1216172134540287360u, 607988272756665600u};
    struct bench_random r = {{1, 2, 3, 4}};
    for (size_t i = 0; i < COUNT(expected); i++)
        ck_assert_uint_eq(bench_random_bits(&r), expected[i]);
}
END_TEST

START_TEST(streams_differ_and_repeat)
{
    struct bench_random a, b, c, d;
    bench_random_init(&a, 1, 5);
    bench_random_init(&b, 1, 5);
    bench_random_init(&c, 1, 6);
    bench_random_init(&d, 5, 1);
    uint64_t first = bench_random_bits(&a);
    ck_assert_uint_eq(first, bench_random_bits(&b));
    ck_assert_uint_ne(first, bench_random_bits(&c));
    ck_assert_uint_ne(first, bench_random_bits(&d));
}
END_TEST

/* Mean and variance of a gamma distribution are both its shape; its fourth central moment is
 * 3 k^2 + 6 k, which gives the error of the variance. Five standard errors, fixed seed. */
START_TEST(gamma_has_its_moments)
{
    static const double shapes[] = {0.1, 0.5, 1, 2.5, 40};
    for (size_t i = 0; i < COUNT(shapes); i++) {
        double k = shapes[i];
        struct bench_samples s = {0};
        struct bench_random r;
        bench_random_init(&r, 7, i);
        for (int n = 0; n < N; n++)
            bench_samples_add(&s, bench_random_gamma(&r, k));
        double variance = bench_deviation(&s) * bench_deviation(&s);
        ck_assert_double_eq_tol(bench_mean(&s), k, 5 * sqrt(k / N));
        ck_assert_double_eq_tol(variance, k, 5 * sqrt((2 * k * k + 6 * k) / N));
        bench_samples_finish(&s);
    }
}
END_TEST

START_TEST(below_is_even)
{
    struct bench_random r;
    int seen[7] = {0};
    bench_random_init(&r, 3, 3);
    for (int i = 0; i < 7 * N; i++)
        seen[bench_random_below(&r, 7)]++;
    for (int i = 0; i < 7; i++)
        ck_assert_double_eq_tol(seen[i], N, 5 * sqrt(N));
}
END_TEST

static struct bench_samples arrivals(double rate, double burstiness, uint64_t n, double duration)
{
    struct bench_samples s = {0};
    ck_assert_int_eq(bench_arrivals(rate, burstiness, n, duration, 11, 0, &s), 0);
    for (size_t i = 1; i < s.n; i++)
        ck_assert(s.v[i] >= s.v[i - 1]);
    return s;
}

/* Largest distance of the gaps' distribution from 1 - exp(-rate x): below 1.95/sqrt(n) with
 * probability 0.999 (Kolmogorov). */
START_TEST(poisson_gaps_are_exponential)
{
    const double rate = 8;
    struct bench_samples s = arrivals(rate, 1, N, 0), gaps = {0};
    double worst = 0;
    for (size_t i = 0; i < s.n; i++)
        bench_samples_add(&gaps, s.v[i] - (i ? s.v[i - 1] : 0));
    bench_samples_sort(&gaps);
    for (size_t i = 0; i < gaps.n; i++)
        worst = fmax(worst, fabs((double)(i + 1) / N - (1 - exp(-rate * gaps.v[i]))));
    ck_assert_double_lt(worst, 1.95 / sqrt(N));
    bench_samples_finish(&gaps);
    bench_samples_finish(&s);
}
END_TEST

/* Squared coefficient of variation of the gaps is 1 / burstiness. */
START_TEST(burstiness_is_the_gamma_shape)
{
    static const double shapes[] = {0.25, 1, 4};
    for (size_t k = 0; k < COUNT(shapes); k++) {
        struct bench_samples s = arrivals(100, shapes[k], N, 0), gaps = {0};
        for (size_t i = 1; i < s.n; i++)
            bench_samples_add(&gaps, s.v[i] - s.v[i - 1]);
        double cv = bench_deviation(&gaps) / bench_mean(&gaps);
        ck_assert_double_eq_tol(cv * cv * shapes[k], 1, 0.1);
        bench_samples_finish(&gaps);
        bench_samples_finish(&s);
    }
}
END_TEST

START_TEST(arrivals_end_where_they_should)
{
    struct bench_samples fixed = arrivals(4, 1, 50, 0), even = arrivals(4, INFINITY, 8, 0),
                         at_once = arrivals(INFINITY, 1, 5, 0), timed = arrivals(50, 1, 0, 100),
                         both = arrivals(50, 1, 10, 100);
    ck_assert_uint_eq(fixed.n, 50);
    ck_assert_double_eq_tol(fixed.v[49], 50.0 / 4, 1e-9);
    for (size_t i = 0; i < 8; i++)
        ck_assert_double_eq_tol(even.v[i], (double)(i + 1) / 4, 1e-9);
    ck_assert_uint_eq(at_once.n, 5);
    ck_assert_double_eq(at_once.v[4], 0);
    ck_assert_double_le(timed.v[timed.n - 1], 100);
    ck_assert_double_eq_tol((double)timed.n, 5000, 5 * sqrt(5000));
    ck_assert_uint_eq(both.n, 10);
    struct bench_samples *all[] = {&fixed, &even, &at_once, &timed, &both};
    for (size_t i = 0; i < COUNT(all); i++)
        bench_samples_finish(all[i]);
}
END_TEST

/* ---- fairness ---- */

static struct bench_samples samples(size_t n, const double *v)
{
    struct bench_samples s = {0};
    for (size_t i = 0; i < n; i++)
        ck_assert_int_eq(bench_samples_add(&s, v[i]), 0);
    return s;
}

START_TEST(fairness_of_known_vectors)
{
    static const struct {
        size_t n;
        double v[4], jain, max_min;
    } cases[] = {
        {4, {7, 7, 7, 7}, 1, 1},
        {4, {0, 0, 5, 0}, 0.25, INFINITY},
        {2, {3, 1}, 16.0 / 20, 3},
        {4, {1, 2, 3, 4}, 100.0 / 120, 4},
        {1, {9}, 1, 1},
        {3, {1e-3, 2e-3, 3e-3}, 36.0 / 42, 3},
        {3, {0, 0, 0}, NAN, NAN},
        {0, {0}, NAN, NAN},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct bench_samples s = samples(cases[i].n, cases[i].v);
        double jain = bench_jain(&s), ratio = bench_max_min(&s);
        ck_assert(isnan(cases[i].jain) ? isnan(jain) : fabs(jain - cases[i].jain) < 1e-12);
        ck_assert(isnan(cases[i].max_min)   ? isnan(ratio)
                  : isinf(cases[i].max_min) ? isinf(ratio)
                                            : fabs(ratio - cases[i].max_min) < 1e-12);
        bench_samples_finish(&s);
    }
}
END_TEST

/* ---- figures of a run ---- */

#define MS 1000000u

static struct bench_options options(void)
{
    struct bench_options o;
    struct lodge_error e;
    char *argv[] = {"http://x", "--goodput", "ttft:150", "tpot:10,e2el:1000"};
    ck_assert_int_eq(bench_options_read(COUNT(argv), argv, &o, &e), 0);
    return o;
}

static void add(struct bench_result *r, uint32_t model, uint64_t due_ms, uint64_t first_ms,
                uint64_t last_ms, int64_t n_output, int error)
{
    struct bench_record c = {.due_ns = due_ms * MS,
                             .sent_ns = (due_ms + 2) * MS,
                             .first_ns = first_ms * MS,
                             .last_ns = last_ms * MS,
                             .n_input = 10,
                             .n_output = n_output,
                             .n_cached = 4,
                             .model = model,
                             .error = error};
    struct bench_samples itl = {0};
    for (int64_t i = 1; i < n_output && error < 0; i++)
        bench_samples_add(&itl, (double)(last_ms - first_ms) / (double)(n_output - 1));
    ck_assert_int_eq(bench_result_add(r, &c, &itl), 0);
    bench_samples_finish(&itl);
}

/* Three good replies of model 0 and 1, and a failure: all figures by hand. */
static struct bench_result small_run(void)
{
    struct bench_result r = {.begin_ns = 1000 * MS, .end_ns = 3000 * MS, .cpu_s = 0.25};
    add(&r, 0, 1000, 1100, 1190, 10, -1); /* TTFT 100, TPOT 10, E2EL 190: good */
    add(&r, 1, 1000, 1200, 1290, 10, -1); /* TTFT 200: not good */
    add(&r, 0, 1500, 1600, 1600, 1, -1);  /* one token: no TPOT, good */
    add(&r, 1, 1500, 0, 0, 0, bench_result_error(&r, "HTTP 429", "slow down"));
    r.records[3].limited = true;
    return r;
}

static double get(const struct bench_metrics *m, const char *key)
{
    double x = bench_metrics_get(m, key);
    ck_assert_msg(!isnan(x), "%s is missing", key);
    return x;
}

START_TEST(figures_by_hand)
{
    struct bench_options o = options();
    struct bench_result r = small_run();
    struct bench_metrics m;
    ck_assert_int_eq(bench_metrics_make(&o, &r, NULL, &m), 0);
    static const struct {
        const char *key;
        double value;
    } expected[] = {
        {"duration", 2},
        {"completed", 3},
        {"failed", 1},
        {"rate_limited", 1},
        {"goodput_share", 0.5},
        {"weighted_service", 30 - 12 + 2 * 21},
        {"total_input_tokens", 30},
        {"total_cached_tokens", 12},
        {"total_output_tokens", 21},
        {"request_throughput", 1.5},
        {"request_goodput", 1},
        {"output_throughput", 10.5},
        {"total_token_throughput", 25.5},
        {"mean_ttft_ms", 400.0 / 3},
        {"median_ttft_ms", 100},
        {"p50_ttft_ms", 100},
        {"p90_ttft_ms", 180},
        {"mean_tpot_ms", 10},
        {"std_tpot_ms", 0},
        {"p99_itl_ms", 10},
        {"mean_e2el_ms", (190.0 + 290 + 100) / 3},
        {"mean_client_lag_ms", 2},
        {"client_cpu_seconds", 0.25},
    };
    for (size_t i = 0; i < COUNT(expected); i++)
        ck_assert_double_eq_tol(get(&m, expected[i].key), expected[i].value, 1e-9);
    struct bench_filter only = {.tenant = -1, .model = 1};
    ck_assert_int_eq(bench_metrics_make(&o, &r, &only, &m), 0);
    ck_assert_double_eq(get(&m, "completed"), 1);
    ck_assert_double_eq(get(&m, "failed"), 1);
    ck_assert_double_eq(get(&m, "mean_ttft_ms"), 200);
    bench_result_finish(&r);
    bench_options_finish(&o);
}
END_TEST

/* Load until 1245 ms: all of the first reply, 5 tokens of 10 of the second, nothing of the third.
 */
START_TEST(service_ends_with_the_load)
{
    struct bench_options o = options();
    struct bench_result r = small_run();
    struct bench_metrics m;
    o.duration_s = 0.245;
    ck_assert_int_eq(bench_metrics_make(&o, &r, NULL, &m), 0);
    ck_assert_double_eq_tol(get(&m, "weighted_service"), (6 + 2 * 10) + (6 + 2 * 5), 1e-9);
    ck_assert_double_eq_tol(get(&m, "total_output_tokens"), 21, 1e-9);
    r.records[0].first_ns = 0; /* not streamed: by its end */
    o.duration_s = 0.185;
    ck_assert_int_eq(bench_metrics_make(&o, &r, NULL, &m), 0);
    ck_assert_double_eq_tol(get(&m, "weighted_service"), 0, 1e-9);
    bench_result_finish(&r);
    bench_options_finish(&o);
}
END_TEST

/* The small run with model 0 as tenant 0 and model 1 as tenant 1, and a third who sent nothing. */
START_TEST(figures_of_tenants_by_hand)
{
    struct bench_tenant who[3] = {{.name = "a"}, {.name = "b"}, {.name = "c"}};
    struct bench_options o = options();
    struct bench_result r = small_run();
    struct bench_metrics m;
    o.tenants = (struct bench_tenants){.v = who, .n = 3, .path = "x"};
    o.focus = 0;
    for (size_t i = 0; i < r.n; i++)
        r.records[i].tenant = r.records[i].model;
    ck_assert_int_eq(bench_metrics_make(&o, &r, NULL, &m), 0);
    /* tokens 11, 10, 0; service 2*6 + 2*11, 6 + 2*10, 0 */
    ck_assert_double_eq_tol(get(&m, "jain_output_throughput"), 441.0 / (3 * 221), 1e-12);
    ck_assert_double_eq_tol(get(&m, "jain_weighted_service"), 3600.0 / (3 * (34 * 34 + 26 * 26)),
                            1e-12);
    ck_assert(isinf(get(&m, "max_min_output_throughput")));
    ck_assert_double_eq_tol(get(&m, "focus_p50_ttft_ms"), 100, 1e-9);
    o.tenants.n = 2;
    o.focus = 1;
    ck_assert_int_eq(bench_metrics_make(&o, &r, NULL, &m), 0);
    ck_assert_double_eq_tol(get(&m, "max_min_output_throughput"), 1.1, 1e-12);
    ck_assert_double_eq_tol(get(&m, "focus_p99_ttft_ms"), 200, 1e-9);
    struct bench_filter only = {.tenant = 1, .model = -1};
    ck_assert_int_eq(bench_metrics_make(&o, &r, &only, &m), 0);
    ck_assert_double_eq(get(&m, "completed"), 1);
    ck_assert_double_eq(get(&m, "rate_limited"), 1);
    ck_assert_double_eq(get(&m, "goodput_share"), 0);
    ck_assert_double_eq(get(&m, "output_throughput"), 5);
    ck_assert_double_eq(get(&m, "mean_e2el_ms"), 290);
    ck_assert(isnan(bench_metrics_get(&m, "client_cpu_seconds")));
    bench_result_finish(&r);
    bench_options_finish(&o);
}
END_TEST

/* The keys of vLLM's result file that scripts read. */
START_TEST(json_has_the_keys_of_vllm)
{
    static const char *const plain[] = {"date",
                                        "backend",
                                        "label",
                                        "model_id",
                                        "num_prompts",
                                        "request_rate",
                                        "burstiness",
                                        "max_concurrency",
                                        "duration",
                                        "completed",
                                        "failed",
                                        "total_input_tokens",
                                        "total_output_tokens",
                                        "request_throughput",
                                        "request_goodput",
                                        "output_throughput",
                                        "total_token_throughput",
                                        "max_output_tokens_per_s",
                                        "max_concurrent_requests",
                                        "input_lens",
                                        "output_lens",
                                        "ttfts",
                                        "itls",
                                        "start_times",
                                        "errors"};
    static const char *const kinds[] = {"mean", "median", "std", "p50", "p90", "p95", "p99"};
    struct bench_options o = options();
    struct bench_result r = small_run();
    struct bench_metrics m;
    const char *models[] = {"a", "b"};
    o.save_detailed = o.per_model = true;
    struct bench_target t = {
        .options = &o, .label = "x", .path = "/", .models = models, .n_models = 2, .n_shared = 2};
    ck_assert_int_eq(bench_metrics_make(&o, &r, NULL, &m), 0);
    json_t *j = bench_result_json(&t, &r, &m);
    for (size_t i = 0; i < COUNT(plain); i++)
        ck_assert_msg(json_object_get(j, plain[i]) != NULL, "%s", plain[i]);
    for (size_t k = 0; k < COUNT(kinds); k++) {
        for (int i = 0; i < BENCH_N_TIMES; i++) {
            char key[40];
            snprintf(key, sizeof key, "%s_%s_ms", kinds[k], bench_time_names[i]);
            ck_assert_msg(json_is_real(json_object_get(j, key)), "%s", key);
        }
    }
    ck_assert_str_eq(json_string_value(json_object_get(j, "request_rate")), "inf");
    ck_assert_uint_eq(json_array_size(json_object_get(j, "ttfts")), 4);
    ck_assert_uint_eq(json_array_size(json_array_get(json_object_get(j, "itls"), 1)), 9);
    ck_assert_double_eq_tol(json_real_value(json_array_get(json_object_get(j, "ttfts"), 1)), 0.2,
                            1e-9);
    ck_assert_str_eq(json_string_value(json_array_get(json_object_get(j, "errors"), 3)),
                     "HTTP 429");
    ck_assert_uint_eq(json_array_size(json_object_get(j, "models")), 2);
    json_decref(j);
    bench_result_finish(&r);
    bench_options_finish(&o);
}
END_TEST

START_TEST(errors_are_counted_by_kind)
{
    struct bench_result r = {0}, sum = {0};
    char kind[20];
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(bench_result_error(&r, "HTTP 429", i ? "later" : "first"), 0);
    ck_assert_int_eq(bench_result_error(&r, "HTTP 500", "x"), 1);
    bench_result_add_notes(&sum, &r);
    bench_result_add_notes(&sum, &r);
    ck_assert_uint_eq(sum.errors[0].n, 6);
    ck_assert_uint_eq(sum.errors[1].n, 2);
    ck_assert_str_eq(sum.errors[0].example, "first");
    for (int i = 0; i < 100; i++) {
        snprintf(kind, sizeof kind, "kind %d", i);
        bench_result_error(&r, kind, "");
    }
    uint64_t total = 0;
    for (uint32_t i = 0; i < r.n_errors; i++)
        total += r.errors[i].n;
    ck_assert_uint_eq(r.n_errors, BENCH_MAX_ERROR_KINDS);
    ck_assert_uint_eq(total, 104);
    ck_assert_str_eq(r.errors[BENCH_MAX_ERROR_KINDS - 1].kind, "other errors");
}
END_TEST

static void put_metric(struct bench_metrics *m, const char *key, double value)
{
    snprintf(m->m[m->n].key, sizeof m->m[0].key, "%s", key);
    m->m[m->n++].value = value;
}

START_TEST(ratios_are_of_rounds)
{
    static const double a[] = {10, 30, 20}, b[] = {10, 10, 40};
    struct bench_round rounds[3] = {0};
    struct bench_compared c;
    for (int i = 0; i < 3; i++) {
        put_metric(&rounds[i].side[0], "x", a[i]);
        put_metric(&rounds[i].side[1], "x", b[i]);
        put_metric(&rounds[i].side[0], "y", i == 1 ? NAN : 1);
        put_metric(&rounds[i].side[1], "y", 1);
        put_metric(&rounds[i].side[0], "failed", 0);
        put_metric(&rounds[i].side[1], "failed", 0);
    }
    ck_assert_int_eq(bench_compare(rounds, 3, "x", &c), 0);
    ck_assert_double_eq(c.a, 20);
    ck_assert_double_eq(c.b, 10);
    ck_assert_double_eq(c.ratio, 1); /* of 1, 3, 0.5; not 20/10 */
    ck_assert_double_eq(c.ratio_min, 0.5);
    ck_assert_double_eq(c.ratio_max, 3);
    /* A round in which a side measured nothing leaves no ratio, nor does 0/0. */
    ck_assert_int_eq(bench_compare(rounds, 3, "y", &c), 0);
    ck_assert(isnan(c.a) && c.b == 1 && isnan(c.ratio));
    ck_assert_int_eq(bench_compare(rounds, 3, "failed", &c), 0);
    ck_assert(c.a == 0 && c.b == 0 && isnan(c.ratio));
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {statistics_of_consecutive_numbers,
                                  statistics_of_few_samples,
                                  generator_is_xoshiro256starstar,
                                  streams_differ_and_repeat,
                                  gamma_has_its_moments,
                                  below_is_even,
                                  poisson_gaps_are_exponential,
                                  burstiness_is_the_gamma_shape,
                                  arrivals_end_where_they_should,
                                  fairness_of_known_vectors,
                                  figures_by_hand,
                                  service_ends_with_the_load,
                                  figures_of_tenants_by_hand,
                                  json_has_the_keys_of_vllm,
                                  errors_are_counted_by_kind,
                                  ratios_are_of_rounds};
    return run_suite("bench numbers", tests, COUNT(tests));
}
