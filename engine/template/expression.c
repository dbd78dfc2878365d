/* Expressions: operators, members and slices, calls of macros, methods and functions, and the
 * evaluation of every kind of expression's node: they call each other in a circle. */
#include "engine/template/eval.h"
#include "engine/template/filters.h"

#include <math.h>
#include <string.h>

/* ---- operators ---- */

static int64_t floor_div(struct run *r, int64_t a, int64_t b)
{
    if (b == 0)
        fail(r, LODGE_ERR_INVALID, "division by zero");
    if (b == -1)
        return -(a == INT64_MIN ? INT64_MAX : a);
    return a / b - (a % b != 0 && (a < 0) != (b < 0));
}

static struct value integer_op(struct run *r, enum op op, int64_t a, int64_t b)
{
    int64_t v = 0;
    bool over = false;
    switch (op) {
    case OP_ADD:
        over = __builtin_add_overflow(a, b, &v);
        break;
    case OP_SUB:
        over = __builtin_sub_overflow(a, b, &v);
        break;
    case OP_MUL:
        over = __builtin_mul_overflow(a, b, &v);
        break;
    case OP_FLOORDIV:
        v = floor_div(r, a, b);
        break;
    default:
        v = a - floor_div(r, a, b) * b;
        break;
    }
    if (over)
        fail(r, LODGE_ERR_LIMIT, "an integer is too large");
    return v_int(v);
}

/* The remainder has the sign of the divisor, even where it is zero. */
static double float_mod(double x, double y)
{
    double m = fmod(x, y);
    return m == 0 ? copysign(0, y) : (m < 0) != (y < 0) ? m + y : m;
}

static double float_floordiv(double x, double y)
{
    double q = round((x - float_mod(x, y)) / y);
    return q == 0 ? copysign(0, x / y) : q;
}

static struct value arithmetic(struct run *r, enum op op, struct value a, struct value b)
{
    bool integers = a.type != V_FLOAT && b.type != V_FLOAT;
    double x = number(a), y = number(b);
    if (op == OP_POW) {
        if ((x == 0 && y < 0) || (x < 0 && y != floor(y)))
            fail(r, LODGE_ERR_INVALID, "%g has no power of %g", x, y);
        double v = pow(x, y);
        return integers && y >= 0 && fabs(v) < 9e15 ? v_int((int64_t)v) : v_float(v);
    }
    if (integers && op != OP_DIV)
        return integer_op(r, op, a.type == V_BOOL ? a.b : a.i, b.type == V_BOOL ? b.b : b.i);
    if ((op == OP_DIV || op == OP_FLOORDIV || op == OP_MOD) && y == 0)
        fail(r, LODGE_ERR_INVALID, "division by zero");
    switch (op) {
    case OP_ADD:
        return v_float(x + y);
    case OP_SUB:
        return v_float(x - y);
    case OP_MUL:
        return v_float(x * y);
    case OP_DIV:
        return v_float(x / y);
    case OP_FLOORDIV:
        return v_float(float_floordiv(x, y));
    default:
        return v_float(float_mod(x, y));
    }
}

static struct value join_lists(struct run *r, struct value a, struct value b)
{
    struct value v = v_list(r, a.list->n + b.list->n);
    for (size_t i = 0; i < a.list->n; i++)
        list_push(r, v.list, a.list->items[i]);
    for (size_t i = 0; i < b.list->n; i++)
        list_push(r, v.list, b.list->items[i]);
    v.tuple = a.tuple && b.tuple;
    return v;
}

struct value repeat(struct run *r, struct value v, int64_t times)
{
    struct out o = {0};
    if (v.type == V_STRING) {
        for (int64_t i = 0; i < times; i++)
            out_put(r, &o, v.s);
        return v.markup ? f_safe(r, out_value(&o), NULL) : out_value(&o);
    }
    struct value l = v_list(r, 0);
    l.tuple = v.tuple;
    for (int64_t i = 0; i < times; i++)
        for (size_t k = 0; k < v.list->n; k++)
            list_push(r, l.list, v.list->items[k]);
    return l;
}

static bool is_whole(struct value v)
{
    return v.type == V_INT || v.type == V_BOOL;
}

