#include "clients/chat/talk.h"

#include "base/clock.h"
#include "base/json.h"
#include "clients/text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_TEXT ((size_t)64 << 20)

void chat_talk_init(struct chat_talk *t, const struct http_client *http, const char *model,
                    json_t *sampling)
{
    *t = (struct chat_talk){
        .http = *http, .model = model, .sampling = sampling, .messages = json_array()};
    lodge_buf_init(&t->_reply, MAX_TEXT);
    lodge_buf_init(&t->_shown, MAX_TEXT);
}

void chat_talk_finish(struct chat_talk *t)
{
    json_decref(t->sampling);
    json_decref(t->messages);
    lodge_buf_finish(&t->_reply);
    lodge_buf_finish(&t->_shown);
}

static void add_message(struct chat_talk *t, const char *role, const char *text)
{
    json_array_append_new(t->messages, json_pack("{s:s, s:s}", "role", role, "content", text));
}

void chat_talk_clear(struct chat_talk *t, const char *system)
{
    json_array_clear(t->messages);
    if (system && *system)
        add_message(t, "system", system);
}

/* ---- the reply as it comes ---- */

/* What a model writes must not steer the terminal; a pipe gets it as it is. */
static void show(struct chat_talk *t, const char *text)
{
    if (isatty(1)) {
        lodge_buf_clear(&t->_shown);
        text_clean(text, strlen(text), &t->_shown);
        text = lodge_buf_text(&t->_shown);
    }
    fputs(text, stdout);
    fflush(stdout);
    if (*text)
        t->_ends_in_newline = text[strlen(text) - 1] == '\n';
}

static void saw_text(struct chat_talk *t)
{
    t->_last_ns = lodge_now_ns();
    if (!t->_first_ns)
        t->_first_ns = t->_last_ns;
    t->_n_chunks++;
}

/* Reasoning is shown faintly on a terminal, and is no part of the reply. */
static void take_thought(struct chat_talk *t, const char *text)
{
    saw_text(t);
    if (!isatty(1))
        return;
    if (!t->_thinking)
        fputs("\033[2m", stdout);
    t->_thinking = true;
    show(t, text);
}

static void end_thought(struct chat_talk *t)
{
    if (t->_thinking)
        fputs(t->_ends_in_newline ? "\033[0m\n" : "\033[0m\n\n", stdout);
    t->_thinking = false;
}

static const char *member(const json_t *o, const char *key)
{
    const char *text = json_string_value(json_object_get(o, key));
    return text && *text ? text : NULL;
}

static void on_chunk(void *cookie, const char *data, size_t n)
{
    struct chat_talk *t = cookie;
    if (n == 6 && memcmp(data, "[DONE]", 6) == 0) {
        t->_finished = true;
        return;
    }
    json_t *o = json_loadb(data, n, 0, NULL);
    const json_t *choice = json_array_get(json_object_get(o, "choices"), 0);
    const json_t *delta = json_object_get(choice, "delta"), *usage = json_object_get(o, "usage");
    const json_t *error = json_object_get(o, "error");
    const char *text = member(delta, "content"), *thought = member(delta, "reasoning_content"),
               *reason = member(choice, "finish_reason"), *message = member(error, "message");
    t->_broken |= !o;
    thought = thought ? thought : member(delta, "reasoning");
    if (thought)
        take_thought(t, thought);
    if (text) {
        end_thought(t);
        saw_text(t);
        lodge_buf_puts(&t->_reply, text);
        show(t, text);
    }
    if (error && !json_is_null(error))
        snprintf(t->_error, sizeof t->_error, "%s", message ? message : "the server failed");
    t->_finished |= reason != NULL;
    t->_cut |= reason && strcmp(reason, "length") == 0;
    if (json_is_object(usage))
        t->_n_tokens = json_integer_value(json_object_get(usage, "completion_tokens"));
    json_decref(o);
}

/* ---- an exchange ---- */

