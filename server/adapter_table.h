/* The table of adapter names and of their uses. Private to adapters.c; every function but new and
 * free is called with adapter_names.lock held. */
#ifndef LODGE_SERVER_ADAPTER_TABLE_H
#define LODGE_SERVER_ADAPTER_TABLE_H

#include "server/adapters.h"

/* A name without a version; NULL without memory. */
struct adapter_name *adapter_table_new(uint64_t tenant, uint64_t owner, const char *name,
                                       const char *path, bool in_dir, const char *digest);
/* Not in the table; ends its reference. NULL is allowed. */
void adapter_table_free(struct adapter_name *n);
void adapter_table_clear(struct adapter_names *a);

/* The entry of this tenant and owner. */
struct adapter_name *adapter_table_find(struct adapter_names *a, uint64_t tenant, uint64_t owner,
                                        const char *name);
/* What the tenant means by the name: its own, else one that is shared with it, else the published.
 */
struct adapter_name *adapter_table_find_for(struct adapter_names *a, uint64_t tenant,
                                            const char *name);
/* Puts a name in; returns the one of the same tenant and owner that it replaces, for the caller to
 * free. */
struct adapter_name *adapter_table_put(struct adapter_names *a, struct adapter_name *n);
/* n->version belongs to the name now, in the table's entry if n is a copy of it (n is freed then),
 * or in n itself if it is of the directory and there is none. Returns the version that lost its
 * place. */
struct lodge_adapter_version *adapter_table_attach(struct adapter_names *a, struct adapter_name *n);
/* Takes a name out; NULL when it is not there. */
struct adapter_name *adapter_table_take(struct adapter_names *a, uint64_t tenant, uint64_t owner,
                                        const char *name);
/* Takes an owner's name out wherever it is shared, too; a list by chain. */
struct adapter_name *adapter_table_take_owned(struct adapter_names *a, uint64_t owner,
                                              const char *name);
/* Bytes of the versions that an owner has read, `but` excepted; shares do not count. */
uint64_t adapter_table_owned_bytes(const struct adapter_names *a, uint64_t owner,
                                   const struct lodge_adapter_version *but);

/* Counts a request's versions as used. THROTTLED, and nothing is counted, when all that the tenant
 * uses then takes more than `most` bytes; *bytes says how many. NOMEM. */
int adapter_table_use(struct adapter_names *a, uint64_t tenant, const struct lodge_request *r,
                      uint64_t most, uint64_t *bytes);
void adapter_table_unuse(struct adapter_names *a, uint64_t tenant, const struct lodge_request *r);

#endif
