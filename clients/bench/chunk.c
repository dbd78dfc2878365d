#include "clients/bench/chunk.h"

#include <string.h>

/* ---- a cursor over JSON text ---- */

struct span {
    const char *at, *end;
};

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static void skip_space(struct span *s)
{
    while (s->at < s->end && is_space(*s->at))
        s->at++;
}

/* The next character after white space if it is `c`. */
static bool take(struct span *s, char c)
{
    skip_space(s);
    if (s->at == s->end || *s->at != c)
        return false;
    s->at++;
    return true;
}

/* Moves behind a string; *inner gets what stands between the quotes, escapes as they are. */
static bool take_string(struct span *s, struct span *inner)
{
    if (!take(s, '"'))
        return false;
    inner->at = s->at;
    for (; s->at < s->end; s->at++) {
        if (*s->at == '"') {
            inner->end = s->at++;
            return true;
        }
        if (*s->at == '\\' && ++s->at == s->end)
            return false;
    }
    return false;
}

/* Moves behind a nest of brackets, whatever is in it. */
static bool take_nest(struct span *s)
{
    size_t depth = 0;
    while (s->at < s->end) {
        char c = *s->at;
        if (c == '"') {
            struct span inner;
            if (!take_string(s, &inner))
                return false;
            continue;
        }
        s->at++;
        if (c == '{' || c == '[')
            depth++;
        else if ((c == '}' || c == ']') && --depth == 0)
            return true;
    }
    return false;
}

static bool take_value(struct span *s, struct span *value)
{
    struct span inner;
    skip_space(s);
    value->at = s->at;
    if (s->at == s->end)
        return false;
    if (*s->at == '"') {
        if (!take_string(s, &inner))
            return false;
    } else if (*s->at == '{' || *s->at == '[') {
        if (!take_nest(s))
            return false;
    } else {
        while (s->at < s->end && !is_space(*s->at) && !strchr(",]}", *s->at))
            s->at++;
    }
    value->end = s->at;
    return value->at < value->end;
}

/* The next member of the object whose inside `s` is in: 1; 0 at its end; -1 when malformed. */
static int take_member(struct span *s, bool *first, struct span *key, struct span *value)
{
    if (take(s, '}'))
        return 0;
    bool ok =
        (*first || take(s, ',')) && take_string(s, key) && take(s, ':') && take_value(s, value);
    *first = false;
    return ok ? 1 : -1;
}

static bool is(const struct span *s, const char *text)
{
    size_t n = strlen(text);
    return (size_t)(s->end - s->at) == n && memcmp(s->at, text, n) == 0;
}

/* A value that says something: not null, "" or []. */
static bool is_something(const struct span *v)
{
    return !is(v, "null") && !is(v, "\"\"") && !is(v, "[]");
}

/* ---- the members that count ---- */

static int64_t count(const struct span *v)
{
    int64_t n = 0;
    for (const char *p = v->at; p < v->end; p++) {
        if (*p < '0' || *p > '9' || __builtin_mul_overflow(n, 10, &n) ||
            __builtin_add_overflow(n, *p - '0', &n))
            return 0;
    }
    return n;
}

/* What is between the quotes of a string; another value leaves *out alone. */
static void keep_string(struct span v, struct lodge_span *out)
{
    struct span inner;
    if (take_string(&v, &inner))
        *out = (struct lodge_span){inner.at, (size_t)(inner.end - inner.at)};
}

/* delta or message */
static bool read_delta(struct span s, struct bench_chunk *out)
{
    struct span key, value;
    bool first = true;
    int more = 0;
    if (!take(&s, '{'))
        return true; /* null */
    while ((more = take_member(&s, &first, &key, &value)) > 0) {
        bool said = is(&key, "content");
        bool thought = is(&key, "reasoning_content") || is(&key, "reasoning");
        if (said || thought || is(&key, "tool_calls"))
            out->text |= is_something(&value);
        if (said || thought)
            keep_string(value, said ? &out->said : &out->thought);
    }
    return more == 0;
}

static bool read_choices(struct span s, struct bench_chunk *out)
{
    struct span key, value;
    bool first = true;
    int more = 0;
    if (!take(&s, '[') || !take(&s, '{'))
        return true;
    out->choice = true;
    while ((more = take_member(&s, &first, &key, &value)) > 0) {
        if (is(&key, "text")) {
            out->text |= is_something(&value);
            keep_string(value, &out->said);
        } else if (is(&key, "finish_reason")) {
            out->finish = is_something(&value);
        } else if ((is(&key, "delta") || is(&key, "message")) && !read_delta(value, out)) {
            return false;
        }
    }
    return more == 0;
}

static bool read_details(struct span s, struct bench_chunk *out)
{
    struct span key, value;
    bool first = true;
    int more = 0;
    if (!take(&s, '{'))
        return true;
    while ((more = take_member(&s, &first, &key, &value)) > 0)
        if (is(&key, "cached_tokens"))
            out->n_cached = count(&value);
    return more == 0;
}

static bool read_usage(struct span s, struct bench_chunk *out)
{
    struct span key, value;
    bool first = true;
    int more = 0;
    if (!take(&s, '{'))
        return true;
    out->usage = true;
    while ((more = take_member(&s, &first, &key, &value)) > 0) {
        if (is(&key, "prompt_tokens"))
            out->n_input = count(&value);
        else if (is(&key, "completion_tokens"))
            out->n_output = count(&value);
        else if (is(&key, "prompt_tokens_details") && !read_details(value, out))
            return false;
    }
    return more == 0;
}

/* llama-server's own counts, for its versions without usage in streams. */
static bool read_timings(struct span s, struct bench_chunk *out)
{
    struct span key, value;
    bool first = true;
    int more = 0;
    if (!take(&s, '{'))
        return true;
    while ((more = take_member(&s, &first, &key, &value)) > 0) {
        out->usage |= is(&key, "predicted_n");
        if (is(&key, "predicted_n"))
            out->n_output = count(&value);
        else if (is(&key, "prompt_n"))
            out->n_input += count(&value);
        else if (is(&key, "cache_n"))
            out->n_input += out->n_cached = count(&value);
    }
    return more == 0;
}

bool bench_chunk_read(const char *bytes, size_t n, struct bench_chunk *out)
{
    struct span s = {bytes, bytes + n}, key, value, timings = {NULL, NULL};
    bool first = true, ok = true;
    int more = 0;
    *out = (struct bench_chunk){0};
    if (!take(&s, '{'))
        return false;
    while (ok && (more = take_member(&s, &first, &key, &value)) > 0) {
        if (is(&key, "choices"))
            ok = read_choices(value, out);
        else if (is(&key, "usage"))
            ok = read_usage(value, out);
        else if (is(&key, "error"))
            out->error = is_something(&value);
        else if (is(&key, "timings"))
            timings = value;
    }
    if (ok && !out->usage && timings.at)
        ok = read_timings(timings, out);
    skip_space(&s);
    return ok && more == 0 && s.at == s.end;
}
