/* Vectors of the NEON rungs: 8 floats in two registers. Included by vec.h; the same vocabulary as
 * vec_avx2.h, with the same results for every input, NaN included.
 *
 * The same sources make two rungs: neon-i8mm, with integer matrix products and bf16 multiply-adds,
 * and neon-dotprod, without. What differs is how pairs of bf16 numbers are multiplied, how floats
 * become bf16, and the form of Q8 tiles. BFMLALT and BFMLALB widen and fuse exactly as the two
 * multiply-adds that they stand for, and flush as these do.
 * A pair of columns of 6 rows and 16 output rows takes 61 instructions instead of 89, 48 of them
 * multiply-adds. BFMMLA and BFDOT round otherwise and are not used. One file, as those of the other
 * instruction sets: a vocabulary of short functions, most of them the same for both rungs. */

#if defined(__ARM_FEATURE_MATMUL_INT8) && defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#define NEON_I8MM 1
#define RUNG(name) lodge_neon_i8mm_##name
#define RUNG_FILL lodge_kernels_fill_neon_i8mm
#define RUNG_NAME "neon-i8mm"
#define ACT_ROWS 2
#else
#define RUNG(name) lodge_neon_dotprod_##name
#define RUNG_FILL lodge_kernels_fill_neon_dotprod
#define RUNG_NAME "neon-dotprod"
#define ACT_ROWS 1
#endif
#define LANES 8
#define MAX_ROWS 6 /* of activations that a kernel keeps in 32 registers, two vectors each */

typedef struct {
    float32x4_t v[2];
} vec;

#define EACH_HALF(expression)                                                                      \
    vec out;                                                                                       \
    for (int h = 0; h < 2; h++)                                                                    \
        out.v[h] = (expression);                                                                   \
    return out

INLINE void fetch(const void *p)
{
    __builtin_prefetch(p, 0, 2);
}

INLINE vec v_set(float x)
{
    EACH_HALF(vdupq_n_f32(x));
}

INLINE vec v_load(const float *x)
{
    EACH_HALF(vld1q_f32(x + 4 * h));
}

INLINE void v_store(float *x, vec v)
{
    vst1q_f32(x, v.v[0]);
    vst1q_f32(x + 4, v.v[1]);
}

INLINE float32x4_t load4_tail(const float *x, uint32_t left)
{
    float32x4_t v = vdupq_n_f32(0);
    if (left >= 4)
        return vld1q_f32(x);
    if (left & 2)
        v = vcombine_f32(vld1_f32(x), vget_low_f32(v));
    if (left == 3)
        v = vld1q_lane_f32(x + 2, v, 2);
    else if (left == 1)
        v = vld1q_lane_f32(x, v, 0);
    return v;
}

/* The first `left` floats, zeros after them. */
INLINE vec v_load_tail(const float *x, uint32_t left)
{
    if (left >= LANES)
        return v_load(x);
    return (vec){{load4_tail(x, left), load4_tail(x + 4, left > 4 ? left - 4 : 0)}};
}

INLINE void store4_tail(float *x, uint32_t left, float32x4_t v)
{
    if (left >= 4)
        vst1q_f32(x, v);
    else if (left & 2)
        vst1_f32(x, vget_low_f32(v));
    if (left == 3)
        vst1q_lane_f32(x + 2, v, 2);
    else if (left == 1)
        vst1q_lane_f32(x, v, 0);
}

INLINE void v_store_tail(float *x, uint32_t left, vec v)
{
    if (left >= LANES) {
        v_store(x, v);
        return;
    }
    store4_tail(x, left, v.v[0]);
    store4_tail(x + 4, left > 4 ? left - 4 : 0, v.v[1]);
}

/* Numbers of the lanes of half h, the first of all being `lane`. */
INLINE int32x4_t lane_numbers(uint32_t lane, int h)
{
    static const int32_t first[4] = {0, 1, 2, 3};
    return vaddq_s32(vdupq_n_s32((int32_t)lane + 4 * h), vld1q_s32(first));
}

/* Lanes [a, b) of v when its first lane is `lane`; `other` elsewhere. */
INLINE vec v_between(vec v, uint32_t lane, uint32_t a, uint32_t b, vec other)
{
    EACH_HALF(vbslq_f32(vandq_u32(vcgeq_s32(lane_numbers(lane, h), vdupq_n_s32((int32_t)a)),
                                  vcltq_s32(lane_numbers(lane, h), vdupq_n_s32((int32_t)b))),
                        v.v[h], other.v[h]));
}

