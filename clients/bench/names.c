#include "clients/bench/names.h"

#include "base/file.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_NAME 512
#define MAX_FILE ((size_t)256 << 20)

struct adding {
    struct bench_names *names;
    struct lodge_arena *arena;
    const char *flag;
    struct lodge_error *e;
};

static int add_one(const struct adding *a, const char *name, size_t n)
{
    struct bench_names *names = a->names;
    if (names->n == BENCH_MAX_NAMES)
        return lodge_fail(a->e, LODGE_ERR_CONFIG, "%s: more than %u names", a->flag,
                          BENCH_MAX_NAMES);
    if (names->n == names->_room) {
        uint32_t room = names->_room ? 2 * names->_room : 16;
        const char **grown = lodge_arena_array(a->arena, room, sizeof *grown);
        if (!grown)
            return lodge_fail(a->e, LODGE_ERR_NOMEM, "no memory for %s", a->flag);
        for (uint32_t i = 0; i < names->n; i++)
            grown[i] = names->v[i];
        names->v = grown;
        names->_room = room;
    }
    const char *own = lodge_arena_strndup(a->arena, name, n);
    if (!own)
        return lodge_fail(a->e, LODGE_ERR_NOMEM, "no memory for %s", a->flag);
    names->v[names->n++] = own;
    return 0;
}

/* ---- ranges ---- */

struct range {
    const char *begin, *end; /* of its text, braces included */
    uint64_t from, to;
    int width; /* 0: no zeros in front */
};

/* Digits at *p, of a number that any count of names can reach. */
static bool take_number(const char **p, uint64_t *value, int *n_digits, bool *padded)
{
    const char *begin = *p;
    *value = 0;
    while (isdigit((unsigned char)**p) && *p - begin < 12)
        *value = *value * 10 + (uint64_t)(*(*p)++ - '0');
    *n_digits = (int)(*p - begin);
    *padded = *n_digits > 1 && *begin == '0';
    return *n_digits > 0 && !isdigit((unsigned char)**p);
}

/* The first range at or behind `text`. */
static bool find_range(const char *text, struct range *r)
{
    for (const char *open = strchr(text, '{'); open; open = strchr(open + 1, '{')) {
        const char *p = open + 1;
        int digits[2];
        bool padded[2];
        if (!take_number(&p, &r->from, &digits[0], &padded[0]) || strncmp(p, "..", 2) != 0)
            continue;
        p += 2;
        if (!take_number(&p, &r->to, &digits[1], &padded[1]) || *p != '}')
            continue;
        r->begin = open;
        r->end = p + 1;
        r->width = !padded[0] && !padded[1] ? 0 : digits[0] > digits[1] ? digits[0] : digits[1];
        return true;
    }
    return false;
}

/* Every name that begins with `text`[0 .. n_done) and goes on as the ranges behind allow. */
static int expand(const struct adding *a, const char *text, size_t n_done)
{
    struct range r;
    if (!find_range(text + n_done, &r))
        return add_one(a, text, strlen(text));
    uint64_t count = (r.from < r.to ? r.to - r.from : r.from - r.to) + 1;
    if (count > BENCH_MAX_NAMES)
        return lodge_fail(a->e, LODGE_ERR_CONFIG, "%s: '%s' is more than %u names", a->flag, text,
                          BENCH_MAX_NAMES);
    int err = 0;
    for (uint64_t i = 0; i < count && !err; i++) {
        char next[MAX_NAME];
        int before = snprintf(next, sizeof next, "%.*s%0*llu", (int)(r.begin - text), text, r.width,
                              (unsigned long long)(r.from < r.to ? r.from + i : r.from - i));
        if (before < 0 || (size_t)before + strlen(r.end) >= sizeof next)
            return lodge_fail(a->e, LODGE_ERR_CONFIG, "%s: a name longer than %d bytes", a->flag,
                              MAX_NAME - 1);
        strcpy(next + before, r.end);
        err = expand(a, next, (size_t)before);
    }
    return err;
}

/* ---- files and lists ---- */

static int add_file(const struct adding *a, const char *path)
{
    char *text = NULL;
    size_t n_bytes;
    uint32_t n_before = a->names->n;
    int err = lodge_file_read(path, MAX_FILE, &text, &n_bytes, a->e);
    if (err) {
        lodge_error_prefix(a->e, "%s", a->flag);
        return err;
    }
    char *rest = text;
    for (char *line; !err && (line = strsep(&rest, "\n"));) {
        line += strspn(line, " \t\r");
        size_t n = strlen(line);
        while (n && strchr(" \t\r", line[n - 1]))
            n--;
        if (n)
            err = add_one(a, line, n);
    }
    free(text);
    if (!err && a->names->n == n_before)
        err = lodge_fail(a->e, LODGE_ERR_CONFIG, "%s: no names in %s", a->flag, path);
    return err;
}

int bench_names_add(struct bench_names *names, struct lodge_arena *arena, const char *item,
                    const char *flag, struct lodge_error *e)
{
    struct adding a = {names, arena, flag, e};
    return item[0] == '@' ? add_file(&a, item + 1) : expand(&a, item, 0);
}

int bench_names_add_list(struct bench_names *names, struct lodge_arena *arena, const char *list,
                         const char *flag, struct lodge_error *e)
{
    int err = 0;
    while (*list && !err) {
        size_t n = strcspn(list, ",");
        char *item = lodge_arena_strndup(arena, list, n);
        if (!item)
            return lodge_fail(e, LODGE_ERR_NOMEM, "no memory for %s", flag);
        if (n)
            err = bench_names_add(names, arena, item, flag, e);
        list += n + (list[n] == ',');
    }
    return err;
}
