#include "kernels/plan.h"

#include <string.h>

#define PAGE_LIMIT ((size_t)2 << 20)

const char *lodge_site_name(enum lodge_site site)
{
    static const char *const names[LODGE_SITE_COUNT] = {"q",  "k",    "v",     "o",   "gate",
                                                        "up", "down", "embed", "head"};
    return names[site];
}

const char *lodge_kv_dtype_name(enum lodge_kv_dtype t)
{
    static const char *const names[LODGE_KV_DTYPE_COUNT] = {"bf16", "int8"};
    return names[t];
}

int lodge_kv_dtype_parse(const char *name, enum lodge_kv_dtype *out, struct lodge_error *e)
{
    *out = LODGE_KV_BF16;
    if (!name || strcmp(name, "auto") == 0 || strcmp(name, "bfloat16") == 0)
        return 0;
    for (int t = 0; t < LODGE_KV_DTYPE_COUNT; t++)
        if (strcmp(name, lodge_kv_dtype_name((enum lodge_kv_dtype)t)) == 0) {
            *out = (enum lodge_kv_dtype)t;
            return 0;
        }
    return lodge_fail(e, LODGE_ERR_INVALID,
                      "unknown format of keys and values '%s'; known: auto, bf16, bfloat16, int8",
                      name);
}

uint32_t lodge_kv_dim(uint32_t head_dim)
{
    return (head_dim + LODGE_KV_DIM_STEP - 1) / LODGE_KV_DIM_STEP * LODGE_KV_DIM_STEP;
}

size_t lodge_kv_head_bytes(enum lodge_kv_dtype t, uint32_t head_dim, uint32_t page_tokens)
{
    size_t dim = lodge_kv_dim(head_dim);
    return 2 * page_tokens * (t == LODGE_KV_INT8 ? dim + sizeof(uint16_t) : dim * sizeof(uint16_t));
}

struct check {
    const struct lodge_plan *p;
    struct lodge_error *e;
    uint32_t op;
};

static int bad(const struct check *c, const char *what)
{
    return lodge_fail(c->e, LODGE_ERR_INVALID, "plan op %u: %s", c->op, what);
}

static int check_linear(const struct check *c, int32_t i, uint64_t rows, uint64_t cols)
{
    if (i < 0 || (uint32_t)i >= c->p->n_linears)
        return bad(c, "no such linear");
    const struct lodge_linear *l = &c->p->linears[i];
    size_t bytes;
    if (l->n_rows != rows || l->n_cols != cols)
        return bad(c, "a linear has the wrong shape");
    if (!lodge_format_row_bytes(l->format, l->n_cols, &bytes) || !c->p->tensors[i].data)
        return bad(c, "a linear's format does not fit its width, or it has no bytes");
    if (l->order == LODGE_ROWS_PAIRS && (!l->head_dim || l->head_dim % 2 || rows % l->head_dim))
        return bad(c, "a linear's rows cannot be paired");
    return 0;
}

static int check_vector(const struct check *c, int32_t i, uint64_t n, uint64_t or_n)
{
    if (i == LODGE_NONE)
        return 0;
    if (i < 0 || (uint32_t)i >= c->p->n_vectors)
        return bad(c, "no such vector");
    uint32_t len = c->p->vectors[i].n;
    return len == n || len == or_n ? 0 : bad(c, "a vector has the wrong length");
}

static int check_norm(const struct check *c, const struct lodge_norm *norm, uint64_t n,
                      uint64_t or_n)
{
    if (norm->kind == LODGE_NORM_RMS && norm->bias != LODGE_NONE)
        return bad(c, "an RMS norm has a bias");
    int err = check_vector(c, norm->weight, n, or_n);
    return err ? err : check_vector(c, norm->bias, n, or_n);
}

static int check_qkv(const struct check *c, const struct lodge_op_qkv *q)
{
    if (!q->n_heads || !q->n_kv_heads || !q->head_dim || q->n_heads % q->n_kv_heads ||
        q->head_dim > LODGE_HEAD_DIM_MAX || q->layer >= c->p->n_layers)
        return bad(c, "impossible heads or layer");
    if (q->rope != LODGE_NONE && (q->rope < 0 || (uint32_t)q->rope >= c->p->n_ropes ||
                                  2 * (uint64_t)c->p->ropes[q->rope].n_freqs > q->head_dim))
        return bad(c, "impossible rotation");
    uint64_t rows[3] = {(uint64_t)q->n_heads * q->head_dim, (uint64_t)q->n_kv_heads * q->head_dim,
                        (uint64_t)q->n_kv_heads * q->head_dim};
    for (int i = 0; i < 3; i++)
        if (check_linear(c, q->linear[i], rows[i], c->p->d_model) ||
            check_vector(c, q->bias[i], rows[i], rows[i]))
            return LODGE_ERR_INVALID;
    if (check_norm(c, &q->norm, c->p->d_model, c->p->d_model) ||
        check_norm(c, &q->q_norm, q->head_dim, rows[0]))
        return LODGE_ERR_INVALID;
    return check_norm(c, &q->k_norm, q->head_dim, rows[1]);
}

