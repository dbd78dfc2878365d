#include "engine/fair.h"

#include <stdlib.h>

#define NONE LODGE_NO_TENANT

/* ---- lists ---- */

void lodge_seq_list_insert(struct lodge_seq_list *l, struct lodge_seq *at, struct lodge_seq *q)
{
    q->next = at;
    q->prev = at ? at->prev : l->last;
    *(q->prev ? &q->prev->next : &l->first) = q;
    *(at ? &at->prev : &l->last) = q;
    l->n++;
}

void lodge_seq_list_remove(struct lodge_seq_list *l, struct lodge_seq *q)
{
    *(q->prev ? &q->prev->next : &l->first) = q->next;
    *(q->next ? &q->next->prev : &l->last) = q->prev;
    q->prev = q->next = NULL;
    l->n--;
}

/* ---- heaps ---- */

bool lodge_fair_before(const struct lodge_fair *f, uint32_t a, uint32_t b)
{
    const struct lodge_tenant *x = &f->tenants[a], *y = &f->tenants[b];
    if (x->counter != y->counter)
        return x->counter < y->counter;
    return x->turn != y->turn ? x->turn < y->turn : a < b;
}

static void put(struct lodge_fair *f, struct lodge_tenant_heap *h, uint32_t place, uint32_t t)
{
    h->at[place] = t;
    f->tenants[t].place = place;
}

/* Moves the tenant at `place` to where its counter belongs. */
static void sift(struct lodge_fair *f, struct lodge_tenant_heap *h, uint32_t place)
{
    uint32_t t = h->at[place];
    for (; place && lodge_fair_before(f, t, h->at[(place - 1) / 2]); place = (place - 1) / 2)
        put(f, h, place, h->at[(place - 1) / 2]);
    for (uint32_t child; (child = 2 * place + 1) < h->n; place = child) {
        if (child + 1 < h->n && lodge_fair_before(f, h->at[child + 1], h->at[child]))
            child++;
        if (!lodge_fair_before(f, h->at[child], t))
            break;
        put(f, h, place, h->at[child]);
    }
    put(f, h, place, t);
}

static void heap_add(struct lodge_fair *f, struct lodge_tenant_heap *h, uint32_t t)
{
    h->at[h->n] = t;
    sift(f, h, h->n++);
}

static void heap_remove(struct lodge_fair *f, struct lodge_tenant_heap *h, uint32_t t)
{
    uint32_t place = f->tenants[t].place, moved = h->at[--h->n];
    f->tenants[t].place = NONE;
    if (moved != t) {
        put(f, h, place, moved);
        sift(f, h, place);
    }
}

/* ---- the table ---- */

int lodge_fair_init(struct lodge_fair *f, uint32_t max_tenants, double floor_share,
                    struct lodge_error *e)
{
    uint32_t n = max_tenants + LODGE_MAX_TIERS, n_buckets = 16;
    *f = (struct lodge_fair){.max_tenants = max_tenants, .floor_share = floor_share};
    while (n_buckets < 2 * max_tenants)
        n_buckets *= 2;
    f->mask = n_buckets - 1;
    f->tenants = calloc(n, sizeof *f->tenants);
    f->buckets = calloc(n_buckets, sizeof *f->buckets);
    bool ok = f->tenants && f->buckets;
    for (uint32_t i = 0; i < LODGE_MAX_TIERS && ok; i++) {
        struct lodge_tier *tier = &f->tiers[i];
        tier->last_left = NONE;
        tier->ready.at = calloc(n, sizeof *tier->ready.at);
        tier->idle.at = calloc(n, sizeof *tier->idle.at);
        ok = tier->ready.at && tier->idle.at;
    }
    if (!ok) {
        lodge_fair_finish(f);
        return lodge_fail(e, LODGE_ERR_NOMEM, "no memory for %u tenants", max_tenants);
    }
    for (uint32_t i = 0; i < n_buckets; i++)
        f->buckets[i] = NONE;
    for (uint32_t i = 0; i < n; i++)
        f->tenants[i] = (struct lodge_tenant){.place = NONE,
                                              .chain = i + 1 < max_tenants ? i + 1 : NONE,
                                              .tier = i < max_tenants ? 0 : i - max_tenants,
                                              .weight = 1};
    f->first_free = max_tenants ? 0 : NONE;
    return 0;
}

void lodge_fair_finish(struct lodge_fair *f)
{
    for (uint32_t i = 0; i < LODGE_MAX_TIERS; i++) {
        free(f->tiers[i].ready.at);
        free(f->tiers[i].idle.at);
    }
    free(f->tenants);
    free(f->buckets);
    *f = (struct lodge_fair){0};
}

