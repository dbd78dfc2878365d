/* Adapters on the CPU: slots, the rows of a step as spans, and the two products around the base's.
 *
 * A span is a run of rows with one (adapter, scale). Shrink runs as a phase of its own over (span,
 * linear, granule) items, an equal part for each worker; expand runs in the epilogue of the base
 * product, on the worker that has the block in its cache. Rows without adapters have no span and
 * cost nothing; a step without adapters takes no extra phase. */
#include "kernels/cpu/device.h"

#include <stdlib.h>
#include <string.h>

/* Rows of one shrink item: several calls, so that one adapter's long prompt still splits. */
#define ITEM_ROWS (LODGE_LORA_ROWS * 3)

/* ---- slots ---- */

int lodge_cpu_lora_init(struct lodge_device *d, struct lodge_error *e)
{
    d->adapters = calloc(d->n_pages, sizeof *d->adapters);
    d->free_adapters = calloc(d->n_pages, sizeof *d->free_adapters);
    if (!d->adapters || !d->free_adapters)
        return lodge_fail(e, LODGE_ERR_NOMEM, "no memory for the table of adapters");
    for (uint32_t i = 0; i < d->n_pages; i++)
        d->free_adapters[d->n_free_adapters++] = d->n_pages - 1 - i;
    return 0;
}

void lodge_cpu_lora_finish(struct lodge_device *d)
{
    for (uint32_t i = 0; d->adapters && i < d->n_pages; i++)
        free(d->adapters[i].cells);
    free(d->adapters);
    free(d->free_adapters);
}

/* Places that share an input follow one another: each begins its t after the one before. */
static void set_places(const struct lodge_device *d, struct lora_adapter *a)
{
    for (uint32_t i = 0; i < a->layout->n_places; i++) {
        const struct lodge_lora_place *p = &a->layout->places[i];
        const struct lodge_linear *l = &d->plan->linears[p->linear];
        a->by_linear[p->linear] = (uint16_t)(i + 1);
        a->sites |= 1u << l->site;
        for (uint32_t j = 0; j < i; j++)
            if (lodge_lora_same_input(l, &d->plan->linears[a->layout->places[j].linear]))
                a->offsets[i] += a->layout->places[j].rank;
    }
}

int lodge_cpu_adapter_open(struct lodge_device *d, const struct lodge_lora_layout *layout,
                           const uint32_t *pages, uint32_t n_pages, uint32_t *slot,
                           struct lodge_error *e)
{
    uint32_t per_page = (uint32_t)(d->page_bytes / LODGE_CELL_BYTES);
    if (!d->n_free_adapters || (uint64_t)n_pages * per_page < layout->n_cells)
        return lodge_fail(e, LODGE_ERR_INVALID, "%u pages do not hold %u cells of an adapter",
                          n_pages, layout->n_cells);
    /* One piece of memory: cells, offsets, by_linear. */
    size_t words = (size_t)layout->n_cells + layout->n_places;
    uint32_t *space = calloc(1, words * sizeof(uint32_t) + d->plan->n_linears * sizeof(uint16_t));
    if (!space)
        return lodge_fail(e, LODGE_ERR_NOMEM, "no memory for the cell table of an adapter");
    *slot = d->free_adapters[--d->n_free_adapters];
    struct lora_adapter *a = &d->adapters[*slot];
    *a = (struct lora_adapter){.layout = layout,
                               .cells = space,
                               .offsets = space + layout->n_cells,
                               .by_linear = (uint16_t *)(space + words),
                               .width = lodge_lora_width(layout, d->plan)};
    for (uint32_t c = 0; c < layout->n_cells; c++)
        a->cells[c] = pages[c / per_page] * per_page + c % per_page;
    set_places(d, a);
    return 0;
}

struct upload {
    struct lodge_device *d;
    const uint32_t *cells;
    const uint8_t *image;
    uint32_t first, n;
};

static void copy_cells(void *ctx, unsigned worker, unsigned n_workers)
{
    const struct upload *u = ctx;
    uint32_t from, to;
    lodge_cpu_share(u->n, worker, n_workers, &from, &to);
    for (uint32_t c = u->first + from; c < u->first + to; c++)
        memcpy(u->d->pool + (size_t)u->cells[c] * LODGE_CELL_BYTES,
               u->image + (size_t)c * LODGE_CELL_BYTES, LODGE_CELL_BYTES);
}

