/* Fields that say how to sample, and what ends a reply. */
#include "server/parse.h"

#include "base/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_STOP_BYTES 4096u
#define MAX_STOP_IDS 4096u
#define MAX_BAD_WORDS 256u
#define MAX_WORD_BYTES 512u

static int no_memory(struct parse *p)
{
    return lodge_fail(&p->r->e, LODGE_ERR_NOMEM, "no memory for the request");
}

/* ---- lists ---- */

static int parse_stops(struct parse *p)
{
    const json_t *v = lodge_json_member(p->o, "stop");
    struct lodge_request *r = &p->g->req;
    size_t n = json_is_array(v) ? json_array_size(v) : v != NULL;
    if (n > LODGE_MAX_STOPS)
        return parse_bad(p, "stop", "'stop' has %zu strings; at most %u", n, LODGE_MAX_STOPS);
    for (size_t i = 0; i < n; i++) {
        const json_t *s = json_is_array(v) ? json_array_get(v, i) : v;
        size_t len = json_string_length(s);
        if (!json_is_string(s) || !len || len > MAX_STOP_BYTES)
            return parse_bad(p, "stop",
                             "'stop' must be a string of 1 to %u bytes or a list of such",
                             MAX_STOP_BYTES);
        const char *copy = lodge_arena_strndup(&p->g->arena, json_string_value(s), len);
        if (!copy)
            return no_memory(p);
        r->stops[r->n_stops++] = (struct lodge_bytes){copy, len};
    }
    return 0;
}

/* Plain decimal, so that no id is named twice. */
static bool token_key(const char *key, uint32_t n_vocab, uint32_t *id)
{
    size_t n = strlen(key);
    if (!n || n > 9 || strspn(key, "0123456789") != n || (key[0] == '0' && n > 1))
        return false;
    *id = (uint32_t)strtoul(key, NULL, 10);
    return *id < n_vocab;
}

static int parse_bias(struct parse *p)
{
    const json_t *v = lodge_json_member(p->o, "logit_bias");
    if (!v)
        return 0;
    if (!json_is_object(v))
        return parse_bad(p, "logit_bias", "'logit_bias' must map token ids to numbers");
    struct lodge_bias *b = lodge_arena_array(&p->g->arena, json_object_size(v) + 1, sizeof *b);
    if (!b)
        return no_memory(p);
    uint32_t n = 0, id, n_vocab = p->c->server->info.n_vocab;
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)v, key, value)
    {
        double d = json_is_number(value) ? json_number_value(value) : NAN;
        if (!token_key(key, n_vocab, &id))
            return parse_bad(p, "logit_bias",
                             "'logit_bias' has key '%.40s'; keys are token ids below %u", key,
                             n_vocab);
        if (!(d >= -100 && d <= 100))
            return parse_bad(p, "logit_bias", "'logit_bias.%s' must be a number from -100 to 100",
                             key);
        b[n++] = (struct lodge_bias){id, d <= -100 ? -INFINITY : (float)d};
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
    int err =
        stop ? parse_ids(p, "stop_token_ids", stop, MAX_STOP_IDS, &r->stop_ids.ids, &r->stop_ids.n)
             : 0;
    if (err || !allowed)
        return err;
    const uint32_t *ids;
    uint32_t n, kept = 0;
    err = parse_ids(p, "allowed_token_ids", allowed, SIZE_MAX, &ids, &n);
    if (!err && !n)
        err = parse_bad(p, "allowed_token_ids", "'allowed_token_ids' must not be empty");
    if (err)
        return err;
    uint32_t *sorted = (uint32_t *)(uintptr_t)ids;
    qsort(sorted, n, sizeof *sorted, by_id);
    for (uint32_t i = 0; i < n; i++)
        if (!kept || sorted[kept - 1] != sorted[i])
            sorted[kept++] = sorted[i];
    r->sampling.allowed = sorted;
    r->sampling.n_allowed = kept;
    return 0;
}

/* One spelling of a bad word as tokens; none when it has none. */
static int add_bad_word(struct parse *p, const char *text, struct lodge_id_list *lists, uint32_t *n)
{
    struct lodge_ids ids = {0};
    int err = lodge_engine_tokenize(atomic_load(&p->c->server->engine), text, strlen(text), false,
                                    false, 2 * MAX_WORD_BYTES, &ids, &p->r->e);
    uint32_t *keep = lodge_arena_array(&p->g->arena, ids.n + 1, sizeof *keep);
    if (!err && !keep)
        err = no_memory(p);
    if (!err && ids.n) {
        memcpy(keep, ids.data, ids.n * sizeof *keep);
        lists[(*n)++] = (struct lodge_id_list){keep, (uint32_t)ids.n};
    }
    lodge_ids_finish(&ids);
    return parse_at(p, "bad_words", err);
}

