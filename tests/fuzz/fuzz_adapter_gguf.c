/* A GGUF adapter from hostile bytes. */
#include "adapters/internal.h"
#include "base/utf8.h"
#include "tests/adapters/base_table.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static const struct base_shape shape = {32, 32, 1, 2, 1, 16, 10, false, false};
    struct lodge_adapter_file file = {{(const char *)data, n}, "file"};
    struct base_table base;
    struct lodge_adapter *a = NULL;
    struct lodge_error e = {0};
    base_table_init(&base, &shape);
    int err = lodge_adapter_read_bytes(NULL, &file, NULL, &base.base, NULL, &a, &e);
    const char *text = err ? e.text : a->warning;
    /* Texts go into replies; an adapter that was taken has something in it. */
    if (!lodge_utf8_valid((const uint8_t *)text, strlen(text)) ||
        (err ? !*text : !a->lora.n_targets))
        abort();
    lodge_adapter_destroy(a);
    base_table_finish(&base);
    return 0;
}
