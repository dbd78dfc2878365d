/* One iteration: the scheduler's rows become a backend step, its results become output. */
#include "engine/internal.h"

#include "base/clock.h"

#include <string.h>

/* Block tables of all groups of a sequence, copied side by side. */
static void put_table(struct lodge_engine *en, const struct lodge_seq *q, struct lodge_row *row,
                      uint32_t *n_pages)
{
    row->table = *n_pages;
    row->n_blocks = q->n_blocks;
    for (uint32_t g = 0; g < en->plan->n_groups; g++) {
        memcpy(en->step_pages + *n_pages, q->pages + (size_t)g * q->max_blocks,
               q->n_blocks * sizeof *q->pages);
        *n_pages += q->n_blocks;
    }
}

static void put_adapters(struct lodge_engine *en, const struct lodge_inflight *q,
                         struct lodge_row *row, struct lodge_step *s)
{
    row->first_adapter = s->n_adapters;
    row->n_adapters = q->r.n_adapters;
    for (uint32_t i = 0; i < q->r.n_adapters; i++)
        en->step_adapters[s->n_adapters++] =
            (struct lodge_row_adapter){q->versions[i]->slot, q->r.adapters[i].scale};
}

static bool before(const struct lodge_planned *x, const struct lodge_planned *y)
{
    const struct lodge_inflight *p = x->seq->req, *q = y->seq->req;
    uint32_t m = p->r.n_adapters ? p->versions[0]->slot + 1 : 0;
    uint32_t n = q->r.n_adapters ? q->versions[0]->slot + 1 : 0;
    return m != n ? m < n : m && p->r.adapters[0].scale < q->r.adapters[0].scale;
}

/* Rows of one adapter side by side, base rows first: its matrices are read once for all of them.
 * Insertion: stable, in place, and rows that are in order cost nothing. */
static void sort_rows(struct lodge_sched *s)
{
    for (uint32_t i = 1; i < s->n_rows; i++) {
        struct lodge_planned row = s->rows[i];
        uint32_t at = i;
        for (; at && before(&row, &s->rows[at - 1]); at--)
            s->rows[at] = s->rows[at - 1];
        s->rows[at] = row;
    }
}

static void put_row(struct lodge_engine *en, const struct lodge_planned *p, struct lodge_step *s)
{
    struct lodge_seq *q = p->seq;
    const struct lodge_request *r = &q->req->r;
    struct lodge_row *row = &en->rows[s->n_rows++];
    *row = (struct lodge_row){.slot = q->slot,
                              .position = p->position,
                              .n_tokens = p->n_tokens,
                              .first_token = s->n_tokens,
                              .next_token = LODGE_NO_PAGE};
    /* A draft lies behind the sequence's tokens. */
    memcpy(en->step_tokens + s->n_tokens, q->tokens + p->position, p->n_tokens * sizeof *q->tokens);
    s->n_tokens += p->n_tokens;
    put_table(en, q, row, &s->n_pages);
    put_adapters(en, q->req, row, s);
    if (p->sample && q->max_output) {
        lodge_output_set_banned(en, q);
        row->want |= LODGE_WANT_SAMPLE;
        row->sampling = &q->sampling;
        row->n_draft = p->n_draft;
        row->want_logprob = r->want_logprobs;
        row->n_top = r->want_logprobs ? r->n_tops : 0;
    }
    /* The row can score its own tokens but the first, and the one after its last. */
    uint32_t end = p->position + p->n_tokens;
    if (r->want_prompt_scores && q->choice == 0 && p->position + 1 < q->n_prompt &&
        q->n_scored < q->n_prompt && end >= q->n_scored) {
        row->want |= LODGE_WANT_SCORES;
        row->n_top = r->n_prompt_tops > row->n_top ? r->n_prompt_tops : row->n_top;
        if (end < q->n_prompt)
            row->next_token = q->tokens[end];
    }
}

/* Bucket of a step's size: <= 1, 8, 16, 32 .. 16384, more. */
static uint32_t bucket_of(uint32_t n_tokens)
{
    uint32_t b = 0;
    for (uint32_t most = 1; b < 15 && n_tokens > most; b++)
        most = most == 1 ? 8 : most * 2;
    return b;
}

static uint32_t pages_held(const struct lodge_engine *en, const struct lodge_seq *q)
{
    uint32_t n = 0;
    for (uint32_t g = 0; g < en->plan->n_groups; g++)
        n += q->n_blocks - q->freed_front[g];
    return n;
}

/* Memory to memory, and files in the page cache with packing. */
#define COPY_BYTES_PER_NS 8.0
#define LOAD_BYTES_PER_NS 0.5

