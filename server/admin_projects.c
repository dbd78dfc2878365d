/* Projects, and their limits. */
#include "server/admin.h"

#include "base/json.h"

#include <stdlib.h>
#include <string.h>

/* ---- projects ---- */

/* The caller holds tenants.lock. */
static json_t *project_json(const struct tenant *t)
{
    json_t *metadata = json_loads(t->metadata, 0, NULL);
    return json_pack("{s:s, s:s, s:s, s:I, s:o, s:s, s:i, s:f, s:o}", "id", t->id, "object",
                     "organization.project", "name", t->name, "created_at",
                     (json_int_t)t->created_at, "archived_at", admin_time(t->archived_at), "status",
                     t->archived_at ? "archived" : "active", "tier", (int)t->tier, "weight",
                     t->weight, "metadata", metadata ? metadata : json_object());
}

static void reply_project(struct call *c, const struct tenant *who)
{
    struct tenants *t = &c->server->tenants;
    pthread_rwlock_rdlock(&t->lock);
    json_t *o = project_json(who);
    pthread_rwlock_unlock(&t->lock);
    reply_json(c, 200, o);
}

/* 16 strings at most, as everywhere in the API. */
static bool read_metadata(struct call *c, char **out)
{
    json_t *v, *meta = lodge_json_member(c->json, "metadata");
    const char *key;
    bool ok = !meta || (json_is_object(meta) && json_object_size(meta) <= 16);
    if (ok && meta)
        json_object_foreach(meta, key, v)
        {
            ok &= strlen(key) <= 64 && json_is_string(v) && json_string_length(v) <= 512;
        }
    if (!ok) {
        admin_bad(c, "metadata",
                  "'metadata' must be an object of at most 16 strings of at most 512 bytes");
        return false;
    }
    *out = meta ? json_dumps(meta, JSON_COMPACT) : NULL;
    return true;
}

static bool read_fields(struct call *c, bool required, struct tenant_fields *f, char **metadata)
{
    struct lodge_error e = {0};
    *f = (struct tenant_fields){.tier = -1, .weight = -1};
    if (!admin_body(c, "name tier weight metadata") || !admin_name(c, "name", required, &f->name))
        return false;
    if (lodge_json_get_int(c->json, "tier", 0, MAX_TIER, &f->tier, &e))
        admin_bad(c, "tier", "%s", e.text);
    else if (lodge_json_get_double(c->json, "weight", 0.001, 1000, &f->weight, &e))
        admin_bad(c, "weight", "%s", e.text);
    else if (read_metadata(c, metadata))
        f->metadata = *metadata;
    return !c->reply.status;
}

static void list_projects(struct call *c)
{
    struct tenants *t = &c->server->tenants;
    struct admin_list l;
    if (!admin_list_begin(c, &l, "include_archived"))
        return;
    const char *archived = admin_parameter(c, "include_archived");
    bool all = archived && strcmp(archived, "true") == 0;
    pthread_rwlock_rdlock(&t->lock);
    for (uint32_t i = 0; i < t->n_tenants; i++)
        if ((all || !t->all[i]->archived_at) && admin_list_wants(&l, t->all[i]->id))
            admin_list_add(&l, project_json(t->all[i]));
    pthread_rwlock_unlock(&t->lock);
    admin_list_reply(c, &l);
}

void admin_projects(struct call *c)
{
    struct tenant *who = admin_project(c, "proj_default");
    if (!who)
        return;
    if (strcmp(c->method, "POST") != 0) {
        list_projects(c);
        return;
    }
    struct tenant_fields f;
    struct lodge_error e = {0};
    char *metadata = NULL;
    if (read_fields(c, true, &f, &metadata)) {
        if (tenants_create(&c->server->tenants, &f, &who, &e))
            admin_failed(c, &e);
        else
            reply_project(c, who);
    }
    free(metadata);
}

static void archive(struct call *c, struct tenant *who)
{
    struct lodge_error e = {0};
    if (who->number == DEFAULT_TENANT)
        admin_bad(c, NULL, "the default project cannot be archived");
    else if (tenants_archive(&c->server->tenants, who, &e))
        admin_failed(c, &e);
    else
        reply_project(c, who);
}

