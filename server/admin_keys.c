/* Keys of a project. */
#include "server/admin.h"

#include "base/clock.h"
#include "base/json.h"

#include <stdlib.h>
#include <string.h>

#define MAX_OVERLAP_S (366 * 86400)
#define MAX_TIME ((int64_t)1 << 40)

/* The caller holds tenants.lock. */
static json_t *key_json(struct tenant_key *k)
{
    json_t *models = k->models ? json_array() : json_null();
    for (uint32_t i = 0; i < k->n_models; i++)
        json_array_append_new(models, json_string(k->models[i]));
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:o, s:I, s:o, s:o}", "id", k->id, "object",
                     "organization.project.api_key", "project_id", k->tenant->id, "name", k->name,
                     "redacted_value", k->redacted, "models", models, "created_at",
                     (json_int_t)k->created_at, "last_used_at",
                     admin_time(atomic_load(&k->last_used_at)), "expires_at",
                     admin_time(k->expires_at));
}

/* With its value, which is NULL when the key is not new. */
static void reply_key(struct call *c, struct tenant_key *k, const char *value)
{
    struct tenants *t = &c->server->tenants;
    pthread_rwlock_rdlock(&t->lock);
    json_t *o = key_json(k);
    pthread_rwlock_unlock(&t->lock);
    if (value)
        json_object_set_new(o, "value", json_string(value));
    reply_json(c, 200, o);
}

static bool is_over(const struct tenant_key *k, int64_t now)
{
    return k->revoked || (k->expires_at && k->expires_at <= now);
}

static void list_keys(struct call *c, const struct tenant *who)
{
    struct tenants *t = &c->server->tenants;
    struct admin_list l;
    int64_t now = (int64_t)lodge_unix_time();
    if (!admin_list_begin(c, &l, ""))
        return;
    pthread_rwlock_rdlock(&t->lock);
    for (uint32_t i = 0; i < t->n_keys; i++) {
        struct tenant_key *k = t->keys[i];
        if (k->tenant == who && !is_over(k, now) && admin_list_wants(&l, k->id))
            admin_list_add(&l, key_json(k));
    }
    pthread_rwlock_unlock(&t->lock);
    admin_list_reply(c, &l);
}

/* A list of names as text in *out, which the caller frees; NULL for all. False: replied. */
static bool read_models(struct call *c, char **out)
{
    const json_t *list = lodge_json_member(c->json, "models");
    size_t n = json_array_size(list);
    bool ok = !list || (json_is_array(list) && n && n <= TENANT_MAX_MODELS);
    for (size_t i = 0; ok && i < n; i++) {
        const char *name = json_string_value(json_array_get(list, i));
        ok = name && *name && strlen(name) < MODEL_MAX_BYTES;
    }
    if (!ok) {
        admin_bad(c, "models",
                  "'models' must be a list of 1 to %u names of models, or null for all of them",
                  TENANT_MAX_MODELS);
        return false;
    }
    *out = list ? json_dumps(list, JSON_COMPACT) : NULL;
    return true;
}

static void create_key(struct call *c, struct tenant *who)
{
    const char *name;
    char *models = NULL, value[KEY_LENGTH + 1];
    int64_t expires = 0, now = (int64_t)lodge_unix_time();
    struct tenant_key *k;
    struct lodge_error e = {0};
    if (!admin_body(c, "name models expires_at") || !admin_name(c, "name", false, &name))
        return;
    if (lodge_json_get_int(c->json, "expires_at", now + 1, MAX_TIME, &expires, &e)) {
        admin_bad(c, "expires_at", "%s (unix seconds, in the future)", e.text);
        return;
    }
    if (!read_models(c, &models))
        return;
    if (tenants_create_key(&c->server->tenants, who, name ? name : "", models, expires, value, &k,
                           &e))
        admin_failed(c, &e);
    else
        reply_key(c, k, value);
    free(models);
    explicit_bzero(value, sizeof value);
}

void admin_keys(struct call *c)
{
    struct admin_path at;
    admin_path(c, &at);
    bool post = strcmp(c->method, "POST") == 0;
    struct tenant *who = post ? admin_active_project(c, at.id) : admin_project(c, at.id);
    if (who && post)
        create_key(c, who);
    else if (who)
        list_keys(c, who);
}

/* The key of the path; NULL when c->reply says that there is none. */
static struct tenant_key *find_key(struct call *c)
{
    struct admin_path at;
    admin_path(c, &at);
    struct tenant *who = admin_project(c, at.id);
    struct tenant_key *k = who ? tenants_find_key(&c->server->tenants, who, at.key) : NULL;
    if (who && !k)
        reply_error(c, 404, "not_found_error", NULL, "key_not_found",
                    "this project has no key '%s'", at.key);
    return k;
}

void admin_one_key(struct call *c)
{
    struct lodge_error e = {0};
    struct tenant_key *k = find_key(c);
    if (!k)
        return;
    if (strcmp(c->method, "DELETE") != 0)
        reply_key(c, k, NULL);
    else if (tenants_revoke_key(&c->server->tenants, k, &e))
        admin_failed(c, &e);
    else
        reply_json(c, 200,
                   json_pack("{s:s, s:s, s:b}", "object", "organization.project.api_key.deleted",
                             "id", k->id, "deleted", 1));
}

void admin_rotate(struct call *c)
{
    char value[KEY_LENGTH + 1];
    int64_t overlap = 0;
    struct lodge_error e = {0};
    struct tenant_key *fresh, *k = find_key(c);
    if (!k || !admin_active_project(c, k->tenant->id) || !admin_body(c, "overlap_seconds"))
        return;
    if (lodge_json_get_int(c->json, "overlap_seconds", 0, MAX_OVERLAP_S, &overlap, &e))
        admin_bad(c, "overlap_seconds", "%s", e.text);
    else if (tenants_rotate_key(&c->server->tenants, k, overlap, value, &fresh, &e))
        admin_failed(c, &e);
    else
        reply_key(c, fresh, value);
    explicit_bzero(value, sizeof value);
}
