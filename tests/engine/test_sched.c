/* The scheduler, pool and prefix cache in the engine's own loop, turn by turn, under random
 * requests, cancels and deadlines. The fake backend checks the contents of all pages that are
 * read; this file checks the books after each turn, the order of admission, who is preempted and
 * why, and that every request gets exactly the reply it gets alone. */
#include "tests/engine/test_engine_client.h"

#include <check.h>
#include <string.h>

#define MOST_CLIENTS 24u
#define MOST_PAGES 600u

struct world {
    struct test_random rnd;
    struct fake_config cfg;
    struct fake fake;
    struct client clients[MOST_CLIENTS];
    struct lodge_buf scratch;
    uint64_t admissions_before, preemptions_before;
    /* Sequences that had been preempted when the turn began, by (client, choice). */
    bool preempted_before[MOST_CLIENTS][CLIENT_MAX_CHOICES];
    uint32_t holders[MOST_PAGES];
};

static uint32_t least(uint64_t a, uint64_t b)
{
    return (uint32_t)(a < b ? a : b);
}

/* ---- the books ---- */

/* Blocks of a group that a sequence of `blocks` blocks may come to hold, from the definition: the
 * window before a step, the step, and both ends rounded to blocks. */
static uint32_t reserved_in(const struct world *w, uint32_t group, uint32_t blocks)
{
    uint32_t window = w->cfg.window[group], t = w->cfg.page_tokens;
    return window ? least(blocks, (window + w->fake.en->cfg.max_step_tokens + t - 1) / t + 1)
                  : blocks;
}

static void check_table(struct world *w, const struct lodge_seq *q)
{
    uint32_t t = w->cfg.page_tokens;
    TEST_CHECK(q->n_blocks * t >= q->n_computed, "a table ends before what was computed");
    TEST_CHECK(q->n_computed <= q->n_tokens &&
               q->n_blocks <= (q->n_tokens + LODGE_MAX_DRAFT + t - 1) / t);
    for (uint32_t g = 0; g < w->cfg.n_groups; g++) {
        uint32_t window = w->cfg.window[g];
        uint32_t seen = window && q->n_computed + 1 > window ? q->n_computed + 1 - window : 0;
        TEST_CHECK(q->freed_front[g] <= seen / t, "group %u: a page in the window is gone", g);
        TEST_CHECK(q->n_blocks - q->freed_front[g] <= reserved_in(w, g, q->n_blocks),
                   "group %u holds %u blocks", g, q->n_blocks - q->freed_front[g]);
        for (uint32_t b = 0; b < q->n_blocks; b++) {
            uint32_t page = q->pages[g * q->max_blocks + b];
            TEST_CHECK((page == LODGE_NO_PAGE) == (b < q->freed_front[g]));
            TEST_CHECK(page == LODGE_NO_PAGE || page < w->cfg.n_pages);
            if (page != LODGE_NO_PAGE)
                w->holders[page]++;
        }
    }
}

static void check_pages(struct world *w)
{
    const struct lodge_pool *p = &w->fake.en->pool;
    uint32_t n_kv = 0, n_cached = 0, n_free = 0;
    for (uint32_t i = 0; i < w->cfg.n_pages; i++) {
        const struct lodge_page *page = &p->pages[i];
        TEST_CHECK(page->refs == w->holders[i], "page %u: %u references, %u holders", i, page->refs,
                   w->holders[i]);
        TEST_CHECK(page->type == (page->refs                  ? LODGE_PAGE_KV
                                  : page->entry != UINT32_MAX ? LODGE_PAGE_CACHED
                                                              : LODGE_PAGE_FREE));
        n_kv += page->refs > 0;
        n_cached += !page->refs && page->entry != UINT32_MAX;
        n_free += !page->refs && page->entry == UINT32_MAX;
    }
    TEST_CHECK(p->n_kv == n_kv && p->n_cached == n_cached && p->n_free == n_free);
    TEST_CHECK(p->n_retiring == 0 && p->n_adapter == 0);
    for (uint32_t i = 0; i < p->n_free; i++) {
        TEST_CHECK(w->holders[p->free[i]] == 0 && p->pages[p->free[i]].type == LODGE_PAGE_FREE);
        w->holders[p->free[i]] = UINT32_MAX; /* twice in the stack fails above */
    }
}

