#include "clients/bench/workload.h"

#include "base/file.h"
#include "base/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- opening ---- */

/* One object a line; members that would not fit the route are an error here and not later. */
static int check_prompt(const struct bench_options *o, const json_t *line, const char *where,
                        struct lodge_error *e)
{
    const json_t *prompt = json_object_get(line, "prompt");
    bool messages = json_is_array(json_object_get(line, "messages"));
    if (!json_is_object(line) || (!json_is_string(prompt) && !json_is_array(prompt) && !messages))
        return lodge_fail(e, LODGE_ERR_CONFIG,
                          "%s: not an object with a 'prompt' (text or token ids) or 'messages'",
                          where);
    if (o->chat ? !messages && !json_is_string(prompt) : !prompt)
        return lodge_fail(e, LODGE_ERR_CONFIG, "%s: --endpoint %s needs %s", where, o->endpoint,
                          o->chat ? "'messages' or a 'prompt' of text" : "a 'prompt'");
    int64_t max_tokens = 1;
    return lodge_json_get_int(line, "max_tokens", 1, 1 << 24, &max_tokens, e);
}

static int read_prompts(struct bench_workload *w, struct lodge_error *e)
{
    const char *path = w->options->prompts;
    char *text = NULL, where[300];
    size_t n = 0, number = 0;
    int err = lodge_file_read(path, (size_t)1 << 30, &text, &n, e);
    if (err)
        return err;
    w->file = json_array();
    char *rest = text;
    for (char *line; !err && (line = strsep(&rest, "\n"));) {
        json_t *o = NULL;
        snprintf(where, sizeof where, "%.250s line %zu", path, ++number);
        if (!line[strspn(line, " \t\r")])
            continue;
        err = lodge_json_load(line, strlen(line), &lodge_json_body_limits, where, &o, e);
        if (!err)
            err = check_prompt(w->options, o, where, e);
        if (err)
            json_decref(o);
        else
            json_array_append_new(w->file, o);
    }
    free(text);
    if (!err && !json_array_size(w->file))
        err = lodge_fail(e, LODGE_ERR_CONFIG, "%s: no prompts in it", path);
    return err;
}

/* {"a":1} becomes `"a":1,` */
static int read_extra(struct bench_workload *w, struct lodge_error *e)
{
    const char *given = w->options->extra_body;
    json_t *o = NULL;
    int err = given ? lodge_json_load(given, strlen(given), &lodge_json_body_limits, "--extra-body",
                                      &o, e)
                    : 0;
    if (!err && given && !json_is_object(o))
        err = lodge_fail(e, LODGE_ERR_CONFIG, "--extra-body: not a JSON object");
    char *text = !err && json_object_size(o) ? json_dumps(o, JSON_COMPACT) : NULL;
    if (text) {
        size_t n = strlen(text);
        text[n - 1] = ',';
        memmove(text, text + 1, n);
    }
    json_decref(o);
    w->extra = text ? text : strdup("");
    return err || w->extra ? err : lodge_fail(e, LODGE_ERR_NOMEM, "no memory for --extra-body");
}

/* The first n of the cumulated weights serve any tenant with n models. */
static int weigh_models(struct bench_workload *w, struct lodge_error *e)
{
    const struct bench_options *o = w->options;
    uint32_t n = o->models.n;
    for (uint32_t i = 0; i < o->tenants.n; i++)
        n = o->tenants.v[i].n_own > n ? o->tenants.v[i].n_own : n;
    if (o->spread != BENCH_ZIPF || !n)
        return 0;
    w->zipf = calloc(n, sizeof *w->zipf);
    if (!w->zipf)
        return lodge_fail(e, LODGE_ERR_NOMEM, "no memory for --models");
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        w->zipf[i] = sum += pow(i + 1.0, -o->spread_parameter);
    return 0;
}

int bench_workload_open(const struct bench_options *o, struct bench_workload *w,
                        struct lodge_error *e)
{
    *w = (struct bench_workload){.options = o};
    int err = read_extra(w, e);
    if (!err && o->prompts)
        err = read_prompts(w, e);
    return err ? err : weigh_models(w, e);
}

void bench_workload_close(struct bench_workload *w)
{
    json_decref(w->file);
    free(w->extra);
    free(w->zipf);
}

