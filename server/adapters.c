#include "server/adapters.h"

#include "base/clock.h"
#include "base/json.h"
#include "server/adapter_table.h"
#include "server/server.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool is_base(const struct server *s, const char *name)
{
    for (uint32_t i = 0; i < s->n_names; i++)
        if (strcmp(s->names[i], name) == 0)
            return true;
    return false;
}

static int check_name(const struct server *s, const char *name, struct lodge_error *e)
{
    size_t n = strlen(name);
    bool clean = n && n <= ADAPTER_NAME_MAX;
    for (size_t i = 0; i < n && clean; i++)
        clean = (unsigned char)name[i] > ' ' && name[i] != 127 && name[i] != ',';
    if (!clean)
        return lodge_fail(e, LODGE_ERR_INVALID,
                          "adapter names have 1 to %u characters, without spaces, commas and "
                          "control characters",
                          ADAPTER_NAME_MAX);
    if (is_base(s, name))
        return lodge_fail(e, LODGE_ERR_INVALID, "'%s' is the name of the base model", name);
    return 0;
}

/* ---- reading ---- */

static const struct lodge_digest *scope_of(struct server *s, uint64_t owner)
{
    static const struct lodge_digest published;
    const struct tenant *t = owner ? tenants_number(&s->tenants, owner) : NULL;
    return t ? &t->salt : &published;
}

/* "name" or "name.gguf" of the directory. */
static int locate(const struct adapter_names *a, const char *name, int *fd, char path[64],
                  struct lodge_error *e)
{
    char file[ADAPTER_NAME_MAX + 8];
    if (!a->has_dir)
        return LODGE_ERR_NOT_FOUND;
    int err = lodge_engine_adapter_locate(a->dir_fd, name, fd, path, e);
    if (err && snprintf(file, sizeof file, "%s.gguf", name) < (int)sizeof file)
        err = lodge_engine_adapter_locate(a->dir_fd, file, fd, path, e);
    return err;
}

static bool in_dir(const struct adapter_names *a, const char *name)
{
    char path[64];
    int fd = -1;
    if (locate(a, name, &fd, path, NULL))
        return false;
    close(fd);
    return true;
}

/* The version at n->path, checked against what it must be. */
static int read_version(struct server *s, const struct adapter_name *n,
                        struct lodge_adapter_version **out, struct lodge_error *e)
{
    struct adapter_names *a = &s->adapters;
    char link[64], hex[65];
    int fd = -1;
    int err = n->in_dir ? locate(a, n->path, &fd, link, e) : 0;
    if (!err)
        err = lodge_engine_adapter_open(a->engine, n->in_dir ? link : n->path, fd, n->name,
                                        scope_of(s, n->owner), out, e);
    if (err)
        return err;
    const struct lodge_adapter_version_info *info = lodge_adapter_version_info(*out);
    lodge_digest_hex(&info->digest, hex);
    if (*n->digest && strcmp(hex, n->digest) != 0) {
        lodge_adapter_version_unref(*out);
        *out = NULL;
        return lodge_fail(e, LODGE_ERR_ADAPTER_LOST,
                          "the files of adapter '%.200s' have changed since it was registered; "
                          "register it again",
                          n->name);
    }
    if (*info->warning)
        lodge_log_text(s->log, LODGE_LOG_WARN, "adapters", "%s: %s", n->name, info->warning);
    return 0;
}

/* ---- limits ---- */

static int take_load(const struct principal *p, struct lodge_error *e)
{
    struct throttled why;
    if (tenant_take_load(p->tenant, lodge_now_ns(), &why))
        return 0;
    return lodge_fail(e, LODGE_ERR_THROTTLED,
                      "the project's limit is reached: adapter loads per minute: limit %lld; try "
                      "again in %.3g s",
                      (long long)why.limit, why.retry_s);
}

