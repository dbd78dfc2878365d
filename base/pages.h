/* Large zeroed memory straight from the system, on huge pages where it gives them. Any thread. */
#ifndef LODGE_BASE_PAGES_H
#define LODGE_BASE_PAGES_H

#include <stddef.h>
#include <stdint.h>

/* n_bytes (> 0) of zeros that begin on a 2 MiB boundary; NULL without address space. The memory
 * is taken when it is first written. Ended by lodge_pages_unmap with the same size. */
uint8_t *lodge_pages_map(size_t n_bytes);
/* NULL is nothing. */
void lodge_pages_unmap(uint8_t *at, size_t n_bytes);

#endif
