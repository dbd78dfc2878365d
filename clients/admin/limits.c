/* lodgectl limits */
#include "clients/admin/admin.h"

#include <string.h>

#define F(field) offsetof(struct admin_options, field)
#define N_LIMITS 8u
#define PERIOD 7u

/* The fields of the API, in the order of admin_options.limits. */
static const char *const fields[N_LIMITS] = {
    "requests_per_minute", "tokens_per_minute", "max_concurrent", "loads_per_minute",
    "resident_bytes",      "host_bytes",        "budget_tokens",  "budget_period"};

static const struct lodge_conf_setting flags[] = {
    {"requests-per-minute", LODGE_CONF_STRING, F(limits[0]), .help = "a number, or none (all)"},
    {"tokens-per-minute", LODGE_CONF_STRING, F(limits[1]), .help = "of prompts and replies"},
    {"max-concurrent", LODGE_CONF_STRING, F(limits[2]), .help = "requests at once"},
    {"loads-per-minute", LODGE_CONF_STRING, F(limits[3]), .help = "of adapters"},
    {"resident-bytes", LODGE_CONF_STRING, F(limits[4]), .help = "of adapters on the device: 512M"},
    {"host-bytes", LODGE_CONF_STRING, F(limits[5]), .help = "of adapters in host memory"},
    {"budget-tokens", LODGE_CONF_STRING, F(limits[6]), .help = "in each period"},
    {"budget-period", LODGE_CONF_CHOICE, F(limits[7]), NULL, "day|month|total",
     .help = "of the budget"},
};

static const struct admin_column columns[] = {
    {"REQ/MIN", "requests_per_minute", AS_TEXT}, {"TOK/MIN", "tokens_per_minute", AS_TEXT},
    {"CONCURRENT", "max_concurrent", AS_TEXT},   {"LOADS/MIN", "loads_per_minute", AS_TEXT},
    {"RESIDENT", "resident_bytes", AS_TEXT},     {"HOST", "host_bytes", AS_TEXT},
    {"BUDGET", "budget_tokens", AS_TEXT},        {"PERIOD", "budget_period", AS_TEXT},
    {"USED", "budget_used_tokens", AS_TEXT},
};
#define N_COLUMNS (sizeof columns / sizeof *columns)

static int show(struct admin *a, struct lodge_error *e)
{
    json_t *reply;
    int err = admin_find_project(a, e);
    if (!err)
        err = admin_get(a, "/limits", &reply, e);
    if (!err)
        admin_print(a, reply, columns, N_COLUMNS);
    return err;
}

static int read_limit(json_t *body, uint32_t i, const char *text, struct lodge_error *e)
{
    uint64_t n = 0;
    if (i == PERIOD)
        return json_object_set_new(body, fields[i], json_string(text));
    if (strcmp(text, "none") == 0)
        return json_object_set_new(body, fields[i], json_null());
    if (lodge_size_parse(text, &n) || n > INT64_MAX)
        return lodge_fail(e, LODGE_ERR_CONFIG,
                          "%s: '%s' is no number such as 600, 20k or 4G, nor none", flags[i].name,
                          text);
    return json_object_set_new(body, fields[i], json_integer((json_int_t)n));
}

static int set(struct admin *a, struct lodge_error *e)
{
    json_t *body = json_object(), *reply;
    int err = 0;
    for (uint32_t i = 0; i < N_LIMITS && !err; i++)
        if (a->o.limits[i])
            err = read_limit(body, i, a->o.limits[i], e);
    if (!err && !json_object_size(body))
        err = lodge_fail(e, LODGE_ERR_CONFIG, "nothing to set; see lodgectl limits --help");
    if (!err)
        err = admin_find_project(a, e);
    if (err) {
        json_decref(body);
        return err;
    }
    err = admin_post(a, "/limits", body, &reply, e);
    if (!err)
        admin_print(a, reply, columns, N_COLUMNS);
    return err;
}

static const struct admin_verb verbs[] = {
    {"show", "TENANT", "what holds, and what the budget has used", 1, 1, show},
    {"set", "TENANT", "changes what the flags say", 1, 1, set},
};

const struct admin_noun admin_limits = {
    "limits", "Rates and budgets of a tenant, which is named by its name or id.",
    verbs,    sizeof verbs / sizeof *verbs,
    flags,    sizeof flags / sizeof *flags,
};
