/* Messages, texts and token lists to the prompts of a generation. */
#include "server/parse.h"

#include "base/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_BUF ((size_t)256 << 20)

static int add_runs(struct parse *p, size_t n)
{
    struct generation *g = p->g;
    g->runs = lodge_arena_array(&g->arena, n, sizeof *g->runs);
    for (size_t i = 0; g->runs && i < n; i++) {
        struct run *r = &g->runs[i];
        r->choices = lodge_arena_array(&g->arena, g->best_of, sizeof *r->choices);
        if (!r->choices)
            break;
        lodge_buf_init(&r->prompt_logprobs, MAX_BUF);
        lodge_buf_init(&r->events, (size_t)1 << 30);
        for (uint32_t k = 0; k < g->best_of; k++) {
            struct choice *c = &r->choices[k];
            *c = (struct choice){.finish = -1, .stop_index = -1, .stop_token = -1};
            struct lodge_buf *const bufs[] = {&c->text,      &c->logprobs, &c->lp_tokens,
                                              &c->lp_values, &c->lp_tops,  &c->lp_offsets,
                                              &c->token_ids};
            for (size_t b = 0; b < sizeof bufs / sizeof *bufs; b++)
                lodge_buf_init(bufs[b], MAX_BUF);
        }
        g->n_runs++;
    }
    return g->n_runs == n ? 0 : lodge_fail(&p->r->e, LODGE_ERR_NOMEM, "no memory for the request");
}

/* Most tokens a text may become: beyond the context only a refusal needs them. */
static size_t token_limit(const struct server *s)
{
    return (size_t)s->info.max_model_len * 4 + 65536;
}

static int too_long(const struct server *s, struct lodge_error *e)
{
    return lodge_fail(e, LODGE_ERR_CONTEXT,
                      "the prompt has more than %zu tokens; this model's context is %u tokens, "
                      "prompt and reply together. Shorten the prompt",
                      token_limit(s), s->info.max_model_len);
}

/* ---- chats ---- */

/* Variables that the server sets itself, or that name functions of the template language. */
static int check_kwargs(const json_t *kwargs, struct refusal *r)
{
    static const char *const reserved[] = {
        "messages",
        "tools",
        "documents",
        "bos_token",
        "eos_token",
        "tokenize",
        "chat_template",
        "add_generation_prompt",
        "continue_final_message",
        "namespace",
        "range",
        "raise_exception",
        "strftime_now",
        "dict",
    };
    if (kwargs && !json_is_object(kwargs)) {
        snprintf(r->param, sizeof r->param, "chat_template_kwargs");
        return lodge_fail(&r->e, LODGE_ERR_INVALID, "'chat_template_kwargs' must be an object");
    }
    for (size_t i = 0; i < sizeof reserved / sizeof *reserved; i++)
        if (json_object_get(kwargs, reserved[i])) {
            snprintf(r->param, sizeof r->param, "chat_template_kwargs.%s", reserved[i]);
            return lodge_fail(&r->e, LODGE_ERR_INVALID,
                              "'chat_template_kwargs' may not set '%s'; use the field of that name "
                              "if there is one",
                              reserved[i]);
        }
    return 0;
}

static int get_options(const struct server *s, const json_t *o, struct lodge_chat *chat,
                       struct refusal *r)
{
    bool generation_prompt = true;
    static const char *const keys[] = {"add_generation_prompt", "continue_final_message"};
    bool *const values[] = {&generation_prompt, &chat->continue_final_message};
    for (int i = 0; i < 2; i++)
        if (lodge_json_get_bool(o, keys[i], values[i], &r->e)) {
            snprintf(r->param, sizeof r->param, "%s", keys[i]);
            return LODGE_ERR_INVALID;
        }
    snprintf(r->param, sizeof r->param, "chat_template");
    if (lodge_json_get_string(o, "chat_template", &chat->chat_template, &r->e))
        return LODGE_ERR_INVALID;
    if (chat->chat_template && !s->cfg->trust_request_chat_template)
        return lodge_fail(&r->e, LODGE_ERR_INVALID,
                          "'chat_template' in requests is switched off on this server");
    snprintf(r->param, sizeof r->param, "continue_final_message");
    if (chat->continue_final_message && lodge_json_member(o, keys[0]) && generation_prompt)
        return lodge_fail(&r->e, LODGE_ERR_INVALID,
                          "'continue_final_message' and 'add_generation_prompt' exclude each "
                          "other");
    *r->param = 0;
    chat->no_generation_prompt = !generation_prompt || chat->continue_final_message;
    chat->kwargs = lodge_json_member(o, "chat_template_kwargs");
    return check_kwargs(chat->kwargs, r);
}

