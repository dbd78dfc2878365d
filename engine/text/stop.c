#include "engine/text/stop.h"

#include <string.h>

struct node {
    uint32_t child, sibling; /* first child, next sibling; 0: none */
    uint32_t fail;           /* longest proper suffix that is a node */
    uint32_t depth;
    int32_t stop; /* pattern that ends here or at a suffix of here, the longest; -1 */
    uint8_t byte;
};

struct lodge_stop_matcher {
    struct node *nodes; /* 0 is the root */
    uint32_t n_nodes;
    uint32_t *length; /* of the patterns */
};

static uint32_t child_of(const struct lodge_stop_matcher *m, uint32_t node, uint8_t byte)
{
    uint32_t c = m->nodes[node].child;
    while (c && m->nodes[c].byte != byte)
        c = m->nodes[c].sibling;
    return c;
}

static void insert(struct lodge_stop_matcher *m, const struct lodge_span *s, int32_t index)
{
    uint32_t at = 0;
    for (size_t i = 0; i < s->n; i++) {
        uint32_t next = child_of(m, at, (uint8_t)s->data[i]);
        if (!next) {
            next = m->n_nodes++;
            m->nodes[next] = (struct node){.sibling = m->nodes[at].child,
                                           .depth = m->nodes[at].depth + 1,
                                           .stop = -1,
                                           .byte = (uint8_t)s->data[i]};
            m->nodes[at].child = next;
        }
        at = next;
    }
    if (at && m->nodes[at].stop < 0)
        m->nodes[at].stop = index;
}

static uint32_t step(const struct lodge_stop_matcher *m, uint32_t node, uint8_t byte)
{
    for (;;) {
        uint32_t c = child_of(m, node, byte);
        if (c || !node)
            return c;
        node = m->nodes[node].fail;
    }
}

/* Breadth first, so a node's fail link points to a finished one. */
static void link_fails(struct lodge_stop_matcher *m, uint32_t *queue)
{
    uint32_t n = 0;
    for (uint32_t c = m->nodes[0].child; c; c = m->nodes[c].sibling)
        queue[n++] = c;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t at = queue[i];
        for (uint32_t c = m->nodes[at].child; c; c = m->nodes[c].sibling) {
            m->nodes[c].fail = step(m, m->nodes[at].fail, m->nodes[c].byte);
            queue[n++] = c;
        }
        if (m->nodes[at].stop < 0)
            m->nodes[at].stop = m->nodes[m->nodes[at].fail].stop;
    }
}

struct lodge_stop_matcher *lodge_stop_create(struct lodge_arena *a, const struct lodge_span *stops,
                                             uint32_t n)
{
    size_t total = 1;
    for (uint32_t i = 0; i < n; i++)
        total += stops[i].n;
    if (!n || total > UINT32_MAX / 2)
        return NULL;
    struct lodge_stop_matcher *m = lodge_arena_alloc(a, sizeof *m);
    uint32_t *queue = lodge_arena_array(a, total, sizeof *queue);
    if (!m || !queue)
        return NULL;
    m->nodes = lodge_arena_array(a, total, sizeof *m->nodes);
    m->length = lodge_arena_array(a, n, sizeof *m->length);
    if (!m->nodes || !m->length)
        return NULL;
    m->n_nodes = 1;
    m->nodes[0].stop = -1;
    for (uint32_t i = 0; i < n; i++) {
        m->length[i] = (uint32_t)stops[i].n;
        insert(m, &stops[i], (int32_t)i);
    }
    link_fails(m, queue);
    return m;
}

void lodge_stop_state_init(struct lodge_stop_state *s)
{
    *s = (struct lodge_stop_state){0};
    lodge_buf_init(&s->held, (size_t)1 << 30);
}

void lodge_stop_state_finish(struct lodge_stop_state *s)
{
    lodge_buf_finish(&s->held);
}

/* Beginning of the character that byte `at` belongs to: text is only cut between characters. */
static size_t char_start(const char *s, size_t at)
{
    while (at > 0 && ((uint8_t)s[at] & 0xC0) == 0x80)
        at--;
    return at;
}

int lodge_stop_feed(const struct lodge_stop_matcher *m, struct lodge_stop_state *s,
                    const char *text, size_t n, bool include, struct lodge_buf *out)
{
    if (!m) {
        lodge_buf_append(out, text, n);
        return -1;
    }
    for (size_t i = 0; i < n; i++) {
        s->node = step(m, s->node, (uint8_t)text[i]);
        lodge_buf_append(&s->held, text + i, 1);
        int stop = m->nodes[s->node].stop;
        if (stop >= 0) {
            size_t keep = include ? s->held.n : s->held.n - m->length[stop];
            lodge_buf_append(out, s->held.data, keep);
            lodge_buf_clear(&s->held);
            return stop;
        }
        size_t sure = s->held.n - m->nodes[s->node].depth;
        if (sure < s->held.n)
            sure = char_start(s->held.data, sure);
        lodge_buf_append(out, s->held.data, sure);
        lodge_buf_drop(&s->held, sure);
    }
    return -1;
}

void lodge_stop_flush(struct lodge_stop_state *s, struct lodge_buf *out)
{
    lodge_buf_append(out, lodge_buf_text(&s->held), s->held.n);
    lodge_buf_clear(&s->held);
}
