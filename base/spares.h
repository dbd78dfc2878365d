/* Large buffers that are used again: what one user gives back is kept for the next, so that the
 * system need not map and clear fresh memory each time. Few are kept, up to a number of bytes; the
 * longest unused leave first.
 *
 * Threads: any; a leaf lock guards the list.
 */
#ifndef LODGE_BASE_SPARES_H
#define LODGE_BASE_SPARES_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LODGE_MAX_SPARES 16u

struct lodge_spares {
    pthread_mutex_t lock;
    struct lodge_spare {
        uint8_t *at;
        size_t size;
    } kept[LODGE_MAX_SPARES]; /* the longest unused first */
    uint32_t n;
    size_t n_bytes, max_bytes;
};

/* max_bytes: of all that are kept. */
void lodge_spares_init(struct lodge_spares *s, size_t max_bytes);
void lodge_spares_finish(struct lodge_spares *s);

/* Room for n_bytes (> 0) that begins on a 2 MiB boundary, with anything in it: what is not written
 * may be somebody else's. NULL without address space. */
uint8_t *lodge_spares_take(struct lodge_spares *s, size_t n_bytes);
/* Gives back what was taken with the same n_bytes; NULL is nothing. */
void lodge_spares_give(struct lodge_spares *s, uint8_t *at, size_t n_bytes);

#endif
