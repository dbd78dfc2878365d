/* JSON fields to a generation: a table of what is read, what is refused, and what is ignored. */
#include "server/call.h"

#include "base/clock.h"
#include "base/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct parse {
    struct call *c;
    struct generation *g;
    const json_t *o;
    const char **param;
    struct lodge_error *e;
};

static int bad(struct parse *p, const char *param, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static int bad(struct parse *p, const char *param, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    lodge_vfail(p->e, LODGE_ERR_INVALID, fmt, args);
    va_end(args);
    *p->param = param;
    return LODGE_ERR_INVALID;
}

static int get_int(struct parse *p, const char *key, int64_t min, int64_t max, int64_t *out)
{
    int err = lodge_json_get_int(p->o, key, min, max, out, p->e);
    if (err)
        *p->param = key;
    return err;
}

static int get_double(struct parse *p, const char *key, double min, double max, double *out)
{
    int err = lodge_json_get_double(p->o, key, min, max, out, p->e);
    if (err)
        *p->param = key;
    return err;
}

static int get_bool(struct parse *p, const char *key, bool *out)
{
    int err = lodge_json_get_bool(p->o, key, out, p->e);
    if (err)
        *p->param = key;
    return err;
}

static int get_string(struct parse *p, const char *key, const char **out)
{
    int err = lodge_json_get_string(p->o, key, out, p->e);
    if (err)
        *p->param = key;
    return err;
}

/* ---- what is not built: refused unless it is the default
 * --------------------------------------------------- */

static bool is_neutral(const char *key, const json_t *v)
{
    if (json_is_null(v) || (json_is_array(v) && !json_array_size(v)) ||
        (json_is_object(v) && !json_object_size(v)))
        return strcmp(key, "tools") != 0 || json_is_null(v);
    if (strcmp(key, "response_format") == 0)
        return json_is_string(json_object_get(v, "type")) &&
               strcmp(json_string_value(json_object_get(v, "type")), "text") == 0;
    if (strcmp(key, "tool_choice") == 0 || strcmp(key, "function_call") == 0)
        return json_is_string(v) && (strcmp(json_string_value(v), "none") == 0);
    if (strcmp(key, "length_penalty") == 0)
        return json_is_number(v) && json_number_value(v) == 1.0;
    if (strcmp(key, "suffix") == 0)
        return json_is_string(v) && !json_string_length(v);
    if (strcmp(key, "modalities") == 0)
        return json_array_size(v) == 1 && json_is_string(json_array_get(v, 0)) &&
               strcmp(json_string_value(json_array_get(v, 0)), "text") == 0;
    return json_is_false(v);
}

static int refuse_unbuilt(struct parse *p)
{
    static const char *const keys[] = {"tools",
                                       "tool_choice",
                                       "functions",
                                       "function_call",
                                       "response_format",
                                       "modalities",
                                       "audio",
                                       "prediction",
                                       "suffix",
                                       "use_beam_search",
                                       "length_penalty",
                                       "guided_json",
                                       "guided_regex",
                                       "guided_choice",
                                       "guided_grammar",
                                       "structured_outputs",
                                       "grammar",
                                       "json_schema",
                                       "regex",
                                       "ebnf",
                                       "adapters",
                                       "adapter_id",
                                       "lora",
                                       "kv_transfer_params",
                                       "thinking_token_budget",
                                       "logits_processors",
                                       "documents"};
    const json_t *none = json_object_get(p->o, "tool_choice");
    bool tools_off = json_is_string(none) && strcmp(json_string_value(none), "none") == 0;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const json_t *v = json_object_get(p->o, keys[i]);
        if (!v || is_neutral(keys[i], v) || (tools_off && strcmp(keys[i], "tools") == 0))
            continue;
        *p->param = keys[i];
        if (strcmp(keys[i], "tools") == 0 && json_is_array(v) && !json_array_size(v))
            return bad(p, keys[i], "'tools' is an empty list; leave it out");
        return lodge_fail(p->e, LODGE_ERR_UNSUPPORTED,
                          "'%s' is not supported by this server; leave it out", keys[i]);
    }
    return 0;
}

/* ---- lists
 * ------------------------------------------------------------------------------------------------------
 */

