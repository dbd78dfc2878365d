/* The sampler of sample.h. Work on the whole vocabulary is one or two passes; what is sorted is
 * only what can be kept. */
#include "kernels/sample.h"

#include "kernels/ref/math.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define GREEDY_BELOW 1e-5f
#define BLOCK 16u

struct candidate {
    float logit;
    uint32_t token;
};

/* Distance of a kept token's surprise from the entropy. */
struct typical_key {
    double distance;
    uint32_t index;
};

/* Scratch: an edited copy of the row, the candidates, and what typical_p sorts. */
struct work {
    float *logits;
    struct candidate *kept;
    struct typical_key *keys;
    uint32_t n_kept;
    float most; /* of logits */
};

size_t lodge_sample_scratch_bytes(uint32_t n_vocab)
{
    size_t n = ((size_t)n_vocab + BLOCK - 1) / BLOCK * BLOCK;
    return n * (sizeof(float) + sizeof(struct candidate) + sizeof(struct typical_key)) + 64;
}

static struct work work_in(void *scratch, uint32_t n_vocab)
{
    size_t n = ((size_t)n_vocab + BLOCK - 1) / BLOCK * BLOCK;
    float *logits = scratch;
    struct candidate *kept = (struct candidate *)(logits + n);
    return (struct work){.logits = logits, .kept = kept, .keys = (struct typical_key *)(kept + n)};
}

void lodge_philox(uint64_t key, const uint32_t counter[4], uint32_t out[4])
{
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53u * c0, b = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(b >> 32) ^ c1 ^ k0;
        c2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)b;
        c3 = (uint32_t)a;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

static float gumbel(uint32_t word)
{
    float u = ((float)(word >> 8) + 0.5f) * 0x1p-24f;
    return -logf(-logf(u));
}

static float noise(const struct lodge_sampling *s, uint32_t position, uint32_t token)
{
    uint32_t counter[4] = {token / 4, position, s->choice, 0}, word[4];
    lodge_philox(s->seed, counter, word);
    return gumbel(word[token % 4]);
}

static uint32_t plain_argmax(const float *x, uint32_t n)
{
    uint32_t best = 0;
    float most = -INFINITY;
    for (uint32_t i = 0; i < n; i++)
        if (x[i] > most) {
            most = x[i];
            best = i;
        }
    return best;
}

static double plain_exp_sum(const float *x, uint32_t n, float most)
{
    double lanes[16] = {0};
    for (uint32_t i = 0; i < n; i++)
        lanes[i % 16] += (double)lodge_ref_exp(x[i] - most);
    for (uint32_t half = 8; half; half /= 2)
        for (uint32_t j = 0; j < half; j++)
            lanes[j] += lanes[j + half];
    return lanes[0];
}

const struct lodge_row_ops lodge_row_ops_ref = {plain_exp_sum, plain_argmax};

/* Largest of a row; n when nothing is above -inf. */
static uint32_t largest(const struct lodge_row_ops *ops, const float *x, uint32_t n)
{
    uint32_t best = n ? ops->argmax(x, n) : 0;
    return n && x[best] > -INFINITY ? best : n;
}

/* ---- raw log-probabilities ---- */

static double log_sum(const struct lodge_row_ops *ops, const float *raw, uint32_t n, float most)
{
    return (double)most + log(ops->exp_sum(raw, n, most));
}

void lodge_score(const struct lodge_row_ops *ops, const float *raw, uint32_t n_vocab,
                 uint32_t n_vocab_text, uint32_t token, void *scratch, struct lodge_sampled *out)
{
    (void)n_vocab;
    (void)scratch;
    *out = (struct lodge_sampled){.token = token};
    uint32_t best = largest(ops, raw, n_vocab_text);
    if (best == n_vocab_text || token >= n_vocab_text) {
        out->fault = best == n_vocab_text;
        out->logprob = -INFINITY;
        return;
    }
    out->logprob = (float)((double)raw[token] - log_sum(ops, raw, n_vocab_text, raw[best]));
    out->rank = 1;
    for (uint32_t i = 0; i < n_vocab_text; i++)
        out->rank += raw[i] > raw[token];
}

