/* Vectors of the AVX2 rungs: 8 floats. Included by vec.h.
 *
 * The same sources make two rungs: avx2, and avx2-vnni (LODGE_VNNI), with the dot instructions of
 * AVX-VNNI. AVX-512 has these, too, in an encoding of its own (LODGE_EVEX), in which tests run the
 * rung on machines without AVX-VNNI. */

#ifdef LODGE_VNNI
#define RUNG(name) lodge_avx2_vnni_##name
#define RUNG_FILL lodge_kernels_fill_avx2_vnni
#define RUNG_NAME "avx2-vnni"
#define RUNG_BELOW lodge_kernels_fill_avx2
#define ADDS_DOTS
#ifdef LODGE_EVEX
#define VNNI "%{evex%} "
#else
#define VNNI "%{vex%} "
#endif
#else
#define RUNG(name) lodge_avx2_##name
#define RUNG_FILL lodge_kernels_fill_avx2
#define RUNG_NAME "avx2"
#endif
#define LANES 8
#define MAX_ROWS 6 /* of activations that a kernel keeps in 16 registers, two vectors each */

typedef __m256 vec;

INLINE __m256i first_lanes(uint32_t n)
{
    static const int32_t window[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
    return _mm256_loadu_si256((const void *)(window + 8 - (n < 8 ? n : 8)));
}

INLINE vec v_set(float x)
{
    return _mm256_set1_ps(x);
}

INLINE vec v_load(const float *x)
{
    return _mm256_loadu_ps(x);
}

/* The first `left` floats, zeros after them. */
INLINE vec v_load_tail(const float *x, uint32_t left)
{
    return left >= LANES ? _mm256_loadu_ps(x) : _mm256_maskload_ps(x, first_lanes(left));
}

/* The first `left` lanes of v, `other` after them. */
INLINE vec v_first(vec v, uint32_t left, vec other)
{
    return _mm256_blendv_ps(other, v, _mm256_castsi256_ps(first_lanes(left)));
}

/* Lanes [a, b) of v when its first lane is `lane`; `other` elsewhere. */
INLINE vec v_between(vec v, uint32_t lane, uint32_t a, uint32_t b, vec other)
{
    __m256i t =
        _mm256_add_epi32(_mm256_set1_epi32((int)lane), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    __m256i in = _mm256_and_si256(_mm256_cmpgt_epi32(t, _mm256_set1_epi32((int)a - 1)),
                                  _mm256_cmpgt_epi32(_mm256_set1_epi32((int)b), t));
    return _mm256_blendv_ps(other, v, _mm256_castsi256_ps(in));
}

INLINE void v_store(float *x, vec v)
{
    _mm256_storeu_ps(x, v);
}

INLINE void v_store_tail(float *x, uint32_t left, vec v)
{
    if (left >= LANES)
        _mm256_storeu_ps(x, v);
    else
        _mm256_maskstore_ps(x, first_lanes(left), v);
}

INLINE vec v_add(vec a, vec b)
{
    return _mm256_add_ps(a, b);
}

INLINE vec v_sub(vec a, vec b)
{
    return _mm256_sub_ps(a, b);
}

INLINE vec v_mul(vec a, vec b)
{
    return _mm256_mul_ps(a, b);
}

INLINE vec v_div(vec a, vec b)
{
    return _mm256_div_ps(a, b);
}

INLINE vec v_fma(vec a, vec b, vec c)
{
    return _mm256_fmadd_ps(a, b, c);
}

/* The second where the first is NaN. */
INLINE vec v_max(vec a, vec b)
{
    return _mm256_max_ps(a, b);
}

INLINE vec v_min(vec a, vec b)
{
    return _mm256_min_ps(a, b);
}

INLINE vec v_abs(vec a)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a);
}

INLINE vec v_negate(vec a)
{
    return _mm256_xor_ps(a, _mm256_set1_ps(-0.0f));
}

/* Nearest integer, even on ties. */
INLINE vec v_round(vec a)
{
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

/* 2^n for integral n in -126 .. 127. */
INLINE vec v_pow2(vec n)
{
    __m256i e = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(e, 23));
}

/* v where x > bound, else 0 (NaN is not above). */
INLINE vec v_where_above(vec x, vec bound, vec v)
{
    return _mm256_and_ps(_mm256_cmp_ps(x, bound, _CMP_GT_OQ), v);
}

/* Whether x > bound in some lane (NaN is not above). */
INLINE bool v_any_above(vec x, vec bound)
{
    return _mm256_movemask_ps(_mm256_cmp_ps(x, bound, _CMP_GT_OQ)) != 0;
}

