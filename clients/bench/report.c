#include "clients/bench/report.h"

#include "clients/bench/groups.h"

#include <math.h>
#include <string.h>
#include <time.h>

/* ---- the table ---- */

static void put_load(FILE *out, const struct bench_options *o)
{
    fprintf(out, "%s", o->rate_text ? "open loop, " : "closed loop, ");
    if (o->rate_text)
        fprintf(out, "%s requests/s%s", o->rate_text, o->burstiness == 1 ? " (Poisson)" : "");
    if (o->rate_text && o->concurrency)
        fprintf(out, ", at most ");
    if (o->concurrency)
        fprintf(out, o->rate_text ? "%lld in flight" : "clients: %lld", (long long)o->concurrency);
}

static void put_load_of_tenants(FILE *out, const struct bench_options *o)
{
    const struct bench_tenants *t = &o->tenants;
    uint32_t n_open = 0;
    double rate = 0;
    int64_t n_clients = 0;
    for (uint32_t i = 0; i < t->n; i++) {
        n_open += t->v[i].rate > 0;
        rate += t->v[i].rate;
        n_clients += t->v[i].rate > 0 ? 0 : t->v[i].concurrency;
    }
    fprintf(out, "tenants: %u of %s", t->n, t->path);
    if (n_open)
        fprintf(out, ", %u open loops (%.6g requests/s%s)", n_open, rate,
                o->burstiness == 1 ? ", Poisson" : "");
    if (n_open < t->n)
        fprintf(out, ", %u closed loops (clients: %lld)", t->n - n_open, (long long)n_clients);
}

void bench_print_setting(FILE *out, const struct bench_target *t)
{
    const struct bench_options *o = t->options;
    fprintf(out, "%s  %s", t->url, t->models[0]);
    if (t->n_models > 1)
        fprintf(out, " and %u more models (%s)", t->n_models - 1, o->model_dist);
    fprintf(out, "\n");
    (o->tenants.path ? put_load_of_tenants : put_load)(out, o);
    if (o->n_prompts)
        fprintf(out, ", requests: %lld", (long long)o->n_prompts);
    if (o->duration_s > 0)
        fprintf(out, ", %g s", o->duration_s);
    if (o->prompts)
        fprintf(out, ", prompts of %s\n", o->prompts);
    else if (o->prefix_len)
        fprintf(out, ", tokens in: %lld shared + %lld", (long long)o->prefix_len,
                (long long)o->n_input);
    else
        fprintf(out, ", tokens in: %lld", (long long)o->n_input);
    if (!o->prompts)
        fprintf(out, ", out: %lld, random %s\n", (long long)o->n_output,
                t->takes_ids ? "ids" : "words");
}

static void put_pair(FILE *out, const char *left, double a, int digits_a, const char *right,
                     double b, int digits_b)
{
    fprintf(out, "%-28s %12.*f", left, digits_a, a);
    if (right && !isnan(b))
        fprintf(out, "    %-28s %12.*f", right, digits_b, b);
    fprintf(out, "\n");
}

void bench_print_cell(FILE *out, int width, double value)
{
    if (isnan(value))
        fprintf(out, " %*s", width, "-");
    else
        fprintf(out, " %*.*f", width,
                value == 0      ? 0
                : value < 100   ? 2
                : value < 10000 ? 1
                                : 0,
                value);
}

