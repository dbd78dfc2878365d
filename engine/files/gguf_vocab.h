/* The tokenizer part of a GGUF file, as the tokenizer wants it. */
#ifndef LODGE_ENGINE_FILES_GGUF_VOCAB_H
#define LODGE_ENGINE_FILES_GGUF_VOCAB_H

#include "base/gguf.h"
#include "engine/text/tokenizer.h"

/* Builds the tokenizer. FORMAT when the keys are missing or disagree in length. */
int lodge_gguf_tokenizer(const struct lodge_gguf *g, const char *where,
                         struct lodge_tokenizer **out, struct lodge_error *e);

#endif
