/* One pass over an untrusted file: every part is checked against what the one before left. */
#include "base/gguf.h"

#include "base/checked.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_STRING ((uint64_t)1 << 30)
#define MAX_VALUES ((uint64_t)1 << 20)
#define MAX_TENSORS ((uint64_t)1 << 20)
#define MAX_ARENA ((size_t)2 << 30)

struct reader {
    const uint8_t *data;
    size_t n, at;
    const char *where;
    struct lodge_error *e;
};

/* name, elements of a block, bytes of a block; a zero block marks numbers that were withdrawn. */
static const struct {
    const char *name;
    uint32_t block, bytes;
} types[] = {
    [0] = {"F32", 1, 4},         [1] = {"F16", 1, 2},         [2] = {"Q4_0", 32, 18},
    [3] = {"Q4_1", 32, 20},      [6] = {"Q5_0", 32, 22},      [7] = {"Q5_1", 32, 24},
    [8] = {"Q8_0", 32, 34},      [9] = {"Q8_1", 32, 36},      [10] = {"Q2_K", 256, 84},
    [11] = {"Q3_K", 256, 110},   [12] = {"Q4_K", 256, 144},   [13] = {"Q5_K", 256, 176},
    [14] = {"Q6_K", 256, 210},   [15] = {"Q8_K", 256, 292},   [16] = {"IQ2_XXS", 256, 66},
    [17] = {"IQ2_XS", 256, 74},  [18] = {"IQ3_XXS", 256, 98}, [19] = {"IQ1_S", 256, 50},
    [20] = {"IQ4_NL", 32, 18},   [21] = {"IQ3_S", 256, 110},  [22] = {"IQ2_S", 256, 82},
    [23] = {"IQ4_XS", 256, 136}, [24] = {"I8", 1, 1},         [25] = {"I16", 1, 2},
    [26] = {"I32", 1, 4},        [27] = {"I64", 1, 8},        [28] = {"F64", 1, 8},
    [29] = {"IQ1_M", 256, 56},   [30] = {"BF16", 1, 2},       [34] = {"TQ1_0", 256, 54},
    [35] = {"TQ2_0", 256, 66},   [39] = {"MXFP4", 32, 17},    [40] = {"NVFP4", 64, 36},
    [41] = {"Q1_0", 128, 18},    [42] = {"Q2_0", 64, 18},
};

static const uint8_t scalar_bytes[LODGE_GGUF_TYPE_COUNT] = {
    [LODGE_GGUF_U8] = 1,  [LODGE_GGUF_I8] = 1,  [LODGE_GGUF_U16] = 2, [LODGE_GGUF_I16] = 2,
    [LODGE_GGUF_U32] = 4, [LODGE_GGUF_I32] = 4, [LODGE_GGUF_F32] = 4, [LODGE_GGUF_BOOL] = 1,
    [LODGE_GGUF_U64] = 8, [LODGE_GGUF_I64] = 8, [LODGE_GGUF_F64] = 8,
};

const char *lodge_gguf_type_name(uint32_t type)
{
    return type < sizeof types / sizeof *types ? types[type].name : NULL;
}

/* Points at the next n bytes and steps over them; NULL (with the error set) if fewer are left. */
static const uint8_t *take(struct reader *r, uint64_t n, const char *what)
{
    if (n > r->n - r->at) {
        lodge_fail(
            r->e, LODGE_ERR_FORMAT,
            "%s: GGUF ends inside %s (needs %llu bytes at offset %zu, the file has %zu); the "
            "file is truncated or damaged, fetch it again",
            r->where, what, (unsigned long long)n, r->at, r->n);
        return NULL;
    }
    const uint8_t *p = r->data + r->at;
    r->at += (size_t)n;
    return p;
}

static int take_u32(struct reader *r, const char *what, uint32_t *out)
{
    const uint8_t *p = take(r, 4, what);
    if (!p)
        return LODGE_ERR_FORMAT;
    memcpy(out, p, 4);
    return 0;
}

