/* Admission, preemption and the plan of a step are one decision over one state; the order of the
 * queue (sched_queue.c) and the pages (sched_pages.c) stand apart. */
#include "engine/sched_pages.h"
#include "engine/sched_queue.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Waiting sequences, from the oldest on, that may be passed over in search of one to give up: those
 * of tenants whose first tokens are quick. */
#define MOST_HOPEFUL 64u

int lodge_sched_init(struct lodge_sched *s, const struct lodge_sched_limits *limits,
                     struct lodge_pool *pool, struct lodge_prefix *prefix,
                     const struct lodge_plan *plan, uint32_t page_tokens, struct lodge_error *e)
{
    *s = (struct lodge_sched){.limits = *limits,
                              .pool = pool,
                              .prefix = prefix,
                              .plan = plan,
                              .page_tokens = page_tokens,
                              .n_groups = plan->n_groups};
    s->free_slots = calloc(limits->max_seqs, sizeof *s->free_slots);
    s->rows = calloc(limits->max_seqs, sizeof *s->rows);
    s->copies = calloc((size_t)limits->max_seqs * plan->n_groups, sizeof *s->copies);
    int err = lodge_queue_init(s, e);
    if (!err && (!s->free_slots || !s->rows || !s->copies))
        err = lodge_fail(e, LODGE_ERR_NOMEM, "no memory for the scheduler");
    if (err) {
        lodge_sched_finish(s);
        return err;
    }
    for (uint32_t i = 0; i < limits->max_seqs; i++)
        s->free_slots[s->n_free_slots++] = limits->max_seqs - 1 - i;
    return 0;
}

void lodge_sched_finish(struct lodge_sched *s)
{
    free(s->free_slots);
    free(s->rows);
    free(s->copies);
    lodge_queue_finish(s);
    *s = (struct lodge_sched){0};
}

/* ---- leaving ---- */

static void stop_running(struct lodge_sched *s, struct lodge_seq *q)
{
    lodge_sched_release_pages(s, q);
    lodge_residency_release(s->residency, q);
    s->running_ranks -= q->req->lora_width;
    lodge_seq_list_remove(&s->running, q);
    lodge_fair_stopped(&s->fair, q->tenant);
    s->free_slots[s->n_free_slots++] = q->slot;
}

void lodge_sched_remove(struct lodge_sched *s, struct lodge_seq *q)
{
    if (q->state == LODGE_SEQ_RUNNING)
        stop_running(s, q);
    else if (q->state == LODGE_SEQ_WAITING)
        lodge_queue_remove(s, q);
    q->state = LODGE_SEQ_DONE;
}

void lodge_sched_enqueue(struct lodge_sched *s, struct lodge_seq *q)
{
    q->state = LODGE_SEQ_WAITING;
    lodge_queue_add(s, q);
}

/* ---- preemption ---- */

static bool is_victim(const struct lodge_sched *s, const struct lodge_seq *q, int64_t above)
{
    return !q->preempted && lodge_queue_class(s, q) > above;
}

/* The youngest of the lowest class among those below the class `above`. */
static struct lodge_seq *pick_victim(const struct lodge_sched *s, int64_t above)
{
    struct lodge_seq *victim = NULL;
    int64_t lowest = above;
    for (struct lodge_seq *q = s->running.first; q; q = q->next) {
        int64_t class = lodge_queue_class(s, q);
        if (is_victim(s, q, above) &&
            (!victim || class > lowest || (class == lowest && q->admitted > victim->admitted))) {
            victim = q;
            lowest = class;
        }
    }
    return victim;
}

static void forget_row(struct lodge_sched *s, const struct lodge_seq *q)
{
    for (uint32_t i = 0; i < s->n_rows; i++)
        if (s->rows[i].seq == q) {
            s->n_step_tokens -= s->rows[i].n_tokens;
            s->n_step_ranks -= s->rows[i].n_tokens * q->req->lora_width;
            memmove(&s->rows[i], &s->rows[i + 1], (s->n_rows - i - 1) * sizeof *s->rows);
            s->n_rows--;
            return;
        }
}

static void preempt(struct lodge_sched *s, struct lodge_seq *q)
{
    forget_row(s, q);
    lodge_sched_drop_copies(s, q);
    stop_running(s, q);
    q->preempted = true;
    q->n_draft = 0;
    q->req->n_preempted++;
    s->preemptions++;
    lodge_sched_enqueue(s, q);
}

/* ---- admission ---- */

