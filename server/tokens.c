/* /tokenize and /detokenize, in vLLM's and in llama.cpp's form. */
#include "server/parse.h"

#include "base/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_TOKENS ((size_t)1 << 24)

static int get_bool(const json_t *o, const char *key, bool *out, struct refusal *r)
{
    snprintf(r->param, sizeof r->param, "%s", key);
    return lodge_json_get_bool(o, key, out, &r->e);
}

/* The adapter whose template counts, with a reference, or NULL. */
static int check_model(struct call *c, struct lodge_adapter_version **adapter, struct refusal *r)
{
    const char *model = NULL;
    *adapter = NULL;
    snprintf(r->param, sizeof r->param, "model");
    int err = lodge_json_get_string(c->json, "model", &model, &r->e);
    return err || !model ? err : model_resolve(c, model, adapter, r);
}

/* What /tokenize may be asked for. */
struct wish {
    bool strs;   /* vLLM: token_strs */
    bool pieces; /* llama.cpp: tokens as {id, piece} */
};

/* vLLM: prompt; llama.cpp: content, with options of its own. */
static int encode_text(struct call *c, struct lodge_ids *ids, struct wish *w, struct refusal *r)
{
    bool llama = !lodge_json_member(c->json, "prompt") && lodge_json_member(c->json, "content");
    const char *key = llama ? "content" : "prompt", *text = NULL;
    bool add = !llama, parse = llama;
    int err = get_bool(c->json, llama ? "add_special" : "add_special_tokens", &add, r);
    if (!err && llama)
        err = get_bool(c->json, "parse_special", &parse, r);
    if (!err && llama)
        err = get_bool(c->json, "with_pieces", &w->pieces, r);
    if (err)
        return err;
    snprintf(r->param, sizeof r->param, "%s", key);
    err = lodge_json_get_string(c->json, key, &text, &r->e);
    if (!err && !text)
        err = lodge_fail(&r->e, LODGE_ERR_INVALID, "'prompt' (a string) or 'messages' is missing");
    return err ? err
               : lodge_engine_tokenize(atomic_load(&c->server->engine), text, strlen(text), add,
                                       parse, MAX_TOKENS, ids, &r->e);
}

static int encode(struct call *c, const struct lodge_adapter_version *adapter,
                  struct lodge_ids *ids, struct wish *w, struct refusal *r)
{
    int err = get_bool(c->json, "return_token_strs", &w->strs, r);
    if (err)
        return err;
    if (!lodge_json_member(c->json, "messages"))
        return encode_text(c, ids, w, r);
    bool special = false;
    err = get_bool(c->json, "add_special_tokens", &special, r);
    if (!err && special)
        err = lodge_fail(&r->e, LODGE_ERR_UNSUPPORTED,
                         "'add_special_tokens' with messages is not supported; the template adds "
                         "them");
    if (!err && lodge_json_member(c->json, "tools")) {
        snprintf(r->param, sizeof r->param, "tools");
        err = lodge_fail(&r->e, LODGE_ERR_UNSUPPORTED, "'tools' is not supported by this server");
    }
    return err ? err : parse_chat(c->server, c->json, adapter, ids, r);
}

static void put_piece(const struct lodge_engine *en, struct lodge_buf *out, uint32_t id)
{
    size_t n;
    bool special;
    const char *bytes = lodge_engine_token_bytes(en, id, &n, &special);
    json_t *valid = json_stringn(bytes, n);
    lodge_buf_printf(out, "{\"id\":%u,\"piece\":", id);
    if (valid)
        put_string(out, bytes, n);
    else
        put_bytes_array(out, bytes, n);
    json_decref(valid);
    lodge_buf_puts(out, "}");
}

static void put_ids(const struct call *c, struct lodge_buf *out, const struct lodge_ids *ids,
                    const struct wish *w)
{
    const struct lodge_engine *en = atomic_load(&c->server->engine);
    lodge_buf_printf(out, "{\"count\":%zu,\"max_model_len\":%u,\"tokens\":[", ids->n,
                     c->server->info.max_model_len);
    for (size_t i = 0; i < ids->n; i++) {
        lodge_buf_puts(out, i ? "," : "");
        if (w->pieces)
            put_piece(en, out, ids->data[i]);
        else
            lodge_buf_printf(out, "%u", ids->data[i]);
    }
    lodge_buf_puts(out, w->strs ? "],\"token_strs\":[" : "],\"token_strs\":null}");
    for (size_t i = 0; w->strs && i < ids->n; i++) {
        size_t n;
        const char *text = lodge_engine_token_text(en, ids->data[i], &n);
        lodge_buf_puts(out, i ? "," : "");
        put_string(out, text, n);
    }
    lodge_buf_puts(out, w->strs ? "]}" : "");
}

void handle_tokenize(struct call *c)
{
    struct refusal r = {0};
    struct lodge_ids ids = {0};
    struct wish w = {0};
    struct lodge_adapter_version *adapter;
    int err = check_model(c, &adapter, &r);
    if (!err)
        err = encode(c, adapter, &ids, &w, &r);
    lodge_adapter_version_unref(adapter);
    if (err) {
        reply_lodge_error(c, &r);
    } else {
        struct lodge_buf out;
        lodge_buf_init(&out, (size_t)1 << 30);
        put_ids(c, &out, &ids, &w);
        reply_buf(c, 200, "application/json", &out);
    }
    lodge_ids_finish(&ids);
}

static int decode(struct call *c, struct lodge_buf *text, struct refusal *r)
{
    struct generation g = {0};
    struct parse p = {.c = c, .g = &g, .o = c->json, .r = r};
    const uint32_t *ids = NULL;
    uint32_t n = 0;
    struct lodge_adapter_version *adapter;
    int err = check_model(c, &adapter, r);
    lodge_adapter_version_unref(adapter);
    if (err)
        return err;
    lodge_arena_init(&g.arena, (size_t)256 << 20);
    err = parse_ids(&p, "tokens", lodge_json_member(c->json, "tokens"), MAX_TOKENS, &ids, &n);
    if (!err)
        err = lodge_engine_detokenize(atomic_load(&c->server->engine), ids, n, false, text, &r->e);
    lodge_arena_finish(&g.arena);
    return err;
}

void handle_detokenize(struct call *c)
{
    struct refusal r = {0};
    struct lodge_buf text, out;
    lodge_buf_init(&text, (size_t)256 << 20);
    lodge_buf_init(&out, (size_t)1 << 30);
    if (decode(c, &text, &r)) {
        reply_lodge_error(c, &r);
    } else {
        lodge_buf_puts(&out, "{\"prompt\":");
        put_string(&out, lodge_buf_text(&text), text.n);
        lodge_buf_puts(&out, ",\"content\":");
        put_string(&out, lodge_buf_text(&text), text.n);
        lodge_buf_puts(&out, "}");
        reply_buf(c, 200, "application/json", &out);
    }
    lodge_buf_finish(&text);
}
