/* A call: one HTTP request from its headers to the last byte of its reply.
 *
 * Life: READING (head and body arrive) -> PREPARING (routes with a body: a preparing thread parses,
 * renders, tokenizes, and submits) -> WAITING (a reply to send, or a generation that runs) ->
 * ANSWERED (libmicrohttpd has the reply, or streams it). Owner: the polling thread, but in
 * PREPARING the preparing thread; the connection is suspended then. `phase` and what stands below
 * it are guarded by `lock`.
 */
#ifndef LODGE_SERVER_CALL_H
#define LODGE_SERVER_CALL_H

#include "server/server.h"

#define MAX_PROMPTS 256u
#define MAX_PARAM 200u

enum call_kind { CALL_CHAT, CALL_COMPLETION };

/* Output of one choice so far. */
struct choice {
    struct lodge_buf text;
    struct lodge_buf logprobs; /* chat: JSON entries of `content` */
    struct lodge_buf lp_tokens, lp_values, lp_tops, lp_offsets; /* completion: JSON entries */
    struct lodge_buf token_ids;                                 /* JSON numbers, comma-separated */
    double logprob_sum;
    uint32_t n_tokens;
    uint32_t n_flushed;   /* of them, told in chunks */
    uint32_t text_length; /* code points, for text_offset */
    int finish;           /* enum lodge_finish, -1 while it runs */
    int stop_index;
    int64_t stop_token;
    bool started, ended; /* streamed: first chunk, last chunk written */
};

/* One prompt of the call: one engine request. */
struct run {
    struct lodge_stream *stream;
    uint64_t id;             /* the engine's; 0: none */
    struct lodge_buf events; /* taken from the stream; handled up to `at` */
    size_t at;
    struct lodge_ids prompt;
    struct choice *choices;
    struct lodge_buf prompt_logprobs; /* JSON entries */
    bool started, ended;
    struct lodge_event end;
    uint64_t last_token_ns, first_token_ns;
};

/* A generation: what /v1/chat/completions and /v1/completions have in common. */
struct generation {
    enum call_kind kind;
    char id[48];
    const char *model;           /* as asked */
    struct server *server;       /* with tenant: its adapters count as used */
    const struct tenant *tenant; /* NULL: not yet */
    int64_t created;
    bool stream, include_usage, continuous_usage;
    bool logprobs, echo, prompt_logprobs, token_ids, tokens_as_ids;
    uint32_t n_tops;        /* asked for output tokens */
    uint32_t n_prompt_tops; /* asked for `prompt_logprobs` */
    uint32_t n, best_of;
    uint32_t interval;        /* tokens per chunk */
    struct lodge_request req; /* what all runs share; pointers into `arena` */
    const char *client_id;    /* `request_id` of the body: for the log only */
    struct lodge_arena arena;
    struct run *runs;
    uint32_t n_runs, n_ended;
    bool admitted;        /* some run has left the queue */
    struct lodge_buf out; /* streamed bytes not yet taken by the socket */
    size_t out_at;
    bool tail_sent, failed;
};

/* A reply that is ready to be sent; status 0: none. */
struct reply {
    int status;
    const char *type; /* Content-Type; NULL: no body */
    struct lodge_buf body;
    int retry_after_s; /* 0: not told */
    bool no_retry;     /* tells clients that trying again is of no use */
};

/* What a generation owes: from its admission on, until the row of the ledger is committed. */
struct account {
    bool admitted, settled;
    int64_t reserved; /* tokens */
    int64_t time_us;
    struct ledger_entry *entry; /* NULL without a store */
    atomic_bool waiting;        /* for the commit */
};

enum call_phase { CALL_READING, CALL_PREPARING, CALL_WAITING, CALL_ANSWERED };

struct call {
    struct server *server;
    struct MHD_Connection *mc;
    int fd;
    struct call *prev, *next; /* of server.calls */
    struct call *queued;      /* next in a lane of preparing threads */
    char request_id[40];
    const struct route *route;
    const char *method, *url;
    bool admin;         /* came by the admin listener */
    uint32_t admin_key; /* number of the key it brought, from 1; 0: none was needed */
    struct principal principal;
    struct account account;
    uint64_t begin_ns;
    struct lodge_buf body;
    uint64_t dropped_bytes; /* of a body that is only read to be refused */
    bool no_room;           /* the server holds too many bodies already */
    json_t *json;           /* while it is prepared */
    bool reads;             /* it is being prepared in the lane that may read adapters */
    bool must_read;         /* it needs that lane: without a reply it is prepared anew there */
    char ignored[200];      /* names of unknown fields, for the log */
    struct generation *gen; /* set under server.calls_lock, complete then */
    struct reply reply;
    int status;
    size_t bytes_out;

    pthread_mutex_t lock;
    enum call_phase phase;
    bool suspended, pending, hung_up, timed_out;
    bool streaming;            /* the head of an event stream was sent */
    uint64_t last_write_ns;    /* of a stream */
    uint64_t waiting_since_ns; /* a stream's socket takes nothing since; 0: it does */
};

struct route {
    const char *path;
    const char *methods; /* "POST", "GET, HEAD" */
    /* Fills c->reply, or leaves a running c->gen. With `body`, runs in a preparing thread, and may
     * set c->must_read instead. */
    void (*handle)(struct call *c);
    bool open;          /* needs no key */
    bool by_admin;      /* needs an admin key */
    bool while_loading; /* answers before the engine is there */
    bool body;
};

/* What is wrong with a request: the text, and the field's path ("" when it is about none). */
struct refusal {
    struct lodge_error e;
    char param[MAX_PARAM];
};

