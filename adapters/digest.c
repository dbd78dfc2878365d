#include "adapters/internal.h"
#include "base/buf.h"

#include <string.h>

static const char domain[] = "lodge adapter 1";

void lodge_adapter_record_target(const struct lodge_lora_target *t, uint32_t n_in, uint32_t n_out,
                                 struct lodge_adapter_record *r)
{
    *r = (struct lodge_adapter_record){.linear = t->linear,
                                       .rank = t->rank,
                                       .has_magnitude = t->magnitude != NULL,
                                       .has_offset = t->offset != NULL};
    memcpy(&r->scale_bits, &t->scale, sizeof r->scale_bits);
    lodge_sha256(t->a, (size_t)t->rank * n_in * sizeof *t->a, &r->a);
    lodge_sha256(t->b, (size_t)t->rank * n_out * sizeof *t->b, &r->b);
    if (t->magnitude)
        lodge_sha256(t->magnitude, (size_t)n_out * sizeof(float), &r->magnitude);
    if (t->offset)
        lodge_sha256(t->offset, (size_t)n_out * sizeof(float), &r->offset);
}

int lodge_adapter_make_digest(struct lodge_adapter_reading *r,
                              const struct lodge_adapter_record *records)
{
    struct lodge_adapter *a = r->adapter;
    struct lodge_buf all;
    lodge_buf_init(&all, SIZE_MAX);
    lodge_buf_append(&all, domain, sizeof domain);
    lodge_buf_append(&all, &a->lora.n_targets, sizeof a->lora.n_targets);
    lodge_buf_append(&all, records, a->lora.n_targets * sizeof *records);
    /* It changes prompts, and so replies. */
    if (a->chat_template)
        lodge_buf_append(&all, a->chat_template, strlen(a->chat_template) + 1);
    if (!all.failed)
        lodge_sha256(all.data, all.n, &a->digest);
    int err = all.failed ? lodge_fail(r->e, LODGE_ERR_NOMEM, "no memory for a digest") : 0;
    lodge_buf_finish(&all);
    return err;
}
