/* One request in flight: its libcurl handle, what came back so far, and when. Kept and used again
 * for the next request. Thread safety: none, one owner. */
#ifndef LODGE_CLIENTS_BENCH_STREAM_H
#define LODGE_CLIENTS_BENCH_STREAM_H

#include "clients/bench/result.h"
#include "clients/bench/workload.h"
#include "clients/sse.h"

#include <curl/curl.h>

struct bench_stream {
    struct bench_stream *next, *prev; /* the runner's lists */
    CURL *easy;                       /* its private pointer is this stream */
    struct lodge_buf body;            /* of the request */
    struct bench_record record;
    struct bench_samples itl_ms;
    uint32_t lane;         /* the runner's */
    bool keep_text;        /* to be set before begin */
    struct lodge_buf text; /* of the reply, escapes as in its JSON, when it is kept */

    const struct bench_target *_target;
    struct curl_slist *_headers;
    const char *_api_key; /* of _headers */
    struct sse_parser _sse;
    struct lodge_buf _reply; /* all of it when it is no event stream */
    uint64_t _now_ns, _begin_ns, _text_ns;
    struct bench_samples *_per_second;
    uint64_t _n_chunks;
    bool _streamed, _finished, _done, _usage, _broken;
    char _error[256]; /* of an error event */
    char _curl_error[CURL_ERROR_SIZE];
};

/* NULL without memory. */
struct bench_stream *bench_stream_create(const struct bench_target *t);
void bench_stream_destroy(struct bench_stream *s);
/* Gets the handle ready to send `body`. `index` is the request's, for the record. Chunks with text
 * are counted in *per_second by the second since begin_ns. 0 or NOMEM. */
int bench_stream_begin(struct bench_stream *s, const struct bench_pick *pick, uint64_t index,
                       uint64_t due_ns, uint64_t begin_ns, struct bench_samples *per_second);
/* libcurl is done with it: completes `record`, and counts its error in `r` if it failed. False
 * when the server did not answer at all. */
bool bench_stream_end(struct bench_stream *s, CURLcode code, struct bench_result *r);

#endif