/* May the owner have this version in memory beside its others? */
static int check_host_bytes(struct server *s, const struct adapter_name *n,
                            const struct lodge_adapter_version *v, struct lodge_error *e)
{
    struct tenant *owner = n->owner ? tenants_number(&s->tenants, n->owner) : NULL;
    struct tenant_limits limits;
    if (!owner)
        return 0;
    tenant_get_limits(owner, &limits);
    uint64_t bytes = lodge_adapter_version_info(v)->bytes;
    pthread_mutex_lock(&s->adapters.lock);
    uint64_t others = adapter_table_owned_bytes(&s->adapters, n->owner, v);
    pthread_mutex_unlock(&s->adapters.lock);
    if (limits.host_bytes <= 0 || others + bytes <= (uint64_t)limits.host_bytes)
        return 0;
    return lodge_fail(e, LODGE_ERR_THROTTLED,
                      "the project's limit is reached: bytes of adapters in memory: limit %lld, in "
                      "use %llu, adapter '%.200s' needs %llu; delete an adapter first",
                      (long long)limits.host_bytes, (unsigned long long)others, n->name,
                      (unsigned long long)bytes);
}

bool adapters_begin(struct server *s, struct tenant *t, const struct lodge_request *r,
                    struct lodge_error *e)
{
    struct tenant_limits limits;
    if (!r->n_adapters)
        return true;
    tenant_get_limits(t, &limits);
    uint64_t most = limits.resident_bytes <= 0 ? UINT64_MAX : (uint64_t)limits.resident_bytes;
    pthread_mutex_lock(&s->adapters.lock);
    uint64_t bytes = 0;
    int err = adapter_table_use(&s->adapters, t->number, r, most, &bytes);
    pthread_mutex_unlock(&s->adapters.lock);
    if (err == LODGE_ERR_NOMEM)
        lodge_fail(e, err, "no memory for the request");
    else if (err)
        lodge_fail(e, err,
                   "the project's limit is reached: bytes of adapters in use: limit %llu, needed "
                   "%llu; try again when its other requests have finished",
                   (unsigned long long)most, (unsigned long long)bytes);
    return !err;
}

void adapters_end(struct server *s, const struct tenant *t, const struct lodge_request *r)
{
    pthread_mutex_lock(&s->adapters.lock);
    adapter_table_unuse(&s->adapters, t->number, r);
    pthread_mutex_unlock(&s->adapters.lock);
}

/* ---- finding ---- */

/* A copy of what the caller means by the name, and its version if it is there to be used. */
static struct adapter_name *look_up(struct server *s, const struct principal *p, const char *name,
                                    struct lodge_adapter_version **out)
{
    struct adapter_names *a = &s->adapters;
    struct adapter_name *copy = NULL;
    *out = NULL;
    pthread_mutex_lock(&a->lock);
    const struct adapter_name *n = adapter_table_find_for(a, p->tenant->number, name);
    if (n && n->version && !lodge_adapter_version_place(n->version).lost) {
        *out = n->version;
        lodge_adapter_version_ref(*out);
    } else if (n) {
        copy = adapter_table_new(n->tenant, n->owner, n->name, n->path, n->in_dir, n->digest);
        if (copy)
            copy->serial = n->serial;
    }
    pthread_mutex_unlock(&a->lock);
    return copy;
}

/* The operator's path is none of a tenant's business: a request is told the name in its place. */
static void hide_path(struct server *s, const struct adapter_name *n, struct lodge_error *e)
{
    char *at = e && *n->path == '/' ? strstr(e->text, n->path) : NULL;
    if (!at)
        return;
    lodge_log_text(s->log, LODGE_LOG_ERROR, "adapters", "%s", e->text);
    char rest[LODGE_ERROR_TEXT_MAX];
    snprintf(rest, sizeof rest, "%s", at + strlen(n->path));
    snprintf(at, sizeof e->text - (size_t)(at - e->text), "%s%s", n->name, rest);
}

