/* The default model (LODGE_TEST_MODEL; skipped without it) with the adapters of tests/data/voices,
 * against the plain model with merged weights, W' = W + s B A, in fp32
 * (tests/golden/make_merged.py).
 *
 * What is left between the two is what int8 activations cost the base itself, which is measured
 * here on the same tokens: adapters work on bf16 inputs and may add next to nothing. The gates, for
 * each voice: mean |difference of log-probability| and mean divergence from the oracle at most 1.15
 * times those of the base from its own oracle, and a little that does not depend on the base; where
 * the oracle prefers a token clearly, so does the engine; and the oracle tells the voice from the
 * base by far more than that.
 *
 * The divergence is KL over the oracle's likeliest tokens and the rest as one, so at most KL over
 * all. With LODGE_TEST_SHORT one conversation of each voice is scored, and clear choices alone are
 * checked. */
#include "base/file.h"
#include "base/json.h"
#include "tests/engine/score.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define WORSE 1.15
#define ADDED 0.005
#define CLEAR_MARGIN 0.5
#define EFFECT 3.0 /* of the voice on log-probabilities, in errors of the engine */

/* Means of one way to score, with an adapter or without. */
struct sums {
    double error, divergence, effect;
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

static void compare(const json_t *prompt, const char *which, const char *tops_name,
                    const struct scored *got, struct sums *s)
{
    const json_t *want = json_object_get(prompt, which), *base = json_object_get(prompt, "base");
    const json_t *tops = json_object_get(prompt, tops_name);
    size_t from = (size_t)json_integer_value(json_object_get(prompt, "from"));
    for (size_t i = 0; i < json_array_size(want); i++) {
        size_t at = from - 1 + i;
        const json_t *oracle = json_array_get(tops, i), *first = json_array_get(oracle, 0);
        double margin = number(first, 1) - number(json_array_get(oracle, 1), 1);
        s->error += fabs((double)got->scores[at] - number(want, i));
        s->effect += fabs(number(want, i) - number(base, i));
        s->divergence += divergence(oracle, got->tops + at * SCORE_TOPS);
        s->n++;
        if (margin <= CLEAR_MARGIN)
            continue;
        s->n_clear++;
        s->n_wrong += got->best[at] != (uint32_t)number(first, 0);
    }
}

/* One conversation without and with the adapter. */
static int run_prompt(struct lodge_engine *en, struct lodge_adapter_version *v,
                      const json_t *prompt, struct sums *base, struct sums *with)
{
    const json_t *list = json_object_get(prompt, "ids");
    uint32_t n = (uint32_t)json_array_size(list), *ids = calloc(n + 1, sizeof *ids);
    struct lodge_request_adapter adapter = {v, 1};
    struct scored got;
    struct lodge_error e = {0};
    int err = 0;
    for (uint32_t i = 0; ids && i < n; i++)
        ids[i] = (uint32_t)number(list, i);
    for (uint32_t n_adapters = 0; n_adapters < 2 && !err; n_adapters++) {
        err = score_with(en, &adapter, n_adapters, ids, n, 0, &got, &e);
        if (err) {
            printf("%s\n", e.text);
            break;
        }
        err = got.n_scores != n - 1;
        if (!err && n_adapters)
            compare(prompt, "merged", "tops", &got, with);
        else if (!err)
            compare(prompt, "base", "base_tops", &got, base);
        scored_finish(&got);
    }
    free(ids);
    return err;
}

/* True when the voice fails. */
static bool judge(const char *voice, const struct sums *base, const struct sums *with, bool few)
{
    double n = (double)with->n, error = with->error / n, of_base = base->error / n;
    double kl = with->divergence / n, kl_base = base->divergence / n, effect = with->effect / n;
    bool far = !(error <= WORSE * of_base + ADDED) || !(kl <= WORSE * kl_base + ADDED);
    bool failed = !n || (far && !few) || with->n_wrong || !with->n_clear || effect < EFFECT * error;
    printf("%s %-7s %zu places: from merged weights %.4f, KL %.5f (base from its own %.4f, %.5f); "
           "effect %.2f; %zu of %zu clear choices differ\n",
           failed ? "FAIL" : "ok  ", voice, with->n, error, kl, of_base, kl_base, effect,
           with->n_wrong, with->n_clear);
    return failed;
}

static int run_voice(struct lodge_engine *en, const char *dir, const char *voice,
                     const json_t *prompts, bool few)
{
    char *path = lodge_path_join(dir, voice);
    struct lodge_adapter_version *v = NULL;
    struct lodge_digest published = {{0}};
    struct lodge_error e = {0};
    struct sums base = {0}, with = {0};
    const json_t *prompt;
    size_t i;
    int err = lodge_engine_adapter_open(en, path, -1, voice, &published, &v, &e);
    free(path);
    if (err) {
        printf("FAIL %s\n", e.text);
        return 1;
    }
    json_array_foreach(prompts, i, prompt)
    {
        if (!err && (!i || !few))
            err = run_prompt(en, v, prompt, &base, &with);
    }
    lodge_adapter_version_unref(v);
    return err || judge(voice, &base, &with, few);
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
    json_t *prompts;
    int failed = 0, n = 0;
    if (lodge_engine_open(&cfg, &en, &e)) {
        printf("%s\n", e.text);
        return 1;
    }
    bool few = getenv("LODGE_TEST_SHORT") != NULL;
    json_object_foreach(json_object_get(golden, "voices"), voice, prompts)
    {
        failed += run_voice(en, dir, voice, prompts, few);
        n++;
    }
    lodge_engine_close(en);
    return failed || !n;
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
