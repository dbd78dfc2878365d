/* The engine thread, and the calls that cross to it: both ends of each message stand together. */
#include "engine/internal.h"

#include "base/clock.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* With nothing to do the thread sleeps until a message comes or it is woken; the bound only keeps
 * the sum of clock and wait in range. */
#define IDLE_WAIT_NS 3600000000000u
/* Requests that wait for their adapters, or for the weights, have deadlines, too. */
#define WAITING_WAIT_NS 20000000u
/* Background work between two looks at the inbox: a millisecond or so. */
#define TOUCH_BYTES ((size_t)1 << 20)

/* ---- streams by id ---- */

void lodge_streams_put(struct lodge_engine *en, struct lodge_stream *s)
{
    pthread_mutex_lock(&en->streams_lock);
    struct lodge_stream **at = &en->streams[s->id % LODGE_STREAM_BUCKETS];
    s->chain = *at;
    *at = s;
    pthread_mutex_unlock(&en->streams_lock);
}

struct lodge_stream *lodge_streams_find(struct lodge_engine *en, uint64_t id)
{
    pthread_mutex_lock(&en->streams_lock);
    struct lodge_stream *s = en->streams[id % LODGE_STREAM_BUCKETS];
    while (s && s->id != id)
        s = s->chain;
    pthread_mutex_unlock(&en->streams_lock);
    return s;
}

void lodge_streams_remove(struct lodge_engine *en, struct lodge_stream *s)
{
    pthread_mutex_lock(&en->streams_lock);
    struct lodge_stream **at = &en->streams[s->id % LODGE_STREAM_BUCKETS];
    while (*at && *at != s)
        at = &(*at)->chain;
    if (*at)
        *at = s->chain;
    pthread_mutex_unlock(&en->streams_lock);
}

/* ---- the engine thread ---- */

/* Prefixes may be shared by requests that agree in all of this. */
struct root {
    bool is_public; /* no tenant's salt is like it */
    struct lodge_digest tenant, model, client;
    struct {
        struct lodge_digest digest;
        float scale;
    } adapters[LODGE_MAX_REQUEST_ADAPTERS];
};

static uint32_t common_tokens(const struct lodge_inflight *q, const struct lodge_id_list *list)
{
    uint32_t n = 0;
    while (n < list->n && n < q->r.n_prompt && q->r.prompt[n] == list->ids[n])
        n++;
    return n;
}

/* Leading blocks of the prompt that lie inside a public prefix. */
static uint32_t public_blocks(const struct lodge_engine *en, const struct lodge_inflight *q)
{
    static const struct lodge_digest published;
    uint32_t most = 0;
    if (q->r.cache_salt.n)
        return 0;
    for (uint32_t i = 0; i < q->r.n_adapters; i++)
        if (memcmp(&q->versions[i]->scope, &published, sizeof published) != 0)
            return 0;
    for (uint32_t i = 0; i < en->n_public_prefixes; i++) {
        uint32_t n = common_tokens(q, &en->public_prefixes[i]);
        most = n > most ? n : most;
    }
    return most / en->info.page_tokens;
}

static void set_root(struct lodge_engine *en, struct lodge_inflight *q)
{
    struct root root;
    memset(&root, 0, sizeof root);
    root.tenant = q->r.tenant_salt;
    root.model = en->info.fingerprint;
    if (q->r.cache_salt.n)
        lodge_sha256(q->r.cache_salt.data, q->r.cache_salt.n, &root.client);
    for (uint32_t i = 0; i < q->r.n_adapters; i++) {
        root.adapters[i].digest = q->versions[i]->info.digest;
        root.adapters[i].scale = q->r.adapters[i].scale;
    }
    lodge_prefix_root(&en->prefix, &root, sizeof root, &q->root);
    q->n_public = public_blocks(en, q);
    memset(&root.tenant, 0, sizeof root.tenant);
    root.is_public = true;
    lodge_prefix_root(&en->prefix, &root, sizeof root, &q->public_root);
}

/* The references that submit took become the request's. */
static void set_adapters(struct lodge_engine *en, const struct lodge_record *rec,
                         struct lodge_inflight *q)
{
    for (uint32_t i = 0; i < q->r.n_adapters; i++) {
        q->versions[i] = lodge_adapters_find(&en->adapters, lodge_request_adapter_numbers(rec)[i]);
        q->lora_width += q->versions[i]->width;
        q->owner = i ? LODGE_OWNER_SEVERAL : q->versions[i]->number;
    }
}

