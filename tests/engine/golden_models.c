/* The engine against transformers: tiny seeded models in every container and weight format, prompts
 * scored token by token and continued greedily. tests/golden/make_models.py made the data and says
 * what its two oracles are. Each case runs on the reference kernels and on the best rung of this
 * machine, there with prompts cut into chunks of 24 tokens, to the same bits; with keys and values
 * in bf16, and in int8.
 *
 * Gates: mean |difference of log-probability| <= 0.005 against the oracle with the declared
 * roundings, and <= 0.02 against fp32 unless activations are int8; the likeliest token is the
 * oracle's wherever its margin exceeds 0.5; greedy tokens agree up to the first margin below 0.05;
 * a reply after a prefix hit is the same.
 *
 * Int8 keys and values are not in the oracles. They may move the scores from those with bf16 by 4
 * times what roundings to bf16 make the latter differ from fp32 (measured: 1.0 to 3.6 times; these
 * models are small and random, and their heads of 8 to 64 dims amplify), and are held to clear
 * margins alone.
 */
#include "base/file.h"
#include "base/json.h"
#include "tests/engine/score.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TOLERANCE_DECLARED 0.005
#define TOLERANCE_FP32 0.02
#define CLEAR_MARGIN 0.5
#define GREEDY_MARGIN 0.05
#define INT8_KV_FACTOR 4
#define MAX_SCORES 4096u

struct sums {
    double declared, fp32, declared_max;
    size_t n, n_clear, n_greedy;
    double least_margin; /* of greedy tokens that must agree */
    float scores[MAX_SCORES];
    bool failed;
};

/* One way to run a case. */
struct way {
    const char *isa, *kv;
    uint32_t chunk;
};

static uint32_t *id_list(const json_t *list)
{
    uint32_t *ids = calloc(json_array_size(list) + 1, sizeof *ids);
    for (size_t i = 0; ids && i < json_array_size(list); i++)
        ids[i] = (uint32_t)json_integer_value(json_array_get(list, i));
    return ids;
}

static double number(const json_t *obj, const char *key, size_t i)
{
    return json_number_value(json_array_get(json_object_get(obj, key), i));
}

static void compare_scores(const json_t *prompt, const struct scored *got, struct sums *s)
{
    for (size_t i = 0; i < got->n_scores; i++) {
        double d = fabs((double)got->scores[i] - number(prompt, "declared", i));
        s->declared += d;
        s->declared_max = fmax(s->declared_max, d);
        s->fp32 += fabs((double)got->scores[i] - number(prompt, "fp32", i));
        s->scores[s->n++ % MAX_SCORES] = got->scores[i];
        if (number(prompt, "margin", i) <= CLEAR_MARGIN)
            continue;
        s->n_clear++;
        if (got->best[i] != (uint32_t)number(prompt, "best", i)) {
            printf("  position %zu: token %u is likeliest, the oracle says %.0f (margin %.3f)\n", i,
                   got->best[i], number(prompt, "best", i), number(prompt, "margin", i));
            s->failed = true;
        }
    }
}

static void compare_greedy(const json_t *prompt, const struct scored *got, struct sums *s)
{
    for (size_t i = 0; i < got->n_output; i++) {
        if (number(prompt, "greedy_margin", i) < s->least_margin)
            return;
        s->n_greedy++;
        if (got->output[i] != (uint32_t)number(prompt, "greedy", i)) {
            printf("  greedy token %zu is %u, the oracle says %.0f\n", i, got->output[i],
                   number(prompt, "greedy", i));
            s->failed = true;
            return;
        }
    }
}

/* What a prefix hit saves changes nothing: the reply is the same, and so its second run. */
static void compare_replies(struct lodge_engine *en, const uint32_t *ids, uint32_t n,
                            const struct scored *want, struct sums *s)
{
    for (int turn = 0; turn < 2; turn++) {
        struct scored got;
        struct lodge_error e = {0};
        if (reply(en, ids, n, (uint32_t)want->n_output, &got, &e)) {
            printf("  %s\n", e.text);
            s->failed = true;
            return;
        }
        bool hit = !turn || got.n_cached == (n - 1) / 32 * 32;
        if (!hit || got.n_output != want->n_output ||
            memcmp(got.output, want->output, want->n_output * sizeof *got.output) != 0) {
            printf("  reply %d with %u cached tokens is another one\n", turn, got.n_cached);
            s->failed = true;
        }
        scored_finish(&got);
    }
}

static void run_prompt(struct lodge_engine *en, const json_t *prompt, struct sums *s)
{
    const json_t *ids = json_object_get(prompt, "ids");
    uint32_t n = (uint32_t)json_array_size(ids);
    uint32_t n_greedy = (uint32_t)json_array_size(json_object_get(prompt, "greedy"));
    uint32_t *list = id_list(ids);
    struct scored got;
    struct lodge_error e = {0};
    int err = list ? score(en, list, n, n_greedy, &got, &e) : LODGE_ERR_NOMEM;
    if (err || got.n_scores != n - 1 || got.n_output != n_greedy) {
        printf("  %s: %zu of %u scores, %zu of %u tokens\n", e.text, err ? 0 : got.n_scores, n - 1,
               err ? 0 : got.n_output, n_greedy);
        s->failed = true;
    } else {
        compare_scores(prompt, &got, s);
        compare_greedy(prompt, &got, s);
        compare_replies(en, list, n, &got, s);
    }
    if (!err)
        scored_finish(&got);
    free(list);
}

