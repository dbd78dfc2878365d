/* Bytes of strangers made fit to be sent as JSON or shown on a terminal. Pure functions. */
#ifndef LODGE_CLIENTS_TEXT_H
#define LODGE_CLIENTS_TEXT_H

#include "base/buf.h"

/* Appends s as valid UTF-8 without control characters but tab and newline: escape sequences are
 * dropped whole, each broken piece becomes U+FFFD. */
void text_clean(const char *s, size_t n, struct lodge_buf *out);
/* As one line of less than `room` bytes, cut where it is longer; room >= 8. */
void text_clean_line(const char *s, size_t n, char *out, size_t room);

#endif
