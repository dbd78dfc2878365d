/* Changes of tenants, keys, limits and adapters: into the store, then into memory. */
#include "server/tenants.h"

#include "base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int64_t now_s(void)
{
    return (int64_t)lodge_unix_time();
}

static int no_memory(struct lodge_error *e)
{
    return lodge_fail(e, LODGE_ERR_NOMEM, "no memory for the change");
}

/* ---- projects ---- */

static int put_project(struct store *s, void *arg, struct lodge_error *e)
{
    return store_put_project(s, arg, e);
}

static bool name_taken(struct tenants *t, const char *name, const struct tenant *except)
{
    bool taken = false;
    pthread_rwlock_rdlock(&t->lock);
    for (uint32_t i = 0; i < t->n_tenants && !taken; i++)
        taken =
            t->all[i] != except && !t->all[i]->archived_at && strcmp(t->all[i]->name, name) == 0;
    pthread_rwlock_unlock(&t->lock);
    return taken;
}

static int check_name(struct tenants *t, const char *name, const struct tenant *except,
                      struct lodge_error *e)
{
    return name && name_taken(t, name, except)
               ? lodge_fail(e, LODGE_ERR_FULL, "there is a project '%s' already", name)
               : 0;
}

static int create(struct tenants *t, const struct tenant_fields *f, struct tenant **out,
                  struct lodge_error *e)
{
    char id[ID_MAX];
    struct store_project p = {.id = id,
                              .name = f->name,
                              .metadata = f->metadata ? f->metadata : "{}",
                              .tier = f->tier < 0 ? 0 : (uint32_t)f->tier,
                              .weight = f->weight < 0 ? 1 : f->weight,
                              .created_at = now_s()};
    id_make("proj_", id);
    int err = check_name(t, f->name, NULL, e);
    if (!err)
        err = ledger_change(&t->ledger, put_project, &p, e);
    if (err)
        return err;
    pthread_rwlock_wrlock(&t->lock);
    err = tenants_add(t, &p, out);
    pthread_rwlock_unlock(&t->lock);
    return err ? no_memory(e) : 0;
}

int tenants_create(struct tenants *t, const struct tenant_fields *f, struct tenant **out,
                   struct lodge_error *e)
{
    pthread_mutex_lock(&t->change);
    int err = create(t, f, out, e);
    pthread_mutex_unlock(&t->change);
    return err;
}

/* Under `change` the tables change no more, so they may be read without their lock. */
static struct store_project record_of(const struct tenant *who)
{
    return (struct store_project){.number = who->number,
                                  .id = who->id,
                                  .name = who->name,
                                  .metadata = who->metadata,
                                  .tier = who->tier,
                                  .weight = who->weight,
                                  .created_at = who->created_at,
                                  .archived_at = who->archived_at};
}

static int update(struct tenants *t, struct tenant *who, const struct tenant_fields *f,
                  struct lodge_error *e)
{
    struct store_project p = record_of(who);
    char *metadata = f->metadata ? strdup(f->metadata) : NULL;
    p.name = f->name ? f->name : p.name;
    p.metadata = metadata ? metadata : p.metadata;
    p.tier = f->tier < 0 ? p.tier : (uint32_t)f->tier;
    p.weight = f->weight < 0 ? p.weight : f->weight;
    int err = f->metadata && !metadata ? no_memory(e) : check_name(t, f->name, who, e);
    if (!err)
        err = ledger_change(&t->ledger, put_project, &p, e);
    if (err) {
        free(metadata);
        return err;
    }
    pthread_rwlock_wrlock(&t->lock);
    if (f->name)
        snprintf(who->name, sizeof who->name, "%s", f->name);
    if (metadata) {
        free(who->metadata);
        who->metadata = metadata;
    }
    who->tier = p.tier;
    who->weight = p.weight;
    pthread_rwlock_unlock(&t->lock);
    return 0;
}

int tenants_update(struct tenants *t, struct tenant *who, const struct tenant_fields *f,
                   struct lodge_error *e)
{
    pthread_mutex_lock(&t->change);
    int err = update(t, who, f, e);
    pthread_mutex_unlock(&t->change);
    return err;
}

int tenants_archive(struct tenants *t, struct tenant *who, struct lodge_error *e)
{
    pthread_mutex_lock(&t->change);
    struct store_project p = record_of(who);
    p.archived_at = p.archived_at ? p.archived_at : now_s();
    int err = ledger_change(&t->ledger, put_project, &p, e);
    if (!err) {
        pthread_rwlock_wrlock(&t->lock);
        who->archived_at = p.archived_at;
        pthread_rwlock_unlock(&t->lock);
    }
    pthread_mutex_unlock(&t->change);
    return err;
}

/* ---- limits ---- */

struct limits_change {
    uint64_t project;
    const struct tenant_limits *limits;
};

static int put_limits(struct store *s, void *arg, struct lodge_error *e)
{
    const struct limits_change *c = arg;
    return store_put_limits(s, c->project, c->limits, e);
}

