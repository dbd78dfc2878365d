#include "clients/bench/progress.h"

#include <stdio.h>

#define WIDTH 24

void bench_progress_show(void *cookie, const struct bench_result *r, uint64_t n_planned,
                         uint32_t n_running, double elapsed_s)
{
    const struct bench_progress *p = cookie;
    char bar[WIDTH + 1], planned[24] = "";
    uint64_t failed = 0;
    if (!p->on)
        return;
    double part = n_planned           ? (double)r->n / (double)n_planned
                  : p->duration_s > 0 ? elapsed_s / p->duration_s
                                      : 0;
    for (int i = 0; i < WIDTH; i++)
        bar[i] = (i + 1) <= part * WIDTH ? '#' : '.';
    bar[WIDTH] = 0;
    for (uint32_t i = 0; i < r->n_errors; i++)
        failed += r->errors[i].n;
    if (n_planned)
        snprintf(planned, sizeof planned, "/%llu", (unsigned long long)n_planned);
    fprintf(stderr, "\r\033[K%s [%s] %zu%s done, %u running, %llu failed, %.0f s", p->what, bar,
            r->n, planned, n_running, (unsigned long long)failed, elapsed_s);
    fflush(stderr);
}

void bench_progress_clear(const struct bench_progress *p)
{
    if (p->on)
        fprintf(stderr, "\r\033[K");
}
