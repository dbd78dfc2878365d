#include "clients/bench/check.h"

#include "clients/text.h"

#include <stdlib.h>
#include <string.h>

void bench_check_finish(struct bench_check *c)
{
    for (uint32_t i = 0; i < c->n; i++)
        free(c->v[i].text);
    *c = (struct bench_check){0};
}

bool bench_check_wants(const struct bench_check *c, uint64_t n)
{
    return c && n % c->every == 0 && c->n < BENCH_CHECK_MOST;
}

int bench_check_add(struct bench_check *c, uint32_t round, const struct bench_record *record,
                    const char *text, size_t n)
{
    if (c->n == BENCH_CHECK_MOST)
        return 0;
    char *own = strndup(text, n);
    if (!own)
        return LODGE_ERR_NOMEM;
    c->v[c->n++] = (struct bench_reply){.round = round,
                                        .tenant = record->tenant,
                                        .model = record->model,
                                        .index = record->index,
                                        .n_output = record->n_output,
                                        .text = own};
    return 0;
}

/* Who differs, and where the texts part, with what they share just before it. */
static void describe(struct bench_check *c, const struct bench_target *t,
                     const struct bench_reply *loaded, const struct bench_reply *alone)
{
    const char *name = t->options->tenants.v[loaded->tenant].name;
    size_t at = 0, back;
    char text[2][100];
    while (loaded->text[at] && loaded->text[at] == alone->text[at])
        at++;
    back = at < 20 ? at : 20;
    text_clean_line(loaded->text + at - back, strnlen(loaded->text + at - back, 60), text[0],
                    sizeof text[0]);
    text_clean_line(alone->text + at - back, strnlen(alone->text + at - back, 60), text[1],
                    sizeof text[1]);
    snprintf(
        c->example, sizeof c->example,
        "%s%s%s, request %llu: at byte %zu '%s' under load and '%s' alone; %lld and %lld tokens",
        name ? name : "", name ? ", " : "", t->models[loaded->model],
        (unsigned long long)loaded->index, at, text[0], text[1], (long long)loaded->n_output,
        (long long)alone->n_output);
}

static void compare(struct bench_check *c, const struct bench_target *t,
                    const struct bench_reply *loaded, const struct bench_check *second)
{
    const struct bench_reply *alone = second->v;
    if (!second->n)
        c->n_failed++;
    else if (loaded->n_output == alone->n_output && strcmp(loaded->text, alone->text) == 0)
        c->n_same++;
    else if (!c->n_different++)
        describe(c, t, loaded, alone);
}

int bench_check_repeat(struct bench_check *c, struct bench_runner *r, const struct bench_target *t,
                       struct lodge_error *e)
{
    int err = 0;
    bool interrupted = false;
    for (uint32_t i = 0; i < c->n && !err && !interrupted; i++) {
        struct bench_result result = {0};
        struct bench_check second = {.every = 1};
        struct bench_load load;
        err = bench_load_single(c->v[i].round, c->v[i].tenant, c->v[i].index, &load, e);
        load.check = &second;
        if (!err)
            err = bench_runner_run(r, &load, NULL, NULL, &result, e);
        interrupted = result.interrupted;
        if (!err && !interrupted)
            compare(c, t, &c->v[i], &second);
        bench_load_finish(&load);
        bench_check_finish(&second);
        bench_result_finish(&result);
    }
    return err;
}

bool bench_check_passed(const struct bench_check *c)
{
    return !c->n_different && c->n_same;
}

void bench_check_print(FILE *out, const struct bench_check *c)
{
    fprintf(out, "\nCheck: of %u replies under load, %u were the same alone, %u different", c->n,
            c->n_same, c->n_different);
    if (c->n_failed)
        fprintf(out, ", %u not answered again", c->n_failed);
    fprintf(out, "\n");
    if (c->example[0])
        fprintf(out, "  %s\n", c->example);
}

json_t *bench_check_json(const struct bench_check *c)
{
    return json_pack("{s:I, s:I, s:I, s:I, s:s}", "sampled", (json_int_t)c->n, "same",
                     (json_int_t)c->n_same, "different", (json_int_t)c->n_different, "not_repeated",
                     (json_int_t)c->n_failed, "example", c->example);
}
