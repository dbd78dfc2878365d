/* The load itself: one thread, libcurl's socket interface over epoll, thousands of streams.
 *
 * A runner keeps its connections and buffers from run to run, so that warm-up warms the client
 * too. Thread safety: none, one owner.
 */
#ifndef LODGE_CLIENTS_BENCH_RUN_H
#define LODGE_CLIENTS_BENCH_RUN_H

#include "clients/bench/load.h"
#include "clients/bench/result.h"
#include "clients/bench/workload.h"

struct bench_runner;

/* Called a few times a second and once at the end. n_planned is 0 when unknown. */
typedef void bench_progress_fn(void *cookie, const struct bench_result *r, uint64_t n_planned,
                               uint32_t n_running, double elapsed_s);

/* The target and the workload must outlive the runner. NOMEM or RESOURCE. */
int bench_runner_open(const struct bench_target *t, const struct bench_workload *w,
                      const volatile sig_atomic_t *interrupted, struct bench_runner **out,
                      struct lodge_error *e);
void bench_runner_close(struct bench_runner *r);
/* Sends the load and waits for the replies, or until *interrupted: then what is in flight is cut
 * and counted as cancelled. Failed requests are not errors of the run. *out must be empty; the
 * caller ends it by bench_result_finish in any case. NOMEM or IO. */
int bench_runner_run(struct bench_runner *r, const struct bench_load *load,
                     bench_progress_fn *progress, void *cookie, struct bench_result *out,
                     struct lodge_error *e);

#endif
