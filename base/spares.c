#include "base/spares.h"

#include "base/pages.h"

#include <string.h>

#define LEAST ((size_t)64 << 10)

void lodge_spares_init(struct lodge_spares *s, size_t max_bytes)
{
    *s = (struct lodge_spares){.max_bytes = max_bytes};
    pthread_mutex_init(&s->lock, NULL);
}

void lodge_spares_finish(struct lodge_spares *s)
{
    while (s->n) {
        s->n--;
        lodge_pages_unmap(s->kept[s->n].at, s->kept[s->n].size);
    }
    pthread_mutex_destroy(&s->lock);
}

/* Sizes come in steps of an eighth, so that buffers of about the same size stand in for each
 * other. */
static size_t size_of(size_t n_bytes)
{
    size_t step = LEAST / 8;
    while (step * 16 <= n_bytes && step <= SIZE_MAX / 32)
        step *= 2;
    size_t size = (n_bytes + step - 1) / step * step;
    return n_bytes <= SIZE_MAX - step ? size : n_bytes;
}

/* The lock is held. */
static struct lodge_spare remove_at(struct lodge_spares *s, uint32_t i)
{
    struct lodge_spare spare = s->kept[i];
    s->n--;
    s->n_bytes -= spare.size;
    memmove(&s->kept[i], &s->kept[i + 1], (s->n - i) * sizeof *s->kept);
    return spare;
}

uint8_t *lodge_spares_take(struct lodge_spares *s, size_t n_bytes)
{
    struct lodge_spare spare = {.size = size_of(n_bytes)};
    pthread_mutex_lock(&s->lock);
    /* The one used last: most of it may still be in a cache. */
    for (uint32_t i = s->n; i-- && !spare.at;)
        if (s->kept[i].size == spare.size)
            spare = remove_at(s, i);
    pthread_mutex_unlock(&s->lock);
    return spare.at ? spare.at : lodge_pages_map(spare.size);
}

void lodge_spares_give(struct lodge_spares *s, uint8_t *at, size_t n_bytes)
{
    struct lodge_spare spare = {at, size_of(n_bytes)};
    if (!at)
        return;
    pthread_mutex_lock(&s->lock);
    bool fits = spare.size <= s->max_bytes;
    struct lodge_spare left[LODGE_MAX_SPARES];
    uint32_t n_left = 0;
    while (fits && (s->n == LODGE_MAX_SPARES || s->n_bytes + spare.size > s->max_bytes))
        left[n_left++] = remove_at(s, 0);
    if (fits) {
        s->kept[s->n++] = spare;
        s->n_bytes += spare.size;
    }
    pthread_mutex_unlock(&s->lock);
    for (uint32_t i = 0; i < n_left; i++)
        lodge_pages_unmap(left[i].at, left[i].size);
    if (!fits)
        lodge_pages_unmap(at, spare.size);
}
