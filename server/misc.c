/* The smaller routes. */
#include "server/call.h"

#include "base/json.h"

#include <stdlib.h>
#include <string.h>

static json_t *model_card(const struct server *s, const char *name)
{
    return json_pack("{s:s, s:s, s:I, s:s, s:s, s:n, s:i, s:[]}", "id", name, "object", "model",
                     "created", (json_int_t)s->created, "owned_by", "lodge", "root", s->names[0],
                     "parent", "max_model_len", (int)s->info.max_model_len, "permission");
}

enum MHD_Result handle_models(struct call *c)
{
    static const char prefix[] = "/v1/models/";
    const struct server *s = c->server;
    if (strncmp(c->url, prefix, sizeof prefix - 1) == 0 && c->url[sizeof prefix - 1]) {
        const char *name = c->url + sizeof prefix - 1;
        if (!model_known(s, name))
            return reply_error(
                c, 404, "not_found_error", "model", "model_not_found",
                "the model '%.200s' does not exist; GET /v1/models lists what there is", name);
        return reply_json(c, 200, model_card(s, name));
    }
    json_t *list = json_array();
    for (uint32_t i = 0; i < s->n_names; i++)
        json_array_append_new(list, model_card(s, s->names[i]));
    return reply_json(c, 200, json_pack("{s:s, s:o}", "object", "list", "data", list));
}

/* ---- tokens
 * ------------------------------------------------------------------------------------------------
 */

static int check_model(struct call *c, struct lodge_error *e)
{
    const char *model = NULL;
    int err = lodge_json_get_string(c->json, "model", &model, e);
    if (!err && model && !model_known(c->server, model))
        err = lodge_fail(e, LODGE_ERR_NOT_FOUND, "the model '%.200s' does not exist", model);
    return err;
}

/* vLLM: prompt or messages; llama.cpp: content. */
static int encode(struct call *c, struct lodge_ids *ids, const char **param, struct lodge_error *e)
{
    struct lodge_engine *en = atomic_load(&c->server->engine);
    bool add_special = true, add = false, generation = true;
    const char *prompt = NULL;
    *param = "add_special_tokens";
    int err = lodge_json_get_bool(c->json, "add_special_tokens", &add_special, e);
    if (!err && lodge_json_member(c->json, "messages")) {
        *param = "messages";
        err = lodge_json_get_bool(c->json, "add_generation_prompt", &generation, e);
        struct lodge_chat chat = {.messages = lodge_json_member(c->json, "messages"),
                                  .no_generation_prompt = !generation};
        return err ? err : lodge_engine_chat_prompt(en, &chat, 1u << 24, ids, NULL, e);
    }
    *param = "prompt";
    if (!err)
        err = lodge_json_get_string(c->json, "prompt", &prompt, e);
    if (!err && !prompt && lodge_json_member(c->json, "content")) {
        *param = "content";
        err = lodge_json_get_string(c->json, "content", &prompt, e);
        if (!err)
            err = lodge_json_get_bool(c->json, "add_special", &add, e);
        add_special = add;
    }
    if (!err && !prompt)
        err = lodge_fail(e, LODGE_ERR_INVALID, "'prompt' (a string) or 'messages' is missing");
    return err ? err
               : lodge_engine_tokenize(en, prompt, strlen(prompt), add_special, true, 1u << 24, ids,
                                       e);
}