static uint32_t clamp_tier(uint32_t tier)
{
    return tier < LODGE_MAX_TIERS ? tier : LODGE_MAX_TIERS - 1;
}

static uint32_t *bucket_of(const struct lodge_fair *f, uint64_t id, uint32_t tier)
{
    uint64_t h = (id ^ (uint64_t)tier << 60) * 0x9E3779B97F4A7C15u;
    return &f->buckets[(h >> 32) & f->mask];
}

uint32_t lodge_fair_find(const struct lodge_fair *f, uint64_t id, uint32_t tier)
{
    tier = clamp_tier(tier);
    uint32_t t = *bucket_of(f, id, tier);
    while (t != NONE && (f->tenants[t].id != id || f->tenants[t].tier != tier))
        t = f->tenants[t].chain;
    return t;
}

/* Forgets an idle tenant. */
static void forget(struct lodge_fair *f, uint32_t t)
{
    struct lodge_tenant *x = &f->tenants[t];
    struct lodge_tier *tier = &f->tiers[x->tier];
    if (x->idle)
        heap_remove(f, &tier->idle, t);
    if (tier->last_left == t)
        tier->last_left = NONE;
    uint32_t *at = bucket_of(f, x->id, x->tier);
    while (*at != t)
        at = &f->tenants[*at].chain;
    *at = x->chain;
    *x = (struct lodge_tenant){.place = NONE, .chain = f->first_free};
    f->first_free = t;
    f->n_tenants--;
}

/* Newcomers begin at the floor, so who is there already need not be remembered. */
static void forget_settled(struct lodge_fair *f, struct lodge_tier *tier)
{
    while (tier->idle.n && f->tenants[tier->idle.at[0]].counter <= tier->floor)
        forget(f, tier->idle.at[0]);
}

/* Makes room by the idle tenant that owes least beyond the floor. */
static void forget_one(struct lodge_fair *f)
{
    uint32_t best = NONE;
    double least = 0;
    for (uint32_t i = 0; i < LODGE_MAX_TIERS; i++) {
        const struct lodge_tier *tier = &f->tiers[i];
        double debt = tier->idle.n ? f->tenants[tier->idle.at[0]].counter - tier->floor : 0;
        if (tier->idle.n && (best == NONE || debt < least)) {
            best = tier->idle.at[0];
            least = debt;
        }
    }
    if (best != NONE)
        forget(f, best);
}

static void set_idle(struct lodge_fair *f, uint32_t t)
{
    struct lodge_tenant *x = &f->tenants[t];
    struct lodge_tier *tier = &f->tiers[x->tier];
    if (!x->used || x->waiting.n || x->n_running)
        return;
    if (x->counter <= tier->floor) {
        forget(f, t);
        return;
    }
    x->idle = true;
    heap_add(f, &tier->idle, t);
}

static void set_busy(struct lodge_fair *f, uint32_t t)
{
    struct lodge_tenant *x = &f->tenants[t];
    if (x->idle)
        heap_remove(f, &f->tiers[x->tier].idle, t);
    x->idle = false;
}

uint32_t lodge_fair_tenant(struct lodge_fair *f, uint64_t id, uint32_t tier, float weight)
{
    tier = clamp_tier(tier);
    uint32_t t = lodge_fair_find(f, id, tier);
    if (t == NONE) {
        forget_settled(f, &f->tiers[tier]);
        if (f->first_free == NONE)
            forget_one(f);
        t = f->first_free;
        if (t == NONE)
            return f->max_tenants + tier;
        f->first_free = f->tenants[t].chain;
        uint32_t *at = bucket_of(f, id, tier);
        f->tenants[t] = (struct lodge_tenant){.id = id,
                                              .tier = tier,
                                              .counter = f->tiers[tier].floor,
                                              .place = NONE,
                                              .chain = *at,
                                              .used = true};
        *at = t;
        f->n_tenants++;
    }
    f->tenants[t].weight = !(weight > 0)               ? 1
                           : weight < LODGE_MIN_WEIGHT ? LODGE_MIN_WEIGHT
                           : weight > LODGE_MAX_WEIGHT ? LODGE_MAX_WEIGHT
                                                       : weight;
    return t;
}

/* ---- waiting and running ---- */

void lodge_fair_raise_floor(struct lodge_fair *f, uint32_t tier, double counter)
{
    if (counter > f->tiers[tier].floor)
        f->tiers[tier].floor = counter;
}

/* Where a tenant begins that had nothing waiting. One that could not be served for a while has a
 * counter below the floor, and is no measure. */
