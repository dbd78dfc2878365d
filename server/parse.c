/* JSON fields to a generation. */
#include "server/parse.h"

#include "base/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_CHOICES_OF_CALL 1024u /* prompts * choices */
#define MAX_INTERVAL 1024
#define MAX_REPLY_BYTES ((uint64_t)512 << 20)
#define TEXT_BYTES 16u     /* of a token in a reply, about */
#define LOGPROB_BYTES 100u /* of a log-probability in a reply, about */

int parse_bad(struct parse *p, const char *param, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    lodge_vfail(&p->r->e, LODGE_ERR_INVALID, fmt, args);
    va_end(args);
    return parse_at(p, param, LODGE_ERR_INVALID);
}

int parse_at(struct parse *p, const char *param, int err)
{
    if (err)
        snprintf(p->r->param, sizeof p->r->param, "%s", param);
    return err;
}

int parse_int(struct parse *p, const char *key, int64_t min, int64_t max, int64_t *out)
{
    return parse_at(p, key, lodge_json_get_int(p->o, key, min, max, out, &p->r->e));
}

int parse_double(struct parse *p, const char *key, double min, double max, double *out)
{
    return parse_at(p, key, lodge_json_get_double(p->o, key, min, max, out, &p->r->e));
}

int parse_bool(struct parse *p, const char *key, bool *out)
{
    return parse_at(p, key, lodge_json_get_bool(p->o, key, out, &p->r->e));
}

int parse_string(struct parse *p, const char *key, const char **out)
{
    return parse_at(p, key, lodge_json_get_string(p->o, key, out, &p->r->e));
}

int parse_ids(struct parse *p, const char *key, const json_t *v, size_t most, const uint32_t **out,
              uint32_t *n)
{
    size_t count = json_array_size(v);
    uint32_t n_vocab = p->c->server->info.n_vocab;
    if (!json_is_array(v) || count > most)
        return parse_bad(p, key, "'%s' must be a list of token ids%s", key,
                         json_is_array(v) ? ", and not so long" : "");
    uint32_t *ids = lodge_arena_array(&p->g->arena, count + 1, sizeof *ids);
    if (!ids)
        return lodge_fail(&p->r->e, LODGE_ERR_NOMEM, "no memory for the request");
    for (size_t i = 0; i < count; i++) {
        const json_t *id = json_array_get(v, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= n_vocab)
            return parse_bad(p, key, "'%s[%zu]' must be a token id from 0 to %u", key, i,
                             n_vocab - 1);
        ids[i] = (uint32_t)json_integer_value(id);
    }
    *out = ids;
    *n = (uint32_t)count;
    return 0;
}

/* ---- how much, and what to return ---- */

static int parse_lengths(struct parse *p)
{
    struct generation *g = p->g;
    bool chat = g->kind == CALL_CHAT;
    int64_t max = chat ? INT32_MAX : 16, n = 1, best_of = 0;
    if (parse_int(p, "max_tokens", chat, INT64_MAX, &max) ||
        parse_int(p, "max_completion_tokens", chat, INT64_MAX, &max) ||
        parse_int(p, "n", 1, LODGE_MAX_CHOICES, &n) || parse_int(p, "best_of", 0, 20, &best_of))
        return LODGE_ERR_INVALID;
    if (best_of && best_of < n)
        return parse_bad(p, "best_of", "'best_of' must be at least 'n' (%lld)", (long long)n);
    g->n = (uint32_t)n;
    g->best_of = best_of ? (uint32_t)best_of : (uint32_t)n;
    if (g->best_of > g->n && g->stream)
        return parse_bad(p, "best_of", "'best_of' above 'n' cannot be streamed");
    g->req.n_choices = g->best_of;
    g->req.max_tokens = max > INT32_MAX ? INT32_MAX : (uint32_t)max;
    return 0;
}

static int parse_chat_logprobs(struct parse *p, int64_t *tops)
{
    *tops = 0;
    if (parse_bool(p, "logprobs", &p->g->logprobs) ||
        parse_int(p, "top_logprobs", 0, LODGE_MAX_TOPS, tops))
        return LODGE_ERR_INVALID;
    if (*tops && !p->g->logprobs)
        return parse_bad(p, "top_logprobs", "'top_logprobs' needs 'logprobs' to be true");
    return 0;
}

