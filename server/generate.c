/* From a parsed call to engine requests, and back: suspending, taking events, replying. */
#include "server/call.h"

#include "base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void finish_choice(struct choice *c)
{
    struct lodge_buf *const bufs[] = {&c->text,    &c->logprobs,   &c->lp_tokens, &c->lp_values,
                                      &c->lp_tops, &c->lp_offsets, &c->token_ids};
    for (size_t b = 0; b < sizeof bufs / sizeof *bufs; b++)
        lodge_buf_finish(bufs[b]);
}

void generation_destroy(struct call *c)
{
    struct generation *g = c->gen;
    if (!g)
        return;
    for (uint32_t i = 0; i < g->n_runs; i++) {
        struct run *r = &g->runs[i];
        lodge_stream_close(r->stream);
        lodge_ids_finish(&r->prompt);
        lodge_buf_finish(&r->prompt_logprobs);
        for (uint32_t k = 0; r->choices && k < g->best_of; k++)
            finish_choice(&r->choices[k]);
    }
    lodge_buf_finish(&g->out);
    lodge_arena_finish(&g->arena);
    free(g);
    c->gen = NULL;
}

/* Submits all prompts or none. The lock makes the ids known before the notifier may look for
 * them. */
static int submit_all(struct call *c, struct lodge_error *e)
{
    struct generation *g = c->gen;
    struct lodge_engine *en = atomic_load(&c->server->engine);
    int err = 0;
    pthread_mutex_lock(&c->server->calls_lock);
    for (uint32_t i = 0; i < g->n_runs && !err; i++) {
        struct lodge_request req = g->req;
        req.prompt = g->runs[i].prompt.data;
        req.n_prompt = (uint32_t)g->runs[i].prompt.n;
        err = lodge_engine_submit(en, &req, &g->runs[i].stream, &g->runs[i].id, e);
    }
    pthread_mutex_unlock(&c->server->calls_lock);
    return err;
}

static void handle_end(struct call *c, struct run *r, const struct lodge_event *ev)
{
    struct generation *g = c->gen;
    uint32_t finish[LODGE_MAX_CHOICES];
    r->end = *ev;
    r->ended = true;
    g->n_ended++;
    for (uint32_t k = 0; k < g->best_of; k++)
        finish[k] = ev->finish;
    metrics_finish(&c->server->metrics, ev, finish, g->best_of);
    if (ev->output_tokens > g->best_of && r->last_token_ns > r->first_token_ns)
        metrics_observe(&c->server->metrics, H_TPOT,
                        (double)(r->last_token_ns - r->first_token_ns) * 1e-9 /
                            ((double)ev->output_tokens / g->best_of - 1));
}

static void observe_token(struct call *c, struct run *r, const struct lodge_event *ev)
{
    if (!r->first_token_ns) {
        r->first_token_ns = ev->time_ns;
        metrics_observe(&c->server->metrics, H_TTFT, (double)(ev->time_ns - c->begin_ns) * 1e-9);
    } else if (ev->time_ns > r->last_token_ns) {
        metrics_observe(&c->server->metrics, H_ITL,
                        (double)(ev->time_ns - r->last_token_ns) * 1e-9);
    }
    r->last_token_ns = ev->time_ns;
}

bool generation_take(struct call *c)
{
    struct generation *g = c->gen;
    struct lodge_buf in;
    bool any = false;
    lodge_buf_init(&in, (size_t)1 << 30);
    for (uint32_t i = 0; i < g->n_runs; i++) {
        if (g->runs[i].ended)
            continue;
        lodge_stream_take(g->runs[i].stream, &in);
        size_t at = 0;
        for (const struct lodge_record *rec; (rec = lodge_record_next(&in, &at));) {
            const struct lodge_event *ev = (const struct lodge_event *)rec;
            any = true;
            if (rec->kind == LODGE_EVENT_TOKEN)
                observe_token(c, &g->runs[i], ev);
            if (rec->kind == LODGE_EVENT_END)
                handle_end(c, &g->runs[i], ev);
            format_event(c, i, ev);
        }
    }
    lodge_buf_finish(&in);
    return any;
}

/* ---- streaming
 * ------------------------------------------------------------------------------------------ */

static void mark_waiting(struct call *c, bool waiting)
{
    pthread_mutex_lock(&c->lock);
    c->waiting_since_ns = waiting ? lodge_now_ns() : 0;
    pthread_mutex_unlock(&c->lock);
}

