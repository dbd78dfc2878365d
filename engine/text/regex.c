/* Patterns of tokenizer files, which are written for Oniguruma, compiled by PCRE2. What the two
 * read differently is rewritten, or refused:
 *   \s \w \b \S    Oniguruma's classes are Unicode's; PCRE2's \s has U+180E, its \w has all of
 *                 \p{N} and no marks
 *   \v            one character; PCRE2's \v is a class
 *   \p{Han}       the script itself, not its extensions
 *   ^ $           match at every line
 *   (?m: {,n}     a point that is also a line's end; {0,n}
 *   [a[b]] [a&&b] \h {n}+ {n}? (*   mean something else to PCRE2 */
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
    struct lodge_buf out;
    const char *refused;
    bool in_class;
    /* the class that is being read: what PCRE2 can have in one, and \S and \W, which it cannot */
    struct lodge_buf items;
    bool negated, no_space, no_word;
};

static struct lodge_buf *target(struct reader *r)
{
    return r->in_class ? &r->items : &r->out;
}

static void copy(struct reader *r, size_t n)
{
    size_t most = r->n - r->at;
    lodge_buf_append(target(r), r->s + r->at, n < most ? n : most);
    r->at += n < most ? n : most;
}

static char peek(const struct reader *r, size_t ahead)
{
    return r->at + ahead < r->n ? r->s[r->at + ahead] : 0;
}

/* \s, \S, \w, \W */
static void put_class(struct reader *r, char c)
{
    bool space = c == 's' || c == 'S', inverted = c == 'S' || c == 'W';
    const char *chars = space ? SPACE : WORD;
    if (!r->in_class)
        lodge_buf_printf(&r->out, "[%s%s]", inverted ? "^" : "", chars);
    else if (!inverted)
        lodge_buf_puts(&r->items, chars);
    else
        *(space ? &r->no_space : &r->no_word) = true;
}

/* An escape with braces, \p{...} or \x{...}; general categories mean the same, other names of
 * properties are scripts. */
static void put_braces(struct reader *r)
{
    const char *from = r->s + r->at, *close = memchr(from, '}', r->n - r->at);
    size_t n = close ? (size_t)(close - from) + 1 : r->n - r->at;
    size_t negated = n > 4 && from[3] == '^';
    if (from[1] != 'x' && n > 6 + negated) {
        lodge_buf_append(target(r), from, 3 + negated);
        lodge_buf_puts(target(r), "sc:");
        lodge_buf_append(target(r), from + 3 + negated, n - 3 - negated);
    } else {
        lodge_buf_append(target(r), from, n);
    }
    r->at += n;
}

static void read_escape(struct reader *r)
{
    char c = peek(r, 1);
    if (peek(r, 2) == '{' && r->at + 3 < r->n && (c == 'p' || c == 'P' || c == 'x')) {
        put_braces(r);
        return;
    }
    if (c == 'u') {
        lodge_buf_puts(target(r), "\\x{");
        r->at += 2;
        copy(r, 4);
        lodge_buf_puts(target(r), "}");
        return;
    }
    if (!c || !strchr("sSwWvbBhHXRKgk", c)) {
        copy(r, 2);
        return;
    }
    if (strchr("sSwW", c))
        put_class(r, c);
    else if (c == 'v')
        lodge_buf_puts(target(r), "\\x{b}");
    else if (c == 'b' && r->in_class)
        lodge_buf_puts(&r->items, "\\x{8}");
    else if (c == 'b')
        lodge_buf_puts(&r->out, "(?:(?<=[" WORD "])(?![" WORD "])|(?<![" WORD "])(?=[" WORD "]))");
    else if (c == 'B' && !r->in_class)
        lodge_buf_puts(&r->out, "(?:(?<=[" WORD "])(?=[" WORD "])|(?<![" WORD "])(?![" WORD "]))");
    else
        r->refused = "an escape that is not the same everywhere";
    r->at += 2;
}

static void open_class(struct reader *r)
{
    r->at++;
    r->in_class = true;
    r->no_space = r->no_word = false;
    lodge_buf_clear(&r->items);
    r->negated = peek(r, 0) == '^';
    r->at += r->negated;
    if (peek(r, 0) == ']') /* first in a class it is a character */
        copy(r, 1);
}