/* A list of token ids, or one; `max` is exclusive. */
static int get_ids(struct parse *p, const char *key, const json_t *v, const uint32_t **out,
                   uint32_t *n)
{
    size_t count = json_is_array(v) ? json_array_size(v) : 0;
    if (!json_is_array(v) || count > (1u << 24))
        return bad(p, key, "'%s' must be a list of token ids", key);
    uint32_t *ids = lodge_arena_array(&p->g->arena, count + 1, sizeof *ids);
    if (!ids)
        return lodge_fail(p->e, LODGE_ERR_NOMEM, "no memory for the request");
    for (size_t i = 0; i < count; i++) {
        const json_t *id = json_array_get(v, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) >= p->c->server->info.n_vocab)
            return bad(p, key, "'%s[%zu]' must be a token id from 0 to %u", key, i,
                       p->c->server->info.n_vocab - 1);
        ids[i] = (uint32_t)json_integer_value(id);
    }
    *out = ids;
    *n = (uint32_t)count;
    return 0;
}

static int parse_stops(struct parse *p)
{
    const json_t *v = lodge_json_member(p->o, "stop");
    struct lodge_request *r = &p->g->req;
    size_t n = json_is_array(v) ? json_array_size(v) : v != NULL;
    if (n > LODGE_MAX_STOPS)
        return bad(p, "stop", "'stop' has %zu strings; at most %u", n, LODGE_MAX_STOPS);
    for (size_t i = 0; i < n; i++) {
        const json_t *s = json_is_array(v) ? json_array_get(v, i) : v;
        if (!json_is_string(s) || !json_string_length(s))
            return bad(p, "stop", "'stop' must be a non-empty string or a list of such");
        r->stops[r->n_stops++] = (struct lodge_bytes){json_string_value(s), json_string_length(s)};
    }
    return 0;
}

static int parse_bias(struct parse *p)
{
    const json_t *v = lodge_json_member(p->o, "logit_bias");
    if (!v)
        return 0;
    if (!json_is_object(v))
        return bad(p, "logit_bias", "'logit_bias' must map token ids to numbers");
    struct lodge_bias *b = lodge_arena_array(&p->g->arena, json_object_size(v) + 1, sizeof *b);
    uint32_t n = 0;
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)v, key, value)
    {
        char *end;
        unsigned long id = strtoul(key, &end, 10);
        double d = json_is_number(value) ? json_number_value(value) : NAN;
        if (!b || *end || !*key || *key == '-' || id >= p->c->server->info.n_vocab)
            return bad(p, "logit_bias", "'logit_bias' has key '%.40s'; keys are token ids below %u",
                       key, p->c->server->info.n_vocab);
        if (!(d >= -100 && d <= 100))
            return bad(p, "logit_bias", "'logit_bias.%s' must be a number from -100 to 100", key);
        b[n++] = (struct lodge_bias){(uint32_t)id, d <= -100 ? -INFINITY : (float)d};
    }
    p->g->req.sampling.bias = b;
    p->g->req.sampling.n_bias = n;
    return 0;
}

