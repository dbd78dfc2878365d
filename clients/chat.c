/* lodgectl chat: a conversation on the terminal. Ctrl-C stops the reply, not the program. */
#include "clients/chat.h"

#include "base/clock.h"
#include "base/conf.h"
#include "base/json.h"
#include "clients/http.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct settings {
    const char *url, *model, *api_key, *system, *once;
    double temperature;
    int64_t max_tokens, seed;
    bool quiet;
};

#define F(field) offsetof(struct settings, field)
static const struct lodge_conf_setting table[] = {
    {"url", LODGE_CONF_STRING, F(url), "http://127.0.0.1:8000", .help = "server"},
    {"model", LODGE_CONF_STRING, F(model), .help = "model (default: the server's first)"},
    {"api-key", LODGE_CONF_STRING, F(api_key), .help = "key (default: $OPENAI_API_KEY)",
     .secret = true},
    {"system", LODGE_CONF_STRING, F(system), .help = "system message"},
    {"once", LODGE_CONF_STRING, F(once), .help = "ask this, print the reply, and leave"},
    {"temperature", LODGE_CONF_DOUBLE, F(temperature), "-1", NULL, -1, 2, NULL,
     "sampling temperature (default: the server's)"},
    {"max-tokens", LODGE_CONF_INT, F(max_tokens), "0", NULL, 0, 1 << 30, NULL,
     "longest reply; 0: no limit"},
    {"seed", LODGE_CONF_INT, F(seed), NULL, NULL, 0, 0, NULL, "seed of the replies"},
    {"quiet", LODGE_CONF_BOOL, F(quiet), "false", .help = "no figures after the replies"},
};

static volatile sig_atomic_t interrupted;

static void on_interrupt(int sig)
{
    (void)sig;
    interrupted = 1;
}

struct chat {
    struct settings s;
    struct http_client http;
    json_t *messages;
    struct lodge_buf reply;
    uint64_t begin_ns, first_ns;
    int64_t n_tokens;
    char error[512];
};

/* One chunk: prints its text as it comes. */
static void on_chunk(void *cookie, const char *data, size_t n)
{
    struct chat *c = cookie;
    json_t *o = json_loadb(data, n, 0, NULL);
    const json_t *choice = json_array_get(json_object_get(o, "choices"), 0);
    const char *text =
        json_string_value(json_object_get(json_object_get(choice, "delta"), "content"));
    const char *error = json_string_value(json_object_get(json_object_get(o, "error"), "message"));
    const json_t *usage = json_object_get(o, "usage");
    if (text && *text) {
        if (!c->first_ns)
            c->first_ns = lodge_now_ns();
        lodge_buf_puts(&c->reply, text);
        fputs(text, stdout);
        fflush(stdout);
    }
    if (error)
        snprintf(c->error, sizeof c->error, "%s", error);
    if (json_is_object(usage))
        c->n_tokens = json_integer_value(json_object_get(usage, "completion_tokens"));
    json_decref(o);
}

static void print_figures(const struct chat *c)
{
    double total = (double)(lodge_now_ns() - c->begin_ns) * 1e-9;
    double first = c->first_ns ? (double)(c->first_ns - c->begin_ns) * 1e-9 : total;
    if (c->s.quiet || !c->n_tokens)
        return;
    bool dim = isatty(2);
    fprintf(stderr, "%s[%lld tokens, %.1f tokens/s, first after %.0f ms]%s\n", dim ? "\033[2m" : "",
            (long long)c->n_tokens,
            c->n_tokens > 1 && total > first ? (double)(c->n_tokens - 1) / (total - first) : 0.0,
            first * 1e3, dim ? "\033[0m" : "");
}

static json_t *request(const struct chat *c)
{
    json_t *o = json_pack("{s:s, s:O, s:b, s:{s:b}}", "model", c->s.model, "messages", c->messages,
                          "stream", 1, "stream_options", "include_usage", 1);
    if (c->s.temperature >= 0)
        json_object_set_new(o, "temperature", json_real(c->s.temperature));
    if (c->s.max_tokens)
        json_object_set_new(o, "max_tokens", json_integer(c->s.max_tokens));
    if (c->s.seed)
        json_object_set_new(o, "seed", json_integer(c->s.seed));
    return o;
}

