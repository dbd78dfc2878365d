#include "clients/bench/options.h"

#include "clients/http.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define F(field) offsetof(struct bench_options, field)
#define COUNT(array) (sizeof(array) / sizeof *(array))

const char *const bench_time_names[BENCH_N_TIMES] = {"ttft", "tpot", "itl", "e2el"};

static const struct lodge_conf_setting table[] = {
    {"model", LODGE_CONF_STRING, F(side[0].model), .help = "model (default: the server's first)"},
    {"models", LODGE_CONF_LIST, F(model_items),
     .help = "several, drawn per request: a,b,l{0..99},@FILE"},
    {"model-dist", LODGE_CONF_STRING, F(model_dist), "uniform",
     .help = "or round-robin, zipf:S, power:A"},
    {"endpoint", LODGE_CONF_CHOICE, F(endpoint), "completions", "completions|chat",
     .help = "route"},
    {"api-key", LODGE_CONF_STRING, F(side[0].api_key),
     .help = "or $LODGE_API_KEY or $OPENAI_API_KEY", .secret = true},
    {"label", LODGE_CONF_STRING, F(side[0].label), .help = "name of this server in the report"},

    {"concurrency", LODGE_CONF_INT, F(concurrency), NULL, NULL, 0, 100000, NULL,
     "in flight; without a rate: a closed loop (default 8)"},
    {"request-rate", LODGE_CONF_STRING, F(rate_text),
     .help = "open loop, requests/s; inf: all at once"},
    {"burstiness", LODGE_CONF_STRING, F(burstiness_text), "1",
     .help = "gamma shape of the gaps; 1: Poisson, inf: constant"},
    {"cv", LODGE_CONF_DOUBLE, F(cv), NULL, NULL, 0, 31, NULL,
     "the same as deviation / mean of the gaps: 1/sqrt(shape)"},
    {"tenants", LODGE_CONF_STRING, F(tenants_path),
     .help = "file of who sends: NAME KEY [rate=R] [concurrency=C] ..."},
    {"num-prompts", LODGE_CONF_INT, F(n_prompts), NULL, NULL, 0, 1e9, NULL,
     "how many (default 64, or as many as --duration has time for)"},
    {"duration", LODGE_CONF_DOUBLE, F(duration_s), NULL, NULL, 0, 1e6, "s",
     "send no request after this"},
    {"warmup", LODGE_CONF_INT, F(n_warmup), "4", NULL, 0, 1e6, NULL,
     "requests not measured, first"},
    {"timeout", LODGE_CONF_DOUBLE, F(timeout_s), "600", NULL, 0, 1e6, "s",
     "longest request; 0: no limit"},

    {"random-input-len", LODGE_CONF_INT, F(n_input), "256", NULL, 1, 1 << 24, "tokens",
     "random prompt"},
    {"random-output-len", LODGE_CONF_INT, F(n_output), "64", NULL, 1, 1 << 24, "tokens",
     "reply (max_tokens)"},
    {"range-ratio", LODGE_CONF_DOUBLE, F(range_ratio), NULL, NULL, 0, 1, NULL,
     "lengths vary by this part up and down"},
    {"prefix-len", LODGE_CONF_INT, F(prefix_len), NULL, NULL, 0, 1 << 24, "tokens",
     "prefix shared by all, before the rest"},
    {"prompt-kind", LODGE_CONF_CHOICE, F(prompt_kind), "auto", "auto|ids|text",
     .help = "token ids if the server takes them"},
    {"vocab-size", LODGE_CONF_INT, F(vocab_size), "30000", NULL, 2, INT32_MAX, NULL,
     "random ids stay below this"},
    {"prompts", LODGE_CONF_STRING, F(prompts),
     .help = "JSON lines {prompt|messages, max_tokens} instead"},
    {"ignore-eos", LODGE_CONF_BOOL, F(ignore_eos), "true",
     .help = "replies of full length; --no-ignore-eos: real ends"},
    {"temperature", LODGE_CONF_DOUBLE, F(temperature), "0", NULL, 0, 2, NULL, "of the sampling"},
    {"extra-body", LODGE_CONF_STRING, F(extra_body),
     .help = "JSON object, merged into each request"},
    {"stream", LODGE_CONF_BOOL, F(stream), "true", .help = "--no-stream: whole replies, E2EL only"},
    {"seed", LODGE_CONF_INT, F(seed), "0", NULL, 0, 0, NULL, "of prompts, models and arrivals"},

    {"against", LODGE_CONF_STRING, F(side[1].url), .help = "URL of a second server: A B A B ..."},
    {"repeats", LODGE_CONF_INT, F(n_repeats), "5", NULL, 1, 1000, NULL, "rounds of both"},
    {"model2", LODGE_CONF_STRING, F(side[1].model), .help = "its model"},
    {"api-key2", LODGE_CONF_STRING, F(side[1].api_key), .help = "its key", .secret = true},
    {"label2", LODGE_CONF_STRING, F(side[1].label), .help = "its name in the report"},
    {"focus", LODGE_CONF_STRING, F(focus_name),
     .help = "the tenant whose TTFT is compared as well"},

    {"goodput", LODGE_CONF_LIST, F(goodput_items),
     .help = "bounds in ms: ttft:200 tpot:50 e2el:9000"},
    {"percentile-metrics", LODGE_CONF_LIST, F(metric_items),
     .help = "of ttft,tpot,itl,e2el (default all)"},
    {"metric-percentiles", LODGE_CONF_LIST, F(percentile_items), .help = "(default 50,90,95,99)"},
    {"per-model", LODGE_CONF_BOOL, F(per_model), "false",
     .help = "the busiest 20 models in the JSON"},
    {"check", LODGE_CONF_BOOL, F(check), "false",
     .help = "repeat some requests alone: the replies must be the same"},
    {"json", LODGE_CONF_BOOL, F(json), "false", .help = "print JSON (vLLM's keys), not a table"},
    {"save-result", LODGE_CONF_STRING, F(save_result), .help = "write the JSON to this file"},
    {"save-detailed", LODGE_CONF_BOOL, F(save_detailed), "false",
     .help = "with the figures of each request"},
    {"progress", LODGE_CONF_BOOL, F(progress), "true", .help = "a bar, when stderr is a terminal"},
};