/* All workers wait for the next step meanwhile: they copy. */
void lodge_cpu_adapter_upload(struct lodge_device *d, uint32_t slot, const uint8_t *image,
                              uint32_t first_cell, uint32_t n_cells)
{
    struct upload u = {d, d->adapters[slot].cells, image, first_cell, n_cells};
    lodge_workers_run(d->workers, copy_cells, &u);
}

void lodge_cpu_adapter_close(struct lodge_device *d, uint32_t slot)
{
    free(d->adapters[slot].cells);
    d->adapters[slot] = (struct lora_adapter){0};
    d->free_adapters[d->n_free_adapters++] = slot;
}

/* ---- spans ---- */

struct planning {
    struct lodge_device *d;
    struct lora_rows *rows;
    uint64_t most; /* floats of t */
    uint64_t t;
};

/* Goes on with the last span, or begins one. */
static bool add_span(struct planning *p, uint32_t first, uint32_t n,
                     const struct lodge_row_adapter *ra, bool alone)
{
    struct lodge_device *d = p->d;
    if (ra->adapter >= d->n_pages || !d->adapters[ra->adapter].layout)
        return false;
    const struct lora_adapter *a = &d->adapters[ra->adapter];
    struct lora_span *last = p->rows->n ? &p->rows->spans[p->rows->n - 1] : NULL;
    uint64_t t = p->t;
    p->t += (uint64_t)n * a->width;
    if (p->t > p->most)
        return false;
    if (alone && last && last->first + last->n == first && last->slot == ra->adapter &&
        last->scale == ra->scale && last->t + (uint64_t)last->n * a->width == t) {
        last->n += n;
        return true;
    }
    p->rows->spans[p->rows->n++] =
        (struct lora_span){first, n, ra->adapter, ra->scale, (uint32_t)t};
    return true;
}

static void index_rows(struct lora_rows *l, uint32_t n_rows)
{
    uint32_t s = 0;
    for (uint32_t i = 0; i < n_rows; i++) {
        while (s < l->n && l->spans[s].first + l->spans[s].n <= i)
            s++;
        l->at[i] = s;
    }
}

/* Adapters of one step row over n rows of a product from `first` on. */
static bool add_row(struct planning *p, const struct lodge_step *s, const struct lodge_row *row,
                    uint32_t first, uint32_t n)
{
    for (uint32_t i = 0; i < row->n_adapters; i++)
        if (!add_span(p, first, n, &s->adapters[row->first_adapter + i], row->n_adapters == 1))
            return false;
    return true;
}

bool lodge_cpu_lora_plan(struct lodge_device *d, const struct lodge_step *s)
{
    struct planning p = {d, &d->lora, d->cfg.max_step_ranks, 0};
    d->lora.n = d->lora_sites = 0;
    d->lora_gains = false;
    if (!s->n_adapters)
        return true;
    for (uint32_t i = 0; i < s->n_rows; i++) {
        const struct lodge_row *row = &s->rows[i];
        if (row->n_adapters > LODGE_MAX_ROW_ADAPTERS ||
            (uint64_t)row->first_adapter + row->n_adapters > s->n_adapters ||
            !add_row(&p, s, row, row->first_token, row->n_tokens))
            return false;
    }
    for (uint32_t i = 0; i < d->lora.n; i++) {
        const struct lora_adapter *a = &d->adapters[d->lora.spans[i].slot];
        d->lora_sites |= a->sites;
        d->lora_gains |= a->layout->scaled_once;
    }
    index_rows(&d->lora, s->n_tokens);
    return true;
}

void lodge_cpu_lora_plan_head(struct lodge_device *d, const uint32_t *wanted, uint32_t n)
{
    struct planning p = {d, &d->lora_head, (uint64_t)d->cfg.max_step_ranks * 2, 0};
    d->lora_head.n = 0;
    for (uint32_t i = 0; i < n; i++) {
        const struct lodge_row *row = &d->step->rows[d->tokens[wanted[i]].row];
        /* Cannot fail: the step's tokens fitted, and each has two of these rows at most. */
        (void)add_row(&p, d->step, row, i, 1);
    }
    index_rows(&d->lora_head, n);
}

