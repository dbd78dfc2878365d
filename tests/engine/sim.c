#include "tests/engine/sim.h"

#include <math.h>
#include <string.h>

/* ---- random numbers ---- */

static double uniform(struct test_random *r)
{
    return ((double)(test_next(r) >> 11) + 0.5) * 0x1p-53;
}

static double normal(struct test_random *r)
{
    return sqrt(-2 * log(uniform(r))) * cos(2 * 3.14159265358979323846 * uniform(r));
}

/* Marsaglia and Tsang; mean shape x scale. */
static double gamma_of(struct test_random *r, double shape, double scale)
{
    if (shape < 1)
        return gamma_of(r, shape + 1, scale) * pow(uniform(r), 1 / shape);
    double d = shape - 1.0 / 3, c = 1 / sqrt(9 * d);
    for (;;) {
        double x = normal(r), v = 1 + c * x;
        v = v * v * v;
        if (v > 0 && log(uniform(r)) < 0.5 * x * x + d - d * v + d * log(v))
            return d * v * scale;
    }
}

static double gap(struct sim *m, const struct sim_tenant_config *c)
{
    double shape = 1 / (c->cv * c->cv);
    return c->rate > 0 ? gamma_of(&m->rnd, shape, 1 / (shape * c->rate)) : INFINITY;
}

/* ---- adapters ---- */

void __wrap_lodge_residency_begin(struct lodge_residency *r, uint64_t spare_pages);
bool __wrap_lodge_residency_want(struct lodge_residency *r, struct lodge_seq *q);
void __wrap_lodge_residency_use(struct lodge_residency *r, struct lodge_seq *q);
void __wrap_lodge_residency_release(struct lodge_residency *r, struct lodge_seq *q);
uint32_t __wrap_lodge_residency_idle_pages(const struct lodge_residency *r,
                                           const struct lodge_seq *q);
uint32_t __wrap_lodge_residency_suppose(const struct lodge_residency *r, const struct lodge_seq *q,
                                        bool runs);
bool __wrap_lodge_residency_evict(struct lodge_residency *r, struct lodge_prefix *prefix,
                                  bool keep_wanted);

void __wrap_lodge_residency_begin(struct lodge_residency *r, uint64_t spare_pages)
{
    (void)r;
    (void)spare_pages;
}

bool __wrap_lodge_residency_want(struct lodge_residency *r, struct lodge_seq *q)
{
    struct sim_residency *x = (struct sim_residency *)r;
    x->n_wanted++;
    if (!q->req->r.n_adapters)
        return true;
    if (x->not_ready >> q->req->r.tenant % 32 & 1)
        return false;
    uint32_t available = x->pages_needed ? lodge_sched_available(&x->sim->sched) : 0;
    if (available < x->pages_needed)
        q->n_pages_wanted = x->pages_needed - available;
    return available >= x->pages_needed;
}

void __wrap_lodge_residency_use(struct lodge_residency *r, struct lodge_seq *q)
{
    const struct sim_residency *x = (const struct sim_residency *)r;
    q->n_adapter_pages = q->req->r.n_adapters ? x->n_adapter_pages : 0;
}

void __wrap_lodge_residency_release(struct lodge_residency *r, struct lodge_seq *q)
{
    (void)r;
    q->n_adapter_pages = 0;
}

uint32_t __wrap_lodge_residency_idle_pages(const struct lodge_residency *r,
                                           const struct lodge_seq *q)
{
    (void)r;
    (void)q;
    return 0;
}

uint32_t __wrap_lodge_residency_suppose(const struct lodge_residency *r, const struct lodge_seq *q,
                                        bool runs)
{
    (void)r;
    (void)q;
    (void)runs;
    return 0;
}

bool __wrap_lodge_residency_evict(struct lodge_residency *r, struct lodge_prefix *prefix,
                                  bool keep_wanted)
{
    (void)r;
    (void)keep_wanted;
    return lodge_prefix_evict(prefix);
}

