/* Prometheus text: vLLM's names where they apply, and our own for what vLLM has not. */
#include "base/clock.h"
#include "server/server.h"

#include <stdio.h>
#include <string.h>

static const double ttft[] = {.001, .005, .01, .02, .04, .06, .08, .1, .25, .5,  .75,
                              1,    2.5,  5,   7.5, 10,  20,  40,  80, 160, 640, 2560};
static const double itl[] = {.001, .0025, .005, .01, .025, .05, .075, .1, .15, .2, .3,
                             .4,   .5,    .75,  1,   2.5,  5,   7.5,  10, 20,  40, 80};
static const double whole[] = {.05, .1, .3, .5, .8, 1,  1.5, 2,   2.5, 5,   10,
                               15,  20, 30, 40, 50, 60, 120, 240, 480, 960, 1920};
static const double tokens[] = {1,    2,    5,    10,    20,    50,    100,    200,   500,
                                1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000};
static const double choices[] = {1, 2, 5, 10, 20};
static const double steps[] = {1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384};

#define N(a) (sizeof(a) / sizeof *(a))

void metrics_init(struct metrics *m)
{
    static const struct {
        const char *name, *help;
        const double *bounds;
        uint32_t n;
    } all[LODGE_HISTOGRAMS] = {
        [H_TTFT] = {"vllm:time_to_first_token_seconds", "from the request to its first token", ttft,
                    N(ttft)},
        [H_ITL] = {"vllm:inter_token_latency_seconds", "between tokens of a request", itl, N(itl)},
        [H_TPOT] = {"vllm:request_time_per_output_token_seconds",
                    "mean time per output token after the first", itl, N(itl)},
        [H_E2E] = {"vllm:e2e_request_latency_seconds", "from arrival to the last token", whole,
                   N(whole)},
        [H_QUEUE] = {"vllm:request_queue_time_seconds", "waiting for admission", whole, N(whole)},
        [H_PREFILL] = {"vllm:request_prefill_time_seconds", "from admission to the first token",
                       whole, N(whole)},
        [H_DECODE] = {"vllm:request_decode_time_seconds", "from the first to the last token", whole,
                      N(whole)},
        [H_INFERENCE] = {"vllm:request_inference_time_seconds", "from admission to the last token",
                         whole, N(whole)},
        [H_PROMPT] = {"vllm:request_prompt_tokens", "prompt tokens of a request", tokens,
                      N(tokens)},
        [H_OUTPUT] = {"vllm:request_generation_tokens", "output tokens of a request", tokens,
                      N(tokens)},
        [H_MAX_OUTPUT] = {"vllm:request_max_num_generation_tokens",
                          "output tokens of a request's longest choice", tokens, N(tokens)},
        [H_N] = {"vllm:request_params_n", "n as asked", choices, N(choices)},
        [H_MAX_TOKENS] = {"vllm:request_params_max_tokens", "max_tokens as asked", tokens,
                          N(tokens)},
    };
    memset(m, 0, sizeof *m);
    pthread_mutex_init(&m->lock, NULL);
    for (uint32_t i = 0; i < LODGE_HISTOGRAMS; i++)
        m->h[i] = (struct histogram){.name = all[i].name,
                                     .help = all[i].help,
                                     .bounds = all[i].bounds,
                                     .n_bounds = all[i].n};
}

static void observe(struct histogram *h, double v)
{
    uint32_t b = 0;
    while (b < h->n_bounds && v > h->bounds[b])
        b++;
    h->counts[b]++;
    h->sum += v;
    h->n++;
}

void metrics_observe(struct metrics *m, unsigned which, double v)
{
    pthread_mutex_lock(&m->lock);
    observe(&m->h[which], v);
    pthread_mutex_unlock(&m->lock);
}

void metrics_finish(struct metrics *m, const struct lodge_event *end, uint32_t max_output,
                    uint32_t max_tokens, uint32_t n)
{
    if (end->finish > LODGE_FINISH_LENGTH)
        return;
    double queued = (double)end->queued_ns * 1e-9, prefill = (double)end->prefill_ns * 1e-9,
           decode = (double)end->decode_ns * 1e-9;
    pthread_mutex_lock(&m->lock);
    observe(&m->h[H_E2E], queued + prefill + decode);
    observe(&m->h[H_QUEUE], queued);
    observe(&m->h[H_PREFILL], prefill);
    observe(&m->h[H_DECODE], decode);
    observe(&m->h[H_INFERENCE], prefill + decode);
    observe(&m->h[H_PROMPT], end->prompt_tokens);
    observe(&m->h[H_OUTPUT], end->output_tokens);
    observe(&m->h[H_MAX_OUTPUT], max_output);
    observe(&m->h[H_N], n);
    if (max_tokens < INT32_MAX)
        observe(&m->h[H_MAX_TOKENS], max_tokens);
    pthread_mutex_unlock(&m->lock);
}

