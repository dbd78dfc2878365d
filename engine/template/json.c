/* Values to JSON, as Python's json.dumps writes it, and from JSON. */
#include "engine/template/letters.h"
#include "engine/template/value.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void put_text(struct run *r, struct out *o, const char *s)
{
    out_put(r, o, v_text(s).s);
}

static void put_escape(struct run *r, struct out *o, uint32_t cp)
{
    static const char plain[] = "\"\\\n\r\t\b\f", letter[] = "\"\\nrtbf";
    const char *at = cp < 0x80 ? memchr(plain, (int)cp, sizeof plain - 1) : NULL;
    char text[16];
    if (at)
        snprintf(text, sizeof text, "\\%c", letter[at - plain]);
    else if (cp < 0x10000)
        snprintf(text, sizeof text, "\\u%04x", (unsigned)cp);
    else /* a pair of surrogates */
        snprintf(text, sizeof text, "\\u%04x\\u%04x", (unsigned)(0xD7C0 + (cp >> 10)),
                 (unsigned)(0xDC00 + (cp & 0x3FF)));
    put_text(r, o, text);
}

static void put_string(struct run *r, struct out *o, struct value v, bool ascii)
{
    put_text(r, o, "\"");
    size_t from = 0, len;
    for (size_t i = 0; i < v.s.n; i += len) {
        unsigned char ch = (unsigned char)v.s.p[i];
        uint32_t cp = ch;
        len = 1;
        if (ch >= 0x20 && ch != '"' && ch != '\\' && (ch < 0x80 || !ascii))
            continue;
        if (ch >= 0x80)
            len = letter_at(v.s.p + i, v.s.n - i, &cp);
        out_put(r, o, substring(v, from, i).s);
        put_escape(r, o, cp);
        from = i + len;
    }
    out_put(r, o, substring(v, from, v.s.n).s);
    put_text(r, o, "\"");
}

static void new_line(struct run *r, struct out *o, const struct json_style *style, uint32_t level)
{
    if (style->indent.type != V_STRING)
        return;
    put_text(r, o, "\n");
    for (uint32_t i = 0; i < level; i++)
        out_put(r, o, style->indent.s);
}

static struct value scalar(struct run *r, struct value v)
{
    if (v.type == V_NONE)
        return v_text("null");
    if (v.type == V_BOOL)
        return v_text(v.b ? "true" : "false");
    if (v.type == V_FLOAT && !isfinite(v.f))
        return v_text(isnan(v.f) ? "NaN" : v.f > 0 ? "Infinity" : "-Infinity");
    if (!is_number(v))
        fail(r, LODGE_ERR_INVALID, "'%s' is not JSON serializable", type_name(v));
    return to_text(r, v);
}

static void put_json(struct run *r, struct out *o, struct value v, const struct json_style *style,
                     uint32_t level);

static void put_list(struct run *r, struct out *o, const struct list *l,
                     const struct json_style *style, uint32_t level)
{
    put_text(r, o, "[");
    for (size_t i = 0; i < l->n; i++) {
        if (i)
            out_put(r, o, style->comma.s);
        new_line(r, o, style, level + 1);
        put_json(r, o, l->items[i], style, level + 1);
    }
    if (l->n)
        new_line(r, o, style, level);
    put_text(r, o, "]");
}

static void put_dict(struct run *r, struct out *o, struct value v, const struct json_style *style,
                     uint32_t level)
{
    const struct dict *d = style->sort_keys ? sorted_by_key(r, v) : v.dict;
    put_text(r, o, "{");
    for (size_t i = 0; i < d->n; i++) {
        struct value key = d->pairs[i].key;
        if (i)
            out_put(r, o, style->comma.s);
        new_line(r, o, style, level + 1);
        put_string(r, o, key.type == V_STRING ? key : scalar(r, key), style->ascii);
        out_put(r, o, style->colon.s);
        put_json(r, o, d->pairs[i].value, style, level + 1);
    }
    if (d->n)
        new_line(r, o, style, level);
    put_text(r, o, "}");
}

static void put_json(struct run *r, struct out *o, struct value v, const struct json_style *style,
                     uint32_t level)
{
    enter(r);
    if (v.type == V_STRING)
        put_string(r, o, v, style->ascii);
    else if (v.type == V_LIST)
        put_list(r, o, v.list, style, level);
    else if (v.type == V_DICT)
        put_dict(r, o, v, style, level);
    else
        out_put(r, o, scalar(r, v).s);
    r->depth--;
}

struct value to_json(struct run *r, struct value v, const struct json_style *style)
{
    struct out o = {0};
    put_json(r, &o, v, style, 0);
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
