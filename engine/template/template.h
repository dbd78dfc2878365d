/* Chat templates: an interpreter for the part of Jinja2 that chat templates use.
 *
 * Parsing makes an immutable tree; rendering evaluates it over JSON variables under limits on
 * steps, depth, output and memory, so a hostile template ends in an error, never in a hang.
 * Semantics follow Jinja2's sandbox as transformers configures it: trim_blocks, lstrip_blocks, one
 * trailing newline dropped, loop controls, tojson without HTML escapes.
 *
 * Text that stems from messages, tools or documents is marked as the user's all the way through
 * (concatenation, slices, filters), so that the tokenizer can refuse control tokens in it.
 *
 * Thread safety: a parsed template may be rendered by many threads at once.
 */
#ifndef LODGE_ENGINE_TEMPLATE_TEMPLATE_H
#define LODGE_ENGINE_TEMPLATE_TEMPLATE_H

#include "base/error.h"
#include "engine/text/tokenizer.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

struct lodge_template;

struct lodge_template_limits {
    uint64_t max_steps; /* nodes evaluated */
    uint32_t max_depth; /* nested calls, expressions and values */
    size_t max_output_bytes;
    size_t max_memory_bytes; /* of one rendering */
};
/* 10^7 steps, depth 128, 16 MiB of output, 256 MiB of memory. */
extern const struct lodge_template_limits lodge_template_default_limits;

/* FORMAT with the line and what is wrong; LIMIT when nested too deep; NOMEM. */
int lodge_template_parse(const char *source, size_t n, struct lodge_template **out,
                         struct lodge_error *e);
void lodge_template_destroy(struct lodge_template *t);

/* Rendered text and the parts that cover it in order (of any user or trusted kind). */
struct lodge_rendered {
    char *text; /* n bytes and a zero */
    size_t n;
    struct lodge_text_part *parts;
    size_t n_parts;
};
void lodge_rendered_finish(struct lodge_rendered *r);

/* vars: object of the template's variables. INVALID: raise_exception's text, or line and reason of
 * a failure; LIMIT: which limit. The caller ends *out by lodge_rendered_finish. */
int lodge_template_render(const struct lodge_template *t, const json_t *vars,
                          const struct lodge_template_limits *limits, time_t now,
                          struct lodge_rendered *out, struct lodge_error *e);

/* Does this name or string literal occur in the template? */
bool lodge_template_mentions(const struct lodge_template *t, const char *word);
/* Does a for statement go over a member of this name, or over a variable that was set from one? */
bool lodge_template_iterates(const struct lodge_template *t, const char *member);

#endif
