/* The engine: one model on one device group, many requests at once.
 *
 * This is the only header of engine/ that serving code sees. An engine owns the model, its
 * tokenizer and chat template, the page pool, the prefix cache and the scheduler. One thread, the
 * engine thread, owns all of that but the read-only text side; requests and events cross as flat
 * records (base/mailbox.h), so that the engine may live in another process some day.
 *
 *   server thread                         engine thread
 *   lodge_engine_submit --- record -----> admit, schedule, step, sample, detokenise
 *   lodge_stream_take  <--- events ------ append to the stream; once per step: on_ready()
 *   lodge_stream_close --- cancel ------> frees every page within one step
 *
 * Several engines may live in one process. Threads: text functions and info may be called from
 * any thread at any time; submit, stream and stats functions from any thread between open and
 * close; a stream is used by one thread at a time.
 */
#ifndef LODGE_ENGINE_ENGINE_H
#define LODGE_ENGINE_ENGINE_H

#include "base/buf.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/mailbox.h"
#include "kernels/sample.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct lodge_engine;
struct lodge_stream;
struct lodge_adapter_version;

/* ---- opening ---- */

/* Order of the queue: fair among tenants inside tiers; arrival; requests' priority, then arrival.
 */
enum lodge_policy { LODGE_POLICY_FAIR, LODGE_POLICY_FCFS, LODGE_POLICY_PRIORITY };

struct lodge_engine_config {
    const char *model_path;     /* .gguf file or Hugging Face directory */
    const char *device;         /* "auto", "cpu"; NULL: auto */
    const char *cpu_isa;        /* NULL: best */
    const char *kv_cache_dtype; /* "bf16", "bfloat16", "int8"; "auto" or NULL: bf16 */
    uint32_t n_threads;         /* 0: all physical cores allowed */
    uint32_t max_model_len;     /* tokens of prompt and output; 0: the model's own, lowered with a
                                   warning when the pool cannot hold one such sequence */
    uint32_t max_seqs;          /* sequences in one step; 0: 256 */
    uint32_t max_step_tokens;   /* tokens of one step; 0: 512 */
    uint64_t pool_bytes;        /* 0: half of the memory left after weights */
    uint32_t reserve_tokens;    /* admission reserves prompt + min(max_tokens, this); 0: 256 */
    uint32_t max_queue;         /* requests waiting at most; 0: 1024 */
    enum lodge_policy policy;
    double slo_ttft_s; /* waiting requests that cannot make it are ended (OVERLOADED); 0: off */
    uint64_t
        host_cache_bytes; /* adapters kept in memory in page layout; 0: a quarter of the pool */
    bool no_prefix_cache;
    bool speculate;            /* also requests that do not ask for it */
    uint64_t seed;             /* requests without a seed derive theirs from this and their id */
    bool model_defaults;       /* apply generation_config.json (decisions 24) */
    const char *chat_template; /* text that replaces the model's own; NULL: the model's */
    /* Directory of files of packed weights (docs/weights-cache.md); NULL: none. CONFIG if it is not
     * there. */
    const char *weights_cache;
    struct lodge_log *log;
    /* Start-up phases, plain text without newline; called from the opening thread. News of the
     * weights cache too, which also come later and from a thread of the device. */
    void (*on_phase)(void *cookie, const char *text);
    /* Weights packed so far. */
    void (*on_progress)(void *cookie, size_t done_bytes, size_t total_bytes);
    /* After each step that appended events: wake whoever calls lodge_engine_take_ready. Called
     * from the engine thread; must not block and must not call the engine. */
    void (*on_ready)(void *cookie);
    void *cookie;
};

struct lodge_engine_memory {
    uint64_t weight_bytes, workspace_bytes, pool_bytes, page_bytes, total_bytes, free_bytes;
    uint64_t weights_cache_bytes; /* of the file in the weights cache */
    uint32_t n_pages, page_tokens, n_layer_groups;
    uint32_t max_model_len;
    const char *kv_dtype; /* "bf16", "int8": what pages hold; static storage */
};

/* Matrices of one weight type that are used alike. */
struct lodge_engine_weights {
    char sites[40];          /* "q,k,v", "embed,head" */
    const char *type;        /* "Q4_K" */
    char kernel[48];         /* "int8 dot, 4-bit codes" */
    uint32_t n_layers;       /* that have them; 0: they belong to no layer */
    uint32_t n_rows, n_cols; /* outputs, all sites of a layer together, and inputs */
    uint64_t n_bytes;        /* packed, all layers */
    double bits_per_weight;  /* packed */
};
typedef void lodge_engine_weights_fn(void *cookie, const struct lodge_engine_weights *w);

