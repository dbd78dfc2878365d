/* Drivers of the matrix products: tiles of rows against panels of weights. A panel is read from
 * memory once and meets every tile; the next panel is prefetched meanwhile. */
#include "kernels/cpu/device.h"

#include <string.h>

void lodge_cpu_share(uint32_t n, unsigned worker, unsigned n_workers, uint32_t *from, uint32_t *to)
{
    *from = (uint32_t)((uint64_t)n * worker / n_workers);
    *to = (uint32_t)((uint64_t)n * (worker + 1) / n_workers);
}

static unsigned tile_most(const struct lodge_device *d, enum lodge_act_form form)
{
    static const enum lodge_format any[] = {[LODGE_ACT_F32] = LODGE_FMT_F32,
                                            [LODGE_ACT_BF16] = LODGE_FMT_BF16,
                                            [LODGE_ACT_Q8] = LODGE_FMT_Q8_0};
    return d->k.gemm[any[form]].mr;
}

struct tiling lodge_cpu_tiling(const struct lodge_device *d, enum lodge_act_form form,
                               uint32_t n_rows)
{
    unsigned mr = tile_most(d, form);
    uint32_t n = (n_rows + mr - 1) / mr;
    return (struct tiling){n, n ? n_rows / n : 0, n ? n_rows % n : 0};
}

unsigned lodge_cpu_forms(const struct lodge_device *d, const int32_t *linears, unsigned n)
{
    unsigned forms = 0;
    for (unsigned i = 0; i < n; i++)
        forms |= 1u << d->linears[linears[i]].form;
    return forms;
}

void lodge_cpu_norm(const struct lodge_device *d, const struct lodge_norm *norm, const float *x,
                    uint32_t n, float *out)
{
    if (norm->weight == LODGE_NONE) {
        memmove(out, x, n * sizeof *x);
        return;
    }
    const float *w = d->plan->vectors[norm->weight].data;
    if (norm->kind == LODGE_NORM_RMS) {
        d->k.rms_norm(x, w, n, norm->eps, out);
        return;
    }
    const float *b = norm->bias == LODGE_NONE ? NULL : d->plan->vectors[norm->bias].data;
    d->k.layer_norm(x, w, b, n, norm->eps, out);
}

/* Rows of a tile as they will be packed: normalised in `room`, or as they are. */
static const float *tile_input(const struct lodge_device *d, const struct pack *p, uint32_t first,
                               uint32_t m, float *room, size_t *ld)
{
    if (!p->norm || p->norm->weight == LODGE_NONE) {
        *ld = p->ld;
        return p->x + first * p->ld;
    }
    for (uint32_t i = 0; i < m; i++)
        lodge_cpu_norm(d, p->norm, p->x + (first + i) * p->ld, p->n_cols,
                       room + (size_t)i * p->n_cols);
    *ld = p->n_cols;
    return room;
}

static bool has_adapter(const struct lora_rows *l, uint32_t row)
{
    return l->at[row] < l->n && l->spans[l->at[row]].first <= row;
}

static void keep_bf16(struct lodge_device *d, const struct pack *p, uint32_t first, uint32_t m,
                      const float *in, size_t ld)
{
    size_t stride = lodge_cpu_lora_stride(p->n_cols);
    for (uint32_t i = 0; i < m; i++)
        if (has_adapter(p->lora, first + i))
            d->k.to_bf16(in + i * ld, p->n_cols, (uint32_t)stride, d->xb + (first + i) * stride);
}

void lodge_cpu_pack_rows(struct lodge_device *d, const struct pack *p, unsigned worker,
                         unsigned n_workers)
{
    float *room = (float *)(d->scratch + worker * d->scratch_bytes);
    bool kept = !p->lora;
    for (int f = 0; f < LODGE_ACT_FORM_COUNT; f++) {
        if (!(p->forms & 1u << f))
            continue;
        struct tiling t = lodge_cpu_tiling(d, (enum lodge_act_form)f, p->n_rows);
        size_t tile_bytes = lodge_act_tile_bytes((enum lodge_act_form)f, p->n_cols);
        uint32_t from, to, first;
        lodge_cpu_share(t.n_tiles, worker, n_workers, &from, &to);
        for (uint32_t tile = from; tile < to; tile++) {
            size_t ld;
            uint32_t m = lodge_cpu_tile_rows(t, tile, &first);
            const float *in = tile_input(d, p, first, m, room, &ld);
            d->k.act_pack[f](in, ld, m, 0, p->n_cols, p->n_cols, p->act[f] + tile * tile_bytes);
            if (!kept)
                keep_bf16(d, p, first, m, in, ld);
        }
        kept = true;
    }
}

