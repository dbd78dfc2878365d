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

#include "engine/adapters.h"
#include "engine/request.h"

struct lodge_residency;

/* What getting things back costs, in ns. */
struct lodge_residency_cost {
    double upload_page; /* copying a page from the host image */
    double load_page;   /* reading and packing a page's worth from the disk */
    double token;       /* computing a prompt token */
};

struct lodge_residency_stats {
    uint64_t n_uploads, n_evictions;
    uint32_t n_resident;
    uint64_t resident_bytes;
};

/* Called when an upload begins on behalf of a tenant's request. */
typedef void lodge_residency_charge_fn(void *cookie, uint64_t tenant, uint32_t n_pages);

/* NULL without memory. The three outlive it. */
struct lodge_residency *lodge_residency_create(struct lodge_adapters *adapters,
                                               struct lodge_pool *pool,
                                               struct lodge_prefix *prefix);
void lodge_residency_destroy(struct lodge_residency *r);
void lodge_residency_on_upload(struct lodge_residency *r, lodge_residency_charge_fn *fn,
                               void *cookie);
void lodge_residency_set_cost(struct lodge_residency *r, const struct lodge_residency_cost *c);
void lodge_residency_get_stats(const struct lodge_residency *r, struct lodge_residency_stats *out);

/* Between two steps: fills some pages, within a small part of `step_ns`, the time of the last step
 * (0: nothing runs, then as much as there is), and gives back what nobody refers to. What it leaves
 * of that time the next plan may use for what it begins. True when there was something to fill. */
bool lodge_residency_turn(struct lodge_residency *r, uint64_t step_ns);
/* A plan begins: its uploads may take this many of the available pages, the rest is promised. */
void lodge_residency_begin(struct lodge_residency *r, uint64_t spare_pages);

/* Called for waiting sequences in the order in which they would be served, once a plan: true when
 * all adapters are resident; else they are asked for (read ahead from the disk, uploaded when pages
 * are there, at once if that is quick), and unless that made them resident `q` is to be passed
 * over. What is wanted here is not evicted for what is wanted later in the same plan. Where pages
 * are missing, q->n_pages_wanted says how many; requests whose files were lost are marked
 * (adapter_lost). */
bool lodge_residency_want(struct lodge_residency *r, struct lodge_seq *q);
/* Whether a request was marked adapter_lost since the last call. */
bool lodge_residency_take_lost(struct lodge_residency *r);
/* Pages of idle adapters of q, which count as available until q uses them. */
uint32_t lodge_residency_idle_pages(const struct lodge_residency *r, const struct lodge_seq *q);
/* Supposes that q runs, or that it does not any more, and returns the pages of its adapters that
 * nobody uses then. Only a count changes, which must be put back before anything else is asked. */
uint32_t lodge_residency_suppose(const struct lodge_residency *r, const struct lodge_seq *q,
                                 bool runs);
/* A sequence begins to run, or stops: its adapters cannot be evicted between the two;
 * q->n_adapter_pages says how many pages they take. */
void lodge_residency_use(struct lodge_residency *r, struct lodge_seq *q);
void lodge_residency_release(struct lodge_residency *r, struct lodge_seq *q);
/* Makes at least one page available by evicting what costs least, an idle prefix block or an idle
 * adapter; one that was wanted in the last plan only where nothing else is idle, and with
 * `keep_wanted`, which is for pages taken while that plan still admits, not even then. False when
 * nothing may go. */
bool lodge_residency_evict(struct lodge_residency *r, struct lodge_prefix *prefix,
                           bool keep_wanted);

#endif
