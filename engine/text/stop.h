/* Stop strings over a stream: finds the first that completes, holds back what might begin one.
 *
 * A matcher (patterns) is immutable and shared by the choices of a request; the state is one
 * sequence's. Work is linear in the text, whatever the patterns are (Aho-Corasick).
 */
#ifndef LODGE_ENGINE_TEXT_STOP_H
#define LODGE_ENGINE_TEXT_STOP_H

#include "base/arena.h"
#include "base/buf.h"
#include "base/span.h"

#include <stdint.h>

struct lodge_stop_matcher;

struct lodge_stop_state {
    uint32_t node;
    struct lodge_buf held; /* text that is not yet certain to be output */
};

/* Patterns are copied into the arena. NULL without memory, or when n is 0. */
struct lodge_stop_matcher *lodge_stop_create(struct lodge_arena *a, const struct lodge_span *stops,
                                             uint32_t n);
void lodge_stop_state_init(struct lodge_stop_state *s);
void lodge_stop_state_finish(struct lodge_stop_state *s);

/* Feeds text; appends to `out` what is certain to precede any stop. Returns the index of the stop
 * that completed first, or -1. After a match nothing more may be fed; the stop string itself is
 * appended when `include`. m may be NULL: everything passes. */
int lodge_stop_feed(const struct lodge_stop_matcher *m, struct lodge_stop_state *s,
                    const char *text, size_t n, bool include, struct lodge_buf *out);
/* No stop will come: appends what was held. */
void lodge_stop_flush(struct lodge_stop_state *s, struct lodge_buf *out);

#endif
