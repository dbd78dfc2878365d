/* Attention work: items of up to 12 queries against ranges of 256 tokens.
 *
 * A query always meets its ranges one by one, in rising order, each from an empty state, and the
 * states are merged in that order; so its bits do not depend on how the work was cut. Where there
 * are few items (decode of few sequences) the ranges of an item are items of their own. Decode
 * takes several kv heads at a time, page by page, as they stand in memory.
 */
#include "kernels/cpu/device.h"

#include <string.h>

#define RANGE_TOKENS (LODGE_RANGE_PAGES * LODGE_PAGE_TOKENS)

void lodge_cpu_kv_heads(const struct lodge_device *d, const struct lodge_row *row, uint32_t group,
                        uint32_t group_layer, uint32_t kv_head, uint32_t first, uint32_t n,
                        uint8_t **blocks)
{
    const uint32_t *pages = d->step->pages + row->table + group * row->n_blocks + first;
    const struct lodge_layer_group *g = &d->plan->groups[group];
    size_t head = lodge_kv_head_bytes(d->cfg.kv, g->head_dim, LODGE_PAGE_TOKENS);
    uint8_t *at = d->pool + ((size_t)group_layer * g->n_kv_heads + kv_head) * head;
    for (uint32_t i = 0; i < n; i++)
        blocks[i] = pages[i] == LODGE_NO_PAGE ? NULL : at + pages[i] * d->page_bytes;
}

uint8_t *lodge_cpu_kv_head(const struct lodge_device *d, const struct lodge_row *row,
                           uint32_t group, uint32_t group_layer, uint32_t kv_head, uint32_t block)
{
    uint8_t *at;
    lodge_cpu_kv_heads(d, row, group, group_layer, kv_head, block, 1, &at);
    return at;
}

/* Ranges that queries [first token, last token] of a row can see. */
static void visible_ranges(const struct lodge_op_attn *op, const struct lodge_row *row,
                           uint32_t first, uint32_t last, uint32_t *from, uint32_t *to)
{
    uint32_t low = row->position + first, high = row->position + last;
    *from = op->window && low + 1 > op->window ? (low + 1 - op->window) / RANGE_TOKENS : 0;
    *to = high / RANGE_TOKENS + 1;
}

/* Bytes of a head's part of a page that are long enough a run by themselves: with several such
 * heads decode got slower, perhaps as their states, too, then do not stay in the first cache. */
#define LONG_BLOCK 16384u

/* How many runs of kv heads units of work are cut into, `left` of them being to be done: a run is
 * long, as memory gives more in a row, but short at the end, so that no worker waits long. */
static uint32_t n_runs(const struct lodge_device *d, const struct lodge_op_attn *op,
                       uint32_t n_queries, uint32_t left)
{
    uint32_t most = LODGE_RUN_QUERIES / n_queries, n = op->n_kv_heads;
    if (lodge_kv_head_bytes(d->cfg.kv, op->head_dim, LODGE_PAGE_TOKENS) >= LONG_BLOCK)
        return n;
    most = most < LODGE_RUN_HEADS ? most : LODGE_RUN_HEADS;
    uint32_t runs = (n + most - 1) / most;
    while (runs < n && left * runs < 4 * lodge_workers_count(d->workers))
        runs = 2 * runs < n ? 2 * runs : n;
    return runs;
}

/* The work of all workers, as it is cut. */
struct cut {
    struct lodge_device *d;
    const struct lodge_op_attn *op;
    bool split;     /* ranges are units by themselves, where there are slots for their states */
    uint32_t left;  /* units */
    uint32_t slots; /* that this chunk and those after it would take */
};

/* A unit: one chunk of queries of all kv heads over some ranges. Of a row with several chunks, a
 * prompt, heads are taken one by one. */
static void add_unit(struct cut *c, struct attn_item item)
{
    uint32_t n = c->op->n_kv_heads, group = c->op->n_heads / n;
    bool alone = c->d->step->rows[item.row].n_tokens * group == item.n_queries;
    uint32_t runs = alone ? n_runs(c->d, c->op, item.n_queries, c->left) : n;
    int32_t slot = item.partial;
    for (uint32_t i = 0; i < runs; i++) {
        item.kv_head = n * i / runs;
        item.n_heads = n * (i + 1) / runs - item.kv_head;
        item.partial = slot < 0 ? -1 : slot + (int32_t)item.kv_head;
        if (c->d->n_items < c->d->max_items)
            c->d->items[c->d->n_items++] = item;
    }
    c->left--;
}

/* Sets the item's ranges; returns how many slots they take if they are units by themselves. */
static uint32_t set_ranges(const struct cut *c, struct attn_item *item)
{
    const struct lodge_row *row = &c->d->step->rows[item->row];
    uint32_t group = c->op->n_heads / c->op->n_kv_heads, end;
    visible_ranges(c->op, row, item->first_query / group,
                   (item->first_query + item->n_queries - 1) / group, &item->range, &end);
    item->n_ranges = end - item->range;
    return item->n_ranges > 1 ? item->n_ranges * c->op->n_kv_heads : 0;
}