static int parse_text_logprobs(struct parse *p, int64_t *tops)
{
    struct generation *g = p->g;
    *tops = -1;
    if (parse_int(p, "logprobs", 0, 5, tops) || parse_bool(p, "echo", &g->echo))
        return LODGE_ERR_INVALID;
    g->logprobs = *tops >= 0;
    if (!g->req.max_tokens && !g->echo && !lodge_json_member(p->o, "prompt_logprobs"))
        return parse_bad(p, "max_tokens", "'max_tokens' 0 needs 'echo' or 'prompt_logprobs'");
    return 0;
}

static int parse_logprobs(struct parse *p)
{
    struct generation *g = p->g;
    int64_t tops, prompt = -1;
    int err = g->kind == CALL_CHAT ? parse_chat_logprobs(p, &tops) : parse_text_logprobs(p, &tops);
    if (err || parse_int(p, "prompt_logprobs", 0, LODGE_MAX_TOPS, &prompt))
        return LODGE_ERR_INVALID;
    g->prompt_logprobs = prompt >= 0;
    if (g->prompt_logprobs && g->stream)
        return parse_bad(p, "prompt_logprobs", "'prompt_logprobs' cannot be streamed");
    bool echo_scores = g->echo && g->logprobs;
    g->n_tops = tops > 0 ? (uint32_t)tops : 0;
    g->n_prompt_tops = g->prompt_logprobs ? (uint32_t)prompt : 0;
    g->req.want_logprobs = g->logprobs || g->best_of > g->n;
    g->req.n_tops = g->n_tops;
    g->req.want_prompt_scores = g->prompt_logprobs || echo_scores;
    g->req.n_prompt_tops =
        echo_scores && g->n_tops > g->n_prompt_tops ? g->n_tops : g->n_prompt_tops;
    return 0;
}

static int parse_stream_option(struct parse *p, const json_t *options, const char *key, bool *out)
{
    char param[MAX_PARAM];
    snprintf(param, sizeof param, "stream_options.%s", key);
    return parse_at(p, param, lodge_json_get_bool(options, key, out, &p->r->e));
}

static int parse_stream(struct parse *p)
{
    const json_t *options = lodge_json_member(p->o, "stream_options");
    int64_t interval = 1;
    bool obfuscation;
    if (parse_bool(p, "stream", &p->g->stream) ||
        parse_int(p, "stream_interval", 1, MAX_INTERVAL, &interval))
        return LODGE_ERR_INVALID;
    p->g->interval = (uint32_t)interval;
    if (!options)
        return 0;
    if (!p->g->stream)
        return parse_bad(p, "stream_options",
                         "'stream_options' is only allowed with 'stream': true");
    if (!json_is_object(options))
        return parse_bad(p, "stream_options", "'stream_options' must be an object");
    int err = parse_stream_option(p, options, "include_usage", &p->g->include_usage);
    if (!err)
        err = parse_stream_option(p, options, "continuous_usage_stats", &p->g->continuous_usage);
    return err ? err : parse_stream_option(p, options, "include_obfuscation", &obfuscation);
}

/* ---- names and labels ---- */

static size_t characters(const char *s)
{
    size_t n = 0;
    for (; *s; s++)
        n += ((unsigned char)*s & 0xC0) != 0x80;
    return n;
}

/* A string of limited length, kept in the arena; *out stays NULL when it is absent. */
static int parse_label(struct parse *p, const char *key, size_t most, const char **out)
{
    const char *text = NULL;
    if (parse_string(p, key, &text))
        return LODGE_ERR_INVALID;
    if (!text)
        return 0;
    if (!*text || characters(text) > most)
        return parse_bad(p, key, "'%s' must have 1 to %zu characters", key, most);
    *out = lodge_arena_strndup(&p->g->arena, text, strlen(text));
    return *out ? 0 : lodge_fail(&p->r->e, LODGE_ERR_NOMEM, "no memory for the request");
}

