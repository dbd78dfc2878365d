#include "engine/sched.h"

#include <stdlib.h>
#include <string.h>

#define NONE UINT32_MAX

/* ---- lists
 * ---------------------------------------------------------------------------------------- */

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

/* ---- pages of a sequence
 * --------------------------------------------------------------------------- */

static uint32_t blocks_of(const struct lodge_sched *s, uint64_t n_tokens)
{
    return (uint32_t)((n_tokens + s->page_tokens - 1) / s->page_tokens);
}

static uint32_t *page_at(const struct lodge_seq *q, uint32_t group, uint32_t block)
{
    return &q->pages[(size_t)group * q->max_blocks + block];
}

uint32_t lodge_sched_available(const struct lodge_sched *s)
{
    return s->pool->n_free + s->pool->n_retiring + s->pool->n_cached;
}

bool lodge_sched_fits(const struct lodge_sched *s, uint32_t n_tokens)
{
    return (uint64_t)blocks_of(s, n_tokens) * s->n_groups <= s->pool->n_pages;
}

static uint32_t take_page(struct lodge_sched *s)
{
    uint32_t page;
    while ((page = lodge_pool_take(s->pool, LODGE_PAGE_KV)) == NONE)
        if (!lodge_prefix_evict(s->prefix))
            return NONE;
    return page;
}

