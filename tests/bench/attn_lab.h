/* A device of the CPU backend that has what attention needs, and nothing else: for what measures
 * and for what checks it. One owner. */
#ifndef LODGE_TESTS_ATTN_LAB_H
#define LODGE_TESTS_ATTN_LAB_H

#include "kernels/cpu/device.h"

#define ATTN_LAB_SEQS 64u

struct attn_shape {
    unsigned heads, kv_heads, dim;
};

struct attn_load {
    unsigned seqs, context, n_tokens; /* new tokens of each sequence, of its context */
};

struct attn_lab {
    struct lodge_device d;
    struct lodge_plan plan;
    struct lodge_layer_group group;
    struct lodge_op_attn op; /* after a change of it: lodge_cpu_plan_attention */
    struct lodge_step step;
    struct lodge_row rows[ATTN_LAB_SEQS];
    uint32_t *pages;
    size_t bytes; /* that a layer reads */
};

/* As many layers as hold cold_bytes of keys and values, at least one; all heads of all pages hold
 * the same. Aborts without memory. k and w must outlive it. */
void attn_lab_open(struct attn_lab *b, const struct lodge_cpu_kernels *k, struct lodge_workers *w,
                   enum lodge_kv_dtype kv, const struct attn_shape *s, const struct attn_load *l,
                   size_t cold_bytes);
void attn_lab_close(struct attn_lab *b);
/* Attention of layer op.group_layer, as a step runs it. */
void attn_lab_run(struct attn_lab *b);

#endif
