/* Filters and methods of lists and dicts: access to items, order, choice of items by a test, and
 * the application of a filter to each. */
#include "engine/template/filters.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

struct value f_length(struct run *r, struct value v, const struct args *a)
{
    (void)a;
    switch (v.type) {
    case V_STRING:
        return v_int((int64_t)code_points(v.s));
    case V_LIST:
        return v_int((int64_t)v.list->n);
    case V_DICT:
        return v_int((int64_t)v.dict->n);
    case V_UNDEFINED:
        return v_int(0);
    default:
        fail(r, LODGE_ERR_INVALID, "'%s' has no length", type_name(v));
    }
}

struct value f_first(struct run *r, struct value v, const struct args *a)
{
    (void)a;
    if (v.type == V_LIST && v.list->generator && !v.list->spent && v.list->n) {
        v.list->n--; /* the others are still to come */
        v.list->room--;
        return *v.list->items++;
    }
    struct list *l = iterate(r, v);
    return l->n ? l->items[0] : v_undefined("first");
}

struct value f_last(struct run *r, struct value v, const struct args *a)
{
    (void)a;
    struct list *l = iterate(r, v);
    return l->n ? l->items[l->n - 1] : v_undefined("last");
}

struct value f_list(struct run *r, struct value v, const struct args *a)
{
    (void)a;
    struct list *from = iterate(r, v);
    struct value l = v_list(r, from->n);
    for (size_t i = 0; i < from->n; i++)
        list_push(r, l.list, from->items[i]);
    return l;
}

struct value f_reverse(struct run *r, struct value v, const struct args *a)
{
    (void)a;
    struct list *from = iterate(r, v);
    struct value l = v_generator(r);
    struct out o = {0};
    for (size_t i = from->n; i-- > 0;)
        if (v.type == V_STRING)
            out_put(r, &o, from->items[i].s);
        else
            list_push(r, l.list, from->items[i]);
    return v.type == V_STRING ? out_value(&o) : l;
}

static struct value make_pair(struct run *r, struct pair p)
{
    struct value t = v_list(r, 2);
    t.tuple = true;
    list_push(r, t.list, p.key);
    list_push(r, t.list, p.value);
    return t;
}

struct value f_items(struct run *r, struct value v, const struct args *a)
{
    (void)a;
    struct value l = v_list(r, 0);
    if (v.type != V_DICT)
        fail(r, LODGE_ERR_INVALID, "items needs a mapping, not '%s'", type_name(v));
    for (size_t i = 0; i < v.dict->n; i++)
        list_push(r, l.list, make_pair(r, v.dict->pairs[i]));
    return l;
}

struct value f_items_filter(struct run *r, struct value v, const struct args *a)
{
    struct value l = v.type == V_UNDEFINED ? v_list(r, 0) : f_items(r, v, a);
    l.list->generator = true;
    return l;
}

struct value f_keys(struct run *r, struct value v, const struct args *a)
{
    return f_list(r, v, a);
}

struct value f_values(struct run *r, struct value v, const struct args *a)
{
    (void)a;
    struct value l = v_list(r, 0);
    for (size_t i = 0; i < v.dict->n; i++)
        list_push(r, l.list, v.dict->pairs[i].value);
    return l;
}

struct value f_get(struct run *r, struct value v, const struct args *a)
{
    struct value *m = dict_get(v.dict, args_need(r, a, "get"));
    return m ? *m : a->n > 1 ? a->v[1] : v_none();
}

struct value f_append(struct run *r, struct value v, const struct args *a)
{
    list_push(r, v.list, args_need(r, a, "append"));
    return v_none();
}

struct value f_pop(struct run *r, struct value v, const struct args *a)
{
    int64_t n = (int64_t)v.list->n, i = a->n && a->v[0].type == V_INT ? a->v[0].i : n - 1;
    i = i < 0 ? i + n : i;
    if (i < 0 || i >= n)
        fail(r, LODGE_ERR_INVALID, "pop index out of range");
    struct value out = v.list->items[i];
    memmove(&v.list->items[i], &v.list->items[i + 1], (size_t)(n - i - 1) * sizeof out);
    v.list->n--;
    return out;
}

struct value member(struct run *r, struct value v, struct value path)
{
    if (path.type != V_STRING)
        return get_item(r, v, path);
    while (path.s.n) {
        const char *dot = memchr(path.s.p, '.', path.s.n);
        size_t len = dot ? (size_t)(dot - path.s.p) : path.s.n;
        struct value key = substring(path, 0, len);
        bool digits = len > 0 && len < 10;
        for (size_t i = 0; i < len; i++)
            digits = digits && isdigit((unsigned char)key.s.p[i]);
        if (v.type == V_UNDEFINED)
            return v;
        v = get_item(r, v, digits ? v_int(atoll(key.s.p)) : key);
        path = substring(path, len + (dot != NULL), path.s.n);
    }
    return v;
}

