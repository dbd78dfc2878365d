#include "server/adapter_table.h"

#include "base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint32_t spread(uint64_t h)
{
    return (uint32_t)((h ^ h >> 32) % ADAPTER_BUCKETS);
}

static struct adapter_name **bucket(struct adapter_names *a, uint64_t tenant, const char *name)
{
    uint64_t h = 14695981039346656037u ^ tenant; /* FNV-1a */
    for (const char *c = name; *c; c++)
        h = (h ^ (uint8_t)*c) * 1099511628211u;
    return &a->buckets[spread(h)];
}

struct adapter_name *adapter_table_new(uint64_t tenant, uint64_t owner, const char *name,
                                       const char *path, bool in_dir, const char *digest)
{
    size_t n = strlen(name) + 1;
    struct adapter_name *out = calloc(1, sizeof *out + n);
    if (!out)
        return NULL;
    out->tenant = tenant;
    out->owner = owner;
    out->in_dir = in_dir;
    out->created = (int64_t)lodge_unix_time();
    out->path = strdup(path);
    snprintf(out->digest, sizeof out->digest, "%s", digest);
    memcpy(out->name, name, n);
    if (out->path)
        return out;
    free(out);
    return NULL;
}

void adapter_table_free(struct adapter_name *n)
{
    if (!n)
        return;
    lodge_adapter_version_unref(n->version);
    free(n->path);
    free(n);
}

void adapter_table_clear(struct adapter_names *a)
{
    for (uint32_t i = 0; i < ADAPTER_BUCKETS; i++) {
        while (a->buckets[i]) {
            struct adapter_name *n = a->buckets[i];
            a->buckets[i] = n->chain;
            adapter_table_free(n);
        }
        while (a->uses[i]) {
            struct adapter_use *u = a->uses[i];
            a->uses[i] = u->chain;
            free(u);
        }
    }
    a->n = 0;
}

static bool is_entry(const struct adapter_name *n, uint64_t tenant, uint64_t owner,
                     const char *name)
{
    return n->tenant == tenant && n->owner == owner && strcmp(n->name, name) == 0;
}

struct adapter_name *adapter_table_find(struct adapter_names *a, uint64_t tenant, uint64_t owner,
                                        const char *name)
{
    struct adapter_name *n = *bucket(a, tenant, name);
    while (n && !is_entry(n, tenant, owner, name))
        n = n->chain;
    return n;
}

/* Of several the oldest tenant's, so that the answer is the same after a start. */
static struct adapter_name *find_shared(struct adapter_names *a, uint64_t tenant, const char *name)
{
    struct adapter_name *found = NULL;
    for (struct adapter_name *n = *bucket(a, tenant, name); n; n = n->chain)
        if (is_entry(n, tenant, n->owner, name) && (!found || n->owner < found->owner))
            found = n;
    return found;
}

struct adapter_name *adapter_table_find_for(struct adapter_names *a, uint64_t tenant,
                                            const char *name)
{
    struct adapter_name *n = adapter_table_find(a, tenant, tenant, name);
    if (!n)
        n = find_shared(a, tenant, name);
    return n ? n : adapter_table_find(a, ADAPTERS_PUBLISHED, ADAPTERS_PUBLISHED, name);
}

struct adapter_name *adapter_table_take(struct adapter_names *a, uint64_t tenant, uint64_t owner,
                                        const char *name)
{
    struct adapter_name **at = bucket(a, tenant, name);
    while (*at && !is_entry(*at, tenant, owner, name))
        at = &(*at)->chain;
    struct adapter_name *n = *at;
    if (n) {
        *at = n->chain;
        n->chain = NULL;
        a->n--;
    }
    return n;
}

struct adapter_name *adapter_table_put(struct adapter_names *a, struct adapter_name *n)
{
    struct adapter_name *old = adapter_table_take(a, n->tenant, n->owner, n->name);
    struct adapter_name **at = bucket(a, n->tenant, n->name);
    n->serial = ++a->n_puts;
    n->chain = *at;
    *at = n;
    a->n++;
    return old;
}

