/* The store in SQLite: one connection that writes (WAL, full synchronisation at commits) and one
 * that reads usage beside it. The statements of all tables stand together, as they are one schema.
 */
#include "server/store.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define APPLICATION_ID 0x4C4F4447 /* "LODG" in the file's header */
#define BUSY_MS 5000
/* Files up to this size are checked whole at start; a larger one would take minutes. */
#define MAX_CHECKED_BYTES ((int64_t)256 << 20)

struct store {
    sqlite3 *db;
    sqlite3_stmt *insert_row, *add_consumption, *touch_key; /* once a request: kept prepared */
    struct lodge_digest secret;
    pthread_mutex_t read_lock;
    sqlite3 *reader; /* guarded by read_lock */
};

/* Step i brings a database of version i to version i + 1. */
static const char *const migrations[] = {
    "CREATE TABLE meta(key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE projects(number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,"
    " name TEXT NOT NULL, tier INTEGER NOT NULL, weight REAL NOT NULL, metadata TEXT NOT NULL,"
    " created_at INTEGER NOT NULL, archived_at INTEGER NOT NULL DEFAULT 0);"
    "CREATE UNIQUE INDEX projects_name ON projects(name) WHERE archived_at = 0;"
    "CREATE TABLE keys(id TEXT PRIMARY KEY, project INTEGER NOT NULL REFERENCES projects,"
    " digest BLOB NOT NULL UNIQUE, redacted TEXT NOT NULL, name TEXT NOT NULL, models TEXT,"
    " created_at INTEGER NOT NULL, expires_at INTEGER NOT NULL, last_used_at INTEGER NOT NULL,"
    " revoked INTEGER NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE limits(project INTEGER PRIMARY KEY REFERENCES projects,"
    " requests_per_minute INTEGER NOT NULL, tokens_per_minute INTEGER NOT NULL,"
    " max_concurrent INTEGER NOT NULL, loads_per_minute INTEGER NOT NULL,"
    " resident_bytes INTEGER NOT NULL, host_bytes INTEGER NOT NULL,"
    " budget_tokens INTEGER NOT NULL, budget_period INTEGER NOT NULL);"
    "CREATE TABLE adapters(project INTEGER NOT NULL REFERENCES projects, name TEXT NOT NULL,"
    " path TEXT NOT NULL, digest TEXT, created_at INTEGER NOT NULL, PRIMARY KEY(project, name))"
    " WITHOUT ROWID;"
    "CREATE TABLE shares(owner INTEGER NOT NULL, adapter TEXT NOT NULL,"
    " project INTEGER NOT NULL REFERENCES projects, PRIMARY KEY(owner, adapter, project),"
    " FOREIGN KEY(owner, adapter) REFERENCES adapters(project, name) ON DELETE CASCADE)"
    " WITHOUT ROWID;"
    "CREATE TABLE ledger(request_id TEXT PRIMARY KEY, project INTEGER NOT NULL REFERENCES projects,"
    " key_id TEXT NOT NULL, model TEXT NOT NULL, adapter BLOB, time_us INTEGER NOT NULL,"
    " prompt_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL,"
    " output_tokens INTEGER NOT NULL, queue_ms INTEGER NOT NULL, ttft_ms INTEGER NOT NULL,"
    " page_seconds REAL NOT NULL, joules REAL, status INTEGER NOT NULL, finish TEXT NOT NULL)"
    " WITHOUT ROWID;"
    "CREATE INDEX ledger_time ON ledger(time_us);"
    "CREATE TABLE consumption(project INTEGER NOT NULL REFERENCES projects, day INTEGER NOT NULL,"
    " tokens INTEGER NOT NULL, PRIMARY KEY(project, day)) WITHOUT ROWID;"
    "INSERT INTO projects(number, id, name, tier, weight, metadata, created_at)"
    " VALUES(1, 'proj_default', 'default', 0, 1, '{}', unixepoch());",
};

#define VERSION ((int)(sizeof migrations / sizeof *migrations))

static const char *const finish_names[N_LEDGER_FINISH] = {"stop", "length", "abort", "error",
                                                          "crash"};

/* ---- statements ---- */

static int failed(sqlite3 *db, struct lodge_error *e)
{
    int rc = sqlite3_errcode(db);
    int code = rc == SQLITE_BUSY || rc == SQLITE_LOCKED      ? LODGE_ERR_AGAIN
               : rc == SQLITE_CORRUPT || rc == SQLITE_NOTADB ? LODGE_ERR_FORMAT
               : rc == SQLITE_NOMEM                          ? LODGE_ERR_NOMEM
                                                             : LODGE_ERR_IO;
    return lodge_fail(e, code, "store: %s", sqlite3_errmsg(db));
}

