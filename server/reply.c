#include "server/call.h"

#include "base/clock.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- headers ---- */

static const char *header(const struct call *c, const char *name)
{
    return MHD_lookup_connection_value(c->mc, MHD_HEADER_KIND, name);
}

static const char *origin_allowed(const struct call *c)
{
    const struct lodge_conf_list *l = &c->server->cfg->cors_origins;
    const char *origin = header(c, "Origin");
    for (uint32_t i = 0; origin && i < l->n; i++)
        if (strcmp(l->items[i], "*") == 0 || strcmp(l->items[i], origin) == 0)
            return origin;
    return NULL;
}

static void add_cors(struct call *c, struct MHD_Response *r)
{
    if (c->server->cfg->cors_origins.n)
        MHD_add_response_header(r, "Vary", "Origin");
    const char *origin = origin_allowed(c);
    if (!origin)
        return;
    const char *asked = header(c, "Access-Control-Request-Headers");
    MHD_add_response_header(r, "Access-Control-Allow-Origin", origin);
    MHD_add_response_header(r, "Access-Control-Allow-Methods", "GET, POST, OPTIONS");
    MHD_add_response_header(r, "Access-Control-Allow-Headers",
                            asked && strlen(asked) < 2048 ? asked : "Authorization, Content-Type");
    MHD_add_response_header(
        r, "Access-Control-Expose-Headers",
        "x-request-id, retry-after, x-ratelimit-limit-requests, x-ratelimit-remaining-requests, "
        "x-ratelimit-reset-requests, x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, "
        "x-ratelimit-reset-tokens");
}

/* A time as OpenAI writes it: 250ms, 1.5s, 6m0s. */
static void duration_text(double s, char *out, size_t room)
{
    if (s < 1)
        snprintf(out, room, "%.0fms", ceil(s * 1000));
    else if (s < 60)
        snprintf(out, room, "%.3gs", s);
    else
        snprintf(out, room, "%dm%ds", (int)s / 60, (int)s % 60);
}

static void add_rate(struct MHD_Response *r, const char *what, uint64_t limit, uint64_t left,
                     double reset_s)
{
    const char *const names[] = {"limit", "remaining"};
    const uint64_t values[] = {limit, left};
    char name[64], value[32];
    for (int i = 0; i < 2; i++) {
        snprintf(name, sizeof name, "x-ratelimit-%s-%s", names[i], what);
        snprintf(value, sizeof value, "%llu", (unsigned long long)values[i]);
        MHD_add_response_header(r, name, value);
    }
    snprintf(name, sizeof name, "x-ratelimit-reset-%s", what);
    duration_text(reset_s, value, sizeof value);
    MHD_add_response_header(r, name, value);
}

/* What the tenant is not limited in has the server's own limit: its queue, and its pool. */
static void add_rates(const struct call *c, struct MHD_Response *r, struct lodge_engine *en)
{
    const struct server *s = c->server;
    struct lodge_engine_stats st;
    struct tenant_rates t;
    lodge_engine_get_stats(en, &st);
    tenant_get_rates(c->principal.tenant, lodge_now_ns(), &t);
    uint64_t places = (uint64_t)(s->cfg->max_queue + s->cfg->max_num_seqs);
    uint64_t busy = (uint64_t)st.n_running + st.n_waiting, free = busy < places ? places - busy : 0;
    uint64_t tokens = (uint64_t)s->info.page_tokens / s->info.memory.n_layer_groups;
    uint64_t pages = (uint64_t)st.pages_free + st.pages_cached;
    if (t.requests)
        add_rate(r, "requests", (uint64_t)t.limit_requests, (uint64_t)t.left_requests,
                 t.reset_requests_s);
    else
        add_rate(r, "requests", places, free, !free);
    if (t.tokens)
        add_rate(r, "tokens", (uint64_t)t.limit_tokens, (uint64_t)t.left_tokens, t.reset_tokens_s);
    else
        add_rate(r, "tokens", st.pages_total * tokens, pages * tokens, !pages);
}

