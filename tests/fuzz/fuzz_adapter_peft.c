/* A PEFT adapter from hostile bytes: two bytes of length, adapter_config.json, then the tensors. */
#include "adapters/internal.h"
#include "base/utf8.h"
#include "tests/adapters/base_table.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static const struct base_shape shape = {8, 12, 1, 2, 1, 4, 10, false, false};
    size_t n_config = n < 2 ? 0 : (size_t)data[0] | (size_t)data[1] << 8;
    if (n < 2 || n_config > n - 2)
        return 0;
    struct lodge_adapter_file config = {{(const char *)data + 2, n_config}, "config"};
    struct lodge_adapter_file tensors = {{(const char *)data + 2 + n_config, n - 2 - n_config},
                                         "tensors"};
    struct base_table base;
    struct lodge_adapter *a = NULL;
    struct lodge_error e = {0};
    base_table_init(&base, &shape);
    int err = lodge_adapter_read_bytes(&config, &tensors, NULL, &base.base, NULL, &a, &e);
    const char *text = err ? e.text : a->warning;
    /* Texts go into replies; an adapter that was taken has something in it. */
    if (!lodge_utf8_valid((const uint8_t *)text, strlen(text)) ||
        (err ? !*text : !a->lora.n_targets))
        abort();
    lodge_adapter_destroy(a);
    base_table_finish(&base);
    return 0;
}
