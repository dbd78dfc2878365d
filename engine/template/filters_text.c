/* Filters and methods of strings. Case is changed and classes are told for ASCII only; what is cut
 * or copied keeps the marks of whose text it is. */
#include "engine/template/filters.h"

#include <ctype.h>
#include <string.h>

struct value string_map_ascii(struct run *r, struct value v, int (*fn)(int), bool first_only)
{
    char *p = take(r, v.s.n + 1);
    for (size_t i = 0; i < v.s.n; i++) {
        unsigned char c = (unsigned char)v.s.p[i];
        p[i] = (char)(c < 0x80 && (!first_only || i == 0) ? fn(c) : c);
    }
    v.s.p = p;
    return v;
}

struct value f_upper(struct run *r, struct value v, const struct args *a)
{
    (void)a;
    return string_map_ascii(r, to_text(r, v), toupper, false);
}

struct value f_lower(struct run *r, struct value v, const struct args *a)
{
    (void)a;
    return string_map_ascii(r, to_text(r, v), tolower, false);
}

struct value f_capitalize(struct run *r, struct value v, const struct args *a)
{
    return string_map_ascii(r, f_lower(r, v, a), toupper, true);
}

struct value f_title(struct run *r, struct value v, const struct args *a)
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
    struct value *chars = args_get(a, 0, "chars");
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

struct value f_trim(struct run *r, struct value v, const struct args *a)
{
    return strip(r, v, a, 3);
}

struct value f_lstrip(struct run *r, struct value v, const struct args *a)
{
    return strip(r, v, a, 1);
}

struct value f_rstrip(struct run *r, struct value v, const struct args *a)
{
    return strip(r, v, a, 2);
}

struct value f_replace(struct run *r, struct value v, const struct args *a)
{
    v = to_text(r, v);
    struct value *from = args_get(a, 0, "old"), *to = args_get(a, 1, "new"),
                 *most = args_get(a, 2, "count");
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

struct value f_split(struct run *r, struct value v, const struct args *a)
{
    need_string(r, v, "split");
    struct value *by = args_get(a, 0, "sep"), *count = args_get(a, 1, "maxsplit");
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

struct value f_rsplit(struct run *r, struct value v, const struct args *a)
{
    struct value *by = args_get(a, 0, "sep"), *count = args_get(a, 1, "maxsplit");
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

struct value f_splitlines(struct run *r, struct value v, const struct args *a)
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

struct value f_startswith(struct run *r, struct value v, const struct args *a)
{
    return v_bool(has_affix(r, v.s, args_need(r, a, "startswith"), true));
}

struct value f_endswith(struct run *r, struct value v, const struct args *a)
{
    return v_bool(has_affix(r, v.s, args_need(r, a, "endswith"), false));
}

struct value f_find(struct run *r, struct value v, const struct args *a)
{
    struct str x = need_string(r, args_need(r, a, "find"), "find");
    const char *hit = x.n ? memmem(v.s.p, v.s.n, x.p, x.n) : v.s.p;
    return v_int(hit ? (int64_t)code_points(substring(v, 0, (size_t)(hit - v.s.p)).s) : -1);
}

struct value f_count_in(struct run *r, struct value v, const struct args *a)
{
    struct str x = need_string(r, args_need(r, a, "count"), "count");
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

struct value f_isdigit(struct run *r, struct value v, const struct args *a)
{
    (void)r;
    (void)a;
    return predicate(v, isdigit);
}

struct value f_isspace(struct run *r, struct value v, const struct args *a)
{
    (void)r;
    (void)a;
    return predicate(v, isspace);
}

struct value f_isalpha(struct run *r, struct value v, const struct args *a)
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

struct value f_join(struct run *r, struct value v, const struct args *a)
{
    struct value *sep = args_get(a, 0, "d");
    return join(r, v, sep ? to_text(r, *sep).s : (struct str){.p = ""},
                args_get(a, 1, "attribute"));
}

struct value f_join_method(struct run *r, struct value v, const struct args *a)
{
    return join(r, args_need(r, a, "join"), v.s, NULL);
}

struct value f_indent(struct run *r, struct value v, const struct args *a)
{
    v = to_text(r, v);
    struct value *w = args_get(a, 0, "width"), *f = args_get(a, 1, "first"),
                 *b = args_get(a, 2, "blank");
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
