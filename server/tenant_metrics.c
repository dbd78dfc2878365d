/* Series of tenants. A series keeps its name for good, so that counters never jump: the first 100
 * tenants that ask for something get series of their own, the rest are summed as "other". */
#include "server/tenants.h"

#include <string.h>

#define MAX_LABELLED 100u
#define OTHER "other"

enum { KIND_PROMPT, KIND_CACHED, KIND_OUTPUT, N_KINDS };

static const char *const kinds[N_KINDS] = {"prompt", "cached", "output"};
static const char *const reasons[N_THROTTLES] = {"",           "requests", "tokens",
                                                 "concurrent", "loads",    "budget"};

struct numbers {
    char name[NAME_MAX_BYTES];
    uint64_t requests, tokens[N_KINDS], throttled[N_THROTTLES];
};

void tenant_label(struct tenants *all, struct tenant *t)
{
    pthread_mutex_lock(&t->lock);
    if (!t->labelled && atomic_load(&all->n_labelled) < MAX_LABELLED)
        t->labelled = atomic_fetch_add(&all->n_labelled, 1) < MAX_LABELLED;
    pthread_mutex_unlock(&t->lock);
}

void tenant_count(struct tenant *t, const struct ledger_row *r)
{
    pthread_mutex_lock(&t->lock);
    t->n_requests++;
    t->prompt_tokens += r->prompt_tokens;
    t->cached_tokens += r->cached_tokens;
    t->output_tokens += r->output_tokens;
    pthread_mutex_unlock(&t->lock);
}

static void add(struct numbers *n, struct tenant *t)
{
    n->requests += t->n_requests;
    n->tokens[KIND_PROMPT] += t->prompt_tokens;
    n->tokens[KIND_CACHED] += t->cached_tokens;
    n->tokens[KIND_OUTPUT] += t->output_tokens;
    for (int i = 0; i < N_THROTTLES; i++)
        n->throttled[i] += t->n_throttled[i];
}

/* One entry for each tenant with a label, and the rest last; their number. */
static uint32_t gather(struct tenants *t, struct numbers *out)
{
    struct numbers *rest = &out[MAX_LABELLED];
    uint32_t n = 0;
    strcpy(rest->name, OTHER);
    pthread_rwlock_rdlock(&t->lock);
    for (uint32_t i = 0; i < t->n_tenants; i++) {
        struct tenant *who = t->all[i];
        pthread_mutex_lock(&who->lock);
        struct numbers *to = who->labelled && n < MAX_LABELLED ? &out[n++] : rest;
        /* A tenant may be called "other", too, and names of archived ones are used again. */
        bool own = strcmp(who->name, OTHER) != 0 && !who->archived_at;
        if (to != rest)
            strcpy(to->name, own ? who->name : who->id);
        add(to, who);
        pthread_mutex_unlock(&who->lock);
    }
    pthread_rwlock_unlock(&t->lock);
    out[n] = *rest;
    return n + 1;
}

static void head(struct lodge_buf *out, const char *name, const char *help, bool open)
{
    const char *total = open ? "" : "_total";
    lodge_buf_printf(out, "# HELP %s%s %s\n# TYPE %s%s counter\n", name, total, help, name, total);
}

static void series(struct lodge_buf *out, const char *name, const struct numbers *n,
                   const char *label, const char *value, uint64_t count)
{
    lodge_buf_printf(out, "%s_total{tenant=\"", name);
    for (const char *p = n->name; *p; p++) {
        if (*p == '"' || *p == '\\')
            lodge_buf_append(out, "\\", 1);
        lodge_buf_append(out, *p == '\n' ? "\\n" : p, *p == '\n' ? 2 : 1);
    }
    if (label)
        lodge_buf_printf(out, "\",%s=\"%s", label, value);
    lodge_buf_printf(out, "\"} %llu\n", (unsigned long long)count);
}

void tenants_metrics(struct tenants *t, struct lodge_buf *out, bool open)
{
    struct numbers all[MAX_LABELLED + 1] = {0};
    uint32_t n = gather(t, all);
    head(out, "lodge_tenant_requests", "requests that were admitted and have ended", open);
    for (uint32_t i = 0; i < n; i++)
        series(out, "lodge_tenant_requests", &all[i], NULL, NULL, all[i].requests);
    head(out, "lodge_tenant_tokens", "tokens that were charged", open);
    for (uint32_t i = 0; i < n; i++)
        for (int k = 0; k < N_KINDS; k++)
            series(out, "lodge_tenant_tokens", &all[i], "kind", kinds[k], all[i].tokens[k]);
    head(out, "lodge_tenant_throttled", "requests that a limit refused", open);
    for (uint32_t i = 0; i < n; i++)
        for (int k = 1; k < N_THROTTLES; k++)
            series(out, "lodge_tenant_throttled", &all[i], "reason", reasons[k],
                   all[i].throttled[k]);
}
