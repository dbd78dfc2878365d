#include "server/keys.h"

#include "base/hash.h"

#include <stdio.h>
#include <string.h>

#define N_RANDOM 40u
#define N_CHECK 6u
#define N_ID 24u

static const char digits[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

uint32_t crc32_of(uint32_t crc, const void *data, size_t n)
{
    const uint8_t *p = data;
    crc = ~crc;
    for (size_t i = 0; i < n; i++) {
        crc ^= p[i];
        for (int k = 0; k < 8; k++)
            crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
    }
    return ~crc;
}

/* Bytes from 248 up are thrown away: 248 is the last multiple of 62. */
static void random_digits(char *out, size_t n)
{
    uint8_t bytes[64];
    for (size_t done = 0; done < n;) {
        lodge_random_bytes(bytes, sizeof bytes);
        for (size_t i = 0; i < sizeof bytes && done < n; i++)
            if (bytes[i] < 248)
                out[done++] = digits[bytes[i] % 62];
    }
    out[n] = 0;
}

static void put_check(const char *key, size_t n, char out[N_CHECK + 1])
{
    uint32_t crc = crc32_of(0, key, n);
    for (size_t i = N_CHECK; i--; crc /= 62)
        out[i] = digits[crc % 62];
    out[N_CHECK] = 0;
}

void key_make(char out[KEY_LENGTH + 1])
{
    size_t n = strlen(KEY_PREFIX);
    memcpy(out, KEY_PREFIX, n);
    random_digits(out + n, N_RANDOM);
    put_check(out, n + N_RANDOM, out + n + N_RANDOM);
}

bool key_well_formed(const char *text, size_t n)
{
    char check[N_CHECK + 1];
    if (n != KEY_LENGTH || memcmp(text, KEY_PREFIX, strlen(KEY_PREFIX)) != 0)
        return false;
    put_check(text, KEY_LENGTH - N_CHECK, check);
    return memcmp(text + KEY_LENGTH - N_CHECK, check, N_CHECK) == 0;
}

void key_redact(const char *key, char out[ID_MAX])
{
    snprintf(out, ID_MAX, "%.*s...%s", (int)strlen(KEY_PREFIX) + 4, key, key + KEY_LENGTH - 4);
}

void id_make(const char *prefix, char out[ID_MAX])
{
    size_t n = strlen(prefix);
    memcpy(out, prefix, n);
    random_digits(out + n, N_ID);
}
