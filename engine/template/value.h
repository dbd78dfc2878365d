/* Values of a rendering, and the tree they come from. Private to engine/template.
 *
 * Everything lives in arenas: the tree in the template's, values in the rendering's; nothing is
 * freed one by one. A failure unwinds by longjmp to the entry of parse or render, which is sound
 * because nothing but arenas and one output buffer is held.
 */
#ifndef LODGE_ENGINE_TEMPLATE_VALUE_H
#define LODGE_ENGINE_TEMPLATE_VALUE_H

#include "base/arena.h"
#include "engine/template/template.h"

#include <setjmp.h>

enum vtype {
    V_UNDEFINED,
    V_NONE,
    V_BOOL,
    V_INT,
    V_FLOAT,
    V_STRING,
    V_LIST,
    V_DICT,
    V_NAMESPACE, /* a dict whose members can be set */
    V_LOOP,      /* `loop` of a for statement */
    V_MACRO,
    V_BUILTIN, /* function of the environment */
    V_METHOD,  /* method bound to its object */
};

/* Bytes with their origin: all of one kind, or a mark per byte. */
struct str {
    const char *p;
    size_t n;
    const uint8_t *marks; /* NULL: all bytes are as `user` says */
    bool user;
};

struct value {
    enum vtype type;
    bool tuple;  /* a LIST that is a tuple */
    bool group;  /* a tuple of groupby: its items are also .grouper and .list */
    bool markup; /* a STRING of safe or escape: what is added to it is escaped */
    union {
        bool b;
        int64_t i;
        double f;
        struct str s;
        struct list *list;
        struct dict *dict;
        const struct closure *macro;
        struct loop *loop;
        const char *name; /* BUILTIN; UNDEFINED: what was looked up */
        struct bound *bound;
    };
};

struct list {
    struct value *items;
    size_t n, room;
    bool generator; /* as Python's: true, without items by number, gone over once */
    bool spent;
};

struct pair {
    struct value key, value;
};

struct dict {
    struct pair *pairs;
    size_t n, room;
};

/* State of a for statement. */
struct loop {
    struct dict *vars;       /* of the iteration */
    const struct node *node; /* of a recursive one, else NULL */
    struct scope *scope;     /* where the statement stands */
    int64_t depth0;
    struct value *last; /* what loop.changed saw, or NULL */
};

struct bound {
    struct value self;
    const char *name;
};

enum node_kind {
    /* expressions */
    N_CONST,
    N_NAME,
    N_LIST,
    N_TUPLE,
    N_DICT,
    N_ATTR,
    N_INDEX,
    N_SLICE,
    N_CALL,
    N_FILTER,
    N_TEST,
    N_NEG,
    N_POS,
    N_NOT,
    N_AND,
    N_OR,
    N_BINARY,
    N_COMPARE,
    N_COND,
    /* statements */
    N_TEXT,
    N_OUTPUT,
    N_FOR,
    N_IF,
    N_SET,
    N_SET_BLOCK,
    N_MACRO,
    N_CALL_BLOCK,
    N_FILTER_BLOCK,
    N_BREAK,
    N_CONTINUE,
    N_WITH,
    N_SPREAD /* an argument *a, or **a where `name` is set */
};

enum op {
    OP_ADD,
    OP_SUB,
    OP_MUL,
    OP_DIV,
    OP_FLOORDIV,
    OP_MOD,
    OP_POW,
    OP_CONCAT,
    OP_EQ,
    OP_NE,
    OP_LT,
    OP_LE,
    OP_GT,
    OP_GE,
    OP_IN,
    OP_NOT_IN
};

enum { CATCHES_CALLER = 1, CATCHES_VARARGS = 2, CATCHES_KWARGS = 4 };

/* One node for all kinds: children by role. */
struct node {
    enum node_kind kind;
    uint8_t catches; /* MACRO, CALL_BLOCK: which of these its body names */
    bool recursive;  /* FOR */
    uint32_t line;
    struct node *next; /* sibling in a list */
    const char *name;  /* name, attribute, filter, test, keyword argument */
    enum op op;
    struct value constant;
    struct node *a, *b, *c; /* operands; FOR: target, iterable, condition; IF: test */
    struct node *list;      /* items, arguments, dict keys and values in turn, targets */
    struct node *body, *other;
};

struct lodge_template {
    struct lodge_arena arena;
    struct node *root;
};

