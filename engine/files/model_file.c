#include "engine/files/model_file.h"

#include "base/json.h"
#include "base/safetensors.h"
#include "engine/files/shape.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

struct lodge_model_file {
    struct lodge_arena arena; /* what is not the plan's: shape arrays, texts */
    char *name;
    char *dir; /* HF */
    bool is_gguf;
    struct lodge_gguf gguf;
    struct lodge_safetensors st;
    struct lodge_model_shape shape;
    struct lodge_plan plan;
    const char *chat_template;
    const char *tool_template;
    struct lodge_generation_defaults defaults;
    struct lodge_digest fingerprint;
};

/* How the mappings will be read. */
static void advise(const struct lodge_model_file *m, int advice)
{
    if (m->gguf.map.data)
        madvise((void *)(uintptr_t)m->gguf.map.data, m->gguf.map.n_bytes, advice);
    for (uint32_t i = 0; i < m->st.n_maps; i++)
        if (m->st.maps[i].data)
            madvise((void *)(uintptr_t)m->st.maps[i].data, m->st.maps[i].n_bytes, advice);
}

static bool find_gguf(const void *container, const char *name, struct lodge_source_tensor *out)
{
    const struct lodge_gguf_tensor *t = lodge_gguf_tensor(container, name);
    if (!t)
        return false;
    *out = (struct lodge_source_tensor){
        .index = (uint64_t)(t - ((const struct lodge_gguf *)container)->tensors),
        .type_name = lodge_gguf_type_name(t->type),
        .format = lodge_format_of_gguf(t->type),
        .n_dims = t->n_dims,
        .rows = t->dims[1] * t->dims[2] * t->dims[3],
        .cols = t->dims[0],
        .data = t->data,
        .n_bytes = t->n_bytes,
    };
    return true;
}

static int format_of_dtype(const char *dtype)
{
    static const enum lodge_format formats[] = {LODGE_FMT_BF16, LODGE_FMT_F16, LODGE_FMT_F32,
                                                LODGE_FMT_F8_E4M3};
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        if (strcmp(dtype, lodge_format_info(formats[i])->name) == 0)
            return (int)formats[i];
    return -1;
}

/* Of `name` = "....weight". */
static void find_scales(const struct lodge_safetensors *s, const char *name,
                        struct lodge_source_tensor *out)
{
    static const char *const suffixes[] = {"_scale_inv", "_scale"};
    const struct lodge_st_tensor *t = NULL;
    char scales[180];
    for (size_t i = 0; !t && i < 2; i++) {
        snprintf(scales, sizeof scales, "%.160s%s", name, suffixes[i]);
        t = lodge_safetensors_find(s, scales);
    }
    if (!t || t->n_dims > 2)
        return;
    out->scales = t->data;
    out->scale_format = format_of_dtype(t->dtype);
    out->scale_rows = t->n_dims ? t->dims[0] : 1;
    out->scale_cols = t->n_dims > 1 ? t->dims[1] : 1;
}

static bool find_hf(const void *container, const char *name, struct lodge_source_tensor *out)
{
    const struct lodge_safetensors *s = container;
    const struct lodge_st_tensor *t = lodge_safetensors_find(s, name);
    static const char *const prefixes[] = {"language_model.", "model.language_model.", NULL};
    for (int i = 0; !t && prefixes[i]; i++) {
        char longer[160];
        const char *rest = i == 1 && strncmp(name, "model.", 6) == 0 ? name + 6 : name;
        snprintf(longer, sizeof longer, "%s%s", prefixes[i], rest);
        t = lodge_safetensors_find(s, longer);
    }
    if (!t)
        return false;
    *out = (struct lodge_source_tensor){
        .index = (uint64_t)(t - s->tensors),
        .type_name = t->dtype,
        .format = format_of_dtype(t->dtype),
        .n_dims = t->n_dims,
        .rows = t->n_dims > 1 ? t->dims[0] : 1,
        .cols = t->n_dims ? t->dims[t->n_dims - 1] : 1,
        .data = t->data,
        .n_bytes = t->n_bytes,
    };
    if (out->format == LODGE_FMT_F8_E4M3)
        find_scales(s, t->name, out);
    return true;
}

