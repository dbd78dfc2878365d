/* Chat messages as a client sends them, checked and normalised into the variables that chat
 * templates expect. */
#include "engine/template/chat.h"

#include "base/buf.h"
#include "base/json.h"
#include "engine/template/letters.h"

#include <stdlib.h>
#include <string.h>

/* The text of one part of a content list; NULL with the error set when it is no text. */
static const json_t *part_text(const json_t *part, size_t message, size_t i, struct lodge_error *e)
{
    const char *type = json_string_value(json_object_get(part, "type"));
    bool refusal = type && strcmp(type, "refusal") == 0;
    const json_t *text = json_object_get(part, refusal ? "refusal" : "text");
    if (!type)
        lodge_fail(e, LODGE_ERR_INVALID, "messages[%zu].content[%zu].type: is missing", message, i);
    else if (strcmp(type, "text") != 0 && !refusal)
        lodge_fail(e, LODGE_ERR_INVALID,
                   "messages[%zu].content[%zu].type: '%.40s' is not supported; this server takes "
                   "text only",
                   message, i, type);
    else if (!json_is_string(text))
        lodge_fail(e, LODGE_ERR_INVALID, "messages[%zu].content[%zu].text: must be a string",
                   message, i);
    else
        return text;
    return NULL;
}

/* A content list as one string, or as a list of text parts for a template that goes over them. New
 * reference, or NULL with the error set. */
static json_t *read_parts(const json_t *parts, size_t message, bool keep, struct lodge_error *e)
{
    struct lodge_buf text;
    json_t *list = json_array();
    bool ok = json_array_size(parts) > 0;
    lodge_buf_init(&text, (size_t)64 << 20);
    if (!ok)
        lodge_fail(e, LODGE_ERR_INVALID, "messages[%zu].content: the list is empty", message);
    for (size_t i = 0; i < json_array_size(parts) && ok; i++) {
        const json_t *t = part_text(json_array_get(parts, i), message, i, e);
        ok = t != NULL;
        if (ok && keep)
            json_array_append_new(list, json_pack("{s:s,s:O}", "type", "text", "text", t));
        else if (ok)
            lodge_buf_append(&text, json_string_value(t), json_string_length(t));
    }
    json_t *joined = ok && !keep ? json_stringn(lodge_buf_text(&text), text.n) : NULL;
    lodge_buf_finish(&text);
    if (ok && keep)
        return list;
    json_decref(list);
    return joined;
}

static int check_role(const json_t *m, size_t i, const char **role, struct lodge_error *e)
{
    static const char *const known[] = {"system",    "developer", "user",
                                        "assistant", "tool",      "function"};
    const json_t *v = json_object_get(m, "role");
    if (!json_is_object(m))
        return lodge_fail(e, LODGE_ERR_INVALID, "messages[%zu]: must be an object", i);
    if (!json_is_string(v))
        return lodge_fail(e, LODGE_ERR_INVALID, "messages[%zu].role: must be a string", i);
    for (size_t k = 0; k < sizeof known / sizeof *known; k++)
        if (strcmp(known[k], json_string_value(v)) == 0) {
            *role = known[k];
            return 0;
        }
    return lodge_fail(
        e, LODGE_ERR_INVALID,
        "messages[%zu].role: '%.40s' is not one of system, developer, user, assistant, "
        "tool",
        i, json_string_value(v));
}

/* Argument strings of tool calls become objects; templates serialise them themselves. */
static json_t *open_calls(const json_t *calls)
{
    json_t *copy = json_deep_copy(calls), *call;
    size_t i;
    json_array_foreach(copy, i, call)
    {
        json_t *fn = json_object_get(call, "function");
        const json_t *args = json_object_get(fn, "arguments");
        if (!json_is_string(args))
            continue;
        json_t *parsed = NULL;
        if (!json_string_length(args))
            parsed = json_object();
        else if (lodge_json_load(json_string_value(args), json_string_length(args),
                                 &lodge_json_body_limits, "arguments", &parsed, NULL))
            continue;
        json_object_set_new(fn, "arguments", parsed);
    }
    return copy;
}

