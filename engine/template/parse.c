/* Source to tree: statements from their tags up to the tags that end them, the entry that parses a
 * whole template, and the questions asked of a parsed one. */
#include "engine/template/parser.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#define MAX_SOURCE ((size_t)4 << 20)

static struct node *statements(struct parser *p, const char *const *ends);
static struct node *body_until(struct parser *p, const char *end)
{
    const char *const ends[] = {end, NULL};
    return statements(p, ends);
}

/* name, name.member where `members`, or a tuple of targets with or without parentheses. */
static struct node *parse_target(struct parser *p, bool members);

static struct node *parse_one_target(struct parser *p, bool members)
{
    static const char *const reserved[] = {"true", "false", "none", "True", "False", "None",
                                           "not",  "and",   "or",   "in",   "is",    "if"};
    if (parser_accept(p, "(")) {
        uint32_t depth = p->depth;
        parser_enter(p);
        struct node *inner = parse_target(p, members);
        p->depth = depth;
        parser_expect(p, ")");
        return inner;
    }
    struct node *n = parser_node(p, N_NAME);
    for (size_t i = 0; i < sizeof reserved / sizeof *reserved; i++)
        if (parser_is(p, reserved[i]))
            parser_fail(p, "cannot assign to '%s'", p->word);
    n->name = parser_expect_name(p);
    if (!members || !parser_accept(p, "."))
        return n;
    struct node *attr = parser_node(p, N_ATTR);
    attr->a = n;
    attr->name = parser_expect_name(p);
    return attr;
}

static struct node *parse_target(struct parser *p, bool members)
{
    struct node *first = parse_one_target(p, members);
    if (!parser_is(p, ","))
        return first;
    struct node *n = parser_node(p, N_TUPLE), **tail = &n->list;
    node_append(&tail, first);
    while (parser_accept(p, ",") && !parser_is(p, "in") && !parser_is(p, "=") && !parser_is(p, ")"))
        node_append(&tail, parse_one_target(p, members));
    return n;
}

static struct node *parse_for(struct parser *p)
{
    static const char *const ends[] = {"else", "endfor", NULL};
    struct node *n = parser_node(p, N_FOR);
    n->list = parse_target(p, false);
    if (n->list->kind == N_NAME && strcmp(n->list->name, "loop") == 0)
        parser_fail(p, "'loop' cannot be the target of a loop");
    parser_expect(p, "in");
    n->a = parse_tuple_without_if(p);
    if (parser_accept(p, "if"))
        n->b = parse_expression(p);
    n->recursive = parser_accept(p, "recursive");
    parser_close_tag(p, true);
    p->loops++;
    n->body = statements(p, ends);
    p->loops--;
    if (parser_accept(p, "else")) {
        parser_close_tag(p, true);
        n->other = body_until(p, "endfor");
    }
    parser_expect(p, "endfor");
    return n;
}

static struct node *parse_if(struct parser *p)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    struct node *n = parser_node(p, N_IF);
    n->a = parse_tuple(p);
    parser_close_tag(p, true);
    p->conditions++;
    n->body = statements(p, ends);
    p->conditions--;
    if (parser_accept(p, "elif")) {
        uint32_t depth = p->depth;
        parser_enter(p);
        n->other = parse_if(p);
        p->depth = depth;
        return n;
    }
    if (parser_accept(p, "else")) {
        parser_close_tag(p, true);
        p->conditions++;
        n->other = body_until(p, "endif");
        p->conditions--;
    }
    parser_expect(p, "endif");
    return n;
}

static struct node *parse_set(struct parser *p)
{
    struct node *n = parser_node(p, N_SET);
    n->list = parse_target(p, true);
    if (parser_accept(p, "=")) {
        n->a = parse_tuple(p);
        return n;
    }
    n->kind = N_SET_BLOCK;
    struct node *inner = parser_node(p, N_CONST);
    n->a = inner;
    while (parser_accept(p, "|"))
        n->a = parse_filter(p, n->a);
    n->b = inner;
    parser_close_tag(p, true);
    n->body = body_until(p, "endset");
    parser_expect(p, "endset");
    return n;
}

/* name(a, b=1): parameters as N_SET nodes, `a` their default. */
static void parse_parameters(struct parser *p, struct node *n)
{
    struct node **tail = &n->list;
    parser_expect(p, "(");
    while (!parser_accept(p, ")")) {
        struct node *param = parser_node(p, N_SET);
        param->name = parser_expect_name(p);
        if (parser_accept(p, "="))
            param->a = parse_expression(p);
        node_append(&tail, param);
        if (!parser_is(p, ")"))
            parser_expect(p, ",");
    }
}

/* The body of a macro or call block, which is no part of a loop around it. */
static void parse_macro_body(struct parser *p, struct node *n, const char *end)
{
    uint32_t loops = p->loops;
    p->loops = 0;
    n->body = body_until(p, end);
    p->loops = loops;
    n->catches = (uint8_t)((node_mentions(n->body, "caller") ? CATCHES_CALLER : 0) |
                           (node_mentions(n->body, "varargs") ? CATCHES_VARARGS : 0) |
                           (node_mentions(n->body, "kwargs") ? CATCHES_KWARGS : 0));
    parser_expect(p, end);
}

static struct node *parse_macro(struct parser *p)
{
    struct node *n = parser_node(p, N_MACRO);
    n->name = parser_expect_name(p);
    parse_parameters(p, n);
    parser_close_tag(p, true);
    parse_macro_body(p, n, "endmacro");
    if (p->tok == T_NAME)
        parser_next(p);
    return n;
}

