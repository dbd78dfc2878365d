/* Adapters and prefixes in one pool, under random actions: requests that want, use and release sets
 * of adapters, pages of keys and values that come and go, reads that take long or fail, versions
 * that nobody refers to any more, steps in flight.
 *
 * After every action: pages add up and none has two owners; the content of a resident adapter's
 * pages is its own (a backend that writes tags says so) and no page is written while a step that
 * could read it is in flight; a running sequence's adapters stay; nothing that an adapter computed
 * is found once it has left; what an earlier request of a plan wanted is not evicted for a later.
 */
#include "engine/sched.h"

#include "tests/engine/test_engine_random.h"

#include <check.h>
#include <string.h>

#define PAGES 48u
#define CELLS 3u /* of a page */
#define VERSIONS 14u
#define SEQS 10u
#define BLOCKS 40u
#define NONE UINT32_MAX

struct block {
    uint32_t page, seq; /* the sequence that holds it */
    bool used;
};

struct lab {
    struct test_random rnd;
    struct lodge_pool pool;
    struct lodge_prefix prefix;
    struct lodge_adapters adapters;
    struct lodge_residency *residency;
    struct lodge_plan plan;
    struct lodge_adapter_version *versions[VERSIONS];
    uint64_t tags[PAGES * CELLS]; /* what the cells of the pool hold */
    uint64_t next_tag, next_key;
    const struct lodge_adapter_version *slots[PAGES];
    uint64_t freed_at[PAGES]; /* last step that could read the page when it was given back */
    uint64_t submitted, retired;
    struct lodge_inflight requests[SEQS];
    struct lodge_seq seqs[SEQS];
    bool alive[SEQS], runs[SEQS];
    bool named[VERSIONS]; /* the reference of its name is there */
    struct block blocks[BLOCKS];
    uint64_t n_used, n_evicted, n_lost, n_dead;
};

static struct lab *lab; /* the backend's functions have no cookie */

/* ---- the backend ---- */

static uint64_t tag_of(const struct lodge_adapter_version *v, uint32_t cell)
{
    return test_mix((uint64_t)(uintptr_t)v * 31 + cell + v->info.digest.bytes[0]);
}

static int open_slot(struct lodge_device *d, const struct lodge_lora_layout *layout,
                     const uint32_t *pages, uint32_t n_pages, uint32_t *slot, struct lodge_error *e)
{
    (void)d, (void)e;
    const struct lodge_adapter_version *v = NULL;
    for (uint32_t i = 0; i < VERSIONS; i++)
        if (lab->versions[i] && &lab->versions[i]->layout == layout)
            v = lab->versions[i];
    TEST_CHECK(v && n_pages == v->info.n_pages);
    for (uint32_t i = 0; i < n_pages; i++)
        TEST_CHECK(lab->pool.pages[pages[i]].type == LODGE_PAGE_ADAPTER);
    *slot = 0;
    while (lab->slots[*slot])
        ++*slot;
    lab->slots[*slot] = v;
    return 0;
}

static void upload(struct lodge_device *d, uint32_t slot, const uint8_t *image, uint32_t first,
                   uint32_t n)
{
    (void)d;
    const struct lodge_adapter_version *v = lab->slots[slot];
    TEST_CHECK(v && first + n <= v->layout.n_cells);
    for (uint32_t c = first; c < first + n; c++) {
        uint32_t page = v->pages[c / CELLS];
        uint64_t tag;
        TEST_CHECK(lab->freed_at[page] <= lab->retired, "page %u may still be read", page);
        memcpy(&tag, image + (size_t)c * LODGE_CELL_BYTES, sizeof tag);
        lab->tags[page * CELLS + c % CELLS] = tag;
    }
}

static void close_slot(struct lodge_device *d, uint32_t slot)
{
    (void)d;
    TEST_CHECK(lab->slots[slot] != NULL);
    lab->slots[slot] = NULL;
}

static void page_freed(void *cookie, uint32_t page)
{
    struct lab *l = cookie;
    for (uint32_t c = 0; c < CELLS; c++)
        l->tags[page * CELLS + c] = 0;
}

