/* Events to JSON: chunks of a stream, or the parts of a whole reply. */
#include "server/call.h"

#include <stdio.h>
#include <string.h>

static struct lodge_engine *engine_of(const struct call *c)
{
    return atomic_load(&c->server->engine);
}

/* ---- one token's log-probabilities
 * ------------------------------------------------------------------------ */

/* A token as a JSON string: its text, broken bytes replaced, or "token_id:N". */
static void put_token(const struct call *c, struct lodge_buf *out, uint32_t token)
{
    char id[32];
    if (c->gen->tokens_as_ids) {
        int n = snprintf(id, sizeof id, "token_id:%u", token);
        put_string(out, id, (size_t)n);
        return;
    }
    struct lodge_buf text;
    lodge_buf_init(&text, 65536);
    lodge_engine_detokenize(engine_of(c), &token, 1, false, &text, NULL);
    size_t n;
    bool special;
    const char *bytes = lodge_engine_token_bytes(engine_of(c), token, &n, &special);
    /* Detokenising alone may drop a leading space; valid bytes are shown as they are. */
    json_t *valid = json_stringn(bytes, n);
    if (valid)
        put_string(out, bytes, n);
    else
        put_string(out, lodge_buf_text(&text), text.n);
    json_decref(valid);
    lodge_buf_finish(&text);
}

/* {"token","logprob","bytes"} without the closing brace. */
static void put_entry(const struct call *c, struct lodge_buf *out, uint32_t token, float lp)
{
    size_t n;
    bool special;
    const char *bytes = lodge_engine_token_bytes(engine_of(c), token, &n, &special);
    lodge_buf_puts(out, "{\"token\":");
    put_token(c, out, token);
    lodge_buf_puts(out, ",\"logprob\":");
    put_logprob(out, (double)lp);
    lodge_buf_puts(out, ",\"bytes\":");
    put_bytes_array(out, bytes, n);
}

static void put_chat_logprobs(const struct call *c, struct lodge_buf *out,
                              const struct lodge_event *ev)
{
    put_entry(c, out, ev->token, ev->logprob);
    lodge_buf_puts(out, ",\"top_logprobs\":[");
    const struct lodge_top *tops = lodge_event_tops(ev);
    for (uint32_t i = 0; i < ev->n_tops; i++) {
        lodge_buf_puts(out, i ? "," : "");
        put_entry(c, out, tops[i].token, tops[i].logprob);
        lodge_buf_puts(out, "}");
    }
    lodge_buf_puts(out, "]}");
}

static void comma(struct lodge_buf *b)
{
    if (b->n)
        lodge_buf_append(b, ",", 1);
}

/* {"tok": lp, ...}: the asked number of tops, and the token itself if it is not among them. */
static void put_top_map(const struct call *c, struct lodge_buf *out, const struct lodge_event *ev)
{
    const struct lodge_top *tops = lodge_event_tops(ev);
    bool seen = false;
    lodge_buf_puts(out, "{");
    for (uint32_t i = 0; i < ev->n_tops && i < c->gen->n_tops; i++) {
        seen |= tops[i].token == ev->token;
        lodge_buf_puts(out, i ? "," : "");
        put_token(c, out, tops[i].token);
        lodge_buf_puts(out, ":");
        put_logprob(out, (double)tops[i].logprob);
    }
    if (!seen) {
        lodge_buf_puts(out, ev->n_tops && c->gen->n_tops ? "," : "");
        put_token(c, out, ev->token);
        lodge_buf_puts(out, ":");
        put_logprob(out, (double)ev->logprob);
    }
    lodge_buf_puts(out, "}");
}

static uint32_t code_points(const char *s, size_t n)
{
    uint32_t count = 0;
    for (size_t i = 0; i < n; i++)
        count += ((unsigned char)s[i] & 0xC0) != 0x80;
    return count;
}

/* Completion's four parallel lists. `first` has no log-probability (the first prompt token). */
static void add_completion_logprobs(const struct call *c, struct choice *ch,
                                    const struct lodge_event *ev, bool first)
{
    size_t n;
    bool special;
    const char *bytes = lodge_engine_token_bytes(engine_of(c), ev->token, &n, &special);
    comma(&ch->lp_tokens);
    put_token(c, &ch->lp_tokens, ev->token);
    comma(&ch->lp_values);
    comma(&ch->lp_tops);
    if (first) {
        lodge_buf_puts(&ch->lp_values, "null");
        lodge_buf_puts(&ch->lp_tops, "null");
    } else {
        put_logprob(&ch->lp_values, (double)ev->logprob);
        if (c->gen->n_tops)
            put_top_map(c, &ch->lp_tops, ev);
        else
            lodge_buf_puts(&ch->lp_tops, "null");
    }
    comma(&ch->lp_offsets);
    lodge_buf_printf(&ch->lp_offsets, "%u", ch->text_length);
    ch->text_length += special ? 0 : code_points(bytes, n);
}