static void drop_adapters(struct lodge_engine *en, const struct lodge_record *rec, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        lodge_adapter_version_unref(
            lodge_adapters_find(&en->adapters, lodge_request_adapter_numbers(rec)[i]));
}

static void set_seed(const struct lodge_engine *en, struct lodge_inflight *q)
{
    if (!q->r.has_seed) {
        uint32_t counter[4] = {(uint32_t)q->id, (uint32_t)(q->id >> 32), 0, 1}, word[4];
        lodge_philox(en->seed, counter, word);
        q->r.sampling.seed = (uint64_t)word[0] << 32 | word[1];
    }
    for (uint32_t i = 0; i < q->r.n_choices; i++)
        q->seqs[i].sampling.seed = q->r.sampling.seed;
}

static void take_submit(struct lodge_engine *en, const struct lodge_record *rec)
{
    uint64_t id;
    memcpy(&id, rec + 1, sizeof id);
    struct lodge_stream *stream = lodge_streams_find(en, id);
    if (!stream) {
        drop_adapters(en, rec, lodge_request_adapter_count(rec));
        return;
    }
    struct lodge_inflight *q = lodge_request_unflatten(rec, en->tokenizer, en->info.max_model_len,
                                                       en->info.page_tokens, en->plan->n_groups);
    if (!q) {
        struct lodge_event ev = {.finish = LODGE_FINISH_ERROR, .error = LODGE_ERR_NOMEM};
        drop_adapters(en, rec, lodge_request_adapter_count(rec));
        atomic_store(&stream->finished, true);
        lodge_stream_post(stream, LODGE_EVENT_END, ev, NULL, NULL);
        lodge_ready_add(&en->ready, stream);
        en->any_event = true;
        lodge_streams_remove(en, stream);
        lodge_stream_unref(stream);
        atomic_fetch_sub(&en->n_waiting, 1);
        atomic_fetch_sub(&en->n_active, 1);
        return;
    }
    q->stream = stream;
    q->next = en->requests;
    if (q->next)
        q->next->prev = q;
    en->requests = q;
    set_adapters(en, rec, q);
    set_root(en, q);
    set_seed(en, q);
    lodge_sched_enqueue(&en->sched, &q->seqs[0]);
}

static struct lodge_inflight *find_request(const struct lodge_engine *en, uint64_t id)
{
    struct lodge_inflight *q = en->requests;
    while (q && q->id != id)
        q = q->next;
    return q;
}

static void take_messages(struct lodge_engine *en, uint64_t wait_ns)
{
    lodge_mailbox_take(&en->inbox, &en->messages, wait_ns);
    size_t at = 0;
    for (const struct lodge_record *r; (r = lodge_record_next(&en->messages, &at));) {
        if (r->kind == LODGE_MSG_SUBMIT) {
            take_submit(en, r);
        } else if (r->kind == LODGE_MSG_CANCEL) {
            const struct lodge_cancel_message *m = (const struct lodge_cancel_message *)r;
            struct lodge_inflight *q = find_request(en, m->id);
            if (q)
                lodge_output_abort(en, q, LODGE_FINISH_ABORT, LODGE_ERR_CANCELLED);
        }
    }
}

/* Ends requests whose deadline passed, those whose stream was closed while the inbox had no room
 * for the message, and those that will be late whatever is done. */
static void sweep(struct lodge_engine *en)
{
    uint64_t now = lodge_now_ns();
    struct lodge_inflight *next;
    for (struct lodge_inflight *q = en->requests; q; q = next) {
        next = q->next;
        if (atomic_load(&q->stream->closed))
            lodge_output_abort(en, q, LODGE_FINISH_ABORT, LODGE_ERR_CANCELLED);
        else if (q->deadline_ns && now >= q->deadline_ns)
            lodge_output_abort(en, q, LODGE_FINISH_ABORT, LODGE_ERR_TIMEOUT);
    }
    for (struct lodge_seq *s; (s = lodge_sched_hopeless(&en->sched, now));) {
        en->sched.aborted_early++;
        lodge_output_abort(en, s->req, LODGE_FINISH_ABORT, LODGE_ERR_OVERLOADED);
    }
}

static void publish_adapters(struct lodge_engine *en, struct lodge_engine_stats *s)
{
    struct lodge_residency_stats r;
    if (!en->residency)
        return;
    lodge_residency_get_stats(en->residency, &r);
    s->n_deferred = en->sched.n_deferred;
    s->adapters_resident = r.n_resident;
    s->adapter_resident_bytes = r.resident_bytes;
    s->adapter_uploads = r.n_uploads;
    s->adapter_evictions = r.n_evictions;
    lodge_adapters_count(&en->adapters, s);
}