/* Errors about a message begin with its path: "messages[1].role: ...". */
static void name_message(struct refusal *r, const struct lodge_chat *chat)
{
    size_t n = strcspn(r->e.text, ": ");
    bool path = strncmp(r->e.text, "messages[", 9) == 0 && n < sizeof r->param;
    if (r->e.code == LODGE_ERR_FORMAT && chat->chat_template)
        snprintf(r->param, sizeof r->param, "chat_template");
    else if (path)
        snprintf(r->param, sizeof r->param, "%.*s", (int)n, r->e.text);
    else
        snprintf(r->param, sizeof r->param, "messages");
}

int parse_chat(const struct server *s, const json_t *o, const struct lodge_adapter_version *adapter,
               struct lodge_ids *out, struct refusal *r)
{
    struct lodge_chat chat = {.messages = lodge_json_member(o, "messages"), .adapter = adapter};
    snprintf(r->param, sizeof r->param, "messages");
    if (!chat.messages)
        return lodge_fail(&r->e, LODGE_ERR_INVALID, "'messages' is missing");
    if (!json_is_array(chat.messages) || !json_array_size(chat.messages))
        return lodge_fail(&r->e, LODGE_ERR_INVALID,
                          "'messages' must be a list of at least one message");
    int err = get_options(s, o, &chat, r);
    if (err)
        return err;
    /* What is rendered tells whose limit was hit: the template's, or the context's. */
    struct lodge_buf text;
    lodge_buf_init(&text, (size_t)1 << 30);
    err =
        lodge_engine_chat_prompt(atomic_load(&s->engine), &chat, token_limit(s), out, &text, &r->e);
    bool rendered = text.n > 0;
    lodge_buf_finish(&text);
    if (err)
        name_message(r, &chat);
    return err == LODGE_ERR_LIMIT && rendered ? too_long(s, &r->e) : err;
}

/* ---- texts and tokens ---- */

/* 0: one string; 1: list of strings; 2: one list of ids; 3: list of lists; -1: none of these. */
static int prompt_shape(const json_t *v)
{
    if (json_is_string(v))
        return 0;
    const json_t *first = json_array_get(v, 0);
    return json_is_string(first) ? 1 : json_is_integer(first) ? 2 : json_is_array(first) ? 3 : -1;
}

static int encode_text(struct parse *p, const json_t *v, bool add_special, struct lodge_ids *out)
{
    const struct server *s = p->c->server;
    if (!json_string_length(v))
        return parse_bad(p, "prompt", "'prompt' must not be empty");
    /* Only the chat template writes control tokens: in a text they are text. */
    int err =
        lodge_engine_tokenize(atomic_load(&s->engine), json_string_value(v), json_string_length(v),
                              add_special, false, token_limit(s), out, &p->r->e);
    return parse_at(p, "prompt", err == LODGE_ERR_LIMIT ? too_long(s, &p->r->e) : err);
}

static int copy_tokens(struct parse *p, const json_t *v, struct lodge_ids *out)
{
    const uint32_t *ids;
    uint32_t n;
    int err = parse_ids(p, "prompt", v, SIZE_MAX, &ids, &n);
    if (!err && !n)
        err = parse_bad(p, "prompt", "'prompt' must not be empty");
    if (err)
        return err;
    out->data = malloc(n * sizeof *ids);
    if (!out->data)
        return lodge_fail(&p->r->e, LODGE_ERR_NOMEM, "no memory for the prompt");
    memcpy(out->data, ids, n * sizeof *ids);
    out->n = out->_room = n;
    return 0;
}

