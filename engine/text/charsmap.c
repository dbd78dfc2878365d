/* The character map that sentencepiece compiles into a model: a double-array trie from byte strings
 * to offsets of their zero-terminated replacements.
 * Layout: u32 bytes of the trie, the trie's units as u32, the replacements; little-endian. A unit
 * holds a label (bits 0-7 and 31), whether a value follows (bit 8), and the offset of its children
 * (bits 10-30, shifted by 8 where bit 9 is set); a unit with a value has bit 31 set.
 * Source: the darts-clone library's format, as stored in sentencepiece models. */
#include "engine/text/internal.h"

#include "base/utf8.h"

#include <string.h>
#include <utf8proc.h>

/* The tokenizers library maps whole grapheme clusters below this many bytes. */
#define SHORT_CLUSTER 6u

struct charsmap {
    const uint8_t *units;
    size_t n_units;
    const char *texts;
    size_t n_texts;
};

const struct charsmap *charsmap_create(struct lodge_arena *a, const void *data, size_t n)
{
    const uint8_t *p = data;
    if (n < 8)
        return NULL;
    uint32_t bytes =
        (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
    if (bytes < 4 || bytes % 4 || bytes > n - 4)
        return NULL;
    struct charsmap *m = lodge_arena_alloc(a, sizeof *m);
    const uint8_t *copy = (const uint8_t *)lodge_arena_strndup(a, data, n);
    if (!m || !copy)
        return NULL;
    *m = (struct charsmap){copy + 4, bytes / 4, (const char *)copy + 4 + bytes, n - 4 - bytes};
    return m;
}

static uint32_t unit(const struct charsmap *m, size_t i)
{
    const uint8_t *p = m->units + 4 * (i < m->n_units ? i : 0);
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static size_t children(uint32_t u)
{
    return (size_t)(u >> 10) << ((u & 512u) >> 6);
}

/* The replacement of the shortest, or longest, key that s begins with: its length in bytes, or 0
 * when there is none. */
static size_t find(const struct charsmap *m, const char *s, size_t n, bool longest, size_t *text)
{
    size_t at = children(unit(m, 0)), found = 0;
    for (size_t i = 0; i < n && s[i]; i++) {
        at ^= (uint8_t)s[i];
        uint32_t u = unit(m, at);
        if (at >= m->n_units || (u & 0x800000FFu) != (uint8_t)s[i])
            break;
        at ^= children(u);
        if (!(u & 256u))
            continue;
        *text = unit(m, at) & 0x7FFFFFFFu;
        found = i + 1;
        if (!longest)
            break;
    }
    return found;
}

static void put_text(const struct charsmap *m, size_t at, struct lodge_buf *out)
{
    if (at < m->n_texts)
        lodge_buf_append(out, m->texts + at, strnlen(m->texts + at, m->n_texts - at));
}

static size_t char_bytes(const char *s, size_t n)
{
    uint32_t cp;
    int len = lodge_utf8_decode((const uint8_t *)s, n, &cp);
    return len > 0 ? (size_t)len : 1;
}

void charsmap_longest(const struct charsmap *m, const char *s, size_t n, struct lodge_buf *out)
{
    for (size_t i = 0; i < n;) {
        size_t text = 0, len = find(m, s + i, n - i, true, &text);
        if (len) {
            put_text(m, text, out);
        } else {
            len = char_bytes(s + i, n - i);
            lodge_buf_append(out, s + i, len);
        }
        i += len;
    }
}

/* End of the grapheme cluster at s. */
static size_t cluster_end(const char *s, size_t n)
{
    utf8proc_int32_t state = 0;
    uint32_t before, cp;
    size_t at = char_bytes(s, n);
    lodge_utf8_decode((const uint8_t *)s, n, &before);
    while (at < n) {
        size_t len = char_bytes(s + at, n - at);
        lodge_utf8_decode((const uint8_t *)s + at, n - at, &cp);
        if (utf8proc_grapheme_break_stateful((utf8proc_int32_t)before, (utf8proc_int32_t)cp,
                                             &state))
            break;
        before = cp;
        at += len;
    }
    return at;
}

/* What begins with a key becomes its replacement, and the rest of it goes: so does the library. */
static bool map_part(const struct charsmap *m, const char *s, size_t n, struct lodge_buf *out)
{
    size_t text = 0;
    bool found = find(m, s, n, false, &text) > 0;
    if (found)
        put_text(m, text, out);
    return found;
}

void charsmap_clusters(const struct charsmap *m, const char *s, size_t n, struct lodge_buf *out)
{
    for (size_t i = 0; i < n;) {
        size_t end = i + cluster_end(s + i, n - i);
        if (end - i < SHORT_CLUSTER && map_part(m, s + i, end - i, out)) {
            i = end;
            continue;
        }
        while (i < end) {
            size_t len = char_bytes(s + i, end - i);
            if (!map_part(m, s + i, len, out))
                lodge_buf_append(out, s + i, len);
            i += len;
        }
    }
}
