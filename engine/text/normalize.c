#include "engine/text/internal.h"

#include "base/utf8.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

static void replace_all(struct lodge_buf *in, const struct norm_step *step, struct lodge_buf *out)
{
    for (size_t i = 0; i < in->n;) {
        if (step->from.n && in->n - i >= step->from.n &&
            memcmp(in->data + i, step->from.data, step->from.n) == 0) {
            lodge_buf_append(out, step->to.data, step->to.n);
            i += step->from.n;
        } else {
            lodge_buf_append(out, in->data + i++, 1);
        }
    }
}

static int unicode_form(struct lodge_buf *in, int options, struct lodge_buf *out)
{
    utf8proc_uint8_t *mapped = NULL;
    utf8proc_ssize_t n = utf8proc_map((const utf8proc_uint8_t *)lodge_buf_text(in),
                                      (utf8proc_ssize_t)in->n, &mapped, (utf8proc_option_t)options);
    if (n < 0)
        return LODGE_ERR_NOMEM;
    lodge_buf_append(out, mapped, (size_t)n);
    free(mapped);
    return 0;
}

static void lower_case(struct lodge_buf *in, struct lodge_buf *out)
{
    for (size_t i = 0; i < in->n;) {
        uint32_t cp;
        int len = lodge_utf8_decode((const uint8_t *)in->data + i, in->n - i, &cp);
        if (len <= 0)
            break;
        uint8_t c[4];
        uint32_t low = (uint32_t)utf8proc_tolower((utf8proc_int32_t)cp);
        lodge_buf_append(out, c, (size_t)lodge_utf8_encode(low, c));
        i += (size_t)len;
    }
}

static void strip_spaces(struct lodge_buf *in, int sides, struct lodge_buf *out)
{
    size_t begin = 0, end = in->n;
    static const char spaces[] = " \t\r\n\v\f";
    while ((sides & 1) && begin < end && strchr(spaces, in->data[begin]))
        begin++;
    while ((sides & 2) && end > begin && strchr(spaces, in->data[end - 1]))
        end--;
    lodge_buf_append(out, in->data + begin, end - begin);
}

static int apply(const struct norm_step *step, struct lodge_buf *in, struct lodge_buf *out)
{
    switch (step->kind) {
    case NORM_PREPEND:
        if (in->n)
            lodge_buf_append(out, step->to.data, step->to.n);
        lodge_buf_append(out, lodge_buf_text(in), in->n);
        return 0;
    case NORM_REPLACE:
        replace_all(in, step, out);
        return 0;
    case NORM_UNICODE:
        return unicode_form(in, step->arg, out);
    case NORM_LOWER:
        lower_case(in, out);
        return 0;
    case NORM_STRIP:
        strip_spaces(in, step->arg, out);
        return 0;
    }
    return LODGE_ERR_INTERNAL;
}

int normalize(const struct lodge_tokenizer *t, const char *s, size_t n, struct lodge_buf *out)
{
    lodge_buf_clear(out);
    lodge_buf_append(out, s, n);
    struct lodge_buf next;
    lodge_buf_init(&next, out->cap_bytes);
    int err = 0;
    for (uint32_t i = 0; i < t->n_norms && !err; i++) {
        lodge_buf_clear(&next);
        err = apply(&t->norms[i], out, &next);
        struct lodge_buf swap = *out;
        *out = next;
        next = swap;
    }
    lodge_buf_finish(&next);
    return err ? err : out->failed ? LODGE_ERR_LIMIT : 0;
}
