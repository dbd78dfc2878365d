/* Tenants: who may ask for what, and how much of it.
 *
 * All of it is in memory: a request looks its key up, is admitted and settled under short locks and
 * never waits for the store. Changes go to the store first and are seen by the next request.
 * Tenants and keys are never freed while the server runs, so a pointer to one stays good.
 *
 * Locks: tenants.change serialises changes (admin threads only) and is taken first; tenants.lock
 * (read-write) guards the tables; tenant.lock guards a tenant's counters. The latter two are leaves
 * and are not held together but by tenants_metrics.
 */
#ifndef LODGE_SERVER_TENANTS_H
#define LODGE_SERVER_TENANTS_H

#include "base/buf.h"
#include "server/bucket.h"
#include "server/ledger.h"

#include <jansson.h>

#define TENANT_MAX_MODELS 256u
/* Of a reply's tokens, as many are reserved with the quota when it is admitted. */
#define TENANT_RESERVE_TOKENS 256u
#define MAX_TIER 7
#define DEFAULT_TENANT 1u

enum throttle {
    THROTTLE_NONE,
    THROTTLE_REQUESTS,
    THROTTLE_TOKENS,
    THROTTLE_CONCURRENT,
    THROTTLE_LOADS,
    THROTTLE_BUDGET,
    N_THROTTLES
};

struct tenant {
    uint64_t number;
    char id[ID_MAX];
    struct lodge_digest salt;
    /* Guarded by tenants.lock. */
    char name[NAME_MAX_BYTES];
    char *metadata;
    uint32_t tier;
    double weight;
    int64_t created_at, archived_at;
    struct tenant_adapter *adapters;

    pthread_mutex_t lock; /* guards what follows */
    struct tenant_limits limits;
    struct bucket requests, tokens, loads;
    uint32_t n_running;
    int64_t reserved_tokens;                  /* of running requests, for the budget */
    int64_t day;                              /* since 1970, UTC, that used_day is of */
    int64_t used_day, used_month, used_total; /* tokens */
    uint64_t n_requests, prompt_tokens, cached_tokens, output_tokens;
    uint64_t n_throttled[N_THROTTLES];
    bool labelled; /* has series of its own in the metrics */
};

struct tenant_key {
    struct tenant *tenant;
    char id[ID_MAX], name[NAME_MAX_BYTES], redacted[ID_MAX];
    struct lodge_digest digest;
    char **models; /* NULL: all */
    uint32_t n_models;
    int64_t created_at;
    int64_t expires_at; /* 0: never; guarded by tenants.lock, as is: */
    bool revoked;
    _Atomic int64_t last_used_at;
};

/* An adapter that a tenant owns; a list, guarded by tenants.lock. */
struct tenant_adapter {
    struct tenant_adapter *next;
    char name[NAME_MAX_BYTES];
    char *path;
    char digest[65]; /* hex; empty: not known yet */
    int64_t created_at;
    uint64_t *shares; /* numbers of the projects it is shared with */
    uint32_t n_shares;
};

/* Who a request is for, as authentication found. Valid while the server runs. */
struct principal {
    struct tenant *tenant;
    const struct tenant_key *key; /* NULL: a key of the settings, or none is needed */
    struct lodge_digest salt;     /* zero without a store */
    uint32_t tier;
    float weight;
};

struct tenants {
    struct ledger ledger;
    bool has_store;
    pthread_mutex_t change;
    pthread_rwlock_t lock; /* guards what follows */
    struct tenant **all;   /* in the order of their numbers */
    uint32_t n_tenants;
    struct tenant_key **keys; /* in the order they were made */
    uint32_t n_keys;
    struct tenant_key **table; /* by digest, open addressing */
    uint32_t table_mask;
    struct tenant_adapter *deleted; /* kept until the end: somebody may still look at one */
    _Atomic uint32_t n_labelled;
};

/* Loads the store at `path`, or makes the one default tenant when it is NULL. Errors of
 * ledger_open. The caller ends it by tenants_close, also after an error. */
int tenants_open(struct tenants *t, const char *path, uint32_t n_live, struct lodge_log *log,
                 struct lodge_error *e);
void tenants_close(struct tenants *t);

/* ---- authentication ---- */

void tenants_default(struct tenants *t, struct principal *out);
/* False for a key that is unknown, expired, revoked, or of an archived tenant. */
bool tenants_authenticate(struct tenants *t, const char *key, size_t n, struct principal *out);
/* May this key use the model? */
bool principal_may_use(const struct principal *p, const char *model);
/* The id of its key for logs and the ledger; "key_config" for one of the settings. */
const char *principal_key_id(const struct principal *p);

/* ---- limits ---- */

struct throttled {
    enum throttle why;
    double retry_s; /* < 0: waiting does not help */
    int64_t limit, asked, left;
};