/* ---- requests ---- */

struct sim_request {
    struct lodge_inflight req; /* first */
    struct lodge_seq seq;
    uint32_t tenant, n_output; /* at which it ends */
};

static struct sim_request *request_of(const struct lodge_seq *q)
{
    return (struct sim_request *)q->req;
}

static void *zeroed(size_t n, size_t size)
{
    void *p = calloc(n, size);
    TEST_CHECK(p);
    return p;
}

static void fill_prompt(struct sim *m, uint32_t tenant, struct lodge_seq *q)
{
    const struct sim_tenant_config *c = &m->cfg->tenants[tenant];
    uint32_t n = c->n_prefix_tokens, which = c->n_prefixes ? test_below(&m->rnd, c->n_prefixes) : 0;
    if (n >= q->n_prompt)
        n = q->n_prompt - 1;
    for (uint32_t i = 0; i < q->n_prompt; i++)
        q->tokens[i] = i < n ? tenant << 16 | which : (uint32_t)test_next(&m->rnd);
}

struct lodge_inflight *sim_submit(struct sim *m, uint32_t tenant, uint32_t n_prompt,
                                  uint32_t n_output)
{
    const struct sim_tenant_config *c = &m->cfg->tenants[tenant];
    struct sim_request *x = zeroed(1, sizeof *x);
    struct lodge_seq *q = &x->seq;
    x->tenant = tenant;
    x->n_output = n_output;
    x->req.id = ++m->n_ids;
    x->req.seqs = q;
    x->req.n_live = 1;
    x->req.arrived_ns = (uint64_t)(m->now_s * 1e9);
    x->req.r = (struct lodge_request){.n_prompt = n_prompt,
                                      .n_choices = 1,
                                      .tenant = tenant,
                                      .tier = c->tier,
                                      .weight = c->weight};
    uint32_t most = c->max_output > n_output ? c->max_output : n_output;
    *q = (struct lodge_seq){
        .req = &x->req, .n_prompt = n_prompt, .n_tokens = n_prompt, .max_output = most};
    q->max_blocks = (n_prompt + most) / m->cfg->page_tokens + 2;
    q->tokens = zeroed(n_prompt + most + 1, sizeof *q->tokens);
    q->pages = zeroed(q->max_blocks, sizeof *q->pages);
    q->keys = zeroed(q->max_blocks, sizeof *q->keys);
    q->freed_front = zeroed(1, sizeof *q->freed_front);
    fill_prompt(m, tenant, q);
    struct sim_tenant *t = &m->tenants[tenant];
    x->req.next = t->requests;
    if (x->req.next)
        x->req.next->prev = &x->req;
    t->requests = &x->req;
    lodge_sched_enqueue(&m->sched, q);
    return &x->req;
}

static void end_request(struct sim *m, struct lodge_seq *q)
{
    struct sim_request *x = request_of(q);
    struct lodge_inflight *r = &x->req;
    lodge_sched_remove(&m->sched, q);
    *(r->prev ? &r->prev->next : &m->tenants[x->tenant].requests) = r->next;
    if (r->next)
        r->next->prev = r->prev;
    free(q->tokens);
    free(q->pages);
    free(q->keys);
    free(q->freed_front);
    free(x);
}

/* ---- steps ---- */

static void count_first_token(struct sim *m, struct lodge_seq *q)
{
    struct sim_tenant *t = &m->tenants[request_of(q)->tenant];
    double ttft = m->now_s - (double)q->req->arrived_ns * 1e-9;
    if (t->n_ttft == t->room_ttft) {
        t->room_ttft = t->room_ttft ? 2 * t->room_ttft : 1024;
        t->ttft_s = realloc(t->ttft_s, t->room_ttft * sizeof *t->ttft_s);
        TEST_CHECK(t->ttft_s);
    }
    t->ttft_s[t->n_ttft++] = ttft;
    t->n_in_time += ttft <= (double)m->cfg->limits.slo_ttft_ns * 1e-9;
}

