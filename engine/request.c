#include "engine/request.h"

#include "base/clock.h"
#include "engine/adapters.h"

#include <stdlib.h>
#include <string.h>

void lodge_request_init(struct lodge_request *r)
{
    *r = (struct lodge_request){
        .n_choices = 1,
        .max_tokens = 16,
        .sampling = {.top_p = 1, .typical_p = 1, .repetition = 1},
    };
}

struct submit_message {
    struct lodge_record head;
    uint64_t id;
    uint32_t adapters[LODGE_MAX_REQUEST_ADAPTERS]; /* numbers of versions */
    struct lodge_request r; /* pointers mean nothing; lengths tell what follows */
};

/* ---- flattening: one walk writes or reads the variable parts in the same order ---- */

struct walk {
    char *to;         /* writing: where, or NULL to measure */
    const char *from; /* reading */
    size_t at;
};

/* A part of n bytes, 8-byte aligned. Returns where it lies when reading. */
static const void *part(struct walk *w, const void *data, size_t n)
{
    const char *read = w->from ? w->from + w->at : NULL;
    if (w->to && n)
        memcpy(w->to + w->at, data, n);
    w->at += (n + 7) / 8 * 8;
    return read;
}

#define PART(w, pointer, n)                                                                        \
    do {                                                                                           \
        const void *p_ = part((w), (pointer), (size_t)(n) * sizeof *(pointer));                    \
        if ((w)->from)                                                                             \
            (pointer) = p_;                                                                        \
    } while (0)

/* Lists of lists (bad words) travel as their lengths, then their ids. */
static void walk_bad_words(struct walk *w, struct lodge_request *r, struct lodge_id_list *lists)
{
    for (uint32_t i = 0; i < r->n_bad_words; i++) {
        uint64_t n = lists ? 0 : r->bad_words[i].n;
        const uint64_t *read = part(w, &n, sizeof n);
        if (lists)
            lists[i].n = (uint32_t)*read;
    }
    for (uint32_t i = 0; i < r->n_bad_words; i++) {
        if (lists)
            PART(w, lists[i].ids, lists[i].n);
        else
            part(w, r->bad_words[i].ids, r->bad_words[i].n * sizeof(uint32_t));
    }
    if (lists)
        r->bad_words = lists;
}

static void walk_parts(struct walk *w, struct lodge_request *r, struct lodge_id_list *lists)
{
    PART(w, r->prompt, r->n_prompt);
    PART(w, r->stop_ids.ids, r->stop_ids.n);
    PART(w, r->sampling.bias, r->sampling.n_bias);
    PART(w, r->sampling.allowed, r->sampling.n_allowed);
    PART(w, r->sampling.banned, r->sampling.n_banned);
    for (uint32_t i = 0; i < r->n_stops; i++)
        PART(w, r->stops[i].data, r->stops[i].n);
    PART(w, r->cache_salt.data, r->cache_salt.n);
    PART(w, r->prediction.ids, r->prediction.n);
    walk_bad_words(w, r, lists);
}

struct lodge_record *lodge_request_flatten(const struct lodge_request *r, uint64_t id)
{
    struct lodge_request copy = *r;
    struct walk size = {0};
    walk_parts(&size, &copy, NULL);
    size_t n = (sizeof(struct submit_message) + 7) / 8 * 8 + size.at;
    struct submit_message *m = n < UINT32_MAX ? calloc(1, n) : NULL;
    if (!m)
        return NULL;
    m->head = (struct lodge_record){.n_bytes = (uint32_t)n, .kind = LODGE_MSG_SUBMIT};
    m->id = id;
    m->r = *r;
    for (uint32_t i = 0; i < r->n_adapters; i++) {
        m->adapters[i] = r->adapters[i].version->number;
        m->r.adapters[i].version = NULL;
    }
    struct walk w = {.to = (char *)m + (sizeof *m + 7) / 8 * 8};
    walk_parts(&w, &copy, NULL);
    return &m->head;
}

const uint32_t *lodge_request_adapter_numbers(const struct lodge_record *rec)
{
    return ((const struct submit_message *)rec)->adapters;
}

uint32_t lodge_request_adapter_count(const struct lodge_record *rec)
{
    return ((const struct submit_message *)rec)->r.n_adapters;
}

/* ---- sequences ---- */

static bool wants_counts(const struct lodge_sampling *s)
{
    return s->repetition != 1 || s->presence != 0 || s->frequency != 0;
}

void lodge_counts_add(struct lodge_counts *c, uint32_t token, bool output)
{
    if (!c->list)
        return;
    uint32_t i = (token * 2654435761u) & c->mask;
    while (c->slots[i] != UINT32_MAX && c->list[c->slots[i]].token != token)
        i = (i + 1) & c->mask;
    if (c->slots[i] == UINT32_MAX) {
        c->slots[i] = c->n;
        c->list[c->n++] = (struct lodge_count){.token = token};
    }
    struct lodge_count *k = &c->list[c->slots[i]];
    if (output)
        k->n_output++;
    else
        k->n_prompt++;
}

static bool init_counts(struct lodge_arena *a, struct lodge_seq *s, uint32_t room)
{
    if (!wants_counts(&s->sampling))
        return true;
    uint32_t slots = 16;
    while (slots < room * 2)
        slots *= 2;
    s->counts.list = lodge_arena_array(a, room, sizeof *s->counts.list);
    s->counts.slots = lodge_arena_array(a, slots, sizeof *s->counts.slots);
    if (!s->counts.list || !s->counts.slots)
        return false;
    s->counts.mask = slots - 1;
    memset(s->counts.slots, 0xFF, slots * sizeof *s->counts.slots);
    for (uint32_t i = 0; i < s->n_prompt; i++)
        lodge_counts_add(&s->counts, s->tokens[i], false);
    return true;
}