/* The first `left` lanes of v, `other` after them. */
INLINE vec v_first(vec v, uint32_t left, vec other)
{
    return v_between(v, 0, 0, left < LANES ? left : LANES, other);
}

INLINE vec v_add(vec a, vec b)
{
    EACH_HALF(vaddq_f32(a.v[h], b.v[h]));
}

INLINE vec v_sub(vec a, vec b)
{
    EACH_HALF(vsubq_f32(a.v[h], b.v[h]));
}

INLINE vec v_mul(vec a, vec b)
{
    EACH_HALF(vmulq_f32(a.v[h], b.v[h]));
}

INLINE vec v_div(vec a, vec b)
{
    EACH_HALF(vdivq_f32(a.v[h], b.v[h]));
}

INLINE vec v_fma(vec a, vec b, vec c)
{
    EACH_HALF(vfmaq_f32(c.v[h], a.v[h], b.v[h]));
}

INLINE float32x4_t greater4(float32x4_t a, float32x4_t b)
{
    return vbslq_f32(vcgtq_f32(a, b), a, b);
}

/* The second where the first is NaN. */
INLINE vec v_max(vec a, vec b)
{
    EACH_HALF(greater4(a.v[h], b.v[h]));
}

INLINE vec v_min(vec a, vec b)
{
    EACH_HALF(vbslq_f32(vcltq_f32(a.v[h], b.v[h]), a.v[h], b.v[h]));
}

INLINE vec v_abs(vec a)
{
    EACH_HALF(vabsq_f32(a.v[h]));
}

INLINE vec v_negate(vec a)
{
    EACH_HALF(vnegq_f32(a.v[h]));
}

/* Nearest integer, even on ties. */
INLINE vec v_round(vec a)
{
    EACH_HALF(vrndnq_f32(a.v[h]));
}

/* 2^n for integral n in -126 .. 127. */
INLINE vec v_pow2(vec n)
{
    EACH_HALF(vreinterpretq_f32_s32(
        vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(n.v[h]), vdupq_n_s32(127)), 23)));
}

/* v where x > bound, else 0 (NaN is not above). */
INLINE vec v_where_above(vec x, vec bound, vec v)
{
    EACH_HALF(vreinterpretq_f32_u32(
        vandq_u32(vcgtq_f32(x.v[h], bound.v[h]), vreinterpretq_u32_f32(v.v[h]))));
}

/* Whether x > bound in some lane (NaN is not above). */
INLINE bool v_any_above(vec x, vec bound)
{
    uint32x4_t above = vcgtq_f32(x.v[0], bound.v[0]);
    return vmaxvq_u32(vorrq_u32(above, vcgtq_f32(x.v[1], bound.v[1]))) != 0;
}

/* For lanes i without bit h: v[i] + v[i + h], and for those with it v[i - h] - v[i]. */
INLINE vec v_butterfly(vec v, const int bit)
{
    if (bit == 4)
        return (vec){{vaddq_f32(v.v[0], v.v[1]), vsubq_f32(v.v[0], v.v[1])}};
    static const uint32_t upper[2][4] = {{0, ~0u, 0, ~0u}, {0, 0, ~0u, ~0u}};
    vec other;
    for (int h = 0; h < 2; h++)
        other.v[h] = bit == 1 ? vrev64q_f32(v.v[h]) : vextq_f32(v.v[h], v.v[h], 2);
    EACH_HALF(vbslq_f32(vld1q_u32(upper[bit - 1]), vsubq_f32(other.v[h], v.v[h]),
                        vaddq_f32(v.v[h], other.v[h])));
}

INLINE float v_most(vec v)
{
    float32x4_t a = greater4(v.v[0], v.v[1]);
    a = greater4(a, vextq_f32(a, a, 2));
    return vgetq_lane_f32(greater4(a, vextq_f32(a, a, 1)), 0);
}

/* lodge_ref_tree16. */
INLINE float tree16(const vec lanes[2])
{
    vec a = v_add(lanes[0], lanes[1]);
    float32x4_t b = vaddq_f32(a.v[0], a.v[1]);
    float32x2_t c = vadd_f32(vget_low_f32(b), vget_high_f32(b));
    return vget_lane_f32(c, 0) + vget_lane_f32(c, 1);
}

