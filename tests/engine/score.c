#include "tests/engine/score.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Takes one event; true at the last. */
static bool take(const struct lodge_event *ev, struct scored *s, uint32_t n, uint32_t n_greedy,
                 int *err, struct lodge_error *e)
{
    switch (ev->head.kind) {
    case LODGE_EVENT_PROMPT:
        if (ev->index == s->n_scores + 1 && ev->index < n && ev->n_tops) {
            size_t n_tops = ev->n_tops < SCORE_TOPS ? ev->n_tops : SCORE_TOPS;
            memcpy(s->tops + s->n_scores * SCORE_TOPS, lodge_event_tops(ev),
                   n_tops * sizeof *s->tops);
            s->best[s->n_scores] = lodge_event_tops(ev)[0].token;
            s->scores[s->n_scores++] = ev->logprob;
        }
        return false;
    case LODGE_EVENT_TOKEN:
        if (s->n_output < n_greedy)
            s->output[s->n_output++] = ev->token;
        return false;
    case LODGE_EVENT_END:
        s->n_cached = ev->cached_tokens;
        if (ev->finish == LODGE_FINISH_ERROR || ev->finish == LODGE_FINISH_ABORT)
            *err = lodge_fail(e, ev->error, "request ended: %.*s", (int)ev->n_text,
                              lodge_event_text(ev));
        return true;
    default:
        return false;
    }
}

static void greedy_request(struct lodge_request *r, const uint32_t *ids, uint32_t n,
                           uint32_t n_greedy)
{
    lodge_request_init(r);
    r->prompt = ids;
    r->n_prompt = n;
    r->max_tokens = n_greedy;
    r->ignore_eos = true;
}

static int run(struct lodge_engine *en, const struct lodge_request *r, struct scored *out,
               struct lodge_error *e)
{
    struct lodge_stream *stream = NULL;
    uint64_t id;
    const uint32_t n = r->n_prompt;
    int err = lodge_engine_submit(en, r, &stream, &id, e);
    if (err)
        return err;
    *out = (struct scored){.scores = calloc(n + 1, sizeof *out->scores),
                           .best = calloc(n + 1, sizeof *out->best),
                           .tops = calloc(n + 1, SCORE_TOPS * sizeof *out->tops),
                           .output = calloc(r->max_tokens + 1, sizeof *out->output)};
    if (!out->scores || !out->best || !out->tops || !out->output)
        abort();
    struct lodge_buf events;
    lodge_buf_init(&events, (size_t)64 << 20);
    for (bool end = false; !end;) {
        lodge_stream_take(stream, &events);
        size_t at = 0;
        for (const struct lodge_record *x; !end && (x = lodge_record_next(&events, &at));)
            end = take((const struct lodge_event *)x, out, n, r->max_tokens, &err, e);
        if (!end)
            nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
    }
    lodge_stream_close(stream);
    lodge_buf_finish(&events);
    if (err)
        scored_finish(out);
    return err;
}

int score(struct lodge_engine *en, const uint32_t *ids, uint32_t n, uint32_t n_greedy,
          struct scored *out, struct lodge_error *e)
{
    return score_with(en, NULL, 0, ids, n, n_greedy, out, e);
}

int score_with(struct lodge_engine *en, const struct lodge_request_adapter *adapters,
               uint32_t n_adapters, const uint32_t *ids, uint32_t n, uint32_t n_greedy,
               struct scored *out, struct lodge_error *e)
{
    struct lodge_request r;
    greedy_request(&r, ids, n, n_greedy);
    r.want_prompt_scores = true;
    r.n_prompt_tops = SCORE_TOPS;
    for (r.n_adapters = 0; r.n_adapters < n_adapters; r.n_adapters++)
        r.adapters[r.n_adapters] = adapters[r.n_adapters];
    return run(en, &r, out, e);
}

int reply(struct lodge_engine *en, const uint32_t *ids, uint32_t n, uint32_t n_greedy,
          struct scored *out, struct lodge_error *e)
{
    struct lodge_request r;
    greedy_request(&r, ids, n, n_greedy);
    return run(en, &r, out, e);
}
void scored_finish(struct scored *s)
{
    free(s->scores);
    free(s->best);
    free(s->tops);
    free(s->output);
    *s = (struct scored){0};
}
