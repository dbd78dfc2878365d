#include "clients/bench/result.h"

#include "clients/text.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void bench_result_finish(struct bench_result *r)
{
    free(r->records);
    bench_samples_finish(&r->itl_ms);
    bench_samples_finish(&r->per_second);
    *r = (struct bench_result){0};
}

int bench_result_add(struct bench_result *r, const struct bench_record *record,
                     const struct bench_samples *itl_ms)
{
    if (r->n == r->_room) {
        size_t room = r->_room ? r->_room * 2 : 64;
        struct bench_record *grown = reallocarray(r->records, room, sizeof *grown);
        if (!grown)
            return LODGE_ERR_NOMEM;
        r->records = grown;
        r->_room = room;
    }
    struct bench_record *own = &r->records[r->n++];
    *own = *record;
    own->itl_at = r->itl_ms.n;
    own->n_itl = 0;
    int err = 0;
    for (size_t i = 0; i < itl_ms->n && !err; i++, own->n_itl += !err)
        err = bench_samples_add(&r->itl_ms, itl_ms->v[i]);
    return err;
}

int bench_result_error(struct bench_result *r, const char *kind, const char *example)
{
    uint32_t i = 0;
    while (i < r->n_errors && strcmp(r->errors[i].kind, kind) != 0 && i < BENCH_MAX_ERROR_KINDS - 1)
        i++;
    struct bench_error_kind *own = &r->errors[i];
    if (i == r->n_errors) {
        r->n_errors++;
        snprintf(own->kind, sizeof own->kind, "%s",
                 i < BENCH_MAX_ERROR_KINDS - 1 ? kind : "other errors");
        text_clean_line(example, strlen(example), own->example, sizeof own->example);
    }
    own->n++;
    return (int)i;
}

void bench_result_add_notes(struct bench_result *r, const struct bench_result *from)
{
    for (uint32_t i = 0; i < from->n_errors; i++) {
        const struct bench_error_kind *k = &from->errors[i];
        r->errors[bench_result_error(r, k->kind, k->example)].n += k->n - 1;
    }
    r->n_cancelled += from->n_cancelled;
    r->n_without_usage += from->n_without_usage;
    r->interrupted |= from->interrupted;
    if (from->gave_up[0])
        snprintf(r->gave_up, sizeof r->gave_up, "%s", from->gave_up);
}

/* ---- figures ---- */

static void put(struct bench_metrics *m, const char *key, double value, bool integer)
{
    struct bench_metric *own = &m->m[m->n++];
    snprintf(own->key, sizeof own->key, "%s", key);
    own->value = value;
    own->integer = integer;
}

static double ms(uint64_t from_ns, uint64_t to_ns)
{
    return to_ns > from_ns ? (double)(to_ns - from_ns) * 1e-6 : 0;
}

/* The times of one completed request; NAN where there is none. */
static void times_of(const struct bench_record *r, double t[BENCH_N_TIMES])
{
    t[BENCH_TTFT] = r->first_ns ? ms(r->due_ns, r->first_ns) : NAN;
    t[BENCH_TPOT] = r->first_ns && r->n_output > 1
                        ? ms(r->first_ns, r->last_ns) / (double)(r->n_output - 1)
                        : NAN;
    t[BENCH_ITL] = NAN;
    t[BENCH_E2EL] = ms(r->due_ns, r->last_ns);
}

/* As vLLM: every bound holds; a time that does not exist (one token: no TPOT) meets its bound. */
static bool is_good(const struct bench_options *o, const double t[BENCH_N_TIMES])
{
    for (int i = 0; i < BENCH_N_TIMES; i++)
        if (o->goodput_ms[i] > 0 && t[i] > o->goodput_ms[i])
            return false;
    return true;
}

/* Uncached input and twice the output of a completed request, as far as it was there when the load
 * ended: with --duration what runs on after it would count for those who ask for long replies. */