static void put_times(FILE *out, const struct bench_options *o, const struct bench_metrics *m)
{
    char key[40], head[16];
    fprintf(out, "\n%-12s %9s %9s %9s", "(ms)", "mean", "std", "median");
    for (uint32_t i = 0; i < o->n_percentiles; i++) {
        snprintf(head, sizeof head, "p%.6g", o->percentiles[i]);
        if (o->percentiles[i] != 50)
            fprintf(out, " %9s", head);
    }
    fprintf(out, "\n");
    for (int t = 0; t < BENCH_N_TIMES; t++) {
        static const char *const heads[] = {"TTFT", "TPOT", "ITL", "E2EL"};
        static const char *const kinds[] = {"mean", "std", "median"};
        if (!o->show[t])
            continue;
        fprintf(out, "%-12s", heads[t]);
        for (int k = 0; k < 3; k++) {
            snprintf(key, sizeof key, "%s_%s_ms", kinds[k], bench_time_names[t]);
            bench_print_cell(out, 9, bench_metrics_get(m, key));
        }
        for (uint32_t i = 0; i < o->n_percentiles; i++) {
            snprintf(key, sizeof key, "p%.6g_%s_ms", o->percentiles[i], bench_time_names[t]);
            if (o->percentiles[i] != 50)
                bench_print_cell(out, 9, bench_metrics_get(m, key));
        }
        fprintf(out, "\n");
    }
}

void bench_print_table(FILE *out, const struct bench_options *o, const struct bench_metrics *m)
{
#define M(key) bench_metrics_get(m, key)
    fprintf(out, "\n");
    put_pair(out, "Successful requests", M("completed"), 0, "Failed requests", M("failed"), 0);
    put_pair(out, "Duration (s)", M("duration"), 2, "Requests/s", M("request_throughput"), 2);
    put_pair(out, "Input tokens", M("total_input_tokens"), 0, "Output tokens",
             M("total_output_tokens"), 0);
    put_pair(out, "Output tokens/s", M("output_throughput"), 2, "Input and output tokens/s",
             M("total_token_throughput"), 2);
    if (M("rate_limited") > 0)
        put_pair(out, "Of the failed, HTTP 429", M("rate_limited"), 0, NULL, NAN, 0);
    if (M("total_cached_tokens") > 0)
        put_pair(out, "Input tokens cached", M("total_cached_tokens"), 0, NULL, NAN, 0);
    if (o->goodput)
        put_pair(out, "Good requests/s", M("request_goodput"), 2, "Good requests (%)",
                 100 * M("goodput_share"), 1);
    put_pair(out, "Client CPU (s)", M("client_cpu_seconds"), 2,
             o->rate_text ? "Client lag p99 (ms)" : NULL, M("p99_client_lag_ms"), 2);
#undef M
    put_times(out, o, m);
}

void bench_print_notes(FILE *out, const struct bench_result *r)
{
    for (uint32_t i = 0; i < r->n_errors; i++)
        fprintf(out, "%s%llu failed: %s%s%s\n", i ? "" : "\n", (unsigned long long)r->errors[i].n,
                r->errors[i].kind, r->errors[i].example[0] ? ": " : "", r->errors[i].example);
    if (r->n_without_usage)
        fprintf(out, "\n%llu replies had no usage: their output tokens are counted by chunks.\n",
                (unsigned long long)r->n_without_usage);
    if (r->gave_up[0])
        fprintf(out, "\nEnded early: %s\n", r->gave_up);
    if (r->interrupted)
        fprintf(out, "\nInterrupted: %llu requests in flight were cut and are not counted.\n",
                (unsigned long long)r->n_cancelled);
}

/* ---- JSON ---- */

json_t *bench_number_json(double x)
{
    return isfinite(x) ? json_real(x) : json_null();
}

json_t *bench_metrics_json(const struct bench_metrics *m)
{
    json_t *o = json_object();
    for (uint32_t i = 0; o && i < m->n; i++)
        json_object_set_new(o, m->m[i].key,
                            m->m[i].integer ? json_integer((json_int_t)m->m[i].value)
                                            : bench_number_json(m->m[i].value));
    return o;
}

