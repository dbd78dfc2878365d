/* Which modules a PEFT configuration targets, and their ranks: PEFT's rules, Python's regular
 * expressions by PCRE2.
 *
 *   target_modules   list: the name itself, or ".entry" at its end; string: matches the whole name
 *   exclude_modules  the same, and wins
 *   layers           list targets only: the first number after a dot in the name is wanted
 *   rank, alpha      key k applies if ^(.*\.)?(k)$ matches; the first in file order
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "adapters/peft.h"

#include <math.h>
#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_PATTERN 4096u
#define MAX_PATTERNS 16384u
#define MAX_COMPILED_BYTES ((size_t)32 << 20) /* of all */
#define MAX_STEPS 200000u                     /* of one match */
#define MAX_HEAP_KIB 4096u                    /* of one match */
#define MAX_NANOSECONDS 2000000000ll          /* of all matches of a reading */

/* How the text of a pattern becomes an expression, and what matches. */
enum kind {
    WHOLE,    /* the whole name */
    KEY,      /* the whole name, or its end after a dot */
    LAYER,    /* text, a dot, the layer's number, a dot */
    ANY_LAYER /* the same for the first number */
};

/* A pattern that is only a name is compared by hand: files of some trainers name every module, and
 * real expressions are few. In a name a dot is any character, as in the expression. */
struct pattern {
    const char *text;
    size_t n;
    enum kind kind;
    pcre2_code *code; /* NULL: only a name */
};

struct patterns {
    struct pattern *all;
    size_t n;
};

struct lodge_peft_matcher {
    const struct lodge_peft_config *c;
    struct patterns target, exclude, rank, alpha, layers;
    pcre2_compile_context *compile;
    pcre2_match_context *limits;
    pcre2_match_data *data;
    size_t compiled_bytes;
    int64_t spent_ns;
};

/* ---- patterns ---- */

static bool is_plain(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!((s[i] >= 'a' && s[i] <= 'z') || (s[i] >= 'A' && s[i] <= 'Z') ||
              (s[i] >= '0' && s[i] <= '9') || s[i] == '_' || s[i] == '.'))
            return false;
    return true;
}

static int compile(struct lodge_peft_matcher *m, const struct pattern *p, pcre2_code **out,
                   struct lodge_error *e)
{
    static const struct {
        const char *before, *after;
        uint32_t options;
    } around[] = {
        [WHOLE] = {"", "", PCRE2_ANCHORED | PCRE2_ENDANCHORED},
        [KEY] = {"(.*\\.)?(", ")$", PCRE2_ANCHORED},
        [LAYER] = {"(?:^|.*?\\.)", "\\.(?P<lodge_layer>\\d+)\\.", PCRE2_ANCHORED},
        [ANY_LAYER] = {".*?\\.", "\\.(?P<lodge_layer>\\d+)\\.", PCRE2_ANCHORED},
    };
    const char *before = around[p->kind].before, *after = around[p->kind].after;
    if (p->n > MAX_PATTERN)
        return lodge_fail(e, LODGE_ERR_LIMIT,
                          "%s: a pattern of %zu bytes, more than the %u allowed", m->c->where, p->n,
                          MAX_PATTERN);
    size_t n = strlen(before) + p->n + strlen(after), size = 0;
    char *whole = malloc(n + 1);
    if (!whole)
        return lodge_fail(e, LODGE_ERR_NOMEM, "%s: no memory for a pattern", m->c->where);
    snprintf(whole, n + 1, "%s%s%s", before, p->text, after);
    int code;
    PCRE2_SIZE at;
    *out = pcre2_compile((PCRE2_SPTR)whole, n,
                         PCRE2_UTF | PCRE2_NEVER_BACKSLASH_C | around[p->kind].options, &code, &at,
                         m->compile);
    free(whole);
    if (*out) {
        pcre2_pattern_info(*out, PCRE2_INFO_SIZE, &size);
        m->compiled_bytes += size;
        return m->compiled_bytes <= MAX_COMPILED_BYTES
                   ? 0
                   : lodge_fail(e, LODGE_ERR_LIMIT, "%s: its patterns are too large together",
                                m->c->where);
    }
    char reason[128];
    pcre2_get_error_message(code, (PCRE2_UCHAR *)reason, sizeof reason);
    return lodge_fail(e, LODGE_ERR_FORMAT, "%s: pattern '%.100s' is invalid: %s", m->c->where,
                      p->text, reason);
}

static int add(struct lodge_peft_matcher *m, struct patterns *p, const char *text, enum kind kind,
               struct lodge_error *e)
{
    struct pattern *one = &p->all[p->n++];
    *one = (struct pattern){.text = text, .n = strlen(text), .kind = kind};
    bool name = (kind == WHOLE || kind == KEY) && is_plain(text, one->n);
    return name ? 0 : compile(m, one, &one->code, e);
}

