/* The scheduler: which sequences run, with which pages, and what the next step computes.
 *
 * Iteration level: every step is planned anew from the running sequences. One token each for
 * those that decode, then prompt chunks in the order of admission while the token budget lasts; a
 * prompt too long for the rest of the budget takes half of it while others wait for theirs. Beside
 * replies prompts get no more tokens than keep the step short (step_cost.h).
 *
 * The queue's order is the policy's (sched_queue.h). Under `priority` it is priority, then arrival;
 * under `fcfs` arrival; under `fair` tiers, then tenants by what they were served (fair.h). Nobody
 * overtakes a sequence that is next and does not fit; one whose adapters are not in the pool yet is
 * passed over and keeps its place. The next one is admitted when its reservation fits: pages for
 * its prompt and min(max_tokens, reserve_tokens), less what it shares with those that run, beside
 * the unused rest of everybody's reservation. A group with a sliding window reserves no more than
 * its window and a step. Sequences of a lower class (tier, or a larger priority) are preempted for
 * it if that makes it fit.
 *
 * When pages run out all the same (a reply outgrew its reservation) the youngest sequence of the
 * lowest class that was not preempted before gives up its pages, waits ahead of its tenant's
 * others, and comes back with its worst case reserved; so at most once each, for either reason.
 * Those that were preempted hold reservations that are true, so one that cannot grow always finds a
 * victim.
 *
 * Fair policy, what is charged in virtual tokens, over the tenant's weight:
 *
 * - prompt tokens that were not cached: LODGE_COST_PROMPT each, at the first admission only; what a
 *   preemption makes the engine compute again is not charged;
 *
 * - output tokens: LODGE_COST_OUTPUT each, in the step that makes them, the first one too;
 *
 * - adapter pages uploaded: LODGE_COST_PAGE x the KV tokens that such a page would hold in all
 *   layers, page_tokens / n_groups;
 *
 * - adapter pages in use: the same for every second of a sequence that uses them.
 *
 * The bound. Let U = the most that a tenant can be charged for what it has running at one time,
 * w_p x (uncached prompts) + w_q x (output) + loads, over its weight. With W the locality window
 * (sched_queue.h), the counters of two tenants of one tier that have waiting sequences which could
 * be served differ by at most U + W: a tenant is only served at a counter within W of the smallest,
 * and from then on grows by what it has running. Over an interval in which both always wait, their
 * service over their weights differs by at most 2 (U + W). Where admission reserves the whole
 * reply, U <= max(w_p, w_q) x tokens of the pool / weight. Sequences that wait for their adapters
 * to be loaded cannot be served, and are outside of the bound until they are there.
 *
 * A sequence is admitted under `fair` only while there is room for its prompt in the next step, so
 * the choice is made when it matters. Prompt chunks go by tier, and inside a tier tenants take
 * turns in every step.
 *
 * Guesses (speculate.h) take what tokens the step has left when all others have theirs, and pages
 * that are promised to their sequence.
 *
 * Headroom: a share of slots and pages (`spare`) is given only to tenants that run less than an
 * equal part of the slots, so that one which begins while another floods need not wait for a reply
 * to end. It is kept while more than one tenant was there within LODGE_SCHED_SHARED_NS; else all is
 * given to whoever waits.
 *
 * Early abort (slo_ttft_ns > 0): a request that a plan passed over and that cannot get its first
 * token in time any more, by its tenant's time from admission to first token of late, is named by
 * lodge_sched_hopeless. A tenant from which clearly more came than was served, for longer than a
 * burst lasts, and whose oldest waits for half of the time already, is served newest first: so that
 * what is computed is in time. The order among tenants is not affected.
 *
 * Pure: no clock (the caller passes the time), no backend, no I/O. Nothing is allocated after
 * creation. Owner: the engine thread.
 */
#ifndef LODGE_ENGINE_SCHED_H
#define LODGE_ENGINE_SCHED_H

#include "engine/fair.h"
#include "engine/residency.h"

#define LODGE_COST_PROMPT 1.0
#define LODGE_COST_OUTPUT 2.0
/* A byte copied beside a byte of keys and values computed. */
#define LODGE_COST_PAGE (1.0 / 16)

/* What the engine sets where nobody says otherwise. */
#define LODGE_SCHED_MAX_AGE_NS 3000000000u
#define LODGE_SCHED_TIER_FLOOR 0.10
#define LODGE_SCHED_WINDOW_STEPS 4u /* window over max_step_tokens */
#define LODGE_SCHED_SPARE (1.0 / 32)
#define LODGE_SCHED_SHARED_NS 60000000000u