/* ---- route.c ---- */
const struct route *route_find(const char *path);
/* Among the routes of the admin listener. */
const struct route *admin_route_find(const char *path);
/* Refuses what the headers of a body say. True when c->reply was filled. */
bool route_refuse_body(struct call *c);
/* Parses the body and runs the handler. */
void route_prepare(struct call *c);

/* ---- reply.c: whole replies; these fill c->reply ---- */
void reply_text(struct call *c, int status, const char *type, const char *text, size_t n);
/* Takes the buffer's memory. A failed buffer becomes a 500. */
void reply_buf(struct call *c, int status, const char *type, struct lodge_buf *body);
/* Steals `o`. */
void reply_json(struct call *c, int status, json_t *o);
/* An error of the API's form; param and code may be NULL. */
void reply_error(struct call *c, int status, const char *type, const char *param, const char *code,
                 const char *fmt, ...) __attribute__((format(printf, 6, 7)));
/* From an engine or parser error; nothing when the call must read first. */
void reply_lodge_error(struct call *c, const struct refusal *r);
/* How a kind of failure looks to a client; `text` (NULL: the code's own) where nothing more is
 * known of it. */
struct failure {
    int code, status;
    const char *type, *name;
    const char *text;
};
const struct failure *failure_of(int code);
const char *failure_text(const struct failure *f);
/* Polling thread: hands c->reply to libmicrohttpd. */
enum MHD_Result reply_send(struct call *c);
void reply_headers(struct call *c, struct MHD_Response *r);
void error_json(struct lodge_buf *out, const char *message, const char *type, const char *param,
                const char *code);

/* ---- text.c ---- */
/* Appends a JSON string, quotes included. */
void put_string(struct lodge_buf *out, const char *s, size_t n);
void put_bytes_array(struct lodge_buf *out, const char *s, size_t n);
void put_logprob(struct lodge_buf *out, double lp);

/* ---- parse.c ---- */
/* Fills the zeroed *g from c->json; what it keeps lies in g->arena and g's buffers, so that the
 * JSON may go. The engine is only asked for text. The caller ends g by generation_free, also
 * after an error. */
int parse_generation(struct call *c, struct generation *g, enum call_kind kind, struct refusal *r);
/* Whether it is a name of the base model. */
bool model_known(const struct server *s, const char *name);

/* ---- generate.c ---- */
/* Preparing thread: parses and submits. */
void generate_prepare(struct call *c, enum call_kind kind);
/* Polling thread: sends, streams, or suspends. */
enum MHD_Result generate_advance(struct call *c);
void generation_free(struct generation *g);
/* Takes events of all runs into the choices, or some into g->out: a slow reader's stay compact. */
void generation_take(struct call *c);

/* ---- account.c: limits and the ledger ---- */
/* Preparing thread, before g is submitted: reserves what it may cost. False when c->reply was
 * filled: 429 for a limit, 503 when the ledger takes no more. */
bool account_admit(struct call *c, const struct generation *g);
/* It was not submitted after all. */
void account_undo(struct call *c);
/* An event of a run is about to be formatted: what may be sent is written down first. */
void account_event(struct call *c, uint32_t run, const struct lodge_event *ev);
/* The reply is about to end, with this HTTP status: settles what it cost. True when the row is
 * committed; else the call is woken when it is. */
bool account_settled(struct call *c, int status);
/* The call ends, whatever became of it. */
void account_close(struct call *c);

/* ---- stream.c ---- */
enum MHD_Result stream_start(struct call *c);

/* ---- format.c: events to JSON ---- */
void format_event(struct call *c, uint32_t run, const struct lodge_event *ev);
void format_reply(struct call *c, struct lodge_buf *out);
/* Last chunks for what has none yet, and the error. */
void format_stream_error(struct call *c, int error);
void format_stream_tail(struct call *c);

/* ---- logprobs.c: tokens and their log-probabilities as JSON ---- */
void put_token(const struct call *c, struct lodge_buf *out, uint32_t token);
void logprobs_chat(const struct call *c, struct choice *ch, const struct lodge_event *ev);
/* Completion's four parallel lists. `first` has no log-probability (the first prompt token). */
void logprobs_completion(const struct call *c, struct choice *ch, const struct lodge_event *ev,
                         bool first);
void logprobs_prompt(const struct call *c, struct run *r, const struct lodge_event *ev);
/* Writes what was gathered as one JSON object, and empties it. */
void put_chat_logprobs(struct lodge_buf *out, struct choice *ch);
void put_completion_logprobs(struct lodge_buf *out, struct choice *ch);

/* ---- misc.c, tokens.c: other routes ---- */
void handle_models(struct call *c);
void handle_tokenize(struct call *c);
void handle_detokenize(struct call *c);
void handle_health(struct call *c);
void handle_livez(struct call *c);
void handle_version(struct call *c);
void handle_metrics(struct call *c);

/* ---- prepare.c ---- */
/* Hands the call to a preparing thread and suspends it. False when it is prepared already. */
bool prepare_call(struct call *c);

/* ---- notify.c ---- */
void calls_add(struct call *c);
void calls_remove(struct call *c);
/* Suspends unless news came meanwhile; returns true if it did suspend. */
bool call_suspend(struct call *c);
/* Ends PREPARING; the call belongs to the polling thread again, and may be gone on return. */
void call_prepared(struct call *c);
bool call_gone(struct call *c);

/* ---- log.c: the access log ---- */
void log_call(struct call *c);

#endif
