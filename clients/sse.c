#include "clients/sse.h"

#include "base/error.h"

#include <string.h>

void sse_init(struct sse_parser *p, void (*on_data)(void *, const char *, size_t), void *cookie)
{
    *p = (struct sse_parser){.on_data = on_data, .cookie = cookie};
    lodge_buf_init(&p->line, SSE_MAX_LINE);
}

void sse_finish(struct sse_parser *p)
{
    lodge_buf_finish(&p->line);
}

void sse_reset(struct sse_parser *p)
{
    lodge_buf_clear(&p->line);
}

static void take_line(const struct sse_parser *p, const char *s, size_t n)
{
    if (n && s[n - 1] == '\r')
        n--;
    if (n >= 5 && memcmp(s, "data:", 5) == 0) {
        size_t skip = n > 5 && s[5] == ' ' ? 6 : 5;
        p->on_data(p->cookie, s + skip, n - skip);
    }
}

int sse_feed(struct sse_parser *p, const char *bytes, size_t n)
{
    while (n) {
        const char *end = memchr(bytes, '\n', n);
        size_t len = end ? (size_t)(end - bytes) : n;
        if (!end || p->line.n) {
            int err = lodge_buf_append(&p->line, bytes, len);
            if (err)
                return err;
        } else if (len > SSE_MAX_LINE) {
            return LODGE_ERR_LIMIT;
        }
        if (end && p->line.n) {
            take_line(p, lodge_buf_text(&p->line), p->line.n);
            lodge_buf_clear(&p->line);
        } else if (end) {
            take_line(p, bytes, len);
        }
        len += end != NULL;
        bytes += len;
        n -= len;
    }
    return 0;
}
