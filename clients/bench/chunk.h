/* What the load generator needs to know of a chunk or a whole reply, found in one light pass over
 * its JSON instead of building a tree: a bench shares the processor with the server it measures.
 *
 * Works for /v1/completions and /v1/chat/completions, streaming or not, of any OpenAI server.
 * Pure functions over untrusted bytes.
 */
#ifndef LODGE_CLIENTS_BENCH_CHUNK_H
#define LODGE_CLIENTS_BENCH_CHUNK_H

#include "base/span.h"

#include <stdbool.h>
#include <stdint.h>

struct bench_chunk {
    bool choice; /* there is a first choice */
    bool text;   /* which carries text: content, reasoning, or a part of a tool call */
    bool finish; /* which says why it ended */
    bool error;  /* the chunk is an error object */
    bool usage;  /* the numbers below are there: of usage, else of llama-server's timings */
    int64_t n_input, n_output, n_cached; /* tokens */
    struct lodge_span thought, said; /* reasoning and content as they stand in `bytes`, escapes and
                                      * all, without quotes; empty where there is none */
};

/* Fills *out. False when the bytes are no JSON object; not every malformed text is noticed. */
bool bench_chunk_read(const char *bytes, size_t n, struct bench_chunk *out);

#endif
