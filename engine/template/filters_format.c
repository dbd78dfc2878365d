/* Formatting: Python's % operator (also the format filter), str.format, and what pads or cuts a
 * text to a width. */
#include "engine/template/filters.h"
#include "engine/template/letters.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_WIDTH 10000 /* wider fields are nobody's */

/* One conversion, of either kind of format. */
struct spec {
    struct value fill; /* one character */
    char align;        /* < > ^ =, or 0: the type's own */
    char sign;         /* + or blank, or 0 */
    bool alternate, zero, comma;
    int64_t width, precision; /* precision -1: none */
    char type;
};

static const struct spec plain_spec = {.precision = -1};

static void put_fill(struct run *r, struct out *o, const struct spec *s, int64_t n)
{
    struct value fill = s->fill.type == V_STRING ? s->fill : v_text(" ");
    for (; n > 0; n--)
        out_put(r, o, fill.s);
}

static struct value padded(struct run *r, struct value v, const struct spec *s, char align)
{
    int64_t n = s->width - (int64_t)code_points(v.s);
    if (n <= 0)
        return v;
    struct out o = {0};
    int64_t left = align == '<' ? 0 : align == '^' ? n / 2 : n;
    put_fill(r, &o, s, left);
    out_put(r, &o, v.s);
    put_fill(r, &o, s, n - left);
    return out_value(&o);
}

/* Digits with a comma between groups of three. */
static struct value grouped(struct run *r, struct value v)
{
    struct out o = {0};
    size_t begin = v.s.n && !isdigit((unsigned char)*v.s.p), end = begin;
    while (end < v.s.n && isdigit((unsigned char)v.s.p[end]))
        end++;
    for (size_t i = 0; i < v.s.n; i++) {
        if (i > begin && i < end && (end - i) % 3 == 0)
            out_put(r, &o, v_text(",").s);
        out_put(r, &o, substring(v, i, i + 1).s);
    }
    return out_value(&o);
}

/* Zeros between the sign, which is one of these, and the digits. */
static struct value zero_filled(struct run *r, struct value v, int64_t width, const char *signs)
{
    size_t sign = v.s.n && *v.s.p && strchr(signs, *v.s.p);
    struct out o = {0};
    struct spec s = {.fill = v_text("0")};
    out_put(r, &o, substring(v, 0, sign).s);
    put_fill(r, &o, &s, width - (int64_t)code_points(v.s));
    out_put(r, &o, substring(v, sign, v.s.n).s);
    return out_value(&o);
}

static struct value format_number(struct run *r, struct value v, const struct spec *s, char type)
{
    char how[16], text[512];
    bool real = memchr("eEfFgG", type, 6) != NULL;
    const char *sign = s->sign == '+' ? "+" : s->sign == ' ' ? " " : "";
    int n;
    if (!is_number(v) || (!real && v.type == V_FLOAT && type != 'd'))
        fail(r, LODGE_ERR_INVALID, "'%%%c' needs a number, not '%s'", type, type_name(v));
    if (s->precision > 100)
        fail(r, LODGE_ERR_LIMIT, "a precision is too large");
    if (real) {
        snprintf(how, sizeof how, "%%%s%s.*%c", sign, s->alternate ? "#" : "", type);
        n = snprintf(text, sizeof text, how, s->precision < 0 ? 6 : (int)s->precision, number(v));
    } else {
        int64_t i = v.type == V_BOOL ? v.b : v.type == V_FLOAT ? (int64_t)v.f : v.i;
        uint64_t size = i < 0 ? 0 - (uint64_t)i : (uint64_t)i;
        const char *prefix = !s->alternate ? ""
                             : type == 'x' ? "0x"
                             : type == 'X' ? "0X"
                             : type == 'o' ? "0o"
                                           : "";
        snprintf(how, sizeof how, "%%s%%s%%ll%c", type == 'd' ? 'u' : type);
        n = snprintf(text, sizeof text, how, i < 0 ? "-" : sign, prefix, (unsigned long long)size);
    }
    char *p = take(r, (size_t)n + 1);
    memcpy(p, text, (size_t)n < sizeof text ? (size_t)n + 1 : sizeof text);
    struct value out = v_string(p, (size_t)n < sizeof text ? (size_t)n : sizeof text - 1);
    return s->comma ? grouped(r, out) : out;
}

