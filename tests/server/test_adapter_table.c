/* The table of adapter names: who means what by a name, and which version a name gets from a
 * request that read files while the name was changed. */
#include "server/adapter_table.h"

#include <check.h>
#include <string.h>

static struct adapter_names table;

/* Versions are only compared here; the table must not look into them. */
static struct lodge_adapter_version *version(uintptr_t i)
{
    return (struct lodge_adapter_version *)(i * 64);
}

static struct adapter_name *put(uint64_t tenant, uint64_t owner, const char *path)
{
    struct adapter_name *n = adapter_table_new(tenant, owner, "sql", path, false, "");
    adapter_table_free(adapter_table_put(&table, n));
    return n;
}

static const char *path_for(uint64_t tenant)
{
    const struct adapter_name *n = adapter_table_find_for(&table, tenant, "sql");
    return n ? n->path : "none";
}

static void drop_owned(uint64_t owner)
{
    struct adapter_name *n = adapter_table_take_owned(&table, owner, "sql");
    for (struct adapter_name *next; n; n = next) {
        next = n->chain;
        adapter_table_free(n);
    }
}

START_TEST(own_before_shared_before_published)
{
    memset(&table, 0, sizeof table);
    put(ADAPTERS_PUBLISHED, ADAPTERS_PUBLISHED, "/published");
    put(2, 2, "/own");
    put(2, 7, "/of-7");
    put(2, 3, "/of-3");
    put(7, 7, "/of-7");
    ck_assert_str_eq(path_for(2), "/own");
    ck_assert_str_eq(path_for(7), "/of-7");
    ck_assert_str_eq(path_for(9), "/published");
    drop_owned(2);
    ck_assert_str_eq(path_for(2), "/of-3");
    drop_owned(3);
    ck_assert_str_eq(path_for(2), "/of-7");
    put(2, 2, "/own-again");
    drop_owned(7);
    ck_assert_str_eq(path_for(2), "/own-again");
    ck_assert_str_eq(path_for(7), "/published");
    ck_assert_uint_eq(table.n, 2);
    adapter_table_clear(&table);
}
END_TEST

/* What a request does: copies the entry, reads for a while, and attaches. */
static struct adapter_name *begin_reading(uint64_t tenant)
{
    const struct adapter_name *n = adapter_table_find_for(&table, tenant, "sql");
    struct adapter_name *copy =
        adapter_table_new(n->tenant, n->owner, n->name, n->path, n->in_dir, n->digest);
    copy->serial = n->serial;
    return copy;
}

static struct lodge_adapter_version *end_reading(struct adapter_name *copy, uintptr_t i)
{
    copy->version = version(i);
    return adapter_table_attach(&table, copy);
}

START_TEST(a_slow_reader_does_not_undo_a_change)
{
    memset(&table, 0, sizeof table);
    put(2, 2, "/a");
    struct adapter_name *first = begin_reading(2), *second = begin_reading(2);
    ck_assert_ptr_null(end_reading(first, 1));
    ck_assert_ptr_eq(end_reading(second, 2), version(1));
    ck_assert_ptr_eq(adapter_table_find(&table, 2, 2, "sql")->version, version(2));

    /* Other files at the same path, registered while the old ones are read. */
    struct adapter_name *slow = begin_reading(2);
    adapter_table_find(&table, 2, 2, "sql")->version = NULL;
    put(2, 2, "/a");
    ck_assert_ptr_eq(end_reading(slow, 3), version(3));
    ck_assert_ptr_null(adapter_table_find(&table, 2, 2, "sql")->version);
    ck_assert_ptr_null(end_reading(begin_reading(2), 4));
    adapter_table_find(&table, 2, 2, "sql")->version = NULL;

    /* Withdrawn. */
    slow = begin_reading(2);
    drop_owned(2);
    ck_assert_ptr_eq(end_reading(slow, 5), version(5));
    ck_assert_ptr_null(adapter_table_find_for(&table, 2, "sql"));
    adapter_table_clear(&table);
}
END_TEST

/* Names of the directory enter the table with their first reader; the second keeps what it got. */
START_TEST(first_readers_of_the_directory)
{
    memset(&table, 0, sizeof table);
    struct adapter_name *readers[2];
    for (int i = 0; i < 2; i++)
        readers[i] =
            adapter_table_new(ADAPTERS_PUBLISHED, ADAPTERS_PUBLISHED, "sql", "sql", true, "");
    ck_assert_ptr_null(end_reading(readers[0], 1));
    ck_assert_ptr_eq(end_reading(readers[1], 2), version(2));
    struct adapter_name *n = adapter_table_find_for(&table, 5, "sql");
    ck_assert_ptr_eq(n->version, version(1));
    n->version = NULL;
    adapter_table_clear(&table);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("adapter_table");
    TCase *t = tcase_create("all");
    tcase_add_test(t, own_before_shared_before_published);
    tcase_add_test(t, a_slow_reader_does_not_undo_a_change);
    tcase_add_test(t, first_readers_of_the_directory);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