static void ignore_news(void *cookie)
{
    (void)cookie;
}

/* ---- versions ---- */

static uint8_t *make_image(const struct lodge_adapter_version *v)
{
    uint8_t *image = lodge_spares_take(&lab->adapters.spares, v->info.bytes);
    for (uint32_t c = 0; image && c < v->layout.n_cells; c++) {
        uint64_t tag = tag_of(v, c);
        memcpy(image + (size_t)c * LODGE_CELL_BYTES, &tag, sizeof tag);
    }
    return image;
}

static void new_version(struct lab *l, uint32_t i, uint32_t n_cells)
{
    struct lodge_adapter_version *v = calloc(1, sizeof *v);
    v->owner = &l->adapters;
    v->fd = -1;
    v->layout.n_cells = n_cells;
    v->info.n_pages = (v->layout.n_cells + CELLS - 1) / CELLS;
    v->info.bytes = (uint64_t)v->layout.n_cells * LODGE_CELL_BYTES;
    v->pages = calloc(v->info.n_pages, sizeof *v->pages);
    v->refs = 1;
    uint64_t name = ++l->next_tag;
    lodge_sha256(&name, sizeof name, &v->info.digest);
    pthread_mutex_lock(&l->adapters.lock);
    TEST_CHECK(lodge_adapters_register(&l->adapters, v));
    pthread_mutex_unlock(&l->adapters.lock);
    l->versions[i] = v;
    l->named[i] = true;
}

/* The loader answers one wish, perhaps badly. */
static void load_one(struct lab *l)
{
    struct lodge_adapter_version *v = lodge_adapters_next_wanted(&l->adapters);
    if (!v)
        return;
    bool fails = test_once_in(&l->rnd, 40);
    lodge_adapters_loaded(&l->adapters, v, v->refs && !fails ? make_image(v) : NULL,
                          v->refs && fails);
}

/* ---- sequences ---- */

static void new_request(struct lab *l, uint32_t i)
{
    struct lodge_inflight *q = &l->requests[i];
    *q = (struct lodge_inflight){.r.n_choices = 1};
    l->seqs[i] = (struct lodge_seq){.req = q};
    uint32_t n = test_once_in(&l->rnd, 4) ? 2 : test_once_in(&l->rnd, 8) ? 0 : 1;
    for (uint32_t k = 0; k < n; k++) {
        struct lodge_adapter_version *v = l->versions[test_below(&l->rnd, VERSIONS)];
        if (!v || !v->refs || (k && v == q->versions[0]))
            continue;
        lodge_adapter_version_ref(v);
        q->versions[q->r.n_adapters++] = v;
    }
    l->alive[i] = true;
    l->runs[i] = false;
}

/* Pages go before the adapters they were computed with, as in the scheduler. */
static void end_request(struct lab *l, uint32_t i)
{
    for (uint32_t b = 0; b < BLOCKS; b++)
        if (l->blocks[b].used && l->blocks[b].seq == i) {
            lodge_prefix_unref_page(&l->prefix, l->blocks[b].page);
            l->blocks[b].used = false;
        }
    if (l->runs[i])
        lodge_residency_release(l->residency, &l->seqs[i]);
    for (uint32_t k = 0; k < l->requests[i].r.n_adapters; k++)
        lodge_adapter_version_unref(l->requests[i].versions[k]);
    l->alive[i] = l->runs[i] = false;
}

static uint64_t available(const struct lab *l)
{
    return l->pool.n_free + l->pool.n_retiring + l->pool.n_cached;
}

static void take_block(struct lab *l, bool keep_wanted);