static int take_u64(struct reader *r, const char *what, uint64_t *out)
{
    const uint8_t *p = take(r, 8, what);
    if (!p)
        return LODGE_ERR_FORMAT;
    memcpy(out, p, 8);
    return 0;
}

static int take_string(struct reader *r, const char *what, struct lodge_span *out)
{
    uint64_t n;
    int err = take_u64(r, what, &n);
    if (err)
        return err;
    if (n > MAX_STRING)
        return lodge_fail(
            r->e, LODGE_ERR_FORMAT,
            "%s: GGUF: %s claims to be %llu bytes long; the file is damaged, fetch it again",
            r->where, what, (unsigned long long)n);
    const uint8_t *p = take(r, n, what);
    if (!p)
        return LODGE_ERR_FORMAT;
    *out = (struct lodge_span){(const char *)p, (size_t)n};
    return 0;
}

static int take_array(struct reader *r, struct lodge_arena *arena, struct lodge_gguf_value *v)
{
    uint32_t elem;
    int err = take_u32(r, "an array's type", &elem);
    if (!err)
        err = take_u64(r, "an array's length", &v->n);
    if (err)
        return err;
    if (elem >= LODGE_GGUF_TYPE_COUNT || elem == LODGE_GGUF_ARRAY)
        return lodge_fail(r->e, LODGE_ERR_FORMAT, "%s: metadata '%.*s': array of %s", r->where,
                          (int)v->key.n, v->key.data,
                          elem == LODGE_GGUF_ARRAY ? "arrays is not supported" : "unknown type");
    v->elem = (enum lodge_gguf_type)elem;
    uint32_t size = elem == LODGE_GGUF_STRING ? 8 : scalar_bytes[elem];
    if (v->n > (r->n - r->at) / size) {
        take(r, r->n - r->at + 1, "an array");
        return LODGE_ERR_FORMAT;
    }
    v->data = r->data + r->at;
    if (elem != LODGE_GGUF_STRING) {
        take(r, v->n * size, "an array");
        return 0;
    }
    v->strings = lodge_arena_array(arena, v->n ? v->n : 1, sizeof *v->strings);
    if (!v->strings)
        return lodge_fail(r->e, LODGE_ERR_NOMEM, "%s: no memory for %llu strings", r->where,
                          (unsigned long long)v->n);
    for (uint64_t i = 0; i < v->n && !err; i++)
        err = take_string(r, "a string of an array", &v->strings[i]);
    return err;
}

static int take_value(struct reader *r, struct lodge_arena *arena, struct lodge_gguf_value *v)
{
    uint32_t type;
    int err = take_string(r, "a metadata key", &v->key);
    if (!err && (v->key.n == 0 || v->key.n > 65535))
        err = lodge_fail(r->e, LODGE_ERR_FORMAT, "%s: metadata key of %zu bytes at offset %zu",
                         r->where, v->key.n, r->at);
    if (!err)
        err = take_u32(r, "a metadata type", &type);
    if (err)
        return err;
    v->n = 1;
    if (type >= LODGE_GGUF_TYPE_COUNT)
        return lodge_fail(r->e, LODGE_ERR_FORMAT, "%s: metadata '%.*s' has unknown type %u",
                          r->where, (int)v->key.n, v->key.data, type);
    v->type = (enum lodge_gguf_type)type;
    if (type == LODGE_GGUF_ARRAY)
        return take_array(r, arena, v);
    if (type == LODGE_GGUF_STRING) {
        struct lodge_span s = {0};
        err = take_string(r, "a metadata string", &s);
        v->data = (const uint8_t *)s.data;
        v->n = s.n;
        return err;
    }
    v->data = take(r, scalar_bytes[type], "a metadata value");
    return v->data ? 0 : LODGE_ERR_FORMAT;
}

static int compare_spans(const struct lodge_span *a, const struct lodge_span *b)
{
    size_t n = a->n < b->n ? a->n : b->n;
    int c = n ? memcmp(a->data, b->data, n) : 0;
    return c ? c : (a->n > b->n) - (a->n < b->n);
}

