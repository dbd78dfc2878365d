/* Each run is one increment of `generation`; each barrier one increment of `phase`. Both are
 * futex words too, so a sleeper is woken by the same store that a spinner sees. */
#include "base/workers.h"

#include "base/clock.h"
#include "base/host.h"

#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Rounds of the pause instruction (15 to 45 ns each) before a waiter sleeps: inside a run, where
 * the others are a few microseconds away unless one was preempted, and between runs. */
#define SPIN_ROUNDS 2000u
#define IDLE_ROUNDS 2000u

struct worker {
    struct lodge_workers *pool;
    pthread_t thread;
    unsigned index;
};

struct lodge_workers {
    unsigned n;
    struct worker *worker;
    lodge_worker_fn *fn;
    void *ctx;
    atomic_bool stop;
    _Alignas(64) _Atomic uint32_t generation;
    _Alignas(64) _Atomic uint32_t sleepers;
    _Alignas(64) _Atomic uint32_t phase;
    _Alignas(64) _Atomic uint32_t arrived;
    _Alignas(64) _Atomic uint64_t stalls;
};

static inline void pause_cpu(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Waits until *word is no longer `old` and returns what it is: spins, then sleeps. The sleepers are
 * counted before they look again, and the waker stores before it counts: one of the two sees the
 * other. Inside a run a sleep of over 1 ms is a stall. */
static uint32_t await_change(struct lodge_workers *w, _Atomic uint32_t *word, uint32_t old,
                             unsigned rounds, bool in_run)
{
    uint32_t now;
    for (unsigned round = 0; round < rounds; round++) {
        if ((now = atomic_load_explicit(word, memory_order_acquire)) != old)
            return now;
        pause_cpu();
    }
    uint64_t since = lodge_now_ns();
    atomic_fetch_add(&w->sleepers, 1);
    while ((now = atomic_load(word)) == old)
        syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, old, NULL, NULL, 0);
    atomic_fetch_sub(&w->sleepers, 1);
    if (in_run && lodge_now_ns() - since > 1000000u)
        atomic_fetch_add_explicit(&w->stalls, 1, memory_order_relaxed);
    return now;
}

static void wake(struct lodge_workers *w, _Atomic uint32_t *word)
{
    if (atomic_load(&w->sleepers))
        syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, (int)w->n, NULL, NULL, 0);
}

void lodge_workers_barrier(struct lodge_workers *w)
{
    if (w->n == 1)
        return;
    uint32_t phase = atomic_load_explicit(&w->phase, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&w->arrived, 1, memory_order_acq_rel) + 1 == w->n) {
        atomic_store_explicit(&w->arrived, 0, memory_order_relaxed);
        atomic_store(&w->phase, phase + 1);
        wake(w, &w->phase);
    } else {
        await_change(w, &w->phase, phase, SPIN_ROUNDS, true);
    }
}

static void *worker_main(void *arg)
{
    struct worker *self = arg;
    struct lodge_workers *w = self->pool;
    uint32_t seen = 0;
    for (;;) {
        seen = await_change(w, &w->generation, seen, IDLE_ROUNDS, false);
        if (atomic_load_explicit(&w->stop, memory_order_acquire))
            return NULL;
        w->fn(w->ctx, self->index, w->n);
        lodge_workers_barrier(w);
    }
}

static void start_run(struct lodge_workers *w)
{
    atomic_fetch_add(&w->generation, 1);
    wake(w, &w->generation);
}

void lodge_workers_run(struct lodge_workers *w, lodge_worker_fn *fn, void *ctx)
{
    w->fn = fn;
    w->ctx = ctx;
    if (w->n > 1)
        start_run(w);
    fn(ctx, 0, w->n);
    lodge_workers_barrier(w);
}

static void find_cpus(struct lodge_cpus *c)
{
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof allowed, &allowed))
        CPU_ZERO(&allowed);
    lodge_host_cpus("", &allowed, c);
}

/* One worker per core, if they are to have all of them. Fewer share the machine with others, of
 * which the scheduler knows where there is room. Failure to pin is harmless. */
static void pin_all(struct lodge_workers *w)
{
    struct lodge_cpus c;
    find_cpus(&c);
    for (unsigned i = 1; i < w->n && w->n == c.n_cores; i++) {
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(c.cpu[i], &one);
        pthread_setaffinity_np(w->worker[i].thread, sizeof one, &one);
    }
}

int lodge_workers_create(unsigned n_threads, struct lodge_workers **out, struct lodge_error *e)
{
    struct lodge_workers *w = aligned_alloc(64, sizeof *w);
    struct worker *all = calloc(n_threads, sizeof *all);
    if (!w || !all) {
        free(w);
        free(all);
        return lodge_fail(e, LODGE_ERR_NOMEM, "no memory for %u worker threads", n_threads);
    }
    memset(w, 0, sizeof *w);
    w->worker = all;
    w->n = 1;
    for (unsigned i = 1; i < n_threads; i++) {
        all[i] = (struct worker){.pool = w, .index = i};
        if (pthread_create(&all[i].thread, NULL, worker_main, &all[i])) {
            lodge_workers_destroy(w);
            return lodge_fail(e, LODGE_ERR_RESOURCE, "cannot start worker thread %u of %u", i,
                              n_threads);
        }
        w->n = i + 1;
    }
    pin_all(w);
    *out = w;
    return 0;
}

void lodge_workers_destroy(struct lodge_workers *w)
{
    if (!w)
        return;
    atomic_store(&w->stop, true);
    if (w->n > 1)
        start_run(w);
    for (unsigned i = 1; i < w->n; i++)
        pthread_join(w->worker[i].thread, NULL);
    free(w->worker);
    free(w);
}

unsigned lodge_workers_count(const struct lodge_workers *w)
{
    return w->n;
}

uint64_t lodge_workers_stalls(const struct lodge_workers *w)
{
    return atomic_load_explicit(&((struct lodge_workers *)(uintptr_t)w)->stalls,
                                memory_order_relaxed);
}

unsigned lodge_cpu_count(void)
{
    struct lodge_cpus c;
    find_cpus(&c);
    return c.quota && c.quota < c.n_cores ? c.quota : c.n_cores;
}
