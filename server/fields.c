/* Every field the two routes know, and what becomes of it: read by the parser, accepted because it
 * asks for nothing this server would do otherwise, or refused because it is not built. */
#include "server/parse.h"

#include "base/json.h"

#include <stdio.h>
#include <string.h>

enum use {
    READ,   /* by the parser */
    OBJECT, /* accepted with this type: hints, and accounts that are not ours */
    STRING,
    BOOLEAN,
    REFUSED, /* unless it is null, false, empty, or what `neutral` says */
};

enum { CHAT = 1, TEXT = 2, BOTH = 3 };

static const struct field {
    const char *name;
    enum use use;
    int routes;
    const char *neutral; /* REFUSED: a string that is the default; STRING: "a|b", the values */
} fields[] = {
    {"model", READ, BOTH},
    {"messages", READ, CHAT},
    {"prompt", READ, TEXT},
    {"stream", READ, BOTH},
    {"stream_options", READ, BOTH},
    {"temperature", READ, BOTH},
    {"top_p", READ, BOTH},
    {"top_k", READ, BOTH},
    {"min_p", READ, BOTH},
    {"typical_p", READ, BOTH},
    {"repetition_penalty", READ, BOTH},
    {"presence_penalty", READ, BOTH},
    {"frequency_penalty", READ, BOTH},
    {"seed", READ, BOTH},
    {"n", READ, BOTH},
    {"best_of", READ, BOTH},
    {"max_tokens", READ, BOTH},
    {"max_completion_tokens", READ, BOTH},
    {"min_tokens", READ, BOTH},
    {"stop", READ, BOTH},
    {"stop_token_ids", READ, BOTH},
    {"include_stop_str_in_output", READ, BOTH},
    {"ignore_eos", READ, BOTH},
    {"bad_words", READ, BOTH},
    {"allowed_token_ids", READ, BOTH},
    {"logit_bias", READ, BOTH},
    {"logprobs", READ, BOTH},
    {"top_logprobs", READ, CHAT},
    {"prompt_logprobs", READ, BOTH},
    {"skip_special_tokens", READ, BOTH},
    {"spaces_between_special_tokens", READ, BOTH},
    {"truncate_prompt_tokens", READ, BOTH},
    {"return_token_ids", READ, BOTH},
    {"return_tokens_as_token_ids", READ, BOTH},
    {"add_generation_prompt", READ, CHAT},
    {"continue_final_message", READ, CHAT},
    {"chat_template", READ, CHAT},
    {"chat_template_kwargs", READ, CHAT},
    {"add_special_tokens", READ, TEXT},
    {"echo", READ, TEXT},
    {"priority", READ, BOTH},
    {"timeout", READ, BOTH},
    {"request_id", READ, BOTH},
    {"cache_salt", READ, BOTH},
    {"stream_interval", READ, BOTH},
    {"metadata", READ, BOTH},
    {"safety_identifier", READ, BOTH},
    {"user", STRING, BOTH},
    {"session_id", STRING, BOTH},
    {"prompt_cache_key", STRING, BOTH},
    {"prompt_cache_retention", STRING, BOTH},
    {"prompt_cache_options", OBJECT, BOTH},
    {"service_tier", STRING, BOTH},
    {"reasoning_effort", STRING, CHAT, "none|minimal|low|medium|high|xhigh|max"},
    {"verbosity", STRING, CHAT, "low|medium|high"},
    {"store", BOOLEAN, BOTH},
    {"prediction", READ, CHAT},
    {"speculate", READ, BOTH},
    {"parallel_tool_calls", BOOLEAN, CHAT},
    {"include_reasoning", BOOLEAN, CHAT},
    {"tools", REFUSED, CHAT},
    {"tool_choice", REFUSED, CHAT, "none"},
    {"functions", REFUSED, CHAT},
    {"function_call", REFUSED, CHAT, "none"},
    {"response_format", REFUSED, BOTH, "text"},
    {"modalities", REFUSED, CHAT, "text"},
    {"audio", REFUSED, CHAT},
    {"web_search_options", REFUSED, CHAT},
    {"documents", REFUSED, CHAT},
    {"suffix", REFUSED, TEXT},
    {"prompt_embeds", REFUSED, TEXT},
    {"echo", REFUSED, CHAT},
    {"add_special_tokens", REFUSED, CHAT},
    {"use_beam_search", REFUSED, BOTH},
    {"length_penalty", REFUSED, BOTH},
    {"structured_outputs", REFUSED, BOTH},
    {"guided_json", REFUSED, BOTH},
    {"guided_regex", REFUSED, BOTH},
    {"guided_choice", REFUSED, BOTH},
    {"guided_grammar", REFUSED, BOTH},
    {"grammar", REFUSED, BOTH},
    {"json_schema", REFUSED, BOTH},
    {"regex", REFUSED, BOTH},
    {"ebnf", REFUSED, BOTH},
    {"logits_processors", REFUSED, BOTH},
    {"mm_processor_kwargs", REFUSED, BOTH},
    {"vllm_xargs", REFUSED, BOTH},
    {"kv_transfer_params", REFUSED, BOTH},
    {"thinking_token_budget", REFUSED, BOTH},
    {"adapters", READ, BOTH},
    {"adapter_id", REFUSED, BOTH},
    {"adapter_source", REFUSED, BOTH},
    {"merged_adapters", REFUSED, BOTH},
    {"lora", REFUSED, BOTH},
    {"lora_request", REFUSED, BOTH},
};

