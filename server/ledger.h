/* The ledger's writer: one thread that owns the store while the server runs.
 *
 * Rows and changes that wait are put in one transaction (group commit); after its commit the rows'
 * slots in the journal are freed, the waiting replies are told, and the changes' callers return.
 * When a commit fails (a full disk) rows stay and are tried again: their replies wait, and new
 * requests are refused once the journal has no slot left.
 *
 * Life of an entry: ledger_open, then ledger_post with the complete row, then ledger_release; the
 * writer holds a reference of its own from post to commit.
 */
#ifndef LODGE_SERVER_LEDGER_H
#define LODGE_SERVER_LEDGER_H

#include "base/log.h"
#include "server/journal.h"

struct ledger_entry {
    struct ledger_entry *next; /* in the writer's queue */
    struct journal_slot *slot;
    struct ledger_row row;
    atomic_bool committed;
    atomic_int n_users;
};

struct ledger_job;

struct ledger {
    struct store *store;
    struct journal journal;
    struct lodge_log *log;
    void (*on_commit)(void *cookie); /* from the writer, without a lock */
    void *cookie;
    pthread_t thread;
    bool runs;
    _Atomic uint64_t n_commits, n_rows, n_failures;

    pthread_mutex_t lock; /* a leaf; guards what follows */
    pthread_cond_t filled, done;
    struct ledger_entry *first, **last;
    struct ledger_job *first_job, **last_job;
    bool stop;
};

/* Opens the store and its journal, and settles what a killed process left. Errors of store_open
 * and journal_open. The log may be NULL. */
int ledger_open(struct ledger *l, const char *path, uint32_t n_slots, struct lodge_log *log,
                struct lodge_error *e);
/* The store is read before; from here on it is the writer's. */
int ledger_start(struct ledger *l, struct lodge_error *e);
/* Puts what waits, and ends the thread. */
void ledger_stop(struct ledger *l);
void ledger_close(struct ledger *l);

/* An entry for an admitted request; NULL when the journal is full, or without memory. */
struct ledger_entry *ledger_begin(struct ledger *l, const struct ledger_row *r);
/* Tokens that are about to be sent; before the bytes are. */
void ledger_sent(struct ledger_entry *t, uint32_t prompt_tokens, uint32_t output_tokens);
/* The row is complete: hands it to the writer. */
void ledger_post(struct ledger *l, struct ledger_entry *t);
/* The request was never submitted. */
void ledger_cancel(struct ledger *l, struct ledger_entry *t);
void ledger_release(struct ledger_entry *t);

/* Runs `change` in the writer's thread, inside its transaction, and waits for the commit. The
 * change's error, or the commit's: then nothing of it is in the store. */
int ledger_change(struct ledger *l,
                  int (*change)(struct store *s, void *arg, struct lodge_error *e), void *arg,
                  struct lodge_error *e);

#endif
