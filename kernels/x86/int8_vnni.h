/* Integer sums of the x86 rungs with dot instructions (VNNI): INT8_VECS vectors of output rows, up
 * to 6 rows of activations in registers. The dot instruction takes u8 x s8: formats without a
 * minimum have their codes in the top bits of a byte, or looked up, with zero point 128, which the
 * first value of a sum takes away. Included by int8.c. */

#define INT8_ROWS 6
#define INT8_WIDE 1
#define INT8_VECS (LANES == 16 ? 2 : 1) /* of 32 registers, or of 16 */
#define INT8_SWITCH SWITCH_ROWS_6
#define SIGNED_BITS 9 /* none */
#define TABLE_OFFSET(f) 128

/* How far codes are moved up in their byte. */
INLINE int code_shift(const enum lodge_format f)
{
    const struct lodge_coding c = lodge_coding(f);
    return c.has_min || c.has_table ? 0 : 8 - (int)c.bits;
}

/* Sums of group g of a block, for m rows. */
INLINE void dots(const enum lodge_format f, const bool wide, const uint8_t *planes,
                 const uint32_t *t, const unsigned g, bytes dot[][INT8_VECS], const unsigned m)
{
    const struct lodge_coding c = lodge_coding(f);
    const unsigned n = c.group / 4, start = Q8_START + (n == 8 ? 0 : 1 + g);
#pragma GCC unroll 6
    for (unsigned i = 0; i < m; i++)
#pragma GCC unroll 2
        for (unsigned v = 0; v < INT8_VECS; v++)
            dot[i][v] = b_words(c.has_min ? DOT_BIAS : (int)t[q8_at(start, i, m)]);
#pragma GCC unroll 8
    for (unsigned s = 0; s < n; s++) {
        const unsigned j = unit_of(f, g, s);
        bytes w[INT8_VECS];
#pragma GCC unroll 2
        for (unsigned v = 0; v < INT8_VECS; v++)
            w[v] = codes_of(f, wide, planes, j, v);
#pragma GCC unroll 6
        for (unsigned i = 0; i < m; i++) {
            const bytes x = b_words((int)t[q8_at(j, i, m)]);
#pragma GCC unroll 2
            for (unsigned v = 0; v < INT8_VECS; v++)
                dot[i][v] = dot_u8s8(dot[i][v], w[v], x);
        }
    }
}
