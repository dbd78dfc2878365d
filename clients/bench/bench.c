/* lodgectl bench: measures one OpenAI server, or two in turns. */
#include "clients/bench/bench.h"

#include "clients/bench/check.h"
#include "clients/bench/compare.h"
#include "clients/bench/groups.h"
#include "clients/bench/progress.h"
#include "clients/bench/report.h"
#include "clients/bench/run.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define EXIT_INTERRUPTED 130

static volatile sig_atomic_t interrupted;

static void on_interrupt(int sig)
{
    (void)sig;
    interrupted = 1;
}

struct bench {
    struct bench_options o;
    struct bench_workload w;
    struct bench_target t[2];
    struct bench_runner *runner[2];
    uint32_t n_sides;
    struct bench_check check[2]; /* of --check */
};

/* Everything one needs to be told before a run is over. */
static int open_all(struct bench *b, struct lodge_error *e)
{
    struct bench_options *o = &b->o;
    b->n_sides = o->side[1].url ? 2 : 1;
    int err = bench_workload_open(o, &b->w, e);
    if (!o->n_prompts && o->duration_s <= 0)
        o->n_prompts = b->w.file ? (int64_t)json_array_size(b->w.file) : 64 * (int64_t)o->tenants.n;
    for (uint32_t i = 0; i < b->n_sides && !err; i++)
        err = bench_target_open(o, &b->w, (int)i, &interrupted, &b->t[i], e);
    for (uint32_t i = 0; i < b->n_sides && !err; i++)
        err = bench_runner_open(&b->t[i], &b->w, &interrupted, &b->runner[i], e);
    b->w.ids = b->t[0].takes_ids && (b->n_sides == 1 || b->t[1].takes_ids);
    for (uint32_t i = 0; i < b->n_sides; i++)
        b->t[i].takes_ids = b->w.ids;
    return err;
}

static void close_all(struct bench *b)
{
    for (uint32_t i = 0; i < b->n_sides; i++) {
        bench_runner_close(b->runner[i]);
        bench_target_close(&b->t[i]);
        bench_check_finish(&b->check[i]);
    }
    bench_workload_close(&b->w);
}

static int warm_up(struct bench *b, uint32_t side, struct lodge_error *e)
{
    const struct bench_options *o = &b->o;
    struct bench_progress p = {o->progress && isatty(2), "warm-up", 0};
    struct bench_load load;
    struct bench_result r = {0};
    int err = bench_load_warm_up(o, &load, e);
    if (!err && o->n_warmup)
        err = bench_runner_run(b->runner[side], &load, bench_progress_show, &p, &r, e);
    bench_progress_clear(&p);
    bench_load_finish(&load);
    bench_result_finish(&r);
    return err;
}

/* One measured run; the caller ends *r. */
static int measure(struct bench *b, uint32_t side, uint32_t round, const char *what,
                   struct bench_result *r, struct lodge_error *e)
{
    const struct bench_options *o = &b->o;
    struct bench_progress p = {o->progress && isatty(2), what, o->duration_s};
    struct bench_load load;
    int err = bench_load_open(o, round, &load, e);
    b->check[side].every = BENCH_CHECK_EVERY;
    load.check = o->check ? &b->check[side] : NULL;
    if (!err)
        err = bench_runner_run(b->runner[side], &load, bench_progress_show, &p, r, e);
    bench_progress_clear(&p);
    bench_load_finish(&load);
    return err;
}

/* With --check: the second replies, which no figure counts. */
static int repeat_alone(struct bench *b, uint32_t side, struct lodge_error *e)
{
    if (!b->o.check || interrupted)
        return 0;
    int err = bench_check_repeat(&b->check[side], b->runner[side], &b->t[side], e);
    if (!err)
        bench_check_print(b->o.json ? stderr : stdout, &b->check[side]);
    return err;
}

static bool checks_passed(const struct bench *b)
{
    for (uint32_t i = 0; b->o.check && i < b->n_sides; i++)
        if (!bench_check_passed(&b->check[i]))
            return false;
    return true;
}

/* Writes the JSON where it is asked for; takes it over. */
static int save(const struct bench_options *o, json_t *j, struct lodge_error *e)
{
    int err = j ? 0 : lodge_fail(e, LODGE_ERR_NOMEM, "no memory for the JSON");
    if (!err && o->save_result && json_dump_file(j, o->save_result, JSON_INDENT(1)))
        err = lodge_fail(e, LODGE_ERR_IO, "--save-result: cannot write %s", o->save_result);
    if (!err && o->json && !json_dumpf(j, stdout, JSON_INDENT(1)))
        printf("\n");
    json_decref(j);
    return err;
}

