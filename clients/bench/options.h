/* The flags of `lodgectl bench`. */
#ifndef LODGE_CLIENTS_BENCH_OPTIONS_H
#define LODGE_CLIENTS_BENCH_OPTIONS_H

#include "base/conf.h"
#include "clients/bench/tenants.h"

#include <stdbool.h>
#include <stdint.h>

#define BENCH_MAX_PERCENTILES 16

/* The four times of a request, in this order everywhere. */
enum bench_time { BENCH_TTFT, BENCH_TPOT, BENCH_ITL, BENCH_E2EL, BENCH_N_TIMES };
/* "ttft" and so on, as in vLLM's keys. */
extern const char *const bench_time_names[BENCH_N_TIMES];

/* How requests spread over the models. */
enum bench_spread { BENCH_UNIFORM, BENCH_ROUND_ROBIN, BENCH_ZIPF, BENCH_POWER };

/* One server. */
struct bench_side {
    const char *url, *model, *api_key, *label; /* all but url may be NULL */
};

struct bench_options {
    /* as given */
    struct bench_side side[2]; /* the second has a url only with --against */
    const char *endpoint, *prompts, *extra_body, *save_result, *rate_text, *prompt_kind;
    const char *burstiness_text, *model_dist, *tenants_path, *focus_name;
    struct lodge_conf_list model_items, goodput_items, percentile_items, metric_items;
    int64_t concurrency, n_prompts, n_warmup, n_input, n_output, prefix_len, vocab_size, seed;
    int64_t n_repeats;
    double duration_s, range_ratio, temperature, timeout_s, cv;
    bool ignore_eos, stream, json, save_detailed, progress, per_model, check;

    /* worked out of it; NULL or empty where not given */
    bool chat;
    double rate;       /* requests/s; 0 in a closed loop */
    double burstiness; /* INFINITY: constant gaps */
    struct bench_names models;
    struct bench_tenants tenants;
    int64_t focus; /* a tenant; -1: none */
    enum bench_spread spread;
    double spread_parameter;
    double goodput_ms[BENCH_N_TIMES]; /* 0: no bound */
    bool goodput;
    double percentiles[BENCH_MAX_PERCENTILES];
    uint32_t n_percentiles;
    bool show[BENCH_N_TIMES]; /* in table and JSON */

    struct lodge_conf conf; /* owns the strings */
};

/* argv without program and verb. CONFIG with the flag and what is allowed. With conf.help set
 * nothing was checked. Call bench_options_finish in any case. */
int bench_options_read(int argc, char *const *argv, struct bench_options *o, struct lodge_error *e);
void bench_options_finish(struct bench_options *o);
void bench_options_help(const struct bench_options *o);

#endif
