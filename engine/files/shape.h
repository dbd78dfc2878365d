/* The neutral description of a model that both containers produce, and the plan is built from.
 *
 * hf_shape.c reads config.json, gguf_shape.c reads GGUF metadata; build_plan.c knows neither.
 * A family is one row of the table in family.c: its names, its defaults and which of its
 * conventions differ from the plainest. All lengths are checked against caps before anything is
 * allocated. Sources: the models of transformers; llama.cpp's converter for GGUF.
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
    double mscale, mscale_all_dim;            /* yarn: of the default factor; 0: not given */
    bool fractional;                          /* yarn: the ramp's ends are not whole dims */
    double attention_factor;                  /* < 0: the scaling's own default */
    uint32_t original_context;                /* 0: not given */
    uint32_t n_dims;                          /* rotated dims of a head */
    const float *short_factor, *long_factor;  /* longrope: n_dims / 2 each, or NULL */
    const float *divisors;                    /* GGUF rope_freqs: n_dims / 2, or NULL */
};

/* ---- families ---- */

/* Parts of a model that files store as one tensor each (with ".weight" and perhaps ".bias"). */
enum lodge_part {
    LODGE_PART_EMBED,
    LODGE_PART_NORM,
    LODGE_PART_HEAD,
    LODGE_PART_ATTN_NORM,
    LODGE_PART_Q,
    LODGE_PART_K,
    LODGE_PART_V,
    LODGE_PART_QKV,
    LODGE_PART_Q_NORM,
    LODGE_PART_K_NORM,
    LODGE_PART_O,
    LODGE_PART_ATTN_POST_NORM,
    LODGE_PART_MLP_NORM,
    LODGE_PART_GATE,
    LODGE_PART_UP,
    LODGE_PART_GATE_UP,
    LODGE_PART_DOWN,
    LODGE_PART_MLP_POST_NORM,
    LODGE_PART_COUNT
};

/* What a family does that the plainest (Llama) does not. */
enum lodge_trait {
    LODGE_TRAIT_GGUF_PAIRS = 1 << 0,        /* GGUF holds q and k rows as adjacent pairs */
    LODGE_TRAIT_LAYER_NORM = 1 << 1,        /* layer norms with weight and bias */
    LODGE_TRAIT_NORM_PLUS_ONE = 1 << 2,     /* norms multiply by w + 1; GGUF stores the sum */
    LODGE_TRAIT_NO_PRE_NORM = 1 << 3,       /* attention and MLP read the stream as it is */
    LODGE_TRAIT_POST_NORM = 1 << 4,         /* their outputs are normalised before they are added */
    LODGE_TRAIT_QK_NORM = 1 << 5,           /* q and k are normalised head by head */
    LODGE_TRAIT_QK_NORM_ALL = 1 << 6,       /* q and k are normalised over all heads at once */
    LODGE_TRAIT_FUSED = 1 << 7,             /* q|k|v are one tensor, and gate|up */
    LODGE_TRAIT_UNGATED = 1 << 8,           /* the MLP has no gate */
    LODGE_TRAIT_QKV_BIAS = 1 << 9,          /* q, k, v always have biases, o never */
    LODGE_TRAIT_ATTENTION_BIAS = 1 << 10,   /* keys of config.json that switch biases on: */
    LODGE_TRAIT_MLP_BIAS = 1 << 11,         /* attention_bias, mlp_bias, */
    LODGE_TRAIT_USE_BIAS = 1 << 12,         /* use_bias (all of them; on by default) */
    LODGE_TRAIT_SCALED_EMBEDDING = 1 << 13, /* times sqrt(d_model) */
    LODGE_TRAIT_MULTIPLIERS = 1 << 14,      /* of embedding, attention, residual, logits */
    LODGE_TRAIT_QUERY_SCALAR = 1 << 15,     /* attention scale from query_pre_attn_scalar */
    LODGE_TRAIT_ATTN_SOFTCAP = 1 << 16,
    LODGE_TRAIT_LOGIT_SOFTCAP = 1 << 17,
};

/* Which layers attend to a window of tokens, where the file does not say it layer by layer. */
enum lodge_window_rule {
    LODGE_WINDOW_NONE,
    LODGE_WINDOW_GGUF, /* none, but GGUF gives relatives that have one the same name: all layers */
    LODGE_WINDOW_ALL,
    LODGE_WINDOW_PATTERN,  /* all but every n-th layer */
    LODGE_WINDOW_SWITCHED, /* use_sliding_window: layers from max_window_layers on */
};

/* Another name for a part in Hugging Face checkpoints. */
struct lodge_rename {
    enum lodge_part part;
    const char *hf;
};

/* Row of the family table. */
struct lodge_family {
    const char *hf[2];      /* architectures[0] of config.json */
    const char *model_type; /* of a text_config inside a model with other parts */
    const char *gguf;       /* general.architecture; NULL: another row's */
    uint32_t traits;        /* enum lodge_trait */
    enum lodge_window_rule windows;
    uint32_t pattern;
    enum lodge_activation act;
    const struct lodge_rename *renames; /* ends with hf NULL */
    uint32_t n_renames;
    /* GGUF stores no query scalar: models of this many layers use d_model / n_heads, the others
     * head_dim. */
    uint32_t wide_layers;
    /* What an absent key of config.json means; 0: nothing. */
    struct {
        uint32_t n_heads, n_kv_heads, head_dim, n_vocab, n_context, window, original_context;
        double theta, local_theta, norm_eps, query_scalar, attention_softcap, logit_softcap;
        bool tied;
    } defaults;
};