static void count_chunk(struct cut *c, struct attn_item item)
{
    c->left++;
    c->slots += set_ranges(c, &item);
}

/* Units of one chunk of queries: one, or one a range. Chunks that find no slots come first: they
 * are the longest. */
static void add_chunk(struct cut *c, struct attn_item item)
{
    uint32_t slots = set_ranges(c, &item);
    bool split = c->split && slots && c->slots <= LODGE_MAX_PARTIALS;
    c->slots -= slots;
    item.partial = -1;
    if (!split) {
        add_unit(c, item);
        return;
    }
    c->left += item.n_ranges - 1;
    item.n_parts = item.n_ranges;
    item.n_ranges = 1;
    for (uint32_t n = item.n_parts; n--; item.range++, item.n_parts = 0) {
        item.partial = (int32_t)c->d->n_partials;
        add_unit(c, item);
        c->d->n_partials += c->op->n_kv_heads;
    }
}

/* Longest first is what balances; prefill chunks see most at the end of a row. */
static void each_chunk(struct cut *c, void (*fn)(struct cut *c, struct attn_item item))
{
    const struct lodge_step *s = c->d->step;
    uint32_t group = c->op->n_heads / c->op->n_kv_heads;
    for (uint32_t r = 0; r < s->n_rows; r++) {
        uint32_t n = s->rows[r].n_tokens * group;
        uint32_t chunks = (n + LODGE_ATTN_QUERIES - 1) / LODGE_ATTN_QUERIES;
        for (uint32_t i = chunks; i-- > 0;) {
            uint32_t first = i * LODGE_ATTN_QUERIES, left = n - first;
            struct attn_item item = {.row = r,
                                     .first_query = first,
                                     .n_queries =
                                         left < LODGE_ATTN_QUERIES ? left : LODGE_ATTN_QUERIES};
            fn(c, item);
        }
    }
}

void lodge_cpu_plan_attention(struct lodge_device *d, const struct lodge_op_attn *op)
{
    struct cut cut = {.d = d, .op = op};
    d->n_items = d->n_partials = 0;
    each_chunk(&cut, count_chunk);
    cut.split = cut.left * op->n_kv_heads < 16 * lodge_workers_count(d->workers);
    each_chunk(&cut, add_chunk);
}

/* Queries of an item that stand side by side: those from `at` on of one token's kv head. */
static uint32_t of_one_token(const struct attn_item *item, uint32_t group, uint32_t at)
{
    uint32_t left = group - (item->first_query + at) % group;
    return left < item->n_queries - at ? left : item->n_queries - at;
}

/* Index of query `at` of the item's head h among (token, head). */
static size_t query_index(const struct lodge_device *d, const struct lodge_op_attn *op,
                          const struct attn_item *item, uint32_t h, uint32_t at)
{
    uint32_t group = op->n_heads / op->n_kv_heads, query = item->first_query + at;
    size_t token = d->step->rows[item->row].first_token + query / group;
    return token * op->n_heads + (item->kv_head + h) * group + query % group;
}

