/* Steps 3 to 5 for PEFT directories: tensor names, pairs, modules, and the configuration as a
 * cross-check. Tensors decide which modules an adapter has. */
#include "adapters/peft.h"
#include "base/safetensors.h"

#include <stdlib.h>
#include <string.h>

enum kind { A, B, EMBED_A, EMBED_B, MAGNITUDE, OFFSET, BASE_COPY, N_KINDS };

static const struct {
    const char *suffix;
    enum kind kind;
} suffixes[] = {
    {".lora_A.weight", A},
    {".lora_B.weight", B},
    {".lora_B.bias", OFFSET},
    {".lora_embedding_A", EMBED_A},
    {".lora_embedding_B", EMBED_B},
    {".lora_magnitude_vector", MAGNITUDE},
    {".lora_magnitude_vector.weight", MAGNITUDE},
    {".base_layer.weight", BASE_COPY},
    {".base_layer.bias", BASE_COPY},
};

static const char prefix[] = "base_model.model.";
static const char wrapper[] = "language_model.";

/* One tensor: whose, and what of it. */
struct key {
    const char *module; /* as the file says it, without the prefix; not zero-terminated */
    size_t n;
    enum kind kind;
    const struct lodge_st_tensor *tensor;
};

/* The tensors of one module. */
struct group {
    const char *name; /* zero-terminated */
    const struct lodge_st_tensor *t[N_KINDS];
    const struct lodge_adapter_module *module;
};

struct in {
    struct lodge_adapter_reading *r;
    const struct lodge_peft_config *c;
    struct lodge_safetensors st;
    struct lodge_peft_matcher *matcher;
    struct group *groups; /* by name */
    size_t n_groups;
};

/* ---- step 4: names and pairs ---- */

static bool ends_with(const char *s, size_t n, const char *suffix)
{
    size_t k = strlen(suffix);
    return n > k && memcmp(s + n - k, suffix, k) == 0;
}

static int refuse_name(const struct in *in, const char *name)
{
    size_t n = strlen(name);
    /* Weights of the base itself: what modules_to_save and saved embeddings leave in a file. */
    if (strstr(name, "modules_to_save.") || strstr(name, "trainable_tokens_") ||
        (!strstr(name, ".lora_") && (ends_with(name, n, ".weight") || ends_with(name, n, ".bias"))))
        return lodge_fail(in->r->e, LODGE_ERR_UNSUPPORTED,
                          "%s: tensor '%.200s' is a whole trained weight (modules_to_save, trained "
                          "biases or a resized embedding), which is not supported; expected LoRA "
                          "tensors alone",
                          in->r->tensors_where, name);
    return lodge_fail(in->r->e, LODGE_ERR_FORMAT,
                      "%s: tensor '%.200s' is not understood, expected names like "
                      "'base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight'",
                      in->r->tensors_where, name);
}

static int parse_key(const struct in *in, const struct lodge_st_tensor *t, struct key *out)
{
    size_t n = strlen(t->name), head = sizeof prefix - 1;
    if (n <= head || memcmp(t->name, prefix, head) != 0)
        return refuse_name(in, t->name);
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++)
        if (ends_with(t->name + head, n - head, suffixes[i].suffix)) {
            *out = (struct key){.module = t->name + head,
                                .n = n - head - strlen(suffixes[i].suffix),
                                .kind = suffixes[i].kind,
                                .tensor = t};
            return 0;
        }
    return refuse_name(in, t->name);
}

static int by_module(const void *a, const void *b)
{
    const struct key *x = a, *y = b;
    int c = memcmp(x->module, y->module, x->n < y->n ? x->n : y->n);
    return c ? c : (x->n > y->n) - (x->n < y->n);
}

static int no_memory(const struct in *in)
{
    return lodge_fail(in->r->e, LODGE_ERR_NOMEM, "%s: no memory", in->r->tensors_where);
}

static int add_to_group(const struct in *in, const struct key *k, struct group *g)
{
    if (!g->name)
        g->name = lodge_arena_strndup(&in->r->scratch, k->module, k->n);
    if (!g->name)
        return no_memory(in);
    /* Of the base only the weight is compared. */
    if (k->kind == BASE_COPY && ends_with(k->tensor->name, strlen(k->tensor->name), ".bias"))
        return 0;
    if (g->t[k->kind])
        return lodge_fail(in->r->e, LODGE_ERR_FORMAT,
                          "%s: tensors '%.200s' and '%.200s' are the same", in->r->tensors_where,
                          g->t[k->kind]->name, k->tensor->name);
    g->t[k->kind] = k->tensor;
    return 0;
}