static int check_gate_up(const struct check *c, const struct lodge_op_gate_up *g, uint64_t *width)
{
    uint64_t d = c->p->d_model;
    if (g->up < 0 || (uint32_t)g->up >= c->p->n_linears)
        return bad(c, "no such linear");
    *width = c->p->linears[g->up].n_rows;
    if (check_linear(c, g->up, *width, d) || check_norm(c, &g->norm, d, d) ||
        check_vector(c, g->up_bias, *width, *width) ||
        check_vector(c, g->gate_bias, *width, *width))
        return LODGE_ERR_INVALID;
    return g->gate == LODGE_NONE ? 0 : check_linear(c, g->gate, *width, d);
}

static int check_op(const struct check *c, const struct lodge_op *op, uint64_t *width)
{
    uint64_t d = c->p->d_model;
    switch (op->kind) {
    case LODGE_OP_EMBED:
        return c->op ? bad(c, "EMBED is not first")
                     : check_linear(c, op->embed.table, c->p->n_vocab, d);
    case LODGE_OP_QKV:
        return check_qkv(c, &op->qkv);
    case LODGE_OP_ATTN:
        *width = (uint64_t)op->attn.n_heads * op->attn.head_dim;
        return op->attn.layer < c->p->n_layers ? 0 : bad(c, "no such layer");
    case LODGE_OP_PROJ:
        return check_linear(c, op->proj.linear, d, *width) ||
                       check_vector(c, op->proj.bias, d, d) ||
                       check_norm(c, &op->proj.post_norm, d, d)
                   ? LODGE_ERR_INVALID
                   : 0;
    case LODGE_OP_GATE_UP:
        return check_gate_up(c, &op->gate_up, width);
    case LODGE_OP_HEAD:
        if (c->op + 1 != c->p->n_ops)
            return bad(c, "HEAD is not last");
        return check_linear(c, op->head.linear, c->p->n_vocab, d) ||
                       check_norm(c, &op->head.norm, d, d)
                   ? LODGE_ERR_INVALID
                   : 0;
    }
    return bad(c, "unknown kind");
}

/* QKV is followed by the ATTN of its layer; ATTN and GATE_UP by a PROJ. */
static int check_order(const struct check *c)
{
    const struct lodge_op *op = &c->p->ops[c->op];
    const struct lodge_op *next = c->op + 1 < c->p->n_ops ? op + 1 : NULL;
    bool ok = true;
    if (op->kind == LODGE_OP_QKV)
        ok = next && next->kind == LODGE_OP_ATTN && next->attn.layer == op->qkv.layer &&
             next->attn.n_heads == op->qkv.n_heads && next->attn.head_dim == op->qkv.head_dim &&
             next->attn.n_kv_heads == op->qkv.n_kv_heads;
    if (op->kind == LODGE_OP_ATTN || op->kind == LODGE_OP_GATE_UP)
        ok = next && next->kind == LODGE_OP_PROJ;
    if (op->kind == LODGE_OP_ATTN)
        ok = ok && c->op && op[-1].kind == LODGE_OP_QKV;
    return ok ? 0 : bad(c, "ops are out of order");
}

int lodge_plan_check(const struct lodge_plan *p, struct lodge_error *e)
{
    struct check c = {.p = p, .e = e};
    uint64_t width = 0;
    if (p->n_ops < 2 || p->ops[0].kind != LODGE_OP_EMBED ||
        p->ops[p->n_ops - 1].kind != LODGE_OP_HEAD || !p->d_model || !p->n_vocab ||
        !p->n_vocab_text || p->n_vocab_text > p->n_vocab)
        return lodge_fail(e, LODGE_ERR_INVALID, "plan: no embedding, head, width or vocabulary");
    for (c.op = 0; c.op < p->n_ops; c.op++) {
        int err = check_op(&c, &p->ops[c.op], &width);
        if (!err)
            err = check_order(&c);
        if (err)
            return err;
    }
    return 0;
}

static size_t layer_bytes(const struct lodge_layer_group *g, enum lodge_kv_dtype kv,
                          uint32_t page_tokens)
{
    return lodge_kv_head_bytes(kv, g->head_dim, page_tokens) * g->n_kv_heads;
}

static bool same_kind(const struct lodge_layer_group *a, const struct lodge_layer_group *b)
{
    return a->n_kv_heads == b->n_kv_heads && a->head_dim == b->head_dim && a->window == b->window;
}