/* Each bad word as a text of its own, and with a space before it. */
static int parse_bad_words(struct parse *p)
{
    const json_t *v = lodge_json_member(p->o, "bad_words");
    size_t n = json_array_size(v);
    if (!v)
        return 0;
    if (!json_is_array(v) || n > MAX_BAD_WORDS)
        return parse_bad(p, "bad_words", "'bad_words' must be a list of at most %u strings",
                         MAX_BAD_WORDS);
    struct lodge_id_list *lists = lodge_arena_array(&p->g->arena, 2 * n + 1, sizeof *lists);
    uint32_t n_lists = 0;
    int err = lists ? 0 : no_memory(p);
    for (size_t i = 0; i < 2 * n && !err; i++) {
        const char *word = json_string_value(json_array_get(v, i / 2));
        char text[MAX_WORD_BYTES + 2];
        if (!word || !*word || strlen(word) > MAX_WORD_BYTES)
            return parse_bad(p, "bad_words", "'bad_words[%zu]' must be a string of 1 to %u bytes",
                             i / 2, MAX_WORD_BYTES);
        snprintf(text, sizeof text, "%s%s", i % 2 ? " " : "", word);
        err = add_bad_word(p, text, lists, &n_lists);
    }
    p->g->req.bad_words = lists;
    p->g->req.n_bad_words = n_lists;
    return err;
}

/* ---- numbers ---- */

/* The model's own defaults first. */
static int parse_shape(struct parse *p)
{
    const struct lodge_engine_info *i = &p->c->server->info;
    struct lodge_sampling *s = &p->g->req.sampling;
    double temperature = (double)i->temperature, top_p = (double)i->top_p, min_p = (double)i->min_p;
    double typical = 1, repetition = (double)i->repetition, presence = 0, frequency = 0;
    int64_t top_k = i->top_k;
    if (parse_double(p, "temperature", 0, 2, &temperature) ||
        parse_double(p, "top_p", 0, 1, &top_p) || parse_double(p, "min_p", 0, 1, &min_p) ||
        parse_double(p, "typical_p", 0, 1, &typical) ||
        parse_double(p, "repetition_penalty", 1e-3, 100, &repetition) ||
        parse_double(p, "presence_penalty", -2, 2, &presence) ||
        parse_double(p, "frequency_penalty", -2, 2, &frequency) ||
        parse_int(p, "top_k", -1, INT32_MAX, &top_k))
        return LODGE_ERR_INVALID;
    s->temperature = (float)temperature;
    s->top_p = top_p > 0 ? (float)top_p : 1e-9f;
    s->min_p = (float)min_p;
    s->typical_p = typical > 0 ? (float)typical : 1;
    s->repetition = (float)repetition;
    s->presence = (float)presence;
    s->frequency = (float)frequency;
    s->top_k = top_k > 0 ? (uint32_t)top_k : 0;
    return 0;
}

static int parse_limits(struct parse *p)
{
    struct lodge_request *r = &p->g->req;
    int64_t seed = 0, min_tokens = 0, priority = 0;
    double timeout = 0;
    bool skip_special = true, spaces = true;
    if (parse_int(p, "seed", INT64_MIN, INT64_MAX, &seed) ||
        parse_int(p, "min_tokens", 0, INT32_MAX, &min_tokens) ||
        parse_int(p, "priority", INT32_MIN, INT32_MAX, &priority) ||
        parse_double(p, "timeout", 0, 1e6, &timeout) ||
        parse_bool(p, "ignore_eos", &r->ignore_eos) ||
        parse_bool(p, "include_stop_str_in_output", &r->include_stop) ||
        parse_bool(p, "skip_special_tokens", &skip_special) ||
        parse_bool(p, "spaces_between_special_tokens", &spaces))
        return LODGE_ERR_INVALID;
    if (priority && strcmp(p->c->server->cfg->policy, "priority") != 0)
        return parse_bad(p, "priority", "'priority' needs a server started with --policy priority");
    if (min_tokens > r->max_tokens)
        return parse_bad(p, "min_tokens", "'min_tokens' (%lld) must not exceed 'max_tokens' (%u)",
                         (long long)min_tokens, r->max_tokens);
    r->sampling.seed = (uint64_t)seed;
    r->has_seed = lodge_json_member(p->o, "seed") != NULL;
    r->min_tokens = (uint32_t)min_tokens;
    r->priority = (int32_t)priority;
    r->timeout_s = timeout;
    r->keep_special = !skip_special;
    return 0;
}

int parse_sampling(struct parse *p)
{
    int (*const parts[])(struct parse *) = {parse_shape, parse_limits,   parse_stops,
                                            parse_bias,  parse_id_lists, parse_bad_words};
    int err = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts && !err; i++)
        err = parts[i](p);
    return err;
}