static double mean_difference(const struct sums *a, const struct sums *b)
{
    double sum = 0;
    for (size_t i = 0; i < a->n; i++)
        sum += fabs((double)a->scores[i] - (double)b->scores[i]);
    return a->n == b->n ? sum / (double)a->n : NAN;
}

/* Runs all prompts; the sums are of this way alone. */
static int run_way(const char *dir, const json_t *c, const struct way *w, struct sums *s)
{
    char *path = lodge_path_join(dir, json_string_value(json_object_get(c, "model")));
    struct lodge_engine_config cfg = {
        .model_path = path,
        .cpu_isa = w->isa,
        .kv_cache_dtype = w->kv,
        .n_threads = 2,
        .max_model_len = (uint32_t)json_integer_value(json_object_get(c, "max_model_len")),
        .max_seqs = 4,
        .max_step_tokens = w->chunk,
        .pool_bytes = 4 << 20};
    struct lodge_engine *en = NULL;
    struct lodge_error e = {0};
    size_t i;
    json_t *prompt;
    *s = (struct sums){.least_margin = strcmp(w->kv, "bf16") ? CLEAR_MARGIN : GREEDY_MARGIN};
    int err = lodge_engine_open(&cfg, &en, &e);
    if (err) {
        printf("%s: %s\n", path, e.text);
        free(path);
        return err;
    }
    json_array_foreach(json_object_get(c, "prompts"), i, prompt) run_prompt(en, prompt, s);
    lodge_engine_close(en);
    free(path);
    s->failed |= !s->n || s->n > MAX_SCORES;
    return 0;
}

/* 0 when the case passes with keys and values of this dtype; *s keeps its scores. `bf16`: those
 * with bf16, or NULL when that is what is run. */
static int run_case(const char *dir, const json_t *c, const char *kv, const struct sums *bf16,
                    struct sums *s)
{
    static struct sums best;
    const char *name = json_string_value(json_object_get(c, "model"));
    const char *type = json_string_value(json_array_get(json_object_get(c, "types"), 0));
    if (run_way(dir, c, &(struct way){"ref", kv, 0}, s) ||
        run_way(dir, c, &(struct way){NULL, kv, 24}, &best))
        return 1;
    double declared = s->declared / (double)s->n, fp32 = s->fp32 / (double)s->n;
    double from_bf16 = bf16 ? mean_difference(s, bf16) : 0;
    bool int8 = strchr("QIM", type[0]) != NULL; /* Q4_K, IQ4_NL, MXFP4 */
    bool same = s->n == best.n && memcmp(s->scores, best.scores, s->n * sizeof *s->scores) == 0;
    if (!same)
        printf("  the best rung, in chunks, has other scores than ref: mean difference %.7f\n",
               mean_difference(s, &best));
    /* A NaN must fail. */
    bool failed = s->failed || best.failed || !same;
    if (bf16)
        failed |= !(from_bf16 <= INT8_KV_FACTOR * bf16->fp32 / (double)bf16->n);
    else
        failed |= !(declared <= TOLERANCE_DECLARED) || (!int8 && !(fp32 <= TOLERANCE_FP32));
    printf("%s %-20s %-5s %-4s declared %.6f (max %.5f)  fp32 %.5f  from bf16 %.5f  %zu clear "
           "argmax, %zu greedy\n",
           failed ? "FAIL" : "ok  ", name, type, kv, declared, s->declared_max, fp32, from_bf16,
           s->n_clear, s->n_greedy);
    return failed;
}

int main(int argc, char **argv)
{
    static struct sums bf16, int8;
    json_t *golden = NULL, *c;
    struct lodge_error e = {0};
    char *path = argc > 1 ? lodge_path_join(argv[1], "golden.json") : NULL;
    if (!path || lodge_json_load_file(path, &golden, &e)) {
        printf("usage: golden_models DIR [CASE]; %s\n", e.text);
        return 2;
    }
    free(path);
    int failed = 0;
    size_t i, n = 0;
    json_array_foreach(json_object_get(golden, "cases"), i, c)
    {
        if (argc > 2 && strcmp(argv[2], json_string_value(json_object_get(c, "model"))) != 0)
            continue;
        failed += run_case(argv[1], c, "bf16", NULL, &bf16);
        failed += run_case(argv[1], c, "int8", &bf16, &int8);
        n++;
    }
    json_decref(golden);
    printf("%zu cases on two rungs with two kinds of keys and values, %d failures\n", n, failed);
    return failed || !n;
}
