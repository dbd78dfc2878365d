/* Filters that order or compare items: sort, groupby, unique, extremes. */
#include "engine/template/filters.h"

#include <string.h>

struct sort_key {
    struct value key, item;
};

static void merge_sort(struct run *r, struct sort_key *k, struct sort_key *tmp, size_t n, int sign)
{
    if (n < 2)
        return;
    size_t half = n / 2, i = 0, j = half, at = 0;
    merge_sort(r, k, tmp, half, sign);
    merge_sort(r, k + half, tmp, n - half, sign);
    while (i < half || j < n) {
        step(r, 1);
        bool left = j == n || (i < half && sign * order(r, k[i].key, k[j].key) <= 0);
        tmp[at++] = left ? k[i++] : k[j++];
    }
    memcpy(k, tmp, n * sizeof *k);
}

static bool given(const struct value *v)
{
    return v && v->type != V_NONE;
}

static bool flag(const struct value *v)
{
    return v && is_true(*v);
}

typedef struct value key_fn(struct run *r, struct value item, const struct value *attr,
                            const struct value *missing, bool sensitive);

/* What an item is compared by: itself or a member; strings without regard to case unless
 * `sensitive`. */
static struct value key_of(struct run *r, struct value item, const struct value *attr,
                           const struct value *missing, bool sensitive)
{
    struct value key = item;
    if (given(attr))
        key = member(r, item, *attr);
    if (key.type == V_UNDEFINED && missing)
        key = *missing;
    return key.type == V_STRING && !sensitive ? string_lower(r, key) : key;
}

/* The list of its members "a,b". */
static struct value keys_of(struct run *r, struct value item, const struct value *attr,
                            const struct value *missing, bool sensitive)
{
    struct value all = v_list(r, 2);
    if (!given(attr) || attr->type != V_STRING) {
        list_push(r, all.list, key_of(r, item, attr, missing, sensitive));
        return all;
    }
    for (struct value path = *attr; path.s.n;) {
        const char *comma = memchr(path.s.p, ',', path.s.n);
        size_t n = comma ? (size_t)(comma - path.s.p) : path.s.n;
        struct value one = substring(path, 0, n);
        list_push(r, all.list, key_of(r, item, &one, missing, sensitive));
        path = substring(path, n + (comma != NULL), path.s.n);
    }
    return all;
}

static struct sort_key *sort_by(struct run *r, struct list *l, const struct value *attr,
                                const struct value *missing, bool sensitive, bool reverse,
                                key_fn *key)
{
    struct sort_key *k = take(r, (l->n + 1) * sizeof *k), *tmp = take(r, (l->n + 1) * sizeof *k);
    for (size_t i = 0; i < l->n; i++)
        k[i] = (struct sort_key){key(r, l->items[i], attr, missing, sensitive), l->items[i]};
    merge_sort(r, k, tmp, l->n, reverse ? -1 : 1);
    return k;
}

static struct sort_key *sorted(struct run *r, struct list *l, const struct value *attr,
                               const struct value *missing, bool sensitive, bool reverse)
{
    return sort_by(r, l, attr, missing, sensitive, reverse, key_of);
}

static struct value items_of(struct run *r, const struct sort_key *k, size_t n)
{
    struct value out = v_list(r, n);
    for (size_t i = 0; i < n; i++)
        list_push(r, out.list, k[i].item);
    return out;
}

struct value f_sort(struct run *r, struct value v, const struct args *a)
{
    struct list *l = iterate(r, v);
    bool reverse = flag(args_get(a, 0, "reverse")),
         sensitive = flag(args_get(a, 1, "case_sensitive"));
    const struct value *attr = args_get(a, 2, "attribute");
    return items_of(r, sort_by(r, l, attr, NULL, sensitive, reverse, keys_of), l->n);
}

struct value f_dictsort(struct run *r, struct value v, const struct args *a)
{
    struct value *by = args_get(a, 1, "by"), pairs = f_items(r, v, a);
    bool by_value = by && by->type == V_STRING && by->s.n == 5 && !memcmp(by->s.p, "value", 5);
    struct value place = v_int(by_value);
    struct sort_key *k = sorted(r, pairs.list, &place, NULL, flag(args_get(a, 0, "case_sensitive")),
                                flag(args_get(a, 2, "reverse")));
    return items_of(r, k, pairs.list->n);
}

const struct dict *sorted_by_key(struct run *r, struct value v)
{
    struct value pairs = f_items(r, v, NULL), first = v_int(0), d = v_dict(r);
    struct sort_key *k = sorted(r, pairs.list, &first, NULL, true, false);
    for (size_t i = 0; i < pairs.list->n; i++) {
        const struct list *pair = k[i].item.list;
        dict_set(r, d.dict, pair->items[0], pair->items[1]);
    }
    return d.dict;
}

struct value f_unique(struct run *r, struct value v, const struct args *a)
{
    struct list *l = iterate(r, v);
    bool sensitive = flag(args_get(a, 0, "case_sensitive"));
    struct value *attr = args_get(a, 1, "attribute"), out = v_generator(r), keys = v_list(r, 0);
    for (size_t i = 0; i < l->n; i++) {
        struct value key = key_of(r, l->items[i], attr, NULL, sensitive);
        bool seen = false;
        for (size_t k = 0; k < keys.list->n && !seen; k++)
            seen = same(r, keys.list->items[k], key);
        if (seen)
            continue;
        list_push(r, keys.list, key);
        list_push(r, out.list, l->items[i]);
    }
    return out;
}

static struct value extreme(struct run *r, struct value v, const struct args *a, int sign)
{
    struct list *l = iterate(r, v);
    bool sensitive = flag(args_get(a, 0, "case_sensitive"));
    struct value *attr = args_get(a, 1, "attribute");
    if (!l->n)
        return v_undefined("extreme");
    size_t best = 0;
    struct value best_key = key_of(r, l->items[0], attr, NULL, sensitive);
    for (size_t i = 1; i < l->n; i++) {
        struct value key = key_of(r, l->items[i], attr, NULL, sensitive);
        if (sign * order(r, key, best_key) > 0) {
            best = i;
            best_key = key;
        }
    }
    return l->items[best];
}

struct value f_max(struct run *r, struct value v, const struct args *a)
{
    return extreme(r, v, a, 1);
}

struct value f_min(struct run *r, struct value v, const struct args *a)
{
    return extreme(r, v, a, -1);
}

/* A pair (grouper, list) that also has its parts by these names. */
static struct value make_group(struct run *r, struct value key, struct value items)
{
    struct value g = v_list(r, 2);
    g.tuple = g.group = true;
    list_push(r, g.list, key);
    list_push(r, g.list, items);
    return g;
}

struct value f_groupby(struct run *r, struct value v, const struct args *a)
{
    struct list *l = iterate(r, v);
    struct value *attr = args_get(a, 0, "attribute"), *missing = args_get(a, 1, "default");
    bool sensitive = flag(args_get(a, 2, "case_sensitive"));
    if (!given(attr))
        fail(r, LODGE_ERR_INVALID, "groupby needs an attribute");
    struct sort_key *k = sorted(r, l, attr, missing, sensitive, false);
    struct value out = v_list(r, 0);
    for (size_t i = 0, end; i < l->n; i = end) {
        for (end = i + 1; end < l->n && same(r, k[i].key, k[end].key);)
            end++;
        struct value shown = key_of(r, k[i].item, attr, missing, true);
        list_push(r, out.list, make_group(r, shown, items_of(r, k + i, end - i)));
    }
    return out;
}
