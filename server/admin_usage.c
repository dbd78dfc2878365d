/* Usage in buckets, from the ledger. */
#include "server/admin.h"

#include "base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct width {
    const char *name;
    int64_t seconds, usual, most; /* buckets of a page */
} widths[] = {{"1d", 86400, 7, 31}, {"1h", 3600, 24, 168}, {"1m", 60, 60, 1440}};

static const struct {
    const char *name;
    unsigned bit;
} groups[] = {
    {"project_id", USAGE_BY_PROJECT}, {"api_key_id", USAGE_BY_KEY}, {"model", USAGE_BY_MODEL}};

struct usage_page {
    struct usage_query q;
    int64_t end;   /* of all pages */
    json_t *lists; /* results of each bucket */
};

/* ---- the query ---- */

struct group_reader {
    unsigned bits;
    bool bad;
};

/* group_by may come several times, with [] behind it, or as a list with commas. */
static enum MHD_Result read_group(void *cls, enum MHD_ValueKind kind, const char *key,
                                  const char *value)
{
    struct group_reader *g = cls;
    (void)kind;
    if (strcmp(key, "group_by") != 0 && strcmp(key, "group_by[]") != 0)
        return MHD_YES;
    for (const char *at = value; at && *at; at += strcspn(at, ","), at += *at == ',') {
        size_t n = strcspn(at, ",");
        unsigned bit = 0;
        for (size_t i = 0; i < sizeof groups / sizeof *groups; i++)
            if (strlen(groups[i].name) == n && memcmp(groups[i].name, at, n) == 0)
                bit = groups[i].bit;
        g->bits |= bit;
        g->bad |= !bit;
    }
    g->bad |= !value;
    return MHD_YES;
}

static bool read_groups(struct call *c, unsigned *out)
{
    struct group_reader g = {0};
    MHD_get_connection_values(c->mc, MHD_GET_ARGUMENT_KIND, read_group, &g);
    *out = g.bits;
    if (g.bad)
        admin_bad(c, "group_by", "'group_by' may be project_id, api_key_id and model");
    return !g.bad;
}

static const struct width *read_width(struct call *c)
{
    const char *text = admin_parameter(c, "bucket_width");
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++)
        if (strcmp(text ? text : "1d", widths[i].name) == 0)
            return &widths[i];
    admin_bad(c, "bucket_width", "'bucket_width' must be one of 1m, 1h, 1d");
    return NULL;
}

/* Buckets begin at whole minutes, hours or days (UTC), the first before start_time or at it. */
static bool read_query(struct call *c, struct usage_page *p)
{
    int64_t start = -1, page, limit, most = (int64_t)1 << 40;
    int64_t end = (int64_t)lodge_unix_time() + 1;
    if (!admin_query(c, "start_time end_time bucket_width group_by group_by[] limit page "
                        "project_ids project_ids[]"))
        return false;
    const struct width *w = read_width(c);
    if (!w || !admin_integer(c, "start_time", 0, most, &start) ||
        !admin_integer(c, "end_time", 1, most, &end))
        return false;
    if (start < 0) {
        admin_bad(c, "start_time", "'start_time' is missing (unix seconds)");
        return false;
    }
    if (end <= start) {
        admin_bad(c, "end_time", "'end_time' must be after 'start_time'");
        return false;
    }
    limit = w->usual;
    page = start - start % w->seconds;
    if (!admin_integer(c, "limit", 1, w->most, &limit) ||
        !admin_integer(c, "page", page, end, &page) || !read_groups(c, &p->q.group_by))
        return false;
    if (page % w->seconds) {
        admin_bad(c, "page", "'page' must be the next_page of a reply to the same query");
        return false;
    }
    p->end = end;
    p->q.width = w->seconds;
    p->q.start = page;
    p->q.end = page + limit * w->seconds < end ? page + limit * w->seconds : end;
    p->q.project_id = admin_parameter(c, "project_ids");
    if (!p->q.project_id)
        p->q.project_id = admin_parameter(c, "project_ids[]");
    return true;
}

/* ---- the reply ---- */

static json_t *text_or_null(const char *text)
{
    return text ? json_string(text) : json_null();
}

static int add_sum(void *cookie, const struct usage_sum *u)
{
    struct usage_page *p = cookie;
    json_t *o =
        json_pack("{s:s, s:I, s:I, s:I, s:I, s:o, s:o, s:o, s:f, s:o}", "object",
                  "organization.usage.completions.result", "input_tokens",
                  (json_int_t)u->input_tokens, "output_tokens", (json_int_t)u->output_tokens,
                  "input_cached_tokens", (json_int_t)u->cached_tokens, "num_model_requests",
                  (json_int_t)u->requests, "project_id", text_or_null(u->project_id), "api_key_id",
                  text_or_null(u->key_id), "model", text_or_null(u->model), "page_seconds",
                  u->page_seconds, "joules", u->joules < 0 ? json_null() : json_real(u->joules));
    json_t *list = json_array_get(p->lists, (size_t)u->bucket);
    return o && list && !json_array_append_new(list, o) ? 0 : LODGE_ERR_NOMEM;
}

static void reply_page(struct call *c, struct usage_page *p)
{
    json_t *data = json_array(), *list;
    size_t i;
    json_array_foreach(p->lists, i, list)
    {
        int64_t from = p->q.start + (int64_t)i * p->q.width, to = from + p->q.width;
        json_array_append_new(data,
                              json_pack("{s:s, s:I, s:I, s:O}", "object", "bucket", "start_time",
                                        (json_int_t)from, "end_time",
                                        (json_int_t)(to < p->end ? to : p->end), "results", list));
    }
    char next[32];
    bool more = p->q.end < p->end;
    snprintf(next, sizeof next, "%lld", (long long)p->q.end);
    reply_json(c, 200,
               json_pack("{s:s, s:o, s:b, s:o}", "object", "page", "data", data, "has_more", more,
                         "next_page", more ? json_string(next) : json_null()));
}

void admin_usage(struct call *c)
{
    struct usage_page p = {.lists = NULL};
    struct lodge_error e = {0};
    if (!admin_project(c, "proj_default") || !read_query(c, &p))
        return;
    p.lists = json_array();
    for (int64_t at = p.q.start; at < p.q.end; at += p.q.width)
        json_array_append_new(p.lists, json_array());
    if (store_usage(c->server->tenants.ledger.store, &p.q, add_sum, &p, &e))
        admin_failed(c, &e);
    else
        reply_page(c, &p);
    json_decref(p.lists);
}
