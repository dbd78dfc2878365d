/* What the readers of tokenizer.json share. Private to load_hf*.c. Functions that return int give 0
 * or an error code with l->e set. */
#ifndef LODGE_ENGINE_TEXT_LOAD_HF_H
#define LODGE_ENGINE_TEXT_LOAD_HF_H

#include "engine/text/internal.h"

struct load {
    struct lodge_tokenizer *t;
    const char *where; /* the file, for messages */
    struct lodge_error *e;
};

/* load_hf.c */
int load_bad(const struct load *l, const char *what);
/* A component whose type is not known; NULL for one without a type. */
int load_unsupported(const struct load *l, const char *what, const char *type);
const char *type_of(const json_t *o);
bool is_type(const json_t *o, const char *type);
/* A copy of a string member; no data when there is none. */
struct lodge_span text_of(const struct load *l, const json_t *o, const char *key);

/* load_hf_steps.c */
int load_normalizer(const struct load *l, const json_t *n, int depth);
int load_pre_tokenizer(const struct load *l, const json_t *p, int depth);
/* When Metaspace puts a blank in front of a text, or a decoder takes it away. */
enum prepend_scheme metaspace_scheme(const json_t *p);

/* load_hf_model.c: vocabulary, added tokens, merges or scores */
int load_model(const struct load *l, const json_t *root);

#endif
