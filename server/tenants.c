/* The tables of tenants and keys, and authentication. */
#include "server/tenants.h"

#include "base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- tables ---- */

/* A list grows by doubling: its room is the power of two at or above its length. */
static int push(void *list_at, uint32_t n, void *item)
{
    void ***list = list_at;
    if (!n || (n & (n - 1)) == 0) {
        void **more = realloc(*list, (n ? 2 * (size_t)n : 1) * sizeof *more);
        if (!more)
            return LODGE_ERR_NOMEM;
        *list = more;
    }
    (*list)[n] = item;
    return 0;
}

static void set_text(char *out, size_t room, const char *text)
{
    snprintf(out, room, "%s", text);
}

struct tenant *tenants_number(struct tenants *t, uint64_t number)
{
    for (uint32_t lo = 0, hi = t->n_tenants; lo < hi;) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (t->all[mid]->number == number)
            return t->all[mid];
        if (t->all[mid]->number < number)
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}

struct tenant *tenants_find(struct tenants *t, const char *id)
{
    struct tenant *found = NULL;
    pthread_rwlock_rdlock(&t->lock);
    for (uint32_t i = 0; i < t->n_tenants && !found; i++)
        if (strcmp(t->all[i]->id, id) == 0)
            found = t->all[i];
    pthread_rwlock_unlock(&t->lock);
    return found;
}

int tenants_add(struct tenants *t, const struct store_project *p, struct tenant **out)
{
    struct tenant *n = calloc(1, sizeof *n);
    if (!n)
        return LODGE_ERR_NOMEM;
    pthread_mutex_init(&n->lock, NULL);
    n->number = p->number;
    set_text(n->id, sizeof n->id, p->id);
    set_text(n->name, sizeof n->name, p->name);
    n->metadata = strdup(p->metadata);
    n->tier = p->tier;
    n->weight = p->weight;
    n->created_at = p->created_at;
    n->archived_at = p->archived_at;
    n->day = tenant_today();
    n->limits.budget_period = BUDGET_MONTH;
    if (t->has_store) {
        struct lodge_digest secret;
        store_secret(t->ledger.store, &secret);
        lodge_keyed_hash(&secret, "tenant", 6, n->id, strlen(n->id), &n->salt);
    }
    if (!n->metadata || push(&t->all, t->n_tenants, n)) {
        free(n->metadata);
        free(n);
        return LODGE_ERR_NOMEM;
    }
    t->n_tenants++;
    if (out)
        *out = n;
    return 0;
}

static void table_put(struct tenants *t, struct tenant_key *k)
{
    uint64_t at;
    memcpy(&at, &k->digest, sizeof at);
    while (t->table[at & t->table_mask])
        at++;
    t->table[at & t->table_mask] = k;
}

/* At most half full. */
static int table_grow(struct tenants *t)
{
    if (t->table && (t->n_keys + 1) * 2 <= t->table_mask + 1)
        return 0;
    uint32_t room = t->table ? (t->table_mask + 1) * 2 : 64;
    struct tenant_key **table = calloc(room, sizeof *table);
    if (!table)
        return LODGE_ERR_NOMEM;
    free(t->table);
    t->table = table;
    t->table_mask = room - 1;
    for (uint32_t i = 0; i < t->n_keys; i++)
        table_put(t, t->keys[i]);
    return 0;
}

static void key_free(struct tenant_key *k)
{
    for (uint32_t i = 0; i < k->n_models; i++)
        free(k->models[i]);
    free(k->models);
    free(k);
}

static int read_models(struct tenant_key *k, const char *text)
{
    json_t *list = text ? json_loads(text, 0, NULL) : NULL;
    size_t n = json_array_size(list);
    if (text && (!json_is_array(list) || n > TENANT_MAX_MODELS)) {
        json_decref(list);
        return LODGE_ERR_FORMAT;
    }
    int err = 0;
    if (text)
        k->models = calloc(n + 1, sizeof *k->models);
    for (size_t i = 0; k->models && i < n && !err; i++) {
        const char *name = json_string_value(json_array_get(list, i));
        k->models[i] = name ? strdup(name) : NULL;
        k->n_models += k->models[i] != NULL;
        err = k->models[i] ? 0 : LODGE_ERR_FORMAT;
    }
    json_decref(list);
    return text && !k->models ? LODGE_ERR_NOMEM : err;
}