/* ---- uses ---- */

static struct lora_use use_of(const struct lodge_device *d, const struct lora_span *s,
                              int32_t linear)
{
    const struct lora_adapter *a = &d->adapters[s->slot];
    uint32_t i = a->by_linear[linear];
    if (!i)
        return (struct lora_use){0};
    const struct lodge_lora_place *p = &a->layout->places[i - 1];
    return (struct lora_use){.place = *p,
                             .t = s->t + a->offsets[i - 1],
                             .ldt = a->width,
                             .scale = p->scale * s->scale,
                             .cells = a->cells};
}

static void find_uses(const struct lodge_device *d, const struct lora_rows *rows,
                      const int32_t *linears, unsigned n, struct lora_uses *u)
{
    memcpy(u->linears, linears, n * sizeof *linears);
    u->n = n;
    for (uint32_t i = 0; i < rows->n; i++)
        for (unsigned l = 0; l < n; l++)
            u->of[l][i] = use_of(d, &rows->spans[i], linears[l]);
}

static const struct lora_use *uses_of(const struct lora_uses *u, uint32_t linear)
{
    unsigned l = 0;
    while ((uint32_t)u->linears[l] != linear)
        l++;
    return u->of[l];
}

static const uint8_t *cell_at(const struct lodge_device *d, const struct lora_use *u, uint32_t cell)
{
    return d->pool + (size_t)u->cells[cell] * LODGE_CELL_BYTES;
}

/* ---- shrink ---- */

/* One or two granules for m rows: t[i * ldt + j], j < 8 or 16. */
static void shrink_rows(const struct lodge_device *d, const struct lora_use *u, uint32_t first_cell,
                        uint32_t row_cells, unsigned granules, const uint16_t *x, size_t ldx,
                        unsigned m, float *t)
{
    _Alignas(64) lodge_lora_chains chains;
    const uint8_t *cells[2][LODGE_LORA_CELLS];
    const uint8_t *const *const rows[2] = {cells[0], cells[1]};
    const uint32_t most = LODGE_LORA_CELLS * LODGE_CELL_COLS;
    for (uint32_t at = 0; at < ldx; at += most) {
        uint32_t n = ldx - at < most ? (uint32_t)ldx - at : most;
        for (unsigned g = 0; g < granules; g++)
            for (uint32_t c = 0; c < lodge_lora_row_cells(n); c++)
                cells[g][c] = cell_at(d, u, first_cell + g * row_cells + at / LODGE_CELL_COLS + c);
        d->k.lora_shrink(rows, granules, n / 4, x + at, ldx, m, at == 0, chains);
    }
    d->k.lora_sum(chains, granules, m, t, u->ldt);
}

/* Rows [from, to) of a span by one or two granules. */
static void shrink_item(const struct lodge_device *d, const struct lora_span *s,
                        const struct lora_use *u, uint32_t n_cols, uint32_t granule,
                        unsigned granules, uint32_t from, uint32_t to, const uint16_t *xb)
{
    size_t ldx = lodge_cpu_lora_stride(n_cols);
    uint32_t row_cells = lodge_lora_row_cells(n_cols);
    float *t = d->lora_t + u->t + granule * LODGE_CELL_RANKS;
    for (uint32_t i = from; i < to; i += LODGE_LORA_ROWS) {
        unsigned m = to - i < LODGE_LORA_ROWS ? to - i : LODGE_LORA_ROWS;
        shrink_rows(d, u, u->place.first_a + granule * row_cells, row_cells, granules,
                    xb + (s->first + i) * ldx, ldx, m, t + i * u->ldt);
    }
}

/* Granules of an item: two where rows are many, so that each row is loaded half as often; one where
 * they are few and the bytes of A are what it takes, so that the workers share them evenly. */
static unsigned granules_of(const struct lora_span *s, const struct lora_use *u, uint32_t g)
{
    return s->n > LODGE_LORA_ROWS && g + 1 < u->place.rank / LODGE_CELL_RANKS ? 2 : 1;
}

