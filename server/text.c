#include "server/call.h"

#include <math.h>

static const char digits[] = "0123456789abcdef";

void put_string(struct lodge_buf *out, const char *s, size_t n)
{
    lodge_buf_append(out, "\"", 1);
    size_t from = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c >= 0x20 && c != '"' && c != '\\')
            continue;
        lodge_buf_append(out, s + from, i - from);
        from = i + 1;
        static const char plain[] = "\"\\\b\f\n\r\t", letter[] = "\"\\bfnrt";
        char escaped[6] = {'\\', 'u', '0', '0', digits[c >> 4], digits[c & 15]};
        size_t len = 6;
        for (size_t k = 0; k < sizeof plain - 1; k++)
            if ((unsigned char)plain[k] == c) {
                escaped[1] = letter[k];
                len = 2;
            }
        lodge_buf_append(out, escaped, len);
    }
    lodge_buf_append(out, s + from, n - from);
    lodge_buf_append(out, "\"", 1);
}

void put_bytes_array(struct lodge_buf *out, const char *s, size_t n)
{
    lodge_buf_puts(out, "[");
    for (size_t i = 0; i < n; i++)
        lodge_buf_printf(out, "%s%u", i ? "," : "", (unsigned)(unsigned char)s[i]);
    lodge_buf_puts(out, "]");
}

/* JSON has no infinities: -9999 stands for "below everything". */
void put_logprob(struct lodge_buf *out, double lp)
{
    lodge_buf_printf(out, "%.9g", isfinite(lp) ? lp : -9999.0);
}
