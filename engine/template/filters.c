/* Filters, tests, methods and functions: tables of name and function. */
#include "engine/template/value.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct args {
    const struct value *v;
    size_t n;
    struct dict *kwargs;
};

static struct value *arg(const struct args *a, size_t i, const char *name)
{
    if (i < a->n)
        return (struct value *)(uintptr_t)&a->v[i];
    return name ? dict_find(a->kwargs, name) : NULL;
}

static struct str need_string(struct run *r, struct value v, const char *what)
{
    if (v.type == V_UNDEFINED)
        fail(r, LODGE_ERR_INVALID, "'%.100s' is undefined", v.name);
    if (v.type != V_STRING)
        fail(r, LODGE_ERR_INVALID, "%s needs a string, not '%s'", what, type_name(v));
    return v.s;
}

/* ---- strings ---- */

static struct value map_ascii(struct run *r, struct value v, int (*fn)(int), bool first_only)
{
    char *p = take(r, v.s.n + 1);
    for (size_t i = 0; i < v.s.n; i++) {
        unsigned char c = (unsigned char)v.s.p[i];
        p[i] = (char)(c < 0x80 && (!first_only || i == 0) ? fn(c) : c);
    }
    v.s.p = p;
    return v;
}

static struct value f_upper(struct run *r, struct value v, const struct args *a)
{
    (void)a;
    return map_ascii(r, to_text(r, v), toupper, false);
}

static struct value f_lower(struct run *r, struct value v, const struct args *a)
{
    (void)a;
    return map_ascii(r, to_text(r, v), tolower, false);
}

static struct value f_capitalize(struct run *r, struct value v, const struct args *a)
{
    return map_ascii(r, f_lower(r, v, a), toupper, true);
}

static struct value f_title(struct run *r, struct value v, const struct args *a)
{
    v = f_lower(r, v, a);
    char *p = take(r, v.s.n + 1);
    for (size_t i = 0; i < v.s.n; i++) {
        bool start = i == 0 || !isalnum((unsigned char)v.s.p[i - 1]);
        p[i] = start ? (char)toupper((unsigned char)v.s.p[i]) : v.s.p[i];
    }
    v.s.p = p;
    return v;
}

static bool in_set(const struct str *set, char c)
{
    return set ? memchr(set->p, c, set->n) != NULL : isspace((unsigned char)c) != 0;
}

static struct value strip(struct run *r, struct value v, const struct args *a, int sides)
{
    v = to_text(r, v);
    struct value *chars = arg(a, 0, "chars");
    struct str set = {0};
    bool given = chars && chars->type == V_STRING;
    if (given)
        set = chars->s;
    size_t from = 0, to = v.s.n;
    while ((sides & 1) && from < to && in_set(given ? &set : NULL, v.s.p[from]))
        from++;
    while ((sides & 2) && to > from && in_set(given ? &set : NULL, v.s.p[to - 1]))
        to--;
    return substring(v, from, to);
}

static struct value f_trim(struct run *r, struct value v, const struct args *a)
{
    return strip(r, v, a, 3);
}

static struct value f_lstrip(struct run *r, struct value v, const struct args *a)
{
    return strip(r, v, a, 1);
}

static struct value f_rstrip(struct run *r, struct value v, const struct args *a)
{
    return strip(r, v, a, 2);
}

static struct value f_replace(struct run *r, struct value v, const struct args *a)
{
    v = to_text(r, v);
    struct value *from = arg(a, 0, "old"), *to = arg(a, 1, "new"), *most = arg(a, 2, "count");
    if (!from || !to)
        fail(r, LODGE_ERR_INVALID, "replace needs two strings");
    struct str old = need_string(r, *from, "replace"), new = need_string(r, *to, "replace");
    int64_t left = most && most->type == V_INT ? most->i : INT64_MAX;
    struct out o = {0};
    size_t at = 0;
    while (left != 0 && old.n && at < v.s.n) {
        const char *hit = memmem(v.s.p + at, v.s.n - at, old.p, old.n);
        if (!hit)
            break;
        out_put(r, &o, substring(v, at, (size_t)(hit - v.s.p)).s);
        out_put(r, &o, new);
        at = (size_t)(hit - v.s.p) + old.n;
        left--;
    }
    out_put(r, &o, substring(v, at, v.s.n).s);
    return out_value(&o);
}

static struct value split_spaces(struct run *r, struct value v, int64_t most)
{
    struct value l = v_list(r, 0);
    size_t at = 0;
    for (;;) {
        while (at < v.s.n && isspace((unsigned char)v.s.p[at]))
            at++;
        if (at == v.s.n)
            return l;
        size_t end = at;
        while (end < v.s.n && (most == 0 || !isspace((unsigned char)v.s.p[end])))
            end++;
        list_push(r, l.list, substring(v, at, end));
        most--;
        at = end;
    }
}