static bool better(struct lodge_top a, struct lodge_top b)
{
    return a.logprob > b.logprob || (a.logprob == b.logprob && a.token < b.token);
}

uint32_t lodge_top_logprobs(const struct lodge_row_ops *ops, const float *raw, uint32_t n_vocab,
                            uint32_t n_vocab_text, uint32_t n, void *scratch, struct lodge_top *out)
{
    (void)n_vocab;
    (void)scratch;
    uint32_t got = 0, best = largest(ops, raw, n_vocab_text);
    if (best == n_vocab_text || !n)
        return 0;
    for (uint32_t i = 0; i < n_vocab_text; i++) {
        struct lodge_top t = {i, raw[i]};
        if (!(raw[i] > -INFINITY) || (got == n && !better(t, out[got - 1])))
            continue;
        uint32_t at = got < n ? got++ : got - 1;
        while (at > 0 && better(t, out[at - 1])) {
            out[at] = out[at - 1];
            at--;
        }
        out[at] = t;
    }
    double total = log_sum(ops, raw, n_vocab_text, raw[best]);
    for (uint32_t i = 0; i < got; i++)
        out[i].logprob = (float)((double)out[i].logprob - total);
    return got;
}

/* ---- edits ---- */

static bool has_edits(const struct lodge_sampling *s)
{
    return s->n_bias || s->n_allowed || s->n_banned ||
           (s->n_counts && (s->repetition != 1 || s->presence != 0 || s->frequency != 0));
}

static void edit(struct work *w, const float *raw, uint32_t n, const struct lodge_sampling *s)
{
    if (s->n_allowed) {
        for (uint32_t i = 0; i < n; i++)
            w->logits[i] = -INFINITY;
        for (uint32_t i = 0; i < s->n_allowed; i++)
            if (s->allowed[i] < n)
                w->logits[s->allowed[i]] = raw[s->allowed[i]];
    } else {
        memcpy(w->logits, raw, n * sizeof *raw);
    }
    for (uint32_t i = 0; i < s->n_banned; i++)
        if (s->banned[i] < n)
            w->logits[s->banned[i]] = -INFINITY;
    for (uint32_t i = 0; i < s->n_bias; i++)
        if (s->bias[i].token < n)
            w->logits[s->bias[i].token] += s->bias[i].value;
    for (uint32_t i = 0; i < s->n_counts; i++) {
        const struct lodge_count *c = &s->counts[i];
        if (c->token >= n)
            continue;
        float *l = &w->logits[c->token];
        *l = *l > 0 ? *l / s->repetition : *l * s->repetition;
        if (c->n_output)
            *l -= s->frequency * (float)c->n_output + s->presence;
    }
}

/* ---- keeping ---- */

static int by_logit(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    if (x->logit != y->logit)
        return x->logit > y->logit ? -1 : 1;
    return (x->token > y->token) - (x->token < y->token);
}

/* All tokens whose logit is at least `low`. */
static void keep_from(struct work *w, const float *logits, uint32_t n, float low)
{
    w->n_kept = 0;
    for (uint32_t i = 0; i < n; i++)
        if (logits[i] >= low && logits[i] > -INFINITY)
            w->kept[w->n_kept++] = (struct candidate){logits[i], i};
}

/* Moves the k best of the kept to the front (Hoare's quickselect; ids make the order total). */
static void select_best(struct candidate *c, uint32_t n, uint32_t k)
{
    int64_t low = 0, high = (int64_t)n - 1, want = (int64_t)k - 1;
    while (low < high) {
        struct candidate pivot = c[low + (high - low) / 2];
        int64_t i = low, j = high;
        while (i <= j) {
            while (by_logit(&c[i], &pivot) < 0)
                i++;
            while (by_logit(&c[j], &pivot) > 0)
                j--;
            if (i > j)
                break;
            struct candidate t = c[i];
            c[i++] = c[j];
            c[j--] = t;
        }
        if (want <= j)
            high = j;
        else if (want >= i)
            low = i;
        else
            return;
    }
}

