#include "engine/stream.h"

#include <stdlib.h>
#include <string.h>

struct lodge_stream *lodge_stream_create(struct lodge_engine *en, uint64_t id, size_t cap_bytes)
{
    struct lodge_stream *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->id = id;
    s->engine = en;
    pthread_mutex_init(&s->lock, NULL);
    lodge_buf_init(&s->events, cap_bytes);
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
    char *at = lodge_buf_extend(&s->events, n);
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

void lodge_stream_take(struct lodge_stream *s, struct lodge_buf *out)
{
    lodge_buf_clear(out);
    atomic_store(&s->ready, false);
    pthread_mutex_lock(&s->lock);
    struct lodge_buf full = s->events;
    size_t cap = out->cap_bytes;
    s->events = *out;
    s->events.cap_bytes = full.cap_bytes;
    *out = full;
    out->cap_bytes = cap > full.cap_bytes ? cap : full.cap_bytes;
    pthread_mutex_unlock(&s->lock);
}

int lodge_ready_init(struct lodge_ready *r)
{
    *r = (struct lodge_ready){0};
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