/* Runs items [from, to) of n linears of one input; returns how many there are. */
static uint32_t shrink_items(const struct lodge_device *d, const struct lora_rows *rows,
                             const struct lora_uses *uses, const uint16_t *xb, uint32_t from,
                             uint32_t to)
{
    uint32_t n_cols = d->linears[uses->linears[0]].n_cols, item = 0;
    for (uint32_t i = 0; i < rows->n; i++) {
        const struct lora_span *s = &rows->spans[i];
        for (unsigned l = 0; l < uses->n; l++) {
            const struct lora_use *u = &uses->of[l][i];
            for (uint32_t g = 0, n_g; g < u->place.rank / LODGE_CELL_RANKS; g += n_g) {
                n_g = granules_of(s, u, g);
                for (uint32_t row = 0; row < s->n; row += ITEM_ROWS, item++) {
                    uint32_t end = s->n - row < ITEM_ROWS ? s->n : row + ITEM_ROWS;
                    if (item >= from && item < to)
                        shrink_item(d, s, u, n_cols, g, n_g, row, end, xb);
                }
            }
        }
    }
    return item;
}

/* A worker's items follow one another, as their cells do in memory. */
void lodge_cpu_lora_shrink(struct lodge_device *d, const struct lora_rows *rows,
                           const int32_t *linears, unsigned n, const uint16_t *xb, unsigned worker,
                           unsigned n_workers)
{
    struct lora_uses *uses = &d->lora_uses[worker];
    find_uses(d, rows, linears, n, uses);
    uint32_t from, to, n_items = shrink_items(d, rows, uses, xb, 0, 0);
    lodge_cpu_share(n_items, worker, n_workers, &from, &to);
    shrink_items(d, rows, uses, xb, from, to);
    lodge_workers_barrier(d->workers);
}

/* ---- expand ---- */

/* Pointers to the blocks of granules [g, g + n) at one column. */
static void find_blocks(const struct lodge_device *d, const struct lora_use *u, uint32_t n_outputs,
                        uint32_t column, uint32_t g, uint32_t n, const uint8_t **blocks)
{
    uint32_t row_cells = lodge_lora_row_cells(n_outputs);
    uint32_t cell = u->place.first_b + column / LODGE_CELL_COLS + g * row_cells;
    size_t inside = column % LODGE_CELL_COLS / 32 * LODGE_LORA_BLOCK_BYTES;
    for (uint32_t i = 0; i < n; i++, cell += row_cells)
        blocks[i] = cell_at(d, u, cell) + inside;
}

/* Nothing but B t, of few enough ranks: one call does it all. */
static bool is_plain(const struct lodge_lora_place *p)
{
    return p->first_offset == UINT32_MAX && p->first_gain == UINT32_MAX &&
           p->rank <= LODGE_LORA_BLOCKS * LODGE_CELL_RANKS;
}

/* acc[m][32] = offset + B t over all ranks, for outputs [column, column + 32). */
static void expand_rows(const struct lodge_device *d, const struct lora_use *u, uint32_t n_outputs,
                        uint32_t column, const float *t, unsigned m, float *acc)
{
    const struct lodge_lora_place *p = &u->place;
    uint32_t left = n_outputs - column < 32 ? n_outputs - column : 32;
    memset(acc, 0, m * 32 * sizeof *acc);
    if (p->first_offset != UINT32_MAX)
        for (unsigned i = 0; i < m; i++)
            memcpy(acc + i * 32,
                   (const float *)(const void *)cell_at(d, u, p->first_offset + column / 1024) +
                       column % 1024,
                   left * sizeof *acc);
    const uint8_t *blocks[LODGE_LORA_BLOCKS];
    uint32_t n = p->rank / LODGE_CELL_RANKS;
    for (uint32_t g = 0; g < n; g += LODGE_LORA_BLOCKS) {
        uint32_t some = n - g < LODGE_LORA_BLOCKS ? n - g : LODGE_LORA_BLOCKS;
        find_blocks(d, u, n_outputs, column, g, some, blocks);
        const struct lodge_lora_expand e = {.blocks = blocks,
                                            .n = some,
                                            .m = m,
                                            .t = t + g * LODGE_CELL_RANKS,
                                            .ldt = u->ldt,
                                            .acc = acc};
        d->k.lora_expand(&e);
    }
}

