/* A small HTTP client for lodgectl: JSON requests and server-sent events, over libcurl. */
#ifndef LODGE_CLIENTS_HTTP_H
#define LODGE_CLIENTS_HTTP_H

#include "base/buf.h"
#include "base/error.h"

#include <jansson.h>
#include <signal.h>

/* Splits a byte stream into server-sent events, whatever the pieces it arrives in. */
struct sse_parser {
    struct lodge_buf line;
    void (*on_data)(void *cookie, const char *data, size_t n); /* the payload of a `data:` line */
    void *cookie;
};
void sse_init(struct sse_parser *p, void (*on_data)(void *, const char *, size_t), void *cookie);
void sse_finish(struct sse_parser *p);
/* LIMIT when a line is longer than 16 MiB. */
int sse_feed(struct sse_parser *p, const char *bytes, size_t n);

struct http_client {
    const char *url; /* http://host:port, without a path */
    const char *api_key;
    const volatile sig_atomic_t *interrupted; /* a request ends soon after this becomes non-zero */
};

/* GET path; the parsed body in *out (new reference). RESOURCE when nobody answers. */
int http_get(const struct http_client *c, const char *path, json_t **out, struct lodge_error *e);
/* POST a body and feed the event stream of the reply to `sse`. CANCELLED when interrupted; INVALID
 * with the server's own message for statuses other than 200. */
int http_stream(const struct http_client *c, const char *path, const json_t *body,
                struct sse_parser *sse, struct lodge_error *e);

#endif