enum MHD_Result handle_tokenize(struct call *c)
{
    struct lodge_engine *en = atomic_load(&c->server->engine);
    struct lodge_error e = {0};
    struct lodge_ids ids = {0};
    const char *param = "model";
    bool strs = false;
    int err = check_model(c, &e);
    if (!err)
        err = encode(c, &ids, &param, &e);
    if (!err) {
        param = "return_token_strs";
        err = lodge_json_get_bool(c->json, "return_token_strs", &strs, &e);
    }
    if (err) {
        lodge_ids_finish(&ids);
        return reply_lodge_error(c, &e, param);
    }
    struct lodge_buf out;
    lodge_buf_init(&out, (size_t)1 << 30);
    lodge_buf_printf(&out, "{\"count\":%zu,\"max_model_len\":%u,\"tokens\":[", ids.n,
                     c->server->info.max_model_len);
    for (size_t i = 0; i < ids.n; i++)
        lodge_buf_printf(&out, "%s%u", i ? "," : "", ids.data[i]);
    lodge_buf_puts(&out, strs ? "],\"token_strs\":[" : "],\"token_strs\":null}");
    for (size_t i = 0; strs && i < ids.n; i++) {
        size_t n;
        const char *text = lodge_engine_token_text(en, ids.data[i], &n);
        lodge_buf_puts(&out, i ? "," : "");
        put_string(&out, text, n);
    }
    lodge_buf_puts(&out, strs ? "]}" : "");
    lodge_ids_finish(&ids);
    enum MHD_Result r = reply_text(c, 200, "application/json", lodge_buf_text(&out), out.n);
    lodge_buf_finish(&out);
    return r;
}

enum MHD_Result handle_detokenize(struct call *c)
{
    struct lodge_error e = {0};
    const json_t *list = lodge_json_member(c->json, "tokens");
    size_t n = json_array_size(list);
    uint32_t *ids = malloc((n + 1) * sizeof *ids);
    int err = check_model(c, &e);
    const char *param = err ? "model" : "tokens";
    if (!err && (!ids || !json_is_array(list)))
        err = lodge_fail(&e, LODGE_ERR_INVALID, "'tokens' must be a list of token ids");
    for (size_t i = 0; i < n && !err; i++) {
        const json_t *id = json_array_get(list, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) >= c->server->info.n_vocab)
            err = lodge_fail(&e, LODGE_ERR_INVALID, "'tokens[%zu]' must be a token id below %u", i,
                             c->server->info.n_vocab);
        else
            ids[i] = (uint32_t)json_integer_value(id);
    }
    struct lodge_buf text, out;
    lodge_buf_init(&text, (size_t)256 << 20);
    lodge_buf_init(&out, (size_t)1 << 30);
    if (!err)
        err = lodge_engine_detokenize(atomic_load(&c->server->engine), ids, n, false, &text, &e);
    free(ids);
    enum MHD_Result r;
    if (err) {
        r = reply_lodge_error(c, &e, param);
    } else {
        lodge_buf_puts(&out, "{\"prompt\":");
        put_string(&out, lodge_buf_text(&text), text.n);
        lodge_buf_puts(&out, ",\"content\":");
        put_string(&out, lodge_buf_text(&text), text.n);
        lodge_buf_puts(&out, "}");
        r = reply_text(c, 200, "application/json", lodge_buf_text(&out), out.n);
    }
    lodge_buf_finish(&text);
    lodge_buf_finish(&out);
    return r;
}

/* ---- state
 * -----------------------------------------------------------------------------------------------------
 */

enum MHD_Result handle_health(struct call *c)
{
    if (!atomic_load(&c->server->engine))
        return reply_error(c, 503, "overloaded_error", NULL, "model_loading",
                           "the model is still loading");
    if (atomic_load(&c->server->draining))
        return reply_error(c, 503, "overloaded_error", NULL, "draining",
                           "the server is shutting down");
    return reply_text(c, 200, "application/json", "{\"status\":\"ok\"}", 15);
}

enum MHD_Result handle_livez(struct call *c)
{
    return reply_text(c, 200, "application/json", "{\"status\":\"ok\"}", 15);
}

enum MHD_Result handle_version(struct call *c)
{
    static const char text[] = "{\"version\":\"" LODGE_VERSION "\"}";
    return reply_text(c, 200, "application/json", text, sizeof text - 1);
}

enum MHD_Result handle_metrics(struct call *c)
{
    struct lodge_buf out;
    lodge_buf_init(&out, (size_t)4 << 20);
    metrics_text(c->server, &out);
    enum MHD_Result r =
        reply_text(c, 200, "text/plain; version=0.0.4; charset=utf-8", lodge_buf_text(&out), out.n);
    lodge_buf_finish(&out);
    return r;
}
