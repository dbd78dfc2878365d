/* Filters of any value and of numbers: defaults, conversions, arithmetic, and escapes. */
#include "engine/template/filters.h"

#include <math.h>
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

struct value f_same(struct run *r, struct value v, const struct args *a)
{
    (void)r;
    (void)a;
    return v;
}

struct value f_tojson(struct run *r, struct value v, const struct args *a)
{
    struct value *indent = dict_find(a->kwargs, "indent");
    if (!indent && a->n)
        indent = args_get(a, 0, NULL);
    return to_json(r, v,
                   indent && indent->type == V_INT ? (int)(indent->i > 32 ? 32 : indent->i) : -1);
}

struct value f_int(struct run *r, struct value v, const struct args *a)
{
    struct value *d = args_get(a, 0, "default");
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

struct value f_float(struct run *r, struct value v, const struct args *a)
{
    struct value *d = args_get(a, 0, "default");
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

struct value f_abs(struct run *r, struct value v, const struct args *a)
{
    (void)a;
    if (!is_number(v))
        fail(r, LODGE_ERR_INVALID, "abs needs a number");
    return v.type == V_FLOAT ? v_float(fabs(v.f)) : v_int(llabs(v.type == V_BOOL ? v.b : v.i));
}

struct value f_round(struct run *r, struct value v, const struct args *a)
{
    struct value *digits = args_get(a, 0, "precision");
    if (!is_number(v))
        fail(r, LODGE_ERR_INVALID, "round needs a number");
    double scale = pow(10, digits && digits->type == V_INT ? (double)digits->i : 0);
    return v_float(nearbyint(number(v) * scale) / scale);
}

struct value f_sum(struct run *r, struct value v, const struct args *a)
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

struct value f_escape(struct run *r, struct value v, const struct args *a)
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
