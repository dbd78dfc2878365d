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

#include <pthread.h>
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
    pthread_mutex_t *lock;              /* of the adapter's arena, while values are converted */
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

/* What the digest covers, one record a target. Every field is fixed in width and there is no
 * padding, so that equal records are equal bytes. */
struct lodge_adapter_record {
    uint32_t linear, rank, scale_bits;
    uint32_t has_magnitude, has_offset;
    struct lodge_digest a, b, magnitude, offset;
};

/* One module as fp32 and bf16 in the plan's order, whole: not yet split into its parts. */
struct lodge_adapter_values {
    struct lodge_lora_target whole; /* but its linear */
    uint64_t n_parameters;
    bool effect; /* it can change something */
};

/* Steps 6 and 7: shapes, ranks. */
int lodge_adapter_check_entries(struct lodge_adapter_reading *r);
/* Steps 8 and 9 of one module; several threads may be at it, each with a reading of its own that
 * shares the adapter. */
int lodge_adapter_convert(struct lodge_adapter_reading *r, const struct lodge_adapter_entry *t,
                          struct lodge_adapter_values *out);
/* Steps 8 and 9 of all. Fills the adapter's targets and a record for each (scratch). */
int lodge_adapter_make_targets(struct lodge_adapter_reading *r,
                               struct lodge_adapter_record **records);
/* Step 10: the record of a target with n_in columns of A and n_out rows of B; SHA-256 of all
 * records and the chat template. */
void lodge_adapter_record_target(const struct lodge_lora_target *t, uint32_t n_in, uint32_t n_out,
                                 struct lodge_adapter_record *r);
int lodge_adapter_make_digest(struct lodge_adapter_reading *r,
                              const struct lodge_adapter_record *records);

/* One reading over bytes in memory: `config` NULL means that `tensors` is a GGUF adapter. The
 * adapter points into `tensors`, which must outlive it. */
int lodge_adapter_read_bytes(const struct lodge_adapter_file *config,
                             const struct lodge_adapter_file *tensors, const char *chat_template,
                             const struct lodge_adapter_base *base,
                             const struct lodge_adapter_limits *limits, struct lodge_adapter **out,
                             struct lodge_error *e);

/* Adds a sentence to the warning; what does not fit is cut. */
void lodge_adapter_warn(struct lodge_adapter *a, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
/* A copy for the adapter's life of at most 1 KiB, with '?' for what is not printable UTF-8. NULL
 * without memory. */
char *lodge_adapter_keep_text(struct lodge_adapter *a, const char *text, size_t n);
/* NOMEM, naming the file. */
int lodge_adapter_no_memory(const struct lodge_adapter_reading *r);
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