/* What getting back a page of keys or of an adapter costs, for eviction. The price of a token is
 * measured; those of bytes need only the right order. */
static void learn_costs(struct lodge_engine *en)
{
    if (!en->residency || !(en->step_cost.prompt_ns > 0))
        return;
    double page = (double)en->adapters.page_cells * LODGE_CELL_BYTES;
    const struct lodge_residency_cost cost = {.upload_page = page / COPY_BYTES_PER_NS,
                                              .load_page = page / LOAD_BYTES_PER_NS,
                                              .token = en->step_cost.prompt_ns};
    lodge_residency_set_cost(en->residency, &cost);
}

/* Bytes of the distinct adapters of the planned rows. */
static uint64_t adapter_bytes(struct lodge_engine *en, uint64_t step)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; en->sched.n_step_ranks && i < en->sched.n_rows; i++) {
        const struct lodge_inflight *q = en->sched.rows[i].seq->req;
        for (uint32_t k = 0; k < q->r.n_adapters; k++) {
            struct lodge_adapter_version *v = q->versions[k];
            sum += v->stepped == step ? 0 : v->step_bytes;
            v->stepped = step;
        }
    }
    return sum;
}

static struct lodge_step_size size_of(const struct lodge_step *s)
{
    struct lodge_step_size z = {0};
    for (uint32_t i = 0; i < s->n_rows; i++) {
        const struct lodge_row *row = &s->rows[i];
        uint32_t own = row->n_tokens - row->n_draft;
        z.n_guesses += row->n_draft;
        *(own == 1 ? &z.n_decodes : &z.n_prompt) += own;
    }
    return z;
}

static void count_step(struct lodge_engine *en, const struct lodge_step *s,
                       const struct lodge_step_result *res)
{
    struct lodge_engine_stats *st = &en->live;
    st->step_tokens_bucket[bucket_of(s->n_tokens)]++;
    st->step_tokens_sum += s->n_tokens;
    st->n_steps++;
    st->step_ns += res->end_ns - res->begin_ns;
    st->adapter_rank_bytes = adapter_bytes(en, st->n_steps);
    double ns = (double)(res->end_ns - res->begin_ns);
    en->last_step_ns = res->end_ns - res->begin_ns + 1;
    const struct lodge_step_size size = size_of(s);
    lodge_step_cost_observe(&en->step_cost, &size, ns);
    learn_costs(en);
    /* Pages are held by all that run, whether they have a row or not. */
    for (struct lodge_seq *q = en->sched.running.first; q; q = q->next)
        q->req->page_ns += ns * pages_held(en, q);
    for (uint32_t i = 0; i < en->sched.n_rows; i++) {
        const struct lodge_planned *row = &en->sched.rows[i];
        struct lodge_seq *q = row->seq;
        uint32_t end = row->position + row->n_tokens;
        /* A prompt counts once, whole, when it is done: cached part and all choices included. */
        if (q->choice == 0 && row->position < q->n_prompt && end >= q->n_prompt &&
            !q->req->first_token_ns) {
            st->prompt_tokens += q->n_prompt;
            st->cached_prompt_tokens += q->req->cached_tokens;
        }
    }
}

/* Guesses of a row that its samples confirm. */
static uint32_t count_right(const struct lodge_planned *row, const struct lodge_result *samples)
{
    const uint32_t *draft = row->seq->tokens + row->seq->n_tokens;
    uint32_t n = 0;
    while (n < row->n_draft && !samples[n].value.fault && samples[n].value.token == draft[n])
        n++;
    return n;
}

/* Cuts the row to what was guessed right; returns how many of its samples do not count. */
static uint32_t check_draft(struct lodge_engine *en, struct lodge_planned *row,
                            const struct lodge_result *samples)
{
    uint32_t n = row->n_draft, right = count_right(row, samples);
    struct lodge_inflight *q = row->seq->req;
    lodge_guesses_observe(&row->seq->guesses, n, right);
    lodge_sched_accepted(&en->sched, row, right);
    q->drafted_tokens += n;
    q->accepted_tokens += right;
    en->live.n_drafts++;
    en->live.drafted_tokens += n;
    en->live.accepted_tokens += right;
    return n - right;
}

/* The rows a result belongs to stay valid: a sequence that ends is only freed with its request,
 * after all its rows were handled. */