static void publish_stats(struct lodge_engine *en)
{
    struct lodge_engine_stats *s = &en->live;
    s->n_waiting = atomic_load(&en->n_waiting);
    s->n_running = atomic_load(&en->n_running);
    s->pages_free = en->pool.n_free + en->pool.n_retiring;
    s->pages_kv = en->pool.n_kv;
    s->pages_adapter = en->pool.n_adapter;
    s->pages_cached = en->pool.n_cached;
    s->pages_total = en->pool.n_pages;
    s->prefix_queries = en->sched.prefix_queries;
    s->prefix_hits = en->sched.prefix_hits;
    s->prefix_evicted = en->prefix.n_evicted;
    s->n_preemptions = en->sched.preemptions;
    s->n_aborted_early = en->sched.aborted_early;
    s->n_tenants = en->sched.fair.n_tenants;
    memcpy(s->admitted_in_tier, en->sched.admitted_in_tier, sizeof s->admitted_in_tier);
    publish_adapters(en, s);
    pthread_mutex_lock(&en->stats_lock);
    en->stats = *s;
    pthread_mutex_unlock(&en->stats_lock);
}

static void notify(struct lodge_engine *en)
{
    if (en->any_event && en->cfg.on_ready)
        en->cfg.on_ready(en->cfg.cookie);
    en->any_event = false;
}

/* Requests whose adapters cannot be read any more. */
static void end_lost(struct lodge_engine *en)
{
    struct lodge_inflight *next;
    for (struct lodge_inflight *q = en->requests; q; q = next) {
        next = q->next;
        if (q->adapter_lost)
            lodge_output_abort(en, q, LODGE_FINISH_ERROR, LODGE_ERR_ADAPTER_LOST);
    }
}

bool lodge_engine_turn(struct lodge_engine *en, uint64_t wait_ns)
{
    take_messages(en, wait_ns);
    sweep(en);
    /* A step never waits: while its weights come, messages and deadlines are looked at. */
    bool busy = !atomic_load(&en->cache.pending) && lodge_engine_step(en);
    if (en->residency && lodge_residency_take_lost(en->residency))
        end_lost(en);
    publish_stats(en);
    notify(en); /* what the step brought need not wait for side work */
    if (!en->residency)
        return busy;
    uint64_t step_ns = busy ? en->last_step_ns : 0;
    lodge_side_turn(&en->adapters.side, step_ns);
    busy |= lodge_residency_turn(en->residency, step_ns);
    publish_stats(en);
    return busy;
}

void lodge_engine_abort_all(struct lodge_engine *en)
{
    take_messages(en, 0);
    if (en->residency) /* whoever loads goes on without the workers */
        lodge_side_turn(&en->adapters.side, 0);
    while (en->requests)
        lodge_output_abort(en, en->requests, LODGE_FINISH_ABORT, LODGE_ERR_CANCELLED);
    publish_stats(en);
    notify(en);
}

static void *engine_main(void *arg)
{
    struct lodge_engine *en = arg;
    bool busy = false, untouched = en->backend->pool_touch != NULL;
    while (!atomic_load(&en->stop)) {
        uint64_t wait_ns = en->requests ? WAITING_WAIT_NS : IDLE_WAIT_NS;
        /* The weights come first: touching would take a core from those who read them. */
        bool touches = untouched && !atomic_load(&en->cache.pending);
        busy = lodge_engine_turn(en, busy || touches ? 0 : wait_ns);
        if (!busy && touches)
            untouched = en->backend->pool_touch(en->device, TOUCH_BYTES);
    }
    lodge_engine_abort_all(en);
    return NULL;
}

int lodge_engine_start(struct lodge_engine *en, struct lodge_error *e)
{
    publish_stats(en);
    if (pthread_create(&en->thread, NULL, engine_main, en))
        return lodge_fail(e, LODGE_ERR_RESOURCE, "cannot start the engine thread");
    en->thread_runs = true;
    return 0;
}

/* ---- the other side ---- */

static int check_ids(const struct lodge_engine *en, const char *field, const uint32_t *ids,
                     uint32_t n, struct lodge_error *e)
{
    for (uint32_t i = 0; i < n; i++)
        if (ids[i] >= en->info.n_vocab)
            return lodge_fail(e, LODGE_ERR_INVALID, "'%s' has token id %u; ids are below %u", field,
                              ids[i], en->info.n_vocab);
    return 0;
}

