/* vLLM's routes that load and unload adapters while the server runs; for admins. */
#include "server/call.h"

#include "base/json.h"

#include <stdio.h>
#include <string.h>

/* A string of the body that must be there. */
static const char *field(struct call *c, const char *name)
{
    const char *text = NULL;
    struct lodge_error e = {0};
    if (lodge_json_get_string(c->json, name, &text, &e))
        reply_error(c, 400, "invalid_request_error", name, NULL, "%s", e.text);
    else if (!text || !*text)
        reply_error(c, 400, "invalid_request_error", name, NULL, "'%s' is missing", name);
    return c->reply.status ? NULL : text;
}

static void reply_done(struct call *c, const char *name, const char *what)
{
    char text[ADAPTER_NAME_MAX + 64];
    int n = snprintf(text, sizeof text, "Success: LoRA adapter '%s' %s successfully.", name, what);
    reply_text(c, 200, "text/plain; charset=utf-8", text, (size_t)n);
}

void handle_load_adapter(struct call *c)
{
    struct refusal r = {0};
    bool in_place = false;
    if (!c->reads) {
        c->must_read = true;
        return;
    }
    const char *name = field(c, "lora_name");
    const char *path = name ? field(c, "lora_path") : NULL;
    if (!path)
        return;
    snprintf(r.param, sizeof r.param, "load_inplace");
    int err = lodge_json_get_bool(c->json, "load_inplace", &in_place, &r.e);
    if (!err) {
        err = adapters_publish(c->server, name, path, in_place, &r.e);
        snprintf(r.param, sizeof r.param, err == LODGE_ERR_INVALID ? "lora_name" : "lora_path");
    }
    if (err)
        reply_lodge_error(c, &r);
    else
        reply_done(c, name, "added");
}

void handle_unload_adapter(struct call *c)
{
    struct refusal r = {.param = "lora_name"};
    const char *name = field(c, "lora_name");
    if (!name)
        return;
    if (adapters_unpublish(c->server, name, &r.e))
        reply_lodge_error(c, &r);
    else
        reply_done(c, name, "removed");
}
