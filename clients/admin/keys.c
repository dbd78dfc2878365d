/* lodgectl keys */
#include "clients/admin/admin.h"

#include "base/clock.h"

#include <string.h>

#define F(field) offsetof(struct admin_options, field)

static const struct lodge_conf_setting flags[] = {
    {"name", LODGE_CONF_STRING, F(name), .help = "what it is for (create)"},
    {"models", LODGE_CONF_LIST, F(models), .help = "models it may use (default: all)"},
    {"expires", LODGE_CONF_STRING, F(expires), .help = "ends after this: 90s, 15m, 12h, 30d"},
    {"overlap", LODGE_CONF_STRING, F(overlap), "0s",
     .help = "how long the old key still works (rotate)"},
};

static const struct admin_column columns[] = {
    {"ID", "id", AS_TEXT},
    {"NAME", "name", AS_TEXT},
    {"KEY", "redacted_value", AS_TEXT},
    {"MODELS", "models", AS_LIST},
    {"CREATED", "created_at", AS_TIME},
    {"EXPIRES", "expires_at", AS_TIME},
    {"LAST USED", "last_used_at", AS_TIME},
};
static const struct admin_column fresh_columns[] = {
    {"ID", "id", AS_TEXT},
    {"KEY (shown once)", "value", AS_TEXT},
    {"EXPIRES", "expires_at", AS_TIME},
};

static int list(struct admin *a, struct lodge_error *e)
{
    json_t *items;
    int err = admin_find_project(a, e);
    if (!err)
        err = admin_get_all(a, "/api_keys", &items, e);
    if (!err)
        admin_print(a, items, columns, sizeof columns / sizeof *columns);
    return err;
}

static int create(struct admin *a, struct lodge_error *e)
{
    json_t *body = json_object(), *reply;
    int64_t seconds = 0;
    int err = a->o.expires ? admin_duration("expires", a->o.expires, &seconds, e) : 0;
    if (!err)
        err = admin_find_project(a, e);
    if (a->o.name)
        json_object_set_new(body, "name", json_string(a->o.name));
    if (a->o.expires)
        json_object_set_new(body, "expires_at",
                            json_integer((json_int_t)lodge_unix_time() + seconds));
    if (a->o.models.n) {
        json_t *models = json_array();
        for (uint32_t i = 0; i < a->o.models.n; i++)
            json_array_append_new(models, json_string(a->o.models.items[i]));
        json_object_set_new(body, "models", models);
    }
    if (err) {
        json_decref(body);
        return err;
    }
    err = admin_post(a, "/api_keys", body, &reply, e);
    if (!err)
        admin_print(a, reply, fresh_columns, sizeof fresh_columns / sizeof *fresh_columns);
    return err;
}

static int rotate(struct admin *a, struct lodge_error *e)
{
    char tail[300];
    int64_t seconds;
    json_t *reply;
    int err = admin_duration("overlap", a->o.overlap, &seconds, e);
    if (!err)
        err = admin_tail(tail, sizeof tail, "/api_keys/", a->args[1], "/rotate", e);
    if (!err)
        err = admin_find_project(a, e);
    if (!err)
        err = admin_post(a, tail, json_pack("{s:I}", "overlap_seconds", (json_int_t)seconds),
                         &reply, e);
    if (!err)
        admin_print(a, reply, fresh_columns, sizeof fresh_columns / sizeof *fresh_columns);
    return err;
}

static int end_key(struct admin *a, struct lodge_error *e)
{
    return admin_end_item(a, "/api_keys/", "REVOKED", e);
}

static const struct admin_verb verbs[] = {
    {"list", "TENANT", "its keys", 1, 1, list},
    {"create", "TENANT", "a new key; its value is shown once", 1, 1, create},
    {"rotate", "TENANT KEY_ID", "a new key in place of another", 2, 2, rotate},
    {"revoke", "TENANT KEY_ID", "ends a key at once", 2, 2, end_key},
};

const struct admin_noun admin_keys = {
    "keys", "API keys of a tenant, which is named by its name or id.",
    verbs,  sizeof verbs / sizeof *verbs,
    flags,  sizeof flags / sizeof *flags,
};
