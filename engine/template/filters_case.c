/* Filters and methods that change or tell the case and class of letters, as Python does; each
 * changed character keeps the mark of whose text it is. */
#include "engine/template/filters.h"
#include "engine/template/letters.h"

#include "base/utf8.h"

#include <string.h>

static bool mark_at(const struct str *s, size_t at)
{
    return s->marks ? s->marks[at] : s->user;
}

static void put_changed(struct run *r, struct out *o, uint32_t cp, enum letter_case to, bool user)
{
    uint32_t points[3];
    char bytes[12];
    size_t n = letter_change(cp, to, points), len = 0;
    for (size_t i = 0; i < n; i++)
        len += (size_t)lodge_utf8_encode(points[i], (uint8_t *)bytes + len);
    out_put(r, o, (struct str){.p = bytes, .n = len, .user = user});
}

/* Is there a cased letter beside s[at], past what may be ignored? */
static bool cased_before(const struct str *s, size_t at)
{
    uint32_t cp = 0;
    while (at > 0) {
        at -= letter_before(s->p, at, &cp);
        if (!letter_is_ignorable(cp))
            return letter_is_cased(cp);
    }
    return false;
}

static bool cased_after(const struct str *s, size_t at)
{
    uint32_t cp = 0;
    while (at < s->n) {
        at += letter_at(s->p + at, s->n - at, &cp);
        if (!letter_is_ignorable(cp))
            return letter_is_cased(cp);
    }
    return false;
}

/* One character at s[at] in lower case: a sigma that ends a word has a form of its own. */
static void put_lower(struct run *r, struct out *o, const struct str *s, size_t at, size_t len,
                      uint32_t cp)
{
    if (cp == 0x3A3 && cased_before(s, at) && !cased_after(s, at + len))
        cp = 0x3C2;
    put_changed(r, o, cp, LETTER_LOWER, mark_at(s, at));
}

/* Which change the next character takes, by where it stands. */
enum casing { UPPER, LOWER, CAPITALIZE, TITLE_PYTHON, TITLE_JINJA, SWAP };

struct walk {
    enum casing casing;
    bool first;        /* of the text, or of a word of Jinja's title filter */
    bool after_letter; /* Python's title() goes on in lower case there */
};

static enum letter_case next_case(struct walk *w, uint32_t cp)
{
    bool first = w->first, after = w->after_letter;
    bool gap = letter_is_space(cp) || (cp < 0x80 && cp && strchr("-({[<", (int)cp));
    w->after_letter = letter_is_cased(cp);
    w->first = w->casing == TITLE_JINJA && gap;
    switch (w->casing) {
    case UPPER:
        return LETTER_UPPER;
    case CAPITALIZE:
        return first ? LETTER_TITLE : LETTER_LOWER;
    case TITLE_PYTHON:
        return after ? LETTER_LOWER : LETTER_TITLE;
    case TITLE_JINJA:
        return first ? LETTER_UPPER : LETTER_LOWER;
    case SWAP:
        return letter_is_upper(cp)   ? LETTER_LOWER
               : letter_is_lower(cp) ? LETTER_UPPER
                                     : LETTER_LOWER;
    default:
        return LETTER_LOWER;
    }
}

static struct value change(struct run *r, struct value v, enum casing casing)
{
    v = to_text(r, v);
    struct out o = {0};
    struct walk w = {.casing = casing, .first = true};
    uint32_t cp = 0;
    step(r, v.s.n / 8);
    for (size_t at = 0, len; at < v.s.n; at += len) {
        len = letter_at(v.s.p + at, v.s.n - at, &cp);
        enum letter_case to = next_case(&w, cp);
        if (to == LETTER_LOWER)
            put_lower(r, &o, &v.s, at, len, cp);
        else
            put_changed(r, &o, cp, to, mark_at(&v.s, at));
    }
    return out_value(&o);
}

struct value string_lower(struct run *r, struct value v)
{
    return change(r, v, LOWER);
}

struct value f_upper(struct run *r, struct value v, const struct args *a)
{
    (void)a;
    return change(r, v, UPPER);
}

struct value f_lower(struct run *r, struct value v, const struct args *a)
{
    (void)a;
    return change(r, v, LOWER);
}

struct value f_capitalize(struct run *r, struct value v, const struct args *a)
{
    (void)a;
    return change(r, v, CAPITALIZE);
}

/* The filter's words begin behind white space, hyphens and brackets; the method's behind anything
 * that is no letter. */
struct value f_title(struct run *r, struct value v, const struct args *a)
{
    (void)a;
    return change(r, v, TITLE_JINJA);
}

struct value f_title_method(struct run *r, struct value v, const struct args *a)
{
    (void)a;
    return change(r, v, TITLE_PYTHON);
}

struct value f_swapcase(struct run *r, struct value v, const struct args *a)
{
    (void)a;
    return change(r, v, SWAP);
}

/* ---- classes ---- */

/* Are all characters, of which there is one at least, in the class? */
static struct value all_in(struct run *r, struct value v, bool (*in_class)(uint32_t))
{
    bool all = v.s.n > 0;
    uint32_t cp = 0;
    step(r, v.s.n / 16);
    for (size_t at = 0; at < v.s.n && all; at += letter_at(v.s.p + at, v.s.n - at, &cp)) {
        letter_at(v.s.p + at, v.s.n - at, &cp);
        all = in_class(cp);
    }
    return v_bool(all);
}

static bool is_alnum(uint32_t cp)
{
    return letter_is_alpha(cp) || letter_is_numeric(cp);
}

static bool is_ascii(uint32_t cp)
{
    return cp < 0x80;
}

#define CLASS_METHOD(name, in_class)                                                               \
    struct value name(struct run *r, struct value v, const struct args *a)                         \
    {                                                                                              \
        (void)a;                                                                                   \
        return all_in(r, v, in_class);                                                             \
    }

CLASS_METHOD(f_isalpha, letter_is_alpha)
CLASS_METHOD(f_isalnum, is_alnum)
CLASS_METHOD(f_isdecimal, letter_is_decimal)
CLASS_METHOD(f_isdigit, letter_is_digit)
CLASS_METHOD(f_isnumeric, letter_is_numeric)
CLASS_METHOD(f_isspace, letter_is_space)

struct value f_isascii(struct run *r, struct value v, const struct args *a)
{
    (void)a;
    return v.s.n ? all_in(r, v, is_ascii) : v_bool(true);
}

bool string_is_cased_as(struct run *r, struct value v, bool upper)
{
    v = to_text(r, v);
    bool any = false;
    uint32_t cp = 0;
    for (size_t at = 0, len; at < v.s.n; at += len) {
        len = letter_at(v.s.p + at, v.s.n - at, &cp);
        if (!letter_is_cased(cp))
            continue;
        any = true;
        if (!(upper ? letter_is_upper(cp) : letter_is_lower(cp)))
            return false;
    }
    return any;
}

struct value f_isupper(struct run *r, struct value v, const struct args *a)
{
    (void)a;
    return v_bool(string_is_cased_as(r, v, true));
}

struct value f_islower(struct run *r, struct value v, const struct args *a)
{
    (void)a;
    return v_bool(string_is_cased_as(r, v, false));
}
