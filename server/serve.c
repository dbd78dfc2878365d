/* `lodge serve`: settings, listener, model, ready, drain. */
#include "server/serve.h"

#include "base/clock.h"
#include "base/file.h"
#include "server/server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* For the error events of replies that are cut short. */
#define LAST_WORDS_S 2.0

/* ---- signals: the handler only counts; the main thread looks ---- */

static atomic_int n_signals, nothing_runs;
static int signal_fd; /* whichever thread the handler runs in: the main thread reads this */

static void on_signal(int sig)
{
    (void)sig;
    /* While the model loads there is nothing to drain. */
    if (atomic_load(&nothing_runs))
        _exit(0);
    /* A second one does not wait for anything. */
    if (atomic_fetch_add(&n_signals, 1))
        _exit(1);
    uint64_t one = 1;
    int saved = errno;
    ssize_t n = write(signal_fd, &one, sizeof one);
    (void)n;
    errno = saved;
}

static void catch_signals(void)
{
    struct sigaction stop = {.sa_handler = on_signal}, ignore = {.sa_handler = SIG_IGN};
    signal_fd = eventfd(0, EFD_CLOEXEC);
    sigaction(SIGTERM, &stop, NULL);
    sigaction(SIGINT, &stop, NULL);
    sigaction(SIGPIPE, &ignore, NULL);
}

/* ---- settings ---- */

