#include "clients/text.h"

#include "base/utf8.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* Length of the escape sequence at s[0..n), which starts with ESC. */
static size_t escape_length(const uint8_t *s, size_t n)
{
    size_t i = 2;
    if (n < 2 || s[1] != '[')
        return n < 2 ? 1 : 2;
    while (i < n && s[i] >= 0x20 && s[i] < 0x40)
        i++;
    return i < n && s[i] >= 0x40 && s[i] < 0x7f ? i + 1 : i;
}

static bool is_control(uint32_t cp)
{
    return (cp < 0x20 && cp != '\n' && cp != '\t') || (cp >= 0x7f && cp < 0xa0);
}

void text_clean(const char *text, size_t n, struct lodge_buf *out)
{
    const uint8_t *s = (const uint8_t *)text;
    while (n) {
        uint32_t cp;
        int len = lodge_utf8_decode(s, n, &cp);
        size_t used = len > 0 ? (size_t)len : len < 0 ? (size_t)-len : n;
        if (len <= 0)
            lodge_buf_puts(out, "\xef\xbf\xbd");
        else if (cp == 0x1b)
            used = escape_length(s, n);
        else if (!is_control(cp))
            lodge_buf_append(out, s, used);
        s += used;
        n -= used;
    }
}

void text_clean_line(const char *s, size_t n, char *out, size_t room)
{
    struct lodge_buf b;
    lodge_buf_init(&b, 4 * room);
    text_clean(s, n < room - 1 ? n : room - 1, &b);
    size_t end = b.n < room - 1 ? b.n : room - 1;
    while (end && end < b.n && ((uint8_t)b.data[end] & 0xc0) == 0x80)
        end--;
    snprintf(out, room, "%.*s", (int)end, lodge_buf_text(&b));
    for (char *c = out; *c; c++)
        *c = *c == '\n' || *c == '\t' ? ' ' : *c;
    lodge_buf_finish(&b);
}
