/* Number formats of stored weights.
 *
 * A row of K elements is stored as K / block blocks of `block_bytes`; blocks follow one another,
 * rows follow one another. GGUF blocks keep GGUF's own byte layout (model-independent).
 * F8_E4M3 has codes only; its scales are the tensor's (struct lodge_tensor).
 * Source of the block layouts: the GGUF specification and the ggml quantisation formats.
 */
#ifndef LODGE_KERNELS_FORMAT_H
#define LODGE_KERNELS_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* name, printed name, elements of a block, bytes of a block, number in GGUF or -1 */
#define LODGE_FORMAT_LIST(X)                                                                       \
    X(F32, "F32", 1, 4, 0)                                                                         \
    X(F16, "F16", 1, 2, 1)                                                                         \
    X(BF16, "BF16", 1, 2, 30)                                                                      \
    X(F8_E4M3, "F8_E4M3", 1, 1, -1)                                                                \
    LODGE_BLOCK_FORMAT_LIST(X)
/* Those whose products are taken in integers. */
#define LODGE_BLOCK_FORMAT_LIST(X)                                                                 \
    X(Q8_0, "Q8_0", 32, 34, 8)                                                                     \
    X(Q4_0, "Q4_0", 32, 18, 2)                                                                     \
    X(Q4_1, "Q4_1", 32, 20, 3)                                                                     \
    X(Q5_0, "Q5_0", 32, 22, 6)                                                                     \
    X(Q5_1, "Q5_1", 32, 24, 7)                                                                     \
    X(Q2_K, "Q2_K", 256, 84, 10)                                                                   \
    X(Q3_K, "Q3_K", 256, 110, 11)                                                                  \
    X(Q4_K, "Q4_K", 256, 144, 12)                                                                  \
    X(Q5_K, "Q5_K", 256, 176, 13)                                                                  \
    X(Q6_K, "Q6_K", 256, 210, 14)                                                                  \
    X(IQ4_NL, "IQ4_NL", 32, 18, 20)                                                                \
    X(IQ4_XS, "IQ4_XS", 256, 136, 23)                                                              \
    X(MXFP4, "MXFP4", 32, 17, 39)

enum lodge_format {
#define LODGE_FORMAT_ENUM(name, text, block, bytes, gguf) LODGE_FMT_##name,
    LODGE_FORMAT_LIST(LODGE_FORMAT_ENUM)
#undef LODGE_FORMAT_ENUM
        LODGE_FMT_COUNT
};

struct lodge_format_info {
    const char *name;
    uint32_t block;
    uint32_t block_bytes;
    int32_t gguf_type; /* ggml's number, -1: not a type of GGUF */
};

/* NULL for a value that is no format. Static storage. */
const struct lodge_format_info *lodge_format_info(enum lodge_format f);
/* The format of a GGUF tensor type, or -1: none that Lodge computes with. */
int lodge_format_of_gguf(uint32_t type);
/* The names of all formats, in one line for an error text. Static storage. */
const char *lodge_format_names(void);
/* Bytes of one row; false if K is no multiple of the block or the product does not fit. */
bool lodge_format_row_bytes(enum lodge_format f, uint64_t n_cols, size_t *out);
/* Decodes n elements (a multiple of the block) to fp32, exactly as the format defines them.
 * `src` may have any alignment. */
void lodge_format_decode(enum lodge_format f, const void *src, size_t n, float *dst);

#endif
