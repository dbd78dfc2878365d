/* Steps 6 and 7: shapes against the base, ranks and sizes against the limits. */
#include "adapters/internal.h"

#include <stdio.h>

static int refuse_shape(const struct lodge_adapter_reading *r, const struct lodge_adapter_tensor *t,
                        const char *expected)
{
    char found[64];
    if (t->n_dims == 1)
        snprintf(found, sizeof found, "[%llu]", (unsigned long long)t->n_cols);
    else if (t->n_dims == 2)
        snprintf(found, sizeof found, "[%llu, %llu]", (unsigned long long)t->n_rows,
                 (unsigned long long)t->n_cols);
    else
        snprintf(found, sizeof found, "of %u dimensions", t->n_dims);
    const char *made_for = r->adapter->base_model;
    return lodge_fail(
        r->e, LODGE_ERR_FORMAT,
        "%s: tensor '%s' is %s, base '%s' expects %s (adapter made for another base?%s"
        "%.200s)",
        r->tensors_where, t->name, found, r->base->name, expected, made_for ? " it names " : "",
        made_for ? made_for : "");
}

static int check_matrix(const struct lodge_adapter_reading *r, const struct lodge_adapter_tensor *t,
                        uint64_t n_rows, uint64_t n_cols, const char *expected)
{
    if (t->n_dims == 2 && t->n_rows == n_rows && t->n_cols == n_cols)
        return 0;
    return refuse_shape(r, t, expected);
}

static int check_vector(const struct lodge_adapter_reading *r, const struct lodge_adapter_tensor *t,
                        uint64_t n)
{
    char expected[32];
    if (!t->name || (t->n_dims == 1 && t->n_cols == n))
        return 0;
    snprintf(expected, sizeof expected, "[%llu]", (unsigned long long)n);
    return refuse_shape(r, t, expected);
}

static int check_type(const struct lodge_adapter_reading *r, const struct lodge_adapter_tensor *t)
{
    if (!t->name || t->format >= 0)
        return 0;
    return lodge_fail(r->e, LODGE_ERR_UNSUPPORTED,
                      "%s: tensor '%s' has type %s; adapters are read as F32, F16 or BF16 (GGUF "
                      "also Q8_0, Q4_0, Q4_1), save it as one of them",
                      r->tensors_where, t->name, t->type_name);
}

/* Ranks as the two matrices and the settings have them must be one number. */
static int check_rank(const struct lodge_adapter_reading *r, struct lodge_adapter_entry *t)
{
    uint64_t of_a = t->a_transposed ? t->a.n_cols : t->a.n_rows;
    if (t->a.n_dims != 2)
        return refuse_shape(r, &t->a, "two dimensions");
    if (of_a == 0)
        return lodge_fail(r->e, LODGE_ERR_FORMAT, "%s: tensor '%s' has rank 0, expected at least 1",
                          r->tensors_where, t->a.name);
    if (t->b.n_dims != 2)
        return refuse_shape(r, &t->b, "two dimensions");
    if (of_a != t->b.n_cols)
        return lodge_fail(
            r->e, LODGE_ERR_FORMAT,
            "%s: tensor '%s' has rank %llu, but '%s' has %llu; the two are not of one "
            "adapter",
            r->tensors_where, t->a.name, (unsigned long long)of_a, t->b.name,
            (unsigned long long)t->b.n_cols);
    if (t->rank && of_a != t->rank)
        return lodge_fail(r->e, LODGE_ERR_FORMAT,
                          "%s: tensor '%s' has rank %llu, but adapter_config.json says %u (r or "
                          "rank_pattern); the two files are not of one adapter",
                          r->tensors_where, t->a.name, (unsigned long long)of_a, t->rank);
    return 0;
}

static int check_shapes(const struct lodge_adapter_reading *r, struct lodge_adapter_entry *t)
{
    const struct lodge_adapter_module *m = t->module;
    bool table = m->site == LODGE_SITE_EMBED;
    uint64_t n_in = table ? m->n_rows : m->n_cols;
    uint64_t n_out = table ? m->n_cols : m->n_rows;
    int err = check_type(r, &t->a);
    if (!err)
        err = check_type(r, &t->b);
    if (!err)
        err = check_type(r, &t->magnitude);
    if (!err)
        err = check_type(r, &t->offset);
    if (!err)
        err = check_rank(r, t);
    if (!err && table && t->magnitude.name)
        err = lodge_fail(r->e, LODGE_ERR_UNSUPPORTED,
                         "%s: tensor '%s': DoRA of the table of embeddings is not supported; train "
                         "the adapter without it",
                         r->tensors_where, t->magnitude.name);
    if (err)
        return err;
    char expected[64];
    uint64_t rank = t->b.n_cols;
    if (t->a_transposed) {
        snprintf(expected, sizeof expected, "[%llu, r]", (unsigned long long)n_in);
        err = check_matrix(r, &t->a, n_in, rank, expected);
    } else {
        snprintf(expected, sizeof expected, "[r, %llu]", (unsigned long long)n_in);
        err = check_matrix(r, &t->a, rank, n_in, expected);
    }
    snprintf(expected, sizeof expected, "[%llu, r]", (unsigned long long)n_out);
    if (!err)
        err = check_matrix(r, &t->b, n_out, rank, expected);
    if (!err)
        err = check_vector(r, &t->magnitude, n_out);
    if (!err)
        err = check_vector(r, &t->offset, n_out);
    snprintf(expected, sizeof expected, "[%u, %u]", m->n_rows, m->n_cols);
    if (!err && t->base_copy.name)
        err = check_matrix(r, &t->base_copy, m->n_rows, m->n_cols, expected);
    return err;
}

static int check_limits(const struct lodge_adapter_reading *r, struct lodge_adapter_entry *t)
{
    if (t->b.n_cols > r->limits.max_rank)
        return lodge_fail(
            r->e, LODGE_ERR_LIMIT, "%s: tensor '%s' has rank %llu, more than the %u allowed here",
            r->tensors_where, t->a.name, (unsigned long long)t->b.n_cols, r->limits.max_rank);
    t->rank = (uint32_t)t->b.n_cols;
    return 0;
}

int lodge_adapter_check_entries(struct lodge_adapter_reading *r)
{
    int err = 0;
    if (!r->n_entries)
        return lodge_fail(r->e, LODGE_ERR_FORMAT, "%s: there is no LoRA tensor in it",
                          r->tensors_where);
    for (uint32_t i = 0; i < r->n_entries && !err; i++)
        err = check_shapes(r, &r->entries[i]);
    for (uint32_t i = 0; i < r->n_entries && !err; i++)
        err = check_limits(r, &r->entries[i]);
    return err;
}
