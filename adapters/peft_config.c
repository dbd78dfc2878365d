#include "adapters/peft.h"

#include "base/json.h"

#include <string.h>
#include <strings.h>

static const struct lodge_json_limits limits = {
    .max_bytes = (size_t)4 << 20, .max_depth = 16, .max_values = (size_t)1 << 17};

/* ---- what is refused, and what is known ---- */

/* Members that mean something Lodge does not compute, unless they are null, false or empty. */
static const struct {
    const char *key, *why;
} refused[] = {
    {"modules_to_save", "whole trained modules; train those modules with LoRA instead"},
    {"layer_replication", "it changes the layers of the base"},
    {"trainable_token_indices", "trained rows of the embedding"},
    {"alora_invocation_tokens", "activated LoRA"},
    {"target_parameters", "LoRA on bare parameters of expert layers"},
    {"megatron_config", "Megatron layers"},
    {"use_qalora", "QALoRA pools the inputs"},
    {"use_bdlora", "block-diagonal LoRA"},
    {"arrow_config", "Arrow routes between adapters"},
    {"kasa_config", "KaSA changed the base weights"},
    {"monteclora_config", "MonteCLoRA samples its weights"},
};

/* Members that change nothing about the result, or are read elsewhere. */
static const char *const known[] = {
    "alpha_pattern",
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "fan_in_fan_out",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "loftq_config",
    "layers_to_transform",
    "lora_alpha",
    "lora_bias",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "rank_pattern",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
    "use_dora",
    "use_rslora",
    "velora_config",
};

/* Initialisations that leave the base as it was. The others (pissa, olora, corda, lora_ga, loftq)
 * moved a part of the base into the adapter; saved deltas are wrong on the plain base. */
static const char *const harmless_inits[] = {"gaussian", "eva", "orthogonal", "mica"};

static bool in_list(const char *const *list, size_t n, const char *s)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(list[i], s) == 0)
            return true;
    return false;
}

static bool says_nothing(const json_t *v)
{
    return !v || json_is_null(v) || json_is_false(v) ||
           (json_is_array(v) && json_array_size(v) == 0) ||
           (json_is_object(v) && json_object_size(v) == 0) ||
           (json_is_string(v) && !*json_string_value(v));
}

static int refuse_features(const struct lodge_peft_config *c, struct lodge_error *e)
{
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        if (!says_nothing(json_object_get(c->root, refused[i].key)))
            return lodge_fail(e, LODGE_ERR_UNSUPPORTED,
                              "%s: '%s' is set (%s), which is not supported", c->where,
                              refused[i].key, refused[i].why);
    const json_t *init = json_object_get(c->root, "init_lora_weights");
    const char *name = json_string_value(init);
    if (name && !in_list(harmless_inits, sizeof harmless_inits / sizeof *harmless_inits, name))
        return lodge_fail(
            e, LODGE_ERR_UNSUPPORTED,
            "%s: init_lora_weights is '%.60s', which changed the base weights, so the "
            "saved tensors are wrong on the plain base; convert them with "
            "save_pretrained(path_initial_model_for_weight_conversion=...)",
            c->where, name);
    const char *bias = "none";
    if (lodge_json_get_string(c->root, "bias", &bias, e))
        return LODGE_ERR_FORMAT;
    if (strcmp(bias, "none") != 0)
        return lodge_fail(
            e, LODGE_ERR_UNSUPPORTED,
            "%s: bias is '%.60s', expected 'none': trained biases of the base are not "
            "supported",
            c->where, bias);
    return 0;
}

static void warn_unknown(const struct lodge_peft_config *c, struct lodge_adapter *a)
{
    const char *key;
    json_t *v;
    json_object_foreach(c->root, key, v)
    {
        bool is_known = in_list(known, sizeof known / sizeof *known, key);
        for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
            is_known |= strcmp(refused[i].key, key) == 0;
        if (!is_known && !says_nothing(v))
            lodge_adapter_warn(a, "adapter_config.json: '%.60s' is not known and ignored", key);
    }
}

/* ---- members ---- */

static int wrong_type(const struct lodge_peft_config *c, const char *key, const char *expected,
                      struct lodge_error *e)
{
    return lodge_fail(e, LODGE_ERR_FORMAT, "%s: '%s' must be %s", c->where, key, expected);
}

static bool is_list_of(const json_t *v, bool (*test)(const json_t *))
{
    if (!json_is_array(v))
        return false;
    for (size_t i = 0; i < json_array_size(v); i++)
        if (!test(json_array_get(v, i)))
            return false;
    return true;
}

static bool is_text(const json_t *v)
{
    return json_is_string(v) && *json_string_value(v);
}

static bool is_layer(const json_t *v)
{
    return json_is_integer(v);
}

/* A string, or a list of strings; anything that says nothing is NULL. */
static int get_names(const struct lodge_peft_config *c, const char *key, const json_t **out,
                     struct lodge_error *e)
{
    const json_t *v = json_object_get(c->root, key);
    if (says_nothing(v))
        return 0;
    if (!is_text(v) && !is_list_of(v, is_text))
        return wrong_type(c, key, "a name or a list of names", e);
    *out = v;
    return 0;
}

