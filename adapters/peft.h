/* adapter_config.json of PEFT: its fields, and which modules it targets. Private to adapters/. */
#ifndef LODGE_ADAPTERS_PEFT_H
#define LODGE_ADAPTERS_PEFT_H

#include "adapters/internal.h"

#include <jansson.h>

/* Members are borrowed from `root`; NULL: not given. */
struct lodge_peft_config {
    json_t *root;
    const char *where;
    uint32_t rank;
    double alpha;
    bool root_of_rank, dora, lora_bias, tied;
    bool all_linear;       /* target_modules is "all-linear"; `targets` is NULL then */
    const json_t *targets; /* a list of names, or one pattern */
    const json_t *excludes;
    const json_t *rank_pattern, *alpha_pattern;
    const json_t *layers;         /* layers_to_transform: a number or a list */
    const json_t *layers_pattern; /* a string or a list */
    const char *base_model;
};

/* Step 2: parses and checks; refuses by name what is not computed. Unknown members are added to
 * the adapter's warning. */
int lodge_peft_config_load(const struct lodge_adapter_file *file, struct lodge_adapter *a,
                           struct lodge_peft_config *out, struct lodge_error *e);
void lodge_peft_config_finish(struct lodge_peft_config *c);

/* Patterns of a configuration, compiled. They come from strangers: the length, the number, the
 * steps of a match and the time of all matches together are bounded; LIMIT beyond. */
struct lodge_peft_matcher;

/* `c` outlives the matcher. */
int lodge_peft_matcher_create(const struct lodge_peft_config *c, struct lodge_peft_matcher **out,
                              struct lodge_error *e);
void lodge_peft_matcher_destroy(struct lodge_peft_matcher *m);
/* Whether PEFT would put LoRA on the module of that name. `linear`: neither embedding nor head. */
int lodge_peft_matcher_targets(struct lodge_peft_matcher *m, const char *name, bool linear,
                               bool *out, struct lodge_error *e);
/* r and lora_alpha of the module after rank_pattern and alpha_pattern. */
int lodge_peft_matcher_rank(struct lodge_peft_matcher *m, const char *name, uint32_t *rank,
                            double *alpha, struct lodge_error *e);

#endif