static int compare_values(const void *a, const void *b)
{
    return compare_spans(&((const struct lodge_gguf_value *)a)->key,
                         &((const struct lodge_gguf_value *)b)->key);
}

static int compare_tensors(const void *a, const void *b)
{
    return compare_spans(&((const struct lodge_gguf_tensor *)a)->name,
                         &((const struct lodge_gguf_tensor *)b)->name);
}

static int read_values(struct reader *r, struct lodge_gguf *g)
{
    int err = 0;
    for (uint64_t i = 0; i < g->n_values && !err; i++)
        err = take_value(r, &g->arena, &g->values[i]);
    if (err)
        return err;
    qsort(g->values, g->n_values, sizeof *g->values, compare_values);
    for (uint64_t i = 1; i < g->n_values; i++)
        if (compare_values(&g->values[i - 1], &g->values[i]) == 0)
            return lodge_fail(r->e, LODGE_ERR_FORMAT, "%s: metadata key '%.*s' appears twice",
                              r->where, (int)g->values[i].key.n, g->values[i].key.data);
    return 0;
}

/* Bytes of a tensor from its type and dims; 0 result means refused with the error set. */
static int tensor_bytes(struct reader *r, struct lodge_gguf_tensor *t)
{
    const char *name = t->name.data;
    int len = (int)t->name.n;
    if (t->type >= sizeof types / sizeof *types || !types[t->type].block)
        return lodge_fail(r->e, LODGE_ERR_UNSUPPORTED,
                          "%s: tensor '%.*s' has weight type %u, which this reader does not know; "
                          "convert the model with current standard types such as Q8_0 or Q4_0",
                          r->where, len, name, t->type);
    uint64_t n = 1;
    for (uint32_t d = 0; d < 4; d++)
        if (__builtin_mul_overflow(n, t->dims[d], &n) || n > INT64_MAX)
            return lodge_fail(r->e, LODGE_ERR_FORMAT, "%s: tensor '%.*s' has too many elements",
                              r->where, len, name);
    if (t->dims[0] % types[t->type].block)
        return lodge_fail(r->e, LODGE_ERR_FORMAT,
                          "%s: tensor '%.*s' has rows of %llu elements, no multiple of %s's block "
                          "of %u",
                          r->where, len, name, (unsigned long long)t->dims[0], types[t->type].name,
                          types[t->type].block);
    size_t bytes;
    if (!lodge_mul_size(n / types[t->type].block, types[t->type].bytes, &bytes))
        return lodge_fail(r->e, LODGE_ERR_FORMAT, "%s: tensor '%.*s' is too large", r->where, len,
                          name);
    t->n_bytes = bytes;
    return 0;
}

static int read_tensor(struct reader *r, struct lodge_gguf_tensor *t, uint64_t *offset)
{
    int err = take_string(r, "a tensor name", &t->name);
    if (!err && (t->name.n == 0 || t->name.n > 127))
        err = lodge_fail(r->e, LODGE_ERR_FORMAT, "%s: tensor name of %zu bytes at offset %zu",
                         r->where, t->name.n, r->at);
    if (!err)
        err = take_u32(r, "a tensor's dimensions", &t->n_dims);
    if (err)
        return err;
    if (t->n_dims == 0 || t->n_dims > 4)
        return lodge_fail(r->e, LODGE_ERR_FORMAT, "%s: tensor '%.*s' has %u dimensions (1 to 4)",
                          r->where, (int)t->name.n, t->name.data, t->n_dims);
    for (uint32_t d = 0; d < 4; d++)
        t->dims[d] = 1;
    for (uint32_t d = 0; d < t->n_dims && !err; d++)
        err = take_u64(r, "a tensor's dimensions", &t->dims[d]);
    if (!err)
        err = take_u32(r, "a tensor's type", &t->type);
    if (!err)
        err = take_u64(r, "a tensor's offset", offset);
    return err ? err : tensor_bytes(r, t);
}