static struct node *parse_call_block(struct parser *p)
{
    struct node *n = parser_node(p, N_CALL_BLOCK);
    if (parser_is(p, "("))
        parse_parameters(p, n);
    n->a = parse_expression(p);
    if (n->a->kind != N_CALL)
        parser_fail(p, "'call' needs a call");
    parser_close_tag(p, true);
    parse_macro_body(p, n, "endcall");
    return n;
}

static struct node *parse_filter_block(struct parser *p)
{
    struct node *n = parser_node(p, N_FILTER_BLOCK);
    n->b = parser_node(p, N_CONST);
    n->a = parse_filter(p, n->b);
    while (parser_accept(p, "|"))
        n->a = parse_filter(p, n->a);
    parser_close_tag(p, true);
    n->body = body_until(p, "endfilter");
    parser_expect(p, "endfilter");
    return n;
}

static struct node *parse_with(struct parser *p)
{
    struct node *n = parser_node(p, N_WITH), **tail = &n->list;
    while (p->tok == T_NAME) {
        struct node *set = parser_node(p, N_SET);
        set->name = parser_expect_name(p);
        parser_expect(p, "=");
        set->a = parse_expression(p);
        node_append(&tail, set);
        if (!parser_accept(p, ","))
            break;
    }
    parser_close_tag(p, true);
    n->body = body_until(p, "endwith");
    parser_expect(p, "endwith");
    return n;
}

/* {% raw %} .. {% endraw %}: text as it is; the tags' own whitespace control holds. */
static struct node *parse_raw(struct parser *p)
{
    parser_close_tag(p, false);
    for (size_t at = parser_find_tag(p, p->at); at < p->n; at = parser_find_tag(p, at + 1)) {
        size_t i = at + 2;
        if (p->s[at + 1] != '%')
            continue;
        while (i < p->n && (isspace((unsigned char)p->s[i]) || p->s[i] == '-' || p->s[i] == '+'))
            i++;
        if (p->n - i < 6 || strncmp(p->s + i, "endraw", 6) != 0)
            continue;
        struct node *n = parser_text_before(p, at);
        if (!n) {
            n = parser_node(p, N_TEXT);
            n->constant = v_string("", 0);
        }
        parser_open_tag(p);
        parser_next(p);
        return n;
    }
    parser_fail(p, "'raw' without 'endraw'");
}

/* {% generation %}: marks what an assistant wrote, for training; transparent here. */
static struct node *parse_generation(struct parser *p)
{
    struct node *n = parser_node(p, N_WITH);
    parser_close_tag(p, true);
    n->body = body_until(p, "endgeneration");
    parser_expect(p, "endgeneration");
    return n;
}

static struct node *parse_break(struct parser *p)
{
    if (!p->loops)
        parser_fail(p, "'break' outside a loop");
    return parser_node(p, N_BREAK);
}

static struct node *parse_continue(struct parser *p)
{
    if (!p->loops)
        parser_fail(p, "'continue' outside a loop");
    return parser_node(p, N_CONTINUE);
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
        if (parser_is(p, all[i].word)) {
            parser_next(p);
            struct node *n = all[i].parse(p);
            parser_close_tag(p, true);
            return n;
        }
    static const char *const known[] = {"include", "import", "from",  "extends",
                                        "block",   "do",     "trans", "autoescape"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (parser_is(p, known[i]))
            parser_fail(p, "the statement '%s' is not supported in chat templates", p->word);
    parser_fail(p, "unknown statement '%s'", p->word);
}

static bool at_end(const struct parser *p, const char *const *ends)
{
    for (; ends && *ends; ends++)
        if (parser_is(p, *ends))
            return true;
    return false;
}

/* Statements up to one of the ending words, whose tag is left open at that word. */
static struct node *statements(struct parser *p, const char *const *ends)
{
    struct node *first = NULL, **tail = &first;
    uint32_t depth = p->depth;
    parser_enter(p);
    for (;;) {
        size_t tag = parser_find_tag(p, p->at);
        struct node *text = parser_text_before(p, tag);
        if (text)
            node_append(&tail, text);
        if (tag == p->n) {
            if (ends)
                parser_fail(p, "the template ends where '%s' is expected", *ends);
            break;
        }
        char c = p->s[tag + 1];
        if (c == '#') {
            parser_skip_comment(p);
            continue;
        }
        parser_open_tag(p);
        if (c == '{') {
            struct node *n = parser_node(p, N_OUTPUT);
            n->a = parse_tuple(p);
            parser_close_tag(p, false);
            node_append(&tail, n);
        } else if (at_end(p, ends)) {
            break;
        } else {
            node_append(&tail, statement(p));
        }
    }
    p->depth = depth;
    return first;
}

/* \r\n and \r become \n, as Jinja2 does; the source itself where there are none. */
static const char *plain_newlines(struct lodge_template *t, const char *source, size_t *n)
{
    char *copy = memchr(source, '\r', *n) ? lodge_arena_alloc(&t->arena, *n) : NULL;
    size_t out = 0;
    if (!copy)
        return source;
    for (size_t i = 0; i < *n; i++) {
        copy[out++] = source[i] == '\r' ? '\n' : source[i];
        i += source[i] == '\r' && i + 1 < *n && source[i + 1] == '\n';
    }
    *n = out;
    return copy;
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
    source = plain_newlines(t, source, &n);
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
