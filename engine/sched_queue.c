#include "engine/sched_queue.h"

#include "engine/sched_pages.h"

#include <math.h>
#include <stdlib.h>

#define COUNTED_SLOS 8
/* Above what a queue of one objective adds to what came in the time that counts. */
#define OVERLOAD 1.25

/* Sequences that a plan looks at: in all, of one tenant, and of one tenant that could be served. */
#define MOST_LOOKS 128u
#define MOST_TENANT_LOOKS 32u
#define MOST_CHOICES 4u
/* Beyond those, if only to have their adapters loaded. */
#define MOST_AHEAD 32u

/* How much longer than the next to end one may run that is admitted while draining. */
#define DRAIN_FACTOR 1.2

static bool is_fair(const struct lodge_sched *s)
{
    return s->limits.policy == LODGE_POLICY_FAIR;
}

int lodge_queue_init(struct lodge_sched *s, struct lodge_error *e)
{
    uint32_t n = is_fair(s) ? s->limits.max_tenants : 1;
    s->queue = (struct lodge_queue){.aside = calloc(n + LODGE_MAX_TIERS, sizeof(uint32_t))};
    if (!s->queue.aside)
        return lodge_fail(e, LODGE_ERR_NOMEM, "no memory for the queue");
    return lodge_fair_init(&s->fair, n, s->limits.tier_floor, e);
}

void lodge_queue_finish(struct lodge_sched *s)
{
    free(s->queue.aside);
    lodge_fair_finish(&s->fair);
}

/* ---- order inside a tenant ---- */

int64_t lodge_queue_class(const struct lodge_sched *s, const struct lodge_seq *q)
{
    const struct lodge_request *r = &q->req->r;
    if (is_fair(s))
        return r->tier < LODGE_MAX_TIERS ? r->tier : LODGE_MAX_TIERS - 1;
    return s->limits.policy == LODGE_POLICY_PRIORITY ? r->priority : 0;
}

/* Its request is under way, so a client sees it stand still. */
static bool is_ahead(const struct lodge_seq *q)
{
    return q->preempted || q->choice;
}

static bool is_before(const struct lodge_sched *s, const struct lodge_seq *a,
                      const struct lodge_seq *b)
{
    int64_t class_a = lodge_queue_class(s, a), class_b = lodge_queue_class(s, b);
    if (class_a != class_b)
        return class_a < class_b;
    bool ahead_a = is_fair(s) ? is_ahead(a) : a->preempted;
    bool ahead_b = is_fair(s) ? is_ahead(b) : b->preempted;
    if (ahead_a != ahead_b)
        return ahead_a;
    return a->req->id != b->req->id ? a->req->id < b->req->id : a->choice < b->choice;
}

static void set_aging(struct lodge_sched *s, struct lodge_seq *q)
{
    q->older = s->queue.youngest;
    q->newer = NULL;
    *(q->older ? &q->older->newer : &s->queue.oldest) = q;
    s->queue.youngest = q;
    q->aging = true;
}

static void clear_aging(struct lodge_sched *s, struct lodge_seq *q)
{
    *(q->older ? &q->older->newer : &s->queue.oldest) = q->newer;
    *(q->newer ? &q->newer->older : &s->queue.youngest) = q->older;
    q->older = q->newer = NULL;
    q->aging = false;
}

/* Arrivals and admissions of a tenant count for some times as long as the objective is: a burst
 * that is worked off in time is not yet more than is served. */
static void decay_counts(const struct lodge_sched *s, struct lodge_tenant *t, uint64_t now)
{
    if (now <= t->counted_ns || !s->limits.slo_ttft_ns)
        return;
    double rest =
        exp(-(double)(now - t->counted_ns) / (COUNTED_SLOS * (double)s->limits.slo_ttft_ns));
    t->n_came *= rest;
    t->n_served *= rest;
    t->counted_ns = now;
}

