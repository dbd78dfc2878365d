#include "engine/files/gguf_vocab.h"

#include <stdlib.h>
#include <string.h>

static const struct lodge_gguf_value *array(const struct lodge_gguf *g, const char *key,
                                            enum lodge_gguf_type elem)
{
    const struct lodge_gguf_value *v = lodge_gguf_find(g, key);
    return v && v->type == LODGE_GGUF_ARRAY && v->elem == elem ? v : NULL;
}

static int64_t token_id(const struct lodge_gguf *g, const char *key)
{
    int64_t id = -1;
    lodge_gguf_get_int(g, key, 0, UINT32_MAX, &id, NULL);
    return id;
}

static int8_t flag(const struct lodge_gguf *g, const char *key)
{
    bool b = false;
    const struct lodge_gguf_value *v = lodge_gguf_find(g, key);
    return v && !lodge_gguf_get_bool(g, key, &b, NULL) ? (int8_t)b : -1;
}

/* Numbers of an array copied to the wanted width (they may lie at any byte). */
static void *copy_numbers(const struct lodge_gguf_value *v, bool floats)
{
    float *f = malloc((v->n + 1) * 4);
    int32_t *i = (int32_t *)(void *)f;
    for (uint64_t k = 0; f && k < v->n; k++) {
        double d = 0;
        lodge_gguf_number(v, k, &d);
        if (floats)
            f[k] = (float)d;
        else
            i[k] = (int32_t)d;
    }
    return f;
}

static char *copy_string(const struct lodge_gguf *g, const char *key)
{
    struct lodge_span s = {0};
    if (lodge_gguf_get_string(g, key, &s, NULL) || !s.data)
        return NULL;
    return strndup(s.data, s.n);
}

/* An array of bytes as they lie in the file. */
static struct lodge_span bytes_of(const struct lodge_gguf *g, const char *key)
{
    const struct lodge_gguf_value *v = array(g, key, LODGE_GGUF_U8);
    v = v ? v : array(g, key, LODGE_GGUF_I8);
    return v ? (struct lodge_span){(const char *)v->data, v->n} : (struct lodge_span){NULL, 0};
}

static void set_ids(const struct lodge_gguf *g, struct lodge_vocab_source *src)
{
    /* The format has no place for this; the models' tokenizer.json has it, and llama.cpp does it
     * for files whose name says Phi-3. Phi-4, of the same architecture, has no such pieces. */
    char *arch = copy_string(g, "general.architecture");
    src->swallows_blanks = arch && strcmp(arch, "phi3") == 0 && strcmp(src->model, "llama") == 0;
    free(arch);
    src->bos = token_id(g, "tokenizer.ggml.bos_token_id");
    src->eos = token_id(g, "tokenizer.ggml.eos_token_id");
    src->unk = token_id(g, "tokenizer.ggml.unknown_token_id");
    src->pad = token_id(g, "tokenizer.ggml.padding_token_id");
    src->eot = token_id(g, "tokenizer.ggml.eot_token_id");
    src->eom = token_id(g, "tokenizer.ggml.eom_token_id");
    src->add_bos = flag(g, "tokenizer.ggml.add_bos_token");
    src->add_eos = flag(g, "tokenizer.ggml.add_eos_token");
    src->add_space_prefix = flag(g, "tokenizer.ggml.add_space_prefix");
    src->remove_extra_spaces = flag(g, "tokenizer.ggml.remove_extra_whitespaces");
    if (strcmp(src->model, "llama") == 0) { /* SentencePiece defaults */
        src->bos = src->bos < 0 ? 1 : src->bos;
        src->eos = src->eos < 0 ? 2 : src->eos;
        src->unk = src->unk < 0 ? 0 : src->unk;
    }
    if (strcmp(src->model, "t5") == 0) {
        src->eos = src->eos < 0 ? 1 : src->eos;
        src->unk = src->unk < 0 ? 2 : src->unk;
    }
}

int lodge_gguf_tokenizer(const struct lodge_gguf *g, const char *where,
                         struct lodge_tokenizer **out, struct lodge_error *e)
{
    const struct lodge_gguf_value *tokens = array(g, "tokenizer.ggml.tokens", LODGE_GGUF_STRING);
    const struct lodge_gguf_value *merges = array(g, "tokenizer.ggml.merges", LODGE_GGUF_STRING);
    const struct lodge_gguf_value *scores = lodge_gguf_find(g, "tokenizer.ggml.scores");
    const struct lodge_gguf_value *types = lodge_gguf_find(g, "tokenizer.ggml.token_type");
    char *model = copy_string(g, "tokenizer.ggml.model"),
         *pre = copy_string(g, "tokenizer.ggml.pre");
    struct lodge_vocab_source src = {.model = model, .pre = pre};
    int err = 0;
    if (!model || !tokens || !tokens->n || tokens->n > (1u << 24))
        err =
            lodge_fail(e, LODGE_ERR_FORMAT,
                       "%s: the file has no tokenizer (tokenizer.ggml.model, .tokens); convert the "
                       "model together with its tokenizer",
                       where);
    else if ((scores && scores->n != tokens->n) || (types && types->n != tokens->n))
        err = lodge_fail(e, LODGE_ERR_FORMAT, "%s: tokenizer lists differ in length", where);
    if (!err) {
        src.n_tokens = (uint32_t)tokens->n;
        src.tokens = tokens->strings;
        src.n_merges = merges ? (uint32_t)merges->n : 0;
        src.merges = merges ? merges->strings : NULL;
        src.scores = scores ? copy_numbers(scores, true) : NULL;
        src.types = types ? copy_numbers(types, false) : NULL;
        src.charsmap = bytes_of(g, "tokenizer.ggml.precompiled_charsmap");
        set_ids(g, &src);
        err = lodge_tokenizer_from_vocab(&src, out, e);
        if (err)
            lodge_error_prefix(e, "%s", where);
    }
    free((void *)(uintptr_t)src.scores);
    free((void *)(uintptr_t)src.types);
    free(model);
    free(pre);
    return err;
}
