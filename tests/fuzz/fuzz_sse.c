/* Event streams of a hostile server: splits bytes into events in two ways that must agree, and
 * reads each event as a chunk, which jansson must see in the same way. The first byte says how
 * long the pieces are. */
#include "clients/bench/chunk.h"
#include "clients/sse.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void check(bool ok)
{
    if (!ok)
        abort();
}

static bool has_text(const json_t *o, const char *key)
{
    return json_string_length(json_object_get(o, key)) > 0;
}

/* jansson as the oracle, where it is certain: strict JSON without escaped or repeated names, and
 * texts that are strings. */
static void compare(const json_t *o, const struct bench_chunk *c)
{
    const json_t *choices = json_object_get(o, "choices"), *choice = json_array_get(choices, 0);
    const json_t *usage = json_object_get(o, "usage"), *delta = json_object_get(choice, "delta");
    const json_t *n_output = json_object_get(usage, "completion_tokens");
    check(c->choice == json_is_object(choice));
    check(c->usage == json_is_object(usage));
    if (json_is_integer(n_output) && json_integer_value(n_output) >= 0)
        check(c->n_output == json_integer_value(n_output));
    if (has_text(choice, "text") || has_text(delta, "content"))
        check(c->text);
    if (has_text(choice, "finish_reason"))
        check(c->finish);
}

struct events {
    size_t n;
    uint64_t hash;
};

static void on_data(void *cookie, const char *data, size_t n)
{
    struct events *e = cookie;
    struct bench_chunk c;
    e->n++;
    for (size_t i = 0; i < n; i++)
        e->hash = (e->hash ^ (uint8_t)data[i]) * 1099511628211u;
    e->hash = (e->hash ^ 256) * 1099511628211u;
    bool ok = bench_chunk_read(data, n, &c);
    /* jansson passes over a zero byte behind a literal. */
    bool certain = !memchr(data, '\\', n) && !memchr(data, 0, n);
    json_t *o = certain ? json_loadb(data, n, JSON_REJECT_DUPLICATES, NULL) : NULL;
    if (json_is_object(o)) {
        check(ok);
        compare(o, &c);
    }
    json_decref(o);
}

static struct events split(const char *bytes, size_t n, size_t piece)
{
    struct events e = {0, 14695981039346656037u};
    struct sse_parser p;
    sse_init(&p, on_data, &e);
    for (size_t at = 0; at < n; at += piece)
        check(sse_feed(&p, bytes + at, n - at < piece ? n - at : piece) == 0);
    sse_finish(&p);
    return e;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (n < 2 || n > 1 << 16)
        return 0;
    const char *bytes = (const char *)data + 1;
    struct events whole = split(bytes, n - 1, n - 1), parts = split(bytes, n - 1, 1 + data[0] % 64);
    check(whole.n == parts.n && whole.hash == parts.hash);
    return 0;
}
