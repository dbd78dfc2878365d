/* Added tokens: leftmost, longest first, over a list sorted by text. */
#include "engine/text/internal.h"

#include "base/utf8.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

static int by_text(const void *a, const void *b)
{
    const struct added_token *x = a, *y = b;
    size_t n = x->text.n < y->text.n ? x->text.n : y->text.n;
    int c = memcmp(x->text.data, y->text.data, n);
    return c ? c : (x->text.n > y->text.n) - (x->text.n < y->text.n);
}

int index_added(struct lodge_tokenizer *t, struct lodge_error *e)
{
    struct lodge_buf b;
    lodge_buf_init(&b, (size_t)1 << 20);
    int err = 0;
    for (uint32_t i = 0; i < t->n_added && !err; i++) {
        struct added_token *a = &t->added[i];
        if (!a->normalized || !t->n_norms)
            continue;
        err = normalize(t, a->text.data, a->text.n, &b);
        if (!err && b.n)
            a->text = keep_span(&t->arena, b.data, b.n);
        if (!a->text.data)
            err = LODGE_ERR_NOMEM;
    }
    lodge_buf_finish(&b);
    if (err)
        return lodge_fail(e, err, "cannot prepare the added tokens");
    if (t->n_added)
        qsort(t->added, t->n_added, sizeof *t->added, by_text);
    return 0;
}

/* First index in [low, high) whose byte at `depth` is >= c. Shorter texts sort before. */
static uint32_t lower(const struct lodge_tokenizer *t, uint32_t low, uint32_t high, size_t depth,
                      int c)
{
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        const struct lodge_span *s = &t->added[mid].text;
        int at = s->n > depth ? (uint8_t)s->data[depth] : -1;
        if (at < c)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

/* Unicode's \w: alphabetic characters (circled letters are), marks, digits, connectors, joiners. */
static bool is_word(uint32_t cp)
{
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    bool circled = (cp >= 0x24B6 && cp <= 0x24E9) || (cp >= 0x1F130 && cp <= 0x1F149) ||
                   (cp >= 0x1F150 && cp <= 0x1F169) || (cp >= 0x1F170 && cp <= 0x1F189);
    return (c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_NL) || c == UTF8PROC_CATEGORY_PC ||
           cp == 0x200C || cp == 0x200D || circled;
}

static bool word_before(const char *s, size_t at)
{
    size_t i = at;
    while (i > 0 && at - i < 4 && ((uint8_t)s[i - 1] & 0xC0) == 0x80)
        i--;
    uint32_t cp;
    return i > 0 && lodge_utf8_decode((const uint8_t *)s + i - 1, at - i + 1, &cp) > 0 &&
           is_word(cp);
}

static bool word_after(const char *s, size_t n, size_t at)
{
    uint32_t cp;
    return at < n && lodge_utf8_decode((const uint8_t *)s + at, n - at, &cp) > 0 && is_word(cp);
}

/* Longest added token that begins at s[at]. */
static const struct added_token *match_at(const struct lodge_tokenizer *t, const char *s, size_t n,
                                          size_t at, bool normalized)
{
    uint32_t low = 0, high = t->n_added;
    const struct added_token *best = NULL;
    for (size_t depth = 0; at + depth < n && low < high; depth++) {
        int c = (uint8_t)s[at + depth];
        low = lower(t, low, high, depth, c);
        high = lower(t, low, high, depth, c + 1);
        for (uint32_t i = high; i-- > low;)
            if (t->added[i].text.n == depth + 1 && t->added[i].normalized == normalized)
                best = &t->added[i];
    }
    return best;
}

static bool may_stand(const struct added_token *a, const char *s, size_t n, size_t at, bool special)
{
    return (special || !a->special) &&
           !(a->single_word && (word_before(s, at) || word_after(s, n, at + a->text.n)));
}

bool is_space(uint32_t cp)
{
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return (cp >= 9 && cp <= 13) || cp == 0x85 || c == UTF8PROC_CATEGORY_ZS ||
           c == UTF8PROC_CATEGORY_ZL || c == UTF8PROC_CATEGORY_ZP;
}

bool space_at(const char *s, size_t n, size_t at, size_t *len)
{
    uint32_t cp;
    int k = lodge_utf8_decode((const uint8_t *)s + at, n - at, &cp);
    *len = k > 0 ? (size_t)k : 1;
    return k > 0 && is_space(cp);
}

bool next_added(const struct lodge_tokenizer *t, const char *s, size_t n, bool normalized,
                bool special, struct added_match *m)
{
    size_t from = m->end, len;
    for (size_t at = m->next; t->n_added && at < n;) {
        const struct added_token *a = match_at(t, s, n, at, normalized);
        if (!a || !may_stand(a, s, n, at, special)) {
            at += a ? a->text.n : 1;
            continue;
        }
        *m = (struct added_match){a, at, at + a->text.n, at, at + a->text.n, m->blanks};
        if (a->rstrip && m->end < m->blanks) /* walk over no white space twice */
            m->end = m->blanks;
        while (a->rstrip && m->end < n && space_at(s, n, m->end, &len))
            m->end += len;
        m->blanks = a->rstrip ? m->end : m->blanks;
        if (a->lstrip && m->end <= from) { /* all of it was swallowed */
            at = m->next;
            continue;
        }
        while (a->lstrip && m->begin > from) {
            size_t p = m->begin - 1;
            while (p > from && ((uint8_t)s[p] & 0xC0) == 0x80)
                p--;
            if (!space_at(s, n, p, &len) || p + len != m->begin)
                break;
            m->begin = p;
        }
        return true;
    }
    return false;
}
