#include "server/bucket.h"

double bucket_level(const struct bucket *b, uint64_t now_ns)
{
    double passed = now_ns > b->at_ns ? (double)(now_ns - b->at_ns) * 1e-9 : 0;
    double level = b->level + passed * b->per_minute / 60;
    return level < b->per_minute ? level : b->per_minute;
}

void bucket_set(struct bucket *b, double per_minute, uint64_t now_ns)
{
    double share = b->per_minute > 0 ? bucket_level(b, now_ns) / b->per_minute : 1;
    *b = (struct bucket){per_minute, share * per_minute, now_ns};
}

bool bucket_has(const struct bucket *b, double n, uint64_t now_ns)
{
    return b->per_minute <= 0 || bucket_level(b, now_ns) >= n;
}

void bucket_take(struct bucket *b, double n, uint64_t now_ns)
{
    if (b->per_minute <= 0)
        return;
    double level = bucket_level(b, now_ns) - n;
    b->level = level < b->per_minute ? level : b->per_minute;
    b->at_ns = now_ns;
}

double bucket_wait_s(const struct bucket *b, double n, uint64_t now_ns)
{
    double level = bucket_level(b, now_ns);
    if (b->per_minute <= 0 || level >= n)
        return 0;
    return n > b->per_minute ? -1 : (n - level) * 60 / b->per_minute;
}
