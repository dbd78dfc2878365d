/* Shape + tensors -> plan. Names of tensors are a table; what a layer does is one sequence of ops.
 */
#include "engine/files/shape.h"

#include <stdio.h>
#include <string.h>

struct build {
    const struct lodge_model_shape *s;
    const struct lodge_tensor_source *src;
    struct lodge_plan *p;
    struct lodge_error *e;
};

enum name {
    NAME_EMBED,
    NAME_NORM,
    NAME_HEAD,
    NAME_ATTN_NORM,
    NAME_Q,
    NAME_K,
    NAME_V,
    NAME_O,
    NAME_MLP_NORM,
    NAME_GATE,
    NAME_UP,
    NAME_DOWN,
};

/* %u is the layer; ".weight" or ".bias" follows. */
static const struct {
    const char *hf, *gguf;
} names[] = {
    [NAME_EMBED] = {"model.embed_tokens", "token_embd"},
    [NAME_NORM] = {"model.norm", "output_norm"},
    [NAME_HEAD] = {"lm_head", "output"},
    [NAME_ATTN_NORM] = {"model.layers.%u.input_layernorm", "blk.%u.attn_norm"},
    [NAME_Q] = {"model.layers.%u.self_attn.q_proj", "blk.%u.attn_q"},
    [NAME_K] = {"model.layers.%u.self_attn.k_proj", "blk.%u.attn_k"},
    [NAME_V] = {"model.layers.%u.self_attn.v_proj", "blk.%u.attn_v"},
    [NAME_O] = {"model.layers.%u.self_attn.o_proj", "blk.%u.attn_output"},
    [NAME_MLP_NORM] = {"model.layers.%u.post_attention_layernorm", "blk.%u.ffn_norm"},
    [NAME_GATE] = {"model.layers.%u.mlp.gate_proj", "blk.%u.ffn_gate"},
    [NAME_UP] = {"model.layers.%u.mlp.up_proj", "blk.%u.ffn_up"},
    [NAME_DOWN] = {"model.layers.%u.mlp.down_proj", "blk.%u.ffn_down"},
};

static void tensor_name(const struct build *b, enum name n, uint32_t layer, const char *suffix,
                        char out[96])
{
    const char *pattern = b->src->gguf ? names[n].gguf : names[n].hf;
    const char *hole = strstr(pattern, "%u");
    if (hole)
        snprintf(out, 96, "%.*s%u%s%s", (int)(hole - pattern), pattern, layer, hole + 2, suffix);
    else
        snprintf(out, 96, "%s%s", pattern, suffix);
}

