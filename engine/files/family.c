/* The families Lodge serves: data, and nothing that another family would have to copy. */
#include "engine/files/shape.h"

#include <stdio.h>
#include <string.h>

#define RENAMES(list) .renames = (list), .n_renames = sizeof(list) / sizeof *(list)

/* Between attention and MLP stand two norms, and "post_attention" is the first of them. */
static const struct lodge_rename sandwich[] = {
    {LODGE_PART_MLP_NORM, "model.layers.%u.pre_feedforward_layernorm"},
};
static const struct lodge_rename starcoder2[] = {
    {LODGE_PART_UP, "model.layers.%u.mlp.c_fc"},
    {LODGE_PART_DOWN, "model.layers.%u.mlp.c_proj"},
};

static const struct lodge_family families[] = {
    {
        .hf = {"LlamaForCausalLM"},
        .model_type = "llama",
        .gguf = "llama",
        .traits = LODGE_TRAIT_GGUF_PAIRS | LODGE_TRAIT_ATTENTION_BIAS | LODGE_TRAIT_MLP_BIAS,
        .windows = LODGE_WINDOW_GGUF,
    },
    {
        /* GGUF files of Mistral say llama. */
        .hf = {"MistralForCausalLM"},
        .model_type = "mistral",
        .gguf = "llama",
        .traits = LODGE_TRAIT_GGUF_PAIRS,
        .windows = LODGE_WINDOW_ALL,
    },
    {
        .hf = {"Qwen2ForCausalLM"},
        .model_type = "qwen2",
        .gguf = "qwen2",
        .traits = LODGE_TRAIT_QKV_BIAS,
        .windows = LODGE_WINDOW_SWITCHED,
        .defaults = {.window = 4096},
    },
    {
        .hf = {"Qwen3ForCausalLM"},
        .model_type = "qwen3",
        .gguf = "qwen3",
        .traits = LODGE_TRAIT_QK_NORM | LODGE_TRAIT_ATTENTION_BIAS,
        .windows = LODGE_WINDOW_SWITCHED,
        .defaults = {.window = 4096, .head_dim = 128},
    },
    {
        .hf = {"Gemma2ForCausalLM"},
        .model_type = "gemma2",
        .gguf = "gemma2",
        .traits = LODGE_TRAIT_NORM_PLUS_ONE | LODGE_TRAIT_POST_NORM | LODGE_TRAIT_SCALED_EMBEDDING |
                  LODGE_TRAIT_QUERY_SCALAR | LODGE_TRAIT_ATTN_SOFTCAP | LODGE_TRAIT_LOGIT_SOFTCAP |
                  LODGE_TRAIT_ATTENTION_BIAS,
        .windows = LODGE_WINDOW_PATTERN,
        .pattern = 2,
        .act = LODGE_ACT_GELU_TANH,
        RENAMES(sandwich),
        .wide_layers = 46,
        .defaults = {.head_dim = 256,
                     .n_context = 8192,
                     .window = 4096,
                     .query_scalar = 256,
                     .attention_softcap = 50,
                     .logit_softcap = 30,
                     .tied = true},
    },
    {
        .hf = {"Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"},
        .model_type = "gemma3_text",
        .gguf = "gemma3",
        .traits = LODGE_TRAIT_NORM_PLUS_ONE | LODGE_TRAIT_POST_NORM | LODGE_TRAIT_SCALED_EMBEDDING |
                  LODGE_TRAIT_QUERY_SCALAR | LODGE_TRAIT_LOGIT_SOFTCAP | LODGE_TRAIT_QK_NORM |
                  LODGE_TRAIT_ATTENTION_BIAS,
        .windows = LODGE_WINDOW_PATTERN,
        .pattern = 6,
        .act = LODGE_ACT_GELU_TANH,
        RENAMES(sandwich),
        .wide_layers = 62,
        .defaults = {.n_heads = 8,
                     .n_kv_heads = 4,
                     .head_dim = 256,
                     .n_vocab = 262208,
                     .n_context = 131072,
                     .window = 4096,
                     .theta = 1e6,
                     .local_theta = 1e4,
                     .query_scalar = 256,
                     .tied = true},
    },
    {
        .hf = {"Phi3ForCausalLM"},
        .model_type = "phi3",
        .gguf = "phi3",
        .traits = LODGE_TRAIT_FUSED,
        .windows = LODGE_WINDOW_ALL,
        .defaults = {.n_context = 4096, .original_context = 4096, .norm_eps = 1e-5},
    },
    {
        .hf = {"GraniteForCausalLM"},
        .model_type = "granite",
        .gguf = "granite",
        .traits = LODGE_TRAIT_GGUF_PAIRS | LODGE_TRAIT_MULTIPLIERS | LODGE_TRAIT_ATTENTION_BIAS |
                  LODGE_TRAIT_MLP_BIAS,
    },
    {
        .hf = {"Olmo2ForCausalLM"},
        .model_type = "olmo2",
        .gguf = "olmo2",
        .traits = LODGE_TRAIT_NO_PRE_NORM | LODGE_TRAIT_POST_NORM | LODGE_TRAIT_QK_NORM_ALL |
                  LODGE_TRAIT_ATTENTION_BIAS,
        .defaults = {.norm_eps = 1e-5},
    },
    {
        .hf = {"Starcoder2ForCausalLM"},
        .model_type = "starcoder2",
        .gguf = "starcoder2",
        .traits = LODGE_TRAIT_LAYER_NORM | LODGE_TRAIT_UNGATED | LODGE_TRAIT_USE_BIAS,
        .windows = LODGE_WINDOW_ALL,
        .act = LODGE_ACT_GELU_TANH,
        RENAMES(starcoder2),
        .defaults = {.n_context = 4096, .norm_eps = 1e-5, .tied = true},
    },
};