struct value apply_operator(struct run *r, enum op op, struct value a, struct value b)
{
    if (op == OP_CONCAT)
        return concat(r, to_text(r, a), to_text(r, b));
    if (is_number(a) && is_number(b))
        return arithmetic(r, op, a, b);
    if (op == OP_ADD && a.type == V_STRING && b.type == V_STRING)
        return a.markup || b.markup
                   ? f_safe(r, concat(r, f_escape(r, a, NULL), f_escape(r, b, NULL)), NULL)
                   : concat(r, a, b);
    if (op == OP_ADD && a.type == V_LIST && b.type == V_LIST && a.tuple == b.tuple &&
        !a.list->generator && !b.list->generator)
        return join_lists(r, a, b);
    if (op == OP_MUL && (a.type == V_STRING || a.type == V_LIST) && is_whole(b))
        return repeat(r, a, (int64_t)number(b));
    if (op == OP_MUL && (b.type == V_STRING || b.type == V_LIST) && is_whole(a))
        return repeat(r, b, (int64_t)number(a));
    if (op == OP_MOD && a.type == V_STRING) {
        bool tuple = b.type == V_LIST && b.tuple;
        const struct args args = {tuple ? b.list->items : &b, tuple ? b.list->n : 1, NULL};
        return percent_format(r, a, &args);
    }
    if (a.type == V_UNDEFINED || b.type == V_UNDEFINED)
        fail(r, LODGE_ERR_INVALID, "'%.100s' is undefined",
             a.type == V_UNDEFINED ? a.name : b.name);
    fail(r, LODGE_ERR_INVALID, "unsupported operand types: '%s' and '%s'", type_name(a),
         type_name(b));
}

bool contains(struct run *r, struct value item, struct value in)
{
    if (in.type == V_STRING) {
        if (item.type != V_STRING)
            fail(r, LODGE_ERR_INVALID, "'in <string>' needs a string, not '%s'", type_name(item));
        step(r, in.s.n / 16);
        return !item.s.n || memmem(in.s.p, in.s.n, item.s.p, item.s.n);
    }
    if (in.type == V_DICT || in.type == V_NAMESPACE)
        return dict_get(in.dict, item) != NULL;
    if (in.type == V_LIST) {
        const struct list *l = iterate(r, in);
        for (size_t i = 0; i < l->n; i++)
            if (same(r, l->items[i], item))
                return true;
        return false;
    }
    if (in.type == V_UNDEFINED)
        return false;
    fail(r, LODGE_ERR_INVALID, "'%s' is not a container", type_name(in));
}

static bool compare(struct run *r, enum op op, struct value a, struct value b)
{
    switch (op) {
    case OP_EQ:
        return same(r, a, b);
    case OP_NE:
        return !same(r, a, b);
    case OP_IN:
        return contains(r, a, b);
    case OP_NOT_IN:
        return !contains(r, a, b);
    case OP_LT:
        return order(r, a, b) < 0;
    case OP_LE:
        return order(r, a, b) <= 0;
    case OP_GT:
        return order(r, a, b) > 0;
    default:
        return order(r, a, b) >= 0;
    }
}

/* ---- members ---- */

/* A method goes before a member of its name; x['name'] is the other way round. */
struct value get_attr(struct run *r, struct value v, const char *name)
{
    if (v.type == V_UNDEFINED)
        fail(r, LODGE_ERR_INVALID, "'%.100s' is undefined", v.name);
    struct dict *members = v.type == V_DICT || v.type == V_NAMESPACE ? v.dict
                           : v.type == V_LOOP                        ? v.loop->vars
                                                                     : NULL;
    struct value *found = members ? dict_find(members, name) : NULL;
    bool method = is_method(v, name);
    if (found && !method)
        return *found;
    if (v.type == V_LIST && v.group && strcmp(name, "grouper") == 0)
        return v.list->items[0];
    if (v.type == V_LIST && v.group && strcmp(name, "list") == 0)
        return v.list->items[1];
    if (v.type == V_MACRO && strcmp(name, "name") == 0)
        return v_text(v.macro->node->name ? v.macro->node->name : "caller");
    if (!method)
        return v_undefined(name);
    struct bound *b = take(r, sizeof *b);
    *b = (struct bound){v, name};
    return (struct value){.type = V_METHOD, .bound = b};
}

