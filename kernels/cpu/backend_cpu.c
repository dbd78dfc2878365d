#include "base/host.h"
#include "base/pages.h"
#include "kernels/block.h"
#include "kernels/cpu/device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void cpu_name(char *out, size_t n)
{
    snprintf(out, n, "CPU");
    FILE *f = fopen("/proc/cpuinfo", "re");
    char line[256];
    while (f && fgets(line, sizeof line, f)) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) == 0 && colon) {
            snprintf(out, n, "%.*s", (int)strcspn(colon + 2, "\n"), colon + 2);
            break;
        }
    }
    if (f)
        fclose(f);
}

static void describe(const struct lodge_cpu_kernels *k, struct lodge_device_info *info)
{
    *info = (struct lodge_device_info){
        .page_tokens = LODGE_PAGE_TOKENS, .depth = 1, .memory_bytes = lodge_host_memory("")};
    cpu_name(info->name, sizeof info->name);
    snprintf(info->rung, sizeof info->rung, "%s", k->name);
}

static int probe(struct lodge_device_info *out, int cap)
{
    struct lodge_cpu_kernels k;
    if (cap < 1 || lodge_cpu_kernels_init(&k, NULL, NULL))
        return 0;
    describe(&k, out);
    return 1;
}

static void close_device(struct lodge_device *d)
{
    if (!d)
        return;
    lodge_cpu_feed_stop(d);
    lodge_workers_destroy(d->workers);
    lodge_pages_unmap(d->weights, d->weight_bytes);
    lodge_pages_unmap(d->pool, d->n_pages * d->page_bytes);
    lodge_pages_unmap(d->space, d->space_bytes);
    lodge_cpu_lora_finish(d);
    free(d->linears);
    free(d);
}

static int open_device(const struct lodge_device_config *cfg, struct lodge_device **out,
                       struct lodge_error *e)
{
    struct lodge_device *d = aligned_alloc(64, (sizeof *d + 63) / 64 * 64);
    if (!d)
        return lodge_fail(e, LODGE_ERR_NOMEM, "no memory for the CPU device");
    memset(d, 0, sizeof *d);
    d->cfg = *cfg;
    int err = lodge_cpu_kernels_init(&d->k, cfg->isa, e);
    if (!err)
        err = lodge_workers_create(cfg->n_threads ? cfg->n_threads : lodge_cpu_count(), &d->workers,
                                   e);
    if (err) {
        close_device(d);
        return err;
    }
    describe(&d->k, &d->info);
    d->info.kv = cfg->kv;
    size_t at = strlen(d->info.name);
    snprintf(d->info.name + at, sizeof d->info.name - at, ", %u threads, %s",
             lodge_workers_count(d->workers), d->k.name);
    *out = d;
    return 0;
}

static void get_info(const struct lodge_device *d, struct lodge_device_info *out)
{
    *out = d->info;
    out->memory_bytes = lodge_host_memory("");
}

static int memory(const struct lodge_device *d, const struct lodge_plan *p,
                  struct lodge_memory_need *out, struct lodge_error *e)
{
    (void)e;
    struct lodge_device probe_device = *d; /* the walk writes pointers: into a copy */
    out->weight_bytes = lodge_cpu_packed_bytes(p);
    out->workspace_bytes = lodge_cpu_workspace(&probe_device, p, NULL);
    return 0;
}

static void weight_use(const struct lodge_device *d, const struct lodge_linear *l,
                       struct lodge_weight_use *out)
{
    (void)d;
    enum lodge_act_form form = lodge_act_form(l->format);
    out->n_bytes = ((size_t)l->n_rows + 31) / 32 * lodge_panel_bytes(l->format, l->n_cols);
    if (form == LODGE_ACT_Q8)
        snprintf(out->kernel, sizeof out->kernel, "int8 dot, %u-bit codes",
                 lodge_coding(l->format).bits);
    else
        snprintf(out->kernel, sizeof out->kernel, "%s dot, %u-bit numbers",
                 form == LODGE_ACT_BF16 ? "bf16" : "fp32",
                 8 * lodge_format_info(l->format)->block_bytes);
}

static int model_load(struct lodge_device *d, const struct lodge_plan *p,
                      const struct lodge_weights_cache *cache, lodge_progress_fn *fn, void *cookie,
                      struct lodge_error *e)
{
    int err = lodge_cpu_load(d, p, cache, fn, cookie, e);
    if (err)
        return err;
    d->page_bytes = lodge_plan_page_bytes(p, d->cfg.kv, LODGE_PAGE_TOKENS);
    d->space_bytes = lodge_cpu_workspace(d, p, NULL);
    d->space = lodge_pages_map(d->space_bytes);
    if (!d->space)
        return lodge_fail(e, LODGE_ERR_NOMEM, "no memory for %zu bytes of workspace",
                          d->space_bytes);
    lodge_cpu_workspace(d, p, d->space);
    return 0;
}

static void run_aside(struct lodge_device *d, lodge_worker_fn *fn, void *ctx)
{
    lodge_workers_run(d->workers, fn, ctx);
}

static int pool_create(struct lodge_device *d, uint32_t n_pages, struct lodge_error *e)
{
    d->n_pages = n_pages;
    d->pool = lodge_pages_map(n_pages * d->page_bytes);
    if (!d->pool)
        return lodge_fail(e, LODGE_ERR_NOMEM, "no memory for a pool of %zu bytes",
                          n_pages * d->page_bytes);
    return lodge_cpu_lora_init(d, e);
}

/* Reading is not enough (it would map the zero page): writes a zero where a zero is. */
static bool pool_touch(struct lodge_device *d, size_t n_bytes)
{
    size_t total = d->n_pages * d->page_bytes;
    size_t end = total - d->touched_bytes < n_bytes ? total : d->touched_bytes + n_bytes;
    for (; d->touched_bytes < end; d->touched_bytes += 4096)
        atomic_fetch_add_explicit((_Atomic uint8_t *)(d->pool + d->touched_bytes), 0,
                                  memory_order_relaxed);
    return d->touched_bytes < total;
}

static void page_poison(struct lodge_device *d, uint32_t page)
{
    memset(d->pool + page * d->page_bytes, 0xFF, d->page_bytes);
}

static int step_submit(struct lodge_device *d, const struct lodge_step *s, uint64_t *ticket)
{
    int err = lodge_cpu_step(d, s);
    if (!err)
        *ticket = ++d->tickets;
    return err;
}

static int step_poll(struct lodge_device *d, uint64_t ticket, struct lodge_step_result *out)
{
    if (ticket != d->tickets)
        return LODGE_ERR_INVALID;
    *out = d->result;
    return 0;
}

const struct lodge_backend *lodge_backend_cpu(void)
{
    static const struct lodge_backend backend = {
        .abi = LODGE_BACKEND_ABI,
        .name = "cpu",
        .probe = probe,
        .open = open_device,
        .close = close_device,
        .info = get_info,
        .memory = memory,
        .weight_use = weight_use,
        .model_load = model_load,
        .pool_create = pool_create,
        .pool_touch = pool_touch,
        .page_poison = page_poison,
        .adapter_pack = lodge_cpu_adapter_pack,
        .adapter_open = lodge_cpu_adapter_open,
        .adapter_upload = lodge_cpu_adapter_upload,
        .run_aside = run_aside,
        .adapter_close = lodge_cpu_adapter_close,
        .step_submit = step_submit,
        .step_poll = step_poll,
    };
    return &backend;
}
