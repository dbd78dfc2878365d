#include "engine/side.h"

#include "base/clock.h"

#include <time.h>

/* How soon the owner of waiting work sees that no steps run any more. */
#define LOOK_AGAIN_NS 2000000

/* Guarded by the side's lock, but the atomics. */
struct lodge_side_part {
    void (*fn)(void *ctx, uint32_t item);
    void *ctx;
    uint32_t n_items;
    atomic_uint next, n_done;
    uint32_t n_users; /* threads other than the owner that look at it */
    struct lodge_side_job *job;
    struct lodge_side_part *newer;
};

void lodge_side_init(struct lodge_side *s, const struct lodge_backend *backend,
                     struct lodge_device *device)
{
    *s = (struct lodge_side){.backend = backend, .device = device};
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->done, &attr);
    pthread_cond_init(&s->news, &attr);
    pthread_condattr_destroy(&attr);
}

void lodge_side_finish(struct lodge_side *s)
{
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->done);
    pthread_cond_destroy(&s->news);
}

/* Takes one item, if there is one left. */
static bool do_item(struct lodge_side_part *w)
{
    uint32_t i = atomic_load(&w->next);
    while (i < w->n_items && !atomic_compare_exchange_weak(&w->next, &i, i + 1))
        ;
    if (i >= w->n_items)
        return false;
    w->fn(w->ctx, i);
    atomic_fetch_add(&w->n_done, 1);
    return true;
}

/* The owner is back; the lock is held. */
static void come_back(struct lodge_side_job *j)
{
    struct lodge_side *s = j->side;
    if (!j->awaited || j->awaited != s->turn)
        return;
    j->awaited = 0;
    s->n_awaited--;
}

static void put(struct lodge_side *s, struct lodge_side_part *w)
{
    pthread_mutex_lock(&s->lock);
    *(s->last ? &s->last->newer : &s->first) = w;
    s->last = w;
    atomic_fetch_add(&s->n_parts, 1);
    come_back(w->job);
    pthread_cond_signal(&s->news);
    pthread_mutex_unlock(&s->lock);
}

/* The lock is held. */
static void take_out(struct lodge_side *s, struct lodge_side_part *w)
{
    struct lodge_side_part *before = NULL, *at = s->first;
    for (; at != w; at = at->newer)
        before = at;
    *(before ? &before->newer : &s->first) = w->newer;
    if (s->last == w)
        s->last = before;
    atomic_fetch_sub(&s->n_parts, 1);
}

static void wait_until(struct lodge_side *s, pthread_cond_t *cond, uint64_t ns)
{
    struct timespec until = {.tv_sec = (time_t)(ns / 1000000000),
                             .tv_nsec = (long)(ns % 1000000000)};
    pthread_cond_timedwait(cond, &s->lock, &until);
}

void lodge_side_begin(struct lodge_side_job *j, struct lodge_side *s)
{
    *j = (struct lodge_side_job){.side = s};
}

void lodge_side_end(struct lodge_side_job *j)
{
    pthread_mutex_lock(&j->side->lock);
    come_back(j);
    pthread_cond_signal(&j->side->news);
    pthread_mutex_unlock(&j->side->lock);
}

void lodge_side_run(void *job, void (*fn)(void *ctx, uint32_t item), void *ctx, uint32_t n_items)
{
    struct lodge_side_job *j = job;
    struct lodge_side *s = j->side;
    struct lodge_side_part w = {.fn = fn, .ctx = ctx, .n_items = n_items, .job = j};
    bool by_workers = s->backend->run_aside != NULL;
    put(s, &w);
    for (;;) {
        while (!(by_workers && atomic_load(&s->stepping)) && do_item(&w))
            ;
        pthread_mutex_lock(&s->lock);
        if (atomic_load(&w.n_done) == n_items && !w.n_users) {
            take_out(s, &w);
            pthread_mutex_unlock(&s->lock);
            return;
        }
        wait_until(s, &s->done, lodge_now_ns() + LOOK_AGAIN_NS);
        pthread_mutex_unlock(&s->lock);
    }
}

struct slice {
    struct lodge_side_part *part;
    uint64_t end_ns;
};

static void work_slice(void *ctx, unsigned worker, unsigned n_workers)
{
    struct slice *s = ctx;
    (void)worker;
    (void)n_workers;
    while (lodge_now_ns() < s->end_ns && do_item(s->part))
        ;
}

/* The oldest part with items left; the lock is held. */
static struct lodge_side_part *oldest(const struct lodge_side *s)
{
    struct lodge_side_part *w = s->first;
    while (w && atomic_load(&w->next) >= w->n_items)
        w = w->newer;
    return w;
}

/* A part with items left, held; NULL when there is none, and none comes before end_ns. */
static struct lodge_side_part *hold(struct lodge_side *s, uint64_t end_ns)
{
    struct lodge_side_part *w;
    pthread_mutex_lock(&s->lock);
    while (!(w = oldest(s)) && s->n_awaited && lodge_now_ns() < end_ns)
        wait_until(s, &s->news, end_ns);
    if (w)
        w->n_users++;
    pthread_mutex_unlock(&s->lock);
    return w;
}

static void let_go(struct lodge_side *s, struct lodge_side_part *w)
{
    pthread_mutex_lock(&s->lock);
    w->n_users--;
    if (!w->n_users && atomic_load(&w->n_done) == w->n_items) {
        w->job->awaited = s->turn;
        s->n_awaited++;
        pthread_cond_broadcast(&s->done);
    }
    pthread_mutex_unlock(&s->lock);
}

/* Who has not come back until now is on a longer way. */
static void begin_turn(struct lodge_side *s)
{
    pthread_mutex_lock(&s->lock);
    s->turn++;
    s->n_awaited = 0;
    pthread_mutex_unlock(&s->lock);
}

void lodge_side_turn(struct lodge_side *s, uint64_t step_ns)
{
    unsigned n = atomic_load(&s->n_parts);
    atomic_store(&s->stepping, step_ns > 0);
    if (!step_ns || !n || !s->backend->run_aside)
        return;
    double share = n * LODGE_SIDE_SHARE;
    share = share < LODGE_SIDE_MOST ? share : LODGE_SIDE_MOST;
    uint64_t now = lodge_now_ns(), end_ns = now + (uint64_t)(share * (double)step_ns);
    uint64_t patience = (uint64_t)(LODGE_SIDE_PATIENCE * (double)step_ns);
    struct slice slice = {.end_ns = end_ns};
    begin_turn(s);
    for (; now < end_ns; now = lodge_now_ns()) {
        slice.part = hold(s, now + patience < end_ns ? now + patience : end_ns);
        if (!slice.part)
            break;
        s->backend->run_aside(s->device, work_slice, &slice);
        let_go(s, slice.part);
    }
}
