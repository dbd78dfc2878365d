#include "clients/bench/compare.h"

#include "clients/bench/report.h"

#include <math.h>
#include <string.h>

/* Rounds without the figure (all requests failed) make it unknown: a ratio of what is left would
 * flatter the server that failed. */
static int middle(const struct bench_samples *s, uint32_t n_rounds, double *median, double *least,
                  double *most)
{
    struct bench_samples copy = {0};
    int err = 0;
    *median = *least = *most = NAN;
    for (size_t i = 0; i < s->n && !err; i++)
        err = isnan(s->v[i]) ? 0 : bench_samples_add(&copy, s->v[i]);
    if (!err && copy.n == n_rounds) {
        bench_samples_sort(&copy);
        *median = bench_percentile(&copy, 50);
        *least = copy.v[0];
        *most = copy.v[copy.n - 1];
    }
    bench_samples_finish(&copy);
    return err;
}

int bench_compare(const struct bench_round *rounds, uint32_t n_rounds, const char *key,
                  struct bench_compared *out)
{
    struct bench_samples a = {0}, b = {0}, ratio = {0};
    double least, most;
    int err = 0;
    for (uint32_t i = 0; i < n_rounds && !err; i++) {
        double x = bench_metrics_get(&rounds[i].side[0], key);
        double y = bench_metrics_get(&rounds[i].side[1], key);
        err = bench_samples_add(&a, x);
        if (!err)
            err = bench_samples_add(&b, y);
        if (!err)
            err = bench_samples_add(&ratio, y > 0 ? x / y : NAN);
    }
    if (!err)
        err = middle(&a, n_rounds, &out->a, &least, &most);
    if (!err)
        err = middle(&b, n_rounds, &out->b, &least, &most);
    if (!err)
        err = middle(&ratio, n_rounds, &out->ratio, &out->ratio_min, &out->ratio_max);
    bench_samples_finish(&a);
    bench_samples_finish(&b);
    bench_samples_finish(&ratio);
    return err;
}

/* ---- the table ---- */

static int put_row(FILE *out, const struct bench_round *rounds, uint32_t n_rounds, const char *name,
                   const char *key)
{
    struct bench_compared c;
    int err = bench_compare(rounds, n_rounds, key, &c);
    if (err)
        return err;
    fprintf(out, "%-30s", name);
    bench_print_cell(out, 11, c.a);
    bench_print_cell(out, 11, c.b);
    if (isnan(c.ratio))
        fprintf(out, " %9s\n", "-");
    else
        fprintf(out, " %9.3f   %.3f .. %.3f\n", c.ratio, c.ratio_min, c.ratio_max);
    return 0;
}

static int put_time_rows(FILE *out, const struct bench_options *o, const struct bench_round *rounds,
                         uint32_t n_rounds)
{
    static const char *const heads[] = {"TTFT", "TPOT", "ITL", "E2EL"};
    char key[40], name[64];
    int err = 0;
    for (int t = 0; t < BENCH_N_TIMES && !err; t++) {
        if (!o->show[t])
            continue;
        snprintf(key, sizeof key, "median_%s_ms", bench_time_names[t]);
        snprintf(name, sizeof name, "Median %s (ms)", heads[t]);
        err = put_row(out, rounds, n_rounds, name, key);
        if (err || !o->n_percentiles)
            continue;
        snprintf(key, sizeof key, "p%.6g_%s_ms", o->percentiles[o->n_percentiles - 1],
                 bench_time_names[t]);
        snprintf(name, sizeof name, "P%.6g %s (ms)", o->percentiles[o->n_percentiles - 1],
                 heads[t]);
        err = put_row(out, rounds, n_rounds, name, key);
    }
    return err;
}

static int put_tenant_rows(FILE *out, const struct bench_options *o,
                           const struct bench_round *rounds, uint32_t n_rounds)
{
    static const char *const rows[][2] = {
        {"Jain, output tokens/s (more)", "jain_output_throughput"},
        {"Jain, service (more)", "jain_weighted_service"},
        {"Max/min output tokens/s", "max_min_output_throughput"},
        {"Max/min service", "max_min_weighted_service"},
    };
    char name[64];
    int err = 0;
    for (size_t i = 0; i < sizeof rows / sizeof *rows && o->tenants.path && !err; i++)
        err = put_row(out, rounds, n_rounds, rows[i][0], rows[i][1]);
    for (int i = 0; i < 2 && o->focus >= 0 && !err; i++) {
        snprintf(name, sizeof name, "%s TTFT of %.12s (ms)", i ? "P99" : "P50", o->focus_name);
        err = put_row(out, rounds, n_rounds, name, i ? "focus_p99_ttft_ms" : "focus_p50_ttft_ms");
    }
    return err;
}

int bench_print_comparison(FILE *out, const struct bench_target t[2],
                           const struct bench_round *rounds, uint32_t n_rounds)
{
    static const char *const rows[][2] = {
        {"Failed requests", "failed"},
        {"Requests/s (more is better)", "request_throughput"},
        {"Output tokens/s (more)", "output_throughput"},
        {"All tokens/s (more)", "total_token_throughput"},
    };
    const struct bench_options *o = t[0].options;
    int err = 0;
    fprintf(out,
            "\nMedians of %u rounds A B A B ...; A/B: median of the rounds' ratios, and range\n",
            n_rounds);
    for (int i = 0; i < 2; i++)
        fprintf(out, "%c = %s\n", 'A' + i, t[i].label);
    fprintf(out, "\n%-30s %11s %11s %9s   %s\n", "", "A", "B", "A/B", "range of A/B");
    for (size_t i = 0; i < sizeof rows / sizeof *rows && !err; i++)
        err = put_row(out, rounds, n_rounds, rows[i][0], rows[i][1]);
    if (!err && o->goodput)
        err = put_row(out, rounds, n_rounds, "Good requests/s (more)", "request_goodput");
    if (!err)
        err = put_time_rows(out, o, rounds, n_rounds);
    return err ? err : put_tenant_rows(out, o, rounds, n_rounds);
}

/* ---- JSON ---- */

json_t *bench_comparison_json(const struct bench_target t[2], const struct bench_round *rounds,
                              uint32_t n_rounds)
{
    json_t *a = bench_setting_json(&t[0]), *b = bench_setting_json(&t[1]), *ratios = json_object(),
           *all = json_array();
    const struct bench_metrics *first = &rounds[0].side[0];
    for (uint32_t i = 0; i < first->n; i++) {
        struct bench_compared c;
        if (bench_compare(rounds, n_rounds, first->m[i].key, &c))
            break;
        json_object_set_new(a, first->m[i].key, bench_number_json(c.a));
        json_object_set_new(b, first->m[i].key, bench_number_json(c.b));
        json_object_set_new(ratios, first->m[i].key,
                            json_pack("{s:o, s:o, s:o}", "median", bench_number_json(c.ratio),
                                      "min", bench_number_json(c.ratio_min), "max",
                                      bench_number_json(c.ratio_max)));
    }
    for (uint32_t i = 0; i < n_rounds; i++)
        json_array_append_new(all,
                              json_pack("{s:o, s:o}", "a", bench_metrics_json(&rounds[i].side[0]),
                                        "b", bench_metrics_json(&rounds[i].side[1])));
    return json_pack("{s:o, s:o, s:o, s:o}", "a", a, "b", b, "ratio_a_to_b", ratios, "rounds", all);
}