static void deliver(struct lodge_engine *en, const struct lodge_step_result *res)
{
    uint32_t next = 0;
    for (uint32_t i = 0; i < en->sched.n_rows; i++) {
        struct lodge_planned row = en->sched.rows[i];
        uint32_t first = next, wrong = 0;
        while (next < res->n_results && res->results[next].row == i)
            next++;
        if (row.n_draft)
            wrong = check_draft(en, &row, res->results + next - 1 - row.n_draft);
        bool alive = true, prompt_only = row.sample && !row.seq->max_output;
        lodge_sched_computed(&en->sched, &row);
        for (uint32_t k = first; k < next - wrong && alive; k++)
            alive = lodge_output_result(en, &row, &res->results[k], res);
        if (prompt_only)
            lodge_output_prompt_only(en, row.seq);
    }
}

static void fail_step(struct lodge_engine *en, int err)
{
    lodge_log_text(en->cfg.log, LODGE_LOG_ERROR, "engine", "a step failed: %s",
                   lodge_error_text(err));
    while (en->sched.running.first)
        lodge_output_abort(en, en->sched.running.first->req, LODGE_FINISH_ERROR,
                           LODGE_ERR_INTERNAL);
}

/* ---- guesses ---- */

/* Penalties, bad words and least lengths change with each token, so what they allow after a guess
 * is not known in time. */
static bool may_guess(const struct lodge_engine *en, const struct lodge_seq *q)
{
    const struct lodge_request *r = &q->req->r;
    return (r->speculate || en->cfg.speculate) && q->n_output && !q->counts.list &&
           !r->n_bad_words && q->n_output >= r->min_tokens && q->n_computed + 1 == q->n_tokens;
}

static void guess(struct lodge_engine *en)
{
    double token = lodge_step_cost_guess(&en->step_cost);
    bool may_pay = lodge_guesses_may_pay(token, en->sched.running.n);
    for (struct lodge_seq *q = en->sched.running.first; q; q = q->next) {
        const struct lodge_id_list *hint = &q->req->r.prediction;
        uint32_t left = q->max_output - q->n_output;
        uint32_t most = left - 1 < LODGE_MAX_DRAFT ? left - 1 : LODGE_MAX_DRAFT;
        q->n_draft = 0;
        if (!left || !may_pay || !may_guess(en, q))
            continue;
        enum lodge_match how;
        uint32_t n = lodge_draft(q->tokens, q->n_tokens, q->n_output, hint->ids, hint->n, most,
                                 q->tokens + q->n_tokens, &how);
        if (n)
            q->n_draft = lodge_guesses_length(&q->guesses, how, token, en->sched.running.n, n);
    }
}

/* Sequences that wait for their prompt, in the queue or in chunks. */
static uint32_t count_prompts(const struct lodge_engine *en)
{
    uint32_t n = atomic_load(&en->n_waiting);
    for (const struct lodge_seq *q = en->sched.running.first; q; q = q->next)
        n += q->n_tokens - q->n_computed > 1;
    return n;
}

bool lodge_engine_step(struct lodge_engine *en)
{
    guess(en);
    en->sched.prompt_tokens = lodge_step_cost_prompt_tokens(&en->step_cost, count_prompts(en));
    lodge_sched_plan(&en->sched, lodge_now_ns());
    for (uint32_t i = 0; i < en->sched.n_rows; i++)
        if (!en->sched.rows[i].seq->req->started) {
            atomic_fetch_sub(&en->n_waiting, 1);
            atomic_fetch_add(&en->n_running, 1);
            lodge_output_started(en, en->sched.rows[i].seq->req);
        }
    if (!en->sched.n_rows)
        return false;
    struct lodge_step s = {.rows = en->rows,
                           .tokens = en->step_tokens,
                           .pages = en->step_pages,
                           .adapters = en->step_adapters,
                           .copies = en->sched.copies,
                           .n_copies = en->sched.n_copies};
    if (en->sched.n_step_ranks)
        sort_rows(&en->sched);
    for (uint32_t i = 0; i < en->sched.n_rows; i++)
        put_row(en, &en->sched.rows[i], &s);
    uint64_t ticket = 0;
    struct lodge_step_result res;
    int err = en->backend->step_submit(en->device, &s, &ticket);
    if (!err) {
        lodge_pool_submitted(&en->pool, ticket);
        lodge_sched_submitted(&en->sched);
        while ((err = en->backend->step_poll(en->device, ticket, &res)) == LODGE_ERR_AGAIN)
            ;
        lodge_pool_retired(&en->pool, ticket);
    }
    if (err) {
        lodge_sched_submitted(&en->sched);
        fail_step(en, err);
        return true;
    }
    count_step(en, &s, &res);
    deliver(en, &res);
    return true;
}