struct value get_item(struct run *r, struct value v, struct value key)
{
    if (v.type == V_UNDEFINED)
        fail(r, LODGE_ERR_INVALID, "'%.100s' is undefined", v.name);
    if ((v.type == V_DICT || v.type == V_NAMESPACE)) {
        struct value *found = dict_get(v.dict, key);
        if (found)
            return *found;
    } else if (is_whole(key) && ((v.type == V_LIST && !v.list->generator) || v.type == V_STRING)) {
        int64_t n = v.type == V_LIST ? (int64_t)v.list->n : (int64_t)code_points(v.s);
        int64_t at = (int64_t)number(key), i = at < 0 ? at + n : at;
        if (i < 0 || i >= n)
            return v_undefined("index");
        return v.type == V_LIST ? v.list->items[i]
                                : substring(v, offset_of(v.s, i), offset_of(v.s, i + 1));
    }
    if (key.type == V_STRING) {
        char *name = take(r, key.s.n + 1);
        memcpy(name, key.s.p, key.s.n);
        name[key.s.n] = 0;
        return get_attr(r, v, name);
    }
    return v_undefined("index");
}

static int64_t bound_of(struct run *r, const struct node *n, int64_t missing, int64_t len,
                        int64_t step_size)
{
    struct value v = n ? eval(r, n) : v_none();
    if (v.type == V_NONE)
        return missing;
    if (v.type != V_INT)
        fail(r, LODGE_ERR_INVALID, "slice indices must be integers");
    int64_t i = v.i < 0 ? (v.i < -len ? -1 : v.i + len) : v.i;
    int64_t low = step_size < 0 ? -1 : 0, high = step_size < 0 ? len - 1 : len;
    if (v.i < -len)
        return low;
    return i < low ? low : i > high ? high : i;
}

static struct value slice(struct run *r, const struct node *n)
{
    struct value v = eval(r, n->body);
    if (v.type == V_UNDEFINED)
        fail(r, LODGE_ERR_INVALID, "'%.100s' is undefined", v.name);
    bool literal = n->body->kind == N_CONST || n->body->kind == N_DICT;
    if (literal && v.type != V_STRING) /* Jinja2 evaluates it early, where this is no error */
        return v_undefined("slice");
    if ((v.type != V_LIST || v.list->generator) && v.type != V_STRING)
        fail(r, LODGE_ERR_INVALID, "'%s' cannot be sliced", type_name(v));
    int64_t len = v.type == V_LIST ? (int64_t)v.list->n : (int64_t)code_points(v.s);
    struct value by = n->c ? eval(r, n->c) : v_int(1);
    int64_t k = by.type == V_INT ? by.i : by.type == V_NONE ? 1 : 0;
    if (k == 0)
        fail(r, LODGE_ERR_INVALID, "slice step must be a non-zero integer");
    int64_t from = bound_of(r, n->a, k < 0 ? len - 1 : 0, len, k);
    int64_t to = bound_of(r, n->b, k < 0 ? -1 : len, len, k);
    if (v.type == V_STRING && k == 1)
        return substring(v, offset_of(v.s, from), offset_of(v.s, to > from ? to : from));
    struct value l = v_list(r, 0);
    struct out o = {0};
    for (int64_t i = from; k > 0 ? i < to : i > to; i += k) {
        step(r, v.type == V_STRING ? v.s.n / 16 + 1 : 1);
        if (v.type == V_LIST)
            list_push(r, l.list, v.list->items[i]);
        else
            out_put(r, &o, substring(v, offset_of(v.s, i), offset_of(v.s, i + 1)).s);
        if (k > len || k < -len)
            break;
    }
    l.tuple = v.tuple;
    return v.type == V_LIST ? l : out_value(&o);
}

/* ---- calls ---- */

/* *items or **members: the count of positional arguments then. */
static size_t spread(struct run *r, const struct node *node, struct value *args, size_t n,
                     struct dict *kwargs)
{
    struct value v = eval(r, node->a);
    if (node->name) {
        if (v.type != V_DICT)
            fail(r, LODGE_ERR_INVALID, "'**' needs a mapping, not '%s'", type_name(v));
        for (size_t i = 0; i < v.dict->n; i++)
            dict_set(r, kwargs, v.dict->pairs[i].key, v.dict->pairs[i].value);
        return n;
    }
    struct list *l = iterate(r, v);
    if (l->n > MAX_ARGS - n)
        fail(r, LODGE_ERR_LIMIT, "too many arguments");
    for (size_t i = 0; i < l->n; i++)
        args[n++] = l->items[i];
    return n;
}