static int reserve(struct lodge_peft_matcher *m, struct patterns *p, size_t n,
                   struct lodge_error *e)
{
    if (n > MAX_PATTERNS)
        return lodge_fail(e, LODGE_ERR_LIMIT, "%s: %zu patterns, more than the %u allowed",
                          m->c->where, n, MAX_PATTERNS);
    p->all = calloc(n + 1, sizeof *p->all);
    return p->all ? 0 : lodge_fail(e, LODGE_ERR_NOMEM, "%s: no memory", m->c->where);
}

static int run(struct lodge_peft_matcher *m, const struct pattern *p, const char *name, bool *hit,
               struct lodge_error *e)
{
    struct timespec a, b;
    if (m->spent_ns > MAX_NANOSECONDS)
        return lodge_fail(e, LODGE_ERR_LIMIT,
                          "%s: matching its patterns takes too long; list module names instead",
                          m->c->where);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &a);
    int rc = pcre2_match(p->code, (PCRE2_SPTR)name, strlen(name), 0, PCRE2_NO_UTF_CHECK, m->data,
                         m->limits);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b);
    m->spent_ns += (b.tv_sec - a.tv_sec) * 1000000000ll + (b.tv_nsec - a.tv_nsec);
    *hit = rc >= 0;
    if (rc >= 0 || rc == PCRE2_ERROR_NOMATCH)
        return 0;
    return lodge_fail(
        e, LODGE_ERR_LIMIT,
        "%s: pattern '%.100s' needs too many steps on '%s'; list module names instead", m->c->where,
        p->text, name);
}

/* Whether a plain pattern is the end of the name, after a dot or from its beginning. */
static bool plain_matches(const struct pattern *p, const char *name)
{
    size_t n = strlen(name);
    if (p->n > n)
        return false;
    const char *at = name + n - p->n;
    if (at != name && !(p->kind == KEY && at[-1] == '.'))
        return false;
    for (size_t i = 0; i < p->n; i++)
        if (p->text[i] != '.' && p->text[i] != at[i])
            return false;
    return true;
}

static int matches(struct lodge_peft_matcher *m, const struct pattern *p, const char *name,
                   bool *hit, struct lodge_error *e)
{
    if (p->code)
        return run(m, p, name, hit, e);
    *hit = plain_matches(p, name);
    return 0;
}

/* ---- making ---- */

static int make_whole(struct lodge_peft_matcher *m, const json_t *v, struct patterns *p,
                      struct lodge_error *e)
{
    if (!json_is_string(v))
        return 0; /* absent, or a list of names, which are no patterns */
    int err = reserve(m, p, 1, e);
    return err ? err : add(m, p, json_string_value(v), WHOLE, e);
}

static int make_keys(struct lodge_peft_matcher *m, const json_t *v, struct patterns *p,
                     struct lodge_error *e)
{
    int err = v ? reserve(m, p, json_object_size(v), e) : 0;
    const char *key;
    json_t *number;
    json_object_foreach((json_t *)(uintptr_t)v, key, number)
    {
        if (err)
            break;
        err = add(m, p, key, KEY, e);
    }
    return err;
}

static int make_layers(struct lodge_peft_matcher *m, struct lodge_error *e)
{
    const json_t *v = m->c->layers_pattern;
    if (!m->c->layers)
        return 0;
    int err = reserve(m, &m->layers, json_array_size(v) + 1, e);
    if (!err && !v)
        err = add(m, &m->layers, "[^.]*", ANY_LAYER, e);
    if (!err && json_is_string(v))
        err = add(m, &m->layers, json_string_value(v), LAYER, e);
    for (size_t i = 0; i < json_array_size(v) && !err; i++)
        err = add(m, &m->layers, json_string_value(json_array_get(v, i)), LAYER, e);
    return err;
}

static int make(struct lodge_peft_matcher *m, struct lodge_error *e)
{
    m->compile = pcre2_compile_context_create(NULL);
    m->limits = pcre2_match_context_create(NULL);
    m->data = pcre2_match_data_create(64, NULL);
    if (!m->compile || !m->limits || !m->data)
        return lodge_fail(e, LODGE_ERR_NOMEM, "%s: no memory", m->c->where);
    pcre2_set_parens_nest_limit(m->compile, 50);
    pcre2_set_match_limit(m->limits, MAX_STEPS);
    pcre2_set_heap_limit(m->limits, MAX_HEAP_KIB);
    int err = make_whole(m, m->c->targets, &m->target, e);
    if (!err)
        err = make_whole(m, m->c->excludes, &m->exclude, e);
    if (!err)
        err = make_keys(m, m->c->rank_pattern, &m->rank, e);
    if (!err)
        err = make_keys(m, m->c->alpha_pattern, &m->alpha, e);
    return err ? err : make_layers(m, e);
}

