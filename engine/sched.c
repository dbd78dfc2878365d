#include "engine/sched.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define NONE UINT32_MAX

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

/* ---- pages of a sequence ---- */

static uint32_t blocks_of(uint32_t page_tokens, uint64_t n_tokens)
{
    return (uint32_t)((n_tokens + page_tokens - 1) / page_tokens);
}

static uint32_t *page_at(const struct lodge_seq *q, uint32_t group, uint32_t block)
{
    return &q->pages[(size_t)group * q->max_blocks + block];
}

/* The first block that a query at `position` or later sees. */
static uint32_t front(const struct lodge_sched *s, uint32_t group, uint32_t position)
{
    uint32_t window = s->plan->groups[group].window;
    return window && position >= window ? (position + 1 - window) / s->page_tokens : 0;
}

/* Most blocks of a sequence that a group holds at one time: its window, a step's tokens, and the
 * rest of a block at either end. */
static uint32_t most_blocks(const struct lodge_layer_group *g, uint32_t page_tokens,
                            uint32_t max_step_tokens, uint32_t n_blocks)
{
    uint64_t most = (uint64_t)blocks_of(page_tokens, (uint64_t)g->window + max_step_tokens) + 1;
    return g->window && most < n_blocks ? (uint32_t)most : n_blocks;
}

uint64_t lodge_sched_pages(const struct lodge_plan *plan, uint32_t page_tokens,
                           uint32_t max_step_tokens, uint64_t n_tokens)
{
    uint64_t sum = 0;
    for (uint32_t g = 0; g < plan->n_groups; g++)
        sum += most_blocks(&plan->groups[g], page_tokens, max_step_tokens,
                           blocks_of(page_tokens, n_tokens));
    return sum;
}

uint32_t lodge_sched_available(const struct lodge_sched *s)
{
    return s->pool->n_free + s->pool->n_retiring + s->pool->n_cached;
}

static uint32_t take_page(struct lodge_sched *s)
{
    uint32_t page;
    while ((page = lodge_pool_take(s->pool, LODGE_PAGE_KV)) == NONE)
        if (!lodge_prefix_evict(s->prefix))
            return NONE;
    return page;
}

/* One more holder of a page in use or cached. */
static void hold(struct lodge_sched *s, uint32_t group, uint32_t page)
{
    s->n_shared += s->plan->groups[group].window && s->pool->pages[page].refs;
    lodge_prefix_ref_page(s->prefix, page);
}

static void let_go(struct lodge_sched *s, uint32_t group, uint32_t page)
{
    s->n_shared -= s->plan->groups[group].window && s->pool->pages[page].refs > 1;
    lodge_prefix_unref_page(s->prefix, page);
}

/* Last block first, so that in the cache a predecessor outlives its successors. */
static void release_pages(struct lodge_sched *s, struct lodge_seq *q)
{
    for (uint32_t b = q->n_blocks; b-- > 0;)
        for (uint32_t g = 0; g < s->n_groups; g++)
            if (b >= q->freed_front[g])
                let_go(s, g, *page_at(q, g, b));
    q->n_blocks = 0;
    q->n_keys = 0;
    q->n_computed = 0;
}

/* One more block, in all groups or none. */
static bool add_block(struct lodge_sched *s, struct lodge_seq *q)
{
    for (uint32_t g = 0; g < s->n_groups; g++) {
        uint32_t page = take_page(s);
        if (page == NONE) {
            while (g-- > 0)
                lodge_prefix_unref_page(s->prefix, *page_at(q, g, q->n_blocks));
            return false;
        }
        *page_at(q, g, q->n_blocks) = page;
    }
    q->n_blocks++;
    return true;
}

/* Pages of a group that a sequence of `reserved` blocks holds at most at one time. */
static uint32_t reserved_in(const struct lodge_sched *s, uint32_t group, uint32_t reserved)
{
    return most_blocks(&s->plan->groups[group], s->page_tokens, s->limits.max_step_tokens,
                       reserved);
}

/* Pages that a running sequence may still claim by its reservation: blocks to come, as far as
 * they do not take the place of blocks that its window passes. */
