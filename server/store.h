/* The store: tenants, their keys, limits and adapters, and the ledger, on disk.
 *
 * The server keeps all but the ledger in memory (tenants.h) and reads the store at start only; so
 * the store is a narrow interface that another database could stand behind. Records are plain
 * structs; a project's `number` and not its id links them.
 *
 * Threads: everything but store_usage belongs to one thread at a time: the opening one, then the
 * ledger's writer. store_usage may be called from any thread, beside the writer.
 * Errors: NOT_FOUND and FORMAT for a file that cannot be opened or is no store of this version
 * (exit 3), IO for a failed write, AGAIN when the database is busy.
 */
#ifndef LODGE_SERVER_STORE_H
#define LODGE_SERVER_STORE_H

#include "base/error.h"
#include "base/hash.h"
#include "server/keys.h"

#include <stdbool.h>
#include <stdint.h>

#define NAME_MAX_BYTES 129u  /* of projects, keys, adapters; with the zero */
#define MODEL_MAX_BYTES 193u /* of a model's name in the ledger */

struct store;

struct store_project {
    uint64_t number;
    const char *id, *name;
    const char *metadata; /* JSON object as text */
    uint32_t tier;        /* 0 is served first */
    double weight;
    int64_t created_at, archived_at; /* unix seconds; 0: active */
};

struct store_key {
    uint64_t project;
    const char *id, *name, *redacted;
    const char *models; /* JSON list as text; NULL: all */
    struct lodge_digest digest;
    int64_t created_at, expires_at, last_used_at; /* unix seconds; 0: never */
    bool revoked;
};

enum budget_period { BUDGET_DAY, BUDGET_MONTH, BUDGET_TOTAL };

/* 0: no limit. */
struct tenant_limits {
    int64_t requests_per_minute, tokens_per_minute, max_concurrent, loads_per_minute;
    int64_t resident_bytes, host_bytes, budget_tokens;
    enum budget_period budget_period;
};

struct store_adapter {
    uint64_t project;
    const char *name, *path;
    const char *digest; /* hex, or NULL: not known yet */
    int64_t created_at;
};

/* What one request cost. */
struct ledger_row {
    char request_id[ID_MAX], key_id[ID_MAX];
    char model[MODEL_MAX_BYTES];
    uint64_t project;
    struct lodge_digest adapter; /* zero: the base model */
    int64_t time_us;             /* unix, when it was admitted */
    uint32_t prompt_tokens, cached_tokens, output_tokens;
    uint32_t queue_ms, ttft_ms;
    double page_seconds, joules; /* joules < 0: not measured */
    uint32_t status;             /* HTTP */
    uint32_t finish;             /* enum ledger_finish */
};

enum ledger_finish {
    LEDGER_STOP,
    LEDGER_LENGTH,
    LEDGER_ABORT,
    LEDGER_ERROR,
    LEDGER_CRASH, /* settled at the next start */
    N_LEDGER_FINISH
};

/* Opens or creates the database, brings its schema up to date, and makes sure of the project
 * "default" (number 1). */
int store_open(const char *path, struct store **out, struct lodge_error *e);
void store_close(struct store *s);
/* Random, made with the store: salts derive from it. */
void store_secret(const struct store *s, struct lodge_digest *out);

/* Everything at once, in an order in which projects come before what is theirs; revoked keys are
 * left out. The pointers are valid during the call. A visitor's error ends it. */
struct store_visitor {
    int (*project)(void *cookie, const struct store_project *p);
    int (*key)(void *cookie, const struct store_key *k);
    int (*limits)(void *cookie, uint64_t project, const struct tenant_limits *l);
    int (*adapter)(void *cookie, const struct store_adapter *a);
    int (*share)(void *cookie, uint64_t owner, const char *adapter, uint64_t with);
    /* Tokens that a project used on a day (since 1970, UTC). */
    int (*consumption)(void *cookie, uint64_t project, int64_t day, int64_t tokens);
    void *cookie;
};
int store_load(struct store *s, const struct store_visitor *v, struct lodge_error *e);

/* A transaction; what is put outside of one commits at once. store_mark and store_undo bracket a
 * part of it that may fail alone. */
int store_begin(struct store *s, struct lodge_error *e);
int store_commit(struct store *s, struct lodge_error *e);
void store_rollback(struct store *s);
int store_mark(struct store *s, struct lodge_error *e);
void store_undo(struct store *s);
void store_keep(struct store *s);

/* Inserts or replaces by number, id, or (project, name). A project with number 0 gets one. */
int store_put_project(struct store *s, struct store_project *p, struct lodge_error *e);
int store_put_key(struct store *s, const struct store_key *k, struct lodge_error *e);
int store_put_limits(struct store *s, uint64_t project, const struct tenant_limits *l,
                     struct lodge_error *e);
int store_put_adapter(struct store *s, const struct store_adapter *a, struct lodge_error *e);
int store_put_share(struct store *s, uint64_t owner, const char *adapter, uint64_t with,
                    struct lodge_error *e);
/* With its shares. */
int store_delete_adapter(struct store *s, uint64_t project, const char *name,
                         struct lodge_error *e);
/* A request id that is there already is left alone: a row counts once however often it comes. */
int store_put_row(struct store *s, const struct ledger_row *r, struct lodge_error *e);

/* ---- usage ---- */

enum { USAGE_BY_PROJECT = 1, USAGE_BY_KEY = 2, USAGE_BY_MODEL = 4 };

struct usage_query {
    int64_t start, end; /* unix seconds, end excluded */
    int64_t width;      /* of a bucket; buckets begin at `start` */
    unsigned group_by;
    const char *project_id; /* only this one; NULL: all */
};

struct usage_sum {
    int64_t bucket; /* from 0 */
    int64_t input_tokens, cached_tokens, output_tokens, requests;
    double page_seconds, joules;             /* joules < 0: not measured */
    const char *project_id, *key_id, *model; /* NULL where not grouped by it */
};

/* Sums in the order of buckets. `seen` must not call the store. */
int store_usage(struct store *s, const struct usage_query *q,
                int (*seen)(void *cookie, const struct usage_sum *u), void *cookie,
                struct lodge_error *e);

#endif
