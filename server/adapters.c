#include "server/adapters.h"

#include "base/clock.h"
#include "base/json.h"
#include "server/server.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- the table; all under `lock` ---- */

static struct adapter_name **bucket(struct adapter_names *a, uint64_t tenant, const char *name)
{
    uint64_t h = 14695981039346656037u ^ tenant; /* FNV-1a */
    for (const char *c = name; *c; c++)
        h = (h ^ (uint8_t)*c) * 1099511628211u;
    return &a->buckets[(h ^ h >> 32) % ADAPTER_BUCKETS];
}

static struct adapter_name *find(struct adapter_names *a, uint64_t tenant, const char *name)
{
    struct adapter_name *n = *bucket(a, tenant, name);
    while (n && (n->tenant != tenant || strcmp(n->name, name) != 0))
        n = n->chain;
    return n;
}

static struct adapter_name *find_for(struct adapter_names *a, uint64_t tenant, const char *name)
{
    struct adapter_name *own = find(a, tenant, name);
    return own ? own : find(a, ADAPTERS_PUBLISHED, name);
}

static void free_name(struct adapter_name *n)
{
    lodge_adapter_version_unref(n->version);
    free(n->path);
    free(n);
}

/* Gives the name this version, whose reference it takes; `replace` says what happens to a name that
 * is there. Returns the version that lost its name, or the one that found it taken. */
static struct lodge_adapter_version *put(struct adapter_names *a, struct adapter_name *fresh,
                                         bool replace, bool *taken)
{
    struct adapter_name *old = find(a, fresh->tenant, fresh->name);
    struct lodge_adapter_version *loser = NULL;
    *taken = old && !replace;
    if (!old) {
        struct adapter_name **at = bucket(a, fresh->tenant, fresh->name);
        fresh->chain = *at;
        *at = fresh;
        a->n++;
        return NULL;
    }
    if (*taken) {
        loser = fresh->version;
    } else {
        loser = old->version;
        old->version = fresh->version;
        char *path = old->path;
        old->path = fresh->path;
        fresh->path = path;
        old->created = fresh->created;
    }
    free(fresh->path);
    free(fresh);
    return loser;
}

/* ---- adding ---- */

static struct adapter_name *new_name(uint64_t tenant, const char *name, const char *path)
{
    size_t n = strlen(name) + 1;
    struct adapter_name *out = calloc(1, sizeof *out + n);
    if (!out)
        return NULL;
    out->tenant = tenant;
    out->created = (int64_t)lodge_unix_time();
    out->path = strdup(path);
    memcpy(out->name, name, n);
    if (out->path)
        return out;
    free(out);
    return NULL;
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
    for (uint32_t i = 0; i < s->n_names; i++)
        if (strcmp(s->names[i], name) == 0)
            return lodge_fail(e, LODGE_ERR_INVALID, "'%s' is the name of the base model", name);
    return 0;
}

/* Reads and names. `fd` as lodge_engine_adapter_open. The version comes back with a reference of
 * its own if `out` is given. */
static int add(struct server *s, struct adapter_name *fresh, const char *path, int fd,
               const struct lodge_digest *scope, bool replace, bool quiet,
               struct lodge_adapter_version **out, struct lodge_error *e)
{
    struct adapter_names *a = &s->adapters;
    if (!fresh) {
        if (fd >= 0)
            close(fd);
        return lodge_fail(e, LODGE_ERR_NOMEM, "no memory for the name of an adapter");
    }
    int err =
        lodge_engine_adapter_open(a->engine, path, fd, fresh->name, scope, &fresh->version, e);
    if (err) {
        free(fresh->path);
        free(fresh);
        return err;
    }
    const struct lodge_adapter_version_info *info = lodge_adapter_version_info(fresh->version);
    if (*info->warning)
        lodge_log_text(s->log, LODGE_LOG_WARN, "adapters", "%s: %s", fresh->name, info->warning);
    if (out) {
        *out = fresh->version;
        lodge_adapter_version_ref(*out);
    }
    bool taken;
    pthread_mutex_lock(&a->lock);
    struct lodge_adapter_version *loser = put(a, fresh, replace, &taken);
    pthread_mutex_unlock(&a->lock);
    lodge_adapter_version_unref(loser);
    return taken && !quiet ? lodge_fail(e, LODGE_ERR_INVALID, "the name is taken already") : 0;
}