size_t eval_args(struct run *r, const struct node *list, struct value *args, struct dict *kwargs)
{
    size_t n = 0;
    for (; list; list = list->next) {
        if (list->kind == N_SPREAD) {
            n = spread(r, list, args, n, kwargs);
            continue;
        }
        if (list->kind == N_SET) {
            dict_set(r, kwargs, v_text(list->name), eval(r, list->a));
            continue;
        }
        if (n == MAX_ARGS)
            fail(r, LODGE_ERR_LIMIT, "too many arguments");
        args[n++] = eval(r, list);
    }
    return n;
}

struct value v_macro(struct run *r, const struct node *n)
{
    struct closure *c = take(r, sizeof *c);
    *c = (struct closure){n, r->scope};
    return (struct value){.type = V_MACRO, .macro = c};
}

/* Arguments that no parameter takes: varargs and kwargs, where the body names them. */
static void define_rest(struct run *r, const struct node *m, const struct value *args, size_t n,
                        size_t taken, const struct dict *kwargs)
{
    struct value rest = v_list(r, 0), named = v_dict(r);
    const char *name = m->name ? m->name : "caller";
    rest.tuple = true;
    for (size_t i = taken; i < n; i++)
        list_push(r, rest.list, args[i]);
    for (size_t i = 0; i < kwargs->n; i++) {
        struct value key = kwargs->pairs[i].key;
        bool known = (m->catches & CATCHES_CALLER) && same(r, key, v_text("caller"));
        for (const struct node *p = m->list; p && !known; p = p->next)
            known = same(r, key, v_text(p->name));
        if (!known && !(m->catches & CATCHES_KWARGS))
            fail(r, LODGE_ERR_INVALID, "macro '%s' takes no keyword argument '%.*s'", name,
                 (int)(key.s.n > 60 ? 60 : key.s.n), key.s.p);
        if (!known)
            dict_set(r, named.dict, key, kwargs->pairs[i].value);
    }
    if (rest.list->n && !(m->catches & CATCHES_VARARGS))
        fail(r, LODGE_ERR_INVALID, "macro '%s' takes %zu arguments, %zu were given", name, taken,
             n);
    scope_define(r, "varargs", rest);
    scope_define(r, "kwargs", named);
}

static struct value call_macro(struct run *r, const struct closure *macro, const struct value *args,
                               size_t n, struct dict *kwargs)
{
    const struct node *m = macro->node;
    struct scope *old = r->scope;
    r->scope = macro->scope;
    scope_push(r);
    size_t i = 0;
    for (const struct node *p = m->list; p; p = p->next, i++) {
        struct value *named = dict_find(kwargs, p->name);
        scope_define(r, p->name,
                     i < n   ? args[i]
                     : named ? *named
                     : p->a  ? eval(r, p->a)
                             : v_undefined(p->name));
    }
    struct value *caller = dict_find(kwargs, "caller");
    if (caller || (m->catches & CATCHES_CALLER)) /* not that of a macro around it */
        scope_define(r, "caller", caller ? *caller : v_undefined("caller"));
    if (n > i || kwargs->n || m->catches)
        define_rest(r, m, args, n, i, kwargs);
    struct value v = run_capture(r, m->body);
    r->scope = old;
    r->flow = FLOW_NEXT;
    return v;
}

struct value call_value(struct run *r, struct value fn, const struct value *args, size_t n,
                        struct dict *kwargs)
{
    if (++r->depth > r->limits->max_depth)
        fail(r, LODGE_ERR_LIMIT, "calls are nested too deep");
    struct value v;
    if (fn.type == V_MACRO)
        v = call_macro(r, fn.macro, args, n, kwargs);
    else if (fn.type == V_BUILTIN)
        v = call_builtin(r, fn.name, args, n, kwargs);
    else if (fn.type == V_METHOD)
        v = call_method(r, fn.bound->self, fn.bound->name, args, n, kwargs);
    else if (fn.type == V_LOOP && fn.loop->node && n == 1)
        v = run_recursive(r, fn.loop, args[0]);
    else if (fn.type == V_UNDEFINED)
        fail(r, LODGE_ERR_INVALID, "'%.100s' is undefined", fn.name);
    else
        fail(r, LODGE_ERR_INVALID, "'%s' is not callable", type_name(fn));
    r->depth--;
    return v;
}