/* Asked by libmicrohttpd whenever the socket takes more. */
static ssize_t read_stream(void *cls, uint64_t pos, char *buf, size_t max)
{
    struct call *c = cls;
    struct generation *g = c->gen;
    (void)pos;
    for (;;) {
        if (g->out_at == g->out.n) {
            lodge_buf_clear(&g->out);
            g->out_at = 0;
            if (g->tail_sent)
                return MHD_CONTENT_READER_END_OF_STREAM;
            generation_take(c);
            if (g->n_ended == g->n_runs) {
                format_stream_tail(c);
                g->tail_sent = true;
            }
        }
        if (g->out_at < g->out.n)
            break;
        pthread_mutex_lock(&c->lock);
        bool gone = c->hung_up;
        bool silent =
            lodge_now_ns() - g->last_write_ns > (uint64_t)(c->server->cfg->keepalive * 1e9);
        pthread_mutex_unlock(&c->lock);
        if (gone)
            return MHD_CONTENT_READER_END_WITH_ERROR;
        if (silent) {
            lodge_buf_puts(&g->out, ": ping\n\n");
            break;
        }
        mark_waiting(c, false);
        if (call_suspend(c))
            return 0;
    }
    size_t n = g->out.n - g->out_at < max ? g->out.n - g->out_at : max;
    memcpy(buf, g->out.data + g->out_at, n);
    g->out_at += n;
    c->bytes_out += n;
    pthread_mutex_lock(&c->lock);
    g->last_write_ns = lodge_now_ns();
    c->waiting_since_ns = g->last_write_ns;
    pthread_mutex_unlock(&c->lock);
    return (ssize_t)n;
}

static enum MHD_Result start_stream(struct call *c)
{
    struct MHD_Response *r =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 65536, read_stream, c, NULL);
    if (!r)
        return MHD_NO;
    MHD_add_response_header(r, "Content-Type", "text/event-stream; charset=utf-8");
    MHD_add_response_header(r, "Cache-Control", "no-cache");
    MHD_add_response_header(r, "X-Accel-Buffering", "no");
    reply_headers(c, r);
    pthread_mutex_lock(&c->lock);
    c->answered = c->streaming = true;
    c->gen->last_write_ns = lodge_now_ns();
    pthread_mutex_unlock(&c->lock);
    c->status = 200;
    enum MHD_Result result = MHD_queue_response(c->mc, 200, r);
    MHD_destroy_response(r);
    return result;
}

/* ---- whole replies
 * ----------------------------------------------------------------------------------------- */

static enum MHD_Result finish_whole(struct call *c)
{
    struct generation *g = c->gen;
    for (uint32_t i = 0; i < g->n_runs; i++) {
        const struct lodge_event *end = &g->runs[i].end;
        if (end->finish == LODGE_FINISH_ERROR ||
            (end->finish == LODGE_FINISH_ABORT && end->error)) {
            struct lodge_error e = {.code = end->error};
            if (end->error == LODGE_ERR_CANCELLED)
                return reply_error(c, 503, "overloaded_error", NULL, "draining",
                                   "the server stopped before the reply was finished");
            return reply_lodge_error(c, &e, NULL);
        }
    }
    struct lodge_buf out;
    lodge_buf_init(&out, (size_t)1 << 30);
    format_reply(c, &out);
    enum MHD_Result r =
        out.failed ? reply_error(c, 500, "server_error", NULL, NULL, "the reply is too large")
                   : reply_text(c, 200, "application/json", lodge_buf_text(&out), out.n);
    lodge_buf_finish(&out);
    return r;
}

enum MHD_Result generate_continue(struct call *c)
{
    for (;;) {
        generation_take(c);
        if (c->gen->n_ended == c->gen->n_runs)
            return finish_whole(c);
        pthread_mutex_lock(&c->lock);
        bool gone = c->hung_up;
        pthread_mutex_unlock(&c->lock);
        if (gone)
            return MHD_NO;
        if (call_suspend(c))
            return MHD_YES;
    }
}

enum MHD_Result generate_start(struct call *c, enum call_kind kind)
{
    struct server *s = c->server;
    struct lodge_error e = {0};
    const char *param = NULL;
    struct generation *g = calloc(1, sizeof *g);
    if (!g)
        return MHD_NO;
    pthread_mutex_lock(&s->calls_lock);
    c->gen = g;
    pthread_mutex_unlock(&s->calls_lock);
    int err = parse_generation(c, kind, &param, &e);
    g->created = (int64_t)lodge_unix_time();
    snprintf(g->id, sizeof g->id, "%s-%s", kind == CALL_CHAT ? "chatcmpl" : "cmpl",
             c->request_id + 4);
    if (!err)
        err = submit_all(c, &e);
    if (err) {
        if (err == LODGE_ERR_CONTEXT)
            param = kind == CALL_CHAT ? "messages" : "prompt";
        return reply_lodge_error(c, &e, param);
    }
    return g->stream ? start_stream(c) : generate_continue(c);
}
