/* Blocks of the quantised formats, taken apart: what kernels, packing and decoding share.
 *
 * A block has columns in groups; element k of group g is
 *
 *   w = (d * s[g]) * value(code[k]) - m * t[g]
 *
 * with d, m the block's halves widened to fp32, s and t small integers, value(c) = table[c] or
 * c - zero. d * s and m * t are exact in fp32. Formats without sub-scales have s = 1; those with a
 * plain minimum (Q4_1, Q5_1) have t = -1. MXFP4 has the exponent e for d: d = 2^(e - 128), with the
 * values of E2M1 doubled to integers.
 *
 * Q8_0 codes are stored value + 128 here, so that all codes are unsigned. Pure functions.
 */
#ifndef LODGE_KERNELS_BLOCK_H
#define LODGE_KERNELS_BLOCK_H

#include "kernels/format.h"

#define LODGE_BLOCK_MAX 256u

/* What is the same for all blocks of a format. */
struct lodge_coding {
    uint32_t bits;  /* of a code: 2, 3, 4, 5, 6 or 8; 0: a format without blocks */
    uint32_t group; /* columns of a group: 16 or 32 */
    uint32_t zero;  /* the code of 0; unused with a table */
    bool has_min;
    bool has_table;
};

/* name, bits, group, zero, minimum, table */
#define LODGE_CODING_LIST(X)                                                                       \
    X(Q8_0, 8, 32, 128, false, false)                                                              \
    X(Q4_0, 4, 32, 8, false, false)                                                                \
    X(Q4_1, 4, 32, 0, true, false)                                                                 \
    X(Q5_0, 5, 32, 16, false, false)                                                               \
    X(Q5_1, 5, 32, 0, true, false)                                                                 \
    X(Q2_K, 2, 16, 0, true, false)                                                                 \
    X(Q3_K, 3, 16, 4, false, false)                                                                \
    X(Q4_K, 4, 32, 0, true, false)                                                                 \
    X(Q5_K, 5, 32, 0, true, false)                                                                 \
    X(Q6_K, 6, 16, 32, false, false)                                                               \
    X(IQ4_NL, 4, 32, 0, false, true)                                                               \
    X(IQ4_XS, 4, 32, 0, false, true)                                                               \
    X(MXFP4, 4, 32, 0, false, true)

/* A constant wherever f is one. */
static inline struct lodge_coding lodge_coding(enum lodge_format f)
{
    switch (f) {
#define LODGE_CODING_CASE(name, bits, group, zero, min, table)                                     \
    case LODGE_FMT_##name:                                                                         \
        return (struct lodge_coding){bits, group, zero, min, table};
        LODGE_CODING_LIST(LODGE_CODING_CASE)
#undef LODGE_CODING_CASE
    default:
        return (struct lodge_coding){0};
    }
}

struct lodge_block {
    uint16_t d, m; /* fp16 bits; MXFP4: d is the exponent's byte */
    int8_t s[16], t[16];
    uint8_t code[LODGE_BLOCK_MAX];
};

/* Values by code: of IQ4_NL and IQ4_XS, and of E2M1, doubled. */
extern const int8_t lodge_iq4_values[16], lodge_e2m1_values[16];
/* NULL for a format without a table. */
static inline const int8_t *lodge_code_table(enum lodge_format f)
{
    return !lodge_coding(f).has_table ? NULL
           : f == LODGE_FMT_MXFP4     ? lodge_e2m1_values
                                      : lodge_iq4_values;
}
/* Takes one stored block apart. */
void lodge_block_split(enum lodge_format f, const uint8_t *stored, struct lodge_block *out);
/* d * s[g] and m * t[g]. */
float lodge_block_scale(enum lodge_format f, const struct lodge_block *b, uint32_t g);
float lodge_block_min(enum lodge_format f, const struct lodge_block *b, uint32_t g);
/* All elements of a block. */
void lodge_block_decode(enum lodge_format f, const struct lodge_block *b, float *dst);

#endif
