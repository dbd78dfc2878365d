#include "engine/residency.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* Adapters that are filled at one time: the next ones, not all that wait. */
#define MAX_UPLOADS 4u
/* Reads from the disk that are asked for in one plan. */
#define MAX_ASKED 8u
/* Copied between two steps: at least about 0.1 ms worth, else a sixteenth of a step's time at a
 * rate that memory has at worst; and when nothing runs. */
#define SLICE_BYTES ((size_t)1 << 20)
#define SLICE_BYTES_PER_NS (3.0 / 16)
#define IDLE_SLICE_BYTES ((size_t)64 << 20)

struct lodge_residency {
    struct lodge_adapters *adapters;
    struct lodge_pool *pool;
    struct lodge_prefix *prefix;
    struct lodge_adapter_version *first; /* those with pages */
    struct lodge_adapter_version *uploads[MAX_UPLOADS];
    const uint8_t *images[MAX_UPLOADS]; /* pinned */
    uint32_t n_uploads;
    size_t n_cells_left; /* that may still be copied before the next step */
    uint64_t plan;
    uint64_t spare; /* pages that this plan's uploads may still take */
    uint32_t n_asked;
    bool blocked, lost;
    struct lodge_residency_cost cost;
    struct lodge_residency_stats stats;
    lodge_residency_charge_fn *charge; /* may be NULL */
    void *cookie;
};

struct lodge_residency *lodge_residency_create(struct lodge_adapters *adapters,
                                               struct lodge_pool *pool, struct lodge_prefix *prefix)
{
    struct lodge_residency *r = calloc(1, sizeof *r);
    if (!r)
        return NULL;
    r->adapters = adapters;
    r->pool = pool;
    r->prefix = prefix;
    /* A guess until lodge_residency_set_cost: memory copies against prompt tokens. */
    r->cost = (struct lodge_residency_cost){.upload_page = 1e5, .load_page = 2e6, .token = 2e5};
    return r;
}

void lodge_residency_destroy(struct lodge_residency *r)
{
    free(r);
}

void lodge_residency_on_upload(struct lodge_residency *r, lodge_residency_charge_fn *fn,
                               void *cookie)
{
    r->charge = fn;
    r->cookie = cookie;
}

void lodge_residency_set_cost(struct lodge_residency *r, const struct lodge_residency_cost *c)
{
    r->cost = *c;
}

void lodge_residency_get_stats(const struct lodge_residency *r, struct lodge_residency_stats *out)
{
    *out = r->stats;
}

/* ---- pages ---- */

static void set_type(struct lodge_residency *r, const struct lodge_adapter_version *v, bool in_use)
{
    for (uint32_t i = 0; i < v->info.n_pages; i++)
        if (in_use)
            lodge_pool_reuse(r->pool, v->pages[i]);
        else
            lodge_pool_idle(r->pool, v->pages[i]);
}

/* Gives back the first `n` pages of a version that nobody uses. */
static void give_back(struct lodge_residency *r, const struct lodge_adapter_version *v, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        lodge_pool_idle(r->pool, v->pages[i]);
        lodge_pool_drop(r->pool, v->pages[i]);
    }
}

static void link_version(struct lodge_residency *r, struct lodge_adapter_version *v)
{
    v->prev = NULL;
    v->next = r->first;
    if (r->first)
        r->first->prev = v;
    r->first = v;
}

static void unlink_version(struct lodge_residency *r, struct lodge_adapter_version *v)
{
    *(v->prev ? &v->prev->next : &r->first) = v->next;
    if (v->next)
        v->next->prev = v->prev;
    v->next = v->prev = NULL;
}

/* The version leaves the pool; nobody uses it. */
static void drop(struct lodge_residency *r, struct lodge_adapter_version *v)
{
    const struct lodge_adapters *a = r->adapters;
    if (v->state == LODGE_UPLOADING)
        set_type(r, v, false);
    for (uint32_t i = 0; i < v->info.n_pages; i++)
        lodge_pool_drop(r->pool, v->pages[i]);
    a->backend->adapter_close(a->device, v->slot);
    if (v->state == LODGE_RESIDENT) {
        r->stats.n_resident--;
        r->stats.resident_bytes -= v->info.bytes;
    }
    v->state = LODGE_ABSENT;
    atomic_store(&v->resident, false);
    unlink_version(r, v);
}

/* ---- eviction: greedy dual size frequency, over adapters and prefix blocks alike ----
 * Source: Cherkasova, "Improving WWW Proxies Performance with Greedy-Dual-Size-Frequency Caching
 * Policy", 1998. The value of what is kept is a floor, which rises to the value of what was
 * evicted last, plus uses x cost to get it back / pages. Prefix blocks count one use: with equal
 * cost and size they leave in the order in which they became idle. */

