/* Integer sums of the AVX-512 rungs: 32 output rows in two vectors, up to 6 rows of activations in
 * registers. The dot instruction takes u8 x s8: formats without a minimum have their codes in the
 * top bits of a byte, or looked up, with zero point 128, which the first value of a sum takes away.
 * Included by int8.c. */

#define INT8_ROWS 6
#define INT8_WIDE 1
#define INT8_VECS 2
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
        dot[i][0] = dot[i][1] =
            _mm512_set1_epi32(c.has_min ? DOT_BIAS : (int)t[q8_at(start, i, m)]);
#pragma GCC unroll 8
    for (unsigned s = 0; s < n; s++) {
        const unsigned j = unit_of(f, g, s);
        bytes w0 = codes_of(f, wide, planes, j, 0), w1 = codes_of(f, wide, planes, j, 1);
#pragma GCC unroll 6
        for (unsigned i = 0; i < m; i++) {
            __m512i x = _mm512_set1_epi32((int)t[q8_at(j, i, m)]);
            dot[i][0] = dot_u8s8(dot[i][0], w0, x);
            dot[i][1] = dot_u8s8(dot[i][1], w1, x);
        }
    }
}
