/* Safetensors: one file, or the shards that model.safetensors.index.json names.
 *
 * The header is checked as the format demands: known dtypes, offsets that cover the data section
 * without hole or overlap, sizes equal to shape times dtype. Data may lie at any byte.
 * Owner: the caller; data points into the mappings. Immutable after opening.
 * Source: the safetensors format description (Hugging Face).
 */
#ifndef LODGE_BASE_SAFETENSORS_H
#define LODGE_BASE_SAFETENSORS_H

#include "base/arena.h"
#include "base/error.h"
#include "base/file.h"

#include <stdint.h>

struct lodge_st_tensor {
    const char *name;
    const char *dtype; /* "BF16", "F32", ... static */
    uint32_t bits;     /* of one element */
    uint32_t n_dims;
    uint64_t dims[8];
    const uint8_t *data;
    size_t n_bytes;
};

struct lodge_safetensors {
    struct lodge_arena arena;
    struct lodge_map *maps;
    uint32_t n_maps;
    struct lodge_st_tensor *tensors; /* sorted by name */
    size_t n_tensors;
};

/* Opens `dir`'s index and shards, or else its model.safetensors. */
int lodge_safetensors_open(const char *dir, struct lodge_safetensors *out, struct lodge_error *e);
/* One file's bytes in memory that outlive the result. */
int lodge_safetensors_parse(const uint8_t *data, size_t n, const char *where,
                            struct lodge_safetensors *out, struct lodge_error *e);
void lodge_safetensors_close(struct lodge_safetensors *s);
/* NULL when absent. */
const struct lodge_st_tensor *lodge_safetensors_find(const struct lodge_safetensors *s,
                                                     const char *name);

#endif