static int read_alignment(struct reader *r, const struct lodge_gguf *g, size_t *out)
{
    int64_t align = 32;
    int err = lodge_gguf_get_int(g, "general.alignment", 1, 1 << 20, &align, r->e);
    if (err)
        return err;
    if (align & (align - 1))
        return lodge_fail(r->e, LODGE_ERR_FORMAT, "%s: general.alignment %lld is no power of two",
                          r->where, (long long)align);
    *out = (size_t)align;
    return 0;
}

/* Offsets are relative to the data section and must equal the running sum of padded sizes. */
static int place_tensors(struct reader *r, struct lodge_gguf *g, const uint64_t *offsets)
{
    size_t align = 1, base, sum = 0;
    int err = read_alignment(r, g, &align);
    if (err)
        return err;
    if (!lodge_round_up(r->at, align, &base) || (g->n_tensors && base > r->n))
        return lodge_fail(r->e, LODGE_ERR_FORMAT,
                          "%s: GGUF ends before its tensor data; the file "
                          "is truncated",
                          r->where);
    for (size_t i = r->at; g->n_tensors && i < base; i++)
        if (r->data[i])
            return lodge_fail(
                r->e, LODGE_ERR_FORMAT,
                "%s: the padding after the tensor table is not zero (offset %zu): its "
                "count or a length is wrong; the file is damaged, fetch it again",
                r->where, i);
    for (uint64_t i = 0; i < g->n_tensors; i++) {
        struct lodge_gguf_tensor *t = &g->tensors[i];
        if (offsets[i] != sum)
            return lodge_fail(
                r->e, LODGE_ERR_FORMAT,
                "%s: tensor '%.*s' lies at offset %llu of the data, expected %zu; the file is "
                "damaged, fetch it again",
                r->where, (int)t->name.n, t->name.data, (unsigned long long)offsets[i], sum);
        if (sum > r->n - base || t->n_bytes > r->n - base - sum)
            return lodge_fail(r->e, LODGE_ERR_FORMAT,
                              "%s: tensor '%.*s' needs %zu bytes at offset %zu but the file has "
                              "only %zu; it is truncated, fetch it again",
                              r->where, (int)t->name.n, t->name.data, t->n_bytes, base + sum, r->n);
        t->data = r->data + base + sum;
        size_t padded;
        if (!lodge_round_up(t->n_bytes, align, &padded) || !lodge_add_size(sum, padded, &sum))
            return lodge_fail(r->e, LODGE_ERR_FORMAT, "%s: tensor sizes overflow", r->where);
    }
    return 0;
}

static int read_tensors(struct reader *r, struct lodge_gguf *g)
{
    uint64_t *offsets = lodge_arena_array(&g->arena, g->n_tensors + 1, sizeof *offsets);
    if (!offsets)
        return lodge_fail(r->e, LODGE_ERR_NOMEM, "%s: no memory for the tensor table", r->where);
    int err = 0;
    for (uint64_t i = 0; i < g->n_tensors && !err; i++)
        err = read_tensor(r, &g->tensors[i], &offsets[i]);
    if (!err)
        err = place_tensors(r, g, offsets);
    if (err)
        return err;
    qsort(g->tensors, g->n_tensors, sizeof *g->tensors, compare_tensors);
    for (uint64_t i = 1; i < g->n_tensors; i++)
        if (compare_tensors(&g->tensors[i - 1], &g->tensors[i]) == 0)
            return lodge_fail(r->e, LODGE_ERR_FORMAT, "%s: tensor '%.*s' appears twice", r->where,
                              (int)g->tensors[i].name.n, g->tensors[i].name.data);
    return 0;
}

