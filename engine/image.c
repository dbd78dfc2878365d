#include "engine/image.h"

#include <string.h>

struct packing {
    const struct lodge_side *side;
    const struct lodge_lora *lora;
    const struct lodge_lora_layout *layout;
    uint8_t *image;
    atomic_int err;
    atomic_bool early; /* the weights are not there yet */
};

size_t lodge_image_bytes(const struct lodge_lora_layout *layout)
{
    return (size_t)layout->n_cells * LODGE_CELL_BYTES;
}

/* Backends write what the matrices hold and expect zeros around it. A target is small enough to
 * stay in a cache between the two. */
static void clear_target(const struct packing *p, uint32_t target)
{
    const struct lodge_lora_layout *l = p->layout;
    uint32_t first = l->places[target].first_a;
    uint32_t end = target + 1 < l->n_places ? l->places[target + 1].first_a : l->n_cells;
    memset(p->image + (size_t)first * LODGE_CELL_BYTES, 0,
           (size_t)(end - first) * LODGE_CELL_BYTES);
}

static void pack_target(void *ctx, uint32_t target)
{
    struct packing *p = ctx;
    clear_target(p, target);
    int err =
        p->side->backend->adapter_pack(p->side->device, p->lora, p->layout, target, p->image, NULL);
    if (err == LODGE_ERR_AGAIN)
        atomic_store(&p->early, true);
    else if (err)
        atomic_store(&p->err, err);
}

int lodge_image_make(struct lodge_side_job *job, struct lodge_spares *spares, const char *name,
                     const struct lodge_lora *lora, const struct lodge_lora_layout *layout,
                     uint8_t **out, struct lodge_error *e)
{
    size_t n = lodge_image_bytes(layout);
    struct packing p = {
        .side = job->side, .lora = lora, .layout = layout, .image = lodge_spares_take(spares, n)};
    if (!p.image)
        return lodge_fail(e, LODGE_ERR_NOMEM, "no memory for adapter \"%s\" (%zu MiB)", name,
                          n >> 20);
    lodge_side_run(job, pack_target, &p, lora->n_targets);
    int err = atomic_load(&p.err);
    if (!err && atomic_load(&p.early))
        err = LODGE_ERR_AGAIN;
    if (!err) {
        *out = p.image;
        return 0;
    }
    lodge_spares_give(spares, p.image, n);
    return lodge_fail(e, err, "adapter \"%s\" cannot be packed: %s", name, lodge_error_text(err));
}