/* What the template sees as content: NULL in *out where it sees none. */
static int read_content(const json_t *m, size_t i, const char *role, bool keep_parts, json_t **out,
                        struct lodge_error *e)
{
    const json_t *content = lodge_json_member(m, "content");
    bool calls = json_array_size(json_object_get(m, "tool_calls")) > 0;
    *out = NULL;
    if (!content) {
        if (strcmp(role, "assistant") != 0 || (!calls && !json_object_get(m, "refusal")))
            return lodge_fail(e, LODGE_ERR_INVALID, "messages[%zu].content: is missing", i);
        *out = calls ? NULL : json_string("");
        return 0;
    }
    if (!json_is_array(content) && !json_is_string(content))
        return lodge_fail(e, LODGE_ERR_INVALID,
                          "messages[%zu].content: must be a string or a list of parts", i);
    *out = json_is_array(content) ? read_parts(content, i, keep_parts, e)
                                  : json_incref((json_t *)(uintptr_t)content);
    return *out ? 0 : LODGE_ERR_INVALID;
}

/* Reasoning has several names; templates read one or the other. */
static void alias_reasoning(json_t **message)
{
    static const char *const names[] = {"reasoning_content", "thinking", "reasoning"};
    json_t *reasoning = NULL, *out;
    for (int i = 0; i < 3 && !reasoning; i++)
        reasoning = json_object_get(*message, names[i]);
    if (!reasoning)
        return;
    out = json_pack("{s:O}", "thinking", reasoning);
    json_object_update(out, *message);
    json_object_set(out, "reasoning_content", reasoning);
    json_decref(*message);
    *message = out;
}

static int set_calls(json_t *out, const json_t *calls, size_t i, struct lodge_error *e)
{
    if (!json_is_array(calls))
        return lodge_fail(e, LODGE_ERR_INVALID, "messages[%zu].tool_calls: must be a list", i);
    if (json_array_size(calls))
        json_object_set_new(out, "tool_calls", open_calls(calls));
    return 0;
}

/* One message as the template sees it, its members in the client's order without null ones. */
static int normalise(const struct lodge_template *t, const json_t *m, size_t i, bool keep_parts,
                     json_t *list, struct lodge_error *e)
{
    const char *role = NULL, *key;
    json_t *v, *content = NULL, *out;
    int err = check_role(m, i, &role, e);
    if (!err)
        err = read_content(m, i, role, keep_parts, &content, e);
    if (err)
        return err;
    if (strcmp(role, "developer") == 0 && !lodge_template_mentions(t, "developer"))
        role = "system";
    out = json_object();
    json_object_foreach((json_t *)(uintptr_t)m, key, v)
    {
        if (strcmp(key, "role") == 0)
            json_object_set_new(out, key, json_string(role));
        else if (strcmp(key, "content") == 0 && content)
            json_object_set(out, key, content);
        else if (strcmp(key, "tool_calls") == 0 && !json_is_null(v) && !err)
            err = set_calls(out, v, i, e);
        else if (!json_is_null(v))
            json_object_set(out, key, v);
    }
    if (content)
        json_object_set_new(out, "content", content);
    alias_reasoning(&out);
    if (err)
        json_decref(out);
    else
        json_array_append_new(list, out);
    return err;
}

static json_t *variables(const struct lodge_chat_prompt *p, json_t *messages)
{
    json_t *vars = json_pack("{s:n}", "documents");
    if (p->special)
        json_object_update(vars, (json_t *)(uintptr_t)p->special);
    if (json_is_object(p->kwargs))
        json_object_update(vars, (json_t *)(uintptr_t)p->kwargs);
    json_object_set(vars, "messages", messages);
    json_object_set_new(vars, "add_generation_prompt", json_boolean(p->add_generation_prompt));
    if (p->tools && json_array_size(p->tools))
        json_object_set(vars, "tools", (json_t *)(uintptr_t)p->tools);
    else
        json_object_set_new(vars, "tools", json_null());
    return vars;
}

/* Marks where the last message's content ends, so that what the template writes behind it can go.
 */
static const char open_end[] = "OPEN_END_OF_THE_LAST_MESSAGE ";