static struct lodge_span gguf_tensor_name(const void *container, uint64_t i)
{
    return ((const struct lodge_gguf *)container)->tensors[i].name;
}

static struct lodge_span hf_tensor_name(const void *container, uint64_t i)
{
    const char *name = ((const struct lodge_safetensors *)container)->tensors[i].name;
    return (struct lodge_span){name, strlen(name)};
}

/* ---- side files of a directory ---- */

/* dir/name as JSON; *out stays NULL when there is no such file. */
static int side_json(const struct lodge_model_file *m, const char *name, json_t **out,
                     struct lodge_error *e)
{
    char *path = lodge_path_join(m->dir, name);
    if (!path)
        return lodge_fail(e, LODGE_ERR_NOMEM, "%s: no memory", name);
    int err = lodge_file_exists(path) ? lodge_json_load_file(path, out, e) : 0;
    free(path);
    return err;
}

static void add_eos(struct lodge_generation_defaults *d, const json_t *v)
{
    size_t n = json_is_array(v) ? json_array_size(v) : json_is_integer(v);
    for (size_t i = 0; i < n; i++) {
        const json_t *id = json_is_array(v) ? json_array_get(v, i) : v;
        bool ok = json_is_integer(id) && json_integer_value(id) >= 0 &&
                  json_integer_value(id) < UINT32_MAX;
        bool seen = !ok;
        for (uint32_t k = 0; k < d->n_eos && ok; k++)
            seen |= d->eos[k] == json_integer_value(id);
        if (!seen && d->n_eos < sizeof d->eos / sizeof *d->eos)
            d->eos[d->n_eos++] = (uint32_t)json_integer_value(id);
    }
}

static float number_or(const json_t *obj, const char *key, float absent)
{
    const json_t *v = lodge_json_member(obj, key);
    double d = json_is_number(v) ? json_number_value(v) : -1;
    return d >= 0 && d < 1e9 ? (float)d : absent;
}

static int read_generation(struct lodge_model_file *m, const json_t *config, struct lodge_error *e)
{
    struct lodge_generation_defaults *d = &m->defaults;
    json_t *g = NULL;
    int err = side_json(m, "generation_config.json", &g, e);
    if (err)
        return err;
    d->temperature = number_or(g, "temperature", -1);
    d->top_p = number_or(g, "top_p", -1);
    d->min_p = number_or(g, "min_p", -1);
    d->repetition = number_or(g, "repetition_penalty", -1);
    d->top_k = (int32_t)number_or(g, "top_k", -1);
    add_eos(d, lodge_json_member(g, "eos_token_id"));
    add_eos(d, lodge_json_member(config, "eos_token_id"));
    json_decref(g);
    return 0;
}

static const char *keep(struct lodge_model_file *m, const char *text)
{
    return text ? lodge_arena_strndup(&m->arena, text, strlen(text)) : NULL;
}

/* A string, or a list of {name, template}. */
static void take_template(struct lodge_model_file *m, const json_t *v)
{
    if (json_is_string(v))
        m->chat_template = keep(m, json_string_value(v));
    size_t i;
    json_t *entry;
    json_array_foreach((json_t *)(uintptr_t)v, i, entry)
    {
        const char *name = json_string_value(json_object_get(entry, "name"));
        const char *text = json_string_value(json_object_get(entry, "template"));
        if (name && strcmp(name, "default") == 0)
            m->chat_template = keep(m, text);
        if (name && strcmp(name, "tool_use") == 0)
            m->tool_template = keep(m, text);
    }
}

static int read_template(struct lodge_model_file *m, struct lodge_error *e)
{
    char *path = lodge_path_join(m->dir, "chat_template.jinja");
    char *text = NULL;
    size_t n;
    int err = 0;
    if (path && lodge_file_exists(path))
        err = lodge_file_read(path, (size_t)4 << 20, &text, &n, e);
    m->chat_template = keep(m, text);
    free(text);
    free(path);
    if (err || m->chat_template)
        return err;
    json_t *config = NULL;
    err = side_json(m, "tokenizer_config.json", &config, e);
    if (!err)
        take_template(m, lodge_json_member(config, "chat_template"));
    json_decref(config);
    return err;
}

