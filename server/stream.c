/* Event streams: what libmicrohttpd asks for whenever the socket takes more. */
#include "server/call.h"

#include "base/clock.h"

#include <string.h>

/* What is handed out at once; also the least a slow reader must take in --stall-timeout. */
#define BLOCK_BYTES 16384u

/* Nothing is left to write: takes news, or the end. True when there is some of that now. */
static bool refill(struct call *c)
{
    struct generation *g = c->gen;
    lodge_buf_clear(&g->out);
    g->out_at = 0;
    if (!g->failed)
        generation_take(c);
    if (!g->failed && g->n_ended < g->n_runs && atomic_load(&c->server->aborting))
        format_stream_error(c, LODGE_ERR_CANCELLED);
    /* The end waits until its row of the ledger is committed. */
    if ((g->failed || g->n_ended == g->n_runs) && account_settled(c, 200)) {
        format_stream_tail(c);
        g->tail_sent = true;
    }
    return g->out.n > 0 || g->tail_sent;
}

/* Nothing to write: sleeps, or writes a comment after a long silence. Returns false when asleep. */
static bool pause_stream(struct call *c)
{
    uint64_t now = lodge_now_ns();
    pthread_mutex_lock(&c->lock);
    c->waiting_since_ns = 0;
    bool silent = now - c->last_write_ns > (uint64_t)(c->server->cfg->keepalive * 1e9);
    pthread_mutex_unlock(&c->lock);
    if (silent)
        lodge_buf_puts(&c->gen->out, ": ping\n\n");
    return silent || !call_suspend(c);
}

static ssize_t hand_out(struct call *c, char *buf, size_t max)
{
    struct generation *g = c->gen;
    size_t left = g->out.n - g->out_at, n = left < max ? left : max;
    memcpy(buf, g->out.data + g->out_at, n);
    g->out_at += n;
    c->bytes_out += n;
    pthread_mutex_lock(&c->lock);
    c->last_write_ns = c->waiting_since_ns = lodge_now_ns();
    pthread_mutex_unlock(&c->lock);
    return (ssize_t)n;
}

static ssize_t read_stream(void *cls, uint64_t pos, char *buf, size_t max)
{
    struct call *c = cls;
    struct generation *g = c->gen;
    (void)pos;
    while (g->out_at == g->out.n) {
        if (g->tail_sent)
            return MHD_CONTENT_READER_END_OF_STREAM;
        if (call_gone(c))
            return MHD_CONTENT_READER_END_WITH_ERROR;
        if (!refill(c) && !pause_stream(c))
            return 0;
    }
    /* A lost piece of text must not look like a complete reply. */
    return g->out.failed ? MHD_CONTENT_READER_END_WITH_ERROR : hand_out(c, buf, max);
}

enum MHD_Result stream_start(struct call *c)
{
    struct MHD_Response *r =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK_BYTES, read_stream, c, NULL);
    if (!r)
        return MHD_NO;
    MHD_add_response_header(r, "Content-Type", "text/event-stream; charset=utf-8");
    MHD_add_response_header(r, "Cache-Control", "no-cache");
    MHD_add_response_header(r, "X-Accel-Buffering", "no");
    reply_headers(c, r);
    pthread_mutex_lock(&c->lock);
    c->phase = CALL_ANSWERED;
    c->streaming = true;
    c->last_write_ns = lodge_now_ns();
    pthread_mutex_unlock(&c->lock);
    c->status = 200;
    enum MHD_Result result = MHD_queue_response(c->mc, 200, r);
    MHD_destroy_response(r);
    return result;
}