int adapters_resolve(struct server *s, const struct principal *p, const char *name, bool may_read,
                     struct lodge_adapter_version **out, struct lodge_error *e)
{
    struct adapter_names *a = &s->adapters;
    struct adapter_name *n = look_up(s, p, name, out);
    if (*out)
        return 0;
    if (!n && in_dir(a, name))
        n = adapter_table_new(ADAPTERS_PUBLISHED, ADAPTERS_PUBLISHED, name, name, true, "");
    if (!n)
        return lodge_fail(e, LODGE_ERR_NOT_FOUND,
                          "the model '%.200s' does not exist; GET /v1/models lists what there is",
                          name);
    int err = may_read ? take_load(p, e)
                       : lodge_fail(e, LODGE_ERR_AGAIN, "adapter '%.200s' is not read yet", name);
    if (!err)
        err = read_version(s, n, out, e);
    if (!err && (err = check_host_bytes(s, n, *out, e))) {
        lodge_adapter_version_unref(*out);
        *out = NULL;
    }
    if (err) {
        hide_path(s, n, e);
        adapter_table_free(n);
        return err;
    }
    n->version = *out;
    lodge_adapter_version_ref(*out);
    pthread_mutex_lock(&a->lock);
    struct lodge_adapter_version *loser = adapter_table_attach(a, n);
    pthread_mutex_unlock(&a->lock);
    lodge_adapter_version_unref(loser);
    return 0;
}

/* ---- published names ---- */

int adapters_publish(struct server *s, const char *name, const char *path, bool replace,
                     struct lodge_error *e)
{
    struct adapter_names *a = &s->adapters;
    int err = check_name(s, name, e);
    if (err)
        return err;
    pthread_mutex_lock(&a->lock);
    bool taken = adapter_table_find(a, ADAPTERS_PUBLISHED, ADAPTERS_PUBLISHED, name) && !replace;
    pthread_mutex_unlock(&a->lock);
    if (taken)
        return lodge_fail(e, LODGE_ERR_INVALID,
                          "the adapter name '%s' is taken; unload it first, or load in place",
                          name);
    struct adapter_name *n =
        adapter_table_new(ADAPTERS_PUBLISHED, ADAPTERS_PUBLISHED, name, path, false, "");
    if (!n)
        return lodge_fail(e, LODGE_ERR_NOMEM, "no memory for the name of an adapter");
    err = read_version(s, n, &n->version, e);
    if (err) {
        adapter_table_free(n);
        return err;
    }
    pthread_mutex_lock(&a->lock);
    struct adapter_name *old = adapter_table_put(a, n);
    pthread_mutex_unlock(&a->lock);
    adapter_table_free(old);
    return 0;
}

int adapters_unpublish(struct server *s, const char *name, struct lodge_error *e)
{
    pthread_mutex_lock(&s->adapters.lock);
    struct adapter_name *n =
        adapter_table_take(&s->adapters, ADAPTERS_PUBLISHED, ADAPTERS_PUBLISHED, name);
    pthread_mutex_unlock(&s->adapters.lock);
    if (!n)
        return lodge_fail(e, LODGE_ERR_NOT_FOUND, "the adapter '%.200s' is not loaded", name);
    adapter_table_free(n);
    return 0;
}

/* ---- tenants' names: what the admin API tells ---- */

int adapters_check(struct server *s, const struct tenant *owner, const char *name, const char *path,
                   char digest[65], struct lodge_error *e)
{
    if (!atomic_load(&s->engine))
        return 0;
    struct adapter_name *n = adapter_table_new(owner->number, owner->number, name, path, false, "");
    struct lodge_adapter_version *v = NULL;
    int err = n ? read_version(s, n, &v, e)
                : lodge_fail(e, LODGE_ERR_NOMEM, "no memory for the name of an adapter");
    if (!err)
        err = check_host_bytes(s, n, v, e);
    if (!err)
        lodge_digest_hex(&lodge_adapter_version_info(v)->digest, digest);
    lodge_adapter_version_unref(v);
    adapter_table_free(n);
    return err;
}

/* What is registered anew as it was keeps its version. */
static void put_name(struct server *s, uint64_t tenant, uint64_t owner,
                     const struct tenant_adapter *from)
{
    struct adapter_name *n =
        adapter_table_new(tenant, owner, from->name, from->path, false, from->digest);
    if (!n) {
        lodge_log_text(s->log, LODGE_LOG_ERROR, "adapters", "%s: no memory for its name",
                       from->name);
        return;
    }
    pthread_mutex_lock(&s->adapters.lock);
    const struct adapter_name *there = adapter_table_find(&s->adapters, tenant, owner, n->name);
    bool same = there && strcmp(there->path, n->path) == 0 && strcmp(there->digest, n->digest) == 0;
    if (!same)
        n = adapter_table_put(&s->adapters, n);
    pthread_mutex_unlock(&s->adapters.lock);
    adapter_table_free(n);
}