void lodge_queue_add(struct lodge_sched *s, struct lodge_seq *q)
{
    const struct lodge_request *r = &q->req->r;
    q->tenant = is_fair(s) ? lodge_fair_tenant(&s->fair, r->tenant, r->tier, r->weight)
                           : lodge_fair_tenant(&s->fair, 0, 0, 1);
    struct lodge_tenant *t = &s->fair.tenants[q->tenant];
    /* From the back: most that come belong there. */
    struct lodge_seq *at = NULL, *before = t->waiting.last;
    for (; before && is_before(s, q, before); before = before->prev)
        at = before;
    lodge_fair_add(&s->fair, q->tenant, at, q);
    if (q->admitted || q->choice)
        return;
    set_aging(s, q);
    decay_counts(s, t, q->req->arrived_ns);
    t->n_came++;
}

void lodge_queue_remove(struct lodge_sched *s, struct lodge_seq *q)
{
    if (q->aging)
        clear_aging(s, q);
    if (s->queue.drain_for == q)
        s->queue.drain_for = NULL;
    lodge_fair_take(&s->fair, q->tenant, q);
}

uint64_t lodge_queue_first_token_ns(const struct lodge_sched *s, uint32_t tenant)
{
    const struct lodge_mean *own = &s->fair.tenants[tenant].first_token_ns;
    const struct lodge_mean *m = own->mean > 0 ? own : &s->first_token_ns;
    return (uint64_t)(m->mean + 2 * m->spread);
}

static uint64_t age_of(const struct lodge_sched *s, const struct lodge_seq *q)
{
    uint64_t now = s->queue.now_ns, then = q->req->arrived_ns;
    return now > then ? now - then : 0;
}

static bool is_over_age(const struct lodge_sched *s, const struct lodge_seq *q)
{
    return age_of(s, q) >= s->limits.max_age_ns;
}

/* Does clearly more come than is served, so that serving the oldest makes all of them late? */
static bool is_newest_first(const struct lodge_sched *s, struct lodge_tenant *t)
{
    if (!is_fair(s) || !s->limits.slo_ttft_ns)
        return false;
    const struct lodge_seq *oldest = t->waiting.first;
    while (oldest && is_ahead(oldest))
        oldest = oldest->next;
    decay_counts(s, t, s->queue.now_ns);
    return oldest && t->n_came > OVERLOAD * t->n_served &&
           age_of(s, oldest) + lodge_queue_first_token_ns(s, oldest->tenant) >
               s->limits.slo_ttft_ns / 2;
}

static struct lodge_seq *first_of(const struct lodge_tenant *t, bool newest)
{
    struct lodge_seq *q = t->waiting.first;
    return newest && q && !is_ahead(q) ? t->waiting.last : q;
}

static struct lodge_seq *next_of(const struct lodge_tenant *t, const struct lodge_seq *q,
                                 bool newest)
{
    struct lodge_seq *next = newest && !is_ahead(q) ? q->prev : q->next;
    if (!newest || !next)
        return next;
    if (is_ahead(q))
        return is_ahead(next) ? next : t->waiting.last;
    return is_ahead(next) ? NULL : next;
}

/* ---- looking ---- */

/* Output that is still to come. */
static uint32_t output_left(const struct lodge_seq *q)
{
    return q->max_output - q->n_output;
}

/* Does it end about when the next one does of those that ran before the drain? They come to an end,
 * so the drain does, however many short ones there are. */
static bool ends_soon(const struct lodge_sched *s, const struct lodge_seq *q)
{
    double least = 0;
    for (const struct lodge_seq *r = s->running.first; r; r = r->next)
        if (r->admitted <= s->queue.drain_from && (least == 0 || output_left(r) < least))
            least = output_left(r);
    return !s->running.n || output_left(q) <= DRAIN_FACTOR * least;
}

static bool may_prolong_drain(const struct lodge_sched *s, const struct lodge_seq *q)
{
    const struct lodge_seq *d = s->queue.drain_for;
    if (!d || d == q || q->admitted)
        return false;
    /* A higher tier gives way only where the lower one is owed its floor. */
    int64_t class = lodge_queue_class(s, d);
    bool below = lodge_queue_class(s, q) < class && s->fair.tiers[class].credit <= 0;
    return !below && !ends_soon(s, q);
}

