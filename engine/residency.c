#include "engine/residency.h"

bool lodge_residency_want(struct lodge_residency *r, struct lodge_seq *q)
{
    return !r || !q->req->r.n_adapters;
}

uint32_t lodge_residency_idle_pages(const struct lodge_residency *r, const struct lodge_seq *q)
{
    (void)r;
    (void)q;
    return 0;
}

void lodge_residency_use(struct lodge_residency *r, struct lodge_seq *q)
{
    (void)r;
    (void)q;
}

void lodge_residency_release(struct lodge_residency *r, struct lodge_seq *q)
{
    (void)r;
    (void)q;
}

bool lodge_residency_evict(struct lodge_residency *r, struct lodge_prefix *prefix)
{
    (void)r;
    return lodge_prefix_evict(prefix);
}
