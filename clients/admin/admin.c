#include "clients/admin/admin.h"

#include "base/file.h"

#include <curl/curl.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PROJECTS "/v1/organization/projects"
#define MAX_FLAGS 24u
#define MAX_PATH_BYTES 2000u

#define F(field) offsetof(struct admin_options, field)

static const struct lodge_conf_setting common[] = {
    {"admin-url", LODGE_CONF_STRING, F(url),
     .help = "admin listener, or $LODGE_ADMIN_URL (default http://127.0.0.1:8001)"},
    {"admin-key-file", LODGE_CONF_STRING, F(key_file),
     .help = "file with the admin key, or $LODGE_ADMIN_KEY with the key"},
    {"json", LODGE_CONF_BOOL, F(json), "false", .help = "print what the server said"},
};

#define N_COMMON (sizeof common / sizeof *common)

static const struct admin_noun *const nouns[] = {&admin_tenants, &admin_keys, &admin_limits,
                                                 &admin_adapters, &admin_usage};

static const struct admin_noun *find_noun(const char *word)
{
    for (size_t i = 0; i < sizeof nouns / sizeof *nouns; i++)
        if (strcmp(nouns[i]->name, word) == 0)
            return nouns[i];
    return NULL;
}

bool admin_knows(const char *word)
{
    return find_noun(word) != NULL;
}

/* ---- requests ---- */

static void path_of(const struct admin *a, const char *tail, char *out, size_t room)
{
    const char *id = json_string_value(json_object_get(a->project, "id"));
    if (*tail == '!') /* not below the projects */
        snprintf(out, room, "%s", tail + 1);
    else
        snprintf(out, room, PROJECTS "%s%s%s", id ? "/" : "", id ? id : "", tail);
}

int admin_get(struct admin *a, const char *tail, json_t **out, struct lodge_error *e)
{
    char path[MAX_PATH_BYTES];
    path_of(a, tail, path, sizeof path);
    return http_get(&a->http, path, out, e);
}

int admin_post(struct admin *a, const char *tail, json_t *body, json_t **out, struct lodge_error *e)
{
    char path[MAX_PATH_BYTES];
    path_of(a, tail, path, sizeof path);
    int err = http_post(&a->http, path, body, out, e);
    json_decref(body);
    return err;
}

int admin_delete(struct admin *a, const char *tail, json_t **out, struct lodge_error *e)
{
    char path[MAX_PATH_BYTES];
    path_of(a, tail, path, sizeof path);
    return http_delete(&a->http, path, out, e);
}

int admin_get_pages(struct admin *a, const char *tail, const char *cursor, const char *parameter,
                    json_t **out, struct lodge_error *e)
{
    char query[MAX_PATH_BYTES];
    json_t *all = NULL;
    int n = snprintf(query, sizeof query, "%s", tail), err = 0;
    for (bool more = true; more && !err;) {
        json_t *page = NULL;
        err = admin_get(a, query, &page, e);
        const char *next = json_string_value(json_object_get(page, cursor));
        more = json_is_true(json_object_get(page, "has_more")) && next;
        if (more)
            err = admin_tail(query + n, sizeof query - (size_t)n, parameter, next, "", e);
        if (all) {
            json_array_extend(json_object_get(all, "data"), json_object_get(page, "data"));
            json_object_del(page, "data");
            json_object_del(page, "first_id");
            json_object_update(all, page);
            json_decref(page);
        } else {
            all = page;
        }
    }
    *out = err ? NULL : all;
    if (err)
        json_decref(all);
    return err;
}

int admin_get_all(struct admin *a, const char *tail, json_t **out, struct lodge_error *e)
{
    char query[MAX_PATH_BYTES];
    snprintf(query, sizeof query, "%s%climit=100", tail, strchr(tail, '?') ? '&' : '?');
    return admin_get_pages(a, query, "last_id", "&after=", out, e);
}

int admin_tail(char *out, size_t room, const char *before, const char *text, const char *after,
               struct lodge_error *e)
{
    char *safe = curl_easy_escape(NULL, text, (int)strlen(text));
    int n = safe ? snprintf(out, room, "%s%s%s", before, safe, after) : -1;
    curl_free(safe);
    return n < 0 || (size_t)n >= room
               ? lodge_fail(e, LODGE_ERR_INVALID, "'%.60s' is too long a name", text)
               : 0;
}

static bool says(const json_t *o, const char *field, const char *text)
{
    const char *value = json_string_value(json_object_get(o, field));
    return value && strcmp(value, text) == 0;
}

int admin_find_project(struct admin *a, struct lodge_error *e)
{
    const char *wanted = a->args[0];
    json_t *all = NULL, *found = NULL, *p;
    size_t i;
    int err = admin_get_all(a, "", &all, e);
    json_array_foreach(json_object_get(all, "data"), i, p)
    {
        if (says(p, "id", wanted) || (!found && says(p, "name", wanted)))
            found = p;
    }
    if (found)
        a->project = json_incref(found);
    else if (!err && strncmp(wanted, "proj_", 5) == 0) /* it may be archived */
        a->project = json_pack("{s:s}", "id", wanted);
    json_decref(all);
    if (!err && !a->project)
        err = lodge_fail(e, LODGE_ERR_INVALID,
                         "there is no tenant '%s'; `lodgectl tenants list` shows them", wanted);
    return err;
}

