#include "engine/text/detok.h"

#include "base/utf8.h"

#include <string.h>

void lodge_detok_init(struct lodge_detok *d, const struct lodge_tokenizer *t, bool keep_special,
                      bool at_start)
{
    *d = (struct lodge_detok){.t = t,
                              .keep_special = keep_special,
                              .strip_space = at_start && lodge_tokenizer_strips_space(t)};
}

/* Emits complete characters of held + bytes, replaces what is broken, keeps an unfinished tail. */
static void feed(struct lodge_detok *d, uint8_t byte, struct lodge_buf *out)
{
    d->held[d->n_held++] = byte;
    while (d->n_held) {
        uint32_t cp;
        int len = lodge_utf8_decode(d->held, d->n_held, &cp);
        if (len == 0)
            return;
        if (len > 0)
            lodge_buf_append(out, d->held, (size_t)len);
        else
            lodge_buf_append(out, "\xEF\xBF\xBD", 3);
        uint32_t used = (uint32_t)(len > 0 ? len : -len);
        d->n_held -= used;
        memmove(d->held, d->held + used, d->n_held);
    }
}

void lodge_detok_push(struct lodge_detok *d, uint32_t id, struct lodge_buf *out)
{
    size_t n;
    bool special;
    const char *bytes = lodge_tokenizer_bytes(d->t, id, &n, &special);
    if (special && !d->keep_special)
        return;
    for (size_t i = 0; i < n; i++) {
        bool drop = d->strip_space && bytes[i] == ' ';
        d->strip_space = false;
        if (!drop)
            feed(d, (uint8_t)bytes[i], out);
    }
}

void lodge_detok_flush(struct lodge_detok *d, struct lodge_buf *out)
{
    if (d->n_held)
        lodge_buf_append(out, "\xEF\xBF\xBD", 3);
    d->n_held = 0;
}
