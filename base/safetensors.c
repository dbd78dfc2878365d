#include "base/safetensors.h"

#include "base/checked.h"
#include "base/json.h"

#include <stdlib.h>
#include <string.h>

#define MAX_HEADER ((uint64_t)100000000)
#define MAX_ARENA ((size_t)1 << 30)
#define MAX_SHARDS 4096u

static const struct {
    const char *name;
    uint32_t bits;
} dtypes[] = {
    {"F64", 64},    {"I64", 64},    {"U64", 64},        {"C64", 64},        {"F32", 32},
    {"I32", 32},    {"U32", 32},    {"F16", 16},        {"BF16", 16},       {"I16", 16},
    {"U16", 16},    {"BOOL", 8},    {"U8", 8},          {"I8", 8},          {"F8_E4M3", 8},
    {"F8_E5M2", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"F6_E2M3", 6},
    {"F6_E3M2", 6}, {"F4", 4},
};

static int set_dtype(const json_t *spec, struct lodge_st_tensor *t)
{
    const char *name = json_string_value(json_object_get(spec, "dtype"));
    for (size_t i = 0; name && i < sizeof dtypes / sizeof *dtypes; i++)
        if (strcmp(dtypes[i].name, name) == 0) {
            t->dtype = dtypes[i].name;
            t->bits = dtypes[i].bits;
            return 0;
        }
    return LODGE_ERR_FORMAT;
}

/* Bits of the whole tensor; false when the shape is not one or overflows. */
static bool set_shape(const json_t *spec, struct lodge_st_tensor *t, size_t *bits)
{
    const json_t *shape = json_object_get(spec, "shape");
    if (!json_is_array(shape) || json_array_size(shape) > 8)
        return false;
    size_t n = t->bits;
    t->n_dims = (uint32_t)json_array_size(shape);
    for (uint32_t d = 0; d < t->n_dims; d++) {
        const json_t *dim = json_array_get(shape, d);
        if (!json_is_integer(dim) || json_integer_value(dim) < 0)
            return false;
        t->dims[d] = (uint64_t)json_integer_value(dim);
        if (!lodge_mul_size(n, t->dims[d], &n))
            return false;
    }
    *bits = n;
    return true;
}

static int read_tensor(const char *where, const char *name, const json_t *spec, const uint8_t *data,
                       size_t n_data, struct lodge_st_tensor *t, struct lodge_error *e)
{
    size_t bits;
    if (!json_is_object(spec) || set_dtype(spec, t))
        return lodge_fail(e, LODGE_ERR_FORMAT, "%s: tensor '%s' has no known dtype", where, name);
    if (!set_shape(spec, t, &bits) || bits % 8)
        return lodge_fail(e, LODGE_ERR_FORMAT, "%s: tensor '%s' has an invalid shape", where, name);
    const json_t *offsets = json_object_get(spec, "data_offsets");
    const json_t *b = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(b) || !json_is_integer(end) ||
        json_integer_value(b) < 0 || json_integer_value(end) < json_integer_value(b) ||
        (uint64_t)json_integer_value(end) > n_data)
        return lodge_fail(e, LODGE_ERR_FORMAT,
                          "%s: tensor '%s' has data_offsets outside the file's %zu data bytes; "
                          "the file is truncated or damaged",
                          where, name, n_data);
    t->data = data + json_integer_value(b);
    t->n_bytes = (size_t)(json_integer_value(end) - json_integer_value(b));
    if (t->n_bytes != bits / 8)
        return lodge_fail(e, LODGE_ERR_FORMAT,
                          "%s: tensor '%s' has %zu bytes; its shape and dtype %s need %zu", where,
                          name, t->n_bytes, t->dtype, bits / 8);
    return 0;
}

static int by_place(const void *a, const void *b)
{
    const struct lodge_st_tensor *x = a, *y = b;
    if (x->data != y->data)
        return x->data < y->data ? -1 : 1;
    return (x->n_bytes > y->n_bytes) - (x->n_bytes < y->n_bytes);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct lodge_st_tensor *)a)->name,
                  ((const struct lodge_st_tensor *)b)->name);
}