static void put_tenant_adapter(struct server *s, const struct tenant *owner,
                               const struct tenant_adapter *a)
{
    put_name(s, owner->number, owner->number, a);
    for (uint32_t i = 0; i < a->n_shares; i++)
        put_name(s, a->shares[i], owner->number, a);
}

static void take_names(struct server *s, const struct tenant *owner, const char *name)
{
    pthread_mutex_lock(&s->adapters.lock);
    struct adapter_name *gone = adapter_table_take_owned(&s->adapters, owner->number, name);
    pthread_mutex_unlock(&s->adapters.lock);
    for (struct adapter_name *next; gone; gone = next) {
        next = gone->chain;
        adapter_table_free(gone);
    }
}

/* Read and put under one lock: of several changes at once the last in the tenants' tables is the
 * last here. */
void adapters_changed(struct server *s, const struct tenant *owner, const char *name)
{
    pthread_rwlock_rdlock(&s->tenants.lock);
    const struct tenant_adapter *a = owner->adapters;
    while (a && strcmp(a->name, name) != 0)
        a = a->next;
    if (a)
        put_tenant_adapter(s, owner, a);
    else
        take_names(s, owner, name);
    pthread_rwlock_unlock(&s->tenants.lock);
}

static void take_store_names(struct server *s)
{
    pthread_rwlock_rdlock(&s->tenants.lock);
    for (uint32_t i = 0; i < s->tenants.n_tenants; i++)
        for (const struct tenant_adapter *a = s->tenants.all[i]->adapters; a; a = a->next)
            put_tenant_adapter(s, s->tenants.all[i], a);
    pthread_rwlock_unlock(&s->tenants.lock);
}

/* ---- cards ---- */

static json_t *card(const struct server *s, const char *name, int64_t created)
{
    return json_pack("{s:s, s:s, s:I, s:s, s:s, s:s, s:i, s:[]}", "id", name, "object", "model",
                     "created", (json_int_t)created, "owned_by", "lodge", "root", name, "parent",
                     s->names[0], "max_model_len", (int)s->info.max_model_len, "permission");
}

json_t *adapters_card(struct server *s, const struct principal *p, const char *name)
{
    pthread_mutex_lock(&s->adapters.lock);
    const struct adapter_name *n = adapter_table_find_for(&s->adapters, p->tenant->number, name);
    int64_t created = n ? n->created : s->created;
    pthread_mutex_unlock(&s->adapters.lock);
    return n || in_dir(&s->adapters, name) ? card(s, name, created) : NULL;
}

