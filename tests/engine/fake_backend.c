#include "tests/engine/fake_backend.h"

#include "tests/engine/test_engine_random.h"

#include <string.h>

#define POISON 0u /* no history hashes to it in practice */
#define MOST_PLACES 2048u

struct lodge_device {
    struct fake *f;
    uint32_t n_pages, page_tokens;
    uint64_t *places;  /* (n_pages, page_tokens) */
    uint64_t *written; /* per page: the step that wrote it last */
    uint64_t ticket;
    uint32_t polls;
    struct lodge_result *results;
    uint32_t n_results, room;
};

/* ---- histories ---- */

static uint64_t history_root(const struct lodge_request *r)
{
    uint64_t h = 1;
    for (uint32_t i = 0; i < sizeof r->tenant_salt.bytes; i++)
        h = test_mix(h ^ r->tenant_salt.bytes[i]);
    for (size_t i = 0; i < r->cache_salt.n; i++)
        h = test_mix(h ^ (256u + (uint8_t)r->cache_salt.data[i]));
    return h;
}

static uint64_t history_next(uint64_t h, uint32_t token)
{
    return test_mix(h ^ (token + 1));
}

static uint64_t place_of(uint64_t history, uint32_t group)
{
    return history + group * 0x9E3779B97F4A7C15u;
}

static uint32_t draw(uint64_t history, uint64_t seed, uint32_t choice)
{
    return (uint32_t)(test_mix(history ^ seed ^ ((uint64_t)choice << 40)) % FAKE_VOCAB);
}

static float score(uint64_t history, uint32_t token)
{
    return -(float)(history_next(history, token) % 4096) / 256;
}

/* Ends the text before the first stop string that completes with this token. */
static bool cut_stop(const struct lodge_request *r, struct fake_reply *out, size_t n_text)
{
    for (uint32_t i = 0; i < r->n_stops; i++) {
        size_t n = r->stops[i].n;
        if (n <= n_text && memcmp(out->text + n_text - n, r->stops[i].data, n) == 0) {
            out->text[r->include_stop ? n_text : n_text - n] = 0;
            return true;
        }
    }
    return false;
}

void fake_reply(const struct lodge_request *r, uint32_t choice, uint32_t max_model_len,
                struct fake_reply *out)
{
    uint32_t most = max_model_len - r->n_prompt;
    most = r->max_tokens < most ? r->max_tokens : most;
    uint64_t h = history_root(r);
    for (uint32_t i = 0; i < r->n_prompt; i++)
        h = history_next(h, r->prompt[i]);
    *out = (struct fake_reply){.finish = LODGE_FINISH_LENGTH};
    size_t n_text = 0;
    while (out->n < most) {
        uint32_t token = draw(h, r->sampling.seed, choice);
        h = history_next(h, token);
        out->tokens[out->n++] = token;
        if (token != FAKE_END)
            out->text[n_text++] = (char)('a' + token);
        if ((token == FAKE_END && !r->ignore_eos) || cut_stop(r, out, n_text)) {
            out->finish = LODGE_FINISH_STOP;
            return;
        }
    }
}

float fake_score(const struct lodge_request *r, uint32_t index)
{
    uint64_t h = history_root(r);
    for (uint32_t i = 0; i < index; i++)
        h = history_next(h, r->prompt[i]);
    return score(h, r->prompt[index]);
}

/* ---- steps ---- */

static const struct lodge_seq *seq_of(const struct lodge_engine *en, uint32_t slot)
{
    const struct lodge_seq *found = NULL;
    for (const struct lodge_seq *q = en->sched.running.first; q; q = q->next)
        if (q->slot == slot) {
            TEST_CHECK(!found, "slot %u twice", slot);
            found = q;
        }
    TEST_CHECK(found, "slot %u is nobody's", slot);
    return found;
}

static uint64_t *place(struct lodge_device *d, const struct lodge_step *s,
                       const struct lodge_row *row, uint32_t group, uint32_t position)
{
    uint32_t at = row->table + group * row->n_blocks + position / d->page_tokens;
    TEST_CHECK(at < s->n_pages);
    uint32_t page = s->pages[at];
    TEST_CHECK(page < d->n_pages, "group %u has no page for position %u", group, position);
    return &d->places[(size_t)page * d->page_tokens + position % d->page_tokens];
}

static void copy_pages(struct lodge_device *d, const struct lodge_step *s)
{
    for (uint32_t i = 0; i < s->n_copies; i++) {
        const struct lodge_page_copy *c = &s->copies[i];
        const struct lodge_page *pages = d->f->en->pool.pages;
        TEST_CHECK(c->from != c->to && c->n_tokens && c->n_tokens < d->page_tokens);
        TEST_CHECK(pages[c->from].refs && pages[c->to].refs == 1, "a copy of a page that is gone");
        memcpy(d->places + (size_t)c->to * d->page_tokens,
               d->places + (size_t)c->from * d->page_tokens, c->n_tokens * sizeof *d->places);
    }
}

