#include "engine/files/shape.h"

#include <math.h>

static double llama3(const struct lodge_rope_shape *r, uint32_t n_context, double inv)
{
    double l0 = r->original_context ? r->original_context : n_context;
    double wavelength = 2 * M_PI / inv;
    if (wavelength < l0 / r->high_freq_factor)
        return inv;
    if (wavelength > l0 / r->low_freq_factor)
        return inv / r->factor;
    double s = (l0 / wavelength - r->low_freq_factor) / (r->high_freq_factor - r->low_freq_factor);
    return inv * ((1 - s) / r->factor + s);
}

/* Dim at which a rotation makes `turns` turns over the original context. */
static double yarn_dim(const struct lodge_rope_shape *r, double l0, double turns)
{
    return r->n_dims * log(l0 / (turns * 2 * M_PI)) / (2 * log(r->theta));
}

static double yarn(const struct lodge_rope_shape *r, uint32_t n_context, uint32_t i, double inv)
{
    double l0 = r->original_context ? r->original_context : n_context;
    double low = yarn_dim(r, l0, r->beta_fast), high = yarn_dim(r, l0, r->beta_slow);
    low = fmax(r->fractional ? low : floor(low), 0);
    high = fmin(r->fractional ? high : ceil(high), r->n_dims - 1.0);
    if (high <= low)
        high = low + 0.001;
    double ramp = fmin(fmax((i - low) / (high - low), 0), 1);
    return inv * (1 - ramp) + inv / r->factor * ramp;
}

static double default_attention_factor(const struct lodge_rope_shape *r, uint32_t n_context)
{
    if (r->factor <= 1)
        return 1;
    double turn = 0.1 * log(r->factor);
    if (r->scaling == LODGE_ROPE_YARN)
        return r->mscale != 0 && r->mscale_all_dim != 0
                   ? (turn * r->mscale + 1) / (turn * r->mscale_all_dim + 1)
                   : turn + 1;
    double l0 = r->original_context ? r->original_context : n_context;
    return sqrt(1 + log(r->factor) / log(l0));
}

void lodge_rope_default_factor(struct lodge_rope_shape *r, uint32_t n_context)
{
    if (!(r->factor > 0) && r->original_context)
        r->factor = (double)n_context / r->original_context;
}

void lodge_rope_frequencies(const struct lodge_rope_shape *r, uint32_t n_context,
                            uint32_t served_context, float *inv_freq, float *scale)
{
    double theta = r->theta;
    if (!served_context)
        served_context = n_context;
    /* dynamic: fixed for the engine's context, since cached keys depend on it. */
    if (r->scaling == LODGE_ROPE_DYNAMIC && served_context > n_context && r->n_dims > 2)
        theta *= pow(r->factor * served_context / n_context - (r->factor - 1),
                     r->n_dims / (r->n_dims - 2.0));
    bool is_long = r->original_context && served_context > r->original_context;
    const float *ext = is_long ? r->long_factor : r->short_factor;
    for (uint32_t i = 0; i < r->n_dims / 2; i++) {
        double inv = 1.0 / pow(theta, 2.0 * i / r->n_dims);
        if (r->scaling == LODGE_ROPE_LINEAR)
            inv /= r->factor;
        else if (r->scaling == LODGE_ROPE_LLAMA3)
            inv = llama3(r, n_context, inv);
        else if (r->scaling == LODGE_ROPE_YARN)
            inv = yarn(r, n_context, i, inv);
        else if (r->scaling == LODGE_ROPE_LONGROPE && ext)
            inv /= (double)ext[i];
        if (r->divisors)
            inv /= (double)r->divisors[i];
        inv_freq[i] = (float)inv;
    }
    *scale = 1;
    if (r->scaling == LODGE_ROPE_YARN || r->scaling == LODGE_ROPE_LONGROPE)
        *scale = (float)(r->attention_factor >= 0 ? r->attention_factor
                                                  : default_attention_factor(r, n_context));
}
