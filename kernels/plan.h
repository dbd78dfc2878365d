/* The model plan: one model's forward pass as data.
 *
 * engine/files builds a plan once from a model file; a backend receives it once with the
 * tensors and from then on runs whole steps of it. The plan knows shapes, formats, epilogues and
 * layer groups, and nothing about files, families or devices. It is immutable after
 * lodge_plan_finish_build and may be read from any thread.
 *
 * The residual stream x is (n_rows, d_model) fp32. Every op reads or updates it:
 *
 *   EMBED    x = scale * row(table, token)
 *   QKV      h = norm(x); q,k,v = W h + b; optional norm of q,k; rotate; K,V -> pages; q kept
 *   ATTN     a = softmax(cap(scale * q K^T)) V over the pages of the row's sequence
 *   PROJ     x = x + mult * post_norm(W a + b)                a: attention or MLP output
 *   GATE_UP  h = norm(x); a = act(Wg h + bg) * (Wu h + bu), or act(Wu h + bu) without a gate
 *   HEAD     logits = cap(mult * W norm(x))                   only rows that want them
 *
 * Linear operators are matrices (N, K) of stored rows, y = W x. Their index is the index of their
 * tensor. What a fused group q|k|v or gate|up means for memory is the backend's business; its
 * members may have different formats, and may be slices of one stored matrix. Builders number
 * linears in the order in which a step uses them; backends may load them in that order.
 */
#ifndef LODGE_KERNELS_PLAN_H
#define LODGE_KERNELS_PLAN_H

#include "base/arena.h"
#include "base/error.h"
#include "kernels/format.h"

#define LODGE_NONE (-1)
#define LODGE_HEAD_DIM_MAX 512u
#define LODGE_KV_DIM_STEP 16u /* head dims are padded to this in pages */

/* How keys and values are kept in pages. */
enum lodge_kv_dtype {
    LODGE_KV_BF16,
    LODGE_KV_INT8, /* and a bf16 scale for each token and kv head, of keys and of values */
    LODGE_KV_DTYPE_COUNT
};

/* "bf16", "int8". Static storage. */
const char *lodge_kv_dtype_name(enum lodge_kv_dtype t);
/* The dtype of a name: those above, "bfloat16", and "auto" or NULL for the default, bf16. INVALID
 * lists them. */
int lodge_kv_dtype_parse(const char *name, enum lodge_kv_dtype *out, struct lodge_error *e);
/* A head dim as it stands in pages: the next multiple of LODGE_KV_DIM_STEP. */
uint32_t lodge_kv_dim(uint32_t head_dim);
/* The greatest power of two that divides it: dims of a block that int8 keys are rotated in. */
static inline uint32_t lodge_kv_block(uint32_t kv_dim)
{
    return kv_dim & (~kv_dim + 1);
}
/* Bytes of keys and values, with their scales, of one (page of `page_tokens` tokens, layer, kv
 * head). Pages hold them one after another: layer by layer of the group, head by head. */
size_t lodge_kv_head_bytes(enum lodge_kv_dtype t, uint32_t head_dim, uint32_t page_tokens);

/* Where a linear sits; with the layer it names an adapter's target. */
enum lodge_site {
    LODGE_SITE_Q,
    LODGE_SITE_K,
    LODGE_SITE_V,
    LODGE_SITE_O,
    LODGE_SITE_GATE,
    LODGE_SITE_UP,
    LODGE_SITE_DOWN,
    LODGE_SITE_EMBED,
    LODGE_SITE_HEAD,
    LODGE_SITE_COUNT
};

/* "q", "k", "v", "o", "gate", "up", "down", "embed", "head". Static storage. */
const char *lodge_site_name(enum lodge_site site);

/* Stored row order against the plan's (half-split rotation) order.
 * PAIRS: inside each head of d rows stored[2i + j] = plan[j * d/2 + i], j in {0, 1}, i < d/2
 * (what GGUF converters do to q and k of llama models). The backend undoes it when it packs, so
 * that one rotation and one adapter layout serve every file. */
enum lodge_row_order { LODGE_ROWS_PLAIN, LODGE_ROWS_PAIRS };

struct lodge_linear {
    enum lodge_format format;
    uint32_t n_rows; /* N: outputs */
    uint32_t n_cols; /* K: inputs */
    enum lodge_row_order order;
    uint32_t head_dim; /* of the heads that `order` permutes */
    enum lodge_site site;
    int32_t layer; /* LODGE_NONE for embedding and head */
};

/* Bytes of one linear: N rows as lodge_format_row_bytes says, any alignment, not owned.
 * F8_E4M3 also has scales, in the plan's arena: element (n, k) is its code's value times
 * scales[n / scale_rows * n_col_blocks + k / scale_cols], where n_col_blocks = ceil(K /
 * scale_cols). */
struct lodge_tensor {
    const void *data;
    const float *scales;
    uint32_t scale_rows, scale_cols; /* UINT32_MAX: all of them */
};

/* Norm weights and biases, always fp32, in the plan's row order, owned by the plan's arena. */
struct lodge_vector {
    const float *data;
    uint32_t n;
};

/* Rotation of the first 2 * n_freqs dims of a head, half-split pairs (i, i + n_freqs):
 * angle = position * inv_freq[i]; cos and sin are multiplied by `scale`. */
