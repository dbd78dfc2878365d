/* Vectors of the AVX-512 rungs: 16 floats. Included by vec.h.
 *
 * The same sources make two rungs: avx512, with the bf16 dot instructions, and avx512-vnni,
 * without. What differs is at the end: how pairs of bf16 numbers are held and multiplied, and how
 * floats become bf16. Both give the same bits: products of two bf16 numbers are exact in fp32, so
 * the dot instruction equals two fused multiply-adds, odd element first.
 */

#define LANES 16
#define MAX_ROWS 12 /* of activations that a kernel keeps in 32 registers, two vectors each */

typedef __m512 vec;

INLINE __mmask16 first_lanes(uint32_t n)
{
    return n >= 16 ? (__mmask16)0xFFFF : (__mmask16)((1u << n) - 1);
}

INLINE vec v_set(float x)
{
    return _mm512_set1_ps(x);
}

INLINE vec v_load(const float *x)
{
    return _mm512_loadu_ps(x);
}

/* The first `left` floats, zeros after them. */
INLINE vec v_load_tail(const float *x, uint32_t left)
{
    return _mm512_maskz_loadu_ps(first_lanes(left), x);
}

/* The first `left` lanes of v, `other` after them. */
INLINE vec v_first(vec v, uint32_t left, vec other)
{
    return _mm512_mask_blend_ps(first_lanes(left), other, v);
}

/* Lanes [a, b) of v when its first lane is `lane`; `other` elsewhere. */
INLINE vec v_between(vec v, uint32_t lane, uint32_t a, uint32_t b, vec other)
{
    uint32_t below_b = b >= 32 ? UINT32_MAX : (1u << b) - 1;
    uint32_t in = below_b & ~((1u << a) - 1);
    return _mm512_mask_blend_ps((__mmask16)(in >> lane), other, v);
}

INLINE void v_store(float *x, vec v)
{
    _mm512_storeu_ps(x, v);
}

INLINE void v_store_tail(float *x, uint32_t left, vec v)
{
    _mm512_mask_storeu_ps(x, first_lanes(left), v);
}

INLINE vec v_add(vec a, vec b)
{
    return _mm512_add_ps(a, b);
}

INLINE vec v_sub(vec a, vec b)
{
    return _mm512_sub_ps(a, b);
}

INLINE vec v_mul(vec a, vec b)
{
    return _mm512_mul_ps(a, b);
}

INLINE vec v_div(vec a, vec b)
{
    return _mm512_div_ps(a, b);
}

INLINE vec v_fma(vec a, vec b, vec c)
{
    return _mm512_fmadd_ps(a, b, c);
}

/* The second where the first is NaN. */
INLINE vec v_max(vec a, vec b)
{
    return _mm512_max_ps(a, b);
}

INLINE vec v_min(vec a, vec b)
{
    return _mm512_min_ps(a, b);
}

INLINE vec v_abs(vec a)
{
    return _mm512_abs_ps(a);
}

INLINE vec v_negate(vec a)
{
    return _mm512_xor_ps(a, _mm512_set1_ps(-0.0f));
}

/* Nearest integer, even on ties. */
INLINE vec v_round(vec a)
{
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

/* 2^n for integral n in -126 .. 127. */
INLINE vec v_pow2(vec n)
{
    __m512i e = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
    return _mm512_castsi512_ps(_mm512_slli_epi32(e, 23));
}

/* v where x > bound, else 0 (NaN is not above). */
INLINE vec v_where_above(vec x, vec bound, vec v)
{
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, bound, _CMP_GT_OQ), v);
}

/* Whether x > bound in some lane (NaN is not above). */
INLINE bool v_any_above(vec x, vec bound)
{
    return _mm512_cmp_ps_mask(x, bound, _CMP_GT_OQ) != 0;
}

