/* Source to tree: first the tags with their whitespace control, then expressions by recursive
 * descent in Jinja's precedence. */
#include "engine/template/value.h"

#include "base/utf8.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_NESTING 200u
#define MAX_SOURCE ((size_t)4 << 20)

enum tok { T_END, T_NAME, T_STRING, T_INT, T_FLOAT, T_PUNCT };

struct parser {
    struct fault fault;
    struct lodge_template *t;
    const char *s;
    size_t n, at;   /* source */
    size_t tag_end; /* end of the tag's inside */
    uint32_t line;
    uint32_t depth;
    bool trim_left; /* the text that follows loses its leading whitespace */
    bool trim_newline;
    /* Token. */
    enum tok tok;
    const char *word; /* NAME, PUNCT, STRING: zero-terminated copy */
    size_t word_n;
    int64_t integer;
    double real;
};

static void bad(struct parser *p, const char *fmt, ...)
    __attribute__((format(printf, 2, 3), noreturn));
static void bad(struct parser *p, const char *fmt, ...)
{
    char text[400];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    p->fault.code = lodge_fail(p->fault.e, LODGE_ERR_FORMAT, "line %u: %s", p->line, text);
    longjmp(p->fault.jump, 1);
}

static void *get(struct parser *p, size_t n)
{
    void *m = lodge_arena_alloc(&p->t->arena, n ? n : 1);
    if (!m)
        bad(p, "no memory for the template");
    return m;
}

static struct node *new_node(struct parser *p, enum node_kind kind)
{
    struct node *n = get(p, sizeof *n);
    n->kind = kind;
    n->line = p->line;
    return n;
}

static void enter(struct parser *p)
{
    if (++p->depth > MAX_NESTING)
        bad(p, "nested too deep");
}

/* ---- tokens of a tag ---- */

static const char *copy(struct parser *p, const char *s, size_t n)
{
    char *c = lodge_arena_strndup(&p->t->arena, s, n);
    if (!c)
        bad(p, "no memory for the template");
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
            bad(p, "broken \\%c escape", c);
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
    char *out = get(p, (p->tag_end - p->at) * 2 + 8);
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
        bad(p, "a string does not end");
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
        bad(p, "broken number '%s'", text);
}

static void next(struct parser *p)
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
        p->word = copy(p, p->s + from, p->word_n);
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
        p->word = copy(p, p->s + from, p->word_n);
    }
}

static bool is(const struct parser *p, const char *word)
{
    return (p->tok == T_NAME || p->tok == T_PUNCT) && strcmp(p->word, word) == 0;
}

static bool accept(struct parser *p, const char *word)
{
    if (!is(p, word))
        return false;
    next(p);
    return true;
}

static void expect(struct parser *p, const char *word)
{
    if (!accept(p, word))
        bad(p, "expected '%s'%s%s%s", word, p->tok == T_END ? "" : ", found '", p->word,
            p->tok == T_END ? "" : "'");
}

static const char *expect_name(struct parser *p)
{
    if (p->tok != T_NAME)
        bad(p, "expected a name");
    const char *name = p->word;
    next(p);
    return name;
}

/* ---- expressions ---- */

static struct node *expression(struct parser *p);
static struct node *or_expression(struct parser *p);
static struct node *unary(struct parser *p, bool filters);

static void append(struct node ***tail, struct node *n)
{
    **tail = n;
    *tail = &n->next;
}

static struct node *constant(struct parser *p, struct value v)
{
    struct node *n = new_node(p, N_CONST);
    n->constant = v;
    return n;
}

/* Arguments after "(": positional ones, and N_SET nodes for keywords. */
static struct node *arguments(struct parser *p)
{
    struct node *first = NULL, **tail = &first;
    while (!accept(p, ")")) {
        struct node *arg = expression(p);
        if (arg->kind == N_NAME && is(p, "=")) {
            next(p);
            struct node *named = new_node(p, N_SET);
            named->name = arg->name;
            named->a = expression(p);
            arg = named;
        }
        /* A node may be shared by no other list. */
        append(&tail, arg);
        if (!is(p, ")"))
            expect(p, ",");
    }
    return first;
}

static struct node *list_until(struct parser *p, enum node_kind kind, const char *end)
{
    struct node *n = new_node(p, kind), **tail = &n->list;
    while (!accept(p, end)) {
        append(&tail, expression(p));
        if (!is(p, end))
            expect(p, ",");
    }
    return n;
}