void metrics_response(struct metrics *m, int status)
{
    pthread_mutex_lock(&m->lock);
    m->responses[status > 0 && status < 600 ? status : 0]++;
    pthread_mutex_unlock(&m->lock);
}

/* ---- writing ---- */

struct writer {
    struct lodge_buf *out;
    const char *label; /* model_name and engine */
    bool open;         /* OpenMetrics: counters are announced without _total */
};

static void put_head(struct writer *w, const char *name, const char *type, const char *help)
{
    size_t n = strlen(name);
    if (w->open && strcmp(type, "counter") == 0 && n > 6 && strcmp(name + n - 6, "_total") == 0)
        n -= 6;
    lodge_buf_printf(w->out, "# HELP %.*s %s\n# TYPE %.*s %s\n", (int)n, name, help, (int)n, name,
                     type);
}

/* Label values: backslash, quote and newline are escaped. */
static void put_label(struct lodge_buf *out, const char *text)
{
    for (const char *p = text; *p; p++) {
        if (*p == '"' || *p == '\\')
            lodge_buf_append(out, "\\", 1);
        lodge_buf_append(out, *p == '\n' ? "\\n" : p, *p == '\n' ? 2 : 1);
    }
}

static void put_histogram(struct writer *w, const struct histogram *h)
{
    put_head(w, h->name, "histogram", h->help);
    uint64_t sum = 0;
    for (uint32_t i = 0; i < h->n_bounds; i++) {
        sum += h->counts[i];
        lodge_buf_printf(w->out, "%s_bucket{%s,le=\"%.9g\"} %llu\n", h->name, w->label,
                         h->bounds[i], (unsigned long long)sum);
    }
    lodge_buf_printf(w->out, "%s_bucket{%s,le=\"+Inf\"} %llu\n%s_sum{%s} %.9g\n%s_count{%s} %llu\n",
                     h->name, w->label, (unsigned long long)h->n, h->name, w->label, h->sum,
                     h->name, w->label, (unsigned long long)h->n);
}

struct line {
    const char *name, *type, *help;
    double value;
};

static void put_lines(struct writer *w, const struct line *lines, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        put_head(w, lines[i].name, lines[i].type, lines[i].help);
        lodge_buf_printf(w->out, "%s{%s} %.15g\n", lines[i].name, w->label, lines[i].value);
    }
}

struct part {
    const char *name;
    uint64_t value;
};

/* One family whose series differ in one label. `label` (may be NULL) stands before it. */
static void put_parts(struct writer *w, const char *name, const char *type, const char *help,
                      bool labelled, const char *key, const struct part *parts, size_t n)
{
    put_head(w, name, type, help);
    for (size_t i = 0; i < n; i++)
        lodge_buf_printf(w->out, "%s{%s%s%s=\"%s\"} %llu\n", name, labelled ? w->label : "",
                         labelled ? "," : "", key, parts[i].name,
                         (unsigned long long)parts[i].value);
}