/* For --help: the first setting of each group. */
static const struct {
    const char *first, *title;
} groups[] = {
    {"model", "Server"},       {"concurrency", "Load"}, {"random-input-len", "Requests"},
    {"against", "Comparison"}, {"goodput", "Report"},
};

/* vLLM's names for some of them. */
static const char *const aliases[][2] = {
    {"max-concurrency", "concurrency"},
    {"num-warmups", "warmup"},
    {"random-range-ratio", "range-ratio"},
    {"random-prefix-len", "prefix-len"},
};

void bench_options_help(const struct bench_options *o)
{
    printf("usage: lodgectl bench URL [flags]\n\n"
           "Measures an OpenAI server: throughput, time to first token (TTFT), per output token\n"
           "after it (TPOT), between chunks (ITL), and of whole requests (E2EL). Times count from\n"
           "when a request was due, so a client that lags does not flatter the server.\n\n"
           "  lodgectl bench http://127.0.0.1:8000 --concurrency 32\n"
           "  lodgectl bench http://127.0.0.1:8000 --request-rate 4 --goodput ttft:200 tpot:50\n"
           "  lodgectl bench http://127.0.0.1:8000 --against http://127.0.0.1:8080\n");
    for (size_t g = 0; g < COUNT(groups); g++) {
        size_t from = 0, to;
        while (strcmp(table[from].name, groups[g].first) != 0)
            from++;
        for (to = from; to < COUNT(table); to++)
            if (g + 1 < COUNT(groups) && strcmp(table[to].name, groups[g + 1].first) == 0)
                break;
        struct lodge_conf part = o->conf;
        part.settings = table + from;
        part.n_settings = (uint32_t)(to - from);
        printf("\n%s\n", groups[g].title);
        lodge_conf_help(&part, stdout);
    }
    printf(
        "\nvLLM's --max-concurrency, --num-warmups, --random-range-ratio and\n"
        "--random-prefix-len mean the same. Of n models, power:A draws number floor(n U^(1/A))\n"
        "and zipf:S number r in proportion to 1/(r+1)^S. A line of the file of --tenants is\n"
        "NAME KEY with any of rate=R (requests/s), concurrency=C (without a rate: its own closed\n"
        "loop), models=LIST, input=N, output=N (tokens) behind it.\n"
        "Exit code: 1 when every request failed or --check found a difference, 130 after Ctrl-C\n"
        "(the table then covers what was finished).\n");
}

