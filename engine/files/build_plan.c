/* Shape + tensors -> plan. What a family is, is a table; what a layer does is one sequence of ops.
 */
#include "engine/files/shape.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

struct build {
    const struct lodge_model_shape *s;
    const struct lodge_tensor_source *src;
    struct lodge_plan *p;
    bool *used;   /* by tensor of the source */
    float *pairs; /* one head */
    struct lodge_error *e;
};

static bool find(const struct build *b, const char *name, struct lodge_source_tensor *t)
{
    if (!b->src->find(b->src->container, name, t))
        return false;
    b->used[t->index] = true;
    return true;
}

static void tensor_name(const struct build *b, enum lodge_part part, uint32_t layer,
                        const char *suffix, char out[96])
{
    lodge_family_tensor(b->s->family, part, b->src->gguf, layer, suffix, out);
}

static int get(const struct build *b, const char *name, uint64_t rows, uint64_t cols,
               struct lodge_source_tensor *t)
{
    const char *where = b->src->where;
    if (!find(b, name, t))
        return lodge_fail(
            b->e, LODGE_ERR_FORMAT,
            "%s: tensor '%s' is missing; the model is incomplete, fetch or convert it again", where,
            name);
    if (t->format < 0)
        return lodge_fail(b->e, LODGE_ERR_UNSUPPORTED,
                          "%s: tensor '%s' has weight type %s; supported are %s: convert the model "
                          "to one of them",
                          where, name, t->type_name, lodge_format_names());
    if (t->n_dims > 2 || t->rows != rows || t->cols != cols)
        return lodge_fail(
            b->e, LODGE_ERR_FORMAT,
            "%s: tensor '%s' has shape [%llu, %llu], expected [%llu, %llu]; weights and "
            "configuration are not of one model, fetch both again",
            where, name, (unsigned long long)t->rows, (unsigned long long)t->cols,
            (unsigned long long)rows, (unsigned long long)cols);
    size_t row_bytes;
    if (!lodge_format_row_bytes((enum lodge_format)t->format, cols, &row_bytes) ||
        t->n_bytes != row_bytes * rows)
        return lodge_fail(b->e, LODGE_ERR_FORMAT,
                          "%s: tensor '%s' has %zu bytes, which does not "
                          "fit its shape",
                          where, name, t->n_bytes);
    return 0;
}

/* Where a linear is stored: rows [first, first + its own) of a tensor of n_rows rows. */
struct slice {
    enum lodge_part part;
    uint32_t first, n_rows;
};

static bool is_stored(const struct build *b, enum lodge_part part, uint32_t layer)
{
    char name[96];
    struct lodge_source_tensor t;
    tensor_name(b, part, layer, ".weight", name);
    return b->src->find(b->src->container, name, &t);
}

static struct slice slice_of(const struct build *b, enum lodge_site site, uint32_t layer)
{
    const struct lodge_model_shape *s = b->s;
    const uint32_t q = s->n_heads * s->head_dim, kv = s->n_kv_heads * s->head_dim;
    bool fused = lodge_has(s->family, LODGE_TRAIT_FUSED);
    /* Some converters fuse q, k and v of other families too. */
    bool qkv = fused || (site <= LODGE_SITE_V && is_stored(b, LODGE_PART_QKV, layer));
    switch (site) {
    case LODGE_SITE_Q:
        return qkv ? (struct slice){LODGE_PART_QKV, 0, q + 2 * kv}
                   : (struct slice){LODGE_PART_Q, 0, q};
    case LODGE_SITE_K:
        return qkv ? (struct slice){LODGE_PART_QKV, q, q + 2 * kv}
                   : (struct slice){LODGE_PART_K, 0, kv};
    case LODGE_SITE_V:
        return qkv ? (struct slice){LODGE_PART_QKV, q + kv, q + 2 * kv}
                   : (struct slice){LODGE_PART_V, 0, kv};
    case LODGE_SITE_GATE:
        return fused ? (struct slice){LODGE_PART_GATE_UP, 0, 2 * s->d_ff}
                     : (struct slice){LODGE_PART_GATE, 0, s->d_ff};
    case LODGE_SITE_UP:
        return fused ? (struct slice){LODGE_PART_GATE_UP, s->d_ff, 2 * s->d_ff}
                     : (struct slice){LODGE_PART_UP, 0, s->d_ff};
    case LODGE_SITE_O:
        return (struct slice){LODGE_PART_O, 0, s->d_model};
    case LODGE_SITE_DOWN:
        return (struct slice){LODGE_PART_DOWN, 0, s->d_model};
    case LODGE_SITE_EMBED:
        return (struct slice){LODGE_PART_EMBED, 0, s->n_vocab};
    default:
        /* A tied head is a linear of its own over the same bytes, so that adapters can tell the
         * two apart; backends keep one copy. */
        return (struct slice){s->tied ? LODGE_PART_EMBED : LODGE_PART_HEAD, 0, s->n_vocab};
    }
}

