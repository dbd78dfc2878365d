#include "clients/bench/groups.h"

#include "clients/bench/report.h"

#include <math.h>
#include <stdlib.h>

#define MODELS_SHOWN 10
/* More tenants than both together: the most served, then the least served. */
#define MOST_SHOWN 10
#define LEAST_SHOWN 10

/* ---- who is shown ---- */

struct share {
    uint32_t id; /* of a tenant or a model */
    uint64_t n;  /* what it is ranked by */
};

static int largest_first(const void *a, const void *b)
{
    const struct share *x = a, *y = b;
    return x->n != y->n ? (x->n < y->n) - (x->n > y->n) : (x->id > y->id) - (x->id < y->id);
}

static struct share *new_shares(uint32_t n)
{
    struct share *s = calloc(n, sizeof *s);
    for (uint32_t i = 0; s && i < n; i++)
        s[i].id = i;
    return s;
}

/* Models by requests. NULL without memory. */
static struct share *rank_models(const struct bench_target *t, const struct bench_result *r)
{
    struct share *s = new_shares(t->n_models);
    for (size_t i = 0; s && i < r->n; i++)
        s[r->records[i].model].n++;
    if (s)
        qsort(s, t->n_models, sizeof *s, largest_first);
    return s;
}

/* Tenants by output tokens, or as in the file when all are shown. NULL without memory. */
static struct share *rank_tenants(const struct bench_options *o, const struct bench_result *r)
{
    struct share *s = new_shares(o->tenants.n);
    for (size_t i = 0; s && i < r->n; i++)
        s[r->records[i].tenant].n += (uint64_t)r->records[i].n_output;
    if (s && o->tenants.n > MOST_SHOWN + LEAST_SHOWN)
        qsort(s, o->tenants.n, sizeof *s, largest_first);
    return s;
}

/* ---- the table ---- */

static int put_tenant(FILE *out, const struct bench_options *o, const struct bench_result *r,
                      uint32_t tenant)
{
    static const char *const times[] = {"median_ttft_ms", "p99_ttft_ms", "median_e2el_ms",
                                        "p99_e2el_ms"};
    struct bench_metrics m;
    struct bench_filter only = {.tenant = tenant, .model = -1};
    int err = bench_metrics_make(o, r, &only, &m);
    if (err)
        return err;
    double failed = bench_metrics_get(&m, "failed"),
           limited = bench_metrics_get(&m, "rate_limited");
    fprintf(out, "%-16.16s %8.0f %6.0f %6.0f", o->tenants.v[tenant].name,
            bench_metrics_get(&m, "completed"), failed - limited, limited);
    bench_print_cell(out, 9, bench_metrics_get(&m, "output_throughput"));
    bench_print_cell(out, 6, 100 * bench_metrics_get(&m, "goodput_share"));
    for (size_t i = 0; i < sizeof times / sizeof *times; i++)
        bench_print_cell(out, 8, bench_metrics_get(&m, times[i]));
    fprintf(out, "\n");
    return 0;
}

static void put_evenness(FILE *out, const struct bench_options *o, const struct bench_metrics *m)
{
    static const char *const rows[][3] = {
        {"  output tokens/s", "jain_output_throughput", "max_min_output_throughput"},
        {"  uncached input + 2 output", "jain_weighted_service", "max_min_weighted_service"}};
    fprintf(out, "\n%-28s %10s %10s\n", "fairness of", "Jain", "max/min");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        double jain = bench_metrics_get(m, rows[i][1]);
        if (isnan(jain))
            fprintf(out, "%-28s %10s", rows[i][0], "-");
        else
            fprintf(out, "%-28s %10.4f", rows[i][0], jain);
        bench_print_cell(out, 10, bench_metrics_get(m, rows[i][2]));
        fprintf(out, "\n");
    }
    if (o->focus >= 0) {
        fprintf(out, "TTFT of %s (ms): p50", o->focus_name);
        bench_print_cell(out, 1, bench_metrics_get(m, "focus_p50_ttft_ms"));
        fprintf(out, ", p99");
        bench_print_cell(out, 1, bench_metrics_get(m, "focus_p99_ttft_ms"));
        fprintf(out, "\n");
    }
}