struct lodge_rope {
    const float *inv_freq;
    uint32_t n_freqs;
    float scale;
};

/* Layers whose keys and values share one page: one kind (heads, window), consecutive in index
 * inside the group. Made by lodge_plan_group. */
struct lodge_layer_group {
    uint32_t n_layers;
    uint32_t n_kv_heads;
    uint32_t head_dim;
    uint32_t window; /* 0: full attention; W: a query sees the W newest keys, itself included */
};

enum lodge_activation { LODGE_ACT_SILU, LODGE_ACT_GELU_TANH, LODGE_ACT_GELU };

enum lodge_op_kind {
    LODGE_OP_EMBED,
    LODGE_OP_QKV,
    LODGE_OP_ATTN,
    LODGE_OP_PROJ,
    LODGE_OP_GATE_UP,
    LODGE_OP_HEAD
};

/* RMS: x * rsqrt(mean(x^2) + eps) * weight; LAYER: y = x - mean(x), y * rsqrt(mean(y^2) + eps) *
 * weight + bias; in fp32. */
enum lodge_norm_kind { LODGE_NORM_RMS, LODGE_NORM_LAYER };

struct lodge_norm {
    enum lodge_norm_kind kind;
    int32_t weight; /* vector, or LODGE_NONE: no norm */
    int32_t bias;   /* of LAYER, or LODGE_NONE */
    float eps;
};

struct lodge_op_embed {
    int32_t table;
    float scale;
};

struct lodge_op_qkv {
    struct lodge_norm norm;
    int32_t linear[3];        /* q, k, v */
    int32_t bias[3];          /* vectors or LODGE_NONE */
    struct lodge_norm q_norm; /* vector of head_dim: per head; of N: over all heads */
    struct lodge_norm k_norm;
    int32_t rope; /* or LODGE_NONE */
    uint32_t n_heads, n_kv_heads, head_dim;
    uint32_t layer;
    uint32_t group, group_layer; /* set by lodge_plan_group */
};

struct lodge_op_attn {
    uint32_t n_heads, n_kv_heads, head_dim;
    float scale;
    float softcap; /* 0: none; c: c * tanh(s / c), before masking */
    uint32_t window;
    uint32_t layer;
    uint32_t group, group_layer;
};

struct lodge_op_proj {
    int32_t linear;
    int32_t bias;
    struct lodge_norm post_norm;
    float multiplier;
};

struct lodge_op_gate_up {
    struct lodge_norm norm;
    int32_t gate, up; /* gate LODGE_NONE: the activation is up's */
    int32_t gate_bias, up_bias;
    enum lodge_activation act;
};

struct lodge_op_head {
    struct lodge_norm norm;
    int32_t linear;
    float softcap;
    float multiplier;
};

struct lodge_op {
    enum lodge_op_kind kind;
    union {
        struct lodge_op_embed embed;
        struct lodge_op_qkv qkv;
        struct lodge_op_attn attn;
        struct lodge_op_proj proj;
        struct lodge_op_gate_up gate_up;
        struct lodge_op_head head;
    };
};

struct lodge_plan {
    struct lodge_arena arena; /* owns everything below */
    uint32_t d_model;
    uint32_t n_layers;
    uint32_t n_vocab;      /* rows of the head: logits per row */
    uint32_t n_vocab_text; /* ids the tokenizer knows; logits at or above are never sampled */
    uint32_t n_context;    /* positions the model was made for */
    struct lodge_linear *linears;
    struct lodge_tensor *tensors; /* parallel to linears; bytes belong to the model file */
    uint32_t n_linears;
    struct lodge_vector *vectors;
    uint32_t n_vectors;
    struct lodge_rope *ropes;
    uint32_t n_ropes;
    struct lodge_op *ops;
    uint32_t n_ops;
    struct lodge_layer_group *groups;
    uint32_t n_groups;
    uint32_t *layer_group; /* per layer: group */
};

/* Checks every index and shape of a plan (linears exist, N and K agree with heads and widths,
 * vectors have the right length, formats divide K, ops in an order that a backend can run).
 * INVALID naming the op. Backends may rely on it. */
int lodge_plan_check(const struct lodge_plan *p, struct lodge_error *e);

/* Splits the layers into groups of one kind, each group into equal parts until a page of
 * `page_tokens` tokens of `kv` is at most 2 MiB; fills groups, layer_group and the ops' group
 * fields. NOMEM. Calling it again replaces the groups. */
int lodge_plan_group(struct lodge_plan *p, enum lodge_kv_dtype kv, uint32_t page_tokens,
                     struct lodge_error *e);

/* Bytes of keys and values that one page of group g needs for T tokens. */
size_t lodge_plan_group_bytes(const struct lodge_plan *p, uint32_t g, enum lodge_kv_dtype kv,
                              uint32_t page_tokens);
/* Page size in bytes for all groups: the largest need, rounded up to 4096. */
size_t lodge_plan_page_bytes(const struct lodge_plan *p, enum lodge_kv_dtype kv,
                             uint32_t page_tokens);
/* An earlier linear with the same stored bytes in the same form (a tied head), or LODGE_NONE. */
int32_t lodge_plan_twin(const struct lodge_plan *p, uint32_t linear);
/* Bytes of all linears as stored, twins once. */
size_t lodge_plan_weight_bytes(const struct lodge_plan *p);

#endif
