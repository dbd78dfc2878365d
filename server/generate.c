/* From a parsed call to engine requests, and back: suspending, taking events, replying. */
#include "server/call.h"

#include "base/clock.h"
#include "base/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Of a stream, at once: events are compact, chunks are not. */
#define MAX_FORMATTED ((size_t)64 << 10)

static void finish_choice(struct choice *c)
{
    struct lodge_buf *const bufs[] = {&c->text,    &c->logprobs,   &c->lp_tokens, &c->lp_values,
                                      &c->lp_tops, &c->lp_offsets, &c->token_ids};
    for (size_t b = 0; b < sizeof bufs / sizeof *bufs; b++)
        lodge_buf_finish(bufs[b]);
}

void generation_free(struct generation *g)
{
    if (!g)
        return;
    for (uint32_t i = 0; i < g->n_runs; i++) {
        struct run *r = &g->runs[i];
        lodge_stream_close(r->stream);
        lodge_ids_finish(&r->prompt);
        lodge_buf_finish(&r->prompt_logprobs);
        lodge_buf_finish(&r->events);
        for (uint32_t k = 0; k < g->best_of; k++)
            finish_choice(&r->choices[k]);
    }
    if (g->tenant)
        adapters_end(g->server, g->tenant, &g->req);
    for (uint32_t i = 0; i < g->req.n_adapters; i++)
        lodge_adapter_version_unref(g->req.adapters[i].version);
    lodge_buf_finish(&g->out);
    lodge_arena_finish(&g->arena);
    free(g);
}

/* ---- submitting ---- */

static int submit_runs(struct lodge_engine *en, struct generation *g, struct lodge_error *e)
{
    int err = 0;
    for (uint32_t i = 0; i < g->n_runs && !err; i++) {
        struct lodge_request req = g->req;
        req.prompt = g->runs[i].prompt.data;
        req.n_prompt = (uint32_t)g->runs[i].prompt.n;
        err = lodge_engine_submit(en, &req, &g->runs[i].stream, &g->runs[i].id, e);
    }
    return err;
}

/* All prompts or none: everything else was checked before, and under the lock nobody else takes
 * places in the queue. The lock also makes the ids known before the notifier looks for them. */
static int submit_all(struct call *c, struct generation *g, struct lodge_error *e)
{
    struct server *s = c->server;
    struct lodge_engine *en = atomic_load(&s->engine);
    struct lodge_engine_stats st;
    pthread_mutex_lock(&s->calls_lock);
    lodge_engine_get_stats(en, &st);
    int err = 0;
    if (st.n_waiting + (uint64_t)g->n_runs > (uint64_t)s->cfg->max_queue)
        err = lodge_fail(e, LODGE_ERR_FULL, "the queue is full (%u requests wait); try again soon",
                         st.n_waiting);
    else
        err = submit_runs(en, g, e);
    if (!err) {
        c->gen = g;
        atomic_fetch_add(&s->n_generations, 1);
    }
    pthread_mutex_unlock(&s->calls_lock);
    return err;
}

/* Within the tenant's limits, or with c->reply filled, or with the error. */
static int begin(struct call *c, struct generation *g, struct lodge_error *e)
{
    if (!account_admit(c, g))
        return LODGE_ERR_THROTTLED;
    if (!adapters_begin(c->server, c->principal.tenant, &g->req, e))
        return LODGE_ERR_THROTTLED;
    g->tenant = c->principal.tenant;
    g->server = c->server;
    return submit_all(c, g, e);
}

void generate_prepare(struct call *c, enum call_kind kind)
{
    struct refusal r = {0};
    struct generation *g = calloc(1, sizeof *g);
    int err = g ? parse_generation(c, g, kind, &r)
                : lodge_fail(&r.e, LODGE_ERR_NOMEM, "no memory for the request");
    if (!err) {
        g->created = (int64_t)lodge_unix_time();
        snprintf(g->id, sizeof g->id, "%s-%s", kind == CALL_CHAT ? "chatcmpl" : "cmpl",
                 c->request_id + 4);
        g->req.tenant = c->principal.tenant->number;
        g->req.tenant_salt = c->principal.salt;
        g->req.tier = c->principal.tier;
        g->req.weight = c->principal.weight;
        err = begin(c, g, &r.e);
        /* The parser checked everything but what the adapters come to together. */
        if (err == LODGE_ERR_INVALID)
            snprintf(r.param, sizeof r.param, "%s",
                     lodge_json_member(c->json, "adapters") ? "adapters" : "model");
    }
    if (err) {
        account_undo(c);
        generation_free(g);
    }
    if (err && !c->reply.status)
        reply_lodge_error(c, &r);
}