static void lift(struct lodge_fair *f, uint32_t t)
{
    struct lodge_tenant *x = &f->tenants[t];
    struct lodge_tier *tier = &f->tiers[x->tier];
    uint32_t first = tier->ready.n ? tier->ready.at[0] : NONE;
    if (!tier->n_tenants && tier->last_left != NONE)
        lodge_fair_raise_floor(f, x->tier, f->tenants[tier->last_left].counter);
    if (first != NONE && !f->n_popped)
        lodge_fair_raise_floor(f, x->tier, f->tenants[first].counter);
    if (x->counter < tier->floor)
        x->counter = tier->floor;
}

void lodge_fair_add(struct lodge_fair *f, uint32_t tenant, struct lodge_seq *at,
                    struct lodge_seq *q)
{
    struct lodge_tenant *x = &f->tenants[tenant];
    f->n_waiting++;
    lodge_seq_list_insert(&x->waiting, at, q);
    if (x->waiting.n > 1)
        return;
    set_busy(f, tenant);
    lift(f, tenant);
    f->tiers[x->tier].n_tenants++;
    heap_add(f, &f->tiers[x->tier].ready, tenant);
}

void lodge_fair_take(struct lodge_fair *f, uint32_t tenant, struct lodge_seq *q)
{
    struct lodge_tenant *x = &f->tenants[tenant];
    struct lodge_tier *tier = &f->tiers[x->tier];
    f->n_waiting--;
    lodge_seq_list_remove(&x->waiting, q);
    if (x->waiting.n)
        return;
    if (x->place != NONE)
        heap_remove(f, &tier->ready, tenant);
    tier->last_left = tenant;
    if (--tier->n_tenants == 0)
        tier->credit = 0;
    set_idle(f, tenant);
}

void lodge_fair_started(struct lodge_fair *f, uint32_t tenant)
{
    set_busy(f, tenant);
    f->tenants[tenant].n_running++;
}

void lodge_fair_stopped(struct lodge_fair *f, uint32_t tenant)
{
    f->tenants[tenant].n_running--;
    set_idle(f, tenant);
}

/* Lower tiers that wait beside a higher one earn their share of every charge. */
static void settle_credits(struct lodge_fair *f, uint32_t tier, double tokens)
{
    bool beside = false;
    for (uint32_t i = 0; i < LODGE_MAX_TIERS; i++) {
        struct lodge_tier *x = &f->tiers[i];
        if (x->n_tenants && beside)
            x->credit += tokens * (f->floor_share - (i == tier));
        beside = beside || x->n_tenants;
    }
}

void lodge_fair_charge(struct lodge_fair *f, uint32_t tenant, double tokens)
{
    struct lodge_tenant *x = &f->tenants[tenant];
    struct lodge_tier *tier = &f->tiers[x->tier];
    settle_credits(f, x->tier, tokens);
    x->counter += tokens / x->weight;
    if (x->place != NONE)
        sift(f, x->idle ? &tier->idle : &tier->ready, x->place);
}

/* ---- serving ---- */

uint32_t lodge_fair_active(const struct lodge_fair *f)
{
    uint32_t n = f->n_tenants;
    for (uint32_t i = 0; i < LODGE_MAX_TIERS; i++)
        n -= f->tiers[i].idle.n;
    return n;
}

uint32_t lodge_fair_next_tier(const struct lodge_fair *f, uint32_t except)
{
    uint32_t first = LODGE_MAX_TIERS, owed = LODGE_MAX_TIERS;
    for (uint32_t i = LODGE_MAX_TIERS; i-- > 0;) {
        if (!f->tiers[i].n_tenants || (except >> i & 1))
            continue;
        first = i;
        if (f->tiers[i].credit > 0 &&
            (owed == LODGE_MAX_TIERS || f->tiers[i].credit >= f->tiers[owed].credit))
            owed = i;
    }
    return owed < LODGE_MAX_TIERS ? owed : first;
}

uint32_t lodge_fair_peek(const struct lodge_fair *f, uint32_t tier)
{
    return f->tiers[tier].ready.n ? f->tiers[tier].ready.at[0] : NONE;
}

uint32_t lodge_fair_pop(struct lodge_fair *f, uint32_t tier)
{
    uint32_t t = lodge_fair_peek(f, tier);
    if (t == NONE)
        return NONE;
    heap_remove(f, &f->tiers[tier].ready, t);
    f->n_popped++;
    return t;
}

void lodge_fair_push(struct lodge_fair *f, uint32_t tenant)
{
    struct lodge_tenant *x = &f->tenants[tenant];
    f->n_popped--;
    if (x->waiting.n && x->place == NONE)
        heap_add(f, &f->tiers[x->tier].ready, tenant);
}
