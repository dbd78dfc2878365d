/* Number conversions and the exponential, defined exactly; SIMD rungs repeat them step by step. */
#ifndef LODGE_KERNELS_REF_MATH_H
#define LODGE_KERNELS_REF_MATH_H

#include <math.h>
#include <stdint.h>
#include <string.h>

static inline float lodge_bits_float(uint32_t u)
{
    float f;
    memcpy(&f, &u, 4);
    return f;
}

static inline uint32_t lodge_float_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

static inline float lodge_bf16_float(uint16_t h)
{
    return lodge_bits_float((uint32_t)h << 16);
}

/* Nearest even; denormals flush to signed zero; NaN stays a quiet NaN (as vcvtneps2bf16). */
static inline uint16_t lodge_float_bf16(float f)
{
    uint32_t u = lodge_float_bits(f);
    uint32_t exponent = u & 0x7F800000u;
    if (exponent == 0)
        return (uint16_t)((u >> 16) & 0x8000u);
    if (exponent == 0x7F800000u && (u & 0x7FFFFFu))
        return (uint16_t)((u >> 16) | 0x40u);
    return (uint16_t)((u + 0x7FFFu + ((u >> 16) & 1u)) >> 16);
}

/* Exact, fp16 denormals included (their fp32 values are normal). */
static inline float lodge_fp16_float(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    uint32_t exponent = (h >> 10) & 31u, mantissa = h & 1023u;
    if (exponent == 31)
        return lodge_bits_float(sign | 0x7F800000u | mantissa << 13);
    if (exponent)
        return lodge_bits_float(sign | (exponent + 112) << 23 | mantissa << 13);
    float f = (float)mantissa * 0x1p-24f;
    return sign ? -f : f;
}

/* Exact, denormals included; 0x7F and 0xFF are NaN, there is no infinity. */
static inline float lodge_e4m3_float(uint8_t c)
{
    uint32_t sign = (uint32_t)(c & 0x80u) << 24, exponent = c >> 3 & 15u, mantissa = c & 7u;
    if ((c & 0x7Fu) == 0x7Fu)
        return lodge_bits_float(sign | 0x7FC00000u);
    if (exponent)
        return lodge_bits_float(sign | (exponent + 120) << 23 | mantissa << 20);
    float f = (float)mantissa * 0x1p-9f;
    return sign ? -f : f;
}

/* The scale of codes up to 127 of numbers up to amax, as bf16: amax / 127 rounded up, 0 if that is
 * not a normal number. */
static inline uint16_t lodge_kv_scale(float amax)
{
    uint32_t u = lodge_float_bits(amax / 127.0f);
    return u & 0x7F800000u ? (uint16_t)((u + 0xFFFFu) >> 16) : 0;
}

#define LODGE_CODE15_MAX 16383.0f
#define LODGE_CODE15_LEAST 0x1p-100f /* numbers up to less than this are 0 */

#define LODGE_EXP_LOW (-87.0f) /* below: 0 */
#define LODGE_EXP_HIGH 88.0f   /* above: exp(88) */
#define LODGE_LOG2E 1.44269504f
#define LODGE_LN2_HIGH 0.693359375f
#define LODGE_LN2_LOW (-2.12194440e-4f)
#define LODGE_EXP_C2 5.0000001201e-1f
#define LODGE_EXP_C3 1.6666665459e-1f
#define LODGE_EXP_C4 4.1665795894e-2f
#define LODGE_EXP_C5 8.3334519073e-3f
#define LODGE_EXP_C6 1.3981999507e-3f
#define LODGE_EXP_C7 1.9875691500e-4f

/* exp(x) within 2 ulp: x = n ln2 + r, polynomial in r of degree 7 (coefficients of Cephes' expf),
 * scaled by 2^n. NaN gives 0 (it is not above LOW). -87 .. 88 keeps 2^n normal. */
static inline float lodge_ref_exp(float x)
{
    if (!(x > LODGE_EXP_LOW))
        return 0;
    x = x < LODGE_EXP_HIGH ? x : LODGE_EXP_HIGH;
    float n = rintf(x * LODGE_LOG2E);
    float r = fmaf(n, -LODGE_LN2_HIGH, x);
    r = fmaf(n, -LODGE_LN2_LOW, r);
    float p = LODGE_EXP_C7;
    p = fmaf(p, r, LODGE_EXP_C6);
    p = fmaf(p, r, LODGE_EXP_C5);
    p = fmaf(p, r, LODGE_EXP_C4);
    p = fmaf(p, r, LODGE_EXP_C3);
    p = fmaf(p, r, LODGE_EXP_C2);
    p = fmaf(p, r * r, r);
    p = p + 1.0f;
    return p * lodge_bits_float((uint32_t)((int32_t)n + 127) << 23);
}

/* 1 - 2 / (exp(2x) + 1). */
static inline float lodge_ref_tanh(float x)
{
    return 1.0f - 2.0f / (lodge_ref_exp(x + x) + 1.0f);
}

/* Sum of 16 lanes by halves. */
static inline float lodge_ref_tree16(const float *a)
{
    float b[8], c[4];
    for (int i = 0; i < 8; i++)
        b[i] = a[i] + a[i + 8];
    for (int i = 0; i < 4; i++)
        c[i] = b[i] + b[i + 4];
    float d0 = c[0] + c[2], d1 = c[1] + c[3];
    return d0 + d1;
}

#endif
