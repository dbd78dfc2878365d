/* A run by tenant and by model. */
#ifndef LODGE_CLIENTS_BENCH_GROUPS_H
#define LODGE_CLIENTS_BENCH_GROUPS_H

#include "clients/bench/result.h"
#include "clients/bench/target.h"

#include <stdio.h>

#define BENCH_MODELS_SAVED 20 /* the busiest, in the JSON */

/* With --tenants: a line each, or of many those served most and least, and how even it was. 0 or
 * NOMEM. */
int bench_print_tenants(FILE *out, const struct bench_target *t, const struct bench_result *r,
                        const struct bench_metrics *m);
/* Of more than one model: the busiest, a line each. 0 or NOMEM. */
int bench_print_models(FILE *out, const struct bench_target *t, const struct bench_result *r);
/* Adds `tenants` with --tenants and `models` with --per-model to `o`. */
void bench_groups_json(json_t *o, const struct bench_target *t, const struct bench_result *r);

#endif