#define N_FAMILIES (sizeof families / sizeof *families)

/* ---- finding a row ---- */

static bool same(const char *name, const char *s, size_t n)
{
    return name && strlen(name) == n && memcmp(name, s, n) == 0;
}

const struct lodge_family *lodge_family_hf(const char *architecture)
{
    for (size_t i = 0; i < N_FAMILIES; i++)
        for (size_t k = 0; k < 2; k++)
            if (same(families[i].hf[k], architecture, strlen(architecture)))
                return &families[i];
    return NULL;
}

const struct lodge_family *lodge_family_text(const char *model_type)
{
    for (size_t i = 0; i < N_FAMILIES; i++)
        if (same(families[i].model_type, model_type, strlen(model_type)))
            return &families[i];
    return NULL;
}

const struct lodge_family *lodge_family_gguf(struct lodge_span a)
{
    for (size_t i = 0; i < N_FAMILIES; i++)
        if (same(families[i].gguf, a.data, a.n))
            return &families[i];
    return NULL;
}

void lodge_family_list(bool gguf, char *out, size_t n)
{
    size_t at = 0;
    out[0] = 0;
    for (size_t i = 0; i < N_FAMILIES && at < n; i++) {
        const char *name = gguf ? families[i].gguf : families[i].hf[0];
        /* Rows that share a name stand side by side. */
        if (gguf && i && strcmp(name, families[i - 1].gguf) == 0)
            continue;
        at += (size_t)snprintf(out + at, n - at, "%s%s", at ? ", " : "", name);
    }
}

/* ---- names of tensors ---- */

