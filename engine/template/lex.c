/* Source to pieces: where text ends and a tag begins and ends, with their whitespace control, and
 * the tokens inside a tag. Before them what all parts of the parser need: how it fails, and nodes
 * from the template's arena. */
#include "engine/template/parser.h"

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

static size_t escape(struct parser *p, char *out)
{
    char c = p->s[p->at++];
    static const char from[] = "nrtbf\\'\"", to[] = "\n\r\t\b\f\\'\"";
    const char *known = memchr(from, c, sizeof from - 1);
    size_t digits = c == 'u' ? 4 : c == 'x' ? 2 : 0;
    if (known) {
        *out = to[known - from];
        return 1;
    }
    if (digits && p->at + digits <= p->tag_end) {
        char hex[5] = {0}, *end;
        memcpy(hex, p->s + p->at, digits);
        uint32_t cp = (uint32_t)strtoul(hex, &end, 16);
        if (*end)
            parser_fail(p, "broken \\%c escape", c);
        p->at += digits;
        if (cp >= 0xD800 && cp <= 0xDFFF)
            cp = LODGE_UTF8_REPLACEMENT;
        return (size_t)lodge_utf8_encode(cp, (uint8_t *)out);
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

static void read_number(struct parser *p)
{
    char text[64];
    size_t n = 0;
    bool real = false;
    while (p->at < p->tag_end && n < sizeof text - 1) {
        char c = p->s[p->at];
        bool dot = c == '.' && p->at + 1 < p->tag_end && isdigit((unsigned char)p->s[p->at + 1]);
        bool exp = (c == 'e' || c == 'E') && n;
        if (!isdigit((unsigned char)c) && c != '_' && !dot && !exp &&
            !((c == '-' || c == '+') && n && (text[n - 1] | 0x20) == 'e'))
            break;
        real |= dot || exp;
        if (c != '_')
            text[n++] = c;
        p->at++;
    }
    text[n] = 0;
    char *end;
    errno = 0;
    p->tok = real ? T_FLOAT : T_INT;
    p->real = real ? strtod(text, &end) : 0;
    p->integer = real ? 0 : strtoll(text, &end, 10);
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

struct node *parser_text_before(struct parser *p, size_t tag)
{
    size_t from = p->at, to = tag;
    bool block = tag + 1 < p->n && p->s[tag + 1] != '{';
    char sign = tag + 2 < p->n ? p->s[tag + 2] : 0;
    if (p->trim_left)
        while (from < to && isspace((unsigned char)p->s[from]))
            from++;
    else if (p->trim_newline && from < to && p->s[from] == '\n')
        from++;
    if (tag < p->n && sign == '-') {
        while (to > from && isspace((unsigned char)p->s[to - 1]))
            to--;
    } else if (block && tag < p->n && sign != '+') { /* lstrip_blocks: blanks that begin the line */
        size_t begin = to;
        while (begin > from && (p->s[begin - 1] == ' ' || p->s[begin - 1] == '\t'))
            begin--;
        bool line_start = begin > 0 ? p->s[begin - 1] == '\n' : true;
        if (begin == from && from > 0 && p->s[from - 1] != '\n')
            line_start = false;
        if (line_start)
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
    if (inside < p->n && (p->s[inside] == '-' || (p->s[inside] == '+' && c == '%')))
        inside++;
    size_t close = find_close(p, inside, c);
    p->tag_end = close > inside && p->s[close - 1] == '-' ? close - 1 : close;
    p->at = inside;
    parser_next(p);
}

void parser_close_tag(struct parser *p, bool block)
{
    if (p->tok != T_END)
        parser_fail(p, "unexpected '%s' in a tag", p->word);
    p->at = p->tag_end;
    if (p->s[p->at] == '-') {
        p->trim_left = true;
        p->at++;
    } else if (block) {
        p->trim_newline = true;
    }
    p->at += 2;
}

void parser_skip_comment(struct parser *p)
{
    size_t close = find_close(p, p->at + 2, '#');
    parser_count_lines(p, p->at, close);
    p->trim_left = close > p->at + 2 && p->s[close - 1] == '-';
    p->trim_newline = !p->trim_left;
    p->at = close + 2;
}
