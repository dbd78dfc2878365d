/* A model on disk: a .gguf file or a Hugging Face directory, opened and described.
 *
 * Owns the mappings, the plan and everything read from the side files. Immutable after opening,
 * except that lodge_plan_group may be called on the plan before a backend loads it.
 */
#ifndef LODGE_ENGINE_FILES_MODEL_FILE_H
#define LODGE_ENGINE_FILES_MODEL_FILE_H

#include "base/gguf.h"
#include "base/hash.h"
#include "kernels/plan.h"

struct lodge_family;
struct lodge_model_file;

/* served_context: tokens the engine will serve, which some rope scalings depend on; 0: the
 * model's own. NOT_FOUND, FORMAT, UNSUPPORTED, NOMEM, IO: the text names file and tensor or key. */
int lodge_model_open(const char *path, uint32_t served_context, struct lodge_model_file **out,
                     struct lodge_error *e);
void lodge_model_close(struct lodge_model_file *m);

struct lodge_plan *lodge_model_plan(struct lodge_model_file *m);
/* The file's or directory's own name, without ".gguf". */
const char *lodge_model_name(const struct lodge_model_file *m);
/* The mapped GGUF, or NULL for a directory. */
const struct lodge_gguf *lodge_model_gguf(const struct lodge_model_file *m);
/* The directory, or NULL for a GGUF file. */
const char *lodge_model_dir(const struct lodge_model_file *m);
/* How files of its kind name and order things (engine/files/shape.h); adapters follow it. */
const struct lodge_family *lodge_model_family(const struct lodge_model_file *m);
/* Chat template text (zero-terminated), NULL when the model has none. with_tools prefers the
 * template named tool_use. */
const char *lodge_model_chat_template(const struct lodge_model_file *m, bool with_tools);

struct lodge_generation_defaults {
    float temperature, top_p, min_p, repetition; /* negative: not given */
    int32_t top_k;                               /* negative: not given */
    uint32_t eos[16]; /* ids that end a text by generation_config.json and config.json */
    uint32_t n_eos;
};
const struct lodge_generation_defaults *lodge_model_defaults(const struct lodge_model_file *m);

/* Hash of what identifies the model: shapes, formats, sizes and samples of the weights. */
void lodge_model_fingerprint(const struct lodge_model_file *m, struct lodge_digest *out);
/* Hash of a fingerprint and of the stamps (base/file.h) that the weight files have now: equal only
 * while no byte of them has changed. Any thread. */
void lodge_model_identity(const struct lodge_model_file *m, const struct lodge_digest *fingerprint,
                          struct lodge_digest *out);
/* The weights were packed: their pages of the mapping may leave memory. */
void lodge_model_release_pages(struct lodge_model_file *m);

#endif
