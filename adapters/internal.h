/* What the readers of the two file forms share. Private to adapters/ and its tests.
 *
 * A reader makes entries: one a module, with its matrices as the file stores them. From there on
 * both forms take the same way: shapes, limits, values, digest. A reading lives as long as one
 * call of lodge_adapter_read.
 */
#ifndef LODGE_ADAPTERS_INTERNAL_H
#define LODGE_ADAPTERS_INTERNAL_H

#include "adapters/adapter.h"
#include "base/span.h"
#include "kernels/format.h"

#include <stdbool.h>
#include <stdint.h>

/* A matrix or vector of a file. Data may have any alignment. */
struct lodge_adapter_tensor {
    const char *name; /* as the file says it; NULL: absent */
    int format;       /* enum lodge_format, or negative: a type that is not read */
    const char *type_name;
    const uint8_t *data;
    uint32_t n_dims;
    uint64_t n_rows, n_cols; /* a vector is one row */
};

struct lodge_adapter_entry {
    const struct lodge_adapter_module *module;
    struct lodge_adapter_tensor a, b, magnitude, offset;
    struct lodge_adapter_tensor base_copy; /* of the base's weight: only its shape is looked at */
    bool a_transposed;                     /* stored (columns, rank): the table of a GGUF adapter */
    bool in_pairs;                         /* rows of B as module->gguf_pairs says */
    uint32_t rank;                         /* what the settings say; 0: they say nothing */
    double alpha;
    bool root_of_rank;   /* scale = alpha / sqrt(rank) */
    bool alpha_is_scale; /* scale = alpha */
};

struct lodge_adapter_reading {
    const struct lodge_adapter_base *base;
    struct lodge_adapter_limits limits; /* without zeros */
    struct lodge_adapter *adapter;      /* being made */
    struct lodge_arena scratch;         /* dies with the reading */
    const char *tensors_where;          /* the file of tensors, for error texts */
    struct lodge_adapter_entry *entries;
    uint32_t n_entries;
    struct lodge_error *e;
};

/* ---- the two forms: steps 2 to 5, then entries ---- */

/* Bytes and the name that texts call them. */
struct lodge_adapter_file {
    struct lodge_span bytes;
    const char *where;
};

int lodge_adapter_from_peft(struct lodge_adapter_reading *r,
                            const struct lodge_adapter_file *config,
                            const struct lodge_adapter_file *tensors);
int lodge_adapter_from_gguf(struct lodge_adapter_reading *r, const struct lodge_adapter_file *file);

/* ---- common: steps 6 to 10 ---- */

/* Columns of A and rows of B of one target. */
struct lodge_adapter_extent {
    uint32_t n_in, n_out;
};

/* Steps 6 and 7: shapes, ranks. */
int lodge_adapter_check_entries(struct lodge_adapter_reading *r);
/* Steps 8 and 9: values, effect. Fills the adapter's targets and an extent for each (scratch). */
int lodge_adapter_make_targets(struct lodge_adapter_reading *r,
                               struct lodge_adapter_extent **extents);
/* Step 10: SHA-256 of the targets and the chat template. */
int lodge_adapter_make_digest(struct lodge_adapter_reading *r,
                              const struct lodge_adapter_extent *extents);

/* One reading over bytes in memory: `config` NULL means that `tensors` is a GGUF adapter. The
 * adapter points into `tensors`, which must outlive it. */
int lodge_adapter_read_bytes(const struct lodge_adapter_file *config,
                             const struct lodge_adapter_file *tensors, const char *chat_template,
                             const struct lodge_adapter_base *base,
                             const struct lodge_adapter_limits *limits, struct lodge_adapter **out,
                             struct lodge_error *e);

/* A piece of work is done. */
void lodge_adapter_rest(const struct lodge_adapter_limits *limits);
/* Adds a sentence to the warning; what does not fit is cut. */
void lodge_adapter_warn(struct lodge_adapter *a, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
/* A copy for the adapter's life of at most 1 KiB, with '?' for what is not printable UTF-8. NULL
 * without memory. */
char *lodge_adapter_keep_text(struct lodge_adapter *a, const char *text, size_t n);
/* Refuses the tensor of a module that the base does not have, and lists what it has. */
int lodge_adapter_refuse_module(const struct lodge_adapter_reading *r, bool gguf,
                                const char *tensor, const char *module);
/* The module of that name, or NULL. */
const struct lodge_adapter_module *lodge_adapter_find_module(const struct lodge_adapter_base *base,
                                                             bool gguf, const char *name, size_t n);

/* ---- files ---- */

/* Opens `file` below dir_fd; links may not lead out of it. Returns the descriptor or -errno;
 * -EXDEV or -ELOOP for a link that does. */
int lodge_adapter_open_beneath(int dir_fd, const char *file);

#endif
