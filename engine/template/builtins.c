/* What a template can name: the tables of filters and methods and how they are called, the tests,
 * and the functions of the environment. Before them how all of these read their arguments. */
#include "engine/template/filters.h"

#include <ctype.h>
#include <math.h>
#include <string.h>

/* ---- arguments ---- */

struct value *args_get(const struct args *a, size_t i, const char *name)
{
    if (i < a->n)
        return (struct value *)(uintptr_t)&a->v[i];
    return name ? dict_find(a->kwargs, name) : NULL;
}

struct str need_string(struct run *r, struct value v, const char *what)
{
    if (v.type == V_UNDEFINED)
        fail(r, LODGE_ERR_INVALID, "'%.100s' is undefined", v.name);
    if (v.type != V_STRING)
        fail(r, LODGE_ERR_INVALID, "%s needs a string, not '%s'", what, type_name(v));
    return v.s;
}

struct value args_need(struct run *r, const struct args *a, const char *what)
{
    if (!a->n)
        fail(r, LODGE_ERR_INVALID, "%s needs an argument", what);
    return a->v[0];
}

/* ---- tables ---- */

struct entry {
    const char *name;
    filter_fn *fn;
};

static const struct entry filters[] = {
    {"tojson", f_tojson},
    {"length", f_length},
    {"count", f_length},
    {"trim", f_trim},
    {"string", f_string},
    {"items", f_items},
    {"join", f_join},
    {"default", f_default},
    {"d", f_default},
    {"list", f_list},
    {"safe", f_same},
    {"selectattr", f_selectattr},
    {"map", f_map},
    {"upper", f_upper},
    {"lower", f_lower},
    {"dictsort", f_dictsort},
    {"reject", f_reject},
    {"select", f_select},
    {"replace", f_replace},
    {"first", f_first},
    {"last", f_last},
    {"sort", f_sort},
    {"unique", f_unique},
    {"indent", f_indent},
    {"capitalize", f_capitalize},
    {"int", f_int},
    {"float", f_float},
    {"rejectattr", f_rejectattr},
    {"title", f_title},
    {"reverse", f_reverse},
    {"abs", f_abs},
    {"round", f_round},
    {"sum", f_sum},
    {"max", f_max},
    {"min", f_min},
    {"e", f_escape},
    {"escape", f_escape},
};

static const struct entry string_methods[] = {
    {"split", f_split},           {"rsplit", f_rsplit},   {"strip", f_trim},
    {"lstrip", f_lstrip},         {"rstrip", f_rstrip},   {"startswith", f_startswith},
    {"endswith", f_endswith},     {"replace", f_replace}, {"upper", f_upper},
    {"lower", f_lower},           {"title", f_title},     {"capitalize", f_capitalize},
    {"join", f_join_method},      {"find", f_find},       {"count", f_count_in},
    {"isdigit", f_isdigit},       {"isspace", f_isspace}, {"isalpha", f_isalpha},
    {"splitlines", f_splitlines},
};

static const struct entry list_methods[] = {{"append", f_append}, {"pop", f_pop}};

static const struct entry dict_methods[] = {
    {"items", f_items}, {"keys", f_keys}, {"values", f_values}, {"get", f_get}};

static const struct entry *find(const struct entry *table, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(table[i].name, name) == 0)
            return &table[i];
    return NULL;
}

#define FIND(table, name) find(table, sizeof(table) / sizeof *(table), name)

struct value apply_filter(struct run *r, const char *name, struct value v, const struct value *args,
                          size_t n, struct dict *kwargs)
{
    const struct entry *f = FIND(filters, name);
    if (!f)
        fail(r, LODGE_ERR_INVALID, "no filter named '%.60s'", name);
    const struct args a = {args, n, kwargs};
    step(r, 1);
    return f->fn(r, v, &a);
}

static const struct entry *method_of(struct value v, const char *name)
{
    return v.type == V_STRING ? FIND(string_methods, name)
           : v.type == V_LIST ? FIND(list_methods, name)
           : v.type == V_DICT ? FIND(dict_methods, name)
                              : NULL;
}

bool is_method(struct value v, const char *name)
{
    return method_of(v, name) != NULL;
}

struct value call_method(struct run *r, struct value self, const char *name,
                         const struct value *args, size_t n, struct dict *kwargs)
{
    const struct args a = {args, n, kwargs};
    step(r, 1);
    return method_of(self, name)->fn(r, self, &a);
}

/* ---- tests ---- */