int adapters_add(struct server *s, uint64_t tenant, const char *name, const char *path,
                 const struct lodge_digest *scope, bool replace, struct lodge_error *e)
{
    struct lodge_digest published = {{0}};
    int err = check_name(s, name, e);
    if (err)
        return err;
    pthread_mutex_lock(&s->adapters.lock);
    bool taken = find(&s->adapters, tenant, name) && !replace;
    pthread_mutex_unlock(&s->adapters.lock);
    if (taken)
        return lodge_fail(e, LODGE_ERR_INVALID,
                          "the adapter name '%s' is taken; unload it first, or load in place",
                          name);
    return add(s, new_name(tenant, name, path), path, -1, scope ? scope : &published, replace,
               false, NULL, e);
}

int adapters_remove(struct server *s, uint64_t tenant, const char *name, struct lodge_error *e)
{
    struct adapter_names *a = &s->adapters;
    pthread_mutex_lock(&a->lock);
    struct adapter_name **at = bucket(a, tenant, name);
    while (*at && ((*at)->tenant != tenant || strcmp((*at)->name, name) != 0))
        at = &(*at)->chain;
    struct adapter_name *n = *at;
    if (n) {
        *at = n->chain;
        a->n--;
    }
    pthread_mutex_unlock(&a->lock);
    if (!n)
        return lodge_fail(e, LODGE_ERR_NOT_FOUND, "the adapter '%.200s' is not loaded", name);
    free_name(n);
    return 0;
}

/* ---- finding ---- */

/* The directory's adapter of this name becomes a published name; `replace`: again. */
static int load_from_dir(struct server *s, const char *name, bool replace,
                         struct lodge_adapter_version **out, struct lodge_error *e)
{
    char path[64];
    int fd = -1;
    struct lodge_digest published = {{0}};
    int err = lodge_engine_adapter_locate(s->adapters.dir_fd, name, &fd, path, e);
    return err ? err
               : add(s, new_name(ADAPTERS_PUBLISHED, name, name), path, fd, &published, replace,
                     true, out, e);
}

static bool in_dir(const struct adapter_names *a, const char *name)
{
    char path[64];
    int fd = -1;
    if (!a->has_dir || lodge_engine_adapter_locate(a->dir_fd, name, &fd, path, NULL))
        return false;
    close(fd);
    return true;
}

int adapters_resolve(struct server *s, uint64_t tenant, const char *name,
                     struct lodge_adapter_version **out, struct lodge_error *e)
{
    struct adapter_names *a = &s->adapters;
    bool lost = false;
    pthread_mutex_lock(&a->lock);
    const struct adapter_name *n = find_for(a, tenant, name);
    *out = n ? n->version : NULL;
    if (n) {
        lodge_adapter_version_ref(n->version);
        lost = n->tenant == ADAPTERS_PUBLISHED && lodge_adapter_version_place(n->version).lost;
    }
    pthread_mutex_unlock(&a->lock);
    /* The directory says what its names mean, also when that has changed. */
    if ((!*out || lost) && in_dir(a, name)) {
        lodge_adapter_version_unref(*out);
        return load_from_dir(s, name, lost, out, e);
    }
    return *out
               ? 0
               : lodge_fail(e, LODGE_ERR_NOT_FOUND,
                            "the model '%.200s' does not exist; GET /v1/models lists what there is",
                            name);
}

bool adapters_known(struct server *s, uint64_t tenant, const char *name)
{
    pthread_mutex_lock(&s->adapters.lock);
    bool known = find_for(&s->adapters, tenant, name) != NULL;
    pthread_mutex_unlock(&s->adapters.lock);
    return known || in_dir(&s->adapters, name);
}

/* ---- cards ---- */

static json_t *card(const struct server *s, const char *name, int64_t created)
{
    return json_pack("{s:s, s:s, s:I, s:s, s:s, s:s, s:i, s:[]}", "id", name, "object", "model",
                     "created", (json_int_t)created, "owned_by", "lodge", "root", name, "parent",
                     s->names[0], "max_model_len", (int)s->info.max_model_len, "permission");
}

json_t *adapters_card(struct server *s, uint64_t tenant, const char *name)
{
    pthread_mutex_lock(&s->adapters.lock);
    const struct adapter_name *n = find_for(&s->adapters, tenant, name);
    int64_t created = n ? n->created : s->created;
    pthread_mutex_unlock(&s->adapters.lock);
    return n || in_dir(&s->adapters, name) ? card(s, name, created) : NULL;
}

