/* What statements and expressions share. Private to eval.c and expression.c; what filters need of
 * them is in value.h. Every function here that evaluates or makes something may fail, by longjmp to
 * r->fault.jump. */
#ifndef LODGE_ENGINE_TEMPLATE_EVAL_H
#define LODGE_ENGINE_TEMPLATE_EVAL_H

#include "engine/template/value.h"

#define MAX_ARGS 32u /* positional ones of a call */

/* eval.c. A name's value from the innermost scope that has it; NULL when none has. */
struct value *scope_find(struct run *r, const char *name);
/* Sets a name in the innermost scope. */
void scope_define(struct run *r, const char *name, struct value v);
void scope_push(struct run *r);
void scope_pop(struct run *r);
/* Runs statements with their output into a string. */
struct value run_capture(struct run *r, const struct node *body);

/* expression.c. Evaluates arguments: positional ones into args[MAX_ARGS], whose count is returned,
 * named ones into kwargs. */
size_t eval_args(struct run *r, const struct node *list, struct value *args, struct dict *kwargs);
/* A macro, or the body of a call block: names in it mean what they mean where it stands. */
struct value v_macro(struct run *r, const struct node *n);
/* caller: the body of a call block, or NULL. */
struct value eval_call(struct run *r, const struct node *n, struct value *caller);

#endif
