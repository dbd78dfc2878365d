/* Events to JSON: chunks of a stream, or the parts of a whole reply. */
#include "server/call.h"

#include <stdio.h>
#include <string.h>

/* ---- common pieces ---- */

/* A choice that the server cut short is "length": the API has no other word for it, and an error
 * follows. */
static const char *finish_name(int finish)
{
    return finish == LODGE_FINISH_STOP ? "\"stop\"" : "\"length\"";
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
    uint64_t prompt = 0, cached = 0, output = 0, right = 0, wrong = 0;
    for (uint32_t i = 0; i < g->n_runs; i++) {
        const struct run *r = &g->runs[i];
        right += r->end.accepted_tokens;
        wrong += r->end.drafted_tokens - r->end.accepted_tokens;
        prompt += r->prompt.n;
        cached += r->end.cached_tokens;
        for (uint32_t k = 0; k < g->best_of; k++)
            output += r->choices[k].n_tokens;
    }
    lodge_buf_printf(out,
                     "{\"prompt_tokens\":%llu,\"completion_tokens\":%llu,\"total_tokens\":%llu,"
                     "\"prompt_tokens_details\":{\"cached_tokens\":%llu},"
                     "\"completion_tokens_details\":{\"reasoning_tokens\":0,"
                     "\"accepted_prediction_tokens\":%llu,\"rejected_prediction_tokens\":%llu}}",
                     (unsigned long long)prompt, (unsigned long long)output,
                     (unsigned long long)(prompt + output), (unsigned long long)cached,
                     (unsigned long long)right, (unsigned long long)wrong);
}