static void put_completion_logprobs(struct lodge_buf *out, struct choice *ch)
{
    lodge_buf_printf(out, "{\"tokens\":[%s],\"token_logprobs\":[%s],",
                     lodge_buf_text(&ch->lp_tokens), lodge_buf_text(&ch->lp_values));
    lodge_buf_printf(out, "\"top_logprobs\":[%s],\"text_offset\":[%s]}",
                     lodge_buf_text(&ch->lp_tops), lodge_buf_text(&ch->lp_offsets));
    lodge_buf_clear(&ch->lp_tokens);
    lodge_buf_clear(&ch->lp_values);
    lodge_buf_clear(&ch->lp_tops);
    lodge_buf_clear(&ch->lp_offsets);
}

/* vLLM's prompt_logprobs entry: {"id": {"logprob","rank","decoded_token"}}. */
static void add_prompt_logprobs(const struct call *c, struct run *r, const struct lodge_event *ev)
{
    struct lodge_buf *out = &r->prompt_logprobs;
    const struct lodge_top *tops = lodge_event_tops(ev);
    lodge_buf_printf(out, ",{\"%u\":{\"logprob\":", ev->token);
    put_logprob(out, (double)ev->logprob);
    lodge_buf_printf(out, ",\"rank\":%u,\"decoded_token\":", ev->rank);
    put_token(c, out, ev->token);
    lodge_buf_puts(out, "}");
    for (uint32_t i = 0; i < ev->n_tops; i++) {
        if (tops[i].token == ev->token)
            continue;
        lodge_buf_printf(out, ",\"%u\":{\"logprob\":", tops[i].token);
        put_logprob(out, (double)tops[i].logprob);
        lodge_buf_printf(out, ",\"rank\":%u,\"decoded_token\":", i + 1);
        put_token(c, out, tops[i].token);
        lodge_buf_puts(out, "}");
    }
    lodge_buf_puts(out, "}");
}

/* ---- common pieces
 * ------------------------------------------------------------------------------------------ */

static const char *finish_name(int finish)
{
    switch (finish) {
    case LODGE_FINISH_STOP:
        return "\"stop\"";
    case LODGE_FINISH_LENGTH:
        return "\"length\"";
    default:
        return "\"abort\"";
    }
}

static void put_head(const struct call *c, struct lodge_buf *out, bool chunk)
{
    const struct generation *g = c->gen;
    lodge_buf_printf(out, "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%lld,\"model\":", g->id,
                     g->kind == CALL_COMPLETION ? "text_completion"
                     : chunk                    ? "chat.completion.chunk"
                                                : "chat.completion",
                     (long long)g->created);
    put_string(out, g->model, strlen(g->model));
    lodge_buf_printf(out, ",\"system_fingerprint\":\"%s\"", c->server->fingerprint);
}

static void put_usage(const struct call *c, struct lodge_buf *out)
{
    const struct generation *g = c->gen;
    uint64_t prompt = 0, cached = 0, output = 0;
    for (uint32_t i = 0; i < g->n_runs; i++) {
        const struct run *r = &g->runs[i];
        prompt += r->prompt.n;
        cached += r->end.cached_tokens;
        uint64_t sum = 0;
        for (uint32_t k = 0; k < g->best_of; k++)
            sum += r->choices[k].n_tokens;
        output += r->ended ? r->end.output_tokens : sum;
    }
    lodge_buf_printf(out,
                     "{\"prompt_tokens\":%llu,\"completion_tokens\":%llu,\"total_tokens\":%llu,"
                     "\"prompt_tokens_details\":{\"cached_tokens\":%llu},"
                     "\"completion_tokens_details\":{\"reasoning_tokens\":0}}",
                     (unsigned long long)prompt, (unsigned long long)output,
                     (unsigned long long)(prompt + output), (unsigned long long)cached);
}

