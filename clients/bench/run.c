#include "clients/bench/run.h"

#include "base/clock.h"
#include "clients/bench/check.h"
#include "clients/bench/stream.h"

#include <curl/curl.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define NEVER UINT64_MAX
/* A look at Ctrl-C and the progress at least this often. */
#define TICK_NS 200000000u
/* So many requests in a row without any answer mean that the server is gone. */
#define MAX_DEAD 100

/* Where a lane of the load stands. */
struct lane_state {
    uint64_t n_sent;
    uint32_t n_running;
};

struct bench_runner {
    const struct bench_target *target;
    const struct bench_workload *workload;
    const volatile sig_atomic_t *interrupted;
    CURLM *multi;
    int epoll, timer;
    uint64_t curl_due_ns; /* when libcurl wants to be called */
    struct bench_stream *idle, *busy;

    /* of the present run */
    const struct bench_load *load;
    struct bench_result *result;
    struct lane_state *lanes;
    uint64_t n_sent;
    uint32_t n_running, n_dead;
    int err;
};

/* ---- libcurl's sockets and timer ---- */

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *cookie, void *known)
{
    (void)easy;
    struct bench_runner *r = cookie;
    struct epoll_event ev = {.data.fd = fd};
    if (what == CURL_POLL_REMOVE) {
        epoll_ctl(r->epoll, EPOLL_CTL_DEL, fd, NULL);
        return 0;
    }
    ev.events = (what & CURL_POLL_IN ? (uint32_t)EPOLLIN : 0u) |
                (what & CURL_POLL_OUT ? (uint32_t)EPOLLOUT : 0u);
    epoll_ctl(r->epoll, known ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &ev);
    curl_multi_assign(r->multi, fd, r);
    return 0;
}

static int on_timer(CURLM *multi, long timeout_ms, void *cookie)
{
    (void)multi;
    struct bench_runner *r = cookie;
    r->curl_due_ns = timeout_ms < 0 ? NEVER : lodge_now_ns() + (uint64_t)timeout_ms * 1000000u;
    return 0;
}

/* ---- sending and finishing ---- */

/* When a lane may send its next request: closed ones at once. NEVER when it has none left. */
static uint64_t due_ns(const struct bench_runner *r, uint32_t lane, uint64_t now)
{
    const struct bench_lane *l = &r->load->lanes[lane];
    const struct lane_state *state = &r->lanes[lane];
    double end_s = r->load->duration_s;
    if (state->n_sent >= l->n_requests)
        return NEVER;
    if (l->open)
        return r->result->begin_ns + (uint64_t)(l->due_s.v[state->n_sent] * 1e9);
    return end_s > 0 && now >= r->result->begin_ns + (uint64_t)(end_s * 1e9) ? NEVER : now;
}

/* The lane to send from: of those with room the one due first, and of equals the one with least in
 * flight, so that no tenant gets ahead by its place in the file. -1: none has anything left or
 * room. */
static int64_t next_lane(const struct bench_runner *r, uint64_t now, uint64_t *due)
{
    int64_t best = -1;
    *due = NEVER;
    if (r->n_sent >= r->load->n_requests || r->result->gave_up[0])
        return -1;
    for (uint32_t i = 0; i < r->load->n_lanes; i++) {
        if (r->lanes[i].n_running >= r->load->lanes[i].concurrency)
            continue;
        uint64_t at = due_ns(r, i, now);
        if (at < *due ||
            (at == *due && best >= 0 && r->lanes[i].n_running < r->lanes[best].n_running)) {
            best = i;
            *due = at;
        }
    }
    return best;
}

static struct bench_stream *take_idle(struct bench_runner *r)
{
    struct bench_stream *s = r->idle;
    if (s)
        r->idle = s->next;
    else
        s = bench_stream_create(r->target);
    return s;
}

