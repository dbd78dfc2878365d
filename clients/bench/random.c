#include "clients/bench/random.h"

#include <math.h>

static uint64_t splitmix(uint64_t *x)
{
    uint64_t z = *x += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

void bench_random_init(struct bench_random *r, uint64_t seed, uint64_t stream)
{
    uint64_t y = splitmix(&seed) ^ stream, x = splitmix(&y);
    for (int i = 0; i < 4; i++)
        r->s[i] = splitmix(&x);
}

static uint64_t rotl(uint64_t x, int k)
{
    return x << k | x >> (64 - k);
}

/* xoshiro256** of Blackman and Vigna (public domain algorithm). */
uint64_t bench_random_bits(struct bench_random *r)
{
    uint64_t *s = r->s, result = rotl(s[1] * 5, 7) * 9, t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotl(s[3], 45);
    return result;
}

double bench_random_unit(struct bench_random *r)
{
    return ((double)(bench_random_bits(r) >> 12) + 0.5) * 0x1p-52;
}

uint64_t bench_random_below(struct bench_random *r, uint64_t n)
{
    return (uint64_t)(((unsigned __int128)bench_random_bits(r) * n) >> 64);
}

static double normal(struct bench_random *r)
{
    double u, v, q;
    do {
        u = 2 * bench_random_unit(r) - 1;
        v = 2 * bench_random_unit(r) - 1;
        q = u * u + v * v;
    } while (q >= 1 || q == 0);
    return u * sqrt(-2 * log(q) / q);
}

/* Marsaglia and Tsang 2000; shapes below 1 by their power trick. */
double bench_random_gamma(struct bench_random *r, double shape)
{
    if (shape < 1)
        return bench_random_gamma(r, shape + 1) * pow(bench_random_unit(r), 1 / shape);
    double d = shape - 1.0 / 3, c = 1 / sqrt(9 * d), x, v;
    do {
        do {
            x = normal(r);
            v = 1 + c * x;
        } while (v <= 0);
        v = v * v * v;
    } while (log(bench_random_unit(r)) >= x * x / 2 + d - d * v + d * log(v));
    return d * v;
}
