#include "base/mailbox.h"

#include "base/clock.h"
#include "base/error.h"

#include <time.h>

int lodge_mailbox_init(struct lodge_mailbox *m, size_t cap_bytes)
{
    *m = (struct lodge_mailbox){0};
    lodge_buf_init(&m->_in, cap_bytes);
    pthread_condattr_t attr;
    if (pthread_condattr_init(&attr))
        return LODGE_ERR_NOMEM;
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    int err = pthread_cond_init(&m->_filled, &attr);
    pthread_condattr_destroy(&attr);
    if (err)
        return LODGE_ERR_NOMEM;
    if (pthread_mutex_init(&m->_lock, NULL)) {
        pthread_cond_destroy(&m->_filled);
        return LODGE_ERR_NOMEM;
    }
    return 0;
}

void lodge_mailbox_finish(struct lodge_mailbox *m)
{
    pthread_mutex_destroy(&m->_lock);
    pthread_cond_destroy(&m->_filled);
    lodge_buf_finish(&m->_in);
}

int lodge_mailbox_post(struct lodge_mailbox *m, const struct lodge_record *r)
{
    if (r->n_bytes < sizeof *r || r->n_bytes % 8)
        return LODGE_ERR_INVALID;
    pthread_mutex_lock(&m->_lock);
    int err = lodge_buf_append(&m->_in, r, r->n_bytes);
    m->_in.failed = false;
    if (!err)
        pthread_cond_signal(&m->_filled);
    pthread_mutex_unlock(&m->_lock);
    return err ? LODGE_ERR_FULL : 0;
}

void lodge_mailbox_wake(struct lodge_mailbox *m)
{
    pthread_mutex_lock(&m->_lock);
    m->_woken = true;
    pthread_cond_signal(&m->_filled);
    pthread_mutex_unlock(&m->_lock);
}

static void wait_filled(struct lodge_mailbox *m, uint64_t timeout_ns)
{
    uint64_t until = lodge_now_ns() + timeout_ns;
    struct timespec t = {.tv_sec = (time_t)(until / 1000000000u),
                         .tv_nsec = (long)(until % 1000000000u)};
    while (!m->_in.n && !m->_woken)
        if (pthread_cond_timedwait(&m->_filled, &m->_lock, &t))
            return;
}

void lodge_mailbox_take(struct lodge_mailbox *m, struct lodge_buf *out, uint64_t timeout_ns)
{
    lodge_buf_clear(out);
    pthread_mutex_lock(&m->_lock);
    if (timeout_ns)
        wait_filled(m, timeout_ns);
    m->_woken = false;
    if (m->_in.n) {
        struct lodge_buf full = m->_in;
        size_t out_cap = out->cap_bytes;
        m->_in = *out;
        m->_in.cap_bytes = full.cap_bytes;
        *out = full;
        out->cap_bytes = out_cap > full.cap_bytes ? out_cap : full.cap_bytes;
    }
    pthread_mutex_unlock(&m->_lock);
}

const struct lodge_record *lodge_record_next(const struct lodge_buf *b, size_t *at)
{
    if (*at >= b->n)
        return NULL;
    const void *p = b->data + *at;
    const struct lodge_record *r = p;
    *at += r->n_bytes;
    return r;
}
