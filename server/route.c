#include "server/call.h"

#include "base/json.h"

#include <string.h>

static void chat(struct call *c)
{
    generate_prepare(c, CALL_CHAT);
}

static void completion(struct call *c)
{
    generate_prepare(c, CALL_COMPLETION);
}

static const struct route routes[] = {
    {"/v1/chat/completions", "POST", chat, .body = true},
    {"/v1/completions", "POST", completion, .body = true},
    {"/v1/models", "GET, HEAD", handle_models},
    {"/tokenize", "POST", handle_tokenize, .body = true},
    {"/detokenize", "POST", handle_detokenize, .body = true},
    {"/v1/load_lora_adapter", "POST", handle_load_adapter, .body = true, .by_admin = true},
    {"/v1/unload_lora_adapter", "POST", handle_unload_adapter, .body = true, .by_admin = true},
    {"/health", "GET, HEAD", handle_health, .open = true, .while_loading = true},
    {"/ping", "GET, HEAD", handle_health, .open = true, .while_loading = true},
    {"/ready", "GET, HEAD", handle_health, .open = true, .while_loading = true},
    {"/readyz", "GET, HEAD", handle_health, .open = true, .while_loading = true},
    {"/startupz", "GET, HEAD", handle_health, .open = true, .while_loading = true},
    {"/livez", "GET, HEAD", handle_livez, .open = true, .while_loading = true},
    {"/version", "GET, HEAD", handle_version, .open = true, .while_loading = true},
    {"/metrics", "GET, HEAD", handle_metrics, .while_loading = true},
    {"/", "GET, HEAD", handle_livez, .open = true, .while_loading = true},
};

const struct route *route_find(const char *path)
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    for (size_t i = 0; i < sizeof routes / sizeof *routes; i++)
        if (strlen(routes[i].path) == n && memcmp(routes[i].path, path, n) == 0)
            return &routes[i];
    static const char card[] = "/v1/models/";
    return strncmp(path, card, sizeof card - 1) == 0 ? &routes[2] : NULL;
}

/* "application/json", with or without parameters. */
static bool is_json(const struct call *c)
{
    const char *type = MHD_lookup_connection_value(c->mc, MHD_HEADER_KIND, "Content-Type");
    size_t n = type ? strcspn(type, "; \t") : 0;
    return n == 16 && strncasecmp(type, "application/json", 16) == 0;
}

bool route_refuse_body(struct call *c)
{
    const char *coding = MHD_lookup_connection_value(c->mc, MHD_HEADER_KIND, "Content-Encoding");
    if (coding && strcasecmp(coding, "identity") != 0)
        reply_error(c, 415, "invalid_request_error", NULL, "unsupported_encoding",
                    "Content-Encoding '%.40s' is not supported; send the body as it is", coding);
    else if (!is_json(c))
        reply_error(c, 415, "invalid_request_error", NULL, "unsupported_media_type",
                    "Content-Type must be application/json");
    return c->reply.status != 0;
}

void route_prepare(struct call *c)
{
    struct lodge_error e = {0};
    if (lodge_json_load(lodge_buf_text(&c->body), c->body.n, &lodge_json_body_limits,
                        "request body", &c->json, &e))
        reply_error(c, 400, "invalid_request_error", NULL, NULL, "%s", e.text);
    else if (!json_is_object(c->json))
        reply_error(c, 400, "invalid_request_error", NULL, NULL,
                    "the request body must be a JSON object");
    if (!c->reply.status)
        c->route->handle(c);
    json_decref(c->json);
    c->json = NULL;
    if (c->must_read)
        return;
    atomic_fetch_sub(&c->server->body_bytes, c->body.n);
    lodge_buf_finish(&c->body);
}
