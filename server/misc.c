/* The smaller routes. */
#include "server/call.h"

#include <string.h>

static json_t *model_card(const struct server *s, const char *name)
{
    return json_pack("{s:s, s:s, s:I, s:s, s:s, s:n, s:i, s:[]}", "id", name, "object", "model",
                     "created", (json_int_t)s->created, "owned_by", "lodge", "root", s->names[0],
                     "parent", "max_model_len", (int)s->info.max_model_len, "permission");
}

/* The served name that the path's tail spells, with or without a slash behind it. */
static const char *named(const struct server *s, const char *tail)
{
    size_t n = strlen(tail);
    for (uint32_t i = 0; i < s->n_names; i++) {
        size_t k = strlen(s->names[i]);
        if (strncmp(s->names[i], tail, k) == 0 && (n == k || (n == k + 1 && tail[k] == '/')))
            return s->names[i];
    }
    return NULL;
}

void handle_models(struct call *c)
{
    static const char prefix[] = "/v1/models/";
    struct server *s = c->server;
    if (strncmp(c->url, prefix, sizeof prefix - 1) == 0 && c->url[sizeof prefix - 1]) {
        const char *tail = c->url + sizeof prefix - 1, *name = named(s, tail);
        json_t *card = name ? model_card(s, name) : adapters_card(s, &c->principal, tail);
        if (card && principal_may_use(&c->principal, name ? name : tail)) {
            reply_json(c, 200, card);
            return;
        }
        json_decref(card);
        if (card)
            reply_error(c, 403, "permission_error", "model", "model_not_allowed",
                        "this key may not use the model '%.200s'", tail);
        else
            reply_error(c, 404, "not_found_error", "model", "model_not_found",
                        "the model '%.200s' does not exist; GET /v1/models lists what there is",
                        tail);
        return;
    }
    json_t *list = json_array();
    for (uint32_t i = 0; i < s->n_names; i++)
        if (principal_may_use(&c->principal, s->names[i]))
            json_array_append_new(list, model_card(s, s->names[i]));
    adapters_list(s, &c->principal, list);
    reply_json(c, 200, json_pack("{s:s, s:o}", "object", "list", "data", list));
}

void handle_health(struct call *c)
{
    if (atomic_load(&c->server->draining))
        reply_error(c, 503, "overloaded_error", NULL, "draining", "the server is shutting down");
    else if (!atomic_load(&c->server->engine))
        reply_error(c, 503, "overloaded_error", NULL, "model_loading",
                    "the model is still loading");
    else
        handle_livez(c);
}

void handle_livez(struct call *c)
{
    static const char text[] = "{\"status\":\"ok\"}";
    reply_text(c, 200, "application/json", text, sizeof text - 1);
}

void handle_version(struct call *c)
{
    static const char text[] = "{\"version\":\"" LODGE_VERSION "\"}";
    reply_text(c, 200, "application/json", text, sizeof text - 1);
}

void handle_metrics(struct call *c)
{
    const char *accept = MHD_lookup_connection_value(c->mc, MHD_HEADER_KIND, "Accept");
    bool open = accept && strstr(accept, "application/openmetrics-text");
    struct lodge_buf out;
    lodge_buf_init(&out, (size_t)4 << 20);
    metrics_text(c->server, &out, open);
    reply_buf(c, 200,
              open ? "application/openmetrics-text; version=1.0.0; charset=utf-8"
                   : "text/plain; version=0.0.4; charset=utf-8",
              &out);
}
