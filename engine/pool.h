/* The page pool: who uses which page. Pure bookkeeping; the bytes belong to the backend.
 *
 * A page is free, in use (reference count > 0, as KV or adapter), or cached (reference count 0,
 * content still valid: a prefix block, or part of an idle adapter). A page given back while a step
 * that could read it is in flight retires with that step's ticket and becomes free then; until then
 * it is nobody's, and counts as free to the world: free + retiring + kv + adapter + cached = total
 * at all times.
 *
 * Owner: the engine thread. Nothing is allocated after creation.
 */
#ifndef LODGE_ENGINE_POOL_H
#define LODGE_ENGINE_POOL_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

enum lodge_page_type { LODGE_PAGE_FREE, LODGE_PAGE_KV, LODGE_PAGE_ADAPTER, LODGE_PAGE_CACHED };

struct lodge_page {
    uint32_t refs;
    uint32_t entry; /* prefix cache entry that names the content, or UINT32_MAX */
    uint8_t type;   /* enum lodge_page_type */
};

struct lodge_pool {
    struct lodge_page *pages;
    uint32_t n_pages;
    uint32_t *free; /* stack */
    uint32_t n_free;
    uint32_t *retiring; /* freed in flight, in the order of their tickets */
    uint64_t *retire_at;
    uint32_t n_retiring;
    uint32_t n_kv, n_adapter, n_cached;
    uint64_t submitted, retired; /* tickets */
    /* Called when a page becomes free, if set: debug builds poison it. */
    void (*on_free)(void *cookie, uint32_t page);
    void *cookie;
};

int lodge_pool_init(struct lodge_pool *p, uint32_t n_pages, struct lodge_error *e);
void lodge_pool_finish(struct lodge_pool *p);

/* Takes a free page with one reference; UINT32_MAX when there is none. */
uint32_t lodge_pool_take(struct lodge_pool *p, enum lodge_page_type type);
/* One more reference; a cached page is in use again. */
void lodge_pool_ref(struct lodge_pool *p, uint32_t page);
/* One less. At 0 the page is cached if an entry names it (returns true), else free. */
bool lodge_pool_unref(struct lodge_pool *p, uint32_t page);
/* An adapter's page, which has one reference: nobody uses it now, its content stays (cached); and
 * somebody does again. */
void lodge_pool_idle(struct lodge_pool *p, uint32_t page);
void lodge_pool_reuse(struct lodge_pool *p, uint32_t page);
/* A cached page becomes free. */
void lodge_pool_drop(struct lodge_pool *p, uint32_t page);

/* Steps: pages freed from now on may still be read by step `ticket`. */
void lodge_pool_submitted(struct lodge_pool *p, uint64_t ticket);
/* Steps up to `ticket` are done. */
void lodge_pool_retired(struct lodge_pool *p, uint64_t ticket);

#endif
