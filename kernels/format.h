/* Number formats of stored weights.
 *
 * A row of K elements is stored as K / block blocks of `block_bytes`; blocks follow one another,
 * rows follow one another. GGUF blocks keep GGUF's own byte layout (model-independent).
 * Source of the block layouts: the GGUF specification and the ggml quantisation formats.
 */
#ifndef LODGE_KERNELS_FORMAT_H
#define LODGE_KERNELS_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* name, printed name, elements of a block, bytes of a block */
#define LODGE_FORMAT_LIST(X)                                                                       \
    X(F32, "F32", 1, 4)                                                                            \
    X(F16, "F16", 1, 2)                                                                            \
    X(BF16, "BF16", 1, 2)                                                                          \
    X(Q8_0, "Q8_0", 32, 34)                                                                        \
    X(Q4_0, "Q4_0", 32, 18)                                                                        \
    X(Q4_1, "Q4_1", 32, 20)

enum lodge_format {
#define LODGE_FORMAT_ENUM(name, text, block, bytes) LODGE_FMT_##name,
    LODGE_FORMAT_LIST(LODGE_FORMAT_ENUM)
#undef LODGE_FORMAT_ENUM
        LODGE_FMT_COUNT
};

struct lodge_format_info {
    const char *name;
    uint32_t block;
    uint32_t block_bytes;
};

/* NULL for a value that is no format. Static storage. */
const struct lodge_format_info *lodge_format_info(enum lodge_format f);
/* Bytes of one row; false if K is no multiple of the block or the product does not fit. */
bool lodge_format_row_bytes(enum lodge_format f, uint64_t n_cols, size_t *out);
/* Decodes n elements (a multiple of the block) to fp32, exactly as the format defines them.
 * `src` may have any alignment. */
void lodge_format_decode(enum lodge_format f, const void *src, size_t n, float *dst);

#endif
