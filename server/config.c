#include "server/config.h"

#include "base/file.h"

#include <string.h>

#define F(field) offsetof(struct lodge_serve_config, field)

static const struct lodge_conf_setting settings[] = {
    {"host", LODGE_CONF_STRING, F(host), "127.0.0.1", .help = "address to listen on"},
    {"port", LODGE_CONF_INT, F(port), "8000", NULL, 0, 65535, NULL, "port; 0 takes a free one"},
    {"api-key", LODGE_CONF_LIST, F(api_keys), .help = "key that clients must send (repeatable)",
     .secret = true},
    {"api-key-file", LODGE_CONF_STRING, F(api_key_file), .help = "file with one key a line"},
    {"served-model-name", LODGE_CONF_LIST, F(served_model_name),
     .help = "names clients use for the model (default: its file's name)"},
    {"max-model-len", LODGE_CONF_INT, F(max_model_len), "0", NULL, 0, 1 << 30, "tokens",
     "context length; 0: the model's own"},
    {"max-num-seqs", LODGE_CONF_INT, F(max_num_seqs), "256", NULL, 1, 4096, NULL,
     "sequences that run at once"},
    {"max-num-batched-tokens", LODGE_CONF_INT, F(max_num_batched_tokens), "512", NULL, 32, 65536,
     "tokens", "most tokens of one step"},
    {"max-queue", LODGE_CONF_INT, F(max_queue), "1024", NULL, 1, 1000000, NULL,
     "requests that may wait"},
    {"reserve-tokens", LODGE_CONF_INT, F(reserve_tokens), "256", NULL, 1, 1 << 20, "tokens",
     "reply length that admission reserves memory for"},
    {"seed", LODGE_CONF_INT, F(seed), NULL, NULL, 0, 0, NULL,
     "seed of requests that bring none (default: random)"},
    {"device", LODGE_CONF_STRING, F(device), "auto", .help = "auto, cpu or cuda:N"},
    {"threads", LODGE_CONF_INT, F(threads), "0", NULL, 0, 1024, NULL,
     "worker threads; 0: one for each physical core allowed"},
    {"cpu-isa", LODGE_CONF_CHOICE, F(cpu_isa), NULL,
     "ref|avx2|avx2-vnni|avx512-vnni|avx512|neon-dotprod|neon-i8mm",
     .help = "instruction set to use (default: the best)"},
    {"kv-cache-dtype", LODGE_CONF_CHOICE, F(kv_cache_dtype), "auto", "auto|bf16|bfloat16|int8",
     .help = "number format of keys and values; int8 halves their bytes"},
    {"pool-bytes", LODGE_CONF_SIZE, F(pool_bytes), "0", NULL, 0, 0, "bytes",
     "memory for keys and values; 0: half of what is left"},
    {"no-prefix-cache", LODGE_CONF_BOOL, F(no_prefix_cache), "false",
     .help = "do not reuse the work of equal prompt beginnings"},
    {"speculate", LODGE_CONF_BOOL, F(speculate), "false",
     .help = "guess tokens of all replies from their text so far; replies stay the same"},
    {"weights-cache", LODGE_CONF_STRING, F(weights_cache),
     .help = "directory for packed weights, which the next start reads at once"},
    {"generation-config", LODGE_CONF_CHOICE, F(generation_config), "auto", "auto|vllm",
     .help = "auto: sampling defaults of the model's own file; vllm: neutral ones"},
    {"chat-template", LODGE_CONF_STRING, F(chat_template),
     .help = "file with a chat template that replaces the model's"},
    {"trust-request-chat-template", LODGE_CONF_BOOL, F(trust_request_chat_template), "false",
     .help = "let requests bring their own chat_template"},
    {"config", LODGE_CONF_STRING, F(config), .help = "JSON file of settings"},
    {"check-config", LODGE_CONF_BOOL, F(check_config), "false", .help = "check settings and leave"},
    {"print-config", LODGE_CONF_BOOL, F(print_config), "false",
     .help = "print settings as JSON and leave"},
    {"memory", LODGE_CONF_BOOL, F(memory), "false",
     .help = "print weights, their kernels and what memory is needed, and leave"},
    {"log-level", LODGE_CONF_CHOICE, F(log_level), "info", "error|warn|info|debug",
     .help = "least level that is logged"},
    {"log-file", LODGE_CONF_STRING, F(log_file), .help = "file for the JSON log (default: stdout)"},
    {"drain-timeout", LODGE_CONF_DOUBLE, F(drain_timeout), "30", NULL, 0, 86400, "s",
     "how long running replies may finish after SIGTERM"},
    {"body-timeout", LODGE_CONF_DOUBLE, F(body_timeout), "30", NULL, 0.1, 3600, "s",
     "total time to send a request's head or body"},
    {"idle-timeout", LODGE_CONF_DOUBLE, F(idle_timeout), "75", NULL, 1, 86400, "s",
     "how long an idle connection is kept"},
    {"stall-timeout", LODGE_CONF_DOUBLE, F(stall_timeout), "60", NULL, 0.1, 86400, "s",
     "how long a client may take nothing of a stream"},
    {"keepalive", LODGE_CONF_DOUBLE, F(keepalive), "15", NULL, 0.1, 3600, "s",
     "silence in a stream after which a comment is sent"},
    {"max-connections", LODGE_CONF_INT, F(max_connections), "2048", NULL, 1, 100000, NULL,
     "open connections at most"},
    {"max-connections-per-ip", LODGE_CONF_INT, F(max_connections_per_ip), "0", NULL, 0, 100000,
     NULL, "open connections of one address; 0: no limit, as behind a proxy"},
    {"max-body-bytes", LODGE_CONF_SIZE, F(max_body_bytes), "4M", NULL, 1024, 1 << 30, "bytes",
     "largest request body"},
    {"cors-origins", LODGE_CONF_LIST, F(cors_origins),
     .help = "origins that browsers may call from (repeatable)"},
    {"tls-cert", LODGE_CONF_STRING, F(tls_cert), .help = "PEM certificate chain for HTTPS"},
    {"tls-key", LODGE_CONF_STRING, F(tls_key), .help = "PEM private key for HTTPS"},
    {"strict", LODGE_CONF_BOOL, F(strict), "false", .help = "refuse unknown request fields"},
    {"lora-modules", LODGE_CONF_LIST, F(lora_modules), .help = "adapters, NAME=PATH (repeatable)"},
    {"adapter-dir", LODGE_CONF_STRING, F(adapter_dir),
     .help = "adapters by directory name, read when they are first used"},
    {"public-prefix", LODGE_CONF_LIST, F(public_prefixes),
     .help = "file with a system prompt whose cache all tenants share (repeatable)"},
    {"store", LODGE_CONF_STRING, F(store),
     .help = "database of tenants, keys, limits and usage; made if absent"},
    {"policy", LODGE_CONF_CHOICE, F(policy), "fair", "fair|fcfs|priority",
     .help = "queue order: fair among tenants, by arrival, or as requests ask"},
    {"slo-ttft", LODGE_CONF_DOUBLE, F(slo_ttft), "0", NULL, 0, 86400, "s",
     "refuse waiting requests that cannot have their first token in this time; 0: never"},
    {"admin-host", LODGE_CONF_STRING, F(admin_host), "127.0.0.1",
     .help = "address of the admin API"},
    {"admin-port", LODGE_CONF_INT, F(admin_port), "0", NULL, 0, 65535, NULL,
     "port of the admin API; 0: none"},
    {"admin-key-file", LODGE_CONF_STRING, F(admin_key_file),
     .help = "file with one admin key a line"},
    {"metrics-names", LODGE_CONF_BOOL, F(metrics_names), "true",
     .help = "names of tenants and adapters in /metrics (default: when --host is loopback)"},
    {"host-cache-bytes", LODGE_CONF_SIZE, F(host_cache_bytes), "0", NULL, 0, (int64_t)1 << 50,
     "bytes", "memory for adapters outside the pool; 0: a quarter of the pool"},
};

