/* Replies under load against the same requests alone: a greedy reply must not depend on what else
 * the server does. Thread safety: none, one owner. */
#ifndef LODGE_CLIENTS_BENCH_CHECK_H
#define LODGE_CLIENTS_BENCH_CHECK_H

#include "clients/bench/run.h"

#include <stdio.h>

#define BENCH_CHECK_EVERY 20
#define BENCH_CHECK_MOST 50

/* A request and its reply; `text` is as JSON has it, escapes included. */
struct bench_reply {
    uint32_t round, tenant, model;
    uint64_t index;
    int64_t n_output; /* tokens */
    char *text;
};

/* Start from a zeroed one with `every` set. */
struct bench_check {
    uint64_t every; /* of the requests of a run, the first and each `every`-th after it */
    struct bench_reply v[BENCH_CHECK_MOST];
    uint32_t n;
    /* after bench_check_repeat */
    uint32_t n_same, n_different, n_failed; /* failed: no second reply */
    char example[400];                      /* of a difference; "" without */
};

void bench_check_finish(struct bench_check *c);
/* Is the reply to the n-th request of a run (from 0) wanted? */
bool bench_check_wants(const struct bench_check *c, uint64_t n);
/* Keeps a completed reply while there is room. 0 or NOMEM. */
int bench_check_add(struct bench_check *c, uint32_t round, const struct bench_record *record,
                    const char *text, size_t n);
/* Sends all of them again, one at a time, and compares text and token count. Stops at Ctrl-C.
 * Errors as bench_runner_run. */
int bench_check_repeat(struct bench_check *c, struct bench_runner *r, const struct bench_target *t,
                       struct lodge_error *e);
/* Nothing was different, and something was compared. */
bool bench_check_passed(const struct bench_check *c);

void bench_check_print(FILE *out, const struct bench_check *c);
/* New reference, NULL without memory. */
json_t *bench_check_json(const struct bench_check *c);

#endif
