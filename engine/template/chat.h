/* From OpenAI chat messages to the text a model expects. */
#ifndef LODGE_ENGINE_TEMPLATE_CHAT_H
#define LODGE_ENGINE_TEMPLATE_CHAT_H

#include "engine/template/template.h"

struct lodge_chat_prompt {
    const json_t *messages; /* array as the client sent it */
    const json_t *tools;    /* array or NULL */
    const json_t *kwargs;   /* object or NULL */
    const json_t *special;  /* texts of special tokens by name, or NULL */
    bool add_generation_prompt;
    bool continue_final_message; /* the last message is left open */
    time_t now;
};

/* Checks and normalises the messages (text parts joined unless the template goes over them, null
 * members dropped, argument strings parsed, reasoning under all its names, developer taken as
 * system where the template does not know it) and renders them. INVALID with a text that begins
 * with the dotted path of what is wrong. */
int lodge_chat_render(const struct lodge_template *t, const struct lodge_chat_prompt *p,
                      struct lodge_rendered *out, struct lodge_error *e);

/* The token with which the template ends an assistant's turn, found by rendering one; -1 when it
 * writes none there, or no such chat. */
int64_t lodge_chat_end_of_turn(const struct lodge_template *t,
                               const struct lodge_tokenizer *tokenizer);

#endif
