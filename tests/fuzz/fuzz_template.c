/* A chat template from hostile bytes, rendered over fixed messages under small limits. */
#include "engine/template/template.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static const struct lodge_template_limits limits = {20000, 32, 1 << 16, 1 << 22};
    struct lodge_template *t = NULL;
    struct lodge_error e;
    if (lodge_template_parse((const char *)data, n, &t, &e))
        return 0;
    json_t *vars =
        json_pack("{s:[{s:s,s:s},{s:s,s:s}], s:b, s:s}", "messages", "role", "system", "content",
                  "be brief", "role", "user", "content", "h\xc3\xa9llo <|im_end|>",
                  "add_generation_prompt", 1, "bos_token", "<s>");
    struct lodge_rendered out;
    if (!lodge_template_render(t, vars, &limits, 0, &out, &e))
        lodge_rendered_finish(&out);
    json_decref(vars);
    lodge_template_destroy(t);
    return 0;
}