/* A class of items and complements is their union, or what is in none of them. */
static void close_class(struct reader *r)
{
    const char *items = lodge_buf_text(&r->items);
    r->at++;
    r->in_class = false;
    if (!r->no_space && !r->no_word) {
        lodge_buf_printf(&r->out, "[%s%s]", r->negated ? "^" : "", items);
        return;
    }
    lodge_buf_puts(&r->out, "(?:");
    if (r->items.n)
        lodge_buf_printf(&r->out, r->negated ? "(?![%s])" : "[%s]|", items);
    if (r->negated)
        lodge_buf_printf(&r->out, "%s[%s]", r->no_space && r->no_word ? "(?=[" SPACE "])" : "",
                         r->no_word ? WORD : SPACE);
    else
        lodge_buf_printf(&r->out, "%s%s", r->no_space ? "[^" SPACE "]" : "[^" WORD "]",
                         r->no_space && r->no_word ? "|[^" WORD "]" : "");
    lodge_buf_puts(&r->out, ")");
}

static void read_in_class(struct reader *r)
{
    char c = peek(r, 0);
    if (c == ']')
        close_class(r);
    else if (c == '[' && peek(r, 1) == ':')
        r->refused = "a POSIX class";
    else if (c == '[')
        r->refused = "a class inside a class";
    else if (c == '&' && peek(r, 1) == '&')
        r->refused = "an intersection of classes";
    else
        copy(r, 1);
}

/* Options: `m` lets a point be a line's end; those that go on to the end of a group reach over
 * alternatives there. */
static void read_group(struct reader *r)
{
    size_t n = peek(r, 1) == '?' ? 2 : 0;
    if (peek(r, 1) == '*')
        r->refused = "a verb";
    while (n && peek(r, n) && strchr("imx-", peek(r, n)))
        n++;
    if (n && isalpha((unsigned char)peek(r, n)))
        r->refused = "an option other than i, m and x";
    if (n > 2 && peek(r, n) == ')' && r->at)
        r->refused = "an option in the middle";
    for (size_t i = 0; i < (n ? n : 1); i++, r->at++)
        lodge_buf_append(&r->out, peek(r, 0) == 'm' ? "s" : r->s + r->at, 1);
}

static void read_repetition(struct reader *r)
{
    if (peek(r, 0) == '}' && (peek(r, 1) == '+' || peek(r, 1) == '?'))
        r->refused = peek(r, 1) == '+' ? "'+' behind a counted repetition"
                                       : "'?' behind a counted repetition";
    bool no_least = peek(r, 0) == '{' && peek(r, 1) == ',' && isdigit((unsigned char)peek(r, 2));
    copy(r, 1);
    if (no_least)
        lodge_buf_puts(&r->out, "0");
}

static void translate(struct reader *r)
{
    while (r->at < r->n && !r->refused) {
        char c = r->s[r->at];
        if (c == '\\')
            read_escape(r);
        else if (r->in_class)
            read_in_class(r);
        else if (c == '[')
            open_class(r);
        else if (c == '(')
            read_group(r);
        else if (c == '{' || c == '}')
            read_repetition(r);
        else
            copy(r, 1);
    }
    if (r->in_class) /* for PCRE2 to say so */
        lodge_buf_puts(&r->out, "[");
}

int compile_regex(const char *pattern, size_t n, pcre2_code **out, struct lodge_error *e)
{
    struct reader r = {.s = pattern, .n = n};
    int code;
    PCRE2_SIZE at;
    lodge_buf_init(&r.out, n * 256 + 1024);
    lodge_buf_init(&r.items, n * 256 + 1024);
    translate(&r);
    bool failed = r.out.failed || r.items.failed;
    lodge_buf_finish(&r.items);
    if (r.refused || failed) {
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

size_t next_char(const char *s, size_t at, size_t n)
{
    at++;
    while (at < n && ((uint8_t)s[at] & 0xC0) == 0x80)
        at++;
    return at;
}
