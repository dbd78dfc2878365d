/* The page pool against a model that keeps every fact in the plainest form: a list of holders a
 * page, and the step after which a freed page may be taken again. */
#include "engine/pool.h"

#include "tests/engine/test_engine_random.h"

#include <check.h>
#include <string.h>

#define MOST_PAGES 40u
#define NONE UINT32_MAX
#define DEPTH 3u

enum state { FREE, RETIRING, KV, ADAPTER, CACHED };

struct model {
    struct test_random rnd;
    struct lodge_pool pool;
    uint32_t n_pages;
    enum state state[MOST_PAGES];
    uint32_t holders[MOST_PAGES];
    uint64_t readable_until[MOST_PAGES]; /* RETIRING: the last step that could read it */
    bool named[MOST_PAGES];
    uint32_t n_freed_calls[MOST_PAGES], n_freed_expected[MOST_PAGES];
    uint64_t submitted, retired;
};

static uint32_t count(const struct model *m, enum state state)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < m->n_pages; i++)
        n += m->state[i] == state;
    return n;
}

/* A random page in this state, or NONE. */
static uint32_t any(struct model *m, enum state a, enum state b)
{
    uint32_t first = test_below(&m->rnd, m->n_pages);
    for (uint32_t i = 0; i < m->n_pages; i++) {
        uint32_t page = (first + i) % m->n_pages;
        if (m->state[page] == a || m->state[page] == b)
            return page;
    }
    return NONE;
}

static void freed(void *cookie, uint32_t page)
{
    struct model *m = cookie;
    m->n_freed_calls[page]++;
}

static void becomes_free(struct model *m, uint32_t page)
{
    m->named[page] = false;
    if (m->submitted == m->retired) {
        m->state[page] = FREE;
        m->n_freed_expected[page]++;
    } else {
        m->state[page] = RETIRING;
        m->readable_until[page] = m->submitted;
    }
}

static void take(struct model *m)
{
    enum lodge_page_type type = test_once_in(&m->rnd, 3) ? LODGE_PAGE_ADAPTER : LODGE_PAGE_KV;
    uint32_t page = lodge_pool_take(&m->pool, type);
    if (page == NONE) {
        TEST_CHECK(count(m, FREE) == 0);
        return;
    }
    TEST_CHECK(page < m->n_pages);
    TEST_CHECK(m->state[page] == FREE, "page %u was taken while it was in state %d", page,
               m->state[page]);
    m->state[page] = type == LODGE_PAGE_KV ? KV : ADAPTER;
    m->holders[page] = 1;
}

static void drop_holder(struct model *m, uint32_t page)
{
    bool cached = lodge_pool_unref(&m->pool, page);
    bool last = --m->holders[page] == 0;
    TEST_CHECK(cached == (last && m->named[page]));
    if (cached)
        m->state[page] = CACHED;
    else if (last)
        becomes_free(m, page);
}

static void step(struct model *m)
{
    if (m->submitted < m->retired + DEPTH && test_once_in(&m->rnd, 2)) {
        lodge_pool_submitted(&m->pool, ++m->submitted);
    } else if (m->submitted > m->retired) {
        m->retired = test_once_in(&m->rnd, 4) ? m->submitted : m->retired + 1;
        lodge_pool_retired(&m->pool, m->retired);
        for (uint32_t i = 0; i < m->n_pages; i++)
            if (m->state[i] == RETIRING && m->readable_until[i] <= m->retired) {
                m->state[i] = FREE;
                m->n_freed_expected[i]++;
            }
    }
}

static void act(struct model *m)
{
    uint32_t page;
    switch (test_below(&m->rnd, 8)) {
    case 0:
    case 1:
        take(m);
        break;
    case 2:
        if ((page = any(m, KV, CACHED)) != NONE) {
            lodge_pool_ref(&m->pool, page);
            m->holders[page]++;
            m->state[page] = KV;
        }
        break;
    case 3:
    case 4:
        if ((page = any(m, KV, ADAPTER)) != NONE)
            drop_holder(m, page);
        break;
    case 5: /* the prefix cache names it */
        if ((page = any(m, KV, KV)) != NONE) {
            m->named[page] = true;
            m->pool.pages[page].entry = page;
        }
        break;
    case 6:
        if ((page = any(m, CACHED, CACHED)) != NONE) {
            lodge_pool_drop(&m->pool, page);
            becomes_free(m, page);
        }
        break;
    default:
        step(m);
    }
}

static void compare(const struct model *m)
{
    const struct lodge_pool *p = &m->pool;
    static const enum lodge_page_type types[] = {[FREE] = LODGE_PAGE_FREE,
                                                 [RETIRING] = LODGE_PAGE_FREE,
                                                 [KV] = LODGE_PAGE_KV,
                                                 [CACHED] = LODGE_PAGE_CACHED,
                                                 [ADAPTER] = LODGE_PAGE_ADAPTER};
    TEST_CHECK(p->n_free == count(m, FREE));
    TEST_CHECK(p->n_retiring == count(m, RETIRING));
    TEST_CHECK(p->n_kv == count(m, KV));
    TEST_CHECK(p->n_adapter == count(m, ADAPTER));
    TEST_CHECK(p->n_cached == count(m, CACHED));
    for (uint32_t i = 0; i < m->n_pages; i++) {
        TEST_CHECK(p->pages[i].refs == m->holders[i]);
        TEST_CHECK(p->pages[i].type == types[m->state[i]]);
        TEST_CHECK((p->pages[i].entry != NONE) == m->named[i]);
        TEST_CHECK(m->n_freed_calls[i] == m->n_freed_expected[i]);
    }
}

START_TEST(follows_the_model)
{
    uint64_t n_actions = test_actions(1000000), done = 0;
    struct test_random rnd = test_seeded("pool");
    while (done < n_actions) {
        struct model m = {.rnd = {test_next(&rnd)}};
        m.n_pages = test_between(&rnd, 1, MOST_PAGES);
        ck_assert_int_eq(lodge_pool_init(&m.pool, m.n_pages, NULL), 0);
        m.pool.on_free = freed;
        m.pool.cookie = &m;
        for (uint32_t i = 0; i < 2000; i++, done++) {
            act(&m);
            compare(&m);
        }
        lodge_pool_finish(&m.pool);
    }
}
END_TEST

START_TEST(a_page_waits_for_the_steps_that_may_read_it)
{
    struct lodge_pool p;
    ck_assert_int_eq(lodge_pool_init(&p, 1, NULL), 0);
    uint32_t page = lodge_pool_take(&p, LODGE_PAGE_KV);
    lodge_pool_submitted(&p, 1);
    lodge_pool_submitted(&p, 2);
    lodge_pool_unref(&p, page);
    ck_assert_uint_eq(lodge_pool_take(&p, LODGE_PAGE_KV), NONE);
    lodge_pool_retired(&p, 1);
    ck_assert_uint_eq(lodge_pool_take(&p, LODGE_PAGE_KV), NONE);
    lodge_pool_retired(&p, 2);
    ck_assert_uint_eq(lodge_pool_take(&p, LODGE_PAGE_KV), page);
    lodge_pool_finish(&p);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("pool");
    TCase *c = tcase_create("pool");
    tcase_set_timeout(c, 0);
    tcase_add_test(c, follows_the_model);
    tcase_add_test(c, a_page_waits_for_the_steps_that_may_read_it);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_set_fork_status(r, CK_NOFORK);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
