/* The weights cache of a CPU: the file's blocks are read into the region of packed weights by
 * threads of their own, and each is checked; when all are there, steps may begin. After damage all
 * is packed from the tensors, as without a cache. At the end the file is written if it is not
 * there. */
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
    atomic_bool faulty;
    struct lodge_error fault; /* the first; whoever set `faulty` writes it */
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

/* ---- reading ---- */

/* Takes blocks until none is left; after a fault, or when stopped, none is left for anybody. */
static void read_blocks(void *ctx, unsigned worker, unsigned n_workers)
{
    struct lodge_cpu_feed *f = ctx;
    struct lodge_error e;
    (void)worker;
    (void)n_workers;
    for (size_t i; (i = atomic_fetch_add(&f->next, 1)) < f->file.n_blocks;) {
        int err = lodge_weights_file_read(&f->file, i, f->d->weights, &f->stop, &e);
        if (!err)
            continue;
        atomic_store(&f->next, f->file.n_blocks);
        if (err != LODGE_ERR_AGAIN && !atomic_exchange(&f->faulty, true))
            f->fault = e;
        return;
    }
}

/* That all codes are numbers was checked before the file was written, for the same model. */
static void pack_share(void *ctx, unsigned worker, unsigned n_workers)
{
    const struct lodge_cpu_feed *f = ctx;
    const struct lodge_plan *p = f->d->plan;
    for (uint32_t i = 0; i < p->n_linears && !atomic_load(&f->stop); i++)
        if (lodge_plan_twin(p, i) == LODGE_NONE)
            lodge_cpu_pack_linear(f->d, i, worker, n_workers);
}

static void feed_all(struct lodge_cpu_feed *f)
{
    lodge_workers_run(f->readers, read_blocks, f);
    if (atomic_load(&f->faulty)) {
        lodge_weights_file_remove(&f->cache, &f->file);
        say(f, true, "%s: %s; it is deleted, and the weights are packed from the model",
            f->cache.name, f->fault.text);
        lodge_workers_run(f->readers, pack_share, f);
    }
    lodge_workers_destroy(f->readers);
    f->readers = NULL;
    lodge_weights_file_close(&f->file);
    if (!atomic_load(&f->stop))
        lodge_cpu_set_ready(f->d, &f->cache);
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
    bool from_file = f->readers != NULL;
    if (from_file)
        feed_all(f);
    if ((from_file && !atomic_load(&f->faulty)) || atomic_load(&f->stop))
        return NULL;
    be_nice();
    write_file(f);
    return NULL;
}

/* ---- from the loading thread ---- */

static int prepare_reading(struct lodge_cpu_feed *f, struct lodge_error *e)
{
    unsigned n = lodge_workers_count(f->d->workers);
    n = n < MIN_READERS ? MIN_READERS : n > MAX_READERS ? MAX_READERS : n;
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
    free(f);
    d->feed = NULL;
}
