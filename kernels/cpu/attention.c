/* Attention work: items of up to 12 queries against ranges of 256 tokens.
 *
 * A query always meets its ranges one by one, in rising order, each from an empty state, and the
 * states are merged in that order; so its bits do not depend on how the work was cut. Where there
 * are few items (decode of few sequences) the ranges of an item are items of their own.
 */
#include "kernels/cpu/device.h"

#include <string.h>

#define RANGE_TOKENS (LODGE_RANGE_PAGES * LODGE_PAGE_TOKENS)

uint8_t *lodge_cpu_kv_head(const struct lodge_device *d, const struct lodge_row *row,
                           uint32_t group, uint32_t group_layer, uint32_t kv_head, uint32_t block)
{
    uint32_t page = d->step->pages[row->table + group * row->n_blocks + block];
    if (page == LODGE_NO_PAGE)
        return NULL;
    const struct lodge_layer_group *g = &d->plan->groups[group];
    size_t head = lodge_kv_head_bytes(d->cfg.kv, g->head_dim, LODGE_PAGE_TOKENS);
    return d->pool + page * d->page_bytes + ((size_t)group_layer * g->n_kv_heads + kv_head) * head;
}

/* Ranges that queries [first token, last token] of a row can see. */
static void visible_ranges(const struct lodge_op_attn *op, const struct lodge_row *row,
                           uint32_t first, uint32_t last, uint32_t *from, uint32_t *to)
{
    uint32_t low = row->position + first, high = row->position + last;
    *from = op->window && low + 1 > op->window ? (low + 1 - op->window) / RANGE_TOKENS : 0;
    *to = high / RANGE_TOKENS + 1;
}

static void add_item(struct lodge_device *d, struct attn_item item)
{
    if (d->n_items < d->max_items)
        d->items[d->n_items++] = item;
}

/* Items of one (row, kv head, chunk of queries): one, or one a range. */
static void add_chunk(struct lodge_device *d, const struct lodge_op_attn *op, struct attn_item item,
                      bool split, int32_t *n_partials)
{
    const struct lodge_row *row = &d->step->rows[item.row];
    uint32_t group = op->n_heads / op->n_kv_heads, from, to;
    visible_ranges(op, row, item.first_query / group,
                   (item.first_query + item.n_queries - 1) / group, &from, &to);
    if (!split || to - from < 2 ||
        *n_partials + (int32_t)(to - from) > (int32_t)LODGE_MAX_PARTIALS) {
        item.range = from;
        item.n_ranges = to - from;
        item.partial = -1;
        add_item(d, item);
        return;
    }
    for (uint32_t r = from; r < to; r++) {
        item.range = r;
        item.n_ranges = 1;
        item.partial = (*n_partials)++;
        add_item(d, item);
    }
}

/* Longest first is what balances; prefill chunks see most at the end of a row. */
void lodge_cpu_plan_attention(struct lodge_device *d, const struct lodge_op_attn *op)
{
    uint32_t group = op->n_heads / op->n_kv_heads, n_chunks = 0;
    int32_t n_partials = 0;
    d->n_items = 0;
    for (uint32_t r = 0; r < d->step->n_rows; r++)
        n_chunks += (d->step->rows[r].n_tokens * group + 11) / 12 * op->n_kv_heads;
    bool split = n_chunks < 16 * lodge_workers_count(d->workers);
    for (uint32_t r = 0; r < d->step->n_rows; r++) {
        uint32_t n = d->step->rows[r].n_tokens * group;
        uint32_t chunks = (n + LODGE_ATTN_QUERIES - 1) / LODGE_ATTN_QUERIES;
        for (uint32_t c = chunks; c-- > 0;)
            for (uint32_t h = 0; h < op->n_kv_heads; h++) {
                uint32_t first = c * LODGE_ATTN_QUERIES;
                uint32_t left = n - first;
                struct attn_item item = {.row = r,
                                         .kv_head = h,
                                         .first_query = first,
                                         .n_queries =
                                             left < LODGE_ATTN_QUERIES ? left : LODGE_ATTN_QUERIES};
                add_chunk(d, op, item, split, &n_partials);
            }
    }
}

/* Where queries of the item belong: token and head. */
static void write_out(struct lodge_device *d, const struct lodge_op_attn *op,
                      const struct attn_item *item, const struct lodge_attn_state *s)
{
    uint32_t group = op->n_heads / op->n_kv_heads, dim = lodge_kv_dim(op->head_dim);
    const struct lodge_row *row = &d->step->rows[item->row];
    for (uint32_t i = 0; i < item->n_queries; i++) {
        uint32_t query = item->first_query + i;
        size_t token = row->first_token + query / group;
        uint32_t head = item->kv_head * group + query % group;
        float *out = d->attn_out + (token * op->n_heads + head) * op->head_dim;
        float inverse = s->sum[i] > 0 ? 1.0f / s->sum[i] : 0;
        for (uint32_t j = 0; j < op->head_dim; j++)
            out[j] = s->acc[i * dim + j] * inverse;
    }
}

/* Token range of each query inside a range that begins at token `base`. */
static void set_bounds(const struct lodge_op_attn *op, const struct lodge_row *row,
                       const struct attn_item *item, uint32_t base, struct lodge_attn_call *c)
{
    uint32_t group = op->n_heads / op->n_kv_heads;
    for (uint32_t i = 0; i < item->n_queries; i++) {
        uint32_t position = row->position + (item->first_query + i) / group;
        uint32_t low = op->window && position + 1 > op->window ? position + 1 - op->window : 0;
        uint32_t end = position + 1;
        c->first[i] = low > base ? low - base : 0;
        c->last[i] = end > base ? end - base : 0;
        if (c->last[i] > RANGE_TOKENS)
            c->last[i] = RANGE_TOKENS;
    }
}

