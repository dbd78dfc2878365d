/* The CPU device: what the parts of the backend share. Private to kernels/cpu.
 *
 * Owned by the engine thread; during a step the workers read it and write disjoint parts of the
 * workspace, separated by barriers.
 */
#ifndef LODGE_KERNELS_CPU_DEVICE_H
#define LODGE_KERNELS_CPU_DEVICE_H

#include "base/workers.h"
#include "kernels/backend.h"
#include "kernels/cpu/kernels.h"

#include <stdatomic.h>

/* A linear as panels: row n of the plan is row n % 32 of panel n / 32. */
struct packed {
    uint8_t *panels;
    uint32_t n_panels;
    size_t panel_bytes, tile_bytes; /* tile: of its input */
    enum lodge_format format;
    enum lodge_act_form form;
    uint32_t n_rows, n_cols;
};

/* Rows of a step as tiles for one activation form: each of `rows`, the first `larger` of one more.
 */
struct tiling {
    uint32_t n_tiles, rows, larger;
};

/* One attention work item. */
struct attn_item {
    uint32_t row;              /* of the step */
    uint32_t kv_head, n_heads; /* kv heads, one after the other in memory */
    uint32_t first_query;      /* index into (token of the row) * group + head of the group */
    uint32_t n_queries;
    uint32_t range, n_ranges; /* ranges of 8 pages: one by itself, or all in turn */
    int32_t
        partial; /* slot of the first head's partial result, -1: the item finishes its queries */
    uint32_t n_parts; /* with the first range: slots of a head, n_kv_heads apart; else 0 */
};

struct token_info {
    uint32_t row; /* of the step */
    uint32_t position;
};

/* An open adapter. */
struct lora_adapter {
    const struct lodge_lora_layout *layout; /* NULL: the slot is free */
    uint32_t *cells;                        /* of the pool, by cell of the adapter */
    uint16_t *by_linear;                    /* place of a linear plus 1, 0: none */
    uint32_t *offsets; /* per place: where its t begins among those that share its input */
    uint32_t width;    /* lodge_lora_width */
    uint32_t sites;    /* bit per lodge_site */
};

/* Consecutive rows with one (adapter, scale); their t begins at float `t`. */
struct lora_span {
    uint32_t first, n;
    uint32_t slot;
    float scale;
    uint32_t t;
};

/* Spans over rows of a product, rising; rows with several adapters have as many spans. */
struct lora_rows {
    struct lora_span *spans;
    uint32_t n;
    uint32_t *at; /* per row: the first span that ends after it */
};

/* What a span is to a linear, put together once for all panels: the tables of many adapters are
 * larger than a cache. */
struct lora_use {
    struct lodge_lora_place place; /* rank 0: nothing */
    uint32_t t, ldt;               /* floats: of the span's first row, from row to row */
    float scale;                   /* of place and span */
    const uint32_t *cells;         /* of the adapter */
};

/* A worker's uses of the linears that share an input. */
struct lora_uses {
    int32_t linears[LODGE_SAME_INPUT];
    unsigned n;
    struct lora_use *of[LODGE_SAME_INPUT]; /* by linear, by span */
};

/* Whether products of one tile fetch the next panel: with several tiles that always pays, as
 * arithmetic leaves memory idle; with one the processor's own prefetcher may do better alone. Which
 * it is, is tried in the first steps of one token, in turn; the bits are the same. */
struct fetch_trial {
    bool fetch;
    uint32_t n; /* steps tried */
    uint64_t least_ns[2];
};

struct lodge_device {
    struct lodge_device_config cfg;
    struct fetch_trial trial;
    struct lodge_device_info info;
    struct lodge_cpu_kernels k;
    struct lodge_workers *workers;
    const struct lodge_plan *plan;
    struct packed *linears; /* parallel to plan->linears */
    uint8_t *weights;
    size_t weight_bytes;
    atomic_bool ready;           /* all weights: packed, or read and checked */
    struct lodge_cpu_feed *feed; /* what makes them ready, and writes the cache; may be NULL */

    uint8_t *pool;
    size_t page_bytes;
    uint32_t n_pages;
    size_t touched_bytes;

    /* Workspace, one allocation; sizes follow from cfg and plan (workspace.c). */
    uint8_t *space;
    size_t space_bytes;
    float *x;        /* (max_rows, d_model) residual stream */
    float *fp;       /* (max_rows, widest of qkv, attention out, d_ff, d_model) */
    float *attn_out; /* (max_rows, widest n_heads * dim padded) */
    uint8_t *q;      /* (max_rows, n_heads, lodge_kv_query_bytes) */
    uint8_t *act[LODGE_ACT_FORM_COUNT];  /* tiles of the input */
    uint8_t *act2[LODGE_ACT_FORM_COUNT]; /* tiles of the MLP's inner activation */
    float *cos, *sin;                    /* (n_ropes, max_rows, n_freqs of the widest) */
    uint32_t rope_stride;
    float *logits;     /* (max_logit_rows, n_vocab), rows logit_stride apart */
    float *block_most; /* (max_logit_rows, blocks of n_vocab) maxima, see sample.h; most_stride */
    size_t logit_stride, most_stride;
    uint8_t *scratch; /* per worker */
    size_t scratch_bytes;
    uint8_t *wide; /* per worker: two widened panels */
    size_t wide_bytes;
    float *partial_acc; /* (MAX_PARTIALS, 12, dim padded) */
    struct lodge_attn_state *partials;
    struct attn_item *items;
    uint32_t max_items;
    struct token_info *tokens;
    uint32_t *wanted; /* (max_rows) token rows that want logits */
    struct lodge_result *results;
    struct lodge_top *tops;
    float *hidden;

