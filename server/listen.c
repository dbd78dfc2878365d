/* The listener: sockets, libmicrohttpd's daemon, and connections that bring no request. */
#include "server/server.h"

#include "base/clock.h"
#include "base/file.h"
#include "server/call.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define CONNECTION_MEMORY ((size_t)64 << 10) /* request line and headers */
#define SPARE_FILES 640u                     /* besides connections; the admin's among them */
/* Those whose clients have gone count until their threads notice, which on a busy machine may be
 * many requests later. */
#define MAX_ADMIN_CONNECTIONS 512

/* ---- connections without a request ---- */

struct connection {
    int fd;
    bool busy;         /* a request is being served */
    bool fresh;        /* has brought no request yet */
    uint64_t since_ns; /* opened, or the last reply's end */
    struct connection *prev, *next;
};

static struct connection *connection_open(struct server *s, struct MHD_Connection *mc)
{
    struct connection *k = calloc(1, sizeof *k);
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(mc, MHD_CONNECTION_INFO_CONNECTION_FD);
    if (!k || !info) {
        free(k);
        return NULL;
    }
    *k = (struct connection){.fd = info->connect_fd, .fresh = true, .since_ns = lodge_now_ns()};
    pthread_mutex_lock(&s->connections_lock);
    k->next = s->connections;
    if (k->next)
        k->next->prev = k;
    s->connections = k;
    pthread_mutex_unlock(&s->connections_lock);
    return k;
}

static void connection_close(struct server *s, struct connection *k)
{
    pthread_mutex_lock(&s->connections_lock);
    if (k->prev)
        k->prev->next = k->next;
    else
        s->connections = k->next;
    if (k->next)
        k->next->prev = k->prev;
    pthread_mutex_unlock(&s->connections_lock);
    free(k);
}

static void on_connection(void *cls, struct MHD_Connection *mc, void **context,
                          enum MHD_ConnectionNotificationCode code)
{
    struct server *s = cls;
    if (code == MHD_CONNECTION_NOTIFY_STARTED)
        *context = connection_open(s, mc);
    else if (*context)
        connection_close(s, *context);
}

void connection_busy(struct MHD_Connection *mc, struct server *s, bool busy)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(mc, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    struct connection *k = info ? info->socket_context : NULL;
    if (!k)
        return;
    pthread_mutex_lock(&s->connections_lock);
    k->busy = busy;
    k->fresh = false;
    k->since_ns = lodge_now_ns();
    pthread_mutex_unlock(&s->connections_lock);
}

/* libmicrohttpd's own timer starts anew with each byte, so a head that drips in would never end. */
void connections_expire(struct server *s, uint64_t now_ns)
{
    uint64_t fresh = (uint64_t)(s->cfg->body_timeout * 1e9);
    uint64_t idle = (uint64_t)(s->cfg->idle_timeout * 1e9);
    pthread_mutex_lock(&s->connections_lock);
    for (struct connection *k = s->connections; k; k = k->next)
        if (!k->busy && now_ns > k->since_ns && now_ns - k->since_ns > (k->fresh ? fresh : idle))
            shutdown(k->fd, SHUT_RDWR);
    pthread_mutex_unlock(&s->connections_lock);
}

/* ---- the socket ---- */

static int open_socket(const struct addrinfo *a)
{
    int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -1;
    /* Accepted sockets inherit these; keepalive finds peers that vanished during a long reply. */
    int one = 1, idle = 60;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
    if (bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, 1024) == 0)
        return fd;
    int saved = errno;
    close(fd);
    errno = saved;
    return -1;
}

/* One of the two listeners: `flag` is "" or "admin-". */
struct listener {
    const char *flag, *host;
    int64_t port;
};

static int listen_on(const struct listener *l, int *out, uint16_t *port, struct lodge_error *e)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                                   .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *list = NULL;
    char text[16];
    snprintf(text, sizeof text, "%lld", (long long)l->port);
    int rc = getaddrinfo(l->host, text, &hints, &list);
    if (rc)
        return lodge_fail(e, LODGE_ERR_CONFIG, "--%shost %s: %s", l->flag, l->host,
                          gai_strerror(rc));
    int fd = -1;
    for (const struct addrinfo *a = list; a && fd < 0; a = a->ai_next)
        fd = open_socket(a);
    int saved = errno;
    freeaddrinfo(list);
    if (fd < 0)
        return lodge_fail(e, LODGE_ERR_RESOURCE,
                          "cannot listen on %s port %s: %s; choose another with --%sport%s",
                          l->host, text, strerror(saved), l->flag,
                          *l->flag ? "" : " (0 takes a free one)");
    struct sockaddr_storage at;
    socklen_t n = sizeof at;
    getsockname(fd, (struct sockaddr *)&at, &n);
    *port = ntohs(at.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&at)->sin6_port
                                           : ((struct sockaddr_in *)&at)->sin_port);
    *out = fd;
    return 0;
}

/* Every connection is a file; the soft limit is often 1024. */
static int raise_file_limit(const struct server *s, struct lodge_error *e)
{
    struct rlimit r;
    rlim_t need = (rlim_t)s->cfg->max_connections + SPARE_FILES;
    if (getrlimit(RLIMIT_NOFILE, &r) || r.rlim_cur >= need)
        return 0;
    r.rlim_cur = r.rlim_max < need ? r.rlim_max : need;
    setrlimit(RLIMIT_NOFILE, &r);
    if (r.rlim_cur >= need)
        return 0;
    return lodge_fail(e, LODGE_ERR_RESOURCE,
                      "--max-connections %lld needs %llu open files, the limit is %llu; lower it, "
                      "or raise the limit (ulimit -n)",
                      (long long)s->cfg->max_connections, (unsigned long long)need,
                      (unsigned long long)r.rlim_max);
}