static int add_linear(struct build *b, enum lodge_site site, uint32_t layer, uint32_t rows,
                      uint32_t cols, int32_t *index)
{
    char name[96];
    struct lodge_source_tensor t;
    struct slice slice = slice_of(b, site, layer);
    tensor_name(b, slice.part, layer, ".weight", name);
    int err = get(b, name, slice.n_rows, cols, &t);
    if (err)
        return err;
    bool per_layer = site != LODGE_SITE_EMBED && site != LODGE_SITE_HEAD;
    bool pairs = b->src->gguf && lodge_has(b->s->family, LODGE_TRAIT_GGUF_PAIRS) &&
                 (site == LODGE_SITE_Q || site == LODGE_SITE_K);
    *index = (int32_t)b->p->n_linears++;
    b->p->linears[*index] = (struct lodge_linear){
        .format = (enum lodge_format)t.format,
        .n_rows = rows,
        .n_cols = cols,
        .order = pairs ? LODGE_ROWS_PAIRS : LODGE_ROWS_PLAIN,
        .head_dim = b->s->head_dim,
        .site = site,
        .layer = per_layer ? (int32_t)layer : LODGE_NONE,
    };
    struct lodge_tensor *to = &b->p->tensors[*index];
    *to = (struct lodge_tensor){.data = t.data + t.n_bytes / slice.n_rows * slice.first};
    return t.format != LODGE_FMT_F8_E4M3
               ? 0
               : lodge_take_scales(&t, slice.first, b->src->where, name, &b->p->arena, to, b->e);
}

/* hf[j * d/2 + i] = gguf[2i + j] inside each head. */
static void undo_pairs(float *v, uint32_t n, uint32_t d, float *scratch)
{
    for (uint32_t h = 0; h + d <= n; h += d) {
        memcpy(scratch, v + h, d * sizeof *v);
        for (uint32_t i = 0; i < d / 2; i++)
            for (uint32_t j = 0; j < 2; j++)
                v[h + j * (d / 2) + i] = scratch[2 * i + j];
    }
}

/* `n` numbers from `first` on of a stored vector of `total`, plus `shift`. */
static int add_vector(struct build *b, const char *name, uint32_t total, uint32_t first, uint32_t n,
                      float shift, int32_t *index)
{
    struct lodge_source_tensor t;
    int err = get(b, name, 1, total, &t);
    if (err)
        return err;
    float *v = lodge_arena_array(&b->p->arena, (size_t)total + b->s->head_dim, sizeof *v);
    if (!v)
        return lodge_fail(b->e, LODGE_ERR_NOMEM, "%s: no memory for '%s'", b->src->where, name);
    lodge_format_decode((enum lodge_format)t.format, t.data, total, v);
    for (uint32_t i = 0; i < total; i++)
        v[i] += shift;
    *index = (int32_t)b->p->n_vectors++;
    b->p->vectors[*index] = (struct lodge_vector){v + first, n};
    return 0;
}

