/* Interleaved weight panels, the layout that all SIMD rungs share.
 *
 * A panel's 32 rows are cut into sub-panels of `lanes` rows that follow one another; inside one,
 * the rows stand side by side, a lane is an output row, and no sum crosses lanes. Units are what
 * one lane takes at a time:
 *
 *   F32       [Kp][lanes]           F16  [Kp][lanes]           BF16  [Kp / 2][lanes][2]
 *   Q8_0      a block of 32 columns: fp16 scale [lanes]; codes [8][lanes][4], k = 4j + i
 *   Q4_0      fp16 scale [lanes]; nibbles [4][lanes][4]: low k = 4j + i, high k = 16 + 4j + i
 *   Q4_1      as Q4_0 with fp16 minimum [lanes] after the scales
 *
 * Q8_0 codes are stored with `flip` on their bits: 0x80 makes them unsigned, code + 128, which is
 * what a dot instruction of unsigned by signed bytes takes; 0 leaves them signed.
 * Sizes are those of lodge_panel_bytes for every `lanes`. Pure functions, any thread.
 */
#ifndef LODGE_KERNELS_CPU_PANEL_H
#define LODGE_KERNELS_CPU_PANEL_H

#include "kernels/cpu/kernels.h"

struct lodge_panel_layout {
    enum lodge_format format;
    uint32_t lanes; /* 8, 16 or 32 */
    uint8_t flip;   /* Q8_0 only: 0 or 0x80 */
};

/* As pack of struct lodge_gemm. */
void lodge_panel_pack(const struct lodge_panel_layout *l, const uint8_t *const rows[32],
                      uint32_t n_cols, void *panel);
/* As gather of struct lodge_gemm. */
void lodge_panel_gather(const struct lodge_panel_layout *l, const void *panel, uint32_t n_cols,
                        uint32_t r, float *out);

/* Defines pack_<name> and gather_<name> of one format for a rung. */
#define LODGE_PANEL_FORMAT(name, n_lanes, bits)                                                    \
    static const struct lodge_panel_layout layout_##name = {LODGE_FMT_##name, n_lanes, bits};      \
    static void pack_##name(const uint8_t *const rows[32], uint32_t n_cols, void *panel)           \
    {                                                                                              \
        lodge_panel_pack(&layout_##name, rows, n_cols, panel);                                     \
    }                                                                                              \
    static void gather_##name(const void *panel, uint32_t n_cols, uint32_t r, float *out)          \
    {                                                                                              \
        lodge_panel_gather(&layout_##name, panel, n_cols, r, out);                                 \
    }

#endif