static int make_groups(struct in *in)
{
    size_t n = in->st.n_tensors;
    struct key *keys = lodge_arena_array(&in->r->scratch, n + 1, sizeof *keys);
    in->groups = lodge_arena_array(&in->r->scratch, n + 1, sizeof *in->groups);
    if (!keys || !in->groups)
        return no_memory(in);
    int err = 0;
    for (size_t i = 0; i < n && !err; i++)
        err = parse_key(in, &in->st.tensors[i], &keys[i]);
    if (err)
        return err;
    qsort(keys, n, sizeof *keys, by_module);
    for (size_t i = 0; i < n && !err; i++) {
        if (i == 0 || by_module(&keys[i - 1], &keys[i]) != 0)
            in->n_groups++;
        err = add_to_group(in, &keys[i], &in->groups[in->n_groups - 1]);
    }
    return err;
}

static const struct lodge_st_tensor *first_of(const struct group *g)
{
    for (int k = 0; k < N_KINDS; k++)
        if (g->t[k])
            return g->t[k];
    return NULL;
}

static int refuse_partner(const struct in *in, const struct lodge_st_tensor *t,
                          const char *expected)
{
    return lodge_fail(in->r->e, LODGE_ERR_FORMAT,
                      "%s: tensor '%.200s' has no partner, expected %s beside it; the file is "
                      "incomplete",
                      in->r->tensors_where, t ? t->name : "", expected);
}

static int check_pair(const struct in *in, const struct group *g)
{
    if (g->t[A] && g->t[EMBED_A])
        return lodge_fail(in->r->e, LODGE_ERR_FORMAT,
                          "%s: tensors '%.200s' and '%.200s' are for one module, expected one of "
                          "them",
                          in->r->tensors_where, g->t[A]->name, g->t[EMBED_A]->name);
    if (!g->t[A] != !g->t[B])
        return g->t[A] ? refuse_partner(in, g->t[A], "lora_B.weight")
                       : refuse_partner(in, g->t[B], "lora_A.weight");
    if (!g->t[EMBED_A] != !g->t[EMBED_B])
        return g->t[EMBED_A] ? refuse_partner(in, g->t[EMBED_A], "lora_embedding_B")
                             : refuse_partner(in, g->t[EMBED_B], "lora_embedding_A");
    if (!g->t[A] && !g->t[EMBED_A])
        return refuse_partner(in, first_of(g), "lora_A.weight and lora_B.weight");
    return 0;
}

/* What the configuration says every module has. */
static int check_extras(const struct in *in, const struct group *g)
{
    const struct lodge_st_tensor *m = g->t[MAGNITUDE], *o = g->t[OFFSET];
    const char *found = NULL, *key = NULL;
    if (!m != !in->c->dora) {
        key = "use_dora";
        found = m ? "has a lora_magnitude_vector" : "has no lora_magnitude_vector";
    } else if (g->t[A] && !o != !in->c->lora_bias) {
        key = "lora_bias";
        found = o ? "has a lora_B.bias" : "has no lora_B.bias";
    } else if (g->t[EMBED_A] && o) {
        return lodge_fail(in->r->e, LODGE_ERR_FORMAT,
                          "%s: tensor '%.200s' is a bias of an embedding, expected none",
                          in->r->tensors_where, o->name);
    } else {
        return 0;
    }
    bool on = strcmp(key, "use_dora") == 0 ? in->c->dora : in->c->lora_bias;
    return lodge_fail(in->r->e, LODGE_ERR_FORMAT,
                      "%s: module '%.200s' %s, but adapter_config.json says %s: %s; the two files "
                      "are not of one adapter",
                      in->r->tensors_where, g->name, found, key, on ? "true" : "false");
}

static int check_names(struct in *in)
{
    int err = make_groups(in);
    for (size_t i = 0; i < in->n_groups && !err; i++)
        err = check_pair(in, &in->groups[i]);
    for (size_t i = 0; i < in->n_groups && !err; i++)
        err = check_extras(in, &in->groups[i]);
    return err;
}

/* ---- step 5: modules ---- */

/* Models with other parts (vision) hold the text model as language_model: its name is the base's
 * with that component in it. */
static const struct lodge_adapter_module *find(const struct in *in, const char *name)
{
    const struct lodge_adapter_base *base = in->r->base;
    const struct lodge_adapter_module *m =
        lodge_adapter_find_module(base, false, name, strlen(name));
    const char *at = strstr(name, wrapper);
    if (m || !at || (at != name && at[-1] != '.'))
        return m;
    char *without = lodge_arena_strndup(&in->r->scratch, name, strlen(name));
    if (!without)
        return NULL;
    char *to = without + (at - name);
    memmove(to, at + sizeof wrapper - 1, strlen(at + sizeof wrapper - 1) + 1);
    return lodge_adapter_find_module(base, false, without, strlen(without));
}