static struct node *dict_literal(struct parser *p)
{
    struct node *n = new_node(p, N_DICT), **tail = &n->list;
    while (!accept(p, "}")) {
        append(&tail, expression(p));
        expect(p, ":");
        append(&tail, expression(p));
        if (!is(p, "}"))
            expect(p, ",");
    }
    return n;
}

static struct node *parenthesis(struct parser *p)
{
    struct node *first = is(p, ")") ? NULL : expression(p);
    if (first && accept(p, ")"))
        return first;
    struct node *n = new_node(p, N_TUPLE), **tail = &n->list;
    if (first)
        append(&tail, first);
    while (!accept(p, ")")) {
        expect(p, ",");
        if (!is(p, ")"))
            append(&tail, expression(p));
    }
    return n;
}

static struct node *string_literal(struct parser *p)
{
    struct value v = v_string(p->word, p->word_n);
    next(p);
    while (p->tok == T_STRING) { /* adjacent literals join */
        char *joined = get(p, v.s.n + p->word_n + 1);
        memcpy(joined, v.s.p, v.s.n);
        memcpy(joined + v.s.n, p->word, p->word_n);
        v = v_string(joined, v.s.n + p->word_n);
        next(p);
    }
    return constant(p, v);
}

static struct node *primary(struct parser *p)
{
    if (p->tok == T_STRING)
        return string_literal(p);
    if (p->tok == T_INT || p->tok == T_FLOAT) {
        struct value v = p->tok == T_INT ? v_int(p->integer) : v_float(p->real);
        next(p);
        return constant(p, v);
    }
    if (accept(p, "("))
        return parenthesis(p);
    if (accept(p, "["))
        return list_until(p, N_LIST, "]");
    if (accept(p, "{"))
        return dict_literal(p);
    if (p->tok != T_NAME)
        bad(p, "expected an expression%s%s%s", p->tok == T_END ? "" : ", found '", p->word,
            p->tok == T_END ? "" : "'");
    const char *name = expect_name(p);
    if (strcmp(name, "true") == 0 || strcmp(name, "True") == 0)
        return constant(p, v_bool(true));
    if (strcmp(name, "false") == 0 || strcmp(name, "False") == 0)
        return constant(p, v_bool(false));
    if (strcmp(name, "none") == 0 || strcmp(name, "None") == 0)
        return constant(p, v_none());
    struct node *n = new_node(p, N_NAME);
    n->name = name;
    return n;
}

/* After "[": an index, or a slice with up to three parts (a, b, c). */
static struct node *subscript(struct parser *p, struct node *of)
{
    struct node *n = new_node(p, N_INDEX), *parts[3] = {NULL};
    n->body = of;
    int i = 0;
    if (!is(p, ":"))
        parts[0] = expression(p);
    while (i < 2 && accept(p, ":")) {
        n->kind = N_SLICE;
        i++;
        if (!is(p, ":") && !is(p, "]"))
            parts[i] = expression(p);
    }
    if (n->kind == N_INDEX && is(p, ",")) /* a tuple as key is never used */
        bad(p, "a list of subscripts is not supported");
    expect(p, "]");
    n->a = parts[0];
    n->b = parts[1];
    n->c = parts[2];
    return n;
}

static struct node *postfix(struct parser *p, struct node *n)
{
    for (;;) {
        struct node *outer;
        if (accept(p, ".")) {
            outer = new_node(p, p->tok == T_INT ? N_INDEX : N_ATTR);
            if (p->tok == T_INT) {
                outer->a = constant(p, v_int(p->integer));
                outer->body = n;
                next(p);
            } else {
                outer->name = expect_name(p);
                outer->a = n;
            }
        } else if (accept(p, "[")) {
            outer = subscript(p, n);
        } else if (accept(p, "(")) {
            outer = new_node(p, N_CALL);
            outer->a = n;
            outer->list = arguments(p);
        } else {
            return n;
        }
        n = outer;
        enter(p); /* a chain of thousands would recurse as deep when evaluated */
    }
}

static struct node *filter(struct parser *p, struct node *of)
{
    struct node *n = new_node(p, N_FILTER);
    n->a = of;
    n->name = expect_name(p);
    if (accept(p, "("))
        n->list = arguments(p);
    return n;
}