void lodge_cpu_tile(struct lodge_device *d, const struct packed *w, const struct block *b,
                    const uint8_t *act, uint8_t *wide, float *out, size_t ld)
{
    const uint8_t *panel = w->panels + b->panel * w->panel_bytes;
    const uint32_t n_tiles = b->tiling.n_tiles;
    const size_t at = b->slice * b->tile;
    size_t ahead = 0;
    if ((n_tiles > 1 || d->trial.fetch) && !b->last && at < w->panel_bytes)
        ahead = w->panel_bytes - at < b->slice ? w->panel_bytes - at : b->slice;
    const struct lodge_gemm *g = &d->k.gemm[w->format];
    const void *tile = act + b->tile * w->tile_bytes;
    const uint8_t *next = panel + w->panel_bytes + at;
    if (!g->widen || n_tiles < LODGE_WIDE_TILES) {
        g->tile(panel, w->n_cols, tile, b->m, out, ld, next, ahead);
        return;
    }
    if (b->tile == 0)
        g->widen(panel, w->n_cols, wide);
    g->wide_tile(wide, w->n_cols, tile, b->m, out, ld, next, ahead);
}

/* All tiles of one panel; `column` is where the linear begins in the output. */
static void one_panel(struct lodge_device *d, struct block b, uint32_t column, const uint8_t *act,
                      const struct epilogue *e)
{
    const struct packed *w = &d->linears[b.linear];
    _Alignas(64) float buffer[LODGE_TILE_ROWS_MAX * LODGE_PANEL_ROWS];
    b.from = b.panel * LODGE_PANEL_ROWS;
    b.n_cols = w->n_rows - b.from < LODGE_PANEL_ROWS ? w->n_rows - b.from : LODGE_PANEL_ROWS;
    bool direct = e->out && b.n_cols == LODGE_PANEL_ROWS;
    for (b.tile = 0; b.tile < b.tiling.n_tiles; b.tile++) {
        b.m = lodge_cpu_tile_rows(b.tiling, b.tile, &b.first_row);
        float *out = e->out ? e->out + b.first_row * e->ld + column + b.from : NULL;
        b.y = direct ? out : buffer;
        b.ld = direct ? e->ld : LODGE_PANEL_ROWS;
        lodge_cpu_tile(d, w, &b, act, b.wide[0], b.y, b.ld);
        if (e->out && !direct) {
            for (unsigned i = 0; i < b.m; i++)
                memcpy(out + i * e->ld, buffer + i * LODGE_PANEL_ROWS, b.n_cols * sizeof *out);
            b.y = out;
            b.ld = e->ld;
        }
        if (e->fn)
            e->fn(e->ctx, &b);
    }
}

void lodge_cpu_gemm(struct lodge_device *d, const int32_t *linears, unsigned n, uint32_t n_rows,
                    uint8_t *const act[], const struct epilogue *e, unsigned worker,
                    unsigned n_workers)
{
    size_t total = 0, at = 0;
    if (!n_rows)
        return;
    uint8_t *wide = d->wide + 2 * worker * d->wide_bytes;
    for (unsigned i = 0; i < n; i++)
        total += d->linears[linears[i]].n_panels * d->linears[linears[i]].panel_bytes;
    size_t begin = total / n_workers * worker;
    size_t end = worker + 1 == n_workers ? total : total / n_workers * (worker + 1);
    for (uint32_t i = 0, column = 0; i < n; i++) {
        const struct packed *w = &d->linears[linears[i]];
        size_t size = w->n_panels * w->panel_bytes;
        /* A panel belongs to the worker in whose byte range it begins. */
        size_t from = begin > at ? (begin - at + w->panel_bytes - 1) / w->panel_bytes : 0;
        size_t to = end > at ? (end - at + w->panel_bytes - 1) / w->panel_bytes : 0;
        to = to > w->n_panels ? w->n_panels : to;
        struct block b = {.linear = (uint32_t)linears[i],
                          .worker = worker,
                          .tiling = lodge_cpu_tiling(d, w->form, n_rows),
                          .wide = {wide, wide + d->wide_bytes}};
        b.slice = (w->panel_bytes / b.tiling.n_tiles + 63) / 64 * 64; /* whole lines */
        for (size_t p = from; p < to; p++) {
            b.panel = (uint32_t)p;
            b.last = p + 1 == to;
            one_panel(d, b, column, act[w->form], e);
        }
        at += size;
        column += w->n_rows;
    }
}