static bool test_type(struct value v, const char *name, bool *known)
{
    /* As in Jinja2, what is undefined can be iterated over (it is empty). */
    bool iterable =
        v.type == V_LIST || v.type == V_STRING || v.type == V_DICT || v.type == V_UNDEFINED;
    const struct {
        const char *name;
        bool yes;
    } all[] = {
        {"defined", v.type != V_UNDEFINED},
        {"undefined", v.type == V_UNDEFINED},
        {"none", v.type == V_NONE},
        {"string", v.type == V_STRING},
        {"mapping", v.type == V_DICT || v.type == V_NAMESPACE},
        {"sequence", iterable},
        {"iterable", iterable},
        {"boolean", v.type == V_BOOL},
        {"true", v.type == V_BOOL && v.b},
        {"false", v.type == V_BOOL && !v.b},
        {"number", is_number(v)},
        {"integer", v.type == V_INT},
        {"float", v.type == V_FLOAT},
        {"callable", v.type >= V_MACRO},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (strcmp(all[i].name, name) == 0) {
            *known = true;
            return all[i].yes;
        }
    *known = false;
    return false;
}

static bool test_number(struct run *r, struct value v, const char *name, const struct value *by,
                        bool *known)
{
    bool odd = strcmp(name, "odd") == 0, even = strcmp(name, "even") == 0;
    *known = odd || even || strcmp(name, "divisibleby") == 0;
    if (!*known)
        return false;
    int64_t k = odd || even ? 2 : by && by->type == V_INT ? by->i : 0;
    if (v.type != V_INT || !k)
        fail(r, LODGE_ERR_INVALID, "'%s' needs integers", name);
    return (v.i % k != 0) == odd;
}

bool apply_test(struct run *r, const char *name, struct value v, const struct value *args, size_t n)
{
    bool known, yes = test_type(v, name, &known);
    if (!known)
        yes = test_number(r, v, name, n ? args : NULL, &known);
    if (known)
        return yes;
    static const struct {
        const char *name;
        int op;
    } ops[] = {{"equalto", 0}, {"eq", 0},    {"==", 0},    {"sameas", 0}, {"ne", 1},  {"!=", 1},
               {"lt", 2},      {"<", 2},     {"gt", 3},    {">", 3},      {"le", 4},  {"ge", 5},
               {"in", 6},      {"lower", 7}, {"upper", 8}, {"filter", 9}, {"test", 9}};
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
        if (strcmp(ops[i].name, name) != 0)
            continue;
        int op = ops[i].op;
        if (op < 7 && !n)
            fail(r, LODGE_ERR_INVALID, "test '%s' needs an argument", name);
        if (op < 2)
            return same(r, v, args[0]) == (op == 0);
        if (op == 6) {
            struct list *l = iterate(r, args[0]);
            bool found = false;
            for (size_t k = 0; k < l->n && !found; k++)
                found = same(r, l->items[k], v);
            return found;
        }
        if (op == 9)
            return v.type == V_STRING && find(filters, sizeof filters / sizeof *filters, v.s.p);
        if (op >= 7) {
            struct value t = to_text(r, v);
            return same(r, t, string_map_ascii(r, t, op == 7 ? tolower : toupper, false));
        }
        int c = order(r, v, args[0]);
        return op == 2 ? c < 0 : op == 3 ? c > 0 : op == 4 ? c <= 0 : c >= 0;
    }
    fail(r, LODGE_ERR_INVALID, "no test named '%.60s'", name);
}

/* ---- functions ---- */

static struct value b_range(struct run *r, const struct args *a)
{
    int64_t v[3] = {0, 0, 1};
    for (size_t i = 0; i < a->n && i < 3; i++) {
        if (a->v[i].type != V_INT)
            fail(r, LODGE_ERR_INVALID, "range needs integers");
        v[i] = a->v[i].i;
    }
    if (a->n == 1) {
        v[1] = v[0];
        v[0] = 0;
    }
    if (!a->n || !v[2])
        fail(r, LODGE_ERR_INVALID, "range needs a limit and a step other than 0");
    struct value l = v_list(r, 0);
    double count = ceil(((double)v[1] - (double)v[0]) / (double)v[2]);
    if (count > 100000)
        fail(r, LODGE_ERR_LIMIT, "a range is too long");
    for (int64_t i = 0; i < (int64_t)count; i++)
        list_push(r, l.list, v_int(v[0] + i * v[2]));
    return l;
}

static struct value b_namespace(struct run *r, const struct args *a)
{
    struct value ns = v_dict(r);
    ns.type = V_NAMESPACE;
    if (a->n && a->v[0].type == V_DICT)
        for (size_t i = 0; i < a->v[0].dict->n; i++)
            dict_set(r, ns.dict, a->v[0].dict->pairs[i].key, a->v[0].dict->pairs[i].value);
    for (size_t i = 0; i < a->kwargs->n; i++)
        dict_set(r, ns.dict, a->kwargs->pairs[i].key, a->kwargs->pairs[i].value);
    return ns;
}

static struct value b_dict(struct run *r, const struct args *a)
{
    struct value d = b_namespace(r, a);
    d.type = V_DICT;
    return d;
}

static struct value b_raise(struct run *r, const struct args *a)
{
    struct value text = a->n ? to_text(r, a->v[0]) : v_text("the template refuses the messages");
    r->fault.line = 0;
    fail(r, LODGE_ERR_INVALID, "%.*s", (int)(text.s.n > 500 ? 500 : text.s.n), text.s.p);
}

static struct value b_strftime(struct run *r, const struct args *a)
{
    char format[128] = {0}, text[256];
    struct str s = need_string(r, args_need(r, a, "strftime_now"), "strftime_now");
    memcpy(format, s.p, s.n < sizeof format - 1 ? s.n : sizeof format - 1);
    struct tm tm;
    localtime_r(&r->now, &tm);
    size_t n = strftime(text, sizeof text, format, &tm);
    char *p = take(r, n + 1);
    memcpy(p, text, n);
    return v_string(p, n);
}

static const struct {
    const char *name;
    struct value (*fn)(struct run *, const struct args *);
} builtins[] = {{"range", b_range},
                {"namespace", b_namespace},
                {"dict", b_dict},
                {"raise_exception", b_raise},
                {"strftime_now", b_strftime}};

bool is_builtin(const char *name)
{
    for (size_t i = 0; i < sizeof builtins / sizeof *builtins; i++)
        if (strcmp(builtins[i].name, name) == 0)
            return true;
    return false;
}

struct value call_builtin(struct run *r, const char *name, const struct value *args, size_t n,
                          struct dict *kwargs)
{
    const struct args a = {args, n, kwargs};
    for (size_t i = 0; i < sizeof builtins / sizeof *builtins; i++)
        if (strcmp(builtins[i].name, name) == 0)
            return builtins[i].fn(r, &a);
    fail(r, LODGE_ERR_INTERNAL, "no function '%s'", name);
}
