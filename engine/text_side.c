/* The text side of the engine: pure functions over what is immutable after opening. */
#include "engine/internal.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

void lodge_ids_finish(struct lodge_ids *ids)
{
    free(ids->data);
    *ids = (struct lodge_ids){0};
}

/* The two lists have one layout; this keeps the tokenizer's header out of engine.h. */
static struct lodge_tokens borrow(struct lodge_ids *ids)
{
    return (struct lodge_tokens){ids->data, ids->n, ids->_room};
}

static void give(struct lodge_ids *ids, const struct lodge_tokens *t)
{
    *ids = (struct lodge_ids){t->ids, t->n, t->_room};
}

int lodge_engine_tokenize(const struct lodge_engine *en, const char *text, size_t n,
                          bool add_special, bool parse_special, size_t max_tokens,
                          struct lodge_ids *out, struct lodge_error *e)
{
    unsigned flags =
        (add_special ? LODGE_ENCODE_ADD : 0u) | (parse_special ? LODGE_ENCODE_SPECIAL : 0u);
    struct lodge_tokens t = borrow(out);
    int err = lodge_tokenizer_encode(en->tokenizer, text, n, flags, max_tokens, &t, e);
    give(out, &t);
    return err;
}

int lodge_engine_detokenize(const struct lodge_engine *en, const uint32_t *ids, size_t n,
                            bool skip_special, struct lodge_buf *out, struct lodge_error *e)
{
    struct lodge_detok d;
    lodge_detok_init(&d, en->tokenizer, !skip_special, true);
    for (size_t i = 0; i < n; i++) {
        if (ids[i] >= en->info.n_vocab)
            return lodge_fail(e, LODGE_ERR_INVALID, "'tokens' has id %u; ids are below %u", ids[i],
                              en->info.n_vocab);
        lodge_detok_push(&d, ids[i], out);
    }
    lodge_detok_flush(&d, out);
    return out->failed ? lodge_fail(e, LODGE_ERR_LIMIT, "the text is too long") : 0;
}

const char *lodge_engine_token_bytes(const struct lodge_engine *en, uint32_t id, size_t *n,
                                     bool *special)
{
    return lodge_tokenizer_bytes(en->tokenizer, id, n, special);
}

const char *lodge_engine_token_text(const struct lodge_engine *en, uint32_t id, size_t *n)
{
    return lodge_tokenizer_text(en->tokenizer, id, n);
}

int lodge_engine_chat_prompt(const struct lodge_engine *en, const struct lodge_chat *chat,
                             size_t max_tokens, struct lodge_ids *out, struct lodge_buf *rendered,
                             struct lodge_error *e)
{
    struct lodge_template *own = NULL;
    const struct lodge_template *t = chat->adapter && chat->adapter->chat_template
                                         ? chat->adapter->chat_template
                                     : chat->tools && en->tool_template ? en->tool_template
                                                                        : en->chat_template;
    int err = 0;
    if (chat->chat_template) {
        err = lodge_template_parse(chat->chat_template, strlen(chat->chat_template), &own, e);
        t = own;
    }
    if (err)
        return err;
    if (!t)
        return lodge_fail(e, LODGE_ERR_INVALID,
                          "this model has no chat template; use /v1/completions, or start the "
                          "server with --chat-template FILE");
    struct lodge_chat_prompt p = {.messages = chat->messages,
                                  .tools = chat->tools,
                                  .kwargs = chat->kwargs,
                                  .special = lodge_tokenizer_special_texts(en->tokenizer),
                                  .add_generation_prompt = !chat->no_generation_prompt,
                                  .continue_final_message = chat->continue_final_message,
                                  .now = time(NULL)};
    struct lodge_rendered r = {0};
    err = lodge_chat_render(t, &p, &r, e);
    if (!err && rendered)
        lodge_buf_append(rendered, r.text, r.n);
    struct lodge_tokens ids = borrow(out);
    if (!err)
        err = lodge_tokenizer_encode_parts(en->tokenizer, r.text, r.parts, r.n_parts, max_tokens,
                                           &ids, e);
    give(out, &ids);
    lodge_rendered_finish(&r);
    lodge_template_destroy(own);
    return err;
}
