/* Statements and rendering: scopes of names, output, loops, assignments and blocks, and the entry
 * that renders a template over JSON variables. */
#include "engine/template/eval.h"

#include <stdlib.h>
#include <string.h>

const struct lodge_template_limits lodge_template_default_limits = {
    .max_steps = 10000000,
    .max_depth = 128,
    .max_output_bytes = (size_t)16 << 20,
    .max_memory_bytes = (size_t)256 << 20,
};

static void run_list(struct run *r, const struct node *n);

/* ---- scopes ---- */

struct value *scope_find(struct run *r, const char *name)
{
    for (struct scope *s = r->scope; s; s = s->parent) {
        struct value *v = dict_find(s->vars, name);
        if (v)
            return v;
    }
    return NULL;
}

void scope_define(struct run *r, const char *name, struct value v)
{
    dict_set(r, r->scope->vars, v_text(name), v);
}

void scope_push(struct run *r)
{
    struct scope *s = take(r, sizeof *s);
    *s = (struct scope){r->scope, v_dict(r).dict};
    r->scope = s;
}

void scope_pop(struct run *r)
{
    r->scope = r->scope->parent;
}

/* ---- output into a string ---- */

struct value run_capture(struct run *r, const struct node *body)
{
    struct out o = {0}, *old = r->out;
    r->out = &o;
    scope_push(r);
    run_list(r, body);
    scope_pop(r);
    r->out = old;
    return out_value(&o);
}

/* ---- statements ---- */

struct list *iterate(struct run *r, struct value v)
{
    struct value l = v_list(r, 0);
    if (v.type == V_LIST && !v.list->spent) {
        v.list->spent = v.list->generator;
        return v.list;
    }
    if (v.type == V_DICT) {
        for (size_t i = 0; i < v.dict->n; i++)
            list_push(r, l.list, v.dict->pairs[i].key);
    } else if (v.type == V_STRING) {
        for (size_t at = 0; at < v.s.n;) {
            size_t end = at + offset_of(substring(v, at, v.s.n).s, 1);
            list_push(r, l.list, substring(v, at, end));
            at = end;
        }
    } else if (v.type != V_UNDEFINED && v.type != V_LIST) {
        fail(r, LODGE_ERR_INVALID, "'%s' is not iterable", type_name(v));
    }
    return l.list;
}

void check_namespace_key(struct run *r, struct value key)
{
    if (key.type == V_STRING && key.s.n && *key.s.p == '_')
        fail(r, LODGE_ERR_INVALID, "a namespace's names cannot begin with an underscore");
}

/* To a name, a namespace's member, or item by item to a tuple of targets. */
static void assign(struct run *r, const struct node *target, struct value v)
{
    if (target->kind == N_NAME) {
        scope_define(r, target->name, v);
        return;
    }
    if (target->kind == N_ATTR) {
        struct value ns = eval(r, target->a);
        if (ns.type != V_NAMESPACE)
            fail(r, LODGE_ERR_INVALID, "only a namespace's attributes can be set");
        check_namespace_key(r, v_text(target->name));
        dict_set(r, ns.dict, v_text(target->name), v);
        return;
    }
    struct list *l = iterate(r, v);
    size_t i = 0;
    for (const struct node *t = target->list; t; t = t->next, i++) {
        if (i >= l->n)
            fail(r, LODGE_ERR_INVALID, "too few values to unpack (%zu)", l->n);
        assign(r, t, l->items[i]);
    }
    if (i != l->n)
        fail(r, LODGE_ERR_INVALID, "too many values to unpack (expected %zu)", i);
}