/* Distinct kinds of layers with the number of layers of each; kind_of[layer] is filled. */
static uint32_t find_kinds(const struct lodge_plan *p, struct lodge_layer_group *kinds,
                           uint32_t *kind_of)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < p->n_ops; i++) {
        if (p->ops[i].kind != LODGE_OP_ATTN)
            continue;
        const struct lodge_op_attn *a = &p->ops[i].attn;
        struct lodge_layer_group kind = {
            .n_kv_heads = a->n_kv_heads, .head_dim = a->head_dim, .window = a->window};
        uint32_t k = 0;
        while (k < n && !same_kind(&kinds[k], &kind))
            k++;
        if (k == n)
            kinds[n++] = kind;
        kinds[k].n_layers++;
        kind_of[a->layer] = k;
    }
    return n;
}

/* Number of equal parts (the last may be smaller) that a kind is split into. */
static uint32_t parts_of(const struct lodge_layer_group *kind, enum lodge_kv_dtype kv,
                         uint32_t page_tokens, uint32_t *per_part)
{
    size_t one = layer_bytes(kind, kv, page_tokens);
    size_t fit = one ? PAGE_LIMIT / one : 1;
    fit = fit ? fit : 1;
    uint32_t parts = (uint32_t)((kind->n_layers + fit - 1) / fit);
    *per_part = (kind->n_layers + parts - 1) / parts;
    return (kind->n_layers + *per_part - 1) / *per_part;
}

int lodge_plan_group(struct lodge_plan *p, enum lodge_kv_dtype kv, uint32_t page_tokens,
                     struct lodge_error *e)
{
    struct lodge_layer_group *kinds = lodge_arena_array(&p->arena, p->n_layers, sizeof *kinds);
    uint32_t *kind_of = lodge_arena_array(&p->arena, p->n_layers, sizeof *kind_of);
    uint32_t *first = lodge_arena_array(&p->arena, p->n_layers, sizeof *first);
    uint32_t *seen = lodge_arena_array(&p->arena, p->n_layers, sizeof *seen);
    uint32_t *per_part = lodge_arena_array(&p->arena, p->n_layers, sizeof *per_part);
    p->groups = lodge_arena_array(&p->arena, p->n_layers, sizeof *p->groups);
    p->layer_group = lodge_arena_array(&p->arena, p->n_layers, sizeof *p->layer_group);
    if (!kinds || !kind_of || !first || !seen || !per_part || !p->groups || !p->layer_group)
        return lodge_fail(e, LODGE_ERR_NOMEM, "no memory for the layer groups");
    uint32_t n_kinds = find_kinds(p, kinds, kind_of);
    p->n_groups = 0;
    for (uint32_t k = 0; k < n_kinds; k++) {
        first[k] = p->n_groups;
        p->n_groups += parts_of(&kinds[k], kv, page_tokens, &per_part[k]);
    }
    for (uint32_t i = 0; i < p->n_ops; i++) {
        struct lodge_op *op = &p->ops[i];
        if (op->kind != LODGE_OP_QKV)
            continue;
        uint32_t k = kind_of[op->qkv.layer], at = seen[k]++;
        uint32_t g = first[k] + at / per_part[k];
        uint32_t n_layers = p->groups[g].n_layers + 1;
        p->groups[g] = kinds[k];
        p->groups[g].n_layers = n_layers;
        p->layer_group[op->qkv.layer] = g;
        op[0].qkv.group = op[1].attn.group = g;
        op[0].qkv.group_layer = op[1].attn.group_layer = at % per_part[k];
    }
    return 0;
}

size_t lodge_plan_group_bytes(const struct lodge_plan *p, uint32_t g, enum lodge_kv_dtype kv,
                              uint32_t page_tokens)
{
    return p->groups[g].n_layers * layer_bytes(&p->groups[g], kv, page_tokens);
}

size_t lodge_plan_page_bytes(const struct lodge_plan *p, enum lodge_kv_dtype kv,
                             uint32_t page_tokens)
{
    size_t most = 0;
    for (uint32_t g = 0; g < p->n_groups; g++) {
        size_t bytes = lodge_plan_group_bytes(p, g, kv, page_tokens);
        most = bytes > most ? bytes : most;
    }
    return (most + 4095) & ~(size_t)4095;
}

int32_t lodge_plan_twin(const struct lodge_plan *p, uint32_t linear)
{
    const struct lodge_linear *l = &p->linears[linear];
    for (uint32_t i = 0; i < linear; i++) {
        const struct lodge_linear *o = &p->linears[i];
        if (p->tensors[i].data == p->tensors[linear].data && p->tensors[i].data &&
            o->format == l->format && o->n_rows == l->n_rows && o->n_cols == l->n_cols &&
            o->order == l->order && o->head_dim == l->head_dim)
            return (int32_t)i;
    }
    return LODGE_NONE;
}

size_t lodge_plan_weight_bytes(const struct lodge_plan *p)
{
    size_t sum = 0, row;
    for (uint32_t i = 0; i < p->n_linears; i++)
        if (lodge_plan_twin(p, i) == LODGE_NONE &&
            lodge_format_row_bytes(p->linears[i].format, p->linears[i].n_cols, &row))
            sum += row * p->linears[i].n_rows;
    return sum;
}