/* A page that is written has one user beside the copies that read it, and no name in the cache. */
static void check_written(struct lodge_device *d, const struct lodge_step *s,
                          const struct lodge_row *row, uint32_t group, uint32_t position)
{
    const struct lodge_pool *pool = &d->f->en->pool;
    uint32_t page = (uint32_t)((place(d, s, row, group, position) - d->places) / d->page_tokens);
    uint32_t users = pool->pages[page].refs;
    for (uint32_t i = 0; i < s->n_copies; i++)
        users -= s->copies[i].from == page;
    TEST_CHECK(users == 1, "page %u is written and has %u users", page, users);
    TEST_CHECK(pool->pages[page].entry == UINT32_MAX, "page %u is cached and written", page);
    uint64_t stamp = d->f->n_steps * 4096 + row->slot;
    TEST_CHECK(d->written[page] / 4096 != d->f->n_steps || d->written[page] == stamp,
               "page %u is written by two rows", page);
    d->written[page] = stamp;
}

static void run_group(struct lodge_device *d, const struct lodge_step *s,
                      const struct lodge_row *row, uint32_t group, const uint64_t *history)
{
    uint32_t window = d->f->plan.groups[group].window;
    uint32_t begin = row->position, end = begin + row->n_tokens;
    uint32_t first = window && begin + 1 > window ? begin + 1 - window : 0;
    for (uint32_t p = begin; p < end; p++) {
        check_written(d, s, row, group, p);
        *place(d, s, row, group, p) = place_of(history[p], group);
    }
    for (uint32_t p = first; p < end; p++)
        TEST_CHECK(*place(d, s, row, group, p) == place_of(history[p], group),
                   "step %llu, slot %u, group %u: position %u of %u holds another history",
                   (unsigned long long)d->f->n_steps, row->slot, group, p, end);
}

static void add_result(struct lodge_device *d, struct lodge_result r)
{
    TEST_CHECK(d->n_results < d->room);
    d->results[d->n_results++] = r;
}

static void run_row(struct lodge_device *d, const struct lodge_step *s, uint32_t i)
{
    const struct lodge_row *row = &s->rows[i];
    const struct lodge_seq *q = seq_of(d->f->en, row->slot);
    uint32_t end = row->position + row->n_tokens;
    uint64_t history[MOST_PLACES], h = history_root(&q->req->r);
    TEST_CHECK(row->n_tokens > row->n_draft && end <= MOST_PLACES);
    TEST_CHECK(end - row->n_draft <= q->n_tokens);
    TEST_CHECK(!row->n_draft || (end - row->n_draft == q->n_tokens && !q->counts.list));
    TEST_CHECK(row->n_blocks >= (end + d->page_tokens - 1) / d->page_tokens);
    TEST_CHECK(memcmp(s->tokens + row->first_token, q->tokens + row->position,
                      (row->n_tokens - row->n_draft) * sizeof *s->tokens) == 0);
    for (uint32_t p = 0; p < end; p++) {
        uint32_t own = p - row->position;
        uint32_t token = p < row->position ? q->tokens[p] : s->tokens[row->first_token + own];
        history[p] = h = history_next(h, token);
    }
    for (uint32_t g = 0; g < d->f->plan.n_groups; g++)
        run_group(d, s, row, g, history);
    for (uint32_t t = 0; t < row->n_tokens && row->want & LODGE_WANT_SCORES; t++) {
        uint32_t next = t + 1 < row->n_tokens ? q->tokens[row->position + t + 1] : row->next_token;
        struct lodge_sampled v = {.token = next};
        if (next == LODGE_NO_PAGE)
            continue;
        v.logprob = score(*place(d, s, row, 0, row->position + t), next);
        add_result(d, (struct lodge_result){.row = i, .index = t, .scored = true, .value = v});
    }
    for (uint32_t k = row->n_draft + 1; row->want & LODGE_WANT_SAMPLE && k > 0; k--) {
        uint64_t last = *place(d, s, row, 0, end - k);
        struct lodge_sampled v = {.token = draw(last, row->sampling->seed, row->sampling->choice),
                                  .fault = d->f->n_steps == d->f->nan_at};
        add_result(d, (struct lodge_result){.row = i, .index = row->n_tokens - k, .value = v});
    }
}

static int step_submit(struct lodge_device *d, const struct lodge_step *s, uint64_t *ticket)
{
    struct fake *f = d->f;
    const struct lodge_engine_config *c = &f->en->cfg;
    f->n_steps++;
    TEST_CHECK(s->n_rows && s->n_rows <= c->max_seqs && s->n_tokens <= c->max_step_tokens);
    if (f->on_step)
        f->on_step(f->cookie, s);
    if (f->n_steps == f->fail_submit_at)
        return LODGE_ERR_DEVICE;
    d->n_results = 0;
    d->polls = 0;
    copy_pages(d, s);
    for (uint32_t i = 0; i < s->n_rows; i++)
        run_row(d, s, i);
    *ticket = ++d->ticket;
    return 0;
}

