/* tokenizer.json from hostile bytes, and a text through it. */
#include "base/json.h"
#include "engine/text/tokenizer.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    json_t *root = NULL;
    struct lodge_error e;
    if (lodge_json_load((const char *)data, n, &lodge_json_body_limits, "fuzz", &root, &e))
        return 0;
    struct lodge_tokenizer *t = NULL;
    if (!lodge_tokenizer_from_json(root, NULL, "fuzz", NULL, 0, &t, &e)) {
        static const char text[] = "Hello  world\n12345 <s> caf\xc3\xa9 \xff \xe6\x97\xa5";
        struct lodge_tokens ids = {0};
        lodge_tokenizer_encode(t, text, sizeof text - 1, 3, 1000, &ids, &e);
        lodge_tokens_finish(&ids);
        lodge_tokenizer_destroy(t);
    }
    json_decref(root);
    return 0;
}