static struct value format_value(struct run *r, struct value v, const struct spec *s)
{
    bool text = s->type == 's' || (!s->type && !is_number(v)) || (!s->type && v.type == V_BOOL);
    if (text || !s->type) {
        bool numeric = !text;
        struct value t = numeric && s->precision >= 0 ? format_number(r, v, s, 'g') : to_text(r, v);
        if (numeric && s->comma)
            t = grouped(r, t);
        if (text && s->precision >= 0)
            t = substring(t, 0, offset_of(t.s, s->precision));
        if (numeric && s->zero && !s->align)
            return zero_filled(r, t, s->width, "+- ");
        return padded(r, t, s, s->align ? s->align : numeric ? '>' : '<');
    }
    if (!memchr("dxXoeEfFgG", s->type, 10))
        fail(r, LODGE_ERR_INVALID, "unsupported format character '%c'", s->type);
    struct value t = format_number(r, v, s, s->type);
    if ((s->zero && !s->align) || s->align == '=')
        return zero_filled(r, t, s->width, "+- ");
    return padded(r, t, s, s->align ? s->align : '>');
}

/* ---- the % operator ---- */

/* Reads a format string. */
struct format {
    struct value of;
    size_t at;
    const struct args *a;
    struct value *map; /* values by name, or NULL */
    size_t next;       /* values in order */
};

static char look(const struct format *f)
{
    return f->at < f->of.s.n ? f->of.s.p[f->at] : 0;
}

static struct value next_value(struct run *r, struct format *f)
{
    if (f->next >= f->a->n)
        fail(r, LODGE_ERR_INVALID, "not enough arguments for a format string");
    return f->a->v[f->next++];
}

static int64_t read_count(struct run *r, struct format *f, bool star)
{
    int64_t n = 0;
    if (star && look(f) == '*') {
        f->at++;
        struct value v = next_value(r, f);
        n = v.type == V_INT ? v.i : -1;
    }
    while (isdigit((unsigned char)look(f)) && n <= MOST_WIDTH)
        n = n * 10 + (f->of.s.p[f->at++] - '0');
    if (n < 0 || n > MOST_WIDTH)
        fail(r, LODGE_ERR_LIMIT, "a format's width is too large");
    return n;
}

static struct value named_value(struct run *r, struct format *f)
{
    size_t begin = ++f->at;
    while (look(f) && look(f) != ')')
        f->at++;
    struct value key = substring(f->of, begin, f->at), *v = NULL;
    if (f->map && look(f))
        v = dict_get(f->map->dict, key);
    if (!v)
        fail(r, LODGE_ERR_INVALID, "a format names what is not there: '%.*s'",
             (int)(key.s.n > 60 ? 60 : key.s.n), key.s.p);
    f->at++;
    return *v;
}

/* After "%". */
static struct value percent_one(struct run *r, struct format *f)
{
    struct spec s = plain_spec;
    struct value named = v_undefined("format");
    if (look(f) == '(')
        named = named_value(r, f);
    for (char c; (c = look(f)) && memchr("#0- +", c, 5); f->at++) {
        s.alternate |= c == '#';
        s.zero |= c == '0';
        s.align = c == '-' ? '<' : s.align;
        s.sign = c == '+' || (c == ' ' && !s.sign) ? c : s.sign;
    }
    s.width = read_count(r, f, true);
    if (look(f) == '.') {
        f->at++;
        s.precision = read_count(r, f, true);
    }
    char type = look(f);
    f->at++;
    if (type == '%')
        return v_text("%");
    if (!type || !memchr("sradiuxXoeEfFgGc", type, 16))
        fail(r, LODGE_ERR_INVALID, "unsupported format character '%c'", type);
    struct value v = named.type == V_UNDEFINED ? next_value(r, f) : named;
    bool text = type == 's' || type == 'r' || type == 'a' || type == 'c';
    if (type == 'r' || type == 'a')
        v = repr(r, v);
    else if (text)
        v = to_text(r, v);
    s.type = text ? 's' : type == 'i' || type == 'u' ? 'd' : type;
    s.align = s.align ? s.align : text ? '>' : 0;
    return format_value(r, v, &s);
}

