/* Row operations, AVX2: packing of activations, norms, activations, rotation, caches. */
#include "kernels/x86/avx2.h"

#include <math.h>

/* F32 keeps the reference's layout and code: it only moves floats. */

/* [Kp / 2][m] pairs. */
static void pack_bf16(const float *x, size_t ld, unsigned m, uint32_t k0, uint32_t k1,
                      uint32_t n_cols, void *tile)
{
    pair *t = tile;
    uint32_t end = k1 == n_cols ? padded(n_cols) : k1;
    for (uint32_t k = k0; k < end; k += 8)
        for (unsigned i = 0; i < m; i++) {
            uint32_t left = k < k1 ? k1 - k : 0, words[4];
            _mm_storeu_si128((void *)words, to_bf16x8(load_tail(x + i * ld + (k - k0), left)));
            for (uint32_t j = 0; j < 4; j++)
                t[(size_t)(k / 2 + j) * m + i] = pair_of(words[j]);
        }
}

INLINE __m256i code8(__m256 x, __m256 inverse)
{
    __m256i q = _mm256_cvtps_epi32(_mm256_mul_ps(x, inverse));
    q = _mm256_min_epi32(q, _mm256_set1_epi32(127));
    return _mm256_max_epi32(q, _mm256_set1_epi32(-127));
}

INLINE int32_t sum8(__m256i v)
{
    __m128i a = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    a = _mm_add_epi32(a, _mm_shuffle_epi32(a, 0x4E));
    return _mm_cvtsi128_si32(_mm_add_epi32(a, _mm_shuffle_epi32(a, 0xB1)));
}

/* One block of one row: scale, codes and their sum. */
INLINE void pack_block(const float *row, uint32_t left, uint32_t *words, unsigned m, float *scale,
                       int32_t *sum)
{
    const __m256 sign = _mm256_set1_ps(-0.0f);
    __m256 x[4], most = _mm256_setzero_ps();
    for (uint32_t j = 0; j < 4; j++) {
        x[j] = load_tail(row + 8 * j, left > 8 * j ? left - 8 * j : 0);
        most = _mm256_max_ps(most, _mm256_andnot_ps(sign, x[j]));
    }
    float amax = max8(most);
    __m256 inverse = _mm256_set1_ps(amax > 0 ? 127.0f / amax : 0);
    __m256i q[4], total = _mm256_setzero_si256();
    for (uint32_t j = 0; j < 4; j++) {
        q[j] = code8(x[j], inverse);
        total = _mm256_add_epi32(total, q[j]);
    }
    /* Packs work by halves of the vectors: the permutation puts groups of 4 in order. */
    __m256i bytes =
        _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
    bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    uint32_t w[8];
    _mm256_storeu_si256((void *)w, bytes);
    for (unsigned j = 0; j < 8; j++)
        words[(size_t)j * m] = w[j];
    *scale = amax / 127.0f;
    *sum = sum8(total);
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
    __m256 low = _mm256_setzero_ps(), high = low;
    for (uint32_t i = 0; i < n; i += 16) {
        __m256 a = load_tail(x + i, n - i), b = load_tail(x + i + 8, n - i > 8 ? n - i - 8 : 0);
        low = _mm256_fmadd_ps(a, a, low);
        high = _mm256_fmadd_ps(b, b, high);
    }
    __m256 factor = _mm256_set1_ps(1.0f / sqrtf(tree16(low, high) / (float)n + eps));
    const __m256 one = _mm256_set1_ps(1.0f);
    for (uint32_t i = 0; i < n; i += 8) {
        __m256 v = _mm256_mul_ps(load_tail(x + i, n - i), factor);
        store_tail(out + i, n - i, _mm256_mul_ps(v, w ? load_tail(w + i, n - i) : one));
    }
}

INLINE __m256 gelu_tanh8(__m256 x)
{
    __m256 cube = _mm256_mul_ps(_mm256_mul_ps(x, x), x);
    __m256 in = _mm256_add_ps(x, _mm256_mul_ps(_mm256_set1_ps(0.044715f), cube));
    __m256 t = tanh8(_mm256_mul_ps(_mm256_set1_ps(0.797884561f), in));
    return _mm256_mul_ps(_mm256_mul_ps(_mm256_set1_ps(0.5f), x),
                         _mm256_add_ps(_mm256_set1_ps(1.0f), t));
}

INLINE __m256 silu8(__m256 x)
{
    __m256 e = exp8(_mm256_xor_ps(x, _mm256_set1_ps(-0.0f)));
    return _mm256_div_ps(x, _mm256_add_ps(_mm256_set1_ps(1.0f), e));
}

static void glu(enum lodge_activation act, float *g, const float *u, size_t n)
{
    if (act == LODGE_ACT_GELU) { /* erf has no vector form here */
        for (size_t i = 0; i < n; i++)
            g[i] = 0.5f * g[i] * (1.0f + erff(g[i] * 0.707106781f)) * u[i];
        return;
    }
    for (size_t i = 0; i < n; i += 8) {
        uint32_t left = n - i < 8 ? (uint32_t)(n - i) : 8;
        __m256 x = load_tail(g + i, left);
        x = act == LODGE_ACT_SILU ? silu8(x) : gelu_tanh8(x);
        store_tail(g + i, left, _mm256_mul_ps(x, load_tail(u + i, left)));
    }
}

