/* A trie over byte strings: nodes in breadth-first order, so that the children of a node lie side
 * by side, sorted by byte. */
#include "engine/text/internal.h"

#include <stdlib.h>
#include <string.h>

static int by_bytes(const void *a, const void *b)
{
    const struct trie_key *x = a, *y = b;
    size_t n = x->text.n < y->text.n ? x->text.n : y->text.n;
    int c = memcmp(x->text.data, y->text.data, n);
    c = c ? c : (x->text.n > y->text.n) - (x->text.n < y->text.n);
    return c ? c : (x->id > y->id) - (x->id < y->id);
}

/* What is known of a node while its children are not made yet: keys [low, high) begin with it. */
struct range {
    uint32_t low, high;
    size_t depth;
};

struct builder {
    struct trie_node *nodes;
    struct range *ranges;
    uint32_t n, room;
};

static bool add_node(struct builder *b, uint8_t byte, struct range range)
{
    if (b->n == b->room) {
        uint32_t room = b->room ? b->room * 2 : 1024;
        struct trie_node *nodes = realloc(b->nodes, room * sizeof *nodes);
        b->nodes = nodes ? nodes : b->nodes;
        struct range *ranges = realloc(b->ranges, room * sizeof *ranges);
        b->ranges = ranges ? ranges : b->ranges;
        if (!nodes || !ranges)
            return false;
        b->room = room;
    }
    b->nodes[b->n] = (struct trie_node){.id = TRIE_NONE, .byte = byte};
    b->ranges[b->n++] = range;
    return true;
}

static bool add_children(struct builder *b, uint32_t node, const struct trie_key *keys)
{
    struct range r = b->ranges[node];
    for (; r.low < r.high && keys[r.low].text.n == r.depth; r.low++)
        b->nodes[node].id = keys[r.low].id; /* of equal keys the last counts */
    b->nodes[node].child = b->n;
    while (r.low < r.high) {
        uint8_t byte = (uint8_t)keys[r.low].text.data[r.depth];
        uint32_t end = r.low + 1;
        while (end < r.high && (uint8_t)keys[end].text.data[r.depth] == byte)
            end++;
        if (!add_node(b, byte, (struct range){r.low, end, r.depth + 1}))
            return false;
        r.low = end;
    }
    b->nodes[node].n = (uint16_t)(b->n - b->nodes[node].child);
    return true;
}

bool trie_build(struct trie *t, struct lodge_arena *a, struct trie_key *keys, uint32_t n)
{
    struct builder b = {0};
    if (n)
        qsort(keys, n, sizeof *keys, by_bytes);
    bool ok = add_node(&b, 0, (struct range){0, n, 0});
    for (uint32_t i = 0; ok && i < b.n; i++)
        ok = add_children(&b, i, keys);
    t->nodes = ok ? lodge_arena_array(a, b.n, sizeof *t->nodes) : NULL;
    if (t->nodes)
        memcpy(t->nodes, b.nodes, b.n * sizeof *t->nodes);
    free(b.nodes);
    free(b.ranges);
    return t->nodes != NULL;
}

uint32_t trie_step(const struct trie *t, uint32_t node, uint8_t byte)
{
    uint32_t low = t->nodes[node].child, end = low + t->nodes[node].n, high = end;
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        if (t->nodes[mid].byte < byte)
            low = mid + 1;
        else
            high = mid;
    }
    return low < end && t->nodes[low].byte == byte ? low : 0;
}