/* NULL when unknown. lodge_family_list: names for an error text, separated by commas. */
const struct lodge_family *lodge_family_hf(const char *architecture);
const struct lodge_family *lodge_family_text(const char *model_type);
const struct lodge_family *lodge_family_gguf(struct lodge_span architecture);
void lodge_family_list(bool gguf, char *out, size_t n);

/* Name of a part in the files, with %u for the layer; NULL: files of this kind do not have it. */
const char *lodge_family_name(const struct lodge_family *f, enum lodge_part part, bool gguf);
/* Writes the tensor's name. */
void lodge_family_tensor(const struct lodge_family *f, enum lodge_part part, bool gguf,
                         uint32_t layer, const char *suffix, char out[96]);
/* Whether any family has a tensor of that name. */
bool lodge_tensor_known(struct lodge_span name, bool gguf);

static inline bool lodge_has(const struct lodge_family *f, enum lodge_trait t)
{
    return f->traits & t;
}

/* ---- shapes ---- */

struct lodge_model_shape {
    const struct lodge_family *family;
    uint32_t d_model, d_ff, n_layers, n_heads, n_kv_heads, head_dim, n_vocab, n_context;
    float norm_eps;
    bool qkv_bias, o_bias, mlp_bias, tied;
    enum lodge_activation act;
    double query_scalar;      /* 0: head_dim */
    double attention_scale;   /* 0: query_scalar^-0.5 */
    double attention_softcap; /* 0: none */
    double logit_softcap;
    double embedding_multiplier, residual_multiplier, logit_divisor;
    uint32_t window[LODGE_MAX_LAYERS]; /* per layer, 0: full */
    bool slides[LODGE_MAX_LAYERS];     /* a layer of the windowed kind, whatever its window is */
    struct lodge_rope_shape rope;
    struct lodge_rope_shape local_rope; /* of layers that slide; n_dims 0: the same */
};

/* A number of the configuration that only some families compute with. */
struct lodge_shape_number {
    const char *hf, *gguf; /* its key, or NULL */
    uint32_t traits;       /* families with one of them have it; 0: none does */
    double neutral;        /* value that changes nothing: others may have it */
    size_t field;          /* a double of struct lodge_model_shape */
};
extern const struct lodge_shape_number lodge_shape_numbers[];
extern const size_t lodge_n_shape_numbers;

/* The family's defaults. */
void lodge_shape_init(const struct lodge_family *f, struct lodge_model_shape *out);
/* Takes the value of a key of lodge_shape_numbers, or refuses it by name. */
int lodge_shape_set_number(struct lodge_model_shape *s, const struct lodge_shape_number *n,
                           bool gguf, double value, const char *where, struct lodge_error *e);
/* Windows by the family's rule: all but every `pattern`-th layer for LODGE_WINDOW_PATTERN. */
void lodge_shape_set_windows(struct lodge_model_shape *s, uint32_t window, uint32_t pattern,
                             uint32_t first_layer);
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

/* ---- files ---- */

/* One stored matrix or vector, wherever it comes from. */
struct lodge_source_tensor {
    const char *type_name;
    int format; /* enum lodge_format, or -1: a type Lodge does not compute with */
    uint32_t n_dims;
    uint64_t rows, cols; /* cols contiguous; a vector has rows 1 */
    const uint8_t *data;
    size_t n_bytes;
    uint64_t index; /* among all tensors of the container */
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
    struct lodge_span (*name)(const void *container, uint64_t index);
    uint64_t n_tensors;
    bool other_parts; /* the model has parts that are not its text (vision) */
    const void *container;
};

/* The scales of an FP8 matrix that begins at row `first` of the tensor, as the plan wants them, in
 * its arena. FORMAT naming the tensor. */
int lodge_take_scales(const struct lodge_source_tensor *t, uint32_t first, const char *where,
                      const char *name, struct lodge_arena *arena, struct lodge_tensor *out,
                      struct lodge_error *e);

/* config.json. `where` names the file. Arrays live in `arena`. The source names the tensors, for
 * the text of an error. */
int lodge_shape_from_hf(const json_t *config, const char *where,
                        const struct lodge_tensor_source *src, struct lodge_arena *arena,
                        struct lodge_model_shape *out, struct lodge_error *e);
int lodge_shape_from_gguf(const struct lodge_gguf *g, const struct lodge_tensor_source *src,
                          struct lodge_arena *arena, struct lodge_model_shape *out,
                          struct lodge_error *e);
/* Adds the first few tensors that no family reads to the text of an error. */
void lodge_error_add_tensors(const struct lodge_tensor_source *src, struct lodge_error *e);
/* UNSUPPORTED naming the first few tensors of the text model that were not used; used[i]: whether
 * tensor i was. What files carry beside the weights is passed over. */
int lodge_refuse_unused(const struct lodge_model_shape *s, const struct lodge_tensor_source *src,
                        const bool *used, struct lodge_error *e);

/* Builds and checks the plan (layer groups excepted). The arena of `out` owns what it needs. A
 * tensor that nothing of the plan reads is refused by name. */
int lodge_build_plan(const struct lodge_model_shape *shape, const struct lodge_tensor_source *src,
                     uint32_t served_context, struct lodge_plan *out, struct lodge_error *e);

#endif