/* %u is the layer; ".weight" or ".bias" follows. */
static const struct {
    const char *hf, *gguf;
} names[LODGE_PART_COUNT] = {
    [LODGE_PART_EMBED] = {"model.embed_tokens", "token_embd"},
    [LODGE_PART_NORM] = {"model.norm", "output_norm"},
    [LODGE_PART_HEAD] = {"lm_head", "output"},
    [LODGE_PART_ATTN_NORM] = {"model.layers.%u.input_layernorm", "blk.%u.attn_norm"},
    [LODGE_PART_Q] = {"model.layers.%u.self_attn.q_proj", "blk.%u.attn_q"},
    [LODGE_PART_K] = {"model.layers.%u.self_attn.k_proj", "blk.%u.attn_k"},
    [LODGE_PART_V] = {"model.layers.%u.self_attn.v_proj", "blk.%u.attn_v"},
    [LODGE_PART_QKV] = {"model.layers.%u.self_attn.qkv_proj", "blk.%u.attn_qkv"},
    [LODGE_PART_Q_NORM] = {"model.layers.%u.self_attn.q_norm", "blk.%u.attn_q_norm"},
    [LODGE_PART_K_NORM] = {"model.layers.%u.self_attn.k_norm", "blk.%u.attn_k_norm"},
    [LODGE_PART_O] = {"model.layers.%u.self_attn.o_proj", "blk.%u.attn_output"},
    [LODGE_PART_ATTN_POST_NORM] = {"model.layers.%u.post_attention_layernorm",
                                   "blk.%u.post_attention_norm"},
    [LODGE_PART_MLP_NORM] = {"model.layers.%u.post_attention_layernorm", "blk.%u.ffn_norm"},
    [LODGE_PART_GATE] = {"model.layers.%u.mlp.gate_proj", "blk.%u.ffn_gate"},
    [LODGE_PART_UP] = {"model.layers.%u.mlp.up_proj", "blk.%u.ffn_up"},
    [LODGE_PART_GATE_UP] = {"model.layers.%u.mlp.gate_up_proj", "blk.%u.ffn_up"},
    [LODGE_PART_DOWN] = {"model.layers.%u.mlp.down_proj", "blk.%u.ffn_down"},
    [LODGE_PART_MLP_POST_NORM] = {"model.layers.%u.post_feedforward_layernorm",
                                  "blk.%u.post_ffw_norm"},
};

const char *lodge_family_name(const struct lodge_family *f, enum lodge_part part, bool gguf)
{
    for (uint32_t i = 0; i < f->n_renames && !gguf; i++)
        if (f->renames[i].part == part)
            return f->renames[i].hf;
    return gguf ? names[part].gguf : names[part].hf;
}

void lodge_family_tensor(const struct lodge_family *f, enum lodge_part part, bool gguf,
                         uint32_t layer, const char *suffix, char out[96])
{
    const char *pattern = lodge_family_name(f, part, gguf), *hole = strstr(pattern, "%u");
    if (hole)
        snprintf(out, 96, "%.*s%u%s%s", (int)(hole - pattern), pattern, layer, hole + 2, suffix);
    else
        snprintf(out, 96, "%s%s", pattern, suffix);
}

/* Whether `name` is the pattern with some layer's number in it. */
static bool fits(const char *pattern, const char *name, size_t n)
{
    const char *hole = strstr(pattern, "%u");
    if (!hole)
        return same(pattern, name, n);
    size_t head = (size_t)(hole - pattern), at = head;
    if (n < head || memcmp(pattern, name, head) != 0)
        return false;
    while (at < n && name[at] >= '0' && name[at] <= '9')
        at++;
    return at > head && same(hole + 2, name + at, n - at);
}

/* Checkpoints of models with other parts put their text model's tensors under longer names. */
static struct lodge_span without_prefix(struct lodge_span t)
{
    static const char *const prefixes[] = {"model.language_model.", "language_model.model.",
                                           "language_model.", "model."};
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
        size_t k = strlen(prefixes[i]);
        if (t.n > k && memcmp(t.data, prefixes[i], k) == 0)
            return (struct lodge_span){t.data + k, t.n - k};
    }
    return t;
}

static bool any_family_has(struct lodge_span t, bool gguf)
{
    for (size_t i = 0; i < N_FAMILIES; i++)
        for (int part = 0; part < LODGE_PART_COUNT; part++) {
            const char *pattern = lodge_family_name(&families[i], (enum lodge_part)part, gguf);
            if (fits(strncmp(pattern, "model.", 6) == 0 ? pattern + 6 : pattern, t.data, t.n))
                return true;
        }
    return false;
}

bool lodge_tensor_known(struct lodge_span t, bool gguf)
{
    static const char *const suffixes[] = {".weight", ".bias"};
    if (!gguf)
        t = without_prefix(t);
    for (size_t s = 0; s < 2; s++) {
        size_t k = strlen(suffixes[s]);
        if (t.n > k && memcmp(t.data + t.n - k, suffixes[s], k) == 0 &&
            any_family_has((struct lodge_span){t.data, t.n - k}, gguf))
            return true;
    }
    return false;
}
