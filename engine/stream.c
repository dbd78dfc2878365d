#include "engine/stream.h"

#include <stdlib.h>
#include <string.h>

/* Room from the start: several steps of tokens for a reader that is late. */
#define FIRST_BYTES ((size_t)8 << 10)

struct lodge_stream *lodge_stream_create(struct lodge_engine *en, uint64_t id, size_t cap_bytes)
{
    struct lodge_stream *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->id = id;
    s->engine = en;
    pthread_mutex_init(&s->lock, NULL);
    lodge_buf_init(&s->events, cap_bytes);
    if (!lodge_buf_extend(&s->events, cap_bytes < FIRST_BYTES ? cap_bytes : FIRST_BYTES)) {
        pthread_mutex_destroy(&s->lock);
        free(s);
        return NULL;
    }
    lodge_buf_clear(&s->events);
    atomic_store(&s->refs, 2);
    return s;
}

void lodge_stream_unref(struct lodge_stream *s)
{
    if (atomic_fetch_sub(&s->refs, 1) != 1)
        return;
    lodge_buf_finish(&s->events);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

void lodge_stream_post(struct lodge_stream *s, enum lodge_event_kind kind, struct lodge_event ev,
                       const struct lodge_top *tops, const char *text)
{
    if (atomic_load(&s->closed))
        return;
    size_t n_tops = ev.n_tops * sizeof *tops;
    size_t n = (sizeof ev + n_tops + ev.n_text + 7) / 8 * 8;
    ev.head = (struct lodge_record){.n_bytes = (uint32_t)n, .kind = (uint32_t)kind};
    pthread_mutex_lock(&s->lock);
    char *at = s->lost ? NULL : lodge_buf_extend(&s->events, n);
    s->lost = !at;
    if (at) {
        memcpy(at, &ev, sizeof ev);
        if (n_tops)
            memcpy(at + sizeof ev, tops, n_tops);
        if (ev.n_text)
            memcpy(at + sizeof ev + n_tops, text, ev.n_text);
        memset(at + sizeof ev + n_tops + ev.n_text, 0, n - sizeof ev - n_tops - ev.n_text);
    }
    pthread_mutex_unlock(&s->lock);
}

const struct lodge_top *lodge_event_tops(const struct lodge_event *ev)
{
    return (const struct lodge_top *)(ev + 1);
}

const char *lodge_event_text(const struct lodge_event *ev)
{
    return (const char *)(lodge_event_tops(ev) + ev->n_tops);
}

static int append_lost_end(struct lodge_buf *out)
{
    const struct lodge_event end = {
        .head = {.n_bytes = sizeof end, .kind = LODGE_EVENT_END},
        .finish = LODGE_FINISH_ERROR,
        .error = LODGE_ERR_NOMEM,
    };
    return lodge_buf_append(out, &end, sizeof end);
}

/* Copies, so that the stream keeps its memory and posting allocates nothing. */
void lodge_stream_take(struct lodge_stream *s, struct lodge_buf *out)
{
    lodge_buf_clear(out);
    atomic_store(&s->ready, false);
    pthread_mutex_lock(&s->lock);
    if (out->cap_bytes < s->events.cap_bytes)
        out->cap_bytes = s->events.cap_bytes;
    if (!lodge_buf_append(out, s->events.data, s->events.n)) {
        lodge_buf_clear(&s->events);
        if (s->lost && !s->told)
            s->told = !append_lost_end(out);
    }
    pthread_mutex_unlock(&s->lock);
}

int lodge_ready_init(struct lodge_ready *r)
{
    *r = (struct lodge_ready){.room = 1024};
    r->ids = calloc(r->room, sizeof *r->ids);
    if (!r->ids)
        return LODGE_ERR_NOMEM;
    return pthread_mutex_init(&r->lock, NULL) ? LODGE_ERR_NOMEM : 0;
}

void lodge_ready_finish(struct lodge_ready *r)
{
    free(r->ids);
    pthread_mutex_destroy(&r->lock);
}

void lodge_ready_add(struct lodge_ready *r, struct lodge_stream *s)
{
    if (atomic_exchange(&s->ready, true))
        return;
    pthread_mutex_lock(&r->lock);
    if (r->n == r->room) {
        size_t room = r->room ? r->room * 2 : 256;
        uint64_t *ids = realloc(r->ids, room * sizeof *ids);
        if (!ids) { /* tried again with the stream's next event */
            atomic_store(&s->ready, false);
            pthread_mutex_unlock(&r->lock);
            return;
        }
        r->ids = ids;
        r->room = room;
    }
    r->ids[r->n++] = s->id;
    pthread_mutex_unlock(&r->lock);
}

size_t lodge_ready_take(struct lodge_ready *r, uint64_t *ids, size_t cap)
{
    pthread_mutex_lock(&r->lock);
    size_t n = r->n < cap ? r->n : cap;
    if (n)
        memcpy(ids, r->ids + (r->n - n), n * sizeof *ids);
    r->n -= n;
    pthread_mutex_unlock(&r->lock);
    return n;
}
