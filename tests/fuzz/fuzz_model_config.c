/* config.json of a model from hostile bytes: family, shape, rotations. */
#include "base/json.h"
#include "engine/files/shape.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static struct lodge_span name(const void *container, uint64_t i)
{
    (void)container;
    static const struct lodge_span names[] = {{"model.norm.weight", 17}, {"model.poem.weight", 17}};
    return names[i];
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    json_t *root = NULL;
    struct lodge_error e;
    if (lodge_json_load((const char *)data, n, &lodge_json_body_limits, "fuzz", &root, &e))
        return 0;
    struct lodge_arena a;
    struct lodge_model_shape shape;
    float frequencies[2048], scale;
    const struct lodge_tensor_source src = {.where = "fuzz", .name = name, .n_tensors = 2};
    lodge_arena_init(&a, (size_t)64 << 20);
    if (!lodge_shape_from_hf(root, "fuzz", &src, &a, &shape, &e))
        lodge_rope_frequencies(&shape.rope, shape.n_context, 0, frequencies, &scale);
    lodge_arena_finish(&a);
    json_decref(root);
    return 0;
}