/* For lanes i without bit h: v[i] + v[i + h], and for those with it v[i - h] - v[i]. */
INLINE vec v_butterfly(vec v, const int h)
{
    const __mmask16 upper = h == 1 ? 0xAAAA : h == 2 ? 0xCCCC : h == 4 ? 0xF0F0 : 0xFF00;
    vec other = h == 1   ? _mm512_permute_ps(v, 0xB1)
                : h == 2 ? _mm512_permute_ps(v, 0x4E)
                : h == 4 ? _mm512_shuffle_f32x4(v, v, 0xB1)
                         : _mm512_shuffle_f32x4(v, v, 0x4E);
    return _mm512_mask_sub_ps(_mm512_add_ps(v, other), upper, other, v);
}

INLINE float v_most(vec v)
{
    return _mm512_reduce_max_ps(v);
}

/* lodge_ref_tree16. */
INLINE float tree16(const vec lanes[1])
{
    __m256 a = _mm256_add_ps(_mm512_castps512_ps256(lanes[0]), _mm512_extractf32x8_ps(lanes[0], 1));
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}

/* Sums of neighbouring lanes, the even one first: 8 floats. */
INLINE void store_pair_sums(float *to, const vec lanes[1])
{
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 0, 2, 4, 6, 8, 10, 12, 14);
    const __m512i odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 1, 3, 5, 7, 9, 11, 13, 15);
    vec s =
        _mm512_add_ps(_mm512_permutexvar_ps(even, lanes[0]), _mm512_permutexvar_ps(odd, lanes[0]));
    _mm256_storeu_ps(to, _mm512_castps512_ps256(s));
}

/* 16 lanes of doubles. */
typedef struct {
    __m512d low, high;
} sum16;

INLINE void sum16_add(sum16 *s, const vec x[1])
{
    s->low = _mm512_add_pd(s->low, _mm512_cvtps_pd(_mm512_castps512_ps256(x[0])));
    s->high = _mm512_add_pd(s->high, _mm512_cvtps_pd(_mm512_extractf32x8_ps(x[0], 1)));
}

INLINE double sum16_total(const sum16 *s)
{
    __m512d v = _mm512_add_pd(s->low, s->high);
    __m256d a = _mm256_add_pd(_mm512_castpd512_pd256(v), _mm512_extractf64x4_pd(v, 1));
    __m128d b = _mm_add_pd(_mm256_castpd256_pd128(a), _mm256_extractf128_pd(a, 1));
    return _mm_cvtsd_f64(_mm_add_sd(b, _mm_unpackhi_pd(b, b)));
}

/* Numbers stored as fp16, widened. */
INLINE vec load_half(const uint8_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)p));
}

/* ---- int8 ---- */

#define ACT_ROWS 1
#define DOT_BIAS 0x4B400000 /* DOT_BIAS_FLOAT */

/* 32 codes of 8 bits. */
typedef __m256i codes32;

/* rint(x * inverse) in -127 .. 127 of 32 numbers, in order. */
INLINE codes32 codes_from(const vec x[2], vec inverse)
{
    __m128i half[2];
    for (int h = 0; h < 2; h++)
        half[h] = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(x[h], inverse)));
    return _mm256_max_epi8(_mm256_set_m128i(half[1], half[0]), _mm256_set1_epi8(-127));
}

/* 64 bytes of codes: 4 columns of 16 rows. */
typedef __m512i bytes;

INLINE bytes b_load(const uint8_t *p)
{
    return _mm512_loadu_si512(p);
}

INLINE void b_store(uint8_t *p, bytes b)
{
    _mm512_storeu_si512(p, b);
}

/* 16-bit words shifted to the left, by a negative n to the right. */
INLINE bytes b_shift(bytes b, const int n)
{
    return n > 0   ? _mm512_slli_epi16(b, (unsigned)n)
           : n < 0 ? _mm512_srli_epi16(b, (unsigned)-n)
                   : b;
}

/* The bits of bytes b that come under the mask when they are shifted by n. */
INLINE bytes b_field(bytes b, const int n, const uint32_t mask)
{
    return _mm512_and_si512(b_shift(b, n), _mm512_set1_epi8((char)mask));
}