static int by_id(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static int parse_id_lists(struct parse *p)
{
    struct lodge_request *r = &p->g->req;
    const json_t *stop = lodge_json_member(p->o, "stop_token_ids");
    const json_t *allowed = lodge_json_member(p->o, "allowed_token_ids");
    int err = stop ? get_ids(p, "stop_token_ids", stop, &r->stop_ids.ids, &r->stop_ids.n) : 0;
    if (err || !allowed)
        return err;
    const uint32_t *ids;
    uint32_t n;
    err = get_ids(p, "allowed_token_ids", allowed, &ids, &n);
    if (!err && !n)
        err = bad(p, "allowed_token_ids", "'allowed_token_ids' must not be empty");
    if (err)
        return err;
    qsort((void *)(uintptr_t)ids, n, sizeof *ids, by_id);
    r->sampling.allowed = ids;
    r->sampling.n_allowed = n;
    return 0;
}

/* Each bad word as a text of its own, and with a space before it. */
static int parse_bad_words(struct parse *p)
{
    const json_t *v = lodge_json_member(p->o, "bad_words");
    size_t n = json_array_size(v);
    if (!v)
        return 0;
    if (!json_is_array(v) || n > 256)
        return bad(p, "bad_words", "'bad_words' must be a list of at most 256 strings");
    struct lodge_id_list *lists = lodge_arena_array(&p->g->arena, 2 * n + 1, sizeof *lists);
    uint32_t n_lists = 0;
    for (size_t i = 0; i < 2 * n; i++) {
        const char *word = json_string_value(json_array_get(v, i / 2));
        char text[600];
        if (!lists || !word || !*word || strlen(word) > 512)
            return bad(p, "bad_words", "'bad_words[%zu]' must be a string of 1 to 512 bytes",
                       i / 2);
        snprintf(text, sizeof text, "%s%s", i % 2 ? " " : "", word);
        struct lodge_ids ids = {0};
        int err = lodge_engine_tokenize(atomic_load(&p->c->server->engine), text, strlen(text),
                                        false, false, 1024, &ids, p->e);
        uint32_t *keep = err ? NULL : lodge_arena_array(&p->g->arena, ids.n + 1, sizeof *keep);
        if (keep && ids.n) {
            memcpy(keep, ids.data, ids.n * sizeof *keep);
            lists[n_lists++] = (struct lodge_id_list){keep, (uint32_t)ids.n};
        }
        lodge_ids_finish(&ids);
        if (err || !keep)
            return bad(p, "bad_words", "'bad_words[%zu]' cannot be tokenized", i / 2);
    }
    p->g->req.bad_words = lists;
    p->g->req.n_bad_words = n_lists;
    return 0;
}

/* ---- sampling
 * -----------------------------------------------------------------------------------------------------
 */

static int parse_sampling(struct parse *p)
{
    struct lodge_request *r = &p->g->req;
    struct lodge_sampling *s = &r->sampling;
    const struct lodge_engine_info *i = &p->c->server->info;
    double temperature = (double)i->temperature, top_p = (double)i->top_p, min_p = (double)i->min_p;
    double typical = 1, repetition = (double)i->repetition, presence = 0, frequency = 0,
           timeout = 0;
    int64_t top_k = i->top_k, seed = 0, min_tokens = 0, priority = 0;
    if (get_double(p, "temperature", 0, 2, &temperature) || get_double(p, "top_p", 0, 1, &top_p) ||
        get_double(p, "min_p", 0, 1, &min_p) || get_double(p, "typical_p", 0, 1, &typical) ||
        get_double(p, "repetition_penalty", 1e-3, 100, &repetition) ||
        get_double(p, "presence_penalty", -2, 2, &presence) ||
        get_double(p, "frequency_penalty", -2, 2, &frequency) ||
        get_int(p, "top_k", -1, INT32_MAX, &top_k) ||
        get_int(p, "seed", INT64_MIN, INT64_MAX, &seed) ||
        get_int(p, "min_tokens", 0, INT32_MAX, &min_tokens) ||
        get_int(p, "priority", INT32_MIN, INT32_MAX, &priority) ||
        get_double(p, "timeout", 0, 1e6, &timeout) || get_bool(p, "ignore_eos", &r->ignore_eos) ||
        get_bool(p, "include_stop_str_in_output", &r->include_stop))
        return LODGE_ERR_INVALID;
    if (priority && strcmp(p->c->server->cfg->policy, "priority") != 0)
        return bad(p, "priority", "'priority' needs a server started with --policy priority");
    if (top_p == 0)
        top_p = 1e-9;
    s->temperature = (float)temperature;
    s->top_p = (float)top_p;
    s->min_p = (float)min_p;
    s->typical_p = typical > 0 ? (float)typical : 1;
    s->repetition = (float)repetition;
    s->presence = (float)presence;
    s->frequency = (float)frequency;
    s->top_k = top_k > 0 ? (uint32_t)top_k : 0;
    s->seed = (uint64_t)seed;
    r->has_seed = lodge_json_member(p->o, "seed") != NULL;
    r->min_tokens = (uint32_t)min_tokens;
    r->priority = (int32_t)priority;
    r->timeout_s = timeout;
    bool skip_special = true, spaces = true;
    if (get_bool(p, "skip_special_tokens", &skip_special) ||
        get_bool(p, "spaces_between_special_tokens", &spaces))
        return LODGE_ERR_INVALID;
    r->keep_special = !skip_special;
    int err = parse_stops(p);
    if (!err)
        err = parse_bias(p);
    if (!err)
        err = parse_id_lists(p);
    return err ? err : parse_bad_words(p);
}

static int parse_lengths(struct parse *p)
{
    bool chat = p->g->kind == CALL_CHAT;
    int64_t max = chat ? INT32_MAX : 16, n = 1, best_of = 0;
    if (get_int(p, "max_tokens", 0, INT64_MAX, &max) ||
        get_int(p, "max_completion_tokens", 0, INT64_MAX, &max) ||
        get_int(p, "n", 1, LODGE_MAX_CHOICES, &n) ||
        get_int(p, "best_of", 1, LODGE_MAX_CHOICES, &best_of))
        return LODGE_ERR_INVALID;
    if (chat && max == 0)
        return bad(p,
                   lodge_json_member(p->o, "max_completion_tokens") ? "max_completion_tokens"
                                                                    : "max_tokens",
                   "'max_tokens' must be at least 1");
    if (best_of && best_of < n)
        return bad(p, "best_of", "'best_of' must be at least 'n' (%lld)", (long long)n);
    p->g->n = (uint32_t)n;
    p->g->best_of = best_of ? (uint32_t)best_of : (uint32_t)n;
    if (p->g->best_of > p->g->n && p->g->stream)
        return bad(p, "best_of", "'best_of' above 'n' cannot be streamed");
    p->g->req.n_choices = p->g->best_of;
    p->g->req.max_tokens = max > INT32_MAX ? INT32_MAX : (uint32_t)max;
    return 0;
}

static int parse_logprobs(struct parse *p)
{
    struct generation *g = p->g;
    int64_t tops = 0, prompt = -1;
    if (g->kind == CALL_CHAT) {
        if (get_bool(p, "logprobs", &g->logprobs) ||
            get_int(p, "top_logprobs", 0, LODGE_MAX_TOPS, &tops))
            return LODGE_ERR_INVALID;
        if (lodge_json_member(p->o, "top_logprobs") && tops && !g->logprobs)
            return bad(p, "top_logprobs", "'top_logprobs' needs 'logprobs' to be true");
    } else {
        tops = -1;
        if (json_is_boolean(lodge_json_member(p->o, "logprobs")))
            return bad(p, "logprobs", "'logprobs' must be an integer from 0 to %u", LODGE_MAX_TOPS);
        if (get_int(p, "logprobs", 0, LODGE_MAX_TOPS, &tops) || get_bool(p, "echo", &g->echo))
            return LODGE_ERR_INVALID;
        g->logprobs = tops >= 0;
        if (!g->req.max_tokens && !g->echo && !lodge_json_member(p->o, "prompt_logprobs"))
            return bad(p, "max_tokens", "'max_tokens' 0 needs 'echo' or 'prompt_logprobs'");
    }
    if (get_int(p, "prompt_logprobs", 0, LODGE_MAX_TOPS, &prompt))
        return LODGE_ERR_INVALID;
    g->prompt_logprobs = prompt >= 0;
    if (g->prompt_logprobs && g->stream)
        return bad(p, "prompt_logprobs", "'prompt_logprobs' cannot be streamed");
    g->n_tops = tops > 0 ? (uint32_t)tops : 0;
    bool echo_scores = g->echo && g->logprobs;
    g->n_prompt_tops = g->prompt_logprobs ? (uint32_t)prompt : 0;
    if (echo_scores && g->n_tops > g->n_prompt_tops)
        g->n_prompt_tops = g->n_tops;
    g->req.want_logprobs = g->logprobs || g->best_of > g->n;
    g->req.n_tops = g->n_tops;
    g->req.want_prompt_scores = g->prompt_logprobs || echo_scores;
    g->req.n_prompt_tops = g->n_prompt_tops;
    return 0;
}

static int parse_stream(struct parse *p)
{
    const json_t *options = lodge_json_member(p->o, "stream_options");
    if (get_bool(p, "stream", &p->g->stream))
        return LODGE_ERR_INVALID;
    if (!options)
        return 0;
    if (!p->g->stream)
        return bad(p, "stream_options", "'stream_options' is only allowed with 'stream': true");
    if (!json_is_object(options))
        return bad(p, "stream_options", "'stream_options' must be an object");
    if (lodge_json_get_bool(options, "include_usage", &p->g->include_usage, p->e) ||
        lodge_json_get_bool(options, "continuous_usage_stats", &p->g->continuous_usage, p->e)) {
        *p->param = "stream_options.include_usage";
        return LODGE_ERR_INVALID;
    }
    return 0;
}

static int parse_meta(struct parse *p)
{
    const char *salt = NULL, *user = NULL, *id = NULL;
    if (get_string(p, "cache_salt", &salt) || get_string(p, "user", &user) ||
        get_string(p, "request_id", &id) || get_bool(p, "return_token_ids", &p->g->token_ids) ||
        get_bool(p, "return_tokens_as_token_ids", &p->g->tokens_as_ids))
        return LODGE_ERR_INVALID;
    if (salt && (!*salt || strlen(salt) > 1024))
        return bad(p, "cache_salt", "'cache_salt' must have 1 to 1024 characters");
    if (salt)
        p->g->req.cache_salt = (struct lodge_bytes){salt, strlen(salt)};
    const json_t *meta = lodge_json_member(p->o, "metadata");
    if (!meta)
        return 0;
    if (!json_is_object(meta) || json_object_size(meta) > 16)
        return bad(p, "metadata", "'metadata' must be an object of at most 16 strings");
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)meta, key, v)
    {
        if (!json_is_string(v))
            return bad(p, "metadata", "'metadata.%.60s' must be a string", key);
    }
    return 0;
}

