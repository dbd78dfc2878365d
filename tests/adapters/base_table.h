/* The table of modules of a Llama-like base, built from its dimensions alone, for tests that open
 * no model. Linears are numbered as the engine numbers them: table, then q k v o gate up down of
 * each layer, then the head (the table itself when tied). */
#ifndef LODGE_TESTS_ADAPTERS_BASE_TABLE_H
#define LODGE_TESTS_ADAPTERS_BASE_TABLE_H

#include "adapters/adapter.h"

struct base_shape {
    uint32_t d_model, d_ff, n_layers, n_heads, n_kv_heads, head_dim, n_vocab;
    bool tied;
    bool fused; /* one qkv_proj and one gate_up_proj a layer */
};

struct base_table {
    struct lodge_arena arena;
    struct lodge_adapter_base base;
};

void base_table_init(struct base_table *t, const struct base_shape *s);
void base_table_finish(struct base_table *t);

#endif