#define N_SETTINGS (sizeof settings / sizeof *settings)

static int refuse_unbuilt(const struct lodge_conf *c, struct lodge_error *e)
{
    for (uint32_t i = 0; i < N_SETTINGS; i++)
        if (strcmp(settings[i].help, "not built yet") == 0 && lodge_conf_given(c, settings[i].name))
            return lodge_fail(e, LODGE_ERR_CONFIG, "--%s is not built yet; leave it out",
                              settings[i].name);
    return 0;
}

static int check(const struct lodge_conf *c, struct lodge_serve_config *s, struct lodge_error *e)
{
    if (c->n_args > 1)
        return lodge_fail(e, LODGE_ERR_CONFIG, "one MODEL is served, but '%s' and '%s' were given",
                          c->args[0], c->args[1]);
    s->model = c->n_args ? c->args[0] : NULL;
    if (!s->model && !s->print_config && !s->check_config)
        return lodge_fail(
            e, LODGE_ERR_CONFIG,
            "no MODEL; usage: lodge serve MODEL [flags], where MODEL is a .gguf file or "
            "a Hugging Face directory (a flag that takes a list takes every word up to the next "
            "flag, so put MODEL first)");
    s->has_seed = lodge_conf_given(c, "seed");
    s->has_metrics_names = lodge_conf_given(c, "metrics-names");
    if (!s->tls_cert != !s->tls_key)
        return lodge_fail(e, LODGE_ERR_CONFIG, "--tls-cert and --tls-key belong together");
    if (s->store && (!*s->store || *s->store == ':' || strstr(s->store, "://")))
        return lodge_fail(e, LODGE_ERR_CONFIG,
                          "--store '%.100s' must be the path of a file; other databases are not "
                          "built yet",
                          s->store);
    return refuse_unbuilt(c, e);
}

int lodge_serve_config_read(struct lodge_conf *c, struct lodge_serve_config *out, int argc,
                            char *const *argv, char *const *envp, struct lodge_error *e)
{
    *out = (struct lodge_serve_config){0};
    int err = lodge_conf_init(c, settings, N_SETTINGS, out, e);
    const char *file = lodge_conf_peek("config", argc, argv, envp);
    if (!err && file)
        err = lodge_conf_file(c, file, e);
    if (!err)
        err = lodge_conf_env(c, envp, e);
    if (!err)
        err = lodge_conf_flags(c, argc, argv, e);
    if (err || c->help)
        return err;
    return check(c, out, e);
}