static double mass(const struct candidate *c, uint32_t n, float most)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += exp((double)c[i].logit - (double)most);
    return sum;
}

static int by_distance(const void *a, const void *b)
{
    const struct typical_key *x = a, *y = b;
    if (x->distance != y->distance)
        return x->distance < y->distance ? -1 : 1;
    return (x->index > y->index) - (x->index < y->index);
}

static int by_index(const void *a, const void *b)
{
    const struct typical_key *x = a, *y = b;
    return (x->index > y->index) - (x->index < y->index);
}

/* Locally typical sampling: those whose surprise is nearest to the entropy, up to mass p. The
 * kept must be sorted; they stay so. */
static void keep_typical(struct work *w, float p)
{
    float most = w->kept[0].logit;
    double total = log(mass(w->kept, w->n_kept, most)), entropy = 0;
    for (uint32_t i = 0; i < w->n_kept; i++) {
        double lp = (double)w->kept[i].logit - (double)most - total;
        entropy -= exp(lp) * lp;
    }
    for (uint32_t i = 0; i < w->n_kept; i++) {
        double lp = (double)w->kept[i].logit - (double)most - total;
        w->keys[i] = (struct typical_key){fabs(-lp - entropy), i};
    }
    qsort(w->keys, w->n_kept, sizeof *w->keys, by_distance);
    double sum = 0;
    uint32_t n = 0;
    while (n < w->n_kept && (n == 0 || sum < (double)p))
        sum += exp((double)w->kept[w->keys[n++].index].logit - (double)most - total);
    qsort(w->keys, n, sizeof *w->keys, by_index);
    for (uint32_t i = 0; i < n; i++)
        w->kept[i] = w->kept[w->keys[i].index];
    w->n_kept = n;
}

/* Sorted kept: the fewest that reach mass p of `total` (exp-sum relative to the largest). */
static bool keep_top_p(struct work *w, float p, double total)
{
    double sum = 0;
    float most = w->kept[0].logit;
    for (uint32_t i = 0; i < w->n_kept; i++) {
        sum += exp((double)w->kept[i].logit - (double)most);
        if (sum >= (double)p * total) {
            w->n_kept = i + 1;
            return true;
        }
    }
    return false;
}

/* top_p over the whole row: only tokens near the largest are gathered and sorted, further out
 * until the mass is there. */
static void keep_top_p_wide(struct work *w, const float *logits, uint32_t n, float p, double total)
{
    float most = w->most;
    for (float reach = 3; reach < 400; reach *= 2) {
        keep_from(w, logits, n, most - reach);
        qsort(w->kept, w->n_kept, sizeof *w->kept, by_logit);
        if (keep_top_p(w, p, total))
            return;
    }
}

/* Narrows the row by top_k, typical_p, top_p and min_p; n_kept 0 means: all are kept. */
static void narrow(const struct lodge_row_ops *ops, struct work *w, const float *logits, uint32_t n,
                   const struct lodge_sampling *s)
{
    bool k = s->top_k && s->top_k < n, typical = s->typical_p < 1;
    bool p = s->top_p < 1;
    bool min = s->min_p > 0;
    w->n_kept = 0;
    if (!k && !typical && !p && !min)
        return;
    if (p && !k && !typical) {
        keep_top_p_wide(w, logits, n, s->top_p, ops->exp_sum(logits, n, w->most));
    } else {
        keep_from(w, logits, n, k || typical || p ? -INFINITY : w->most + logf(s->min_p));
        if (k && s->top_k < w->n_kept) {
            select_best(w->kept, w->n_kept, s->top_k);
            w->n_kept = s->top_k;
        }
        qsort(w->kept, w->n_kept, sizeof *w->kept, by_logit);
        if (typical)
            keep_typical(w, s->typical_p);
        if (p)
            keep_top_p(w, s->top_p, mass(w->kept, w->n_kept, w->kept[0].logit));
    }
    if (min && w->n_kept) {
        float low = w->kept[0].logit + logf(s->min_p);
        uint32_t m = 1;
        while (m < w->n_kept && w->kept[m].logit >= low)
            m++;
        w->n_kept = m;
    }
}

