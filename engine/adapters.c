/* The registry, the host cache and the loaders' threads share one lock and one version's life, so
 * they stand together; what reads the files is adapters/, what fills the pages residency.c. */
#include "engine/adapters.h"

#include "base/clock.h"
#include "engine/adapter_base.h"
#include "engine/image.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Kept beside the host cache for the next loads: a quarter of it, and not more than this. */
#define MOST_SPARE ((size_t)64 << 20)

/* ---- the registry; all under `lock` ---- */

static struct lodge_adapter_version **bucket(struct lodge_adapters *a, const struct lodge_digest *d)
{
    uint32_t h;
    memcpy(&h, d->bytes, sizeof h);
    return &a->buckets[h % LODGE_ADAPTER_BUCKETS];
}

static struct lodge_adapter_version *find(struct lodge_adapters *a, const struct lodge_digest *d,
                                          const struct lodge_digest *scope)
{
    struct lodge_adapter_version *v = *bucket(a, d);
    while (v && (memcmp(&v->info.digest, d, sizeof *d) != 0 ||
                 memcmp(&v->scope, scope, sizeof *scope) != 0))
        v = v->chain;
    return v;
}

static void unlink_image(struct lodge_adapters *a, struct lodge_adapter_version *v)
{
    *(v->older ? &v->older->newer : &a->oldest) = v->newer;
    *(v->newer ? &v->newer->older : &a->newest) = v->older;
    v->older = v->newer = NULL;
}

static void link_image(struct lodge_adapters *a, struct lodge_adapter_version *v)
{
    v->older = a->newest;
    *(a->newest ? &a->newest->newer : &a->oldest) = v;
    a->newest = v;
}

static void drop_image(struct lodge_adapters *a, struct lodge_adapter_version *v)
{
    unlink_image(a, v);
    a->image_bytes -= v->info.bytes;
    a->n_images--;
    lodge_spares_give(&a->spares, v->image, v->info.bytes);
    v->image = NULL;
    atomic_store(&v->has_image, false);
    v->image_state = LODGE_IMAGE_NONE;
}

/* Least recently used images leave until the budget holds, with those that are being made; those in
 * use stay. */
static void keep_budget(struct lodge_adapters *a)
{
    struct lodge_adapter_version *newer;
    for (struct lodge_adapter_version *v = a->oldest;
         v && a->image_bytes + a->making_bytes > a->budget_bytes; v = newer) {
        newer = v->newer;
        if (!v->n_pins)
            drop_image(a, v);
    }
}

static void put_image(struct lodge_adapters *a, struct lodge_adapter_version *v, uint8_t *image)
{
    v->image = image;
    atomic_store(&v->has_image, true);
    v->image_state = LODGE_IMAGE_HERE;
    a->image_bytes += v->info.bytes;
    a->n_images++;
    link_image(a, v);
    keep_budget(a);
}

/* A free number; 0 without memory. */
static uint32_t take_number(struct lodge_adapters *a, struct lodge_adapter_version *v)
{
    uint32_t i = a->n_versions == a->n_numbers ? a->n_numbers : 0;
    while (i < a->n_numbers && a->by_number[i])
        i++;
    if (i == a->n_numbers) {
        uint32_t n = a->n_numbers ? a->n_numbers * 2 : 64;
        struct lodge_adapter_version **more = realloc(a->by_number, n * sizeof(*more));
        if (!more)
            return 0;
        memset(more + a->n_numbers, 0, (n - a->n_numbers) * sizeof(*more));
        a->by_number = more;
        a->n_numbers = n;
    }
    a->by_number[i] = v;
    return i + 1;
}

bool lodge_adapters_register(struct lodge_adapters *a, struct lodge_adapter_version *v)
{
    v->number = take_number(a, v);
    if (!v->number)
        return false;
    v->chain = *bucket(a, &v->info.digest);
    *bucket(a, &v->info.digest) = v;
    a->n_versions++;
    return true;
}

/* Files of the same content stand in for those that were lost. */
static void move_files(struct lodge_adapter_version *v, struct lodge_adapter_version *fresh)
{
    if (v->image_state != LODGE_IMAGE_FAILED)
        return;
    char *path = v->path;
    int fd = v->fd;
    v->path = fresh->path;
    v->fd = fresh->fd;
    fresh->path = path;
    fresh->fd = fd;
}