/* After "is": [not] name [argument]. */
static struct node *test(struct parser *p, struct node *of)
{
    bool negated = accept(p, "not");
    struct node *n = new_node(p, N_TEST);
    n->a = of;
    n->name = expect_name(p);
    if (accept(p, "("))
        n->list = arguments(p);
    else if (p->tok == T_STRING || p->tok == T_INT || p->tok == T_FLOAT || is(p, "[") ||
             is(p, "{") ||
             (p->tok == T_NAME && !is(p, "else") && !is(p, "or") && !is(p, "and") && !is(p, "is") &&
              !is(p, "if") && !is(p, "in") && !is(p, "not") && !is(p, "recursive")))
        n->list = postfix(p, primary(p));
    if (!negated)
        return n;
    struct node *not = new_node(p, N_NOT);
    not ->a = n;
    return not ;
}

static struct node *unary(struct parser *p, bool filters)
{
    uint32_t depth = p->depth;
    enter(p);
    struct node *n;
    if (is(p, "-") || is(p, "+")) {
        n = new_node(p, is(p, "-") ? N_NEG : N_POS);
        next(p);
        n->a = unary(p, false);
    } else {
        n = primary(p);
    }
    n = postfix(p, n);
    while (filters) {
        if (accept(p, "|"))
            n = filter(p, n);
        else if (accept(p, "is"))
            n = test(p, n);
        else if (is(p, "("))
            n = postfix(p, n);
        else
            break;
        enter(p);
    }
    p->depth = depth;
    return n;
}

/* Binary levels from the tightest: power, product, concatenation, sum. */
static const struct {
    const char *word;
    enum op op;
} levels[4][4] = {
    {{"**", OP_POW}},
    {{"*", OP_MUL}, {"/", OP_DIV}, {"//", OP_FLOORDIV}, {"%", OP_MOD}},
    {{"~", OP_CONCAT}},
    {{"+", OP_ADD}, {"-", OP_SUB}},
};

static struct node *binary(struct parser *p, int level)
{
    struct node *left = level ? binary(p, level - 1) : unary(p, true);
    uint32_t depth = p->depth;
    for (;;) {
        int i = 0;
        while (i < 4 && levels[level][i].word && !is(p, levels[level][i].word))
            i++;
        if (i == 4 || !levels[level][i].word)
            break;
        enter(p);
        next(p);
        struct node *n = new_node(p, N_BINARY);
        n->op = levels[level][i].op;
        n->a = left;
        n->b = level ? binary(p, level - 1) : unary(p, true);
        left = n;
    }
    p->depth = depth;
    return left;
}

static bool compare_op(struct parser *p, enum op *op)
{
    static const struct {
        const char *word;
        enum op op;
    } ops[] = {{"==", OP_EQ}, {"!=", OP_NE}, {"<=", OP_LE}, {">=", OP_GE},
               {"<", OP_LT},  {">", OP_GT},  {"in", OP_IN}};
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++)
        if (accept(p, ops[i].word)) {
            *op = ops[i].op;
            return true;
        }
    if (!is(p, "not"))
        return false;
    size_t at = p->at;
    next(p);
    if (accept(p, "in")) {
        *op = OP_NOT_IN;
        return true;
    }
    p->at = at; /* `not` of something else */
    p->tok = T_NAME;
    p->word = "not";
    return false;
}

/* a < b < c: a chain; list holds (op, operand) pairs. */
static struct node *comparison(struct parser *p)
{
    struct node *first = binary(p, 3);
    struct node *n = NULL, **tail = NULL;
    enum op op;
    while (compare_op(p, &op)) {
        if (!n) {
            n = new_node(p, N_COMPARE);
            n->a = first;
            tail = &n->list;
        }
        struct node *step_node = new_node(p, N_COMPARE);
        step_node->op = op;
        step_node->a = binary(p, 3);
        append(&tail, step_node);
    }
    return n ? n : first;
}

static struct node *not_expression(struct parser *p)
{
    if (!accept(p, "not"))
        return comparison(p);
    uint32_t depth = p->depth;
    enter(p);
    struct node *n = new_node(p, N_NOT);
    n->a = not_expression(p);
    p->depth = depth;
    return n;
}

static struct node *and_expression(struct parser *p)
{
    struct node *left = not_expression(p);
    uint32_t depth = p->depth;
    while (accept(p, "and")) {
        enter(p);
        struct node *n = new_node(p, N_AND);
        n->a = left;
        n->b = not_expression(p);
        left = n;
    }
    p->depth = depth;
    return left;
}

