/* Preparing threads: JSON, templates and tokenizing take up to seconds for the largest bodies, and
 * the polling thread has everybody's streams to write. */
#include "server/call.h"

#include <errno.h>
#include <string.h>

static struct call *take(struct prepare_queue *q, bool wait)
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

static void *prepare_main(void *arg)
{
    struct server *s = arg;
    for (struct call *c; (c = take(&s->prepare, true));) {
        route_prepare(c);
        call_prepared(c);
    }
    return NULL;
}

bool prepare_call(struct call *c)
{
    struct prepare_queue *q = &c->server->prepare;
    pthread_mutex_lock(&c->lock);
    c->phase = CALL_PREPARING;
    pthread_mutex_unlock(&c->lock);
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
    if (stopped) {
        reply_error(c, 503, "overloaded_error", NULL, "draining", "the server is shutting down");
        call_prepared(c);
    }
    return call_suspend(c);
}

int prepare_start(struct server *s, struct lodge_error *e)
{
    struct prepare_queue *q = &s->prepare;
    pthread_mutex_init(&q->lock, NULL);
    pthread_cond_init(&q->filled, NULL);
    for (; q->n_threads < LODGE_PREPARERS; q->n_threads++)
        if (pthread_create(&q->threads[q->n_threads], NULL, prepare_main, s))
            return lodge_fail(e, LODGE_ERR_RESOURCE, "cannot start a thread: %s", strerror(errno));
    return 0;
}

/* What still waits is told so by its own reply. */
void prepare_stop(struct server *s)
{
    struct prepare_queue *q = &s->prepare;
    pthread_mutex_lock(&q->lock);
    q->stop = true;
    pthread_cond_broadcast(&q->filled);
    pthread_mutex_unlock(&q->lock);
    while (q->n_threads)
        pthread_join(q->threads[--q->n_threads], NULL);
    for (struct call *c; (c = take(q, false));) {
        reply_error(c, 503, "overloaded_error", NULL, "draining", "the server is shutting down");
        call_prepared(c);
    }
}
