/* Filters and methods of lists and dicts: access to items, order, choice of items by a test, and
 * the application of a filter to each. */
#include "engine/template/filters.h"

#include <ctype.h>
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
    struct value l = v_list(r, from->n);
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
    if (v.type == V_UNDEFINED)
        return l;
    if (v.type != V_DICT)
        fail(r, LODGE_ERR_INVALID, "items needs a mapping, not '%s'", type_name(v));
    for (size_t i = 0; i < v.dict->n; i++)
        list_push(r, l.list, make_pair(r, v.dict->pairs[i]));
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

/* A member by "a" or "a.b" of a dict; index by number. */
static struct value member(struct run *r, struct value v, struct value path)
{
    if (path.type == V_INT && v.type == V_LIST)
        return path.i >= 0 && (size_t)path.i < v.list->n ? v.list->items[path.i]
                                                         : v_undefined("index");
    struct str s = need_string(r, path, "attribute");
    while (s.n) {
        const char *dot = memchr(s.p, '.', s.n);
        size_t len = dot ? (size_t)(dot - s.p) : s.n;
        struct value *m = v.type == V_DICT ? dict_get(v.dict, v_string(s.p, len)) : NULL;
        if (!m)
            return v_undefined("attribute");
        v = *m;
        s.p += len + (dot != NULL);
        s.n -= len + (dot != NULL);
    }
    return v;
}

struct sort_key {
    struct value key, item;
};

static void merge_sort(struct run *r, struct sort_key *k, struct sort_key *tmp, size_t n, int sign)
{
    if (n < 2)
        return;
    size_t half = n / 2, i = 0, j = half, at = 0;
    merge_sort(r, k, tmp, half, sign);
    merge_sort(r, k + half, tmp, n - half, sign);
    while (i < half || j < n) {
        step(r, 1);
        bool left = j == n || (i < half && sign * order(r, k[i].key, k[j].key) <= 0);
        tmp[at++] = left ? k[i++] : k[j++];
    }
    memcpy(k, tmp, n * sizeof *k);
}

static struct value fold_case(struct run *r, struct value v, bool sensitive)
{
    return v.type == V_STRING && !sensitive ? string_map_ascii(r, v, tolower, false) : v;
}

struct value f_sort(struct run *r, struct value v, const struct args *a)
{
    struct value *rev = args_get(a, 0, "reverse"), *sens = args_get(a, 1, "case_sensitive"),
                 *attr = args_get(a, 2, "attribute");
    struct list *l = iterate(r, v);
    struct sort_key *k = take(r, (l->n + 1) * sizeof *k), *tmp = take(r, (l->n + 1) * sizeof *k);
    for (size_t i = 0; i < l->n; i++) {
        struct value key =
            attr && attr->type != V_NONE ? member(r, l->items[i], *attr) : l->items[i];
        k[i] = (struct sort_key){fold_case(r, key, sens && is_true(*sens)), l->items[i]};
    }
    merge_sort(r, k, tmp, l->n, rev && is_true(*rev) ? -1 : 1);
    struct value out = v_list(r, l->n);
    for (size_t i = 0; i < l->n; i++)
        list_push(r, out.list, k[i].item);
    return out;
}

struct value f_dictsort(struct run *r, struct value v, const struct args *a)
{
    struct value *rev = args_get(a, 2, "reverse");
    struct value pairs = f_items(r, v, a);
    struct sort_key *k = take(r, (pairs.list->n + 1) * sizeof *k),
                    *tmp = take(r, (pairs.list->n + 1) * sizeof *k);
    for (size_t i = 0; i < pairs.list->n; i++)
        k[i] = (struct sort_key){fold_case(r, pairs.list->items[i].list->items[0], false),
                                 pairs.list->items[i]};
    merge_sort(r, k, tmp, pairs.list->n, rev && is_true(*rev) ? -1 : 1);
    for (size_t i = 0; i < pairs.list->n; i++)
        pairs.list->items[i] = k[i].item;
    return pairs;
}

struct value f_unique(struct run *r, struct value v, const struct args *a)
{
    (void)a;
    struct list *l = iterate(r, v);
    struct value out = v_list(r, 0);
    for (size_t i = 0; i < l->n; i++) {
        bool seen = false;
        for (size_t k = 0; k < out.list->n && !seen; k++)
            seen =
                same(r, fold_case(r, out.list->items[k], false), fold_case(r, l->items[i], false));
        if (!seen)
            list_push(r, out.list, l->items[i]);
    }
    return out;
}

/* select, reject, selectattr, rejectattr: a test by name with its arguments. */
static struct value choose(struct run *r, struct value v, const struct args *a, bool attr,
                           bool keep)
{
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
    struct value out = v_list(r, 0);
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
    struct list *l = iterate(r, v);
    struct value *attr = dict_find(a->kwargs, "attribute"),
                 *missing = dict_find(a->kwargs, "default");
    struct value out = v_list(r, l->n);
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

static struct value extreme(struct run *r, struct value v, int sign)
{
    struct list *l = iterate(r, v);
    if (!l->n)
        return v_undefined("extreme");
    struct value best = l->items[0];
    for (size_t i = 1; i < l->n; i++)
        if (sign * order(r, l->items[i], best) > 0)
            best = l->items[i];
    return best;
}

struct value f_max(struct run *r, struct value v, const struct args *a)
{
    (void)a;
    return extreme(r, v, 1);
}

struct value f_min(struct run *r, struct value v, const struct args *a)
{
    (void)a;
    return extreme(r, v, -1);
}
