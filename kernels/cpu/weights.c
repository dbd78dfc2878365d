/* The weights cache of a CPU: blocks of the file are read into the region of packed weights by
 * threads of their own, each checked; what steps may read is the prefix of the region that is
 * whole. After damage the prefix grows linear by linear, packed from the tensors as without a
 * cache. At the end the file is written if it is not there. */
#include "kernels/cpu/device.h"

#include <linux/ioprio.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Enough for the queue of a disk, and for checksums at memory speed. */
#define MIN_READERS 4u
#define MAX_READERS 8u

struct lodge_cpu_feed {
    struct lodge_device *d;
    struct lodge_weights_cache cache;
    struct lodge_weights_key key;
    pthread_t thread;
    bool thread_runs;
    atomic_bool stop;

    /* Of reading. */
    struct lodge_weights_file file;
    struct lodge_workers *readers; /* NULL: all is packed */
    _Atomic size_t next;           /* block */
    pthread_mutex_t lock;          /* a leaf; for all below, and ready_bytes changes under it */
    pthread_cond_t grown;          /* ready_bytes */
    bool *here;                    /* per block */
    size_t n_here;                 /* blocks from the first on */
    struct lodge_error fault;      /* the first; code 0: none */
};

static void say(const struct lodge_cpu_feed *f, bool warning, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static void say(const struct lodge_cpu_feed *f, bool warning, const char *fmt, ...)
{
    struct lodge_error text;
    va_list args;
    va_start(args, fmt);
    lodge_vfail(&text, LODGE_ERR_IO, fmt, args);
    va_end(args);
    f->cache.say(f->cache.cookie, warning, text.text);
}

/* ---- what is ready ---- */

void lodge_cpu_feed_wait(struct lodge_device *d, size_t n_bytes)
{
    struct lodge_cpu_feed *f = d->feed;
    atomic_store(&d->waited, true);
    pthread_mutex_lock(&f->lock);
    while (atomic_load(&d->ready_bytes) < n_bytes)
        pthread_cond_wait(&f->grown, &f->lock);
    pthread_mutex_unlock(&f->lock);
}

/* Under the lock. */
static void grow(struct lodge_cpu_feed *f, size_t n_bytes)
{
    atomic_store_explicit(&f->d->ready_bytes, n_bytes, memory_order_release);
    pthread_cond_broadcast(&f->grown);
}

static void put_block(struct lodge_cpu_feed *f, size_t i)
{
    pthread_mutex_lock(&f->lock);
    f->here[i] = true;
    while (f->n_here < f->file.n_blocks && f->here[f->n_here])
        f->n_here++;
    size_t n = f->n_here * LODGE_WEIGHTS_BLOCK;
    grow(f, n < f->file.n_bytes ? n : f->file.n_bytes);
    pthread_mutex_unlock(&f->lock);
}

static bool put_fault(struct lodge_cpu_feed *f, const struct lodge_error *e)
{
    pthread_mutex_lock(&f->lock);
    if (!f->fault.code)
        f->fault = *e;
    pthread_mutex_unlock(&f->lock);
    return false;
}

/* ---- reading ---- */

static bool read_block(struct lodge_cpu_feed *f, size_t i)
{
    struct lodge_error e;
    if (lodge_weights_file_read(&f->file, i, f->d->weights, &e))
        return put_fault(f, &e);
    put_block(f, i);
    return true;
}

/* Ends at the first fault: nothing is read into what is packed then. */
static void read_blocks(void *ctx, unsigned worker, unsigned n_workers)
{
    struct lodge_cpu_feed *f = ctx;
    (void)worker;
    (void)n_workers;
    for (;;) {
        size_t i = atomic_fetch_add(&f->next, 1);
        if (i >= f->file.n_blocks || atomic_load(&f->stop))
            return;
        if (!read_block(f, i)) {
            atomic_store(&f->next, f->file.n_blocks);
            return;
        }
    }
}

struct pack_job {
    const struct lodge_device *d;
    uint32_t linear;
};

/* That all codes are numbers was checked before the file was written, for the same model. */
static void pack_share(void *ctx, unsigned worker, unsigned n_workers)
{
    const struct pack_job *j = ctx;
    lodge_cpu_pack_linear(j->d, j->linear, worker, n_workers);
}

/* A linear that reaches over the end of the prefix is packed whole: no step has seen it. */
static void pack_rest(struct lodge_cpu_feed *f)
{
    struct lodge_device *d = f->d;
    for (uint32_t i = 0; i < d->plan->n_linears && !atomic_load(&f->stop); i++) {
        size_t end = d->linears[i].end;
        if (end <= atomic_load(&d->ready_bytes))
            continue;
        struct pack_job j = {d, i};
        lodge_workers_run(f->readers, pack_share, &j);
        pthread_mutex_lock(&f->lock);
        grow(f, end);
        pthread_mutex_unlock(&f->lock);
    }
}

/* Whether the file was sound. */
static bool feed_all(struct lodge_cpu_feed *f)
{
    lodge_workers_run(f->readers, read_blocks, f);
    bool sound = !f->fault.code;
    if (!sound) {
        lodge_weights_file_remove(&f->cache, &f->file);
        say(f, true, "%s: %s; it is deleted, and the rest of the weights is packed from the model",
            f->cache.name, f->fault.text);
        pack_rest(f);
    }
    lodge_workers_destroy(f->readers);
    f->readers = NULL;
    lodge_weights_file_close(&f->file);
    return sound;
}

/* ---- writing ---- */

/* Steps and other programs first, of cores and disks; but a busy server's file is written too, so
 * the idle class of the scheduler would be too little. That neither may be allowed is no harm. */
static void be_nice(void)
{
    setpriority(PRIO_PROCESS, 0, 19); /* Linux: of this thread alone */
    syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_PRIO_VALUE(IOPRIO_CLASS_IDLE, 7));
}

