/* The sampler of sample.h. Work on the whole vocabulary is one or two passes; what is sorted is
 * only what can be kept. */
#include "kernels/sample.h"

#include "kernels/ref/math.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define GREEDY_BELOW 1e-5f
#define BLOCK LODGE_LOGIT_BLOCK

struct candidate {
    float logit;
    uint32_t token;
};

/* Distance of a kept token's surprise from the entropy. */
struct typical_key {
    double distance;
    uint32_t index;
};

/* Scratch: room for an edited copy of the row, the candidates, and what typical_p sorts. */
struct work {
    const struct lodge_row_ops *ops;
    struct lodge_logits row; /* as it came, or edited */
    float scale;             /* 1 / temperature */
    float most;              /* of the row, scaled */
    float *room, *room_most; /* for an edited copy */
    struct candidate *kept;
    struct typical_key *keys;
    uint32_t n_kept;
};

static size_t rounded(uint32_t n)
{
    return ((size_t)n + 15) / 16 * 16;
}

size_t lodge_sample_scratch_bytes(uint32_t n)
{
    return rounded(n) * (sizeof(float) + sizeof(struct candidate) + sizeof(struct typical_key)) +
           rounded(lodge_logit_blocks(n)) * sizeof(float) + 64;
}

static struct work work_in(const struct lodge_row_ops *ops, const struct lodge_logits *raw,
                           void *scratch)
{
    size_t n = rounded(raw->n);
    float *room = scratch, *room_most = room + n;
    struct candidate *kept = (struct candidate *)(room_most + rounded(lodge_logit_blocks(raw->n)));
    return (struct work){.ops = ops,
                         .row = *raw,
                         .scale = 1,
                         .room = room,
                         .room_most = room_most,
                         .kept = kept,
                         .keys = (struct typical_key *)(kept + n)};
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

/* ---- passes over a row ---- */

static void plain_block_most(const float *x, size_t ld, unsigned m, uint32_t n, float *most,
                             size_t ld_most)
{
    for (unsigned r = 0; r < m; r++, x += ld, most += ld_most)
        for (uint32_t i = 0; i < n; i++) {
            float *to = &most[i / BLOCK];
            *to = x[i] > (i % BLOCK ? *to : -INFINITY) ? x[i] : i % BLOCK ? *to : -INFINITY;
        }
}

static double plain_exp_sum(const float *x, uint32_t n, float scale, float most)
{
    double lanes[16] = {0};
    for (uint32_t i = 0; i < n; i++)
        lanes[i % 16] += (double)lodge_ref_exp(x[i] * scale - most);
    for (uint32_t half = 8; half; half /= 2)
        for (uint32_t j = 0; j < half; j++)
            lanes[j] += lanes[j + half];
    return lanes[0];
}

static uint32_t plain_words(const struct lodge_sampling *s, uint32_t position, uint32_t block,
                            uint32_t n_blocks, const uint32_t *need, struct lodge_word *out)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < n_blocks * BLOCK; i += 4) {
        uint32_t first = block * BLOCK + i, counter[4] = {first / 4, position, s->choice, 0};
        uint32_t word[4];
        lodge_philox(s->seed, counter, word);
        for (uint32_t k = 0; k < 4; k++)
            if (word[k] >= need[i / BLOCK])
                out[n++] = (struct lodge_word){first + k, word[k]};
    }
    return n;
}

const struct lodge_row_ops lodge_row_ops_ref = {plain_exp_sum, plain_block_most, plain_words};

static uint32_t end_of(const struct lodge_logits *l, uint32_t block)
{
    return l->n - block * BLOCK < BLOCK ? l->n : (block + 1) * BLOCK;
}

/* Largest of a row, the smallest id on ties; n when nothing is above -inf. */
static uint32_t largest(const struct lodge_logits *l)
{
    uint32_t best = 0, blocks = lodge_logit_blocks(l->n);
    float most = -INFINITY;
    for (uint32_t b = 0; b < blocks; b++)
        if (l->block_most[b] > most) {
            most = l->block_most[b];
            best = b;
        }
    for (uint32_t i = best * BLOCK; i < l->n && most > -INFINITY; i++)
        if (l->x[i] == most)
            return i;
    return l->n;
}

/* ---- raw log-probabilities ---- */

static double log_sum(const struct lodge_row_ops *ops, const struct lodge_logits *l, float most)
{
    return (double)most + log(ops->exp_sum(l->x, l->n, 1, most));
}

