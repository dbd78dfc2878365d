/* Requests and their sequences, as the engine thread holds them.
 *
 * A request crosses from the server as one flat record (request.c flattens and unflattens it) and
 * becomes n_choices sequences. A sequence is one text: its tokens, the pages that hold their keys
 * and values, and the state of its output. Everything a step needs is allocated when the request
 * arrives. Owner: the engine thread.
 */
#ifndef LODGE_ENGINE_REQUEST_H
#define LODGE_ENGINE_REQUEST_H

#include "engine/prefix.h"
#include "engine/speculate.h"
#include "engine/stream.h"
#include "engine/text/detok.h"
#include "engine/text/stop.h"
#include "kernels/backend.h"

enum lodge_message { LODGE_MSG_SUBMIT = 1, LODGE_MSG_CANCEL };

struct lodge_cancel_message {
    struct lodge_record head;
    uint64_t id;
};

enum lodge_seq_state {
    LODGE_SEQ_PARKED,  /* a further choice: waits for the first one's prompt */
    LODGE_SEQ_WAITING, /* in the queue */
    LODGE_SEQ_RUNNING,
    LODGE_SEQ_DONE,
};

/* Penalty counts of the distinct tokens of a sequence: a list, and a hash into it. */
struct lodge_counts {
    struct lodge_count *list;
    uint32_t n;
    uint32_t *slots;
    uint32_t mask;
};

struct lodge_seq {
    struct lodge_inflight *req;
    uint32_t choice;
    enum lodge_seq_state state;
    uint32_t slot;
    struct lodge_seq *prev, *next; /* in the queue or the running list */

    uint32_t *tokens; /* prompt, then output; room for all that may come */
    uint32_t n_tokens, n_prompt;
    uint32_t n_scored;   /* prompt tokens whose scores were reported */
    uint32_t n_computed; /* tokens whose keys and values are in pages */
    uint32_t n_output;
    uint32_t max_output;
    uint32_t *pages; /* (n_groups, max_blocks) */
    uint32_t n_blocks, max_blocks;
    uint32_t *freed_front;     /* per group: blocks given back at the front (windows) */
    struct lodge_digest *keys; /* of the full blocks, in order */
    uint32_t n_hashed;         /* keys that are known; tokens never change, so they stay */
    uint32_t n_keys;           /* blocks in pages that came from the cache or were offered to it */
    uint32_t n_reserved;       /* blocks this sequence may come to hold by its reservation */
    bool preempted;
    bool counted_cached;
    uint64_t admitted; /* order of admission, youngest has the largest; 0: never */
    uint64_t planned;  /* the last plan that gave it a row, or could not */
    uint32_t n_draft;  /* guesses behind tokens[n_tokens], for the next plan */
    struct lodge_guesses guesses;
    /* The residency's: pages that its adapters lack and that the pool could not give when they were
     * last wanted; and pages they take while the sequence runs. */
    uint32_t n_pages_wanted, n_adapter_pages;

    /* The scheduler's. */
    uint32_t tenant;                 /* in its table, while waiting or running */
    struct lodge_seq *older, *newer; /* among those that never ran, by arrival */
    bool aging, charged;             /* is in that list; has paid for its prompt */
    bool ready;                      /* its adapters were resident in plan `looked` */
    uint64_t looked, admitted_ns;

    struct lodge_sampling sampling;
    uint32_t *banned; /* scratch of this step */
    struct lodge_counts counts;
    struct lodge_detok detok;
    struct lodge_stop_state stop;
    uint32_t finish; /* valid when DONE */
};

/* A request on the engine thread. */
struct lodge_inflight {
    struct lodge_arena arena; /* the record and all that hangs from it */
    struct lodge_request r;   /* its pointers lead into the record */
    uint64_t id;
    struct lodge_stream *stream;
    struct lodge_seq *seqs;
    uint32_t n_live;
    struct lodge_stop_matcher *stops;
    struct lodge_digest root; /* of its prefix chain, which its first n_public blocks do not follow:
                                 theirs begins at public_root, and goes on at `root` after them */
    struct lodge_digest public_root;
    uint32_t n_public;
    struct lodge_adapter_version *versions[LODGE_MAX_REQUEST_ADAPTERS]; /* referred to */
    uint32_t owner;      /* of its prefix blocks, see lodge_prefix_add */
    bool adapter_lost;   /* its files have changed or are gone */
    uint32_t lora_width; /* workspace that one token takes: sum over its adapters */
    uint64_t arrived_ns, started_ns, first_token_ns, deadline_ns; /* 0: not yet, none */
    uint32_t cached_tokens, output_tokens, n_preempted;
    uint32_t drafted_tokens, accepted_tokens;
    double page_ns;
    bool started;
    int32_t error;   /* why it was aborted */
    uint32_t finish; /* enum lodge_finish of the request: the gravest of its choices */
    struct lodge_inflight *prev, *next;
};

/* Flat record of a request, malloc'ed; NULL without memory. Adapters cross by number. */
struct lodge_record *lodge_request_flatten(const struct lodge_request *r, uint64_t id);
/* The reverse: a request with n_choices sequences. Sizes: blocks of T tokens, groups. NULL without
 * memory. */
struct lodge_inflight *lodge_request_unflatten(const struct lodge_record *rec,
                                               const struct lodge_tokenizer *t,
                                               uint32_t max_model_len, uint32_t page_tokens,
                                               uint32_t n_groups);
/* Numbers of the adapters of a submitted request, in order. */
const uint32_t *lodge_request_adapter_numbers(const struct lodge_record *rec);
uint32_t lodge_request_adapter_count(const struct lodge_record *rec);
void lodge_inflight_destroy(struct lodge_inflight *q);

void lodge_counts_add(struct lodge_counts *c, uint32_t token, bool output);

#endif
