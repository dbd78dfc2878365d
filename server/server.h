/* The server: one engine behind an HTTP listener.
 *
 * Threads: libmicrohttpd's polling thread parses requests, submits them and writes replies; the
 * notify thread (notify.c) wakes suspended connections when the engine has news, and watches
 * deadlines and disconnects; the engine thread only signals. A call belongs to the polling thread
 * except for the fields under its lock.
 *
 * Lock order: server.calls_lock, then call.lock, then libmicrohttpd's own. Nothing else is held
 * when the engine is called.
 */
#ifndef LODGE_SERVER_SERVER_H
#define LODGE_SERVER_SERVER_H

#include "base/log.h"
#include "engine/engine.h"
#include "server/config.h"

#include <microhttpd.h>
#include <pthread.h>
#include <stdatomic.h>

#define LODGE_HISTOGRAMS 9u

struct call;

struct histogram {
    const char *name;
    const double *bounds;
    uint32_t n_bounds;
    uint64_t counts[32];
    double sum;
    uint64_t n;
};

/* Counters of the HTTP side. Guarded by `lock`, a leaf. */
struct metrics {
    pthread_mutex_t lock;
    struct histogram h[LODGE_HISTOGRAMS];
    uint64_t finished[4]; /* stop, length, abort, error: per choice set of a request */
    uint64_t rejected;
};

struct server {
    const struct lodge_serve_config *cfg;
    struct lodge_log *log;
    struct lodge_engine *_Atomic engine; /* NULL until loaded */
    struct lodge_engine_info info;
    const char *const *names; /* served model names */
    uint32_t n_names;
    struct lodge_digest *keys; /* SHA-256 of the accepted keys */
    uint32_t n_keys;
    bool loopback;
    char fingerprint[24];
    struct MHD_Daemon *daemon;
    uint16_t port;
    atomic_bool draining, stopping;
    _Atomic uint64_t next_call;
    uint64_t boot; /* random part of request ids */
    int64_t created;
    struct metrics metrics;

    pthread_t notify_thread;
    bool notify_runs;
    int wake_fd; /* eventfd that the engine thread signals */

    pthread_mutex_t calls_lock;
    struct call *calls; /* all calls in progress */
    _Atomic uint32_t n_calls;
};

/* ---- http.c
 * ------------------------------------------------------------------------------------------- */

/* Opens the listener. RESOURCE when the port is taken. */
int http_start(struct server *s, struct lodge_error *e);
/* No new connections. */
void http_quiesce(struct server *s);
void http_stop(struct server *s);

/* ---- notify.c
 * ----------------------------------------------------------------------------------------- */
int notify_start(struct server *s, struct lodge_error *e);
void notify_stop(struct server *s);
/* on_ready of the engine; cookie is the server. */
void notify_signal(void *cookie);

/* ---- metrics.c
 * ---------------------------------------------------------------------------------------- */
enum { H_TTFT, H_ITL, H_TPOT, H_E2E, H_QUEUE, H_PREFILL, H_DECODE, H_PROMPT, H_OUTPUT };
void metrics_init(struct metrics *m);
void metrics_observe(struct metrics *m, unsigned which, double v);
void metrics_finish(struct metrics *m, const struct lodge_event *end, const uint32_t *finish,
                    uint32_t n);
void metrics_text(struct server *s, struct lodge_buf *out);

#endif
