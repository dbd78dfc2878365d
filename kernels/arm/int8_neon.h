/* Integer sums of the NEON rungs. All codes are signed: formats without a minimum have theirs in
 * the top bits of a byte, with the zero point taken away when they were packed. Included by int8.c.
 *
 * neon-dotprod: SDOT, 4 columns of 4 output rows with a row of activations, 16 multiply-adds; 8
 * output rows and up to 6 rows of activations in registers.
 * neon-i8mm: SMMLA, 8 columns of 2 output rows with 2 rows of activations, 32 multiply-adds; 4
 * output rows and up to 6 pairs of rows. 8 output rows and 3 pairs would read half as much of the
 * tile, but have no registers left to unpack codes in. A single row fills half of a pair.
 *
 * Bound: these instructions and two multiply-adds for each 4 sums of a group, in 2 or 4 vector
 * pipes. All instructions of 12 (6) rows, 4 (8) output rows and 32 columns, which are 1536
 * multiply-adds, counted in the code of gcc 12: neon-i8mm 166 for Q4_0, 290 for Q6_K, and wide 152
 * and 210, of which 48 are SMMLA; neon-dotprod 213, 360, 198 and 249, of which 96 are SDOT. Nothing
 * has been timed. */

#define INT8_WIDE 1
#define SIGNED_BITS 1
#define TABLE_OFFSET(f) 0

/* How far codes are moved up in their byte. */
INLINE int code_shift(const enum lodge_format f)
{
    const struct lodge_coding c = lodge_coding(f);
    return c.has_min || c.has_table ? 0 : 8 - (int)c.bits;
}

INLINE bytes no_sum(void)
{
    EACH_BYTES(vreinterpretq_u8_s32(vdupq_n_s32(DOT_BIAS)));
}

#ifdef NEON_I8MM

#define INT8_ROWS 6
#define INT8_VECS 1
#define INT8_SWITCH SWITCH_ROWS_6

/* Rows of 4 output rows for both rows of activations: a half has 2 and 2. */
INLINE vec spread(vec rows)
{
    float32x4_t four = rows.v[0];
    return (vec){{vcombine_f32(vget_low_f32(four), vget_low_f32(four)),
                  vcombine_f32(vget_high_f32(four), vget_high_f32(four))}};
}

INLINE void store_rows(float *out, size_t ld, unsigned left, vec sums)
{
    vst1q_f32(out, vcombine_f32(vget_low_f32(sums.v[0]), vget_low_f32(sums.v[1])));
    if (left > 1)
        vst1q_f32(out + ld, vcombine_f32(vget_high_f32(sums.v[0]), vget_high_f32(sums.v[1])));
}

/* Float number `word` of pair i of the block at t, for the lanes of the pair. */
INLINE vec q8_float(const uint32_t *t, const unsigned word, const unsigned i, const unsigned m)
{
    (void)m;
    float32x4_t x = vreinterpretq_f32_u32(vld1q_u32(t + Q8_WORDS * i + 4 * word));
    return (vec){{x, x}};
}

/* Unit j of a plane of single bits, at bit `at` of bytes w, which have zeros there. */
INLINE bytes b_or_bits(bytes w, const uint8_t *plane, const unsigned j, const unsigned at)
{
    const uint64_t low = (uint64_t)0x01010101 << 2 * j;
    const uint8x16_t bit = vreinterpretq_u8_u64(vdupq_n_u64(low | low << 33));
    const uint32x4_t four = vreinterpretq_u32_u8(vld1q_u8(plane));
    EACH_BYTES(vbslq_u8(
        vdupq_n_u8((uint8_t)(1u << at)),
        vtstq_u8(vreinterpretq_u8_u32(h ? vzip2q_u32(four, four) : vzip1q_u32(four, four)), bit),
        w.v[h]));
}

INLINE bytes dot_pair(bytes sums, bytes codes, int8x16_t x)
{
    EACH_BYTES(vreinterpretq_u8_s32(
        vmmlaq_s32(vreinterpretq_s32_u8(sums.v[h]), x, vreinterpretq_s8_u8(codes.v[h]))));
}

/* Sums of group g of a block, for m pairs of rows. */
INLINE void dots(const enum lodge_format f, const bool wide, const uint8_t *planes,
                 const uint32_t *t, const unsigned g, bytes dot[][INT8_VECS], const unsigned m)
{
#pragma GCC unroll 6
    for (unsigned i = 0; i < m; i++)
        dot[i][0] = no_sum();
#pragma GCC unroll 4
    for (unsigned s = 0; s < lodge_coding(f).group / 8; s++) {
        const unsigned j = unit_of(f, g, s);
#pragma GCC unroll 2
        for (unsigned v = 0; v < INT8_VECS; v++) {
            const bytes w = codes_of(f, wide, planes, j, v);
#pragma GCC unroll 6
            for (unsigned i = 0; i < m; i++) {
                const uint32_t *x = t + Q8_WORDS * i + 4 * j;
                dot[i][v] = dot_pair(dot[i][v], w, vreinterpretq_s8_u32(vld1q_u32(x)));
            }
        }
    }
}

#else

#define INT8_ROWS 6
#define INT8_VECS 1
#define INT8_SWITCH SWITCH_ROWS_6

/* sums + products of signed codes and the 4 signed bytes of a lane of x. */
INLINE int32x4_t dot_lane(int32x4_t sums, int8x16_t codes, int8x16_t x, const unsigned lane)
{
    switch (lane) {
    case 0:
        return vdotq_laneq_s32(sums, codes, x, 0);
    case 1:
        return vdotq_laneq_s32(sums, codes, x, 1);
    case 2:
        return vdotq_laneq_s32(sums, codes, x, 2);
    default:
        return vdotq_laneq_s32(sums, codes, x, 3);
    }
}

/* The same with word number `at` of a block. */
INLINE bytes dot_word(bytes sums, bytes codes, const uint32_t *t, const unsigned at)
{
    const int8x16_t x = vreinterpretq_s8_u32(vld1q_u32(t + at / 4 * 4));
    EACH_BYTES(vreinterpretq_u8_s32(
        dot_lane(vreinterpretq_s32_u8(sums.v[h]), vreinterpretq_s8_u8(codes.v[h]), x, at % 4)));
}

/* Sums of group g of a block, for m rows. */
INLINE void dots(const enum lodge_format f, const bool wide, const uint8_t *planes,
                 const uint32_t *t, const unsigned g, bytes dot[][INT8_VECS], const unsigned m)
{
#pragma GCC unroll 6
    for (unsigned i = 0; i < m; i++)
        dot[i][0] = no_sum();
#pragma GCC unroll 8
    for (unsigned s = 0; s < lodge_coding(f).group / 4; s++) {
        const unsigned j = unit_of(f, g, s);
        const bytes w = codes_of(f, wide, planes, j, 0);
#pragma GCC unroll 6
        for (unsigned i = 0; i < m; i++)
            dot[i][0] = dot_word(dot[i][0], w, t, q8_at(j, i, m));
    }
}

#endif
