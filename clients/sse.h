/* Server-sent events: splits a byte stream into the payloads of its `data:` lines.
 *
 * Lines end in LF or CRLF; comments, other fields and blank lines are skipped. A payload is one
 * line, as every OpenAI server sends it. The pieces the stream arrives in do not matter; a line
 * that lies whole in one piece is handed on without a copy. Thread safety: none, one owner.
 */
#ifndef LODGE_CLIENTS_SSE_H
#define LODGE_CLIENTS_SSE_H

#include "base/buf.h"

#define SSE_MAX_LINE ((size_t)16 << 20)

struct sse_parser {
    struct lodge_buf line; /* the unfinished line */
    /* `data` is not terminated and valid during the call only. */
    void (*on_data)(void *cookie, const char *data, size_t n);
    void *cookie;
};

void sse_init(struct sse_parser *p, void (*on_data)(void *, const char *, size_t), void *cookie);
void sse_finish(struct sse_parser *p);
/* Forgets an unfinished line, for the next stream. */
void sse_reset(struct sse_parser *p);
/* LIMIT when a line is longer than 16 MiB, NOMEM without memory. */
int sse_feed(struct sse_parser *p, const char *bytes, size_t n);

#endif
