/* Source to pieces: where text ends and a tag begins and ends, with their whitespace control, and
 * the tokens inside a tag. Before them what all parts of the parser need: how it fails, and nodes
 * from the template's arena. */
#include "engine/template/parser.h"

#include "engine/template/letters.h"

#include "base/utf8.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void parser_fail(struct parser *p, const char *fmt, ...)
{
    char text[400];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    p->fault.code = lodge_fail(p->fault.e, LODGE_ERR_FORMAT, "line %u: %s", p->line, text);
    longjmp(p->fault.jump, 1);
}

void *parser_alloc(struct parser *p, size_t n)
{
    void *m = lodge_arena_alloc(&p->t->arena, n ? n : 1);
    if (!m)
        parser_fail(p, "no memory for the template");
    return m;
}

struct node *parser_node(struct parser *p, enum node_kind kind)
{
    struct node *n = parser_alloc(p, sizeof *n);
    n->kind = kind;
    n->line = p->line;
    return n;
}

void parser_enter(struct parser *p)
{
    if (++p->depth > MAX_NESTING)
        parser_fail(p, "nested too deep");
}

void node_append(struct node ***tail, struct node *n)
{
    **tail = n;
    *tail = &n->next;
}

/* ---- tokens of a tag ---- */

const char *parser_copy(struct parser *p, const char *s, size_t n)
{
    char *c = lodge_arena_strndup(&p->t->arena, s, n);
    if (!c)
        parser_fail(p, "no memory for the template");
    return c;
}

/* A number of up to `most` digits; how many there are. */
static size_t digits_at(const struct parser *p, size_t most, int base, uint32_t *value)
{
    size_t n = 0;
    *value = 0;
    for (; n < most && p->at + n < p->tag_end; n++) {
        char c = p->s[p->at + n];
        uint32_t d = isdigit((unsigned char)c)    ? (uint32_t)(c - '0')
                     : isxdigit((unsigned char)c) ? (uint32_t)((c | 32) - 'a' + 10)
                                                  : 99;
        if (d >= (uint32_t)base)
            break;
        *value = *value * (uint32_t)base + d;
    }
    return n;
}

static size_t put_code_point(uint32_t cp, char *out)
{
    if ((cp >= 0xD800 && cp <= 0xDFFF) || cp > 0x10FFFF)
        cp = LODGE_UTF8_REPLACEMENT;
    return (size_t)lodge_utf8_encode(cp, (uint8_t *)out);
}

/* After a backslash; Python's escapes, of which \N{name} alone is refused. */
static size_t escape(struct parser *p, char *out)
{
    static const char from[] = "nrtbfav\\'\"", to[] = "\n\r\t\b\f\a\v\\'\"";
    uint32_t cp;
    size_t octal = digits_at(p, 3, 8, &cp);
    if (octal) {
        p->at += octal;
        return put_code_point(cp, out);
    }
    char c = p->s[p->at++];
    const char *known = memchr(from, c, sizeof from - 1);
    size_t digits = c == 'U' ? 8 : c == 'u' ? 4 : c == 'x' ? 2 : 0;
    if (known) {
        *out = to[known - from];
        return 1;
    }
    if (c == '\n') {
        p->line++;
        return 0;
    }
    if (c == 'N')
        parser_fail(p, "the escape '\\N' is not supported");
    if (digits) {
        if (digits_at(p, digits, 16, &cp) != digits)
            parser_fail(p, "broken \\%c escape", c);
        p->at += digits;
        return put_code_point(cp, out);
    }
    out[0] = '\\';
    out[1] = c;
    return 2;
}

static void read_string(struct parser *p, char quote)
{
    char *out = parser_alloc(p, (p->tag_end - p->at) * 2 + 8);
    size_t n = 0;
    while (p->at < p->tag_end && p->s[p->at] != quote) {
        p->line += p->s[p->at] == '\n';
        if (p->s[p->at] == '\\' && p->at + 1 < p->tag_end) {
            p->at++;
            n += escape(p, out + n);
        } else {
            out[n++] = p->s[p->at++];
        }
    }
    if (p->at >= p->tag_end)
        parser_fail(p, "a string does not end");
    p->at++;
    out[n] = 0;
    p->tok = T_STRING;
    p->word = out;
    p->word_n = n;
}

