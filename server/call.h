/* A call: one HTTP request from its headers to the last byte of its reply. */
#ifndef LODGE_SERVER_CALL_H
#define LODGE_SERVER_CALL_H

#include "server/server.h"

#define MAX_PROMPTS 256u

enum call_kind { CALL_CHAT, CALL_COMPLETION };

/* Output of one choice so far. */
struct choice {
    struct lodge_buf text;
    struct lodge_buf logprobs; /* chat: JSON entries of `content`; completion: see reply.c */
    struct lodge_buf lp_tokens, lp_values, lp_tops, lp_offsets;
    struct lodge_buf token_ids; /* JSON numbers, comma-separated */
    double logprob_sum;
    uint32_t n_tokens;
    uint32_t text_length; /* code points, for text_offset */
    int finish;           /* enum lodge_finish, -1 while it runs */
    int stop_index;
    int64_t stop_token;
    bool started;
};

/* One prompt of the call: one engine request. */
struct run {
    struct lodge_stream *stream;
    uint64_t id; /* the engine's; 0: none */
    struct lodge_ids prompt;
    struct choice *choices;
    struct lodge_buf prompt_logprobs; /* JSON entries */
    bool ended;
    struct lodge_event end;
    uint64_t last_token_ns, first_token_ns;
};

/* A generation: what /v1/chat/completions and /v1/completions have in common. */
struct generation {
    enum call_kind kind;
    char id[48];
    const char *model; /* as asked */
    int64_t created;
    bool stream, include_usage, continuous_usage;
    bool logprobs, echo, prompt_logprobs, token_ids, tokens_as_ids;
    uint32_t n_tops, n_prompt_tops;
    uint32_t n, best_of;
    struct lodge_request req; /* what all runs share; pointers into `arena` */
    struct lodge_arena arena;
    struct run *runs;
    uint32_t n_runs, n_ended;
    struct lodge_buf out; /* streamed bytes not yet taken by the socket */
    size_t out_at;
    bool head_sent, tail_sent, failed;
    uint64_t last_write_ns;
};

struct call {
    struct server *server;
    struct MHD_Connection *mc;
    int fd;
    struct call *prev, *next; /* of server.calls */
    char request_id[40];
    const struct route *route;
    const char *method, *url;
    uint64_t begin_ns;
    struct lodge_buf body;
    json_t *json;
    struct generation *gen;
    bool answered; /* a reply was queued */
    int status;
    size_t bytes_out;
    bool streaming;

    /* Guarded by lock. */
    pthread_mutex_t lock;
    bool suspended, pending, hung_up, timed_out;
    uint64_t waiting_since_ns; /* a streamed reply: since when the socket takes nothing; 0: not */
};

struct route {
    const char *path;
    const char *methods; /* "POST", "GET,HEAD" */
    int (*handle)(struct call *c);
    bool open;          /* needs no key */
    bool while_loading; /* answers before the engine is there */
    bool body;
};

/* ---- route.c ---- */
const struct route *route_find(const char *path);
/* Runs the call's handler after its body was read; what it does ends in a reply or a suspension. */
enum MHD_Result route_run(struct call *c);

/* ---- reply.c: whole replies; all return MHD's result ---- */
enum MHD_Result reply_text(struct call *c, int status, const char *type, const char *text,
                           size_t n);
enum MHD_Result reply_json(struct call *c, int status, json_t *o);
/* An error of the API's form; param and code may be NULL. */
enum MHD_Result reply_error(struct call *c, int status, const char *type, const char *param,
                            const char *code, const char *fmt, ...)
    __attribute__((format(printf, 6, 7)));
/* From an engine or parser error. */
enum MHD_Result reply_lodge_error(struct call *c, const struct lodge_error *e, const char *param);
void reply_headers(struct call *c, struct MHD_Response *r);
void error_json(struct lodge_buf *out, const char *message, const char *type, const char *param,
                const char *code);

/* ---- text.c ---- */
/* Appends a JSON string, quotes included. */
void put_string(struct lodge_buf *out, const char *s, size_t n);
void put_bytes_array(struct lodge_buf *out, const char *s, size_t n);
void put_logprob(struct lodge_buf *out, double lp);

/* ---- parse.c ---- */
/* Fills c->gen from c->json. 0, or an error whose `param` is set. */
int parse_generation(struct call *c, enum call_kind kind, const char **param,
                     struct lodge_error *e);
bool model_known(const struct server *s, const char *name);

/* ---- generate.c ---- */
enum MHD_Result generate_start(struct call *c, enum call_kind kind);
/* After a resume of a call that is not streamed. */
enum MHD_Result generate_continue(struct call *c);
void generation_destroy(struct call *c);
/* Takes the events of all runs; returns true if there were any. */
bool generation_take(struct call *c);

/* ---- format.c: events to JSON ---- */
void format_event(struct call *c, uint32_t run, const struct lodge_event *ev);
void format_reply(struct call *c, struct lodge_buf *out);
void format_stream_tail(struct call *c);

/* ---- misc.c: other routes ---- */
enum MHD_Result handle_models(struct call *c);
enum MHD_Result handle_tokenize(struct call *c);
enum MHD_Result handle_detokenize(struct call *c);
enum MHD_Result handle_health(struct call *c);
enum MHD_Result handle_livez(struct call *c);
enum MHD_Result handle_version(struct call *c);
enum MHD_Result handle_metrics(struct call *c);

/* ---- notify.c ---- */
void calls_add(struct call *c);
void calls_remove(struct call *c);
/* Suspends unless news came meanwhile; returns true if it did suspend. */
bool call_suspend(struct call *c);

#endif
