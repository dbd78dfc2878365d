/* Tokens of a tag to the tree of an expression, by recursive descent in Jinja's precedence. */
#include "engine/template/parser.h"

#include <string.h>

static struct node *unary(struct parser *p, bool filters);

static struct node *constant(struct parser *p, struct value v)
{
    struct node *n = parser_node(p, N_CONST);
    n->constant = v;
    return n;
}

/* Arguments after "(": positional ones, and N_SET nodes for keywords. */
static struct node *arguments(struct parser *p)
{
    struct node *first = NULL, **tail = &first;
    while (!parser_accept(p, ")")) {
        if (parser_is(p, "*") || parser_is(p, "**")) {
            struct node *rest = parser_node(p, N_SPREAD);
            rest->name = parser_is(p, "**") ? "**" : NULL;
            parser_next(p);
            rest->a = parse_expression(p);
            node_append(&tail, rest);
            if (!parser_is(p, ")"))
                parser_expect(p, ",");
            continue;
        }
        struct node *arg = parse_expression(p);
        if (arg->kind == N_NAME && parser_is(p, "=")) {
            parser_next(p);
            struct node *named = parser_node(p, N_SET);
            named->name = arg->name;
            named->a = parse_expression(p);
            arg = named;
        }
        /* A node may be shared by no other list. */
        node_append(&tail, arg);
        if (!parser_is(p, ")"))
            parser_expect(p, ",");
    }
    return first;
}

static struct node *list_until(struct parser *p, enum node_kind kind, const char *end)
{
    struct node *n = parser_node(p, kind), **tail = &n->list;
    while (!parser_accept(p, end)) {
        node_append(&tail, parse_expression(p));
        if (!parser_is(p, end))
            parser_expect(p, ",");
    }
    return n;
}

static struct node *dict_literal(struct parser *p)
{
    struct node *n = parser_node(p, N_DICT), **tail = &n->list;
    while (!parser_accept(p, "}")) {
        node_append(&tail, parse_expression(p));
        parser_expect(p, ":");
        node_append(&tail, parse_expression(p));
        if (!parser_is(p, "}"))
            parser_expect(p, ",");
    }
    return n;
}

static struct node *parenthesis(struct parser *p)
{
    struct node *first = parser_is(p, ")") ? NULL : parse_expression(p);
    if (first && parser_accept(p, ")"))
        return first;
    struct node *n = parser_node(p, N_TUPLE), **tail = &n->list;
    if (first)
        node_append(&tail, first);
    while (!parser_accept(p, ")")) {
        parser_expect(p, ",");
        if (!parser_is(p, ")"))
            node_append(&tail, parse_expression(p));
    }
    return n;
}

static struct node *string_literal(struct parser *p)
{
    struct value v = v_string(p->word, p->word_n);
    parser_next(p);
    while (p->tok == T_STRING) { /* adjacent literals join */
        char *joined = parser_alloc(p, v.s.n + p->word_n + 1);
        memcpy(joined, v.s.p, v.s.n);
        memcpy(joined + v.s.n, p->word, p->word_n);
        v = v_string(joined, v.s.n + p->word_n);
        parser_next(p);
    }
    return constant(p, v);
}

static struct node *primary(struct parser *p)
{
    if (p->tok == T_STRING)
        return string_literal(p);
    if (p->tok == T_INT || p->tok == T_FLOAT) {
        struct value v = p->tok == T_INT ? v_int(p->integer) : v_float(p->real);
        parser_next(p);
        return constant(p, v);
    }
    if (parser_accept(p, "("))
        return parenthesis(p);
    if (parser_accept(p, "["))
        return list_until(p, N_LIST, "]");
    if (parser_accept(p, "{"))
        return dict_literal(p);
    if (p->tok != T_NAME)
        parser_fail(p, "expected an expression%s%s%s", p->tok == T_END ? "" : ", found '", p->word,
                    p->tok == T_END ? "" : "'");
    const char *name = parser_expect_name(p);
    if (strcmp(name, "true") == 0 || strcmp(name, "True") == 0)
        return constant(p, v_bool(true));
    if (strcmp(name, "false") == 0 || strcmp(name, "False") == 0)
        return constant(p, v_bool(false));
    if (strcmp(name, "none") == 0 || strcmp(name, "None") == 0)
        return constant(p, v_none());
    struct node *n = parser_node(p, N_NAME);
    n->name = name;
    return n;
}

/* After "[": an index, or a slice with up to three parts (a, b, c). */
static struct node *subscript(struct parser *p, struct node *of)
{
    struct node *n = parser_node(p, N_INDEX), *parts[3] = {NULL};
    n->body = of;
    int i = 0;
    if (!parser_is(p, ":"))
        parts[0] = parse_expression(p);
    while (i < 2 && parser_accept(p, ":")) {
        n->kind = N_SLICE;
        i++;
        if (!parser_is(p, ":") && !parser_is(p, "]"))
            parts[i] = parse_expression(p);
    }
    if (n->kind == N_INDEX && parser_is(p, ",")) /* a tuple as key is never used */
        parser_fail(p, "a list of subscripts is not supported");
    parser_expect(p, "]");
    n->a = parts[0];
    n->b = parts[1];
    n->c = parts[2];
    return n;
}

