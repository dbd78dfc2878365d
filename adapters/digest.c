#include "adapters/internal.h"
#include "base/buf.h"

#include <string.h>

static const char domain[] = "lodge adapter 1";

uint32_t lodge_adapter_record_target(const struct lodge_lora_target *t, uint32_t n_in,
                                     uint32_t n_out, struct lodge_adapter_record *r,
                                     struct lodge_hash_job jobs[LODGE_RECORD_HASHES])
{
    uint32_t n = 0;
    *r = (struct lodge_adapter_record){.linear = t->linear,
                                       .rank = t->rank,
                                       .has_magnitude = t->magnitude != NULL,
                                       .has_offset = t->offset != NULL};
    memcpy(&r->scale_bits, &t->scale, sizeof r->scale_bits);
    jobs[n++] = (struct lodge_hash_job){t->a, (size_t)t->rank * n_in * sizeof *t->a, &r->a};
    jobs[n++] = (struct lodge_hash_job){t->b, (size_t)t->rank * n_out * sizeof *t->b, &r->b};
    if (t->magnitude)
        jobs[n++] = (struct lodge_hash_job){t->magnitude, n_out * sizeof(float), &r->magnitude};
    if (t->offset)
        jobs[n++] = (struct lodge_hash_job){t->offset, n_out * sizeof(float), &r->offset};
    return n;
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