/* Those of the directory that were not named yet. */
static void list_dir(struct server *s, uint64_t tenant, json_t *list)
{
    int fd = openat(s->adapters.dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    if (!dir) {
        if (fd >= 0)
            close(fd);
        return;
    }
    for (const struct dirent *d; (d = readdir(dir));) {
        pthread_mutex_lock(&s->adapters.lock);
        bool named = find_for(&s->adapters, tenant, d->d_name) != NULL;
        pthread_mutex_unlock(&s->adapters.lock);
        if (!named && d->d_name[0] != '.' && in_dir(&s->adapters, d->d_name))
            json_array_append_new(list, card(s, d->d_name, s->created));
    }
    closedir(dir);
}

void adapters_list(struct server *s, uint64_t tenant, json_t *list)
{
    struct adapter_names *a = &s->adapters;
    pthread_mutex_lock(&a->lock);
    for (uint32_t i = 0; i < ADAPTER_BUCKETS; i++)
        for (const struct adapter_name *n = a->buckets[i]; n; n = n->chain)
            if (n->tenant == tenant ||
                (n->tenant == ADAPTERS_PUBLISHED && !find(a, tenant, n->name)))
                json_array_append_new(list, card(s, n->name, n->created));
    pthread_mutex_unlock(&a->lock);
    if (a->has_dir)
        list_dir(s, tenant, list);
}

void adapters_resident_names(struct server *s, char *out, size_t n)
{
    struct adapter_names *a = &s->adapters;
    size_t at = 0;
    out[0] = 0;
    pthread_mutex_lock(&a->lock);
    for (uint32_t i = 0; i < ADAPTER_BUCKETS; i++)
        for (const struct adapter_name *k = a->buckets[i]; k; k = k->chain) {
            size_t size = strlen(k->name) + 2;
            if (k->tenant == ADAPTERS_PUBLISHED && at + size < n &&
                lodge_adapter_version_place(k->version).resident)
                at += (size_t)snprintf(out + at, n - at, "%s%s", at ? "," : "", k->name);
        }
    pthread_mutex_unlock(&a->lock);
}

/* ---- life ---- */

/* "NAME=PATH", or vLLM's {"name": ..., "path": ...}. */
static int load_module(struct server *s, const char *text, struct lodge_error *e)
{
    const char *name = NULL, *path = NULL, *equal = strchr(text, '=');
    char *copy = NULL;
    json_t *o = text[0] == '{' ? json_loads(text, 0, NULL) : NULL;
    if (o) {
        lodge_json_get_string(o, "name", &name, NULL);
        lodge_json_get_string(o, "path", &path, NULL);
    } else if (equal && (copy = strndup(text, (size_t)(equal - text)))) {
        name = copy;
        path = equal + 1;
    }
    int err = name && path && *name && *path
                  ? adapters_add(s, ADAPTERS_PUBLISHED, name, path, NULL, false, e)
                  : lodge_fail(e, LODGE_ERR_CONFIG,
                               "--lora-modules takes NAME=PATH, but got '%.200s'", text);
    if (err == LODGE_ERR_INVALID) {
        lodge_error_prefix(e, "--lora-modules %s", text);
        err = LODGE_ERR_CONFIG;
    }
    json_decref(o);
    free(copy);
    return err;
}

int adapters_open(struct server *s, struct lodge_engine *en, struct lodge_error *e)
{
    const struct lodge_serve_config *c = s->cfg;
    int err = 0;
    s->adapters.engine = en;
    if (c->adapter_dir) {
        s->adapters.dir_fd = open(c->adapter_dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (s->adapters.dir_fd < 0)
            return lodge_fail(e, LODGE_ERR_NOT_FOUND, "--adapter-dir %s: %s", c->adapter_dir,
                              strerror(errno));
        s->adapters.has_dir = true;
    }
    for (uint32_t i = 0; i < c->lora_modules.n && !err; i++)
        err = load_module(s, c->lora_modules.items[i], e);
    return err;
}

void adapters_close(struct server *s)
{
    struct adapter_names *a = &s->adapters;
    for (uint32_t i = 0; i < ADAPTER_BUCKETS; i++)
        while (a->buckets[i]) {
            struct adapter_name *n = a->buckets[i];
            a->buckets[i] = n->chain;
            free_name(n);
        }
    if (a->has_dir)
        close(a->dir_fd);
    a->has_dir = false;
}