/* Pages that those who run may still claim. */
static uint64_t promised(const struct lodge_sched *s)
{
    uint64_t sum = s->n_shared;
    for (const struct lodge_seq *q = s->running.first; q; q = q->next)
        sum += lodge_sched_unclaimed(s, q);
    return sum;
}

/* Do so many pages fit beside what is promised? `more`: pages that could be made available. */
static bool fits(const struct lodge_sched *s, uint64_t n_pages, uint64_t more)
{
    return !s->running.n || n_pages + promised(s) <= lodge_sched_available(s) + more;
}

/* Puts virtual tokens on a tenant's bill; other policies keep none. */
static void charge(struct lodge_sched *s, uint32_t tenant, double tokens)
{
    if (s->limits.policy == LODGE_POLICY_FAIR && tokens > 0)
        lodge_fair_charge(&s->fair, tenant, tokens);
}

/* Adapter pages as virtual tokens. */
static double price_of_pages(const struct lodge_sched *s, uint32_t n_pages)
{
    return LODGE_COST_PAGE * n_pages * s->page_tokens / s->n_groups;
}

void lodge_sched_charge_load(struct lodge_sched *s, uint64_t tenant, uint32_t n_pages)
{
    uint32_t found = LODGE_NO_TENANT;
    for (uint32_t tier = 0; tier < LODGE_MAX_TIERS; tier++) {
        uint32_t t = lodge_fair_find(&s->fair, tenant, tier);
        if (t != LODGE_NO_TENANT && (found == LODGE_NO_TENANT || !s->fair.tenants[found].waiting.n))
            found = t;
    }
    if (found != LODGE_NO_TENANT)
        charge(s, found, price_of_pages(s, n_pages));
}

static void start(struct lodge_sched *s, struct lodge_seq *q, const struct lodge_claim *c)
{
    lodge_residency_use(s->residency, q);
    s->running_ranks += q->req->lora_width;
    lodge_sched_use_claim(s, q, c);
    lodge_fair_started(&s->fair, q->tenant);
    if (!q->charged)
        charge(s, q->tenant, LODGE_COST_PROMPT * (q->n_prompt - q->n_computed));
    q->charged = true;
    lodge_queue_remove(s, q);
    lodge_seq_list_insert(&s->running, NULL, q);
    q->state = LODGE_SEQ_RUNNING;
    q->admitted_ns = s->queue.now_ns;
    q->slot = s->free_slots[--s->n_free_slots];
    q->n_reserved = c->reserved;
    q->admitted = ++s->admissions;
    if (!q->counted_cached && !q->choice) {
        s->prefix_queries += q->n_tokens;
        s->prefix_hits += q->n_computed;
        q->req->cached_tokens = q->n_computed;
    }
    q->counted_cached = true;
}

/* Pages that preempting all lower classes would make available to q: what they alone hold, what
 * they were promised, and the adapters that they alone use, but for those that q would use. */
static uint64_t lower_classes_hold(const struct lodge_sched *s, const struct lodge_seq *q)
{
    const int64_t above = lodge_queue_class(s, q);
    uint64_t sum = 0;
    lodge_residency_suppose(s->residency, q, true);
    for (const struct lodge_seq *v = s->running.first; v; v = v->next)
        if (is_victim(s, v, above)) {
            sum += lodge_sched_unclaimed(s, v);
            sum += lodge_sched_own_pages(s, v);
            sum += lodge_residency_suppose(s->residency, v, false);
        }
    for (const struct lodge_seq *v = s->running.first; v; v = v->next)
        if (is_victim(s, v, above))
            lodge_residency_suppose(s->residency, v, true);
    lodge_residency_suppose(s->residency, q, false);
    return sum;
}

/* Must this tenant leave the headroom to others? */
static bool leaves_spare(const struct lodge_sched *s, const struct lodge_seq *q)
{
    uint32_t n_active = lodge_fair_active(&s->fair);
    if (s->limits.policy != LODGE_POLICY_FAIR || !s->running.n || !s->queue.shared_ns ||
        s->queue.now_ns - s->queue.shared_ns > LODGE_SCHED_SHARED_NS)
        return false;
    return (uint64_t)s->fair.tenants[q->tenant].n_running * (n_active > 2 ? n_active : 2) >=
           s->limits.max_seqs;
}

/* Is there a slot, and room for so many pages, without taking from others? */
static bool has_room(const struct lodge_sched *s, const struct lodge_seq *q, uint64_t n_pages)
{
    double spare = leaves_spare(s, q) ? s->limits.spare : 0;
    return s->n_free_slots > (uint32_t)(spare * s->limits.max_seqs) &&
           fits(s, n_pages + (uint64_t)(spare * s->pool->n_pages), 0);
}