/* The content of the last message that text can be added to, and its holder. */
static json_t *last_text(const json_t *messages, json_t **holder, const char **key)
{
    *holder = json_array_get(messages, json_array_size(messages) - 1);
    *key = "content";
    json_t *content = json_object_get(*holder, "content");
    if (!json_is_array(content))
        return content;
    *holder = json_array_get(content, json_array_size(content) - 1);
    *key = "text";
    return json_object_get(*holder, "text");
}

/* Appends the mark; the messages are this rendering's own. */
static int open_last(json_t *messages, struct lodge_error *e)
{
    const char *key;
    json_t *holder, *text = last_text(messages, &holder, &key);
    if (!json_is_string(text))
        return lodge_fail(e, LODGE_ERR_INVALID,
                          "continue_final_message: the last message has no content to continue");
    return json_object_set_new(holder, key,
                               json_sprintf("%s%s", json_string_value(text), open_end));
}

static void cut(struct lodge_rendered *out, size_t end)
{
    out->n = end;
    out->text[end] = 0;
    while (out->n_parts && out->parts[out->n_parts - 1].begin >= end)
        out->n_parts--;
    if (out->n_parts)
        out->parts[out->n_parts - 1].end = end;
}

/* Leaves the last message open: the mark and what the template wrote after it go. Where the
 * template trimmed the content, so does this. */
static int cut_at_mark(struct lodge_rendered *out, struct lodge_error *e)
{
    size_t mark = sizeof open_end - 2, at = out->n + 1;
    uint32_t cp;
    for (size_t i = 0; i + mark <= out->n; i++)
        if (memcmp(out->text + i, open_end, mark) == 0)
            at = i;
    if (at > out->n)
        return lodge_fail(e, LODGE_ERR_INVALID,
                          "continue_final_message: the template does not show the last message's "
                          "content");
    bool trimmed = out->text[at + mark] != ' ';
    while (trimmed && at > 0) {
        size_t len = letter_before(out->text, at, &cp);
        if (!letter_is_space(cp))
            break;
        at -= len;
    }
    cut(out, at);
    return 0;
}

int lodge_chat_render(const struct lodge_template *t, const struct lodge_chat_prompt *p,
                      struct lodge_rendered *out, struct lodge_error *e)
{
    *out = (struct lodge_rendered){0};
    if (!json_is_array(p->messages) || !json_array_size(p->messages))
        return lodge_fail(e, LODGE_ERR_INVALID, "messages: must be a list of at least one message");
    json_t *messages = json_array();
    bool keep_parts = lodge_template_iterates(t, "content");
    int err = 0;
    for (size_t i = 0; i < json_array_size(p->messages) && !err; i++)
        err = normalise(t, json_array_get(p->messages, i), i, keep_parts, messages, e);
    if (!err && p->continue_final_message)
        err = open_last(messages, e);
    json_t *vars = err ? NULL : variables(p, messages);
    if (!err)
        err = lodge_template_render(t, vars, &lodge_template_default_limits, p->now, out, e);
    if (!err && p->continue_final_message)
        err = cut_at_mark(out, e);
    if (err)
        lodge_rendered_finish(out);
    json_decref(vars);
    json_decref(messages);
    return err;
}

int64_t lodge_chat_end_of_turn(const struct lodge_template *t,
                               const struct lodge_tokenizer *tokenizer)
{
    static const char reply[] = "LastWordsOfTheAssistant";
    json_t *messages = json_pack("[{s:s,s:s},{s:s,s:s}]", "role", "user", "content", "Hello",
                                 "role", "assistant", "content", reply);
    struct lodge_chat_prompt p = {.messages = messages,
                                  .special = lodge_tokenizer_special_texts(tokenizer)};
    struct lodge_rendered out;
    int64_t end = -1;
    if (messages && !lodge_chat_render(t, &p, &out, NULL)) {
        const char *last = memmem(out.text, out.n, reply, sizeof reply - 1);
        const char *behind = last ? last + sizeof reply - 1 : NULL;
        if (behind)
            end = lodge_tokenizer_leading_token(tokenizer, behind,
                                                out.n - (size_t)(behind - out.text));
        lodge_rendered_finish(&out);
    }
    json_decref(messages);
    return end;
}