/* For lanes i without bit h: v[i] + v[i + h], and for those with it v[i - h] - v[i]. */
INLINE vec v_butterfly(vec v, const int h)
{
    vec other = h == 1   ? _mm256_permute_ps(v, 0xB1)
                : h == 2 ? _mm256_permute_ps(v, 0x4E)
                         : _mm256_permute2f128_ps(v, v, 1);
    vec sum = _mm256_add_ps(v, other), difference = _mm256_sub_ps(other, v);
    return h == 1   ? _mm256_blend_ps(sum, difference, 0xAA)
           : h == 2 ? _mm256_blend_ps(sum, difference, 0xCC)
                    : _mm256_blend_ps(sum, difference, 0xF0);
}

INLINE float v_most(vec v)
{
    __m128 a = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    a = _mm_max_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_max_ss(a, _mm_movehdup_ps(a)));
}

/* lodge_ref_tree16. */
INLINE float tree16(const vec lanes[2])
{
    __m256 a = _mm256_add_ps(lanes[0], lanes[1]);
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}

/* Sums of neighbouring lanes, the even one first: 8 floats. */
INLINE void store_pair_sums(float *to, const vec lanes[2])
{
    __m256d s = _mm256_castps_pd(_mm256_hadd_ps(lanes[0], lanes[1]));
    _mm256_storeu_ps(to, _mm256_castpd_ps(_mm256_permute4x64_pd(s, 0xD8)));
}

/* 16 lanes of doubles. */
typedef struct {
    __m256d v[4];
} sum16;

INLINE void sum16_add(sum16 *s, const vec x[2])
{
    for (int h = 0; h < 2; h++) {
        s->v[2 * h] = _mm256_add_pd(s->v[2 * h], _mm256_cvtps_pd(_mm256_castps256_ps128(x[h])));
        s->v[2 * h + 1] =
            _mm256_add_pd(s->v[2 * h + 1], _mm256_cvtps_pd(_mm256_extractf128_ps(x[h], 1)));
    }
}

INLINE double sum16_total(const sum16 *s)
{
    __m256d a = _mm256_add_pd(_mm256_add_pd(s->v[0], s->v[2]), _mm256_add_pd(s->v[1], s->v[3]));
    __m128d b = _mm_add_pd(_mm256_castpd256_pd128(a), _mm256_extractf128_pd(a, 1));
    return _mm_cvtsd_f64(_mm_add_sd(b, _mm_unpackhi_pd(b, b)));
}

/* Numbers stored as fp16, widened. */
INLINE vec load_half(const uint8_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const void *)p));
}

/* ---- bf16 ---- */

/* LANES numbers, widened. */
INLINE vec load_bf16(const uint8_t *p)
{
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

/* A pair of activations, widened: what a multiply-add broadcasts. */
typedef struct {
    float even, odd;
} pair;
/* LANES pairs of weights. */
typedef __m256i pairs;

INLINE pairs load_pairs(const uint8_t *p, uint32_t mask)
{
    __m256i bits = _mm256_loadu_si256((const void *)p);
    return mask == UINT32_MAX ? bits : _mm256_and_si256(bits, _mm256_set1_epi32((int)mask));
}

INLINE void store_pairs(uint8_t *p, pairs w)
{
    _mm256_storeu_si256((void *)p, w);
}

/* 16 codes of E4M3 as fp16 numbers 2^-8 of theirs: the exponent's bias differs, the rest is moved.
 */
INLINE __m256i fp8_halves(const uint8_t *p)
{
    __m256i w = _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)p));
    return _mm256_and_si256(_mm256_slli_epi16(w, 7), _mm256_set1_epi16((short)0xBF80));
}

/* Two floats of at most 8 significant bits as a pair. */
INLINE pairs exact_pairs(__m128i even, __m128i odd)
{
    __m256i e = _mm256_castps_si256(_mm256_cvtph_ps(even));
    __m256i o = _mm256_castps_si256(_mm256_cvtph_ps(odd));
    return _mm256_or_si256(_mm256_srli_epi32(e, 16), o);
}

/* Pairs of SIDE rows from codes of E4M3: all first elements, then all second ones. The numbers are
 * 2^-8 of the codes'. */
INLINE void load_fp8(const uint8_t *p, pairs *w0, pairs *w1)
{
    __m256i even = fp8_halves(p), odd = fp8_halves(p + SIDE);
    *w0 = exact_pairs(_mm256_castsi256_si128(even), _mm256_castsi256_si128(odd));
    *w1 = exact_pairs(_mm256_extracti128_si256(even, 1), _mm256_extracti128_si256(odd, 1));
}

/* Two pairs of activations in turn. */
INLINE pairs load_quad(const uint16_t *x)
{
    long long four;
    memcpy(&four, x, 8);
    return _mm256_set1_epi64x(four);
}