static int check_request(const struct lodge_engine *en, const struct lodge_request *r,
                         struct lodge_error *e)
{
    if (!r->n_prompt)
        return lodge_fail(e, LODGE_ERR_INVALID, "'prompt' has no tokens");
    if (r->n_prompt > en->info.max_model_len ||
        (r->n_prompt == en->info.max_model_len && r->max_tokens))
        return lodge_fail(e, LODGE_ERR_CONTEXT,
                          "the prompt has %u tokens; this model's context is %u tokens, prompt and "
                          "reply together. Shorten the prompt",
                          r->n_prompt, en->info.max_model_len);
    if (!r->n_choices || r->n_choices > LODGE_MAX_CHOICES)
        return lodge_fail(e, LODGE_ERR_INVALID, "'n' must be between 1 and %u", LODGE_MAX_CHOICES);
    if (r->n_stops > LODGE_MAX_STOPS || r->n_tops > LODGE_MAX_TOPS ||
        r->n_prompt_tops > LODGE_MAX_TOPS)
        return lodge_fail(e, LODGE_ERR_INVALID, "too many stop strings or log-probabilities");
    int err = check_ids(en, "prompt", r->prompt, r->n_prompt, e);
    if (!err)
        err = check_ids(en, "stop_token_ids", r->stop_ids.ids, r->stop_ids.n, e);
    if (!err)
        err = check_ids(en, "allowed_token_ids", r->sampling.allowed, r->sampling.n_allowed, e);
    for (uint32_t i = 0; i < r->sampling.n_bias && !err; i++)
        err = check_ids(en, "logit_bias", &r->sampling.bias[i].token, 1, e);
    for (uint32_t i = 0; i < r->n_bad_words && !err; i++)
        err = check_ids(en, "bad_words", r->bad_words[i].ids, r->bad_words[i].n, e);
    return err;
}

static int check_adapters(const struct lodge_engine *en, const struct lodge_request *r,
                          struct lodge_error *e)
{
    uint64_t width = 0, pages = 0;
    if (r->n_adapters > LODGE_MAX_REQUEST_ADAPTERS)
        return lodge_fail(e, LODGE_ERR_INVALID, "'adapters' names more than %u adapters",
                          LODGE_MAX_REQUEST_ADAPTERS);
    for (uint32_t i = 0; i < r->n_adapters; i++) {
        const struct lodge_adapter_version *v = r->adapters[i].version;
        float scale = r->adapters[i].scale;
        if (!(scale >= -LODGE_MAX_ADAPTER_SCALE && scale <= LODGE_MAX_ADAPTER_SCALE))
            return lodge_fail(e, LODGE_ERR_INVALID,
                              "'adapters': the scale of \"%s\" must lie between -8 and 8", v->name);
        if (v->info.scaled_once && scale != 1)
            return lodge_fail(e, LODGE_ERR_INVALID,
                              "'adapters': \"%s\" is a DoRA adapter, whose weights hold for scale "
                              "1 only",
                              v->name);
        for (uint32_t j = 0; j < i; j++)
            if (r->adapters[j].version == v)
                return lodge_fail(e, LODGE_ERR_INVALID,
                                  "'adapters': \"%s\" is named twice; add the scales up", v->name);
        width += v->width;
        pages += v->info.n_pages;
    }
    uint64_t tokens = (uint64_t)r->n_prompt + r->max_tokens;
    tokens = tokens < en->info.max_model_len ? tokens : en->info.max_model_len;
    pages += r->n_adapters ? lodge_sched_pages(en->plan, en->info.page_tokens,
                                               en->cfg.max_step_tokens, tokens)
                           : 0;
    if (width > en->max_step_ranks || pages > en->pool.n_pages)
        return lodge_fail(e, LODGE_ERR_INVALID,
                          "'adapters' and %llu tokens do not fit this server's pool together; use "
                          "fewer or smaller adapters, or a smaller max_tokens",
                          (unsigned long long)tokens);
    return 0;
}

/* Most bytes the events of a request can take: every token with its tops and text. */
static size_t stream_cap(const struct lodge_engine *en, const struct lodge_request *r)
{
    uint32_t left = en->info.max_model_len - r->n_prompt;
    uint64_t tokens = r->max_tokens < left ? r->max_tokens : left;
    uint64_t per_token = sizeof(struct lodge_event) + r->n_tops * sizeof(struct lodge_top) + 512;
    uint64_t per_prompt = sizeof(struct lodge_event) + r->n_prompt_tops * sizeof(struct lodge_top);
    return (size_t)((tokens + 4) * per_token * r->n_choices +
                    (r->want_prompt_scores ? (r->n_prompt + 1) * (per_prompt + 8) : 0) + 8192);
}