static bool is_loopback(const char *host)
{
    struct in_addr v4;
    struct in6_addr v6;
    if (strcmp(host, "localhost") == 0)
        return true;
    if (inet_pton(AF_INET, host, &v4) == 1)
        return (ntohl(v4.s_addr) >> 24) == 127;
    return inet_pton(AF_INET6, host, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

struct key_list {
    struct lodge_digest *keys;
    uint32_t n;
};

static void add_key(struct key_list *out, const char *key, size_t n)
{
    if (n)
        lodge_sha256(key, n, &out->keys[out->n++]);
}

/* Digests of the items and of the file's lines; either may be NULL. */
static int read_keys(const struct lodge_conf_list *items, const char *flag, const char *path,
                     struct key_list *out, struct lodge_error *e)
{
    char *text = NULL;
    size_t n = 0, lines = 1;
    if (path && lodge_file_read(path, 1 << 20, &text, &n, e)) {
        lodge_error_prefix(e, "--%s", flag);
        return LODGE_ERR_CONFIG;
    }
    for (size_t i = 0; i < n; i++)
        lines += text[i] == '\n';
    *out = (struct key_list){.keys = calloc((items ? items->n : 0) + lines, sizeof *out->keys)};
    if (!out->keys) {
        free(text);
        return lodge_fail(e, LODGE_ERR_NOMEM, "no memory for the keys");
    }
    for (uint32_t i = 0; items && i < items->n; i++)
        add_key(out, items->items[i], strlen(items->items[i]));
    for (char *line = text; line && *line;) {
        size_t len = strcspn(line, "\r\n");
        add_key(out, line, len);
        line += len;
        line += strspn(line, "\r\n");
    }
    free(text);
    return 0;
}

static int load_admin_keys(struct server *s, struct lodge_error *e)
{
    const struct lodge_serve_config *cfg = s->cfg;
    struct key_list l;
    int err = read_keys(NULL, "admin-key-file", cfg->admin_key_file, &l, e);
    if (err)
        return err;
    s->admin_keys = l.keys;
    s->n_admin_keys = l.n;
    if (cfg->admin_key_file && !l.n)
        return lodge_fail(e, LODGE_ERR_CONFIG, "--admin-key-file %s: there is no key in it",
                          cfg->admin_key_file);
    if (cfg->admin_port && !is_loopback(cfg->admin_host) && !l.n)
        return lodge_fail(e, LODGE_ERR_CONFIG,
                          "--admin-host %s is reachable from other machines, so a key is required: "
                          "give --admin-key-file FILE, or use 127.0.0.1",
                          cfg->admin_host);
    return 0;
}

static int load_keys(struct server *s, struct lodge_error *e)
{
    const struct lodge_serve_config *cfg = s->cfg;
    struct key_list l;
    int err = read_keys(&cfg->api_keys, "api-key-file", cfg->api_key_file, &l, e);
    if (err)
        return err;
    s->keys = l.keys;
    s->n_keys = l.n;
    s->loopback = is_loopback(cfg->host);
    if (!s->loopback && !s->n_keys && !cfg->store)
        return lodge_fail(e, LODGE_ERR_CONFIG,
                          "--host %s is reachable from other machines, so a key is required: give "
                          "--api-key KEY, --api-key-file FILE or --store FILE, or listen on "
                          "127.0.0.1",
                          cfg->host);
    return load_admin_keys(s, e);
}

/* ---- start-up telling ---- */

static void on_phase(void *cookie, const char *text)
{
    (void)cookie;
    fprintf(stderr, "%s\n", text);
}

static void on_progress(void *cookie, size_t done, size_t total)
{
    static _Thread_local int last = -1;
    (void)cookie;
    int percent = total ? (int)(done * 100 / total) : 100;
    if (!isatty(2) || percent / 5 == last)
        return;
    last = percent / 5;
    fprintf(stderr, "\rweights: %3d%%%s", percent, done >= total ? "\n" : "");
}

static enum lodge_policy engine_policy(const char *name)
{
    return strcmp(name, "priority") == 0 ? LODGE_POLICY_PRIORITY
           : strcmp(name, "fcfs") == 0   ? LODGE_POLICY_FCFS
                                         : LODGE_POLICY_FAIR;
}

static struct lodge_engine_config engine_config(struct server *s, const char *chat_template)
{
    const struct lodge_serve_config *c = s->cfg;
    uint64_t seed = (uint64_t)c->seed;
    if (!c->has_seed)
        lodge_random_bytes(&seed, sizeof seed);
    return (struct lodge_engine_config){
        .model_path = c->model,
        .device = c->device,
        .cpu_isa = c->cpu_isa,
        .n_threads = (uint32_t)c->threads,
        .kv_cache_dtype = c->kv_cache_dtype,
        .max_model_len = (uint32_t)c->max_model_len,
        .max_seqs = (uint32_t)c->max_num_seqs,
        .max_step_tokens = (uint32_t)c->max_num_batched_tokens,
        .pool_bytes = c->pool_bytes,
        .host_cache_bytes = c->host_cache_bytes,
        .reserve_tokens = (uint32_t)c->reserve_tokens,
        .max_queue = (uint32_t)c->max_queue,
        .policy = engine_policy(c->policy),
        .slo_ttft_s = c->slo_ttft,
        .no_prefix_cache = c->no_prefix_cache,
        .speculate = c->speculate,
        .seed = seed,
        .weights_cache = c->weights_cache,
        .model_defaults = strcmp(c->generation_config, "auto") == 0,
        .chat_template = chat_template,
        .log = s->log,
        .on_phase = on_phase,
        .on_progress = on_progress,
        .on_ready = notify_signal,
        .cookie = s,
    };
}

/* "q,k x30: Q4_K 768x576 -> int8 dot, 4-bit codes, 4.63 bits/weight, 7.3 MiB" */
static void print_weights(void *cookie, const struct lodge_engine_weights *w)
{
    char layers[16] = "";
    (void)cookie;
    if (w->n_layers)
        snprintf(layers, sizeof layers, " x%u", w->n_layers);
    printf("%s%s: %s %ux%u -> %s, %.2f bits/weight, %.1f MiB\n", w->sites, layers, w->type,
           w->n_rows, w->n_cols, w->kernel, w->bits_per_weight, (double)w->n_bytes / 1048576);
}

static void print_memory(const struct lodge_serve_config *cfg, const struct lodge_engine_memory *m)
{
    printf("weights    %10.1f MiB\nworkspace  %10.1f MiB\npool       %10.1f MiB (%u pages of %u "
           "tokens in %s, %.1f KiB each)\ntotal      %10.1f MiB\nfree       %10.1f MiB\ncontext    "
           "%10u "
           "tokens\n",
           (double)m->weight_bytes / 1048576, (double)m->workspace_bytes / 1048576,
           (double)m->pool_bytes / 1048576, m->n_pages, m->page_tokens, m->kv_dtype,
           (double)m->page_bytes / 1024, (double)m->total_bytes / 1048576,
           (double)m->free_bytes / 1048576, m->max_model_len);
    if (cfg->weights_cache)
        printf("on disk    %10.1f MiB of packed weights in %s\n",
               (double)m->weights_cache_bytes / 1048576, cfg->weights_cache);
}

/* ---- running ---- */

static void set_served_names(struct server *s)
{
    const struct lodge_conf_list *l = &s->cfg->served_model_name;
    s->names = l->n ? l->items : (const char *const *)&s->info.name;
    s->n_names = l->n ? l->n : 1;
}

/* A system prompt's tokens, as the chat template puts it before the first message of a user. */
static int add_public_prefix(struct lodge_engine *en, const char *path, struct lodge_error *e)
{
    char *text = NULL;
    size_t n;
    struct lodge_ids ids = {0};
    struct lodge_engine_info info;
    lodge_engine_get_info(en, &info);
    int err = lodge_file_read(path, (size_t)4 << 20, &text, &n, e);
    json_t *messages =
        err ? NULL : json_pack("[{s:s, s:s#}]", "role", "system", "content", text, (int)n);
    const struct lodge_chat chat = {.messages = messages, .no_generation_prompt = true};
    if (!err && !messages)
        err = lodge_fail(e, LODGE_ERR_CONFIG, "%s: not UTF-8 text", path);
    else if (!err && info.has_chat_template)
        err = lodge_engine_chat_prompt(en, &chat, info.max_model_len, &ids, NULL, e);
    else if (!err)
        err = lodge_engine_tokenize(en, text, n, true, false, info.max_model_len, &ids, e);
    if (!err)
        err = lodge_engine_add_public_prefix(en, ids.data, (uint32_t)ids.n, e);
    if (err) {
        lodge_error_prefix(e, "--public-prefix %s", path);
        err = LODGE_ERR_CONFIG;
    }
    json_decref(messages);
    lodge_ids_finish(&ids);
    free(text);
    return err;
}

static int open_engine(struct server *s, const char *chat_template, struct lodge_error *e)
{
    struct lodge_engine_config cfg = engine_config(s, chat_template);
    struct lodge_engine *en = NULL;
    int err = lodge_engine_open(&cfg, &en, e);
    if (err)
        return err;
    lodge_engine_get_info(en, &s->info);
    set_served_names(s);
    char hex[65];
    lodge_digest_hex(&s->info.fingerprint, hex);
    snprintf(s->fingerprint, sizeof s->fingerprint, "fp_%.12s", hex);
    err = adapters_open(s, en, e);
    for (uint32_t i = 0; i < s->cfg->public_prefixes.n && !err; i++)
        err = add_public_prefix(en, s->cfg->public_prefixes.items[i], e);
    if (!err) {
        atomic_store(&s->engine, en);
        return 0;
    }
    adapters_close(s);
    lodge_engine_close(en);
    return err;
}

static void wait_for_signal(void)
{
    uint64_t count;
    while (!atomic_load(&n_signals))
        if (read(signal_fd, &count, sizeof count) < 0 && errno != EINTR)
            return;
}

/* Until all replies are written, or the time is over. */
static bool wait_for_replies(const struct server *s, double seconds)
{
    uint64_t until = lodge_now_ns() + (uint64_t)(seconds * 1e9);
    while (atomic_load(&s->n_generations) && lodge_now_ns() < until)
        usleep(10000);
    return !atomic_load(&s->n_generations);
}

/* New work is refused, running replies finish; what is left at the end is told so. The listener
 * stays open, so that a client meets a refusal and not a closed door. */
static void drain(struct server *s)
{
    atomic_store(&s->draining, true);
    lodge_engine_drain(atomic_load(&s->engine));
    fprintf(stderr, "stopping: %u requests are finishing (again to abort)\n",
            atomic_load(&s->n_generations));
    if (wait_for_replies(s, s->cfg->drain_timeout))
        return;
    fprintf(stderr, "stopping: %u requests are cut short after %g s\n",
            atomic_load(&s->n_generations), s->cfg->drain_timeout);
    atomic_store(&s->aborting, true);
    notify_all(s);
    wait_for_replies(s, LAST_WORDS_S);
}

static void ready_line(const struct server *s, const char *host, uint16_t port, char *out,
                       size_t room)
{
    if (strcmp(host, "0.0.0.0") == 0)
        host = "127.0.0.1";
    if (strcmp(host, "::") == 0)
        host = "::1";
    const char *open = strchr(host, ':') ? "[" : "", *close = *open ? "]" : "";
    snprintf(out, room, "ready http%s://%s%s%s:%u\n", s->cfg->tls_cert ? "s" : "", open, host,
             close, port);
}

/* In one write: who waits for the last line may stop at the first. */
static void print_ready(const struct server *s)
{
    char admin[300] = "", line[300];
    if (s->admin_daemon)
        ready_line(s, s->cfg->admin_host, s->admin_port, admin, sizeof admin);
    ready_line(s, s->cfg->host, s->port, line, sizeof line);
    fprintf(stderr, "%s%s", admin, line);
}

/* More than there are connections: the rows of calls that are gone may still wait. */
static int open_tenants(struct server *s, struct lodge_error *e)
{
    uint32_t n_live = (uint32_t)s->cfg->max_connections * 2;
    int err = tenants_open(&s->tenants, s->cfg->store, n_live, s->log, e);
    s->tenants.ledger.on_commit = notify_committed;
    s->tenants.ledger.cookie = s;
    return err || !s->tenants.has_store ? err : ledger_start(&s->tenants.ledger, e);
}

static int run(struct server *s, const char *chat_template, struct lodge_error *e)
{
    int err = notify_start(s, e);
    if (!err)
        err = prepare_start(s, e);
    if (!err)
        err = http_start(s, e);
    if (!err)
        err = admin_start(s, e);
    if (!err)
        fprintf(stderr, "listening on port %u, not ready yet\n", s->port);
    atomic_store(&nothing_runs, 1);
    if (!err && !atomic_load(&n_signals))
        err = open_engine(s, chat_template, e);
    atomic_store(&nothing_runs, 0);
    if (!err && !atomic_load(&n_signals)) {
        print_ready(s);
        wait_for_signal();
        drain(s);
    }
    http_stop(s);
    prepare_stop(s);
    notify_stop(s);
    adapters_close(s);
    lodge_engine_close(atomic_load(&s->engine));
    notify_close(s);
    return err;
}

static int check_readable(const char *flag, const char *path, struct lodge_error *e)
{
    char *text = NULL;
    size_t n;
    int err = path ? lodge_file_read(path, (size_t)4 << 20, &text, &n, e) : 0;
    free(text);
    if (err)
        lodge_error_prefix(e, "--%s", flag);
    return err ? LODGE_ERR_CONFIG : 0;
}

/* What is read when the model is there: a wrong path is told before, which may be minutes. */
static int check_later_files(const struct lodge_serve_config *c, struct lodge_error *e)
{
    int err = adapters_check_flags(c, e);
    for (uint32_t i = 0; i < c->public_prefixes.n && !err; i++)
        err = check_readable("public-prefix", c->public_prefixes.items[i], e);
    return err;
}

static int serve(const struct lodge_serve_config *cfg, struct lodge_error *e)
{
    struct server *s = calloc(1, sizeof *s);
    char *chat_template = NULL;
    size_t n;
    if (!s)
        return lodge_fail(e, LODGE_ERR_NOMEM, "no memory");
    s->cfg = cfg;
    s->created = (int64_t)lodge_unix_time();
    /* Ids are the ledger's keys: another process must not make them again. */
    uint64_t first;
    lodge_random_bytes(&s->boot, sizeof s->boot);
    lodge_random_bytes(&first, sizeof first);
    atomic_store(&s->next_call, first);
    pthread_mutex_init(&s->calls_lock, NULL);
    pthread_mutex_init(&s->connections_lock, NULL);
    pthread_mutex_init(&s->adapters.lock, NULL);
    metrics_init(&s->metrics);
    json_object_seed(0);
    int err = load_keys(s, e);
    if (!err)
        err = lodge_log_open(
            cfg->log_file, (enum lodge_log_level)lodge_log_level_parse(cfg->log_level), &s->log, e);
    if (!err && cfg->chat_template &&
        lodge_file_read(cfg->chat_template, (size_t)4 << 20, &chat_template, &n, e)) {
        lodge_error_prefix(e, "--chat-template");
        err = LODGE_ERR_CONFIG;
    }
    if (!err)
        err = check_later_files(cfg, e);
    if (!err) {
        err = open_tenants(s, e);
        if (!err)
            err = run(s, chat_template, e);
        tenants_close(&s->tenants);
    }
    lodge_log_close(s->log);
    free(chat_template);
    free(s->keys);
    free(s->admin_keys);
    free(s);
    return err;
}

/* What the settings point to, but the model and what is in adapters. */
static int check_files(struct server *s, struct lodge_error *e)
{
    const struct lodge_serve_config *c = s->cfg;
    static const char *const names[] = {"tls-cert", "tls-key", "chat-template"};
    const char *const paths[] = {c->tls_cert, c->tls_key, c->chat_template};
    int err = load_keys(s, e);
    free(s->keys);
    free(s->admin_keys);
    for (int i = 0; i < 3 && !err; i++)
        err = check_readable(names[i], paths[i], e);
    if (!err)
        err = check_later_files(c, e);
    if (!err && c->weights_cache && !lodge_dir_exists(c->weights_cache))
        err = lodge_fail(e, LODGE_ERR_CONFIG, "--weights-cache %s: no such directory",
                         c->weights_cache);
    return err;
}

static int only_tell(const struct lodge_conf *c, const struct lodge_serve_config *cfg,
                     struct lodge_error *e)
{
    if (cfg->print_config) {
        json_t *o = lodge_conf_json(c);
        json_dumpf(o, stdout, JSON_INDENT(2));
        printf("\n");
        json_decref(o);
        return 0;
    }
    struct server s = {.cfg = cfg};
    if (cfg->check_config) {
        int bad = check_files(&s, e);
        if (!bad)
            fprintf(stderr, "the configuration is valid\n");
        return bad;
    }
    struct lodge_engine_config engine = engine_config(&s, NULL);
    struct lodge_engine_memory m;
    int err = lodge_engine_plan_memory(&engine, &m, print_weights, NULL, e);
    if (!err)
        print_memory(cfg, &m);
    return err;
}

static const char usage[] =
    "usage: lodge serve MODEL [flags]\n\n"
    "Serves MODEL, a .gguf file or a Hugging Face directory, over the OpenAI HTTP API.\n"
    "Every flag is also a key of --config FILE (with _) and a variable LODGE_OPT_<FLAG>;\n"
    "flags beat the environment, the environment beats the file.\n\n";

int serve_main(int argc, char *const *argv, char *const *envp)
{
    struct lodge_conf c;
    struct lodge_serve_config cfg;
    struct lodge_error e = {0};
    catch_signals();
    int err = lodge_serve_config_read(&c, &cfg, argc, argv, envp, &e);
    if (!err && c.help) {
        printf("%s", usage);
        lodge_conf_help(&c, stdout);
    } else if (!err) {
        bool tell = cfg.print_config || cfg.check_config || cfg.memory;
        err = tell ? only_tell(&c, &cfg, &e) : serve(&cfg, &e);
    }
    lodge_conf_finish(&c);
    if (err)
        fprintf(stderr, "lodge: %s\n", e.text);
    return lodge_error_exit(err);
}