static uint64_t unclaimed(const struct lodge_sched *s, const struct lodge_seq *q)
{
    if (q->n_reserved <= q->n_blocks)
        return 0;
    uint64_t sum = 0;
    for (uint32_t g = 0; g < s->n_groups; g++) {
        uint32_t most = reserved_in(s, g, q->n_reserved), to_come = q->n_reserved - q->n_blocks;
        uint32_t held = q->n_blocks - q->freed_front[g];
        uint32_t room = most > held ? most - held : 0;
        sum += room < to_come ? room : to_come;
    }
    return sum;
}

/* ---- the prefix cache ---- */

/* Key of a full block; blocks are asked for in order. */
static const struct lodge_digest *key_of(struct lodge_sched *s, struct lodge_seq *q, uint32_t block)
{
    if (block == q->n_hashed) {
        lodge_prefix_key(s->prefix, block ? &q->keys[block - 1] : &q->req->root,
                         q->tokens + (size_t)block * s->page_tokens, &q->keys[block]);
        q->n_hashed++;
    }
    return &q->keys[block];
}

/* Number of leading blocks in the cache, in every group as far as its window reaches; their
 * entries are left in `entries`. */
static uint32_t find_prefix(struct lodge_sched *s, struct lodge_seq *q, uint32_t *entries)
{
    uint32_t most = (q->n_tokens - 1) / s->page_tokens, best = 0, unbroken[LODGE_MAX_GROUPS] = {0};
    if (!s->limits.prefix_cache || q->req->r.want_prompt_scores)
        return 0;
    for (uint32_t n = 1; n <= most; n++) {
        uint32_t entry = lodge_prefix_find(s->prefix, key_of(s, q, n - 1));
        if (entry == NONE)
            break;
        entries[n - 1] = entry;
        bool holds = true;
        for (uint32_t g = 0; g < s->n_groups; g++) {
            bool there = lodge_prefix_pages(s->prefix, entry)[g] != LODGE_NO_PAGE;
            unbroken[g] = there ? unbroken[g] + 1 : 0;
            holds = holds && n - unbroken[g] <= front(s, g, n * s->page_tokens);
        }
        if (holds)
            best = n;
    }
    return best;
}

static void use_prefix(struct lodge_sched *s, struct lodge_seq *q, const uint32_t *entries,
                       uint32_t n)
{
    for (uint32_t g = 0; g < s->n_groups; g++)
        q->freed_front[g] = front(s, g, n * s->page_tokens);
    for (uint32_t b = 0; b < n; b++) {
        uint32_t entry = entries[b]; /* the list shares its memory with the pages written here */
        for (uint32_t g = 0; g < s->n_groups; g++) {
            bool seen = b >= q->freed_front[g];
            *page_at(q, g, b) = seen ? lodge_prefix_pages(s->prefix, entry)[g] : LODGE_NO_PAGE;
            if (seen)
                hold(s, g, *page_at(q, g, b));
        }
    }
    q->n_blocks = q->n_keys = n;
    q->n_computed = n * s->page_tokens;
}

/* ---- forks: further choices of a request ---- */

/* Full blocks of the prompt that a fork shares: all before the last prompt token, which is
 * computed again for its logits. */
static uint32_t fork_blocks(const struct lodge_sched *s, const struct lodge_seq *q)
{
    return (q->n_prompt - 1) / s->page_tokens;
}

/* The first choice, if its prompt's pages are still there to share. */
static struct lodge_seq *fork_source(const struct lodge_sched *s, const struct lodge_seq *q)
{
    struct lodge_seq *first = &q->req->seqs[0];
    if (!q->choice || first->state != LODGE_SEQ_RUNNING || q->preempted ||
        first->n_computed < q->n_prompt)
        return NULL;
    for (uint32_t g = 0; g < s->n_groups; g++)
        if (first->freed_front[g] > front(s, g, fork_blocks(s, q) * s->page_tokens))
            return NULL;
    return first;
}

