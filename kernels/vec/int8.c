/* Products with weights in blocks: activations in int8, exact integer sums of a group of columns,
 * scaled in fp32. One driver for all formats; a format is how its codes are put together from
 * planes (codes_of) and where its scales stand (scale_of, min_of), with all choices constant. What
 * differs between instruction sets is the integer sum (int8_vnni.h and int8_avx2.h of kernels/x86,
 * int8_neon.h of kernels/arm). There an instruction sums either UNIT = 4 columns of
 * one row of activations and LANES output rows, or UNIT = 8 columns of ACT_ROWS = 2 rows and half
 * as many output rows. Bound: bytes of the panel at few rows; at many, the integer instructions, of
 * which a dot product of 4 columns takes one (VNNI, NEON), two to four (AVX2) or a half (NEON
 * with matrix products) for each vector of sums, and two multiply-adds a group. */
#include "kernels/cpu/panel.h"
#include "kernels/vec/vec.h"

/* Columns that an instruction takes of a row. */
#define UNIT (4 * ACT_ROWS)

/* Which unit of columns is number s of group g: low and high nibbles in turn, so that they are
 * loaded once. */
INLINE unsigned unit_of(const enum lodge_format f, const unsigned g, const unsigned s)
{
    const struct lodge_coding c = lodge_coding(f);
    return c.group == 32 && c.bits < 8 ? s / 2 + s % 2 * (16 / UNIT) : g * (c.group / UNIT) + s;
}

INLINE bytes codes_of(const enum lodge_format f, const bool wide, const uint8_t *planes,
                      const unsigned j, const unsigned v);

#if ACT_ROWS == 1
/* Float number `word` of row i of the block at t, in all lanes. */
INLINE vec q8_float(const uint32_t *t, const unsigned word, const unsigned i, const unsigned m)
{
    return v_set(((const float *)(const void *)t)[q8_at(word, i, m)]);
}

/* The rows of a vector of output rows are its lanes. */
INLINE vec spread(vec rows)
{
    return rows;
}

INLINE void store_rows(float *out, size_t ld, unsigned left, vec sums)
{
    (void)ld, (void)left;
    v_store(out, sums);
}

/* Unit j of a plane of single bits, at bit `at` of bytes w, which have zeros there. */
INLINE bytes b_or_bits(bytes w, const uint8_t *plane, const unsigned j, const unsigned at)
{
    return b_or_field(w, b_load(plane), (int)at - (int)j, 1u << at);
}
#endif

#ifdef __aarch64__
#include "kernels/arm/int8_neon.h"
#elif DOT_BIAS
#include "kernels/x86/int8_vnni.h"
#else
#include "kernels/x86/int8_avx2.h"
#endif

/* Output rows of a vector, and of a sub-panel. */
#define VEC_ROWS (LANES / ACT_ROWS)
#define SUB_LANES (INT8_VECS * VEC_ROWS)

/* A wide panel has for each 32 columns vectors of scales [groups][INT8_VECS], with minimums -m t
 * [groups][INT8_VECS] after them, and whole bytes of codes [32 / UNIT][lanes][UNIT]: what the
 * kernel else makes of the other kind again for each tile. */
INLINE struct lodge_panel_parts parts_of(const enum lodge_format f, const bool wide)
{
    const struct lodge_coding c = lodge_coding(f);
    const uint32_t floats = 32 / c.group * (c.has_min ? 2u : 1u);
    return wide
               ? (struct lodge_panel_parts){.subs = 4 * floats * ACT_ROWS, .codes = 32, .chunks = 1}
               : lodge_panel_parts(f);
}

