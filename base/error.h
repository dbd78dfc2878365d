/* Error codes and the text that goes with them.
 *
 * Functions that can fail return 0 or a negative LODGE_ERR_*. Where a person will read the
 * reason they take a last parameter `struct lodge_error *` (NULL is allowed) and fill it by
 * lodge_fail(): what happened, where, and what to do about it.
 *
 * Thread safety: pure functions; a struct lodge_error belongs to its caller.
 */
#ifndef LODGE_BASE_ERROR_H
#define LODGE_BASE_ERROR_H

#include <stdarg.h>
#include <stddef.h>

/* name, value, text, HTTP status, exit code of the program (design: 1 fault, 2 usage, 3 file,
 * 4 resource). */
#define LODGE_ERROR_LIST(X)                                                                        \
    X(INVALID, -1, "invalid value", 400, 2)                                                        \
    X(UNSUPPORTED, -2, "not supported", 400, 3)                                                    \
    X(CONFIG, -3, "configuration error", 400, 2)                                                   \
    X(FORMAT, -4, "malformed file or message", 400, 3)                                             \
    X(NOT_FOUND, -5, "not found", 404, 3)                                                          \
    X(LIMIT, -6, "limit exceeded", 400, 4)                                                         \
    X(NOMEM, -7, "out of memory", 503, 4)                                                          \
    X(IO, -8, "input or output error", 500, 4)                                                     \
    X(RESOURCE, -9, "resource not available", 503, 4)                                              \
    X(AGAIN, -10, "not ready yet", 503, 1)                                                         \
    X(FULL, -11, "queue full", 503, 1)                                                             \
    X(DRAINING, -12, "shutting down", 503, 1)                                                      \
    X(TIMEOUT, -13, "deadline passed", 408, 1)                                                     \
    X(CANCELLED, -14, "cancelled", 499, 1)                                                         \
    X(CONTEXT, -15, "context length exceeded", 400, 1)                                             \
    X(DEVICE, -16, "device fault", 500, 1)                                                         \
    X(INTERNAL, -17, "internal fault", 500, 1)                                                     \
    X(FORBIDDEN, -18, "not allowed", 403, 2)                                                       \
    X(ADAPTER_LOST, -19, "the files of the adapter have changed or are gone", 503, 1)              \
    X(THROTTLED, -20, "a limit is reached", 429, 1)                                                \
    X(OVERLOADED, -21, "overloaded", 503, 1)

enum lodge_err {
    LODGE_OK = 0,
#define LODGE_ERROR_ENUM(name, value, text, http, exit_code) LODGE_ERR_##name = value,
    LODGE_ERROR_LIST(LODGE_ERROR_ENUM)
#undef LODGE_ERROR_ENUM
};

#define LODGE_ERROR_TEXT_MAX 1024

struct lodge_error {
    int code; /* 0 or LODGE_ERR_* */
    char text[LODGE_ERROR_TEXT_MAX];
};

/* "INVALID" for LODGE_ERR_INVALID; "OK" for 0; "UNKNOWN" for others. Static storage. */
const char *lodge_error_name(int code);
/* One short phrase for the code. Static storage. */
const char *lodge_error_text(int code);
/* HTTP status that fits the code; 200 for 0, 500 for unknown codes. */
int lodge_error_http(int code);
/* Exit code of a program that ends for this reason; 0 for 0, 1 for unknown codes. */
int lodge_error_exit(int code);

/* Fills `e` (may be NULL) and returns `code`, so that a caller can write
 * `return lodge_fail(e, LODGE_ERR_FORMAT, "...")`. Text too long is cut, never overrun. */
int lodge_fail(struct lodge_error *e, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
int lodge_vfail(struct lodge_error *e, int code, const char *fmt, va_list args)
    __attribute__((format(printf, 3, 0)));
/* Puts "`prefix`: " before the text already in `e`; for callers that know where it happened. */
void lodge_error_prefix(struct lodge_error *e, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
/* Adds to the end of the text already in `e`. */
void lodge_error_append(struct lodge_error *e, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

#endif
