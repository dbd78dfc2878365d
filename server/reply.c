#include "server/call.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *origin_allowed(const struct call *c)
{
    const struct lodge_conf_list *l = &c->server->cfg->cors_origins;
    const char *origin = MHD_lookup_connection_value(c->mc, MHD_HEADER_KIND, "Origin");
    for (uint32_t i = 0; origin && i < l->n; i++)
        if (strcmp(l->items[i], "*") == 0 || strcmp(l->items[i], origin) == 0)
            return origin;
    return NULL;
}

void reply_headers(struct call *c, struct MHD_Response *r)
{
    MHD_add_response_header(r, "x-request-id", c->request_id);
    const char *origin = origin_allowed(c);
    if (origin) {
        MHD_add_response_header(r, "Access-Control-Allow-Origin", origin);
        MHD_add_response_header(r, "Access-Control-Allow-Methods", "GET, POST, OPTIONS");
        MHD_add_response_header(r, "Access-Control-Allow-Headers", "Authorization, Content-Type");
        MHD_add_response_header(r, "Access-Control-Expose-Headers", "x-request-id, retry-after");
        MHD_add_response_header(r, "Vary", "Origin");
    }
    if (atomic_load(&c->server->draining))
        MHD_add_response_header(r, "Connection", "close");
}

static enum MHD_Result queue(struct call *c, int status, struct MHD_Response *r)
{
    if (!r)
        return MHD_NO;
    reply_headers(c, r);
    c->answered = true;
    c->status = status;
    enum MHD_Result result = MHD_queue_response(c->mc, (unsigned)status, r);
    MHD_destroy_response(r);
    return result;
}

enum MHD_Result reply_text(struct call *c, int status, const char *type, const char *text, size_t n)
{
    struct MHD_Response *r =
        MHD_create_response_from_buffer(n, (void *)(uintptr_t)text, MHD_RESPMEM_MUST_COPY);
    if (r && type)
        MHD_add_response_header(r, "Content-Type", type);
    if (r && (status == 503 || status == 429))
        MHD_add_response_header(r, "Retry-After", status == 503 ? "2" : "1");
    if (r && status == 401)
        MHD_add_response_header(r, "WWW-Authenticate", "Bearer");
    if (r && status == 405)
        MHD_add_response_header(r, "Allow", c->route ? c->route->methods : "GET");
    c->bytes_out = n;
    return queue(c, status, r);
}

enum MHD_Result reply_json(struct call *c, int status, json_t *o)
{
    char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
    json_decref(o);
    if (!text)
        return MHD_NO;
    enum MHD_Result r = reply_text(c, status, "application/json", text, strlen(text));
    free(text);
    return r;
}

void error_json(struct lodge_buf *out, const char *message, const char *type, const char *param,
                const char *code)
{
    lodge_buf_puts(out, "{\"error\":{\"message\":");
    put_string(out, message, strlen(message));
    lodge_buf_printf(out, ",\"type\":\"%s\",\"param\":", type);
    if (param)
        put_string(out, param, strlen(param));
    else
        lodge_buf_puts(out, "null");
    lodge_buf_puts(out, ",\"code\":");
    if (code)
        put_string(out, code, strlen(code));
    else
        lodge_buf_puts(out, "null");
    lodge_buf_puts(out, "}}");
}

/* Error texts may quote what a client sent: broken UTF-8 in it becomes '?'. */
static void make_valid(char *s)
{
    json_t *probe = json_string(s);
    if (!probe)
        for (; *s; s++)
            *s = (unsigned char)*s < 0x80 ? *s : '?';
    json_decref(probe);
}

enum MHD_Result reply_error(struct call *c, int status, const char *type, const char *param,
                            const char *code, const char *fmt, ...)
{
    char message[LODGE_ERROR_TEXT_MAX];
    va_list args;
    va_start(args, fmt);
    vsnprintf(message, sizeof message, fmt, args);
    va_end(args);
    make_valid(message);
    struct lodge_buf b;
    lodge_buf_init(&b, 16384);
    error_json(&b, message, type, param, code);
    enum MHD_Result r = reply_text(c, status, "application/json", lodge_buf_text(&b), b.n);
    lodge_buf_finish(&b);
    return r;
}

enum MHD_Result reply_lodge_error(struct call *c, const struct lodge_error *e, const char *param)
{
    switch (e->code) {
    case LODGE_ERR_CONTEXT:
        return reply_error(c, 400, "invalid_request_error", param, "context_length_exceeded", "%s",
                           e->text);
    case LODGE_ERR_UNSUPPORTED:
        return reply_error(c, 400, "invalid_request_error", param, "unsupported_parameter", "%s",
                           e->text);
    case LODGE_ERR_NOT_FOUND:
        return reply_error(c, 404, "not_found_error", param, "model_not_found", "%s", e->text);
    case LODGE_ERR_FULL:
        return reply_error(c, 503, "overloaded_error", NULL, "queue_full", "%s", e->text);
    case LODGE_ERR_DRAINING:
        return reply_error(c, 503, "overloaded_error", NULL, "draining", "%s", e->text);
    case LODGE_ERR_NOMEM:
        return reply_error(c, 503, "overloaded_error", NULL, "out_of_memory", "%s", e->text);
    case LODGE_ERR_TIMEOUT:
        return reply_error(c, 503, "overloaded_error", NULL, "timeout",
                           "the request's deadline passed before it was finished");
    case LODGE_ERR_INVALID:
    case LODGE_ERR_LIMIT:
    case LODGE_ERR_FORMAT:
        return reply_error(c, 400, "invalid_request_error", param, NULL, "%s", e->text);
    default:
        return reply_error(c, 500, "server_error", NULL, "internal_error",
                           "the server failed to process the request");
    }
}