/* Admits a sequence of the queue, at the cost of lower classes if need be. */
static bool admit(struct lodge_sched *s, struct lodge_seq *q)
{
    int64_t above = lodge_queue_class(s, q);
    if (s->limits.max_step_ranks && s->running.n &&
        s->running_ranks + q->req->lora_width > s->limits.max_step_ranks)
        return false;
    struct lodge_claim c = lodge_sched_claim(s, q);
    if (!has_room(s, q, c.n_pages)) {
        /* What it shares now it may share with a victim, so that does not count. */
        if (!pick_victim(s, above) || !fits(s, c.n_alone, lower_classes_hold(s, q)))
            return false;
        while (!s->n_free_slots || !fits(s, c.n_pages, 0)) {
            struct lodge_seq *victim = pick_victim(s, above);
            assert(victim); /* what lower classes hold was enough */
            preempt(s, victim);
            c = lodge_sched_claim(s, q);
        }
    }
    start(s, q, &c);
    return true;
}

static uint32_t left_of(const struct lodge_seq *q)
{
    return q->n_tokens - q->n_computed;
}

/* Would this one's prompt find no room in the next step? Prompts of lower classes do not count, as
 * they come after it, and those of other tenants by half, as tenants take turns. A prompt that
 * takes several steps counts as a quarter of one. */
static bool step_is_taken(const struct lodge_sched *s, const struct lodge_seq *q)
{
    uint64_t most = s->limits.max_step_tokens / 4 + 1, taken = 0; /* twice the tokens */
    if (s->limits.policy != LODGE_POLICY_FAIR)
        return false;
    for (const struct lodge_seq *r = s->running.first; r; r = r->next) {
        uint64_t left = left_of(r) < most ? left_of(r) : most;
        if (left == 1 || r->tenant == q->tenant)
            taken += 2 * left;
        else if (lodge_queue_class(s, r) <= lodge_queue_class(s, q))
            taken += left;
    }
    return taken >= 2 * (uint64_t)s->limits.max_step_tokens;
}

static void admit_waiting(struct lodge_sched *s)
{
    uint64_t available = lodge_sched_available(s), taken = promised(s);
    lodge_residency_begin(s->residency, available > taken ? available - taken : 0);
    lodge_queue_begin(s);
    for (struct lodge_seq *q; (q = lodge_queue_next(s));) {
        if (!step_is_taken(s, q) && admit(s, q))
            lodge_queue_admitted(s, q);
        else if (!lodge_queue_refused(s, q))
            break;
    }
    lodge_queue_end(s);
}

/* ---- the step ---- */

/* Pages for the tokens up to `end`; preempts others, in the end the sequence itself. */
static bool grow(struct lodge_sched *s, struct lodge_seq *q, uint32_t end)
{
    while (q->n_blocks < lodge_sched_blocks_of(s->page_tokens, end)) {
        if (lodge_sched_add_block(s, q))
            continue;
        struct lodge_seq *victim = pick_victim(s, INT64_MIN);
        if (!victim)
            return false;
        preempt(s, victim);
        if (victim == q)
            return false;
    }
    return true;
}

static void plan_row(struct lodge_sched *s, struct lodge_seq *q, uint32_t n)
{
    uint32_t end = q->n_computed + n;
    q->planned = s->plans;
    if (!grow(s, q, end))
        return;
    s->rows[s->n_rows++] = (struct lodge_planned){
        .seq = q, .position = q->n_computed, .n_tokens = n, .sample = end == q->n_tokens};
    s->n_step_tokens += n;
    s->n_step_ranks += n * q->req->lora_width;
}

/* Tokens of this sequence that the step still has room for: at least one for whoever decodes, since
 * all that run were admitted with one token each. */
static uint32_t room_for(const struct lodge_sched *s, const struct lodge_seq *q)
{
    uint32_t tokens = s->limits.max_step_tokens - s->n_step_tokens;
    uint32_t width = s->limits.max_step_ranks ? q->req->lora_width : 0;
    if (!width)
        return tokens;
    uint32_t by_ranks = (s->limits.max_step_ranks - s->n_step_ranks) / width;
    return by_ranks < tokens ? by_ranks : tokens;
}

/* The next sequence that decodes (or has a prompt to compute) and was not planned. A preemption
 * changes the running list anywhere, so the search starts again after one. */