json_t *bench_setting_json(const struct bench_target *t)
{
    const struct bench_options *o = t->options;
    char date[32];
    time_t now = time(NULL);
    struct tm utc;
    strftime(date, sizeof date, "%Y%m%d-%H%M%S", gmtime_r(&now, &utc));
    json_t *j = json_pack(
        "{s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:o, s:o, s:o, s:I, s:I, s:f, s:I, s:s, s:b, s:b, "
        "s:I, "
        "s:s}",
        "date", date, "backend", o->chat ? "openai-chat" : "openai", "base_url", t->base,
        "endpoint", t->path, "label", t->label, "model_id", t->models[0], "num_prompts",
        (json_int_t)o->n_prompts, "request_rate",
        o->rate_text && isfinite(o->rate) ? json_real(o->rate) : json_string("inf"), "burstiness",
        isfinite(o->burstiness) ? json_real(o->burstiness) : json_string("inf"), "max_concurrency",
        o->concurrency ? json_integer(o->concurrency) : json_null(), "random_input_len",
        (json_int_t)o->n_input, "random_output_len", (json_int_t)o->n_output, "random_range_ratio",
        o->range_ratio, "random_prefix_len", (json_int_t)o->prefix_len, "prompt_kind",
        o->prompts     ? "file"
        : t->takes_ids ? "ids"
                       : "text",
        "ignore_eos", o->ignore_eos, "stream", o->stream, "seed", (json_int_t)o->seed,
        "tpot_definition", "(last chunk - first chunk) / (output tokens - 1)");
    json_object_set_new(j, "num_models", json_integer(t->n_models));
    json_object_set_new(j, "model_dist", json_string(o->model_dist));
    json_object_set_new(j, "num_tenants", json_integer(o->tenants.path ? o->tenants.n : 0));
    return j;
}

static json_t *errors_json(const struct bench_result *r)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < r->n_errors; i++)
        json_array_append_new(list, json_pack("{s:s, s:I, s:s}", "kind", r->errors[i].kind, "count",
                                              (json_int_t)r->errors[i].n, "example",
                                              r->errors[i].example));
    return list;
}

/* vLLM's lists: seconds, in one order; and whose requests they were. */
static void add_details(json_t *o, const struct bench_target *t, const struct bench_result *r)
{
    static const char *const keys[] = {"input_lens",     "output_lens",    "ttfts",
                                       "itls",           "start_times",    "errors",
                                       "request_models", "request_tenants"};
    const struct bench_tenants *who = &t->options->tenants;
    json_t *lists[8];
    for (int k = 0; k < (who->path ? 8 : 7); k++)
        json_object_set_new(o, keys[k], lists[k] = json_array());
    for (size_t i = 0; i < r->n; i++) {
        const struct bench_record *c = &r->records[i];
        json_t *itls = json_array();
        for (size_t k = 0; k < c->n_itl; k++)
            json_array_append_new(itls, json_real(r->itl_ms.v[c->itl_at + k] * 1e-3));
        json_array_append_new(lists[0], json_integer(c->n_input));
        json_array_append_new(lists[1], json_integer(c->n_output));
        json_array_append_new(
            lists[2], json_real(c->first_ns ? (double)(c->first_ns - c->due_ns) * 1e-9 : 0));
        json_array_append_new(lists[3], itls);
        json_array_append_new(lists[4], json_real((double)(c->sent_ns - r->begin_ns) * 1e-9));
        json_array_append_new(lists[5], json_string(c->error < 0 ? "" : r->errors[c->error].kind));
        json_array_append_new(lists[6], json_string(t->models[c->model]));
        if (who->path)
            json_array_append_new(lists[7], json_string(who->v[c->tenant].name));
    }
}

json_t *bench_result_json(const struct bench_target *t, const struct bench_result *r,
                          const struct bench_metrics *m)
{
    json_t *o = bench_setting_json(t), *figures = bench_metrics_json(m);
    json_object_update(o, figures);
    json_decref(figures);
    json_object_set_new(o, "error_kinds", errors_json(r));
    json_object_set_new(o, "interrupted", json_boolean(r->interrupted));
    json_object_set_new(o, "cancelled", json_integer((json_int_t)r->n_cancelled));
    json_object_set_new(o, "without_usage", json_integer((json_int_t)r->n_without_usage));
    bench_groups_json(o, t, r);
    if (t->options->save_detailed)
        add_details(o, t, r);
    return o;
}
