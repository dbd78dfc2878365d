/* Patterns of tokenizer files, which are written for Oniguruma, compiled by PCRE2. What the two
 * read differently is rewritten, or refused:
 *   \s \S \w \W   Oniguruma's classes are Unicode's; PCRE2's \s has U+180E, its \w has all of
 *                 \p{N} and no marks
 *   \p{Han}       the script itself, not its extensions
 *   ^ $           match at every line
 *   [a[b]] [a&&b] \h {n}+   mean something else to PCRE2 */
#include "engine/text/internal.h"

#include <ctype.h>
#include <string.h>

#define SPACE "\\p{Z}\\x{9}-\\x{d}\\x{85}"
#define WORD                                                                                       \
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24B6}-\\x{24E9}\\x{1F130}-\\x{1F149}"                    \
    "\\x{1F150}-\\x{1F169}\\x{1F170}-\\x{1F189}"

/* Bounds the work of one match attempt, so that a pattern cannot backtrack for ever. A white-space
 * run of the whole text is walked back once by `\s*[\r\n]+`, which is linear and must pass. */
#define MATCH_LIMIT 1000000u
#define MATCH_LIMIT_PER_BYTE 8u

struct reader {
    const char *s;
    size_t n, at;
    bool in_class;
    struct lodge_buf out;
    const char *refused;
};

static void put_class(struct reader *r, const char *chars, bool inverted)
{
    if (r->in_class)
        lodge_buf_puts(&r->out, chars);
    else
        lodge_buf_printf(&r->out, "[%s%s]", inverted ? "^" : "", chars);
}

/* An escape with braces, \p{...} or \x{...}; general categories mean the same, other names of
 * properties are scripts. */
static void put_braces(struct reader *r)
{
    const char *from = r->s + r->at, *close = memchr(from, '}', r->n - r->at);
    size_t n = close ? (size_t)(close - from) + 1 : r->n - r->at;
    size_t negated = n > 4 && from[3] == '^';
    if (from[1] != 'x' && n > 6 + negated) {
        lodge_buf_append(&r->out, from, 3 + negated);
        lodge_buf_puts(&r->out, "sc:");
        lodge_buf_append(&r->out, from + 3 + negated, n - 3 - negated);
    } else {
        lodge_buf_append(&r->out, from, n);
    }
    r->at += n;
}

static void read_escape(struct reader *r)
{
    char c = r->at + 1 < r->n ? r->s[r->at + 1] : 0;
    bool braces = r->at + 3 < r->n && r->s[r->at + 2] == '{';
    if (braces && (c == 'p' || c == 'P' || c == 'x')) {
        put_braces(r);
        return;
    }
    if (c == 's' || (c == 'S' && !r->in_class)) {
        put_class(r, SPACE, c == 'S');
    } else if (c == 'w' || (c == 'W' && !r->in_class)) {
        put_class(r, WORD, c == 'W');
    } else if (c == 'h' || c == 'H' || c == 'X' || c == 'R' || c == 'K' || c == 'g' || c == 'k') {
        r->refused = "an escape that is not the same everywhere";
    } else {
        lodge_buf_append(&r->out, r->s + r->at, r->at + 1 < r->n ? 2 : 1);
    }
    r->at += 2;
}

static void read_bracket(struct reader *r)
{
    char c = r->s[r->at];
    if (c == ']') {
        r->in_class = false;
    } else if (!r->in_class) {
        r->in_class = true;
        lodge_buf_append(&r->out, &c, 1);
        r->at++;
        if (r->at < r->n && r->s[r->at] == '^')
            lodge_buf_append(&r->out, r->s + r->at++, 1);
        if (r->at < r->n && r->s[r->at] == ']') /* first in a class it is a character */
            lodge_buf_append(&r->out, r->s + r->at++, 1);
        return;
    } else if (r->at + 1 < r->n && r->s[r->at + 1] == ':') {
        r->refused = "a POSIX class";
    } else {
        r->refused = "a class inside a class";
    }
    lodge_buf_append(&r->out, &c, 1);
    r->at++;
}

static void translate(struct reader *r)
{
    while (r->at < r->n && !r->refused) {
        char c = r->s[r->at];
        bool repeated = r->at + 1 < r->n && r->s[r->at + 1] == (c == '}' ? '+' : c);
        if (c == '\\') {
            read_escape(r);
        } else if ((c == '[') || (c == ']' && r->in_class)) {
            read_bracket(r);
        } else if (c == '&' && r->in_class && repeated) {
            r->refused = "an intersection of classes";
        } else if (c == '}' && !r->in_class && repeated) {
            r->refused = "'+' behind a counted repetition";
        } else {
            lodge_buf_append(&r->out, &c, 1);
            r->at++;
        }
    }
}

int compile_regex(const char *pattern, size_t n, pcre2_code **out, struct lodge_error *e)
{
    struct reader r = {.s = pattern, .n = n};
    int code;
    PCRE2_SIZE at;
    lodge_buf_init(&r.out, n * 32 + 1024);
    translate(&r);
    if (r.refused || r.out.failed) {
        lodge_buf_finish(&r.out);
        return r.refused ? lodge_fail(e, LODGE_ERR_UNSUPPORTED,
                                      "pre-tokenizer pattern at offset %zu: %s is not supported",
                                      r.at, r.refused)
                         : lodge_fail(e, LODGE_ERR_NOMEM, "no memory for a pattern");
    }
    *out = pcre2_compile((PCRE2_SPTR)lodge_buf_text(&r.out), r.out.n,
                         PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, &code, &at, NULL);
    lodge_buf_finish(&r.out);
    if (!*out) {
        char reason[200];
        pcre2_get_error_message(code, (PCRE2_UCHAR *)reason, sizeof reason);
        return lodge_fail(e, LODGE_ERR_UNSUPPORTED, "pre-tokenizer pattern cannot be compiled: %s",
                          reason);
    }
    /* Without a JIT (hardened kernels) the interpreter is used; results are the same. */
    pcre2_jit_compile(*out, PCRE2_JIT_COMPLETE);
    return 0;
}

uint32_t match_limit(size_t n)
{
    size_t limit = MATCH_LIMIT + MATCH_LIMIT_PER_BYTE * n;
    return limit < UINT32_MAX ? (uint32_t)limit : UINT32_MAX;
}