/* ---- drawing ---- */

struct best {
    float value;
    uint32_t token;
};

static void offer(struct best *b, float value, uint32_t token)
{
    if (value > b->value || (value == b->value && token < b->token))
        *b = (struct best){value, token};
}

/* Word that noise must reach to lift a logit by `lift`: u > exp(-exp(-lift)), with slack for
 * rounding. */
static uint32_t word_needed(float lift)
{
    double u = exp(-exp(-(double)lift)) * 0x1p24 - 2;
    return u <= 0 ? 0 : u >= 16777216.0 ? UINT32_MAX : (uint32_t)u << 8;
}

/* Gumbel-max over all tokens. Blocks are skipped when even the largest noise could not make them
 * win, and noise is only computed where its random word is large enough. */
static uint32_t draw_all(const float *logits, uint32_t n, uint32_t top,
                         const struct lodge_sampling *s, uint32_t position)
{
    struct best b = {logits[top] + noise(s, position, top), top};
    for (uint32_t from = 0; from < n; from += BLOCK) {
        uint32_t to = from + BLOCK < n ? from + BLOCK : n;
        float most = -INFINITY;
        for (uint32_t i = from; i < to; i++)
            most = logits[i] > most ? logits[i] : most;
        if (!(most > b.value - 17.5f))
            continue;
        uint32_t need = word_needed(b.value - most);
        for (uint32_t i = from; i < to; i += 4) {
            uint32_t counter[4] = {i / 4, position, s->choice, 0}, word[4];
            lodge_philox(s->seed, counter, word);
            for (uint32_t k = 0; k < 4 && i + k < to; k++)
                if (word[k] >= need && logits[i + k] > -INFINITY)
                    offer(&b, logits[i + k] + gumbel(word[k]), i + k);
        }
    }
    return b.token;
}

static uint32_t draw_kept(const struct work *w, const struct lodge_sampling *s, uint32_t position)
{
    struct best b = {-INFINITY, w->kept[0].token};
    for (uint32_t i = 0; i < w->n_kept; i++)
        offer(&b, w->kept[i].logit + noise(s, position, w->kept[i].token), w->kept[i].token);
    return b.token;
}

void lodge_sample(const struct lodge_row_ops *ops, const float *raw, uint32_t n_vocab,
                  uint32_t n_vocab_text, const struct lodge_sampling *s, uint32_t position,
                  bool want_logprob, void *scratch, struct lodge_sampled *out)
{
    uint32_t n = n_vocab_text;
    struct work w = work_in(scratch, n_vocab);
    const float *logits = raw;
    *out = (struct lodge_sampled){0};
    if (has_edits(s)) {
        edit(&w, raw, n, s);
        logits = w.logits;
    }
    uint32_t top = largest(ops, logits, n);
    if (top == n) { /* everything removed, or nothing finite */
        top = largest(ops, raw, n);
        out->fault = top == n;
        out->exhausted = !out->fault;
        out->token = out->fault ? 0 : top;
    } else if (!(s->temperature >= GREEDY_BELOW)) {
        out->token = top;
    } else {
        float inverse = 1.0f / s->temperature;
        for (uint32_t i = 0; i < n; i++)
            w.logits[i] = logits[i] * inverse;
        w.most = w.logits[top];
        narrow(ops, &w, w.logits, n, s);
        out->token =
            w.n_kept ? draw_kept(&w, s, position) : draw_all(w.logits, n, top, s, position);
    }
    if (want_logprob && !out->fault) {
        struct lodge_sampled scored;
        lodge_score(ops, raw, n_vocab, n_vocab_text, out->token, scratch, &scored);
        out->logprob = scored.logprob;
        out->rank = scored.rank;
    }
}
