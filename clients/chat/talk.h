/* A conversation with a server: the history, and one exchange at a time. Replies stream to
 * standard output. Thread safety: none, one owner. */
#ifndef LODGE_CLIENTS_CHAT_TALK_H
#define LODGE_CLIENTS_CHAT_TALK_H

#include "clients/http.h"

#include <stdbool.h>
#include <stdint.h>

struct chat_talk {
    struct http_client http;
    const char *model;
    json_t *sampling; /* members added to every request */
    json_t *messages; /* the history */
    bool quiet;       /* no figures after the replies */

    /* of the present reply */
    struct lodge_buf _reply, _shown;
    uint64_t _begin_ns, _first_ns, _last_ns;
    int64_t _n_tokens, _n_chunks;
    bool _finished, _cut, _thinking, _ends_in_newline, _broken;
    char _error[512];
};

/* `sampling` is taken over. The strings of http and model must outlive the talk. */
void chat_talk_init(struct chat_talk *t, const struct http_client *http, const char *model,
                    json_t *sampling);
void chat_talk_finish(struct chat_talk *t);
/* Forgets everything; a system message (may be NULL) begins anew. */
void chat_talk_clear(struct chat_talk *t, const char *system);
/* Asks and prints the reply. Both enter the history, also when the reply was cut; a question that
 * got no reply at all leaves it. CANCELLED when interrupted; RESOURCE when nobody answers; IO when
 * the reply broke off; INVALID when the server refuses, in its words. */
int chat_talk_ask(struct chat_talk *t, const char *text, struct lodge_error *e);
/* The history as a file {"model", "messages"}, and back. */
int chat_talk_save(const struct chat_talk *t, const char *path, struct lodge_error *e);
int chat_talk_load(struct chat_talk *t, const char *path, struct lodge_error *e);

#endif
