/* libmicrohttpd glue: connections to calls, limits, authentication, the access log. */
#include "server/call.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/hash.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Longest body that is read only to be refused. */
#define MAX_DROPPED ((uint64_t)64 << 20)
#define CONNECTION_MEMORY ((size_t)64 << 10) /* request line and headers */

/* ---- calls
 * --------------------------------------------------------------------------------------------------
 */

static struct call *call_create(struct server *s, struct MHD_Connection *mc, const char *method,
                                const char *url)
{
    struct call *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    c->server = s;
    c->mc = mc;
    c->begin_ns = lodge_now_ns();
    c->method = method;
    c->url = url;
    pthread_mutex_init(&c->lock, NULL);
    lodge_buf_init(&c->body, s->cfg->max_body_bytes);
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(mc, MHD_CONNECTION_INFO_CONNECTION_FD);
    c->fd = info ? info->connect_fd : -1;
    snprintf(c->request_id, sizeof c->request_id, "req_%08llx%016llx",
             (unsigned long long)(s->boot & 0xFFFFFFFFu),
             (unsigned long long)atomic_fetch_add(&s->next_call, 1));
    calls_add(c);
    return c;
}

static void log_call(const struct call *c)
{
    const char *client = MHD_lookup_connection_value(c->mc, MHD_HEADER_KIND, "X-Request-Id");
    json_t *o = json_pack("{s:s, s:s, s:s, s:i, s:f, s:I}", "request_id", c->request_id, "method",
                          c->method, "path", c->route ? c->route->path : "(unknown)", "status",
                          c->status, "ms", (double)(lodge_now_ns() - c->begin_ns) * 1e-6, "bytes",
                          (json_int_t)c->bytes_out);
    if (o && client && strlen(client) <= 128)
        json_object_set_new(o, "client_request_id", json_string(client));
    if (o && c->gen && c->gen->n_runs) {
        uint64_t prompt = 0, output = 0;
        for (uint32_t i = 0; i < c->gen->n_runs; i++) {
            prompt += c->gen->runs[i].prompt.n;
            output += c->gen->runs[i].end.output_tokens;
        }
        json_object_set_new(o, "prompt_tokens", json_integer((json_int_t)prompt));
        json_object_set_new(o, "output_tokens", json_integer((json_int_t)output));
        json_object_set_new(o, "stream", json_boolean(c->gen->stream));
    }
    lodge_log_event(c->server->log, LODGE_LOG_INFO, "http", "request", o);
}

