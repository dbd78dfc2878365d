/* The table of shapes that adapters are checked against, from a plan. */
#ifndef LODGE_ENGINE_ADAPTER_BASE_H
#define LODGE_ENGINE_ADAPTER_BASE_H

#include "adapters/adapter.h"

struct lodge_family;

/* Modules of the plan's linears by their names in Hugging Face checkpoints and in GGUF files of
 * the family; linears that it fuses are parts of one module. The arena owns the result; names are
 * not copied. NOMEM. */
int lodge_adapter_base_build(const struct lodge_plan *p, const char *model_name,
                             const struct lodge_family *family, struct lodge_arena *arena,
                             struct lodge_adapter_base *out, struct lodge_error *e);

#endif