/* What opening would allocate; loads no weights. Errors as lodge_engine_open. Calls `fn`, which may
 * be NULL, for each group of matrices. */
int lodge_engine_plan_memory(const struct lodge_engine_config *cfg, struct lodge_engine_memory *out,
                             lodge_engine_weights_fn *fn, void *cookie, struct lodge_error *e);

/* Loads the model and starts the engine thread. NOT_FOUND, FORMAT, UNSUPPORTED: the file (exit
 * 3); NOMEM, RESOURCE: memory or device (exit 4). cfg is copied. */
int lodge_engine_open(const struct lodge_engine_config *cfg, struct lodge_engine **out,
                      struct lodge_error *e);
/* Declares a public prefix, in tokens (copied): blocks of prompts that lie inside it are shared
 * between tenants, unless the request has a cache_salt or an adapter that is not published. For
 * system prompts that the operator gives to everybody. Before the first request. NOMEM. */
int lodge_engine_add_public_prefix(struct lodge_engine *en, const uint32_t *tokens, uint32_t n,
                                   struct lodge_error *e);
/* Cancels what runs, stops the thread, frees everything. All streams must be closed before. */
void lodge_engine_close(struct lodge_engine *en);
/* No new requests (submit returns DRAINING); running ones finish. */
void lodge_engine_drain(struct lodge_engine *en);
/* Requests that are queued or running. */
uint32_t lodge_engine_active(const struct lodge_engine *en);

struct lodge_engine_info {
    const char *name;   /* the model file's own name */
    const char *device; /* "cpu: AMD EPYC ..., 2 threads, avx512" */
    uint32_t max_model_len;
    uint32_t n_vocab; /* ids a client may send are below this */
    uint32_t page_tokens, n_pages;
    struct lodge_digest fingerprint; /* of model and arithmetic: system_fingerprint */
    bool has_chat_template;
    /* Defaults of the model's generation_config.json; absent: the API's own (1, 1, 0, 0, 1). */
    float temperature, top_p, min_p, repetition;
    uint32_t top_k;
    struct lodge_engine_memory memory;
};
void lodge_engine_get_info(const struct lodge_engine *en, struct lodge_engine_info *out);

/* ---- adapters ----
 *
 * A version is the content of an adapter's files, named by its digest and a scope; names belong to
 * the server. Versions never change, requests hold the version they began with. A version lies on
 * disk, in the host cache (in page layout, within host_cache_bytes) and, while requests use it or
 * it stays cached, in pages of the pool; the engine moves it as needed.
 */

#define LODGE_MAX_REQUEST_ADAPTERS 8u
#define LODGE_MAX_ADAPTER_SCALE 8.0f

struct lodge_adapter_version_info {
    struct lodge_digest digest;
    uint32_t max_rank;
    uint64_t n_parameters;
    uint64_t bytes; /* in pages */
    uint32_t n_pages;
    bool scaled_once; /* DoRA: its scale in a request must be 1 */
    bool has_chat_template;
    const char *base_model; /* what its files name, or NULL */
    const char *warning;    /* "" or what an operator should know */
};

/* Reads and checks the files at `path` (a PEFT directory or a GGUF adapter) and registers the
 * version; `name` is what error texts call it. The same content in the same scope (zero: published)
 * gives the version that is there. With `fd` >= 0, `path` leads through it
 * (lodge_adapter_open_name) and the version keeps it; it is closed here on errors. Blocks on the
 * disk, but never for the base's weights: not for the engine thread. The caller ends the reference
 * by lodge_adapter_version_unref. Errors as lodge_adapter_read; LIMIT when it does not fit the
 * pool. */
int lodge_engine_adapter_open(struct lodge_engine *en, const char *path, int fd, const char *name,
                              const struct lodge_digest *scope, struct lodge_adapter_version **out,
                              struct lodge_error *e);
/* Opens `name` below the directory `root_fd`, for lodge_engine_adapter_open; see
 * lodge_adapter_open_name. INVALID, NOT_FOUND, IO. */
int lodge_engine_adapter_locate(int root_fd, const char *name, int *fd, char path[64],
                                struct lodge_error *e);
void lodge_adapter_version_ref(struct lodge_adapter_version *v);
/* Forgets the version with its last reference, after the requests that use it. NULL is allowed. */
void lodge_adapter_version_unref(struct lodge_adapter_version *v);
/* Valid while the reference is held. */
const struct lodge_adapter_version_info *
lodge_adapter_version_info(const struct lodge_adapter_version *v);
/* Where it is now. */
struct lodge_adapter_place {
    bool host;     /* its image is in the host cache */
    bool resident; /* it is in the pool */
    bool lost;     /* in neither, and its files have changed or are gone: open it again */
};
struct lodge_adapter_place lodge_adapter_version_place(const struct lodge_adapter_version *v);