/* ---- one request ---- */

/* Rounds have 24 bits, tenants 11, requests 28; the bit between keeps the draws of models apart. */
#define MODEL_STREAM ((uint64_t)1 << 39)

static uint64_t stream_of(uint32_t round, uint32_t tenant, uint64_t index)
{
    return (uint64_t)round << 40 | (uint64_t)tenant << 28 | index;
}

static uint32_t first_above(const double *cumulated, uint32_t n, double x)
{
    uint32_t low = 0, high = n - 1;
    while (low < high) {
        uint32_t mid = (low + high) / 2;
        if (cumulated[mid] > x)
            high = mid;
        else
            low = mid + 1;
    }
    return low;
}

struct bench_pick bench_workload_pick(const struct bench_workload *w, const struct bench_target *t,
                                      uint32_t round, uint32_t tenant, uint64_t index)
{
    const struct bench_options *o = w->options;
    const struct bench_tenant *who = &o->tenants.v[tenant];
    uint32_t n = who->n_own ? who->n_own : t->n_shared, model = 0;
    struct bench_random r;
    bench_random_init(&r, (uint64_t)o->seed, stream_of(round, tenant, index) | MODEL_STREAM);
    switch (o->spread) {
    case BENCH_UNIFORM:
        model = (uint32_t)bench_random_below(&r, n);
        break;
    case BENCH_ROUND_ROBIN:
        model = (uint32_t)((index + tenant) % n);
        break;
    case BENCH_ZIPF:
        model = w->zipf ? first_above(w->zipf, n, bench_random_unit(&r) * w->zipf[n - 1]) : 0;
        break;
    case BENCH_POWER:
        model = (uint32_t)((double)n * pow(bench_random_unit(&r), 1 / o->spread_parameter));
        break;
    }
    model = model < n ? model : n - 1;
    return (struct bench_pick){.tenant = tenant,
                               .model = who->n_own ? t->n_shared + who->first_own + model : model,
                               .api_key = bench_target_key(t, tenant)};
}

/* Uniform in length * (1 -+ ratio), at least 1, as vLLM's random data set. */
static uint64_t draw_length(const struct bench_options *o, struct bench_random *r, int64_t length)
{
    double low = floor((double)length * (1 - o->range_ratio));
    double high = ceil((double)length * (1 + o->range_ratio));
    uint64_t least = low < 1 ? 1 : (uint64_t)low;
    return least + bench_random_below(r, (uint64_t)high - least + 1);
}

/* n ids, each with a comma behind. The lowest ids are left out: they are often special tokens. */
static void put_ids(const struct bench_options *o, struct bench_random *r, uint64_t n,
                    struct lodge_buf *body)
{
    uint64_t least = o->vocab_size > 512 ? 256 : (uint64_t)o->vocab_size / 2;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t id = least + bench_random_below(r, (uint64_t)o->vocab_size - least);
        char digits[24], *p = digits + sizeof digits;
        *--p = ',';
        do
            *--p = (char)('0' + id % 10);
        while (id /= 10);
        lodge_buf_append(body, p, (size_t)(digits + sizeof digits - p));
    }
}

/* n words, most of them one token in any vocabulary; the server's usage has the true number. */
static void put_words(struct bench_random *r, uint64_t n, struct lodge_buf *body)
{
    static const char *const words[] = {
        "time",   "year",   "people", "way",    "day",   "man",    "thing", "woman",
        "life",   "child",  "world",  "school", "state", "family", "group", "hand",
        "part",   "place",  "case",   "week",   "work",  "system", "point", "home",
        "water",  "room",   "mother", "area",   "money", "story",  "fact",  "month",
        "right",  "study",  "book",   "eye",    "job",   "word",   "house", "power",
        "game",   "line",   "end",    "law",    "car",   "city",   "name",  "team",
        "minute", "idea",   "body",   "back",   "face",  "others", "level", "office",
        "door",   "health", "art",    "war",    "light", "voice",  "paper", "table"};
    for (uint64_t i = 0; i < n; i++) {
        lodge_buf_puts(body, words[bench_random_below(r, sizeof words / sizeof *words)]);
        lodge_buf_puts(body, " ");
    }
}