static struct lodge_seq *next_unplanned(const struct lodge_sched *s, struct lodge_seq *after,
                                        uint64_t preemptions, bool decodes)
{
    struct lodge_seq *q = after && s->preemptions == preemptions ? after->next : s->running.first;
    while (q && (q->planned == s->plans || (left_of(q) == 1) != decodes))
        q = q->next;
    return q;
}

static void plan_decodes(struct lodge_sched *s)
{
    uint64_t preemptions = s->preemptions;
    struct lodge_seq *q = next_unplanned(s, NULL, preemptions, true);
    while (q && s->n_step_tokens < s->limits.max_step_tokens) {
        preemptions = s->preemptions;
        plan_row(s, q, 1);
        q = next_unplanned(s, q, preemptions, true);
    }
}

/* A prompt that does not end in this step leaves half of the budget to the others. Chunks end at
 * block borders where they can. */
static uint32_t chunk(const struct lodge_sched *s, const struct lodge_seq *q, uint32_t budget,
                      bool others)
{
    uint32_t left = left_of(q);
    if (left <= budget)
        return left;
    if (others && budget > 1)
        budget /= 2;
    uint32_t end = (q->n_computed + budget) / s->page_tokens * s->page_tokens;
    return end > q->n_computed ? end - q->n_computed : budget;
}

static uint32_t prompt_tokens_in_step(const struct lodge_sched *s, uint32_t tenant)
{
    const struct lodge_tenant *t = &s->fair.tenants[tenant];
    return t->planned == s->plans ? t->n_planned : 0;
}

static void count_prompt_tokens(struct lodge_sched *s, uint32_t tenant, uint32_t n)
{
    struct lodge_tenant *t = &s->fair.tenants[tenant];
    t->n_planned = prompt_tokens_in_step(s, tenant) + n;
    t->planned = s->plans;
}

/* Is the next chunk of `a` rather than of `b`? Tenants take turns in a step; the first is whoever
 * runs least for its weight. */
static bool prefills_before(const struct lodge_sched *s, const struct lodge_seq *a,
                            const struct lodge_seq *b)
{
    int64_t class_a = lodge_queue_class(s, a), class_b = lodge_queue_class(s, b);
    if (class_a != class_b || a->tenant == b->tenant)
        return class_a < class_b;
    uint32_t n_a = prompt_tokens_in_step(s, a->tenant), n_b = prompt_tokens_in_step(s, b->tenant);
    if (n_a != n_b)
        return n_a < n_b;
    const struct lodge_tenant *t_a = &s->fair.tenants[a->tenant],
                              *t_b = &s->fair.tenants[b->tenant];
    double runs_a = t_a->n_running / t_a->weight, runs_b = t_b->n_running / t_b->weight;
    return runs_a != runs_b ? runs_a < runs_b : lodge_fair_before(&s->fair, a->tenant, b->tenant);
}

/* The next prompt under `fair`: by tier, then by the tenants' turns. */
static struct lodge_seq *next_fair_prefill(const struct lodge_sched *s,
                                           const struct lodge_seq *except)
{
    struct lodge_seq *best = NULL;
    for (struct lodge_seq *q = s->running.first; q; q = q->next)
        if (q != except && q->planned != s->plans && left_of(q) > 1 &&
            (!best || prefills_before(s, q, best)))
            best = q;
    return best;
}

static struct lodge_seq *next_prefill(const struct lodge_sched *s, struct lodge_seq *after,
                                      uint64_t preemptions)
{
    return s->limits.policy == LODGE_POLICY_FAIR ? next_fair_prefill(s, after)
                                                 : next_unplanned(s, after, preemptions, false);
}

/* Tokens that the step may come to with prompts. */
static uint32_t most_with_prompts(const struct lodge_sched *s)
{
    uint32_t left = s->limits.max_step_tokens - s->n_step_tokens;
    bool bounded = s->n_rows && s->prompt_tokens && s->prompt_tokens < left;
    return s->n_step_tokens + (bounded ? s->prompt_tokens : left);
}

static void plan_prefills(struct lodge_sched *s)
{
    uint64_t preemptions = s->preemptions;
    uint32_t most = most_with_prompts(s);
    struct lodge_seq *q = next_prefill(s, NULL, preemptions);
    while (q && s->n_step_tokens < most) {
        preemptions = s->preemptions;
        bool others = next_prefill(s, q, preemptions) != NULL;
        uint32_t room = room_for(s, q), left = most - s->n_step_tokens;
        uint32_t n = s->n_step_tokens, tenant = q->tenant;
        room = room < left ? room : left;
        if (room)
            plan_row(s, q, chunk(s, q, room, others));
        else
            q->planned = s->plans;
        if (s->n_step_tokens > n)
            count_prompt_tokens(s, tenant, s->n_step_tokens - n);
        q = next_prefill(s, q, preemptions);
    }
}