static int single(struct bench *b, struct lodge_error *e, int *exit_code)
{
    const struct bench_options *o = &b->o;
    struct bench_result r = {0};
    struct bench_metrics m = {.n = 0};
    if (!o->json)
        bench_print_setting(stdout, &b->t[0]);
    fflush(stdout);
    int err = warm_up(b, 0, e);
    if (!err)
        err = measure(b, 0, 0, "run", &r, e);
    if (!err)
        err = bench_metrics_make(o, &r, NULL, &m);
    if (!err && !o->json) {
        bench_print_table(stdout, o, &m);
        err = bench_print_tenants(stdout, &b->t[0], &r, &m);
        if (!err)
            err = bench_print_models(stdout, &b->t[0], &r);
    }
    if (!err) {
        bench_print_notes(o->json ? stderr : stdout, &r);
        err = repeat_alone(b, 0, e);
    }
    if (!err) {
        json_t *j = bench_result_json(&b->t[0], &r, &m);
        if (o->check)
            json_object_set_new(j, "check", bench_check_json(&b->check[0]));
        err = save(o, j, e);
    }
    bool good = bench_metrics_get(&m, "completed") > 0 && checks_passed(b);
    *exit_code = interrupted ? EXIT_INTERRUPTED : good ? 0 : 1;
    bench_result_finish(&r);
    return err;
}

/* One run of one side; its figures go to *m and its errors to *notes. */
static int take_turn(struct bench *b, uint32_t side, uint32_t round, struct bench_metrics *m,
                     struct bench_result *notes, struct lodge_error *e)
{
    struct bench_result r = {0};
    char what[64];
    snprintf(what, sizeof what, "round %u of %lld, %c", round + 1, (long long)b->o.n_repeats,
             'A' + (int)side);
    int err = measure(b, side, round, what, &r, e);
    if (!err)
        err = bench_metrics_make(&b->o, &r, NULL, m);
    bench_result_add_notes(notes, &r);
    if (!err && !b->o.json && !r.interrupted) {
        printf("%s:", what);
        bench_print_cell(stdout, 9, bench_metrics_get(m, "output_throughput"));
        printf(" output tokens/s, %.0f failed\n", bench_metrics_get(m, "failed"));
        fflush(stdout);
    }
    bench_result_finish(&r);
    return err;
}

static int report_comparison(struct bench *b, const struct bench_round *rounds, uint32_t n,
                             const struct bench_result notes[2], struct lodge_error *e)
{
    int err = 0;
    FILE *out = b->o.json ? stderr : stdout;
    if (n && !b->o.json)
        err = bench_print_comparison(stdout, b->t, rounds, n);
    for (int i = 0; i < 2; i++) {
        if (notes[i].n_errors || notes[i].n_without_usage || notes[i].gave_up[0])
            fprintf(out, "\nOf %c:", 'A' + i);
        bench_print_notes(out, &notes[i]);
    }
    if (!n)
        fprintf(out, "no round was finished\n");
    for (uint32_t i = 0; i < 2 && n && !err; i++) {
        if (b->o.check)
            fprintf(out, "\nOf %c:", 'A' + (int)i);
        err = repeat_alone(b, i, e);
    }
    if (err || !n)
        return err;
    json_t *j = bench_comparison_json(b->t, rounds, n);
    for (int i = 0; i < 2 && b->o.check; i++)
        json_object_set_new(json_object_get(j, i ? "b" : "a"), "check",
                            bench_check_json(&b->check[i]));
    return save(&b->o, j, e);
}

/* A B A B ...; a round counts when both sides finished it. */
static int compare(struct bench *b, struct lodge_error *e, int *exit_code)
{
    struct bench_round *rounds = calloc((size_t)b->o.n_repeats, sizeof *rounds);
    struct bench_result notes[2] = {{0}, {0}};
    double completed[2] = {0, 0};
    uint32_t n = 0;
    int err = rounds ? 0 : lodge_fail(e, LODGE_ERR_NOMEM, "no memory for the rounds");
    for (uint32_t side = 0; side < 2 && !err; side++) {
        if (!b->o.json)
            bench_print_setting(stdout, &b->t[side]);
        fflush(stdout);
        err = warm_up(b, side, e);
    }
    while (!err && !interrupted && n < b->o.n_repeats) {
        for (uint32_t side = 0; side < 2 && !err && !interrupted; side++) {
            err = take_turn(b, side, n, &rounds[n].side[side], &notes[side], e);
            completed[side] += bench_metrics_get(&rounds[n].side[side], "completed");
        }
        n += !err && !interrupted;
    }
    if (!err)
        err = report_comparison(b, rounds, n, notes, e);
    *exit_code = interrupted                                                ? EXIT_INTERRUPTED
                 : completed[0] > 0 && completed[1] > 0 && checks_passed(b) ? 0
                                                                            : 1;
    free(rounds);
    return err;
}

int bench_main(int argc, char *const *argv)
{
    struct bench b = {.n_sides = 0};
    struct lodge_error e = {0};
    struct sigaction act = {.sa_handler = on_interrupt}, ignore = {.sa_handler = SIG_IGN};
    int exit_code = 0, err = bench_options_read(argc, argv, &b.o, &e);
    sigaction(SIGINT, &act, NULL);
    sigaction(SIGPIPE, &ignore, NULL);
    if (!err && b.o.conf.help) {
        bench_options_help(&b.o);
    } else if (!err) {
        err = open_all(&b, &e);
        if (!err)
            err = (b.n_sides == 2 ? compare : single)(&b, &e, &exit_code);
        close_all(&b);
    }
    bench_options_finish(&b.o);
    if (err == LODGE_ERR_CANCELLED)
        return EXIT_INTERRUPTED;
    if (err)
        fprintf(stderr, "lodgectl: %s\n", e.text);
    return err ? lodge_error_exit(err) : exit_code;
}
