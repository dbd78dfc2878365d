/* JSON from untrusted bytes: jansson under limits.
 *
 * lodge_json_load refuses, before jansson builds anything, input that is too long, nested too
 * deep or has too many values; duplicate keys, invalid UTF-8 and NUL in strings are refused by
 * jansson. The rest are typed getters for optional members.
 * Thread safety: as jansson, a value belongs to one thread at a time.
 */
#ifndef LODGE_BASE_JSON_H
#define LODGE_BASE_JSON_H

#include "base/error.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct lodge_json_limits {
    size_t max_bytes;
    uint32_t max_depth;
    size_t max_values; /* objects, arrays, strings, numbers and literals together */
};

/* For HTTP bodies: 64 levels, 2^20 values. */
extern const struct lodge_json_limits lodge_json_body_limits;
/* For model files such as tokenizer.json: 512 MiB, 64 levels, 2^26 values. */
extern const struct lodge_json_limits lodge_json_file_limits;

/* New reference in *out; the caller ends it by json_decref. FORMAT with line, column and reason,
 * or LIMIT. `where` names the source in the text (a path, or "request body"). */
int lodge_json_load(const char *bytes, size_t n, const struct lodge_json_limits *limits,
                    const char *where, json_t **out, struct lodge_error *e);
/* Reads and parses a file. */
int lodge_json_load_file(const char *path, json_t **out, struct lodge_error *e);

/* Members of an object. Absent or null: returns 0 and leaves *out alone (preset it to the
 * default). Another type: INVALID, the text names `key` and what was expected. Integers accept
 * integral reals (1e3); numbers must be finite. */
int lodge_json_get_bool(const json_t *obj, const char *key, bool *out, struct lodge_error *e);
int lodge_json_get_int(const json_t *obj, const char *key, int64_t min, int64_t max, int64_t *out,
                       struct lodge_error *e);
int lodge_json_get_double(const json_t *obj, const char *key, double min, double max, double *out,
                          struct lodge_error *e);
/* Borrowed from the object. */
int lodge_json_get_string(const json_t *obj, const char *key, const char **out,
                          struct lodge_error *e);
/* The member if present and not null, else NULL. */
json_t *lodge_json_member(const json_t *obj, const char *key);

#endif