struct lodge_adapter_version *adapter_table_attach(struct adapter_names *a, struct adapter_name *n)
{
    struct adapter_name *there = adapter_table_find(a, n->tenant, n->owner, n->name);
    struct lodge_adapter_version *loser = NULL;
    if (!there && n->in_dir) {
        adapter_table_put(a, n);
        return NULL;
    }
    /* Replaced meanwhile, perhaps by what lies at the same path now: the request keeps what it
     * got, the name what it has. */
    if (there && there->serial == n->serial) {
        loser = there->version;
        there->version = n->version;
    } else {
        loser = n->version;
    }
    n->version = NULL;
    adapter_table_free(n);
    return loser;
}

struct adapter_name *adapter_table_take_owned(struct adapter_names *a, uint64_t owner,
                                              const char *name)
{
    struct adapter_name *list = NULL;
    for (uint32_t i = 0; i < ADAPTER_BUCKETS; i++)
        for (struct adapter_name **at = &a->buckets[i]; *at;) {
            struct adapter_name *n = *at;
            if (n->owner != owner || strcmp(n->name, name) != 0) {
                at = &n->chain;
                continue;
            }
            *at = n->chain;
            n->chain = list;
            list = n;
            a->n--;
        }
    return list;
}

uint64_t adapter_table_owned_bytes(const struct adapter_names *a, uint64_t owner,
                                   const struct lodge_adapter_version *but)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < ADAPTER_BUCKETS; i++)
        for (const struct adapter_name *n = a->buckets[i]; n; n = n->chain)
            if (n->tenant == owner && n->owner == owner && n->version && n->version != but)
                sum += lodge_adapter_version_info(n->version)->bytes;
    return sum;
}

/* ---- uses ---- */

static struct adapter_use **use_at(struct adapter_names *a, uint64_t tenant,
                                   const struct lodge_adapter_version *v)
{
    /* By tenant, so that all of one tenant's are in one chain. */
    struct adapter_use **at = &a->uses[spread(tenant * 0x9E3779B97F4A7C15u)];
    while (*at && ((*at)->tenant != tenant || (*at)->version != v))
        at = &(*at)->chain;
    return at;
}

static uint64_t used_bytes(struct adapter_names *a, uint64_t tenant)
{
    uint64_t sum = 0;
    for (struct adapter_use *u = a->uses[spread(tenant * 0x9E3779B97F4A7C15u)]; u; u = u->chain)
        if (u->tenant == tenant)
            sum += lodge_adapter_version_info(u->version)->bytes;
    return sum;
}

static void unuse(struct adapter_names *a, uint64_t tenant, const struct lodge_adapter_version *v)
{
    struct adapter_use **at = use_at(a, tenant, v), *u = *at;
    if (u && --u->n == 0) {
        *at = u->chain;
        free(u);
    }
}

int adapter_table_use(struct adapter_names *a, uint64_t tenant, const struct lodge_request *r,
                      uint64_t most, uint64_t *bytes)
{
    int err = 0;
    uint32_t i = 0;
    for (; i < r->n_adapters && !err; i++) {
        struct adapter_use **at = use_at(a, tenant, r->adapters[i].version);
        if (!*at && (*at = calloc(1, sizeof **at)))
            **at = (struct adapter_use){.tenant = tenant, .version = r->adapters[i].version};
        if (*at)
            (*at)->n++;
        else
            err = LODGE_ERR_NOMEM;
    }
    *bytes = used_bytes(a, tenant);
    if (!err && *bytes > most)
        err = LODGE_ERR_THROTTLED;
    for (uint32_t k = 0; err && k < i; k++)
        unuse(a, tenant, r->adapters[k].version);
    return err;
}

void adapter_table_unuse(struct adapter_names *a, uint64_t tenant, const struct lodge_request *r)
{
    for (uint32_t i = 0; i < r->n_adapters; i++)
        unuse(a, tenant, r->adapters[i].version);
}