static void print_figures(const struct chat_talk *t)
{
    int64_t n = t->_n_tokens ? t->_n_tokens : t->_n_chunks;
    double first = (double)(t->_first_ns - t->_begin_ns) * 1e-9;
    double rest = (double)(t->_last_ns - t->_first_ns) * 1e-9;
    bool dim = isatty(2);
    if (t->quiet || !t->_n_chunks)
        return;
    fprintf(stderr, "%s[%s%lld token%s", dim ? "\033[2m" : "", t->_n_tokens ? "" : "about ",
            (long long)n, n == 1 ? "" : "s");
    if (n > 1 && rest > 0)
        fprintf(stderr, ", %.1f tokens/s", (double)(n - 1) / rest);
    fprintf(stderr, ", first after %.0f ms%s]%s\n", first * 1e3,
            t->_cut ? ", cut at the length limit" : "", dim ? "\033[0m" : "");
}

static void begin_reply(struct chat_talk *t)
{
    lodge_buf_clear(&t->_reply);
    t->_n_tokens = t->_n_chunks = 0;
    t->_first_ns = t->_last_ns = 0;
    t->_finished = t->_cut = t->_thinking = t->_broken = false;
    t->_ends_in_newline = true;
    t->_error[0] = 0;
    t->_begin_ns = lodge_now_ns();
}

static json_t *request(const struct chat_talk *t)
{
    json_t *o = json_pack("{s:s, s:O, s:b, s:{s:b}}", "model", t->model, "messages", t->messages,
                          "stream", 1, "stream_options", "include_usage", 1);
    if (t->sampling)
        json_object_update(o, t->sampling);
    return o;
}

static int exchange(struct chat_talk *t, struct lodge_error *e)
{
    struct sse_parser sse;
    json_t *body = request(t);
    sse_init(&sse, on_chunk, t);
    int err = http_stream(&t->http, "/v1/chat/completions", body, &sse, e);
    json_decref(body);
    sse_finish(&sse);
    if (err)
        return err;
    if (t->_error[0])
        return lodge_fail(e, LODGE_ERR_IO, "%s: %s", t->http.url, t->_error);
    if (t->_broken)
        return lodge_fail(e, LODGE_ERR_IO, "%s sent something that is no JSON", t->http.url);
    return t->_finished ? 0 : lodge_fail(e, LODGE_ERR_IO, "%s ended the reply early", t->http.url);
}

int chat_talk_ask(struct chat_talk *t, const char *text, struct lodge_error *e)
{
    add_message(t, "user", text);
    begin_reply(t);
    int err = exchange(t, e);
    end_thought(t);
    if (!t->_ends_in_newline || (!err && !t->_reply.n)) {
        printf("\n");
        fflush(stdout);
    }
    if (err && !t->_reply.n) {
        json_array_remove(t->messages, json_array_size(t->messages) - 1);
        return err;
    }
    add_message(t, "assistant", lodge_buf_text(&t->_reply));
    print_figures(t);
    return err;
}

/* ---- files ---- */

int chat_talk_save(const struct chat_talk *t, const char *path, struct lodge_error *e)
{
    json_t *o = json_pack("{s:s, s:O}", "model", t->model, "messages", t->messages);
    int err = o && json_dump_file(o, path, JSON_INDENT(1)) == 0
                  ? 0
                  : lodge_fail(e, LODGE_ERR_IO, "cannot write %s", path);
    json_decref(o);
    return err;
}

int chat_talk_load(struct chat_talk *t, const char *path, struct lodge_error *e)
{
    json_t *o = NULL, *messages, *m;
    size_t i;
    int err = lodge_json_load_file(path, &o, e);
    if (err)
        return err;
    messages = json_object_get(o, "messages");
    if (!json_is_array(messages))
        err = lodge_fail(e, LODGE_ERR_FORMAT, "%s has no list 'messages'", path);
    json_array_foreach(messages, i, m)
    {
        if (!err && (!member(m, "role") || !json_is_string(json_object_get(m, "content"))))
            err =
                lodge_fail(e, LODGE_ERR_FORMAT, "%s: message %zu has no role and content", path, i);
    }
    if (!err) {
        json_decref(t->messages);
        t->messages = json_incref(messages);
    }
    json_decref(o);
    return err;
}
