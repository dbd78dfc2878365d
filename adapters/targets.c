/* From entries to targets: each module is converted and hashed by itself, by as many threads as
 * the caller gives, and its parts become targets in the plan's order. */
#include "adapters/internal.h"

#include <stdlib.h>

/* A target and what is known of it, sorted together. */
struct made {
    struct lodge_lora_target target;
    struct lodge_adapter_record record;
    const char *module;
};

struct item {
    struct lodge_adapter_values values;
    struct made made[3]; /* of the module's parts */
    int err;
    struct lodge_error e;
};

struct work {
    struct lodge_adapter_reading *reading;
    struct item *items; /* one an entry */
};

/* Part p of the module. */
static void make_part(const struct lodge_adapter_entry *t, const struct lodge_lora_target *whole,
                      uint32_t p, struct made *out)
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
    lodge_adapter_record_target(target, table ? m->n_rows : m->n_cols,
                                table ? m->n_cols : part->n_rows, &out->record);
}

static void make_item(void *ctx, uint32_t i)
{
    const struct work *w = ctx;
    const struct lodge_adapter_entry *t = &w->reading->entries[i];
    struct item *item = &w->items[i];
    struct lodge_adapter_reading own = *w->reading;
    own.e = &item->e;
    item->err = lodge_adapter_convert(&own, t, &item->values);
    for (uint32_t p = 0; p < t->module->n_parts && !item->err; p++)
        make_part(t, &item->values.whole, p, &item->made[p]);
}

static void run_items(struct work *w)
{
    const struct lodge_adapter_reading *r = w->reading;
    if (r->limits.run)
        r->limits.run(r->limits.cookie, make_item, w, r->n_entries);
    else
        for (uint32_t i = 0; i < r->n_entries; i++)
            make_item(w, i);
}

static int by_linear(const void *a, const void *b)
{
    const struct made *x = a, *y = b;
    return (x->target.linear > y->target.linear) - (x->target.linear < y->target.linear);
}

/* Sums up all items; the first that failed speaks. */
static int collect(struct lodge_adapter_reading *r, const struct item *items, struct made *made,
                   uint32_t *n)
{
    bool any = false;
    for (uint32_t i = 0; i < r->n_entries; i++) {
        const struct lodge_adapter_entry *t = &r->entries[i];
        if (items[i].err) {
            if (r->e)
                *r->e = items[i].e;
            return items[i].err;
        }
        any |= items[i].values.effect;
        r->adapter->n_parameters += items[i].values.n_parameters;
        if (t->rank > r->adapter->max_rank)
            r->adapter->max_rank = t->rank;
        for (uint32_t p = 0; p < t->module->n_parts; p++)
            made[(*n)++] = items[i].made[p];
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
    struct made *made = lodge_arena_array(&r->scratch, 3 * (size_t)r->n_entries, sizeof *made);
    struct item *items = lodge_arena_array(&r->scratch, r->n_entries, sizeof *items);
    if (!made || !items)
        return lodge_adapter_no_memory(r);
    struct work w = {r, items};
    r->lock = &lock;
    run_items(&w);
    r->lock = NULL;
    uint32_t n = 0;
    int err = collect(r, items, made, &n);
    return err ? err : publish(r, made, n, records);
}