int bench_print_tenants(FILE *out, const struct bench_target *t, const struct bench_result *r,
                        const struct bench_metrics *m)
{
    const struct bench_options *o = t->options;
    uint32_t n = o->tenants.n;
    if (!o->tenants.path)
        return 0;
    struct share *s = rank_tenants(o, r);
    int err = s ? 0 : LODGE_ERR_NOMEM;
    fprintf(out, "\n%-16s %8s %6s %6s %9s %6s %8s %8s %8s %8s\n", "tenant (ms)", "done", "failed",
            "429", "tokens/s", "good %", "TTFT p50", "p99", "E2EL p50", "p99");
    for (uint32_t i = 0; !err && i < n; i++) {
        if (n > MOST_SHOWN + LEAST_SHOWN && i == MOST_SHOWN) {
            i = n - LEAST_SHOWN;
            fprintf(out, "... and of %u tenants those served least:\n", n);
        }
        err = put_tenant(out, o, r, s[i].id);
    }
    free(s);
    if (!err)
        put_evenness(out, o, m);
    return err;
}

int bench_print_models(FILE *out, const struct bench_target *t, const struct bench_result *r)
{
    static const char *const keys[] = {"completed",      "failed",         "output_throughput",
                                       "median_ttft_ms", "median_tpot_ms", "median_e2el_ms"};
    if (t->n_models < 2)
        return 0;
    struct share *s = rank_models(t, r);
    int err = s ? 0 : LODGE_ERR_NOMEM;
    fprintf(out, "\n%-28s %9s %9s %9s %9s %9s %9s\n", "model (medians, ms)", "completed", "failed",
            "tokens/s", "TTFT", "TPOT", "E2EL");
    for (uint32_t i = 0; !err && i < t->n_models && i < MODELS_SHOWN && s[i].n; i++) {
        struct bench_metrics m;
        struct bench_filter only = {.tenant = -1, .model = s[i].id};
        err = bench_metrics_make(t->options, r, &only, &m);
        fprintf(out, "%-28.28s", t->models[s[i].id]);
        for (size_t k = 0; !err && k < sizeof keys / sizeof *keys; k++)
            if (k < 2)
                fprintf(out, " %9.0f", bench_metrics_get(&m, keys[k]));
            else
                bench_print_cell(out, 9, bench_metrics_get(&m, keys[k]));
        fprintf(out, "\n");
    }
    free(s);
    return err;
}

/* ---- JSON ---- */

/* The figures of a tenant or a model. NULL without memory. */
static json_t *figures(const struct bench_target *t, const struct bench_result *r, int64_t tenant,
                       int64_t model)
{
    struct bench_metrics m;
    struct bench_filter only = {tenant, model};
    if (bench_metrics_make(t->options, r, &only, &m))
        return NULL;
    json_t *o = bench_metrics_json(&m);
    double failed = bench_metrics_get(&m, "failed");
    json_object_set_new(o, "requests",
                        json_integer((json_int_t)(bench_metrics_get(&m, "completed") + failed)));
    json_object_set_new(o, "errors",
                        json_integer((json_int_t)(failed - bench_metrics_get(&m, "rate_limited"))));
    return o;
}

static json_t *tenants_json(const struct bench_target *t, const struct bench_result *r)
{
    const struct bench_tenants *all = &t->options->tenants;
    json_t *list = json_array();
    for (uint32_t i = 0; i < all->n; i++) {
        const struct bench_tenant *own = &all->v[i];
        json_t *o = figures(t, r, i, -1);
        json_object_set_new(o, "name", json_string(own->name));
        json_object_set_new(o, "request_rate",
                            own->rate > 0 && isfinite(own->rate) ? json_real(own->rate)
                                                                 : json_null());
        json_object_set_new(o, "max_concurrency",
                            own->concurrency ? json_integer(own->concurrency) : json_null());
        json_array_append_new(list, o);
    }
    return list;
}

/* Whose own a model is; NULL: shared. */
static const char *owner_of(const struct bench_target *t, uint32_t model)
{
    const struct bench_tenants *all = &t->options->tenants;
    for (uint32_t i = 0; i < all->n && model >= t->n_shared; i++)
        if (model - t->n_shared - all->v[i].first_own < all->v[i].n_own)
            return all->v[i].name;
    return NULL;
}

static json_t *models_json(const struct bench_target *t, const struct bench_result *r)
{
    json_t *list = json_array();
    struct share *s = rank_models(t, r);
    for (uint32_t i = 0; s && i < t->n_models && i < BENCH_MODELS_SAVED && s[i].n; i++) {
        const char *owner = owner_of(t, s[i].id);
        json_t *o = figures(t, r, -1, s[i].id);
        json_object_set_new(o, "model_id", json_string(t->models[s[i].id]));
        if (owner)
            json_object_set_new(o, "tenant", json_string(owner));
        json_array_append_new(list, o);
    }
    free(s);
    return list;
}

void bench_groups_json(json_t *o, const struct bench_target *t, const struct bench_result *r)
{
    if (t->options->tenants.path)
        json_object_set_new(o, "tenants", tenants_json(t, r));
    if (t->options->per_model)
        json_object_set_new(o, "models", models_json(t, r));
}