/* The same in bytes a, which have zeros there. */
INLINE bytes b_or_field(bytes a, bytes b, const int n, const uint32_t mask)
{
    return _mm512_ternarylogic_epi32(a, b_shift(b, n), _mm512_set1_epi8((char)mask), 0xF8);
}

/* table[b] + offset for bytes b < 16. */
INLINE bytes b_lookup(const int8_t table[16], const int offset, bytes b)
{
    __m128i t = _mm_add_epi8(_mm_loadu_si128((const void *)table), _mm_set1_epi8((char)offset));
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(t), b);
}

/* A word in all lanes. */
INLINE bytes b_words(int32_t word)
{
    return _mm512_set1_epi32(word);
}

/* Sums as the floats of their bits. */
INLINE vec b_floats(bytes b)
{
    return _mm512_castsi512_ps(b);
}

/* LANES signed bytes as floats. */
INLINE vec load_s8(const uint8_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)p)));
}

/* The low and the high nibbles of LANES bytes as floats. */
INLINE vec load_low(const uint8_t *p)
{
    __m512i b = _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)p));
    return _mm512_cvtepi32_ps(_mm512_and_si512(b, _mm512_set1_epi32(15)));
}

INLINE vec load_high(const uint8_t *p)
{
    __m512i b = _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)p));
    return _mm512_cvtepi32_ps(_mm512_srli_epi32(b, 4));
}

/* 2^(e - 128) of LANES bytes e, 0 for e < 2. */
INLINE vec load_exponent(const uint8_t *p)
{
    __m128i e = _mm_subs_epu8(_mm_loadu_si128((const void *)p), _mm_set1_epi8(1));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu8_epi32(e), 23));
}

/* A dot product step kept in place: with the intrinsic gcc 12 copies and spills accumulators. */
INLINE bytes dot_u8s8(bytes acc, bytes u8, bytes s8)
{
    __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(u8), "v"(s8));
    return acc;
}

/* Four codes of 15 bits, 128 high + low: signed bytes, and bytes below 128. */
typedef struct {
    uint32_t high, low;
} code4;

/* LANES integer sums of products with codes, of both parts. */
typedef struct {
    __m512i high, low;
} code_sums;

/* A kernel keeps the sums of so many rows in registers; a code is broadcast for so many vectors. */
#define CODE_ROWS 6
#define CODE_VECS 2
#define CODE_SWITCH SWITCH_ROWS_6
#define SUM_START (-128) /* of sums over keys, times the total of a row's codes */

/* LANES codes, from their numbers not yet rounded. */
INLINE void store_codes15(code4 *to, vec x)
{
    __m512i n = _mm512_cvtps_epi32(x);
    __m128i high = _mm512_cvtepi32_epi8(_mm512_srai_epi32(n, 7));
    __m128i low = _mm512_cvtepi32_epi8(_mm512_and_si512(n, _mm512_set1_epi32(127)));
    _mm_storeu_si128((void *)to, _mm_unpacklo_epi32(high, low));
    _mm_storeu_si128((void *)(to + 2), _mm_unpackhi_epi32(high, low));
}

INLINE code_sums sums_from(int32_t start)
{
    return (code_sums){_mm512_setzero_si512(), _mm512_set1_epi32(start)};
}

/* sums += products of 4 signed bytes of w for each lane with 4 codes of each of m rows at x, `row`
 * apart. Keys meet codes of either sign, so 128 is added to them for the instruction, which what
 * the sums start from takes away; values meet positive ones. */
