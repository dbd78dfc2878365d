#include "server/ledger.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define RETRY_MS 200
#define LAST_TRIES 5 /* at the end, when commits fail: the journal keeps what is left */

struct ledger_job {
    struct ledger_job *next;
    int (*change)(struct store *s, void *arg, struct lodge_error *e);
    void *arg;
    int err;
    struct lodge_error e;
    bool done;
};

struct batch {
    struct ledger_entry *rows;
    struct ledger_job *jobs;
};

/* ---- opening ---- */

struct recovery {
    struct ledger *l;
    uint32_t n_rows, n_refused;
};

static int recover_row(void *cookie, struct ledger_row *r)
{
    struct recovery *rec = cookie;
    struct lodge_error e = {0};
    rec->n_rows++;
    int err = store_put_row(rec->l->store, r, &e);
    if (err != LODGE_ERR_IO)
        return err;
    /* A project that the store does not know: it was restored from an older backup. */
    rec->n_refused++;
    lodge_log_text(rec->l->log, LODGE_LOG_ERROR, "ledger", "%s cannot be charged: %s",
                   r->request_id, e.text);
    return 0;
}

static int recover(struct ledger *l, const char *path, struct lodge_error *e)
{
    uint8_t *bytes = NULL;
    size_t n = 0;
    uint32_t damaged = 0;
    struct recovery rec = {.l = l};
    int err = journal_read(&l->journal, &bytes, &n, e);
    if (!err)
        err = store_begin(l->store, e);
    if (!err) {
        err = journal_recover(bytes, n, recover_row, &rec, &damaged, e);
        if (!err)
            err = store_commit(l->store, e);
        else
            store_rollback(l->store);
    }
    free(bytes);
    if (err)
        lodge_error_prefix(e, "%s", path);
    else if (rec.n_rows || damaged)
        lodge_log_text(l->log, damaged ? LODGE_LOG_ERROR : LODGE_LOG_WARN, "ledger",
                       "the last process was killed: %u requests of it settled, %u damaged",
                       rec.n_rows - rec.n_refused, damaged);
    return err;
}

int ledger_open(struct ledger *l, const char *path, uint32_t n_slots, struct lodge_log *log,
                struct lodge_error *e)
{
    char name[4096];
    *l = (struct ledger){.log = log, .journal.fd = -1};
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->filled, NULL);
    pthread_cond_init(&l->done, NULL);
    l->last = &l->first;
    l->last_job = &l->first_job;
    if ((size_t)snprintf(name, sizeof name, "%s.journal-live", path) >= sizeof name)
        return lodge_fail(e, LODGE_ERR_CONFIG, "--store: the path is too long");
    int err = store_open(path, &l->store, e);
    if (!err)
        err = journal_open(name, &l->journal, e);
    if (!err)
        err = recover(l, name, e);
    return err ? err : journal_reset(&l->journal, n_slots, e);
}

void ledger_close(struct ledger *l)
{
    if (!l->last)
        return;
    journal_close(&l->journal);
    store_close(l->store);
    pthread_mutex_destroy(&l->lock);
    pthread_cond_destroy(&l->filled);
    pthread_cond_destroy(&l->done);
    *l = (struct ledger){0};
}

/* ---- the writer ---- */

/* Each change is a part that may fail alone; a row that cannot be put fails the batch. */
static int put_batch(struct ledger *l, const struct batch *b, struct lodge_error *e)
{
    int err = store_begin(l->store, e);
    if (err)
        return err;
    for (const struct ledger_entry *t = b->rows; t && !err; t = t->next)
        err = store_put_row(l->store, &t->row, e);
    for (struct ledger_job *j = b->jobs; j && !err; j = j->next) {
        err = store_mark(l->store, e);
        if (err)
            break;
        j->err = j->change(l->store, j->arg, &j->e);
        if (j->err)
            store_undo(l->store);
        else
            store_keep(l->store);
    }
    if (!err)
        err = store_commit(l->store, e);
    if (err)
        store_rollback(l->store);
    return err;
}

static void tell_jobs(struct ledger *l, struct ledger_job *jobs, int err,
                      const struct lodge_error *e)
{
    pthread_mutex_lock(&l->lock);
    for (struct ledger_job *next; jobs; jobs = next) {
        next = jobs->next;
        if (err && !jobs->err) {
            jobs->err = err;
            jobs->e = *e;
        }
        jobs->done = true;
    }
    pthread_cond_broadcast(&l->done);
    pthread_mutex_unlock(&l->lock);
}

static void tell_rows(struct ledger *l, struct ledger_entry *rows)
{
    for (struct ledger_entry *next, *t = rows; t; t = next) {
        next = t->next;
        journal_free(&l->journal, t->slot);
        t->slot = NULL;
        atomic_store(&t->committed, true);
        atomic_fetch_add(&l->n_rows, 1);
        ledger_release(t);
    }
    if (rows && l->on_commit)
        l->on_commit(l->cookie);
}