int lodge_peft_matcher_create(const struct lodge_peft_config *c, struct lodge_peft_matcher **out,
                              struct lodge_error *e)
{
    struct lodge_peft_matcher *m = calloc(1, sizeof *m);
    if (!m)
        return lodge_fail(e, LODGE_ERR_NOMEM, "%s: no memory", c->where);
    m->c = c;
    int err = make(m, e);
    if (err)
        lodge_peft_matcher_destroy(m);
    else
        *out = m;
    return err;
}

static void patterns_finish(struct patterns *p)
{
    for (size_t i = 0; i < p->n; i++)
        pcre2_code_free(p->all[i].code);
    free(p->all);
}

void lodge_peft_matcher_destroy(struct lodge_peft_matcher *m)
{
    if (!m)
        return;
    patterns_finish(&m->target);
    patterns_finish(&m->exclude);
    patterns_finish(&m->rank);
    patterns_finish(&m->alpha);
    patterns_finish(&m->layers);
    pcre2_match_data_free(m->data);
    pcre2_match_context_free(m->limits);
    pcre2_compile_context_free(m->compile);
    free(m);
}

/* ---- questions ---- */

static bool is_suffix(const char *name, const char *entry)
{
    size_t n = strlen(name), k = strlen(entry);
    return k < n && name[n - k - 1] == '.' && strcmp(name + n - k, entry) == 0;
}

/* Entry of a list that is the name (*exact) or its end. */
static bool list_has(const json_t *list, const char *name, bool *exact)
{
    bool found = false;
    *exact = false;
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *entry = json_string_value(json_array_get(list, i));
        *exact |= strcmp(name, entry) == 0;
        found |= is_suffix(name, entry);
    }
    return found || *exact;
}

/* Reads the number that the last match named, if it is one. */
static bool layer_number(struct lodge_peft_matcher *m, long long *out)
{
    char digits[24];
    PCRE2_SIZE n = sizeof digits;
    if (pcre2_substring_copy_byname(m->data, (PCRE2_SPTR) "lodge_layer", (PCRE2_UCHAR *)digits, &n))
        return false;
    *out = strtoll(digits, NULL, 10);
    return true;
}

static int in_layers(struct lodge_peft_matcher *m, const char *name, bool *out,
                     struct lodge_error *e)
{
    long long layer = -1;
    bool hit = false;
    for (size_t i = 0; i < m->layers.n && !hit; i++) {
        int err = run(m, &m->layers.all[i], name, &hit, e);
        if (err)
            return err;
        if (hit)
            hit = layer_number(m, &layer);
    }
    *out = hit && json_is_integer(m->c->layers) && json_integer_value(m->c->layers) == layer;
    for (size_t i = 0; hit && i < json_array_size(m->c->layers); i++)
        *out |= json_integer_value(json_array_get(m->c->layers, i)) == layer;
    return 0;
}

static int is_excluded(struct lodge_peft_matcher *m, const char *name, bool *out,
                       struct lodge_error *e)
{
    bool exact;
    if (m->exclude.n)
        return matches(m, &m->exclude.all[0], name, out, e);
    *out = list_has(m->c->excludes, name, &exact);
    return 0;
}

int lodge_peft_matcher_targets(struct lodge_peft_matcher *m, const char *name, bool linear,
                               bool *out, struct lodge_error *e)
{
    bool excluded = false, exact = false;
    int err = is_excluded(m, name, &excluded, e);
    *out = false;
    if (err || excluded)
        return err;
    if (m->target.n)
        return matches(m, &m->target.all[0], name, out, e);
    *out = m->c->all_linear ? linear : list_has(m->c->targets, name, &exact);
    /* An entry that is the whole name counts whatever its layer is. */
    return *out && !exact && m->c->layers ? in_layers(m, name, out, e) : 0;
}

/* The number of the first key that applies; *out stays if none does. */
static int first_number(struct lodge_peft_matcher *m, const struct patterns *p,
                        const json_t *numbers, const char *name, double *out, struct lodge_error *e)
{
    for (size_t i = 0; i < p->n; i++) {
        bool hit;
        int err = matches(m, &p->all[i], name, &hit, e);
        if (err)
            return err;
        if (hit) {
            *out = json_number_value(json_object_get(numbers, p->all[i].text));
            return 0;
        }
    }
    return 0;
}

int lodge_peft_matcher_rank(struct lodge_peft_matcher *m, const char *name, uint32_t *rank,
                            double *alpha, struct lodge_error *e)
{
    double r = m->c->rank;
    *alpha = m->c->alpha;
    int err = first_number(m, &m->rank, m->c->rank_pattern, name, &r, e);
    if (!err)
        err = first_number(m, &m->alpha, m->c->alpha_pattern, name, alpha, e);
    if (err)
        return err;
    if (!(r >= 1 && r <= INT32_MAX) || r != floor(r))
        return lodge_fail(
            e, LODGE_ERR_FORMAT,
            "%s: rank_pattern says %g for '%s', expected a whole number of at least 1", m->c->where,
            r, name);
    *rank = (uint32_t)r;
    return 0;
}
