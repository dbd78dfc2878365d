/* The journal: what was begun is found again, with what was sent, whatever happened to the file. */
#include "server/journal.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define N_SLOTS 8u

static char path[64];
static struct ledger_row found[64];
static uint32_t n_found;

static int take(void *cookie, struct ledger_row *r)
{
    (void)cookie;
    found[n_found++] = *r;
    return 0;
}

static uint32_t recover(const uint8_t *bytes, size_t n)
{
    uint32_t damaged = 0;
    struct lodge_error e;
    n_found = 0;
    ck_assert_int_eq(journal_recover(bytes, n, take, NULL, &damaged, &e), 0);
    return damaged;
}

static struct ledger_row row(const char *id)
{
    struct ledger_row r;
    memset(&r, 0, sizeof r);
    snprintf(r.request_id, sizeof r.request_id, "%s", id);
    snprintf(r.key_id, sizeof r.key_id, "key_x");
    snprintf(r.model, sizeof r.model, "model");
    r.project = 3;
    r.time_us = 1234567890;
    r.finish = LEDGER_ABORT;
    r.joules = -1;
    return r;
}

static const struct ledger_row *row_of(const char *id)
{
    for (uint32_t i = 0; i < n_found; i++)
        if (strcmp(found[i].request_id, id) == 0)
            return &found[i];
    return NULL;
}

/* One open with counts, one complete, one given back; the bytes that a kill would leave. */
static uint8_t *leave(size_t *n)
{
    struct journal j;
    uint8_t *bytes;
    struct lodge_error e = {0};
    strcpy(path, "/tmp/lodge-journal-XXXXXX");
    close(mkstemp(path));
    ck_assert_int_eq(journal_open(path, &j, &e), 0);
    ck_assert_int_eq(journal_reset(&j, N_SLOTS, &e), 0);
    struct ledger_row open = row("open"), whole = row("whole"), gone = row("gone");
    struct journal_slot *a = journal_take(&j, &open), *b = journal_take(&j, &whole),
                        *c = journal_take(&j, &gone);
    atomic_fetch_add(&a->prompt_sent, 11);
    atomic_fetch_add(&a->output_sent, 7);
    whole.prompt_tokens = 5;
    whole.output_tokens = 6;
    whole.finish = LEDGER_STOP;
    journal_finish(b, &whole);
    journal_free(&j, c);
    ck_assert_int_eq(journal_read(&j, &bytes, n, &e), 0);
    journal_close(&j);
    unlink(path);
    ck_assert_uint_eq(*n, (N_SLOTS + 1) * JOURNAL_SLOT_BYTES);
    return bytes;
}

START_TEST(finds_what_was_left)
{
    size_t n;
    uint8_t *bytes = leave(&n);
    ck_assert_uint_eq(recover(bytes, n), 0);
    ck_assert_uint_eq(n_found, 2);
    const struct ledger_row *open = row_of("open"), *whole = row_of("whole");
    ck_assert(open && whole);
    ck_assert_uint_eq(open->prompt_tokens, 11);
    ck_assert_uint_eq(open->output_tokens, 7);
    ck_assert_uint_eq(open->finish, LEDGER_CRASH);
    ck_assert_uint_eq(open->project, 3);
    ck_assert_uint_eq(whole->prompt_tokens, 5);
    ck_assert_uint_eq(whole->output_tokens, 6);
    ck_assert_uint_eq(whole->finish, LEDGER_STOP);
    free(bytes);
}
END_TEST

/* Cut anywhere: what lies whole before the cut is found, no more, and nothing is made up. */
START_TEST(truncated)
{
    size_t n;
    uint8_t *bytes = leave(&n);
    struct lodge_error e;
    for (size_t cut = 0; cut <= n; cut += 37) {
        uint32_t damaged;
        uint8_t *copy = malloc(cut ? cut : 1);
        memcpy(copy, bytes, cut);
        n_found = 0;
        int err = journal_recover(copy, cut, take, NULL, &damaged, &e);
        size_t whole = cut / JOURNAL_SLOT_BYTES;
        if (err)
            ck_assert(cut && cut < 24 && err == LODGE_ERR_FORMAT);
        else
            ck_assert_uint_eq(n_found, whole > 2 ? 2 : whole ? whole - 1 : 0);
        free(copy);
    }
    free(bytes);
}
END_TEST

/* A flipped bit in a row loses that row or, in a complete one, falls back to what was sent; the
 * other is untouched. */
START_TEST(flipped_bits)
{
    size_t n;
    uint8_t *bytes = leave(&n);
    uint32_t n_lost = 0;
    for (size_t bit = JOURNAL_SLOT_BYTES * 8; bit < 3u * JOURNAL_SLOT_BYTES * 8; bit++) {
        size_t in_slot = bit / 8 % JOURNAL_SLOT_BYTES;
        bool counts = in_slot >= 12 && in_slot < 20; /* not checked: they change all the time */
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        uint32_t damaged = recover(bytes, n);
        ck_assert_uint_le(n_found, 2);
        ck_assert_uint_ge(n_found + damaged, in_slot < 4 ? 1 : 2); /* state: 1 ^ 1 is free */
        n_lost += damaged;
        for (uint32_t i = 0; i < n_found && !counts; i++) {
            const struct ledger_row *r = &found[i];
            bool open = strcmp(r->request_id, "open") == 0;
            ck_assert(open || strcmp(r->request_id, "whole") == 0);
            bool whole = r->prompt_tokens == 5 && r->output_tokens == 6;
            bool none = r->prompt_tokens == 0 && r->output_tokens == 0 && r->finish == LEDGER_CRASH;
            ck_assert(open ? r->prompt_tokens == 11 && r->output_tokens == 7 : whole || none);
        }
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    ck_assert_uint_gt(n_lost, sizeof(struct ledger_row) * 8 - 100);
    free(bytes);
}
END_TEST

START_TEST(other_files)
{
    uint32_t damaged;
    struct lodge_error e = {0};
    uint8_t bytes[4096] = {0};
    ck_assert_int_eq(journal_recover(bytes, sizeof bytes, take, NULL, &damaged, &e),
                     LODGE_ERR_FORMAT);
    ck_assert(strstr(e.text, "no journal"));
    ck_assert_int_eq(journal_recover(NULL, 0, take, NULL, &damaged, &e), 0);
}
END_TEST

START_TEST(slots_run_out_and_come_back)
{
    struct journal j;
    struct lodge_error e = {0};
    struct journal_slot *all[N_SLOTS];
    struct ledger_row r = row("r");
    strcpy(path, "/tmp/lodge-journal-XXXXXX");
    close(mkstemp(path));
    ck_assert_int_eq(journal_open(path, &j, &e), 0);
    ck_assert_int_eq(journal_reset(&j, N_SLOTS, &e), 0);
    for (uint32_t i = 0; i < N_SLOTS; i++)
        ck_assert_ptr_nonnull(all[i] = journal_take(&j, &r));
    ck_assert_ptr_null(journal_take(&j, &r));
    journal_free(&j, all[3]);
    ck_assert_ptr_eq(journal_take(&j, &r), all[3]);
    struct journal second;
    ck_assert_int_eq(journal_open(path, &second, &e), LODGE_ERR_RESOURCE);
    journal_close(&second);
    journal_close(&j);
    unlink(path);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("journal");
    TCase *c = tcase_create("all");
    tcase_add_test(c, finds_what_was_left);
    tcase_add_test(c, truncated);
    tcase_add_test(c, flipped_bits);
    tcase_add_test(c, other_files);
    tcase_add_test(c, slots_run_out_and_come_back);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