/* ---- the model and the prompts
 * ------------------------------------------------------------------------------------ */

bool model_known(const struct server *s, const char *name)
{
    for (uint32_t i = 0; i < s->n_names; i++)
        if (strcmp(s->names[i], name) == 0)
            return true;
    return false;
}

static int parse_model(struct parse *p)
{
    const char *model = NULL;
    if (get_string(p, "model", &model))
        return LODGE_ERR_INVALID;
    if (!model)
        return bad(p, "model", "'model' is missing; this server has '%s'", p->c->server->names[0]);
    p->g->model = model;
    if (model_known(p->c->server, model))
        return 0;
    *p->param = "model";
    return lodge_fail(p->e, LODGE_ERR_NOT_FOUND,
                      "the model '%.200s' does not exist; GET /v1/models lists what there is",
                      model);
}

static int add_runs(struct parse *p, size_t n)
{
    struct generation *g = p->g;
    g->runs = lodge_arena_array(&g->arena, n, sizeof *g->runs);
    if (!g->runs)
        return lodge_fail(p->e, LODGE_ERR_NOMEM, "no memory for the request");
    g->n_runs = (uint32_t)n;
    for (size_t i = 0; i < n; i++) {
        struct run *r = &g->runs[i];
        r->choices = lodge_arena_array(&g->arena, g->best_of, sizeof *r->choices);
        if (!r->choices)
            return lodge_fail(p->e, LODGE_ERR_NOMEM, "no memory for the request");
        lodge_buf_init(&r->prompt_logprobs, (size_t)256 << 20);
        for (uint32_t k = 0; k < g->best_of; k++) {
            struct choice *c = &r->choices[k];
            c->finish = -1;
            struct lodge_buf *const bufs[] = {&c->text,      &c->logprobs, &c->lp_tokens,
                                              &c->lp_values, &c->lp_tops,  &c->lp_offsets,
                                              &c->token_ids};
            for (size_t b = 0; b < sizeof bufs / sizeof *bufs; b++)
                lodge_buf_init(bufs[b], (size_t)256 << 20);
        }
    }
    return 0;
}