/* One plan: whatever is ready begins to run, and some take pages at once. */
static void plan(struct lab *l)
{
    bool was[VERSIONS] = {false};
    uint64_t spare = available(l), promised = test_below(&l->rnd, 6);
    lodge_residency_begin(l->residency, spare > promised ? spare - promised : 0);
    for (uint32_t i = 0; i < SEQS; i++) {
        if (!l->alive[i] || l->runs[i])
            continue;
        bool ready = lodge_residency_want(l->residency, &l->seqs[i]);
        for (uint32_t k = 0; k < l->requests[i].r.n_adapters; k++)
            TEST_CHECK(!ready || l->requests[i].versions[k]->state == LODGE_RESIDENT);
        /* What an earlier one wanted is still there. */
        for (uint32_t v = 0; v < VERSIONS; v++)
            TEST_CHECK(!was[v] || l->versions[v]->state == LODGE_RESIDENT);
        for (uint32_t v = 0; v < VERSIONS; v++)
            for (uint32_t k = 0; k < l->requests[i].r.n_adapters; k++)
                was[v] |= l->versions[v] == l->requests[i].versions[k] &&
                          l->versions[v]->state == LODGE_RESIDENT;
        if (ready && test_once_in(&l->rnd, 2)) {
            lodge_residency_use(l->residency, &l->seqs[i]);
            l->runs[i] = true;
            l->n_used++;
            take_block(l, true);
        }
    }
    if (lodge_residency_take_lost(l->residency))
        for (uint32_t i = 0; i < SEQS; i++)
            if (l->alive[i] && l->requests[i].adapter_lost) {
                end_request(l, i);
                l->n_lost++;
            }
}

/* ---- keys and values ---- */

static uint32_t owner_of(const struct lodge_inflight *q)
{
    return q->r.n_adapters == 1   ? q->versions[0]->number
           : q->r.n_adapters == 0 ? LODGE_OWNER_NONE
                                  : LODGE_OWNER_SEVERAL;
}

/* A running sequence takes a page, which gets a name at once. */
static void take_block(struct lab *l, bool keep_wanted)
{
    struct block *b = &l->blocks[test_below(&l->rnd, BLOCKS)];
    uint32_t i = test_below(&l->rnd, SEQS), page;
    if (b->used || !l->runs[i])
        return;
    while ((page = lodge_pool_take(&l->pool, LODGE_PAGE_KV)) == NONE)
        if (!lodge_residency_evict(l->residency, &l->prefix, keep_wanted))
            return;
    struct lodge_digest key;
    uint64_t name = ++l->next_key;
    lodge_sha256(&name, sizeof name, &key);
    lodge_prefix_add(&l->prefix, &key, &page, owner_of(&l->requests[i]));
    *b = (struct block){.page = page, .seq = i, .used = true};
}

static void drop_block(struct lab *l)
{
    struct block *b = &l->blocks[test_below(&l->rnd, BLOCKS)];
    if (b->used)
        lodge_prefix_unref_page(&l->prefix, b->page);
    b->used = false;
}

/* ---- what must hold ---- */

static void check_pages(const struct lab *l)
{
    uint32_t owners[PAGES] = {0}, free = 0, kv = 0, adapter = 0, cached = 0;
    for (uint32_t i = 0; i < VERSIONS; i++) {
        const struct lodge_adapter_version *v = l->versions[i];
        if (!v || v->state == LODGE_ABSENT)
            continue;
        enum lodge_page_type want =
            v->state == LODGE_RESIDENT && !v->n_users ? LODGE_PAGE_CACHED : LODGE_PAGE_ADAPTER;
        for (uint32_t p = 0; p < v->info.n_pages; p++) {
            owners[v->pages[p]]++;
            TEST_CHECK(l->pool.pages[v->pages[p]].type == want);
        }
        for (uint32_t c = 0; v->state == LODGE_RESIDENT && c < v->layout.n_cells; c++)
            TEST_CHECK(l->tags[v->pages[c / CELLS] * CELLS + c % CELLS] == tag_of(v, c),
                       "cell %u of an adapter is another's", c);
    }
    for (uint32_t i = 0; i < l->prefix.n_entries; i++)
        if (l->prefix.entries[i].used && l->prefix.pages[i] != NONE)
            owners[l->prefix.pages[i]]++;
    for (uint32_t p = 0; p < PAGES; p++) {
        uint8_t type = l->pool.pages[p].type;
        free += type == LODGE_PAGE_FREE;
        kv += type == LODGE_PAGE_KV;
        adapter += type == LODGE_PAGE_ADAPTER;
        cached += type == LODGE_PAGE_CACHED;
        TEST_CHECK(owners[p] == (type != LODGE_PAGE_FREE), "page %u has %u owners", p, owners[p]);
    }
    TEST_CHECK(free == l->pool.n_free + l->pool.n_retiring && kv == l->pool.n_kv &&
               adapter == l->pool.n_adapter && cached == l->pool.n_cached &&
               free + kv + adapter + cached == PAGES);
}

