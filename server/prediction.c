/* The fields `speculate` and `prediction`: whether the engine may guess tokens, and from what. */
#include "server/parse.h"

#include "base/json.h"

#include <stdio.h>
#include <string.h>

static int keep_ids(struct parse *p, const struct lodge_ids *ids)
{
    uint32_t *copy = lodge_arena_array(&p->g->arena, ids->n + 1, sizeof *copy);
    if (!copy)
        return lodge_fail(&p->r->e, LODGE_ERR_NOMEM, "no memory for the request");
    if (ids->n)
        memcpy(copy, ids->data, ids->n * sizeof *copy);
    p->g->req.prediction = (struct lodge_id_list){copy, (uint32_t)ids->n};
    return 0;
}

/* A string, or text parts, whose texts follow one another. */
static int content_text(struct parse *p, const json_t *content, struct lodge_buf *out)
{
    size_t i;
    const json_t *part;
    if (json_is_string(content)) {
        lodge_buf_append(out, json_string_value(content), json_string_length(content));
        return 0;
    }
    if (!json_is_array(content))
        return parse_bad(p, "prediction.content",
                         "'prediction.content' must be a string or a list of text parts");
    json_array_foreach(content, i, part)
    {
        char param[MAX_PARAM];
        const char *type = json_string_value(json_object_get(part, "type"));
        const json_t *text = json_object_get(part, "text");
        snprintf(param, sizeof param, "prediction.content[%zu]", i);
        if (!type || strcmp(type, "text") != 0 || !json_is_string(text))
            return parse_bad(p, param, "'%s' must be {\"type\": \"text\", \"text\": ...}", param);
        lodge_buf_append(out, json_string_value(text), json_string_length(text));
    }
    return 0;
}

/* OpenAI's predicted output: {"type": "content", "content": ...}. What is longer than the context
 * cannot be of use, and is no error. */
static int parse_predicted(struct parse *p, const json_t *prediction)
{
    const char *type = json_string_value(json_object_get(prediction, "type"));
    struct lodge_buf text;
    struct lodge_ids ids = {0};
    if (!json_is_object(prediction))
        return parse_bad(p, "prediction", "'prediction' must be an object");
    if (!type || strcmp(type, "content") != 0)
        return parse_bad(p, "prediction.type", "'prediction.type' must be \"content\"");
    if (p->g->best_of > 1)
        return parse_bad(p, "prediction", "'prediction' cannot be used with 'n' above 1");
    lodge_buf_init(&text, (size_t)1 << 30);
    int err = content_text(p, json_object_get(prediction, "content"), &text);
    if (!err)
        err =
            lodge_engine_tokenize(atomic_load(&p->c->server->engine), lodge_buf_text(&text), text.n,
                                  false, false, p->c->server->info.max_model_len, &ids, &p->r->e);
    if (err == LODGE_ERR_LIMIT)
        err = 0;
    else if (!err)
        err = keep_ids(p, &ids);
    lodge_ids_finish(&ids);
    lodge_buf_finish(&text);
    p->g->req.speculate = true;
    return *p->r->param ? err : parse_at(p, "prediction", err);
}

int parse_prediction(struct parse *p)
{
    const json_t *prediction = lodge_json_member(p->o, "prediction");
    if (parse_bool(p, "speculate", &p->g->req.speculate))
        return LODGE_ERR_INVALID;
    return prediction && p->g->kind == CALL_CHAT ? parse_predicted(p, prediction) : 0;
}
