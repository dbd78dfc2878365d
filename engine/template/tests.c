/* Tests: what stands behind `is`, and what select and reject name. */
#include "engine/template/filters.h"

#include <string.h>

static bool test_type(struct value v, const char *name, bool *known)
{
    /* As in Jinja2, what is undefined can be iterated over (it is empty). */
    bool iterable =
        v.type == V_LIST || v.type == V_STRING || v.type == V_DICT || v.type == V_UNDEFINED;
    bool generator = v.type == V_LIST && v.list->generator;
    const struct {
        const char *name;
        bool yes;
    } all[] = {
        {"defined", v.type != V_UNDEFINED},
        {"undefined", v.type == V_UNDEFINED},
        {"none", v.type == V_NONE},
        {"string", v.type == V_STRING},
        {"mapping", v.type == V_DICT},
        {"sequence", iterable && !generator},
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
    struct value k = odd || even ? v_int(2) : by ? *by : v_none();
    if (!is_number(v) || !is_number(k))
        fail(r, LODGE_ERR_INVALID, "'%s' needs numbers", name);
    return number(apply_operator(r, OP_MOD, v, k)) == odd;
}

/* Is it one and the same object? Numbers and texts are when they are equal. */
static bool same_object(struct run *r, struct value a, struct value b)
{
    if (a.type != b.type)
        return false;
    if (a.type == V_LIST)
        return a.list == b.list;
    if (a.type == V_DICT || a.type == V_NAMESPACE)
        return a.dict == b.dict;
    return same(r, a, b);
}

enum relation { EQ, NE, LT, GT, LE, GE, IN, SAME };

static bool related(struct run *r, enum relation how, struct value v, struct value by)
{
    switch (how) {
    case EQ:
    case NE:
        return same(r, v, by) == (how == EQ);
    case IN:
        return contains(r, v, by);
    case SAME:
        return same_object(r, v, by);
    case LT:
        return order(r, v, by) < 0;
    case GT:
        return order(r, v, by) > 0;
    case LE:
        return order(r, v, by) <= 0;
    default:
        return order(r, v, by) >= 0;
    }
}

static const struct {
    const char *name;
    enum relation how;
} relations[] = {{"equalto", EQ},     {"eq", EQ},      {"==", EQ},       {"ne", NE}, {"!=", NE},
                 {"lt", LT},          {"<", LT},       {"lessthan", LT}, {"gt", GT}, {">", GT},
                 {"greaterthan", GT}, {"le", LE},      {"<=", LE},       {"ge", GE}, {">=", GE},
                 {"in", IN},          {"sameas", SAME}};

static bool test_relation(struct run *r, struct value v, const char *name, const struct value *by,
                          bool *known)
{
    for (size_t i = 0; i < sizeof relations / sizeof *relations; i++) {
        if (strcmp(relations[i].name, name) != 0)
            continue;
        *known = true;
        if (!by)
            fail(r, LODGE_ERR_INVALID, "test '%s' needs an argument", name);
        return related(r, relations[i].how, v, *by);
    }
    return false;
}

/* Tests of texts: their case, and whether they name something. */
static bool test_text(struct run *r, struct value v, const char *name, bool *known)
{
    *known = true;
    if (strcmp(name, "lower") == 0 || strcmp(name, "upper") == 0)
        return string_is_cased_as(r, v, *name == 'u');
    char word[64] = {0};
    if (v.type == V_STRING)
        memcpy(word, v.s.p, v.s.n < sizeof word ? v.s.n : sizeof word - 1);
    if (strcmp(name, "filter") == 0)
        return is_filter(word);
    if (strcmp(name, "test") == 0)
        return is_test(word);
    *known = strcmp(name, "escaped") == 0;
    return v.type == V_STRING && v.markup;
}

bool is_test(const char *name)
{
    static const char *const others[] = {"odd",   "even",   "divisibleby", "lower",
                                         "upper", "filter", "test",        "escaped"};
    bool known;
    test_type(v_none(), name, &known);
    for (size_t i = 0; i < sizeof others / sizeof *others && !known; i++)
        known = strcmp(others[i], name) == 0;
    for (size_t i = 0; i < sizeof relations / sizeof *relations && !known; i++)
        known = strcmp(relations[i].name, name) == 0;
    return known;
}

bool apply_test(struct run *r, const char *name, struct value v, const struct value *args, size_t n)
{
    bool known, yes = test_type(v, name, &known);
    if (!known)
        yes = test_number(r, v, name, n ? args : NULL, &known);
    if (!known)
        yes = test_relation(r, v, name, n ? args : NULL, &known);
    if (!known)
        yes = test_text(r, v, name, &known);
    if (!known)
        fail(r, LODGE_ERR_INVALID, "no test named '%.60s'", name);
    return yes;
}
