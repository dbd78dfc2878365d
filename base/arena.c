#include "base/arena.h"

#include "base/checked.h"

#include <stdlib.h>
#include <string.h>

#define BLOCK_BYTES ((size_t)64 << 10)
#define ALIGN_MAX 4096u

struct lodge_arena_block {
    struct lodge_arena_block *next;
    size_t used;
    size_t size;
    unsigned char bytes[];
};

void lodge_arena_init(struct lodge_arena *a, size_t cap_bytes)
{
    *a = (struct lodge_arena){.cap_bytes = cap_bytes};
}

void lodge_arena_finish(struct lodge_arena *a)
{
    if (!a)
        return;
    while (a->head) {
        struct lodge_arena_block *next = a->head->next;
        free(a->head);
        a->head = next;
    }
    a->used_bytes = 0;
}

static void *carve(struct lodge_arena_block *b, size_t n, size_t align)
{
    uintptr_t at = (uintptr_t)b->bytes + b->used;
    size_t pad = (size_t)(-at & (align - 1));
    if (pad > b->size - b->used || n > b->size - b->used - pad)
        return NULL;
    b->used += pad + n;
    return b->bytes + (b->used - n);
}

void *lodge_arena_alloc_aligned(struct lodge_arena *a, size_t n_bytes, size_t align)
{
    size_t need;
    if (align > ALIGN_MAX || !lodge_add_size(n_bytes, align, &need))
        return NULL;
    if (a->cap_bytes && (need > a->cap_bytes || a->used_bytes > a->cap_bytes - need))
        return NULL;
    void *p = a->head ? carve(a->head, n_bytes, align) : NULL;
    if (!p) {
        size_t size = need > BLOCK_BYTES ? need : BLOCK_BYTES;
        if (size > SIZE_MAX - sizeof(struct lodge_arena_block))
            return NULL;
        struct lodge_arena_block *b = calloc(1, sizeof *b + size);
        if (!b)
            return NULL;
        b->size = size;
        b->next = a->head;
        a->head = b;
        p = carve(b, n_bytes, align);
    }
    a->used_bytes += need;
    return p;
}

void *lodge_arena_alloc(struct lodge_arena *a, size_t n_bytes)
{
    return lodge_arena_alloc_aligned(a, n_bytes, 16);
}

void *lodge_arena_array(struct lodge_arena *a, size_t n, size_t size)
{
    size_t bytes;
    return lodge_mul_size(n, size, &bytes) ? lodge_arena_alloc(a, bytes) : NULL;
}

char *lodge_arena_strndup(struct lodge_arena *a, const char *s, size_t n)
{
    size_t bytes;
    char *p = lodge_add_size(n, 1, &bytes) ? lodge_arena_alloc(a, bytes) : NULL;
    if (p && n)
        memcpy(p, s, n);
    return p;
}