static void remove_dead(struct lodge_adapters *a, struct lodge_adapter_version *v)
{
    struct lodge_adapter_version **at = &a->dead;
    while (*at && *at != v)
        at = &(*at)->queued;
    if (*at)
        *at = v->queued;
    v->queued = NULL;
}

/* ---- reading ---- */

/* Loading one adapter: a job beside steps. */
struct reading {
    struct lodge_adapters *a;
    struct lodge_side_job job;
    struct lodge_adapter *adapter;
    struct lodge_lora_layout layout;
    size_t image_bytes; /* of the budget */
    uint8_t *image;
};

/* Makes room in the budget, so that what leaves for the image can be used again for it. */
static void reserve(struct reading *r)
{
    struct lodge_adapters *a = r->a;
    r->image_bytes = lodge_image_bytes(&r->layout);
    pthread_mutex_lock(&a->lock);
    a->making_bytes += r->image_bytes;
    keep_budget(a);
    pthread_mutex_unlock(&a->lock);
}

/* The image, for the host cache; the lock is held. NULL when there is none. */
static uint8_t *take_image(struct reading *r)
{
    uint8_t *image = r->image;
    r->a->making_bytes -= r->image_bytes;
    r->image_bytes = 0;
    r->image = NULL;
    return image;
}

/* What a reading holds and nobody took over. */
static void reading_finish(struct reading *r)
{
    lodge_side_end(&r->job);
    size_t n = r->image_bytes;
    pthread_mutex_lock(&r->a->lock);
    uint8_t *image = take_image(r);
    pthread_mutex_unlock(&r->a->lock);
    lodge_spares_give(&r->a->spares, image, n);
    lodge_adapter_destroy(r->adapter);
    lodge_lora_layout_finish(&r->layout);
}

/* AGAIN: the weights that it needs are not there yet. */
static int make_image(const char *name, struct reading *r, struct lodge_error *e)
{
    const struct lodge_adapters *a = r->a;
    if (r->layout.n_cells > (uint64_t)a->n_pages * a->page_cells)
        return lodge_fail(e, LODGE_ERR_LIMIT,
                          "adapter \"%s\" needs %zu MiB, more than the whole pool; raise "
                          "--pool-bytes",
                          name, lodge_image_bytes(&r->layout) >> 20);
    reserve(r);
    return lodge_image_make(&r->job, &r->a->spares, name, &r->adapter->lora, &r->layout, &r->image,
                            e);
}

/* All but the image. Whatever comes of it, r is to be finished. */
static int read_files(struct lodge_adapters *a, const char *path, const char *name,
                      struct reading *r, struct lodge_error *e)
{
    *r = (struct reading){.a = a};
    lodge_side_begin(&r->job, &a->side);
    const struct lodge_adapter_limits limits = {
        .spares = &a->spares, .run = lodge_side_run, .cookie = &r->job};
    int err = lodge_adapter_read(path, name, &a->base, &limits, &r->adapter, e);
    if (!err)
        err = lodge_lora_layout_init(&r->layout, a->plan, &r->adapter->lora, e);
    return err;
}

static void free_version(struct lodge_adapter_version *v)
{
    if (v->fd >= 0)
        close(v->fd);
    lodge_lora_layout_finish(&v->layout);
    lodge_template_destroy(v->chat_template);
    lodge_spares_give(&v->owner->spares, v->image, v->info.bytes);
    free(v->pages);
    free(v->path);
    free(v->name);
    free(v->base_model);
    free(v);
}

static int set_template(struct lodge_adapter_version *v, const struct lodge_adapter *from,
                        struct lodge_error *e)
{
    if (!from->chat_template)
        return 0;
    int err = lodge_template_parse(from->chat_template, strlen(from->chat_template),
                                   &v->chat_template, e);
    if (err)
        lodge_error_prefix(e, "adapter \"%s\": chat template", v->name);
    v->info.has_chat_template = v->chat_template != NULL;
    return err;
}