struct lodge_request_adapter {
    struct lodge_adapter_version *version;
    float scale; /* on top of the adapter's own */
};

/* ---- text side: pure, any thread ---- */

/* Growable list of token ids; zero-initialise, then lodge_ids_finish. */
struct lodge_ids {
    uint32_t *data;
    size_t n;
    size_t _room;
};
void lodge_ids_finish(struct lodge_ids *ids);

/* Encodes text, appending to out. add_special: BOS and EOS as the model wants them; parse_special:
 * control tokens written in the text become tokens (never for user text). LIMIT beyond
 * max_tokens. */
int lodge_engine_tokenize(const struct lodge_engine *en, const char *text, size_t n,
                          bool add_special, bool parse_special, size_t max_tokens,
                          struct lodge_ids *out, struct lodge_error *e);
/* Text of the ids, valid UTF-8. INVALID for an id out of the vocabulary. */
int lodge_engine_detokenize(const struct lodge_engine *en, const uint32_t *ids, size_t n,
                            bool skip_special, struct lodge_buf *out, struct lodge_error *e);
/* Raw bytes of one token as they appear in text (may be a part of a character). */
const char *lodge_engine_token_bytes(const struct lodge_engine *en, uint32_t id, size_t *n,
                                     bool *special);
/* The token as the vocabulary spells it. */
const char *lodge_engine_token_text(const struct lodge_engine *en, uint32_t id, size_t *n);

struct lodge_chat {
    const json_t *messages;                      /* array, as the client sent it */
    const json_t *tools;                         /* array or NULL */
    const json_t *kwargs;                        /* object or NULL */
    const char *chat_template;                   /* NULL: the engine's */
    const struct lodge_adapter_version *adapter; /* whose own template is used if it has one */
    bool no_generation_prompt;
    bool continue_final_message;
};
/* Renders the chat and encodes it; user text never becomes control tokens. INVALID with a text
 * naming the message; LIMIT beyond max_tokens or the template's limits. `rendered` (may be NULL)
 * receives the text. */
int lodge_engine_chat_prompt(const struct lodge_engine *en, const struct lodge_chat *chat,
                             size_t max_tokens, struct lodge_ids *out, struct lodge_buf *rendered,
                             struct lodge_error *e);

/* ---- requests ---- */

#define LODGE_MAX_STOPS 16u
#define LODGE_MAX_CHOICES 128u
#define LODGE_MAX_TOPS 20u

struct lodge_bytes {
    const char *data;
    size_t n;
};

struct lodge_id_list {
    const uint32_t *ids;
    uint32_t n;
};

/* Everything is copied by submit. Zero-initialised plus prompt and max_tokens is a greedy
 * request except for the neutral values that lodge_request_init sets. */
struct lodge_request {
    const uint32_t *prompt;
    uint32_t n_prompt;
    uint32_t max_tokens;            /* clamped to the context; 0: only prompt scores */
    uint32_t min_tokens;            /* end-of-text and stop ids are banned before */
    uint32_t n_choices;             /* 1..128; each is its own sequence over shared prompt pages */
    struct lodge_sampling sampling; /* seed used when has_seed; choice is ignored; counts too */
    bool has_seed;
    bool ignore_eos;
    bool want_logprobs;
    uint32_t n_tops;         /* 0..20, with want_logprobs */
    bool want_prompt_scores; /* log-probabilities of the prompt tokens */
    uint32_t n_prompt_tops;
    struct lodge_bytes stops[LODGE_MAX_STOPS];
    uint32_t n_stops;
    struct lodge_id_list stop_ids;
    const struct lodge_id_list *bad_words; /* token sequences that must not appear */
    uint32_t n_bad_words;
    bool include_stop;               /* keep the stop string or id's text in the output */
    bool keep_special;               /* text of special tokens is part of the output */
    int32_t priority;                /* lower is earlier, under LODGE_POLICY_PRIORITY */
    double timeout_s;                /* 0: none */
    uint64_t tenant;                 /* who pays: fairness is among these */
    uint32_t tier;                   /* 0 is served first */
    float weight;                    /* of the tenant inside its tier; 0: 1 */
    struct lodge_digest tenant_salt; /* from authentication; zero: none */
    /* Applied together, in this order. Each version takes a reference until the request ends. */
    struct lodge_request_adapter adapters[LODGE_MAX_REQUEST_ADAPTERS];
    uint32_t n_adapters;
    struct lodge_bytes cache_salt; /* from the client; empty: none */
    /* Guess tokens and check them together (engine/speculate.h); the reply stays the same. With a
     * prediction of the reply, guesses come from it first. */
    bool speculate;
    struct lodge_id_list prediction;
};
void lodge_request_init(struct lodge_request *r);

