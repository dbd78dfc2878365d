/* Interleaved weight panels, the layout that all SIMD rungs share.
 *
 * A panel's 32 rows are cut into sub-panels of `lanes` rows that follow one another; inside one,
 * the rows stand side by side, a lane is an output row, and no sum crosses lanes. Units are what
 * one lane takes at a time:
 *
 *   F32, F16  [Kp][lanes]
 *   BF16      [Kp / 2][lanes][2]
 *   F8_E4M3   for each 128 columns (the last may have 32, 64 or 96): fp32 scale [lanes];
 *             codes [columns][lanes]
 *   blocks    for each stored block of 32 or 256 columns (kernels/block.h):
 *     head    fp16 d [lanes], with a minimum fp16 m [lanes]; MXFP4: the exponent's byte [lanes]
 *     then for each 32 columns
 *     subs    blocks of 256 only: groups of 32: byte s [lanes], with a minimum byte t [lanes];
 *             groups of 16: for each half byte s [lanes], Q2_K s | t << 4
 *     codes   in planes that together have the bits of a code, in this order, by units of u = 4
 *             or 8 bytes of a lane, as a dot or a matrix instruction takes them:
 *             8 bits  [32 / u][lanes][u]  k = uj + i
 *             4 bits  [16 / u][lanes][u]  low nibble k = uj + i, high k = 16 + uj + i
 *             2 bits  [8 / u][lanes][u]   bits 2g of byte (j, i): k = 8g + uj + i
 *             1 bit   [lanes][4]          bit g of byte i: k = 4g + i
 *             3 bits are 2 + 1, 5 are 4 + 1, 6 are 4 + 2, the lower bits of a code first
 *
 * Codes with a zero point (kernels/block.h) are unsigned, as a dot instruction of unsigned by
 * signed bytes takes them, or with the top bit flipped numbers in two's complement. Sizes are those
 * of lodge_panel_bytes for every `lanes`. Pure functions, any thread.
 */
#ifndef LODGE_KERNELS_CPU_PANEL_H
#define LODGE_KERNELS_CPU_PANEL_H

#include "kernels/block.h"
#include "kernels/cpu/kernels.h"

/* Of everything above, for files of packed weights. Raised with any change of what packing writes;
 * tests/kernels/check_rungs.c holds digests of packed panels that fail until both are changed. */
#define LODGE_CPU_PANEL_VERSION 1u

struct lodge_panel_layout {
    enum lodge_format format;
    uint32_t lanes;       /* 4, 8, 16 or 32 */
    uint32_t unit;        /* 4 or 8 */
    uint32_t signed_bits; /* codes with a zero point that have so many bits or more are signed */
};

/* Bytes a lane of a block's head, and of the subs and the codes of 32 columns. */
struct lodge_panel_parts {
    uint32_t head, subs, codes;
    uint32_t chunks; /* of 32 columns in a block */
};

/* A constant wherever f is one; blocks only. */
static inline struct lodge_panel_parts lodge_panel_parts(enum lodge_format f)
{
    const struct lodge_coding c = lodge_coding(f);
    bool big = false;
    switch (f) {
#define LODGE_PANEL_BIG(name, text, block, bytes, gguf)                                            \
    case LODGE_FMT_##name:                                                                         \
        big = (block) > 32;                                                                        \
        break;
        LODGE_BLOCK_FORMAT_LIST(LODGE_PANEL_BIG)
#undef LODGE_PANEL_BIG
    default:
        break;
    }
    return (struct lodge_panel_parts){
        .head = f == LODGE_FMT_MXFP4 ? 1u
                : c.has_min          ? 4u
                                     : 2u,
        .subs = !big                         ? 0u
                : c.group == 16 || c.has_min ? 2u
                                             : 1u,
        .codes = 4 * c.bits,
        .chunks = big ? 8u : 1u,
    };
}

/* As pack of struct lodge_gemm. */
void lodge_panel_pack(const struct lodge_panel_layout *l, const struct lodge_panel_rows *rows,
                      uint32_t n_cols, void *panel);
/* As gather of struct lodge_gemm. */
void lodge_panel_gather(const struct lodge_panel_layout *l, const void *panel, uint32_t n_cols,
                        uint32_t r, float *out);

/* Defines pack_<name> and gather_<name> of one format for a rung. */
#define LODGE_PANEL_FORMAT(name, lanes, unit, bits)                                                \
    static const struct lodge_panel_layout layout_##name = {LODGE_FMT_##name, lanes, unit, bits};  \
    static void pack_##name(const struct lodge_panel_rows *rows, uint32_t n_cols, void *panel)     \
    {                                                                                              \
        lodge_panel_pack(&layout_##name, rows, n_cols, panel);                                     \
    }                                                                                              \
    static void gather_##name(const void *panel, uint32_t n_cols, uint32_t r, float *out)          \
    {                                                                                              \
        lodge_panel_gather(&layout_##name, panel, n_cols, r, out);                                 \
    }

#endif