/* Codes of unit j of columns of vector v of the rows, moved up by code_shift. */
INLINE bytes codes_of(const enum lodge_format f, const bool wide, const uint8_t *planes,
                      const unsigned j, const unsigned v)
{
    const unsigned bits = lodge_coding(f).bits, step = UNIT * SUB_LANES;
    const unsigned fours = 16 / UNIT, twos = 8 / UNIT; /* units of a plane */
    const int up = code_shift(f);
    const uint8_t *one = planes + (bits == 3 ? 8 : 16) * SUB_LANES + 4 * VEC_ROWS * v;
    planes += UNIT * VEC_ROWS * v;
    if (bits == 8 || wide)
        return b_load(planes + j * step);
    const uint8_t *two = planes + (bits > 3 ? 16 * SUB_LANES : 0) + j % twos * step;
    const int two_at = up + (bits > 3 ? 4 : 0), one_at = up + (bits > 3 ? 4 : 2);
    bytes w;
    if (bits > 3)
        w = b_field(b_load(planes + j % fours * step), up - (j < fours ? 0 : 4), 15u << up);
    else
        w = b_field(b_load(two), two_at - (int)(j / twos * 2), 3u << two_at);
    if (bits == 6)
        w = b_or_field(w, b_load(two), two_at - (int)(j / twos * 2), 3u << two_at);
    if (bits == 3 || bits == 5)
        w = b_or_bits(w, one, j, (unsigned)one_at);
    return lodge_coding(f).has_table ? b_lookup(lodge_code_table(f), TABLE_OFFSET(f), w) : w;
}

/* d of vector v of the rows, against the moved codes. */
INLINE vec head_of(const enum lodge_format f, const uint8_t *head, const unsigned v)
{
    if (f == LODGE_FMT_MXFP4)
        return spread(load_exponent(head + VEC_ROWS * v));
    vec d = spread(load_half(head + 2 * VEC_ROWS * v));
    return code_shift(f) ? v_mul(d, v_set(1.0f / (float)(1 << code_shift(f)))) : d;
}

/* d * s of group g of 32 columns. */
INLINE vec scale_of(const enum lodge_format f, const bool wide, const uint8_t *head,
                    const uint8_t *subs, const unsigned g, const unsigned v)
{
    const struct lodge_coding c = lodge_coding(f);
    if (wide)
        return v_load((const float *)(const void *)subs + LANES * (INT8_VECS * g + v));
    vec d = head_of(f, head, v);
    subs += VEC_ROWS * v + SUB_LANES * g;
    if (!lodge_panel_parts(f).subs)
        return d;
    return v_mul(d, spread(c.group == 16 && c.has_min ? load_low(subs) : load_s8(subs)));
}

/* -m * t of group g. */
INLINE vec min_of(const enum lodge_format f, const bool wide, const uint8_t *head,
                  const uint8_t *subs, const unsigned g, const unsigned v)
{
    const uint32_t n = 32 / lodge_coding(f).group;
    if (wide)
        return v_load((const float *)(const void *)subs + LANES * (INT8_VECS * (n + g) + v));
    vec m = spread(load_half(head + 2 * SUB_LANES + 2 * VEC_ROWS * v));
    if (!lodge_panel_parts(f).subs)
        return m;
    subs += VEC_ROWS * v;
    vec t =
        lodge_coding(f).group == 16 ? load_high(subs + SUB_LANES * g) : load_s8(subs + SUB_LANES);
    return v_mul(v_negate(m), spread(t));
}

#if DOT_BIAS
/* Integer sums that are the bits of a float, DOT_BIAS_FLOAT + sum. Beside w, what `scaled` wants.
 */
INLINE vec bias_of(vec w)
{
    return v_mul(w, v_set(-DOT_BIAS_FLOAT));
}

/* fma(w, sum, 0): w (bias + sum) - w bias in one rounding. w bias is exact, because scales have
 * less than 22 bits, and finite but for MXFP4. */
INLINE vec scaled(const enum lodge_format f, vec w, bytes dot, vec bias)
{
    vec sum = b_floats(dot);
    if (f == LODGE_FMT_MXFP4)
        return v_fma(w, v_sub(sum, v_set(DOT_BIAS_FLOAT)), v_set(0));
    return v_fma(w, sum, bias);
}
#endif

