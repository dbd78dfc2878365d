/* The engine with adapters against PEFT: the cases of tests/golden/make_adapters.py, each on the
 * reference kernels and on the best rung of this machine, there with prompts cut into chunks of 24
 * tokens, from the PEFT directory and, where there is one, from the GGUF file.
 *
 * Gates: mean |difference of log-probability| <= 0.02 against PEFT in fp32 unless activations are
 * int8, and <= 0.005 against PEFT with the declared roundings; the likeliest token is the oracle's
 * wherever its margin exceeds 0.5; without the adapter, and with scale 0, the scores are those of
 * the base (bit for bit the same in both); all at once they are what each is alone, bit for bit.
 */
#include "base/file.h"
#include "base/json.h"
#include "tests/engine/score.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TOLERANCE_DECLARED 0.005
#define TOLERANCE_FP32 0.02
#define CLEAR_MARGIN 0.5
#define N_RUNS 5

static double number(const json_t *obj, const char *key, size_t i)
{
    return json_number_value(json_array_get(json_object_get(obj, key), i));
}

/* One prompt with a set of adapters, in a thread of its own. */
struct run {
    struct lodge_engine *en;
    struct lodge_request_adapter adapters[2];
    uint32_t n_adapters, n_ids;
    uint32_t *ids;
    struct scored got;
    struct lodge_error e;
    int err;
};

static void *run_main(void *arg)
{
    struct run *r = arg;
    r->err = score_with(r->en, r->adapters, r->n_adapters, r->ids, r->n_ids, 4, &r->got, &r->e);
    return NULL;
}

static bool same(const struct run *a, const struct run *b)
{
    return !a->err && !b->err && a->got.n_scores == b->got.n_scores &&
           a->got.n_output == b->got.n_output &&
           memcmp(a->got.scores, b->got.scores, a->got.n_scores * sizeof *a->got.scores) == 0 &&
           memcmp(a->got.output, b->got.output, a->got.n_output * sizeof *a->got.output) == 0;
}

/* Base, adapter, and if it may be scaled: by 0, by 0.5, and beside another of its scope. Returns
 * how many. */
static int set_runs(struct lodge_engine *en, struct lodge_adapter_version *v,
                    struct lodge_adapter_version *other, uint32_t *ids, uint32_t n,
                    struct run runs[N_RUNS])
{
    for (int i = 0; i < N_RUNS; i++)
        runs[i] = (struct run){.en = en, .ids = ids, .n_ids = n, .n_adapters = i > 0};
    runs[1].adapters[0] = (struct lodge_request_adapter){v, 1};
    runs[2].adapters[0] = (struct lodge_request_adapter){v, 0};
    runs[3].adapters[0] = (struct lodge_request_adapter){v, 0.5f};
    runs[4].adapters[0] = (struct lodge_request_adapter){v, 1};
    runs[4].adapters[1] = (struct lodge_request_adapter){other, -0.75f};
    runs[4].n_adapters = 2;
    return lodge_adapter_version_info(v)->scaled_once ? 2 : N_RUNS;
}

struct sums {
    double declared, declared_max, fp32;
    size_t n, n_clear;
    bool failed;
};

static void fail(struct sums *s, const char *what)
{
    printf("  %s\n", what);
    s->failed = true;
}

static void compare(const json_t *prompt, const struct run *with, struct sums *s)
{
    for (size_t i = 0; i < with->got.n_scores; i++) {
        double got = (double)with->got.scores[i];
        double d = fabs(got - number(prompt, "declared", i));
        s->declared += d;
        s->declared_max = fmax(s->declared_max, d);
        s->fp32 += fabs(got - number(prompt, "fp32", i));
        s->n++;
        if (number(prompt, "margin", i) <= CLEAR_MARGIN)
            continue;
        s->n_clear++;
        if (with->got.best[i] != (uint32_t)number(prompt, "best", i))
            fail(s, "another token is likeliest than the oracle says");
    }
}

static void run_prompt(struct lodge_engine *en, struct lodge_adapter_version *v,
                       struct lodge_adapter_version *other, const json_t *prompt, struct sums *s)
{
    const json_t *list = json_object_get(prompt, "ids");
    uint32_t n = (uint32_t)json_array_size(list), *ids = calloc(n + 1, sizeof *ids);
    struct run alone[N_RUNS], together[N_RUNS];
    pthread_t threads[N_RUNS];
    for (uint32_t i = 0; ids && i < n; i++)
        ids[i] = (uint32_t)json_integer_value(json_array_get(list, i));
    int n_runs = set_runs(en, v, other, ids, n, alone);
    set_runs(en, v, other, ids, n, together);
    for (int i = 0; i < n_runs; i++)
        run_main(&alone[i]);
    for (int i = 0; i < n_runs; i++)
        if (pthread_create(&threads[i], NULL, run_main, &together[i]))
            abort();
    for (int i = 0; i < n_runs; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < n_runs; i++)
        if (!same(&alone[i], &together[i]))
            fail(s, alone[i].err ? alone[i].e.text : "a reply depends on what runs beside it");
    if (!alone[1].err && !alone[0].err)
        compare(prompt, &alone[1], s);
    if (n_runs > 2 && !same(&alone[0], &alone[2]))
        fail(s, "scale 0 is not the base");
    if (same(&alone[0], &alone[1]))
        fail(s, "the adapter has no effect");
    for (int i = 0; i < n_runs; i++) {
        if (!alone[i].err)
            scored_finish(&alone[i].got);
        if (!together[i].err)
            scored_finish(&together[i].got);
    }
    free(ids);
}

