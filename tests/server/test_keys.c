/* The form of keys: what is made is accepted, whatever is changed in it is not. */
#include "server/keys.h"

#include <check.h>
#include <ctype.h>
#include <string.h>

START_TEST(crc_of_the_standard)
{
    ck_assert_uint_eq(crc32_of(0, "123456789", 9), 0xCBF43926u); /* the check value of CRC-32 */
    ck_assert_uint_eq(crc32_of(0, "", 0), 0);
    ck_assert_uint_eq(crc32_of(crc32_of(0, "12345", 5), "6789", 4), 0xCBF43926u);
}
END_TEST

START_TEST(made_keys)
{
    char key[KEY_LENGTH + 1], other[KEY_LENGTH + 1], redacted[ID_MAX];
    unsigned seen[128] = {0};
    for (int i = 0; i < 2000; i++) {
        key_make(key);
        ck_assert_uint_eq(strlen(key), KEY_LENGTH);
        ck_assert(key_well_formed(key, KEY_LENGTH));
        for (const char *p = key + strlen(KEY_PREFIX); *p; p++) {
            ck_assert(isalnum((unsigned char)*p));
            seen[(unsigned char)*p] += p < key + KEY_LENGTH - 6;
        }
    }
    /* All 62 digits equally often: 2000 * 40 / 62 = 1290, and 36 more or less. */
    for (int ch = 0; ch < 128; ch++)
        if (isalnum(ch))
            ck_assert_msg(seen[ch] > 1290 - 8 * 36 && seen[ch] < 1290 + 8 * 36, "'%c': %u", ch,
                          seen[ch]);
    key_make(other);
    ck_assert_str_ne(key, other);
    key_redact(key, redacted);
    ck_assert_uint_eq(strlen(redacted), strlen(KEY_PREFIX) + 4 + 3 + 4);
    ck_assert(!strstr(key, redacted) && !strncmp(key, redacted, strlen(KEY_PREFIX) + 4));
}
END_TEST

/* A CRC finds every change of one character. */
START_TEST(changed_keys)
{
    char key[KEY_LENGTH + 1];
    key_make(key);
    for (size_t i = 0; i < KEY_LENGTH; i++)
        for (int ch = '0'; ch <= 'z'; ch++) {
            char saved = key[i];
            key[i] = (char)ch;
            ck_assert_int_eq(key_well_formed(key, KEY_LENGTH), saved == ch);
            key[i] = saved;
        }
    ck_assert(!key_well_formed(key, KEY_LENGTH - 1));
    ck_assert(!key_well_formed("", 0));
}
END_TEST

START_TEST(ids)
{
    char a[ID_MAX], b[ID_MAX];
    id_make("proj_", a);
    id_make("proj_", b);
    ck_assert_uint_eq(strlen(a), 29);
    ck_assert_str_ne(a, b);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("keys");
    TCase *c = tcase_create("all");
    tcase_add_test(c, crc_of_the_standard);
    tcase_add_test(c, made_keys);
    tcase_add_test(c, changed_keys);
    tcase_add_test(c, ids);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