struct lodge_sched_limits {
    enum lodge_policy policy;
    uint32_t max_seqs, max_step_tokens, reserve_tokens;
    uint32_t max_step_ranks; /* sum of lora_width over a step's tokens; 0: no bound */
    uint32_t max_tenants;    /* that are told apart */
    bool prefix_cache;
    double tier_floor;    /* share of a lower tier that waits beside a higher one */
    double window;        /* most virtual tokens that a cached prefix is worth in the order */
    uint64_t max_age_ns;  /* of a waiting request, from which on locality does not count */
    uint64_t slo_ttft_ns; /* 0: no early abort */
    double spare;         /* share of slots and pages kept for tenants that run little */
};

#define LODGE_QUEUE_FRONT 16u

/* A tenant at the front of the queue and what it would have served next. */
struct lodge_front {
    uint32_t tenant;
    struct lodge_seq *strict; /* in its order */
    struct lodge_seq *near;   /* of the first few the one that the cache saves most, or NULL */
    double saved;             /* by the cache for it, virtual tokens over the weight */
};

/* State of choosing, most of it of one plan. */
struct lodge_queue {
    struct lodge_front front[LODGE_QUEUE_FRONT];
    uint32_t n_front, tier;
    uint32_t *aside; /* popped tenants of which nothing can be served in this plan */
    uint32_t n_aside, n_looks, skipped_tiers;
    bool strict;
    uint64_t now_ns, shared_ns; /* of this plan; when two tenants were last there at once */
    struct lodge_seq *oldest, *youngest; /* of those that never ran, by arrival */
    uint64_t drain_from;                 /* admissions when the drain began */
    struct lodge_seq *drain_for;         /* waits for adapter pages for too long, or NULL */
};

/* One row of the planned step. */
struct lodge_planned {
    struct lodge_seq *seq;
    uint32_t position, n_tokens;
    bool sample;      /* the row ends at the sequence's last token, or its draft */
    uint32_t n_draft; /* of n_tokens: guesses behind the sequence's last token */
};

struct lodge_sched {
    struct lodge_sched_limits limits;
    struct lodge_pool *pool;
    struct lodge_prefix *prefix;
    struct lodge_residency *residency; /* NULL: no adapters; set by the owner after init */
    const struct lodge_plan *plan;
    uint32_t page_tokens, n_groups;
    struct lodge_fair fair; /* those that wait */
    struct lodge_queue queue;
    struct lodge_seq_list running; /* in the order of admission */
    uint32_t *free_slots;
    uint32_t n_free_slots;
    /* Holders beyond the first, over all pages of groups with windows. There everybody's
     * reservation counts what it shares, so these pages are promised twice. */
    uint64_t n_shared;
    uint64_t plans, admissions, preemptions;
    uint64_t prefix_queries, prefix_hits; /* prompt tokens, once a request */
    uint64_t admitted_in_tier[LODGE_MAX_TIERS];
    uint64_t aborted_early; /* counted by whoever aborts what lodge_sched_hopeless names */
    struct lodge_mean first_token_ns, step_ns; /* from admission, of all; from plan to plan */
    uint64_t planned_ns;                       /* when the last plan was made */
    struct lodge_planned *rows;                /* of the next step */
    uint32_t n_rows, n_step_tokens, n_step_ranks;
    uint32_t prompt_tokens; /* of prompts in a step that has replies, at most; set by the owner, 0:
                               no bound */
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
/* Adds a sequence to the queue. req->arrived_ns must not be later than the next plan. */
void lodge_sched_enqueue(struct lodge_sched *s, struct lodge_seq *q);
/* Takes a sequence out, wherever it is, and gives its pages back. */
void lodge_sched_remove(struct lodge_sched *s, struct lodge_seq *q);
/* Admits what fits and plans the next step into rows and copies. `now_ns` never falls. */
void lodge_sched_plan(struct lodge_sched *s, uint64_t now_ns);
/* A waiting sequence whose request cannot have its first token within slo_ttft_ns any more, or
 * NULL. The caller ends its request (LODGE_ERR_OVERLOADED) and asks again. */
struct lodge_seq *lodge_sched_hopeless(const struct lodge_sched *s, uint64_t now_ns);
/* An upload of so many adapter pages began for a tenant's sake. */
void lodge_sched_charge_load(struct lodge_sched *s, uint64_t tenant, uint32_t n_pages);
/* The step with the planned copies was submitted (or failed): lets go of the pages they read. */
void lodge_sched_submitted(struct lodge_sched *s);
/* So many guesses of the row were right: they count as output, the others were not computed. Before
 * lodge_sched_computed. */
void lodge_sched_accepted(struct lodge_sched *s, struct lodge_planned *row, uint32_t n_right);
/* The planned row was computed: full blocks enter the prefix cache, windows pass on. */
void lodge_sched_computed(struct lodge_sched *s, const struct lodge_planned *row);
/* What was computed for this sequence is not to be trusted: takes its blocks out of the cache. */
void lodge_sched_distrust(struct lodge_sched *s, const struct lodge_seq *q);
/* Pages that could be taken now or when the steps in flight retire, cached ones included. */
uint32_t lodge_sched_available(const struct lodge_sched *s);

#endif
