/* Quantized checkpoints in Hugging Face directories: which kinds are read, and their scales. The
 * tensors themselves say what is quantized: lists of skipped modules need not be read. */
#include "engine/files/shape.h"

#include "base/json.h"

#include <math.h>
#include <string.h>

#define BLOCK 128u

static const char *text_of(const json_t *obj, const char *key, const char *absent)
{
    const char *text = json_string_value(lodge_json_member(obj, key));
    return text ? text : absent;
}

/* Absent, or [128, 128]. */
static bool is_block(const json_t *list)
{
    if (!list)
        return true;
    return json_array_size(list) == 2 && json_integer_value(json_array_get(list, 0)) == BLOCK &&
           json_integer_value(json_array_get(list, 1)) == BLOCK;
}

/* Weights of one group of compressed-tensors. */
static bool is_fp8_group(const json_t *group)
{
    const json_t *w = lodge_json_member(group, "weights");
    return json_integer_value(lodge_json_member(w, "num_bits")) == 8 &&
           strcmp(text_of(w, "type", ""), "float") == 0 &&
           is_block(lodge_json_member(w, "block_structure"));
}

static bool is_fp8_compressed(const json_t *q)
{
    json_t *groups = lodge_json_member(q, "config_groups"), *group;
    const char *key;
    if (strcmp(text_of(q, "format", ""), "float-quantized") != 0 || !json_object_size(groups))
        return false;
    json_object_foreach(groups, key, group) if (!is_fp8_group(group)) return false;
    return true;
}

int lodge_hf_check_quantization(const json_t *q, const char *where, struct lodge_error *e)
{
    const char *method = text_of(q, "quant_method", "unnamed");
    bool fp8 = strcmp(method, "fp8") == 0 && strcmp(text_of(q, "fmt", "e4m3"), "e4m3") == 0 &&
               is_block(lodge_json_member(q, "weight_block_size"));
    if (!q || fp8 || (strcmp(method, "compressed-tensors") == 0 && is_fp8_compressed(q)))
        return 0;
    const char *format = text_of(q, "format", "");
    return lodge_fail(e, LODGE_ERR_UNSUPPORTED,
                      "%s: weights quantized by '%s'%s%s are not supported; what is read is FP8 "
                      "(e4m3) with scales of tensors, rows or blocks of [128, 128], as 'fp8' or as "
                      "'float-quantized' of compressed-tensors: use such a checkpoint, the "
                      "unquantized one or a GGUF file",
                      where, method, *format ? " as " : "", format);
}

static uint64_t blocks(uint64_t n)
{
    return (n + BLOCK - 1) / BLOCK;
}

/* Rows and columns that share a scale; false when the shape is none of the three. */
static bool share_of_scale(const struct lodge_source_tensor *t, struct lodge_tensor *out)
{
    out->scale_rows = out->scale_cols = UINT32_MAX;
    if (t->scale_rows == 1 && t->scale_cols == 1)
        return true;
    if (t->scale_rows == t->rows && t->scale_cols == 1) {
        out->scale_rows = 1;
        return true;
    }
    out->scale_rows = out->scale_cols = BLOCK;
    return t->scale_rows == blocks(t->rows) && t->scale_cols == blocks(t->cols);
}

int lodge_take_scales(const struct lodge_source_tensor *t, uint32_t first, const char *where,
                      const char *name, struct lodge_arena *arena, struct lodge_tensor *out,
                      struct lodge_error *e)
{
    if (!t->scales)
        return lodge_fail(e, LODGE_ERR_FORMAT,
                          "%s: tensor '%s' is F8_E4M3 but '%s_scale_inv' or '%s_scale' is missing; "
                          "the checkpoint is incomplete, fetch it again",
                          where, name, name, name);
    if (!share_of_scale(t, out))
        return lodge_fail(
            e, LODGE_ERR_FORMAT,
            "%s: the scales of '%s' have shape [%llu, %llu]; for [%llu, %llu] weights "
            "one, one a row, or one for blocks of [128, 128] are read",
            where, name, (unsigned long long)t->scale_rows, (unsigned long long)t->scale_cols,
            (unsigned long long)t->rows, (unsigned long long)t->cols);
    size_t n = (size_t)(t->scale_rows * t->scale_cols);
    float *scales = lodge_arena_array(arena, n, sizeof *scales);
    if (!scales)
        return lodge_fail(e, LODGE_ERR_NOMEM, "%s: no memory for the scales of '%s'", where, name);
    if (t->scale_format < 0 || t->scale_format > LODGE_FMT_BF16)
        return lodge_fail(e, LODGE_ERR_FORMAT, "%s: the scales of '%s' must be F32, F16 or BF16",
                          where, name);
    lodge_format_decode((enum lodge_format)t->scale_format, t->scales, n, scales);
    for (size_t i = 0; i < n; i++)
        if (!isfinite(scales[i]))
            return lodge_fail(e, LODGE_ERR_FORMAT,
                              "%s: scale %zu of '%s' is not a finite number; the checkpoint is "
                              "damaged, fetch it again",
                              where, i, name);
    /* Fused matrices are cut where their heads end. */
    if (out->scale_rows == BLOCK && first % BLOCK)
        return lodge_fail(e, LODGE_ERR_UNSUPPORTED,
                          "%s: a part of '%s' begins at row %u, inside a block of scales; use a "
                          "checkpoint with scales of rows",
                          where, name, first);
    size_t row = t->scale_rows == 1 ? 0 : first / out->scale_rows;
    out->scales = scales + row * t->scale_cols;
    return 0;
}