static struct value f_split(struct run *r, struct value v, const struct args *a)
{
    need_string(r, v, "split");
    struct value *by = arg(a, 0, "sep"), *count = arg(a, 1, "maxsplit");
    int64_t most = count && count->type == V_INT ? count->i : -1;
    if (!by || by->type == V_NONE)
        return split_spaces(r, v, most);
    struct str sep = need_string(r, *by, "split");
    if (!sep.n)
        fail(r, LODGE_ERR_INVALID, "empty separator");
    struct value l = v_list(r, 0);
    size_t at = 0;
    for (const char *hit; most-- != 0 && (hit = memmem(v.s.p + at, v.s.n - at, sep.p, sep.n));) {
        list_push(r, l.list, substring(v, at, (size_t)(hit - v.s.p)));
        at = (size_t)(hit - v.s.p) + sep.n;
    }
    list_push(r, l.list, substring(v, at, v.s.n));
    return l;
}

static struct value f_rsplit(struct run *r, struct value v, const struct args *a)
{
    struct value *by = arg(a, 0, "sep"), *count = arg(a, 1, "maxsplit");
    if (!count || count->type != V_INT || count->i < 0 || !by || by->type == V_NONE)
        return f_split(r, v, a);
    const struct args no_count = {a->v, 1, a->kwargs};
    struct value all = f_split(r, v, &no_count);
    size_t keep = (size_t)count->i;
    if (all.list->n <= keep + 1)
        return all;
    size_t head = all.list->n - keep;
    struct value l = v_list(r, 0);
    const struct value *last = &all.list->items[head - 1];
    list_push(r, l.list, substring(v, 0, (size_t)(last->s.p + last->s.n - v.s.p)));
    for (size_t i = head; i < all.list->n; i++)
        list_push(r, l.list, all.list->items[i]);
    return l;
}

static struct value f_splitlines(struct run *r, struct value v, const struct args *a)
{
    (void)a;
    struct value l = v_list(r, 0);
    for (size_t at = 0; at < v.s.n;) {
        const char *hit = memchr(v.s.p + at, '\n', v.s.n - at);
        size_t end = hit ? (size_t)(hit - v.s.p) : v.s.n;
        list_push(r, l.list, substring(v, at, end));
        at = end + 1;
    }
    return l;
}

/* One affix, or a tuple of them. */
static bool has_affix(struct run *r, struct str s, struct value affix, bool front)
{
    if (affix.type == V_LIST) {
        for (size_t i = 0; i < affix.list->n; i++)
            if (has_affix(r, s, affix.list->items[i], front))
                return true;
        return false;
    }
    struct str x = need_string(r, affix, front ? "startswith" : "endswith");
    return x.n <= s.n && memcmp(front ? s.p : s.p + s.n - x.n, x.p, x.n) == 0;
}

static struct value need_arg(struct run *r, const struct args *a, const char *what)
{
    if (!a->n)
        fail(r, LODGE_ERR_INVALID, "%s needs an argument", what);
    return a->v[0];
}

static struct value f_startswith(struct run *r, struct value v, const struct args *a)
{
    return v_bool(has_affix(r, v.s, need_arg(r, a, "startswith"), true));
}

static struct value f_endswith(struct run *r, struct value v, const struct args *a)
{
    return v_bool(has_affix(r, v.s, need_arg(r, a, "endswith"), false));
}

static struct value f_find(struct run *r, struct value v, const struct args *a)
{
    struct str x = need_string(r, need_arg(r, a, "find"), "find");
    const char *hit = x.n ? memmem(v.s.p, v.s.n, x.p, x.n) : v.s.p;
    return v_int(hit ? (int64_t)code_points(substring(v, 0, (size_t)(hit - v.s.p)).s) : -1);
}

static struct value f_count_in(struct run *r, struct value v, const struct args *a)
{
    struct str x = need_string(r, need_arg(r, a, "count"), "count");
    int64_t n = 0;
    size_t at = 0;
    for (const char *hit; x.n && (hit = memmem(v.s.p + at, v.s.n - at, x.p, x.n)); n++)
        at = (size_t)(hit - v.s.p) + x.n;
    return v_int(n);
}

static struct value predicate(struct value v, int (*fn)(int))
{
    bool all = v.s.n > 0;
    for (size_t i = 0; i < v.s.n; i++)
        all = all && fn((unsigned char)v.s.p[i]);
    return v_bool(all);
}

static struct value f_isdigit(struct run *r, struct value v, const struct args *a)
{
    (void)r;
    (void)a;
    return predicate(v, isdigit);
}

static struct value f_isspace(struct run *r, struct value v, const struct args *a)
{
    (void)r;
    (void)a;
    return predicate(v, isspace);
}

