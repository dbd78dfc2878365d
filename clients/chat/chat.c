/* lodgectl chat: a conversation on the terminal. Ctrl-C stops the reply, not the program. */
#include "clients/chat/chat.h"

#include "base/conf.h"
#include "base/file.h"
#include "clients/chat/input.h"
#include "clients/chat/talk.h"
#include "clients/text.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXIT_INTERRUPTED 130
#define MAX_FILE ((size_t)16 << 20)

struct settings {
    const char *url, *model, *api_key, *system, *once;
    double temperature, top_p, min_p, repetition_penalty;
    int64_t top_k, max_tokens, seed;
    struct lodge_conf_list stop;
    bool quiet;
};

#define F(field) offsetof(struct settings, field)
static const struct lodge_conf_setting table[] = {
    {"url", LODGE_CONF_STRING, F(url), "http://127.0.0.1:8000", .help = "server"},
    {"model", LODGE_CONF_STRING, F(model), .help = "model (default: the server's first)"},
    {"api-key", LODGE_CONF_STRING, F(api_key), .help = "or $LODGE_API_KEY or $OPENAI_API_KEY",
     .secret = true},
    {"system", LODGE_CONF_STRING, F(system), .help = "system message"},
    {"once", LODGE_CONF_STRING, F(once), .help = "ask this and leave; -: all of standard input"},
    {"quiet", LODGE_CONF_BOOL, F(quiet), "false", .help = "no figures after the replies"},
    {"temperature", LODGE_CONF_DOUBLE, F(temperature), NULL, NULL, 0, 2, NULL, "0: greedy"},
    {"top-p", LODGE_CONF_DOUBLE, F(top_p), NULL, NULL, 0, 1, NULL, "nucleus sampling"},
    {"top-k", LODGE_CONF_INT, F(top_k), NULL, NULL, -1, 1 << 30, NULL, "of the k likeliest tokens"},
    {"min-p", LODGE_CONF_DOUBLE, F(min_p), NULL, NULL, 0, 1, NULL,
     "none less likely than this part of the likeliest"},
    {"repetition-penalty", LODGE_CONF_DOUBLE, F(repetition_penalty), NULL, NULL, 0.01, 100, NULL,
     "above 1 avoids what was said"},
    {"max-tokens", LODGE_CONF_INT, F(max_tokens), NULL, NULL, 1, 1 << 30, NULL, "longest reply"},
    {"stop", LODGE_CONF_LIST, F(stop), .help = "texts that end a reply"},
    {"seed", LODGE_CONF_INT, F(seed), .help = "of the sampling"},
};

/* Those that go into requests when given; without one the server's own default holds. */
static const char *const sampling[][2] = {
    {"temperature", "temperature"},
    {"top-p", "top_p"},
    {"top-k", "top_k"},
    {"min-p", "min_p"},
    {"stop", "stop"},
    {"repetition-penalty", "repetition_penalty"},
    {"seed", "seed"},
    {"max-tokens", "max_tokens"},
};

static const char commands[] =
    "  /clear        forget the conversation\n"
    "  /system TEXT  forget it and start with this system message\n"
    "  /save FILE    write the conversation as JSON\n"
    "  /load FILE    take up a saved one\n"
    "  /read FILE    send the content of a file\n"
    "  /model NAME   go on with another model\n"
    "  /help         this list\n"
    "  /exit         leave, as Ctrl-D does\n"
    "A backslash at the end of a line continues the message; a paste is one message. A message\n"
    "that begins with / takes a space before it. Ctrl-C stops a reply.\n";

static volatile sig_atomic_t interrupted, terminated;

static void on_interrupt(int sig)
{
    interrupted = 1;
    terminated |= sig != SIGINT;
}

struct chat {
    struct settings s;
    struct lodge_conf conf;
    char url[1024];
    struct chat_talk talk;
    struct chat_input in;
    json_t *listing; /* owns the model's name found there */
    char *owned;     /* the last name given by a command */
    bool leave;
};

/* ---- commands ---- */