static struct node *postfix(struct parser *p, struct node *n)
{
    for (;;) {
        struct node *outer;
        if (parser_accept(p, ".")) {
            outer = parser_node(p, p->tok == T_INT ? N_INDEX : N_ATTR);
            if (p->tok == T_INT) {
                outer->a = constant(p, v_int(p->integer));
                outer->body = n;
                parser_next(p);
            } else {
                outer->name = parser_expect_name(p);
                outer->a = n;
            }
        } else if (parser_accept(p, "[")) {
            outer = subscript(p, n);
        } else if (parser_accept(p, "(")) {
            outer = parser_node(p, N_CALL);
            outer->a = n;
            outer->list = arguments(p);
        } else {
            return n;
        }
        n = outer;
        parser_enter(p); /* a chain of thousands would recurse as deep when evaluated */
    }
}

struct node *parse_filter(struct parser *p, struct node *of)
{
    struct node *n = parser_node(p, N_FILTER);
    n->a = of;
    n->name = parser_expect_name(p);
    if (!p->conditions && !is_filter(n->name))
        parser_fail(p, "no filter named '%.60s'", n->name);
    if (parser_accept(p, "("))
        n->list = arguments(p);
    return n;
}

/* After "is": [not] name [argument]. */
static struct node *test(struct parser *p, struct node *of)
{
    bool negated = parser_accept(p, "not");
    struct node *n = parser_node(p, N_TEST);
    n->a = of;
    n->name = parser_expect_name(p);
    if (!p->conditions && !is_test(n->name))
        parser_fail(p, "no test named '%.60s'", n->name);
    if (parser_accept(p, "("))
        n->list = arguments(p);
    else if (p->tok == T_STRING || p->tok == T_INT || p->tok == T_FLOAT || parser_is(p, "[") ||
             parser_is(p, "{") ||
             (p->tok == T_NAME && !parser_is(p, "else") && !parser_is(p, "or") &&
              !parser_is(p, "and") && !parser_is(p, "if") && !parser_is(p, "in") &&
              !parser_is(p, "not") && !parser_is(p, "recursive")))
        n->list = postfix(p, primary(p));
    if (parser_is(p, "is"))
        parser_fail(p, "tests cannot be chained with 'is'");
    if (!negated)
        return n;
    struct node *not = parser_node(p, N_NOT);
    not ->a = n;
    return not ;
}

static struct node *unary(struct parser *p, bool filters)
{
    uint32_t depth = p->depth;
    parser_enter(p);
    struct node *n;
    if (parser_is(p, "-") || parser_is(p, "+")) {
        n = parser_node(p, parser_is(p, "-") ? N_NEG : N_POS);
        parser_next(p);
        n->a = unary(p, false);
    } else {
        n = primary(p);
    }
    n = postfix(p, n);
    while (filters) {
        if (parser_accept(p, "|"))
            n = parse_filter(p, n);
        else if (parser_accept(p, "is"))
            n = test(p, n);
        else if (parser_is(p, "("))
            n = postfix(p, n);
        else
            break;
        parser_enter(p);
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
        while (i < 4 && levels[level][i].word && !parser_is(p, levels[level][i].word))
            i++;
        if (i == 4 || !levels[level][i].word)
            break;
        parser_enter(p);
        parser_next(p);
        struct node *n = parser_node(p, N_BINARY);
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
        if (parser_accept(p, ops[i].word)) {
            *op = ops[i].op;
            return true;
        }
    if (!parser_is(p, "not"))
        return false;
    size_t at = p->at;
    parser_next(p);
    if (parser_accept(p, "in")) {
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
            n = parser_node(p, N_COMPARE);
            n->a = first;
            tail = &n->list;
        }
        struct node *step_node = parser_node(p, N_COMPARE);
        step_node->op = op;
        step_node->a = binary(p, 3);
        node_append(&tail, step_node);
    }
    return n ? n : first;
}

static struct node *not_expression(struct parser *p)
{
    if (!parser_accept(p, "not"))
        return comparison(p);
    uint32_t depth = p->depth;
    parser_enter(p);
    struct node *n = parser_node(p, N_NOT);
    n->a = not_expression(p);
    p->depth = depth;
    return n;
}

static struct node *and_expression(struct parser *p)
{
    struct node *left = not_expression(p);
    uint32_t depth = p->depth;
    while (parser_accept(p, "and")) {
        parser_enter(p);
        struct node *n = parser_node(p, N_AND);
        n->a = left;
        n->b = not_expression(p);
        left = n;
    }
    p->depth = depth;
    return left;
}

struct node *parse_or_expression(struct parser *p)
{
    struct node *left = and_expression(p);
    uint32_t depth = p->depth;
    while (parser_accept(p, "or")) {
        parser_enter(p);
        struct node *n = parser_node(p, N_OR);
        n->a = left;
        n->b = and_expression(p);
        left = n;
    }
    p->depth = depth;
    return left;
}

struct node *parse_expression(struct parser *p)
{
    uint32_t depth = p->depth;
    parser_enter(p);
    struct node *n = parse_or_expression(p);
    while (parser_accept(p, "if")) {
        struct node *cond = parser_node(p, N_COND);
        cond->b = n;
        cond->a = parse_or_expression(p);
        p->conditions++;
        cond->c = parser_accept(p, "else") ? parse_expression(p) : NULL;
        p->conditions--;
        n = cond;
    }
    p->depth = depth;
    return n;
}

static struct node *tuple_of(struct parser *p, struct node *(*item)(struct parser *))
{
    struct node *first = item(p);
    if (!parser_is(p, ","))
        return first;
    struct node *n = parser_node(p, N_TUPLE), **tail = &n->list;
    node_append(&tail, first);
    while (parser_accept(p, ",") && p->tok != T_END && !parser_is(p, "in"))
        node_append(&tail, item(p));
    return n;
}

struct node *parse_tuple(struct parser *p)
{
    return tuple_of(p, parse_expression);
}

struct node *parse_tuple_without_if(struct parser *p)
{
    return tuple_of(p, parse_or_expression);
}