/* i: int64_t, d: double, t: const char * (NULL allowed), b: struct lodge_digest *, n: NULL
 * in place of b, and r: a double that is NULL when negative. */
static void bind(sqlite3_stmt *st, const char *kinds, va_list args)
{
    double d;
    for (int i = 1; *kinds; i++, kinds++)
        switch (*kinds) {
        case 'i':
            sqlite3_bind_int64(st, i, va_arg(args, int64_t));
            break;
        case 'd':
            sqlite3_bind_double(st, i, va_arg(args, double));
            break;
        case 't':
            sqlite3_bind_text(st, i, va_arg(args, const char *), -1, SQLITE_TRANSIENT);
            break;
        case 'b':
            sqlite3_bind_blob(st, i, va_arg(args, const struct lodge_digest *),
                              sizeof(struct lodge_digest), SQLITE_TRANSIENT);
            break;
        case 'r':
            d = va_arg(args, double);
            if (d >= 0)
                sqlite3_bind_double(st, i, d);
            break;
        default: /* n: its argument stays unused */
            (void)va_arg(args, const void *);
            break;
        }
}

/* Binds and runs a prepared statement that returns nothing. */
static int run_prepared(sqlite3 *db, sqlite3_stmt *st, struct lodge_error *e, const char *kinds,
                        ...)
{
    va_list args;
    va_start(args, kinds);
    sqlite3_clear_bindings(st);
    bind(st, kinds, args);
    va_end(args);
    int rc = sqlite3_step(st), err = rc == SQLITE_DONE ? 0 : failed(db, e);
    sqlite3_reset(st);
    return err;
}

static int run(struct store *s, struct lodge_error *e, const char *sql, const char *kinds, ...)
{
    sqlite3_stmt *st = NULL;
    if (sqlite3_prepare_v2(s->db, sql, -1, &st, NULL))
        return failed(s->db, e);
    va_list args;
    va_start(args, kinds);
    bind(st, kinds, args);
    va_end(args);
    int rc = sqlite3_step(st), err = rc == SQLITE_DONE || rc == SQLITE_ROW ? 0 : failed(s->db, e);
    sqlite3_finalize(st);
    return err;
}

static int execute(sqlite3 *db, const char *sql, struct lodge_error *e)
{
    return sqlite3_exec(db, sql, NULL, NULL, NULL) ? failed(db, e) : 0;
}

/* One number, or `absent` when there is no row. */
static int get_number(sqlite3 *db, const char *sql, int64_t absent, int64_t *out,
                      struct lodge_error *e)
{
    sqlite3_stmt *st = NULL;
    *out = absent;
    if (sqlite3_prepare_v2(db, sql, -1, &st, NULL))
        return failed(db, e);
    int rc = sqlite3_step(st), err = rc == SQLITE_ROW || rc == SQLITE_DONE ? 0 : failed(db, e);
    if (rc == SQLITE_ROW)
        *out = sqlite3_column_int64(st, 0);
    sqlite3_finalize(st);
    return err;
}

static const char *text(sqlite3_stmt *st, int column)
{
    return (const char *)sqlite3_column_text(st, column);
}

/* ---- opening ---- */

static int migrate(struct store *s, int64_t from, struct lodge_error *e)
{
    char version[64];
    int err = execute(s->db, "BEGIN IMMEDIATE", e);
    for (int64_t v = from; v < VERSION && !err; v++)
        err = execute(s->db, migrations[v], e);
    snprintf(version, sizeof version, "PRAGMA user_version = %d; PRAGMA application_id = %d",
             VERSION, APPLICATION_ID);
    if (!err)
        err = execute(s->db, version, e);
    if (!err)
        err = execute(s->db, "COMMIT", e);
    if (err)
        execute(s->db, "ROLLBACK", NULL);
    return err;
}

