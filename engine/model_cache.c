#include "engine/model_cache.h"

#include "base/hash.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int lodge_model_cache_open(struct lodge_model_cache *c, const struct lodge_engine_config *cfg,
                           struct lodge_error *e)
{
    if (!cfg->weights_cache)
        return 0;
    c->cfg = cfg;
    c->file.dir = open(cfg->weights_cache, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (c->file.dir < 0)
        return lodge_fail(e, LODGE_ERR_CONFIG,
                          "--weights-cache %s: %s; it must be a directory that is there",
                          cfg->weights_cache, strerror(errno));
    c->is_open = true;
    return 0;
}

void lodge_model_cache_close(struct lodge_model_cache *c)
{
    if (c->is_open)
        close(c->file.dir);
    c->is_open = false;
}

/* ---- what the device tells and asks ---- */

static void on_news(void *cookie, bool warning, const char *text)
{
    const struct lodge_engine_config *cfg = ((struct lodge_model_cache *)cookie)->cfg;
    char line[sizeof(struct lodge_error) + 64];
    snprintf(line, sizeof line, "%sweights cache: %s", warning ? "warning: " : "", text);
    if (cfg->on_phase)
        cfg->on_phase(cfg->cookie, line);
    lodge_log_text(cfg->log, warning ? LODGE_LOG_WARN : LODGE_LOG_INFO, "weights", "%s", text);
}

static bool same_model(void *cookie)
{
    const struct lodge_model_cache *c = cookie;
    struct lodge_digest now;
    lodge_model_identity(c->model, &c->fingerprint, &now);
    return memcmp(&now, &c->file.model, sizeof now) == 0;
}

static void on_weights(void *cookie)
{
    struct lodge_model_cache *c = cookie;
    atomic_store(&c->pending, false);
    c->on_ready(c->cookie);
}

/* ---- the file of a model ---- */

/* "NAME-0123456789abcdef.packed": a person sees whose it is, and models of one name in several
 * directories do not meet. */
static void name_file(struct lodge_model_cache *c)
{
    const char *name = lodge_model_name(c->model);
    char *real = realpath(c->cfg->model_path, NULL), *out = c->file.name, hex[65];
    const char *path = real ? real : c->cfg->model_path;
    struct lodge_digest d;
    size_t n = 0;
    for (; name[n] && n < 100; n++)
        out[n] = (uint8_t)name[n] <= ' ' || strchr(n ? "/" : "/.", name[n]) ? '_' : name[n];
    lodge_sha256(path, strlen(path), &d);
    lodge_digest_hex(&d, hex);
    snprintf(out + n, sizeof c->file.name - n, "-%.16s.packed", hex);
    free(real);
}

const struct lodge_weights_cache *lodge_model_cache_begin(struct lodge_model_cache *c,
                                                          const struct lodge_model_file *model,
                                                          const struct lodge_digest *fingerprint,
                                                          void (*on_ready)(void *cookie),
                                                          void *cookie)
{
    if (!c->is_open)
        return NULL;
    c->model = model;
    c->fingerprint = *fingerprint;
    c->on_ready = on_ready;
    c->cookie = cookie;
    name_file(c);
    lodge_model_identity(model, fingerprint, &c->file.model);
    c->file.unchanged = same_model;
    c->file.say = on_news;
    c->file.ready = on_weights;
    c->file.cookie = c;
    atomic_store(&c->pending, true);
    return &c->file;
}
