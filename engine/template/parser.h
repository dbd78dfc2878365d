/* What the parts of the parser share. Private to lex.c, parse_expression.c and parse.c.
 *
 * A parser walks the source once, tag by tag; inside a tag it holds one token. Everything it makes
 * lives in the template's arena. What reads tokens, descends or makes something may fail, by
 * longjmp to p->fault.jump with the error's code in p->fault.code. One thread per parser.
 */
#ifndef LODGE_ENGINE_TEMPLATE_PARSER_H
#define LODGE_ENGINE_TEMPLATE_PARSER_H

#include "engine/template/value.h"

#define MAX_NESTING 200u

enum tok { T_END, T_NAME, T_STRING, T_INT, T_FLOAT, T_PUNCT };

struct parser {
    struct fault fault;
    struct lodge_template *t;
    const char *s;
    size_t n, at;   /* source */
    size_t tag_end; /* end of the tag's inside */
    uint32_t line;
    uint32_t depth;
    uint32_t loops;      /* for statements around this place, in the same macro */
    uint32_t conditions; /* what may not be reached: names need not be known there */
    bool trim_left;      /* the text that follows loses its leading whitespace */
    bool trim_newline;
    /* Token. */
    enum tok tok;
    const char *word; /* NAME, PUNCT, STRING: zero-terminated copy */
    size_t word_n;
    int64_t integer;
    double real;
};

/* lex.c: failures and nodes */
void parser_fail(struct parser *p, const char *fmt, ...)
    __attribute__((format(printf, 2, 3), noreturn));
void *parser_alloc(struct parser *p, size_t n);
/* A zero-terminated copy. */
const char *parser_copy(struct parser *p, const char *s, size_t n);
struct node *parser_node(struct parser *p, enum node_kind kind);
/* Adds n behind a list's last node; *tail is where the next one goes. */
void node_append(struct node ***tail, struct node *n);
/* One level deeper, which fails past MAX_NESTING; the construct's end restores p->depth. */
void parser_enter(struct parser *p);

/* lex.c: tokens of a tag. Reads the next one; T_END at the tag's end. */
void parser_next(struct parser *p);
/* Is the token this name or punctuation? accept: if so, goes on; expect: or fails. */
bool parser_is(const struct parser *p, const char *word);
bool parser_accept(struct parser *p, const char *word);
void parser_expect(struct parser *p, const char *word);
const char *parser_expect_name(struct parser *p);

/* lex.c: text and tags. The next "{{", "{%" or "{#" at or after `at`; p->n when there is none. */
size_t parser_find_tag(const struct parser *p, size_t at);
void parser_count_lines(struct parser *p, size_t from, size_t to);
/* Text up to the tag at `tag` with whitespace control of both sides; NULL when nothing is left. */
struct node *parser_text_before(struct parser *p, size_t tag);
/* Enters the tag at p->at: its first token is read. */
void parser_open_tag(struct parser *p);
/* Leaves the tag; what follows it depends on its closing signs. */
void parser_close_tag(struct parser *p, bool block);
void parser_skip_comment(struct parser *p);

/* parse_expression.c. An expression without a trailing `if` is an or-expression. */
struct node *parse_expression(struct parser *p);
struct node *parse_or_expression(struct parser *p);
/* expression [, expression]*: more than one make a tuple. */
struct node *parse_tuple(struct parser *p);
/* The same of or-expressions: what a for statement goes over. */
struct node *parse_tuple_without_if(struct parser *p);
/* After "|": a filter's name and arguments, applied to `of`. */
struct node *parse_filter(struct parser *p, struct node *of);

/* questions.c. Does a name or string literal of these nodes, or below them, hold this word? */
bool node_mentions(const struct node *n, const char *word);

#endif