/* Those of the directory that were not named yet, without ".gguf". */
static void list_dir(struct server *s, const struct principal *p, json_t *list)
{
    int fd = openat(s->adapters.dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    if (!dir) {
        if (fd >= 0)
            close(fd);
        return;
    }
    for (struct dirent *d; (d = readdir(dir));) {
        size_t n = strlen(d->d_name);
        if (n > 5 && strcmp(d->d_name + n - 5, ".gguf") == 0)
            d->d_name[n - 5] = 0;
        pthread_mutex_lock(&s->adapters.lock);
        bool named = adapter_table_find_for(&s->adapters, p->tenant->number, d->d_name) != NULL;
        pthread_mutex_unlock(&s->adapters.lock);
        if (!named && d->d_name[0] != '.' && principal_may_use(p, d->d_name) &&
            in_dir(&s->adapters, d->d_name))
            json_array_append_new(list, card(s, d->d_name, s->created));
    }
    closedir(dir);
}

void adapters_list(struct server *s, const struct principal *p, json_t *list)
{
    struct adapter_names *a = &s->adapters;
    uint64_t tenant = p->tenant->number;
    pthread_mutex_lock(&a->lock);
    for (uint32_t i = 0; i < ADAPTER_BUCKETS; i++)
        for (const struct adapter_name *n = a->buckets[i]; n; n = n->chain)
            if (n == adapter_table_find_for(a, tenant, n->name) && principal_may_use(p, n->name))
                json_array_append_new(list, card(s, n->name, n->created));
    pthread_mutex_unlock(&a->lock);
    if (a->has_dir)
        list_dir(s, p, list);
}

void adapters_resident_names(struct server *s, char *out, size_t n)
{
    struct adapter_names *a = &s->adapters;
    size_t at = 0;
    out[0] = 0;
    pthread_mutex_lock(&a->lock);
    for (uint32_t i = 0; i < ADAPTER_BUCKETS; i++)
        for (const struct adapter_name *k = a->buckets[i]; k; k = k->chain)
            if (k->tenant == ADAPTERS_PUBLISHED && k->version && at + strlen(k->name) + 2 < n &&
                lodge_adapter_version_place(k->version).resident)
                at += (size_t)snprintf(out + at, n - at, "%s%s", at ? "," : "", k->name);
    pthread_mutex_unlock(&a->lock);
}

/* ---- life ---- */

/* An item of --lora-modules. */
struct module {
    const char *name, *path;
    json_t *o; /* both lie in it, or: */
    char *copy;
};

static void module_finish(struct module *m)
{
    json_decref(m->o);
    free(m->copy);
}

/* "NAME=PATH", or vLLM's {"name": ..., "path": ...}. */
static int read_module(const char *text, struct module *m, struct lodge_error *e)
{
    const char *equal = strchr(text, '=');
    *m = (struct module){.o = text[0] == '{' ? json_loads(text, 0, NULL) : NULL};
    if (m->o) {
        lodge_json_get_string(m->o, "name", &m->name, NULL);
        lodge_json_get_string(m->o, "path", &m->path, NULL);
    } else if (equal && (m->copy = strndup(text, (size_t)(equal - text)))) {
        m->name = m->copy;
        m->path = equal + 1;
    }
    if (m->name && m->path && *m->name && *m->path)
        return 0;
    module_finish(m);
    return lodge_fail(e, LODGE_ERR_CONFIG, "--lora-modules takes NAME=PATH, but got '%.200s'",
                      text);
}

static int load_module(struct server *s, const char *text, struct lodge_error *e)
{
    struct module m;
    int err = read_module(text, &m, e);
    if (err)
        return err;
    err = adapters_publish(s, m.name, m.path, false, e);
    module_finish(&m);
    if (err != LODGE_ERR_INVALID)
        return err;
    lodge_error_prefix(e, "--lora-modules %s", text);
    return LODGE_ERR_CONFIG;
}

static int open_dir(const char *path, int *fd, struct lodge_error *e)
{
    *fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    return *fd >= 0
               ? 0
               : lodge_fail(e, LODGE_ERR_NOT_FOUND, "--adapter-dir %s: %s", path, strerror(errno));
}

int adapters_check_flags(const struct lodge_serve_config *c, struct lodge_error *e)
{
    int fd = -1, err = c->adapter_dir ? open_dir(c->adapter_dir, &fd, e) : 0;
    if (fd >= 0)
        close(fd);
    for (uint32_t i = 0; i < c->lora_modules.n && !err; i++) {
        struct module m;
        err = read_module(c->lora_modules.items[i], &m, e);
        if (err)
            return err;
        if (access(m.path, R_OK))
            err = lodge_fail(e, LODGE_ERR_NOT_FOUND, "--lora-modules %s: %s",
                             c->lora_modules.items[i], strerror(errno));
        module_finish(&m);
    }
    return err;
}

int adapters_open(struct server *s, struct lodge_engine *en, struct lodge_error *e)
{
    const struct lodge_serve_config *c = s->cfg;
    int err = 0;
    s->adapters.engine = en;
    if (c->adapter_dir) {
        err = open_dir(c->adapter_dir, &s->adapters.dir_fd, e);
        s->adapters.has_dir = !err;
    }
    for (uint32_t i = 0; i < c->lora_modules.n && !err; i++)
        err = load_module(s, c->lora_modules.items[i], e);
    if (!err)
        take_store_names(s);
    return err;
}

void adapters_close(struct server *s)
{
    struct adapter_names *a = &s->adapters;
    pthread_mutex_lock(&a->lock); /* of admin threads, if the model could not be loaded */
    adapter_table_clear(a);
    pthread_mutex_unlock(&a->lock);
    if (a->has_dir)
        close(a->dir_fd);
    a->has_dir = false;
}
