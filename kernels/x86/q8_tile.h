/* A row's block of a Q8 tile (kernels/vec/vec.h), in vectors of 256 bits on both x86 rungs. */
#ifndef LODGE_KERNELS_X86_Q8_TILE_H
#define LODGE_KERNELS_X86_Q8_TILE_H

INLINE void store_codes(void *to, codes32 c)
{
    _mm256_storeu_si256(to, c);
}

/* Sums of the whole block, its first and its second half, in lanes 1, 2, 3 and again in 4, 5, 6. */
INLINE __m256i sums_of_codes(codes32 c)
{
    /* Sums of unsigned bytes, 128 more each, of 8 columns; then of 16, in lanes 0, 2 and 4, 6. */
    __m256i s =
        _mm256_sad_epu8(_mm256_xor_si256(c, _mm256_set1_epi8((char)0x80)), _mm256_setzero_si256());
    s = _mm256_add_epi32(s, _mm256_shuffle_epi32(s, 0x4E));
    s = _mm256_blend_epi32(s, _mm256_add_epi32(s, _mm256_permute4x64_epi64(s, 0x4E)), 1u << 2);
    s = _mm256_permutevar8x32_epi32(s, _mm256_setr_epi32(1, 2, 0, 4, 2, 0, 4, 1));
    const int all = 128 * 32, half = 128 * 16;
    return _mm256_sub_epi32(s, _mm256_setr_epi32(0, all, half, half, all, half, half, 0));
}

INLINE void q8_put(uint32_t *tile, uint32_t b, unsigned i, unsigned m, codes32 c, float scale)
{
    uint32_t *t = tile + ((size_t)b * m + i) * Q8_WORDS;
    const __m256 factor = _mm256_set1_ps(scale);
    __m256i sums = sums_of_codes(c);
    __m256 starts = _mm256_castsi256_ps(
        _mm256_sub_epi32(_mm256_set1_epi32(DOT_BIAS), _mm256_slli_epi32(sums, 7)));
    __m256 scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(sums), factor);
    store_codes(t, c);
    _mm256_storeu_ps((float *)(void *)(t + Q8_SCALE),
                     _mm256_blend_ps(_mm256_blend_ps(starts, scaled, 0xF0), factor, 1));
}

#endif
