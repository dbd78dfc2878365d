/* The default model (LODGE_TEST_MODEL; skipped without it) with the adapters of tests/data/voices,
 * against the plain model with merged weights, W' = W + s B A, in fp32
 * (tests/golden/make_merged.py).
 *
 * What is left between the two is what the declared roundings cost (int8 activations of the base,
 * bf16 keys and values), which an oracle with these roundings measured over the same places. The
 * gates: mean |difference of log-probability| and mean divergence at most 1.15 times the oracle's,
 * over all voices; 1.5 times for each, whose few places make the oracle itself move by 1.4 when
 * noise of 1e-7 turns roundings the other way; where the merged weights prefer a token by more than
 * 1 and no rounding turned that, so does the engine; and a voice moves log-probabilities by far
 * more than the engine errs. (A scale that is 5 % wrong doubles the differences of each voice.)
 *
 * The divergence is KL over the likeliest tokens and the rest as one, so at most KL over all. With
 * LODGE_TEST_SHORT one conversation of each voice is scored, and choices alone are checked. */
#include "base/file.h"
#include "base/json.h"
#include "tests/engine/score.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define WORSE_ALL 1.15
#define WORSE_ONE 1.75 /* of few places: how the noise falls counts */
#define EFFECT 3.0     /* of a voice on log-probabilities, in errors of the engine */

/* Sums over places; the oracle's errors likewise. */
struct sums {
    double error, divergence, effect, rounding, rounding_divergence;
    size_t n, n_clear, n_wrong;
};

static double number(const json_t *list, size_t i)
{
    return json_number_value(json_array_get(list, i));
}

/* The engine's log-probability of a token that it was asked nothing else about: of the 20 likeliest
 * it is told; any other has that of the last one at most. */
static double of_token(const struct lodge_top *tops, uint32_t token)
{
    for (uint32_t i = 0; i < SCORE_TOPS; i++)
        if (tops[i].token == token)
            return (double)tops[i].logprob;
    return (double)tops[SCORE_TOPS - 1].logprob;
}

static double divergence(const json_t *oracle, const struct lodge_top *tops)
{
    double sum = 0, rest_p = 1, rest_q = 1;
    size_t i;
    const json_t *pair;
    json_array_foreach(oracle, i, pair)
    {
        double p = number(pair, 1), q = of_token(tops, (uint32_t)number(pair, 0));
        sum += exp(p) * (p - q);
        rest_p -= exp(p);
        rest_q -= exp(q);
    }
    if (rest_p > 1e-9)
        sum += rest_p * log(rest_p / fmax(rest_q, 1e-9));
    return sum;
}

static void compare(const json_t *prompt, const struct scored *got, struct sums *s)
{
    const json_t *want = json_object_get(prompt, "merged"), *base = json_object_get(prompt, "base");
    const json_t *tops = json_object_get(prompt, "tops"), *clear = json_object_get(prompt, "clear");
    size_t from = (size_t)json_integer_value(json_object_get(prompt, "from"));
    for (size_t i = 0; i < json_array_size(want); i++) {
        size_t at = from - 1 + i;
        const json_t *oracle = json_array_get(tops, i), *first = json_array_get(oracle, 0);
        s->error += fabs((double)got->scores[at] - number(want, i));
        s->effect += fabs(number(want, i) - number(base, i));
        s->divergence += divergence(oracle, got->tops + at * SCORE_TOPS);
        s->n++;
        if (number(clear, i) == 0)
            continue;
        s->n_clear++;
        s->n_wrong += got->best[at] != (uint32_t)number(first, 0);
    }
}

static int run_prompt(struct lodge_engine *en, struct lodge_adapter_version *v,
                      const json_t *prompt, struct sums *s)
{
    const json_t *list = json_object_get(prompt, "ids");
    uint32_t n = (uint32_t)json_array_size(list), *ids = calloc(n + 1, sizeof *ids);
    struct lodge_request_adapter adapter = {v, 1};
    struct scored got;
    struct lodge_error e = {0};
    for (uint32_t i = 0; ids && i < n; i++)
        ids[i] = (uint32_t)number(list, i);
    int err = ids ? score_with(en, &adapter, 1, ids, n, 0, &got, &e) : LODGE_ERR_NOMEM;
    free(ids);
    if (err) {
        printf("%s\n", e.text);
        return err;
    }
    if (got.n_scores == n - 1)
        compare(prompt, &got, s);
    else
        err = LODGE_ERR_INTERNAL;
    scored_finish(&got);
    return err;
}

