/* Attention as steps run it (items, runs of heads, ranges that are merged, any number of workers)
 * against each query by itself, range by range: bit for bit, by the same kernels, which check_rungs
 * compares with the reference. */
#include "tests/bench/attn_lab.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(a) (sizeof(a) / sizeof *(a))
#define RANGE (LODGE_RANGE_PAGES * LODGE_PAGE_TOKENS)

static uint64_t state;

static float uniform(void)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (float)((double)(state >> 33) / 1073741824.0 - 1.0);
}

static void random_row(float *x, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        x[i] = uniform();
}

/* Of the last layer. */
static void fill(struct attn_lab *b)
{
    float k[LODGE_HEAD_DIM_MAX], v[LODGE_HEAD_DIM_MAX];
    const struct lodge_kv_ops *kv = &b->d.k.kv[b->d.cfg.kv];
    size_t head = lodge_kv_head_bytes(b->d.cfg.kv, b->op.head_dim, LODGE_PAGE_TOKENS);
    b->op.group_layer = b->group.n_layers - 1;
    for (uint32_t p = 0; p < b->d.n_pages; p++)
        for (uint32_t h = 0; h < b->group.n_kv_heads; h++)
            for (uint32_t t = 0; t < LODGE_PAGE_TOKENS; t++) {
                random_row(k, b->op.head_dim);
                random_row(v, b->op.head_dim);
                kv->store(b->d.pool + p * b->d.page_bytes +
                              (b->op.group_layer * b->group.n_kv_heads + h) * head,
                          t, k, v, b->op.head_dim);
            }
}

/* One query over one range; false when it sees nothing of it. */
static bool one_range(struct attn_lab *b, const struct lodge_row *row, uint32_t position,
                      uint32_t head, uint32_t from, struct lodge_attn_call *c)
{
    const struct lodge_op_attn *op = &b->op;
    uint32_t low = op->window && position + 1 > op->window ? position + 1 - op->window : 0;
    if (low >= from + RANGE || position < from)
        return false;
    c->n_queries = 1;
    c->dim = op->head_dim;
    c->scale = op->scale;
    c->softcap = op->softcap;
    c->from_page = c->n_pages = 0;
    c->next = NULL;
    c->first[0] = low > from ? low - from : 0;
    c->last[0] = position + 1 - from < RANGE ? position + 1 - from : RANGE;
    for (uint32_t p = from / LODGE_PAGE_TOKENS; p < row->n_blocks && c->n_pages < LODGE_RANGE_PAGES;
         p++)
        c->pages[c->n_pages++] = lodge_cpu_kv_head(&b->d, row, op->group, op->group_layer,
                                                   head / (op->n_heads / op->n_kv_heads), p);
    b->d.k.kv[b->d.cfg.kv].attn(c);
    return true;
}

static void check_query(struct attn_lab *b, const struct lodge_row *row, uint32_t token,
                        uint32_t head)
{
    const uint32_t dim = b->op.head_dim, position = row->position + token;
    size_t at = ((size_t)row->first_token + token) * b->op.n_heads + head;
    float acc[2][LODGE_HEAD_DIM_MAX], want[LODGE_HEAD_DIM_MAX];
    static struct lodge_attn_call c;
    struct lodge_attn_state all = {.acc = NULL};
    c.q = b->d.q + at * lodge_kv_query_bytes(b->d.cfg.kv, dim);
    for (uint32_t from = 0; from <= position; from += RANGE) {
        c.out.acc = acc[all.acc != NULL];
        if (!one_range(b, row, position, head, from, &c))
            continue;
        if (all.acc)
            b->d.k.attn_merge(&all, &c.out, 1, dim);
        else
            all = c.out;
    }
    for (uint32_t j = 0; j < dim; j++)
        want[j] = all.acc[j] * (1.0f / all.sum[0]);
    ck_assert_msg(memcmp(want, b->d.attn_out + at * dim, dim * sizeof *want) == 0,
                  "position %u, head %u of %u/%u x %u, %s: other bits than by itself", position,
                  head, b->op.n_heads, b->op.n_kv_heads, dim, lodge_kv_dtype_name(b->d.cfg.kv));
}

static void check(struct attn_lab *b, uint32_t window, float softcap)
{
    b->op.window = window;
    b->op.softcap = softcap;
    lodge_cpu_plan_attention(&b->d, &b->op);
    memset(b->d.attn_out, 0xAA,
           (size_t)b->step.n_tokens * b->op.n_heads * b->op.head_dim * sizeof(float));
    attn_lab_run(b);
    unsigned mode = lodge_cpu_flush_denormals();
    for (uint32_t r = 0; r < b->step.n_rows; r++)
        for (uint32_t t = 0; t < b->rows[r].n_tokens; t++)
            for (uint32_t h = 0; h < b->op.n_heads; h++)
                check_query(b, &b->rows[r], t, h);
    lodge_cpu_restore_denormals(mode);
}

static const struct attn_shape shapes[] = {{9, 3, 64},  {32, 8, 64}, {8, 2, 128},
                                           {28, 4, 16}, {4, 4, 48},  {24, 1, 32}};
/* Few long ones: more ranges than there are slots for; many short ones; prompts; one token. */
static const struct attn_load loads[] = {{1, 1, 1},   {1, 2900, 1}, {8, 8192, 1},
                                         {40, 70, 1}, {3, 600, 37}, {1, 300, 300}};

static void check_loads(const char *rung, const struct attn_shape *s)
{
    struct lodge_cpu_kernels k;
    struct lodge_workers *w;
    struct lodge_error e = {0};
    static struct attn_lab b;
    if (lodge_cpu_kernels_init(&k, rung, &e))
        return; /* not of this machine */
    for (unsigned workers = 1; workers <= 3; workers += 2) {
        ck_assert_int_eq(lodge_workers_create(workers, &w, &e), 0);
        for (size_t l = 0; l < COUNT(loads); l++)
            for (int kv = 0; kv < LODGE_KV_DTYPE_COUNT; kv++) {
                if ((size_t)loads[l].seqs * loads[l].context * s->heads * s->dim > 40000000)
                    continue;
                attn_lab_open(&b, &k, w, (enum lodge_kv_dtype)kv, s, &loads[l], 1);
                fill(&b);
                check(&b, 0, 0);
                check(&b, 300, 30);
                attn_lab_close(&b);
            }
        lodge_workers_destroy(w);
    }
}

START_TEST(a_query_has_the_bits_that_it_has_by_itself)
{
    state = 20261128;
    for (unsigned i = 1; lodge_cpu_rung_name(i); i++) /* 0: the reference, not made for this */
        check_loads(lodge_cpu_rung_name(i), &shapes[_i]);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("attention");
    TCase *c = tcase_create("attention");
    tcase_set_timeout(c, 240);
    tcase_add_loop_test(c, a_query_has_the_bits_that_it_has_by_itself, 0, (int)COUNT(shapes));
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
