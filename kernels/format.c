#include "kernels/format.h"

#include "base/checked.h"
#include "kernels/ref/math.h"

static const struct lodge_format_info infos[] = {
#define LODGE_FORMAT_ROW(name, text, block, bytes) {text, block, bytes},
    LODGE_FORMAT_LIST(LODGE_FORMAT_ROW)
#undef LODGE_FORMAT_ROW
};

const struct lodge_format_info *lodge_format_info(enum lodge_format f)
{
    return (unsigned)f < LODGE_FMT_COUNT ? &infos[f] : NULL;
}

bool lodge_format_row_bytes(enum lodge_format f, uint64_t n_cols, size_t *out)
{
    const struct lodge_format_info *i = lodge_format_info(f);
    return i && n_cols % i->block == 0 && lodge_mul_size(n_cols / i->block, i->block_bytes, out);
}

static float half_at(const uint8_t *p)
{
    uint16_t h;
    memcpy(&h, p, 2);
    return lodge_fp16_float(h);
}

static void decode_block(enum lodge_format f, const uint8_t *b, float *dst)
{
    float d = half_at(b);
    if (f == LODGE_FMT_Q8_0) {
        for (int j = 0; j < 32; j++)
            dst[j] = d * (float)(int8_t)b[2 + j];
        return;
    }
    bool has_min = f == LODGE_FMT_Q4_1;
    const uint8_t *q = b + (has_min ? 4 : 2);
    float m = has_min ? half_at(b + 2) : 0;
    for (int j = 0; j < 32; j++) {
        int code = j < 16 ? q[j] & 15 : q[j - 16] >> 4;
        dst[j] = has_min ? d * (float)code + m : d * (float)(code - 8);
    }
}

void lodge_format_decode(enum lodge_format f, const void *src, size_t n, float *dst)
{
    const uint8_t *p = src;
    uint16_t h;
    switch (f) {
    case LODGE_FMT_F32:
        memcpy(dst, p, n * 4);
        return;
    case LODGE_FMT_F16:
        for (size_t i = 0; i < n; i++)
            dst[i] = half_at(p + 2 * i);
        return;
    case LODGE_FMT_BF16:
        for (size_t i = 0; i < n; i++) {
            memcpy(&h, p + 2 * i, 2);
            dst[i] = lodge_bf16_float(h);
        }
        return;
    default:
        for (size_t i = 0; i + 32 <= n; i += 32, p += infos[f].block_bytes)
            decode_block(f, p, dst + i);
    }
}
