#include "engine/adapter_base.h"

#include <stdio.h>
#include <string.h>

/* %u is the layer. Families whose files name or fuse modules otherwise get rows of their own here.
 */
static const struct {
    const char *hf, *gguf;
} names[LODGE_SITE_COUNT] = {
    [LODGE_SITE_Q] = {"model.layers.%u.self_attn.q_proj", "blk.%u.attn_q"},
    [LODGE_SITE_K] = {"model.layers.%u.self_attn.k_proj", "blk.%u.attn_k"},
    [LODGE_SITE_V] = {"model.layers.%u.self_attn.v_proj", "blk.%u.attn_v"},
    [LODGE_SITE_O] = {"model.layers.%u.self_attn.o_proj", "blk.%u.attn_output"},
    [LODGE_SITE_GATE] = {"model.layers.%u.mlp.gate_proj", "blk.%u.ffn_gate"},
    [LODGE_SITE_UP] = {"model.layers.%u.mlp.up_proj", "blk.%u.ffn_up"},
    [LODGE_SITE_DOWN] = {"model.layers.%u.mlp.down_proj", "blk.%u.ffn_down"},
    [LODGE_SITE_EMBED] = {"model.embed_tokens", "token_embd"},
    [LODGE_SITE_HEAD] = {"lm_head", "output"},
};

static const char *name_of(struct lodge_arena *arena, const char *pattern, int32_t layer)
{
    const char *hole = strstr(pattern, "%u");
    if (!hole)
        return pattern;
    size_t room = strlen(pattern) + 12;
    char *out = lodge_arena_alloc(arena, room);
    if (out)
        snprintf(out, room, "%.*s%d%s", (int)(hole - pattern), pattern, layer, hole + 2);
    return out;
}

int lodge_adapter_base_build(const struct lodge_plan *p, const char *model_name,
                             const char *gguf_architecture, bool gguf_pairs,
                             struct lodge_arena *arena, struct lodge_adapter_base *out,
                             struct lodge_error *e)
{
    struct lodge_adapter_module *m = lodge_arena_array(arena, p->n_linears, sizeof *m);
    bool ok = m != NULL;
    for (uint32_t i = 0; i < p->n_linears && ok; i++) {
        const struct lodge_linear *l = &p->linears[i];
        bool rotates = l->site == LODGE_SITE_Q || l->site == LODGE_SITE_K;
        m[i] = (struct lodge_adapter_module){
            .hf = name_of(arena, names[l->site].hf, l->layer),
            .gguf = name_of(arena, names[l->site].gguf, l->layer),
            .site = l->site,
            .layer = l->layer,
            .n_rows = l->n_rows,
            .n_cols = l->n_cols,
            .parts = {{.linear = i, .first_row = 0, .n_rows = l->n_rows}},
            .n_parts = 1,
            .gguf_pairs = gguf_pairs && rotates,
            .head_dim = l->head_dim,
        };
        ok = m[i].hf && m[i].gguf;
    }
    *out = (struct lodge_adapter_base){.name = model_name,
                                       .gguf_architecture = gguf_architecture,
                                       .modules = m,
                                       .n_modules = p->n_linears,
                                       .n_layers = p->n_layers};
    return ok ? 0 : lodge_fail(e, LODGE_ERR_NOMEM, "no memory for the table of modules");
}
