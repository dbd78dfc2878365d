#include "base/conf.h"

#include "base/json.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ENV_PREFIX "LODGE_OPT_"
#define MAX_LIST 1024u

int lodge_size_parse(const char *text, uint64_t *out)
{
    if (*text < '0' || *text > '9')
        return LODGE_ERR_INVALID;
    char *end;
    errno = 0;
    unsigned long long n = strtoull(text, &end, 10);
    static const char units[] = "kmgt";
    const char *unit = *end ? strchr(units, *end | 0x20) : NULL;
    unsigned shift = unit ? 10 * (unsigned)(unit - units + 1) : 0;
    if (errno || (*end && (!unit || end[1])) || n > UINT64_MAX >> shift)
        return LODGE_ERR_INVALID;
    *out = (uint64_t)n << shift;
    return 0;
}

static void *field(const struct lodge_conf *c, const struct lodge_conf_setting *s)
{
    return (char *)c->target + s->offset;
}

static const char *keep(struct lodge_conf *c, const char *text)
{
    return lodge_arena_strndup(&c->arena, text, strlen(text));
}

/* ---- one value from text ---- */

static int set_bool(const char *text, bool *out)
{
    static const char *const yes[] = {"true", "1", "yes", "on"}, *const no[] = {"false", "0", "no",
                                                                                "off"};
    for (int i = 0; i < 4; i++) {
        if (strcmp(text, yes[i]) == 0 || strcmp(text, no[i]) == 0) {
            *out = strcmp(text, yes[i]) == 0;
            return 0;
        }
    }
    return LODGE_ERR_INVALID;
}

static int set_number(const struct lodge_conf_setting *s, const char *text, void *out)
{
    char *end;
    double d;
    errno = 0;
    if (s->type == LODGE_CONF_SIZE) {
        uint64_t n;
        if (lodge_size_parse(text, &n))
            return LODGE_ERR_INVALID;
        d = (double)n;
        *(uint64_t *)out = n;
    } else if (s->type == LODGE_CONF_INT) {
        long long n = strtoll(text, &end, 10);
        uint64_t size;
        /* "32k" is welcome where a count is meant. */
        if ((end == text || *end) && lodge_size_parse(text, &size) == 0 && size <= INT64_MAX)
            n = (long long)size;
        else if (errno || end == text || *end)
            return LODGE_ERR_INVALID;
        d = (double)n;
        *(int64_t *)out = n;
    } else {
        d = strtod(text, &end);
        if (errno || end == text || *end || !isfinite(d))
            return LODGE_ERR_INVALID;
        *(double *)out = d;
    }
    return s->max > s->min && (d < s->min || d > s->max) ? LODGE_ERR_LIMIT : 0;
}

static bool is_choice(const char *choices, const char *text)
{
    size_t n = strlen(text);
    for (const char *at = choices; at; at = strchr(at, '|') ? strchr(at, '|') + 1 : NULL)
        if (strncmp(at, text, n) == 0 && (at[n] == '|' || !at[n]) && n)
            return true;
    return false;
}

static int list_add(struct lodge_conf *c, struct lodge_conf_list *l, const char *text)
{
    if (l->n == MAX_LIST)
        return LODGE_ERR_LIMIT;
    if (!l->items)
        l->items = lodge_arena_array(&c->arena, MAX_LIST, sizeof *l->items);
    const char *copy = keep(c, text);
    if (!l->items || !copy)
        return LODGE_ERR_NOMEM;
    l->items[l->n++] = copy;
    return 0;
}

static int explain(const struct lodge_conf_setting *s, int err, const char *text, const char *layer,
                   struct lodge_error *e)
{
    char want[200];
    if (err == LODGE_ERR_LIMIT)
        snprintf(want, sizeof want, "must be between %.15g and %.15g", s->min, s->max);
    else if (s->type == LODGE_CONF_CHOICE)
        snprintf(want, sizeof want, "must be one of %s", s->choices);
    else
        snprintf(want, sizeof want, "must be %s",
                 s->type == LODGE_CONF_BOOL     ? "true or false"
                 : s->type == LODGE_CONF_INT    ? "an integer"
                 : s->type == LODGE_CONF_SIZE   ? "a size such as 512M or 4G"
                 : s->type == LODGE_CONF_DOUBLE ? "a number"
                                                : "text");
    return lodge_fail(e, LODGE_ERR_CONFIG, "%s%s: '%.100s' is not valid, it %s", layer, s->name,
                      s->secret ? "***" : text, want);
}

