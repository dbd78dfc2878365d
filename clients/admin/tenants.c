/* lodgectl tenants */
#include "clients/admin/admin.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define F(field) offsetof(struct admin_options, field)

static const struct lodge_conf_setting flags[] = {
    {"name", LODGE_CONF_STRING, F(name), .help = "another name (update)"},
    {"tier", LODGE_CONF_STRING, F(tier), .help = "0 to 7; 0 is served first"},
    {"weight", LODGE_CONF_STRING, F(weight), .help = "share among the tenants of its tier"},
    {"metadata", LODGE_CONF_LIST, F(metadata), .help = "KEY=VALUE (repeatable)"},
    {"all", LODGE_CONF_BOOL, F(all), "false", .help = "with the archived ones (list)"},
};

static const struct admin_column columns[] = {
    {"ID", "id", AS_TEXT},     {"NAME", "name", AS_TEXT},     {"STATUS", "status", AS_TEXT},
    {"TIER", "tier", AS_TEXT}, {"WEIGHT", "weight", AS_TEXT}, {"CREATED", "created_at", AS_TIME},
};
#define N_COLUMNS (sizeof columns / sizeof *columns)

/* A number as JSON, so that the server judges its range. */
static int set_number(json_t *body, const char *field, const char *text, struct lodge_error *e)
{
    char *end;
    if (!text)
        return 0;
    double v = strtod(text, &end);
    if (end == text || *end || !isfinite(v))
        return lodge_fail(e, LODGE_ERR_CONFIG, "--%s: '%s' is no number", field, text);
    return json_object_set_new(body, field, json_real(v));
}

static int read_body(struct admin *a, const char *name, json_t **out, struct lodge_error *e)
{
    json_t *body = json_object(), *meta = json_object();
    int err = set_number(body, "tier", a->o.tier, e);
    if (!err)
        err = set_number(body, "weight", a->o.weight, e);
    if (name)
        json_object_set_new(body, "name", json_string(name));
    for (uint32_t i = 0; i < a->o.metadata.n && !err; i++) {
        const char *item = a->o.metadata.items[i], *eq = strchr(item, '=');
        char key[65];
        if (!eq || eq == item || (size_t)(eq - item) >= sizeof key)
            err = lodge_fail(e, LODGE_ERR_CONFIG, "--metadata: '%s' is not KEY=VALUE", item);
        else {
            snprintf(key, sizeof key, "%.*s", (int)(eq - item), item);
            json_object_set_new(meta, key, json_string(eq + 1));
        }
    }
    if (a->o.metadata.n)
        json_object_set(body, "metadata", meta);
    json_decref(meta);
    *out = body;
    if (err)
        json_decref(body);
    return err;
}

static int list(struct admin *a, struct lodge_error *e)
{
    json_t *items;
    int err = admin_get_all(a, a->o.all ? "?include_archived=true" : "", &items, e);
    if (!err)
        admin_print(a, items, columns, N_COLUMNS);
    return err;
}

static int show(struct admin *a, struct lodge_error *e)
{
    json_t *reply;
    int err = admin_find_project(a, e);
    if (!err)
        err = admin_get(a, "", &reply, e);
    if (!err)
        admin_print(a, reply, columns, N_COLUMNS);
    return err;
}

static int create(struct admin *a, struct lodge_error *e)
{
    json_t *body, *reply;
    int err = read_body(a, a->args[0], &body, e);
    if (!err)
        err = admin_post(a, "", body, &reply, e);
    if (!err)
        admin_print(a, reply, columns, N_COLUMNS);
    return err;
}

static int update(struct admin *a, struct lodge_error *e)
{
    json_t *body, *reply;
    int err = admin_find_project(a, e);
    if (!err)
        err = read_body(a, a->o.name, &body, e);
    if (!err)
        err = admin_post(a, "", body, &reply, e);
    if (!err)
        admin_print(a, reply, columns, N_COLUMNS);
    return err;
}

static int archive(struct admin *a, struct lodge_error *e)
{
    json_t *reply;
    int err = admin_find_project(a, e);
    if (!err)
        err = admin_delete(a, "", &reply, e);
    if (!err)
        admin_print(a, reply, columns, N_COLUMNS);
    return err;
}

static const struct admin_verb verbs[] = {
    {"list", "", "all of them", 0, 0, list},
    {"create", "NAME", "a new one", 1, 1, create},
    {"show", "TENANT", "one, by name or id", 1, 1, show},
    {"update", "TENANT", "changes what the flags say", 1, 1, update},
    {"archive", "TENANT", "its keys work no longer", 1, 1, archive},
};

const struct admin_noun admin_tenants = {
    "tenants", "The tenants (projects) that share a server.",
    verbs,     sizeof verbs / sizeof *verbs,
    flags,     sizeof flags / sizeof *flags,
};
