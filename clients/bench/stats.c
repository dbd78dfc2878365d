#include "clients/bench/stats.h"

#include "base/error.h"

#include <math.h>
#include <stdlib.h>

int bench_samples_add(struct bench_samples *s, double value)
{
    if (s->n == s->_room) {
        size_t room = s->_room ? s->_room * 2 : 64;
        double *v = reallocarray(s->v, room, sizeof *v);
        if (!v)
            return LODGE_ERR_NOMEM;
        s->v = v;
        s->_room = room;
    }
    s->v[s->n++] = value;
    return 0;
}

void bench_samples_finish(struct bench_samples *s)
{
    free(s->v);
    *s = (struct bench_samples){0};
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

void bench_samples_sort(struct bench_samples *s)
{
    if (s->n)
        qsort(s->v, s->n, sizeof *s->v, ascending);
}

double bench_mean(const struct bench_samples *s)
{
    double sum = 0;
    for (size_t i = 0; i < s->n; i++)
        sum += s->v[i];
    return s->n ? sum / (double)s->n : NAN;
}

double bench_deviation(const struct bench_samples *s)
{
    double mean = bench_mean(s), sum = 0;
    for (size_t i = 0; i < s->n; i++)
        sum += (s->v[i] - mean) * (s->v[i] - mean);
    return s->n ? sqrt(sum / (double)s->n) : NAN;
}

double bench_percentile(const struct bench_samples *sorted, double percent)
{
    if (!sorted->n)
        return NAN;
    double at = percent / 100 * (double)(sorted->n - 1);
    size_t low = (size_t)at, high = low + 1 < sorted->n ? low + 1 : low;
    return sorted->v[low] + (at - (double)low) * (sorted->v[high] - sorted->v[low]);
}

double bench_jain(const struct bench_samples *s)
{
    double sum = 0, squares = 0;
    for (size_t i = 0; i < s->n; i++) {
        sum += s->v[i];
        squares += s->v[i] * s->v[i];
    }
    return squares > 0 ? sum * sum / ((double)s->n * squares) : NAN;
}

double bench_max_min(const struct bench_samples *s)
{
    double least = INFINITY, most = 0;
    for (size_t i = 0; i < s->n; i++) {
        least = fmin(least, s->v[i]);
        most = fmax(most, s->v[i]);
    }
    return most > 0 ? most / least : NAN;
}
