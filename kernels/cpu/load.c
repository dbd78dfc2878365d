/* Packing: stored rows to panels, all workers at once, into one region of huge pages; or reading
 * what an earlier start packed (weights.c). */
#include "base/pages.h"
#include "kernels/cpu/device.h"
#include "kernels/cpu/panel.h"

#include <stdio.h>
#include <stdlib.h>

static size_t linear_bytes(const struct lodge_plan *p, uint32_t i)
{
    const struct lodge_linear *l = &p->linears[i];
    if (lodge_plan_twin(p, i) != LODGE_NONE)
        return 0;
    size_t panels = ((size_t)l->n_rows + 31) / 32;
    return panels * lodge_panel_bytes(l->format, l->n_cols);
}

size_t lodge_cpu_packed_bytes(const struct lodge_plan *p)
{
    size_t sum = 0;
    for (uint32_t i = 0; i < p->n_linears; i++)
        sum += linear_bytes(p, i);
    return sum;
}

struct job {
    const struct lodge_device *d;
    lodge_progress_fn *fn;
    void *cookie;
    _Atomic uint32_t bad; /* a linear with codes that are no numbers, plus 1 */
};

/* Row of the file that becomes row n of the plan. */
static uint32_t stored_row(const struct lodge_linear *l, uint32_t n)
{
    if (l->order == LODGE_ROWS_PLAIN)
        return n;
    uint32_t d = l->head_dim, in = n % d, half = d / 2;
    return n - in + 2 * (in % half) + in / half;
}

static bool has_nan(const uint8_t *codes, size_t n)
{
    uint32_t found = 0;
    for (size_t i = 0; i < n; i++)
        found |= (codes[i] & 0x7Fu) == 0x7Fu;
    return found;
}

/* False if codes are no numbers. */
static bool pack_panel(const struct lodge_device *d, uint32_t linear, uint32_t panel)
{
    const struct lodge_plan *p = d->plan;
    const struct lodge_linear *l = &p->linears[linear];
    const struct packed *to = &d->linears[linear];
    bool sound = true;
    const struct lodge_tensor *t = &p->tensors[linear];
    size_t row_bytes = 0;
    lodge_format_row_bytes(l->format, l->n_cols, &row_bytes);
    struct lodge_panel_rows rows = {.scale_cols = t->scale_cols};
    for (uint32_t r = 0; r < 32 && panel * 32 + r < l->n_rows; r++) {
        uint32_t n = stored_row(l, panel * 32 + r);
        rows.data[r] = (const uint8_t *)t->data + row_bytes * n;
        if (l->format == LODGE_FMT_F8_E4M3 && has_nan(rows.data[r], row_bytes))
            sound = false;
        if (t->scales)
            rows.scales[r] =
                t->scales + (size_t)(n / t->scale_rows) * ((l->n_cols - 1) / t->scale_cols + 1);
    }
    d->k.gemm[l->format].pack(&rows, l->n_cols, to->panels + panel * to->panel_bytes);
    return sound;
}

bool lodge_cpu_pack_linear(const struct lodge_device *d, uint32_t linear, unsigned worker,
                           unsigned n_workers)
{
    uint32_t from, to;
    bool sound = true;
    lodge_cpu_share(d->linears[linear].n_panels, worker, n_workers, &from, &to);
    for (uint32_t p = from; p < to; p++)
        sound &= pack_panel(d, linear, p);
    return sound;
}

/* Bytes of the region up to the end of a linear that has panels of its own. */
static size_t end_of(const struct lodge_device *d, uint32_t i)
{
    const struct packed *l = &d->linears[i];
    return (size_t)(l->panels - d->weights) + l->n_panels * l->panel_bytes;
}

/* Every worker packs its contiguous part of every linear, as it will read it later. */
static void pack_all(void *ctx, unsigned worker, unsigned n_workers)
{
    struct job *j = ctx;
    for (uint32_t i = 0; i < j->d->plan->n_linears; i++) {
        if (lodge_plan_twin(j->d->plan, i) != LODGE_NONE)
            continue;
        if (!lodge_cpu_pack_linear(j->d, i, worker, n_workers))
            atomic_store(&j->bad, i + 1);
        if (worker == 0 && j->fn)
            j->fn(j->cookie, end_of(j->d, i), j->d->weight_bytes);
    }
}

