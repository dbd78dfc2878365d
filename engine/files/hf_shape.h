/* Reading config.json: what the parts of the reader share. Private to engine/files.
 *
 * Getters leave *out alone when the key is absent or null; FORMAT names file and key. */
#ifndef LODGE_ENGINE_FILES_HF_SHAPE_H
#define LODGE_ENGINE_FILES_HF_SHAPE_H

#include "engine/files/shape.h"

struct lodge_hf_in {
    const json_t *c; /* the text part of the configuration */
    const char *where;
    struct lodge_arena *arena;
    struct lodge_error *e;
};

int lodge_hf_u32(const struct lodge_hf_in *in, const char *key, uint32_t *out);
int lodge_hf_number(const struct lodge_hf_in *in, const json_t *obj, const char *key, double *out);
int lodge_hf_flag(const struct lodge_hf_in *in, const char *key, bool *out);

/* Rotations, after the dims; windows, after the shape was checked. */
int lodge_hf_set_rope(const struct lodge_hf_in *in, struct lodge_model_shape *s);
int lodge_hf_set_windows(const struct lodge_hf_in *in, struct lodge_model_shape *s);

#endif
