/* The scheduler: which sequences run, with which pages, and what the next step computes.
 *
 * Iteration level: every step is planned anew from the running sequences. One token each for
 * those that decode, then prompt chunks in the order of admission while the token budget lasts.
 * A waiting sequence is admitted when its reservation fits: blocks for its prompt and
 * min(max_tokens, reserve_tokens), less what the prefix cache holds, beside the unused rest of
 * everybody's reservation. When pages run out all the same (a reply outgrew its reservation) the
 * youngest sequence of the lowest tier that was not preempted before gives up its pages, waits at
 * the head of the queue, and comes back with its worst case reserved; so at most once each.
 *
 * Pure: no clock, no backend, no I/O. Owner: the engine thread.
 */
#ifndef LODGE_ENGINE_SCHED_H
#define LODGE_ENGINE_SCHED_H

#include "engine/request.h"

struct lodge_sched_limits {
    uint32_t max_seqs, max_step_tokens, reserve_tokens;
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
    const struct lodge_plan *plan;
    uint32_t page_tokens, n_groups;
    struct lodge_seq_list waiting, running; /* running: in the order of admission */
    uint32_t *free_slots;
    uint32_t n_free_slots;
    uint64_t admissions, preemptions, prefix_queries, prefix_hits;
    struct lodge_planned *rows; /* of the next step */
    uint32_t n_rows, n_step_tokens;
    struct lodge_page_copy *copies;
    uint32_t n_copies;
};

int lodge_sched_init(struct lodge_sched *s, const struct lodge_sched_limits *limits,
                     struct lodge_pool *pool, struct lodge_prefix *prefix,
                     const struct lodge_plan *plan, uint32_t page_tokens, struct lodge_error *e);
void lodge_sched_finish(struct lodge_sched *s);

/* Could a sequence of this many tokens ever run? */
bool lodge_sched_fits(const struct lodge_sched *s, uint32_t n_tokens);
/* Adds a sequence to the queue by priority, then arrival. */
void lodge_sched_enqueue(struct lodge_sched *s, struct lodge_seq *q);
/* Takes a sequence out, wherever it is, and gives its pages back. */
void lodge_sched_remove(struct lodge_sched *s, struct lodge_seq *q);
/* Admits what fits and plans the next step into rows and copies. */
void lodge_sched_plan(struct lodge_sched *s);
/* The planned rows were computed: full blocks enter the prefix cache, windows pass on. */
void lodge_sched_computed(struct lodge_sched *s, const struct lodge_planned *row);
/* Pages that could be taken now, cached ones included. */
uint32_t lodge_sched_available(const struct lodge_sched *s);

#endif
