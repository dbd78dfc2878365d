/* Who sends the load: tenants with keys, arrivals, models and lengths of their own. Without
 * --tenants there is one, which has no name.
 *
 * Thread safety: immutable once read. Everything lives in the arena of the options. */
#ifndef LODGE_CLIENTS_BENCH_TENANTS_H
#define LODGE_CLIENTS_BENCH_TENANTS_H

#include "clients/bench/names.h"

#include <stdint.h>

#define BENCH_MAX_TENANTS 1024u
#define BENCH_CLIENTS 8 /* of a closed loop, when nothing is said */

struct bench_tenant {
    const char *name, *api_key; /* NULL without --tenants */
    double rate;                /* requests/s; INFINITY: all at once; 0: closed loop */
    int64_t concurrency;        /* most of it in flight; 0: no bound, in open loops only */
    uint32_t first_own, n_own;  /* models of its own, in bench_tenants.models; none: the shared */
    int64_t n_input, n_output;  /* tokens; 0: as the flags say */
};

struct bench_tenants {
    struct bench_tenant *v; /* at least one */
    uint32_t n;
    struct bench_names models; /* the own ones of all tenants */
    const char *path;          /* of the file; NULL: one tenant without a name */
};

/* What the flags give to tenants that say nothing. */
struct bench_shares {
    double rate;         /* --request-rate, in even parts to those that name neither rate nor
                          * concurrency; 0: they are closed loops */
    int64_t concurrency; /* --concurrency, in even parts (at least 1); 0: not given */
};

/* The one tenant that the flags describe. NOMEM. */
int bench_tenants_single(struct bench_tenants *out, struct lodge_arena *arena,
                         const struct bench_shares *shares, struct lodge_error *e);
/* Lines of `NAME KEY [rate=R] [concurrency=C] [models=LIST] [input=N] [output=N]`; # begins a
 * comment. Texts name file and line, never a key. CONFIG, NOMEM, or as lodge_file_read. */
int bench_tenants_read(struct bench_tenants *out, struct lodge_arena *arena, const char *path,
                       const struct bench_shares *shares, struct lodge_error *e);
/* Index of the tenant of this name, or -1. */
int64_t bench_tenants_find(const struct bench_tenants *t, const char *name);

#endif