/* llama.cpp's extension; times are those of the slowest prompt of the call. */
static void put_timings(const struct call *c, struct lodge_buf *out)
{
    const struct generation *g = c->gen;
    uint64_t prompt = 0, cached = 0, output = 0, prefill = 0, decode = 0;
    for (uint32_t i = 0; i < g->n_runs; i++) {
        const struct run *r = &g->runs[i];
        prompt += r->prompt.n - r->end.cached_tokens;
        cached += r->end.cached_tokens;
        output += r->end.output_tokens;
        prefill = r->end.prefill_ns > prefill ? r->end.prefill_ns : prefill;
        decode = r->end.decode_ns > decode ? r->end.decode_ns : decode;
    }
    lodge_buf_printf(
        out,
        ",\"timings\":{\"cache_n\":%llu,\"prompt_n\":%llu,\"prompt_ms\":%.3f,\"predicted_n\":%llu,"
        "\"predicted_ms\":%.3f,\"predicted_per_second\":%.3f}",
        (unsigned long long)cached, (unsigned long long)prompt, (double)prefill * 1e-6,
        (unsigned long long)output, (double)decode * 1e-6,
        decode ? (double)output * 1e9 / (double)decode : 0.0);
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

static void put_token_ids(struct lodge_buf *out, struct choice *ch)
{
    lodge_buf_puts(out, ",\"token_ids\":[");
    lodge_buf_append(out, lodge_buf_text(&ch->token_ids), ch->token_ids.n);
    lodge_buf_puts(out, "]");
    lodge_buf_clear(&ch->token_ids);
}

static void put_prompt_ids(struct lodge_buf *out, const struct run *r)
{
    lodge_buf_puts(out, ",\"prompt_token_ids\":[");
    for (size_t i = 0; i < r->prompt.n; i++)
        lodge_buf_printf(out, "%s%u", i ? "," : "", r->prompt.data[i]);
    lodge_buf_puts(out, "]");
}

static bool has_logprobs(const struct generation *g, const struct choice *ch)
{
    return g->kind == CALL_CHAT ? ch->logprobs.n > 0 : ch->lp_tokens.n > 0;
}

static void put_logprobs(const struct generation *g, struct lodge_buf *out, struct choice *ch)
{
    if (g->kind == CALL_CHAT)
        put_chat_logprobs(out, ch);
    else
        put_completion_logprobs(out, ch);
}

static void put_text(struct lodge_buf *out, struct choice *ch)
{
    put_string(out, lodge_buf_text(&ch->text), ch->text.n);
    out->failed |= ch->text.failed;
    lodge_buf_clear(&ch->text);
}

static void add_echo(const struct call *c, const struct run *r, struct lodge_buf *out)
{
    if (c->gen->echo)
        lodge_engine_detokenize(atomic_load(&c->server->engine), r->prompt.data, r->prompt.n, true,
                                out, NULL);
}

/* ---- streaming ---- */

/* A chunk of one choice. `last`: with its finish reason. The text and log-probabilities gathered so
 * far go along, but for chat's last chunk, whose delta is empty. */
static void put_chunk(struct call *c, uint32_t run, struct choice *ch, bool last)
{
    struct generation *g = c->gen;
    struct lodge_buf *out = &g->out;
    bool chat = g->kind == CALL_CHAT, role = chat && !ch->started, empty = chat && last;
    bool ids = g->token_ids && !ch->started;
    uint32_t index = run * g->best_of + (uint32_t)(ch - g->runs[run].choices);
    ch->started = true;
    ch->n_flushed = ch->n_tokens;
    lodge_buf_puts(out, "data: ");
    put_head(c, out, true);
    lodge_buf_printf(out, ",\"choices\":[{\"index\":%u,%s", index,
                     role    ? "\"delta\":{\"role\":\"assistant\",\"content\":\"\"}"
                     : empty ? "\"delta\":{}"
                     : chat  ? "\"delta\":{\"content\":"
                             : "\"text\":");
    if (!role && !empty) {
        put_text(out, ch);
        lodge_buf_puts(out, chat ? "}" : "");
    }
    lodge_buf_puts(out, ",\"logprobs\":");
    if (!role && !empty && has_logprobs(g, ch))
        put_logprobs(g, out, ch);
    else
        lodge_buf_puts(out, "null");
    lodge_buf_printf(out, ",\"finish_reason\":%s", last ? finish_name(ch->finish) : "null");
    if (last)
        put_stop_reason(c, out, ch);
    if (g->token_ids && !role && !empty)
        put_token_ids(out, ch);
    if (ids && !chat)
        put_prompt_ids(out, &g->runs[run]);
    lodge_buf_puts(out, "}]");
    if (ids && chat)
        put_prompt_ids(out, &g->runs[run]);
    if (g->include_usage) {
        lodge_buf_puts(out, ",\"usage\":");
        if (g->continuous_usage)
            put_usage(c, out);
        else
            lodge_buf_puts(out, "null");
    }
    lodge_buf_puts(out, "}\n\n");
}

/* The first chunk of a choice: chat's role, or completion's echoed prompt with its scores. */
static void start_choice(struct call *c, uint32_t run, struct choice *ch)
{
    struct generation *g = c->gen;
    if (ch->started)
        return;
    if (g->kind == CALL_COMPLETION)
        add_echo(c, &g->runs[run], &ch->text);
    put_chunk(c, run, ch, false);
}

/* First appearances of choices ascend: a choice that speaks before lower ones begins them too. */
static void start_up_to(struct call *c, uint32_t run, uint32_t choice)
{
    struct generation *g = c->gen;
    struct choice *own = &g->runs[run].choices[choice];
    if (own->started)
        return;
    for (uint32_t i = 0; i <= run; i++)
        for (uint32_t k = 0; k < (i < run ? g->best_of : choice); k++)
            start_choice(c, i, &g->runs[i].choices[k]);
    if (g->kind == CALL_CHAT || g->echo)
        start_choice(c, run, own);
}

static void flush_choice(struct call *c, uint32_t run, struct choice *ch)
{
    struct generation *g = c->gen;
    bool due = ch->n_tokens - ch->n_flushed >= g->interval || ch->n_tokens == 1;
    if (due && (ch->text.n || has_logprobs(g, ch) || ch->token_ids.n))
        put_chunk(c, run, ch, false);
}

static void end_choice(struct call *c, uint32_t run, struct choice *ch)
{
    struct generation *g = c->gen;
    if (ch->ended)
        return;
    start_up_to(c, run, (uint32_t)(ch - g->runs[run].choices));
    if (g->kind == CALL_CHAT && (ch->text.n || has_logprobs(g, ch) || ch->token_ids.n))
        put_chunk(c, run, ch, false);
    put_chunk(c, run, ch, true);
    ch->ended = true;
}

void format_stream_error(struct call *c, int error)
{
    struct generation *g = c->gen;
    for (uint32_t i = 0; i < g->n_runs; i++)
        for (uint32_t k = 0; k < g->best_of; k++)
            end_choice(c, i, &g->runs[i].choices[k]);
    const struct failure *f = failure_of(error);
    lodge_buf_puts(&g->out, "data: ");
    error_json(&g->out, failure_text(f), f->type, NULL, f->name);
    lodge_buf_puts(&g->out, "\n\n");
    g->failed = true;
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
        put_timings(c, &g->out);
        lodge_buf_puts(&g->out, "}\n\n");
    }
    lodge_buf_puts(&g->out, "data: [DONE]\n\n");
}

