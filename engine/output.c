/* After a step: tokens become text, stops are found, events are posted, sequences end. */
#include "engine/internal.h"

#include "base/clock.h"

#include <string.h>

static void post(struct lodge_engine *en, struct lodge_inflight *q, enum lodge_event_kind kind,
                 struct lodge_event ev, const struct lodge_top *tops, const char *text)
{
    lodge_stream_post(q->stream, kind, ev, tops, text);
    lodge_ready_add(&en->ready, q->stream);
    en->any_event = true;
}

void lodge_output_started(struct lodge_engine *en, struct lodge_inflight *q)
{
    if (q->started)
        return;
    q->started = true;
    q->started_ns = lodge_now_ns();
    post(en, q, LODGE_EVENT_STARTED,
         (struct lodge_event){.time_ns = q->started_ns, .cached_tokens = q->cached_tokens}, NULL,
         NULL);
}

/* ---- what may not come next ---- */

static bool ends_with(const struct lodge_seq *q, const uint32_t *ids, uint32_t n)
{
    return q->n_output >= n && memcmp(q->tokens + q->n_tokens - n, ids, n * sizeof *ids) == 0;
}

void lodge_output_set_banned(struct lodge_engine *en, struct lodge_seq *q)
{
    const struct lodge_request *r = &q->req->r;
    uint32_t n = 0, n_ends;
    for (uint32_t i = 0; i < r->sampling.n_banned; i++)
        q->banned[n++] = r->sampling.banned[i];
    if (q->n_output < r->min_tokens) {
        const uint32_t *ends = lodge_tokenizer_ends_list(en->tokenizer, &n_ends);
        for (uint32_t i = 0; i < n_ends; i++)
            q->banned[n++] = ends[i];
        for (uint32_t i = 0; i < r->stop_ids.n; i++)
            q->banned[n++] = r->stop_ids.ids[i];
    }
    for (uint32_t i = 0; i < r->n_bad_words; i++) {
        const struct lodge_id_list *w = &r->bad_words[i];
        if (w->n && ends_with(q, w->ids, w->n - 1))
            q->banned[n++] = w->ids[w->n - 1];
    }
    q->sampling.banned = q->banned;
    q->sampling.n_banned = n;
    q->sampling.counts = q->counts.list;
    q->sampling.n_counts = q->counts.n;
}

/* ---- ends ---- */

static void forget_request(struct lodge_engine *en, struct lodge_inflight *q)
{
    if (q->prev)
        q->prev->next = q->next;
    else
        en->requests = q->next;
    if (q->next)
        q->next->prev = q->prev;
    lodge_streams_remove(en, q->stream);
    lodge_stream_unref(q->stream);
    lodge_inflight_destroy(q);
    atomic_fetch_sub(&en->n_active, 1);
}

static void end_request(struct lodge_engine *en, struct lodge_inflight *q)
{
    uint64_t now = lodge_now_ns();
    uint64_t started = q->started_ns ? q->started_ns : now;
    uint64_t first = q->first_token_ns ? q->first_token_ns : now;
    atomic_fetch_sub(q->started ? &en->n_running : &en->n_waiting, 1);
    struct lodge_event ev = {
        .time_ns = now,
        .finish = q->finish,
        .error = q->error,
        .prompt_tokens = q->r.n_prompt,
        .cached_tokens = q->cached_tokens,
        .output_tokens = q->output_tokens,
        .n_preempted = q->n_preempted,
        .drafted_tokens = q->drafted_tokens,
        .accepted_tokens = q->accepted_tokens,
        .queued_ns = started - q->arrived_ns,
        .prefill_ns = first - started,
        .decode_ns = now - first,
        .page_seconds = q->page_ns * 1e-9,
    };
    const char *text = q->error ? lodge_error_text(q->error) : "";
    ev.n_text = (uint32_t)strlen(text);
    atomic_store(&q->stream->finished, true);
    post(en, q, LODGE_EVENT_END, ev, NULL, text);
    en->live.finished[q->finish]++;
    forget_request(en, q);
}

void lodge_output_finish(struct lodge_engine *en, struct lodge_seq *q, enum lodge_finish finish,
                         int32_t error, int32_t stop_index, int64_t stop_token)
{
    struct lodge_inflight *req = q->req;
    lodge_buf_clear(&en->raw);
    lodge_buf_clear(&en->text);
    if (stop_index < 0) { /* a matched stop string ends the text: nothing is held */
        lodge_detok_flush(&q->detok, &en->raw);
        int hit = lodge_stop_feed(req->stops, &q->stop, lodge_buf_text(&en->raw), en->raw.n,
                                  req->r.include_stop, &en->text);
        if (hit < 0)
            lodge_stop_flush(&q->stop, &en->text);
    }
    lodge_sched_remove(&en->sched, q);
    struct lodge_event ev = {.time_ns = lodge_now_ns(),
                             .choice = q->choice,
                             .index = q->n_output,
                             .finish = finish,
                             .error = error,
                             .stop_index = stop_index,
                             .stop_token = stop_token,
                             .n_text = (uint32_t)en->text.n};
    post(en, req, LODGE_EVENT_FINISH, ev, NULL, lodge_buf_text(&en->text));
    if (finish > req->finish)
        req->finish = finish;
    if (error)
        req->error = error;
    if (--req->n_live == 0)
        end_request(en, req);
}

