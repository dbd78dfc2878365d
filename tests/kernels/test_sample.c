/* The sampler against a slow model of its definition in fp64: which tokens can be drawn, how often,
 * and exactly which one; Philox against its published vectors. */
#include "kernels/sample.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define N 577u      /* logits of a row */
#define N_TEXT 570u /* of them tokens */

static uint64_t state;

static uint32_t rnd(void)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33);
}

static void random_row(float *raw)
{
    for (uint32_t i = 0; i < N; i++)
        raw[i] = (float)(rnd() % 4000) * 0.002f - 4;
    raw[N_TEXT] = 99; /* beyond the tokens: must never win */
}

static struct lodge_sampling neutral(void)
{
    return (struct lodge_sampling){
        .temperature = 1, .top_p = 1, .typical_p = 1, .repetition = 1, .seed = 42};
}

static struct lodge_logits row_of(const float *raw, float *most)
{
    lodge_row_ops_ref.block_most(raw, N_TEXT, 1, N_TEXT, most, 0);
    return (struct lodge_logits){raw, most, N_TEXT};
}

static struct lodge_sampled draw(const float *raw, const struct lodge_sampling *s,
                                 uint32_t position)
{
    static _Alignas(64) char scratch[1 << 16];
    ck_assert_uint_le(lodge_sample_scratch_bytes(N), sizeof scratch);
    struct lodge_sampled out;
    float most[N];
    const struct lodge_logits l = row_of(raw, most);
    lodge_sample(&lodge_row_ops_ref, &l, s, position, true, scratch, &out);
    return out;
}