uint32_t sim_waiting(const struct sim *m, uint32_t tenant)
{
    uint32_t n = 0;
    for (const struct lodge_inflight *r = m->tenants[tenant].requests; r; r = r->next)
        n += r->seqs[0].state == LODGE_SEQ_WAITING;
    return n;
}

double sim_running(const struct sim *m, uint32_t tenant)
{
    double sum = 0;
    for (const struct lodge_seq *q = m->sched.running.first; q; q = q->next)
        if (request_of(q)->tenant == tenant)
            sum += q->n_prompt - q->req->cached_tokens + 2.0 * q->max_output;
    return sum;
}

/* What began in this plan is paid for now, unless it began before. */
static void count_prompts(struct sim *m, uint64_t admissions_before)
{
    bool grew[SIM_MAX_TENANTS] = {false};
    for (struct lodge_seq *q = m->sched.running.last; q && q->admitted > admissions_before;
         q = q->prev) {
        struct sim_tenant *t = &m->tenants[request_of(q)->tenant];
        grew[request_of(q)->tenant] = true;
        if (!q->req->started)
            t->service += q->n_prompt - q->n_computed;
        q->req->started = true;
    }
    for (uint32_t i = 0; i < m->cfg->n_tenants; i++)
        if (grew[i])
            m->tenants[i].most_running = fmax(m->tenants[i].most_running, sim_running(m, i));
}

static void compute(struct sim *m, const struct lodge_planned *row)
{
    struct lodge_seq *q = row->seq;
    lodge_sched_computed(&m->sched, row);
    if (!row->sample)
        return;
    if (!q->n_output++)
        count_first_token(m, q);
    m->tenants[request_of(q)->tenant].service += 2;
    q->tokens[q->n_tokens++] = (uint32_t)test_next(&m->rnd);
    if (q->n_output == request_of(q)->n_output) {
        m->tenants[request_of(q)->tenant].n_done++;
        end_request(m, q);
    }
}

bool sim_step(struct sim *m)
{
    struct lodge_sched *s = &m->sched;
    uint64_t now_ns = (uint64_t)(m->now_s * 1e9), before = s->admissions;
    for (struct lodge_seq *q; (q = lodge_sched_hopeless(s, now_ns));) {
        m->tenants[request_of(q)->tenant].n_aborted++;
        s->aborted_early++;
        end_request(m, q);
    }
    lodge_sched_plan(s, now_ns);
    count_prompts(m, before);
    if (m->on_plan)
        m->on_plan(m, m->cookie);
    if (!s->n_rows)
        return false;
    m->now_s += m->cfg->step_s + m->cfg->token_s * s->n_step_tokens;
    m->n_tokens += s->n_step_tokens;
    lodge_pool_submitted(&m->pool, ++m->n_steps);
    lodge_sched_submitted(s);
    lodge_pool_retired(&m->pool, m->n_steps);
    uint32_t n = s->n_rows;
    for (uint32_t i = 0; i < n; i++) {
        struct lodge_planned row = s->rows[i];
        compute(m, &row);
    }
    return true;
}

/* ---- arrivals ---- */

static void change_phase(struct sim *m, uint32_t i)
{
    const struct sim_tenant_config *c = &m->cfg->tenants[i];
    struct sim_tenant *t = &m->tenants[i];
    t->on = !t->on;
    double from = t->phase_ends_s;
    t->phase_ends_s += -log(uniform(&m->rnd)) * (t->on ? c->on_s : c->off_s);
    t->next_s = t->on ? from + gap(m, c) : INFINITY;
}