static struct node *or_expression(struct parser *p)
{
    struct node *left = and_expression(p);
    uint32_t depth = p->depth;
    while (accept(p, "or")) {
        enter(p);
        struct node *n = new_node(p, N_OR);
        n->a = left;
        n->b = and_expression(p);
        left = n;
    }
    p->depth = depth;
    return left;
}

static struct node *expression(struct parser *p)
{
    uint32_t depth = p->depth;
    enter(p);
    struct node *n = or_expression(p);
    while (accept(p, "if")) {
        struct node *cond = new_node(p, N_COND);
        cond->b = n;
        cond->a = or_expression(p);
        cond->c = accept(p, "else") ? expression(p) : NULL;
        n = cond;
    }
    p->depth = depth;
    return n;
}

/* expression [, expression]*: more than one make a tuple. */
static struct node *tuple_expression(struct parser *p)
{
    struct node *first = expression(p);
    if (!is(p, ","))
        return first;
    struct node *n = new_node(p, N_TUPLE), **tail = &n->list;
    append(&tail, first);
    while (accept(p, ",") && p->tok != T_END && !is(p, "in"))
        append(&tail, expression(p));
    return n;
}

/* ---- text and tags ---- */

/* The next "{{", "{%" or "{#" at or after `at`; n when there is none. */
static size_t find_tag(const struct parser *p, size_t at)
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
    bad(p, "a tag '{%c' does not end", c);
}

static void count_lines(struct parser *p, size_t from, size_t to)
{
    for (size_t i = from; i < to; i++)
        p->line += p->s[i] == '\n';
}

/* Text up to the tag at `tag` with whitespace control of both sides; NULL when nothing is left. */
static struct node *text_before(struct parser *p, size_t tag)
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
    count_lines(p, p->at, tag);
    p->at = tag;
    p->trim_left = p->trim_newline = false;
    if (from >= to)
        return NULL;
    struct node *n = new_node(p, N_TEXT);
    n->constant = v_string(copy(p, p->s + from, to - from), to - from);
    return n;
}

/* Enters the tag at p->at: its first token is read. */
static void open_tag(struct parser *p)
{
    char c = p->s[p->at + 1];
    size_t inside = p->at + 2;
    if (inside < p->n && (p->s[inside] == '-' || (p->s[inside] == '+' && c == '%')))
        inside++;
    size_t close = find_close(p, inside, c);
    p->tag_end = close > inside && p->s[close - 1] == '-' ? close - 1 : close;
    p->at = inside;
    next(p);
}

/* Leaves the tag; what follows it depends on its closing signs. */
static void close_tag(struct parser *p, bool block)
{
    if (p->tok != T_END)
        bad(p, "unexpected '%s' in a tag", p->word);
    p->at = p->tag_end;
    if (p->s[p->at] == '-') {
        p->trim_left = true;
        p->at++;
    } else if (block) {
        p->trim_newline = true;
    }
    p->at += 2;
}

static void skip_comment(struct parser *p)
{
    size_t close = find_close(p, p->at + 2, '#');
    count_lines(p, p->at, close);
    p->trim_left = close > p->at + 2 && p->s[close - 1] == '-';
    p->trim_newline = !p->trim_left;
    p->at = close + 2;
}

static struct node *statements(struct parser *p, const char *const *ends);

static struct node *body_until(struct parser *p, const char *end)
{
    const char *const ends[] = {end, NULL};
    return statements(p, ends);
}

static struct node *parse_for(struct parser *p)
{
    static const char *const ends[] = {"else", "endfor", NULL};
    struct node *n = new_node(p, N_FOR), **tail = &n->list;
    do {
        struct node *target = new_node(p, N_NAME);
        bool group = accept(p, "(");
        target->name = expect_name(p);
        append(&tail, target);
        while (group && accept(p, ",")) {
            target = new_node(p, N_NAME);
            target->name = expect_name(p);
            append(&tail, target);
        }
        if (group)
            expect(p, ")");
    } while (accept(p, ","));
    expect(p, "in");
    n->a = or_expression(p);
    if (accept(p, "if"))
        n->b = expression(p);
    if (is(p, "recursive"))
        bad(p, "recursive loops are not supported");
    close_tag(p, true);
    n->body = statements(p, ends);
    if (accept(p, "else")) {
        close_tag(p, true);
        n->other = body_until(p, "endfor");
    }
    expect(p, "endfor");
    return n;
}