static void add_block(float *x, size_t ldx, const float *y, size_t ldy, const float *b, float mult,
                      unsigned m, uint32_t n)
{
    const __m256 factor = _mm256_set1_ps(mult);
    for (unsigned i = 0; i < m; i++, x += ldx, y += ldy)
        for (uint32_t j = 0; j < n; j += 8) {
            __m256 v = load_tail(y + j, n - j);
            if (b)
                v = _mm256_add_ps(v, load_tail(b + j, n - j));
            v = _mm256_add_ps(load_tail(x + j, n - j), _mm256_mul_ps(factor, v));
            store_tail(x + j, n - j, v);
        }
}

static void rope(float *head, const float *cos, const float *sin, uint32_t n)
{
    for (uint32_t i = 0; i < n; i += 8) {
        __m256 a = load_tail(head + i, n - i), b = load_tail(head + n + i, n - i);
        __m256 c = load_tail(cos + i, n - i), s = load_tail(sin + i, n - i);
        __m256 x = _mm256_sub_ps(_mm256_mul_ps(a, c), _mm256_mul_ps(b, s));
        __m256 y = _mm256_add_ps(_mm256_mul_ps(b, c), _mm256_mul_ps(a, s));
        store_tail(head + i, n - i, x);
        store_tail(head + n + i, n - i, y);
    }
}

static void to_bf16(const float *x, uint32_t dim, uint32_t dim_padded, uint16_t *out)
{
    for (uint32_t i = 0; i < dim_padded; i += 8)
        _mm_storeu_si128((void *)(out + i), to_bf16x8(load_tail(x + i, i < dim ? dim - i : 0)));
}

static void kv_store(uint8_t *kv_head, uint32_t t, const float *k, const float *v, uint32_t dim)
{
    uint32_t dp = (dim + LODGE_KV_DIM_STEP - 1) / LODGE_KV_DIM_STEP * LODGE_KV_DIM_STEP;
    uint32_t *keys = (uint32_t *)(void *)kv_head;
    uint16_t *values = (uint16_t *)(void *)kv_head + (size_t)dp * 32;
    for (uint32_t d = 0; d < dp; d += 8) {
        uint32_t left = d < dim ? dim - d : 0, words[4];
        uint16_t half[8];
        _mm_storeu_si128((void *)words, to_bf16x8(load_tail(k + d, left)));
        for (uint32_t j = 0; j < 4; j++)
            keys[(size_t)(d / 2 + j) * 32 + t] = words[j];
        _mm_storeu_si128((void *)half, to_bf16x8(load_tail(v + d, left)));
        for (uint32_t j = 0; j < 8; j++)
            values[((size_t)(t / 2) * dp + d + j) * 2 + t % 2] = half[j];
    }
}

static uint32_t argmax(const float *x, uint32_t n)
{
    const __m256 least = _mm256_set1_ps(-INFINITY);
    __m256 most = least;
    for (uint32_t i = 0; i < n; i += 8) {
        __m256 v = load_tail(x + i, n - i);
        if (n - i < 8)
            v = _mm256_blendv_ps(least, v, _mm256_castsi256_ps(first_lanes(n - i)));
        most = _mm256_max_ps(v, most); /* the second operand where the first is NaN */
    }
    float best = max8(most);
    for (uint32_t i = 0; i < n && best > -INFINITY; i++)
        if (x[i] == best)
            return i;
    return 0;
}

static double exp_sum(const float *x, uint32_t n, float most)
{
    __m256d lanes[4] = {_mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd(),
                        _mm256_setzero_pd()};
    const __m256 base = _mm256_set1_ps(most);
    for (uint32_t i = 0; i < n; i += 16)
        for (uint32_t h = 0; h < 2 && i + 8 * h < n; h++) {
            uint32_t left = n - i - 8 * h;
            __m256 e = exp8(_mm256_sub_ps(load_tail(x + i + 8 * h, left), base));
            if (left < 8)
                e = _mm256_and_ps(e, _mm256_castsi256_ps(first_lanes(left)));
            lanes[2 * h] = _mm256_add_pd(lanes[2 * h], _mm256_cvtps_pd(_mm256_castps256_ps128(e)));
            lanes[2 * h + 1] =
                _mm256_add_pd(lanes[2 * h + 1], _mm256_cvtps_pd(_mm256_extractf128_ps(e, 1)));
        }
    __m256d a = _mm256_add_pd(_mm256_add_pd(lanes[0], lanes[2]), _mm256_add_pd(lanes[1], lanes[3]));
    __m128d b = _mm_add_pd(_mm256_castpd256_pd128(a), _mm256_extractf128_pd(a, 1));
    return _mm_cvtsd_f64(_mm_add_sd(b, _mm_unpackhi_pd(b, b)));
}

void lodge_avx2_rows(struct lodge_cpu_kernels *k)
{
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
