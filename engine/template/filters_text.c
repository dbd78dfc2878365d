/* Filters and methods that search, cut and join strings; what is cut or copied keeps the marks of
 * whose text it is. Positions count code points. */
#include "engine/template/filters.h"
#include "engine/template/letters.h"

#include <string.h>

/* ---- ends ---- */

/* White space, or one of the characters of a set. */
static bool in_set(const struct str *set, uint32_t cp)
{
    if (!set)
        return letter_is_space(cp);
    uint32_t other = 0;
    for (size_t at = 0; at < set->n;) {
        at += letter_at(set->p + at, set->n - at, &other);
        if (other == cp)
            return true;
    }
    return false;
}

static struct value strip(struct run *r, struct value v, const struct args *a, int sides)
{
    v = to_text(r, v);
    struct value *chars = args_get(a, 0, "chars");
    const struct str *set = chars && chars->type == V_STRING ? &chars->s : NULL;
    size_t from = 0, to = v.s.n, len;
    uint32_t cp = 0;
    step(r, v.s.n / 64);
    while ((sides & 1) && from < to) {
        len = letter_at(v.s.p + from, to - from, &cp);
        if (!in_set(set, cp))
            break;
        from += len;
    }
    while ((sides & 2) && to > from) {
        len = letter_before(v.s.p + from, to - from, &cp);
        if (!in_set(set, cp))
            break;
        to -= len;
    }
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

static bool has_affix(struct str s, struct str x, bool front)
{
    return x.n <= s.n && memcmp(front ? s.p : s.p + s.n - x.n, x.p, x.n) == 0;
}

static struct value drop_affix(struct run *r, struct value v, const struct args *a, bool front)
{
    struct str x = need_string(r, args_need(r, a, "removeprefix"), "removeprefix");
    if (!has_affix(v.s, x, front))
        return v;
    return front ? substring(v, x.n, v.s.n) : substring(v, 0, v.s.n - x.n);
}

struct value f_removeprefix(struct run *r, struct value v, const struct args *a)
{
    return drop_affix(r, v, a, true);
}

struct value f_removesuffix(struct run *r, struct value v, const struct args *a)
{
    return drop_affix(r, v, a, false);
}

/* ---- search ---- */

/* The part of a string that the optional arguments `first` (start) and `first` + 1 (end) choose,
 * and at which byte it begins; false when it begins behind the end. */
static bool window(struct run *r, struct value v, const struct args *a, size_t first,
                   struct value *part, size_t *begin)
{
    int64_t n = (int64_t)code_points(v.s), bounds[2] = {0, n};
    for (size_t i = 0; i < 2; i++) {
        struct value *b = args_get(a, first + i, NULL);
        if (!b || b->type == V_NONE)
            continue;
        if (b->type != V_INT)
            fail(r, LODGE_ERR_INVALID, "positions must be integers");
        bounds[i] = b->i < 0 ? (b->i + n < 0 ? 0 : b->i + n) : b->i;
    }
    if (bounds[0] > n)
        return false;
    *begin = offset_of(v.s, bounds[0]);
    size_t end = offset_of(v.s, bounds[1]);
    *part = substring(v, *begin, end > *begin ? end : *begin);
    return true;
}

/* One affix, or a tuple of them. */
static bool any_affix(struct run *r, struct str s, struct value affix, bool front)
{
    if (affix.type == V_LIST && affix.tuple) {
        for (size_t i = 0; i < affix.list->n; i++)
            if (any_affix(r, s, affix.list->items[i], front))
                return true;
        return false;
    }
    return has_affix(s, need_string(r, affix, front ? "startswith" : "endswith"), front);
}

static struct value affix_test(struct run *r, struct value v, const struct args *a, bool front)
{
    struct value part, affix = args_need(r, a, front ? "startswith" : "endswith");
    size_t begin;
    return v_bool(window(r, v, a, 1, &part, &begin) && any_affix(r, part.s, affix, front));
}

struct value f_startswith(struct run *r, struct value v, const struct args *a)
{
    return affix_test(r, v, a, true);
}

struct value f_endswith(struct run *r, struct value v, const struct args *a)
{
    return affix_test(r, v, a, false);
}

/* Byte of the first, or last, occurrence; n + 1 when there is none. */
static size_t occurrence(struct str s, struct str x, bool last)
{
    size_t found = s.n + 1;
    if (!x.n)
        return last ? s.n : 0;
    for (size_t at = 0; at + x.n <= s.n;) {
        const char *hit = memmem(s.p + at, s.n - at, x.p, x.n);
        if (!hit)
            break;
        found = (size_t)(hit - s.p);
        if (!last)
            break;
        at = found + 1;
    }
    return found;
}

static struct value position(struct run *r, struct value v, const struct args *a, bool last,
                             bool must)
{
    struct value part;
    size_t begin, at;
    struct str x = need_string(r, args_need(r, a, "find"), "find");
    step(r, v.s.n / 16);
    if (window(r, v, a, 1, &part, &begin)) {
        at = occurrence(part.s, x, last);
        if (at <= part.s.n)
            return v_int((int64_t)code_points(substring(v, 0, begin + at).s));
    }
    if (must)
        fail(r, LODGE_ERR_INVALID, "substring not found");
    return v_int(-1);
}

struct value f_find(struct run *r, struct value v, const struct args *a)
{
    return position(r, v, a, false, false);
}

struct value f_rfind(struct run *r, struct value v, const struct args *a)
{
    return position(r, v, a, true, false);
}

struct value f_index_in(struct run *r, struct value v, const struct args *a)
{
    return position(r, v, a, false, true);
}

struct value f_rindex_in(struct run *r, struct value v, const struct args *a)
{
    return position(r, v, a, true, true);
}

struct value f_count_in(struct run *r, struct value v, const struct args *a)
{
    struct str x = need_string(r, args_need(r, a, "count"), "count");
    struct value part;
    size_t begin, at = 0;
    int64_t n = 0;
    step(r, v.s.n / 16);
    if (!window(r, v, a, 1, &part, &begin))
        return v_int(0);
    if (!x.n)
        return v_int((int64_t)code_points(part.s) + 1);
    for (const char *hit; (hit = memmem(part.s.p + at, part.s.n - at, x.p, x.n)); n++)
        at = (size_t)(hit - part.s.p) + x.n;
    return v_int(n);
}

/* ---- replacement ---- */

/* An empty text stands before every character and at the end. */
static struct value interleave(struct run *r, struct value v, struct str new, int64_t left)
{
    struct out o = {0};
    for (size_t at = 0; at <= v.s.n;) {
        uint32_t cp;
        if (left-- != 0)
            out_put(r, &o, new);
        else
            left = 0;
        if (at == v.s.n)
            break;
        size_t len = letter_at(v.s.p + at, v.s.n - at, &cp);
        out_put(r, &o, substring(v, at, at + len).s);
        at += len;
    }
    return out_value(&o);
}

struct value f_replace(struct run *r, struct value v, const struct args *a)
{
    v = to_text(r, v);
    struct value *from = args_get(a, 0, "old"), *to = args_get(a, 1, "new"),
                 *most = args_get(a, 2, "count");
    if (!from || !to)
        fail(r, LODGE_ERR_INVALID, "replace needs two strings");
    struct str old = to_text(r, *from).s, new = to_text(r, *to).s;
    int64_t left = most && most->type == V_INT && most->i >= 0 ? most->i : INT64_MAX;
    if (!old.n)
        return interleave(r, v, new, left);
    struct out o = {0};
    size_t at = 0;
    while (left-- != 0 && at < v.s.n) {
        const char *hit = memmem(v.s.p + at, v.s.n - at, old.p, old.n);
        if (!hit)
            break;
        out_put(r, &o, substring(v, at, (size_t)(hit - v.s.p)).s);
        out_put(r, &o, new);
        at = (size_t)(hit - v.s.p) + old.n;
    }
    out_put(r, &o, substring(v, at, v.s.n).s);
    return out_value(&o);
}

/* ---- parts ---- */

/* End of the run of characters that are white space, or are none, at s[at]. */
static size_t run_end(struct str s, size_t at, bool space)
{
    uint32_t cp;
    while (at < s.n) {
        size_t len = letter_at(s.p + at, s.n - at, &cp);
        if (letter_is_space(cp) != space)
            break;
        at += len;
    }
    return at;
}

static size_t run_begin(struct str s, size_t end, bool space)
{
    uint32_t cp;
    while (end > 0) {
        size_t len = letter_before(s.p, end, &cp);
        if (letter_is_space(cp) != space)
            break;
        end -= len;
    }
    return end;
}

static struct value split_spaces(struct run *r, struct value v, int64_t most)
{
    struct value l = v_list(r, 0);
    for (size_t at = run_end(v.s, 0, true); at < v.s.n; at = run_end(v.s, at, true)) {
        size_t end = most-- == 0 ? v.s.n : run_end(v.s, at, false);
        list_push(r, l.list, substring(v, at, end));
        at = end;
    }
    return l;
}

/* Last word first. */
static struct value split_spaces_back(struct run *r, struct value v, int64_t most)
{
    struct value l = v_list(r, 0);
    for (size_t end = run_begin(v.s, v.s.n, true); end > 0; end = run_begin(v.s, end, true)) {
        size_t at = most-- == 0 ? 0 : run_begin(v.s, end, false);
        list_push(r, l.list, substring(v, at, end));
        end = at;
    }
    return l;
}

static struct value split_back(struct run *r, struct value v, struct str sep, int64_t most)
{
    struct value l = v_list(r, 0);
    size_t end = v.s.n, at;
    while (most-- != 0 && (at = occurrence(substring(v, 0, end).s, sep, true)) <= end) {
        step(r, end / 16);
        list_push(r, l.list, substring(v, at + sep.n, end));
        end = at;
    }
    list_push(r, l.list, substring(v, 0, end));
    return l;
}

static struct value split_forward(struct run *r, struct value v, struct str sep, int64_t most)
{
    struct value l = v_list(r, 0);
    size_t at = 0;
    for (const char *hit; most-- != 0 && (hit = memmem(v.s.p + at, v.s.n - at, sep.p, sep.n));) {
        list_push(r, l.list, substring(v, at, (size_t)(hit - v.s.p)));
        at = (size_t)(hit - v.s.p) + sep.n;
    }
    list_push(r, l.list, substring(v, at, v.s.n));
    return l;
}

static struct value split(struct run *r, struct value v, const struct args *a, bool back)
{
    need_string(r, v, "split");
    struct value *by = args_get(a, 0, "sep"), *count = args_get(a, 1, "maxsplit"), l;
    int64_t most = count && count->type == V_INT ? count->i : -1;
    back = back && most >= 0;
    if (!by || by->type == V_NONE) {
        l = back ? split_spaces_back(r, v, most) : split_spaces(r, v, most);
    } else {
        struct str sep = need_string(r, *by, "split");
        if (!sep.n)
            fail(r, LODGE_ERR_INVALID, "empty separator");
        l = back ? split_back(r, v, sep, most) : split_forward(r, v, sep, most);
    }
    for (size_t i = 0, n = back ? l.list->n : 0; i < n / 2; i++) {
        struct value swap = l.list->items[i];
        l.list->items[i] = l.list->items[n - 1 - i];
        l.list->items[n - 1 - i] = swap;
    }
    return l;
}

struct value f_split(struct run *r, struct value v, const struct args *a)
{
    return split(r, v, a, false);
}

struct value f_rsplit(struct run *r, struct value v, const struct args *a)
{
    return split(r, v, a, true);
}

static struct value partition(struct run *r, struct value v, const struct args *a, bool last)
{
    struct value sep = args_need(r, a, "partition"), l = v_list(r, 3), none = v_string("", 0);
    struct str x = need_string(r, sep, "partition");
    if (!x.n)
        fail(r, LODGE_ERR_INVALID, "empty separator");
    size_t at = occurrence(v.s, x, last);
    bool found = at <= v.s.n;
    l.tuple = true;
    list_push(r, l.list, found ? substring(v, 0, at) : last ? none : v);
    list_push(r, l.list, found ? sep : none);
    list_push(r, l.list, found ? substring(v, at + x.n, v.s.n) : last ? v : none);
    return l;
}

struct value f_partition(struct run *r, struct value v, const struct args *a)
{
    return partition(r, v, a, false);
}

struct value f_rpartition(struct run *r, struct value v, const struct args *a)
{
    return partition(r, v, a, true);
}

static bool ends_line(uint32_t cp)
{
    return (cp >= '\n' && cp <= '\r') || (cp >= 0x1C && cp <= 0x1E) || cp == 0x85 || cp == 0x2028 ||
           cp == 0x2029;
}

struct value f_splitlines(struct run *r, struct value v, const struct args *a)
{
    struct value *keep = args_get(a, 0, "keepends"), l = v_list(r, 0);
    bool whole = keep && is_true(*keep);
    for (size_t at = 0; at < v.s.n;) {
        size_t end = at, next = v.s.n;
        while (end < v.s.n) {
            uint32_t cp;
            size_t len = letter_at(v.s.p + end, v.s.n - end, &cp);
            if (ends_line(cp)) {
                bool pair = cp == '\r' && end + 1 < v.s.n && v.s.p[end + 1] == '\n';
                next = end + len + pair;
                break;
            }
            end += len;
        }
        list_push(r, l.list, substring(v, at, whole ? next : end));
        at = next;
    }
    return l;
}

/* ---- joining ---- */

static struct value join(struct run *r, struct list *l, struct str sep, const struct value *attr,
                         bool strings_only)
{
    struct out o = {0};
    for (size_t i = 0; i < l->n; i++) {
        struct value v = attr && attr->type != V_NONE ? member(r, l->items[i], *attr) : l->items[i];
        if (strings_only)
            need_string(r, v, "join");
        if (i)
            out_put(r, &o, sep);
        out_put(r, &o, to_text(r, v).s);
    }
    return out_value(&o);
}

struct value f_join(struct run *r, struct value v, const struct args *a)
{
    struct value *sep = args_get(a, 0, "d");
    return join(r, iterate(r, v), sep ? to_text(r, *sep).s : (struct str){.p = ""},
                args_get(a, 1, "attribute"), false);
}

struct value f_join_method(struct run *r, struct value v, const struct args *a)
{
    return join(r, iterate(r, args_need(r, a, "join")), v.s, NULL, true);
}

struct value f_indent(struct run *r, struct value v, const struct args *a)
{
    need_string(r, v, "indent");
    struct value *w = args_get(a, 0, "width"), *f = args_get(a, 1, "first"),
                 *b = args_get(a, 2, "blank");
    struct value space = v_text(" ");
    struct value by =
        w && w->type == V_STRING ? *w : repeat(r, space, w && w->type == V_INT ? w->i : 4);
    bool first = f && is_true(*f), blank = b && is_true(*b);
    struct out o = {0};
    v = concat(r, v, v_text("\n")); /* so that what follows a last newline is a line */
    struct list *lines = f_splitlines(r, v, &(struct args){.kwargs = v_dict(r).dict}).list;
    for (size_t i = 0; i < lines->n; i++) {
        if (i)
            out_put(r, &o, v_text("\n").s);
        if (i ? lines->items[i].s.n || blank : first)
            out_put(r, &o, by.s);
        out_put(r, &o, lines->items[i].s);
    }
    return out_value(&o);
}
