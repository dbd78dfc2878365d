/* A safetensors file from hostile bytes. */
#include "base/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct lodge_safetensors s;
    struct lodge_error e;
    if (!lodge_safetensors_parse(data, n, "fuzz", &s, &e))
        lodge_safetensors_close(&s);
    return 0;
}