/* A version of what was read, without references; takes the layout. */
static int new_version(struct lodge_adapters *a, const char *path, int fd, const char *name,
                       const struct lodge_digest *scope, struct reading *r,
                       struct lodge_adapter_version **out, struct lodge_error *e)
{
    struct lodge_adapter_version *v = calloc(1, sizeof *v);
    const struct lodge_adapter *from = r->adapter;
    uint32_t n_pages = (r->layout.n_cells + a->page_cells - 1) / a->page_cells;
    if (!v)
        return lodge_fail(e, LODGE_ERR_NOMEM, "no memory for adapter \"%s\"", name);
    v->owner = a;
    v->fd = -1;
    v->scope = *scope;
    v->layout = r->layout;
    r->layout = (struct lodge_lora_layout){0};
    v->width = lodge_lora_width(&v->layout, a->plan);
    v->step_bytes = lodge_lora_bytes(&v->layout, a->plan);
    v->path = strdup(path);
    v->name = strdup(name);
    v->base_model = from->base_model ? strdup(from->base_model) : NULL;
    v->pages = calloc(n_pages, sizeof *v->pages);
    memcpy(v->warning, from->warning, sizeof v->warning);
    v->info = (struct lodge_adapter_version_info){
        .digest = from->digest,
        .max_rank = from->max_rank,
        .n_parameters = from->n_parameters,
        .bytes = (uint64_t)v->layout.n_cells * LODGE_CELL_BYTES,
        .n_pages = n_pages,
        .scaled_once = v->layout.scaled_once,
        .base_model = v->base_model,
        .warning = v->warning,
    };
    int err = v->path && v->name && v->pages && (v->base_model || !from->base_model)
                  ? set_template(v, from, e)
                  : lodge_fail(e, LODGE_ERR_NOMEM, "no memory for adapter \"%s\"", name);
    if (err) {
        free_version(v);
        return err;
    }
    v->fd = fd;
    *out = v;
    return 0;
}

int lodge_engine_adapter_open(struct lodge_engine *en, const char *path, int fd, const char *name,
                              const struct lodge_digest *scope, struct lodge_adapter_version **out,
                              struct lodge_error *e)
{
    struct lodge_adapters *a = lodge_engine_adapters(en);
    struct reading r;
    struct lodge_adapter_version *fresh = NULL;
    uint64_t begin = lodge_now_ns();
    int err = read_files(a, path, name, &r, e);
    if (!err) {
        err = make_image(name, &r, e);
        /* A loader makes it when it is first wanted, and then they are. */
        if (!err || err == LODGE_ERR_AGAIN)
            err = new_version(a, path, fd, name, scope, &r, &fresh, e);
    }
    if (err) {
        reading_finish(&r);
        if (fd >= 0)
            close(fd);
        return err;
    }
    pthread_mutex_lock(&a->lock);
    a->n_loads++;
    a->load_seconds += (double)(lodge_now_ns() - begin) * 1e-9;
    struct lodge_adapter_version *v = find(a, &fresh->info.digest, scope);
    if (v) {
        move_files(v, fresh);
    } else if (lodge_adapters_register(a, fresh)) {
        v = fresh;
        fresh = NULL;
    }
    if (v && !v->refs++)
        remove_dead(a, v);
    if (v && (v->image_state == LODGE_IMAGE_NONE || v->image_state == LODGE_IMAGE_FAILED)) {
        v->image_state = LODGE_IMAGE_NONE;
        if (r.image)
            put_image(a, v, take_image(&r));
    }
    pthread_mutex_unlock(&a->lock);
    if (fresh)
        free_version(fresh);
    reading_finish(&r);
    *out = v;
    return v ? 0 : lodge_fail(e, LODGE_ERR_NOMEM, "no memory for adapter \"%s\"", name);
}

int lodge_engine_adapter_locate(int root_fd, const char *name, int *fd, char path[64],
                                struct lodge_error *e)
{
    return lodge_adapter_open_name(root_fd, name, fd, path, e);
}

/* ---- references ---- */

void lodge_adapter_version_ref(struct lodge_adapter_version *v)
{
    pthread_mutex_lock(&v->owner->lock);
    v->refs++;
    pthread_mutex_unlock(&v->owner->lock);
}

void lodge_adapter_version_unref(struct lodge_adapter_version *v)
{
    if (!v)
        return;
    struct lodge_adapters *a = v->owner;
    pthread_mutex_lock(&a->lock);
    bool last = --v->refs == 0;
    /* In a loader's hands it is still linked; the loader lets it go. */
    if (last && v->image_state != LODGE_IMAGE_QUEUED) {
        v->queued = a->dead;
        a->dead = v;
    }
    pthread_mutex_unlock(&a->lock);
    if (last)
        a->on_news(a->cookie);
}

