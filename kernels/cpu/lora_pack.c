/* Host images of adapters: matrices into cells, and the gains of DoRA. Runs beside steps; it reads
 * the packed weights and writes the image alone. */
#include "kernels/cpu/device.h"
#include "kernels/ref/math.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static uint16_t *cell_of(uint8_t *image, uint32_t cell)
{
    return (uint16_t *)(void *)(image + (size_t)cell * LODGE_CELL_BYTES);
}

static size_t place_a(uint32_t rank, uint32_t column)
{
    return ((column / 4 * 8 + rank) * 2 + column % 4 / 2) * 2 + column % 2;
}

float lodge_cpu_lora_a(const uint8_t *cell, uint32_t rank, uint32_t column)
{
    uint16_t bits;
    memcpy(&bits, cell + 2 * place_a(rank, column), 2);
    return lodge_bf16_float(bits);
}

/* Lines of 4 columns by 8 ranks, written in order; ranks that the matrix lacks stay zero. */
static void pack_a(const struct lodge_lora_target *t, uint32_t n_cols, uint8_t *image,
                   uint32_t first)
{
    const size_t four = 4 * sizeof *t->a;
    uint32_t row_cells = lodge_lora_row_cells(n_cols);
    for (uint32_t r = 0; r < t->rank; r += 8) {
        const uint16_t *rows = t->a + (size_t)r * n_cols;
        uint16_t *line = cell_of(image, first + r / 8 * row_cells);
        uint32_t ranks = t->rank - r < 8 ? t->rank - r : 8, k = 0;
        for (; k + 4 <= n_cols; k += 4, line += 32)
            for (uint32_t j = 0; j < ranks; j++)
                memcpy(line + 4 * j, rows + (size_t)j * n_cols + k, four);
        for (uint32_t j = 0; k < n_cols && j < ranks; j++)
            memcpy(line + 4 * j, rows + (size_t)j * n_cols + k, (n_cols - k) * sizeof *rows);
    }
}

/* A whole block: outputs o and o + 16 of a rank lie side by side. */
static void pack_full_block(const uint16_t *b, size_t ld, uint16_t *block)
{
    for (uint32_t r = 0; r < 8; r++)
        for (uint32_t o = 0; o < 16; o++) {
            uint32_t two = b[o * ld + r] | (uint32_t)b[(o + 16) * ld + r] << 16;
            memcpy(block + r * 32 + o * 2, &two, sizeof two);
        }
}

/* One block of 32 outputs by 8 ranks; the matrix has n_ranks and n_outputs of them from here on. */
static void pack_block(const uint16_t *b, size_t ld, uint32_t n_outputs, uint32_t n_ranks,
                       uint16_t *block)
{
    if (n_ranks >= 8 && n_outputs >= 32) {
        pack_full_block(b, ld, block);
        return;
    }
    uint32_t ranks = n_ranks < 8 ? n_ranks : 8, outputs = n_outputs < 32 ? n_outputs : 32;
    for (uint32_t o = 0; o < outputs; o++)
        for (uint32_t r = 0; r < ranks; r++)
            block[r * 32 + o % 16 * 2 + o / 16] = b[o * ld + r];
}

static void pack_b(const struct lodge_lora_target *t, uint32_t n_outputs, uint8_t *image,
                   uint32_t first)
{
    uint32_t row_cells = lodge_lora_row_cells(n_outputs);
    for (uint32_t r = 0; r < t->rank; r += 8)
        for (uint32_t o = 0; o < n_outputs; o += 32) {
            uint16_t *cell = cell_of(image, first + r / 8 * row_cells + o / 256);
            pack_block(t->b + (size_t)o * t->rank + r, t->rank, n_outputs - o, t->rank - r,
                       cell + o % 256 / 32 * 256);
        }
}

/* ---- DoRA: g = m / |W + s B A|, row by row ---- */

struct gains {
    const struct lodge_device *d;
    const struct lodge_lora_target *t;
    const struct lodge_lora_place *place;
    const uint8_t *image;
    uint32_t n_cols;
    double *aat;      /* (rank, rank) A A' */
    float *w;         /* one row of W */
    uint16_t *halves; /* it as a sum of two bf16 numbers, for the shrink kernel */
};

static void fill_aat(struct gains *g)
{
    for (uint32_t i = 0; i < g->t->rank; i++)
        for (uint32_t j = 0; j <= i; j++) {
            const uint16_t *a = g->t->a + (size_t)i * g->n_cols;
            const uint16_t *b = g->t->a + (size_t)j * g->n_cols;
            double sum = 0;
            for (uint32_t k = 0; k < g->n_cols; k++)
                sum += (double)lodge_bf16_float(a[k]) * (double)lodge_bf16_float(b[k]);
            g->aat[i * g->t->rank + j] = g->aat[j * g->t->rank + i] = sum;
        }
}