static void call_destroy(struct call *c)
{
    calls_remove(c);
    log_call(c);
    generation_destroy(c);
    json_decref(c->json);
    lodge_buf_finish(&c->body);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

static void on_completed(void *cls, struct MHD_Connection *mc, void **con_cls,
                         enum MHD_RequestTerminationCode code)
{
    (void)cls;
    (void)mc;
    struct call *c = *con_cls;
    if (!c)
        return;
    if (code != MHD_REQUEST_TERMINATED_COMPLETED_OK && !c->status)
        c->status = 499;
    call_destroy(c);
    *con_cls = NULL;
}

/* ---- admission of a request
 * --------------------------------------------------------------------------------- */

static bool key_accepted(const struct server *s, const char *header)
{
    if (!header || strncasecmp(header, "bearer ", 7) != 0)
        return false;
    const char *key = header + 7;
    while (*key == ' ')
        key++;
    struct lodge_digest d;
    lodge_sha256(key, strlen(key), &d);
    int found = 0;
    for (uint32_t i = 0; i < s->n_keys; i++)
        found |= lodge_equal_secret(&d, &s->keys[i], sizeof d);
    return found;
}

/* On loopback without keys a web page must not reach us by a name of its own (DNS rebinding). */
static bool host_accepted(const struct server *s, const char *host)
{
    if (!s->loopback || s->n_keys || !host)
        return true;
    static const char *const ok[] = {"localhost", "127.0.0.1", "[::1]"};
    for (int i = 0; i < 3; i++) {
        size_t n = strlen(ok[i]);
        if (strncasecmp(host, ok[i], n) == 0 && (!host[n] || host[n] == ':'))
            return true;
    }
    return strncmp(host, "127.", 4) == 0 || strcmp(s->cfg->host, host) == 0;
}

static bool method_allowed(const struct route *r, const char *method)
{
    size_t n = strlen(method);
    for (const char *at = strstr(r->methods, method); at; at = strstr(at + 1, method))
        if ((at == r->methods || at[-1] == ' ') && (!at[n] || at[n] == ','))
            return true;
    return false;
}

static uint64_t content_length(const struct call *c)
{
    const char *text = MHD_lookup_connection_value(c->mc, MHD_HEADER_KIND, "Content-Length");
    return text ? strtoull(text, NULL, 10) : 0;
}

static enum MHD_Result refuse_unknown(struct call *c)
{
    const char *hint = strncmp(c->url, "/v1/v1/", 7) == 0
                           ? "; the base URL already ends in /v1, do not add it twice"
                           : "; see /v1/models, /v1/chat/completions, /v1/completions";
    return reply_error(c, 404, "not_found_error", NULL, "not_found", "no route %.200s%s", c->url,
                       hint);
}

/* What can be told from the head alone. Returns true when a reply was queued. */
static bool refuse_early(struct call *c, enum MHD_Result *result)
{
    struct server *s = c->server;
    const struct route *r = c->route;
    const char *auth = MHD_lookup_connection_value(c->mc, MHD_HEADER_KIND, "Authorization");
    if (strcmp(c->method, "OPTIONS") == 0)
        *result = reply_text(c, 204, NULL, "", 0);
    else if (!host_accepted(s, MHD_lookup_connection_value(c->mc, MHD_HEADER_KIND, "Host")))
        *result = reply_error(c, 403, "permission_error", NULL, "host_not_allowed",
                              "this server listens on loopback only; use http://127.0.0.1");
    else if (s->n_keys && (!r || !r->open) && !key_accepted(s, auth))
        *result = reply_error(c, 401, "authentication_error", NULL, "invalid_api_key",
                              "a valid key is needed: Authorization: Bearer KEY");
    else if (!r)
        *result = refuse_unknown(c);
    else if (!method_allowed(r, c->method))
        *result = reply_error(c, 405, "invalid_request_error", NULL, "method_not_allowed",
                              "%s allows %s only", r->path, r->methods);
    else if (!r->while_loading && !atomic_load(&s->engine))
        *result = reply_error(c, 503, "overloaded_error", NULL, "model_loading",
                              "the model is still loading; try again soon");
    else if (r->body && atomic_load(&s->draining))
        *result = reply_error(c, 503, "overloaded_error", NULL, "draining",
                              "the server is shutting down");
    else if (content_length(c) > s->cfg->max_body_bytes)
        *result = reply_error(c, 413, "invalid_request_error", NULL, "body_too_large",
                              "the body has %llu bytes; at most %llu are accepted",
                              (unsigned long long)content_length(c),
                              (unsigned long long)s->cfg->max_body_bytes);
    return c->answered;
}

static enum MHD_Result take_body(struct call *c, const char *data, size_t *n)
{
    /* Too much (chunked, or a lying length): the rest is read and dropped, then refused. */
    if (!c->body.failed)
        lodge_buf_append(&c->body, data, *n);
    *n = 0;
    return MHD_YES;
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *mc, const char *url,
                                  const char *method, const char *version, const char *upload,
                                  size_t *n_upload, void **con_cls)
{
    (void)version;
    struct server *s = cls;
    struct call *c = *con_cls;
    enum MHD_Result result = MHD_YES;
    if (!c) {
        c = call_create(s, mc, method, url);
        if (!c)
            return MHD_NO;
        *con_cls = c;
        c->route = route_find(url);
        /* A refusal before the body is read closes the connection, and a client that is still
         * sending sees a reset instead of the reply. So a body of sane length is read (and dropped)
         * first, unless the client waits to be told to go on. */
        bool waits = MHD_lookup_connection_value(mc, MHD_HEADER_KIND, "Expect") != NULL;
        bool read_first = content_length(c) && content_length(c) <= MAX_DROPPED && !waits;
        if (!read_first)
            refuse_early(c, &result);
        return result;
    }
    if (*n_upload)
        return take_body(c, upload, n_upload);
    if (c->gen)
        return c->streaming ? MHD_YES : generate_continue(c);
    if (c->answered || refuse_early(c, &result))
        return result;
    if (c->body.failed)
        return reply_error(c, 413, "invalid_request_error", NULL, "body_too_large",
                           "the body is larger than %llu bytes",
                           (unsigned long long)s->cfg->max_body_bytes);
    return route_run(c);
}

/* ---- the listener
 * -----------------------------------------------------------------------------------------------
 */

static int listen_on(const struct server *s, int *out, uint16_t *port, struct lodge_error *e)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                                   .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *list = NULL;
    char text[16];
    snprintf(text, sizeof text, "%lld", (long long)s->cfg->port);
    int rc = getaddrinfo(s->cfg->host, text, &hints, &list);
    if (rc)
        return lodge_fail(e, LODGE_ERR_CONFIG, "--host %s: %s", s->cfg->host, gai_strerror(rc));
    int fd = socket(list->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int one = 1;
    if (fd >= 0)
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    bool ok = fd >= 0 && bind(fd, list->ai_addr, list->ai_addrlen) == 0 && listen(fd, 1024) == 0;
    int saved = errno;
    freeaddrinfo(list);
    if (!ok) {
        if (fd >= 0)
            close(fd);
        return lodge_fail(e, LODGE_ERR_RESOURCE,
                          "cannot listen on %s port %s: %s; choose another with --port (0 takes a "
                          "free one)",
                          s->cfg->host, text, strerror(saved));
    }
    struct sockaddr_storage at;
    socklen_t n = sizeof at;
    getsockname(fd, (struct sockaddr *)&at, &n);
    *port = ntohs(at.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&at)->sin6_port
                                           : ((struct sockaddr_in *)&at)->sin_port);
    *out = fd;
    return 0;
}

