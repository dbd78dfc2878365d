/* The fields `model` and `adapters`: which base and adapters a request means. */
#include "server/parse.h"

#include "base/json.h"

#include <stdio.h>
#include <string.h>

bool model_known(const struct server *s, const char *name)
{
    for (uint32_t i = 0; i < s->n_names; i++)
        if (strcmp(s->names[i], name) == 0)
            return true;
    return false;
}

static int allowed(const struct call *c, const char *model, struct lodge_error *e)
{
    return principal_may_use(&c->principal, model)
               ? 0
               : lodge_fail(e, LODGE_ERR_FORBIDDEN, "this key may not use the model '%.200s'",
                            model);
}

static int resolve(struct call *c, const char *name, struct lodge_adapter_version **out,
                   struct lodge_error *e)
{
    int err = adapters_resolve(c->server, &c->principal, name, c->reads, out, e);
    c->must_read |= err == LODGE_ERR_AGAIN;
    return err;
}

int model_resolve(struct call *c, const char *model, struct lodge_adapter_version **out,
                  struct refusal *r)
{
    *out = NULL;
    /* What is not listed does not exist, whatever the key may do. */
    int err = model_known(c->server, model) ? 0 : resolve(c, model, out, &r->e);
    if (!err)
        err = allowed(c, model, &r->e);
    if (err) {
        lodge_adapter_version_unref(*out);
        *out = NULL;
        snprintf(r->param, sizeof r->param, "model");
    }
    return err;
}

static void add_adapter(struct generation *g, struct lodge_adapter_version *v, float scale)
{
    g->req.adapters[g->req.n_adapters++] = (struct lodge_request_adapter){v, scale};
}

int parse_model(struct parse *p)
{
    const char *model = NULL;
    struct lodge_adapter_version *v = NULL;
    if (parse_string(p, "model", &model))
        return LODGE_ERR_INVALID;
    if (!model)
        return parse_bad(p, "model", "'model' is missing; this server has '%s'",
                         p->c->server->names[0]);
    int err = model_resolve(p->c, model, &v, p->r);
    if (err)
        return err;
    if (v)
        add_adapter(p->g, v, 1);
    p->g->model = lodge_arena_strndup(&p->g->arena, model, strlen(model));
    return p->g->model ? 0 : lodge_fail(&p->r->e, LODGE_ERR_NOMEM, "no memory for the request");
}

/* {"name": ..., "scale": 1.0}, on top of what `model` names. */
static int parse_one(struct parse *p, const json_t *o, size_t i)
{
    char param[MAX_PARAM];
    const char *name = NULL;
    double scale = 1;
    struct lodge_adapter_version *v = NULL;
    snprintf(param, sizeof param, "adapters[%zu]", i);
    if (!json_is_object(o))
        return parse_bad(p, param, "'%s' must be an object with a name and a scale", param);
    snprintf(param, sizeof param, "adapters[%zu].scale", i);
    if (lodge_json_get_double(o, "scale", -(double)LODGE_MAX_ADAPTER_SCALE,
                              (double)LODGE_MAX_ADAPTER_SCALE, &scale, &p->r->e))
        return parse_at(p, param, LODGE_ERR_INVALID);
    snprintf(param, sizeof param, "adapters[%zu].name", i);
    if (lodge_json_get_string(o, "name", &name, &p->r->e))
        return parse_at(p, param, LODGE_ERR_INVALID);
    if (!name)
        return parse_bad(p, param, "'%s' is missing", param);
    int err = resolve(p->c, name, &v, &p->r->e);
    if (!err) {
        add_adapter(p->g, v, (float)scale);
        err = allowed(p->c, name, &p->r->e);
    }
    return parse_at(p, param, err);
}

int parse_adapters(struct parse *p)
{
    const json_t *list = lodge_json_member(p->o, "adapters"), *o;
    size_t i;
    if (!list)
        return 0;
    if (!json_is_array(list) ||
        json_array_size(list) + p->g->req.n_adapters > LODGE_MAX_REQUEST_ADAPTERS)
        return parse_bad(p, "adapters",
                         "'adapters' must be a list of at most %u adapters, with the one that "
                         "'model' names",
                         LODGE_MAX_REQUEST_ADAPTERS);
    int err = 0;
    json_array_foreach(list, i, o)
    {
        err = err ? err : parse_one(p, o, i);
    }
    return err;
}
