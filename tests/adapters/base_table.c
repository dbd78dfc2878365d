#include "tests/adapters/base_table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct making {
    struct base_table *t;
    const struct base_shape *s;
    struct lodge_adapter_module *modules;
};

static const char *text(struct making *m, const char *pattern, uint32_t layer)
{
    char out[96];
    const char *hole = strstr(pattern, "%u");
    if (hole)
        snprintf(out, sizeof out, "%.*s%u%s", (int)(hole - pattern), pattern, layer, hole + 2);
    else
        snprintf(out, sizeof out, "%s", pattern);
    return lodge_arena_strndup(&m->t->arena, out, strlen(out));
}

static struct lodge_adapter_module *add(struct making *m, const char *hf, const char *gguf,
                                        enum lodge_site site, int32_t layer, uint32_t n_rows,
                                        uint32_t n_cols, uint32_t linear)
{
    struct lodge_adapter_module *out = &m->modules[m->t->base.n_modules++];
    *out = (struct lodge_adapter_module){
        .hf = text(m, hf, (uint32_t)layer),
        .gguf = text(m, gguf, (uint32_t)layer),
        .site = site,
        .layer = layer,
        .n_rows = n_rows,
        .n_cols = n_cols,
        .parts = {{linear, 0, n_rows}},
        .n_parts = 1,
        .gguf_pairs = site == LODGE_SITE_Q || site == LODGE_SITE_K,
        .head_dim = m->s->head_dim,
    };
    return out;
}

/* Turns the last part into two: n rows of it are the next linear. */
static void cut(struct lodge_adapter_module *m, uint32_t n)
{
    struct lodge_adapter_part *last = &m->parts[m->n_parts - 1];
    last->n_rows -= n;
    m->parts[m->n_parts++] =
        (struct lodge_adapter_part){last->linear + 1, last->first_row + last->n_rows, n};
}

static void add_layer(struct making *m, uint32_t layer)
{
    const struct base_shape *s = m->s;
    uint32_t q = s->n_heads * s->head_dim, kv = s->n_kv_heads * s->head_dim, at = 1 + 7 * layer;
    int32_t l = (int32_t)layer;
    if (s->fused) {
        struct lodge_adapter_module *qkv =
            add(m, "model.layers.%u.self_attn.qkv_proj", "blk.%u.attn_qkv", LODGE_SITE_Q, l,
                q + 2 * kv, s->d_model, at);
        qkv->gguf_pairs = false;
        cut(qkv, 2 * kv);
        cut(qkv, kv);
        cut(add(m, "model.layers.%u.mlp.gate_up_proj", "blk.%u.ffn_up", LODGE_SITE_GATE, l,
                2 * s->d_ff, s->d_model, at + 4),
            s->d_ff);
    } else {
        add(m, "model.layers.%u.self_attn.q_proj", "blk.%u.attn_q", LODGE_SITE_Q, l, q, s->d_model,
            at);
        add(m, "model.layers.%u.self_attn.k_proj", "blk.%u.attn_k", LODGE_SITE_K, l, kv, s->d_model,
            at + 1);
        add(m, "model.layers.%u.self_attn.v_proj", "blk.%u.attn_v", LODGE_SITE_V, l, kv, s->d_model,
            at + 2);
        add(m, "model.layers.%u.mlp.gate_proj", "blk.%u.ffn_gate", LODGE_SITE_GATE, l, s->d_ff,
            s->d_model, at + 4);
        add(m, "model.layers.%u.mlp.up_proj", "blk.%u.ffn_up", LODGE_SITE_UP, l, s->d_ff,
            s->d_model, at + 5);
    }
    add(m, "model.layers.%u.self_attn.o_proj", "blk.%u.attn_output", LODGE_SITE_O, l, s->d_model, q,
        at + 3);
    add(m, "model.layers.%u.mlp.down_proj", "blk.%u.ffn_down", LODGE_SITE_DOWN, l, s->d_model,
        s->d_ff, at + 6);
}

void base_table_init(struct base_table *t, const struct base_shape *s)
{
    *t = (struct base_table){0};
    lodge_arena_init(&t->arena, 0);
    struct making m = {t, s, NULL};
    m.modules = lodge_arena_array(&t->arena, 7 * (size_t)s->n_layers + 2, sizeof *m.modules);
    if (!m.modules)
        abort();
    t->base = (struct lodge_adapter_base){.name = "tiny",
                                          .gguf_architecture = "llama",
                                          .modules = m.modules,
                                          .n_layers = s->n_layers};
    add(&m, "model.embed_tokens", "token_embd", LODGE_SITE_EMBED, LODGE_NONE, s->n_vocab,
        s->d_model, 0);
    for (uint32_t i = 0; i < s->n_layers; i++)
        add_layer(&m, i);
    add(&m, "lm_head", "output", LODGE_SITE_HEAD, LODGE_NONE, s->n_vocab, s->d_model,
        s->tied ? 0 : 1 + 7 * s->n_layers);
}

void base_table_finish(struct base_table *t)
{
    lodge_arena_finish(&t->arena);
}