/* Whose file it is, and how old. */
static int check_version(struct store *s, int64_t *version, struct lodge_error *e)
{
    int64_t id, tables;
    int err = get_number(s->db, "PRAGMA application_id", 0, &id, e);
    if (!err)
        err = get_number(s->db, "PRAGMA user_version", 0, version, e);
    if (!err)
        err = get_number(s->db, "SELECT count(*) FROM sqlite_schema", 0, &tables, e);
    if (err)
        return err;
    if (tables && id != APPLICATION_ID)
        return lodge_fail(e, LODGE_ERR_FORMAT,
                          "this is a database of another program; name a file of its own");
    if (*version > VERSION)
        return lodge_fail(e, LODGE_ERR_FORMAT,
                          "the store has version %lld, made by a newer Lodge; this one knows %d. "
                          "Update Lodge, or restore a backup from before",
                          (long long)*version, VERSION);
    return 0;
}

static int check_content(struct store *s, struct lodge_error *e)
{
    int64_t pages, page_bytes;
    int err = get_number(s->db, "PRAGMA page_count", 0, &pages, e);
    if (!err)
        err = get_number(s->db, "PRAGMA page_size", 0, &page_bytes, e);
    if (err || pages * page_bytes > MAX_CHECKED_BYTES)
        return err;
    sqlite3_stmt *st = NULL;
    if (sqlite3_prepare_v2(s->db, "PRAGMA quick_check(1)", -1, &st, NULL))
        return failed(s->db, e);
    if (sqlite3_step(st) != SQLITE_ROW)
        err = failed(s->db, e);
    else if (strcmp(text(st, 0), "ok") != 0)
        err = lodge_fail(e, LODGE_ERR_FORMAT, "the store is damaged (%.200s); restore a backup",
                         text(st, 0));
    sqlite3_finalize(st);
    return err;
}

static int load_secret(struct store *s, struct lodge_error *e)
{
    struct lodge_digest fresh;
    lodge_random_bytes(&fresh, sizeof fresh);
    int err = run(s, e, "INSERT OR IGNORE INTO meta(key, value) VALUES('secret', ?)", "b", &fresh);
    sqlite3_stmt *st = NULL;
    if (err)
        return err;
    if (sqlite3_prepare_v2(s->db, "SELECT value FROM meta WHERE key = 'secret'", -1, &st, NULL))
        return failed(s->db, e);
    if (sqlite3_step(st) == SQLITE_ROW && sqlite3_column_bytes(st, 0) == sizeof s->secret)
        memcpy(&s->secret, sqlite3_column_blob(st, 0), sizeof s->secret);
    else
        err = lodge_fail(e, LODGE_ERR_FORMAT, "the store has no secret; restore a backup");
    sqlite3_finalize(st);
    return err;
}

static int prepare_hot(struct store *s, struct lodge_error *e)
{
    const struct {
        sqlite3_stmt **at;
        const char *sql;
    } all[] = {
        {&s->insert_row, "INSERT OR IGNORE INTO ledger VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"},
        {&s->add_consumption, "INSERT INTO consumption VALUES(?,?,?) ON CONFLICT DO UPDATE"
                              " SET tokens = tokens + excluded.tokens"},
        {&s->touch_key, "UPDATE keys SET last_used_at = max(last_used_at, ?) WHERE id = ?"},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (sqlite3_prepare_v3(s->db, all[i].sql, -1, SQLITE_PREPARE_PERSISTENT, all[i].at, NULL))
            return failed(s->db, e);
    return 0;
}

/* SQLite gives its side files the same mode; all hold hashes of keys. */
static int make_private(const char *path, struct lodge_error *e)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return lodge_fail(e, LODGE_ERR_NOT_FOUND, "cannot be opened: %s", strerror(errno));
    close(fd);
    return 0;
}

static int open_writer(struct store *s, const char *path, struct lodge_error *e)
{
    int64_t version = 0;
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX;
    if (make_private(path, e))
        return LODGE_ERR_NOT_FOUND;
    if (sqlite3_open_v2(path, &s->db, flags, NULL))
        return lodge_fail(e, LODGE_ERR_NOT_FOUND, "cannot be opened: %s",
                          s->db ? sqlite3_errmsg(s->db) : "no memory");
    sqlite3_busy_timeout(s->db, BUSY_MS);
    int err = check_version(s, &version, e);
    if (!err)
        err = check_content(s, e);
    if (!err)
        err = execute(s->db,
                      "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"
                      "PRAGMA foreign_keys = ON",
                      e);
    if (!err && version < VERSION)
        err = migrate(s, version, e);
    if (!err)
        err = load_secret(s, e);
    return err ? err : prepare_hot(s, e);
}

