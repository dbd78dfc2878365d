/* The settings of `lodge serve`: one line each in config.c, with meaning, unit, range, default. */
#ifndef LODGE_SERVER_CONFIG_H
#define LODGE_SERVER_CONFIG_H

#include "base/conf.h"

struct lodge_serve_config {
    const char *model; /* positional */
    const char *host;
    int64_t port;
    struct lodge_conf_list api_keys;
    const char *api_key_file;
    struct lodge_conf_list served_model_name;
    int64_t max_model_len, max_num_seqs, max_num_batched_tokens, max_queue, reserve_tokens;
    int64_t seed, threads;
    const char *device, *cpu_isa, *kv_cache_dtype;
    uint64_t pool_bytes, host_cache_bytes, max_body_bytes;
    bool no_prefix_cache, speculate;
    const char *generation_config, *chat_template;
    bool trust_request_chat_template;
    const char *config;
    bool check_config, print_config, memory;
    const char *weights_cache, *log_level, *log_file;
    double slo_ttft, drain_timeout, body_timeout, idle_timeout, stall_timeout, keepalive;
    int64_t max_connections, max_connections_per_ip;
    bool has_seed;
    struct lodge_conf_list cors_origins;
    const char *tls_cert, *tls_key;
    bool strict;
    struct lodge_conf_list lora_modules, public_prefixes;
    const char *adapter_dir;
    const char *store, *policy, *admin_host, *admin_key_file;
    int64_t admin_port;
    bool metrics_names, has_metrics_names;
};

/* Reads all layers. argv without the program and the verb. CONFIG with the text; c->help is set
 * for --help. The caller ends `c` by lodge_conf_finish. */
int lodge_serve_config_read(struct lodge_conf *c, struct lodge_serve_config *out, int argc,
                            char *const *argv, char *const *envp, struct lodge_error *e);

#endif