struct value percent_format(struct run *r, struct value format, const struct args *a)
{
    struct out o = {0};
    struct value map = {.type = V_DICT, .dict = a->kwargs};
    struct format f = {.of = format, .a = a, .map = a->kwargs && a->kwargs->n ? &map : NULL};
    if (!f.map && a->n == 1 && a->v[0].type == V_DICT)
        f.map = (struct value *)(uintptr_t)&a->v[0];
    while (f.at < format.s.n) {
        const char *sign = memchr(format.s.p + f.at, '%', format.s.n - f.at);
        size_t end = sign ? (size_t)(sign - format.s.p) : format.s.n;
        out_put(r, &o, substring(format, f.at, end).s);
        f.at = end + 1;
        if (sign)
            out_put(r, &o, percent_one(r, &f).s);
    }
    if (!f.map && f.next < a->n)
        fail(r, LODGE_ERR_INVALID, "not all arguments were converted by a format string");
    return out_value(&o);
}

struct value f_format(struct run *r, struct value v, const struct args *a)
{
    return percent_format(r, to_text(r, v), a);
}

/* ---- str.format ---- */

/* [[fill]align][sign][#][0][width][,][.precision][type] */
static struct spec read_spec(struct run *r, struct format *f)
{
    struct spec s = plain_spec;
    uint32_t cp;
    size_t len = look(f) ? letter_at(f->of.s.p + f->at, f->of.s.n - f->at, &cp) : 1;
    const char *behind = f->at + len < f->of.s.n ? f->of.s.p + f->at + len : "";
    if (look(f) && *behind && strchr("<>^=", *behind)) {
        s.fill = substring(f->of, f->at, f->at + len);
        f->at += len;
    }
    if (look(f) && strchr("<>^=", look(f)))
        s.align = f->of.s.p[f->at++];
    if (look(f) && strchr("+- ", look(f)))
        s.sign = f->of.s.p[f->at++];
    s.alternate = look(f) == '#' && f->at++;
    s.zero = look(f) == '0' && f->at++;
    s.width = read_count(r, f, false);
    s.comma = look(f) == ',' && f->at++;
    if (look(f) == '.') {
        f->at++;
        s.precision = read_count(r, f, false);
    }
    if (look(f) && look(f) != '}')
        s.type = f->of.s.p[f->at++];
    return s;
}

static size_t name_end(const struct format *f, const char *ends)
{
    size_t at = f->at;
    while (at < f->of.s.n && !strchr(ends, f->of.s.p[at]))
        at++;
    return at;
}

static bool is_count(struct value v)
{
    bool digits = v.s.n > 0 && v.s.n < 9;
    for (size_t i = 0; i < v.s.n; i++)
        digits = digits && isdigit((unsigned char)v.s.p[i]);
    return digits;
}

/* "", "0" or "name", then ".member" and "[key]". */
static struct value field_value(struct run *r, struct format *f)
{
    size_t end = name_end(f, ".[!:}");
    struct value name = substring(f->of, f->at, end), v;
    f->at = end;
    if (!name.s.n) {
        v = next_value(r, f);
    } else if (is_count(name)) {
        f->next = (size_t)strtoul(name.s.p, NULL, 10);
        v = next_value(r, f);
    } else {
        struct value *found = dict_get(f->a->kwargs, name);
        if (!found)
            fail(r, LODGE_ERR_INVALID, "a format names what is not there: '%.*s'",
                 (int)(name.s.n > 60 ? 60 : name.s.n), name.s.p);
        v = *found;
    }
    while (look(f) == '.' || look(f) == '[') {
        bool index = look(f) == '[';
        f->at++;
        end = name_end(f, index ? "]" : ".[!:}");
        struct value key = substring(f->of, f->at, end);
        v = member(r, v, is_count(key) ? v_int(atoll(key.s.p)) : key);
        f->at = end + index;
    }
    return v;
}

/* After "{". */
static struct value format_field(struct run *r, struct format *f)
{
    struct spec s = plain_spec;
    struct value v = field_value(r, f);
    if (look(f) == '!') {
        char how = f->at + 1 < f->of.s.n ? f->of.s.p[f->at + 1] : 0;
        v = how == 'r' ? repr(r, v) : to_text(r, v);
        f->at += 2;
    }
    if (look(f) == ':') {
        f->at++;
        s = read_spec(r, f);
    }
    if (look(f) != '}')
        fail(r, LODGE_ERR_INVALID, "a field of a format string is not supported");
    f->at++;
    return format_value(r, v, &s);
}

