#include "kernels/format.h"

#include "base/checked.h"
#include "kernels/block.h"
#include "kernels/ref/math.h"

static const struct lodge_format_info infos[] = {
#define LODGE_FORMAT_ROW(name, text, block, bytes, gguf) {text, block, bytes, gguf},
    LODGE_FORMAT_LIST(LODGE_FORMAT_ROW)
#undef LODGE_FORMAT_ROW
};

const struct lodge_format_info *lodge_format_info(enum lodge_format f)
{
    return (unsigned)f < LODGE_FMT_COUNT ? &infos[f] : NULL;
}

int lodge_format_of_gguf(uint32_t type)
{
    for (int f = 0; f < LODGE_FMT_COUNT; f++)
        if (infos[f].gguf_type >= 0 && (uint32_t)infos[f].gguf_type == type)
            return f;
    return -1;
}

const char *lodge_format_names(void)
{
    static const char names[] =
#define LODGE_FORMAT_NAME(name, text, block, bytes, gguf) ", " text
        LODGE_FORMAT_LIST(LODGE_FORMAT_NAME);
#undef LODGE_FORMAT_NAME
    return names + 2;
}

bool lodge_format_row_bytes(enum lodge_format f, uint64_t n_cols, size_t *out)
{
    const struct lodge_format_info *i = lodge_format_info(f);
    return i && n_cols % i->block == 0 && lodge_mul_size(n_cols / i->block, i->block_bytes, out);
}

static uint16_t half_at(const uint8_t *p)
{
    uint16_t h;
    memcpy(&h, p, 2);
    return h;
}

static void decode_blocks(enum lodge_format f, const uint8_t *p, size_t n, float *dst)
{
    struct lodge_block b;
    for (size_t i = 0; i + infos[f].block <= n; i += infos[f].block, p += infos[f].block_bytes) {
        lodge_block_split(f, p, &b);
        lodge_block_decode(f, &b, dst + i);
    }
}

void lodge_format_decode(enum lodge_format f, const void *src, size_t n, float *dst)
{
    const uint8_t *p = src;
    switch (f) {
    case LODGE_FMT_F32:
        memcpy(dst, p, n * 4);
        return;
    case LODGE_FMT_F16:
        for (size_t i = 0; i < n; i++)
            dst[i] = lodge_fp16_float(half_at(p + 2 * i));
        return;
    case LODGE_FMT_BF16:
        for (size_t i = 0; i < n; i++)
            dst[i] = lodge_bf16_float(half_at(p + 2 * i));
        return;
    case LODGE_FMT_F8_E4M3:
        for (size_t i = 0; i < n; i++)
            dst[i] = lodge_e4m3_float(p[i]);
        return;
    default:
        decode_blocks(f, p, n, dst);
    }
}
