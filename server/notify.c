/* Waking and watching: the engine's news resume suspended calls; disconnects and deadlines end
 * them. One thread sleeps on the eventfd that the engine signals once per step. */
#include "server/call.h"

#include "base/clock.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define TICK_NS 50000000u
#define TICK_MS 50
#define MAX_IDS 1024u

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

/* ---- suspending and waking ---- */

/* c->lock and calls_lock are held, so the call is alive. A call that is being prepared keeps
 * sleeping until it is prepared. */
static void wake_locked(struct call *c)
{
    if (c->suspended && c->phase != CALL_PREPARING) {
        c->suspended = false;
        MHD_resume_connection(c->mc);
    } else {
        c->pending = true;
    }
}

static void wake(struct call *c)
{
    pthread_mutex_lock(&c->lock);
    wake_locked(c);
    pthread_mutex_unlock(&c->lock);
}

bool call_suspend(struct call *c)
{
    pthread_mutex_lock(&c->lock);
    /* While it is prepared it belongs to another thread, whatever news there are already: that
     * thread wakes it. At the end nobody else would. */
    bool preparing = c->phase == CALL_PREPARING;
    bool closing = atomic_load(&c->server->closing) && !preparing;
    bool sleep = preparing || (!c->pending && !closing);
    c->pending = false;
    c->hung_up |= closing;
    if (sleep) {
        c->suspended = true;
        MHD_suspend_connection(c->mc);
    }
    pthread_mutex_unlock(&c->lock);
    return sleep;
}

void call_prepared(struct call *c)
{
    struct server *s = c->server;
    pthread_mutex_lock(&s->calls_lock);
    pthread_mutex_lock(&c->lock);
    c->phase = CALL_WAITING;
    wake_locked(c);
    pthread_mutex_unlock(&c->lock);
    pthread_mutex_unlock(&s->calls_lock);
}

bool call_gone(struct call *c)
{
    pthread_mutex_lock(&c->lock);
    bool gone = c->hung_up;
    pthread_mutex_unlock(&c->lock);
    return gone;
}

void notify_all(struct server *s)
{
    pthread_mutex_lock(&s->calls_lock);
    for (struct call *c = s->calls; c; c = c->next)
        wake(c);
    pthread_mutex_unlock(&s->calls_lock);
}