static struct node *parse_if(struct parser *p)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    struct node *n = new_node(p, N_IF);
    n->a = tuple_expression(p);
    close_tag(p, true);
    n->body = statements(p, ends);
    if (accept(p, "elif")) {
        uint32_t depth = p->depth;
        enter(p);
        n->other = parse_if(p);
        p->depth = depth;
        return n;
    }
    if (accept(p, "else")) {
        close_tag(p, true);
        n->other = body_until(p, "endif");
    }
    expect(p, "endif");
    return n;
}

static struct node *parse_set(struct parser *p)
{
    struct node *n = new_node(p, N_SET), **tail = &n->list;
    do {
        struct node *target = new_node(p, N_NAME);
        target->name = expect_name(p);
        if (accept(p, ".")) {
            struct node *attr = new_node(p, N_ATTR);
            attr->a = target;
            attr->name = expect_name(p);
            target = attr;
        }
        append(&tail, target);
    } while (accept(p, ","));
    if (accept(p, "=")) {
        n->a = tuple_expression(p);
        return n;
    }
    n->kind = N_SET_BLOCK;
    struct node *inner = new_node(p, N_CONST);
    n->a = inner;
    while (accept(p, "|"))
        n->a = filter(p, n->a);
    n->b = inner;
    close_tag(p, true);
    n->body = body_until(p, "endset");
    expect(p, "endset");
    return n;
}

/* name(a, b=1): parameters as N_SET nodes, `a` their default. */
static void parse_parameters(struct parser *p, struct node *n)
{
    struct node **tail = &n->list;
    expect(p, "(");
    while (!accept(p, ")")) {
        struct node *param = new_node(p, N_SET);
        param->name = expect_name(p);
        if (accept(p, "="))
            param->a = expression(p);
        append(&tail, param);
        if (!is(p, ")"))
            expect(p, ",");
    }
}

static struct node *parse_macro(struct parser *p)
{
    struct node *n = new_node(p, N_MACRO);
    n->name = expect_name(p);
    parse_parameters(p, n);
    close_tag(p, true);
    n->body = body_until(p, "endmacro");
    expect(p, "endmacro");
    if (p->tok == T_NAME)
        next(p);
    return n;
}

static struct node *parse_call_block(struct parser *p)
{
    struct node *n = new_node(p, N_CALL_BLOCK);
    if (is(p, "("))
        parse_parameters(p, n);
    n->a = expression(p);
    if (n->a->kind != N_CALL)
        bad(p, "'call' needs a call");
    close_tag(p, true);
    n->body = body_until(p, "endcall");
    expect(p, "endcall");
    return n;
}

static struct node *parse_filter_block(struct parser *p)
{
    struct node *n = new_node(p, N_FILTER_BLOCK);
    n->b = new_node(p, N_CONST);
    n->a = filter(p, n->b);
    while (accept(p, "|"))
        n->a = filter(p, n->a);
    close_tag(p, true);
    n->body = body_until(p, "endfilter");
    expect(p, "endfilter");
    return n;
}

static struct node *parse_with(struct parser *p)
{
    struct node *n = new_node(p, N_WITH), **tail = &n->list;
    while (p->tok == T_NAME) {
        struct node *set = new_node(p, N_SET);
        set->name = expect_name(p);
        expect(p, "=");
        set->a = expression(p);
        append(&tail, set);
        if (!accept(p, ","))
            break;
    }
    close_tag(p, true);
    n->body = body_until(p, "endwith");
    expect(p, "endwith");
    return n;
}

/* {% raw %} .. {% endraw %}: text as it is. */
static struct node *parse_raw(struct parser *p)
{
    close_tag(p, false);
    p->trim_left = false;
    size_t from = p->at;
    for (size_t at = find_tag(p, from); at < p->n; at = find_tag(p, at + 1)) {
        size_t i = at + 2;
        if (p->s[at + 1] != '%')
            continue;
        while (i < p->n && (isspace((unsigned char)p->s[i]) || p->s[i] == '-' || p->s[i] == '+'))
            i++;
        if (p->n - i < 6 || strncmp(p->s + i, "endraw", 6) != 0)
            continue;
        struct node *n = new_node(p, N_TEXT);
        n->constant = v_string(copy(p, p->s + from, at - from), at - from);
        count_lines(p, from, at);
        p->at = at;
        open_tag(p);
        next(p);
        return n;
    }
    bad(p, "'raw' without 'endraw'");
}

