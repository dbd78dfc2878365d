/* LoRA adapters as backends see them: targets, and their place in cells of the page pool.
 *
 * An adapted linear computes
 *
 *   y = g * (W x + s * (B (A x) + c)) + bias        s = target scale * scale of the request
 *
 * with A (r, K), B (N, r), g and c fp32 vectors of N (absent: 1 and 0). A x is summed and kept in
 * fp32; s is applied in fp32 and never folded into stored values. For EMBED, W x is row `token` of
 * the table and A x is column `token` of A.
 *
 * A cell is LODGE_CELL_BYTES and holds 8 ranks by 256 columns of bf16: of A, columns of its input;
 * of B transposed, outputs. What lies where inside a cell is the backend's. Cells are numbered
 * through the whole adapter, layer by layer in the order of the plan's linears, so that a layer is
 * a run: per target A granule-major (granule = 8 ranks, each ceil(K / 256) cells), then B
 * (granules, each ceil(N / 256) cells), then g and c (each ceil(N / 1024) cells). Ranks are padded
 * to 8 with zeros, never to the largest of a batch. Cell i lies in page i / cells_per_page of the
 * adapter's pages.
 *
 * Thread safety: pure functions.
 */
#ifndef LODGE_KERNELS_ADAPTER_H
#define LODGE_KERNELS_ADAPTER_H

#include "kernels/plan.h"

#define LODGE_CELL_BYTES 4096u
#define LODGE_CELL_RANKS 8u
#define LODGE_CELL_COLS 256u
#define LODGE_MAX_RANK 4096u

/* One adapted linear as files give it, in the plan's row order. Pointers are not owned. */
struct lodge_lora_target {
    uint32_t linear;        /* index in the plan */
    uint32_t rank;          /* 1..LODGE_MAX_RANK */
    float scale;            /* alpha / r, or alpha / sqrt(r) */
    const uint16_t *a;      /* (rank, K) bf16 */
    const uint16_t *b;      /* (N, rank) bf16 */
    const float *magnitude; /* DoRA: (N) lengths of the rows of W + sBA; NULL: none */
    const float *offset;    /* c: (N); NULL: none */
};

struct lodge_lora {
    const struct lodge_lora_target *targets; /* rising linear, each at most once */
    uint32_t n_targets;
};

/* Place of one target. */
struct lodge_lora_place {
    uint32_t linear;
    uint32_t rank;             /* padded to 8 */
    uint32_t first_a, first_b; /* cells */
    uint32_t first_gain;       /* g, UINT32_MAX: none */
    uint32_t first_offset;     /* c, UINT32_MAX: none */
    float scale;
};

/* Where everything is. Owned by whoever calls lodge_lora_layout_finish. */
struct lodge_lora_layout {
    struct lodge_lora_place *places; /* rising linear */
    uint32_t n_places;
    uint32_t n_cells;
    bool scaled_once; /* DoRA: g belongs to the adapter's own scale, a request must use 1 */
};

/* Fills the layout of an adapter over a plan. INVALID for a target that the plan does not have;
 * LIMIT when it has 2^31 cells or more; NOMEM. */
int lodge_lora_layout_init(struct lodge_lora_layout *l, const struct lodge_plan *p,
                           const struct lodge_lora *lora, struct lodge_error *e);
void lodge_lora_layout_finish(struct lodge_lora_layout *l);

/* N and K of an adapter's product over a linear. */
static inline uint32_t lodge_lora_outputs(const struct lodge_linear *l)
{
    return l->site == LODGE_SITE_EMBED ? l->n_cols : l->n_rows;
}
static inline uint32_t lodge_lora_inputs(const struct lodge_linear *l)
{
    return l->site == LODGE_SITE_EMBED ? l->n_rows : l->n_cols;
}
/* Whether two linears of a plan are multiplied with the same input: q|k|v, gate|up of a layer. */
#define LODGE_SAME_INPUT 3u /* most of them */
bool lodge_lora_same_input(const struct lodge_linear *a, const struct lodge_linear *b);

/* Cells of one granule (8 ranks) over n columns. */
static inline uint32_t lodge_lora_row_cells(uint32_t n_cols)
{
    return (n_cols + LODGE_CELL_COLS - 1) / LODGE_CELL_COLS;
}
static inline uint32_t lodge_lora_padded_rank(uint32_t rank)
{
    return (rank + LODGE_CELL_RANKS - 1) / LODGE_CELL_RANKS * LODGE_CELL_RANKS;
}

/* The widest demand of one token on the step's workspace: the largest sum of padded ranks over the
 * linears that share an input (q|k|v, gate|up, or one by itself). */
uint32_t lodge_lora_width(const struct lodge_lora_layout *l, const struct lodge_plan *p);
/* Bytes that a step reads for one adapter: its cells, without the padding of columns. */
uint64_t lodge_lora_bytes(const struct lodge_lora_layout *l, const struct lodge_plan *p);

#endif
