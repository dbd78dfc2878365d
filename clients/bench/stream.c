#include "clients/bench/stream.h"

#include "base/clock.h"
#include "clients/bench/chunk.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_REPLY ((size_t)64 << 20)

/* ---- what comes back ---- */

static void count_second(struct bench_stream *s)
{
    struct bench_samples *p = s->_per_second;
    size_t second = (size_t)((s->_now_ns - s->_begin_ns) / 1000000000u);
    while (p->n <= second)
        if (bench_samples_add(p, 0))
            return;
    p->v[second]++;
}

static void take_text(struct bench_stream *s)
{
    if (!s->record.first_ns)
        s->record.first_ns = s->_now_ns;
    else
        bench_samples_add(&s->itl_ms, (double)(s->_now_ns - s->_text_ns) * 1e-6);
    s->_text_ns = s->_now_ns;
    s->_n_chunks++;
    count_second(s);
}

static void take_usage(struct bench_stream *s, const struct bench_chunk *c)
{
    s->_usage = true;
    s->record.n_input = c->n_input;
    s->record.n_output = c->n_output;
    s->record.n_cached = c->n_cached;
}

static void keep_text(struct bench_stream *s, const struct bench_chunk *c)
{
    if (!s->keep_text)
        return;
    if (c->thought.n)
        lodge_buf_append(&s->text, c->thought.data, c->thought.n);
    if (c->said.n)
        lodge_buf_append(&s->text, c->said.data, c->said.n);
}

/* error.message, or all of it. */
static void keep_error(char *out, size_t room, const char *bytes, size_t n)
{
    json_t *o = json_loadb(bytes, n, 0, NULL);
    const json_t *error = json_object_get(o, "error");
    const char *message = json_is_string(error)
                              ? json_string_value(error)
                              : json_string_value(json_object_get(error, "message"));
    if (message)
        snprintf(out, room, "%s", message);
    else
        snprintf(out, room, "%.*s", (int)(n < room ? n : room), bytes);
    json_decref(o);
}

static void on_event(void *cookie, const char *data, size_t n)
{
    struct bench_stream *s = cookie;
    struct bench_chunk c;
    if (n == 6 && memcmp(data, "[DONE]", 6) == 0) {
        s->_done = true;
        return;
    }
    if (!bench_chunk_read(data, n, &c)) {
        s->_broken = true;
        keep_error(s->_error, sizeof s->_error, data, n);
        return;
    }
    if (c.error)
        keep_error(s->_error, sizeof s->_error, data, n);
    if (c.text)
        take_text(s);
    keep_text(s, &c);
    if (c.choice)
        s->record.last_ns = s->_now_ns;
    if (c.usage)
        take_usage(s, &c);
    s->_finished |= c.finish;
}

static size_t on_bytes(char *data, size_t size, size_t n, void *cookie)
{
    struct bench_stream *s = cookie;
    long status = 0;
    curl_easy_getinfo(s->easy, CURLINFO_RESPONSE_CODE, &status);
    s->_now_ns = lodge_now_ns();
    int err = s->_streamed && status == 200 ? sse_feed(&s->_sse, data, size * n)
                                            : lodge_buf_append(&s->_reply, data, size * n);
    return err ? 0 : size * n;
}

/* ---- a request ---- */