/* ---- lists ---- */

/* Calls `each` for every part of the items, which may also be joined by commas. */
static int for_parts(struct bench_options *o, const struct lodge_conf_list *list,
                     int (*each)(struct bench_options *, char *, struct lodge_error *),
                     struct lodge_error *e)
{
    int err = 0;
    for (uint32_t i = 0; i < list->n && !err; i++) {
        char *copy = lodge_arena_strndup(&o->conf.arena, list->items[i], strlen(list->items[i]));
        if (!copy)
            return lodge_fail(e, LODGE_ERR_NOMEM, "no memory for the flags");
        for (char *part; !err && (part = strsep(&copy, ","));)
            if (*part)
                err = each(o, part, e);
    }
    return err;
}

static int add_models(struct bench_options *o, char *part, struct lodge_error *e)
{
    return bench_names_add(&o->models, &o->conf.arena, part, "--models", e);
}

static int time_index(const char *name)
{
    for (int i = 0; i < BENCH_N_TIMES; i++)
        if (strcmp(name, bench_time_names[i]) == 0)
            return i;
    return -1;
}

static int add_goodput(struct bench_options *o, char *part, struct lodge_error *e)
{
    char *value = strchr(part, ':'), *end = NULL;
    double ms = 0;
    if (value) {
        *value++ = 0;
        ms = strtod(value, &end);
    }
    int which = time_index(part);
    if (!value || end == value || *end || !(ms > 0) || which < 0 || which == BENCH_ITL)
        return lodge_fail(e, LODGE_ERR_CONFIG,
                          "--goodput: '%s%s%s' is not NAME:MS with NAME one of ttft, tpot, e2el",
                          part, value ? ":" : "", value ? value : "");
    o->goodput_ms[which] = ms;
    o->goodput = true;
    return 0;
}

static int add_metric(struct bench_options *o, char *part, struct lodge_error *e)
{
    int which = time_index(part);
    if (which < 0)
        return lodge_fail(e, LODGE_ERR_CONFIG,
                          "--percentile-metrics: '%s' is none of ttft, tpot, itl, e2el", part);
    o->show[which] = true;
    return 0;
}

static int add_percentile(struct bench_options *o, char *part, struct lodge_error *e)
{
    char *end;
    double p = strtod(part, &end);
    if (end == part || *end || !(p >= 0 && p <= 100))
        return lodge_fail(e, LODGE_ERR_CONFIG, "--metric-percentiles: '%s' is not 0 to 100", part);
    if (o->n_percentiles == BENCH_MAX_PERCENTILES)
        return lodge_fail(e, LODGE_ERR_CONFIG, "--metric-percentiles: more than %d",
                          BENCH_MAX_PERCENTILES);
    o->percentiles[o->n_percentiles++] = p;
    return 0;
}

/* ---- single flags ---- */

