/* The backend interface: what the engine asks of a device.
 *
 * The engine owns page ids, sequences and time; a backend owns bytes: packed weights, the pool's
 * memory and workspaces. A plan is handed over once; afterwards the engine submits whole steps
 * and polls for their results. At most `depth` steps are in flight; a step's inputs may be
 * changed only after it has retired.
 *
 * Threads: all calls on one device come from one thread (the engine thread of the device group),
 * except probe and model_load before that thread starts. Errors: negative LODGE_ERR_*; a fault
 * of the device is DEVICE and final.
 *
 * Adapters take cells of the same pool (kernels/adapter.h). Their life on a device:
 *
 *   pack    host image of n_cells cells from an adapter's matrices; any one thread at a time, also
 *           beside steps: it reads the weights (DoRA; all must be there) and writes the image only
 *   open    names pages for the cells and gives a slot, which rows refer to
 *   upload  copies a run of cells from the image into the pages, between steps
 *   close   forgets the slot; after the last step that used it has retired
 *
 * A row may use a slot when all its cells were uploaded.
 */
#ifndef LODGE_KERNELS_BACKEND_H
#define LODGE_KERNELS_BACKEND_H

#include "base/error.h"
#include "kernels/adapter.h"
#include "kernels/plan.h"
#include "kernels/sample.h"
#include "kernels/weights_file.h"

#define LODGE_BACKEND_ABI 3u
#define LODGE_NO_PAGE UINT32_MAX
#define LODGE_MAX_ROW_ADAPTERS 8u

struct lodge_device;

struct lodge_device_info {
    char name[128];       /* "AMD EPYC 9R14, 2 threads, avx512" */
    char rung[32];        /* instruction-set level or architecture */
    uint32_t page_tokens; /* T: tokens of a page */
    enum lodge_kv_dtype kv;
    uint32_t depth;        /* steps that may be in flight */
    uint64_t memory_bytes; /* free memory for weights and pool */
};

struct lodge_device_config {
    const char *isa;         /* "ref", "avx2", "avx512"; NULL: best there is */
    enum lodge_kv_dtype kv;  /* of the pages' keys and values */
    uint32_t n_threads;      /* CPU: workers; 0: all that are allowed */
    uint32_t max_rows;       /* tokens of one step at most */
    uint32_t max_slots;      /* sequences of one step at most */
    uint32_t max_logit_rows; /* rows of one step that want logits at most */
    uint32_t max_step_ranks; /* sum over a step's (token, adapter) pairs of lodge_lora_width */
};

/* How far loading is; called from the loading thread a few times per second at most. */
typedef void lodge_progress_fn(void *cookie, size_t done_bytes, size_t total_bytes);

struct lodge_memory_need {
    size_t weight_bytes; /* packed */
    size_t workspace_bytes;
};

enum lodge_want {
    LODGE_WANT_NOTHING = 0,
    LODGE_WANT_SAMPLE = 1, /* one token after the row's last token; more with n_draft */
    LODGE_WANT_SCORES = 2, /* log-probability of the next token at each of the row's tokens */
    LODGE_WANT_HIDDEN = 4, /* final hidden state of the last token */
};

/* (adapter, scale); adapter is the slot from adapter_open. */
struct lodge_row_adapter {
    uint32_t adapter;
    float scale;
};

/* One sequence's part of a step: n_tokens consecutive positions starting at `position`. */
struct lodge_row {
    uint32_t slot;     /* the sequence's place, stable over steps */
    uint32_t position; /* of the first token here */
    uint32_t n_tokens;
    uint32_t first_token; /* index into step.tokens */
    uint32_t table;       /* index into step.pages: group 0's table; group g follows at
                             table + g * n_blocks */
    uint32_t n_blocks;    /* blocks of the table: ceil((position + n_tokens) / T) */
    uint32_t first_adapter, n_adapters; /* into step.adapters */
    uint32_t want;                      /* enum lodge_want */
    uint32_t n_draft;  /* SAMPLE: the last n_draft tokens are guesses; there is a sample after each
                          of them, and one after the token before them */
    uint32_t n_top;    /* top log-probabilities wanted with sample or scores */
    bool want_logprob; /* log-probability of the sample */
    uint32_t next_token; /* SCORES: the token after the row's last, or LODGE_NO_PAGE: not scored */
    const struct lodge_sampling *sampling; /* SAMPLE: parameters; stays valid until retired */
};

/* Copy of the first n_tokens of a page to another of the same group, before the ops run. */
struct lodge_page_copy {
    uint32_t group, from, to, n_tokens;
};

struct lodge_step {
    const struct lodge_row *rows;
    uint32_t n_rows;
    const uint32_t *tokens;
    uint32_t n_tokens;
    const uint32_t *pages; /* page ids; freed fronts of windows are LODGE_NO_PAGE */
    uint32_t n_pages;
    const struct lodge_row_adapter *adapters;
    uint32_t n_adapters;
    const struct lodge_page_copy *copies;
    uint32_t n_copies;
};