static struct value f_isalpha(struct run *r, struct value v, const struct args *a)
{
    (void)r;
    (void)a;
    return predicate(v, isalpha);
}

static struct value join(struct run *r, struct value items, struct str sep, struct value *attr)
{
    struct list *l = iterate(r, items);
    struct out o = {0};
    for (size_t i = 0; i < l->n; i++) {
        struct value v = l->items[i];
        if (attr && attr->type == V_STRING) {
            struct value *m = v.type == V_DICT ? dict_get(v.dict, *attr) : NULL;
            v = m ? *m : v_undefined("attribute");
        }
        if (i)
            out_put(r, &o, sep);
        out_put(r, &o, to_text(r, v).s);
    }
    return out_value(&o);
}

static struct value f_join(struct run *r, struct value v, const struct args *a)
{
    struct value *sep = arg(a, 0, "d");
    return join(r, v, sep ? to_text(r, *sep).s : (struct str){.p = ""}, arg(a, 1, "attribute"));
}

static struct value f_join_method(struct run *r, struct value v, const struct args *a)
{
    return join(r, need_arg(r, a, "join"), v.s, NULL);
}

static struct value f_indent(struct run *r, struct value v, const struct args *a)
{
    v = to_text(r, v);
    struct value *w = arg(a, 0, "width"), *f = arg(a, 1, "first"), *b = arg(a, 2, "blank");
    int64_t width = w && w->type == V_INT ? w->i : 4;
    bool first = f && is_true(*f), blank = b && is_true(*b);
    struct out o = {0};
    for (size_t at = 0; at <= v.s.n;) {
        const char *hit = at < v.s.n ? memchr(v.s.p + at, '\n', v.s.n - at) : NULL;
        size_t end = hit ? (size_t)(hit - v.s.p) : v.s.n;
        for (int64_t i = 0; i < width && (at ? end > at || blank : first); i++)
            out_put(r, &o, v_text(" ").s);
        out_put(r, &o, substring(v, at, hit ? end + 1 : end).s);
        at = end + 1;
        if (!hit)
            break;
    }
    return out_value(&o);
}

/* ---- lists and dicts ---- */

static struct value f_length(struct run *r, struct value v, const struct args *a)
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

static struct value f_first(struct run *r, struct value v, const struct args *a)
{
    (void)a;
    struct list *l = iterate(r, v);
    return l->n ? l->items[0] : v_undefined("first");
}

static struct value f_last(struct run *r, struct value v, const struct args *a)
{
    (void)a;
    struct list *l = iterate(r, v);
    return l->n ? l->items[l->n - 1] : v_undefined("last");
}

static struct value f_list(struct run *r, struct value v, const struct args *a)
{
    (void)a;
    struct list *from = iterate(r, v);
    struct value l = v_list(r, from->n);
    for (size_t i = 0; i < from->n; i++)
        list_push(r, l.list, from->items[i]);
    return l;
}

static struct value f_reverse(struct run *r, struct value v, const struct args *a)
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

static struct value f_items(struct run *r, struct value v, const struct args *a)
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

static struct value f_keys(struct run *r, struct value v, const struct args *a)
{
    return f_list(r, v, a);
}

static struct value f_values(struct run *r, struct value v, const struct args *a)
{
    (void)a;
    struct value l = v_list(r, 0);
    for (size_t i = 0; i < v.dict->n; i++)
        list_push(r, l.list, v.dict->pairs[i].value);
    return l;
}

static struct value f_get(struct run *r, struct value v, const struct args *a)
{
    struct value *m = dict_get(v.dict, need_arg(r, a, "get"));
    return m ? *m : a->n > 1 ? a->v[1] : v_none();
}

static struct value f_append(struct run *r, struct value v, const struct args *a)
{
    list_push(r, v.list, need_arg(r, a, "append"));
    return v_none();
}

static struct value f_pop(struct run *r, struct value v, const struct args *a)
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
    return v.type == V_STRING && !sensitive ? map_ascii(r, v, tolower, false) : v;
}