/* "prompt":[1,2] or "prompt":"a b " or "messages":[...] */
static void put_random_prompt(const struct bench_workload *w, uint32_t round, int64_t length,
                              struct bench_random *r, struct lodge_buf *body)
{
    const struct bench_options *o = w->options;
    struct bench_random prefix;
    uint64_t n = draw_length(o, r, length);
    bench_random_init(&prefix, (uint64_t)o->seed, UINT64_MAX - 1 - round);
    lodge_buf_puts(body, o->chat  ? "\"messages\":[{\"role\":\"user\",\"content\":\""
                         : w->ids ? "\"prompt\":["
                                  : "\"prompt\":\"");
    if (w->ids) {
        put_ids(o, &prefix, (uint64_t)o->prefix_len, body);
        put_ids(o, r, n, body);
        body->n--; /* the last comma */
    } else {
        put_words(&prefix, (uint64_t)o->prefix_len, body);
        put_words(r, n, body);
    }
    lodge_buf_puts(body, o->chat ? "\"}]" : w->ids ? "]" : "\"");
}

static void put_json(const char *key, const json_t *value, struct lodge_buf *body)
{
    char *text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
    lodge_buf_printf(body, "\"%s\":", key);
    if (text)
        lodge_buf_puts(body, text);
    else
        body->failed = true;
    free(text);
}

/* A line of the file; returns its max_tokens or 0. Rounds continue where the last one stopped. */
static int64_t put_file_prompt(const struct bench_workload *w, uint64_t number,
                               struct lodge_buf *body)
{
    const json_t *line = json_array_get(w->file, number % json_array_size(w->file));
    json_t *messages = json_object_get(line, "messages"), *made = NULL;
    if (w->options->chat && !json_is_array(messages))
        made =
            json_pack("[{s:s, s:O}]", "role", "user", "content", json_object_get(line, "prompt"));
    if (w->options->chat)
        put_json("messages", made ? made : messages, body);
    else
        put_json("prompt", json_object_get(line, "prompt"), body);
    json_decref(made);
    int64_t max_tokens = 0;
    lodge_json_get_int(line, "max_tokens", 1, 1 << 24, &max_tokens, NULL);
    return max_tokens;
}

static void put_fixed(const struct bench_workload *w, const char *model, struct lodge_buf *body)
{
    const struct bench_options *o = w->options;
    json_t *name = json_string(model);
    lodge_buf_puts(body, "{");
    put_json("model", name, body);
    json_decref(name);
    lodge_buf_printf(body, ",\"temperature\":%.15g,%s", o->temperature, w->extra);
    if (o->stream)
        lodge_buf_puts(body, "\"stream\":true,\"stream_options\":{\"include_usage\":true},");
    if (o->ignore_eos)
        lodge_buf_puts(body, "\"ignore_eos\":true,");
}

int bench_workload_body(const struct bench_workload *w, const struct bench_target *t,
                        uint32_t round, uint32_t tenant, uint64_t index, struct lodge_buf *body,
                        struct bench_pick *pick)
{
    const struct bench_options *o = w->options;
    const struct bench_tenant *who = &o->tenants.v[tenant];
    struct bench_random r;
    bench_random_init(&r, (uint64_t)o->seed, stream_of(round, tenant, index));
    *pick = bench_workload_pick(w, t, round, tenant, index);
    int64_t n_output = who->n_output ? who->n_output : o->n_output;
    int64_t max_tokens = (int64_t)draw_length(o, &r, n_output), given = 0;
    lodge_buf_clear(body);
    put_fixed(w, t->models[pick->model], body);
    if (w->file) {
        uint64_t a_round = o->n_prompts ? (uint64_t)o->n_prompts
                                        : json_array_size(w->file) / (uint64_t)o->n_repeats;
        uint64_t before = round == BENCH_WARMUP_ROUND ? 0 : a_round * round;
        given = put_file_prompt(w, before + index * o->tenants.n + tenant, body);
    } else {
        put_random_prompt(w, round, who->n_input ? who->n_input : o->n_input, &r, body);
    }
    return lodge_buf_printf(body, ",\"max_tokens\":%lld}", (long long)(given ? given : max_tokens));
}
