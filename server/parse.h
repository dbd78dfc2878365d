/* What the parts of the parser share. */
#ifndef LODGE_SERVER_PARSE_H
#define LODGE_SERVER_PARSE_H

#include "server/call.h"

struct parse {
    struct call *c;
    struct generation *g;
    const json_t *o; /* the body */
    struct refusal *r;
};

/* Refuses field `param` (a dotted path for nested ones). Returns INVALID. */
int parse_bad(struct parse *p, const char *param, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Names the field of an error that p->r->e holds already. */
int parse_at(struct parse *p, const char *param, int err);

/* Optional members of the body; see base/json.h. */
int parse_int(struct parse *p, const char *key, int64_t min, int64_t max, int64_t *out);
int parse_double(struct parse *p, const char *key, double min, double max, double *out);
int parse_bool(struct parse *p, const char *key, bool *out);
int parse_string(struct parse *p, const char *key, const char **out);
/* A list of at most `most` token ids, in the generation's arena. */
int parse_ids(struct parse *p, const char *key, const json_t *v, size_t most, const uint32_t **out,
              uint32_t *n);

/* fields.c: refuses what is not built, checks what is only accepted, and names the unknown. */
int parse_fields(struct parse *p);
/* adapter_fields.c: `model` and `adapters`, into g->req.adapters with a reference each. */
int parse_model(struct parse *p);
int parse_adapters(struct parse *p);
/* The adapter that a `model` names, with a reference, or NULL for the base. NOT_FOUND. */
int model_resolve(struct call *c, const char *model, struct lodge_adapter_version **out,
                  struct refusal *r);
/* prediction.c: `speculate` and `prediction`. After the lengths. */
int parse_prediction(struct parse *p);
/* sampling.c */
int parse_sampling(struct parse *p);
/* prompt.c: the prompts' tokens, into g->runs. */
int parse_prompts(struct parse *p);
/* prompt.c: the chat in `o` as tokens, by the template of the adapter if it has one (NULL: none);
 * also for /tokenize. */
int parse_chat(const struct server *s, const json_t *o, const struct lodge_adapter_version *adapter,
               struct lodge_ids *out, struct refusal *r);

#endif