void lodge_score(const struct lodge_row_ops *ops, const struct lodge_logits *raw, uint32_t token,
                 struct lodge_sampled *out)
{
    *out = (struct lodge_sampled){.token = token};
    uint32_t best = largest(raw);
    if (best == raw->n || token >= raw->n) {
        out->fault = best == raw->n;
        out->logprob = -INFINITY;
        return;
    }
    float own = raw->x[token];
    out->logprob = (float)((double)own - log_sum(ops, raw, raw->x[best]));
    out->rank = 1;
    for (uint32_t b = 0; b < lodge_logit_blocks(raw->n); b++)
        for (uint32_t i = b * BLOCK; raw->block_most[b] > own && i < end_of(raw, b); i++)
            out->rank += raw->x[i] > own;
}

static bool better(struct lodge_top a, struct lodge_top b)
{
    return a.logprob > b.logprob || (a.logprob == b.logprob && a.token < b.token);
}

/* Puts t in its place among the best so far, got <= n of them; returns how many there are now. */
static uint32_t insert(struct lodge_top *best, uint32_t got, uint32_t n, struct lodge_top t)
{
    if (!(t.logprob > -INFINITY) || (got == n && !better(t, best[got - 1])))
        return got;
    uint32_t at = got < n ? got++ : got - 1;
    for (; at > 0 && better(t, best[at - 1]); at--)
        best[at] = best[at - 1];
    best[at] = t;
    return got;
}