/* The second elements of pairs, widened, and the first. */
INLINE vec odd_of(pairs p)
{
    return _mm256_castsi256_ps(_mm256_and_si256(p, _mm256_set1_epi32((int)0xFFFF0000u)));
}

INLINE vec even_of(pairs p)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(p, 16));
}

INLINE vec dot_pairs(vec acc, pairs w, pairs x)
{
    acc = _mm256_fmadd_ps(odd_of(w), odd_of(x), acc);
    return _mm256_fmadd_ps(even_of(w), even_of(x), acc);
}

INLINE void dot_odd(vec acc[][2], pairs w0, pairs w1, const pair *t, size_t row, const unsigned m,
                    const unsigned vectors)
{
    vec a = odd_of(w0), b = odd_of(w1);
#pragma GCC unroll 6
    for (unsigned i = 0; i < m; i++) {
        vec x = _mm256_broadcast_ss(&t[i * row].odd);
        acc[i][0] = _mm256_fmadd_ps(a, x, acc[i][0]);
        if (vectors > 1)
            acc[i][1] = _mm256_fmadd_ps(b, x, acc[i][1]);
    }
}

INLINE void dot_even(vec acc[][2], pairs w0, pairs w1, const pair *t, size_t row, const unsigned m,
                     const unsigned vectors)
{
    vec a = even_of(w0), b = even_of(w1);
#pragma GCC unroll 6
    for (unsigned i = 0; i < m; i++) {
        vec x = _mm256_broadcast_ss(&t[i * row].even);
        acc[i][0] = _mm256_fmadd_ps(a, x, acc[i][0]);
        if (vectors > 1)
            acc[i][1] = _mm256_fmadd_ps(b, x, acc[i][1]);
    }
}

/* lodge_float_bf16, lane by lane. */
INLINE void store_bf16(uint16_t *to, vec x)
{
    const __m256i exponent = _mm256_set1_epi32(0x7F800000);
    __m256i u = _mm256_castps_si256(x), top = _mm256_srli_epi32(u, 16);
    __m256i odd = _mm256_and_si256(top, _mm256_set1_epi32(1));
    __m256i r = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
    r = _mm256_srli_epi32(r, 16);
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    __m256i tiny = _mm256_cmpeq_epi32(_mm256_and_si256(u, exponent), _mm256_setzero_si256());
    r = _mm256_blendv_epi8(r, _mm256_or_si256(top, _mm256_set1_epi32(0x40)), nan);
    r = _mm256_blendv_epi8(r, _mm256_and_si256(top, _mm256_set1_epi32(0x8000)), tiny);
    __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(r), _mm256_extracti128_si256(r, 1));
    _mm_storeu_si128((void *)to, words);
}

/* n rounded numbers, n a multiple of 16, as pairs: widened in `room`. */
INLINE const pair *as_pairs(const uint16_t *x, size_t n, pair *room)
{
    for (size_t i = 0; i < n; i += 8) {
        __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)(x + i)));
        _mm256_storeu_ps((float *)(room + i / 2), _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16)));
    }
    return room;
}

/* ---- int8 ---- */

#define ACT_ROWS 1
#ifdef LODGE_VNNI
#define DOT_BIAS 0x4B400000 /* DOT_BIAS_FLOAT */
#else
#define DOT_BIAS 0
#endif

/* 32 codes of 8 bits. */
typedef __m256i codes32;

/* rint(x * inverse) in -127 .. 127 of 32 numbers, in order. */
INLINE codes32 codes_from(const vec x[4], vec inverse)
{
    __m256i q[4];
    for (uint32_t j = 0; j < 4; j++)
        q[j] = _mm256_cvtps_epi32(_mm256_mul_ps(x[j], inverse));
    /* Packs saturate, and work by halves of the vectors: the permutation puts groups of 4 in
     * order. */
    __m256i bytes =
        _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
    bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    return _mm256_max_epi8(bytes, _mm256_set1_epi8(-127));
}

/* Four codes of 15 bits. */
typedef struct {
    int16_t of[4];
} code4;

/* LANES integer sums of products with codes: of pairs of products, each half for half the lanes. */
typedef struct {
    __m256i half[2];
} code_sums;

/* A kernel keeps the sums of so many rows in registers; a code is broadcast for so many vectors. */
#define CODE_ROWS 4
#define CODE_VECS 1
#define CODE_SWITCH SWITCH_ROWS_4
#define SUM_START 0

