/* One step: all ops of the plan over all rows, in one run of the workers, phases separated by
 * barriers. Every function here is called by every worker with the same arguments. */
#include "kernels/cpu/device.h"

#include "base/clock.h"

#include <math.h>
#include <string.h>

struct run {
    struct lodge_device *d;
    unsigned worker, n_workers;
};

static void barrier(const struct run *r)
{
    lodge_workers_barrier(r->d->workers);
}

static void share(const struct run *r, uint32_t n, uint32_t *from, uint32_t *to)
{
    lodge_cpu_share(n, r->worker, r->n_workers, from, to);
}

/* ---- EMBED ---- */

static void set_rotation(struct lodge_device *d, uint32_t token)
{
    for (uint32_t i = 0; i < d->plan->n_ropes; i++) {
        const struct lodge_rope *rope = &d->plan->ropes[i];
        size_t at = ((size_t)i * d->cfg.max_rows + token) * d->rope_stride;
        for (uint32_t f = 0; f < rope->n_freqs; f++) {
            float angle = (float)d->tokens[token].position * rope->inv_freq[f];
            d->cos[at + f] = cosf(angle) * rope->scale;
            d->sin[at + f] = sinf(angle) * rope->scale;
        }
    }
}

static void run_embed(const struct run *r, const struct lodge_op_embed *op)
{
    struct lodge_device *d = r->d;
    const struct packed *table = &d->linears[op->table];
    uint32_t from, to;
    share(r, d->step->n_tokens, &from, &to);
    for (uint32_t i = from; i < to; i++) {
        uint32_t id = d->step->tokens[i];
        float *x = d->x + (size_t)i * d->plan->d_model;
        d->k.gemm[table->format].gather(table->panels + (id / 32) * table->panel_bytes,
                                        table->n_cols, id % 32, x);
        if (lodge_cpu_lora_on(d, LODGE_SITE_EMBED))
            lodge_cpu_lora_embed(d, op->table, i, x);
        for (uint32_t j = 0; op->scale != 1 && j < d->plan->d_model; j++)
            x[j] *= op->scale;
        set_rotation(d, i);
    }
    barrier(r);
}

/* ---- inputs of products ---- */

static bool any_on(const struct lodge_device *d, const int32_t *linears, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        if (lodge_cpu_lora_on(d, d->plan->linears[linears[i]].site))
            return true;
    return false;
}

/* Packs the rows of x as input of n linears, and shrinks them by their adapters. */
static void run_input(const struct run *r, const float *x, const struct lodge_norm *norm,
                      const int32_t *linears, unsigned n)
{
    struct lodge_device *d = r->d;
    bool lora = any_on(d, linears, n);
    uint32_t width = d->linears[linears[0]].n_cols;
    const struct pack p = {.x = x,
                           .ld = width,
                           .n_rows = d->step->n_tokens,
                           .n_cols = width,
                           .norm = norm,
                           .forms = lodge_cpu_forms(d, linears, n),
                           .act = d->act,
                           .lora = lora ? &d->lora : NULL};
    lodge_cpu_pack_rows(d, &p, r->worker, r->n_workers);
    barrier(r);
    if (lora)
        lodge_cpu_lora_shrink(d, &d->lora, linears, n, d->xb, r->worker, r->n_workers);
}

static void expand(const struct lodge_device *d, const struct block *b)
{
    if (lodge_cpu_lora_on(d, d->plan->linears[b->linear].site))
        lodge_cpu_lora_expand(d, &d->lora, b);
}

/* ---- QKV ---- */

static void add_bias(const struct lodge_device *d, int32_t bias, const struct block *b, float *y,
                     size_t ld)
{
    if (bias == LODGE_NONE)
        return;
    const float *v = d->plan->vectors[bias].data + b->from;
    for (unsigned i = 0; i < b->m; i++)
        for (uint32_t j = 0; j < b->n_cols; j++)
            y[i * ld + j] += v[j];
}

struct qkv_ctx {
    struct lodge_device *d;
    const struct lodge_op_qkv *op;
    uint32_t width; /* of a row of products: q, k, v side by side */
};

static void add_qkv_bias(void *ctx, const struct block *b)
{
    const struct qkv_ctx *c = ctx;
    expand(c->d, b);
    for (int part = 0; part < 3; part++)
        if ((int32_t)b->linear == c->op->linear[part])
            add_bias(c->d, c->op->bias[part], b, b->y, b->ld);
}

