/* Event log: one JSON object a line ({"time","level","component","msg", then given members}).
 *
 * Start-up phases and the final error are plain text on stderr and do not pass through here.
 * Thread-safe: one mutex around one write; a leaf lock. A NULL log drops everything. Writing never
 * waits: while a pipe is full lines are dropped, and their number is logged once there is room.
 */
#ifndef LODGE_BASE_LOG_H
#define LODGE_BASE_LOG_H

#include "base/error.h"

#include <jansson.h>

enum lodge_log_level { LODGE_LOG_ERROR, LODGE_LOG_WARN, LODGE_LOG_INFO, LODGE_LOG_DEBUG };

struct lodge_log;

/* "error", "warn", "info", "debug" to a level; -1 for others. */
int lodge_log_level_parse(const char *name);
/* Appends to `path`, or writes to stdout when NULL. IO or NOMEM. */
int lodge_log_open(const char *path, enum lodge_log_level level, struct lodge_log **out,
                   struct lodge_error *e);
void lodge_log_close(struct lodge_log *log);

void lodge_log_text(struct lodge_log *log, enum lodge_log_level level, const char *component,
                    const char *fmt, ...) __attribute__((format(printf, 4, 5)));
/* Steals `members` (an object, or NULL) and appends them after the fixed ones. */
void lodge_log_event(struct lodge_log *log, enum lodge_log_level level, const char *component,
                     const char *msg, json_t *members);

#endif
