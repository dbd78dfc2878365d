/* Packing moves units of one lane (a float, a pair of bf16, four bytes of codes) from stored rows
 * to their places. Gathering rebuilds the block of one row and lets the format decode it, so the
 * table exists once. */
#include "kernels/cpu/panel.h"

#include <string.h>

static uint32_t padded(uint32_t n)
{
    return (n + 31) / 32 * 32;
}

/* Bytes and columns of one lane's unit for the formats without blocks. */
static void unit_of(enum lodge_format f, uint32_t *bytes, uint32_t *cols)
{
    *cols = f == LODGE_FMT_BF16 ? 2 : 1;
    *bytes = *cols * lodge_format_info(f)->block_bytes;
}

static size_t sub_panel_bytes(enum lodge_format f, uint32_t lanes, uint32_t n_cols)
{
    size_t kp = padded(n_cols);
    if (f == LODGE_FMT_F8_E4M3)
        return lanes * (kp + (kp + LODGE_SCALE_COLS - 1) / LODGE_SCALE_COLS * sizeof(float));
    if (!lodge_coding(f).bits)
        return lanes * kp * lodge_format_info(f)->block_bytes;
    const struct lodge_panel_parts p = lodge_panel_parts(f);
    return lanes * (kp / 32 / p.chunks) * (p.head + p.chunks * (p.subs + p.codes));
}

size_t lodge_panel_bytes(enum lodge_format f, uint32_t n_cols)
{
    return (sub_panel_bytes(f, LODGE_PANEL_ROWS, n_cols) + 63) / 64 * 64;
}

/* ---- formats without blocks ---- */

/* Columns [from, to) of the rows; returns where the next ones go. */
static uint8_t *pack_plain(const struct lodge_panel_layout *l, const uint8_t *const *rows,
                           uint32_t from, uint32_t to, uint32_t n_cols, uint8_t *out)
{
    uint32_t bytes, cols, size;
    unit_of(l->format, &bytes, &cols);
    size = bytes / cols;
    uint8_t *end = out + (size_t)(to - from) * l->lanes * size;
    memset(out, 0, (size_t)(end - out));
    for (uint32_t k = from; k < to && k < n_cols; k += cols, out += (size_t)l->lanes * bytes) {
        uint32_t n = n_cols - k < cols ? size : bytes; /* an odd last column is half a pair */
        for (uint32_t r = 0; r < l->lanes; r++)
            if (rows[r])
                memcpy(out + r * bytes, rows[r] + (size_t)k * size, n);
    }
    return end;
}

static void gather_plain(const struct lodge_panel_layout *l, const uint8_t *from, uint32_t n_cols,
                         uint32_t r, float *out)
{
    uint32_t bytes, cols;
    unit_of(l->format, &bytes, &cols);
    for (uint32_t k = 0; k < n_cols; k += cols, from += (size_t)l->lanes * bytes)
        lodge_format_decode(l->format, from + r * bytes, n_cols - k < cols ? 1 : cols, out + k);
}

static void pack_scaled(const struct lodge_panel_layout *l, const struct lodge_panel_rows *rows,
                        uint32_t first, uint32_t n_cols, uint8_t *to)
{
    for (uint32_t k = 0; k < padded(n_cols); k += LODGE_SCALE_COLS) {
        for (uint32_t r = 0; r < l->lanes; r++) {
            float s = rows->data[first + r] ? rows->scales[first + r][k / rows->scale_cols] : 0;
            memcpy(to + r * sizeof s, &s, sizeof s);
        }
        to += l->lanes * sizeof(float);
        uint32_t end =
            k + LODGE_SCALE_COLS < padded(n_cols) ? k + LODGE_SCALE_COLS : padded(n_cols);
        to = pack_plain(l, rows->data + first, k, end, n_cols, to);
    }
}

static void gather_scaled(const struct lodge_panel_layout *l, const uint8_t *from, uint32_t n_cols,
                          uint32_t r, float *out)
{
    for (uint32_t k = 0; k < n_cols; k += LODGE_SCALE_COLS) {
        uint32_t n = n_cols - k < LODGE_SCALE_COLS ? n_cols - k : LODGE_SCALE_COLS;
        float s;
        memcpy(&s, from + r * sizeof s, sizeof s);
        from += l->lanes * sizeof s;
        gather_plain(l, from, n, r, out + k);
        for (uint32_t j = 0; j < n; j++)
            out[k + j] *= s;
        from += (size_t)LODGE_SCALE_COLS * l->lanes;
    }
}

