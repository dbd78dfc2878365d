#include "engine/sched_pages.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* ---- lists ---- */

static void list_insert_before(struct lodge_seq_list *l, struct lodge_seq *at, struct lodge_seq *q)
{
    q->next = at;
    q->prev = at ? at->prev : l->last;
    *(q->prev ? &q->prev->next : &l->first) = q;
    *(at ? &at->prev : &l->last) = q;
    l->n++;
}

static void list_remove(struct lodge_seq_list *l, struct lodge_seq *q)
{
    *(q->prev ? &q->prev->next : &l->first) = q->next;
    *(q->next ? &q->next->prev : &l->last) = q->prev;
    q->prev = q->next = NULL;
    l->n--;
}

int lodge_sched_init(struct lodge_sched *s, const struct lodge_sched_limits *limits,
                     struct lodge_pool *pool, struct lodge_prefix *prefix,
                     const struct lodge_plan *plan, uint32_t page_tokens, struct lodge_error *e)
{
    *s = (struct lodge_sched){.limits = *limits,
                              .pool = pool,
                              .prefix = prefix,
                              .plan = plan,
                              .page_tokens = page_tokens,
                              .n_groups = plan->n_groups};
    s->free_slots = calloc(limits->max_seqs, sizeof *s->free_slots);
    s->rows = calloc(limits->max_seqs, sizeof *s->rows);
    s->copies = calloc((size_t)limits->max_seqs * plan->n_groups, sizeof *s->copies);
    if (!s->free_slots || !s->rows || !s->copies) {
        lodge_sched_finish(s);
        return lodge_fail(e, LODGE_ERR_NOMEM, "no memory for the scheduler");
    }
    for (uint32_t i = 0; i < limits->max_seqs; i++)
        s->free_slots[s->n_free_slots++] = limits->max_seqs - 1 - i;
    return 0;
}

void lodge_sched_finish(struct lodge_sched *s)
{
    free(s->free_slots);
    free(s->rows);
    free(s->copies);
    *s = (struct lodge_sched){0};
}

/* ---- leaving ---- */

static void stop_running(struct lodge_sched *s, struct lodge_seq *q)
{
    lodge_sched_release_pages(s, q);
    lodge_residency_release(s->residency, q);
    s->running_ranks -= q->req->lora_width;
    list_remove(&s->running, q);
    s->free_slots[s->n_free_slots++] = q->slot;
}

void lodge_sched_remove(struct lodge_sched *s, struct lodge_seq *q)
{
    if (q->state == LODGE_SEQ_RUNNING)
        stop_running(s, q);
    else if (q->state == LODGE_SEQ_WAITING)
        list_remove(&s->waiting, q);
    q->state = LODGE_SEQ_DONE;
}

static bool is_before(const struct lodge_seq *a, const struct lodge_seq *b)
{
    if (a->req->r.priority != b->req->r.priority)
        return a->req->r.priority < b->req->r.priority;
    if (a->preempted != b->preempted)
        return a->preempted;
    return a->req->id != b->req->id ? a->req->id < b->req->id : a->choice < b->choice;
}

void lodge_sched_enqueue(struct lodge_sched *s, struct lodge_seq *q)
{
    q->state = LODGE_SEQ_WAITING;
    /* From the back: most that come belong there. */
    struct lodge_seq *at = NULL, *before = s->waiting.last;
    for (; before && is_before(q, before); before = before->prev)
        at = before;
    list_insert_before(&s->waiting, at, q);
}

static bool is_victim(const struct lodge_seq *q, int64_t above)
{
    return !q->preempted && q->req->r.priority > above;
}

/* The youngest of the lowest tier among those whose priority is a larger number than `above`. */
static struct lodge_seq *pick_victim(const struct lodge_sched *s, int64_t above)
{
    struct lodge_seq *victim = NULL;
    for (struct lodge_seq *q = s->running.first; q; q = q->next)
        if (is_victim(q, above) &&
            (!victim || q->req->r.priority > victim->req->r.priority ||
             (q->req->r.priority == victim->req->r.priority && q->admitted > victim->admitted)))
            victim = q;
    return victim;
}