/* ---- events ---- */

static void take_token(struct call *c, struct choice *ch, const struct lodge_event *ev)
{
    struct generation *g = c->gen;
    ch->n_tokens++;
    ch->logprob_sum += (double)ev->logprob;
    lodge_buf_append(&ch->text, lodge_event_text(ev), ev->n_text);
    if (g->token_ids)
        lodge_buf_printf(&ch->token_ids, "%s%u", ch->token_ids.n ? "," : "", ev->token);
    if (g->logprobs && g->kind == CALL_CHAT)
        logprobs_chat(c, ch, ev);
    else if (g->logprobs)
        logprobs_completion(c, ch, ev, false);
}

/* Echo with log-probabilities: the prompt's tokens stand first in every choice's lists. */
static void echo_score(struct call *c, struct run *r, const struct lodge_event *ev, bool first)
{
    struct generation *g = c->gen;
    for (uint32_t k = 0; g->echo && g->logprobs && k < g->best_of; k++)
        logprobs_completion(c, &r->choices[k], ev, first);
}

static void take_started(struct call *c, struct run *r, const struct lodge_event *ev)
{
    r->end.cached_tokens = ev->cached_tokens; /* for usage before the end */
    struct lodge_event first = {.token = r->prompt.data[0]};
    echo_score(c, r, &first, true);
}

static void take_prompt_score(struct call *c, struct run *r, const struct lodge_event *ev)
{
    if (c->gen->prompt_logprobs)
        logprobs_prompt(c, r, ev);
    echo_score(c, r, ev, false);
}

static void take_finish(struct call *c, uint32_t run, struct choice *ch,
                        const struct lodge_event *ev)
{
    ch->finish = (int)ev->finish;
    ch->stop_index = ev->stop_index;
    ch->stop_token = ev->stop_token;
    lodge_buf_append(&ch->text, lodge_event_text(ev), ev->n_text);
    if (c->gen->stream)
        end_choice(c, run, ch);
}

void format_event(struct call *c, uint32_t run, const struct lodge_event *ev)
{
    struct generation *g = c->gen;
    struct run *r = &g->runs[run];
    struct choice *ch = &r->choices[ev->choice < g->best_of ? ev->choice : 0];
    if (g->failed)
        return;
    switch (ev->head.kind) {
    case LODGE_EVENT_STARTED:
        take_started(c, r, ev);
        break;
    case LODGE_EVENT_PROMPT:
        take_prompt_score(c, r, ev);
        break;
    case LODGE_EVENT_TOKEN:
        if (g->stream)
            start_up_to(c, run, ev->choice);
        take_token(c, ch, ev);
        if (g->stream)
            flush_choice(c, run, ch);
        break;
    case LODGE_EVENT_FINISH:
        take_finish(c, run, ch, ev);
        break;
    case LODGE_EVENT_END:
        if (g->stream && g->admitted && ev->finish > LODGE_FINISH_LENGTH)
            format_stream_error(c, ev->error);
        break;
    default:
        break;
    }
}