/* The part of the prompt in a partial block is copied before the next step runs. */
static void fork_partial(struct lodge_sched *s, struct lodge_seq *q, const struct lodge_seq *from)
{
    uint32_t full = q->n_blocks, n = q->n_prompt - 1 - full * s->page_tokens;
    if (!n || !add_block(s, q))
        return;
    for (uint32_t g = 0; g < s->n_groups; g++) {
        hold(s, g, *page_at(from, g, full));
        s->copies[s->n_copies++] = (struct lodge_page_copy){
            .group = g, .from = *page_at(from, g, full), .to = *page_at(q, g, full), .n_tokens = n};
    }
    q->n_computed += n;
}

static void fork_pages(struct lodge_sched *s, struct lodge_seq *q, const struct lodge_seq *from)
{
    uint32_t full = fork_blocks(s, q);
    for (uint32_t g = 0; g < s->n_groups; g++) {
        q->freed_front[g] = front(s, g, full * s->page_tokens);
        for (uint32_t b = 0; b < full; b++) {
            bool seen = b >= q->freed_front[g];
            *page_at(q, g, b) = seen ? *page_at(from, g, b) : LODGE_NO_PAGE;
            if (seen)
                hold(s, g, *page_at(q, g, b));
        }
    }
    memcpy(q->keys, from->keys, full * sizeof *q->keys);
    q->n_hashed = q->n_keys = full;
    q->n_blocks = full;
    q->n_computed = full * s->page_tokens;
    fork_partial(s, q, from);
}

/* Copies into this page will not be needed. Their order is kept. */
static void drop_copy_to(struct lodge_sched *s, uint32_t page)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n_copies; i++)
        if (s->copies[i].to == page)
            let_go(s, s->copies[i].group, s->copies[i].from);
        else
            s->copies[n++] = s->copies[i];
    s->n_copies = n;
}

void lodge_sched_submitted(struct lodge_sched *s)
{
    for (uint32_t i = 0; i < s->n_copies; i++)
        let_go(s, s->copies[i].group, s->copies[i].from);
    s->n_copies = 0;
}

/* ---- leaving ---- */

static void stop_running(struct lodge_sched *s, struct lodge_seq *q)
{
    release_pages(s, q);
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
            memmove(&s->rows[i], &s->rows[i + 1], (s->n_rows - i - 1) * sizeof *s->rows);
            s->n_rows--;
            return;
        }
}

static void preempt(struct lodge_sched *s, struct lodge_seq *q)
{
    forget_row(s, q);
    for (uint32_t g = 0; g < s->n_groups && q->n_blocks; g++)
        drop_copy_to(s, *page_at(q, g, q->n_blocks - 1));
    stop_running(s, q);
    q->preempted = true;
    q->req->n_preempted++;
    s->preemptions++;
    lodge_sched_enqueue(s, q);
}

/* ---- admission ---- */

/* What admitting a sequence means. */
struct claim {
    struct lodge_seq *source; /* whose pages it forks, or NULL */
    uint32_t n_cached;        /* leading blocks from the prefix cache; entries in q->pages */
    uint32_t reserved;        /* blocks */
    uint64_t n_pages;         /* that cease to be available, now or later */
    uint64_t n_alone;         /* the same if it could share nothing */
};

static struct claim claim_of(struct lodge_sched *s, struct lodge_seq *q)
{
    uint32_t left = q->max_output - q->n_output;
    if (!q->preempted && left > s->limits.reserve_tokens)
        left = s->limits.reserve_tokens;
    struct claim c = {.source = fork_source(s, q),
                      .reserved = blocks_of(s->page_tokens, (uint64_t)q->n_tokens + left)};
    uint32_t *entries = q->pages; /* not in use while the sequence waits */
    if (!c.source)
        c.n_cached = find_prefix(s, q, entries);
    uint32_t have = c.source ? fork_blocks(s, q) : c.n_cached;
    uint32_t shared = 0;
    for (uint32_t g = 0; g < s->n_groups; g++) {
        c.n_alone += reserved_in(s, g, c.reserved);
        /* Pages shared with somebody who runs cost nothing; cached ones cease to be available.
         * A window passes what it shares, and takes pages of its own instead. */
        for (uint32_t b = 0; b < have && !s->plan->groups[g].window; b++)
            shared +=
                c.source || s->pool->pages[lodge_prefix_pages(s->prefix, entries[b])[g]].refs > 0;
    }
    c.n_pages = c.n_alone - shared;
    return c;
}

