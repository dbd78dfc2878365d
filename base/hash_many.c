#include "base/hash_many.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>

#define SHA __attribute__((target("sha,sse4.1")))
#define SHA_INLINE SHA static inline __attribute__((always_inline))
#define BLOCK 64u

/* Fractions of the cube roots of the first 64 primes. */
static const _Alignas(16) uint32_t constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

/* A message on its way: whole blocks of the data, then of the tail with what is left and the
 * length. The state stands as the instructions want it: words a, b, e, f and c, d, g, h. */
struct lane {
    __m128i abef, cdgh;
    const uint8_t *at;
    size_t n_blocks; /* from `at` on */
    uint8_t tail[2 * BLOCK];
    size_t n_tail; /* blocks, 0 once they are begun */
    struct lodge_digest *out;
};

unsigned lodge_hash_lanes(void)
{
    uint32_t a, b, c, d, c1;
    return __get_cpuid(1, &a, &b, &c1, &d) && (c1 & bit_SSE4_1) &&
                   __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & (1u << 29))
               ? 2
               : 1;
}

/* The same number of blocks in each lane. */
SHA_INLINE void hash_blocks(struct lane *const *lanes, const int n_lanes, size_t n_blocks)
{
    const __m128i swap = _mm_set_epi8(12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3);
    for (; n_blocks; n_blocks--) {
        __m128i words[2][4], abef[2], cdgh[2];
        for (int j = 0; j < n_lanes; j++) {
            abef[j] = lanes[j]->abef;
            cdgh[j] = lanes[j]->cdgh;
        }
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) {
            __m128i k = _mm_load_si128((const __m128i *)(const void *)constants + i);
#pragma GCC unroll 2
            for (int j = 0; j < n_lanes; j++) {
                /* The last 16 words, four of which give way to the next four. */
                __m128i *w0 = &words[j][i % 4], w1 = words[j][(i + 1) % 4];
                __m128i w2 = words[j][(i + 2) % 4], w3 = words[j][(i + 3) % 4];
                if (i < 4)
                    *w0 = _mm_shuffle_epi8(
                        _mm_loadu_si128((const __m128i *)(const void *)lanes[j]->at + i), swap);
                else
                    *w0 = _mm_sha256msg2_epu32(
                        _mm_add_epi32(_mm_sha256msg1_epu32(*w0, w1), _mm_alignr_epi8(w3, w2, 4)),
                        w3);
                __m128i x = _mm_add_epi32(*w0, k);
                cdgh[j] = _mm_sha256rnds2_epu32(cdgh[j], abef[j], x);
                abef[j] = _mm_sha256rnds2_epu32(abef[j], cdgh[j], _mm_shuffle_epi32(x, 0x0E));
            }
        }
        for (int j = 0; j < n_lanes; j++) {
            lanes[j]->abef = _mm_add_epi32(lanes[j]->abef, abef[j]);
            lanes[j]->cdgh = _mm_add_epi32(lanes[j]->cdgh, cdgh[j]);
            lanes[j]->at += BLOCK;
        }
    }
}

SHA static void hash_one(struct lane *const *lanes, size_t n_blocks)
{
    hash_blocks(lanes, 1, n_blocks);
}

SHA static void hash_two(struct lane *const *lanes, size_t n_blocks)
{
    hash_blocks(lanes, 2, n_blocks);
}

/* To the blocks of the tail where those of the data are over; false at the end of both. */
static bool goes_on(struct lane *l)
{
    if (!l->n_blocks && l->n_tail) {
        l->at = l->tail;
        l->n_blocks = l->n_tail;
        l->n_tail = 0;
    }
    return l->n_blocks > 0;
}

static void begin(struct lane *l, const struct lodge_hash_job *job)
{
    size_t left = job->n % BLOCK;
    uint64_t n_bits = (uint64_t)job->n * 8;
    *l = (struct lane){.abef =
                           _mm_set_epi32(0x6a09e667, (int)0xbb67ae85, 0x510e527f, (int)0x9b05688c),
                       .cdgh = _mm_set_epi32(0x3c6ef372, (int)0xa54ff53a, 0x1f83d9ab, 0x5be0cd19),
                       .at = job->data,
                       .n_blocks = job->n / BLOCK,
                       .n_tail = left + 9 > BLOCK ? 2 : 1,
                       .out = job->out};
    if (left)
        memcpy(l->tail, (const uint8_t *)job->data + (job->n - left), left);
    l->tail[left] = 0x80;
    for (size_t i = 0; i < 8; i++)
        l->tail[l->n_tail * BLOCK - 1 - i] = (uint8_t)(n_bits >> 8 * i);
    goes_on(l);
}

static void end(const struct lane *l)
{
    uint32_t abef[4], cdgh[4];
    _mm_storeu_si128((__m128i *)(void *)abef, l->abef);
    _mm_storeu_si128((__m128i *)(void *)cdgh, l->cdgh);
    const uint32_t words[8] = {abef[3], abef[2], cdgh[3], cdgh[2],
                               abef[1], abef[0], cdgh[1], cdgh[0]};
    for (size_t i = 0; i < sizeof l->out->bytes; i++)
        l->out->bytes[i] = (uint8_t)(words[i / 4] >> (24 - i % 4 * 8));
}

static int longest_first(const void *a, const void *b)
{
    size_t x = ((const struct lodge_hash_job *)a)->n, y = ((const struct lodge_hash_job *)b)->n;
    return (x < y) - (x > y);
}

/* Two lanes, of which each takes the longest message that is left when it is free. */
static void hash_in_lanes(struct lodge_hash_job *jobs, uint32_t n_jobs)
{
    struct lane space[2], *busy[2] = {&space[0], &space[1]};
    uint32_t n_busy = 0, next = 0;
    qsort(jobs, n_jobs, sizeof *jobs, longest_first);
    for (;;) {
        while (n_busy < 2 && next < n_jobs)
            begin(busy[n_busy++], &jobs[next++]);
        if (!n_busy)
            return;
        size_t n = busy[0]->n_blocks;
        if (n_busy == 2 && busy[1]->n_blocks < n)
            n = busy[1]->n_blocks;
        (n_busy == 2 ? hash_two : hash_one)(busy, n);
        for (uint32_t j = n_busy; j--;) {
            struct lane *l = busy[j];
            l->n_blocks -= n;
            if (goes_on(l))
                continue;
            end(l);
            busy[j] = busy[--n_busy];
            busy[n_busy] = l;
        }
    }
}
#else
unsigned lodge_hash_lanes(void)
{
    return 1;
}

static void hash_in_lanes(struct lodge_hash_job *jobs, uint32_t n_jobs)
{
    (void)jobs;
    (void)n_jobs;
    abort(); /* lodge_hash_lanes says 1 */
}
#endif

void lodge_sha256_many(struct lodge_hash_job *jobs, uint32_t n_jobs, unsigned n_lanes)
{
    if (n_lanes > 1) {
        hash_in_lanes(jobs, n_jobs);
        return;
    }
    for (uint32_t i = 0; i < n_jobs; i++)
        lodge_sha256(jobs[i].data, jobs[i].n, jobs[i].out);
}