/* Sets one setting from text; lists get one more item. */
static int set_text(struct lodge_conf *c, const struct lodge_conf_setting *s, const char *text,
                    const char *layer, struct lodge_error *e)
{
    int err = 0;
    void *out = field(c, s);
    switch (s->type) {
    case LODGE_CONF_BOOL:
        err = set_bool(text, out);
        break;
    case LODGE_CONF_INT:
    case LODGE_CONF_SIZE:
    case LODGE_CONF_DOUBLE:
        err = set_number(s, text, out);
        break;
    case LODGE_CONF_CHOICE:
        err = is_choice(s->choices, text) ? 0 : LODGE_ERR_INVALID;
        *(const char **)out = keep(c, text);
        break;
    case LODGE_CONF_STRING:
        *(const char **)out = keep(c, text);
        break;
    case LODGE_CONF_LIST:
        err = list_add(c, out, text);
        break;
    }
    return err ? explain(s, err, text, layer, e) : 0;
}

static const struct lodge_conf_setting *find(const struct lodge_conf *c, const char *name, size_t n)
{
    for (uint32_t i = 0; i < c->n_settings; i++) {
        const char *own = c->settings[i].name;
        size_t k = 0;
        while (k < n && own[k] && (own[k] == name[k] || (own[k] == '-' && name[k] == '_')))
            k++;
        if (k == n && !own[k])
            return &c->settings[i];
    }
    return NULL;
}

/* Before the first value of a layer: a list of a lower layer is replaced. */
static void enter(struct lodge_conf *c, const struct lodge_conf_setting *s,
                  enum lodge_conf_layer layer)
{
    enum lodge_conf_layer *at = &c->layer[s - c->settings];
    if (s->type == LODGE_CONF_LIST && *at != layer)
        *(struct lodge_conf_list *)field(c, s) = (struct lodge_conf_list){0};
    *at = layer;
}

int lodge_conf_init(struct lodge_conf *c, const struct lodge_conf_setting *settings,
                    uint32_t n_settings, void *target, struct lodge_error *e)
{
    *c = (struct lodge_conf){.settings = settings, .n_settings = n_settings, .target = target};
    lodge_arena_init(&c->arena, (size_t)64 << 20);
    c->layer = lodge_arena_array(&c->arena, n_settings + 1, sizeof *c->layer);
    if (!c->layer)
        return lodge_fail(e, LODGE_ERR_NOMEM, "no memory for the settings");
    int err = 0;
    for (uint32_t i = 0; i < n_settings && !err; i++)
        if (settings[i].fallback)
            err = set_text(c, &settings[i], settings[i].fallback, "default of ", e);
    return err;
}

void lodge_conf_finish(struct lodge_conf *c)
{
    lodge_arena_finish(&c->arena);
}

/* ---- the file ---- */

static int set_json(struct lodge_conf *c, const struct lodge_conf_setting *s, const json_t *v,
                    const char *layer, struct lodge_error *e)
{
    char number[64];
    if (json_is_string(v))
        return set_text(c, s, json_string_value(v), layer, e);
    if (json_is_boolean(v))
        return s->type == LODGE_CONF_BOOL
                   ? set_text(c, s, json_is_true(v) ? "true" : "false", layer, e)
                   : explain(s, LODGE_ERR_INVALID, "a boolean", layer, e);
    if (json_is_number(v) && s->type != LODGE_CONF_BOOL) {
        if (json_is_integer(v))
            snprintf(number, sizeof number, "%lld", (long long)json_integer_value(v));
        else
            snprintf(number, sizeof number, "%.17g", json_real_value(v));
        return set_text(c, s, number, layer, e);
    }
    size_t i;
    json_t *item;
    int err = json_is_array(v) && s->type == LODGE_CONF_LIST
                  ? 0
                  : explain(s, LODGE_ERR_INVALID, "this kind of value", layer, e);
    json_array_foreach((json_t *)(uintptr_t)v, i, item)
    {
        if (!err)
            err = json_is_array(item) || json_is_object(item)
                      ? explain(s, LODGE_ERR_INVALID, "a nested list", layer, e)
                      : set_json(c, s, item, layer, e);
    }
    return err;
}