static void put_stop_reason(const struct call *c, struct lodge_buf *out, const struct choice *ch)
{
    const struct lodge_request *r = &c->gen->req;
    lodge_buf_puts(out, ",\"stop_reason\":");
    bool by_id = false;
    for (uint32_t i = 0; i < r->stop_ids.n; i++)
        by_id |= ch->stop_token >= 0 && r->stop_ids.ids[i] == ch->stop_token;
    if (ch->finish == LODGE_FINISH_STOP && ch->stop_index >= 0)
        put_string(out, r->stops[ch->stop_index].data, r->stops[ch->stop_index].n);
    else if (by_id)
        lodge_buf_printf(out, "%lld", (long long)ch->stop_token);
    else
        lodge_buf_puts(out, "null");
}

/* ---- streaming
 * ------------------------------------------------------------------------------------------------
 */

static void end_chunk(struct call *c)
{
    struct lodge_buf *out = &c->gen->out;
    if (c->gen->include_usage) {
        lodge_buf_puts(out, ",\"usage\":");
        if (c->gen->continuous_usage)
            put_usage(c, out);
        else
            lodge_buf_puts(out, "null");
    }
    lodge_buf_puts(out, "}\n\n");
}

static void begin_chunk(struct call *c, uint32_t index)
{
    lodge_buf_puts(&c->gen->out, "data: ");
    put_head(c, &c->gen->out, true);
    lodge_buf_printf(&c->gen->out, ",\"choices\":[{\"index\":%u,", index);
}

/* The first chunk of a choice: chat's role, or completion's echoed prompt. */
static void start_choice(struct call *c, uint32_t run, uint32_t index)
{
    struct generation *g = c->gen;
    struct choice *ch = &g->runs[run].choices[index % g->best_of];
    if (ch->started)
        return;
    ch->started = true;
    if (g->kind == CALL_CHAT) {
        begin_chunk(c, index);
        lodge_buf_puts(&g->out, "\"delta\":{\"role\":\"assistant\",\"content\":\"\"},"
                                "\"logprobs\":null,\"finish_reason\":null}]");
        end_chunk(c);
    } else if (g->echo) {
        struct lodge_buf text;
        lodge_buf_init(&text, (size_t)64 << 20);
        lodge_engine_detokenize(engine_of(c), g->runs[run].prompt.data, g->runs[run].prompt.n, true,
                                &text, NULL);
        begin_chunk(c, index);
        lodge_buf_puts(&g->out, "\"text\":");
        put_string(&g->out, lodge_buf_text(&text), text.n);
        lodge_buf_puts(&g->out, ",\"logprobs\":null,\"finish_reason\":null}]");
        end_chunk(c);
        lodge_buf_finish(&text);
    }
}

static void put_token_ids(struct lodge_buf *out, const struct choice *ch)
{
    lodge_buf_printf(out, ",\"token_ids\":[%s]", lodge_buf_text(&ch->token_ids));
}

/* What a choice has gathered since its last chunk, as one chunk. */
static void flush_choice(struct call *c, uint32_t run, uint32_t index, bool last)
{
    struct generation *g = c->gen;
    struct choice *ch = &g->runs[run].choices[index % g->best_of];
    bool chat = g->kind == CALL_CHAT;
    struct lodge_buf *lp = chat ? &ch->logprobs : &ch->lp_tokens;
    bool content = ch->text.n || lp->n || (g->token_ids && ch->token_ids.n);
    start_choice(c, run, index);
    /* Chat ends in a chunk of its own with an empty delta. */
    if (content && (chat || !last)) {
        begin_chunk(c, index);
        lodge_buf_puts(&g->out, chat ? "\"delta\":{\"content\":" : "\"text\":");
        put_string(&g->out, lodge_buf_text(&ch->text), ch->text.n);
        lodge_buf_puts(&g->out, chat ? "},\"logprobs\":" : ",\"logprobs\":");
        if (!lp->n)
            lodge_buf_puts(&g->out, "null");
        else if (chat)
            lodge_buf_printf(&g->out, "{\"content\":[%s],\"refusal\":null}", lodge_buf_text(lp));
        else
            put_completion_logprobs(&g->out, ch);
        lodge_buf_puts(&g->out, ",\"finish_reason\":null");
        if (g->token_ids)
            put_token_ids(&g->out, ch);
        lodge_buf_puts(&g->out, "}]");
        end_chunk(c);
        lodge_buf_clear(&ch->text);
        lodge_buf_clear(&ch->logprobs);
        lodge_buf_clear(&ch->token_ids);
    }
    if (!last)
        return;
    begin_chunk(c, index);
    if (chat) {
        lodge_buf_puts(&g->out, "\"delta\":{},\"logprobs\":null");
    } else {
        lodge_buf_puts(&g->out, "\"text\":");
        put_string(&g->out, lodge_buf_text(&ch->text), ch->text.n);
        lodge_buf_puts(&g->out, ",\"logprobs\":");
        if (lp->n)
            put_completion_logprobs(&g->out, ch);
        else
            lodge_buf_puts(&g->out, "null");
    }
    lodge_buf_printf(&g->out, ",\"finish_reason\":%s", finish_name(ch->finish));
    put_stop_reason(c, &g->out, ch);
    if (g->token_ids && !chat)
        put_token_ids(&g->out, ch);
    lodge_buf_puts(&g->out, "}]");
    end_chunk(c);
}