/* The tensors must tile the data section exactly. */
static int check_cover(const char *where, struct lodge_st_tensor *t, size_t n, const uint8_t *data,
                       size_t n_data, struct lodge_error *e)
{
    qsort(t, n, sizeof *t, by_place);
    const uint8_t *at = data;
    for (size_t i = 0; i < n; i++) {
        if (t[i].data != at)
            return lodge_fail(e, LODGE_ERR_FORMAT,
                              "%s: tensor '%s' begins at data byte %zu, the one before ends at %zu",
                              where, t[i].name, (size_t)(t[i].data - data), (size_t)(at - data));
        at += t[i].n_bytes;
    }
    if (at != data + n_data)
        return lodge_fail(e, LODGE_ERR_FORMAT,
                          "%s: %zu bytes after the last tensor; the file is damaged", where,
                          (size_t)(data + n_data - at));
    return 0;
}

/* Bounds of the JSON header. */
static int header_span(const uint8_t *data, size_t n, const char *where, size_t *len,
                       struct lodge_error *e)
{
    uint64_t h = 0;
    if (n >= 8)
        memcpy(&h, data, 8);
    if (n < 8 || h > MAX_HEADER || h > n - 8)
        return lodge_fail(e, LODGE_ERR_FORMAT,
                          "%s: not a safetensors file, or truncated (%zu bytes, header of %llu)",
                          where, n, (unsigned long long)h);
    if (h == 0 || data[8] != '{')
        return lodge_fail(e, LODGE_ERR_FORMAT, "%s: the safetensors header is no JSON object",
                          where);
    *len = (size_t)h;
    return 0;
}

/* Appends the tensors of one file; `room` entries are free at s->tensors + s->n_tensors. */
static int add_file(struct lodge_safetensors *s, const uint8_t *data, size_t n, const char *where,
                    struct lodge_error *e)
{
    size_t len = 0;
    json_t *head = NULL;
    int err = header_span(data, n, where, &len, e);
    if (!err)
        err =
            lodge_json_load((const char *)data + 8, len, &lodge_json_file_limits, where, &head, e);
    if (err)
        return err;
    size_t room = s->n_tensors + json_object_size(head);
    struct lodge_st_tensor *all = lodge_arena_array(&s->arena, room + 1, sizeof *all);
    if (!all) {
        json_decref(head);
        return lodge_fail(e, LODGE_ERR_NOMEM, "%s: no memory for the tensor table", where);
    }
    if (s->n_tensors)
        memcpy(all, s->tensors, s->n_tensors * sizeof *all);
    struct lodge_st_tensor *added = all + s->n_tensors;
    size_t n_added = 0;
    const char *name;
    json_t *spec;
    json_object_foreach(head, name, spec)
    {
        if (strcmp(name, "__metadata__") == 0)
            continue;
        struct lodge_st_tensor *t = &added[n_added++];
        t->name = lodge_arena_strndup(&s->arena, name, strlen(name));
        err = t->name ? read_tensor(where, name, spec, data + 8 + len, n - 8 - len, t, e)
                      : lodge_fail(e, LODGE_ERR_NOMEM, "%s: no memory for names", where);
        if (err)
            break;
    }
    json_decref(head);
    if (!err)
        err = check_cover(where, added, n_added, data + 8 + len, n - 8 - len, e);
    s->tensors = all;
    s->n_tensors += n_added;
    return err;
}

static int sort_names(struct lodge_safetensors *s, const char *where, struct lodge_error *e)
{
    if (s->n_tensors)
        qsort(s->tensors, s->n_tensors, sizeof *s->tensors, by_name);
    for (size_t i = 1; i < s->n_tensors; i++)
        if (by_name(&s->tensors[i - 1], &s->tensors[i]) == 0)
            return lodge_fail(e, LODGE_ERR_FORMAT, "%s: tensor '%s' is in two shards", where,
                              s->tensors[i].name);
    return 0;
}

int lodge_safetensors_parse(const uint8_t *data, size_t n, const char *where,
                            struct lodge_safetensors *out, struct lodge_error *e)
{
    *out = (struct lodge_safetensors){0};
    lodge_arena_init(&out->arena, MAX_ARENA);
    int err = add_file(out, data, n, where, e);
    if (!err)
        err = sort_names(out, where, e);
    if (err)
        lodge_safetensors_close(out);
    return err;
}

static int add_shard(struct lodge_safetensors *s, const char *dir, const char *name,
                     struct lodge_error *e)
{
    char *path = lodge_path_join(dir, name);
    if (!path)
        return lodge_fail(e, LODGE_ERR_NOMEM, "no memory for a path");
    struct lodge_map *map = &s->maps[s->n_maps];
    int err = lodge_map_open(path, map, e);
    if (!err) {
        s->n_maps++;
        err = add_file(s, map->data, map->n_bytes, path, e);
    }
    free(path);
    return err;
}

