#include "clients/bench/tenants.h"

#include "base/file.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_FILE ((size_t)64 << 20)

int64_t bench_tenants_find(const struct bench_tenants *t, const char *name)
{
    for (uint32_t i = 0; i < t->n; i++)
        if (t->v[i].name && strcmp(t->v[i].name, name) == 0)
            return i;
    return -1;
}

/* ---- one line ---- */

static bool read_count(const char *text, int64_t most, int64_t *out)
{
    char *end;
    errno = 0;
    long long n = strtoll(text, &end, 10);
    *out = n;
    return end != text && !*end && !errno && n >= 1 && n <= most;
}

static bool read_rate(const char *text, double *out)
{
    char *end;
    *out = strtod(text, &end);
    return end != text && !*end && *out > 0 && isfinite(*out);
}

static int read_models(struct bench_tenants *all, struct lodge_arena *arena, struct bench_tenant *t,
                       const char *list, const char *where, struct lodge_error *e)
{
    t->first_own = all->models.n;
    int err = bench_names_add_list(&all->models, arena, list, where, e);
    t->n_own = all->models.n - t->first_own;
    return err || t->n_own ? err : lodge_fail(e, LODGE_ERR_CONFIG, "%s: models= is empty", where);
}

static int read_field(struct bench_tenants *all, struct lodge_arena *arena, struct bench_tenant *t,
                      char *word, const char *where, struct lodge_error *e)
{
    char *value = strchr(word, '=');
    bool ok = false;
    if (!value)
        return lodge_fail(e, LODGE_ERR_CONFIG, "%s: behind name and key stands no NAME=VALUE",
                          where);
    *value++ = 0;
    if (strcmp(word, "models") == 0)
        return read_models(all, arena, t, value, where, e);
    if (strcmp(word, "rate") == 0)
        ok = read_rate(value, &t->rate);
    else if (strcmp(word, "concurrency") == 0)
        ok = read_count(value, 100000, &t->concurrency);
    else if (strcmp(word, "input") == 0)
        ok = read_count(value, 1 << 24, &t->n_input);
    else if (strcmp(word, "output") == 0)
        ok = read_count(value, 1 << 24, &t->n_output);
    else
        return lodge_fail(e, LODGE_ERR_CONFIG,
                          "%s: '%s' is none of rate, concurrency, models, input, output", where,
                          word);
    return ok ? 0
              : lodge_fail(e, LODGE_ERR_CONFIG, "%s: %s=%s is not a %s", where, word, value,
                           strcmp(word, "rate") == 0 ? "number above 0" : "whole number from 1");
}

static int add_line(struct bench_tenants *all, struct lodge_arena *arena, char *line,
                    const char *where, struct lodge_error *e)
{
    static const char space[] = " \t\r";
    struct bench_tenant t = {0};
    char *rest, *name = strtok_r(line, space, &rest);
    if (!name || *name == '#')
        return 0;
    char *key = strtok_r(NULL, space, &rest);
    if (!key || *key == '#')
        return lodge_fail(e, LODGE_ERR_CONFIG, "%s: tenant '%s' has no key", where, name);
    if (bench_tenants_find(all, name) >= 0)
        return lodge_fail(e, LODGE_ERR_CONFIG, "%s: tenant '%s' a second time", where, name);
    if (all->n == BENCH_MAX_TENANTS)
        return lodge_fail(e, LODGE_ERR_CONFIG, "%s: more than %u tenants", where,
                          BENCH_MAX_TENANTS);
    int err = 0;
    for (char *word; !err && (word = strtok_r(NULL, space, &rest)) && *word != '#';)
        err = read_field(all, arena, &t, word, where, e);
    t.name = lodge_arena_strndup(arena, name, strlen(name));
    t.api_key = lodge_arena_strndup(arena, key, strlen(key));
    if (!err && (!t.name || !t.api_key))
        err = lodge_fail(e, LODGE_ERR_NOMEM, "no memory for the tenants");
    if (!err)
        all->v[all->n++] = t;
    return err;
}

/* ---- shares ---- */

/* Part i of n even whole parts of `whole`, the first ones being larger; at least 1. */
static int64_t even_part(int64_t whole, uint32_t n, uint32_t i)
{
    int64_t part = whole / n + (i < whole % n);
    return part ? part : 1;
}

/* A closed loop needs a number of clients, an open one may do without. */
static bool shares_clients(const struct bench_tenant *t, const struct bench_shares *s)
{
    return !t->concurrency && (s->concurrency || t->rate == 0);
}

/* What tenants did not say for themselves. */
static void give_shares(struct bench_tenants *t, const struct bench_shares *s)
{
    uint32_t n_rates = 0, n_clients = 0, i_client = 0;
    for (uint32_t i = 0; i < t->n; i++)
        n_rates += t->v[i].rate == 0 && !t->v[i].concurrency;
    for (uint32_t i = 0; i < t->n; i++)
        if (t->v[i].rate == 0 && !t->v[i].concurrency)
            t->v[i].rate = s->rate / n_rates;
    for (uint32_t i = 0; i < t->n; i++)
        n_clients += shares_clients(&t->v[i], s);
    for (uint32_t i = 0; i < t->n; i++)
        if (shares_clients(&t->v[i], s))
            t->v[i].concurrency =
                even_part(s->concurrency ? s->concurrency : BENCH_CLIENTS, n_clients, i_client++);
}

int bench_tenants_single(struct bench_tenants *out, struct lodge_arena *arena,
                         const struct bench_shares *shares, struct lodge_error *e)
{
    *out = (struct bench_tenants){.v = lodge_arena_array(arena, 1, sizeof *out->v), .n = 1};
    if (!out->v)
        return lodge_fail(e, LODGE_ERR_NOMEM, "no memory for the tenants");
    give_shares(out, shares);
    return 0;
}

int bench_tenants_read(struct bench_tenants *out, struct lodge_arena *arena, const char *path,
                       const struct bench_shares *shares, struct lodge_error *e)
{
    char *text = NULL, where[300];
    size_t n_bytes, number = 0;
    *out = (struct bench_tenants){.v = lodge_arena_array(arena, BENCH_MAX_TENANTS, sizeof *out->v),
                                  .path = path};
    int err = out->v ? 0 : lodge_fail(e, LODGE_ERR_NOMEM, "no memory for the tenants");
    if (!err)
        err = lodge_file_read(path, MAX_FILE, &text, &n_bytes, e);
    char *rest = text;
    for (char *line; !err && rest && (line = strsep(&rest, "\n"));) {
        snprintf(where, sizeof where, "%.250s line %zu", path, ++number);
        err = add_line(out, arena, line, where, e);
    }
    free(text);
    if (!err && !out->n)
        err = lodge_fail(e, LODGE_ERR_CONFIG, "%s: no tenants in it", path);
    if (!err)
        give_shares(out, shares);
    return err;
}