const struct lodge_adapter_version_info *
lodge_adapter_version_info(const struct lodge_adapter_version *v)
{
    return &v->info;
}

struct lodge_adapter_place lodge_adapter_version_place(const struct lodge_adapter_version *v)
{
    struct lodge_adapters *a = v->owner;
    struct lodge_adapter_place place = {.resident = atomic_load(&v->resident)};
    pthread_mutex_lock(&a->lock);
    place.host = v->image != NULL;
    place.lost = v->image_state == LODGE_IMAGE_FAILED && !place.resident;
    pthread_mutex_unlock(&a->lock);
    return place;
}

/* ---- the loaders ---- */

/* The image of a version read again, left in r, which is to be finished. */
static int read_again(struct lodge_adapters *a, const struct lodge_adapter_version *v,
                      struct reading *r, struct lodge_error *e)
{
    int err = read_files(a, v->path, v->name, r, e);
    if (err)
        return err;
    if (memcmp(&r->adapter->digest, &v->info.digest, sizeof v->info.digest) != 0)
        return lodge_fail(e, LODGE_ERR_FORMAT,
                          "adapter \"%s\": the files at %s have changed since they were "
                          "registered; load it again",
                          v->name, v->path);
    return make_image(v->name, r, e);
}

struct lodge_adapter_version *lodge_adapters_next_wanted(struct lodge_adapters *a)
{
    pthread_mutex_lock(&a->lock);
    struct lodge_adapter_version *v = a->stop ? NULL : a->first;
    if (v) {
        a->first = v->queued;
        if (!a->first)
            a->last = NULL;
        v->queued = NULL;
    }
    pthread_mutex_unlock(&a->lock);
    return v;
}

void lodge_adapters_loaded(struct lodge_adapters *a, struct lodge_adapter_version *v,
                           uint8_t *image, bool failed)
{
    pthread_mutex_lock(&a->lock);
    v->image_state = LODGE_IMAGE_NONE;
    if (image) {
        v->n_pins++; /* not the first to leave: somebody waits for it */
        put_image(a, v, image);
        v->n_pins--;
    } else if (failed) {
        v->image_state = LODGE_IMAGE_FAILED;
    }
    if (!v->refs) {
        v->queued = a->dead;
        a->dead = v;
    }
    pthread_mutex_unlock(&a->lock);
    a->on_news(a->cookie);
}

static void load(struct lodge_adapters *a, struct lodge_adapter_version *v)
{
    struct lodge_error e = {0};
    struct reading r;
    uint64_t begin = lodge_now_ns();
    pthread_mutex_lock(&a->lock);
    bool needed = v->refs > 0;
    pthread_mutex_unlock(&a->lock);
    if (!needed) {
        lodge_adapters_loaded(a, v, NULL, false);
        return;
    }
    int err = read_again(a, v, &r, &e);
    if (err)
        lodge_log_text(a->log, LODGE_LOG_ERROR, "adapters", "%s", e.text);
    pthread_mutex_lock(&a->lock);
    a->n_loads += !err;
    a->load_seconds += err ? 0 : (double)(lodge_now_ns() - begin) * 1e-9;
    uint8_t *image = take_image(&r);
    pthread_mutex_unlock(&a->lock);
    lodge_adapters_loaded(a, v, image, err != 0);
    reading_finish(&r);
}

static void *loader_main(void *arg)
{
    struct lodge_adapters *a = arg;
    struct lodge_adapter_version *v;
    for (;;) {
        while ((v = lodge_adapters_next_wanted(a)))
            load(a, v);
        pthread_mutex_lock(&a->lock);
        while (!a->stop && !a->first)
            pthread_cond_wait(&a->queued, &a->lock);
        bool stop = a->stop;
        pthread_mutex_unlock(&a->lock);
        if (stop)
            return NULL;
    }
}

/* ---- for the engine thread ---- */

struct lodge_adapter_version *lodge_adapters_find(struct lodge_adapters *a, uint32_t number)
{
    pthread_mutex_lock(&a->lock);
    struct lodge_adapter_version *v =
        number && number <= a->n_numbers ? a->by_number[number - 1] : NULL;
    pthread_mutex_unlock(&a->lock);
    return v;
}

