/* Arithmetic on sizes that come from untrusted bytes: every result is either exact or refused. */
#ifndef LODGE_BASE_CHECKED_H
#define LODGE_BASE_CHECKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* *out = a * b; false (and *out undefined) if it does not fit. */
static inline bool lodge_mul_size(size_t a, size_t b, size_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}

/* *out = a + b; false if it does not fit. */
static inline bool lodge_add_size(size_t a, size_t b, size_t *out)
{
    return !__builtin_add_overflow(a, b, out);
}

/* *out = n rounded up to a multiple of `to` (a power of two); false if it does not fit. */
static inline bool lodge_round_up(size_t n, size_t to, size_t *out)
{
    size_t sum;
    if (!lodge_add_size(n, to - 1, &sum))
        return false;
    *out = sum & ~(to - 1);
    return true;
}

#endif