    /* Adapters (lora.c). */
    struct lora_adapter *adapters; /* (n_pages): each open one has a page */
    uint32_t *free_adapters;
    uint32_t n_free_adapters;
    uint16_t *xb, *xb2; /* (max_rows, widest) bf16 inputs of rows with adapters; xb2 the MLP's */
    float *lora_t;      /* (max_step_ranks) */
    struct lora_rows lora, lora_head; /* of the step's tokens; of a round of logits */
    struct lora_uses *lora_uses;      /* by worker */

    /* The step in progress. */
    uint32_t lora_sites; /* that any adapter of the step touches */
    bool lora_gains;     /* one of them is DoRA */
    const struct lodge_step *step;
    uint32_t n_items, n_wanted;
    uint32_t n_partials;   /* states of ranges that are to be merged */
    _Atomic uint32_t next; /* shared work counter */
    uint64_t tickets;
    struct lodge_step_result result;
};

#define LODGE_MAX_PARTIALS 512u
#define LODGE_MAX_STEP_TOPS 21u

/* load.c */
int lodge_cpu_load(struct lodge_device *d, const struct lodge_plan *p,
                   const struct lodge_weights_cache *cache, lodge_progress_fn *fn, void *cookie,
                   struct lodge_error *e);
size_t lodge_cpu_packed_bytes(const struct lodge_plan *p);
/* Packs worker's share of one linear; false if codes are no numbers. */
bool lodge_cpu_pack_linear(const struct lodge_device *d, uint32_t linear, unsigned worker,
                           unsigned n_workers);

/* All weights are there; tells `cache` (may be NULL). */
void lodge_cpu_set_ready(struct lodge_device *d, const struct lodge_weights_cache *cache);

/* weights.c: the weights cache. Both from the thread that loads and closes. */
/* With `pending`, whose ownership it takes: reads the weights from it, in threads of its own, and
 * sets the device ready. Without: writes what was packed, and what fails is told by cache->say
 * alone. NOMEM, RESOURCE. */
int lodge_cpu_feed_start(struct lodge_device *d, const struct lodge_weights_cache *cache,
                         const struct lodge_weights_key *key, struct lodge_weights_file *pending,
                         struct lodge_error *e);
/* Stops it, wherever it is. */
void lodge_cpu_feed_stop(struct lodge_device *d);

/* workspace.c: sizes (space == NULL) or carves. */
size_t lodge_cpu_workspace(struct lodge_device *d, const struct lodge_plan *p, uint8_t *space);

/* step.c */
int lodge_cpu_step(struct lodge_device *d, const struct lodge_step *s);

/* lora.c. Slots, on the engine thread. */
int lodge_cpu_lora_init(struct lodge_device *d, struct lodge_error *e);
void lodge_cpu_lora_finish(struct lodge_device *d);
int lodge_cpu_adapter_pack(struct lodge_device *d, const struct lodge_lora *lora,
                           const struct lodge_lora_layout *layout, uint32_t target, uint8_t *image,
                           struct lodge_error *e);
int lodge_cpu_adapter_open(struct lodge_device *d, const struct lodge_lora_layout *layout,
                           const uint32_t *pages, uint32_t n_pages, uint32_t *slot,
                           struct lodge_error *e);
void lodge_cpu_adapter_upload(struct lodge_device *d, uint32_t slot, const uint8_t *image,
                              uint32_t first_cell, uint32_t n_cells);
void lodge_cpu_adapter_close(struct lodge_device *d, uint32_t slot);
/* The step's rows as spans. False when a row names a slot that is not open, or ranks are too many.
 */
bool lodge_cpu_lora_plan(struct lodge_device *d, const struct lodge_step *s);
/* Spans of a round of logit rows; wanted[i] is the token of row i. */
void lodge_cpu_lora_plan_head(struct lodge_device *d, const uint32_t *wanted, uint32_t n);
/* During a step. Whether products of a site have adapters. */
static inline bool lodge_cpu_lora_on(const struct lodge_device *d, enum lodge_site site)
{
    return d->lora_sites >> site & 1;
}
/* t = A x for the linears of one input, after the inputs are in xb (row stride ldx); ends in a
 * barrier. */
void lodge_cpu_lora_shrink(struct lodge_device *d, const struct lora_rows *rows,
                           const int32_t *linears, unsigned n, const uint16_t *xb, unsigned worker,
                           unsigned n_workers);