static void norm_heads(struct lodge_device *d, const struct lodge_norm *norm, float *heads,
                       uint32_t n_heads, uint32_t dim)
{
    if (norm->weight == LODGE_NONE)
        return;
    const struct lodge_vector *w = &d->plan->vectors[norm->weight];
    uint32_t n = w->n == dim ? n_heads : 1;
    for (uint32_t h = 0; h < n; h++)
        lodge_cpu_norm(d, norm, heads + h * w->n, w->n, heads + h * w->n);
}

/* Normalises, rotates and stores one token's q, k and v. */
static void finish_token(const struct qkv_ctx *c, uint32_t token)
{
    struct lodge_device *d = c->d;
    const struct lodge_op_qkv *op = c->op;
    uint32_t dim = op->head_dim;
    float *q = d->fp + (size_t)token * c->width;
    float *k = q + op->n_heads * dim, *v = k + op->n_kv_heads * dim;
    norm_heads(d, &op->q_norm, q, op->n_heads, dim);
    norm_heads(d, &op->k_norm, k, op->n_kv_heads, dim);
    if (op->rope != LODGE_NONE) {
        size_t at = ((size_t)op->rope * d->cfg.max_rows + token) * d->rope_stride;
        uint32_t n = d->plan->ropes[op->rope].n_freqs;
        /* q and k stand side by side: their heads rotate alike. */
        for (uint32_t h = 0; h < op->n_heads + op->n_kv_heads; h++)
            d->k.rope(q + h * dim, d->cos + at, d->sin + at, n);
    }
    const struct lodge_kv_ops *ops = &d->k.kv[d->cfg.kv];
    size_t bytes = lodge_kv_query_bytes(d->cfg.kv, lodge_kv_dim(dim));
    for (uint32_t h = 0; h < op->n_heads; h++)
        ops->query(q + h * dim, dim, d->q + ((size_t)token * op->n_heads + h) * bytes);
    const struct token_info *info = &d->tokens[token];
    const struct lodge_row *row = &d->step->rows[info->row];
    for (uint32_t h = 0; h < op->n_kv_heads; h++) {
        uint8_t *kv = lodge_cpu_kv_head(d, row, op->group, op->group_layer, h,
                                        info->position / LODGE_PAGE_TOKENS);
        if (kv)
            ops->store(kv, info->position % LODGE_PAGE_TOKENS, k + h * dim, v + h * dim, dim);
    }
}

static bool same_items(const struct lodge_op_attn *a, const struct lodge_op_attn *b)
{
    return a && a->n_heads == b->n_heads && a->n_kv_heads == b->n_kv_heads &&
           a->window == b->window;
}

static void run_qkv(const struct run *r, const struct lodge_op *op,
                    const struct lodge_op_attn **planned)
{
    struct lodge_device *d = r->d;
    const struct lodge_op_qkv *q = &op->qkv;
    struct qkv_ctx c = {d, q, (q->n_heads + 2 * q->n_kv_heads) * q->head_dim};
    run_input(r, d->x, &q->norm, q->linear, 3);
    const struct epilogue e = {.out = d->fp, .ld = c.width, .fn = add_qkv_bias, .ctx = &c};
    lodge_cpu_gemm(d, q->linear, 3, d->step->n_tokens, d->act, &e, r->worker, r->n_workers);
    barrier(r);
    uint32_t from, to;
    share(r, d->step->n_tokens, &from, &to);
    for (uint32_t i = from; i < to; i++)
        finish_token(&c, i);
    if (r->worker == 0) {
        if (!same_items(*planned, &op[1].attn))
            lodge_cpu_plan_attention(d, &op[1].attn);
        atomic_store(&d->next, 0);
    }
    *planned = &op[1].attn;
    barrier(r);
}

/* ---- ATTN, PROJ ---- */

static void run_attn(const struct run *r, const struct lodge_op_attn *op)
{
    lodge_cpu_attention(r->d, op, r->worker);
    barrier(r);
    if (r->d->n_partials) {
        lodge_cpu_merge_partials(r->d, op, r->worker, r->n_workers);
        barrier(r);
    }
}

struct proj_ctx {
    struct lodge_device *d;
    const struct lodge_op_proj *op;
};

