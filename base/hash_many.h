/* SHA-256 of several messages. One stream of the CPU's SHA instructions waits for itself half of
 * the time; two streams side by side do twice the work.
 *
 * Source: FIPS 180-4; Intel, "New Instructions Supporting the Secure Hash Algorithm", 2013.
 * Pure functions.
 */
#ifndef LODGE_BASE_HASH_MANY_H
#define LODGE_BASE_HASH_MANY_H

#include "base/hash.h"

struct lodge_hash_job {
    const void *data;
    size_t n;
    struct lodge_digest *out;
};

/* Streams that this CPU hashes side by side: 2, or 1 without such instructions. Asking takes
 * microseconds on a virtual machine. */
unsigned lodge_hash_lanes(void);
/* Fills all digests, each what lodge_sha256 gives. Reorders the jobs. `n_lanes` is at most what
 * lodge_hash_lanes says; 0 is 1. */
void lodge_sha256_many(struct lodge_hash_job *jobs, uint32_t n_jobs, unsigned n_lanes);

#endif
