/* The admin listener's routes, and what their handlers share. */
#include "server/admin.h"

#include "base/json.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PROJECTS "/v1/organization/projects"

/* Longer patterns first: a {name} may hold slashes. */
static const struct route routes[] = {
    {PROJECTS, "GET, POST", admin_projects},
    {PROJECTS "/{id}", "GET, POST, DELETE", admin_one_project},
    {PROJECTS "/{id}/limits", "GET, POST", admin_limits},
    {PROJECTS "/{id}/api_keys", "GET, POST", admin_keys},
    {PROJECTS "/{id}/api_keys/{key}", "GET, DELETE", admin_one_key},
    {PROJECTS "/{id}/api_keys/{key}/rotate", "POST", admin_rotate},
    {PROJECTS "/{id}/adapters", "GET, POST", admin_adapters},
    {PROJECTS "/{id}/adapters/{name}/share", "POST", admin_share},
    {PROJECTS "/{id}/adapters/{name}", "GET, DELETE", admin_one_adapter},
    {"/v1/organization/usage/completions", "GET", admin_usage},
    {"/metrics", "GET, HEAD", handle_metrics},
    {"/livez", "GET, HEAD", handle_livez},
};

/* ---- paths ---- */

static void capture(struct admin_path *out, const char *what, const char *text, size_t n)
{
    char *to = what[1] == 'i' ? out->id : what[1] == 'k' ? out->key : out->name;
    size_t room = what[1] == 'n' ? sizeof out->name : sizeof out->id;
    snprintf(to, room, "%.*s", (int)(n < room ? n : room - 1), text);
}

/* {id} and {key} stand for one segment, {name} for one or more. */
static bool match(const char *pattern, const char *path, size_t n, struct admin_path *out)
{
    const char *open = strchr(pattern, '{');
    size_t before = open ? (size_t)(open - pattern) : strlen(pattern);
    if (n < before || memcmp(pattern, path, before) != 0)
        return false;
    if (!open)
        return n == before;
    path += before;
    n -= before;
    const char *rest = strchr(open, '}') + 1;
    size_t tail = strlen(rest);
    const char *slash = memchr(path, '/', n);
    size_t take = open[1] == 'n' ? (n > tail ? n - tail : 0) : slash ? (size_t)(slash - path) : n;
    if (!take || take > n)
        return false;
    capture(out, open, path, take);
    return match(rest, path + take, n - take, out);
}

static size_t path_length(const char *path)
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    return n;
}

const struct route *admin_route_find(const char *path)
{
    struct admin_path ignored;
    for (size_t i = 0; i < sizeof routes / sizeof *routes; i++)
        if (match(routes[i].path, path, path_length(path), &ignored))
            return &routes[i];
    return NULL;
}

void admin_path(const struct call *c, struct admin_path *out)
{
    *out = (struct admin_path){{0}, {0}, {0}};
    match(c->route->path, c->url, path_length(c->url), out);
}

struct tenant *admin_project(struct call *c, const char *id)
{
    struct tenants *t = &c->server->tenants;
    if (!t->has_store) {
        reply_error(c, 404, "not_found_error", NULL, "no_store",
                    "this server has no store of projects; start it with --store FILE");
        return NULL;
    }
    struct tenant *who = tenants_find(t, id);
    if (!who)
        reply_error(c, 404, "not_found_error", NULL, "project_not_found",
                    "there is no project '%.60s'", id);
    return who;
}

struct tenant *admin_active_project(struct call *c, const char *id)
{
    struct tenants *t = &c->server->tenants;
    struct tenant *who = admin_project(c, id);
    if (!who)
        return NULL;
    pthread_rwlock_rdlock(&t->lock);
    bool archived = who->archived_at != 0;
    pthread_rwlock_unlock(&t->lock);
    if (!archived)
        return who;
    reply_error(c, 400, "invalid_request_error", NULL, "project_archived",
                "project '%.60s' is archived", id);
    return NULL;
}

/* ---- bodies ---- */