/* Adds the integer sums of group g and vector v to the sums of m vectors of rows. */
INLINE void add_vector(const enum lodge_format f, const bool wide, const uint8_t *head,
                       const uint8_t *subs, const uint32_t *t, const unsigned g, const unsigned v,
                       bytes dot[][INT8_VECS], vec acc[][INT8_VECS], const unsigned m)
{
    const struct lodge_coding c = lodge_coding(f);
    const unsigned sum = Q8_SUM + (c.group == 16 ? 1 + g : 0);
    vec w = scale_of(f, wide, head, subs, g, v), bias = bias_of(w);
#pragma GCC unroll 6
    for (unsigned i = 0; i < m; i++)
        acc[i][v] = v_fma(scaled(f, w, dot[i][v], bias), q8_float(t, Q8_SCALE, i, m), acc[i][v]);
    if (!c.has_min)
        return;
    w = min_of(f, wide, head, subs, g, v);
#pragma GCC unroll 6
    for (unsigned i = 0; i < m; i++)
        acc[i][v] = v_fma(w, q8_float(t, sum, i, m), acc[i][v]);
}

/* Adds group g of 32 columns to the sums of m vectors of rows. */
INLINE void add_group(const enum lodge_format f, const bool wide, const uint8_t *head,
                      const uint8_t *subs, const uint32_t *t, const unsigned g,
                      vec acc[][INT8_VECS], const unsigned m)
{
    bytes dot[INT8_ROWS][INT8_VECS];
    dots(f, wide, subs + parts_of(f, wide).subs * SUB_LANES, t, g, dot, m);
#pragma GCC unroll 2
    for (unsigned v = 0; v < INT8_VECS; v++) /* one after the other: dots leave registers */
        add_vector(f, wide, head, subs, t, g, v, dot, acc, m);
}

/* `rows` rows in m vectors. */
INLINE void int8_rows(const uint8_t *panel, uint32_t kp, const void *tile, unsigned rows,
                      float *out, size_t ld, struct ahead next, const enum lodge_format f,
                      const bool wide, const unsigned m)
{
    const struct lodge_panel_parts p = parts_of(f, wide);
    for (uint32_t r = 0; r < LODGE_PANEL_ROWS; r += SUB_LANES) {
        const uint32_t *t = tile;
        const uint8_t *head = panel;
        vec acc[INT8_ROWS][INT8_VECS];
#pragma GCC unroll 6
        for (unsigned i = 0; i < m; i++)
            for (unsigned v = 0; v < INT8_VECS; v++)
                acc[i][v] = v_set(0);
        for (uint32_t b = 0; b < kp / 32; b++, t += Q8_WORDS * m) {
            if (b % p.chunks == 0) {
                head = panel;
                panel += p.head * SUB_LANES;
            }
            fetch_step(&next);
#pragma GCC unroll 2
            for (unsigned g = 0; g < 32 / lodge_coding(f).group; g++) {
                /* What is read for both groups is read again: there are no registers to keep it. */
                __asm__("" : "+r"(panel), "+r"(head), "+r"(t));
                add_group(f, wide, head, panel, t, g, acc, m);
            }
            panel += (p.subs + p.codes) * SUB_LANES;
        }
#pragma GCC unroll 6
        for (unsigned i = 0; i < m; i++)
            for (unsigned v = 0; v < INT8_VECS; v++)
                store_rows(out + i * ACT_ROWS * ld + r + VEC_ROWS * v, ld, rows - i * ACT_ROWS,
                           acc[i][v]);
    }
}

/* Fetches during one tile. */
INLINE uint32_t n_steps(uint32_t n_cols)
{
    return padded(n_cols) / SUB_LANES;
}

#define CALL(n)                                                                                    \
    int8_rows(panel, padded(n_cols), tile, m, out, ld, a, (enum lodge_format)FORMAT, WIDE, n)