static void check_cache(const struct world *w)
{
    const struct lodge_engine *en = w->fake.en;
    const struct lodge_prefix *c = &en->prefix;
    uint32_t n_named = 0, n_names = 0, n_listed = 0, n_in_list = 0;
    for (uint32_t i = 0; i < c->n_entries; i++) {
        bool idle = false;
        if (!c->entries[i].used)
            continue;
        uint32_t n = 0;
        for (uint32_t g = 0; g < c->n_groups; g++) {
            uint32_t page = lodge_prefix_pages(c, i)[g];
            if (page == LODGE_NO_PAGE)
                continue;
            TEST_CHECK(en->pool.pages[page].entry == i);
            idle = idle || !en->pool.pages[page].refs;
            n++;
        }
        TEST_CHECK(n > 0, "an entry without pages");
        TEST_CHECK(idle == c->entries[i].listed, "an idle page that cannot be evicted");
        TEST_CHECK(lodge_prefix_find(c, &c->entries[i].key) == i);
        n_names += n;
        n_listed += idle;
    }
    for (uint32_t i = 0; i < en->pool.n_pages; i++)
        n_named += en->pool.pages[i].entry != UINT32_MAX;
    for (uint32_t i = c->oldest; i != UINT32_MAX; i = c->entries[i].newer)
        n_in_list++;
    TEST_CHECK(n_named == n_names && n_listed == n_in_list);
    TEST_CHECK(!w->cfg.no_prefix_cache || !n_named);
}

/* Pages of groups with windows, counted once for each holder but the first. */
static int64_t held_twice(const struct world *w)
{
    int64_t n = 0, distinct = 0;
    static bool seen[MOST_PAGES];
    memset(seen, 0, sizeof seen);
    for (const struct lodge_seq *q = w->fake.en->sched.running.first; q; q = q->next)
        for (uint32_t g = 0; g < w->cfg.n_groups; g++)
            for (uint32_t b = q->freed_front[g]; b < q->n_blocks && w->cfg.window[g]; b++) {
                uint32_t page = q->pages[g * q->max_blocks + b];
                n++;
                distinct += !seen[page];
                seen[page] = true;
            }
    return n - distinct;
}

/* What was promised and not yet claimed is there, but for what others took beyond their own. */
static void check_promises(const struct world *w)
{
    const struct lodge_engine *en = w->fake.en;
    int64_t open = held_twice(w);
    TEST_CHECK(open == (int64_t)en->sched.n_shared);
    for (const struct lodge_seq *q = en->sched.running.first; q; q = q->next)
        for (uint32_t g = 0; g < w->cfg.n_groups; g++) {
            int64_t held = q->n_blocks - q->freed_front[g];
            int64_t room = (int64_t)reserved_in(w, g, q->n_reserved) - held;
            int64_t to_come = (int64_t)q->n_reserved - q->n_blocks;
            open += room < to_come ? room : to_come;
        }
    TEST_CHECK(open <= (int64_t)en->pool.n_free + en->pool.n_cached, "overcommitted by %lld pages",
               (long long)(open - en->pool.n_free - en->pool.n_cached));
}

static void check_idle_seq(const struct lodge_seq *q)
{
    TEST_CHECK(!q->n_blocks && !q->n_computed, "a sequence that does not run holds pages");
}

static uint32_t n_places(const struct lodge_fair *f)
{
    return f->max_tenants + LODGE_MAX_TIERS;
}

/* Heaps, counts and what is remembered of tenants agree with who waits and who runs. */
static void check_tenants(const struct lodge_sched *s)
{
    const struct lodge_fair *f = &s->fair;
    uint32_t n_running[MOST_CLIENTS + 512] = {0}, n_used = 0, n_waiting[LODGE_MAX_TIERS] = {0};
    TEST_CHECK(!f->n_popped && n_places(f) <= MOST_CLIENTS + 512);
    for (const struct lodge_seq *q = s->running.first; q; q = q->next)
        n_running[q->tenant]++;
    for (uint32_t i = 0; i < n_places(f); i++) {
        const struct lodge_tenant *t = &f->tenants[i];
        const struct lodge_tier *tier = &f->tiers[t->tier];
        n_used += t->used;
        TEST_CHECK(t->n_running == n_running[i], "tenant %u: %u run", i, n_running[i]);
        n_waiting[t->tier] += t->waiting.n > 0;
        if (t->waiting.n)
            TEST_CHECK(!t->idle && tier->ready.at[t->place] == i);
        else if (t->idle)
            TEST_CHECK(!t->n_running && tier->idle.at[t->place] == i && t->counter > 0);
        else
            TEST_CHECK(t->place == LODGE_NO_TENANT && (t->n_running || !t->used));
    }
    TEST_CHECK(n_used == f->n_tenants);
    for (uint32_t i = 0; i < LODGE_MAX_TIERS; i++) {
        const struct lodge_tenant_heap *h = &f->tiers[i].ready;
        TEST_CHECK(n_waiting[i] == f->tiers[i].n_tenants && n_waiting[i] == h->n);
        for (uint32_t k = 1; k < h->n; k++)
            TEST_CHECK(!lodge_fair_before(f, h->at[k], h->at[(k - 1) / 2]), "not a heap");
    }
}

