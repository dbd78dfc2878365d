/* Integer sums of the AVX2 rung: 8 output rows in a vector, up to 4 rows of activations in
 * registers. vpmaddubsw multiplies unsigned by signed bytes and adds neighbours in 16 bits,
 * saturating. Codes of a few bits are unsigned and small: several vectors add up in 16 bits before
 * they are widened. Codes of 8 bits give their sign to the activation: 2 x 128 x 127 = 32512 fits,
 * and each product is widened at once. All sums are exact. Included by int8.c. */

#define INT8_ROWS 4 /* more would not stay in 16 registers */
#define INT8_VECS 1
#define INT8_SWITCH SWITCH_ROWS_4
#define SIGNED_BITS 8
#define TABLE_OFFSET(f) ((f) == LODGE_FMT_MXFP4 ? 16 : 0)

INLINE int code_shift(const enum lodge_format f)
{
    (void)f;
    return 0;
}

INLINE bool has_signed_codes(const enum lodge_format f)
{
    return f == LODGE_FMT_Q8_0 || f == LODGE_FMT_IQ4_NL || f == LODGE_FMT_IQ4_XS;
}

/* Vectors whose products add up in 16 bits: each adds up to 2 x 127 x the greatest code. */
INLINE unsigned vectors_of_sum(const enum lodge_format f)
{
    return lodge_coding(f).bits == 6                           ? 2
           : lodge_coding(f).bits == 5 || f == LODGE_FMT_MXFP4 ? 4
                                                               : 8;
}

/* 2^n = 128 / zero point. */
INLINE int zero_shift(const enum lodge_format f)
{
    const uint32_t zero = f == LODGE_FMT_MXFP4 ? 16 : lodge_coding(f).zero;
    return zero == 4 ? 5 : zero == 8 ? 4 : zero == 16 ? 3 : 2;
}

/* sum += products of unsigned bytes w with the word at x, in 16 bits. With intrinsics gcc 12
 * broadcasts the words of all rows first, for which there are no registers. */
INLINE __m256i add_unsigned(__m256i sum, const uint32_t *x, __m256i w)
{
    __m256i t;
    __asm__("vpbroadcastd %2, %1\n\t"
            "vpmaddubsw %1, %3, %1\n\t"
            "vpaddw %1, %0, %0"
            : "+x"(sum), "=&x"(t)
            : "m"(*x), "x"(w));
    return sum;
}

/* The same of signed bytes w of magnitudes `size`, in 32 bits. */
INLINE __m256i add_signed(__m256i sum, const uint32_t *x, __m256i w, __m256i size, __m256i one)
{
    __m256i t;
    __asm__("vpbroadcastd %2, %1\n\t"
            "vpsignb %3, %1, %1\n\t"
            "vpmaddubsw %1, %4, %1\n\t"
            "vpmaddwd %1, %5, %1\n\t"
            "vpaddd %1, %0, %0"
            : "+x"(sum), "=&x"(t)
            : "m"(*x), "x"(w), "x"(size), "x"(one));
    return sum;
}

INLINE void signed_dots(const enum lodge_format f, const bool wide, const uint8_t *planes,
                        const uint32_t *t, const unsigned g, bytes dot[][INT8_VECS],
                        const unsigned m)
{
    const __m256i one = _mm256_set1_epi16(1);
#pragma GCC unroll 8
    for (unsigned q = 0; q < lodge_coding(f).group / 4; q++) {
        const unsigned j = unit_of(f, g, q);
        __m256i w = codes_of(f, wide, planes, j, 0), size = _mm256_abs_epi8(w);
#pragma GCC unroll 4
        for (unsigned i = 0; i < m; i++)
            dot[i][0] = add_signed(dot[i][0], &t[q8_at(j, i, m)], w, size, one);
    }
}

INLINE void unsigned_dots(const enum lodge_format f, const bool wide, const uint8_t *planes,
                          const uint32_t *t, const unsigned g, bytes dot[][INT8_VECS],
                          const unsigned m)
{
    const unsigned n = lodge_coding(f).group / 4, most = vectors_of_sum(f);
    const unsigned per = most < n ? most : n;
#pragma GCC unroll 8
    for (unsigned s = 0; s < n; s += per) {
        __m256i sum[INT8_ROWS];
#pragma GCC unroll 4
        for (unsigned i = 0; i < m; i++)
            sum[i] = _mm256_setzero_si256();
#pragma GCC unroll 8
        for (unsigned q = s; q < s + per; q++) {
            const unsigned j = unit_of(f, g, q);
            __m256i w = codes_of(f, wide, planes, j, 0);
#pragma GCC unroll 4
            for (unsigned i = 0; i < m; i++)
                sum[i] = add_unsigned(sum[i], &t[q8_at(j, i, m)], w);
        }
#pragma GCC unroll 4
        for (unsigned i = 0; i < m; i++)
            dot[i][0] =
                _mm256_add_epi32(dot[i][0], _mm256_madd_epi16(sum[i], _mm256_set1_epi16(1)));
    }
}

INLINE void dots(const enum lodge_format f, const bool wide, const uint8_t *planes,
                 const uint32_t *t, const unsigned g, bytes dot[][INT8_VECS], const unsigned m)
{
    const struct lodge_coding c = lodge_coding(f);
#pragma GCC unroll 4
    for (unsigned i = 0; i < m; i++)
        dot[i][0] = _mm256_setzero_si256();
    if (has_signed_codes(f))
        signed_dots(f, wide, planes, t, g, dot, m);
    else
        unsigned_dots(f, wide, planes, t, g, dot, m);
    if (c.has_min || has_signed_codes(f))
        return;
#pragma GCC unroll 4
    for (unsigned i = 0; i < m; i++) {
        const uint32_t *start = t + q8_at(Q8_START + (c.group == 32 ? 0 : 1 + g), i, m);
        __m256i zero = _mm256_srai_epi32(_mm256_set1_epi32((int)*start), zero_shift(f));
        dot[i][0] = _mm256_add_epi32(dot[i][0], zero);
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
    return v_fma(w, _mm256_cvtepi32_ps(dot), v_set(0));
}
