/* Who is served next: tenants, tiers, virtual token counters. A pure data structure; it neither
 * knows the time nor what fits.
 *
 * A tenant has a counter: what was computed on its behalf, in virtual tokens over its weight (w_p =
 * 1 for a prompt token that was not in the cache, w_q = 2 for an output token, and loads, see
 * sched.h). Within a tier the next sequence is the first one of the tenant with the smallest
 * counter. So tenants that always have requests waiting get service in proportion to their weights,
 * whatever the number and size of their requests, and an idle tenant's share goes to the others.
 *
 * A tenant that had nothing waiting begins at the counters of the others: at the tier's floor,
 * which is the smallest counter of those that could be served, or, when nobody waits, the counter
 * of the last tenant that left. So nobody saves up credit while idle. A higher counter of its own
 * stays. (Tenants that run and do not wait don't count for the floor: one that asks for little has
 * a low counter, and whoever began there would be owed what it never waited for.)
 *
 * Tiers: 0 is served first. While a lower tier waits beside a higher one it earns credit, a share
 * (floor_share) of all that is charged, and pays for its own; with credit above zero it comes
 * first. So a tier that always waits gets at least its floor, less one request.
 *
 * A tenant is in one of three states: ready (in the heap of its tier, by counter), popped (taken
 * out by the caller to look at, who pushes it back), or without waiting sequences. A tenant with
 * neither waiting nor running sequences is forgotten when its counter is not above the floor, for a
 * new one would begin there too. The table never grows: when it is full the idle tenant that owes
 * least is forgotten, and when all are busy those that come share one place per tier.
 *
 * Operations take O(log tenants). Owner: the engine thread. Nothing is allocated after creation.
 */
#ifndef LODGE_ENGINE_FAIR_H
#define LODGE_ENGINE_FAIR_H

#include "engine/request.h"

#define LODGE_MAX_TIERS LODGE_ENGINE_TIERS /* lower ones (larger numbers) count as the last */
#define LODGE_NO_TENANT UINT32_MAX
#define LODGE_MIN_WEIGHT (1.0f / 1024)
#define LODGE_MAX_WEIGHT 1024.0f

struct lodge_seq_list {
    struct lodge_seq *first, *last;
    uint32_t n;
};

/* A running mean and how far off it is on average. */
struct lodge_mean {
    double mean, spread;
};

struct lodge_tenant {
    uint64_t id;
    uint32_t tier;
    double weight, counter;
    struct lodge_seq_list waiting; /* in the order that the caller keeps */
    uint32_t n_running;
    uint64_t turn;      /* the caller's: order among equal counters, 0 for a new one */
    uint32_t chain;     /* next of its hash bucket, or of the free list */
    uint32_t place;     /* in the heap it is in, or LODGE_NO_TENANT */
    bool used, idle;    /* idle: in the heap of idle ones */
    uint32_t n_planned; /* the caller's: prompt tokens in its plan `planned` */
    uint64_t planned;
    double n_came;                    /* the caller's: arrivals and admissions of late, decaying */
    double n_served;                  /* the same */
    uint64_t counted_ns;              /* when they decayed last */
    struct lodge_mean first_token_ns; /* the caller's: from admission; 0: none yet */
};

struct lodge_tenant_heap {
    uint32_t *at;
    uint32_t n;
};

struct lodge_tier {
    struct lodge_tenant_heap ready, idle;
    uint32_t n_tenants; /* with waiting sequences, popped ones included */
    uint32_t last_left; /* the tenant that last ceased to wait, or LODGE_NO_TENANT */
    double floor;       /* never falls */
    double credit;
};

struct lodge_fair {
    struct lodge_tenant *tenants; /* max_tenants, then one per tier for those without a place */
    uint32_t max_tenants, n_tenants;
    uint32_t first_free;
    uint32_t *buckets;
    uint32_t mask;
    double floor_share;
    uint32_t n_waiting; /* sequences */
    uint32_t n_popped;
    struct lodge_tier tiers[LODGE_MAX_TIERS];
};

int lodge_fair_init(struct lodge_fair *f, uint32_t max_tenants, double floor_share,
                    struct lodge_error *e);
void lodge_fair_finish(struct lodge_fair *f);

/* The tenant of this name in this tier, made if need be; its weight is set (0: 1). A sequence is
 * added to it next. */
uint32_t lodge_fair_tenant(struct lodge_fair *f, uint64_t id, uint32_t tier, float weight);
/* The same if it is there, else LODGE_NO_TENANT. */
uint32_t lodge_fair_find(const struct lodge_fair *f, uint64_t id, uint32_t tier);

/* A sequence begins to wait before `at` (NULL: last) in its tenant's queue; lifts the counter of a
 * tenant that had none waiting. */
void lodge_fair_add(struct lodge_fair *f, uint32_t tenant, struct lodge_seq *at,
                    struct lodge_seq *q);
/* A sequence ceases to wait. */
void lodge_fair_take(struct lodge_fair *f, uint32_t tenant, struct lodge_seq *q);
/* One more sequence runs, or one less: the tenant is remembered as long as one does. */
void lodge_fair_started(struct lodge_fair *f, uint32_t tenant);
void lodge_fair_stopped(struct lodge_fair *f, uint32_t tenant);
/* Puts so many virtual tokens on the tenant's bill. */
void lodge_fair_charge(struct lodge_fair *f, uint32_t tenant, double tokens);

/* Tenants with sequences that wait or run. */
uint32_t lodge_fair_active(const struct lodge_fair *f);
/* The tier to serve next among those that wait and are not in the mask; LODGE_MAX_TIERS: none. */
uint32_t lodge_fair_next_tier(const struct lodge_fair *f, uint32_t except);
/* The ready tenant with the smallest counter, or LODGE_NO_TENANT. */
uint32_t lodge_fair_peek(const struct lodge_fair *f, uint32_t tier);
/* The same, taken out of the heap. */
uint32_t lodge_fair_pop(struct lodge_fair *f, uint32_t tier);
/* Once for each that was popped: back into the heap, if anything of it still waits. */
void lodge_fair_push(struct lodge_fair *f, uint32_t tenant);
/* A tenant of this counter could be served: the floor is not below it. */
void lodge_fair_raise_floor(struct lodge_fair *f, uint32_t tier, double counter);
/* Does a come before b by counter? */
bool lodge_fair_before(const struct lodge_fair *f, uint32_t a, uint32_t b);

void lodge_seq_list_insert(struct lodge_seq_list *l, struct lodge_seq *at, struct lodge_seq *q);
void lodge_seq_list_remove(struct lodge_seq_list *l, struct lodge_seq *q);

#endif
