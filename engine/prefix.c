#include "engine/prefix.h"

#include "kernels/backend.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define NONE UINT32_MAX

int lodge_prefix_init(struct lodge_prefix *c, struct lodge_pool *pool, uint32_t n_groups,
                      uint32_t page_tokens, struct lodge_error *e)
{
    /* An entry names at least one page, so there are never more entries than pages. */
    uint32_t n = pool->n_pages, buckets = 16;
    while (buckets < n * 2)
        buckets *= 2;
    *c = (struct lodge_prefix){.pool = pool,
                               .n_groups = n_groups,
                               .page_tokens = page_tokens,
                               .n_entries = n,
                               .mask = buckets - 1,
                               .oldest = NONE,
                               .newest = NONE};
    lodge_random_bytes(&c->secret, sizeof c->secret);
    c->entries = calloc(n, sizeof *c->entries);
    c->pages = calloc((size_t)n * n_groups, sizeof *c->pages);
    c->buckets = malloc(buckets * sizeof *c->buckets);
    if (!c->entries || !c->pages || !c->buckets) {
        lodge_prefix_finish(c);
        return lodge_fail(e, LODGE_ERR_NOMEM, "no memory for the prefix cache");
    }
    memset(c->buckets, 0xFF, buckets * sizeof *c->buckets);
    for (uint32_t i = 0; i < n; i++)
        c->entries[i].chain = i + 1 < n ? i + 1 : NONE;
    return 0;
}

void lodge_prefix_finish(struct lodge_prefix *c)
{
    free(c->entries);
    free(c->pages);
    free(c->buckets);
    *c = (struct lodge_prefix){0};
}

void lodge_prefix_root(const struct lodge_prefix *c, const void *bytes, size_t n,
                       struct lodge_digest *out)
{
    lodge_keyed_hash(&c->secret, "root", 4, bytes, n, out);
}

void lodge_prefix_key(const struct lodge_prefix *c, const struct lodge_digest *parent,
                      const uint32_t *tokens, struct lodge_digest *out)
{
    lodge_keyed_hash(&c->secret, parent, sizeof *parent, tokens, c->page_tokens * sizeof *tokens,
                     out);
}

static uint32_t *bucket(const struct lodge_prefix *c, const struct lodge_digest *key)
{
    uint32_t h;
    memcpy(&h, key->bytes, sizeof h);
    return &c->buckets[h & c->mask];
}

uint32_t lodge_prefix_find(const struct lodge_prefix *c, const struct lodge_digest *key)
{
    uint32_t i = *bucket(c, key);
    while (i != NONE && memcmp(&c->entries[i].key, key, sizeof *key) != 0)
        i = c->entries[i].chain;
    return i;
}

const uint32_t *lodge_prefix_pages(const struct lodge_prefix *c, uint32_t entry)
{
    return c->pages + (size_t)entry * c->n_groups;
}

static void list_remove(struct lodge_prefix *c, uint32_t i)
{
    struct lodge_prefix_entry *en = &c->entries[i];
    if (!en->listed)
        return;
    if (en->older != NONE)
        c->entries[en->older].newer = en->newer;
    else
        c->oldest = en->newer;
    if (en->newer != NONE)
        c->entries[en->newer].older = en->older;
    else
        c->newest = en->older;
    en->listed = false;
}

static void list_append(struct lodge_prefix *c, uint32_t i)
{
    struct lodge_prefix_entry *en = &c->entries[i];
    list_remove(c, i);
    en->older = c->newest;
    en->newer = NONE;
    if (c->newest != NONE)
        c->entries[c->newest].newer = i;
    else
        c->oldest = i;
    c->newest = i;
    en->listed = true;
    en->aged = c->floor;
}

static bool has_idle(const struct lodge_prefix *c, uint32_t entry)
{
    for (uint32_t g = 0; g < c->n_groups; g++) {
        uint32_t page = lodge_prefix_pages(c, entry)[g];
        if (page != LODGE_NO_PAGE && !c->pool->pages[page].refs)
            return true;
    }
    return false;
}

