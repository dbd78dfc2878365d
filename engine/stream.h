/* Streams: where the events of a request wait for whoever serves it.
 *
 * Owners: two references, the server's and the engine's; the last one frees. The mutex of a
 * stream and that of the ready list are leaves, never held together.
 */
#ifndef LODGE_ENGINE_STREAM_H
#define LODGE_ENGINE_STREAM_H

#include "engine/engine.h"

#include <pthread.h>
#include <stdatomic.h>

struct lodge_stream {
    uint64_t id;
    struct lodge_engine *engine;
    pthread_mutex_t lock;
    struct lodge_buf events;
    bool lost, told;            /* an event found no memory; the reader was told */
    struct lodge_stream *chain; /* of the engine's table */
    _Atomic uint32_t refs;
    atomic_bool closed;   /* the server has gone */
    atomic_bool finished; /* END was posted */
    atomic_bool ready;    /* is in the ready list, not taken since */
};

/* The list of streams with news. */
struct lodge_ready {
    pthread_mutex_t lock;
    uint64_t *ids;
    size_t n, room;
};

struct lodge_stream *lodge_stream_create(struct lodge_engine *en, uint64_t id, size_t cap_bytes);
void lodge_stream_unref(struct lodge_stream *s);

/* Appends one event (head, tops, text); n_bytes and kind are set here. A stream that is full (its
 * cap was computed from the request) loses nothing it was sized for. When memory runs out all the
 * same, nothing more is appended and the reader gets an END with NOMEM: a reply never lacks its
 * end. */
void lodge_stream_post(struct lodge_stream *s, enum lodge_event_kind kind, struct lodge_event ev,
                       const struct lodge_top *tops, const char *text);

int lodge_ready_init(struct lodge_ready *r);
void lodge_ready_finish(struct lodge_ready *r);
/* Adds a stream's id unless it is there. */
void lodge_ready_add(struct lodge_ready *r, struct lodge_stream *s);
size_t lodge_ready_take(struct lodge_ready *r, uint64_t *ids, size_t cap);

#endif