/* 0x1F, 0o17, 0b101: the base that a prefix gives, or 0. */
static int prefix_base(const struct parser *p)
{
    if (p->s[p->at] != '0' || p->at + 2 >= p->tag_end)
        return 0;
    char c = (char)(p->s[p->at + 1] | 32);
    return c == 'x' ? 16 : c == 'o' ? 8 : c == 'b' ? 2 : 0;
}

/* Digits, with a fraction unless they stand behind a dot (of an index), into text. */
static bool copy_number(struct parser *p, char *text, size_t size)
{
    size_t n = 0;
    bool real = false, index = p->at > 0 && p->s[p->at - 1] == '.', prefix = prefix_base(p) != 0;
    while (p->at < p->tag_end && n < size - 1) {
        char c = p->s[p->at];
        bool dot = !index && !real && c == '.' && p->at + 1 < p->tag_end &&
                   isdigit((unsigned char)p->s[p->at + 1]);
        bool exp = !prefix && (c == 'e' || c == 'E') && n;
        if (!isdigit((unsigned char)c) && c != '_' && !dot && !exp &&
            !(prefix && isalnum((unsigned char)c)) &&
            !((c == '-' || c == '+') && n && !prefix && (text[n - 1] | 0x20) == 'e'))
            break;
        real |= dot || exp;
        if (c != '_')
            text[n++] = c;
        p->at++;
    }
    text[n] = 0;
    return real;
}

static void read_number(struct parser *p)
{
    char text[64], *end;
    int base = prefix_base(p);
    bool real = copy_number(p, text, sizeof text);
    errno = 0;
    p->tok = real ? T_FLOAT : T_INT;
    p->real = real ? strtod(text, &end) : 0;
    p->integer = real ? 0 : strtoll(text + (base ? 2 : 0), &end, base ? base : 10);
    if (*end || errno == ERANGE)
        parser_fail(p, "broken number '%s'", text);
}

void parser_next(struct parser *p)
{
    while (p->at < p->tag_end && isspace((unsigned char)p->s[p->at]))
        p->line += p->s[p->at++] == '\n';
    p->tok = T_END;
    p->word = "";
    p->word_n = 0;
    if (p->at >= p->tag_end)
        return;
    char c = p->s[p->at];
    size_t from = p->at;
    if (isalpha((unsigned char)c) || c == '_') {
        while (p->at < p->tag_end && (isalnum((unsigned char)p->s[p->at]) || p->s[p->at] == '_'))
            p->at++;
        p->tok = T_NAME;
        p->word_n = p->at - from;
        p->word = parser_copy(p, p->s + from, p->word_n);
    } else if (isdigit((unsigned char)c)) {
        read_number(p);
    } else if (c == '\'' || c == '"') {
        p->at++;
        read_string(p, c);
    } else {
        static const char *const two[] = {"==", "!=", "<=", ">=", "//", "**"};
        p->at++;
        for (int i = 0; i < 6 && p->at < p->tag_end; i++)
            if (c == two[i][0] && p->s[p->at] == two[i][1]) {
                p->at++;
                break;
            }
        p->tok = T_PUNCT;
        p->word_n = p->at - from;
        p->word = parser_copy(p, p->s + from, p->word_n);
    }
}

bool parser_is(const struct parser *p, const char *word)
{
    return (p->tok == T_NAME || p->tok == T_PUNCT) && strcmp(p->word, word) == 0;
}

bool parser_accept(struct parser *p, const char *word)
{
    if (!parser_is(p, word))
        return false;
    parser_next(p);
    return true;
}

void parser_expect(struct parser *p, const char *word)
{
    if (!parser_accept(p, word))
        parser_fail(p, "expected '%s'%s%s%s", word, p->tok == T_END ? "" : ", found '", p->word,
                    p->tok == T_END ? "" : "'");
}

const char *parser_expect_name(struct parser *p)
{
    if (p->tok != T_NAME)
        parser_fail(p, "expected a name");
    const char *name = p->word;
    parser_next(p);
    return name;
}

/* ---- text and tags ---- */

size_t parser_find_tag(const struct parser *p, size_t at)
{
    for (; at + 1 < p->n; at++)
        if (p->s[at] == '{' && strchr("{%#", p->s[at + 1]) && p->s[at + 1])
            return at;
    return p->n;
}

