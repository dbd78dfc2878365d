/* The journal of live requests: a mapped file beside the store that outlives the process.
 *
 * Each admitted request has a slot. While it streams, the slot counts the tokens that were handed
 * to its client; at its end the whole ledger row is put there, and the slot is freed once that row
 * is committed. What a killed process leaves is therefore a row to be put (again: the store takes
 * each request id once), or a count of what was sent, which becomes the row. A reply that is not
 * streamed sends nothing before its row is committed, so a crash charges nothing for it.
 *
 * The kernel keeps the pages of a killed process; after a power loss a slot may be torn, and then
 * its check fails and it is left out.
 * Threads: journal_take and journal_free lock (a leaf); a slot belongs to the request's owner
 * between. Opening locks the file, so one process serves a store at a time.
 */
#ifndef LODGE_SERVER_JOURNAL_H
#define LODGE_SERVER_JOURNAL_H

#include "server/store.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>

enum journal_state { JOURNAL_FREE, JOURNAL_OPEN, JOURNAL_FINAL };

struct journal_slot {
    _Atomic uint32_t state;
    uint32_t check, final_check;               /* CRC-32 of the rows */
    _Atomic uint32_t prompt_sent, output_sent; /* tokens, while open */
    struct ledger_row row;                     /* as it was opened */
    struct ledger_row final;                   /* complete */
};

#define JOURNAL_SLOT_BYTES 1024u
_Static_assert(sizeof(struct journal_slot) <= JOURNAL_SLOT_BYTES, "a slot fits its place");

struct journal {
    int fd;
    uint8_t *map;
    size_t map_bytes;
    uint32_t n_slots;
    pthread_mutex_t lock; /* guards what follows */
    uint32_t *vacant;     /* stack of free slots */
    uint32_t n_vacant;
};

/* Calls `found` for every request that the bytes of a journal tell of, in the order of slots; its
 * error ends the walk. Bytes may be anything: damaged slots are counted in *n_damaged and left
 * out. FORMAT when this is no journal. An empty one has no slots. */
int journal_recover(const uint8_t *bytes, size_t n,
                    int (*found)(void *cookie, struct ledger_row *r), void *cookie,
                    uint32_t *n_damaged, struct lodge_error *e);

/* Opens or makes the file and locks it. RESOURCE when another process has it. */
int journal_open(const char *path, struct journal *out, struct lodge_error *e);
/* The bytes that the last process left; the caller frees *bytes. */
int journal_read(const struct journal *j, uint8_t **bytes, size_t *n, struct lodge_error *e);
/* Empties the file (what it told of is committed) and maps n_slots fresh ones. */
int journal_reset(struct journal *j, uint32_t n_slots, struct lodge_error *e);
void journal_close(struct journal *j);

/* A slot that holds the row's beginning; NULL when all are taken. */
struct journal_slot *journal_take(struct journal *j, const struct ledger_row *r);
/* The row is complete, and will be put. */
void journal_finish(struct journal_slot *slot, const struct ledger_row *r);
void journal_free(struct journal *j, struct journal_slot *slot);

#endif