/* Blocks of an adapter are there only while it is. */
static void check_prefixes(const struct lab *l)
{
    for (uint32_t i = 0; i < l->prefix.n_entries; i++) {
        const struct lodge_prefix_entry *en = &l->prefix.entries[i];
        uint32_t page = l->prefix.pages[i];
        if (!en->used || en->owner == LODGE_OWNER_NONE || en->owner == LODGE_OWNER_SEVERAL ||
            l->pool.pages[page].refs)
            continue;
        bool there = false;
        for (uint32_t v = 0; v < VERSIONS; v++)
            there |= l->versions[v] && l->versions[v]->number == en->owner &&
                     l->versions[v]->state == LODGE_RESIDENT;
        TEST_CHECK(there, "a block outlives its adapter");
    }
}

static void check_runners(const struct lab *l)
{
    for (uint32_t i = 0; i < SEQS; i++)
        for (uint32_t k = 0; l->runs[i] && k < l->requests[i].r.n_adapters; k++)
            TEST_CHECK(l->requests[i].versions[k]->state == LODGE_RESIDENT);
}

/* ---- actions ---- */

/* Versions without references are buried in a turn; their places are free then. */
static void turn(struct lab *l)
{
    bool gone[VERSIONS];
    for (uint32_t i = 0; i < VERSIONS; i++)
        gone[i] = l->versions[i] && !l->versions[i]->refs &&
                  l->versions[i]->image_state != LODGE_IMAGE_QUEUED;
    lodge_residency_turn(l->residency, test_below(&l->rnd, 3) * 1000000u);
    for (uint32_t i = 0; i < VERSIONS; i++)
        if (gone[i]) {
            l->versions[i] = NULL;
            l->n_dead++;
        }
}

static void act(struct lab *l)
{
    uint32_t i = test_below(&l->rnd, SEQS), v = test_below(&l->rnd, VERSIONS);
    switch (test_below(&l->rnd, 12)) {
    case 0:
    case 1:
        plan(l);
        break;
    case 2:
        if (!l->alive[i])
            new_request(l, i);
        break;
    case 3:
        if (l->alive[i])
            end_request(l, i);
        break;
    case 4:
    case 5:
        take_block(l, false);
        break;
    case 6:
        drop_block(l);
        break;
    case 7:
        turn(l);
        break;
    case 8:
        load_one(l);
        break;
    case 9:
        if (!l->versions[v])
            new_version(l, v, test_between(&l->rnd, 1, 7 * CELLS));
        else if (test_once_in(&l->rnd, 6) && l->named[v]) {
            l->named[v] = false;
            lodge_adapter_version_unref(l->versions[v]);
        }
        break;
    case 10:
        if (l->submitted - l->retired < 2)
            lodge_pool_submitted(&l->pool, ++l->submitted);
        break;
    default:
        if (l->submitted > l->retired)
            lodge_pool_retired(&l->pool, ++l->retired);
    }
}

static void open_lab(struct lab *l, struct lodge_backend *backend)
{
    *backend = (struct lodge_backend){
        .adapter_open = open_slot, .adapter_upload = upload, .adapter_close = close_slot};
    l->plan.n_groups = 1;
    TEST_CHECK(!lodge_pool_init(&l->pool, PAGES, NULL));
    TEST_CHECK(!lodge_prefix_init(&l->prefix, &l->pool, 1, 16, NULL));
    l->pool.on_free = page_freed;
    l->pool.cookie = l;
    l->adapters = (struct lodge_adapters){.backend = backend,
                                          .plan = &l->plan,
                                          .budget_bytes = 20 * LODGE_CELL_BYTES,
                                          .page_cells = CELLS,
                                          .n_pages = PAGES,
                                          .on_news = ignore_news};
    pthread_mutex_init(&l->adapters.lock, NULL);
    lodge_spares_init(&l->adapters.spares, (size_t)3 * 64 << 10);
    l->residency = lodge_residency_create(&l->adapters, &l->pool, &l->prefix);
    for (uint32_t i = 0; i < VERSIONS; i++)
        new_version(l, i, test_between(&l->rnd, 1, 7 * CELLS));
}