/* The name that the configuration of this adapter would know a module by, given one that it has. */
static const char *name_like(const struct in *in, const struct group *known, const char *hf)
{
    const char *at = strstr(known->name, wrapper);
    size_t head =
        at && strcmp(known->name, known->module->hf) != 0 ? (size_t)(at - known->name) : SIZE_MAX;
    if (head == SIZE_MAX || strlen(hf) < head || memcmp(hf, known->name, head) != 0)
        return hf;
    size_t n = strlen(hf) + sizeof wrapper;
    char *out = lodge_arena_alloc(&in->r->scratch, n);
    if (!out)
        return NULL;
    memcpy(out, hf, head);
    memcpy(out + head, wrapper, sizeof wrapper - 1);
    memcpy(out + head + sizeof wrapper - 1, hf + head, strlen(hf) - head + 1);
    return out;
}

static int check_site(const struct in *in, const struct group *g)
{
    bool table = g->module->site == LODGE_SITE_EMBED;
    if (table != (g->t[EMBED_A] != NULL))
        return lodge_fail(in->r->e, LODGE_ERR_FORMAT,
                          "%s: tensor '%.200s' is found for '%.150s', expected %s there",
                          in->r->tensors_where, g->t[table ? A : EMBED_A]->name, g->module->hf,
                          table ? "lora_embedding_A" : "lora_A.weight");
    if (table && g->t[MAGNITUDE])
        return lodge_fail(in->r->e, LODGE_ERR_UNSUPPORTED,
                          "%s: tensor '%.200s': DoRA on the embedding is not supported",
                          in->r->tensors_where, g->t[MAGNITUDE]->name);
    if (in->c->tied && (table || g->module->site == LODGE_SITE_HEAD))
        return lodge_fail(in->r->e, LODGE_ERR_UNSUPPORTED,
                          "%s: 'ensure_weight_tying' with LoRA on '%.150s' is not supported",
                          in->c->where, g->module->hf);
    return 0;
}

static bool is_linear(const struct lodge_adapter_module *m)
{
    return m->site != LODGE_SITE_EMBED && m->site != LODGE_SITE_HEAD;
}

static int check_targeted(const struct in *in, const struct group *g)
{
    bool wanted;
    int err =
        lodge_peft_matcher_targets(in->matcher, g->name, is_linear(g->module), &wanted, in->r->e);
    if (err || wanted)
        return err;
    return lodge_fail(
        in->r->e, LODGE_ERR_FORMAT,
        "%s: tensor '%.200s' is found, but target_modules of adapter_config.json (or "
        "its exclude_modules, layers_to_transform) does not name module '%.150s'; the "
        "two files are not of one adapter",
        in->r->tensors_where, first_of(g)->name, g->name);
}

/* A module whose name shows what wrapper the adapter was made in, if any does. */
static const struct group *wrapped_group(const struct in *in)
{
    for (size_t i = 0; i < in->n_groups; i++)
        if (strcmp(in->groups[i].name, in->groups[i].module->hf) != 0)
            return &in->groups[i];
    return &in->groups[0];
}

/* Modules that the configuration names and the file does not have. */
static int check_missing(const struct in *in, const bool *has)
{
    const struct lodge_adapter_base *base = in->r->base;
    const struct group *like = wrapped_group(in);
    for (uint32_t i = 0; i < base->n_modules; i++) {
        const struct lodge_adapter_module *m = &base->modules[i];
        bool wanted;
        if (has[i])
            continue;
        const char *name = name_like(in, like, m->hf);
        if (!name)
            return no_memory(in);
        int err = lodge_peft_matcher_targets(in->matcher, name, is_linear(m), &wanted, in->r->e);
        if (err)
            return err;
        if (wanted)
            return lodge_fail(
                in->r->e, LODGE_ERR_FORMAT,
                "%s: lora_A.weight and lora_B.weight of '%s%.150s' are missing, "
                "expected because of target_modules in adapter_config.json; found are "
                "%zu modules, such as '%.150s'",
                in->r->tensors_where, prefix, name, in->n_groups, in->groups[0].name);
    }
    return 0;
}