/* Most tokens a prompt may be tokenized to: beyond the context only the refusal needs the count. */
static size_t token_limit(const struct parse *p)
{
    return (size_t)p->c->server->info.max_model_len * 4 + 65536;
}

static int parse_chat_prompt(struct parse *p)
{
    const json_t *messages = lodge_json_member(p->o, "messages");
    if (!messages)
        return bad(p, "messages", "'messages' is missing");
    if (!json_is_array(messages) || !json_array_size(messages))
        return bad(p, "messages", "'messages' must be a list of at least one message");
    bool generation_prompt = true;
    struct lodge_chat chat = {.messages = messages};
    const json_t *kwargs = lodge_json_member(p->o, "chat_template_kwargs");
    if (get_bool(p, "add_generation_prompt", &generation_prompt) ||
        get_bool(p, "continue_final_message", &chat.continue_final_message) ||
        get_string(p, "chat_template", &chat.chat_template))
        return LODGE_ERR_INVALID;
    if (chat.chat_template && !p->c->server->cfg->trust_request_chat_template)
        return bad(p, "chat_template",
                   "'chat_template' in requests is switched off on this server");
    if (kwargs && !json_is_object(kwargs))
        return bad(p, "chat_template_kwargs", "'chat_template_kwargs' must be an object");
    if (chat.continue_final_message && lodge_json_member(p->o, "add_generation_prompt") &&
        generation_prompt)
        return bad(p, "continue_final_message",
                   "'continue_final_message' and 'add_generation_prompt' exclude each other");
    chat.kwargs = kwargs;
    chat.no_generation_prompt = !generation_prompt || chat.continue_final_message;
    int err = lodge_engine_chat_prompt(atomic_load(&p->c->server->engine), &chat, token_limit(p),
                                       &p->g->runs[0].prompt, NULL, p->e);
    if (err)
        *p->param = "messages";
    return err;
}