/* ---- events ---- */

static void handle_end(struct call *c, struct run *r, const struct lodge_event *ev)
{
    struct generation *g = c->gen;
    struct metrics *m = &c->server->metrics;
    uint32_t longest = 0;
    r->end = *ev;
    r->ended = true;
    g->n_ended++;
    for (uint32_t k = 0; k < g->best_of; k++)
        if (r->choices[k].n_tokens > longest)
            longest = r->choices[k].n_tokens;
    metrics_finish(m, ev, longest, g->req.max_tokens, g->n);
    if (longest > 1 && r->last_token_ns > r->first_token_ns)
        metrics_observe(m, H_TPOT,
                        (double)(r->last_token_ns - r->first_token_ns) * 1e-9 / (longest - 1));
}

static void observe_token(struct call *c, struct run *r, const struct lodge_event *ev)
{
    struct metrics *m = &c->server->metrics;
    if (!r->first_token_ns) {
        r->first_token_ns = ev->time_ns;
        metrics_observe(m, H_TTFT, (double)(ev->time_ns - c->begin_ns) * 1e-9);
    } else if (ev->time_ns > r->last_token_ns) {
        metrics_observe(m, H_ITL, (double)(ev->time_ns - r->last_token_ns) * 1e-9);
    }
    r->last_token_ns = ev->time_ns;
}

static void take_event(struct call *c, uint32_t run, const struct lodge_event *ev)
{
    struct generation *g = c->gen;
    account_event(c, run, ev);
    if (ev->head.kind == LODGE_EVENT_STARTED)
        g->admitted = true;
    if (ev->head.kind == LODGE_EVENT_TOKEN)
        observe_token(c, &g->runs[run], ev);
    if (ev->head.kind == LODGE_EVENT_END)
        handle_end(c, &g->runs[run], ev);
    format_event(c, run, ev);
}

static void take_run(struct call *c, uint32_t run)
{
    struct generation *g = c->gen;
    struct run *r = &g->runs[run];
    while (!r->ended && g->out.n < MAX_FORMATTED) {
        const struct lodge_record *rec = lodge_record_next(&r->events, &r->at);
        if (rec) {
            take_event(c, run, (const struct lodge_event *)rec);
            continue;
        }
        lodge_stream_take(r->stream, &r->events);
        r->at = 0;
        if (!r->events.n)
            return;
    }
}

void generation_take(struct call *c)
{
    for (uint32_t i = 0; i < c->gen->n_runs; i++)
        take_run(c, i);
}

/* ---- replies ---- */

/* The first run that failed, or NULL. */
static const struct run *failed_run(const struct generation *g)
{
    for (uint32_t i = 0; i < g->n_runs; i++)
        if (g->runs[i].ended && g->runs[i].end.finish >= LODGE_FINISH_ABORT)
            return &g->runs[i];
    return NULL;
}

static void reply_failed(struct call *c, int error)
{
    struct refusal r = {.e.code = error ? error : LODGE_ERR_INTERNAL};
    if (account_settled(c, failure_of(r.e.code)->status))
        reply_lodge_error(c, &r);
}

static void reply_whole(struct call *c)
{
    struct lodge_buf out;
    if (!account_settled(c, 200))
        return;
    lodge_buf_init(&out, (size_t)1 << 30);
    format_reply(c, &out);
    reply_buf(c, 200, "application/json", &out);
}

/* Something to send now? Fills c->reply, or starts the stream. A reply waits until its row of the
 * ledger is committed. The head of a stream waits until the
 * request has left the queue, so that a refusal is a status and not an event. */
static bool is_due(struct call *c)
{
    const struct generation *g = c->gen;
    const struct run *failed = failed_run(g);
    bool begun = g->stream && g->admitted;
    if (!begun && failed)
        reply_failed(c, failed->end.error);
    else if (!begun && atomic_load(&c->server->aborting))
        reply_failed(c, LODGE_ERR_CANCELLED);
    else if (!g->stream && g->n_ended == g->n_runs)
        reply_whole(c);
    return begun || c->reply.status;
}

enum MHD_Result generate_advance(struct call *c)
{
    for (;;) {
        generation_take(c);
        if (is_due(c))
            return c->reply.status ? reply_send(c) : stream_start(c);
        if (call_gone(c))
            return MHD_NO;
        if (call_suspend(c))
            return MHD_YES;
    }
}