struct value eval_call(struct run *r, const struct node *n, struct value *caller)
{
    struct value args[MAX_ARGS];
    struct dict *kwargs = v_dict(r).dict;
    struct value fn = eval(r, n->a);
    size_t count = eval_args(r, n->list, args, kwargs);
    if (caller)
        dict_set(r, kwargs, v_text("caller"), *caller);
    return call_value(r, fn, args, count, kwargs);
}

/* ---- expressions ---- */

static struct value eval_name(struct run *r, const struct node *n)
{
    struct value *v = scope_find(r, n->name);
    if (v)
        return *v;
    if (is_builtin(n->name))
        return (struct value){.type = V_BUILTIN, .name = n->name};
    return v_undefined(n->name);
}

static struct value eval_list(struct run *r, const struct node *n)
{
    struct value v = v_list(r, 0);
    for (const struct node *item = n->list; item; item = item->next)
        list_push(r, v.list, eval(r, item));
    v.tuple = n->kind == N_TUPLE;
    return v;
}

static struct value eval_dict(struct run *r, const struct node *n)
{
    struct value v = v_dict(r);
    for (const struct node *item = n->list; item; item = item->next->next)
        dict_set(r, v.dict, eval(r, item), eval(r, item->next));
    return v;
}

static struct value eval_compare(struct run *r, const struct node *n)
{
    struct value left = eval(r, n->a);
    for (const struct node *c = n->list; c; c = c->next) {
        struct value right = eval(r, c->a);
        if (!compare(r, c->op, left, right))
            return v_bool(false);
        left = right;
    }
    return v_bool(true);
}

static struct value eval_filter(struct run *r, const struct node *n)
{
    struct value args[MAX_ARGS], v = eval(r, n->a);
    struct dict *kwargs = v_dict(r).dict;
    size_t count = eval_args(r, n->list, args, kwargs);
    return apply_filter(r, n->name, v, args, count, kwargs);
}

static struct value eval_test(struct run *r, const struct node *n)
{
    struct value args[MAX_ARGS], v = eval(r, n->a);
    struct dict *kwargs = v_dict(r).dict;
    size_t count = eval_args(r, n->list, args, kwargs);
    return v_bool(apply_test(r, n->name, v, args, count));
}

static struct value negate(struct run *r, struct value v, bool minus)
{
    if (!is_number(v))
        fail(r, LODGE_ERR_INVALID, "bad operand for unary sign: '%s'", type_name(v));
    if (v.type == V_FLOAT)
        return v_float(minus ? -v.f : v.f);
    return integer_op(r, minus ? OP_SUB : OP_ADD, 0, v.type == V_BOOL ? v.b : v.i);
}

static struct value eval_inner(struct run *r, const struct node *n)
{
    struct value v;
    switch (n->kind) {
    case N_CONST:
        return n->constant;
    case N_NAME:
        return eval_name(r, n);
    case N_LIST:
    case N_TUPLE:
        return eval_list(r, n);
    case N_DICT:
        return eval_dict(r, n);
    case N_ATTR:
        return get_attr(r, eval(r, n->a), n->name);
    case N_INDEX:
        v = eval(r, n->body);
        return get_item(r, v, eval(r, n->a));
    case N_SLICE:
        return slice(r, n);
    case N_CALL:
        return eval_call(r, n, NULL);
    case N_FILTER:
        return eval_filter(r, n);
    case N_TEST:
        return eval_test(r, n);
    case N_NEG:
    case N_POS:
        return negate(r, eval(r, n->a), n->kind == N_NEG);
    case N_NOT:
        return v_bool(!is_true(eval(r, n->a)));
    case N_AND:
        v = eval(r, n->a);
        return is_true(v) ? eval(r, n->b) : v;
    case N_OR:
        v = eval(r, n->a);
        return is_true(v) ? v : eval(r, n->b);
    case N_BINARY:
        v = eval(r, n->a);
        return apply_operator(r, n->op, v, eval(r, n->b));
    case N_COMPARE:
        return eval_compare(r, n);
    case N_COND:
        return is_true(eval(r, n->a)) ? eval(r, n->b) : n->c ? eval(r, n->c) : v_undefined("else");
    default:
        fail(r, LODGE_ERR_INTERNAL, "a statement where an expression is expected");
    }
}

/* Depth of the tree is bounded by the parser; depth of calls by the limits. */
struct value eval(struct run *r, const struct node *n)
{
    step(r, 1);
    r->fault.line = n->line;
    return eval_inner(r, n);
}
