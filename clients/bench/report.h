/* A run as a table for people and as JSON for programs. */
#ifndef LODGE_CLIENTS_BENCH_REPORT_H
#define LODGE_CLIENTS_BENCH_REPORT_H

#include "clients/bench/result.h"
#include "clients/bench/target.h"

#include <stdio.h>

/* What is being measured, in two or three lines. */
void bench_print_setting(FILE *out, const struct bench_target *t);
void bench_print_table(FILE *out, const struct bench_options *o, const struct bench_metrics *m);
/* What went wrong, and what the reader must know of the figures; nothing if nothing. */
void bench_print_notes(FILE *out, const struct bench_result *r);

/* A space and the number, with fewer digits the larger it is; "-" for NAN. */
void bench_print_cell(FILE *out, int width, double value);

/* A number, null for NAN and infinities. */
json_t *bench_number_json(double x);
/* The settings of the run, with vLLM's keys. New reference, NULL without memory; all three. */
json_t *bench_setting_json(const struct bench_target *t);
/* The figures alone. */
json_t *bench_metrics_json(const struct bench_metrics *m);
/* Settings, figures, errors, models, and with --save-detailed each request. */
json_t *bench_result_json(const struct bench_target *t, const struct bench_result *r,
                          const struct bench_metrics *m);

#endif