static double page_cost(const struct lodge_residency *r, const struct lodge_adapter_version *v)
{
    return r->cost.upload_page + (atomic_load(&v->has_image) ? 0 : r->cost.load_page);
}

static void touch(struct lodge_residency *r, struct lodge_adapter_version *v)
{
    v->value = r->prefix->floor + (double)v->hits * page_cost(r, v);
}

static double block_value(const struct lodge_residency *r)
{
    return r->cost.token * r->prefix->page_tokens / r->prefix->n_groups;
}

static void raise_floor(struct lodge_residency *r, double value)
{
    if (value > r->prefix->floor)
        r->prefix->floor = value;
}

/* The idle adapter of the least value; with `spare_wanted` not one that this plan asked for. */
static struct lodge_adapter_version *cheapest(const struct lodge_residency *r, bool spare_wanted)
{
    struct lodge_adapter_version *least = NULL;
    for (struct lodge_adapter_version *v = r->first; v; v = v->next)
        if (v->state == LODGE_RESIDENT && !v->n_users && !(spare_wanted && v->wanted == r->plan) &&
            (!least || v->value < least->value))
            least = v;
    return least;
}

/* Frees something idle. */
static bool evict(struct lodge_residency *r, bool spare_wanted)
{
    struct lodge_adapter_version *v = cheapest(r, spare_wanted);
    double aged;
    if (lodge_prefix_oldest(r->prefix, &aged)) {
        double value = aged + block_value(r);
        if (!v || value <= v->value) {
            raise_floor(r, value);
            return lodge_prefix_evict(r->prefix);
        }
    }
    if (!v)
        return false;
    if (lodge_prefix_evict_owner(r->prefix, v->number))
        return true; /* of no use without the adapter, so they go first */
    raise_floor(r, v->value);
    r->stats.n_evictions++;
    drop(r, v);
    return true;
}

bool lodge_residency_evict(struct lodge_residency *r, struct lodge_prefix *prefix, bool keep_wanted)
{
    return r ? evict(r, true) || (!keep_wanted && evict(r, false)) : lodge_prefix_evict(prefix);
}

/* ---- uploading ---- */

static void remove_upload(struct lodge_residency *r, uint32_t i)
{
    r->n_uploads--;
    memmove(&r->uploads[i], &r->uploads[i + 1], (r->n_uploads - i) * sizeof *r->uploads);
    memmove(&r->images[i], &r->images[i + 1], (r->n_uploads - i) * sizeof *r->images);
}

static void finish_upload(struct lodge_residency *r)
{
    struct lodge_adapter_version *v = r->uploads[0];
    remove_upload(r, 0);
    lodge_adapters_unpin(r->adapters, v);
    v->state = LODGE_RESIDENT;
    atomic_store(&v->resident, true);
    v->hits++;
    touch(r, v);
    set_type(r, v, false);
    r->stats.n_uploads++;
    r->stats.n_resident++;
    r->stats.resident_bytes += v->info.bytes;
}

static size_t slice_bytes(uint64_t step_ns)
{
    size_t bytes = (size_t)((double)step_ns * SLICE_BYTES_PER_NS);
    if (!step_ns || bytes > IDLE_SLICE_BYTES)
        return IDLE_SLICE_BYTES;
    return bytes > SLICE_BYTES ? bytes : SLICE_BYTES;
}

/* Fills pages, the oldest upload first, as far as the slice goes. */
static void upload(struct lodge_residency *r)
{
    const struct lodge_adapters *a = r->adapters;
    while (r->n_uploads && r->n_cells_left) {
        struct lodge_adapter_version *v = r->uploads[0];
        size_t n = v->layout.n_cells - v->n_uploaded;
        n = n < r->n_cells_left ? n : r->n_cells_left;
        a->backend->adapter_upload(a->device, v->slot, r->images[0], v->n_uploaded, (uint32_t)n);
        v->n_uploaded += (uint32_t)n;
        r->n_cells_left -= n;
        if (v->n_uploaded == v->layout.n_cells)
            finish_upload(r);
    }
}

/* ---- bringing adapters in ---- */

static bool take_pages(struct lodge_residency *r, struct lodge_adapter_version *v)
{
    for (uint32_t i = 0; i < v->info.n_pages; i++) {
        while ((v->pages[i] = lodge_pool_take(r->pool, LODGE_PAGE_ADAPTER)) == UINT32_MAX)
            if (!evict(r, true)) {
                give_back(r, v, i);
                return false;
            }
    }
    return true;
}