static void close_lab(struct lab *l)
{
    for (uint32_t i = 0; i < SEQS; i++)
        if (l->alive[i])
            end_request(l, i);
    for (uint32_t i = 0; i < VERSIONS; i++)
        if (l->named[i])
            lodge_adapter_version_unref(l->versions[i]);
    while (l->adapters.first)
        load_one(l);
    lodge_residency_turn(l->residency, 0);
    TEST_CHECK(!l->pool.n_adapter);
    lodge_residency_destroy(l->residency);
    lodge_adapters_finish(&l->adapters);
    lodge_prefix_finish(&l->prefix);
    lodge_pool_finish(&l->pool);
}

START_TEST(random_actions)
{
    static struct lab space;
    struct lodge_backend backend;
    lab = &space;
    memset(lab, 0, sizeof *lab);
    lab->rnd = test_seeded("residency");
    open_lab(lab, &backend);
    uint64_t n = test_actions(100000);
    for (uint64_t i = 0; i < n; i++) {
        act(lab);
        check_pages(lab);
        check_prefixes(lab);
        check_runners(lab);
    }
    struct lodge_residency_stats st;
    lodge_residency_get_stats(lab->residency, &st);
    printf("%llu actions: %llu uses, %llu uploads, %llu evictions, %llu lost, %llu buried\n",
           (unsigned long long)n, (unsigned long long)lab->n_used, (unsigned long long)st.n_uploads,
           (unsigned long long)st.n_evictions, (unsigned long long)lab->n_lost,
           (unsigned long long)lab->n_dead);
    TEST_CHECK(lab->n_used > n / 200 && st.n_evictions > n / 2000);
    close_lab(lab);
}
END_TEST

/* A plan that finds the image begins at once if the last turn left time for it; what it left no
 * time for waits for the next turn. */
START_TEST(a_plan_fills_what_is_left_of_the_slice)
{
    static struct lab space;
    struct lodge_backend backend;
    lab = &space;
    memset(lab, 0, sizeof *lab);
    lab->rnd = test_seeded("residency");
    open_lab(lab, &backend);
    lab->adapters.budget_bytes = SIZE_MAX;
    struct lodge_inflight requests[2];
    struct lodge_seq seqs[2];
    lodge_residency_begin(lab->residency, PAGES);
    for (uint32_t i = 0; i < 2; i++) {
        requests[i] = (struct lodge_inflight){.r.n_choices = 1, .r.n_adapters = 1};
        requests[i].versions[0] = lab->versions[i];
        seqs[i] = (struct lodge_seq){.req = &requests[i]};
        TEST_CHECK(!lodge_residency_want(lab->residency, &seqs[i]));
        struct lodge_adapter_version *next = lodge_adapters_next_wanted(&lab->adapters);
        TEST_CHECK(next == lab->versions[i]);
        lodge_adapters_loaded(&lab->adapters, next, make_image(next), false);
    }
    lodge_residency_begin(lab->residency, PAGES);
    TEST_CHECK(!lodge_residency_want(lab->residency, &seqs[0])); /* there was no turn so far */
    lodge_residency_turn(lab->residency, 1);
    TEST_CHECK(lodge_residency_want(lab->residency, &seqs[0]));
    TEST_CHECK(lodge_residency_want(lab->residency, &seqs[1]));
    check_pages(lab);
    close_lab(lab);
}
END_TEST

/* ---- with the scheduler ---- */

#define PROMPT 20u /* a block of 16 tokens, and a part of one */

/* A request of the scheduler's, with up to two choices and room for what they need. */
struct small_request {
    struct lodge_inflight req;
    struct lodge_seq seqs[2];
    uint32_t tokens[2][2 * PROMPT], pages[2][4], fronts[2][1];
    struct lodge_digest keys[2][4];
};