/* Validates and queues. 0; INVALID (text names the field); CONTEXT (prompt alone is longer than
 * the context); FULL (queue); DRAINING. *id names the request in take_ready. The caller ends the
 * stream by lodge_stream_close. */
int lodge_engine_submit(struct lodge_engine *en, const struct lodge_request *r,
                        struct lodge_stream **out, uint64_t *id, struct lodge_error *e);
/* Ids of streams that have new events since the last call; each appears once. Returns how many
 * (at most cap; call again when it equals cap). One caller at a time. */
size_t lodge_engine_take_ready(struct lodge_engine *en, uint64_t *ids, size_t cap);

enum lodge_event_kind {
    LODGE_EVENT_STARTED, /* admitted: prompt processing begins */
    LODGE_EVENT_PROMPT,  /* score of one prompt token, in order from index 1 */
    LODGE_EVENT_TOKEN,   /* one output token */
    LODGE_EVENT_FINISH,  /* last event of a choice */
    LODGE_EVENT_END,     /* last event of the request */
};

enum lodge_finish {
    LODGE_FINISH_STOP,
    LODGE_FINISH_LENGTH,
    LODGE_FINISH_ABORT,
    LODGE_FINISH_ERROR
};

/* Flat: followed by n_tops struct lodge_top, then n_text bytes. */
struct lodge_event {
    struct lodge_record head; /* kind: enum lodge_event_kind */
    uint64_t time_ns;         /* monotonic, when the step ended */
    uint32_t choice;
    uint32_t index; /* PROMPT: position; TOKEN: number of the token, from 0 */
    uint32_t token;
    float logprob;
    uint32_t rank;
    uint32_t n_tops;
    uint32_t n_text;    /* bytes of text that became certain (UTF-8, stop strings held back); in
                           FINISH: what was still held; in END with ERROR: the error text */
    uint32_t finish;    /* FINISH, END: enum lodge_finish */
    int32_t error;      /* LODGE_ERR_* with LODGE_FINISH_ERROR or ABORT */
    int32_t stop_index; /* FINISH by stop: index into stops, or -1 */
    int64_t stop_token; /* FINISH by a stop id or end of text: the token, else -1 */
    /* END: usage and times of the request */
    uint32_t prompt_tokens, cached_tokens, output_tokens, n_preempted;
    uint32_t drafted_tokens, accepted_tokens; /* guesses that were checked, and were right */
    uint64_t queued_ns, prefill_ns, decode_ns;
    double page_seconds;
};
const struct lodge_top *lodge_event_tops(const struct lodge_event *ev);
const char *lodge_event_text(const struct lodge_event *ev);

/* Moves the waiting events into out (cleared first); walk with lodge_record_next. */
void lodge_stream_take(struct lodge_stream *s, struct lodge_buf *out);
/* Cancels the request if it still runs, and frees the stream. NULL is allowed. */
void lodge_stream_close(struct lodge_stream *s);

/* ---- numbers ---- */

#define LODGE_ENGINE_TIERS 8u

struct lodge_engine_stats {
    uint32_t n_running, n_waiting;
    uint32_t pages_free, pages_kv, pages_adapter, pages_cached, pages_total;
    uint64_t prompt_tokens, cached_prompt_tokens, output_tokens;
    uint64_t prefix_queries, prefix_hits; /* tokens */
    uint64_t prefix_evicted;              /* pages */
    uint64_t n_drafts, drafted_tokens, accepted_tokens;
    uint64_t n_preemptions, n_steps, step_ns;
    uint64_t step_tokens_bucket[16]; /* steps with <= 1, 8, 16, 32, .. 16384 tokens; last: more */
    uint64_t step_tokens_sum;
    uint64_t finished[4];     /* by enum lodge_finish, per request */
    uint64_t n_aborted_early; /* could not have been begun in time */
    uint64_t admitted_in_tier[LODGE_ENGINE_TIERS];
    uint32_t n_tenants;  /* that wait, run, or are remembered */
    uint32_t n_deferred; /* waiting requests whose adapters are not in the pool yet */
    uint32_t adapters_resident, adapters_host, adapters_known;
    uint64_t adapter_host_bytes, adapter_resident_bytes;
    uint64_t adapter_rank_bytes; /* read in the last step */
    uint64_t adapter_loads, adapter_uploads, adapter_evictions, adapter_host_hits;
    double adapter_load_seconds; /* sum over loads: from the disk into the host image */
};
void lodge_engine_get_stats(struct lodge_engine *en, struct lodge_engine_stats *out);

#endif
