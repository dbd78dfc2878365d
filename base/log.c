#include "base/log.h"

#include "base/clock.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct lodge_log {
    pthread_mutex_t lock;
    FILE *file;
    enum lodge_log_level level;
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
    log->file = path ? fopen(path, "ae") : stdout;
    if (!log->file) {
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
    if (log->file != stdout)
        fclose(log->file);
    pthread_mutex_destroy(&log->lock);
    free(log);
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
    fprintf(log->file, "%s\n", line);
    fflush(log->file);
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
