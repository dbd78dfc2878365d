#include "base/buf.h"

#include "base/error.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void lodge_buf_init(struct lodge_buf *b, size_t cap_bytes)
{
    *b = (struct lodge_buf){.cap_bytes = cap_bytes};
}

void lodge_buf_finish(struct lodge_buf *b)
{
    if (!b)
        return;
    free(b->data);
    *b = (struct lodge_buf){0};
}

void lodge_buf_clear(struct lodge_buf *b)
{
    b->n = 0;
    b->failed = false;
    if (b->data)
        b->data[0] = 0;
}

static int grow(struct lodge_buf *b, size_t n)
{
    if (b->failed || n > b->cap_bytes || b->n > b->cap_bytes - n || n > SIZE_MAX / 4) {
        b->failed = true;
        return LODGE_ERR_LIMIT;
    }
    if (b->n + n < b->_room)
        return 0;
    size_t room = b->_room ? b->_room : 64;
    while (room <= b->n + n)
        room *= 2;
    char *data = realloc(b->data, room);
    if (!data) {
        b->failed = true;
        return LODGE_ERR_NOMEM;
    }
    b->data = data;
    b->_room = room;
    return 0;
}

void *lodge_buf_extend(struct lodge_buf *b, size_t n)
{
    if (grow(b, n))
        return NULL;
    char *at = b->data + b->n;
    b->n += n;
    b->data[b->n] = 0;
    return at;
}

int lodge_buf_append(struct lodge_buf *b, const void *bytes, size_t n)
{
    int err = grow(b, n);
    if (err)
        return err;
    if (n)
        memcpy(b->data + b->n, bytes, n);
    b->n += n;
    b->data[b->n] = 0;
    return 0;
}

int lodge_buf_puts(struct lodge_buf *b, const char *s)
{
    return lodge_buf_append(b, s, strlen(s));
}

int lodge_buf_printf(struct lodge_buf *b, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    char *at = n < 0 ? NULL : lodge_buf_extend(b, (size_t)n);
    if (!at)
        return LODGE_ERR_LIMIT;
    va_start(args, fmt);
    vsnprintf(at, (size_t)n + 1, fmt, args);
    va_end(args);
    return 0;
}

void lodge_buf_drop(struct lodge_buf *b, size_t n)
{
    if (!n)
        return;
    memmove(b->data, b->data + n, b->n - n + 1);
    b->n -= n;
}

const char *lodge_buf_text(const struct lodge_buf *b)
{
    return b->data ? b->data : "";
}
