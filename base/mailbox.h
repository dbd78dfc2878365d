/* Mailbox: many senders, one receiver, flat records.
 *
 * A record is a run of bytes without pointers that starts with struct lodge_record. The receiver
 * takes everything that is there in one call and works outside the lock. Records arrive in the
 * order they were posted.
 *
 * Thread safety: post from any thread; take from one thread. The mutex is a leaf: nothing is
 * called while it is held.
 */
#ifndef LODGE_BASE_MAILBOX_H
#define LODGE_BASE_MAILBOX_H

#include "base/buf.h"

#include <pthread.h>
#include <stdint.h>

struct lodge_record {
    uint32_t n_bytes; /* of the whole record, this head included; a multiple of 8 */
    uint32_t kind;
};

struct lodge_mailbox {
    pthread_mutex_t _lock;
    pthread_cond_t _filled;
    struct lodge_buf _in;
    bool _woken;
};

/* `cap_bytes` bounds what may wait. 0 or NOMEM. */
int lodge_mailbox_init(struct lodge_mailbox *m, size_t cap_bytes);
void lodge_mailbox_finish(struct lodge_mailbox *m);

/* Copies the record in and wakes the receiver. 0; FULL when the cap is reached; INVALID when
 * n_bytes is not a multiple of 8 or smaller than the head. */
int lodge_mailbox_post(struct lodge_mailbox *m, const struct lodge_record *r);
/* Wakes the receiver without a record. */
void lodge_mailbox_wake(struct lodge_mailbox *m);
/* Swaps the waiting records into `out` (cleared first, then holding 0 or more records). Waits at
 * most `timeout_ns` while nothing is there; 0 does not wait. */
void lodge_mailbox_take(struct lodge_mailbox *m, struct lodge_buf *out, uint64_t timeout_ns);

/* Record at *at in `b`, which is moved behind it; NULL at the end. */
const struct lodge_record *lodge_record_next(const struct lodge_buf *b, size_t *at);

#endif
