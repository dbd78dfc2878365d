#include "adapters/internal.h"
#include "base/buf.h"

#include <string.h>

/* What the digest covers, one record a target. Every field is fixed in width and there is no
 * padding, so that equal records are equal bytes. */
struct target_record {
    uint32_t linear, rank, scale_bits;
    uint32_t has_magnitude, has_offset;
    struct lodge_digest a, b, magnitude, offset;
};

static const char domain[] = "lodge adapter 1";

static void hash_target(const struct lodge_lora_target *t, const struct lodge_adapter_extent *n,
                        struct target_record *r)
{
    *r = (struct target_record){.linear = t->linear,
                                .rank = t->rank,
                                .has_magnitude = t->magnitude != NULL,
                                .has_offset = t->offset != NULL};
    memcpy(&r->scale_bits, &t->scale, sizeof r->scale_bits);
    lodge_sha256(t->a, (size_t)t->rank * n->n_in * sizeof *t->a, &r->a);
    lodge_sha256(t->b, (size_t)t->rank * n->n_out * sizeof *t->b, &r->b);
    if (t->magnitude)
        lodge_sha256(t->magnitude, (size_t)n->n_out * sizeof(float), &r->magnitude);
    if (t->offset)
        lodge_sha256(t->offset, (size_t)n->n_out * sizeof(float), &r->offset);
}

int lodge_adapter_make_digest(struct lodge_adapter_reading *reading,
                              const struct lodge_adapter_extent *extents)
{
    struct lodge_adapter *a = reading->adapter;
    struct lodge_buf all;
    lodge_buf_init(&all, SIZE_MAX);
    lodge_buf_append(&all, domain, sizeof domain);
    lodge_buf_append(&all, &a->lora.n_targets, sizeof a->lora.n_targets);
    for (uint32_t i = 0; i < a->lora.n_targets; i++) {
        struct target_record r;
        hash_target(&a->lora.targets[i], &extents[i], &r);
        lodge_buf_append(&all, &r, sizeof r);
        lodge_adapter_rest(&reading->limits);
    }
    /* It changes prompts, and so replies. */
    if (a->chat_template)
        lodge_buf_append(&all, a->chat_template, strlen(a->chat_template) + 1);
    if (!all.failed)
        lodge_sha256(all.data, all.n, &a->digest);
    int err = all.failed ? lodge_fail(reading->e, LODGE_ERR_NOMEM, "no memory for a digest") : 0;
    lodge_buf_finish(&all);
    return err;
}