static int read_head(struct reader *r, struct lodge_gguf *g)
{
    const uint8_t *magic = take(r, 4, "its magic number");
    if (!magic)
        return LODGE_ERR_FORMAT;
    if (memcmp(magic, "GGUF", 4) != 0)
        return lodge_fail(r->e, LODGE_ERR_FORMAT,
                          "%s: not a GGUF file (it does not begin with "
                          "'GGUF')",
                          r->where);
    int err = take_u32(r, "its version", &g->version);
    if (err)
        return err;
    if (g->version != 0 && (g->version & 0xFFFF) == 0)
        return lodge_fail(r->e, LODGE_ERR_UNSUPPORTED,
                          "%s: big-endian GGUF; convert the model to "
                          "little-endian",
                          r->where);
    if (g->version != 2 && g->version != 3)
        return lodge_fail(r->e, LODGE_ERR_UNSUPPORTED,
                          "%s: GGUF version %u; versions 2 and 3 are "
                          "supported, convert the model again",
                          r->where, g->version);
    err = take_u64(r, "its tensor count", &g->n_tensors);
    if (!err)
        err = take_u64(r, "its metadata count", &g->n_values);
    if (err)
        return err;
    /* The smallest entry takes 12 (value) or 24 (tensor) bytes: bounds memory by the file. */
    if (g->n_values > MAX_VALUES || g->n_values > r->n / 12 || g->n_tensors > MAX_TENSORS ||
        g->n_tensors > r->n / 24)
        return lodge_fail(r->e, LODGE_ERR_FORMAT,
                          "%s: GGUF claims %llu tensors and %llu metadata values, more than its "
                          "size allows",
                          r->where, (unsigned long long)g->n_tensors,
                          (unsigned long long)g->n_values);
    return 0;
}

int lodge_gguf_parse(const uint8_t *data, size_t n, const char *where, struct lodge_gguf *out,
                     struct lodge_error *e)
{
    *out = (struct lodge_gguf){0};
    struct lodge_gguf *g = out;
    lodge_arena_init(&g->arena, MAX_ARENA);
    struct reader r = {.data = data, .n = n, .where = where, .e = e};
    int err = read_head(&r, g);
    if (!err) {
        g->values = lodge_arena_array(&g->arena, g->n_values + 1, sizeof *g->values);
        g->tensors = lodge_arena_array(&g->arena, g->n_tensors + 1, sizeof *g->tensors);
        if (!g->values || !g->tensors)
            err = lodge_fail(e, LODGE_ERR_NOMEM, "%s: no memory for the GGUF tables", where);
    }
    if (!err)
        err = read_values(&r, g);
    if (!err)
        err = read_tensors(&r, g);
    if (err)
        lodge_gguf_close(g);
    return err;
}

int lodge_gguf_open(const char *path, struct lodge_gguf *out, struct lodge_error *e)
{
    struct lodge_map map;
    int err = lodge_map_open(path, &map, e);
    if (err)
        return err;
    err = lodge_gguf_parse(map.data, map.n_bytes, path, out, e);
    if (err)
        lodge_map_close(&map);
    else
        out->map = map;
    return err;
}

void lodge_gguf_close(struct lodge_gguf *g)
{
    if (!g)
        return;
    lodge_arena_finish(&g->arena);
    lodge_map_close(&g->map);
    *g = (struct lodge_gguf){0};
}

const struct lodge_gguf_value *lodge_gguf_find(const struct lodge_gguf *g, const char *key)
{
    struct lodge_gguf_value probe = {.key = {key, strlen(key)}};
    return g->n_values ? bsearch(&probe, g->values, g->n_values, sizeof probe, compare_values)
                       : NULL;
}

const struct lodge_gguf_tensor *lodge_gguf_tensor(const struct lodge_gguf *g, const char *name)
{
    struct lodge_gguf_tensor probe = {.name = {name, strlen(name)}};
    return g->n_tensors ? bsearch(&probe, g->tensors, g->n_tensors, sizeof probe, compare_tensors)
                        : NULL;
}

#define LOAD(type, field)                                                                          \
    do {                                                                                           \
        type x_;                                                                                   \
        memcpy(&x_, p, sizeof x_);                                                                 \
        *(field) = (double)x_;                                                                     \
        return true;                                                                               \
    } while (0)

