/* The server: one engine behind an HTTP listener.
 *
 * Threads: libmicrohttpd's polling thread reads requests and writes replies; preparing threads
 * (prepare.c) parse bodies, render and tokenize, so that a huge body delays nobody's stream; calls
 * that must read an adapter first wait in a lane of their own and delay no other; the notify
 * thread (notify.c) wakes suspended connections when the engine has news, and watches
 * deadlines and disconnects; the engine thread only signals.
 *
 * The ledger's writer (ledger.h) owns the store; threads of the admin listener's connections wait
 * for it, nobody else does.
 *
 * Lock order: server.calls_lock, then call.lock, then libmicrohttpd's own. All others are leaves;
 * requests are submitted under calls_lock. For the locks of tenants see tenants.h.
 */
#ifndef LODGE_SERVER_SERVER_H
#define LODGE_SERVER_SERVER_H

#include "base/log.h"
#include "engine/engine.h"
#include "server/adapters.h"
#include "server/config.h"
#include "server/tenants.h"

#include <microhttpd.h>
#include <pthread.h>
#include <stdatomic.h>

#define LODGE_HISTOGRAMS 13u
#define LODGE_PREPARERS 2u
#define LODGE_READERS 4u /* side work gets more time when more of it waits */
#define LODGE_LANE_THREADS 4u

struct call;
struct connection;

struct histogram {
    const char *name, *help;
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
    uint64_t responses[600]; /* by HTTP status */
};

/* Calls that wait for a preparing thread, and those threads. Guarded by `lock`, a leaf. */
struct lane {
    struct server *server;
    bool reads; /* its threads may read adapters */
    pthread_mutex_t lock;
    pthread_cond_t filled;
    struct call *first, *last;
    bool stop;
    pthread_t threads[LODGE_LANE_THREADS];
    uint32_t n_threads;
};

struct server {
    const struct lodge_serve_config *cfg;
    struct lodge_log *log;
    struct lodge_engine *_Atomic engine; /* NULL until loaded; then what follows is complete */
    struct lodge_engine_info info;
    const char *const *names; /* served model names */
    uint32_t n_names;
    char fingerprint[24];
    struct adapter_names adapters;

    struct lodge_digest *keys; /* SHA-256 of the accepted keys */
    uint32_t n_keys;
    bool loopback;
    struct tenants tenants;
    struct lodge_digest *admin_keys; /* as `keys`, for the admin listener */
    uint32_t n_admin_keys;
    struct MHD_Daemon *daemon, *admin_daemon; /* the latter may be NULL */
    uint16_t port, admin_port;
    atomic_bool draining; /* new work is refused */
    atomic_bool aborting; /* running replies end with an error */
    atomic_bool closing;  /* nothing is suspended any more */
    atomic_bool stopping; /* the notify thread ends */
    _Atomic uint64_t next_call;
    uint64_t boot; /* random part of request ids */
    int64_t created;
    _Atomic uint64_t body_bytes; /* of all bodies that are held */
    struct metrics metrics;
    struct lane preparing, reading;

    pthread_t notify_thread;
    bool notify_runs;
    int wake_fd; /* eventfd that the engine thread signals */

    pthread_mutex_t calls_lock;
    struct call *calls; /* all calls in progress */
    _Atomic uint32_t n_calls, n_generations;

    pthread_mutex_t connections_lock; /* leaf */
    struct connection *connections;
};

/* ---- listen.c ---- */
/* Opens the listener. RESOURCE when the port is taken, CONFIG for a bad host or certificate. */
int http_start(struct server *s, struct lodge_error *e);
/* Ends all calls and connections. */
void http_stop(struct server *s);
/* Opens the admin listener, if the settings want one. Errors as http_start. */
int admin_start(struct server *s, struct lodge_error *e);
/* Closes connections that do not bring a complete head in time. Notify thread. */
void connections_expire(struct server *s, uint64_t now_ns);

/* ---- http.c: libmicrohttpd's callbacks; cls is the server ---- */
enum MHD_Result http_request(void *cls, struct MHD_Connection *mc, const char *url,
                             const char *method, const char *version, const char *upload,
                             size_t *n_upload, void **con_cls);
/* The same for the admin listener. */
enum MHD_Result http_admin_request(void *cls, struct MHD_Connection *mc, const char *url,
                                   const char *method, const char *version, const char *upload,
                                   size_t *n_upload, void **con_cls);
void http_completed(void *cls, struct MHD_Connection *mc, void **con_cls,
                    enum MHD_RequestTerminationCode code);
/* The connection's head was read, or its reply has ended. */
void connection_busy(struct MHD_Connection *mc, struct server *s, bool busy);

/* ---- prepare.c ---- */
int prepare_start(struct server *s, struct lodge_error *e);
void prepare_stop(struct server *s);

/* ---- notify.c ---- */
int notify_start(struct server *s, struct lodge_error *e);
/* Ends the thread; the engine may still signal until notify_close. */
void notify_stop(struct server *s);
void notify_close(struct server *s);
/* on_ready of the engine; cookie is the server. */
void notify_signal(void *cookie);
/* on_commit of the ledger: wakes the calls that wait for it. cookie is the server. */
void notify_committed(void *cookie);
/* Wakes every call, so that it looks at the server's state again. */
void notify_all(struct server *s);

/* ---- metrics.c ---- */
enum {
    H_TTFT,
    H_ITL,
    H_TPOT,
    H_E2E,
    H_QUEUE,
    H_PREFILL,
    H_DECODE,
    H_INFERENCE,
    H_PROMPT,
    H_OUTPUT,
    H_MAX_OUTPUT,
    H_N,
    H_MAX_TOKENS
};
void metrics_init(struct metrics *m);
void metrics_observe(struct metrics *m, unsigned which, double v);
/* A request has ended; max_tokens as asked (0: not), n choices. */
void metrics_finish(struct metrics *m, const struct lodge_event *end, uint32_t max_output,
                    uint32_t max_tokens, uint32_t n);
void metrics_response(struct metrics *m, int status);
/* Prometheus text 0.0.4, or OpenMetrics 1.0. */
void metrics_text(struct server *s, struct lodge_buf *out, bool open_metrics);

#endif
