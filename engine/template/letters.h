/* Characters as Python's strings see them: white space, classes, and the change of case. Pure
 * functions of code points. Private to engine/template. Source: the Unicode character database,
 * through utf8proc, and its SpecialCasing.txt. */
#ifndef LODGE_ENGINE_TEMPLATE_LETTERS_H
#define LODGE_ENGINE_TEMPLATE_LETTERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One character of a valid string of n > 0 bytes; its bytes. */
size_t letter_at(const char *s, size_t n, uint32_t *cp);
/* The last one before s[n]. */
size_t letter_before(const char *s, size_t n, uint32_t *cp);

bool letter_is_space(uint32_t cp);
bool letter_is_alpha(uint32_t cp);
bool letter_is_decimal(uint32_t cp);
bool letter_is_digit(uint32_t cp);
bool letter_is_numeric(uint32_t cp);
bool letter_is_upper(uint32_t cp); /* title case letters are not */
bool letter_is_lower(uint32_t cp);
bool letter_is_cased(uint32_t cp);
/* Does repr() show the character itself? */
bool letter_is_printable(uint32_t cp);
/* May stand between a letter and a final sigma. */
bool letter_is_ignorable(uint32_t cp);

enum letter_case { LETTER_UPPER, LETTER_LOWER, LETTER_TITLE };
/* Up to three code points; how many. */
size_t letter_change(uint32_t cp, enum letter_case to, uint32_t out[3]);

#endif
