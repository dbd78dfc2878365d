/* XXH64, the 64-bit checksum of Yann Collet's xxHash (https://github.com/Cyan4973/xxHash, its
 * specification in doc/xxhash_spec.md): finds damage at memory speed. It is no defence against who
 * wants a collision; that is what base/hash.h is for. Pure function, any thread. */
#ifndef LODGE_BASE_CHECKSUM_H
#define LODGE_BASE_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

/* n bytes (0 too) of any alignment, taken as little-endian words. A result as the next call's seed
 * makes one checksum of several parts. */
uint64_t lodge_xxh64(const void *data, size_t n, uint64_t seed);

#endif
