/* Row operations, AVX-512: packing of activations, norms, activations, rotation, caches. */
#include "kernels/x86/avx512.h"

#include <math.h>

static void pack_f32(const float *x, size_t ld, unsigned m, uint32_t k0, uint32_t k1,
                     uint32_t n_cols, void *tile)
{
    float *t = tile;
    uint32_t end = k1 == n_cols ? padded(n_cols) : k1;
    for (unsigned i = 0; i < m; i++)
        for (uint32_t k = k0; k < end; k++)
            t[(size_t)k * m + i] = k < k1 ? x[i * ld + k - k0] : 0;
}

INLINE __m512 load_tail(const float *x, uint32_t left)
{
    return _mm512_maskz_loadu_ps(first_lanes(left), x);
}

/* [Kp / 2][m] pairs. */
static void pack_bf16(const float *x, size_t ld, unsigned m, uint32_t k0, uint32_t k1,
                      uint32_t n_cols, void *tile)
{
    pair *t = tile;
    uint32_t end = k1 == n_cols ? padded(n_cols) : k1;
    for (uint32_t k = k0; k < end; k += 16)
        for (unsigned i = 0; i < m; i++) {
            pair row[8];
            store_pairs(row, load_tail(x + i * ld + (k - k0), k < k1 ? k1 - k : 0));
            for (uint32_t j = 0; j < 8; j++)
                t[(size_t)(k / 2 + j) * m + i] = row[j];
        }
}

/* One block of one row: scale, codes and their sum. */
INLINE void pack_block(const float *row, uint32_t left, uint32_t *words, unsigned m, float *scale,
                       int32_t *sum)
{
    __m512 a = load_tail(row, left), b = load_tail(row + 16, left > 16 ? left - 16 : 0);
    float amax = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(a), _mm512_abs_ps(b)));
    __m512 inverse = _mm512_set1_ps(amax > 0 ? 127.0f / amax : 0);
    const __m512i top = _mm512_set1_epi32(127), bottom = _mm512_set1_epi32(-127);
    __m512i qa = _mm512_cvtps_epi32(_mm512_mul_ps(a, inverse));
    __m512i qb = _mm512_cvtps_epi32(_mm512_mul_ps(b, inverse));
    qa = _mm512_max_epi32(_mm512_min_epi32(qa, top), bottom);
    qb = _mm512_max_epi32(_mm512_min_epi32(qb, top), bottom);
    __m256i bytes = _mm256_set_m128i(_mm512_cvtepi32_epi8(qb), _mm512_cvtepi32_epi8(qa));
    _Alignas(32) uint32_t w[8];
    _mm256_store_si256((__m256i *)w, bytes);
    for (unsigned j = 0; j < 8; j++)
        words[(size_t)j * m] = w[j];
    *scale = amax / 127.0f;
    *sum = _mm512_reduce_add_epi32(_mm512_add_epi32(qa, qb));
}

static void pack_q8(const float *x, size_t ld, unsigned m, uint32_t k0, uint32_t k1,
                    uint32_t n_cols, void *tile)
{
    uint32_t kp = padded(n_cols), end = k1 == n_cols ? kp : k1;
    uint32_t *t = tile;
    float *scale = (float *)((char *)tile + (size_t)kp * m);
    int32_t *sum = (int32_t *)(scale + (size_t)kp / 32 * m);
    for (uint32_t b = k0 / 32; b < end / 32; b++)
        for (unsigned i = 0; i < m; i++) {
            uint32_t left = b * 32 < k1 ? k1 - b * 32 : 0;
            pack_block(x + i * ld + (b * 32 - k0), left, t + (size_t)b * 8 * m + i, m,
                       &scale[(size_t)b * m + i], &sum[(size_t)b * m + i]);
        }
}

static void rms_norm(const float *x, const float *w, uint32_t n, float eps, float *out)
{
    __m512 lanes = _mm512_setzero_ps();
    for (uint32_t i = 0; i < n; i += 16) {
        __m512 v = load_tail(x + i, n - i);
        lanes = _mm512_fmadd_ps(v, v, lanes);
    }
    __m512 factor = _mm512_set1_ps(1.0f / sqrtf(tree16(lanes) / (float)n + eps));
    const __m512 one = _mm512_set1_ps(1.0f);
    for (uint32_t i = 0; i < n; i += 16) {
        __m512 v = _mm512_mul_ps(load_tail(x + i, n - i), factor);
        v = _mm512_mul_ps(v, w ? load_tail(w + i, n - i) : one);
        _mm512_mask_storeu_ps(out + i, first_lanes(n - i), v);
    }
}

INLINE __m512 gelu_tanh16(__m512 x)
{
    __m512 cube = _mm512_mul_ps(_mm512_mul_ps(x, x), x);
    __m512 in = _mm512_add_ps(x, _mm512_mul_ps(_mm512_set1_ps(0.044715f), cube));
    __m512 t = tanh16(_mm512_mul_ps(_mm512_set1_ps(0.797884561f), in));
    return _mm512_mul_ps(_mm512_mul_ps(_mm512_set1_ps(0.5f), x),
                         _mm512_add_ps(_mm512_set1_ps(1.0f), t));
}

INLINE __m512 silu16(__m512 x)
{
    __m512 e = exp16(_mm512_xor_ps(x, _mm512_set1_ps(-0.0f)));
    return _mm512_div_ps(x, _mm512_add_ps(_mm512_set1_ps(1.0f), e));
}

