/* The prefix cache against a list of entries in the order of their last use. */
#include "engine/prefix.h"
#include "kernels/backend.h"

#include "tests/engine/test_engine_random.h"

#include <check.h>
#include <string.h>

#define PAGES 24u
#define MOST_GROUPS 3u
#define KEYS 40u
#define NONE UINT32_MAX
#define PAGE_TOKENS 4u

/* The model: an entry is a key and its pages; `order` lists keys with idle pages, the one to be
 * evicted first. */
struct model {
    struct test_random rnd;
    struct lodge_pool pool;
    struct lodge_prefix cache;
    uint32_t n_groups;
    struct lodge_digest keys[KEYS];
    uint32_t pages[KEYS][MOST_GROUPS];
    uint32_t holders[PAGES];
    uint32_t name[PAGES]; /* key that names the page, or NONE */
    uint32_t order[KEYS], n_order;
};

static void leave_order(struct model *m, uint32_t key)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < m->n_order; i++)
        if (m->order[i] != key)
            m->order[n++] = m->order[i];
    m->n_order = n;
}

static bool has_idle(const struct model *m, uint32_t key)
{
    for (uint32_t g = 0; g < m->n_groups; g++)
        if (m->pages[key][g] != NONE && !m->holders[m->pages[key][g]])
            return true;
    return false;
}

static uint32_t any_held(struct model *m, bool named)
{
    uint32_t first = test_below(&m->rnd, PAGES);
    for (uint32_t i = 0; i < PAGES; i++) {
        uint32_t page = (first + i) % PAGES;
        if (m->holders[page] && (m->name[page] != NONE) == named)
            return page;
    }
    return NONE;
}

static void take_page(struct model *m)
{
    uint32_t page = lodge_pool_take(&m->pool, LODGE_PAGE_KV);
    if (page == NONE)
        return;
    TEST_CHECK(!m->holders[page] && m->name[page] == NONE, "page %u was taken and not free", page);
    m->holders[page] = 1;
}

/* Offers unnamed pages in use for a key, sometimes with holes. */
static void add(struct model *m)
{
    uint32_t key = test_below(&m->rnd, KEYS), pages[MOST_GROUPS], n = 0;
    for (uint32_t g = 0; g < m->n_groups; g++) {
        pages[g] = test_once_in(&m->rnd, 4) ? NONE : any_held(m, false);
        for (uint32_t i = 0; i < g; i++)
            if (pages[i] == pages[g])
                pages[g] = NONE;
        n += pages[g] != NONE;
    }
    if (!n)
        return;
    lodge_prefix_add(&m->cache, &m->keys[key], pages, LODGE_OWNER_NONE);
    for (uint32_t g = 0; g < m->n_groups; g++)
        if (m->pages[key][g] == NONE && pages[g] != NONE) {
            m->pages[key][g] = pages[g];
            m->name[pages[g]] = key;
        }
}

static void hold_entry(struct model *m)
{
    uint32_t key = test_below(&m->rnd, KEYS), g = test_below(&m->rnd, m->n_groups);
    uint32_t page = m->pages[key][g];
    if (page == NONE)
        return;
    lodge_prefix_ref_page(&m->cache, page);
    m->holders[page]++;
    if (!has_idle(m, key))
        leave_order(m, key);
}

static void let_go(struct model *m, uint32_t page)
{
    if (page == NONE)
        return;
    lodge_prefix_unref_page(&m->cache, page);
    uint32_t key = m->name[page];
    if (--m->holders[page] == 0 && key != NONE) {
        leave_order(m, key);
        m->order[m->n_order++] = key;
    }
}

static void evict(struct model *m)
{
    bool did = lodge_prefix_evict(&m->cache);
    TEST_CHECK(did == (m->n_order > 0));
    if (!did)
        return;
    uint32_t key = m->order[0];
    for (uint32_t g = 0; g < m->n_groups; g++) {
        uint32_t page = m->pages[key][g];
        if (page != NONE && !m->holders[page]) {
            m->name[page] = NONE;
            m->pages[key][g] = NONE;
        }
    }
    leave_order(m, key);
}

static void forget(struct model *m)
{
    uint32_t page = test_below(&m->rnd, PAGES), key = m->name[page];
    lodge_prefix_forget_page(&m->cache, page);
    if (key == NONE)
        return;
    for (uint32_t g = 0; g < m->n_groups; g++) {
        if (m->pages[key][g] != NONE)
            m->name[m->pages[key][g]] = NONE;
        m->pages[key][g] = NONE;
    }
    leave_order(m, key);
}