static int send_file(struct chat *c, const char *path, struct lodge_error *e)
{
    char *bytes = NULL;
    size_t n = 0;
    struct lodge_buf text;
    int err = lodge_file_read(path, MAX_FILE, &bytes, &n, e);
    if (err)
        return err;
    lodge_buf_init(&text, 4 * MAX_FILE);
    text_clean(bytes, n, &text);
    free(bytes);
    err = chat_talk_ask(&c->talk, lodge_buf_text(&text), e);
    lodge_buf_finish(&text);
    return err;
}

static void set_model(struct chat *c, const char *name)
{
    char *copy = strdup(name);
    if (!copy)
        return;
    c->talk.model = copy;
    free(c->owned);
    c->owned = copy;
}

/* Commands that need a word behind them. */
static int run_with_argument(struct chat *c, const char *name, const char *argument,
                             struct lodge_error *e)
{
    static const char *const names[] = {"/save", "/load", "/read", "/model"};
    size_t which = 0;
    while (which < 4 && strcmp(name, names[which]) != 0)
        which++;
    if (which == 4)
        return lodge_fail(e, LODGE_ERR_INVALID, "there is no command %s; see /help", name);
    if (!*argument)
        return lodge_fail(e, LODGE_ERR_INVALID, "%s needs a word behind it; see /help", name);
    switch (which) {
    case 0:
        return chat_talk_save(&c->talk, argument, e);
    case 1:
        return chat_talk_load(&c->talk, argument, e);
    case 2:
        return send_file(c, argument, e);
    default:
        set_model(c, argument);
        return 0;
    }
}

static int run_command(struct chat *c, const char *name, const char *argument,
                       struct lodge_error *e)
{
    if (strcmp(name, "/exit") == 0 || strcmp(name, "/quit") == 0 || strcmp(name, "/bye") == 0)
        c->leave = true;
    else if (strcmp(name, "/clear") == 0 || strcmp(name, "/reset") == 0)
        chat_talk_clear(&c->talk, c->s.system);
    else if (strcmp(name, "/system") == 0)
        chat_talk_clear(&c->talk, argument);
    else if (strcmp(name, "/help") == 0)
        fprintf(stderr, "%s", commands);
    else
        return run_with_argument(c, name, argument, e);
    return 0;
}

/* A command when it is one line that begins with a slash, else a message. */
static int handle(struct chat *c, char *text, struct lodge_error *e)
{
    if (!text[strspn(text, " \t\n")])
        return 0;
    if (text[0] != '/' || strchr(text, '\n') || !c->in.terminal)
        return chat_talk_ask(&c->talk, text, e);
    char *argument = text + strcspn(text, " ");
    if (*argument)
        *argument++ = 0;
    argument += strspn(argument, " ");
    return run_command(c, text, argument, e);
}

/* ---- the conversation ---- */

static int converse(struct chat *c, struct lodge_error *e)
{
    int err = 0;
    if (c->in.terminal)
        fprintf(stderr, "chatting with %s at %s; /help for commands, Ctrl-D to leave\n",
                c->talk.model, c->url);
    while (!c->leave && !terminated) {
        interrupted = 0;
        enum chat_read got = chat_input_read(&c->in, "> ");
        if (got == CHAT_END || (got == CHAT_INTERRUPTED && !c->in.terminal))
            break;
        if (got == CHAT_INTERRUPTED) {
            fprintf(stderr, "\n(Ctrl-D or /exit leaves)\n");
            continue;
        }
        interrupted = 0;
        err = handle(c, c->in.text.n ? c->in.text.data : (char[]){0}, e);
        if (!c->in.terminal && err)
            return err;
        if (err && err != LODGE_ERR_CANCELLED)
            fprintf(stderr, "lodgectl: %s\n", e->text);
    }
    if (c->in.terminal && !c->leave)
        fprintf(stderr, "\n");
    return !c->in.terminal && interrupted ? LODGE_ERR_CANCELLED : 0;
}