/* ---- blocks ---- */

/* What a rung's codes differ in from those of struct lodge_block. */
static uint8_t flip_of(const struct lodge_panel_layout *l)
{
    const struct lodge_coding c = lodge_coding(l->format);
    return c.bits >= l->signed_bits ? (uint8_t)c.zero : 0;
}

/* The codes of 32 columns as planes. */
static void to_planes(uint32_t bits, uint8_t flip, const uint8_t stored[32], uint8_t *out)
{
    const uint32_t pairs_at = bits == 6 ? 4 : 0, single_at = bits == 5 ? 4 : 2;
    uint8_t code[32];
    for (int k = 0; k < 32; k++)
        code[k] = stored[k] ^ flip;
    if (bits == 8)
        memcpy(out, code, sizeof code);
    if (bits >= 4 && bits < 8) {
        for (int k = 0; k < 16; k++)
            out[k] = (uint8_t)((code[k] & 15) | code[k + 16] << 4);
        out += 16;
    }
    if (bits == 2 || bits == 3 || bits == 6) {
        for (int k = 0; k < 8; k++)
            out[k] = (uint8_t)((code[k] >> pairs_at & 3) | (code[k + 8] >> pairs_at & 3) << 2 |
                               (code[k + 16] >> pairs_at & 3) << 4 |
                               (code[k + 24] >> pairs_at & 3) << 6);
        out += 8;
    }
    if (bits == 3 || bits == 5)
        for (int k = 0; k < 4; k++) {
            out[k] = 0;
            for (int g = 0; g < 8; g++)
                out[k] |= (uint8_t)((code[k + 4 * g] >> single_at & 1) << g);
        }
}

static void from_planes(uint32_t bits, uint8_t flip, const uint8_t *in, uint8_t code[32])
{
    const uint32_t pairs_at = bits == 6 ? 4 : 0, single_at = bits == 5 ? 4 : 2;
    const bool nibbles = bits >= 4 && bits < 8, pairs = bits == 2 || bits == 3 || bits == 6;
    const uint8_t *two = in + (nibbles ? 16 : 0), *one = two + (pairs ? 8 : 0);
    for (uint32_t k = 0; k < 32; k++) {
        uint32_t c = bits == 8 ? in[k] : 0;
        if (nibbles)
            c = in[k % 16] >> k / 16 * 4 & 15;
        if (pairs)
            c |= (two[k % 8] >> k / 8 * 2 & 3u) << pairs_at;
        if (bits == 3 || bits == 5)
            c |= (one[k % 4] >> k / 4 & 1u) << single_at;
        code[k] = (uint8_t)c ^ flip;
    }
}

/* The byte of sub-scales number i of 32 columns. */
static uint8_t sub_of(enum lodge_format f, const struct lodge_block *b, uint32_t chunk, uint32_t i)
{
    if (lodge_coding(f).group == 32)
        return (uint8_t)(i ? b->t[chunk] : b->s[chunk]);
    uint32_t g = 2 * chunk + i;
    return (uint8_t)(lodge_coding(f).has_min ? b->s[g] | b->t[g] << 4 : b->s[g]);
}

static void set_sub(enum lodge_format f, struct lodge_block *b, uint32_t chunk, uint32_t i,
                    uint8_t byte)
{
    if (lodge_coding(f).group == 32) {
        *(i ? &b->t[chunk] : &b->s[chunk]) = (int8_t)byte;
        return;
    }
    uint32_t g = 2 * chunk + i;
    b->s[g] = (int8_t)(lodge_coding(f).has_min ? byte & 15 : byte);
    b->t[g] = (int8_t)(lodge_coding(f).has_min ? byte >> 4 : 0);
}

/* Bytes of a lane's next unit when `left` of its planes remain: a plane of single bits has 4. */
static uint32_t unit_bytes(const struct lodge_panel_layout *l, uint32_t left)
{
    return left < l->unit ? left : l->unit;
}

