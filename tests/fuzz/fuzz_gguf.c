/* A GGUF file from hostile bytes: tables, shape, plan, tokenizer. */
#include "engine/files/gguf_vocab.h"
#include "engine/files/shape.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static struct lodge_span name(const void *container, uint64_t i)
{
    return ((const struct lodge_gguf *)container)->tensors[i].name;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct lodge_gguf g;
    struct lodge_error e;
    if (lodge_gguf_parse(data, n, "fuzz", &g, &e))
        return 0;
    struct lodge_arena a;
    struct lodge_model_shape shape;
    lodge_arena_init(&a, (size_t)64 << 20);
    const struct lodge_tensor_source src = {
        .where = "fuzz", .gguf = true, .name = name, .n_tensors = g.n_tensors, .container = &g};
    lodge_shape_from_gguf(&g, &src, &a, &shape, &e);
    lodge_arena_finish(&a);
    struct lodge_tokenizer *t = NULL;
    if (!lodge_gguf_tokenizer(&g, "fuzz", &t, &e))
        lodge_tokenizer_destroy(t);
    lodge_gguf_close(&g);
    return 0;
}