#define N_FIELDS (sizeof fields / sizeof *fields)

static const struct field *find(const char *name, int route)
{
    for (size_t i = 0; i < N_FIELDS; i++)
        if ((fields[i].routes & route) && strcmp(fields[i].name, name) == 0)
            return &fields[i];
    return NULL;
}

/* ---- what is not built ---- */

static bool is_text(const json_t *v, const char *text)
{
    return text && json_is_string(v) && strcmp(json_string_value(v), text) == 0;
}

static bool is_neutral(const struct field *f, const json_t *v)
{
    if (strcmp(f->name, "tools") == 0)
        return false;
    if (strcmp(f->name, "length_penalty") == 0)
        return json_is_number(v) && json_number_value(v) == 1.0;
    if (json_is_object(v) && json_object_size(v))
        return is_text(json_object_get(v, "type"), f->neutral);
    if (json_is_array(v) && json_array_size(v))
        return json_array_size(v) == 1 && is_text(json_array_get(v, 0), f->neutral);
    if (json_is_string(v) && json_string_length(v))
        return is_text(v, f->neutral) && strcmp(f->name, "response_format") != 0;
    return json_is_false(v) || json_is_string(v) || json_is_array(v) || json_is_object(v);
}

static int refuse(struct parse *p, const struct field *f, const json_t *v)
{
    if (is_neutral(f, v))
        return 0;
    if (strcmp(f->name, "tools") == 0 && json_is_array(v) && !json_array_size(v))
        return parse_bad(p, f->name, "'tools' is an empty list; leave it out");
    snprintf(p->r->param, sizeof p->r->param, "%s", f->name);
    return lodge_fail(&p->r->e, LODGE_ERR_UNSUPPORTED,
                      "'%s' with this value is not supported by this server; leave it out",
                      f->name);
}

/* ---- what is only accepted ---- */

static bool is_one_of(const char *choices, const char *text)
{
    size_t n = strlen(text);
    for (const char *at = choices; at; at = strchr(at, '|') ? strchr(at, '|') + 1 : NULL)
        if (strncmp(at, text, n) == 0 && (at[n] == '|' || !at[n]) && n)
            return true;
    return false;
}

static int check_accepted(struct parse *p, const struct field *f, const json_t *v)
{
    if (f->use == OBJECT && !json_is_object(v))
        return parse_bad(p, f->name, "'%s' must be an object", f->name);
    if (f->use == BOOLEAN && !json_is_boolean(v))
        return parse_bad(p, f->name, "'%s' must be true or false", f->name);
    if (f->use == STRING && !json_is_string(v))
        return parse_bad(p, f->name, "'%s' must be a string", f->name);
    if (f->use == STRING && f->neutral && !is_one_of(f->neutral, json_string_value(v)))
        return parse_bad(p, f->name, "'%s' must be one of %s", f->name, f->neutral);
    return 0;
}

/* ---- what is unknown ---- */

static int unknown(struct parse *p, const char *key)
{
    if (p->c->server->cfg->strict) {
        snprintf(p->r->param, sizeof p->r->param, "%s", key);
        return lodge_fail(&p->r->e, LODGE_ERR_UNSUPPORTED,
                          "'%.100s' is not a field of this route; leave it out", key);
    }
    char *names = p->c->ignored;
    size_t n = strlen(names), room = sizeof p->c->ignored;
    if (n + strlen(key) + 2 < room)
        snprintf(names + n, room - n, "%s%s", n ? " " : "", key);
    return 0;
}

int parse_fields(struct parse *p)
{
    int route = p->g->kind == CALL_CHAT ? CHAT : TEXT, err = 0;
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)p->o, key, v)
    {
        const struct field *f = find(key, route);
        if (!f)
            err = unknown(p, key);
        else if (json_is_null(v) || f->use == READ)
            err = 0;
        else
            err = f->use == REFUSED ? refuse(p, f, v) : check_accepted(p, f, v);
        if (err)
            return err;
    }
    return 0;
}
