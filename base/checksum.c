#include "base/checksum.h"

#include <string.h>

static const uint64_t p1 = 0x9E3779B185EBCA87u, p2 = 0xC2B2AE3D27D4EB4Fu, p3 = 0x165667B19E3779F9u,
                      p4 = 0x85EBCA77C2B2AE63u, p5 = 0x27D4EB2F165667C5u;

static uint64_t rotate(uint64_t x, unsigned by)
{
    return x << by | x >> (64 - by);
}

static uint64_t word64(const uint8_t *at)
{
    uint64_t x;
    memcpy(&x, at, sizeof x);
    return x;
}

static uint64_t word32(const uint8_t *at)
{
    uint32_t x;
    memcpy(&x, at, sizeof x);
    return x;
}

static uint64_t take(uint64_t lane, uint64_t word)
{
    return rotate(lane + word * p2, 31) * p1;
}

/* Four lanes take 32 bytes a turn, so that their multiplications overlap. */
static uint64_t stripes(const uint8_t *at, size_t n, uint64_t seed)
{
    uint64_t a = seed + p1 + p2, b = seed + p2, c = seed, d = seed - p1;
    for (; n >= 32; n -= 32, at += 32) {
        a = take(a, word64(at));
        b = take(b, word64(at + 8));
        c = take(c, word64(at + 16));
        d = take(d, word64(at + 24));
    }
    uint64_t sum = rotate(a, 1) + rotate(b, 7) + rotate(c, 12) + rotate(d, 18);
    const uint64_t lanes[] = {a, b, c, d};
    for (int i = 0; i < 4; i++)
        sum = (sum ^ take(0, lanes[i])) * p1 + p4;
    return sum;
}

uint64_t lodge_xxh64(const void *data, size_t n, uint64_t seed)
{
    const uint8_t *at = data;
    uint64_t sum = n >= 32 ? stripes(at, n, seed) : seed + p5;
    size_t left = n % 32;
    at += n - left;
    sum += n;
    for (; left >= 8; left -= 8, at += 8)
        sum = rotate(sum ^ take(0, word64(at)), 27) * p1 + p4;
    for (; left >= 4; left -= 4, at += 4)
        sum = rotate(sum ^ word32(at) * p1, 23) * p2 + p3;
    for (; left; left--, at++)
        sum = rotate(sum ^ *at * p5, 11) * p1;
    sum = (sum ^ sum >> 33) * p2;
    sum = (sum ^ sum >> 29) * p3;
    return sum ^ sum >> 32;
}
