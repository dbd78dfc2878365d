#include "server/call.h"

#include "base/json.h"

#include <string.h>

static int chat(struct call *c)
{
    return (int)generate_start(c, CALL_CHAT);
}

static int completion(struct call *c)
{
    return (int)generate_start(c, CALL_COMPLETION);
}

#define HANDLER(name)                                                                              \
    static int name(struct call *c)                                                                \
    {                                                                                              \
        return (int)handle_##name(c);                                                              \
    }
HANDLER(models)
HANDLER(tokenize)
HANDLER(detokenize)
HANDLER(health)
HANDLER(livez)
HANDLER(version)
HANDLER(metrics)
#undef HANDLER

static const struct route routes[] = {
    {"/v1/chat/completions", "POST", chat, .body = true},
    {"/v1/completions", "POST", completion, .body = true},
    {"/v1/models", "GET, HEAD", models},
    {"/tokenize", "POST", tokenize, .body = true},
    {"/detokenize", "POST", detokenize, .body = true},
    {"/health", "GET, HEAD", health, .open = true, .while_loading = true},
    {"/ping", "GET, HEAD", health, .open = true, .while_loading = true},
    {"/readyz", "GET, HEAD", health, .open = true, .while_loading = true},
    {"/livez", "GET, HEAD", livez, .open = true, .while_loading = true},
    {"/version", "GET, HEAD", version, .open = true, .while_loading = true},
    {"/metrics", "GET, HEAD", metrics, .while_loading = true},
    {"/", "GET, HEAD", livez, .open = true, .while_loading = true},
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
    size_t n = type ? strcspn(type, "; ") : 0;
    return n == 16 && strncasecmp(type, "application/json", 16) == 0;
}

static enum MHD_Result refuse_body(struct call *c)
{
    const char *coding = MHD_lookup_connection_value(c->mc, MHD_HEADER_KIND, "Content-Encoding");
    if (coding && strcasecmp(coding, "identity") != 0)
        return reply_error(c, 415, "invalid_request_error", NULL, "unsupported_encoding",
                           "Content-Encoding '%.40s' is not supported; send the body as it is",
                           coding);
    if (!is_json(c))
        return reply_error(c, 415, "invalid_request_error", NULL, "unsupported_media_type",
                           "Content-Type must be application/json");
    struct lodge_error e = {0};
    struct lodge_json_limits limits = lodge_json_body_limits;
    if (lodge_json_load(lodge_buf_text(&c->body), c->body.n, &limits, "request body", &c->json, &e))
        return reply_error(c, 400, "invalid_request_error", NULL, NULL, "%s", e.text);
    if (!json_is_object(c->json))
        return reply_error(c, 400, "invalid_request_error", NULL, NULL,
                           "the request body must be a JSON object");
    return MHD_NO;
}

enum MHD_Result route_run(struct call *c)
{
    const struct route *r = c->route;
    if (r->body) {
        enum MHD_Result refused = refuse_body(c);
        if (c->answered)
            return refused;
        lodge_buf_finish(&c->body);
    }
    return (enum MHD_Result)r->handle(c);
}
