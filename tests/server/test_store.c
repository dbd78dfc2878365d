/* The store: what is put is loaded, rows count once, and files that are not ours are refused. */
#include "server/store.h"

#include <check.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[64], path[128];

static void setup(void)
{
    strcpy(folder, "/tmp/lodge-store-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/s.db", folder);
}

static void teardown(void)
{
    char command[200];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    ck_assert_int_eq(system(command), 0);
}

static struct store *open_store(void)
{
    struct store *s = NULL;
    struct lodge_error e = {0};
    int err = store_open(path, &s, &e);
    ck_assert_msg(!err, "%s", e.text);
    return s;
}

/* Everything as one text, so that two loads can be compared. */
static int put(void *cookie, const char *text)
{
    strcat(cookie, text);
    return 0;
}

static int see_project(void *cookie, const struct store_project *p)
{
    char text[400];
    snprintf(text, sizeof text, "P%llu %s %s %u %g %s %lld\n", (unsigned long long)p->number,
             p->number == 1 ? "" : p->id, p->name, p->tier, p->weight, p->metadata,
             (long long)p->archived_at);
    return put(cookie, text);
}

static int see_key(void *cookie, const struct store_key *k)
{
    char text[400];
    snprintf(text, sizeof text, "K%llu %s %s %s %s %02x %lld %lld\n",
             (unsigned long long)k->project, k->id, k->name, k->redacted,
             k->models ? k->models : "all", k->digest.bytes[31], (long long)k->expires_at,
             (long long)k->last_used_at);
    return put(cookie, text);
}

static int see_limits(void *cookie, uint64_t project, const struct tenant_limits *l)
{
    char text[400];
    snprintf(text, sizeof text, "L%llu %lld %lld %lld %lld %lld %lld %lld %d\n",
             (unsigned long long)project, (long long)l->requests_per_minute,
             (long long)l->tokens_per_minute, (long long)l->max_concurrent,
             (long long)l->loads_per_minute, (long long)l->resident_bytes, (long long)l->host_bytes,
             (long long)l->budget_tokens, l->budget_period);
    return put(cookie, text);
}

static int see_adapter(void *cookie, const struct store_adapter *a)
{
    char text[400];
    snprintf(text, sizeof text, "A%llu %s %s %s\n", (unsigned long long)a->project, a->name,
             a->path, a->digest ? a->digest : "?");
    return put(cookie, text);
}

static int see_share(void *cookie, uint64_t owner, const char *adapter, uint64_t with)
{
    char text[200];
    snprintf(text, sizeof text, "S%llu %s %llu\n", (unsigned long long)owner, adapter,
             (unsigned long long)with);
    return put(cookie, text);
}

static int see_consumption(void *cookie, uint64_t project, int64_t day, int64_t tokens)
{
    char text[200];
    snprintf(text, sizeof text, "C%llu %lld %lld\n", (unsigned long long)project, (long long)day,
             (long long)tokens);
    return put(cookie, text);
}

static const char *load(struct store *s)
{
    static char text[8192];
    struct lodge_error e = {0};
    *text = 0;
    const struct store_visitor v = {see_project, see_key,         see_limits, see_adapter,
                                    see_share,   see_consumption, text};
    ck_assert_msg(!store_load(s, &v, &e), "%s", e.text);
    return text;
}

static struct ledger_row row(const char *id, uint64_t project, int64_t day, uint32_t prompt,
                             uint32_t output)
{
    struct ledger_row r = {.project = project,
                           .time_us = day * 86400 * 1000000 + 5,
                           .prompt_tokens = prompt,
                           .output_tokens = output,
                           .joules = -1,
                           .status = 200};
    snprintf(r.request_id, sizeof r.request_id, "%s", id);
    snprintf(r.key_id, sizeof r.key_id, "key_1");
    snprintf(r.model, sizeof r.model, "m");
    return r;
}

