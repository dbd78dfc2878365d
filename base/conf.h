/* Typed settings in four layers: flags > environment > file > default.
 *
 * A program describes its settings in one table; the parser, --help, --print-config and the
 * configuration file all follow from it. A setting `max-num-seqs` is the flag --max-num-seqs,
 * the variable LODGE_OPT_MAX_NUM_SEQS and the file key max_num_seqs. An unknown flag, variable
 * LODGE_OPT_* or key is an error, as is a value of the wrong kind or out of range; texts name
 * the layer, the setting and what is allowed. The file is a JSON object. Lists: repeat the flag,
 * or separate values by spaces after one flag (--lora-modules a=b c=d); JSON array (or one
 * value) in environment and file. A higher layer replaces a list, it does not extend it.
 *
 * Owner: the caller; strings stay valid until lodge_conf_finish. Thread safety: none.
 */
#ifndef LODGE_BASE_CONF_H
#define LODGE_BASE_CONF_H

#include "base/arena.h"
#include "base/error.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

enum lodge_conf_type {
    LODGE_CONF_BOOL,   /* --flag, --flag=true|false, --no-flag; field: bool */
    LODGE_CONF_INT,    /* field: int64_t */
    LODGE_CONF_SIZE,   /* 512M, 4G, 32k: powers of 1024; field: uint64_t */
    LODGE_CONF_DOUBLE, /* field: double */
    LODGE_CONF_STRING, /* field: const char *, NULL when unset */
    LODGE_CONF_CHOICE, /* one of `choices` ("a|b|c"); field: const char * */
    LODGE_CONF_LIST,   /* field: struct lodge_conf_list */
};

struct lodge_conf_list {
    const char **items;
    uint32_t n;
};

struct lodge_conf_setting {
    const char *name; /* as the flag, without -- */
    enum lodge_conf_type type;
    size_t offset;        /* of the field in the caller's struct */
    const char *fallback; /* default as text; NULL: unset (0, NULL, empty) */
    const char *choices;  /* CHOICE: "a|b|c" */
    double min, max;      /* INT, SIZE, DOUBLE: range when max > min */
    const char *unit;     /* for help: "bytes", "s", NULL */
    const char *help;     /* one line */
    bool secret;          /* masked by print */
};

enum lodge_conf_layer { LODGE_CONF_DEFAULT, LODGE_CONF_FILE, LODGE_CONF_ENV, LODGE_CONF_FLAG };

struct lodge_conf {
    const struct lodge_conf_setting *settings;
    uint32_t n_settings;
    void *target;                 /* the caller's struct, filled by the layers */
    enum lodge_conf_layer *layer; /* per setting: who set it last */
    struct lodge_arena arena;
    const char **args; /* positional arguments of the command line */
    uint32_t n_args;
    bool help; /* --help or -h was given */
};

/* Fills `target` with the defaults. NOMEM; INTERNAL when a default does not parse. */
int lodge_conf_init(struct lodge_conf *c, const struct lodge_conf_setting *settings,
                    uint32_t n_settings, void *target, struct lodge_error *e);
void lodge_conf_finish(struct lodge_conf *c);

/* Call these three in this order; CONFIG or INVALID on anything wrong. The path of the file
 * itself usually comes from flags or environment: see lodge_conf_peek. */
int lodge_conf_file(struct lodge_conf *c, const char *path, struct lodge_error *e);
int lodge_conf_env(struct lodge_conf *c, char *const *envp, struct lodge_error *e);
int lodge_conf_flags(struct lodge_conf *c, int argc, char *const *argv, struct lodge_error *e);
/* Value of setting `name` as flag, or else as environment variable, without recording anything;
 * NULL when given by neither. */
const char *lodge_conf_peek(const char *name, int argc, char *const *argv, char *const *envp);

/* Was it given by a layer above the default? */
bool lodge_conf_given(const struct lodge_conf *c, const char *name);
/* All settings as a JSON object with _ in keys, secrets masked as "***". New reference or NULL. */
json_t *lodge_conf_json(const struct lodge_conf *c);
/* Help text of all settings, one or two lines each, to `out` (a FILE *). */
void lodge_conf_help(const struct lodge_conf *c, void *out);
/* "512M" to bytes. INVALID for anything but digits and one of k M G T (either case). */
int lodge_size_parse(const char *text, uint64_t *out);

#endif
