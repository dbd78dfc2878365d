#include "base/log.h"

#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct lodge_log {
    pthread_mutex_t lock;
    int fd;
    bool owns_fd;
    enum lodge_log_level level;
    uint64_t n_dropped; /* lines that nobody read in time */
};

static const char *const names[] = {"error", "warn", "info", "debug"};

int lodge_log_level_parse(const char *name)
{
    for (int i = 0; i < 4; i++)
        if (strcmp(names[i], name) == 0)
            return i;
    return -1;
}

int lodge_log_open(const char *path, enum lodge_log_level level, struct lodge_log **out,
                   struct lodge_error *e)
{
    struct lodge_log *log = calloc(1, sizeof *log);
    if (!log)
        return lodge_fail(e, LODGE_ERR_NOMEM, "no memory for the log");
    log->level = level;
    log->owns_fd = path != NULL;
    log->fd = path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666) : STDOUT_FILENO;
    if (log->fd < 0) {
        free(log);
        return lodge_fail(e, LODGE_ERR_CONFIG, "log file %s: %s", path, strerror(errno));
    }
    pthread_mutex_init(&log->lock, NULL);
    *out = log;
    return 0;
}

void lodge_log_close(struct lodge_log *log)
{
    if (!log)
        return;
    if (log->owns_fd)
        close(log->fd);
    pthread_mutex_destroy(&log->lock);
    free(log);
}

static bool write_all(int fd, const char *text, size_t n)
{
    while (n) {
        ssize_t done = write(fd, text, n);
        if (done < 0 && errno != EINTR)
            return false;
        text += done > 0 ? done : 0;
        n -= done > 0 ? (size_t)done : 0;
    }
    return true;
}

/* Threads that serve must not wait for whoever reads the log: a line is dropped, and counted,
 * while the pipe has no room. (A pipe that polls writable takes a line of 4 KiB at once.) */
static void put_line(struct lodge_log *log, char *line)
{
    struct pollfd room = {.fd = log->fd, .events = POLLOUT};
    size_t n = strlen(line);
    if (poll(&room, 1, 0) != 1 || !(room.revents & POLLOUT)) {
        log->n_dropped++;
        return;
    }
    if (log->n_dropped) {
        char note[160];
        int k = snprintf(note, sizeof note,
                         "{\"time\":%.5f,\"level\":\"warn\",\"component\":\"log\",\"msg\":"
                         "\"lines were dropped\",\"n\":%llu}\n",
                         lodge_unix_time(), (unsigned long long)log->n_dropped);
        log->n_dropped = 0;
        write_all(log->fd, note, (size_t)k);
    }
    line[n] = '\n'; /* in place of the zero */
    write_all(log->fd, line, n + 1);
}

void lodge_log_event(struct lodge_log *log, enum lodge_log_level level, const char *component,
                     const char *msg, json_t *members)
{
    if (!log || level > log->level) {
        json_decref(members);
        return;
    }
    json_t *o = json_pack("{s:f, s:s, s:s, s:s}", "time", lodge_unix_time(), "level", names[level],
                          "component", component, "msg", msg);
    if (o && members)
        json_object_update(o, members);
    json_decref(members);
    char *line = o ? json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(15)) : NULL;
    json_decref(o);
    if (!line)
        return;
    pthread_mutex_lock(&log->lock);
    put_line(log, line);
    pthread_mutex_unlock(&log->lock);
    free(line);
}

void lodge_log_text(struct lodge_log *log, enum lodge_log_level level, const char *component,
                    const char *fmt, ...)
{
    if (!log || level > log->level)
        return;
    char text[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    lodge_log_event(log, level, component, text, NULL);
}
