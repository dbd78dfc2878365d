/* Bodies of requests, through everything that a preparing thread does before it submits. The first
 * byte says the route: c chat, t completion, k tokenize, d detokenize. The model is the HTTP tests'
 * tiny one; adapters are those of other bases, each of which is refused. */
#include "base/json.h"
#include "server/call.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static struct lodge_serve_config cfg = {
    .policy = "priority",
    .max_queue = 1024,
    .max_num_seqs = 16,
    .max_body_bytes = 1 << 20,
    .trust_request_chat_template = true,
    .adapter_dir = ADAPTERS,
};
static const char *const names[] = {"tiny"};
static struct server server = {.cfg = &cfg, .names = names, .n_names = 1};

static void open_server(void)
{
    struct lodge_engine_config c = {.model_path = TINY_MODEL,
                                    .n_threads = 1,
                                    .max_model_len = 256,
                                    .pool_bytes = 1 << 20,
                                    .max_seqs = 4};
    struct lodge_engine *en = NULL;
    struct lodge_error e;
    if (lodge_engine_open(&c, &en, &e) || adapters_open(&server, en, &e) ||
        tenants_open(&server.tenants, NULL, 0, NULL, &e)) {
        fprintf(stderr, "%s\n", e.text);
        exit(1);
    }
    lodge_engine_get_info(en, &server.info);
    atomic_store(&server.engine, en);
}

static void close_server(void)
{
    adapters_close(&server);
    tenants_close(&server.tenants);
    lodge_engine_close(atomic_load(&server.engine));
}

/* Parses as generate_prepare does; every refusal must have a text. */
static void prepare(struct call *c, enum call_kind kind)
{
    struct refusal r = {0};
    struct generation *g = calloc(1, sizeof *g);
    if (!g)
        return;
    if (parse_generation(c, g, kind, &r)) {
        if (!*r.e.text)
            abort();
        reply_lodge_error(c, &r);
    }
    generation_free(g);
}

static void chat(struct call *c)
{
    prepare(c, CALL_CHAT);
}

static void completion(struct call *c)
{
    prepare(c, CALL_COMPLETION);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static const struct route routes[] = {{.handle = chat},
                                          {.handle = completion},
                                          {.handle = handle_tokenize},
                                          {.handle = handle_detokenize}};
    if (!atomic_load(&server.engine)) {
        open_server();
        atexit(close_server);
    }
    const char *kinds = "ctkd", *kind = n && data[0] ? strchr(kinds, data[0]) : NULL;
    if (!kind)
        return 0;
    struct call c = {.server = &server, .route = &routes[kind - kinds]};
    tenants_default(&server.tenants, &c.principal);
    lodge_buf_init(&c.body, cfg.max_body_bytes);
    if (lodge_buf_append(&c.body, data + 1, n - 1) == 0) {
        atomic_fetch_add(&server.body_bytes, c.body.n);
        route_prepare(&c);
        if (c.must_read) { /* the lane that reads adapters prepares it again */
            c.reads = true;
            c.must_read = false;
            c.ignored[0] = 0;
            route_prepare(&c);
        }
    }
    /* What is sent is JSON, whatever came in. */
    json_t *reply = c.reply.status ? json_loadb(c.reply.body.data, c.reply.body.n,
                                                JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL)
                                   : json_null();
    if (!reply || atomic_load(&server.body_bytes))
        abort();
    json_decref(reply);
    lodge_buf_finish(&c.body);
    lodge_buf_finish(&c.reply.body);
    return 0;
}
