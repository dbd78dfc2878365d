/* A run of bytes that somebody else owns. */
#ifndef LODGE_BASE_SPAN_H
#define LODGE_BASE_SPAN_H

#include <stddef.h>

struct lodge_span {
    const char *data; /* not zero-terminated */
    size_t n;
};

#endif