static int add_bias(struct build *b, bool wanted, enum lodge_site site, uint32_t layer, uint32_t n,
                    int32_t *index)
{
    char name[96];
    struct slice slice = slice_of(b, site, layer);
    *index = LODGE_NONE;
    if (!wanted)
        return 0;
    tensor_name(b, slice.part, layer, ".bias", name);
    int err = add_vector(b, name, slice.n_rows, slice.first, n, 0, index);
    if (!err && b->p->linears[b->p->n_linears - 1].order == LODGE_ROWS_PAIRS) {
        struct lodge_vector *v = &b->p->vectors[*index];
        float *data = (float *)(uintptr_t)v->data;
        undo_pairs(data, n, b->s->head_dim, b->pairs);
    }
    return err;
}

static struct lodge_norm no_norm(void)
{
    return (struct lodge_norm){.weight = LODGE_NONE, .bias = LODGE_NONE};
}

static int add_norm(struct build *b, enum lodge_part part, uint32_t layer, uint32_t n,
                    struct lodge_norm *out)
{
    const struct lodge_family *f = b->s->family;
    char name[96];
    bool plus_one = !b->src->gguf && lodge_has(f, LODGE_TRAIT_NORM_PLUS_ONE);
    *out = no_norm();
    out->eps = b->s->norm_eps;
    tensor_name(b, part, layer, ".weight", name);
    int err = add_vector(b, name, n, 0, n, plus_one ? 1 : 0, &out->weight);
    if (err || !lodge_has(f, LODGE_TRAIT_LAYER_NORM))
        return err;
    out->kind = LODGE_NORM_LAYER;
    tensor_name(b, part, layer, ".bias", name);
    return add_vector(b, name, n, 0, n, 0, &out->bias);
}

static int add_pre_norm(struct build *b, enum lodge_part part, uint32_t layer,
                        struct lodge_norm *out)
{
    *out = no_norm();
    if (lodge_has(b->s->family, LODGE_TRAIT_NO_PRE_NORM))
        return 0;
    return add_norm(b, part, layer, b->s->d_model, out);
}

static struct lodge_op *add_op(struct build *b, enum lodge_op_kind kind)
{
    struct lodge_op *op = &b->p->ops[b->p->n_ops++];
    op->kind = kind;
    return op;
}

/* ---- a layer ---- */

static int add_qk_norms(struct build *b, uint32_t layer, struct lodge_op_qkv *op)
{
    const struct lodge_model_shape *s = b->s;
    bool all = lodge_has(s->family, LODGE_TRAIT_QK_NORM_ALL);
    op->q_norm = op->k_norm = no_norm();
    if (!all && !lodge_has(s->family, LODGE_TRAIT_QK_NORM))
        return 0;
    uint32_t q = all ? s->n_heads * s->head_dim : s->head_dim;
    uint32_t k = all ? s->n_kv_heads * s->head_dim : s->head_dim;
    int err = add_norm(b, LODGE_PART_Q_NORM, layer, q, &op->q_norm);
    return err ? err : add_norm(b, LODGE_PART_K_NORM, layer, k, &op->k_norm);
}

static int add_qkv(struct build *b, uint32_t layer)
{
    const struct lodge_model_shape *s = b->s;
    static const enum lodge_site site[3] = {LODGE_SITE_Q, LODGE_SITE_K, LODGE_SITE_V};
    const uint32_t rows[3] = {s->n_heads * s->head_dim, s->n_kv_heads * s->head_dim,
                              s->n_kv_heads * s->head_dim};
    struct lodge_op_qkv *op = &add_op(b, LODGE_OP_QKV)->qkv;
    *op = (struct lodge_op_qkv){.rope = s->slides[layer] && s->local_rope.n_dims ? 1 : 0,
                                .n_heads = s->n_heads,
                                .n_kv_heads = s->n_kv_heads,
                                .head_dim = s->head_dim,
                                .layer = layer};
    int err = add_pre_norm(b, LODGE_PART_ATTN_NORM, layer, &op->norm);
    for (int i = 0; i < 3 && !err; i++) {
        err = add_linear(b, site[i], layer, rows[i], s->d_model, &op->linear[i]);
        if (!err)
            err = add_bias(b, s->qkv_bias, site[i], layer, rows[i], &op->bias[i]);
    }
    return err ? err : add_qk_norms(b, layer, op);
}

