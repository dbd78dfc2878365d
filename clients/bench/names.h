/* Lists of names as people write thousands of them: sql, lora{0..1999}, @names.txt.
 * Thread safety: none, one owner. */
#ifndef LODGE_CLIENTS_BENCH_NAMES_H
#define LODGE_CLIENTS_BENCH_NAMES_H

#include "base/arena.h"
#include "base/error.h"

#include <stdint.h>

#define BENCH_MAX_NAMES (1u << 20)

/* A zeroed one is empty; list and names live in the arena. */
struct bench_names {
    const char **v;
    uint32_t n, _room;
};

/* Appends what `item` stands for. {A..B} counts from A to B, up or down, as bash does: with zeros
 * in front when A or B has them, and the first of several ranges changes most slowly. Other braces
 * stand for themselves. @FILE is the lines of a file, without white space around them and without
 * empty ones, taken literally. CONFIG (too many, or none in the file), NOMEM, or as
 * lodge_file_read; texts begin with `flag`. */
int bench_names_add(struct bench_names *names, struct lodge_arena *arena, const char *item,
                    const char *flag, struct lodge_error *e);
/* The same for each part of a list joined by commas. */
int bench_names_add_list(struct bench_names *names, struct lodge_arena *arena, const char *list,
                         const char *flag, struct lodge_error *e);

#endif
