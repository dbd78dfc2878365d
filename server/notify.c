/* Waking and watching: the engine's news resume suspended calls; disconnects and deadlines end
 * them. One thread sleeps on the eventfd that the engine signals once per step. */
#include "server/call.h"

#include "base/clock.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define TICK_MS 50
#define MAX_WATCHED 4096u

void notify_signal(void *cookie)
{
    struct server *s = cookie;
    uint64_t one = 1;
    ssize_t n = write(s->wake_fd, &one, sizeof one);
    (void)n; /* EAGAIN means it is signalled already */
}

void calls_add(struct call *c)
{
    struct server *s = c->server;
    pthread_mutex_lock(&s->calls_lock);
    c->next = s->calls;
    if (c->next)
        c->next->prev = c;
    s->calls = c;
    pthread_mutex_unlock(&s->calls_lock);
    atomic_fetch_add(&s->n_calls, 1);
}

void calls_remove(struct call *c)
{
    struct server *s = c->server;
    pthread_mutex_lock(&s->calls_lock);
    if (c->prev)
        c->prev->next = c->next;
    else
        s->calls = c->next;
    if (c->next)
        c->next->prev = c->prev;
    pthread_mutex_unlock(&s->calls_lock);
    atomic_fetch_sub(&s->n_calls, 1);
}

/* Marks news; resumes if the call sleeps. calls_lock is held, so the call is alive. */
static void wake(struct call *c)
{
    pthread_mutex_lock(&c->lock);
    if (c->suspended) {
        c->suspended = false;
        MHD_resume_connection(c->mc);
    } else {
        c->pending = true;
    }
    pthread_mutex_unlock(&c->lock);
}

bool call_suspend(struct call *c)
{
    pthread_mutex_lock(&c->lock);
    bool sleep = !c->pending;
    c->pending = false;
    if (sleep) {
        c->suspended = true;
        MHD_suspend_connection(c->mc);
    }
    pthread_mutex_unlock(&c->lock);
    return sleep;
}

static bool has_run(const struct call *c, uint64_t id)
{
    for (uint32_t i = 0; c->gen && i < c->gen->n_runs; i++)
        if (c->gen->runs[i].id == id)
            return true;
    return false;
}

/* Wakes the calls of the given engine requests: calls are few enough to look through. */
static void wake_ready(struct server *s, const uint64_t *ids, size_t n)
{
    pthread_mutex_lock(&s->calls_lock);
    for (struct call *c = s->calls; c; c = c->next)
        for (size_t i = 0; i < n; i++)
            if (has_run(c, ids[i])) {
                wake(c);
                break;
            }
    pthread_mutex_unlock(&s->calls_lock);
}

static void take_ready(struct server *s)
{
    uint64_t ids[256];
    struct lodge_engine *en = atomic_load(&s->engine);
    size_t n;
    while (en && (n = lodge_engine_take_ready(en, ids, 256))) {
        wake_ready(s, ids, n);
        if (n < 256)
            break;
    }
}

/* ---- watching
 * --------------------------------------------------------------------------------------------- */

static uint64_t seconds(double s)
{
    return (uint64_t)(s * 1e9);
}

/* Deadlines of one call: body, stalled socket, keep-alive comment of a silent stream. */
static void check_deadlines(struct call *c, uint64_t now)
{
    const struct lodge_serve_config *cfg = c->server->cfg;
    pthread_mutex_lock(&c->lock);
    bool asleep = c->suspended;
    bool late_body = !c->answered && !c->gen && now - c->begin_ns > seconds(cfg->body_timeout);
    bool stalled = c->waiting_since_ns && now - c->waiting_since_ns > seconds(cfg->stall_timeout);
    bool silent =
        asleep && c->streaming && c->gen && now - c->gen->last_write_ns > seconds(cfg->keepalive);
    if (late_body || stalled) {
        c->timed_out = true;
        shutdown(c->fd, SHUT_RDWR);
    }
    if (silent) {
        c->suspended = false;
        MHD_resume_connection(c->mc);
    }
    pthread_mutex_unlock(&c->lock);
}

static void watch(struct server *s, struct pollfd *fds, struct call **who, bool deadlines)
{
    uint64_t now = lodge_now_ns();
    nfds_t n = 0;
    pthread_mutex_lock(&s->calls_lock);
    for (struct call *c = s->calls; c; c = c->next) {
        if (deadlines)
            check_deadlines(c, now);
        pthread_mutex_lock(&c->lock);
        if (c->suspended && !c->hung_up && n < MAX_WATCHED) {
            fds[n] = (struct pollfd){.fd = c->fd, .events = POLLRDHUP};
            who[n++] = c;
        }
        pthread_mutex_unlock(&c->lock);
    }
    if (n && poll(fds, n, 0) > 0)
        for (nfds_t i = 0; i < n; i++)
            if (fds[i].revents & (POLLRDHUP | POLLHUP | POLLERR)) {
                pthread_mutex_lock(&who[i]->lock);
                who[i]->hung_up = true;
                pthread_mutex_unlock(&who[i]->lock);
                wake(who[i]);
            }
    pthread_mutex_unlock(&s->calls_lock);
}

static void *notify_main(void *arg)
{
    struct server *s = arg;
    struct pollfd *fds = calloc(MAX_WATCHED, sizeof *fds);
    struct call **who = calloc(MAX_WATCHED, sizeof *who);
    uint64_t last = 0;
    while (fds && who && !atomic_load(&s->stopping)) {
        struct pollfd wait = {.fd = s->wake_fd, .events = POLLIN};
        if (poll(&wait, 1, TICK_MS) > 0) {
            uint64_t count;
            ssize_t got = read(s->wake_fd, &count, sizeof count);
            (void)got;
            take_ready(s);
        }
        uint64_t now = lodge_now_ns();
        bool tick = now - last > TICK_MS * 1000000u;
        watch(s, fds, who, tick);
        if (tick)
            last = now;
    }
    free(fds);
    free(who);
    return NULL;
}

int notify_start(struct server *s, struct lodge_error *e)
{
    s->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (s->wake_fd < 0 || pthread_create(&s->notify_thread, NULL, notify_main, s))
        return lodge_fail(e, LODGE_ERR_RESOURCE, "cannot start the notify thread: %s",
                          strerror(errno));
    s->notify_runs = true;
    return 0;
}

void notify_stop(struct server *s)
{
    atomic_store(&s->stopping, true);
    if (s->notify_runs) {
        notify_signal(s);
        pthread_join(s->notify_thread, NULL);
        s->notify_runs = false;
    }
    if (s->wake_fd > 0)
        close(s->wake_fd);
}