int tenants_add_key(struct tenants *t, const struct store_key *k, struct tenant_key **out)
{
    struct tenant *owner = tenants_number(t, k->project);
    struct tenant_key *n = owner ? calloc(1, sizeof *n) : NULL;
    if (!n)
        return owner ? LODGE_ERR_NOMEM : LODGE_ERR_FORMAT;
    n->tenant = owner;
    n->digest = k->digest;
    n->created_at = k->created_at;
    n->expires_at = k->expires_at;
    atomic_store(&n->last_used_at, k->last_used_at);
    set_text(n->id, sizeof n->id, k->id);
    set_text(n->name, sizeof n->name, k->name);
    set_text(n->redacted, sizeof n->redacted, k->redacted);
    int err = read_models(n, k->models);
    if (!err)
        err = table_grow(t);
    if (!err)
        err = push(&t->keys, t->n_keys, n);
    if (err) {
        key_free(n);
        return err;
    }
    t->n_keys++;
    table_put(t, n);
    if (out)
        *out = n;
    return 0;
}

static void adapter_free(struct tenant_adapter *a)
{
    free(a->path);
    free(a->shares);
    free(a);
}

int tenants_add_adapter(struct tenants *t, const struct store_adapter *a)
{
    struct tenant *owner = tenants_number(t, a->project);
    struct tenant_adapter *n = owner ? calloc(1, sizeof *n) : NULL;
    if (!n)
        return owner ? LODGE_ERR_NOMEM : LODGE_ERR_FORMAT;
    set_text(n->name, sizeof n->name, a->name);
    set_text(n->digest, sizeof n->digest, a->digest ? a->digest : "");
    n->created_at = a->created_at;
    n->path = strdup(a->path);
    if (!n->path) {
        free(n);
        return LODGE_ERR_NOMEM;
    }
    struct tenant_adapter **end = &owner->adapters;
    while (*end)
        end = &(*end)->next;
    *end = n;
    return 0;
}

static struct tenant_adapter *find_adapter(const struct tenant *who, const char *name)
{
    for (struct tenant_adapter *a = who->adapters; a; a = a->next)
        if (strcmp(a->name, name) == 0)
            return a;
    return NULL;
}

struct tenant_adapter *tenants_find_adapter(struct tenants *t, const struct tenant *who,
                                            const char *name)
{
    pthread_rwlock_rdlock(&t->lock);
    struct tenant_adapter *a = find_adapter(who, name);
    pthread_rwlock_unlock(&t->lock);
    return a;
}

int tenants_add_share(struct tenants *t, uint64_t owner, const char *adapter, uint64_t with)
{
    struct tenant *who = tenants_number(t, owner);
    struct tenant_adapter *a = who ? find_adapter(who, adapter) : NULL;
    if (!a || !tenants_number(t, with))
        return LODGE_ERR_FORMAT;
    for (uint32_t i = 0; i < a->n_shares; i++)
        if (a->shares[i] == with)
            return 0;
    uint64_t *more = realloc(a->shares, (a->n_shares + 1) * sizeof *more);
    if (!more)
        return LODGE_ERR_NOMEM;
    a->shares = more;
    a->shares[a->n_shares++] = with;
    return 0;
}

/* ---- opening ---- */

static int visit_project(void *cookie, const struct store_project *p)
{
    return tenants_add(cookie, p, NULL);
}

static int visit_key(void *cookie, const struct store_key *k)
{
    return tenants_add_key(cookie, k, NULL);
}

static int visit_limits(void *cookie, uint64_t project, const struct tenant_limits *l)
{
    struct tenant *who = tenants_number(cookie, project);
    if (who)
        tenant_apply_limits(who, l, lodge_now_ns());
    return who ? 0 : LODGE_ERR_FORMAT;
}

static int visit_adapter(void *cookie, const struct store_adapter *a)
{
    return tenants_add_adapter(cookie, a);
}

static int visit_share(void *cookie, uint64_t owner, const char *adapter, uint64_t with)
{
    return tenants_add_share(cookie, owner, adapter, with);
}

static int visit_consumption(void *cookie, uint64_t project, int64_t day, int64_t tokens)
{
    struct tenant *who = tenants_number(cookie, project);
    if (who)
        tenant_add_used(who, day, tokens, tenant_today());
    return who ? 0 : LODGE_ERR_FORMAT;
}