static void add_to_x(void *ctx, const struct block *b)
{
    const struct proj_ctx *c = ctx;
    const struct lodge_device *d = c->d;
    size_t n = d->plan->d_model;
    expand(d, b);
    const float *bias =
        c->op->bias == LODGE_NONE ? NULL : d->plan->vectors[c->op->bias].data + b->from;
    d->k.add_block(d->x + b->first_row * n + b->from, n, b->y, b->ld, bias, c->op->multiplier, b->m,
                   b->n_cols);
}

static void add_proj_bias(void *ctx, const struct block *b)
{
    const struct proj_ctx *c = ctx;
    expand(c->d, b);
    add_bias(c->d, c->op->bias, b, b->y, b->ld);
}

static void add_normalised(const struct run *r, const struct lodge_op_proj *op)
{
    struct lodge_device *d = r->d;
    uint32_t from, to, n = d->plan->d_model;
    share(r, d->step->n_tokens, &from, &to);
    for (uint32_t i = from; i < to; i++) {
        float *y = d->fp + (size_t)i * n, *x = d->x + (size_t)i * n;
        lodge_cpu_norm(d, &op->post_norm, y, n, y);
        d->k.add_block(x, n, y, n, NULL, op->multiplier, 1, n);
    }
    barrier(r);
}

static void run_proj(const struct run *r, const struct lodge_op *op)
{
    struct lodge_device *d = r->d;
    const struct lodge_op_proj *p = &op->proj;
    bool after_attention = op[-1].kind == LODGE_OP_ATTN;
    uint8_t *const *act = after_attention ? d->act : d->act2;
    if (after_attention)
        run_input(r, d->attn_out, NULL, &p->linear, 1);
    else if (lodge_cpu_lora_on(d, LODGE_SITE_DOWN))
        lodge_cpu_lora_shrink(d, &d->lora, &p->linear, 1, d->xb2, r->worker, r->n_workers);
    struct proj_ctx c = {d, p};
    bool normed = p->post_norm.weight != LODGE_NONE;
    const struct epilogue to_x = {.fn = add_to_x, .ctx = &c};
    const struct epilogue aside = {d->fp, d->plan->d_model, add_proj_bias, &c};
    lodge_cpu_gemm(d, &p->linear, 1, d->step->n_tokens, act, normed ? &aside : &to_x, r->worker,
                   r->n_workers);
    barrier(r);
    if (normed)
        add_normalised(r, p);
}

/* ---- GATE_UP ---- */

struct glu_ctx {
    struct lodge_device *d;
    const struct lodge_op_gate_up *op;
    const struct packed *down;
};

/* The down product's adapters read its input in bf16. */
static void keep_inner(struct lodge_device *d, const struct block *b)
{
    if (!lodge_cpu_lora_on(d, LODGE_SITE_DOWN))
        return;
    size_t stride = lodge_cpu_lora_stride(d->linears[b->linear].n_rows);
    for (unsigned i = 0; i < b->m; i++)
        d->k.to_bf16(b->y + i * b->ld, b->n_cols, LODGE_PANEL_ROWS,
                     d->xb2 + (b->first_row + i) * stride + b->from);
}

/* Adapters and bias of a block of gate or up. */
static void finish_block(const struct glu_ctx *c, const struct block *b)
{
    bool is_gate = (int32_t)b->linear == c->op->gate;
    expand(c->d, b);
    add_bias(c->d, is_gate ? c->op->gate_bias : c->op->up_bias, b, b->y, b->ld);
}

/* A block that the activation is of is done: multiply up's panel if there is a gate, combine, and
 * pack as input of the down product. */
static void fuse_panel(void *ctx, const struct block *b)
{
    const struct glu_ctx *c = ctx;
    struct lodge_device *d = c->d;
    _Alignas(64) float u[LODGE_TILE_ROWS_MAX * LODGE_PANEL_ROWS];
    finish_block(c, b);
    if (c->op->gate != LODGE_NONE) {
        const struct packed *up = &d->linears[c->op->up];
        lodge_cpu_tile(d, up, b, d->act[up->form], b->wide[1], u, LODGE_PANEL_ROWS);
        struct block second = *b;
        second.linear = (uint32_t)c->op->up;
        second.y = u;
        second.ld = LODGE_PANEL_ROWS;
        finish_block(c, &second);
    }
    d->k.glu(c->op->act, b->y, c->op->gate == LODGE_NONE ? NULL : u,
             (size_t)b->m * LODGE_PANEL_ROWS);
    keep_inner(d, b);
    uint32_t n = d->linears[b->linear].n_rows;
    uint8_t *tile = d->act2[c->down->form] + b->tile * c->down->tile_bytes;
    d->k.act_pack[c->down->form](b->y, b->ld, b->m, b->from, b->from + b->n_cols, n, tile);
}

