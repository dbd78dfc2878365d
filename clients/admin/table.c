/* Replies as small tables. */
#include "clients/admin/admin.h"
#include "clients/text.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#define CELL 200u

static void time_text(const json_t *v, char *out, size_t room)
{
    time_t at = (time_t)json_integer_value(v);
    struct tm tm;
    if (!json_is_integer(v) || !localtime_r(&at, &tm) ||
        !strftime(out, room, "%Y-%m-%d %H:%M", &tm))
        snprintf(out, room, "-");
}

static void plain_text(const json_t *v, char *out, size_t room)
{
    if (json_is_string(v) && json_string_length(v))
        text_clean_line(json_string_value(v), json_string_length(v), out, room);
    else if (json_is_integer(v))
        snprintf(out, room, "%lld", (long long)json_integer_value(v));
    else if (json_is_real(v))
        snprintf(out, room, "%.6g", json_real_value(v));
    else if (json_is_boolean(v))
        snprintf(out, room, "%s", json_is_true(v) ? "yes" : "no");
    else
        snprintf(out, room, "-");
}

static void list_text(const json_t *v, char *out, size_t room)
{
    size_t n = 0;
    snprintf(out, room, "%s", json_is_null(v) || !v ? "all" : "-");
    for (size_t i = 0; i < json_array_size(v) && n + 8 < room; i++) {
        char item[CELL];
        plain_text(json_array_get(v, i), item, sizeof item);
        n += (size_t)snprintf(out + n, room - n, "%s%s", i ? "," : "", item);
    }
}

static void cell(const json_t *row, const struct admin_column *c, char out[CELL])
{
    const json_t *v = json_object_get(row, c->field);
    if (c->kind == AS_TIME)
        time_text(v, out, CELL);
    else if (c->kind == AS_LIST)
        list_text(v, out, CELL);
    else
        plain_text(v, out, CELL);
}

/* Width on the terminal, nearly: characters. */
static size_t width(const char *s)
{
    size_t n = 0;
    for (; *s; s++)
        n += ((unsigned char)*s & 0xC0) != 0x80;
    return n;
}

static void print_cell(const char *text, size_t room, bool last)
{
    printf("%s", text);
    for (size_t n = width(text); !last && n < room + 2; n++)
        putchar(' ');
}

static void print_rows(const json_t *rows, const struct admin_column *columns, uint32_t n)
{
    size_t widths[16], i;
    const json_t *row;
    char text[CELL];
    for (uint32_t k = 0; k < n; k++) {
        widths[k] = strlen(columns[k].title);
        json_array_foreach((json_t *)(uintptr_t)rows, i, row)
        {
            cell(row, &columns[k], text);
            widths[k] = width(text) > widths[k] ? width(text) : widths[k];
        }
    }
    for (uint32_t k = 0; k < n; k++)
        print_cell(columns[k].title, widths[k], k + 1 == n);
    putchar('\n');
    json_array_foreach((json_t *)(uintptr_t)rows, i, row)
    {
        for (uint32_t k = 0; k < n; k++) {
            cell(row, &columns[k], text);
            print_cell(text, widths[k], k + 1 == n);
        }
        putchar('\n');
    }
}

void admin_print(const struct admin *a, json_t *reply, const struct admin_column *columns,
                 uint32_t n_columns)
{
    if (a->o.json) {
        json_dumpf(reply, stdout, JSON_COMPACT);
        putchar('\n');
    } else if (json_object_get(reply, "data")) {
        print_rows(json_object_get(reply, "data"), columns, n_columns);
    } else {
        json_t *one = json_pack("[O]", reply);
        print_rows(one, columns, n_columns);
        json_decref(one);
    }
    json_decref(reply);
}