void admin_bad(struct call *c, const char *param, const char *fmt, ...)
{
    char message[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(message, sizeof message, fmt, args);
    va_end(args);
    reply_error(c, 400, "invalid_request_error", param, NULL, "%s", message);
}

static bool is_word_of(const char *words, const char *word)
{
    size_t n = strlen(word);
    for (const char *at = strstr(words, word); at; at = strstr(at + 1, word))
        if (n && (at == words || at[-1] == ' ') && (!at[n] || at[n] == ' '))
            return true;
    return false;
}

bool admin_body(struct call *c, const char *fields)
{
    struct lodge_error e = {0};
    const char *key;
    json_t *v;
    if (!c->body.n)
        c->json = json_object();
    else if (lodge_json_load(lodge_buf_text(&c->body), c->body.n, &lodge_json_body_limits,
                             "request body", &c->json, &e))
        admin_bad(c, NULL, "%s", e.text);
    if (!c->reply.status && !json_is_object(c->json))
        admin_bad(c, NULL, "the request body must be a JSON object");
    if (c->reply.status)
        return false;
    json_object_foreach(c->json, key, v)
    {
        if (!is_word_of(fields, key)) {
            reply_error(c, 400, "invalid_request_error", key, "unknown_parameter",
                        "'%.100s' is not a field of this route; it has: %s", key, fields);
            return false;
        }
    }
    return true;
}

bool admin_name(struct call *c, const char *field, bool required, const char **out)
{
    struct lodge_error e = {0};
    *out = NULL;
    if (lodge_json_get_string(c->json, field, out, &e)) {
        admin_bad(c, field, "%s", e.text);
        return false;
    }
    bool bad = false;
    for (const char *p = *out; p && *p; p++)
        bad |= (unsigned char)*p < 0x20 || *p == 0x7F;
    if (*out ? bad || !**out || strlen(*out) >= NAME_MAX_BYTES : required) {
        admin_bad(c, field, "'%s' must have 1 to %u bytes, without control characters", field,
                  NAME_MAX_BYTES - 1);
        return false;
    }
    return true;
}

void admin_failed(struct call *c, const struct lodge_error *e)
{
    if (e->code == LODGE_ERR_FULL) {
        reply_error(c, 409, "conflict_error", "name", "name_taken", "%s", e->text);
        c->reply.no_retry = true;
        return;
    }
    struct refusal r = {.e = *e};
    reply_lodge_error(c, &r);
}

json_t *admin_time(int64_t seconds)
{
    return seconds ? json_integer(seconds) : json_null();
}

/* ---- queries ---- */

struct query_check {
    const char *names;
    char unknown[64];
};

static enum MHD_Result check_parameter(void *cls, enum MHD_ValueKind kind, const char *key,
                                       const char *value)
{
    struct query_check *q = cls;
    (void)kind;
    (void)value;
    if (!is_word_of(q->names, key))
        snprintf(q->unknown, sizeof q->unknown, "%s", *key ? key : "(empty)");
    return MHD_YES;
}

bool admin_query(struct call *c, const char *names)
{
    struct query_check q = {.names = names};
    MHD_get_connection_values(c->mc, MHD_GET_ARGUMENT_KIND, check_parameter, &q);
    if (!*q.unknown)
        return true;
    reply_error(c, 400, "invalid_request_error", q.unknown, "unknown_parameter",
                "'%s' is not a parameter of this route; it has: %s", q.unknown, names);
    return false;
}

const char *admin_parameter(const struct call *c, const char *name)
{
    return MHD_lookup_connection_value(c->mc, MHD_GET_ARGUMENT_KIND, name);
}

bool admin_integer(struct call *c, const char *name, int64_t min, int64_t max, int64_t *out)
{
    const char *text = admin_parameter(c, name);
    char *end;
    if (!text)
        return true;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    if (errno || end == text || *end || v < min || v > max) {
        admin_bad(c, name, "'%s' must be an integer from %lld to %lld", name, (long long)min,
                  (long long)max);
        return false;
    }
    *out = v;
    return true;
}

/* ---- lists ---- */

bool admin_list_begin(struct call *c, struct admin_list *l, const char *more)
{
    char names[200];
    snprintf(names, sizeof names, "after limit%s%s", *more ? " " : "", more);
    *l = (struct admin_list){.limit = 20};
    if (!admin_query(c, names) || !admin_integer(c, "limit", 1, 100, &l->limit))
        return false;
    l->after = admin_parameter(c, "after");
    l->begun = !l->after;
    l->data = json_array();
    return true;
}

bool admin_list_wants(struct admin_list *l, const char *id)
{
    bool wants = l->begun && json_array_size(l->data) < (size_t)l->limit;
    l->more |= l->begun && !wants;
    if (!l->begun)
        l->begun = strcmp(l->after, id) == 0;
    return wants;
}

void admin_list_add(struct admin_list *l, json_t *item)
{
    json_array_append_new(l->data, item);
}

/* The id of an item; an adapter is known by its name. */
static json_t *id_of(const json_t *item)
{
    json_t *id = json_object_get(item, "id");
    return id ? json_incref(id) : json_null();
}

void admin_list_reply(struct call *c, struct admin_list *l)
{
    size_t n = json_array_size(l->data);
    if (!l->begun) {
        json_decref(l->data);
        admin_bad(c, "after", "'after' names no item of this list");
        return;
    }
    json_t *first = id_of(json_array_get(l->data, 0)),
           *last = id_of(json_array_get(l->data, n - 1));
    reply_json(c, 200,
               json_pack("{s:s, s:o, s:o, s:o, s:b}", "object", "list", "data", l->data, "first_id",
                         first, "last_id", last, "has_more", l->more));
}