static int ask_once(struct chat *c, struct lodge_error *e)
{
    if (strcmp(c->s.once, "-") != 0) {
        text_clean(c->s.once, strlen(c->s.once), &c->in.text);
        return chat_talk_ask(&c->talk, lodge_buf_text(&c->in.text), e);
    }
    if (chat_input_read_all(&c->in) != CHAT_MESSAGE)
        return lodge_fail(e, interrupted ? LODGE_ERR_CANCELLED : LODGE_ERR_CONFIG,
                          "--once -: nothing came on standard input");
    return chat_talk_ask(&c->talk, lodge_buf_text(&c->in.text), e);
}

/* ---- start ---- */

/* The server's first model, unless one is named. */
static int choose_model(struct chat *c, const struct http_client *http, const char **model,
                        struct lodge_error *e)
{
    *model = c->s.model;
    int err = *model ? 0 : http_get(http, "/v1/models", &c->listing, e);
    if (!err && !*model)
        *model = json_string_value(
            json_object_get(json_array_get(json_object_get(c->listing, "data"), 0), "id"));
    return err || *model ? err
                         : lodge_fail(e, LODGE_ERR_FORMAT,
                                      "%s/v1/models lists no model; name one by --model", c->url);
}

static json_t *sampling_of(const struct lodge_conf *conf)
{
    json_t *all = lodge_conf_json(conf), *some = json_object();
    for (size_t i = 0; i < sizeof sampling / sizeof *sampling; i++)
        if (lodge_conf_given(conf, sampling[i][0]))
            json_object_set(some, sampling[i][1], json_object_get(all, sampling[i][1]));
    json_decref(all);
    return some;
}

static int run(struct chat *c, struct lodge_error *e)
{
    struct sigaction act = {.sa_handler = on_interrupt};
    sigaction(SIGINT, &act, NULL);
    sigaction(SIGTERM, &act, NULL);
    sigaction(SIGHUP, &act, NULL);
    if (c->conf.n_args > 1)
        return lodge_fail(e, LODGE_ERR_CONFIG, "one URL, not %u", c->conf.n_args);
    int err = http_base_url(c->conf.n_args ? c->conf.args[0] : c->s.url, c->url, sizeof c->url, e);
    if (err)
        return err;
    struct http_client http = {.url = c->url,
                               .api_key = http_api_key(c->s.api_key),
                               .key_from = "--api-key KEY, or in LODGE_API_KEY",
                               .interrupted = &interrupted};
    const char *model;
    err = choose_model(c, &http, &model, e);
    if (err)
        return err;
    chat_input_init(&c->in, &terminated);
    chat_talk_init(&c->talk, &http, model, sampling_of(&c->conf));
    c->talk.quiet = c->s.quiet;
    chat_talk_clear(&c->talk, c->s.system);
    err = c->s.once ? ask_once(c, e) : converse(c, e);
    chat_talk_finish(&c->talk);
    chat_input_finish(&c->in);
    return err;
}

static void print_help(const struct lodge_conf *conf)
{
    printf(
        "usage: lodgectl chat [URL] [flags]\n\n"
        "A conversation with a served model. Lines of a pipe are messages of one conversation.\n\n"
        "  lodgectl chat\n"
        "  lodgectl chat http://gpu-box:8000 --system 'Answer in one sentence.'\n"
        "  lodgectl chat --once - <letter.txt\n\n");
    lodge_conf_help(conf, stdout);
    printf("\nOn a terminal:\n%s", commands);
}

int chat_main(int argc, char *const *argv)
{
    struct lodge_error e = {0};
    struct chat c = {.leave = false};
    int err = lodge_conf_init(&c.conf, table, sizeof table / sizeof *table, &c.s, &e);
    if (!err)
        err = lodge_conf_flags(&c.conf, argc, argv, &e);
    if (!err && c.conf.help)
        print_help(&c.conf);
    else if (!err)
        err = run(&c, &e);
    json_decref(c.listing);
    free(c.owned);
    lodge_conf_finish(&c.conf);
    if (err == LODGE_ERR_CANCELLED)
        return EXIT_INTERRUPTED;
    if (err)
        fprintf(stderr, "lodgectl: %s\n", e.text);
    return lodge_error_exit(err);
}
