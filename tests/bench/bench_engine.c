/* The engine by itself, in one process, without HTTP: what a server over it can reach at most.
 *
 *   bench_engine MODEL [--clients N] [--requests N] [--in TOKENS] [--out TOKENS] [--threads N]
 *
 * A closed loop: each client sends its next request when the last one is answered. Prompts are
 * random ids, replies have full length. Prints output tokens/s, the median time to the first token
 * from submit, and the share of the time that steps took; tests/bench/server_path.py compares with
 * a server.
 */
#include "base/clock.h"
#include "engine/engine.h"
#include "tests/bench/median.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_CLIENTS 256u
#define MAX_REQUESTS 4096u

struct client {
    struct lodge_stream *stream;
    uint64_t sent_ns;
    bool begun;
};

struct bench {
    struct lodge_engine *en;
    uint32_t n_clients, n_requests, n_in, n_out, n_sent, n_done;
    uint64_t n_tokens;
    struct client clients[MAX_CLIENTS];
    double ttft_ms[MAX_REQUESTS];
    uint32_t n_ttft;
    uint32_t *prompt;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool ready;
};

static void on_ready(void *cookie)
{
    struct bench *b = cookie;
    pthread_mutex_lock(&b->lock);
    b->ready = true;
    pthread_cond_signal(&b->wake);
    pthread_mutex_unlock(&b->lock);
}

static void send_next(struct bench *b, struct client *c)
{
    if (b->n_sent == b->n_requests)
        return;
    struct lodge_request r;
    struct lodge_error e = {0};
    uint64_t id;
    uint32_t word[4];
    lodge_request_init(&r);
    for (uint32_t i = 0; i < b->n_in; i++) {
        lodge_philox(7, (uint32_t[4]){i, b->n_sent, 0, 0}, word);
        b->prompt[i] = 100 + word[0] % 30000;
    }
    r.prompt = b->prompt;
    r.n_prompt = b->n_in;
    r.max_tokens = b->n_out;
    r.ignore_eos = true;
    c->begun = false;
    c->sent_ns = lodge_now_ns();
    if (lodge_engine_submit(b->en, &r, &c->stream, &id, &e)) {
        fprintf(stderr, "%s\n", e.text);
        exit(1);
    }
    b->n_sent++;
}

/* Events of one client; its next request when this one ended. */
static void serve(struct bench *b, struct client *c, struct lodge_buf *events)
{
    size_t at = 0;
    bool end = false;
    lodge_stream_take(c->stream, events);
    for (const struct lodge_record *x; (x = lodge_record_next(events, &at));) {
        const struct lodge_event *ev = (const struct lodge_event *)x;
        if (ev->head.kind == LODGE_EVENT_TOKEN) {
            b->n_tokens++;
            if (!c->begun && b->n_ttft < MAX_REQUESTS)
                b->ttft_ms[b->n_ttft++] = (double)(ev->time_ns - c->sent_ns) * 1e-6;
            c->begun = true;
        }
        end |= ev->head.kind == LODGE_EVENT_END;
    }
    if (!end)
        return;
    lodge_stream_close(c->stream);
    c->stream = NULL;
    b->n_done++;
    send_next(b, c);
}

static void run(struct bench *b)
{
    struct lodge_buf events;
    lodge_buf_init(&events, (size_t)16 << 20);
    for (uint32_t i = 0; i < b->n_clients; i++)
        send_next(b, &b->clients[i]);
    while (b->n_done < b->n_requests) {
        pthread_mutex_lock(&b->lock);
        while (!b->ready)
            pthread_cond_wait(&b->wake, &b->lock);
        b->ready = false;
        pthread_mutex_unlock(&b->lock);
        uint64_t ids[MAX_CLIENTS];
        while (lodge_engine_take_ready(b->en, ids, MAX_CLIENTS) == MAX_CLIENTS) {
        }
        for (uint32_t i = 0; i < b->n_clients; i++)
            if (b->clients[i].stream)
                serve(b, &b->clients[i], &events);
    }
    lodge_buf_finish(&events);
}

static void usage(void)
{
    fprintf(stderr, "usage: bench_engine MODEL [--clients N] [--requests N] [--in TOKENS] "
                    "[--out TOKENS] [--threads N]\n");
    exit(2);
}

static uint32_t number(const char *text, uint32_t most)
{
    unsigned long n = strtoul(text, NULL, 10);
    if (n < 1 || n > most)
        usage();
    return (uint32_t)n;
}

int main(int argc, char **argv)
{
    static struct bench b = {.n_clients = 32, .n_requests = 128, .n_in = 128, .n_out = 64};
    struct lodge_engine_config cfg = {.model_path = argc > 1 ? argv[1] : NULL,
                                      .pool_bytes = (uint64_t)2 << 30,
                                      .no_prefix_cache = true,
                                      .on_ready = on_ready,
                                      .cookie = &b};
    for (int i = 2; i < argc; i += 2) {
        uint32_t n = i + 1 < argc ? number(argv[i + 1], MAX_REQUESTS) : 0;
        uint32_t *to = !strcmp(argv[i], "--clients")    ? &b.n_clients
                       : !strcmp(argv[i], "--requests") ? &b.n_requests
                       : !strcmp(argv[i], "--in")       ? &b.n_in
                       : !strcmp(argv[i], "--out")      ? &b.n_out
                       : !strcmp(argv[i], "--threads")  ? &cfg.n_threads
                                                        : NULL;
        if (!to || !n)
            usage();
        *to = n;
    }
    if (!cfg.model_path || b.n_clients > MAX_CLIENTS)
        usage();
    struct lodge_error e = {0};
    cfg.max_model_len = b.n_in + b.n_out;
    pthread_mutex_init(&b.lock, NULL);
    pthread_cond_init(&b.wake, NULL);
    b.prompt = calloc(b.n_in, sizeof *b.prompt);
    if (!b.prompt || lodge_engine_open(&cfg, &b.en, &e)) {
        fprintf(stderr, "%s\n", e.text);
        return 4;
    }
    struct lodge_engine_stats before, after;
    lodge_engine_get_stats(b.en, &before);
    uint64_t begin = lodge_now_ns();
    run(&b);
    double seconds = (double)(lodge_now_ns() - begin) * 1e-9;
    lodge_engine_get_stats(b.en, &after);
    printf("%.1f tokens/s, TTFT p50 %.2f ms, steps take %.1f %% of the time\n",
           (double)b.n_tokens / seconds, bench_median(b.ttft_ms, b.n_ttft),
           (double)(after.step_ns - before.step_ns) * 1e-7 / seconds);
    lodge_engine_close(b.en);
    free(b.prompt);
}