bool lodge_gguf_number(const struct lodge_gguf_value *v, uint64_t i, double *out)
{
    enum lodge_gguf_type type = v->type == LODGE_GGUF_ARRAY ? v->elem : v->type;
    if (type == LODGE_GGUF_STRING || i >= v->n)
        return false;
    const uint8_t *p = v->data + i * scalar_bytes[type];
    switch (type) {
    case LODGE_GGUF_U8:
    case LODGE_GGUF_BOOL:
        LOAD(uint8_t, out);
    case LODGE_GGUF_I8:
        LOAD(int8_t, out);
    case LODGE_GGUF_U16:
        LOAD(uint16_t, out);
    case LODGE_GGUF_I16:
        LOAD(int16_t, out);
    case LODGE_GGUF_U32:
        LOAD(uint32_t, out);
    case LODGE_GGUF_I32:
        LOAD(int32_t, out);
    case LODGE_GGUF_F32:
        LOAD(float, out);
    case LODGE_GGUF_U64:
        LOAD(uint64_t, out);
    case LODGE_GGUF_I64:
        LOAD(int64_t, out);
    case LODGE_GGUF_F64:
        LOAD(double, out);
    default:
        return false;
    }
}

/* The scalar value of `key`; 0 with *v NULL when absent. */
static int scalar(const struct lodge_gguf *g, const char *key, double *out,
                  const struct lodge_gguf_value **v, struct lodge_error *e)
{
    *v = lodge_gguf_find(g, key);
    if (!*v)
        return 0;
    if ((*v)->type == LODGE_GGUF_ARRAY || !lodge_gguf_number(*v, 0, out))
        return lodge_fail(e, LODGE_ERR_FORMAT, "metadata '%s' must be a number", key);
    return 0;
}

int lodge_gguf_get_int(const struct lodge_gguf *g, const char *key, int64_t min, int64_t max,
                       int64_t *out, struct lodge_error *e)
{
    const struct lodge_gguf_value *v;
    double d = 0;
    int err = scalar(g, key, &d, &v, e);
    if (err || !v)
        return err;
    if (!(d >= (double)min && d <= (double)max) || d != floor(d))
        return lodge_fail(e, LODGE_ERR_FORMAT,
                          "metadata '%s' is %g; an integer from %lld to %lld is expected", key, d,
                          (long long)min, (long long)max);
    *out = (int64_t)d;
    return 0;
}

int lodge_gguf_get_float(const struct lodge_gguf *g, const char *key, double *out,
                         struct lodge_error *e)
{
    const struct lodge_gguf_value *v;
    double d = 0;
    int err = scalar(g, key, &d, &v, e);
    if (err || !v)
        return err;
    if (!isfinite(d))
        return lodge_fail(e, LODGE_ERR_FORMAT, "metadata '%s' is not a finite number", key);
    *out = d;
    return 0;
}

int lodge_gguf_get_bool(const struct lodge_gguf *g, const char *key, bool *out,
                        struct lodge_error *e)
{
    const struct lodge_gguf_value *v = lodge_gguf_find(g, key);
    if (!v)
        return 0;
    if (v->type != LODGE_GGUF_BOOL)
        return lodge_fail(e, LODGE_ERR_FORMAT, "metadata '%s' must be a boolean", key);
    *out = v->data[0] != 0;
    return 0;
}

int lodge_gguf_get_string(const struct lodge_gguf *g, const char *key, struct lodge_span *out,
                          struct lodge_error *e)
{
    const struct lodge_gguf_value *v = lodge_gguf_find(g, key);
    if (!v)
        return 0;
    if (v->type != LODGE_GGUF_STRING)
        return lodge_fail(e, LODGE_ERR_FORMAT, "metadata '%s' must be a string", key);
    *out = (struct lodge_span){(const char *)v->data, (size_t)v->n};
    return 0;
}