START_TEST(philox_vectors)
{
    /* Salmon et al., Random123, kat_vectors: philox4x32 10. */
    static const struct {
        uint64_t key;
        uint32_t counter[4], want[4];
    } kat[] = {
        {0, {0, 0, 0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {UINT64_MAX,
         {UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {0x299f31d0a4093822,
         {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < 3; i++) {
        uint32_t out[4];
        lodge_philox(kat[i].key, kat[i].counter, out);
        ck_assert_mem_eq(out, kat[i].want, sizeof out);
    }
}
END_TEST

/* ---- the model: probabilities of all tokens after the edits and filters ---- */

struct model {
    double logit[N_TEXT]; /* edited, over temperature */
    bool kept[N_TEXT];
};

static int best_first(const void *a, const void *b, void *ctx)
{
    const struct model *m = ctx;
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    if (m->logit[x] != m->logit[y])
        return m->logit[x] > m->logit[y] ? -1 : 1;
    return (x > y) - (x < y);
}

static double kept_mass(const struct model *m)
{
    double sum = 0;
    for (uint32_t i = 0; i < N_TEXT; i++)
        sum += m->kept[i] ? exp(m->logit[i]) : 0;
    return sum;
}

static void edit(struct model *m, const float *raw, const struct lodge_sampling *s)
{
    for (uint32_t i = 0; i < N_TEXT; i++) {
        bool allowed = s->n_allowed == 0;
        double l = (double)raw[i];
        for (uint32_t j = 0; j < s->n_allowed; j++)
            allowed |= s->allowed[j] == i;
        for (uint32_t j = 0; j < s->n_banned; j++)
            allowed &= s->banned[j] != i;
        for (uint32_t j = 0; j < s->n_bias; j++)
            l += s->bias[j].token == i ? (double)s->bias[j].value : 0;
        for (uint32_t j = 0; j < s->n_counts; j++)
            if (s->counts[j].token == i) {
                l = l > 0 ? l / (double)s->repetition : l * (double)s->repetition;
                l -= (double)s->frequency * s->counts[j].n_output +
                     (s->counts[j].n_output ? (double)s->presence : 0);
            }
        m->kept[i] = allowed;
        m->logit[i] = allowed ? l / (s->temperature > 0 ? (double)s->temperature : 1) : -INFINITY;
    }
}

/* Keeps, in the given order, until the mass is reached; at least one. */
static void keep_until(struct model *m, const uint32_t *order, uint32_t n, double p)
{
    double total = kept_mass(m), sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        bool had = m->kept[order[i]];
        m->kept[order[i]] = had && (sum == 0 || sum < p * total);
        sum += had ? exp(m->logit[order[i]]) : 0;
    }
}

static void typical(struct model *m, double p)
{
    double total = log(kept_mass(m)), entropy = 0, distance[N_TEXT];
    uint32_t order[N_TEXT], n = 0;
    for (uint32_t i = 0; i < N_TEXT; i++)
        if (m->kept[i])
            entropy -= exp(m->logit[i] - total) * (m->logit[i] - total);
    for (uint32_t i = 0; i < N_TEXT; i++)
        if (m->kept[i]) {
            distance[i] = fabs(total - m->logit[i] - entropy);
            uint32_t at = n++;
            while (at > 0 && distance[order[at - 1]] > distance[i]) {
                order[at] = order[at - 1];
                at--;
            }
            order[at] = i;
        }
    keep_until(m, order, n, p);
}

static void filter(struct model *m, const struct lodge_sampling *s)
{
    uint32_t order[N_TEXT];
    for (uint32_t i = 0; i < N_TEXT; i++)
        order[i] = i;
    qsort_r(order, N_TEXT, sizeof *order, best_first, m);
    for (uint32_t i = s->top_k ? s->top_k : N_TEXT; i < N_TEXT; i++)
        m->kept[order[i]] = false;
    if (s->typical_p < 1)
        typical(m, (double)s->typical_p);
    if (s->top_p < 1)
        keep_until(m, order, N_TEXT, (double)s->top_p);
    double most = -INFINITY;
    for (uint32_t i = 0; i < N_TEXT; i++)
        most = m->kept[i] && m->logit[i] > most ? m->logit[i] : most;
    for (uint32_t i = 0; i < N_TEXT && s->min_p > 0; i++)
        m->kept[i] &= m->logit[i] >= most + log((double)s->min_p);
}

/* Gumbel-max by brute force over what the model keeps. */
static uint32_t brute(const struct model *m, const struct lodge_sampling *s, uint32_t position)
{
    double best = -INFINITY;
    uint32_t token = 0;
    for (uint32_t i = 0; i < N_TEXT; i++) {
        uint32_t counter[4] = {i / 4, position, s->choice, 0}, word[4];
        lodge_philox(s->seed, counter, word);
        double u = ((double)(word[i % 4] >> 8) + 0.5) / 16777216.0;
        double v = m->logit[i] - log(-log(u));
        if (m->kept[i] && v > best) {
            best = v;
            token = i;
        }
    }
    return token;
}

static struct lodge_sampling random_sampling(struct lodge_bias *bias, uint32_t *ids,
                                             struct lodge_count *counts)
{
    struct lodge_sampling s = neutral();
    s.seed = (uint64_t)rnd() << 32 | rnd();
    s.choice = rnd() % 3;
    s.temperature = rnd() % 4 ? 0.3f + (float)(rnd() % 100) * 0.02f : 1;
    s.top_k = rnd() % 3 ? 0 : 1 + rnd() % 120;
    s.top_p = rnd() % 3 ? 1 : 0.05f + (float)(rnd() % 90) * 0.01f;
    s.min_p = rnd() % 4 ? 0 : (float)(1 + rnd() % 50) * 0.01f;
    s.typical_p = rnd() % 4 ? 1 : 0.1f + (float)(rnd() % 80) * 0.01f;
    for (uint32_t i = 0; i < 4; i++) {
        bias[i] = (struct lodge_bias){rnd() % N_TEXT, (float)(rnd() % 400) * 0.01f - 2};
        ids[i] = i * 20 + rnd() % 20;
        counts[i] = (struct lodge_count){i * 11 + rnd() % 11, rnd() % 3, rnd() % 2};
    }
    s.bias = bias;
    s.n_bias = rnd() % 3 ? 0 : 4;
    s.allowed = s.banned = ids;
    *(rnd() % 2 ? &s.n_allowed : &s.n_banned) = rnd() % 4 ? 0 : 4;
    s.counts = counts;
    if (rnd() % 3 == 0) {
        s.n_counts = 4;
        s.repetition = 1.3f;
        s.presence = 0.4f;
        s.frequency = 0.2f;
    }
    return s;
}

/* Borders of the filters and near ties may fall either way in fp32 and fp64: rarely. */
START_TEST(draws_equal_brute_force)
{
    struct lodge_bias bias[4];
    uint32_t ids[4];
    struct lodge_count counts[4];
    float raw[N];
    state = 7;
    int differ = 0, n = 20000;
    for (int i = 0; i < n; i++) {
        random_row(raw);
        struct lodge_sampling s = random_sampling(bias, ids, counts);
        struct model m;
        edit(&m, raw, &s);
        filter(&m, &s);
        uint32_t position = rnd() % 5000;
        differ += draw(raw, &s, position).token != brute(&m, &s, position);
    }
    ck_assert_int_le(differ, n / 500);
}
END_TEST

START_TEST(frequencies)
{
    float raw[N];
    state = 3;
    random_row(raw);
    struct lodge_sampling s = neutral();
    s.temperature = 0.7f;
    s.top_p = 0.9f;
    struct model m;
    edit(&m, raw, &s);
    filter(&m, &s);
    uint32_t count[N_TEXT] = {0};
    int n = 100000;
    for (int i = 0; i < n; i++)
        count[draw(raw, &s, (uint32_t)i).token]++;
    double total = kept_mass(&m);
    for (uint32_t i = 0; i < N_TEXT; i++) {
        double p = m.kept[i] ? exp(m.logit[i]) / total : 0;
        ck_assert_double_le(fabs(count[i] - n * p), 5 * sqrt(n * p * (1 - p)) + (p > 0));
    }
}
END_TEST

START_TEST(greedy_and_ties)
{
    float raw[N] = {0};
    struct lodge_sampling s = neutral();
    s.temperature = 0;
    raw[17] = raw[40] = 3;
    ck_assert_uint_eq(draw(raw, &s, 0).token, 17);
    raw[3] = NAN;
    ck_assert_uint_eq(draw(raw, &s, 0).token, 17);
    const uint32_t banned[] = {17};
    s.banned = banned;
    s.n_banned = 1;
    ck_assert_uint_eq(draw(raw, &s, 0).token, 40);
    s.temperature = 1e-9f;
    ck_assert_uint_eq(draw(raw, &s, 0).token, 40);
}
END_TEST

START_TEST(nothing_left)
{
    float raw[N];
    uint32_t all[N_TEXT];
    state = 9;
    random_row(raw);
    for (uint32_t i = 0; i < N_TEXT; i++)
        all[i] = i;
    struct lodge_sampling s = neutral();
    s.banned = all;
    s.n_banned = N_TEXT;
    struct lodge_sampled out = draw(raw, &s, 0);
    ck_assert(out.exhausted && !out.fault);
    for (uint32_t i = 0; i < N; i++)
        raw[i] = i % 2 ? NAN : -INFINITY;
    s.n_banned = 0;
    ck_assert(draw(raw, &s, 0).fault);
}
END_TEST

START_TEST(scores_and_tops)
{
    float raw[N];
    state = 11;
    for (int round = 0; round < 200; round++) {
        random_row(raw);
        double sum = 0;
        for (uint32_t i = 0; i < N_TEXT; i++)
            sum += exp((double)raw[i]);
        uint32_t token = rnd() % N_TEXT, rank = 1;
        for (uint32_t i = 0; i < N_TEXT; i++)
            rank += raw[i] > raw[token];
        struct lodge_sampled out;
        float most[N];
        const struct lodge_logits l = row_of(raw, most);
        lodge_score(&lodge_row_ops_ref, &l, token, &out);
        ck_assert_double_le(fabs((double)out.logprob - ((double)raw[token] - log(sum))), 1e-5);
        ck_assert_uint_eq(out.rank, rank);
        struct lodge_top tops[20];
        ck_assert_uint_eq(lodge_top_logprobs(&lodge_row_ops_ref, &l, 20, tops), 20);
        for (uint32_t i = 0; i < 20; i++) {
            uint32_t above = 0;
            for (uint32_t j = 0; j < N_TEXT; j++)
                above += raw[j] > raw[tops[i].token] ||
                         (raw[j] == raw[tops[i].token] && j < tops[i].token);
            ck_assert_uint_eq(above, i);
        }
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("sample");
    TCase *t = tcase_create("all");
    tcase_set_timeout(t, 120);
    tcase_add_test(t, philox_vectors);
    tcase_add_test(t, draws_equal_brute_force);
    tcase_add_test(t, frequencies);
    tcase_add_test(t, greedy_and_ties);
    tcase_add_test(t, nothing_left);
    tcase_add_test(t, scores_and_tops);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