/* Sums of neighbouring lanes, the even one first: 8 floats. */
INLINE void store_pair_sums(float *to, const vec lanes[2])
{
    vst1q_f32(to, vpaddq_f32(lanes[0].v[0], lanes[0].v[1]));
    vst1q_f32(to + 4, vpaddq_f32(lanes[1].v[0], lanes[1].v[1]));
}

/* 16 lanes of doubles. */
typedef struct {
    float64x2_t v[8];
} sum16;

INLINE void sum16_add(sum16 *s, const vec x[2])
{
    for (int q = 0; q < 4; q++) {
        float32x4_t four = x[q / 2].v[q % 2];
        s->v[2 * q] = vaddq_f64(s->v[2 * q], vcvt_f64_f32(vget_low_f32(four)));
        s->v[2 * q + 1] = vaddq_f64(s->v[2 * q + 1], vcvt_high_f64_f32(four));
    }
}

INLINE double sum16_total(const sum16 *s)
{
    float64x2_t half[2];
    for (int h = 0; h < 2; h++)
        half[h] = vaddq_f64(vaddq_f64(s->v[h], s->v[h + 4]), vaddq_f64(s->v[h + 2], s->v[h + 6]));
    float64x2_t b = vaddq_f64(half[0], half[1]);
    return vgetq_lane_f64(b, 0) + vgetq_lane_f64(b, 1);
}

/* Numbers stored as fp16, widened. */
INLINE vec load_half(const uint8_t *p)
{
    EACH_HALF(vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p + 8 * h))));
}

/* ---- bf16 ---- */

/* LANES numbers, widened. */
INLINE vec load_bf16(const uint8_t *p)
{
    EACH_HALF(vreinterpretq_f32_u32(vshll_n_u16(vreinterpret_u16_u8(vld1_u8(p + 8 * h)), 16)));
}

/* LANES pairs of weights. */
typedef struct {
    uint32x4_t v[2];
} pairs;

INLINE pairs load_pairs(const uint8_t *p, uint32_t mask)
{
    pairs out;
    for (int h = 0; h < 2; h++)
        out.v[h] = vandq_u32(vreinterpretq_u32_u8(vld1q_u8(p + 16 * h)), vdupq_n_u32(mask));
    return out;
}

INLINE void store_pairs(uint8_t *p, pairs w)
{
    vst1q_u8(p, vreinterpretq_u8_u32(w.v[0]));
    vst1q_u8(p + 16, vreinterpretq_u8_u32(w.v[1]));
}

/* 8 codes of E4M3 as fp16 numbers 2^-8 of theirs: the exponent's bias differs, the rest is moved.
 */
INLINE float16x8_t fp8_halves(const uint8_t *p)
{
    int16x8_t moved = vshll_n_s8(vld1_s8((const int8_t *)p), 7);
    return vreinterpretq_f16_u16(vandq_u16(vreinterpretq_u16_s16(moved), vdupq_n_u16(0xBF80)));
}

/* Two floats of at most 8 significant bits as a pair. */
INLINE uint32x4_t exact_pairs(float16x4_t even, float16x4_t odd)
{
    return vsriq_n_u32(vreinterpretq_u32_f32(vcvt_f32_f16(odd)),
                       vreinterpretq_u32_f32(vcvt_f32_f16(even)), 16);
}

INLINE pairs fp8_pairs(const uint8_t *p)
{
    float16x8_t even = fp8_halves(p), odd = fp8_halves(p + SIDE);
    return (pairs){{exact_pairs(vget_low_f16(even), vget_low_f16(odd)),
                    exact_pairs(vget_high_f16(even), vget_high_f16(odd))}};
}

/* Pairs of SIDE rows from codes of E4M3: all first elements, then all second ones. The numbers are
 * 2^-8 of the codes'. */
INLINE void load_fp8(const uint8_t *p, pairs *w0, pairs *w1)
{
    *w0 = fp8_pairs(p);
    *w1 = fp8_pairs(p + LANES);
}

/* Two pairs of activations in turn. */
INLINE pairs load_quad(const uint16_t *x)
{
    uint64_t four;
    memcpy(&four, x, 8);
    uint32x4_t both = vreinterpretq_u32_u64(vdupq_n_u64(four));
    return (pairs){{both, both}};
}

/* The second elements of pairs, widened, and the first. */
INLINE vec odd_of(pairs p)
{
    EACH_HALF(vreinterpretq_f32_u32(vandq_u32(p.v[h], vdupq_n_u32(0xFFFF0000u))));
}

INLINE vec even_of(pairs p)
{
    EACH_HALF(vreinterpretq_f32_u32(vshlq_n_u32(p.v[h], 16)));
}