int store_open(const char *path, struct store **out, struct lodge_error *e)
{
    struct store *s = calloc(1, sizeof *s);
    if (!s)
        return lodge_fail(e, LODGE_ERR_NOMEM, "no memory for the store");
    pthread_mutex_init(&s->read_lock, NULL);
    int err = open_writer(s, path, e);
    if (!err && sqlite3_open_v2(path, &s->reader, SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX, NULL))
        err = failed(s->reader, e);
    if (err) {
        lodge_error_prefix(e, "--store %s", path);
        store_close(s);
        return err;
    }
    sqlite3_busy_timeout(s->reader, BUSY_MS);
    *out = s;
    return 0;
}

void store_close(struct store *s)
{
    if (!s)
        return;
    sqlite3_finalize(s->insert_row);
    sqlite3_finalize(s->add_consumption);
    sqlite3_finalize(s->touch_key);
    sqlite3_close(s->reader);
    sqlite3_close(s->db);
    pthread_mutex_destroy(&s->read_lock);
    free(s);
}

void store_secret(const struct store *s, struct lodge_digest *out)
{
    *out = s->secret;
}

/* ---- loading ---- */

static int load_project(sqlite3_stmt *st, const struct store_visitor *v)
{
    struct store_project p = {
        .number = (uint64_t)sqlite3_column_int64(st, 0),
        .id = text(st, 1),
        .name = text(st, 2),
        .tier = (uint32_t)sqlite3_column_int64(st, 3),
        .weight = sqlite3_column_double(st, 4),
        .metadata = text(st, 5),
        .created_at = sqlite3_column_int64(st, 6),
        .archived_at = sqlite3_column_int64(st, 7),
    };
    return v->project(v->cookie, &p);
}

static int load_key(sqlite3_stmt *st, const struct store_visitor *v)
{
    struct store_key k = {
        .id = text(st, 0),
        .project = (uint64_t)sqlite3_column_int64(st, 1),
        .redacted = text(st, 3),
        .name = text(st, 4),
        .models = text(st, 5),
        .created_at = sqlite3_column_int64(st, 6),
        .expires_at = sqlite3_column_int64(st, 7),
        .last_used_at = sqlite3_column_int64(st, 8),
    };
    if (sqlite3_column_bytes(st, 2) != sizeof k.digest)
        return LODGE_ERR_FORMAT;
    memcpy(&k.digest, sqlite3_column_blob(st, 2), sizeof k.digest);
    return v->key(v->cookie, &k);
}

static int load_limits(sqlite3_stmt *st, const struct store_visitor *v)
{
    int64_t n[9];
    for (int i = 0; i < 9; i++)
        n[i] = sqlite3_column_int64(st, i);
    if (n[8] < BUDGET_DAY || n[8] > BUDGET_TOTAL)
        return LODGE_ERR_FORMAT;
    struct tenant_limits l = {n[1], n[2], n[3], n[4], n[5], n[6], n[7], (enum budget_period)n[8]};
    return v->limits(v->cookie, (uint64_t)n[0], &l);
}

static int load_adapter(sqlite3_stmt *st, const struct store_visitor *v)
{
    struct store_adapter a = {
        .project = (uint64_t)sqlite3_column_int64(st, 0),
        .name = text(st, 1),
        .path = text(st, 2),
        .digest = text(st, 3),
        .created_at = sqlite3_column_int64(st, 4),
    };
    return v->adapter(v->cookie, &a);
}

static int load_share(sqlite3_stmt *st, const struct store_visitor *v)
{
    return v->share(v->cookie, (uint64_t)sqlite3_column_int64(st, 0), text(st, 1),
                    (uint64_t)sqlite3_column_int64(st, 2));
}

static int load_consumption(sqlite3_stmt *st, const struct store_visitor *v)
{
    return v->consumption(v->cookie, (uint64_t)sqlite3_column_int64(st, 0),
                          sqlite3_column_int64(st, 1), sqlite3_column_int64(st, 2));
}

