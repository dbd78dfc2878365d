/* What steps take of late, learned from those that ran: what a guessed token adds to a step that
 * decodes (speculate.h), and what a prompt's token adds, so that prompts do not make running
 * replies wait for long.
 *
 * Owner: the engine thread.
 */
#ifndef LODGE_ENGINE_STEP_COST_H
#define LODGE_ENGINE_STEP_COST_H

#include <stdint.h>

/* Beside replies, one prompt may double what a step takes without it, n of them lengthen it n + 1
 * times, up to so many: who waits for a first token and who waits for the next one get about the
 * same. In any case a step may take so long. */
#define LODGE_STEP_MOST_GROWTH 8u
#define LODGE_STEP_NS 50000000.0
/* Fewer tokens of prompts would make their share of a step's fixed costs too large. */
#define LODGE_STEP_PROMPT_TOKENS 16u

struct lodge_step_cost {
    double plain_ns;  /* a step that only decodes, without guesses */
    double guess_ns;  /* a guess adds */
    double prompt_ns; /* a token of a prompt adds; each 0: not known */
};

struct lodge_step_size {
    uint32_t n_decodes, n_guesses, n_prompt; /* tokens */
};

void lodge_step_cost_observe(struct lodge_step_cost *c, const struct lodge_step_size *s, double ns);
/* One guess as a part of a step without any. */
double lodge_step_cost_guess(const struct lodge_step_cost *c);
/* Tokens of prompts that a step may have beside replies, when so many requests wait for their
 * prompt to be computed; UINT32_MAX: nothing is known yet. */
uint32_t lodge_step_cost_prompt_tokens(const struct lodge_step_cost *c, uint32_t n_prompts);

#endif
