/* LoRA adapters on disk: read, checked, digested.
 *
 * Two forms are read: a PEFT directory (adapter_config.json and adapter_model.safetensors) and a
 * GGUF adapter file. Everything is checked before anything of the pool is taken, in this order:
 *
 *   1 path and size      2 JSON under limits       3 safetensors or GGUF container
 *   4 every tensor name is understood, A and B come in pairs
 *   5 the module exists in the base                6 shapes fit the base and the rank
 *   7 rank and size within the limits              8 all values finite, also the scale
 *   9 a warning when no module has an effect      10 SHA-256 of tensors and settings: the version
 *
 * Errors name the adapter, file, tensor, what was expected and what was found. What Lodge does not
 * compute (modules_to_save, bias training, initialisations that changed the base, ...) is refused
 * by name. Sources: PEFT's LoRA configuration and checkpoint format; llama.cpp's GGUF adapters.
 *
 * Threads: any; every result belongs to its caller.
 */
#ifndef LODGE_ADAPTERS_ADAPTER_H
#define LODGE_ADAPTERS_ADAPTER_H

#include "base/arena.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/spares.h"
#include "kernels/adapter.h"

/* Rows [first_row, first_row + n_rows) of a module of the files are one linear of the plan. */
struct lodge_adapter_part {
    uint32_t linear;
    uint32_t first_row, n_rows;
};

/* A module that an adapter may target. */
struct lodge_adapter_module {
    const char *hf;       /* "model.layers.3.self_attn.q_proj", "model.embed_tokens", "lm_head" */
    const char *gguf;     /* "blk.3.attn_q", "token_embd", "output" */
    enum lodge_site site; /* of its first part */
    int32_t layer;        /* LODGE_NONE outside the layers */
    /* As stored. The table of embeddings is (vocabulary, d_model); its A is (rank, n_rows) and its
     * B (n_cols, rank). */
    uint32_t n_rows, n_cols;
    struct lodge_adapter_part parts[3];
    uint32_t n_parts;
    /* Rows of a GGUF adapter's B as adjacent pairs in heads of head_dim; see LODGE_ROWS_PAIRS. */
    bool gguf_pairs;
    uint32_t head_dim;
};

/* The table of shapes an adapter is checked against. Built by the engine; outlives its users. */
struct lodge_adapter_base {
    const char *name;              /* the model's own name, for error texts */
    const char *gguf_architecture; /* "llama"; NULL: GGUF adapters are refused */
    const struct lodge_adapter_module *modules;
    uint32_t n_modules;
    uint32_t n_layers;
};

struct lodge_adapter_limits {
    uint64_t max_file_bytes; /* 0: 16 GiB */
    uint32_t max_rank;       /* 0: LODGE_MAX_RANK */
    /* Where the bytes of tensor files go, until the adapter is destroyed; NULL: to fresh memory. */
    struct lodge_spares *spares;
    /* Calls fn(ctx, i) once for all i < n_items, in any order and from several threads if it
     * likes; items take tens of microseconds. NULL: one after the other. */
    void (*run)(void *cookie, void (*fn)(void *ctx, uint32_t item), void *ctx, uint32_t n_items);
    void *cookie;
};

/* An adapter in memory, in the plan's row order, bf16. */
struct lodge_adapter {
    struct lodge_lora lora;
    struct lodge_digest digest; /* of tensors and what of the settings changes results */
    uint32_t max_rank;
    uint64_t n_parameters;
    const char *base_model; /* what the files say they were made for, or NULL; advisory */
    char *chat_template;    /* the directory's own (chat_template.jinja or tokenizer_config.json),
                               or NULL */
    char warning[256];      /* "" or what an operator should know */
    struct lodge_arena _arena;
    struct lodge_adapter_bytes {
        uint8_t *at;
        size_t size;
        struct lodge_spares *spares; /* NULL: malloc'ed */
    } _bytes;                        /* of the file: matrices that need no conversion lie there */
};

/* Reads a directory or a GGUF file. `name` is what texts call it. On error nothing is left. Files
 * are read, not mapped: replacing them meanwhile does no harm. Of a path that
 * lodge_adapter_open_name gave, links inside the directory must not lead out of it, and texts call
 * it by `name`; any other path is the operator's, and links are followed.
 * NOT_FOUND: the path or a file of it is not there. FORMAT: damaged, or not for this base.
 * UNSUPPORTED: a feature that is refused. LIMIT: too large. IO, NOMEM. */
int lodge_adapter_read(const char *path, const char *name, const struct lodge_adapter_base *base,
                       const struct lodge_adapter_limits *limits, struct lodge_adapter **out,
                       struct lodge_error *e);
void lodge_adapter_destroy(struct lodge_adapter *a);

/* Opens `name` below the directory `root_fd` for reading and gives a path that stays valid while
 * the descriptor is open ("/proc/self/fd/N"). The name must match [A-Za-z0-9._-]{1,128} and not
 * begin with a dot; links out of the root are refused. INVALID for a bad name, NOT_FOUND, IO. */
int lodge_adapter_open_name(int root_fd, const char *name, int *fd, char path[64],
                            struct lodge_error *e);
/* Whether the directory resolver would take this name. */
bool lodge_adapter_name_ok(const char *name);

#endif
