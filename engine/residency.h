/* Which adapters are in the pool: the engine thread's side of adapter versions.
 *
 * A version is absent, uploading (its pages are taken and being filled from the host image, a slice
 * between two steps), or resident. A resident version that no running sequence uses is idle: its
 * pages count as cached and may be evicted. Eviction weighs idle adapters against idle prefix
 * blocks by cost (lodge_residency_evict); prefix blocks made with an adapter leave before it.
 *
 * Owner: the engine thread. A NULL residency has no adapters.
 */
#ifndef LODGE_ENGINE_RESIDENCY_H
#define LODGE_ENGINE_RESIDENCY_H

#include "engine/request.h"

struct lodge_residency;

/* Called for waiting sequences in the order in which they would be served, once a plan: true when
 * all adapters are resident; else they are asked for (read ahead from the disk, uploaded when pages
 * are there), and `q` is to be passed over. What is wanted here is not evicted for what is wanted
 * later in the same plan. */
bool lodge_residency_want(struct lodge_residency *r, struct lodge_seq *q);
/* Pages of idle adapters of q, which count as available until q uses them. */
uint32_t lodge_residency_idle_pages(const struct lodge_residency *r, const struct lodge_seq *q);
/* A sequence begins to run, or stops: its adapters cannot be evicted between the two. */
void lodge_residency_use(struct lodge_residency *r, struct lodge_seq *q);
void lodge_residency_release(struct lodge_residency *r, struct lodge_seq *q);
/* Makes at least one page available by evicting what costs least, an idle prefix block or an idle
 * adapter. False when nothing is idle. */
bool lodge_residency_evict(struct lodge_residency *r, struct lodge_prefix *prefix);

#endif