static void set_loop(struct run *r, struct loop *loop, struct list *items, size_t i)
{
    int64_t n = (int64_t)items->n, k = (int64_t)i;
    const struct {
        const char *name;
        struct value v;
    } all[] = {
        {"index", v_int(k + 1)},
        {"index0", v_int(k)},
        {"revindex", v_int(n - k)},
        {"revindex0", v_int(n - k - 1)},
        {"first", v_bool(i == 0)},
        {"last", v_bool(k + 1 == n)},
        {"length", v_int(n)},
        {"depth", v_int(loop->depth0 + 1)},
        {"depth0", v_int(loop->depth0)},
        {"previtem", i ? items->items[i - 1] : v_undefined("previtem")},
        {"nextitem", k + 1 < n ? items->items[i + 1] : v_undefined("nextitem")},
    };
    loop->vars = v_dict(r).dict;
    for (size_t a = 0; a < sizeof all / sizeof *all; a++)
        dict_set(r, loop->vars, v_text(all[a].name), all[a].v);
    scope_define(r, "loop", (struct value){.type = V_LOOP, .loop = loop});
}

/* The items that the loop's own condition keeps. */
static struct list *filtered(struct run *r, const struct node *n, struct list *items)
{
    if (!n->b)
        return items;
    struct value kept = v_list(r, 0);
    for (size_t i = 0; i < items->n; i++) {
        scope_push(r);
        assign(r, n->list, items->items[i]);
        if (is_true(eval(r, n->b)))
            list_push(r, kept.list, items->items[i]);
        scope_pop(r);
    }
    return kept.list;
}

static void run_items(struct run *r, const struct node *n, struct value over, int64_t depth0)
{
    struct list *items = filtered(r, n, iterate(r, over));
    struct loop *loop = take(r, sizeof *loop);
    size_t count = items->n;
    bool whole = false; /* did an iteration reach its end? as Jinja2 decides about `else` */
    *loop = (struct loop){.node = n->recursive ? n : NULL, .scope = r->scope, .depth0 = depth0};
    for (size_t i = 0; i < count; i++) {
        scope_push(r);
        set_loop(r, loop, items, i);
        assign(r, n->list, items->items[i]);
        run_list(r, n->body);
        scope_pop(r);
        bool stop = r->flow == FLOW_BREAK;
        whole |= r->flow == FLOW_NEXT;
        r->flow = FLOW_NEXT;
        if (stop)
            break;
    }
    if (!whole && n->other) {
        scope_push(r);
        run_list(r, n->other);
        scope_pop(r);
    }
}

struct value run_recursive(struct run *r, const struct loop *loop, struct value items)
{
    struct out o = {0}, *old = r->out;
    struct scope *scope = r->scope;
    r->out = &o;
    r->scope = loop->scope;
    run_items(r, loop->node, items, loop->depth0 + 1);
    r->scope = scope;
    r->out = old;
    return out_value(&o);
}

/* Evaluates a chain of filters whose innermost operand is `hole`, with `v` in its place. The tree
 * is shared by threads, so it is not written: the chain is walked instead. */
static struct value filter_chain(struct run *r, const struct node *n, const struct node *hole,
                                 struct value v)
{
    if (n == hole)
        return v;
    struct value args[MAX_ARGS], in = filter_chain(r, n->a, hole, v);
    struct dict *kwargs = v_dict(r).dict;
    size_t count = eval_args(r, n->list, args, kwargs);
    return apply_filter(r, n->name, in, args, count, kwargs);
}

static void run_call_block(struct run *r, const struct node *n)
{
    struct value caller = v_macro(r, n);
    struct value v = to_text(r, eval_call(r, n->a, &caller));
    out_put(r, r->out, v.s);
}

static void run_with(struct run *r, const struct node *n)
{
    scope_push(r);
    for (const struct node *s = n->list; s; s = s->next)
        scope_define(r, s->name, eval(r, s->a));
    run_list(r, n->body);
    scope_pop(r);
}