static void add_limits(struct call *c, struct MHD_Response *r)
{
    struct lodge_engine *en = atomic_load(&c->server->engine);
    if (!en || c->admin || strncmp(c->url, "/v1/", 4) != 0)
        return;
    add_rates(c, r, en);
    char ms[32];
    snprintf(ms, sizeof ms, "%llu",
             (unsigned long long)((lodge_now_ns() - c->begin_ns) / 1000000u));
    MHD_add_response_header(r, "openai-processing-ms", ms);
    MHD_add_response_header(r, "openai-version", "2020-10-01");
}

void reply_headers(struct call *c, struct MHD_Response *r)
{
    MHD_add_response_header(r, "x-request-id", c->request_id);
    if (!c->admin)
        add_cors(c, r);
    add_limits(c, r);
    if (atomic_load(&c->server->draining))
        MHD_add_response_header(r, "Connection", "close");
}

static void add_status_headers(const struct call *c, struct MHD_Response *r)
{
    if (c->reply.type)
        MHD_add_response_header(r, "Content-Type", c->reply.type);
    int wait_s = c->reply.status == 503 || c->reply.status == 429 ? 2 : 0;
    wait_s = c->reply.no_retry ? 0 : c->reply.retry_after_s ? c->reply.retry_after_s : wait_s;
    char seconds[16];
    snprintf(seconds, sizeof seconds, "%d", wait_s);
    if (wait_s)
        MHD_add_response_header(r, "Retry-After", seconds);
    if (c->reply.no_retry)
        MHD_add_response_header(r, "x-should-retry", "false");
    if (c->reply.status == 401)
        MHD_add_response_header(r, "WWW-Authenticate", "Bearer");
    if (c->reply.status == 405 || c->reply.status == 204)
        MHD_add_response_header(r, "Allow", c->route ? c->route->methods : "GET, POST");
}

enum MHD_Result reply_send(struct call *c)
{
    struct lodge_buf *b = &c->reply.body;
    bool owns = b->n > 0;
    if (!owns)
        lodge_buf_finish(b);
    struct MHD_Response *r =
        MHD_create_response_from_buffer(b->n, owns ? b->data : (void *)(uintptr_t) "",
                                        owns ? MHD_RESPMEM_MUST_FREE : MHD_RESPMEM_PERSISTENT);
    if (!r)
        return MHD_NO;
    c->bytes_out = b->n;
    c->status = c->reply.status;
    *b = (struct lodge_buf){0};
    reply_headers(c, r);
    add_status_headers(c, r);
    pthread_mutex_lock(&c->lock);
    c->phase = CALL_ANSWERED;
    pthread_mutex_unlock(&c->lock);
    enum MHD_Result result = MHD_queue_response(c->mc, (unsigned)c->status, r);
    MHD_destroy_response(r);
    return result;
}

/* ---- bodies ---- */

void reply_buf(struct call *c, int status, const char *type, struct lodge_buf *body)
{
    if (body->failed) {
        lodge_buf_finish(body);
        reply_error(c, 500, "server_error", NULL, "internal_error", "the reply is too large");
        return;
    }
    lodge_buf_finish(&c->reply.body);
    c->reply = (struct reply){.status = status, .type = type, .body = *body};
    *body = (struct lodge_buf){0};
}

void reply_text(struct call *c, int status, const char *type, const char *text, size_t n)
{
    struct lodge_buf b;
    lodge_buf_init(&b, n);
    lodge_buf_append(&b, text, n);
    reply_buf(c, status, type, &b);
}

void reply_json(struct call *c, int status, json_t *o)
{
    char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
    json_decref(o);
    if (text)
        reply_text(c, status, "application/json", text, strlen(text));
    else
        reply_error(c, 500, "server_error", NULL, "internal_error", "no memory for the reply");
    free(text);
}

/* ---- errors ---- */

static void put_or_null(struct lodge_buf *out, const char *s)
{
    if (s)
        put_string(out, s, strlen(s));
    else
        lodge_buf_puts(out, "null");
}