int store_load(struct store *s, const struct store_visitor *v, struct lodge_error *e)
{
    static const struct {
        const char *sql;
        int (*load)(sqlite3_stmt *st, const struct store_visitor *v);
    } parts[] = {
        {"SELECT number, id, name, tier, weight, metadata, created_at, archived_at FROM projects"
         " ORDER BY number",
         load_project},
        {"SELECT id, project, digest, redacted, name, models, created_at, expires_at, last_used_at"
         " FROM keys WHERE NOT revoked ORDER BY created_at, id",
         load_key},
        {"SELECT project, requests_per_minute, tokens_per_minute, max_concurrent,"
         " loads_per_minute, resident_bytes, host_bytes, budget_tokens, budget_period FROM limits",
         load_limits},
        {"SELECT project, name, path, digest, created_at FROM adapters ORDER BY created_at, name",
         load_adapter},
        {"SELECT owner, adapter, project FROM shares", load_share},
        {"SELECT project, day, tokens FROM consumption", load_consumption},
    };
    int err = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts && !err; i++) {
        sqlite3_stmt *st = NULL;
        if (sqlite3_prepare_v2(s->db, parts[i].sql, -1, &st, NULL))
            return failed(s->db, e);
        int rc;
        while ((rc = sqlite3_step(st)) == SQLITE_ROW && !err)
            err = parts[i].load(st, v);
        if (err)
            err = lodge_fail(e, err, "store: a row of it makes no sense; restore a backup");
        else if (rc != SQLITE_DONE)
            err = failed(s->db, e);
        sqlite3_finalize(st);
    }
    return err;
}

/* ---- transactions ---- */

int store_begin(struct store *s, struct lodge_error *e)
{
    return execute(s->db, "BEGIN IMMEDIATE", e);
}

int store_commit(struct store *s, struct lodge_error *e)
{
    return execute(s->db, "COMMIT", e);
}

void store_rollback(struct store *s)
{
    execute(s->db, "ROLLBACK", NULL);
}

int store_mark(struct store *s, struct lodge_error *e)
{
    return execute(s->db, "SAVEPOINT part", e);
}

void store_undo(struct store *s)
{
    execute(s->db, "ROLLBACK TO part; RELEASE part", NULL);
}

void store_keep(struct store *s)
{
    execute(s->db, "RELEASE part", NULL);
}

/* ---- writing ---- */

int store_put_project(struct store *s, struct store_project *p, struct lodge_error *e)
{
    if (p->number)
        return run(s, e,
                   "UPDATE projects SET name = ?, tier = ?, weight = ?, metadata = ?,"
                   " archived_at = ? WHERE number = ?",
                   "tidtii", p->name, (int64_t)p->tier, p->weight, p->metadata, p->archived_at,
                   (int64_t)p->number);
    int err =
        run(s, e,
            "INSERT INTO projects(id, name, tier, weight, metadata, created_at)"
            " VALUES(?,?,?,?,?,?)",
            "ttidti", p->id, p->name, (int64_t)p->tier, p->weight, p->metadata, p->created_at);
    if (!err)
        p->number = (uint64_t)sqlite3_last_insert_rowid(s->db);
    return err;
}

int store_put_key(struct store *s, const struct store_key *k, struct lodge_error *e)
{
    return run(s, e, "INSERT OR REPLACE INTO keys VALUES(?,?,?,?,?,?,?,?,?,?)", "tibtttiiii", k->id,
               (int64_t)k->project, &k->digest, k->redacted, k->name, k->models, k->created_at,
               k->expires_at, k->last_used_at, (int64_t)k->revoked);
}

int store_put_limits(struct store *s, uint64_t project, const struct tenant_limits *l,
                     struct lodge_error *e)
{
    return run(s, e, "INSERT OR REPLACE INTO limits VALUES(?,?,?,?,?,?,?,?,?)", "iiiiiiiii",
               (int64_t)project, l->requests_per_minute, l->tokens_per_minute, l->max_concurrent,
               l->loads_per_minute, l->resident_bytes, l->host_bytes, l->budget_tokens,
               (int64_t)l->budget_period);
}

int store_put_adapter(struct store *s, const struct store_adapter *a, struct lodge_error *e)
{
    return run(s, e,
               "INSERT INTO adapters VALUES(?,?,?,?,?) ON CONFLICT DO UPDATE SET"
               " path = excluded.path, digest = excluded.digest",
               "ittti", (int64_t)a->project, a->name, a->path, a->digest, a->created_at);
}

int store_put_share(struct store *s, uint64_t owner, const char *adapter, uint64_t with,
                    struct lodge_error *e)
{
    return run(s, e, "INSERT OR IGNORE INTO shares VALUES(?,?,?)", "iti", (int64_t)owner, adapter,
               (int64_t)with);
}

int store_delete_adapter(struct store *s, uint64_t project, const char *name, struct lodge_error *e)
{
    return run(s, e, "DELETE FROM adapters WHERE project = ? AND name = ?", "it", (int64_t)project,
               name);
}

