/* Host images: an adapter's cells as the backend packs them, ready to be copied into pages.
 *
 * Threads: any.
 */
#ifndef LODGE_ENGINE_IMAGE_H
#define LODGE_ENGINE_IMAGE_H

#include "base/spares.h"
#include "engine/side.h"
#include "kernels/backend.h"

/* Bytes of an image. */
size_t lodge_image_bytes(const struct lodge_lora_layout *layout);

/* Packs all cells of an adapter, as a part of `job`. The image is taken from `spares`, to which it
 * is given back with lodge_image_bytes; nothing is left in it of what it held before. `name` is for
 * texts. NOMEM, UNSUPPORTED; AGAIN when it needs weights that are not there yet. */
int lodge_image_make(struct lodge_side_job *job, struct lodge_spares *spares, const char *name,
                     const struct lodge_lora *lora, const struct lodge_lora_layout *layout,
                     uint8_t **out, struct lodge_error *e);

#endif
