#include "engine/speculate.h"

#include <string.h>

/* ---- what a token costs ---- */

#define COST_DECAY 0.98
#define SMALL_STEP 64u
/* Before steps of different sizes were seen. */
#define FIRST_TOKEN_COST (1.0 / 16)

void lodge_step_cost_observe(struct lodge_step_cost *c, uint32_t n_tokens, double ns)
{
    double n = n_tokens;
    if (n_tokens > SMALL_STEP)
        return;
    c->w = c->w * COST_DECAY + 1;
    c->n = c->n * COST_DECAY + n;
    c->nn = c->nn * COST_DECAY + n * n;
    c->t = c->t * COST_DECAY + ns;
    c->nt = c->nt * COST_DECAY + n * ns;
}

double lodge_step_cost_token(const struct lodge_step_cost *c)
{
    double spread = c->w * c->nn - c->n * c->n;
    if (!(spread > 0.25 * c->w * c->w) || !(c->t > 0))
        return FIRST_TOKEN_COST;
    double slope = (c->w * c->nt - c->n * c->t) / spread;
    double part = slope / (c->t / c->w);
    return part < 0.005 ? 0.005 : part > 1 ? 1 : part;
}

/* ---- whether it pays ---- */

#define GUESS_DECAY 0.95
#define FORGET 0.98 /* at each draft that was not made */
#define PRIOR_RIGHT 0.3
#define PRIOR_ALL 0.5

void lodge_guesses_observe(struct lodge_guesses *g, uint32_t n, uint32_t n_right)
{
    for (uint32_t i = 0; i < n && i <= n_right; i++) {
        g->right = g->right * GUESS_DECAY + (i < n_right);
        g->all = g->all * GUESS_DECAY + 1;
    }
}

uint32_t lodge_guesses_length(struct lodge_guesses *g, double token, uint32_t n_seqs, uint32_t most)
{
    double right = (g->right + PRIOR_RIGHT) / (g->all + PRIOR_ALL);
    double saves = right / n_seqs; /* of a step's time, by the next token of the draft */
    uint32_t n = 0;
    for (; n < most && saves > token; n++)
        saves *= right;
    if (!n) {
        g->right *= FORGET;
        g->all *= FORGET;
    }
    return n;
}

/* ---- looking up ---- */

#define MIN_MATCH 2u
#define MAX_MATCH 16u
#define MAX_LOOK 16384u

/* Tokens before `end` of `in` that are the last ones of the text, at most MAX_MATCH. */
static uint32_t match(const uint32_t *text, uint32_t n, const uint32_t *in, uint32_t end)
{
    uint32_t most = n < end ? n : end, m = 0;
    most = most < MAX_MATCH ? most : MAX_MATCH;
    while (m < most && in[end - 1 - m] == text[n - 1 - m])
        m++;
    return m;
}

/* Where the longest match ends, the latest of them; 0: there is none of MIN_MATCH tokens. */
static uint32_t longest(const uint32_t *text, uint32_t n, const uint32_t *in, uint32_t last,
                        uint32_t *length)
{
    uint32_t best = 0, first = last > MAX_LOOK ? last - MAX_LOOK : 0;
    *length = MIN_MATCH - 1;
    for (uint32_t end = last; end > first && *length < MAX_MATCH; end--) {
        uint32_t m = in[end - 1] == text[n - 1] ? match(text, n, in, end) : 0;
        if (m > *length) {
            *length = m;
            best = end;
        }
    }
    return best;
}

uint32_t lodge_draft(const uint32_t *text, uint32_t n, uint32_t n_output, const uint32_t *hint,
                     uint32_t n_hint, uint32_t most, uint32_t *draft)
{
    uint32_t in_hint = 0, in_text = 0, at_hint = 0, at_text = 0;
    if (n_output < n_hint && memcmp(text + n - n_output, hint, n_output * sizeof *hint) == 0) {
        in_hint = MAX_MATCH; /* the prediction has held from its beginning */
        at_hint = n_output;
    } else if (n && n_hint) {
        at_hint = longest(text, n, hint, n_hint, &in_hint);
    }
    if (n > 1 && in_hint < MAX_MATCH)
        at_text = longest(text, n, text, n - 1, &in_text);
    if (in_hint >= MIN_MATCH && in_hint >= in_text) {
        most = n_hint - at_hint < most ? n_hint - at_hint : most;
        memcpy(draft, hint + at_hint, most * sizeof *draft);
        return most;
    }
    /* A text that repeats itself to its end goes on in the draft itself. */
    for (uint32_t i = 0; at_text && i < most; i++)
        draft[i] = at_text + i < n ? text[at_text + i] : draft[at_text + i - n];
    return at_text ? most : 0;
}