struct value f_format_method(struct run *r, struct value v, const struct args *a)
{
    struct out o = {0};
    struct format f = {.of = v, .a = a};
    while (f.at < v.s.n) {
        size_t end = name_end(&f, "{}");
        out_put(r, &o, substring(v, f.at, end).s);
        f.at = end;
        if (f.at == v.s.n)
            break;
        char c = look(&f);
        bool doubled = f.at + 1 < v.s.n && v.s.p[f.at + 1] == c;
        if (!doubled && c == '}')
            fail(r, LODGE_ERR_INVALID, "a single '}' in a format string");
        f.at += doubled ? 2 : 1;
        out_put(r, &o, doubled ? substring(v, end, end + 1).s : format_field(r, &f).s);
    }
    return out_value(&o);
}

/* ---- widths ---- */

static struct value justify(struct run *r, struct value v, const struct args *a, char align)
{
    struct value *width = args_get(a, 0, "width"), *fill = args_get(a, 1, NULL);
    struct spec s = {.fill = fill ? *fill : v_text(" "),
                     .width = width && width->type == V_INT ? width->i : 80};
    if (fill && (fill->type != V_STRING || code_points(fill->s) != 1))
        fail(r, LODGE_ERR_INVALID, "the fill must be one character");
    if (s.width > MOST_WIDTH)
        fail(r, LODGE_ERR_LIMIT, "a width is too large");
    v = to_text(r, v);
    /* Python's center puts the odd blank to the left where the width is odd. */
    int64_t n = s.width - (int64_t)code_points(v.s);
    if (align != '^' || n <= 0)
        return padded(r, v, &s, align);
    struct out o = {0};
    int64_t left = n / 2 + (n & s.width & 1);
    put_fill(r, &o, &s, left);
    out_put(r, &o, v.s);
    put_fill(r, &o, &s, n - left);
    return out_value(&o);
}

struct value f_center(struct run *r, struct value v, const struct args *a)
{
    return justify(r, v, a, '^');
}

struct value f_ljust(struct run *r, struct value v, const struct args *a)
{
    return justify(r, v, a, '<');
}

struct value f_rjust(struct run *r, struct value v, const struct args *a)
{
    return justify(r, v, a, '>');
}

struct value f_zfill(struct run *r, struct value v, const struct args *a)
{
    struct value width = args_need(r, a, "zfill");
    if (width.type != V_INT || width.i > MOST_WIDTH)
        fail(r, LODGE_ERR_LIMIT, "a width is too large");
    return zero_filled(r, v, width.i, "+-");
}

struct value f_truncate(struct run *r, struct value v, const struct args *a)
{
    struct value *n = args_get(a, 0, "length"), *kill = args_get(a, 1, "killwords"),
                 *e = args_get(a, 2, "end"), *slack = args_get(a, 3, "leeway");
    int64_t length = n && n->type == V_INT ? n->i : 255;
    struct value end = e ? to_text(r, *e) : v_text("...");
    int64_t leeway = slack && slack->type == V_INT ? slack->i : 5;
    if (f_length(r, v, a).i <= length + leeway)
        return v;
    need_string(r, v, "truncate");
    v = substring(v, 0, offset_of(v.s, length - (int64_t)code_points(end.s)));
    const char *gap = kill && is_true(*kill) ? NULL : memrchr(v.s.p, ' ', v.s.n);
    if (gap)
        v = substring(v, 0, (size_t)(gap - v.s.p));
    return concat(r, v, end);
}

/* Words as \w+ finds them. */
struct value f_wordcount(struct run *r, struct value v, const struct args *a)
{
    (void)a;
    int64_t n = 0;
    bool inside = false;
    uint32_t cp = 0;
    v = to_text(r, v);
    step(r, v.s.n / 16);
    for (size_t at = 0; at < v.s.n; at += letter_at(v.s.p + at, v.s.n - at, &cp)) {
        letter_at(v.s.p + at, v.s.n - at, &cp);
        bool word = letter_is_alpha(cp) || letter_is_numeric(cp) || cp == '_';
        n += word && !inside;
        inside = word;
    }
    return v_int(n);
}
