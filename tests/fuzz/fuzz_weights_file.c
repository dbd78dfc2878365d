/* The header of a file of packed weights as a damaged disk, or another program, may hand it back:
 * as it is, and with its checksums put right, which a fuzzer cannot guess. What passes must be the
 * header of this key and of a whole file. */
#include "base/checksum.h"
#include "kernels/weights_file.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

#define TABLE_AT 128
#define TABLE_SUM_AT 112
#define HEADER_SUM_AT 120

static const struct lodge_weights_key key = {"cpu test", 1, 0x123456789ABCDEFu, (size_t)9 << 20};
static const struct lodge_digest model = {{1, 2, 3}};
static const size_t n_table = 3 * sizeof(uint64_t); /* 9 MiB are 3 blocks */

static bool is(const uint8_t *at, uint64_t value)
{
    return memcmp(at, &value, sizeof value) == 0;
}

static void check(const uint8_t *data, size_t n, uint64_t file_bytes)
{
    struct lodge_error e = {0};
    size_t first = lodge_weights_header_bytes(key.n_bytes);
    int err = lodge_weights_header_check(&model, &key, data, n, file_bytes, &e);
    if (err && (!*e.text || (err != LODGE_ERR_FORMAT && err != LODGE_ERR_NOT_FOUND)))
        abort();
    if (!err && (n < first || file_bytes != first + key.n_bytes ||
                 memcmp(data, "LODGE-PW\4\3\2\1\1\0\0\0XXH64", 21) != 0 ||
                 strcmp((const char *)data + 24, key.layout) != 0 || !is(data + 64, key.n_bytes) ||
                 !is(data + 72, key.plan_sum) || memcmp(data + 80, &model, sizeof model) != 0 ||
                 !is(data + TABLE_SUM_AT, lodge_xxh64(data + TABLE_AT, n_table, 0)) ||
                 !is(data + HEADER_SUM_AT, lodge_xxh64(data, HEADER_SUM_AT, 0))))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    const uint64_t whole = lodge_weights_header_bytes(key.n_bytes) + key.n_bytes;
    check(data, n, n);
    check(data, n, whole);
    if (n < TABLE_AT + n_table)
        return 0;
    uint8_t *copy = malloc(n);
    if (!copy)
        return 0;
    memcpy(copy, data, n);
    uint64_t sum = lodge_xxh64(copy + TABLE_AT, n_table, 0);
    memcpy(copy + TABLE_SUM_AT, &sum, sizeof sum);
    sum = lodge_xxh64(copy, HEADER_SUM_AT, 0);
    memcpy(copy + HEADER_SUM_AT, &sum, sizeof sum);
    check(copy, n, whole);
    check(copy, n, whole - 1);
    free(copy);
    return 0;
}
