/* What a run saw: a record for each request, and the figures made of them.
 * Thread safety: none, one owner. */
#ifndef LODGE_CLIENTS_BENCH_RESULT_H
#define LODGE_CLIENTS_BENCH_RESULT_H

#include "clients/bench/options.h"
#include "clients/bench/stats.h"

#define BENCH_MAX_ERROR_KINDS 16

/* Times in ns of the monotonic clock. */
struct bench_record {
    uint64_t due_ns;   /* when the load wanted it sent: all times count from here */
    uint64_t sent_ns;  /* when it was */
    uint64_t first_ns; /* first chunk with text; 0: none, or not streamed */
    uint64_t last_ns;  /* last chunk of the reply */
    int64_t n_input, n_output, n_cached; /* tokens, of the server's usage */
    uint64_t index;                      /* of the tenant's requests in this round */
    uint32_t tenant;                     /* index into the options' */
    uint32_t model;                      /* index into the target's */
    bool limited;                        /* failed by HTTP 429 */
    size_t itl_at, n_itl;                /* its gaps, in bench_result.itl_ms */
    int error;                           /* index into bench_result.errors, -1: completed */
};

struct bench_error_kind {
    char kind[64];     /* "HTTP 429" */
    char example[256]; /* what the server or libcurl said the first time */
    uint64_t n;
};

/* A zeroed one is empty. */
struct bench_result {
    struct bench_record *records; /* in order of completion */
    size_t n, _room;
    struct bench_samples itl_ms;     /* gaps between chunks with text */
    struct bench_samples per_second; /* chunks with text, by second of the run */
    struct bench_error_kind errors[BENCH_MAX_ERROR_KINDS]; /* the last one takes all further */
    uint32_t n_errors;
    uint64_t begin_ns, end_ns; /* end: of the last reply */
    uint64_t n_cancelled;      /* in flight at Ctrl-C */
    uint64_t n_without_usage;  /* completed; output tokens are then counted by chunks */
    uint32_t peak_running;
    double cpu_s; /* of this client */
    bool interrupted;
    char gave_up[160]; /* why the run ended early, "" if it did not */
};

void bench_result_finish(struct bench_result *r);
/* Appends a record, with the gaps of its chunks. 0 or NOMEM. */
int bench_result_add(struct bench_result *r, const struct bench_record *record,
                     const struct bench_samples *itl_ms);
/* Counts an error; returns its index for the record. */
int bench_result_error(struct bench_result *r, const char *kind, const char *example);

/* Adds the errors and notes of `from`, but no records. */
void bench_result_add_notes(struct bench_result *r, const struct bench_result *from);

/* One figure. */
struct bench_metric {
    char key[40]; /* vLLM's name */
    double value; /* NAN: not measured */
    bool integer;
};

struct bench_metrics {
    struct bench_metric m[32 + BENCH_N_TIMES * (3 + BENCH_MAX_PERCENTILES)];
    uint32_t n;
};

/* Whose records count; -1: everyone's. */
struct bench_filter {
    int64_t tenant, model;
};

/* All figures; those of the whole run (client, peaks, fairness over tenants, --focus) only with
 * `only` = NULL. 0 or NOMEM. */
int bench_metrics_make(const struct bench_options *o, const struct bench_result *r,
                       const struct bench_filter *only, struct bench_metrics *out);
/* NAN when there is no such key. */
double bench_metrics_get(const struct bench_metrics *m, const char *key);

#endif