/* Could this one be served now? Asks for its adapters, once a plan. */
static bool look(struct lodge_sched *s, struct lodge_seq *q)
{
    if (q->looked == s->plans)
        return q->ready;
    q->looked = s->plans;
    q->ready = false;
    s->queue.n_looks++;
    if (may_prolong_drain(s, q))
        return false;
    q->n_pages_wanted = 0;
    q->ready = lodge_residency_want(s->residency, q);
    s->n_deferred += !q->ready;
    struct lodge_queue *u = &s->queue;
    const struct lodge_seq *d = u->drain_for;
    if (!q->ready && q->n_pages_wanted && is_fair(s) && is_over_age(s, q) &&
        (!d || q->req->arrived_ns < d->req->arrived_ns)) {
        u->drain_from = d ? u->drain_from : s->admissions;
        u->drain_for = q;
    }
    return q->ready;
}

/* What a tenant would have served; false if nothing can be. */
static bool find_choices(struct lodge_sched *s, struct lodge_front *f)
{
    struct lodge_tenant *t = &s->fair.tenants[f->tenant];
    bool newest = is_newest_first(s, t), all = !s->running.n;
    uint32_t near_blocks = (uint32_t)(s->limits.window / s->page_tokens), best = 0;
    bool near = is_fair(s) && near_blocks && s->n_free_slots && !newest;
    uint32_t n_looks = 0, n_ready = 0, most = is_fair(s) ? MOST_TENANT_LOOKS : MOST_LOOKS;
    f->strict = f->near = NULL;
    f->saved = 0;
    for (struct lodge_seq *q = first_of(t, newest); q; q = next_of(t, q, newest)) {
        if (!all && (n_looks++ >= most || s->queue.n_looks >= MOST_LOOKS))
            break;
        if (!look(s, q)) {
            /* Where order is all, nobody passes one that pages are missing for. */
            if (!is_fair(s) && q->n_pages_wanted)
                break;
            continue;
        }
        f->strict = f->strict ? f->strict : q;
        if (!near || is_over_age(s, f->strict))
            break;
        uint32_t n = lodge_sched_blocks_in_cache(s, q, near_blocks);
        if (n > best) {
            f->near = q;
            best = n;
        }
        if (++n_ready == MOST_CHOICES)
            break;
    }
    f->saved = LODGE_COST_PROMPT * best * s->page_tokens / t->weight;
    return f->strict;
}

/* ---- the front ---- */

static struct lodge_front *lowest(struct lodge_sched *s)
{
    struct lodge_front *best = &s->queue.front[0];
    for (uint32_t i = 1; i < s->queue.n_front; i++)
        if (lodge_fair_before(&s->fair, s->queue.front[i].tenant, best->tenant))
            best = &s->queue.front[i];
    return best;
}

static void leave_front(struct lodge_sched *s, struct lodge_front *f)
{
    lodge_fair_push(&s->fair, f->tenant);
    *f = s->queue.front[--s->queue.n_front];
}

static double counter_of(const struct lodge_sched *s, const struct lodge_front *f)
{
    return s->fair.tenants[f->tenant].counter;
}

/* In the order that counts what the cache saves. */
static double place_of(const struct lodge_sched *s, const struct lodge_front *f)
{
    return counter_of(s, f) - f->saved;
}

/* The one with the largest counter makes room. */
static void leave_last(struct lodge_sched *s)
{
    struct lodge_front *last = &s->queue.front[0];
    for (uint32_t i = 1; i < s->queue.n_front; i++)
        if (lodge_fair_before(&s->fair, last->tenant, s->queue.front[i].tenant))
            last = &s->queue.front[i];
    leave_front(s, last);
}