static int parse_texts(struct parse *p)
{
    const json_t *v = lodge_json_member(p->o, "prompt");
    int shape = prompt_shape(v);
    bool many = shape == 1 || shape == 3, add_special = true;
    size_t n = many ? json_array_size(v) : 1;
    if (shape < 0)
        return parse_bad(p, "prompt",
                         "'prompt' must be a string, a list of strings, a list of token ids, or a "
                         "list of such lists, and not empty");
    if (n > MAX_PROMPTS)
        return parse_bad(p, "prompt", "'prompt' has %zu prompts; at most %u", n, MAX_PROMPTS);
    int err = parse_bool(p, "add_special_tokens", &add_special);
    if (!err)
        err = add_runs(p, n);
    for (size_t i = 0; i < n && !err; i++) {
        const json_t *one = many ? json_array_get(v, i) : v;
        struct lodge_ids *out = &p->g->runs[i].prompt;
        if (many && json_is_string(one) != (shape == 1))
            err = parse_bad(p, "prompt", "'prompt[%zu]' is of another kind than 'prompt[0]'", i);
        else
            err = json_is_string(one) ? encode_text(p, one, add_special, out)
                                      : copy_tokens(p, one, out);
    }
    return err;
}

/* ---- their length ---- */

static int truncate_prompts(struct parse *p)
{
    int64_t keep = 0;
    if (parse_int(p, "truncate_prompt_tokens", -1, INT32_MAX, &keep))
        return LODGE_ERR_INVALID;
    if (lodge_json_member(p->o, "truncate_prompt_tokens") && !keep)
        return parse_bad(p, "truncate_prompt_tokens",
                         "'truncate_prompt_tokens' must be at least 1, or -1 for what fits");
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

/* Before anything is submitted, so that a call runs whole or not at all. */
static int check_context(struct parse *p)
{
    const struct server *s = p->c->server;
    uint64_t context = s->info.max_model_len, max = p->g->req.max_tokens;
    bool asked =
        lodge_json_member(p->o, "max_tokens") || lodge_json_member(p->o, "max_completion_tokens");
    for (uint32_t i = 0; i < p->g->n_runs; i++) {
        uint64_t n = p->g->runs[i].prompt.n;
        if (n + (max > 0) > context) {
            parse_at(p, p->g->kind == CALL_CHAT ? "messages" : "prompt", LODGE_ERR_CONTEXT);
            return lodge_fail(&p->r->e, LODGE_ERR_CONTEXT,
                              "the prompt has %llu tokens; this model's context is %llu tokens, "
                              "prompt and reply together. Shorten the prompt",
                              (unsigned long long)n, (unsigned long long)context);
        }
        if (s->cfg->strict && asked && n + max > context) {
            parse_at(p, "max_tokens", LODGE_ERR_CONTEXT);
            return lodge_fail(&p->r->e, LODGE_ERR_CONTEXT,
                              "the prompt has %llu tokens and 'max_tokens' is %llu; this model's "
                              "context is %llu tokens. Lower 'max_tokens'",
                              (unsigned long long)n, (unsigned long long)max,
                              (unsigned long long)context);
        }
    }
    return 0;
}

int parse_prompts(struct parse *p)
{
    int err;
    if (p->g->kind == CALL_COMPLETION) {
        err = parse_texts(p);
    } else {
        err = add_runs(p, 1);
        const struct lodge_adapter_version *adapter = p->g->req.adapters[0].version;
        if (!err)
            err = parse_chat(p->c->server, p->o, adapter, &p->g->runs[0].prompt, p->r);
    }
    if (!err)
        err = truncate_prompts(p);
    return err ? err : check_context(p);
}