/* ---- opening ---- */

/* Vectors and samples of matrices lie far apart: with read-ahead, which may be megabytes, a plan
 * would cost the whole file. */
static int open_dir(struct lodge_model_file *m, uint32_t served_context, struct lodge_error *e)
{
    json_t *config = NULL;
    int err = side_json(m, "config.json", &config, e);
    if (!err && !config)
        err = lodge_fail(e, LODGE_ERR_FORMAT,
                         "%s: no config.json; give a .gguf file or a Hugging Face model directory",
                         m->dir);
    if (!err)
        err = lodge_safetensors_open(m->dir, &m->st, e);
    advise(m, MADV_RANDOM);
    char where[300];
    snprintf(where, sizeof where, "%.280s/config.json", m->dir);
    const struct lodge_tensor_source src = {
        .where = m->dir,
        .find = find_hf,
        .name = hf_tensor_name,
        .n_tensors = m->st.n_tensors,
        .other_parts = json_is_object(lodge_json_member(config, "text_config")),
        .container = &m->st};
    struct lodge_source_tensor head;
    if (!err)
        err = lodge_shape_from_hf(config, where, &src, &m->arena, &m->shape, e);
    /* A file without lm_head is tied whatever the configuration says. */
    if (!err && !find_hf(&m->st, "lm_head.weight", &head))
        m->shape.tied = true;
    if (!err)
        err = lodge_build_plan(&m->shape, &src, served_context, &m->plan, e);
    if (!err)
        err = read_generation(m, config, e);
    if (!err)
        err = read_template(m, e);
    json_decref(config);
    return err;
}

static const char *gguf_text(struct lodge_model_file *m, const char *key)
{
    struct lodge_span s = {0};
    if (lodge_gguf_get_string(&m->gguf, key, &s, NULL) || !s.n)
        return NULL;
    return lodge_arena_strndup(&m->arena, s.data, s.n);
}

static int open_gguf(struct lodge_model_file *m, const char *path, uint32_t served_context,
                     struct lodge_error *e)
{
    int err = lodge_gguf_open(path, &m->gguf, e);
    if (err)
        return err;
    m->is_gguf = true;
    advise(m, MADV_RANDOM);
    int64_t parts = 1;
    err = lodge_gguf_get_int(&m->gguf, "split.count", 0, 65535, &parts, e);
    if (!err && parts > 1)
        return lodge_fail(e, LODGE_ERR_UNSUPPORTED,
                          "%s: split GGUF files are not supported; merge them into one file first",
                          path);
    const struct lodge_tensor_source src = {.where = path,
                                            .gguf = true,
                                            .find = find_gguf,
                                            .name = gguf_tensor_name,
                                            .n_tensors = m->gguf.n_tensors,
                                            .container = &m->gguf};
    if (!err)
        err = lodge_shape_from_gguf(&m->gguf, &src, &m->arena, &m->shape, e);
    if (!err)
        err = lodge_build_plan(&m->shape, &src, served_context, &m->plan, e);
    m->chat_template = gguf_text(m, "tokenizer.chat_template");
    m->tool_template = gguf_text(m, "tokenizer.chat_template.tool_use");
    return err;
}

static void prefetch(const void *data, size_t n)
{
    uintptr_t at = (uintptr_t)data & ~(uintptr_t)4095;
    madvise((void *)at, (uintptr_t)data + n - at, MADV_WILLNEED);
}

/* A row of every matrix: all are asked of the disk before the first is waited for. */
static void make_fingerprint(struct lodge_model_file *m)
{
    const struct lodge_plan *p = &m->plan;
    struct lodge_digest key = {{0}}, next;
    size_t row;
    for (uint32_t i = 0; i < p->n_linears; i++)
        if (lodge_format_row_bytes(p->linears[i].format, p->linears[i].n_cols, &row))
            prefetch(p->tensors[i].data, row);
    for (uint32_t i = 0; i < p->n_linears; i++, key = next) {
        const struct lodge_linear *l = &p->linears[i];
        row = 0;
        lodge_format_row_bytes(l->format, l->n_cols, &row);
        lodge_keyed_hash(&key, l, sizeof *l, p->tensors[i].data, row, &next);
    }
    m->fingerprint = key;
}