static bool take_batch(struct ledger *l, struct batch *b)
{
    pthread_mutex_lock(&l->lock);
    while (!b->rows && !l->first && !l->first_job && !l->stop)
        pthread_cond_wait(&l->filled, &l->lock);
    /* Rows of a failed batch come again, before the new ones. */
    struct ledger_entry **end = &b->rows;
    while (*end)
        end = &(*end)->next;
    *end = l->first;
    b->jobs = l->first_job;
    l->first = NULL;
    l->last = &l->first;
    l->first_job = NULL;
    l->last_job = &l->first_job;
    bool stop = l->stop;
    pthread_mutex_unlock(&l->lock);
    return b->rows || b->jobs || !stop;
}

static void nap(void)
{
    struct timespec t = {.tv_nsec = RETRY_MS * 1000000L};
    nanosleep(&t, NULL);
}

static bool is_stopping(struct ledger *l)
{
    pthread_mutex_lock(&l->lock);
    bool stop = l->stop;
    pthread_mutex_unlock(&l->lock);
    return stop;
}

static void *writer_main(void *arg)
{
    struct ledger *l = arg;
    struct batch b = {0};
    struct lodge_error e = {0};
    for (int tries = 0; tries < LAST_TRIES && take_batch(l, &b);) {
        int err = put_batch(l, &b, &e);
        tell_jobs(l, b.jobs, err, &e);
        b.jobs = NULL;
        if (!err) {
            tell_rows(l, b.rows);
            b.rows = NULL;
            atomic_fetch_add(&l->n_commits, 1);
            continue;
        }
        atomic_fetch_add(&l->n_failures, 1);
        lodge_log_text(l->log, LODGE_LOG_ERROR, "ledger",
                       "rows cannot be committed, trying again (replies wait): %s", e.text);
        tries += is_stopping(l);
        nap();
    }
    /* What could not be put stays in the journal. */
    for (struct ledger_entry *next; b.rows; b.rows = next) {
        next = b.rows->next;
        ledger_release(b.rows);
    }
    return NULL;
}

int ledger_start(struct ledger *l, struct lodge_error *e)
{
    if (pthread_create(&l->thread, NULL, writer_main, l))
        return lodge_fail(e, LODGE_ERR_RESOURCE, "cannot start the ledger's thread: %s",
                          strerror(errno));
    l->runs = true;
    return 0;
}

void ledger_stop(struct ledger *l)
{
    if (!l->runs)
        return;
    pthread_mutex_lock(&l->lock);
    l->stop = true;
    pthread_cond_signal(&l->filled);
    pthread_mutex_unlock(&l->lock);
    pthread_join(l->thread, NULL);
    l->runs = false;
}

/* ---- entries ---- */

struct ledger_entry *ledger_begin(struct ledger *l, const struct ledger_row *r)
{
    struct ledger_entry *t = calloc(1, sizeof *t);
    if (!t)
        return NULL;
    memcpy(&t->row, r, sizeof *r);
    atomic_store(&t->n_users, 1);
    t->slot = journal_take(&l->journal, &t->row);
    if (t->slot)
        return t;
    free(t);
    return NULL;
}

void ledger_sent(struct ledger_entry *t, uint32_t prompt_tokens, uint32_t output_tokens)
{
    atomic_fetch_add(&t->slot->prompt_sent, prompt_tokens);
    atomic_fetch_add(&t->slot->output_sent, output_tokens);
}

void ledger_post(struct ledger *l, struct ledger_entry *t)
{
    journal_finish(t->slot, &t->row);
    atomic_fetch_add(&t->n_users, 1);
    pthread_mutex_lock(&l->lock);
    t->next = NULL;
    *l->last = t;
    l->last = &t->next;
    pthread_cond_signal(&l->filled);
    pthread_mutex_unlock(&l->lock);
}

void ledger_cancel(struct ledger *l, struct ledger_entry *t)
{
    journal_free(&l->journal, t->slot);
    ledger_release(t);
}

void ledger_release(struct ledger_entry *t)
{
    if (t && atomic_fetch_sub(&t->n_users, 1) == 1)
        free(t);
}

int ledger_change(struct ledger *l,
                  int (*change)(struct store *s, void *arg, struct lodge_error *e), void *arg,
                  struct lodge_error *e)
{
    struct ledger_job j = {.change = change, .arg = arg};
    pthread_mutex_lock(&l->lock);
    *l->last_job = &j;
    l->last_job = &j.next;
    pthread_cond_signal(&l->filled);
    while (!j.done)
        pthread_cond_wait(&l->done, &l->lock);
    pthread_mutex_unlock(&l->lock);
    if (j.err)
        lodge_fail(e, j.err, "%s", j.e.text);
    return j.err;
}
