/* The scheduler: which sequences run, with which pages, and what the next step computes.
 *
 * Iteration level: every step is planned anew from the running sequences. One token each for
 * those that decode, then prompt chunks in the order of admission while the token budget lasts; a
 * prompt too long for the rest of the budget takes half of it while others wait for theirs.
 *
 * The queue is in the order of priority, then arrival, and nobody overtakes its head. The head is
 * admitted when its reservation fits: pages for its prompt and min(max_tokens, reserve_tokens),
 * less what it shares with those that run, beside the unused rest of everybody's reservation. A
 * group with a sliding window reserves no more than its window and a step. Sequences of lower
 * tiers (a larger priority) are preempted for it if that makes it fit.
 *
 * When pages run out all the same (a reply outgrew its reservation) the youngest sequence of the
 * lowest tier that was not preempted before gives up its pages, waits ahead of its tier, and comes
 * back with its worst case reserved; so at most once each, for either reason. Those that were
 * preempted hold reservations that are true, so one that cannot grow always finds a victim.
 *
 * Pure: no clock, no backend, no I/O. Nothing is allocated after creation. Owner: the engine
 * thread.
 */
#ifndef LODGE_ENGINE_SCHED_H
#define LODGE_ENGINE_SCHED_H

#include "engine/residency.h"

struct lodge_sched_limits {
    uint32_t max_seqs, max_step_tokens, reserve_tokens;
    uint32_t max_step_ranks; /* sum of lora_width over a step's tokens; 0: no bound */
    bool prefix_cache;
};

struct lodge_seq_list {
    struct lodge_seq *first, *last;
    uint32_t n;
};

/* One row of the planned step. */
struct lodge_planned {
    struct lodge_seq *seq;
    uint32_t position, n_tokens;
    bool sample; /* the row ends at the sequence's last token */
};

struct lodge_sched {
    struct lodge_sched_limits limits;
    struct lodge_pool *pool;
    struct lodge_prefix *prefix;
    struct lodge_residency *residency; /* NULL: no adapters; set by the owner after init */
    const struct lodge_plan *plan;
    uint32_t page_tokens, n_groups;
    struct lodge_seq_list waiting, running; /* running: in the order of admission */
    uint32_t *free_slots;
    uint32_t n_free_slots;
    /* Holders beyond the first, over all pages of groups with windows. There everybody's
     * reservation counts what it shares, so these pages are promised twice. */
    uint64_t n_shared;
    uint64_t plans, admissions, preemptions;
    uint64_t prefix_queries, prefix_hits; /* prompt tokens, once a request */
    struct lodge_planned *rows;           /* of the next step */
    uint32_t n_rows, n_step_tokens, n_step_ranks;
    uint64_t running_ranks; /* sum of lora_width over those that run */
    uint32_t n_deferred;    /* passed over in the last plan: their adapters are not in the pool */
    struct lodge_page_copy *copies; /* each holds a reference on the page it reads */
    uint32_t n_copies;
};

int lodge_sched_init(struct lodge_sched *s, const struct lodge_sched_limits *limits,
                     struct lodge_pool *pool, struct lodge_prefix *prefix,
                     const struct lodge_plan *plan, uint32_t page_tokens, struct lodge_error *e);
void lodge_sched_finish(struct lodge_sched *s);

/* Most pages a sequence of this many tokens holds at one time. */
uint64_t lodge_sched_pages(const struct lodge_plan *plan, uint32_t page_tokens,
                           uint32_t max_step_tokens, uint64_t n_tokens);
/* Adds a sequence to the queue by priority, then arrival. */
void lodge_sched_enqueue(struct lodge_sched *s, struct lodge_seq *q);
/* Takes a sequence out, wherever it is, and gives its pages back. */
void lodge_sched_remove(struct lodge_sched *s, struct lodge_seq *q);
/* Admits what fits and plans the next step into rows and copies. */
void lodge_sched_plan(struct lodge_sched *s);
/* The step with the planned copies was submitted (or failed): lets go of the pages they read. */
void lodge_sched_submitted(struct lodge_sched *s);
/* The planned row was computed: full blocks enter the prefix cache, windows pass on. */
void lodge_sched_computed(struct lodge_sched *s, const struct lodge_planned *row);
/* What was computed for this sequence is not to be trusted: takes its blocks out of the cache. */
void lodge_sched_distrust(struct lodge_sched *s, const struct lodge_seq *q);
/* Pages that could be taken now or when the steps in flight retire, cached ones included. */
uint32_t lodge_sched_available(const struct lodge_sched *s);

#endif