static int send_one(struct bench_runner *r, uint32_t lane, uint64_t due)
{
    const struct bench_lane *l = &r->load->lanes[lane];
    struct bench_stream *s = take_idle(r);
    struct bench_pick pick;
    if (!s)
        return LODGE_ERR_NOMEM;
    uint64_t index = l->first + r->lanes[lane].n_sent++;
    s->next = NULL;
    s->lane = lane;
    s->keep_text = bench_check_wants(r->load->check, r->n_sent++);
    int err = bench_workload_body(r->workload, r->target, r->load->round, l->tenant, index,
                                  &s->body, &pick);
    if (!err)
        err = bench_stream_begin(s, &pick, index, l->open ? due : lodge_now_ns(),
                                 r->result->begin_ns, &r->result->per_second);
    if (!err && curl_multi_add_handle(r->multi, s->easy))
        err = LODGE_ERR_NOMEM;
    if (err) {
        s->next = r->idle;
        r->idle = s;
        return err;
    }
    s->prev = NULL;
    s->next = r->busy;
    if (r->busy)
        r->busy->prev = s;
    r->busy = s;
    r->lanes[lane].n_running++;
    r->n_running++;
    if (r->n_running > r->result->peak_running)
        r->result->peak_running = r->n_running;
    return 0;
}

/* Out of libcurl and the busy list, ready for the next request. */
static void retire(struct bench_runner *r, struct bench_stream *s)
{
    curl_multi_remove_handle(r->multi, s->easy);
    if (s->prev)
        s->prev->next = s->next;
    else
        r->busy = s->next;
    if (s->next)
        s->next->prev = s->prev;
    s->next = r->idle;
    r->idle = s;
    r->lanes[s->lane].n_running--;
    r->n_running--;
}

static void finish_one(struct bench_runner *r, struct bench_stream *s, CURLcode code)
{
    struct bench_result *out = r->result;
    bool answered = bench_stream_end(s, code, out);
    r->n_dead = answered ? 0 : r->n_dead + 1;
    if (r->n_dead >= MAX_DEAD && !out->gave_up[0])
        snprintf(out->gave_up, sizeof out->gave_up,
                 "%d requests in a row got no answer; is the server still there?", MAX_DEAD);
    out->end_ns = lodge_now_ns();
    if (!r->err)
        r->err = bench_result_add(out, &s->record, &s->itl_ms);
    if (!r->err && s->keep_text && s->record.error < 0)
        r->err = bench_check_add(r->load->check, r->load->round, &s->record,
                                 lodge_buf_text(&s->text), s->text.n);
    retire(r, s);
}

static void reap(struct bench_runner *r)
{
    CURLMsg *m;
    int left;
    while ((m = curl_multi_info_read(r->multi, &left))) {
        struct bench_stream *s = NULL;
        if (m->msg != CURLMSG_DONE)
            continue;
        CURLcode code = m->data.result;
        curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, (char **)&s);
        finish_one(r, s, code);
    }
}

/* ---- the loop ---- */

static void send_due(struct bench_runner *r)
{
    while (!r->err) {
        uint64_t now = lodge_now_ns(), due;
        int64_t lane = next_lane(r, now, &due);
        if (lane < 0 || due > now)
            break;
        r->err = send_one(r, (uint32_t)lane, due);
    }
}

/* Nothing is in flight, and nothing will be. */
static bool is_over(const struct bench_runner *r)
{
    uint64_t due;
    return !r->n_running && next_lane(r, lodge_now_ns(), &due) < 0;
}

static uint64_t next_wake(const struct bench_runner *r, uint64_t now)
{
    uint64_t wake = now + TICK_NS, due;
    if (r->curl_due_ns < wake)
        wake = r->curl_due_ns;
    next_lane(r, now, &due);
    return due < wake ? due : wake;
}