/* Takes tenants from the heap while they are within the window. */
static void fill_front(struct lodge_sched *s)
{
    struct lodge_queue *u = &s->queue;
    for (uint32_t t; (t = lodge_fair_peek(&s->fair, u->tier)) != LODGE_NO_TENANT;) {
        if (u->n_front) {
            const struct lodge_front *low = lowest(s);
            bool first = lodge_fair_before(&s->fair, t, low->tenant);
            if (!first && (u->n_front == LODGE_QUEUE_FRONT ||
                           s->fair.tenants[t].counter > counter_of(s, low) + s->limits.window))
                return;
        }
        if (s->running.n && u->n_looks >= MOST_LOOKS)
            return;
        struct lodge_front f = {.tenant = lodge_fair_pop(&s->fair, u->tier)};
        if (!find_choices(s, &f)) {
            u->aside[u->n_aside++] = f.tenant;
            continue;
        }
        if (u->n_front == LODGE_QUEUE_FRONT)
            leave_last(s);
        u->front[u->n_front++] = f;
    }
}

static void empty_front(struct lodge_sched *s)
{
    while (s->queue.n_front)
        leave_front(s, &s->queue.front[s->queue.n_front - 1]);
}

void lodge_queue_begin(struct lodge_sched *s)
{
    struct lodge_queue *u = &s->queue;
    u->n_looks = u->skipped_tiers = 0;
    u->strict = false;
    s->n_deferred = 0;
    if (lodge_fair_active(&s->fair) > 1)
        u->shared_ns = u->now_ns;
    /* Whoever drains the batch asks first, and keeps doing so until its pages are there. */
    if (u->drain_for && (look(s, u->drain_for) || !u->drain_for->n_pages_wanted))
        u->drain_for = NULL;
}

struct lodge_seq *lodge_queue_next(struct lodge_sched *s)
{
    struct lodge_queue *u = &s->queue;
    for (;;) {
        uint32_t tier = lodge_fair_next_tier(&s->fair, u->skipped_tiers);
        if (tier == LODGE_MAX_TIERS)
            return NULL;
        if (tier != u->tier)
            empty_front(s);
        u->tier = tier;
        fill_front(s);
        if (u->n_front)
            break;
        u->skipped_tiers |= 1u << tier;
    }
    const struct lodge_front *low = lowest(s), *best = low;
    lodge_fair_raise_floor(&s->fair, u->tier, counter_of(s, low));
    if (u->strict || is_over_age(s, low->strict))
        return low->strict;
    for (uint32_t i = 0; i < u->n_front; i++)
        if (place_of(s, &u->front[i]) < place_of(s, best))
            best = &u->front[i];
    return best->near ? best->near : low->strict;
}

void lodge_queue_admitted(struct lodge_sched *s, const struct lodge_seq *q)
{
    struct lodge_tenant *t = &s->fair.tenants[q->tenant];
    s->admitted_in_tier[t->tier]++;
    t->turn = s->admissions;
    if (q->admitted == s->admissions && !q->preempted && !q->choice) {
        decay_counts(s, t, s->queue.now_ns);
        t->n_served++;
    }
    for (uint32_t i = 0; i < s->queue.n_front; i++)
        if (s->queue.front[i].tenant == q->tenant) {
            leave_front(s, &s->queue.front[i]);
            return;
        }
}

bool lodge_queue_refused(struct lodge_sched *s, const struct lodge_seq *q)
{
    if (!s->queue.n_front || q == lowest(s)->strict)
        return false;
    s->queue.strict = true;
    return true;
}

/* Asks for the adapters of those that come next, so that they are there by then. */
static void look_ahead(struct lodge_sched *s)
{
    struct lodge_queue *u = &s->queue;
    uint32_t n = 0;
    for (uint32_t tier = 0; tier < LODGE_MAX_TIERS; tier++)
        while (n < MOST_AHEAD && lodge_fair_peek(&s->fair, tier) != LODGE_NO_TENANT) {
            uint32_t t = lodge_fair_pop(&s->fair, tier), k = 0;
            u->aside[u->n_aside++] = t;
            for (struct lodge_seq *q = s->fair.tenants[t].waiting.first;
                 q && k < MOST_CHOICES && n < MOST_AHEAD; q = q->next, k++, n++)
                look(s, q);
        }
}

void lodge_queue_end(struct lodge_sched *s)
{
    if (s->residency)
        look_ahead(s);
    empty_front(s);
    while (s->queue.n_aside)
        lodge_fair_push(&s->fair, s->queue.aside[--s->queue.n_aside]);
}
