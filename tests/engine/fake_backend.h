/* A backend whose pages hold histories instead of keys and values.
 *
 * Each place of a page (one token of one layer group) holds a hash of the whole history up to that
 * token: tenant salts, then tokens. A step checks, for every row and group, that all places a query
 * may see hold exactly the history of its sequence, and writes those of its own tokens. So a wrong
 * share, a stale hit of the prefix cache, a bad copy, a page reused too early or a part of the
 * prompt that was never computed fails at the first read. The token drawn is a function of the
 * last history, seed and choice, and fake_reply says what a request must get, whatever else runs.
 *
 * A failed check calls ck_abort. Use from one engine thread.
 */
#ifndef LODGE_TESTS_FAKE_BACKEND_H
#define LODGE_TESTS_FAKE_BACKEND_H

#include "engine/internal.h"

#define FAKE_LETTERS 26u
#define FAKE_END FAKE_LETTERS /* the id that ends a text */
#define FAKE_VOCAB (FAKE_LETTERS + 1u)
#define FAKE_MAX_GROUPS 3u

struct fake_config {
    uint32_t n_pages, page_tokens;
    uint32_t n_groups, window[FAKE_MAX_GROUPS]; /* window 0: full attention */
    uint32_t max_model_len, max_seqs, max_step_tokens, reserve_tokens, max_queue;
    bool no_prefix_cache;
    enum lodge_policy policy;
    double slo_ttft_s;
    void (*on_ready)(void *cookie);
    void *cookie;
};

struct fake {
    struct lodge_engine *en;
    struct lodge_plan plan;
    struct lodge_device *device;
    uint64_t n_steps;
    /* Called before each step with the scheduler's plan in place. */
    void (*on_step)(void *cookie, const struct lodge_step *s);
    void *cookie;
    /* Faults, by number of the step from 1; 0: never. */
    uint64_t fail_submit_at, fail_poll_at, nan_at;
    uint32_t polls_until_ready; /* AGAIN so many times before each result */
    uint32_t n_untouched;       /* calls of pool_touch until all is touched */
};

/* An engine over this backend, without its thread (lodge_engine_start, or lodge_engine_turn). */
void fake_open(struct fake *f, const struct fake_config *c);
/* After lodge_engine_close or lodge_engine_abort_all. Frees what the engine does not. */
void fake_finish(struct fake *f);
/* Frees an engine that never had a thread. */
void fake_close(struct fake *f);

/* What a choice of a request must come to, computed alone. */
struct fake_reply {
    uint32_t tokens[1024];
    uint32_t n;
    enum lodge_finish finish;
    char text[1025];
};
void fake_reply(const struct lodge_request *r, uint32_t choice, uint32_t max_model_len,
                struct fake_reply *out);
/* Log-probability that the backend gives to prompt[index] after what precedes it. */
float fake_score(const struct lodge_request *r, uint32_t index);

#endif
