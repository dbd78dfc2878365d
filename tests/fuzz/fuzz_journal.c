/* The journal of live requests as a damaged disk may hand it back. Whatever is found must be fit to
 * be put in the ledger. */
#include "server/journal.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static int check(void *cookie, struct ledger_row *r)
{
    uint32_t *count = cookie;
    ++*count;
    if (!memchr(r->request_id, 0, sizeof r->request_id) || !*r->request_id ||
        !memchr(r->key_id, 0, sizeof r->key_id) || !memchr(r->model, 0, sizeof r->model) ||
        r->finish >= N_LEDGER_FINISH || !r->project || !(r->page_seconds >= 0))
        abort();
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    uint32_t damaged = 0, found = 0;
    struct lodge_error e = {0};
    int err = journal_recover(data, n, check, &found, &damaged, &e);
    if (err ? !*e.text : found + damaged > n / JOURNAL_SLOT_BYTES)
        abort();
    return 0;
}