static int64_t service_of(const struct bench_options *o, const struct bench_result *result,
                          const struct bench_record *r)
{
    int64_t n_input = r->n_input - r->n_cached;
    if (o->duration_s <= 0)
        return n_input + 2 * r->n_output;
    uint64_t end = result->begin_ns + (uint64_t)(o->duration_s * 1e9);
    if (!r->first_ns)
        return r->last_ns <= end ? n_input + 2 * r->n_output : 0;
    size_t inside = r->first_ns <= end;
    double left_ms = ms(r->first_ns, end);
    for (size_t i = 0; i < r->n_itl && (left_ms -= result->itl_ms.v[r->itl_at + i]) >= 0; i++)
        inside++;
    return inside ? n_input +
                        llround(2.0 * (double)r->n_output * (double)inside / (double)(r->n_itl + 1))
                  : 0;
}

struct sums {
    struct bench_samples times[BENCH_N_TIMES], lag_ms;
    uint64_t completed, failed, limited, good;
    int64_t n_input, n_output, n_cached, service;
};

static int add_record(const struct bench_options *o, const struct bench_result *result,
                      const struct bench_record *r, struct sums *s)
{
    double t[BENCH_N_TIMES];
    int err = bench_samples_add(&s->lag_ms, ms(r->due_ns, r->sent_ns));
    if (r->error >= 0) {
        s->failed++;
        s->limited += r->limited;
        return err;
    }
    times_of(r, t);
    for (int i = 0; i < BENCH_N_TIMES && !err; i++)
        if (!isnan(t[i]))
            err = bench_samples_add(&s->times[i], t[i]);
    for (size_t i = 0; i < r->n_itl && !err; i++)
        err = bench_samples_add(&s->times[BENCH_ITL], result->itl_ms.v[r->itl_at + i]);
    s->completed++;
    s->good += is_good(o, t);
    s->n_input += r->n_input;
    s->n_output += r->n_output;
    s->n_cached += r->n_cached;
    s->service += service_of(o, result, r);
    return err;
}

static void put_time(const struct bench_options *o, struct bench_metrics *m, const char *name,
                     struct bench_samples *s)
{
    char key[40];
    bench_samples_sort(s);
    snprintf(key, sizeof key, "mean_%s_ms", name);
    put(m, key, bench_mean(s), false);
    snprintf(key, sizeof key, "median_%s_ms", name);
    put(m, key, bench_percentile(s, 50), false);
    snprintf(key, sizeof key, "std_%s_ms", name);
    put(m, key, bench_deviation(s), false);
    for (uint32_t i = 0; i < o->n_percentiles; i++) {
        snprintf(key, sizeof key, "p%.6g_%s_ms", o->percentiles[i], name);
        put(m, key, bench_percentile(s, o->percentiles[i]), false);
    }
}

/* What the records, all or those of one tenant or model, sum up to. */
static void put_sums(const struct bench_options *o, const struct bench_result *r,
                     const struct sums *s, struct bench_metrics *m)
{
    double d = r->end_ns > r->begin_ns ? (double)(r->end_ns - r->begin_ns) * 1e-9 : 0;
    double per_s = d > 0 ? 1 / d : NAN;
    uint64_t n = s->completed + s->failed;
    put(m, "duration", d, false);
    put(m, "completed", (double)s->completed, true);
    put(m, "failed", (double)s->failed, true);
    put(m, "rate_limited", (double)s->limited, true);
    put(m, "total_input_tokens", (double)s->n_input, true);
    put(m, "total_cached_tokens", (double)s->n_cached, true);
    put(m, "total_output_tokens", (double)s->n_output, true);
    put(m, "weighted_service", (double)s->service, true);
    put(m, "request_throughput", (double)s->completed * per_s, false);
    put(m, "request_goodput", o->goodput ? (double)s->good * per_s : NAN, false);
    put(m, "goodput_share", o->goodput && n ? (double)s->good / (double)n : NAN, false);
    put(m, "output_throughput", (double)s->n_output * per_s, false);
    put(m, "total_token_throughput", (double)(s->n_input + s->n_output) * per_s, false);
}

