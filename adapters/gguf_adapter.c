/* Steps 2 to 5 for GGUF adapters, as llama.cpp writes and reads them. */
#include "adapters/internal.h"
#include "base/gguf.h"

#include <string.h>

#define MAX_NAME 256

struct in {
    struct lodge_adapter_reading *r;
    const struct lodge_gguf *g;
};

static bool span_is(const struct lodge_span *s, const char *text)
{
    return s->n == strlen(text) && memcmp(s->data, text, s->n) == 0;
}

static bool ends_with(const char *s, size_t n, const char *suffix)
{
    size_t k = strlen(suffix);
    return n >= k && memcmp(s + n - k, suffix, k) == 0;
}

/* ---- metadata ---- */

static int expect_string(const struct in *in, const char *key, const char *expected,
                         const char *fix)
{
    struct lodge_span found = {"nothing", 7};
    if (lodge_gguf_get_string(in->g, key, &found, in->r->e)) {
        lodge_error_prefix(in->r->e, "%s", in->r->tensors_where);
        return LODGE_ERR_FORMAT;
    }
    if (span_is(&found, expected))
        return 0;
    return lodge_fail(in->r->e, LODGE_ERR_FORMAT, "%s: %s is '%.*s', expected '%s'; %s",
                      in->r->tensors_where, key, (int)(found.n > 100 ? 100 : found.n), found.data,
                      expected, fix);
}

static int read_metadata(const struct in *in, double *alpha)
{
    const struct lodge_adapter_base *base = in->r->base;
    if (!base->gguf_architecture)
        return lodge_fail(in->r->e, LODGE_ERR_UNSUPPORTED,
                          "%s: GGUF adapters are not read for base '%s'; give the PEFT directory",
                          in->r->tensors_where, base->name);
    int err = expect_string(in, "general.type", "adapter", "this is no adapter file");
    if (!err)
        err = expect_string(in, "general.architecture", base->gguf_architecture,
                            "the adapter was made for another kind of base");
    if (!err)
        err = expect_string(in, "adapter.type", "lora", "other kinds are not supported");
    if (err)
        return err;
    if (lodge_gguf_get_float(in->g, "adapter.lora.alpha", alpha, in->r->e)) {
        lodge_error_prefix(in->r->e, "%s", in->r->tensors_where);
        return LODGE_ERR_FORMAT;
    }
    const struct lodge_gguf_value *v = lodge_gguf_find(in->g, "adapter.alora.invocation_tokens");
    if (v && v->n)
        return lodge_fail(in->r->e, LODGE_ERR_UNSUPPORTED,
                          "%s: adapter.alora.invocation_tokens (activated LoRA) is not supported",
                          in->r->tensors_where);
    struct lodge_span made_for = {0};
    lodge_gguf_get_string(in->g, "general.base_model.0.name", &made_for, NULL);
    if (made_for.n)
        in->r->adapter->base_model =
            lodge_adapter_keep_text(in->r->adapter, made_for.data, made_for.n);
    return 0;
}

/* ---- tensors ---- */

/* What a name says: the module and which matrix of it. */
struct part {
    const char *module;
    size_t n;
    bool is_b;
};

static bool parse_name(const char *name, size_t n, struct part *out)
{
    static const char a[] = ".weight.lora_a", b[] = ".weight.lora_b";
    out->is_b = ends_with(name, n, b);
    if (!out->is_b && !ends_with(name, n, a))
        return false;
    *out = (struct part){name, n - (sizeof a - 1), out->is_b};
    return out->n > 0;
}

/* Norms that some extractors add. llama.cpp passes over them, and so their effect is lost there
 * too; whoever loads the adapter should know. */
static bool is_norm(const char *name, size_t n)
{
    return ends_with(name, n, "_norm.weight");
}

static int check_names(const struct in *in)
{
    uint32_t n_norms = 0;
    for (uint64_t i = 0; i < in->g->n_tensors; i++) {
        const struct lodge_span *name = &in->g->tensors[i].name;
        struct part p;
        if (is_norm(name->data, name->n)) {
            n_norms++;
        } else if (name->n > MAX_NAME || !parse_name(name->data, name->n, &p)) {
            return lodge_fail(in->r->e, LODGE_ERR_FORMAT,
                              "%s: tensor '%.*s' is not understood, expected names like "
                              "'blk.0.attn_q.weight.lora_a' and '.lora_b'",
                              in->r->tensors_where, (int)(name->n > 200 ? 200 : name->n),
                              name->data);
        }
    }
    if (n_norms)
        lodge_adapter_warn(in->r->adapter, "%u norm tensors are passed over, as in llama.cpp",
                           n_norms);
    return 0;
}