/* True when these places fail. */
static bool judge(const char *name, const struct sums *s, double worse, bool few)
{
    double n = (double)s->n;
    bool far =
        !(s->error <= worse * s->rounding) || !(s->divergence <= worse * s->rounding_divergence);
    bool failed =
        !s->n || (far && !few) || s->n_wrong || !s->n_clear || s->effect < EFFECT * s->error;
    printf("%s %-7s %zu places: from merged weights %.4f (the declared oracle %.4f), KL %.5f "
           "(%.5f); effect %.2f; %zu of %zu clear choices differ\n",
           failed ? "FAIL" : "ok  ", name, s->n, s->error / n, s->rounding / n, s->divergence / n,
           s->rounding_divergence / n, s->effect / n, s->n_wrong, s->n_clear);
    return failed;
}

static void add(struct sums *all, const struct sums *s)
{
    all->error += s->error;
    all->divergence += s->divergence;
    all->effect += s->effect;
    all->rounding += s->rounding;
    all->rounding_divergence += s->rounding_divergence;
    all->n += s->n;
    all->n_clear += s->n_clear;
    all->n_wrong += s->n_wrong;
}

static int run_voice(struct lodge_engine *en, const char *dir, const char *voice, const json_t *o,
                     bool few, struct sums *all)
{
    char *path = lodge_path_join(dir, voice);
    struct lodge_adapter_version *v = NULL;
    struct lodge_digest published = {{0}};
    struct lodge_error e = {0};
    struct sums s = {0};
    const json_t *prompt;
    size_t i;
    int err = lodge_engine_adapter_open(en, path, -1, voice, &published, &v, &e);
    free(path);
    if (err) {
        printf("FAIL %s\n", e.text);
        return 1;
    }
    json_array_foreach(json_object_get(o, "prompts"), i, prompt)
    {
        if (!err && (!i || !few))
            err = run_prompt(en, v, prompt, &s);
    }
    lodge_adapter_version_unref(v);
    s.rounding = (double)s.n * json_number_value(json_object_get(o, "rounding"));
    s.rounding_divergence = (double)s.n * json_number_value(json_object_get(o, "divergence"));
    add(all, &s);
    return err || judge(voice, &s, WORSE_ONE, few);
}

static int run(const char *model, const char *dir, json_t *golden)
{
    struct lodge_engine_config cfg = {.model_path = model,
                                      .n_threads = 2,
                                      .max_model_len = 256,
                                      .max_seqs = 8,
                                      .pool_bytes = 64 << 20};
    struct lodge_engine *en = NULL;
    struct lodge_error e = {0};
    const char *voice;
    json_t *o;
    struct sums all = {0};
    int failed = 0;
    if (lodge_engine_open(&cfg, &en, &e)) {
        printf("%s\n", e.text);
        return 1;
    }
    bool few = getenv("LODGE_TEST_SHORT") != NULL;
    json_object_foreach(golden, voice, o)
    {
        failed += run_voice(en, dir, voice, o, few, &all);
    }
    lodge_engine_close(en);
    failed += judge("all", &all, WORSE_ALL, few);
    return failed != 0;
}

int main(int argc, char **argv)
{
    const char *model = getenv("LODGE_TEST_MODEL");
    json_t *golden = NULL;
    struct lodge_error e = {0};
    if (!model || !*model) {
        printf("skipped: LODGE_TEST_MODEL does not name the default model\n");
        return 77;
    }
    char *path = argc > 1 ? lodge_path_join(argv[1], "golden.json") : NULL;
    int err = path ? lodge_json_load_file(path, &golden, &e) : LODGE_ERR_CONFIG;
    free(path);
    if (err) {
        printf("usage: golden_voices VOICES; %s\n", e.text);
        return 2;
    }
    int failed = run(model, argv[1], golden);
    json_decref(golden);
    return failed;
}