INLINE void dot_codes(code_sums acc[][CODE_VECS], const uint8_t *w, const code4 *x, size_t row,
                      const bool keys, const unsigned m, const unsigned vectors)
{
    __m512i four[2] = {_mm512_loadu_si512(w), _mm512_setzero_si512()};
    if (vectors > 1)
        four[1] = _mm512_loadu_si512(w + 64);
    for (unsigned v = 0; v < 2 && keys; v++)
        four[v] = _mm512_xor_si512(four[v], _mm512_set1_epi8((char)0x80));
#pragma GCC unroll 6
    for (unsigned i = 0; i < m; i++) {
        __m512i high = _mm512_set1_epi32((int)x[i * row].high);
        __m512i low = _mm512_set1_epi32((int)x[i * row].low);
#pragma GCC unroll 2
        for (unsigned v = 0; v < vectors; v++) {
            code_sums *s = &acc[i][v];
            s->high = keys ? dot_u8s8(s->high, four[v], high) : dot_u8s8(s->high, high, four[v]);
            s->low = keys ? dot_u8s8(s->low, four[v], low) : dot_u8s8(s->low, low, four[v]);
        }
    }
}

INLINE vec float_sums(code_sums s)
{
    return _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(s.high, 7), s.low));
}

/* ---- bf16 ---- */

/* LANES numbers, widened. */
INLINE vec load_bf16(const uint8_t *p)
{
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

/* LANES pairs of weights, as stored. */
typedef __m512i pairs;

INLINE pairs load_pairs(const uint8_t *p, uint32_t mask)
{
    __m512i bits = _mm512_loadu_si512(p);
    return mask == UINT32_MAX ? bits : _mm512_and_si512(bits, _mm512_set1_epi32((int)mask));
}

INLINE void store_pairs(uint8_t *p, pairs w)
{
    _mm512_storeu_si512(p, w);
}

/* 32 codes of E4M3 as fp16 numbers 2^-8 of theirs: the exponent's bias differs, the rest is moved.
 */
INLINE __m512i fp8_halves(const uint8_t *p)
{
    __m512i w = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const void *)p));
    return _mm512_and_si512(_mm512_slli_epi16(w, 7), _mm512_set1_epi16((short)0xBF80));
}

/* Two floats of at most 8 significant bits as a pair. */
INLINE pairs exact_pairs(__m256i even, __m256i odd)
{
    __m512i e = _mm512_castps_si512(_mm512_cvtph_ps(even));
    __m512i o = _mm512_castps_si512(_mm512_cvtph_ps(odd));
    return _mm512_or_si512(_mm512_srli_epi32(e, 16), o);
}

/* Pairs of SIDE rows from codes of E4M3: all first elements, then all second ones. The numbers are
 * 2^-8 of the codes'. */
INLINE void load_fp8(const uint8_t *p, pairs *w0, pairs *w1)
{
    __m512i even = fp8_halves(p), odd = fp8_halves(p + SIDE);
    *w0 = exact_pairs(_mm512_castsi512_si256(even), _mm512_castsi512_si256(odd));
    *w1 = exact_pairs(_mm512_extracti64x4_epi64(even, 1), _mm512_extracti64x4_epi64(odd, 1));
}

/* Two pairs of activations in turn. */
INLINE pairs load_quad(const uint16_t *x)
{
    long long four;
    memcpy(&four, x, 8);
    return _mm512_set1_epi64(four);
}

/* The second elements of pairs, widened, and the first. */
INLINE vec odd_of(pairs p)
{
    return _mm512_castsi512_ps(_mm512_and_si512(p, _mm512_set1_epi32((int)0xFFFF0000u)));
}

INLINE vec even_of(pairs p)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(p, 16));
}

#ifdef __AVX512BF16__

#define RUNG(name) lodge_avx512_##name
#define RUNG_FILL lodge_kernels_fill_avx512
#define RUNG_NAME "avx512"
#define RUNG_BELOW lodge_kernels_fill_avx512_vnni
#define ADDS_BF16

/* A pair of activations. */
typedef uint32_t pair;

INLINE void dot_odd(vec acc[][2], pairs w0, pairs w1, const pair *t, size_t row, const unsigned m,
                    const unsigned vectors)
{
#pragma GCC unroll 12
    for (unsigned i = 0; i < m; i++) {
        __m512bh x = (__m512bh)_mm512_set1_epi32((int)t[i * row]);
        acc[i][0] = _mm512_dpbf16_ps(acc[i][0], (__m512bh)w0, x);
        if (vectors > 1)
            acc[i][1] = _mm512_dpbf16_ps(acc[i][1], (__m512bh)w1, x);
    }
}