static int parse_metadata(struct parse *p)
{
    const json_t *meta = lodge_json_member(p->o, "metadata");
    if (!meta)
        return 0;
    if (!json_is_object(meta) || json_object_size(meta) > 16)
        return parse_bad(p, "metadata", "'metadata' must be an object of at most 16 strings");
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)meta, key, v)
    {
        char param[MAX_PARAM];
        snprintf(param, sizeof param, "metadata.%s", key);
        if (characters(key) > 64)
            return parse_bad(p, "metadata", "keys of 'metadata' have at most 64 characters");
        if (!json_is_string(v) || characters(json_string_value(v)) > 512)
            return parse_bad(p, param,
                             "'metadata.%.64s' must be a string of at most 512 characters", key);
    }
    return 0;
}

static int parse_meta(struct parse *p)
{
    const char *salt = NULL, *id = NULL;
    int err = parse_label(p, "cache_salt", 1024, &salt);
    if (!err)
        err = parse_label(p, "request_id", 128, &p->g->client_id);
    if (!err)
        err = parse_label(p, "safety_identifier", 64, &id);
    if (!err)
        err = parse_bool(p, "return_token_ids", &p->g->token_ids);
    if (!err)
        err = parse_bool(p, "return_tokens_as_token_ids", &p->g->tokens_as_ids);
    if (salt)
        p->g->req.cache_salt = (struct lodge_bytes){salt, strlen(salt)};
    return err ? err : parse_metadata(p);
}

/* ---- together ---- */

/* Most bytes that the reply may come to, roughly. */
static uint64_t reply_bytes(const struct parse *p)
{
    const struct generation *g = p->g;
    uint64_t context = p->c->server->info.max_model_len, max = g->req.max_tokens, sum = 0;
    uint64_t per_token = TEXT_BYTES + (g->logprobs ? LOGPROB_BYTES * (1 + g->n_tops) : 0);
    uint64_t per_score = g->prompt_logprobs ? LOGPROB_BYTES * (1 + g->n_prompt_tops) : 0;
    for (uint32_t i = 0; i < g->n_runs; i++) {
        uint64_t prompt = g->runs[i].prompt.n, left = context - prompt;
        sum += g->best_of * ((max < left ? max : left) + (g->echo ? prompt : 0)) * per_token +
               prompt * per_score;
    }
    return sum;
}

static int check_amount(struct parse *p)
{
    const struct generation *g = p->g;
    int64_t queue = p->c->server->cfg->max_queue;
    if ((uint64_t)g->n_runs * g->best_of > MAX_CHOICES_OF_CALL)
        return parse_bad(p, "n", "%u prompts with %u choices each are more than %u replies",
                         g->n_runs, g->best_of, MAX_CHOICES_OF_CALL);
    if (g->n_runs > queue)
        return parse_bad(p, "prompt", "'prompt' has %u prompts; this server queues at most %lld",
                         g->n_runs, (long long)queue);
    if (reply_bytes(p) > MAX_REPLY_BYTES)
        return parse_bad(
            p, "max_tokens",
            "the reply might come to %llu MB; lower 'max_tokens', 'n' or the number of "
            "log-probabilities",
            (unsigned long long)(reply_bytes(p) >> 20));
    return 0;
}

int parse_generation(struct call *c, struct generation *g, enum call_kind kind, struct refusal *r)
{
    struct parse p = {.c = c, .g = g, .o = c->json, .r = r};
    int (*const parts[])(struct parse *) = {parse_model,    parse_fields,   parse_adapters,
                                            parse_stream,   parse_lengths,  parse_prediction,
                                            parse_logprobs, parse_sampling, parse_meta,
                                            parse_prompts,  check_amount};
    g->kind = kind;
    lodge_arena_init(&g->arena, (size_t)256 << 20);
    lodge_request_init(&g->req);
    lodge_buf_init(&g->out, (size_t)1 << 30);
    *r = (struct refusal){0};
    int err = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts && !err; i++)
        err = parts[i](&p);
    return err;
}