static void put_engine(struct writer *w, const struct lodge_engine_stats *st)
{
    double used =
        st->pages_total ? 1 - (double)(st->pages_free + st->pages_cached) / st->pages_total : 0;
    const struct line lines[] = {
        {"vllm:num_requests_running", "gauge", "requests in the batch", st->n_running},
        {"vllm:num_requests_waiting", "gauge", "requests in the queue", st->n_waiting},
        {"vllm:kv_cache_usage_perc", "gauge", "used share of the pool, 0 to 1", used},
        {"vllm:prompt_tokens_total", "counter", "prompt tokens", (double)st->prompt_tokens},
        {"vllm:prompt_tokens_cached_total", "counter", "prompt tokens found in the prefix cache",
         (double)st->cached_prompt_tokens},
        {"vllm:generation_tokens_total", "counter", "output tokens", (double)st->output_tokens},
        {"vllm:num_preemptions_total", "counter", "sequences put back to make room",
         (double)st->n_preemptions},
        {"vllm:prefix_cache_queries_total", "counter", "tokens looked up in the prefix cache",
         (double)st->prefix_queries},
        {"vllm:prefix_cache_hits_total", "counter", "tokens found in the prefix cache",
         (double)st->prefix_hits},
        {"lodge_prefix_evicted_pages_total", "counter", "cached pages that made room",
         (double)st->prefix_evicted},
        {"vllm:spec_decode_num_drafts_total", "counter", "drafts of guessed tokens",
         (double)st->n_drafts},
        {"vllm:spec_decode_num_draft_tokens_total", "counter", "guessed tokens that were checked",
         (double)st->drafted_tokens},
        {"vllm:spec_decode_num_accepted_tokens_total", "counter", "guessed tokens that were right",
         (double)st->accepted_tokens},
        {"lodge_steps_total", "counter", "steps of the engine", (double)st->n_steps},
        {"lodge_step_seconds_total", "counter", "time in steps", (double)st->step_ns * 1e-9},
    };
    put_lines(w, lines, N(lines));
    uint32_t deferred = st->n_deferred < st->n_waiting ? st->n_deferred : st->n_waiting;
    const struct part waiting[] = {{"capacity", st->n_waiting - deferred}, {"deferred", deferred}};
    put_parts(w, "vllm:num_requests_waiting_by_reason", "gauge", "requests in the queue", true,
              "reason", waiting, 2);
    const struct part source[] = {
        {"local_compute", st->prompt_tokens - st->cached_prompt_tokens},
        {"local_cache_hit", st->cached_prompt_tokens},
    };
    put_parts(w, "vllm:prompt_tokens_by_source_total", "counter", "prompt tokens", true, "source",
              source, 2);
    const struct part finished[] = {{"stop", st->finished[LODGE_FINISH_STOP]},
                                    {"length", st->finished[LODGE_FINISH_LENGTH]},
                                    {"abort", st->finished[LODGE_FINISH_ABORT]},
                                    {"error", st->finished[LODGE_FINISH_ERROR]}};
    put_parts(w, "vllm:request_success_total", "counter", "requests that ended", true,
              "finished_reason", finished, 4);
}

static void put_pool(struct writer *w, const struct lodge_engine_stats *st,
                     const struct lodge_engine_info *info)
{
    const struct part pages[] = {{"free", st->pages_free},
                                 {"kv", st->pages_kv},
                                 {"adapter", st->pages_adapter},
                                 {"cached", st->pages_cached}};
    put_parts(w, "lodge_pool_pages", "gauge", "pages of the pool by state", false, "state", pages,
              4);
    put_head(w, "lodge_pool_bytes", "gauge", "size of the pool");
    lodge_buf_printf(w->out, "lodge_pool_bytes %llu\n",
                     (unsigned long long)info->memory.pool_bytes);
    put_head(w, "vllm:cache_config_info", "gauge", "how the pool is cut");
    lodge_buf_printf(
        w->out,
        "vllm:cache_config_info{%s,block_size=\"%u\",num_gpu_blocks=\"%u\",cache_dtype="
        "\"%s\"} 1\n",
        w->label, info->page_tokens, info->n_pages, info->memory.kv_dtype);
}

/* Names of tenants and adapters, where the operator lets them be seen. */
static bool shows_names(const struct server *s)
{
    return s->cfg->has_metrics_names ? s->cfg->metrics_names : s->loopback;
}

static void put_adapters(struct server *s, struct writer *w, const struct lodge_engine_stats *st)
{
    const struct part adapters[] = {{"known", st->adapters_known},
                                    {"host", st->adapters_host},
                                    {"resident", st->adapters_resident}};
    put_parts(w, "lodge_adapters", "gauge", "adapter versions by where they are", false, "state",
              adapters, 3);
    const struct part bytes[] = {{"host", st->adapter_host_bytes},
                                 {"resident", st->adapter_resident_bytes}};
    put_parts(w, "lodge_adapter_bytes", "gauge", "bytes of adapters by where they are", false,
              "state", bytes, 2);
    const struct line lines[] = {
        {"lodge_adapter_loads_total", "counter", "adapters read from the disk",
         (double)st->adapter_loads},
        {"lodge_adapter_load_seconds_total", "counter", "time spent on that",
         st->adapter_load_seconds},
        {"lodge_adapter_host_hits_total", "counter", "uploads that found the image in memory",
         (double)st->adapter_host_hits},
        {"lodge_adapter_uploads_total", "counter", "adapters copied into the pool",
         (double)st->adapter_uploads},
        {"lodge_adapter_evictions_total", "counter", "adapters evicted from the pool",
         (double)st->adapter_evictions},
        {"lodge_adapter_rank_bytes", "gauge", "bytes of adapters that the last step read",
         (double)st->adapter_rank_bytes},
    };
    put_lines(w, lines, N(lines));
    if (!shows_names(s))
        return;
    /* Only the newest series of this family counts: one it is. */
    char names[16384];
    adapters_resident_names(s, names, sizeof names);
    put_head(w, "vllm:lora_requests_info", "gauge", "resident adapters; the value is the time");
    lodge_buf_printf(w->out, "vllm:lora_requests_info{%s,max_lora=\"%u\",running_lora_adapters=\"",
                     w->label, st->pages_total);
    put_label(w->out, names);
    lodge_buf_printf(w->out, "\",waiting_lora_adapters=\"\"} %.3f\n", lodge_unix_time());
}

