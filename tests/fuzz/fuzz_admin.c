/* Paths of the admin API, and keys: what a path's parts are taken for must join to the path again.
 */
#include "server/admin.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static bool fits(const char *part, size_t room)
{
    return strnlen(part, room) < room;
}

/* The pattern with the parts in their places is the path, when no part was cut. */
static void join(const struct route *r, const struct admin_path *at, const char *path, size_t n)
{
    char joined[1024];
    size_t k = 0;
    bool cut = strlen(at->id) + 1 == sizeof at->id || strlen(at->key) + 1 == sizeof at->key ||
               strlen(at->name) + 1 == sizeof at->name;
    for (const char *p = r->path; *p && k < sizeof joined - 200; p++) {
        if (*p != '{') {
            joined[k++] = *p;
            continue;
        }
        const char *part = p[1] == 'i' ? at->id : p[1] == 'k' ? at->key : at->name;
        memcpy(joined + k, part, strlen(part));
        k += strlen(part);
        p = strchr(p, '}');
    }
    while (n > 1 && path[n - 1] == '/')
        n--;
    if (!cut && (k != n || memcmp(joined, path, n) != 0))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    char *text = malloc(n + 1);
    if (!text)
        return 0;
    memcpy(text, data, n);
    text[n] = 0;
    if (key_well_formed(text, n) && strncmp(text, KEY_PREFIX, strlen(KEY_PREFIX)) != 0)
        abort();
    struct call c = {.url = text, .route = admin_route_find(text)};
    if (c.route) {
        struct admin_path at;
        admin_path(&c, &at);
        if (!fits(at.id, sizeof at.id) || !fits(at.key, sizeof at.key) ||
            !fits(at.name, sizeof at.name))
            abort();
        join(c.route, &at, text, strlen(text));
    }
    free(text);
    return 0;
}
