#include "engine/text/internal.h"

#include "base/utf8.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* Code points of the longest decomposition. */
#define MAX_DECOMPOSED 32u

static unsigned combining_class(utf8proc_int32_t cp)
{
    return (unsigned)utf8proc_get_property(cp)->combining_class & 255u;
}

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

/* Sorts a run of marks by combining class, equal ones in their order. utf8proc's own sort takes
 * quadratic time, which a hostile text would use. */
static int sort_marks(utf8proc_int32_t *run, size_t n)
{
    size_t begin[257] = {0};
    utf8proc_int32_t *copy = malloc(n * sizeof *copy);
    if (!copy)
        return LODGE_ERR_NOMEM;
    memcpy(copy, run, n * sizeof *copy);
    for (size_t i = 0; i < n; i++)
        begin[combining_class(copy[i]) + 1]++;
    for (size_t c = 0; c < 256; c++)
        begin[c + 1] += begin[c];
    for (size_t i = 0; i < n; i++)
        run[begin[combining_class(copy[i])]++] = copy[i];
    free(copy);
    return 0;
}

static int order_marks(utf8proc_int32_t *chars, size_t n)
{
    int err = 0;
    for (size_t i = 0; i < n && !err; i++) {
        size_t begin = i;
        bool sorted = true;
        while (i < n && combining_class(chars[i])) {
            sorted &= i == begin || combining_class(chars[i - 1]) <= combining_class(chars[i]);
            i++;
        }
        if (!sorted)
            err = sort_marks(chars + begin, i - begin);
    }
    return err;
}

/* Decomposes into *chars (grown as needed, the caller frees it). */
static int decompose(struct lodge_buf *in, utf8proc_option_t options, utf8proc_int32_t **chars,
                     size_t *n)
{
    size_t room = 0;
    int boundary = 0;
    for (size_t i = 0; i < in->n;) {
        uint32_t cp = 0;
        int len = lodge_utf8_decode((const uint8_t *)in->data + i, in->n - i, &cp);
        if (room - *n < MAX_DECOMPOSED) {
            room = room ? room * 2 : in->n / 2 + 2 * MAX_DECOMPOSED;
            utf8proc_int32_t *more = realloc(*chars, room * sizeof *more);
            if (!more)
                return LODGE_ERR_NOMEM;
            *chars = more;
        }
        utf8proc_ssize_t k = utf8proc_decompose_char(
            (utf8proc_int32_t)cp, *chars + *n, (utf8proc_ssize_t)(room - *n), options, &boundary);
        if (len <= 0 || k < 0 || (size_t)k > room - *n)
            return LODGE_ERR_INTERNAL;
        *n += (size_t)k;
        i += (size_t)len;
    }
    return 0;
}

static int unicode_form(struct lodge_buf *in, int options, struct lodge_buf *out)
{
    utf8proc_int32_t *chars = NULL;
    size_t n = 0;
    int err = decompose(in, (utf8proc_option_t)options, &chars, &n);
    if (!err)
        err = order_marks(chars, n);
    if (!err && n) {
        utf8proc_ssize_t bytes =
            utf8proc_reencode(chars, (utf8proc_ssize_t)n, (utf8proc_option_t)options);
        if (bytes < 0)
            err = LODGE_ERR_INTERNAL;
        else
            lodge_buf_append(out, chars, (size_t)bytes);
    }
    free(chars);
    return err;
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
        if (cp == 0x130) /* the one character whose lower case is two */
            lodge_buf_append(out, "\xCC\x87", 2);
        i += (size_t)len;
    }
}

/* Bytes of the white space at the front, or at the back. */
static size_t space_bytes(const char *s, size_t n, bool back)
{
    size_t at = 0, len;
    while (at < n) {
        size_t from = back ? n - at - 1 : at;
        while (back && from > 0 && ((uint8_t)s[from] & 0xC0) == 0x80)
            from--;
        if (!space_at(s, back ? n - at : n, from, &len))
            break;
        at += len;
    }
    return at;
}

static void strip_spaces(struct lodge_buf *in, int sides, struct lodge_buf *out)
{
    const char *s = lodge_buf_text(in);
    size_t begin = sides & 1 ? space_bytes(s, in->n, false) : 0;
    size_t end = in->n - (sides & 2 && begin < in->n ? space_bytes(s, in->n, true) : 0);
    lodge_buf_append(out, s + begin, end - begin);
}

static int replace_matches(struct lodge_buf *in, const struct norm_step *step,
                           struct lodge_buf *out)
{
    pcre2_match_data *md = pcre2_match_data_create(1, NULL);
    pcre2_match_context *limits = pcre2_match_context_create(NULL);
    const char *s = lodge_buf_text(in);
    size_t copied = 0, at = 0;
    int rc = md && limits ? 1 : LODGE_ERR_NOMEM;
    if (limits)
        pcre2_set_match_limit(limits, match_limit(in->n));
    bool matched = false; /* up to `copied` */
    while (rc >= 0 && at <= in->n && in->n && md && limits) {
        rc = pcre2_match(step->regex, (PCRE2_SPTR)s, in->n, at, PCRE2_NO_UTF_CHECK, md, limits);
        const PCRE2_SIZE *v = pcre2_get_ovector_pointer(md);
        if (rc < 0)
            break;
        if (v[0] > copied || v[1] > v[0] || !matched) {
            lodge_buf_append(out, s + copied, v[0] - copied);
            lodge_buf_append(out, step->to.data, step->to.n);
            copied = v[1];
        }
        at = v[1] > v[0] ? v[1] : next_char(s, v[1], in->n);
        matched = true;
    }
    lodge_buf_append(out, s + copied, in->n - copied);
    pcre2_match_context_free(limits);
    pcre2_match_data_free(md);
    return !md || !limits                        ? LODGE_ERR_NOMEM
           : rc < 0 && rc != PCRE2_ERROR_NOMATCH ? LODGE_ERR_LIMIT
                                                 : 0;
}

/* Blanks at the ends go, runs of them become one; a written U+2581 at the end is a blank too. */
static void merge_spaces(struct lodge_buf *in, struct lodge_buf *out)
{
    const char *s = lodge_buf_text(in);
    bool after_space = true;
    for (size_t i = 0; i < in->n; i++) {
        if (s[i] != ' ' || !after_space)
            lodge_buf_append(out, s + i, 1);
        after_space = s[i] == ' ';
    }
    for (bool more = true; more && !out->failed;) {
        more = false;
        if (out->n && out->data[out->n - 1] == ' ') {
            out->n--;
            more = true;
        } else if (out->n >= 3 && memcmp(out->data + out->n - 3, blank_mark, 3) == 0) {
            out->n -= 3;
            more = true;
        }
    }
    if (out->data)
        out->data[out->n] = 0;
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
    case NORM_REGEX:
        return replace_matches(in, step, out);
    case NORM_MAP:
        (step->arg ? charsmap_longest : charsmap_clusters)(step->map, lodge_buf_text(in), in->n,
                                                           out);
        return 0;
    case NORM_SPACES:
        merge_spaces(in, out);
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
