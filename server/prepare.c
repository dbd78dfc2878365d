/* Preparing threads: JSON, templates and tokenizing take up to seconds for the largest bodies, and
 * the polling thread has everybody's streams to write. A call that turns out to need an adapter's
 * files begins anew in the other lane: reading them is slow on purpose (engine/side.h), and calls
 * that need none do not wait behind it. */
#include "server/call.h"

#include <errno.h>
#include <string.h>

static struct call *take(struct lane *q, bool wait)
{
    pthread_mutex_lock(&q->lock);
    while (wait && !q->first && !q->stop)
        pthread_cond_wait(&q->filled, &q->lock);
    struct call *c = wait && q->stop ? NULL : q->first;
    if (c) {
        q->first = c->queued;
        if (!q->first)
            q->last = NULL;
    }
    pthread_mutex_unlock(&q->lock);
    return c;
}

static void refuse(struct call *c)
{
    reply_error(c, 503, "overloaded_error", NULL, "draining", "the server is shutting down");
    call_prepared(c);
}

static void put(struct lane *q, struct call *c)
{
    pthread_mutex_lock(&q->lock);
    bool stopped = q->stop;
    if (!stopped) {
        c->queued = NULL;
        if (q->last)
            q->last->queued = c;
        else
            q->first = c;
        q->last = c;
        pthread_cond_signal(&q->filled);
    }
    pthread_mutex_unlock(&q->lock);
    if (stopped)
        refuse(c);
}

static void *lane_main(void *arg)
{
    struct lane *q = arg;
    for (struct call *c; (c = take(q, true));) {
        c->reads = q->reads;
        c->must_read = false;
        c->ignored[0] = 0;
        route_prepare(c);
        if (c->must_read)
            put(&q->server->reading, c);
        else
            call_prepared(c);
    }
    return NULL;
}

bool prepare_call(struct call *c)
{
    pthread_mutex_lock(&c->lock);
    c->phase = CALL_PREPARING;
    pthread_mutex_unlock(&c->lock);
    put(&c->server->preparing, c);
    return call_suspend(c);
}

static int start(struct server *s, struct lane *q, bool reads, uint32_t n, struct lodge_error *e)
{
    q->server = s;
    q->reads = reads;
    pthread_mutex_init(&q->lock, NULL);
    pthread_cond_init(&q->filled, NULL);
    for (; q->n_threads < n; q->n_threads++)
        if (pthread_create(&q->threads[q->n_threads], NULL, lane_main, q))
            return lodge_fail(e, LODGE_ERR_RESOURCE, "cannot start a thread: %s", strerror(errno));
    return 0;
}

int prepare_start(struct server *s, struct lodge_error *e)
{
    int err = start(s, &s->preparing, false, LODGE_PREPARERS, e);
    return err ? err : start(s, &s->reading, true, LODGE_READERS, e);
}

/* What still waits is told so by its own reply. */
static void stop(struct lane *q)
{
    pthread_mutex_lock(&q->lock);
    q->stop = true;
    pthread_cond_broadcast(&q->filled);
    pthread_mutex_unlock(&q->lock);
    while (q->n_threads)
        pthread_join(q->threads[--q->n_threads], NULL);
    for (struct call *c; (c = take(q, false));)
        refuse(c);
}

void prepare_stop(struct server *s)
{
    stop(&s->preparing);
    stop(&s->reading);
}