/* `scope`: a byte that tells versions of the same content apart. */
static int open_adapter(struct lodge_engine *en, const char *dir, const char *name,
                        const char *suffix, uint8_t scope, struct lodge_adapter_version **out,
                        struct lodge_error *e)
{
    char path[1024];
    struct lodge_digest published = {{scope}};
    snprintf(path, sizeof path, "%s/%s%s", dir, name, suffix);
    return lodge_engine_adapter_open(en, path, -1, name, &published, out, e);
}

/* False when the case passes with this form of the adapter. */
static bool run_form(struct lodge_engine *en, const char *dir, const json_t *c, const char *suffix,
                     const char *rung)
{
    const char *name = json_string_value(json_object_get(c, "adapter")), *label;
    struct lodge_adapter_version *v = NULL, *other = NULL;
    struct lodge_error e = {0};
    struct sums s = {0};
    size_t i;
    json_t *prompt;
    if (open_adapter(en, dir, name, suffix, 0, &v, &e) ||
        open_adapter(en, dir, name, suffix, 1, &other, &e)) {
        fail(&s, e.text);
    } else {
        json_array_foreach(json_object_get(c, "prompts"), i, prompt)
            run_prompt(en, v, other, prompt, &s);
    }
    lodge_adapter_version_unref(v);
    lodge_adapter_version_unref(other);
    double declared = s.declared / (double)s.n, fp32 = s.fp32 / (double)s.n;
    bool int8 = json_is_true(json_object_get(c, "int8"));
    s.failed |= !(declared <= TOLERANCE_DECLARED) || (!int8 && !(fp32 <= TOLERANCE_FP32));
    label = json_string_value(json_object_get(c, "model"));
    printf("%s %-18s %-10s %-5s %-5s declared %.6f (max %.5f)  fp32 %.5f  %zu clear argmax\n",
           s.failed ? "FAIL" : "ok  ", label, name, *suffix ? "gguf" : "peft", rung, declared,
           s.declared_max, fp32, s.n_clear);
    return s.failed;
}

static int run_case(const char *models, const char *dir, const json_t *c, const char *isa,
                    uint32_t chunk)
{
    char *path = lodge_path_join(models, json_string_value(json_object_get(c, "model")));
    char form[1024];
    struct lodge_engine_config cfg = {.model_path = path,
                                      .cpu_isa = isa,
                                      .n_threads = 2,
                                      .max_model_len = 64,
                                      .max_seqs = 8,
                                      .max_step_tokens = chunk,
                                      .pool_bytes = 8 << 20};
    struct lodge_engine *en = NULL;
    struct lodge_error e = {0};
    if (lodge_engine_open(&cfg, &en, &e)) {
        printf("FAIL %s\n", e.text);
        free(path);
        return 1;
    }
    const char *rung = isa ? isa : "best";
    static const char *const forms[] = {"", ".gguf"};
    int failed = 0, n = 0;
    for (int i = 0; i < 2; i++) {
        snprintf(form, sizeof form, "%s/%s%s", dir,
                 json_string_value(json_object_get(c, "adapter")), forms[i]);
        if (!lodge_file_exists(form) && !lodge_dir_exists(form))
            continue;
        failed += run_form(en, dir, c, forms[i], rung);
        n++;
    }
    lodge_engine_close(en);
    free(path);
    return failed || !n;
}

int main(int argc, char **argv)
{
    json_t *golden = NULL, *c;
    struct lodge_error e = {0};
    char *path = argc > 2 ? lodge_path_join(argv[2], "golden.json") : NULL;
    if (!path || lodge_json_load_file(path, &golden, &e)) {
        printf("usage: golden_adapters MODELS ADAPTERS [ADAPTER]; %s\n", e.text);
        return 2;
    }
    free(path);
    int failed = 0;
    size_t i, n = 0;
    json_array_foreach(json_object_get(golden, "cases"), i, c)
    {
        if (argc > 3 && strcmp(argv[3], json_string_value(json_object_get(c, "adapter"))) != 0)
            continue;
        failed += run_case(argv[1], argv[2], c, "ref", 0);
        failed += run_case(argv[1], argv[2], c, NULL, 24);
        n++;
    }
    json_decref(golden);
    printf("%zu cases on two rungs, %d failures\n", n, failed);
    return failed || !n;
}