int tenants_set_limits(struct tenants *t, struct tenant *who, const struct tenant_limits *l,
                       struct lodge_error *e)
{
    struct limits_change c = {who->number, l};
    pthread_mutex_lock(&t->change);
    int err = ledger_change(&t->ledger, put_limits, &c, e);
    if (!err)
        tenant_apply_limits(who, l, lodge_now_ns());
    pthread_mutex_unlock(&t->change);
    return err;
}

/* ---- keys ---- */

/* The old one first, when there is one: both or none. */
struct key_change {
    struct store_key old, fresh;
};

static int put_keys(struct store *s, void *arg, struct lodge_error *e)
{
    const struct key_change *c = arg;
    int err = c->old.id ? store_put_key(s, &c->old, e) : 0;
    return err || !c->fresh.id ? err : store_put_key(s, &c->fresh, e);
}

static char *models_text(const struct tenant_key *k)
{
    if (!k->models)
        return NULL;
    json_t *list = json_array();
    for (uint32_t i = 0; i < k->n_models; i++)
        json_array_append_new(list, json_string(k->models[i]));
    char *text = json_dumps(list, JSON_COMPACT);
    json_decref(list);
    return text;
}

static struct store_key record_of_key(struct tenant_key *k, const char *models)
{
    return (struct store_key){.project = k->tenant->number,
                              .id = k->id,
                              .name = k->name,
                              .redacted = k->redacted,
                              .models = models,
                              .digest = k->digest,
                              .created_at = k->created_at,
                              .expires_at = k->expires_at,
                              .last_used_at = atomic_load(&k->last_used_at),
                              .revoked = k->revoked};
}

/* Makes the key's value and the rest of its record; then stores both keys of the change. */
static int make_key(struct tenants *t, struct key_change *c, char value[KEY_LENGTH + 1],
                    struct tenant_key **out, struct lodge_error *e)
{
    char id[ID_MAX], redacted[ID_MAX];
    key_make(value);
    id_make("key_", id);
    key_redact(value, redacted);
    lodge_sha256(value, KEY_LENGTH, &c->fresh.digest);
    c->fresh.id = id;
    c->fresh.redacted = redacted;
    c->fresh.created_at = now_s();
    int err = ledger_change(&t->ledger, put_keys, c, e);
    if (err)
        return err;
    pthread_rwlock_wrlock(&t->lock);
    err = tenants_add_key(t, &c->fresh, out);
    pthread_rwlock_unlock(&t->lock);
    return err ? no_memory(e) : 0;
}

int tenants_create_key(struct tenants *t, struct tenant *who, const char *name, const char *models,
                       int64_t expires_at, char value[KEY_LENGTH + 1], struct tenant_key **out,
                       struct lodge_error *e)
{
    struct key_change c = {
        .fresh = {
            .project = who->number, .name = name, .models = models, .expires_at = expires_at}};
    pthread_mutex_lock(&t->change);
    int err = make_key(t, &c, value, out, e);
    pthread_mutex_unlock(&t->change);
    return err;
}

struct tenant_key *tenants_find_key(struct tenants *t, const struct tenant *who, const char *id)
{
    struct tenant_key *found = NULL;
    pthread_rwlock_rdlock(&t->lock);
    for (uint32_t i = 0; i < t->n_keys && !found; i++)
        if (t->keys[i]->tenant == who && !t->keys[i]->revoked && strcmp(t->keys[i]->id, id) == 0)
            found = t->keys[i];
    pthread_rwlock_unlock(&t->lock);
    return found;
}

static void set_key_end(struct tenants *t, struct tenant_key *k, bool revoked, int64_t expires_at)
{
    pthread_rwlock_wrlock(&t->lock);
    k->revoked |= revoked;
    k->expires_at = expires_at;
    pthread_rwlock_unlock(&t->lock);
}

int tenants_revoke_key(struct tenants *t, struct tenant_key *k, struct lodge_error *e)
{
    pthread_mutex_lock(&t->change);
    char *models = models_text(k);
    struct key_change c = {.old = record_of_key(k, models)};
    c.old.revoked = true;
    int err = ledger_change(&t->ledger, put_keys, &c, e);
    if (!err)
        set_key_end(t, k, true, k->expires_at);
    free(models);
    pthread_mutex_unlock(&t->change);
    return err;
}

int tenants_rotate_key(struct tenants *t, struct tenant_key *k, int64_t overlap_s,
                       char value[KEY_LENGTH + 1], struct tenant_key **out, struct lodge_error *e)
{
    pthread_mutex_lock(&t->change);
    char *models = models_text(k);
    struct key_change c = {.old = record_of_key(k, models), .fresh = record_of_key(k, models)};
    int64_t end = now_s() + overlap_s;
    c.fresh.last_used_at = 0;
    c.old.expires_at = !k->expires_at || end < k->expires_at ? end : k->expires_at;
    c.old.revoked = !overlap_s;
    int err = make_key(t, &c, value, out, e);
    if (!err)
        set_key_end(t, k, !overlap_s, c.old.expires_at);
    free(models);
    pthread_mutex_unlock(&t->change);
    return err;
}

