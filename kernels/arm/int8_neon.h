/* Integer sums of the NEON rung: 8 output rows in a vector of two registers, up to 4 rows of
 * activations in registers. The dot product instruction (SDOT) multiplies signed bytes: Q8_0 and
 * looked-up codes are signed; the others, of at most 6 bits, are so as they stand, and the first
 * value of a sum takes their zero point away. All sums are exact. Included by int8.c. */

#define INT8_ROWS 4
#define INT8_VECS 1
#define INT8_SWITCH SWITCH_ROWS_4
#define Q8_0_FLIP 0x80
#define TABLE_OFFSET(f) 0

INLINE int code_shift(const enum lodge_format f)
{
    (void)f;
    return 0;
}

/* What the sum of row i of m starts from: minus the zero point times the sum of its codes. */
INLINE int32x4_t start_of(const enum lodge_format f, const uint32_t *t, const unsigned g,
                          const unsigned i, const unsigned m)
{
    const struct lodge_coding c = lodge_coding(f);
    if (c.has_min || c.has_table || c.bits == 8)
        return vdupq_n_s32(0);
    const unsigned at = Q8_START + (c.group == 32 ? 0 : 1 + g);
    return vdupq_n_s32((int32_t)t[at * m + i]) >> (7 - __builtin_ctz(c.zero));
}

INLINE void dots(const enum lodge_format f, const bool wide, const uint8_t *planes,
                 const uint32_t *t, const unsigned g, bytes dot[][INT8_VECS], const unsigned m)
{
#pragma GCC unroll 4
    for (unsigned i = 0; i < m; i++)
        dot[i][0].v[0] = dot[i][0].v[1] = vreinterpretq_u8_s32(start_of(f, t, g, i, m));
#pragma GCC unroll 8
    for (unsigned s = 0; s < lodge_coding(f).group / 4; s++) {
        const unsigned j = unit_of(f, g, s);
        bytes w = codes_of(f, wide, planes, j, 0);
#pragma GCC unroll 4
        for (unsigned i = 0; i < m; i++)
            dot[i][0] = dot_s8s8(dot[i][0], w, t[j * m + i]);
    }
}

INLINE vec bias_of(vec w)
{
    return w;
}

/* fma(w, sum, 0). */
INLINE vec scaled(const enum lodge_format f, vec w, bytes dot, vec bias)
{
    (void)f, (void)bias;
    vec sum = {{vcvtq_f32_s32(vreinterpretq_s32_u8(dot.v[0])),
                vcvtq_f32_s32(vreinterpretq_s32_u8(dot.v[1]))}};
    return v_fma(w, sum, v_set(0));
}