static void forget_row(struct lodge_sched *s, const struct lodge_seq *q)
{
    for (uint32_t i = 0; i < s->n_rows; i++)
        if (s->rows[i].seq == q) {
            s->n_step_tokens -= s->rows[i].n_tokens;
            s->n_step_ranks -= s->rows[i].n_tokens * q->req->lora_width;
            memmove(&s->rows[i], &s->rows[i + 1], (s->n_rows - i - 1) * sizeof *s->rows);
            s->n_rows--;
            return;
        }
}

static void preempt(struct lodge_sched *s, struct lodge_seq *q)
{
    forget_row(s, q);
    lodge_sched_drop_copies(s, q);
    stop_running(s, q);
    q->preempted = true;
    q->req->n_preempted++;
    s->preemptions++;
    lodge_sched_enqueue(s, q);
}

/* ---- admission ---- */

/* Pages that those who run may still claim. */
static uint64_t promised(const struct lodge_sched *s)
{
    uint64_t sum = s->n_shared;
    for (const struct lodge_seq *q = s->running.first; q; q = q->next)
        sum += lodge_sched_unclaimed(s, q);
    return sum;
}

/* Do so many pages fit beside what is promised? `more`: pages that could be made available. */
static bool fits(const struct lodge_sched *s, uint64_t n_pages, uint64_t more)
{
    return !s->running.n || n_pages + promised(s) <= lodge_sched_available(s) + more;
}

static void start(struct lodge_sched *s, struct lodge_seq *q, const struct lodge_claim *c)
{
    lodge_residency_use(s->residency, q);
    s->running_ranks += q->req->lora_width;
    lodge_sched_use_claim(s, q, c);
    list_remove(&s->waiting, q);
    list_insert_before(&s->running, NULL, q);
    q->state = LODGE_SEQ_RUNNING;
    q->slot = s->free_slots[--s->n_free_slots];
    q->n_reserved = c->reserved;
    q->admitted = ++s->admissions;
    if (!q->counted_cached && !q->choice) {
        s->prefix_queries += q->n_tokens;
        s->prefix_hits += q->n_computed;
        q->req->cached_tokens = q->n_computed;
    }
    q->counted_cached = true;
}

/* Pages that preempting all lower tiers would make available: what they alone hold, and what they
 * were promised. */
static uint64_t lower_tiers_hold(const struct lodge_sched *s, int64_t above)
{
    uint64_t sum = 0;
    for (const struct lodge_seq *q = s->running.first; q; q = q->next) {
        if (!is_victim(q, above))
            continue;
        sum += lodge_sched_unclaimed(s, q);
        sum += lodge_sched_own_pages(s, q);
    }
    return sum;
}

/* Admits a sequence of the queue, at the cost of lower tiers if need be. */
static bool admit(struct lodge_sched *s, struct lodge_seq *q)
{
    int64_t above = q->req->r.priority;
    if (s->limits.max_step_ranks && s->running.n &&
        s->running_ranks + q->req->lora_width > s->limits.max_step_ranks)
        return false;
    struct lodge_claim c = lodge_sched_claim(s, q);
    if (!s->n_free_slots || !fits(s, c.n_pages, 0)) {
        /* What it shares now it may share with a victim, so that does not count. */
        if (!pick_victim(s, above) || !fits(s, c.n_alone, lower_tiers_hold(s, above)))
            return false;
        while (!s->n_free_slots || !fits(s, c.n_pages, 0)) {
            struct lodge_seq *victim = pick_victim(s, above);
            assert(victim); /* what lower tiers hold was enough */
            preempt(s, victim);
            c = lodge_sched_claim(s, q);
        }
    }
    start(s, q, &c);
    return true;
}

/* Admits in the order of the queue until one does not fit, with its adapters or by itself. Those
 * whose adapters are on their way are passed over. */
static void admit_waiting(struct lodge_sched *s)
{
    s->n_deferred = 0;
    if (!s->waiting.n)
        return;
    uint64_t available = lodge_sched_available(s), taken = promised(s);
    lodge_residency_begin(s->residency, available > taken ? available - taken : 0);
    struct lodge_seq *next;
    for (struct lodge_seq *q = s->waiting.first; q; q = next) {
        next = q->next;
        if (!s->residency || lodge_residency_want(s->residency, q)) {
            if (!admit(s, q))
                return;
        } else {
            s->n_deferred++;
            if (lodge_residency_blocked(s->residency))
                return;
        }
    }
}