int lodge_conf_file(struct lodge_conf *c, const char *path, struct lodge_error *e)
{
    json_t *root = NULL;
    if (lodge_json_load_file(path, &root, e)) {
        lodge_error_prefix(e, "configuration file");
        return LODGE_ERR_CONFIG;
    }
    int err = json_is_object(root)
                  ? 0
                  : lodge_fail(e, LODGE_ERR_CONFIG, "%s: must hold a JSON object", path);
    const char *key;
    json_t *v;
    char layer[300];
    snprintf(layer, sizeof layer, "%.280s: ", path);
    json_object_foreach(root, key, v)
    {
        if (err)
            break;
        const struct lodge_conf_setting *s = find(c, key, strlen(key));
        if (!s) {
            err = lodge_fail(e, LODGE_ERR_CONFIG,
                             "%s: unknown key '%.100s'; --help lists the settings (with - for _)",
                             path, key);
        } else if (!json_is_null(v)) {
            enter(c, s, LODGE_CONF_FILE);
            err = set_json(c, s, v, layer, e);
        }
    }
    json_decref(root);
    return err;
}

/* ---- the environment ---- */

/* LODGE_OPT_MAX_NUM_SEQS -> max_num_seqs in `name` (cut to what any setting may have); the value,
 * or NULL for other variables. */
static const char *env_name(const char *var, char name[128])
{
    size_t prefix = strlen(ENV_PREFIX);
    const char *eq = strchr(var, '=');
    if (strncmp(var, ENV_PREFIX, prefix) != 0 || !eq)
        return NULL;
    size_t n = (size_t)(eq - var) - prefix;
    n = n < 127 ? n : 127;
    for (size_t i = 0; i < n; i++) {
        char ch = var[prefix + i];
        name[i] = ch >= 'A' && ch <= 'Z' ? (char)(ch | 0x20) : ch;
    }
    name[n] = 0;
    return eq + 1;
}

/* Lists may be JSON. */
static int set_env(struct lodge_conf *c, const struct lodge_conf_setting *s, const char *value,
                   struct lodge_error *e)
{
    if (s->type != LODGE_CONF_LIST || *value != '[')
        return set_text(c, s, value, "environment: ", e);
    json_t *list = NULL;
    int err = lodge_json_load(value, strlen(value), &lodge_json_body_limits, s->name, &list, e);
    if (err) {
        lodge_error_prefix(e, "environment");
        return LODGE_ERR_CONFIG;
    }
    err = set_json(c, s, list, "environment: ", e);
    json_decref(list);
    return err;
}

int lodge_conf_env(struct lodge_conf *c, char *const *envp, struct lodge_error *e)
{
    char name[128];
    for (; envp && *envp; envp++) {
        const char *value = env_name(*envp, name);
        if (!value)
            continue;
        const struct lodge_conf_setting *s = find(c, name, strlen(name));
        if (!s)
            return lodge_fail(e, LODGE_ERR_CONFIG,
                              "environment: %.*s names no setting; --help lists them",
                              (int)strcspn(*envp, "="), *envp);
        enter(c, s, LODGE_CONF_ENV);
        int err = set_env(c, s, value, e);
        if (err)
            return err;
    }
    return 0;
}

/* ---- flags ---- */

static bool is_flag(const char *arg)
{
    return arg[0] == '-' && arg[1] == '-' && arg[2];
}

/* Handles argv[i]; returns the number of arguments used, or a negative error. */
static int take_flag(struct lodge_conf *c, int argc, char *const *argv, int i,
                     struct lodge_error *e)
{
    const char *name = argv[i] + 2, *eq = strchr(name, '=');
    size_t n = eq ? (size_t)(eq - name) : strlen(name);
    bool negated = false;
    const struct lodge_conf_setting *s = find(c, name, n);
    if (!s && n > 3 && strncmp(name, "no-", 3) == 0) {
        s = find(c, name + 3, n - 3);
        negated = s && s->type == LODGE_CONF_BOOL && !eq;
        s = negated ? s : NULL;
    }
    if (!s)
        return lodge_fail(e, LODGE_ERR_CONFIG, "unknown flag %.*s; --help lists the flags",
                          (int)(n + 2), argv[i]);
    enter(c, s, LODGE_CONF_FLAG);
    if (s->type == LODGE_CONF_BOOL || eq) {
        int err = set_text(c, s, eq ? eq + 1 : negated ? "false" : "true", "--", e);
        return err ? err : 1;
    }
    /* A value may begin with one dash (a negative number), not with two. */
    if (i + 1 >= argc || is_flag(argv[i + 1]))
        return lodge_fail(e, LODGE_ERR_CONFIG, "%s needs a value", argv[i]);
    int used = 1, err = 0;
    do
        err = set_text(c, s, argv[i + used++], "--", e);
    while (!err && s->type == LODGE_CONF_LIST && i + used < argc && argv[i + used][0] != '-');
    return err ? err : used;
}