static void check_books(struct world *w)
{
    const struct lodge_engine *en = w->fake.en;
    memset(w->holders, 0, sizeof w->holders);
    TEST_CHECK(en->sched.n_copies == 0);
    for (const struct lodge_seq *q = en->sched.running.first; q; q = q->next)
        check_table(w, q);
    uint32_t n_waiting = 0;
    for (uint32_t i = 0; i < n_places(&en->sched.fair); i++)
        for (const struct lodge_seq *q = en->sched.fair.tenants[i].waiting.first; q; q = q->next) {
            check_idle_seq(q);
            n_waiting++;
        }
    TEST_CHECK(n_waiting == en->sched.fair.n_waiting);
    check_tenants(&en->sched);
    check_pages(w);
    check_cache(w);
    check_promises(w);
    uint32_t running = en->sched.running.n;
    TEST_CHECK(running + en->sched.n_free_slots == en->cfg.max_seqs);
}

/* ---- the plan, seen from inside the step ---- */

/* What may be preempted for what, by the policy's definition. */
static int64_t class_of(const struct world *w, const struct lodge_seq *q)
{
    return w->cfg.policy == LODGE_POLICY_PRIORITY ? (int64_t)q->req->r.priority
           : w->cfg.policy == LODGE_POLICY_FAIR   ? (int64_t)q->req->r.tier
                                                  : 0;
}

static bool goes_before(const struct world *w, const struct lodge_seq *a, const struct lodge_seq *b)
{
    bool fair = w->cfg.policy == LODGE_POLICY_FAIR;
    bool late_a = !a->preempted && !(fair && a->choice);
    bool late_b = !b->preempted && !(fair && b->choice);
    int64_t ka[4] = {class_of(w, a), late_a, (int64_t)a->req->id, a->choice};
    int64_t kb[4] = {class_of(w, b), late_b, (int64_t)b->req->id, b->choice};
    for (int i = 0; i < 4; i++)
        if (ka[i] != kb[i])
            return ka[i] < kb[i];
    return false;
}

static uint32_t client_of(const struct world *w, const struct lodge_seq *q)
{
    for (uint32_t i = 0; i < MOST_CLIENTS; i++)
        if (w->clients[i].id == q->req->id)
            return i;
    TEST_CHECK(false, "a sequence of nobody");
    return 0;
}

/* Was this one preempted by this plan? */
static bool preempted_now(const struct world *w, const struct lodge_seq *q)
{
    return q->preempted && !w->preempted_before[client_of(w, q)][q->choice];
}

/* Nobody was admitted past one that waits, except one that ran when admission happened. Under the
 * fair policy the order among tenants is not the queue's (test_fair.c looks at that). */
static void check_admission(const struct world *w)
{
    const struct lodge_sched *s = &w->fake.en->sched;
    for (uint32_t i = 0; i < n_places(&s->fair); i++) {
        const struct lodge_seq *first = s->fair.tenants[i].waiting.first;
        for (const struct lodge_seq *x = first; x && x->next; x = x->next)
            TEST_CHECK(goes_before(w, x, x->next), "the queue is out of order");
        for (const struct lodge_seq *q = s->running.first; q; q = q->next)
            for (const struct lodge_seq *x = first; x && q->admitted > w->admissions_before;
                 x = x->next)
                TEST_CHECK(preempted_now(w, x) || goes_before(w, q, x) ||
                               w->cfg.policy == LODGE_POLICY_FAIR,
                           "request %llu was overtaken", (unsigned long long)x->req->id);
    }
}

/* Somebody is preempted because a reply outgrew its reservation, or for a better class. */
static void check_preemptions(const struct world *w)
{
    const struct lodge_sched *s = &w->fake.en->sched;
    uint64_t n = s->preemptions - w->preemptions_before;
    bool outgrown = false;
    int64_t best = INT64_MAX, victims = INT64_MAX;
    for (const struct lodge_inflight *r = w->fake.en->requests; r; r = r->next)
        for (uint32_t i = 0; i < r->r.n_choices; i++) {
            const struct lodge_seq *q = &r->seqs[i];
            uint32_t blocks = (q->n_tokens + w->cfg.page_tokens - 1) / w->cfg.page_tokens;
            outgrown = outgrown || (q->n_reserved && blocks > q->n_reserved);
            if (q->state == LODGE_SEQ_RUNNING && q->admitted > w->admissions_before)
                best = class_of(w, q) < best ? class_of(w, q) : best;
            if (preempted_now(w, q)) {
                n--;
                victims = class_of(w, q) < victims ? class_of(w, q) : victims;
            }
        }
    TEST_CHECK(n == 0, "a sequence was preempted twice");
    TEST_CHECK(victims == INT64_MAX || outgrown || best < victims, "preempted for nothing");
}