/* y += scale x B t, the same in one call. */
static void expand_plain(const struct lodge_device *d, const struct lora_use *u, uint32_t n_outputs,
                         uint32_t column, const float *t, unsigned m, float *y, size_t ld)
{
    const uint8_t *blocks[LODGE_LORA_BLOCKS];
    uint32_t n = u->place.rank / LODGE_CELL_RANKS;
    find_blocks(d, u, n_outputs, column, 0, n, blocks);
    const struct lodge_lora_expand e = {
        .blocks = blocks,
        .n = n,
        .m = m,
        .t = t,
        .ldt = u->ldt,
        .y = y,
        .ld = ld,
        .n_cols = n_outputs - column < 32 ? n_outputs - column : 32,
        .scale = u->scale,
    };
    d->k.lora_expand(&e);
}

static const float *gain_of(const struct lodge_device *d, const struct lora_use *u, uint32_t column)
{
    if (u->place.first_gain == UINT32_MAX)
        return NULL;
    return (const float *)(const void *)cell_at(d, u, u->place.first_gain + column / 1024) +
           column % 1024;
}

void lodge_cpu_lora_expand(const struct lodge_device *d, const struct lora_rows *rows,
                           const struct block *b)
{
    _Alignas(64) float acc[LODGE_TILE_ROWS_MAX * 32], base[LODGE_TILE_ROWS_MAX * 32];
    const struct lora_use *uses = uses_of(&d->lora_uses[b->worker], b->linear);
    uint32_t end = b->first_row + b->m, n_outputs = d->linears[b->linear].n_rows;
    if (d->lora_gains) /* what W x was, whatever is added before */
        for (unsigned i = 0; i < b->m; i++)
            memcpy(base + i * 32, b->y + i * b->ld, b->n_cols * sizeof *base);
    for (uint32_t i = rows->at[b->first_row]; i < rows->n && rows->spans[i].first < end; i++) {
        const struct lora_span *s = &rows->spans[i];
        const struct lora_use *u = &uses[i];
        if (!u->place.rank)
            continue;
        uint32_t from = s->first > b->first_row ? s->first : b->first_row;
        uint32_t to = s->first + s->n < end ? s->first + s->n : end;
        const float *t = d->lora_t + u->t + (size_t)(from - s->first) * u->ldt;
        uint32_t at = from - b->first_row, m = to - from;
        float *y = b->y + at * b->ld;
        if (is_plain(&u->place)) {
            expand_plain(d, u, n_outputs, b->from, t, m, y, b->ld);
            continue;
        }
        expand_rows(d, u, n_outputs, b->from, t, m, acc);
        d->k.lora_add(y, b->ld, acc, base + at * 32, gain_of(d, u, b->from), u->scale, m,
                      b->n_cols);
    }
}

void lodge_cpu_lora_embed(struct lodge_device *d, int32_t table, uint32_t token, float *x)
{
    _Alignas(64) float acc[32];
    const struct lora_rows *rows = &d->lora;
    const uint32_t id = d->step->tokens[token], n_outputs = d->plan->d_model;
    for (uint32_t i = rows->at[token]; i < rows->n && rows->spans[i].first <= token; i++) {
        const struct lora_span *s = &rows->spans[i];
        const struct lora_use u = use_of(d, s, table);
        const struct lodge_lora_place *p = &u.place;
        if (!p->rank)
            continue;
        /* Column `id` of A; t has room for it, like any other product's. */
        float *t = d->lora_t + u.t + (size_t)(token - s->first) * u.ldt;
        uint32_t row_cells = lodge_lora_row_cells(d->linears[table].n_rows);
        for (uint32_t j = 0; j < p->rank; j++) {
            uint32_t cell = p->first_a + j / LODGE_CELL_RANKS * row_cells + id / LODGE_CELL_COLS;
            t[j] =
                lodge_cpu_lora_a(cell_at(d, &u, cell), j % LODGE_CELL_RANKS, id % LODGE_CELL_COLS);
        }
        for (uint32_t c = 0; c < n_outputs; c += 32) {
            uint32_t left = n_outputs - c < 32 ? n_outputs - c : 32;
            expand_rows(d, &u, n_outputs, c, t, 1, acc);
            d->k.lora_add(x + c, 0, acc, NULL, NULL, u.scale, 1, left);
        }
    }
}