static int check_kernels(const struct lodge_device *d, const struct lodge_plan *p,
                         struct lodge_error *e)
{
    for (uint32_t i = 0; i < p->n_linears; i++)
        if (!d->k.gemm[p->linears[i].format].tile)
            return lodge_fail(e, LODGE_ERR_UNSUPPORTED, "the CPU backend has no %s kernel",
                              lodge_format_info(p->linears[i].format)->name);
    return 0;
}

/* Gives every linear its place in the region; a twin has none of its own. */
static int place(struct lodge_device *d, const struct lodge_plan *p, struct lodge_error *e)
{
    d->plan = p;
    d->weight_bytes = lodge_cpu_packed_bytes(p);
    d->weights = lodge_pages_map(d->weight_bytes);
    d->linears = calloc(p->n_linears, sizeof *d->linears);
    if (!d->weights || !d->linears)
        return lodge_fail(e, LODGE_ERR_NOMEM, "no memory for %zu bytes of weights",
                          d->weight_bytes);
    size_t at = 0;
    for (uint32_t i = 0; i < p->n_linears; i++) {
        const struct lodge_linear *l = &p->linears[i];
        int32_t twin = lodge_plan_twin(p, i);
        d->linears[i] = (struct packed){
            .panels = twin == LODGE_NONE ? d->weights + at : d->linears[twin].panels,
            .n_panels = (l->n_rows + 31) / 32,
            .panel_bytes = lodge_panel_bytes(l->format, l->n_cols),
            .tile_bytes = lodge_act_tile_bytes(lodge_act_form(l->format), l->n_cols),
            .format = l->format,
            .form = lodge_act_form(l->format),
            .n_rows = l->n_rows,
            .n_cols = l->n_cols,
        };
        at += linear_bytes(p, i);
    }
    return 0;
}

static int pack(struct lodge_device *d, lodge_progress_fn *fn, void *cookie, struct lodge_error *e)
{
    struct job j = {.d = d, .fn = fn, .cookie = cookie};
    lodge_workers_run(d->workers, pack_all, &j);
    if (!j.bad)
        return 0;
    const struct lodge_linear *l = &d->plan->linears[j.bad - 1];
    return lodge_fail(
        e, LODGE_ERR_FORMAT,
        "the %s weights (%s of layer %d) have codes 0x7F or 0xFF, which are no numbers; "
        "the model is damaged, fetch or convert it again",
        lodge_format_info(l->format)->name, lodge_site_name(l->site), (int)l->layer);
}

void lodge_cpu_set_ready(struct lodge_device *d, const struct lodge_weights_cache *cache)
{
    atomic_store(&d->ready, true);
    if (cache)
        cache->ready(cache->cookie);
}

/* True with the file open, if it is there and fits. */
static bool find_packed(const struct lodge_device *d, const struct lodge_weights_cache *cache,
                        struct lodge_weights_key *key, struct lodge_weights_file *file)
{
    struct lodge_error e;
    *key = (struct lodge_weights_key){.layout_version = LODGE_CPU_PANEL_VERSION,
                                      .plan_sum = lodge_weights_plan_sum(d->plan),
                                      .n_bytes = d->weight_bytes};
    snprintf(key->layout, sizeof key->layout, "cpu %s", d->k.name);
    int err = lodge_weights_file_open(cache, key, file, &e);
    if (err)
        lodge_error_append(&e, "; the weights are packed from the model");
    else
        lodge_fail(&e, 0, "%s: read in the background", cache->name);
    cache->say(cache->cookie, err && err != LODGE_ERR_NOT_FOUND, e.text);
    return !err;
}

int lodge_cpu_load(struct lodge_device *d, const struct lodge_plan *p,
                   const struct lodge_weights_cache *cache, lodge_progress_fn *fn, void *cookie,
                   struct lodge_error *e)
{
    struct lodge_weights_key key;
    struct lodge_weights_file file;
    int err = check_kernels(d, p, e);
    if (!err)
        err = place(d, p, e);
    if (err)
        return err;
    if (cache && find_packed(d, cache, &key, &file))
        return lodge_cpu_feed_start(d, cache, &key, &file, e);
    err = pack(d, fn, cookie, e);
    if (err)
        return err;
    lodge_cpu_set_ready(d, cache);
    return cache ? lodge_cpu_feed_start(d, cache, &key, NULL, e) : 0;
}