/* All that decode have a row, and prompts use what is left of the budget. */
static void check_rows(const struct world *w, const struct lodge_step *s)
{
    const struct lodge_engine *en = w->fake.en;
    bool starved = false;
    for (const struct lodge_seq *q = en->sched.running.first; q; q = q->next) {
        bool has_row = false;
        for (uint32_t i = 0; i < s->n_rows; i++)
            has_row = has_row || s->rows[i].slot == q->slot;
        TEST_CHECK(has_row || q->n_tokens - q->n_computed > 1, "one that decodes has no row");
        starved = starved || !has_row;
    }
    TEST_CHECK(!starved || s->n_tokens == en->cfg.max_step_tokens, "budget left, prompts wait");
    for (uint32_t i = 0; i < s->n_rows; i++)
        for (uint32_t k = 0; k < i; k++)
            TEST_CHECK(s->rows[i].slot != s->rows[k].slot);
}

static void check_plan(void *cookie, const struct lodge_step *s)
{
    const struct world *w = cookie;
    check_admission(w);
    check_preemptions(w);
    check_rows(w, s);
}

/* ---- actions ---- */

static struct lodge_inflight *inflight_of(const struct world *w, const struct client *c)
{
    struct lodge_inflight *q = w->fake.en->requests;
    while (q && q->id != c->id)
        q = q->next;
    return q;
}

static void begin_turn(struct world *w)
{
    const struct lodge_sched *s = &w->fake.en->sched;
    w->admissions_before = s->admissions;
    w->preemptions_before = s->preemptions;
    memset(w->preempted_before, 0, sizeof w->preempted_before);
    for (const struct lodge_inflight *r = w->fake.en->requests; r; r = r->next)
        for (uint32_t i = 0; i < r->r.n_choices; i++)
            w->preempted_before[client_of(w, &r->seqs[i])][i] = r->seqs[i].preempted;
}

static void settle(struct world *w, struct client *c)
{
    client_check(c, w->cfg.max_model_len, w->cfg.page_tokens);
    TEST_CHECK(!inflight_of(w, c));
    lodge_stream_close(c->stream);
    c->stream = NULL;
    c->id = 0;
}

static bool turn(struct world *w)
{
    struct lodge_engine *en = w->fake.en;
    begin_turn(w);
    bool busy = lodge_engine_turn(en, 0);
    TEST_CHECK(busy || !en->requests, "requests wait and nothing runs");
    check_books(w);
    for (uint32_t i = 0; i < MOST_CLIENTS; i++) {
        struct client *c = &w->clients[i];
        if (!c->stream)
            continue;
        client_take(c, &w->scratch);
        if (c->ended)
            settle(w, c);
    }
    return busy;
}

/* A client hangs up: its pages are free after one turn. */
static void hang_up(struct world *w, struct client *c)
{
    lodge_stream_close(c->stream);
    c->stream = NULL;
    turn(w);
    TEST_CHECK(!inflight_of(w, c), "a cancelled request lives on");
    c->id = 0;
}

static void pass_deadline(struct world *w, struct client *c)
{
    struct lodge_inflight *q = inflight_of(w, c);
    if (!q)
        return;
    q->deadline_ns = 1;
    begin_turn(w);
    lodge_engine_turn(w->fake.en, 0);
    check_books(w);
    client_take(c, &w->scratch);
    TEST_CHECK(c->ended && c->finish == LODGE_FINISH_ABORT && c->error == LODGE_ERR_TIMEOUT);
    settle(w, c);
}

static void submit(struct world *w, struct client *c)
{
    uint32_t waiting = atomic_load(&w->fake.en->n_waiting);
    client_draw(c, &w->rnd, w->cfg.max_model_len, w->cfg.page_tokens);
    int err = client_submit(c, w->fake.en);
    TEST_CHECK(err == (waiting >= w->cfg.max_queue ? LODGE_ERR_FULL : 0), "error %d", err);
    if (err)
        c->id = 0;
}

static void act(struct world *w)
{
    struct client *c = &w->clients[test_below(&w->rnd, MOST_CLIENTS)];
    uint32_t what = test_below(&w->rnd, 16);
    if (what < 7 && !c->stream)
        submit(w, c);
    else if (what == 7 && c->stream)
        hang_up(w, c);
    else if (what == 8 && c->stream)
        pass_deadline(w, c);
    else
        turn(w);
}

