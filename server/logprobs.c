/* Tokens and their log-probabilities as JSON. */
#include "server/call.h"

#include <stdio.h>
#include <string.h>

static struct lodge_engine *engine_of(const struct call *c)
{
    return atomic_load(&c->server->engine);
}

static void comma(struct lodge_buf *b)
{
    if (b->n)
        lodge_buf_append(b, ",", 1);
}

/* A token as a JSON string: its text, broken bytes replaced, or "token_id:N". */
void put_token(const struct call *c, struct lodge_buf *out, uint32_t token)
{
    char id[32];
    if (c->gen->tokens_as_ids) {
        int n = snprintf(id, sizeof id, "token_id:%u", token);
        put_string(out, id, (size_t)n);
        return;
    }
    size_t n;
    bool special;
    const char *bytes = lodge_engine_token_bytes(engine_of(c), token, &n, &special);
    /* Detokenising alone may drop a leading space; valid bytes are shown as they are. */
    json_t *valid = json_stringn(bytes, n);
    if (valid) {
        put_string(out, bytes, n);
        json_decref(valid);
        return;
    }
    struct lodge_buf text;
    lodge_buf_init(&text, 65536);
    lodge_engine_detokenize(engine_of(c), &token, 1, false, &text, NULL);
    put_string(out, lodge_buf_text(&text), text.n);
    lodge_buf_finish(&text);
}

/* ---- chat ---- */

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

void logprobs_chat(const struct call *c, struct choice *ch, const struct lodge_event *ev)
{
    struct lodge_buf *out = &ch->logprobs;
    comma(out);
    put_entry(c, out, ev->token, ev->logprob);
    lodge_buf_puts(out, ",\"top_logprobs\":[");
    const struct lodge_top *tops = lodge_event_tops(ev);
    for (uint32_t i = 0; i < ev->n_tops && i < c->gen->n_tops; i++) {
        lodge_buf_puts(out, i ? "," : "");
        put_entry(c, out, tops[i].token, tops[i].logprob);
        lodge_buf_puts(out, "}");
    }
    lodge_buf_puts(out, "]}");
}

void put_chat_logprobs(struct lodge_buf *out, struct choice *ch)
{
    lodge_buf_puts(out, "{\"content\":[");
    lodge_buf_append(out, lodge_buf_text(&ch->logprobs), ch->logprobs.n);
    lodge_buf_puts(out, "],\"refusal\":null}");
    out->failed |= ch->logprobs.failed;
    lodge_buf_clear(&ch->logprobs);
}

/* ---- completions ---- */

/* Do the tokens look the same? Tokens of broken bytes do, and a JSON object names a key once. */
static bool look_alike(const struct call *c, uint32_t a, uint32_t b)
{
    struct lodge_buf x, y;
    lodge_buf_init(&x, 65536);
    lodge_buf_init(&y, 65536);
    put_token(c, &x, a);
    put_token(c, &y, b);
    bool same = x.n == y.n && memcmp(lodge_buf_text(&x), lodge_buf_text(&y), x.n) == 0;
    lodge_buf_finish(&x);
    lodge_buf_finish(&y);
    return same;
}

/* {"tok": lp, ...}: the token itself, then the asked number of tops, the likeliest of a name. */
static void put_top_map(const struct call *c, struct lodge_buf *out, const struct lodge_event *ev)
{
    const struct lodge_top *tops = lodge_event_tops(ev);
    lodge_buf_puts(out, "{");
    put_token(c, out, ev->token);
    lodge_buf_puts(out, ":");
    put_logprob(out, (double)ev->logprob);
    for (uint32_t i = 0; i < ev->n_tops && i < c->gen->n_tops; i++) {
        bool twin = look_alike(c, tops[i].token, ev->token);
        for (uint32_t k = 0; k < i && !twin; k++)
            twin = look_alike(c, tops[i].token, tops[k].token);
        if (twin)
            continue;
        lodge_buf_puts(out, ",");
        put_token(c, out, tops[i].token);
        lodge_buf_puts(out, ":");
        put_logprob(out, (double)tops[i].logprob);
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

void logprobs_completion(const struct call *c, struct choice *ch, const struct lodge_event *ev,
                         bool first)
{
    size_t n;
    bool special;
    const char *bytes = lodge_engine_token_bytes(engine_of(c), ev->token, &n, &special);
    comma(&ch->lp_tokens);
    put_token(c, &ch->lp_tokens, ev->token);
    comma(&ch->lp_values);
    comma(&ch->lp_tops);
    if (first)
        lodge_buf_puts(&ch->lp_values, "null");
    else
        put_logprob(&ch->lp_values, (double)ev->logprob);
    if (first || !c->gen->n_tops)
        lodge_buf_puts(&ch->lp_tops, "null");
    else
        put_top_map(c, &ch->lp_tops, ev);
    comma(&ch->lp_offsets);
    lodge_buf_printf(&ch->lp_offsets, "%u", ch->text_length);
    ch->text_length += special ? 0 : code_points(bytes, n);
}

void put_completion_logprobs(struct lodge_buf *out, struct choice *ch)
{
    struct lodge_buf *const lists[] = {&ch->lp_tokens, &ch->lp_values, &ch->lp_tops,
                                       &ch->lp_offsets};
    static const char *const names[] = {"tokens", "token_logprobs", "top_logprobs", "text_offset"};
    for (int i = 0; i < 4; i++) {
        lodge_buf_printf(out, "%s\"%s\":[", i ? "]," : "{", names[i]);
        lodge_buf_append(out, lodge_buf_text(lists[i]), lists[i]->n);
        out->failed |= lists[i]->failed;
        lodge_buf_clear(lists[i]);
    }
    lodge_buf_puts(out, "]}");
}

/* ---- prompts ---- */

static void put_ranked(const struct call *c, struct lodge_buf *out, uint32_t token, float lp,
                       uint32_t rank)
{
    lodge_buf_printf(out, "\"%u\":{\"logprob\":", token);
    put_logprob(out, (double)lp);
    lodge_buf_printf(out, ",\"rank\":%u,\"decoded_token\":", rank);
    put_token(c, out, token);
    lodge_buf_puts(out, "}");
}

/* vLLM's prompt_logprobs entry: {"id": {"logprob","rank","decoded_token"}}. */
void logprobs_prompt(const struct call *c, struct run *r, const struct lodge_event *ev)
{
    struct lodge_buf *out = &r->prompt_logprobs;
    const struct lodge_top *tops = lodge_event_tops(ev);
    lodge_buf_puts(out, ",{");
    put_ranked(c, out, ev->token, ev->logprob, ev->rank);
    for (uint32_t i = 0; i < ev->n_tops && i < c->gen->n_prompt_tops; i++)
        if (tops[i].token != ev->token) {
            lodge_buf_puts(out, ",");
            put_ranked(c, out, tops[i].token, tops[i].logprob, i + 1);
        }
    lodge_buf_puts(out, "}");
}