static const uint8_t *first_page(const struct lodge_device *d, const struct lodge_op_attn *op,
                                 uint32_t i)
{
    if (i >= d->n_items)
        return NULL;
    const struct attn_item *item = &d->items[i];
    return lodge_cpu_kv_head(d, &d->step->rows[item->row], op->group, op->group_layer,
                             item->kv_head, item->range * LODGE_RANGE_PAGES);
}

/* `next`: what is read after the last range. */
static void run_range(struct lodge_device *d, const struct lodge_op_attn *op,
                      const struct attn_item *item, uint32_t range, const uint8_t *next,
                      struct lodge_attn_call *c)
{
    const struct lodge_row *row = &d->step->rows[item->row];
    uint32_t first_block = range * LODGE_RANGE_PAGES;
    c->n_pages = row->n_blocks - first_block < LODGE_RANGE_PAGES ? row->n_blocks - first_block
                                                                 : LODGE_RANGE_PAGES;
    for (uint32_t b = 0; b < c->n_pages; b++)
        c->pages[b] =
            lodge_cpu_kv_head(d, row, op->group, op->group_layer, item->kv_head, first_block + b);
    bool last = range + 1 == item->range + item->n_ranges;
    c->next = last ? next
                   : lodge_cpu_kv_head(d, row, op->group, op->group_layer, item->kv_head,
                                       first_block + c->n_pages);
    set_bounds(op, row, item, range * RANGE_TOKENS, c);
    d->k.kv[d->cfg.kv].attn(c);
}

/* Gathers the item's queries. */
static void gather_queries(const struct lodge_device *d, const struct lodge_op_attn *op,
                           const struct attn_item *item, uint32_t dim, uint8_t *q)
{
    size_t bytes = lodge_kv_query_bytes(d->cfg.kv, dim);
    uint32_t group = op->n_heads / op->n_kv_heads;
    for (uint32_t i = 0; i < item->n_queries; i++) {
        uint32_t query = item->first_query + i;
        size_t token = d->step->rows[item->row].first_token + query / group;
        size_t head = item->kv_head * group + query % group;
        memcpy(q + i * bytes, d->q + (token * op->n_heads + head) * bytes, bytes);
    }
}

static uint32_t claim(struct lodge_device *d)
{
    return atomic_fetch_add_explicit(&d->next, 1, memory_order_relaxed);
}

/* Returns the worker's next item, which is claimed before the last range, whose kernel fetches that
 * item's first page. */
static uint32_t run_item(struct lodge_device *d, const struct lodge_op_attn *op,
                         const struct attn_item *item, uint8_t *scratch)
{
    const uint32_t dim = lodge_kv_dim(op->head_dim);
    float *acc = (float *)scratch, *more = acc + LODGE_ATTN_QUERIES * dim;
    uint8_t *q = (uint8_t *)(more + LODGE_ATTN_QUERIES * dim);
    gather_queries(d, op, item, dim, q);
    struct lodge_attn_call c = {.q = q,
                                .n_queries = item->n_queries,
                                .dim = dim,
                                .scale = op->scale,
                                .softcap = op->softcap,
                                .out.acc = acc};
    if (item->partial >= 0)
        c.out.acc = d->partial_acc + (size_t)item->partial * LODGE_ATTN_QUERIES * dim;
    struct lodge_attn_state all = {0};
    uint32_t next = d->n_items;
    for (uint32_t r = 0; r < item->n_ranges; r++) {
        if (r + 1 == item->n_ranges)
            next = claim(d);
        run_range(d, op, item, item->range + r, first_page(d, op, next), &c);
        if (r == 0)
            all = c.out;
        else
            d->k.attn_merge(&all, &c.out, item->n_queries, dim);
        c.out.acc = more;
    }
    if (item->partial >= 0)
        d->partials[item->partial] = all;
    else
        write_out(d, op, item, &all);
    return next;
}

void lodge_cpu_attention(struct lodge_device *d, const struct lodge_op_attn *op, unsigned worker)
{
    uint8_t *scratch = d->scratch + worker * d->scratch_bytes;
    uint32_t i = claim(d);
    while (i < d->n_items)
        i = run_item(d, op, &d->items[i], scratch);
}

/* The items of one chunk stand side by side, ranges rising. */
void lodge_cpu_merge_partials(struct lodge_device *d, const struct lodge_op_attn *op,
                              unsigned worker, unsigned n_workers)
{
    uint32_t dim = lodge_kv_dim(op->head_dim), turn = 0;
    for (uint32_t i = 0; i < d->n_items;) {
        uint32_t n = 1;
        const struct attn_item *item = &d->items[i];
        if (item->partial >= 0)
            while (i + n < d->n_items && d->items[i + n].partial >= 0 &&
                   d->items[i + n].row == item->row && d->items[i + n].kv_head == item->kv_head &&
                   d->items[i + n].first_query == item->first_query)
                n++;
        i += n;
        if (item->partial < 0 || turn++ % n_workers != worker)
            continue;
        struct lodge_attn_state *all = &d->partials[item->partial];
        for (uint32_t r = 1; r < n; r++)
            d->k.attn_merge(all, &d->partials[item[r].partial], item->n_queries, dim);
        write_out(d, op, item, all);
    }
}
