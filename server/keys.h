/* API keys and ids: how they are made and recognised.
 *
 * A key is "lodge_live_", 40 random base-62 characters (238 bits), and 6 characters that check the
 * rest, so that a scanner of leaked secrets can tell a key from a lookalike without asking. Only
 * its SHA-256 is kept. Pure functions but for the random source.
 */
#ifndef LODGE_SERVER_KEYS_H
#define LODGE_SERVER_KEYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KEY_PREFIX "lodge_live_"
#define KEY_LENGTH 57u /* without the zero */
#define ID_MAX 40u     /* of ids, with the zero */

/* CRC-32 (IEEE 802.3, as zlib's) of the bytes, continuing `crc` (0 to begin). */
uint32_t crc32_of(uint32_t crc, const void *data, size_t n);

void key_make(char out[KEY_LENGTH + 1]);
/* Has the form of a key, and its check characters fit. */
bool key_well_formed(const char *text, size_t n);
/* "lodge_live_abcd...wxyz": enough to tell keys apart, useless to guess one. */
void key_redact(const char *key, char out[ID_MAX]);
/* `prefix` and 24 random base-62 characters. */
void id_make(const char *prefix, char out[ID_MAX]);

#endif