/* 0: one string; 1: list of strings; 2: one list of ids; 3: list of lists; -1: none of these. */
static int prompt_shape(const json_t *v)
{
    if (json_is_string(v))
        return 0;
    const json_t *first = json_array_get(v, 0);
    return json_is_string(first) ? 1 : json_is_integer(first) ? 2 : json_is_array(first) ? 3 : -1;
}

static int parse_one_prompt(struct parse *p, const json_t *v, struct lodge_ids *out)
{
    if (json_is_string(v)) {
        bool add_special = true;
        if (get_bool(p, "add_special_tokens", &add_special))
            return LODGE_ERR_INVALID;
        if (!json_string_length(v))
            return bad(p, "prompt", "'prompt' must not be empty");
        int err = lodge_engine_tokenize(atomic_load(&p->c->server->engine), json_string_value(v),
                                        json_string_length(v), add_special, true, token_limit(p),
                                        out, p->e);
        if (err)
            *p->param = "prompt";
        return err;
    }
    const uint32_t *ids;
    uint32_t n;
    int err = get_ids(p, "prompt", v, &ids, &n);
    if (!err && !n)
        err = bad(p, "prompt", "'prompt' must not be empty");
    if (err)
        return err;
    out->data = malloc(n * sizeof *ids);
    if (!out->data)
        return lodge_fail(p->e, LODGE_ERR_NOMEM, "no memory for the prompt");
    memcpy(out->data, ids, n * sizeof *ids);
    out->n = out->_room = n;
    return 0;
}

static int parse_completion_prompts(struct parse *p)
{
    const json_t *v = lodge_json_member(p->o, "prompt");
    int shape = prompt_shape(v);
    if (shape < 0)
        return bad(p, "prompt",
                   "'prompt' must be a string, a list of strings, a list of token ids, or a "
                   "list of such lists, and not empty");
    bool many = shape == 1 || shape == 3;
    size_t n = many ? json_array_size(v) : 1;
    if (n > MAX_PROMPTS)
        return bad(p, "prompt", "'prompt' has %zu prompts; at most %u", n, MAX_PROMPTS);
    int err = add_runs(p, n);
    for (size_t i = 0; i < n && !err; i++) {
        const json_t *one = many ? json_array_get(v, i) : v;
        if (many && (shape == 1) != json_is_string(one))
            return bad(p, "prompt", "'prompt[%zu]' is of another kind than 'prompt[0]'", i);
        err = parse_one_prompt(p, one, &p->g->runs[i].prompt);
    }
    return err;
}

static int truncate_prompts(struct parse *p)
{
    int64_t keep = 0;
    if (get_int(p, "truncate_prompt_tokens", -1, INT32_MAX, &keep))
        return LODGE_ERR_INVALID;
    if (keep < 0)
        keep = p->c->server->info.max_model_len - 1;
    for (uint32_t i = 0; i < p->g->n_runs && keep; i++) {
        struct lodge_ids *ids = &p->g->runs[i].prompt;
        if (ids->n <= (size_t)keep)
            continue;
        memmove(ids->data, ids->data + ids->n - (size_t)keep, (size_t)keep * sizeof *ids->data);
        ids->n = (size_t)keep;
    }
    return 0;
}

int parse_generation(struct call *c, enum call_kind kind, const char **param, struct lodge_error *e)
{
    struct generation *g = c->gen;
    g->kind = kind;
    lodge_arena_init(&g->arena, (size_t)256 << 20);
    lodge_request_init(&g->req);
    lodge_buf_init(&g->out, (size_t)1 << 30);
    struct parse p = {.c = c, .g = g, .o = c->json, .param = param, .e = e};
    *param = NULL;
    if (!json_is_object(c->json))
        return lodge_fail(e, LODGE_ERR_INVALID, "the request body must be a JSON object");
    int err = parse_model(&p);
    if (!err)
        err = refuse_unbuilt(&p);
    if (!err)
        err = parse_stream(&p);
    if (!err)
        err = parse_lengths(&p);
    if (!err)
        err = parse_logprobs(&p);
    if (!err)
        err = parse_sampling(&p);
    if (!err)
        err = parse_meta(&p);
    if (err)
        return err;
    if (kind == CALL_CHAT) {
        err = add_runs(&p, 1);
        if (!err)
            err = parse_chat_prompt(&p);
    } else {
        err = parse_completion_prompts(&p);
    }
    return err ? err : truncate_prompts(&p);
}