/* ---- the step ---- */

/* Pages for the tokens up to `end`; preempts others, in the end the sequence itself. */
static bool grow(struct lodge_sched *s, struct lodge_seq *q, uint32_t end)
{
    while (q->n_blocks < lodge_sched_blocks_of(s->page_tokens, end)) {
        if (lodge_sched_add_block(s, q))
            continue;
        struct lodge_seq *victim = pick_victim(s, INT64_MIN);
        if (!victim)
            return false;
        preempt(s, victim);
        if (victim == q)
            return false;
    }
    return true;
}

static uint32_t left_of(const struct lodge_seq *q)
{
    return q->n_tokens - q->n_computed;
}

static void plan_row(struct lodge_sched *s, struct lodge_seq *q, uint32_t n)
{
    uint32_t end = q->n_computed + n;
    q->planned = s->plans;
    if (!grow(s, q, end))
        return;
    s->rows[s->n_rows++] = (struct lodge_planned){
        .seq = q, .position = q->n_computed, .n_tokens = n, .sample = end == q->n_tokens};
    s->n_step_tokens += n;
    s->n_step_ranks += n * q->req->lora_width;
}

/* Tokens of this sequence that the step still has room for: at least one for whoever decodes, since
 * all that run were admitted with one token each. */
static uint32_t room_for(const struct lodge_sched *s, const struct lodge_seq *q)
{
    uint32_t tokens = s->limits.max_step_tokens - s->n_step_tokens;
    uint32_t width = s->limits.max_step_ranks ? q->req->lora_width : 0;
    if (!width)
        return tokens;
    uint32_t by_ranks = (s->limits.max_step_ranks - s->n_step_ranks) / width;
    return by_ranks < tokens ? by_ranks : tokens;
}

/* The next sequence that decodes (or has a prompt to compute) and was not planned. A preemption
 * changes the running list anywhere, so the search starts again after one. */
static struct lodge_seq *next_unplanned(const struct lodge_sched *s, struct lodge_seq *after,
                                        uint64_t preemptions, bool decodes)
{
    struct lodge_seq *q = after && s->preemptions == preemptions ? after->next : s->running.first;
    while (q && (q->planned == s->plans || (left_of(q) == 1) != decodes))
        q = q->next;
    return q;
}

static void plan_decodes(struct lodge_sched *s)
{
    uint64_t preemptions = s->preemptions;
    struct lodge_seq *q = next_unplanned(s, NULL, preemptions, true);
    while (q && s->n_step_tokens < s->limits.max_step_tokens) {
        preemptions = s->preemptions;
        plan_row(s, q, 1);
        q = next_unplanned(s, q, preemptions, true);
    }
}

/* A prompt that does not end in this step leaves half of the budget to the others. Chunks end at
 * block borders where they can. */
static uint32_t chunk(const struct lodge_sched *s, const struct lodge_seq *q, uint32_t budget,
                      bool others)
{
    uint32_t left = left_of(q);
    if (left <= budget)
        return left;
    if (others && budget > 1)
        budget /= 2;
    uint32_t end = (q->n_computed + budget) / s->page_tokens * s->page_tokens;
    return end > q->n_computed ? end - q->n_computed : budget;
}

static void plan_prefills(struct lodge_sched *s)
{
    uint64_t preemptions = s->preemptions;
    struct lodge_seq *q = next_unplanned(s, NULL, preemptions, false);
    while (q && s->n_step_tokens < s->limits.max_step_tokens) {
        preemptions = s->preemptions;
        bool others = next_unplanned(s, q, preemptions, false) != NULL;
        uint32_t room = room_for(s, q);
        if (room)
            plan_row(s, q, chunk(s, q, room, others));
        else
            q->planned = s->plans;
        q = next_unplanned(s, q, preemptions, false);
    }
}

void lodge_sched_plan(struct lodge_sched *s)
{
    assert(!s->n_copies); /* those of the last plan were submitted */
    s->n_rows = s->n_step_tokens = s->n_step_ranks = 0;
    s->plans++;
    admit_waiting(s);
    plan_decodes(s);
    plan_prefills(s);
}