const uint8_t *lodge_adapters_pin(struct lodge_adapters *a, struct lodge_adapter_version *v)
{
    const uint8_t *image = NULL;
    pthread_mutex_lock(&a->lock);
    if (v->image_state == LODGE_IMAGE_HERE) {
        image = v->image;
        v->n_pins++;
        a->n_host_hits++;
        unlink_image(a, v);
        link_image(a, v);
    } else if (v->image_state == LODGE_IMAGE_NONE) {
        v->image_state = LODGE_IMAGE_QUEUED;
        *(a->last ? &a->last->queued : &a->first) = v;
        a->last = v;
        pthread_cond_signal(&a->queued);
    }
    pthread_mutex_unlock(&a->lock);
    return image;
}

void lodge_adapters_unpin(struct lodge_adapters *a, struct lodge_adapter_version *v)
{
    pthread_mutex_lock(&a->lock);
    v->n_pins--;
    keep_budget(a);
    pthread_mutex_unlock(&a->lock);
}

bool lodge_adapters_failed(struct lodge_adapters *a, struct lodge_adapter_version *v)
{
    pthread_mutex_lock(&a->lock);
    bool failed = v->image_state == LODGE_IMAGE_FAILED;
    pthread_mutex_unlock(&a->lock);
    return failed;
}

struct lodge_adapter_version *lodge_adapters_take_dead(struct lodge_adapters *a)
{
    pthread_mutex_lock(&a->lock);
    struct lodge_adapter_version *v = a->dead;
    if (v) {
        a->dead = v->queued;
        v->queued = NULL;
        struct lodge_adapter_version **at = bucket(a, &v->info.digest);
        while (*at != v)
            at = &(*at)->chain;
        *at = v->chain;
        if (v->image)
            drop_image(a, v);
        a->by_number[v->number - 1] = NULL;
        a->n_versions--;
    }
    pthread_mutex_unlock(&a->lock);
    return v;
}

void lodge_adapters_bury(struct lodge_adapter_version *v)
{
    free_version(v);
}

void lodge_adapters_count(struct lodge_adapters *a, struct lodge_engine_stats *out)
{
    pthread_mutex_lock(&a->lock);
    out->adapters_known = a->n_versions;
    out->adapters_host = a->n_images;
    out->adapter_host_bytes = a->image_bytes;
    out->adapter_loads = a->n_loads;
    out->adapter_host_hits = a->n_host_hits;
    out->adapter_load_seconds = a->load_seconds;
    pthread_mutex_unlock(&a->lock);
}

/* ---- life ---- */

int lodge_adapters_init(struct lodge_adapters *a, const char *model_name,
                        const struct lodge_family *family, struct lodge_error *e)
{
    lodge_arena_init(&a->arena, 0);
    lodge_side_init(&a->side, a->backend, a->device);
    uint64_t spare = a->budget_bytes / 4;
    lodge_spares_init(&a->spares, spare < MOST_SPARE ? (size_t)spare : MOST_SPARE);
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->queued, NULL);
    int err = lodge_adapter_base_build(a->plan, model_name, family, &a->arena, &a->base, e);
    for (; !err && a->n_loaders < LODGE_LOADERS; a->n_loaders += !err)
        if (pthread_create(&a->loaders[a->n_loaders], NULL, loader_main, a))
            err = lodge_fail(e, LODGE_ERR_RESOURCE, "cannot start the adapter loaders");
    return err;
}

void lodge_adapters_finish(struct lodge_adapters *a)
{
    pthread_mutex_lock(&a->lock);
    a->stop = true;
    pthread_cond_broadcast(&a->queued);
    pthread_mutex_unlock(&a->lock);
    while (a->n_loaders)
        pthread_join(a->loaders[--a->n_loaders], NULL);
    lodge_side_finish(&a->side);
    for (uint32_t i = 0; i < LODGE_ADAPTER_BUCKETS; i++)
        while (a->buckets[i]) {
            struct lodge_adapter_version *v = a->buckets[i];
            a->buckets[i] = v->chain;
            free_version(v);
        }
    free(a->by_number);
    lodge_spares_finish(&a->spares);
    lodge_arena_finish(&a->arena);
}