/* Pages for guesses, as far as they are promised to the sequence; returns how many fit. */
static uint32_t room_for_draft(struct lodge_sched *s, struct lodge_seq *q)
{
    uint32_t most = room_for(s, q), end = q->n_tokens + (q->n_draft < most ? q->n_draft : most);
    while (q->n_blocks < lodge_sched_blocks_of(s->page_tokens, end))
        if (!lodge_sched_unclaimed(s, q) || !lodge_sched_add_block(s, q))
            break;
    uint32_t held = q->n_blocks * s->page_tokens;
    return (held < end ? held : end) - q->n_tokens;
}

static void plan_drafts(struct lodge_sched *s)
{
    for (uint32_t i = 0; i < s->n_rows; i++) {
        struct lodge_planned *row = &s->rows[i];
        if (!row->sample || !row->seq->n_draft)
            continue;
        row->n_draft = room_for_draft(s, row->seq);
        row->n_tokens += row->n_draft;
        s->n_step_tokens += row->n_draft;
        s->n_step_ranks += row->n_draft * row->seq->req->lora_width;
    }
}

/* ---- accounts ---- */

static void observe(struct lodge_mean *m, double value)
{
    if (m->mean == 0) {
        *m = (struct lodge_mean){.mean = value, .spread = value / 2};
        return;
    }
    m->spread += (fabs(value - m->mean) - m->spread) / 8;
    m->mean += (value - m->mean) / 8;
}

/* The last step took until now. */
static void account_time(struct lodge_sched *s, uint64_t now_ns)
{
    uint64_t last = s->planned_ns;
    s->planned_ns = now_ns;
    if (!last || !s->n_rows || now_ns <= last)
        return;
    observe(&s->step_ns, (double)(now_ns - last));
    for (const struct lodge_seq *q = s->running.first; q; q = q->next)
        if (q->n_adapter_pages)
            charge(s, q->tenant,
                   price_of_pages(s, q->n_adapter_pages) * (double)(now_ns - last) * 1e-9);
}

/* The planned rows are computed for certain from here on. */
static void account_rows(struct lodge_sched *s)
{
    for (uint32_t i = 0; i < s->n_rows; i++) {
        const struct lodge_seq *q = s->rows[i].seq;
        if (!s->rows[i].sample || !q->max_output)
            continue;
        charge(s, q->tenant, LODGE_COST_OUTPUT);
        if (q->n_output || q->choice)
            continue;
        double time = (double)(s->planned_ns - q->admitted_ns) + s->step_ns.mean;
        observe(&s->first_token_ns, time);
        observe(&s->fair.tenants[q->tenant].first_token_ns, time);
    }
}

void lodge_sched_plan(struct lodge_sched *s, uint64_t now_ns)
{
    assert(!s->n_copies); /* those of the last plan were submitted */
    account_time(s, now_ns);
    s->queue.now_ns = now_ns;
    s->n_rows = s->n_step_tokens = s->n_step_ranks = 0;
    s->plans++;
    admit_waiting(s);
    plan_decodes(s);
    plan_prefills(s);
    plan_drafts(s);
    account_rows(s);
}

void lodge_sched_accepted(struct lodge_sched *s, struct lodge_planned *row, uint32_t n_right)
{
    charge(s, row->seq->tenant, LODGE_COST_OUTPUT * n_right);
    row->n_tokens -= row->n_draft - n_right;
    row->n_draft = n_right;
}

static bool is_hopeless(const struct lodge_sched *s, const struct lodge_seq *q, uint64_t now_ns)
{
    uint64_t latest = q->req->arrived_ns + s->limits.slo_ttft_ns;
    /* Of one that no plan looked at yet the estimate says nothing: it may be admitted now, and if
     * all were refused by an estimate that is too long nothing would ever correct it. */
    bool passed_over = q->req->arrived_ns < s->planned_ns;
    return now_ns + (passed_over ? lodge_queue_first_token_ns(s, q->tenant) : 0) > latest;
}

struct lodge_seq *lodge_sched_hopeless(const struct lodge_sched *s, uint64_t now_ns)
{
    struct lodge_seq *q = s->limits.slo_ttft_ns ? s->queue.oldest : NULL;
    for (uint32_t looks = 0; q && looks < MOST_HOPEFUL; q = q->newer, looks++)
        if (is_hopeless(s, q, now_ns))
            return q;
    return NULL;
}
