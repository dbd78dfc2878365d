#include "clients/bench/arrivals.h"

#include "clients/bench/random.h"

#include <math.h>

/* Of the generator's streams, ones that no request and no prefix uses. */
#define ARRIVAL_STREAM(tenant) (UINT64_MAX - ((uint64_t)(tenant) << 25))

int bench_arrivals(double rate, double burstiness, uint64_t n, double duration_s, uint64_t seed,
                   uint32_t tenant, struct bench_samples *out)
{
    struct bench_random r;
    size_t first = out->n;
    double at = 0;
    int err = 0;
    bench_random_init(&r, seed, ARRIVAL_STREAM(tenant));
    for (uint64_t i = 0; !err && (!n || i < n); i++) {
        if (isfinite(rate))
            at += isfinite(burstiness) ? bench_random_gamma(&r, burstiness) / (rate * burstiness)
                                       : 1 / rate;
        if (duration_s > 0 && at > duration_s)
            break;
        err = bench_samples_add(out, at);
    }
    if (!err && duration_s <= 0 && at > 0)
        for (size_t i = first; i < out->n; i++)
            out->v[i] *= (double)n / rate / at;
    return err;
}
