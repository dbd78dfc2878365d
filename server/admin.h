/* The admin API: what its files share. Each handler runs in its connection's own thread, and fills
 * c->reply. */
#ifndef LODGE_SERVER_ADMIN_H
#define LODGE_SERVER_ADMIN_H

#include "server/call.h"

/* What the path's {id}, {key} and {name} stand for. */
struct admin_path {
    char id[ID_MAX], key[ID_MAX], name[NAME_MAX_BYTES];
};

/* ---- admin.c ---- */
void admin_path(const struct call *c, struct admin_path *out);
/* The project of the path; NULL when c->reply says that there is none. */
struct tenant *admin_project(struct call *c, const char *id);
/* As admin_project, for a change: an archived one is refused. */
struct tenant *admin_active_project(struct call *c, const char *id);
/* The body as an object in c->json, whose members are all among `fields` (separated by spaces). An
 * empty body is an empty object. False when c->reply was filled. */
bool admin_body(struct call *c, const char *fields);
/* Replies to a field's or parameter's fault (400). */
void admin_bad(struct call *c, const char *param, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Replies to an error of a change. */
void admin_failed(struct call *c, const struct lodge_error *e);
/* A name in the body: 1 to 128 bytes without control characters. False: replied. */
bool admin_name(struct call *c, const char *field, bool required, const char **out);
json_t *admin_time(int64_t seconds); /* null for 0 */

/* The query's parameters are all among `names`. False when c->reply was filled. */
bool admin_query(struct call *c, const char *names);
const char *admin_parameter(const struct call *c, const char *name); /* NULL when absent */
/* An integer parameter; *out stays when it is absent. False: replied. */
bool admin_integer(struct call *c, const char *name, int64_t min, int64_t max, int64_t *out);

/* A list in pages: `after` names the last item of the page before. */
struct admin_list {
    const char *after;
    int64_t limit;
    bool begun, more;
    json_t *data;
};
/* Reads `after` and `limit`; `more` names further parameters of the route. False: replied. */
bool admin_list_begin(struct call *c, struct admin_list *l, const char *more);
/* Offers the next item; true when it belongs to the page and is to be appended. */
bool admin_list_wants(struct admin_list *l, const char *id);
/* Steals the item. */
void admin_list_add(struct admin_list *l, json_t *item);
void admin_list_reply(struct call *c, struct admin_list *l);

/* ---- the routes ---- */
void admin_projects(struct call *c);
void admin_one_project(struct call *c);
void admin_limits(struct call *c);
void admin_keys(struct call *c);
void admin_one_key(struct call *c);
void admin_rotate(struct call *c);
void admin_adapters(struct call *c);
void admin_one_adapter(struct call *c);
void admin_share(struct call *c);
void admin_usage(struct call *c);

#endif
