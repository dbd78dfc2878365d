/* The prefix cache: blocks of tokens by what precedes them.
 *
 * A block is the T tokens of one page per layer group. Its key is a keyed hash over the key of the
 * block before it and its tokens; the first one's predecessor is a root made from tenant salt,
 * model, adapters and the client's salt, so requests of different roots never meet. An entry does
 * not hold references: pages without users are idle, stay cached, and are evicted when pages are
 * needed: least recently used entries first, successors before predecessors.
 *
 * Groups with a sliding window let go of a block before the others do. So an entry may have idle
 * pages beside pages in use, and after their eviction holes; a hit must hold in every group as far
 * as its window reaches, which the scheduler checks.
 *
 * Owner: the engine thread. Nothing is allocated after creation.
 */
#ifndef LODGE_ENGINE_PREFIX_H
#define LODGE_ENGINE_PREFIX_H

#include "base/hash.h"
#include "engine/pool.h"

#include <stddef.h>

#define LODGE_MAX_GROUPS 64u

struct lodge_prefix_entry {
    struct lodge_digest key;
    double aged;           /* the cache's floor when it became idle */
    uint32_t owner;        /* see lodge_prefix_add */
    uint32_t chain;        /* next entry of the hash bucket, or of the free list */
    uint32_t newer, older; /* list of entries with idle pages */
    bool listed;
    bool used; /* the slot holds an entry */
};

struct lodge_prefix {
    struct lodge_pool *pool;
    uint32_t n_groups;
    uint32_t page_tokens;
    struct lodge_digest secret;
    struct lodge_prefix_entry *entries;
    uint32_t *pages; /* (n_entries, n_groups); LODGE_NO_PAGE: a hole */
    uint32_t n_entries;
    uint32_t first_free;
    uint32_t *buckets;
    uint32_t mask;
    uint32_t oldest, newest;
    uint64_t n_evicted; /* pages whose content made room */
    double floor;       /* value of what was evicted last; set by whoever evicts (residency.c) */
};

/* Owners of entries: none, the number of the one adapter they were computed with, or several. */
#define LODGE_OWNER_NONE 0u
#define LODGE_OWNER_SEVERAL UINT32_MAX

int lodge_prefix_init(struct lodge_prefix *c, struct lodge_pool *pool, uint32_t n_groups,
                      uint32_t page_tokens, struct lodge_error *e);
void lodge_prefix_finish(struct lodge_prefix *c);

/* Root of requests that may share: any bytes that must be equal. */
void lodge_prefix_root(const struct lodge_prefix *c, const void *bytes, size_t n,
                       struct lodge_digest *out);
/* Key of the block with these T tokens after `parent`. */
void lodge_prefix_key(const struct lodge_prefix *c, const struct lodge_digest *parent,
                      const uint32_t *tokens, struct lodge_digest *out);
/* Entry with this key, or UINT32_MAX. */
uint32_t lodge_prefix_find(const struct lodge_prefix *c, const struct lodge_digest *key);
/* Pages of an entry, one per group. */
const uint32_t *lodge_prefix_pages(const struct lodge_prefix *c, uint32_t entry);
/* Takes a reference on a page in use or cached. */
void lodge_prefix_ref_page(struct lodge_prefix *c, uint32_t page);
/* Names pages in use by the key. If the key is there already its pages stay, and only holes are
 * filled. */
void lodge_prefix_add(struct lodge_prefix *c, const struct lodge_digest *key, const uint32_t *pages,
                      uint32_t owner);
/* Drops one reference of a page, named or not. */
void lodge_prefix_unref_page(struct lodge_prefix *c, uint32_t page);
/* Frees the idle pages of the least recently used entry. False when there is none. */
bool lodge_prefix_evict(struct lodge_prefix *c);
/* Whether there is such an entry, and its `aged`. */
bool lodge_prefix_oldest(const struct lodge_prefix *c, double *aged);
/* Frees the idle pages of all entries of an adapter, those it owns with others included. False when
 * there was none. */
bool lodge_prefix_evict_owner(struct lodge_prefix *c, uint32_t owner);
/* The content that this page's entry names is not to be trusted: nobody finds it any more. A page
 * without a name is allowed. */
void lodge_prefix_forget_page(struct lodge_prefix *c, uint32_t page);

#endif
