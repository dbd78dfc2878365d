/* Matrix products, AVX-512: 32 output rows in two vectors, up to 12 (float, bf16) or 6 (int8) rows
 * of activations in registers. Bounds: bytes of the panel at few rows; 2 dot instructions a cycle
 * at many. Layouts of panels: F32, F16  [Kp][32] BF16      [Kp / 2][32][2] Q8_0      per block:
 * fp16 scale [32]; u8 [8][32][4] = code + 128 Q4_0      per block: fp16 scale [32]; u8 [4][32][4],
 * low nibble k = 4j + i, high k = 16 + 4j + i Q4_1      as Q4_0 with fp16 minimum [32] after the
 * scales Unsigned codes, because the dot instruction takes u8 x s8; the zero point is subtracted by
 * the initial value of the integer accumulator. */
#include "kernels/x86/common_avx512.h"

/* ---- float and bf16
 * ---------------------------------------------------------------------------------------- */

INLINE void store_tile(__m512 acc[][2], unsigned m, float *out, size_t ld)
{
#pragma GCC unroll 12
    for (unsigned i = 0; i < m; i++) {
        _mm512_storeu_ps(out + i * ld, acc[i][0]);
        _mm512_storeu_ps(out + i * ld + 16, acc[i][1]);
    }
}

INLINE void bf16_rows(const uint8_t *panel, uint32_t kp, const uint32_t *t, float *out, size_t ld,
                      struct ahead next, const unsigned m)
{
    __m512 acc[12][2];
#pragma GCC unroll 12
    for (unsigned i = 0; i < m; i++)
        acc[i][0] = acc[i][1] = _mm512_setzero_ps();
    for (uint32_t k = 0; k < kp / 2; k++, panel += 128, t += m) {
        __m512bh w0 = (__m512bh)_mm512_loadu_si512(panel);
        __m512bh w1 = (__m512bh)_mm512_loadu_si512(panel + 64);
        fetch_line(&next);
#pragma GCC unroll 12
        for (unsigned i = 0; i < m; i++) {
            __m512bh x = (__m512bh)_mm512_set1_epi32((int)t[i]);
            acc[i][0] = _mm512_dpbf16_ps(acc[i][0], w0, x);
            acc[i][1] = _mm512_dpbf16_ps(acc[i][1], w1, x);
        }
    }
    store_tile(acc, m, out, ld);
}

static void tile_bf16(const void *panel, uint32_t n_cols, const void *tile, unsigned m, float *out,
                      size_t ld, const void *next, size_t next_bytes){
#define CALL(n) bf16_rows(panel, padded(n_cols), tile, out, ld, ahead_of(next, next_bytes), n)
    SWITCH_ROWS_12(m, CALL)
#undef CALL
}

INLINE void float_rows(const uint8_t *panel, uint32_t kp, const float *t, float *out, size_t ld,
                       struct ahead next, bool half, const unsigned m)
{
    __m512 acc[12][2];
#pragma GCC unroll 12
    for (unsigned i = 0; i < m; i++)
        acc[i][0] = acc[i][1] = _mm512_setzero_ps();
    for (uint32_t k = 0; k < kp; k++, panel += half ? 64 : 128, t += m) {
        __m512 w0 = half ? _mm512_cvtph_ps(_mm256_loadu_si256((const void *)panel))
                         : _mm512_loadu_ps(panel);
        __m512 w1 = half ? _mm512_cvtph_ps(_mm256_loadu_si256((const void *)(panel + 32)))
                         : _mm512_loadu_ps(panel + 64);
        fetch_line(&next);
#pragma GCC unroll 12
        for (unsigned i = 0; i < m; i++) {
            __m512 x = _mm512_set1_ps(t[i]);
            acc[i][0] = _mm512_fmadd_ps(w0, x, acc[i][0]);
            acc[i][1] = _mm512_fmadd_ps(w1, x, acc[i][1]);
        }
    }
    store_tile(acc, m, out, ld);
}

static void tile_f32(const void *panel, uint32_t n_cols, const void *tile, unsigned m, float *out,
                     size_t ld, const void *next, size_t next_bytes)
{
#define CALL(n)                                                                                    \
    float_rows(panel, padded(n_cols), tile, out, ld, ahead_of(next, next_bytes), false, n)
    SWITCH_ROWS_12(m, CALL)
#undef CALL
}