/* Takes a request's place and reserves its tokens, all or nothing. True when it fits. */
bool tenant_admit(struct tenant *t, int64_t tokens, uint64_t now_ns, struct throttled *why);
/* Ends what tenant_admit began: `used` tokens instead of those reserved. With `undo` the request
 * was never submitted, and is given back too. */
void tenant_settle(struct tenant *t, int64_t reserved, int64_t used, bool undo, uint64_t now_ns);
/* Gives the tenant series of its own while there are some left; before it is counted anywhere. */
void tenant_label(struct tenants *all, struct tenant *t);
/* Adds to the counters that metrics show. */
void tenant_count(struct tenant *t, const struct ledger_row *r);
/* For who loads adapters: takes one load. */
bool tenant_take_load(struct tenant *t, uint64_t now_ns, struct throttled *why);
void tenant_get_limits(struct tenant *t, struct tenant_limits *out);

/* Also tells the tokens that were used in the budget's current period. */
int64_t tenant_budget_used(struct tenant *t, struct tenant_limits *out);

struct tenant_rates {
    bool requests, tokens; /* is limited */
    int64_t limit_requests, left_requests, limit_tokens, left_tokens;
    double reset_requests_s, reset_tokens_s; /* until the bucket is full */
};
void tenant_get_rates(struct tenant *t, uint64_t now_ns, struct tenant_rates *out);

/* ---- changes: admin threads; each is in the store when it returns ---- */

/* The project, archived or not; NULL when unknown. */
struct tenant *tenants_find(struct tenants *t, const char *id);
struct tenant *tenants_number(struct tenants *t, uint64_t number);

struct tenant_fields {
    const char *name;     /* NULL: as it is */
    const char *metadata; /* JSON text; NULL: as it is */
    int64_t tier;         /* -1: as it is */
    double weight;        /* < 0: as it is */
};
/* FULL when the name is taken by another active project. */
int tenants_create(struct tenants *t, const struct tenant_fields *f, struct tenant **out,
                   struct lodge_error *e);
int tenants_update(struct tenants *t, struct tenant *who, const struct tenant_fields *f,
                   struct lodge_error *e);
/* Its keys work no longer. */
int tenants_archive(struct tenants *t, struct tenant *who, struct lodge_error *e);
int tenants_set_limits(struct tenants *t, struct tenant *who, const struct tenant_limits *l,
                       struct lodge_error *e);

/* `models`: JSON list of names as text, or NULL. The key itself is in `value` and nowhere else. */
int tenants_create_key(struct tenants *t, struct tenant *who, const char *name, const char *models,
                       int64_t expires_at, char value[KEY_LENGTH + 1], struct tenant_key **out,
                       struct lodge_error *e);
/* A key of this tenant that is not revoked; NULL otherwise. */
struct tenant_key *tenants_find_key(struct tenants *t, const struct tenant *who, const char *id);
int tenants_revoke_key(struct tenants *t, struct tenant_key *k, struct lodge_error *e);
/* A new key with the same name, models and expiry; the old one ends in `overlap_s`. */
int tenants_rotate_key(struct tenants *t, struct tenant_key *k, int64_t overlap_s,
                       char value[KEY_LENGTH + 1], struct tenant_key **out, struct lodge_error *e);

/* NULL when the tenant has none of that name. What is found stays readable, also when it is
 * deleted. */
struct tenant_adapter *tenants_find_adapter(struct tenants *t, const struct tenant *who,
                                            const char *name);
/* FULL when the name is taken, unless `replace`: shares stay then. */
int tenants_put_adapter(struct tenants *t, struct tenant *who, const char *name, const char *path,
                        const char *digest, bool replace, struct lodge_error *e);
int tenants_delete_adapter(struct tenants *t, struct tenant *who, const char *name,
                           struct lodge_error *e);
/* FULL when the other has one of that name, its own or a shared one. */
int tenants_share_adapter(struct tenants *t, struct tenant *who, const char *name,
                          const struct tenant *with, struct lodge_error *e);

/* ---- for the files that share this header ---- */

int64_t tenant_today(void);
/* Tokens that were used on a day; today's day decides what counts for the budgets. */
void tenant_add_used(struct tenant *t, int64_t day, int64_t tokens, int64_t today);
void tenant_apply_limits(struct tenant *t, const struct tenant_limits *l, uint64_t now_ns);
/* Adding to the tables; NOMEM. The caller holds tenants.lock, or is alone. */
int tenants_add(struct tenants *t, const struct store_project *p, struct tenant **out);
int tenants_add_key(struct tenants *t, const struct store_key *k, struct tenant_key **out);
int tenants_add_adapter(struct tenants *t, const struct store_adapter *a);
int tenants_add_share(struct tenants *t, uint64_t owner, const char *adapter, uint64_t with);

/* ---- metrics ---- */

/* Families of the tenants, in Prometheus text. `open`: OpenMetrics' names. */
void tenants_metrics(struct tenants *t, struct lodge_buf *out, bool open);

#endif