/* ---- the daemon ---- */

static void quiet(void *cls, const char *fmt, va_list args)
{
    struct server *s = cls;
    char text[300];
    vsnprintf(text, sizeof text, fmt, args);
    lodge_log_text(s->log, LODGE_LOG_DEBUG, "microhttpd", "%s", text);
}

static int read_pem(const char *flag, const char *path, char **out, struct lodge_error *e)
{
    size_t n;
    if (lodge_file_read(path, 1 << 20, out, &n, e) == 0)
        return 0;
    lodge_error_prefix(e, "--%s", flag);
    return LODGE_ERR_CONFIG;
}

/* The admin listener has a thread for each connection, because its calls wait for the store. */
static int start_daemon(struct server *s, bool admin, int fd, const char *cert, const char *key,
                        struct lodge_error *e)
{
    const struct lodge_serve_config *cfg = s->cfg;
    unsigned mode = admin ? MHD_USE_THREAD_PER_CONNECTION | MHD_USE_POLL
                          : MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME;
    unsigned flags =
        MHD_USE_INTERNAL_POLLING_THREAD | mode | MHD_USE_ERROR_LOG | (cert ? MHD_USE_TLS : 0u);
    int64_t most = admin ? MAX_ADMIN_CONNECTIONS : cfg->max_connections;
    struct MHD_OptionItem tls[] = {
        {MHD_OPTION_HTTPS_MEM_CERT, 0, (void *)(uintptr_t)cert},
        {MHD_OPTION_HTTPS_MEM_KEY, 0, (void *)(uintptr_t)key},
        {MHD_OPTION_END, 0, NULL},
    };
    struct MHD_Daemon *d = MHD_start_daemon(
        flags, 0, NULL, NULL, admin ? http_admin_request : http_request, s,
        MHD_OPTION_EXTERNAL_LOGGER, quiet, s, MHD_OPTION_LISTEN_SOCKET, fd,
        MHD_OPTION_NOTIFY_COMPLETED, http_completed, NULL, MHD_OPTION_NOTIFY_CONNECTION,
        on_connection, s, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)cfg->idle_timeout,
        MHD_OPTION_CONNECTION_LIMIT, (unsigned)most, MHD_OPTION_PER_IP_CONNECTION_LIMIT,
        (unsigned)cfg->max_connections_per_ip, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
        CONNECTION_MEMORY, MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_ARRAY, cert ? tls : tls + 2,
        MHD_OPTION_END);
    *(admin ? &s->admin_daemon : &s->daemon) = d;
    if (d)
        return 0;
    return cert ? lodge_fail(e, LODGE_ERR_CONFIG,
                             "cannot start HTTPS: --tls-cert %s and --tls-key %s are not a PEM "
                             "certificate and its key",
                             cfg->tls_cert, cfg->tls_key)
                : lodge_fail(e, LODGE_ERR_RESOURCE, "cannot start the HTTP server: %s",
                             strerror(errno));
}

static int start_listener(struct server *s, bool admin, struct lodge_error *e)
{
    const struct lodge_serve_config *cfg = s->cfg;
    struct listener l = {"", cfg->host, cfg->port};
    int fd = -1;
    char *cert = NULL, *key = NULL;
    if (admin)
        l = (struct listener){"admin-", cfg->admin_host, cfg->admin_port};
    int err = listen_on(&l, &fd, admin ? &s->admin_port : &s->port, e);
    if (!err && s->cfg->tls_cert)
        err = read_pem("tls-cert", s->cfg->tls_cert, &cert, e);
    if (!err && s->cfg->tls_cert)
        err = read_pem("tls-key", s->cfg->tls_key, &key, e);
    if (!err)
        err = start_daemon(s, admin, fd, cert, key, e);
    if (err && fd >= 0)
        close(fd);
    free(cert);
    free(key);
    return err;
}

int http_start(struct server *s, struct lodge_error *e)
{
    int err = raise_file_limit(s, e);
    return err ? err : start_listener(s, false, e);
}

int admin_start(struct server *s, struct lodge_error *e)
{
    return s->cfg->admin_port ? start_listener(s, true, e) : 0;
}

/* Suspended connections must be resumed before the daemon stops; from `closing` on none suspends
 * but those that are being prepared, and prepare_stop ends these. */
void http_stop(struct server *s)
{
    if (s->admin_daemon)
        MHD_stop_daemon(s->admin_daemon);
    s->admin_daemon = NULL;
    if (!s->daemon)
        return;
    atomic_store(&s->closing, true);
    prepare_stop(s);
    pthread_mutex_lock(&s->calls_lock);
    for (struct call *c = s->calls; c; c = c->next) {
        pthread_mutex_lock(&c->lock);
        c->hung_up = true;
        pthread_mutex_unlock(&c->lock);
    }
    pthread_mutex_unlock(&s->calls_lock);
    notify_all(s);
    MHD_stop_daemon(s->daemon);
    s->daemon = NULL;
}
