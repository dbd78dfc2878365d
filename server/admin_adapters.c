/* Adapters of a project: names and where they lie. */
#include "server/admin.h"

#include "base/json.h"

#include <stdlib.h>
#include <string.h>

#define MAX_PATH_BYTES 4096u

/* The caller holds tenants.lock. */
static json_t *adapter_json(struct tenants *t, const struct tenant *who,
                            const struct tenant_adapter *a)
{
    json_t *shares = json_array();
    for (uint32_t i = 0; i < a->n_shares; i++)
        json_array_append_new(shares, json_string(tenants_number(t, a->shares[i])->id));
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:o, s:I, s:o}", "id", a->name, "object",
                     "organization.project.adapter", "project_id", who->id, "name", a->name, "path",
                     a->path, "digest", *a->digest ? json_string(a->digest) : json_null(),
                     "created_at", (json_int_t)a->created_at, "shared_with", shares);
}

static void reply_adapter(struct call *c, const struct tenant *who, const char *name)
{
    struct tenants *t = &c->server->tenants;
    struct tenant_adapter *a = tenants_find_adapter(t, who, name);
    if (!a) {
        reply_error(c, 404, "not_found_error", NULL, "adapter_not_found",
                    "this project has no adapter '%s'", name);
        return;
    }
    pthread_rwlock_rdlock(&t->lock);
    json_t *o = adapter_json(t, who, a);
    pthread_rwlock_unlock(&t->lock);
    reply_json(c, 200, o);
}

static void list_adapters(struct call *c, const struct tenant *who)
{
    struct tenants *t = &c->server->tenants;
    struct admin_list l;
    if (!admin_list_begin(c, &l, ""))
        return;
    pthread_rwlock_rdlock(&t->lock);
    for (const struct tenant_adapter *a = who->adapters; a; a = a->next)
        if (admin_list_wants(&l, a->name))
            admin_list_add(&l, adapter_json(t, who, a));
    pthread_rwlock_unlock(&t->lock);
    admin_list_reply(c, &l);
}

/* Letters, digits, . _ - in segments between slashes; none begins with a dot, and the last is not
 * "share", which is a route. */
static bool name_allowed(const char *name)
{
    const char *last = strrchr(name, '/');
    if (strcmp(last ? last + 1 : name, "share") == 0)
        return false;
    for (const char *p = name; *p; p++) {
        bool first = p == name || p[-1] == '/';
        bool word = (*p >= '0' && *p <= '9') || (*p >= 'A' && *p <= 'Z') ||
                    (*p >= 'a' && *p <= 'z') || *p == '_' || *p == '-';
        if (!word && (first || (*p != '.' && *p != '/')))
            return false;
    }
    return *name && name[strlen(name) - 1] != '/';
}

static bool is_model(const struct server *s, const char *name)
{
    return atomic_load(&s->engine) && model_known(s, name);
}

/* Absolute, and without a step up: nobody should have to work out where it leads. */
static bool path_allowed(const char *path)
{
    size_t n = strlen(path);
    if (*path != '/' || n >= MAX_PATH_BYTES)
        return false;
    for (const char *p = strstr(path, "/.."); p; p = strstr(p + 1, "/.."))
        if (!p[3] || p[3] == '/')
            return false;
    return true;
}

static void add_adapter(struct call *c, struct tenant *who)
{
    struct server *s = c->server;
    const char *name, *path = NULL;
    bool replace = false;
    char digest[65] = "";
    struct lodge_error e = {0};
    if (!admin_body(c, "name path load_inplace") || !admin_name(c, "name", true, &name))
        return;
    if (!name_allowed(name))
        admin_bad(c, "name",
                  "'name' may have letters, digits, '.', '_', '-' and '/', no segment that begins "
                  "with a dot, and not 'share' as its last one");
    else if (is_model(s, name))
        admin_bad(c, "name", "'%s' is the name of the served model", name);
    else if (lodge_json_get_string(c->json, "path", &path, &e))
        admin_bad(c, "path", "%s", e.text);
    else if (lodge_json_get_bool(c->json, "load_inplace", &replace, &e))
        admin_bad(c, "load_inplace", "%s", e.text);
    else if (!path || !path_allowed(path))
        admin_bad(c, "path",
                  "'path' must be the absolute path of the adapter's folder, without ..");
    else if (!replace && tenants_find_adapter(&s->tenants, who, name))
        reply_error(c, 409, "conflict_error", "name", "name_taken",
                    "there is an adapter '%s' already; 'load_inplace': true replaces it", name);
    else if (adapters_check(s, who, name, path, digest, &e))
        admin_bad(c, "path", "%s", e.text);
    else if (tenants_put_adapter(&s->tenants, who, name, path, *digest ? digest : NULL, replace,
                                 &e))
        admin_failed(c, &e);
    if (c->reply.status)
        return;
    adapters_changed(s, who, name);
    reply_adapter(c, who, name);
}

void admin_adapters(struct call *c)
{
    struct admin_path at;
    admin_path(c, &at);
    bool post = strcmp(c->method, "POST") == 0;
    struct tenant *who = post ? admin_active_project(c, at.id) : admin_project(c, at.id);
    if (who && post)
        add_adapter(c, who);
    else if (who)
        list_adapters(c, who);
}

void admin_one_adapter(struct call *c)
{
    struct admin_path at;
    struct lodge_error e = {0};
    admin_path(c, &at);
    struct tenant *who = admin_project(c, at.id);
    if (!who)
        return;
    if (strcmp(c->method, "DELETE") != 0) {
        reply_adapter(c, who, at.name);
        return;
    }
    if (tenants_delete_adapter(&c->server->tenants, who, at.name, &e)) {
        reply_error(c, failure_of(e.code)->status,
                    e.code == LODGE_ERR_NOT_FOUND ? "not_found_error" : "server_error", NULL,
                    e.code == LODGE_ERR_NOT_FOUND ? "adapter_not_found" : "internal_error", "%s",
                    e.text);
        return;
    }
    adapters_changed(c->server, who, at.name);
    reply_json(c, 200,
               json_pack("{s:s, s:s, s:b}", "object", "organization.project.adapter.deleted", "id",
                         at.name, "deleted", 1));
}

static void share_failed(struct call *c, const struct lodge_error *e)
{
    if (e->code != LODGE_ERR_FULL) {
        admin_failed(c, e);
        return;
    }
    reply_error(c, 409, "conflict_error", "project", "name_taken", "%s", e->text);
    c->reply.no_retry = true;
}

void admin_share(struct call *c)
{
    struct admin_path at;
    const char *with = NULL;
    struct lodge_error e = {0};
    admin_path(c, &at);
    struct tenant *who = admin_active_project(c, at.id);
    if (!who || !admin_body(c, "project"))
        return;
    struct tenant *to = NULL;
    if (lodge_json_get_string(c->json, "project", &with, &e))
        admin_bad(c, "project", "%s", e.text);
    else if (!with || !(to = tenants_find(&c->server->tenants, with)) || to == who)
        admin_bad(c, "project", "'project' must be the id of another project");
    else if (tenants_find_adapter(&c->server->tenants, who, at.name) &&
             tenants_share_adapter(&c->server->tenants, who, at.name, to, &e))
        share_failed(c, &e);
    if (c->reply.status)
        return;
    adapters_changed(c->server, who, at.name);
    reply_adapter(c, who, at.name);
}