static void change(struct call *c, struct tenant *who)
{
    struct tenant_fields f;
    struct lodge_error e = {0};
    char *metadata = NULL;
    if (read_fields(c, false, &f, &metadata)) {
        if (tenants_update(&c->server->tenants, who, &f, &e))
            admin_failed(c, &e);
        else
            reply_project(c, who);
    }
    free(metadata);
}

void admin_one_project(struct call *c)
{
    struct admin_path at;
    admin_path(c, &at);
    bool post = strcmp(c->method, "POST") == 0;
    struct tenant *who = post ? admin_active_project(c, at.id) : admin_project(c, at.id);
    if (!who)
        return;
    if (post)
        change(c, who);
    else if (strcmp(c->method, "DELETE") == 0)
        archive(c, who);
    else
        reply_project(c, who);
}

/* ---- limits ---- */

#define N_LIMITS 7
#define MAX_LIMIT ((int64_t)1 << 53)

static const char *const limit_names[N_LIMITS] = {
    "requests_per_minute", "tokens_per_minute", "max_concurrent", "loads_per_minute",
    "resident_bytes",      "host_bytes",        "budget_tokens"};
static const char *const periods[] = {"day", "month", "total"};

static void limit_fields(struct tenant_limits *l, int64_t *out[N_LIMITS])
{
    int64_t *const all[N_LIMITS] = {
        &l->requests_per_minute, &l->tokens_per_minute, &l->max_concurrent, &l->loads_per_minute,
        &l->resident_bytes,      &l->host_bytes,        &l->budget_tokens};
    memcpy(out, all, sizeof all);
}

static void reply_limits(struct call *c, struct tenant *who)
{
    struct tenant_limits l;
    int64_t *fields[N_LIMITS], used;
    json_t *o =
        json_pack("{s:s, s:s}", "object", "organization.project.limits", "project_id", who->id);
    used = tenant_budget_used(who, &l);
    limit_fields(&l, fields);
    for (int i = 0; i < N_LIMITS; i++)
        json_object_set_new(o, limit_names[i], admin_time(*fields[i]));
    json_object_set_new(o, "budget_period", json_string(periods[l.budget_period]));
    json_object_set_new(o, "budget_used_tokens", json_integer(used));
    reply_json(c, 200, o);
}

/* A number, or null for no limit; what is absent stays. */
static bool read_limit(struct call *c, const char *name, int64_t *out)
{
    struct lodge_error e = {0};
    const json_t *v = json_object_get(c->json, name);
    if (json_is_null(v))
        *out = 0;
    if (!lodge_json_get_int(c->json, name, 1, MAX_LIMIT, out, &e))
        return true;
    admin_bad(c, name, "%s (null: no limit)", e.text);
    return false;
}

static bool read_period(struct call *c, struct tenant_limits *l)
{
    const json_t *v = lodge_json_member(c->json, "budget_period");
    for (int i = 0; json_is_string(v) && i < 3; i++)
        if (strcmp(json_string_value(v), periods[i]) == 0) {
            l->budget_period = (enum budget_period)i;
            return true;
        }
    if (v)
        admin_bad(c, "budget_period", "'budget_period' must be one of day, month, total");
    return !v;
}

static void set_limits(struct call *c, struct tenant *who)
{
    struct tenant_limits l;
    int64_t *fields[N_LIMITS];
    struct lodge_error e = {0};
    if (!admin_body(c, "requests_per_minute tokens_per_minute max_concurrent loads_per_minute "
                       "resident_bytes host_bytes budget_tokens budget_period"))
        return;
    tenant_get_limits(who, &l);
    limit_fields(&l, fields);
    for (int i = 0; i < N_LIMITS; i++)
        if (!read_limit(c, limit_names[i], fields[i]))
            return;
    if (!read_period(c, &l))
        return;
    if (tenants_set_limits(&c->server->tenants, who, &l, &e))
        admin_failed(c, &e);
    else
        reply_limits(c, who);
}

void admin_limits(struct call *c)
{
    struct admin_path at;
    admin_path(c, &at);
    bool post = strcmp(c->method, "POST") == 0;
    struct tenant *who = post ? admin_active_project(c, at.id) : admin_project(c, at.id);
    if (who && post)
        set_limits(c, who);
    else if (who)
        reply_limits(c, who);
}
