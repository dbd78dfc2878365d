/* Filters of any value and of numbers: defaults, conversions, arithmetic, and escapes. */
#include "engine/template/filters.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct value f_default(struct run *r, struct value v, const struct args *a)
{
    (void)r;
    struct value *d = args_get(a, 0, "default_value"), *falsy = args_get(a, 1, "boolean");
    bool missing = v.type == V_UNDEFINED || (falsy && is_true(*falsy) && !is_true(v));
    return !missing ? v : d ? *d : v_text("");
}

struct value f_string(struct run *r, struct value v, const struct args *a)
{
    (void)a;
    return to_text(r, v);
}

struct value f_safe(struct run *r, struct value v, const struct args *a)
{
    (void)a;
    v = to_text(r, v);
    v.markup = true;
    return v;
}

struct value f_tojson(struct run *r, struct value v, const struct args *a)
{
    struct value *ascii = args_get(a, 0, "ensure_ascii"), *indent = args_get(a, 1, "indent"),
                 *separators = args_get(a, 2, "separators"), *sort = args_get(a, 3, "sort_keys");
    struct json_style style = {.indent = v_none(),
                               .colon = v_text(": "),
                               .sort_keys = sort && is_true(*sort),
                               .ascii = ascii && is_true(*ascii)};
    if (indent && indent->type == V_STRING)
        style.indent = *indent;
    else if (indent && is_number(*indent))
        style.indent = repeat(r, v_text(" "), (int64_t)number(*indent));
    style.comma = v_text(style.indent.type == V_STRING ? "," : ", ");
    if (separators && separators->type == V_LIST && separators->list->n == 2) {
        style.comma = to_text(r, separators->list->items[0]);
        style.colon = to_text(r, separators->list->items[1]);
    }
    return to_json(r, v, &style);
}

/* A number's text without blanks around it and digits' underscores, zero-terminated; false when it
 * is none. */
static bool number_text(struct run *r, struct value v, char *out, size_t size)
{
    const struct args none = {.kwargs = v_dict(r).dict};
    if (v.type != V_STRING)
        return false;
    v = f_trim(r, v, &none);
    size_t n = 0;
    for (size_t i = 0; i < v.s.n; i++) {
        bool gap = v.s.p[i] == '_' && i && i + 1 < v.s.n && isalnum((unsigned char)v.s.p[i - 1]) &&
                   isalnum((unsigned char)v.s.p[i + 1]);
        if (n + 1 == size || !v.s.p[i])
            return false;
        if (!gap)
            out[n++] = v.s.p[i];
    }
    out[n] = 0;
    return n > 0;
}

static bool parse_integer(const char *text, int base, int64_t *out)
{
    char *end;
    bool minus = *text == '-';
    text += *text == '-' || *text == '+';
    /* strtoll knows 0x; Python also 0b and 0o. */
    if (*text == '0' &&
        ((base == 2 && (text[1] | 32) == 'b') || (base == 8 && (text[1] | 32) == 'o')))
        text += 2;
    if (!isalnum((unsigned char)*text))
        return false;
    errno = 0;
    long long n = strtoll(text, &end, base);
    *out = minus ? -n : n;
    return !*end && !errno;
}

static bool parse_real(const char *text, double *out)
{
    char *end;
    if (strpbrk(text, "xX"))
        return false;
    *out = strtod(text, &end);
    return !*end;
}

struct value f_int(struct run *r, struct value v, const struct args *a)
{
    struct value *d = args_get(a, 0, "default"), *b = args_get(a, 1, "base");
    char text[64];
    int64_t i;
    double f;
    if (v.type == V_INT)
        return v;
    if (is_number(v))
        return fabs(number(v)) < 9e18 ? v_int((int64_t)number(v)) : d ? *d : v_int(0);
    if (number_text(r, v, text, sizeof text)) {
        if (parse_integer(text, b && b->type == V_INT && b->i >= 2 && b->i <= 36 ? (int)b->i : 10,
                          &i))
            return v_int(i);
        if (parse_real(text, &f) && isfinite(f) && fabs(f) < 9e18)
            return v_int((int64_t)f);
    }
    return d ? *d : v_int(0);
}