/* A w for a granule. W is split into two bf16 numbers: 16 bits of it, far beyond its own format. */
static void shrink_row(const struct gains *g, uint32_t granule, double out[8])
{
    _Alignas(64) lodge_lora_chains chains;
    float t[2][8];
    const uint8_t *bytes;
    const uint8_t *const *const rows[2] = {&bytes, &bytes};
    size_t ldx = lodge_cpu_lora_stride(g->n_cols);
    size_t cell = g->place->first_a + (size_t)granule * lodge_lora_row_cells(g->n_cols);
    for (size_t at = 0; at < ldx; at += LODGE_CELL_COLS, cell++) {
        bytes = g->image + cell * LODGE_CELL_BYTES;
        size_t n = ldx - at < LODGE_CELL_COLS ? ldx - at : LODGE_CELL_COLS;
        g->d->k.lora_shrink(rows, 1, (uint32_t)n / 4, g->halves + at, ldx, 2, at == 0, chains);
    }
    g->d->k.lora_sum(chains, 1, 2, t[0], 8);
    for (uint32_t j = 0; j < 8; j++)
        out[j] = (double)t[0][j] + (double)t[1][j];
}

static void split_row(struct gains *g, uint32_t row)
{
    const struct packed *w = &g->d->linears[g->t->linear];
    size_t ldx = lodge_cpu_lora_stride(g->n_cols);
    g->d->k.gemm[w->format].gather(w->panels + row / 32 * w->panel_bytes, g->n_cols, row % 32,
                                   g->w);
    for (uint32_t k = 0; k < g->n_cols; k++) {
        g->halves[k] = lodge_float_bf16(g->w[k]);
        g->halves[ldx + k] = lodge_float_bf16(g->w[k] - lodge_bf16_float(g->halves[k]));
    }
}

/* |W_i + s B_i A|^2 = |W_i|^2 + 2 s B_i (A W_i') + s^2 B_i (A A') B_i'. */
static double squared_length(struct gains *g, uint32_t row)
{
    const uint32_t rank = g->t->rank;
    const uint16_t *b = g->t->b + (size_t)row * rank;
    const double s = (double)g->t->scale;
    double w2 = 0, cross = 0, own = 0, aw[8];
    split_row(g, row);
    for (uint32_t k = 0; k < g->n_cols; k++)
        w2 += (double)g->w[k] * (double)g->w[k];
    for (uint32_t r = 0; r < rank; r++) {
        if (r % 8 == 0)
            shrink_row(g, r / 8, aw);
        double br = (double)lodge_bf16_float(b[r]);
        cross += br * aw[r % 8];
        for (uint32_t q = 0; q < rank; q++)
            own += br * (double)lodge_bf16_float(b[q]) * g->aat[r * rank + q];
    }
    return w2 + 2 * s * cross + s * s * own;
}

static int fill_gains(struct lodge_device *d, const struct lodge_lora_target *t,
                      const struct lodge_lora_place *place, uint8_t *image, struct lodge_error *e)
{
    if (!atomic_load(&d->ready))
        return lodge_fail(e, LODGE_ERR_AGAIN, "the weights are not there yet");
    uint32_t n = d->linears[t->linear].n_rows;
    struct gains g = {d, t, place, image, d->linears[t->linear].n_cols, NULL, NULL, NULL};
    g.aat = calloc((size_t)t->rank * t->rank, sizeof *g.aat);
    g.w = calloc(g.n_cols, sizeof *g.w);
    g.halves = calloc(2 * lodge_cpu_lora_stride(g.n_cols), sizeof *g.halves);
    bool room = g.aat && g.w && g.halves;
    if (room)
        fill_aat(&g);
    for (uint32_t i = 0; i < n && room; i++) {
        float *gain = (float *)(void *)cell_of(image, place->first_gain + i / 1024) + i % 1024;
        double length = sqrt(squared_length(&g, i));
        *gain = length > 0 ? (float)((double)t->magnitude[i] / length) : 1;
    }
    free(g.aat);
    free(g.w);
    free(g.halves);
    return room ? 0 : lodge_fail(e, LODGE_ERR_NOMEM, "no memory to pack an adapter");
}

/* ---- all ---- */

int lodge_cpu_adapter_pack(struct lodge_device *d, const struct lodge_lora *lora,
                           const struct lodge_lora_layout *layout, uint32_t target, uint8_t *image,
                           struct lodge_error *e)
{
    const struct lodge_lora_target *t = &lora->targets[target];
    const struct lodge_lora_place *p = &layout->places[target];
    const struct lodge_linear *l = &d->plan->linears[t->linear];
    uint32_t n_outputs = lodge_lora_outputs(l);
    if (t->magnitude && l->site == LODGE_SITE_EMBED)
        return lodge_fail(e, LODGE_ERR_UNSUPPORTED, "DoRA of the table of embeddings");
    pack_a(t, lodge_lora_inputs(l), image, p->first_a);
    pack_b(t, n_outputs, image, p->first_b);
    for (uint32_t o = 0; t->offset && o < n_outputs; o++)
        ((float *)(void *)cell_of(image, p->first_offset + o / 1024))[o % 1024] = t->offset[o];
    return t->magnitude ? fill_gains(d, t, p, image, e) : 0;
}
