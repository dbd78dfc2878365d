#include "clients/bench/target.h"

#include "clients/bench/workload.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *bench_target_key(const struct bench_target *t, uint32_t tenant)
{
    const char *own = t->options->tenants.v[tenant].api_key;
    return t->one_key || !own ? t->api_key : own;
}

/* The first model that the server lists. */
static int find_model(struct bench_target *t, const struct http_client *http, const char **name,
                      struct lodge_error *e)
{
    int err = http_get(http, "/v1/models", &t->_listing, e);
    if (err)
        return err;
    *name = json_string_value(
        json_object_get(json_array_get(json_object_get(t->_listing, "data"), 0), "id"));
    return *name ? 0
                 : lodge_fail(e, LODGE_ERR_FORMAT,
                              "%s/v1/models lists no model; name one by --model", t->base);
}

/* Those of --models, else the one of --model, else the server's first where anyone needs it; then
 * the tenants' own. */
static int gather_models(struct bench_target *t, const struct http_client *http, const char *given,
                         struct lodge_error *e)
{
    const struct bench_options *o = t->options;
    const struct bench_names *own = &o->tenants.models;
    bool needed = false;
    int err = 0;
    for (uint32_t i = 0; i < o->tenants.n; i++)
        needed |= !o->tenants.v[i].n_own;
    t->_models = calloc((size_t)o->models.n + own->n + 1, sizeof *t->_models);
    if (!t->_models)
        return lodge_fail(e, LODGE_ERR_NOMEM, "no memory for the models");
    for (uint32_t i = 0; i < o->models.n; i++)
        t->_models[t->n_shared++] = o->models.v[i];
    if (!t->n_shared && needed) {
        err = given ? 0 : find_model(t, http, &given, e);
        t->_models[t->n_shared++] = given;
    }
    for (uint32_t i = 0; i < own->n; i++)
        t->_models[t->n_shared + i] = own->v[i];
    t->models = t->_models;
    t->n_models = t->n_shared + own->n;
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
    if (!bench_workload_body(&copy, t, BENCH_WARMUP_ROUND, 0, 0, &body, &pick))
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

/* A wrong key is found here and not after the run. Nothing is generated: limits stay untouched. */
static int try_keys(const struct bench_target *t, struct http_client http, struct lodge_error *e)
{
    const struct bench_tenants *all = &t->options->tenants;
    int err = 0;
    for (uint32_t i = 1; i < all->n && !t->one_key && !err; i++) {
        json_t *listing = NULL;
        http.api_key = bench_target_key(t, i);
        err = http_get(&http, "/v1/models", &listing, e);
        json_decref(listing);
        if (err)
            lodge_error_prefix(e, "tenant '%s'", all->v[i].name);
    }
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
    t->one_key = side == 1 && given->api_key;
    struct http_client http = {.url = t->base,
                               .api_key = bench_target_key(t, 0),
                               .key_from = "--api-key KEY, or in LODGE_API_KEY",
                               .interrupted = interrupted};
    err = gather_models(t, &http, given->model, e);
    if (!err)
        err = try_server(t, w, &http, e);
    return err ? err : try_keys(t, http, e);
}

void bench_target_close(struct bench_target *t)
{
    json_decref(t->_listing);
    free(t->_models);
}