static int get_pattern(const struct lodge_peft_config *c, const char *key, const json_t **out,
                       struct lodge_error *e)
{
    const json_t *v = json_object_get(c->root, key);
    if (says_nothing(v))
        return 0;
    const char *module;
    json_t *number;
    bool ok = json_is_object(v);
    json_object_foreach((json_t *)(uintptr_t)v, module, number) ok &= json_is_number(number);
    if (!ok)
        return wrong_type(c, key, "an object of numbers", e);
    *out = v;
    return 0;
}

static int get_targets(struct lodge_peft_config *c, struct lodge_error *e)
{
    const json_t *v = json_object_get(c->root, "target_modules");
    if (json_is_array(v) && json_array_size(v) == 0)
        return lodge_fail(e, LODGE_ERR_FORMAT, "%s: 'target_modules' is an empty list", c->where);
    int err = get_names(c, "target_modules", &c->targets, e);
    const char *text = json_string_value(c->targets);
    if (!err && text && strcasecmp(text, "all-linear") == 0) {
        c->all_linear = true;
        c->targets = NULL;
    }
    return err;
}

static int get_layers(struct lodge_peft_config *c, struct lodge_error *e)
{
    const json_t *v = json_object_get(c->root, "layers_to_transform");
    if (says_nothing(v))
        return 0;
    if (!is_layer(v) && !is_list_of(v, is_layer))
        return wrong_type(c, "layers_to_transform", "a number or a list of numbers", e);
    if (!json_is_array(c->targets))
        return lodge_fail(e, LODGE_ERR_FORMAT,
                          "%s: 'layers_to_transform' needs a list in 'target_modules'", c->where);
    c->layers = v;
    return get_names(c, "layers_pattern", &c->layers_pattern, e);
}

static int get_numbers(struct lodge_peft_config *c, struct lodge_error *e)
{
    int64_t rank = 8;
    c->alpha = 8;
    int err = lodge_json_get_int(c->root, "r", 1, INT32_MAX, &rank, e);
    if (!err)
        err = lodge_json_get_double(c->root, "lora_alpha", -1e300, 1e300, &c->alpha, e);
    if (!err)
        err = lodge_json_get_bool(c->root, "use_rslora", &c->root_of_rank, e);
    if (!err)
        err = lodge_json_get_bool(c->root, "use_dora", &c->dora, e);
    if (!err)
        err = lodge_json_get_bool(c->root, "lora_bias", &c->lora_bias, e);
    if (!err)
        err = lodge_json_get_bool(c->root, "ensure_weight_tying", &c->tied, e);
    if (!err)
        err = lodge_json_get_string(c->root, "base_model_name_or_path", &c->base_model, e);
    if (err) {
        lodge_error_prefix(e, "%s", c->where);
        return LODGE_ERR_FORMAT;
    }
    c->rank = (uint32_t)rank;
    if (c->dora && c->lora_bias)
        return lodge_fail(e, LODGE_ERR_UNSUPPORTED,
                          "%s: 'use_dora' and 'lora_bias' together are not supported (nor by PEFT)",
                          c->where);
    return 0;
}

static int check_kind(const struct lodge_peft_config *c, struct lodge_error *e)
{
    if (!json_is_object(c->root))
        return lodge_fail(e, LODGE_ERR_FORMAT, "%s: expected a JSON object", c->where);
    const char *kind = json_string_value(json_object_get(c->root, "peft_type"));
    if (!kind)
        return lodge_fail(
            e, LODGE_ERR_FORMAT,
            "%s: no 'peft_type', expected \"LORA\"; is it adapter_config.json of PEFT?", c->where);
    if (strcmp(kind, "LORA") != 0)
        return lodge_fail(e, LODGE_ERR_UNSUPPORTED, "%s: peft_type is '%.60s', supported is 'LORA'",
                          c->where, kind);
    return 0;
}

static int load(struct lodge_peft_config *c, struct lodge_adapter *a, struct lodge_error *e)
{
    int err = check_kind(c, e);
    if (!err)
        err = refuse_features(c, e);
    if (!err)
        err = get_numbers(c, e);
    if (!err)
        err = get_targets(c, e);
    if (!err)
        err = get_names(c, "exclude_modules", &c->excludes, e);
    if (!err)
        err = get_layers(c, e);
    if (!err)
        err = get_pattern(c, "rank_pattern", &c->rank_pattern, e);
    if (!err)
        err = get_pattern(c, "alpha_pattern", &c->alpha_pattern, e);
    if (err)
        return err;
    warn_unknown(c, a);
    if (!c->targets && !c->all_linear)
        lodge_adapter_warn(a,
                           "adapter_config.json names no target_modules to compare tensors with");
    if (c->base_model)
        a->base_model = lodge_adapter_keep_text(a, c->base_model, strlen(c->base_model));
    return 0;
}

int lodge_peft_config_load(const struct lodge_adapter_file *file, struct lodge_adapter *a,
                           struct lodge_peft_config *out, struct lodge_error *e)
{
    *out = (struct lodge_peft_config){.where = file->where};
    int err = lodge_json_load(file->bytes.data, file->bytes.n, &limits, file->where, &out->root, e);
    if (!err)
        err = load(out, a, e);
    if (err)
        lodge_peft_config_finish(out);
    return err;
}

void lodge_peft_config_finish(struct lodge_peft_config *c)
{
    json_decref(c->root);
    *c = (struct lodge_peft_config){0};
}
