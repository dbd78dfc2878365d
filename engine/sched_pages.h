/* Pages of sequences: what admission costs, taking, sharing, giving back. The scheduler's other
 * half (its policy is in sched.c); for the two of them only.
 *
 * A running sequence has one block table a group. Blocks before freed_front have passed a window
 * and hold no page; of all others it holds one reference. A sequence that does not run holds none.
 */
#ifndef LODGE_ENGINE_SCHED_PAGES_H
#define LODGE_ENGINE_SCHED_PAGES_H

#include "engine/sched.h"

/* What admitting a sequence means now. */
struct lodge_claim {
    struct lodge_seq *source; /* whose pages it forks, or NULL */
    uint32_t n_cached;        /* leading blocks from the prefix cache; entries in q->pages */
    uint32_t reserved;        /* blocks */
    uint64_t n_pages;         /* that cease to be available, now or later */
    uint64_t n_alone;         /* the same if it could share nothing */
};

uint32_t lodge_sched_blocks_of(uint32_t page_tokens, uint64_t n_tokens);

/* Leading blocks of a waiting sequence that the prefix cache has, to a power of two below and no
 * more than `most`: an estimate that looks at few of them. */
uint32_t lodge_sched_blocks_in_cache(struct lodge_sched *s, struct lodge_seq *q, uint32_t most);
struct lodge_claim lodge_sched_claim(struct lodge_sched *s, struct lodge_seq *q);
/* Gives the sequence the pages it shares, or finds in the cache. The claim must be fresh. */
void lodge_sched_use_claim(struct lodge_sched *s, struct lodge_seq *q, const struct lodge_claim *c);

/* Pages that a running sequence may still claim by its reservation. */
uint64_t lodge_sched_unclaimed(const struct lodge_sched *s, const struct lodge_seq *q);
/* Pages that nobody else holds. */
uint64_t lodge_sched_own_pages(const struct lodge_sched *s, const struct lodge_seq *q);

/* One more block, in all groups or none; evicts from the cache. False when pages have run out. */
bool lodge_sched_add_block(struct lodge_sched *s, struct lodge_seq *q);
/* Gives all pages back; the sequence must be computed anew. */
void lodge_sched_release_pages(struct lodge_sched *s, struct lodge_seq *q);
/* Planned copies into this sequence's last block will not be needed. Others keep their order. */
void lodge_sched_drop_copies(struct lodge_sched *s, const struct lodge_seq *q);

#endif