static void stream_error(struct call *c, const struct lodge_event *ev)
{
    struct lodge_buf *out = &c->gen->out;
    const char *message = ev->error == LODGE_ERR_TIMEOUT
                              ? "the request's deadline passed before it was finished"
                          : ev->error == LODGE_ERR_CANCELLED ? "the server is shutting down"
                                                             : "the server failed to go on";
    lodge_buf_puts(out, "data: ");
    error_json(out, message, "server_error", NULL, NULL);
    lodge_buf_puts(out, "\n\n");
    c->gen->failed = true;
}

void format_stream_tail(struct call *c)
{
    struct generation *g = c->gen;
    if (g->failed)
        return;
    if (g->include_usage) {
        lodge_buf_puts(&g->out, "data: ");
        put_head(c, &g->out, true);
        lodge_buf_puts(&g->out, ",\"choices\":[],\"usage\":");
        put_usage(c, &g->out);
        lodge_buf_puts(&g->out, "}\n\n");
    }
    lodge_buf_puts(&g->out, "data: [DONE]\n\n");
}

/* ---- events
 * ------------------------------------------------------------------------------------------------------
 */

static void take_token(struct call *c, struct choice *ch, const struct lodge_event *ev)
{
    struct generation *g = c->gen;
    ch->n_tokens++;
    ch->logprob_sum += (double)ev->logprob;
    lodge_buf_append(&ch->text, lodge_event_text(ev), ev->n_text);
    if (g->token_ids) {
        comma(&ch->token_ids);
        lodge_buf_printf(&ch->token_ids, "%u", ev->token);
    }
    if (!g->logprobs)
        return;
    if (g->kind == CALL_CHAT) {
        comma(&ch->logprobs);
        put_chat_logprobs(c, &ch->logprobs, ev);
    } else {
        add_completion_logprobs(c, ch, ev, false);
    }
}

/* Echo with log-probabilities: the prompt's tokens stand first in every choice's lists. */
static void take_prompt_score(struct call *c, struct run *r, const struct lodge_event *ev)
{
    struct generation *g = c->gen;
    if (g->prompt_logprobs)
        add_prompt_logprobs(c, r, ev);
    if (!g->echo || !g->logprobs)
        return;
    for (uint32_t k = 0; k < g->best_of; k++) {
        struct choice *ch = &r->choices[k];
        if (!ch->lp_tokens.n && !ch->started) {
            struct lodge_event first = {.token = r->prompt.data[0]};
            add_completion_logprobs(c, ch, &first, true);
        }
        add_completion_logprobs(c, ch, ev, false);
    }
}

void format_event(struct call *c, uint32_t run, const struct lodge_event *ev)
{
    struct generation *g = c->gen;
    struct run *r = &g->runs[run];
    uint32_t index = run * g->best_of + ev->choice;
    struct choice *ch = &r->choices[ev->choice < g->best_of ? ev->choice : 0];
    switch (ev->head.kind) {
    case LODGE_EVENT_PROMPT:
        take_prompt_score(c, r, ev);
        break;
    case LODGE_EVENT_TOKEN:
        /* First appearances of choices ascend. */
        for (uint32_t k = 0; g->stream && k < ev->choice; k++)
            start_choice(c, run, run * g->best_of + k);
        take_token(c, ch, ev);
        if (g->stream)
            flush_choice(c, run, index, false);
        break;
    case LODGE_EVENT_FINISH:
        ch->finish = (int)ev->finish;
        ch->stop_index = ev->stop_index;
        ch->stop_token = ev->stop_token;
        lodge_buf_append(&ch->text, lodge_event_text(ev), ev->n_text);
        if (g->stream && ev->finish <= LODGE_FINISH_LENGTH)
            flush_choice(c, run, index, true);
        break;
    case LODGE_EVENT_END:
        if (g->stream && ev->finish > LODGE_FINISH_LENGTH && !g->failed)
            stream_error(c, ev);
        break;
    default:
        break;
    }
}

/* ---- a whole reply
 * --------------------------------------------------------------------------------------------------
 */

