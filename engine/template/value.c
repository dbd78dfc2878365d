/* Values: making, comparing and printing them, strings with the marks of whose
 * text they are, and how a run fails, counts its steps and takes memory. */
#include "engine/template/value.h"

#include "engine/template/letters.h"

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

struct value v_generator(struct run *r)
{
    struct value v = v_list(r, 0);
    v.list->generator = true;
    return v;
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
    if (a.type == V_INT && b.type == V_INT)
        return a.i == b.i;
    if (is_number(a) && is_number(b))
        return number(a) == number(b);
    if (a.type != b.type)
        return false;
    switch (a.type) {
    case V_STRING:
        return same_string(a.s, b.s);
    case V_LIST:
        if (a.list->generator || b.list->generator)
            return a.list == b.list;
        if (a.tuple != b.tuple || a.list->n != b.list->n || ++r->depth > r->limits->max_depth)
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
    if (a.type == V_INT && b.type == V_INT)
        return a.i == b.i;
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
        return v.list->n > 0 || v.list->generator;
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
    static const char *const names[] = {"undefined", "None",     "bool",  "int",       "float",
                                        "str",       "list",     "dict",  "namespace", "loop",
                                        "macro",     "function", "method"};
    if (v.type == V_LIST && v.list->generator)
        return "generator";
    return v.type == V_LIST && v.tuple ? "tuple" : names[v.type];
}

int order(struct run *r, struct value a, struct value b)
{
    if (a.type == V_INT && b.type == V_INT)
        return (a.i > b.i) - (a.i < b.i);
    if (is_number(a) && is_number(b))
        return (number(a) > number(b)) - (number(a) < number(b));
    if (a.type == V_STRING && b.type == V_STRING) {
        size_t n = a.s.n < b.s.n ? a.s.n : b.s.n;
        int c = memcmp(a.s.p, b.s.p, n);
        return c ? c : (a.s.n > b.s.n) - (a.s.n < b.s.n);
    }
    if (a.type == V_LIST && b.type == V_LIST && a.tuple == b.tuple) {
        for (size_t i = 0; i < a.list->n && i < b.list->n; i++)
            if (!same(r, a.list->items[i], b.list->items[i]))
                return order(r, a.list->items[i], b.list->items[i]);
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

/* A character that repr() does not show. */
static struct value escaped(struct run *r, uint32_t cp)
{
    return cp == '\n'     ? v_text("\\n")
           : cp == '\r'   ? v_text("\\r")
           : cp == '\t'   ? v_text("\\t")
           : cp < 0x100   ? printed(r, "\\x%02x", (unsigned)cp)
           : cp < 0x10000 ? printed(r, "\\u%04x", (unsigned)cp)
                          : printed(r, "\\U%08x", (unsigned)cp);
}

/* Python's quoting: single quotes unless the text has them and no double ones. */
static void put_repr_string(struct run *r, struct out *o, struct value v)
{
    bool single = memchr(v.s.p, '\'', v.s.n) && !memchr(v.s.p, '"', v.s.n);
    char quote = single ? '"' : '\'';
    out_put(r, o, v_string(&quote, 1).s);
    uint32_t cp = 0;
    for (size_t i = 0, len; i < v.s.n; i += len) {
        len = letter_at(v.s.p + i, v.s.n - i, &cp);
        if (cp == (unsigned char)quote || cp == '\\')
            put_text(r, o, "\\");
        out_put(r, o, letter_is_printable(cp) ? substring(v, i, i + len).s : escaped(r, cp).s);
    }
    out_put(r, o, v_string(&quote, 1).s);
}

void enter(struct run *r)
{
    step(r, 1);
    if (++r->depth > r->limits->max_depth)
        fail(r, LODGE_ERR_LIMIT, "values or calls are nested too deep");
}

static void put_repr(struct run *r, struct out *o, struct value v)
{
    enter(r);
    if (v.type == V_STRING) {
        put_text(r, o, v.markup ? "Markup(" : "");
        put_repr_string(r, o, v);
        put_text(r, o, v.markup ? ")" : "");
    } else if (v.type == V_UNDEFINED) {
        put_text(r, o, "Undefined");
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
