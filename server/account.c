/* What a generation costs: admission by the tenant's limits, the ledger's row, and settlement. */
#include "server/call.h"

#include "base/clock.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- refusals ---- */

static const struct {
    const char *name, *unit;
} kinds[N_THROTTLES] = {
    [THROTTLE_REQUESTS] = {"requests per minute", "requests"},
    [THROTTLE_TOKENS] = {"tokens per minute", "tokens"},
    [THROTTLE_CONCURRENT] = {"concurrent requests", "requests"},
    [THROTTLE_LOADS] = {"adapter loads per minute", "loads"},
};

static void refuse_budget(struct call *c, const struct throttled *t)
{
    reply_error(c, 429, "insufficient_quota", NULL, "insufficient_quota",
                "this request may take %lld tokens (the prompt, and up to %u of each reply), and "
                "of the project's budget of %lld tokens %lld are left; ask the operator for more",
                (long long)t->asked, TENANT_RESERVE_TOKENS, (long long)t->limit,
                (long long)t->left);
    c->reply.no_retry = true;
}

static void refuse(struct call *c, const struct throttled *t)
{
    if (t->why == THROTTLE_BUDGET) {
        refuse_budget(c, t);
    } else if (t->retry_s < 0) {
        reply_error(c, 429, "rate_limit_error", NULL, "rate_limit_exceeded",
                    "the request is larger than the project's limit: %s: limit %lld, requested "
                    "%lld; shorten the prompt, or lower 'max_tokens' or 'n'",
                    kinds[t->why].name, (long long)t->limit, (long long)t->asked);
        c->reply.no_retry = true;
    } else {
        reply_error(c, 429, "rate_limit_error", NULL, "rate_limit_exceeded",
                    "the project's limit is reached: %s: limit %lld, left %lld, requested %lld; "
                    "try again in %.3g s",
                    kinds[t->why].name, (long long)t->limit, (long long)t->left,
                    (long long)t->asked, t->retry_s);
        c->reply.retry_after_s = t->retry_s > 1 ? (int)ceil(t->retry_s) : 1;
    }
}

/* ---- admission ---- */

static int64_t may_cost(const struct generation *g)
{
    int64_t reply = g->req.max_tokens, sum = 0;
    if (reply > TENANT_RESERVE_TOKENS)
        reply = TENANT_RESERVE_TOKENS;
    for (uint32_t i = 0; i < g->n_runs; i++)
        sum += (int64_t)g->runs[i].prompt.n + g->best_of * reply;
    return sum;
}

static void begin_row(const struct call *c, const struct generation *g, struct ledger_row *r)
{
    memset(r, 0, sizeof *r); /* padding, too: the journal checks all bytes */
    size_t n = strlen(g->model), most = sizeof r->model - 1;
    /* Never through a character. */
    for (n = n < most ? n : most; n && ((unsigned char)g->model[n] & 0xC0) == 0x80;)
        n--;
    memcpy(r->model, g->model, n);
    snprintf(r->request_id, sizeof r->request_id, "%s", c->request_id);
    snprintf(r->key_id, sizeof r->key_id, "%s", principal_key_id(&c->principal));
    r->project = c->principal.tenant->number;
    r->time_us = (int64_t)(lodge_unix_time() * 1e6);
    if (g->req.n_adapters)
        r->adapter = lodge_adapter_version_info(g->req.adapters[0].version)->digest;
    r->joules = -1;
    r->status = 499;
    r->finish = LEDGER_ABORT;
}

bool account_admit(struct call *c, const struct generation *g)
{
    struct tenants *all = &c->server->tenants;
    struct account *a = &c->account;
    struct throttled why;
    a->reserved = may_cost(g);
    tenant_label(all, c->principal.tenant);
    if (!tenant_admit(c->principal.tenant, a->reserved, lodge_now_ns(), &why)) {
        refuse(c, &why);
        return false;
    }
    a->admitted = true;
    if (!all->has_store)
        return true;
    struct ledger_row r;
    begin_row(c, g, &r);
    a->entry = ledger_begin(&all->ledger, &r);
    if (a->entry)
        return true;
    account_undo(c);
    reply_error(c, 503, "overloaded_error", NULL, "queue_full",
                "too many requests wait for the ledger; try again soon");
    return false;
}

