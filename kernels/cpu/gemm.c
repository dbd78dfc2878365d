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
    return (struct tiling){n_rows, (n_rows + mr - 1) / mr};
}

uint32_t lodge_cpu_tile_rows(struct tiling t, uint32_t tile, uint32_t *first)
{
    uint32_t small = t.n_rows / t.n_tiles, larger = t.n_rows % t.n_tiles;
    *first = tile * small + (tile < larger ? tile : larger);
    return small + (tile < larger);
}

unsigned lodge_cpu_forms(const struct lodge_device *d, const int32_t *linears, unsigned n)
{
    unsigned forms = 0;
    for (unsigned i = 0; i < n; i++)
        forms |= 1u << d->linears[linears[i]].form;
    return forms;
}

void lodge_cpu_pack_rows(struct lodge_device *d, const float *x, size_t ld, uint32_t n_rows,
                         uint32_t n_cols, const struct lodge_norm *norm, unsigned forms,
                         uint8_t *const act[], unsigned worker, unsigned n_workers)
{
    float *rows = (float *)(d->scratch + worker * d->scratch_bytes);
    const float *weight =
        norm && norm->weight != LODGE_NONE ? d->plan->vectors[norm->weight].data : NULL;
    for (int f = 0; f < LODGE_ACT_FORM_COUNT; f++) {
        if (!(forms & 1u << f))
            continue;
        struct tiling t = lodge_cpu_tiling(d, (enum lodge_act_form)f, n_rows);
        size_t tile_bytes = lodge_act_tile_bytes((enum lodge_act_form)f, n_cols);
        uint32_t from, to, first;
        lodge_cpu_share(t.n_tiles, worker, n_workers, &from, &to);
        for (uint32_t tile = from; tile < to; tile++) {
            uint32_t m = lodge_cpu_tile_rows(t, tile, &first);
            const float *in = x + first * ld;
            size_t in_ld = ld;
            for (uint32_t i = 0; weight && i < m; i++)
                d->k.rms_norm(x + (first + i) * ld, weight, n_cols, norm->eps,
                              rows + (size_t)i * n_cols);
            if (weight) {
                in = rows;
                in_ld = n_cols;
            }
            d->k.act_pack[f](in, in_ld, m, 0, n_cols, n_cols, act[f] + tile * tile_bytes);
        }
    }
}

static void one_panel(struct lodge_device *d, int32_t linear, uint32_t panel, bool last,
                      struct tiling t, const uint8_t *act, lodge_block_fn *fn, void *ctx)
{
    const struct packed *w = &d->linears[linear];
    const struct lodge_gemm *g = &d->k.gemm[w->format];
    size_t tile_bytes = lodge_act_tile_bytes(w->form, w->n_cols);
    const uint8_t *bytes = w->panels + panel * w->panel_bytes;
    /* Slices of the next panel, in whole lines, one per tile. */
    size_t slice = (w->panel_bytes / t.n_tiles + 63) / 64 * 64;
    _Alignas(64) float block[LODGE_TILE_ROWS_MAX * LODGE_PANEL_ROWS];
    uint32_t first;
    for (uint32_t tile = 0; tile < t.n_tiles; tile++) {
        unsigned m = lodge_cpu_tile_rows(t, tile, &first);
        size_t at = slice * tile;
        size_t ahead = last || at >= w->panel_bytes  ? 0
                       : w->panel_bytes - at < slice ? w->panel_bytes - at
                                                     : slice;
        g->tile(bytes, w->n_cols, act + tile * tile_bytes, m, block, LODGE_PANEL_ROWS,
                bytes + w->panel_bytes + at, ahead);
        fn(ctx, (uint32_t)linear, first, m, panel, block);
    }
}

void lodge_cpu_gemm(struct lodge_device *d, const int32_t *linears, unsigned n, uint32_t n_rows,
                    uint8_t *const act[], lodge_block_fn *fn, void *ctx, unsigned worker,
                    unsigned n_workers)
{
    size_t total = 0, at = 0;
    for (unsigned i = 0; i < n; i++)
        total += d->linears[linears[i]].n_panels * d->linears[linears[i]].panel_bytes;
    size_t begin = total / n_workers * worker;
    size_t end = worker + 1 == n_workers ? total : total / n_workers * (worker + 1);
    for (unsigned i = 0; i < n; i++) {
        const struct packed *w = &d->linears[linears[i]];
        size_t size = w->n_panels * w->panel_bytes;
        /* A panel belongs to the worker in whose byte range it begins. */
        size_t from = begin > at ? (begin - at + w->panel_bytes - 1) / w->panel_bytes : 0;
        size_t to = end > at ? (end - at + w->panel_bytes - 1) / w->panel_bytes : 0;
        to = to > w->n_panels ? w->n_panels : to;
        struct tiling t = lodge_cpu_tiling(d, w->form, n_rows);
        for (size_t p = from; p < to; p++)
            one_panel(d, linears[i], (uint32_t)p, p + 1 == to, t, act[w->form], fn, ctx);
        at += size;
    }
}