static int step_poll(struct lodge_device *d, uint64_t ticket, struct lodge_step_result *out)
{
    TEST_CHECK(ticket == d->ticket);
    if (d->polls++ < d->f->polls_until_ready)
        return LODGE_ERR_AGAIN;
    if (d->f->n_steps == d->f->fail_poll_at)
        return LODGE_ERR_DEVICE;
    uint64_t now = lodge_now_ns();
    *out = (struct lodge_step_result){
        .results = d->results, .n_results = d->n_results, .begin_ns = now, .end_ns = now + 1};
    return 0;
}

/* ---- the device and the engine around it ---- */

static void page_poison(struct lodge_device *d, uint32_t page)
{
    for (uint32_t t = 0; t < d->page_tokens; t++)
        d->places[(size_t)page * d->page_tokens + t] = POISON;
}

static void poison(void *cookie, uint32_t page)
{
    page_poison(cookie, page);
}

static bool pool_touch(struct lodge_device *d, size_t n_bytes)
{
    (void)n_bytes;
    return d->f->n_untouched && --d->f->n_untouched;
}

static void close_device(struct lodge_device *d)
{
    free(d->places);
    free(d->written);
    free(d->results);
    free(d);
}

static const struct lodge_backend backend = {.abi = LODGE_BACKEND_ABI,
                                             .name = "fake",
                                             .close = close_device,
                                             .pool_touch = pool_touch,
                                             .page_poison = page_poison,
                                             .step_submit = step_submit,
                                             .step_poll = step_poll};

static struct lodge_device *create_device(struct fake *f, const struct fake_config *c)
{
    struct lodge_device *d = calloc(1, sizeof *d);
    d->f = f;
    d->n_pages = c->n_pages;
    d->page_tokens = c->page_tokens;
    d->room = c->max_step_tokens + c->max_seqs;
    d->places = calloc((size_t)c->n_pages * c->page_tokens, sizeof *d->places);
    d->written = calloc(c->n_pages, sizeof *d->written);
    d->results = calloc(d->room, sizeof *d->results);
    return d;
}

/* Letters a..z, and one control token that ends a text. */
static struct lodge_tokenizer *create_tokenizer(void)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz<end>";
    struct lodge_span tokens[FAKE_VOCAB];
    int32_t types[FAKE_VOCAB];
    for (uint32_t i = 0; i < FAKE_VOCAB; i++) {
        tokens[i] = (struct lodge_span){letters + i, i == FAKE_END ? 5 : 1};
        types[i] = i == FAKE_END ? 3 : 1;
    }
    const struct lodge_vocab_source src = {.model = "gpt2",
                                           .pre = "gpt-2",
                                           .n_tokens = FAKE_VOCAB,
                                           .tokens = tokens,
                                           .types = types,
                                           .bos = -1,
                                           .eos = FAKE_END,
                                           .unk = -1,
                                           .pad = -1,
                                           .eot = -1,
                                           .eom = -1,
                                           .add_bos = 0,
                                           .add_eos = 0,
                                           .add_space_prefix = 0};
    struct lodge_tokenizer *t = NULL;
    struct lodge_error e = {0};
    int err = lodge_tokenizer_from_vocab(&src, &t, &e);
    TEST_CHECK(!err, "%s", e.text);
    return t;
}

void fake_open(struct fake *f, const struct fake_config *c)
{
    const struct lodge_engine_config cfg = {.max_seqs = c->max_seqs,
                                            .max_step_tokens = c->max_step_tokens,
                                            .reserve_tokens = c->reserve_tokens,
                                            .max_queue = c->max_queue,
                                            .no_prefix_cache = c->no_prefix_cache,
                                            .policy = c->policy,
                                            .slo_ttft_s = c->slo_ttft_s,
                                            .on_ready = c->on_ready,
                                            .cookie = c->cookie};
    f->en = lodge_engine_create(&cfg);
    f->plan = (struct lodge_plan){.n_groups = c->n_groups, .n_vocab = FAKE_VOCAB};
    f->plan.groups = calloc(c->n_groups, sizeof *f->plan.groups);
    for (uint32_t g = 0; g < c->n_groups; g++)
        f->plan.groups[g] = (struct lodge_layer_group){.n_layers = 1, .window = c->window[g]};
    f->device = create_device(f, c);
    f->en->plan = &f->plan;
    f->en->tokenizer = create_tokenizer();
    f->en->backend = &backend;
    f->en->device = f->device;
    f->en->device_info = (struct lodge_device_info){.page_tokens = c->page_tokens, .depth = 1};
    f->en->info.max_model_len = c->max_model_len;
    f->en->info.page_tokens = c->page_tokens;
    f->en->info.n_vocab = FAKE_VOCAB;
    f->en->info.n_pages = c->n_pages;
    struct lodge_error e = {0};
    int err = lodge_engine_prepare(f->en, c->n_pages, &e);
    TEST_CHECK(!err, "%s", e.text);
    f->en->pool.on_free = poison;
    f->en->pool.cookie = f->device;
}

void fake_finish(struct fake *f)
{
    free(f->plan.groups);
}

void fake_close(struct fake *f)
{
    lodge_engine_free(f->en);
    fake_finish(f);
}