struct value f_float(struct run *r, struct value v, const struct args *a)
{
    struct value *d = args_get(a, 0, "default");
    char text[64];
    double f;
    if (is_number(v))
        return v_float(number(v));
    if (number_text(r, v, text, sizeof text) && parse_real(text, &f))
        return v_float(f);
    return d ? *d : v_float(0);
}

struct value f_abs(struct run *r, struct value v, const struct args *a)
{
    (void)a;
    if (!is_number(v))
        fail(r, LODGE_ERR_INVALID, "abs needs a number");
    return v.type == V_FLOAT ? v_float(fabs(v.f)) : v_int(llabs(v.type == V_BOOL ? v.b : v.i));
}

/* The nearest decimal, exact halves to even, as the digits of the binary value say. */
static double round_decimal(double v, int digits)
{
    char text[400];
    if (digits < 0) {
        double scale = pow(10, -digits);
        return nearbyint(v / scale) * scale;
    }
    snprintf(text, sizeof text, "%.*f", digits, v);
    return strtod(text, NULL);
}

struct value f_round(struct run *r, struct value v, const struct args *a)
{
    struct value *digits = args_get(a, 0, "precision"), *how = args_get(a, 1, "method");
    int64_t n = digits && digits->type == V_INT ? digits->i : 0;
    char first = how && how->type == V_STRING && how->s.n ? *how->s.p : 'c';
    if (!is_number(v) || n > 20 || n < -20)
        fail(r, LODGE_ERR_INVALID, "round needs a number and a precision");
    bool common = !how || how->s.n == 6;
    if (!common && first != 'c' && first != 'f')
        fail(r, LODGE_ERR_INVALID, "round's method is common, ceil or floor");
    if (common && v.type != V_FLOAT)
        return v_int((int64_t)round_decimal(number(v), (int)(n < 0 ? n : 0)));
    if (common)
        return v_float(round_decimal(number(v), (int)n));
    double scale = pow(10, (double)n), f = number(v) * scale;
    return v_float((first == 'c' ? ceil(f) : floor(f)) / scale);
}

struct value f_sum(struct run *r, struct value v, const struct args *a)
{
    struct value *attr = args_get(a, 0, "attribute"), *start = args_get(a, 1, "start");
    struct list *l = iterate(r, v);
    struct value sum = start ? *start : v_int(0);
    for (size_t i = 0; i < l->n; i++) {
        struct value item =
            attr && attr->type != V_NONE ? member(r, l->items[i], *attr) : l->items[i];
        sum = apply_operator(r, OP_ADD, sum, item);
    }
    return sum;
}

/* Data has no attributes, only items. */
struct value f_attr(struct run *r, struct value v, const struct args *a)
{
    struct value name = args_need(r, a, "attr");
    struct value *m = v.type == V_NAMESPACE ? dict_get(v.dict, name) : NULL;
    return m ? *m : v_undefined("attr");
}

struct value f_escape(struct run *r, struct value v, const struct args *a)
{
    return v.type == V_STRING && v.markup ? v : f_forceescape(r, v, a);
}

struct value f_forceescape(struct run *r, struct value v, const struct args *a)
{
    v = to_text(r, v);
    struct out o = {0};
    static const char from[] = "&<>\"'";
    static const char *const to[] = {"&amp;", "&lt;", "&gt;", "&#34;", "&#39;"};
    for (size_t i = 0; i < v.s.n; i++) {
        const char *hit = v.s.p[i] ? strchr(from, v.s.p[i]) : NULL;
        out_put(r, &o, hit ? v_text(to[hit - from]).s : substring(v, i, i + 1).s);
    }
    return f_safe(r, out_value(&o), a);
}
