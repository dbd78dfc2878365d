#include "engine/pool.h"

#include <assert.h>
#include <stdlib.h>

int lodge_pool_init(struct lodge_pool *p, uint32_t n_pages, struct lodge_error *e)
{
    *p = (struct lodge_pool){.n_pages = n_pages};
    p->pages = calloc(n_pages, sizeof *p->pages);
    p->free = calloc(n_pages, sizeof *p->free);
    p->retiring = calloc(n_pages, sizeof *p->retiring);
    p->retire_at = calloc(n_pages, sizeof *p->retire_at);
    if (!p->pages || !p->free || !p->retiring || !p->retire_at) {
        lodge_pool_finish(p);
        return lodge_fail(e, LODGE_ERR_NOMEM, "no memory for the tables of %u pages", n_pages);
    }
    for (uint32_t i = 0; i < n_pages; i++) {
        p->free[i] = n_pages - 1 - i;
        p->pages[i].entry = UINT32_MAX;
    }
    p->n_free = n_pages;
    return 0;
}

void lodge_pool_finish(struct lodge_pool *p)
{
    free(p->pages);
    free(p->free);
    free(p->retiring);
    free(p->retire_at);
    *p = (struct lodge_pool){0};
}

static uint32_t *count_of(struct lodge_pool *p, uint8_t type)
{
    return type == LODGE_PAGE_KV        ? &p->n_kv
           : type == LODGE_PAGE_ADAPTER ? &p->n_adapter
                                        : &p->n_cached;
}

static void retype(struct lodge_pool *p, uint32_t page, enum lodge_page_type type)
{
    uint8_t old = p->pages[page].type;
    if (old != LODGE_PAGE_FREE)
        --*count_of(p, old);
    if (type != LODGE_PAGE_FREE)
        ++*count_of(p, (uint8_t)type);
    p->pages[page].type = (uint8_t)type;
}

static void push_free(struct lodge_pool *p, uint32_t page)
{
    p->free[p->n_free++] = page;
    if (p->on_free)
        p->on_free(p->cookie, page);
}

static void give_back(struct lodge_pool *p, uint32_t page)
{
    retype(p, page, LODGE_PAGE_FREE);
    if (p->submitted > p->retired) {
        p->retire_at[p->n_retiring] = p->submitted;
        p->retiring[p->n_retiring++] = page;
    } else {
        push_free(p, page);
    }
}

uint32_t lodge_pool_take(struct lodge_pool *p, enum lodge_page_type type)
{
    if (!p->n_free)
        return UINT32_MAX;
    uint32_t page = p->free[--p->n_free];
    assert(p->pages[page].refs == 0 && p->pages[page].type == LODGE_PAGE_FREE);
    p->pages[page].refs = 1;
    p->pages[page].entry = UINT32_MAX;
    retype(p, page, type);
    return page;
}

void lodge_pool_ref(struct lodge_pool *p, uint32_t page)
{
    if (p->pages[page].refs++ == 0)
        retype(p, page, LODGE_PAGE_KV);
}

bool lodge_pool_unref(struct lodge_pool *p, uint32_t page)
{
    assert(p->pages[page].refs > 0);
    if (--p->pages[page].refs > 0)
        return false;
    if (p->pages[page].entry != UINT32_MAX) {
        retype(p, page, LODGE_PAGE_CACHED);
        return true;
    }
    give_back(p, page);
    return false;
}

void lodge_pool_idle(struct lodge_pool *p, uint32_t page)
{
    assert(p->pages[page].type == LODGE_PAGE_ADAPTER && p->pages[page].refs == 1);
    p->pages[page].refs = 0;
    retype(p, page, LODGE_PAGE_CACHED);
}

void lodge_pool_reuse(struct lodge_pool *p, uint32_t page)
{
    assert(p->pages[page].type == LODGE_PAGE_CACHED && p->pages[page].entry == UINT32_MAX);
    p->pages[page].refs = 1;
    retype(p, page, LODGE_PAGE_ADAPTER);
}

void lodge_pool_drop(struct lodge_pool *p, uint32_t page)
{
    assert(p->pages[page].type == LODGE_PAGE_CACHED);
    p->pages[page].entry = UINT32_MAX;
    give_back(p, page);
}

void lodge_pool_submitted(struct lodge_pool *p, uint64_t ticket)
{
    p->submitted = ticket;
}

void lodge_pool_retired(struct lodge_pool *p, uint64_t ticket)
{
    p->retired = ticket;
    uint32_t n = 0;
    while (n < p->n_retiring && p->retire_at[n] <= ticket)
        push_free(p, p->retiring[n++]);
    for (uint32_t i = n; i < p->n_retiring; i++) {
        p->retiring[i - n] = p->retiring[i];
        p->retire_at[i - n] = p->retire_at[i];
    }
    p->n_retiring -= n;
}
