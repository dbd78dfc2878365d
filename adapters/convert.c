/* Steps 8 and 9: values become bf16 in the plan's row order; every one of them is looked at. */
#include "adapters/internal.h"
#include "base/checked.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define F32_INF 0x7F800000u
#define BF16_INF 0x7F80u
/* An update of a weight beyond the range of half precision is damage, whatever it was trained in.
 */
#define MAX_DELTA 65504.0

/* Nearest even. Subnormals become zero, as in all arithmetic of bf16 here: some instructions read
 * them as zero, others do not. */
static uint16_t to_bf16(uint32_t bits)
{
    if (!(bits & F32_INF))
        return (uint16_t)(bits >> 16 & 0x8000u);
    return (uint16_t)((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

static float from_bf16(uint16_t h)
{
    uint32_t bits = (uint32_t)h << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static int refuse_value(const struct lodge_adapter_reading *r, const struct lodge_adapter_tensor *t,
                        uint64_t row, const char *what)
{
    return lodge_fail(r->e, LODGE_ERR_FORMAT,
                      "%s: tensor '%s' has %s in row %llu, expected finite numbers; the training "
                      "diverged or the file is damaged",
                      r->tensors_where, t->name, what, (unsigned long long)row);
}

/* One stored row as fp32, every value finite. */
static int decode_row(const struct lodge_adapter_reading *r, const struct lodge_adapter_tensor *t,
                      uint64_t row, float *out)
{
    size_t row_bytes = 0;
    if (!lodge_format_row_bytes((enum lodge_format)t->format, t->n_cols, &row_bytes))
        return lodge_fail(r->e, LODGE_ERR_FORMAT,
                          "%s: tensor '%s' has rows of %llu values, which type %s cannot store",
                          r->tensors_where, t->name, (unsigned long long)t->n_cols, t->type_name);
    lodge_format_decode((enum lodge_format)t->format, t->data + row * row_bytes, t->n_cols, out);
    uint32_t largest = 0;
    for (uint64_t i = 0; i < t->n_cols; i++) {
        uint32_t bits;
        memcpy(&bits, &out[i], sizeof bits);
        bits &= ~0x80000000u;
        largest = bits > largest ? bits : largest;
    }
    if (largest >= F32_INF)
        return refuse_value(r, t, row, largest > F32_INF ? "a NaN" : "an infinity");
    return 0;
}

/* out[i * stride] = bf16 of row[i]; false when one of them overflows. */
static bool store_row(const float *row, uint64_t n, uint16_t *out, uint64_t stride)
{
    uint16_t largest = 0;
    for (uint64_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &row[i], sizeof bits);
        uint16_t h = to_bf16(bits);
        out[i * stride] = h;
        h &= 0x7FFF;
        largest = h > largest ? h : largest;
    }
    return largest < BF16_INF;
}

/* A matrix of the adapter, and the largest of its absolute values. */
struct matrix {
    const uint16_t *data;
    float largest;
};

static uint16_t largest_of(const uint16_t *x, uint64_t n)
{
    uint16_t largest = 0;
    for (uint64_t i = 0; i < n; i++) {
        uint16_t h = x[i] & 0x7FFF;
        largest = h > largest ? h : largest;
    }
    return largest;
}

static bool has_subnormals(const uint16_t *x, uint64_t n)
{
    uint16_t any = 0;
    for (uint64_t i = 0; i < n; i++)
        any |= (uint16_t)((uint16_t)((x[i] & 0x7FFF) - 1) < 0x7F);
    return any;
}

/* The usual case, a matrix that is stored as it is wanted, stays where it is. False when it is not
 * so, or holds what is refused; the way by rows then says what. */
static bool use_in_place(const struct lodge_adapter_tensor *t, struct matrix *out)
{
    const uint16_t *x = (const uint16_t *)(const void *)t->data;
    uint64_t n = t->n_rows * t->n_cols;
    if (t->format != LODGE_FMT_BF16 || (uintptr_t)t->data % sizeof *x)
        return false;
    uint16_t largest = largest_of(x, n);
    if (largest >= BF16_INF || has_subnormals(x, n))
        return false;
    *out = (struct matrix){x, from_bf16(largest)};
    return true;
}

/* Row of the plan that stored row i is: hf[j * d/2 + i] = gguf[2i + j] inside each head. */
static uint64_t plan_row(const struct lodge_adapter_entry *t, uint64_t i)
{
    if (!t->in_pairs)
        return i;
    uint64_t d = t->module->head_dim, in_head = i % d;
    return i - in_head + in_head % 2 * (d / 2) + in_head / 2;
}

static void *room(struct lodge_adapter_reading *r, uint64_t n, size_t size)
{
    size_t n_bytes;
    if (!lodge_mul_size(n, size, &n_bytes))
        return NULL;
    pthread_mutex_lock(r->lock);
    void *p = lodge_arena_alloc_aligned(&r->adapter->_arena, n_bytes, 64);
    pthread_mutex_unlock(r->lock);
    return p;
}

/* A as (rank, inputs). */
static int convert_a(struct lodge_adapter_reading *r, const struct lodge_adapter_entry *t,
                     float *row, struct matrix *out)
{
    const struct lodge_adapter_tensor *s = &t->a;
    if (!t->a_transposed && use_in_place(s, out))
        return 0;
    uint16_t *a = room(r, s->n_rows * s->n_cols, sizeof *a);
    if (!a)
        return lodge_adapter_no_memory(r);
    for (uint64_t i = 0; i < s->n_rows; i++) {
        int err = decode_row(r, s, i, row);
        if (err)
            return err;
        bool ok = t->a_transposed ? store_row(row, s->n_cols, a + i, s->n_rows)
                                  : store_row(row, s->n_cols, a + i * s->n_cols, 1);
        if (!ok)
            return refuse_value(r, s, i, "a number beyond bf16");
    }
    *out = (struct matrix){a, from_bf16(largest_of(a, s->n_rows * s->n_cols))};
    return 0;
}

/* B as (outputs, rank) in the plan's order. */
static int convert_b(struct lodge_adapter_reading *r, const struct lodge_adapter_entry *t,
                     float *row, struct matrix *out)
{
    const struct lodge_adapter_tensor *s = &t->b;
    if (!t->in_pairs && use_in_place(s, out))
        return 0;
    uint16_t *b = room(r, s->n_rows * s->n_cols, sizeof *b);
    if (!b)
        return lodge_adapter_no_memory(r);
    for (uint64_t i = 0; i < s->n_rows; i++) {
        int err = decode_row(r, s, i, row);
        if (err)
            return err;
        if (!store_row(row, s->n_cols, b + plan_row(t, i) * s->n_cols, 1))
            return refuse_value(r, s, i, "a number beyond bf16");
    }
    *out = (struct matrix){b, from_bf16(largest_of(b, s->n_rows * s->n_cols))};
    return 0;
}

static int convert_vector(struct lodge_adapter_reading *r, const struct lodge_adapter_entry *t,
                          const struct lodge_adapter_tensor *s, float *row, const float **out)
{
    if (!s->name)
        return 0;
    int err = decode_row(r, s, 0, row);
    float *v = room(r, s->n_cols, sizeof *v);
    if (!v)
        return lodge_adapter_no_memory(r);
    for (uint64_t i = 0; i < s->n_cols && !err; i++)
        v[plan_row(t, i)] = row[i];
    *out = v;
    return err;
}

static int set_scale(const struct lodge_adapter_reading *r, const struct lodge_adapter_entry *t,
                     float *out)
{
    double by = t->alpha_is_scale ? 1 : t->root_of_rank ? sqrt(t->rank) : t->rank;
    *out = (float)(t->alpha / by);
    if (isfinite(*out))
        return 0;
    return lodge_fail(r->e, LODGE_ERR_FORMAT,
                      "%s: the scale of tensor '%s' comes from alpha %g, expected a finite number "
                      "that fp32 can hold",
                      r->tensors_where, t->a.name, t->alpha);
}

/* Largest |s (B A)| and |s c| that the target can add to a weight or an output, from above: row by
 * row of B. */
static double bound_delta(const struct lodge_lora_target *t, uint64_t n_in, uint64_t n_out,
                          double *largest_a)
{
    double bound = 0;
    for (uint32_t k = 0; k < t->rank; k++)
        largest_a[k] = (double)from_bf16(largest_of(t->a + k * n_in, n_in));
    for (uint64_t i = 0; i < n_out; i++) {
        double sum = 0;
        for (uint32_t k = 0; k < t->rank; k++)
            sum += fabs((double)from_bf16(t->b[i * t->rank + k])) * largest_a[k];
        bound = sum > bound ? sum : bound;
        if (t->offset && fabs((double)t->offset[i]) > bound)
            bound = fabs((double)t->offset[i]);
    }
    return bound * fabs((double)t->scale);
}

struct scratch {
    float *row;
    double *largest_a;
};

static bool scratch_init(struct scratch *s, const struct lodge_adapter_entry *t)
{
    const uint64_t n[] = {t->a.n_cols, t->b.n_cols, t->magnitude.n_cols, t->offset.n_cols};
    uint64_t longest = 1;
    for (size_t k = 0; k < sizeof n / sizeof *n; k++)
        longest = n[k] > longest ? n[k] : longest;
    s->row = calloc(longest, sizeof *s->row);
    s->largest_a = calloc(t->rank, sizeof *s->largest_a);
    return s->row && s->largest_a;
}

static void scratch_finish(struct scratch *s)
{
    free(s->row);
    free(s->largest_a);
}

static int convert_all(struct lodge_adapter_reading *r, const struct lodge_adapter_entry *t,
                       struct scratch *s, struct lodge_adapter_values *out)
{
    struct lodge_lora_target *whole = &out->whole;
    struct matrix a = {0}, b = {0};
    *out = (struct lodge_adapter_values){.whole.rank = t->rank};
    int err = set_scale(r, t, &whole->scale);
    if (!err)
        err = convert_a(r, t, s->row, &a);
    if (!err)
        err = convert_b(r, t, s->row, &b);
    whole->a = a.data;
    whole->b = b.data;
    if (!err)
        err = convert_vector(r, t, &t->magnitude, s->row, &whole->magnitude);
    if (!err)
        err = convert_vector(r, t, &t->offset, s->row, &whole->offset);
    if (err)
        return err;
    uint64_t n_in = t->a_transposed ? t->a.n_rows : t->a.n_cols;
    /* What the largest values of both allow is far below the limit as a rule, and costs nothing. */
    double bound = (double)a.largest * (double)b.largest * t->rank * fabs((double)whole->scale);
    if (bound > MAX_DELTA || bound == 0 || whole->offset)
        bound = bound_delta(whole, n_in, t->b.n_rows, s->largest_a);
    if (bound > MAX_DELTA)
        return lodge_fail(r->e, LODGE_ERR_FORMAT,
                          "%s: scale times '%s' times '%s' may reach %g, expected at most %g; the "
                          "training diverged or alpha is wrong",
                          r->tensors_where, t->b.name, t->a.name, bound, MAX_DELTA);
    out->effect = bound > 0 || t->magnitude.name;
    out->n_parameters = (uint64_t)t->rank * (n_in + t->b.n_rows) +
                        (t->magnitude.name ? t->b.n_rows : 0) + (t->offset.name ? t->b.n_rows : 0);
    return 0;
}

int lodge_adapter_convert(struct lodge_adapter_reading *r, const struct lodge_adapter_entry *t,
                          struct lodge_adapter_values *out)
{
    struct scratch s;
    int err = scratch_init(&s, t) ? convert_all(r, t, &s, out) : lodge_adapter_no_memory(r);
    scratch_finish(&s);
    return err;
}