struct block;
/* Adds B t to a block of products of one of them, before bias. */
void lodge_cpu_lora_expand(const struct lodge_device *d, const struct lora_rows *rows,
                           const struct block *b);
/* Adds the adapters' part to a row of the embedding table. */
void lodge_cpu_lora_embed(struct lodge_device *d, int32_t table, uint32_t token, float *x);
/* Number of rank `rank` and column `column` in a cell of A. */
float lodge_cpu_lora_a(const uint8_t *cell, uint32_t rank, uint32_t column);
/* Row stride of bf16 inputs. */
static inline size_t lodge_cpu_lora_stride(uint32_t n_cols)
{
    return (n_cols + 31u) / 32u * 32u;
}

/* gemm.c: called by every worker of a run. */
struct tiling lodge_cpu_tiling(const struct lodge_device *d, enum lodge_act_form form,
                               uint32_t n_rows);
/* First row and number of rows of a tile. */
static inline uint32_t lodge_cpu_tile_rows(struct tiling t, uint32_t tile, uint32_t *first)
{
    *first = tile * t.rows + (tile < t.larger ? tile : t.larger);
    return t.rows + (tile < t.larger);
}
/* One row of n numbers normalised; copied if there is no norm. out may be x. */
void lodge_cpu_norm(const struct lodge_device *d, const struct lodge_norm *norm, const float *x,
                    uint32_t n, float *out);
/* Rows that become the input of products. */
struct pack {
    const float *x;
    size_t ld;
    uint32_t n_rows, n_cols;
    const struct lodge_norm *norm; /* NULL: as they are */
    unsigned forms;                /* bit per activation form in use */
    uint8_t *const *act;           /* where tiles go, by form */
    const struct lora_rows *lora;  /* rows with adapters also go to d->xb; NULL: none */
};
void lodge_cpu_pack_rows(struct lodge_device *d, const struct pack *p, unsigned worker,
                         unsigned n_workers);
/* A finished block of products: rows [first_row, first_row + m) of the step by up to 32 columns. */
struct block {
    uint32_t linear, panel, tile, first_row;
    unsigned m, worker;
    struct tiling tiling;
    size_t slice;          /* bytes of the next panel that a tile fetches */
    uint32_t from, n_cols; /* columns [from, from + n_cols) of the linear's output */
    bool last;             /* no further panel of this linear follows for this worker */
    uint8_t *wide[2];      /* the worker's rooms for this panel and one of another linear */
    float *y;              /* row stride ld */
    size_t ld;
};

/* Where products go. With `out`, column c of linear i lands at out[row * ld + N_0 + .. + N_(i-1) +
 * c], as if the linears were one; without, in a buffer that lives until fn returns. Then fn (may be
 * NULL with out) is called for each block, from the worker that made it. */
struct epilogue {
    float *out;
    size_t ld;
    void (*fn)(void *ctx, const struct block *b);
    void *ctx;
};
/* Products of up to 3 linears with packed rows; panels are split over workers by bytes. */
void lodge_cpu_gemm(struct lodge_device *d, const int32_t *linears, unsigned n, uint32_t n_rows,
                    uint8_t *const act[], const struct epilogue *e, unsigned worker,
                    unsigned n_workers);
/* The block's tile by its panel of w, without epilogue; fetches a slice of the next panel meanwhile
 * unless it is the last. `wide`: the worker's room for this panel, from its tile 0 to its last. */
void lodge_cpu_tile(struct lodge_device *d, const struct packed *w, const struct block *b,
                    const uint8_t *act, uint8_t *wide, float *out, size_t ld);
/* Panels [from, to) of a worker among n_panels. */
void lodge_cpu_share(uint32_t n, unsigned worker, unsigned n_workers, uint32_t *from, uint32_t *to);
unsigned lodge_cpu_forms(const struct lodge_device *d, const int32_t *linears, unsigned n);

/* attention.c */
/* Bytes that a worker needs for heads of `dim`, padded. */
size_t lodge_cpu_attention_scratch(enum lodge_kv_dtype kv, uint32_t dim);
void lodge_cpu_plan_attention(struct lodge_device *d, const struct lodge_op_attn *op);
void lodge_cpu_attention(struct lodge_device *d, const struct lodge_op_attn *op, unsigned worker);
/* Merges the partial results of split items into attn_out; rows by worker. */
void lodge_cpu_merge_partials(struct lodge_device *d, const struct lodge_op_attn *op,
                              unsigned worker, unsigned n_workers);
/* Where a kv head's part of blocks [first, first + n) of a row stands; NULL where there is no page.
 */
void lodge_cpu_kv_heads(const struct lodge_device *d, const struct lodge_row *row, uint32_t group,
                        uint32_t group_layer, uint32_t kv_head, uint32_t first, uint32_t n,
                        uint8_t **blocks);
uint8_t *lodge_cpu_kv_head(const struct lodge_device *d, const struct lodge_row *row,
                           uint32_t group, uint32_t group_layer, uint32_t kv_head, uint32_t block);

/* logits.c */
void lodge_cpu_head(struct lodge_device *d, const struct lodge_op_head *op, unsigned worker,
                    unsigned n_workers);

#endif
