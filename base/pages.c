#include "base/pages.h"

#include <sys/mman.h>

#define HUGE ((size_t)2 << 20)

static size_t whole_pages(size_t n_bytes)
{
    return (n_bytes + 4095) & ~(size_t)4095;
}

uint8_t *lodge_pages_map(size_t n_bytes)
{
    /* Over-reserve so that the region can begin on a huge page. */
    size_t used = whole_pages(n_bytes), size = used + HUGE;
    if (size < n_bytes)
        return NULL;
    uint8_t *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    uint8_t *at = (uint8_t *)(((uintptr_t)p + HUGE - 1) & ~(uintptr_t)(HUGE - 1));
    if (at > p)
        munmap(p, (size_t)(at - p));
    if (p + size > at + used)
        munmap(at + used, (size_t)(p + size - (at + used)));
    madvise(at, used, MADV_HUGEPAGE);
    return at;
}

void lodge_pages_unmap(uint8_t *at, size_t n_bytes)
{
    if (at)
        munmap(at, whole_pages(n_bytes));
}
