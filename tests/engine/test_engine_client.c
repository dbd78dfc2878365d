#include "tests/engine/test_engine_client.h"

#include <string.h>

static uint32_t document_letter(uint32_t document, uint32_t at)
{
    uint32_t which = at < CLIENT_MAX_PROMPT / 4 ? 0 : document;
    return (uint32_t)(test_mix(which * 100003u + at) % FAKE_LETTERS);
}

static void draw_prompt(struct client *c, struct test_random *rnd, uint32_t max_model_len)
{
    uint32_t most = max_model_len - 1 < CLIENT_MAX_PROMPT ? max_model_len - 1 : CLIENT_MAX_PROMPT;
    uint32_t n = test_between(rnd, 1, most), document = test_below(rnd, 4);
    for (uint32_t i = 0; i < n; i++)
        c->prompt[i] = document_letter(document, i);
    for (uint32_t own = test_once_in(rnd, 2) ? test_below(rnd, n) : 0; own > 0; own--)
        c->prompt[n - own] = test_below(rnd, FAKE_LETTERS);
    c->r.prompt = c->prompt;
    c->r.n_prompt = n;
}

static void draw_stop(struct client *c, struct test_random *rnd)
{
    uint32_t n = test_between(rnd, 1, 3);
    for (uint32_t i = 0; i < n; i++)
        c->stop[i] = (char)('a' + test_below(rnd, FAKE_LETTERS));
    c->r.stops[0] = (struct lodge_bytes){c->stop, n};
    c->r.n_stops = 1;
    c->r.include_stop = test_once_in(rnd, 2);
}

/* Predicts the reply of the first choice, with some letters wrong and some left out. */
static void draw_prediction(struct client *c, struct test_random *rnd, uint32_t max_model_len)
{
    struct fake_reply want;
    uint32_t n = 0, fault = 1u << test_between(rnd, 1, 6);
    fake_reply(&c->r, 0, max_model_len, &want);
    for (uint32_t i = 0; i < want.n; i++)
        if (!test_once_in(rnd, fault))
            c->prediction[n++] =
                test_once_in(rnd, fault) ? test_below(rnd, FAKE_VOCAB) : want.tokens[i];
    c->r.speculate = true;
    c->r.prediction = (struct lodge_id_list){c->prediction, test_once_in(rnd, 4) ? 0 : n};
}

void client_draw(struct client *c, struct test_random *rnd, uint32_t max_model_len,
                 uint32_t page_tokens)
{
    (void)page_tokens;
    memset(c, 0, sizeof *c);
    lodge_request_init(&c->r);
    draw_prompt(c, rnd, max_model_len);
    c->r.max_tokens = test_once_in(rnd, 10) ? 0 : test_between(rnd, 1, max_model_len);
    c->r.n_choices = test_once_in(rnd, 4) ? test_between(rnd, 2, CLIENT_MAX_CHOICES) : 1;
    c->r.has_seed = true;
    c->r.sampling.seed = test_next(rnd);
    c->r.ignore_eos = test_once_in(rnd, 3);
    c->r.want_prompt_scores = test_once_in(rnd, 6);
    c->r.priority = (int32_t)test_below(rnd, 3) - 1;
    c->r.tenant = test_below(rnd, 5);
    c->r.tier = test_below(rnd, 3);
    c->r.weight = (float)test_below(rnd, 4);
    c->r.tenant_salt.bytes[0] = (uint8_t)test_below(rnd, 2);
    if (test_once_in(rnd, 4)) {
        c->salt[0] = (char)('0' + test_below(rnd, 2));
        c->r.cache_salt = (struct lodge_bytes){c->salt, 1};
    }
    if (test_once_in(rnd, 4))
        draw_stop(c, rnd);
    if (test_once_in(rnd, 2))
        draw_prediction(c, rnd, max_model_len);
}

int client_submit(struct client *c, struct lodge_engine *en)
{
    struct lodge_error e = {0};
    return lodge_engine_submit(en, &c->r, &c->stream, &c->id, &e);
}

