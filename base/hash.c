#include "base/hash.h"

#include <nettle/hmac.h>
#include <nettle/memops.h>
#include <nettle/sha2.h>
#include <stdlib.h>
#include <sys/random.h>

void lodge_sha256(const void *data, size_t n, struct lodge_digest *out)
{
    struct sha256_ctx ctx;
    sha256_init(&ctx);
    sha256_update(&ctx, n, data);
    sha256_digest(&ctx, sizeof out->bytes, out->bytes);
}

void lodge_keyed_hash(const struct lodge_digest *key, const void *a, size_t n_a, const void *b,
                      size_t n_b, struct lodge_digest *out)
{
    struct hmac_sha256_ctx ctx;
    hmac_sha256_set_key(&ctx, sizeof key->bytes, key->bytes);
    if (n_a)
        hmac_sha256_update(&ctx, n_a, a);
    if (n_b)
        hmac_sha256_update(&ctx, n_b, b);
    hmac_sha256_digest(&ctx, sizeof out->bytes, out->bytes);
}

void lodge_digest_hex(const struct lodge_digest *d, char out[65])
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < sizeof d->bytes; i++) {
        out[2 * i] = digits[d->bytes[i] >> 4];
        out[2 * i + 1] = digits[d->bytes[i] & 15];
    }
    out[64] = 0;
}

void lodge_random_bytes(void *out, size_t n)
{
    uint8_t *p = out;
    while (n) {
        ssize_t got = getrandom(p, n, 0);
        if (got < 0)
            abort();
        p += got;
        n -= (size_t)got;
    }
}

int lodge_equal_secret(const void *a, const void *b, size_t n)
{
    return memeql_sec(a, b, n);
}
