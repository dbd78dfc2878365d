/* What a tenant may use: buckets, concurrency, budget. Admission and settlement touch memory only.
 */
#include "server/tenants.h"

#include "base/clock.h"

#include <time.h>

#define DAY_S 86400

/* ---- budgets ---- */

int64_t tenant_today(void)
{
    return (int64_t)lodge_unix_time() / DAY_S;
}

static int month_of(int64_t day)
{
    time_t at = (time_t)(day * DAY_S);
    struct tm tm;
    gmtime_r(&at, &tm);
    return tm.tm_year * 12 + tm.tm_mon;
}

/* A new day, or month, begins with nothing used. */
static void roll(struct tenant *t, int64_t today)
{
    if (today == t->day)
        return;
    t->used_day = 0;
    if (month_of(today) != month_of(t->day))
        t->used_month = 0;
    t->day = today;
}

void tenant_add_used(struct tenant *t, int64_t day, int64_t tokens, int64_t today)
{
    pthread_mutex_lock(&t->lock);
    roll(t, today);
    t->used_day += day == today ? tokens : 0;
    t->used_month += month_of(day) == month_of(today) ? tokens : 0;
    t->used_total += tokens;
    pthread_mutex_unlock(&t->lock);
}

static int64_t used_of(const struct tenant *t)
{
    const int64_t used[] = {t->used_day, t->used_month, t->used_total};
    return used[t->limits.budget_period];
}

/* Tokens that the budget still has for what is not admitted yet. */
static int64_t budget_left(const struct tenant *t)
{
    return t->limits.budget_tokens - used_of(t) - t->reserved_tokens;
}

/* ---- limits ---- */

void tenant_apply_limits(struct tenant *t, const struct tenant_limits *l, uint64_t now_ns)
{
    pthread_mutex_lock(&t->lock);
    t->limits = *l;
    bucket_set(&t->requests, (double)l->requests_per_minute, now_ns);
    bucket_set(&t->tokens, (double)l->tokens_per_minute, now_ns);
    bucket_set(&t->loads, (double)l->loads_per_minute, now_ns);
    pthread_mutex_unlock(&t->lock);
}

void tenant_get_limits(struct tenant *t, struct tenant_limits *out)
{
    pthread_mutex_lock(&t->lock);
    *out = t->limits;
    pthread_mutex_unlock(&t->lock);
}

int64_t tenant_budget_used(struct tenant *t, struct tenant_limits *out)
{
    int64_t today = tenant_today();
    pthread_mutex_lock(&t->lock);
    roll(t, today);
    *out = t->limits;
    int64_t used = used_of(t);
    pthread_mutex_unlock(&t->lock);
    return used;
}

static int64_t whole(double level)
{
    return level > 0 ? (int64_t)level : 0;
}

static struct throttled bucket_refusal(enum throttle why, const struct bucket *b, double n,
                                       uint64_t now_ns)
{
    return (struct throttled){.why = why,
                              .retry_s = bucket_wait_s(b, n, now_ns),
                              .limit = (int64_t)b->per_minute,
                              .asked = (int64_t)n,
                              .left = whole(bucket_level(b, now_ns))};
}

/* What stands in the way; THROTTLE_NONE when nothing does. What waiting does not cure comes first.
 */
static struct throttled obstacle(const struct tenant *t, int64_t tokens, uint64_t now_ns)
{
    const struct tenant_limits *l = &t->limits;
    if (l->budget_tokens && tokens > budget_left(t)) {
        int64_t left = budget_left(t);
        return (struct throttled){THROTTLE_BUDGET, -1, l->budget_tokens, tokens,
                                  left > 0 ? left : 0};
    }
    if (!bucket_has(&t->tokens, (double)tokens, now_ns))
        return bucket_refusal(THROTTLE_TOKENS, &t->tokens, (double)tokens, now_ns);
    if (!bucket_has(&t->requests, 1, now_ns))
        return bucket_refusal(THROTTLE_REQUESTS, &t->requests, 1, now_ns);
    if (l->max_concurrent && t->n_running >= l->max_concurrent)
        return (struct throttled){THROTTLE_CONCURRENT, 1, l->max_concurrent, 1, 0};
    return (struct throttled){.why = THROTTLE_NONE};
}

bool tenant_admit(struct tenant *t, int64_t tokens, uint64_t now_ns, struct throttled *why)
{
    int64_t today = tenant_today();
    pthread_mutex_lock(&t->lock);
    roll(t, today);
    *why = obstacle(t, tokens, now_ns);
    if (why->why == THROTTLE_NONE) {
        bucket_take(&t->tokens, (double)tokens, now_ns);
        bucket_take(&t->requests, 1, now_ns);
        t->reserved_tokens += tokens;
        t->n_running++;
    } else {
        t->n_throttled[why->why]++;
    }
    pthread_mutex_unlock(&t->lock);
    return why->why == THROTTLE_NONE;
}

void tenant_settle(struct tenant *t, int64_t reserved, int64_t used, bool undo, uint64_t now_ns)
{
    int64_t today = tenant_today();
    pthread_mutex_lock(&t->lock);
    roll(t, today);
    bucket_take(&t->tokens, (double)(used - reserved), now_ns);
    if (undo)
        bucket_take(&t->requests, -1, now_ns);
    t->reserved_tokens -= reserved;
    t->n_running--;
    t->used_day += used;
    t->used_month += used;
    t->used_total += used;
    pthread_mutex_unlock(&t->lock);
}

bool tenant_take_load(struct tenant *t, uint64_t now_ns, struct throttled *why)
{
    pthread_mutex_lock(&t->lock);
    bool ok = bucket_has(&t->loads, 1, now_ns);
    *why = (struct throttled){.why = THROTTLE_NONE};
    if (ok) {
        bucket_take(&t->loads, 1, now_ns);
    } else {
        *why = bucket_refusal(THROTTLE_LOADS, &t->loads, 1, now_ns);
        t->n_throttled[THROTTLE_LOADS]++;
    }
    pthread_mutex_unlock(&t->lock);
    return ok;
}

void tenant_get_rates(struct tenant *t, uint64_t now_ns, struct tenant_rates *out)
{
    pthread_mutex_lock(&t->lock);
    const struct bucket *r = &t->requests, *k = &t->tokens;
    *out = (struct tenant_rates){
        .requests = r->per_minute > 0,
        .tokens = k->per_minute > 0,
        .limit_requests = (int64_t)r->per_minute,
        .limit_tokens = (int64_t)k->per_minute,
        .left_requests = whole(bucket_level(r, now_ns)),
        .left_tokens = whole(bucket_level(k, now_ns)),
        .reset_requests_s = bucket_wait_s(r, r->per_minute, now_ns),
        .reset_tokens_s = bucket_wait_s(k, k->per_minute, now_ns),
    };
    pthread_mutex_unlock(&t->lock);
}