int store_put_row(struct store *s, const struct ledger_row *r, struct lodge_error *e)
{
    static const struct lodge_digest none;
    int64_t seconds = r->time_us / 1000000;
    bool base = memcmp(&r->adapter, &none, sizeof none) == 0;
    const char *finish = finish_names[r->finish < N_LEDGER_FINISH ? r->finish : LEDGER_ERROR];
    int err = run_prepared(s->db, s->insert_row, e, base ? "tittniiiiiidrit" : "tittbiiiiiidrit",
                           r->request_id, (int64_t)r->project, r->key_id, r->model, &r->adapter,
                           r->time_us, (int64_t)r->prompt_tokens, (int64_t)r->cached_tokens,
                           (int64_t)r->output_tokens, (int64_t)r->queue_ms, (int64_t)r->ttft_ms,
                           r->page_seconds, r->joules, (int64_t)r->status, finish);
    if (err || !sqlite3_changes(s->db))
        return err;
    int64_t tokens = (int64_t)r->prompt_tokens + r->output_tokens;
    err = run_prepared(s->db, s->add_consumption, e, "iii", (int64_t)r->project, seconds / 86400,
                       tokens);
    return err ? err : run_prepared(s->db, s->touch_key, e, "it", seconds, r->key_id);
}

/* ---- usage ---- */

static void usage_sql(const struct usage_query *q, char *out, size_t room)
{
    const char *project = q->group_by & USAGE_BY_PROJECT ? "p.id" : "NULL";
    const char *key = q->group_by & USAGE_BY_KEY ? "l.key_id" : "NULL";
    const char *model = q->group_by & USAGE_BY_MODEL ? "l.model" : "NULL";
    snprintf(out, room,
             "SELECT (l.time_us / 1000000 - ?1) / ?2 AS bucket, sum(l.prompt_tokens),"
             " sum(l.cached_tokens), sum(l.output_tokens), count(*), sum(l.page_seconds),"
             " sum(l.joules), %s, %s, %s FROM ledger l JOIN projects p ON p.number = l.project"
             " WHERE l.time_us >= ?1 * 1000000 AND l.time_us < ?3 * 1000000"
             " AND (?4 IS NULL OR p.id = ?4) GROUP BY 1, 8, 9, 10 ORDER BY 1, 8, 9, 10",
             project, key, model);
}

static int usage_rows(sqlite3 *db, sqlite3_stmt *st,
                      int (*seen)(void *cookie, const struct usage_sum *u), void *cookie,
                      struct lodge_error *e)
{
    int rc, err = 0;
    while (!err && (rc = sqlite3_step(st)) == SQLITE_ROW) {
        bool measured = sqlite3_column_type(st, 6) != SQLITE_NULL;
        struct usage_sum u = {
            .bucket = sqlite3_column_int64(st, 0),
            .input_tokens = sqlite3_column_int64(st, 1),
            .cached_tokens = sqlite3_column_int64(st, 2),
            .output_tokens = sqlite3_column_int64(st, 3),
            .requests = sqlite3_column_int64(st, 4),
            .page_seconds = sqlite3_column_double(st, 5),
            .joules = measured ? sqlite3_column_double(st, 6) : -1,
            .project_id = text(st, 7),
            .key_id = text(st, 8),
            .model = text(st, 9),
        };
        err = seen(cookie, &u);
    }
    return err || rc == SQLITE_DONE ? err : failed(db, e);
}

int store_usage(struct store *s, const struct usage_query *q,
                int (*seen)(void *cookie, const struct usage_sum *u), void *cookie,
                struct lodge_error *e)
{
    char sql[1024];
    sqlite3_stmt *st = NULL;
    usage_sql(q, sql, sizeof sql);
    pthread_mutex_lock(&s->read_lock);
    int err = sqlite3_prepare_v2(s->reader, sql, -1, &st, NULL) ? failed(s->reader, e) : 0;
    if (!err) {
        sqlite3_bind_int64(st, 1, q->start);
        sqlite3_bind_int64(st, 2, q->width);
        sqlite3_bind_int64(st, 3, q->end);
        if (q->project_id)
            sqlite3_bind_text(st, 4, q->project_id, -1, SQLITE_TRANSIENT);
        err = usage_rows(s->reader, st, seen, cookie, e);
    }
    sqlite3_finalize(st);
    pthread_mutex_unlock(&s->read_lock);
    return err;
}