void lodge_prefix_ref_page(struct lodge_prefix *c, uint32_t page)
{
    uint32_t entry = c->pool->pages[page].entry;
    lodge_pool_ref(c->pool, page);
    if (entry != NONE && !has_idle(c, entry))
        list_remove(c, entry);
}

/* Takes an entry out of its bucket. */
static void remove_entry(struct lodge_prefix *c, uint32_t i)
{
    uint32_t *at = bucket(c, &c->entries[i].key);
    while (*at != i)
        at = &c->entries[*at].chain;
    *at = c->entries[i].chain;
    list_remove(c, i);
    c->entries[i].used = false;
    c->entries[i].chain = c->first_free;
    c->first_free = i;
}

void lodge_prefix_add(struct lodge_prefix *c, const struct lodge_digest *key, const uint32_t *pages,
                      uint32_t owner)
{
    uint32_t i = lodge_prefix_find(c, key);
    if (i == NONE) {
        i = c->first_free;
        c->first_free = c->entries[i].chain;
        c->entries[i] = (struct lodge_prefix_entry){
            .key = *key, .owner = owner, .chain = *bucket(c, key), .used = true};
        *bucket(c, key) = i;
        memset(c->pages + (size_t)i * c->n_groups, 0xFF, c->n_groups * sizeof *c->pages);
    }
    uint32_t *own = c->pages + (size_t)i * c->n_groups;
    for (uint32_t g = 0; g < c->n_groups; g++)
        if (own[g] == LODGE_NO_PAGE && pages[g] != LODGE_NO_PAGE) {
            assert(c->pool->pages[pages[g]].entry == NONE);
            own[g] = pages[g];
            c->pool->pages[pages[g]].entry = i;
        }
}

void lodge_prefix_unref_page(struct lodge_prefix *c, uint32_t page)
{
    uint32_t entry = c->pool->pages[page].entry;
    if (lodge_pool_unref(c->pool, page))
        list_append(c, entry);
}

/* Idle pages of the entry become free, the others lose their name if `all`; an entry without
 * pages goes. Returns how many were freed. */
static uint32_t strip(struct lodge_prefix *c, uint32_t i, bool all)
{
    uint32_t *own = c->pages + (size_t)i * c->n_groups, left = 0, freed = 0;
    for (uint32_t g = 0; g < c->n_groups; g++) {
        if (own[g] == LODGE_NO_PAGE)
            continue;
        if (!c->pool->pages[own[g]].refs) {
            lodge_pool_drop(c->pool, own[g]);
            freed++;
        } else if (all) {
            c->pool->pages[own[g]].entry = NONE;
        } else {
            left++;
            continue;
        }
        own[g] = LODGE_NO_PAGE;
    }
    if (left)
        list_remove(c, i);
    else
        remove_entry(c, i);
    return freed;
}

bool lodge_prefix_evict(struct lodge_prefix *c)
{
    if (c->oldest == NONE)
        return false;
    c->n_evicted += strip(c, c->oldest, false);
    return true;
}

bool lodge_prefix_oldest(const struct lodge_prefix *c, double *aged)
{
    if (c->oldest == NONE)
        return false;
    *aged = c->entries[c->oldest].aged;
    return true;
}

bool lodge_prefix_evict_owner(struct lodge_prefix *c, uint32_t owner)
{
    bool any = false;
    for (uint32_t i = c->oldest, newer; i != NONE; i = newer) {
        newer = c->entries[i].newer;
        if (c->entries[i].owner == owner || c->entries[i].owner == LODGE_OWNER_SEVERAL) {
            c->n_evicted += strip(c, i, false);
            any = true;
        }
    }
    return any;
}

void lodge_prefix_forget_page(struct lodge_prefix *c, uint32_t page)
{
    if (c->pool->pages[page].entry != NONE)
        strip(c, c->pool->pages[page].entry, true);
}