static int check_modules(struct in *in)
{
    const struct lodge_adapter_base *base = in->r->base;
    bool *has = lodge_arena_array(&in->r->scratch, base->n_modules + 1, sizeof *has);
    if (!has)
        return no_memory(in);
    for (size_t i = 0; i < in->n_groups; i++) {
        struct group *g = &in->groups[i];
        g->module = find(in, g->name);
        if (!g->module)
            return lodge_adapter_refuse_module(in->r, false, first_of(g)->name, g->name);
        size_t index = (size_t)(g->module - base->modules);
        if (has[index])
            return lodge_fail(in->r->e, LODGE_ERR_FORMAT,
                              "%s: tensor '%.200s' is a second one for module '%s'",
                              in->r->tensors_where, first_of(g)->name, g->module->hf);
        has[index] = true;
    }
    int err = 0;
    for (size_t i = 0; i < in->n_groups && !err; i++)
        err = check_site(in, &in->groups[i]);
    if (err || (!in->c->targets && !in->c->all_linear))
        return err;
    for (size_t i = 0; i < in->n_groups && !err; i++)
        err = check_targeted(in, &in->groups[i]);
    return err || !in->n_groups ? err : check_missing(in, has);
}

/* ---- entries ---- */

static void set_tensor(const struct lodge_st_tensor *t, struct lodge_adapter_tensor *out)
{
    if (!t)
        return;
    *out = (struct lodge_adapter_tensor){.name = t->name,
                                         .format = -1,
                                         .type_name = t->dtype,
                                         .data = t->data,
                                         .n_dims = t->n_dims,
                                         .n_rows = t->n_dims >= 2 ? t->dims[0] : 1,
                                         .n_cols = t->n_dims >= 2 ? t->dims[1] : t->dims[0]};
    static const enum lodge_format formats[] = {LODGE_FMT_F32, LODGE_FMT_F16, LODGE_FMT_BF16};
    for (size_t i = 0; i < 3; i++)
        if (strcmp(t->dtype, lodge_format_info(formats[i])->name) == 0)
            out->format = (int)formats[i];
}

static int add_entry(struct in *in, const struct group *g)
{
    struct lodge_adapter_entry *t = &in->r->entries[in->r->n_entries++];
    *t = (struct lodge_adapter_entry){.module = g->module, .root_of_rank = in->c->root_of_rank};
    set_tensor(g->t[A] ? g->t[A] : g->t[EMBED_A], &t->a);
    set_tensor(g->t[B] ? g->t[B] : g->t[EMBED_B], &t->b);
    set_tensor(g->t[MAGNITUDE], &t->magnitude);
    set_tensor(g->t[OFFSET], &t->offset);
    set_tensor(g->t[BASE_COPY], &t->base_copy);
    return lodge_peft_matcher_rank(in->matcher, g->name, &t->rank, &t->alpha, in->r->e);
}

/* Entries outlive the container: names move to the scratch arena, data stays the caller's. */
static int keep_names(struct in *in)
{
    for (uint32_t i = 0; i < in->r->n_entries; i++) {
        struct lodge_adapter_entry *t = &in->r->entries[i];
        struct lodge_adapter_tensor *all[] = {&t->a, &t->b, &t->magnitude, &t->offset,
                                              &t->base_copy};
        for (size_t k = 0; k < sizeof all / sizeof *all; k++) {
            if (!all[k]->name)
                continue;
            all[k]->name = lodge_arena_strndup(&in->r->scratch, all[k]->name, strlen(all[k]->name));
            if (!all[k]->name)
                return no_memory(in);
        }
    }
    return 0;
}

static int add_entries(struct in *in)
{
    in->r->entries = lodge_arena_array(&in->r->scratch, in->n_groups + 1, sizeof *in->r->entries);
    if (!in->r->entries)
        return no_memory(in);
    int err = 0;
    for (size_t i = 0; i < in->n_groups && !err; i++)
        err = add_entry(in, &in->groups[i]);
    return err ? err : keep_names(in);
}

int lodge_adapter_from_peft(struct lodge_adapter_reading *r,
                            const struct lodge_adapter_file *config,
                            const struct lodge_adapter_file *tensors)
{
    struct lodge_peft_config c;
    int err = lodge_peft_config_load(config, r->adapter, &c, r->e);
    if (err)
        return err;
    struct in in = {.r = r, .c = &c};
    err = lodge_peft_matcher_create(&c, &in.matcher, r->e);
    if (!err)
        err = lodge_safetensors_parse((const uint8_t *)tensors->bytes.data, tensors->bytes.n,
                                      tensors->where, &in.st, r->e);
    if (!err)
        err = check_names(&in);
    if (!err)
        err = check_modules(&in);
    if (!err)
        err = add_entries(&in);
    lodge_safetensors_close(&in.st);
    lodge_peft_matcher_destroy(in.matcher);
    lodge_peft_config_finish(&c);
    return err;
}