static int read_spread(struct bench_options *o, struct lodge_error *e)
{
    static const char *const names[] = {"uniform", "round-robin", "zipf:", "power:"};
    for (int i = 0; i < (int)COUNT(names); i++) {
        size_t n = strlen(names[i]);
        char *end = NULL;
        if (strncmp(o->model_dist, names[i], n) != 0)
            continue;
        o->spread = (enum bench_spread)i;
        if (names[i][n - 1] == ':') {
            o->spread_parameter = strtod(o->model_dist + n, &end);
            if (end == o->model_dist + n || *end || !(o->spread_parameter > 0) ||
                !isfinite(o->spread_parameter))
                break;
        } else if (o->model_dist[n]) {
            break;
        }
        return 0;
    }
    return lodge_fail(e, LODGE_ERR_CONFIG,
                      "--model-dist: '%s' is none of uniform, round-robin, zipf:S (1/rank^S), "
                      "power:A (floor(n U^(1/A))), with S, A > 0",
                      o->model_dist);
}

static int read_load(struct bench_options *o, struct lodge_error *e)
{
    char *end = NULL;
    o->burstiness = strtod(o->burstiness_text, &end);
    if (end == o->burstiness_text || *end || !(o->burstiness >= 1e-3))
        return lodge_fail(e, LODGE_ERR_CONFIG,
                          "--burstiness: '%s' is not a number from 0.001 or inf",
                          o->burstiness_text);
    if (lodge_conf_given(&o->conf, "cv")) {
        if (lodge_conf_given(&o->conf, "burstiness"))
            return lodge_fail(e, LODGE_ERR_CONFIG,
                              "--cv and --burstiness say the same thing; give one of them");
        o->burstiness = 1 / (o->cv * o->cv);
    }
    if (o->rate_text) {
        o->rate = strtod(o->rate_text, &end);
        if (end == o->rate_text || *end || !(o->rate > 0))
            return lodge_fail(e, LODGE_ERR_CONFIG,
                              "--request-rate: '%s' is not a number above 0 or inf", o->rate_text);
        if (isinf(o->rate) && !o->n_prompts && o->duration_s > 0)
            return lodge_fail(e, LODGE_ERR_CONFIG,
                              "--request-rate inf needs --num-prompts beside --duration");
    } else if (!o->concurrency) {
        o->concurrency = BENCH_CLIENTS;
    }
    return 0;
}

/* Arrivals of open tenants end with their share of the requests or with the time; closed loops
 * among them only know when to end by the time. */
static int check_ends(const struct bench_options *o, struct lodge_error *e)
{
    const struct bench_tenants *t = &o->tenants;
    uint32_t n_open = 0, n_endless = 0;
    for (uint32_t i = 0; i < t->n; i++) {
        n_open += t->v[i].rate > 0;
        n_endless += isinf(t->v[i].rate);
    }
    if (n_open && n_open < t->n && o->duration_s <= 0)
        return lodge_fail(e, LODGE_ERR_CONFIG,
                          "%s has tenants with a rate and closed loops: that needs --duration",
                          t->path);
    if (n_endless && n_endless < t->n)
        return lodge_fail(e, LODGE_ERR_CONFIG,
                          "--request-rate inf goes with no rate= or concurrency= in %s", t->path);
    return 0;
}

static int read_tenants(struct bench_options *o, struct lodge_error *e)
{
    bool given = lodge_conf_given(&o->conf, "concurrency");
    struct bench_shares shares = {o->rate, given ? o->concurrency : 0};
    int err = o->tenants_path
                  ? bench_tenants_read(&o->tenants, &o->conf.arena, o->tenants_path, &shares, e)
                  : bench_tenants_single(&o->tenants, &o->conf.arena, &shares, e);
    o->focus = err || !o->focus_name ? -1 : bench_tenants_find(&o->tenants, o->focus_name);
    if (!err && o->focus_name && o->focus < 0)
        err =
            lodge_fail(e, LODGE_ERR_CONFIG, "--focus: no tenant '%s' in --tenants", o->focus_name);
    if (!err && o->tenants_path && lodge_conf_given(&o->conf, "api-key"))
        err = lodge_fail(e, LODGE_ERR_CONFIG, "--api-key: with --tenants each one has its own");
    return err ? err : check_ends(o, e);
}