/* ---- a whole reply ---- */

static void put_prompt_extras(const struct call *c, struct lodge_buf *out, const struct run *r)
{
    const struct generation *g = c->gen;
    if (g->prompt_logprobs) {
        lodge_buf_puts(out, ",\"prompt_logprobs\":[null");
        lodge_buf_append(out, lodge_buf_text(&r->prompt_logprobs), r->prompt_logprobs.n);
        lodge_buf_puts(out, "]");
        out->failed |= r->prompt_logprobs.failed;
    }
    if (g->token_ids)
        put_prompt_ids(out, r);
}

static void put_choice(struct call *c, struct lodge_buf *out, struct run *r, struct choice *ch,
                       uint32_t index)
{
    const struct generation *g = c->gen;
    bool chat = g->kind == CALL_CHAT;
    struct lodge_buf text;
    lodge_buf_init(&text, (size_t)256 << 20);
    add_echo(c, r, &text);
    lodge_buf_append(&text, lodge_buf_text(&ch->text), ch->text.n);
    lodge_buf_printf(out, "{\"index\":%u,%s", index,
                     chat ? "\"message\":{\"role\":\"assistant\",\"content\":" : "\"text\":");
    put_string(out, lodge_buf_text(&text), text.n);
    lodge_buf_puts(out, chat ? ",\"refusal\":null},\"logprobs\":" : ",\"logprobs\":");
    out->failed |= text.failed || ch->text.failed;
    lodge_buf_finish(&text);
    if (g->logprobs)
        put_logprobs(g, out, ch);
    else
        lodge_buf_puts(out, "null");
    lodge_buf_printf(out, ",\"finish_reason\":%s", finish_name(ch->finish));
    put_stop_reason(c, out, ch);
    if (g->token_ids)
        put_token_ids(out, ch);
    if (!chat)
        put_prompt_extras(c, out, r);
    lodge_buf_puts(out, "}");
}

static double mean_logprob(const struct choice *ch)
{
    return ch->logprob_sum / (ch->n_tokens ? ch->n_tokens : 1);
}

/* The choices with the best mean log-probability first; in order when n == best_of. */
static void rank_choices(const struct generation *g, const struct run *r, uint32_t *order)
{
    for (uint32_t i = 0; i < g->best_of; i++) {
        uint32_t at = i;
        while (g->best_of > g->n && at > 0 &&
               mean_logprob(&r->choices[order[at - 1]]) < mean_logprob(&r->choices[i])) {
            order[at] = order[at - 1];
            at--;
        }
        order[at] = i;
    }
}

void format_reply(struct call *c, struct lodge_buf *out)
{
    struct generation *g = c->gen;
    put_head(c, out, false);
    lodge_buf_puts(out, ",\"choices\":[");
    for (uint32_t i = 0; i < g->n_runs; i++) {
        uint32_t order[LODGE_MAX_CHOICES];
        rank_choices(g, &g->runs[i], order);
        for (uint32_t k = 0; k < g->n; k++) {
            lodge_buf_puts(out, i + k ? "," : "");
            put_choice(c, out, &g->runs[i], &g->runs[i].choices[order[k]], i * g->n + k);
        }
    }
    lodge_buf_puts(out, "],\"usage\":");
    put_usage(c, out);
    put_timings(c, out);
    if (g->kind == CALL_CHAT) {
        put_prompt_extras(c, out, &g->runs[0]);
        lodge_buf_puts(out, ",\"service_tier\":\"default\"");
    }
    lodge_buf_puts(out, "}");
}