static void tile_f16(const void *panel, uint32_t n_cols, const void *tile, unsigned m, float *out,
                     size_t ld, const void *next, size_t next_bytes){
#define CALL(n)                                                                                    \
    float_rows(panel, padded(n_cols), tile, out, ld, ahead_of(next, next_bytes), true, n)
    SWITCH_ROWS_12(m, CALL)
#undef CALL
}

/* ---- int8
   ----------------------------------------------------------------------------------------------------
 */

/* One block's exact integer sums of all rows, zero point included. */
INLINE void dots_q8(const uint8_t *codes, const uint32_t *t, const int32_t *sum, const unsigned m,
                    __m512i dot[][2], struct ahead *next)
{
#pragma GCC unroll 6
    for (unsigned i = 0; i < m; i++)
        dot[i][0] = dot[i][1] = _mm512_set1_epi32(-128 * sum[i]);
#pragma GCC unroll 8
    for (unsigned j = 0; j < 8; j++) {
        __m512i w0 = _mm512_loadu_si512(codes + j * 128);
        __m512i w1 = _mm512_loadu_si512(codes + j * 128 + 64);
        fetch_line(next);
        fetch_line(next);
#pragma GCC unroll 6
        for (unsigned i = 0; i < m; i++) {
            __m512i x = _mm512_set1_epi32((int)t[j * m + i]);
            dot[i][0] = dot_u8s8(dot[i][0], w0, x);
            dot[i][1] = dot_u8s8(dot[i][1], w1, x);
        }
    }
}

INLINE void dots_q4(const uint8_t *codes, const uint32_t *t, const int32_t *sum, int zero,
                    const unsigned m, __m512i dot[][2], struct ahead *next)
{
    const __m512i low = _mm512_set1_epi8(15);
#pragma GCC unroll 6
    for (unsigned i = 0; i < m; i++)
        dot[i][0] = dot[i][1] = zero ? _mm512_set1_epi32(-zero * sum[i]) : _mm512_setzero_si512();
#pragma GCC unroll 4
    for (unsigned j = 0; j < 4; j++) {
        __m512i b0 = _mm512_loadu_si512(codes + j * 128);
        __m512i b1 = _mm512_loadu_si512(codes + j * 128 + 64);
        __m512i l0 = _mm512_and_si512(b0, low), l1 = _mm512_and_si512(b1, low);
        __m512i h0 = _mm512_and_si512(_mm512_srli_epi16(b0, 4), low);
        __m512i h1 = _mm512_and_si512(_mm512_srli_epi16(b1, 4), low);
        fetch_line(next);
        fetch_line(next);
#pragma GCC unroll 6
        for (unsigned i = 0; i < m; i++) {
            __m512i x = _mm512_set1_epi32((int)t[j * m + i]);
            __m512i y = _mm512_set1_epi32((int)t[(4 + j) * m + i]);
            dot[i][0] = dot_u8s8(dot[i][0], l0, x);
            dot[i][1] = dot_u8s8(dot[i][1], l1, x);
            dot[i][0] = dot_u8s8(dot[i][0], h0, y);
            dot[i][1] = dot_u8s8(dot[i][1], h1, y);
        }
    }
}

INLINE void int8_rows(const uint8_t *panel, uint32_t kp, const uint8_t *tile, float *out, size_t ld,
                      struct ahead next, enum lodge_format f, const unsigned m)
{
    const uint32_t *t = (const uint32_t *)(const void *)tile;
    const float *scale = (const float *)(const void *)(tile + (size_t)kp * m);
    const int32_t *sum = (const int32_t *)(const void *)(scale + (size_t)kp / 32 * m);
    __m512 acc[6][2];
#pragma GCC unroll 6
    for (unsigned i = 0; i < m; i++)
        acc[i][0] = acc[i][1] = _mm512_setzero_ps();
    for (uint32_t b = 0; b < kp / 32; b++, t += 8 * m, scale += m, sum += m) {
        __m512i dot[6][2];
        __m512 w0 = _mm512_cvtph_ps(_mm256_loadu_si256((const void *)panel));
        __m512 w1 = _mm512_cvtph_ps(_mm256_loadu_si256((const void *)(panel + 32)));
        if (f == LODGE_FMT_Q8_0)
            dots_q8(panel + 64, t, sum, m, dot, &next);
        else
            dots_q4(panel + (f == LODGE_FMT_Q4_1 ? 128 : 64), t, sum, f == LODGE_FMT_Q4_1 ? 0 : 8,
                    m, dot, &next);
#pragma GCC unroll 6
        for (unsigned i = 0; i < m; i++) {
            __m512 d = _mm512_set1_ps(scale[i]);
            acc[i][0] =
                _mm512_fmadd_ps(_mm512_mul_ps(w0, d), _mm512_cvtepi32_ps(dot[i][0]), acc[i][0]);
            acc[i][1] =
                _mm512_fmadd_ps(_mm512_mul_ps(w1, d), _mm512_cvtepi32_ps(dot[i][1]), acc[i][1]);
        }
        if (f == LODGE_FMT_Q4_1) {
            __m512 m0 = _mm512_cvtph_ps(_mm256_loadu_si256((const void *)(panel + 64)));
            __m512 m1 = _mm512_cvtph_ps(_mm256_loadu_si256((const void *)(panel + 96)));
#pragma GCC unroll 6
            for (unsigned i = 0; i < m; i++) {
                __m512 ds = _mm512_set1_ps(scale[i] * (float)sum[i]);
                acc[i][0] = _mm512_fmadd_ps(m0, ds, acc[i][0]);
                acc[i][1] = _mm512_fmadd_ps(m1, ds, acc[i][1]);
            }
        }
        panel += f == LODGE_FMT_Q8_0 ? 1088 : f == LODGE_FMT_Q4_0 ? 576 : 640;
    }
    store_tile(acc, m, out, ld);
}

