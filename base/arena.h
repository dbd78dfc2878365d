/* Arena: many small allocations that die together.
 *
 * Good for: what a parser or one request builds. Not for objects freed one by one.
 * Memory is zeroed and aligned to 16 bytes (or as asked). Thread safety: none, one owner.
 * On failure functions return NULL; the arena stays usable.
 */
#ifndef LODGE_BASE_ARENA_H
#define LODGE_BASE_ARENA_H

#include <stddef.h>

struct lodge_arena_block;

struct lodge_arena {
    struct lodge_arena_block *head;
    size_t used_bytes; /* handed out so far, padding included */
    size_t cap_bytes;  /* refuse to hand out more than this */
};

/* `cap_bytes` bounds the sum of all allocations; 0 means no bound. Never fails. */
void lodge_arena_init(struct lodge_arena *a, size_t cap_bytes);
/* Frees everything. A zeroed arena is allowed. */
void lodge_arena_finish(struct lodge_arena *a);

void *lodge_arena_alloc(struct lodge_arena *a, size_t n_bytes);
/* `align` is a power of two up to 4096. */
void *lodge_arena_alloc_aligned(struct lodge_arena *a, size_t n_bytes, size_t align);
/* n elements of `size` bytes, overflow-checked. */
void *lodge_arena_array(struct lodge_arena *a, size_t n, size_t size);
/* Copy of n bytes plus a terminating zero. */
char *lodge_arena_strndup(struct lodge_arena *a, const char *s, size_t n);

#endif