/* The other matrix of the same module must be there. */
static int check_pairs(const struct in *in)
{
    for (uint64_t i = 0; i < in->g->n_tensors; i++) {
        const struct lodge_span *name = &in->g->tensors[i].name;
        char other[MAX_NAME + 1];
        struct part p;
        if (!parse_name(name->data, name->n, &p))
            continue;
        memcpy(other, name->data, name->n);
        other[name->n] = 0;
        other[name->n - 1] = p.is_b ? 'a' : 'b';
        if (!lodge_gguf_tensor(in->g, other))
            return lodge_fail(in->r->e, LODGE_ERR_FORMAT,
                              "%s: tensor '%.*s' has no partner, expected '%s' beside it; the file "
                              "is incomplete",
                              in->r->tensors_where, (int)name->n, name->data, other);
    }
    return 0;
}

static int set_tensor(const struct in *in, const struct lodge_gguf_tensor *t,
                      struct lodge_adapter_tensor *out)
{
    const char *type = lodge_gguf_type_name(t->type);
    *out = (struct lodge_adapter_tensor){
        .name = lodge_arena_strndup(&in->r->scratch, t->name.data, t->name.n),
        .format = lodge_format_of_gguf(t->type),
        .type_name = type ? type : "unknown",
        .data = t->data,
        .n_dims = t->n_dims < 2 ? 2 : t->n_dims, /* some writers drop a last 1 */
        .n_rows = t->dims[1],
        .n_cols = t->dims[0],
    };
    if (out->name)
        return 0;
    return lodge_fail(in->r->e, LODGE_ERR_NOMEM, "%s: no memory", in->r->tensors_where);
}

static int refuse_module(const struct in *in, const struct lodge_span *name, const struct part *p)
{
    char tensor[MAX_NAME + 1] = "", module[MAX_NAME + 1] = "";
    memcpy(tensor, name->data, name->n);
    memcpy(module, p->module, p->n);
    return lodge_adapter_refuse_module(in->r, true, tensor, module);
}

/* Entry of the pair whose A is tensor i; GGUF swaps the roles for the table of embeddings: A is
 * stored by rows of the vocabulary. */
static int add_entry(const struct in *in, const struct lodge_gguf_tensor *a, double alpha)
{
    struct part p;
    if (!parse_name(a->name.data, a->name.n, &p) || p.is_b)
        return 0;
    const struct lodge_adapter_module *m =
        lodge_adapter_find_module(in->r->base, true, p.module, p.n);
    if (!m)
        return refuse_module(in, &a->name, &p);
    char name_b[MAX_NAME + 1];
    memcpy(name_b, a->name.data, a->name.n);
    name_b[a->name.n - 1] = 'b';
    name_b[a->name.n] = 0;
    struct lodge_adapter_entry *t = &in->r->entries[in->r->n_entries++];
    *t = (struct lodge_adapter_entry){
        .module = m,
        .a_transposed = m->site == LODGE_SITE_EMBED,
        .in_pairs = m->gguf_pairs && m->head_dim >= 2 && m->n_rows % m->head_dim == 0,
        .alpha = alpha != 0 ? alpha : 1,
        .alpha_is_scale = alpha == 0, /* llama.cpp: no alpha, no scaling */
    };
    int err = set_tensor(in, a, &t->a);
    return err ? err : set_tensor(in, lodge_gguf_tensor(in->g, name_b), &t->b);
}

static int add_entries(const struct in *in, double alpha)
{
    struct lodge_adapter_reading *r = in->r;
    r->entries = lodge_arena_array(&r->scratch, in->g->n_tensors + 1, sizeof *r->entries);
    if (!r->entries)
        return lodge_fail(r->e, LODGE_ERR_NOMEM, "%s: no memory", r->tensors_where);
    int err = 0;
    for (uint64_t i = 0; i < in->g->n_tensors && !err; i++)
        err = add_entry(in, &in->g->tensors[i], alpha);
    return err;
}

/* The container's own checks are step 3; entries point into the caller's bytes. */
int lodge_adapter_from_gguf(struct lodge_adapter_reading *r, const struct lodge_adapter_file *file)
{
    struct lodge_gguf g;
    int err =
        lodge_gguf_parse((const uint8_t *)file->bytes.data, file->bytes.n, file->where, &g, r->e);
    if (err)
        return err;
    struct in in = {r, &g};
    double alpha = 0;
    err = read_metadata(&in, &alpha);
    if (!err)
        err = check_names(&in);
    if (!err)
        err = check_pairs(&in);
    if (!err)
        err = add_entries(&in, alpha);
    lodge_gguf_close(&g);
    return err;
}
