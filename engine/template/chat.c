/* Chat messages as a client sends them, checked and normalised into the variables that chat
 * templates expect. */
#include "engine/template/chat.h"

#include "base/buf.h"
#include "base/json.h"

#include <stdlib.h>
#include <string.h>

/* A content list of text parts as one string. New reference or NULL with the error set. */
static json_t *join_parts(const json_t *parts, size_t message, struct lodge_error *e)
{
    struct lodge_buf text;
    lodge_buf_init(&text, (size_t)64 << 20);
    int err =
        json_array_size(parts)
            ? 0
            : lodge_fail(e, LODGE_ERR_INVALID, "messages[%zu].content: the list is empty", message);
    for (size_t i = 0; i < json_array_size(parts) && !err; i++) {
        const json_t *part = json_array_get(parts, i);
        const char *type = json_string_value(json_object_get(part, "type"));
        const json_t *t =
            json_object_get(part, type && strcmp(type, "refusal") == 0 ? "refusal" : "text");
        if (!type)
            err = lodge_fail(e, LODGE_ERR_INVALID, "messages[%zu].content[%zu].type: is missing",
                             message, i);
        else if (strcmp(type, "text") != 0 && strcmp(type, "refusal") != 0)
            err =
                lodge_fail(e, LODGE_ERR_INVALID,
                           "messages[%zu].content[%zu].type: '%.40s' is not supported; this server "
                           "takes text only",
                           message, i, type);
        else if (!json_is_string(t))
            err = lodge_fail(e, LODGE_ERR_INVALID,
                             "messages[%zu].content[%zu].text: must be a string", message, i);
        else
            lodge_buf_append(&text, json_string_value(t), json_string_length(t));
    }
    json_t *joined = err ? NULL : json_stringn(lodge_buf_text(&text), text.n);
    lodge_buf_finish(&text);
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

static int set_content(json_t *out, const json_t *m, size_t i, const char *role,
                       struct lodge_error *e)
{
    const json_t *content = lodge_json_member(m, "content");
    bool calls = json_array_size(json_object_get(m, "tool_calls")) > 0;
    if (!content) {
        if (strcmp(role, "assistant") != 0 || (!calls && !json_object_get(m, "refusal")))
            return lodge_fail(e, LODGE_ERR_INVALID, "messages[%zu].content: is missing", i);
        return calls ? 0 : json_object_set_new(out, "content", json_string(""));
    }
    json_t *text = json_is_array(content) ? join_parts(content, i, e) : NULL;
    if (json_is_array(content) && !text)
        return LODGE_ERR_INVALID;
    if (!json_is_array(content) && !json_is_string(content))
        return lodge_fail(e, LODGE_ERR_INVALID,
                          "messages[%zu].content: must be a string or a list of parts", i);
    return text ? json_object_set_new(out, "content", text)
                : json_object_set(out, "content", (json_t *)(uintptr_t)content);
}

/* One message as the template sees it; null members are dropped. */
static int normalise(const struct lodge_template *t, const json_t *m, size_t i, json_t *list,
                     struct lodge_error *e)
{
    const char *role = NULL, *key;
    json_t *v;
    int err = check_role(m, i, &role, e);
    if (err)
        return err;
    if (strcmp(role, "developer") == 0 && !lodge_template_mentions(t, "developer"))
        role = "system";
    json_t *out = json_pack("{s:s}", "role", role);
    err = set_content(out, m, i, role, e);
    json_object_foreach((json_t *)(uintptr_t)m, key, v)
    {
        if (strcmp(key, "role") == 0 || strcmp(key, "content") == 0 || json_is_null(v) || err)
            continue;
        if (strcmp(key, "tool_calls") == 0) {
            if (!json_is_array(v))
                err =
                    lodge_fail(e, LODGE_ERR_INVALID, "messages[%zu].tool_calls: must be a list", i);
            else if (json_array_size(v))
                json_object_set_new(out, key, open_calls(v));
        } else {
            json_object_set(out, key, v);
        }
    }
    if (err)
        json_decref(out);
    else
        json_array_append_new(list, out);
    return err;
}

static json_t *variables(const struct lodge_chat_prompt *p, json_t *messages)
{
    json_t *vars = json_object();
    if (json_is_object(p->kwargs))
        json_object_update(vars, (json_t *)(uintptr_t)p->kwargs);
    json_object_set(vars, "messages", messages);
    json_object_set_new(vars, "bos_token", json_stringn_nocheck(p->bos, p->n_bos));
    json_object_set_new(vars, "eos_token", json_stringn_nocheck(p->eos, p->n_eos));
    json_object_set_new(vars, "add_generation_prompt", json_boolean(p->add_generation_prompt));
    if (p->tools && json_array_size(p->tools))
        json_object_set(vars, "tools", (json_t *)(uintptr_t)p->tools);
    else
        json_object_set_new(vars, "tools", json_null());
    return vars;
}

/* Leaves the last message open: what the template wrote after its content goes. */
static int cut_after_content(const json_t *messages, struct lodge_rendered *out,
                             struct lodge_error *e)
{
    const json_t *last = json_array_get(messages, json_array_size(messages) - 1);
    const char *content = json_string_value(json_object_get(last, "content"));
    size_t n = content ? strlen(content) : 0, end = 0;
    while (n && (content[n - 1] == ' ' || content[n - 1] == '\n' || content[n - 1] == '\t'))
        n--;
    for (size_t at = out->n; n && at-- > 0 && !end;)
        if (out->n - at >= n && memcmp(out->text + at, content, n) == 0)
            end = at + n;
    if (!end)
        return lodge_fail(e, LODGE_ERR_INVALID,
                          "continue_final_message: the template does not show the last message's "
                          "content");
    out->n = end;
    out->text[end] = 0;
    while (out->n_parts && out->parts[out->n_parts - 1].begin >= end)
        out->n_parts--;
    if (out->n_parts)
        out->parts[out->n_parts - 1].end = end;
    return 0;
}

int lodge_chat_render(const struct lodge_template *t, const struct lodge_chat_prompt *p,
                      struct lodge_rendered *out, struct lodge_error *e)
{
    *out = (struct lodge_rendered){0};
    if (!json_is_array(p->messages) || !json_array_size(p->messages))
        return lodge_fail(e, LODGE_ERR_INVALID, "messages: must be a list of at least one message");
    json_t *messages = json_array();
    int err = 0;
    for (size_t i = 0; i < json_array_size(p->messages) && !err; i++)
        err = normalise(t, json_array_get(p->messages, i), i, messages, e);
    json_t *vars = err ? NULL : variables(p, messages);
    if (!err)
        err = lodge_template_render(t, vars, &lodge_template_default_limits, p->now, out, e);
    if (!err && p->continue_final_message)
        err = cut_after_content(messages, out, e);
    if (err)
        lodge_rendered_finish(out);
    json_decref(vars);
    json_decref(messages);
    return err;
}