static void write_file(struct lodge_cpu_feed *f)
{
    struct lodge_error e;
    int err = lodge_weights_file_write(&f->cache, &f->key, f->d->weights, &f->stop, &e);
    if (!err)
        say(f, false, "%s: written, the next start reads it", f->cache.name);
    else if (err != LODGE_ERR_AGAIN)
        say(f, true, "%s; the next start packs the weights again", e.text);
}

static void *feed_main(void *ctx)
{
    struct lodge_cpu_feed *f = ctx;
    if (f->readers && feed_all(f))
        return NULL;
    be_nice();
    if (!atomic_load(&f->stop))
        write_file(f);
    return NULL;
}

/* ---- from the loading thread ---- */

static int prepare_reading(struct lodge_cpu_feed *f, struct lodge_error *e)
{
    unsigned n = lodge_workers_count(f->d->workers);
    n = n < MIN_READERS ? MIN_READERS : n > MAX_READERS ? MAX_READERS : n;
    f->here = calloc(f->file.n_blocks, sizeof *f->here);
    if (!f->here)
        return lodge_fail(e, LODGE_ERR_NOMEM, "no memory for the weights cache");
    return lodge_workers_create(n, &f->readers, e);
}

int lodge_cpu_feed_start(struct lodge_device *d, const struct lodge_weights_cache *cache,
                         const struct lodge_weights_key *key, struct lodge_weights_file *pending,
                         struct lodge_error *e)
{
    struct lodge_cpu_feed *f = calloc(1, sizeof *f);
    if (!f) {
        if (pending)
            lodge_weights_file_close(pending);
        return lodge_fail(e, LODGE_ERR_NOMEM, "no memory for the weights cache");
    }
    f->d = d;
    f->cache = *cache;
    f->key = *key;
    f->file = pending ? *pending : (struct lodge_weights_file){.fd = -1};
    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->grown, NULL);
    d->feed = f;
    int err = pending ? prepare_reading(f, e) : 0;
    if (!err && pthread_create(&f->thread, NULL, feed_main, f))
        err = lodge_fail(e, LODGE_ERR_RESOURCE, "cannot start the thread of the weights cache");
    f->thread_runs = !err;
    if (err && !pending) {
        say(f, true, "%s: not written: %s", cache->name, e ? e->text : lodge_error_text(err));
        err = 0;
    }
    return err;
}

void lodge_cpu_feed_stop(struct lodge_device *d)
{
    struct lodge_cpu_feed *f = d->feed;
    if (!f)
        return;
    atomic_store(&f->stop, true);
    if (f->thread_runs)
        pthread_join(f->thread, NULL);
    lodge_workers_destroy(f->readers);
    lodge_weights_file_close(&f->file);
    pthread_mutex_destroy(&f->lock);
    pthread_cond_destroy(&f->grown);
    free(f->here);
    free(f);
    d->feed = NULL;
}
