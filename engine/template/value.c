/* Values: making, comparing and printing them, to and from JSON, strings with the marks of whose
 * text they are, and how a run fails, counts its steps and takes memory. */
#include "engine/template/value.h"

#include "base/utf8.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void fail(struct run *r, int code, const char *fmt, ...)
{
    char text[600];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (r->fault.line)
        lodge_fail(r->fault.e, code, "chat template line %u: %s", r->fault.line, text);
    else
        lodge_fail(r->fault.e, code, "%s", text);
    r->fault.code = code;
    longjmp(r->fault.jump, 1);
}

void step(struct run *r, uint64_t n)
{
    r->steps += n;
    if (r->steps > r->limits->max_steps)
        fail(r, LODGE_ERR_LIMIT, "the template runs too long");
}

void *take(struct run *r, size_t n)
{
    void *p = lodge_arena_alloc(&r->arena, n ? n : 1);
    if (!p)
        fail(r, LODGE_ERR_LIMIT, "the template needs too much memory");
    step(r, n / 64);
    return p;
}

struct value v_undefined(const char *name)
{
    return (struct value){.type = V_UNDEFINED, .name = name};
}

struct value v_none(void)
{
    return (struct value){.type = V_NONE};
}

struct value v_bool(bool b)
{
    return (struct value){.type = V_BOOL, .b = b};
}

struct value v_int(int64_t i)
{
    return (struct value){.type = V_INT, .i = i};
}

struct value v_float(double f)
{
    return (struct value){.type = V_FLOAT, .f = f};
}

struct value v_string(const char *p, size_t n)
{
    return (struct value){.type = V_STRING, .s = {.p = p, .n = n}};
}

struct value v_text(const char *p)
{
    return v_string(p, strlen(p));
}

struct value v_list(struct run *r, size_t room)
{
    struct list *l = take(r, sizeof *l);
    l->items = take(r, (room ? room : 4) * sizeof *l->items);
    l->room = room ? room : 4;
    return (struct value){.type = V_LIST, .list = l};
}

struct value v_dict(struct run *r)
{
    return (struct value){.type = V_DICT, .dict = take(r, sizeof(struct dict))};
}

static void *grow(struct run *r, void *old, size_t n, size_t *room, size_t size)
{
    *room = *room ? *room * 2 : 8;
    void *p = take(r, *room * size);
    if (n)
        memcpy(p, old, n * size);
    return p;
}

void list_push(struct run *r, struct list *l, struct value v)
{
    if (l->n == l->room)
        l->items = grow(r, l->items, l->n, &l->room, sizeof v);
    l->items[l->n++] = v;
}

static bool same_string(struct str a, struct str b)
{
    return a.n == b.n && memcmp(a.p, b.p, a.n) == 0;
}

bool is_number(struct value v)
{
    return v.type == V_INT || v.type == V_FLOAT || v.type == V_BOOL;
}

double number(struct value v)
{
    return v.type == V_INT ? (double)v.i : v.type == V_BOOL ? v.b : v.f;
}

bool same(struct run *r, struct value a, struct value b)
{
    step(r, 1);
    if (is_number(a) && is_number(b))
        return number(a) == number(b);
    if (a.type != b.type)
        return false;
    switch (a.type) {
    case V_STRING:
        return same_string(a.s, b.s);
    case V_LIST:
        if (a.list->n != b.list->n || ++r->depth > r->limits->max_depth)
            return false;
        for (size_t i = 0; i < a.list->n; i++)
            if (!same(r, a.list->items[i], b.list->items[i])) {
                r->depth--;
                return false;
            }
        r->depth--;
        return true;
    case V_DICT:
        if (a.dict->n != b.dict->n || ++r->depth > r->limits->max_depth)
            return false;
        for (size_t i = 0; i < a.dict->n; i++) {
            struct value *other = dict_get(b.dict, a.dict->pairs[i].key);
            if (!other || !same(r, a.dict->pairs[i].value, *other)) {
                r->depth--;
                return false;
            }
        }
        r->depth--;
        return true;
    case V_NONE:
    case V_UNDEFINED:
        return true;
    default:
        return a.dict == b.dict;
    }
}

