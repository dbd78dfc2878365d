/* What a template can name: the tables of filters and methods and how they are called, and the
 * functions of the environment. Before them how all of these read their arguments. */
#include "engine/template/filters.h"

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
    {"items", f_items_filter},
    {"join", f_join},
    {"default", f_default},
    {"d", f_default},
    {"list", f_list},
    {"safe", f_safe},
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
    {"forceescape", f_forceescape},
    {"attr", f_attr},
    {"batch", f_batch},
    {"slice", f_slice},
    {"groupby", f_groupby},
    {"format", f_format},
    {"center", f_center},
    {"truncate", f_truncate},
    {"wordcount", f_wordcount},
};

static const struct entry string_methods[] = {
    {"split", f_split},
    {"rsplit", f_rsplit},
    {"strip", f_trim},
    {"lstrip", f_lstrip},
    {"rstrip", f_rstrip},
    {"startswith", f_startswith},
    {"endswith", f_endswith},
    {"replace", f_replace},
    {"upper", f_upper},
    {"lower", f_lower},
    {"title", f_title_method},
    {"capitalize", f_capitalize},
    {"swapcase", f_swapcase},
    {"join", f_join_method},
    {"find", f_find},
    {"rfind", f_rfind},
    {"index", f_index_in},
    {"rindex", f_rindex_in},
    {"count", f_count_in},
    {"partition", f_partition},
    {"rpartition", f_rpartition},
    {"removeprefix", f_removeprefix},
    {"removesuffix", f_removesuffix},
    {"splitlines", f_splitlines},
    {"format", f_format_method},
    {"center", f_center},
    {"ljust", f_ljust},
    {"rjust", f_rjust},
    {"zfill", f_zfill},
    {"isdigit", f_isdigit},
    {"isdecimal", f_isdecimal},
    {"isnumeric", f_isnumeric},
    {"isspace", f_isspace},
    {"isalpha", f_isalpha},
    {"isalnum", f_isalnum},
    {"isascii", f_isascii},
    {"isupper", f_isupper},
    {"islower", f_islower},
};

static const struct entry list_methods[] = {{"append", f_append},
                                            {"pop", f_pop},
                                            {"index", f_index_of},
                                            {"count", f_count_of},
                                            {"copy", f_copy}};

static const struct entry dict_methods[] = {
    {"items", f_items}, {"keys", f_keys}, {"values", f_values}, {"get", f_get}, {"copy", f_copy}};

static const struct entry *find(const struct entry *table, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(table[i].name, name) == 0)
            return &table[i];
    return NULL;
}

#define FIND(table, name) find(table, sizeof(table) / sizeof *(table), name)

/* Methods of markup give markup, and the filters that are such a method. */
static struct value as_marked(struct value v, struct value of, bool keeps)
{
    v.markup = v.type == V_STRING && (v.markup || (keeps && of.type == V_STRING && of.markup));
    return v;
}

static bool keeps_markup(filter_fn *fn)
{
    return fn == f_upper || fn == f_lower || fn == f_capitalize || fn == f_title || fn == f_trim;
}

struct value apply_filter(struct run *r, const char *name, struct value v, const struct value *args,
                          size_t n, struct dict *kwargs)
{
    const struct entry *f = FIND(filters, name);
    if (!f)
        fail(r, LODGE_ERR_INVALID, "no filter named '%.60s'", name);
    const struct args a = {args, n, kwargs};
    step(r, 1);
    return as_marked(f->fn(r, v, &a), v, keeps_markup(f->fn));
}

bool is_filter(const char *name)
{
    return FIND(filters, name) != NULL;
}

/* loop.cycle(...): the argument of this iteration. */
static struct value loop_cycle(struct run *r, struct value v, const struct args *a)
{
    struct value *i = dict_find(v.loop->vars, "index0");
    if (!a->n)
        fail(r, LODGE_ERR_INVALID, "loop.cycle needs items");
    return a->v[i ? (size_t)i->i % a->n : 0];
}

/* loop.changed(...): do the arguments differ from those of the last call? */
static struct value loop_changed(struct run *r, struct value v, const struct args *a)
{
    struct value now = v_list(r, a->n);
    for (size_t i = 0; i < a->n; i++)
        list_push(r, now.list, a->v[i]);
    if (v.loop->last && same(r, *v.loop->last, now))
        return v_bool(false);
    v.loop->last = take(r, sizeof now);
    *v.loop->last = now;
    return v_bool(true);
}

static const struct entry loop_methods[] = {{"cycle", loop_cycle}, {"changed", loop_changed}};

/* joiner(sep): nothing when called first, then the separator. */
static struct value joiner_call(struct run *r, struct value v, const struct args *a)
{
    (void)a;
    struct value *used = dict_find(v.dict, "used");
    if (used)
        return *dict_find(v.dict, "sep");
    dict_set(r, v.dict, v_text("used"), v_bool(true));
    return v_text("");
}

static const struct entry joiner_methods[] = {{"joiner", joiner_call}};

static const struct entry *method_of(struct value v, const char *name)
{
    return v.type == V_STRING      ? FIND(string_methods, name)
           : v.type == V_LIST      ? FIND(list_methods, name)
           : v.type == V_DICT      ? FIND(dict_methods, name)
           : v.type == V_LOOP      ? FIND(loop_methods, name)
           : v.type == V_NAMESPACE ? FIND(joiner_methods, name)
                                   : NULL;
}

bool is_method(struct value v, const char *name)
{
    return v.type != V_NAMESPACE && method_of(v, name) != NULL;
}

struct value call_method(struct run *r, struct value self, const char *name,
                         const struct value *args, size_t n, struct dict *kwargs)
{
    const struct args a = {args, n, kwargs};
    step(r, 1);
    return as_marked(method_of(self, name)->fn(r, self, &a), self, true);
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

/* From a dict, or a list of pairs, and keywords. */
static struct value b_dict(struct run *r, const struct args *a)
{
    struct value d = v_dict(r);
    if (a->n && a->v[0].type == V_DICT) {
        d = f_copy(r, a->v[0], a);
    } else if (a->n) {
        struct list *pairs = iterate(r, a->v[0]);
        for (size_t i = 0; i < pairs->n; i++) {
            struct list *pair = iterate(r, pairs->items[i]);
            if (pair->n != 2)
                fail(r, LODGE_ERR_INVALID, "dict needs pairs");
            dict_set(r, d.dict, pair->items[0], pair->items[1]);
        }
    }
    for (size_t i = 0; i < a->kwargs->n; i++)
        dict_set(r, d.dict, a->kwargs->pairs[i].key, a->kwargs->pairs[i].value);
    return d;
}

static struct value b_namespace(struct run *r, const struct args *a)
{
    struct value ns = b_dict(r, a);
    ns.type = V_NAMESPACE;
    for (size_t i = 0; i < ns.dict->n; i++)
        check_namespace_key(r, ns.dict->pairs[i].key);
    return ns;
}

static struct value b_joiner(struct run *r, const struct args *a)
{
    struct value *sep = args_get(a, 0, "sep"), self = v_dict(r);
    self.type = V_NAMESPACE;
    dict_set(r, self.dict, v_text("sep"), sep ? *sep : v_text(", "));
    struct bound *b = take(r, sizeof *b);
    *b = (struct bound){self, "joiner"};
    return (struct value){.type = V_METHOD, .bound = b};
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
} builtins[] = {{"range", b_range},   {"namespace", b_namespace},   {"dict", b_dict},
                {"joiner", b_joiner}, {"raise_exception", b_raise}, {"strftime_now", b_strftime}};

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