static void run_one(struct run *r, const struct node *n)
{
    struct value v;
    switch (n->kind) {
    case N_TEXT:
        out_put(r, r->out, n->constant.s);
        break;
    case N_OUTPUT:
        v = to_text(r, eval(r, n->a));
        out_put(r, r->out, v.s);
        break;
    case N_FOR:
        run_items(r, n, eval(r, n->a), 0);
        break;
    case N_IF:
        if (is_true(eval(r, n->a)))
            run_list(r, n->body);
        else if (n->other)
            run_list(r, n->other);
        break;
    case N_SET:
        assign(r, n->list, eval(r, n->a));
        break;
    case N_SET_BLOCK:
        assign(r, n->list, filter_chain(r, n->a, n->b, run_capture(r, n->body)));
        break;
    case N_MACRO:
        scope_define(r, n->name, v_macro(r, n));
        break;
    case N_CALL_BLOCK:
        run_call_block(r, n);
        break;
    case N_FILTER_BLOCK:
        v = to_text(r, filter_chain(r, n->a, n->b, run_capture(r, n->body)));
        out_put(r, r->out, v.s);
        break;
    case N_WITH:
        run_with(r, n);
        break;
    case N_BREAK:
        r->flow = FLOW_BREAK;
        break;
    case N_CONTINUE:
        r->flow = FLOW_CONTINUE;
        break;
    default:
        fail(r, LODGE_ERR_INTERNAL, "an expression where a statement is expected");
    }
}

static void run_list(struct run *r, const struct node *n)
{
    for (; n && r->flow == FLOW_NEXT; n = n->next) {
        step(r, 1);
        r->fault.line = n->line;
        run_one(r, n);
    }
}

/* ---- rendering ---- */

/* Everything under these names is the user's; a message's role is not (it was checked). */
static bool is_user_variable(const char *name)
{
    return strcmp(name, "messages") == 0 || strcmp(name, "tools") == 0 ||
           strcmp(name, "documents") == 0;
}

static void set_variables(struct run *r, const json_t *vars)
{
    const char *name;
    json_t *j;
    json_object_foreach((json_t *)(uintptr_t)vars, name, j)
    {
        struct value v = from_json(r, j, is_user_variable(name), 0);
        for (size_t i = 0; strcmp(name, "messages") == 0 && v.type == V_LIST && i < v.list->n;
             i++) {
            struct value *m = &v.list->items[i];
            struct value *role = m->type == V_DICT ? dict_find(m->dict, "role") : NULL;
            if (role && role->type == V_STRING)
                role->s.user = false;
        }
        scope_define(r, name, v);
    }
}

static int take_parts(struct run *r, const struct out *o, struct lodge_rendered *out)
{
    size_t n_parts = 0;
    for (size_t i = 0; i < o->n; i++)
        n_parts += i == 0 || o->marks[i] != o->marks[i - 1];
    out->text = malloc(o->n + 1);
    out->parts = malloc((n_parts + 1) * sizeof *out->parts);
    if (!out->text || !out->parts) {
        lodge_rendered_finish(out);
        return lodge_fail(r->fault.e, LODGE_ERR_NOMEM, "no memory for the rendered chat");
    }
    if (o->n)
        memcpy(out->text, o->p, o->n);
    out->text[o->n] = 0;
    out->n = o->n;
    for (size_t i = 0; i < o->n; i++) {
        if (i == 0 || o->marks[i] != o->marks[i - 1])
            out->parts[out->n_parts++] = (struct lodge_text_part){i, i, o->marks[i] != 0};
        out->parts[out->n_parts - 1].end = i + 1;
    }
    return 0;
}

int lodge_template_render(const struct lodge_template *t, const json_t *vars,
                          const struct lodge_template_limits *limits, time_t now,
                          struct lodge_rendered *out, struct lodge_error *e)
{
    *out = (struct lodge_rendered){0};
    struct run *r = calloc(1, sizeof *r);
    struct out *o = calloc(1, sizeof *o);
    if (!r || !o) {
        free(r);
        free(o);
        return lodge_fail(e, LODGE_ERR_NOMEM, "no memory to render the chat");
    }
    *r = (struct run){.limits = limits, .out = o, .now = now, .fault.e = e};
    lodge_arena_init(&r->arena, limits->max_memory_bytes);
    int err;
    if (setjmp(r->fault.jump) == 0) {
        scope_push(r);
        set_variables(r, vars);
        run_list(r, t->root);
        err = take_parts(r, o, out);
    } else {
        err = r->fault.code;
    }
    lodge_arena_finish(&r->arena);
    free(o);
    free(r);
    return err;
}

void lodge_rendered_finish(struct lodge_rendered *r)
{
    free(r->text);
    free(r->parts);
    *r = (struct lodge_rendered){0};
}