/* Last block first, so that in the cache a predecessor outlives its successors. */
static void release_pages(struct lodge_sched *s, struct lodge_seq *q)
{
    for (uint32_t b = q->n_blocks; b-- > 0;)
        for (uint32_t g = 0; g < s->n_groups; g++) {
            uint32_t page = *page_at(q, g, b);
            if (page != LODGE_NO_PAGE)
                lodge_prefix_unref_page(s->prefix, page);
        }
    memset(q->freed_front, 0, s->n_groups * sizeof *q->freed_front);
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

/* Blocks that running sequences may still claim by their reservations. */
static uint64_t outstanding(const struct lodge_sched *s)
{
    uint64_t sum = 0;
    for (const struct lodge_seq *q = s->running.first; q; q = q->next)
        sum += q->n_reserved > q->n_blocks ? q->n_reserved - q->n_blocks : 0;
    return sum;
}

/* ---- the prefix cache
 * ------------------------------------------------------------------------------- */

static const struct lodge_digest *parent_key(const struct lodge_seq *q, uint32_t block)
{
    return block ? &q->keys[block - 1] : &q->req->root;
}

/* Pages of the entry must be there in every group for as far as its window reaches from `end`. */
static bool entry_holds(const struct lodge_sched *s, uint32_t entry, uint32_t block, uint32_t end)
{
    for (uint32_t g = 0; g < s->n_groups; g++) {
        uint32_t window = s->plan->groups[g].window;
        bool needed = !window || (uint64_t)(block + 1) * s->page_tokens + window > end;
        if (needed && lodge_prefix_pages(s->prefix, entry)[g] == LODGE_NO_PAGE)
            return false;
    }
    return true;
}

/* Number of leading blocks in the cache; their keys are left in q->keys, entries in `entries`. */
static uint32_t find_prefix(struct lodge_sched *s, struct lodge_seq *q, uint32_t *entries)
{
    uint32_t most = (q->n_tokens - 1) / s->page_tokens, n = 0;
    if (!s->limits.prefix_cache || q->req->r.want_prompt_scores)
        return 0;
    for (; n < most; n++) {
        lodge_prefix_key(s->prefix, parent_key(q, n), q->tokens + (size_t)n * s->page_tokens,
                         &q->keys[n]);
        entries[n] = lodge_prefix_find(s->prefix, &q->keys[n]);
        if (entries[n] == NONE)
            break;
    }
    for (; n > 0; n--) {
        bool holds = true;
        for (uint32_t b = 0; b < n && holds; b++)
            holds = entry_holds(s, entries[b], b, n * s->page_tokens);
        if (holds)
            break;
    }
    return n;
}

static void use_prefix(struct lodge_sched *s, struct lodge_seq *q, const uint32_t *entries,
                       uint32_t n)
{
    for (uint32_t b = 0; b < n; b++) {
        uint32_t entry = entries[b]; /* the list shares its memory with the pages written here */
        lodge_prefix_use(s->prefix, entry);
        for (uint32_t g = 0; g < s->n_groups; g++)
            *page_at(q, g, b) = lodge_prefix_pages(s->prefix, entry)[g];
    }
    q->n_blocks = q->n_keys = n;
    q->n_computed = n * s->page_tokens;
}

/* ---- forks: further choices of a request
 * ------------------------------------------------------------- */

/* The first choice, if its prompt's pages are still there to share. */
static struct lodge_seq *fork_source(const struct lodge_seq *q)
{
    struct lodge_seq *first = &q->req->seqs[0];
    bool shares = q->choice && first->state == LODGE_SEQ_RUNNING && !q->preempted &&
                  q->n_output == 0 && first->n_computed >= q->n_prompt && !first->freed_front[0];
    return shares ? first : NULL;
}

/* Shares the full blocks of the prompt; the partial one is copied before the next step runs. The
 * last prompt token is computed again, for its logits. */
static void fork_pages(struct lodge_sched *s, struct lodge_seq *q, const struct lodge_seq *from)
{
    uint32_t keep = q->n_prompt - 1, full = keep / s->page_tokens;
    for (uint32_t b = 0; b < full; b++)
        for (uint32_t g = 0; g < s->n_groups; g++) {
            *page_at(q, g, b) = *page_at(from, g, b);
            if (*page_at(q, g, b) != LODGE_NO_PAGE)
                lodge_pool_ref(s->pool, *page_at(q, g, b));
        }
    uint32_t keys = from->n_keys < full ? from->n_keys : full;
    memcpy(q->keys, from->keys, keys * sizeof *q->keys);
    q->n_keys = keys;
    q->n_blocks = full;
    q->n_computed = full * s->page_tokens;
    if (keep % s->page_tokens == 0 || !add_block(s, q))
        return;
    for (uint32_t g = 0; g < s->n_groups; g++)
        s->copies[s->n_copies++] = (struct lodge_page_copy){.group = g,
                                                            .from = *page_at(from, g, full),
                                                            .to = *page_at(q, g, full),
                                                            .n_tokens = keep % s->page_tokens};
    q->n_computed = keep;
}

/* ---- admission
 * ----------------------------------------------------------------------------------------- */

void lodge_sched_enqueue(struct lodge_sched *s, struct lodge_seq *q)
{
    q->state = LODGE_SEQ_WAITING;
    struct lodge_seq *at = s->waiting.first;
    /* Preempted ones stand first; then priority; then arrival. */
    while (at && (at->preempted > q->preempted ||
                  (at->preempted == q->preempted && at->req->r.priority <= q->req->r.priority)))
        at = at->next;
    list_insert_before(&s->waiting, at, q);
}

static uint32_t reservation(const struct lodge_sched *s, const struct lodge_seq *q)
{
    uint32_t left = q->max_output - q->n_output;
    if (!q->preempted && left > s->limits.reserve_tokens)
        left = s->limits.reserve_tokens;
    return blocks_of(s, (uint64_t)q->n_tokens + left);
}

static void start(struct lodge_sched *s, struct lodge_seq *q, uint32_t reserved)
{
    list_remove(&s->waiting, q);
    list_insert_before(&s->running, NULL, q);
    q->state = LODGE_SEQ_RUNNING;
    q->slot = s->free_slots[--s->n_free_slots];
    q->n_reserved = reserved;
    q->admitted = ++s->admissions;
    if (!q->counted_cached) {
        q->counted_cached = true;
        s->prefix_queries += q->n_tokens;
        s->prefix_hits += q->n_computed;
        if (!q->choice)
            q->req->cached_tokens = q->n_computed;
    }
}

static bool admit(struct lodge_sched *s, struct lodge_seq *q)
{
    uint32_t reserved = reservation(s, q);
    struct lodge_seq *source = fork_source(q);
    uint32_t *entries = q->pages; /* not in use while the sequence waits */
    uint32_t have = source ? (q->n_prompt - 1) / s->page_tokens : find_prefix(s, q, entries);
    /* Blocks shared with somebody who runs cost nothing; cached ones cease to be available. */
    uint32_t shared = source ? have : 0;
    for (uint32_t b = 0; b < have && !source; b++)
        shared +=
            s->pool->pages[lodge_prefix_pages(s->prefix, entries[b])[s->n_groups - 1]].refs > 0;
    uint64_t need = (uint64_t)(reserved - shared) + outstanding(s);
    if (need * s->n_groups > lodge_sched_available(s) && s->running.n)
        return false;
    if (source)
        fork_pages(s, q, source);
    else
        use_prefix(s, q, entries, have);
    start(s, q, reserved);
    return true;
}

void lodge_sched_remove(struct lodge_sched *s, struct lodge_seq *q)
{
    if (q->state == LODGE_SEQ_RUNNING) {
        release_pages(s, q);
        list_remove(&s->running, q);
        s->free_slots[s->n_free_slots++] = q->slot;
    } else if (q->state == LODGE_SEQ_WAITING) {
        list_remove(&s->waiting, q);
    }
    q->state = LODGE_SEQ_DONE;
}

/* ---- preemption
 * ---------------------------------------------------------------------------------------- */

static struct lodge_seq *pick_victim(const struct lodge_sched *s)
{
    struct lodge_seq *victim = NULL;
    for (struct lodge_seq *q = s->running.first; q; q = q->next)
        if (!q->preempted &&
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
    for (uint32_t i = 0; i < s->n_copies;)
        if (q->n_blocks && s->copies[i].to == *page_at(q, s->copies[i].group, q->n_blocks - 1))
            s->copies[i] = s->copies[--s->n_copies];
        else
            i++;
    release_pages(s, q);
    list_remove(&s->running, q);
    s->free_slots[s->n_free_slots++] = q->slot;
    q->preempted = true;
    q->req->n_preempted++;
    s->preemptions++;
    lodge_sched_enqueue(s, q);
}

/* Pages for the tokens up to `end`; preempts others, in the end the sequence itself. */
static bool grow(struct lodge_sched *s, struct lodge_seq *q, uint32_t end)
{
    while (q->n_blocks < blocks_of(s, end)) {
        if (add_block(s, q))
            continue;
        struct lodge_seq *victim = pick_victim(s);
        if (!victim)
            return false;
        preempt(s, victim);
        if (victim == q)
            return false;
    }
    return true;
}

/* ---- the step
 * -------------------------------------------------------------------------------------------- */

static void plan_row(struct lodge_sched *s, struct lodge_seq *q, uint32_t n)
{
    uint32_t end = q->n_computed + n;
    if (!grow(s, q, end))
        return;
    s->rows[s->n_rows++] = (struct lodge_planned){
        .seq = q, .position = q->n_computed, .n_tokens = n, .sample = end == q->n_tokens};
    s->n_step_tokens += n;
}

static void plan_decodes(struct lodge_sched *s)
{
    struct lodge_seq *next;
    for (struct lodge_seq *q = s->running.first; q; q = next) {
        next = q->next;
        if (q->n_tokens - q->n_computed == 1 && s->n_step_tokens < s->limits.max_step_tokens)
            plan_row(s, q, 1);
        /* A preemption may have taken `next` out of the list. */
        if (next && next->state != LODGE_SEQ_RUNNING)
            next = NULL;
    }
}

/* Chunks end at block borders where they can. */
static uint32_t chunk(const struct lodge_sched *s, const struct lodge_seq *q, uint32_t budget)
{
    uint32_t left = q->n_tokens - q->n_computed;
    if (left <= budget)
        return left;
    uint32_t end = (q->n_computed + budget) / s->page_tokens * s->page_tokens;
    return end > q->n_computed ? end - q->n_computed : budget;
}

static void plan_prefills(struct lodge_sched *s)
{
    struct lodge_seq *next;
    for (struct lodge_seq *q = s->running.first; q; q = next) {
        next = q->next;
        uint32_t budget = s->limits.max_step_tokens - s->n_step_tokens;
        if (!budget)
            return;
        if (q->n_tokens - q->n_computed > 1)
            plan_row(s, q, chunk(s, q, budget));
        if (next && next->state != LODGE_SEQ_RUNNING)
            next = NULL;
    }
}

void lodge_sched_plan(struct lodge_sched *s)
{
    s->n_rows = s->n_step_tokens = s->n_copies = 0;
    while (s->waiting.first && s->n_free_slots && admit(s, s->waiting.first))
        ;
    plan_decodes(s);
    plan_prefills(s);
}

/* Pages of sliding windows that no later query can see. */
static void pass_windows(struct lodge_sched *s, struct lodge_seq *q)
{
    for (uint32_t g = 0; g < s->n_groups; g++) {
        uint32_t window = s->plan->groups[g].window;
        if (!window || q->n_computed < window)
            continue;
        uint32_t first = (q->n_computed + 1 - window) / s->page_tokens;
        first = first < q->n_keys || !s->limits.prefix_cache ? first : q->n_keys;
        for (uint32_t b = q->freed_front[g]; b < first && b < q->n_blocks; b++) {
            if (*page_at(q, g, b) != LODGE_NO_PAGE)
                lodge_prefix_unref_page(s->prefix, *page_at(q, g, b));
            *page_at(q, g, b) = LODGE_NO_PAGE;
            q->freed_front[g] = b + 1;
        }
    }
}

void lodge_sched_computed(struct lodge_sched *s, const struct lodge_planned *row)
{
    struct lodge_seq *q = row->seq;
    q->n_computed = row->position + row->n_tokens;
    uint32_t full = q->n_computed / s->page_tokens, pages[LODGE_MAX_GROUPS];
    for (; s->limits.prefix_cache && q->n_keys < full; q->n_keys++) {
        lodge_prefix_key(s->prefix, parent_key(q, q->n_keys),
                         q->tokens + (size_t)q->n_keys * s->page_tokens, &q->keys[q->n_keys]);
        for (uint32_t g = 0; g < s->n_groups; g++)
            pages[g] = *page_at(q, g, q->n_keys);
        lodge_prefix_add(s->prefix, &q->keys[q->n_keys], pages);
    }
    pass_windows(s, q);
}