/* Do so many pages fit beside what is promised? `more`: pages that could be made available. */
static bool fits(const struct lodge_sched *s, uint64_t n_pages, uint64_t more)
{
    uint64_t promised = s->n_shared;
    for (const struct lodge_seq *q = s->running.first; q; q = q->next)
        promised += unclaimed(s, q);
    return !s->running.n || n_pages + promised <= lodge_sched_available(s) + more;
}

static void start(struct lodge_sched *s, struct lodge_seq *q, const struct claim *c)
{
    if (c->source)
        fork_pages(s, q, c->source);
    else
        use_prefix(s, q, q->pages, c->n_cached);
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
        sum += unclaimed(s, q);
        for (uint32_t g = 0; g < s->n_groups; g++)
            for (uint32_t b = q->freed_front[g]; b < q->n_blocks; b++)
                sum += s->pool->pages[*page_at(q, g, b)].refs == 1;
    }
    return sum;
}

/* Admits the head of the queue, at the cost of lower tiers if need be. */
static bool admit_head(struct lodge_sched *s)
{
    struct lodge_seq *q = s->waiting.first;
    int64_t above = q->req->r.priority;
    struct claim c = claim_of(s, q);
    if (!s->n_free_slots || !fits(s, c.n_pages, 0)) {
        /* What it shares now it may share with a victim, so that does not count. */
        if (!pick_victim(s, above) || !fits(s, c.n_alone, lower_tiers_hold(s, above)))
            return false;
        while (!s->n_free_slots || !fits(s, c.n_pages, 0)) {
            struct lodge_seq *victim = pick_victim(s, above);
            assert(victim); /* what lower tiers hold was enough */
            preempt(s, victim);
            c = claim_of(s, q);
        }
    }
    start(s, q, &c);
    return true;
}

/* ---- the step ---- */

/* Pages for the tokens up to `end`; preempts others, in the end the sequence itself. */
static bool grow(struct lodge_sched *s, struct lodge_seq *q, uint32_t end)
{
    while (q->n_blocks < blocks_of(s->page_tokens, end)) {
        if (add_block(s, q))
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
        plan_row(s, q, chunk(s, q, s->limits.max_step_tokens - s->n_step_tokens, others));
        q = next_unplanned(s, q, preemptions, false);
    }
}

void lodge_sched_plan(struct lodge_sched *s)
{
    assert(!s->n_copies); /* those of the last plan were submitted */
    s->n_rows = s->n_step_tokens = 0;
    s->plans++;
    while (s->waiting.first && admit_head(s))
        ;
    plan_decodes(s);
    plan_prefills(s);
}

/* ---- after the step ---- */

/* Pages of sliding windows that no later query can see. */
static void pass_windows(struct lodge_sched *s, struct lodge_seq *q)
{
    for (uint32_t g = 0; g < s->n_groups; g++)
        for (uint32_t first = front(s, g, q->n_computed); q->freed_front[g] < first;
             q->freed_front[g]++) {
            uint32_t *page = page_at(q, g, q->freed_front[g]);
            let_go(s, g, *page);
            *page = LODGE_NO_PAGE;
        }
}

void lodge_sched_computed(struct lodge_sched *s, const struct lodge_planned *row)
{
    struct lodge_seq *q = row->seq;
    q->n_computed = row->position + row->n_tokens;
    uint32_t full = q->n_computed / s->page_tokens, pages[LODGE_MAX_GROUPS];
    for (; s->limits.prefix_cache && q->n_keys < full; q->n_keys++) {
        for (uint32_t g = 0; g < s->n_groups; g++)
            pages[g] = *page_at(q, g, q->n_keys);
        lodge_prefix_add(s->prefix, key_of(s, q, q->n_keys), pages);
    }
    pass_windows(s, q);
}

void lodge_sched_distrust(struct lodge_sched *s, const struct lodge_seq *q)
{
    for (uint32_t b = 0; b < q->n_blocks; b++)
        for (uint32_t g = 0; g < s->n_groups; g++)
            if (b >= q->freed_front[g])
                lodge_prefix_forget_page(s->prefix, *page_at(q, g, b));
}
