/* Decoding of every weight format against the gguf package, bit for bit
 * (tests/golden/make_blocks.py). */
#include "base/file.h"
#include "kernels/format.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *golden_path;

struct record {
    char name[8];
    uint32_t n, n_bytes;
};

static enum lodge_format format_of(const char name[8])
{
    for (int f = 0; f < LODGE_FMT_COUNT; f++)
        if (strncmp(lodge_format_info((enum lodge_format)f)->name, name, 8) == 0)
            return (enum lodge_format)f;
    return LODGE_FMT_COUNT;
}

/* Decodes from an odd address into memory of exactly the right size. */
static void check_record(const struct record *r, const char *raw, const char *want)
{
    enum lodge_format f = format_of(r->name);
    size_t row = 0;
    ck_assert_msg(f < LODGE_FMT_COUNT, "unknown format %.8s", r->name);
    ck_assert(lodge_format_row_bytes(f, r->n, &row));
    ck_assert_uint_eq(row, r->n_bytes);
    char *src = malloc(r->n_bytes + 1u);
    float *dst = malloc(r->n * sizeof *dst);
    memcpy(src + 1, raw, r->n_bytes);
    lodge_format_decode(f, src + 1, r->n, dst);
    for (uint32_t i = 0; i < r->n; i++) {
        uint32_t got, expected;
        memcpy(&got, dst + i, 4);
        memcpy(&expected, want + 4 * i, 4);
        ck_assert_msg(got == expected, "%.8s element %u: bits %08x, expected %08x", r->name, i, got,
                      expected);
    }
    free(dst);
    free(src);
}

START_TEST(decodes_like_gguf)
{
    char *data;
    size_t n, at = 0;
    unsigned seen = 0;
    struct lodge_error e = {0};
    ck_assert_msg(!lodge_file_read(golden_path, 1 << 22, &data, &n, &e), "%s", e.text);
    while (at < n) {
        struct record r;
        ck_assert(n - at >= sizeof r);
        memcpy(&r, data + at, sizeof r);
        at += sizeof r;
        ck_assert(n - at >= r.n_bytes + 4 * (size_t)r.n);
        check_record(&r, data + at, data + at + r.n_bytes);
        at += r.n_bytes + 4 * (size_t)r.n;
        seen |= 1u << format_of(r.name);
    }
    free(data);
    /* F32 is a copy. */
    ck_assert_uint_eq(seen | 1u << LODGE_FMT_F32, (1u << LODGE_FMT_COUNT) - 1);
}
END_TEST

int main(int argc, char **argv)
{
    golden_path = argc > 1 ? argv[1] : "";
    Suite *s = suite_create("blocks");
    TCase *t = tcase_create("all");
    tcase_add_test(t, decodes_like_gguf);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