static void finish_gate(void *ctx, const struct block *b)
{
    finish_block(ctx, b);
}

/* A block of up, to be combined with what lies in fp. */
static void combine(void *ctx, const struct block *b)
{
    const struct glu_ctx *c = ctx;
    struct lodge_device *d = c->d;
    size_t n = d->linears[b->linear].n_rows;
    struct block done = *b;
    done.y = d->fp + b->first_row * n + b->from;
    done.ld = n;
    finish_block(c, b);
    for (unsigned i = 0; i < b->m; i++) {
        float *inner = done.y + i * n, *y = b->y + i * b->ld;
        if (c->op->gate == LODGE_NONE)
            memcpy(inner, y, b->n_cols * sizeof *y);
        d->k.glu(c->op->act, inner, c->op->gate == LODGE_NONE ? NULL : y, b->n_cols);
    }
    keep_inner(d, &done);
}

/* Where gate, up and down do not meet in one tile: by way of fp. */
static void run_apart(const struct run *r, struct glu_ctx *c)
{
    struct lodge_device *d = r->d;
    const struct lodge_op_gate_up *g = c->op;
    uint32_t n = d->step->n_tokens;
    const struct epilogue first = {d->fp, c->down->n_cols, finish_gate, c};
    const struct epilogue second = {.fn = combine, .ctx = c};
    if (g->gate != LODGE_NONE) {
        lodge_cpu_gemm(d, &g->gate, 1, n, d->act, &first, r->worker, r->n_workers);
        barrier(r);
    }
    lodge_cpu_gemm(d, &g->up, 1, n, d->act, &second, r->worker, r->n_workers);
    barrier(r);
    const struct pack inner = {.x = d->fp,
                               .ld = c->down->n_cols,
                               .n_rows = n,
                               .n_cols = c->down->n_cols,
                               .forms = 1u << c->down->form,
                               .act = d->act2};
    lodge_cpu_pack_rows(d, &inner, r->worker, r->n_workers);
    barrier(r);
}

static void run_gate_up(const struct run *r, const struct lodge_op *op)
{
    struct lodge_device *d = r->d;
    const struct lodge_op_gate_up *g = &op->gate_up;
    bool gated = g->gate != LODGE_NONE;
    const int32_t both[2] = {gated ? g->gate : g->up, g->up};
    struct glu_ctx c = {d, g, &d->linears[op[1].proj.linear]};
    uint32_t n = d->step->n_tokens;
    run_input(r, d->x, &g->norm, both, gated ? 2 : 1);
    enum lodge_act_form in = d->linears[both[0]].form;
    if (in != d->linears[g->up].form ||
        lodge_cpu_tiling(d, in, n).n_tiles != lodge_cpu_tiling(d, c.down->form, n).n_tiles) {
        run_apart(r, &c);
        return;
    }
    const struct epilogue e = {.fn = fuse_panel, .ctx = &c};
    lodge_cpu_gemm(d, &both[0], 1, n, d->act, &e, r->worker, r->n_workers);
    barrier(r);
}

/* ---- the step ---- */

static void copy_pages(const struct run *r)
{
    struct lodge_device *d = r->d;
    uint32_t from, to;
    share(r, d->step->n_copies, &from, &to);
    for (uint32_t i = from; i < to; i++) {
        const struct lodge_page_copy *c = &d->step->copies[i];
        memcpy(d->pool + c->to * d->page_bytes, d->pool + c->from * d->page_bytes, d->page_bytes);
    }
    if (d->step->n_copies)
        barrier(r);
}