/* End of the tag that opens with c: index of its closing pair; strings are skipped. */
static size_t find_close(struct parser *p, size_t at, char c)
{
    char close = c == '{' ? '}' : c;
    int braces = 0;
    for (size_t i = at; i + 1 < p->n; i++) {
        char ch = p->s[i];
        if (c != '#' && (ch == '\'' || ch == '"')) {
            size_t j = i + 1;
            while (j < p->n && p->s[j] != ch)
                j += p->s[j] == '\\' ? 2 : 1;
            i = j;
            continue;
        }
        if (ch == close && p->s[i + 1] == '}' && (c != '{' || braces == 0))
            return i;
        if (c == '{')
            braces += (ch == '{') - (ch == '}' && braces > 0);
    }
    parser_fail(p, "a tag '{%c' does not end", c);
}

void parser_count_lines(struct parser *p, size_t from, size_t to)
{
    for (size_t i = from; i < to; i++)
        p->line += p->s[i] == '\n';
}

static size_t skip_spaces(const struct parser *p, size_t from, size_t to)
{
    uint32_t cp;
    while (from < to) {
        size_t len = letter_at(p->s + from, to - from, &cp);
        if (!letter_is_space(cp))
            break;
        from += len;
    }
    return from;
}

/* Begin of the white space that ends at `to`; of one line's, where `line`. */
static size_t spaces_before(const struct parser *p, size_t from, size_t to, bool line)
{
    uint32_t cp;
    while (to > from) {
        size_t len = letter_before(p->s + from, to - from, &cp);
        if (!letter_is_space(cp) || (line && cp == '\n'))
            break;
        to -= len;
    }
    return to;
}

struct node *parser_text_before(struct parser *p, size_t tag)
{
    size_t from = p->at, to = tag;
    bool block = tag + 1 < p->n && p->s[tag + 1] != '{';
    char sign = tag + 2 < p->n ? p->s[tag + 2] : 0;
    if (p->trim_left)
        from = skip_spaces(p, from, to);
    else if (p->trim_newline && from < to && p->s[from] == '\n')
        from++;
    if (tag < p->n && sign == '-') {
        to = spaces_before(p, from, to, false);
    } else if (block && tag < p->n && sign != '+') { /* lstrip_blocks: blanks that begin the line */
        size_t begin = spaces_before(p, from, to, true);
        if (begin == 0 || p->s[begin - 1] == '\n')
            to = begin;
    }
    parser_count_lines(p, p->at, tag);
    p->at = tag;
    p->trim_left = p->trim_newline = false;
    if (from >= to)
        return NULL;
    struct node *n = parser_node(p, N_TEXT);
    n->constant = v_string(parser_copy(p, p->s + from, to - from), to - from);
    return n;
}

void parser_open_tag(struct parser *p)
{
    char c = p->s[p->at + 1];
    size_t inside = p->at + 2;
    if (inside < p->n && (p->s[inside] == '-' || p->s[inside] == '+'))
        inside++;
    size_t close = find_close(p, inside, c);
    char sign = close > inside ? p->s[close - 1] : 0;
    p->tag_end = sign == '-' || (sign == '+' && c == '%') ? close - 1 : close;
    p->at = inside;
    parser_next(p);
}

/* Behind a tag's inside: its closing signs. */
static void close_signs(struct parser *p, bool block)
{
    p->trim_left = p->s[p->at] == '-';
    p->trim_newline = block && p->s[p->at] != '-' && p->s[p->at] != '+';
    p->at += (p->s[p->at] == '-' || p->s[p->at] == '+') + 2u;
}

void parser_close_tag(struct parser *p, bool block)
{
    if (p->tok != T_END)
        parser_fail(p, "unexpected '%s' in a tag", p->word);
    p->at = p->tag_end;
    close_signs(p, block);
}

void parser_skip_comment(struct parser *p)
{
    size_t inside = p->at + 2, close = find_close(p, inside, '#');
    parser_count_lines(p, p->at, close);
    bool sign = close > inside && (p->s[close - 1] == '-' || p->s[close - 1] == '+');
    p->at = close - sign;
    close_signs(p, true);
}
