#include "engine/side.h"

#include "base/clock.h"

#include <time.h>

/* How soon the owner of waiting work sees that no steps run any more. */
#define LOOK_AGAIN_NS 2000000

/* Guarded by the side's lock, but the atomics. */
struct lodge_side_work {
    void (*fn)(void *ctx, uint32_t item);
    void *ctx;
    uint32_t n_items;
    atomic_uint next, n_done;
    uint32_t n_users; /* threads other than the owner that look at it */
    struct lodge_side_work *newer;
};

void lodge_side_init(struct lodge_side *s, const struct lodge_backend *backend,
                     struct lodge_device *device)
{
    *s = (struct lodge_side){.backend = backend, .device = device};
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->done, NULL);
}

void lodge_side_finish(struct lodge_side *s)
{
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->done);
}

/* Takes one item, if there is one left. */
static bool do_item(struct lodge_side_work *w)
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

static void put(struct lodge_side *s, struct lodge_side_work *w)
{
    pthread_mutex_lock(&s->lock);
    *(s->last ? &s->last->newer : &s->first) = w;
    s->last = w;
    atomic_fetch_add(&s->n_works, 1);
    pthread_mutex_unlock(&s->lock);
}

/* The lock is held. */
static void take_out(struct lodge_side *s, struct lodge_side_work *w)
{
    struct lodge_side_work *before = NULL, *at = s->first;
    for (; at != w; at = at->newer)
        before = at;
    *(before ? &before->newer : &s->first) = w->newer;
    if (s->last == w)
        s->last = before;
    atomic_fetch_sub(&s->n_works, 1);
}

static void wait_a_little(struct lodge_side *s)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += LOOK_AGAIN_NS;
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    pthread_cond_timedwait(&s->done, &s->lock, &until);
}

void lodge_side_run(void *side, void (*fn)(void *ctx, uint32_t item), void *ctx, uint32_t n_items)
{
    struct lodge_side *s = side;
    struct lodge_side_work w = {.fn = fn, .ctx = ctx, .n_items = n_items};
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
        wait_a_little(s);
        pthread_mutex_unlock(&s->lock);
    }
}

struct slice {
    struct lodge_side_work *work;
    uint64_t end_ns;
};

static void work_slice(void *ctx, unsigned worker, unsigned n_workers)
{
    struct slice *s = ctx;
    (void)worker;
    (void)n_workers;
    while (lodge_now_ns() < s->end_ns && do_item(s->work))
        ;
}

/* The oldest work with items left, held; NULL when there is none. */
static struct lodge_side_work *hold(struct lodge_side *s)
{
    pthread_mutex_lock(&s->lock);
    struct lodge_side_work *w = s->first;
    while (w && atomic_load(&w->next) >= w->n_items)
        w = w->newer;
    if (w)
        w->n_users++;
    pthread_mutex_unlock(&s->lock);
    return w;
}

static void let_go(struct lodge_side *s, struct lodge_side_work *w)
{
    pthread_mutex_lock(&s->lock);
    w->n_users--;
    if (!w->n_users && atomic_load(&w->n_done) == w->n_items)
        pthread_cond_broadcast(&s->done);
    pthread_mutex_unlock(&s->lock);
}

void lodge_side_turn(struct lodge_side *s, uint64_t step_ns)
{
    unsigned n = atomic_load(&s->n_works);
    atomic_store(&s->stepping, step_ns > 0);
    if (!step_ns || !n || !s->backend->run_aside)
        return;
    double share = n * LODGE_SIDE_SHARE;
    share = share < LODGE_SIDE_MOST ? share : LODGE_SIDE_MOST;
    uint64_t end_ns = lodge_now_ns() + (uint64_t)(share * (double)step_ns);
    struct slice slice = {.end_ns = end_ns};
    while (lodge_now_ns() < end_ns && (slice.work = hold(s))) {
        s->backend->run_aside(s->device, work_slice, &slice);
        let_go(s, slice.work);
    }
}
