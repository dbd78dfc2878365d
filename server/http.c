/* libmicrohttpd's callbacks: connections to calls, limits, authentication. */
#include "server/call.h"

#include "base/clock.h"
#include "base/hash.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Longest body that is read only to be refused. */
#define MAX_DROPPED ((uint64_t)64 << 20)
/* All bodies that are held together, in units of the largest one. */
#define MAX_BODIES 64u

/* ---- calls ---- */

static struct call *call_create(struct server *s, struct MHD_Connection *mc, const char *method,
                                const char *url, bool admin)
{
    struct call *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    c->server = s;
    c->mc = mc;
    c->begin_ns = lodge_now_ns();
    c->method = method;
    c->url = url;
    c->admin = admin;
    c->route = admin ? admin_route_find(url) : route_find(url);
    tenants_default(&s->tenants, &c->principal);
    pthread_mutex_init(&c->lock, NULL);
    lodge_buf_init(&c->body, s->cfg->max_body_bytes);
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(mc, MHD_CONNECTION_INFO_CONNECTION_FD);
    c->fd = info ? info->connect_fd : -1;
    snprintf(c->request_id, sizeof c->request_id, "req_%08llx%016llx",
             (unsigned long long)(s->boot & 0xFFFFFFFFu),
             (unsigned long long)atomic_fetch_add(&s->next_call, 1));
    connection_busy(mc, s, true);
    calls_add(c);
    return c;
}