struct bench_stream *bench_stream_create(const struct bench_target *t)
{
    struct bench_stream *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->_target = t;
    s->_streamed = t->options->stream;
    s->easy = curl_easy_init();
    lodge_buf_init(&s->body, BENCH_MAX_BODY);
    lodge_buf_init(&s->_reply, MAX_REPLY);
    lodge_buf_init(&s->text, MAX_REPLY);
    sse_init(&s->_sse, on_event, s);
    if (!s->easy) {
        bench_stream_destroy(s);
        return NULL;
    }
    curl_easy_setopt(s->easy, CURLOPT_URL, t->url);
    curl_easy_setopt(s->easy, CURLOPT_PRIVATE, s);
    curl_easy_setopt(s->easy, CURLOPT_WRITEFUNCTION, on_bytes);
    curl_easy_setopt(s->easy, CURLOPT_WRITEDATA, s);
    curl_easy_setopt(s->easy, CURLOPT_ERRORBUFFER, s->_curl_error);
    curl_easy_setopt(s->easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(s->easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(s->easy, CURLOPT_TIMEOUT_MS, (long)(t->options->timeout_s * 1e3));
    return s;
}

void bench_stream_destroy(struct bench_stream *s)
{
    if (!s)
        return;
    curl_easy_cleanup(s->easy);
    curl_slist_free_all(s->_headers);
    lodge_buf_finish(&s->body);
    lodge_buf_finish(&s->_reply);
    lodge_buf_finish(&s->text);
    sse_finish(&s->_sse);
    bench_samples_finish(&s->itl_ms);
    free(s);
}

int bench_stream_begin(struct bench_stream *s, const struct bench_pick *pick, uint64_t index,
                       uint64_t due_ns, uint64_t begin_ns, struct bench_samples *per_second)
{
    if (!s->_headers || s->_api_key != pick->api_key) {
        curl_slist_free_all(s->_headers);
        s->_headers = http_headers(pick->api_key);
        s->_api_key = pick->api_key;
        curl_easy_setopt(s->easy, CURLOPT_HTTPHEADER, s->_headers);
    }
    curl_easy_setopt(s->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)s->body.n);
    curl_easy_setopt(s->easy, CURLOPT_POSTFIELDS, s->body.data);
    lodge_buf_clear(&s->_reply);
    lodge_buf_clear(&s->text);
    sse_reset(&s->_sse);
    s->itl_ms.n = 0;
    s->_per_second = per_second;
    s->_begin_ns = begin_ns;
    s->_n_chunks = 0;
    s->_finished = s->_done = s->_usage = s->_broken = false;
    s->_error[0] = s->_curl_error[0] = 0;
    s->record = (struct bench_record){.due_ns = due_ns,
                                      .index = index,
                                      .tenant = pick->tenant,
                                      .model = pick->model,
                                      .error = -1};
    s->record.sent_ns = lodge_now_ns();
    return s->_headers ? 0 : LODGE_ERR_NOMEM;
}

static void take_whole_reply(struct bench_stream *s)
{
    struct bench_chunk c;
    if (!bench_chunk_read(lodge_buf_text(&s->_reply), s->_reply.n, &c)) {
        s->_broken = true;
        return;
    }
    if (c.error)
        keep_error(s->_error, sizeof s->_error, s->_reply.data, s->_reply.n);
    if (c.usage)
        take_usage(s, &c);
    keep_text(s, &c);
    s->_done = c.choice;
    s->record.last_ns = s->_now_ns;
}

/* Why it failed, or NULL; *example gets the words of who complained. */
static const char *failure(struct bench_stream *s, CURLcode code, char kind[64],
                           const char **example)
{
    long status = 0;
    curl_easy_getinfo(s->easy, CURLINFO_RESPONSE_CODE, &status);
    *example = s->_error;
    if (status && status != 200) {
        if (s->_reply.n)
            keep_error(s->_error, sizeof s->_error, s->_reply.data, s->_reply.n);
        snprintf(kind, 64, "HTTP %ld", status);
        return kind;
    }
    if (s->_error[0] && !s->_broken)
        return "error in the reply";
    if (code != CURLE_OK) {
        *example = s->_curl_error;
        return curl_easy_strerror(code);
    }
    if (s->_broken)
        return "reply is no JSON";
    if (!s->_done && !s->_finished)
        return "stream ended early";
    return NULL;
}

bool bench_stream_end(struct bench_stream *s, CURLcode code, struct bench_result *r)
{
    char text[64];
    const char *example;
    long status = 0;
    curl_easy_getinfo(s->easy, CURLINFO_RESPONSE_CODE, &status);
    if (code == CURLE_OK && status == 200 && !s->_streamed)
        take_whole_reply(s);
    const char *kind = failure(s, code, text, &example);
    if (kind) {
        s->record.error = bench_result_error(r, kind, example);
        s->record.limited = status == 429;
    } else {
        if (!s->record.last_ns)
            s->record.last_ns = s->_now_ns;
        /* A reply of tokens without text: its end is the first thing that was seen. */
        if (!s->record.first_ns && s->_streamed)
            s->record.first_ns = s->record.last_ns;
        if (!s->_usage) {
            r->n_without_usage++;
            s->record.n_output = (int64_t)s->_n_chunks;
        }
    }
    return status != 0;
}