int admin_end_item(struct admin *a, const char *before, const char *title, struct lodge_error *e)
{
    const struct admin_column deleted = {title, "id", AS_TEXT};
    char tail[600];
    json_t *reply;
    int err = admin_tail(tail, sizeof tail, before, a->args[1], "", e);
    if (!err)
        err = admin_find_project(a, e);
    if (!err)
        err = admin_delete(a, tail, &reply, e);
    if (!err)
        admin_print(a, reply, &deleted, 1);
    return err;
}

int admin_duration(const char *flag, const char *text, int64_t *out, struct lodge_error *e)
{
    static const struct {
        char unit;
        int64_t seconds;
    } units[] = {{'s', 1}, {'m', 60}, {'h', 3600}, {'d', 86400}};
    char *end;
    errno = 0;
    long long n = strtoll(text, &end, 10);
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        if (!errno && end != text && *end == units[i].unit && !end[1] && n >= 0 && n < 1000000) {
            *out = n * units[i].seconds;
            return 0;
        }
    return lodge_fail(e, LODGE_ERR_CONFIG, "--%s: '%s' is no duration such as 90s, 15m, 12h or 30d",
                      flag, text);
}

/* ---- the command line ---- */

static void print_help(const struct admin_noun *n, const struct lodge_conf *conf)
{
    printf("usage: lodgectl %s VERB ... [flags]\n\n%s\n\n", n->name, n->about);
    for (uint32_t i = 0; i < n->n_verbs; i++)
        printf("  %-8s %-26s %s\n", n->verbs[i].name, n->verbs[i].args, n->verbs[i].help);
    printf("\n");
    lodge_conf_help(conf, stdout);
}

static int choose_verb(const struct admin_noun *n, struct admin *a, const struct admin_verb **out,
                       struct lodge_error *e)
{
    const struct lodge_conf *c = &a->o.conf;
    const char *word = c->n_args ? c->args[0] : n->verbs[0].name;
    for (uint32_t i = 0; i < n->n_verbs; i++)
        if (strcmp(n->verbs[i].name, word) == 0)
            *out = &n->verbs[i];
    if (!*out)
        return lodge_fail(e, LODGE_ERR_CONFIG, "%s: unknown verb '%s'; see lodgectl %s --help",
                          n->name, word, n->name);
    a->args = c->n_args ? c->args + 1 : NULL;
    a->n_args = c->n_args ? c->n_args - 1 : 0;
    if (a->n_args < (*out)->min_args || a->n_args > (*out)->max_args)
        return lodge_fail(e, LODGE_ERR_CONFIG, "usage: lodgectl %s %s %s", n->name, word,
                          (*out)->args);
    return 0;
}

/* The first line of the file, or the environment's; *text is what the caller frees. */
static int read_key(struct admin *a, char **text, struct lodge_error *e)
{
    size_t n;
    a->http.key_from = "--admin-key-file FILE, or in LODGE_ADMIN_KEY";
    a->http.api_key = getenv("LODGE_ADMIN_KEY");
    if (!a->o.key_file)
        return 0;
    if (lodge_file_read(a->o.key_file, 1 << 20, text, &n, e)) {
        lodge_error_prefix(e, "--admin-key-file");
        return LODGE_ERR_CONFIG;
    }
    (*text)[strcspn(*text, "\r\n")] = 0;
    a->http.api_key = *text;
    return 0;
}

static int run_verb(const struct admin_noun *n, struct admin *a, struct lodge_error *e)
{
    const struct admin_verb *verb = NULL;
    const char *url = a->o.url ? a->o.url : getenv("LODGE_ADMIN_URL");
    char *key = NULL;
    int err = choose_verb(n, a, &verb, e);
    if (!err)
        err = http_base_url(url ? url : "http://127.0.0.1:8001", a->base, sizeof a->base, e);
    if (!err)
        err = read_key(a, &key, e);
    a->http.url = a->base;
    if (!err)
        err = verb->run(a, e);
    free(key);
    return err;
}

int admin_main(const char *noun, int argc, char *const *argv)
{
    const struct admin_noun *n = find_noun(noun);
    struct lodge_conf_setting table[MAX_FLAGS];
    struct admin a = {.n_args = 0};
    struct lodge_error e = {0};
    for (uint32_t i = 0; i < n->n_flags; i++)
        table[i] = n->flags[i];
    memcpy(table + n->n_flags, common, sizeof common);
    int err = lodge_conf_init(&a.o.conf, table, n->n_flags + N_COMMON, &a.o, &e);
    if (!err)
        err = lodge_conf_flags(&a.o.conf, argc, argv, &e);
    if (!err && a.o.conf.help)
        print_help(n, &a.o.conf);
    else if (!err)
        err = run_verb(n, &a, &e);
    json_decref(a.project);
    lodge_conf_finish(&a.o.conf);
    if (err)
        fprintf(stderr, "lodgectl: %s\n", e.text);
    return lodge_error_exit(err);
}
