/* lodgectl usage */
#include "clients/admin/admin.h"

#include "base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define F(field) offsetof(struct admin_options, field)
#define DEFAULT_PAST_S (7 * 86400)

static const struct lodge_conf_setting flags[] = {
    {"start", LODGE_CONF_STRING, F(start),
     .help = "unix seconds, or so long ago: 12h (default 7d)"},
    {"end", LODGE_CONF_STRING, F(end), .help = "the same (default: now)"},
    {"bucket", LODGE_CONF_CHOICE, F(bucket), "1d", "1m|1h|1d", .help = "width of a row in time"},
    {"group-by", LODGE_CONF_LIST, F(group_by),
     .help = "project_id, api_key_id, model (default: project_id)"},
    {"project", LODGE_CONF_STRING, F(project), .help = "only this one, by name or id"},
};

static const struct admin_column columns[] = {
    {"FROM", "start_time", AS_TIME},
    {"TENANT", "project_id", AS_TEXT},
    {"KEY", "api_key_id", AS_TEXT},
    {"MODEL", "model", AS_TEXT},
    {"REQUESTS", "num_model_requests", AS_TEXT},
    {"INPUT", "input_tokens", AS_TEXT},
    {"CACHED", "input_cached_tokens", AS_TEXT},
    {"OUTPUT", "output_tokens", AS_TEXT},
    {"PAGE SECONDS", "page_seconds", AS_TEXT},
    {"JOULES", "joules", AS_TEXT},
};

static int read_time(const char *flag, const char *text, int64_t *out, struct lodge_error *e)
{
    int64_t ago = 0;
    char *end;
    if (!text)
        return 0;
    long long at = strtoll(text, &end, 10);
    if (end != text && !*end && at >= 0) {
        *out = at;
        return 0;
    }
    int err = admin_duration(flag, text, &ago, e);
    *out = (int64_t)lodge_unix_time() - ago;
    return err;
}

static int find_one(struct admin *a, char *out, size_t room, struct lodge_error *e)
{
    struct admin other = {.http = a->http, .args = &a->o.project};
    *out = 0;
    if (!a->o.project)
        return 0;
    int err = admin_find_project(&other, e);
    if (!err)
        err = admin_tail(out, room,
                         "&project_ids=", json_string_value(json_object_get(other.project, "id")),
                         "", e);
    json_decref(other.project);
    return err;
}

static int make_query(struct admin *a, char *out, size_t room, struct lodge_error *e)
{
    int64_t start = (int64_t)lodge_unix_time() - DEFAULT_PAST_S;
    int64_t end = (int64_t)lodge_unix_time() + 1;
    char one[200];
    int err = read_time("start", a->o.start, &start, e);
    if (!err)
        err = read_time("end", a->o.end, &end, e);
    if (!err)
        err = find_one(a, one, sizeof one, e);
    if (err)
        return err;
    size_t n = (size_t)snprintf(out, room,
                                "!/v1/organization/usage/completions?start_time=%lld&end_time=%lld"
                                "&bucket_width=%s%s",
                                (long long)start, (long long)end, a->o.bucket, one);
    if (!a->o.group_by.n)
        return admin_tail(out + n, room - n, "&group_by=", "project_id", "", e);
    for (uint32_t i = 0; i < a->o.group_by.n && !err; i++) {
        err = admin_tail(out + n, room - n, "&group_by=", a->o.group_by.items[i], "", e);
        n += strlen(out + n);
    }
    return err;
}

/* Results of all buckets, each with its time, in place of the buckets. */
static void flatten(json_t *reply)
{
    json_t *bucket, *result, *rows = json_array();
    size_t i, k;
    json_array_foreach(json_object_get(reply, "data"), i, bucket)
    {
        json_array_foreach(json_object_get(bucket, "results"), k, result)
        {
            json_object_set(result, "start_time", json_object_get(bucket, "start_time"));
            json_array_append(rows, result);
        }
    }
    json_object_set_new(reply, "data", rows);
}

static int show(struct admin *a, struct lodge_error *e)
{
    char query[1500];
    json_t *reply;
    int err = make_query(a, query, sizeof query, e);
    if (!err)
        err = admin_get_pages(a, query, "next_page", "&page=", &reply, e);
    if (err)
        return err;
    if (!a->o.json)
        flatten(reply);
    admin_print(a, reply, columns, sizeof columns / sizeof *columns);
    return 0;
}

static const struct admin_verb verbs[] = {
    {"show", "", "tokens and requests from the ledger", 0, 0, show},
};

const struct admin_noun admin_usage = {
    "usage", "What tenants used, from the ledger.", verbs, sizeof verbs / sizeof *verbs,
    flags,   sizeof flags / sizeof *flags,
};
