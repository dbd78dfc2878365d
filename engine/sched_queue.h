/* The queue of the scheduler: which waiting sequence is to be admitted next. For sched.c only.
 *
 * Order inside a tenant: those that ran before and further choices of requests that run, then by
 * arrival (under `priority` by priority first). Order among tenants: fair.h. The other policies put
 * all sequences into one tenant.
 *
 * Locality, under `fair`: it is worth what it saves. The front of the queue are the tenants (at
 * most LODGE_QUEUE_FRONT) whose counters are within `window` of the smallest. Of the first few
 * sequences of each that could be served, the one with the longest beginning in the prefix cache is
 * its choice, and the tenant's place is its counter less the prompt tokens that the choice saves.
 * If the first by that order does not fit, the strictly next one is tried. Where
 * that one is max_age_ns old, nothing goes before it.
 *
 * Sequences whose adapters are not in the pool are passed over and asked for again in every plan,
 * in this order. What is looked at in a plan is bounded (unless nothing runs), so that a plan's
 * time does not grow with the queue.
 *
 * Drain: when one such sequence is max_age_ns old and lacks pages for its adapters, because others
 * hold them, only those are admitted that end about when the next one does of those that ran when
 * the drain began (at most 1.2 times the output that is left to it), and those that ran before;
 * until it has its pages. So it waits no longer than its age and 1.2 times the longest of the
 * replies. Higher tiers are held back so only while its tier is owed its floor.
 */
#ifndef LODGE_ENGINE_SCHED_QUEUE_H
#define LODGE_ENGINE_SCHED_QUEUE_H

#include "engine/sched.h"

int lodge_queue_init(struct lodge_sched *s, struct lodge_error *e);
void lodge_queue_finish(struct lodge_sched *s);

/* Smaller is served first, larger is preempted for it. */
int64_t lodge_queue_class(const struct lodge_sched *s, const struct lodge_seq *q);
void lodge_queue_add(struct lodge_sched *s, struct lodge_seq *q);
/* Ceases to wait. */
void lodge_queue_remove(struct lodge_sched *s, struct lodge_seq *q);

/* Between begin and end: next names a sequence, which is admitted (started, and removed from the
 * queue by then) or refused because it does not fit. After a refusal that returns false nothing may
 * be admitted any more. */
void lodge_queue_begin(struct lodge_sched *s);
struct lodge_seq *lodge_queue_next(struct lodge_sched *s);
void lodge_queue_admitted(struct lodge_sched *s, const struct lodge_seq *q);
bool lodge_queue_refused(struct lodge_sched *s, const struct lodge_seq *q);
void lodge_queue_end(struct lodge_sched *s);

/* Longest time from admission to first token that is usual of late for requests of a tenant:
 * prompts of one that floods wait in the batch, and say nothing of others'. */
uint64_t lodge_queue_first_token_ns(const struct lodge_sched *s, uint32_t tenant);

#endif
