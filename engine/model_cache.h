/* The weights cache of one model, from the engine's side: where its file is, what identifies the
 * model, who is told, and whether the weights are there. What is in the file is the backend's
 * business (kernels/weights_file.h).
 *
 * Threads: all calls from the thread that loads and closes the engine, and the device that was
 * given the cache must be closed before it. What the device tells comes from any thread.
 */
#ifndef LODGE_ENGINE_MODEL_CACHE_H
#define LODGE_ENGINE_MODEL_CACHE_H

#include "engine/engine.h"
#include "engine/files/model_file.h"
#include "kernels/weights_file.h"

/* Zeroed: no cache. */
struct lodge_model_cache {
    struct lodge_weights_cache file; /* its directory is open while the cache is */
    bool is_open;
    /* The weights are not all there: no step may begin. Any thread; goes false once. */
    atomic_bool pending;

    const struct lodge_engine_config *cfg;
    const struct lodge_model_file *model;
    struct lodge_digest fingerprint;
    void (*on_ready)(void *cookie);
    void *cookie;
};

/* Opens the directory that the configuration names, if it names one. cfg stays referenced: what
 * becomes of the file goes to its on_phase and its log. CONFIG when it is no directory. */
int lodge_model_cache_open(struct lodge_model_cache *c, const struct lodge_engine_config *cfg,
                           struct lodge_error *e);
/* The cache for the backend's model_load, NULL when there is none. `pending` is true from here
 * until the weights are there; then on_ready is called, from any thread. The model stays
 * referenced; fingerprint is of its files. */
const struct lodge_weights_cache *lodge_model_cache_begin(struct lodge_model_cache *c,
                                                          const struct lodge_model_file *model,
                                                          const struct lodge_digest *fingerprint,
                                                          void (*on_ready)(void *cookie),
                                                          void *cookie);
void lodge_model_cache_close(struct lodge_model_cache *c);

#endif
