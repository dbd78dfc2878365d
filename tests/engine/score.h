/* Scoring a prompt through the real engine, for the golden tests. */
#ifndef TESTS_ENGINE_SCORE_H
#define TESTS_ENGINE_SCORE_H

#include "engine/engine.h"

#define SCORE_TOPS 20u

struct scored {
    float *scores;          /* log-probability of prompt token i + 1 given those before */
    uint32_t *best;         /* likeliest token in its place */
    struct lodge_top *tops; /* SCORE_TOPS for each score, likeliest first */
    size_t n_scores;
    uint32_t *output; /* greedy continuation */
    size_t n_output;
    uint32_t n_cached; /* prompt tokens that a prefix hit saved */
};

/* Runs one request to its end. 0, or the error that it ended with. The caller ends *out by
 * scored_finish when 0 is returned. */
int score(struct lodge_engine *en, const uint32_t *ids, uint32_t n, uint32_t n_greedy,
          struct scored *out, struct lodge_error *e);
/* Without scores, so that it may hit the prefix cache. */
int reply(struct lodge_engine *en, const uint32_t *ids, uint32_t n, uint32_t n_greedy,
          struct scored *out, struct lodge_error *e);
/* The first with adapters. */
int score_with(struct lodge_engine *en, const struct lodge_request_adapter *adapters,
               uint32_t n_adapters, const uint32_t *ids, uint32_t n, uint32_t n_greedy,
               struct scored *out, struct lodge_error *e);
void scored_finish(struct scored *s);

#endif