#ifdef NEON_I8MM

/* A pair of activations. */
typedef uint32_t pair;

INLINE bfloat16x8_t as_bf16(uint32x4_t p)
{
    return vreinterpretq_bf16_u32(p);
}

INLINE vec dot_pairs(vec acc, pairs w, pairs x)
{
    for (int h = 0; h < 2; h++) {
        acc.v[h] = vbfmlaltq_f32(acc.v[h], as_bf16(w.v[h]), as_bf16(x.v[h]));
        acc.v[h] = vbfmlalbq_f32(acc.v[h], as_bf16(w.v[h]), as_bf16(x.v[h]));
    }
    return acc;
}

/* Both multiply-adds with the pair x. By hand, because gcc 12 takes for x what the instruction
 * cannot name: a register past the 16th. */
INLINE vec dot_lane_pair(vec acc, pairs w, float x)
{
    for (int h = 0; h < 2; h++)
        __asm__("bfmlalt %0.4s, %1.8h, %2.h[1]" : "+w"(acc.v[h]) : "w"(w.v[h]), "x"(x));
    for (int h = 0; h < 2; h++)
        __asm__("bfmlalb %0.4s, %1.8h, %2.h[0]" : "+w"(acc.v[h]) : "w"(w.v[h]), "x"(x));
    return acc;
}

INLINE void dot_odd(vec acc[][2], pairs w0, pairs w1, const pair *t, size_t row, const unsigned m,
                    const unsigned vectors)
{
#pragma GCC unroll 6
    for (unsigned i = 0; i < m; i++) {
        const float x = *(const float *)(const void *)(t + i * row);
        acc[i][0] = dot_lane_pair(acc[i][0], w0, x);
        if (vectors > 1)
            acc[i][1] = dot_lane_pair(acc[i][1], w1, x);
    }
}

/* Done with the odd ones: numbers of the pairs need not stay in registers in between. */
INLINE void dot_even(vec acc[][2], pairs w0, pairs w1, const pair *t, size_t row, const unsigned m,
                     const unsigned vectors)
{
    (void)acc, (void)w0, (void)w1, (void)t, (void)row, (void)m, (void)vectors;
}

INLINE void store_bf16(uint16_t *to, vec x)
{
    bfloat16x8_t out = vcvtq_high_bf16_f32(vcvtq_low_bf16_f32(x.v[0]), x.v[1]);
    vst1q_u16(to, vreinterpretq_u16_bf16(out));
}

/* n rounded numbers, n a multiple of 16, as pairs: where they stand. */
INLINE const pair *as_pairs(const uint16_t *x, size_t n, pair *room)
{
    (void)n;
    (void)room;
    return (const pair *)(const void *)x;
}

#else

/* A pair of activations, widened: what a multiply-add broadcasts. */
typedef struct {
    float even, odd;
} pair;

INLINE vec dot_pairs(vec acc, pairs w, pairs x)
{
    acc = v_fma(odd_of(w), odd_of(x), acc);
    return v_fma(even_of(w), even_of(x), acc);
}

INLINE void dot_odd(vec acc[][2], pairs w0, pairs w1, const pair *t, size_t row, const unsigned m,
                    const unsigned vectors)
{
    vec a = odd_of(w0), b = odd_of(w1);
#pragma GCC unroll 6
    for (unsigned i = 0; i < m; i++) {
        vec x = v_set(t[i * row].odd);
        acc[i][0] = v_fma(a, x, acc[i][0]);
        if (vectors > 1)
            acc[i][1] = v_fma(b, x, acc[i][1]);
    }
}

INLINE void dot_even(vec acc[][2], pairs w0, pairs w1, const pair *t, size_t row, const unsigned m,
                     const unsigned vectors)
{
    vec a = even_of(w0), b = even_of(w1);
#pragma GCC unroll 6
    for (unsigned i = 0; i < m; i++) {
        vec x = v_set(t[i * row].even);
        acc[i][0] = v_fma(a, x, acc[i][0]);
        if (vectors > 1)
            acc[i][1] = v_fma(b, x, acc[i][1]);
    }
}