static int read_sides(struct bench_options *o, struct lodge_error *e)
{
    if (o->conf.n_args != 1)
        return lodge_fail(e, LODGE_ERR_CONFIG,
                          o->conf.n_args
                              ? "one URL, not %u; a second server goes to --against"
                              : "the URL is missing: lodgectl bench http://HOST:PORT [flags]",
                          o->conf.n_args);
    o->side[0].url = o->conf.args[0];
    o->side[0].api_key = http_api_key(o->side[0].api_key);
    if (!o->side[1].url && lodge_conf_given(&o->conf, "repeats"))
        return lodge_fail(e, LODGE_ERR_CONFIG, "--repeats is for --against");
    return 0;
}

/* ---- all of it ---- */

/* argv with vLLM's names replaced; pieces live in the arena. */
static char **translate(struct bench_options *o, int argc, char *const *argv)
{
    char **out = lodge_arena_array(&o->conf.arena, (size_t)argc + 1, sizeof *out);
    for (int i = 0; out && i < argc; i++) {
        out[i] = argv[i];
        for (size_t k = 0; k < COUNT(aliases); k++) {
            size_t n = strlen(aliases[k][0]);
            char text[512];
            if (strncmp(argv[i], "--", 2) != 0 || strncmp(argv[i] + 2, aliases[k][0], n) != 0 ||
                (argv[i][2 + n] && argv[i][2 + n] != '='))
                continue;
            snprintf(text, sizeof text, "--%s%s", aliases[k][1], argv[i] + 2 + n);
            out[i] = lodge_arena_strndup(&o->conf.arena, text, strlen(text));
            if (!out[i])
                return NULL;
        }
    }
    return out;
}

static int work_out(struct bench_options *o, struct lodge_error *e)
{
    static const double usual[] = {50, 90, 95, 99};
    o->chat = strcmp(o->endpoint, "chat") == 0;
    int err = read_sides(o, e);
    if (!err)
        err = read_load(o, e);
    if (!err)
        err = read_tenants(o, e);
    if (!err)
        err = read_spread(o, e);
    if (!err)
        err = for_parts(o, &o->model_items, add_models, e);
    if (!err)
        err = for_parts(o, &o->goodput_items, add_goodput, e);
    if (!err)
        err = for_parts(o, &o->metric_items, add_metric, e);
    if (!err)
        err = for_parts(o, &o->percentile_items, add_percentile, e);
    for (size_t i = 0; i < COUNT(usual) && !o->percentile_items.n; i++)
        o->percentiles[o->n_percentiles++] = usual[i];
    for (int i = 0; i < BENCH_N_TIMES && !o->metric_items.n; i++)
        o->show[i] = true;
    if (!err && o->chat && strcmp(o->prompt_kind, "ids") == 0)
        err = lodge_fail(e, LODGE_ERR_CONFIG, "--prompt-kind ids: chat takes text only");
    if (!err && o->check && o->temperature > 0)
        err = lodge_fail(e, LODGE_ERR_CONFIG,
                         "--check: only greedy replies repeat, so --temperature must be 0");
    return err;
}

int bench_options_read(int argc, char *const *argv, struct bench_options *o, struct lodge_error *e)
{
    *o = (struct bench_options){0};
    int err = lodge_conf_init(&o->conf, table, COUNT(table), o, e);
    if (err)
        return err;
    char **args = translate(o, argc, argv);
    if (!args)
        return lodge_fail(e, LODGE_ERR_NOMEM, "no memory for the flags");
    err = lodge_conf_flags(&o->conf, argc, args, e);
    return err || o->conf.help ? err : work_out(o, e);
}

void bench_options_finish(struct bench_options *o)
{
    lodge_conf_finish(&o->conf);
}
