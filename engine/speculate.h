/* Speculative decoding without a second model: text that repeats itself or its prompt is guessed by
 * looking it up, and a step checks the guesses all at once.
 *
 * A draft is what followed the longest earlier occurrence of the text's last tokens; where the
 * client sent a prediction of its reply, that is looked at first. The step computes the last token
 * and the draft as one row, samples after each of them, and keeps what was guessed right: since a
 * row's bits do not depend on what else a step computes, and a draw depends on seed, position and
 * logits alone, replies are bit for bit what they are without drafts.
 *
 * A guess costs what one more token adds to a step (step_cost.h), and saves a token's step if it is
 * right, which is learned from the sequence's own guesses. Where it does not pay, no draft is made;
 * a sequence that never hits tries once in a while.
 *
 * Source: Saxena 2023, prompt lookup decoding; Yang et al. 2023, LLMA.
 * Pure; owner: the engine thread.
 */
#ifndef LODGE_ENGINE_SPECULATE_H
#define LODGE_ENGINE_SPECULATE_H

#include <stdbool.h>
#include <stdint.h>

#define LODGE_MAX_DRAFT 15u

/* Guesses by how many tokens before them had matched. */
enum lodge_match { LODGE_MATCH_SHORT, LODGE_MATCH_MIDDLE, LODGE_MATCH_LONG, LODGE_MATCH_COUNT };

/* How a sequence's guesses went: decayed counts. */
struct lodge_guesses {
    struct {
        double right, all;
    } by[LODGE_MATCH_COUNT];
    enum lodge_match last; /* of the draft that is being checked */
};

/* Guesses what follows text[0 .. n): writes at most `most` tokens to `draft` (which may lie right
 * behind the text) and returns how many; 0: nothing to go by. `hint` is a prediction of
 * text[n - n_output .. ), or empty. */
uint32_t lodge_draft(const uint32_t *text, uint32_t n, uint32_t n_output, const uint32_t *hint,
                     uint32_t n_hint, uint32_t most, uint32_t *draft, enum lodge_match *how);
/* Tokens that a draft should have, at most `most`, in a step that n_seqs sequences share. `token`
 * is lodge_step_cost_guess. 0 brings the next attempt nearer. */
uint32_t lodge_guesses_length(struct lodge_guesses *g, enum lodge_match how, double token,
                              uint32_t n_seqs, uint32_t most);
/* Whether even certain guesses are worth looking for. */
bool lodge_guesses_may_pay(double token, uint32_t n_seqs);
/* That draft was checked with n tokens, of which n_right were right before the first wrong one. */
void lodge_guesses_observe(struct lodge_guesses *g, uint32_t n, uint32_t n_right);

#endif