static void write_out(struct lodge_device *d, const struct lodge_op_attn *op,
                      const struct attn_item *item, uint32_t h, const struct lodge_attn_state *s)
{
    const uint32_t dim = lodge_kv_dim(op->head_dim), group = op->n_heads / op->n_kv_heads;
    for (uint32_t i = 0, n; i < item->n_queries; i += n) {
        n = of_one_token(item, group, i);
        d->k.attn_end(s, i, n, dim, op->head_dim,
                      d->attn_out + query_index(d, op, item, h, i) * op->head_dim);
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

/* Calls for the item's heads over one range: page by page, if there are several, as the heads of a
 * page stand in a row. `next`: what is read after the last range. */
static void run_range(struct lodge_device *d, const struct lodge_op_attn *op,
                      const struct attn_item *item, uint32_t range, const uint8_t *next,
                      struct lodge_attn_call *c)
{
    const struct lodge_row *row = &d->step->rows[item->row];
    const size_t head = lodge_kv_head_bytes(d->cfg.kv, op->head_dim, LODGE_PAGE_TOKENS);
    uint8_t *pages[LODGE_RANGE_PAGES + 1];
    uint32_t first = range * LODGE_RANGE_PAGES, left = row->n_blocks - first;
    uint32_t n = left < LODGE_RANGE_PAGES ? left : LODGE_RANGE_PAGES;
    bool last = range + 1 == item->range + item->n_ranges;
    lodge_cpu_kv_heads(d, row, op->group, op->group_layer, item->kv_head, first, n + !last, pages);
    const uint8_t *behind = last ? next : pages[n];
    set_bounds(op, row, item, range * RANGE_TOKENS, c);
    for (uint32_t h = 0; h < item->n_heads; h++) {
        for (uint32_t b = 0; b < n; b++)
            c[h].pages[b] = pages[b] ? pages[b] + h * head : NULL;
        memcpy(c[h].first, c->first, sizeof c->first);
        memcpy(c[h].last, c->last, sizeof c->last);
    }
    const uint32_t step = item->n_heads > 1 ? 1 : n;
    for (uint32_t b = 0; b < n; b += step)
        for (uint32_t h = 0; h < item->n_heads; h++) {
            c[h].from_page = b;
            c[h].n_pages = b + step;
            c[h].next = h + 1 < item->n_heads ? c[h + 1].pages[b]
                        : b + step < n        ? pages[b + step]
                                              : behind;
            d->k.kv[d->cfg.kv].attn(&c[h]);
        }
}

/* Gathers queries of the item's head h. */
static void gather_queries(const struct lodge_device *d, const struct lodge_op_attn *op,
                           const struct attn_item *item, uint32_t h, uint8_t *q)
{
    const size_t bytes = lodge_kv_query_bytes(d->cfg.kv, lodge_kv_dim(op->head_dim));
    for (uint32_t i = 0, n; i < item->n_queries; i += n) {
        n = of_one_token(item, op->n_heads / op->n_kv_heads, i);
        memcpy(q + i * bytes, d->q + query_index(d, op, item, h, i) * bytes, n * bytes);
    }
}

size_t lodge_cpu_attention_scratch(enum lodge_kv_dtype kv, uint32_t dim)
{
    return LODGE_RUN_QUERIES * (2 * dim * sizeof(float) + lodge_kv_query_bytes(kv, dim));
}

static uint32_t claim(struct lodge_device *d)
{
    return atomic_fetch_add_explicit(&d->next, 1, memory_order_relaxed);
}

/* Calls for the item's heads; `more` is set to where states of further ranges go. */
static void set_calls(struct lodge_device *d, const struct lodge_op_attn *op,
                      const struct attn_item *item, uint8_t *scratch, struct lodge_attn_call *c,
                      float **more)
{
    const uint32_t dim = lodge_kv_dim(op->head_dim);
    const size_t floats = (size_t)item->n_queries * dim;
    float *acc = (float *)(void *)scratch;
    *more = acc + item->n_heads * floats;
    uint8_t *q = (uint8_t *)(*more + item->n_heads * floats);
    for (uint32_t h = 0; h < item->n_heads; h++, acc += floats) {
        c[h].q = q;
        c[h].n_queries = item->n_queries;
        c[h].dim = dim;
        c[h].scale = op->scale;
        c[h].softcap = op->softcap;
        c[h].out.acc = acc;
        if (item->partial >= 0)
            c[h].out.acc =
                d->partial_acc + (size_t)(item->partial + (int32_t)h) * LODGE_ATTN_QUERIES * dim;
        gather_queries(d, op, item, h, q);
        q += item->n_queries * lodge_kv_query_bytes(d->cfg.kv, dim);
    }
}

/* Returns the worker's next item, which is claimed before the last range, whose kernel fetches that
 * item's first page. */
static uint32_t run_item(struct lodge_device *d, const struct lodge_op_attn *op,
                         const struct attn_item *item, uint8_t *scratch)
{
    struct lodge_attn_call c[LODGE_RUN_HEADS];
    struct lodge_attn_state all[LODGE_RUN_HEADS];
    float *more;
    set_calls(d, op, item, scratch, c, &more);
    const uint32_t dim = c->dim;
    uint32_t next = d->n_items;
    for (uint32_t r = 0; r < item->n_ranges; r++) {
        if (r + 1 == item->n_ranges)
            next = claim(d);
        run_range(d, op, item, item->range + r, first_page(d, op, next), c);
        for (uint32_t h = 0; h < item->n_heads; h++) {
            if (r == 0)
                all[h] = c[h].out;
            else
                d->k.attn_merge(&all[h], &c[h].out, item->n_queries, dim);
            c[h].out.acc = more + (size_t)h * item->n_queries * dim;
        }
    }
    for (uint32_t h = 0; h < item->n_heads; h++)
        if (item->partial >= 0)
            d->partials[item->partial + (int32_t)h] = all[h];
        else
            write_out(d, op, item, h, &all[h]);
    return next;
}

void lodge_cpu_attention(struct lodge_device *d, const struct lodge_op_attn *op, unsigned worker)
{
    uint8_t *scratch = d->scratch + worker * d->scratch_bytes;
    uint32_t i = claim(d);
    while (i < d->n_items)
        i = run_item(d, op, &d->items[i], scratch);
}

/* Slots of a head's ranges, rising, are n_kv_heads apart. */
void lodge_cpu_merge_partials(struct lodge_device *d, const struct lodge_op_attn *op,
                              unsigned worker, unsigned n_workers)
{
    uint32_t dim = lodge_kv_dim(op->head_dim), turn = 0;
    for (uint32_t i = 0; i < d->n_items; i++) {
        const struct attn_item *item = &d->items[i];
        for (uint32_t h = 0; h < item->n_heads && item->n_parts > 0; h++) {
            if (turn++ % n_workers != worker)
                continue;
            struct lodge_attn_state *all = &d->partials[item->partial + (int32_t)h];
            for (uint32_t r = 1; r < item->n_parts; r++)
                d->k.attn_merge(all, all + r * op->n_kv_heads, item->n_queries, dim);
            write_out(d, op, item, h, all);
        }
    }
}
