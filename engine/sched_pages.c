#include "engine/sched_pages.h"

#include <string.h>

#define NONE UINT32_MAX

/* ---- pages of a sequence ---- */

uint32_t lodge_sched_blocks_of(uint32_t page_tokens, uint64_t n_tokens)
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
    uint64_t most =
        (uint64_t)lodge_sched_blocks_of(page_tokens, (uint64_t)g->window + max_step_tokens) + 1;
    return g->window && most < n_blocks ? (uint32_t)most : n_blocks;
}

uint64_t lodge_sched_pages(const struct lodge_plan *plan, uint32_t page_tokens,
                           uint32_t max_step_tokens, uint64_t n_tokens)
{
    uint64_t sum = 0;
    for (uint32_t g = 0; g < plan->n_groups; g++)
        sum += most_blocks(&plan->groups[g], page_tokens, max_step_tokens,
                           lodge_sched_blocks_of(page_tokens, n_tokens));
    return sum;
}

uint32_t lodge_sched_available(const struct lodge_sched *s)
{
    return s->pool->n_free + s->pool->n_retiring + s->pool->n_cached;
}

static uint32_t take_page(struct lodge_sched *s, bool keep_wanted)
{
    uint32_t page;
    while ((page = lodge_pool_take(s->pool, LODGE_PAGE_KV)) == NONE)
        if (!lodge_residency_evict(s->residency, s->prefix, keep_wanted))
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
void lodge_sched_release_pages(struct lodge_sched *s, struct lodge_seq *q)
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
static bool add_block(struct lodge_sched *s, struct lodge_seq *q, bool keep_wanted)
{
    for (uint32_t g = 0; g < s->n_groups; g++) {
        uint32_t page = take_page(s, keep_wanted);
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

bool lodge_sched_add_block(struct lodge_sched *s, struct lodge_seq *q)
{
    return add_block(s, q, false);
}

/* Pages of a group that a sequence of `reserved` blocks holds at most at one time. */
static uint32_t reserved_in(const struct lodge_sched *s, uint32_t group, uint32_t reserved)
{
    return most_blocks(&s->plan->groups[group], s->page_tokens, s->limits.max_step_tokens,
                       reserved);
}

/* Pages that a running sequence may still claim by its reservation: blocks to come, as far as
 * they do not take the place of blocks that its window passes. */
uint64_t lodge_sched_unclaimed(const struct lodge_sched *s, const struct lodge_seq *q)
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

uint64_t lodge_sched_own_pages(const struct lodge_sched *s, const struct lodge_seq *q)
{
    uint64_t sum = 0;
    for (uint32_t g = 0; g < s->n_groups; g++)
        for (uint32_t b = q->freed_front[g]; b < q->n_blocks; b++)
            sum += s->pool->pages[*page_at(q, g, b)].refs == 1;
    return sum;
}

/* ---- the prefix cache ---- */

/* What the chain of keys follows at this block: the block before, and at the beginning, or behind
 * what is public, who asks. */
static struct lodge_digest parent_of(const struct lodge_sched *s, const struct lodge_seq *q,
                                     uint32_t block)
{
    const struct lodge_inflight *r = q->req;
    if (block == 0)
        return r->n_public ? r->public_root : r->root;
    if (block != r->n_public)
        return q->keys[block - 1];
    const struct lodge_digest both[2] = {q->keys[block - 1], r->root};
    struct lodge_digest out;
    lodge_prefix_root(s->prefix, both, sizeof both, &out);
    return out;
}

/* Key of a full block; blocks are asked for in order. */
static const struct lodge_digest *key_of(struct lodge_sched *s, struct lodge_seq *q, uint32_t block)
{
    if (block == q->n_hashed) {
        const struct lodge_digest parent = parent_of(s, q, block);
        lodge_prefix_key(s->prefix, &parent, q->tokens + (size_t)block * s->page_tokens,
                         &q->keys[block]);
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

uint32_t lodge_sched_blocks_in_cache(struct lodge_sched *s, struct lodge_seq *q, uint32_t most)
{
    uint32_t found = 0, all = (q->n_tokens - 1) / s->page_tokens;
    if (!s->limits.prefix_cache || q->req->r.want_prompt_scores)
        return 0;
    /* In the cache a predecessor outlives its successors, so the last one tells of all. */
    for (uint32_t n = 1; n <= most && n <= all; n *= 2) {
        for (uint32_t b = q->n_hashed; b < n; b++)
            key_of(s, q, b);
        if (lodge_prefix_find(s->prefix, &q->keys[n - 1]) == NONE)
            break;
        found = n;
    }
    return found;
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

/* The part of the prompt in a partial block is copied before the next step runs, or computed again
 * when the page for it would cost an adapter that somebody behind was found ready with. */
static void fork_partial(struct lodge_sched *s, struct lodge_seq *q, const struct lodge_seq *from)
{
    uint32_t full = q->n_blocks, n = q->n_prompt - 1 - full * s->page_tokens;
    if (!n || !add_block(s, q, true))
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

/* ---- claims ---- */

struct lodge_claim lodge_sched_claim(struct lodge_sched *s, struct lodge_seq *q)
{
    uint32_t left = q->max_output - q->n_output;
    if (!q->preempted && left > s->limits.reserve_tokens)
        left = s->limits.reserve_tokens;
    struct lodge_claim c = {
        .source = fork_source(s, q),
        .reserved = lodge_sched_blocks_of(s->page_tokens, (uint64_t)q->n_tokens + left)};
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
    /* So do those of its adapters that nobody uses. */
    c.n_alone += lodge_residency_idle_pages(s->residency, q);
    c.n_pages = c.n_alone - shared;
    return c;
}

void lodge_sched_use_claim(struct lodge_sched *s, struct lodge_seq *q, const struct lodge_claim *c)
{
    if (c->source)
        fork_pages(s, q, c->source);
    else
        use_prefix(s, q, q->pages, c->n_cached);
}

/* ---- copies, and after the step ---- */

void lodge_sched_drop_copies(struct lodge_sched *s, const struct lodge_seq *q)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n_copies; i++) {
        const struct lodge_page_copy *c = &s->copies[i];
        if (q->n_blocks && c->to == *page_at(q, c->group, q->n_blocks - 1))
            let_go(s, c->group, c->from);
        else
            s->copies[n++] = *c;
    }
    s->n_copies = n;
}

void lodge_sched_submitted(struct lodge_sched *s)
{
    for (uint32_t i = 0; i < s->n_copies; i++)
        let_go(s, s->copies[i].group, s->copies[i].from);
    s->n_copies = 0;
}

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
        lodge_prefix_add(s->prefix, key_of(s, q, q->n_keys), pages, q->req->owner);
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
