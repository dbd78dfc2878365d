/* Opening: model file, tokenizer, template, backend, pool - and what each will cost.
 * One file, because each step is a page and what undoes them on an error must see them all. */
#include "engine/files/gguf_vocab.h"
#include "engine/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STEP_TOKENS 512u
#define MAX_SEQS 256u
#define LOGIT_ROWS 64u
#define MAX_TENANTS 65536u
#define DEFAULT_CONTEXT_LIMIT (1u << 20)
/* Workspace of adapters: ranks of a step's tokens, with q, k and v or gate and up beside each
 * other. Rank 64 everywhere at once; higher ones take smaller chunks of prompts. */
#define STEP_RANKS_PER_TOKEN 192u

static void phase(const struct lodge_engine *en, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
static void phase(const struct lodge_engine *en, const char *fmt, ...)
{
    if (!en->cfg.on_phase)
        return;
    char text[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    en->cfg.on_phase(en->cfg.cookie, text);
}

static void set_defaults(struct lodge_engine_config *c)
{
    c->max_seqs = c->max_seqs ? c->max_seqs : MAX_SEQS;
    c->max_step_tokens = c->max_step_tokens ? c->max_step_tokens : STEP_TOKENS;
    if (c->max_step_tokens < c->max_seqs)
        c->max_step_tokens = c->max_seqs;
    c->reserve_tokens = c->reserve_tokens ? c->reserve_tokens : 256;
    c->max_queue = c->max_queue ? c->max_queue : 1024;
}

static int open_backend(struct lodge_engine *en, struct lodge_error *e)
{
    const struct lodge_engine_config *c = &en->cfg;
    if (c->device && strcmp(c->device, "auto") != 0 && strcmp(c->device, "cpu") != 0)
        return lodge_fail(e, LODGE_ERR_RESOURCE, "device '%s' is not available; use --device cpu",
                          c->device);
    struct lodge_device_config cfg = {
        .isa = c->cpu_isa,
        .n_threads = c->n_threads,
        .max_rows = c->max_step_tokens,
        .max_slots = c->max_seqs,
        .max_logit_rows = c->max_seqs < LOGIT_ROWS ? c->max_seqs : LOGIT_ROWS,
        .max_step_ranks = c->max_step_tokens * STEP_RANKS_PER_TOKEN,
    };
    en->max_step_ranks = cfg.max_step_ranks;
    en->backend = lodge_backend_cpu();
    int err = lodge_kv_dtype_parse(c->kv_cache_dtype, &cfg.kv, e);
    if (!err)
        err = en->backend->open(&cfg, &en->device, e);
    if (!err)
        en->backend->info(en->device, &en->device_info);
    return err;
}

/* ---- memory ---- */

/* Most pages that one sequence of this length holds at one time. */
static uint64_t pages_for(const struct lodge_engine *en, uint64_t n_tokens)
{
    return lodge_sched_pages(en->plan, en->device_info.page_tokens, en->cfg.max_step_tokens,
                             n_tokens);
}

/* The longest sequence, in whole blocks and at most `most` tokens, that a pool holds. */
static uint32_t context_for(const struct lodge_engine *en, uint32_t n_pages, uint32_t most)
{
    uint32_t t = en->device_info.page_tokens, fits = 0, too_many = most / t + 1;
    while (too_many - fits > 1) {
        uint32_t middle = fits + (too_many - fits) / 2;
        if (pages_for(en, (uint64_t)middle * t) <= n_pages)
            fits = middle;
        else
            too_many = middle;
    }
    return fits * t;
}

static uint32_t model_context(const struct lodge_engine *en)
{
    uint32_t n =
        en->plan->n_context < DEFAULT_CONTEXT_LIMIT ? en->plan->n_context : DEFAULT_CONTEXT_LIMIT;
    return en->cfg.max_model_len ? en->cfg.max_model_len : n;
}

/* The pool must hold one sequence of the whole context. */
static int settle_context(const struct lodge_engine *en, struct lodge_engine_memory *m,
                          struct lodge_error *e)
{
    m->max_model_len = model_context(en);
    if (pages_for(en, m->max_model_len) <= m->n_pages)
        return 0;
    uint32_t fits = context_for(en, m->n_pages, m->max_model_len);
    if (en->cfg.max_model_len)
        return lodge_fail(e, LODGE_ERR_NOMEM,
                          "not enough memory: the pool of %llu MiB holds %u tokens, but "
                          "--max-model-len is %u; raise --pool-bytes or lower --max-model-len",
                          (unsigned long long)(m->pool_bytes >> 20), fits, m->max_model_len);
    if (fits < m->page_tokens)
        return lodge_fail(e, LODGE_ERR_NOMEM,
                          "not enough memory for a pool: %llu MiB hold not even one page; raise "
                          "--pool-bytes",
                          (unsigned long long)(m->pool_bytes >> 20));
    phase(en, "warning: the context is lowered from %u to %u tokens to fit the pool",
          m->max_model_len, fits);
    m->max_model_len = fits;
    return 0;
}

static int plan_memory(struct lodge_engine *en, struct lodge_engine_memory *m,
                       struct lodge_error *e)
{
    struct lodge_memory_need need;
    int err = en->backend->memory(en->device, en->plan, &need, e);
    if (err)
        return err;
    *m = (struct lodge_engine_memory){
        .weight_bytes = need.weight_bytes,
        .weights_cache_bytes =
            lodge_weights_header_bytes(need.weight_bytes) + (uint64_t)need.weight_bytes,
        .workspace_bytes = need.workspace_bytes,
        .free_bytes = en->device_info.memory_bytes,
        .page_tokens = en->device_info.page_tokens,
        .n_layer_groups = en->plan->n_groups,
        .page_bytes =
            lodge_plan_page_bytes(en->plan, en->device_info.kv, en->device_info.page_tokens),
        .kv_dtype = lodge_kv_dtype_name(en->device_info.kv),
    };
    uint64_t fixed = m->weight_bytes + m->workspace_bytes;
    if (fixed > m->free_bytes)
        return lodge_fail(e, LODGE_ERR_NOMEM,
                          "not enough memory: weights and workspace need %llu MiB, %llu MiB are "
                          "free; use a smaller model or a smaller weight format",
                          (unsigned long long)(fixed >> 20),
                          (unsigned long long)(m->free_bytes >> 20));
    /* By default half of what is left, and no more than all sequences at full length can use. */
    uint64_t most = pages_for(en, model_context(en)) * en->cfg.max_seqs * m->page_bytes;
    uint64_t pool = en->cfg.pool_bytes ? en->cfg.pool_bytes : (m->free_bytes - fixed) / 2;
    if (!en->cfg.pool_bytes && pool > most)
        pool = most;
    if (pool > m->free_bytes - fixed)
        return lodge_fail(e, LODGE_ERR_NOMEM,
                          "not enough memory: --pool-bytes asks for %llu MiB, %llu MiB are left "
                          "after the weights",
                          (unsigned long long)(pool >> 20),
                          (unsigned long long)((m->free_bytes - fixed) >> 20));
    uint64_t pages = pool / m->page_bytes;
    m->n_pages = pages < UINT32_MAX / 2 ? (uint32_t)pages : UINT32_MAX / 2;
    m->pool_bytes = m->n_pages * m->page_bytes;
    m->total_bytes = fixed + m->pool_bytes;
    return settle_context(en, m, e);
}

/* ---- the text side ---- */

static int parse_template(const struct lodge_engine *en, const char *text, const char *which,
                          struct lodge_template **out, struct lodge_error *e)
{
    if (!text)
        return 0;
    int err = lodge_template_parse(text, strlen(text), out, e);
    if (err)
        lodge_error_prefix(e, "%s: %s", en->cfg.model_path, which);
    return err;
}

/* What the template writes behind a reply ends it, whatever else the model's files say. */
static void add_end_of_turn(struct lodge_engine *en, const struct lodge_template *t)
{
    int64_t end = t ? lodge_chat_end_of_turn(t, en->tokenizer) : -1;
    if (end >= 0)
        lodge_tokenizer_add_end(en->tokenizer, (uint32_t)end);
}

static int load_text(struct lodge_engine *en, struct lodge_error *e)
{
    const struct lodge_gguf *g = lodge_model_gguf(en->model);
    const struct lodge_generation_defaults *d = lodge_model_defaults(en->model);
    int err = g ? lodge_gguf_tokenizer(g, en->cfg.model_path, &en->tokenizer, e)
                : lodge_tokenizer_from_dir(lodge_model_dir(en->model), d->eos, d->n_eos,
                                           &en->tokenizer, e);
    if (err)
        return err;
    struct lodge_plan *plan = lodge_model_plan(en->model);
    uint32_t n = lodge_tokenizer_size(en->tokenizer);
    if (n < plan->n_vocab_text)
        plan->n_vocab_text = n;
    const char *text =
        en->cfg.chat_template ? en->cfg.chat_template : lodge_model_chat_template(en->model, false);
    const char *tools = en->cfg.chat_template ? NULL : lodge_model_chat_template(en->model, true);
    err = parse_template(en, text, "chat template", &en->chat_template, e);
    if (!err && tools && tools != text)
        err = parse_template(en, tools, "chat template for tools", &en->tool_template, e);
    if (!err) {
        add_end_of_turn(en, en->chat_template);
        add_end_of_turn(en, en->tool_template);
    }
    return err;
}

static void set_info(struct lodge_engine *en, const struct lodge_engine_memory *m)
{
    struct lodge_engine_info *i = &en->info;
    const struct lodge_generation_defaults *d = lodge_model_defaults(en->model);
    bool use = en->cfg.model_defaults;
    struct lodge_digest mixed;
    /* Also what prefixes are kept by: pages of one dtype say nothing to another. */
    char arithmetic[64];
    int n = snprintf(arithmetic, sizeof arithmetic, "%s %s", en->device_info.rung, m->kv_dtype);
    lodge_keyed_hash(&en->fingerprint, LODGE_VERSION, strlen(LODGE_VERSION), arithmetic, (size_t)n,
                     &mixed);
    *i = (struct lodge_engine_info){
        .name = lodge_model_name(en->model),
        .device = en->device_info.name,
        .max_model_len = m->max_model_len,
        .n_vocab = en->plan->n_vocab_text,
        .page_tokens = m->page_tokens,
        .n_pages = m->n_pages,
        .fingerprint = mixed,
        .has_chat_template = en->chat_template != NULL,
        .temperature = use && d->temperature >= 0 ? d->temperature : 1,
        .top_p = use && d->top_p > 0 && d->top_p <= 1 ? d->top_p : 1,
        .min_p = use && d->min_p >= 0 && d->min_p <= 1 ? d->min_p : 0,
        .repetition = use && d->repetition > 0 ? d->repetition : 1,
        .top_k = use && d->top_k > 0 ? (uint32_t)d->top_k : 0,
        .memory = *m,
    };
}

/* ---- together ---- */

/* Text of one step; holds any single token without growing. */
static bool init_scratch(struct lodge_buf *b)
{
    lodge_buf_init(b, (size_t)64 << 20);
    bool ok = lodge_buf_extend(b, 4096) != NULL;
    lodge_buf_clear(b);
    return ok;
}

#ifdef LODGE_POISON_PAGES
static void poison(void *cookie, uint32_t page)
{
    struct lodge_engine *en = cookie;
    en->backend->page_poison(en->device, page);
}
#endif

/* Whatever the engine thread waits for may have come. */
static void on_news(void *cookie)
{
    struct lodge_engine *en = cookie;
    lodge_mailbox_wake(&en->inbox);
}

static void on_upload(void *cookie, uint64_t tenant, uint32_t n_pages)
{
    struct lodge_engine *en = cookie;
    lodge_sched_charge_load(&en->sched, tenant, n_pages);
}

static int init_adapters(struct lodge_engine *en, uint32_t n_pages, struct lodge_error *e)
{
    if (!en->backend->adapter_pack || !en->model)
        return 0;
    size_t page_bytes =
        lodge_plan_page_bytes(en->plan, en->device_info.kv, en->device_info.page_tokens);
    uint64_t quarter = (uint64_t)n_pages * page_bytes / 4;
    en->adapters = (struct lodge_adapters){
        .backend = en->backend,
        .device = en->device,
        .plan = en->plan,
        .log = en->cfg.log,
        .budget_bytes = en->cfg.host_cache_bytes ? en->cfg.host_cache_bytes : quarter,
        .page_cells = (uint32_t)(page_bytes / LODGE_CELL_BYTES),
        .n_pages = n_pages,
        .on_news = on_news,
        .cookie = en,
    };
    en->runs_adapters = true;
    int err = lodge_adapters_init(&en->adapters, en->info.name, lodge_model_family(en->model), e);
    if (err)
        return err;
    en->residency = lodge_residency_create(&en->adapters, &en->pool, &en->prefix);
    en->sched.residency = en->residency;
    if (en->residency)
        lodge_residency_on_upload(en->residency, on_upload, en);
    return en->residency ? 0 : lodge_fail(e, LODGE_ERR_NOMEM, "no memory for the engine");
}

struct lodge_adapters *lodge_engine_adapters(struct lodge_engine *en)
{
    return &en->adapters;
}

/* Every request that waits or runs may be another tenant's, up to a bound of memory. */
static uint32_t max_tenants(const struct lodge_engine_config *c)
{
    uint64_t n = (uint64_t)c->max_queue + c->max_seqs;
    return n < MAX_TENANTS ? (uint32_t)n : MAX_TENANTS;
}

int lodge_engine_prepare(struct lodge_engine *en, uint32_t n_pages, struct lodge_error *e)
{
    const struct lodge_engine_config *c = &en->cfg;
    int err = lodge_pool_init(&en->pool, n_pages, e);
#ifdef LODGE_POISON_PAGES
    en->pool.on_free = en->backend->page_poison ? poison : NULL;
    en->pool.cookie = en;
#endif
    if (!err)
        err = lodge_prefix_init(&en->prefix, &en->pool, en->plan->n_groups,
                                en->device_info.page_tokens, e);
    const struct lodge_sched_limits limits = {.policy = c->policy,
                                              .max_seqs = c->max_seqs,
                                              .max_step_tokens = c->max_step_tokens,
                                              .reserve_tokens = c->reserve_tokens,
                                              .max_step_ranks = en->max_step_ranks,
                                              .max_tenants = max_tenants(c),
                                              .tier_floor = LODGE_SCHED_TIER_FLOOR,
                                              .window =
                                                  LODGE_SCHED_WINDOW_STEPS * c->max_step_tokens,
                                              .spare = LODGE_SCHED_SPARE,
                                              .max_age_ns = LODGE_SCHED_MAX_AGE_NS,
                                              .slo_ttft_ns = (uint64_t)(c->slo_ttft_s * 1e9),
                                              .prefix_cache = !c->no_prefix_cache};
    if (!err)
        err = lodge_sched_init(&en->sched, &limits, &en->pool, &en->prefix, en->plan,
                               en->device_info.page_tokens, e);
    if (err)
        return err;
    /* Block tables of a step. */
    uint64_t t = en->device_info.page_tokens;
    uint64_t per_seq = (en->info.max_model_len + t - 1) / t * en->plan->n_groups;
    en->step_page_room = (size_t)(per_seq * c->max_seqs);
    en->rows = calloc(c->max_seqs, sizeof *en->rows);
    en->step_adapters =
        calloc((size_t)c->max_seqs * LODGE_MAX_REQUEST_ADAPTERS, sizeof *en->step_adapters);
    en->step_tokens = calloc(c->max_step_tokens, sizeof *en->step_tokens);
    en->step_pages = calloc(en->step_page_room, sizeof *en->step_pages);
    lodge_buf_init(&en->messages, SIZE_MAX / 4);
    if (!en->rows || !en->step_adapters || !en->step_tokens || !en->step_pages ||
        !init_scratch(&en->text) || !init_scratch(&en->raw))
        return lodge_fail(e, LODGE_ERR_NOMEM, "no memory for the engine");
    return init_adapters(en, n_pages, e);
}

int lodge_engine_load(struct lodge_engine *en, bool only_plan, struct lodge_engine_memory *memory,
                      struct lodge_error *e)
{
    const struct lodge_engine_config *cfg = &en->cfg;
    int err = only_plan ? 0 : lodge_model_cache_open(&en->cache, cfg, e);
    if (err)
        return err;
    phase(en, "opening %s", cfg->model_path);
    err = lodge_model_open(cfg->model_path, cfg->max_model_len, &en->model, e);
    if (err)
        return err;
    struct lodge_plan *plan = lodge_model_plan(en->model);
    en->plan = plan;
    err = open_backend(en, e);
    if (!err)
        err = lodge_plan_group(plan, en->device_info.kv, en->device_info.page_tokens, e);
    if (!err && plan->n_groups > LODGE_MAX_GROUPS)
        err = lodge_fail(e, LODGE_ERR_UNSUPPORTED, "%s: %u layer groups, more than %u",
                         cfg->model_path, plan->n_groups, LODGE_MAX_GROUPS);
    if (!err)
        err = plan_memory(en, memory, e);
    if (err || only_plan)
        return err;
    phase(en, "device: %s", en->device_info.name);
    err = load_text(en, e);
    if (err)
        return err;
    phase(en, "loading %llu MiB of weights", (unsigned long long)(memory->weight_bytes >> 20));
    lodge_model_fingerprint(en->model, &en->fingerprint);
    const struct lodge_weights_cache *cache =
        lodge_model_cache_begin(&en->cache, en->model, &en->fingerprint, on_news, en);
    err = en->backend->model_load(en->device, plan, cache, cfg->on_progress, cfg->cookie, e);
    lodge_model_release_pages(en->model);
    if (err == LODGE_ERR_FORMAT)
        lodge_error_prefix(e, "%s", cfg->model_path);
    if (!err)
        err = en->backend->pool_create(en->device, memory->n_pages, e);
    if (err)
        return err;
    phase(en, "pool: %llu MiB, %u pages of %u tokens in %s, context %u",
          (unsigned long long)(memory->pool_bytes >> 20), memory->n_pages, memory->page_tokens,
          memory->kv_dtype, memory->max_model_len);
    set_info(en, memory);
    return lodge_engine_prepare(en, memory->n_pages, e);
}

struct lodge_engine *lodge_engine_create(const struct lodge_engine_config *cfg)
{
    struct lodge_engine *en = calloc(1, sizeof *en);
    if (!en)
        return NULL;
    en->cfg = *cfg;
    en->seed = cfg->seed;
    set_defaults(&en->cfg);
    pthread_mutex_init(&en->streams_lock, NULL);
    pthread_mutex_init(&en->stats_lock, NULL);
    if (lodge_mailbox_init(&en->inbox, (size_t)1 << 30) || lodge_ready_init(&en->ready)) {
        lodge_engine_free(en);
        return NULL;
    }
    return en;
}

int lodge_engine_plan_memory(const struct lodge_engine_config *cfg, struct lodge_engine_memory *out,
                             lodge_engine_weights_fn *fn, void *cookie, struct lodge_error *e)
{
    struct lodge_engine *en = lodge_engine_create(cfg);
    if (!en)
        return lodge_fail(e, LODGE_ERR_NOMEM, "no memory for the engine");
    int err = lodge_engine_load(en, true, out, e);
    if (!err && fn)
        lodge_engine_list_weights(en, fn, cookie);
    lodge_engine_free(en);
    return err;
}

int lodge_engine_open(const struct lodge_engine_config *cfg, struct lodge_engine **out,
                      struct lodge_error *e)
{
    struct lodge_engine *en = lodge_engine_create(cfg);
    struct lodge_engine_memory memory;
    if (!en)
        return lodge_fail(e, LODGE_ERR_NOMEM, "no memory for the engine");
    int err = lodge_engine_load(en, false, &memory, e);
    if (!err)
        err = lodge_engine_start(en, e);
    if (err) {
        lodge_engine_free(en);
        return err;
    }
    *out = en;
    return 0;
}

void lodge_engine_free(struct lodge_engine *en)
{
    if (!en)
        return;
    lodge_residency_destroy(en->residency);
    if (en->runs_adapters)
        lodge_adapters_finish(&en->adapters);
    lodge_sched_finish(&en->sched);
    lodge_prefix_finish(&en->prefix);
    lodge_pool_finish(&en->pool);
    if (en->device)
        en->backend->close(en->device);
    lodge_model_cache_close(&en->cache);
    /* Loaders and the device wake the inbox. */
    lodge_mailbox_finish(&en->inbox);
    lodge_ready_finish(&en->ready);
    lodge_template_destroy(en->chat_template);
    lodge_template_destroy(en->tool_template);
    lodge_tokenizer_destroy(en->tokenizer);
    lodge_model_close(en->model);
    free(en->rows);
    for (uint32_t i = 0; i < en->n_public_prefixes; i++)
        free((void *)(uintptr_t)en->public_prefixes[i].ids);
    free(en->public_prefixes);
    free(en->step_adapters);
    free(en->step_tokens);
    free(en->step_pages);
    lodge_buf_finish(&en->text);
    lodge_buf_finish(&en->raw);
    lodge_buf_finish(&en->messages);
    pthread_mutex_destroy(&en->streams_lock);
    pthread_mutex_destroy(&en->stats_lock);
    free(en);
}

void lodge_engine_get_info(const struct lodge_engine *en, struct lodge_engine_info *out)
{
    *out = en->info;
}