void lodge_output_abort(struct lodge_engine *en, struct lodge_inflight *q, enum lodge_finish finish,
                        int32_t error)
{
    uint32_t n = q->r.n_choices;
    for (uint32_t i = 0; i < n; i++)
        if (q->seqs[i].state != LODGE_SEQ_DONE) {
            bool last = q->n_live == 1;
            lodge_output_finish(en, &q->seqs[i], finish, error, -1, -1);
            if (last)
                return; /* the request is gone */
        }
}

/* ---- tokens ---- */

static bool is_stop_id(const struct lodge_request *r, uint32_t token)
{
    for (uint32_t i = 0; i < r->stop_ids.n; i++)
        if (r->stop_ids.ids[i] == token)
            return true;
    return false;
}

/* Text of the token that ended a choice stays out, unless it is wanted. */
static void push_text(struct lodge_engine *en, struct lodge_seq *q, uint32_t token, bool show,
                      int *stop_index)
{
    lodge_buf_clear(&en->raw);
    lodge_buf_clear(&en->text);
    if (show)
        lodge_detok_push(&q->detok, token, &en->raw);
    /* Stop strings count from min_tokens on. */
    bool armed = q->n_output > q->req->r.min_tokens || !q->req->r.min_tokens;
    *stop_index = lodge_stop_feed(armed ? q->req->stops : NULL, &q->stop, lodge_buf_text(&en->raw),
                                  en->raw.n, q->req->r.include_stop, &en->text);
}

static void wake_forks(struct lodge_engine *en, struct lodge_inflight *q)
{
    for (uint32_t i = 1; i < q->r.n_choices; i++)
        if (q->seqs[i].state == LODGE_SEQ_PARKED)
            lodge_sched_enqueue(&en->sched, &q->seqs[i]);
}

/* False when that ended the sequence. */
static bool sampled(struct lodge_engine *en, struct lodge_seq *q, const struct lodge_result *r,
                    const struct lodge_step_result *step)
{
    struct lodge_inflight *req = q->req;
    uint32_t token = r->value.token;
    if (r->value.fault) { /* no finite logit: nor are keys and values to be shared */
        lodge_sched_distrust(&en->sched, q);
        lodge_output_finish(en, q, LODGE_FINISH_ERROR, LODGE_ERR_INTERNAL, -1, -1);
        return false;
    }
    if (!req->first_token_ns)
        req->first_token_ns = step->end_ns;
    q->tokens[q->n_tokens++] = token;
    q->n_output++;
    req->output_tokens++;
    en->live.output_tokens++;
    lodge_counts_add(&q->counts, token, true);
    bool ends = (!req->r.ignore_eos && lodge_tokenizer_ends(en->tokenizer, token)) ||
                is_stop_id(&req->r, token);
    int stop_index;
    push_text(en, q, token, !ends || req->r.include_stop, &stop_index);
    struct lodge_event ev = {.time_ns = step->end_ns,
                             .choice = q->choice,
                             .index = q->n_output - 1,
                             .token = token,
                             .logprob = r->value.logprob,
                             .rank = r->value.rank,
                             .n_tops = r->n_top,
                             .n_text = (uint32_t)en->text.n};
    post(en, req, LODGE_EVENT_TOKEN, ev, step->tops + r->first_top, lodge_buf_text(&en->text));
    if (stop_index >= 0)
        lodge_output_finish(en, q, LODGE_FINISH_STOP, 0, stop_index, -1);
    else if (ends || r->value.exhausted)
        lodge_output_finish(en, q, LODGE_FINISH_STOP, 0, -1, token);
    else if (q->n_output >= q->max_output)
        lodge_output_finish(en, q, LODGE_FINISH_LENGTH, 0, -1, -1);
    else
        return true;
    return false;
}

static void scored(struct lodge_engine *en, struct lodge_seq *q, const struct lodge_result *r,
                   uint32_t position, const struct lodge_step_result *step)
{
    uint32_t index = position + r->index + 1; /* the token that was scored */
    if (index < q->n_scored || index >= q->n_prompt)
        return;
    q->n_scored = index + 1;
    struct lodge_event ev = {.time_ns = step->end_ns,
                             .index = index,
                             .token = q->tokens[index],
                             .logprob = r->value.logprob,
                             .rank = r->value.rank,
                             .n_tops = r->n_top};
    post(en, q->req, LODGE_EVENT_PROMPT, ev, step->tops + r->first_top, NULL);
}

bool lodge_output_result(struct lodge_engine *en, const struct lodge_planned *row,
                         const struct lodge_result *r, const struct lodge_step_result *step)
{
    struct lodge_seq *q = row->seq;
    if (r->scored) {
        scored(en, q, r, row->position, step);
        return true;
    }
    if (q->choice == 0 && q->n_output == 0)
        wake_forks(en, q->req);
    return sampled(en, q, r, step);
}

void lodge_output_prompt_only(struct lodge_engine *en, struct lodge_seq *q)
{
    wake_forks(en, q->req);
    if (!q->req->first_token_ns)
        q->req->first_token_ns = lodge_now_ns();
    lodge_output_finish(en, q, LODGE_FINISH_LENGTH, 0, -1, -1);
}
