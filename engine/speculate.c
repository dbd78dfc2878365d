#include "engine/speculate.h"

#include <string.h>

/* ---- whether it pays ---- */

#define GUESS_DECAY 0.97
#define FORGET 0.99 /* at each draft that was not made */
#define MARGIN 1.5  /* what a guess saves must exceed what it costs by */

/* Before a sequence has guessed: the part that is right, and how many guesses that counts for. */
static const struct {
    double right, all;
} prior[] = {
    [LODGE_MATCH_SHORT] = {0.2, 0.5},
    [LODGE_MATCH_MIDDLE] = {0.5, 0.75},
    [LODGE_MATCH_LONG] = {0.8, 0.9},
};

bool lodge_guesses_may_pay(double token, uint32_t n_seqs)
{
    return 1.0 / n_seqs > MARGIN * token;
}

uint32_t lodge_guesses_length(struct lodge_guesses *g, enum lodge_match how, double token,
                              uint32_t n_seqs, uint32_t most)
{
    double right = (g->by[how].right + prior[how].right) / (g->by[how].all + prior[how].all);
    double saves = right / n_seqs; /* of a step's time, by the next token of the draft */
    uint32_t n = 0;
    for (; n < most && saves > MARGIN * token; n++)
        saves *= right;
    if (!n) {
        g->by[how].right *= FORGET;
        g->by[how].all *= FORGET;
    }
    g->last = how;
    return n;
}

void lodge_guesses_observe(struct lodge_guesses *g, uint32_t n, uint32_t n_right)
{
    for (uint32_t i = 0; i < n && i <= n_right; i++) {
        g->by[g->last].right = g->by[g->last].right * GUESS_DECAY + (i < n_right);
        g->by[g->last].all = g->by[g->last].all * GUESS_DECAY + 1;
    }
}

/* ---- looking up ---- */

#define MIN_MATCH 2u
#define MIDDLE_MATCH 4u
#define LONG_MATCH 8u
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

static enum lodge_match kind_of(uint32_t length)
{
    return length >= LONG_MATCH     ? LODGE_MATCH_LONG
           : length >= MIDDLE_MATCH ? LODGE_MATCH_MIDDLE
                                    : LODGE_MATCH_SHORT;
}

uint32_t lodge_draft(const uint32_t *text, uint32_t n, uint32_t n_output, const uint32_t *hint,
                     uint32_t n_hint, uint32_t most, uint32_t *draft, enum lodge_match *how)
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
    *how = kind_of(in_hint > in_text ? in_hint : in_text);
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
