#include "tests/bench/attn_lab.h"

#include "base/pages.h"

#include <stdlib.h>
#include <string.h>

static void *room(size_t n)
{
    void *p = aligned_alloc(64, (n + 63) / 64 * 64);
    if (!p)
        abort();
    memset(p, 0, n);
    return p;
}

/* Keys and values of one head, copied to all. */
static void fill_pool(struct attn_lab *b)
{
    size_t head = lodge_kv_head_bytes(b->d.cfg.kv, b->op.head_dim, LODGE_PAGE_TOKENS);
    uint8_t *one = room(head);
    float k[LODGE_HEAD_DIM_MAX], v[LODGE_HEAD_DIM_MAX];
    for (uint32_t t = 0; t < LODGE_PAGE_TOKENS; t++) {
        for (uint32_t i = 0; i < b->op.head_dim; i++) {
            k[i] = (float)(int)((i + 64 * t) * 2654435761u % 2001) * 1e-3f - 1;
            v[i] = k[i] * 0.5f;
        }
        b->d.k.kv[b->d.cfg.kv].store(one, t, k, v, b->op.head_dim);
    }
    for (uint32_t p = 0; p < b->d.n_pages; p++)
        for (uint32_t i = 0; i < b->group.n_layers * b->group.n_kv_heads; i++)
            memcpy(b->d.pool + p * b->d.page_bytes + i * head, one, head);
    free(one);
}

static void set_rows(struct attn_lab *b, const struct attn_load *l)
{
    uint32_t blocks = (l->context + LODGE_PAGE_TOKENS - 1) / LODGE_PAGE_TOKENS;
    b->pages = room(l->seqs * blocks * sizeof *b->pages);
    /* Neighbours in a sequence are apart in memory. */
    for (uint32_t i = 0; i < l->seqs * blocks; i++)
        b->pages[i] = i % blocks * l->seqs + i / blocks;
    for (uint32_t r = 0; r < l->seqs; r++)
        b->rows[r] = (struct lodge_row){.slot = r,
                                        .position = l->context - l->n_tokens,
                                        .n_tokens = l->n_tokens,
                                        .first_token = r * l->n_tokens,
                                        .table = r * blocks,
                                        .n_blocks = blocks};
    b->step = (struct lodge_step){.rows = b->rows,
                                  .n_rows = l->seqs,
                                  .n_tokens = l->seqs * l->n_tokens,
                                  .pages = b->pages,
                                  .n_pages = l->seqs * blocks};
}

void attn_lab_open(struct attn_lab *b, const struct lodge_cpu_kernels *k, struct lodge_workers *w,
                   enum lodge_kv_dtype kv, const struct attn_shape *s, const struct attn_load *l,
                   size_t cold_bytes)
{
    struct lodge_device *d = &b->d;
    memset(b, 0, sizeof *b);
    set_rows(b, l);
    size_t head = lodge_kv_head_bytes(kv, s->dim, LODGE_PAGE_TOKENS);
    b->bytes = (size_t)b->step.n_pages * s->kv_heads * head;
    b->group = (struct lodge_layer_group){.n_layers = (uint32_t)(cold_bytes / b->bytes + 1),
                                          .n_kv_heads = s->kv_heads,
                                          .head_dim = s->dim};
    b->plan = (struct lodge_plan){.groups = &b->group, .n_groups = 1};
    b->op = (struct lodge_op_attn){
        .n_heads = s->heads, .n_kv_heads = s->kv_heads, .head_dim = s->dim, .scale = 0.125f};
    size_t queries = (size_t)b->step.n_tokens * s->heads;
    d->cfg.kv = kv;
    d->k = *k;
    d->workers = w;
    d->plan = &b->plan;
    d->step = &b->step;
    d->n_pages = b->step.n_pages;
    d->page_bytes = lodge_plan_page_bytes(&b->plan, kv, LODGE_PAGE_TOKENS);
    d->pool = lodge_pages_map(d->n_pages * d->page_bytes);
    d->q = room(queries * lodge_kv_query_bytes(kv, s->dim));
    d->attn_out = room(queries * s->dim * sizeof *d->attn_out);
    d->scratch_bytes = lodge_cpu_attention_scratch(kv, s->dim);
    d->scratch = room(lodge_workers_count(w) * d->scratch_bytes);
    d->max_items = (uint32_t)queries + LODGE_MAX_PARTIALS;
    d->items = room(d->max_items * sizeof *d->items);
    d->partials = room(LODGE_MAX_PARTIALS * sizeof *d->partials);
    d->partial_acc = room((size_t)LODGE_MAX_PARTIALS * LODGE_ATTN_QUERIES * s->dim * 4);
    if (!d->pool)
        abort();
    float q[LODGE_HEAD_DIM_MAX];
    for (size_t i = 0; i < queries; i++) {
        for (uint32_t j = 0; j < s->dim; j++)
            q[j] = (float)((i + j) * 2654435761u % 2001) * 1e-3f - 1;
        k->kv[kv].query(q, s->dim, d->q + i * lodge_kv_query_bytes(kv, s->dim));
    }
    fill_pool(b);
    lodge_cpu_plan_attention(d, &b->op);
}

void attn_lab_close(struct attn_lab *b)
{
    lodge_pages_unmap(b->d.pool, b->d.n_pages * b->d.page_bytes);
    free(b->pages);
    free(b->d.q);
    free(b->d.attn_out);
    free(b->d.scratch);
    free(b->d.items);
    free(b->d.partials);
    free(b->d.partial_acc);
}

/* As run_attn of kernels/cpu/step.c. */
static void attend(void *ctx, unsigned worker, unsigned n_workers)
{
    struct attn_lab *b = ctx;
    unsigned mode = lodge_cpu_flush_denormals();
    lodge_cpu_attention(&b->d, &b->op, worker);
    lodge_workers_barrier(b->d.workers);
    if (b->d.n_partials)
        lodge_cpu_merge_partials(&b->d, &b->op, worker, n_workers);
    lodge_cpu_restore_denormals(mode);
}

void attn_lab_run(struct attn_lab *b)
{
    atomic_store(&b->d.next, 0);
    lodge_workers_run(b->d.workers, attend, b);
}