/* What only the whole run has. */
static void put_run(const struct bench_result *r, struct sums *s, struct bench_metrics *m)
{
    double busiest = 0;
    for (size_t i = 0; i < r->per_second.n; i++)
        busiest = fmax(busiest, r->per_second.v[i]);
    put(m, "max_output_tokens_per_s", busiest, false);
    put(m, "max_concurrent_requests", r->peak_running, true);
    bench_samples_sort(&s->lag_ms);
    put(m, "mean_client_lag_ms", bench_mean(&s->lag_ms), false);
    put(m, "p99_client_lag_ms", bench_percentile(&s->lag_ms, 99), false);
    put(m, "client_cpu_seconds", r->cpu_s, false);
}

/* How evenly the tenants were served: those without any request count as well. */
static int put_fairness(const struct bench_options *o, const struct bench_result *r,
                        struct bench_metrics *m)
{
    struct bench_samples tokens = {0}, service = {0};
    int err = 0;
    for (uint32_t i = 0; i < o->tenants.n && !err; i++) {
        err = bench_samples_add(&tokens, 0);
        if (!err)
            err = bench_samples_add(&service, 0);
    }
    for (size_t i = 0; i < r->n && !err; i++) {
        const struct bench_record *c = &r->records[i];
        if (c->error >= 0)
            continue;
        tokens.v[c->tenant] += (double)c->n_output;
        service.v[c->tenant] += (double)service_of(o, r, c);
    }
    put(m, "jain_output_throughput", bench_jain(&tokens), false);
    put(m, "jain_weighted_service", bench_jain(&service), false);
    put(m, "max_min_output_throughput", bench_max_min(&tokens), false);
    put(m, "max_min_weighted_service", bench_max_min(&service), false);
    bench_samples_finish(&tokens);
    bench_samples_finish(&service);
    return err;
}

static int put_focus(const struct bench_options *o, const struct bench_result *r,
                     struct bench_metrics *m)
{
    struct bench_samples ttft = {0};
    int err = 0;
    for (size_t i = 0; i < r->n && !err; i++) {
        const struct bench_record *c = &r->records[i];
        if (c->tenant == o->focus && c->error < 0 && c->first_ns)
            err = bench_samples_add(&ttft, ms(c->due_ns, c->first_ns));
    }
    bench_samples_sort(&ttft);
    put(m, "focus_p50_ttft_ms", bench_percentile(&ttft, 50), false);
    put(m, "focus_p99_ttft_ms", bench_percentile(&ttft, 99), false);
    bench_samples_finish(&ttft);
    return err;
}

static bool is_wanted(const struct bench_filter *only, const struct bench_record *r)
{
    return !only || ((only->tenant < 0 || r->tenant == only->tenant) &&
                     (only->model < 0 || r->model == only->model));
}

int bench_metrics_make(const struct bench_options *o, const struct bench_result *r,
                       const struct bench_filter *only, struct bench_metrics *out)
{
    struct sums s = {0};
    int err = 0;
    out->n = 0;
    for (size_t i = 0; i < r->n && !err; i++)
        if (is_wanted(only, &r->records[i]))
            err = add_record(o, r, &r->records[i], &s);
    put_sums(o, r, &s, out);
    if (!only)
        put_run(r, &s, out);
    for (int i = 0; i < BENCH_N_TIMES; i++)
        if (o->show[i])
            put_time(o, out, bench_time_names[i], &s.times[i]);
    if (!err && !only && o->tenants.path)
        err = put_fairness(o, r, out);
    if (!err && !only && o->focus >= 0)
        err = put_focus(o, r, out);
    for (int i = 0; i < BENCH_N_TIMES; i++)
        bench_samples_finish(&s.times[i]);
    bench_samples_finish(&s.lag_ms);
    return err;
}

double bench_metrics_get(const struct bench_metrics *m, const char *key)
{
    for (uint32_t i = 0; i < m->n; i++)
        if (strcmp(m->m[i].key, key) == 0)
            return m->m[i].value;
    return NAN;
}