/* Asks, streams the reply, keeps both in the history; a partial reply counts as one. */
static int ask(struct chat *c, const char *text, struct lodge_error *e)
{
    struct sse_parser sse;
    json_array_append_new(c->messages, json_pack("{s:s, s:s}", "role", "user", "content", text));
    lodge_buf_clear(&c->reply);
    c->n_tokens = 0;
    c->first_ns = 0;
    c->error[0] = 0;
    c->begin_ns = lodge_now_ns();
    interrupted = 0;
    sse_init(&sse, on_chunk, c);
    json_t *body = request(c);
    int err = http_stream(&c->http, "/v1/chat/completions", body, &sse, e);
    json_decref(body);
    sse_finish(&sse);
    if (!err && c->error[0])
        err = lodge_fail(e, LODGE_ERR_IO, "%s", c->error);
    if (c->reply.n || !err)
        printf("\n");
    if (err && !c->reply.n) {
        json_array_remove(c->messages, json_array_size(c->messages) - 1);
        return err;
    }
    json_array_append_new(c->messages, json_pack("{s:s, s:s}", "role", "assistant", "content",
                                                 lodge_buf_text(&c->reply)));
    print_figures(c);
    return err;
}

static void reset(struct chat *c)
{
    json_array_clear(c->messages);
    if (c->s.system)
        json_array_append_new(c->messages,
                              json_pack("{s:s, s:s}", "role", "system", "content", c->s.system));
}

/* Handles /commands; true when the line was one. */
static bool command(struct chat *c, char *line, bool *leave)
{
    if (line[0] != '/')
        return false;
    if (strcmp(line, "/quit") == 0 || strcmp(line, "/exit") == 0)
        *leave = true;
    else if (strcmp(line, "/reset") == 0)
        reset(c);
    else if (strncmp(line, "/system ", 8) == 0) {
        c->s.system = line + 8;
        reset(c);
    } else
        fprintf(stderr, "/reset forgets the conversation, /system TEXT starts one with a system "
                        "message, /quit leaves; Ctrl-C stops a reply\n");
    return true;
}

static int converse(struct chat *c, struct lodge_error *e)
{
    char *line = NULL;
    size_t room = 0;
    bool terminal = isatty(0), leave = false;
    int err = 0;
    if (terminal)
        fprintf(stderr, "chatting with %s; /help for commands, Ctrl-D to leave\n", c->s.model);
    while (!leave) {
        interrupted = 0;
        if (terminal)
            fprintf(stderr, "> ");
        ssize_t n = getline(&line, &room, stdin);
        if (n < 0)
            break;
        while (n > 0 && (line[n - 1] == '\n' || line[n - 1] == '\r'))
            line[--n] = 0;
        if (!n || command(c, line, &leave))
            continue;
        err = ask(c, line, e);
        if (err && err != LODGE_ERR_CANCELLED)
            fprintf(stderr, "lodgectl: %s\n", e->text);
        if (err && !terminal && err != LODGE_ERR_CANCELLED)
            break;
        err = 0;
    }
    free(line);
    return err;
}

/* The server's first model, kept in *owner. */
static int choose_model(struct chat *c, json_t **owner, struct lodge_error *e)
{
    if (c->s.model)
        return 0;
    int err = http_get(&c->http, "/v1/models", owner, e);
    if (err)
        return err;
    c->s.model = json_string_value(
        json_object_get(json_array_get(json_object_get(*owner, "data"), 0), "id"));
    return c->s.model ? 0 : lodge_fail(e, LODGE_ERR_FORMAT, "%s lists no model", c->s.url);
}

static int run(struct chat *c, struct lodge_error *e)
{
    json_t *owner = NULL;
    struct sigaction act = {.sa_handler = on_interrupt};
    sigaction(SIGINT, &act, NULL);
    c->http = (struct http_client){c->s.url, c->s.api_key ? c->s.api_key : getenv("OPENAI_API_KEY"),
                                   &interrupted};
    lodge_buf_init(&c->reply, (size_t)64 << 20);
    c->messages = json_array();
    reset(c);
    int err = choose_model(c, &owner, e);
    if (!err)
        err = c->s.once ? ask(c, c->s.once, e) : converse(c, e);
    json_decref(owner);
    json_decref(c->messages);
    lodge_buf_finish(&c->reply);
    return err;
}

int chat_main(int argc, char *const *argv)
{
    struct lodge_conf conf;
    struct lodge_error e = {0};
    struct chat c = {0};
    int err = lodge_conf_init(&conf, table, sizeof table / sizeof *table, &c.s, &e);
    if (!err)
        err = lodge_conf_flags(&conf, argc, argv, &e);
    if (!err && conf.help) {
        printf("usage: lodgectl chat [flags]\n\nA conversation with a served model.\n\n");
        lodge_conf_help(&conf, stdout);
    } else if (!err) {
        err = run(&c, &e);
    }
    lodge_conf_finish(&conf);
    if (err)
        fprintf(stderr, "lodgectl: %s\n", e.text);
    return lodge_error_exit(err);
}