/* post: the norm of what is added. */
static int add_proj(struct build *b, enum lodge_site site, uint32_t layer, uint32_t cols, bool bias,
                    enum lodge_part post)
{
    const struct lodge_model_shape *s = b->s;
    struct lodge_op_proj *op = &add_op(b, LODGE_OP_PROJ)->proj;
    *op =
        (struct lodge_op_proj){.post_norm = no_norm(), .multiplier = (float)s->residual_multiplier};
    int err = add_linear(b, site, layer, s->d_model, cols, &op->linear);
    /* Some converters drop o's bias only; a missing one is zero. */
    char name[96];
    struct lodge_source_tensor t;
    tensor_name(b, site == LODGE_SITE_O ? LODGE_PART_O : LODGE_PART_DOWN, layer, ".bias", name);
    if (!err)
        err = add_bias(b, bias && find(b, name, &t), site, layer, s->d_model, &op->bias);
    if (!err && lodge_has(s->family, LODGE_TRAIT_POST_NORM))
        err = add_norm(b, post, layer, s->d_model, &op->post_norm);
    return err;
}

static int add_gate_up(struct build *b, uint32_t layer)
{
    const struct lodge_model_shape *s = b->s;
    struct lodge_op_gate_up *op = &add_op(b, LODGE_OP_GATE_UP)->gate_up;
    *op = (struct lodge_op_gate_up){.gate = LODGE_NONE, .gate_bias = LODGE_NONE, .act = s->act};
    int err = add_pre_norm(b, LODGE_PART_MLP_NORM, layer, &op->norm);
    if (!err && !lodge_has(s->family, LODGE_TRAIT_UNGATED)) {
        err = add_linear(b, LODGE_SITE_GATE, layer, s->d_ff, s->d_model, &op->gate);
        if (!err)
            err = add_bias(b, s->mlp_bias, LODGE_SITE_GATE, layer, s->d_ff, &op->gate_bias);
    }
    if (!err)
        err = add_linear(b, LODGE_SITE_UP, layer, s->d_ff, s->d_model, &op->up);
    return err ? err : add_bias(b, s->mlp_bias, LODGE_SITE_UP, layer, s->d_ff, &op->up_bias);
}

static double attention_scale(const struct lodge_model_shape *s)
{
    double scalar = s->query_scalar > 0 ? s->query_scalar : s->head_dim;
    return s->attention_scale > 0 ? s->attention_scale : 1.0 / sqrt(scalar);
}

static int add_layer(struct build *b, uint32_t layer)
{
    const struct lodge_model_shape *s = b->s;
    int err = add_qkv(b, layer);
    if (err)
        return err;
    add_op(b, LODGE_OP_ATTN)->attn = (struct lodge_op_attn){
        .n_heads = s->n_heads,
        .n_kv_heads = s->n_kv_heads,
        .head_dim = s->head_dim,
        .scale = (float)attention_scale(s),
        .softcap = (float)s->attention_softcap,
        .window = s->window[layer],
        .layer = layer,
    };
    err = add_proj(b, LODGE_SITE_O, layer, s->n_heads * s->head_dim, s->o_bias,
                   LODGE_PART_ATTN_POST_NORM);
    if (!err)
        err = add_gate_up(b, layer);
    return err ? err
               : add_proj(b, LODGE_SITE_DOWN, layer, s->d_ff, s->mlp_bias,
                          LODGE_PART_MLP_POST_NORM);
}

/* ---- the whole ---- */

static int add_rope(struct build *b, const struct lodge_rope_shape *r, uint32_t served_context)
{
    float *freq = lodge_arena_array(&b->p->arena, r->n_dims / 2, sizeof *freq);
    if (!freq)
        return lodge_fail(b->e, LODGE_ERR_NOMEM, "%s: no memory", b->src->where);
    struct lodge_rope *rope = &b->p->ropes[b->p->n_ropes++];
    lodge_rope_frequencies(r, b->s->n_context, served_context, freq, &rope->scale);
    rope->inv_freq = freq;
    rope->n_freqs = r->n_dims / 2;
    return 0;
}