struct sizes {
    const struct lodge_tokenizer *t;
    uint32_t max_model_len, page_tokens, n_groups;
};

/* Text that may begin a stop string is held: at most the longest of them and a character. */
static bool reserve_held(struct lodge_seq *s, const struct lodge_request *r)
{
    size_t longest = 0;
    for (uint32_t i = 0; i < r->n_stops; i++)
        longest = r->stops[i].n > longest ? r->stops[i].n : longest;
    bool ok = !r->n_stops || lodge_buf_extend(&s->stop.held, longest + 8);
    lodge_buf_clear(&s->stop.held);
    return ok;
}

static bool init_seq(struct lodge_inflight *q, uint32_t choice, const struct sizes *z)
{
    struct lodge_seq *s = &q->seqs[choice];
    const struct lodge_request *r = &q->r;
    uint32_t left = z->max_model_len - r->n_prompt, n_ends = 0;
    lodge_tokenizer_ends_list(z->t, &n_ends);
    *s = (struct lodge_seq){.req = q,
                            .choice = choice,
                            .state = choice ? LODGE_SEQ_PARKED : LODGE_SEQ_WAITING,
                            .n_tokens = r->n_prompt,
                            .n_prompt = r->n_prompt,
                            .max_output = r->max_tokens < left ? r->max_tokens : left,
                            .sampling = r->sampling};
    uint32_t room = r->n_prompt + s->max_output + 1;
    s->max_blocks = (room + z->page_tokens - 1) / z->page_tokens + 1;
    s->sampling.choice = choice;
    s->tokens = lodge_arena_array(&q->arena, room, sizeof *s->tokens);
    s->pages = lodge_arena_array(&q->arena, (size_t)z->n_groups * s->max_blocks, sizeof *s->pages);
    s->freed_front = lodge_arena_array(&q->arena, z->n_groups, sizeof *s->freed_front);
    s->keys = lodge_arena_array(&q->arena, s->max_blocks, sizeof *s->keys);
    s->banned = lodge_arena_array(
        &q->arena, n_ends + r->stop_ids.n + r->n_bad_words + r->sampling.n_banned + 1,
        sizeof *s->banned);
    if (!s->tokens || !s->pages || !s->freed_front || !s->keys || !s->banned)
        return false;
    memcpy(s->tokens, r->prompt, r->n_prompt * sizeof *s->tokens);
    lodge_detok_init(&s->detok, z->t, r->keep_special, false);
    lodge_stop_state_init(&s->stop);
    if (!reserve_held(s, r))
        return false;
    return init_counts(&q->arena, s, room);
}

static bool init_stops(struct lodge_inflight *q)
{
    struct lodge_span spans[LODGE_MAX_STOPS];
    for (uint32_t i = 0; i < q->r.n_stops; i++)
        spans[i] = (struct lodge_span){q->r.stops[i].data, q->r.stops[i].n};
    if (q->r.n_stops)
        q->stops = lodge_stop_create(&q->arena, spans, q->r.n_stops);
    return !q->r.n_stops || q->stops;
}

struct lodge_inflight *lodge_request_unflatten(const struct lodge_record *rec,
                                               const struct lodge_tokenizer *t,
                                               uint32_t max_model_len, uint32_t page_tokens,
                                               uint32_t n_groups)
{
    struct lodge_inflight *q = calloc(1, sizeof *q);
    if (!q)
        return NULL;
    lodge_arena_init(&q->arena, 0);
    struct submit_message *m = lodge_arena_alloc(&q->arena, rec->n_bytes);
    if (!m) {
        lodge_inflight_destroy(q);
        return NULL;
    }
    memcpy(m, rec, rec->n_bytes);
    q->id = m->id;
    q->r = m->r;
    struct lodge_id_list *lists = lodge_arena_array(&q->arena, q->r.n_bad_words + 1, sizeof *lists);
    q->seqs = lodge_arena_array(&q->arena, q->r.n_choices, sizeof *q->seqs);
    bool ok = lists && q->seqs;
    struct walk w = {.from = (const char *)m + (sizeof *m + 7) / 8 * 8};
    if (ok)
        walk_parts(&w, &q->r, lists);
    ok = ok && init_stops(q);
    const struct sizes z = {t, max_model_len, page_tokens, n_groups};
    for (uint32_t i = 0; i < q->r.n_choices && ok; i++, q->n_live++)
        ok = init_seq(q, i, &z);
    if (!ok) {
        lodge_inflight_destroy(q);
        return NULL;
    }
    q->arrived_ns = lodge_now_ns();
    q->deadline_ns = q->r.timeout_s > 0 ? q->arrived_ns + (uint64_t)(q->r.timeout_s * 1e9) : 0;
    return q;
}

void lodge_inflight_destroy(struct lodge_inflight *q)
{
    if (!q)
        return;
    for (uint32_t i = 0; i < LODGE_MAX_REQUEST_ADAPTERS; i++)
        lodge_adapter_version_unref(q->versions[i]);
    for (uint32_t i = 0; q->seqs && i < q->r.n_choices; i++)
        lodge_stop_state_finish(&q->seqs[i].stop);
    lodge_arena_finish(&q->arena);
    free(q);
}
