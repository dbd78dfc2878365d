/* The end of a step: logits for the token rows that want them, then samples and scores. */
#include "kernels/cpu/device.h"

#include <math.h>
#include <string.h>

static float *row_most(const struct lodge_device *d, uint32_t row)
{
    return d->block_most + row * d->most_stride;
}

struct head_ctx {
    struct lodge_device *d;
    const struct lodge_op_head *op;
    uint32_t first; /* this worker's first panel; UINT32_MAX: it has none yet */
};

/* Maxima of rows [first, first + m) for a panel's 32 ids. */
static void find_most(struct lodge_device *d, uint32_t panel, uint32_t first, unsigned m)
{
    uint32_t from = panel * LODGE_PANEL_ROWS, text = d->plan->n_vocab_text;
    uint32_t n = text <= from ? 0 : text - from;
    n = n < LODGE_PANEL_ROWS ? n : LODGE_PANEL_ROWS;
    if (n)
        d->k.row.block_most(d->logits + first * d->logit_stride + from, d->logit_stride, m, n,
                            row_most(d, first) + panel, d->most_stride);
}

/* The maxima of a panel's logits are taken a panel later: still near, but no load waits for a store
 * that is under way. */
static void finish_logits(void *ctx, const struct block *b)
{
    struct head_ctx *h = ctx;
    const struct lodge_op_head *op = h->op;
    struct lodge_device *d = h->d;
    if (lodge_cpu_lora_on(d, LODGE_SITE_HEAD))
        lodge_cpu_lora_expand(d, &d->lora_head, b);
    if (op->multiplier != 1 || op->softcap > 0)
        d->k.cap(b->y, b->ld, op->multiplier, op->softcap, b->m, b->n_cols);
    if (h->first > b->panel)
        h->first = b->panel;
    if (h->first < b->panel)
        find_most(d, b->panel - 1, b->first_row, b->m);
    if (b->last)
        find_most(d, b->panel, b->first_row, b->m);
}

/* What wanted entry i is: the sample of its row, or the score of a token's successor. */
static void finish_entry(struct lodge_device *d, uint32_t i, const struct lodge_logits *logits,
                         uint8_t *scratch)
{
    struct lodge_result *r = &d->results[i];
    const struct lodge_row *row = &d->step->rows[r->row];
    uint32_t position = row->position + r->index;
    if (r->scored) {
        uint32_t target = r->index + 1 < row->n_tokens
                              ? d->step->tokens[row->first_token + r->index + 1]
                              : row->next_token;
        lodge_score(&d->k.row, logits, target, &r->value);
    } else {
        lodge_sample(&d->k.row, logits, row->sampling, position + 1, row->want_logprob, scratch,
                     &r->value);
    }
    r->first_top = i * LODGE_MAX_STEP_TOPS;
    uint32_t n_top = row->n_top < LODGE_MAX_STEP_TOPS ? row->n_top : LODGE_MAX_STEP_TOPS;
    r->n_top = n_top ? lodge_top_logprobs(&d->k.row, logits, n_top, d->tops + r->first_top) : 0;
}

static void one_round(struct lodge_device *d, const struct lodge_op_head *op, uint32_t first,
                      uint32_t n, unsigned worker, unsigned n_workers)
{
    const size_t width = d->plan->d_model;
    uint8_t *scratch = d->scratch + worker * d->scratch_bytes;
    uint32_t from, to;
    lodge_cpu_share(n, worker, n_workers, &from, &to);
    for (uint32_t i = from; i < to; i++)
        memcpy(d->fp + i * width, d->x + d->wanted[first + i] * width, width * sizeof *d->fp);
    bool lora = lodge_cpu_lora_on(d, LODGE_SITE_HEAD);
    if (worker == 0) {
        atomic_store(&d->next, 0);
        if (lora)
            lodge_cpu_lora_plan_head(d, d->wanted + first, n);
    }
    lodge_workers_barrier(d->workers);
    const struct pack p = {.x = d->fp,
                           .ld = width,
                           .n_rows = n,
                           .n_cols = (uint32_t)width,
                           .norm = &op->norm,
                           .forms = lodge_cpu_forms(d, &op->linear, 1),
                           .act = d->act,
                           .lora = lora ? &d->lora_head : NULL};
    lodge_cpu_pack_rows(d, &p, worker, n_workers);
    lodge_workers_barrier(d->workers);
    if (lora)
        lodge_cpu_lora_shrink(d, &d->lora_head, &op->linear, 1, d->xb, worker, n_workers);
    struct head_ctx ctx = {d, op, UINT32_MAX};
    const struct epilogue e = {d->logits, d->logit_stride, finish_logits, &ctx};
    lodge_cpu_gemm(d, &op->linear, 1, n, d->act, &e, worker, n_workers);
    lodge_workers_barrier(d->workers);
    for (;;) {
        uint32_t i = atomic_fetch_add_explicit(&d->next, 1, memory_order_relaxed);
        if (i >= n)
            break;
        const struct lodge_logits logits = {d->logits + i * d->logit_stride, row_most(d, i),
                                            d->plan->n_vocab_text};
        finish_entry(d, first + i, &logits, scratch);
    }
    lodge_workers_barrier(d->workers);
}

static void store_hidden(struct lodge_device *d, const struct lodge_op_head *op)
{
    uint32_t n = 0;
    for (uint32_t r = 0; r < d->step->n_rows; r++) {
        const struct lodge_row *row = &d->step->rows[r];
        if (!(row->want & LODGE_WANT_HIDDEN))
            continue;
        size_t last = row->first_token + row->n_tokens - 1;
        lodge_cpu_norm(d, &op->norm, d->x + last * d->plan->d_model, d->plan->d_model,
                       d->hidden + (size_t)n++ * d->plan->d_model);
    }
}

void lodge_cpu_head(struct lodge_device *d, const struct lodge_op_head *op, unsigned worker,
                    unsigned n_workers)
{
    if (worker == 0)
        store_hidden(d, op);
    for (uint32_t first = 0; first < d->n_wanted; first += d->cfg.max_logit_rows) {
        uint32_t n = d->n_wanted - first;
        n = n < d->cfg.max_logit_rows ? n : d->cfg.max_logit_rows;
        one_round(d, op, first, n, worker, n_workers);
    }
}
