#include "kernels/block.h"

#include "kernels/ref/math.h"

#include <string.h>

/* Source: ggml's quantisation formats. */
const int8_t lodge_iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                     1,    13,   25,  38,  53,  69,  89,  113};
/* Source: the OCP microscaling formats. */
const int8_t lodge_e2m1_values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

static uint16_t half_bits(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

/* Low and high nibbles of 16 bytes: elements 0 .. 15 and 16 .. 31. */
static void nibbles(const uint8_t *q, uint8_t *code)
{
    for (int j = 0; j < 16; j++) {
        code[j] = q[j] & 15;
        code[j + 16] = q[j] >> 4;
    }
}

static void plain_scale(struct lodge_block *b, int8_t t)
{
    b->s[0] = b->s[1] = 1;
    b->t[0] = b->t[1] = t;
}

static void split_32(enum lodge_format f, const uint8_t *p, struct lodge_block *b)
{
    bool has_min = lodge_coding(f).has_min, fifth = lodge_coding(f).bits == 5;
    plain_scale(b, has_min ? -1 : 0);
    b->d = f == LODGE_FMT_MXFP4 ? p[0] : half_bits(p);
    b->m = has_min ? half_bits(p + 2) : 0;
    p += f == LODGE_FMT_MXFP4 ? 1 : has_min ? 4 : 2;
    if (f == LODGE_FMT_Q8_0) {
        for (int j = 0; j < 32; j++)
            b->code[j] = p[j] ^ 0x80;
        return;
    }
    nibbles(p + (fifth ? 4 : 0), b->code);
    for (int j = 0; j < 32 && fifth; j++)
        b->code[j] |= (uint8_t)((p[j / 8] >> j % 8 & 1) << 4);
}

/* Elements 128n + 32j + l of two bits at bytes 32n + l, bits 2j. */
static void two_bits(const uint8_t *q, uint8_t *code)
{
    for (int n = 0; n < 2; n++)
        for (int j = 0; j < 4; j++)
            for (int l = 0; l < 32; l++)
                code[128 * n + 32 * j + l] = q[32 * n + l] >> 2 * j & 3;
}

static void split_q2_k(const uint8_t *p, struct lodge_block *b)
{
    for (int g = 0; g < 16; g++) {
        b->s[g] = p[g] & 15;
        b->t[g] = (int8_t)(p[g] >> 4);
    }
    two_bits(p + 16, b->code);
    b->d = half_bits(p + 80);
    b->m = half_bits(p + 82);
}

static void split_q3_k(const uint8_t *p, struct lodge_block *b)
{
    const uint8_t *sc = p + 96;
    two_bits(p + 32, b->code);
    for (int c = 0; c < 8; c++)
        for (int l = 0; l < 32; l++)
            b->code[32 * c + l] |= (uint8_t)((p[l] >> c & 1) << 2);
    for (int g = 0; g < 16; g++) {
        int low = g < 8 ? sc[g] & 15 : sc[g - 8] >> 4;
        b->s[g] = (int8_t)((low | (sc[8 + g % 4] >> 2 * (g / 4) & 3) << 4) - 32);
        b->t[g] = 0;
    }
    b->d = half_bits(p + 108);
    b->m = 0;
}

/* Q4_K and Q5_K: 6-bit scales and minimums of 8 groups in 12 bytes. */
static void split_q45_k(const uint8_t *p, bool fifth, struct lodge_block *b)
{
    const uint8_t *sc = p + 4, *high = p + 16, *q = p + (fifth ? 48 : 16);
    b->d = half_bits(p);
    b->m = half_bits(p + 2);
    for (int g = 0; g < 4; g++) {
        b->s[g] = sc[g] & 63;
        b->t[g] = sc[g + 4] & 63;
        b->s[g + 4] = (int8_t)((sc[g + 8] & 15) | sc[g] >> 6 << 4);
        b->t[g + 4] = (int8_t)(sc[g + 8] >> 4 | sc[g + 4] >> 6 << 4);
    }
    for (int c = 0; c < 8; c++)
        for (int l = 0; l < 32; l++) {
            uint8_t code = q[c / 2 * 32 + l] >> c % 2 * 4 & 15;
            b->code[32 * c + l] = (uint8_t)(code | (fifth ? (high[l] >> c & 1) << 4 : 0));
        }
}

static void split_q6_k(const uint8_t *p, struct lodge_block *b)
{
    for (int c = 0; c < 8; c++) {
        const uint8_t *low = p + c / 4 * 64 + c % 2 * 32, *high = p + 128 + c / 4 * 32;
        for (int l = 0; l < 32; l++)
            b->code[32 * c + l] =
                (uint8_t)((low[l] >> c % 4 / 2 * 4 & 15) | (high[l] >> 2 * (c % 4) & 3) << 4);
    }
    memcpy(b->s, p + 192, 16);
    memset(b->t, 0, 16);
    b->d = half_bits(p + 208);
    b->m = 0;
}

static void split_iq4_xs(const uint8_t *p, struct lodge_block *b)
{
    const unsigned high = half_bits(p + 2);
    b->d = half_bits(p);
    b->m = 0;
    for (int g = 0; g < 8; g++) {
        int low = p[4 + g / 2] >> g % 2 * 4 & 15;
        b->s[g] = (int8_t)((low | (int)(high >> 2 * g & 3) << 4) - 32);
        b->t[g] = 0;
        nibbles(p + 8 + 16 * g, b->code + 32 * g);
    }
}

void lodge_block_split(enum lodge_format f, const uint8_t *stored, struct lodge_block *out)
{
    switch (f) {
    case LODGE_FMT_Q2_K:
        split_q2_k(stored, out);
        return;
    case LODGE_FMT_Q3_K:
        split_q3_k(stored, out);
        return;
    case LODGE_FMT_Q4_K:
    case LODGE_FMT_Q5_K:
        split_q45_k(stored, f == LODGE_FMT_Q5_K, out);
        return;
    case LODGE_FMT_Q6_K:
        split_q6_k(stored, out);
        return;
    case LODGE_FMT_IQ4_XS:
        split_iq4_xs(stored, out);
        return;
    default:
        split_32(f, stored, out);
    }
}

/* 2^(e - 128), subnormal for e < 2. */
static float exponent(unsigned e)
{
    return lodge_bits_float(e < 2 ? 0x200000u << e : (e - 1) << 23);
}

float lodge_block_scale(enum lodge_format f, const struct lodge_block *b, uint32_t g)
{
    float d = f == LODGE_FMT_MXFP4 ? exponent(b->d) : lodge_fp16_float(b->d);
    return d * (float)b->s[g];
}

float lodge_block_min(enum lodge_format f, const struct lodge_block *b, uint32_t g)
{
    return lodge_coding(f).has_min ? lodge_fp16_float(b->m) * (float)b->t[g] : 0;
}

void lodge_block_decode(enum lodge_format f, const struct lodge_block *b, float *dst)
{
    const struct lodge_coding c = lodge_coding(f);
    const int8_t *table = lodge_code_table(f);
    for (uint32_t g = 0; g < lodge_format_info(f)->block / c.group; g++) {
        float scale = lodge_block_scale(f, b, g), min = lodge_block_min(f, b, g);
        for (uint32_t k = g * c.group; k < (g + 1) * c.group; k++) {
            int value = table ? table[b->code[k]] : b->code[k] - (int)c.zero;
            dst[k] = scale * (float)value - min;
        }
    }
}
