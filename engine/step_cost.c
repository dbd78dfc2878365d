#include "engine/step_cost.h"

#define FIRST_GUESS_COST (1.0 / 8) /* of a plain step, before any guess was made */
#define RETURN (1.0 / 1024)
#define MANY 64u

static double blend(double old, double value, double weight)
{
    return old > 0 ? old + (value - old) * weight : value;
}

/* A measurement that others disturbed says little. */
static double within(double value, double known)
{
    return !(known > 0)        ? value
           : value > 2 * known ? 2 * known
           : value < known / 2 ? known / 2
                               : value;
}

static double share(uint32_t n, double of)
{
    return n / of < 0.25 ? n / of : 0.25;
}

static void observe_plain(struct lodge_step_cost *c, double ns)
{
    c->plain_ns = blend(c->plain_ns, within(ns, c->plain_ns), 1.0 / 16);
    /* What once seemed too dear to be tried is tried again some day. */
    double dear = c->guess_ns - FIRST_GUESS_COST * c->plain_ns;
    c->guess_ns -= dear > 0 ? dear * RETURN : 0;
}

void lodge_step_cost_observe(struct lodge_step_cost *c, const struct lodge_step_size *s, double ns)
{
    if (s->n_prompt) {
        /* Few tokens beside replies are as good a measure as many alone. */
        double each = (ns - (s->n_decodes ? c->plain_ns : 0)) / s->n_prompt;
        if (s->n_prompt >= MANY || s->n_decodes)
            c->prompt_ns = blend(c->prompt_ns, within(each, c->prompt_ns), share(s->n_prompt, 128));
    } else if (!s->n_guesses) {
        observe_plain(c, ns);
    } else if (c->plain_ns > 0) {
        double known = lodge_step_cost_guess(c) * c->plain_ns;
        double each = within((ns - c->plain_ns) / s->n_guesses, known);
        c->guess_ns = blend(known, each, share(s->n_guesses, 32));
    }
}

double lodge_step_cost_guess(const struct lodge_step_cost *c)
{
    double part = c->plain_ns > 0 ? c->guess_ns / c->plain_ns : 0;
    return !(part > 0) ? FIRST_GUESS_COST : part < 0.005 ? 0.005 : part;
}

uint32_t lodge_step_cost_prompt_tokens(const struct lodge_step_cost *c, uint32_t n_prompts)
{
    uint32_t growth = n_prompts < LODGE_STEP_MOST_GROWTH ? n_prompts + 1 : LODGE_STEP_MOST_GROWTH;
    if (!(c->plain_ns > 0) || !(c->prompt_ns > 0))
        return UINT32_MAX;
    double most = growth * c->plain_ns;
    double n = ((most > LODGE_STEP_NS ? most : LODGE_STEP_NS) - c->plain_ns) / c->prompt_ns;
    return n < LODGE_STEP_PROMPT_TOKENS ? LODGE_STEP_PROMPT_TOKENS
           : n < 1e9                    ? (uint32_t)n
                                        : 1000000000u;
}