static void put_block(const struct lodge_panel_layout *l, const struct lodge_block *b, uint32_t r,
                      uint8_t *to)
{
    const struct lodge_panel_parts p = lodge_panel_parts(l->format);
    const uint32_t lanes = l->lanes;
    if (p.head == 1)
        to[r] = (uint8_t)b->d;
    else
        memcpy(to + 2 * r, &b->d, 2);
    if (p.head == 4)
        memcpy(to + 2 * lanes + 2 * r, &b->m, 2);
    to += lanes * p.head;
    for (uint32_t c = 0; c < p.chunks; c++) {
        for (uint32_t i = 0; i < p.subs; i++)
            to[i * lanes + r] = sub_of(l->format, b, c, i);
        to += lanes * p.subs;
        uint8_t planes[32];
        to_planes(p.codes / 4, flip_of(l), b->code + 32 * c, planes);
        for (uint32_t j = 0, n; j < p.codes; j += n) {
            n = unit_bytes(l, p.codes - j);
            memcpy(to + (size_t)j * lanes + (size_t)n * r, planes + j, n);
        }
        to += lanes * p.codes;
    }
}

static void get_block(const struct lodge_panel_layout *l, const uint8_t *from, uint32_t r,
                      struct lodge_block *b)
{
    const struct lodge_panel_parts p = lodge_panel_parts(l->format);
    const uint32_t lanes = l->lanes;
    b->d = from[r];
    if (p.head > 1)
        memcpy(&b->d, from + 2 * r, 2);
    if (p.head == 4)
        memcpy(&b->m, from + 2 * lanes + 2 * r, 2);
    from += lanes * p.head;
    b->s[0] = 1;
    b->t[0] = -1;
    for (uint32_t c = 0; c < p.chunks; c++) {
        for (uint32_t i = 0; i < p.subs; i++)
            set_sub(l->format, b, c, i, from[i * lanes + r]);
        from += lanes * p.subs;
        uint8_t planes[32];
        for (uint32_t j = 0, n; j < p.codes; j += n) {
            n = unit_bytes(l, p.codes - j);
            memcpy(planes + j, from + (size_t)j * lanes + (size_t)n * r, n);
        }
        from_planes(p.codes / 4, flip_of(l), planes, b->code + 32 * c);
        from += lanes * p.codes;
    }
}

static void pack_blocks(const struct lodge_panel_layout *l, const uint8_t *const *rows,
                        uint32_t n_cols, uint8_t *to)
{
    const struct lodge_format_info *i = lodge_format_info(l->format);
    static const struct lodge_block none;
    struct lodge_block b = none;
    size_t step = sub_panel_bytes(l->format, l->lanes, i->block);
    for (uint32_t k = 0; k < n_cols / i->block; k++, to += step)
        for (uint32_t r = 0; r < l->lanes; r++) {
            if (rows[r])
                lodge_block_split(l->format, rows[r] + (size_t)k * i->block_bytes, &b);
            put_block(l, rows[r] ? &b : &none, r, to);
        }
}

static void gather_blocks(const struct lodge_panel_layout *l, const uint8_t *from, uint32_t n_cols,
                          uint32_t r, float *out)
{
    const uint32_t block = lodge_format_info(l->format)->block;
    size_t step = sub_panel_bytes(l->format, l->lanes, block);
    struct lodge_block b;
    for (uint32_t k = 0; k < n_cols; k += block, from += step) {
        get_block(l, from, r, &b);
        lodge_block_decode(l->format, &b, out + k);
    }
}

void lodge_panel_pack(const struct lodge_panel_layout *l, const struct lodge_panel_rows *rows,
                      uint32_t n_cols, void *panel)
{
    uint8_t *to = panel;
    for (uint32_t r = 0; r < 32; r += l->lanes, to += sub_panel_bytes(l->format, l->lanes, n_cols))
        if (lodge_coding(l->format).bits)
            pack_blocks(l, rows->data + r, n_cols, to);
        else if (l->format == LODGE_FMT_F8_E4M3)
            pack_scaled(l, rows, r, n_cols, to);
        else
            pack_plain(l, rows->data + r, 0, padded(n_cols), n_cols, to);
}

void lodge_panel_gather(const struct lodge_panel_layout *l, const void *panel, uint32_t n_cols,
                        uint32_t r, float *out)
{
    const uint8_t *from =
        (const uint8_t *)panel + r / l->lanes * sub_panel_bytes(l->format, l->lanes, n_cols);
    if (lodge_coding(l->format).bits)
        gather_blocks(l, from, n_cols, r % l->lanes, out);
    else if (l->format == LODGE_FMT_F8_E4M3)
        gather_scaled(l, from, n_cols, r % l->lanes, out);
    else
        gather_plain(l, from, n_cols, r % l->lanes, out);
}