static void put_prompt_extras(const struct call *c, struct lodge_buf *out, const struct run *r)
{
    const struct generation *g = c->gen;
    if (g->prompt_logprobs)
        lodge_buf_printf(out, ",\"prompt_logprobs\":[null%s]", lodge_buf_text(&r->prompt_logprobs));
    if (!g->token_ids)
        return;
    lodge_buf_puts(out, ",\"prompt_token_ids\":[");
    for (size_t i = 0; i < r->prompt.n; i++)
        lodge_buf_printf(out, "%s%u", i ? "," : "", r->prompt.data[i]);
    lodge_buf_puts(out, "]");
}

static void put_chat_choice(const struct call *c, struct lodge_buf *out, struct choice *ch,
                            uint32_t index)
{
    lodge_buf_printf(out, "{\"index\":%u,\"message\":{\"role\":\"assistant\",\"content\":", index);
    put_string(out, lodge_buf_text(&ch->text), ch->text.n);
    lodge_buf_puts(out, ",\"refusal\":null},\"logprobs\":");
    if (c->gen->logprobs)
        lodge_buf_printf(out, "{\"content\":[%s],\"refusal\":null}", lodge_buf_text(&ch->logprobs));
    else
        lodge_buf_puts(out, "null");
    lodge_buf_printf(out, ",\"finish_reason\":%s", finish_name(ch->finish));
    put_stop_reason(c, out, ch);
    if (c->gen->token_ids)
        put_token_ids(out, ch);
    lodge_buf_puts(out, "}");
}

static void put_completion_choice(const struct call *c, struct lodge_buf *out, const struct run *r,
                                  struct choice *ch, uint32_t index)
{
    const struct generation *g = c->gen;
    struct lodge_buf text;
    lodge_buf_init(&text, (size_t)256 << 20);
    if (g->echo)
        lodge_engine_detokenize(engine_of(c), r->prompt.data, r->prompt.n, true, &text, NULL);
    lodge_buf_append(&text, lodge_buf_text(&ch->text), ch->text.n);
    lodge_buf_printf(out, "{\"index\":%u,\"text\":", index);
    put_string(out, lodge_buf_text(&text), text.n);
    lodge_buf_finish(&text);
    lodge_buf_puts(out, ",\"logprobs\":");
    if (g->logprobs)
        put_completion_logprobs(out, ch);
    else
        lodge_buf_puts(out, "null");
    lodge_buf_printf(out, ",\"finish_reason\":%s", finish_name(ch->finish));
    put_stop_reason(c, out, ch);
    if (g->token_ids)
        put_token_ids(out, ch);
    put_prompt_extras(c, out, r);
    lodge_buf_puts(out, "}");
}

/* The n choices with the best mean log-probability, best first; all in order when n == best_of. */
static void rank_choices(const struct generation *g, const struct run *r, uint32_t *order)
{
    for (uint32_t i = 0; i < g->best_of; i++)
        order[i] = i;
    for (uint32_t i = 0; g->best_of > g->n && i < g->best_of; i++)
        for (uint32_t k = i + 1; k < g->best_of; k++) {
            const struct choice *a = &r->choices[order[i]], *b = &r->choices[order[k]];
            if (b->logprob_sum / (b->n_tokens + !b->n_tokens) >
                a->logprob_sum / (a->n_tokens + !a->n_tokens)) {
                uint32_t t = order[i];
                order[i] = order[k];
                order[k] = t;
            }
        }
}

void format_reply(struct call *c, struct lodge_buf *out)
{
    struct generation *g = c->gen;
    put_head(c, out, false);
    lodge_buf_puts(out, ",\"choices\":[");
    for (uint32_t i = 0; i < g->n_runs; i++) {
        struct run *r = &g->runs[i];
        uint32_t order[LODGE_MAX_CHOICES];
        rank_choices(g, r, order);
        for (uint32_t k = 0; k < g->n; k++) {
            uint32_t index = i * g->n + k;
            lodge_buf_puts(out, index ? "," : "");
            if (g->kind == CALL_CHAT)
                put_chat_choice(c, out, &r->choices[order[k]], index);
            else
                put_completion_choice(c, out, r, &r->choices[order[k]], index);
        }
    }
    lodge_buf_puts(out, "],\"usage\":");
    put_usage(c, out);
    if (g->kind == CALL_CHAT) {
        put_prompt_extras(c, out, &g->runs[0]);
        lodge_buf_puts(out, ",\"service_tier\":\"default\"");
    }
    lodge_buf_puts(out, "}");
}