/* Keys are scalars: strings and numbers. */
static bool same_key(struct value a, struct value b)
{
    if (a.type == V_STRING && b.type == V_STRING)
        return same_string(a.s, b.s);
    if (is_number(a) && is_number(b))
        return number(a) == number(b);
    return a.type == V_NONE && b.type == V_NONE;
}

struct value *dict_get(struct dict *d, struct value key)
{
    for (size_t i = 0; i < d->n; i++)
        if (same_key(d->pairs[i].key, key))
            return &d->pairs[i].value;
    return NULL;
}

struct value *dict_find(struct dict *d, const char *key)
{
    return dict_get(d, v_text(key));
}

void dict_set(struct run *r, struct dict *d, struct value key, struct value v)
{
    step(r, d->n / 8);
    struct value *old = dict_get(d, key);
    if (old) {
        *old = v;
        return;
    }
    if (d->n == d->room)
        d->pairs = grow(r, d->pairs, d->n, &d->room, sizeof *d->pairs);
    d->pairs[d->n++] = (struct pair){key, v};
}

bool is_true(struct value v)
{
    switch (v.type) {
    case V_UNDEFINED:
    case V_NONE:
        return false;
    case V_STRING:
        return v.s.n > 0;
    case V_LIST:
        return v.list->n > 0;
    case V_DICT:
        return v.dict->n > 0;
    case V_BOOL:
    case V_INT:
    case V_FLOAT:
        return number(v) != 0;
    default:
        return true;
    }
}

const char *type_name(struct value v)
{
    static const char *const names[] = {"undefined", "None",  "bool",     "int",
                                        "float",     "str",   "list",     "dict",
                                        "namespace", "macro", "function", "method"};
    return v.type == V_LIST && v.tuple ? "tuple" : names[v.type];
}

int order(struct run *r, struct value a, struct value b)
{
    if (is_number(a) && is_number(b))
        return (number(a) > number(b)) - (number(a) < number(b));
    if (a.type == V_STRING && b.type == V_STRING) {
        size_t n = a.s.n < b.s.n ? a.s.n : b.s.n;
        int c = memcmp(a.s.p, b.s.p, n);
        return c ? c : (a.s.n > b.s.n) - (a.s.n < b.s.n);
    }
    if (a.type == V_LIST && b.type == V_LIST) {
        for (size_t i = 0; i < a.list->n && i < b.list->n; i++) {
            int c = order(r, a.list->items[i], b.list->items[i]);
            if (c)
                return c;
        }
        return (a.list->n > b.list->n) - (a.list->n < b.list->n);
    }
    fail(r, LODGE_ERR_INVALID, "'%s' and '%s' cannot be ordered", type_name(a), type_name(b));
}

/* ---- strings ---- */

struct value substring(struct value s, size_t from, size_t to)
{
    s.s.p += from;
    s.s.n = to - from;
    if (s.s.marks)
        s.s.marks += from;
    return s;
}

size_t code_points(struct str s)
{
    size_t n = 0;
    for (size_t i = 0; i < s.n; i++)
        n += ((unsigned char)s.p[i] & 0xC0) != 0x80;
    return n;
}

size_t offset_of(struct str s, int64_t i)
{
    size_t at = 0;
    for (; at < s.n && i > 0; i--)
        do
            at++;
        while (at < s.n && ((unsigned char)s.p[at] & 0xC0) == 0x80);
    return at;
}

void out_put(struct run *r, struct out *o, struct str s)
{
    if (!s.n)
        return;
    if (s.n > r->limits->max_output_bytes || o->n > r->limits->max_output_bytes - s.n)
        fail(r, LODGE_ERR_LIMIT, "the template produces too much text");
    step(r, s.n / 64 + 1);
    if (o->n + s.n > o->room) {
        size_t room = o->room ? o->room : 64;
        while (room < o->n + s.n)
            room *= 2;
        char *p = take(r, room);
        uint8_t *marks = take(r, room);
        if (o->n) {
            memcpy(p, o->p, o->n);
            memcpy(marks, o->marks, o->n);
        }
        o->p = p;
        o->marks = marks;
        o->room = room;
    }
    memcpy(o->p + o->n, s.p, s.n);
    if (s.marks)
        memcpy(o->marks + o->n, s.marks, s.n);
    else
        memset(o->marks + o->n, s.user, s.n);
    o->n += s.n;
}

struct value out_value(struct out *o)
{
    struct value v = v_string(o->p ? o->p : "", o->n);
    v.s.marks = o->marks;
    return v;
}

