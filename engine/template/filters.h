/* What filters, methods, tests and functions share. Private to filters_text.c, filters_list.c,
 * filters_value.c and builtins.c; who calls them by name uses value.h.
 *
 * Values made here live in the run's arena. Every function that takes a run may fail, by longjmp
 * to r->fault.jump.
 */
#ifndef LODGE_ENGINE_TEMPLATE_FILTERS_H
#define LODGE_ENGINE_TEMPLATE_FILTERS_H

#include "engine/template/value.h"

/* Arguments of a call, without the value it is applied to. */
struct args {
    const struct value *v;
    size_t n;
    struct dict *kwargs;
};

/* A filter or method by its Jinja name: applied to the value with the arguments. A method's value
 * has the type of its table; a filter checks it. */
typedef struct value filter_fn(struct run *r, struct value v, const struct args *a);

/* builtins.c. Argument i, or the keyword `name` (NULL: none); NULL when neither was given. */
struct value *args_get(const struct args *a, size_t i, const char *name);
/* The first argument; fails, naming `what`, when there is none. */
struct value args_need(struct run *r, const struct args *a, const char *what);
/* The value's string; fails, naming `what`, when it is none. */
struct str need_string(struct run *r, struct value v, const char *what);

/* filters_case.c. The string of a value in lower case; are its letters, of which there is one at
 * least, all of one case? */
struct value string_lower(struct run *r, struct value v);
bool string_is_cased_as(struct run *r, struct value v, bool upper);
filter_fn f_upper, f_lower, f_capitalize, f_title, f_title_method, f_swapcase, f_isdigit, f_isspace,
    f_isalpha, f_isalnum, f_isdecimal, f_isnumeric, f_isascii, f_isupper, f_islower;

/* filters_text.c */
filter_fn f_trim, f_lstrip, f_rstrip, f_removeprefix, f_removesuffix, f_replace, f_split, f_rsplit,
    f_splitlines, f_partition, f_rpartition, f_startswith, f_endswith, f_find, f_rfind, f_index_in,
    f_rindex_in, f_count_in, f_join, f_join_method, f_indent;

/* filters_format.c */
filter_fn f_format, f_format_method, f_center, f_ljust, f_rjust, f_zfill, f_truncate, f_wordcount;

/* filters_list.c. A member by "a" or "a.b", or an item by a number. */
struct value member(struct run *r, struct value v, struct value path);
filter_fn f_length, f_first, f_last, f_list, f_reverse, f_items, f_items_filter, f_keys, f_values,
    f_get, f_append, f_pop, f_select, f_reject, f_selectattr, f_rejectattr, f_map, f_batch, f_slice,
    f_index_of, f_count_of, f_copy;

/* filters_order.c */
filter_fn f_sort, f_dictsort, f_unique, f_groupby, f_max, f_min;

/* filters_value.c */
filter_fn f_default, f_string, f_safe, f_tojson, f_int, f_float, f_abs, f_round, f_sum, f_escape,
    f_forceescape, f_attr;

#endif
