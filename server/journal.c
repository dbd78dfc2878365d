#include "server/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_FILE_BYTES ((off_t)256 << 20)

struct head {
    char magic[8];
    uint32_t version, slot_bytes, n_slots, _pad;
};

static const struct head expected = {
    .magic = "lodgejnl", .version = 1, .slot_bytes = JOURNAL_SLOT_BYTES};

static uint32_t check_of(const struct ledger_row *r)
{
    return crc32_of(0, r, sizeof *r);
}

/* ---- what a process left ---- */

static bool has_end(const char *text, size_t room)
{
    return memchr(text, 0, room) != NULL;
}

static bool is_sane(const struct ledger_row *r)
{
    return has_end(r->request_id, sizeof r->request_id) && *r->request_id &&
           has_end(r->key_id, sizeof r->key_id) && has_end(r->model, sizeof r->model) &&
           r->finish < N_LEDGER_FINISH && r->project && r->page_seconds >= 0;
}

/* The row that a slot tells of. False when there is none, or it is damaged. */
static bool recover_slot(const struct journal_slot *s, struct ledger_row *out, uint32_t *n_damaged)
{
    uint32_t state = atomic_load(&s->state);
    if (state == JOURNAL_FREE)
        return false;
    bool whole = state == JOURNAL_FINAL && s->final_check == check_of(&s->final);
    *out = whole ? s->final : s->row;
    if (!whole) {
        out->finish = LEDGER_CRASH;
        out->prompt_tokens = atomic_load(&s->prompt_sent);
        out->output_tokens = atomic_load(&s->output_sent);
    }
    bool ok = state <= JOURNAL_FINAL && is_sane(out) && (whole || s->check == check_of(&s->row));
    *n_damaged += !ok;
    return ok;
}

int journal_recover(const uint8_t *bytes, size_t n,
                    int (*found)(void *cookie, struct ledger_row *r), void *cookie,
                    uint32_t *n_damaged, struct lodge_error *e)
{
    struct head h;
    *n_damaged = 0;
    if (!n)
        return 0;
    if (n >= sizeof h)
        memcpy(&h, bytes, sizeof h);
    if (n < sizeof h || memcmp(h.magic, expected.magic, sizeof h.magic) != 0 ||
        h.version != expected.version || h.slot_bytes != expected.slot_bytes)
        return lodge_fail(e, LODGE_ERR_FORMAT,
                          "this is no journal of this version; move it away to start without it "
                          "(requests that ran at a crash are then not charged)");
    int err = 0;
    /* Slot 0 has the head's place. */
    for (size_t at = JOURNAL_SLOT_BYTES; at + JOURNAL_SLOT_BYTES <= n && !err;
         at += JOURNAL_SLOT_BYTES) {
        struct journal_slot slot;
        struct ledger_row row;
        memcpy(&slot, bytes + at, sizeof slot);
        if (recover_slot(&slot, &row, n_damaged))
            err = found(cookie, &row);
    }
    return err;
}

/* ---- the file ---- */

int journal_open(const char *path, struct journal *out, struct lodge_error *e)
{
    *out = (struct journal){.fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600)};
    pthread_mutex_init(&out->lock, NULL);
    if (out->fd < 0)
        return lodge_fail(e, LODGE_ERR_NOT_FOUND, "%s: %s", path, strerror(errno));
    if (flock(out->fd, LOCK_EX | LOCK_NB) == 0)
        return 0;
    return lodge_fail(e, LODGE_ERR_RESOURCE,
                      "%s: another process serves with this store; give each its own", path);
}

int journal_read(const struct journal *j, uint8_t **bytes, size_t *n, struct lodge_error *e)
{
    struct stat st;
    *bytes = NULL;
    *n = 0;
    if (fstat(j->fd, &st))
        return lodge_fail(e, LODGE_ERR_IO, "journal: %s", strerror(errno));
    if (st.st_size > MAX_FILE_BYTES)
        return lodge_fail(e, LODGE_ERR_FORMAT, "journal: the file is too large to be one");
    if (!st.st_size)
        return 0;
    *bytes = malloc((size_t)st.st_size);
    if (!*bytes)
        return lodge_fail(e, LODGE_ERR_NOMEM, "no memory for the journal");
    while (*n < (size_t)st.st_size) {
        ssize_t got = pread(j->fd, *bytes + *n, (size_t)st.st_size - *n, (off_t)*n);
        if (got < 0)
            return lodge_fail(e, LODGE_ERR_IO, "journal: %s", strerror(errno));
        if (!got)
            break;
        *n += (size_t)got;
    }
    return 0;
}

static struct journal_slot *slot_at(const struct journal *j, uint32_t i)
{
    return (struct journal_slot *)(void *)(j->map + (size_t)(i + 1) * JOURNAL_SLOT_BYTES);
}

int journal_reset(struct journal *j, uint32_t n_slots, struct lodge_error *e)
{
    size_t bytes = ((size_t)n_slots + 1) * JOURNAL_SLOT_BYTES;
    struct head h = expected;
    h.n_slots = n_slots;
    /* The blocks are allocated now: a full disk must not be met by writing to the mapping. */
    int rc = ftruncate(j->fd, 0) ? errno : posix_fallocate(j->fd, 0, (off_t)bytes);
    if (rc)
        return lodge_fail(e, LODGE_ERR_IO, "journal: %s", strerror(rc));
    j->map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, j->fd, 0);
    j->vacant = calloc(n_slots, sizeof *j->vacant);
    if (j->map == MAP_FAILED || !j->vacant) {
        j->map = j->map == MAP_FAILED ? NULL : j->map;
        return lodge_fail(e, LODGE_ERR_NOMEM, "no memory for the journal");
    }
    j->map_bytes = bytes;
    j->n_slots = n_slots;
    for (uint32_t i = 0; i < n_slots; i++)
        j->vacant[j->n_vacant++] = n_slots - 1 - i;
    memcpy(j->map, &h, sizeof h);
    return 0;
}

void journal_close(struct journal *j)
{
    if (j->map)
        munmap(j->map, j->map_bytes);
    if (j->fd >= 0)
        close(j->fd);
    free(j->vacant);
    pthread_mutex_destroy(&j->lock);
    *j = (struct journal){.fd = -1};
}

/* ---- slots ---- */

struct journal_slot *journal_take(struct journal *j, const struct ledger_row *r)
{
    pthread_mutex_lock(&j->lock);
    struct journal_slot *s = j->n_vacant ? slot_at(j, j->vacant[--j->n_vacant]) : NULL;
    pthread_mutex_unlock(&j->lock);
    if (!s)
        return NULL;
    memcpy(&s->row, r, sizeof *r);
    s->check = check_of(&s->row);
    atomic_store(&s->prompt_sent, 0);
    atomic_store(&s->output_sent, 0);
    atomic_store(&s->state, JOURNAL_OPEN);
    return s;
}

void journal_finish(struct journal_slot *slot, const struct ledger_row *r)
{
    memcpy(&slot->final, r, sizeof *r);
    slot->final_check = check_of(&slot->final);
    atomic_store(&slot->state, JOURNAL_FINAL);
}

void journal_free(struct journal *j, struct journal_slot *slot)
{
    atomic_store(&slot->state, JOURNAL_FREE);
    pthread_mutex_lock(&j->lock);
    j->vacant[j->n_vacant++] =
        (uint32_t)((size_t)((uint8_t *)slot - j->map) / JOURNAL_SLOT_BYTES) - 1;
    pthread_mutex_unlock(&j->lock);
}
