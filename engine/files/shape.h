/* The neutral description of a model that both containers produce, and the plan is built from.
 *
 * hf_shape.c reads config.json, gguf_shape.c reads GGUF metadata; build_plan.c knows neither.
 * A family is one row of the table in family.c: which features it has by default and which of its
 * conventions differ. All lengths are checked against caps before anything is allocated.
 */
#ifndef LODGE_ENGINE_FILES_SHAPE_H
#define LODGE_ENGINE_FILES_SHAPE_H

#include "base/error.h"
#include "base/gguf.h"
#include "kernels/plan.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define LODGE_MAX_LAYERS 1024u
#define LODGE_MAX_EOS 16u

enum lodge_rope_scaling {
    LODGE_ROPE_NONE,
    LODGE_ROPE_LINEAR,
    LODGE_ROPE_LLAMA3,
    LODGE_ROPE_YARN,
    LODGE_ROPE_DYNAMIC,
    LODGE_ROPE_LONGROPE,
};

struct lodge_rope_shape {
    enum lodge_rope_scaling scaling;
    double theta;
    double factor;                            /* 0: not given */
    double low_freq_factor, high_freq_factor; /* llama3 */
    double beta_fast, beta_slow;              /* yarn */
    double attention_factor;                  /* < 0: the scaling's own default */
    uint32_t original_context;                /* 0: not given */
    uint32_t n_dims;                          /* rotated dims of a head */
    const float *short_factor, *long_factor;  /* longrope: n_dims / 2 each, or NULL */
    const float *divisors;                    /* GGUF rope_freqs: n_dims / 2, or NULL */
};

/* Row of the family table. */
struct lodge_family {
    const char *hf_architecture; /* architectures[0] of config.json */
    const char *gguf_architecture;
    bool uses_window; /* sliding_window counts by itself */
    bool gguf_pairs;  /* GGUF holds q and k rows as adjacent pairs */
};

struct lodge_model_shape {
    const struct lodge_family *family;
    uint32_t d_model, d_ff, n_layers, n_heads, n_kv_heads, head_dim, n_vocab, n_context;
    float norm_eps;
    bool attention_bias, mlp_bias, tied;
    enum lodge_activation act;
    uint32_t window[LODGE_MAX_LAYERS]; /* per layer, 0: full */
    struct lodge_rope_shape rope;
};

/* NULL when unknown. lodge_family_list: names for an error text, separated by commas. */
const struct lodge_family *lodge_family_hf(const char *architecture);
const struct lodge_family *lodge_family_gguf(struct lodge_span architecture);
void lodge_family_list(bool gguf, char *out, size_t n);

/* config.json. `where` names the file. Arrays live in `arena`. */
int lodge_shape_from_hf(const json_t *config, const char *where, struct lodge_arena *arena,
                        struct lodge_model_shape *out, struct lodge_error *e);
int lodge_shape_from_gguf(const struct lodge_gguf *g, const char *where, struct lodge_arena *arena,
                          struct lodge_model_shape *out, struct lodge_error *e);
/* The kinds of quantization_config whose tensors Lodge reads: FP8 as "fp8" or "compressed-tensors".
 * NULL: none. UNSUPPORTED names what it is instead. */
int lodge_hf_check_quantization(const json_t *quantization, const char *where,
                                struct lodge_error *e);
/* Ranges and relations that hold for every source. */
int lodge_shape_check(const struct lodge_model_shape *s, const char *where, struct lodge_error *e);

/* A factor that was not given is the context over the original context, if that is known. */
void lodge_rope_default_factor(struct lodge_rope_shape *r, uint32_t n_context);

/* Frequencies (n_dims / 2 of them, fp32) and the factor on cos and sin, for an engine that serves
 * `served_context` tokens (0: the model's own n_context). Source: the rotary scalings of
 * transformers. */
void lodge_rope_frequencies(const struct lodge_rope_shape *r, uint32_t n_context,
                            uint32_t served_context, float *inv_freq, float *scale);

/* One stored matrix or vector, wherever it comes from. */
struct lodge_source_tensor {
    const char *type_name;
    int format; /* enum lodge_format, or -1: a type Lodge does not compute with */
    uint32_t n_dims;
    uint64_t rows, cols; /* cols contiguous; a vector has rows 1 */
    const uint8_t *data;
    size_t n_bytes;
    /* FP8: the tensor of scales beside it, NULL when there is none. (1) or (): of the tensor;
     * (N) or (N, 1): of rows; (ceil(N / 128), ceil(K / 128)): of blocks. */
    const uint8_t *scales;
    int scale_format;
    uint64_t scale_rows, scale_cols;
};

/* Where build_plan finds tensors. */
struct lodge_tensor_source {
    const char *where;
    bool gguf; /* names and row order */
    bool (*find)(const void *container, const char *name, struct lodge_source_tensor *out);
    const void *container;
};

/* The scales of an FP8 matrix as the plan wants them, in its arena. FORMAT naming the tensor. */
int lodge_take_scales(const struct lodge_source_tensor *t, const char *where, const char *name,
                      struct lodge_arena *arena, struct lodge_tensor *out, struct lodge_error *e);

/* Builds and checks the plan (layer groups excepted). The arena of `out` owns what it needs. */
int lodge_build_plan(const struct lodge_model_shape *shape, const struct lodge_tensor_source *src,
                     uint32_t served_context, struct lodge_plan *out, struct lodge_error *e);

#endif