#define INT8_TILE(tile_name, name, is_wide)                                                        \
    static void tile_name(const void *panel, uint32_t n_cols, const void *tile, unsigned m,        \
                          float *out, size_t ld, const void *next, size_t next_bytes)              \
    {                                                                                              \
        enum { FORMAT = LODGE_FMT_##name, WIDE = is_wide };                                        \
        const struct ahead a = ahead_of(next, next_bytes, n_steps(n_cols));                        \
        INT8_SWITCH((m + ACT_ROWS - 1) / ACT_ROWS, CALL)                                           \
    }
#define INT8_FORMAT(name, text, block, bytes, gguf)                                                \
    LODGE_PANEL_FORMAT(name, SUB_LANES, UNIT, SIGNED_BITS)                                         \
    INT8_TILE(tile_##name, name, false)
LODGE_BLOCK_FORMAT_LIST(INT8_FORMAT)

#ifdef INT8_WIDE
/* One kernel for all formats that look alike when they are wide. */
INT8_TILE(wide_32, Q4_0, true)
INT8_TILE(wide_32_min, Q4_1, true)
INT8_TILE(wide_16, Q6_K, true)
INT8_TILE(wide_16_min, Q2_K, true)
INT8_TILE(wide_mxfp4, MXFP4, true)

INLINE void widen(const uint8_t *panel, uint32_t kp, float *out, const enum lodge_format f)
{
    const struct lodge_coding c = lodge_coding(f);
    const struct lodge_panel_parts p = lodge_panel_parts(f);
    const uint8_t *head = panel;
    const uint32_t n_blocks = kp / 32 * (LODGE_PANEL_ROWS / SUB_LANES); /* of all sub-panels */
    for (uint32_t b = 0; b < n_blocks; b++) {
        if (b % p.chunks == 0) {
            head = panel;
            panel += p.head * SUB_LANES;
        }
        for (unsigned part = 0; part < (c.has_min ? 2u : 1u); part++)
            for (unsigned g = 0; g < 32 / c.group; g++)
                for (unsigned v = 0; v < INT8_VECS; v++, out += LANES)
                    v_store(out, part ? min_of(f, false, head, panel, g, v)
                                      : scale_of(f, false, head, panel, g, v));
#pragma GCC unroll 8
        for (unsigned j = 0; j < 32 / UNIT; j++)
            for (unsigned v = 0; v < INT8_VECS; v++, out += LANES)
                b_store((uint8_t *)out, codes_of(f, false, panel + p.subs * SUB_LANES, j, v));
        panel += (p.subs + p.codes) * SUB_LANES;
    }
}

#define WIDEN(name, text, block, bytes, gguf)                                                      \
    static void widen_##name(const void *panel, uint32_t n_cols, void *out)                        \
    {                                                                                              \
        widen(panel, padded(n_cols), out, LODGE_FMT_##name);                                       \
    }
LODGE_BLOCK_FORMAT_LIST(WIDEN)

static lodge_tile_fn *wide_tile(enum lodge_format f)
{
    const struct lodge_coding c = lodge_coding(f);
    return f == LODGE_FMT_MXFP4 ? wide_mxfp4
           : c.group == 16      ? (c.has_min ? wide_16_min : wide_16)
           : c.has_min          ? wide_32_min
                                : wide_32;
}
#define WIDE_ENTRY(name) .widen = widen_##name, .wide_tile = wide_tile(LODGE_FMT_##name)
#else
#define WIDE_ENTRY(name) .widen = NULL
#endif

void RUNG(int8)(struct lodge_cpu_kernels *k)
{
#define INT8_ENTRY(name, text, block, bytes, gguf)                                                 \
    k->gemm[LODGE_FMT_##name] = (struct lodge_gemm){INT8_ROWS * ACT_ROWS, pack_##name,             \
                                                    tile_##name, gather_##name, WIDE_ENTRY(name)};
    LODGE_BLOCK_FORMAT_LIST(INT8_ENTRY)
#undef INT8_ENTRY
}