/* Sleeps until a socket, the timer (to the nanosecond, unlike epoll's own) or a signal. */
static void wait_and_serve(struct bench_runner *r)
{
    struct epoll_event ev[64];
    uint64_t now = lodge_now_ns(), wake = next_wake(r, now), count;
    int running, n;
    struct itimerspec at = {.it_value = {(time_t)(wake / 1000000000u), (long)(wake % 1000000000u)}};
    timerfd_settime(r->timer, TFD_TIMER_ABSTIME, &at, NULL);
    n = epoll_wait(r->epoll, ev, 64, wake <= now ? 0 : -1);
    for (int i = 0; i < n; i++) {
        if (ev[i].data.fd == r->timer) {
            if (read(r->timer, &count, sizeof count) < 0)
                continue;
        } else {
            int mask = (ev[i].events & EPOLLIN ? CURL_CSELECT_IN : 0) |
                       (ev[i].events & EPOLLOUT ? CURL_CSELECT_OUT : 0) |
                       (ev[i].events & (EPOLLERR | EPOLLHUP) ? CURL_CSELECT_ERR : 0);
            curl_multi_socket_action(r->multi, ev[i].data.fd, mask, &running);
        }
    }
    if (r->curl_due_ns <= lodge_now_ns()) {
        r->curl_due_ns = NEVER;
        curl_multi_socket_action(r->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    }
}

static double cpu_seconds(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           1e-6 * (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

static void cut_off(struct bench_runner *r)
{
    while (r->busy) {
        r->result->n_cancelled += !r->err;
        retire(r, r->busy);
    }
}

static void tell(const struct bench_runner *r, bench_progress_fn *progress, void *cookie)
{
    const struct bench_load *l = r->load;
    if (progress)
        progress(cookie, r->result, l->n_requests == NEVER ? 0 : l->n_requests, r->n_running,
                 (double)(lodge_now_ns() - r->result->begin_ns) * 1e-9);
}

int bench_runner_run(struct bench_runner *r, const struct bench_load *load,
                     bench_progress_fn *progress, void *cookie, struct bench_result *out,
                     struct lodge_error *e)
{
    double cpu = cpu_seconds();
    uint64_t told = lodge_now_ns();
    r->load = load;
    r->result = out;
    r->n_sent = r->n_dead = 0;
    r->err = 0;
    r->lanes = calloc(load->n_lanes, sizeof *r->lanes);
    if (!r->lanes)
        return lodge_fail(e, LODGE_ERR_NOMEM, "no memory for the load");
    out->begin_ns = out->end_ns = told;
    for (;;) {
        send_due(r);
        if (r->err || *r->interrupted || is_over(r))
            break;
        wait_and_serve(r);
        reap(r);
        if (lodge_now_ns() - told >= TICK_NS) {
            told = lodge_now_ns();
            tell(r, progress, cookie);
        }
    }
    out->interrupted = *r->interrupted;
    cut_off(r);
    out->cpu_s = cpu_seconds() - cpu;
    if (out->interrupted || !out->n)
        out->end_ns = lodge_now_ns();
    tell(r, progress, cookie);
    free(r->lanes);
    return r->err ? lodge_fail(e, r->err, "no memory for more requests") : 0;
}

/* ---- opening ---- */

/* Every stream is a socket. */
static void raise_file_limit(void)
{
    struct rlimit l;
    if (getrlimit(RLIMIT_NOFILE, &l) == 0 && l.rlim_cur < l.rlim_max) {
        l.rlim_cur = l.rlim_max;
        setrlimit(RLIMIT_NOFILE, &l);
    }
}

int bench_runner_open(const struct bench_target *t, const struct bench_workload *w,
                      const volatile sig_atomic_t *interrupted, struct bench_runner **out,
                      struct lodge_error *e)
{
    struct bench_runner *r = calloc(1, sizeof *r);
    *out = r;
    if (!r)
        return lodge_fail(e, LODGE_ERR_NOMEM, "no memory for the load");
    *r =
        (struct bench_runner){.target = t,
                              .workload = w,
                              .interrupted = interrupted,
                              .curl_due_ns = NEVER,
                              .multi = curl_multi_init(),
                              .epoll = epoll_create1(EPOLL_CLOEXEC),
                              .timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK)};
    struct epoll_event ev = {.events = EPOLLIN, .data.fd = r->timer};
    raise_file_limit();
    if (!r->multi || r->epoll < 0 || r->timer < 0 ||
        epoll_ctl(r->epoll, EPOLL_CTL_ADD, r->timer, &ev))
        return lodge_fail(e, LODGE_ERR_RESOURCE, "cannot start the load: %s", strerror(errno));
    curl_multi_setopt(r->multi, CURLMOPT_SOCKETFUNCTION, on_socket);
    curl_multi_setopt(r->multi, CURLMOPT_SOCKETDATA, r);
    curl_multi_setopt(r->multi, CURLMOPT_TIMERFUNCTION, on_timer);
    curl_multi_setopt(r->multi, CURLMOPT_TIMERDATA, r);
    curl_multi_setopt(r->multi, CURLMOPT_MAXCONNECTS, 100000L);
    return 0;
}

void bench_runner_close(struct bench_runner *r)
{
    if (!r)
        return;
    while (r->idle) {
        struct bench_stream *s = r->idle;
        r->idle = s->next;
        bench_stream_destroy(s);
    }
    curl_multi_cleanup(r->multi);
    if (r->timer >= 0)
        close(r->timer);
    if (r->epoll >= 0)
        close(r->epoll);
    free(r);
}