/* File names of the weight map, each once. Borrowed from `index`. */
static int shard_names(const json_t *index, const char *where, const char **names, uint32_t *n,
                       struct lodge_error *e)
{
    const json_t *weights = json_object_get(index, "weight_map");
    const char *tensor;
    json_t *file;
    if (!json_is_object(weights) || json_object_size(weights) == 0)
        return lodge_fail(e, LODGE_ERR_FORMAT, "%s: no 'weight_map'", where);
    json_object_foreach((json_t *)(uintptr_t)weights, tensor, file)
    {
        const char *name = json_string_value(file);
        if (!name || !*name || strpbrk(name, "/\\") || strstr(name, ".."))
            return lodge_fail(e, LODGE_ERR_FORMAT,
                              "%s: tensor '%s' is mapped to an invalid file name", where, tensor);
        uint32_t i = 0;
        while (i < *n && strcmp(names[i], name) != 0)
            i++;
        if (i < *n)
            continue;
        if (*n == MAX_SHARDS)
            return lodge_fail(e, LODGE_ERR_LIMIT, "%s: more than %u shards", where, MAX_SHARDS);
        names[(*n)++] = name;
    }
    return 0;
}

/* Every tensor of the weight map must really be in its shard set. */
static int check_index(const struct lodge_safetensors *s, const json_t *index, const char *where,
                       struct lodge_error *e)
{
    const char *tensor;
    json_t *file;
    json_object_foreach(json_object_get(index, "weight_map"), tensor, file)
    {
        if (!lodge_safetensors_find(s, tensor))
            return lodge_fail(e, LODGE_ERR_FORMAT,
                              "%s: tensor '%s' is not in '%s' as the index says", where, tensor,
                              json_string_value(file));
    }
    return 0;
}

static int open_sharded(struct lodge_safetensors *s, const char *dir, const char *index_path,
                        struct lodge_error *e)
{
    json_t *index = NULL;
    int err = lodge_json_load_file(index_path, &index, e);
    if (err)
        return err;
    const char **names = calloc(MAX_SHARDS, sizeof *names);
    s->maps = calloc(MAX_SHARDS, sizeof *s->maps);
    uint32_t n = 0;
    if (!names || !s->maps)
        err = lodge_fail(e, LODGE_ERR_NOMEM, "%s: no memory", index_path);
    if (!err)
        err = shard_names(index, index_path, names, &n, e);
    for (uint32_t i = 0; i < n && !err; i++)
        err = add_shard(s, dir, names[i], e);
    if (!err)
        err = sort_names(s, dir, e);
    if (!err)
        err = check_index(s, index, index_path, e);
    free(names);
    json_decref(index);
    return err;
}

static int open_single(struct lodge_safetensors *s, const char *dir, struct lodge_error *e)
{
    s->maps = calloc(1, sizeof *s->maps);
    if (!s->maps)
        return lodge_fail(e, LODGE_ERR_NOMEM, "%s: no memory", dir);
    int err = add_shard(s, dir, "model.safetensors", e);
    if (err == LODGE_ERR_NOT_FOUND)
        lodge_fail(e, err,
                   "%s: neither model.safetensors nor model.safetensors.index.json is there; fetch "
                   "the weights, or convert .bin files to safetensors",
                   dir);
    return err ? err : sort_names(s, dir, e);
}

int lodge_safetensors_open(const char *dir, struct lodge_safetensors *out, struct lodge_error *e)
{
    *out = (struct lodge_safetensors){0};
    lodge_arena_init(&out->arena, MAX_ARENA);
    char *index = lodge_path_join(dir, "model.safetensors.index.json");
    if (!index)
        return lodge_fail(e, LODGE_ERR_NOMEM, "%s: no memory", dir);
    int err =
        lodge_file_exists(index) ? open_sharded(out, dir, index, e) : open_single(out, dir, e);
    free(index);
    if (err)
        lodge_safetensors_close(out);
    return err;
}

void lodge_safetensors_close(struct lodge_safetensors *s)
{
    if (!s)
        return;
    for (uint32_t i = 0; i < s->n_maps; i++)
        lodge_map_close(&s->maps[i]);
    free(s->maps);
    lodge_arena_finish(&s->arena);
    *s = (struct lodge_safetensors){0};
}

const struct lodge_st_tensor *lodge_safetensors_find(const struct lodge_safetensors *s,
                                                     const char *name)
{
    struct lodge_st_tensor probe = {.name = name};
    return s->n_tensors ? bsearch(&probe, s->tensors, s->n_tensors, sizeof probe, by_name) : NULL;
}
