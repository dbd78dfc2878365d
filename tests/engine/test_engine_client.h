/* A request as a test client sees it: what it asked, what it received so far, what it must get. */
#ifndef LODGE_TESTS_ENGINE_CLIENT_H
#define LODGE_TESTS_ENGINE_CLIENT_H

#include "tests/engine/fake_backend.h"
#include "tests/engine/test_engine_random.h"

#define CLIENT_MAX_PROMPT 256u
#define CLIENT_MAX_CHOICES 4u

struct client_choice {
    uint32_t tokens[1024];
    uint32_t n;
    char text[1100];
    size_t n_text;
    bool finished;
    enum lodge_finish finish;
};

struct client {
    uint32_t prompt[CLIENT_MAX_PROMPT], prediction[1024];
    char salt[2], stop[8];
    struct lodge_request r;
    struct lodge_stream *stream; /* NULL: not open */
    uint64_t id;
    struct client_choice got[CLIENT_MAX_CHOICES];
    bool started, ended;
    enum lodge_finish finish;
    int32_t error;
    uint32_t n_scored, cached_tokens;
};

/* Draws a request: a beginning of one of four documents that all share their first quarter, often
 * with letters of its own behind; everything else at random. */
void client_draw(struct client *c, struct test_random *rnd, uint32_t max_model_len,
                 uint32_t page_tokens);
/* Submits it; the engine's error otherwise. */
int client_submit(struct client *c, struct lodge_engine *en);
/* Takes and checks the new events: order, indices, no event after the last. */
void client_take(struct client *c, struct lodge_buf *scratch);
/* The whole reply is what the request gets alone; `whole`: it was not cut short on purpose. */
void client_check(const struct client *c, uint32_t max_model_len, uint32_t page_tokens);

#endif
