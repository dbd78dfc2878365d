#include "base/error.h"

#include <stdio.h>
#include <string.h>

struct row {
    int code;
    const char *name;
    const char *text;
    int http;
    int exit_code;
};

static const struct row rows[] = {{0, "OK", "success", 200, 0},
#define LODGE_ERROR_ROW(name, value, text, http, exit_code) {value, #name, text, http, exit_code},
                                  LODGE_ERROR_LIST(LODGE_ERROR_ROW)
#undef LODGE_ERROR_ROW
};

static const struct row *find(int code)
{
    static const struct row unknown = {1, "UNKNOWN", "unknown error", 500, 1};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (rows[i].code == code)
            return &rows[i];
    return &unknown;
}

const char *lodge_error_name(int code)
{
    return find(code)->name;
}

const char *lodge_error_text(int code)
{
    return find(code)->text;
}

int lodge_error_http(int code)
{
    return find(code)->http;
}

int lodge_error_exit(int code)
{
    return find(code)->exit_code;
}

int lodge_vfail(struct lodge_error *e, int code, const char *fmt, va_list args)
{
    if (!e)
        return code;
    e->code = code;
    vsnprintf(e->text, sizeof e->text, fmt, args);
    return code;
}

int lodge_fail(struct lodge_error *e, int code, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    lodge_vfail(e, code, fmt, args);
    va_end(args);
    return code;
}

void lodge_error_prefix(struct lodge_error *e, const char *fmt, ...)
{
    if (!e)
        return;
    char head[LODGE_ERROR_TEXT_MAX];
    va_list args;
    va_start(args, fmt);
    vsnprintf(head, sizeof head, fmt, args);
    va_end(args);
    char old[LODGE_ERROR_TEXT_MAX];
    memcpy(old, e->text, sizeof old);
    snprintf(e->text, sizeof e->text, "%.400s: %.600s", head, old);
}

void lodge_error_append(struct lodge_error *e, const char *fmt, ...)
{
    if (!e)
        return;
    size_t n = strlen(e->text);
    va_list args;
    va_start(args, fmt);
    vsnprintf(e->text + n, sizeof e->text - n, fmt, args);
    va_end(args);
}