static void make_request(struct small_request *x, uint64_t tenant, struct lodge_adapter_version *v)
{
    *x = (struct small_request){.req = {.id = tenant, .seqs = x->seqs, .arrived_ns = 1}};
    x->req.r = (struct lodge_request){
        .n_prompt = PROMPT, .n_choices = 2, .n_adapters = v != NULL, .tenant = tenant, .weight = 1};
    x->req.versions[0] = v;
    for (uint32_t k = 0; k < 2; k++) {
        for (uint32_t i = 0; i < PROMPT; i++)
            x->tokens[k][i] = (uint32_t)tenant << 16 | i;
        x->seqs[k] = (struct lodge_seq){.req = &x->req,
                                        .choice = k,
                                        .state = LODGE_SEQ_PARKED,
                                        .tokens = x->tokens[k],
                                        .n_tokens = PROMPT,
                                        .n_prompt = PROMPT,
                                        .max_output = 4,
                                        .pages = x->pages[k],
                                        .max_blocks = 4,
                                        .freed_front = x->fronts[k],
                                        .keys = x->keys[k]};
    }
}

/* Puts a version of this many pages in place i, and in the pool. */
static struct lodge_adapter_version *make_resident(struct lab *l, uint32_t i, uint32_t n_pages)
{
    l->named[i] = false;
    lodge_adapter_version_unref(l->versions[i]);
    turn(l);
    new_version(l, i, n_pages * CELLS);
    struct lodge_adapter_version *v = l->versions[i];
    struct lodge_inflight request = {.r = {.n_choices = 1, .n_adapters = 1}, .versions = {v}};
    struct lodge_seq q = {.req = &request};
    while (v->state != LODGE_RESIDENT) {
        lodge_residency_begin(l->residency, PAGES);
        lodge_residency_want(l->residency, &q);
        for (struct lodge_adapter_version *next; (next = lodge_adapters_next_wanted(&l->adapters));)
            lodge_adapters_loaded(&l->adapters, next, make_image(next), false);
        lodge_residency_turn(l->residency, 0);
    }
    return v;
}

/* A lab in static memory, with a scheduler in front of it. */
static void open_with_scheduler(struct lodge_backend *backend, struct lodge_sched *s)
{
    static struct lab space;
    static struct lodge_layer_group group;
    static const struct lodge_sched_limits limits = {.policy = LODGE_POLICY_FAIR,
                                                     .max_seqs = 8,
                                                     .max_step_tokens = 64,
                                                     .reserve_tokens = 4,
                                                     .max_tenants = 8,
                                                     .window = 4096,
                                                     .max_age_ns = 3000000000u};
    lab = &space;
    memset(lab, 0, sizeof *lab);
    lab->rnd = test_seeded("residency");
    open_lab(lab, backend);
    lab->plan.groups = &group;
    lab->adapters.budget_bytes = SIZE_MAX;
    TEST_CHECK(!lodge_sched_init(s, &limits, &lab->pool, &lab->prefix, &lab->plan, 16, NULL));
    s->residency = lab->residency;
}

/* Takes all pages but these many away from the scheduler; returns how many that are. */
static uint32_t take_all_but(uint32_t left, uint32_t pages[PAGES])
{
    uint32_t n = 0;
    while (lab->pool.n_free > left)
        pages[n++] = lodge_pool_take(&lab->pool, LODGE_PAGE_KV);
    return n;
}

static void close_with_scheduler(struct lodge_sched *s, const uint32_t *pages, uint32_t n)
{
    while (n > 0)
        lodge_pool_unref(&lab->pool, pages[--n]);
    check_pages(lab);
    lodge_sched_finish(s);
    close_lab(lab);
}

/* A further choice takes a page for the copy of its prompt's end while the plan still admits. What
 * a request behind it was found ready with must not leave for that. */