static int reserve(struct build *b)
{
    struct lodge_plan *p = b->p;
    size_t n = b->s->n_layers;
    p->linears = lodge_arena_array(&p->arena, 7 * n + 2, sizeof *p->linears);
    p->tensors = lodge_arena_array(&p->arena, 7 * n + 2, sizeof *p->tensors);
    /* A layer: seven biases, six norms of two vectors. */
    p->vectors = lodge_arena_array(&p->arena, 19 * n + 2, sizeof *p->vectors);
    p->ops = lodge_arena_array(&p->arena, 5 * n + 2, sizeof *p->ops);
    p->ropes = lodge_arena_array(&p->arena, 2, sizeof *p->ropes);
    b->used = lodge_arena_array(&p->arena, b->src->n_tensors + 1, sizeof *b->used);
    b->pairs = lodge_arena_array(&p->arena, b->s->head_dim, sizeof *b->pairs);
    if (!p->linears || !p->tensors || !p->vectors || !p->ops || !p->ropes || !b->used || !b->pairs)
        return lodge_fail(b->e, LODGE_ERR_NOMEM, "%s: no memory for the plan", b->src->where);
    return 0;
}

/* To the nearest number of that many significant bits, ties to even. */
static float round_bits(float f, int bits)
{
    int exponent;
    float m = frexpf(f, &exponent);
    return ldexpf(rintf(ldexpf(m, bits)), exponent - bits);
}

/* sqrt(d_model) in the precision of the table, as the models are trained. */
static double embedding_scale(const struct build *b, const struct lodge_linear *table)
{
    const struct lodge_model_shape *s = b->s;
    if (!lodge_has(s->family, LODGE_TRAIT_SCALED_EMBEDDING))
        return s->embedding_multiplier;
    float root = sqrtf((float)s->d_model);
    if (table->format == LODGE_FMT_BF16)
        root = round_bits(root, 8);
    else if (table->format == LODGE_FMT_F16)
        root = round_bits(root, 11);
    return (double)root;
}

static int add_all(struct build *b, uint32_t served_context)
{
    const struct lodge_model_shape *s = b->s;
    int32_t table = 0;
    int err = reserve(b);
    if (!err)
        err = add_rope(b, &s->rope, served_context);
    if (!err && s->local_rope.n_dims)
        err = add_rope(b, &s->local_rope, served_context);
    if (!err)
        err = add_linear(b, LODGE_SITE_EMBED, 0, s->n_vocab, s->d_model, &table);
    if (err)
        return err;
    add_op(b, LODGE_OP_EMBED)->embed = (struct lodge_op_embed){
        .table = table, .scale = (float)embedding_scale(b, &b->p->linears[table])};
    for (uint32_t i = 0; i < s->n_layers && !err; i++)
        err = add_layer(b, i);
    if (err)
        return err;
    struct lodge_op_head *head = &add_op(b, LODGE_OP_HEAD)->head;
    *head = (struct lodge_op_head){.softcap = (float)s->logit_softcap,
                                   .multiplier = (float)(1 / s->logit_divisor)};
    err = add_norm(b, LODGE_PART_NORM, 0, s->d_model, &head->norm);
    if (!err)
        err = add_linear(b, LODGE_SITE_HEAD, 0, s->n_vocab, s->d_model, &head->linear);
    return err ? err : lodge_refuse_unused(s, b->src, b->used, b->e);
}

int lodge_build_plan(const struct lodge_model_shape *shape, const struct lodge_tensor_source *src,
                     uint32_t served_context, struct lodge_plan *out, struct lodge_error *e)
{
    *out = (struct lodge_plan){.d_model = shape->d_model,
                               .n_layers = shape->n_layers,
                               .n_vocab = shape->n_vocab,
                               .n_vocab_text = shape->n_vocab,
                               .n_context = shape->n_context};
    lodge_arena_init(&out->arena, 0);
    struct build b = {.s = shape, .src = src, .p = out, .e = e};
    int err = add_all(&b, served_context);
    if (!err)
        err = lodge_plan_check(out, e);
    if (err)
        lodge_arena_finish(&out->arena);
    return err;
}