static void act(struct model *m)
{
    switch (test_below(&m->rnd, 9)) {
    case 0:
    case 1:
        take_page(m);
        break;
    case 2:
    case 3:
        add(m);
        break;
    case 4:
        hold_entry(m);
        break;
    case 5:
        let_go(m, any_held(m, false));
        break;
    case 6:
    case 7:
        let_go(m, any_held(m, true));
        break;
    default:
        if (test_once_in(&m->rnd, 3))
            forget(m);
        else
            evict(m);
    }
}

static void compare(const struct model *m)
{
    for (uint32_t k = 0; k < KEYS; k++) {
        uint32_t entry = lodge_prefix_find(&m->cache, &m->keys[k]), n = 0;
        for (uint32_t g = 0; g < m->n_groups; g++) {
            n += m->pages[k][g] != NONE;
            TEST_CHECK(entry == NONE || lodge_prefix_pages(&m->cache, entry)[g] == m->pages[k][g]);
        }
        TEST_CHECK((entry != NONE) == (n > 0), "key %u", k);
    }
    for (uint32_t i = 0; i < PAGES; i++) {
        const struct lodge_page *p = &m->pool.pages[i];
        TEST_CHECK(p->refs == m->holders[i]);
        TEST_CHECK((p->entry != NONE) == (m->name[i] != NONE));
    }
}

START_TEST(follows_the_model)
{
    uint64_t n_actions = test_actions(1000000);
    struct test_random rnd = test_seeded("prefix");
    for (uint64_t done = 0; done < n_actions;) {
        struct model m = {.rnd = {test_next(&rnd)}};
        m.n_groups = test_between(&m.rnd, 1, MOST_GROUPS);
        memset(m.pages, 0xFF, sizeof m.pages);
        memset(m.name, 0xFF, sizeof m.name);
        ck_assert_int_eq(lodge_pool_init(&m.pool, PAGES, NULL), 0);
        ck_assert_int_eq(lodge_prefix_init(&m.cache, &m.pool, m.n_groups, PAGE_TOKENS, NULL), 0);
        for (uint32_t k = 0; k < KEYS; k++)
            lodge_sha256(&k, sizeof k, &m.keys[k]);
        for (uint32_t i = 0; i < 2000; i++, done++) {
            act(&m);
            compare(&m);
        }
        lodge_prefix_finish(&m.cache);
        lodge_pool_finish(&m.pool);
    }
}
END_TEST

/* A key says everything that precedes and nothing else. */
START_TEST(keys_tell_histories_apart)
{
    struct lodge_pool pool;
    struct lodge_prefix c, other;
    struct lodge_digest root[2], a, b, again;
    const uint32_t one[PAGE_TOKENS] = {1, 2, 3, 4}, two[PAGE_TOKENS] = {1, 2, 3, 5};
    ck_assert_int_eq(lodge_pool_init(&pool, PAGES, NULL), 0);
    ck_assert_int_eq(lodge_prefix_init(&c, &pool, 1, PAGE_TOKENS, NULL), 0);
    ck_assert_int_eq(lodge_prefix_init(&other, &pool, 1, PAGE_TOKENS, NULL), 0);
    lodge_prefix_root(&c, "tenant 1", 8, &root[0]);
    lodge_prefix_root(&c, "tenant 2", 8, &root[1]);
    lodge_prefix_key(&c, &root[0], one, &a);
    lodge_prefix_key(&c, &root[0], one, &again);
    ck_assert_mem_eq(&a, &again, sizeof a);
    lodge_prefix_key(&c, &root[0], two, &b);
    ck_assert_mem_ne(&a, &b, sizeof a);
    lodge_prefix_key(&c, &root[1], one, &b);
    ck_assert_mem_ne(&a, &b, sizeof a);
    lodge_prefix_key(&c, &a, one, &b);
    ck_assert_mem_ne(&a, &b, sizeof a);
    lodge_prefix_key(&other, &root[0], one, &b); /* another engine: another secret */
    ck_assert_mem_ne(&a, &b, sizeof a);
    lodge_prefix_finish(&c);
    lodge_prefix_finish(&other);
    lodge_pool_finish(&pool);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("prefix");
    TCase *c = tcase_create("prefix");
    tcase_set_timeout(c, 0);
    tcase_add_test(c, follows_the_model);
    tcase_add_test(c, keys_tell_histories_apart);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_set_fork_status(r, CK_NOFORK);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