/* lodge_float_bf16, four lanes. */
INLINE uint16x4_t bf16_of(float32x4_t x)
{
    uint32x4_t u = vreinterpretq_u32_f32(x), top = vshrq_n_u32(u, 16);
    uint32x4_t odd = vandq_u32(top, vdupq_n_u32(1));
    uint32x4_t r = vshrq_n_u32(vaddq_u32(u, vaddq_u32(odd, vdupq_n_u32(0x7FFF))), 16);
    uint32x4_t number = vceqq_f32(x, x);
    uint32x4_t tiny = vceqzq_u32(vandq_u32(u, vdupq_n_u32(0x7F800000)));
    r = vbslq_u32(number, r, vorrq_u32(top, vdupq_n_u32(0x40)));
    return vmovn_u32(vbslq_u32(tiny, vandq_u32(top, vdupq_n_u32(0x8000)), r));
}

INLINE void store_bf16(uint16_t *to, vec x)
{
    vst1_u16(to, bf16_of(x.v[0]));
    vst1_u16(to + 4, bf16_of(x.v[1]));
}

/* n rounded numbers, n a multiple of 16, as pairs: widened in `room`. */
INLINE const pair *as_pairs(const uint16_t *x, size_t n, pair *room)
{
    float *to = (float *)room;
    for (size_t i = 0; i < n; i += 4)
        vst1q_f32(to + i, vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(x + i), 16)));
    return room;
}

#endif

/* ---- int8 ---- */

#define DOT_BIAS 0x4B400000 /* DOT_BIAS_FLOAT */

/* 32 codes of 8 bits. */
typedef struct {
    int8x16_t half[2];
} codes32;

/* rint(x * inverse) in -127 .. 127 of 32 numbers, in order. */
INLINE codes32 codes_from(const vec x[4], vec inverse)
{
    codes32 c;
    for (uint32_t h = 0; h < 2; h++) {
        int16x8_t eight[2];
        for (uint32_t j = 0; j < 2; j++) {
            const vec *part = &x[2 * h + j];
            int32x4_t low = vcvtnq_s32_f32(vmulq_f32(part->v[0], inverse.v[0]));
            int32x4_t high = vcvtnq_s32_f32(vmulq_f32(part->v[1], inverse.v[1]));
            eight[j] = vcombine_s16(vqmovn_s32(low), vqmovn_s32(high));
        }
        c.half[h] =
            vmaxq_s8(vcombine_s8(vqmovn_s16(eight[0]), vqmovn_s16(eight[1])), vdupq_n_s8(-127));
    }
    return c;
}

INLINE void store_codes(void *to, codes32 c)
{
    vst1q_s8(to, c.half[0]);
    vst1q_s8((int8_t *)to + 16, c.half[1]);
}

/* Of the whole block, of its first and of its second half. */
INLINE void sums_of_codes(codes32 c, int32_t sum[3])
{
    sum[1] = vaddlvq_s8(c.half[0]);
    sum[2] = vaddlvq_s8(c.half[1]);
    sum[0] = sum[1] + sum[2];
}

/* Four codes of 15 bits, 128 high + low: signed bytes, and bytes below 128. */
typedef struct {
    uint32_t high, low;
} code4;

/* LANES integer sums of products with codes, of both parts. */
typedef struct {
    int32x4_t high[2], low[2];
} code_sums;

/* A kernel keeps the sums of so many rows in registers; a code is broadcast for so many vectors. */
#define CODE_ROWS 6
#define CODE_VECS 1
#define CODE_SWITCH SWITCH_ROWS_6
#define SUM_START 0

/* LANES codes, from their numbers not yet rounded. */
INLINE void store_codes15(code4 *to, vec x)
{
    int16x8_t n =
        vcombine_s16(vmovn_s32(vcvtnq_s32_f32(x.v[0])), vmovn_s32(vcvtnq_s32_f32(x.v[1])));
    uint32x2x2_t parts = {{vreinterpret_u32_s8(vmovn_s16(vshrq_n_s16(n, 7))),
                           vreinterpret_u32_s8(vmovn_s16(vandq_s16(n, vdupq_n_s16(127))))}};
    vst2_u32(&to->high, parts);
}

INLINE code_sums sums_from(int32_t start)
{
    (void)start;
    int32x4_t zero = vdupq_n_s32(0);
    return (code_sums){{zero, zero}, {zero, zero}};
}

/* sums += products of 4 signed bytes of w for each lane with 4 codes of each of m rows at x, `row`
 * apart. */