/* A failure in the making. */
struct fault {
    jmp_buf jump;
    int code;
    struct lodge_error *e;
    uint32_t line;
};

struct scope {
    struct scope *parent;
    struct dict *vars;
};

struct closure {
    const struct node *node;
    struct scope *scope;
};

struct run {
    struct fault fault;
    struct lodge_arena arena;
    const struct lodge_template_limits *limits;
    uint64_t steps;
    uint32_t depth;
    struct scope *scope;
    struct out *out;
    time_t now;
    enum { FLOW_NEXT, FLOW_BREAK, FLOW_CONTINUE } flow;
};

/* Text being produced. */
struct out {
    char *p;
    uint8_t *marks;
    size_t n, room;
};

void fail(struct run *r, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4), noreturn));
void step(struct run *r, uint64_t n);
void *take(struct run *r, size_t n);

/* value.c */
struct value v_undefined(const char *name);
struct value v_none(void);
struct value v_bool(bool b);
struct value v_int(int64_t i);
struct value v_float(double f);
struct value v_string(const char *p, size_t n);
struct value v_text(const char *zero_terminated);
struct value v_list(struct run *r, size_t room);
struct value v_dict(struct run *r);
/* What filters give that go over their input when it is asked for. */
struct value v_generator(struct run *r);
void list_push(struct run *r, struct list *l, struct value v);
void dict_set(struct run *r, struct dict *d, struct value key, struct value v);
struct value *dict_get(struct dict *d, struct value key);
struct value *dict_find(struct dict *d, const char *key);
bool is_true(struct value v);
bool is_number(struct value v);
double number(struct value v);
bool same(struct run *r, struct value a, struct value b);
int order(struct run *r, struct value a, struct value b);
/* str(): strings keep their marks. */
struct value to_text(struct run *r, struct value v);
struct value repr(struct run *r, struct value v);
/* How JSON is written. */
struct json_style {
    struct value indent; /* a string, or none: all in one line */
    struct value comma, colon;
    bool sort_keys, ascii;
};
/* json.c */
struct value to_json(struct run *r, struct value v, const struct json_style *style);
struct value from_json(struct run *r, const json_t *j, bool user, uint32_t depth);
const char *type_name(struct value v);
/* Part [from, to) of a string. */
struct value substring(struct value s, size_t from, size_t to);
struct value concat(struct run *r, struct value a, struct value b);
size_t code_points(struct str s);
/* Byte offset of code point i (clamped). */
size_t offset_of(struct str s, int64_t i);

void out_put(struct run *r, struct out *o, struct str s);
struct value out_value(struct out *o);

/* One level deeper, which fails past the limit; the end restores r->depth. */
void enter(struct run *r);
/* filters_order.c. The members of a dict in the order of their keys. */
const struct dict *sorted_by_key(struct run *r, struct value v);
/* filters_format.c. Python's % operator over positional values, or the members of kwargs. */
struct args;
struct value percent_format(struct run *r, struct value format, const struct args *a);

/* expression.c */
struct value get_item(struct run *r, struct value v, struct value key);
struct value apply_operator(struct run *r, enum op op, struct value a, struct value b);
struct value repeat(struct run *r, struct value v, int64_t times);
bool contains(struct run *r, struct value item, struct value in);
struct value eval(struct run *r, const struct node *n);
struct value call_value(struct run *r, struct value fn, const struct value *args, size_t n,
                        struct dict *kwargs);
struct value get_attr(struct run *r, struct value v, const char *name);

/* eval.c. A namespace's names do not begin with an underscore. */
void check_namespace_key(struct run *r, struct value key);
/* Items to iterate: a list; the keys of a dict; the characters of a string. */
struct list *iterate(struct run *r, struct value v);
/* loop(items): the body of a recursive for statement over these items, as text. */
struct value run_recursive(struct run *r, const struct loop *loop, struct value items);

/* builtins.c, tests.c */
struct value apply_filter(struct run *r, const char *name, struct value v, const struct value *args,
                          size_t n, struct dict *kwargs);
bool apply_test(struct run *r, const char *name, struct value v, const struct value *args,
                size_t n);
bool is_method(struct value v, const char *name);
struct value call_method(struct run *r, struct value self, const char *name,
                         const struct value *args, size_t n, struct dict *kwargs);
bool is_builtin(const char *name);
bool is_filter(const char *name);
bool is_test(const char *name);
struct value call_builtin(struct run *r, const char *name, const struct value *args, size_t n,
                          struct dict *kwargs);

#endif