/* {% generation %}: marks what an assistant wrote, for training; transparent here. */
static struct node *parse_generation(struct parser *p)
{
    struct node *n = new_node(p, N_WITH);
    close_tag(p, true);
    n->body = body_until(p, "endgeneration");
    expect(p, "endgeneration");
    return n;
}

static struct node *parse_break(struct parser *p)
{
    return new_node(p, N_BREAK);
}

static struct node *parse_continue(struct parser *p)
{
    return new_node(p, N_CONTINUE);
}

static struct node *statement(struct parser *p)
{
    static const struct {
        const char *word;
        struct node *(*parse)(struct parser *);
    } all[] = {{"for", parse_for},
               {"if", parse_if},
               {"set", parse_set},
               {"macro", parse_macro},
               {"call", parse_call_block},
               {"filter", parse_filter_block},
               {"with", parse_with},
               {"raw", parse_raw},
               {"generation", parse_generation},
               {"break", parse_break},
               {"continue", parse_continue}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (is(p, all[i].word)) {
            next(p);
            struct node *n = all[i].parse(p);
            close_tag(p, true);
            return n;
        }
    bad(p, "unknown statement '%s'", p->word);
}

static bool at_end(const struct parser *p, const char *const *ends)
{
    for (; ends && *ends; ends++)
        if (is(p, *ends))
            return true;
    return false;
}

/* Statements up to one of the ending words, whose tag is left open at that word. */
static struct node *statements(struct parser *p, const char *const *ends)
{
    struct node *first = NULL, **tail = &first;
    uint32_t depth = p->depth;
    enter(p);
    for (;;) {
        size_t tag = find_tag(p, p->at);
        struct node *text = text_before(p, tag);
        if (text)
            append(&tail, text);
        if (tag == p->n) {
            if (ends)
                bad(p, "the template ends where '%s' is expected", *ends);
            break;
        }
        char c = p->s[tag + 1];
        if (c == '#') {
            skip_comment(p);
            continue;
        }
        open_tag(p);
        if (c == '{') {
            struct node *n = new_node(p, N_OUTPUT);
            n->a = tuple_expression(p);
            close_tag(p, false);
            append(&tail, n);
        } else if (at_end(p, ends)) {
            break;
        } else {
            append(&tail, statement(p));
        }
    }
    p->depth = depth;
    return first;
}

int lodge_template_parse(const char *source, size_t n, struct lodge_template **out,
                         struct lodge_error *e)
{
    if (n > MAX_SOURCE)
        return lodge_fail(e, LODGE_ERR_LIMIT, "the template has %zu bytes, more than %zu", n,
                          MAX_SOURCE);
    struct lodge_template *t = calloc(1, sizeof *t);
    struct parser *p = calloc(1, sizeof *p);
    if (!t || !p) {
        free(t);
        free(p);
        return lodge_fail(e, LODGE_ERR_NOMEM, "no memory for the template");
    }
    lodge_arena_init(&t->arena, (size_t)512 << 20);
    if (n && source[n - 1] == '\n') /* one trailing newline is dropped */
        n--;
    *p = (struct parser){.t = t, .s = source, .n = n, .line = 1, .fault.e = e};
    int code = 0;
    if (setjmp(p->fault.jump) == 0)
        t->root = statements(p, NULL);
    else
        code = p->fault.code;
    free(p);
    if (code) {
        lodge_template_destroy(t);
        return code;
    }
    *out = t;
    return 0;
}

void lodge_template_destroy(struct lodge_template *t)
{
    if (!t)
        return;
    lodge_arena_finish(&t->arena);
    free(t);
}

/* ---- words ---- */

static bool mentions(const struct node *n, const char *word, uint32_t depth)
{
    for (; n && depth < 4 * MAX_NESTING; n = n->next) {
        const struct value *v = &n->constant;
        if ((n->name && strcmp(n->name, word) == 0) ||
            ((n->kind == N_CONST || n->kind == N_TEXT) && v->type == V_STRING && v->s.p &&
             strstr(v->s.p, word)))
            return true;
        if (mentions(n->a, word, depth + 1) || mentions(n->b, word, depth + 1) ||
            mentions(n->c, word, depth + 1) || mentions(n->list, word, depth + 1) ||
            mentions(n->body, word, depth + 1) || mentions(n->other, word, depth + 1))
            return true;
    }
    return false;
}

bool lodge_template_mentions(const struct lodge_template *t, const char *word)
{
    return mentions(t->root, word, 0);
}
