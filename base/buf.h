/* Growable byte buffer with a cap.
 *
 * Good for: building text and messages whose size is not known but must stay bounded.
 * A failed append (cap or memory) sets `failed` and appends nothing; later appends are ignored,
 * so a caller may write a whole message and test `failed` once. The bytes are always followed
 * by a zero that is not counted. Thread safety: none, one owner.
 */
#ifndef LODGE_BASE_BUF_H
#define LODGE_BASE_BUF_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

struct lodge_buf {
    char *data; /* n bytes and a zero; NULL until the first append */
    size_t n;
    size_t cap_bytes; /* most bytes it may hold */
    size_t _room;
    bool failed;
};

void lodge_buf_init(struct lodge_buf *b, size_t cap_bytes);
void lodge_buf_finish(struct lodge_buf *b);
/* Empties it, keeps the memory, clears `failed`. */
void lodge_buf_clear(struct lodge_buf *b);

/* 0, or LODGE_ERR_LIMIT (cap) or LODGE_ERR_NOMEM, which also stay in `failed`. */
int lodge_buf_append(struct lodge_buf *b, const void *bytes, size_t n);
int lodge_buf_puts(struct lodge_buf *b, const char *s);
int lodge_buf_printf(struct lodge_buf *b, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
/* Room for n more bytes at the end, to be filled by the caller; NULL as in append. */
void *lodge_buf_extend(struct lodge_buf *b, size_t n);
/* Removes the first n bytes (n <= b->n). */
void lodge_buf_drop(struct lodge_buf *b, size_t n);
/* Text of the buffer, "" when empty. Valid until the next change. */
const char *lodge_buf_text(const struct lodge_buf *b);

#endif