static bool begin_upload(struct lodge_residency *r, struct lodge_adapter_version *v,
                         const uint8_t *image)
{
    const struct lodge_adapters *a = r->adapters;
    if (v->info.n_pages > r->spare || !take_pages(r, v)) {
        r->blocked = true;
        return false;
    }
    r->spare -= v->info.n_pages;
    if (a->backend->adapter_open(a->device, &v->layout, v->pages, v->info.n_pages, &v->slot,
                                 NULL)) {
        give_back(r, v, v->info.n_pages);
        return false;
    }
    v->state = LODGE_UPLOADING;
    v->n_uploaded = 0;
    link_version(r, v);
    r->uploads[r->n_uploads] = v;
    r->images[r->n_uploads++] = image;
    return true;
}

static void bring(struct lodge_residency *r, struct lodge_seq *q, struct lodge_adapter_version *v)
{
    if (r->blocked)
        q->n_pages_wanted += v->info.n_pages;
    if (r->n_uploads == MAX_UPLOADS || r->n_asked == MAX_ASKED || r->blocked)
        return;
    const uint8_t *image = lodge_adapters_pin(r->adapters, v);
    if (!image) {
        r->n_asked++;
    } else if (begin_upload(r, v, image)) {
        if (r->charge)
            r->charge(r->cookie, q->req->r.tenant, v->info.n_pages);
        upload(r); /* within what the turn left of the slice */
    } else {
        lodge_adapters_unpin(r->adapters, v);
        q->n_pages_wanted += r->blocked ? v->info.n_pages : 0;
    }
}

void lodge_residency_begin(struct lodge_residency *r, uint64_t spare_pages)
{
    if (!r)
        return;
    r->plan++;
    r->spare = spare_pages;
    r->n_asked = 0;
    r->blocked = false;
}

bool lodge_residency_want(struct lodge_residency *r, struct lodge_seq *q)
{
    bool ready = true;
    for (uint32_t i = 0; i < q->req->r.n_adapters; i++) {
        struct lodge_adapter_version *v = q->req->versions[i];
        v->wanted = r->plan;
        if (v->state == LODGE_ABSENT)
            bring(r, q, v);
        if (v->state == LODGE_RESIDENT)
            continue;
        ready = false;
        if (lodge_adapters_failed(r->adapters, v))
            r->lost = q->req->adapter_lost = true;
    }
    return ready;
}

bool lodge_residency_take_lost(struct lodge_residency *r)
{
    bool lost = r->lost;
    r->lost = false;
    return lost;
}

/* ---- what nobody refers to any more ---- */

static void bury_dead(struct lodge_residency *r)
{
    struct lodge_adapter_version *v;
    while ((v = lodge_adapters_take_dead(r->adapters))) {
        assert(!v->n_users);
        for (uint32_t i = 0; i < r->n_uploads; i++)
            if (r->uploads[i] == v)
                remove_upload(r, i--);
        lodge_prefix_evict_owner(r->prefix, v->number);
        if (v->state != LODGE_ABSENT)
            drop(r, v);
        lodge_adapters_bury(v);
    }
}

bool lodge_residency_turn(struct lodge_residency *r, uint64_t step_ns)
{
    bury_dead(r);
    bool any = r->n_uploads > 0;
    r->n_cells_left = slice_bytes(step_ns) / LODGE_CELL_BYTES;
    upload(r);
    return any;
}

/* ---- use ---- */

uint32_t lodge_residency_idle_pages(const struct lodge_residency *r, const struct lodge_seq *q)
{
    uint32_t n = 0;
    for (uint32_t i = 0; r && i < q->req->r.n_adapters; i++)
        n += q->req->versions[i]->n_users ? 0 : q->req->versions[i]->info.n_pages;
    return n;
}

uint32_t lodge_residency_suppose(const struct lodge_residency *r, const struct lodge_seq *q,
                                 bool runs)
{
    uint32_t n = 0;
    for (uint32_t i = 0; r && i < q->req->r.n_adapters; i++) {
        struct lodge_adapter_version *v = q->req->versions[i];
        v->n_users += runs ? 1 : UINT32_MAX; /* or one less */
        n += v->n_users ? 0 : v->info.n_pages;
    }
    return n;
}

void lodge_residency_use(struct lodge_residency *r, struct lodge_seq *q)
{
    q->n_adapter_pages = 0;
    for (uint32_t i = 0; r && i < q->req->r.n_adapters; i++) {
        struct lodge_adapter_version *v = q->req->versions[i];
        q->n_adapter_pages += v->info.n_pages;
        if (!v->n_users++)
            set_type(r, v, true);
        v->hits++;
    }
}

void lodge_residency_release(struct lodge_residency *r, struct lodge_seq *q)
{
    q->n_adapter_pages = 0;
    for (uint32_t i = 0; r && i < q->req->r.n_adapters; i++) {
        struct lodge_adapter_version *v = q->req->versions[i];
        touch(r, v);
        if (!--v->n_users)
            set_type(r, v, false);
    }
}