void account_undo(struct call *c)
{
    struct account *a = &c->account;
    if (!a->admitted)
        return;
    tenant_settle(c->principal.tenant, a->reserved, 0, true, lodge_now_ns());
    if (a->entry)
        ledger_cancel(&c->server->tenants.ledger, a->entry);
    /* Not the whole: whoever tells of commits looks at `waiting`. */
    a->admitted = false;
    a->reserved = 0;
    a->entry = NULL;
}

/* ---- while it runs ---- */

/* The prompt of a run is charged with its first token. */
void account_event(struct call *c, uint32_t run, const struct lodge_event *ev)
{
    struct run *r = &c->gen->runs[run];
    if (ev->head.kind == LODGE_EVENT_STARTED)
        r->started = true;
    if (ev->head.kind == LODGE_EVENT_TOKEN && c->account.entry && c->gen->stream)
        ledger_sent(c->account.entry, r->first_token_ns ? 0 : (uint32_t)r->prompt.n, 1);
}

/* ---- the end ---- */

/* Tokens of a run that were made and not looked at. */
static uint32_t count_rest(struct run *r)
{
    uint32_t n = 0;
    for (bool taken = false;; taken = true) {
        for (const struct lodge_record *rec; (rec = lodge_record_next(&r->events, &r->at));) {
            r->started |= rec->kind == LODGE_EVENT_STARTED;
            n += rec->kind == LODGE_EVENT_TOKEN;
        }
        if (taken || !r->stream)
            return n;
        lodge_stream_take(r->stream, &r->events);
        r->at = 0;
    }
}

static void sum_up(struct call *c, struct ledger_row *row, int status)
{
    struct generation *g = c->gen;
    uint64_t queued = 0, first = 0;
    uint32_t finish = 0;
    for (uint32_t i = 0; i < g->n_runs; i++) {
        struct run *r = &g->runs[i];
        uint32_t rest = r->ended ? 0 : count_rest(r);
        uint32_t end = r->ended ? r->end.finish : LODGE_FINISH_ABORT;
        row->prompt_tokens += r->started ? (uint32_t)r->prompt.n : 0;
        row->cached_tokens += r->end.cached_tokens;
        row->output_tokens += rest;
        for (uint32_t k = 0; k < g->best_of; k++)
            row->output_tokens += r->choices[k].n_tokens;
        row->page_seconds += r->end.page_seconds;
        queued = r->end.queued_ns > queued ? r->end.queued_ns : queued;
        finish = end > finish ? end : finish;
        if (r->first_token_ns && (!first || r->first_token_ns < first))
            first = r->first_token_ns;
    }
    row->queue_ms = (uint32_t)(queued / 1000000u);
    row->ttft_ms = first > c->begin_ns ? (uint32_t)((first - c->begin_ns) / 1000000u) : 0;
    row->status = (uint32_t)status;
    row->finish = finish; /* the names are the same */
}

static void settle(struct call *c, int status)
{
    struct account *a = &c->account;
    struct ledger_row unstored = {.joules = -1};
    struct ledger_row *row = a->entry ? &a->entry->row : &unstored;
    sum_up(c, row, status);
    a->settled = true;
    tenant_count(c->principal.tenant, row);
    tenant_settle(c->principal.tenant, a->reserved,
                  (int64_t)row->prompt_tokens + row->output_tokens, false, lodge_now_ns());
    atomic_store(&a->waiting, a->entry != NULL);
    if (a->entry)
        ledger_post(&c->server->tenants.ledger, a->entry);
}

bool account_settled(struct call *c, int status)
{
    struct account *a = &c->account;
    if (!a->settled)
        settle(c, status);
    if (a->entry && !atomic_load(&a->entry->committed))
        return false;
    atomic_store(&a->waiting, false);
    return true;
}

void account_close(struct call *c)
{
    struct account *a = &c->account;
    if (a->admitted && !a->settled)
        settle(c, c->status);
    ledger_release(a->entry);
    a->entry = NULL;
}