struct value concat(struct run *r, struct value a, struct value b)
{
    struct out o = {0};
    out_put(r, &o, a.s);
    out_put(r, &o, b.s);
    return out_value(&o);
}

static struct value printed(struct run *r, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
static struct value printed(struct run *r, const char *fmt, ...)
{
    char text[400];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    char *p = take(r, (size_t)n + 1);
    memcpy(p, text, (size_t)n + 1);
    return v_string(p, (size_t)n);
}

/* Python's repr of a float: the shortest digits that read back the same. */
static struct value float_text(struct run *r, double f)
{
    char text[40];
    if (!isfinite(f))
        return v_text(isnan(f) ? "nan" : f > 0 ? "inf" : "-inf");
    int digits = 1;
    do
        snprintf(text, sizeof text, "%.*e", digits - 1, f);
    while (strtod(text, NULL) != f && digits++ < 17);
    int exponent = atoi(strchr(text, 'e') + 1);
    if (exponent >= -4 && exponent < 16) {
        int decimals = digits - 1 - exponent;
        return printed(r, "%.*f", decimals > 1 ? decimals : 1, f);
    }
    return printed(r, "%.*e", digits - 1, f);
}

static void put_text(struct run *r, struct out *o, const char *s)
{
    out_put(r, o, v_text(s).s);
}

/* Python's quoting: single quotes unless the text has them and no double ones. */
static void put_repr_string(struct run *r, struct out *o, struct str s)
{
    bool single = memchr(s.p, '\'', s.n) && !memchr(s.p, '"', s.n);
    char quote = single ? '"' : '\'';
    out_put(r, o, v_string(&quote, 1).s);
    for (size_t i = 0; i < s.n; i++) {
        struct value c = substring((struct value){.type = V_STRING, .s = s}, i, i + 1);
        unsigned char ch = (unsigned char)s.p[i];
        if (ch == (unsigned char)quote || ch == '\\')
            put_text(r, o, "\\");
        if (ch == '\n')
            put_text(r, o, "\\n");
        else if (ch == '\r')
            put_text(r, o, "\\r");
        else if (ch == '\t')
            put_text(r, o, "\\t");
        else if (ch < 0x20 || ch == 0x7F)
            out_put(r, o, printed(r, "\\x%02x", ch).s);
        else
            out_put(r, o, c.s);
    }
    out_put(r, o, v_string(&quote, 1).s);
}

static void enter(struct run *r)
{
    step(r, 1);
    if (++r->depth > r->limits->max_depth)
        fail(r, LODGE_ERR_LIMIT, "values or calls are nested too deep");
}

static void put_repr(struct run *r, struct out *o, struct value v)
{
    enter(r);
    if (v.type == V_STRING) {
        put_repr_string(r, o, v.s);
    } else if (v.type == V_LIST) {
        put_text(r, o, v.tuple ? "(" : "[");
        for (size_t i = 0; i < v.list->n; i++) {
            put_text(r, o, i ? ", " : "");
            put_repr(r, o, v.list->items[i]);
        }
        put_text(r, o, v.tuple ? (v.list->n == 1 ? ",)" : ")") : "]");
    } else if (v.type == V_DICT) {
        put_text(r, o, "{");
        for (size_t i = 0; i < v.dict->n; i++) {
            put_text(r, o, i ? ", " : "");
            put_repr(r, o, v.dict->pairs[i].key);
            put_text(r, o, ": ");
            put_repr(r, o, v.dict->pairs[i].value);
        }
        put_text(r, o, "}");
    } else {
        out_put(r, o, to_text(r, v).s);
    }
    r->depth--;
}

struct value repr(struct run *r, struct value v)
{
    struct out o = {0};
    put_repr(r, &o, v);
    return out_value(&o);
}

struct value to_text(struct run *r, struct value v)
{
    switch (v.type) {
    case V_UNDEFINED:
        return v_text("");
    case V_NONE:
        return v_text("None");
    case V_BOOL:
        return v_text(v.b ? "True" : "False");
    case V_INT:
        return printed(r, "%lld", (long long)v.i);
    case V_FLOAT:
        return float_text(r, v.f);
    case V_STRING:
        return v;
    case V_LIST:
    case V_DICT:
        return repr(r, v);
    default:
        return printed(r, "<%s>", type_name(v));
    }
}

/* ---- JSON ---- */

static void put_json_string(struct run *r, struct out *o, struct str s)
{
    static const char plain[] = "\"\\\n\r\t\b\f", letter[] = "\"\\nrtbf";
    put_text(r, o, "\"");
    size_t from = 0;
    struct value whole = {.type = V_STRING, .s = s};
    for (size_t i = 0; i < s.n; i++) {
        unsigned char ch = (unsigned char)s.p[i];
        if (ch >= 0x20 && ch != '"' && ch != '\\')
            continue;
        out_put(r, o, substring(whole, from, i).s);
        from = i + 1;
        const char *at = memchr(plain, ch, sizeof plain - 1);
        if (at)
            out_put(r, o, printed(r, "\\%c", letter[at - plain]).s);
        else
            out_put(r, o, printed(r, "\\u%04x", ch).s);
    }
    out_put(r, o, substring(whole, from, s.n).s);
    put_text(r, o, "\"");
}

static void new_line(struct run *r, struct out *o, int indent, uint32_t level)
{
    if (indent < 0)
        return;
    put_text(r, o, "\n");
    for (uint32_t i = 0; i < level * (uint32_t)indent; i++)
        put_text(r, o, " ");
}

static void put_json(struct run *r, struct out *o, struct value v, int indent, uint32_t level)
{
    enter(r);
    const char *comma = indent < 0 ? ", " : ",";
    if (v.type == V_STRING) {
        put_json_string(r, o, v.s);
    } else if (v.type == V_LIST) {
        put_text(r, o, "[");
        for (size_t i = 0; i < v.list->n; i++) {
            put_text(r, o, i ? comma : "");
            new_line(r, o, indent, level + 1);
            put_json(r, o, v.list->items[i], indent, level + 1);
        }
        if (v.list->n)
            new_line(r, o, indent, level);
        put_text(r, o, "]");
    } else if (v.type == V_DICT) {
        put_text(r, o, "{");
        for (size_t i = 0; i < v.dict->n; i++) {
            put_text(r, o, i ? comma : "");
            new_line(r, o, indent, level + 1);
            put_json_string(r, o, to_text(r, v.dict->pairs[i].key).s);
            put_text(r, o, ": ");
            put_json(r, o, v.dict->pairs[i].value, indent, level + 1);
        }
        if (v.dict->n)
            new_line(r, o, indent, level);
        put_text(r, o, "}");
    } else if (v.type == V_NONE) {
        put_text(r, o, "null");
    } else if (v.type == V_BOOL) {
        put_text(r, o, v.b ? "true" : "false");
    } else if (is_number(v)) {
        out_put(r, o, to_text(r, v).s);
    } else {
        fail(r, LODGE_ERR_INVALID, "'%s' is not JSON serializable", type_name(v));
    }
    r->depth--;
}

struct value to_json(struct run *r, struct value v, int indent)
{
    struct out o = {0};
    put_json(r, &o, v, indent, 0);
    return out_value(&o);
}

struct value from_json(struct run *r, const json_t *j, bool user, uint32_t depth)
{
    if (depth > r->limits->max_depth)
        fail(r, LODGE_ERR_LIMIT, "the messages are nested too deep");
    switch (json_typeof(j)) {
    case JSON_STRING: {
        struct value v = v_string(json_string_value(j), json_string_length(j));
        v.s.user = user;
        return v;
    }
    case JSON_INTEGER:
        return v_int(json_integer_value(j));
    case JSON_REAL:
        return v_float(json_real_value(j));
    case JSON_TRUE:
    case JSON_FALSE:
        return v_bool(json_is_true(j));
    case JSON_ARRAY: {
        struct value v = v_list(r, json_array_size(j));
        for (size_t i = 0; i < json_array_size(j); i++)
            list_push(r, v.list, from_json(r, json_array_get(j, i), user, depth + 1));
        return v;
    }
    case JSON_OBJECT: {
        struct value v = v_dict(r);
        const char *key;
        json_t *item;
        json_object_foreach((json_t *)(uintptr_t)j, key, item)
        {
            struct value k = v_text(key);
            k.s.user = user;
            dict_set(r, v.dict, k, from_json(r, item, user, depth + 1));
        }
        return v;
    }
    default:
        return v_none();
    }
}
