/* Prometheus text: vLLM's names where they apply, and our own for the pool. */
#include "server/server.h"

#include <string.h>

static const double ttft[] = {.001, .005, .01, .02, .04, .06, .08, .1, .25, .5,  .75,
                              1,    2.5,  5,   7.5, 10,  20,  40,  80, 160, 640, 2560};
static const double itl[] = {.001, .0025, .005, .01, .025, .05, .075, .1, .15, .2, .3,
                             .4,   .5,    .75,  1,   2.5,  5,   7.5,  10, 20,  40, 80};
static const double whole[] = {.05, .1, .3, .5, .8, 1,  1.5, 2,   2.5, 5,   10,
                               15,  20, 30, 40, 50, 60, 120, 240, 480, 960, 1920};
static const double tokens[] = {1,    2,    5,    10,    20,    50,    100,    200,   500,
                                1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000};

#define N(a) (sizeof(a) / sizeof *(a))

void metrics_init(struct metrics *m)
{
    static const struct {
        const char *name;
        const double *bounds;
        uint32_t n;
    } all[LODGE_HISTOGRAMS] = {
        [H_TTFT] = {"vllm:time_to_first_token_seconds", ttft, N(ttft)},
        [H_ITL] = {"vllm:inter_token_latency_seconds", itl, N(itl)},
        [H_TPOT] = {"vllm:request_time_per_output_token_seconds", itl, N(itl)},
        [H_E2E] = {"vllm:e2e_request_latency_seconds", whole, N(whole)},
        [H_QUEUE] = {"vllm:request_queue_time_seconds", whole, N(whole)},
        [H_PREFILL] = {"vllm:request_prefill_time_seconds", whole, N(whole)},
        [H_DECODE] = {"vllm:request_decode_time_seconds", whole, N(whole)},
        [H_PROMPT] = {"vllm:request_prompt_tokens", tokens, N(tokens)},
        [H_OUTPUT] = {"vllm:request_generation_tokens", tokens, N(tokens)},
    };
    memset(m, 0, sizeof *m);
    pthread_mutex_init(&m->lock, NULL);
    for (uint32_t i = 0; i < LODGE_HISTOGRAMS; i++)
        m->h[i] =
            (struct histogram){.name = all[i].name, .bounds = all[i].bounds, .n_bounds = all[i].n};
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

void metrics_finish(struct metrics *m, const struct lodge_event *end, const uint32_t *finish,
                    uint32_t n)
{
    (void)finish;
    (void)n;
    if (end->finish > LODGE_FINISH_LENGTH)
        return;
    pthread_mutex_lock(&m->lock);
    observe(&m->h[H_E2E], (double)(end->queued_ns + end->prefill_ns + end->decode_ns) * 1e-9);
    observe(&m->h[H_QUEUE], (double)end->queued_ns * 1e-9);
    observe(&m->h[H_PREFILL], (double)end->prefill_ns * 1e-9);
    observe(&m->h[H_DECODE], (double)end->decode_ns * 1e-9);
    observe(&m->h[H_PROMPT], end->prompt_tokens);
    observe(&m->h[H_OUTPUT], end->output_tokens);
    pthread_mutex_unlock(&m->lock);
}

static void put_histogram(struct lodge_buf *out, const struct histogram *h, const char *label)
{
    lodge_buf_printf(out, "# HELP %s %s\n# TYPE %s histogram\n", h->name, h->name, h->name);
    uint64_t sum = 0;
    for (uint32_t i = 0; i < h->n_bounds; i++) {
        sum += h->counts[i];
        lodge_buf_printf(out, "%s_bucket{%s,le=\"%g\"} %llu\n", h->name, label, h->bounds[i],
                         (unsigned long long)sum);
    }
    lodge_buf_printf(out, "%s_bucket{%s,le=\"+Inf\"} %llu\n%s_sum{%s} %.9g\n%s_count{%s} %llu\n",
                     h->name, label, (unsigned long long)h->n, h->name, label, h->sum, h->name,
                     label, (unsigned long long)h->n);
}

struct line {
    const char *name, *type;
    double value;
};

static void put_lines(struct lodge_buf *out, const struct line *lines, size_t n, const char *label)
{
    for (size_t i = 0; i < n; i++)
        lodge_buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n%s{%s} %.15g\n", lines[i].name,
                         lines[i].name, lines[i].name, lines[i].type, lines[i].name, label,
                         lines[i].value);
}

static void put_finished(struct lodge_buf *out, const struct lodge_engine_stats *st,
                         const char *label)
{
    static const char *const reasons[] = {"stop", "length", "abort", "error"};
    static const char name[] = "vllm:request_success_total";
    lodge_buf_printf(out, "# HELP %s finished requests\n# TYPE %s counter\n", name, name);
    for (int i = 0; i < 4; i++)
        lodge_buf_printf(out, "%s{%s,finished_reason=\"%s\"} %llu\n", name, label, reasons[i],
                         (unsigned long long)st->finished[i]);
}

