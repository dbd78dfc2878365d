/* Sampling: from one row of logits to one token. This header is the definition.
 *
 * Order of edits (all in fp32, on a copy; `raw` is the untouched row):
 *   1. ids >= n_vocab_text are removed; `allowed` (if given) removes all others; `banned` are
 *      removed
 *   2. logit bias is added
 *   3. repetition penalty over prompt and output tokens (l > 0 ? l / r : l * r), then
 *      frequency * count + presence over output tokens is subtracted
 *   4. temperature 0 (or < 1e-5): the largest logit, the smallest id on ties. Done.
 *   5. logits * (1 / temperature)
 *   6. top_k: the k largest (ties with the k-th: smallest ids first)
 *   7. typical_p, then top_p, then min_p, each on the distribution renormalised over what the
 *      previous kept; each keeps at least one token. Orders break ties by smaller id.
 *   8. Gumbel-max: argmax of logit_i + g_i over what is kept, g_i = -log(-log(u_i)), u_i from
 *      Philox4x32-10 with key = seed and counter (i / 4, position, choice, 0), word i % 4,
 *      u = (word >> 8 + 0.5) * 2^-24.
 * So a draw depends on the request's own seed, position and choice, and on nothing that else
 * runs. Log-probabilities are log-softmax of `raw` (ids >= n_vocab_text removed), before any
 * edit, computed in a fixed order.
 *
 * If the edits leave no token (everything banned), end-of-text handling is the engine's: the
 * sampler returns the largest raw logit and sets `exhausted`.
 *
 * NaN logits are treated as -inf; if no logit is finite the sampler returns `fault`.
 *
 * Source: Salmon et al. 2011 (Philox); Gumbel-max; Meister et al. 2022 (typical).
 */
#ifndef LODGE_KERNELS_SAMPLE_H
#define LODGE_KERNELS_SAMPLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct lodge_bias {
    uint32_t token;
    float value;
};

struct lodge_count {
    uint32_t token;
    uint32_t n_output; /* times in the output */
    uint32_t n_prompt; /* times in the prompt (only zero or not matters) */
};

struct lodge_sampling {
    float temperature;
    uint32_t top_k;                        /* 0: off */
    float top_p, min_p, typical_p;         /* 1, 0, 1: off */
    float repetition, presence, frequency; /* 1, 0, 0: off */
    uint64_t seed;
    uint32_t choice;
    const struct lodge_bias *bias;
    uint32_t n_bias;
    const uint32_t *allowed; /* sorted ids; n_allowed 0: all */
    uint32_t n_allowed;
    const uint32_t *banned; /* any order */
    uint32_t n_banned;
    const struct lodge_count *counts; /* distinct tokens; needed only with penalties */
    uint32_t n_counts;
};

struct lodge_top {
    uint32_t token;
    float logprob;
};

struct lodge_sampled {
    uint32_t token;
    float logprob; /* raw */
    uint32_t rank; /* 1 + number of tokens with a larger raw logit */
    bool exhausted;
    bool fault;
};

/* One row of logits. block_most[b] is the largest of ids [32 b, 32 b + 32) below n (NaN counts as
 * -inf, -inf if there is none): whoever made the row has it at hand, and most of what is below
 * looks at these alone. */
#define LODGE_LOGIT_BLOCK 32u
struct lodge_logits {
    const float *x;          /* (n) fp32 */
    const float *block_most; /* (lodge_logit_blocks(n)) */
    uint32_t n;              /* ids that may be sampled: n_vocab_text */
};

static inline uint32_t lodge_logit_blocks(uint32_t n)
{
    return (n + LODGE_LOGIT_BLOCK - 1) / LODGE_LOGIT_BLOCK;
}

/* A token and its random word. */
struct lodge_word {
    uint32_t token, word;
};
#define LODGE_WORD_BLOCKS 16u /* most blocks of one call of `words` */

/* Passes over a whole row; a backend brings fast ones of the same bits. */
struct lodge_row_ops {
    /* Sum of exp(x[i] * scale - most), product and difference rounded, exp as lodge_ref_exp
     * (kernels/ref/math.h): 16 lanes of doubles, lane i % 16 in rising i, added by halves. */
    double (*exp_sum)(const float *x, uint32_t n, float scale, float most);
    /* block_most of m rows of n logits, row i at x + i * ld, to most + i * ld_most. */
    void (*block_most)(const float *x, size_t ld, unsigned m, uint32_t n, float *most,
                       size_t ld_most);
    /* Those of the random words of step 8, of the ids of blocks [block, block + n_blocks), that are
     * at least their block's need[b], in rising id; returns how many. */
    uint32_t (*words)(const struct lodge_sampling *s, uint32_t position, uint32_t block,
                      uint32_t n_blocks, const uint32_t *need, struct lodge_word *out);
};
/* The plain ones. */
extern const struct lodge_row_ops lodge_row_ops_ref;

/* Bytes of scratch that lodge_sample needs for rows of n logits. */
size_t lodge_sample_scratch_bytes(uint32_t n);

/* Draws one token. scratch: as above, 64-byte aligned. If want_logprob is false, logprob and rank
 * may be left 0. */
void lodge_sample(const struct lodge_row_ops *ops, const struct lodge_logits *raw,
                  const struct lodge_sampling *s, uint32_t position, bool want_logprob,
                  void *scratch, struct lodge_sampled *out);
/* Raw log-probability and rank of a given token. */
void lodge_score(const struct lodge_row_ops *ops, const struct lodge_logits *raw, uint32_t token,
                 struct lodge_sampled *out);
/* The n largest raw log-probabilities, descending, ties by smaller id. Returns how many. */
uint32_t lodge_top_logprobs(const struct lodge_row_ops *ops, const struct lodge_logits *raw,
                            uint32_t n, struct lodge_top *out);

/* Philox4x32-10. */
void lodge_philox(uint64_t key, const uint32_t counter[4], uint32_t out[4]);

#endif