/* ---- episodes ---- */

static void draw_config(struct world *w)
{
    struct fake_config *c = &w->cfg;
    struct test_random *rnd = &w->rnd;
    static const uint32_t page_tokens[] = {1, 2, 4, 4, 8, 16};
    *c = (struct fake_config){.page_tokens = page_tokens[test_below(rnd, 6)],
                              .n_groups = test_between(rnd, 1, FAKE_MAX_GROUPS),
                              .max_model_len = test_between(rnd, 4, 60),
                              .max_seqs = test_between(rnd, 1, 12),
                              .reserve_tokens = test_between(rnd, 1, 40),
                              .max_queue = test_between(rnd, 1, MOST_CLIENTS),
                              .no_prefix_cache = test_once_in(rnd, 6),
                              .policy = (enum lodge_policy)test_below(rnd, 3)};
    c->max_step_tokens = test_between(rnd, c->max_seqs, 48);
    for (uint32_t g = 0; g < c->n_groups; g++)
        c->window[g] = test_once_in(rnd, 2) ? test_between(rnd, 1, 30) : 0;
    struct lodge_layer_group groups[FAKE_MAX_GROUPS] = {0};
    for (uint32_t g = 0; g < c->n_groups; g++)
        groups[g].window = c->window[g];
    const struct lodge_plan plan = {.groups = groups, .n_groups = c->n_groups};
    uint32_t one =
        (uint32_t)lodge_sched_pages(&plan, c->page_tokens, c->max_step_tokens, c->max_model_len);
    c->n_pages = least(test_between(rnd, one, one * (test_once_in(rnd, 2) ? 2 : 8)), MOST_PAGES);
}

static void finish_all(struct world *w)
{
    uint32_t turns = 0;
    while (turn(w))
        TEST_CHECK(++turns < MOST_CLIENTS * CLIENT_MAX_CHOICES * 200, "requests do not end");
    for (uint32_t i = 0; i < MOST_CLIENTS; i++)
        TEST_CHECK(!w->clients[i].stream, "a request has not ended");
    TEST_CHECK(w->fake.en->pool.n_kv == 0 && lodge_engine_active(w->fake.en) == 0);
    TEST_CHECK(atomic_load(&w->fake.en->n_waiting) == 0);
}

struct totals {
    uint64_t steps, preemptions, hits, right, wrong;
};

static void episode(struct world *w, uint64_t seed, uint32_t n_actions, struct totals *totals)
{
    memset(w, 0, sizeof *w);
    w->rnd.state = seed;
    draw_config(w);
    fake_open(&w->fake, &w->cfg);
    w->fake.on_step = check_plan;
    w->fake.cookie = w;
    lodge_buf_init(&w->scratch, (size_t)1 << 24);
    for (uint32_t i = 0; i < n_actions; i++)
        act(w);
    finish_all(w);
    totals->steps += w->fake.n_steps;
    totals->preemptions += w->fake.en->sched.preemptions;
    totals->hits += w->fake.en->sched.prefix_hits;
    totals->right += w->fake.en->live.accepted_tokens;
    totals->wrong += w->fake.en->live.drafted_tokens - w->fake.en->live.accepted_tokens;
    lodge_buf_finish(&w->scratch);
    fake_close(&w->fake);
}

START_TEST(books_and_replies)
{
    static struct world w;
    uint64_t n_actions = test_actions(1000000);
    struct test_random rnd = test_seeded("sched");
    struct totals totals = {0};
    for (uint64_t done = 0; done < n_actions; done += 300) {
        uint64_t seed = done ? test_next(&rnd) : rnd.state;
        printf("episode %llu\r", (unsigned long long)seed);
        episode(&w, seed, 300, &totals);
    }
    printf("%llu steps, %llu preemptions, %llu tokens from the cache, guesses %llu right and %llu "
           "wrong\n",
           (unsigned long long)totals.steps, (unsigned long long)totals.preemptions,
           (unsigned long long)totals.hits, (unsigned long long)totals.right,
           (unsigned long long)totals.wrong);
    ck_assert_uint_gt(totals.right, 0);
    ck_assert_uint_gt(totals.wrong, 0);
    ck_assert_uint_gt(totals.preemptions, 0);
    ck_assert_uint_gt(totals.hits, 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("sched");
    TCase *c = tcase_create("sched");
    tcase_set_timeout(c, 0);
    tcase_add_test(c, books_and_replies);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_set_fork_status(r, CK_NOFORK);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