static void glu(enum lodge_activation act, float *g, const float *u, size_t n)
{
    if (act == LODGE_ACT_GELU) { /* erf has no vector form here */
        for (size_t i = 0; i < n; i++)
            g[i] = 0.5f * g[i] * (1.0f + erff(g[i] * 0.707106781f)) * u[i];
        return;
    }
    for (size_t i = 0; i < n; i += 16) {
        uint32_t left = n - i < 16 ? (uint32_t)(n - i) : 16;
        __m512 x = load_tail(g + i, left);
        x = act == LODGE_ACT_SILU ? silu16(x) : gelu_tanh16(x);
        _mm512_mask_storeu_ps(g + i, first_lanes(left), _mm512_mul_ps(x, load_tail(u + i, left)));
    }
}

static void add_block(float *x, size_t ldx, const float *y, size_t ldy, const float *b, float mult,
                      unsigned m, uint32_t n)
{
    const __m512 factor = _mm512_set1_ps(mult);
    for (unsigned i = 0; i < m; i++, x += ldx, y += ldy)
        for (uint32_t j = 0; j < n; j += 16) {
            __m512 v = load_tail(y + j, n - j);
            if (b)
                v = _mm512_add_ps(v, load_tail(b + j, n - j));
            v = _mm512_add_ps(load_tail(x + j, n - j), _mm512_mul_ps(factor, v));
            _mm512_mask_storeu_ps(x + j, first_lanes(n - j), v);
        }
}

static void rope(float *head, const float *cos, const float *sin, uint32_t n)
{
    for (uint32_t i = 0; i < n; i += 16) {
        __m512 a = load_tail(head + i, n - i), b = load_tail(head + n + i, n - i);
        __m512 c = load_tail(cos + i, n - i), s = load_tail(sin + i, n - i);
        __m512 x = _mm512_sub_ps(_mm512_mul_ps(a, c), _mm512_mul_ps(b, s));
        __m512 y = _mm512_add_ps(_mm512_mul_ps(b, c), _mm512_mul_ps(a, s));
        _mm512_mask_storeu_ps(head + i, first_lanes(n - i), x);
        _mm512_mask_storeu_ps(head + n + i, first_lanes(n - i), y);
    }
}

static void to_bf16(const float *x, uint32_t dim, uint32_t dim_padded, uint16_t *out)
{
    for (uint32_t i = 0; i < dim_padded; i += 16) {
        __m512 v = load_tail(x + i, i < dim ? dim - i : 0);
        _mm256_storeu_si256((void *)(out + i), to_bf16x16(v));
    }
}

static void kv_store(uint8_t *kv_head, uint32_t t, const float *k, const float *v, uint32_t dim)
{
    uint32_t dp = (dim + 15) / 16 * 16;
    uint32_t *keys = (uint32_t *)(void *)kv_head;
    uint16_t *values = (uint16_t *)(void *)kv_head + (size_t)dp * 32;
    _Alignas(32) uint16_t half[16];
    for (uint32_t d = 0; d < dp; d += 16) {
        to_bf16(k + d, dim - d < 16 ? dim - d : 16, 16, half);
        for (uint32_t j = 0; j < 8; j++)
            memcpy(&keys[(size_t)(d / 2 + j) * 32 + t], &half[2 * j], 4);
        to_bf16(v + d, dim - d < 16 ? dim - d : 16, 16, half);
        for (uint32_t j = 0; j < 16; j++)
            values[((size_t)(t / 2) * dp + d + j) * 2 + t % 2] = half[j];
    }
}

static uint32_t argmax(const float *x, uint32_t n)
{
    __m512 most = _mm512_set1_ps(-INFINITY);
    for (uint32_t i = 0; i < n; i += 16)
        most = _mm512_mask_max_ps(most, first_lanes(n - i), load_tail(x + i, n - i), most);
    float best = _mm512_reduce_max_ps(most);
    if (!(best > -INFINITY))
        return 0;
    for (uint32_t i = 0; i < n; i += 16) {
        __mmask16 hit = _mm512_mask_cmp_ps_mask(first_lanes(n - i), load_tail(x + i, n - i),
                                                _mm512_set1_ps(best), _CMP_EQ_OQ);
        if (hit)
            return i + (uint32_t)__builtin_ctz(hit);
    }
    return 0;
}

static double exp_sum(const float *x, uint32_t n, float most)
{
    __m512d low = _mm512_setzero_pd(), high = low;
    const __m512 base = _mm512_set1_ps(most);
    for (uint32_t i = 0; i < n; i += 16) {
        __m512 e = exp16(_mm512_sub_ps(load_tail(x + i, n - i), base));
        e = _mm512_maskz_mov_ps(first_lanes(n - i), e);
        low = _mm512_add_pd(low, _mm512_cvtps_pd(_mm512_castps512_ps256(e)));
        high = _mm512_add_pd(high, _mm512_cvtps_pd(_mm512_extractf32x8_ps(e, 1)));
    }
    __m512d v = _mm512_add_pd(low, high);
    __m256d a = _mm256_add_pd(_mm512_castpd512_pd256(v), _mm512_extractf64x4_pd(v, 1));
    __m128d b = _mm_add_pd(_mm256_castpd256_pd128(a), _mm256_extractf128_pd(a, 1));
    return _mm_cvtsd_f64(_mm_add_sd(b, _mm_unpackhi_pd(b, b)));
}

void RUNG(rows)(struct lodge_cpu_kernels *k)
{
    k->act_pack[LODGE_ACT_F32] = pack_f32;
    k->act_pack[LODGE_ACT_BF16] = pack_bf16;
    k->act_pack[LODGE_ACT_Q8] = pack_q8;
    k->rms_norm = rms_norm;
    k->glu = glu;
    k->add_block = add_block;
    k->rope = rope;
    k->to_bf16 = to_bf16;
    k->kv_store = kv_store;
    k->row = (struct lodge_row_ops){exp_sum, argmax};
}