/* What the queue did. */
static void put_queue(struct writer *w, const struct lodge_engine_stats *st)
{
    char names[LODGE_ENGINE_TIERS][4];
    struct part tiers[LODGE_ENGINE_TIERS];
    for (uint32_t i = 0; i < LODGE_ENGINE_TIERS; i++) {
        snprintf(names[i], sizeof names[i], "%u", i);
        tiers[i] = (struct part){names[i], st->admitted_in_tier[i]};
    }
    put_parts(w, "lodge_admitted_total", "counter", "sequences that began to run, by tier", false,
              "tier", tiers, LODGE_ENGINE_TIERS);
    const struct line lines[] = {
        {"lodge_aborted_early_total", "counter",
         "requests refused because they could not have begun in time", (double)st->n_aborted_early},
        {"lodge_queue_tenants", "gauge", "tenants that the queue knows", st->n_tenants},
    };
    put_lines(w, lines, N(lines));
}

static void put_steps(struct writer *w, const struct lodge_engine_stats *st)
{
    struct histogram h = {.name = "vllm:iteration_tokens_total",
                          .help = "tokens of a step",
                          .bounds = steps,
                          .n_bounds = N(steps),
                          .sum = (double)st->step_tokens_sum,
                          .n = st->n_steps};
    memcpy(h.counts, st->step_tokens_bucket, N(steps) * sizeof *h.counts);
    put_histogram(w, &h);
}

/* What does not need the engine. */
static void put_http(struct server *s, struct writer *w)
{
    struct metrics *m = &s->metrics;
    put_head(w, "lodge_http_calls", "gauge", "HTTP requests in progress");
    lodge_buf_printf(w->out, "lodge_http_calls %u\n", atomic_load(&s->n_calls));
    put_head(w, "lodge_http_responses_total", "counter", "HTTP responses by status");
    pthread_mutex_lock(&m->lock);
    for (int i = 0; i < 600; i++)
        if (m->responses[i])
            lodge_buf_printf(w->out, "lodge_http_responses_total{code=\"%d\"} %llu\n", i,
                             (unsigned long long)m->responses[i]);
    pthread_mutex_unlock(&m->lock);
}

static void label_text(const struct server *s, struct lodge_buf *out)
{
    lodge_buf_puts(out, "model_name=\"");
    put_label(out, s->names[0]);
    lodge_buf_puts(out, "\",engine=\"0\"");
}

void metrics_text(struct server *s, struct lodge_buf *out, bool open_metrics)
{
    struct lodge_engine *en = atomic_load(&s->engine);
    struct lodge_buf label;
    struct writer w = {.out = out, .open = open_metrics};
    lodge_buf_init(&label, 65536);
    if (en) {
        struct lodge_engine_stats st;
        lodge_engine_get_stats(en, &st);
        label_text(s, &label);
        w.label = lodge_buf_text(&label);
        put_engine(&w, &st);
        put_pool(&w, &st, &s->info);
        put_queue(&w, &st);
        put_adapters(s, &w, &st);
        put_steps(&w, &st);
        pthread_mutex_lock(&s->metrics.lock);
        for (uint32_t i = 0; i < LODGE_HISTOGRAMS; i++)
            put_histogram(&w, &s->metrics.h[i]);
        pthread_mutex_unlock(&s->metrics.lock);
    }
    put_http(s, &w);
    if (shows_names(s))
        tenants_metrics(&s->tenants, out, open_metrics);
    if (open_metrics)
        lodge_buf_puts(out, "# EOF\n");
    lodge_buf_finish(&label);
}
