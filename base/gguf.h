/* GGUF files, versions 2 and 3, little-endian: metadata and tensor table of a mapped file.
 *
 * Everything is checked before use: lengths against the bytes that remain, counts against caps,
 * products for overflow, names for uniqueness, offsets against the running sum that the format
 * prescribes. Tensor types that Lodge does not compute with still parse (they are refused where a
 * tensor is bound), so that errors can name them.
 *
 * Owner: the caller; strings and data point into the mapping and live until lodge_gguf_close.
 * Thread safety: immutable after opening. Source: the GGUF specification (ggml project).
 */
#ifndef LODGE_BASE_GGUF_H
#define LODGE_BASE_GGUF_H

#include "base/arena.h"
#include "base/error.h"
#include "base/file.h"
#include "base/span.h"

#include <stdbool.h>
#include <stdint.h>

enum lodge_gguf_type {
    LODGE_GGUF_U8,
    LODGE_GGUF_I8,
    LODGE_GGUF_U16,
    LODGE_GGUF_I16,
    LODGE_GGUF_U32,
    LODGE_GGUF_I32,
    LODGE_GGUF_F32,
    LODGE_GGUF_BOOL,
    LODGE_GGUF_STRING,
    LODGE_GGUF_ARRAY,
    LODGE_GGUF_U64,
    LODGE_GGUF_I64,
    LODGE_GGUF_F64,
    LODGE_GGUF_TYPE_COUNT
};

struct lodge_gguf_value {
    struct lodge_span key;
    enum lodge_gguf_type type;
    enum lodge_gguf_type elem;  /* of an array */
    uint64_t n;                 /* array: elements; string: bytes; else 1 */
    const uint8_t *data;        /* first byte of the value's payload, any alignment */
    struct lodge_span *strings; /* array of strings: all of them */
};

struct lodge_gguf_tensor {
    struct lodge_span name;
    uint32_t n_dims;
    uint64_t dims[4]; /* dims[0] is contiguous; unused are 1 */
    uint32_t type;    /* ggml's number */
    const uint8_t *data;
    size_t n_bytes;
};

struct lodge_gguf {
    struct lodge_map map;
    struct lodge_arena arena;
    uint32_t version;
    struct lodge_gguf_value *values;
    uint64_t n_values;
    struct lodge_gguf_tensor *tensors; /* sorted by name */
    uint64_t n_tensors;
};

/* Opens and checks a file. NOT_FOUND, IO, NOMEM, FORMAT naming the place and what is wrong. */
int lodge_gguf_open(const char *path, struct lodge_gguf *out, struct lodge_error *e);
/* The same over bytes in memory that outlive the result (for split files and fuzzing). */
int lodge_gguf_parse(const uint8_t *data, size_t n, const char *where, struct lodge_gguf *out,
                     struct lodge_error *e);
void lodge_gguf_close(struct lodge_gguf *g);

/* NULL when absent. `key` is zero-terminated. */
const struct lodge_gguf_value *lodge_gguf_find(const struct lodge_gguf *g, const char *key);
const struct lodge_gguf_tensor *lodge_gguf_tensor(const struct lodge_gguf *g, const char *name);

/* Scalars of any numeric type, converted if exact. Absent: 0 and *out untouched; FORMAT for
 * another type or range. */
int lodge_gguf_get_int(const struct lodge_gguf *g, const char *key, int64_t min, int64_t max,
                       int64_t *out, struct lodge_error *e);
int lodge_gguf_get_float(const struct lodge_gguf *g, const char *key, double *out,
                         struct lodge_error *e);
int lodge_gguf_get_bool(const struct lodge_gguf *g, const char *key, bool *out,
                        struct lodge_error *e);
int lodge_gguf_get_string(const struct lodge_gguf *g, const char *key, struct lodge_span *out,
                          struct lodge_error *e);
/* Element i of a numeric array (or the scalar itself) as a number; false when it is not one. */
bool lodge_gguf_number(const struct lodge_gguf_value *v, uint64_t i, double *out);

/* "Q4_K" for 12; "type 77" style text for unknown ones is the caller's. NULL when unknown. */
const char *lodge_gguf_type_name(uint32_t type);

#endif