static void take_event(struct client *c, const struct lodge_event *ev)
{
    TEST_CHECK(!c->ended, "an event of kind %u after the last", ev->head.kind);
    TEST_CHECK(ev->choice < c->r.n_choices);
    struct client_choice *got = &c->got[ev->choice];
    TEST_CHECK(c->started || ev->head.kind == LODGE_EVENT_STARTED ||
               ev->finish >= LODGE_FINISH_ABORT);
    switch (ev->head.kind) {
    case LODGE_EVENT_STARTED:
        TEST_CHECK(!c->started);
        c->started = true;
        c->cached_tokens = ev->cached_tokens;
        return;
    case LODGE_EVENT_PROMPT:
        TEST_CHECK(ev->index == c->n_scored + 1, "score %u after %u", ev->index, c->n_scored);
        TEST_CHECK(ev->token == c->prompt[ev->index]);
        TEST_CHECK(ev->logprob == fake_score(&c->r, ev->index), "score of token %u", ev->index);
        c->n_scored++;
        return;
    case LODGE_EVENT_TOKEN:
        TEST_CHECK(!got->finished && ev->index == got->n && got->n < 1024);
        got->tokens[got->n++] = ev->token;
        break;
    case LODGE_EVENT_FINISH:
        TEST_CHECK(!got->finished);
        got->finished = true;
        got->finish = ev->finish;
        break;
    case LODGE_EVENT_END:
        c->ended = true;
        c->finish = ev->finish;
        c->error = ev->error;
        for (uint32_t i = 0; i < c->r.n_choices; i++)
            TEST_CHECK(c->got[i].finished, "choice %u has no end", i);
        return;
    default:
        TEST_CHECK(false, "kind %u", ev->head.kind);
    }
    TEST_CHECK(got->n_text + ev->n_text < sizeof got->text);
    memcpy(got->text + got->n_text, lodge_event_text(ev), ev->n_text);
    got->n_text += ev->n_text;
}

void client_take(struct client *c, struct lodge_buf *scratch)
{
    lodge_stream_take(c->stream, scratch);
    size_t at = 0;
    for (const struct lodge_record *r; (r = lodge_record_next(scratch, &at));)
        take_event(c, (const struct lodge_event *)r);
}

static void check_choice(const struct client *c, uint32_t choice, uint32_t max_model_len)
{
    const struct client_choice *got = &c->got[choice];
    struct fake_reply want;
    fake_reply(&c->r, choice, max_model_len, &want);
    bool whole = got->finish <= LODGE_FINISH_LENGTH;
    TEST_CHECK(whole ? got->n == want.n : got->n <= want.n, "choice %u: %u tokens, not %u", choice,
               got->n, want.n);
    for (uint32_t i = 0; i < got->n; i++)
        TEST_CHECK(got->tokens[i] == want.tokens[i], "choice %u: token %u", choice, i);
    if (!whole)
        return;
    TEST_CHECK(got->finish == want.finish, "choice %u: %d, not %d", choice, got->finish,
               want.finish);
    TEST_CHECK(strcmp(got->text, want.text) == 0, "choice %u: '%s', not '%s'", choice, got->text,
               want.text);
}

void client_check(const struct client *c, uint32_t max_model_len, uint32_t page_tokens)
{
    TEST_CHECK(c->ended);
    for (uint32_t i = 0; i < c->r.n_choices; i++)
        check_choice(c, i, max_model_len);
    TEST_CHECK(c->cached_tokens % page_tokens == 0 && c->cached_tokens < c->r.n_prompt,
               "%u of %u prompt tokens from the cache", c->cached_tokens, c->r.n_prompt);
    TEST_CHECK(!c->r.want_prompt_scores || !c->cached_tokens);
    TEST_CHECK(c->finish >= LODGE_FINISH_ABORT ||
               c->n_scored == (c->r.want_prompt_scores ? c->r.n_prompt - 1 : 0));
}
