#include "clients/bench/target.h"

#include "clients/bench/workload.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int find_model(struct bench_target *t, const struct http_client *http, const char *given,
                      struct lodge_error *e)
{
    const struct bench_options *o = t->options;
    if (o->n_models) {
        t->models = o->models;
        t->n_models = o->n_models;
        return 0;
    }
    t->_one_model = given;
    int err = given ? 0 : http_get(http, "/v1/models", &t->_listing, e);
    if (!err && !given)
        t->_one_model = json_string_value(
            json_object_get(json_array_get(json_object_get(t->_listing, "data"), 0), "id"));
    if (!err && !t->_one_model)
        err = lodge_fail(e, LODGE_ERR_FORMAT, "%s/v1/models lists no model; name one by --model",
                         t->base);
    t->models = &t->_one_model;
    t->n_models = 1;
    return err;
}

/* The first request of the warm-up, cut to one token and not streamed. */
static json_t *first_request(const struct bench_target *t, const struct bench_workload *w, bool ids)
{
    struct bench_workload copy = *w;
    struct bench_pick pick;
    struct lodge_buf body;
    json_t *request = NULL;
    copy.ids = ids;
    lodge_buf_init(&body, BENCH_MAX_BODY);
    if (!bench_workload_body(&copy, t, BENCH_WARMUP_ROUND, 0, &body, &pick))
        request = json_loadb(body.data, body.n, 0, NULL);
    lodge_buf_finish(&body);
    json_object_del(request, "stream");
    json_object_del(request, "stream_options");
    json_object_set_new(request, "max_tokens", json_integer(1));
    return request;
}

static int try_one(const struct bench_target *t, const struct bench_workload *w,
                   const struct http_client *http, bool ids, struct lodge_error *e)
{
    json_t *reply = NULL, *request = first_request(t, w, ids);
    int err = request ? http_post(http, t->path, request, &reply, e)
                      : lodge_fail(e, LODGE_ERR_NOMEM, "no memory for a request");
    json_decref(request);
    json_decref(reply);
    return err;
}

/* Random prompts go as ids where the server takes them; a file's prompts are what they are. */
static int try_server(struct bench_target *t, const struct bench_workload *w,
                      const struct http_client *http, struct lodge_error *e)
{
    const char *kind = t->options->prompt_kind;
    bool random = !w->file && !t->options->chat, automatic = strcmp(kind, "auto") == 0;
    t->takes_ids = random && strcmp(kind, "text") != 0;
    int err = try_one(t, w, http, t->takes_ids, e);
    if (err == LODGE_ERR_INVALID && t->takes_ids && automatic) {
        struct lodge_error second;
        t->takes_ids = try_one(t, w, http, false, &second) != 0;
        err = t->takes_ids ? err : 0;
    }
    if (err == LODGE_ERR_INVALID)
        lodge_error_prefix(e,
                           "%s refused the first request (ids too large: --vocab-size; "
                           "ignore_eos unknown: --no-ignore-eos)",
                           t->url);
    return err;
}

int bench_target_open(const struct bench_options *o, const struct bench_workload *w, int side,
                      const volatile sig_atomic_t *interrupted, struct bench_target *t,
                      struct lodge_error *e)
{
    const struct bench_side *given = &o->side[side];
    *t = (struct bench_target){.options = o, .api_key = given->api_key, .label = given->label};
    t->path = o->chat ? "/v1/chat/completions" : "/v1/completions";
    int err = http_base_url(given->url, t->base, sizeof t->base, e);
    if (err)
        return err;
    snprintf(t->url, sizeof t->url, "%s%s", t->base, t->path);
    if (!t->label)
        t->label = t->base;
    struct http_client http = {t->base, t->api_key, interrupted};
    err = find_model(t, &http, given->model, e);
    return err ? err : try_server(t, w, &http, e);
}

void bench_target_close(struct bench_target *t)
{
    json_decref(t->_listing);
}
