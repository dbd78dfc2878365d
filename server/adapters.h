/* Names of adapters: (tenant, name) -> version.
 *
 * Adapters from flags, the directory and the load route are published: every tenant may use them
 * (tenant 0 here). A tenant's own names come first, then the published ones, then the directory,
 * whose adapters are read when they are first named. A name changes its version in one step;
 * requests keep the version that they began with.
 *
 * Threads: all functions from any thread; `lock` is never held while files are read, and nothing
 * but the engine's lock of versions is taken under it.
 */
#ifndef LODGE_SERVER_ADAPTERS_H
#define LODGE_SERVER_ADAPTERS_H

#include "engine/engine.h"

#include <jansson.h>
#include <pthread.h>
#include <stdbool.h>

struct server;

#define ADAPTER_BUCKETS 4096u
#define ADAPTER_NAME_MAX 256u
#define ADAPTERS_PUBLISHED 0u /* the tenant of published names */

struct adapter_name {
    struct adapter_name *chain;
    uint64_t tenant;
    struct lodge_adapter_version *version;
    int64_t created;
    char *path;
    char name[];
};

struct adapter_names {
    struct lodge_engine *engine;
    pthread_mutex_t lock;
    struct adapter_name *buckets[ADAPTER_BUCKETS];
    uint32_t n;
    bool has_dir;
    int dir_fd; /* of --adapter-dir */
};

/* Opens the directory and loads what --lora-modules names. NOT_FOUND, FORMAT, UNSUPPORTED: the
 * adapter (exit 3); CONFIG: the flag. */
int adapters_open(struct server *s, struct lodge_engine *en, struct lodge_error *e);
/* Ends all references; before the engine closes. */
void adapters_close(struct server *s);

/* The version a tenant means by this name, with a reference for the caller. NOT_FOUND when there is
 * none; errors of lodge_engine_adapter_open when the directory has it and it is refused. Reads
 * files: for preparing threads. */
int adapters_resolve(struct server *s, uint64_t tenant, const char *name,
                     struct lodge_adapter_version **out, struct lodge_error *e);
/* Whether the tenant has this name, without reading files; the directory's count as there. */
bool adapters_known(struct server *s, uint64_t tenant, const char *name);
/* Reads the files at `path` (the operator's: links are followed) and gives them the name. A taken
 * name is INVALID unless `replace`. */
int adapters_add(struct server *s, uint64_t tenant, const char *name, const char *path,
                 const struct lodge_digest *scope, bool replace, struct lodge_error *e);
/* NOT_FOUND when the tenant has no such name of its own. Running requests go on. */
int adapters_remove(struct server *s, uint64_t tenant, const char *name, struct lodge_error *e);
/* Appends cards of what the tenant may name to a JSON list. */
void adapters_list(struct server *s, uint64_t tenant, json_t *list);
/* Names of resident published adapters, separated by commas, as many as fit. */
void adapters_resident_names(struct server *s, char *out, size_t n);
/* The card of one name, or NULL. */
json_t *adapters_card(struct server *s, uint64_t tenant, const char *name);

#endif