static bool reserve_place(struct lodge_engine *en)
{
    uint32_t n = atomic_load(&en->n_waiting);
    do {
        if (n >= en->cfg.max_queue)
            return false;
    } while (!atomic_compare_exchange_weak(&en->n_waiting, &n, n + 1));
    atomic_fetch_add(&en->n_active, 1);
    return true;
}

int lodge_engine_submit(struct lodge_engine *en, const struct lodge_request *r,
                        struct lodge_stream **out, uint64_t *id, struct lodge_error *e)
{
    int err = check_request(en, r, e);
    if (!err)
        err = check_adapters(en, r, e);
    if (err)
        return err;
    if (atomic_load(&en->draining))
        return lodge_fail(e, LODGE_ERR_DRAINING, "the server is shutting down");
    if (!reserve_place(en))
        return lodge_fail(e, LODGE_ERR_FULL, "the queue is full (%u requests wait); try again",
                          en->cfg.max_queue);
    uint64_t n = atomic_fetch_add(&en->next_id, 1) + 1;
    struct lodge_stream *s = lodge_stream_create(en, n, stream_cap(en, r));
    struct lodge_record *rec = lodge_request_flatten(r, n);
    err = s && rec ? 0 : LODGE_ERR_NOMEM;
    for (uint32_t i = 0; i < r->n_adapters; i++)
        lodge_adapter_version_ref(r->adapters[i].version);
    if (!err) {
        lodge_streams_put(en, s);
        err = lodge_mailbox_post(&en->inbox, rec);
        if (err)
            lodge_streams_remove(en, s);
    }
    free(rec);
    if (err) {
        for (uint32_t i = 0; i < r->n_adapters; i++)
            lodge_adapter_version_unref(r->adapters[i].version);
        if (s) {
            lodge_stream_unref(s);
            lodge_stream_unref(s);
        }
        atomic_fetch_sub(&en->n_waiting, 1);
        atomic_fetch_sub(&en->n_active, 1);
        return lodge_fail(e, err, "the request cannot be queued: %s", lodge_error_text(err));
    }
    *out = s;
    *id = n;
    return 0;
}

int lodge_engine_add_public_prefix(struct lodge_engine *en, const uint32_t *tokens, uint32_t n,
                                   struct lodge_error *e)
{
    size_t room = (size_t)en->n_public_prefixes + 1;
    uint32_t *ids = malloc((n + 1) * sizeof *ids);
    struct lodge_id_list *more = realloc(en->public_prefixes, room * sizeof *more);
    if (more)
        en->public_prefixes = more;
    if (!ids || !more) {
        free(ids);
        return lodge_fail(e, LODGE_ERR_NOMEM, "no memory for a public prefix");
    }
    memcpy(ids, tokens, n * sizeof *ids);
    en->public_prefixes[en->n_public_prefixes++] = (struct lodge_id_list){ids, n};
    return 0;
}

void lodge_stream_close(struct lodge_stream *s)
{
    if (!s)
        return;
    atomic_store(&s->closed, true);
    /* Should the inbox be full, the engine sees `closed` in its next turn. */
    if (!atomic_load(&s->finished)) {
        struct lodge_cancel_message m = {.head = {.n_bytes = sizeof m, .kind = LODGE_MSG_CANCEL},
                                         .id = s->id};
        lodge_mailbox_post(&s->engine->inbox, &m.head);
    }
    lodge_stream_unref(s);
}

size_t lodge_engine_take_ready(struct lodge_engine *en, uint64_t *ids, size_t cap)
{
    return lodge_ready_take(&en->ready, ids, cap);
}

void lodge_engine_get_stats(struct lodge_engine *en, struct lodge_engine_stats *out)
{
    pthread_mutex_lock(&en->stats_lock);
    *out = en->stats;
    pthread_mutex_unlock(&en->stats_lock);
    out->n_waiting = atomic_load(&en->n_waiting);
    out->n_running = atomic_load(&en->n_running);
}

void lodge_engine_drain(struct lodge_engine *en)
{
    atomic_store(&en->draining, true);
}

uint32_t lodge_engine_active(const struct lodge_engine *en)
{
    return atomic_load(&((struct lodge_engine *)(uintptr_t)en)->n_active);
}

void lodge_engine_close(struct lodge_engine *en)
{
    if (!en)
        return;
    atomic_store(&en->draining, true);
    atomic_store(&en->stop, true);
    if (en->thread_runs) {
        lodge_mailbox_wake(&en->inbox);
        pthread_join(en->thread, NULL);
    }
    lodge_engine_free(en);
}