/* ---- adapters ---- */

struct adapter_change {
    struct store_adapter a;
    uint64_t with;
};

static int put_adapter(struct store *s, void *arg, struct lodge_error *e)
{
    const struct adapter_change *c = arg;
    return store_put_adapter(s, &c->a, e);
}

static int delete_adapter(struct store *s, void *arg, struct lodge_error *e)
{
    const struct adapter_change *c = arg;
    return store_delete_adapter(s, c->a.project, c->a.name, e);
}

static int put_share(struct store *s, void *arg, struct lodge_error *e)
{
    const struct adapter_change *c = arg;
    return store_put_share(s, c->a.project, c->a.name, c->with, e);
}

/* Out of the list, but readable for whoever looks at it. */
static void unlist_adapter(struct tenants *t, struct tenant *who, struct tenant_adapter *a)
{
    struct tenant_adapter **at = &who->adapters;
    while (*at != a)
        at = &(*at)->next;
    *at = a->next;
    a->next = t->deleted;
    t->deleted = a;
}

/* In memory, what the store has taken; who shared in the old one shares in the new one. */
static int take_adapter(struct tenants *t, struct tenant *who, const struct store_adapter *a,
                        struct tenant_adapter *old)
{
    pthread_rwlock_wrlock(&t->lock);
    if (old)
        unlist_adapter(t, who, old);
    int err = tenants_add_adapter(t, a);
    for (uint32_t i = 0; old && i < old->n_shares && !err; i++)
        err = tenants_add_share(t, who->number, a->name, old->shares[i]);
    pthread_rwlock_unlock(&t->lock);
    return err;
}

int tenants_put_adapter(struct tenants *t, struct tenant *who, const char *name, const char *path,
                        const char *digest, bool replace, struct lodge_error *e)
{
    struct adapter_change c = {.a = {who->number, name, path, digest, now_s()}};
    pthread_mutex_lock(&t->change);
    struct tenant_adapter *old = tenants_find_adapter(t, who, name);
    int err = old && !replace
                  ? lodge_fail(e, LODGE_ERR_FULL, "there is an adapter '%s' already", name)
                  : ledger_change(&t->ledger, put_adapter, &c, e);
    if (!err && take_adapter(t, who, &c.a, old))
        err = no_memory(e);
    pthread_mutex_unlock(&t->change);
    return err;
}

static int no_adapter(const char *name, struct lodge_error *e)
{
    return lodge_fail(e, LODGE_ERR_NOT_FOUND, "this project has no adapter '%s'", name);
}

int tenants_delete_adapter(struct tenants *t, struct tenant *who, const char *name,
                           struct lodge_error *e)
{
    struct adapter_change c = {.a = {.project = who->number, .name = name}};
    pthread_mutex_lock(&t->change);
    struct tenant_adapter *a = tenants_find_adapter(t, who, name);
    int err = a ? ledger_change(&t->ledger, delete_adapter, &c, e) : no_adapter(name, e);
    if (!err) {
        pthread_rwlock_wrlock(&t->lock);
        unlist_adapter(t, who, a);
        pthread_rwlock_unlock(&t->lock);
    }
    pthread_mutex_unlock(&t->change);
    return err;
}

/* Has `with` an adapter of this name, its own or one that somebody else than `who` shares? Under
 * `change`. */
static bool may_name(const struct tenants *t, const struct tenant *who, const struct tenant *with,
                     const char *name)
{
    bool may = false;
    for (uint32_t i = 0; i < t->n_tenants; i++)
        for (const struct tenant_adapter *a = t->all[i]->adapters; a; a = a->next) {
            if (t->all[i] == who || strcmp(a->name, name) != 0)
                continue;
            may |= t->all[i] == with;
            for (uint32_t k = 0; k < a->n_shares; k++)
                may |= a->shares[k] == with->number;
        }
    return may;
}

int tenants_share_adapter(struct tenants *t, struct tenant *who, const char *name,
                          const struct tenant *with, struct lodge_error *e)
{
    struct adapter_change c = {.a = {.project = who->number, .name = name}, .with = with->number};
    pthread_mutex_lock(&t->change);
    int err = 0;
    if (!tenants_find_adapter(t, who, name))
        err = no_adapter(name, e);
    else if (may_name(t, who, with, name))
        err = lodge_fail(e, LODGE_ERR_FULL,
                         "project '%s' has an adapter '%s' already, its own or a shared one; share "
                         "it under another name",
                         with->name, name);
    else
        err = ledger_change(&t->ledger, put_share, &c, e);
    if (!err) {
        pthread_rwlock_wrlock(&t->lock);
        err = tenants_add_share(t, who->number, name, with->number) ? no_memory(e) : 0;
        pthread_rwlock_unlock(&t->lock);
    }
    pthread_mutex_unlock(&t->change);
    return err;
}