/* LANES codes, from their numbers not yet rounded. */
INLINE void store_codes15(code4 *to, vec x)
{
    __m256i n = _mm256_cvtps_epi32(x);
    __m128i codes = _mm_packs_epi32(_mm256_castsi256_si128(n), _mm256_extracti128_si256(n, 1));
    _mm_storeu_si128((void *)to, codes);
}

INLINE code_sums sums_from(int32_t start)
{
    (void)start;
    return (code_sums){{_mm256_setzero_si256(), _mm256_setzero_si256()}};
}

/* sums += products of pairs of words. */
INLINE __m256i add_pairs(__m256i sums, __m256i a, __m256i b)
{
#ifdef LODGE_VNNI
    __asm__(VNNI "vpdpwssd %2, %1, %0" : "+x"(sums) : "x"(a), "x"(b));
    return sums;
#else
    return _mm256_add_epi32(sums, _mm256_madd_epi16(a, b));
#endif
}

/* sums += products of 4 signed bytes of w for each lane with 4 codes of each of m rows at x, `row`
 * apart. */
INLINE void dot_codes(code_sums acc[][CODE_VECS], const uint8_t *w, const code4 *x, size_t row,
                      const bool keys, const unsigned m, const unsigned vectors)
{
    (void)keys, (void)vectors;
    __m256i low = _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)w));
    __m256i high = _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)(w + 16)));
#pragma GCC unroll 6
    for (unsigned i = 0; i < m; i++) {
        long long four;
        memcpy(&four, &x[i * row], sizeof four);
        __m256i codes = _mm256_set1_epi64x(four), *half = acc[i][0].half;
        half[0] = add_pairs(half[0], low, codes);
        half[1] = add_pairs(half[1], high, codes);
    }
}

INLINE vec float_sums(code_sums s)
{
    __m256i n = _mm256_hadd_epi32(s.half[0], s.half[1]);
    return _mm256_cvtepi32_ps(_mm256_permute4x64_epi64(n, 0xD8));
}

/* 32 bytes of codes: 4 columns of 8 rows. */
typedef __m256i bytes;

INLINE bytes b_load(const uint8_t *p)
{
    return _mm256_loadu_si256((const void *)p);
}

#ifdef LODGE_VNNI
INLINE void b_store(uint8_t *p, bytes b)
{
    _mm256_storeu_si256((void *)p, b);
}

/* A word in all lanes. */
INLINE bytes b_words(int32_t word)
{
    return _mm256_set1_epi32(word);
}

/* Sums as the floats of their bits. */
INLINE vec b_floats(bytes b)
{
    return _mm256_castsi256_ps(b);
}

/* A dot product step kept in place: with the intrinsic gcc 12 copies and spills accumulators. */
INLINE bytes dot_u8s8(bytes acc, bytes u8, bytes s8)
{
    __asm__(VNNI "vpdpbusd %2, %1, %0" : "+x"(acc) : "x"(u8), "x"(s8));
    return acc;
}
#endif

/* 16-bit words shifted to the left, by a negative n to the right. */
INLINE bytes b_shift(bytes b, const int n)
{
    return n > 0 ? _mm256_slli_epi16(b, n) : n < 0 ? _mm256_srli_epi16(b, -n) : b;
}

/* The bits of bytes b that come under the mask when they are shifted by n. */
INLINE bytes b_field(bytes b, const int n, const uint32_t mask)
{
    return _mm256_and_si256(b_shift(b, n), _mm256_set1_epi8((char)mask));
}

/* The same in bytes a, which have zeros there. */
INLINE bytes b_or_field(bytes a, bytes b, const int n, const uint32_t mask)
{
    return _mm256_or_si256(a, b_field(b, n, mask));
}

/* table[b] + offset for bytes b < 16. */
INLINE bytes b_lookup(const int8_t table[16], const int offset, bytes b)
{
    __m128i t = _mm_add_epi8(_mm_loadu_si128((const void *)table), _mm_set1_epi8((char)offset));
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(t), b);
}

/* LANES signed bytes as floats. */
INLINE vec load_s8(const uint8_t *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)p)));
}

/* The low and the high nibbles of LANES bytes as floats. */
INLINE vec load_low(const uint8_t *p)
{
    __m256i b = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)p));
    return _mm256_cvtepi32_ps(_mm256_and_si256(b, _mm256_set1_epi32(15)));
}

INLINE vec load_high(const uint8_t *p)
{
    __m256i b = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)p));
    return _mm256_cvtepi32_ps(_mm256_srli_epi32(b, 4));
}

/* 2^(e - 128) of LANES bytes e, 0 for e < 2. */
INLINE vec load_exponent(const uint8_t *p)
{
    __m128i e = _mm_subs_epu8(_mm_loadl_epi64((const void *)p), _mm_set1_epi8(1));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu8_epi32(e), 23));
}
