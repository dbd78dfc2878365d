/* Adapter versions: what was read from disk, and the host cache of images in page layout.
 *
 * The registry holds every version that somebody refers to, keyed by (scope, digest). Its images
 * (cells as the backend packs them) are kept within a byte budget, least recently used ones leave
 * first; a version without an image is read from disk again when it is wanted, by a loader
 * thread, and must have the same digest. Converting, hashing and packing
 * are side work (side.h).
 *
 * Threads: open, ref and unref from any thread; the functions that say so belong to the engine
 * thread. `lock` is a leaf, but for the one of the spares.
 */
#ifndef LODGE_ENGINE_ADAPTERS_H
#define LODGE_ENGINE_ADAPTERS_H

#include "adapters/adapter.h"
#include "base/spares.h"
#include "engine/engine.h"
#include "engine/side.h"
#include "engine/template/chat.h"
#include "kernels/backend.h"

#include <pthread.h>
#include <stdatomic.h>

enum lodge_image_state {
    LODGE_IMAGE_NONE,
    LODGE_IMAGE_QUEUED, /* for a loader, or in its hands */
    LODGE_IMAGE_HERE,
    LODGE_IMAGE_FAILED, /* the files changed or are gone; the log says why */
};

enum lodge_resident_state { LODGE_ABSENT, LODGE_UPLOADING, LODGE_RESIDENT };

struct lodge_adapter_version {
    struct lodge_adapters *owner;
    /* Immutable. */
    uint32_t number; /* from 1, while it lives */
    struct lodge_digest scope;
    struct lodge_adapter_version_info info;
    char *name, *base_model;
    char warning[256];
    struct lodge_lora_layout layout;
    uint32_t width;      /* lodge_lora_width */
    uint64_t step_bytes; /* lodge_lora_bytes */
    struct lodge_template *chat_template;

    /* Guarded by owner->lock; path and fd do not change while a loader has the version. */
    char *path;
    int fd; /* that `path` leads through, or -1 */
    uint32_t refs;
    struct lodge_adapter_version *chain; /* hash bucket */
    enum lodge_image_state image_state;
    uint8_t *image;                              /* of the spares, info.bytes; or NULL */
    atomic_bool has_image;                       /* also read unlocked, as an estimate */
    uint32_t n_pins;                             /* users of the image */
    struct lodge_adapter_version *newer, *older; /* of those with an image */
    struct lodge_adapter_version *queued;        /* next for a loader, or among the dead */

    /* The engine thread's (residency.c). */
    enum lodge_resident_state state;
    uint32_t *pages;
    uint32_t slot, n_uploaded; /* cells */
    uint32_t n_users;          /* running sequences */
    uint64_t wanted;           /* the last plan that wanted it */
    uint64_t stepped;          /* the last step that read it */
    uint64_t hits;
    double value;                              /* of keeping it: lowest leaves first */
    struct lodge_adapter_version *next, *prev; /* of those with pages */
    _Atomic bool resident;                     /* for other threads to look at */
};

#define LODGE_ADAPTER_BUCKETS 4096u
#define LODGE_LOADERS 4u /* side work gets more time when more of it waits */

struct lodge_engine;
struct lodge_family;
/* The engine's registry. */
struct lodge_adapters *lodge_engine_adapters(struct lodge_engine *en);

struct lodge_adapters {
    const struct lodge_backend *backend;
    struct lodge_device *device;
    const struct lodge_plan *plan;
    struct lodge_adapter_base base;
    struct lodge_arena arena; /* of the base's table */
    struct lodge_log *log;
    uint64_t budget_bytes;
    uint32_t page_cells; /* cells of a page */
    uint32_t n_pages;    /* of the pool */
    /* A loader has news for the engine thread. */
    void (*on_news)(void *cookie);
    void *cookie;

    struct lodge_side side;     /* converting, hashing and packing */
    struct lodge_spares spares; /* for images, and for files while they are read; leaf lock */

    pthread_mutex_t lock;
    pthread_cond_t queued; /* the loaders have work, or must end */
    struct lodge_adapter_version *buckets[LODGE_ADAPTER_BUCKETS];
    struct lodge_adapter_version *oldest, *newest; /* with images, by use */
    struct lodge_adapter_version *first, *last;    /* the loaders' queue */
    struct lodge_adapter_version *dead;            /* without references */
    struct lodge_adapter_version **by_number;      /* index: number - 1 */
    uint32_t n_numbers;
    uint32_t n_versions, n_images;
    uint64_t image_bytes, making_bytes; /* of images that are here, and that are being made */
    uint64_t n_loads, n_host_hits;
    double load_seconds;
    bool stop;
    pthread_t loaders[LODGE_LOADERS];
    uint32_t n_loaders;
};

/* `a` must be zeroed, with backend, device, plan, log, budget, page_cells, n_pages and on_news set.
 * family: whose names and row order adapters have. Starts the loaders. */
int lodge_adapters_init(struct lodge_adapters *a, const char *model_name,
                        const struct lodge_family *family, struct lodge_error *e);
/* No version may be referred to any more. */
void lodge_adapters_finish(struct lodge_adapters *a);

/* Fills the counts of versions, images and loads. */
void lodge_adapters_count(struct lodge_adapters *a, struct lodge_engine_stats *out);

/* Puts a complete version into the registry; the lock is held. False without memory. */
bool lodge_adapters_register(struct lodge_adapters *a, struct lodge_adapter_version *v);

/* ---- for the loaders ---- */

/* The next version whose image is wanted, taken out of the queue; NULL when none is. */
struct lodge_adapter_version *lodge_adapters_next_wanted(struct lodge_adapters *a);
/* Its image was read (of the spares, taken over), or not: then `failed`, or nobody refers to it
 * any more. */
void lodge_adapters_loaded(struct lodge_adapters *a, struct lodge_adapter_version *v,
                           uint8_t *image, bool failed);

/* ---- for the engine thread ---- */

/* Version with this number, or NULL. */
struct lodge_adapter_version *lodge_adapters_find(struct lodge_adapters *a, uint32_t number);
/* The image, pinned until lodge_adapters_unpin; NULL when it is not here: then a loader is asked
 * for it (unless it failed). */
const uint8_t *lodge_adapters_pin(struct lodge_adapters *a, struct lodge_adapter_version *v);
void lodge_adapters_unpin(struct lodge_adapters *a, struct lodge_adapter_version *v);
/* Whether reading it again failed; the log has the reason. */
bool lodge_adapters_failed(struct lodge_adapters *a, struct lodge_adapter_version *v);
/* The next version without references, taken out of the registry; the caller gives its pages back
 * and ends it by lodge_adapters_bury. */
struct lodge_adapter_version *lodge_adapters_take_dead(struct lodge_adapters *a);
void lodge_adapters_bury(struct lodge_adapter_version *v);

#endif
