/* Questions about a parsed template. */
#include "engine/template/parser.h"

#include <string.h>

/* Deeper trees than the parser makes are not searched. */
#define MAX_DEPTH (4 * MAX_NESTING)

/* Is the answer yes for a node, or for any below or behind it? */
static bool any(const struct node *n, bool (*answer)(const struct node *, const void *),
                const void *about, uint32_t depth)
{
    for (; n && depth < MAX_DEPTH; n = n->next)
        if (answer(n, about) || any(n->a, answer, about, depth + 1) ||
            any(n->b, answer, about, depth + 1) || any(n->c, answer, about, depth + 1) ||
            any(n->list, answer, about, depth + 1) || any(n->body, answer, about, depth + 1) ||
            any(n->other, answer, about, depth + 1))
            return true;
    return false;
}

static bool holds_word(const struct node *n, const void *word)
{
    const struct value *v = &n->constant;
    return (n->name && strcmp(n->name, word) == 0) ||
           ((n->kind == N_CONST || n->kind == N_TEXT) && v->type == V_STRING && v->s.p &&
            strstr(v->s.p, word));
}

bool node_mentions(const struct node *n, const char *word)
{
    return any(n, holds_word, word, 0);
}

bool lodge_template_mentions(const struct lodge_template *t, const char *word)
{
    return node_mentions(t->root, word);
}

/* x.member or x['member'], or a choice of its items. */
static bool reads_member(const struct node *n, const char *member)
{
    while (n && n->kind == N_FILTER)
        n = n->a;
    if (!n)
        return false;
    if (n->kind == N_COND)
        return reads_member(n->b, member) || reads_member(n->c, member);
    const struct value *key = n->kind == N_INDEX && n->a ? &n->a->constant : NULL;
    return (n->kind == N_ATTR && strcmp(n->name, member) == 0) ||
           (key && n->a->kind == N_CONST && key->type == V_STRING && key->s.n == strlen(member) &&
            memcmp(key->s.p, member, key->s.n) == 0);
}

struct asked {
    const struct lodge_template *t;
    const char *member, *name;
};

static bool sets_from_member(const struct node *n, const void *about)
{
    const struct asked *q = about;
    return n->kind == N_SET && n->list && n->list->kind == N_NAME &&
           strcmp(n->list->name, q->name) == 0 && reads_member(n->a, q->member);
}

static bool goes_over_member(const struct node *n, const void *about)
{
    struct asked q = *(const struct asked *)about;
    const struct node *over = n->kind == N_FOR ? n->a : NULL;
    while (over && over->kind == N_FILTER)
        over = over->a;
    if (!over)
        return false;
    q.name = over->name;
    return reads_member(over, q.member) ||
           (over->kind == N_NAME && any(q.t->root, sets_from_member, &q, 0));
}

bool lodge_template_iterates(const struct lodge_template *t, const char *member)
{
    const struct asked q = {t, member, NULL};
    return any(t->root, goes_over_member, &q, 0);
}