/* From calls_remove on nobody else knows the call. */
static void call_destroy(struct call *c)
{
    struct server *s = c->server;
    calls_remove(c);
    if (!c->status)
        c->status = c->timed_out ? 408 : 499;
    log_call(c);
    metrics_response(&s->metrics, c->status);
    connection_busy(c->mc, s, false);
    atomic_fetch_sub(&s->body_bytes, c->body.n);
    account_close(c);
    if (c->gen)
        atomic_fetch_sub(&s->n_generations, 1);
    generation_free(c->gen);
    json_decref(c->json);
    lodge_buf_finish(&c->body);
    lodge_buf_finish(&c->reply.body);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

void http_completed(void *cls, struct MHD_Connection *mc, void **con_cls,
                    enum MHD_RequestTerminationCode code)
{
    (void)cls;
    (void)mc;
    (void)code;
    if (*con_cls)
        call_destroy(*con_cls);
    *con_cls = NULL;
}

/* ---- admission of a request ---- */

static const char *header(const struct call *c, const char *name)
{
    return MHD_lookup_connection_value(c->mc, MHD_HEADER_KIND, name);
}

static const char *bearer(const struct call *c, size_t *n)
{
    const char *text = header(c, "Authorization");
    if (!text || strncasecmp(text, "bearer ", 7) != 0)
        return NULL;
    const char *key = text + 7;
    key += strspn(key, " \t");
    *n = strlen(key);
    while (*n && (key[*n - 1] == ' ' || key[*n - 1] == '\t'))
        --*n;
    return key;
}

/* The number of the key among these, from 1; 0 when it is none of them. */
static uint32_t number_of(const struct lodge_digest *keys, uint32_t n_keys, const char *key,
                          size_t n)
{
    struct lodge_digest d;
    uint32_t found = 0;
    lodge_sha256(key, n, &d);
    for (uint32_t i = 0; i < n_keys; i++)
        found |= (uint32_t)lodge_equal_secret(&d, &keys[i], sizeof d) * (i + 1);
    return found;
}

/* Fills in whose key it is; keys of the settings are the default tenant's. */
static bool key_accepted(struct call *c)
{
    struct server *s = c->server;
    size_t n;
    const char *key = bearer(c, &n);
    if (!key)
        return false;
    if (c->admin)
        return (c->admin_key = number_of(s->admin_keys, s->n_admin_keys, key, n)) > 0;
    return number_of(s->keys, s->n_keys, key, n) ||
           tenants_authenticate(&s->tenants, key, n, &c->principal);
}

/* The host of a Host header is this machine's loopback, or what --host says. */
static bool host_is_local(const struct server *s, const char *host)
{
    char name[256];
    struct in_addr v4;
    struct in6_addr v6;
    bool bracket = host[0] == '[';
    size_t n = strcspn(host + bracket, bracket ? "]" : ":");
    if (n >= sizeof name)
        return false;
    memcpy(name, host + bracket, n);
    name[n] = 0;
    const char *rest = host + bracket + n + (bracket && host[bracket + n]);
    if (*rest && (*rest != ':' || strspn(rest + 1, "0123456789") != strlen(rest + 1)))
        return false;
    if (inet_pton(AF_INET, name, &v4) == 1)
        return ntohl(v4.s_addr) >> 24 == 127;
    if (inet_pton(AF_INET6, name, &v6) == 1)
        return IN6_IS_ADDR_LOOPBACK(&v6);
    return strcasecmp(name, "localhost") == 0 || strcasecmp(name, s->cfg->host) == 0;
}

/* A web page must not reach a loopback server by a name of its own (DNS rebinding); it has no
 * key, so a request with a good key may come from a proxy under any name. */
static bool host_accepted(const struct call *c, bool has_key)
{
    const char *host = header(c, "Host");
    return !c->server->loopback || has_key || !host || host_is_local(c->server, host);
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
    const char *text = header(c, "Content-Length");
    return text ? strtoull(text, NULL, 10) : 0;
}

static void refuse_unknown(struct call *c)
{
    bool twice = strncmp(c->url, "/v1/v1", 6) == 0;
    reply_error(c, 404, "not_found_error", NULL, "not_found", "no route %.200s%s", c->url,
                twice ? "; the base URL already ends in /v1, do not add it twice"
                      : "; see /v1/models, /v1/chat/completions, /v1/completions");
}

/* /metrics is open on loopback. */
static bool is_open(const struct call *c)
{
    return c->route &&
           (c->route->open || (c->server->loopback && c->route->handle == handle_metrics));
}

static void refuse_not_admin(struct call *c)
{
    const struct server *s = c->server;
    size_t n;
    const char *key = bearer(c, &n);
    if (!s->n_admin_keys)
        reply_error(c, 403, "permission_error", NULL, "admin_key_not_set",
                    "this route needs an admin key, and the server has none; start it with "
                    "--admin-key-file FILE");
    else if (!key || !(c->admin_key = number_of(s->admin_keys, s->n_admin_keys, key, n)))
        reply_error(c, 401, "authentication_error", NULL, "invalid_api_key",
                    "an admin key is needed: Authorization: Bearer KEY");
}

static void refuse_access(struct call *c)
{
    const struct server *s = c->server;
    if (c->route && c->route->by_admin) {
        refuse_not_admin(c);
        return;
    }
    bool need_key = s->n_keys || s->tenants.has_store, has_key = need_key && key_accepted(c);
    if (!host_accepted(c, has_key))
        reply_error(c, 403, "permission_error", NULL, "host_not_allowed",
                    "this server listens on loopback only, and Host is not a name of it; use "
                    "http://127.0.0.1, or send a key");
    else if (need_key && !is_open(c) && !has_key)
        reply_error(c, 401, "authentication_error", NULL, "invalid_api_key",
                    "a valid key is needed: Authorization: Bearer KEY");
}

/* What can be told from the head alone. True when c->reply was filled. */
static bool refuse_early(struct call *c)
{
    const struct server *s = c->server;
    const struct route *r = c->route;
    if (strcmp(c->method, "OPTIONS") == 0)
        reply_text(c, 204, NULL, "", 0);
    else
        refuse_access(c);
    if (c->reply.status)
        return true;
    if (!r)
        refuse_unknown(c);
    else if (!method_allowed(r, c->method))
        reply_error(c, 405, "invalid_request_error", NULL, "method_not_allowed",
                    "%s allows %s only", r->path, r->methods);
    else if (r->body && atomic_load(&s->draining))
        reply_error(c, 503, "overloaded_error", NULL, "draining", "the server is shutting down");
    else if (!r->while_loading && !atomic_load(&s->engine))
        reply_error(c, 503, "overloaded_error", NULL, "model_loading",
                    "the model is still loading; try again soon");
    else if (content_length(c) > s->cfg->max_body_bytes)
        reply_error(c, 413, "invalid_request_error", NULL, "body_too_large",
                    "the body has %llu bytes; at most %llu are accepted",
                    (unsigned long long)content_length(c),
                    (unsigned long long)s->cfg->max_body_bytes);
    else if (r->body)
        route_refuse_body(c);
    return c->reply.status != 0;
}

/* A refusal before the body is read closes the connection, and a client that is still sending sees
 * a reset instead of the reply. So a body of sane length is read (and dropped) first, unless the
 * client waits to be told to go on. */
static bool reads_first(const struct call *c)
{
    uint64_t n = content_length(c);
    bool chunked = header(c, "Transfer-Encoding") != NULL;
    return (n || chunked) && n <= MAX_DROPPED && !header(c, "Expect");
}

/* Too much (chunked, or a lying length): the rest is read and dropped, then refused. */
static enum MHD_Result take_body(struct call *c, const char *data, size_t *n)
{
    struct server *s = c->server;
    bool dropped = c->reply.status || c->no_room || c->body.failed;
    if (!dropped && atomic_load(&s->body_bytes) + *n > MAX_BODIES * s->cfg->max_body_bytes)
        c->no_room = dropped = true;
    if (!dropped && lodge_buf_append(&c->body, data, *n) == 0)
        atomic_fetch_add(&s->body_bytes, *n);
    else
        c->dropped_bytes += *n;
    *n = 0;
    return c->dropped_bytes > MAX_DROPPED ? MHD_NO : MHD_YES;
}

/* The watchdog may have closed it. */
static bool end_reading(struct call *c)
{
    pthread_mutex_lock(&c->lock);
    bool ok = !c->timed_out;
    c->phase = CALL_WAITING;
    pthread_mutex_unlock(&c->lock);
    return ok;
}

/* The request is complete. True when c->reply was filled, false when it is being prepared. */
static bool take_request(struct call *c)
{
    if (c->reply.status || refuse_early(c))
        return true;
    if (c->no_room)
        reply_error(c, 503, "overloaded_error", NULL, "queue_full",
                    "the server holds too many request bodies at the moment; try again soon");
    else if (c->body.failed)
        reply_error(c, 413, "invalid_request_error", NULL, "body_too_large",
                    "the body is larger than %llu bytes",
                    (unsigned long long)c->server->cfg->max_body_bytes);
    else if (c->route->body)
        return !prepare_call(c);
    else
        c->route->handle(c);
    return true;
}

static enum call_phase phase_of(struct call *c)
{
    pthread_mutex_lock(&c->lock);
    enum call_phase phase = c->phase;
    pthread_mutex_unlock(&c->lock);
    return phase;
}

/* ---- the admin listener: a thread a connection, so these may wait for the store ---- */

/* Without an admin key there is only the loopback between a web page and the tenants, so what a
 * browser sends for a page is refused. */
static void refuse_admin(struct call *c)
{
    const struct server *s = c->server;
    const char *host = header(c, "Host");
    if (s->n_admin_keys && !key_accepted(c))
        reply_error(c, 401, "authentication_error", NULL, "invalid_api_key",
                    "an admin key is needed: Authorization: Bearer KEY");
    else if (!s->n_admin_keys && (header(c, "Origin") || (host && !host_is_local(s, host))))
        reply_error(c, 403, "permission_error", NULL, "host_not_allowed",
                    "without --admin-key-file only programs of this machine may use the admin API");
    else if (!c->route)
        reply_error(c, 404, "not_found_error", NULL, "not_found", "no route %.200s", c->url);
    else if (!method_allowed(c->route, c->method))
        reply_error(c, 405, "invalid_request_error", NULL, "method_not_allowed",
                    "%s allows %s only", c->route->path, c->route->methods);
    else if (content_length(c) > s->cfg->max_body_bytes)
        reply_error(c, 413, "invalid_request_error", NULL, "body_too_large",
                    "at most %llu bytes are accepted", (unsigned long long)s->cfg->max_body_bytes);
    else if (content_length(c) || header(c, "Transfer-Encoding"))
        route_refuse_body(c);
}

enum MHD_Result http_admin_request(void *cls, struct MHD_Connection *mc, const char *url,
                                   const char *method, const char *version, const char *upload,
                                   size_t *n_upload, void **con_cls)
{
    (void)version;
    struct call *c = *con_cls;
    if (!c) {
        *con_cls = c = call_create(cls, mc, method, url, true);
        return c ? MHD_YES : MHD_NO;
    }
    if (*n_upload)
        return take_body(c, upload, n_upload);
    if (phase_of(c) == CALL_ANSWERED)
        return MHD_YES;
    if (!end_reading(c))
        return MHD_NO;
    refuse_admin(c);
    if (!c->reply.status && (c->body.failed || c->no_room))
        reply_error(c, 413, "invalid_request_error", NULL, "body_too_large",
                    "the body is too large");
    if (!c->reply.status)
        c->route->handle(c);
    return reply_send(c);
}

/* ---- the main listener ---- */

enum MHD_Result http_request(void *cls, struct MHD_Connection *mc, const char *url,
                             const char *method, const char *version, const char *upload,
                             size_t *n_upload, void **con_cls)
{
    (void)version;
    struct server *s = cls;
    struct call *c = *con_cls;
    if (!c) {
        c = call_create(s, mc, method, url, false);
        if (!c)
            return MHD_NO;
        *con_cls = c;
        return !reads_first(c) && refuse_early(c) ? reply_send(c) : MHD_YES;
    }
    if (*n_upload)
        return take_body(c, upload, n_upload);
    enum call_phase phase = phase_of(c);
    if (phase == CALL_ANSWERED)
        return MHD_YES;
    if (phase == CALL_READING && !end_reading(c))
        return MHD_NO;
    if (phase == CALL_READING && !take_request(c))
        return MHD_YES;
    return c->reply.status ? reply_send(c) : generate_advance(c);
}