void notify_committed(void *cookie)
{
    struct server *s = cookie;
    pthread_mutex_lock(&s->calls_lock);
    for (struct call *c = s->calls; c; c = c->next)
        if (atomic_load(&c->account.waiting))
            wake(c);
    pthread_mutex_unlock(&s->calls_lock);
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static bool has_news(const struct call *c, const uint64_t *ids, size_t n)
{
    for (uint32_t i = 0; c->gen && i < c->gen->n_runs; i++)
        if (bsearch(&c->gen->runs[i].id, ids, n, sizeof *ids, by_value))
            return true;
    return false;
}

static void take_ready(struct server *s)
{
    uint64_t ids[MAX_IDS];
    struct lodge_engine *en = atomic_load(&s->engine);
    size_t n = MAX_IDS;
    while (en && n == MAX_IDS && (n = lodge_engine_take_ready(en, ids, MAX_IDS))) {
        qsort(ids, n, sizeof *ids, by_value);
        pthread_mutex_lock(&s->calls_lock);
        for (struct call *c = s->calls; c; c = c->next)
            if (has_news(c, ids, n))
                wake(c);
        pthread_mutex_unlock(&s->calls_lock);
    }
}

/* ---- watching ---- */

static uint64_t seconds(double s)
{
    return (uint64_t)(s * 1e9);
}

/* Nothing was written to this socket yet and libmicrohttpd is only reading from it, so a reply may
 * pass it by. (Not under TLS: there the connection just closes.) */
static void refuse_late_body(struct call *c)
{
    static const char body[] =
        "{\"error\":{\"message\":\"the request body did not arrive in time\",\"type\":"
        "\"timeout_error\",\"param\":null,\"code\":null}}";
    char reply[512];
    int n = snprintf(reply, sizeof reply,
                     "HTTP/1.1 408 Request Timeout\r\nContent-Type: application/json\r\n"
                     "x-request-id: %s\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n%s",
                     c->request_id, sizeof body - 1, body);
    if (!c->server->cfg->tls_cert)
        send(c->fd, reply, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL);
    c->timed_out = true;
    shutdown(c->fd, SHUT_RDWR);
}

/* Deadlines of one call: body, stalled socket, keep-alive comment of a silent stream. */
static void check_deadlines(struct call *c, uint64_t now)
{
    const struct lodge_serve_config *cfg = c->server->cfg;
    uint64_t stalled = c->waiting_since_ns;
    uint64_t reading = now > c->begin_ns ? now - c->begin_ns : 0; /* it may have begun since */
    if (c->phase == CALL_READING && !c->timed_out && reading > seconds(cfg->body_timeout))
        refuse_late_body(c);
    if (stalled && now > stalled && now - stalled > seconds(cfg->stall_timeout)) {
        c->timed_out = true;
        shutdown(c->fd, SHUT_RDWR);
    }
    if (c->streaming && c->suspended && now - c->last_write_ns > seconds(cfg->keepalive))
        wake_locked(c);
}

/* Whose peer has gone: sleeping calls are woken to end, and a stream that libmicrohttpd tries to
 * write is cut, because it does not look at the reading side. */
static bool is_watched(const struct call *c)
{
    bool sleeps = c->suspended && c->phase != CALL_PREPARING;
    return !c->hung_up && (sleeps || c->streaming);
}

static void hang_up(struct call *c)
{
    pthread_mutex_lock(&c->lock);
    c->hung_up = true;
    if (!c->suspended)
        shutdown(c->fd, SHUT_RDWR);
    wake_locked(c);
    pthread_mutex_unlock(&c->lock);
}

struct watch {
    struct pollfd *fds;
    struct call **who;
    size_t room;
};

static void watch_calls(struct server *s, struct watch *w, bool deadlines)
{
    uint64_t now = lodge_now_ns();
    nfds_t n = 0;
    pthread_mutex_lock(&s->calls_lock);
    for (struct call *c = s->calls; c; c = c->next) {
        pthread_mutex_lock(&c->lock);
        if (deadlines)
            check_deadlines(c, now);
        if (is_watched(c) && n < w->room) {
            w->fds[n] = (struct pollfd){.fd = c->fd, .events = POLLRDHUP};
            w->who[n++] = c;
        }
        pthread_mutex_unlock(&c->lock);
    }
    if (n && poll(w->fds, n, 0) > 0)
        for (nfds_t i = 0; i < n; i++)
            if (w->fds[i].revents & (POLLRDHUP | POLLHUP | POLLERR))
                hang_up(w->who[i]);
    pthread_mutex_unlock(&s->calls_lock);
}

static void *notify_main(void *arg)
{
    struct server *s = arg;
    /* One call a connection at most. */
    struct watch w = {.room = (size_t)s->cfg->max_connections};
    w.fds = calloc(w.room, sizeof *w.fds);
    w.who = calloc(w.room, sizeof *w.who);
    uint64_t last = 0;
    while (w.fds && w.who && !atomic_load(&s->stopping)) {
        struct pollfd wait = {.fd = s->wake_fd, .events = POLLIN};
        if (poll(&wait, 1, TICK_MS) > 0) {
            uint64_t count;
            ssize_t got = read(s->wake_fd, &count, sizeof count);
            (void)got;
            take_ready(s);
        }
        uint64_t now = lodge_now_ns();
        bool tick = now - last >= TICK_NS;
        watch_calls(s, &w, tick);
        if (tick) {
            connections_expire(s, now);
            last = now;
        }
    }
    free(w.fds);
    free(w.who);
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
    if (!s->notify_runs)
        return;
    notify_signal(s);
    pthread_join(s->notify_thread, NULL);
    s->notify_runs = false;
}

void notify_close(struct server *s)
{
    if (s->wake_fd > 0)
        close(s->wake_fd);
    s->wake_fd = 0;
}
