/* lodgectl tenants, keys, limits, adapters, usage: the admin API on a terminal. */
#ifndef LODGE_CLIENTS_ADMIN_ADMIN_H
#define LODGE_CLIENTS_ADMIN_ADMIN_H

#include "base/conf.h"
#include "clients/http.h"

struct admin_options {
    struct lodge_conf conf;
    const char *url, *key_file;
    bool json;
    /* Of the nouns. */
    const char *name, *tier, *weight;
    struct lodge_conf_list metadata, models, group_by;
    const char *expires, *overlap;
    const char *limits[8];
    const char *start, *end, *bucket, *project;
    bool all;
};

struct admin {
    struct admin_options o;
    char base[1024];
    struct http_client http;
    const char *const *args; /* behind the verb */
    uint32_t n_args;
    json_t *project; /* that the first argument names */
};

/* One thing that can be done to a noun. */
struct admin_verb {
    const char *name, *args, *help; /* args as the help shows them: "PROJECT [NAME]" */
    uint32_t min_args, max_args;
    int (*run)(struct admin *a, struct lodge_error *e);
};

struct admin_noun {
    const char *name, *about;
    const struct admin_verb *verbs;
    uint32_t n_verbs;
    const struct lodge_conf_setting *flags;
    uint32_t n_flags;
};

extern const struct admin_noun admin_tenants, admin_keys, admin_limits, admin_adapters, admin_usage;

/* Is this word one of the nouns? */
bool admin_knows(const char *word);
/* argv without program and noun. Returns the exit code. */
int admin_main(const char *noun, int argc, char *const *argv);

/* ---- for the nouns ---- */

/* GET, POST (body not NULL; stolen) or DELETE of PROJECTS + "/" + the project's id + `tail`;
 * without a project, of PROJECTS + `tail`. The reply in *out (new reference). */
int admin_get(struct admin *a, const char *tail, json_t **out, struct lodge_error *e);
int admin_post(struct admin *a, const char *tail, json_t *body, json_t **out,
               struct lodge_error *e);
int admin_delete(struct admin *a, const char *tail, json_t **out, struct lodge_error *e);
/* A list with the items of all its pages, as if it had come in one. */
int admin_get_all(struct admin *a, const char *tail, json_t **out, struct lodge_error *e);
/* The same for any reply with `data`, whose `cursor` is sent as `parameter` ("&page=") for more. */
int admin_get_pages(struct admin *a, const char *tail, const char *cursor, const char *parameter,
                    json_t **out, struct lodge_error *e);
/* Finds the project that args[0] names, by id or by name. */
int admin_find_project(struct admin *a, struct lodge_error *e);
/* "/keys/" and the percent-encoded text, and `after`, in `out`. INVALID when it does not fit. */
int admin_tail(char *out, size_t room, const char *before, const char *text, const char *after,
               struct lodge_error *e);
/* "90s", "15m", "12h", "30d" in seconds. */
int admin_duration(const char *flag, const char *text, int64_t *out, struct lodge_error *e);

/* What a verb prints: the reply as it came with --json, else a row for each item of its `data`, or
 * one. Consumes the reply. */
struct admin_column {
    const char *title, *field;
    enum { AS_TEXT, AS_TIME, AS_LIST } kind;
};
void admin_print(const struct admin *a, json_t *reply, const struct admin_column *columns,
                 uint32_t n_columns);
/* DELETE of the project args[0]'s item `before` + args[1]; prints the id it had under `title`. */
int admin_end_item(struct admin *a, const char *before, const char *title, struct lodge_error *e);

#endif