#define INT8_TILE(name, format)                                                                    \
    static void name(const void *panel, uint32_t n_cols, const void *tile, unsigned m, float *out, \
                     size_t ld, const void *next, size_t next_bytes)                               \
    {                                                                                              \
        SWITCH_ROWS_6(m, CALL_##format)                                                            \
    }
#define CALL_Q8_0(n)                                                                               \
    int8_rows(panel, padded(n_cols), tile, out, ld, ahead_of(next, next_bytes), LODGE_FMT_Q8_0, n)
#define CALL_Q4_0(n)                                                                               \
    int8_rows(panel, padded(n_cols), tile, out, ld, ahead_of(next, next_bytes), LODGE_FMT_Q4_0, n)
#define CALL_Q4_1(n)                                                                               \
    int8_rows(panel, padded(n_cols), tile, out, ld, ahead_of(next, next_bytes), LODGE_FMT_Q4_1, n)
INT8_TILE(tile_q8_0, Q8_0)
INT8_TILE(tile_q4_0, Q4_0)
INT8_TILE(tile_q4_1, Q4_1)

/* ---- packing and gathering
 * ------------------------------------------------------------------------------------ */

static void pack_words(const uint8_t *const rows[32], uint32_t n_cols, uint8_t *panel, size_t size,
                       uint32_t group)
{
    memset(panel, 0, (size_t)padded(n_cols) * 32 * size);
    for (uint32_t r = 0; r < 32; r++)
        for (uint32_t k = 0; rows[r] && k < n_cols; k++)
            memcpy(panel + (((size_t)(k / group) * 32 + r) * group + k % group) * size,
                   rows[r] + k * size, size);
}

static void pack_f32(const uint8_t *const rows[32], uint32_t n_cols, void *panel)
{
    pack_words(rows, n_cols, panel, 4, 1);
}

static void pack_f16(const uint8_t *const rows[32], uint32_t n_cols, void *panel)
{
    pack_words(rows, n_cols, panel, 2, 1);
}

static void pack_bf16(const uint8_t *const rows[32], uint32_t n_cols, void *panel)
{
    pack_words(rows, n_cols, panel, 2, 2);
}

static void pack_q8_0(const uint8_t *const rows[32], uint32_t n_cols, void *panel)
{
    uint8_t *p = panel;
    for (uint32_t b = 0; b < n_cols / 32; b++, p += 1088)
        for (uint32_t r = 0; r < 32; r++) {
            const uint8_t *src = rows[r] ? rows[r] + (size_t)b * 34 : NULL;
            memset(p + 2 * r, 0, 2);
            if (src)
                memcpy(p + 2 * r, src, 2);
            for (uint32_t k = 0; k < 32; k++)
                p[64 + (k / 4 * 32 + r) * 4 + k % 4] = (uint8_t)((src ? src[2 + k] : 0) + 128);
        }
}

/* Low nibble of byte k holds element k, the high one element k + 16: as stored. */
static void pack_q4(const uint8_t *const rows[32], uint32_t n_cols, uint8_t *p, uint32_t head)
{
    uint32_t stored = head + 16, block = head * 32 + 512;
    for (uint32_t b = 0; b < n_cols / 32; b++, p += block)
        for (uint32_t r = 0; r < 32; r++) {
            const uint8_t *src = rows[r] ? rows[r] + (size_t)b * stored : NULL;
            for (uint32_t h = 0; h < head; h++)
                p[h / 2 * 64 + 2 * r + h % 2] = src ? src[h] : 0;
            for (uint32_t k = 0; k < 16; k++)
                p[head * 32 + (k / 4 * 32 + r) * 4 + k % 4] = src ? src[head + k] : 0;
        }
}

static void pack_q4_0(const uint8_t *const rows[32], uint32_t n_cols, void *panel)
{
    pack_q4(rows, n_cols, panel, 2);
}

static void pack_q4_1(const uint8_t *const rows[32], uint32_t n_cols, void *panel)
{
    pack_q4(rows, n_cols, panel, 4);
}

/* Rebuilds the stored row and lets the format decode it. */
static void gather_words(enum lodge_format f, const uint8_t *panel, uint32_t n_cols, uint32_t r,
                         size_t size, uint32_t group, float *out)
{
    for (uint32_t k = 0; k < n_cols; k++)
        lodge_format_decode(f, panel + (((size_t)(k / group) * 32 + r) * group + k % group) * size,
                            1, out + k);
}

static void gather_f32(const void *panel, uint32_t n_cols, uint32_t r, float *out)
{
    gather_words(LODGE_FMT_F32, panel, n_cols, r, 4, 1, out);
}

static void gather_f16(const void *panel, uint32_t n_cols, uint32_t r, float *out)
{
    gather_words(LODGE_FMT_F16, panel, n_cols, r, 2, 1, out);
}

static void gather_bf16(const void *panel, uint32_t n_cols, uint32_t r, float *out)
{
    gather_words(LODGE_FMT_BF16, panel, n_cols, r, 2, 2, out);
}

static void gather_q8_0(const void *panel, uint32_t n_cols, uint32_t r, float *out)
{
    const uint8_t *p = panel;
    uint8_t block[34];
    for (uint32_t b = 0; b < n_cols / 32; b++, p += 1088) {
        memcpy(block, p + 2 * r, 2);
        for (uint32_t k = 0; k < 32; k++)
            block[2 + k] = (uint8_t)(p[64 + (k / 4 * 32 + r) * 4 + k % 4] - 128);
        lodge_format_decode(LODGE_FMT_Q8_0, block, 32, out + 32 * b);
    }
}

static void gather_q4(enum lodge_format f, const uint8_t *p, uint32_t n_cols, uint32_t r,
                      uint32_t head, float *out)
{
    uint8_t block[20];
    for (uint32_t b = 0; b < n_cols / 32; b++, p += head * 32 + 512) {
        for (uint32_t h = 0; h < head; h++)
            block[h] = p[h / 2 * 64 + 2 * r + h % 2];
        for (uint32_t k = 0; k < 16; k++)
            block[head + k] = p[head * 32 + (k / 4 * 32 + r) * 4 + k % 4];
        lodge_format_decode(f, block, 32, out + 32 * b);
    }
}

static void gather_q4_0(const void *panel, uint32_t n_cols, uint32_t r, float *out)
{
    gather_q4(LODGE_FMT_Q4_0, panel, n_cols, r, 2, out);
}

static void gather_q4_1(const void *panel, uint32_t n_cols, uint32_t r, float *out)
{
    gather_q4(LODGE_FMT_Q4_1, panel, n_cols, r, 4, out);
}

void lodge_avx512_gemm(struct lodge_cpu_kernels *k)
{
    k->gemm[LODGE_FMT_F32] = (struct lodge_gemm){12, pack_f32, tile_f32, gather_f32};
    k->gemm[LODGE_FMT_F16] = (struct lodge_gemm){12, pack_f16, tile_f16, gather_f16};
    k->gemm[LODGE_FMT_BF16] = (struct lodge_gemm){12, pack_bf16, tile_bf16, gather_bf16};
    k->gemm[LODGE_FMT_Q8_0] = (struct lodge_gemm){6, pack_q8_0, tile_q8_0, gather_q8_0};
    k->gemm[LODGE_FMT_Q4_0] = (struct lodge_gemm){6, pack_q4_0, tile_q4_0, gather_q4_0};
    k->gemm[LODGE_FMT_Q4_1] = (struct lodge_gemm){6, pack_q4_1, tile_q4_1, gather_q4_1};
}
