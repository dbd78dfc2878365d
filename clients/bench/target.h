/* A server under test: where it is, which model, and what prompts it takes. */
#ifndef LODGE_CLIENTS_BENCH_TARGET_H
#define LODGE_CLIENTS_BENCH_TARGET_H

#include "clients/bench/options.h"
#include "clients/http.h"

struct bench_target {
    const struct bench_options *options;
    const char *label;   /* as given, else the base URL */
    char base[1024];     /* http://host:port */
    char url[1100];      /* of the route */
    const char *path;    /* of the route */
    const char *api_key; /* of requests that no tenant's key goes with */
    bool one_key;        /* no tenant's key goes with any */
    const char **models; /* at least one: first those for all, then the tenants' own */
    uint32_t n_models, n_shared;
    bool takes_ids; /* prompts are token ids */

    const char **_models;
    json_t *_listing; /* owns the name found there */
};

struct bench_workload;

/* Asks for the models if none is named, then sends one request of the workload, as ids and else
 * as text: the server is there, knows the model, and takes what will be sent. Of further tenants
 * the keys are tried. Errors carry the server's own words and what to change. Options and their
 * strings must outlive the target. End it by bench_target_close in any case. */
int bench_target_open(const struct bench_options *options, const struct bench_workload *w, int side,
                      const volatile sig_atomic_t *interrupted, struct bench_target *t,
                      struct lodge_error *e);
/* The key that requests of a tenant carry; NULL: none. */
const char *bench_target_key(const struct bench_target *t, uint32_t tenant);
void bench_target_close(struct bench_target *t);

#endif
