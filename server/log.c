/* The access log: one JSON line a request, without prompts and keys. */
#include "server/call.h"

#include "base/clock.h"

#include <stdio.h>
#include <string.h>

static void set_string(json_t *o, const char *key, const char *value)
{
    if (value && *value && strlen(value) <= 128)
        json_object_set_new(o, key, json_string(value)); /* broken UTF-8 is left out */
}

static const char *const reasons[] = {"stop", "length", "abort", "error"};

static void add_generation(json_t *o, const struct call *c)
{
    const struct generation *g = c->gen;
    uint64_t prompt = 0, cached = 0, output = 0, queued = 0, first = 0;
    uint32_t finish = g->n_ended < g->n_runs ? LODGE_FINISH_ABORT : 0;
    for (uint32_t i = 0; i < g->n_runs; i++) {
        const struct run *r = &g->runs[i];
        prompt += r->prompt.n;
        cached += r->end.cached_tokens;
        for (uint32_t k = 0; k < g->best_of; k++)
            output += r->choices[k].n_tokens;
        queued = r->end.queued_ns > queued ? r->end.queued_ns : queued;
        finish = r->end.finish > finish ? r->end.finish : finish;
        if (r->first_token_ns && (!first || r->first_token_ns < first))
            first = r->first_token_ns;
    }
    set_string(o, "model", g->model);
    set_string(o, "finish_reason", reasons[finish]);
    json_object_set_new(o, "stream", json_boolean(g->stream));
    json_object_set_new(o, "prompt_tokens", json_integer((json_int_t)prompt));
    json_object_set_new(o, "cached_tokens", json_integer((json_int_t)cached));
    json_object_set_new(o, "output_tokens", json_integer((json_int_t)output));
    json_object_set_new(o, "queue_ms", json_real((double)queued * 1e-6));
    if (first)
        json_object_set_new(o, "ttft_ms", json_real((double)(first - c->begin_ns) * 1e-6));
}

void log_call(struct call *c)
{
    json_t *o = json_pack("{s:s, s:s, s:s, s:i, s:f, s:I}", "request_id", c->request_id, "method",
                          c->method, "path", c->route ? c->route->path : "(unknown)", "status",
                          c->status, "ms", (double)(lodge_now_ns() - c->begin_ns) * 1e-6, "bytes",
                          (json_int_t)c->bytes_out);
    if (!o)
        return;
    if (c->admin) {
        char actor[32] = "local";
        if (c->server->n_admin_keys)
            snprintf(actor, sizeof actor, c->admin_key ? "admin-key-%u" : "none", c->admin_key);
        set_string(o, "actor", actor);
        set_string(o, "target", c->url);
    } else if (c->gen || c->principal.key) {
        set_string(o, "tenant", c->principal.tenant->id);
        set_string(o, "key", principal_key_id(&c->principal));
    }
    const char *id = MHD_lookup_connection_value(c->mc, MHD_HEADER_KIND, "X-Client-Request-Id");
    if (!id)
        id = MHD_lookup_connection_value(c->mc, MHD_HEADER_KIND, "X-Request-Id");
    if (!id && c->gen)
        id = c->gen->client_id;
    set_string(o, "client_request_id", id);
    set_string(o, "ignored_fields", c->ignored);
    if (c->hung_up)
        json_object_set_new(o, "client_gone", json_true());
    if (c->gen)
        add_generation(o, c);
    lodge_log_event(c->server->log, LODGE_LOG_INFO, "http", "request", o);
}