INLINE void dot_codes(code_sums acc[][CODE_VECS], const uint8_t *w, const code4 *x, size_t row,
                      const bool keys, const unsigned m, const unsigned vectors)
{
    (void)keys, (void)vectors;
    int8x16_t four[2] = {vld1q_s8((const int8_t *)w), vld1q_s8((const int8_t *)w + 16)};
#pragma GCC unroll 6
    for (unsigned i = 0; i < m; i++) {
        int8x16_t high = vreinterpretq_s8_u32(vdupq_n_u32(x[i * row].high));
        int8x16_t low = vreinterpretq_s8_u32(vdupq_n_u32(x[i * row].low));
        for (int h = 0; h < 2; h++) {
            acc[i][0].high[h] = vdotq_s32(acc[i][0].high[h], four[h], high);
            acc[i][0].low[h] = vdotq_s32(acc[i][0].low[h], four[h], low);
        }
    }
}

INLINE vec float_sums(code_sums s)
{
    EACH_HALF(vcvtq_f32_s32(vaddq_s32(vshlq_n_s32(s.high[h], 7), s.low[h])));
}

/* 32 bytes of codes: 4 columns of 8 rows; or 8 integer sums. */
typedef struct {
    uint8x16_t v[2];
} bytes;

#define EACH_BYTES(expression)                                                                     \
    bytes out;                                                                                     \
    for (int h = 0; h < 2; h++)                                                                    \
        out.v[h] = (expression);                                                                   \
    return out

INLINE bytes b_load(const uint8_t *p)
{
    EACH_BYTES(vld1q_u8(p + 16 * h));
}

INLINE void b_store(uint8_t *p, bytes b)
{
    vst1q_u8(p, b.v[0]);
    vst1q_u8(p + 16, b.v[1]);
}

/* Shifted to the left, by a negative n to the right. */
INLINE bytes b_shift(bytes b, const int n)
{
    EACH_BYTES(n > 0 ? b.v[h] << n : b.v[h] >> -n);
}

/* The bits of bytes b that come under the mask when they are shifted by n. */
INLINE bytes b_field(bytes b, const int n, const uint32_t mask)
{
    const uint32_t left = n > 0 ? 0xFFu << n & 0xFF : 0xFFu >> -n;
    b = b_shift(b, n);
    if ((left & ~mask) == 0)
        return b;
    EACH_BYTES(vandq_u8(b.v[h], vdupq_n_u8((uint8_t)mask)));
}

/* The same in bytes a, which have zeros there. */
INLINE bytes b_or_field(bytes a, bytes b, const int n, const uint32_t mask)
{
    b = b_shift(b, n);
    EACH_BYTES(vbslq_u8(vdupq_n_u8((uint8_t)mask), b.v[h], a.v[h]));
}

/* table[b] + offset for bytes b < 16. */
INLINE bytes b_lookup(const int8_t table[16], const int offset, bytes b)
{
    int8x16_t t = vaddq_s8(vld1q_s8(table), vdupq_n_s8((int8_t)offset));
    EACH_BYTES(vreinterpretq_u8_s8(vqtbl1q_s8(t, b.v[h])));
}

/* Sums as the floats of their bits. */
INLINE vec b_floats(bytes b)
{
    EACH_HALF(vreinterpretq_f32_u8(b.v[h]));
}

/* Half h of LANES 16-bit integers as floats. */
INLINE float32x4_t float4_of(int16x8_t n, int h)
{
    return vcvtq_f32_s32(vmovl_s16(h ? vget_high_s16(n) : vget_low_s16(n)));
}

/* LANES signed bytes as floats. */
INLINE vec load_s8(const uint8_t *p)
{
    EACH_HALF(float4_of(vmovl_s8(vld1_s8((const int8_t *)p)), h));
}

INLINE vec floats_of(uint8x8_t b)
{
    EACH_HALF(float4_of(vreinterpretq_s16_u16(vmovl_u8(b)), h));
}

/* The low and the high nibbles of LANES bytes as floats. */
INLINE vec load_low(const uint8_t *p)
{
    return floats_of(vand_u8(vld1_u8(p), vdup_n_u8(15)));
}

INLINE vec load_high(const uint8_t *p)
{
    return floats_of(vshr_n_u8(vld1_u8(p), 4));
}

/* 2^(e - 128) of LANES bytes e, 0 for e < 2. */
INLINE vec load_exponent(const uint8_t *p)
{
    uint16x8_t e = vmovl_u8(vqsub_u8(vld1_u8(p), vdup_n_u8(1)));
    EACH_HALF(
        vreinterpretq_f32_u32(vshlq_n_u32(vmovl_u16(h ? vget_high_u16(e) : vget_low_u16(e)), 23)));
}
