/* Detokenisation as tokens arrive: bytes become text as soon as they are certain.
 *
 * Text is the bytes of its tokens; each broken sequence becomes one U+FFFD once it is certain that
 * it is broken; valid characters are never split. At most 3 bytes are held.
 * Owner: one sequence. No allocation but what the caller's buffer does.
 */
#ifndef LODGE_ENGINE_TEXT_DETOK_H
#define LODGE_ENGINE_TEXT_DETOK_H

#include "engine/text/tokenizer.h"

struct lodge_detok {
    const struct lodge_tokenizer *t;
    bool keep_special;
    bool strip_space; /* drop one space before the first byte */
    uint8_t held[4];
    uint32_t n_held;
};

/* at_start: the text begins a document, so that a SentencePiece decoder drops its first space. */
void lodge_detok_init(struct lodge_detok *d, const struct lodge_tokenizer *t, bool keep_special,
                      bool at_start);
/* Appends the text that became certain with this token. */
void lodge_detok_push(struct lodge_detok *d, uint32_t id, struct lodge_buf *out);
/* Ends the text: what is still held is broken. */
void lodge_detok_flush(struct lodge_detok *d, struct lodge_buf *out);

#endif
