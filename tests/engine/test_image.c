/* Host images hold nothing but their adapter: packed into memory that held anything else they are,
 * byte for byte, what the backend packs into zeros.
 *
 *   test_image MODEL ADAPTER...
 *
 * The adapters must have ranks and widths that leave room in their cells. */
#include "engine/image.h"

#include "adapters/adapter.h"
#include "engine/adapter_base.h"
#include "engine/files/model_file.h"
#include "tests/engine/test_engine_random.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

static char **paths;
static int n_paths;

struct lab {
    const struct lodge_backend *backend;
    struct lodge_device *device;
    struct lodge_model_file *model;
    struct lodge_plan *plan;
    struct lodge_adapter_base base;
    struct lodge_arena arena;
    struct lodge_side side;
    struct lodge_spares spares;
    struct test_random rnd;
};

static void open_lab(struct lab *l)
{
    const struct lodge_device_config cfg = {
        .n_threads = 1, .max_rows = 8, .max_slots = 8, .max_logit_rows = 8, .max_step_ranks = 4096};
    struct lodge_device_info info;
    struct lodge_error e = {0};
    *l = (struct lab){.backend = lodge_backend_cpu(), .rnd = test_seeded("image")};
    ck_assert_msg(!lodge_model_open(paths[0], 0, &l->model, &e), "%s", e.text);
    ck_assert_msg(!l->backend->open(&cfg, &l->device, &e), "%s", e.text);
    l->plan = lodge_model_plan(l->model);
    l->backend->info(l->device, &info);
    ck_assert(!lodge_plan_group(l->plan, info.kv, info.page_tokens, &e));
    ck_assert(!l->backend->model_load(l->device, l->plan, NULL, NULL, NULL, &e));
    lodge_arena_init(&l->arena, 0);
    ck_assert_msg(!lodge_adapter_base_build(l->plan, paths[0], lodge_model_family(l->model),
                                            &l->arena, &l->base, &e),
                  "%s", e.text);
    lodge_side_init(&l->side, l->backend, l->device);
    lodge_spares_init(&l->spares, (size_t)64 << 20);
}

static void close_lab(struct lab *l)
{
    lodge_spares_finish(&l->spares);
    lodge_side_finish(&l->side);
    lodge_arena_finish(&l->arena);
    l->backend->close(l->device);
    lodge_model_close(l->model);
}

/* What the backend makes of zeros. */
static uint8_t *pack_into_zeros(struct lab *l, const struct lodge_lora *lora,
                                const struct lodge_lora_layout *layout)
{
    size_t n = lodge_image_bytes(layout);
    uint8_t *image = aligned_alloc(64, n);
    ck_assert_ptr_nonnull(image);
    memset(image, 0, n);
    for (uint32_t i = 0; i < lora->n_targets; i++)
        ck_assert_int_eq(l->backend->adapter_pack(l->device, lora, layout, i, image, NULL), 0);
    return image;
}

/* The next that takes n bytes gets them full of somebody's numbers. */
static const uint8_t *soil(struct lab *l, size_t n)
{
    uint8_t *at = lodge_spares_take(&l->spares, n);
    ck_assert_ptr_nonnull(at);
    for (size_t i = 0; i < n; i++)
        at[i] = (uint8_t)(test_next(&l->rnd) | 1);
    lodge_spares_give(&l->spares, at, n);
    return at;
}

static void check_adapter(struct lab *l, const char *path)
{
    const struct lodge_adapter_limits limits = {.spares = &l->spares};
    struct lodge_error e = {0};
    struct lodge_adapter *a = NULL;
    struct lodge_lora_layout layout;
    struct lodge_side_job job;
    uint8_t *image = NULL;
    ck_assert_msg(!lodge_adapter_read(path, path, &l->base, &limits, &a, &e), "%s", e.text);
    ck_assert(!lodge_lora_layout_init(&layout, l->plan, &a->lora, &e));
    uint8_t *want = pack_into_zeros(l, &a->lora, &layout);
    size_t n = lodge_image_bytes(&layout), n_zeros = 0;
    const uint8_t *dirty = soil(l, n);
    lodge_side_begin(&job, &l->side);
    ck_assert_msg(!lodge_image_make(&job, &l->spares, path, &a->lora, &layout, &image, &e), "%s",
                  e.text);
    lodge_side_end(&job);
    ck_assert_ptr_eq(image, dirty);
    ck_assert_msg(memcmp(image, want, n) == 0, "%s: something was left in its cells", path);
    for (size_t i = 0; i < n; i++)
        n_zeros += want[i] == 0;
    ck_assert_msg(n_zeros > n / 8, "%s fills its cells and shows nothing", path);
    lodge_spares_give(&l->spares, image, n);
    free(want);
    lodge_lora_layout_finish(&layout);
    lodge_adapter_destroy(a);
}

START_TEST(nothing_is_left)
{
    struct lab l;
    open_lab(&l);
    for (int i = 1; i < n_paths; i++)
        check_adapter(&l, paths[i]);
    close_lab(&l);
}
END_TEST

int main(int argc, char **argv)
{
    paths = argv + 1;
    n_paths = argc - 1;
    Suite *s = suite_create("image");
    TCase *t = tcase_create("all");
    tcase_add_test(t, nothing_is_left);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
