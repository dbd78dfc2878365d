/* Packing moves units of one lane (a float, a pair of bf16, four codes) from stored rows to their
 * places; it is bound by the bytes it writes. Gathering rebuilds the stored form of one row and
 * lets the format decode it, so the table exists once. */
#include "kernels/cpu/panel.h"

#include <string.h>

static uint32_t padded(uint32_t n)
{
    return (n + 31) / 32 * 32;
}

/* Bytes and columns of one lane's unit for the formats without blocks. */
static void unit_of(enum lodge_format f, uint32_t *bytes, uint32_t *cols)
{
    *bytes = f == LODGE_FMT_F16 ? 2 : 4;
    *cols = f == LODGE_FMT_BF16 ? 2 : 1;
}

static void pack_plain(const struct lodge_panel_layout *l, const uint8_t *const *rows,
                       uint32_t n_cols, uint8_t *to)
{
    uint32_t bytes, cols, size;
    unit_of(l->format, &bytes, &cols);
    size = bytes / cols;
    memset(to, 0, (size_t)padded(n_cols) * l->lanes * size);
    for (uint32_t k = 0; k < n_cols; k += cols, to += (size_t)l->lanes * bytes) {
        uint32_t n = n_cols - k < cols ? size : bytes; /* an odd last column is half a pair */
        for (uint32_t r = 0; r < l->lanes; r++)
            if (rows[r])
                memcpy(to + r * bytes, rows[r] + (size_t)k * size, n);
    }
}

/* Bytes of scale and minimum, and of codes, of a stored block. */
static void block_of(enum lodge_format f, uint32_t *head, uint32_t *codes)
{
    *head = f == LODGE_FMT_Q4_1 ? 4 : 2;
    *codes = f == LODGE_FMT_Q8_0 ? 32 : 16;
}

static void pack_blocks(const struct lodge_panel_layout *l, const uint8_t *const *rows,
                        uint32_t n_cols, uint8_t *to)
{
    uint32_t head, codes;
    block_of(l->format, &head, &codes);
    const uint32_t flip = l->flip * 0x01010101u;
    for (uint32_t b = 0; b < n_cols / 32; b++, to += (size_t)l->lanes * (head + codes))
        for (uint32_t r = 0; r < l->lanes; r++) {
            uint8_t block[36] = {0};
            if (rows[r])
                memcpy(block, rows[r] + (size_t)b * (head + codes), head + codes);
            for (uint32_t h = 0; h < head; h += 2)
                memcpy(to + h * l->lanes + 2 * r, block + h, 2);
            for (uint32_t j = 0; j < codes; j += 4) {
                uint32_t word;
                memcpy(&word, block + head + j, 4);
                word ^= flip;
                memcpy(to + head * l->lanes + (size_t)j * l->lanes + 4 * r, &word, 4);
            }
        }
}

static size_t sub_panel_bytes(const struct lodge_panel_layout *l, uint32_t n_cols)
{
    const struct lodge_format_info *i = lodge_format_info(l->format);
    return (size_t)padded(n_cols) / i->block * i->block_bytes * l->lanes;
}

void lodge_panel_pack(const struct lodge_panel_layout *l, const uint8_t *const rows[32],
                      uint32_t n_cols, void *panel)
{
    uint8_t *to = panel;
    for (uint32_t r = 0; r < 32; r += l->lanes, to += sub_panel_bytes(l, n_cols))
        if (lodge_format_info(l->format)->block == 1)
            pack_plain(l, rows + r, n_cols, to);
        else
            pack_blocks(l, rows + r, n_cols, to);
}

static void gather_plain(const struct lodge_panel_layout *l, const uint8_t *from, uint32_t n_cols,
                         uint32_t r, float *out)
{
    uint32_t bytes, cols;
    unit_of(l->format, &bytes, &cols);
    for (uint32_t k = 0; k < n_cols; k += cols, from += (size_t)l->lanes * bytes)
        lodge_format_decode(l->format, from + r * bytes, n_cols - k < cols ? 1 : cols, out + k);
}

static void gather_blocks(const struct lodge_panel_layout *l, const uint8_t *from, uint32_t n_cols,
                          uint32_t r, float *out)
{
    uint32_t head, codes;
    block_of(l->format, &head, &codes);
    for (uint32_t b = 0; b < n_cols / 32; b++, from += (size_t)l->lanes * (head + codes)) {
        uint8_t block[36];
        for (uint32_t h = 0; h < head; h += 2)
            memcpy(block + h, from + h * l->lanes + 2 * r, 2);
        for (uint32_t j = 0; j < codes; j++)
            block[head + j] =
                from[head * l->lanes + (size_t)(j / 4 * 4) * l->lanes + 4 * r + j % 4] ^ l->flip;
        lodge_format_decode(l->format, block, 32, out + 32 * b);
    }
}

void lodge_panel_gather(const struct lodge_panel_layout *l, const void *panel, uint32_t n_cols,
                        uint32_t r, float *out)
{
    const uint8_t *from = (const uint8_t *)panel + r / l->lanes * sub_panel_bytes(l, n_cols);
    if (lodge_format_info(l->format)->block == 1)
        gather_plain(l, from, n_cols, r % l->lanes, out);
    else
        gather_blocks(l, from, n_cols, r % l->lanes, out);
}
