/* UTF-8, strictly (no surrogates, no overlong forms, up to U+10FFFF). Pure functions. */
#ifndef LODGE_BASE_UTF8_H
#define LODGE_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LODGE_UTF8_REPLACEMENT 0xFFFDu

/* Decodes the character at s[0..n). Returns its length 1..4 and sets *cp. Returns 0 if n is 0 or
 * the bytes so far are a valid start that needs more (truncated), and -k if the first k (1..3)
 * bytes can never become a character (a maximal broken subpart, as Unicode recommends to
 * replace by one U+FFFD). */
int lodge_utf8_decode(const uint8_t *s, size_t n, uint32_t *cp);
/* Writes 1..4 bytes of a valid code point, returns their number. */
int lodge_utf8_encode(uint32_t cp, uint8_t out[4]);
bool lodge_utf8_valid(const uint8_t *s, size_t n);

#endif