int lodge_conf_flags(struct lodge_conf *c, int argc, char *const *argv, struct lodge_error *e)
{
    c->args = lodge_arena_array(&c->arena, (size_t)argc + 1, sizeof *c->args);
    if (!c->args)
        return lodge_fail(e, LODGE_ERR_NOMEM, "no memory for the arguments");
    for (int i = 0; i < argc;) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            c->help = true;
            i++;
        } else if (is_flag(argv[i])) {
            int used = take_flag(c, argc, argv, i, e);
            if (used < 0)
                return used;
            i += used;
        } else if (argv[i][0] == '-' && argv[i][1] && argv[i][1] != '-') {
            return lodge_fail(e, LODGE_ERR_CONFIG, "unknown flag %s; --help lists the flags",
                              argv[i]);
        } else {
            c->args[c->n_args++] = argv[i++];
        }
    }
    return 0;
}

const char *lodge_conf_peek(const char *name, int argc, char *const *argv, char *const *envp)
{
    size_t n = strlen(name);
    const char *found = NULL;
    for (int i = 0; i < argc; i++) {
        if (!is_flag(argv[i]) || strncmp(argv[i] + 2, name, n) != 0)
            continue;
        if (argv[i][2 + n] == '=')
            found = argv[i] + 3 + n;
        else if (!argv[i][2 + n] && i + 1 < argc)
            found = argv[i + 1];
    }
    char var[128];
    for (; !found && envp && *envp; envp++) {
        const char *value = env_name(*envp, var);
        bool same = value && strlen(var) == n;
        for (size_t i = 0; same && i < n; i++)
            same = var[i] == name[i] || (var[i] == '_' && name[i] == '-');
        found = same ? value : NULL;
    }
    return found;
}

/* ---- telling ---- */

bool lodge_conf_given(const struct lodge_conf *c, const char *name)
{
    const struct lodge_conf_setting *s = find(c, name, strlen(name));
    return s && c->layer[s - c->settings] != LODGE_CONF_DEFAULT;
}

static json_t *value_json(const struct lodge_conf *c, const struct lodge_conf_setting *s)
{
    const void *at = field(c, s);
    const char *text = s->type == LODGE_CONF_STRING || s->type == LODGE_CONF_CHOICE
                           ? *(const char *const *)at
                           : NULL;
    const struct lodge_conf_list *l = at;
    json_t *list;
    switch (s->type) {
    case LODGE_CONF_BOOL:
        return json_boolean(*(const bool *)at);
    case LODGE_CONF_INT:
        return json_integer(*(const int64_t *)at);
    case LODGE_CONF_SIZE:
        return json_integer((json_int_t) * (const uint64_t *)at);
    case LODGE_CONF_DOUBLE:
        return json_real(*(const double *)at);
    case LODGE_CONF_STRING:
    case LODGE_CONF_CHOICE:
        return text ? json_string(s->secret ? "***" : text) : json_null();
    case LODGE_CONF_LIST:
        list = json_array();
        for (uint32_t i = 0; i < l->n; i++)
            json_array_append_new(list, json_string(s->secret ? "***" : l->items[i]));
        return list;
    }
    return json_null();
}

json_t *lodge_conf_json(const struct lodge_conf *c)
{
    json_t *o = json_object();
    for (uint32_t i = 0; o && i < c->n_settings; i++) {
        char key[128];
        snprintf(key, sizeof key, "%s", c->settings[i].name);
        for (char *p = key; *p; p++)
            *p = *p == '-' ? '_' : *p;
        json_object_set_new(o, key, value_json(c, &c->settings[i]));
    }
    return o;
}

void lodge_conf_help(const struct lodge_conf *c, void *out)
{
    for (uint32_t i = 0; i < c->n_settings; i++) {
        const struct lodge_conf_setting *s = &c->settings[i];
        static const char *const kinds[] = {"", " N", " SIZE", " X", " TEXT", "", " TEXT"};
        char flag[120];
        snprintf(flag, sizeof flag, "--%s%s%s", s->name,
                 s->type == LODGE_CONF_CHOICE ? " " : kinds[s->type],
                 s->type == LODGE_CONF_CHOICE ? s->choices : "");
        fprintf(out, "  %-34s %s%s%s", flag, s->help, s->unit ? ", in " : "",
                s->unit ? s->unit : "");
        if (s->fallback && s->type != LODGE_CONF_BOOL)
            fprintf(out, " (default %s)", s->fallback);
        fprintf(out, "\n");
    }
}
