/* The engine's own state, shared by its parts. Not for serving code. */
#ifndef LODGE_ENGINE_INTERNAL_H
#define LODGE_ENGINE_INTERNAL_H

#include "engine/adapters.h"
#include "engine/engine.h"
#include "engine/files/model_file.h"
#include "engine/model_cache.h"
#include "engine/sched.h"
#include "engine/step_cost.h"
#include "engine/template/chat.h"

#include <pthread.h>

#define LODGE_STREAM_BUCKETS 4096u

struct lodge_engine {
    struct lodge_engine_config cfg;
    struct lodge_engine_info info;

    struct lodge_model_file *model;
    struct lodge_tokenizer *tokenizer;
    struct lodge_template *chat_template, *tool_template;
    const struct lodge_plan *plan;

    const struct lodge_backend *backend;
    struct lodge_device *device;
    struct lodge_device_info device_info;
    struct lodge_digest fingerprint; /* of the model's files */
    struct lodge_model_cache cache;

    struct lodge_adapters adapters; /* init'ed when the backend runs adapters */
    bool runs_adapters;
    uint32_t max_step_ranks;
    struct lodge_id_list *public_prefixes; /* set before the first request */
    uint32_t n_public_prefixes;

    /* The engine thread's. */
    struct lodge_pool pool;
    struct lodge_prefix prefix;
    struct lodge_sched sched;
    struct lodge_residency *residency;
    struct lodge_inflight *requests; /* all that are queued or running */
    struct lodge_row *rows;
    struct lodge_row_adapter *step_adapters;
    uint32_t *step_tokens;
    uint32_t *step_pages;
    size_t step_page_room;
    struct lodge_buf text;     /* scratch: detokenised, after stops */
    struct lodge_buf raw;      /* scratch: detokenised */
    struct lodge_buf messages; /* taken from the inbox */
    bool any_event;
    uint64_t last_step_ns;
    struct lodge_step_cost step_cost;

    pthread_t thread;
    bool thread_runs;
    struct lodge_mailbox inbox;
    struct lodge_ready ready;
    atomic_bool stop, draining;
    _Atomic uint32_t n_active, n_waiting, n_running;
    _Atomic uint64_t next_id;
    uint64_t seed;

    pthread_mutex_t streams_lock; /* leaf */
    struct lodge_stream *streams[LODGE_STREAM_BUCKETS];

    pthread_mutex_t stats_lock; /* leaf */
    struct lodge_engine_stats stats;
    struct lodge_engine_stats live; /* the engine thread's copy */
};

/* load.c. A test that brings its own plan, tokenizer and backend fills them in after create (with
 * device_info, and info's max_model_len, page_tokens and n_vocab) and goes on with prepare. */

/* An empty engine with the defaults of a configuration filled in; NULL without memory. */
struct lodge_engine *lodge_engine_create(const struct lodge_engine_config *cfg);
/* Model, tokenizer, templates, device, pool: everything but the thread. */
int lodge_engine_load(struct lodge_engine *en, bool only_plan, struct lodge_engine_memory *memory,
                      struct lodge_error *e);
/* Bookkeeping for a loaded model and n_pages pages. */
int lodge_engine_prepare(struct lodge_engine *en, uint32_t n_pages, struct lodge_error *e);
void lodge_engine_free(struct lodge_engine *en);

/* engine.c */
int lodge_engine_start(struct lodge_engine *en, struct lodge_error *e);
/* One turn of the engine thread: messages (waits for the first at most wait_ns), deadlines, a
 * step, news. False when there was nothing to compute. */
bool lodge_engine_turn(struct lodge_engine *en, uint64_t wait_ns);
/* The thread's last turn: ends every request. */
void lodge_engine_abort_all(struct lodge_engine *en);

/* step.c: plans, runs and accounts one step; false when there was nothing to do. */
bool lodge_engine_step(struct lodge_engine *en);

/* output.c */
/* False when the row's sequence has ended, and may be gone. */
bool lodge_output_result(struct lodge_engine *en, const struct lodge_planned *row,
                         const struct lodge_result *r, const struct lodge_step_result *step);
/* A prompt-only sequence has been computed. */
void lodge_output_prompt_only(struct lodge_engine *en, struct lodge_seq *q);
void lodge_output_started(struct lodge_engine *en, struct lodge_inflight *q);
/* Ends one choice, and the request with its last. */
void lodge_output_finish(struct lodge_engine *en, struct lodge_seq *q, enum lodge_finish finish,
                         int32_t error, int32_t stop_index, int64_t stop_token);
/* Ends all choices of a request. */
void lodge_output_abort(struct lodge_engine *en, struct lodge_inflight *q, enum lodge_finish finish,
                        int32_t error);
/* Fills the tokens that may not be sampled next. */
void lodge_output_set_banned(struct lodge_engine *en, struct lodge_seq *q);

/* Streams by id. */
void lodge_streams_put(struct lodge_engine *en, struct lodge_stream *s);
struct lodge_stream *lodge_streams_find(struct lodge_engine *en, uint64_t id);
void lodge_streams_remove(struct lodge_engine *en, struct lodge_stream *s);

/* weights.c: the matrices of an opened plan in groups. */
void lodge_engine_list_weights(const struct lodge_engine *en, lodge_engine_weights_fn *fn,
                               void *cookie);

#endif