static void put_pool(struct lodge_buf *out, const struct lodge_engine_stats *st,
                     const struct lodge_engine_info *info, const char *label)
{
    const struct {
        const char *state;
        uint32_t n;
    } pages[] = {{"free", st->pages_free},
                 {"kv", st->pages_kv},
                 {"adapter", st->pages_adapter},
                 {"cached", st->pages_cached}};
    lodge_buf_puts(out, "# HELP lodge_pool_pages pages of the pool by state\n"
                        "# TYPE lodge_pool_pages gauge\n");
    for (int i = 0; i < 4; i++)
        lodge_buf_printf(out, "lodge_pool_pages{state=\"%s\"} %u\n", pages[i].state, pages[i].n);
    lodge_buf_printf(out,
                     "# HELP lodge_pool_bytes size of the pool\n# TYPE lodge_pool_bytes gauge\n"
                     "lodge_pool_bytes %llu\n",
                     (unsigned long long)info->memory.pool_bytes);
    lodge_buf_printf(out,
                     "# HELP vllm:cache_config_info cache configuration\n"
                     "# TYPE vllm:cache_config_info gauge\n"
                     "vllm:cache_config_info{%s,block_size=\"%u\",num_gpu_blocks=\"%u\"} 1\n",
                     label, info->page_tokens, info->n_pages);
}

static void put_step_tokens(struct lodge_buf *out, const struct lodge_engine_stats *st,
                            const char *label)
{
    struct histogram h = {.name = "vllm:iteration_tokens_total",
                          .sum = (double)st->step_tokens_sum,
                          .n = st->n_steps,
                          .n_bounds = 15};
    double bounds[15] = {1};
    for (int i = 1; i < 15; i++)
        bounds[i] = i == 1 ? 8 : bounds[i - 1] * 2;
    h.bounds = bounds;
    memcpy(h.counts, st->step_tokens_bucket, sizeof st->step_tokens_bucket);
    put_histogram(out, &h, label);
}

/* Label values: backslash, quote and newline are escaped. */
static void label_text(const struct server *s, struct lodge_buf *out)
{
    lodge_buf_puts(out, "model_name=\"");
    for (const char *p = s->n_names ? s->names[0] : ""; *p; p++) {
        if (*p == '"' || *p == '\\')
            lodge_buf_append(out, "\\", 1);
        lodge_buf_append(out, *p == '\n' ? "\\n" : p, *p == '\n' ? 2 : 1);
    }
    lodge_buf_puts(out, "\",engine=\"0\"");
}

void metrics_text(struct server *s, struct lodge_buf *out)
{
    struct lodge_engine *en = atomic_load(&s->engine);
    struct lodge_engine_stats st = {0};
    struct lodge_engine_info info = {0};
    struct lodge_buf label;
    if (en) {
        lodge_engine_get_stats(en, &st);
        info = s->info;
    }
    lodge_buf_init(&label, 4096);
    label_text(s, &label);
    const char *l = lodge_buf_text(&label);
    double used =
        st.pages_total ? 1 - (double)(st.pages_free + st.pages_cached) / st.pages_total : 0;
    const struct line lines[] = {
        {"vllm:num_requests_running", "gauge", st.n_running},
        {"vllm:num_requests_waiting", "gauge", st.n_waiting},
        {"vllm:kv_cache_usage_perc", "gauge", used},
        {"vllm:prompt_tokens_total", "counter", (double)st.prompt_tokens},
        {"vllm:prompt_tokens_cached_total", "counter", (double)st.cached_prompt_tokens},
        {"vllm:generation_tokens_total", "counter", (double)st.output_tokens},
        {"vllm:num_preemptions_total", "counter", (double)st.n_preemptions},
        {"vllm:prefix_cache_queries_total", "counter", (double)st.prefix_queries},
        {"vllm:prefix_cache_hits_total", "counter", (double)st.prefix_hits},
        {"lodge_steps_total", "counter", (double)st.n_steps},
        {"lodge_step_seconds_total", "counter", (double)st.step_ns * 1e-9},
        {"lodge_http_calls", "gauge", atomic_load(&s->n_calls)},
    };
    put_lines(out, lines, N(lines), l);
    put_finished(out, &st, l);
    put_pool(out, &st, &info, l);
    put_step_tokens(out, &st, l);
    pthread_mutex_lock(&s->metrics.lock);
    for (uint32_t i = 0; i < LODGE_HISTOGRAMS; i++)
        put_histogram(out, &s->metrics.h[i], l);
    pthread_mutex_unlock(&s->metrics.lock);
    lodge_buf_finish(&label);
}
