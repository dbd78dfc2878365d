/* A token bucket: `per_minute` is both its capacity and what flows in during a minute.
 *
 * Its level is a function of time alone between two takes, so nothing runs in the background. It
 * may go below zero: what was used beyond a reservation is a debt that later inflow pays first.
 * Owner: whoever holds the lock around it. Times are lodge_now_ns.
 */
#ifndef LODGE_SERVER_BUCKET_H
#define LODGE_SERVER_BUCKET_H

#include <stdbool.h>
#include <stdint.h>

struct bucket {
    double per_minute; /* 0: no limit */
    double level;      /* at `at_ns` */
    uint64_t at_ns;
};

/* A full bucket; another limit keeps the share that is left. */
void bucket_set(struct bucket *b, double per_minute, uint64_t now_ns);
double bucket_level(const struct bucket *b, uint64_t now_ns);
/* Is there room for n? Always, without a limit. */
bool bucket_has(const struct bucket *b, double n, uint64_t now_ns);
/* Takes n, or gives back -n, whatever the level is. */
void bucket_take(struct bucket *b, double n, uint64_t now_ns);
/* Seconds until the level is n; 0 when it is already; -1 when n is more than the bucket holds. */
double bucket_wait_s(const struct bucket *b, double n, uint64_t now_ns);

#endif