START_TEST(round_trip)
{
    struct lodge_error e = {0};
    struct store *s = open_store();
    ck_assert_str_eq(load(s), "P1  default 0 1 {} 0\n");
    struct store_project p = {
        .id = "proj_a", .name = "acme", .metadata = "{\"a\":\"b\"}", .tier = 2, .weight = 1.5};
    ck_assert_int_eq(store_put_project(s, &p, &e), 0);
    ck_assert_uint_eq(p.number, 2);
    struct store_key k = {.project = 2,
                          .id = "key_1",
                          .name = "web",
                          .redacted = "x...y",
                          .models = "[\"m\"]",
                          .digest.bytes[31] = 0xAB,
                          .expires_at = 99};
    struct store_key ended = {
        .project = 2, .id = "key_2", .name = "", .redacted = "", .revoked = true};
    ck_assert_int_eq(store_put_key(s, &k, &e), 0);
    ck_assert_int_eq(store_put_key(s, &ended, &e), 0);
    const struct tenant_limits l = {1, 2, 3, 4, 5, 6, 7, BUDGET_TOTAL};
    ck_assert_int_eq(store_put_limits(s, 2, &l, &e), 0);
    const struct store_adapter a = {2, "fin/sql", "/srv/a", NULL, 5};
    ck_assert_int_eq(store_put_adapter(s, &a, &e), 0);
    ck_assert_int_eq(store_put_share(s, 2, "fin/sql", 1, &e), 0);
    struct ledger_row r = row("r1", 2, 100, 10, 20);
    ck_assert_int_eq(store_put_row(s, &r, &e), 0);
    static const char want[] = "P1  default 0 1 {} 0\nP2 proj_a acme 2 1.5 {\"a\":\"b\"} 0\n"
                               "K2 key_1 web x...y [\"m\"] ab 99 8640000\n"
                               "L2 1 2 3 4 5 6 7 2\nA2 fin/sql /srv/a ?\nS2 fin/sql 1\n"
                               "C2 100 30\n";
    ck_assert_str_eq(load(s), want);
    struct lodge_digest secret, again;
    store_secret(s, &secret);
    store_close(s);
    s = open_store();
    ck_assert_str_eq(load(s), want);
    store_secret(s, &again);
    ck_assert_mem_eq(&secret, &again, sizeof secret);
    ck_assert_int_eq(store_delete_adapter(s, 2, "fin/sql", &e), 0);
    ck_assert_ptr_null(strstr(load(s), "fin/sql")); /* nor is its share left */
    store_close(s);
}
END_TEST

START_TEST(rows_count_once)
{
    struct lodge_error e = {0};
    struct store *s = open_store();
    struct ledger_row r = row("r1", 1, 7, 10, 20), q = row("r2", 1, 7, 1, 2);
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(store_put_row(s, &r, &e), 0);
    ck_assert_int_eq(store_put_row(s, &q, &e), 0);
    ck_assert_ptr_nonnull(strstr(load(s), "C1 7 33\n"));
    struct ledger_row lost = row("r3", 77, 7, 1, 2); /* no such project */
    ck_assert_int_ne(store_put_row(s, &lost, &e), 0);
    ck_assert_ptr_nonnull(strstr(load(s), "C1 7 33\n"));
    store_close(s);
}
END_TEST

START_TEST(transactions)
{
    struct lodge_error e = {0};
    struct store *s = open_store();
    struct store_project p = {.id = "proj_a", .name = "a", .metadata = "{}", .weight = 1};
    struct store_project q = {.id = "proj_b", .name = "b", .metadata = "{}", .weight = 1};
    ck_assert_int_eq(store_begin(s, &e), 0);
    ck_assert_int_eq(store_mark(s, &e), 0);
    ck_assert_int_eq(store_put_project(s, &p, &e), 0);
    store_undo(s);
    ck_assert_int_eq(store_mark(s, &e), 0);
    ck_assert_int_eq(store_put_project(s, &q, &e), 0);
    store_keep(s);
    ck_assert_int_eq(store_commit(s, &e), 0);
    ck_assert(!strstr(load(s), "proj_a") && strstr(load(s), "proj_b"));
    struct ledger_row r = row("r1", 1, 7, 10, 20);
    ck_assert_int_eq(store_begin(s, &e), 0);
    ck_assert_int_eq(store_put_row(s, &r, &e), 0);
    store_rollback(s);
    ck_assert_ptr_null(strstr(load(s), "C1"));
    store_close(s);
}
END_TEST