static void arrive(struct sim *m, uint32_t i)
{
    const struct sim_tenant_config *c = &m->cfg->tenants[i];
    struct sim_tenant *t = &m->tenants[i];
    t->n_came++;
    m->n_requests++;
    if (c->most_waiting && sim_waiting(m, i) >= c->most_waiting) {
        t->n_dropped++;
        return;
    }
    double now = m->now_s;
    m->now_s = t->next_s; /* it came while the last step ran */
    sim_submit(m, i, test_between(&m->rnd, c->min_prompt, c->max_prompt),
               test_between(&m->rnd, c->min_output, c->max_output));
    m->now_s = now;
}

/* All that came by now, in order. Returns when the next one comes. */
static double take_arrivals(struct sim *m)
{
    for (;;) {
        uint32_t first = 0;
        for (uint32_t i = 0; i < m->cfg->n_tenants; i++) {
            while (m->cfg->tenants[i].on_s > 0 &&
                   m->tenants[i].phase_ends_s <= fmin(m->tenants[i].next_s, m->now_s))
                change_phase(m, i);
            if (m->tenants[i].next_s < m->tenants[first].next_s)
                first = i;
        }
        struct sim_tenant *t = &m->tenants[first];
        if (t->next_s > m->now_s) {
            double next = t->next_s;
            for (uint32_t i = 0; i < m->cfg->n_tenants; i++)
                if (m->cfg->tenants[i].on_s > 0)
                    next = fmin(next, m->tenants[i].phase_ends_s);
            return next;
        }
        arrive(m, first);
        t->next_s += gap(m, &m->cfg->tenants[first]);
    }
}

void sim_run(struct sim *m, uint64_t n_requests)
{
    while (m->n_requests < n_requests) {
        double next = take_arrivals(m);
        if (!sim_step(m))
            m->now_s = fmax(m->now_s, next);
    }
}

void sim_open(struct sim *m, const struct sim_config *cfg, uint64_t seed)
{
    struct lodge_error e = {0};
    memset(m, 0, sizeof *m);
    m->cfg = cfg;
    m->rnd.state = seed;
    m->group = (struct lodge_layer_group){.n_layers = 1};
    m->plan = (struct lodge_plan){.groups = &m->group, .n_groups = 1};
    int err = lodge_pool_init(&m->pool, cfg->n_pages, &e);
    err = err ? err : lodge_prefix_init(&m->prefix, &m->pool, 1, cfg->page_tokens, &e);
    err = err ? err
              : lodge_sched_init(&m->sched, &cfg->limits, &m->pool, &m->prefix, &m->plan,
                                 cfg->page_tokens, &e);
    TEST_CHECK(!err, "%s", e.text);
    m->residency.sim = m;
    m->sched.residency = (struct lodge_residency *)&m->residency;
    for (uint32_t i = 0; i < cfg->n_tenants; i++) {
        struct sim_tenant *t = &m->tenants[i];
        t->on = cfg->tenants[i].on_s == 0;
        t->phase_ends_s = cfg->tenants[i].on_s > 0 ? uniform(&m->rnd) * cfg->tenants[i].off_s : 0;
        t->next_s = t->on ? gap(m, &cfg->tenants[i]) : INFINITY;
    }
}

void sim_close(struct sim *m)
{
    for (uint32_t i = 0; i < m->cfg->n_tenants; i++) {
        while (m->tenants[i].requests)
            end_request(m, &m->tenants[i].requests->seqs[0]);
        free(m->tenants[i].ttft_s);
    }
    TEST_CHECK(!m->pool.n_kv, "pages are left in use");
    lodge_sched_finish(&m->sched);
    lodge_prefix_finish(&m->prefix);
    lodge_pool_finish(&m->pool);
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double sim_ttft(struct sim *m, uint32_t tenant, double p)
{
    struct sim_tenant *t = &m->tenants[tenant];
    if (!t->n_ttft)
        return 0;
    qsort(t->ttft_s, t->n_ttft, sizeof *t->ttft_s, compare);
    return t->ttft_s[(uint64_t)(p * (double)(t->n_ttft - 1))];
}