START_TEST(a_fork_takes_no_adapter_that_is_waited_for)
{
    struct lodge_backend backend;
    struct lodge_sched s;
    open_with_scheduler(&backend, &s);
    struct lodge_adapter_version *v = make_resident(lab, 0, 6), *w = make_resident(lab, 1, 6);
    w->value = v->value + 1e12; /* v would go first */

    static struct small_request forks, waits, last;
    make_request(&forks, 1, NULL);
    lodge_sched_enqueue(&s, &forks.seqs[0]);
    lodge_sched_plan(&s, 1);
    lodge_sched_submitted(&s);
    TEST_CHECK(s.n_rows == 1 && s.rows[0].n_tokens == PROMPT);
    lodge_sched_computed(&s, &s.rows[0]);
    forks.seqs[0].n_tokens++;

    /* Nothing is left but the two adapters, and both are waited for. */
    uint32_t pages[PAGES], n = take_all_but(0, pages);
    make_request(&waits, 2, v);
    make_request(&last, 3, w);
    lodge_sched_enqueue(&s, &forks.seqs[1]);
    lodge_sched_enqueue(&s, &waits.seqs[0]);
    lodge_sched_enqueue(&s, &last.seqs[0]);
    lodge_fair_charge(&s.fair, waits.seqs[0].tenant, 1000); /* so they are behind */
    lodge_fair_charge(&s.fair, last.seqs[0].tenant, 2000);
    lodge_sched_plan(&s, 2);
    TEST_CHECK(forks.seqs[1].state == LODGE_SEQ_RUNNING);
    TEST_CHECK(waits.seqs[0].state == LODGE_SEQ_RUNNING && v->state == LODGE_RESIDENT);
    TEST_CHECK(waits.seqs[0].admitted > forks.seqs[1].admitted);

    lodge_sched_submitted(&s);
    for (uint32_t k = 0; k < 2; k++)
        lodge_sched_remove(&s, &forks.seqs[k]);
    lodge_sched_remove(&s, &waits.seqs[0]);
    lodge_sched_remove(&s, &last.seqs[0]);
    close_with_scheduler(&s, pages, n);
}
END_TEST

/* The pages of an adapter that only a lower tier uses make room for a higher one, unless that needs
 * this adapter itself. */
START_TEST(a_lower_tiers_adapter_makes_room)
{
    struct lodge_backend backend;
    struct lodge_sched s;
    open_with_scheduler(&backend, &s);
    struct lodge_adapter_version *v = make_resident(lab, 0, 6);
    uint32_t pages[PAGES], n = take_all_but(2, pages);
    static struct small_request low, same, other;
    make_request(&low, 1, v);
    low.req.r.tier = 1;
    lodge_sched_enqueue(&s, &low.seqs[0]);
    lodge_sched_plan(&s, 1);
    lodge_sched_submitted(&s);
    TEST_CHECK(low.seqs[0].state == LODGE_SEQ_RUNNING && lab->pool.n_free == 0);
    lodge_sched_computed(&s, &s.rows[0]);
    low.seqs[0].n_tokens++;

    /* Three blocks, of which the lower tier holds two. */
    struct small_request *const high[] = {&same, &other};
    for (uint32_t i = 0; i < 2; i++) {
        make_request(high[i], 2 + i, i ? NULL : v);
        high[i]->req.r.n_prompt = high[i]->seqs[0].n_prompt = high[i]->seqs[0].n_tokens =
            2 * PROMPT;
        lodge_sched_enqueue(&s, &high[i]->seqs[0]);
        lodge_sched_plan(&s, 2 + i);
        lodge_sched_submitted(&s);
        TEST_CHECK((high[i]->seqs[0].state == LODGE_SEQ_RUNNING) == (i > 0));
        TEST_CHECK((low.seqs[0].state == LODGE_SEQ_RUNNING) == (i == 0));
        TEST_CHECK(v->n_users == (i == 0));
        lodge_sched_remove(&s, &high[i]->seqs[0]);
    }
    lodge_sched_remove(&s, &low.seqs[0]);
    close_with_scheduler(&s, pages, n);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("residency");
    TCase *t = tcase_create("all");
    tcase_set_timeout(t, 230);
    tcase_add_test(t, random_actions);
    tcase_add_test(t, a_plan_fills_what_is_left_of_the_slice);
    tcase_add_test(t, a_fork_takes_no_adapter_that_is_waited_for);
    tcase_add_test(t, a_lower_tiers_adapter_makes_room);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