INLINE vec dot_pairs(vec acc, pairs w, pairs x)
{
    return _mm512_dpbf16_ps(acc, (__m512bh)w, (__m512bh)x);
}

/* The instruction did both. */
INLINE void dot_even(vec acc[][2], pairs w0, pairs w1, const pair *t, size_t row, const unsigned m,
                     const unsigned vectors)
{
    (void)acc, (void)w0, (void)w1, (void)t, (void)row, (void)m, (void)vectors;
}

INLINE void store_bf16(uint16_t *to, vec x)
{
    _mm256_storeu_si256((void *)to, (__m256i)_mm512_cvtneps_pbh(x));
}

/* n rounded numbers, n a multiple of 16, as pairs: where they stand. */
INLINE const pair *as_pairs(const uint16_t *x, size_t n, pair *room)
{
    (void)n;
    (void)room;
    return (const pair *)(const void *)x;
}

#else

#define RUNG(name) lodge_avx512_vnni_##name
#define RUNG_FILL lodge_kernels_fill_avx512_vnni
#define RUNG_NAME "avx512-vnni"

/* A pair of activations, widened: what a multiply-add broadcasts. */
typedef struct {
    float even, odd;
} pair;

INLINE vec dot_pairs(vec acc, pairs w, pairs x)
{
    acc = _mm512_fmadd_ps(odd_of(w), odd_of(x), acc);
    return _mm512_fmadd_ps(even_of(w), even_of(x), acc);
}

INLINE void dot_odd(vec acc[][2], pairs w0, pairs w1, const pair *t, size_t row, const unsigned m,
                    const unsigned vectors)
{
    vec a = odd_of(w0), b = odd_of(w1);
#pragma GCC unroll 12
    for (unsigned i = 0; i < m; i++) {
        vec x = _mm512_set1_ps(t[i * row].odd);
        acc[i][0] = _mm512_fmadd_ps(a, x, acc[i][0]);
        if (vectors > 1)
            acc[i][1] = _mm512_fmadd_ps(b, x, acc[i][1]);
    }
}

INLINE void dot_even(vec acc[][2], pairs w0, pairs w1, const pair *t, size_t row, const unsigned m,
                     const unsigned vectors)
{
    vec a = even_of(w0), b = even_of(w1);
#pragma GCC unroll 12
    for (unsigned i = 0; i < m; i++) {
        vec x = _mm512_set1_ps(t[i * row].even);
        acc[i][0] = _mm512_fmadd_ps(a, x, acc[i][0]);
        if (vectors > 1)
            acc[i][1] = _mm512_fmadd_ps(b, x, acc[i][1]);
    }
}

/* lodge_float_bf16, lane by lane. */
INLINE void store_bf16(uint16_t *to, vec x)
{
    __m512i u = _mm512_castps_si512(x), top = _mm512_srli_epi32(u, 16);
    __m512i odd = _mm512_and_si512(top, _mm512_set1_epi32(1));
    __m512i r = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
    r = _mm512_srli_epi32(r, 16);
    __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    __mmask16 tiny = _mm512_testn_epi32_mask(u, _mm512_set1_epi32(0x7F800000));
    r = _mm512_mask_or_epi32(r, nan, top, _mm512_set1_epi32(0x40));
    r = _mm512_mask_and_epi32(r, tiny, top, _mm512_set1_epi32(0x8000));
    _mm256_storeu_si256((void *)to, _mm512_cvtepi32_epi16(r));
}

/* n rounded numbers, n a multiple of 16, as pairs: widened in `room`. */
INLINE const pair *as_pairs(const uint16_t *x, size_t n, pair *room)
{
    for (size_t i = 0; i < n; i += 16) {
        __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)(x + i)));
        _mm512_storeu_ps(room + i / 2, _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16)));
    }
    return room;
}

#endif
