/* Hashes, from nettle. SHA-256 identifies contents; the keyed hash names cache entries so that
 * nobody without the key can construct a collision or guess a name. Pure functions. */
#ifndef LODGE_BASE_HASH_H
#define LODGE_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

struct lodge_digest {
    uint8_t bytes[32];
};

void lodge_sha256(const void *data, size_t n, struct lodge_digest *out);
/* HMAC-SHA256 over the concatenation of two parts (either may be empty). */
void lodge_keyed_hash(const struct lodge_digest *key, const void *a, size_t n_a, const void *b,
                      size_t n_b, struct lodge_digest *out);
/* 64 lower-case digits and a zero. */
void lodge_digest_hex(const struct lodge_digest *d, char out[65]);
/* Fills n bytes from the kernel's random source; aborts the process if there is none. */
void lodge_random_bytes(void *out, size_t n);
/* 1 if equal; time does not depend on where they differ. */
int lodge_equal_secret(const void *a, const void *b, size_t n);

#endif
