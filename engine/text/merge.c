/* BPE merging: linked symbols and a heap of candidate pairs; stale entries are dropped when they
 * surface. n log n for any text. */
#include "engine/text/internal.h"

#include "base/utf8.h"

#include <stdlib.h>
#include <string.h>

#define NONE UINT32_MAX

struct symbol {
    uint32_t begin, n;   /* bytes of the piece; n 0: merged away */
    uint32_t prev, next; /* symbols */
    uint32_t id;         /* NONE: not in the vocabulary */
};

struct candidate {
    double order; /* smaller first: rank, or minus the score */
    uint32_t left, right;
    uint32_t n; /* bytes of the pair when it was pushed: a mismatch means stale */
    uint32_t id;
};

struct merger {
    struct symbol *symbols;
    size_t n_symbols, symbol_room;
    struct candidate *heap;
    size_t n_heap, heap_room;
};

struct merger *merger_create(void)
{
    return calloc(1, sizeof(struct merger));
}

void merger_destroy(struct merger *m)
{
    if (!m)
        return;
    free(m->symbols);
    free(m->heap);
    free(m);
}

static bool reserve(void **list, size_t *room, size_t need, size_t size)
{
    if (need <= *room)
        return true;
    size_t more = *room ? *room * 2 : 64;
    while (more < need)
        more *= 2;
    void *grown = realloc(*list, more * size);
    if (!grown)
        return false;
    *list = grown;
    *room = more;
    return true;
}

static bool before(const struct candidate *a, const struct candidate *b)
{
    return a->order != b->order ? a->order < b->order : a->left < b->left;
}

static bool push(struct merger *m, struct candidate c)
{
    void *heap = m->heap;
    if (!reserve(&heap, &m->heap_room, m->n_heap + 1, sizeof c))
        return false;
    m->heap = heap;
    size_t i = m->n_heap++;
    while (i > 0 && before(&c, &m->heap[(i - 1) / 2])) {
        m->heap[i] = m->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    m->heap[i] = c;
    return true;
}

static struct candidate pop(struct merger *m)
{
    struct candidate top = m->heap[0], last = m->heap[--m->n_heap];
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= m->n_heap)
            break;
        if (child + 1 < m->n_heap && before(&m->heap[child + 1], &m->heap[child]))
            child++;
        if (!before(&m->heap[child], &last))
            break;
        m->heap[i] = m->heap[child];
        i = child;
    }
    m->heap[i] = last;
    return top;
}

/* Offers the pair (left, its next) if it may merge. */
static bool offer(const struct lodge_tokenizer *t, struct merger *m, const char *s, uint32_t left)
{
    if (left == NONE || m->symbols[left].next == NONE)
        return true;
    const struct symbol *a = &m->symbols[left], *b = &m->symbols[a->next];
    struct candidate c = {.left = left, .right = a->next, .n = a->n + b->n};
    if (t->by_score) {
        int64_t id = span_map_get(&t->by_piece, s + a->begin, c.n);
        if (id < 0)
            return true;
        c.id = (uint32_t)id;
        c.order = -(double)t->tokens[id].score;
    } else {
        const struct pair_slot *slot =
            a->id == NONE || b->id == NONE ? NULL : pair_map_get(&t->merges, a->id, b->id);
        if (!slot)
            return true;
        c.id = slot->id;
        c.order = slot->rank;
    }
    return push(m, c);
}

static bool add_symbol(struct merger *m, uint32_t begin, uint32_t n, uint32_t id)
{
    void *symbols = m->symbols;
    if (!reserve(&symbols, &m->symbol_room, m->n_symbols + 1, sizeof *m->symbols))
        return false;
    m->symbols = symbols;
    uint32_t i = (uint32_t)m->n_symbols++;
    m->symbols[i] = (struct symbol){begin, n, i ? i - 1 : NONE, NONE, id};
    if (i)
        m->symbols[i - 1].next = i;
    return true;
}

/* First symbols: bytes, or characters. What can be no token is left out before anything merges. */
static bool start(const struct lodge_tokenizer *t, struct merger *m, const char *s, size_t n)
{
    bool drops = !t->by_score && !t->byte_fallback && t->unk < 0;
    m->n_symbols = m->n_heap = 0;
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        int len = t->byte_level ? 1 : lodge_utf8_decode((const uint8_t *)s + i, n - i, &cp);
        if (len <= 0)
            len = 1;
        int64_t id = span_map_get(&t->by_piece, s + i, (size_t)len);
        if (!(id < 0 && drops) &&
            !add_symbol(m, (uint32_t)i, (uint32_t)len, id < 0 ? NONE : (uint32_t)id))
            return false;
        i += (size_t)len;
    }
    for (uint32_t i = 0; i + 1 < m->n_symbols; i++)
        if (!offer(t, m, s, i))
            return false;
    return true;
}

static bool merge_all(const struct lodge_tokenizer *t, struct merger *m, const char *s)
{
    while (m->n_heap) {
        struct candidate c = pop(m);
        struct symbol *a = &m->symbols[c.left], *b = &m->symbols[c.right];
        if (!a->n || !b->n || a->next != c.right || a->n + b->n != c.n)
            continue;
        a->n = c.n;
        a->id = c.id;
        a->next = b->next;
        b->n = 0;
        if (a->next != NONE)
            m->symbols[a->next].prev = c.left;
        if (!offer(t, m, s, a->prev) || !offer(t, m, s, c.left))
            return false;
    }
    return true;
}

bool emit_unknown(const struct lodge_tokenizer *t, const char *s, uint32_t n, bool *was_unk,
                  struct lodge_tokens *out)
{
    bool all = t->byte_fallback;
    for (uint32_t i = 0; i < n && all; i++)
        all = t->byte_id[(uint8_t)s[i]] >= 0;
    if (all) {
        *was_unk = false;
        for (uint32_t i = 0; i < n; i++)
            if (!lodge_tokens_push(out, (uint32_t)t->byte_id[(uint8_t)s[i]]))
                return false;
        return true;
    }
    bool fused = t->fuse_unk && *was_unk;
    *was_unk = true;
    return t->unk < 0 || fused || lodge_tokens_push(out, (uint32_t)t->unk);
}

int merge_piece(const struct lodge_tokenizer *t, struct merger *m, const char *s, size_t n,
                struct lodge_tokens *out)
{
    if (!n)
        return 0;
    if (n >= NONE)
        return LODGE_ERR_LIMIT;
    if (t->ignore_merges) {
        int64_t whole = span_map_get(&t->by_piece, s, n);
        if (whole >= 0)
            return lodge_tokens_push(out, (uint32_t)whole) ? 0 : LODGE_ERR_NOMEM;
    }
    if (!start(t, m, s, n) || !merge_all(t, m, s))
        return LODGE_ERR_NOMEM;
    bool was_unk = false;
    for (uint32_t i = m->n_symbols ? 0 : NONE; i != NONE; i = m->symbols[i].next) {
        const struct symbol *y = &m->symbols[i];
        bool ok;
        if (y->id != NONE) {
            was_unk = false;
            ok = lodge_tokens_push(out, y->id);
        } else {
            ok = emit_unknown(t, s + y->begin, y->n, &was_unk, out);
        }
        if (!ok)
            return LODGE_ERR_NOMEM;
    }
    return 0;
}