static int get(const struct build *b, const char *name, uint64_t rows, uint64_t cols,
               struct lodge_source_tensor *t)
{
    const char *where = b->src->where;
    if (!b->src->find(b->src->container, name, t))
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

static int add_linear(struct build *b, enum name n, uint32_t layer, enum lodge_site site,
                      uint32_t rows, uint32_t cols, int32_t *index)
{
    char name[96];
    struct lodge_source_tensor t;
    tensor_name(b, n, layer, ".weight", name);
    int err = get(b, name, rows, cols, &t);
    if (err)
        return err;
    bool per_layer = site != LODGE_SITE_EMBED && site != LODGE_SITE_HEAD;
    bool pairs =
        b->src->gguf && b->s->family->gguf_pairs && (site == LODGE_SITE_Q || site == LODGE_SITE_K);
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
    b->p->tensors[*index] = (struct lodge_tensor){.data = t.data};
    return t.format != LODGE_FMT_F8_E4M3 ? 0
                                         : lodge_take_scales(&t, b->src->where, name, &b->p->arena,
                                                             &b->p->tensors[*index], b->e);
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

static int add_vector(struct build *b, enum name n, uint32_t layer, const char *suffix,
                      uint32_t len, int32_t *index)
{
    char name[96];
    struct lodge_source_tensor t;
    tensor_name(b, n, layer, suffix, name);
    int err = get(b, name, 1, len, &t);
    if (err)
        return err;
    float *v = lodge_arena_array(&b->p->arena, len + b->s->head_dim, sizeof *v);
    if (!v)
        return lodge_fail(b->e, LODGE_ERR_NOMEM, "%s: no memory for '%s'", b->src->where, name);
    lodge_format_decode((enum lodge_format)t.format, t.data, len, v);
    if (b->src->gguf && b->s->family->gguf_pairs && (n == NAME_Q || n == NAME_K))
        undo_pairs(v, len, b->s->head_dim, v + len);
    *index = (int32_t)b->p->n_vectors++;
    b->p->vectors[*index] = (struct lodge_vector){v, len};
    return 0;
}

static int add_bias(struct build *b, bool wanted, enum name n, uint32_t layer, uint32_t len,
                    int32_t *index)
{
    *index = LODGE_NONE;
    return wanted ? add_vector(b, n, layer, ".bias", len, index) : 0;
}

static struct lodge_op *add_op(struct build *b, enum lodge_op_kind kind)
{
    struct lodge_op *op = &b->p->ops[b->p->n_ops++];
    op->kind = kind;
    return op;
}

static struct lodge_norm no_norm(void)
{
    return (struct lodge_norm){.weight = LODGE_NONE};
}

static int add_qkv(struct build *b, uint32_t layer)
{
    const struct lodge_model_shape *s = b->s;
    static const enum name name[3] = {NAME_Q, NAME_K, NAME_V};
    static const enum lodge_site site[3] = {LODGE_SITE_Q, LODGE_SITE_K, LODGE_SITE_V};
    const uint32_t rows[3] = {s->n_heads * s->head_dim, s->n_kv_heads * s->head_dim,
                              s->n_kv_heads * s->head_dim};
    struct lodge_op_qkv *op = &add_op(b, LODGE_OP_QKV)->qkv;
    *op = (struct lodge_op_qkv){.norm.eps = s->norm_eps,
                                .q_norm = no_norm(),
                                .k_norm = no_norm(),
                                .rope = 0,
                                .n_heads = s->n_heads,
                                .n_kv_heads = s->n_kv_heads,
                                .head_dim = s->head_dim,
                                .layer = layer};
    int err = add_vector(b, NAME_ATTN_NORM, layer, ".weight", s->d_model, &op->norm.weight);
    for (int i = 0; i < 3 && !err; i++) {
        err = add_linear(b, name[i], layer, site[i], rows[i], s->d_model, &op->linear[i]);
        if (!err)
            err = add_bias(b, s->attention_bias, name[i], layer, rows[i], &op->bias[i]);
    }
    return err;
}

static int add_proj(struct build *b, enum name n, enum lodge_site site, uint32_t layer,
                    uint32_t cols, bool bias)
{
    struct lodge_op_proj *op = &add_op(b, LODGE_OP_PROJ)->proj;
    *op = (struct lodge_op_proj){.post_norm = no_norm(), .multiplier = 1};
    int err = add_linear(b, n, layer, site, b->s->d_model, cols, &op->linear);
    /* Some converters drop o's bias only; a missing one is zero. */
    char name[96];
    struct lodge_source_tensor t;
    tensor_name(b, n, layer, ".bias", name);
    bool there = bias && b->src->find(b->src->container, name, &t);
    return err ? err : add_bias(b, there, n, layer, b->s->d_model, &op->bias);
}

static int add_gate_up(struct build *b, uint32_t layer)
{
    const struct lodge_model_shape *s = b->s;
    struct lodge_op_gate_up *op = &add_op(b, LODGE_OP_GATE_UP)->gate_up;
    *op = (struct lodge_op_gate_up){.norm.eps = s->norm_eps, .act = s->act};
    int err = add_vector(b, NAME_MLP_NORM, layer, ".weight", s->d_model, &op->norm.weight);
    if (!err)
        err = add_linear(b, NAME_GATE, layer, LODGE_SITE_GATE, s->d_ff, s->d_model, &op->gate);
    if (!err)
        err = add_linear(b, NAME_UP, layer, LODGE_SITE_UP, s->d_ff, s->d_model, &op->up);
    if (!err)
        err = add_bias(b, s->mlp_bias, NAME_GATE, layer, s->d_ff, &op->gate_bias);
    return err ? err : add_bias(b, s->mlp_bias, NAME_UP, layer, s->d_ff, &op->up_bias);
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
        .scale = (float)(1.0 / __builtin_sqrt((double)s->head_dim)),
        .window = s->window[layer],
        .layer = layer,
    };
    err = add_proj(b, NAME_O, LODGE_SITE_O, layer, s->n_heads * s->head_dim, s->attention_bias);
    if (!err)
        err = add_gate_up(b, layer);
    return err ? err : add_proj(b, NAME_DOWN, LODGE_SITE_DOWN, layer, s->d_ff, s->mlp_bias);
}

static int add_rope(struct build *b, uint32_t served_context)
{
    const struct lodge_rope_shape *r = &b->s->rope;
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
    uint32_t n = b->s->n_layers;
    p->linears = lodge_arena_array(&p->arena, 7 * (size_t)n + 2, sizeof *p->linears);
    p->tensors = lodge_arena_array(&p->arena, 7 * (size_t)n + 2, sizeof *p->tensors);
    p->vectors = lodge_arena_array(&p->arena, 9 * (size_t)n + 1, sizeof *p->vectors);
    p->ops = lodge_arena_array(&p->arena, 5 * (size_t)n + 2, sizeof *p->ops);
    p->ropes = lodge_arena_array(&p->arena, 1, sizeof *p->ropes);
    if (!p->linears || !p->tensors || !p->vectors || !p->ops || !p->ropes)
        return lodge_fail(b->e, LODGE_ERR_NOMEM, "%s: no memory for the plan", b->src->where);
    return 0;
}

static int add_all(struct build *b, uint32_t served_context)
{
    const struct lodge_model_shape *s = b->s;
    int32_t table = 0;
    int err = reserve(b);
    if (!err)
        err = add_rope(b, served_context);
    if (!err)
        err = add_linear(b, NAME_EMBED, 0, LODGE_SITE_EMBED, s->n_vocab, s->d_model, &table);
    if (err)
        return err;
    add_op(b, LODGE_OP_EMBED)->embed = (struct lodge_op_embed){.table = table, .scale = 1};
    for (uint32_t i = 0; i < s->n_layers && !err; i++)
        err = add_layer(b, i);
    if (err)
        return err;
    struct lodge_op_head *head = &add_op(b, LODGE_OP_HEAD)->head;
    *head = (struct lodge_op_head){.norm.eps = s->norm_eps, .multiplier = 1};
    err = add_vector(b, NAME_NORM, 0, ".weight", s->d_model, &head->norm.weight);
    /* A tied head is a linear of its own over the same bytes, so that adapters can tell the two
     * apart; backends keep one copy. */
    if (!err)
        err = add_linear(b, s->tied ? NAME_EMBED : NAME_HEAD, 0, LODGE_SITE_HEAD, s->n_vocab,
                         s->d_model, &head->linear);
    return err;
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