static void run_ops(void *ctx, unsigned worker, unsigned n_workers)
{
    struct run r = {ctx, worker, n_workers};
    unsigned mode = lodge_cpu_flush_denormals();
    const struct lodge_op_attn *planned = NULL;
    copy_pages(&r);
    for (uint32_t i = 0; i < r.d->plan->n_ops; i++) {
        const struct lodge_op *op = &r.d->plan->ops[i];
        switch (op->kind) {
        case LODGE_OP_EMBED:
            run_embed(&r, &op->embed);
            break;
        case LODGE_OP_QKV:
            run_qkv(&r, op, &planned);
            break;
        case LODGE_OP_ATTN:
            run_attn(&r, &op->attn);
            break;
        case LODGE_OP_PROJ:
            run_proj(&r, op);
            break;
        case LODGE_OP_GATE_UP:
            run_gate_up(&r, op);
            break;
        case LODGE_OP_HEAD:
            lodge_cpu_head(r.d, &op->head, worker, n_workers);
            break;
        }
    }
    lodge_cpu_restore_denormals(mode);
}

static void want(struct lodge_device *d, uint32_t row, uint32_t index, bool scored)
{
    d->wanted[d->n_wanted] = d->step->rows[row].first_token + index;
    d->results[d->n_wanted] = (struct lodge_result){.row = row, .index = index, .scored = scored};
    d->n_wanted++;
}

static void plan_rows(struct lodge_device *d)
{
    d->n_wanted = 0;
    for (uint32_t r = 0; r < d->step->n_rows; r++) {
        const struct lodge_row *row = &d->step->rows[r];
        for (uint32_t i = 0; i < row->n_tokens; i++) {
            d->tokens[row->first_token + i] = (struct token_info){r, row->position + i};
            if ((row->want & LODGE_WANT_SCORES) &&
                (i + 1 < row->n_tokens || row->next_token != LODGE_NO_PAGE))
                want(d, r, i, true);
        }
        for (uint32_t i = row->n_draft + 1; (row->want & LODGE_WANT_SAMPLE) && i > 0; i--)
            want(d, r, row->n_tokens - i, false);
    }
}

static bool valid(const struct lodge_device *d, const struct lodge_step *s)
{
    if (!s->n_tokens || s->n_tokens > d->cfg.max_rows || s->n_rows > d->cfg.max_slots)
        return false;
    uint32_t n = 0;
    for (uint32_t r = 0; r < s->n_rows; r++) {
        const struct lodge_row *row = &s->rows[r];
        uint64_t table_end = row->table + (uint64_t)row->n_blocks * d->plan->n_groups;
        if (row->n_tokens <= row->n_draft || row->first_token != n || table_end > s->n_pages ||
            (uint64_t)row->n_blocks * LODGE_PAGE_TOKENS < (uint64_t)row->position + row->n_tokens)
            return false;
        n += row->n_tokens;
    }
    for (uint32_t i = 0; i < s->n_tokens; i++)
        if (s->tokens[i] >= d->plan->n_vocab)
            return false;
    for (uint32_t i = 0; i < s->n_pages; i++)
        if (s->pages[i] >= d->n_pages && s->pages[i] != LODGE_NO_PAGE)
            return false;
    return n == s->n_tokens;
}

#define FETCH_TRIALS 24u /* steps */

/* One more step of one token took so long, with what was chosen for it. */
static void try_fetch(struct fetch_trial *t, uint64_t ns)
{
    if (t->n >= FETCH_TRIALS)
        return;
    uint64_t *least = &t->least_ns[t->fetch];
    *least = *least && *least < ns ? *least : ns;
    t->n++;
    t->fetch = t->n < FETCH_TRIALS ? t->n % 2 : t->least_ns[1] < t->least_ns[0];
}

int lodge_cpu_step(struct lodge_device *d, const struct lodge_step *s)
{
    if (!atomic_load(&d->ready))
        return LODGE_ERR_AGAIN;
    if (!valid(d, s) || !lodge_cpu_lora_plan(d, s))
        return LODGE_ERR_INVALID;
    uint64_t begin = lodge_now_ns();
    d->step = s;
    plan_rows(d);
    lodge_workers_run(d->workers, run_ops, d);
    d->result = (struct lodge_step_result){
        .results = d->results,
        .n_results = d->n_wanted,
        .tops = d->tops,
        .hidden = d->hidden,
        .begin_ns = begin,
        .end_ns = lodge_now_ns(),
        .weight_bytes = d->weight_bytes,
    };
    if (s->n_tokens == 1)
        try_fetch(&d->trial, d->result.end_ns - begin);
    for (uint32_t r = 0; r < s->n_rows; r++)
        d->result.kv_bytes += (uint64_t)s->rows[r].n_blocks * d->plan->n_groups * d->page_bytes;
    return 0;
}