/* select, reject, selectattr, rejectattr: a test by name with its arguments. */
static struct value choose(struct run *r, struct value v, const struct args *a, bool attr,
                           bool keep)
{
    if (!is_true(v)) /* whatever it is: Jinja2 does not go over it */
        return v_generator(r);
    struct list *l = iterate(r, v);
    size_t at = attr ? 1 : 0;
    if (attr && !a->n)
        fail(r, LODGE_ERR_INVALID, "selectattr needs an attribute");
    const char *test = NULL;
    if (a->n > at) {
        struct str s = need_string(r, a->v[at], "select");
        char *name = take(r, s.n + 1);
        memcpy(name, s.p, s.n);
        name[s.n] = 0;
        test = name;
    }
    struct value out = v_generator(r);
    for (size_t i = 0; i < l->n; i++) {
        struct value item = attr ? member(r, l->items[i], a->v[0]) : l->items[i];
        bool yes = test ? apply_test(r, test, item, a->v + at + 1, a->n - at - 1) : is_true(item);
        if (yes == keep)
            list_push(r, out.list, l->items[i]);
    }
    return out;
}

struct value f_select(struct run *r, struct value v, const struct args *a)
{
    return choose(r, v, a, false, true);
}

struct value f_reject(struct run *r, struct value v, const struct args *a)
{
    return choose(r, v, a, false, false);
}

struct value f_selectattr(struct run *r, struct value v, const struct args *a)
{
    return choose(r, v, a, true, true);
}

struct value f_rejectattr(struct run *r, struct value v, const struct args *a)
{
    return choose(r, v, a, true, false);
}

struct value f_map(struct run *r, struct value v, const struct args *a)
{
    if (!is_true(v))
        return v_generator(r);
    struct list *l = iterate(r, v);
    struct value *attr = dict_find(a->kwargs, "attribute"),
                 *missing = dict_find(a->kwargs, "default");
    struct value out = v_generator(r);
    if (!attr && !a->n)
        fail(r, LODGE_ERR_INVALID, "map needs a filter or an attribute");
    for (size_t i = 0; i < l->n; i++) {
        struct value x;
        if (attr) {
            x = member(r, l->items[i], *attr);
            if (x.type == V_UNDEFINED && missing)
                x = *missing;
        } else {
            struct str s = need_string(r, a->v[0], "map");
            char *name = take(r, s.n + 1);
            memcpy(name, s.p, s.n);
            name[s.n] = 0;
            x = apply_filter(r, name, l->items[i], a->v + 1, a->n - 1, a->kwargs);
        }
        list_push(r, out.list, x);
    }
    return out;
}

/* Rows of n; the last is filled up where a filling is given. */
struct value f_batch(struct run *r, struct value v, const struct args *a)
{
    struct list *l = iterate(r, v);
    struct value *n = args_get(a, 0, "linecount"), *fill = args_get(a, 1, "fill_with"),
                 out = v_generator(r), row = v_none();
    if (!n || n->type != V_INT || n->i < 1 || n->i > 100000)
        fail(r, LODGE_ERR_INVALID, "batch needs a number of items");
    for (size_t i = 0; i < l->n; i++) {
        if (i % (size_t)n->i == 0) {
            row = v_list(r, 0);
            list_push(r, out.list, row);
        }
        list_push(r, row.list, l->items[i]);
    }
    while (l->n && fill && fill->type != V_NONE && row.list->n < (size_t)n->i)
        list_push(r, row.list, *fill);
    return out;
}

/* n columns, the first ones longer by one. */
struct value f_slice(struct run *r, struct value v, const struct args *a)
{
    struct list *l = iterate(r, v);
    struct value *n = args_get(a, 0, "slices"), *fill = args_get(a, 1, "fill_with"),
                 out = v_generator(r);
    if (!n || n->type != V_INT || n->i < 1 || n->i > 100000)
        fail(r, LODGE_ERR_INVALID, "slice needs a number of columns");
    size_t columns = (size_t)n->i, at = 0;
    for (size_t c = 0; c < columns; c++) {
        struct value column = v_list(r, 0);
        for (size_t k = l->n / columns + (c < l->n % columns); k > 0; k--)
            list_push(r, column.list, l->items[at++]);
        if (fill && fill->type != V_NONE && c >= l->n % columns)
            list_push(r, column.list, *fill);
        list_push(r, out.list, column);
    }
    return out;
}

struct value f_index_of(struct run *r, struct value v, const struct args *a)
{
    struct value item = args_need(r, a, "index");
    for (size_t i = 0; i < v.list->n; i++)
        if (same(r, v.list->items[i], item))
            return v_int((int64_t)i);
    fail(r, LODGE_ERR_INVALID, "the item is not in the list");
}

struct value f_count_of(struct run *r, struct value v, const struct args *a)
{
    struct value item = args_need(r, a, "count");
    int64_t n = 0;
    for (size_t i = 0; i < v.list->n; i++)
        n += same(r, v.list->items[i], item);
    return v_int(n);
}

struct value f_copy(struct run *r, struct value v, const struct args *a)
{
    if (v.type == V_LIST)
        return f_list(r, v, a);
    struct value d = v_dict(r);
    for (size_t i = 0; i < v.dict->n; i++)
        dict_set(r, d.dict, v.dict->pairs[i].key, v.dict->pairs[i].value);
    return d;
}