/* One token with its numbers: a sample, or a scored position. */
struct lodge_result {
    uint32_t row;
    uint32_t index; /* token inside the row whose successor this is */
    bool scored;    /* false: a sample */
    struct lodge_sampled value;
    uint32_t first_top, n_top; /* into step_result.tops */
};

struct lodge_step_result {
    const struct lodge_result *results; /* in row order; scores before the samples of a row */
    uint32_t n_results;
    const struct lodge_top *tops;
    const float *hidden;             /* (rows that asked, d_model) in row order */
    uint64_t begin_ns, end_ns;       /* monotonic */
    uint64_t weight_bytes, kv_bytes; /* read in this step */
};

/* How a device holds and multiplies a matrix. */
struct lodge_weight_use {
    char kernel[48]; /* "int8 dot, 4-bit codes" */
    size_t n_bytes;  /* packed */
};

struct lodge_backend {
    uint32_t abi;
    const char *name; /* "cpu", "cuda" */
    /* Describes up to cap devices; returns their number (0 is no error). */
    int (*probe)(struct lodge_device_info *out, int cap);
    int (*open)(const struct lodge_device_config *cfg, struct lodge_device **out,
                struct lodge_error *e);
    void (*close)(struct lodge_device *d);
    void (*info)(const struct lodge_device *d, struct lodge_device_info *out);
    /* Bytes needed before anything is allocated. */
    int (*memory)(const struct lodge_device *d, const struct lodge_plan *p,
                  struct lodge_memory_need *out, struct lodge_error *e);
    void (*weight_use)(const struct lodge_device *d, const struct lodge_linear *l,
                       struct lodge_weight_use *out);
    /* Packs the weights (in parallel). The plan stays referenced until close; without a cache,
     * tensor bytes are not needed after it returns. UNSUPPORTED names the op or format it cannot
     * run.
     *
     * `cache` (may be NULL) names a file of packed weights. If it is there and of this model, its
     * weights are read and checked by threads of the device's own, and this returns; cache->ready
     * tells when all are there, and until then no step is begun: no call waits for a disk. A file
     * that turns out to be damaged is deleted, and the weights are packed from the tensors, whose
     * bytes must stay readable until close. Without a file, `ready` is called before this returns,
     * and one is written beside the steps. No fault of the cache is an error; `say` tells it. */
    int (*model_load)(struct lodge_device *d, const struct lodge_plan *p,
                      const struct lodge_weights_cache *cache, lodge_progress_fn *fn, void *cookie,
                      struct lodge_error *e);
    /* Reserves n_pages pages; their memory is touched later. NOMEM. */
    int (*pool_create)(struct lodge_device *d, uint32_t n_pages, struct lodge_error *e);
    /* Touches up to n_bytes more of the pool; returns true while some is left. */
    bool (*pool_touch)(struct lodge_device *d, size_t n_bytes);
    /* Debug: fills a freed page with NaNs. */
    void (*page_poison)(struct lodge_device *d, uint32_t page);

    /* Writes the cells of one target of the adapter into `image` (n_cells cells, aligned to 64
     * bytes), which was zero. Any thread; reads weights alone. NOMEM, UNSUPPORTED; AGAIN when it
     * must read weights that are not there yet. */
    int (*adapter_pack)(struct lodge_device *d, const struct lodge_lora *lora,
                        const struct lodge_lora_layout *layout, uint32_t target, uint8_t *image,
                        struct lodge_error *e);
    /* The layout stays referenced until close; pages (n_pages of them) are copied. After
     * pool_create. NOMEM. */
    int (*adapter_open)(struct lodge_device *d, const struct lodge_lora_layout *layout,
                        const uint32_t *pages, uint32_t n_pages, uint32_t *slot,
                        struct lodge_error *e);
    void (*adapter_upload)(struct lodge_device *d, uint32_t slot, const uint8_t *image,
                           uint32_t first_cell, uint32_t n_cells);
    void (*adapter_close)(struct lodge_device *d, uint32_t slot);

    /* Between steps, on the engine thread: runs fn in every thread that steps are computed by, and
     * returns when all have. NULL for devices whose steps take no CPU. */
    void (*run_aside)(struct lodge_device *d,
                      void (*fn)(void *ctx, unsigned worker, unsigned n_workers), void *ctx);

    /* Starts a step. INVALID when it breaks the limits of the configuration; AGAIN before all
     * weights are there. */
    int (*step_submit)(struct lodge_device *d, const struct lodge_step *s, uint64_t *ticket);
    /* 0 with the result (valid until the next submit but depth - 1), or AGAIN. */
    int (*step_poll)(struct lodge_device *d, uint64_t ticket, struct lodge_step_result *out);
};

/* The CPU backend. Static storage. */
const struct lodge_backend *lodge_backend_cpu(void);

#endif