/* "/a/b/Name.gguf" -> "Name". */
static char *own_name(const char *path)
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    size_t begin = n;
    while (begin > 0 && path[begin - 1] != '/')
        begin--;
    if (n - begin > 5 && memcmp(path + n - 5, ".gguf", 5) == 0)
        n -= 5;
    return strndup(path + begin, n - begin);
}

int lodge_model_open(const char *path, uint32_t served_context, struct lodge_model_file **out,
                     struct lodge_error *e)
{
    struct lodge_model_file *m = calloc(1, sizeof *m);
    if (!m)
        return lodge_fail(e, LODGE_ERR_NOMEM, "no memory for the model");
    lodge_arena_init(&m->arena, (size_t)256 << 20);
    m->defaults = (struct lodge_generation_defaults){-1, -1, -1, -1, -1, {0}, 0};
    int err = 0;
    if (lodge_dir_exists(path)) {
        char *real = realpath(path, NULL);
        m->name = own_name(real ? real : path);
        free(real);
        m->dir = strdup(path);
        err = m->dir ? open_dir(m, served_context, e)
                     : lodge_fail(e, LODGE_ERR_NOMEM, "no memory for a path");
    } else {
        m->name = own_name(path);
        err = open_gguf(m, path, served_context, e);
    }
    if (!err && !m->name)
        err = lodge_fail(e, LODGE_ERR_NOMEM, "no memory for a name");
    if (!err)
        make_fingerprint(m);
    advise(m, MADV_NORMAL);
    if (err) {
        lodge_model_close(m);
        return err;
    }
    *out = m;
    return 0;
}

void lodge_model_close(struct lodge_model_file *m)
{
    if (!m)
        return;
    lodge_arena_finish(&m->plan.arena);
    lodge_gguf_close(&m->gguf);
    lodge_safetensors_close(&m->st);
    lodge_arena_finish(&m->arena);
    free(m->name);
    free(m->dir);
    free(m);
}

struct lodge_plan *lodge_model_plan(struct lodge_model_file *m)
{
    return &m->plan;
}

const char *lodge_model_name(const struct lodge_model_file *m)
{
    return m->name;
}

const struct lodge_gguf *lodge_model_gguf(const struct lodge_model_file *m)
{
    return m->is_gguf ? &m->gguf : NULL;
}

const struct lodge_family *lodge_model_family(const struct lodge_model_file *m)
{
    return m->shape.family;
}

const char *lodge_model_dir(const struct lodge_model_file *m)
{
    return m->dir;
}

const char *lodge_model_chat_template(const struct lodge_model_file *m, bool with_tools)
{
    return with_tools && m->tool_template ? m->tool_template : m->chat_template;
}

const struct lodge_generation_defaults *lodge_model_defaults(const struct lodge_model_file *m)
{
    return &m->defaults;
}

void lodge_model_fingerprint(const struct lodge_model_file *m, struct lodge_digest *out)
{
    *out = m->fingerprint;
}

void lodge_model_identity(const struct lodge_model_file *m, const struct lodge_digest *fingerprint,
                          struct lodge_digest *out)
{
    struct lodge_file_stamp stamp = lodge_map_stamp(&m->gguf.map);
    lodge_keyed_hash(fingerprint, &stamp, sizeof stamp, NULL, 0, out);
    for (uint32_t i = 0; i < m->st.n_maps; i++) {
        struct lodge_digest next;
        stamp = lodge_map_stamp(&m->st.maps[i]);
        lodge_keyed_hash(out, &stamp, sizeof stamp, NULL, 0, &next);
        *out = next;
    }
}

void lodge_model_release_pages(struct lodge_model_file *m)
{
    advise(m, MADV_DONTNEED);
}
