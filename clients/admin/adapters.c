/* lodgectl adapters */
#include "clients/admin/admin.h"

#include <stdlib.h>
#include <string.h>

static const struct admin_column columns[] = {
    {"NAME", "name", AS_TEXT},          {"PATH", "path", AS_TEXT},
    {"DIGEST", "digest", AS_TEXT},      {"SHARED WITH", "shared_with", AS_LIST},
    {"CREATED", "created_at", AS_TIME},
};
#define N_COLUMNS (sizeof columns / sizeof *columns)

static int list(struct admin *a, struct lodge_error *e)
{
    json_t *items;
    int err = admin_find_project(a, e);
    if (!err)
        err = admin_get_all(a, "/adapters", &items, e);
    if (!err)
        admin_print(a, items, columns, N_COLUMNS);
    return err;
}

static int put(struct admin *a, bool replace, struct lodge_error *e)
{
    json_t *reply;
    int err = admin_find_project(a, e);
    if (!err)
        err = admin_post(a, "/adapters",
                         json_pack("{s:s, s:s, s:b}", "name", a->args[1], "path", a->args[2],
                                   "load_inplace", replace),
                         &reply, e);
    if (!err)
        admin_print(a, reply, columns, N_COLUMNS);
    return err;
}

static int add(struct admin *a, struct lodge_error *e)
{
    return put(a, false, e);
}

static int replace(struct admin *a, struct lodge_error *e)
{
    return put(a, true, e);
}

static int drop(struct admin *a, struct lodge_error *e)
{
    return admin_end_item(a, "/adapters/", "REMOVED", e);
}

/* The other tenant by name or id, as the first is found. */
static int find_other(struct admin *a, json_t **out, struct lodge_error *e)
{
    struct admin other = {.http = a->http, .args = a->args + 2};
    int err = admin_find_project(&other, e);
    *out = other.project;
    return err;
}

static int share(struct admin *a, struct lodge_error *e)
{
    char tail[600];
    json_t *other = NULL, *reply;
    int err = admin_tail(tail, sizeof tail, "/adapters/", a->args[1], "/share", e);
    if (!err)
        err = find_other(a, &other, e);
    if (!err)
        err = admin_find_project(a, e);
    if (!err)
        err = admin_post(a, tail, json_pack("{s:O}", "project", json_object_get(other, "id")),
                         &reply, e);
    if (!err)
        admin_print(a, reply, columns, N_COLUMNS);
    json_decref(other);
    return err;
}

static const struct admin_verb verbs[] = {
    {"list", "TENANT", "its adapters", 1, 1, list},
    {"add", "TENANT NAME PATH", "a folder on the server, by a name", 3, 3, add},
    {"replace", "TENANT NAME PATH", "the name means this folder from the next request on", 3, 3,
     replace},
    {"remove", "TENANT NAME", "no new request may use it", 2, 2, drop},
    {"share", "TENANT NAME OTHER", "another tenant may use it, too", 3, 3, share},
};

const struct admin_noun admin_adapters = {
    "adapters", "Adapters of a tenant, which is named by its name or id.",
    verbs,      sizeof verbs / sizeof *verbs,
    NULL,       0,
};