static void quiet(void *cls, const char *fmt, va_list args)
{
    struct server *s = cls;
    char text[300];
    vsnprintf(text, sizeof text, fmt, args);
    lodge_log_text(s->log, LODGE_LOG_DEBUG, "microhttpd", "%s", text);
}

int http_start(struct server *s, struct lodge_error *e)
{
    int fd = -1;
    int err = listen_on(s, &fd, &s->port, e);
    if (err)
        return err;
    unsigned flags = MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME |
                     MHD_USE_ERROR_LOG;
    char *cert = NULL, *key = NULL;
    size_t n;
    if (s->cfg->tls_cert) {
        err = lodge_file_read(s->cfg->tls_cert, 1 << 20, &cert, &n, e);
        if (!err)
            err = lodge_file_read(s->cfg->tls_key, 1 << 20, &key, &n, e);
        if (err) {
            free(cert);
            close(fd);
            return LODGE_ERR_CONFIG;
        }
        flags |= MHD_USE_TLS;
    }
    struct MHD_OptionItem tls[] = {{MHD_OPTION_HTTPS_MEM_CERT, 0, cert},
                                   {MHD_OPTION_HTTPS_MEM_KEY, 0, key},
                                   {MHD_OPTION_END, 0, NULL}};
    struct MHD_OptionItem none[] = {{MHD_OPTION_END, 0, NULL}};
    s->daemon = MHD_start_daemon(
        flags, 0, NULL, NULL, on_request, s, MHD_OPTION_EXTERNAL_LOGGER, quiet, s,
        MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_NOTIFY_COMPLETED, on_completed, NULL,
        MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)s->cfg->idle_timeout, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)s->cfg->max_connections, MHD_OPTION_CONNECTION_MEMORY_LIMIT, CONNECTION_MEMORY,
        MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_ARRAY, cert ? tls : none, MHD_OPTION_END);
    free(cert);
    free(key);
    if (!s->daemon) {
        close(fd);
        return lodge_fail(e, LODGE_ERR_RESOURCE,
                          "cannot start the HTTP server (connection limit, or a bad certificate)");
    }
    return 0;
}

void http_quiesce(struct server *s)
{
    if (!s->daemon)
        return;
    int fd = MHD_quiesce_daemon(s->daemon);
    if (fd >= 0)
        close(fd);
}

/* Suspended connections must be resumed before the daemon stops. */
void http_stop(struct server *s)
{
    if (!s->daemon)
        return;
    pthread_mutex_lock(&s->calls_lock);
    for (struct call *c = s->calls; c; c = c->next) {
        pthread_mutex_lock(&c->lock);
        c->hung_up = true;
        if (c->suspended) {
            c->suspended = false;
            MHD_resume_connection(c->mc);
        }
        c->pending = true;
        pthread_mutex_unlock(&c->lock);
    }
    pthread_mutex_unlock(&s->calls_lock);
    MHD_stop_daemon(s->daemon);
    s->daemon = NULL;
}