static struct value f_sort(struct run *r, struct value v, const struct args *a)
{
    struct value *rev = arg(a, 0, "reverse"), *sens = arg(a, 1, "case_sensitive"),
                 *attr = arg(a, 2, "attribute");
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

static struct value f_dictsort(struct run *r, struct value v, const struct args *a)
{
    struct value *rev = arg(a, 2, "reverse");
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

static struct value f_unique(struct run *r, struct value v, const struct args *a)
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

static struct value f_select(struct run *r, struct value v, const struct args *a)
{
    return choose(r, v, a, false, true);
}

static struct value f_reject(struct run *r, struct value v, const struct args *a)
{
    return choose(r, v, a, false, false);
}

static struct value f_selectattr(struct run *r, struct value v, const struct args *a)
{
    return choose(r, v, a, true, true);
}

static struct value f_rejectattr(struct run *r, struct value v, const struct args *a)
{
    return choose(r, v, a, true, false);
}

static struct value f_map(struct run *r, struct value v, const struct args *a)
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

static struct value f_max(struct run *r, struct value v, const struct args *a)
{
    (void)a;
    return extreme(r, v, 1);
}

static struct value f_min(struct run *r, struct value v, const struct args *a)
{
    (void)a;
    return extreme(r, v, -1);
}

/* ---- values ---- */

static struct value f_default(struct run *r, struct value v, const struct args *a)
{
    (void)r;
    struct value *d = arg(a, 0, "default_value"), *falsy = arg(a, 1, "boolean");
    bool missing = v.type == V_UNDEFINED || (falsy && is_true(*falsy) && !is_true(v));
    return !missing ? v : d ? *d : v_text("");
}

static struct value f_string(struct run *r, struct value v, const struct args *a)
{
    (void)a;
    return to_text(r, v);
}

static struct value f_same(struct run *r, struct value v, const struct args *a)
{
    (void)r;
    (void)a;
    return v;
}

static struct value f_tojson(struct run *r, struct value v, const struct args *a)
{
    struct value *indent = dict_find(a->kwargs, "indent");
    if (!indent && a->n)
        indent = arg(a, 0, NULL);
    return to_json(r, v,
                   indent && indent->type == V_INT ? (int)(indent->i > 32 ? 32 : indent->i) : -1);
}

static struct value f_int(struct run *r, struct value v, const struct args *a)
{
    struct value *d = arg(a, 0, "default");
    char text[64] = {0}, *end;
    if (is_number(v)) {
        double f = number(v);
        return fabs(f) < 9e18 ? v_int(v.type == V_INT ? v.i : (int64_t)f) : v_int(0);
    }
    if (v.type == V_STRING && v.s.n && v.s.n < sizeof text) {
        memcpy(text, v.s.p, v.s.n);
        double f = strtod(text, &end);
        if (!*end && isfinite(f) && fabs(f) < 9e18)
            return v_int((int64_t)f);
    }
    (void)r;
    return d ? *d : v_int(0);
}

static struct value f_float(struct run *r, struct value v, const struct args *a)
{
    struct value *d = arg(a, 0, "default");
    char text[64] = {0}, *end;
    (void)r;
    if (is_number(v))
        return v_float(number(v));
    if (v.type == V_STRING && v.s.n && v.s.n < sizeof text) {
        memcpy(text, v.s.p, v.s.n);
        double f = strtod(text, &end);
        if (!*end)
            return v_float(f);
    }
    return d ? *d : v_float(0);
}

static struct value f_abs(struct run *r, struct value v, const struct args *a)
{
    (void)a;
    if (!is_number(v))
        fail(r, LODGE_ERR_INVALID, "abs needs a number");
    return v.type == V_FLOAT ? v_float(fabs(v.f)) : v_int(llabs(v.type == V_BOOL ? v.b : v.i));
}

static struct value f_round(struct run *r, struct value v, const struct args *a)
{
    struct value *digits = arg(a, 0, "precision");
    if (!is_number(v))
        fail(r, LODGE_ERR_INVALID, "round needs a number");
    double scale = pow(10, digits && digits->type == V_INT ? (double)digits->i : 0);
    return v_float(nearbyint(number(v) * scale) / scale);
}

static struct value f_sum(struct run *r, struct value v, const struct args *a)
{
    (void)a;
    struct list *l = iterate(r, v);
    double sum = 0;
    bool real = false;
    for (size_t i = 0; i < l->n; i++) {
        if (!is_number(l->items[i]))
            fail(r, LODGE_ERR_INVALID, "sum needs numbers");
        real |= l->items[i].type == V_FLOAT;
        sum += number(l->items[i]);
    }
    return real ? v_float(sum) : v_int((int64_t)sum);
}

static struct value f_escape(struct run *r, struct value v, const struct args *a)
{
    (void)a;
    v = to_text(r, v);
    struct out o = {0};
    static const char from[] = "&<>\"'";
    static const char *const to[] = {"&amp;", "&lt;", "&gt;", "&#34;", "&#39;"};
    for (size_t i = 0; i < v.s.n; i++) {
        const char *hit = v.s.p[i] ? strchr(from, v.s.p[i]) : NULL;
        out_put(r, &o, hit ? v_text(to[hit - from]).s : substring(v, i, i + 1).s);
    }
    return out_value(&o);
}

/* ---- tables ---- */

struct entry {
    const char *name;
    struct value (*fn)(struct run *, struct value, const struct args *);
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
            return same(r, t, map_ascii(r, t, op == 7 ? tolower : toupper, false));
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
    struct str s = need_string(r, need_arg(r, a, "strftime_now"), "strftime_now");
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
