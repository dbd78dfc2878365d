/* The workspace: every buffer of a step, sized from the plan and the configured limits, in one
 * allocation. The same walk sizes (space NULL) and carves, so the two cannot differ. */
#include "kernels/cpu/device.h"

struct carver {
    uint8_t *space;
    size_t at;
};

static void *take(struct carver *c, size_t n, size_t size)
{
    uint8_t *p = c->space ? c->space + c->at : NULL;
    c->at += (n * size + 127) / 64 * 64;
    return p;
}

struct widths {
    uint32_t qkv, attn, heads, inner, dim, freqs;
};

static uint32_t most(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

static size_t most_bytes(size_t a, size_t b)
{
    return a > b ? a : b;
}

static struct widths widest(const struct lodge_plan *p)
{
    struct widths w = {0};
    for (uint32_t i = 0; i < p->n_ops; i++) {
        const struct lodge_op *op = &p->ops[i];
        if (op->kind == LODGE_OP_QKV) {
            const struct lodge_op_qkv *q = &op->qkv;
            w.qkv = most(w.qkv, (q->n_heads + 2 * q->n_kv_heads) * q->head_dim);
            w.attn = most(w.attn, q->n_heads * lodge_kv_dim(q->head_dim));
            w.heads = most(w.heads, q->n_heads);
            w.dim = most(w.dim, lodge_kv_dim(q->head_dim));
        } else if (op->kind == LODGE_OP_GATE_UP) {
            w.inner = most(w.inner, p->linears[op->gate_up.up].n_rows);
        }
    }
    for (uint32_t i = 0; i < p->n_ropes; i++)
        w.freqs = most(w.freqs, p->ropes[i].n_freqs);
    return w;
}

/* Tiles never number more than rows, and each tile has room for 12 rows. */
static size_t tiles_bytes(const struct lodge_device *d, enum lodge_act_form form, uint32_t n_cols)
{
    struct tiling t = lodge_cpu_tiling(d, form, most(d->cfg.max_rows, d->cfg.max_logit_rows));
    return (size_t)t.n_tiles * lodge_act_tile_bytes(form, n_cols);
}

/* Stride of rows of n floats that are written side by side: an odd number of lines, or rows whose
 * length is a power of two would share a few sets of the caches. */
static size_t apart(uint32_t n)
{
    return ((size_t)n + 31) / 32 * 32 + 16;
}

/* A token has at most the adapters of its step row. */
static size_t take_lora(struct carver *c, struct lora_rows *l, size_t n_slots, size_t n_rows)
{
    size_t spans = (n_slots > n_rows ? n_slots : n_rows) * LODGE_MAX_ROW_ADAPTERS;
    l->spans = take(c, spans, sizeof *l->spans);
    l->at = take(c, n_rows, sizeof *l->at);
    return spans;
}

static void take_lora_uses(struct carver *c, struct lodge_device *d, unsigned workers, size_t spans)
{
    d->lora_uses = take(c, workers, sizeof *d->lora_uses);
    for (unsigned w = 0; w < workers; w++)
        for (unsigned l = 0; l < LODGE_SAME_INPUT; l++) {
            struct lora_use *of = take(c, spans, sizeof *of);
            if (c->space)
                d->lora_uses[w].of[l] = of;
        }
}

size_t lodge_cpu_workspace(struct lodge_device *d, const struct lodge_plan *p, uint8_t *space)
{
    struct carver c = {.space = space};
    struct widths w = widest(p);
    size_t rows = d->cfg.max_rows;
    uint32_t in = most(p->d_model, w.attn), fp = most(most(w.qkv, w.inner), in);
    unsigned workers = lodge_workers_count(d->workers);
    d->x = take(&c, rows * p->d_model, sizeof(float));
    d->fp = take(&c, rows * fp, sizeof(float));
    d->attn_out = take(&c, rows * w.attn, sizeof(float));
    d->q = take(
        &c, rows * (w.attn * sizeof(uint16_t) + w.heads * lodge_kv_query_bytes(d->cfg.kv, 0)), 1);
    for (int f = 0; f < LODGE_ACT_FORM_COUNT; f++) {
        d->act[f] = take(&c, tiles_bytes(d, (enum lodge_act_form)f, in), 1);
        d->act2[f] = take(&c, tiles_bytes(d, (enum lodge_act_form)f, w.inner), 1);
    }
    d->rope_stride = w.freqs;
    d->cos = take(&c, rows * w.freqs * p->n_ropes, sizeof(float));
    d->sin = take(&c, rows * w.freqs * p->n_ropes, sizeof(float));
    d->logit_stride = apart(p->n_vocab);
    d->most_stride = apart(lodge_logit_blocks(p->n_vocab));
    d->logits = take(&c, d->cfg.max_logit_rows * d->logit_stride, sizeof(float));
    d->block_most = take(&c, d->cfg.max_logit_rows * d->most_stride, sizeof(float));
    d->scratch_bytes = lodge_sample_scratch_bytes(p->n_vocab) +
                       (size_t)LODGE_TILE_ROWS_MAX * fp * sizeof(float) +
                       lodge_cpu_attention_scratch(d->cfg.kv, w.dim) + 4096;
    d->scratch_bytes = (d->scratch_bytes + 4095) & ~(size_t)4095;
    d->scratch = take(&c, workers, d->scratch_bytes);
    for (uint32_t i = 0; i < p->n_linears; i++)
        if (d->k.gemm[p->linears[i].format].widen)
            d->wide_bytes = most_bytes(d->wide_bytes, lodge_wide_bytes(p->linears[i].n_cols));
    d->wide = take(&c, workers, 2 * d->wide_bytes);
    d->partial_acc =
        take(&c, (size_t)LODGE_MAX_PARTIALS * LODGE_ATTN_QUERIES * w.dim, sizeof(float));
    d->partials = take(&c, LODGE_MAX_PARTIALS, sizeof *d->partials);
    /* An item holds at least one query; splitting adds at most MAX_PARTIALS. */
    d->max_items = (uint32_t)(rows * (w.attn / (w.dim ? w.dim : 1))) + LODGE_MAX_PARTIALS;
    d->items = take(&c, d->max_items, sizeof *d->items);
    d->tokens = take(&c, rows, sizeof *d->tokens);
    d->wanted = take(&c, rows + d->cfg.max_slots, sizeof *d->wanted);
    d->results = take(&c, rows + d->cfg.max_slots, sizeof *d->results);
    d->tops = take(&c, (rows + d->cfg.max_slots) * LODGE_MAX_STEP_TOPS, sizeof *d->tops);
    uint32_t wide = most(most(p->d_model, w.attn), w.inner);
    d->xb = take(&c, rows * lodge_cpu_lora_stride(wide), sizeof *d->xb);
    d->xb2 = take(&c, rows * lodge_cpu_lora_stride(w.inner), sizeof *d->xb2);
    /* A token has at most two logit rows: a score and a sample. */
    d->lora_t = take(&c, (size_t)d->cfg.max_step_ranks * 2, sizeof *d->lora_t);
    size_t spans = take_lora(&c, &d->lora, d->cfg.max_slots, rows);
    size_t head = take_lora(&c, &d->lora_head, d->cfg.max_slots, d->cfg.max_logit_rows);
    take_lora_uses(&c, d, workers, spans > head ? spans : head);
    d->hidden = take(&c, (size_t)d->cfg.max_slots * p->d_model, sizeof(float));
    return c.at;
}