int tenants_open(struct tenants *t, const char *path, uint32_t n_live, struct lodge_log *log,
                 struct lodge_error *e)
{
    static const struct store_project alone = {.number = DEFAULT_TENANT,
                                               .id = "proj_default",
                                               .name = "default",
                                               .metadata = "{}",
                                               .weight = 1};
    *t = (struct tenants){.has_store = path != NULL};
    pthread_mutex_init(&t->change, NULL);
    /* A change must not wait for a pause between requests. */
    pthread_rwlockattr_t writers_first;
    pthread_rwlockattr_init(&writers_first);
    pthread_rwlockattr_setkind_np(&writers_first, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(&t->lock, &writers_first);
    pthread_rwlockattr_destroy(&writers_first);
    if (!path)
        return tenants_add(t, &alone, NULL)
                   ? lodge_fail(e, LODGE_ERR_NOMEM, "no memory for the tenants")
                   : 0;
    int err = ledger_open(&t->ledger, path, n_live, log, e);
    const struct store_visitor v = {.project = visit_project,
                                    .key = visit_key,
                                    .limits = visit_limits,
                                    .adapter = visit_adapter,
                                    .share = visit_share,
                                    .consumption = visit_consumption,
                                    .cookie = t};
    if (!err)
        err = store_load(t->ledger.store, &v, e);
    if (!err && !tenants_number(t, DEFAULT_TENANT))
        err = lodge_fail(e, LODGE_ERR_FORMAT, "--store %s: it has no project 'default'", path);
    return err;
}

static void free_adapters(struct tenant_adapter *a)
{
    for (struct tenant_adapter *next; a; a = next) {
        next = a->next;
        adapter_free(a);
    }
}

void tenants_close(struct tenants *t)
{
    ledger_stop(&t->ledger);
    ledger_close(&t->ledger);
    for (uint32_t i = 0; i < t->n_keys; i++)
        key_free(t->keys[i]);
    for (uint32_t i = 0; i < t->n_tenants; i++) {
        free_adapters(t->all[i]->adapters);
        pthread_mutex_destroy(&t->all[i]->lock);
        free(t->all[i]->metadata);
        free(t->all[i]);
    }
    free_adapters(t->deleted);
    free(t->keys);
    free(t->all);
    free(t->table);
    pthread_rwlock_destroy(&t->lock);
    pthread_mutex_destroy(&t->change);
    *t = (struct tenants){0};
}

/* ---- authentication ---- */

/* The caller holds the lock. */
static void fill(struct principal *p, struct tenant *who, const struct tenant_key *k)
{
    *p = (struct principal){.tenant = who,
                            .key = k,
                            .salt = who->salt,
                            .tier = who->tier,
                            .weight = (float)who->weight};
}

void tenants_default(struct tenants *t, struct principal *out)
{
    pthread_rwlock_rdlock(&t->lock);
    fill(out, tenants_number(t, DEFAULT_TENANT), NULL);
    pthread_rwlock_unlock(&t->lock);
}

/* The table is searched by the digest's first bytes, which tell nothing of a key; the digest itself
 * is compared in constant time. */
static struct tenant_key *lookup(struct tenants *t, const struct lodge_digest *d)
{
    uint64_t at;
    struct tenant_key *found = NULL;
    memcpy(&at, d, sizeof at);
    for (; t->table && t->table[at & t->table_mask]; at++)
        if (lodge_equal_secret(&t->table[at & t->table_mask]->digest, d, sizeof *d))
            found = t->table[at & t->table_mask];
    return found;
}

bool tenants_authenticate(struct tenants *t, const char *key, size_t n, struct principal *out)
{
    struct lodge_digest d;
    int64_t now = (int64_t)lodge_unix_time();
    if (!t->has_store || !key_well_formed(key, n))
        return false;
    lodge_sha256(key, n, &d);
    pthread_rwlock_rdlock(&t->lock);
    struct tenant_key *k = lookup(t, &d);
    bool ok =
        k && !k->revoked && !k->tenant->archived_at && (!k->expires_at || k->expires_at > now);
    if (ok) {
        fill(out, k->tenant, k);
        atomic_store_explicit(&k->last_used_at, now, memory_order_relaxed);
    }
    pthread_rwlock_unlock(&t->lock);
    return ok;
}

bool principal_may_use(const struct principal *p, const char *model)
{
    if (!p->key || !p->key->models)
        return true;
    for (uint32_t i = 0; i < p->key->n_models; i++)
        if (strcmp(p->key->models[i], model) == 0)
            return true;
    return false;
}

const char *principal_key_id(const struct principal *p)
{
    return p->key ? p->key->id : "key_config";
}