void error_json(struct lodge_buf *out, const char *message, const char *type, const char *param,
                const char *code)
{
    lodge_buf_puts(out, "{\"error\":{\"message\":");
    put_string(out, message, strlen(message));
    lodge_buf_printf(out, ",\"type\":\"%s\",\"param\":", type);
    put_or_null(out, param);
    lodge_buf_puts(out, ",\"code\":");
    put_or_null(out, code);
    lodge_buf_puts(out, "}}");
}

/* Texts may quote what a client sent, cut anywhere: broken UTF-8 in them becomes '?'. */
static void make_valid(char *s)
{
    json_t *probe = json_string(s);
    if (!probe)
        for (; *s; s++)
            *s = (unsigned char)*s < 0x80 ? *s : '?';
    json_decref(probe);
}

void reply_error(struct call *c, int status, const char *type, const char *param, const char *code,
                 const char *fmt, ...)
{
    char message[LODGE_ERROR_TEXT_MAX], field[MAX_PARAM] = "";
    va_list args;
    va_start(args, fmt);
    vsnprintf(message, sizeof message, fmt, args);
    va_end(args);
    make_valid(message);
    if (param)
        snprintf(field, sizeof field, "%s", param);
    make_valid(field);
    struct lodge_buf b;
    lodge_buf_init(&b, 16384);
    error_json(&b, message, type, *field ? field : NULL, code);
    reply_buf(c, status, "application/json", &b);
}

static const struct failure failures[] = {
    {LODGE_ERR_INVALID, 400, "invalid_request_error", NULL, NULL},
    {LODGE_ERR_LIMIT, 400, "invalid_request_error", NULL, NULL},
    {LODGE_ERR_FORMAT, 400, "invalid_request_error", NULL, NULL},
    {LODGE_ERR_CONTEXT, 400, "invalid_request_error", "context_length_exceeded", NULL},
    {LODGE_ERR_UNSUPPORTED, 400, "invalid_request_error", "unsupported_parameter", NULL},
    {LODGE_ERR_FORBIDDEN, 403, "permission_error", "model_not_allowed", NULL},
    {LODGE_ERR_NOT_FOUND, 404, "not_found_error", "model_not_found", NULL},
    {LODGE_ERR_FULL, 503, "overloaded_error", "queue_full", NULL},
    {LODGE_ERR_OVERLOADED, 503, "overloaded_error", "overloaded",
     "more requests came than the server can begin in time; try again later"},
    {LODGE_ERR_DRAINING, 503, "overloaded_error", "draining", NULL},
    {LODGE_ERR_CANCELLED, 503, "overloaded_error", "draining",
     "the server stopped before the reply was finished"},
    {LODGE_ERR_NOMEM, 503, "overloaded_error", "out_of_memory", NULL},
    {LODGE_ERR_TIMEOUT, 503, "overloaded_error", "timeout",
     "the request's deadline passed before it was finished"},
    {LODGE_ERR_ADAPTER_LOST, 503, "overloaded_error", "adapter_lost",
     "the files of an adapter have changed or are gone since the request began; ask again"},
    {LODGE_ERR_THROTTLED, 429, "rate_limit_error", "rate_limit_exceeded", NULL},
};

/* Others are ours, and say no more than that. */
static const struct failure internal = {LODGE_ERR_INTERNAL, 500, "server_error", "internal_error",
                                        "the server failed to process the request"};

const struct failure *failure_of(int code)
{
    for (size_t i = 0; i < sizeof failures / sizeof *failures; i++)
        if (failures[i].code == code)
            return &failures[i];
    return &internal;
}

const char *failure_text(const struct failure *f)
{
    return f->text ? f->text : lodge_error_text(f->code);
}

void reply_lodge_error(struct call *c, const struct refusal *r)
{
    const struct failure *f = failure_of(r->e.code);
    if (c->must_read)
        return;
    if (f == &internal)
        lodge_log_text(c->server->log, LODGE_LOG_ERROR, "http", "%s: %s: %s", c->request_id,
                       lodge_error_name(r->e.code), r->e.text);
    bool told = f != &internal;
    reply_error(c, f->status, f->type, told ? r->param : NULL, f->name, "%s",
                told && *r->e.text ? r->e.text : failure_text(f));
}
