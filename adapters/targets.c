/* From entries to targets: modules are converted and hashed two by two, by as many threads as the
 * caller gives, and their parts become targets in the plan's order. */
#include "adapters/internal.h"

#include <stdlib.h>

/* A target and what is known of it, sorted together. */
struct made {
    struct lodge_lora_target target;
    struct lodge_adapter_record record;
    const char *module;
};

#define MAX_PARTS 3u /* of a module */
/* Entries of an item of work: enough to hash matrices of like sizes side by side. */
#define ITEM_ENTRIES 2u

struct converted {
    struct lodge_adapter_values values;
    struct made made[MAX_PARTS];
    int err;
    struct lodge_error e;
};

struct work {
    struct lodge_adapter_reading *reading;
    struct converted *entries;
};

struct hashes {
    struct lodge_hash_job jobs[ITEM_ENTRIES * MAX_PARTS * LODGE_RECORD_HASHES];
    uint32_t n;
};

/* Part p of the module. */
static void make_part(const struct lodge_adapter_entry *t, const struct lodge_lora_target *whole,
                      uint32_t p, struct made *out, struct hashes *h)
{
    const struct lodge_adapter_module *m = t->module;
    const struct lodge_adapter_part *part = &m->parts[p];
    bool table = m->site == LODGE_SITE_EMBED;
    uint32_t first = table ? 0 : part->first_row;
    struct lodge_lora_target *target = &out->target;
    *target = *whole;
    target->linear = part->linear;
    target->b += (size_t)first * whole->rank;
    if (target->magnitude)
        target->magnitude += first;
    if (target->offset)
        target->offset += first;
    out->module = m->hf;
    h->n +=
        lodge_adapter_record_target(target, table ? m->n_rows : m->n_cols,
                                    table ? m->n_cols : part->n_rows, &out->record, h->jobs + h->n);
}

static void convert_entry(const struct work *w, uint32_t i, struct hashes *h)
{
    const struct lodge_adapter_entry *t = &w->reading->entries[i];
    struct converted *c = &w->entries[i];
    struct lodge_adapter_reading own = *w->reading;
    own.e = &c->e;
    c->err = lodge_adapter_convert(&own, t, &c->values);
    for (uint32_t p = 0; p < t->module->n_parts && !c->err; p++)
        make_part(t, &c->values.whole, p, &c->made[p], h);
}

static void make_item(void *ctx, uint32_t item)
{
    const struct work *w = ctx;
    struct hashes h = {.n = 0};
    uint32_t first = item * ITEM_ENTRIES;
    for (uint32_t i = first; i < first + ITEM_ENTRIES && i < w->reading->n_entries; i++)
        convert_entry(w, i, &h);
    lodge_sha256_many(h.jobs, h.n, w->reading->base->hash_lanes);
}

static void run_items(struct work *w)
{
    const struct lodge_adapter_reading *r = w->reading;
    uint32_t n = (r->n_entries + ITEM_ENTRIES - 1) / ITEM_ENTRIES;
    if (r->limits.run)
        r->limits.run(r->limits.cookie, make_item, w, n);
    else
        for (uint32_t i = 0; i < n; i++)
            make_item(w, i);
}

static int by_linear(const void *a, const void *b)
{
    const struct made *x = a, *y = b;
    return (x->target.linear > y->target.linear) - (x->target.linear < y->target.linear);
}

/* Sums up all entries; the first that failed speaks. */
static int collect(struct lodge_adapter_reading *r, const struct converted *entries,
                   struct made *made, uint32_t *n)
{
    bool any = false;
    for (uint32_t i = 0; i < r->n_entries; i++) {
        const struct lodge_adapter_entry *t = &r->entries[i];
        if (entries[i].err) {
            if (r->e)
                *r->e = entries[i].e;
            return entries[i].err;
        }
        any |= entries[i].values.effect;
        r->adapter->n_parameters += entries[i].values.n_parameters;
        if (t->rank > r->adapter->max_rank)
            r->adapter->max_rank = t->rank;
        for (uint32_t p = 0; p < t->module->n_parts; p++)
            made[(*n)++] = entries[i].made[p];
    }
    if (!any)
        lodge_adapter_warn(r->adapter, "the adapter has no effect: every update is zero");
    return 0;
}

static int publish(struct lodge_adapter_reading *r, struct made *made, uint32_t n,
                   struct lodge_adapter_record **records)
{
    struct lodge_lora_target *targets = lodge_arena_array(&r->adapter->_arena, n, sizeof *targets);
    struct lodge_adapter_record *x = lodge_arena_array(&r->scratch, n, sizeof *x);
    if (!targets || !x)
        return lodge_adapter_no_memory(r);
    qsort(made, n, sizeof *made, by_linear);
    for (uint32_t i = 0; i < n; i++) {
        targets[i] = made[i].target;
        x[i] = made[i].record;
        if (i && targets[i].linear == targets[i - 1].linear)
            return lodge_fail(r->e, LODGE_ERR_UNSUPPORTED,
                              "%s: modules '%s' and '%s' are one tensor of base '%s' (tied "
                              "embeddings); train the adapter on one of them",
                              r->tensors_where, made[i - 1].module, made[i].module, r->base->name);
    }
    r->adapter->lora = (struct lodge_lora){targets, n};
    *records = x;
    return 0;
}

int lodge_adapter_make_targets(struct lodge_adapter_reading *r,
                               struct lodge_adapter_record **records)
{
    pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    struct made *made =
        lodge_arena_array(&r->scratch, MAX_PARTS * (size_t)r->n_entries, sizeof *made);
    struct converted *entries = lodge_arena_array(&r->scratch, r->n_entries, sizeof *entries);
    if (!made || !entries)
        return lodge_adapter_no_memory(r);
    struct work w = {r, entries};
    r->lock = &lock;
    run_items(&w);
    r->lock = NULL;
    uint32_t n = 0;
    int err = collect(r, entries, made, &n);
    return err ? err : publish(r, made, n, records);
}
