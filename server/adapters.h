/* Names of adapters: (tenant, name) -> version.
 *
 * Adapters from flags, the directory and the load route are published: every tenant may use them
 * (tenant 0 here). A tenant's own names come first, then those shared with it, the published ones,
 * and the directory. What the store and the directory name is read when it is first used. A name
 * changes its version in one step; requests keep the version that they began with.
 *
 * Versions of different owners are never one, also when their content is: nobody can tell by the
 * time of a load what others have. A share names the owner's version.
 *
 * Threads: all functions from any thread; `lock` is never held while files are read, and nothing
 * but the engine's lock of versions is taken under it.
 */
#ifndef LODGE_SERVER_ADAPTERS_H
#define LODGE_SERVER_ADAPTERS_H

#include "engine/engine.h"
#include "server/tenants.h"

#include <jansson.h>
#include <pthread.h>
#include <stdbool.h>

struct lodge_serve_config;
struct server;

#define ADAPTER_BUCKETS 4096u
#define ADAPTER_NAME_MAX 256u
#define ADAPTERS_PUBLISHED 0u /* the tenant of published names */

struct adapter_name {
    struct adapter_name *chain;
    uint64_t tenant;                       /* who may use the name */
    uint64_t owner;                        /* whose version it is */
    struct lodge_adapter_version *version; /* NULL: not read yet */
    char *path;
    uint64_t serial; /* of the entry in the table; a copy has that of its original; 0: none */
    bool in_dir;     /* path is a name in the directory */
    char digest[65]; /* what it must be; empty: whatever it is */
    int64_t created;
    char name[];
};

/* How many requests of a tenant use a version now. */
struct adapter_use {
    struct adapter_use *chain;
    uint64_t tenant;
    const struct lodge_adapter_version *version;
    uint32_t n;
};

struct adapter_names {
    struct lodge_engine *engine;
    pthread_mutex_t lock;
    struct adapter_name *buckets[ADAPTER_BUCKETS];
    struct adapter_use *uses[ADAPTER_BUCKETS];
    uint64_t n_puts; /* the last serial */
    uint32_t n;
    bool has_dir;
    int dir_fd; /* of --adapter-dir */
};

/* What can be told of the flags before the model is there. Errors as adapters_open. */
int adapters_check_flags(const struct lodge_serve_config *c, struct lodge_error *e);
/* Opens the directory, loads what --lora-modules names, and takes the names of the store.
 * NOT_FOUND, FORMAT, UNSUPPORTED: an adapter (exit 3); CONFIG: a flag. */
int adapters_open(struct server *s, struct lodge_engine *en, struct lodge_error *e);
/* Ends all references; before the engine closes. */
void adapters_close(struct server *s);

/* ---- requests ---- */

/* The version that this name means to the caller, with a reference. NOT_FOUND when there is none;
 * THROTTLED when reading it would pass the tenant's limits; ADAPTER_LOST when it is not what was
 * registered; errors of lodge_engine_adapter_open. AGAIN when its files must be read first and
 * the caller may not do that. */
int adapters_resolve(struct server *s, const struct principal *p, const char *name, bool may_read,
                     struct lodge_adapter_version **out, struct lodge_error *e);
/* Counts a request's adapters as used by a tenant, until adapters_end. False, and nothing counted,
 * when together with what its other requests use they pass its limit of resident bytes. */
bool adapters_begin(struct server *s, struct tenant *t, const struct lodge_request *r,
                    struct lodge_error *e);
void adapters_end(struct server *s, const struct tenant *t, const struct lodge_request *r);

/* ---- names ---- */

/* Reads the files at `path` (the operator's: links are followed) and publishes them. A taken name
 * is INVALID unless `replace`. */
int adapters_publish(struct server *s, const char *name, const char *path, bool replace,
                     struct lodge_error *e);
/* NOT_FOUND when there is no such published name. Running requests go on. */
int adapters_unpublish(struct server *s, const char *name, struct lodge_error *e);
/* May a tenant register what lies at `path`? Fills in the content's digest (hex), or nothing while
 * the model is still loading: then it is checked when it is first used. Admin threads. */
int adapters_check(struct server *s, const struct tenant *owner, const char *name, const char *path,
                   char digest[65], struct lodge_error *e);
/* From here on a tenant's name, and what is shared of it, means what the tenants' tables say; no
 * new request may use it when it is not there any more. Admin threads, in any order. */
void adapters_changed(struct server *s, const struct tenant *owner, const char *name);
/* Appends cards of what the caller may name to a JSON list. */
void adapters_list(struct server *s, const struct principal *p, json_t *list);
/* The card of one name, or NULL. */
json_t *adapters_card(struct server *s, const struct principal *p, const char *name);
/* Names of resident published adapters, separated by commas, as many as fit. */
void adapters_resident_names(struct server *s, char *out, size_t n);

/* ---- routes: vLLM's, for admins ---- */

struct call;
void handle_load_adapter(struct call *c);
void handle_unload_adapter(struct call *c);

#endif