uint32_t lodge_top_logprobs(const struct lodge_row_ops *ops, const struct lodge_logits *raw,
                            uint32_t n, struct lodge_top *out)
{
    uint32_t got = 0, best = largest(raw);
    if (best == raw->n || !n)
        return 0;
    for (uint32_t b = 0; b < lodge_logit_blocks(raw->n); b++) {
        if (got == n && !(raw->block_most[b] > out[got - 1].logprob))
            continue;
        for (uint32_t i = b * BLOCK; i < end_of(raw, b); i++)
            got = insert(out, got, n, (struct lodge_top){i, raw->x[i]});
    }
    double total = log_sum(ops, raw, raw->x[best]);
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

/* Makes an edited copy the row. */
static void edit(struct work *w, const struct lodge_sampling *s)
{
    uint32_t n = w->row.n;
    const float *raw = w->row.x;
    float *x = w->room;
    if (s->n_allowed) {
        for (uint32_t i = 0; i < n; i++)
            x[i] = -INFINITY;
        for (uint32_t i = 0; i < s->n_allowed; i++)
            if (s->allowed[i] < n)
                x[s->allowed[i]] = raw[s->allowed[i]];
    } else {
        memcpy(x, raw, n * sizeof *raw);
    }
    for (uint32_t i = 0; i < s->n_banned; i++)
        if (s->banned[i] < n)
            x[s->banned[i]] = -INFINITY;
    for (uint32_t i = 0; i < s->n_bias; i++)
        if (s->bias[i].token < n)
            x[s->bias[i].token] += s->bias[i].value;
    for (uint32_t i = 0; i < s->n_counts; i++) {
        const struct lodge_count *c = &s->counts[i];
        if (c->token >= n)
            continue;
        float *l = &x[c->token];
        *l = *l > 0 ? *l / s->repetition : *l * s->repetition;
        if (c->n_output)
            *l -= s->frequency * (float)c->n_output + s->presence;
    }
    w->ops->block_most(x, n, 1, n, w->room_most, 0);
    w->row.x = x;
    w->row.block_most = w->room_most;
}

/* ---- keeping ---- */

static int by_logit(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    if (x->logit != y->logit)
        return x->logit > y->logit ? -1 : 1;
    return (x->token > y->token) - (x->token < y->token);
}

/* All tokens whose scaled logit is at least `low`. Scaling keeps the order, so blocks below it have
 * none. */
static void keep_from(struct work *w, float low)
{
    const struct lodge_logits *l = &w->row;
    w->n_kept = 0;
    for (uint32_t b = 0; b < lodge_logit_blocks(l->n); b++)
        for (uint32_t i = b * BLOCK; l->block_most[b] * w->scale >= low && i < end_of(l, b); i++) {
            float x = l->x[i] * w->scale;
            if (x >= low && x > -INFINITY)
                w->kept[w->n_kept++] = (struct candidate){x, i};
        }
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
static void keep_top_p_wide(struct work *w, float p)
{
    double total = w->ops->exp_sum(w->row.x, w->row.n, w->scale, w->most);
    for (float reach = 3; reach < 400; reach *= 2) {
        keep_from(w, w->most - reach);
        qsort(w->kept, w->n_kept, sizeof *w->kept, by_logit);
        if (keep_top_p(w, p, total))
            return;
    }
}

/* The k best. The k-th largest of the blocks' maxima is a logit that at least k reach, so few below
 * the k best are gathered. */
static void keep_top_k(struct work *w, uint32_t k)
{
    uint32_t blocks = lodge_logit_blocks(w->row.n);
    float low = -INFINITY;
    if (k < blocks) {
        for (uint32_t b = 0; b < blocks; b++)
            w->kept[b] = (struct candidate){w->row.block_most[b], b};
        select_best(w->kept, blocks, k);
        low = w->kept[k - 1].logit * w->scale;
    }
    keep_from(w, low);
    if (k < w->n_kept) {
        select_best(w->kept, w->n_kept, k);
        w->n_kept = k;
    }
}

/* Narrows the row by top_k, typical_p, top_p and min_p; n_kept 0 means: all are kept. */
static void narrow(struct work *w, const struct lodge_sampling *s)
{
    bool k = s->top_k && s->top_k < w->row.n, typical = s->typical_p < 1;
    bool p = s->top_p < 1;
    bool min = s->min_p > 0;
    w->n_kept = 0;
    if (!k && !typical && !p && !min)
        return;
    if (p && !k && !typical) {
        keep_top_p_wide(w, s->top_p);
    } else {
        if (k)
            keep_top_k(w, s->top_k);
        else
            keep_from(w, typical ? -INFINITY : w->most + logf(s->min_p));
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

/* Word that noise must reach to lift a logit by `lift`: u > exp(-exp(-lift)) >= 1 - exp(-lift),
 * with slack for rounding. */
static uint32_t word_needed(float lift)
{
    float u = (1 - lodge_ref_exp(-lift)) * 0x1p24f - 4;
    return u <= 0 ? 0 : (uint32_t)u << 8;
}

/* Gumbel-max over all tokens: noise is only computed where its random word is large enough. */
static uint32_t draw_all(const struct work *w, uint32_t top, const struct lodge_sampling *s,
                         uint32_t position)
{
    const struct lodge_logits *l = &w->row;
    struct best b = {w->most + noise(s, position, top), top};
    uint32_t need[LODGE_WORD_BLOCKS], blocks = lodge_logit_blocks(l->n);
    struct lodge_word words[LODGE_WORD_BLOCKS * BLOCK];
    for (uint32_t from = 0; from < blocks; from += LODGE_WORD_BLOCKS) {
        uint32_t n = blocks - from < LODGE_WORD_BLOCKS ? blocks - from : LODGE_WORD_BLOCKS;
        for (uint32_t i = 0; i < n; i++)
            need[i] = word_needed(b.value - l->block_most[from + i] * w->scale);
        uint32_t found = w->ops->words(s, position, from, n, need, words);
        for (uint32_t i = 0; i < found && words[i].token < l->n; i++)
            if (l->x[words[i].token] > -INFINITY)
                offer(&b, l->x[words[i].token] * w->scale + gumbel(words[i].word), words[i].token);
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

void lodge_sample(const struct lodge_row_ops *ops, const struct lodge_logits *raw,
                  const struct lodge_sampling *s, uint32_t position, bool want_logprob,
                  void *scratch, struct lodge_sampled *out)
{
    struct work w = work_in(ops, raw, scratch);
    *out = (struct lodge_sampled){0};
    if (has_edits(s))
        edit(&w, s);
    uint32_t top = largest(&w.row);
    if (top == raw->n) { /* everything removed, or nothing finite */
        top = largest(raw);
        out->fault = top == raw->n;
        out->exhausted = !out->fault;
        out->token = out->fault ? 0 : top;
    } else if (!(s->temperature >= GREEDY_BELOW)) {
        out->token = top;
    } else {
        w.scale = 1.0f / s->temperature;
        w.most = w.row.x[top] * w.scale;
        narrow(&w, s);
        out->token = w.n_kept ? draw_kept(&w, s, position) : draw_all(&w, top, s, position);
    }
    if (want_logprob && !out->fault) {
        struct lodge_sampled scored;
        lodge_score(ops, raw, out->token, &scored);
        out->logprob = scored.logprob;
        out->rank = scored.rank;
    }
}