static void damage(const char *sql)
{
    sqlite3 *db;
    ck_assert_int_eq(sqlite3_open(path, &db), SQLITE_OK);
    ck_assert_int_eq(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
}

static void refuses(int code, const char *says)
{
    struct store *s = NULL;
    struct lodge_error e = {0};
    ck_assert_int_eq(store_open(path, &s, &e), code);
    ck_assert_msg(strstr(e.text, says) && strstr(e.text, path), "%s", e.text);
}

START_TEST(other_files)
{
    store_close(open_store());
    damage("PRAGMA user_version = 1000");
    refuses(LODGE_ERR_FORMAT, "newer Lodge");
    damage("PRAGMA user_version = 1; PRAGMA application_id = 5");
    refuses(LODGE_ERR_FORMAT, "another program");
    damage("PRAGMA application_id = 1280263239; DELETE FROM meta");
    store_close(open_store()); /* a secret is made again */
    FILE *f = fopen(path, "w");
    fprintf(f, "this is no database, whatever its name says; it is text, and longer than a head\n");
    fclose(f);
    refuses(LODGE_ERR_FORMAT, "");
    snprintf(path, sizeof path, "%s/no/such/folder/s.db", folder);
    refuses(LODGE_ERR_NOT_FOUND, "cannot be opened");
}
END_TEST

/* Zeroed pages in the middle: found at start, not by the first request. */
START_TEST(broken_file)
{
    struct lodge_error e = {0};
    struct store *s = open_store();
    char id[ID_MAX];
    ck_assert_int_eq(store_begin(s, &e), 0);
    for (int i = 0; i < 3000; i++) {
        snprintf(id, sizeof id, "r%d", i * 7919 % 3000);
        struct ledger_row r = row(id, 1, i, 1, 1);
        ck_assert_int_eq(store_put_row(s, &r, &e), 0);
    }
    ck_assert_int_eq(store_commit(s, &e), 0);
    store_close(s);
    struct stat st;
    static const char zeros[16384];
    ck_assert_int_eq(stat(path, &st), 0);
    FILE *f = fopen(path, "r+");
    fseek(f, st.st_size / 2 / 4096 * 4096, SEEK_SET);
    ck_assert_uint_eq(fwrite(zeros, 1, sizeof zeros, f), sizeof zeros);
    fclose(f);
    struct store *broken = NULL;
    ck_assert_int_eq(store_open(path, &broken, &e), LODGE_ERR_FORMAT);
}
END_TEST

struct sums {
    int64_t input[8], requests[8];
};

static int see_sum(void *cookie, const struct usage_sum *u)
{
    struct sums *s = cookie;
    ck_assert(u->bucket >= 0 && u->bucket < 8);
    s->input[u->bucket] += u->input_tokens;
    s->requests[u->bucket] += u->requests;
    return 0;
}

/* Against sums made here; rows at the very edges of buckets. */
START_TEST(usage)
{
    struct lodge_error e = {0};
    struct store *s = open_store();
    struct sums want = {{0}, {0}}, got = {{0}, {0}};
    const struct usage_query q = {.start = 1000, .end = 1420, .width = 60, .group_by = 7};
    ck_assert_int_eq(store_begin(s, &e), 0);
    for (int i = 0; i < 600; i++) {
        struct ledger_row r = row("", 1, 0, (uint32_t)i + 1, 1);
        snprintf(r.request_id, sizeof r.request_id, "r%d", i);
        r.time_us = (int64_t)(990 + i) * 1000000 + (i % 2) * 999999;
        int64_t second = 990 + i;
        if (second >= q.start && second < q.end) {
            want.input[(second - q.start) / 60] += i + 1;
            want.requests[(second - q.start) / 60]++;
        }
        ck_assert_int_eq(store_put_row(s, &r, &e), 0);
    }
    ck_assert_int_eq(store_commit(s, &e), 0);
    ck_assert_int_eq(store_usage(s, &q, see_sum, &got, &e), 0);
    ck_assert_mem_eq(&want, &got, sizeof want);
    struct usage_query none = q;
    none.project_id = "proj_nobody";
    got = (struct sums){{0}, {0}};
    ck_assert_int_eq(store_usage(s, &none, see_sum, &got, &e), 0);
    ck_assert_int_eq(got.requests[0], 0);
    store_close(s);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("store");
    TCase *c = tcase_create("all");
    tcase_add_checked_fixture(c, setup, teardown);
    tcase_set_timeout(c, 60);
    tcase_add_test(c, round_trip);
    tcase_add_test(c, rows_count_once);
    tcase_add_test(c, transactions);
    tcase_add_test(c, other_files);
    tcase_add_test(c, broken_file);
    tcase_add_test(c, usage);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
